//! How soon what one center takes away is denied by all that decide: followers of the center that was asked,
//! those of another center on the same PostgreSQL, and beside them those of one center on SQLite.
//!
//! `KEEPGATE_CENTERS_FOLLOWERS` and `KEEPGATE_CENTERS_REVOCATIONS` make it larger:
//! `scripts/long revoke-centers`.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use keepgate_client::replica::{FollowConfig, Replica};
use keepgate_client::{Query, Uid};
use serde_json::json;
use tokio::runtime::Runtime;

use super::{MAX_AGE, Site, setting};
use crate::harness::{PATIENCE, Scratch, eventually};
use crate::requests::Http;
use crate::separate::{CenterProcess, policies};

/// Three times what is promised, as [`MAX_AGE`].
const BOUND: Duration = Duration::from_secs(9);

/// Whose role comes and goes.
const WHO: &str = "carol";

/// What a follower's newest world decides from a moment on.
struct Turn {
    follower: usize,
    allows: bool,
    at: Instant,
}

/// Replicas in this process, each of which decides anew with each world that it publishes. A replica is what a
/// gate decides on.
struct Followers {
    replicas: Vec<Replica>,
    /// The center of each.
    centers: Vec<usize>,
    turns: Receiver<Turn>,
    runtime: Runtime,
}

impl Followers {
    /// Spread evenly over the centers; each knows only its own.
    fn start(count: usize, urls: &[String], token: &str) -> Followers {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (told, turns) = channel();
        let centers: Vec<usize> = (0..count).map(|follower| follower % urls.len()).collect();
        let entered = runtime.enter();
        let follow = |(follower, center): (usize, &usize)| {
            let mut config = FollowConfig::new(&urls[*center], token.trim());
            config.services = vec!["orders".to_owned()];
            config.name = format!("follower-{follower}");
            let replica = Replica::follow(config).unwrap();
            runtime.spawn(watch(follower, replica.clone(), told.clone()));
            replica
        };
        let replicas: Vec<Replica> = centers.iter().enumerate().map(follow).collect();
        drop(entered);
        for replica in &replicas {
            eventually("the follower has a state", || replica.is_ready().then_some(()));
        }
        Followers { replicas, centers, turns, runtime }
    }

    /// When each came to decide so, in the followers' order.
    fn await_all(&self, allows: bool) -> Vec<Instant> {
        let mut turned = vec![None; self.replicas.len()];
        let until = Instant::now() + PATIENCE;
        while turned.contains(&None) {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(turn) = self.turns.recv_timeout(left) else {
                let missing: Vec<usize> =
                    (0..turned.len()).filter(|at| turned[*at].is_none()).collect();
                panic!("not within {PATIENCE:?}: allows = {allows} at the followers {missing:?}");
            };
            // Each edit is awaited, so no other one's turn can come.
            assert_eq!(turn.allows, allows, "follower {}", turn.follower);
            let before = turned[turn.follower].replace(turn.at);
            assert!(before.is_none(), "follower {} turns once an edit", turn.follower);
        }
        turned.into_iter().flatten().collect()
    }

    fn stop(self) {
        for (follower, replica) in self.replicas.iter().enumerate() {
            let metrics = replica.metrics();
            let wrong = [metrics.gaps, metrics.snapshots_rejected, metrics.deltas_rejected];
            assert_eq!(wrong, [0; 3], "follower {follower}: {metrics:?}");
        }
        let closed: Vec<_> = self.replicas.iter().map(Replica::close).collect();
        self.runtime.block_on(async {
            for closed in closed {
                closed.await;
            }
        });
    }
}

