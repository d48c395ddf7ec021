//! *Policies*: the text of a service with what Cedar says of it, its routes and its limits.

use std::collections::BTreeMap;

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use keepgate_limit::rules::{NamedPlan, Rule};
use keepgate_policy::route::Route;
use maud::{Markup, html};
use serde_json::json;

use super::ask::{Ask, Told};
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{
    Icon, Tone, badge, done, empty, english, hidden, notice, num, pages, panel, refused, still,
    table, tag, unknown,
};
use super::text::Lang;
use super::visit::Visit;
use super::{Console, part, plans};
use crate::access::Permission;

/// What errors and warnings call the text.
const FILE: &str = "policies.cedar";

/// Rows of a page.
const ROWS: usize = 50;

/// Lines of the text that a page numbers; the editor numbers the rest.
const LINES: usize = 20_000;

/// A text that is worked on.
struct Draft {
    text: String,
    /// What it was made of.
    tag: String,
    /// The newest revision then.
    over: u64,
}

/// What is said of it.
#[derive(Default)]
struct Said {
    above: Option<Markup>,
    problems: Vec<api::Located>,
    warnings: Vec<api::Warning>,
    /// Whether it was checked, and has no error.
    is_good: bool,
    preview: Option<api::Applied>,
    /// From the text that is stored now to the draft, and the former, where the draft was made of another.
    conflict: Option<(String, String)>,
}

async fn stored(
    console: &Console,
    visit: &Visit,
    service: &str,
) -> Result<Told<api::CedarText>, api::Problem> {
    let path = format!("/v1/services/{}/cedar", encoded(service));
    console.ask(visit, Ask::get(&path)).await
}

pub(crate) async fn show(console: &Console, visit: &Visit) -> Response {
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let t = visit.lang;
    let Some(service) = place.service.clone() else {
        let body =
            still("text", t.policies(), "", &empty(t.no_service_yet(), t.no_service_yet_more()));
        return frame::page(visit, StatusCode::OK, Nav::Policies, &place, &body);
    };
    let body = match visit.query.text("tab") {
        "routes" => routes(console, visit, &service).await,
        "limits" => limits(console, visit, &service).await,
        _ => match stored(console, visit, &service).await {
            Ok(Told { value, tag }) => {
                let saved = visit.query.text("saved").parse::<u64>();
                let above = saved.ok().map(|revision| done(&t.saved_as(num(revision))));
                let draft = Draft { text: value.text, tag, over: value.revision };
                Ok(editor(visit, &service, &draft, &Said { above, ..Said::default() }))
            }
            Err(problem) => Err(problem),
        },
    };
    let (status, body) = match body {
        Ok(body) => (StatusCode::OK, body),
        Err(problem) => (
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            refused(t, &problem),
        ),
    };
    frame::page(visit, status, Nav::Policies, &place, &body)
}

pub(crate) async fn submit(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let service = visit.service().to_owned();
    // Browsers end lines as mail does.
    let text = visit.form.raw("text").replace("\r\n", "\n");
    let over = visit.form.text("over").parse().unwrap_or_default();
    let mut draft = Draft { text, tag: visit.form.text("tag").to_owned(), over };
    let mut said = Said::default();
    let mut status = StatusCode::OK;
    let deed = visit.form.text("do");
    if deed == "show" {
        said.above = Some(done(t.text_kept()));
    } else {
        let dry_run = deed != "save";
        let path = format!("/v1/services/{}/cedar?dry_run={dry_run}", encoded(&service));
        let ask = Ask::put(&path, json!({ "text": draft.text })).over(&draft.tag).once(visit);
        match console.ask::<api::Applied>(visit, ask).await {
            Ok(told) if !dry_run => {
                let revision = told.value.changed.revision;
                let to = format!("/policies?service={}&saved={revision}", encoded(&service));
                return super::visit::see_other(&to);
            }
            Ok(told) => {
                said.warnings.clone_from(&told.value.changed.warnings);
                said.is_good = true;
                said.preview = Some(told.value);
            }
            Err(problem) => {
                status = StatusCode::from_u16(problem.status).unwrap_or(status);
                if problem.status == 412 {
                    conflict(console, visit, &service, &mut draft, &mut said).await;
                } else if problem.status == 422 && !problem.problems.is_empty() {
                    said.problems = problem.problems;
                    said.warnings = problem.warnings;
                } else {
                    said.above = Some(refused(t, &problem));
                }
            }
        }
    }
    let body = editor(visit, &service, &draft, &said);
    frame::page(visit, status, Nav::Policies, &place, &body)
}

