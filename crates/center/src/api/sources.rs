//! From what is stored to what the files of a service say, item by item.
//!
//! INVARIANT: what somebody took away or changed since the last apply of an item stays as it is and is
//! named, and what others brought stays and is named, unless the caller says otherwise for all of it
//! (`overwrite`, `prune`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keepgate_api as api;
use keepgate_policy::bundle::Packed;
use keepgate_policy::{Encoded, Item, ItemBody, ItemKey, Kind};

use super::items::named;
use super::{diff, gains};
use crate::desk::{EditProblem, Planned, Refusal, Settled, Stage, Step, Work, shown_id};
use crate::store::{Brought, Reading, Row, StoreError, Sum, Tombstone};

/// Conflicts, and items that stay, that an answer lists.
pub(crate) const TOLD: usize = 1_000;

/// Items that are named where a file is missing.
const NAMED: usize = 5;

/// Entities that are named because the directory has them, too.
const TWICE: usize = 100;

/// What the caller of an apply allows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Leave {
    /// What others brought goes, too, and so may all of what a missing file had.
    pub(crate) prune: bool,
    /// What somebody changed since the last apply becomes what the files say.
    pub(crate) overwrite: bool,
    /// Nothing is changed: what would be refused is a warning.
    pub(crate) dry_run: bool,
}

/// What an apply has left alone, and why.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) conflicts: Listed<api::Conflict>,
    pub(crate) stays: Listed<api::Stay>,
    /// What would be emptied, of a dry run.
    pub(crate) emptied: Vec<EditProblem>,
    /// How texts change, of a dry run.
    pub(crate) diffs: BTreeMap<ItemKey, String>,
    /// Access that changes, of a dry run.
    pub(crate) access: Vec<api::AccessChange>,
    /// Entities of the service that are in the directory, too.
    pub(crate) twice: Listed<ItemKey>,
}

/// Bytes of all diffs of one answer.
const DIFF_BYTES: usize = 1 << 20;

/// The first of many, and how many.
#[derive(Clone, Debug)]
pub(crate) struct Listed<T> {
    pub(crate) first: Vec<T>,
    pub(crate) all: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Listed<T> {
        Listed { first: Vec::new(), all: 0 }
    }
}

impl<T> Listed<T> {
    fn has_room(&self) -> bool {
        self.first.len() < TOLD
    }

    /// How many there are, where not all are listed.
    pub(crate) fn total(&self) -> Option<u64> {
        (self.all > self.first.len() as u64).then_some(self.all)
    }
}

/// How it was deleted, where somebody, and no apply, has deleted it.
pub(crate) fn deleted_by_hand(
    store: &dyn Reading,
    key: &ItemKey,
) -> Result<Option<Tombstone>, StoreError> {
    let tombstone = store.tombstone(key)?;
    Ok(tombstone.filter(|tombstone| Brought::by(&tombstone.action) != Brought::Files))
}

/// A deletion that stays, though `who` says otherwise.
pub(crate) fn stays_deleted(tombstone: &Tombstone, who: &str) -> api::Conflict {
    let Tombstone { key, revision, unix_ms, actor, action, .. } = tombstone;
    api::Conflict {
        item: named(key),
        message: format!(
            "deleted at revision {revision} by {action} (token {actor}); {who}, and it stays deleted"
        ),
        revision: revision.0,
        actor: Some(actor.clone()),
        action: Some(action.clone()),
        unix_ms: Some(*unix_ms),
        file: None,
        line: None,
    }
}

/// What is emptied only where the caller says so.
const SORTS: [(&str, &[Kind]); 3] = [
    ("schema.cedarschema", &[Kind::Schema]),
    ("entities.json", &[Kind::Entity]),
    ("roles.toml", &[Kind::Role, Kind::Member, Kind::Grant]),
];

