//! How texts differ, line by line: both line numbers, the sign, and the words that are another.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use maud::{Markup, html};

use super::Console;
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{Field, Icon, empty, num, refused, still, tag, unknown};
use super::text::Lang;
use super::visit::Visit;

/// Changes of a page.
pub(crate) const CHANGES: usize = 50;

/// Lines of one difference; the API cuts longer texts off by bytes.
const LINES: usize = 2_000;

/// In front of what is gone, as wide as a plus.
const MINUS: char = '\u{2212}';

/// A line of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line<'a> {
    sign: char,
    old: Option<u64>,
    new: Option<u64>,
    /// What both have in front, what is its own, what both have behind.
    parts: [&'a str; 3],
}

/// The lines of a text as `diff -u` writes it. Lines that replace as many others are compared with them.
fn lines(text: &str) -> Vec<Line<'_>> {
    let (mut old, mut new) = (1, 1);
    let mut found: Vec<Line<'_>> = Vec::new();
    for line in text.lines().take(LINES) {
        let mut chars = line.chars();
        let sign = chars.next().unwrap_or(' ');
        let rest = chars.as_str();
        if sign == '@' {
            (old, new) = starts(line).unwrap_or((old, new));
            continue;
        }
        let next = |mine: bool, at: &mut u64| mine.then(|| std::mem::replace(at, *at + 1));
        let numbers =
            (next(matches!(sign, '-' | ' '), &mut old), next(matches!(sign, '+' | ' '), &mut new));
        found.push(Line { sign, old: numbers.0, new: numbers.1, parts: ["", rest, ""] });
    }
    let mut at = 0;
    while at < found.len() {
        let run = |from: usize, sign: char| {
            found
                .get(from..)
                .unwrap_or_default()
                .iter()
                .take_while(|line| line.sign == sign)
                .count()
        };
        let gone = run(at, '-');
        let came = run(at + gone, '+');
        if gone > 0 && gone == came {
            for n in at..at + gone {
                let whole = |n: usize| found.get(n).map_or("", |line| line.parts[1]);
                let (before, after) = (whole(n), whole(n + gone));
                if let Some((first, second)) = apart(before, after) {
                    for (n, parts) in [(n, first), (n + gone, second)] {
                        if let Some(line) = found.get_mut(n) {
                            line.parts = parts;
                        }
                    }
                }
            }
        }
        at += (gone + came).max(1);
    }
    found
}

/// The first lines of a hunk: `@@ -3,7 +3,8 @@`.
fn starts(head: &str) -> Option<(u64, u64)> {
    let mut numbers = head
        .split(['-', '+'])
        .skip(1)
        .map(|part| part.split([',', ' ']).next().and_then(|number| number.parse().ok()));
    Some((numbers.next()??, numbers.next()??))
}

/// Two lines taken apart at what they have in common; none: that is too little to be of help.
fn apart<'a>(before: &'a str, after: &'a str) -> Option<([&'a str; 3], [&'a str; 3])> {
    let same = before.chars().zip(after.chars()).take_while(|(a, b)| a == b);
    let head: usize = same.map(|(a, _)| a.len_utf8()).sum();
    let (before_rest, after_rest) = (before.get(head..)?, after.get(head..)?);
    let same = before_rest.chars().rev().zip(after_rest.chars().rev()).take_while(|(a, b)| a == b);
    let tail: usize = same.map(|(a, _)| a.len_utf8()).sum();
    if (head + tail) * 3 < before.len().max(after.len()) {
        return None;
    }
    let cut = |whole: &'a str, rest: &'a str| {
        let middle = rest.len().checked_sub(tail)?;
        Some([whole.get(..head)?, rest.get(..middle)?, rest.get(middle..)?])
    };
    Some((cut(before, before_rest)?, cut(after, after_rest)?))
}

fn class_of(sign: char) -> &'static str {
    match sign {
        '+' => "add",
        '-' => "del",
        _ => "",
    }
}

