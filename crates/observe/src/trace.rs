//! Which trace a request belongs to, as callers say it: W3C Trace Context, the headers `traceparent`
//! and `tracestate`. Texts in, values out.
//!
//! Source: <https://www.w3.org/TR/trace-context-2/>, sections 3.2 and 3.3.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Bytes of a `traceparent` of version 00.
pub const TRACEPARENT_BYTES: usize = 55;
/// List members of a `tracestate`; one with more is not passed on.
pub const TRACESTATE_MEMBERS: usize = 32;
/// Bytes of a `tracestate` that are passed on. The standard asks for at least as many.
pub const TRACESTATE_BYTES: usize = 512;
/// Members longer than this are left out first.
const LONG_MEMBER: usize = 128;
/// Bytes of a key, and of a value.
const PART_BYTES: usize = 256;

/// Names a trace; not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Names a span within its trace; not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// The place of a request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that the request was made in.
    pub span_id: SpanId,
    /// Whoever made the request may have recorded that span.
    pub sampled: bool,
    /// At least the last seven bytes of the trace's id were chosen at random.
    pub random: bool,
}

impl TraceContext {
    /// The value of a `traceparent` header, exactly as the standard writes it; none: it is something
    /// else. Of a version after 00, the part that 00 has is taken.
    pub fn parse(text: &[u8]) -> Option<TraceContext> {
        let (head, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
        let [version, trace_id, span_id, flags] = fields(head)?;
        let [version] = hex::<1>(version)?;
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => matches!(rest.first(), None | Some(b'-')),
        };
        let (trace_id, span_id) = (hex::<16>(trace_id)?, hex::<8>(span_id)?);
        let [flags] = hex::<1>(flags)?;
        if !is_whole || trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        let (sampled, random) = (flags & 1 != 0, flags & 2 != 0);
        Some(TraceContext {
            trace_id: TraceId(trace_id),
            span_id: SpanId(span_id),
            sampled,
            random,
        })
    }

    /// Of all `traceparent` headers of a request; none: there is none that is well-formed, or there
    /// are several.
    pub fn of<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Option<TraceContext> {
        let mut values = values.into_iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        TraceContext::parse(value)
    }

    /// The value of a `traceparent` header, in version 00.
    pub fn write(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let flags = [u8::from(self.sampled) | (u8::from(self.random) << 1)];
        let parts: [(usize, &[u8]); 3] =
            [(3, &self.trace_id.0), (36, &self.span_id.0), (53, &flags)];
        for (at, bytes) in parts {
            for (to, digit) in text.iter_mut().skip(at).zip(digits(bytes)) {
                *to = digit;
            }
        }
        text
    }
}

/// Makes ids of traces and spans: unique, not secret. The generator is xoroshiro128++
/// (<https://prng.di.unimi.it/xoroshiro128plusplus.c>).
#[derive(Debug)]
pub struct Ids(Mutex<[u64; 2]>);

impl Ids {
    /// A maker whose ids are those of this seed, which is to be random.
    pub fn seeded(seed: [u64; 2]) -> Ids {
        // All zeros give nothing but zeros.
        let [first, second] = seed;
        Ids(Mutex::new([first, second | u64::from(seed == [0, 0])]))
    }

    /// A random number.
    pub fn number(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [a, mut b] = *state;
        let number = a.wrapping_add(b).rotate_left(17).wrapping_add(a);
        b ^= a;
        *state = [a.rotate_left(49) ^ b ^ (b << 21), b.rotate_left(28)];
        number
    }

    /// A span's id.
    pub fn span(&self) -> SpanId {
        SpanId(self.number().max(1).to_be_bytes())
    }

    /// A trace's id, and the random number that its last eight bytes are.
    pub fn trace(&self) -> (TraceId, u64) {
        let (high, low) = (self.number(), self.number().max(1));
        let id = u128::from(high) << 64 | u128::from(low);
        (TraceId(id.to_be_bytes()), low)
    }
}

/// The four fields of version 00.
fn fields(head: &[u8]) -> Option<[&[u8]; 4]> {
    let mut fields = head.split(|b| *b == b'-');
    let four = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
    let lengths = four.map(<[u8]>::len);
    (lengths == [2, 32, 16, 2] && fields.next().is_none()).then_some(four)
}

/// Bytes of lower-case hexadecimal digits.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (to, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *to = digit(high)? << 4 | digit(low)?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

fn digits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
    bytes.iter().flat_map(move |byte| [digit(byte >> 4), digit(byte & 15)])
}

fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    digits(bytes).try_for_each(|digit| fmt::Write::write_char(f, char::from(digit)))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

