//! One form for a path before anything is decided about it.
//!
//! A path that two programs read differently is a way around every rule (`/a/%2e%2e/b`, `//b`,
//! `/a%2Fb`, `/a\b`, `/a;x/../b`). So the gate brings it into one form *once*, decides on those
//! bytes and forwards those bytes; what has no single safe form is refused.
//!
//! Pure: bytes in, bytes out. RFC 3986 section 6.2.2, stricter where upstreams disagree.

use std::borrow::Cow;

/// What to do with a path that is not in its normal form but has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathPolicy {
    /// Bring it into normal form.
    #[default]
    Normalise,
    /// Refuse it.
    Refuse,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("a path begins with `/`")]
    NotAbsolute,
    /// A byte that may not be in a path unencoded.
    #[error("byte {0:#04x} must be percent-encoded in a path")]
    Byte(u8),
    /// A `%` without two hex digits.
    #[error("`%` is not followed by two hex digits")]
    Escape,
    /// An encoded control byte, such as `%00`.
    #[error("an encoded control byte has no meaning in a path")]
    Control,
    /// `\` or `%5C`: some upstreams take it for a slash.
    #[error("a backslash, encoded or not, is ambiguous in a path")]
    Backslash,
    /// `%2F`: some upstreams take it for a slash.
    #[error("an encoded slash is ambiguous in a path")]
    EncodedSlash,
    /// `..` above the root.
    #[error("the path leads above its root")]
    AboveRoot,
    /// `..;x`: some upstreams take it for `..`.
    #[error("a dot segment with parameters is ambiguous")]
    DotParameters,
    /// Not in normal form, where that is asked for.
    #[error("the path is not in normal form")]
    NotNormal,
}

/// The normal form of `path` (without query), or why there is none.
///
/// Unreserved characters are decoded, other escapes get capital hex digits, dot segments and
/// repeated slashes are resolved. Encoded slashes are refused unless `keep_encoded_slash`; then
/// they stay as they are, `%2F`.
pub fn normalise(
    path: &str,
    policy: PathPolicy,
    keep_encoded_slash: bool,
) -> Result<Cow<'_, str>, PathError> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    if is_plainly_normal(bytes) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(bytes, keep_encoded_slash)?;
    let normal = resolve_segments(&decoded)?;
    if normal == path {
        return Ok(Cow::Borrowed(path));
    }
    match policy {
        PathPolicy::Normalise => Ok(Cow::Owned(normal)),
        PathPolicy::Refuse => Err(PathError::NotNormal),
    }
}

