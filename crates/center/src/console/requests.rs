//! Requests for access: those that wait, one in full, approved or declined.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use keepgate_limit::rules::NamedPlan;
use maud::{Markup, html};
use serde_json::json;

use super::ask::Ask;
use super::callers::{plan_field, until};
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{
    Field, Icon, Tone, badge, carried, empty, hidden, num, refused, still, table, tag, uid,
};
use super::text::Lang;
use super::visit::{Visit, see_other};
use super::{Console, plans};

/// Requests of a page.
const ROWS: usize = 50;

fn path(service: &str, id: &str, what: &str) -> String {
    format!("/v1/services/{}/requests/{}{what}", encoded(service), encoded(id))
}

/// Those that wait, and those whose key nobody has fetched yet.
pub(crate) async fn open(
    console: &Console,
    visit: &Visit,
    service: &str,
) -> Result<Markup, api::Problem> {
    let t = visit.lang;
    let mut rows = Vec::new();
    let mut more = false;
    for state in [api::RequestState::Pending, api::RequestState::Approved] {
        let (service, state) = (encoded(service), state.name());
        let at = format!("/v1/services/{service}/requests?state={state}&limit={ROWS}");
        let page: api::AccessRequests = console.get(visit, &at).await?;
        more |= page.next.is_some();
        rows.extend(page.requests);
    }
    let heads = [
        (t.asked_at(), false),
        (t.who_asks(), false),
        (t.what_for(), false),
        (t.per_day(), true),
        (t.state(), false),
        ("", false),
    ];
    let body = html! {
        @if rows.is_empty() { (empty(t.no_request(), t.no_request_more())) }
        @else {
            (table(t.access_requests(), &heads, &html! {
                @for row in &rows {
                    tr {
                        td class="nw" { (keepgate_observe::date(row.asked_unix_s)) }
                        th scope="row" class="name" {
                            (row.who) @if !row.address.is_empty() { small { (row.address) } }
                        }
                        td { (row.what_for) }
                        td class="n" { (num(row.per_day)) }
                        td { (state(t, row.state)) }
                        td class="n" {
                            a class="btn small" href={ "/callers/request?service=" (encoded(service))
                                "&request=" (encoded(&row.id)) } {
                                (t.look_at_request()) span class="sr" { " " (row.id) }
                            }
                        }
                    }
                }
            }))
        }
        @if more { footer { (t.more_requests()) } }
    };
    Ok(still("requests", t.access_requests(), t.access_requests_rest(), &body))
}

fn state(t: Lang, state: api::RequestState) -> Markup {
    match state {
        api::RequestState::Pending => badge(Tone::Warn, Icon::Unknown, t.request_pending()),
        api::RequestState::Approved => badge(Tone::Ok, Icon::Ok, t.request_approved()),
        api::RequestState::Declined => badge(Tone::None, Icon::Minus, t.request_declined()),
        api::RequestState::Fetched => badge(Tone::None, Icon::Ok, t.request_fetched()),
    }
}

/// One request, with what can be done about it.
pub(crate) async fn show(console: &Console, visit: &Visit) -> Response {
    one(console, visit, visit.query.text("request"), StatusCode::OK, &html! {}).await
}

async fn one(
    console: &Console,
    visit: &Visit,
    id: &str,
    status: StatusCode,
    above: &Markup,
) -> Response {
    let t = visit.lang;
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let body = match (&place.service, id) {
        (None, _) => {
            still("request", t.callers(), "", &empty(t.no_service_yet(), t.no_service_yet_more()))
        }
        (_, "") => {
            still("request", t.access_request(), "", &empty(t.no_request(), t.no_request_more()))
        }
        (Some(service), id) => match whole(console, visit, service, id).await {
            Ok(body) => body,
            Err(problem) => {
                let status = StatusCode::from_u16(problem.status).unwrap_or(status);
                return frame::page(visit, status, Nav::Callers, &place, &refused(t, &problem));
            }
        },
    };
    frame::page(visit, status, Nav::Callers, &place, &html! { (above) (body) })
}

