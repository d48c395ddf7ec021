//! The snapshot file.
//!
//! `header | chunk*`, where `chunk = length u32 | zstd frame` as it came from the center, and the
//! header holds what the snapshot is, whose it is, the SHA-256 of all chunks and its own. It is
//! written last, into a temporary file that is then renamed. Numbers are little-endian. What release
//! 0.1 wrote, which has no mark, is read and not written any more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use keepgate_policy::mark::MARK_BYTES;
use keepgate_policy::wire::{self, ChunkWriter, MAX_CHUNK_BYTES, SnapshotDecoder, WireError};
use keepgate_policy::{Digest, ItemKey, Mark, Revision, Snapshot, proto};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::log::{self, Hash, LogError, Version};
use super::{Owner, files};

const MAGIC_1: &[u8; 16] = b"keepgate-base-1\n";
const MAGIC: &[u8; 16] = b"keepgate-base-2\n";
/// What follows the magic in a file of release 0.1: revision, current, items, chunks, digest, owner,
/// chunks' hash, header's hash.
const REST_1: usize = 4 * 8 + 4 * 32;
/// What follows the magic: size of the names, mark, items, chunks, digest, center, chunks' hash.
const FIXED: usize = 4 + MARK_BYTES + 2 * 8 + 3 * 32;
/// The names of the services, each with its length: 256 names of 200 bytes and a bit.
const MAX_NAMES: usize = 64 * 1024;
/// zstd may make a chunk that does not compress slightly larger.
const MAX_FRAME: usize = MAX_CHUNK_BYTES + MAX_CHUNK_BYTES / 128 + 1024;
const UNKNOWN: u64 = u64::MAX;

/// What a snapshot is.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) revision: Revision,
    pub(super) digest: Vec<u8>,
    pub(super) items: u64,
    /// None: release 0.1 wrote it.
    pub(super) mark: Option<Mark>,
    /// When the replica was last current, as release 0.1 noted it.
    pub(super) current_unix_ms: Option<u64>,
}