/// A difference, drawn.
fn drawn(t: Lang, label: &str, text: &str) -> Markup {
    html! {
        div class="diff lined" tabindex="0" role="group" aria-label=(label) {
            @for line in lines(text) {
                @let [head, own, tail] = line.parts;
                div class=(class_of(line.sign)) {
                    span class="no" { @if let Some(n) = line.old { (n) } }
                    span class="no" { @if let Some(n) = line.new { (n) } }
                    span class="sg" {
                        @match line.sign {
                            '+' => { span class="sr" { (t.line_added()) " " } span aria-hidden="true" { "+" } },
                            '-' => { span class="sr" { (t.line_removed()) " " } span aria-hidden="true" { (MINUS) } },
                            _ => {},
                        }
                    }
                    span {
                        (head)
                        @if head.is_empty() && tail.is_empty() { (own) }
                        @else if line.sign == '+' { ins { (own) } }
                        @else { del { (own) } }
                        (tail)
                    }
                }
            }
        }
    }
}

/// What happened to an item.
pub(crate) fn op(t: Lang, op: api::Op) -> Markup {
    let word = match op {
        api::Op::Create => t.created(),
        api::Op::Update => t.updated(),
        api::Op::Delete => t.deleted(),
    };
    tag(word)
}

/// How many items were created, updated and deleted.
pub(crate) fn counted(t: Lang, counts: api::ChangeCounts) -> String {
    t.counts(num(counts.created), num(counts.updated), num(counts.deleted))
}

/// An item's id; a service and its schema have their service's name.
pub(crate) fn shown_id(change: &api::PastChange) -> &str {
    if change.id.is_empty() { &change.service } else { &change.id }
}

/// An item that changed, with how, and of which service it is.
pub(crate) fn change(t: Lang, one: &api::PastChange) -> Markup {
    let place = match one.service.as_str() {
        "" => t.of_directory().to_owned(),
        service => t.of_service(service),
    };
    placed(t, one, &place)
}

/// The same, in a place that is told in words; empty: it is not told.
pub(crate) fn placed(t: Lang, change: &api::PastChange, place: &str) -> Markup {
    html! {
        div class="change" {
            p {
                @if let Some(counts) = change.counts { (tag(t.many())) " " (change.kind) ": " (counted(t, counts)) }
                @else { (op(t, change.op)) " " (change.kind) " " b class="mono" { (shown_id(change)) } }
                @if !place.is_empty() { span class="quiet small" { " " (place) } }
            }
            @if let Some(diff) = &change.diff {
                (drawn(t, &t.differences_of(&change.kind, shown_id(change)), diff))
            } @else if change.counts.is_none() {
                p class="quiet small" { (t.no_text_difference()) }
            }
        }
    }
}

/// A state that a field names, as a link's part.
pub(super) fn state_of(text: &str) -> String {
    text.trim().replace(',', "")
}

/// `GET /history/diff`: how two states differ.
pub(crate) async fn show(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let service = place.service.as_deref().unwrap_or_default();
    let own = visit.query.text("only") == "yes" && !service.is_empty();
    let (from, to) = (state_of(visit.query.text("from")), state_of(visit.query.text("to")));
    let after = visit.query.text("after");
    let mut status = StatusCode::OK;
    let mut link = format!("from={}", encoded(&from));
    if !to.is_empty() {
        link = format!("{link}&to={}", encoded(&to));
    }
    let found = if from.is_empty() {
        html! { (still("states", t.two_states(), "", &empty(t.name_a_state(), t.name_a_state_more()))) }
    } else {
        let mut path = format!("/v1/diff?{link}&limit={CHANGES}");
        if own {
            path = format!("{path}&service={}", encoded(service));
        }
        if !after.is_empty() {
            path = format!("{path}&after={}", encoded(after));
        }
        match console.get::<api::StateDiff>(visit, &path).await {
            Ok(diff) => {
                let only = if own { "yes" } else { "" };
                let base = format!("/history/diff?service={}&{link}&only={only}", encoded(service));
                differ(t, &diff, &base, after)
            }
            Err(problem) => {
                status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
                refused(t, &problem)
            }
        }
    };
    let form = html! {
        form class="in" method="get" action="/history/diff" {
            input type="hidden" name="service" value=(service);
            div class="row" {
                (Field { name: "from", label: t.state_from(), value: &from, hint: t.state_hint(), needed: true }.show())
                (Field { name: "to", label: t.state_to(), value: &to, hint: t.state_hint_now(), needed: false }.show())
            }
            (only_box(t, service, own))
            div class="actions" {
                button class="btn primary" { (t.compare()) }
                a class="btn" href={ "/history?service=" (encoded(service)) } { (t.to_history()) }
            }
        }
    };
    let body = html! { (still("compare", t.compare_two(), "", &form)) (found) };
    frame::page(visit, status, Nav::History, &place, &body)
}

