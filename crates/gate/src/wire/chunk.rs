//! Where a chunked body ends (RFC 9112 section 7.1), without keeping any of it.
//!
//! The guard needs the end so that the next head on the connection is judged too. hyper decodes
//! the body itself; a body this tracker does not take is cut off, which hyper reports as broken.

/// Follows one chunked body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChunkTracker {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Start,
    /// In a size, with at least one digit.
    Size(u64),
    /// In an extension of a chunk of this size.
    Extension(u64),
    /// At the LF after a size.
    SizeLf(u64),
    /// In data, this much left.
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the last line.
    Trailer,
    TrailerLine,
    TrailerLf,
    LastLf,
    End,
}

/// How a body went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All bytes belong to the body, which is not at its end.
    All,
    /// The body ends after this many bytes.
    Ends(usize),
    /// Not a chunked body; this many bytes before the fault.
    Broken(usize),
}

impl ChunkTracker {
    /// Takes the next bytes.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(&b) = bytes.get(at) {
            if let State::Data(left) = self.state {
                let here = bytes.len() - at;
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(here);
                at += take;
                let left = left - take as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                continue;
            }
            let Some(next) = step(self.state, b) else { return Step::Broken(at) };
            self.state = next;
            at += 1;
            if next == State::End {
                return Step::Ends(at);
            }
        }
        Step::All
    }
}

fn step(state: State, b: u8) -> Option<State> {
    let digit = char::from(b).to_digit(16).map(u64::from);
    match (state, b) {
        (State::Start, _) => digit.map(State::Size),
        (State::Size(n), b'\r') | (State::Extension(n), b'\r') => Some(State::SizeLf(n)),
        (State::Size(n), b';') => Some(State::Extension(n)),
        // Sixty bits are enough for any body and cannot overflow.
        (State::Size(n), _) if n < 1 << 56 => digit.map(|d| State::Size(n << 4 | d)),
        (State::Extension(n), b) if b != b'\n' && (b >= 0x20 || b == b'\t') => {
            Some(State::Extension(n))
        }
        (State::SizeLf(0), b'\n') => Some(State::Trailer),
        (State::SizeLf(n), b'\n') => Some(State::Data(n)),
        (State::DataCr, b'\r') => Some(State::DataLf),
        (State::DataLf, b'\n') => Some(State::Start),
        (State::Trailer, b'\r') => Some(State::LastLf),
        (State::Trailer | State::TrailerLine, b) if b >= 0x20 || b == b'\t' => {
            Some(State::TrailerLine)
        }
        (State::TrailerLine, b'\r') => Some(State::TrailerLf),
        (State::TrailerLf, b'\n') => Some(State::Trailer),
        (State::LastLf, b'\n') => Some(State::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        for (body, step) in [
            ("5\r\nhello\r\n0\r\n\r\n", Step::Ends(15)),
            ("5\r\nhello\r\n0\r\n\r\nGET /", Step::Ends(15)),
            ("5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\nrest", Step::Ends(25)),
            ("a\r\n0123456789\r\n", Step::All),
            ("0\r\n", Step::All),
            ("x\r\n", Step::Broken(0)),
            ("5 \r\n", Step::Broken(1)),
            ("5\n", Step::Broken(1)),
            ("2\r\nabc", Step::Broken(5)),
            ("fffffffffffffffff\r\n", Step::Broken(15)),
            ("\r\n", Step::Broken(0)),
        ] {
            assert_eq!(ChunkTracker::default().advance(body.as_bytes()), step, "{body:?}");
        }
    }

    #[test]
    fn pieces_are_the_same_body() {
        let body = b"5;x\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n";
        let mut tracker = ChunkTracker::default();
        for (i, b) in body.iter().enumerate() {
            let step = tracker.advance(std::slice::from_ref(b));
            let last = i + 1 == body.len();
            assert_eq!(step, if last { Step::Ends(1) } else { Step::All }, "byte {i}");
        }
    }
}