/// Somebody else was faster: both texts are shown, and the draft is over theirs from now on.
async fn conflict(
    console: &Console,
    visit: &Visit,
    service: &str,
    draft: &mut Draft,
    said: &mut Said,
) {
    let t = visit.lang;
    match stored(console, visit, service).await {
        Ok(Told { value, tag }) => {
            let (before, now) = (num(draft.over), num(value.changed));
            let body = html! { p { (t.conflict_more(before, now)) } };
            said.above = Some(notice(Tone::Warn, Icon::Warn, t.conflict(), &body));
            let diff = crate::api::diff::unified(&value.text, &draft.text);
            said.conflict = Some((diff, value.text));
            draft.tag = tag;
            draft.over = value.revision;
        }
        Err(problem) => said.above = Some(refused(t, &problem)),
    }
}

fn tabs(t: Lang, service: &str, chosen: &str) -> Markup {
    let tab = |name: &str, title: &str| {
        html! {
            a href={ "/policies?service=" (encoded(service)) "&tab=" (name) }
                aria-current=[(name == chosen).then_some("true")] { (title) }
        }
    };
    html! {
        span class="seg" {
            (tab("text", t.policies())) (tab("routes", t.routes())) (tab("limits", t.limits()))
        }
    }
}

/// The lines that problems and warnings are about.
fn marks(said: &Said) -> BTreeMap<u64, Tone> {
    let mut marks = BTreeMap::new();
    for warning in said.warnings.iter().filter(|one| one.file.as_deref() == Some(FILE)) {
        marks.extend(warning.line.map(|line| (line, Tone::Warn)));
    }
    for problem in said.problems.iter().filter(|one| one.file.as_deref() == Some(FILE)) {
        marks.extend(problem.line.map(|line| (line, Tone::Bad)));
    }
    marks
}