/// What is passed on of a `tracestate` header, whose lines come in their order: all of it where it is
/// well-formed and within the bounds. Beyond [`TRACESTATE_BYTES`], long members are left out, then
/// those at the end. None: nothing, since it is malformed, names a key twice, or has more than
/// [`TRACESTATE_MEMBERS`] members.
pub fn tracestate<'v>(lines: impl IntoIterator<Item = &'v [u8]>) -> Option<String> {
    let mut members: Vec<&str> = Vec::new();
    let mut keys: Vec<&str> = Vec::new();
    for line in lines {
        for member in std::str::from_utf8(line).ok()?.split(',') {
            let member = member.trim_matches([' ', '\t']);
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            let is_new = is_key(key) && is_value(value) && !keys.contains(&key);
            if !is_new || members.len() == TRACESTATE_MEMBERS {
                return None;
            }
            keys.push(key);
            members.push(member);
        }
    }
    let bytes = |members: &[&str]| {
        members.iter().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1)
    };
    if bytes(&members) > TRACESTATE_BYTES {
        members.retain(|member| member.len() <= LONG_MEMBER);
    }
    while bytes(&members) > TRACESTATE_BYTES {
        members.pop();
    }
    (!members.is_empty()).then(|| members.join(","))
}

fn is_key(key: &str) -> bool {
    key.len() <= PART_BYTES
        && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b))
}

fn is_value(value: &str) -> bool {
    (1..=PART_BYTES).contains(&value.len())
        && value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_standard() {
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(context.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id.to_string(), "b7ad6b7169203331");
        assert!(context.sampled && !context.random);
        assert_eq!(context.write(), EXAMPLE.as_bytes());
        let other = TraceContext { sampled: false, random: true, ..context };
        assert_eq!(TraceContext::parse(&other.write()), Some(other));
    }

    #[test]
    fn ids_are_neither_zero_nor_alike() {
        for seed in [[0, 0], [1, 2], [u64::MAX, 7]] {
            let ids = Ids::seeded(seed);
            let mut seen = std::collections::HashSet::new();
            for _ in 0..1_000 {
                let (trace, low) = ids.trace();
                assert!(trace.0.ends_with(&low.to_be_bytes()));
                assert!(trace.0 != [0; 16] && seen.insert(trace.0.to_vec()));
                assert!(seen.insert(ids.span().0.to_vec()));
            }
        }
    }

    #[test]
    fn what_is_no_traceparent() {
        for wrong in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-00af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
        for later in [
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes-then",
        ] {
            let context = TraceContext::parse(later.as_bytes()).unwrap();
            assert_eq!(context.write(), EXAMPLE.as_bytes(), "written in version 00");
        }
        // Each byte matters: none can be replaced by one that is no digit.
        for at in 0..TRACEPARENT_BYTES {
            let mut text = EXAMPLE.as_bytes().to_vec();
            text[at] = b'g';
            assert_eq!(TraceContext::parse(&text), None, "at {at}");
        }
    }

    #[test]
    fn a_tracestate_is_passed_on_within_its_bounds() {
        let state = |lines: &[&str]| tracestate(lines.iter().map(|line| line.as_bytes()));
        let same = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
        assert_eq!(state(&[same]).as_deref(), Some(same));
        assert_eq!(state(&["a=1", "b=2 , ,\tc=3"]).as_deref(), Some("a=1,b=2,c=3"));
        assert_eq!(
            state(&["fw529a3039@dt=FfAbCd,0t=x y"]).as_deref(),
            Some("fw529a3039@dt=FfAbCd,0t=x y")
        );
        for wrong in
            ["", ",", "a", "a=", "=1", "A=1", "a=1=2", "a=1,a=2", "a b=1", "a=\u{7f}", "é=1"]
        {
            assert_eq!(state(&[wrong]), None, "{wrong}");
        }
        let members = |n: usize| (0..n).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&[&members(32)]), Some(members(32)));
        assert_eq!(state(&[&members(33)]), None);
        let (at, over) = (format!("a={}", "x".repeat(256)), format!("a={}", "x".repeat(257)));
        assert_eq!(state(&[&at]), Some(at.clone()));
        assert_eq!(state(&[&over]), None);
        assert_eq!(state(&[&format!("{}=1", "k".repeat(257))]), None);
        // 512 bytes pass; beyond that the long member goes first, then those at the end.
        let long = |n: usize| format!("long={}", "x".repeat(n));
        let whole = format!("a=1,{},{}", long(250), long(245).replace("long", "b"));
        assert_eq!((whole.len(), state(&[&whole])), (507, Some(whole.clone())));
        let cut = format!("{whole},c=12");
        assert_eq!((cut.len(), state(&[&cut])), (512, Some(cut.clone())));
        assert_eq!(state(&[&format!("{whole},c=123")]).as_deref(), Some("a=1,c=123"));
        let many: Vec<String> = (10..20).map(|n| format!("k{n}={}", "v".repeat(50))).collect();
        assert_eq!(state(&[&many.join(",")]), Some(many[..9].join(",")));
    }
}
