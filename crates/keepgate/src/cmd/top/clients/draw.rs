//! The screen of `keepgate top clients`, for somebody who was just woken up: the verdict, crawls
//! with the next command, then the heaviest callers.

use keepgate_limit::top::{Crawl, Dimension, GatesHeard, Hitter, TopReport, Unheard};

use crate::style::{Paint, Table, count, span};
use crate::uid::shell_word;

/// The longest name in a table.
const NAME: usize = 44;

/// What is drawn.
pub(super) struct View<'a> {
    pub(super) service: &'a str,
    pub(super) gates: Option<GatesHeard>,
    pub(super) report: &'a TopReport,
    pub(super) most: usize,
}

/// No gate was heard: nothing is known, which is not "no traffic".
pub(super) fn unheard(service: &str, gates: GatesHeard) -> String {
    let why = match gates.following {
        0 if gates.centers > 1 => {
            format!("no gate of it is connected to any of {} centers", gates.centers)
        }
        0 => "no gate of it is connected to this center".to_owned(),
        1 => "one follower is connected and has not reported in the last 30 s".to_owned(),
        n => format!("{n} followers are connected, and none has reported in the last 30 s"),
    };
    format!(
        "{service}: not known. {why}; this says nothing about its traffic.\n\
         \x20 keepgate top clients --gate URL    asks a gate's admin listener itself\n"
    )
}

pub(super) fn screen(view: &View<'_>, paint: Paint) -> String {
    let View { service, report, .. } = view;
    let mut screen = format!("{}  {}\n", paint.strong(service), summary(view));
    if report.requests == 0 {
        return screen;
    }
    for crawl in &report.crawls {
        screen += "\n";
        screen += &crawl_lines(view, crawl, paint);
    }
    if report.crawls.is_empty() {
        screen += "\nnobody walks a route\n";
    }
    for one in &report.unheard {
        screen += &unheard_lines(one, paint);
    }
    screen += "\n";
    screen + &table(view).render(paint)
}

/// A proxy in front that was not named looks like one caller with all requests.
fn unheard_lines(one: &Unheard, paint: Paint) -> String {
    let peer = shell_safe(&one.peer);
    format!(
        "\n{}  {} sent {} requests that name callers' addresses, which are dropped: all its callers \
         count as one\n       if it is a proxy in front, start the gate with --trusted-proxy {peer}\n",
        paint.warn("PROXY?"),
        paint.strong(&peer),
        count(one.requests),
    )
}

/// What a gate tells is not trusted with a shell.
fn shell_safe(peer: &str) -> String {
    let safe = peer == "unix" || peer.parse::<std::net::IpAddr>().is_ok();
    if safe { peer.to_owned() } else { "RANGE".to_owned() }
}

/// `44,100 requests in 74 s at 2 gates (oldest report 3 s ago), 12 % refused, 1 % not identified`
fn summary(View { gates, report, .. }: &View<'_>) -> String {
    let seconds = report.seconds.round() as u64;
    let mut text = match report.requests {
        0 => format!("no requests in {seconds} s"),
        n => format!("{} requests in {seconds} s", count(n)),
    };
    if let Some(gates) = gates {
        let plural = if gates.heard == 1 { "gate" } else { "gates" };
        let oldest = span(gates.oldest_ms.unwrap_or(0));
        text += &format!(" at {} {plural}", gates.heard);
        if gates.centers > 1 {
            text += &format!(" of {} centers", gates.centers);
        }
        text += &format!(" (oldest report {oldest} ago)");
    }
    if report.requests > 0 {
        let refused = percent(report.refused, report.requests);
        let anonymous = percent(report.anonymous, report.requests);
        text += &format!(", {refused} refused, {anonymous} not identified");
    }
    text
}

