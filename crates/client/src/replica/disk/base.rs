//! The snapshot file.
//!
//! `header | chunk*`, where `chunk = length u32 | zstd frame` as it came from the center, and the
//! header holds what the snapshot is, whose it is, the SHA-256 of all chunks and its own. It is
//! written last, into a temporary file that is then renamed. Numbers are little-endian.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use keepgate_policy::wire::{self, ChunkWriter, MAX_CHUNK_BYTES, SnapshotDecoder, WireError};
use keepgate_policy::{Digest, ItemKey, Snapshot, proto};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::log::{self, Hash, LogError};
use super::{Owner, private};

const MAGIC: &[u8; 16] = b"keepgate-base-1\n";
/// Magic, revision, current, items, chunks, digest, owner, chunks' hash, header's hash.
const HEADER: usize = 16 + 4 * 8 + 4 * 32;
/// zstd may make a chunk that does not compress slightly larger.
const MAX_FRAME: usize = MAX_CHUNK_BYTES + MAX_CHUNK_BYTES / 128 + 1024;
const UNKNOWN: u64 = u64::MAX;

/// What a snapshot is.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) revision: u64,
    pub(super) digest: Vec<u8>,
    pub(super) items: u64,
    /// When the replica was last current, when this was written.
    pub(super) current_unix_ms: Option<u64>,
}

