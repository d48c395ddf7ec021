//! Snapshots and deltas as bytes, honest and hostile.

use keepgate_policy::model::{EntityBody, MemberBody, PolicyBody};
use keepgate_policy::wire::{self, ChunkWriter, SnapshotDecoder, WireError};
use keepgate_policy::{
    Change, Delta, Digest, Item, ItemBody, ItemKey, Kind, Revision, Snapshot, Uid, proto,
};
use proptest::prelude::*;
use serde_json::json;

fn items(count: usize) -> Vec<Item> {
    let mut items: Vec<Item> = (0..count)
        .map(|n| {
            let uid = Uid::new("user", format!("u{n}"));
            let body = match n % 3 {
                0 => ItemBody::Member(MemberBody {
                    member: uid,
                    role: Uid::role("r"),
                    source: String::new(),
                    until_unix_s: None,
                }),
                1 => ItemBody::Policy(PolicyBody {
                    text: format!("permit(principal == {uid}, action, resource);"),
                    file: String::new(),
                }),
                _ => ItemBody::Entity(EntityBody {
                    uid,
                    attrs: [("n".to_owned(), json!(n))].into(),
                    parents: vec![],
                    tags: [].into(),
                }),
            };
            let service = if n % 3 == 1 { "orders" } else { "" };
            Item::new(service, &format!("p{n}"), body)
        })
        .collect();
    items.sort_by(|a, b| a.key.cmp(&b.key));
    items
}

fn snapshot(count: usize) -> Snapshot {
    let items = items(count);
    Snapshot { revision: Revision(7), digest: Digest::of_all(&items), items }
}

fn begin(snapshot: &Snapshot) -> proto::SnapshotBegin {
    wire::snapshot_begin(snapshot.revision, snapshot.digest, snapshot.items.len() as u64)
}

fn decode(
    begin: &proto::SnapshotBegin,
    chunks: &[proto::SnapshotChunk],
    end: &proto::SnapshotEnd,
) -> Result<Snapshot, WireError> {
    let mut decoder = SnapshotDecoder::begin(begin)?;
    for chunk in chunks {
        decoder.chunk(chunk)?;
    }
    decoder.finish(end)
}

#[test]
fn a_snapshot_comes_back() {
    for count in [0, 1, 20_000] {
        let snapshot = snapshot(count);
        let (chunks, end) = wire::snapshot_chunks(&snapshot).unwrap();
        assert_eq!(chunks.len() > 1, count == 20_000);
        assert_eq!(decode(&begin(&snapshot), &chunks, &end).unwrap(), snapshot);
    }
}

#[test]
fn what_is_lost_doubled_or_altered_is_noticed() {
    let snapshot = snapshot(20_000);
    let (chunks, end) = wire::snapshot_chunks(&snapshot).unwrap();
    let begin = begin(&snapshot);

    let error = decode(&begin, &chunks[1..], &end).unwrap_err();
    assert!(matches!(error, WireError::Count { what: "chunks", .. }), "{error}");
    let fewer = proto::SnapshotEnd { chunks: end.chunks - 1 };
    let error = decode(&begin, &chunks[1..], &fewer).unwrap_err();
    assert!(matches!(error, WireError::Count { what: "items", .. }), "{error}");
    let doubled = [chunks.as_slice(), &chunks[..1]].concat();
    let error = decode(&begin, &doubled, &end).unwrap_err();
    assert!(matches!(error, WireError::TooMuch { what: "items", .. }), "{error}");

    // As many as announced, but one of them twice: the digest sees it.
    let mut twice = snapshot.clone();
    twice.items[1] = twice.items[0].clone();
    let (chunks, end) = wire::snapshot_chunks(&twice).unwrap();
    let error = decode(&begin, &chunks, &end).unwrap_err();
    assert!(matches!(error, WireError::Digest { .. }), "{error}");
    // A sender that believes in it is told which.
    let believed = wire::snapshot_begin(Revision(7), Digest::of_all(&twice.items), 20_000);
    let error = decode(&believed, &chunks, &end).unwrap_err();
    assert!(matches!(&error, WireError::Twice(key) if *key == twice.items[0].key), "{error}");
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let begin = wire::snapshot_begin(Revision(1), Digest::default(), u64::MAX);
    let error = SnapshotDecoder::begin(&begin).unwrap_err();
    assert!(matches!(error, WireError::TooMuch { what: "items announced", .. }), "{error}");

    // One gibibyte of zeros in a few kilobytes of zstd.
    let mut bomb = Vec::new();
    let zeros = vec![0_u8; 1 << 20];
    let mut encoder = zstd::stream::write::Encoder::new(&mut bomb, 3).unwrap();
    for _ in 0..1024 {
        std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    }
    encoder.finish().unwrap();
    let begin = wire::snapshot_begin(Revision(1), Digest::default(), 10);
    let mut decoder = SnapshotDecoder::begin(&begin).unwrap();
    let error = decoder.chunk(&proto::SnapshotChunk { zstd: bomb }).unwrap_err();
    assert!(matches!(error, WireError::Zstd { chunk: 0, .. }), "{error}");

    // Half a million items of no bytes each.
    let empty = [0x0a_u8, 0].repeat(wire::CHUNK_BYTES / 2);
    let chunk = proto::SnapshotChunk { zstd: zstd::bulk::compress(&empty, 3).unwrap() };
    let mut decoder = SnapshotDecoder::begin(&begin).unwrap();
    let error = decoder.chunk(&chunk).unwrap_err();
    assert!(matches!(error, WireError::Shape("an item without a key")), "{error}");

    // An item that no chunk may carry is refused where it is written.
    let body = PolicyBody { text: "x".repeat(wire::MAX_ITEM_BYTES), file: String::new() };
    let item = Item::new("orders", "big", ItemBody::Policy(body));
    let error = ChunkWriter::new().push(&item).unwrap_err();
    assert!(matches!(error, WireError::TooMuch { what: "bytes of one item", .. }), "{error}");
}

