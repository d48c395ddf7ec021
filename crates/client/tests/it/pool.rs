//! The pool's rules, each against a real server, counted at the server and in the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use keepgate_client::dial::{DialOutcome, Dialer, Target};
use keepgate_client::pool::{
    BodyError, Pool, PoolConfig, PoolError, PooledBody, Protocol, Upstream, UpstreamId,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{netns, server};

type Body = Full<Bytes>;

fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Full::default()).unwrap()
}

fn upstream(server: &server::Server, config: PoolConfig) -> Upstream<Body> {
    speaking(server, Protocol::Http1, config)
}

fn speaking(server: &server::Server, protocol: Protocol, config: PoolConfig) -> Upstream<Body> {
    let target = Target::tcp(server.addr.ip().to_string(), server.addr.port());
    Pool::new(Dialer::default(), config).upstream(&UpstreamId { target, protocol })
}

async fn text(response: Response<PooledBody<Body>>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a future on a new single-threaded runtime.
fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.unwrap() });
}

/// `clients` loops over `requests` requests in all, on `threads` runtimes; returns the failures.
fn load(
    upstream: &Upstream<Body>,
    path: &'static str,
    threads: usize,
    clients: usize,
    requests: usize,
) -> Vec<String> {
    let left = Arc::new(AtomicUsize::new(requests));
    // No runtime ends before all are done: it would take its connections with it.
    let done = Arc::new(std::sync::Barrier::new(threads));
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let (upstream, left, done) = (upstream.clone(), left.clone(), done.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                run(async {
                    let mut clients: Vec<_> = (0..clients / threads)
                        .map(|_| {
                            let (upstream, left) = (upstream.clone(), left.clone());
                            tokio::spawn(async move {
                                let take = |n: usize| n.checked_sub(1);
                                let order = Ordering::SeqCst;
                                while left.fetch_update(order, order, take).is_ok() {
                                    let response = upstream
                                        .send(get(path))
                                        .await
                                        .map_err(|e| e.to_string())?;
                                    let body = response.into_body().collect().await;
                                    body.map_err(|e| e.to_string())?;
                                }
                                Ok::<_, String>(())
                            })
                        })
                        .collect();
                    for client in clients.drain(..) {
                        failures.extend(client.await.unwrap().err());
                    }
                    tokio::task::spawn_blocking(move || done.wait()).await.unwrap();
                });
                failures
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn as_many_connections_as_clients() {
    let server = server::start(None);
    for path in ["/", "/chunks"] {
        let upstream = upstream(&server, PoolConfig::default());
        let before = server.counts.accepted();
        assert_eq!(load(&upstream, path, 2, 64, 10_000), Vec::<String>::new());
        let opened = server.counts.accepted() - before;
        assert!(opened <= 64, "{opened} connections for 64 clients: {:?}", upstream.stats());
        assert_eq!(upstream.stats().opened, opened as u64);
        eprintln!("{path}: {:?}", upstream.stats());
    }
}

#[test]
fn fifty_ports_two_hundred_fifty_six_clients() {
    netns::isolated(|| {
        let server = outside_the_range();
        netns::port_range(40_000, 40_049);
        let upstream = upstream(&server, PoolConfig::default());
        assert_eq!(upstream.stats().limit, 25, "half of the range");
        let watching = Watch::sockets(server.addr.port());
        assert_eq!(load(&upstream, "/slow", 2, 256, 4_000), Vec::<String>::new());
        let most = watching.end();
        assert!(most <= 25, "{most} sockets at once, as the kernel counts them");
        let stats = upstream.stats();
        assert_eq!((stats.opened, stats.ports_exhausted), (25, 0), "{stats:?}");
        assert_eq!(server.counts.accepted(), 25);
        assert_eq!(server.counts.requests(), 4_000);
        assert!(stats.queued > 1_000, "{stats:?}");
    });
}

#[test]
fn running_out_of_ports_queues_and_is_named() {
    netns::isolated(|| {
        let server = outside_the_range();
        netns::port_range(40_000, 40_019);
        // Others hold fifteen of the twenty ports toward this server.
        let mut others: Vec<_> =
            (0..15).map(|_| std::net::TcpStream::connect(server.addr).unwrap()).collect();
        let config = PoolConfig { max_connections: Some(64), ..PoolConfig::default() };
        let pool = Pool::new(Dialer::default(), config);
        let target = Target::tcp("127.0.0.1", server.addr.port());
        let upstream = pool.upstream(&target.into());
        assert_eq!(load(&upstream, "/slow", 2, 64, 2_000), Vec::<String>::new());
        let stats = upstream.stats();
        assert_eq!(stats.opened, 5, "{stats:?}");
        assert!(stats.ports_exhausted >= 1, "{stats:?}");
        // It does not hammer a full range: a failed search for a port is slow.
        assert!(stats.ports_exhausted < 200, "{stats:?}");
        let dials = pool.dialer().counters();
        assert_eq!(dials.of(DialOutcome::PortsExhausted), stats.ports_exhausted);
        drop(upstream);

        // With none at all it waits for its deadline, and then says why under its own name.
        while let Ok(other) = std::net::TcpStream::connect(server.addr) {
            others.push(other);
        }
        let config = PoolConfig {
            max_connections: Some(64),
            queue_timeout: Duration::from_millis(200),
            ..PoolConfig::default()
        };
        let target = Target::tcp("127.0.0.1", server.addr.port());
        let starved = Pool::new(Dialer::default(), config).upstream(&target.into());
        run(async {
            for _ in 0..3 {
                let error = starved.send(get("/")).await.unwrap_err();
                assert_eq!(error.label(), "ports_exhausted", "{error:?}");
                assert!(error.is_no_capacity());
                let PoolError::PortsExhausted { source, .. } = error else { panic!() };
                let expected = format!(
                    "no free local port from 127.0.0.1 to {0}; see `keepgate doctor --to {0}`",
                    server.addr
                );
                assert_eq!(source.to_string(), expected);
            }
            // Ports come back (closed ones after a second): so does the upstream, untold.
            let config = PoolConfig { max_connections: Some(64), ..PoolConfig::default() };
            let target = Target::tcp("127.0.0.1", server.addr.port());
            let starved = Pool::new(Dialer::default(), config).upstream(&target.into());
            let waiting = tokio::spawn({
                let starved = starved.clone();
                async move { starved.send(get("/later")).await }
            });
            until("waiting", || starved.stats().waiting == 1).await;
            drop(others);
            assert_eq!(text(waiting.await.unwrap().unwrap()).await, "/later");
        });
    });
}

/// A server whose own port, which no one could connect from, is not in the range under test.
fn outside_the_range() -> server::Server {
    netns::port_range(20_000, 20_099);
    server::start(None)
}

/// Counts the kernel's sockets toward a port, all the while.
struct Watch {
    stop: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<usize>,
}

impl Watch {
    fn sockets(port: u16) -> Watch {
        let stop = Arc::new(AtomicUsize::new(0));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while stopped.load(Ordering::SeqCst) == 0 {
                most = most.max(netns::ports_toward(port));
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        Watch { stop, thread }
    }

    fn end(self) -> usize {
        self.stop.store(1, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

#[test]
fn the_queue_is_bounded_and_first_come_first_served() {
    let server = server::start(None);
    let config = PoolConfig {
        max_connections: Some(1),
        max_queue: 3,
        queue_timeout: Duration::from_millis(300),
        ..PoolConfig::default()
    };
    let upstream = upstream(&server, config);
    run(async {
        let never = tokio::spawn({
            let upstream = upstream.clone();
            async move { upstream.send(get("/never")).await.map(drop) }
        });
        until("sent", || upstream.stats().requests == 1).await;
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for n in 0..3_usize {
            let (upstream, order) = (upstream.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let result = upstream.send(get("/")).await.map(|_| ());
                order.lock().unwrap().push(n);
                result
            }));
            tokio::task::yield_now().await;
        }
        until("three wait", || upstream.stats().waiting == 3).await;
        let full = upstream.send(get("/")).await.unwrap_err();
        assert_eq!(full.label(), "queue_full");
        for waiter in waiting.drain(..) {
            let error = waiter.await.unwrap().unwrap_err();
            assert_eq!(error.label(), "queue_timeout", "{error:?}");
        }
        let stats = upstream.stats();
        assert_eq!((stats.queue_full, stats.queue_timeouts, stats.waiting), (1, 3, 0), "{stats:?}");

        // One leaves the queue, the others are served in order once the connection is back.
        let mut waiting = Vec::new();
        order.lock().unwrap().clear();
        for n in 0..3_usize {
            let (upstream, order) = (upstream.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let result = upstream.send(get("/")).await.map(|_| ());
                order.lock().unwrap().push(n);
                result
            }));
            tokio::task::yield_now().await;
        }
        until("three wait", || upstream.stats().waiting == 3).await;
        waiting.remove(1).abort();
        until("two wait", || upstream.stats().waiting == 2).await;
        never.abort();
        for waiter in waiting {
            waiter.await.unwrap().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 2]);
        assert_eq!(upstream.stats().waiting, 0);
    });
}

/// Waits for a state, with a bound.
async fn until(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !state() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn permits_return_with_their_sockets() {
    let server = server::start(None);
    let config = PoolConfig { max_connections: Some(4), ..PoolConfig::default() };
    let upstream = upstream(&server, config);
    run(async {
        // A body that is dropped early, a response that is never awaited, a closing upstream.
        drop(upstream.send(get("/stall")).await.unwrap());
        until("gone", || upstream.stats().open == 0 && server.counts.open() == 0).await;
        let sent = upstream.send(get("/never"));
        assert!(tokio::time::timeout(Duration::from_millis(50), sent).await.is_err());
        until("gone", || upstream.stats().open == 0 && server.counts.open() == 0).await;
        assert_eq!(text(upstream.send(get("/close")).await.unwrap()).await, "closing");
        until("gone", || upstream.stats().open == 0 && server.counts.open() == 0).await;
        // Idle ones are closed by the upstream: the permits know.
        let responses =
            futures_util::future::join_all((0..4).map(|_| upstream.send(get("/")))).await;
        for response in responses {
            text(response.unwrap()).await;
        }
        assert_eq!((upstream.stats().open, upstream.stats().idle), (4, 4));
        assert!(server.counts.most_open() <= 4);
    });
    // The runtime is gone, and so are the connections and their permits.
    assert_eq!(upstream.stats().open, 0);
    run(async {
        assert_eq!(text(upstream.send(get("/again")).await.unwrap()).await, "/again");
        assert_eq!(upstream.stats().open, 1);
    });
}

#[test]
fn idle_connections_are_closed_by_us() {
    let server = server::start(None);
    let config = PoolConfig { idle_timeout: Duration::from_millis(100), ..PoolConfig::default() };
    let upstream = upstream(&server, config);
    run(async {
        text(upstream.send(get("/")).await.unwrap()).await;
        until("expired", || upstream.stats().expired == 1).await;
        until("closed", || server.counts.open() == 0 && upstream.stats().open == 0).await;
        assert_eq!(upstream.stats().idle, 0);
    });
    // What the upstream grants is less than what we would take.
    let config = PoolConfig { idle_timeout: Duration::from_secs(20), ..PoolConfig::default() };
    let upstream = self::upstream(&server, config);
    run(async {
        text(upstream.send(get("/keep-alive-1")).await.unwrap()).await;
        text(upstream.send(get("/")).await.unwrap()).await;
        assert_eq!(upstream.stats().opened, 2, "one second less the margin is nothing");
        text(upstream.send(get("/")).await.unwrap()).await;
        assert_eq!(upstream.stats().opened, 2);
    });
}

#[test]
fn reuse_is_last_in_first_out() {
    let server = server::start(None);
    let config = PoolConfig { idle_timeout: Duration::from_millis(400), ..PoolConfig::default() };
    let upstream = upstream(&server, config);
    run(async {
        let burst = futures_util::future::join_all((0..8).map(|_| upstream.send(get("/slow"))));
        for response in burst.await {
            text(response.unwrap()).await;
        }
        assert_eq!(upstream.stats().idle, 8);
        // One client alone keeps one connection warm; the burst's others age and go.
        until("surplus gone", || upstream.stats().idle <= 1).await;
        for _ in 0..3 {
            text(upstream.send(get("/")).await.unwrap()).await;
        }
        let opened = upstream.stats().opened;
        assert!(opened <= 9, "{opened}");
    });
}

#[test]
fn a_restarted_upstream_is_no_error_for_safe_requests() {
    // An upstream that closes the connection without an answer to every second request on it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{BufRead as _, BufReader, Write as _};
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                for n in 0.. {
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    if n == 1 {
                        return;
                    }
                    let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                }
            });
        }
    });
    let server = server::Server { addr, counts: Arc::default() };
    let upstream = upstream(&server, PoolConfig::default());
    run(async {
        for _ in 0..20 {
            assert_eq!(text(upstream.send(get("/")).await.unwrap()).await, "ok");
        }
        let stats = upstream.stats();
        assert!(stats.retries >= 10, "{stats:?}");
        // What is not idempotent is never sent twice; a small body is kept for what is.
        for (request, is_sent_again) in [
            (Request::post("/").body(Body::default()).unwrap(), false),
            (Request::post("/").body(Full::new(Bytes::from("body"))).unwrap(), false),
            (Request::put("/").body(Full::new(Bytes::from("body"))).unwrap(), true),
        ] {
            let before = upstream.stats().retries;
            let mut resets = 0;
            // A fresh connection answers once, so one of two is on a reused one.
            for _ in 0..2 {
                let (parts, body) = request.clone().into_parts();
                match upstream.send(Request::from_parts(parts, body)).await {
                    Ok(response) => {
                        text(response).await;
                    }
                    Err(error) => {
                        assert_eq!(error.label(), "reset", "{error:?}");
                        resets += 1;
                    }
                }
            }
            let retried = upstream.stats().retries > before;
            assert_eq!((retried, resets), (is_sent_again, u64::from(!is_sent_again)));
        }
    });
}

