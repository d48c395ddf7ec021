//! The one place where the world changes: edits in, revisions out.
//!
//! A dedicated thread takes edits from a bounded queue, one at a time. Each is planned against
//! the state inside its write transaction, checked, made into one revision, committed, and then
//! published: world, revision, scopes, services and tokens in one [`Head`], swapped atomically.
//! Readers take the head once and see one state. Followers are woken by a watch channel; what
//! they need of the last revisions is in [`Recent`], encoded once.
//!
//! Other centers may write to the same store: what they wrote is published here as well, revision by
//! revision, and before any edit is planned on top of it (`others`).
//!
//! Edits that may be of many items are worked out beside that thread (`bulk`), which only writes
//! them, after the small edits that wait.
//!
//! INVARIANT: the head is never ahead of the store, and an edit is acknowledged only after its
//! commit is durable and its head is published.

mod beside;
mod bulk;
mod check;
mod head;
pub(crate) mod history;
mod land;
mod limits;
mod load;
pub(crate) mod logs;
pub(crate) mod others;
pub(crate) mod past;
mod recent;
mod refusal;
mod step;
pub(crate) mod verify;
mod work;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use keepgate_policy::world::Retired;
use keepgate_policy::{Change, ItemKey, Revision, proto};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use bulk::{Anew, Bulk, BulkPlanner};
pub use check::EditProblem;
pub(crate) use check::shown_id;
pub(crate) use head::is_default;
pub use head::{Head, Unnamed};
pub(crate) use history::Witness;
pub use history::{Condition, Sums, WriteId};
pub(crate) use land::{ROLLBACK, an_admin_remains, shown};
pub(crate) use recent::DELTA_BYTES;
pub use recent::{Landed, Recent, Scope, Since};
pub use refusal::{OpenError, Refusal, Since as ChangedSince};
pub use step::{Counts, Landing};
pub(crate) use step::{Planned, Settled, Step};
pub use verify::Newer;
pub use work::{Stage, Watching, Work};

use crate::store::{
    EditVerdict, Meta, Reading, RequestChange, RequestRow, Retention, SessionBounds, SessionChange,
    Store, StoreError, TokenRow, TokenUse, Writing,
};
use beside::{Loss, Watch, free_worlds, look_after, wait_heads};
use head::digest_of;
use history::Line;
use load::load;

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
    /// Requests for access that were decided, or whose key was made.
    pub(crate) requests: Vec<RequestRow>,
    /// Those whose sessions of the console end.
    pub(crate) ended: Vec<String>,
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
    /// By what the edit is known: one of the same id that landed is not made again. None: it gets a
    /// random one.
    pub write_id: Option<WriteId>,
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
    /// It had landed before, as this revision, and was not made again.
    pub replayed: bool,
}

impl Outcome {
    fn nothing(revision: Revision) -> Outcome {
        let (counts, changes) = Default::default();
        Outcome { revision, counts, changes, kept: Vec::new(), replayed: false }
    }

