//! Draws an [`App`] at 80x24 and above. Color is decoration: the verdict is a word, the chosen
//! line has a mark, a bar is made of characters.

use keepgate_ports::report::{BucketReport, Cause, Report, Verdict};
use keepgate_ports::snapshot::Confidence;
use keepgate_ports::text::{self, Style as TextStyle};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Wrap};

use super::app::{App, Over, name};

/// Above this part of its ports a destination's connects are slow.
const CLIFF: f64 = 0.5;
/// Columns of everything in a row but the name, the bar and the owner.
const NUMBERS: u16 = 34;
const MIN_BAR: u16 = 10;
const MIN_OWNER: u16 = 8;
/// Rows below the list: the chosen destination, and the keys.
const DETAIL: u16 = 6;

pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let [head, list, detail, keys] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Min(3),
        Constraint::Length(DETAIL),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let wrapped = Wrap { trim: false };
    frame.render_widget(Paragraph::new(heading(app, head.width.into())), head);
    frame.render_widget(Paragraph::new(rows(app, list)), list);
    frame.render_widget(
        Paragraph::new(chosen(app, detail.width.into()))
            .wrap(wrapped)
            .block(Block::new().borders(Borders::TOP)),
        detail,
    );
    frame.render_widget(Paragraph::new(footer(app, keys.width.into())), keys);
    match &app.over {
        Over::Finding(scroll) => finding(frame, app, *scroll),
        Over::Namespaces(all, at) => {
            let lines: Vec<String> = all
                .iter()
                .enumerate()
                .map(|(i, n)| format!("{} {}", if i == *at { ">" } else { " " }, n.label()))
                .collect();
            let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
            let area = centered(frame.area(), 40, height.saturating_add(2));
            let visible = usize::from(area.height.saturating_sub(2));
            let skip = (at + 1).saturating_sub(visible);
            let lines: Vec<Line<'_>> = lines.into_iter().skip(skip).map(Line::from).collect();
            frame.render_widget(Clear, area);
            let block = Block::bordered().title(" namespace: enter to choose ");
            frame.render_widget(Paragraph::new(lines).block(block), area);
        }
        Over::Nothing | Over::Filter => {}
    }
}

fn painted(app: &App, color: Color) -> Style {
    if app.color { Style::new().fg(color) } else { Style::new() }
}

fn heading(app: &App, width: usize) -> Vec<Line<'static>> {
    let strong = Style::new().add_modifier(Modifier::BOLD);
    let Some(report) = &app.report else {
        let words = match &app.error {
            Some(error) => error.clone(),
            None => format!("looking at {} ..", app.namespace.label()),
        };
        let mut lines = text::wrap(&words, width.saturating_sub(14)).into_iter();
        let first = lines.next().unwrap_or_default();
        let mut heading =
            vec![Line::from(vec![Span::styled("keepgate top  ", strong), Span::raw(first)])];
        heading.extend(lines.map(|line| Line::from(format!("{:14}{line}", ""))));
        return heading;
    };
    let color = match report.verdict {
        Verdict::Exhausted => Color::Red,
        Verdict::AtRisk | Verdict::NotPorts | Verdict::Unknown => Color::Yellow,
        Verdict::Healthy => Color::Green,
    };
    let sum = |rate: fn(&BucketReport) -> Option<f64>| -> f64 {
        report.buckets.iter().filter_map(rate).sum()
    };
    let sockets = report.sockets;
    vec![
        Line::from(vec![
            Span::styled("keepgate top  ", strong),
            Span::styled(
                text::verdict_words(report.verdict),
                painted(app, color).add_modifier(Modifier::BOLD),
            ),
            Span::raw(clip(
                &format!(
                    "  {}  range {}-{}, {} usable",
                    report.netns, report.range.low, report.range.high, report.range.usable
                ),
                width.saturating_sub(14 + text::verdict_words(report.verdict).len()),
            )),
        ]),
        Line::from(clip(
            &format!(
                "{} sockets: {} time_wait, {} established, {} close_wait",
                sockets.total, sockets.time_wait, sockets.established, sockets.close_wait,
            ),
            width,
        )),
        Line::from(match &app.error {
            Some(error) => clip(error, width),
            None => format!(
                "{:.0} opened and {:.0} closed a second",
                sum(|b| b.opens_per_s),
                sum(|b| b.closes_per_s)
            ),
        }),
    ]
}

