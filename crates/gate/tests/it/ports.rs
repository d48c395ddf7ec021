//! The gate with few ports, each test in a network namespace of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keepgate_gate::PortsAnswer;
use keepgate_gate::{GateConfig, Listen};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::support::{Draft, TestGate, get};

/// The first port of the range, which is of fifty.
const LOW: u16 = 40_000;
const PORTS: u16 = 50;

/// Runs a future in a namespace with fifty ports, where no TIME_WAIT is reused. What is made by `before`
/// has ports outside of these.
fn squeezed<T, R: Future<Output = ()>>(
    before: impl FnOnce() -> T + Send + 'static,
    test: impl FnOnce(T) -> R + Send + 'static,
) {
    let thread = std::thread::spawn(move || {
        // SAFETY: no pointers; affects this new thread alone.
        #[expect(unsafe_code, reason = "std has no unshare")]
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            assert!(
                std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(),
                "a network namespace is required here: {error}"
            );
            eprintln!("SKIPPED: no network namespace: {error}");
            return;
        }
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success());
        let set = |name: &str, value: String| {
            std::fs::write(Path::new("/proc/sys/net/ipv4").join(name), value).unwrap();
        };
        set("tcp_tw_reuse", "0".to_owned());
        set("ip_local_port_range", "20000 20999".to_owned());
        let made = before();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        set("ip_local_port_range", format!("{LOW} {}", LOW + PORTS - 1));
        runtime.block_on(async {
            let seconds = if is_long() { 900 } else { 100 };
            let bounded = tokio::time::timeout(Duration::from_secs(seconds), test(made));
            bounded.await.expect("it hangs");
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// An upstream in threads of its own, which answers after a moment.
struct Server {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// Ends each connection with its answer.
    ends: Arc<AtomicBool>,
}

impl Server {
    fn start(takes: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let (accepted, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, close) = (Arc::clone(&accepted), Arc::clone(&ends));
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    stream.set_nodelay(true).unwrap();
                    // Its answer and its end go together: however busy the host is, the end does not come
                    // after the moment that the gate leaves for it.
                    let ends = close.load(Ordering::SeqCst);
                    socket2::SockRef::from(&stream).set_tcp_cork(ends).unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                    let close = Arc::clone(&close);
                    let service = service_fn(move |_: Request<Incoming>| {
                        let close = close.load(Ordering::SeqCst);
                        async move {
                            tokio::time::sleep(takes).await;
                            let mut response = Response::new(Full::new(Bytes::from("served")));
                            if close {
                                let close = HeaderValue::from_static("close");
                                response.headers_mut().insert("connection", close);
                            }
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                    tokio::spawn(async move {
                        let builder = hyper::server::conn::http1::Builder::new();
                        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            });
        });
        Server { addr, accepted, ends }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// Callers' socket: they need no ports.
fn socket() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let name = format!("keepgate-squeezed-{}-{number}.sock", std::process::id());
    std::env::temp_dir().join(name)
}

async fn gate(server: &Server, path: &Path, change: impl FnOnce(&mut GateConfig)) -> TestGate {
    TestGate::with(&Draft::orders(), &server.url(), |config| {
        config.listen = Listen::Unix(path.to_owned());
        config.admin_listen = Some(SocketAddr::from(([127, 0, 0, 1], 30_000)));
        change(config);
    })
    .await
}

/// What another program does: takes ports toward the server, up to so many, as long as there are any.
/// When they are dropped they leave no TIME_WAIT.
#[expect(clippy::disallowed_methods, reason = "it is another program")]
fn take_ports(server: &Server, most: usize, held: &mut Vec<TcpStream>) {
    while held.len() < most
        && let Ok(one) = TcpStream::connect(server.addr)
    {
        socket2::SockRef::from(&one).set_linger(Some(Duration::ZERO)).unwrap();
        held.push(one);
    }
}

#[expect(clippy::disallowed_methods, reason = "the test is the caller")]
async fn connect(path: &Path) -> UnixStream {
    UnixStream::connect(path).await.unwrap()
}

/// What callers got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Got {
    ok: usize,
    saturated: usize,
    exhausted: usize,
    other: Vec<String>,
}

impl Got {
    fn note(&mut self, answer: &str) {
        let is = |kind: &str| answer.contains(&format!("\"type\":\"urn:keepgate:problem:{kind}\""));
        if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("served") {
            self.ok += 1;
        } else if answer.starts_with("HTTP/1.1 503 ") && is("upstream-saturated") {
            assert!(answer.contains("\r\nretry-after: "), "{answer}");
            self.saturated += 1;
        } else if answer.starts_with("HTTP/1.1 503 ") && is("ports-exhausted") {
            assert!(answer.contains("\r\nretry-after: "), "{answer}");
            self.exhausted += 1;
        } else if self.other.len() < 5 {
            self.other.push(answer.to_owned());
        }
    }

    fn add(&mut self, other: Got) {
        self.ok += other.ok;
        self.saturated += other.saturated;
        self.exhausted += other.exhausted;
        self.other.extend(other.other);
    }
}

/// One request on a kept connection; reads until the whole answer is there.
async fn ask(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> std::io::Result<String> {
    stream.write_all(b"GET /public HTTP/1.1\r\nHost: a.example\r\n\r\n").await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(buffer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.and_then(|length| length.parse().ok()) == Some(body.len()) {
            return Ok(text.into_owned());
        }
    }
}

/// `callers` at once make `requests` in all.
async fn load(path: &Path, callers: usize, requests: usize) -> Got {
    let left = Arc::new(AtomicUsize::new(requests));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (left, path) = (Arc::clone(&left), path.to_owned());
            tokio::spawn(async move {
                let (mut got, mut buffer) = (Got::default(), Vec::new());
                let mut stream = connect(&path).await;
                let order = Ordering::SeqCst;
                while left.fetch_update(order, order, |n| n.checked_sub(1)).is_ok() {
                    match ask(&mut stream, &mut buffer).await {
                        Ok(answer) => got.note(&answer),
                        Err(error) => {
                            got.other.push(error.to_string());
                            stream = connect(&path).await;
                        }
                    }
                }
                got
            })
        })
        .collect();
    let mut all = Got::default();
    for task in tasks {
        all.add(task.await.unwrap());
    }
    all
}

async fn ports(gate: &TestGate) -> PortsAnswer {
    let answer = get(gate.admin, "/ports", &[]).await;
    serde_json::from_value(answer.json()).unwrap()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many requests the long form makes; the short one makes a fiftieth.
fn requests(long: usize) -> usize {
    if is_long() { long } else { long / 50 }
}

fn is_long() -> bool {
    std::env::var_os("KEEPGATE_LONG").is_some()
}

/// 256 callers and fifty ports, with an upstream that keeps connections, and one that ends each.
#[test]
fn fifty_ports_and_256_callers() {
    squeezed(
        || Server::start(Duration::from_millis(5)),
        async |server| {
            for ends in [false, true] {
                server.ends.store(ends, Ordering::SeqCst);
                let before = server.accepted.load(Ordering::SeqCst);
                let path = socket();
                let gate = gate(&server, &path, |_| {}).await;
                let requests = requests(100_000);
                let began = Instant::now();
                let got = load(&path, 256, requests).await;
                let accepted = server.accepted.load(Ordering::SeqCst) - before;
                eprintln!("ends: {ends}: {got:?}, {accepted} connections in {:?}", began.elapsed());
                assert_eq!(got.other, Vec::<String>::new());
                assert_eq!(got.ok + got.saturated, requests, "{got:?}");
                let seen = ports(&gate).await;
                assert_eq!(seen.exhausted, 0, "{seen:?}");
                if !ends {
                    assert_eq!(got.ok, requests, "{got:?}");
                    assert!(accepted <= 25, "{accepted} connections: half of the ports");
                }
                gate.stop().await;
            }
        },
    );
}

/// Another program takes nearly all ports, and gives them back.
#[test]
fn another_program_takes_the_ports() {
    squeezed(
        || Server::start(Duration::from_millis(1)),
        async |server| {
            let path = socket();
            let gate = gate(&server, &path, |config| {
                config.pool.queue_timeout = Duration::from_millis(300);
                config.pool.idle_timeout = Duration::from_secs(3);
            })
            .await;
            // The gate becomes warm with two connections.
            assert_eq!(load(&path, 2, 200).await, Got { ok: 200, ..Got::default() });
            let warm = ports(&gate).await.upstreams[0].open;
            assert!((1..=2).contains(&warm), "{warm}");
            let mut others = Vec::new();
            take_ports(&server, 46, &mut others);
            eventually("the gate has seen it", async || {
                assert_eq!(load(&path, 2, 2).await.ok, 2);
                let seen = ports(&gate).await;
                seen.upstreams[0].buckets.iter().any(|bucket| bucket.free <= bucket.reserve)
            })
            .await;
            // As long as warm connections suffice, nobody notices.
            let got = load(&path, 16, 2_000).await;
            assert_eq!(got, Got { ok: 2_000, ..Got::default() });
            // They end, and the others take what is left: orderly answers, and soon.
            eventually("none is open", async || ports(&gate).await.upstreams[0].open == 0).await;
            take_ports(&server, usize::MAX, &mut others);
            let got = load(&path, 16, 64).await;
            assert_eq!(got.saturated + got.exhausted, 64, "{got:?}");
            // The others go, and the gate is back by itself.
            drop(others);
            eventually("it is back", async || load(&path, 1, 1).await.ok == 1).await;
            assert_eq!(load(&path, 16, 2_000).await.ok, 2_000);
            gate.stop().await;
        },
    );
}

/// A dial that finds no port although there should be some: a report in the data directory says who
/// holds them.
#[test]
fn who_holds_the_ports_is_left_behind() {
    squeezed(
        || Server::start(Duration::ZERO),
        async |server| {
            let path = socket();
            let data = std::env::temp_dir().join(format!("keepgate-held-{}", std::process::id()));
            std::fs::create_dir_all(&data).unwrap();
            let gate = gate(&server, &path, |config| {
                config.data_dir = Some(data.clone());
                config.pool.queue_timeout = Duration::from_millis(200);
            })
            .await;
            eventually("a look", async || ports(&gate).await.look_us.is_some()).await;
            // Faster than the gate looks.
            let mut others = Vec::new();
            take_ports(&server, usize::MAX, &mut others);
            let mut got = Got::default();
            let end = Instant::now() + Duration::from_secs(30);
            let dir = data.join("ports");
            let reports = || std::fs::read_dir(&dir).map_or(0, Iterator::count);
            while reports() == 0 {
                assert!(Instant::now() < end, "no report: {got:?}, {:?}", ports(&gate).await);
                if got.exhausted == 0 {
                    got.add(load(&path, 4, 4).await);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(got.other, Vec::<String>::new());
            let seen = ports(&gate).await;
            assert!(seen.exhausted > 0);
            let file = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
            let report: serde_json::Value =
                serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            let bucket = &report["buckets"][0];
            assert_eq!(bucket["dport"], server.addr.port(), "{report}");
            assert_eq!(bucket["remaining"]["max"], 0, "{report}");
            let own = u64::from(std::process::id());
            assert!(
                bucket["owners"].as_array().unwrap().iter().any(|o| o["pid"] == own),
                "{report}"
            );
            assert_eq!(gate.metric("keepgate_gate_port_reports_total").await, 1.0);
            drop(others);
            gate.stop().await;
            std::fs::remove_dir_all(data).unwrap();
        },
    );
}

/// Nearly every request goes on a connection that carried one before.
#[test]
fn connections_are_reused() {
    squeezed(
        || Server::start(Duration::ZERO),
        async |server| {
            let path = socket();
            let gate = gate(&server, &path, |_| {}).await;
            // Each has its connection: of 10,000 requests one may be on a new one.
            let (callers, requests) = if is_long() { (32, 1_000_000) } else { (1, 10_000) };
            let got = load(&path, callers, requests).await;
            assert_eq!(got, Got { ok: requests, ..Got::default() });
            let seen = ports(&gate).await.upstreams.remove(0);
            eprintln!("{seen:?}");
            assert_eq!(seen.requests, requests as u64);
            assert_eq!(seen.reused, seen.requests - seen.opened);
            let fresh = seen.opened as f64 / seen.requests as f64;
            assert!(fresh <= 0.0001, "{seen:?}");
            gate.stop().await;
        },
    );
}