#[test]
fn bodies_stream_both_ways_and_trailers_pass() {
    for (h2, protocol) in [(None, Protocol::Http1), (Some(100), Protocol::Http2)] {
        let server = server::start(h2);
        let pool: Pool<http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>> =
            Pool::new(Dialer::default(), PoolConfig::default());
        let target = Target::tcp("127.0.0.1", server.addr.port());
        let upstream = pool.upstream(&UpstreamId { target, protocol });
        run(async {
            // Ping-pong: the next frame is sent only when the one before has come back.
            let (to, from) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
            let frames = futures_util::stream::unfold(from, |mut from| async move {
                Some((Ok(from.recv().await?), from))
            });
            let request = Request::post("/echo")
                .header("trailer", "x-sum")
                .header("te", "trailers")
                .body(http_body_util::StreamBody::new(frames).boxed_unsync())
                .unwrap();
            to.send(Frame::data(Bytes::from("0"))).await.unwrap();
            let response = upstream.send(request).await.unwrap();
            assert_eq!(response.headers()["x-te"], "trailers");
            let mut body = response.into_body();
            for n in 0..50 {
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), n.to_string());
                to.send(Frame::data(Bytes::from((n + 1).to_string()))).await.unwrap();
            }
            drop(to);
            assert_eq!(body.collect().await.unwrap().to_bytes(), "50");

            let empty = || http_body_util::Empty::new().map_err(|e| match e {}).boxed_unsync();
            let request = Request::get("/trailers").header("te", "trailers").body(empty()).unwrap();
            let response = upstream.send(request).await.unwrap();
            let collected = response.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");

            // The client's body fails: that is the client's error.
            let frames = futures_util::stream::iter([
                Ok(Frame::data(Bytes::from("some"))),
                Err(std::io::Error::other("bad chunk")),
            ]);
            let body = http_body_util::StreamBody::new(frames).boxed_unsync();
            let request = Request::post("/collect").body(body).unwrap();
            match upstream.send(request).await {
                Err(error) => {
                    assert_eq!(error.label(), "request_body", "{protocol:?} {error:?}");
                    assert!(error.is_request());
                }
                Ok(response) => panic!("{protocol:?}: {}", response.status()),
            }
            until("nothing in use", || {
                let stats = upstream.stats();
                stats.streams == 0 && stats.open == stats.idle + usize::from(h2.is_some())
            })
            .await;
        });
    }
}

