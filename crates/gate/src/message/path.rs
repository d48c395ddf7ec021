//! One form for a path before anything is decided about it.
//!
//! A path that two programs read differently is a way around every rule (`/a/%2e%2e/b`, `//b`,
//! `/a%2Fb`, `/a\b`, `/a;x/../b`). So the gate brings it into one form *once* and decides on those
//! bytes; what has no single safe form is refused. The form is also what is forwarded, except
//! where paths are exact ([`Mode::Exact`]): there the bytes that came are forwarded, and more is
//! refused, so that they mean what the form means.
//!
//! Pure: bytes in, bytes out. RFC 3986 section 6.2.2, stricter where upstreams disagree.

use std::borrow::Cow;

use keepgate_policy::service::{Doubtful, EmptySegments, Paths, ServiceSettings};

/// What to do with a path that is not in its normal form but has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Bring it into normal form.
    #[default]
    Normal,
    /// Refuse it, and encoded reserved characters and segments that end in a dot or space too.
    Strict,
    /// Match on its normal form, forward what came; dot segments are refused.
    Exact,
}

/// How a service takes paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathRules {
    /// See [`Mode`].
    pub mode: Mode,
    /// Empty segments stay; else they are merged or refused.
    pub keep_empty: bool,
    /// `;` stays; else it is refused.
    pub keep_parameters: bool,
    /// `%2F` stays; else it is refused.
    pub keep_encoded_slash: bool,
}

impl PathRules {
    /// The rules that a service's settings ask for.
    pub fn of(settings: &ServiceSettings) -> PathRules {
        PathRules {
            mode: match settings.paths {
                Paths::Normal => Mode::Normal,
                Paths::Strict | Paths::Refuse => Mode::Strict,
                Paths::Exact => Mode::Exact,
            },
            keep_empty: settings.empty_segments == EmptySegments::Keep,
            keep_parameters: settings.path_parameters == Doubtful::Keep,
            keep_encoded_slash: settings.encoded_slash == Doubtful::Keep,
        }
    }
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
    /// Bytes that are no text.
    #[error("the path is not UTF-8 once it is percent-decoded")]
    Utf8,
    /// `\` or `%5C`: some upstreams take it for a slash.
    #[error("a backslash, encoded or not, is ambiguous in a path")]
    Backslash,
    /// `%2F`: some upstreams take it for a slash.
    #[error("an encoded slash is ambiguous in a path")]
    EncodedSlash,
    /// `;x`: some upstreams cut it off.
    #[error("`;` parameters are ambiguous in a path")]
    Parameters,
    /// `..` above the root.
    #[error("the path leads above its root")]
    AboveRoot,
    /// `..;x`: some upstreams take it for `..`.
    #[error("a dot segment with parameters is ambiguous")]
    DotParameters,
    /// `a%2F..`: some upstreams take it for `a/..`.
    #[error("a dot or empty segment beside an encoded slash is ambiguous")]
    HiddenSegment,
    /// A dot segment where paths are forwarded as they came.
    #[error("a dot segment cannot be forwarded as it came")]
    DotSegment,
    /// Two slashes where paths are forwarded as they came, at the path's beginning (some upstreams
    /// take what follows for a host), or before `..`.
    #[error("an empty segment is ambiguous here")]
    EmptySegment,
    /// `%40` where only normal paths are taken.
    #[error("an encoded reserved character is refused here")]
    EncodedReserved,
    /// `a.` or `a%20`: some file systems cut it off.
    #[error("a segment that ends in a dot or space is refused here")]
    SegmentEnd,
    /// Not in normal form, where that is asked for.
    #[error("the path is not in normal form")]
    NotNormal,
}

