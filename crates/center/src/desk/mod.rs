//! The one place where the world changes: edits in, revisions out.
//!
//! A dedicated thread takes edits from a bounded queue, one at a time. Each is planned against
//! the state inside its write transaction, checked, made into one revision, committed, and then
//! published: world, revision, scopes, services and tokens in one [`Head`], swapped atomically.
//! Readers take the head once and see one state. Followers are woken by a watch channel; what
//! they need of the last revisions is in [`Recent`], encoded once.
//!
//! Edits that may be of many items are worked out beside that thread (`bulk`), which only writes
//! them, after the small edits that wait.
//!
//! INVARIANT: the head is never ahead of the store, and an edit is acknowledged only after its
//! commit is durable and its head is published.

mod bulk;
mod check;
mod head;
pub(crate) mod history;
mod land;
mod limits;
mod recent;
mod refusal;
mod step;
pub(crate) mod verify;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use keepgate_policy::world::Builder;
use keepgate_policy::{Change, Digest, Item, ItemBody, ItemKey, Revision, proto};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use bulk::{Anew, Bulk, BulkPlanner};
pub use check::EditProblem;
pub(crate) use check::shown_id;
pub(crate) use head::is_default;
pub use head::{Head, Unnamed};
pub(crate) use history::Witness;
pub use history::{Condition, Sums};
pub(crate) use land::an_admin_remains;
pub(crate) use recent::DELTA_BYTES;
pub use recent::{Landed, Recent, Scope, Since};
pub use refusal::{OpenError, Refusal, Since as ChangedSince};
pub use step::{Counts, Landing};
pub(crate) use step::{Planned, Settled, Step};
pub use verify::Newer;
pub use work::{Stage, Watching, Work};

use crate::store::{
    EditVerdict, Fork, Meta, Reading, Retention, Standing, Store, StoreError, Sum, TokenRow,
    TokenUse,
};
use head::digest_of;
use history::Line;

/// Edits that may wait; one more is refused as [`Refusal::Busy`].
const QUEUE: usize = 256;

/// What an edit wants to do; a later change of the same key wins.
#[derive(Debug, Default)]
pub struct EditPlan {
    /// Items put and deleted.
    pub changes: Vec<Change>,
    /// Tokens created or changed.
    pub tokens: Vec<TokenRow>,
    /// Items that are as the files have them.
    pub(crate) settled: Vec<Settled>,
}

/// Works out a [`EditPlan`] inside the write transaction.
pub type Planner = Box<dyn FnOnce(&dyn Reading, &Head) -> Result<EditPlan, Refusal> + Send>;

/// A wish to change the world.
pub struct Edit {
    /// The id of the token that asks, or `center`.
    pub actor: String,
    /// What is asked for, for the audit log: `apply`, `role.assign`, ...
    pub action: &'static str,
    /// Everything is checked and reported, nothing kept.
    pub dry_run: bool,
    /// What to do.
    pub plan: Planner,
}

/// Changes that an outcome lists.
pub const CHANGES_TOLD: usize = 10_000;

/// What came of an edit.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The revision of the state that it left (or, for a dry run, found).
    pub revision: Revision,
    /// How many items changed; none: no revision was made.
    pub counts: Counts,
    /// What changed, in key order, the first [`CHANGES_TOLD`].
    pub changes: Vec<Landing>,
    /// Items that it left alone, because others changed them while it was worked out.
    pub kept: Vec<ItemKey>,
}

impl Outcome {
    fn nothing(revision: Revision) -> Outcome {
        let (counts, changes) = Default::default();
        Outcome { revision, counts, changes, kept: Vec::new() }
    }

    fn of(revision: Revision, steps: &[Step]) -> Outcome {
        Outcome {
            revision,
            counts: Counts::of(steps),
            changes: steps.iter().take(CHANGES_TOLD).map(Step::landing).collect(),
            kept: Vec::new(),
        }
    }
}

enum Job {
    Edit(Edit, oneshot::Sender<Result<Outcome, Refusal>>),
    Bulk(Box<bulk::Prepared>, oneshot::Sender<Result<bulk::Landed, Refusal>>),
    Touch(Vec<TokenUse>),
    /// See whether writing is possible again.
    Probe,
}

/// How long small edits may go first, from when a prepared one has come.
const BULK_WAITS: Duration = Duration::from_secs(5);

