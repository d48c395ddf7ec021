//! What a run found: per second, per arm, and in sum.

pub mod html;
pub mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Arm;
use crate::actor::second::Second;
use crate::run::LabPlan;

/// A whole run, as in `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabReport {
    /// Version of this shape.
    pub version: u32,
    /// The kernel it ran on, as `uname -r` says.
    pub kernel: String,
    /// The numbers of the run.
    pub plan: LabPlan,
    /// The arms, in the order played.
    pub arms: Vec<ArmReport>,
}

/// One arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmReport {
    /// Which.
    pub arm: Arm,
    /// Each second.
    pub seconds: Vec<Moment>,
    /// The whole.
    pub summary: Summary,
}

/// What callers of one sort got in one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Requests sent.
    pub sent: u64,
    /// Answered as they should be: 200 with the right, 403 without.
    pub right: u64,
    /// 403 although the caller has the right.
    pub wrong_403: u64,
    /// 200 although the caller has no right.
    pub wrong_200: u64,
    /// 429.
    pub limited: u64,
    /// 503.
    pub unavailable: u64,
    /// Other statuses, and requests without an answer.
    pub failed: u64,
    /// Turns skipped because the caller was still waiting.
    pub late: u64,
    /// Median latency of answered requests, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
}

/// One second of an arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds since the arm began.
    pub t: u64,
    /// What users got.
    pub users: Served,
    /// What the crawler got.
    pub crawler: Served,
    /// Connections the subsystem's host opened to anywhere, counted by its kernel.
    pub opened: u64,
    /// EADDRNOTAVAIL the subsystem met.
    pub eaddrnotavail: u64,
    /// Median time to open a connection to the center, microseconds.
    pub connect_p50_us: u64,
    /// 99th percentile, microseconds.
    pub connect_p99_us: u64,
    /// Sockets in TIME_WAIT on the subsystem's host.
    pub time_wait: u64,
    /// Ports left toward the center, as doctor counts; the lower end of its interval.
    pub ports_left: u64,
    /// Ports usable toward the center when none is taken.
    pub ports_usable: u64,
    /// doctor's verdict.
    pub verdict: String,
    /// doctor's forecast of the exhaustion, in seconds from then.
    pub exhausted_in_s: Option<f64>,
}

/// An arm in sum. Ratios are between 0 and 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests of users.
    pub users_sent: u64,
    /// Share of the users' requests that got the right answer.
    pub users_ok: f64,
    /// The same, counted from the crawler's arrival; of the whole where none arrives.
    pub users_ok_under_crawl: f64,
    /// 403s to users who have the right.
    pub wrong_403: u64,
    /// 200s to callers who have no right.
    pub wrong_200: u64,
    /// Failures to allocate a port.
    pub eaddrnotavail: u64,
    /// Connections opened by the subsystem's host.
    pub opened: u64,
    /// One minus connections opened per request that reached it.
    pub reuse_ratio: f64,
    /// Most sockets in TIME_WAIT at once.
    pub time_wait_max: u64,
    /// Worst 99th percentile of the users in any second, microseconds.
    pub users_p99_us: u64,
    /// Share of the crawler's requests that were answered 200.
    pub crawler_ok: f64,
    /// First second with no port left, or with an EADDRNOTAVAIL.
    pub exhausted_at_s: Option<u64>,
    /// What doctor said at second [`LabPlan::forecast_at_s`]: the second of exhaustion.
    pub forecast_exhausted_at_s: Option<f64>,
}

impl LabReport {
    /// An empty report of this plan, on this machine.
    pub fn new(plan: LabPlan) -> LabReport {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        LabReport { version: 1, kernel: kernel.trim().to_owned(), plan, arms: Vec::new() }
    }

    /// The arm's part, if it was played.
    pub fn arm(&self, arm: Arm) -> Option<&ArmReport> {
        self.arms.iter().find(|played| played.arm == arm)
    }
}

