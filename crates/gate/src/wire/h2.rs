//! What the HTTP library hides of an HTTP/2 request: a `#` in its `:path`.
//!
//! The library cuts a target at `#` without a word. A [`Watch`] reads along, frame by frame, and
//! adds the header [`FRAGMENT`] to a request whose `:path` has one, so that it can be answered
//! with 400 as on HTTP/1. The header goes into a CONTINUATION frame of its own, not indexed: what
//! both sides know of each other's tables stays the same. Whoever sends that header gets the same
//! answer.
//!
//! What is not HTTP/2 is passed on as it is, for the library to refuse with the right error. Nothing
//! after it is: in its place comes a frame that ends the connection ([`REFUSED`]), so that what
//! this reader cannot read is never served, whatever the library makes of it.

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::hpack::{BadBlock, Decoder};

/// The header that is added.
pub const FRAGMENT: &str = "keepgate-fragment";

const PREFACE_BYTES: u64 = 24;
const FRAME_HEAD: usize = 9;
/// The largest frame that the gate takes (the protocol's default).
const FRAME_BYTES: usize = 16 * 1024;
/// The largest header block that is looked into; the library ends connections with larger ones.
const BLOCK_BYTES: usize = 128 * 1024;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// DATA that belongs to no stream: a connection error (RFC 9113 section 6.1) in every state.
pub const REFUSED: [u8; FRAME_HEAD] = [0; FRAME_HEAD];

/// The reader of one connection; see the module.
#[derive(Debug)]
pub struct Watch {
    at: At,
    decoder: Decoder,
    /// The header block so far.
    block: Vec<u8>,
}

#[derive(Debug)]
enum At {
    /// So many bytes that are of no interest.
    Other(u64),
    /// The head of a frame.
    Frame,
    /// Nothing more is passed on.
    Refused,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { at: At::Other(PREFACE_BYTES), decoder: Decoder::default(), block: Vec::new() }
    }
}

impl Watch {
    /// Moves bytes from the caller on to the library; what is less than a frame of headers waits in
    /// `from`, which is then at most a frame (16 KiB).
    pub fn pass(&mut self, from: &mut BytesMut, to: &mut BytesMut) {
        while !from.is_empty() {
            match self.at {
                At::Refused => from.clear(),
                At::Other(left) => {
                    let n = from.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    to.unsplit(from.split_to(n));
                    let left = left - n as u64;
                    self.at = if left == 0 { At::Frame } else { At::Other(left) };
                }
                At::Frame => {
                    let Some([a, b, c, kind, ..]) = from.first_chunk::<FRAME_HEAD>().copied()
                    else {
                        return;
                    };
                    let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                    if !matches!(kind, HEADERS | CONTINUATION) {
                        self.at = At::Other((FRAME_HEAD + len) as u64);
                    } else if len > FRAME_BYTES {
                        // Its head is enough for the library to refuse it.
                        to.unsplit(from.split_to(FRAME_HEAD));
                        self.refuse(to);
                    } else if from.len() < FRAME_HEAD + len {
                        return;
                    } else {
                        let frame = from.split_to(FRAME_HEAD + len);
                        self.frame(frame, to);
                    }
                }
            }
        }
    }

    /// A whole frame of headers.
    fn frame(&mut self, mut frame: BytesMut, to: &mut BytesMut) {
        let Some([_, _, _, kind, flags, stream @ ..]) = frame.first_chunk::<FRAME_HEAD>().copied()
        else {
            return;
        };
        let added = fragment(kind, flags, frame.get(FRAME_HEAD..).unwrap_or_default())
            .filter(|part| self.block.len() + part.len() <= BLOCK_BYTES)
            .map(|part| self.block.extend_from_slice(part));
        let ends = flags & END_HEADERS != 0;
        let found = match (added.is_some(), ends) {
            (true, true) => self.decoder.has_fragment(&self.block),
            (true, false) => Ok(false),
            (false, _) => Err(BadBlock),
        };
        if ends {
            self.block.clear();
        }
        match found {
            Ok(false) => to.unsplit(frame),
            Ok(true) => {
                if let Some(flags) = frame.get_mut(4) {
                    *flags &= !END_HEADERS;
                }
                to.unsplit(frame);
                mark(stream, to);
            }
            Err(BadBlock) => {
                to.unsplit(frame);
                self.refuse(to);
            }
        }
    }

    /// Ends the connection.
    fn refuse(&mut self, to: &mut BytesMut) {
        to.put_slice(&REFUSED);
        self.at = At::Refused;
        self.block = Vec::new();
    }
}