/// Prepared edits that may wait for the writer.
const BULK_QUEUE: usize = 8;

/// See the module.
pub struct Desk {
    shared: Arc<Shared>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    watch: Mutex<Option<Watch>>,
}

/// The thread that looks after the store's files; it ends when it is told to.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What the writer thread and the readers share.
pub(crate) struct Shared {
    store: Arc<dyn Store>,
    keep: Retention,
    head: ArcSwap<Head>,
    recent: Recent,
    landed: watch::Sender<Revision>,
    line: Line,
    /// A revision that is stored, but not noted yet: nobody was told of it.
    pending: Mutex<Option<land::Next>>,
    /// A loss that is not written down yet.
    unkept: Mutex<Option<Loss>>,
}

/// What a witness has shown.
struct Loss {
    why: Arc<str>,
    /// The highest revision that was shown.
    witnessed: Revision,
}

/// How long is waited for a loss to be written down before it is said in other words.
const NOTED: Duration = Duration::from_secs(5);

/// How often the store's files are looked at.
const CONFIRM_EVERY: Duration = Duration::from_millis(250);

impl Desk {
    /// Reads the whole store, checks its digests, builds the world and starts the writer thread.
    /// Blocks.
    ///
    /// For `witness_wait` no state is told and no edit lands: gates that reconnect are heard first.
    pub fn open(
        store: Arc<dyn Store>,
        keep: Retention,
        witness_wait: Duration,
    ) -> Result<Desk, OpenError> {
        let (head, meta, forks) = load(store.as_ref())?;
        let revision = head.revision;
        let line = Line::new(meta, forks, &head.mark, !witness_wait.is_zero());
        if let Condition::Lost(why) = line.condition() {
            tracing::error!(why = &*why, "the history is lost: nothing is served or decided");
        }
        let shared = Arc::new(Shared {
            store,
            keep,
            head: ArcSwap::from_pointee(head),
            recent: Recent::new(revision),
            landed: watch::Sender::new(revision),
            line,
            pending: Mutex::new(None),
            unkept: Mutex::new(None),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("center-writer".to_owned())
                .spawn(move || work(&shared, queue))
                .map_err(OpenError::Thread)?
        };
        let (shown, alive) = (Arc::downgrade(&shared), jobs.downgrade());
        let until = Instant::now() + witness_wait;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let watch = std::thread::Builder::new()
            .name("center-watch".to_owned())
            .spawn(move || look_after(&shown, &alive, &told, until))
            .map_err(OpenError::Thread)?;
        Ok(Desk {
            shared,
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            watch: Mutex::new(Some(Watch { stop, thread: watch })),
        })
    }

    /// How the center stands to its own past.
    pub fn condition(&self) -> Condition {
        self.shared.line.condition()
    }

    /// Wakes when that changes.
    pub fn watch_condition(&self) -> watch::Receiver<Condition> {
        self.shared.line.watch()
    }

    /// The history and its ancestors.
    pub fn meta(&self) -> &Meta {
        self.shared.line.meta()
    }

    /// The head, if the store was found in its place within the last second: what a heartbeat may
    /// call current.
    pub fn confirmed(&self) -> Option<Arc<Head>> {
        let good = self.shared.line.is_confirmed() && self.condition().serves();
        good.then(|| self.head())
    }

    /// Waits until gates have been heard, and says whether state may be told.
    pub async fn settled(&self) -> Condition {
        let mut condition = self.watch_condition();
        match condition.wait_for(|now| *now != Condition::Waiting).await {
            Ok(now) => now.clone(),
            Err(_) => self.condition(),
        }
    }

    /// Hears a witness. A sealed mark that this center does not have means that acknowledged state
    /// is lost; it stays so until an operator decides.
    pub(crate) async fn witness(&self, mark: &proto::Mark) -> Result<Witness, Refusal> {
        let said = match self.shared.line.quick(mark, &self.head()) {
            Ok(said) => said,
            Err(mark) => {
                self.read(move |store| {
                    let mut oldest = None;
                    let row = store.revision(mark.revision)?;
                    if row.is_none() {
                        store.revisions(&mut |row| {
                            oldest.get_or_insert(row.revision);
                            Ok(())
                        })?;
                    }
                    Ok(history::compare(mark, row.as_ref(), oldest.unwrap_or_default()))
                })
                .await?
            }
        };
        if let Witness::Contradiction(mark) = said {
            let head = self.head().mark;
            let why = format!(
                "a gate holds {mark}, which this center acknowledged and does not have (its head \
                 is {head}); recover it from a gate's host (`keepgate center recover --from FILE`), \
                 restore a newer backup (`keepgate center restore FILE`), or accept the loss \
                 (`keepgate center accept-loss`)"
            );
            self.lose(why.into(), mark.revision);
        }
        Ok(said)
    }

    /// Nothing is told or decided from now on. The thread that looks after the store's files writes
    /// the loss down and then shows it: it waits in no queue of edits.
    fn lose(&self, why: Arc<str>, witnessed: Revision) {
        self.shared.lose(why, witnessed);
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watch.as_ref() {
            watch.thread.thread().unpark();
        }
    }

    /// Where a loss has been shown, waits until it is written down, at most [`NOTED`]; returns how
    /// the center stands then.
    pub(crate) async fn noted(&self) -> Condition {
        let mut condition = self.watch_condition();
        let losing = |now: &Condition| !matches!(now, Condition::Losing(_));
        let _ = tokio::time::timeout(NOTED, condition.wait_for(losing)).await;
        self.condition()
    }

    /// Waits until gates have been heard; refused where acknowledged state is lost.
    async fn may_edit(&self) -> Result<(), Refusal> {
        self.settled().await;
        self.noted().await;
        self.shared.no_loss()
    }

    /// The current state. Cheap; take it once per request.
    pub fn head(&self) -> Arc<Head> {
        self.shared.head.load_full()
    }

    /// Wakes at each new revision.
    pub fn watch(&self) -> watch::Receiver<Revision> {
        self.shared.landed.subscribe()
    }

    /// The last revisions, encoded for followers.
    pub fn recent(&self) -> &Recent {
        &self.shared.recent
    }

    /// Lands an edit, or says why not.
    pub async fn edit(&self, edit: Edit) -> Result<Outcome, Refusal> {
        self.may_edit().await?;
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs().ok_or(Refusal::Closed)?;
        jobs.try_send(Job::Edit(edit, reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::Closed,
        })?;
        answer.await.unwrap_or(Err(Refusal::Closed))
    }

    /// Lands an edit of many items, worked out beside the writer; it may take its time. The edit is
    /// given up when its [`Work`] is.
    pub(crate) async fn edit_bulk(&self, mut bulk: Bulk) -> Result<Outcome, Refusal> {
        self.may_edit().await?;
        let mut items = 0;
        for _ in 0..bulk::ATTEMPTS {
            let shared = Arc::clone(&self.shared);
            let work = tokio::task::spawn_blocking(move || {
                let ready = bulk::prepare(&shared, &mut bulk);
                (ready, bulk)
            });
            let ready;
            (ready, bulk) = work.await.map_err(|_| Refusal::Closed)?;
            let prepared = match ready? {
                bulk::Ready::Done(outcome) => return Ok(outcome),
                bulk::Ready::Write(prepared) => prepared,
                bulk::Ready::Again(count) => {
                    items = count;
                    continue;
                }
            };
            items = prepared.len();
            let (reply, answer) = oneshot::channel();
            let jobs = self.jobs().ok_or(Refusal::Closed)?;
            jobs.send(Job::Bulk(prepared, reply)).await.map_err(|_| Refusal::Closed)?;
            let landed = answer.await.unwrap_or(Err(Refusal::Closed))?;
            let attempt = landed.attempt;
            // What is left of it is large: freeing it holds up nobody here.
            tokio::task::spawn_blocking(move || drop((landed.prepared, landed.replaced)));
            if let bulk::Attempt::Done(outcome) = attempt {
                return Ok(outcome);
            }
        }
        // Others change what it rests on again and again: the writer works it out, they wait.
        if items > bulk::MAX_ON_WRITER {
            return Err(Refusal::Overtaken(items));
        }
        let Bulk { actor, action, dry_run, mut plan, work, place, .. } = bulk;
        let plan: Planner = Box::new(move |store, head| {
            let _held = place;
            let Planned { steps, settled } = plan(store, head)?;
            work.checked(0)?;
            let changes = steps.into_iter().map(|step| match step.after {
                Some(after) => after.decode().map(Change::Put),
                None => Ok(Change::Delete(step.key)),
            });
            let changes = changes.collect::<Result<_, _>>().map_err(StoreError::from)?;
            Ok(EditPlan { changes, settled, ..EditPlan::default() })
        });
        self.edit(Edit { actor, action, dry_run, plan }).await
    }

    /// Notes when tokens were used last; dropped when the queue is full.
    pub fn touch(&self, used: Vec<TokenUse>) {
        if let Some(jobs) = self.jobs() {
            let _ = jobs.try_send(Job::Touch(used));
        }
    }

    /// Reads from the store off the runtime, all at one revision.
    pub async fn read<T, F>(&self, f: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Reading) -> Result<T, Refusal> + Send + 'static,
    {
        let store = Arc::clone(&self.shared.store);
        let work = tokio::task::spawn_blocking(move || f(store.read()?.as_ref()));
        work.await.unwrap_or(Err(Refusal::Closed))
    }

    /// Finishes the edits that wait, stops the writer and settles the store. Blocks.
    pub fn close(&self) -> Result<(), StoreError> {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watch) = watch {
            watch.stop.store(true, Ordering::Relaxed);
            watch.thread.thread().unpark();
            let _ = watch.thread.join();
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            if thread.join().is_err() {
                tracing::error!("the writer thread panicked");
            }
            self.shared.keep_loss();
            self.shared.store.settle()?;
        }
        Ok(())
    }

