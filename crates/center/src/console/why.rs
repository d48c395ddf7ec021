//! *Why?*: one question, the answer as a sentence, and what it rests on.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::Console;
use super::ask::Ask;
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{Field, Icon, Tone, empty, english, num, panel, refused, still};
use super::text::Lang;
use super::visit::Visit;

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
    let body = html! { (question(visit, &place)) (answer) };
    frame::page(visit, status, Nav::Why, &place, &body)
}

fn question(visit: &Visit, place: &Place) -> Markup {
    let t = visit.lang;
    let field = |name, label, hint, needed| {
        Field { name, label, value: visit.query.text(name), hint, needed }.show()
    };
    let body = html! {
        form class="in" method="get" action="/why" {
            input type="hidden" name="service" value=(place.service.as_deref().unwrap_or_default());
            div class="row" {
                (field("principal", t.principal(), t.principal_hint(), true))
                (field("action", t.action(), t.action_hint(), true))
                (field("resource", t.resource(), t.resource_hint(), true))
                (field("context", t.context(), t.context_hint(), false))
            }
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
    let question: Value = json!({
        "service": service,
        "principal": visit.query.text("principal"),
        "action": visit.query.text("action"),
        "resource": visit.query.text("resource"),
        "context": context,
    });
    Ok(console.ask(visit, Ask::post("/v1/check", question)).await?.value)
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
            p class="facts" { (t.at_revision_of(num(answer.revision), service)) }
        }
        @if !answer.determining.is_empty() {
            (policies("by", t.decided_by(), "", &answer.determining, t))
        }
        @if !answer.near.is_empty() { (near(visit, answer)) }
        @if !answer.errors.is_empty() {
            (panel("errors", t.policy_errors(), t.policy_errors_rest(), &html! {}, &html! {
                ul class="diag" {
                    @for one in answer.errors.iter().take(50) {
                        li { p { code { (one.policy) } " " (english(t, &one.message)) } }
                    }
                }
            }))
        }
    }
}

fn policies(id: &str, title: &str, rests: &str, all: &[api::Determining], t: Lang) -> Markup {
    let body = html! {
        ul class="diag" {
            @for policy in all.iter().take(50) {
                li {
                    p { a href={ "/policies?service=" (encoded(&policy.service)) } { (policy.id) } }
                    pre tabindex="0" role="group" aria-label=(t.text_of(&policy.id)) { (policy.text) }
                }
            }
        }
    };
    panel(id, title, rests, &html! {}, &body)
}

fn near(visit: &Visit, answer: &api::Answer) -> Markup {
    let t = visit.lang;
    let body = html! {
        ul class="diag" {
            @for miss in answer.near.iter().take(20) {
                li {
                    p { b { (miss.policy.id) } }
                    p class="error" { (Icon::Minus.at(14)) (english(t, &miss.why)) }
                    pre tabindex="0" role="group" aria-label=(t.text_of(&miss.policy.id)) {
                        (miss.policy.text)
                    }
                }
            }
        }
        footer {
            a href={ "/access/give?member=" (encoded(visit.query.text("principal")))
                "&service=" (encoded(visit.service())) } { (t.give_role()) }
        }
    };
    panel("near", t.missing(), t.missing_rest(), &html! {}, &body)
}
