//! *Callers*: who makes the requests now, and the keys and plans of a service.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use keepgate_limit::rules::NamedPlan;
use keepgate_limit::top::{Dimension, Hitter, TopAnswer};
use maud::{Markup, html};
use serde_json::json;

use super::ask::Ask;
use super::chart::meter;
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{
    Field, Icon, Preview, Tone, badge, carried, done, empty, hidden, notice, num, of, pages, panel,
    rate, refused, share, still, table, tag, uid, unknown,
};
use super::text::Lang;
use super::visit::{Visit, see_other};
use super::{Console, plans, requests};

/// Keys of a page.
const ROWS: usize = 50;

/// By what callers are counted.
const DIMENSIONS: [&str; 4] = ["principals", "addresses", "user_agents", "routes"];

pub(crate) async fn show(console: &Console, visit: &Visit) -> Response {
    whole(console, visit, StatusCode::OK, &html! {}).await
}

async fn whole(console: &Console, visit: &Visit, status: StatusCode, above: &Markup) -> Response {
    let t = visit.lang;
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let Some(service) = place.service.clone() else {
        let body =
            still("top", t.callers(), "", &empty(t.no_service_yet(), t.no_service_yet_more()));
        return frame::page(visit, status, Nav::Callers, &place, &body);
    };
    let (status, body) = match parts(console, visit, &service).await {
        Ok(body) => (status, body),
        Err(problem) => {
            (StatusCode::from_u16(problem.status).unwrap_or(status), refused(t, &problem))
        }
    };
    let body = html! { (above) (body) };
    frame::page(visit, status, Nav::Callers, &place, &body)
}

async fn parts(console: &Console, visit: &Visit, service: &str) -> Result<Markup, api::Problem> {
    let t = visit.lang;
    let at = |what: &str| format!("/v1/services/{}/{what}", encoded(service));
    let answer: TopAnswer = console.get(visit, &at("top")).await?;
    let after = visit.query.text("after");
    let path = format!("{}?limit={ROWS}&after={}", at("keys"), encoded(after));
    let keys: api::Keys = console.get(visit, &path).await?;
    let plans: api::ItemList<NamedPlan> = console.get(visit, &at("plans?limit=50")).await?;
    let requests = requests::open(console, visit, service).await?;
    Ok(html! {
        @for (what, said) in [("approved", t.request_was_approved()), ("declined", t.request_was_declined())] {
            @if !visit.query.text(what).is_empty() { (done(said)) }
        }
        @if let Ok(key) = visit.query.text("revoked").parse::<u64>() { (done(&t.key_revoked(num(key)))) }
        (crawls(t, &answer))
        (requests)
        (top(visit, &answer))
        div class="two wide-left" {
            (keys_panel(visit, service, after, &keys))
            div class="stack" {
                (new_key(visit, service, &plans))
                (plans::panel(t, &plans))
            }
        }
    })
}

fn crawls(t: Lang, answer: &TopAnswer) -> Markup {
    let report = answer.report.as_ref();
    html! {
        div id="crawls" data-live class="stack" {
            @for crawl in report.iter().flat_map(|report| &report.crawls).take(10) {
                @let is_named = crawl.by == Dimension::Principal;
                @let principal = is_named.then_some(&crawl.name).or(crawl.principal.as_ref());
                @let who = principal.unwrap_or(&crawl.name);
                @let part = share(of(crawl.refused, crawl.requests.max(crawl.refused)));
                (notice(Tone::Warn, Icon::Crawl, t.crawl(), &html! {
                    p {
                        code { (who) } " " (t.walks(&answer.service)) " " code { (crawl.route) } ": "
                        (t.crawl_rate(rate(crawl.per_second), part))
                    }
                    p class="quiet small" {
                        (t.crawl_ids(num(crawl.distinct))) " "
                        @match &crawl.plan {
                            Some(plan) => {
                                (t.crawl_plan(plan)) " "
                                @if let Some(principal) = principal {
                                    a href={ "/callers?service=" (encoded(&answer.service))
                                        "&principal=" (encoded(principal))
                                        "&plan=" (encoded(plan)) "#new-key" } { (t.offer_plan()) }
                                }
                            },
                            None => (t.crawl_no_plan()),
                        }
                    }
                }))
            }
        }
    }
}

