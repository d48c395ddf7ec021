//! A sysctl file as `sysctl -p` (procps) and `systemd-sysctl` read it.
//!
//! Source: `sysctl.c` of procps-ng 4.0 and `sysctl.d(5)`; a test holds it against the installed
//! `sysctl -p`. Columns count from 1; columns and lengths are in characters.

use serde::Serialize;

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// First character, from 1.
    pub column: usize,
    /// How many.
    pub length: usize,
}

/// White space as C's `isspace` has it, for `sysctl` and the kernel: not the no-break spaces that come
/// along when a line is copied from a web page.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

/// The words of a text, by that white space.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_blank).filter(|word| !word.is_empty())
}

/// A text without the characters that look like white space, or like nothing, and are neither.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '\u{feff}' | '\u{200b}' | '\u{200e}' | '\u{200f}'))
        .map(|c| if c.is_whitespace() && !is_blank(c) { ' ' } else { c })
        .collect()
}

/// A line as `sysctl -p` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Nothing,
    /// No `=`, and no comment either: complained about and skipped.
    Garbage {
        slashes: bool,
        span: Span,
    },
    /// `-key` without a value: patterns leave this key alone, in any order.
    Exclusion(String),
    Setting(Setting),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// With dots between its parts, whatever separated them.
    pub(super) key: String,
    pub(super) value: String,
    pub(super) key_span: Span,
    pub(super) value_span: Span,
    /// Written as `//net/..`: meant as a comment.
    pub(super) slashes: bool,
    /// Written as `-key = value`: systemd goes on quietly when it fails.
    pub(super) lenient: bool,
}

impl Setting {
    /// Whether the key stands for all keys that fit.
    pub(super) fn is_pattern(&self) -> bool {
        self.key.contains(['*', '?', '['])
    }
}

impl Line {
    pub(super) fn parse(text: &str) -> Line {
        let trimmed = text.trim_matches(is_blank);
        let indent = text.chars().take_while(|c| is_blank(*c)).count();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            return Line::Nothing;
        }
        let slashes = trimmed.starts_with("//");
        let whole = Span { column: indent + 1, length: trimmed.chars().count() };
        let garbage = || {
            let length = if slashes { 2 } else { whole.length };
            Line::Garbage { slashes, span: Span { length, ..whole } }
        };
        let Some((left, right)) = trimmed.split_once('=') else {
            return match trimmed.strip_prefix('-') {
                Some(key) => Line::Exclusion(normal(key.trim_matches(is_blank))),
                None => garbage(),
            };
        };
        let written = left.trim_end_matches(is_blank);
        let lenient = written.starts_with('-');
        let name = written.trim_start_matches('-').trim_start_matches('/');
        if name.contains(is_blank) || name.is_empty() {
            return garbage();
        }
        let value = right.trim_matches(is_blank);
        let before = left.chars().count() + 1 + right.chars().take_while(|c| is_blank(*c)).count();
        Line::Setting(Setting {
            key: normal(name),
            value: value.to_owned(),
            key_span: Span { column: indent + 1, length: written.chars().count() },
            value_span: Span { column: indent + before + 1, length: value.chars().count().max(1) },
            slashes,
            lenient,
        })
    }
}

/// A key with dots between its parts. Whichever separator comes first is the separator; the other
/// one is part of names: `net.ipv4.conf.eth0/100.forwarding` is about the interface `eth0.100`.
fn normal(name: &str) -> String {
    let slashed = name.find('/').is_some_and(|s| name.find('.').is_none_or(|dot| s < dot));
    let mut key = String::with_capacity(name.len());
    for c in name.chars() {
        let c = match c {
            '/' if slashed => '.',
            '.' if slashed => '/',
            c => c,
        };
        // The kernel's paths forgive a separator that is repeated.
        if c != '.' || !key.ends_with('.') {
            key.push(c);
        }
    }
    key
}

/// The file of a key below `/proc/sys`.
pub fn path_of_key(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect()
}

/// Whether a key fits a pattern of `glob(7)`; a `*` does not go beyond a part's end.
pub fn fits(pattern: &str, key: &str) -> bool {
    // Bounded: a pattern of many stars would take forever on a long key.
    const MAX_STARS: usize = 8;
    if pattern.matches('*').count() > MAX_STARS {
        return false;
    }
    fits_bytes(pattern.as_bytes(), key.as_bytes())
}

fn fits_bytes(pattern: &[u8], key: &[u8]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            fits_bytes(rest, key)
                || key
                    .split_first()
                    .is_some_and(|(c, more)| *c != b'.' && fits_bytes(pattern, more))
        }
        (Some((b'?', rest)), Some((c, more))) => *c != b'.' && fits_bytes(rest, more),
        (Some((b'[', rest)), Some((c, more))) => {
            let Some(end) = rest.iter().skip(1).position(|b| *b == b']').map(|at| at + 1) else {
                return false;
            };
            let (set, after) = rest.split_at(end);
            let (set, not) = match set.split_first() {
                Some((b'!' | b'^', set)) => (set, true),
                _ => (set, false),
            };
            let within =
                set.windows(3).any(|w| matches!(w, [low, b'-', high] if low <= c && c <= high))
                    || set.contains(c);
            (within != not) && fits_bytes(after.get(1..).unwrap_or(&[]), more)
        }
        (Some((p, rest)), Some((c, more))) => p == c && fits_bytes(rest, more),
        _ => false,
    }
}
