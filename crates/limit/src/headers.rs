//! Verdicts as HTTP: fields and the members of a problem document.
//!
//! Pure formatting. Field names are in lower case, as HTTP/2 and the `http` crate want
//! them. It does not know the rest of the answer.
//!
//! What the numbers mean under a bucket that fills steadily: `q` is the rate's count and `w`
//! its period (seconds, rounded up); `r` is what may be spent at once now; `t` is when the
//! bucket will be full, or, when nothing remains, when the next request may pass. All
//! seconds are rounded up, so a caller who waits that long is not refused for being early.
//!
//! Sources: draft-ietf-httpapi-ratelimit-headers-11; RFC 9651 (strings, integers); RFC 9110
//! section 10.2.3 (`Retry-After`); RFC 8288 (`Link`); RFC 9457 (problem documents).

use std::fmt::Write;

use serde::Serialize;

use crate::limiter::{LimitVerdict, Limiter, Outcome, Policy, PolicyReport, Texts, Unit};
use crate::rules::Dialect;

/// The problem type of an exceeded quota.
pub const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// The largest integer of RFC 9651.
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// One field: its name in lower case, and its value.
pub type Field = (&'static str, String);

/// The fields that tell a caller about its limits, for an answer of any status.
///
/// Pass the verdicts of all phases the request went through, made by `limiter`. If one of
/// them refuses, `retry-after` and the `link` to the help are among the fields; `page` is the help
/// where the operator names none.
pub fn fields(limiter: &Limiter, verdicts: &[&LimitVerdict], page: Option<&str>) -> Vec<Field> {
    let told = told(limiter, verdicts);
    let mut fields = Vec::with_capacity(4);
    match limiter.headers() {
        Dialect::Draft11 if !told.is_empty() => {
            fields.push(("ratelimit-policy", list(&told, policy_item)));
            fields.push(("ratelimit", list(&told, limit_item)));
        }
        Dialect::XRateLimit => {
            let by_rate = told.iter().filter(|(_, report)| report.unit == Unit::Rate);
            // The tightest: of two policies the one with less left.
            if let Some((policy, report)) = by_rate.min_by_key(|(_, report)| report.remaining) {
                let count = policy.quota().map_or(0, |quota| quota.count());
                fields.push(("x-ratelimit-limit", integer(count).to_string()));
                fields.push(("x-ratelimit-remaining", report.remaining.to_string()));
                fields.push(("x-ratelimit-reset", effective_window_s(report).to_string()));
            }
        }
        Dialect::Draft11 | Dialect::Off => {}
    }
    if let Some(seconds) = retry_after_s(verdicts) {
        fields.push(("retry-after", seconds.to_string()));
        if let Some(help) = limiter.help().or(page) {
            fields.push(("link", format!("<{help}>; rel=\"help\"")));
        }
    }
    fields
}

/// Seconds after which a refused request may pass; `None` if no verdict refuses.
///
/// When a place among the requests under way becomes free is not known: 1.
pub fn retry_after_s(verdicts: &[&LimitVerdict]) -> Option<u64> {
    let refusals = verdicts.iter().flat_map(|verdict| verdict.refusals());
    refusals.map(|report| seconds(report.retry_after_ns).max(1)).max()
}

/// The members of the problem document of a refused request, for `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuotaExceeded {
    /// [`QUOTA_EXCEEDED`].
    #[serde(rename = "type")]
    pub problem_type: &'static str,
    /// For people, the same for all.
    pub title: &'static str,
    /// 429.
    pub status: u16,
    /// For people, about this request.
    pub detail: String,
    /// The names of the policies that refuse.
    #[serde(rename = "violated-policies")]
    pub violated_policies: Vec<String>,
    /// Where to read about the API and how to get a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl QuotaExceeded {
    /// About a request that one of `verdicts` refuses; `None` if none does.
    ///
    /// `has_key`: the caller used an API key, and needs no word on how to get one. `page` is the help
    /// where the operator names none.
    pub fn new(
        limiter: &Limiter,
        verdicts: &[&LimitVerdict],
        has_key: bool,
        page: Option<&str>,
    ) -> Option<QuotaExceeded> {
        let seconds = retry_after_s(verdicts)?;
        let refusing = told(limiter, verdicts).into_iter().filter(|(_, r)| refuses(r));
        let mut detail = String::new();
        let mut violated_policies = Vec::new();
        for (policy, report) in refusing {
            let _infallible = match (report.unit, policy.quota()) {
                (Unit::Rate, Some(quota)) => write!(
                    detail,
                    "the limit `{}` of {} requests in {} s is used up; ",
                    policy.rule().name,
                    quota.count(),
                    window_s(policy)
                ),
                _ => write!(
                    detail,
                    "the limit `{}` of {} requests at once is used up; ",
                    policy.rule().name,
                    policy.rule().concurrency.unwrap_or(0)
                ),
            };
            violated_policies.push(policy_name(policy, report.unit));
        }
        let _infallible = write!(detail, "retry in {seconds} s");
        let help = limiter.help().or(page);
        if let Some(help) = help.filter(|_| !has_key) {
            let _infallible = write!(detail, "; {help} describes the API and how to get a key");
        }
        Some(QuotaExceeded {
            problem_type: QUOTA_EXCEEDED,
            title: "Request cannot be satisfied as assigned quota has been exceeded",
            status: 429,
            detail,
            violated_policies,
            help: help.map(str::to_owned),
        })
    }
}

