//! *Overview*: what is wrong now, the services, the last hour of one of them, and the gates.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use keepgate_limit::top::TopAnswer;
use maud::{Markup, html};

use super::Console;
use super::chart::{Chart, spark};
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{
    Icon, Tone, badge, empty, num, of as of_all, panel, rate, share, table, unknown,
};
use super::text::Lang;
use super::visit::Visit;
use super::wrong::{self, SILENT_MS};
use crate::hour::Measure;

/// Services whose callers are looked at for crawls.
const CRAWLS_OF: usize = 8;

/// Gates of one page.
const GATES: usize = 100;

pub(crate) async fn show(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let (place, status) = match looked_up(console, visit).await {
        Ok(found) => found,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let mut all = wrong::of_status(t, &status);
    let first = place.service.iter().cloned();
    let others = place.services.iter().map(|one| one.name.clone());
    let asked: std::collections::BTreeSet<String> = first.chain(others).take(CRAWLS_OF).collect();
    let mut chosen = None;
    for service in asked {
        let path = format!("/v1/services/{}/top", encoded(&service));
        let Ok(answer) = console.get::<TopAnswer>(visit, &path).await else { continue };
        all.extend(wrong::of_crawls(t, &answer));
        if Some(&service) == place.service.as_ref() {
            chosen = Some(answer);
        }
    }
    let body = html! {
        (wrong::show(t, &all, status.gates.len()))
        (services(console, t, &place, &status))
        @if let Some(service) = &place.service { (charts(console, t, service, chosen.as_ref())) }
        (gates(t, &status))
    };
    frame::page(visit, StatusCode::OK, Nav::Overview, &place, &body)
}

async fn looked_up(console: &Console, visit: &Visit) -> Result<(Place, api::Status), api::Problem> {
    let place = Place::of(console, visit).await?;
    Ok((place, console.get(visit, "/v1/status").await?))
}

fn covers(scope: &api::Scope, service: &str) -> bool {
    match scope {
        api::Scope::All(_) => true,
        api::Scope::Services(names) => names.iter().any(|name| name == service),
    }
}

fn services(console: &Console, t: Lang, place: &Place, status: &api::Status) -> Markup {
    let now = keepgate_observe::unix_s();
    let figure = |value: Option<f64>| {
        html! { @match value { Some(value) => (rate(value)), None => (unknown(t)) } }
    };
    let heads = [
        (t.service_head(), false),
        (t.requests(), false),
        (t.now_per_second(), true),
        (t.limited(), true),
        (t.denied(), true),
        (t.undecided(), true),
        (t.gates_heard(), true),
    ];
    let rows = html! {
        @for one in &place.services {
            @let hour = console.app.hours.of(&one.name, now);
            @let last = |of: &Measure| figure(of.points.last().copied().flatten());
            @let following = status.gates.iter().filter(|gate| covers(&gate.services, &one.name));
            @let heard = following.clone()
                .filter(|gate| gate.heard_ms_ago.is_some_and(|ago| ago <= SILENT_MS)).count();
            tr {
                th scope="row" {
                    a href={ "/overview?service=" (encoded(&one.name)) }
                        aria-current=[(place.service.as_deref() == Some(&one.name)).then_some("true")] {
                        (one.name)
                    }
                }
                td {
                    @if hour.requests.sum.is_some() { (spark(&hour.requests.points)) }
                    @else { (unknown(t)) }
                }
                td class="n" { (last(&hour.requests)) }
                td class="n" { (last(&hour.limited)) }
                td class="n" { (last(&hour.denied)) }
                td class="n" { (last(&hour.undecided)) }
                td class="n" { (t.heard_of(heard, following.count())) }
            }
        }
    };
    let body = html! {
        @if place.services.is_empty() { (empty(t.no_service_yet(), t.no_service_yet_more())) }
        @else { (table(t.services(), &heads, &rows)) }
    };
    panel("all-services", t.services(), t.services_rest(), &html! {}, &body)
}

fn charts(console: &Console, t: Lang, service: &str, answer: Option<&TopAnswer>) -> Markup {
    let hour = console.app.hours.of(service, keepgate_observe::unix_s());
    let note = |of: &Measure| match of.sum {
        Some(sum) => t.in_the_hour(num(sum)),
        None => t.no_gate_told().to_owned(),
    };
    let gates = answer.and_then(|answer| answer.gates.as_ref());
    let rests = match gates {
        Some(gates) => t.rests_on(num(gates.heard), num(gates.following)),
        None => t.not_known().to_owned(),
    };
    let undecided = format!("{}{}", note(&hour.undecided), t.none_is_a_denial());
    let chart = |title, class, of: &Measure, note: &str| {
        Chart { title, class, points: &of.points, note }.show(t)
    };
    let body = html! {
        div class="charts" {
            (chart(t.requests(), "c-data", &hour.requests, &note(&hour.requests)))
            (chart(t.refused(), "c-bad", &hour.refused, &note(&hour.refused)))
            (chart(t.limited(), "c-warn", &hour.limited, &note(&hour.limited)))
            (chart(t.denied(), "c-bad", &hour.denied, &note(&hour.denied)))
            (chart(t.undecided(), "c-none", &hour.undecided, &undecided))
        }
    };
    panel("charts", &t.last_hour_of(service), &rests, &html! {}, &body)
}

/// What a gate says of itself: of an old report nothing is known.
fn reported(t: Lang, report: Option<&api::GateReport>) -> Markup {
    let report = report.filter(|report| !wrong::is_old(report));
    let of = |figure: fn(&api::GateReport) -> Option<u64>| report.and_then(figure);
    let (callers, upstreams) =
        (of(|one| one.caller_connections), of(|one| one.upstream_connections));
    let reuse = of(|one| one.requests).zip(of(|one| one.reused));
    let shown = |figure: Option<u64>| match figure {
        Some(figure) => html! { (num(figure)) },
        None => unknown(t),
    };
    html! {
        td class="n" {
            @if callers.is_none() && upstreams.is_none() { (unknown(t)) }
            @else {
                (shown(callers))
                small { (t.to_upstreams()) " " (shown(upstreams)) }
            }
        }
        td class="n" {
            @match reuse {
                // Of no requests there is no share.
                Some((0, _)) => (t.no_requests()),
                Some((all, reused)) => { (share(of_all(reused, all))) },
                None => (unknown(t)),
            }
        }
        td class="n" {
            @match report.and_then(|report| report.tightest.as_ref()) {
                Some(left) => {
                    (t.free_of(num(u64::from(left.free)), num(u64::from(left.usable))))
                    small { (left.destination) }
                },
                None => (unknown(t)),
            }
        }
        td {
            @match report.and_then(|report| report.verdict.as_deref()) {
                Some("healthy") => (badge(Tone::Ok, Icon::Ok, t.healthy())),
                Some("at_risk") => (badge(Tone::Warn, Icon::Warn, t.at_risk())),
                Some("exhausted") => (badge(Tone::Bad, Icon::Bad, t.exhausted())),
                Some("not_ports") => (badge(Tone::Warn, Icon::Warn, t.not_ports())),
                Some(_) => (badge(Tone::None, Icon::Unknown, t.undecided_doctor())),
                None => (unknown(t)),
            }
        }
    }
}

fn gates(t: Lang, status: &api::Status) -> Markup {
    let heads = [
        (t.gate(), false),
        (t.state(), false),
        (t.services(), false),
        (t.release(), false),
        (t.revision(), true),
        (t.age(), true),
        (t.connections(), true),
        (t.reuse(), true),
        (t.ports_left(), true),
        (t.doctor(), false),
    ];
    let head = status.centers.iter().map(|center| center.revision).max().unwrap_or_default();
    let rows = html! {
        @for gate in status.gates.iter().take(GATES) {
            @let silent = gate.heard_ms_ago.filter(|ago| *ago > SILENT_MS);
            tr {
                th scope="row" {
                    (gate.name)
                    small { (gate.peer.as_deref().unwrap_or_default()) }
                    // Where there is one center, all follow it.
                    @if status.centers.len() > 1 { small { (t.center_word()) " " (gate.center) } }
                }
                td {
                    @match (silent, gate.heard_ms_ago) {
                        (Some(ago), _) => (badge(Tone::None, Icon::Unknown, &t.not_heard(t.span(ago)))),
                        (None, None) => (badge(Tone::None, Icon::Unknown, t.never_heard())),
                        _ if !gate.wrong.is_empty() => (badge(Tone::Warn, Icon::Warn, t.at_risk())),
                        _ => (badge(Tone::Ok, Icon::Ok, t.follows())),
                    }
                    small { (t.connected()) " " (t.span(gate.connected_ms)) }
                }
                td {
                    @match &gate.services {
                        api::Scope::All(_) => (t.all_services()),
                        api::Scope::Services(names) => {
                            (names.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", "))
                            @if names.len() > 4 { " +" (names.len() - 4) }
                        },
                    }
                }
                td class="nw" {
                    @if gate.release.is_empty() { (unknown(t)) } @else { (gate.release) }
                }
                td class="n" {
                    (num(gate.revision))
                    @if gate.revision < head { small { (t.behind(num(head - gate.revision))) } }
                }
                td class="n" {
                    @match (gate.age_ms, gate.heard_ms_ago) {
                        (Some(age), Some(ago)) => {
                            @if silent.is_some() { "> " }
                            (t.span(age.saturating_add(ago)))
                        },
                        _ => (unknown(t)),
                    }
                }
                (reported(t, gate.report.as_ref()))
            }
        }
    };
    let body = html! {
        @if status.gates.is_empty() { (empty(t.no_gate(), t.no_gate_more())) }
        @else { (table(t.gates(), &heads, &rows)) }
        @if status.gates.len() > GATES {
            footer { (t.of_many(num(GATES as u64), num(status.gates.len() as u64))) }
        }
        @if !status.gates.is_empty() { footer { (t.gates_tell()) } }
    };
    panel("gates", t.gates(), t.age_is(), &html! {}, &body)
}
