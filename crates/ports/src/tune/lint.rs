//! Reads sysctl files as `sysctl -p` does and says what each line really does.
//!
//! Pure: the kernel is asked through a function that the caller gives. Lines and columns count
//! from 1; columns and lengths are in characters.

use std::collections::BTreeMap;

use serde::Serialize;

use super::keys::{self, Shape};
use super::outcome::{Exists, SourceLine, is_missing, outcome, parse, places, sets};
use super::parse::{Line, Setting, Span, is_blank, visible, words};
use super::plan::RESERVED_KEY as RESERVED;
use super::values::{self, Reading, octal, parse_range, reading};
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
    /// The kernel takes it for another value than it looks.
    ReadsOtherwise,
    /// A list replaces an earlier one instead of adding to it.
    ListReplaced,
    /// Hardly any port is left for outgoing connections.
    TooFewPorts,
    /// Only the first part of the value arrives.
    CutOff,
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
            Code::ReadsOtherwise => "reads-otherwise",
            Code::ListReplaced => "list-replaced",
            Code::TooFewPorts => "too-few-ports",
            Code::CutOff => "cut-off",
            Code::Useful => "useful",
        }
    }
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

/// Fewer ports than this are an outage on any host: 17 new connections a second to a destination.
pub const FEWEST_PORTS: u32 = 1024;

/// Looks at the files in the order in which they are applied.
///
/// `exists` says whether this kernel has a key: nothing when it cannot be told (a key of another
/// namespace, or another host's file).
pub fn lint(sources: &[Source<'_>], exists: Exists<'_>) -> Vec<LintFinding> {
    let texts: Vec<&str> = sources.iter().map(|source| source.text).collect();
    let lines = parse(&texts);
    let mut findings = Vec::new();
    for (source, lines) in lines.iter().enumerate() {
        for (index, line) in lines.iter().enumerate() {
            if let Line::Garbage { slashes, span } = line {
                let text = texts.get(source).and_then(|text| text.lines().nth(index));
                findings.push(garbage(source, index + 1, *slashes, *span, text.unwrap_or("")));
            }
        }
    }
    let places = places(&lines);
    let refused = outcome(&texts, exists).refused;
    let is_refused = |place: &SourceLine<'_>| refused.contains(&(place.source, place.line));
    // The last line that the kernel takes has the last word on a key.
    let mut last: BTreeMap<&str, &SourceLine<'_>> = BTreeMap::new();
    let mut list: Option<&SourceLine<'_>> = None;
    for place in places.iter().filter(|place| !is_refused(place)) {
        for key in sets(place, &places, &lines) {
            last.insert(key, place);
        }
    }
    for place in &places {
        let mut report = Reporter { place, findings: &mut findings };
        one(&mut report, exists, is_refused(place));
        if !is_refused(place) {
            overridden(&mut report, sources, &last);
            replaced(&mut report, sources, place, &mut list);
        }
    }
    together(&last, &mut findings);
    findings.sort_by_key(|f| (f.source, f.line, f.span.column, f.level));
    findings
}

struct Reporter<'r, 's> {
    place: &'r SourceLine<'s>,
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
        let SourceLine { source, line, .. } = *self.place;
        self.findings.push(LintFinding { source, line, span, level, code, message, help });
    }
}

const NOT_BLANK: &str = "this line has a byte order mark, or a space that `sysctl` does not know (a \
                         no-break space, as in text from the web): `sysctl -p` takes it for a part \
                         of the key";
const NOT_BLANK_HELP: &str = "type it anew; `--fix` does";

