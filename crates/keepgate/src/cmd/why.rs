//! `keepgate why`: why a recorded request was decided as it was, by deciding it again in the state of
//! that time.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use keepgate_api::{Answer, AsOf, Question, UidInput};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{check, log};
use crate::admin::CenterArgs;
use crate::exit::{Exit, usage};
use crate::style::{self, Paint};

/// Explain the decision on a recorded request
///
/// The request is decided again in the state of its revision, with the inputs that were recorded. Ends
/// with 0 if the outcome is the same, 1 if it is another, 2 if it cannot be decided again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate why 9f86d081 --access-log /var/log/keepgate/access.log
  keepgate why --record request.json
  grep 9f86d081 access.log | keepgate why --record -")]
pub(crate) struct Args {
    /// The request's id: its answer has it as `x-request-id`
    #[arg(value_name = "REQUEST-ID", required_unless_present = "record")]
    request_id: Option<String>,
    /// The file that the gate writes its access log to; the files before it are found beside it
    #[arg(long, env = "KEEPGATE_ACCESS_LOG", value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// A file with one record of the access log, a line of JSON, in place of an id; `-` for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "request_id")]
    record: Option<PathBuf>,
    /// Print JSON: the record's outcome, and the decision with its reasons
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

/// Largest record, in bytes: a line of the log has at most a few KiB.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// What is read of a record; what else it has is of no use here.
#[derive(Debug, Deserialize)]
struct Record {
    #[serde(default)]
    request_id: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    service: String,
    #[serde(default)]
    principal: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    outcome: String,
    #[serde(default)]
    policies: Vec<String>,
    revision: Option<u64>,
    #[serde(default)]
    inputs: Option<Map<String, Value>>,
}

/// A record that cannot be decided again.
#[derive(Debug)]
struct NotReplayable(String);

impl Record {
    /// The question that it records.
    fn question(&self) -> Result<Question, NotReplayable> {
        let not = |why: &str| Err(NotReplayable(why.to_owned()));
        if !matches!(self.outcome.as_str(), "allowed" | "denied" | "upstream_failed") {
            return Err(NotReplayable(format!(
                "the outcome is `{}`: no policy decided it",
                self.outcome
            )));
        }
        let Some(revision) = self.revision else {
            return not("it has no `revision`");
        };
        for (name, text) in
            [("principal", &self.principal), ("action", &self.action), ("resource", &self.resource)]
        {
            if text.is_empty() {
                return Err(NotReplayable(format!("`{name}` was left out of the record")));
            }
            if text.starts_with("hmac:") {
                return Err(NotReplayable(format!("`{name}` is hashed in the record")));
            }
        }
        let Some(inputs) = &self.inputs else {
            return not("`inputs` was left out of the record");
        };
        if let Some(why) = inputs.get("not_replayable") {
            let why = why.as_str().unwrap_or("redacted");
            return Err(NotReplayable(format!("its inputs were not recorded: {why}")));
        }
        let text = |text: &String| UidInput::Text(text.clone());
        let mut question = Question::new(
            text(&self.principal),
            UidInput::Text(check::action(&self.action)),
            text(&self.resource),
        );
        question.service = (!self.service.is_empty()).then(|| self.service.clone());
        question.as_of = Some(AsOf::Revision(revision));
        question.at_unix_s = Some(self.at()?);
        for (name, value) in inputs {
            read_input(&mut question, name, value)
                .map_err(|why| NotReplayable(format!("`inputs.{name}`: {why}")))?;
        }
        Ok(question)
    }

