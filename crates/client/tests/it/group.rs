//! An upstream with many addresses, against real servers that fail, die, come back and move.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keepgate_client::dial::{Dialer, Target};
use keepgate_client::pool::{
    Group, GroupConfig, GroupError, GroupEvent, MAX_GROUP_ADDRESSES, MAX_NAME_ADDRESSES, PoolError,
    Sticky,
};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::netns;

type Body = Full<Bytes>;

/// A server that can be told what to answer, and that can die with all its connections.
struct Backend {
    addr: SocketAddr,
    says: Arc<Says>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Says {
    /// The status; 0 is 200.
    status: AtomicU16,
    hits: AtomicUsize,
    checks: AtomicUsize,
    accepted: AtomicUsize,
    /// Requests for `/hang` are not answered.
    hanging: AtomicUsize,
    /// A request's connection ends without an answer.
    drops: AtomicBool,
}

impl Backend {
    async fn start() -> Backend {
        Backend::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    async fn at(addr: SocketAddr) -> Backend {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut backend = Backend { addr, says: Arc::default(), task: None };
        backend.serve(listener);
        backend
    }

    fn serve(&mut self, listener: TcpListener) {
        let says = Arc::clone(&self.says);
        self.task = Some(tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                says.accepted.fetch_add(1, Ordering::SeqCst);
                let says = Arc::clone(&says);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&says)));
                    let io = TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await;
                });
            }
        }));
    }

    async fn die(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    async fn revive(&mut self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.serve(listener);
    }

    fn target(&self) -> Target {
        Target::tcp(self.addr.ip().to_string(), self.addr.port())
    }

    fn hits(&self) -> usize {
        self.says.hits.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    says: Arc<Says>,
) -> Result<Response<Body>, std::io::Error> {
    let path = request.uri().path().to_owned();
    let host = request.headers().get("host").and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    let counter = if path == "/check" { &says.checks } else { &says.hits };
    counter.fetch_add(1, Ordering::SeqCst);
    if says.drops.load(Ordering::SeqCst) {
        return Err(std::io::Error::other("dropped"));
    }
    if path == "/hang" {
        says.hanging.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Infallible>().await;
    }
    if path == "/slow" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut response = Response::new(Full::from(host));
    let status = says.status.load(Ordering::SeqCst);
    *response.status_mut() = StatusCode::from_u16(status.max(200)).unwrap();
    Ok(response)
}

fn group_with(targets: Vec<Target>, change: impl FnOnce(&mut GroupConfig)) -> Group<Body> {
    let mut config = GroupConfig::new(targets);
    change(&mut config);
    Group::new(Dialer::default(), config).unwrap()
}

fn group(backends: &[&Backend]) -> Group<Body> {
    group_with(backends.iter().map(|backend| backend.target()).collect(), |_| {})
}

fn request(method: Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Full::default()).unwrap()
}