/// The bytes of a path parameter: every escape decoded, once. Invalid UTF-8 is replaced.
pub fn decode_parameter(raw: &str) -> Cow<'_, str> {
    if !raw.contains('%') {
        return Cow::Borrowed(raw);
    }
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&b, tail)) = rest.split_first() {
        match (b, escape(rest)) {
            (b'%', Some((value, after))) => {
                out.push(value);
                rest = after;
            }
            _ => {
                out.push(b);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The common case in one pass: only plain bytes, no `//`, no segment that begins with a dot.
fn is_plainly_normal(bytes: &[u8]) -> bool {
    let mut previous = 0;
    for &b in bytes {
        let fine = match b {
            b'/' | b'.' => previous != b'/',
            _ => is_segment_byte(b),
        };
        if !fine {
            return false;
        }
        previous = b;
    }
    true
}

/// `pchar` of RFC 3986 without the escape.
fn is_segment_byte(b: u8) -> bool {
    is_unreserved(b)
        || matches!(
            b,
            b'!' | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// The value of an escape at the beginning of `bytes`, and what follows it.
fn escape(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, rest @ ..] = bytes else { return None };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok().map(|value| (value, rest))
}

fn decode_unreserved(bytes: &[u8], keep_encoded_slash: bool) -> Result<String, PathError> {
    const HEX: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or('0');
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&b, tail)) = rest.split_first() {
        match b {
            b'%' => {
                let (value, after) = escape(rest).ok_or(PathError::Escape)?;
                match value {
                    0..=0x1f | 0x7f => return Err(PathError::Control),
                    b'\\' => return Err(PathError::Backslash),
                    b'/' if !keep_encoded_slash => return Err(PathError::EncodedSlash),
                    value if is_unreserved(value) => out.push(char::from(value)),
                    value => {
                        out.push('%');
                        out.push(digit(value >> 4));
                        out.push(digit(value & 15));
                    }
                }
                rest = after;
            }
            b'\\' => return Err(PathError::Backslash),
            b'/' => {
                out.push('/');
                rest = tail;
            }
            b if is_segment_byte(b) => {
                out.push(char::from(b));
                rest = tail;
            }
            b => return Err(PathError::Byte(b)),
        }
    }
    Ok(out)
}

fn resolve_segments(path: &str) -> Result<String, PathError> {
    let mut kept: Vec<&str> = Vec::new();
    // Whether the path, as far as it was read, ends in a slash.
    let mut open = true;
    for segment in path.split('/').skip(1) {
        open = false;
        match segment {
            "" | "." => open = true,
            ".." => {
                kept.pop().ok_or(PathError::AboveRoot)?;
                open = true;
            }
            _ if segment.starts_with(".;") || segment.starts_with("..;") => {
                return Err(PathError::DotParameters);
            }
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if open {
        out.push('/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(path: &str) -> String {
        match normalise(path, PathPolicy::Normalise, false) {
            Ok(normal) => normal.into_owned(),
            Err(e) => format!("! {e}"),
        }
    }

    #[test]
    fn table() {
        for (path, normal) in [
            ("/", "/"),
            ("/orders/7", "/orders/7"),
            ("/orders/", "/orders/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("//a///b", "/a/b"),
            ("/%61dmin", "/admin"),
            ("/a/%2e%2E/b", "/b"),
            ("/a%20b", "/a%20b"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a%252e", "/a%252e"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/..", "! the path leads above its root"),
            ("/a/../../b", "! the path leads above its root"),
            ("/a%2fb", "! an encoded slash is ambiguous in a path"),
            ("/a%5cb", "! a backslash, encoded or not, is ambiguous in a path"),
            ("/a\\b", "! a backslash, encoded or not, is ambiguous in a path"),
            ("/a%00", "! an encoded control byte has no meaning in a path"),
            ("/a%0d%0ab", "! an encoded control byte has no meaning in a path"),
            ("/a%zz", "! `%` is not followed by two hex digits"),
            ("/a%2", "! `%` is not followed by two hex digits"),
            ("/a/..;/b", "! a dot segment with parameters is ambiguous"),
            ("/a\"b", "! byte 0x22 must be percent-encoded in a path"),
            ("a", "! a path begins with `/`"),
            ("", "! a path begins with `/`"),
        ] {
            assert_eq!(check(path), normal, "{path}");
        }
    }

    #[test]
    fn refusing_takes_only_normal_paths() {
        assert!(normalise("/a/b", PathPolicy::Refuse, false).is_ok());
        assert!(normalise("/a%20b", PathPolicy::Refuse, false).is_ok());
        assert_eq!(normalise("//a", PathPolicy::Refuse, false), Err(PathError::NotNormal));
        assert_eq!(normalise("/%61", PathPolicy::Refuse, false), Err(PathError::NotNormal));
    }

    #[test]
    fn encoded_slashes_can_stay() {
        assert_eq!(normalise("/a%2fb", PathPolicy::Normalise, true).unwrap(), "/a%2Fb");
        assert_eq!(decode_parameter("a%2Fb%C3%A9%"), "a/b\u{e9}%");
    }

    proptest! {
        #[test]
        fn normal_is_normal(path in "/[a-c./%25eE;\\\\ ]{0,24}") {
            if let Ok(once) = normalise(&path, PathPolicy::Normalise, false) {
                let twice = normalise(&once, PathPolicy::Refuse, false);
                prop_assert_eq!(twice.as_deref(), Ok(once.as_ref()));
                prop_assert!(!once.contains("//"));
                prop_assert!(!once.split('/').any(|s| s == ".." || s == "."));
            }
        }
    }
}