fn editor(visit: &Visit, service: &str, draft: &Draft, said: &Said) -> Markup {
    let t = visit.lang;
    let marks = marks(said);
    let lines = draft.text.lines().count().max(12) + 1;
    let may = visit.who.as_ref().is_some_and(|who| {
        who.caller.may(Permission::Write) && who.caller.bound().is_none_or(|own| own == service)
    });
    let form = html! {
        form method="post" action="/policies" {
            (hidden(visit))
            (part::carried(&[("service", service), ("tag", &draft.tag)]))
            input type="hidden" name="over" value=(draft.over);
            div class="ed" {
                ol aria-hidden="true" {
                    @for line in 1..=lines.min(LINES) as u64 {
                        @match marks.get(&line) {
                            Some(Tone::Bad) => li class="e" { span class="bad" { (Icon::Bad.at(14)) } span { (line) } },
                            Some(_) => li class="w" { span class="warn" { (Icon::Warn.at(14)) } span { (line) } },
                            None => li { span { (line) } },
                        }
                    }
                }
                textarea name="text" rows=(lines) wrap="off" spellcheck="false"
                    autocapitalize="off" autocomplete="off" aria-label=(t.policies_as_text())
                    aria-invalid=[(!said.problems.is_empty()).then_some("true")]
                    aria-describedby=[(!said.problems.is_empty()).then_some("diagnostics-h")]
                    readonly[!may] { "\n" (draft.text) }
            }
            footer {
                @if may {
                    span class="actions" {
                        button class={ "btn" (if said.is_good { "" } else { " primary" }) } name="do" value="check" {
                            (t.check_and_preview())
                        }
                        button class={ "btn" (if said.is_good { " primary" } else { "" }) } name="do" value="save" {
                            @if said.conflict.is_some() { (t.save_over(num(draft.over))) }
                            @else { (t.save_revision()) }
                        }
                    }
                    span { (t.saving_needs()) }
                } @else { span { (t.only_reading()) } }
            }
        }
    };
    let text = html! {
        section class="panel" id="text" aria-labelledby="text-h" {
            header {
                h2 id="text-h" { (format!("{service}.cedar")) }
                p { (t.over_revision(num(draft.over))) }
                span class="actions" { (tabs(t, service, "text")) }
            }
            (form)
        }
    };
    html! {
        @if let Some(above) = &said.above { (above) }
        @if let Some((diff, theirs)) = &said.conflict {
            (still("conflict", t.yours_and_theirs(), t.yours_and_theirs_rest(), &differences(t, diff)))
            (still("theirs", t.theirs(), t.over_revision(num(draft.over)).as_str(), &html! {
                div class="diff" tabindex="0" role="group" aria-label=(t.theirs()) {
                    @for line in theirs.lines().take(LINES) { div { (line) } }
                }
            }))
        }
        div class="two wide-left" {
            div class="stack" { (text) @if let Some(preview) = &said.preview { (would(t, preview)) } }
            div class="stack" { (diagnostics(t, &draft.text, said)) }
        }
    }
}

/// Characters of a line that are shown around what is said of it.
const AROUND: usize = 80;

/// A line of the text with carets below the characters that something is said of.
struct Pointed {
    line: String,
    /// As wide as what is before the carets, in a font of which each character has one or two cells.
    pad: String,
    carets: String,
}

/// Whether a character takes two cells: those of Chinese, Japanese and Korean, and emoji.
fn is_wide(c: char) -> bool {
    matches!(u32::from(c), 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd)
}

impl Pointed {
    /// `line` and `column` from 1, in characters. None: the text has no such place.
    fn at(text: &str, line: u64, column: u64, length: u64) -> Option<Pointed> {
        let at = usize::try_from(line).ok()?.checked_sub(1)?;
        let text = text.split('\n').nth(at)?;
        let before = usize::try_from(column).ok()?.checked_sub(1)?;
        if before > text.chars().count() {
            return None;
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX).clamp(1, AROUND);
        let skipped = before.saturating_sub(AROUND);
        let shown: String = text.chars().skip(skipped).take(AROUND + length + AROUND).collect();
        let rest = text.chars().nth(skipped + AROUND + length + AROUND).is_some();
        let ahead = if skipped > 0 { ".. " } else { "" };
        let blank = |c: char| match c {
            '\t' => '\t',
            c if is_wide(c) => '\u{3000}',
            _ => ' ',
        };
        let pad = ahead.chars().chain(shown.chars().take(before - skipped)).map(blank).collect();
        let marked = shown.chars().skip(before - skipped).take(length);
        let carets: String = marked.map(|c| if is_wide(c) { '\u{ff3e}' } else { '^' }).collect();
        let carets = if carets.is_empty() { "^".to_owned() } else { carets };
        let line = format!("{ahead}{shown}{}", if rest { " .." } else { "" });
        Some(Pointed { line, pad, carets })
    }

    fn show(&self, t: Lang, line: u64, tone: Tone) -> Markup {
        let number = line.to_string();
        let class = match tone {
            Tone::Bad => "under",
            _ => "under w",
        };
        html! {
            pre tabindex="0" role="group" aria-label=(t.line(line)) {
                (number) " | " (self.line) "\n"
                (" ".repeat(number.len())) " | " (self.pad) span class=(class) { (self.carets) }
            }
        }
    }
}