fn garbage(source: usize, line: usize, slashes: bool, span: Span, text: &str) -> LintFinding {
    let (code, message, help) = if visible(text) != text {
        (Code::NotASetting, NOT_BLANK, NOT_BLANK_HELP)
    } else if slashes {
        (
            Code::NotAComment,
            "`//` does not begin a comment; `sysctl -p` complains about this line and skips it",
            "comments begin with `#` or `;`",
        )
    } else {
        (
            Code::NotASetting,
            "neither a comment nor `key = value`; `sysctl -p` complains about it and skips it",
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
fn one(report: &mut Reporter<'_, '_>, exists: Exists<'_>, refused: bool) {
    let Setting { key, value, slashes, lenient, .. } = report.place.setting;
    // Written with `-`: whoever wrote it expects that it may fail.
    let bad = if *lenient { Level::Warning } else { Level::Error };
    if *slashes {
        report.key(
            Level::Error,
            Code::AppliedComment,
            format!("this is not a comment: `{key} = {value}` is applied"),
            "begin the line with `#` if it is meant as a comment",
        );
    }
    if let Some(gone) = keys::removed(key) {
        report.key(
            bad,
            Code::RemovedKey,
            format!("`{key}` was removed in Linux {}", gone.since),
            gone.instead,
        );
        return;
    }
    if report.place.setting.is_pattern() {
        if exists(key) == Some(false) {
            let what = format!("no key of this kernel fits `{key}`: the line does nothing");
            report.key(Level::Warning, Code::UnknownKey, what, "check the spelling");
        } else if refused {
            let what = "the kernel refuses this value for one of the keys that fit";
            report.value(bad, Code::OutOfRange, what, "");
        }
        return;
    }
    if visible(key) != *key {
        report.key(bad, Code::UnknownKey, NOT_BLANK, NOT_BLANK_HELP);
        return;
    }
    if is_missing(key, exists) {
        report.key(
            bad,
            Code::UnknownKey,
            format!("this kernel has no `{key}`"),
            "check the spelling, and whether its module is loaded",
        );
        return;
    }
    let Some(known) = keys::known(key) else { return };
    let before = report.findings.len();
    match known.shape {
        Shape::Number(low, high) => number(report, bad, value, low, high),
        Shape::Range => range(report, bad, value),
        Shape::Ports => ports(report, bad, value),
    }
    if report.findings.len() == before && refused {
        // Each of the two keys forbids what the other one has.
        report.value(
            bad,
            Code::OutOfRange,
            "the kernel refuses this value at this place: the range may not begin below \
             net.ipv4.ip_unprivileged_port_start",
            "set them in the other order, or begin the range higher",
        );
    }
    if report.findings.len() > before {
        return;
    }
    let same = values::same(key, value, known.default);
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
    let Reading::Value(read) = reading(key, value) else { return };
    match (key.as_str(), read.as_str()) {
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

fn number(report: &mut Reporter<'_, '_>, bad: Level, value: &str, low: i64, high: i64) {
    let Setting { key, .. } = report.place.setting;
    let Reading::Value(read) = reading(key, value) else {
        let is_number = value.parse::<i64>().is_ok();
        let what = if is_number {
            format!("the kernel refuses {value}")
        } else if visible(value) != *value {
            "the value has a space that `sysctl` does not know (a no-break space, as in web pages)"
                .to_owned()
        } else {
            format!("`{value}` is not a number")
        };
        let (low, high) = keys::sensible(key).unwrap_or((low, high));
        report.value(bad, Code::OutOfRange, what, format!("a number from {low} to {high}"));
        return;
    };
    if let Some(octal) = octal(value) {
        report.value(
            Level::Warning,
            Code::ReadsOtherwise,
            format!("a number that begins with 0 is octal: the kernel reads {octal}"),
            format!("write {octal}, or leave out the 0"),
        );
    } else if let Some((low, high)) = keys::sensible(key)
        && read.parse::<i64>().is_ok_and(|n| !(low..=high).contains(&n))
    {
        report.value(
            Level::Warning,
            Code::ReadsOtherwise,
            format!("the kernel accepts {read}, but gives it no meaning"),
            format!("a number from {low} to {high}"),
        );
    }
}

fn range(report: &mut Reporter<'_, '_>, bad: Level, value: &str) {
    match reading(keys::RANGE, value) {
        Reading::LowAlone(low) => {
            report.value(
                Level::Warning,
                Code::NoEffect,
                format!("one number alone sets at most the first port, {low}; the last one stays"),
                "two ports with a space between: `10240 65535`",
            );
            return;
        }
        Reading::Value(_) => {}
        _ if parse_range(value).is_some() => {
            let range = parse_range(value).unwrap_or(PortRange { low: 0, high: 0 });
            report.value(
                bad,
                Code::OutOfRange,
                "the kernel refuses a reversed range",
                format!("{} {}", range.high, range.low),
            );
            return;
        }
        _ => {
            report.value(
                bad,
                Code::OutOfRange,
                format!("the kernel refuses `{value}`"),
                "two ports with a space between: `10240 65535`",
            );
            return;
        }
    }
    let Some(range) = parse_range(value) else { return };
    if range.low < 1024 {
        report.value(
            bad,
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

fn ports(report: &mut Reporter<'_, '_>, bad: Level, value: &str) {
    if let Some(mut lost) = values::ports(value) {
        let arrives = values::first_piece(value);
        lost.subtract(&values::ports(arrives).unwrap_or_default());
        if !lost.is_empty() {
            report.value(
                bad,
                Code::CutOff,
                format!(
                    "`sysctl` may write only the first {} of {} bytes: {} ports are not reserved then",
                    arrives.len(),
                    value.len(),
                    lost.len()
                ),
                "write ranges such as `33000-33999`, so that the list has less than 4 KiB",
            );
        }
        return;
    }
    let spaced =
        value.contains(is_blank) && values::ports(&words(value).collect::<String>()).is_some();
    let (what, help) = if spaced {
        ("the kernel takes no white space in a list of ports".to_owned(), "leave out the spaces")
    } else {
        let shown: String = value.chars().take(40).collect();
        let what = format!("`{shown}` is not a list of ports such as `8080,9000-9010`");
        (what, "ports and ranges with commas between, and nothing behind them")
    };
    report.value(bad, Code::OutOfRange, what, help);
}

/// A list that replaces an earlier one, and lacks ports of it: a write replaces the whole list.
fn replaced<'p>(
    report: &mut Reporter<'_, '_>,
    sources: &[Source<'_>],
    place: &'p SourceLine<'p>,
    earlier: &mut Option<&'p SourceLine<'p>>,
) {
    let Some(list) = (place.setting.key == RESERVED)
        .then_some(())
        .and_then(|()| values::ports(&place.setting.value))
    else {
        return;
    };
    if let Some(before) = earlier.replace(place)
        && let Some(mut lost) = values::ports(&before.setting.value)
    {
        lost.subtract(&list);
        // An empty list is a way to clear it.
        if !lost.is_empty() && !list.is_empty() {
            let file = sources.get(before.source).map_or("", |source| source.name);
            let shown: String = lost.to_string().chars().take(60).collect();
            report.value(
                Level::Error,
                Code::ListReplaced,
                format!(
                    "this replaces the list at {file}:{} and no longer reserves {shown}",
                    before.line
                ),
                "one list with the ports of both (`--fix` merges them)",
            );
        }
    }
}

fn overridden(
    report: &mut Reporter<'_, '_>,
    sources: &[Source<'_>],
    last: &BTreeMap<&str, &SourceLine<'_>>,
) {
    let place = *report.place;
    // A pattern and a key named in full do not override each other: the name wins by design.
    let Some(winner) = last.get(place.setting.key.as_str()) else { return };
    if (winner.source, winner.line) == (place.source, place.line) {
        return;
    }
    let file = sources.get(winner.source).map_or("", |source| source.name);
    let same = values::same(&place.setting.key, &winner.setting.value, &place.setting.value);
    let (level, what) =
        if same { (Level::Note, "repeats it") } else { (Level::Warning, "overrides it") };
    report.key(
        level,
        Code::Overridden,
        format!("{file}:{} {what}: `{}`", winner.line, winner.setting.value),
        "keep one of the two",
    );
}

/// What only several lines show: the ones that have the last word.
fn together(last: &BTreeMap<&str, &SourceLine<'_>>, findings: &mut Vec<LintFinding>) {
    let value = |key: &str| {
        let place = last.get(key)?;
        match reading(key, &place.setting.value) {
            Reading::Value(value) => Some(value),
            _ => None,
        }
    };
    let reserved = value(RESERVED).and_then(|text| values::ports(&text)).unwrap_or_default();
    let default = PortRange { low: 32_768, high: 60_999 };
    let range = value(keys::RANGE).and_then(|text| parse_range(&text));
    let mut usable = PortSet::of(range.unwrap_or(default));
    usable.subtract(&reserved);
    let guilty = if usable.len() < FEWEST_PORTS {
        // The line that leaves so few: the list, if the range alone would do.
        let wide = range.unwrap_or(default).len() >= FEWEST_PORTS;
        last.get(if wide { RESERVED } else { keys::RANGE })
    } else {
        None
    };
    if let Some(place) = guilty {
        let mut report = Reporter { place, findings };
        report.value(
            Level::Error,
            Code::TooFewPorts,
            format!(
                "{} ports are left for outgoing connections: every destination runs out at once",
                usable.len()
            ),
            "leave at least 1024, better 20000",
        );
    }
    if let Some(place) = last.get(keys::RANGE)
        && let Some(range) = range
    {
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
    if value("net.ipv4.tcp_timestamps").as_deref() == Some("0")
        && value("net.ipv4.tcp_tw_reuse").as_deref() == Some("1")
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
