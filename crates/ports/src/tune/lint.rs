//! Reads sysctl files as `sysctl -p` does and says what each line really does.
//!
//! Pure: the kernel is asked through a function that the caller gives. Lines and columns count
//! from 1; columns and lengths are in characters.

use std::collections::BTreeMap;

use serde::Serialize;

use super::keys::{self, Shape};
use crate::ranges::{PortRange, PortSet};

/// One file: the name it is shown under, and its text.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// For people.
    pub name: &'a str,
    /// The whole text.
    pub text: &'a str,
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The line fails, or does harm.
    Error,
    /// It does something else than its author thought.
    Warning,
    /// Worth knowing.
    Note,
}

impl Level {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        }
    }
}

/// What was found, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// `//` begins no comment.
    NotAComment,
    /// A "comment" that is a setting.
    AppliedComment,
    /// Neither comment nor setting.
    NotASetting,
    /// The key is gone from the kernel.
    RemovedKey,
    /// This kernel has no such key.
    UnknownKey,
    /// The kernel refuses the value.
    OutOfRange,
    /// The kernel takes the line and changes nothing.
    NoEffect,
    /// It does not do what it is usually set for.
    NotWhatPeopleThink,
    /// It is so already.
    DefaultAlready,
    /// A later line has the last word.
    Overridden,
    /// A wide range takes the ports of services that start later.
    TakesServicePorts,
    /// Two lines that undo each other, or hurt together.
    DangerousTogether,
    /// It hurts by itself.
    Harmful,
    /// It helps.
    Useful,
}

impl Code {
    /// The name in brackets.
    pub fn name(self) -> &'static str {
        match self {
            Code::NotAComment => "not-a-comment",
            Code::AppliedComment => "applied-comment",
            Code::NotASetting => "not-a-setting",
            Code::RemovedKey => "removed-key",
            Code::UnknownKey => "unknown-key",
            Code::OutOfRange => "out-of-range",
            Code::NoEffect => "no-effect",
            Code::NotWhatPeopleThink => "not-what-people-think",
            Code::DefaultAlready => "default-already",
            Code::Overridden => "overridden",
            Code::TakesServicePorts => "takes-service-ports",
            Code::DangerousTogether => "dangerous-together",
            Code::Harmful => "harmful",
            Code::Useful => "useful",
        }
    }
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// First character, from 1.
    pub column: usize,
    /// How many.
    pub length: usize,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintFinding {
    /// Index into the sources.
    pub source: usize,
    /// From 1.
    pub line: usize,
    /// Where in it.
    #[serde(flatten)]
    pub span: Span,
    /// How bad.
    pub level: Level,
    /// What kind.
    pub code: Code,
    /// What is true, one line.
    pub message: String,
    /// The way out; empty when there is nothing to do.
    pub help: String,
}

/// A line as `sysctl -p` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Nothing,
    /// No `=`, and no comment either.
    Garbage {
        slashes: bool,
        span: Span,
    },
    Setting(Setting),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// With dots, without leading slashes.
    pub(super) key: String,
    pub(super) value: String,
    pub(super) key_span: Span,
    pub(super) value_span: Span,
    /// Written as `//net/..`: meant as a comment.
    pub(super) slashes: bool,
}