#[test]
fn deadlines_of_a_response() {
    let server = server::start(None);
    let config = PoolConfig {
        response_timeout: Duration::from_millis(100),
        body_timeout: Duration::from_millis(100),
        ..PoolConfig::default()
    };
    let upstream = upstream(&server, config);
    run(async {
        let error = upstream.send(get("/never")).await.unwrap_err();
        assert_eq!(error.label(), "response_timeout");
        let response = upstream.send(get("/stall")).await.unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert!(matches!(error, BodyError::Stalled(_)), "{error:?}");
        until("gone", || upstream.stats().open == 0).await;
        // The timer that a connection keeps does not outlast its request.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(text(upstream.send(get("/slow")).await.unwrap()).await, "slow");
        }
        assert_eq!(upstream.stats().opened, 3);
    });
}

#[test]
fn a_slow_upload_is_not_a_slow_response() {
    let server = server::start(None);
    let config =
        PoolConfig { response_timeout: Duration::from_millis(100), ..PoolConfig::default() };
    let pool: Pool<http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>> =
        Pool::new(Dialer::default(), config);
    let target = Target::tcp("127.0.0.1", server.addr.port());
    let upstream = pool.upstream(&UpstreamId { target, protocol: Protocol::Http1 });
    run(async {
        let frames = futures_util::stream::unfold(0, |n| async move {
            tokio::time::sleep(Duration::from_millis(40)).await;
            (n < 10).then(|| (Ok(Frame::data(Bytes::from("x"))), n + 1))
        });
        let body = http_body_util::StreamBody::new(frames).boxed_unsync();
        let request = Request::post("/collect").body(body).unwrap();
        let response = upstream.send(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "10");
    });
}

