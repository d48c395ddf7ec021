//! A crawler at fifty times its limit beside a hundred users, for ten seconds, through a real gate.
//!
//! How much faster or slower the machine is changes how long it takes, not what is asserted: the
//! crawler's share is bounded by timestamps around the gate's own. What its users wait is
//! measured by `scripts/bench-crawl`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::limits::{Line, behind_a_proxy, limited};
use super::support::{PATIENCE, TestGate, connect, serve};

const RATE: f64 = 100.0;
const BURST: f64 = 100.0;
const TIMES: f64 = 50.0;
const FOR: Duration = Duration::from_secs(10);
/// Requests written at once.
const BATCH: usize = 25;
const USERS: usize = 100;
/// What a user asks a second: a tenth of the limit.
const USER_PAUSE: Duration = Duration::from_millis(100);

/// When something was asked, and when it was answered.
#[derive(Clone, Copy)]
struct Span {
    sent: Instant,
    answered: Instant,
}

#[derive(Default)]
struct Crawl {
    asked: usize,
    admitted: usize,
    /// Batches of which the last request was refused.
    refused: Vec<Span>,
    all: Vec<Span>,
}

impl Crawl {
    /// Fifty times the limit, in batches that are due one after the other.
    async fn run(addr: SocketAddr) -> Crawl {
        let request = "GET /orders/7 HTTP/1.1\r\nHost: a.example\r\nx-user: crawler\r\n\
                       x-forwarded-for: 192.0.2.1\r\n\r\n";
        let batch = request.repeat(BATCH);
        let mut stream = connect(addr).await;
        let mut crawl = Crawl::default();
        let begun = Instant::now();
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "50,000")]
        let batches = (RATE * TIMES * FOR.as_secs_f64()) as usize / BATCH;
        let end = begun + FOR + 5 * PATIENCE;
        for number in 0..batches {
            let due = FOR.mul_f64(number as f64 / batches as f64);
            tokio::time::sleep_until(begun + due).await;
            let sent = Instant::now();
            stream.write_all(batch.as_bytes()).await.unwrap();
            let statuses = tokio::time::timeout_at(end, answers(&mut stream)).await.unwrap();
            let span = Span { sent, answered: Instant::now() };
            crawl.asked += BATCH;
            crawl.admitted += statuses.iter().filter(|status| **status == 200).count();
            assert!(statuses.iter().all(|s| matches!(s, 200 | 429)), "{statuses:?}");
            crawl.all.push(span);
            if statuses.last() == Some(&429) {
                crawl.refused.push(span);
            }
        }
        crawl
    }

    fn elapsed(&self) -> f64 {
        let (first, last) = (self.all[0], self.all[self.all.len() - 1]);
        (last.answered - first.sent).as_secs_f64()
    }

    /// What may be admitted at most, and what must be at least.
    ///
    /// Whenever it was refused, less than one token was there. From the first such moment to the
    /// last, every token was taken that came, but for those that would not have fitted into the
    /// bucket while the crawler itself was away: none, unless it slept for a second.
    fn bounds(&self) -> (f64, f64) {
        let most = BURST + RATE * self.elapsed();
        let (first, last) = (self.refused[0], self.refused[self.refused.len() - 1]);
        let apart = |a: Span, b: Span| b.saturating_since(a) * RATE;
        let lost: f64 = self
            .refused
            .windows(2)
            .map(|two| (two[1].answered - two[0].sent).as_secs_f64() * RATE - (BURST - 1.0))
            .map(|lost| lost.max(0.0))
            .sum();
        (BURST + apart(first, last) - 1.0 - lost, most)
    }
}

impl Span {
    /// From the end of `earlier` to the beginning of this one, in seconds.
    fn saturating_since(self, earlier: Span) -> f64 {
        self.sent.saturating_duration_since(earlier.answered).as_secs_f64()
    }
}

