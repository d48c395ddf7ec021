//! A record on its way: what is known when the answer's head is, then how long the rest took.
//!
//! It is written at once, into memory of its own, because what it is made of goes on with the request.
//! Only the last numbers are filled in at the end.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use crate::shape::{Format, Member, Shape};
use crate::time;

/// Bytes of one text at most; what is beyond is cut off, and the text ends in `…`.
pub const MAX_TEXT: usize = 32 << 10;
/// Bytes of `inputs` at most, as JSON.
pub const MAX_INPUTS: usize = 2 << 10;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was passed on, or may be.
    Allowed,
    /// The policies deny it.
    Denied,
    /// Its credential does not hold, or there is none.
    Unauthenticated,
    /// It was over a limit.
    Limited,
    /// Nothing could be decided.
    CannotDecide,
    /// It was allowed, and the upstream did not answer.
    UpstreamFailed,
    /// It is no request that the gate takes.
    Refused,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 7] = [
        Outcome::Allowed,
        Outcome::Denied,
        Outcome::Unauthenticated,
        Outcome::Limited,
        Outcome::CannotDecide,
        Outcome::UpstreamFailed,
        Outcome::Refused,
    ];

    /// Its name in a record.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Denied => "denied",
            Outcome::Unauthenticated => "unauthenticated",
            Outcome::Limited => "limited",
            Outcome::CannotDecide => "cannot_decide",
            Outcome::UpstreamFailed => "upstream_failed",
            Outcome::Refused => "refused",
        }
    }
}

/// What the policies read of a request, as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inputs<'a> {
    /// The members of an object, without its braces.
    Members(&'a str),
    /// They are more than a record may hold.
    TooLarge,
}

/// What is known when the answer's head is. Empty texts are not written.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the members of a record, which the documents explain")]
pub struct Draft<'a> {
    pub unix_ms: u64,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub gate: &'a str,
    pub site: &'a str,
    pub service: &'a str,
    pub principal: Option<&'a dyn Display>,
    pub identified_by: &'a str,
    pub address: Option<IpAddr>,
    pub method: &'a str,
    pub host: &'a str,
    pub route: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub action: Option<&'a dyn Display>,
    pub resource: Option<&'a dyn Display>,
    pub outcome: Outcome,
    pub reason: &'a str,
    pub status: u16,
    pub policies: &'a [&'a dyn Display],
    pub revision: Option<u64>,
    pub age_ms: Option<u64>,
    pub decide_ns: Option<u64>,
    pub upstream_us: Option<u64>,
    pub upstream_address: &'a str,
    pub reused: Option<bool>,
    pub inputs: Option<&'a Inputs<'a>>,
    /// For the Combined format alone.
    pub referer: &'a str,
    pub user_agent: &'a str,
    /// Such as `HTTP/1.1`; for the Common formats alone.
    pub version: &'a str,
}

/// What is known at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Bytes of the request's body that came.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were handed on.
    pub bytes_out: u64,
    /// From the request's head to the answer's end, in microseconds.
    pub total_us: u64,
}

/// A record that waits for its last numbers.
#[derive(Debug)]
pub struct Line {
    text: Vec<u8>,
    /// Where they go.
    place: usize,
    format: Format,
    /// Bit sets are not kept: which of the three are written.
    numbers: [bool; 3],
}