/// A text as a string of RFC 9651: printable ASCII in quotes; other characters become `?`.
pub fn sf_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

type Told<'a> = (&'a Policy, &'a PolicyReport);

/// What callers are told of: everything but shadows.
fn told<'a>(limiter: &'a Limiter, verdicts: &'a [&LimitVerdict]) -> Vec<Told<'a>> {
    let reports = verdicts.iter().flat_map(|v| v.reports().iter().map(move |r| (*v, r)));
    reports
        .filter(|(_, report)| !report.shadow)
        .filter_map(|(verdict, report)| Some((limiter.policy(verdict, report)?, report)))
        .collect()
}

fn refuses(report: &PolicyReport) -> bool {
    report.outcome == Outcome::Refused
}

fn list(told: &[Told<'_>], item: fn(&mut String, Told<'_>)) -> String {
    let mut out = String::with_capacity(told.len() * 32);
    for (index, each) in told.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        item(&mut out, *each);
    }
    out
}

fn policy_item(out: &mut String, (policy, report): Told<'_>) {
    let [rate, concurrency] = &policy.texts(texts).policy;
    out.push_str(match report.unit {
        Unit::Rate => rate,
        Unit::Concurrency => concurrency,
    });
}

fn limit_item(out: &mut String, (policy, report): Told<'_>) {
    let [rate, concurrency] = &policy.texts(texts).name;
    let (name, reset) = match report.unit {
        Unit::Rate => (rate, Some(effective_window_s(report))),
        Unit::Concurrency => (concurrency, None),
    };
    out.push_str(name);
    out.push_str(";r=");
    push_number(out, report.remaining.into());
    if let Some(reset) = reset {
        out.push_str(";t=");
        push_number(out, reset);
    }
}

/// What is the same in every answer.
fn texts(policy: &Policy) -> Texts {
    let names = [Unit::Rate, Unit::Concurrency].map(|unit| sf_string(&policy_name(policy, unit)));
    let [rate, concurrency] = &names;
    let places = policy.rule().concurrency.unwrap_or(0);
    let concurrency = format!("{concurrency};q={places};qu=\"concurrent-requests\"");
    let rate = match policy.quota() {
        Some(quota) => format!("{rate};q={};w={}", integer(quota.count()), window_s(policy)),
        None => concurrency.clone(),
    };
    Texts { policy: [rate.into(), concurrency.into()], name: names.map(Box::from) }
}

/// A number in decimal, without the machinery of formatting: each answer has some.
fn push_number(out: &mut String, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        // Below ten.
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    let digits = digits.get(digits.len() - used..).unwrap_or_default();
    out.extend(digits.iter().map(|digit| char::from(*digit)));
}

/// A rule with a rate and a concurrency is two policies; the second has a name of its own.
fn policy_name(policy: &Policy, unit: Unit) -> String {
    let name = &policy.rule().name;
    match unit {
        Unit::Concurrency if policy.quota().is_some() => format!("{name}/concurrency"),
        Unit::Rate | Unit::Concurrency => name.clone(),
    }
}

fn window_s(policy: &Policy) -> u64 {
    policy.quota().map_or(0, |quota| {
        integer(seconds(u64::try_from(quota.period().as_nanos()).unwrap_or(u64::MAX)))
    })
}

fn effective_window_s(report: &PolicyReport) -> u64 {
    let nanos = match report.retry_after_ns {
        0 => report.reset_ns,
        nanos => nanos,
    };
    integer(seconds(nanos))
}

fn seconds(nanos: u64) -> u64 {
    nanos.div_ceil(1_000_000_000)
}

fn integer(value: u64) -> u64 {
    value.min(MAX_INTEGER)
}
