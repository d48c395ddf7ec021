//! A folder that only its owner can write: where locks and journals are.
//!
//! `tune` runs as root and does what a journal says. So a journal counts only if nobody else can
//! have written it: the folder and each file belong to whoever runs this, nobody else can write
//! them, and no link is followed on the way.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Largest journal that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// An open folder; files in it are reached through it, whatever happens to its path.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    handle: File,
}

/// Who may own what is trusted.
fn me() -> u32 {
    // SAFETY: reads the process's own credentials.
    unsafe { libc::geteuid() }
}

impl Folder {
    /// Opens a folder, or makes it with mode 0700.
    pub(crate) fn open_or_make(path: &Path) -> anyhow::Result<Folder> {
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error).with_context(|| format!("creating {}", path.display()));
        }
        Folder::open(path)?.with_context(|| format!("{} vanished", path.display()))
    }

    /// Opens a folder that may be missing.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Option<Folder>> {
        let Some(folder) = Folder::open_unchecked(path)? else { return Ok(None) };
        let about =
            folder.handle.metadata().with_context(|| format!("reading {}", path.display()))?;
        anyhow::ensure!(
            about.uid() == me() && about.mode() & 0o022 == 0,
            "{} belongs to user {} with mode {:o}: expected user {} and no write permission for \
             others; look at it, and remove it if it is not yours",
            path.display(),
            about.uid(),
            about.mode() & 0o7777,
            me()
        );
        Ok(Some(folder))
    }

    /// The same for a folder that another user may own; its files are checked all the same.
    pub(crate) fn open_unchecked(path: &Path) -> anyhow::Result<Option<Folder>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path);
        match opened {
            Ok(handle) => Ok(Some(Folder { path: path.to_owned(), handle })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| {
                format!("opening {}: expected a folder, not a link", path.display())
            }),
        }
    }

    /// For messages.
    pub(crate) fn display(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// A file in this very folder, even if the folder's path leads elsewhere by now.
    fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd())).join(name)
    }

    fn checked(&self, name: &str, file: &File) -> anyhow::Result<()> {
        let about = file.metadata().with_context(|| format!("reading {}", self.display(name)))?;
        anyhow::ensure!(
            about.is_file()
                && about.uid() == me()
                && about.mode() & 0o022 == 0
                && about.nlink() == 1,
            "{} is refused: expected a file of user {} that nobody else can write, found one of \
             user {} with mode {:o}; look at it, and remove it if it is not yours",
            self.display(name),
            me(),
            about.uid(),
            about.mode() & 0o7777
        );
        Ok(())
    }

    /// Waits for a lock on a file, which stays empty; dropping it unlocks.
    pub(crate) fn lock(&self, name: &str) -> anyhow::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.at(name))
            .with_context(|| format!("opening {}", self.display(name)))?;
        self.checked(name, &file)?;
        file.lock().with_context(|| format!("locking {}", self.display(name)))?;
        Ok(file)
    }

    /// The text of a file; none where there is none.
    pub(crate) fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.at(name));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("{} is refused: expected a file, not a link", self.display(name))
                });
            }
        };
        self.checked(name, &file)?;
        let mut text = String::new();
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .with_context(|| format!("reading {}", self.display(name)))?;
        Ok(Some(text))
    }

    /// Replaces a file in one step, with mode 0600.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let temporary = self.at(&format!(".{name}.{}", std::process::id()));
        // What a killed run of the same number left behind.
        let _ = std::fs::remove_file(&temporary);
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, self.at(name))?;
            self.handle.sync_all()
        })();
        written.with_context(|| format!("writing {}", self.display(name))).inspect_err(|_| {
            // The error is told; a leftover would only be litter.
            let _ = std::fs::remove_file(&temporary);
        })
    }

    /// Removes a file; one that is not there is removed already.
    pub(crate) fn remove(&self, name: &str) -> anyhow::Result<()> {
        match std::fs::remove_file(self.at(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.display(name)))
            }
            _ => Ok(()),
        }
    }
}
