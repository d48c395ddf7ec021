//! Writes corrected copies of sysctl files.
//!
//! INVARIANT: files without an error are copied byte for byte. Of others every line stays, in its
//! place; one that is wrong is put right where there is one right way, and made a comment where
//! there is none. Applying the result is never refused.

use std::collections::BTreeSet;

use super::keys::{self, Shape};
use super::lint::{Code, Level, Source, lint};
use super::outcome::outcome;
use super::parse::{Line, Setting, visible};
use super::plan::RESERVED_KEY;
use super::values::{self, Reading, parse_range, reading};
use crate::ranges::{PortRange, PortSet};

/// The corrected text; equal to `text` where nothing is wrong.
pub fn fix(text: &str) -> String {
    fix_all(&[text]).pop().unwrap_or_default()
}

/// The same for files that are applied one after the other: a list of ports that a later file
/// would replace goes on in that file.
pub fn fix_all(texts: &[&str]) -> Vec<String> {
    let sources: Vec<Source<'_>> = texts.iter().map(|text| Source { name: "", text }).collect();
    // A key that is missing here may be there where the file is used: it stays.
    let findings = lint(&sources, &|_| None);
    let wrong: BTreeSet<usize> =
        findings.iter().filter(|f| f.level == Level::Error).map(|f| f.source).collect();
    let replaced: BTreeSet<(usize, usize)> = findings
        .iter()
        .filter(|f| f.code == Code::ListReplaced)
        .map(|f| (f.source, f.line))
        .collect();
    let mut listed = PortSet::new();
    let fixed = texts
        .iter()
        .enumerate()
        .map(|(source, text)| {
            if wrong.contains(&source) {
                one(text, source, &replaced, &mut listed)
            } else {
                for line in text.lines() {
                    remember(&Line::parse(line), &mut listed);
                }
                (*text).to_owned()
            }
        })
        .collect();
    in_order(fixed, &wrong)
}

/// What is right by itself and refused where it stands becomes a comment.
fn in_order(mut fixed: Vec<String>, wrong: &BTreeSet<usize>) -> Vec<String> {
    let texts: Vec<&str> = fixed.iter().map(String::as_str).collect();
    let refused = outcome(&texts, &|_| None).refused;
    for (source, text) in fixed.iter_mut().enumerate().filter(|(s, _)| wrong.contains(s)) {
        let lines = text.lines().enumerate().map(|(index, line)| {
            if refused.contains(&(source, index + 1)) {
                format!("# refused at this place: {}\n", line.trim())
            } else {
                format!("{line}\n")
            }
        });
        *text = lines.collect();
    }
    fixed
}

/// Keeps the ports that are reserved so far.
fn remember(line: &Line, listed: &mut PortSet) {
    if let Line::Setting(setting) = line
        && setting.key == RESERVED_KEY
        && let Some(ports) = values::ports(&setting.value)
    {
        *listed = ports;
    }
}

fn one(
    text: &str,
    source: usize,
    replaced: &BTreeSet<(usize, usize)>,
    listed: &mut PortSet,
) -> String {
    let mut fixed = String::with_capacity(text.len() + 128);
    let mut range: Option<PortRange> = None;
    for (index, line) in text.lines().enumerate() {
        let visible = visible(line);
        let parsed = Line::parse(line);
        // Spaces that are none are what it is about, unless in a remark.
        let (line, parsed) = match Line::parse(&visible) {
            better @ (Line::Setting(_) | Line::Nothing)
                if visible != line && parsed != Line::Nothing =>
            {
                (visible.as_str(), better)
            }
            _ => (line, parsed),
        };
        let mut corrected = match parsed {
            Line::Nothing | Line::Exclusion(_) => line.to_owned(),
            Line::Garbage { .. } => {
                format!("# {}", line.trim().trim_start_matches('/').trim_start())
            }
            Line::Setting(setting) => correct(line, &setting),
        };
        if replaced.contains(&(source, index + 1))
            && let Line::Setting(kept) = Line::parse(&corrected)
            && let Some(ports) = values::ports(&kept.value)
        {
            listed.union_with(&ports);
            corrected = format!("{RESERVED_KEY} = {listed}");
        }
        let parsed = Line::parse(&corrected);
        remember(&parsed, listed);
        if let Line::Setting(kept) = &parsed
            && kept.key == keys::RANGE
        {
            range = parse_range(&kept.value);
        }
        fixed.push_str(&corrected);
        fixed.push('\n');
    }
    if let Some(range) = range.filter(|range| range.low < 32_768) {
        let mut services = PortSet::of(range);
        services.intersect_with(&keys::SERVICE_PORTS.parse().unwrap_or_default());
        let mut missing = services.clone();
        missing.subtract(listed);
        if !missing.is_empty() {
            listed.union_with(&services);
            fixed.push_str(
                "# Ports of well-known services inside the range stay theirs; add your own.\n",
            );
            fixed.push_str(&format!("{RESERVED_KEY} = {listed}\n"));
        }
    }
    fixed
}

