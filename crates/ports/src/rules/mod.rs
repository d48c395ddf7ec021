//! The judgement: a [`HostSnapshot`] in, a [`Report`] out. One file per finding, all pure.
//!
//! Each rule looks at the `Facts` (the snapshot, and the budgets the model computed from it)
//! and says nothing, or one or more findings. Rules do not see each other; the order of the list
//! does not matter, because findings are sorted by severity. No rule knows a clock, a file or a
//! terminal.

mod bind;
mod cause;
mod churn;
mod cliff;
mod conntrack;
mod decided;
mod exhausted;
mod files;
mod in_use;
mod ipv6;
mod leaks;
mod listeners;
mod nonlocal;
mod overflow;
mod own_ports;
mod range;
mod reserved;
mod reuse;
mod route;
mod settings;
mod snat;
mod trend;
mod udp;

pub use crate::budget::CLIFF;
use crate::budget::{Budget, Model, sustainable_per_s};
use crate::diag::TcpState;
use crate::ranges::PortSet;
use crate::report::{
    BucketReport, Cause, Finding, ProbeReport, REPORT_VERSION, RangeReport, Remedy, Report,
    Severity, SocketsReport, Verdict,
};
use crate::snapshot::{HostSnapshot, TimestampUse, Unknown};
use crate::table::{Bucket, BucketKey};

/// How many buckets a report shows when none was asked for.
pub const MAX_REPORTED: usize = 10;
/// How many of the largest buckets are computed before the fullest are chosen.
const MAX_COMPUTED: usize = 64;
/// A bucket with fewer sockets is not shown unless it is short of ports.
const FEW_SOCKETS: usize = 2;
/// How many buckets that hold half of the usable ports are computed at most.
const MAX_LARGE: usize = 512;

/// One bucket as the rules see it.
#[derive(Debug)]
pub(crate) struct BucketFacts<'a> {
    pub(crate) key: BucketKey,
    /// The name of the device its sockets are bound to.
    pub(crate) device: Option<String>,
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

    /// How many of its sockets in a state have a port that only this bucket loses to them: one that
    /// `connect()` chose.
    pub(crate) fn chosen_in_state(&self, state: TcpState, bound: &PortSet) -> u64 {
        self.bucket.map_or(0, |b| {
            b.sockets.iter().filter(|e| e.state == state && !bound.contains(e.port)).count() as u64
        })
    }

    pub(crate) fn name(&self) -> String {
        match &self.device {
            Some(device) => format!("{} -> {} on {device}", self.key.src, self.key.destination()),
            None => format!("{} -> {}", self.key.src, self.key.destination()),
        }
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
    /// What the look could not decide, and a verdict depends on.
    pub(crate) undecided: Vec<Unknown>,
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

const RULES: [Rule; 20] = [
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
    snat::judge,
    files::judge,
    udp::judge,
    in_use::judge,
    own_ports::judge,
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
    if decided::assumes(snapshot) {
        findings.retain(|finding| !finding.cause.is_about_ports());
    }
    findings.sort_by_key(|f| (f.severity, f.bucket.unwrap_or(usize::MAX)));
    let verdict = decided::verdict(&facts, &findings);
    let mut unknown = facts.undecided.clone();
    unknown.extend(snapshot.unknown.iter().cloned());
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
        probe: (snapshot.evidence.probed > 0).then(|| ProbeReport {
            ports: snapshot.evidence.probed,
            bound: snapshot.evidence.bound.len(),
            ms: snapshot.evidence.probe_us as f64 / 1000.0,
        }),
    }
}

