//! Lint findings as a compiler would print them.

use std::fmt::Write as _;

use super::lint::{Level, LintFinding, Source};

/// Renders all findings and a closing line; `color` for a terminal.
pub fn render(sources: &[Source<'_>], findings: &[LintFinding], color: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        one(&mut text, sources, finding, color);
    }
    let count = |level: Level| findings.iter().filter(|f| f.level == level).count();
    let _ = writeln!(
        text,
        "{} and {} in {}",
        plural(count(Level::Error), "error"),
        plural(count(Level::Warning), "warning"),
        plural(sources.len(), "file")
    );
    text
}

fn one(text: &mut String, sources: &[Source<'_>], finding: &LintFinding, color: bool) {
    let Some(source) = sources.get(finding.source) else { return };
    let line = source.text.lines().nth(finding.line - 1).unwrap_or("");
    let number = finding.line.to_string();
    let gutter = " ".repeat(number.len());
    let paint = |code: &str, what: &str| {
        if color { format!("\x1b[{code}m{what}\x1b[0m") } else { what.to_owned() }
    };
    let tone = match finding.level {
        Level::Error => "1;31",
        Level::Warning => "1;33",
        Level::Note => "1;36",
    };
    let bar = paint("1;34", "|");
    let title = format!("{}[{}]", finding.level.name(), finding.code.name());
    let _ = writeln!(text, "{}: {}", paint(tone, &title), finding.message);
    let _ = writeln!(
        text,
        "{gutter}{} {}:{}:{}",
        paint("1;34", "-->"),
        source.name,
        finding.line,
        finding.span.column
    );
    let _ = writeln!(text, "{gutter} {bar}");
    let _ = writeln!(text, "{} {bar} {}", paint("1;34", &number), line.replace('\t', " "));
    let before: usize = line.chars().take(finding.span.column - 1).map(width).sum();
    let marked = line.chars().skip(finding.span.column - 1).take(finding.span.length);
    let marks = "^".repeat(marked.map(width).sum::<usize>().max(1));
    let _ = writeln!(text, "{gutter} {bar} {}{}", " ".repeat(before), paint(tone, &marks));
    if !finding.help.is_empty() {
        let _ = writeln!(text, "{gutter} {} help: {}", paint("1;34", "="), finding.help);
    }
    text.push('\n');
}

/// Columns a character takes on a terminal: two for CJK and full-width forms.
fn width(c: char) -> usize {
    match u32::from(c) {
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
