//! What a client certificate says of its holder (X.509, RFC 5280): the names, the last second, and
//! what its key may be used for.
//!
//! Read here and not by a library because five fields are all that is needed. Who may issue, and
//! whether the chain holds, is rustls's business, which has judged the same bytes before; what is
//! read here is still taken for what anybody may have written.
//!
//! Pure: the time is an argument, in seconds since the Unix epoch.

use sha2::{Digest as _, Sha256};

/// The largest certificate that is read, in bytes.
pub const MAX_CERTIFICATE: usize = 64 * 1024;
/// Alternative names that are looked at.
pub const MAX_NAMES: usize = 128;
/// The longest name that becomes a principal's id, in bytes; a URI's is [`MAX_URI`].
pub const MAX_NAME: usize = 256;
/// The longest URI, in bytes (SPIFFE-ID, section 2.3).
pub const MAX_URI: usize = 2048;

/// Why a certificate identifies nobody. The texts go to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is not DER of a certificate, or beyond a bound.
    #[error("the client certificate cannot be read")]
    Malformed,
    /// It has no name of the sort that the service takes.
    #[error("the client certificate has no such name as the service takes: {0}")]
    NoName(&'static str),
    /// It has several, and which one is meant is not said.
    #[error("the client certificate has more than one {0}")]
    Several(&'static str),
    /// The name is empty, too long, or has characters that names do not have.
    #[error("the {0} of the client certificate cannot be used as a name")]
    Name(&'static str),
    /// A SPIFFE id in a form that the standard does not allow.
    #[error("the URI of the client certificate is not a SPIFFE id of a workload")]
    SpiffeId,
    /// A SPIFFE id in a certificate that may sign others.
    #[error("the client certificate may sign others, so its SPIFFE id is not one of a workload")]
    Signs,
    /// `notAfter` has passed.
    #[error("the client certificate has expired")]
    Expired,
}

/// A name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameOf {
    /// The subject's common name.
    CommonName,
    /// The first DNS name among the alternative names.
    Dns,
    /// The URI among the alternative names (SPIFFE).
    Uri,
    /// The first e-mail address among the alternative names.
    Email,
    /// SHA-256 of the certificate, 64 lower-case hex digits.
    Sha256,
}

/// A certificate that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER (`x5t#S256` of RFC 8705).
    pub sha256: [u8; 32],
    /// The last second in which it is valid, since the Unix epoch.
    pub not_after_unix_s: u64,
    /// The common names of the subject, as far as they are text.
    pub common_names: Vec<String>,
    /// DNS names, in their order.
    pub dns: Vec<String>,
    /// URIs, in their order.
    pub uris: Vec<String>,
    /// E-mail addresses, in their order.
    pub emails: Vec<String>,
    /// It is a CA's, or its key may sign certificates or lists of revoked ones.
    pub signs: bool,
}

impl Certificate {
    /// Reads a certificate's DER.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn parse(der: &[u8]) -> Result<Certificate, CertificateError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(CertificateError::Malformed);
        }
        read(der).ok_or(CertificateError::Malformed)
    }

    /// The principal's id.
    ///
    /// # Errors
    /// It has no such name, several where one is expected, or one that cannot be used.
    pub fn name(&self, from: NameOf) -> Result<String, CertificateError> {
        match from {
            NameOf::CommonName => only(&self.common_names, "common name", MAX_NAME),
            NameOf::Dns => first(&self.dns, "DNS name", MAX_NAME),
            NameOf::Email => first(&self.emails, "e-mail address", MAX_NAME),
            NameOf::Sha256 => Ok(hex(&self.sha256)),
            NameOf::Uri => {
                let uri = only(&self.uris, "URI", MAX_URI)?;
                if is_spiffe(&uri) {
                    check_spiffe(&uri)?;
                    if self.signs {
                        return Err(CertificateError::Signs);
                    }
                }
                Ok(uri)
            }
        }
    }

    /// The names by which a machine is known: its URI, then its DNS names in lower case. Without those
    /// that cannot be used.
    pub fn machine_names(&self) -> Vec<String> {
        let uri = self.name(NameOf::Uri).ok();
        let dns = self.dns.iter().filter_map(|name| usable(name, "DNS name", MAX_NAME).ok());
        uri.into_iter().chain(dns.map(|name| name.to_ascii_lowercase())).collect()
    }

    /// From when on it is refused, in seconds since the Unix epoch: `notAfter` itself is still good.
    pub fn until_unix_s(&self) -> u64 {
        self.not_after_unix_s.saturating_add(1)
    }
}