fn diagnostics(t: Lang, text: &str, said: &Said) -> Markup {
    let checked = said.is_good || !said.problems.is_empty();
    let title = match checked {
        true => t.errors_and_warnings(said.problems.len(), said.warnings.len()),
        false => t.not_checked().to_owned(),
    };
    let one = |tone: Tone, icon, word: &str, at: At<'_>, id: &str, message: &str| {
        let At { file, line, column, length } = at;
        let own = file == Some(FILE);
        let pointed = line.zip(column).filter(|_| own).and_then(|(line, column)| {
            let pointed = Pointed::at(text, line, column, length.unwrap_or(1))?;
            Some(pointed.show(t, line, tone))
        });
        html! {
            li {
                div class="actions" {
                    (badge(tone, icon, word))
                    @match (line, column) {
                        (Some(line), Some(column)) => span class="small" { (t.line_column(line, column)) },
                        (Some(line), None) => span class="small" { (t.line(line)) },
                        _ => {},
                    }
                    @if !id.is_empty() { span class="quiet small" { (id) } }
                }
                p { (english(t, message)) }
                @if let Some(pointed) = pointed { (pointed) }
            }
        }
    };
    let body = html! {
        @if said.problems.is_empty() && said.warnings.is_empty() {
            div class="empty" {
                @if checked { p { (t.nothing_to_say()) } } @else { p { (t.not_checked_more()) } }
            }
        } @else {
            ol class="diag" {
                @for p in said.problems.iter().take(100) {
                    (one(Tone::Bad, Icon::Bad, t.error(), At { file: p.file.as_deref(), line: p.line, column: p.column, length: p.length }, p.id.as_deref().unwrap_or_default(), &p.message))
                }
                @for w in said.warnings.iter().take(100) {
                    (one(Tone::Warn, Icon::Warn, t.warning(), At { file: w.file.as_deref(), line: w.line, column: w.column, length: w.length }, &w.id, &w.message))
                }
            }
        }
    };
    still("diagnostics", &title, t.cedar_said(), &body)
}

/// Where something is said.
struct At<'a> {
    file: Option<&'a str>,
    line: Option<u64>,
    column: Option<u64>,
    length: Option<u64>,
}

/// How a line of a diff is drawn.
fn class_of(line: &str) -> &'static str {
    match line.chars().next() {
        Some('+') => "add",
        Some('-') => "del",
        Some('@') => "hunk",
        _ => "",
    }
}

/// Line by line, as `diff -u` has it.
fn differences(t: Lang, text: &str) -> Markup {
    html! {
        @if text.is_empty() { div class="empty" { p { (t.no_difference()) } } }
        div class="diff" tabindex="0" role="group" aria-label=(t.differences()) {
            @for line in text.lines().take(2_000) {
                div class=(class_of(line)) { (line) }
            }
        }
    }
}

fn would(t: Lang, preview: &api::Applied) -> Markup {
    let changed = &preview.changed;
    let gains = preview.access.iter().filter(|one| one.gained).count();
    let body = html! {
        @if changed.changes.is_empty() { div class="empty" { p { (t.changes_nothing()) } } }
        @for change in changed.changes.iter().take(100) {
            div class="change" {
                p {
                    @match change.op {
                        api::Op::Create => (tag(t.created())),
                        api::Op::Update => (tag(t.updated())),
                        api::Op::Delete => (tag(t.deleted())),
                    }
                    " " b { (change.item.id) }
                }
                @if let Some(diff) = change.diff.as_deref().filter(|diff| !diff.is_empty()) {
                    (differences(t, diff))
                }
            }
        }
        @if !preview.access.is_empty() {
            ul class="gt in" {
                @for one in preview.access.iter().take(100) {
                    li {
                        @if one.gained { span class="ok" { (Icon::Plus.at(14)) } }
                        @else { span class="bad" { (Icon::Minus.at(14)) } }
                        span { (one.principal) ": " (english(t, &one.message)) }
                    }
                }
            }
        }
        footer {
            span { (t.access_gained(num(gains as u64))) }
            span { (t.access_lost(num((preview.access.len() - gains) as u64))) }
        }
    };
    still("would", t.what_would_change(), t.what_would_change_rest(), &body)
}

