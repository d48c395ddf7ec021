//! The files of a log as their writer has them: the current one, and how the chain goes on in it.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::chain::{Begins, Link, Mark, Removed, Resumed, Sealed};
use crate::config::LogConfig;
use crate::files::{self, FileLine, LogFile, next_line, numbered};
use crate::hash::LogId;
use crate::shape::Format;
use crate::sink::{FileSink, Right, Sink};
use crate::time::{self, now_ms};

/// How far from its end the last whole line of a file is looked for.
const TAIL: u64 = 2 * files::MAX_LINE as u64;
/// Before a new file is tried again.
const POSTPONED: Duration = Duration::from_secs(10);

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its file.
    #[error("the log `{}` cannot be opened", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its thread.
    #[error("the thread that writes the log cannot be started")]
    Thread(#[source] io::Error),
}

/// See the module.
pub(crate) struct Current {
    path: PathBuf,
    sink: FileSink,
    right: Right,
    gate: String,
    file_bytes: u64,
    file_age_ms: u64,
    total_bytes: u64,
    /// The log, and its chain; none: the format has none.
    chain: Option<(LogId, Link)>,
    is_chained: bool,
    number: u64,
    began_ms: u64,
    compressing: Option<JoinHandle<()>>,
}

/// What the end of a file says.
struct End {
    begins: Begins,
    began_ms: u64,
    link: Link,
    /// Bytes up to the end of its last whole line.
    len: u64,
    is_closed: bool,
}