#[test]
fn an_upgrade_keeps_its_permit() {
    let server = server::start(None);
    let config = PoolConfig {
        max_connections: Some(1),
        queue_timeout: Duration::from_millis(50),
        ..PoolConfig::default()
    };
    let upstream = upstream(&server, config);
    run(async {
        let mut request = get("/upgrade");
        request.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        request.headers_mut().insert("upgrade", HeaderValue::from_static("echo"));
        let mut response = upstream.send(request).await.unwrap();
        assert_eq!(response.status(), 101);
        let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
        drop(response);
        let mut io = TokioIo::new(upgraded);
        io.write_all(b"through").await.unwrap();
        let mut buf = [0; 7];
        io.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"through");
        assert_eq!(upstream.stats().open, 1);
        let error = upstream.send(get("/")).await.unwrap_err();
        assert_eq!(error.label(), "queue_timeout");
        drop(io);
        assert_eq!(text(upstream.send(get("/free")).await.unwrap()).await, "/free");
    });
}

#[test]
fn http2_shares_one_connection_within_the_peers_limit() {
    let server = server::start(Some(8));
    let upstream = speaking(&server, Protocol::Http2, PoolConfig::default());
    assert_eq!(load(&upstream, "/slow", 2, 64, 2_000), Vec::<String>::new());
    let opened = server.counts.accepted();
    assert_eq!(opened, 4, "h2_max_connections of 8 streams each: {:?}", upstream.stats());
    assert_eq!(server.counts.requests(), 2_000);
    let stats = upstream.stats();
    assert_eq!((stats.streams, stats.waiting), (0, 0), "{stats:?}");

    let server = server::start(Some(200));
    let upstream = speaking(&server, Protocol::Http2, PoolConfig::default());
    run(async {
        let mut request = get("/authority");
        request.headers_mut().insert("host", HeaderValue::from_static("shop.example"));
        request.headers_mut().insert("connection", HeaderValue::from_static("close"));
        assert_eq!(text(upstream.send(request).await.unwrap()).await, "shop.example");
        let all = futures_util::future::join_all((0..64).map(|_| upstream.send(get("/slow"))));
        for response in all.await {
            text(response.unwrap()).await;
        }
        assert_eq!(server.counts.accepted(), 1);
    });
}

