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

/// Whole lines, and where each one ends, so that whoever takes them need not look for it.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Lines {
    /// Bytes of them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Each, without its end of line.
    pub(crate) fn each(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        self.ends.iter().map(move |end| {
            let line = self.text.get(begin..end.saturating_sub(1)).unwrap_or_default();
            begin = *end;
            line
        })
    }

    /// Makes them none. Memory beyond this bound is given back.
    pub(crate) fn clear(&mut self, keep: usize) {
        self.text.clear();
        self.ends.clear();
        self.text.shrink_to(keep);
        self.ends.shrink_to(keep / 256);
    }

    /// Appends one, which `write` writes with its end of line.
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.ends.push(self.text.len());
    }
}

#[derive(Debug, Default)]
struct Inner {
    lines: Lines,
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
                self.lines.push(|line| {
                    line.extend_from_slice(b"{\"");
                    line.extend_from_slice(name.as_bytes());
                    line.extend_from_slice(b"\":");
                    time::number(line, *count);
                    line.extend_from_slice(b"}\n");
                });
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
        let before = inner.lines.bytes().len();
        if before >= self.bound {
            inner.lost += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        inner.tell();
        inner.lines.push(|out| line.finish(ended, out));
        let after = inner.lines.bytes().len();
        drop(inner);
        if before < WAKE
            && after >= WAKE
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// Takes all that is there, in exchange for an empty buffer.
    pub(crate) fn take(&self, empty: Lines) -> Lines {
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