/// Works out the steps of an apply, and what it leaves alone.
pub(crate) fn replace(
    store: &dyn Reading,
    name: &str,
    packed: &Packed,
    leave: Leave,
    work: &Work,
) -> Result<(Planned, Report), Refusal> {
    work.begin(Stage::Compare, packed.len());
    let has_tombstones = store.sum(Sum::Tombstones)?.rows > 0;
    let missing =
        SORTS.map(|(_, kinds)| !packed.items().any(|item| kinds.contains(&item.key.kind)));
    let mut apply = Apply {
        store,
        name,
        packed,
        leave,
        has_tombstones,
        missing,
        gone: SORTS.map(|_| BTreeMap::new()),
        planned: Planned::default(),
        report: Report::default(),
        work,
        done: 0,
        diff_bytes: 0,
    };
    apply.directory()?;
    apply.own()?;
    apply.twice()?;
    apply.finish()
}

struct Apply<'a> {
    store: &'a dyn Reading,
    name: &'a str,
    packed: &'a Packed,
    leave: Leave,
    has_tombstones: bool,
    /// Of which sorts the files have nothing.
    missing: [bool; SORTS.len()],
    /// What goes of those: how many of each kind, and the first of them.
    gone: [BTreeMap<Kind, (u64, Vec<String>)>; SORTS.len()],
    planned: Planned,
    report: Report,
    work: &'a Work,
    done: usize,
    diff_bytes: usize,
}