impl Draft<'_> {
    /// Writes what is known.
    pub fn begin(&self, shape: &Shape) -> Line {
        let numbers = [Member::BytesIn, Member::BytesOut, Member::TotalUs]
            .map(|member| !shape.left_out.has(member));
        let mut text = Vec::with_capacity(768);
        let place = match shape.format {
            Format::Json => self.json(shape, &mut text),
            Format::Common | Format::Combined => self.common(shape, &mut text),
        };
        Line { text, place, format: shape.format, numbers }
    }

    fn json(&self, shape: &Shape, text: &mut Vec<u8>) -> usize {
        text.extend_from_slice(b"{\"time\":\"");
        time::rfc3339(text, self.unix_ms);
        text.push(b'"');
        let mut out = Json { shape, text };
        out.plain(Member::RequestId, self.request_id);
        out.plain(Member::TraceId, self.trace_id);
        out.plain(Member::Gate, self.gate);
        out.plain(Member::Site, self.site);
        out.plain(Member::Service, self.service);
        out.shown(Member::Principal, self.principal);
        out.plain(Member::IdentifiedBy, self.identified_by);
        out.address(self.address);
        out.plain(Member::Method, self.method);
        out.plain(Member::Host, self.host);
        out.plain(Member::Route, self.route);
        match self.query.filter(|_| shape.query) {
            Some(query) => out.shown(Member::Path, Some(&format_args!("{}?{query}", self.path))),
            None => out.plain(Member::Path, self.path),
        }
        out.shown(Member::Action, self.action);
        out.shown(Member::Resource, self.resource);
        out.fixed(Member::Outcome, self.outcome.name());
        out.plain(Member::Reason, self.reason);
        out.number(Member::Status, Some(u64::from(self.status)));
        out.list(Member::Policies, self.policies);
        out.number(Member::Revision, self.revision);
        out.number(Member::AgeMs, self.age_ms);
        out.number(Member::DecideNs, self.decide_ns);
        out.number(Member::UpstreamUs, self.upstream_us);
        out.plain(Member::UpstreamAddress, self.upstream_address);
        if let Some(reused) = self.reused.filter(|_| out.name(Member::Reused)) {
            let word: &[u8] = if reused { b"true" } else { b"false" };
            out.text.extend_from_slice(word);
        }
        out.inputs(self.inputs);
        text.len()
    }

    /// `address - principal [time] "request" status bytes`, and then, in the Combined format, `"referer"
    /// "user agent"`.
    fn common(&self, shape: &Shape, text: &mut Vec<u8>) -> usize {
        let mut out = Json { shape, text };
        out.word(Member::Address, self.address.as_ref().map(|ip| ip as &dyn Display));
        out.text.extend_from_slice(b" - ");
        out.word(Member::Principal, self.principal);
        out.text.extend_from_slice(b" [");
        time::common(out.text, self.unix_ms);
        out.text.extend_from_slice(b"] \"");
        out.text.extend_from_slice(self.method.as_bytes());
        out.text.push(b' ');
        match self.query.filter(|_| shape.query) {
            Some(query) => out.word(Member::Path, Some(&format_args!("{}?{query}", self.path))),
            None => out.word(Member::Path, Some(&self.path)),
        }
        out.text.push(b' ');
        out.text.extend_from_slice(self.version.as_bytes());
        out.text.extend_from_slice(b"\" ");
        time::number(out.text, u64::from(self.status));
        out.text.push(b' ');
        let place = out.text.len();
        if shape.format == Format::Combined {
            for said in [self.referer, self.user_agent] {
                out.text.extend_from_slice(b" \"");
                if said.is_empty() {
                    out.text.push(b'-');
                } else {
                    escape(out.text, cut(said));
                }
                out.text.push(b'"');
            }
        }
        place
    }
}

impl Line {
    /// Writes it as a line, whole.
    pub fn finish(&self, ended: &Ended, out: &mut Vec<u8>) {
        let (before, after) = self.text.split_at_checked(self.place).unwrap_or((&self.text, &[]));
        out.extend_from_slice(before);
        if self.format == Format::Json {
            let members = [Member::BytesIn, Member::BytesOut, Member::TotalUs];
            let numbers = [ended.bytes_in, ended.bytes_out, ended.total_us];
            for ((member, n), written) in members.into_iter().zip(numbers).zip(self.numbers) {
                if written {
                    out.extend_from_slice(member.head());
                    time::number(out, n);
                }
            }
            out.extend_from_slice(b"}\n");
        } else {
            if self.numbers.get(1) == Some(&true) {
                time::number(out, ended.bytes_out);
            } else {
                out.push(b'-');
            }
            out.extend_from_slice(after);
            out.push(b'\n');
        }
    }
}