impl Line {
    pub(super) fn parse(text: &str) -> Line {
        let trimmed = text.trim();
        let indent = text.chars().take_while(|c| c.is_whitespace()).count();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            return Line::Nothing;
        }
        let slashes = trimmed.starts_with("//");
        let whole = Span { column: indent + 1, length: trimmed.chars().count() };
        let Some((left, right)) = trimmed.split_once('=') else {
            let length = if slashes { 2 } else { whole.length };
            return Line::Garbage { slashes, span: Span { length, ..whole } };
        };
        // A leading `-` tells sysctl to go on when the key cannot be set.
        let key = left.trim_end().trim_start_matches('-');
        let name = key.trim_start_matches('/');
        let words = name.contains(char::is_whitespace) || name.is_empty() || !name.is_ascii();
        if words {
            let length = if slashes { 2 } else { whole.length };
            return Line::Garbage { slashes, span: Span { length, ..whole } };
        }
        // Whichever separator comes first is the separator; the other one is part of names.
        let slashed = name.find('/').is_some_and(|s| name.find('.').is_none_or(|dot| s < dot));
        let key = if slashed { name.replace('/', ".") } else { name.to_owned() };
        let value = right.trim();
        let before =
            left.chars().count() + 1 + right.chars().take_while(|c| c.is_whitespace()).count();
        Line::Setting(Setting {
            key,
            value: value.to_owned(),
            key_span: Span { column: indent + 1, length: left.trim_end().chars().count() },
            value_span: Span { column: indent + before + 1, length: value.chars().count().max(1) },
            slashes,
        })
    }
}

/// Where a setting stands.
#[derive(Debug, Clone, Copy)]
struct Place<'s> {
    source: usize,
    line: usize,
    setting: &'s Setting,
}

/// Looks at the files in the order in which they are applied.
///
/// `exists` says whether this kernel has a key: nothing when it cannot be told (a key of another
/// namespace, or another host's file).
pub fn lint(sources: &[Source<'_>], exists: &dyn Fn(&str) -> Option<bool>) -> Vec<LintFinding> {
    let lines: Vec<Vec<Line>> =
        sources.iter().map(|source| source.text.lines().map(Line::parse).collect()).collect();
    let mut findings = Vec::new();
    let mut places = Vec::new();
    for (source, lines) in lines.iter().enumerate() {
        for (index, line) in lines.iter().enumerate() {
            let line_number = index + 1;
            match line {
                Line::Nothing => {}
                Line::Garbage { slashes, span } => {
                    findings.push(garbage(source, line_number, *slashes, *span));
                }
                Line::Setting(setting) => {
                    places.push(Place { source, line: line_number, setting });
                }
            }
        }
    }
    let last = last_words(&places);
    for place in &places {
        let mut report = Reporter { place, findings: &mut findings };
        one(&mut report, exists);
        overridden(&mut report, sources, &last);
    }
    together(&last, &mut findings);
    findings.sort_by_key(|f| (f.source, f.line, f.span.column, f.level));
    findings
}

/// The line that has the last word on each key.
fn last_words<'p, 's>(places: &'p [Place<'s>]) -> BTreeMap<&'p str, &'p Place<'s>> {
    places.iter().map(|place| (place.setting.key.as_str(), place)).collect()
}

struct Reporter<'r, 's> {
    place: &'r Place<'s>,
    findings: &'r mut Vec<LintFinding>,
}

impl Reporter<'_, '_> {
    fn key(
        &mut self,
        level: Level,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(self.place.setting.key_span, level, code, message.into(), help.into());
    }

    fn value(
        &mut self,
        level: Level,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(self.place.setting.value_span, level, code, message.into(), help.into());
    }

    fn push(&mut self, span: Span, level: Level, code: Code, message: String, help: String) {
        let Place { source, line, .. } = *self.place;
        self.findings.push(LintFinding { source, line, span, level, code, message, help });
    }
}

fn garbage(source: usize, line: usize, slashes: bool, span: Span) -> LintFinding {
    let (code, message, help) = if slashes {
        (
            Code::NotAComment,
            "`//` does not begin a comment; `sysctl -p` complains about this line and exits 1",
            "comments begin with `#` or `;`",
        )
    } else {
        (
            Code::NotASetting,
            "neither a comment nor `key = value`; `sysctl -p` complains and exits 1",
            "write `key = value`, or begin the line with `#`",
        )
    };
    LintFinding {
        source,
        line,
        span,
        level: Level::Error,
        code,
        message: message.to_owned(),
        help: help.to_owned(),
    }
}