async fn routes(console: &Console, visit: &Visit, service: &str) -> Result<Markup, api::Problem> {
    let t = visit.lang;
    let after = visit.query.text("after");
    let path =
        format!("/v1/services/{}/routes?limit={ROWS}&after={}", encoded(service), encoded(after));
    let list: api::ItemList<Route> = console.get(visit, &path).await?;
    let heads = [
        (t.route(), false),
        (t.action(), false),
        (t.resource(), false),
        (t.max_age(), true),
        (t.cost(), true),
        (t.changed_at(), true),
        (t.brought_by(), false),
    ];
    let rows = html! {
        @for one in &list.items {
            @let route = &one.body;
            tr {
                th scope="row" { code { (route.method) " " (route.path) } }
                td { code { (route.action.as_deref().unwrap_or(&route.method)) } }
                td {
                    @match &route.resource {
                        Some(rule) => code { (serde_json::to_string(rule).unwrap_or_default()) },
                        None => span class="quiet" { (t.the_route()) },
                    }
                }
                td class="n" {
                    @match route.max_age_ms {
                        Some(ms) => (t.span(ms)),
                        None => span class="quiet" { (t.as_service()) },
                    }
                }
                td class="n" { (route.cost.unwrap_or(1)) }
                td class="n" { (num(one.revision)) }
                td { (tag(t.brought(one.brought))) }
            }
        }
    };
    let base = format!("/policies?service={}&tab=routes", encoded(service));
    let body = html! {
        @if list.items.is_empty() { (empty(t.no_route(), t.no_route_more())) }
        @else { (table(t.routes(), &heads, &rows)) }
        (pages(t, &base, after, list.next.as_deref()))
    };
    Ok(panel("routes", t.routes(), t.routes_rest(), &tabs(t, service, "routes"), &body))
}

async fn limits(console: &Console, visit: &Visit, service: &str) -> Result<Markup, api::Problem> {
    let t = visit.lang;
    let after = visit.query.text("after");
    let at = |kind: &str, after: &str| {
        format!("/v1/services/{}/{kind}?limit={ROWS}&after={}", encoded(service), encoded(after))
    };
    let rules: api::ItemList<Rule> = console.get(visit, &at("limits", after)).await?;
    let plans: api::ItemList<NamedPlan> = console.get(visit, &at("plans", "")).await?;
    let hour = format!("/v1/services/{}/hour", encoded(service));
    let hour: api::ServiceHour = console.get(visit, &hour).await?;
    let heads = [
        (t.limit(), false),
        (t.hour_asked(), true),
        (t.hour_limited(), true),
        (t.counted_by(), false),
        (t.applies_to(), false),
        (t.rate(), true),
        (t.burst(), true),
        (t.at_once(), true),
        (t.changed_at(), true),
    ];
    let rows = html! {
        @for one in &rules.items {
            (rule(t, &one.body, one.revision, &hour))
        }
    };
    let names: Vec<&str> = rules.items.iter().map(|one| one.body.name.as_str()).collect();
    let base = format!("/policies?service={}&tab=limits", encoded(service));
    let body = html! {
        @if rules.items.is_empty() { (empty(t.no_limit(), t.no_limit_more())) }
        @else { (table(t.limits(), &heads, &rows)) }
        (pages(t, &base, after, rules.next.as_deref()))
    };
    Ok(html! {
        (panel("limits", t.limits(), t.limits_rest(), &tabs(t, service, "limits"), &body))
        @if after.is_empty() && rules.next.is_none() { (other_limits(t, &names, &hour)) }
        (plans::panel(t, &plans))
    })
}

