//! `keepgate check`: one decision, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepgate_api::{
    Answer, AsOf, Determining, Miss, PathStep, PolicyFailure, Question, Reason, UidInput,
};
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
  keepgate check --request ALLOW/alice_view.json --service photos --explain
  keepgate check --principal user::alice --action read --resource record::r1 \\
      --as-of 2026-07-25T09:30:00Z --explain      why it was so then")]
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
    /// Decide in a past state: that of a revision, or the one in force at a time
    #[arg(long, value_name = "REV|TIME", value_parser = as_of)]
    as_of: Option<AsOf>,
    /// Say which policies decided and how they came to apply, what their conditions saw, and which
    /// others came near
    #[arg(long)]
    explain: bool,
    /// Print the decision as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

/// A revision, or a time.
pub(super) fn as_of(text: &str) -> Result<AsOf, String> {
    if let Ok(revision) = text.parse() {
        return Ok(AsOf::Revision(revision));
    }
    match keepgate_policy::instant::parse(text) {
        Ok(_) => Ok(AsOf::Time(text.to_owned())),
        Err(e) => Err(format!("expected a revision or a time: {e}")),
    }
}

/// A name as it is; an entity in either form as Cedar text.
pub(super) fn action(text: &str) -> String {
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
    let text = |uid: &Uid| UidInput::Text(uid.to_string());
    let asked = Question::new(text(principal), UidInput::Text(action(name)), text(resource));
    Ok(Question { service: args.service.clone(), context, ..asked })
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let question = match &args.request {
        Some(path) => from_file(path, args.service.clone())?,
        None => from_args(&args)?,
    };
    let question = Question { as_of: args.as_of.clone().or(question.as_of.clone()), ..question };
    let mut admin = args.center.connect()?;
    let answer: Answer = super::runtime()?.block_on(admin.post("/v1/check", &question))?;
    if args.json {
        style::print_json(&answer)?;
    } else {
        style::print(&shown(&answer, args.explain, Paint::stdout()))?;
    }
    Ok(if answer.decision { Exit::Ok } else { Exit::Denied })
}

pub(super) fn shown(answer: &Answer, explain: bool, paint: Paint) -> String {
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
    let when = match answer.landed_unix_ms {
        None => String::new(),
        Some(landed) => format!(
            ", in force since {}, decided for {}",
            style::date(landed / 1_000),
            style::date(answer.at_unix_s)
        ),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{why} (revision {}{when})", answer.revision);
    for note in &answer.notes {
        let _ = writeln!(out, "  {} {note}", paint.warn("note:"));
    }
    for policy in &answer.determining {
        policy_shown(&mut out, policy, paint);
    }
    for PolicyFailure { policy, message, .. } in &answer.errors {
        let _ = writeln!(out, "\n  {} {policy}: {message}", paint.warn("error in"));
    }
    for (heading, list) in
        [("came near:", &answer.near), ("others that do not apply:", &answer.others)]
    {
        if list.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{}", paint.faint(heading));
        for Miss { policy, why, forbids } in list {
            let effect = if *forbids { "forbid" } else { "permit" };
            let _ = writeln!(out, "  {} ({effect}): {why}", paint.strong(&name(policy)));
            saw(&mut out, policy);
        }
    }
    out
}

fn name(policy: &Determining) -> String {
    match policy.service.as_str() {
        "" => policy.id.clone(),
        service => format!("{service}: {}", policy.id),
    }
}

fn policy_shown(out: &mut String, policy: &Determining, paint: Paint) {
    let _ = writeln!(out, "\n  {}", paint.strong(&name(policy)));
    for line in policy.text.trim().lines() {
        let _ = writeln!(out, "    {line}");
    }
    for (what, path) in [("principal", &policy.principal_path), ("resource", &policy.resource_path)]
    {
        if !path.is_empty() {
            let _ = writeln!(out, "    {what} {}", way(path));
        }
    }
    saw(out, policy);
}

fn saw(out: &mut String, policy: &Determining) {
    for saw in &policy.saw {
        let _ = writeln!(out, "    {} = {}", saw.part, saw.value);
    }
}

/// How somebody is in something, in one line.
pub(super) fn way(path: &[PathStep]) -> String {
    let mut text = String::new();
    for step in path {
        let _ = write!(text, "-> {}", step.to);
        match (&step.by, step.until_unix_s) {
            (Some(by), Some(until)) => {
                let _ = write!(text, " ({}, until {})", by.kind, style::date(until));
            }
            (Some(by), None) => {
                let _ = write!(text, " ({})", by.kind);
            }
            (None, _) => {}
        }
        text.push(' ');
    }
    text.truncate(text.trim_end().len());
    text
}