/// The form of `path` (without query) that is matched and decided on, or why there is none.
///
/// What browsers send raw (`[ ] | ^ { } "` and characters beyond ASCII, those but where paths are
/// forwarded as they came) is percent-encoded,
/// unreserved characters are decoded, other escapes get capital hex digits, dot segments and
/// repeated slashes are resolved; see [`PathRules`] for what differs.
pub fn normal(path: &str, rules: PathRules) -> Result<Cow<'_, str>, PathError> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    if is_plainly_normal(bytes, rules.mode) {
        return Ok(Cow::Borrowed(path));
    }
    let spelled = spell(bytes, rules)?;
    let normal = resolve_segments(&spelled, rules)?;
    if normal == path {
        return Ok(Cow::Borrowed(path));
    }
    match rules.mode {
        Mode::Normal | Mode::Exact => Ok(Cow::Owned(normal)),
        Mode::Strict => Err(PathError::NotNormal),
    }
}

/// The common case in one pass: only plain bytes, no `//`, no segment that begins with a dot.
fn is_plainly_normal(bytes: &[u8], mode: Mode) -> bool {
    let mut previous = 0;
    for &b in bytes {
        let fine = match b {
            b'/' => previous != b'/' && !(mode == Mode::Strict && previous == b'.'),
            b'.' => previous != b'/',
            _ => is_segment_byte(b),
        };
        if !fine {
            return false;
        }
        previous = b;
    }
    !(mode == Mode::Strict && previous == b'.')
}