/// What the limits of a plan, or those that gates have by themselves, did in the last hour.
fn other_limits(t: Lang, rules: &[&str], hour: &api::ServiceHour) -> Markup {
    let heads = [(t.limit(), false), (t.hour_asked(), true), (t.hour_limited(), true)];
    let all = hour.limits.iter().flatten();
    let others: Vec<_> = all.filter(|one| !rules.contains(&one.name.as_str())).collect();
    let rows = html! {
        @for one in others.iter().take(ROWS) {
            tr {
                th scope="row" { (one.name) }
                td class="n" { (num(one.requests)) }
                td class="n" { (num(one.refused)) }
            }
        }
    };
    html! {
        @if !others.is_empty() {
            (panel("other-limits", t.other_limits(), t.other_limits_rest(), &html! {},
                &table(t.other_limits(), &heads, &rows)))
        }
    }
}

fn rule(t: Lang, rule: &Rule, revision: u64, hour: &api::ServiceHour) -> Markup {
    // As the files have them.
    let said = serde_json::to_value(rule).unwrap_or_default();
    let text = |name: &str| match said.get(name) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Array(all)) => {
            all.iter().filter_map(|one| one.as_str()).collect::<Vec<_>>().join(", ")
        }
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let to: Vec<String> = ["methods", "route", "principal_type", "plan"]
        .into_iter()
        .map(text)
        .filter(|text| !text.is_empty())
        .collect();
    let or_none = |text: String| {
        html! { @if text.is_empty() { span class="quiet" { (t.none()) } } @else { (text) } }
    };
    html! {
        tr {
            th scope="row" { (rule.name) }
            @match &hour.limits {
                Some(limits) => {
                    @let did = limits.iter().find(|did| did.name == rule.name);
                    td class="n" { (num(did.map_or(0, |did| did.requests))) }
                    td class="n" {
                        (num(did.map_or(0, |did| did.refused)))
                        @if rule.shadow { small { (t.in_shadow()) } }
                    }
                },
                None => {
                    td class="n" { (unknown(t)) }
                    td class="n" { (unknown(t)) }
                },
            }
            td { code { (text("key")) } }
            td {
                @if to.is_empty() { (t.every_request()) } @else { code { (to.join(" ")) } }
            }
            td class="n" { (or_none(text("rate"))) }
            td class="n" { (or_none(text("burst"))) }
            td class="n" { (or_none(text("concurrency"))) }
            td class="n" { (num(revision)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The carets stand below the characters that they are of: as many cells before both.
        #[test]
        fn carets_point_at_the_characters(
            parts in proptest::collection::vec(
                prop_oneof![Just('\t'), Just('a'), Just('\u{e9}'), Just('\u{6743}'), Just(' ')], 1..400,
            ),
            at in 0usize..400,
            length in 1u64..9,
        ) {
            let at = at % parts.len();
            let line: String = parts.iter().collect();
            let text = format!("first\n{line}\nlast");
            let pointed = Pointed::at(&text, 2, at as u64 + 1, length).unwrap();
            let before: usize = pointed.pad.chars().count();
            let shown: Vec<char> = pointed.line.chars().collect();
            prop_assert_eq!(shown[before], parts[at]);
            for (pad, shown) in pointed.pad.chars().zip(&shown) {
                prop_assert_eq!(pad == '\t', *shown == '\t');
                prop_assert_eq!(pad == '\u{3000}', is_wide(*shown));
            }
            let wanted = (parts.len() - at).min(usize::try_from(length).unwrap());
            prop_assert_eq!(pointed.carets.chars().count(), wanted);
        }
    }

    #[test]
    fn a_place_beyond_the_text_has_no_carets() {
        assert!(Pointed::at("a", 1, 3, 1).is_none());
        assert!(Pointed::at("a", 2, 1, 1).is_none());
        assert!(Pointed::at("a", 0, 1, 1).is_none() && Pointed::at("a", 1, 0, 1).is_none());
        assert_eq!(Pointed::at("a", 1, 2, u64::MAX).unwrap().carets, "^");
    }
}