impl Apply<'_> {
    /// Roles and memberships, which other services and commands bring, too.
    fn directory(&mut self) -> Result<(), Refusal> {
        for row in self.store.sourced(self.name)? {
            self.looked_at()?;
            if self.packed.find(&row.key).is_none() {
                self.one(&row.key, Some(&row), None)?;
            }
        }
        let packed = self.packed;
        let mut roles = BTreeSet::new();
        for item in packed.items().filter(|item| item.key.service.is_empty()) {
            self.looked_at()?;
            if item.key.kind == Kind::Role {
                roles.insert(item.key.id.as_str());
            }
            let row = self.store.item(&item.key)?;
            match row.as_ref().map(|row| row.source.as_str()) {
                Some("") if row.as_ref().is_some_and(|row| says_the_same(row, item)) => {
                    // From now on the files have it.
                    self.planned.steps.extend(Step::new(&item.key, row.as_ref(), Some(item)));
                }
                Some(source) if !source.is_empty() && source != self.name => {
                    row.iter().for_each(|row| self.stays(row));
                }
                _ => self.one(&item.key, row.as_ref(), Some(item))?,
            }
        }
        if roles.is_empty() {
            return Ok(());
        }
        // Whom others have put into the roles of these files.
        let mut others = Vec::new();
        self.store.each_of("", Kind::Member, &mut |row| {
            let by_hand = row.source.is_empty() && packed.find(&row.key).is_none();
            if by_hand && role_of(&row.key).is_some_and(|role| roles.contains(role)) {
                others.push(row);
            }
            Ok(())
        })?;
        for row in others {
            self.one(&row.key, Some(&row), None)?;
        }
        Ok(())
    }

    /// The service's own items: both sides are in key order.
    fn own(&mut self) -> Result<(), Refusal> {
        let (store, name, packed) = (self.store, self.name, self.packed);
        let mut wanted = packed.items().filter(|item| item.key.service == name).peekable();
        let mut refused = None;
        store.each(name, &mut |row| {
            if refused.is_some() {
                return Ok(());
            }
            let mut next = || -> Result<(), Refusal> {
                while let Some(item) = wanted.next_if(|item| item.key < row.key) {
                    self.one(&item.key, None, Some(item))?;
                }
                let same = wanted.next_if(|item| item.key == row.key);
                if same.is_some() || row.key.kind != Kind::Key {
                    self.one(&row.key, Some(&row), same)?;
                }
                self.looked_at()
            };
            refused = next().err();
            Ok(())
        })?;
        if let Some(refused) = refused {
            return Err(refused);
        }
        wanted.try_for_each(|item| self.one(&item.key, None, Some(item)))
    }

    /// One item: what is stored, and what the files say.
    fn one(
        &mut self,
        key: &ItemKey,
        row: Option<&Row>,
        wanted: Option<&Arc<Encoded>>,
    ) -> Result<(), Refusal> {
        match (row, wanted) {
            (None, None) => {}
            (None, Some(_)) => match self.taken_away(key)? {
                Some(tombstone) => self.conflict_gone(&tombstone),
                None => self.step(key, None, wanted),
            },
            (Some(row), Some(item)) if row.digest == item.digest => {
                if row.origin.brought != Brought::Files || row.origin.base.is_some() {
                    let (key, digest) = (key.clone(), row.digest);
                    self.planned.settled.push(Settled { key, digest });
                }
            }
            (Some(row), Some(_)) => {
                let is_own = row.origin.brought == Brought::Files && row.origin.base.is_none();
                if is_own || self.leave.overwrite {
                    self.step(key, Some(row), wanted);
                } else {
                    self.conflict_changed(row)?;
                }
            }
            (Some(row), None) if row.origin.brought != Brought::Files => {
                if self.leave.prune {
                    self.step(key, Some(row), None);
                } else {
                    self.stays(row);
                }
            }
            (Some(row), None) => {
                if row.is_changed_since_files() && !self.leave.overwrite {
                    self.conflict_changed(row)?;
                } else {
                    self.goes(key);
                    self.step(key, Some(row), None);
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, key: &ItemKey, row: Option<&Row>, wanted: Option<&Arc<Encoded>>) {
        if self.leave.dry_run
            && let (Some(row), Some(wanted)) = (row, wanted)
        {
            self.diff(row, wanted);
        }
        self.planned.steps.extend(Step::new(key, row, wanted));
    }

    /// How a text changes, within a bound for all of them.
    fn diff(&mut self, row: &Row, wanted: &Encoded) {
        let text = |item: Option<Item>| match item.map(|item| item.body) {
            Some(ItemBody::Policy(policy) | ItemBody::Template(policy)) => Some(policy.text),
            Some(ItemBody::Schema(schema)) => Some(schema.text),
            _ => None,
        };
        if !matches!(row.key.kind, Kind::Policy | Kind::Template | Kind::Schema)
            || self.diff_bytes > DIFF_BYTES
        {
            return;
        }
        let before = text(Item::decode(row.key.clone(), &row.body).ok());
        if let (Some(before), Some(after)) = (before, text(wanted.decode().ok())) {
            let diff = diff::unified(&before, &after);
            self.diff_bytes += diff.len();
            self.report.diffs.insert(row.key.clone(), diff);
        }
    }

    /// Entities that the files have and the directory, too.
    fn twice(&mut self) -> Result<(), StoreError> {
        let (packed, name) = (self.packed, self.name);
        if !packed.items().any(|item| item.key.kind == Kind::Entity) {
            return Ok(());
        }
        let twice = &mut self.report.twice;
        self.store.each_of("", Kind::Entity, &mut |row| {
            let key = ItemKey::new(name, Kind::Entity, row.key.id);
            if packed.find(&key).is_some() {
                twice.all += 1;
                if twice.first.len() < TWICE {
                    twice.first.push(key);
                }
            }
            Ok(())
        })
    }

    /// What somebody, and no apply, has deleted.
    fn taken_away(&self, key: &ItemKey) -> Result<Option<Tombstone>, StoreError> {
        if !self.has_tombstones || self.leave.overwrite {
            return Ok(None);
        }
        deleted_by_hand(self.store, key)
    }

    fn conflict_gone(&mut self, tombstone: &Tombstone) {
        self.report.conflicts.all += 1;
        if !self.report.conflicts.has_room() {
            return;
        }
        let place = self.packed.place(&tombstone.key);
        self.report.conflicts.first.push(api::Conflict {
            line: place.as_ref().map(|place| place.line as u64),
            file: place.map(|place| place.file),
            ..stays_deleted(tombstone, "the files have it")
        });
    }

    fn conflict_changed(&mut self, row: &Row) -> Result<(), StoreError> {
        self.report.conflicts.all += 1;
        if !self.report.conflicts.has_room() {
            return Ok(());
        }
        let log = self.store.audit_of(row.revision, &row.key)?;
        let place = self.packed.place(&row.key);
        let did = match row.origin.brought {
            Brought::Files => "changed",
            _ => "made",
        };
        let by = log
            .as_ref()
            .map_or_else(String::new, |log| format!(" by {} (token {})", log.action, log.actor));
        let says = match place {
            Some(_) => "the files say something else",
            None => "the files do not have it any more",
        };
        let revision = row.revision;
        self.report.conflicts.first.push(api::Conflict {
            item: named(&row.key),
            message: format!("{did} at revision {revision}{by}; {says}, and it stays as it is"),
            revision: revision.0,
            unix_ms: log.as_ref().map(|log| log.unix_ms),
            actor: log.as_ref().map(|log| log.actor.clone()),
            action: log.map(|log| log.action),
            line: place.as_ref().map(|place| place.line as u64),
            file: place.map(|place| place.file),
        });
        Ok(())
    }

    fn stays(&mut self, row: &Row) {
        self.report.stays.all += 1;
        if self.report.stays.has_room() {
            self.report.stays.first.push(api::Stay {
                item: named(&row.key),
                brought: told(row.origin.brought),
                source: row.source.clone(),
                revision: row.revision.0,
            });
        }
    }

    /// An item goes that files brought; noted where the files have nothing of its sort.
    fn goes(&mut self, key: &ItemKey) {
        for ((_, kinds), (missing, gone)) in
            SORTS.iter().zip(self.missing.iter().zip(&mut self.gone))
        {
            if *missing && kinds.contains(&key.kind) {
                let (count, first) = gone.entry(key.kind).or_default();
                *count += 1;
                if first.len() < NAMED {
                    first.push(shown_id(key).to_owned());
                }
            }
        }
    }

    /// One more item is done; an error when nobody waits any more.
    fn looked_at(&mut self) -> Result<(), Refusal> {
        self.done += 1;
        if self.done.is_multiple_of(1_024) {
            self.work.at(self.done);
            if self.work.is_given_up() {
                return Err(Refusal::Gone);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Planned, Report), Refusal> {
        self.planned.steps.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let gone = SORTS.iter().zip(&self.gone).filter(|(_, gone)| !gone.is_empty());
        let emptied: Vec<EditProblem> = gone
            .map(|((file, _), gone)| EditProblem::in_file(*file, would_go(file, gone)))
            .collect();
        if !emptied.is_empty() && !self.leave.prune {
            if !self.leave.dry_run {
                return Err(Refusal::Emptied(emptied));
            }
            self.report.emptied = emptied;
        }
        if self.leave.dry_run {
            let Apply { store, name, packed, planned, .. } = &self;
            self.report.access = gains::named(*store, name, packed, &planned.steps)?;
        }
        Ok((self.planned, self.report))
    }
}

/// What goes with a file, in words.
fn would_go(file: &str, gone: &BTreeMap<Kind, (u64, Vec<String>)>) -> String {
    let sorts: Vec<String> = gone
        .iter()
        .map(|(kind, (count, first))| {
            let more = count.saturating_sub(first.len() as u64);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{count} of kind {kind} (`{}`{more})", first.join("`, `"))
        })
        .collect();
    format!(
        "the files have no {file}, or an empty one, and all that it brought would go: {}; put the \
         file back, or say that it may go (`--prune`)",
        sorts.join(", ")
    )
}

/// Whether a role or membership that a command made says what the files say.
fn says_the_same(row: &Row, wanted: &Encoded) -> bool {
    let (Ok(mut item), Ok(theirs)) = (Item::decode(row.key.clone(), &row.body), wanted.decode())
    else {
        return false;
    };
    let source = keepgate_policy::source_of(&theirs.body).to_owned();
    match &mut item.body {
        ItemBody::Role(role) => role.source = source,
        ItemBody::Member(member) => member.source = source,
        _ => {}
    }
    item == theirs
}

/// The role of a membership, as Cedar text: ids are `MEMBER in ROLE`, and texts may have any words.
fn role_of(key: &ItemKey) -> Option<&str> {
    let (at, _) = key.id.rmatch_indices(" in ").find(|(at, words)| {
        let role = key.id.get(at + words.len()..).unwrap_or_default();
        let member = key.id.get(..*at).unwrap_or_default();
        role.parse::<keepgate_policy::Uid>().is_ok()
            && member.parse::<keepgate_policy::Uid>().is_ok()
    })?;
    key.id.get(at + 4..)
}

/// Who brought it, as answers say.
pub(crate) fn told(brought: Brought) -> api::Brought {
    match brought {
        Brought::Files => api::Brought::Files,
        Brought::Command => api::Brought::Command,
        Brought::Import => api::Brought::Import,
    }
}
