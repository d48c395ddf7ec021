//! Edits of many items: worked out beside the writer, landed by it.
//!
//! Such an edit is planned against a state that is read outside the write transaction, checked
//! there, and its world is built there, so that other edits wait for its rows alone. Edits that
//! land meanwhile come first.
//!
//! INVARIANT: it never undoes what landed after the state that it was planned against. An item
//! that was changed since stays as that change left it (a revoked membership stays revoked, a new
//! `forbid` stays), and the outcome names it. What was changed since is checked together with the
//! edit; where that does not hold, or a change reaches further (a schema, a template, settings),
//! the edit is planned anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use keepgate_policy::{Change, Digest, Item, ItemKey, Kind, Revision, World};

use super::check::{self, Problem};
use super::land::{self, Next, Stamp};
use super::step::{Step, find};
use super::work::{Stage, Work};
use super::{Head, Outcome, Refusal, Shared};
use crate::store::{Changes, Reading, StoreError, Verdict};

/// Items changed since that are looked at one by one; more, and the edit is planned anew.
const CHANGED_SINCE: usize = 10_000;

/// How often an edit is worked out beside the writer; then the writer works it out itself.
pub(super) const ATTEMPTS: usize = 4;

/// How often the state is read until it is the published one: a commit may be on its way.
const READS: usize = 2_000;

/// Works out the steps of an edit, in key order; called again where the state has moved on too far.
pub(crate) type BulkPlanner =
    Box<dyn FnMut(&dyn Reading, &Head) -> Result<Vec<Step>, Refusal> + Send>;

/// A wish to change many items.
pub(crate) struct Bulk {
    /// As in [`super::Edit`].
    pub(crate) actor: String,
    /// As in [`super::Edit`].
    pub(crate) action: &'static str,
    /// As in [`super::Edit`].
    pub(crate) dry_run: bool,
    /// What to do.
    pub(crate) plan: BulkPlanner,
    /// How far it is, and whether anybody waits.
    pub(crate) work: Arc<Work>,
}

/// An edit that only has to be written.
pub(super) struct Prepared {
    pub(super) actor: String,
    pub(super) action: &'static str,
    pub(super) work: Arc<Work>,
    at: Revision,
    steps: Vec<Step>,
    world: World,
}

/// What came of an attempt.
pub(super) enum Attempt {
    /// It landed, or there was nothing to do.
    Done(Outcome),
    /// What it rests on has changed.
    Again,
}

/// An attempt, and what it leaves behind, for the asker to free.
pub(super) struct Landed {
    pub(super) attempt: Attempt,
    pub(super) prepared: Box<Prepared>,
    /// The state that was published before.
    pub(super) replaced: Option<Arc<Head>>,
}

/// What came of the preparation.
pub(super) enum Ready {
    /// There is nothing to write.
    Done(Outcome),
    /// To be written.
    Write(Box<Prepared>),
}

/// Plans, checks and builds. Blocks; not on the writer's thread.
pub(super) fn prepare(shared: &Shared, bulk: &mut Bulk) -> Result<Ready, Refusal> {
    let work = Arc::clone(&bulk.work);
    let (store, head) = at_the_head(shared)?;
    work.begin(Stage::Compare, 0);
    let steps = (bulk.plan)(store.as_ref(), &head)?;
    work.checked(0)?;
    if steps.is_empty() {
        return Ok(Ready::Done(Outcome::nothing(head.revision)));
    }
    work.begin(Stage::Check, steps.len());
    let problems = check::check(store.as_ref(), &steps, None, &work)?;
    if !problems.is_empty() {
        return Err(Refusal::Invalid(problems));
    }
    // The store may go on: what is needed of it has been read.
    drop(store);
    work.begin(Stage::Build, steps.len());
    let revision = Revision(head.revision.0 + 1);
    let world = build(&head.world, revision, &steps, &work)?;
    let problems = check::circles(&world, steps.iter().map(|step| &step.key));
    if !problems.is_empty() {
        return Err(Refusal::Invalid(problems));
    }
    if bulk.dry_run {
        return Ok(Ready::Done(Outcome::of(head.revision, &steps)));
    }
    work.begin(Stage::Commit, steps.len());
    let (actor, action) = (bulk.actor.clone(), bulk.action);
    let prepared = Prepared { actor, action, work, at: head.revision, steps, world };
    Ok(Ready::Write(Box::new(prepared)))
}

