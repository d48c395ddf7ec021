//! When the replica was last current, rewritten in place.
//!
//! `magic | mark | boot id | time namespace | boottime | unix | SHA-256`, numbers little-endian, in
//! nanoseconds. Release 0.1 wrote `revision | unix milliseconds | SHA-256`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use keepgate_policy::mark::MARK_BYTES;
use keepgate_policy::{Mark, Revision};
use sha2::{Digest as _, Sha256};

use super::files;
use crate::replica::age::Note;
use crate::replica::time::Boot;

const MAGIC: &[u8; 16] = b"keepgate-seen-2\n";
/// Magic, mark, boot id, namespace, boottime, unix, hash.
pub(super) const BYTES: usize = 16 + MARK_BYTES + 16 + 3 * 8 + 32;
/// What release 0.1 wrote.
const BYTES_1: usize = 16 + 32;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Seen {
    /// This state was current then.
    At { mark: Mark, note: Note },
    /// So release 0.1 said.
    Wall { revision: Revision, unix_ms: u64 },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SeenError {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("its checksum is wrong")]
    Checksum,
}

pub(super) fn write(file: &File, mark: &Mark, note: &Note) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.extend(MAGIC);
    bytes.extend(mark.to_bytes());
    bytes.extend(note.boot.id);
    bytes.extend(note.boot.namespace.to_le_bytes());
    bytes.extend(note.boottime_ns.to_le_bytes());
    bytes.extend(note.unix_ns.to_le_bytes());
    let hash = Sha256::digest(&bytes);
    bytes.extend(hash);
    file.write_all_at(&bytes, 0)
}

/// The note; none where there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Seen>, SeenError> {
    let Some(file) = files::read(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    decode(&bytes).map(Some).ok_or(SeenError::Checksum)
}

fn decode(bytes: &[u8]) -> Option<Seen> {
    let (noted, hash) = bytes.split_last_chunk::<32>()?;
    if *Sha256::digest(noted) != *hash {
        return None;
    }
    match bytes.len() {
        BYTES => {
            let (magic, rest) = noted.split_first_chunk::<16>()?;
            let (mark, rest) = rest.split_first_chunk::<MARK_BYTES>()?;
            let (id, rest) = rest.split_first_chunk::<16>()?;
            let (namespace, rest) = rest.split_first_chunk::<8>()?;
            let (boottime, unix) = rest.split_first_chunk::<8>()?;
            let note = Note {
                boot: Boot { id: *id, namespace: u64::from_le_bytes(*namespace) },
                boottime_ns: i64::from_le_bytes(*boottime),
                unix_ns: i64::from_le_bytes(unix.try_into().ok()?),
            };
            (magic == MAGIC).then_some(Seen::At { mark: Mark::from_bytes(mark).ok()?, note })
        }
        BYTES_1 => {
            let (revision, unix_ms) = noted.split_first_chunk::<8>()?;
            let unix_ms = u64::from_le_bytes(unix_ms.try_into().ok()?);
            Some(Seen::Wall { revision: Revision(u64::from_le_bytes(*revision)), unix_ms })
        }
        _ => None,
    }
}
