//! The threads beside the writer: one looks after the store and writes down what witnesses have shown,
//! one waits for what other centers write.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keepgate_policy::Revision;
use tokio::sync::mpsc;

use super::{Condition, Desk, Job, Refusal, Shared};
use crate::hour::Hours;
use crate::store::{EditVerdict, Standing, StoreError};

/// How often the store's files are looked at.
const CONFIRM_EVERY: Duration = Duration::from_millis(250);

/// Between two looks for worlds that nobody has any more.
const FREE_EVERY: Duration = Duration::from_millis(100);

/// How long other centers' revisions are waited for before it is looked whether to stop.
const WAIT_HEAD: Duration = Duration::from_millis(500);

/// The pause after a wait that failed.
const WAIT_AGAIN: Duration = Duration::from_millis(250);

/// The thread that looks after the store's files, and the one that waits for what other centers
/// write; they end when they are told to.
pub(super) struct Watch {
    pub(super) stop: Arc<AtomicBool>,
    pub(super) thread: JoinHandle<()>,
    /// It frees worlds.
    pub(super) free: JoinHandle<()>,
    pub(super) heads: Option<JoinHandle<()>>,
}

impl Desk {
    /// See [`Hours::exchange`]. Blocks, and holds no edit.
    pub(crate) fn exchange_hour(&self, hours: &Hours) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let now = keepgate_observe::unix_s();
        hours.exchange(now, |rows, since_ms| store.exchange_hour(rows, since_ms))
    }
}

/// What a witness has shown.
pub(super) struct Loss {
    pub(super) why: Arc<str>,
    /// The highest revision that was shown.
    pub(super) witnessed: Revision,
}

/// Looks after the store's files while the desk lives, ends the wait for witnesses, writes down
/// what they have shown, and has the writer try again where it could not write.
pub(super) fn look_after(
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
        shared.confirm();
        let condition = shared.line.condition();
        if condition == Condition::Waiting && Instant::now() >= until {
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

/// Frees worlds that were replaced and that no request has any more: whoever asks one is never the last
/// to let it go.
pub(super) fn free_worlds(shared: &Weak<Shared>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed)
        && let Some(shared) = shared.upgrade()
    {
        let free = shared.retired.lock().unwrap_or_else(PoisonError::into_inner).free();
        drop((free, shared));
        std::thread::park_timeout(FREE_EVERY);
    }
}

/// Publishes what other centers write as soon as they have written it.
pub(super) fn wait_heads(shared: &Weak<Shared>, jobs: &mpsc::WeakSender<Job>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed)
        && let (Some(shared), Some(_)) = (shared.upgrade(), jobs.upgrade())
    {
        let known = shared.head.load().revision;
        let moved = match shared.store.wait_head(known, WAIT_HEAD) {
            Ok(found) if found == known => continue,
            Ok(_) => shared.catch_up().map(drop),
            Err(e) => Err(Refusal::Store(e)),
        };
        // What failed is said by the thread that looks after the store.
        if moved.is_err() {
            drop(shared);
            std::thread::sleep(WAIT_AGAIN);
        }
    }
}

impl Shared {
    /// Looks whether the store is in its place and, where other centers write to it, brings the head
    /// in memory up to it: from then on the head was current when the look began.
    pub(super) fn confirm(&self) {
        let began = Instant::now();
        if let Err(e) = self.store.confirm() {
            return self.note_failure(&e);
        }
        if self.store.is_shared()
            && let Err(e) = self.catch_up()
        {
            return self.note_behind(&e);
        }
        self.line.found_in_place(began);
    }

    /// What a caller hears of a shared store that cannot be reached: that, and not that the center has
    /// failed.
    pub(super) fn reached<T>(&self, done: Result<T, Refusal>) -> Result<T, Refusal> {
        match done {
            Err(Refusal::Store(e)) if self.store.is_shared() && e.is_passing() => {
                let error = keepgate_observe::chain(&e);
                tracing::warn!(error, "a request found the store out of reach");
                Err(Refusal::Stopped(format!("{e}; nothing was changed; try again").into()))
            }
            done => done,
        }
    }

    /// The store cannot be followed: what is published here may not be its head.
    pub(super) fn note_behind(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Store(e) if e.is_lost() || e.is_passing() || e.is_full() => {
                self.note_failure(e)
            }
            Refusal::Store(_) | Refusal::World(_) => {
                let why = keepgate_observe::chain(refusal);
                if self.line.become_(Condition::Stopped(why.as_str().into())) {
                    tracing::error!(why, "what another center wrote cannot be taken over");
                }
            }
            // It is lost, which was said, or too busy for now.
            _ => {}
        }
    }

    pub(super) fn unkept(&self) -> MutexGuard<'_, Option<Loss>> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Desk::lose`].
    pub(super) fn lose(&self, why: Arc<str>, witnessed: Revision) {
        let mut unkept = self.unkept();
        let before = unkept.take().map_or(witnessed, |loss| loss.witnessed);
        *unkept = Some(Loss { why: Arc::clone(&why), witnessed: before.max(witnessed) });
        // Under the lock: whoever writes it down finds it stopped.
        if self.line.become_(Condition::Losing(why)) {
            tracing::error!("the history is lost: nothing is served or decided");
        }
    }

    /// Writes down a loss that is not, and then shows it. Tried again where it fails.
    pub(super) fn keep_loss(&self) {
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
            // Another store was put in its place: that one has lost nothing.
            if meta.history != self.line.meta().history {
                return Ok(EditVerdict::Rollback);
            }
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
