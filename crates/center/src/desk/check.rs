//! What must hold before a revision lands.
//!
//! Only what the change can have broken is looked at: the changed items and what they refer to,
//! or the whole service where a change reaches further (its schema, a template). A change of a
//! membership costs a walk up the roles, not a look at the directory.
//!
//! Left out: a circle that closes only in one service's view, through an entity of its own, when
//! the last step is made in the directory. The engine walks circles to their end, and the next
//! change of that service's entities is refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use keepgate_policy::bundle::{BundleError, Place};
use keepgate_policy::{Item, ItemBody, ItemKey, Kind, Uid, validate};
use serde_json::{Value, json};

use super::Refusal;
use super::land::Step;
use super::limits;
use crate::store::{Row, StoreError, Writing};

/// Roles and groups above one entity; deeper is no organization.
const ANCESTORS: usize = 100_000;

/// Rows read at once.
const PAGE: usize = 1000;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The item at fault, where it is known.
    pub key: Option<ItemKey>,
    /// The file of an `apply`, where it came with one.
    pub file: Option<String>,
    /// The line in that file, or in the item's text, from 1.
    pub line: Option<usize>,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl Problem {
    /// Of an item.
    pub fn of(key: &ItemKey, message: impl Into<String>) -> Problem {
        Problem { key: Some(key.clone()), file: None, line: None, message: message.into() }
    }

    /// Of a file.
    pub fn in_file(file: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { key: None, file: Some(file.into()), line: None, message: message.into() }
    }

    /// The same, in the words of the files that the items came from.
    #[must_use]
    pub fn placed(mut self, places: &BTreeMap<ItemKey, Place>) -> Problem {
        if let Some(place) = self.key.as_ref().and_then(|key| places.get(key)) {
            let within = self.line.map_or(0, |line| line.saturating_sub(1));
            self.file = Some(place.file.clone());
            self.line = Some(place.line + within);
        }
        self
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
        if let Some(key) = &self.key {
            fields.insert("kind".to_owned(), json!(key.kind.as_str()));
            fields.insert("id".to_owned(), json!(shown(key)));
        }
        fields.insert("message".to_owned(), json!(self.message));
        Value::Object(fields)
    }
}

/// A service and its schema have no id of their own.
fn shown(key: &ItemKey) -> &str {
    if key.id.is_empty() { &key.service } else { &key.id }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line, &self.key) {
            (Some(file), Some(line), _) => write!(f, "{file}:{line}: ")?,
            (Some(file), None, _) => write!(f, "{file}: ")?,
            (None, Some(line), Some(key)) => {
                write!(f, "{} `{}`, line {line}: ", key.kind, shown(key))?;
            }
            (None, None, Some(key)) => write!(f, "{} `{}`: ", key.kind, shown(key))?,
            (None, _, None) => {}
        }
        f.write_str(&self.message)
    }
}

impl From<BundleError> for Problem {
    fn from(e: BundleError) -> Problem {
        Problem { key: None, file: Some(e.file), line: e.line, message: e.message }
    }
}

impl From<validate::Problem> for Problem {
    fn from(problem: validate::Problem) -> Problem {
        Problem { key: Some(problem.key), file: None, line: problem.line, message: problem.message }
    }
}

/// Checks the state that these steps leave, before they are written.
pub(super) fn check(tx: &dyn Writing, steps: &[Step]) -> Result<Vec<Problem>, Refusal> {
    let mut problems = Vec::new();
    let scopes: BTreeSet<&str> = steps.iter().map(|step| step.key.service.as_str()).collect();
    for service in scopes {
        let items = After::new(tx, steps).items(service)?;
        problems.extend(validate::world(&items).into_iter().map(Problem::from));
        if !service.is_empty() {
            let removed: BTreeSet<&str> = steps
                .iter()
                .filter(|step| step.key.kind == Kind::Plan && step.after.is_none())
                .filter(|step| step.key.service == service)
                .map(|step| step.key.id.as_str())
                .collect();
            problems.extend(limits::check(service, &items, &removed));
        }
    }
    // Several scopes may see the same fault of the directory.
    problems.dedup();
    Ok(problems)
}

/// The state after the steps, as far as it is looked at.
struct After<'a> {
    tx: &'a dyn Writing,
    steps: BTreeMap<&'a ItemKey, &'a Step>,
    items: BTreeMap<ItemKey, Item>,
}

