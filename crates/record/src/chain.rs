//! The chain: each line carries its number and a hash over the hash before and itself.
//!
//! A line `{..}` is sealed as `{..,"seq":N,"chain":"H"}`, where H is SHA-256 over the 32 bytes of the
//! chain before and the bytes of `{..,"seq":N}`.

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::anchor::Anchor;
use crate::hash::{Hash, LogId};
use crate::{hex, time};

const SEQ: &[u8] = b",\"seq\":";
const CHAIN: &[u8] = b",\"chain\":\"";
/// `,"chain":"H"}`.
const TAIL: usize = CHAIN.len() + 64 + 2;

/// Where a chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The number of the next line.
    pub next: u64,
    /// The chain up to the line before.
    pub chain: Hash,
}

impl Link {
    /// Before the first line of a log.
    pub fn first(log: &LogId) -> Link {
        let mut context = Context::new(&SHA256);
        context.update(b"keepgate log\0");
        context.update(log);
        Link { next: 1, chain: value(context) }
    }

    /// Appends a line with its seal. `line` is a JSON object with a member at least, without its end of
    /// line.
    pub fn seal(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        out.reserve(line.len() + SEQ.len() + 22 + TAIL);
        numbered(line, self.next, out);
        out.push(b'}');
        let sealed = out.get(begin..).unwrap_or_default();
        self.chain = after(&self.chain, sealed);
        out.pop();
        chained(&self.chain, out);
        self.next += 1;
    }
}

/// Appends a line with the seal that was noted of it; whether it holds is another question.
pub fn sealed(line: &[u8], seq: u64, chain: &Hash, out: &mut Vec<u8>) {
    numbered(line, seq, out);
    chained(chain, out);
}

/// A line with its number, but for its last brace.
fn numbered(line: &[u8], seq: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(line.strip_suffix(b"}").unwrap_or(line));
    out.extend_from_slice(SEQ);
    time::number(out, seq);
}

fn chained(chain: &Hash, out: &mut Vec<u8>) {
    out.extend_from_slice(CHAIN);
    hex::push(out, chain);
    out.extend_from_slice(b"\"}\n");
}

/// The chain after a line without its chain.
fn after(before: &Hash, line: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(before);
    context.update(line);
    value(context)
}

fn value(context: Context) -> Hash {
    context.finish().as_ref().try_into().unwrap_or_default()
}

/// A line that has a seal; whether it holds is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'l> {
    /// The line without its seal, as it was before: but for its last brace.
    pub open: &'l [u8],
    /// The line without its chain: but for its last brace.
    hashed: &'l [u8],
    /// Its number.
    pub seq: u64,
    /// Its chain, as it says itself.
    pub chain: Hash,
}

impl<'l> Sealed<'l> {
    /// Of a line without its end of line; none: it has no seal.
    pub fn of(line: &'l [u8]) -> Option<Sealed<'l>> {
        let (hashed, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
        let digits = tail.strip_prefix(CHAIN)?.strip_suffix(b"\"}")?;
        let chain = hex::bytes(std::str::from_utf8(digits).ok()?)?;
        let digits = hashed.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (rest, number) = hashed.split_at_checked(hashed.len().checked_sub(digits)?)?;
        let open = rest.strip_suffix(SEQ)?;
        let seq: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
        // One form alone: no leading zeros.
        (number.first() != Some(&b'0') && open.first() == Some(&b'{')).then_some(Sealed {
            open,
            hashed,
            seq,
            chain,
        })
    }

    /// The chain that it has after this one.
    pub fn after(&self, before: &Hash) -> Hash {
        let mut context = Context::new(&SHA256);
        context.update(before);
        context.update(self.hashed);
        context.update(b"}");
        value(context)
    }
}

/// A line that is no record, but says something of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// A file begins.
    Begins(Begins),
    /// The gate has started again, and goes on in the same file.
    Resumed(Resumed),
    /// Files with these numbers and lower ones were removed because all of them are too large.
    Removed(Removed),
    /// The gate has ended the log in order.
    Closed(bool),
    /// So many records could not be written.
    Lost(u64),
    /// So many requests were allowed and, by the rules of sampling, not written.
    SampledOut(u64),
    /// The center has signed the chain.
    Anchor(Box<Anchor>),
}

/// See [`Mark::Begins`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begins {
    /// The log.
    #[serde(with = "hex::member")]
    pub log: LogId,
    /// The gate's name.
    pub gate: String,
    /// The file's number: 1, 2, ..
    pub file: u64,
    /// The chain up to the last line of the file before; in the first file, that before any line.
    #[serde(with = "hex::member")]
    pub previous: Hash,
    /// The file before has no end that could be read: it was set aside under this name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub set_aside: String,
}

