//! Secrets on disk: written whole or not at all, readable by their owner alone.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Temporary directories tried before giving up.
const TRIES_MAX: u32 = 100;

/// Writes a file with mode 0600, replacing an old one.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let mut name =
        path.file_name().with_context(|| format!("`{shown}` is no file name"))?.to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("removing `{}`", fresh.display()));
        }
        _ => {}
    }
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().with_context(|| format!("writing `{shown}`"))
}

/// Makes a directory for secrets, mode 0700, if it is not there.
pub(crate) fn directory(path: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).with_context(|| format!("making the directory `{}`", path.display()))
}

/// A directory that is gone, with all in it, when this is dropped.
pub(crate) struct TemporaryDirectory {
    path: PathBuf,
}

impl TemporaryDirectory {
    /// A new one, mode 0700, below the system's directory for such.
    pub(crate) fn new(prefix: &str) -> anyhow::Result<TemporaryDirectory> {
        let below = std::env::temp_dir();
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        for number in 0..TRIES_MAX {
            let path = below.join(format!("{prefix}-{}-{number}", std::process::id()));
            // Not recursive: one that is there already, whoever made it, is never taken over.
            match builder.create(&path) {
                Ok(()) => return Ok(TemporaryDirectory { path }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).with_context(|| format!("making `{}`", path.display())),
            }
        }
        bail!("`{}` is full of old `{prefix}-*` directories; remove them", below.display())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a temporary directory stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_owner_reads_and_all_is_gone_afterwards() {
        let directory = TemporaryDirectory::new("keepgate-secret-test").unwrap();
        let path = directory.path().to_owned();
        let file = path.join("token");
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        write(&file, "new").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!((mode(&file), mode(&path)), (0o600, 0o700));
        drop(directory);
        assert!(!path.exists());
    }
}