fn crawl_lines(view: &View<'_>, crawl: &Crawl, paint: Paint) -> String {
    let View { service, report, .. } = view;
    let ids = if crawl.distinct_at_least == crawl.distinct {
        count(rounded(crawl.distinct))
    } else {
        let (least, most) = (rounded(crawl.distinct_at_least), rounded(crawl.distinct));
        format!("{} to {}", count(least), count(most))
    };
    let callers = report.principals.iter().chain(&report.addresses);
    let caller = callers.into_iter().find(|one| one.name == crawl.name);
    let all = caller.map_or(crawl.requests, |one| one.at_least).max(crawl.refused);
    let mut text = format!(
        "{}  {} walks {}: about {ids} different ids, {} of requests ({}), refused {}\n",
        paint.bad("CRAWL"),
        paint.strong(&crawl.name),
        crawl.route,
        percent(crawl.requests, report.requests),
        rate(crawl.per_second),
        percent(crawl.refused, all),
    );
    let principal = match crawl.by {
        Dimension::Principal => Some(&crawl.name),
        _ => crawl.principal.as_ref(),
    };
    let who = principal.map_or_else(|| "client::NAME".to_owned(), |name| shell_word(name));
    let mut remarks = Vec::new();
    remarks.extend(caller.map(|one| format!("first seen {} ago", span(one.first_seen_age_ms))));
    if crawl.by != Dimension::Principal {
        remarks.push(match principal {
            Some(name) => format!("its accepted requests came from {name}"),
            None => "it sends no key: find out who it is".to_owned(),
        });
    }
    if !remarks.is_empty() {
        text += &format!("       {}\n", remarks.join("; "));
    }
    let service = shell_word_of(service);
    match &crawl.plan {
        Some(plan) => {
            text += &format!("       the plan {} fits it:\n", paint.strong(plan));
            text += &format!(
                "       keepgate key create --service {service} --principal {who} --plan {plan}\n"
            );
        }
        None => {
            let most = roomy(crawl.per_second);
            let plan = format!("up-to-{most}");
            text += &format!(
                "       no plan fits {}; if the service can take it:\n",
                rate(crawl.per_second)
            );
            text += &format!(
                "       keepgate plan set {plan} --service {service} --rate {most}/s\n\
                 \x20      keepgate key create --service {service} --principal {who} --plan {plan}\n"
            );
        }
    }
    text
}

/// A service's name is a word already; whatever else a gate says is not trusted with a shell.
fn shell_word_of(service: &str) -> &str {
    if keepgate_policy::service::is_service_name(service) { service } else { "NAME" }
}

/// To the two digits that an estimate is good for.
fn rounded(estimate: u64) -> u64 {
    let mut unit = 1;
    while estimate / unit >= 100 {
        unit *= 10;
    }
    (estimate + unit / 2) / unit * unit
}

/// A fifth more, with two digits that count.
fn roomy(per_second: f64) -> u64 {
    let wanted = (per_second * 1.2).ceil().max(1.0) as u64;
    let mut unit = 1;
    while wanted / unit >= 100 {
        unit *= 10;
    }
    wanted.div_ceil(unit) * unit
}

fn table(view: &View<'_>) -> Table {
    let report = view.report;
    let mut table =
        Table::new(&["who", "share", "rate", "refused", "first seen", "methods", "routes"]);
    for (heading, hitters) in [
        ("principals", &report.principals),
        ("addresses", &report.addresses),
        ("user agents", &report.user_agents),
    ] {
        // What is reported by its error alone may be nobody.
        let certain = hitters.iter().filter(|one| one.at_least > 0);
        let rows: Vec<Vec<String>> = certain.take(view.most).map(|one| row(report, one)).collect();
        if !rows.is_empty() {
            table.row([heading.to_owned()]);
            rows.into_iter().for_each(|row| table.row(row));
        }
    }
    table
}

fn row(report: &TopReport, one: &Hitter) -> Vec<String> {
    let (least, most) =
        (percent(one.at_least, report.requests), percent(one.requests, report.requests));
    let share =
        if least == most { most } else { format!("{} to {most}", least.trim_end_matches(" %")) };
    let routes = match one.routes.as_slice() {
        [] => String::new(),
        [(only, _)] => only.clone(),
        [(first, _), others @ ..] => format!("{first} and {} more", others.len()),
    };
    vec![
        format!("  {}", cut(&one.name)),
        share,
        rate(one.per_second),
        percent(one.refused, one.at_least.max(one.refused)),
        format!("{} ago", span(one.first_seen_age_ms)),
        one.methods.join(" "),
        routes,
    ]
}

