//! The bytes of snapshots and deltas: model types to and from the messages of
//! `keepgate.sync.v1`.
//!
//! A snapshot travels as chunks. Each chunk is one zstd frame of an `Items` message, closed as
//! soon as it holds [`CHUNK_BYTES`] before compression. What comes from the other side is hostile
//! until proven otherwise: no input panics, and memory is bounded before it is taken, by the
//! bounds below and by the counts and the digest that the sender announced.
//!
//! INVARIANT: [`SnapshotDecoder::finish`] returns a snapshot only if the number of chunks, the
//! number of items and the digest are those announced, and no key occurs twice.

use std::collections::BTreeMap;

use prost::Message as _;

use crate::digest::Digest;
use crate::item::DecodeError;
use crate::mark::FORMAT;
use crate::model::{Change, Delta, Item, ItemKey, Kind, Revision, Snapshot};
use crate::proto;

/// A chunk is closed when it holds this many bytes of items, before compression.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// The largest item, key and body together; a larger one may not enter a store.
pub const MAX_ITEM_BYTES: usize = 1024 * 1024;
/// The largest chunk after decompression: a nearly full one and one largest item.
pub const MAX_CHUNK_BYTES: usize = CHUNK_BYTES + MAX_ITEM_BYTES + 64;
/// The most items in a snapshot.
pub const MAX_ITEMS: u64 = 16_000_000;
/// The most bytes of items in a snapshot, before compression.
pub const MAX_SNAPSHOT_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// A delta whose items are larger than this is not sent; a snapshot is sent in its place.
pub const MAX_DELTA_BYTES: usize = 3 * 1024 * 1024;
/// The most changes in a delta.
pub const MAX_CHANGES: usize = 100_000;

const ZSTD_LEVEL: i32 = 3;
/// Field 1 of `Items`, length-delimited.
const ITEMS_TAG: u8 = 0x0a;

