//! `keepgate user`: users of the directory.

use clap::Subcommand;
use keepgate_policy::Uid;

use crate::admin::{CenterArgs, segment};
use crate::cmd::entity::Removal;
use crate::exit::Exit;
use crate::uid;

/// Delete users
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate user delete eve                      what hangs on it: memberships, grants, keys
  keepgate user delete eve --cascade
  keepgate user delete client::\"crawler\" --cascade")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Delete a user: refused, and what hangs on it is listed, unless --cascade takes that away, too
    ///
    /// A token that an identity provider issued for the user is still good: it names somebody who is
    /// in no role and has no grant.
    Delete {
        /// The user: its name, or a Cedar uid
        user: String,
        #[command(flatten)]
        removal: Removal,
        #[command(flatten)]
        center: CenterArgs,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let Action::Delete { user, removal, center } = args.action;
    let user = match user.contains("::") {
        true => uid::parse(&user).map_err(crate::exit::usage)?,
        false => Uid::new("user", user),
    };
    let path = format!("/v1/entities/{}", segment(&user.to_string()));
    removal.run(center.connect()?, &path, &user.to_string())
}
