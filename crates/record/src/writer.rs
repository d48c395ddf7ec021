//! The writer: takes lines from the workers' queues, seals them, and brings them to their place.
//!
//! It has a thread of its own. What does not go out stays with it as one batch and is tried again; meanwhile
//! the queues fill, and what does not fit there is counted there. So a disk that is slow or full, and a
//! reader that has stopped, cost records, each of which is counted, and no request's time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::anchor::Anchor;
use crate::chain::Mark;
use crate::config::{Destination, LogConfig};
use crate::hash::{Hash, LogId};
use crate::queue::{Lines, Queue};
use crate::sink::{Sink, Socket, Stdout};
use crate::store::{Current, OpenError};
use crate::time::now_ms;

/// How often the queues are looked at while they are not filling.
const LOOK: Duration = Duration::from_millis(100);
/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often, while it is to end, a log is tried that another process has.
const CLOSING: u32 = 30;
/// Bytes that a buffer keeps from one batch to the next.
const KEPT: usize = 8 << 20;
/// How often the file is synced.
const SYNC: Duration = Duration::from_secs(1);

/// A place in the chain that a crash leaves: all up to it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log.
    pub log: LogId,
    /// The number of the last line.
    pub seq: u64,
    /// The chain up to and with it.
    pub chain: Hash,
}

/// What has happened to a log, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Records that were offered.
    pub offered: u64,
    /// Records that did not fit.
    pub lost: u64,
    /// Requests that were left out by sampling.
    pub sampled_out: u64,
    /// Lines written; marks are lines too.
    pub lines: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Times that writing failed.
    pub failures: u64,
    /// Whether the last try to write failed.
    pub is_failing: bool,
    /// Anchors written.
    pub anchors: u64,
}

/// See the module.
pub struct Log {
    queues: Box<[Arc<Queue>]>,
    shared: Arc<Shared>,
    thread: std::thread::Thread,
    /// Ready when the writer has ended.
    ended: Mutex<mpsc::Receiver<()>>,
}

#[derive(Default)]
pub(crate) struct Shared {
    closing: AtomicBool,
    lines: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    is_failing: AtomicBool,
    anchors: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last line that is synced, and that is no anchor or comes before one.
    position: Option<Position>,
    /// To be written.
    anchor: Option<Anchor>,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Opens it and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened or made.
    pub fn start(config: LogConfig, workers: usize) -> Result<Log, OpenError> {
        let each = config.queue_bytes / workers.max(1);
        let queues: Box<[Arc<Queue>]> =
            (0..workers.max(1)).map(|_| Arc::new(Queue::new(each, config.rules))).collect();
        let shared = Arc::new(Shared::default());
        let (out, file): (Box<dyn Sink>, _) = match &config.destination {
            Destination::File(path) => (Box::new(Stdout), Some(Current::open(path, &config)?)),
            Destination::Stdout => (Box::new(Stdout), None),
            Destination::Unix(path) => (Box::new(Socket::new(path.clone())), None),
        };
        let place = match file {
            Some(current) => Place::File(Box::new(current)),
            None => Place::Stream(out),
        };
        let (say, ended) = mpsc::channel();
        let mut writer = Writer {
            queues: queues.clone(),
            shared: Arc::clone(&shared),
            place,
            batch: Vec::new(),
            done: 0,
            spare: Lines::default(),
            synced: Instant::now(),
            is_dirty: false,
            unanchored: false,
        };
        let thread = std::thread::Builder::new()
            .name("gate-log".to_owned())
            .spawn(move || {
                writer.run();
                // Whoever waits for the end may open the same log then.
                drop(writer);
                drop(say);
            })
            .map_err(OpenError::Thread)?
            .thread()
            .clone();
        for queue in &queues {
            queue.wakes(thread.clone());
        }
        Ok(Log { queues, shared, thread, ended: Mutex::new(ended) })
    }

    /// The queue of one worker.
    pub fn queue(&self, worker: usize) -> Option<Arc<Queue>> {
        self.queues.get(worker).cloned()
    }

    /// See [`LogStats`].
    pub fn stats(&self) -> LogStats {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let mut stats = LogStats {
            lines: read(&self.shared.lines),
            bytes: read(&self.shared.bytes),
            failures: read(&self.shared.failures),
            is_failing: self.shared.is_failing.load(Ordering::Relaxed),
            anchors: read(&self.shared.anchors),
            ..LogStats::default()
        };
        for queue in &self.queues {
            let (offered, lost, sampled_out) = queue.counts();
            stats.offered += offered;
            stats.lost += lost;
            stats.sampled_out += sampled_out;
        }
        stats
    }

    /// What a center should sign next; none: nothing that is not signed yet, or there is no chain.
    pub fn position(&self) -> Option<Position> {
        self.shared.lock().position
    }

    /// Writes an anchor into the log. What is signed by now needs no other one.
    pub fn anchored(&self, anchor: Anchor) {
        let mut state = self.shared.lock();
        if state.position.is_some_and(|position| position.seq <= anchor.seq) {
            state.position = None;
        }
        state.anchor = Some(anchor);
        drop(state);
        self.thread.unpark();
    }