/// Column widths for a terminal: the name and the owner share what the bar leaves.
struct Columns {
    name: usize,
    bar: usize,
    owner: usize,
}

impl Columns {
    /// The bar gives way first, then the owner: numbers and the port stay.
    fn of(width: u16, longest: usize) -> Self {
        let free = usize::from(width.saturating_sub(NUMBERS));
        let (least_bar, least_owner) = (usize::from(MIN_BAR), usize::from(MIN_OWNER));
        let bar = if free >= 21 + least_bar + least_owner { least_bar } else { 0 };
        let most = free.saturating_sub(bar + least_owner).max(12);
        let name = longest.clamp(12, most);
        let rest = free.saturating_sub(name);
        let owner = (rest / 3).clamp(least_owner, 20);
        let bar = if bar == 0 { 0 } else { rest.saturating_sub(owner).max(least_bar) };
        Self { name, bar, owner }
    }
}

fn rows(app: &App, area: Rect) -> Vec<Line<'static>> {
    let shown = app.shown();
    let longest = shown.iter().map(|(_, b)| name(b).len()).max().unwrap_or(0);
    let columns = Columns::of(area.width, longest);
    let title = format!(
        "  {:<name$} {:<bar$}  {:>6} {:>6} {:>6} {:>6}  {}",
        "destination",
        if columns.bar == 0 { "" } else { "ports" },
        "used",
        "left",
        "open/s",
        "out in",
        "who",
        name = columns.name,
        bar = columns.bar,
    );
    let mut lines =
        vec![Line::styled(clip(&title, area.width.into()), painted(app, Color::DarkGray))];
    let visible = usize::from(area.height.saturating_sub(1));
    let skip = (app.chosen + 1).saturating_sub(visible);
    for (row, (_, bucket)) in shown.iter().enumerate().skip(skip).take(visible) {
        lines.push(line(app, bucket, &columns, row == app.chosen, area.width.into()));
    }
    if shown.is_empty() && app.report.is_some() {
        lines.push(Line::from("  no destination with more than one connection"));
    }
    lines
}

fn line(
    app: &App,
    bucket: &BucketReport,
    columns: &Columns,
    chosen: bool,
    width: usize,
) -> Line<'static> {
    let pressure = f64::from(bucket.used) / f64::from(bucket.usable.max(1));
    let color = if bucket.remaining.max == 0 {
        Color::Red
    } else if pressure >= CLIFF {
        Color::Yellow
    } else {
        Color::Green
    };
    // A doubt of one in a hundred is not worth a mark.
    let doubt = bucket.remaining.max.saturating_sub(bucket.remaining.min);
    let left = if doubt <= bucket.remaining.max / 100 {
        bucket.remaining.max.to_string()
    } else {
        format!("<{}", bucket.remaining.max)
    };
    let out_in = match bucket.exhausted_in_s {
        _ if bucket.remaining.max == 0 => "now".to_owned(),
        Some(0) => "now".to_owned(),
        Some(seconds) => text::duration(seconds).replace(' ', ""),
        None => "-".to_owned(),
    };
    let owner = bucket.owners.first().map_or_else(String::new, |o| match o.confidence {
        Confidence::Seen => o.command.clone(),
        Confidence::Likely => format!("{}?", o.command),
    });
    let mark = if chosen { ">" } else { " " };
    let name =
        format!("{mark} {:<width$} ", destination(bucket, columns.name), width = columns.name);
    let bar = if columns.bar == 0 {
        String::new()
    } else {
        text::bar(bucket.used, bucket.usable, columns.bar)
    };
    let numbers = format!(
        "  {:>6} {:>6} {:>6} {:>6}  {}",
        bucket.used,
        left,
        bucket.opens_per_s.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")),
        out_in,
        clip(&owner, columns.owner),
    );
    let rest = width.saturating_sub(name.chars().count() + bar.len());
    let style = if chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Line::from(vec![
        Span::styled(name, style),
        Span::styled(bar, painted(app, color)),
        Span::styled(clip(&numbers, rest), style),
    ])
}