/// The statuses of one batch, in order. No body has what looks like a head; what is left of the
/// last answer is skipped with the next batch's first.
async fn answers(stream: &mut tokio::net::TcpStream) -> Vec<u16> {
    const HEAD: &[u8] = b"HTTP/1.1 ";
    let (mut statuses, mut held, mut chunk) = (Vec::new(), Vec::new(), [0; 16 * 1024]);
    loop {
        let mut rest = held.as_slice();
        while let Some(at) = rest.windows(HEAD.len()).position(|window| window == HEAD)
            && let Some(status) = rest.get(at + HEAD.len()..at + HEAD.len() + 3)
        {
            statuses.push(std::str::from_utf8(status).unwrap().parse().unwrap());
            rest = &rest[at + HEAD.len() + 3..];
        }
        if statuses.len() == BATCH {
            return statuses;
        }
        // What may be the beginning of a head is looked at again.
        let keep = rest.len().min(HEAD.len() + 2);
        held = rest[rest.len() - keep..].to_vec();
        let n = stream.read(&mut chunk).await.unwrap();
        assert!(n > 0, "closed after {} answers", statuses.len());
        held.extend_from_slice(&chunk[..n]);
    }
}

/// One user, until the crawl is over: how often it was answered what.
async fn user(addr: SocketAddr, number: usize, over: Arc<AtomicBool>) -> BTreeMap<u16, usize> {
    let (name, from) = (format!("u{number}"), format!("198.51.100.{number}"));
    let who = [("x-user", name.as_str()), ("x-forwarded-for", from.as_str())];
    tokio::time::sleep(USER_PAUSE.mul_f64(number as f64 / USERS as f64)).await;
    let mut line = Line::to(addr).await;
    let mut statuses = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        let status = line.ask("GET", "/orders/7", &who).await.status;
        *statuses.entry(status).or_default() += 1;
        tokio::time::sleep(USER_PAUSE).await;
    }
    statuses
}

async fn crawled(key: &str) {
    let upstream = serve(|_: Request<Incoming>| async {
        Response::new(Full::new(Bytes::from_static(&[b'x'; 1024])))
    })
    .await;
    let rule = json!([{"name": "each", "key": key, "rate": "100/s", "burst": 100}]);
    let gate = TestGate::with(&limited(rule), &upstream.url, behind_a_proxy).await;
    let over = Arc::new(AtomicBool::new(false));
    let users: Vec<_> =
        (0..USERS).map(|number| tokio::spawn(user(gate.addr, number, Arc::clone(&over)))).collect();
    let crawl = Crawl::run(gate.addr).await;
    over.store(true, Ordering::Relaxed);

    let mut statuses = BTreeMap::<u16, usize>::new();
    for user in users {
        for (status, count) in tokio::time::timeout(PATIENCE, user).await.unwrap().unwrap() {
            *statuses.entry(status).or_default() += count;
        }
    }
    let (least, most) = crawl.bounds();
    let admitted = crawl.admitted as f64;
    eprintln!(
        "by {key}: {} asked in {:.2} s ({:.1} times the limit), {admitted} admitted, ideal {least:.1} \
         to {most:.1}; users {statuses:?}",
        crawl.asked,
        crawl.elapsed(),
        crawl.asked as f64 / crawl.elapsed() / RATE,
    );
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200], "{statuses:?}");
    assert!(statuses[&200] >= USERS, "every user was there: {statuses:?}");
    assert!(admitted <= most, "{admitted} admitted of at most {most}");
    assert!(admitted >= least, "{admitted} admitted of at least {least}");
    let phase = if key == "address" { "limit_address" } else { "limit_principal" };
    let refused = format!("keepgate_gate_limited_total{{phase=\"{phase}\",shadow=\"false\"}}");
    assert_eq!(gate.metric(&refused).await, crawl.asked as f64 - admitted);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: two crawls of ten seconds"]
async fn a_crawler_at_fifty_times_its_limit_gets_its_exact_share_and_no_user_an_error() {
    crawled("principal").await;
    crawled("address").await;
}