/// The one name of its sort. Two would be two principals.
fn only(names: &[String], what: &'static str, most: usize) -> Result<String, CertificateError> {
    match names {
        [] => Err(CertificateError::NoName(what)),
        [name] => usable(name, what, most),
        _ => Err(CertificateError::Several(what)),
    }
}

fn first(names: &[String], what: &'static str, most: usize) -> Result<String, CertificateError> {
    match names.first() {
        None => Err(CertificateError::NoName(what)),
        Some(name) => usable(name, what, most),
    }
}

fn usable(name: &str, what: &'static str, most: usize) -> Result<String, CertificateError> {
    if name.is_empty() || name.len() > most || name.chars().any(char::is_control) {
        return Err(CertificateError::Name(what));
    }
    Ok(name.to_owned())
}

/// What is wrong with a name by which a certificate is to be known, a DNS name or a URI, if anything.
pub fn wrong_machine_name(name: &str) -> Option<&'static str> {
    let is_visible = name.bytes().all(|b| b.is_ascii_graphic());
    if name.contains(':') {
        let is_uri = name.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty()
                && !rest.is_empty()
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
        });
        let fits = is_uri && is_visible && name.len() <= MAX_URI;
        return match (fits, is_spiffe(name)) {
            (false, _) => Some("expected a URI such as spiffe://prod.example/gate"),
            (true, true) if check_spiffe(name).is_err() => {
                Some("expected a SPIFFE id of a workload, such as spiffe://prod.example/gate")
            }
            (true, _) => None,
        };
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    let is_dns = name.len() <= MAX_NAME && name.split('.').all(is_label);
    (!is_dns).then_some("expected a DNS name in lower case such as gate.example, or a URI")
}

/// Whether a URI is meant as a SPIFFE id; schemes are compared without case (RFC 3986).
fn is_spiffe(uri: &str) -> bool {
    uri.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("spiffe:"))
}

/// SPIFFE-ID, sections 2.1 to 2.3: a trust domain in lower case, without user and port, and a path of
/// a workload; no query, no fragment, nothing percent-encoded.
fn check_spiffe(uri: &str) -> Result<(), CertificateError> {
    let wrong = CertificateError::SpiffeId;
    let (domain, path) =
        uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or(wrong)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let of_domain = |b: u8| plain(b) && !b.is_ascii_uppercase();
    let is_domain = (1..=255).contains(&domain.len()) && domain.bytes().all(of_domain);
    let is_segment = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
    };
    if is_domain && path.split('/').all(is_segment) { Ok(()) } else { Err(wrong) }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BOOLEAN: u8 = 0x01;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, `[1]`, .. in a certificate, and in alternative names.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const SAN_EMAIL: u8 = 0x81;
const SAN_DNS: u8 = 0x82;
const SAN_URI: u8 = 0x86;

/// `2.5.4.3`, and `2.5.29.*`.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// Bits 5 and 6 of the key's usage, as its first byte has them: `keyCertSign`, `cRLSign`.
const SIGNING: u8 = 0b0000_0110;

fn read(der: &[u8]) -> Option<Certificate> {
    let mut outer = Der(der);
    let mut certificate = Der(outer.take(SEQUENCE)?);
    outer.end()?;
    let mut tbs = Der(certificate.take(SEQUENCE)?);
    let _version = tbs.maybe(VERSION)?;
    let _serial = tbs.take(INTEGER)?;
    let _algorithm = tbs.take(SEQUENCE)?;
    let _issuer = tbs.take(SEQUENCE)?;
    let mut validity = Der(tbs.take(SEQUENCE)?);
    let _from = validity.any()?;
    let (tag, until) = validity.any()?;
    validity.end()?;
    let mut found = Certificate {
        sha256: Sha256::digest(der).into(),
        not_after_unix_s: time(tag, until)?,
        common_names: Vec::new(),
        dns: Vec::new(),
        uris: Vec::new(),
        emails: Vec::new(),
        signs: false,
    };
    subject(tbs.take(SEQUENCE)?, &mut found)?;
    let _key = tbs.take(SEQUENCE)?;
    while !tbs.is_empty() {
        let (tag, content) = tbs.any()?;
        if tag == EXTENSIONS {
            let mut explicit = Der(content);
            extensions(explicit.take(SEQUENCE)?, &mut found)?;
            explicit.end()?;
        }
    }
    Some(found)
}