#[test]
fn a_unix_socket_takes_no_port() {
    netns::isolated(|| {
        netns::port_range(40_000, 40_001);
        let path = std::env::temp_dir().join(format!("keepgate-pool-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let counts = server::start_unix(&path);
        let upstream = Pool::new(Dialer::default(), PoolConfig::default())
            .upstream(&Target::unix(&path).into());
        assert_eq!(upstream.stats().limit, keepgate_client::pool::MAX_CONNECTIONS);
        assert_eq!(load(&upstream, "/slow", 2, 64, 1_000), Vec::<String>::new());
        assert!(counts.accepted() <= 64);
        let _ = std::fs::remove_file(&path);
    });
}

#[test]
fn identities_do_not_mix() {
    let server = server::start(None);
    let pool: Pool<Body> = Pool::new(Dialer::default(), PoolConfig::default());
    let plain = Target::tcp("127.0.0.1", server.addr.port());
    let mut other_source = plain.clone();
    other_source.sources = vec!["127.0.0.9".parse().unwrap()];
    let mut other_name = plain.clone();
    other_name.server_name = Some("other.example".to_owned());
    run(async {
        for target in [plain, other_source, other_name] {
            for _ in 0..2 {
                let response = pool.send(&target.clone().into(), get("/")).await.unwrap();
                text(response).await;
            }
        }
        assert_eq!(server.counts.accepted(), 3);
        assert_eq!(pool.stats().len(), 3);
        pool.retain(|id| id.target.sources.is_empty());
        assert_eq!(pool.stats().len(), 2);
        until("closed", || server.counts.open() == 2).await;
    });
}

#[test]
fn failures_have_names() {
    netns::isolated(|| {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = closed.local_addr().unwrap();
        drop(closed);
        let garbage = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let garbage_addr = garbage.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in garbage.incoming() {
                use std::io::{Read as _, Write as _};
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n");
            }
        });
        let pool: Pool<Body> = Pool::new(Dialer::default(), PoolConfig::default());
        run(async {
            let cases = [
                (Target::tcp("127.0.0.1", addr.port()), "refused"),
                (Target::tcp("127.0.0.1", garbage_addr.port()), "upstream_protocol"),
                (Target::tcp("10.1.2.3", 80), "unreachable"),
                (Target::unix("/nonexistent/x.sock"), "socket_missing"),
            ];
            for (target, expected) in cases {
                let error = pool.send(&target.into(), get("/")).await.unwrap_err();
                assert_eq!(error.label(), expected, "{error:?}");
            }
        });
    });
}
