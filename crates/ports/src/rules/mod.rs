//! The judgement: a [`HostSnapshot`] in, a [`Report`] out. One file per finding, all pure.
//!
//! Each rule looks at the [`Facts`] (the snapshot, and the budgets the model computed from it)
//! and says nothing, or one or more findings. Rules do not see each other; the order of the list
//! does not matter, because findings are sorted by severity. No rule knows a clock, a file or a
//! terminal.

mod bind;
mod cause;
mod churn;
mod cliff;
mod conntrack;
mod exhausted;
mod files;
mod ipv6;
mod leaks;
mod listeners;
mod nonlocal;
mod overflow;
mod range;
mod reserved;
mod reuse;
mod route;
mod settings;
mod trend;
mod udp;

use crate::budget::{Budget, Model, sustainable_per_s};
use crate::diag::TcpState;
use crate::ranges::PortSet;
use crate::report::{
    BucketReport, Cause, Finding, REPORT_VERSION, RangeReport, Remedy, Report, Severity,
    SocketsReport, Verdict,
};
use crate::snapshot::{HostSnapshot, TimestampUse, Unknown};
use crate::table::{Bucket, BucketKey};

/// How many buckets a report shows when none was asked for.
pub const MAX_REPORTED: usize = 10;
/// How many of the largest buckets are computed before the fullest are chosen.
const MAX_COMPUTED: usize = 64;
/// A bucket with fewer sockets is not shown unless it is short of ports.
const FEW_SOCKETS: usize = 2;
/// Above this part of its ports, a bucket's connects are slow, and it is a finding.
pub const CLIFF: f64 = 0.5;

/// One bucket as the rules see it.
#[derive(Debug)]
pub(crate) struct BucketFacts<'a> {
    pub(crate) key: BucketKey,
    /// Its sockets; nothing when it holds none yet.
    pub(crate) bucket: Option<&'a Bucket>,
    pub(crate) budget: Budget,
    pub(crate) cause: Cause,
    pub(crate) opens_per_s: Option<f64>,
    pub(crate) closes_per_s: Option<f64>,
    pub(crate) sustainable_per_s: f64,
    pub(crate) exhausted_in_s: Option<u64>,
    pub(crate) asked: bool,
}

impl BucketFacts<'_> {
    pub(crate) fn in_state(&self, state: TcpState) -> u64 {
        self.bucket.map_or(0, |b| b.sockets.iter().filter(|e| e.state == state).count() as u64)
    }

    pub(crate) fn name(&self) -> String {
        format!("{} -> {}", self.key.src, self.key.destination())
    }
}

/// What the rules look at.
pub(crate) struct Facts<'a> {
    pub(crate) snapshot: &'a HostSnapshot,
    pub(crate) buckets: Vec<BucketFacts<'a>>,
    /// In the range and not reserved.
    pub(crate) pool: PortSet,
    /// Of those, bound by other means than `connect()`.
    pub(crate) bound: PortSet,
    /// Of those, bound by a listener.
    pub(crate) listening: PortSet,
}

