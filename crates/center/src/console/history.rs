//! *History*: every revision, who made it, when, and what it changed.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use keepgate_policy::Kind;
use maud::{Markup, html};

use super::Console;
use super::diff::{CHANGES, change, only_box, shown_id};
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{Field, Icon, Tone, done, empty, english, notice, num, panel, refused, still};
use super::text::Lang;
use super::visit::Visit;
use crate::access::Permission;

/// Revisions of a page.
const ROWS: usize = 20;

/// Changes that a line of the list names.
const NAMED: usize = 2;

/// What is looked for.
struct Filter<'a> {
    service: &'a str,
    own: bool,
    actor: &'a str,
    kind: &'a str,
    id: &'a str,
}

impl<'a> Filter<'a> {
    fn of(visit: &'a Visit, place: &'a Place) -> Filter<'a> {
        let service = place.service.as_deref().unwrap_or_default();
        Filter {
            service,
            own: visit.query.text("only") == "yes" && !service.is_empty(),
            actor: visit.query.text("actor"),
            kind: visit.query.text("kind"),
            id: visit.query.text("id"),
        }
    }

    fn is_any(&self) -> bool {
        self.own || !self.actor.is_empty() || !self.kind.is_empty() || !self.id.is_empty()
    }

    /// The question to the API.
    fn asked(&self, before: &str) -> String {
        let mut path = format!("/v1/history?limit={ROWS}");
        let own = if self.own { self.service } else { "" };
        for (name, value) in [
            ("service", own),
            ("actor", self.actor),
            ("kind", self.kind),
            ("id", self.id),
            ("before", before),
        ] {
            if !value.is_empty() {
                path = format!("{path}&{name}={}", encoded(value));
            }
        }
        path
    }

    /// The page with this filter.
    fn link(&self) -> String {
        let mut link = format!("/history?service={}", encoded(self.service));
        for (name, value) in [
            ("only", if self.own { "yes" } else { "" }),
            ("actor", self.actor),
            ("kind", self.kind),
            ("id", self.id),
        ] {
            if !value.is_empty() {
                link = format!("{link}&{name}={}", encoded(value));
            }
        }
        link
    }
}

pub(crate) async fn show(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let filter = Filter::of(visit, &place);
    let before = visit.query.text("before");
    let mut status = StatusCode::OK;
    let saved = visit.query.text("saved").parse::<u64>().ok();
    let found = match console.get::<api::History>(visit, &filter.asked(before)).await {
        Ok(list) => {
            let named = visit.query.text("revision").replace(',', "");
            let is_named = !named.is_empty();
            let first = list.entries.first().map(|entry| entry.revision.to_string());
            let chosen = if is_named { Some(named) } else { first };
            let detail = match &chosen {
                Some(revision) => {
                    let (said, detail) =
                        revision_panel(console, visit, &filter, &list, revision).await;
                    status = said;
                    detail
                }
                None => html! {},
            };
            html! {
                div class="two past" {
                    (revisions(visit, &filter, &list, chosen.as_deref()))
                    div class={ "stack" (if is_named { "" } else { " auto" }) } { (detail) }
                }
            }
        }
        Err(problem) => {
            status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            refused(t, &problem)
        }
    };
    let body = html! {
        @if let Some(revision) = saved { (done(&t.changed_as(num(revision)))) }
        (search(visit, &filter))
        (found)
    };
    frame::page(visit, status, Nav::History, &place, &body)
}

fn search(visit: &Visit, filter: &Filter<'_>) -> Markup {
    let t = visit.lang;
    let body = html! {
        form class="in" method="get" action="/history" {
            input type="hidden" name="service" value=(filter.service);
            div class="row" {
                (Field { name: "actor", label: t.who(), value: filter.actor, hint: t.who_hint(), needed: false }.show())
                div class="field" {
                    label for="f-kind" { (t.kind()) }
                    select id="f-kind" name="kind" {
                        option value="" { (t.any_kind()) }
                        @for kind in Kind::ALL {
                            option value=(kind.as_str()) selected[kind.as_str() == filter.kind] { (kind.as_str()) }
                        }
                        option value="token" selected[filter.kind == "token"] { (t.token()) }
                    }
                }
                (Field { name: "id", label: t.item(), value: filter.id, hint: t.item_hint(), needed: false }.show())
            }
            (only_box(t, filter.service, filter.own))
            div class="actions" {
                button class="btn primary" { (t.filter()) }
                @if filter.is_any() {
                    a class="btn" href={ "/history?service=" (encoded(filter.service)) } { (t.everything()) }
                }
                a class="btn" href={ "/history/diff?service=" (encoded(filter.service)) } { (t.compare_two_states()) }
            }
        }
    };
    still("filter", t.what_is_looked_for(), "", &body)
}