/// A line of JSON that is being written. What comes first is there.
struct Json<'s, 't> {
    shape: &'s Shape,
    text: &'t mut Vec<u8>,
}

impl Json<'_, '_> {
    /// The member's name, if it is written.
    fn name(&mut self, member: Member) -> bool {
        if self.shape.left_out.has(member) {
            return false;
        }
        self.text.extend_from_slice(member.head());
        true
    }

    fn number(&mut self, member: Member, n: Option<u64>) {
        if let Some(n) = n
            && self.name(member)
        {
            time::number(self.text, n);
        }
    }

    fn plain(&mut self, member: Member, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.shape.hashed.has(member) {
            return self.hash(member, text);
        }
        if self.name(member) {
            self.text.push(b'"');
            escape(self.text, cut(text));
            self.text.push(b'"');
        }
    }

    /// A text of the product's own, in which nothing is to be escaped.
    fn fixed(&mut self, member: Member, text: &'static str) {
        if self.shape.hashed.has(member) {
            return self.hash(member, text);
        }
        if !text.is_empty() && self.name(member) {
            self.text.push(b'"');
            self.text.extend_from_slice(text.as_bytes());
            self.text.push(b'"');
        }
    }

    fn address(&mut self, address: Option<IpAddr>) {
        match address {
            Some(IpAddr::V4(ip)) if !self.shape.hashed.has(Member::Address) => {
                if self.name(Member::Address) {
                    for (n, byte) in ip.octets().into_iter().enumerate() {
                        self.text.push(if n == 0 { b'"' } else { b'.' });
                        time::number(self.text, u64::from(byte));
                    }
                    self.text.push(b'"');
                }
            }
            address => self.shown(Member::Address, address.as_ref().map(|ip| ip as &dyn Display)),
        }
    }

    fn shown(&mut self, member: Member, said: Option<&dyn Display>) {
        let Some(said) = said else { return };
        if self.shape.hashed.has(member) {
            return self.hash(member, &said.to_string());
        }
        if self.name(member) {
            self.quoted(said);
        }
    }

    fn quoted(&mut self, said: &dyn Display) {
        self.text.push(b'"');
        // It ends where it is cut, which is no failure.
        let _ = write!(Escaped { out: self.text, left: MAX_TEXT }, "{said}");
        self.text.push(b'"');
    }

    fn hash(&mut self, member: Member, text: &str) {
        if let Some(hash) = self.shape.hash(text.as_bytes())
            && self.name(member)
        {
            self.text.extend_from_slice(b"\"hmac:");
            crate::hex::push(self.text, &hash);
            self.text.push(b'"');
        }
    }

    fn list(&mut self, member: Member, texts: &[&dyn Display]) {
        if texts.is_empty() || !self.name(member) {
            return;
        }
        for (n, text) in texts.iter().enumerate() {
            self.text.push(if n == 0 { b'[' } else { b',' });
            self.quoted(*text);
        }
        self.text.push(b']');
    }

    fn inputs(&mut self, inputs: Option<&Inputs<'_>>) {
        let Some(inputs) = inputs else { return };
        if !self.name(Member::Inputs) {
            return;
        }
        let (members, why) = match inputs {
            Inputs::Members(_) if !self.shape.is_replayable() => ("", "redacted"),
            Inputs::Members(members) if members.len() + 2 <= MAX_INPUTS => (*members, ""),
            Inputs::Members(_) | Inputs::TooLarge => ("", "too_large"),
        };
        self.text.push(b'{');
        self.text.extend_from_slice(members.as_bytes());
        if !why.is_empty() {
            self.text.extend_from_slice(b"\"not_replayable\":\"");
            self.text.extend_from_slice(why.as_bytes());
            self.text.push(b'"');
        }
        self.text.push(b'}');
    }