/// The part of the header block that a frame holds.
fn fragment(kind: u8, flags: u8, mut payload: &[u8]) -> Option<&[u8]> {
    if kind == CONTINUATION {
        return Some(payload);
    }
    let padding = if flags & PADDED != 0 { usize::from(payload.try_get_u8().ok()?) } else { 0 };
    if flags & PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

/// The header, as the end of a block.
fn mark(stream: [u8; 4], to: &mut BytesMut) {
    let name = FRAGMENT.as_bytes();
    // A literal field that is not indexed; both texts are shorter than 127 bytes.
    let len = 1 + 1 + name.len() + 1 + 1;
    to.reserve(FRAME_HEAD + len);
    to.put_slice(&[0, 0]);
    to.put_u8(u8::try_from(len).unwrap_or(u8::MAX));
    to.put_slice(&[CONTINUATION, END_HEADERS]);
    to.put_slice(&stream);
    to.put_u8(0);
    to.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
    to.put_slice(name);
    to.put_slice(b"\x011");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0, (payload.len() >> 8) as u8, payload.len() as u8, kind, flags];
        out.extend([0, 0, 0, stream]);
        out.extend(payload);
        out
    }

    fn passed(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut watch, mut to) = (Watch::default(), BytesMut::new());
        let mut from = BytesMut::new();
        for part in bytes.chunks(step.max(1)) {
            from.extend_from_slice(part);
            watch.pass(&mut from, &mut to);
        }
        to.extend_from_slice(&from);
        to.to_vec()
    }

    fn marked(bytes: &[u8]) -> usize {
        let all = passed(bytes, usize::MAX);
        for step in [1, 2, 7, 24, 33] {
            assert_eq!(passed(bytes, step), all, "in steps of {step}");
        }
        memchr::memmem::find_iter(&all, FRAGMENT).count()
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(frames.concat());
        bytes
    }

    #[test]
    fn requests_with_a_fragment_are_marked() {
        let fine = b"\x82\x86\x04\x02/a\x41\x01a";
        let cut = b"\x82\x86\x04\x04/a#b\x41\x01a";
        assert_eq!(marked(&connection(&[frame(1, 5, 1, fine)])), 0);
        assert_eq!(marked(&connection(&[frame(1, 5, 1, cut)])), 1);
        let frames = [frame(1, 4, 1, cut), frame(0, 1, 1, b"#####"), frame(1, 5, 3, cut)];
        assert_eq!(marked(&connection(&frames)), 2);
        // In pieces, with padding and priority.
        let (a, b) = cut.split_at(4);
        let frames = [frame(1, 1, 1, a), frame(9, 0, 1, b""), frame(9, 4, 1, b)];
        assert_eq!(marked(&connection(&frames)), 1);
        let mut padded = vec![2];
        padded.extend([0, 0, 0, 0, 16]);
        padded.extend(cut);
        padded.extend([0, 0]);
        assert_eq!(marked(&connection(&[frame(1, 0x2d, 1, &padded)])), 1);
    }

    #[test]
    fn what_is_not_http_2_is_the_last_that_is_passed_on() {
        let fine = frame(1, 5, 1, b"\x82");
        let next = frame(1, 4, 3, b"\x04\x02/#");
        let refused = |bad: &[Vec<u8>], passes: usize| {
            let bytes = connection(
                &[std::slice::from_ref(&fine), bad, std::slice::from_ref(&next)].concat(),
            );
            let before = connection(std::slice::from_ref(&fine)).len();
            let expected = [&bytes[..before + passes], &REFUSED].concat();
            for step in [3, 5, 4_096, usize::MAX] {
                assert_eq!(passed(&bytes, step), expected, "in steps of {step}");
            }
        };
        let huge = [&[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1][..], &[7; 100]].concat();
        refused(&[huge], FRAME_HEAD);
        let large = [&[0, 0x40, 1, 9, 4, 0, 0, 0, 1][..], &[7; 100]].concat();
        refused(&[large], FRAME_HEAD);
        for bad in [
            frame(1, 4, 1, b"\xff\xff\xff\xff\xff"),
            frame(1, 4, 1, b"\x80"),
            frame(1, 4, 1, b"\x04\x81\x00"),
            // More padding than there is, and no room for the priority.
            frame(1, 0xc, 1, b"\x09\x82"),
            frame(1, 0xc, 1, b""),
            frame(1, 0x24, 1, b"\x82"),
        ] {
            refused(std::slice::from_ref(&bad), bad.len());
        }
    }

    #[test]
    fn a_block_is_read_up_to_its_bound_and_no_further() {
        let most = BLOCK_BYTES / FRAME_BYTES;
        let pieces = |many: usize| -> Vec<Vec<u8>> {
            let first = frame(1, 0, 1, &[0x82; FRAME_BYTES]);
            let more = (1..many).map(|_| frame(9, 0, 1, &[0x82; FRAME_BYTES]));
            std::iter::once(first).chain(more).collect()
        };
        let at = connection(&[&pieces(most)[..], &[frame(9, 4, 1, b"")]].concat());
        assert_eq!(passed(&at, 4_096), at);
        let over = connection(&[&pieces(most)[..], &[frame(9, 4, 1, b"\x82")]].concat());
        assert_eq!(passed(&over, 4_096), [&over[..], &REFUSED].concat());
        let endless = connection(&pieces(4 * most));
        let expected = connection(&pieces(most + 1));
        assert_eq!(passed(&endless, 4_096), [&expected[..], &REFUSED].concat());
    }

    proptest! {
        #[test]
        fn no_bytes_are_lost(bytes in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..50) {
            let all = connection(&[bytes]);
            let passed = passed(&all, step);
            let is_marked = memchr::memmem::find(&passed, FRAGMENT.as_bytes()).is_some();
            let is_refused = passed.ends_with(&REFUSED)
                && all.starts_with(&passed[..passed.len() - REFUSED.len()]);
            prop_assert!(passed == all || is_marked || is_refused);
        }
    }
}