/// The list; the newest first.
fn revisions(
    visit: &Visit,
    filter: &Filter<'_>,
    list: &api::History,
    chosen: Option<&str>,
) -> Markup {
    let t = visit.lang;
    let (link, before) = (filter.link(), visit.query.text("before"));
    let now = keepgate_observe::unix_ms();
    let at = if before.is_empty() { String::new() } else { format!("&before={}", encoded(before)) };
    let body = html! {
        @if list.entries.is_empty() {
            (nothing(t, list.next.is_some()))
        } @else {
            ol class="choose" {
                @for entry in &list.entries {
                    @let number = entry.revision.to_string();
                    li {
                        a href={ (link) (at) "&revision=" (number) }
                            aria-current=[(chosen == Some(number.as_str())).then_some("true")] {
                            b class="rev" { (num(entry.revision)) }
                            span class="quiet small" { (t.ago(now.saturating_sub(entry.unix_ms))) }
                            span class="quiet small delta" { (tally(entry)) }
                            small { code { (entry.actor) } " " (english(t, &entry.action)) }
                            @for one in entry.changes.iter().take(NAMED) {
                                small class="what" {
                                    (sign(one.op)) " "
                                    @if let Some(counts) = one.counts { (one.kind) ": " (super::diff::counted(t, counts)) }
                                    @else { (one.kind) " " b { (shown_id(one)) } }
                                }
                            }
                            @if entry.changes.len() > NAMED {
                                small { (t.and_more(num((entry.changes.len() - NAMED) as u64))) }
                            }
                        }
                    }
                }
            }
        }
        @if !before.is_empty() || list.next.is_some() {
            footer {
                @if !before.is_empty() { a href=(link) { (t.newest()) } }
                @if let Some(next) = list.next {
                    a href={ (link) "&before=" (next) } {
                        @if list.entries.is_empty() { (t.look_further()) } @else { (t.older()) }
                    }
                }
            }
        }
    };
    panel("revisions", t.revisions(), &t.kept_since(num(list.oldest)), &html! {}, &body)
}

/// That nothing is on the page: of a log that goes on, nobody says that there is nothing.
fn nothing(t: Lang, goes_on: bool) -> Markup {
    match goes_on {
        true => empty(t.nothing_so_far(), t.nothing_so_far_more()),
        false => empty(t.no_revision(), t.no_revision_more()),
    }
}

fn sign(op: api::Op) -> char {
    match op {
        api::Op::Create => '+',
        api::Op::Update => '~',
        api::Op::Delete => '\u{2212}',
    }
}

/// How many items were made and deleted: `+7 −2`.
fn tally(entry: &api::HistoryEntry) -> String {
    let mut all = [('+', 0), ('~', 0), ('\u{2212}', 0)];
    for one in &entry.changes {
        let counts = one.counts.unwrap_or(match one.op {
            api::Op::Create => api::ChangeCounts { created: 1, updated: 0, deleted: 0 },
            api::Op::Update => api::ChangeCounts { created: 0, updated: 1, deleted: 0 },
            api::Op::Delete => api::ChangeCounts { created: 0, updated: 0, deleted: 1 },
        });
        for ((_, n), more) in all.iter_mut().zip([counts.created, counts.updated, counts.deleted]) {
            *n += more;
        }
    }
    let told = all.iter().filter(|(_, n)| *n > 0).map(|(sign, n)| format!("{sign}{}", num(*n)));
    told.collect::<Vec<_>>().join(" ")
}

async fn revision_panel(
    console: &Console,
    visit: &Visit,
    filter: &Filter<'_>,
    list: &api::History,
    revision: &str,
) -> (StatusCode, Markup) {
    let t = visit.lang;
    let Ok(number) = revision.parse::<u64>() else {
        let problem = api::Problem {
            status: 400,
            detail: t.not_a_revision(revision),
            ..api::Problem::default()
        };
        return (StatusCode::BAD_REQUEST, refused(t, &problem));
    };
    let after = visit.query.text("after");
    let mut path = format!("/v1/revisions/{number}?limit={CHANGES}");
    if !after.is_empty() {
        path = format!("{path}&after={}", encoded(after));
    }
    let base = format!("{}&revision={number}", filter.link());
    let title = t.revision_is(num(number));
    let ways = ways(visit, filter, list, number);
    match console.get::<api::RevisionShown>(visit, &path).await {
        Ok(shown) => {
            let entry = &shown.entry;
            let body = html! {
                @for one in &entry.changes { (change(t, one)) }
                footer {
                    @if !after.is_empty() { a href=(base) { (t.first_page()) } }
                    @if let Some(next) = shown.next { a href={ (base) "&after=" (next) } { (t.next_page()) } }
                    (neighbors(t, filter, list, number))
                }
            };
            (
                StatusCode::OK,
                html! {
                    section class="panel" id="revision" aria-labelledby="revision-h" {
                        header {
                            h2 id="revision-h" { (title) }
                            p {
                                code { (entry.actor) } " " (english(t, &entry.action)) ", "
                                (keepgate_observe::date(entry.unix_ms / 1_000))
                            }
                        }
                        (body)
                    }
                    (ways)
                },
            )
        }
        // Nobody knows any more what it changed: that is not the same as nothing.
        Err(problem) if problem.status == 422 || (problem.status == 404 && was(list, number)) => {
            let body = html! {
                div class="in" {
                    (notice(Tone::None, Icon::Unknown, t.not_known_word(), &html! { p { (english(t, &problem.detail)) } }))
                }
                footer { (neighbors(t, filter, list, number)) }
            };
            (StatusCode::OK, html! { (still("revision", &title, "", &body)) (ways) })
        }
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, refused(t, &problem))
        }
    }
}

