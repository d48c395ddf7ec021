//! What is wrong now: one sentence each, the most urgent first, with the way out.

use keepgate_api as api;
use keepgate_limit::top::TopAnswer;
use maud::{Markup, html};

use super::form::encoded;
use super::part::{Icon, Tone, badge, english, num, rate, share};
use super::text::Lang;

/// A gate that was not heard for longer than this is one to look at; it pulses every second.
pub(crate) const SILENT_MS: u64 = 5_000;

/// Sentences that a page has; the number of all is told.
const TOLD: usize = 20;

/// One thing that is wrong.
pub(crate) struct Wrong {
    tone: Tone,
    icon: Icon,
    word: &'static str,
    sentence: Markup,
    more: Markup,
    way: Markup,
}

/// What a gate said of itself this long ago is not how it is now; it says so every ten seconds.
const OLD_MS: u64 = 35_000;

/// Whether what a gate said of itself may not be so any more.
pub(crate) fn is_old(report: &api::GateReport) -> bool {
    report.told_ms_ago > OLD_MS
}

/// Center and gates.
pub(crate) fn of_status(t: Lang, status: &api::Status) -> Vec<Wrong> {
    let mut all = Vec::new();
    for center in status.centers.iter().filter(|center| center.condition != "ready") {
        all.push(Wrong {
            tone: Tone::Bad,
            icon: Icon::Bad,
            word: t.center_word(),
            sentence: html! { (t.center_is(&center.address)) " " code { (center.condition) } },
            more: english(t, &center.why),
            way: html! {},
        });
    }
    for gate in &status.gates {
        let Some(report) = gate.report.as_ref().filter(|report| !is_old(report)) else { continue };
        let (tone, icon, word) = match report.verdict.as_deref() {
            Some("exhausted") => (Tone::Bad, Icon::Bad, t.exhausted()),
            Some("at_risk") => (Tone::Warn, Icon::Warn, t.at_risk()),
            Some("not_ports") => (Tone::Warn, Icon::Warn, t.not_ports()),
            _ => continue,
        };
        all.push(Wrong {
            tone,
            icon,
            word,
            sentence: html! { (t.doctor_says(&gate.name)) " " (english(t, &report.headline)) },
            more: html! { (t.ask_doctor()) },
            way: html! { a class="btn" href="#gates" { (t.show_gates()) } },
        });
    }
    let head = status.centers.iter().map(|center| center.revision).max().unwrap_or_default();
    for gate in &status.gates {
        let silent = gate.heard_ms_ago.filter(|ago| *ago > SILENT_MS);
        if let Some(ago) = silent {
            all.push(Wrong {
                tone: Tone::None,
                icon: Icon::Unknown,
                word: t.not_known_word(),
                sentence: html! { (t.gate_silent(&gate.name, t.span(ago))) },
                more: html! { (t.gate_silent_more()) },
                way: html! { a class="btn" href="#gates" { (t.show_gates()) } },
            });
        }
        for said in gate.wrong.iter().filter(|said| !said.starts_with("not heard for ")) {
            let behind = said.starts_with("at revision ");
            all.push(Wrong {
                tone: Tone::Warn,
                icon: Icon::Warn,
                word: t.at_risk(),
                sentence: match behind {
                    true => {
                        html! { (t.gate_behind(&gate.name, num(head.saturating_sub(gate.revision)))) }
                    }
                    false => html! { (gate.name) ": " (english(t, said)) },
                },
                more: html! { (t.gate_behind_more()) },
                way: html! { a class="btn" href="#gates" { (t.show_gates()) } },
            });
        }
    }
    all
}

/// Callers who walk a route.
pub(crate) fn of_crawls(t: Lang, answer: &TopAnswer) -> Vec<Wrong> {
    let crawls = answer.report.iter().flat_map(|report| &report.crawls);
    let wrong = crawls.map(|crawl| {
        let who = crawl.principal.as_deref().unwrap_or(&crawl.name);
        let refused = share(super::part::of(crawl.refused, crawl.requests.max(crawl.refused)));
        Wrong {
            tone: Tone::Warn,
            icon: Icon::Crawl,
            word: t.crawl(),
            sentence: html! {
                code { (who) } " " (t.walks(&answer.service)) " " code { (crawl.route) } ": "
                (t.crawl_rate(rate(crawl.per_second), refused))
            },
            more: html! {
                (t.crawl_ids(num(crawl.distinct))) " "
                @match &crawl.plan {
                    Some(plan) => (t.crawl_plan(plan)),
                    None => (t.crawl_no_plan()),
                }
            },
            way: html! {
                a class="btn" href={ "/callers?service=" (encoded(&answer.service)) } {
                    (t.show_caller())
                }
            },
        }
    });
    wrong.collect()
}

/// The panel.
pub(crate) fn show(t: Lang, all: &[Wrong], gates: usize) -> Markup {
    let count = match all.len() {
        0 => String::new(),
        count => t.things(num(count as u64)),
    };
    let body = html! {
        @if all.is_empty() {
            div class="calm" {
                span class="ok" { (Icon::Ok.at(18)) }
                div {
                    h3 { (t.nothing_wrong()) }
                    p class="quiet" { (t.looked_at(num(gates as u64))) }
                }
            }
        } @else {
            ol class="wrong" {
                @for one in all.iter().take(TOLD) {
                    li {
                        div { (badge(one.tone, one.icon, one.word)) }
                        div { p { (one.sentence) } p { (one.more) } }
                        span class="actions" { (one.way) }
                    }
                }
            }
        }
    };
    super::part::panel("wrong", t.wrong_now(), &count, &html! {}, &body)
}
