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
use std::sync::atomic::{AtomicBool, Ordering};

use keepgate_policy::{Change, Digest, Item, ItemKey, Kind, Revision, World};

use super::check::{self, EditProblem};
use super::history::WriteId;
use super::land::{self, Fate, Stamp};
use super::others::Ground;
use super::step::{Planned, Settled, Step, find};
use super::work::{Stage, Work};
use super::{Head, Outcome, Refusal, Shared};
use crate::store::{Brought, Changes, Reading, Staged, StoreError, Writing};

/// Items changed since that the writer looks at one by one; more, and the edit is planned anew.
const CHANGED_SINCE: usize = 10_000;

/// The same beside the writer, which leaves it few.
const CHANGED_BESIDE: usize = 500_000;

/// Items of an edit that are laid aside in the store before the writer is waited for.
const STAGED: usize = 10_000;

/// How often an edit takes over beside the writer what has landed since.
const CATCH_UPS: usize = 4;

/// Items of an edit that does not wait for smaller ones.
const SMALL: usize = 100;

/// How often an edit is worked out beside the writer; then the writer works it out itself.
pub(super) const ATTEMPTS: usize = 4;

/// Items of an edit that the writer works out itself: others wait for it.
pub(super) const MAX_ON_WRITER: usize = 5_000;

/// Items between two words on how far it is.
const LOOK_EVERY: usize = 1_024;

/// How often the state is read until it is the published one: a commit may be on its way.
const READS: usize = 2_000;

/// Works out the steps of an edit, in key order; called again where the state has moved on too far.
pub(crate) type BulkPlanner =
    Box<dyn FnMut(&dyn Reading, &Head) -> Result<Planned, Refusal> + Send>;

/// A wish to change many items.
pub(crate) struct Bulk {
    /// As in [`super::Edit`].
    pub(crate) actor: String,
    /// As in [`super::Edit`].
    pub(crate) action: &'static str,
    /// As in [`super::Edit`].
    pub(crate) dry_run: bool,
    /// As in [`super::Edit`].
    pub(crate) write_id: Option<WriteId>,
    /// What to do.
    pub(crate) plan: BulkPlanner,
    /// How far it is, and whether anybody waits.
    pub(crate) work: Arc<Work>,
    /// What makes it planned anew, where it was changed meanwhile.
    pub(crate) anew: Anew,
    /// Held until the work has ended, also where nobody waits for it any more.
    pub(crate) place: Box<dyn Send>,
}

/// Which changes of others, while an edit is worked out, make it planned anew; its other items that
/// they changed are left alone.
#[derive(Clone, Debug, Default)]
pub(crate) enum Anew {
    /// Those alone that reach far: a schema, a template, settings.
    #[default]
    Far,
    /// Its own items, too: for an edit that names what it expects to find.
    Own,
    /// Anything of this service or of the directory: for an edit that rests on all of it.
    Service(String),
    /// Anything at all, but for rules of limits: for an edit that looks for what names an item.
    Any,
    /// Anything at all: for an edit that leaves nothing as it is now.
    All,
}

impl Anew {
    fn covers(&self, steps: &[Step], key: &ItemKey) -> bool {
        match self {
            Anew::Far => false,
            Anew::All => true,
            Anew::Own => find(steps, key).is_some(),
            Anew::Service(name) => key.service.is_empty() || key.service == *name,
            Anew::Any => !matches!(key.kind, Kind::Limit | Kind::Plan | Kind::Route),
        }
    }
}

/// An edit that only has to be written.
pub(super) struct Prepared {
    pub(super) actor: String,
    pub(super) action: &'static str,
    write_id: Option<WriteId>,
    pub(super) work: Arc<Work>,
    /// The revision that the world is made on.
    at: Revision,
    steps: Vec<Step>,
    settled: Vec<Settled>,
    world: World,
    /// See [`Bulk::anew`].
    anew: Anew,
    /// Items of the edit that others changed meanwhile, which it leaves alone.
    kept: Vec<ItemKey>,
    /// What is laid aside in the store, and the items of it that are no steps any more.
    staged: Option<(Staged, Vec<ItemKey>)>,
}

impl Prepared {
    /// Whether it is landed in its turn, as other small edits are.
    pub(super) fn is_small(&self) -> bool {
        self.len() <= SMALL
    }

    /// How many items it changes.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }
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
    /// What it rests on has changed; so many items it has.
    Again(usize),
}

