//! The deltas since the snapshot.
//!
//! `record = length u32 | payload | SHA-256(hash before, payload)`, where the first "hash before"
//! is the snapshot's. So a record that was torn, altered, reordered or written after another
//! snapshot does not check, and neither does anything after it. Numbers are little-endian. A payload
//! is `mark | digest | delta`; that of release 0.1 was `revision | current | digest | delta`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use keepgate_policy::mark::MARK_BYTES;
use keepgate_policy::wire::{self, MAX_DELTA_BYTES, WireError};
use keepgate_policy::{Delta, Digest, Mark, Revision, proto};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::files;
use crate::replica::received::{Received, Unusable};

/// Which release wrote it; a log is of the same as its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 0.1
    One,
    /// This one.
    Two,
}

/// A payload is a delta and about a hundred bytes about it.
const MAX_RECORD: usize = 2 * MAX_DELTA_BYTES;
const UNKNOWN: u64 = u64::MAX;

pub(super) type Hash = [u8; 32];

/// Where a log ends, and so goes on.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) bytes: u64,
    /// The size of its snapshot.
    pub(super) base_bytes: u64,
    hash: Hash,
    revision: Revision,
}

/// One delta and the state it led to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) revision: Revision,
    /// None: release 0.1 wrote it.
    pub(super) mark: Option<Mark>,
    pub(super) digest: Digest,
    /// When the replica was last current by then, as release 0.1 noted it.
    pub(super) current_unix_ms: Option<u64>,
    /// An encoded `Delta`.
    pub(super) delta: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("the record at byte {at} is damaged; {left} bytes are ignored")]
    Damaged { at: u64, left: u64 },
    #[error("the record at byte {at} does not apply")]
    Apply {
        at: u64,
        #[source]
        source: ApplyError,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error("it does not decode")]
    Proto(#[from] prost::DecodeError),
    #[error("it does not decode")]
    Wire(#[from] WireError),
    #[error("it cannot be used")]
    Unusable(#[from] Unusable),
    #[error("it leads to another state than it did")]
    Other,
}

impl Record {
    pub(super) fn decoded(&self) -> Result<Delta, ApplyError> {
        Ok(wire::delta_from_proto(proto::Delta::decode(self.delta.as_slice())?)?)
    }

    pub(super) fn apply(&self, state: &Received) -> Result<Received, ApplyError> {
        let after = state.apply(proto::Delta::decode(self.delta.as_slice())?, true)?;
        if after.world.revision() != self.revision || after.digest != self.digest {
            return Err(ApplyError::Other);
        }
        Ok(after)
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let mark = self.mark.ok_or_else(|| io::Error::other("the delta has no mark"))?;
        let mut payload = Vec::with_capacity(MARK_BYTES + 32 + self.delta.len());
        payload.extend(mark.to_bytes());
        payload.extend(self.digest.to_bytes());
        payload.extend(&self.delta);
        Ok(payload)
    }

    fn decode(payload: &[u8], version: Version) -> Option<Record> {
        let (revision, mark, current, rest) = match version {
            Version::One => {
                let (revision, rest) = payload.split_first_chunk::<8>()?;
                let (current, rest) = rest.split_first_chunk::<8>()?;
                let current = u64::from_le_bytes(*current);
                (Revision(u64::from_le_bytes(*revision)), None, current, rest)
            }
            Version::Two => {
                let (mark, rest) = payload.split_first_chunk::<MARK_BYTES>()?;
                let mark = Mark::from_bytes(mark).ok()?;
                (mark.revision, Some(mark), UNKNOWN, rest)
            }
        };
        let (digest, delta) = rest.split_first_chunk::<32>()?;
        Some(Record {
            revision,
            mark,
            digest: Digest::from_bytes(digest)?,
            current_unix_ms: (current != UNKNOWN).then_some(current),
            delta: delta.to_vec(),
        })
    }
}

fn chained(before: &Hash, payload: &[u8]) -> Hash {
    Sha256::new().chain_update(before).chain_update(payload).finalize().into()
}

/// An empty log after a snapshot.
pub(super) fn create(
    path: &Path,
    base: Hash,
    base_bytes: u64,
    revision: Revision,
) -> io::Result<End> {
    files::write(path)?.set_len(0)?;
    Ok(End { bytes: 0, base_bytes, hash: base, revision })
}

/// Appends a record. After an error the log's end is in doubt and must not be written to.
pub(super) fn append(path: &Path, end: &mut End, record: &Record) -> io::Result<()> {
    let payload = record.encode()?;
    let length = u32::try_from(payload.len()).ok().filter(|len| *len as usize <= MAX_RECORD);
    let length = length.ok_or_else(|| io::Error::other("the delta is too large to keep"))?;
    let hash = chained(&end.hash, &payload);
    let mut bytes = Vec::with_capacity(payload.len() + 36);
    bytes.extend(length.to_le_bytes());
    bytes.extend(&payload);
    bytes.extend(hash);
    let mut file = files::write(path)?;
    // Whatever a torn write left behind the last good record is overwritten and cut off.
    file.set_len(end.bytes)?;
    file.seek(SeekFrom::Start(end.bytes))?;
    file.write_all(&bytes)?;
    end.bytes += bytes.len() as u64;
    end.hash = hash;
    end.revision = record.revision;
    Ok(())
}

/// Gives each good record to `each`, in order, until one is damaged or refused. Returns where the
/// log goes on, and what stopped it early, if anything did.
pub(super) fn replay(
    path: &Path,
    version: Version,
    base: Hash,
    base_bytes: u64,
    mut each: impl FnMut(&Record) -> Result<(), ApplyError>,
) -> (Option<End>, Option<LogError>) {
    let mut end = End { bytes: 0, base_bytes, hash: base, revision: Revision(0) };
    let (mut file, size) = match open(path) {
        Ok(Some(opened)) => opened,
        Ok(None) => return (Some(end), None),
        Err(error) => return (None, Some(error.into())),
    };
    loop {
        let at = end.bytes;
        let damaged = || LogError::Damaged { at, left: size.saturating_sub(at) };
        match next(&mut file, version, &end.hash) {
            Ok(Next::End) => return (Some(end), None),
            // Also the log of an earlier snapshot, if a crash came between the two writes.
            Ok(Next::Damaged) => return (Some(end), Some(damaged())),
            Err(error) => return (None, Some(error.into())),
            Ok(Next::Record(record, hash, bytes)) => {
                if let Err(source) = each(&record) {
                    return (Some(end), Some(LogError::Apply { at, source }));
                }
                end.bytes += bytes;
                end.hash = hash;
                end.revision = record.revision;
            }
        }
    }
}

enum Next {
    End,
    Damaged,
    Record(Record, Hash, u64),
}

fn next(file: &mut impl io::Read, version: Version, before: &Hash) -> io::Result<Next> {
    let mut length = Vec::with_capacity(4);
    file.take(4).read_to_end(&mut length)?;
    if length.is_empty() {
        return Ok(Next::End);
    }
    let Some(length) = length.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize)
    else {
        return Ok(Next::Damaged);
    };
    if length > MAX_RECORD {
        return Ok(Next::Damaged);
    }
    let mut bytes = Vec::new();
    file.take(length as u64 + 32).read_to_end(&mut bytes)?;
    let Some((payload, hash)) = bytes.split_at_checked(length) else { return Ok(Next::Damaged) };
    let expected = chained(before, payload);
    match Record::decode(payload, version) {
        Some(record) if *hash == expected => Ok(Next::Record(record, expected, length as u64 + 36)),
        _ => Ok(Next::Damaged),
    }
}

fn open(path: &Path) -> io::Result<Option<(io::BufReader<File>, u64)>> {
    let Some(file) = files::read(path)? else { return Ok(None) };
    let size = file.metadata()?.len();
    Ok(Some((io::BufReader::new(file), size)))
}
