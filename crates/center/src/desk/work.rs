//! How far a long edit is, and whether anybody still waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::Refusal;

/// What a long edit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Reading what was sent.
    Read,
    /// Comparing it with what is stored.
    Compare,
    /// Checking what changes.
    Check,
    /// Making the new world.
    Build,
    /// Waiting for smaller changes, then writing.
    Commit,
}

impl Stage {
    const ALL: [Stage; 5] =
        [Stage::Read, Stage::Compare, Stage::Check, Stage::Build, Stage::Commit];

    /// As in progress lines.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Compare => "compare",
            Stage::Check => "check",
            Stage::Build => "build",
            Stage::Commit => "commit",
        }
    }
}

/// See the module. Shared by who asks, who works and who tells.
#[derive(Debug, Default)]
pub struct Work {
    gone: AtomicBool,
    stage: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
}

impl Work {
    /// Begins a stage of so many items; zero: not known.
    pub fn begin(&self, stage: Stage, total: usize) {
        self.stage.store(stage as u8, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total as u64, Ordering::Relaxed);
    }

    /// So many items of the stage are done.
    pub fn at(&self, done: usize) {
        self.done.store(done as u64, Ordering::Relaxed);
    }

    /// The stage, the items done in it and how many there are (zero: not known).
    pub fn progress(&self) -> (Stage, u64, u64) {
        let stage = usize::from(self.stage.load(Ordering::Relaxed));
        let stage = Stage::ALL.get(stage).copied().unwrap_or(Stage::Read);
        (stage, self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Nobody waits any more.
    pub fn give_up(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether nobody waits any more.
    pub fn is_given_up(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// So many more are done; an error when nobody waits any more.
    pub(super) fn checked(&self, more: usize) -> Result<(), Refusal> {
        self.done.fetch_add(more as u64, Ordering::Relaxed);
        if self.is_given_up() { Err(Refusal::Gone) } else { Ok(()) }
    }

    /// A guard that gives the work up when it is dropped: with the request that asked for it.
    pub fn watch(self: &Arc<Work>) -> Watching {
        Watching(Arc::clone(self))
    }
}

/// See [`Work::watch`].
#[derive(Debug)]
pub struct Watching(Arc<Work>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.give_up();
    }
}