/// Plans, checks and builds. Blocks; not on the writer's thread.
pub(super) fn prepare(shared: &Shared, bulk: &mut Bulk) -> Result<Ready, Refusal> {
    let work = Arc::clone(&bulk.work);
    let (store, head) = at_the_head(shared)?;
    let write_id = bulk.write_id.filter(|_| !bulk.dry_run);
    if let Some(id) = &write_id
        && store.written(id)?.is_some()
    {
        // The writer says what became of it: under the lock that commits take.
        let at = head.revision;
        let world = head.world.clone();
        return Ok(Ready::Write(Box::new(Prepared::nothing(bulk, at, world))));
    }
    work.begin(Stage::Compare, 0);
    let Planned { steps, settled } = (bulk.plan)(store.as_ref(), &head)?;
    work.checked(0)?;
    if steps.is_empty() && (settled.is_empty() || bulk.dry_run) {
        return Ok(Ready::Done(Outcome::nothing(head.revision)));
    }
    work.begin(Stage::Check, steps.len());
    let revision = Revision(head.revision.0 + 1);
    let world = checked(store.as_ref(), &head.world, revision, &steps, &work)?;
    // The store may go on: what is needed of it has been read.
    drop(store);
    work.begin(Stage::Build, steps.len());
    let problems = check::circles(&world, steps.iter().map(|step| &step.key));
    if !problems.is_empty() {
        return Err(Refusal::Invalid(problems));
    }
    if bulk.dry_run {
        return Ok(Ready::Done(Outcome::of(head.revision, &steps)));
    }
    let mut prepared = Prepared { steps, settled, ..Prepared::nothing(bulk, head.revision, world) };
    if !prepared.catch_up_beside(shared)? {
        return Ok(Ready::Again(prepared.len()));
    }
    prepared.work.begin(Stage::Commit, prepared.steps.len());
    // That takes its time, too.
    if prepared.lay_aside(shared)? && !prepared.catch_up_beside(shared)? {
        return Ok(Ready::Again(prepared.len()));
    }
    Ok(Ready::Write(Box::new(prepared)))
}

/// Checks the state that steps leave and makes its world, of many steps at the same time.
fn checked(
    store: &dyn Reading,
    world: &World,
    revision: Revision,
    steps: &[Step],
    work: &Work,
) -> Result<World, Refusal> {
    let refused = |problems: Vec<EditProblem>| match problems.is_empty() {
        true => Ok(()),
        false => Err(Refusal::Invalid(problems)),
    };
    if steps.len() <= SMALL {
        refused(check::check(store, steps, None, work)?)?;
        return build(world, revision, steps, || work.checked(0));
    }
    let in_vain = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let in_vain = &in_vain;
        let going_on = move || match in_vain.load(Ordering::Relaxed) || work.is_given_up() {
            true => Err(Refusal::Gone),
            false => Ok(()),
        };
        let builder = std::thread::Builder::new()
            .name("center-build".to_owned())
            .spawn_scoped(scope, move || build(world, revision, steps, going_on));
        let found = check::check(store, steps, None, work).and_then(refused);
        in_vain.store(found.is_err(), Ordering::Relaxed);
        let built = match builder {
            Ok(builder) => builder.join().unwrap_or(Err(Refusal::Closed)),
            // There is no thread to be had: one after the other.
            Err(_) if found.is_ok() => build(world, revision, steps, || work.checked(0)),
            Err(_) => Err(Refusal::Gone),
        };
        found.and(built)
    })
}