    fn of(revision: Revision, steps: &[Step]) -> Outcome {
        Outcome {
            revision,
            counts: Counts::of(steps),
            changes: steps.iter().take(CHANGES_TOLD).map(Step::landing).collect(),
            kept: Vec::new(),
            replayed: false,
        }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It landed as this revision.
    Landed {
        /// The revision.
        revision: Revision,
        /// When, in milliseconds since the Unix epoch.
        unix_ms: u64,
    },
    /// It is not among the revisions that are kept, and none that is under way will make it.
    Absent {
        /// When the oldest of them landed, in milliseconds since the Unix epoch: of what landed
        /// before, nothing is known. None: all are kept.
        kept_since_unix_ms: Option<u64>,
    },
}

/// The newest state that may be called current.
#[derive(Clone, Debug)]
pub struct Confirmed {
    /// The state.
    pub head: Arc<Head>,
    /// Where other centers write to the store: the time up to which it is current.
    pub until: Option<Instant>,
}

/// Writes beside all revisions.
type Beside = Box<dyn FnMut(&mut dyn Writing) -> Result<bool, StoreError> + Send>;

enum Job {
    Edit(Edit, oneshot::Sender<Result<Outcome, Refusal>>),
    Bulk(Box<bulk::Prepared>, oneshot::Sender<Result<bulk::Landed, Refusal>>),
    Touch(Vec<TokenUse>),
    /// Sign access logs.
    Sign(Vec<logs::Wanted>, oneshot::Sender<Result<Vec<logs::Signed>, Refusal>>),
    /// A write beside all revisions.
    Beside(Beside, oneshot::Sender<Result<bool, Refusal>>),
    /// See what became of a write.
    Look(WriteId, oneshot::Sender<Result<Written, Refusal>>),
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
    /// See [`Shared::publishing`].
    publishing: Mutex<()>,
    /// Held while the whole store is read anew.
    reading_anew: Mutex<()>,
    /// Worlds that were replaced; a thread of its own frees them.
    retired: Mutex<Retired>,
}

/// How long is waited for a loss to be written down before it is said in other words.
const NOTED: Duration = Duration::from_secs(5);

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
        let (head, meta, forks) = load(store.as_ref(), None)?;
        let is_shared = store.is_shared();
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
            publishing: Mutex::default(),
            reading_anew: Mutex::default(),
            retired: Mutex::default(),
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
        let (heads, awaited, shown_again) = (shown.clone(), alive.clone(), shown.clone());
        let until = Instant::now() + witness_wait;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let watch = std::thread::Builder::new()
            .name("center-watch".to_owned())
            .spawn(move || look_after(&shown, &alive, &told, until))
            .map_err(OpenError::Thread)?;
        let (told, worlds) = (Arc::clone(&stop), shown_again);
        let free = std::thread::Builder::new()
            .name("center-free".to_owned())
            .spawn(move || free_worlds(&worlds, &told))
            .map_err(OpenError::Thread)?;
        let told = Arc::clone(&stop);
        let wait = move || wait_heads(&heads, &awaited, &told);
        let wait = is_shared
            .then(|| std::thread::Builder::new().name("center-heads".to_owned()).spawn(wait));
        let heads = wait.transpose().map_err(OpenError::Thread)?;
        Ok(Desk {
            shared,
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            watch: Mutex::new(Some(Watch { stop, thread: watch, free, heads })),
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
    /// call current. Where other centers write to it, it is current up to when that look began.
    pub fn confirmed(&self) -> Option<Confirmed> {
        // The look first: the head that it found is published by then.
        let at = self.shared.line.confirmed()?;
        let until = self.is_shared().then_some(at);
        self.condition().serves().then(|| Confirmed { head: self.head(), until })
    }

    /// Wakes when a look at the store has confirmed the head.
    pub(crate) fn watch_confirmed(&self) -> watch::Receiver<Option<Instant>> {
        self.shared.line.watch_confirmed()
    }

    /// Whether other centers may write to the store.
    pub fn is_shared(&self) -> bool {
        self.shared.store.is_shared()
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
        let said = match self.shared.line.quick(mark, &self.head(), self.is_shared()) {
            Ok(said) => said,
            Err(mark) => {
                let said = self.read(move |store| {
                    let mut oldest = None;
                    let row = store.revision(mark.revision)?;
                    if row.is_none() {
                        store.revisions(&mut |row| {
                            oldest.get_or_insert(row.revision);
                            Ok(())
                        })?;
                    }
                    Ok(history::compare(mark, row.as_ref(), oldest.unwrap_or_default()))
                });
                let said = said.await?;
                if mark.revision > self.head().revision && said == Witness::OnLine {
                    // Another center told it. What is told from here on is not older.
                    let shared = Arc::clone(&self.shared);
                    let work = tokio::task::spawn_blocking(move || shared.catch_up());
                    work.await.unwrap_or(Err(Refusal::Closed))?;
                }
                said
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

    /// See [`Store::exchange`]. Blocks.
    pub(crate) fn exchange(&self, note: &[u8]) -> Result<Vec<crate::store::Told>, StoreError> {
        self.shared.store.exchange(note)
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
        self.shared.reached(answer.await.unwrap_or(Err(Refusal::Closed)))
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
            let prepared = match self.shared.reached(ready)? {
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
            let landed = self.shared.reached(answer.await.unwrap_or(Err(Refusal::Closed)))?;
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
        let Bulk { actor, action, dry_run, write_id, mut plan, work, place, .. } = bulk;
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
        self.edit(Edit { actor, action, dry_run, write_id, plan }).await
    }

    /// What became of a write. Nothing is guessed: where the store cannot be asked, it is
    /// [`Refusal::OutcomeUnknown`].
    pub async fn written(&self, write_id: WriteId) -> Result<Written, Refusal> {
        self.may_edit().await?;
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs().ok_or(Refusal::Closed)?;
        jobs.try_send(Job::Look(write_id, reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::Closed,
        })?;
        answer.await.unwrap_or(Err(Refusal::Closed))
    }

    /// Notes when tokens were used last; dropped when the queue is full.
    pub fn touch(&self, used: Vec<TokenUse>) {
        if let Some(jobs) = self.jobs() {
            let _ = jobs.try_send(Job::Touch(used));
        }
    }

    /// Signs how far access logs are, all in one write.
    pub(crate) async fn sign(
        &self,
        wanted: Vec<logs::Wanted>,
    ) -> Result<Vec<logs::Signed>, Refusal> {
        let (reply, signed) = oneshot::channel();
        let jobs = self.jobs().ok_or(Refusal::Closed)?;
        jobs.send(Job::Sign(wanted, reply)).await.map_err(|_| Refusal::Closed)?;
        signed.await.map_err(|_| Refusal::Closed)?
    }

    /// Changes a session of the console, beside all revisions; false: it is not there, or there are too
    /// many.
    pub(crate) async fn session(
        &self,
        change: SessionChange,
        bounds: SessionBounds,
    ) -> Result<bool, Refusal> {
        self.beside(Box::new(move |tx| tx.session_change(&change, bounds))).await
    }

    /// Changes a request for access, beside all revisions; false: it is not there, or there is no room.
    pub(crate) async fn request(&self, change: RequestChange) -> Result<bool, Refusal> {
        self.beside(Box::new(move |tx| tx.request_change(&change))).await
    }

    async fn beside(&self, work: Beside) -> Result<bool, Refusal> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs().ok_or(Refusal::Closed)?;
        jobs.try_send(Job::Beside(work, reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::Closed,
        })?;
        self.shared.reached(answer.await.unwrap_or(Err(Refusal::Closed)))
    }

    /// Reads from the store off the runtime, all at one revision.
    pub async fn read<T, F>(&self, f: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Reading) -> Result<T, Refusal> + Send + 'static,
    {
        let store = Arc::clone(&self.shared.store);
        let work = tokio::task::spawn_blocking(move || f(store.read()?.as_ref()));
        self.shared.reached(work.await.unwrap_or(Err(Refusal::Closed)))
    }

    /// Finishes the edits that wait, stops the writer and settles the store. Blocks.
    pub fn close(&self) -> Result<(), StoreError> {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watch) = watch {
            watch.stop.store(true, Ordering::Relaxed);
            watch.thread.thread().unpark();
            let _ = watch.thread.join();
            let _ = watch.heads.map(JoinHandle::join);
            watch.free.thread().unpark();
            let _ = watch.free.join();
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
        Job::Beside(mut work, reply) => {
            let mut done = false;
            let written = shared.store.write(&mut |tx| {
                done = work(tx)?;
                Ok(EditVerdict::Commit)
            });
            let _ = reply.send(written.map(|()| done).map_err(Refusal::Store));
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
        Job::Sign(wanted, reply) => {
            let _ = reply.send(logs::sign(shared, &wanted));
        }
        Job::Look(write_id, reply) => {
            let _ = reply.send(shared.written(&write_id));
        }
        Job::Probe => shared.probe(),
        Job::Bulk(..) => {}
    }
}

impl Shared {
    /// Makes a stored revision known: noted outside of the store first, then published.
    /// Returns the state that was published before.
    fn publish(&self, next: land::Next) -> Result<Arc<Head>, StoreError> {
        let _one = self.publishing();
        let now = self.head.load_full();
        if now.revision >= next.head.revision {
            // A thread that follows the store was faster.
            let told = self.line.chain_of(next.head.revision);
            if told.is_some_and(|chain| chain != next.head.mark.chain) {
                let expected = next.head.mark.to_string();
                let found = "another revision of that number".to_owned();
                return Err(StoreError::Moved { expected, found });
            }
            return Ok(now);
        }
        if let Err(e) = self.store.note_high(&next.head.mark) {
            *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
            return Err(e);
        }
        Ok(self.show(next))
    }

    /// The same, of what is noted, by whoever publishes.
    fn show(&self, next: land::Next) -> Arc<Head> {
        let revision = next.head.revision;
        if let Some(fork) = next.fork {
            self.line.jumps(fork);
        }
        self.line.told(&next.head.mark);
        self.recent.push(next.landed);
        let replaced = self.head.swap(Arc::new(next.head));
        self.retire(&replaced);
        self.landed.send_replace(revision);
        replaced
    }

    /// Keeps the world that was published before until nobody asks it any more.
    fn retire(&self, replaced: &Head) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.push(replaced.world.clone());
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
        if error.is_lost() && self.store.is_shared() {
            // The other centers must stop as well, and whoever starts later.
            return self.lose(why, self.head.load().revision);
        }
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
                others::write_nothing(tx)?;
                Ok(EditVerdict::Commit)
            });
            tried.map_err(Refusal::Store)
        });
        let tried = match tried {
            Ok(()) if self.store.is_shared() => self.catch_up().map(drop),
            tried => tried,
        };
        match tried {
            Ok(()) => self.recovered(),
            Err(e) => self.note_behind(&e),
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
}
