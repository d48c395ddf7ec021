//! Ten thousand open exchanges, decided again on one change: all that are denied end in time, and
//! whoever asks beside them does not notice.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepgate_client::pool::Protocol;
use keepgate_policy::model::MemberBody;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::support::{Draft, TestGate, connect, eventually, read_until, serve, uid};

const CONNECTIONS: usize = 100;
const STREAMS: usize = 100;
const EXCHANGES: usize = CONNECTIONS * STREAMS;
/// From the change to the end of the last, as promised.
const PROMISED: Duration = Duration::from_millis(1_200);
const ROUND: Duration = Duration::from_millis(100);

/// Whoever is a clerk may do all with orders; every other user of the test is bob.
fn draft() -> Draft {
    let mut draft = Draft::orders();
    draft.policies.push((
        "clerks".to_owned(),
        "permit (principal in role::\"clerk\", action, resource in route::\"/orders\");".to_owned(),
    ));
    draft.members = vec![clerk("bob")];
    draft
}

fn clerk(name: &str) -> MemberBody {
    let role = uid("role", "clerk");
    MemberBody { member: uid("user", name), role, source: String::new(), until_unix_s: None }
}

/// Opens streams on a connection of its own; each tells when it ends.
async fn open(gate: &TestGate, told: mpsc::UnboundedSender<(bool, Instant)>) {
    let io = TokioIo::new(connect(gate.addr).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for n in 0..STREAMS {
        let is_bob = n % 2 == 0;
        let request = Request::get(format!("http://{}/orders", gate.addr))
            .header("x-user", if is_bob { "bob" } else { "alice" })
            .body(Full::<Bytes>::default())
            .unwrap();
        let mut answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.body_mut().frame().await.unwrap().unwrap().is_data());
        let told = told.clone();
        tokio::spawn(async move {
            assert!(answer.into_body().frame().await.unwrap().is_err(), "it is cut, not over");
            let _ = told.send((is_bob, Instant::now()));
        });
    }
    // Kept open by its streams.
    std::mem::forget(sender);
}

/// Asks again and again on one connection, on a thread of its own, until told to stop: when, and
/// for how long each answer was waited for.
fn probe(
    gate: &TestGate,
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<Vec<(Instant, Duration)>> {
    let (addr, stop) = (gate.addr, Arc::clone(stop));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut stream = connect(addr).await;
            let mut waits = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                read_until(&mut stream, "done").await;
                waits.push((begun, begun.elapsed()));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            waits
        })
    })
}

/// The median and the 99th percentile of what was begun between two times, and how many there were.
fn percentiles(
    waits: &[(Instant, Duration)],
    from: Instant,
    to: Instant,
) -> (Duration, Duration, usize) {
    let within = waits.iter().filter(|(at, _)| (from..to).contains(at));
    let mut within: Vec<Duration> = within.map(|(_, wait)| *wait).collect();
    within.sort_unstable();
    let at = |percent: usize| within.get(within.len() * percent / 100).copied().unwrap_or_default();
    (at(50), at(99), within.len())
}

async fn redecided(gate: &TestGate) -> f64 {
    gate.metric("keepgate_gate_exchanges_redecided_total").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: ten thousand exchanges"]
async fn ten_thousand_exchanges_are_decided_again_beside_others() {
    let upstream = serve(|request: Request<Incoming>| async move {
        let is_long = request.uri().path() == "/orders";
        let first = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"done")));
        let first = futures_util::stream::iter([first]);
        let rest = futures_util::stream::pending().take(if is_long { usize::MAX } else { 0 });
        let mut response = Response::new(StreamBody::new(first.chain(rest)));
        if !is_long {
            let length = http::HeaderValue::from_static("4");
            response.headers_mut().insert("content-length", length);
        }
        response
    })
    .await;
    let mut draft = draft();
    let gate = TestGate::with(&draft, &upstream.url, |config| {
        config.upstream_protocol = Protocol::Http2;
        config.pool.h2_max_connections = 2 * CONNECTIONS;
        config.bounds.revoke_after = Duration::from_millis(500);
    })
    .await;
    let (tell, mut told) = mpsc::unbounded_channel();
    for _ in 0..CONNECTIONS {
        open(&gate, tell.clone()).await;
    }
    let many = f64::from(u32::try_from(EXCHANGES).unwrap());
    assert_eq!(gate.metric("keepgate_gate_exchanges_open").await, many);
    tokio::time::sleep(Duration::from_millis(600)).await;

    let stop = Arc::new(AtomicBool::new(false));
    let probe = probe(&gate, &stop);
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;

    // Changes that leave all allowed, faster than rounds: each round decides each exchange once.
    let changing = Instant::now();
    let before = redecided(&gate).await;
    for n in 0..20 {
        draft.members.push(clerk(&format!("carol{n}")));
        draft.revision += 1;
        gate.source.replace(draft.world());
        tokio::time::sleep(ROUND / 5).await;
    }
    let last = draft.revision;
    eventually("all were decided at least once", async || redecided(&gate).await >= before + many)
        .await;
    tokio::time::sleep(3 * ROUND).await;
    let changed = Instant::now();
    let times = (redecided(&gate).await - before) / many;
    let most = (changed - changing).as_secs_f64() / ROUND.as_secs_f64() + 1.0;
    assert!(times <= most, "{times} rounds in {:?}", changed - changing);
    // And perhaps the one beside them.
    let open = gate.metric("keepgate_gate_exchanges_open").await;
    assert!((many..=many + 1.0).contains(&open), "{open} at revision {last}");
    assert!(told.is_empty());

    // And one that denies half of them.
    draft.members.retain(|member| member.member != uid("user", "bob"));
    draft.revision += 1;
    let fired = Instant::now();
    gate.source.replace(draft.world());
    let mut slowest = Duration::ZERO;
    for _ in 0..EXCHANGES / 2 {
        let ended = tokio::time::timeout(super::support::PATIENCE, told.recv()).await;
        let (is_bob, at) = ended.expect("all of them end").unwrap();
        assert!(is_bob, "nobody else");
        slowest = slowest.max(at.duration_since(fired));
    }
    let over = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(told.is_empty(), "who is allowed goes on");
    stop.store(true, Ordering::Relaxed);
    let waits = probe.join().unwrap();
    let quiet = percentiles(&waits, begun, changing);
    let deciding = percentiles(&waits, changing, changed);
    let ending = percentiles(&waits, fired, over);
    eprintln!("decided {times:.1} times in {:?}", changed - changing);
    eprintln!("5,000 of 10,000 denied: the last ended after {slowest:?}");
    for (what, (p50, p99, n)) in
        [("quiet", quiet), ("decided again", deciding), ("half of them ended", ending)]
    {
        eprintln!("{what}: p50 {p50:?}, p99 {p99:?} of {n} requests beside them");
    }
    assert!(slowest < PROMISED, "{slowest:?}");
    // Beside other tests a core may be away for a while; a round that held a worker would show.
    assert!(deciding.1 < (10 * quiet.1).max(Duration::from_millis(50)), "{deciding:?} {quiet:?}");
}
