//! `keepgate role`: roles of the directory and who is in them.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::Subcommand;
use keepgate_policy::Uid;
use serde_json::{Value, json};

use crate::admin::{Admin, CenterArgs, shown, text};
use crate::exit::Exit;
use crate::style::{self, Paint, Table};

/// List roles, and put principals into them or take them out
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate role list
  keepgate role assign 'user::\"bob\"' orders-reader
  keepgate role revoke 'user::\"bob\"' 'role::\"orders-reader\"'

A gate enforces a change as soon as it has followed the center's revision, by habit within
milliseconds.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List roles and their members
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// Put a principal, or a role, into a role
    Assign {
        #[command(flatten)]
        edge: Edge,
    },
    /// Take a principal, or a role, out of a role
    Revoke {
        #[command(flatten)]
        edge: Edge,
    },
}

#[derive(Debug, clap::Args)]
struct Edge {
    /// Who: a Cedar uid such as user::"bob"
    member: Uid,
    /// The role: its name, or a Cedar uid
    role: Role,
    /// Print the center's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

/// A role by name (`orders-reader`) or by uid.
#[derive(Clone, Debug)]
struct Role(Uid);

impl FromStr for Role {
    type Err = <Uid as FromStr>::Err;

    fn from_str(text: &str) -> Result<Role, Self::Err> {
        if text.contains("::") || text.is_empty() {
            text.parse().map(Role)
        } else {
            Ok(Role(Uid::new("role", text)))
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    match args.action {
        Action::List { json, center } => {
            let mut admin = center.connect()?;
            let roles = runtime.block_on(roles(&mut admin))?;
            if json {
                let roles: Vec<Value> = roles.into_values().collect();
                style::print_json(&json!({ "roles": roles }))?;
            } else {
                let mut table = Table::new(&["role", "members", "description"]);
                for role in roles.values() {
                    table.row(["uid", "members", "description"].map(|m| shown(role.get(m))));
                }
                style::print(&table.render(Paint::stdout()))?;
            }
        }
        Action::Assign { edge } => {
            let mut admin = edge.center.connect()?;
            let answer = runtime.block_on(change(&mut admin, "assign", &edge))?;
            done(&edge, "is in", &answer)?;
        }
        Action::Revoke { edge } => {
            let mut admin = edge.center.connect()?;
            let answer = runtime.block_on(change(&mut admin, "revoke", &edge))?;
            done(&edge, "is no longer in", &answer)?;
        }
    }
    Ok(Exit::Ok)
}

/// Roles that were described or that have a member, by their uid in Cedar syntax.
async fn roles(admin: &mut Admin) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut roles = BTreeMap::new();
    let mut entry = |role: Value, member: Option<Value>, description: &str| {
        let entry: &mut Value = roles
            .entry(shown(Some(&role)))
            .or_insert_with(|| json!({ "uid": role, "members": [], "description": "" }));
        if let Some(members) = entry.get_mut("members").and_then(Value::as_array_mut) {
            members.extend(member);
        }
        if let (false, Some(text)) = (description.is_empty(), entry.get_mut("description")) {
            *text = json!(description);
        }
    };
    for role in admin.load_all("/v1/roles", "items").await? {
        let body = role.get("body").unwrap_or(&role);
        let uid = body.get("uid").cloned().unwrap_or_default();
        entry(uid, None, text(body, "description"));
    }
    for edge in admin.load_all("/v1/members", "members").await? {
        let end = |name: &str| edge.get(name).cloned().unwrap_or_default();
        entry(end("role"), Some(end("member")), "");
    }
    Ok(roles)
}

async fn change(admin: &mut Admin, verb: &str, edge: &Edge) -> anyhow::Result<Value> {
    let body = json!({ "member": edge.member, "role": edge.role.0 });
    admin.post(&format!("/v1/roles/{verb}"), &body).await
}

fn done(edge: &Edge, words: &str, answer: &Value) -> anyhow::Result<()> {
    if edge.json {
        return style::print_json(answer);
    }
    let revision = answer.get("revision").and_then(Value::as_u64).unwrap_or(0);
    style::print(&format!("{} {words} {}, revision {revision}\n", edge.member, edge.role.0))
}