    fn jobs(&self) -> Option<mpsc::Sender<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // The threads end when the queue does; a clean exit has closed already.
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// The writer thread: until the queue is closed and empty. A large prepared edit waits until no small
/// one does, or for [`BULK_WAITS`].
fn work(shared: &Shared, mut queue: mpsc::Receiver<Job>) {
    let mut waiting: VecDeque<(Instant, _, _)> = VecDeque::new();
    loop {
        let job = match waiting.front() {
            None => queue.blocking_recv(),
            Some((since, ..)) if Instant::elapsed(since) >= BULK_WAITS => None,
            Some(_) => queue.try_recv().ok(),
        };
        match job {
            Some(Job::Bulk(prepared, reply)) if prepared.is_small() => {
                bulk(shared, prepared, reply);
            }
            Some(Job::Bulk(prepared, reply)) if waiting.len() < BULK_QUEUE => {
                waiting.push_back((Instant::now(), prepared, reply));
            }
            Some(Job::Bulk(_, reply)) => {
                let _ = reply.send(Err(Refusal::Busy));
            }
            Some(job) => small(shared, job),
            None => {
                let Some((_, prepared, reply)) = waiting.pop_front() else { return };
                bulk(shared, prepared, reply);
            }
        }
    }
}

fn bulk(
    shared: &Shared,
    prepared: Box<bulk::Prepared>,
    reply: oneshot::Sender<Result<bulk::Landed, Refusal>>,
) {
    let action = prepared.action;
    let landed = shared.resume().and_then(|()| bulk::land(shared, prepared));
    shared.judge(action, &landed, |landed| landed.replaced.is_some());
    let _ = reply.send(landed);
}

fn small(shared: &Shared, job: Job) {
    match job {
        Job::Edit(edit, reply) => {
            let action = edit.action;
            let outcome = shared.resume().and_then(|()| land::land(shared, edit));
            shared.judge(action, &outcome, |outcome| !outcome.changes.is_empty());
            // The caller may have gone; the revision stands all the same.
            let _ = reply.send(outcome);
        }
        Job::Touch(used) => {
            if shared.line.condition() != Condition::Ready {
                return;
            }
            let noted = shared.store.write(&mut |tx| {
                tx.touch(&used)?;
                Ok(EditVerdict::Commit)
            });
            if let Err(e) = noted {
                shared.note_failure(&e);
                tracing::warn!(error = %keepgate_observe::chain(&e), "token use was not noted");
            }
        }
        Job::Probe => shared.probe(),
        Job::Bulk(..) => {}
    }
}

/// Looks after the store's files while the desk lives, ends the wait for witnesses, writes down
/// what they have shown, and has the writer try again where it could not write.
fn look_after(
    shared: &Weak<Shared>,
    jobs: &mpsc::WeakSender<Job>,
    stop: &AtomicBool,
    until: Instant,
) {
    let mut looks: u64 = 0;
    while !stop.load(Ordering::Relaxed)
        && let (Some(shared), Some(jobs)) = (shared.upgrade(), jobs.upgrade())
    {
        shared.keep_loss();
        let began = Instant::now();
        match shared.store.confirm() {
            Ok(()) => shared.line.found_in_place(began),
            Err(e) => shared.note_failure(&e),
        }
        let condition = shared.line.condition();
        if condition == Condition::Waiting && began >= until {
            shared.line.become_(Condition::Ready);
        }
        let stuck = matches!(condition, Condition::Full(_) | Condition::Stopped(_));
        if stuck && looks.is_multiple_of(4) {
            let _ = jobs.try_send(Job::Probe);
        }
        looks += 1;
        let pause = match until.checked_duration_since(Instant::now()) {
            Some(left) if condition == Condition::Waiting => left.min(CONFIRM_EVERY),
            _ => CONFIRM_EVERY,
        };
        drop((shared, jobs));
        std::thread::park_timeout(pause);
    }
}

impl Shared {
    /// Makes a stored revision known: noted outside of the store first, then published.
    /// Returns the state that was published before.
    fn publish(&self, next: land::Next) -> Result<Arc<Head>, StoreError> {
        if let Err(e) = self.store.note_high(&next.head.mark) {
            *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
            return Err(e);
        }
        let revision = next.head.revision;
        self.line.told(&next.head.mark);
        self.recent.push(next.landed);
        let replaced = self.head.swap(Arc::new(next.head));
        self.landed.send_replace(revision);
        Ok(replaced)
    }

