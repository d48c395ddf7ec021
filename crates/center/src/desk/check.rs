//! What must hold before a revision lands.
//!
//! Only what the change can have broken is looked at: the changed items with everything that
//! they may refer to, or the whole service where a change reaches further (its schema, a
//! template, a plan). A change of the directory costs no service anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use keepgate_policy::{Item, ItemKey, Kind, bundle, validate};
use serde_json::{Value, json};

use super::Refusal;
use super::land::Step;
use crate::store::{Row, StoreError, Writing};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file of an `apply`, where it came with one.
    pub file: Option<String>,
    /// The line in that file, from 1.
    pub line: Option<u32>,
    /// The kind of the item.
    pub kind: Option<Kind>,
    /// The item's id.
    pub id: Option<String>,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl Problem {
    /// Of an item.
    pub fn of(key: &ItemKey, message: impl Into<String>) -> Problem {
        let id = if key.id.is_empty() { key.service.clone() } else { key.id.clone() };
        Problem {
            file: None,
            line: None,
            kind: Some(key.kind),
            id: Some(id),
            message: message.into(),
        }
    }

    /// Of a file.
    pub fn in_file(file: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem {
            file: Some(file.into()),
            line: None,
            kind: None,
            id: None,
            message: message.into(),
        }
    }

    /// As in answers.
    pub fn to_json(&self) -> Value {
        let mut fields = serde_json::Map::new();
        if let Some(file) = &self.file {
            fields.insert("file".to_owned(), json!(file));
        }
        if let Some(line) = self.line {
            fields.insert("line".to_owned(), json!(line));
        }
        if let Some(kind) = self.kind {
            fields.insert("kind".to_owned(), json!(kind.as_str()));
        }
        if let Some(id) = &self.id {
            fields.insert("id".to_owned(), json!(id));
        }
        fields.insert("message".to_owned(), json!(self.message));
        Value::Object(fields)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        } else if let (Some(kind), Some(id)) = (self.kind, &self.id) {
            write!(f, "{kind} `{id}`: ")?;
        }
        f.write_str(&self.message)
    }
}

impl From<bundle::BundleError> for Problem {
    fn from(e: bundle::BundleError) -> Problem {
        Problem {
            file: Some(e.file),
            line: e.line.and_then(|line| u32::try_from(line).ok()),
            kind: None,
            id: None,
            message: e.message,
        }
    }
}

/// Kinds that others of the same service refer to: a change of one can break any of them.
const REFERRED_TO: [Kind; 5] =
    [Kind::Service, Kind::Schema, Kind::Template, Kind::Plan, Kind::Limit];

/// Checks the state that these steps leave, before they are written.
pub(super) fn check(tx: &dyn Writing, steps: &[Step]) -> Result<Vec<Problem>, Refusal> {
    let mut problems = Vec::new();
    let mut scopes: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
    for step in steps {
        scopes.entry(step.key.service.as_str()).or_default().push(step);
    }
    for (service, steps) in scopes {
        let items = after(tx, service, &steps)?;
        problems.extend(validate::world(&items).into_iter().map(located));
    }
    Ok(problems)
}

/// The items of a scope that must be looked at, as they will be.
fn after(tx: &dyn Writing, service: &str, steps: &[&Step]) -> Result<Vec<Item>, StoreError> {
    let changed: BTreeSet<&ItemKey> = steps.iter().map(|step| &step.key).collect();
    let mut items: Vec<Item> = steps
        .iter()
        .filter_map(|step| step.after.as_ref().map(|(item, _)| item.clone()))
        .collect();
    if service.is_empty() {
        return Ok(items);
    }
    let mut keep = |row: Row| {
        if !changed.contains(&row.key) {
            let decoded = Item::decode(row.key, &row.body);
            items.push(decoded.map_err(|e| StoreError::Corrupt { what: crate::chain(&e) })?);
        }
        Ok(())
    };
    // A new service of its own accord refers to nothing that is stored.
    if steps.iter().any(|step| REFERRED_TO.contains(&step.key.kind)) {
        tx.each(service, &mut keep)?;
    } else {
        for kind in REFERRED_TO {
            for row in tx.list(service, kind, "", usize::MAX)? {
                keep(row)?;
            }
        }
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(items)
}

fn located(problem: validate::Problem) -> Problem {
    Problem::of(&problem.key, problem.message)
}