pub(super) struct Base {
    pub(super) snapshot: Snapshot,
    pub(super) current_unix_ms: Option<u64>,
    /// What a log that belongs to it chains from.
    pub(super) hash: Hash,
    pub(super) bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum BaseError {
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    #[error("it is no snapshot file of this version, or its header is damaged")]
    Header,
    #[error("it ends too early")]
    Short,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it does not decode")]
    Wire(#[from] WireError),
    #[error("it leads to another state than it should")]
    Digest,
    #[error("its log is damaged")]
    Log(#[source] LogError),
}

struct Header {
    about: About,
    chunks: u64,
    owner: Owner,
    chunks_hash: Hash,
    hash: Hash,
}

impl Header {
    fn encode(about: &About, chunks: u64, owner: &Owner, chunks_hash: &Hash) -> (Vec<u8>, Hash) {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(MAGIC);
        bytes.extend(about.revision.to_le_bytes());
        bytes.extend(about.current_unix_ms.unwrap_or(UNKNOWN).to_le_bytes());
        bytes.extend(about.items.to_le_bytes());
        bytes.extend(chunks.to_le_bytes());
        bytes.extend(&about.digest);
        bytes.extend(owner);
        bytes.extend(chunks_hash);
        let hash: Hash = Sha256::digest(&bytes).into();
        bytes.extend(hash);
        (bytes, hash)
    }

    fn decode(bytes: &[u8]) -> Option<Header> {
        let (checked, hash) = bytes.split_last_chunk::<32>()?;
        if *Sha256::digest(checked) != *hash {
            return None;
        }
        let (magic, rest) = checked.split_first_chunk::<16>()?;
        let (revision, rest) = rest.split_first_chunk::<8>()?;
        let (current, rest) = rest.split_first_chunk::<8>()?;
        let (items, rest) = rest.split_first_chunk::<8>()?;
        let (chunks, rest) = rest.split_first_chunk::<8>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let (owner, rest) = rest.split_first_chunk::<32>()?;
        let (chunks_hash, rest) = rest.split_first_chunk::<32>()?;
        if magic != MAGIC || !rest.is_empty() {
            return None;
        }
        let current = u64::from_le_bytes(*current);
        Some(Header {
            about: About {
                revision: u64::from_le_bytes(*revision),
                digest: digest.to_vec(),
                items: u64::from_le_bytes(*items),
                current_unix_ms: (current != UNKNOWN).then_some(current),
            },
            chunks: u64::from_le_bytes(*chunks),
            owner: *owner,
            chunks_hash: *chunks_hash,
            hash: *hash,
        })
    }
}

/// Writes a snapshot file; nothing is at its place before `finish`.
pub(super) struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    chunks: u64,
    bytes: u64,
}

impl Writer {
    pub(super) fn create(path: &Path) -> io::Result<Writer> {
        let temporary = path.with_extension("tmp");
        let file =
            private(OpenOptions::new().write(true).create(true).truncate(true)).open(&temporary)?;
        let mut file = BufWriter::new(file);
        file.write_all(&[0; HEADER])?;
        Ok(Writer {
            path: path.to_owned(),
            temporary,
            file,
            hash: Sha256::new(),
            chunks: 0,
            bytes: HEADER as u64,
        })
    }

    pub(super) fn chunk(&mut self, zstd: &[u8]) -> io::Result<()> {
        let length = u32::try_from(zstd.len()).map_err(io::Error::other)?.to_le_bytes();
        for part in [&length, zstd] {
            self.file.write_all(part)?;
            self.hash.update(part);
        }
        self.chunks += 1;
        self.bytes += 4 + zstd.len() as u64;
        Ok(())
    }

    /// Puts the file in its place; returns its hash and size.
    pub(super) fn finish(self, about: &About, owner: &Owner) -> io::Result<(Hash, u64)> {
        let chunks_hash: Hash = self.hash.finalize().into();
        let (header, hash) = Header::encode(about, self.chunks, owner, &chunks_hash);
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&self.temporary, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok((hash, self.bytes))
    }
}

/// Gives each chunk to `each`; an error if the file is not exactly what its header says.
fn chunks(
    path: &Path,
    mut begin: impl FnMut(&Header) -> Result<bool, BaseError>,
    mut each: impl FnMut(Vec<u8>) -> Result<(), BaseError>,
) -> Result<Option<(Header, u64)>, BaseError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut bytes = [0; HEADER];
    file.read_exact(&mut bytes).map_err(|_| BaseError::Header)?;
    let header = Header::decode(&bytes).ok_or(BaseError::Header)?;
    if !begin(&header)? {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    for _ in 0..header.chunks {
        let mut length = [0; 4];
        file.read_exact(&mut length).map_err(|_| BaseError::Short)?;
        hash.update(length);
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(BaseError::Checksum);
        }
        let mut frame = vec![0; length];
        file.read_exact(&mut frame).map_err(|_| BaseError::Short)?;
        hash.update(&frame);
        each(frame)?;
    }
    if *hash.finalize() != header.chunks_hash || file.read(&mut [0])? != 0 {
        return Err(BaseError::Checksum);
    }
    Ok(Some((header, size)))
}

/// The snapshot; none where there is no file, or one of another owner.
pub(super) fn read(path: &Path, owner: &Owner) -> Result<Option<Base>, BaseError> {
    let mut decoder = None;
    let begin = |header: &Header| {
        if header.owner != *owner {
            tracing::info!(file = %path.display(), "kept state is of another center or service");
            return Ok(false);
        }
        let begin = proto::SnapshotBegin {
            revision: header.about.revision,
            digest: header.about.digest.clone(),
            items: header.about.items,
            mark: None,
        };
        Ok(SnapshotDecoder::begin(&begin)?).map(|begun| {
            decoder = Some(begun);
            true
        })
    };
    // The decoder checks every frame as it comes; that the file is whole is known at its end.
    let mut frames = Vec::new();
    let found = chunks(path, begin, |zstd| {
        frames.push(zstd);
        Ok(())
    })?;
    let (Some((header, bytes)), Some(mut decoder)) = (found, decoder) else { return Ok(None) };
    for zstd in frames {
        decoder.chunk(&proto::SnapshotChunk { zstd })?;
    }
    let snapshot = decoder.finish(&proto::SnapshotEnd { chunks: header.chunks })?;
    let current_unix_ms = header.about.current_unix_ms;
    Ok(Some(Base { snapshot, current_unix_ms, hash: header.hash, bytes }))
}

/// A snapshot file that holds what `base` and its log amount to, written but not yet in place.
pub(super) fn merged(base: &Path, log: &Path, owner: &Owner) -> Result<(Writer, About), BaseError> {
    let header = {
        let mut bytes = [0; HEADER];
        File::open(base)?.read_exact(&mut bytes)?;
        Header::decode(&bytes).ok_or(BaseError::Header)?
    };
    let mut about = header.about;
    // What the log says of each key it names; none: deleted.
    let mut changed: HashMap<ItemKey, Option<Vec<u8>>> = HashMap::new();
    let (_, trouble) = log::replay(log, header.hash, 0, |record| {
        for change in proto::Delta::decode(record.delta.as_slice())?.changes {
            match change.change {
                Some(proto::change::Change::Put(item)) => {
                    changed.insert(wire::key_from_proto(item.key)?, Some(item.body));
                }
                Some(proto::change::Change::Delete(key)) => {
                    changed.insert(wire::key_from_proto(Some(key))?, None);
                }
                None => {}
            }
        }
        about.revision = record.revision.0;
        about.digest = record.digest.to_bytes().to_vec();
        about.current_unix_ms = record.current_unix_ms.max(about.current_unix_ms);
        Ok(())
    });
    if let Some(error) = trouble {
        return Err(BaseError::Log(error));
    }

    let mut out = Writer::create(base)?;
    let mut packer = ChunkWriter::new();
    let (mut items, mut sum) = (0, Digest::default());
    let mut keep = |out: &mut Writer, key: &ItemKey, body: Vec<u8>| -> Result<(), BaseError> {
        items += 1;
        sum = sum.plus(Digest::of_encoded(key, &body));
        if let Some(chunk) = packer.push_encoded(key, body, 1)? {
            out.chunk(&chunk.zstd)?;
        }
        Ok(())
    };
    let mut zstd = zstd::bulk::Decompressor::new()?;
    let whole = chunks(
        base,
        |header| Ok(header.owner == *owner),
        |frame| {
            let bytes = zstd.decompress(&frame, MAX_CHUNK_BYTES)?;
            let chunk = proto::Items::decode(bytes.as_slice()).map_err(WireError::from)?;
            for item in chunk.items {
                let key = wire::key_from_proto(item.key)?;
                if !changed.contains_key(&key) {
                    keep(&mut out, &key, item.body)?;
                }
            }
            Ok(())
        },
    )?;
    if whole.is_none() {
        return Err(BaseError::Header);
    }
    for (key, body) in changed {
        if let Some(body) = body {
            keep(&mut out, &key, body)?;
        }
    }
    let (last, _) = packer.finish()?;
    if let Some(chunk) = last {
        out.chunk(&chunk.zstd)?;
    }
    if sum.to_bytes().as_slice() != about.digest {
        return Err(BaseError::Digest);
    }
    about.items = items;
    Ok((out, about))
}