async fn send(group: &Group<Body>, method: Method, path: &str) -> Result<u16, PoolError> {
    let response = group.send(request(method, path)).await?;
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    Ok(status)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_address_that_refuses_fails_no_request_and_gets_few() {
    let (mut dead, live) = (Backend::start().await, Backend::start().await);
    dead.die().await;
    let group = group(&[&dead, &live]);
    for method in [Method::GET, Method::POST].into_iter().cycle().take(52) {
        assert_eq!(send(&group, method, "/").await.unwrap(), 200);
    }
    assert_eq!(live.hits(), 52);
    let stats = group.stats();
    assert_eq!((stats.addresses, stats.ejected, stats.panic), (2, 1, false), "{stats:?}");
    assert!((2..=4).contains(&stats.failovers), "{stats:?}");
    assert_eq!(stats.all.open_failures, stats.failovers, "{stats:?}");
}

#[tokio::test]
async fn requests_are_spread_and_each_address_has_its_share_of_connections() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    let group = group_with(backends.iter().map(Backend::target).collect(), |config| {
        config.pool.max_connections = Some(10);
    });
    assert_eq!(group.stats().all.limit, 9, "three for each of three");
    assert_eq!(group.unshared(), Some(9));
    let mut clients = JoinSet::new();
    for _ in 0..30 {
        let group = group.clone();
        clients.spawn(async move {
            for _ in 0..10 {
                assert_eq!(send(&group, Method::GET, "/slow").await.unwrap(), 200);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    for backend in &backends {
        assert!((70..=130).contains(&backend.hits()), "{}", backend.hits());
        assert!(backend.says.accepted.load(Ordering::SeqCst) <= 3);
    }
    assert_eq!(group.stats().all.requests, 300);
}

#[tokio::test]
async fn an_address_that_answers_5xx_in_a_row_is_left_out_and_comes_back() {
    let (sick, well) = (Backend::start().await, Backend::start().await);
    let events = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let group = group_with(vec![sick.target(), well.target()], |config| {
        config.pool.balance.eject_min = Duration::from_millis(50);
        config.on_event = Some(Arc::new(move |event: &GroupEvent| {
            log.lock().unwrap().push(event.clone());
        }));
    });
    sick.says.status.store(503, Ordering::SeqCst);
    let mut failed = 0;
    while group.stats().ejections == 0 {
        failed += usize::from(send(&group, Method::GET, "/").await.unwrap() == 503);
        assert!(failed <= 5);
    }
    assert_eq!(failed, 5, "an answer of the upstream is passed on, never replaced");
    sick.says.status.store(200, Ordering::SeqCst);
    let mut sent = 0;
    while group.stats().ejected == 1 {
        assert_eq!(send(&group, Method::GET, "/").await.unwrap(), 200);
        sent += 1;
        assert!(sent < 1_000_000, "it comes back");
    }
    let events = events.lock().unwrap();
    let address: Arc<str> = sick.target().to_string().into();
    let lasts = Duration::from_millis(50);
    let ejected = GroupEvent::Ejected { address: Arc::clone(&address), connect: false, lasts };
    assert_eq!(*events, [ejected, GroupEvent::Returned { address }]);
}

#[tokio::test]
async fn where_all_are_ejected_all_are_used_and_it_is_said() {
    let backends = [Backend::start().await, Backend::start().await];
    let group = group(&[&backends[0], &backends[1]]);
    for backend in &backends {
        backend.says.status.store(500, Ordering::SeqCst);
    }
    for _ in 0..60 {
        assert_eq!(send(&group, Method::GET, "/").await.unwrap(), 500);
    }
    let stats = group.stats();
    assert_eq!((stats.ejected, stats.panic), (2, true), "{stats:?}");
    assert!(stats.panics > 0, "{stats:?}");
    let before: Vec<usize> = backends.iter().map(Backend::hits).collect();
    for _ in 0..60 {
        assert_eq!(send(&group, Method::GET, "/").await.unwrap(), 500);
    }
    for (backend, before) in backends.iter().zip(before) {
        assert!(backend.hits() > before + 10, "both are used");
    }
    // 501 is about the request, and so an answer as good as any: who gives it is back.
    for backend in &backends {
        backend.says.status.store(501, Ordering::SeqCst);
    }
    for _ in 0..20 {
        assert_eq!(send(&group, Method::GET, "/").await.unwrap(), 501);
    }
    let stats = group.stats();
    assert!(stats.ejected < 2 && !stats.panic, "{stats:?}");
}

/// Requests are under way on new connections when their server dies. What is idempotent is answered
/// by another; what is not fails, because nobody can tell whether it was processed.
#[tokio::test]
async fn a_server_that_dies_fails_no_idempotent_request() {
    let (mut dying, other) = (Backend::start().await, Backend::start().await);
    let group = group(&[&dying, &other]);
    let mut under_way = JoinSet::new();
    let hanging = |backend: &Backend| backend.says.hanging.load(Ordering::SeqCst);
    // Which of the two a request goes to is drawn, so its method is noted where it arrived.
    let (mut there, mut posts) = (0, 0);
    for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE].into_iter().cycle() {
        if there >= 12 && (1..there).contains(&posts) {
            break;
        }
        assert!(under_way.len() < 400, "the draw favors one: {posts} posts of {there}");
        let group = group.clone();
        let hung = hanging(&dying) + hanging(&other);
        let sent = method.clone();
        under_way.spawn(async move {
            (sent.clone(), send(&group, sent, "/hang").await.map_err(|error| error.label()))
        });
        eventually("it hangs", || hanging(&dying) + hanging(&other) > hung).await;
        if hanging(&dying) > there {
            there += 1;
            posts += usize::from(method == Method::POST);
        }
    }
    let here = other.hits();
    assert_eq!(dying.hits(), there);
    dying.die().await;
    // The posts that were at the dead one fail; all else hangs at the other now.
    let mut failed = 0;
    eventually("all others went over", || {
        while let Some(ended) = under_way.try_join_next() {
            let (method, outcome) = ended.unwrap();
            assert_eq!((method, outcome), (Method::POST, Err("reset")));
            failed += 1;
        }
        (failed, other.hits()) == (posts, here + there - posts)
    })
    .await;
    let stats = group.stats();
    assert_eq!(stats.failovers, (there - failed) as u64, "{stats:?}");
}

#[tokio::test]
async fn of_requests_that_may_have_been_processed_a_fifth_is_sent_again() {
    let backends = [Backend::start().await, Backend::start().await];
    for backend in &backends {
        backend.says.drops.store(true, Ordering::SeqCst);
    }
    let group = group_with(backends.iter().map(Backend::target).collect(), |config| {
        config.pool.balance.server_errors = 0;
    });
    for _ in 0..400 {
        assert_eq!(send(&group, Method::GET, "/").await.unwrap_err().label(), "reset");
    }
    let stats = group.stats();
    let hits = backends.iter().map(Backend::hits).sum::<usize>();
    // A hundred in ten seconds are always allowed; then a fifth of all that were sent.
    assert!((500..=530).contains(&hits), "{hits}: {stats:?}");
    assert_eq!(stats.all.retries as usize, hits - 400);
    assert_eq!(stats.all.retries_refused as usize, 800 - hits, "each was asked once");
}

#[tokio::test]
async fn callers_stay_at_their_address_until_it_dies_and_come_back_to_it() {
    let mut backends = Vec::new();
    for _ in 0..4 {
        backends.push(Backend::start().await);
    }
    let group = group_with(backends.iter().map(Backend::target).collect(), |config| {
        config.sticky = Some(Sticky::Cookie("sid".to_owned()));
        config.pool.balance.eject_min = Duration::from_millis(20);
        config.pool.balance.eject_max = Duration::from_millis(20);
    });
    let ask = async |caller: usize| {
        let mut request = request(Method::GET, "/");
        request.headers_mut().insert("cookie", format!("a=b; sid={caller}").parse().unwrap());
        let body = group.send(request).await.unwrap().into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    };
    let mut places = Vec::new();
    for caller in 0..40 {
        places.push(ask(caller).await);
    }
    for (caller, place) in places.iter().enumerate() {
        assert_eq!(ask(caller).await, *place);
    }
    let dead = backends[0].addr.to_string();
    assert!(places.contains(&dead) && places.iter().any(|place| *place != dead));
    backends[0].die().await;
    for (caller, place) in places.iter().enumerate() {
        let now = ask(caller).await;
        assert!(now == *place && now != dead || now != *place && *place == dead);
    }
    backends[0].revive().await;
    let caller = places.iter().position(|place| *place == dead).unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while ask(caller).await != dead {
        assert!(tokio::time::Instant::now() < end, "it comes back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Each address puts in its own host where the request names none, also at the second one.
#[tokio::test]
async fn the_host_is_that_of_the_address_that_answers() {
    let (mut dead, live) = (Backend::start().await, Backend::start().await);
    dead.die().await;
    let group = group(&[&dead, &live]);
    while group.stats().failovers == 0 {
        let body = group.send(request(Method::GET, "/")).await.unwrap().into_body();
        let host = body.collect().await.unwrap().to_bytes();
        assert_eq!(host, live.addr.to_string());
    }
}

#[tokio::test]
async fn active_checks_take_an_address_out_on_a_kept_connection() {
    let (sick, well) = (Backend::start().await, Backend::start().await);
    let group = group_with(vec![sick.target(), well.target()], |config| {
        config.check = Some("/check".to_owned());
        config.pool.check_every = Duration::from_millis(100);
        config.pool.check_timeout = Duration::from_secs(5);
    });
    let watching = tokio::spawn(group.clone().watch());
    eventually("both are checked", || {
        [&sick, &well].iter().all(|backend| backend.says.checks.load(Ordering::SeqCst) >= 3)
    })
    .await;
    for backend in [&sick, &well] {
        assert_eq!(backend.says.accepted.load(Ordering::SeqCst), 1, "one kept connection");
    }
    sick.says.status.store(500, Ordering::SeqCst);
    eventually("it is taken out", || group.stats().down == 1).await;
    let before = sick.hits();
    for _ in 0..50 {
        assert_eq!(send(&group, Method::GET, "/").await.unwrap(), 200);
    }
    assert_eq!(sick.hits(), before);
    sick.says.status.store(200, Ordering::SeqCst);
    eventually("it is brought back", || group.stats().down == 0).await;
    watching.abort();
}

#[tokio::test]
async fn a_connection_ends_with_its_age() {
    let backend = Backend::start().await;
    let group = group_with(vec![backend.target()], |config| {
        config.pool.max_age = Some(Duration::from_millis(300));
    });
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut sent = 0;
    // Steady traffic, so that no connection is ever idle for long.
    while backend.says.accepted.load(Ordering::SeqCst) < 3 {
        assert_eq!(send(&group, Method::POST, "/").await.unwrap(), 200);
        sent += 1;
        assert!(tokio::time::Instant::now() < end, "{sent} on one connection");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(sent > 3, "a connection is used more than once");
    eventually("those that are too old are closed", || group.stats().all.open <= 1).await;
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let many = |count: usize| (0..count).map(|n| Target::tcp("127.0.0.1", n as u16 + 1)).collect();
    let refusal = |targets: Vec<Target>, change: fn(&mut GroupConfig)| {
        let mut config = GroupConfig::new(targets);
        change(&mut config);
        Group::<Body>::new(Dialer::default(), config).err().map(|error| error.to_string())
    };
    assert!(refusal(many(MAX_GROUP_ADDRESSES), |_| {}).is_none());
    type Change = fn(&mut GroupConfig);
    let cases: [(Vec<Target>, Change, String); 5] = [
        (Vec::new(), |_| {}, GroupError::NoAddress.to_string()),
        (
            many(MAX_GROUP_ADDRESSES + 1),
            |_| {},
            "expected at most 256 addresses, got 257".to_owned(),
        ),
        (
            [many(2), many(1)].concat(),
            |_| {},
            "expected each address once, got `http://127.0.0.1:1` twice".to_owned(),
        ),
        (
            many(1),
            |config| config.pool.dns_refresh = Duration::from_millis(99),
            "expected at least 100 ms for `dns_refresh`, got 99ms".to_owned(),
        ),
        (
            many(1),
            |config| config.check = Some("healthz".to_owned()),
            "expected a path such as `/healthz` for the check, got `healthz`".to_owned(),
        ),
    ];
    for (targets, change, expected) in cases {
        assert_eq!(refusal(targets, change), Some(expected));
    }
}

/// A hosts file of this thread's own, as the resolver reads it.
pub struct Hosts(std::path::PathBuf);

impl Hosts {
    /// To be called in a namespace of its own.
    pub fn new() -> Hosts {
        // SAFETY: no pointers; affects this thread, and those that it starts.
        #[expect(unsafe_code, reason = "std has no unshare")]
        let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "keepgate-hosts-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::SeqCst)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "").unwrap();
        netns::run("mount", &["--make-rprivate", "/"]);
        netns::run("mount", &["--bind", path.to_str().unwrap(), "/etc/hosts"]);
        Hosts(path)
    }

    pub fn set(&self, lines: &[(&str, &str)]) {
        let text: String = lines.iter().map(|(ip, name)| format!("{ip} {name}\n")).collect();
        std::fs::write(&self.0, text).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Under steady traffic a name moves from one server to two others, and then cannot be looked up.
#[test]
fn a_name_is_followed_under_traffic_and_kept_when_it_cannot_be_looked_up() {
    netns::isolated(|| {
        let hosts = Hosts::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let first = Backend::at("127.0.0.1:0".parse().unwrap()).await;
            let port = first.addr.port();
            let second = Backend::at(SocketAddr::from(([127, 0, 0, 2], port))).await;
            let third = Backend::at(SocketAddr::from(([127, 0, 0, 3], port))).await;
            hosts.set(&[("127.0.0.1", "orders.test")]);
            let group = group_with(vec![Target::tcp("orders.test", port)], |config| {
                config.pool.dns_refresh = Duration::from_millis(100);
            });
            group.refresh().await;
            let watching = tokio::spawn(group.clone().watch());
            let traffic = async |until: &dyn Fn() -> bool| {
                let end = tokio::time::Instant::now() + Duration::from_secs(30);
                while !until() {
                    assert!(tokio::time::Instant::now() < end, "{:?}", group.stats());
                    let body = group.send(request(Method::GET, "/")).await.unwrap().into_body();
                    let host = body.collect().await.unwrap().to_bytes();
                    assert_eq!(host, format!("orders.test:{port}"), "the name, not the address");
                }
            };
            traffic(&|| first.hits() > 10).await;
            hosts.set(&[("127.0.0.2", "orders.test"), ("127.0.0.3", "orders.test")]);
            traffic(&|| second.hits() > 10 && third.hits() > 10).await;
            let left = first.hits();
            traffic(&|| second.hits() > 30).await;
            assert_eq!(first.hits(), left, "the first one has gone");
            eventually("its connection is closed", || group.stats().all.open == 2).await;

            hosts.set(&[]);
            traffic(&|| group.stats().lookups_failed >= 2).await;
            assert_eq!(group.stats().addresses, 2, "the last ones stay");

            // More addresses than are used, in an order that changes: those in use stay.
            let many = |turn: usize| -> Vec<String> {
                (0..MAX_NAME_ADDRESSES + 6)
                    .map(|n| format!("127.0.9.{}", 1 + (n + turn) % 70))
                    .collect()
            };
            let set = |turn| {
                let ips = many(turn);
                hosts.set(&ips.iter().map(|ip| (ip.as_str(), "orders.test")).collect::<Vec<_>>());
            };
            set(0);
            eventually("as many as are allowed", || group.stats().addresses == MAX_NAME_ADDRESSES)
                .await;
            let moves = group.stats().moves;
            let before: Vec<_> = group.addresses().iter().map(|a| a.id().clone()).collect();
            set(13);
            let looked_up = group.stats().lookups;
            eventually("it is looked up again", || group.stats().lookups >= looked_up + 2).await;
            let after: Vec<_> = group.addresses().iter().map(|a| a.id().clone()).collect();
            assert_eq!((group.stats().moves, after), (moves, before));
            watching.abort();
        });
    });
}
