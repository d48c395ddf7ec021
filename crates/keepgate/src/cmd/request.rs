//! `keepgate request`: requests for access, which callers make on a gate's page.

use clap::{Subcommand, ValueEnum};
use keepgate_api::{AccessRequest, AccessRequests, ApproveRequest, RequestState, UidInput};
use keepgate_policy::{Uid, duration};
use serde_json::json;

use crate::admin::{ServiceArgs, segment};
use crate::cmd::ends_in;
use crate::exit::Exit;
use crate::style::{self, Paint, Table};
use crate::uid;

/// List, approve and decline requests for access
///
/// Callers ask on a gate's page, /.keepgate/api. Each gets a code. Once you approve, it fetches its key with
/// that code, once; the key is made at that moment.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate request list
  keepgate request approve 006a2b3c4d5e6f70 --principal client::import --plan bulk
  keepgate request decline 006a2b3c4d5e6f70")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Pending,
    Approved,
    Declined,
    Fetched,
    All,
}

impl State {
    fn query(self) -> String {
        let state = match self {
            State::Pending => RequestState::Pending,
            State::Approved => RequestState::Approved,
            State::Declined => RequestState::Declined,
            State::Fetched => RequestState::Fetched,
            State::All => return String::new(),
        };
        format!("&state={}", state.name())
    }
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List requests, those that wait unless you ask for others
    List {
        /// Those of which this became
        #[arg(long, value_enum, default_value = "pending")]
        state: State,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Let the asker fetch a key
    Approve {
        /// The request's id
        id: String,
        /// Who the caller is when it shows the key: a Cedar uid such as client::"import", or client::import
        #[arg(long, value_name = "UID", value_parser = uid::parse)]
        principal: Uid,
        /// The plan whose limits apply; `keepgate plan list` lists them
        #[arg(long, value_name = "NAME", default_value = "")]
        plan: String,
        /// How long the key is valid from now on, such as 90d; default: until it is revoked
        #[arg(long, value_name = "DURATION", value_parser = duration::parse_ms)]
        expires: Option<u64>,
        /// Print the request as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Tell the asker that it gets no key
    Decline {
        /// The request's id
        id: String,
        /// Print the request as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    super::runtime()?.block_on(act(args.action))?;
    Ok(Exit::Ok)
}

async fn act(action: Action) -> anyhow::Result<()> {
    match action {
        Action::List { state, json, service } => {
            let (mut admin, service) = service.connect().await?;
            let path = format!("/v1/services/{}/requests", segment(&service));
            let mut found = Vec::new();
            let mut after = String::new();
            loop {
                let page = format!("{path}?limit=500&after={after}{}", state.query());
                let page: AccessRequests = admin.load(&page).await?;
                found.extend(page.requests);
                match page.next {
                    // Each page goes on; a store has few thousand.
                    Some(next) if next > after => after = next,
                    _ => break,
                }
            }
            if json {
                return style::print_json(&json!({ "requests": found }));
            }
            style::print(&table(&found).render(Paint::stdout()))
        }
        Action::Approve { id, principal, plan, expires, json, service } => {
            let (mut admin, service) = service.connect().await?;
            let path = decided(&service, &id, "approve");
            let Uid { kind, id: name } = principal;
            let body = ApproveRequest {
                principal: UidInput::Parts(keepgate_api::Uid { kind, id: name }),
                plan,
                expires_unix_s: expires.map(ends_in).transpose()?,
            };
            let request: AccessRequest = admin.post(&path, &body).await?;
            told(&request, json, "approved")
        }
        Action::Decline { id, json, service } => {
            let (mut admin, service) = service.connect().await?;
            let request: AccessRequest =
                admin.post(&decided(&service, &id, "decline"), &json!({})).await?;
            told(&request, json, "declined")
        }
    }
}

fn decided(service: &str, id: &str, what: &str) -> String {
    format!("/v1/services/{}/requests/{}/{what}", segment(service), segment(id))
}

fn told(request: &AccessRequest, json: bool, what: &str) -> anyhow::Result<()> {
    if json {
        return style::print_json(request);
    }
    style::print(&format!("{what} {}: {}\n", request.id, shown(&request.who)))
}

fn table(requests: &[AccessRequest]) -> Table {
    let mut table =
        Table::new(&["id", "asked", "state", "who", "what for", "a day", "address", "key"]);
    for request in requests {
        table.row([
            request.id.clone(),
            keepgate_observe::date(request.asked_unix_s),
            request.state.name().to_owned(),
            shown(&request.who),
            shown(&request.what_for),
            style::count(request.per_day),
            request.address.clone(),
            request.key.clone(),
        ]);
    }
    table
}

/// In one line: what a caller wrote may have several.
fn shown(text: &str) -> String {
    text.replace('\n', " ")
}