/// Whether only the service that is looked at counts.
pub(super) fn only_box(t: Lang, service: &str, own: bool) -> Markup {
    html! {
        @if !service.is_empty() {
            div class="check" {
                input type="checkbox" id="f-only" name="only" value="yes" checked[own];
                label for="f-only" { (t.only_of(service)) }
            }
        }
    }
}

fn differ(t: Lang, diff: &api::StateDiff, base: &str, after: &str) -> Markup {
    let body = html! {
        @if diff.changes.is_empty() { (empty(t.no_difference(), t.no_difference_more())) }
        @for one in &diff.changes { (change(t, one)) }
        footer {
            span { (t.items_differ(num(diff.total))) }
            @if !after.is_empty() { a href=(base) { (t.first_page()) } }
            @if let Some(next) = diff.next { a href={ (base) "&after=" (next) } { (t.next_page()) } }
        }
    };
    still("states", &t.states_between(num(diff.from), num(diff.to)), "", &body)
}

/// A number that is not known, or a revision with its page.
pub(crate) fn revision_link(t: Lang, service: &str, revision: Option<u64>) -> Markup {
    html! {
        @match revision {
            Some(n) => a href={ "/history?service=" (encoded(service)) "&revision=" (n) } { (num(n)) },
            None => (unknown(t)),
        }
    }
}

/// What a change gives and takes.
pub(crate) fn gives_and_takes(t: Lang, all: &[api::AccessChange]) -> Markup {
    html! {
        ul class="gt in" {
            @for one in all.iter().take(100) {
                li {
                    @if one.gained { span class="ok" { (Icon::Plus.at(14)) span class="sr" { (t.gives()) } } }
                    @else { span class="bad" { (Icon::Minus.at(14)) span class="sr" { (t.takes()) } } }
                    span { code { (one.principal) } ": " (super::part::english(t, &one.message)) }
                }
            }
        }
        @if all.len() > 100 { p class="in quiet small" { (t.of_many(100, num(all.len() as u64))) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_both_numbers_and_what_is_another_is_marked() {
        let text =
            crate::api::diff::unified("a\nrate = 1200/min\nc\nd\n", "a\nrate = 600/min\nc\ne\nf\n");
        let told: Vec<String> = lines(&text)
            .iter()
            .map(|line| {
                let n = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
                let [head, own, tail] = line.parts;
                format!("{} {} {} {head}[{own}]{tail}", n(line.old), n(line.new), line.sign)
            })
            .collect();
        assert_eq!(
            told,
            [
                "1 1   [a]",
                "2 - - rate = [12]00/min",
                "- 2 + rate = [6]00/min",
                "3 3   [c]",
                "4 - - [d]",
                "- 4 + [e]",
                "- 5 + [f]",
            ]
        );
    }

    /// Whatever the texts are: what is shown of a line is the line.
    #[test]
    fn nothing_of_a_line_is_lost() {
        for (before, after) in [
            ("", "x"),
            ("aaaa", "aaa"),
            ("\u{4e2d}\u{6587}abc", "\u{4e2d}\u{6587}\u{e9}bc"),
            ("abab", "ababab"),
            ("same", "same"),
        ] {
            if let Some((first, second)) = apart(before, after) {
                assert_eq!(
                    (first.concat(), second.concat()),
                    (before.to_owned(), after.to_owned())
                );
            }
        }
        assert!(lines("no head\n+x").len() == 2 && lines("").is_empty());
    }
}