/// The buckets that a report of so many would show.
pub(crate) fn shown(snapshot: &HostSnapshot, max_buckets: usize) -> Vec<BucketKey> {
    facts(snapshot, max_buckets).buckets.iter().map(|bucket| bucket.key).collect()
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
    let mut buckets: Vec<BucketFacts<'_>> = keys(snapshot, &asked, &pool, &bound, max_buckets)
        .into_iter()
        .map(|(bucket, key)| bucket_facts(snapshot, &model, bucket, key, asked.contains(&key)))
        .filter(|b| {
            let sockets = b.bucket.map_or(0, |b| b.sockets.len());
            b.asked || sockets >= FEW_SOCKETS || b.budget.remaining.min == 0
        })
        .collect();
    // What was asked for, then what is used up, or may be, or will be.
    buckets.sort_by_cached_key(|b| {
        let soon = b.exhausted_in_s.unwrap_or(u64::MAX);
        let budget = &b.budget;
        (!b.asked, soon, budget.at_best(), budget.at_worst(), budget.remaining.max, b.key)
    });
    let fresh = model.fresh();
    let undecided = decided::undecided(snapshot, &buckets, &fresh);
    buckets.truncate(max_buckets.max(asked.len()));
    let mut facts = Facts { snapshot, buckets, pool, bound, listening, undecided };
    let causes: Vec<Cause> = facts.buckets.iter().map(|b| cause::of(&facts, b)).collect();
    for (bucket, cause) in facts.buckets.iter_mut().zip(causes) {
        bucket.cause = cause;
    }
    facts
}

/// The buckets that are computed, with their sockets: those asked for, and those that sockets bound
/// to a device have toward the same destination; else the largest.
fn keys<'a>(
    snapshot: &'a HostSnapshot,
    asked: &[BucketKey],
    pool: &PortSet,
    bound: &PortSet,
    max_buckets: usize,
) -> Vec<(Option<&'a Bucket>, BucketKey)> {
    let all = &snapshot.sockets.buckets;
    let mut keys: Vec<(Option<&Bucket>, BucketKey)> =
        asked.iter().map(|key| (snapshot.sockets.bucket(key), *key)).collect();
    if snapshot.asked.iter().any(|asked| asked.destination.port() != 0) {
        let on_device = |key: &BucketKey| {
            asked.iter().any(|a| {
                (a.src, a.dst, a.dport) == (key.src, key.dst, key.dport)
                    && key.interface != a.interface
                    && key.interface != 0
            })
        };
        let more = all.iter().filter(|b| on_device(&b.key)).take(MAX_REPORTED);
        keys.extend(more.map(|b| (Some(b), b.key)));
        return keys;
    }
    let mut largest: Vec<&Bucket> = all.iter().collect();
    largest.sort_unstable_by_key(|b| (std::cmp::Reverse(b.sockets.len()), b.key));
    let half = (pool.len().saturating_sub(bound.len()) / 2) as usize;
    let few = MAX_COMPUTED.max(max_buckets);
    let large = largest.iter().take(MAX_LARGE).take_while(|b| b.sockets.len() >= half.max(1));
    let count = large.count().max(few);
    keys.extend(largest.into_iter().take(count).map(|b| (Some(b), b.key)));
    keys
}

fn bucket_facts<'a>(
    snapshot: &'a HostSnapshot,
    model: &Model<'_>,
    bucket: Option<&'a Bucket>,
    key: BucketKey,
    asked: bool,
) -> BucketFacts<'a> {
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
        device: device(snapshot, key.interface),
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

/// The name of a device, or its index where nobody knows the name.
fn device(snapshot: &HostSnapshot, index: u32) -> Option<String> {
    let name = || snapshot.devices.iter().find(|d| d.index == index).map(|d| d.name.clone());
    (index != 0).then(|| name().unwrap_or_else(|| format!("device {index}")))
}

fn report(facts: &Facts<'_>, bucket: &BucketFacts<'_>) -> BucketReport {
    BucketReport {
        src: bucket.key.src,
        dst: bucket.key.dst,
        dport: bucket.key.dport,
        device: bucket.device.clone(),
        interface: bucket.key.interface,
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
        Verdict::Unknown => facts
            .undecided
            .first()
            .map_or_else(String::new, |unknown| format!("{}: {}", unknown.what, unknown.why)),
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
                Doubt::Sampled(n) => Unknown {
                    what: format!("whether up to {n} ports are closed to {name}"),
                    why: "of the ports in doubt a random sample was probed: none was bound explicitly"
                        .to_owned(),
                },
                Doubt::Idle(n) => Unknown {
                    what: format!("whether up to {n} ports are closed to {name}"),
                    why: "up to that many idle sockets may be bound to a port".to_owned(),
                },
                Doubt::OddRange => continue,
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
