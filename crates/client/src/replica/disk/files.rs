//! Opening files in a directory that holds who may do what.
//!
//! INVARIANT: nothing here follows a link or waits for a pipe. Who can put files into the directory
//! could otherwise have the gate read a state of their making or overwrite a file elsewhere; so a
//! directory that others may write is refused altogether.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A directory that is not used, or not fully.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectoryError {
    /// Others may write to it: what it holds proves nothing.
    #[error(
        "expected a directory that only its owner may write, found mode {mode:04o}; run `chmod go-w` on it"
    )]
    Writable { mode: u32 },
    /// It belongs to somebody else.
    #[error(
        "expected a directory of user {expected} or root, found one of user {found}; run `chown` on it"
    )]
    Owner { expected: u32, found: u32 },
    /// It is something else.
    #[error("expected a directory")]
    Kind,
    /// It cannot be made or opened.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The directory, made if it is not there, opened for locking.
pub(super) fn directory(path: &Path) -> Result<File, DirectoryError> {
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(path)
        && !path.is_dir()
    {
        return Err(error.into());
    }
    let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
    let found = directory.metadata()?;
    if !found.is_dir() {
        return Err(DirectoryError::Kind);
    }
    let expected = effective_user();
    if found.uid() != expected && found.uid() != 0 {
        return Err(DirectoryError::Owner { expected, found: found.uid() });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(DirectoryError::Writable { mode });
    }
    Ok(directory)
}

/// The user that this process acts as.
fn effective_user() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    #[expect(unsafe_code, reason = "std has no geteuid")]
    unsafe {
        libc::geteuid()
    }
}

/// Opens a regular file for reading; none where there is no file.
pub(super) fn read(path: &Path) -> io::Result<Option<File>> {
    match opened(OpenOptions::new().read(true), path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a regular file for writing, made if it is not there, as it is.
pub(super) fn write(path: &Path) -> io::Result<File> {
    opened(OpenOptions::new().write(true).create(true).truncate(false).mode(0o600), path)
}

/// Makes an empty file; one that is there is removed first.
pub(super) fn create(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    opened(OpenOptions::new().write(true).create_new(true).mode(0o600), path)
}

/// O_NOFOLLOW: a link is `ELOOP`. O_NONBLOCK: a pipe without a reader is not waited for.
fn opened(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("expected a regular file, found something else"))
    }
}

/// Whether a file of this size could be written now, without keeping it.
pub(super) fn has_room(path: &Path, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let file = create(path)?;
    let length = libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
    // SAFETY: the descriptor is open for the whole call.
    #[expect(unsafe_code, reason = "std has no fallocate")]
    let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) };
    let failed = (result != 0).then(io::Error::last_os_error);
    drop(file);
    let removed = std::fs::remove_file(path);
    match failed {
        // A file system without it says nothing: the write itself will.
        Some(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => Err(error),
        _ => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn links_pipes_and_open_directories_are_refused() {
        let dir = std::env::temp_dir().join(format!("keepgate-files-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        directory(&dir).unwrap();
        let (target, link, pipe) = (dir.join("target"), dir.join("link"), dir.join("pipe"));
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the name is a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for path in [&link, &pipe] {
            assert!(read(path).is_err(), "{}", path.display());
            assert!(write(path).is_err(), "{}", path.display());
        }
        assert!(read(&dir.join("absent")).unwrap().is_none());
        // A file that is made replaces the link and leaves its target alone.
        create(&link).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
        has_room(&dir.join("probe"), 4096).unwrap();
        assert!(!dir.join("probe").exists());
        for mode in [0o770, 0o702, 0o1777] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = directory(&dir).unwrap_err();
            assert!(matches!(error, DirectoryError::Writable { .. }), "{mode:o}: {error}");
        }
        for mode in [0o700, 0o755] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            directory(&dir).unwrap();
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
