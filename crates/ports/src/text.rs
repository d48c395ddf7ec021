//! A [`Report`] for a tired person: the verdict first, then the worst bucket with who, why, what
//! now and what then, then the rest, then what could not be seen.
//!
//! Pure: a report in, text out. Color is only decoration: everything is said in words as well.

use std::fmt::Write;

use crate::explain::Explanation;
use crate::report::{BucketReport, Cause, Finding, RemedyKind, Report, Severity, Verdict};
use crate::snapshot::{Confidence, Unknown};

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Whether to use ANSI colors.
    pub color: bool,
    /// Columns to wrap at.
    pub width: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self { color: false, width: 80 }
    }
}

/// Narrowest and widest output, in columns.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=200;

/// Columns to wrap at: the terminal's, within bounds; 80 where standard output is none.
pub fn width_of(terminal: bool) -> usize {
    let columns = if terminal { crate::sys::terminal_columns() } else { None };
    columns.map_or(Style::default().width, |c| c.clamp(*WIDTHS.start(), *WIDTHS.end()))
}

/// Width of the labels in a block, their indentation included.
const LABEL: usize = 11;
const BAR: usize = 30;

#[derive(Clone, Copy)]
enum Tone {
    Bad,
    Warn,
    Good,
    Strong,
    Dim,
}

impl Style {
    fn paint(self, tone: Tone, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Bad => "1;31",
            Tone::Warn => "1;33",
            Tone::Good => "1;32",
            Tone::Strong => "1",
            Tone::Dim => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// The words and the tone of a verdict.
pub fn verdict_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Exhausted => "EXHAUSTED",
        Verdict::AtRisk => "AT RISK",
        Verdict::Healthy => "HEALTHY",
        Verdict::NotPorts => "NOT PORTS",
        Verdict::Unknown => "CANNOT TELL",
    }
}

fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Exhausted => Tone::Bad,
        Verdict::AtRisk | Verdict::NotPorts | Verdict::Unknown => Tone::Warn,
        Verdict::Healthy => Tone::Good,
    }
}

/// Why a cause uses up ports, in one sentence.
pub fn why(cause: Cause) -> &'static str {
    match cause {
        Cause::TimeWaitChurn => {
            "Connections are opened and closed too fast: the first side to close keeps the port \
             in TIME_WAIT for 60 s, and no setting shortens that."
        }
        Cause::EstablishedLeak => "Connections are opened and kept open.",
        Cause::CloseWaitLeak => {
            "The other side has closed these connections, and the program has not: it never \
             closes them."
        }
        Cause::FinWait2 => {
            "This side has closed these connections, and the other side has not finished closing \
             them."
        }
        Cause::SynSent => "Connects are under way and nobody answers.",
        Cause::NarrowRange => "The range of ports is small; normal use is enough to fill it.",
        Cause::ReservedPorts => "Reserved ports are never chosen, and they take up the range.",
        Cause::ListenersInRange => {
            "Services listen on ports of the range; each costs every destination one port."
        }
        Cause::ExplicitBind => {
            "A program binds a port before it connects (or no longer listens, while its connections \
             live on); such a port is lost to every destination."
        }
        Cause::NonlocalBind => "The program binds to an address that this host does not have.",
        Cause::Ipv6Unavailable => {
            "Without an IPv6 address there is nothing an IPv6 connection could come from. The \
             error has the same words as exhaustion."
        }
        Cause::ConntrackFull => "The firewall tracks each connection and has no room for another.",
        Cause::SnatFull => {
            "This host translates the source address of outgoing packets, and every port it may \
             translate to is taken: packets of new connections are dropped."
        }
        Cause::FdLimit => "Every socket is a file descriptor, and there are none left.",
        Cause::None => "",
    }
}

