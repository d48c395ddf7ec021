//! Where lines go: a file, stdout, or a program that listens on a Unix socket.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a reader of the socket may take nothing before the writer looks around.
const STALL: Duration = Duration::from_millis(500);

/// Writes whole batches of lines. After an error the same batch is written again: [`Sink::write`] goes on
/// where it was.
pub(crate) trait Sink: Send {
    /// Writes the rest of a batch. `done`: bytes of it that were written before, which it moves on.
    fn write(&mut self, batch: &[u8], done: &mut usize) -> io::Result<()>;
    /// Brings it to where a crash of the host leaves it.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is written at a place that is known, so that half a batch is taken back.
pub(crate) struct FileSink {
    pub(crate) file: File,
    /// Bytes of whole lines.
    pub(crate) len: u64,
    #[cfg(test)]
    disk: Option<slow::Disk>,
}

impl FileSink {
    /// Opens or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<FileSink> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o640);
        let file = options.open(path)?;
        let len = file.metadata()?.len();
        Ok(FileSink {
            file,
            len,
            #[cfg(test)]
            disk: slow::of(path),
        })
    }

    /// What the disk takes, which only tests know before.
    fn wait(&self) {
        #[cfg(test)]
        if let Some(disk) = &self.disk {
            disk();
        }
    }
}

/// The right to write a log, which one process has at a time: a lock on a file beside it, which stays
/// where it is while the log's files change places.
pub(crate) struct Right {
    file: File,
    is_ours: bool,
}

impl Right {
    pub(crate) fn open(path: &Path) -> io::Result<Right> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        Ok(Right { file: options.open(path)?, is_ours: false })
    }

    /// Takes it, if nobody else has it.
    pub(crate) fn take(&mut self) -> io::Result<bool> {
        if !self.is_ours {
            self.is_ours = match self.file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(error)) => return Err(error),
            };
        }
        Ok(self.is_ours)
    }
}

impl Sink for FileSink {
    fn write(&mut self, batch: &[u8], done: &mut usize) -> io::Result<()> {
        self.wait();
        let written = self.file.write_all_at(batch, self.len);
        match written {
            Ok(()) => {
                self.len += batch.len() as u64;
                *done = batch.len();
                Ok(())
            }
            Err(error) => {
                // What was written of it is taken back, so that the file ends with a whole line.
                self.file.set_len(self.len)?;
                Err(error)
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.wait();
        self.file.sync_data()
    }
}

/// Standard output.
pub(crate) struct Stdout;

impl Sink for Stdout {
    fn write(&mut self, batch: &[u8], done: &mut usize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        write_rest(&mut out, batch, done)?;
        out.flush()
    }
}

/// A Unix socket, which is connected to when there is something to say.
pub(crate) struct Socket {
    path: PathBuf,
    stream: Option<UnixStream>,
}

impl Socket {
    pub(crate) fn new(path: PathBuf) -> Socket {
        Socket { path, stream: None }
    }
}

impl Sink for Socket {
    fn write(&mut self, batch: &[u8], done: &mut usize) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a program of this host, asked by no request"
                )]
                let stream = UnixStream::connect(&self.path)?;
                stream.set_write_timeout(Some(STALL))?;
                // The reader before has a torn line: the new one gets it whole.
                let written = batch.get(..*done).unwrap_or_default();
                *done = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                none.insert(stream)
            }
        };
        let written = write_rest(stream, batch, done);
        if let Err(error) = &written
            && !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        {
            self.stream = None;
        }
        written
    }
}

fn write_rest(to: &mut impl io::Write, batch: &[u8], done: &mut usize) -> io::Result<()> {
    while let Some(rest) = batch.get(*done..).filter(|rest| !rest.is_empty()) {
        match to.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => *done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Disks that take their time.
#[cfg(test)]
pub(crate) mod slow {
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    /// Called before each write and each sync.
    pub(crate) type Disk = Arc<dyn Fn() + Send + Sync>;

    static DISKS: Mutex<Vec<(PathBuf, Disk)>> = Mutex::new(Vec::new());

    /// What is opened under this path from now on is on this disk.
    pub(crate) fn put(path: PathBuf, disk: Disk) {
        DISKS.lock().unwrap().push((path, disk));
    }

    pub(crate) fn of(path: &Path) -> Option<Disk> {
        let disks = DISKS.lock().unwrap();
        disks.iter().find(|(own, _)| own == path).map(|(_, disk)| Arc::clone(disk))
    }
}
