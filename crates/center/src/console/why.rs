//! *Why?*: one question, the answer as a sentence, and what it rests on.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::ask::Ask;
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{Field, Icon, Tone, badge, empty, english, num, panel, refused, still};
use super::text::Lang;
use super::visit::Visit;
use super::way::{Stop, stops, way};
use super::{Console, complete};

pub(crate) async fn show(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let asked = |name| visit.query.text(name);
    let is_asked = !asked("principal").is_empty() && !asked("action").is_empty();
    let mut status = StatusCode::OK;
    let answer = match (&place.service, is_asked) {
        (Some(service), true) => match decide(console, visit, service).await {
            Ok(answer) => html! { (answered(visit, service, &answer)) },
            Err(problem) => {
                status = StatusCode::from_u16(problem.status).unwrap_or(status);
                if problem.status == 503 { undecided(t, &problem) } else { refused(t, &problem) }
            }
        },
        _ => empty(t.ask_a_question(), t.ask_a_question_more()),
    };
    let question = question(console, visit, &place).await;
    let body = html! { (question) (answer) };
    frame::page(visit, status, Nav::Why, &place, &body)
}

/// The fields that are completed while one types.
const COMPLETED: [&str; 3] = ["principal", "action", "resource"];

async fn question(console: &Console, visit: &Visit, place: &Place) -> Markup {
    let t = visit.lang;
    let service = place.service.as_deref().unwrap_or_default();
    let mut lists = html! {};
    for field in COMPLETED {
        let list = complete::list(console, visit, service, field).await;
        lists = html! { (lists) (list) };
    }
    let field = |name, label, hint, needed| {
        let field = Field { name, label, value: visit.query.text(name), hint, needed };
        if COMPLETED.contains(&name) { field.completed() } else { field.show() }
    };
    let body = html! {
        form class="in" method="get" action="/why" data-complete={ "/complete?service=" (encoded(service)) } {
            input type="hidden" name="service" value=(service);
            div class="row" {
                (field("principal", t.principal(), t.principal_hint(), true))
                (field("action", t.action(), t.action_hint(), true))
                (field("resource", t.resource(), t.resource_hint(), true))
                (field("context", t.context(), t.context_hint(), false))
                (field("as_of", t.as_of(), t.as_of_hint(), false))
            }
            (lists)
            div class="actions" { button class="btn primary" { (t.ask_why()) } }
        }
    };
    still("question", t.question(), "", &body)
}

async fn decide(
    console: &Console,
    visit: &Visit,
    service: &str,
) -> Result<api::Answer, api::Problem> {
    let context = match visit.query.text("context") {
        "" => json!({}),
        text => serde_json::from_str(text).map_err(|e| api::Problem {
            status: 422,
            detail: format!("context: expected a JSON object: {e}"),
            ..api::Problem::default()
        })?,
    };
    let mut question: Value = json!({
        "service": service,
        "principal": visit.query.text("principal"),
        "action": visit.query.text("action"),
        "resource": visit.query.text("resource"),
        "context": context,
    });
    let as_of = as_of(visit);
    if let (false, Some(asked)) = (as_of.is_empty(), question.as_object_mut()) {
        asked.insert("as_of".to_owned(), json!(as_of));
    }
    Ok(console.ask(visit, Ask::post("/v1/check", question)).await?.value)
}

/// The state that is asked; empty: the present one.
pub(super) fn as_of(visit: &Visit) -> String {
    let text = super::diff::state_of(visit.query.text("as_of"));
    if text == "now" { String::new() } else { text }
}

fn undecided(t: Lang, problem: &api::Problem) -> Markup {
    html! {
        section class="answer none" role="status" {
            (Icon::Unknown.at(28))
            span class="word" { (t.cannot_decide()) }
            h2 { (t.cannot_decide_sentence()) }
            p { (english(t, &problem.detail)) }
        }
    }
}