/// The whole report.
pub fn render(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let label = verdict_words(report.verdict);
    let head = style.paint(verdict_tone(report.verdict), label);
    let indent = label.len() + 2;
    let lines = wrap(&report.headline, style.width.saturating_sub(indent));
    for (index, line) in lines.iter().enumerate() {
        let lead = if index == 0 { format!("{head}  ") } else { " ".repeat(indent) };
        let _ = writeln!(out, "{lead}{line}");
    }
    let main = report
        .findings
        .iter()
        .find(|f| f.severity <= Severity::Warning)
        .filter(|_| !matches!(report.verdict, Verdict::Healthy | Verdict::Unknown));
    let shown = main.and_then(|f| f.bucket);
    if let Some(bucket) = shown.and_then(|index| report.buckets.get(index)) {
        out.push('\n');
        bucket_block(&mut out, bucket, style);
    } else if main.is_some() {
        out.push('\n');
    }
    if report.verdict == Verdict::NotPorts {
        let fullest = report.buckets.iter().min_by_key(|b| b.remaining.min);
        let fine = match fullest {
            Some(b) => format!("fine: {} of {} left toward {}", b.remaining, b.usable, b.dst),
            None => format!("fine: {} to choose from", report.range.usable),
        };
        field(&mut out, "ports", &fine, style);
    }
    if let Some(main) = main {
        advice(&mut out, main, style);
    }
    let mut said: Vec<&str> = main.iter().flat_map(|f| commands(f)).collect();
    also(&mut out, report, main, &mut said, style);
    others(&mut out, report, shown, style);
    not_seen(&mut out, report, style);
    let sockets = report.sockets;
    let parts = [
        report.netns.clone(),
        format!("range {}-{}, {} usable", report.range.low, report.range.high, report.range.usable),
        format!(
            "{} sockets: {} time_wait, {} established",
            sockets.total, sockets.time_wait, sockets.established
        ),
    ];
    out.push('\n');
    let mut line = String::new();
    for part in parts {
        if !line.is_empty() && line.chars().count() + 2 + part.chars().count() > style.width {
            let _ = writeln!(out, "{}", style.paint(Tone::Dim, &line));
            line.clear();
        }
        if !line.is_empty() {
            line.push_str("  ");
        }
        line.push_str(&part);
    }
    let _ = writeln!(out, "{}", style.paint(Tone::Dim, &line));
    if let Some(probe) = report.probe {
        let line = format!(
            "{} ports probed for explicit binding in {:.1} ms: {} are bound",
            probe.ports, probe.ms, probe.bound
        );
        for line in wrap(&line, style.width) {
            let _ = writeln!(out, "{}", style.paint(Tone::Dim, &line));
        }
    }
    out
}

/// One line for each look of `--watch`.
pub fn line(report: &Report, style: Style) -> String {
    let label = verdict_words(report.verdict);
    format!("{}  {}", style.paint(verdict_tone(report.verdict), label), report.headline)
}

/// What an error message means.
pub fn render_explanation(explanation: &Explanation, style: Style) -> String {
    let mut out = String::new();
    let who = match (&explanation.runtime, &explanation.address) {
        (Some(runtime), Some(address)) => format!("{runtime}, about {address}"),
        (Some(runtime), None) => (*runtime).to_owned(),
        (None, Some(address)) => format!("about {address}"),
        (None, None) => "unknown program".to_owned(),
    };
    field(&mut out, "from", &who, style);
    field(&mut out, "says", &explanation.says, style);
    field(&mut out, "means", &explanation.means, style);
    for (index, check) in explanation.checks.iter().enumerate() {
        field(&mut out, if index == 0 { "decides" } else { "" }, check, style);
    }
    out
}

/// One bucket of a report with all that was found about it.
pub fn render_bucket(report: &Report, index: usize, style: Style) -> String {
    let mut out = String::new();
    let Some(bucket) = report.buckets.get(index) else { return out };
    bucket_block(&mut out, bucket, style);
    // What concerns every destination concerns this one.
    let own = report.findings.iter().filter(|f| f.bucket == Some(index));
    let all = report.findings.iter().filter(|f| concerns_all(f));
    let findings: Vec<&Finding> = own.chain(all).collect();
    if findings.is_empty() {
        out.push('\n');
        field(&mut out, "finding", "nothing to report about this destination", style);
    }
    let mut said: Vec<&str> = Vec::new();
    for (number, finding) in findings.iter().enumerate() {
        out.push('\n');
        field(&mut out, finding.severity.name(), &finding.evidence, style);
        if number == 0 {
            advice(&mut out, finding, style);
            said.extend(commands(finding));
            continue;
        }
        for command in commands(finding).filter(|command| !said.contains(command)) {
            command_line(&mut out, "", command, style);
        }
    }
    out
}

/// Whether a finding is about the ports of every destination, and not only worth knowing.
pub fn concerns_all(finding: &Finding) -> bool {
    finding.bucket.is_none()
        && finding.severity <= Severity::Warning
        && finding.cause.is_about_ports()
}