fn cut(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    let kept: String = name.chars().take(NAME - 2).collect();
    format!("{kept}..")
}

fn rate(per_second: f64) -> String {
    if per_second >= 10.0 {
        format!("{}/s", count(per_second.round() as u64))
    } else if per_second >= 0.1 {
        format!("{per_second:.1}/s")
    } else {
        format!("{:.1}/min", per_second * 60.0)
    }
}

/// A part of a whole; nothing and everything are said only of nothing and everything.
fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    let percent = part as f64 / whole as f64 * 100.0;
    match percent.round() as u64 {
        0 => "<1 %".to_owned(),
        100.. if part < whole => ">99 %".to_owned(),
        rounded => format!("{} %", rounded.min(100)),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    fn report() -> Value {
        json!({
            "seconds": 74.2, "requests": 44_100, "refused": 5_292, "anonymous": 400,
            "addresses": [
                { "name": "192.0.2.7", "requests": 41_200, "at_least": 41_100, "share": 0.93,
                  "per_second": 555.2, "refused": 4_920, "methods": ["GET"],
                  "routes": [["/orders/{id}", 41_000]], "first_seen_age_ms": 185_000 },
                { "name": "198.51.100.1", "requests": 300, "at_least": 0, "share": 0.007,
                  "per_second": 4.0, "refused": 0, "methods": ["GET"], "routes": [],
                  "first_seen_age_ms": 1_000 },
            ],
            "principals": [
                { "name": "client::\"x\"", "requests": 41_000, "at_least": 41_000, "share": 0.93,
                  "per_second": 554.0, "refused": 4_920, "methods": ["GET"],
                  "routes": [["/orders/{id}", 41_000]], "first_seen_age_ms": 185_000 },
                { "name": "user::\"alice\"", "requests": 1_600, "at_least": 800, "share": 0.036,
                  "per_second": 2.04, "refused": 0, "methods": ["GET", "POST"],
                  "routes": [["/orders", 700], ["/orders/{id}", 100]],
                  "first_seen_age_ms": 7_300_000 },
            ],
            "user_agents": [], "routes": [],
            "crawls": [
                { "by": "principal", "name": "client::\"x\"", "route": "/orders/{id}",
                  "requests": 41_000, "distinct": 41_321, "distinct_at_least": 41_321,
                  "per_second": 554.0, "refused": 4_920, "plan": "bulk" },
            ],
            "unlisted": { "addresses": 0, "principals": 0, "user_agents": 0, "routes": 0 },
        })
    }

    fn check(report: Value, gates: Option<GatesHeard>, expected: Expect) {
        let report: TopReport = serde_json::from_value(report).unwrap();
        let view = View { service: "orders", gates, report: &report, most: 5 };
        expected.assert_eq(&screen(&view, Paint::plain()));
    }

    #[test]
    fn a_crawl_with_its_plan_comes_first() {
        let gates = GatesHeard { heard: 2, following: 2, oldest_ms: Some(3_100), centers: 1 };
        check(
            report(),
            Some(gates),
            expect![[r#"
            orders  44,100 requests in 74 s at 2 gates (oldest report 3 s ago), 12 % refused, 1 % not identified

            CRAWL  client::"x" walks /orders/{id}: about 41,000 different ids, 93 % of requests (554/s), refused 12 %
                   first seen 3 min ago
                   the plan bulk fits it:
                   keepgate key create --service orders --principal client::x --plan bulk

            WHO              SHARE     RATE   REFUSED  FIRST SEEN  METHODS   ROUTES
            principals
              client::"x"    93 %      554/s  12 %     3 min ago   GET       /orders/{id}
              user::"alice"  2 to 4 %  2.0/s  0 %      2 h ago     GET POST  /orders and 1 more
            addresses
              192.0.2.7      93 %      555/s  12 %     3 min ago   GET       /orders/{id}
        "#]],
        );
    }

    #[test]
    fn a_crawl_that_no_plan_fits_and_one_that_shows_no_key() {
        let mut report = report();
        report["principals"] = json!([]);
        let crawl = report.pointer_mut("/crawls/0").unwrap();
        for (member, value) in [
            ("by", json!("address")),
            ("name", json!("192.0.2.7")),
            ("plan", Value::Null),
            ("distinct_at_least", json!(20_111)),
        ] {
            crawl.as_object_mut().unwrap().insert(member.to_owned(), value);
        }
        check(
            report.clone(),
            None,
            expect![[r#"
            orders  44,100 requests in 74 s, 12 % refused, 1 % not identified

            CRAWL  192.0.2.7 walks /orders/{id}: about 20,000 to 41,000 different ids, 93 % of requests (554/s), refused 12 %
                   first seen 3 min ago; it sends no key: find out who it is
                   no plan fits 554/s; if the service can take it:
                   keepgate plan set up-to-670 --service orders --rate 670/s
                   keepgate key create --service orders --principal client::NAME --plan up-to-670

            WHO          SHARE  RATE   REFUSED  FIRST SEEN  METHODS  ROUTES
            addresses
              192.0.2.7  93 %   555/s  12 %     3 min ago   GET      /orders/{id}
        "#]],
        );
        report["addresses"] = json!([]);
        report["crawls"][0]["principal"] = json!("client::\"it's\"");
        check(
            report,
            None,
            expect![[r#"
            orders  44,100 requests in 74 s, 12 % refused, 1 % not identified

            CRAWL  192.0.2.7 walks /orders/{id}: about 20,000 to 41,000 different ids, 93 % of requests (554/s), refused 12 %
                   its accepted requests came from client::"it's"
                   no plan fits 554/s; if the service can take it:
                   keepgate plan set up-to-670 --service orders --rate 670/s
                   keepgate key create --service orders --principal 'client::"it'\''s"' --plan up-to-670

            WHO  SHARE  RATE  REFUSED  FIRST SEEN  METHODS  ROUTES
        "#]],
        );
    }

    #[test]
    fn nothing_and_nobody_are_told_apart() {
        let mut report = report();
        for (member, value) in [("requests", json!(0)), ("crawls", json!([]))] {
            report.as_object_mut().unwrap().insert(member.to_owned(), value);
        }
        let gates = GatesHeard { heard: 1, following: 1, oldest_ms: Some(19_000), centers: 1 };
        check(
            report,
            Some(gates),
            expect![[r#"
            orders  no requests in 74 s at 1 gate (oldest report 19 s ago)
        "#]],
        );
        let gates = GatesHeard { heard: 0, following: 0, oldest_ms: None, centers: 1 };
        expect![[r#"
            orders: not known. no gate of it is connected to this center; this says nothing about its traffic.
              keepgate top clients --gate URL    asks a gate's admin listener itself
        "#]].assert_eq(&unheard("orders", gates));
        let gates = GatesHeard { heard: 0, following: 3, oldest_ms: None, centers: 1 };
        expect![[r#"
            orders: not known. 3 followers are connected, and none has reported in the last 30 s; this says nothing about its traffic.
              keepgate top clients --gate URL    asks a gate's admin listener itself
        "#]].assert_eq(&unheard("orders", gates));
    }

    #[test]
    fn parts_and_rates_are_not_flattered() {
        let parts = [(0, 9), (1, 1_000), (1, 3), (999, 1_000), (9, 9), (1, 0)];
        let said = parts.map(|(part, whole)| percent(part, whole));
        assert_eq!(said, ["0 %", "<1 %", "33 %", ">99 %", "100 %", "0 %"]);
        assert_eq!([0.01, 0.5, 9.96, 1234.4].map(rate), ["0.6/min", "0.5/s", "10.0/s", "1,234/s"]);
        assert_eq!([0.2, 8.0, 83.0, 554.0, 99_999.0].map(roomy), [1, 10, 100, 670, 120_000]);
        assert_eq!([7, 99, 104, 41_321].map(rounded), [7, 99, 100, 41_000]);
    }
}