fn dimension<'r>(visit: &Visit, answer: &'r TopAnswer) -> (&'static str, &'r [Hitter], u64) {
    let named = visit.query.text("by");
    let by = DIMENSIONS.into_iter().find(|by| *by == named).unwrap_or("principals");
    let Some(report) = &answer.report else { return (by, &[], 0) };
    let (list, rest) = match by {
        "addresses" => (&report.addresses, report.unlisted.addresses),
        "user_agents" => (&report.user_agents, report.unlisted.user_agents),
        "routes" => (&report.routes, report.unlisted.routes),
        _ => (&report.principals, report.unlisted.principals),
    };
    (by, list, rest)
}

fn top(visit: &Visit, answer: &TopAnswer) -> Markup {
    let t = visit.lang;
    let (chosen, list, rest) = dimension(visit, answer);
    let gates = answer.gates.as_ref();
    let heard = gates.map_or(0, |gates| gates.heard);
    let rests = match (&answer.report, gates) {
        (Some(report), Some(gates)) => t.top_rests(
            num(report.seconds.round() as u64),
            num(gates.heard),
            num(gates.following),
            t.span(gates.oldest_ms.unwrap_or_default()),
        ),
        _ => t.no_gate_heard().to_owned(),
    };
    let tabs = html! {
        span class="seg" {
            @for by in DIMENSIONS {
                a href={ "/callers?service=" (encoded(&answer.service)) "&by=" (by) }
                    aria-current=[(by == chosen).then_some("true")] { (t.dimension(by)) }
            }
        }
    };
    let heads = [
        (t.dimension_one(chosen), false),
        (t.now_per_second(), true),
        (t.requests(), true),
        (t.share(), false),
        (t.refused(), true),
        (t.route_most_asked(), false),
        (t.first_seen(), true),
    ];
    let rows = html! {
        @for one in list.iter().take(20) {
            tr {
                th scope="row" class="name" { (one.name) }
                td class="n" { (rate(one.per_second)) }
                td class="n" {
                    (num(one.requests))
                    @if one.at_least < one.requests { small { (t.at_least(num(one.at_least))) } }
                }
                td { (meter(&share(one.share), one.share)) }
                td class="n" { (share(of(one.refused, one.requests))) }
                td {
                    @match one.routes.first() {
                        Some((route, _)) => code { (route) },
                        None => (unknown(t)),
                    }
                }
                td class="n" { (t.ago(one.first_seen_age_ms)) }
            }
        }
    };
    let body = html! {
        @if answer.report.is_none() { (empty(t.no_gate_heard(), t.no_gate_heard_more())) }
        @else if list.is_empty() { (empty(t.nobody_asked(), t.nobody_asked_more())) }
        @else { (table(t.top_callers(), &heads, &rows)) }
        @if heard > 0 && rest > 0 { footer { (t.unlisted(num(rest))) } }
    };
    panel("top", t.top_callers(), &rests, &tabs, &body)
}

fn keys_panel(visit: &Visit, service: &str, after: &str, keys: &api::Keys) -> Markup {
    let t = visit.lang;
    let heads = [
        (t.key(), false),
        (t.principal(), false),
        (t.plan(), false),
        (t.until(), false),
        ("", false),
    ];
    let now = keepgate_observe::unix_s();
    let rows = html! {
        @for key in &keys.keys {
            tr {
                th scope="row" class="mono" {
                    (key.prefix) @if !key.note.is_empty() { small { (key.note) } }
                }
                td { code { (uid(&key.principal)) } }
                td {
                    @if key.plan.is_empty() { span class="quiet" { (t.none()) } }
                    @else { (tag(&key.plan)) }
                }
                td class="nw" {
                    @match key.expires_unix_s {
                        Some(at) if at <= now => (badge(Tone::None, Icon::Minus, t.has_ended())),
                        Some(at) => (keepgate_observe::date(at)),
                        None => span class="quiet" { (t.no_end()) },
                    }
                }
                td class="n" {
                    form method="post" action="/callers/revoke" {
                        (hidden(visit))
                        (carried(&[("service", service), ("key", &key.prefix), ("do", "preview")]))
                        button class="btn small danger" {
                            (t.revoke()) span class="sr" { " " (key.prefix) }
                        }
                    }
                }
            }
        }
    };
    let base = format!("/callers?service={}", encoded(service));
    let body = html! {
        @if keys.keys.is_empty() { (empty(t.no_key(), t.no_key_more())) }
        @else { (table(t.keys(), &heads, &rows)) }
        (pages(t, &base, after, keys.next.as_deref()))
    };
    still("keys", t.keys(), "", &body)
}

