//! A line as it is read: a record, or a mark.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain::{Mark, Sealed};
use crate::time;

/// A record that was read. What was left out is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the members of a record, which the documents explain")]
pub struct Record {
    pub time: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gate: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub site: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub principal: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identified_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decide_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_us: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub upstream_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}

/// What a line is.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A request.
    Record(Box<Record>),
    /// Something about the log.
    Mark(Mark),
    /// Nothing that is known here: a line of a Common format, or of a newer release.
    Other,
}

impl Entry {
    /// Of a line without its end.
    pub fn of(line: &[u8]) -> Entry {
        let open = match Sealed::of(line) {
            Some(sealed) => Some(sealed.open),
            None => line.strip_suffix(b"}"),
        };
        if let Some(mark) = open.and_then(Mark::of) {
            return Entry::Mark(mark);
        }
        match serde_json::from_slice::<Record>(line) {
            Ok(record) if !record.time.is_empty() => Entry::Record(Box::new(record)),
            _ => Entry::Other,
        }
    }
}

/// Which records are meant. What is not said does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In Cedar syntax, or the id alone.
    pub principal: Option<String>,
    /// The route's template.
    pub route: Option<String>,
    /// Its name.
    pub outcome: Option<String>,
    /// Of the request.
    pub request_id: Option<String>,
    /// Milliseconds since the Unix epoch, and later.
    pub since_ms: Option<u64>,
    /// Milliseconds since the Unix epoch, and before.
    pub until_ms: Option<u64>,
}

impl Filter {
    /// Whether all records are meant.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether this one is.
    pub fn takes(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        let principal = self.principal.as_deref().is_none_or(|wanted| {
            record.principal == wanted || id_of(&record.principal) == Some(wanted)
        });
        let at = || time::read(&record.time);
        principal
            && is(&self.route, &record.route)
            && is(&self.outcome, &record.outcome)
            && is(&self.request_id, &record.request_id)
            && self.since_ms.is_none_or(|since| at().is_some_and(|at| at >= since))
            && self.until_ms.is_none_or(|until| at().is_some_and(|at| at < until))
    }
}

/// The id in `type::"id"`.
fn id_of(uid: &str) -> Option<&str> {
    uid.split_once("::\"")?.1.strip_suffix('"')
}
