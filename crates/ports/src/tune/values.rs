//! Values as the kernel reads them, and as it gives them back.
//!
//! Source: `kernel/sysctl.c` (`proc_get_long` reads numbers in the base that their beginning says,
//! and stops at white space; `proc_do_large_bitmap` reads lists of ports), and what was tried on
//! Linux 6.18 in a namespace, which a test does again for each key and spelling.

use super::keys::{self, Shape};
use super::parse::{is_blank, words};
use crate::ranges::{PortRange, PortSet};

/// What the kernel makes of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It takes it, and reads back so.
    Value(String),
    /// It refuses it, with EINVAL.
    Refused,
    /// The first port of a range alone: the last one stays what it is.
    LowAlone(u16),
    /// Nothing is known about this key.
    Unknown,
}

/// What the kernel makes of a key's value, as text and without the line's end.
pub fn reading(key: &str, text: &str) -> Reading {
    match keys::known(key).map(|known| known.shape) {
        None => Reading::Unknown,
        Some(Shape::Number(low, high)) => match first_number(text) {
            Some(n) if (low..=high).contains(&n) && !(low >= 0 && negative(text)) => {
                Reading::Value(n.to_string())
            }
            _ => Reading::Refused,
        },
        Some(Shape::Range) => range(text),
        Some(Shape::Ports) => {
            ports(text).map_or(Reading::Refused, |ports| Reading::Value(ports.to_string()))
        }
    }
}

/// The keys that something is known about.
pub fn known_keys() -> impl Iterator<Item = &'static str> {
    keys::KEYS.iter().map(|key| key.name)
}

/// Whether two texts are one value of a key. Of an unknown key, they are if they have the same
/// words, or the same numbers.
pub fn same(key: &str, a: &str, b: &str) -> bool {
    if words(a).eq(words(b)) {
        return true;
    }
    match (reading(key, a.trim_end_matches(is_blank)), reading(key, b.trim_end_matches(is_blank))) {
        (Reading::Value(a), Reading::Value(b)) => a == b,
        (Reading::Unknown, Reading::Unknown) => {
            let numbers = |text: &str| -> Option<Vec<i64>> { words(text).map(number).collect() };
            matches!((numbers(a), numbers(b)), (Some(a), Some(b)) if a == b && !a.is_empty())
        }
        _ => false,
    }
}

/// The range that a value of `ip_local_port_range` means.
pub(super) fn parse_range(text: &str) -> Option<PortRange> {
    let mut words = words(text).map(port);
    match (words.next(), words.next()) {
        (Some(Some(low)), Some(Some(high))) => Some(PortRange { low, high }),
        _ => None,
    }
}

fn range(text: &str) -> Reading {
    match parse_range(text) {
        Some(range) if !range.is_empty() => {
            Reading::Value(format!("{}\t{}", range.low, range.high))
        }
        Some(_) => Reading::Refused,
        None if words(text).nth(1).is_some() => Reading::Refused,
        None => port(text.trim_matches(is_blank)).map_or(Reading::Refused, Reading::LowAlone),
    }
}

fn port(text: &str) -> Option<u16> {
    if negative(text) { None } else { number(text)?.try_into().ok() }
}

fn negative(text: &str) -> bool {
    text.trim_start_matches(is_blank).starts_with('-')
}

/// The number a text begins with; what follows after white space is not read.
fn first_number(text: &str) -> Option<i64> {
    number(words(text).next()?)
}

/// A number in the base that its beginning says: `0x1e` and `036` are 30.
fn number(word: &str) -> Option<i64> {
    let (digits, minus) = word.strip_prefix('-').map_or((word, false), |digits| (digits, true));
    let value = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        plain(hex, 16)?
    } else if digits.len() > 1 && digits.starts_with('0') {
        plain(digits, 8)?
    } else {
        plain(digits, 10)?
    };
    Some(if minus { -value } else { value })
}

/// Digits alone: Rust's parsers take a sign too.
fn plain(digits: &str, base: u32) -> Option<i64> {
    let all = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
    if all { i64::from_str_radix(digits, base).ok() } else { None }
}

/// Ports and ranges between commas, without any white space; a comma at the end is forgiven.
pub(super) fn ports(text: &str) -> Option<PortSet> {
    let mut set = PortSet::new();
    if text.is_empty() {
        return Some(set);
    }
    let text = text.strip_suffix(',').unwrap_or(text);
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let range = PortRange { low: port(low)?, high: port(high)? };
        if range.is_empty() {
            return None;
        }
        set.insert_range(range);
    }
    Some(set)
}

/// The kernel takes this many bytes of a list at a time (a page less one), and `sysctl` of procps 4.0.2
/// writes no second piece.
pub(super) const PIECE: usize = 4095;

/// The part of a list that arrives when only the first piece is written.
pub(super) fn first_piece(text: &str) -> &str {
    let piece = text.get(..PIECE).unwrap_or(text);
    if piece.len() == text.len() {
        text
    } else {
        piece.rsplit_once(',').map_or("", |(whole, _)| whole)
    }
}

/// How a number is written that reads otherwise than it looks: `030` is 24.
pub(super) fn octal(text: &str) -> Option<i64> {
    let word = words(text).next()?;
    let digits = word.strip_prefix('-').unwrap_or(word);
    let looks = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0x");
    let value = number(word)?;
    (looks && value.to_string() != word.trim_start_matches('0') && value != 0).then_some(value)
}