    /// Publishes what could not be published before. Nothing lands until that is done.
    fn resume(&self) -> Result<(), Refusal> {
        self.no_loss()?;
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        match pending {
            Some(next) => self.publish(next).map(drop).map_err(Refusal::Store),
            None => Ok(()),
        }
    }

    /// What an edit's end says about the store.
    fn judge<T>(
        &self,
        action: &'static str,
        landed: &Result<T, Refusal>,
        changed: impl FnOnce(&T) -> bool,
    ) {
        if let Err(Refusal::Store(e)) = landed {
            self.note_failure(e);
        }
        if let Err(e @ (Refusal::Store(_) | Refusal::World(_))) = landed {
            tracing::error!(action, error = %keepgate_observe::chain(e), "a change did not land");
        }
        if landed.as_ref().is_ok_and(changed) {
            self.recovered();
        }
    }

    fn note_failure(&self, error: &StoreError) {
        let why: Arc<str> = keepgate_observe::chain(error).into();
        let next = if error.is_lost() {
            Condition::Lost(why)
        } else if error.is_full() {
            Condition::Full(why)
        } else if error.is_passing() {
            Condition::Stopped(why)
        } else {
            return;
        };
        let lost = matches!(next, Condition::Lost(_));
        if self.line.become_(next) {
            let condition = self.line.condition();
            if lost {
                tracing::error!(why = condition.why(), "the store is gone: nothing is served");
            } else {
                tracing::error!(why = condition.why(), "changes cannot be stored");
            }
        }
    }