pub(super) struct Base {
    pub(super) snapshot: Snapshot,
    /// What it was decoded from.
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) about: About,
    pub(super) services: Vec<String>,
    /// Whether it came from the center under the URL that is used now.
    pub(super) same_center: bool,
    pub(super) version: Version,
    /// What a log that belongs to it chains from.
    pub(super) hash: Hash,
    pub(super) bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum BaseError {
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    #[error(
        "expected a snapshot file of this or the previous release, found another or a damaged header"
    )]
    Header,
    #[error("it ends too early")]
    Short,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it does not decode")]
    Wire(#[from] WireError),
    #[error("it leads to another state than it should")]
    Digest,
    #[error("it holds items that only a newer release understands")]
    Newer,
    #[error("its log is damaged")]
    Log(#[source] LogError),
}

struct Header {
    about: About,
    chunks: u64,
    /// The center's hash; of release 0.1: the hash of center and services.
    center: Hash,
    services: Vec<String>,
    version: Version,
    chunks_hash: Hash,
    hash: Hash,
}

impl Header {
    fn size(owner: &Owner) -> usize {
        16 + FIXED + names(&owner.services).len() + 32
    }

    fn encode(
        about: &About,
        mark: &Mark,
        chunks: u64,
        owner: &Owner,
        chunks_hash: &Hash,
    ) -> (Vec<u8>, Hash) {
        let names = names(&owner.services);
        let mut bytes = Vec::with_capacity(Header::size(owner));
        bytes.extend(MAGIC);
        bytes.extend(u32::try_from(names.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(mark.to_bytes());
        bytes.extend(about.items.to_le_bytes());
        bytes.extend(chunks.to_le_bytes());
        bytes.extend(&about.digest);
        bytes.extend(owner.center);
        bytes.extend(chunks_hash);
        bytes.extend(names);
        let hash: Hash = Sha256::digest(&bytes).into();
        bytes.extend(hash);
        (bytes, hash)
    }

    fn read(file: &mut impl Read) -> Result<Header, BaseError> {
        let mut bytes = vec![0; 16];
        file.read_exact(&mut bytes).map_err(|_| BaseError::Header)?;
        let mut more = |bytes: &mut Vec<u8>, count: usize| {
            let had = bytes.len();
            let read = file.by_ref().take(count as u64).read_to_end(bytes);
            let complete = read.is_ok() && bytes.len() == had + count;
            if complete { Ok(()) } else { Err(BaseError::Header) }
        };
        if bytes == MAGIC_1 {
            more(&mut bytes, REST_1)?;
            return Header::decode_1(&bytes).ok_or(BaseError::Header);
        }
        if bytes != MAGIC {
            return Err(BaseError::Header);
        }
        more(&mut bytes, FIXED)?;
        let length = bytes.get(16..20).and_then(|length| length.try_into().ok());
        let length = u32::from_le_bytes(length.ok_or(BaseError::Header)?) as usize;
        if length > MAX_NAMES {
            return Err(BaseError::Header);
        }
        more(&mut bytes, length + 32)?;
        Header::decode(&bytes).ok_or(BaseError::Header)
    }

    fn decode(bytes: &[u8]) -> Option<Header> {
        let (checked, hash) = checked(bytes)?;
        let (_, rest) = checked.split_at_checked(16 + 4)?;
        let (mark, rest) = rest.split_first_chunk::<MARK_BYTES>()?;
        let (items, rest) = rest.split_first_chunk::<8>()?;
        let (chunks, rest) = rest.split_first_chunk::<8>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let (center, rest) = rest.split_first_chunk::<32>()?;
        let (chunks_hash, names) = rest.split_first_chunk::<32>()?;
        let mark = Mark::from_bytes(mark).ok()?;
        Some(Header {
            about: About {
                revision: mark.revision,
                digest: digest.to_vec(),
                items: u64::from_le_bytes(*items),
                mark: Some(mark),
                current_unix_ms: None,
            },
            chunks: u64::from_le_bytes(*chunks),
            center: *center,
            services: from_names(names)?,
            version: Version::Two,
            chunks_hash: *chunks_hash,
            hash,
        })
    }

    fn decode_1(bytes: &[u8]) -> Option<Header> {
        let (checked, hash) = checked(bytes)?;
        let (_, rest) = checked.split_at_checked(16)?;
        let (revision, rest) = rest.split_first_chunk::<8>()?;
        let (current, rest) = rest.split_first_chunk::<8>()?;
        let (items, rest) = rest.split_first_chunk::<8>()?;
        let (chunks, rest) = rest.split_first_chunk::<8>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let (owner, rest) = rest.split_first_chunk::<32>()?;
        let (chunks_hash, rest) = rest.split_first_chunk::<32>()?;
        if !rest.is_empty() {
            return None;
        }
        let current = u64::from_le_bytes(*current);
        Some(Header {
            about: About {
                revision: Revision(u64::from_le_bytes(*revision)),
                digest: digest.to_vec(),
                items: u64::from_le_bytes(*items),
                mark: None,
                current_unix_ms: (current != UNKNOWN).then_some(current),
            },
            chunks: u64::from_le_bytes(*chunks),
            center: *owner,
            services: Vec::new(),
            version: Version::One,
            chunks_hash: *chunks_hash,
            hash,
        })
    }

    /// Whether this replica may use it; if so, whether it is of the center under the same URL.
    fn belongs(&self, owner: &Owner) -> Option<bool> {
        match self.version {
            Version::One => owner.legacy.contains(&self.center).then_some(true),
            Version::Two => {
                (self.services == owner.services).then_some(owner.is_center(&self.center))
            }
        }
    }
}

fn checked(bytes: &[u8]) -> Option<(&[u8], Hash)> {
    let (checked, hash) = bytes.split_last_chunk::<32>()?;
    (*Sha256::digest(checked) == *hash).then_some((checked, *hash))
}

/// Each name with its length before it.
fn names(services: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in services {
        bytes.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend(name.as_bytes());
    }
    bytes
}

fn from_names(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut services = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        services.push(std::str::from_utf8(name).ok()?.to_owned());
        bytes = rest;
    }
    bytes.is_empty().then_some(services)
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
    pub(super) fn create(path: &Path, owner: &Owner) -> io::Result<Writer> {
        let temporary = temporary(path);
        let mut file = BufWriter::new(files::create(&temporary)?);
        let header = Header::size(owner);
        file.write_all(&vec![0; header])?;
        Ok(Writer {
            path: path.to_owned(),
            temporary,
            file,
            hash: Sha256::new(),
            chunks: 0,
            bytes: header as u64,
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
        let mark = about.mark.ok_or_else(|| io::Error::other("the state has no mark"))?;
        let chunks_hash: Hash = self.hash.finalize().into();
        let (header, hash) = Header::encode(about, &mark, self.chunks, owner, &chunks_hash);
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
    let Some(file) = files::read(path)? else { return Ok(None) };
    let size = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let header = Header::read(&mut file)?;
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

/// The snapshot; none where there is no file, or one of another owner. Without an owner: anybody's.
pub(super) fn read(path: &Path, owner: Option<&Owner>) -> Result<Option<Base>, BaseError> {
    let mut decoder = None;
    let mut same_center = true;
    let begin = |header: &Header| {
        match owner.map(|owner| header.belongs(owner)) {
            Some(None) => {
                let file = path.display();
                tracing::info!(%file, "kept state is of another center or other services");
                return Ok(false);
            }
            Some(Some(same)) => same_center = same,
            None => {}
        }
        let begin = proto::SnapshotBegin {
            revision: header.about.revision.0,
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
    for zstd in &mut frames {
        let chunk = proto::SnapshotChunk { zstd: std::mem::take(zstd) };
        decoder.chunk(&chunk)?;
        *zstd = chunk.zstd;
    }
    if !decoder.beyond().is_empty() {
        return Err(BaseError::Newer);
    }
    let snapshot = decoder.finish(&proto::SnapshotEnd { chunks: header.chunks })?;
    Ok(Some(Base {
        snapshot,
        frames,
        about: header.about,
        services: header.services,
        same_center,
        version: header.version,
        hash: header.hash,
        bytes,
    }))
}

/// A snapshot file that holds what `base` and its log amount to, written but not yet in place.
pub(super) fn merged(base: &Path, log: &Path, owner: &Owner) -> Result<(Writer, About), BaseError> {
    let header = {
        let file = files::read(base)?.ok_or(BaseError::Header)?;
        Header::read(&mut BufReader::new(file))?
    };
    let mut about = header.about;
    // What the log says of each key it names; none: deleted.
    let mut changed: HashMap<ItemKey, Option<(Vec<u8>, u32)>> = HashMap::new();
    let (_, trouble) = log::replay(log, header.version, header.hash, 0, |record| {
        for change in proto::Delta::decode(record.delta.as_slice())?.changes {
            match change.change {
                Some(proto::change::Change::Put(item)) => {
                    let body = (item.body, item.needs);
                    changed.insert(wire::key_from_proto(item.key)?, Some(body));
                }
                Some(proto::change::Change::Delete(key)) => {
                    changed.insert(wire::key_from_proto(Some(key))?, None);
                }
                None => {}
            }
        }
        about.revision = record.revision;
        about.mark = record.mark;
        about.digest = record.digest.to_bytes().to_vec();
        Ok(())
    });
    if let Some(error) = trouble {
        return Err(BaseError::Log(error));
    }

    let mut out = Writer::create(base, owner)?;
    let mut packer = ChunkWriter::new();
    let (mut items, mut sum) = (0, Digest::default());
    let mut keep = |out: &mut Writer, key: &ItemKey, (body, needs): (Vec<u8>, u32)| {
        items += 1;
        sum = sum.plus(Digest::of_encoded(key, &body));
        if let Some(chunk) = packer.push_encoded(key, body, needs)? {
            out.chunk(&chunk.zstd)?;
        }
        Ok::<_, BaseError>(())
    };
    let mut zstd = zstd::bulk::Decompressor::new()?;
    let whole = chunks(
        base,
        |header| Ok(header.belongs(owner).is_some()),
        |frame| {
            let bytes = zstd.decompress(&frame, MAX_CHUNK_BYTES)?;
            let chunk = proto::Items::decode(bytes.as_slice()).map_err(WireError::from)?;
            for item in chunk.items {
                let key = wire::key_from_proto(item.key)?;
                if !changed.contains_key(&key) {
                    keep(&mut out, &key, (item.body, item.needs))?;
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

/// Where a snapshot is written before it is whole.
pub(super) fn temporary(base: &Path) -> PathBuf {
    base.with_extension("tmp")
}
