//! Plans in words: what their rules limit, for people who choose one.

use keepgate_api as api;
use keepgate_limit::rules::{Key, NamedPlan, Rate, Rule};
use maud::{Markup, html};

use super::part::{self, empty, num, table};
use super::text::Lang;

/// The plans of a service.
pub(crate) fn panel(t: Lang, plans: &api::ItemList<NamedPlan>) -> Markup {
    let heads = [(t.plan(), false), (t.rules(), false), (t.changed_at(), true)];
    let rows = html! {
        @for one in &plans.items {
            tr {
                th scope="row" { (one.id) }
                td {
                    @if !one.body.description.is_empty() {
                        p class="quiet small" { (one.body.description) }
                    }
                    @if one.body.rules.is_empty() { span class="quiet" { (t.no_rule_in_plan()) } }
                    @else {
                        ul {
                            @for rule in &one.body.rules {
                                li { code { (rule.name) } ": " (said(t, rule)) }
                            }
                        }
                    }
                }
                td class="n" { (num(one.revision)) }
            }
        }
    };
    let body = html! {
        @if plans.items.is_empty() { (empty(t.no_plan(), t.no_plan_more())) }
        @else { (table(t.plans(), &heads, &rows)) }
        @if plans.next.is_some() { footer { (t.more_than(num(plans.items.len() as u64))) } }
    };
    part::panel("plans", t.plans(), "", &html! {}, &body)
}

/// A rule in words: how much, by whom it is counted, and of what.
pub(crate) fn said(t: Lang, rule: &Rule) -> String {
    let count = |n: u32| num(n.into());
    let mut parts: Vec<String> = Vec::new();
    parts.extend(rule.rate.map(|rate| each(t, rate)));
    parts.extend(rule.burst.map(|n| t.rule_burst(count(n))));
    parts.extend(rule.concurrency.map(|n| t.rule_at_once(count(n))));
    parts.push(match &rule.key {
        Key::Address => t.by_address().to_owned(),
        Key::Principal => t.by_principal().to_owned(),
        Key::ApiKey => t.by_api_key().to_owned(),
        Key::Header(name) => t.by_header(name),
    });
    let subject = keepgate_page::Limit::subject(rule);
    if !subject.is_empty() {
        parts.push(t.rule_on(subject));
    }
    parts.extend(rule.principal_type.as_ref().map(|of| t.rule_of(of)));
    if rule.cost > 1 {
        parts.push(t.rule_cost(count(rule.cost)));
    }
    parts.extend(rule.costs.iter().map(|cost| {
        let (route, methods) = (Some(cost.route.clone()), cost.methods.clone());
        let only = Rule { route, methods, ..Rule::new("", rule.key.clone(), ONE) };
        t.rule_costs(count(cost.cost), keepgate_page::Limit::subject(&only))
    }));
    if rule.shadow {
        parts.push(t.rule_shadow().to_owned());
    }
    parts.join(t.comma())
}

/// Any rate, for a rule of which only its subject is read.
const ONE: Rate = Rate::each_second(std::num::NonZeroU32::MIN);

fn each(t: Lang, rate: Rate) -> String {
    let n = num(rate.count());
    match rate.period_s() {
        1 => t.each_second(n),
        60 => t.each_minute(n),
        3_600 => t.each_hour(n),
        86_400 => t.each_day(n),
        other => t.each_span(n, t.span(other.saturating_mul(1_000))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_is_said_in_words_in_both_languages() {
        for (rule, english, chinese) in [
            (
                json!({"name": "n", "key": "api_key", "rate": "10/s", "burst": 20, "route": "/x"}),
                "10 per second, burst 20, per key, on /x",
                "\u{6bcf}\u{79d2} 10 \u{4e2a},\u{7a81}\u{53d1} 20,\u{6309}\u{5bc6}\u{94a5},\u{7528}\u{4e8e} /x",
            ),
            (
                json!({"name": "n", "key": "principal", "rate": "5000/day", "concurrency": 4,
                       "methods": ["GET", "POST"], "route": "/orders/*", "cost": 2, "shadow": true,
                       "costs": [{"route": "/orders/export", "cost": 20}], "principal_type": "bot"}),
                "5,000 per day, 4 at once, per principal, on GET, POST /orders/*, only for bot, \
                 2 tokens a request, 20 tokens on /orders/export, counts only and refuses nothing",
                "",
            ),
            (
                json!({"name": "n", "key": "address", "concurrency": 1}),
                "1 at once, per address",
                "",
            ),
            (
                json!({"name": "n", "key": "header:x-who", "rate": "20/90s"}),
                "20 per 90 s, per value of x-who",
                "",
            ),
            (
                json!({"name": "n", "key": "address", "rate": "6/5min", "methods": ["PUT"]}),
                "6 per 5 min, per address, on PUT",
                "",
            ),
        ] {
            let rule: Rule = serde_json::from_value(rule).unwrap();
            assert_eq!(said(Lang::English, &rule), english);
            let told = said(Lang::Chinese, &rule);
            assert!(chinese.is_empty() || told == chinese, "{told}");
        }
    }
}
