//! The report as one page: no network, no script, light and dark by the reader's setting.
//!
//! Small multiples: each arm is a row of three charts over the same seconds (what users got,
//! ports left toward the center, what the crawler got) with the same scales in every row, so
//! that rows can be compared by eye.

use std::fmt::Write as _;

use super::table::{COLUMNS, milliseconds, percent};
use super::{ArmReport, LabReport, Moment, Served, Summary};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 96.0;

/// A layer of a stacked chart: its class (color) and its value.
type Layer = (&'static str, fn(&Served) -> u64);

const LAYERS: &[Layer] = &[
    ("right", |s| s.right),
    ("limited", |s| s.limited),
    ("unavailable", |s| s.unavailable),
    ("wrong", |s| s.wrong_403 + s.wrong_200),
    ("failed", |s| s.failed + s.late),
];

const LEGEND: &[(&str, &str)] = &[
    ("right", "right answer"),
    ("limited", "429, over the limit"),
    ("unavailable", "503, come back"),
    ("wrong", "403 although the right is there"),
    ("failed", "no answer in time"),
    ("ports", "ports left toward the center"),
    ("said", "when doctor said they would be out"),
];

const STYLE: &str = r#"
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d9dee7; --paper: #ffffff; --card: #f7f8fa;
  --right: #2f9e6e; --limited: #e0a526; --unavailable: #7a8bd0; --wrong: #d64545; --failed: #8a8f99; --ports: #2f6fd6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaf0; --soft: #98a2b3; --line: #343b48; --paper: #12161d; --card: #1a2029;
  --right: #46c08c; --limited: #f0bd4e; --unavailable: #93a3ea; --wrong: #f26b6b; --failed: #868d99; --ports: #6ea2f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 32px 20px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0; }
p { margin: 4px 0 0; color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 18px 0 22px; font-size: 13px; color: var(--soft); }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
.arm { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px 12px; margin-bottom: 16px; }
.arm header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 8px 24px; align-items: baseline; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft); font-variant-numeric: tabular-nums; }
.facts b { color: var(--ink); } .facts .bad b { color: var(--wrong); } .facts .good b { color: var(--right); }
.overview { overflow-x: auto; margin-bottom: 22px; } .overview p { font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 500; } a { color: inherit; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 12px 20px; margin-top: 12px; }
figure { margin: 0; } figcaption { font-size: 12px; color: var(--soft); display: flex; justify-content: space-between; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { font-size: 9px; fill: var(--soft); font-family: inherit; }
.axis { stroke: var(--line); stroke-width: 1; } .mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; }
.said { stroke: var(--wrong); stroke-width: 1.5; stroke-dasharray: 5 3; } i.said { background: var(--wrong); height: 3px; vertical-align: 3px; }
.right { fill: var(--right); background: var(--right); } .limited { fill: var(--limited); background: var(--limited); }
.unavailable { fill: var(--unavailable); background: var(--unavailable); } .wrong { fill: var(--wrong); background: var(--wrong); }
.failed { fill: var(--failed); background: var(--failed); } .ports { fill: var(--ports); background: var(--ports); }
path.ports { fill-opacity: .25; stroke: var(--ports); stroke-width: 1.5; }
"#;

/// Renders the page.
pub fn render(report: &LabReport) -> String {
    let users_top = top(report, |m| &m.users);
    let crawler_top = top(report, |m| &m.crawler);
    let plan = &report.plan;
    let crawl = if plan.crawler_from_s < plan.duration_s {
        format!(
            " From second {:.0} on a crawler asks up to {:.0} times a second.",
            plan.crawler_from_s, plan.crawler_per_s
        )
    } else {
        String::new()
    };
    let title = match report.arms.len() {
        1 => "One way to meet it".to_owned(),
        n => format!("The same crawl, {n} ways to meet it"),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Keepgate lab report</title><style>{STYLE}</style></head><body>\n\
         <h1>{title}</h1>\n\
         <p>Users ask {:.0} times a second.{crawl} The subsystem\u{2019}s host has ports {}\u{2013}{}; Linux {}.</p>\n",
        plan.users_per_s,
        plan.range.0,
        plan.range.1,
        escape(&report.kernel),
    );
    page.push_str("<div class=\"legend\">");
    for (class, text) in LEGEND {
        let _ = write!(page, "<span><i class=\"{class}\"></i>{text}</span>");
    }
    page.push_str("</div>\n");
    overview(&mut page, report);
    for arm in &report.arms {
        section(&mut page, report, arm, users_top, crawler_top);
    }
    page.push_str("</body></html>\n");
    page
}