/// What can be said of a line by itself.
fn one(report: &mut Reporter<'_, '_>, exists: &dyn Fn(&str) -> Option<bool>) {
    let Setting { key, value, slashes, .. } = report.place.setting;
    if *slashes {
        report.key(
            Level::Error,
            Code::AppliedComment,
            format!("this is no comment: `{key} = {value}` is applied"),
            "begin the line with `#` if it is meant as a comment",
        );
    }
    if let Some(gone) = keys::removed(key) {
        report.key(
            Level::Error,
            Code::RemovedKey,
            format!("`{key}` was removed in Linux {}", gone.since),
            gone.instead,
        );
        return;
    }
    let Some(known) = keys::known(key) else {
        if exists(key) == Some(false) {
            report.key(
                Level::Warning,
                Code::UnknownKey,
                format!("this kernel has no `{key}`"),
                "check the spelling, and whether its module is loaded",
            );
        }
        return;
    };
    let before = report.findings.len();
    match known.shape {
        Shape::Number(low, high) => number(report, value, low, high),
        Shape::Range => range(report, value),
        Shape::Ports => {
            if let Err(error) = value.parse::<PortSet>() {
                report.value(Level::Error, Code::OutOfRange, error.to_string(), "");
            }
        }
    }
    if report.findings.len() > before {
        return;
    }
    let same = value.split_whitespace().eq(known.default.split_whitespace());
    if same && !known.default.is_empty() {
        let misread = known.misread.map(|text| format!("; {text}")).unwrap_or_default();
        report.value(
            Level::Note,
            Code::DefaultAlready,
            format!("this is the default already{misread}"),
            "the line can go",
        );
    } else if let Some(misread) = known.misread {
        report.key(Level::Warning, Code::NotWhatPeopleThink, misread, "");
    }
    special(report);
}

/// Values that are legal and yet deserve a word.
fn special(report: &mut Reporter<'_, '_>) {
    let Setting { key, value, .. } = report.place.setting;
    match (key.as_str(), value.as_str()) {
        ("net.ipv4.tcp_tw_reuse", "1") => report.key(
            Level::Note,
            Code::Useful,
            "this helps: outgoing connections may take a TIME_WAIT of the same four-tuple over \
             after a second",
            "needs timestamps at both ends; does nothing for listeners and for ports bound \
             explicitly",
        ),
        ("net.ipv4.tcp_tw_reuse", "0") => report.value(
            Level::Warning,
            Code::Harmful,
            "this switches off the reuse that the default (2) allows on loopback",
            "use 1, or leave the default",
        ),
        ("net.ipv4.tcp_timestamps", "0") => report.value(
            Level::Error,
            Code::Harmful,
            "without timestamps no TIME_WAIT can be reused, and fast connections lose the \
             protection against old packets",
            "leave net.ipv4.tcp_timestamps at 1",
        ),
        ("net.ipv4.tcp_sack" | "net.ipv4.tcp_window_scaling", "0") => report.value(
            Level::Warning,
            Code::Harmful,
            "this slows down every connection that loses a packet or has a long way to go",
            "leave it at 1",
        ),
        ("net.ipv4.tcp_abort_on_overflow", "1") => report.value(
            Level::Warning,
            Code::Harmful,
            "clients get a reset in every short burst that they would have survived by waiting",
            "leave it at 0",
        ),
        _ => {}
    }
}

fn number(report: &mut Reporter<'_, '_>, value: &str, low: i64, high: i64) {
    match value.parse::<i64>() {
        Ok(n) if (low..=high).contains(&n) => {}
        Ok(n) => report.value(
            Level::Error,
            Code::OutOfRange,
            format!("the kernel refuses {n}"),
            format!("a number from {low} to {high}"),
        ),
        Err(_) => report.value(
            Level::Error,
            Code::OutOfRange,
            format!("`{value}` is no number"),
            format!("a number from {low} to {high}"),
        ),
    }
}

/// The range a value means.
pub(super) fn parse_range(value: &str) -> Option<PortRange> {
    let mut words = value.split_whitespace().map(str::parse::<u16>);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(low)), Some(Ok(high)), None) => Some(PortRange { low, high }),
        _ => None,
    }
}