/// Bytes that are no snapshot or delta; nothing of them is kept.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A zstd frame that does not decompress within [`MAX_CHUNK_BYTES`].
    #[error("chunk {chunk} does not decompress within {MAX_CHUNK_BYTES} bytes")]
    Zstd {
        /// Which chunk, counted from 0.
        chunk: u64,
        /// What zstd says.
        #[source]
        source: std::io::Error,
    },
    /// Not the message that was expected.
    #[error("not a message of the follow protocol")]
    Proto(#[from] prost::DecodeError),
    /// Not the message that was expected, in a way prost does not know.
    #[error("not a message of the follow protocol: {0}")]
    Shape(&'static str),
    /// An item whose body does not parse or does not belong to its key.
    #[error("an item does not decode")]
    Item(#[from] DecodeError),
    /// Too much of something.
    #[error("{what}: {count}, at most {bound} are allowed")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: u64,
        /// How much there may be.
        bound: u64,
    },
    /// Not as many as announced.
    #[error("{what}: {announced} were announced, {count} came")]
    Count {
        /// What was counted.
        what: &'static str,
        /// What the sender said.
        announced: u64,
        /// What came.
        count: u64,
    },
    /// The items are not those that the sender has.
    #[error("the items have the digest {came}, announced was {announced}")]
    Digest {
        /// What the sender said.
        announced: Digest,
        /// What the items have.
        came: Digest,
    },
    /// One key twice.
    #[error("{0} came twice")]
    Twice(ItemKey),
}

fn too_much(what: &'static str, count: u64, bound: u64) -> WireError {
    WireError::TooMuch { what, count, bound }
}

/// Packs items into chunks as they come.
#[derive(Default)]
pub struct ChunkWriter {
    items: Vec<u8>,
    chunks: u64,
}

impl ChunkWriter {
    /// A writer that holds nothing.
    pub fn new() -> ChunkWriter {
        ChunkWriter::default()
    }

    /// Adds an item; returns the chunk that is full with it.
    pub fn push(&mut self, item: &Item) -> Result<Option<proto::SnapshotChunk>, WireError> {
        self.push_encoded(&item.key, item.encode(), item.needs())
    }

    /// The same, where the canonical body is at hand, with the lowest format that understands it.
    pub fn push_encoded(
        &mut self,
        key: &ItemKey,
        body: Vec<u8>,
        needs: u32,
    ) -> Result<Option<proto::SnapshotChunk>, WireError> {
        let item = proto::Item { key: Some(key_to_proto(key)), body, needs: wire_needs(needs) };
        let bytes = item.encoded_len();
        if bytes > MAX_ITEM_BYTES {
            return Err(too_much("bytes of one item", bytes as u64, MAX_ITEM_BYTES as u64));
        }
        self.items.push(ITEMS_TAG);
        // A vector grows as needed, so this cannot fail.
        let _ = item.encode_length_delimited(&mut self.items);
        if self.items.len() >= CHUNK_BYTES { self.close().map(Some) } else { Ok(None) }
    }

    /// The last chunk, if anything is left, and the end with the number of chunks.
    pub fn finish(
        mut self,
    ) -> Result<(Option<proto::SnapshotChunk>, proto::SnapshotEnd), WireError> {
        let last = if self.items.is_empty() { None } else { Some(self.close()?) };
        Ok((last, proto::SnapshotEnd { chunks: self.chunks }))
    }

    fn close(&mut self) -> Result<proto::SnapshotChunk, WireError> {
        let zstd = zstd::bulk::compress(&self.items, ZSTD_LEVEL)
            .map_err(|source| WireError::Zstd { chunk: self.chunks, source })?;
        self.items.clear();
        self.chunks += 1;
        Ok(proto::SnapshotChunk { zstd })
    }
}

/// The message that opens a snapshot.
pub fn snapshot_begin(revision: Revision, digest: Digest, items: u64) -> proto::SnapshotBegin {
    proto::SnapshotBegin {
        revision: revision.0,
        digest: digest.to_bytes().to_vec(),
        items,
        mark: None,
    }
}

/// All chunks of a snapshot and its end. For large ones, use [`ChunkWriter`] and send as you go.
pub fn snapshot_chunks(
    snapshot: &Snapshot,
) -> Result<(Vec<proto::SnapshotChunk>, proto::SnapshotEnd), WireError> {
    let mut writer = ChunkWriter::new();
    let mut chunks = Vec::new();
    for item in &snapshot.items {
        chunks.extend(writer.push(item)?);
    }
    let (last, end) = writer.finish()?;
    chunks.extend(last);
    Ok((chunks, end))
}

/// Reads a snapshot chunk by chunk.
#[derive(Debug)]
pub struct SnapshotDecoder {
    revision: Revision,
    announced: Digest,
    announced_items: u64,
    sum: Digest,
    items: Vec<Item>,
    /// Items that were counted and not read.
    unread: u64,
    beyond: BTreeMap<String, u32>,
    chunks: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl SnapshotDecoder {
    /// Starts with what the sender announces.
    pub fn begin(begin: &proto::SnapshotBegin) -> Result<SnapshotDecoder, WireError> {
        if begin.items > MAX_ITEMS {
            return Err(too_much("items announced", begin.items, MAX_ITEMS));
        }
        Ok(SnapshotDecoder {
            revision: Revision(begin.revision),
            announced: Digest::from_bytes(&begin.digest)
                .ok_or(WireError::Shape("a digest has 32 bytes"))?,
            announced_items: begin.items,
            sum: Digest::default(),
            // What is announced is not yet true: memory follows the items that come.
            items: Vec::new(),
            unread: 0,
            beyond: BTreeMap::new(),
            chunks: 0,
            bytes: 0,
            buffer: Vec::new(),
        })
    }

    /// The revision announced.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many items have come.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The services that have items which only a newer format can say, and which one. Such items
    /// count for the digest, which is over the bytes that came; they are in no snapshot.
    pub fn beyond(&self) -> &BTreeMap<String, u32> {
        &self.beyond
    }

    /// Whether no item has come.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes the next chunk. After an error the decoder is of no more use.
    pub fn chunk(&mut self, chunk: &proto::SnapshotChunk) -> Result<(), WireError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.reserve_exact(MAX_CHUNK_BYTES);
        let read = zstd::bulk::Decompressor::new()
            .and_then(|mut zstd| zstd.decompress_to_buffer(&chunk.zstd, &mut buffer));
        if let Err(source) = read {
            return Err(WireError::Zstd { chunk: self.chunks, source });
        }
        self.chunks += 1;
        self.bytes += buffer.len() as u64;
        if self.bytes > MAX_SNAPSHOT_BYTES {
            return Err(too_much("bytes of items", self.bytes, MAX_SNAPSHOT_BYTES));
        }
        self.items_of(&buffer)?;
        self.buffer = buffer;
        Ok(())
    }

    /// Item by item, so that a frame of a million empty items is refused at the first one.
    fn items_of(&mut self, mut bytes: &[u8]) -> Result<(), WireError> {
        while let Some((&tag, mut rest)) = bytes.split_first() {
            if tag != ITEMS_TAG {
                return Err(WireError::Shape("a chunk holds items only"));
            }
            let len = prost::decode_length_delimiter(&mut rest)?;
            let (item, rest) =
                rest.split_at_checked(len).ok_or(WireError::Shape("an item is cut off"))?;
            bytes = rest;
            if len > MAX_ITEM_BYTES {
                return Err(too_much("bytes of one item", len as u64, MAX_ITEM_BYTES as u64));
            }
            let count = self.items.len() as u64 + self.unread + 1;
            if count > self.announced_items {
                return Err(too_much("items", count, self.announced_items));
            }
            let item = proto::Item::decode(item)?;
            if item.needs > FORMAT {
                self.sum = self.sum.plus(digest_of_unread(&item)?);
                self.unread += 1;
                note_beyond(&mut self.beyond, &item);
                continue;
            }
            let key = key_from_proto(item.key)?;
            self.sum = self.sum.plus(Digest::of_encoded(&key, &item.body));
            self.items.push(Item::decode(key, &item.body)?);
        }
        Ok(())
    }

    /// The snapshot, if all that was announced has come.
    pub fn finish(mut self, end: &proto::SnapshotEnd) -> Result<Snapshot, WireError> {
        let count = |what, announced, count| WireError::Count { what, announced, count };
        if end.chunks != self.chunks {
            return Err(count("chunks", end.chunks, self.chunks));
        }
        let came = self.items.len() as u64 + self.unread;
        if came != self.announced_items {
            return Err(count("items", self.announced_items, came));
        }
        if self.sum != self.announced {
            return Err(WireError::Digest { announced: self.announced, came: self.sum });
        }
        if !self.items.is_sorted_by(|a, b| a.key < b.key) {
            self.items.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            let twice = self.items.windows(2).find_map(|pair| match pair {
                [a, b] if a.key == b.key => Some(a.key.clone()),
                _ => None,
            });
            if let Some(key) = twice {
                return Err(WireError::Twice(key));
            }
        }
        Ok(Snapshot { revision: self.revision, digest: self.announced, items: self.items })
    }
}

/// The message of a delta; none where it is too large to send and a snapshot must go instead.
pub fn delta_to_proto(delta: &Delta) -> Option<proto::Delta> {
    if delta.changes.len() > MAX_CHANGES {
        return None;
    }
    let mut bytes = 0;
    let mut changes = Vec::with_capacity(delta.changes.len());
    for change in &delta.changes {
        let change = match change {
            Change::Put(item) => {
                let item = proto::Item {
                    key: Some(key_to_proto(&item.key)),
                    body: item.encode(),
                    needs: wire_needs(item.needs()),
                };
                proto::change::Change::Put(item)
            }
            Change::Delete(key) => proto::change::Change::Delete(key_to_proto(key)),
        };
        let change = proto::Change { change: Some(change) };
        bytes += change.encoded_len();
        if bytes > MAX_DELTA_BYTES {
            return None;
        }
        changes.push(change);
    }
    Some(proto::Delta {
        previous: delta.previous.0,
        revision: delta.revision.0,
        changes,
        digest: delta.digest.map(|digest| digest.to_bytes().to_vec()).unwrap_or_default(),
        mark: None,
    })
}

/// Reads a delta. The message itself is bounded by the transport.
pub fn delta_from_proto(delta: proto::Delta) -> Result<Delta, WireError> {
    if delta.changes.len() > MAX_CHANGES {
        return Err(too_much("changes", delta.changes.len() as u64, MAX_CHANGES as u64));
    }
    if delta.revision <= delta.previous {
        return Err(WireError::Shape("a delta goes forward"));
    }
    let digest = match delta.digest.as_slice() {
        [] => None,
        bytes => Some(Digest::from_bytes(bytes).ok_or(WireError::Shape("a digest has 32 bytes"))?),
    };
    let changes = delta.changes.into_iter().map(change_from_proto).collect::<Result<_, _>>()?;
    Ok(Delta {
        previous: Revision(delta.previous),
        revision: Revision(delta.revision),
        changes,
        digest,
    })
}

fn change_from_proto(change: proto::Change) -> Result<Change, WireError> {
    match change.change {
        Some(proto::change::Change::Put(item)) => {
            let bytes = item.encoded_len();
            if bytes > MAX_ITEM_BYTES {
                return Err(too_much("bytes of one item", bytes as u64, MAX_ITEM_BYTES as u64));
            }
            Ok(Change::Put(Item::decode(key_from_proto(item.key)?, &item.body)?))
        }
        Some(proto::change::Change::Delete(key)) => Ok(Change::Delete(key_from_proto(Some(key))?)),
        None => Err(WireError::Shape("a change without a change")),
    }
}

/// The services of which a delta has items that only a newer format can say.
pub fn delta_beyond(delta: &proto::Delta) -> BTreeMap<String, u32> {
    let mut beyond = BTreeMap::new();
    for change in &delta.changes {
        if let Some(proto::change::Change::Put(item)) = &change.change
            && item.needs > FORMAT
        {
            note_beyond(&mut beyond, item);
        }
    }
    beyond
}

fn note_beyond(beyond: &mut BTreeMap<String, u32>, item: &proto::Item) {
    let service = item.key.as_ref().map(|key| key.service.clone()).unwrap_or_default();
    let needs = beyond.entry(service).or_default();
    *needs = item.needs.max(*needs);
}

/// Of an item whose kind may be one that this release has no name for.
fn digest_of_unread(item: &proto::Item) -> Result<Digest, WireError> {
    Ok(Digest::of_encoded(&key_from_proto(item.key.clone())?, &item.body))
}

/// `needs` as it travels: what release 0.1 understands is not written, so it stays in its form.
pub fn wire_needs(needs: u32) -> u32 {
    if needs <= 1 { 0 } else { needs }
}

/// The message of a key.
pub fn key_to_proto(key: &ItemKey) -> proto::ItemKey {
    let kind = match key.kind {
        Kind::Service => proto::Kind::Service,
        Kind::Schema => proto::Kind::Schema,
        Kind::Entity => proto::Kind::Entity,
        Kind::Role => proto::Kind::Role,
        Kind::Member => proto::Kind::Member,
        Kind::Policy => proto::Kind::Policy,
        Kind::Template => proto::Kind::Template,
        Kind::Link => proto::Kind::Link,
        Kind::Grant => proto::Kind::Grant,
        Kind::Route => proto::Kind::Route,
        Kind::Key => proto::Kind::Key,
        Kind::Limit => proto::Kind::Limit,
        Kind::Plan => proto::Kind::Plan,
    };
    proto::ItemKey { service: key.service.clone(), kind: kind.into(), id: key.id.clone() }
}

/// Reads a key.
pub fn key_from_proto(key: Option<proto::ItemKey>) -> Result<ItemKey, WireError> {
    let key = key.ok_or(WireError::Shape("an item without a key"))?;
    let kind = match proto::Kind::try_from(key.kind) {
        Ok(proto::Kind::Service) => Kind::Service,
        Ok(proto::Kind::Schema) => Kind::Schema,
        Ok(proto::Kind::Entity) => Kind::Entity,
        Ok(proto::Kind::Role) => Kind::Role,
        Ok(proto::Kind::Member) => Kind::Member,
        Ok(proto::Kind::Policy) => Kind::Policy,
        Ok(proto::Kind::Template) => Kind::Template,
        Ok(proto::Kind::Link) => Kind::Link,
        Ok(proto::Kind::Grant) => Kind::Grant,
        Ok(proto::Kind::Route) => Kind::Route,
        Ok(proto::Kind::Key) => Kind::Key,
        Ok(proto::Kind::Limit) => Kind::Limit,
        Ok(proto::Kind::Plan) => Kind::Plan,
        Ok(proto::Kind::Unspecified) | Err(_) => return Err(WireError::Shape("an unknown kind")),
    };
    Ok(ItemKey { service: key.service, kind, id: key.id })
}