/// A reading of the store and the published state, both at one revision.
fn at_the_head(shared: &Shared) -> Result<(Box<dyn Reading + '_>, Arc<Head>), Refusal> {
    for _ in 0..READS {
        let store = shared.store.read()?;
        let head = shared.head.load_full();
        let found = store.head()?;
        if found == head.revision {
            return Ok((store, head));
        }
        drop(store);
        if found > head.revision && shared.store.is_shared() {
            shared.catch_up()?;
            continue;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(Refusal::Busy)
}

/// The world after steps, unless it is not to go on.
pub(super) fn build(
    world: &World,
    revision: Revision,
    steps: &[Step],
    going_on: impl Fn() -> Result<(), Refusal>,
) -> Result<World, Refusal> {
    world.changed(
        revision,
        steps.iter().map(|step| {
            going_on()?;
            Ok::<_, Refusal>(match &step.after {
                Some(after) => {
                    let item = after.decode().map_err(StoreError::from)?;
                    (Change::Put(item), after.digest)
                }
                None => (Change::Delete(step.key.clone()), Digest::default()),
            })
        }),
    )
}

/// Writes a prepared edit and publishes it. Runs on the writer's thread alone.
pub(super) fn land(shared: &Shared, mut prepared: Box<Prepared>) -> Result<Landed, Refusal> {
    let landed = land::on_ground(shared, |tx, ground| prepared.attempt(tx, shared, ground));
    landed.map(|(attempt, replaced)| Landed { attempt, prepared, replaced })
}

impl Prepared {
    /// One that changes nothing yet.
    fn nothing(bulk: &Bulk, at: Revision, world: World) -> Prepared {
        Prepared {
            actor: bulk.actor.clone(),
            action: bulk.action,
            write_id: bulk.write_id,
            work: Arc::clone(&bulk.work),
            at,
            steps: Vec::new(),
            settled: Vec::new(),
            world,
            anew: bulk.anew.clone(),
            kept: Vec::new(),
            staged: None,
        }
    }

    /// Lays the items of a large edit aside in the store; false: nothing was.
    fn lay_aside(&mut self, shared: &Shared) -> Result<bool, Refusal> {
        let count = self.steps.iter().filter(|step| step.after.is_some()).count();
        if count <= STAGED {
            return Ok(false);
        }
        let by = Brought::by(self.action);
        let rows = self.steps.iter().enumerate().map_while(|(at, step)| {
            if at.is_multiple_of(LOOK_EVERY) {
                self.work.at(at);
            }
            let row = || step.after.as_ref().map(|after| step.row(after, Revision(0), by));
            (!self.work.is_given_up()).then(row)
        });
        let staged = shared.store.stage(&mut rows.flatten(), count);
        self.work.checked(0)?;
        match staged {
            Ok(Some(staged)) => self.staged = Some((staged, Vec::new())),
            Ok(None) => {}
            // It lands all the same, only slower; where the store is out of order, that says so.
            Err(e) => {
                let error = keepgate_observe::chain(&e);
                tracing::warn!(error, items = count, "a large change is written row by row");
            }
        }
        Ok(self.staged.is_some())
    }

    /// Takes over what has landed meanwhile, so that little is left for the writer. False: the edit
    /// must be planned anew.
    fn catch_up_beside(&mut self, shared: &Shared) -> Result<bool, Refusal> {
        for _ in 0..CATCH_UPS {
            let (store, head) = at_the_head(shared)?;
            if head.revision == self.at {
                break;
            }
            if !self.catch_up(store.as_ref(), &head, CHANGED_BESIDE)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn attempt(
        &mut self,
        tx: &mut dyn Writing,
        shared: &Shared,
        ground: &Ground,
    ) -> Result<(Attempt, Fate), Refusal> {
        let before = &*ground.before;
        self.work.checked(0)?;
        if let Some(outcome) = land::landed_before(tx, self.write_id)? {
            return Ok((Attempt::Done(outcome), Fate::Noted));
        }
        if !self.catch_up(&*tx, before, CHANGED_SINCE)? {
            return Ok((Attempt::Again, Fate::Nothing));
        }
        let kept = std::mem::take(&mut self.kept);
        let noted = land::settle(tx, &self.settled)?;
        if self.steps.is_empty() {
            let outcome = Outcome { kept, ..Outcome::nothing(before.revision) };
            let fate = if noted { Fate::Noted } else { Fate::Nothing };
            return Ok((Attempt::Done(outcome), fate));
        }
        let stamp = Stamp::now(&self.actor, self.action, self.write_id)?;
        let revision = ground.revision;
        let staged = self.staged.as_ref().map(|(staged, without)| (staged, without.as_slice()));
        land::write(tx, &self.steps, revision, &stamp, Some(&self.work), staged)?;
        let world = match self.world.revision() == revision {
            true => self.world.clone(),
            // The line jumps.
            false => self.world.changed::<Refusal>(revision, std::iter::empty())?,
        };
        let next = land::next(tx, shared, ground, &self.steps, Vec::new(), world, &stamp)?;
        let outcome = Outcome { kept, ..Outcome::of(revision, &self.steps) };
        Ok((Attempt::Done(outcome), Fate::State(Box::new(next))))
    }

    /// Takes over what has landed since the edit was planned, and notes the items of the edit that it
    /// keeps its hands off. False: the edit must be planned anew.
    fn catch_up(&mut self, store: &dyn Reading, head: &Head, most: usize) -> Result<bool, Refusal> {
        if head.revision == self.at {
            return Ok(true);
        }
        let Changes::Rows(rows) = store.changes_after(self.at, most)? else {
            return Ok(false);
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
        if since.iter().any(|key| reaches_far(key) || self.anew.covers(&self.steps, key)) {
            return Ok(false);
        }
        let mut changes = Vec::new();
        for key in &since {
            let row = store.item(key)?;
            if let Some(step) = find(&self.steps, key) {
                let wanted = step.after.as_ref().map(|after| after.digest);
                if wanted != row.as_ref().map(|row| row.digest) {
                    self.kept.push(key.clone());
                }
            }
            changes.push(match row {
                Some(row) => {
                    let item = Item::decode(row.key, &row.body).map_err(StoreError::from)?;
                    (Change::Put(item), row.digest)
                }
                None => (Change::Delete(key.clone()), Digest::default()),
            });
        }
        if let Some((_, without)) = &mut self.staged {
            let puts = self.steps.iter().filter(|step| step.after.is_some()).map(|step| &step.key);
            without.extend(puts.filter(|key| since.contains(key)).cloned());
        }
        self.steps.retain(|step| !since.contains(&step.key));
        let problems: Vec<EditProblem> =
            check::check(store, &self.steps, Some(&since), &self.work)?;
        if !problems.is_empty() {
            return Ok(false);
        }
        let revision = Revision(head.revision.0 + 1);
        let changes = changes.into_iter().map(Ok::<_, Refusal>);
        self.world = self.world.changed(revision, changes)?;
        if !check::circles(&self.world, since.iter()).is_empty() {
            return Ok(false);
        }
        self.at = head.revision;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