impl Current {
    pub(crate) fn open(path: &Path, config: &LogConfig) -> Result<Current, OpenError> {
        let failed = |source| OpenError::File { path: path.to_owned(), source };
        files::parts(path).map_err(failed)?;
        let mut right = Right::open(&files::suffixed(path, ".lock")).map_err(failed)?;
        right.take().map_err(failed)?;
        let sink = FileSink::open(path).map_err(failed)?;
        Ok(Current {
            path: path.to_owned(),
            sink,
            right,
            gate: config.gate.clone(),
            file_bytes: config.file_bytes,
            file_age_ms: u64::try_from(config.file_age.as_millis()).unwrap_or(u64::MAX),
            total_bytes: config.total_bytes,
            chain: None,
            is_chained: config.format == Format::Json,
            number: 1,
            began_ms: now_ms(),
            compressing: None,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process alone writes it.
    pub(crate) fn acquire(&mut self) -> bool {
        if !self.right.take().unwrap_or(false) {
            return false;
        }
        // It may have been moved on by whoever had it.
        match FileSink::open(&self.path) {
            Ok(sink) => self.sink = sink,
            Err(error) => tracing::error!(%error, "the log's file cannot be opened again"),
        }
        true
    }

    pub(crate) fn sink(&mut self) -> &mut dyn Sink {
        &mut self.sink
    }

    pub(crate) fn link(&self) -> Option<(LogId, Link)> {
        self.chain
    }

    pub(crate) fn link_mut(&mut self) -> Option<&mut Link> {
        self.chain.as_mut().map(|(_, link)| link)
    }

    /// Finds out where the log is, and appends to `batch` how it goes on.
    pub(crate) fn recover(&mut self, batch: &mut Vec<u8>) {
        let older = files::list(&self.path).unwrap_or_default();
        let newest = older.iter().rfind(|file| file.number.is_some());
        self.number = newest.and_then(|file| file.number).map_or(1, |number| number + 1);
        self.sink.len = self.sink.file.metadata().map_or(0, |meta| meta.len());
        // Stopped while its first line was written: as if it had not begun.
        let is_empty = self.sink.len < files::MAX_LINE as u64
            && tail_of(&self.sink).is_ok_and(|tail| !tail.contains(&b'\n'));
        if !self.is_chained {
            self.recover_plain();
        } else if is_empty {
            let cut_bytes = std::mem::take(&mut self.sink.len);
            if let Err(error) = self.sink.file.set_len(0) {
                tracing::error!(%error, "the log's torn end cannot be cut off");
            }
            let end = newest.and_then(|file| end_of_closed(file).ok().flatten());
            match end {
                Some(end) => {
                    self.chain = Some((end.begins.log, end.link));
                    self.begin(batch, String::new());
                    let resumed = Resumed { cut_bytes, clean: end.is_closed && cut_bytes == 0 };
                    if let Some((_, link)) = &mut self.chain {
                        link.seal(&Mark::Resumed(resumed).line(now_ms()), batch);
                    }
                }
                None => self.new_log(batch, String::new()),
            }
        } else {
            match end_of(&self.sink) {
                Ok(Some(end)) => self.resume(end, batch),
                _ => self.set_aside(batch),
            }
        }
        self.compress();
    }

    /// Cuts off what is no whole line.
    fn recover_plain(&mut self) {
        let tail = tail_of(&self.sink).unwrap_or_default();
        let torn = tail.iter().rev().take_while(|byte| **byte != b'\n').count() as u64;
        self.sink.len = self.sink.len.saturating_sub(torn);
        if torn > 0 && self.sink.file.set_len(self.sink.len).is_ok() {
            tracing::warn!(bytes = torn, "a line of the log that was not whole was cut off");
        }
    }

    fn resume(&mut self, end: End, batch: &mut Vec<u8>) {
        let cut_bytes = self.sink.len.saturating_sub(end.len);
        self.sink.len = end.len;
        if cut_bytes > 0 {
            if let Err(error) = self.sink.file.set_len(end.len) {
                tracing::error!(%error, "the log's torn end cannot be cut off");
            }
            tracing::warn!(bytes = cut_bytes, "a line of the log that was not whole was cut off");
        }
        (self.number, self.began_ms) = (end.begins.file, end.began_ms);
        let mut link = end.link;
        let resumed = Resumed { cut_bytes, clean: end.is_closed && cut_bytes == 0 };
        link.seal(&Mark::Resumed(resumed).line(now_ms()), batch);
        self.chain = Some((end.begins.log, link));
    }

    /// What is there is no log of this form: it is kept, under another name.
    fn set_aside(&mut self, batch: &mut Vec<u8>) {
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(format!(".aside-{}", now_ms()));
        let aside = PathBuf::from(aside);
        let name = aside.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let moved = std::fs::rename(&self.path, &aside).and_then(|()| FileSink::open(&self.path));
        match moved {
            Ok(sink) => {
                self.sink = sink;
                tracing::error!(
                    name,
                    "the log's file has no end that can be read: it was set aside"
                );
            }
            Err(error) => tracing::error!(%error, "the log's file cannot be read nor set aside"),
        }
        self.new_log(batch, name);
    }

    fn new_log(&mut self, batch: &mut Vec<u8>, set_aside: String) {
        let mut log = [0; 16];
        if SystemRandom::new().fill(&mut log).is_err() {
            // Such a host cannot serve TLS either; a name by the time is one that nobody chose.
            log = now_ms().to_be_bytes().repeat(2).try_into().unwrap_or(log);
        }
        self.chain = Some((log, Link::first(&log)));
        self.begin(batch, set_aside);
    }

    /// The first line of a file.
    fn begin(&mut self, batch: &mut Vec<u8>, set_aside: String) {
        self.began_ms = now_ms();
        let Some((log, link)) = &mut self.chain else { return };
        let previous = link.chain;
        let (gate, file) = (self.gate.clone(), self.number);
        let begins = Begins { log: *log, gate, file, previous, set_aside };
        link.seal(&Mark::Begins(begins).line(self.began_ms), batch);
    }

    /// Whether the next file is due. An empty one never is.
    pub(crate) fn is_full(&self) -> bool {
        let age_ms = now_ms().saturating_sub(self.began_ms);
        self.sink.len >= self.file_bytes || age_ms >= self.file_age_ms && self.sink.len > 0
    }

    /// Waits before it is full again.
    pub(crate) fn postpone(&mut self) {
        let later = u64::try_from(POSTPONED.as_millis()).unwrap_or(u64::MAX);
        self.began_ms = now_ms().saturating_sub(self.file_age_ms).saturating_add(later);
        self.file_bytes = self.file_bytes.saturating_add(self.file_bytes / 4);
    }

    /// Begins the next file; its first lines go into `batch`.
    pub(crate) fn rotate(&mut self, batch: &mut Vec<u8>) -> io::Result<()> {
        let full = numbered(&self.path, self.number);
        std::fs::rename(&self.path, &full)?;
        match FileSink::open(&self.path) {
            Ok(sink) => self.sink = sink,
            Err(error) => {
                std::fs::rename(&full, &self.path)?;
                return Err(error);
            }
        }
        self.number += 1;
        self.begin(batch, String::new());
        if let Some(through_file) = self.prune()
            && let Some((_, link)) = &mut self.chain
        {
            link.seal(&Mark::Removed(Removed { through_file }).line(now_ms()), batch);
        }
        self.compress();
        Ok(())
    }

    /// Removes the oldest files while all are too large. The newest of those that are gone.
    fn prune(&self) -> Option<u64> {
        let files: Vec<LogFile> = files::list(&self.path).ok()?;
        let size = |file: &LogFile| std::fs::metadata(&file.path).map_or(0, |meta| meta.len());
        // The current file is counted as it will be.
        let mut total = self.file_bytes;
        total += files.iter().filter(|file| file.number.is_some()).map(size).sum::<u64>();
        let mut through = None;
        for file in &files {
            let Some(number) = file.number.filter(|_| total > self.total_bytes) else { break };
            let bytes = size(file);
            if let Err(error) = std::fs::remove_file(&file.path) {
                tracing::error!(%error, file = file.name(), "an old file of the log cannot be removed");
                break;
            }
            total -= bytes.min(total);
            through = Some(number);
        }
        through
    }

    /// Compresses full files, beside the writer.
    fn compress(&mut self) {
        if self.compressing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let path = self.path.clone();
        let all = move || {
            let failed = files::uncompressed(&path)
                .and_then(|full| full.iter().try_for_each(|full| files::compress(full)));
            if let Err(error) = failed {
                tracing::warn!(%error, "a full file of the log cannot be compressed");
            }
        };
        let thread = std::thread::Builder::new().name("gate-log-zstd".to_owned()).spawn(all);
        self.compressing = thread.ok();
    }

    /// Waits for what goes on beside the writer.
    pub(crate) fn settle(&mut self) {
        if let Some(thread) = self.compressing.take() {
            let _ = thread.join();
        }
    }
}

/// The last bytes of a file.
fn tail_of(sink: &FileSink) -> io::Result<Vec<u8>> {
    let from = sink.len.saturating_sub(TAIL);
    let mut tail = vec![0; usize::try_from(sink.len - from).unwrap_or(0)];
    sink.file.read_exact_at(&mut tail, from)?;
    Ok(tail)
}

/// The end of the file that was written last; none: it has no line that could be gone on from.
fn end_of(sink: &FileSink) -> io::Result<Option<End>> {
    let mut head = io::BufReader::new(&sink.file);
    io::Seek::seek(&mut head, io::SeekFrom::Start(0))?;
    let Some((begins, began_ms)) = first_of(&mut head)? else { return Ok(None) };
    let tail = tail_of(sink)?;
    let mut left = tail.as_slice();
    while let Some(end) = left.iter().rposition(|byte| *byte == b'\n') {
        left = left.get(..end).unwrap_or_default();
        let begin = left.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        let line = left.get(begin..).unwrap_or_default();
        if let Some(sealed) = Sealed::of(line) {
            let len = sink.len - (tail.len() - end - 1) as u64;
            return Ok(Some(ended(begins, began_ms, &sealed, len)));
        }
    }
    Ok(None)
}

/// The end of a full file.
fn end_of_closed(file: &LogFile) -> io::Result<Option<End>> {
    let mut from = file.open()?;
    let Some((begins, began_ms)) = first_of(&mut *from)? else { return Ok(None) };
    let mut from = {
        drop(from);
        file.open()?
    };
    let mut last = None;
    while let Some(line) = next_line(&mut *from)? {
        if let FileLine::Whole(line) = line {
            last = Some(line);
        }
    }
    let Some(last) = last else { return Ok(None) };
    Ok(Sealed::of(&last).map(|sealed| ended(begins, began_ms, &sealed, 0)))
}

fn ended(begins: Begins, began_ms: u64, sealed: &Sealed<'_>, len: u64) -> End {
    let is_closed = matches!(Mark::of(sealed.open), Some(Mark::Closed(true)));
    let link = Link { next: sealed.seq.saturating_add(1), chain: sealed.chain };
    End { begins, began_ms, link, len, is_closed }
}

/// What a file says at its beginning, and when.
fn first_of(from: &mut (impl io::BufRead + ?Sized)) -> io::Result<Option<(Begins, u64)>> {
    let Some(FileLine::Whole(line)) = next_line(from)? else { return Ok(None) };
    let Some(sealed) = Sealed::of(&line) else { return Ok(None) };
    let Some(Mark::Begins(begins)) = Mark::of(sealed.open) else { return Ok(None) };
    let time = sealed.open.get(9..33).and_then(|time| std::str::from_utf8(time).ok());
    Ok(Some((begins, time.and_then(time::read).unwrap_or_default())))
}
