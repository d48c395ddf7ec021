//! What output looks like: colors on a terminal only (and none when `NO_COLOR` is set), plain
//! columns, no borders. Programs read `--json` instead.

use std::io::{self, IsTerminal as _, Write as _};

/// Colors for one stream, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// For stdout.
    pub(crate) fn stdout() -> Paint {
        Paint { on: io::stdout().is_terminal() && wanted() }
    }

    /// For stderr.
    pub(crate) fn stderr() -> Paint {
        Paint { on: io::stderr().is_terminal() && wanted() }
    }

    /// No colors.
    #[cfg(test)]
    pub(crate) fn plain() -> Paint {
        Paint { on: false }
    }

    /// Whether there are colors at all.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    /// Something went well, was allowed, was created.
    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Something failed, was denied, was deleted.
    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// Something changed or asks for attention.
    pub(crate) fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// A heading.
    pub(crate) fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// A remark.
    pub(crate) fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// A line of a text diff, by its sign.
    pub(crate) fn diff_line(self, line: &str) -> String {
        match line.chars().next() {
            Some('+') => self.good(line),
            Some('-') => self.bad(line),
            _ => self.faint(line),
        }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn wanted() -> bool {
    // https://no-color.org: set and not empty means no colors.
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Rows under a heading, each column as wide as its widest cell, two spaces between.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    pub(crate) fn new(heading: &[&str]) -> Table {
        Table { rows: vec![heading.iter().map(|h| h.to_uppercase()).collect()] }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, one line a row, the heading first.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            let line = line.trim_end();
            text.push_str(&if number == 0 { paint.faint(line) } else { line.to_owned() });
            text.push('\n');
        }
        text
    }
}

pub(crate) use keepgate_observe::date;

/// Who brought an item, as tables say it.
pub(crate) fn brought(brought: keepgate_api::Brought) -> &'static str {
    match brought {
        keepgate_api::Brought::Files => "files",
        keepgate_api::Brought::Command => "command",
        keepgate_api::Brought::Import => "import",
    }
}

/// How long ago, in one unit: `4 s`, `3 min`, `2 h`, `5 d`.
pub(crate) fn span(ms: u64) -> String {
    match ms / 1_000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// A count with commas: `41,000`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes to stdout. A reader that has gone away (`keepgate .. | head`) is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Writes a line to stderr. Nobody may read it: that changes no outcome.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a value as indented JSON to stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    // By way of a value, whose members are in order.
    print(&format!("{:#}\n", serde_json::to_value(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_spans_and_counts_are_read_by_people() {
        for (unix_s, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_164_800, "2024-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (16_725_225_600, "2500-01-01 00:00 UTC"),
        ] {
            assert_eq!(date(unix_s), text, "{unix_s}");
        }
        assert!(!date(u64::MAX).is_empty());
        let spans = [0, 119_999, 120_000, 7_200_000, 200_000_000].map(span);
        assert_eq!(spans, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["id", "note"]);
        table.row(["a".into(), "first".into()]);
        table.row(["longer".into(), String::new()]);
        let plain = table.render(Paint { on: false });
        assert_eq!(plain, "ID      NOTE\na       first\nlonger\n");
        assert!(table.render(Paint { on: true }).starts_with("\x1b[2mID"));
    }
}
