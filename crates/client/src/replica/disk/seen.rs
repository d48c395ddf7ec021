//! When the replica was last current: 48 bytes, rewritten in place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use keepgate_policy::Revision;
use sha2::{Digest as _, Sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) revision: Revision,
    pub(super) unix_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SeenError {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("its checksum is wrong")]
    Checksum,
}

pub(super) fn write(file: &File, seen: Seen) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(48);
    bytes.extend(seen.revision.0.to_le_bytes());
    bytes.extend(seen.unix_ms.to_le_bytes());
    let hash = Sha256::digest(&bytes);
    bytes.extend(hash);
    file.write_all_at(&bytes, 0)
}

/// The note; none where there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Seen>, SeenError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (note, hash) = bytes.split_at_checked(16).ok_or(SeenError::Checksum)?;
    if *Sha256::digest(note) != *hash {
        return Err(SeenError::Checksum);
    }
    let (revision, unix_ms) = note.split_at_checked(8).ok_or(SeenError::Checksum)?;
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
    match (number(revision), number(unix_ms)) {
        (Ok(revision), Ok(unix_ms)) => Ok(Some(Seen { revision: Revision(revision), unix_ms })),
        _ => Err(SeenError::Checksum),
    }
}