    fn recovered(&self) {
        if matches!(self.line.condition(), Condition::Full(_) | Condition::Stopped(_))
            && self.line.become_(Condition::Ready)
        {
            tracing::info!("changes can be stored again");
        }
    }

    /// Tries a write that changes nothing.
    fn probe(&self) {
        let room = self.store.has_room().map_err(Refusal::Store);
        let tried = room.and_then(|()| self.resume()).and_then(|()| {
            let tried = self.store.write(&mut |tx| {
                let sum = tx.sum(Sum::Tokens)?;
                tx.set_sum(Sum::Tokens, sum)?;
                Ok(EditVerdict::Commit)
            });
            tried.map_err(Refusal::Store)
        });
        match tried {
            Ok(()) => self.recovered(),
            Err(Refusal::Store(e)) => self.note_failure(&e),
            Err(_) => {}
        }
    }

    /// Refused where acknowledged state is lost.
    fn no_loss(&self) -> Result<(), Refusal> {
        match self.line.condition() {
            Condition::Lost(why) => Err(Refusal::Lost(why)),
            Condition::Losing(why) => Err(Refusal::Stopped(why)),
            _ => Ok(()),
        }
    }

    fn unkept(&self) -> MutexGuard<'_, Option<Loss>> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Desk::lose`].
    fn lose(&self, why: Arc<str>, witnessed: Revision) {
        let mut unkept = self.unkept();
        let before = unkept.take().map_or(witnessed, |loss| loss.witnessed);
        *unkept = Some(Loss { why: Arc::clone(&why), witnessed: before.max(witnessed) });
        // Under the lock: whoever writes it down finds it stopped.
        if self.line.become_(Condition::Losing(why)) {
            tracing::error!("a gate shows that the history is lost: nothing is served or decided");
        }
    }