impl Facts<'_> {
    /// A command to run in the namespace in question.
    pub(crate) fn command(&self, command: &str) -> String {
        format!("{}{command}", self.snapshot.enter)
    }

    /// The owners' names, for a sentence: "`java` (pid 2134)".
    pub(crate) fn owners(&self, key: &BucketKey) -> Option<String> {
        let owners = self.snapshot.owners.get(key)?;
        let names: Vec<String> =
            owners.iter().take(3).map(|o| format!("`{}` (pid {})", o.command, o.pid)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The program to change, for a sentence.
    pub(crate) fn program(&self, key: &BucketKey) -> String {
        self.snapshot
            .owners
            .get(key)
            .and_then(|owners| owners.first())
            .map_or_else(|| "the program".to_owned(), |o| format!("`{}`", o.command))
    }
}

type Rule = fn(&Facts<'_>, &mut Vec<Finding>);

const RULES: [Rule; 17] = [
    exhausted::judge,
    cliff::judge,
    churn::judge,
    leaks::judge,
    range::judge,
    reserved::judge,
    listeners::judge,
    bind::judge,
    reuse::judge,
    settings::judge,
    overflow::judge,
    nonlocal::judge,
    ipv6::judge,
    route::judge,
    conntrack::judge,
    files::judge,
    udp::judge,
];

/// Judges a snapshot.
pub fn judge(snapshot: &HostSnapshot) -> Report {
    judge_up_to(snapshot, MAX_REPORTED)
}

/// The same, with so many buckets in the report.
pub fn judge_up_to(snapshot: &HostSnapshot, max_buckets: usize) -> Report {
    let facts = facts(snapshot, max_buckets);
    let mut findings = Vec::new();
    for rule in RULES {
        rule(&facts, &mut findings);
    }
    findings.sort_by_key(|f| (f.severity, f.bucket.unwrap_or(usize::MAX)));
    let verdict = verdict(&findings);
    let mut unknown = snapshot.unknown.clone();
    doubts(&facts, &mut unknown);
    let sockets = &snapshot.sockets;
    Report {
        version: REPORT_VERSION,
        verdict,
        headline: headline(verdict, &facts, &findings),
        netns: snapshot.netns.clone(),
        range: RangeReport {
            low: snapshot.settings.range.low,
            high: snapshot.settings.range.high,
            usable: facts.pool.len(),
            reserved: snapshot.settings.range.len().saturating_sub(facts.pool.len()),
        },
        sockets: SocketsReport {
            total: sockets.total(),
            time_wait: sockets.in_state(TcpState::TimeWait),
            established: sockets.in_state(TcpState::Established),
            close_wait: sockets.in_state(TcpState::CloseWait),
        },
        buckets: facts.buckets.iter().map(|b| report(&facts, b)).collect(),
        findings,
        unknown,
    }
}

fn facts(snapshot: &HostSnapshot, max_buckets: usize) -> Facts<'_> {
    let model = Model::new(snapshot);
    let pool = snapshot.pool();
    let bound = model.bound_in_pool();
    let mut listening: PortSet = snapshot
        .sockets
        .bound
        .iter()
        .filter(|b| b.state == TcpState::Listen)
        .map(|b| b.local.port())
        .collect();
    listening.intersect_with(&pool);
    let asked = snapshot.asked_keys();
    let mut largest: Vec<&Bucket> = snapshot.sockets.buckets.iter().collect();
    largest.sort_by_key(|b| (std::cmp::Reverse(b.sockets.len()), b.key));
    let mut keys = asked.clone();
    if snapshot.asked.iter().all(|asked| asked.destination.port() == 0) {
        keys.extend(largest.iter().take(MAX_COMPUTED.max(max_buckets)).map(|b| b.key));
    }
    let mut buckets: Vec<BucketFacts<'_>> = keys
        .into_iter()
        .map(|key| bucket_facts(snapshot, &model, key, asked.contains(&key)))
        .filter(|b| {
            let sockets = b.bucket.map_or(0, |b| b.sockets.len());
            b.asked || sockets >= FEW_SOCKETS || b.budget.remaining.min == 0
        })
        .collect();
    buckets.sort_by(|a, b| {
        let order = |b: &BucketFacts<'_>| (b.budget.remaining.max, b.exhausted_in_s);
        let soon = |b: &BucketFacts<'_>| b.exhausted_in_s.unwrap_or(u64::MAX);
        (soon(a), order(a), a.key).cmp(&(soon(b), order(b), b.key))
    });
    buckets.truncate(max_buckets.max(asked.len()));
    let mut facts = Facts { snapshot, buckets, pool, bound, listening };
    let causes: Vec<Cause> = facts.buckets.iter().map(|b| cause::of(&facts, b)).collect();
    for (bucket, cause) in facts.buckets.iter_mut().zip(causes) {
        bucket.cause = cause;
    }
    facts
}

fn bucket_facts<'a>(
    snapshot: &'a HostSnapshot,
    model: &Model<'_>,
    key: BucketKey,
    asked: bool,
) -> BucketFacts<'a> {
    let bucket = snapshot.sockets.bucket(&key);
    let budget = model.budget(key);
    let rate = snapshot.rates.get(&key).copied().unwrap_or_default();
    let two_looks = snapshot.interval_ms > 0;
    let timestamps = match snapshot.evidence.timestamps.get(&key.dst) {
        Some(seen) => *seen == TimestampUse::On,
        None => snapshot.settings.timestamps != 0,
    };
    let sustainable = sustainable_per_s(&snapshot.settings, budget.usable, key, timestamps);
    let mut facts = BucketFacts {
        key,
        bucket,
        budget,
        cause: Cause::None,
        opens_per_s: two_looks.then_some(rate.opens_per_s),
        closes_per_s: two_looks.then_some(rate.closes_per_s),
        sustainable_per_s: sustainable,
        exhausted_in_s: None,
        asked,
    };
    facts.exhausted_in_s = trend::exhausted_in_s(snapshot, &facts, timestamps);
    facts
}

