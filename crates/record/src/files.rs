//! The files of a log: the one that is written, and those before it.
//!
//! `access.log` is written; `access.log.000007` is full, and becomes `access.log.000007.zst` when it is
//! compressed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Bytes of a line at most: what is longer is no line of a log.
pub const MAX_LINE: usize = 4 << 20;
/// Memory for a compressed file's window at most: 8 MiB.
const WINDOW_LOG: u32 = 23;
/// Of compression. On lines that differ in numbers and hashes, higher ones take longer and save nothing.
const LEVEL: i32 = 1;
const COMPRESSED: &str = ".zst";
const UNFINISHED: &str = ".zst.tmp";

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its number; none: it is the one that is written.
    pub number: Option<u64>,
}

impl LogFile {
    /// Its name, for people.
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Its text, whether or not it is compressed.
    pub fn open(&self) -> io::Result<Box<dyn BufRead + Send>> {
        open(&self.path)
    }
}

/// The text of a file, whether or not it is compressed.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let file = File::open(path)?;
    if path.extension().is_some_and(|extension| extension == "zst") {
        let mut decoder = zstd::stream::read::Decoder::new(file)?;
        decoder.window_log_max(WINDOW_LOG)?;
        return Ok(Box::new(BufReader::with_capacity(1 << 16, decoder)));
    }
    Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
}

/// The files of the log that is written to `path`, the oldest first. The one that is written is last,
/// if it is there.
pub fn list(path: &Path) -> io::Result<Vec<LogFile>> {
    let (dir, name) = parts(path)?;
    let mut numbered = Vec::new();
    let mut current = None;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.file_name();
        if found == name {
            current = Some(LogFile { path: path.to_owned(), number: None });
        } else if let Some(number) = number_of(&found, &name) {
            numbered.push(LogFile { path: entry.path(), number: Some(number) });
        }
    }
    // Of a file that is plain and compressed, the plain one is whole: the other was just finished.
    numbered.sort_by(|a, b| (a.number, &a.path).cmp(&(b.number, &b.path)));
    numbered.dedup_by(|later, first| later.number == first.number);
    numbered.extend(current);
    Ok(numbered)
}

/// The directory and the name of a log.
pub(crate) fn parts(path: &Path) -> io::Result<(&Path, OsString)> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "expected the path of a file")
    })?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((dir, name.to_owned()))
}

fn number_of(found: &std::ffi::OsStr, log: &std::ffi::OsStr) -> Option<u64> {
    let rest = found.to_str()?.strip_prefix(log.to_str()?)?.strip_prefix('.')?;
    let digits = rest.strip_suffix(COMPRESSED).unwrap_or(rest);
    let is_number = digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

/// The name of a full file.
pub(crate) fn numbered(path: &Path, number: u64) -> PathBuf {
    suffixed(path, &format!(".{number:06}"))
}

pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Compresses a full file, and removes it then.
pub(crate) fn compress(path: &Path) -> io::Result<()> {
    let (unfinished, done) = (suffixed(path, UNFINISHED), suffixed(path, COMPRESSED));
    let mut from = File::open(path)?;
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let to = options.write(true).create(true).truncate(true).open(&unfinished)?;
    let mut encoder = zstd::stream::write::Encoder::new(to, LEVEL)?;
    let copied = io::copy(&mut from, &mut encoder).and_then(|_| encoder.finish());
    let finished = copied.and_then(|to| {
        to.set_permissions(from.metadata()?.permissions())?;
        to.sync_all()?;
        std::fs::rename(&unfinished, &done)?;
        std::fs::remove_file(path)
    });
    if finished.is_err() {
        // What is left of it helps nobody; the plain file is whole.
        let _ = std::fs::remove_file(&unfinished);
    }
    finished
}

/// The full files that are not compressed yet; removes what an earlier run has left unfinished.
pub(crate) fn uncompressed(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (dir, name) = parts(path)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.file_name();
        let stem = found.to_str().and_then(|found| found.strip_suffix(".tmp"));
        if stem.is_some_and(|stem| number_of(stem.as_ref(), &name).is_some()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    let files = list(path)?.into_iter().filter(|file| file.number.is_some());
    let is_plain = |path: &PathBuf| path.extension().is_none_or(|extension| extension != "zst");
    Ok(files.map(|file| file.path).filter(is_plain).collect())
}

/// A line of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum FileLine {
    /// Whole, without its end.
    Whole(Vec<u8>),
    /// The file ends within it.
    Torn(Vec<u8>),
    /// It is longer than any line; its end was found.
    TooLong,
}

/// The next line; none: the file is at its end.
pub fn next_line(from: &mut (impl BufRead + ?Sized)) -> io::Result<Option<FileLine>> {
    next_line_within(from, MAX_LINE)
}

/// The same where a line has another number of bytes at most.
pub(crate) fn next_line_within(
    from: &mut (impl BufRead + ?Sized),
    max: usize,
) -> io::Result<Option<FileLine>> {
    let mut line = Vec::new();
    let read = (&mut *from).take(max as u64 + 1).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(FileLine::Whole(line)));
    }
    if read <= max {
        return Ok(Some(FileLine::Torn(line)));
    }
    line = Vec::new();
    while (&mut *from).take(1 << 16).read_until(b'\n', &mut line)? > 0 {
        if line.last() == Some(&b'\n') {
            break;
        }
        line.clear();
    }
    Ok(Some(FileLine::TooLong))
}