fn bucket_block(out: &mut String, bucket: &BucketReport, style: Style) {
    let name = bucket_name(bucket);
    for line in wrap(&name, style.width) {
        let _ = writeln!(out, "{}", style.paint(Tone::Strong, &line));
    }
    let left = match bucket.remaining.max {
        0 => "none left".to_owned(),
        _ => format!("{} left", bucket.remaining),
    };
    let bar = bar(bucket.used, bucket.usable, BAR);
    let ports = match bucket.usable {
        0 => "no port exists for it: all are bound, reserved or listened on".to_owned(),
        usable => format!("[{bar}] {} of {usable} used, {left}", bucket.used),
    };
    field(out, "ports", &ports, style);
    if let (Some(opens), Some(sustainable)) = (bucket.opens_per_s, bucket.sustainable_per_s) {
        let rate = format!("{opens:.0} opened a second; {sustainable:.0} can be sustained");
        field(out, "rate", &rate, style);
    }
    let when = match bucket.exhausted_in_s {
        _ if bucket.remaining.max == 0 => "now".to_owned(),
        Some(0) => "now".to_owned(),
        Some(seconds) => format!("in {}", duration(seconds)),
        None if bucket.opens_per_s.is_some() => "not at this rate".to_owned(),
        None => "unknown after a single look".to_owned(),
    };
    field(out, "used up", &when, style);
    if !bucket.states.is_empty() {
        let mut states: Vec<_> = bucket.states.iter().collect();
        states.sort_by_key(|(state, n)| (std::cmp::Reverse(**n), **state));
        let states: Vec<String> =
            states.iter().map(|(state, n)| format!("{} {n}", state.name())).collect();
        field(out, "states", &states.join(", "), style);
    }
    field(out, "who", &owners(bucket), style);
}

fn owners(bucket: &BucketReport) -> String {
    let names: Vec<String> = bucket
        .owners
        .iter()
        .take(3)
        .map(|o| match o.confidence {
            Confidence::Seen if o.sockets == 1 => {
                format!("`{}` (pid {}, 1 socket)", o.command, o.pid)
            }
            Confidence::Seen => format!("`{}` (pid {}, {} sockets)", o.command, o.pid, o.sockets),
            Confidence::Likely => format!("likely `{}` (pid {})", o.command, o.pid),
        })
        .collect();
    if names.is_empty() {
        "no process with a socket there was seen".to_owned()
    } else {
        names.join(", ")
    }
}

fn advice(out: &mut String, finding: &Finding, style: Style) {
    let why = why(finding.cause);
    if !why.is_empty() {
        field(out, "why", why, style);
    }
    for (kind, label) in [(RemedyKind::Now, "now"), (RemedyKind::Then, "then")] {
        let mut label = label;
        for remedy in finding.remedies.iter().filter(|r| r.kind == kind) {
            if let Some(command) = &remedy.command {
                command_line(out, label, command, style);
                field(out, "", &format!("({})", remedy.text), style);
            } else {
                field(out, label, &remedy.text, style);
            }
            label = "";
        }
    }
}

fn commands(finding: &Finding) -> impl Iterator<Item = &str> {
    finding.remedies.iter().filter_map(|r| r.command.as_deref())
}

fn also<'a>(
    out: &mut String,
    report: &'a Report,
    main: Option<&Finding>,
    said: &mut Vec<&'a str>,
    style: Style,
) {
    let rest: Vec<&Finding> =
        report.findings.iter().filter(|f| !main.is_some_and(|m| std::ptr::eq(m, *f))).collect();
    if rest.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", style.paint(Tone::Strong, "also"));
    for finding in rest {
        field(out, finding.severity.name(), &finding.evidence, style);
        for command in commands(finding) {
            if !said.contains(&command) {
                said.push(command);
                command_line(out, "", command, style);
            }
        }
    }
}

fn others(out: &mut String, report: &Report, shown: Option<usize>, style: Style) {
    let rest: Vec<&BucketReport> = report
        .buckets
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != shown)
        .map(|(_, bucket)| bucket)
        .collect();
    if rest.is_empty() {
        return;
    }
    let title = if shown.is_some() { "other destinations" } else { "destinations" };
    let _ = writeln!(out, "\n{}", style.paint(Tone::Strong, title));
    let width = rest.iter().map(|b| bucket_name(b).len()).max().unwrap_or(0);
    for bucket in rest {
        let rate = bucket.opens_per_s.map_or_else(String::new, |r| format!("  {r:.0}/s"));
        let name = bucket_name(bucket);
        let numbers = format!(
            "[{}] {} of {} used{rate}",
            bar(bucket.used, bucket.usable, 10),
            bucket.used,
            bucket.usable,
        );
        if 4 + width + numbers.chars().count() <= style.width {
            let _ = writeln!(out, "  {name:<width$}  {numbers}");
            continue;
        }
        for line in wrap(&name, style.width.saturating_sub(2)) {
            let _ = writeln!(out, "  {line}");
        }
        let _ = writeln!(out, "    {numbers}");
    }
}