/// All arms in one table, as on the terminal.
fn overview(page: &mut String, report: &LabReport) {
    page.push_str("<div class=\"overview\"><table><thead><tr><th>arm</th>");
    for (heading, _) in COLUMNS {
        let _ = write!(page, "<th>{heading}</th>");
    }
    page.push_str("</tr></thead><tbody>\n");
    for arm in &report.arms {
        let name = arm.arm.name();
        let _ = write!(page, "<tr><th><a href=\"#{name}\">{name}</a></th>");
        for (_, cell) in COLUMNS {
            let _ = write!(page, "<td>{}</td>", cell(&arm.summary));
        }
        page.push_str("</tr>\n");
    }
    let _ = writeln!(
        page,
        "</tbody></table><p>Users ok counts from the crawler\u{2019}s arrival on; users p99 is that of the worst second. \
         Doctor was asked at second {}.</p></div>",
        report.plan.forecast_at_s
    );
}

/// What doctor said would happen, beside what happened.
fn forecast(summary: &Summary, plan: &crate::LabPlan) -> (&'static str, String, String) {
    let asked = plan.forecast_at_s;
    let (said, happened) = (summary.forecast_exhausted_at_s, summary.exhausted_at_s);
    let out = |t: Option<u64>| t.map_or("never".to_owned(), |t| format!("{t} s"));
    let value = said.map_or("never".to_owned(), |t| format!("{t:.0} s"));
    let near = match (said, happened) {
        (None, None) => true,
        (Some(said), Some(happened)) => (said - happened as f64).abs() <= 3.0,
        _ => false,
    };
    let what =
        format!("doctor\u{2019}s forecast at second {asked}; ports were out: {}", out(happened));
    (if near { "good" } else { "bad" }, value, what)
}

fn section(
    page: &mut String,
    report: &LabReport,
    arm: &ArmReport,
    users_top: u64,
    crawler_top: u64,
) {
    let summary = &arm.summary;
    let good = |yes: bool| if yes { "good" } else { "bad" };
    let facts = [
        (
            good(summary.users_ok_under_crawl >= 0.999),
            percent(summary.users_ok_under_crawl),
            "of users served during the crawl",
        ),
        (good(summary.wrong_403 == 0), summary.wrong_403.to_string(), "wrong 403"),
        (good(summary.eaddrnotavail == 0), summary.eaddrnotavail.to_string(), "EADDRNOTAVAIL"),
        ("", summary.opened.to_string(), "connections opened"),
        ("", milliseconds(summary.users_p99_us), "worst p99 of users"),
    ];
    let _ = write!(
        page,
        "<section class=\"arm\" id=\"{0}\"><header><div><h2>{0}</h2><p>{1}</p></div><div class=\"facts\">",
        arm.arm.name(),
        arm.arm.about()
    );
    for (class, value, what) in facts {
        let _ = write!(page, "<span class=\"{class}\"><b>{value}</b> {what}</span>");
    }
    let (class, value, what) = forecast(summary, &report.plan);
    let _ = write!(page, "<span class=\"{class}\"><b>{value}</b> {what}</span>");
    page.push_str("</div></header><div class=\"charts\">");
    let crawl = report.plan.crawler_from_s;
    stacked(page, "users, requests/s", arm, users_top, crawl, |m| &m.users);
    ports(page, arm, crawl);
    stacked(page, "crawler, requests/s", arm, crawler_top, crawl, |m| &m.crawler);
    page.push_str("</div></section>\n");
}

fn stacked(
    page: &mut String,
    caption: &str,
    arm: &ArmReport,
    top: u64,
    crawl: f64,
    of: fn(&Moment) -> &Served,
) {
    open(page, caption, &format!("full height {top}/s"), arm, crawl);
    let mut below = vec![0_u64; arm.seconds.len()];
    for (class, value) in LAYERS {
        let above: Vec<u64> =
            arm.seconds.iter().zip(&below).map(|(m, base)| base + value(of(m))).collect();
        if above != below {
            let scale = |v: &u64| HEIGHT - (*v as f64 / top.max(1) as f64) * HEIGHT;
            area(
                page,
                class,
                &above.iter().map(scale).collect::<Vec<_>>(),
                &below.iter().map(scale).collect::<Vec<_>>(),
            );
        }
        below = above;
    }
    close(page);
}

