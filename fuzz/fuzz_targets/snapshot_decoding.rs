//! A chunk, as zstd and before compression, and a delta: no panic, memory within bounds, and what is
//! decoded encodes to what decodes again.
#![no_main]

use keepgate_policy::wire::{self, SnapshotDecoder};
use keepgate_policy::{Digest, Revision, Snapshot, proto};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let begin = wire::snapshot_begin(Revision(1), Digest::default(), 1_000);
    let raw = proto::SnapshotChunk { zstd: bytes.to_vec() };
    let packed = zstd::bulk::compress(bytes, 1).map(|zstd| proto::SnapshotChunk { zstd });
    for chunk in [Some(raw), packed.ok()].into_iter().flatten() {
        if let Ok(mut decoder) = SnapshotDecoder::begin(&begin) {
            let _ = decoder.chunk(&chunk);
        }
    }
    if let Ok(delta) = proto::decode_delta(bytes)
        && let Ok(delta) = wire::delta_from_proto(delta)
    {
        let again = wire::delta_to_proto(&delta).and_then(|m| wire::delta_from_proto(m).ok());
        assert!(again.is_none_or(|again| again == delta));
        // Whatever was decoded may be sent as a snapshot.
        let mut items: Vec<_> = delta
            .changes
            .into_iter()
            .filter_map(|change| match change {
                keepgate_policy::Change::Put(item) => Some(item),
                keepgate_policy::Change::Delete(_) => None,
            })
            .collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        items.dedup_by(|a, b| a.key == b.key);
        let snapshot = Snapshot { revision: Revision(1), digest: Digest::of_all(&items), items };
        let Ok((chunks, end)) = wire::snapshot_chunks(&snapshot) else { return };
        let begin =
            wire::snapshot_begin(snapshot.revision, snapshot.digest, snapshot.items.len() as u64);
        let Ok(mut decoder) = SnapshotDecoder::begin(&begin) else { return };
        for chunk in &chunks {
            assert!(decoder.chunk(chunk).is_ok());
        }
        assert!(decoder.finish(&end).is_ok_and(|read| read == snapshot));
    }
});