async fn whole(
    console: &Console,
    visit: &Visit,
    service: &str,
    id: &str,
) -> Result<Markup, api::Problem> {
    let t = visit.lang;
    let request: api::AccessRequest = console.get(visit, &path(service, id, "")).await?;
    let plans = format!("/v1/services/{}/plans?limit=50", encoded(service));
    let plans: api::ItemList<NamedPlan> = console.get(visit, &plans).await?;
    let is_pending = request.state == api::RequestState::Pending;
    let may_decline = is_pending || request.state == api::RequestState::Approved;
    Ok(html! {
        (still("request", t.access_request(), t.request_unchecked(), &facts(t, &request)))
        @if is_pending {
            div class="two wide-left" {
                (approve(visit, service, &request, &plans))
                (plans::panel(t, &plans))
            }
        }
        @if may_decline { (decline(visit, service, &request)) }
    })
}

fn facts(t: Lang, request: &api::AccessRequest) -> Markup {
    let row = |name: &str, value: &Markup| {
        html! { tr { th scope="row" { (name) } td { (value) } } }
    };
    let rows = html! {
        (row(t.who_asks(), &html! { (request.who) }))
        (row(t.what_for(), &html! { (request.what_for) }))
        (row(t.per_day(), &html! { (num(request.per_day)) }))
        @if !request.address.is_empty() {
            (row(t.address(), &html! { code { (request.address) } }))
        }
        (row(t.asked_at(), &html! { (keepgate_observe::date(request.asked_unix_s)) }))
        (row(t.state(), &state(t, request.state)))
        @if let Some(principal) = &request.principal {
            (row(t.principal(), &html! { code { (uid(principal)) } }))
        }
        @if !request.plan.is_empty() { (row(t.plan(), &tag(&request.plan))) }
        @if !request.key.is_empty() { (row(t.key(), &html! { code { (request.key) } })) }
        @if !request.decided_by.is_empty() {
            (row(t.decided_by_token(), &html! { code { (request.decided_by) } }))
        }
    };
    table(t.access_request(), &[(t.what_it_says(), false), ("", false)], &rows)
}

fn approve(
    visit: &Visit,
    service: &str,
    request: &api::AccessRequest,
    plans: &api::ItemList<NamedPlan>,
) -> Markup {
    let t = visit.lang;
    let value = |name| visit.form.text(name);
    let body = html! {
        form class="in" method="post" action="/callers/approve" {
            (hidden(visit))
            (carried(&[("service", service), ("request", &request.id)]))
            div class="row" {
                (Field { name: "principal", label: t.principal(), value: value("principal"),
                    hint: t.principal_hint(), needed: true }.show())
                (plan_field(t, plans, value("plan")))
            }
            (Field { name: "days", label: t.days(), value: value("days"), hint: t.days_hint(), needed: false }.show())
            div class="actions" { button class="btn primary" { (t.approve_request()) } }
        }
    };
    still("approve", t.approve_request(), t.approve_rest(), &body)
}

fn decline(visit: &Visit, service: &str, request: &api::AccessRequest) -> Markup {
    let t = visit.lang;
    let body = html! {
        form class="in" method="post" action="/callers/decline" {
            (hidden(visit))
            (carried(&[("service", service), ("request", &request.id)]))
            div class="actions" { button class="btn danger" { (t.decline_request()) } }
        }
    };
    still("decline", t.decline_request(), t.decline_rest(), &body)
}

/// POST of either form.
pub(crate) async fn decide(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let (service, id) = (visit.service(), visit.form.text("request"));
    let is_approval = visit.path == "/callers/approve";
    let made = async {
        let (what, body) = if is_approval {
            let body = api::ApproveRequest {
                principal: api::UidInput::Text(visit.form.text("principal").to_owned()),
                plan: visit.form.text("plan").to_owned(),
                expires_unix_s: until(t, visit.form.text("days"))?,
            };
            ("/approve", json!(body))
        } else {
            ("/decline", json!({}))
        };
        let path = path(service, id, what);
        let ask = Ask::post(&path, body);
        console.ask::<api::AccessRequest>(visit, ask.once(visit)).await
    };
    match made.await {
        Ok(_) => {
            let what = if is_approval { "approved" } else { "declined" };
            see_other(&format!(
                "/callers?service={}&{what}={}#requests",
                encoded(service),
                encoded(id)
            ))
        }
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            one(console, visit, id, status, &refused(t, &problem)).await
        }
    }
}