fn answered(visit: &Visit, service: &str, answer: &api::Answer) -> Markup {
    let t = visit.lang;
    let (tone, icon, word) = match answer.decision {
        true => (Tone::Ok, Icon::Ok, t.allowed()),
        false => (Tone::Bad, Icon::Bad, t.is_denied()),
    };
    let (principal, action, resource) =
        (visit.query.text("principal"), visit.query.text("action"), visit.query.text("resource"));
    let sentence = match answer.reason {
        api::Reason::Permit => t.because_permit(),
        api::Reason::Forbid => t.because_forbid(),
        api::Reason::NoPermit => t.because_no_permit(),
    };
    html! {
        section class={ "answer " (tone.class()) } aria-labelledby="answer" {
            (icon.at(28))
            span class="word" { (word) }
            h2 id="answer" {
                code { (principal) } " " (if answer.decision { t.may() } else { t.may_not() }) " "
                code { (action) } " " code { (resource) }
            }
            p { (sentence) }
            p class="facts" {
                (t.at_revision_of(num(answer.revision), service))
                @if let Some(ms) = answer.landed_unix_ms {
                    " " (t.landed_at(keepgate_observe::date(ms / 1_000)))
                }
                @if answer.at_unix_s > 0 { " " (t.decided_for(keepgate_observe::date(answer.at_unix_s))) }
            }
            @if !answer.notes.is_empty() {
                ul class="notes" {
                    @for note in answer.notes.iter().take(20) {
                        li { (Icon::Warn.at(14)) (english(t, note)) }
                    }
                }
            }
            p class="facts" { (over_time(visit, answer)) }
        }
        @if !answer.near.is_empty() { (near(visit, answer)) }
        @if !answer.determining.is_empty() {
            (determined(t, service, principal, resource, &answer.determining))
        }
        @if !answer.others.is_empty() {
            (panel("others", t.others(), t.others_rest(), &html! {}, &html! {
                ul class="diag" {
                    @for miss in answer.others.iter().take(20) { (missed(t, miss)) }
                }
                (rest(t, answer.others.len(), 20))
            }))
        }
        @if !answer.errors.is_empty() {
            (panel("errors", t.policy_errors(), t.policy_errors_rest(), &html! {}, &html! {
                ul class="diag" {
                    @for one in answer.errors.iter().take(50) {
                        li { p { code { (one.policy) } " " (english(t, &one.message)) } }
                    }
                }
                (rest(t, answer.errors.len(), 50))
            }))
        }
    }
}

/// The same question in the state before, and now.
fn over_time(visit: &Visit, answer: &api::Answer) -> Markup {
    let t = visit.lang;
    let mut link = format!("/why?service={}", encoded(visit.service()));
    for name in ["principal", "action", "resource", "context"] {
        let value = visit.query.text(name);
        if !value.is_empty() {
            link = format!("{link}&{name}={}", encoded(value));
        }
    }
    html! {
        @if answer.revision > 1 { a href={ (link) "&as_of=" (answer.revision - 1) } { (t.ask_before(num(answer.revision - 1))) } " " }
        @if answer.landed_unix_ms.is_some() { a href=(link) { (t.ask_now()) } " " }
        a href={ "/history?service=" (encoded(visit.service())) "&revision=" (answer.revision) } { (t.show_revision(num(answer.revision))) }
    }
}

/// That there are more than are shown.
fn rest(t: Lang, all: usize, shown: usize) -> Markup {
    html! { @if all > shown { footer { span { (t.of_many(num(shown as u64), num(all as u64))) } } } }
}

/// A policy's name, which leads to its text.
fn name(t: Lang, policy: &api::Determining) -> Markup {
    html! {
        a href={ "/policies?service=" (encoded(&policy.service)) } { (policy.id) }
        span class="quiet small" { " " (t.of_service(&policy.service)) }
    }
}