/// States and owners of the chosen destination, and why it is short of ports.
fn chosen(app: &App, width: usize) -> Vec<Line<'static>> {
    let Some((index, bucket)) = app.chosen() else { return Vec::new() };
    let mut states: Vec<_> = bucket.states.iter().collect();
    states.sort_by_key(|(state, count)| (std::cmp::Reverse(**count), **state));
    let states: Vec<String> =
        states.iter().map(|(state, count)| format!("{} {count}", state.name())).collect();
    let owners: Vec<String> = bucket
        .owners
        .iter()
        .map(|o| {
            let sure = if o.confidence == Confidence::Likely { "likely " } else { "" };
            format!("{sure}{} (pid {}, {})", o.command, o.pid, o.sockets)
        })
        .collect();
    let rate = match (bucket.opens_per_s, bucket.closes_per_s, bucket.sustainable_per_s) {
        (Some(opens), Some(closes), Some(sustainable)) => format!(
            "{opens:.0} opened and {closes:.0} closed a second; {sustainable:.0} opens can be sustained"
        ),
        _ => "unknown yet".to_owned(),
    };
    let finding = app
        .report
        .as_ref()
        .and_then(|r| {
            let own = r.findings.iter().find(|f| f.bucket == Some(index));
            // Where no destination has a port, this one has none.
            own.or_else(|| r.findings.iter().find(|f| text::concerns_all(f)))
        })
        .map_or_else(
            || "nothing found".to_owned(),
            |f| format!("{}, {}", f.severity.name(), cause(f.cause)),
        );
    // In so few rows each fact has one; what does not fit is in the doctor's words (enter).
    let who = if owners.is_empty() { "not seen".to_owned() } else { owners.join(", ") };
    let mut lines = vec![Line::from(clip(&format!("{}   {finding}", name(bucket)), width))];
    for (label, fact) in [("states", states.join(", ")), ("rate", rate), ("who", who)] {
        let fact = clip(&fact, width.saturating_sub(10));
        lines.push(Line::from(format!("  {label:<8}{fact}")));
    }
    lines
}

fn cause(cause: Cause) -> String {
    cause.name().replace('_', " ")
}

fn footer(app: &App, width: usize) -> Line<'static> {
    if app.over == Over::Filter {
        return Line::from(format!("filter: {}_   enter keep, esc clear", app.filter));
    }
    let filter =
        if app.filter.is_empty() { String::new() } else { format!("   filter: {}", app.filter) };
    let sort = app.sort.name();
    let mut keys = format!(
        "q quit  up/down choose  enter finding  s sort ({sort})  / filter  n namespace{filter}"
    );
    if keys.chars().count() > width {
        keys = format!("q quit  enter finding  s {sort}  / filter  n namespace{filter}");
    }
    Line::styled(clip(&keys, width), Style::new().add_modifier(Modifier::REVERSED))
}

fn finding(frame: &mut Frame<'_>, app: &App, scroll: u16) {
    let (Some(report), Some((index, _))) = (&app.report, app.chosen()) else { return };
    let area = centered(frame.area(), 100, 40);
    let width = usize::from(area.width.saturating_sub(2));
    let words = words(report, index, width);
    frame.render_widget(Clear, area);
    let title = if width >= 50 {
        " the doctor says (up/down scrolls, esc closes) "
    } else {
        " the doctor says "
    };
    // A word longer than a line must be readable to its end.
    let words = Paragraph::new(words).wrap(Wrap { trim: false });
    frame.render_widget(words.block(Block::bordered().title(title)).scroll((scroll, 0)), area);
}

