//! One item's way from what is stored to what shall be.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepgate_api::Op;
use keepgate_policy::{Change, Digest, Encoded, ItemKey, Revision};

use super::Refusal;
use super::check::EditProblem;
use crate::store::{Brought, Origin, Reading, Row};

/// See the module. Where many of them are at hand they are in key order.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) key: ItemKey,
    pub(crate) before: Option<Before>,
    /// None: it goes.
    pub(crate) after: Option<Arc<Encoded>>,
}

/// What a step replaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    pub(crate) digest: Digest,
    pub(crate) needs: u32,
    pub(crate) origin: Origin,
}

/// What a plan for many items comes to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Planned {
    /// What changes, in key order.
    pub(crate) steps: Vec<Step>,
    /// Items that are as the files have them, which the store is to know: no revision is made for it.
    pub(crate) settled: Vec<Settled>,
}

/// An item that is as the files have it.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) key: ItemKey,
    pub(crate) digest: Digest,
}

impl From<Vec<Step>> for Planned {
    fn from(steps: Vec<Step>) -> Planned {
        Planned { steps, settled: Vec::new() }
    }
}

/// What an edit did to one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landing {
    /// Created, updated or deleted.
    pub op: Op,
    /// The item.
    pub key: ItemKey,
}

/// How many items an edit changes, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Items that were not there.
    pub created: u64,
    /// Items that say something else now.
    pub updated: u64,
    /// Items that are gone.
    pub deleted: u64,
}

impl Counts {
    pub(super) fn of(steps: &[Step]) -> Counts {
        let mut counts = Counts::default();
        steps.iter().for_each(|step| counts.add(step.op()));
        counts
    }

    pub(super) fn add(&mut self, op: Op) {
        match op {
            Op::Create => self.created += 1,
            Op::Update => self.updated += 1,
            Op::Delete => self.deleted += 1,
        }
    }

    /// All of them.
    pub fn all(self) -> u64 {
        self.created + self.updated + self.deleted
    }
}

impl Step {
    /// From a stored row to this; none where nothing changes.
    pub(crate) fn new(
        key: &ItemKey,
        before: Option<&Row>,
        after: Option<&Arc<Encoded>>,
    ) -> Option<Step> {
        let same = match (before, after) {
            (None, None) => true,
            (Some(row), Some(after)) => row.digest == after.digest,
            _ => false,
        };
        (!same).then(|| Step {
            key: key.clone(),
            before: before.map(|row| Before {
                digest: row.digest,
                needs: row.needs,
                origin: row.origin,
            }),
            after: after.cloned(),
        })
    }

    /// Who brought the item after it, where this sort of edit makes it.
    pub(super) fn origin(&self, by: Brought, digest: Digest) -> Origin {
        Origin::after(self.before.map(|before| (before.digest, before.origin)), by, digest)
    }

    /// What it leaves in the store, where it leaves `after`.
    pub(super) fn row(&self, after: &Encoded, revision: Revision, by: Brought) -> Row {
        Row {
            key: self.key.clone(),
            body: after.body.clone(),
            revision,
            digest: after.digest,
            source: after.source.to_string(),
            needs: after.needs,
            origin: self.origin(by, after.digest),
        }
    }

    pub(crate) fn op(&self) -> Op {
        match (&self.before, &self.after) {
            (None, _) => Op::Create,
            (Some(_), Some(_)) => Op::Update,
            (Some(_), None) => Op::Delete,
        }
    }

    pub(super) fn landing(&self) -> Landing {
        Landing { op: self.op(), key: self.key.clone() }
    }
}

/// The step of a key among steps in key order.
pub(super) fn find<'a>(steps: &'a [Step], key: &ItemKey) -> Option<&'a Step> {
    steps.get(steps.binary_search_by(|step| step.key.cmp(key)).ok()?)
}

/// What changes really change: the last change of each key, less those that change nothing; in key
/// order.
pub(super) fn steps(store: &dyn Reading, changes: Vec<Change>) -> Result<Vec<Step>, Refusal> {
    let mut wanted: BTreeMap<ItemKey, Option<Arc<Encoded>>> = BTreeMap::new();
    let mut problems = Vec::new();
    for change in changes {
        match change {
            Change::Put(item) => {
                if let Err(e) = item.check_key() {
                    problems.push(EditProblem::of(&item.key, keepgate_observe::chain(&e)));
                    continue;
                }
                wanted.insert(item.key.clone(), Some(Arc::new(Encoded::of(&item))));
            }
            Change::Delete(key) => {
                wanted.insert(key, None);
            }
        }
    }
    if !problems.is_empty() {
        return Err(Refusal::Invalid(problems));
    }
    let mut steps = Vec::new();
    for (key, after) in wanted {
        steps.extend(Step::new(&key, store.item(&key)?.as_ref(), after.as_ref()));
    }
    Ok(steps)
}