/// `pchar` of RFC 3986 without the escape and without `;`.
fn is_segment_byte(b: u8) -> bool {
    is_unreserved(b)
        || matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=')
        || matches!(b, b':' | b'@')
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 2.2.
fn is_reserved(b: u8) -> bool {
    matches!(b, b':' | b'/' | b'?' | b'#' | b'[' | b']' | b'@')
        || matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// What browsers leave as it is although it belongs encoded (the path percent-encode set of the
/// WHATWG URL standard, and what is beyond ASCII for others).
fn is_sent_raw(b: u8) -> bool {
    matches!(b, b'[' | b']' | b'|' | b'^' | b'{' | b'}' | b'"') || !b.is_ascii()
}

/// The value of an escape at the beginning of `bytes`, and what follows it.
fn escape(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, rest @ ..] = bytes else { return None };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok().map(|value| (value, rest))
}

fn push_escape(out: &mut String, value: u8) {
    const HEX: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or('0');
    out.push('%');
    out.push(digit(value >> 4));
    out.push(digit(value & 15));
}

/// Each character in the one way to write it.
fn spell(bytes: &[u8], rules: PathRules) -> Result<String, PathError> {
    let mut out = String::with_capacity(bytes.len() + 8);
    // Whether there is something beyond ASCII.
    let mut is_high = false;
    let mut rest = bytes;
    while let Some((&b, tail)) = rest.split_first() {
        let here = rest;
        rest = tail;
        match b {
            b'%' => {
                let (value, after) = escape(here).ok_or(PathError::Escape)?;
                rest = after;
                is_high |= !value.is_ascii();
                match value {
                    0..=0x1f | 0x7f => return Err(PathError::Control),
                    b'\\' => return Err(PathError::Backslash),
                    b'/' if !rules.keep_encoded_slash => return Err(PathError::EncodedSlash),
                    b'/' => push_escape(&mut out, value),
                    value if rules.mode == Mode::Strict && is_reserved(value) => {
                        return Err(PathError::EncodedReserved);
                    }
                    value if is_unreserved(value) => out.push(char::from(value)),
                    value => push_escape(&mut out, value),
                }
            }
            b'\\' => return Err(PathError::Backslash),
            b';' if !rules.keep_parameters => return Err(PathError::Parameters),
            b'/' | b';' => out.push(char::from(b)),
            b if is_segment_byte(b) => out.push(char::from(b)),
            // Servers that take a target for Latin-1 read another character than the one meant.
            b if !b.is_ascii() && rules.mode == Mode::Exact => return Err(PathError::Byte(b)),
            b if is_sent_raw(b) => {
                is_high |= !b.is_ascii();
                push_escape(&mut out, b);
            }
            b => return Err(PathError::Byte(b)),
        }
    }
    if is_high && keepgate_policy::router::decoded(&out).is_err() {
        return Err(PathError::Utf8);
    }
    Ok(out)
}

/// What stands before `;` or its escape: what an upstream that cuts parameters off looks at.
fn without_parameters(segment: &str) -> &str {
    let end = [segment.find(';'), segment.find("%3B")].into_iter().flatten().min();
    end.and_then(|end| segment.get(..end)).unwrap_or(segment)
}

fn is_dots(name: &str) -> bool {
    matches!(name, "." | "..")
}

fn check_segment(segment: &str, rules: PathRules) -> Result<(), PathError> {
    let name = without_parameters(segment);
    if name.len() < segment.len() && (is_dots(name) || (name.is_empty() && !rules.keep_empty)) {
        return Err(PathError::DotParameters);
    }
    if segment.contains("%2F") {
        for part in segment.split("%2F") {
            let name = without_parameters(part);
            if is_dots(name) || (name.is_empty() && !rules.keep_empty) {
                return Err(PathError::HiddenSegment);
            }
        }
    }
    if rules.mode == Mode::Strict
        && !is_dots(name)
        && (name.ends_with('.') || name.ends_with("%20"))
    {
        return Err(PathError::SegmentEnd);
    }
    Ok(())
}

fn resolve_segments(path: &str, rules: PathRules) -> Result<String, PathError> {
    let exact = rules.mode == Mode::Exact;
    let mut kept: Vec<&str> = Vec::new();
    // Whether the path, as far as it was read, ends in a slash.
    let mut open = true;
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        open = false;
        match segment {
            "" if segments.peek().is_none() => open = true,
            "" if rules.keep_empty && kept.is_empty() => return Err(PathError::EmptySegment),
            "" if rules.keep_empty => kept.push(segment),
            "" if exact => return Err(PathError::EmptySegment),
            "" => open = true,
            "." | ".." if exact => return Err(PathError::DotSegment),
            "." => open = true,
            ".." => {
                if kept.pop().ok_or(PathError::AboveRoot)?.is_empty() {
                    return Err(PathError::EmptySegment);
                }
                open = true;
            }
            _ => {
                check_segment(segment, rules)?;
                kept.push(segment);
            }
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

    const NORMAL: PathRules = PathRules {
        mode: Mode::Normal,
        keep_empty: false,
        keep_parameters: false,
        keep_encoded_slash: false,
    };
    const STRICT: PathRules = PathRules { mode: Mode::Strict, ..NORMAL };
    const EXACT: PathRules = PathRules { mode: Mode::Exact, ..NORMAL };
    const KEEP: PathRules =
        PathRules { keep_empty: true, keep_parameters: true, keep_encoded_slash: true, ..NORMAL };

    fn check(path: &str, rules: PathRules) -> String {
        match normal(path, rules) {
            Ok(normal) => normal.into_owned(),
            Err(e) => format!("! {e}"),
        }
    }

    #[test]
    fn normal_paths() {
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
            ("/a\u{e9}", "/a%C3%A9"),
            ("/a[1]{x}|^\"", "/a%5B1%5D%7Bx%7D%7C%5E%22"),
            ("/a%252e", "/a%252e"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a%3Bv", "/a%3Bv"),
            ("/a%40b", "/a%40b"),
            ("/a.", "/a."),
            ("/a;v=1/b", "! `;` parameters are ambiguous in a path"),
            ("/..", "! the path leads above its root"),
            ("/a/../../b", "! the path leads above its root"),
            ("/a%2fb", "! an encoded slash is ambiguous in a path"),
            ("/a%5cb", "! a backslash, encoded or not, is ambiguous in a path"),
            ("/a\\b", "! a backslash, encoded or not, is ambiguous in a path"),
            ("/a%00", "! an encoded control byte has no meaning in a path"),
            ("/a%0d%0ab", "! an encoded control byte has no meaning in a path"),
            ("/a%7f", "! an encoded control byte has no meaning in a path"),
            ("/a%ff", "! the path is not UTF-8 once it is percent-decoded"),
            ("/a%C0%AF", "! the path is not UTF-8 once it is percent-decoded"),
            ("/%ED%A0%80", "! the path is not UTF-8 once it is percent-decoded"),
            ("/a%C3/%A9", "! the path is not UTF-8 once it is percent-decoded"),
            ("/a%zz", "! `%` is not followed by two hex digits"),
            ("/a%2", "! `%` is not followed by two hex digits"),
            ("/a%", "! `%` is not followed by two hex digits"),
            ("/a/..%3Bx/b", "! a dot segment with parameters is ambiguous"),
            ("/a/..%3b/b", "! a dot segment with parameters is ambiguous"),
            ("/a/.%3Bx", "! a dot segment with parameters is ambiguous"),
            ("/a/%2e%2e%3B/b", "! a dot segment with parameters is ambiguous"),
            ("/a<b", "! byte 0x3c must be percent-encoded in a path"),
            ("/a`b", "! byte 0x60 must be percent-encoded in a path"),
            ("/a b", "! byte 0x20 must be percent-encoded in a path"),
            ("a", "! a path begins with `/`"),
            ("*", "! a path begins with `/`"),
            ("", "! a path begins with `/`"),
        ] {
            assert_eq!(check(path, NORMAL), normal, "{path}");
        }
    }

    #[test]
    fn strict_takes_only_normal_paths() {
        for path in ["/", "/a/b", "/a%20b", "/a%C3%A9", "/.well-known/x", "/a.b/c", "/a%25"] {
            assert_eq!(check(path, STRICT), path);
        }
        for (path, error) in [
            ("//a", PathError::NotNormal),
            ("/a/../b", PathError::NotNormal),
            ("/%61", PathError::NotNormal),
            ("/a%c3%a9", PathError::NotNormal),
            ("/a[1]", PathError::NotNormal),
            ("/a\u{e9}", PathError::NotNormal),
            ("/a%40b", PathError::EncodedReserved),
            ("/a%3Bb", PathError::EncodedReserved),
            ("/a%3f", PathError::EncodedReserved),
            ("/a.", PathError::SegmentEnd),
            ("/a./b", PathError::SegmentEnd),
            ("/...", PathError::SegmentEnd),
            ("/a%20/b", PathError::SegmentEnd),
            ("/a;x", PathError::Parameters),
            ("/a%2Fb", PathError::EncodedSlash),
        ] {
            assert_eq!(normal(path, STRICT), Err(error), "{path}");
        }
        let keep = PathRules { mode: Mode::Strict, ..KEEP };
        assert_eq!(check("/a%2Fb;x//c", keep), "/a%2Fb;x//c", "what is kept is normal");
        assert_eq!(normal("/a%2fb", keep), Err(PathError::NotNormal));
        assert_eq!(normal("/a.;x", keep), Err(PathError::SegmentEnd));
    }

    #[test]
    fn exact_paths_are_matched_in_their_form_and_mean_what_it_means() {
        for (path, form) in [
            ("/a%20b", "/a%20b"),
            ("/%61%2db%c3%a9", "/a-b%C3%A9"),
            ("/a%40b!$&'()*+,=:@", "/a%40b!$&'()*+,=:@"),
            ("/a|b", "/a%7Cb"),
        ] {
            assert_eq!(check(path, EXACT), form, "{path}");
        }
        for (path, error) in [
            ("/a/../b", PathError::DotSegment),
            ("/a/%2e/b", PathError::DotSegment),
            ("/..", PathError::DotSegment),
            ("/a//b", PathError::EmptySegment),
            ("//a", PathError::EmptySegment),
            ("/a;b", PathError::Parameters),
            ("/a%2Fb", PathError::EncodedSlash),
            ("/a%5Cb", PathError::Backslash),
            ("/a%00", PathError::Control),
            ("/a%ff", PathError::Utf8),
            ("/a\u{e9}", PathError::Byte(0xc3)),
            ("/..%3B", PathError::DotParameters),
        ] {
            assert_eq!(normal(path, EXACT), Err(error), "{path}");
        }
        let urls = PathRules { keep_empty: true, ..EXACT };
        assert_eq!(check("/get/http://a.example/x", urls), "/get/http://a.example/x");
        assert_eq!(normal("//a.example/x", urls), Err(PathError::EmptySegment));
        assert_eq!(normal("/a//../b", urls), Err(PathError::DotSegment));
    }

    #[test]
    fn what_a_service_keeps_stays() {
        for (path, normal) in [
            ("/a//b", "/a//b"),
            ("/a//", "/a//"),
            ("/a/", "/a/"),
            ("/a%2fb", "/a%2Fb"),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/a;v=1;w/b", "/a;v=1;w/b"),
            ("/a/b/../c", "/a/c"),
            ("//a", "! an empty segment is ambiguous here"),
            ("//", "! an empty segment is ambiguous here"),
            ("/a/..//b", "! an empty segment is ambiguous here"),
            ("/a//../b", "! an empty segment is ambiguous here"),
            ("/a/..;x/b", "! a dot segment with parameters is ambiguous"),
            ("/a/;/../b", "/a/b"),
            ("/a%2F..%2Fb", "! a dot or empty segment beside an encoded slash is ambiguous"),
            ("/a%2f%2e%2e", "! a dot or empty segment beside an encoded slash is ambiguous"),
            ("/..%2Fb", "! a dot or empty segment beside an encoded slash is ambiguous"),
            ("/a%2F..;x", "! a dot or empty segment beside an encoded slash is ambiguous"),
        ] {
            assert_eq!(check(path, KEEP), normal, "{path}");
        }
        let slash = PathRules { keep_encoded_slash: true, ..NORMAL };
        for hidden in ["/a%2F", "/%2Fa", "/a%2F%2Fb"] {
            assert_eq!(normal(hidden, slash), Err(PathError::HiddenSegment), "{hidden}");
        }
        let parameters = PathRules { keep_parameters: true, ..NORMAL };
        assert_eq!(normal("/a/;x/b", parameters), Err(PathError::DotParameters));
    }

    fn any_rules() -> impl Strategy<Value = PathRules> {
        let mode = prop_oneof![Just(Mode::Normal), Just(Mode::Strict), Just(Mode::Exact)];
        (mode, any::<[bool; 3]>()).prop_map(|(mode, [empty, parameters, slash])| PathRules {
            mode,
            keep_empty: empty,
            keep_parameters: parameters,
            keep_encoded_slash: slash,
        })
    }

    proptest! {
        #[test]
        fn a_form_is_its_own_form(path in "/[a-c./%2356efBC;\\\\ |\u{e9}]{0,24}", rules in any_rules()) {
            let Ok(once) = normal(&path, rules) else { return Ok(()) };
            let twice = normal(&once, rules);
            prop_assert_eq!(twice.as_deref(), Ok(once.as_ref()));
            prop_assert!(rules.keep_empty || !once.contains("//"));
            prop_assert!(!once.starts_with("//"));
            prop_assert!(rules.keep_parameters || !once.contains(';'));
            prop_assert!(rules.keep_encoded_slash || !once.contains("%2F"));
            prop_assert!(!once.split('/').any(|s| matches!(s, ".." | ".")));
            // Nor with parameters: servers that take those off would then resolve it.
            let bare = |s: &str| matches!(s.split(';').next(), Some(".." | "."));
            prop_assert!(!once.split('/').any(bare));
            prop_assert!(once.bytes().all(|b| b.is_ascii_graphic()));
            if rules.mode == Mode::Strict {
                prop_assert_eq!(once.as_ref(), path.as_str());
            }
        }
    }
}
