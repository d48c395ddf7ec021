//! Ways: from somebody over memberships to what a policy names; since when, and by whom.

use keepgate_api as api;
use maud::{Markup, html};

use super::access::end;
use super::diff::revision_link;
use super::form::encoded;
use super::part::{english, unknown};
use super::text::Lang;

/// One place of a way: what it is, and its name.
pub(crate) struct Stop {
    pub(crate) what: Markup,
    pub(crate) name: String,
    /// Whether nothing leads here.
    pub(crate) is_missing: bool,
}

impl Stop {
    pub(crate) fn new(what: &str, name: &str) -> Stop {
        Stop { what: html! { (what) }, name: name.to_owned(), is_missing: false }
    }
}

/// A way, drawn: a solid line exists, a dashed one does not.
pub(crate) fn way(label: &str, stops: &[Stop]) -> Markup {
    html! {
        ol class="path" aria-label=(label) {
            @for stop in stops {
                li class=[stop.is_missing.then_some("gap")] {
                    span class="stop" {
                        small class=[stop.is_missing.then_some("bad")] { (stop.what) }
                        code { (stop.name) }
                    }
                }
            }
        }
    }
}

/// The places that steps lead to.
pub(crate) fn stops(t: Lang, service: &str, steps: &[api::PathStep]) -> Vec<Stop> {
    steps
        .iter()
        .map(|step| {
            let what = html! {
                (by(t, step))
                @if let Some(since) = &step.since { " " (t.since_word()) " " (revision_link(t, service, since.revision)) }
                @if step.until_unix_s.is_some() { ", " (t.until_word()) " " (end(t, step.until_unix_s)) }
            };
            Stop { what, name: step.to.clone(), is_missing: false }
        })
        .collect()
}

/// What says that a step is there.
fn by(t: Lang, step: &api::PathStep) -> &'static str {
    match step.by.as_ref().map(|item| item.kind.as_str()) {
        Some("member") => t.by_membership(),
        Some(_) => t.by_entity(),
        None => t.by_request(),
    }
}

/// Since when something is so, and by whom; what the log does not reach is not known.
pub(crate) fn since(t: Lang, service: &str, since: &api::Since) -> Markup {
    html! {
        @match &since.actor {
            Some(actor) => { code { (actor) } @if let Some(action) = &since.action { " " (english(t, action)) } },
            None => (unknown(t)),
        }
        small {
            @match since.unix_ms {
                Some(ms) => (keepgate_observe::date(ms / 1_000)),
                None => (unknown(t)),
            }
            ", " (t.revision_short("")) (revision_link(t, service, since.revision))
        }
    }
}

/// A policy, link or grant, with its way: `user::"bob"`, in `role::"staff"`, by it.
pub(crate) fn given(t: Lang, service: &str, given: &api::GivenBy) -> Markup {
    html! {
        span class="by" {
            (given.item.kind) " "
            @if given.item.kind == "policy" {
                a href={ "/policies?service=" (encoded(service)) } { (given.item.id) }
            } @else { b class="mono" { (given.item.id) } }
        }
        @if !given.path.is_empty() {
            small {
                @for (n, step) in given.path.iter().enumerate() {
                    @if n > 0 { ", " }
                    (by(t, step)) " " (t.in_word()) " "
                    code { (step.to) }
                    @if step.until_unix_s.is_some() { " " (t.until_word()) " " (end(t, step.until_unix_s)) }
                    @if let Some(since) = &step.since {
                        " ("
                        @match &since.actor { Some(actor) => code { (actor) }, None => (unknown(t)) }
                        ", " (revision_link(t, service, since.revision)) ")"
                    }
                }
            }
        }
        @if let Some(condition) = &given.condition {
            small { (t.where_word()) " " code class="long" { (condition) } }
        }
    }
}
