//! The report as a table for a terminal or a document.

use super::LabReport;

/// Columns: heading and the cell of an arm.
pub(super) type Column = (&'static str, fn(&super::Summary) -> String);

pub(super) const COLUMNS: &[Column] = &[
    ("users ok", |s| percent(s.users_ok_under_crawl)),
    ("wrong 403", |s| s.wrong_403.to_string()),
    ("EADDRNOTAVAIL", |s| s.eaddrnotavail.to_string()),
    ("opened", |s| s.opened.to_string()),
    ("TIME_WAIT max", |s| s.time_wait_max.to_string()),
    ("users p99", |s| milliseconds(s.users_p99_us)),
    ("crawler ok", |s| percent(s.crawler_ok)),
    ("ports out at", |s| s.exhausted_at_s.map_or("never".to_owned(), |t| format!("{t} s"))),
    ("doctor said", |s| s.forecast_exhausted_at_s.map_or("-".to_owned(), |t| format!("{t:.0} s"))),
];

/// Renders it, aligned; `users ok` counts from the crawler's arrival.
pub fn render(report: &LabReport) -> String {
    let mut rows = vec![
        std::iter::once("arm")
            .chain(COLUMNS.iter().map(|(heading, _)| *heading))
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    ];
    for arm in &report.arms {
        let cells = COLUMNS.iter().map(|(_, cell)| cell(&arm.summary));
        rows.push(std::iter::once(arm.arm.name().to_owned()).chain(cells).collect());
    }
    let widths: Vec<usize> = (0..=COLUMNS.len())
        .map(|at| rows.iter().filter_map(|row| Some(row.get(at)?.len())).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Names to the left, numbers to the right.
            if at == 0 {
                text.push_str(&format!("{cell:<width$}"));
            } else {
                text.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.push('\n');
    }
    text
}

/// A share between 0 and 1 for people, rounded down.
pub fn percent(ratio: f64) -> String {
    // 99.96 % must not read as 100 %.
    let percent = (ratio * 1000.0).floor() / 10.0;
    format!("{percent:.1} %")
}

pub(super) fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}