/// Tells whenever what the follower decides becomes another answer; the first is a denial.
async fn watch(follower: usize, replica: Replica, told: Sender<Turn>) {
    let mut revisions = replica.revisions();
    let (who, get, route) =
        (Uid::new("user", WHO), Uid::action("GET"), Uid::new("route", "/orders"));
    let mut allowed = false;
    loop {
        // An empty world knows no service, and has decided nothing.
        if let Ok(decision) = replica.current().decide(&Query::new(&who, &get, &route)) {
            let (allows, at) = (decision.is_allowed(), Instant::now());
            if std::mem::replace(&mut allowed, allows) != allows
                && told.send(Turn { follower, allows, at }).is_err()
            {
                return;
            }
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// From an edit to the denial, of a group of followers.
#[derive(Default)]
struct Times {
    since_sent: Vec<Duration>,
    /// Zero: before the answer was here.
    since_acknowledged: Vec<Duration>,
}

impl Times {
    fn add(&mut self, denied: Instant, sent: Instant, acknowledged: Instant) {
        self.since_sent.push(denied - sent);
        self.since_acknowledged.push(denied.saturating_duration_since(acknowledged));
    }

    fn cells(&self) -> Vec<f64> {
        [points(&self.since_acknowledged), points(&self.since_sent)].concat()
    }
}

/// The p50, the p99 and the maximum, in milliseconds.
fn points(times: &[Duration]) -> [f64; 3] {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |part: f64| sorted[((sorted.len() as f64 * part).ceil() as usize).max(1) - 1];
    [at(0.5), at(0.99), at(1.0)].map(|time| time.as_secs_f64() * 1e3)
}

/// Centers of one store with their followers, and what was measured there.
struct Store {
    followers: Followers,
    /// A connection to each center.
    admins: Vec<Http>,
    asked: Times,
    others: Times,
    /// The last of all followers, once a revocation.
    last: Times,
    /// From an edit to its answer.
    answers: Vec<Duration>,
}

impl Store {
    fn new(followers: usize, urls: &[String], admin: &str, gate: &str) -> Store {
        let bearer = format!("Bearer {}", admin.trim());
        let connect = |url: &String| Http::new(url, &[("Authorization", &bearer)]);
        let [asked, others, last] = <[Times; 3]>::default();
        Store {
            followers: Followers::start(followers, urls, gate),
            admins: urls.iter().map(connect).collect(),
            asked,
            others,
            last,
            answers: Vec::new(),
        }
    }

    fn edit(&mut self, center: usize, path: &str) {
        let edge = json!({
            "member": { "type": "user", "id": WHO },
            "role": { "type": "role", "id": "orders-reader" },
        });
        let answer = self.admins[center].send("POST", path, &edge.to_string());
        assert_eq!(answer.status / 100, 2, "{path}: {}", answer.text());
    }

    /// Gives a role and takes it away, at each of the centers in turn.
    fn revoke(&mut self, round: usize) {
        let center = round % self.admins.len();
        // At another one, so that who revokes finds a head that it did not move.
        self.edit((center + 1) % self.admins.len(), "/v1/roles/assign");
        self.followers.await_all(true);
        // Heartbeats come each second: not always at the same time before them.
        std::thread::sleep(Duration::from_millis((round as u64 * 17) % 61));
        let sent = Instant::now();
        self.edit(center, "/v1/roles/revoke");
        let acknowledged = Instant::now();
        self.answers.push(acknowledged - sent);
        let denied = self.followers.await_all(false);
        for (at, of) in denied.iter().zip(&self.followers.centers) {
            let group = if *of == center { &mut self.asked } else { &mut self.others };
            group.add(*at, sent, acknowledged);
        }
        let last = *denied.iter().max().unwrap();
        self.last.add(last, sent, acknowledged);
        let since = last.saturating_duration_since(acknowledged);
        assert!(since <= BOUND, "round {round}: denied {since:?} after the acknowledgment");
    }
}

/// A table's row: what is given, with this many decimals.
fn row(what: &str, cells: &[f64], decimals: usize) {
    let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:.decimals$}")).collect();
    eprintln!("| {what} | {} |", cells.join(" | "));
}

/// Whichever center takes a role away, every follower of every center denies, each time; it prints how soon.
#[test]
fn what_one_center_takes_away_all_followers_deny() {
    let (count, revocations) = (setting("FOLLOWERS", 8).max(2), setting("REVOCATIONS", 10).max(1));
    let Some(mut site) = Site::start(false, 2) else { return };
    // Two are to be measured.
    site.end_center(2, libc::SIGTERM);
    let gate = ["token", "create", "--role", "gate", "--service", "orders"];
    let mut shared = Store::new(count, &site.centers[..2], &site.token, &site.command(0, &gate));

    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", "--prune", &policies(&scratch, MAX_AGE)]);
    let token = std::fs::read_to_string(center.token_file()).unwrap();
    let mut alone = Store::new(count, std::slice::from_ref(&center.url), &token, &center.ok(&gate));

    // In turn, so that whatever else this machine does is the same for both.
    for round in 0..revocations {
        shared.revoke(round);
        alone.revoke(round);
    }

    let half = count / 2;
    eprintln!("{count} followers, {revocations} revocations; times in ms");
    eprintln!("| who denies | acknowledged, p50 | p99 | max | sent, p50 | p99 | max |");
    eprintln!("|---|---|---|---|---|---|---|");
    row(&format!("two centers: {half} followers of the one asked"), &shared.asked.cells(), 1);
    row(&format!("two centers: {half} followers of the other one"), &shared.others.cells(), 1);
    row(&format!("two centers: the last of the {count}"), &shared.last.cells(), 1);
    row(&format!("SQLite: {count} followers"), &alone.asked.cells(), 1);
    row(&format!("SQLite: the last of the {count}"), &alone.last.cells(), 1);
    let both = shared.last.cells().into_iter().zip(alone.last.cells());
    let ratios: Vec<f64> = both.map(|(shared, alone)| shared / alone).collect();
    row("the last beside SQLite's last, ratio", &ratios, 2);
    for (name, answers) in [("PostgreSQL", &shared.answers), ("SQLite", &alone.answers)] {
        let [p50, p99, max] = points(answers);
        eprintln!("sent to acknowledged, {name}: p50 {p50:.1}, p99 {p99:.1}, max {max:.1}");
    }
    shared.followers.stop();
    alone.followers.stop();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    eprintln!("load averages at the end: {}", load.trim());
}