/// See [`Mark::Resumed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Bytes of a line that was not whole, and was cut off.
    pub cut_bytes: u64,
    /// The log had been ended in order. Else lines may be missing here: those that had not reached the
    /// file when the gate or its host stopped.
    pub clean: bool,
}

/// See [`Mark::Removed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The newest of them.
    pub through_file: u64,
}

impl Mark {
    /// As a line without its end: with the time, but for the counts, which stand in the place of records.
    pub(crate) fn line(&self, unix_ms: u64) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        if matches!(self, Mark::Lost(_) | Mark::SampledOut(_)) {
            return json;
        }
        let mut line = b"{\"time\":\"".to_vec();
        time::rfc3339(&mut line, unix_ms);
        line.extend_from_slice(b"\",");
        line.extend_from_slice(json.strip_prefix(b"{").unwrap_or_default());
        line
    }

    /// The mark that a line is; none: it is a record, or nothing that is known here.
    /// `open` is the line without its seal and its last brace.
    pub fn of(open: &[u8]) -> Option<Mark> {
        let rest = match open.strip_prefix(b"{\"time\":\"") {
            // A time of 24 bytes and `",`.
            Some(rest) => rest.get(26..)?,
            None => open.strip_prefix(b"{")?,
        };
        let name = rest.strip_prefix(b"\"")?;
        let name = name.split(|byte| *byte == b'"').next()?;
        if !matches!(
            name,
            b"begins" | b"resumed" | b"removed" | b"closed" | b"lost" | b"sampled_out" | b"anchor"
        ) {
            return None;
        }
        let mut json = Vec::with_capacity(rest.len() + 2);
        json.push(b'{');
        json.extend_from_slice(rest);
        json.push(b'}');
        serde_json::from_slice(&json).ok()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::hash::sha256;

    #[test]
    fn a_sealed_line() {
        let mut link = Link::first(&[7; 16]);
        let before = link.chain;
        let mut out = Vec::new();
        link.seal(b"{\"status\":200}", &mut out);
        let line = out.strip_suffix(b"\n").unwrap();
        expect![[r#"{"status":200,"seq":1,"chain":"6a9a47b8f9ae19354ed59c9cd38107e7a2b5438ea7e08cc36f1c6f3136db3601"}"#]]
            .assert_eq(&String::from_utf8_lossy(line));
        let sealed = Sealed::of(line).unwrap();
        assert_eq!((sealed.open, sealed.seq), (&b"{\"status\":200"[..], 1));
        assert_eq!(sealed.after(&before), link.chain);
        assert_eq!(sealed.chain, sha256(&[&before[..], b"{\"status\":200,\"seq\":1}"].concat()));
        for wrong in ["", "{}", "{\"status\":200}", "{\"status\":200,\"seq\":01,\"chain\":\"\"}"] {
            assert_eq!(Sealed::of(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn marks_are_read_as_they_were_written() {
        let anchor = Anchor {
            log: [1; 16],
            gate: "token/gate-1".to_owned(),
            seq: 7,
            chain: [2; 32],
            previous_seq: 3,
            previous_chain: [3; 32],
            unix_ms: 5,
            key: "k".to_owned(),
            signature: [4; 64],
        };
        let begins = Begins {
            log: [1; 16],
            gate: "gate-1".to_owned(),
            file: 2,
            previous: [9; 32],
            set_aside: String::new(),
        };
        for mark in [
            Mark::Begins(begins),
            Mark::Resumed(Resumed { cut_bytes: 3, clean: false }),
            Mark::Removed(Removed { through_file: 4 }),
            Mark::Closed(true),
            Mark::Lost(3),
            Mark::SampledOut(99),
            Mark::Anchor(Box::new(anchor)),
        ] {
            let line = mark.line(5);
            let open = line.strip_suffix(b"}").unwrap();
            assert_eq!(Mark::of(open), Some(mark), "{}", String::from_utf8_lossy(&line));
        }
        assert_eq!(Mark::of(b"{\"time\":\"2026-11-27T05:30:00.123Z\",\"request_id\":\"x\""), None);
        assert_eq!(Mark::of(b"{\"lost\":\"x\""), None);
    }
}