    /// When it was decided, in Unix seconds: a record's time has milliseconds.
    fn at(&self) -> Result<u64, NotReplayable> {
        let whole = match self.time.split_once('.') {
            Some((whole, rest)) => {
                format!("{whole}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None => self.time.clone(),
        };
        keepgate_policy::instant::parse(&whole).map_err(|e| NotReplayable(format!("`time`: {e}")))
    }
}

/// Takes over one member of `inputs`.
fn read_input(question: &mut Question, name: &str, value: &Value) -> Result<(), String> {
    let object = |value: &Value| match value {
        Value::Object(members) => Ok(members.clone().into_iter().collect()),
        _ => Err("expected a JSON object".to_owned()),
    };
    match name {
        "context" => {
            let more: Vec<(String, Value)> = object(value)?;
            question.context.extend(more);
        }
        // As policies see them.
        "claims" => drop(question.context.insert("claims".to_owned(), value.clone())),
        "parents" => {
            let Value::Array(parents) = value else {
                return Err("expected a list of entities".to_owned());
            };
            for parent in parents {
                let parent = serde_json::from_value(parent.clone()).map_err(|e| e.to_string())?;
                question.principal_parents.push(parent);
            }
        }
        "properties" => {
            let of: Vec<(String, Value)> = object(value)?;
            for (side, properties) in of {
                let properties: Vec<(String, Value)> = object(&properties)?;
                match side.as_str() {
                    "principal" => question.principal_properties.extend(properties),
                    "action" => question.action_properties.extend(properties),
                    "resource" => question.resource_properties.extend(properties),
                    _ => {
                        return Err(format!(
                            "expected principal, action or resource, got `{side}`"
                        ));
                    }
                }
            }
        }
        _ => return Err("expected context, claims, parents or properties".to_owned()),
    }
    Ok(())
}

/// The record that is meant.
fn meant(args: &Args) -> anyhow::Result<Record> {
    match (&args.request_id, &args.record) {
        (Some(id), _) => {
            let line = log::of_request(args.access_log.as_deref(), id)?;
            serde_json::from_str(&line).context("reading the record of the access log")
        }
        (None, Some(path)) => read(path),
        (None, None) => Err(usage("which request? Pass its id, or its record with --record")),
    }
}

fn read(path: &PathBuf) -> anyhow::Result<Record> {
    let name = path.display();
    let reading = || format!("reading `{name}`");
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_RECORD_BYTES + 1).read_to_string(&mut text)?;
    } else {
        let file = std::fs::File::open(path).with_context(reading)?;
        file.take(MAX_RECORD_BYTES + 1).read_to_string(&mut text).with_context(reading)?;
    }
    if text.len() as u64 > MAX_RECORD_BYTES {
        return Err(usage(format!("`{name}`: a record has at most {MAX_RECORD_BYTES} bytes")));
    }
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(usage(format!("`{name}`: expected one record, a line of JSON")));
    };
    serde_json::from_str(line)
        .map_err(|e| usage(format!("`{name}`: expected a record of the access log: {e}")))
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let record = meant(&args)?;
    let question = match record.question() {
        Ok(question) => question,
        Err(NotReplayable(why)) => {
            if args.json {
                let said = json!({ "replayable": false, "why": why, "recorded": record.outcome });
                style::print_json(&said)?;
            } else {
                style::print(&format!("the record is not replayable: {why}\n"))?;
            }
            return Ok(Exit::Denied);
        }
    };
    let mut admin = args.center.connect()?;
    let answer: Answer = super::runtime()?.block_on(admin.post("/v1/check", &question))?;
    let was_allowed = record.outcome != "denied";
    let mut now: Vec<&str> = answer.determining.iter().map(|policy| policy.id.as_str()).collect();
    let mut then: Vec<&str> = record.policies.iter().map(String::as_str).collect();
    now.sort_unstable();
    then.sort_unstable();
    // A record may leave its policies out.
    let same = was_allowed == answer.decision && (then.is_empty() || then == now);
    if args.json {
        style::print_json(&json!({
            "replayable": true,
            "request_id": record.request_id,
            "recorded": record.outcome,
            "recorded_policies": record.policies,
            "same": same,
            "answer": answer,
        }))?;
    } else {
        let paint = Paint::stdout();
        let verdict = match same {
            true => "decided again with the same outcome:".to_owned(),
            false => paint.warn("decided again with ANOTHER outcome than recorded:"),
        };
        let id = if record.request_id.is_empty() { "the request" } else { &record.request_id };
        let by = if then.is_empty() { String::new() } else { format!(" by {}", then.join(", ")) };
        style::print(&format!(
            "{id}: {}{by} at {}; {verdict}\n\n{}",
            record.outcome,
            record.time,
            check::shown(&answer, true, paint)
        ))?;
    }
    Ok(if same { Exit::Ok } else { Exit::Failure })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(change: &[(&str, Value)]) -> Record {
        let mut record = json!({
            "time": "2026-07-25T09:30:00.123Z", "request_id": "r1", "service": "orders",
            "principal": "user::\"alice\"", "action": "GET", "resource": "route::\"/orders\"",
            "outcome": "denied", "policies": [], "revision": 7, "status": 403,
            "inputs": {"context": {"hour": 9}, "claims": {"sub": "a"}, "parents": ["role::\"x\""],
                       "properties": {"principal": {"dept": "sales"}}},
        });
        for (name, value) in change {
            record[*name] = value.clone();
        }
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn a_record_is_a_question_of_its_time() {
        let question = record(&[]).question().unwrap();
        assert_eq!(question.as_of, Some(AsOf::Revision(7)));
        assert_eq!(question.at_unix_s, Some(1_784_971_800));
        assert_eq!(question.context["claims"], json!({"sub": "a"}));
        assert_eq!(question.context["hour"], json!(9));
        assert_eq!(question.principal_parents.len(), 1);
        assert_eq!(question.principal_properties["dept"], json!("sales"));
    }

    #[test]
    fn what_was_redacted_cannot_be_decided_again() {
        for (name, value, why) in [
            ("inputs", json!({"not_replayable": "redacted"}), "its inputs were not recorded"),
            ("inputs", json!(null), "`inputs` was left out"),
            ("inputs", json!({"other": 1}), "`inputs.other`"),
            ("principal", json!("hmac:0123"), "`principal` is hashed"),
            ("principal", json!(""), "`principal` was left out"),
            ("outcome", json!("limited"), "the outcome is `limited`"),
            ("revision", json!(null), "it has no `revision`"),
            ("time", json!("yesterday"), "`time`"),
        ] {
            let NotReplayable(said) = record(&[(name, value)]).question().unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
