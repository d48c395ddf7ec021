//! Tells the center how this gate and its host are: connections, reuse, ports, and what the doctor says.
//!
//! The doctor looks on a thread of its own: a look walks the kernel's table of sockets. It does not look for
//! owners, and probes few ports; what it cannot decide that way it calls unknown.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use keepgate_policy::proto::{GateReport, PortsLeft};
use keepgate_ports::read::{self, ReadOptions};
use keepgate_ports::rules;

use super::front::Front;
use super::life::Life;
use crate::observe::metrics::WorkerMetrics;
use crate::observe::ports::{BucketSeen, PortsAnswer};

/// From one report to the next.
const EVERY: Duration = Duration::from_secs(10);
/// Reports over which reuse is counted: a minute.
const SPAN: usize = 6;
/// Looks of the doctor, in reports.
const LOOKS: usize = 3;
/// Ports that a look may probe (about 5 us each).
const PROBED: usize = 8_192;
/// The longest sentence that is told, in bytes.
const HEADLINE: usize = 300;

/// What the doctor said last, and when; none: it could not look.
type Said = Arc<Mutex<Option<(&'static str, String, Instant)>>>;

/// What it said this long ago is not told any more: it hangs.
const SAID_FOR: Duration = Duration::from_secs(100);

/// Of each upstream, requests put on connections since the start, and of these on used ones.
type Carried = BTreeMap<String, (u64, u64)>;

/// Tells it until it is dropped.
pub(super) async fn run(front: Arc<Front>, workers: Arc<[Arc<WorkerMetrics>]>) {
    let said = Said::default();
    look(&Arc::downgrade(&front), &said);
    let mut past: VecDeque<Carried> = VecDeque::from([Carried::new()]);
    // The doctor has looked by then.
    let first = tokio::time::Instant::now() + Duration::from_secs(2);
    let mut ticks = tokio::time::interval_at(first, EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = front.ports.answer(&front.common.live.load().backends);
        let callers = workers.iter().map(|worker| worker.open.value()).sum();
        let doctor = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let doctor = doctor.filter(|(_, _, at)| at.elapsed() < SAID_FOR);
        let doctor = doctor.map(|(verdict, headline, _)| (verdict, headline));
        let report = report(&answer, callers, &mut past, doctor);
        let mut told: Vec<*const ()> = Vec::new();
        for tables in front.common.services.iter() {
            // Services of one replica tell it once.
            let source = Arc::as_ptr(&tables.source).cast::<()>();
            if !told.contains(&source) {
                told.push(source);
                tables.source.tell_gate(report.clone());
            }
        }
    }
}

fn look(front: &Weak<Front>, said: &Said) {
    let (front, said) = (front.clone(), Arc::clone(said));
    let options = ReadOptions {
        interval: None,
        owners: false,
        probe_limit: PROBED,
        skip_empty: true,
        shown: 1,
        ..ReadOptions::default()
    };
    let looks = move || {
        for second in 0_u64.. {
            std::thread::sleep(Duration::from_secs(1));
            let is_over = front.upgrade().is_none_or(|front| front.life.is(Life::Ended));
            if is_over {
                return;
            }
            if second % (EVERY.as_secs() * LOOKS as u64) == 0 {
                let report = read::host(&options).map(|snapshot| rules::judge_up_to(&snapshot, 1));
                if let Err(error) = &report {
                    tracing::debug!(
                        error = keepgate_observe::chain(error),
                        "the host cannot be looked at"
                    );
                }
                let now = report.ok();
                let now =
                    now.map(|report| (report.verdict.name(), report.headline, Instant::now()));
                *said.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
        }
    };
    let started = std::thread::Builder::new().name("gate-host".to_owned()).spawn(looks);
    if let Err(error) = started {
        tracing::warn!(error = keepgate_observe::chain(&error), "the gate cannot look at its host");
    }
}

fn report(
    answer: &PortsAnswer,
    callers: u64,
    past: &mut VecDeque<Carried>,
    doctor: Option<(&'static str, String)>,
) -> GateReport {
    let sum = |of: fn(&crate::UpstreamPorts) -> u64| answer.upstreams.iter().map(of).sum::<u64>();
    let of = |one: &crate::UpstreamPorts| (one.upstream.clone(), (one.requests, one.reused));
    let now: Carried = answer.upstreams.iter().map(of).collect();
    let then = past.front().cloned().unwrap_or_default();
    // An upstream that left takes its counts along, and one that came again counts from the start.
    let since = now.iter().map(|(name, (requests, reused))| {
        let (before, reused_before) = then.get(name).copied().unwrap_or_default();
        (requests.saturating_sub(before), reused.saturating_sub(reused_before))
    });
    let (requests, reused) = since.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    past.push_back(now);
    if past.len() > SPAN {
        past.pop_front();
    }
    let (verdict, headline) = doctor.unzip();
    GateReport {
        caller_connections: Some(callers),
        upstream_connections: Some(sum(|one| one.open)),
        requests: Some(requests),
        // Both are counted while requests go on.
        reused: Some(reused.min(requests)),
        tightest: tightest(answer),
        verdict: verdict.map(str::to_owned),
        headline: headline.map(|text| plain(&text)),
    }
}

/// Where the smallest part of the ports is free.
fn tightest(answer: &PortsAnswer) -> Option<PortsLeft> {
    let buckets = answer.upstreams.iter().flat_map(|one| &one.buckets);
    let left =
        |bucket: &BucketSeen| u64::from(bucket.free) * 1_000_000 / u64::from(bucket.usable.max(1));
    let found = buckets.filter(|bucket| bucket.usable > 0).min_by_key(|bucket| left(bucket))?;
    Some(PortsLeft {
        source: found.src.to_string(),
        destination: found.dst.to_string(),
        usable: found.usable,
        free: found.free,
    })
}

/// As a report has it: short, on one line.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > HEADLINE {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UpstreamPorts;

    fn upstream(name: &str, requests: u64, reused: u64, free: &[u32]) -> UpstreamPorts {
        let bucket = |(n, free): (usize, &u32)| BucketSeen {
            src: "192.0.2.1".parse().unwrap(),
            dst: format!("192.0.2.2:{}", 80 + n).parse().unwrap(),
            usable: 1_000,
            free: *free,
            reserve: 0,
        };
        let buckets = free.iter().enumerate().map(bucket).collect();
        let upstream = name.to_owned();
        UpstreamPorts { upstream, requests, reused, open: 3, buckets, ..UpstreamPorts::default() }
    }

    #[test]
    fn reuse_is_that_of_the_last_minute_and_the_tightest_bucket_counts() {
        let mut past = VecDeque::from([Carried::new()]);
        let mut told = Vec::new();
        for n in 1..=10_u64 {
            let upstreams =
                vec![upstream("a", n * 10, n * 9, &[900, 40, 500]), upstream("b", n, 0, &[])];
            let answer = PortsAnswer { upstreams, ..PortsAnswer::default() };
            told.push(report(&answer, 5, &mut past, None));
        }
        assert_eq!((told[0].requests, told[0].reused), (Some(11), Some(9)));
        assert_eq!((told[9].requests, told[9].reused), (Some(66), Some(54)));
        let tightest = told[9].tightest.clone().unwrap();
        assert_eq!((tightest.destination.as_str(), tightest.free), ("192.0.2.2:81", 40));
        assert_eq!((told[9].upstream_connections, told[9].caller_connections), (Some(6), Some(5)));
        assert_eq!((&told[9].verdict, &told[9].headline), (&None, &None));
        // Upstreams that are gone, and nobody who could tell ports.
        let empty =
            report(&PortsAnswer::default(), 0, &mut past, Some(("healthy", "a\nb".repeat(200))));
        assert_eq!((empty.requests, empty.reused, empty.tightest), (Some(0), Some(0), None));
        // One that left and one that came do not count against each other.
        let mut past = VecDeque::from([Carried::from([("a".to_owned(), (100, 0))])]);
        let upstreams = vec![upstream("b", 150, 151, &[])];
        let moved =
            report(&PortsAnswer { upstreams, ..PortsAnswer::default() }, 0, &mut past, None);
        assert_eq!((moved.requests, moved.reused), (Some(150), Some(150)));
        let headline = empty.headline.unwrap();
        assert!(headline.len() <= HEADLINE && headline.starts_with("a ba b"), "{headline}");
    }
}
