//! Lines on their way from one worker to the writer: memory with a bound, and a count of what did not
//! fit, at its place.
//!
//! INVARIANT: whoever offers a line never waits for a disk or a reader. The lock is the worker's own; the
//! writer takes it only to exchange one buffer for another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

use crate::draft::{Ended, Line};
use crate::time;

/// Bytes at which the writer is woken.
const WAKE: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    bound: usize,
    /// The writer.
    writer: std::sync::OnceLock<Thread>,
    offered: AtomicU64,
    lost: AtomicU64,
    sampled_out: AtomicU64,
    /// Requests by rule of sampling.
    seen: Box<[AtomicU64]>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Whole lines.
    lines: Vec<u8>,
    /// What did not fit since the last of them.
    lost: u64,
    /// What was not to be written since the last of them.
    sampled_out: u64,
}

impl Inner {
    /// Says, after the lines that are there, what is not.
    fn tell(&mut self) {
        for (count, name) in [(&mut self.lost, "lost"), (&mut self.sampled_out, "sampled_out")] {
            if *count > 0 {
                self.lines.extend_from_slice(b"{\"");
                self.lines.extend_from_slice(name.as_bytes());
                self.lines.extend_from_slice(b"\":");
                time::number(&mut self.lines, *count);
                self.lines.extend_from_slice(b"}\n");
                *count = 0;
            }
        }
    }
}

impl Queue {
    /// One that holds about so many bytes: the last line may go beyond.
    pub(crate) fn new(bound: usize, rules: usize) -> Queue {
        Queue {
            inner: Mutex::default(),
            bound,
            writer: std::sync::OnceLock::new(),
            offered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            sampled_out: AtomicU64::new(0),
            seen: (0..rules).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn wakes(&self, writer: Thread) {
        // Set once, when the writer begins.
        let _ = self.writer.set(writer);
    }

    /// Whether an allowed request that this rule is about is one of those to be written: one in
    /// `one_in`, the first among them; 0: none.
    pub fn takes(&self, rule: usize, one_in: u64) -> bool {
        let Some(seen) = self.seen.get(rule) else { return true };
        // One worker counts: no other thread writes here.
        let number = seen.fetch_add(1, Ordering::Relaxed);
        number.checked_rem(one_in) == Some(0)
    }

    /// A request that is not written.
    pub fn leave_out(&self) {
        self.sampled_out.fetch_add(1, Ordering::Relaxed);
        self.lock().sampled_out += 1;
    }

    /// Takes on a record, or counts it as lost.
    pub fn offer(&self, line: &Line, ended: &Ended) {
        self.offered.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        let before = inner.lines.len();
        if before >= self.bound {
            inner.lost += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        inner.tell();
        line.finish(ended, &mut inner.lines);
        let after = inner.lines.len();
        drop(inner);
        if before < WAKE
            && after >= WAKE
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// Takes all that is there, in exchange for an empty buffer.
    pub(crate) fn take(&self, empty: Vec<u8>) -> Vec<u8> {
        let mut inner = self.lock();
        inner.tell();
        std::mem::replace(&mut inner.lines, empty)
    }

    /// Records offered, lost, and left out by sampling (which were not offered).
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (read(&self.offered), read(&self.lost), read(&self.sampled_out))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