#[test]
fn a_delta_comes_back() {
    let delta = Delta {
        previous: Revision(7),
        revision: Revision(9),
        changes: items(9)
            .into_iter()
            .map(Change::Put)
            .chain([Change::Delete(ItemKey::grant("orders", "g"))])
            .collect(),
        digest: Some(Digest([1, 2, 3, u64::MAX])),
    };
    let message = wire::delta_to_proto(&delta).unwrap();
    assert_eq!(wire::delta_from_proto(message.clone()).unwrap(), delta);

    let backwards = proto::Delta { revision: 7, ..message.clone() };
    assert!(wire::delta_from_proto(backwards).is_err());
    let short = proto::Delta { digest: vec![1; 31], ..message.clone() };
    assert!(wire::delta_from_proto(short).is_err());
    let hollow = proto::Delta { changes: vec![proto::Change { change: None }], ..message };
    assert!(wire::delta_from_proto(hollow).is_err());
}

#[test]
fn a_delta_too_large_to_send_becomes_a_snapshot() {
    let body = PolicyBody { text: "x".repeat(1_000_000), file: String::new() };
    let change = Change::Put(Item::new("orders", "big", ItemBody::Policy(body)));
    let delta = |count| Delta {
        previous: Revision(1),
        revision: Revision(2),
        changes: vec![change.clone(); count],
        digest: None,
    };
    assert!(wire::delta_to_proto(&delta(3)).is_some());
    assert!(wire::delta_to_proto(&delta(4)).is_none());
}

#[test]
fn every_kind_has_its_number() {
    for kind in Kind::ALL {
        let key = ItemKey::new("s", kind, "i");
        assert_eq!(wire::key_from_proto(Some(wire::key_to_proto(&key))).unwrap(), key);
        assert_eq!(Kind::from_name(kind.as_str()), Some(kind));
    }
    let unknown = proto::ItemKey { service: String::new(), kind: 99, id: String::new() };
    assert!(wire::key_from_proto(Some(unknown)).is_err());
}

proptest! {
    #[test]
    fn one_flipped_byte_never_goes_unnoticed(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let snapshot = snapshot(50);
        let (mut chunks, end) = wire::snapshot_chunks(&snapshot).unwrap();
        let bytes = &mut chunks[0].zstd;
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A flip may leave the items as they were (an unused bit of the frame's header).
        if let Ok(read) = decode(&begin(&snapshot), &chunks, &end) {
            prop_assert_eq!(read, snapshot);
        }
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let begin = wire::snapshot_begin(Revision(1), Digest::default(), 10);
        let compressed = zstd::bulk::compress(&noise, 1).unwrap();
        for zstd in [noise, compressed] {
            let mut decoder = SnapshotDecoder::begin(&begin).unwrap();
            let _ = decoder.chunk(&proto::SnapshotChunk { zstd });
        }
    }
}
