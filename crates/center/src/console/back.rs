//! Going back: a new revision with what an old one had. Previewed first, with what it gives and takes;
//! what somebody took away since must be named before it is given back.

use std::collections::BTreeSet;

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use maud::{Markup, html};
use serde_json::json;

use super::ask::Ask;
use super::diff::{gives_and_takes, only_box, state_of};
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{
    Field, Icon, Tone, carried, empty, english, hidden, notice, num, refused, still, unknown,
};
use super::text::Lang;
use super::visit::{Visit, see_other};
use super::{Console, diff};

/// Changes that a preview shows.
const SHOWN: usize = 100;

/// Names that a request may give; as many the API takes.
const NAMES: usize = 10_000;

/// What somebody asks for.
struct Asked {
    to: String,
    service: String,
    own: bool,
    /// The newest revision when the preview was made; empty: there was none.
    over: String,
    /// Conflicts that are to be given back all the same.
    undo: BTreeSet<String>,
}

impl Asked {
    fn of(visit: &Visit, place: &Place) -> Asked {
        let value = |name| match visit.form.text(name) {
            "" => visit.query.text(name),
            posted => posted,
        };
        let service = place.service.clone().unwrap_or_default();
        let names = |field: &str| {
            let text = visit.form.raw(field).lines().map(str::trim);
            text.filter(|line| !line.is_empty()).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let mut undo = names("undo");
        // Those that the page listed count once they are confirmed.
        if visit.form.text("confirmed") == "yes" {
            undo.append(&mut names("listed"));
        }
        Asked {
            to: state_of(value("to")),
            own: value("only") == "yes" && !service.is_empty(),
            service,
            over: visit.form.text("over").to_owned(),
            undo,
        }
    }

    fn body(&self) -> serde_json::Value {
        json!(api::Rollback {
            to: api::AsOf::Time(self.to.clone()),
            service: self.own.then(|| self.service.clone()),
            undo: self.undo.iter().cloned().collect(),
        })
    }

    fn undo_text(&self) -> String {
        self.undo.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

pub(crate) async fn go(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let asked = Asked::of(visit, &place);
    let mut status = StatusCode::OK;
    let mut above = html! {};
    if visit.form.text("do") == "make" && !asked.to.is_empty() {
        let mut path = "/v1/rollback".to_owned();
        if !asked.over.is_empty() {
            path = format!("{path}?if_revision={}", encoded(&asked.over));
        }
        let ask = Ask::post(&path, asked.body()).once(visit);
        match console.ask::<api::RolledBack>(visit, ask).await {
            Ok(told) => {
                let revision = told.value.changed.revision;
                let service = encoded(&asked.service);
                let to = format!("/history?service={service}&revision={revision}&saved={revision}");
                return see_other(&to);
            }
            Err(problem) => {
                status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
                above = refused(t, &problem);
            }
        }
    }
    let preview = if asked.to.is_empty() {
        still("preview", t.go_back(), "", &empty(t.name_a_state(), t.name_a_state_more()))
    } else {
        let ask = Ask::post("/v1/rollback?dry_run=true", asked.body());
        match console.ask::<api::RolledBack>(visit, ask).await {
            Ok(told) => preview(visit, &place, &asked, &told.value),
            Err(problem) => {
                if status == StatusCode::OK {
                    status =
                        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
                    above = html! {};
                }
                refused(t, &problem)
            }
        }
    };
    let body = html! { (above) (question(t, &asked)) (preview) };
    frame::page(visit, status, Nav::History, &place, &body)
}

fn question(t: Lang, asked: &Asked) -> Markup {
    let body = html! {
        form class="in" method="get" action="/history/back" {
            input type="hidden" name="service" value=(asked.service);
            div class="row" {
                (Field { name: "to", label: t.to_which_state(), value: &asked.to, hint: t.state_hint(), needed: true }.show())
            }
            (only_box(t, &asked.service, asked.own))
            p class="quiet small" { (t.back_is_to_a_state()) }
            div class="actions" {
                button class="btn" { (t.show_changes()) }
                a class="btn" href={ "/history?service=" (encoded(&asked.service)) } { (t.to_history()) }
            }
        }
    };
    still("question", t.go_back(), t.nothing_changes_yet(), &body)
}

fn preview(visit: &Visit, place: &Place, asked: &Asked, told: &api::RolledBack) -> Markup {
    let t = visit.lang;
    let changes = &told.changed.changes;
    let count = |op: api::Op| changes.iter().filter(|one| one.op == op).count() as u64;
    let counts = api::ChangeCounts {
        created: told.changed.created.unwrap_or_else(|| count(api::Op::Create)),
        updated: told.changed.updated.unwrap_or_else(|| count(api::Op::Update)),
        deleted: told.changed.deleted.unwrap_or_else(|| count(api::Op::Delete)),
    };
    let all = counts.created + counts.updated + counts.deleted;
    let scope = if asked.own { t.only_of(&asked.service) } else { t.of_all_services().to_owned() };
    let changes = html! {
        @for one in changes.iter().take(SHOWN) {
            (diff::placed(t, &api::PastChange {
                op: one.op,
                service: String::new(),
                kind: one.item.kind.clone(),
                id: one.item.id.clone(),
                diff: one.diff.clone(),
                counts: None,
            }, ""))
        }
        @if all > SHOWN as u64 {
            footer { span { (t.of_many(num(SHOWN as u64), num(all))) } }
        }
    };
    let gains = told.access.iter().filter(|one| one.gained).count();
    let access = html! {
        div class="in tight" { h3 { (t.gives_and_takes()) } }
        @if told.access.is_empty() { div class="in" { p class="quiet" { (t.no_access_named()) } } }
        @else { (gives_and_takes(t, &told.access)) }
        footer {
            span { (t.access_gained(num(gains as u64))) }
            span { (t.access_lost(num((told.access.len() - gains) as u64))) }
        }
    };
    html! {
        section class="panel" id="preview" aria-labelledby="preview-h" {
            header {
                h2 id="preview-h" { (t.back_to_state(num(told.to))) }
                p { (scope) " \u{b7} " (diff::counted(t, counts)) }
            }
            @if all == 0 { (empty(t.changes_nothing(), t.changes_nothing_back())) }
            @else { (access) (deed(visit, place, asked, told)) }
        }
        @if all > 0 {
            (still("changes", t.what_would_change(), t.what_would_change_rest(), &changes))
        }
    }
}

/// What must be named, and the deed.
fn deed(visit: &Visit, place: &Place, asked: &Asked, told: &api::RolledBack) -> Markup {
    let t = visit.lang;
    let total = told.conflicts_total.unwrap_or(told.conflicts.len() as u64);
    let left = total.saturating_sub(told.conflicts.len() as u64);
    let name = |one: &api::Conflict| format!("{} {}", one.item.kind, one.item.id);
    let listed = told.conflicts.iter().map(name).collect::<Vec<_>>().join("\n");
    let over = place.revision.to_string();
    let only = if asked.own { "yes" } else { "" };
    let too_many = asked.undo.len() as u64 + total > NAMES as u64;
    html! {
        form method="post" action="/history/back" {
            (hidden(visit))
            (carried(&[
                ("service", &asked.service), ("to", &told.to.to_string()), ("only", only), ("over", &over),
                ("undo", &asked.undo_text()), ("listed", &listed),
            ]))
            @if total > 0 {
                div class="in" {
                    (notice(Tone::Warn, Icon::Warn, &t.conflicts_are(num(total)), &html! {
                        p { (t.conflicts_more()) }
                        ul class="list" {
                            @for one in &told.conflicts {
                                li {
                                    (one.item.kind) " " code { (one.item.id) } ": " (english(t, &one.message))
                                    @if let Some(ms) = one.unix_ms { ", " (keepgate_observe::date(ms / 1_000)) }
                                    @else { ", " (unknown(t)) }
                                }
                            }
                        }
                    }))
                    @if too_many {
                        p class="error" { (Icon::Bad.at(14)) (t.conflicts_too_many(num(NAMES as u64))) }
                    } @else {
                        div class="check" {
                            input type="checkbox" id="f-confirmed" name="confirmed" value="yes" required;
                            label for="f-confirmed" { (t.give_back_listed(num(told.conflicts.len() as u64))) }
                        }
                    }
                }
            }
            @if !asked.undo.is_empty() {
                div class="in" { p class="quiet small" { (t.conflicts_named(num(asked.undo.len() as u64))) } }
            }
            footer {
                a class="btn" href={ "/history?service=" (encoded(&asked.service)) "&revision=" (told.to) } { (t.cancel()) }
                @if too_many {
                } @else if left > 0 {
                    button class="btn primary" name="do" value="more" { (t.show_next_conflicts(num(left))) }
                } @else {
                    button class="btn danger" name="do" value="make" { (t.make_with_state(num(told.to))) }
                }
                span { (t.nothing_is_erased()) }
            }
        }
    }
}
