//! Secrets on disk: written whole or not at all, readable by their owner alone; read only where no
//! other user can have written them, and none can read them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Temporary directories tried before giving up.
const MAX_TRIES: u32 = 100;

/// File systems in memory (`statfs(2)`): what container runtimes mount secrets on.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// The readable part of a token or key, `MARK_ID_SECRET`; any other text is taken for that part.
pub(crate) fn id_of<'t>(text: &'t str, mark: &str) -> &'t str {
    let rest = text.strip_prefix(mark).and_then(|rest| rest.strip_prefix('_'));
    rest.and_then(|rest| rest.split('_').next()).unwrap_or(text)
}

/// Reads a secret of at most so many bytes; links are followed.
///
/// A file that its group or others can write is refused: whoever can, is whom it identifies. One
/// that others can read is refused unless it lies in memory or on a read-only mount, as the secrets
/// of containers do; then that is said once.
pub(crate) fn read(path: &Path, most: u64) -> anyhow::Result<String> {
    // A pipe in its place must not hold up the start.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        bail!("expected a regular file");
    }
    if about.len() > most {
        bail!("{} bytes are too many for a token", about.len());
    }
    let (mode, shown) = (about.mode() & 0o7777, path.display());
    if mode & 0o022 != 0 {
        bail!(
            "its mode is {mode:04o}: users other than its owner can write it and may have replaced \
             the token; run `chmod 600 {shown}`"
        );
    }
    if mode & 0o004 != 0 {
        if !is_mounted_secret(&file) {
            bail!("its mode is {mode:04o}: every user can read it; run `chmod 600 {shown}`");
        }
        tracing::warn!(
            file = %shown,
            mode = format!("{mode:04o}"),
            "every user of this system or container can read the token file; mount it with mode \
             0400 if others share it"
        );
    }
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        bail!("more than {most} bytes are too many for a token");
    }
    Ok(text)
}

/// Whether a file lies in memory or on a read-only mount.
fn is_mounted_secret(file: &File) -> bool {
    let mut kind = std::mem::MaybeUninit::<libc::statfs>::uninit();
    let mut mount = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    let fd = file.as_raw_fd();
    // SAFETY: an open descriptor, and memory for each answer, which is read only where it came.
    let (kind, mount) = unsafe {
        if libc::fstatfs(fd, kind.as_mut_ptr()) != 0 || libc::fstatvfs(fd, mount.as_mut_ptr()) != 0
        {
            return false;
        }
        (kind.assume_init(), mount.assume_init())
    };
    matches!(kind.f_type & 0xffff_ffff, TMPFS_MAGIC | RAMFS_MAGIC)
        || mount.f_flag & libc::ST_RDONLY != 0
}

/// Writes a file with mode 0600, replacing an old one.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let mut name = path
        .file_name()
        .with_context(|| format!("expected a file name, got `{shown}`"))?
        .to_owned();
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
        for number in 0..MAX_TRIES {
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
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_that_others_can_write_or_read_is_refused() {
        let directory = TemporaryDirectory::new("keepgate-secret-read").unwrap();
        let file = directory.path().join("token");
        write(&file, "kgt_a_b\n").unwrap();
        let link = directory.path().join("link");
        symlink("token", &link).unwrap();
        let in_memory = is_mounted_secret(&File::open(&file).unwrap());
        for (mode, found) in [
            (0o600, Ok(())),
            (0o400, Ok(())),
            (0o640, Ok(())),
            (0o620, Err("can write it")),
            (0o602, Err("can write it")),
            (0o666, Err("can write it")),
            (0o644, if in_memory { Ok(()) } else { Err("every user can read it") }),
        ] {
            set_mode(&file, mode);
            for path in [&file, &link] {
                match (read(path, 100), found) {
                    (Ok(text), Ok(())) => assert_eq!(text, "kgt_a_b\n"),
                    (Err(error), Err(words)) => {
                        let text = error.to_string();
                        assert!(text.contains(words) && text.contains("chmod 600"), "{text}");
                    }
                    (found, _) => panic!("{mode:o}: {found:?}"),
                }
            }
        }
        set_mode(&file, 0o600);
        assert_eq!(read(&file, 8).unwrap().len(), 8, "as many as there may be");
        assert!(read(&file, 7).is_err());
        assert!(read(directory.path(), 100).is_err());
        assert!(read(Path::new("/dev/zero"), 100).is_err());
        // Read-only, and in memory: as secrets of containers are.
        let mounts = File::open("/proc/self/mounts").unwrap();
        assert!(!is_mounted_secret(&mounts), "procfs is neither");
    }

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
