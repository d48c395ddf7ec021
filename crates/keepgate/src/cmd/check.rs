//! `keepgate check`: one decision, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepgate_api::{Answer, PolicyFailure, Question, Reason, UidInput};
use keepgate_policy::Uid;
use serde_json::Value;

use super::directory;
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
      --context '{\"ip\":\"10.0.0.1\"}' --json
  keepgate check --request ALLOW/alice_view.json --service photos --explain")]
pub(crate) struct Args {
    /// Who: a Cedar uid such as user::"alice", or user::alice
    #[arg(long, value_name = "UID", value_parser = uid::parse, required_unless_present = "request")]
    principal: Option<Uid>,
    /// What: a name such as read, or a Cedar uid
    #[arg(long, required_unless_present = "request")]
    action: Option<String>,
    /// On what: a Cedar uid such as record::"r1", or record::r1
    #[arg(long, value_name = "UID", value_parser = uid::parse, required_unless_present = "request")]
    resource: Option<Uid>,
    /// The context, a JSON object; `__entity` and `__extn` as in Cedar's request files
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
    /// All of it from a file, as Cedar's command line reads it: a JSON object with principal, action,
    /// resource and context
    #[arg(long, value_name = "FILE", conflicts_with_all = ["principal", "action", "resource", "context"])]
    request: Option<PathBuf>,
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

/// Largest request file, in bytes: what a center takes.
const MAX_REQUEST_BYTES: u64 = 1 << 20;

/// The question in a file.
fn from_file(path: &Path, service: Option<String>) -> anyhow::Result<Question> {
    let reading = || format!("reading `{}`", path.display());
    let length = std::fs::metadata(path).with_context(reading)?.len();
    if length > MAX_REQUEST_BYTES {
        let path = path.display();
        return Err(usage(format!(
            "`{path}` has {length} bytes; a request has at most {MAX_REQUEST_BYTES}"
        )));
    }
    let text = directory::text(path)?;
    let wrong = |error: &dyn std::fmt::Display| {
        usage(format!(
            "{}: expected a request, {{\"principal\": .., \"action\": .., \"resource\": .., \
             \"context\": {{..}}}}: {error}",
            path.display()
        ))
    };
    let bytes = text.strip_prefix('\u{feff}').unwrap_or(&text).as_bytes();
    let value = keepgate_policy::json::parse(bytes).map_err(|e| wrong(&e))?;
    let mut question: Question = serde_json::from_value(value).map_err(|e| wrong(&e))?;
    question.service = service.or(question.service);
    Ok(question)
}

/// The question on the command line.
fn from_args(args: &Args) -> anyhow::Result<Question> {
    let context = match &args.context {
        None => BTreeMap::new(),
        Some(context) => {
            let context: Value = serde_json::from_str(context)
                .map_err(|e| usage(format!("--context: expected JSON, got `{context}`: {e}")))?;
            serde_json::from_value(context)
                .map_err(|_| usage("--context: expected a JSON object, got another JSON value"))?
        }
    };
    let (Some(principal), Some(name), Some(resource)) =
        (&args.principal, &args.action, &args.resource)
    else {
        return Err(usage("pass --principal, --action and --resource, or --request FILE"));
    };
    Ok(Question {
        service: args.service.clone(),
        principal: UidInput::Text(principal.to_string()),
        action: UidInput::Text(action(name)),
        resource: UidInput::Text(resource.to_string()),
        context,
    })
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let question = match &args.request {
        Some(path) => from_file(path, args.service.clone())?,
        None => from_args(&args)?,
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