fn correct(line: &str, setting: &Setting) -> String {
    let comment = |why: &str| format!("# {why}: {}", line.trim().trim_start_matches('/'));
    let Setting { key, value, .. } = setting;
    if setting.slashes {
        return format!("# {}", line.trim().trim_start_matches('/'));
    }
    if let Some(gone) = keys::removed(key) {
        return comment(&format!("removed in Linux {}", gone.since));
    }
    let read = reading(key, value);
    if key == "net.ipv4.tcp_timestamps" && read == Reading::Value("0".to_owned()) {
        return comment("harmful, the default 1 is right");
    }
    let Some(known) = keys::known(key) else { return line.to_owned() };
    let few = |ports: &PortSet, range: PortRange| {
        let mut usable = PortSet::of(range);
        usable.subtract(ports);
        usable.len() < super::lint::FEWEST_PORTS
    };
    let whole = PortRange { low: 1024, high: u16::MAX };
    match (known.shape, read) {
        (Shape::Range, Reading::Value(_)) if parse_range(value).is_some_and(|r| r.low >= 1024) => {
            let range = parse_range(value).unwrap_or(whole);
            if few(&PortSet::new(), range) {
                comment("hardly any port would be left")
            } else {
                line.to_owned()
            }
        }
        (Shape::Range, Reading::LowAlone(_)) => line.to_owned(),
        (Shape::Range, _) => match corrected_range(value) {
            Some(range) => format!("{key} = {} {}", range.low, range.high),
            None => comment("not a range of ports"),
        },
        (Shape::Ports, Reading::Value(_)) => {
            let ports = values::ports(value).unwrap_or_default();
            if few(&ports, whole) {
                comment("hardly any port would be left")
            } else {
                line.to_owned()
            }
        }
        (Shape::Ports, _) => {
            // White space and a remark behind the list are all that is put right.
            let bare = value.split(['#', ';']).next().unwrap_or("");
            let joined: String = bare.split_whitespace().collect::<Vec<_>>().join("");
            match values::ports(&joined) {
                Some(ports) if !ports.is_empty() => format!("{key} = {ports}"),
                _ => comment("not a list of ports"),
            }
        }
        (Shape::Number(..), Reading::Value(_)) => line.to_owned(),
        (Shape::Number(low, high), _) => {
            let (low, high) = keys::sensible(key).unwrap_or((low, high));
            comment(&format!("not a number from {low} to {high}"))
        }
    }
}

/// In order, from 1024 on at the least, and of even size.
fn corrected_range(value: &str) -> Option<PortRange> {
    let spaced = value.replace(['-', ','], " ");
    let range = parse_range(&spaced)?;
    let (mut low, mut high) = (range.low.min(range.high), range.low.max(range.high));
    low = low.max(1024);
    if high <= low {
        return None;
    }
    if (high - low) % 2 == 0 {
        high -= 1;
    }
    let range = PortRange { low, high };
    (range.len() >= super::lint::FEWEST_PORTS).then_some(range)
}