fn words(report: &Report, index: usize, width: usize) -> String {
    text::render_bucket(report, index, TextStyle { color: false, width })
}

fn centered(area: Rect, width: u16, height: u16) -> Rect {
    let width = width.min(area.width.saturating_sub(2));
    let height = height.min(area.height.saturating_sub(2));
    Rect {
        x: area.x + (area.width.saturating_sub(width)) / 2,
        y: area.y + (area.height.saturating_sub(height)) / 2,
        width,
        height,
    }
}

/// As many of the text's words as fit, and a mark where some are left out. A single word that is
/// too long is cut: there is nothing else to show.
fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for word in text.split_inclusive(' ') {
        if kept.chars().count() + word.trim_end().chars().count() + 1 > width {
            break;
        }
        kept.push_str(word);
    }
    let mut kept = kept.trim_end().to_owned();
    if kept.is_empty() {
        kept = text.chars().take(width.saturating_sub(1)).collect();
    }
    if width > 0 {
        kept.push('~');
    }
    kept
}

/// A destination in so many columns, always with its port: without its source if there is no room,
/// then without parts of its address.
fn destination(bucket: &BucketReport, width: usize) -> String {
    let whole = name(bucket);
    if whole.chars().count() <= width {
        return whole;
    }
    let bare = std::net::SocketAddr::new(bucket.dst, bucket.dport).to_string();
    if bare.chars().count() <= width {
        return bare;
    }
    let (host, port) = bare.rsplit_once(':').unwrap_or((&bare, ""));
    let separator = if bucket.dst.is_ipv6() { ':' } else { '.' };
    let parts: Vec<&str> = host.trim_matches(['[', ']']).split(separator).collect();
    // The first parts name the network, the last ones the host: what is left out is in between.
    for kept in (0..parts.len()).rev() {
        let (front, back) = (kept.div_ceil(2), kept / 2);
        let first = parts.get(..front).unwrap_or(&[]).join(&separator.to_string());
        let last = parts.get(parts.len() - back..).unwrap_or(&[]).join(&separator.to_string());
        let short = format!("{first}..{last}:{port}");
        if short.chars().count() <= width {
            return short;
        }
    }
    format!(":{port}")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use keepgate_ports::netns::Namespace;
    use keepgate_ports::rules;
    use keepgate_ports::snapshot::HostSnapshot;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};
    use ratatui::style::Color;

    use super::super::app::{App, Look, Sort, Step};

    fn recorded(color: bool) -> App {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ports/tests/it/golden/close-wait.json");
        let json = std::fs::read_to_string(path).unwrap();
        let snapshot: HostSnapshot = serde_json::from_str(&json).unwrap();
        let namespace = Namespace::Named("lk1".to_owned());
        let mut app = App::new(namespace.clone(), color);
        app.take(Look { namespace, report: Ok(rules::judge_up_to(&snapshot, 50)) });
        app
    }

    fn screen(app: &App, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| super::draw(frame, app)).unwrap();
        terminal
    }

    fn check(app: &App, expected: Expect) {
        let terminal = screen(app, 80, 24);
        let buffer = terminal.backend().buffer();
        let mut text = String::new();
        for y in 0..24 {
            let line: String = (0..80).map(|x| buffer[(x, y)].symbol()).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        expected.assert_eq(&text);
    }

    fn press(app: &mut App, code: KeyCode) -> Step {
        app.key(KeyEvent::from(code))
    }

    #[test]
    fn the_list_at_80_by_24() {
        check(
            &recorded(false),
            expect![[r#"
                keepgate top  AT RISK  lk1  range 50000-51199, 1200 usable
                967 sockets: 0 time_wait, 40 established, 924 close_wait
                5 opened and 0 closed a second
                  destination                 ports          used   left open/s out in  who
                > 10.0.0.2:8443 from 10.0.0.1 #########..     924    233      5    48s  python3
                  10.0.0.2:9000 from 10.0.0.1 ...........       0  <1157      0      -  python3











                ────────────────────────────────────────────────────────────────────────────────
                10.0.0.2:8443 from 10.0.0.1   warning, close wait leak
                  states  close_wait 924
                  rate    5 opened and 0 closed a second; 19 opens can be sustained
                  who     python3 (pid 10249, 924)

                q quit  up/down choose  enter finding  s sort (pressure)  / filter  n namespace
            "#]],
        );
    }

    /// Where every port is bound, no destination has one, and none is called fine.
    #[test]
    fn all_ports_bound() {
        let mut snapshot = HostSnapshot::default();
        snapshot.settings.range = keepgate_ports::ranges::PortRange { low: 40_000, high: 40_001 };
        for port in [40_000, 40_001] {
            snapshot.sockets.add(&keepgate_ports::diag::Socket {
                state: keepgate_ports::diag::TcpState::Established,
                local: ([10, 0, 0, 1], port).into(),
                remote: ([10, 0, 0, 2], 8443).into(),
                interface: 0,
                cookie: 0,
                expires_ms: 0,
                uid: 0,
                inode: 0,
                timestamps: None,
            });
            snapshot.evidence.bound.insert(port);
        }
        snapshot.evidence.bound_listed = true;
        let mut app = App::new(Namespace::Current, false);
        let report = rules::judge_up_to(&snapshot, 50);
        app.take(Look { namespace: Namespace::Current, report: Ok(report) });
        for width in [60, 80, 200] {
            let text = text_of(&app, width);
            assert!(text.contains("EXHAUSTED") && text.contains(":8443"), "{text}");
            assert!(text.contains("critical, explicit bind") && text.contains("now"), "{text}");
            assert!(!text.contains("nothing found"), "{text}");
        }
        press(&mut app, KeyCode::Enter);
        let text = text_of(&app, 100);
        assert!(text.contains("bound explicitly") && !text.contains("nothing to report"), "{text}");
    }

    #[test]
    fn the_doctors_words_on_the_chosen_destination() {
        let mut app = recorded(false);
        assert_eq!(press(&mut app, KeyCode::Enter), Step::Stay);
        check(
            &app,
            expect![[r#"
                keepgate top  AT RISK  lk1  range 50000-51199, 1200 usable
                9┌ the doctor says (up/down scrolls, esc closes) ─────────────────────────────┐
                5│10.0.0.1 -> 10.0.0.2:8443                                                   │
                 │  ports    [########################......] 924 of 1157 used, 233 left      │
                >│  rate     5 opened a second; 19 can be sustained                           │
                 │  used up  in 48 s                                                          │
                 │  states   close_wait 924                                                   │
                 │  who      `python3` (pid 10249, 924 sockets)                               │
                 │                                                                            │
                 │  warning  10.0.0.1 -> 10.0.0.2:8443 has 233 of 1157 ports left; above half,│
                 │           each connect() there searches for milliseconds; at this rate none│
                 │           is left in 48 s                                                  │
                 │  why      The other side has closed these connections, and the program has │
                 │           not: it never closes them.                                       │
                 │  now      restart `python3`: that returns its ports                        │
                 │           ip netns exec lk1 sysctl -w \                                    │
                 │             net.ipv4.ip_local_reserved_ports=50010-50011,50500 && ip \     │
                ─│             netns exec lk1 sysctl -w \                                     │─
                1│             net.ipv4.ip_local_port_range="10240 65535"                     │
                 │           (54096 more ports for every destination, present listeners       │
                 │           reserved)                                                        │
                 │  then     `python3` does not close connections that 10.0.0.2:8443 has      │
                 └────────────────────────────────────────────────────────────────────────────┘
                q quit  up/down choose  enter finding  s sort (pressure)  / filter  n namespace
            "#]],
        );
    }

    /// From 60 columns on each destination has its port, and no word is cut.
    #[test]
    fn every_width_keeps_the_port_and_whole_words() {
        let mut app = recorded(false);
        let mut report = app.report.clone().unwrap();
        let mut long = report.buckets[0].clone();
        long.dst = "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap();
        long.src = "2001:db8:1234:5678:9abc:def0:1234:9999".parse().unwrap();
        report.buckets.push(long);
        app.report = Some(report);
        let bare = |word: &str| word.trim_matches(['(', ')', '~']).to_owned();
        let words: Vec<String> = text_of(&app, 200).split_whitespace().map(bare).collect();
        for width in 60..=200 {
            let text = text_of(&app, width);
            let ports = text.lines().filter(|line| line.contains(":8443")).count();
            assert!(ports >= 2 && text.contains(":9000"), "{width}\n{text}");
            for word in text.split_whitespace() {
                let whole = bare(word);
                let elided = word.contains("..") || word.starts_with(['#', '.', '─']);
                let known = words.contains(&whole) || whole.is_empty();
                assert!(known || elided, "{width}: `{word}` is cut\n{text}");
            }
        }
    }

    fn text_of(app: &App, width: u16) -> String {
        let terminal = screen(app, width, 24);
        let buffer = terminal.backend().buffer();
        (0..24)
            .map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>() + "\n")
            .collect()
    }

    #[test]
    fn without_color_there_is_none() {
        let plain = screen(&recorded(false), 80, 24);
        let colors = |terminal: &Terminal<TestBackend>| {
            terminal.backend().buffer().content.iter().filter(|c| c.fg != Color::Reset).count()
        };
        assert_eq!(colors(&plain), 0);
        assert!(colors(&screen(&recorded(true), 80, 24)) > 0);
    }

    #[test]
    fn no_size_breaks_it() {
        let mut app = recorded(true);
        for (width, height) in [(1, 1), (10, 3), (40, 8), (79, 23), (200, 60)] {
            screen(&app, width, height);
        }
        press(&mut app, KeyCode::Enter);
        for (width, height) in [(1, 1), (10, 3), (40, 8), (200, 60)] {
            screen(&app, width, height);
        }
    }

    #[test]
    fn keys() {
        let mut app = recorded(false);
        let first = app.chosen().unwrap().1.dport;
        press(&mut app, KeyCode::Down);
        assert_ne!(app.chosen().unwrap().1.dport, first);
        // The same destination stays chosen in another order.
        press(&mut app, KeyCode::Char('s'));
        assert_eq!(app.sort, Sort::Opens);
        press(&mut app, KeyCode::Char('/'));
        for c in "close".chars() {
            press(&mut app, KeyCode::Char(c));
        }
        press(&mut app, KeyCode::Enter);
        assert_eq!(app.shown().len(), 1);
        assert_eq!(app.chosen().unwrap().1.dport, first);
        press(&mut app, KeyCode::Char('/'));
        press(&mut app, KeyCode::Esc);
        assert_eq!(app.shown().len(), 2);
        assert_eq!(press(&mut app, KeyCode::Char('q')), Step::Quit);
    }

    #[test]
    fn a_namespace_that_was_left_says_nothing_more() {
        let mut app = recorded(false);
        app.take(Look { namespace: Namespace::Current, report: Err("gone".to_owned()) });
        assert_eq!(app.error, None);
        let namespace = Namespace::Named("lk1".to_owned());
        app.take(Look { namespace, report: Err("cannot enter".to_owned()) });
        assert_eq!(app.error.as_deref(), Some("cannot enter"));
    }
}
