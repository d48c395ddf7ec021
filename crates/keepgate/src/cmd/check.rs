//! `keepgate check`: one decision, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use keepgate_api::{Answer, PolicyFailure, Question, Reason, UidInput};
use keepgate_policy::Uid;
use serde_json::Value;

use crate::admin::CenterArgs;
use crate::exit::{Exit, usage};
use crate::style::{self, Paint};
use crate::uid;

/// Ask a center whether a principal may do an action on a resource
///
/// Ends with 0 if it is allowed, 2 if it is denied, 1 if it could not be asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate check --principal user::alice --action read --resource record::r1
  keepgate check --principal 'user::\"bob\"' --action DELETE --resource 'route::\"/orders/{id}\"' \\
      --service orders --explain
  keepgate check --principal 'user::\"bob\"' --action read --resource 'record::\"r1\"' \\
      --context '{\"ip\":\"10.0.0.1\"}' --json")]
pub(crate) struct Args {
    /// Who: a Cedar uid such as user::"alice", or user::alice
    #[arg(long, value_name = "UID", value_parser = uid::parse)]
    principal: Uid,
    /// What: a name such as read, or a Cedar uid
    #[arg(long)]
    action: String,
    /// On what: a Cedar uid such as record::"r1", or record::r1
    #[arg(long, value_name = "UID", value_parser = uid::parse)]
    resource: Uid,
    /// The context, a JSON object
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
    /// The service that decides; without it, all that answer AuthZEN
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
    service: Option<String>,
    /// Say which policies decided
    #[arg(long)]
    explain: bool,
    /// Print the decision as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

/// A name as it is; an entity in either form as Cedar text.
fn action(text: &str) -> String {
    let entity = text.contains("::").then(|| uid::parse(text).ok()).flatten();
    entity.map_or_else(|| text.to_owned(), |uid| uid.to_string())
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let context = match &args.context {
        None => BTreeMap::new(),
        Some(context) => {
            let context: Value = serde_json::from_str(context)
                .map_err(|e| usage(format!("--context: expected JSON, got `{context}`: {e}")))?;
            serde_json::from_value(context)
                .map_err(|_| usage("--context: expected a JSON object, got another JSON value"))?
        }
    };
    let question = Question {
        service: args.service,
        principal: UidInput::Text(args.principal.to_string()),
        action: UidInput::Text(action(&args.action)),
        resource: UidInput::Text(args.resource.to_string()),
        context,
    };
    let mut admin = args.center.connect()?;
    let answer: Answer = super::runtime()?.block_on(admin.post("/v1/check", &question))?;
    if args.json {
        style::print_json(&answer)?;
    } else {
        style::print(&shown(&answer, args.explain, Paint::stdout()))?;
    }
    Ok(if answer.decision { Exit::Ok } else { Exit::Denied })
}

fn shown(answer: &Answer, explain: bool, paint: Paint) -> String {
    let mut out = if answer.decision { paint.good("allow") } else { paint.bad("deny") };
    out.push('\n');
    if !explain {
        return out;
    }
    let why = match answer.reason {
        Reason::Permit => "these policies permit it and none forbids it",
        Reason::Forbid => "these policies forbid it",
        Reason::NoPermit => "no policy permits it",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{why} (revision {})", answer.revision);
    for policy in &answer.determining {
        let name = match policy.service.as_str() {
            "" => policy.id.clone(),
            service => format!("{service}: {}", policy.id),
        };
        let _ = writeln!(out, "\n  {}", paint.strong(&name));
        for line in policy.text.trim().lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
    for PolicyFailure { policy, message, .. } in &answer.errors {
        let _ = writeln!(out, "\n  {} {policy}: {message}", paint.warn("error in"));
    }
    out
}