fn report(facts: &Facts<'_>, bucket: &BucketFacts<'_>) -> BucketReport {
    BucketReport {
        src: bucket.key.src,
        dst: bucket.key.dst,
        dport: bucket.key.dport,
        usable: bucket.budget.usable,
        used: bucket.budget.used,
        remaining: bucket.budget.remaining,
        doubts: bucket.budget.doubts.clone(),
        states: bucket.bucket.map(|b| b.states().iter().collect()).unwrap_or_default(),
        opens_per_s: bucket.opens_per_s.map(tenth),
        closes_per_s: bucket.closes_per_s.map(tenth),
        sustainable_per_s: Some(tenth(bucket.sustainable_per_s)),
        exhausted_in_s: bucket.exhausted_in_s,
        cause: bucket.cause,
        owners: facts.snapshot.owners.get(&bucket.key).cloned().unwrap_or_default(),
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Exhaustion is said first; then a certain other reason; then risks.
fn verdict(findings: &[Finding]) -> Verdict {
    let any = |severity: Severity, about_ports: bool| {
        findings.iter().any(|f| f.severity == severity && f.cause.is_about_ports() == about_ports)
    };
    if any(Severity::Critical, true) {
        Verdict::Exhausted
    } else if any(Severity::Critical, false) {
        Verdict::NotPorts
    } else if any(Severity::Warning, true) {
        Verdict::AtRisk
    } else if any(Severity::Warning, false) {
        Verdict::NotPorts
    } else {
        Verdict::Healthy
    }
}

fn headline(verdict: Verdict, facts: &Facts<'_>, findings: &[Finding]) -> String {
    let first = |about_ports: bool| {
        findings
            .iter()
            .find(|f| f.severity <= Severity::Warning && f.cause.is_about_ports() == about_ports)
            .map_or_else(String::new, |f| f.evidence.clone())
    };
    match verdict {
        Verdict::Exhausted | Verdict::AtRisk => first(true),
        Verdict::NotPorts => first(false),
        Verdict::Unknown => "what was seen allows more than one answer".to_owned(),
        Verdict::Healthy => match facts.buckets.first() {
            Some(b) => format!(
                "the fullest destination, {}, has {} of {} ports left",
                b.name(),
                b.budget.remaining,
                b.budget.usable
            ),
            None => {
                format!("no connections worth mention, {} ports to choose from", facts.pool.len())
            }
        },
    }
}

/// The model's doubts about the reported buckets, as things not seen.
fn doubts(facts: &Facts<'_>, unknown: &mut Vec<Unknown>) {
    use crate::budget::Doubt;
    for bucket in facts.buckets.iter().filter(|b| b.asked || b.budget.pressure() >= CLIFF) {
        for doubt in &bucket.budget.doubts {
            let name = bucket.name();
            unknown.push(match doubt {
                Doubt::Timestamps(n) => Unknown {
                    what: format!("whether {n} TIME_WAITs of {name} may be reused"),
                    why: "that depends on TCP timestamps, and no live connection to that \
                          destination shows whether they are on"
                        .to_owned(),
                },
                Doubt::Binding(n) => Unknown {
                    what: format!("whether {n} ports are closed to {name}"),
                    why: "they carry other sockets, which may have been bound explicitly"
                        .to_owned(),
                },
                Doubt::OddRange | Doubt::Idle(_) => continue,
            });
        }
    }
}

/// "now" remedies that make more ports available, for rules about a bucket that is short of them.
pub(crate) fn more_ports(facts: &Facts<'_>, key: BucketKey) -> Vec<Remedy> {
    let mut remedies = Vec::new();
    remedies.extend(reuse::remedy(facts, key));
    remedies.extend(range::remedy(facts));
    if !remedies.is_empty() {
        let command = format!("keepgate tune apply --to {}", key.destination());
        remedies.push(Remedy::now(
            "the same with a way back: unless confirmed, it is undone after 60 s",
            facts.command(&command),
        ));
    }
    remedies
}