/// Its text, and what each part of its condition came to.
fn said(t: Lang, policy: &api::Determining) -> Markup {
    html! {
        pre tabindex="0" role="group" aria-label=(t.text_of(&policy.id)) { (policy.text) }
        @if !policy.saw.is_empty() {
            dl class="saw" aria-label=(t.condition_values()) {
                @for saw in policy.saw.iter().take(50) {
                    div { dt { code class="long" { (saw.part) } } dd { code class="long" { (saw.value) } } }
                }
            }
            @if policy.saw.len() > 50 { p class="quiet small" { (t.of_many(50, num(policy.saw.len() as u64))) } }
        }
    }
}

fn determined(
    t: Lang,
    service: &str,
    principal: &str,
    resource: &str,
    all: &[api::Determining],
) -> Markup {
    let ways = |policy: &api::Determining| {
        let mut from = vec![Stop::new(t.principal_word(), principal)];
        from.extend(stops(t, service, &policy.principal_path));
        let mut on = vec![Stop::new(t.resource_word(), resource)];
        on.extend(stops(t, service, &policy.resource_path));
        (from, on)
    };
    let body = html! {
        ul class="diag" {
            @for policy in all.iter().take(50) {
                @let (from, on) = ways(policy);
                li {
                    p { (name(t, policy)) }
                    @if !policy.principal_path.is_empty() { (way(t.way_of_principal(), &from)) }
                    @if !policy.resource_path.is_empty() { (way(t.way_of_resource(), &on)) }
                    (said(t, policy))
                }
            }
        }
        (rest(t, all.len(), 50))
    };
    panel("by", t.decided_by(), "", &html! {}, &body)
}

fn missed(t: Lang, miss: &api::Miss) -> Markup {
    html! {
        li {
            p {
                (badge(Tone::None, Icon::Minus, if miss.forbids { t.forbids() } else { t.permits() }))
                " " (name(t, &miss.policy))
            }
            p class="quiet small" { (english(t, &miss.why)) }
            (said(t, &miss.policy))
        }
    }
}

fn near(visit: &Visit, answer: &api::Answer) -> Markup {
    let t = visit.lang;
    let principal = visit.query.text("principal");
    let body = html! {
        ul class="diag" {
            @for miss in answer.near.iter().take(20) {
                @let role = lacking(principal, &miss.why);
                li {
                    p { (name(t, &miss.policy)) }
                    @if let Some(role) = role {
                        (way(t.way_of_principal(), &[
                            Stop::new(t.principal_word(), principal),
                            Stop { is_missing: true, ..Stop::new(t.is_not_in(), role) },
                            Stop::new(t.policy_word(), &miss.policy.id),
                            Stop::new(t.resource_word(), visit.query.text("resource")),
                        ]))
                    }
                    @if role.is_none() {
                        p class="error" { (Icon::Minus.at(14)) (english(t, &miss.why)) }
                    }
                    (said(t, &miss.policy))
                    @if let Some(role) = role {
                        p {
                            a class="btn small" href={
                                "/access/give?member=" (encoded(principal)) "&role=" (encoded(role))
                                "&service=" (encoded(visit.service()))
                            } { (t.give_this(role)) }
                        }
                    }
                }
            }
        }
        (rest(t, answer.near.len(), 20))
    };
    panel("near", t.missing(), t.missing_rest(), &html! {}, &body)
}

/// The role that a principal is not in, where that is all that is missing.
fn lacking<'a>(principal: &str, why: &'a str) -> Option<&'a str> {
    let rest = why.strip_prefix('`')?.strip_prefix(principal)?;
    let entity = rest.strip_prefix("` is not in `")?.strip_suffix('`')?;
    (entity.ends_with('"') && entity.contains("::\"")).then_some(entity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_a_role_only_where_it_is_one() {
        let bob = "user::\"bob\"";
        let why = "`user::\"bob\"` is not in `role::\"staff\"`";
        assert_eq!(lacking(bob, why), Some("role::\"staff\""));
        for other in [
            "`user::\"eve\"` is not in `role::\"staff\"`",
            "`user::\"bob\"` is not in `role::\"staff\"`, its membership has ended",
            "`action` does not match `action == Action::\"GET\"`",
            "",
        ] {
            assert_eq!(lacking(bob, other), None, "{other}");
        }
    }
}
