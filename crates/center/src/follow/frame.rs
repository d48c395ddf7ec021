//! The messages of `keepgate.sync.v1` in bytes, encoded once and sent to many.
//!
//! tonic would encode a message for each stream; here the encoded bytes are the message, and a
//! stream copies them.

use bytes::{Buf as _, BufMut as _, Bytes};
use keepgate_policy::mark::FORMAT;
use keepgate_policy::{Digest, HistoryId, ItemKey, Mark, Revision, proto, wire};
use prost::Message as _;
use proto::follow_response::Response;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// An encoded `FollowResponse`.
#[derive(Clone, Debug)]
pub(crate) struct Frame(pub(crate) Bytes);

fn encode(response: Response) -> Bytes {
    proto::FollowResponse { response: Some(response) }.encode_to_vec().into()
}

/// The first answer to a follower that knows marks.
pub(crate) fn welcome(head: &Mark, ancestors: &[HistoryId]) -> Bytes {
    encode(Response::Welcome(proto::Welcome {
        history: head.history.0.to_vec(),
        ancestors: ancestors.iter().map(|history| history.0.to_vec()).collect(),
        head: Some(head.to_proto()),
        format: FORMAT,
        release: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// A delta; the digest only where the center sends one.
pub(crate) fn delta(
    previous: Revision,
    mark: &Mark,
    changes: Vec<proto::Change>,
    digest: Option<Digest>,
) -> Bytes {
    encode(Response::Delta(proto::Delta {
        previous: previous.0,
        revision: mark.revision.0,
        changes,
        digest: digest.map(|digest| digest.to_bytes().to_vec()).unwrap_or_default(),
        mark: Some(mark.to_proto()),
    }))
}

/// A heartbeat: the confirmed head, and the newest pulse that was read before it.
pub(crate) fn heartbeat(head: &Mark, unix_ms: u64, echo: u64) -> Bytes {
    let mark = Some(head.to_proto());
    encode(Response::Heartbeat(proto::Heartbeat { head: head.revision.0, unix_ms, mark, echo }))
}

/// Which keys of a follower's assertions are published.
pub(crate) fn keys_published(kids: Vec<String>) -> Bytes {
    encode(Response::AssertionKeysPublished(proto::AssertionKeysPublished { kids }))
}

/// The signature of an access log.
pub(crate) fn log_anchor(anchor: proto::LogAnchor) -> Bytes {
    encode(Response::LogAnchor(anchor))
}

/// The answer to a caller's question.
pub(crate) fn caller_answer(answer: proto::CallerAnswer) -> Bytes {
    encode(Response::CallerAnswer(answer))
}

/// The beginning of a snapshot.
pub(crate) fn snapshot_begin(mark: &Mark, digest: Digest, items: u64) -> Bytes {
    let mut begin = wire::snapshot_begin(mark.revision, digest, items);
    begin.mark = Some(mark.to_proto());
    encode(Response::SnapshotBegin(begin))
}

/// A chunk of a snapshot.
pub(crate) fn snapshot_chunk(chunk: proto::SnapshotChunk) -> Bytes {
    encode(Response::SnapshotChunk(chunk))
}

/// The end of a snapshot.
pub(crate) fn snapshot_end(end: proto::SnapshotEnd) -> Bytes {
    encode(Response::SnapshotEnd(end))
}

/// A change; no body deletes.
pub(crate) fn change(key: &ItemKey, body: Option<Vec<u8>>, needs: u32) -> proto::Change {
    use proto::change::Change;
    let key = wire::key_to_proto(key);
    proto::Change {
        change: Some(match body {
            Some(body) => {
                Change::Put(proto::Item { key: Some(key), body, needs: wire::wire_needs(needs) })
            }
            None => Change::Delete(key),
        }),
    }
}

/// Reads `FollowRequest`s, writes [`Frame`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameCodec;

/// The encoding half of [`FrameCodec`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameEncoder;

/// The decoding half of [`FrameCodec`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestDecoder;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = proto::FollowRequest;
    type Encoder = FrameEncoder;
    type Decoder = RequestDecoder;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> RequestDecoder {
        RequestDecoder
    }
}

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, Frame(bytes): Frame, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(bytes);
        Ok(())
    }
}

impl Decoder for RequestDecoder {
    type Item = proto::FollowRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        proto::FollowRequest::decode(bytes)
            .map(Some)
            .map_err(|e| Status::invalid_argument(format!("not a FollowRequest: {e}")))
    }
}