/// A reading of the store and the published state, both at one revision.
fn at_the_head(shared: &Shared) -> Result<(Box<dyn Reading + '_>, Arc<Head>), Refusal> {
    for _ in 0..READS {
        let store = shared.store.read()?;
        let head = shared.head.load_full();
        if store.head()? == head.revision {
            return Ok((store, head));
        }
        drop(store);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(Refusal::Busy)
}

/// The world after steps.
pub(super) fn build(
    world: &World,
    revision: Revision,
    steps: &[Step],
    work: &Work,
) -> Result<World, Refusal> {
    world.changed(
        revision,
        steps.iter().map(|step| {
            work.checked(1)?;
            Ok::<_, Refusal>(match &step.after {
                Some(after) => {
                    let item = after
                        .decode()
                        .map_err(|e| StoreError::Corrupt { what: keepgate_observe::chain(&e) })?;
                    (Change::Put(item), after.digest)
                }
                None => (Change::Delete(step.key.clone()), Digest::default()),
            })
        }),
    )
}

/// Writes a prepared edit and publishes it. Runs on the writer's thread alone.
pub(super) fn land(shared: &Shared, mut prepared: Box<Prepared>) -> Result<Landed, Refusal> {
    let before = shared.head.load_full();
    let mut refused = None;
    let mut done: Option<(Attempt, Option<Next>)> = None;
    shared.store.write(&mut |tx| {
        let landed = prepared.work.checked(0).and_then(|()| {
            land::same_head(shared, &*tx, &before)?;
            let Some(kept) = prepared.catch_up(&*tx, &before)? else {
                return Ok((Attempt::Again, None));
            };
            if prepared.steps.is_empty() {
                let outcome = Outcome { kept, ..Outcome::nothing(before.revision) };
                return Ok((Attempt::Done(outcome), None));
            }
            let stamp = Stamp::now(&prepared.actor, prepared.action);
            let revision = Revision(before.revision.0 + 1);
            let work = Some(&*prepared.work);
            land::write(tx, &prepared.steps, revision, &stamp, work)?;
            let next = land::next(
                tx,
                shared,
                &before,
                &prepared.steps,
                Vec::new(),
                prepared.world.clone(),
                &stamp,
            )?;
            let outcome = Outcome { kept, ..Outcome::of(revision, &prepared.steps) };
            Ok((Attempt::Done(outcome), Some(next)))
        });
        match landed {
            Ok(landed) => {
                let verdict = if landed.1.is_some() { Verdict::Commit } else { Verdict::Rollback };
                done = Some(landed);
                Ok(verdict)
            }
            Err(Refusal::Store(e)) => Err(e),
            Err(refusal) => {
                refused = Some(refusal);
                Ok(Verdict::Rollback)
            }
        }
    })?;
    if let Some(refusal) = refused {
        return Err(refusal);
    }
    let Some((attempt, next)) = done else { return Err(Refusal::Closed) };
    let replaced = next.map(|next| shared.publish(next)).transpose()?;
    Ok(Landed { attempt, prepared, replaced })
}

impl Prepared {
    /// Takes over what has landed since the edit was planned; the items of the edit that it
    /// keeps its hands off. None: the edit must be planned anew.
    fn catch_up(
        &mut self,
        store: &dyn Reading,
        head: &Head,
    ) -> Result<Option<Vec<ItemKey>>, Refusal> {
        if head.revision == self.at {
            return Ok(Some(Vec::new()));
        }
        let Changes::Rows(rows) = store.changes_after(self.at, CHANGED_SINCE)? else {
            return Ok(None);
        };
        let since: BTreeSet<ItemKey> = rows.into_iter().map(|row| row.key).collect();
        let touched: BTreeSet<&str> =
            self.steps.iter().map(|step| step.key.service.as_str()).collect();
        let reaches_far = |key: &ItemKey| {
            touched.contains(key.service.as_str())
                && matches!(
                    key.kind,
                    Kind::Service
                        | Kind::Schema
                        | Kind::Template
                        | Kind::Route
                        | Kind::Limit
                        | Kind::Plan
                )
        };
        if since.iter().any(reaches_far) {
            return Ok(None);
        }
        let mut kept = Vec::new();
        let mut changes = Vec::new();
        for key in &since {
            let row = store.item(key)?;
            if let Some(step) = find(&self.steps, key) {
                let wanted = step.after.as_ref().map(|after| after.digest);
                if wanted != row.as_ref().map(|row| row.digest) {
                    kept.push(key.clone());
                }
            }
            changes.push(match row {
                Some(row) => {
                    let item = Item::decode(row.key, &row.body)
                        .map_err(|e| StoreError::Corrupt { what: keepgate_observe::chain(&e) })?;
                    (Change::Put(item), row.digest)
                }
                None => (Change::Delete(key.clone()), Digest::default()),
            });
        }
        self.steps.retain(|step| !since.contains(&step.key));
        let problems: Vec<Problem> = check::check(store, &self.steps, Some(&since), &self.work)?;
        if !problems.is_empty() {
            return Ok(None);
        }
        let revision = Revision(head.revision.0 + 1);
        let changes = changes.into_iter().map(Ok::<_, Refusal>);
        self.world = self.world.changed(revision, changes)?;
        if !check::circles(&self.world, since.iter()).is_empty() {
            return Ok(None);
        }
        self.at = head.revision;
        Ok(Some(kept))
    }
}

#[cfg(test)]
mod tests;