/// The choice of a plan, or of none.
pub(crate) fn plan_field(t: Lang, plans: &api::ItemList<NamedPlan>, chosen: &str) -> Markup {
    html! {
        div class="field" {
            label for="f-plan" { (t.plan()) }
            select id="f-plan" name="plan" {
                option value="" { (t.none()) }
                @for plan in &plans.items {
                    option value=(plan.id) selected[plan.id == chosen] { (plan.id) }
                }
            }
        }
    }
}

fn new_key(visit: &Visit, service: &str, plans: &api::ItemList<NamedPlan>) -> Markup {
    let t = visit.lang;
    let value = |name| match visit.form.text(name) {
        "" => visit.query.text(name),
        posted => posted,
    };
    let body = html! {
        form class="in" method="post" action="/callers/key" {
            (hidden(visit))
            (carried(&[("service", service)]))
            div class="row" {
                (Field { name: "principal", label: t.principal(), value: value("principal"),
                    hint: t.principal_hint(), needed: true }.show())
                (plan_field(t, plans, value("plan")))
            }
            div class="row" {
                (Field { name: "note", label: t.note(), value: value("note"), hint: "", needed: false }.show())
                (Field { name: "days", label: t.days(), value: value("days"), hint: t.days_hint(), needed: false }.show())
            }
            div class="actions" { button class="btn primary" { (t.make_key()) } }
        }
    };
    still("new-key", t.new_key(), t.new_key_rest(), &body)
}

/// So many days from now, in seconds since the Unix epoch; none: for ever.
pub(crate) fn until(t: Lang, text: &str) -> Result<Option<u64>, api::Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u64>().ok().filter(|days| (1..=36_500).contains(days)) {
        Some(days) => Ok(Some(keepgate_observe::unix_s() + days * 86_400)),
        None => {
            Err(api::Problem { status: 422, detail: t.wrong_days(text), ..api::Problem::default() })
        }
    }
}

pub(crate) async fn make_key(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    if visit.form.text("do") == "show" {
        return whole(console, visit, StatusCode::OK, &done(t.text_kept())).await;
    }
    let made = async {
        let expires_unix_s = until(t, visit.form.text("days"))?;
        let key = api::NewKey {
            principal: api::UidInput::Text(visit.form.text("principal").to_owned()),
            plan: visit.form.text("plan").to_owned(),
            expires_unix_s,
            note: visit.form.text("note").to_owned(),
        };
        let path = format!("/v1/services/{}/keys", encoded(visit.service()));
        let ask = Ask::post(&path, json!(key)).once(visit);
        Ok::<_, api::Problem>(console.ask::<api::MadeKey>(visit, ask).await?.value)
    };
    match made.await {
        Ok(made) => {
            let body = html! {
                p { (t.key_once(num(made.revision))) }
                pre class="cmd" tabindex="0" role="group" aria-label=(t.key()) { (made.key) }
            };
            let above = notice(Tone::Ok, Icon::Ok, t.key_made(), &body);
            whole(console, visit, StatusCode::CREATED, &above).await
        }
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            whole(console, visit, status, &refused(t, &problem)).await
        }
    }
}

pub(crate) async fn revoke_key(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let (service, key) = (visit.service(), visit.form.text("key"));
    let back = format!("/callers?service={}", encoded(service));
    if visit.form.text("do") != "make" {
        let place = match Place::of(console, visit).await {
            Ok(place) => place,
            Err(problem) => return frame::failed(visit, &problem),
        };
        let preview = Preview {
            title: &t.revoke_key(key),
            gives: Vec::new(),
            takes: vec![t.revoke_key_takes(key)],
            note: t.revoke_key_note(),
            action: "/callers/revoke",
            carried: vec![("service", service), ("key", key)],
            deed: &t.revoke_key(key),
            danger: true,
            back: &back,
        };
        let body = preview.show(visit);
        return frame::page(visit, StatusCode::OK, Nav::Callers, &place, &body);
    }
    let path = format!("/v1/services/{}/keys/{}", encoded(service), encoded(key));
    match console.ask::<api::Changed>(visit, Ask::delete(&path).once(visit)).await {
        Ok(told) => see_other(&format!("{back}&revoked={}", told.value.revision)),
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            whole(console, visit, status, &refused(t, &problem)).await
        }
    }
}