fn ports(page: &mut String, arm: &ArmReport, crawl: f64) {
    let usable = arm.seconds.iter().map(|m| m.ports_usable).max().unwrap_or(0);
    open(page, "ports left", &format!("of {usable}"), arm, crawl);
    let line: Vec<f64> = arm
        .seconds
        .iter()
        .map(|m| HEIGHT - (m.ports_left as f64 / usable.max(1) as f64).min(1.0) * HEIGHT)
        .collect();
    area(page, "ports", &line, &vec![HEIGHT; line.len()]);
    if let Some(t) = arm.summary.exhausted_at_s {
        let x = position(t as usize, arm.seconds.len());
        // Right of the falling line there is room above the axis; near the edge, at the top.
        let (x, y, anchor) = if x < WIDTH * 0.6 {
            (x + 4.0, HEIGHT - 10.0, "start")
        } else {
            (WIDTH - 4.0, 14.0, "end")
        };
        let _ = write!(
            page,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">none left at {t} s</text>"
        );
    }
    // A forecast beyond the last second has no place in the chart; the words above it say it.
    let seconds = arm.seconds.len();
    let within = arm.summary.forecast_exhausted_at_s.filter(|said| *said <= seconds as f64);
    if let Some(said) = within {
        let x = (said / seconds.max(1) as f64 * WIDTH).min(WIDTH);
        let _ = write!(
            page,
            "<line class=\"said\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{HEIGHT}\"><title>doctor: out at \
             {said:.0} s</title></line>"
        );
    }
    close(page);
}

fn open(page: &mut String, caption: &str, scale: &str, arm: &ArmReport, crawl: f64) {
    let seconds = arm.seconds.len();
    let _ = write!(
        page,
        "<figure><figcaption><span>{caption}</span><span>{scale}</span></figcaption>\
         <svg viewBox=\"0 -4 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{caption}, arm {}\">\
         <line class=\"axis\" x1=\"0\" y1=\"{HEIGHT}\" x2=\"{WIDTH}\" y2=\"{HEIGHT}\"/>\
         <line class=\"axis\" x1=\"0\" y1=\"0\" x2=\"{WIDTH}\" y2=\"0\"/>\
         <text x=\"0\" y=\"{:.0}\">0 s</text><text x=\"{WIDTH}\" y=\"{:.0}\" text-anchor=\"end\">{seconds} s</text>",
        HEIGHT + 18.0,
        arm.arm.name(),
        HEIGHT + 11.0,
        HEIGHT + 11.0,
    );
    let x = crawl / seconds.max(1) as f64 * WIDTH;
    let _ = write!(
        page,
        "<line class=\"mark\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{HEIGHT}\"/>\
         <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">crawler</text>",
        HEIGHT + 11.0
    );
}

fn close(page: &mut String) {
    page.push_str("</svg></figure>");
}

/// The band between two lines; a second is a step, so that nothing is drawn that was not.
fn area(page: &mut String, class: &str, upper: &[f64], lower: &[f64]) {
    let count = upper.len();
    let mut path = String::new();
    for (at, y) in upper.iter().enumerate() {
        let command = if at == 0 { 'M' } else { 'L' };
        let (from, to) = (position(at, count), position(at + 1, count));
        let _ = write!(path, "{command}{from:.1} {y:.1} L{to:.1} {y:.1} ");
    }
    for (at, y) in lower.iter().enumerate().rev() {
        let (from, to) = (position(at, count), position(at + 1, count));
        let _ = write!(path, "L{to:.1} {y:.1} L{from:.1} {y:.1} ");
    }
    let _ = write!(page, "<path class=\"{class}\" d=\"{path}Z\"/>");
}

fn position(at: usize, count: usize) -> f64 {
    at as f64 / count.max(1) as f64 * WIDTH
}

fn top(report: &LabReport, of: fn(&Moment) -> &Served) -> u64 {
    let totals = report
        .arms
        .iter()
        .flat_map(|arm| &arm.seconds)
        .map(|moment| LAYERS.iter().map(|(_, value)| value(of(moment))).sum::<u64>());
    totals.max().unwrap_or(0).max(1)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
