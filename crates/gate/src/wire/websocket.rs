//! Where the frames of a WebSocket begin (RFC 6455 section 5.2), without keeping any of them, and
//! the one frame that the gate makes itself.

/// Follows the frames of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frames {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between two frames.
    #[default]
    Boundary,
    /// At the second byte of a head.
    Length,
    /// In an extended length: bytes left of it, its value so far, whether a mask follows.
    Extended(u8, u64, bool),
    /// In a mask: bytes left of it, then the payload's length.
    Mask(u8, u64),
    /// In a payload, this much left.
    Payload(u64),
}

impl Frames {
    /// Whether the bytes so far end with a frame.
    pub(crate) fn at_boundary(&self) -> bool {
        self.state == State::Boundary
    }

    /// Takes the next bytes.
    pub(crate) fn advance(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = rest.get(self.step(rest)..).unwrap_or_default();
        }
    }

    /// How many of these bytes belong to the frame that has begun.
    pub(crate) fn left_of_frame(&self, bytes: &[u8]) -> usize {
        let mut ahead = *self;
        let mut at = 0;
        while !ahead.at_boundary() && at < bytes.len() {
            at += ahead.step(bytes.get(at..).unwrap_or_default());
        }
        at
    }

    /// Takes at least one of these bytes, of which there is one at least; how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if let State::Payload(left) = self.state {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            self.state = payload(left - take as u64);
            return take;
        }
        let byte = bytes.first().copied().unwrap_or_default();
        self.state = match self.state {
            State::Boundary => State::Length,
            State::Length => {
                let masked = byte & 0x80 != 0;
                match byte & 0x7f {
                    126 => State::Extended(2, 0, masked),
                    127 => State::Extended(8, 0, masked),
                    length => after_length(u64::from(length), masked),
                }
            }
            State::Extended(left, value, masked) => {
                let value = value << 8 | u64::from(byte);
                match left {
                    1 => after_length(value, masked),
                    _ => State::Extended(left - 1, value, masked),
                }
            }
            State::Mask(1, length) => payload(length),
            State::Mask(left, length) => State::Mask(left - 1, length),
            State::Payload(left) => State::Payload(left),
        };
        1
    }
}

fn after_length(length: u64, masked: bool) -> State {
    if masked { State::Mask(4, length) } else { payload(length) }
}

fn payload(left: u64) -> State {
    if left == 0 { State::Boundary } else { State::Payload(left) }
}

/// A close frame. `masked`: it is a client's (with the mask zero, which is a mask too).
pub(crate) fn close(code: u16, reason: &str, masked: bool) -> Vec<u8> {
    // A control frame carries 125 bytes at most, two of them the code.
    let reason = reason.get(..reason.floor_char_boundary(123)).unwrap_or_default();
    let length = u8::try_from(2 + reason.len()).unwrap_or(125);
    let mut frame = vec![0x88, length | if masked { 0x80 } else { 0 }];
    if masked {
        frame.extend_from_slice(&[0; 4]);
    }
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            n @ 0..126 => frame.push(mask | n as u8),
            n @ 126..65_536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend_from_slice(&[0xaa; 4]);
        }
        frame.extend_from_slice(payload);
        frame
    }

    proptest! {
        /// However the bytes are cut up, boundaries are where the frames end.
        #[test]
        fn boundaries_are_where_frames_end(
            sizes in prop::collection::vec(
                prop_oneof![0_usize..130, Just(125_usize), Just(126), Just(65_535), Just(65_536)],
                1..6,
            ),
            masked: bool,
            cuts in prop::collection::vec(1_usize..5_000, 1..40),
        ) {
            let mut bytes = Vec::new();
            let mut ends = std::collections::BTreeSet::from([0]);
            for size in &sizes {
                bytes.extend(frame(2, masked, &vec![0x88; *size]));
                ends.insert(bytes.len());
            }
            let (mut frames, mut at) = (Frames::default(), 0);
            for cut in cuts.iter().cycle() {
                prop_assert_eq!(frames.at_boundary(), ends.contains(&at), "at {}", at);
                let left = frames.left_of_frame(&bytes[at..]);
                prop_assert!(ends.contains(&(at + left)), "{} left at {}", left, at);
                if at == bytes.len() {
                    break;
                }
                let next = (at + cut).min(bytes.len());
                frames.advance(&bytes[at..next]);
                at = next;
            }
        }
    }

    #[test]
    fn a_close_frame_is_a_frame() {
        for masked in [false, true] {
            let close = close(1008, &"é".repeat(100), masked);
            let mut frames = Frames::default();
            frames.advance(&close);
            assert!(frames.at_boundary() && close.len() <= 131);
            let body = close.get(if masked { 6 } else { 2 }..).unwrap();
            assert_eq!(&body[..2], 1008_u16.to_be_bytes());
            assert!(std::str::from_utf8(&body[2..]).is_ok());
        }
    }
}