fn not_seen(out: &mut String, report: &Report, style: Style) {
    if report.unknown.is_empty() {
        return;
    }
    let title = if report.verdict == Verdict::Unknown { "cannot tell" } else { "not seen" };
    let _ = writeln!(out, "\n{}", style.paint(Tone::Strong, title));
    for unknown in &report.unknown {
        hanging(out, "  ", &format!("{}: {}", unknown.what, unknown.why), style);
    }
}

/// What could not be seen of several namespaces.
pub fn render_unseen(unknown: &[Unknown], style: Style) -> String {
    let mut out = String::new();
    for unknown in unknown {
        hanging(&mut out, "", &format!("not seen: {}: {}", unknown.what, unknown.why), style);
    }
    out
}

/// A paragraph whose first line begins with `lead`, the others two columns further in.
fn hanging(out: &mut String, lead: &str, text: &str, style: Style) {
    let lines = wrap(text, style.width.saturating_sub(lead.len() + 2));
    for (index, line) in lines.iter().enumerate() {
        let _ = writeln!(out, "{lead}{}{line}", if index == 0 { "" } else { "  " });
    }
}

fn bucket_name(bucket: &BucketReport) -> String {
    let dst = std::net::SocketAddr::new(bucket.dst, bucket.dport);
    let on = bucket.device.as_ref().map_or_else(String::new, |device| format!(" on {device}"));
    format!("{} -> {dst}{on}", bucket.src)
}

/// `###...` of a given width; never empty when something is used, never full when something is
/// left.
pub fn bar(used: u32, usable: u32, width: usize) -> String {
    let part = if usable == 0 { 1.0 } else { f64::from(used) / f64::from(usable) };
    let mut filled = ((width as f64) * part).round() as usize;
    if used > 0 && filled == 0 {
        filled = 1;
    }
    if used < usable && filled >= width {
        filled = width.saturating_sub(1);
    }
    let filled = filled.min(width);
    format!("{}{}", "#".repeat(filled), ".".repeat(width - filled))
}

/// `90 s`, `12 min`, `5 h`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

fn field(out: &mut String, label: &str, text: &str, style: Style) {
    for (index, line) in wrap(text, style.width.saturating_sub(LABEL)).iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        let label = format!("  {label:<width$}", width = LABEL - 2);
        let _ = writeln!(out, "{}{line}", style.paint(Tone::Dim, &label));
    }
}

/// A command, which is there to be copied: broken only at spaces outside of quotes, with the
/// backslash that makes the shell read the next line too.
fn command_line(out: &mut String, label: &str, command: &str, style: Style) {
    let lead = style.paint(Tone::Dim, &format!("  {label:<width$}", width = LABEL - 2));
    let lines = break_command(command, style.width.saturating_sub(LABEL));
    for (index, line) in lines.iter().enumerate() {
        // A word that is too long for the indentation gets less of it, rather than being cut.
        let room = style.width.saturating_sub(line.chars().count() + 2);
        let lead = if index == 0 { lead.clone() } else { " ".repeat(room.min(LABEL + 2)) };
        let more = if index + 1 < lines.len() { " \\" } else { "" };
        let _ = writeln!(out, "{lead}{}{more}", style.paint(Tone::Strong, line));
    }
}

fn break_command(command: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    let mut quote = None;
    for c in command.chars() {
        match (c, quote) {
            (' ', None) => {
                words.push(String::new());
                continue;
            }
            ('\'' | '"', None) => quote = Some(c),
            (_, Some(open)) if open == c => quote = None,
            _ => {}
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        // Room for the indentation of later lines and for the backslash.
        let room = width.saturating_sub(if lines.len() > 1 { 4 } else { 2 });
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    // Without the backslash the last word may just fit.
    if command.chars().count() <= width { vec![command.to_owned()] } else { lines }
}

/// Breaks a text at spaces; a word longer than the width stays whole.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}