impl<'a> After<'a> {
    fn new(tx: &'a dyn Writing, steps: &'a [Step]) -> After<'a> {
        let steps = steps.iter().map(|step| (&step.key, step)).collect();
        After { tx, steps, items: BTreeMap::new() }
    }

    /// The items that must be looked at for the changes of one scope.
    fn items(mut self, service: &str) -> Result<Vec<Item>, StoreError> {
        let mut changed: BTreeSet<Kind> = BTreeSet::new();
        let steps: Vec<&Step> = self.steps.values().copied().collect();
        for step in steps.iter().filter(|step| step.key.service == service) {
            changed.insert(step.key.kind);
            if let Some((item, _)) = &step.after {
                self.items.insert(item.key.clone(), item.clone());
            }
        }
        let any = |kinds: &[Kind]| kinds.iter().any(|kind| changed.contains(kind));
        if !service.is_empty() {
            if any(&[Kind::Schema, Kind::Template]) {
                self.all(service)?;
            } else {
                let mut kinds =
                    vec![Kind::Service, Kind::Schema, Kind::Template, Kind::Limit, Kind::Plan];
                if any(&[Kind::Service, Kind::Route, Kind::Limit, Kind::Plan]) {
                    kinds.push(Kind::Route);
                }
                if any(&[Kind::Plan]) {
                    kinds.push(Kind::Key);
                }
                for kind in kinds {
                    self.kind(service, kind)?;
                }
                self.namesakes(service)?;
            }
        }
        self.ancestors(service)?;
        Ok(self.items.into_values().collect())
    }

    fn keep(&mut self, row: Row) -> Result<(), StoreError> {
        if !self.steps.contains_key(&row.key) && !self.items.contains_key(&row.key) {
            self.items.insert(row.key.clone(), decoded(row)?);
        }
        Ok(())
    }

    fn all(&mut self, service: &str) -> Result<(), StoreError> {
        let tx = self.tx;
        tx.each(service, &mut |row| self.keep(row))
    }

    fn kind(&mut self, service: &str, kind: Kind) -> Result<(), StoreError> {
        for row in self.tx.list(service, kind, "", usize::MAX)? {
            self.keep(row)?;
        }
        Ok(())
    }

    /// Policies, links and grants share their ids.
    fn namesakes(&mut self, service: &str) -> Result<(), StoreError> {
        const NAMED: [Kind; 3] = [Kind::Policy, Kind::Link, Kind::Grant];
        let named: Vec<ItemKey> =
            self.items.keys().filter(|key| NAMED.contains(&key.kind)).cloned().collect();
        for key in named {
            for kind in NAMED.into_iter().filter(|kind| *kind != key.kind) {
                let row = self.tx.item(&ItemKey::new(service, kind, key.id.as_str()))?;
                row.map_or(Ok(()), |row| self.keep(row))?;
            }
        }
        Ok(())
    }

    /// Everything above the entities that are looked at, so that circles are seen.
    fn ancestors(&mut self, service: &str) -> Result<(), StoreError> {
        let mut seen: BTreeSet<Uid> = BTreeSet::new();
        let mut open: Vec<Uid> = self.items.values().flat_map(parents).collect();
        while let Some(uid) = open.pop() {
            if seen.len() >= ANCESTORS || !seen.insert(uid.clone()) {
                continue;
            }
            let mut found = Vec::new();
            for scope in BTreeSet::from(["", service]) {
                let key = ItemKey::entity(scope, &uid);
                match self.steps.get(&key) {
                    Some(step) => found.extend(step.after.as_ref().map(|(item, _)| item.clone())),
                    None => found.extend(self.tx.item(&key)?.map(decoded).transpose()?),
                }
            }
            self.memberships(&uid, &mut found)?;
            for item in found {
                open.extend(parents(&item));
                self.items.entry(item.key.clone()).or_insert(item);
            }
        }
        Ok(())
    }

    /// The memberships that an entity has in the directory.
    fn memberships(&self, uid: &Uid, found: &mut Vec<Item>) -> Result<(), StoreError> {
        // Their ids are `MEMBER in ROLE`, so those of one member are neighbours.
        let prefix = format!("{uid} in ");
        let mut after = format!("{uid} in");
        loop {
            let rows = self.tx.list("", Kind::Member, &after, PAGE)?;
            let full = rows.len() == PAGE;
            for row in rows {
                if !row.key.id.starts_with(&prefix) {
                    return self.new_memberships(&prefix, found);
                }
                after.clone_from(&row.key.id);
                if !self.steps.contains_key(&row.key) {
                    found.push(decoded(row)?);
                }
            }
            if !full {
                return self.new_memberships(&prefix, found);
            }
        }
    }

    fn new_memberships(&self, prefix: &str, found: &mut Vec<Item>) -> Result<(), StoreError> {
        let from = ItemKey::new("", Kind::Member, prefix);
        for (key, step) in self.steps.range::<&ItemKey, _>(&from..) {
            if key.kind != Kind::Member || !key.id.starts_with(prefix) {
                break;
            }
            found.extend(step.after.as_ref().map(|(item, _)| item.clone()));
        }
        Ok(())
    }
}

fn decoded(row: Row) -> Result<Item, StoreError> {
    Item::decode(row.key, &row.body).map_err(|e| StoreError::Corrupt { what: crate::chain(&e) })
}

fn parents(item: &Item) -> Vec<Uid> {
    match &item.body {
        ItemBody::Entity(entity) => entity.parents.clone(),
        ItemBody::Member(member) => vec![member.role.clone()],
        _ => Vec::new(),
    }
}
