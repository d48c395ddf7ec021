//! `center.high`: the newest acknowledged revision, outside of the database.
//!
//! SQLite cannot tell a log that lost its end from one that never had it. This file can: two slots
//! of 512 bytes, written in turn and synced after each commit, hold the mark of the newest revision
//! that anyone was told of, and the inodes of the database and of the file itself. A copied
//! directory has other inodes.
//!
//! The file is opened for each write, by its path, without following links: a file that was
//! removed or replaced is noticed at the next commit.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use keepgate_policy::Mark;
use keepgate_policy::mark::MARK_BYTES;
use sha2::{Digest as _, Sha256};

/// Bytes of a slot: what a disk writes as a whole.
const SLOT: usize = 512;
const MAGIC: &[u8; 8] = b"KGHIGH1\n";
/// Where the checksum begins.
const SUM_AT: usize = SLOT - 32;

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct High {
    /// Counts writes; the higher slot is the newer.
    pub(super) seq: u64,
    /// The newest acknowledged revision.
    pub(super) mark: Mark,
    /// The inode of `center.db`.
    pub(super) database: u64,
    /// The inode of this file.
    pub(super) own: u64,
}

/// What was found where the file should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No such file.
    Nothing,
    /// A file without a good slot.
    Unreadable,
    /// The newer good slot, and the file's real inode.
    Good(High, u64),
}

/// Where the file of a data directory is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("center.high")
}

/// Reads the file.
pub(super) fn read(path: &Path) -> std::io::Result<Found> {
    let mut file = match open(path, false) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) => return Err(e),
    };
    let inode = file.metadata()?.ino();
    let mut bytes = Vec::new();
    std::io::Read::by_ref(&mut file).take(2 * SLOT as u64 + 1).read_to_end(&mut bytes)?;
    let newest = bytes.chunks(SLOT).take(2).filter_map(decode).max_by_key(|high| high.seq);
    Ok(newest.map_or(Found::Unreadable, |high| Found::Good(high, inode)))
}

/// Makes the file anew, whole or not at all, with this mark in it.
pub(super) fn create(path: &Path, mark: &Mark, database: u64) -> std::io::Result<High> {
    let draft = path.with_extension("high.new");
    let _ = std::fs::remove_file(&draft);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    let own = file.metadata()?.ino();
    let high = High { seq: 1, mark: *mark, database, own };
    file.write_all(&[0; SLOT])?;
    file.write_all(&encode(&high))?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    sync_dir(path)?;
    Ok(high)
}

/// Writes the next slot and waits until it is durable.
pub(super) fn write(path: &Path, before: &High, mark: &Mark) -> std::io::Result<High> {
    let file = open(path, true)?;
    let own = file.metadata()?.ino();
    if own != before.own {
        let text = format!("expected inode {}, found {own}: it was replaced", before.own);
        return Err(std::io::Error::other(text));
    }
    let high = High { seq: before.seq.wrapping_add(1), mark: *mark, ..*before };
    file.write_all_at(&encode(&high), (high.seq % 2) * SLOT as u64)?;
    file.sync_data()?;
    Ok(high)
}

fn open(path: &Path, write: bool) -> std::io::Result<File> {
    // A link is refused, and so is a pipe that would be waited for.
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(std::io::Error::other("expected a regular file"))
    }
}

/// Makes the names in the file's directory durable.
pub(super) fn sync_dir(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn encode(high: &High) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    let said = MAGIC
        .iter()
        .copied()
        .chain(high.seq.to_le_bytes())
        .chain(high.mark.to_bytes())
        .chain(high.database.to_le_bytes())
        .chain(high.own.to_le_bytes());
    for (to, from) in slot.iter_mut().zip(said) {
        *to = from;
    }
    let (said, sum) = slot.split_at_mut(SUM_AT);
    sum.copy_from_slice(&Sha256::digest(said));
    slot
}

fn decode(slot: &[u8]) -> Option<High> {
    if slot.len() != SLOT {
        return None;
    }
    let (said, sum) = slot.split_at_checked(SUM_AT)?;
    if Sha256::digest(said).as_slice() != sum {
        return None;
    }
    let rest = said.strip_prefix(MAGIC.as_slice())?;
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (mark, rest) = rest.split_at_checked(MARK_BYTES)?;
    let (database, rest) = rest.split_first_chunk::<8>()?;
    let (own, _) = rest.split_first_chunk::<8>()?;
    Some(High {
        seq: u64::from_le_bytes(*seq),
        mark: Mark::from_bytes(mark).ok()?,
        database: u64::from_le_bytes(*database),
        own: u64::from_le_bytes(*own),
    })
}

#[cfg(test)]
mod tests {
    use keepgate_policy::{HistoryId, Revision};

    use super::*;

    fn mark(revision: u64) -> Mark {
        let history = HistoryId([3; 16]);
        Mark { history, revision: Revision(revision), chain: [revision as u8; 32], seal: [5; 16] }
    }

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn dir(name: &str) -> Dir {
        let path =
            std::env::temp_dir().join(format!("keepgate-high-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    /// Whatever becomes of the slot that is being written, the one before it is there.
    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let dir = dir("torn");
        let path = path(&dir.0);
        assert_eq!(read(&path).unwrap(), Found::Nothing);
        let mut high = create(&path, &mark(1), 77).unwrap();
        for revision in 2..6 {
            let before = high;
            high = write(&path, &before, &mark(revision)).unwrap();
            assert_eq!(read(&path).unwrap(), Found::Good(high, high.own));
            let whole = std::fs::read(&path).unwrap();
            let at = (high.seq % 2) as usize * SLOT;
            for torn in [0, 1, 40, 100, SUM_AT, SLOT - 1] {
                let mut bytes = whole.clone();
                bytes[at + torn] ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                assert_eq!(read(&path).unwrap(), Found::Good(before, high.own), "{torn}");
            }
            std::fs::write(&path, &whole).unwrap();
        }
        std::fs::write(&path, [0; 2 * SLOT]).unwrap();
        assert_eq!(read(&path).unwrap(), Found::Unreadable);
    }

    #[test]
    fn a_file_that_was_replaced_or_is_a_link_is_not_written() {
        let dir = dir("replaced");
        let path = path(&dir.0);
        let high = create(&path, &mark(1), 77).unwrap();
        let copy = dir.0.join("copy");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        assert!(write(&path, &high, &mark(2)).unwrap_err().to_string().contains("replaced"));
        std::fs::rename(&path, &copy).unwrap();
        std::os::unix::fs::symlink(&copy, &path).unwrap();
        assert!(write(&path, &high, &mark(2)).is_err());
        assert!(read(&path).is_err());
    }
}