fn range(report: &mut Reporter<'_, '_>, value: &str) {
    if value.parse::<u16>().is_ok() {
        report.value(
            Level::Error,
            Code::NoEffect,
            "one number alone is taken without an error and changes nothing",
            "two ports with a space between: `10240 65535`",
        );
        return;
    }
    let Some(range) = parse_range(value) else {
        report.value(
            Level::Error,
            Code::OutOfRange,
            format!("the kernel refuses `{value}`"),
            "two ports with a space between: `10240 65535`",
        );
        return;
    };
    if range.is_empty() {
        report.value(
            Level::Error,
            Code::OutOfRange,
            "the kernel refuses a reversed range",
            format!("{} {}", range.high, range.low),
        );
    } else if range.low < 1024 {
        report.value(
            Level::Error,
            Code::OutOfRange,
            "the kernel refuses a range that begins below net.ipv4.ip_unprivileged_port_start \
             (1024 unless changed)",
            "begin at 1024 or above, better at 10240",
        );
    } else if range.len() % 2 == 1 {
        report.value(
            Level::Note,
            Code::NoEffect,
            format!("of an odd number of ports ({}) one is used only by chance", range.len()),
            format!("an even number: `{} {}`", range.low, range.high.saturating_sub(1)),
        );
    }
}

fn overridden(
    report: &mut Reporter<'_, '_>,
    sources: &[Source<'_>],
    last: &BTreeMap<&str, &Place<'_>>,
) {
    let place = *report.place;
    let Some(winner) = last.get(place.setting.key.as_str()) else { return };
    if (winner.source, winner.line) == (place.source, place.line) {
        return;
    }
    let file = sources.get(winner.source).map_or("", |source| source.name);
    let same = winner.setting.value == place.setting.value;
    let (level, what) =
        if same { (Level::Note, "is said again") } else { (Level::Warning, "has the last word") };
    report.key(
        level,
        Code::Overridden,
        format!("{file}:{} {what}: `{}`", winner.line, winner.setting.value),
        "keep one of the two",
    );
}

/// What only several lines show: the ones that have the last word.
fn together(last: &BTreeMap<&str, &Place<'_>>, findings: &mut Vec<LintFinding>) {
    let value = |key: &str| last.get(key).map(|place| place.setting.value.as_str());
    if let Some(place) = last.get("net.ipv4.ip_local_port_range")
        && let Some(range) = parse_range(&place.setting.value)
    {
        let reserved = value("net.ipv4.ip_local_reserved_ports")
            .and_then(|text| text.parse::<PortSet>().ok())
            .unwrap_or_default();
        let mut exposed = PortSet::of(range);
        exposed.intersect_with(&keys::SERVICE_PORTS.parse().unwrap_or_default());
        exposed.subtract(&reserved);
        let kernel_default = PortRange { low: 32_768, high: 60_999 };
        if !exposed.is_empty() && range.low < kernel_default.low {
            let names: Vec<String> = exposed.iter().take(4).map(|port| port.to_string()).collect();
            let mut report = Reporter { place, findings };
            report.value(
                Level::Warning,
                Code::TakesServicePorts,
                format!(
                    "{} ports, and {} of well-known services among them ({}, ..): a service that \
                     starts while an outgoing connection has its port cannot start",
                    range.len(),
                    exposed.len(),
                    names.join(", ")
                ),
                "reserve them in net.ipv4.ip_local_reserved_ports, or begin at 10240; `keepgate \
                 tune plan` does both for this host",
            );
        }
    }
    if value("net.ipv4.tcp_timestamps") == Some("0")
        && value("net.ipv4.tcp_tw_reuse") == Some("1")
        && let Some(place) = last.get("net.ipv4.tcp_tw_reuse")
    {
        let mut report = Reporter { place, findings };
        report.key(
            Level::Error,
            Code::DangerousTogether,
            "reuse needs timestamps, and another line switches them off: it does nothing",
            "leave net.ipv4.tcp_timestamps at 1",
        );
    }
}