    /// Writes down a loss that is not, and then shows it. Tried again where it fails.
    fn keep_loss(&self) {
        let Some(loss) = self.unkept().take() else { return };
        match self.keep_lost(&loss) {
            Ok(()) => {
                if self.line.become_(Condition::Lost(Arc::clone(&loss.why))) {
                    let why = &*loss.why;
                    tracing::error!(why, "the history is lost: nothing is served or decided");
                }
            }
            Err(e) => {
                let error = keepgate_observe::chain(&e);
                let why = format!(
                    "{}; this cannot be written down yet, so a restart would not know of it: \
                     {error}",
                    loss.why
                );
                if self.line.become_(Condition::Losing(why.into())) {
                    tracing::error!(error, "a loss of the history cannot be written down");
                }
                let mut unkept = self.unkept();
                let since = unkept.take();
                let witnessed = since.map_or(loss.witnessed, |s| s.witnessed.max(loss.witnessed));
                *unkept = Some(Loss { witnessed, ..loss });
            }
        }
    }

    fn keep_lost(&self, loss: &Loss) -> Result<(), StoreError> {
        self.store.write(&mut |tx| {
            let mut meta = tx.meta()?;
            let highest = match meta.standing {
                Standing::Lost { witnessed, .. } if witnessed >= loss.witnessed => {
                    return Ok(EditVerdict::Rollback);
                }
                _ => loss.witnessed,
            };
            meta.standing = Standing::Lost { why: loss.why.to_string(), witnessed: highest };
            tx.set_meta(&meta)?;
            Ok(EditVerdict::Commit)
        })
    }
}

/// The head of a store, all at one revision.
fn load(store: &dyn Store) -> Result<(Head, Meta, Vec<Fork>), OpenError> {
    let reading = store.read()?;
    let meta = reading.meta()?;
    let forks = reading.forks()?;
    let last = verify::chain(reading.as_ref(), &meta)?;
    let revision = last.revision;
    let mut newer = Newer::default();
    let mut world = Builder::new(revision);
    let mut services = BTreeMap::new();
    let mut scopes = BTreeMap::new();
    for scope in reading.scopes()? {
        let mut sum = Digest::default();
        let mut broken: Option<OpenError> = None;
        let mut count = 0;
        reading.each(&scope.service, &mut |row| {
            if broken.is_some() {
                return Ok(());
            }
            count += 1;
            let item = Item::decode(row.key.clone(), &row.body)?;
            let digest = verify::row(&row, &item, revision)?;
            sum = sum.plus(digest);
            newer.moved(&item.key.service, row.needs, true);
            if let ItemBody::Service(settings) = &item.body {
                services.insert(item.key.service.clone(), Arc::new((**settings).clone()));
            }
            // A replica computes its digest from what it decodes.
            let same = item.encode() == row.body;
            let digest = if same { digest } else { Digest::of(&item) };
            // An error of the engine is not the store's.
            broken = world.put(&item, digest).err().map(OpenError::World);
            Ok(())
        })?;
        if let Some(e) = broken {
            return Err(e);
        }
        verify::scope(&scope, sum, count)?;
        scopes.insert(scope.service.clone(), scope);
    }
    let world = world.finish(Some(digest_of(&scopes, &Scope::All)))?;
    let tokens = reading.tokens()?;
    let sums = verify::sums(reading.as_ref(), &tokens)?;
    let tokens = tokens.into_iter().map(|row| (row.id.clone(), row)).collect();
    let head = Head {
        revision,
        world,
        scopes: Arc::new(scopes),
        services: Arc::new(services),
        tokens: Arc::new(tokens),
        mark: meta.mark(revision, last.chain),
        sums,
        newer: Arc::new(newer),
        authzen_together: meta.authzen_together,
    };
    Ok((head, meta, forks))
}
