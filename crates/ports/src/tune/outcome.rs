//! What a set of files does when it is applied: which lines fail, and what is so afterwards.

use std::collections::BTreeMap;

use super::keys;
use super::parse::{Line, Setting, fits, visible};
use super::plan::RESERVED_KEY;
use super::values::{Reading, first_piece, reading};

/// A setting of a file, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct SourceLine<'s> {
    pub(super) source: usize,
    pub(super) line: usize,
    pub(super) setting: &'s Setting,
}

/// Answers whether this kernel has a key, or one that fits a pattern.
pub type Exists<'e> = &'e dyn Fn(&str) -> Option<bool>;

/// What applying does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether `sysctl -p` says so by its exit code.
    pub fails: bool,
    /// Lines that change nothing because the kernel refuses them, counted from 1, by source.
    pub refused: Vec<(usize, usize)>,
    /// What the keys that are known read afterwards, where the files decide it.
    pub values: BTreeMap<String, String>,
}

/// The lines of all sources.
pub(super) fn parse(texts: &[&str]) -> Vec<Vec<Line>> {
    texts.iter().map(|text| text.lines().map(Line::parse).collect()).collect()
}

pub(super) fn places(lines: &[Vec<Line>]) -> Vec<SourceLine<'_>> {
    let mut places = Vec::new();
    for (source, lines) in lines.iter().enumerate() {
        for (index, line) in lines.iter().enumerate() {
            if let Line::Setting(setting) = line {
                places.push(SourceLine { source, line: index + 1, setting });
            }
        }
    }
    places
}

/// The known keys that a place sets. A pattern leaves alone what another line names in full.
pub(super) fn sets<'p>(
    place: &'p SourceLine<'_>,
    places: &[SourceLine<'_>],
    lines: &[Vec<Line>],
) -> Vec<&'p str> {
    if !place.setting.is_pattern() {
        return vec![place.setting.key.as_str()];
    }
    let named = |key: &str| {
        places.iter().any(|other| other.setting.key == key)
            || lines.iter().flatten().any(|line| matches!(line, Line::Exclusion(k) if k == key))
    };
    keys::KEYS
        .iter()
        .map(|known| known.name)
        .filter(|key| fits(&place.setting.key, key) && !named(key))
        .collect()
}

/// What applying these texts does, in their order, to a kernel that has the defaults.
pub fn outcome(texts: &[&str], exists: Exists<'_>) -> Outcome {
    let lines = parse(texts);
    let places = places(&lines);
    let mut outcome = Outcome::default();
    let mut unprivileged: i64 = 1024;
    for place in &places {
        let mut refused = false;
        if !place.setting.is_pattern() && is_missing(&place.setting.key, exists) {
            refused = true;
        } else {
            for key in sets(place, &places, &lines) {
                let text = match key {
                    RESERVED_KEY => first_piece(&place.setting.value),
                    _ => &place.setting.value,
                };
                match reading(key, text) {
                    Reading::Unknown => {}
                    Reading::Refused => refused = true,
                    Reading::LowAlone(low) => {
                        let now = outcome.values.get(key).map_or("32768\t60999", String::as_str);
                        let high = now.split_whitespace().nth(1).unwrap_or("60999").to_owned();
                        let fits = high.parse::<u16>().is_ok_and(|high| low <= high);
                        if fits && i64::from(low) >= unprivileged {
                            outcome.values.insert(key.to_owned(), format!("{low}\t{high}"));
                        } else {
                            refused = true;
                        }
                    }
                    Reading::Value(value) => {
                        let first = value.split_whitespace().next().and_then(|w| w.parse().ok());
                        // The two keep each other out: no range may begin below the first
                        // unprivileged port.
                        if key == keys::RANGE && first.is_some_and(|low: i64| low < unprivileged) {
                            refused = true;
                            continue;
                        }
                        if key == keys::UNPRIVILEGED {
                            let range =
                                outcome.values.get(keys::RANGE).map_or("32768", String::as_str);
                            let low: i64 = range
                                .split_whitespace()
                                .next()
                                .and_then(|w| w.parse().ok())
                                .unwrap_or(0);
                            if first.is_some_and(|start| start > low) {
                                refused = true;
                                continue;
                            }
                            unprivileged = first.unwrap_or(unprivileged);
                        }
                        outcome.values.insert(key.to_owned(), value);
                    }
                }
            }
        }
        if refused {
            // procps 4.0 does not forgive a `-key = value` that fails, systemd does.
            outcome.fails = true;
            outcome.refused.push((place.source, place.line));
        }
    }
    outcome
}

/// Whether this kernel certainly has no such key.
pub(super) fn is_missing(key: &str, exists: Exists<'_>) -> bool {
    if visible(key) != key {
        return true;
    }
    match exists(key) {
        Some(has) => !has,
        None => keys::removed(key).is_some(),
    }
}

/// A key and its value as written.
pub type KeyValue = (String, String);

/// The settings of a text, line by line: a key and its value, or what is wrong with the line.
pub fn settings_of(text: &str) -> Vec<(usize, Result<KeyValue, String>)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let read = match Line::parse(line) {
            Line::Nothing | Line::Exclusion(_) => continue,
            Line::Garbage { .. } => Err("neither a comment nor `key = value`".to_owned()),
            Line::Setting(setting) if setting.is_pattern() => {
                Err(format!("expected one key, got the pattern `{}`; name its keys", setting.key))
            }
            Line::Setting(setting) => Ok((setting.key, setting.value)),
        };
        found.push((index + 1, read));
    }
    found
}