/// Whether there has been such a revision.
fn was(list: &api::History, number: u64) -> bool {
    (1..=list.head).contains(&number)
}

/// The revisions before and after it, and how the state after it differs from now.
fn neighbors(t: Lang, filter: &Filter<'_>, list: &api::History, number: u64) -> Markup {
    let link = filter.link();
    let service = encoded(filter.service);
    html! {
        @if number > 1 { a href={ (link) "&revision=" (number - 1) } { (t.revision_before()) } }
        @if number < list.head {
            a href={ (link) "&revision=" (number + 1) } { (t.revision_after()) }
            @if number >= list.oldest {
                a href={ "/history/diff?service=" (service) "&from=" (number) } { (t.compare_with_now()) }
            }
        }
        @if number >= list.oldest {
            a href={ "/why?service=" (service) "&as_of=" (number) } { (t.ask_why_then()) }
        }
    }
}

/// The two ways back: to the state after it, and to the one before.
fn ways(visit: &Visit, filter: &Filter<'_>, list: &api::History, number: u64) -> Markup {
    let t = visit.lang;
    let may = visit.who.as_ref().is_some_and(|who| who.caller.may(Permission::Write));
    // What it changed elsewhere, in the directory, goes back with the rest only.
    let entry = list.entries.iter().find(|entry| entry.revision == number);
    let is_elsewhere = entry
        .is_some_and(|entry| entry.changes.iter().any(|change| change.service != filter.service));
    let only = if filter.service.is_empty() || is_elsewhere { "" } else { "&only=yes" };
    let to =
        |state: u64| format!("/history/back?service={}{only}&to={state}", encoded(filter.service));
    let body = html! {
        div class="in" {
            @if number < list.oldest {
                p { (t.too_old(num(list.oldest))) }
            } @else if !may {
                p class="quiet" { (t.only_reading()) }
            } @else {
                p { (t.back_is_to_a_state()) }
                div class="actions" {
                    @if number > list.oldest {
                        a class="btn" href=(to(number - 1)) { (t.back_before(num(number))) }
                    }
                    @if number < list.head {
                        a class="btn" href=(to(number)) { (t.back_to(num(number))) }
                    }
                }
                @if number < list.head {
                    p class="quiet small" { (t.back_undoes(num(list.head - number), num(list.head - number + 1))) }
                } @else {
                    p class="quiet small" { (t.back_of_newest()) }
                }
            }
        }
    };
    still("ways", t.go_back(), "", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_goes_on_is_not_called_empty() {
        for t in Lang::ALL {
            let (on, end) = (nothing(t, true).into_string(), nothing(t, false).into_string());
            assert!(on.contains(t.nothing_so_far()) && !on.contains(t.no_revision()), "{on}");
            assert!(end.contains(t.no_revision()) && !end.contains(t.nothing_so_far()), "{end}");
        }
    }

    #[test]
    fn a_tally_counts_items_and_counted_items() {
        let change = |op, counts| api::PastChange {
            op,
            service: String::new(),
            kind: "member".to_owned(),
            id: "x".to_owned(),
            diff: None,
            counts,
        };
        let many = api::ChangeCounts { created: 1_000, updated: 0, deleted: 2 };
        let entry = api::HistoryEntry {
            revision: 1,
            unix_ms: 0,
            actor: String::new(),
            action: String::new(),
            changes: vec![
                change(api::Op::Create, None),
                change(api::Op::Update, Some(many)),
                change(api::Op::Delete, None),
            ],
        };
        assert_eq!(tally(&entry), "+1,001 \u{2212}3");
    }
}