/// The subject: a sequence of sets of attributes.
fn subject(bytes: &[u8], found: &mut Certificate) -> Option<()> {
    let mut names = Der(bytes);
    while !names.is_empty() {
        let mut set = Der(names.take(SET)?);
        while !set.is_empty() {
            let mut attribute = Der(set.take(SEQUENCE)?);
            let kind = attribute.take(OBJECT_ID)?;
            let (tag, value) = attribute.any()?;
            attribute.end()?;
            if kind != COMMON_NAME {
                continue;
            }
            // Other sorts of strings are of another time; one is no name that could be compared.
            if !matches!(tag, UTF8 | PRINTABLE | IA5) || found.common_names.len() >= MAX_NAMES {
                return None;
            }
            found.common_names.push(text(value)?);
        }
    }
    Some(())
}

fn extensions(bytes: &[u8], found: &mut Certificate) -> Option<()> {
    let mut all = Der(bytes);
    let mut seen_names = false;
    while !all.is_empty() {
        let mut extension = Der(all.take(SEQUENCE)?);
        let kind = extension.take(OBJECT_ID)?;
        let _critical = extension.maybe(BOOLEAN)?;
        let mut value = Der(extension.take(OCTET_STRING)?);
        extension.end()?;
        match kind {
            // Twice is forbidden (RFC 5280, 4.2), and two readers could believe different ones.
            ALTERNATIVE_NAMES if std::mem::replace(&mut seen_names, true) => return None,
            ALTERNATIVE_NAMES => alternative_names(value.take(SEQUENCE)?, found)?,
            BASIC_CONSTRAINTS => {
                let mut constraints = Der(value.take(SEQUENCE)?);
                found.signs |= constraints.maybe(BOOLEAN)?.is_some_and(|ca| ca != [0]);
            }
            KEY_USAGE => {
                let bits = value.take(BIT_STRING)?;
                found.signs |= bits.get(1).is_some_and(|usage| usage & SIGNING != 0);
            }
            _ => {}
        }
    }
    Some(())
}

fn alternative_names(bytes: &[u8], found: &mut Certificate) -> Option<()> {
    let mut names = Der(bytes);
    let mut count = 0;
    while !names.is_empty() {
        let (tag, value) = names.any()?;
        count += 1;
        if count > MAX_NAMES {
            return None;
        }
        match tag {
            SAN_DNS => found.dns.push(ascii(value)?),
            SAN_URI => found.uris.push(ascii(value)?),
            SAN_EMAIL => found.emails.push(ascii(value)?),
            _ => {}
        }
    }
    Some(())
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Alternative names are IA5 strings.
fn ascii(bytes: &[u8]) -> Option<String> {
    if bytes.is_ascii() { text(bytes) } else { None }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5).
fn time(tag: u8, bytes: &[u8]) -> Option<u64> {
    let digits = bytes.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| {
        part.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit.wrapping_sub(b'0')))
    };
    let (year, rest) = match tag {
        UTC_TIME if digits.len() == 12 => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year);
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME if digits.len() == 14 => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year), rest)
        }
        _ => return None,
    };
    let mut parts = rest.chunks(2).map(number);
    let (month, day) = (parts.next()?, parts.next()?);
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !fits || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Before the epoch nothing is valid any more.
    let days = days(year, month, day).unwrap_or(0);
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days since the Unix epoch of a date in the Gregorian calendar; none: before it.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    // Years that begin in March, so that the leap day is the last.
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let day = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    day.checked_sub(719_468)
}

/// DER that is left to be read. None: it is not there, or not DER.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&self) -> Option<()> {
        self.is_empty().then_some(())
    }

    /// The next value, whatever it is: its tag and its content.
    fn any(&mut self) -> Option<(u8, &'d [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags of several bytes do not occur.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            // A certificate within its bound needs no more than three bytes.
            0x81..=0x83 => {
                let mut length = 0;
                for _ in 0..first & 0x7f {
                    let (&byte, after) = rest.split_first()?;
                    length = length << 8 | usize::from(byte);
                    rest = after;
                }
                length
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn take(&mut self, tag: u8) -> Option<&'d [u8]> {
        let (found, content) = self.any()?;
        (found == tag).then_some(content)
    }

    /// The next value if it has this tag; the outer none: it is broken.
    #[expect(clippy::option_option, reason = "broken and absent differ")]
    fn maybe(&mut self, tag: u8) -> Option<Option<&'d [u8]>> {
        if self.0.first() == Some(&tag) { self.take(tag).map(Some) } else { Some(None) }
    }
}

#[cfg(test)]
mod tests;