    /// Writes what is there and ends the log in order, if it can within this time. Whether it could.
    pub fn close(&self, within: Duration) -> bool {
        self.shared.closing.store(true, Ordering::Release);
        self.thread.unpark();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // The sender is dropped at the end, so that being disconnected is the answer.
        let is_over = ended.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Disconnected);
        is_over && !self.shared.is_failing.load(Ordering::Acquire)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

enum Place {
    File(Box<Current>),
    Stream(Box<dyn Sink>),
}

struct Writer {
    queues: Box<[Arc<Queue>]>,
    shared: Arc<Shared>,
    place: Place,
    /// What is to be written next; sealed, where there is a chain.
    batch: Vec<u8>,
    /// Bytes of it that were written.
    done: usize,
    /// An empty buffer for the next exchange.
    spare: Lines,
    synced: Instant,
    is_dirty: bool,
    /// There are lines that no anchor is about, apart from anchors.
    unanchored: bool,
}

impl Writer {
    fn run(&mut self) {
        // Another process may still write the file: the one whose place this one takes.
        let (mut said, mut tries) = (false, 0);
        while let Place::File(current) = &mut self.place
            && !current.acquire()
        {
            if !said {
                said = true;
                let path = current.path().display().to_string();
                tracing::warn!(path, "another process writes the log; records wait until it ends");
            }
            tries += u32::from(self.shared.closing.load(Ordering::Acquire));
            if tries > CLOSING {
                self.shared.is_failing.store(true, Ordering::Release);
                return;
            }
            std::thread::sleep(AGAIN);
        }
        if let Place::File(current) = &mut self.place {
            current.recover(&mut self.batch);
            self.unanchored = current.link().is_some();
        }
        loop {
            let is_closing = self.shared.closing.load(Ordering::Acquire);
            let took = self.round();
            let is_failing = self.shared.is_failing.load(Ordering::Relaxed);
            if is_closing {
                if !is_failing {
                    self.end();
                }
                return;
            }
            if is_failing {
                std::thread::sleep(AGAIN);
            } else if !took {
                std::thread::park_timeout(LOOK);
            }
        }
    }

    /// Takes what there is and writes it. Whether there was much.
    fn round(&mut self) -> bool {
        let mut took = 0;
        for n in 0..self.queues.len() {
            if !self.flush() {
                return false;
            }
            let Some(queue) = self.queues.get(n) else { break };
            let lines = queue.take(std::mem::take(&mut self.spare));
            took += lines.bytes().len();
            self.seal(&lines);
            self.spare = lines;
            self.spare.clear(KEPT);
        }
        if !self.flush() {
            return false;
        }
        let anchor = self.shared.lock().anchor.take();
        if let Some(anchor) = anchor {
            self.mark(&Mark::Anchor(Box::new(anchor)));
            self.shared.anchors.fetch_add(1, Ordering::Relaxed);
            if !self.flush() {
                return false;
            }
        }
        if self.is_dirty && self.synced.elapsed() >= SYNC {
            self.sync();
        }
        if let Place::File(current) = &mut self.place
            && current.is_full()
        {
            self.sync();
            self.rotate();
        }
        took >= 64 << 10
    }

    fn rotate(&mut self) {
        let Place::File(current) = &mut self.place else { return };
        match current.rotate(&mut self.batch) {
            Ok(()) => drop(self.flush()),
            Err(error) => {
                current.postpone();
                tracing::error!(%error, "the log goes on in the same file: a new one cannot be begun");
            }
        }
    }

    /// Appends lines to the batch.
    fn seal(&mut self, lines: &Lines) {
        if lines.count() == 0 {
            return;
        }
        let link = match &mut self.place {
            Place::File(current) => current.link_mut(),
            Place::Stream(_) => None,
        };
        match link {
            None => self.batch.extend_from_slice(lines.bytes()),
            Some(link) => {
                for line in lines.each() {
                    link.seal(line, &mut self.batch);
                }
                self.unanchored = true;
            }
        }
        self.shared.lines.fetch_add(lines.count(), Ordering::Relaxed);
    }

    /// Appends a mark to the batch. An anchor needs no other.
    fn mark(&mut self, mark: &Mark) {
        let Place::File(current) = &mut self.place else { return };
        let Some(link) = current.link_mut() else { return };
        link.seal(&mark.line(now_ms()), &mut self.batch);
        self.shared.lines.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the batch. Whether all of it is written.
    fn flush(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        let sink: &mut dyn Sink = match &mut self.place {
            Place::File(current) => current.sink(),
            Place::Stream(sink) => &mut **sink,
        };
        match sink.write(&self.batch, &mut self.done) {
            Ok(()) => {
                self.shared.bytes.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
                self.batch.clear();
                self.batch.shrink_to(KEPT);
                self.done = 0;
                self.is_dirty = true;
                if self.shared.is_failing.swap(false, Ordering::AcqRel) {
                    tracing::info!("the log is written again");
                }
                true
            }
            Err(error) => {
                self.failed(
                    &error,
                    "the log cannot be written; records wait, then are counted as lost",
                );
                false
            }
        }
    }

    fn failed(&self, error: &std::io::Error, what: &str) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        if !self.shared.is_failing.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "{what}");
        }
    }

    fn sync(&mut self) {
        let Place::File(current) = &mut self.place else {
            self.is_dirty = false;
            return;
        };
        self.synced = Instant::now();
        if let Err(error) = current.sink().sync() {
            // What did not reach the disk is not known: nothing of it is signed.
            return self.failed(&error, "the log cannot be synced");
        }
        self.is_dirty = false;
        if let Some((log, link)) = current.link().filter(|_| self.unanchored) {
            self.unanchored = false;
            let position = Position { log, seq: link.next - 1, chain: link.chain };
            self.shared.lock().position = Some(position);
        }
    }

    fn end(&mut self) {
        self.mark(&Mark::Closed(true));
        if self.flush() {
            self.sync();
        }
        if let Place::File(current) = &mut self.place {
            current.settle();
        }
    }
}

#[cfg(test)]
mod tests;
