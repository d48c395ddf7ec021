//! `keepgate check`: one decision, and why.

use std::fmt::Write as _;

use keepgate_policy::Uid;
use serde_json::{Value, json};

use crate::admin::{CenterArgs, list, text};
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
    let mut body = json!({
        "principal": args.principal.to_string(),
        "action": action(&args.action),
        "resource": args.resource.to_string(),
    });
    if let Some(object) = body.as_object_mut() {
        if let Some(service) = &args.service {
            object.insert("service".into(), json!(service));
        }
        if let Some(context) = &args.context {
            let context: Value = serde_json::from_str(context)
                .map_err(|e| usage(format!("--context: `{context}` is no JSON: {e}")))?;
            if !context.is_object() {
                return Err(usage("--context: a JSON object is wanted"));
            }
            object.insert("context".into(), context);
        }
    }
    let mut admin = args.center.connect()?;
    let answer = super::runtime()?.block_on(admin.post("/v1/check", &body))?;
    let allowed = answer
        .get("decision")
        .and_then(Value::as_bool)
        .ok_or_else(|| anyhow::anyhow!("the center's answer has no decision"))?;
    if args.json {
        style::print_json(&answer)?;
    } else {
        style::print(&shown(&answer, allowed, args.explain, Paint::stdout()))?;
    }
    Ok(if allowed { Exit::Ok } else { Exit::Denied })
}

fn shown(answer: &Value, allowed: bool, explain: bool, paint: Paint) -> String {
    let mut out = if allowed { paint.good("allow") } else { paint.bad("deny") };
    out.push('\n');
    if !explain {
        return out;
    }
    let why = match text(answer, "reason") {
        "permit" => "these policies permit it and none forbids it",
        "forbid" => "these policies forbid it",
        "no_permit" => "no policy permits it",
        other => other,
    };
    let revision = answer.get("revision").and_then(Value::as_u64).unwrap_or(0);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{why} (revision {revision})");
    for policy in list(answer, "determining").iter().filter(|policy| policy.is_object()) {
        let name = match text(policy, "service") {
            "" => text(policy, "id").to_owned(),
            service => format!("{service}: {}", text(policy, "id")),
        };
        let _ = writeln!(out, "\n  {}", paint.strong(&name));
        for line in text(policy, "text").trim().lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
    for error in list(answer, "errors") {
        let policy = text(error, "policy");
        let _ =
            writeln!(out, "\n  {} {policy}: {}", paint.warn("error in"), text(error, "message"));
    }
    out
}