impl Moment {
    /// The second `t`, with what doctor said in it.
    pub fn new(t: u64, doctor: &serde_json::Value) -> Moment {
        let sockets = doctor.pointer("/sockets/time_wait").and_then(serde_json::Value::as_u64);
        let bucket = doctor.pointer("/buckets/0");
        let number = |path: &str| bucket.and_then(|b| b.pointer(path)).and_then(|v| v.as_u64());
        let verdict = doctor.get("verdict").and_then(|v| v.as_str());
        Moment {
            t,
            time_wait: sockets.unwrap_or(0),
            ports_left: number("/remaining/min").unwrap_or(0),
            ports_usable: number("/usable").unwrap_or(0),
            verdict: verdict.unwrap_or("unknown").to_owned(),
            exhausted_in_s: bucket.and_then(|b| b.get("exhausted_in_s")).and_then(|v| v.as_f64()),
            ..Moment::default()
        }
    }

    /// Adds what one actor said of this second.
    pub fn join(&mut self, who: &str, second: &Second) {
        let count = |name: &str| second.counts.get(name).copied().unwrap_or(0);
        let served = || Served {
            sent: count("sent"),
            right: count("ok") + count("forbidden"),
            wrong_403: count("wrong_forbidden"),
            wrong_200: count("wrong_ok"),
            limited: count("limited"),
            unavailable: count("unavailable"),
            failed: count("other") + count("lost"),
            late: count("late"),
            p50_us: second.p50_us,
            p99_us: second.p99_us,
        };
        match who {
            "users" => self.users = served(),
            "crawler" => self.crawler = served(),
            _ => {
                self.eaddrnotavail = count("eaddrnotavail");
                self.connect_p50_us = second.p50_us;
                self.connect_p99_us = second.p99_us;
            }
        }
    }
}

impl Served {
    fn answered(&self) -> u64 {
        self.right + self.wrong_403 + self.wrong_200 + self.limited + self.unavailable + self.failed
    }
}

impl ArmReport {
    /// An arm that has not begun.
    pub fn new(arm: Arm) -> ArmReport {
        ArmReport { arm, seconds: Vec::new(), summary: Summary::default() }
    }

    /// Sums up the seconds.
    pub fn conclude(&mut self, plan: &LabPlan) {
        let sum = |of: &dyn Fn(&Moment) -> u64| self.seconds.iter().map(of).sum::<u64>();
        let ratio =
            |part: u64, whole: u64| if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
        let crawled = plan.crawler_from_s < plan.duration_s;
        let crawl = |m: &Moment| !crawled || m.t as f64 >= plan.crawler_from_s;
        let under = |of: fn(&Served) -> u64| {
            self.seconds.iter().filter(|m| crawl(m)).map(|m| of(&m.users)).sum::<u64>()
        };
        let requests = sum(&|m| m.users.sent + m.crawler.sent);
        let opened = sum(&|m| m.opened);
        self.summary = Summary {
            users_sent: sum(&|m| m.users.sent),
            users_ok: ratio(sum(&|m| m.users.right), sum(&|m| m.users.answered() + m.users.late)),
            users_ok_under_crawl: ratio(under(|u| u.right), under(|u| u.answered() + u.late)),
            wrong_403: sum(&|m| m.users.wrong_403),
            wrong_200: sum(&|m| m.users.wrong_200 + m.crawler.wrong_200),
            eaddrnotavail: sum(&|m| m.eaddrnotavail),
            opened,
            reuse_ratio: (1.0 - opened as f64 / requests.max(1) as f64).max(0.0),
            time_wait_max: self.seconds.iter().map(|m| m.time_wait).max().unwrap_or(0),
            users_p99_us: self.seconds.iter().map(|m| m.users.p99_us).max().unwrap_or(0),
            crawler_ok: ratio(sum(&|m| m.crawler.right), sum(&|m| m.crawler.answered())),
            exhausted_at_s: self
                .seconds
                .iter()
                .find(|m| m.eaddrnotavail > 0 || (m.ports_usable > 0 && m.ports_left == 0))
                .map(|m| m.t),
            forecast_exhausted_at_s: self
                .seconds
                .iter()
                .find(|m| m.t == plan.forecast_at_s)
                .and_then(|m| Some(m.t as f64 + 1.0 + m.exhausted_in_s?)),
        };
    }

    /// The names that [`ArmReport::metrics`] may have.
    pub fn metric_names(&self) -> Vec<String> {
        let value = serde_json::to_value(&self.summary).unwrap_or_default();
        value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// The summary by name, for thresholds.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let value = serde_json::to_value(&self.summary).unwrap_or_default();
        let fields = value.as_object().into_iter().flatten();
        fields.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
    }
}