    /// One word of a line in a Common format.
    fn word(&mut self, member: Member, said: Option<&dyn Display>) {
        let said = said.filter(|_| !self.shape.left_out.has(member));
        let Some(said) = said else { return self.text.push(b'-') };
        if !self.shape.hashed.has(member) {
            let begin = self.text.len();
            let _ = write!(Escaped { out: self.text, left: MAX_TEXT }, "{said}");
            // A space would end the word.
            for byte in self.text.iter_mut().skip(begin).filter(|byte| **byte == b' ') {
                *byte = b'+';
            }
            return;
        }
        match self.shape.hash(said.to_string().as_bytes()) {
            None => self.text.push(b'-'),
            Some(hash) => {
                self.text.extend_from_slice(b"hmac:");
                crate::hex::push(self.text, &hash);
            }
        }
    }
}

/// A text within its bound.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text)
}

/// Writes into a JSON string, up to a bound.
struct Escaped<'o> {
    out: &'o mut Vec<u8>,
    left: usize,
}

impl std::fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if text.len() <= self.left {
            escape(self.out, text);
            self.left -= text.len();
            return Ok(());
        }
        let fits = text.floor_char_boundary(self.left);
        escape(self.out, text.get(..fits).unwrap_or_default());
        self.out.extend_from_slice("…".as_bytes());
        self.left = 0;
        Err(std::fmt::Error)
    }
}

/// As RFC 8259, section 7, has it; all that need not be escaped is not.
fn escape(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(place) = special(rest) {
        let (plain, from) = rest.split_at_checked(place).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        let Some((special, after)) = from.split_first() else { break };
        match special {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                out.extend_from_slice(b"\\u00");
                crate::hex::push(out, &[*other]);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// Where the first byte is that is escaped.
fn special(bytes: &[u8]) -> Option<usize> {
    let is_special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\' | 0x7f);
    // Eight at once, as in "Bit Twiddling Hacks" (Sean Eron Anderson): what is asked is only whether
    // there is one, because most have none.
    const ONES: u64 = u64::MAX / 255;
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, _) = bytes.as_chunks::<8>();
    let mut plain = 0;
    for word in words {
        let word = u64::from_ne_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let others = [b'"', b'\\', 0x7f].map(|byte| has_zero(word ^ (ONES * u64::from(byte))));
        let [quote, backslash, delete] = others;
        if (control | quote | backslash | delete) & (ONES << 7) != 0 {
            break;
        }
        plain += 8;
    }
    let found = bytes.get(plain..)?.iter().position(is_special)?;
    Some(plain + found)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record about a request of this id.
    pub(crate) fn draft(request_id: &str) -> Draft<'_> {
        Draft {
            unix_ms: 1_795_757_400_123,
            request_id,
            trace_id: "",
            gate: "gate-1",
            site: "",
            service: "orders",
            principal: None,
            identified_by: "anonymous",
            address: None,
            method: "GET",
            host: "",
            route: "/orders",
            path: "/orders",
            query: None,
            action: None,
            resource: None,
            outcome: Outcome::Allowed,
            reason: "",
            status: 200,
            policies: &[],
            revision: Some(1),
            age_ms: None,
            decide_ns: None,
            upstream_us: None,
            upstream_address: "",
            reused: None,
            inputs: None,
            referer: "",
            user_agent: "",
            version: "HTTP/1.1",
        }
    }

    proptest! {
        /// Eight bytes at once find the same as one after the other.
        #[test]
        fn what_is_escaped_is_found(
            mut bytes in prop::collection::vec(b' '..0x7f, 0..40),
            others in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            for (place, byte) in others {
                if !bytes.is_empty() {
                    let place = place.index(bytes.len());
                    bytes[place] = byte;
                }
            }
            let slow = bytes.iter().position(|b| *b < 0x20 || [b'"', b'\\', 0x7f].contains(b));
            prop_assert_eq!(special(&bytes), slow);
        }
    }

    #[test]
    fn each_byte_is_found_at_each_place() {
        for byte in 0..=u8::MAX {
            for place in 0..17 {
                let mut bytes = [b'a'; 17];
                bytes[place] = byte;
                let is_special = byte < 0x20 || [b'"', b'\\', 0x7f].contains(&byte);
                assert_eq!(special(&bytes), is_special.then_some(place), "{byte} at {place}");
            }
        }
    }
}
