//! Ports that run short: turns among callers, the reserve, sources with room, ports set aside.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use keepgate_client::dial::{DialConfig, DialOutcome, Dialed, Dialer, Stream, Target};
use keepgate_client::pool::{
    Group, GroupConfig, Pool, PoolConfig, PoolError, PooledBody, PortWatch, Terms, Upstream,
};
use tokio::io::AsyncWriteExt as _;

use crate::center::FakeCenter;
use crate::replica::{LONG, config_of, until as until_within};
use crate::{netns, server};

type Body = Full<Bytes>;

fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Full::default()).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.unwrap() })
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read(response: Response<PooledBody<Body>>) {
    response.into_body().collect().await.unwrap();
}

/// A server on a port outside of the range, which is set then.
fn server_beside(low: u16, high: u16) -> server::Server {
    netns::port_range(20_000, 20_099);
    let server = server::start(None);
    netns::port_range(low, high);
    server
}

fn one(server: &server::Server, config: PoolConfig) -> Upstream<Body> {
    let target = Target::tcp("127.0.0.1", server.addr.port());
    Pool::new(Dialer::default(), config).upstream(&target.into())
}

/// One caller has a thousand requests in the queue; another one's are served in between.
#[test]
fn a_caller_with_a_thousand_requests_starves_nobody() {
    let server = server::start(None);
    let config = PoolConfig {
        max_connections: Some(2),
        queue_timeout: Duration::from_secs(50),
        ..PoolConfig::default()
    };
    let upstream = one(&server, config);
    run(async {
        let done = Arc::new(AtomicUsize::new(0));
        let send = |caller: u64, done: Option<Arc<AtomicUsize>>| {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let caller = move || caller;
                let terms = Terms { caller: Some(&caller), ..Terms::default() };
                read(upstream.send_on(get("/slow"), &terms).await.unwrap()).await;
                if let Some(done) = done {
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let crawler: Vec<_> = (0..1_000).map(|_| send(1, Some(Arc::clone(&done)))).collect();
        until("the crawler waits", || upstream.stats().waiting > 900).await;
        let before = done.load(Ordering::SeqCst);
        for other in (0..10).map(|_| send(2, None)).collect::<Vec<_>>() {
            other.await.unwrap();
        }
        let meanwhile = done.load(Ordering::SeqCst) - before;
        // One of the crawler's for each, and those that were under way.
        assert!(meanwhile <= 20, "{meanwhile} of the crawler's came first");
        crawler.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

/// A full queue takes one more of a caller who has less in it, in place of another's newest, and says
/// when to come again.
#[test]
fn a_full_queue_is_shared() {
    let server = server::start(None);
    let config = PoolConfig {
        max_connections: Some(1),
        max_queue: 4,
        queue_timeout: Duration::from_secs(20),
        ..PoolConfig::default()
    };
    let upstream = one(&server, config);
    run(async {
        let send = |caller: u64, path: &'static str| {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let caller = move || caller;
                let terms = Terms { caller: Some(&caller), ..Terms::default() };
                read(upstream.send_on(get(path), &terms).await?).await;
                Ok::<_, PoolError>(())
            })
        };
        let busy = send(1, "/never");
        until("busy", || upstream.stats().requests == 1).await;
        let mut crawler = Vec::new();
        for n in 1..=4 {
            crawler.push(send(1, "/"));
            until("it waits", || upstream.stats().waiting == n).await;
        }
        let refused = send(1, "/").await.unwrap().unwrap_err();
        assert_eq!(refused.label(), "queue_full");
        let other = send(2, "/");
        let displaced = crawler.pop().unwrap().await.unwrap().unwrap_err();
        assert!(matches!(displaced, PoolError::QueueFull { .. }), "{displaced:?}");
        for error in [refused, displaced] {
            let wait_s = error.retry_after_s().unwrap();
            assert!((1..=60).contains(&wait_s), "{error:?}");
        }
        assert_eq!((upstream.stats().queue_full, upstream.stats().waiting), (2, 4));
        busy.abort();
        other.await.unwrap().unwrap();
        for waiter in crawler {
            waiter.await.unwrap().unwrap();
        }
    });
}

/// Opens nothing more once only the reserve is left; goes on when others have gone.
#[test]
fn it_stops_at_the_reserve_and_goes_on() {
    netns::isolated(|| {
        let server = server_beside(40_000, 40_039);
        let others: Vec<_> = (0..30).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
        let config = PoolConfig {
            max_connections: Some(64),
            queue_timeout: Duration::from_millis(300),
            ..PoolConfig::default()
        };
        let upstream = one(&server, config);
        let mut watch = PortWatch::open().unwrap();
        let buckets = watch.look(std::slice::from_ref(&upstream)).unwrap();
        let [bucket] = buckets[0][..] else { panic!("{buckets:?}") };
        assert_eq!((bucket.usable, bucket.free, bucket.reserve), (40, 10, 2));
        assert_eq!(bucket.dst, server.addr);
        run(async {
            let send = || {
                let upstream = upstream.clone();
                tokio::spawn(async move { upstream.send(get("/never")).await.map(drop) })
            };
            let sent: Vec<_> = (0..20).map(|_| send()).collect();
            until("all that may be are open", || upstream.stats().open == 8).await;
            assert_eq!(upstream.stats().short, 1);
            let mut reserved = 0;
            for (n, sent) in sent.into_iter().enumerate() {
                if n < 8 {
                    sent.abort();
                    continue;
                }
                let error = sent.await.unwrap().unwrap_err();
                assert!(matches!(error, PoolError::PortReserve { .. }), "{error:?}");
                assert_eq!(error.label(), "port_reserve");
                assert!(error.is_no_capacity() && error.retry_after_s() >= Some(1));
                reserved += 1;
            }
            assert_eq!(reserved, 12);
            let stats = upstream.stats();
            assert_eq!((stats.opened, stats.ports_exhausted), (8, 0), "{stats:?}");
            drop(others);
            until("they are gone", || {
                watch.look(std::slice::from_ref(&upstream)).unwrap()[0][0].free >= 30
            })
            .await;
            let sent: Vec<_> = (0..20).map(|_| send()).collect();
            until("there is room", || upstream.stats().open == 20).await;
            assert_eq!(upstream.stats().ports_exhausted, 0);
            sent.iter().for_each(tokio::task::JoinHandle::abort);
        });
    });
}

/// An upstream that ends each connection: the port is free at once, as it closes first. Without that,
/// 19 requests would be all for a minute.
#[test]
fn a_peer_that_closes_is_let_close_first() {
    netns::isolated(|| {
        netns::write("tcp_tw_reuse", "0");
        let server = server_beside(40_000, 40_019);
        let upstream = one(&server, PoolConfig::default());
        let mut watch = PortWatch::open().unwrap();
        run(async {
            for n in 0..200 {
                if n % 10 == 0 {
                    watch.look(std::slice::from_ref(&upstream)).unwrap();
                }
                let response = upstream.send(get("/close")).await;
                read(response.unwrap_or_else(|error| panic!("request {n}: {error:?}"))).await;
            }
        });
        let stats = upstream.stats();
        assert_eq!((stats.opened, stats.reused, stats.ports_exhausted), (200, 0, 0), "{stats:?}");
    });
}

/// The source whose bucket has most room is taken; and of two addresses, the one that has any.
#[test]
fn the_bucket_with_most_room_is_taken() {
    netns::isolated(|| {
        netns::port_range(20_000, 20_099);
        let second = server::start(None);
        let server = server_beside(40_000, 40_039);
        // 127.0.0.1 has 10 ports left, 127.0.0.2 all 40.
        let others: Vec<_> = (0..30).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
        let mut target = Target::tcp("127.0.0.1", server.addr.port());
        target.sources = ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap()).into();
        let config = PoolConfig { max_connections: Some(64), ..PoolConfig::default() };
        let upstream: Upstream<Body> =
            Pool::new(Dialer::default(), config.clone()).upstream(&target.into());
        let mut watch = PortWatch::open().unwrap();
        let buckets = watch.look(std::slice::from_ref(&upstream)).unwrap();
        let free: Vec<u32> = buckets[0].iter().map(|bucket| bucket.free).collect();
        assert_eq!(free, [10, 40]);
        run(async {
            let send = |upstream: &Upstream<Body>| {
                let upstream = upstream.clone();
                tokio::spawn(async move { upstream.send(get("/never")).await.map(drop) })
            };
            let first: Vec<_> = (0..30).map(|_| send(&upstream)).collect();
            until("thirty", || upstream.stats().requests == 30).await;
            let buckets = watch.look(std::slice::from_ref(&upstream)).unwrap();
            let free: Vec<u32> = buckets[0].iter().map(|bucket| bucket.free).collect();
            assert_eq!(free, [10, 10], "all of them from the one with most");
            first.iter().for_each(tokio::task::JoinHandle::abort);
            until("closed", || upstream.stats().open == 0).await;

            // Two addresses, and the first one's bucket is at its reserve.
            let mut more: Vec<TcpStream> = Vec::new();
            while let Ok(one) = TcpStream::connect(server.addr) {
                more.push(one);
            }
            let targets =
                [server.addr, second.addr].map(|addr| Target::tcp("127.0.0.1", addr.port()));
            let mut group = GroupConfig::new(targets.into());
            group.pool = config;
            let group: Group<Body> = Group::new(Dialer::default(), group).unwrap();
            watch.look(&group.addresses()).unwrap();
            for _ in 0..50 {
                read(group.send(get("/")).await.unwrap()).await;
            }
            let stats = group.stats();
            assert_eq!((stats.all.ports_exhausted, stats.all.queued), (0, 0), "{stats:?}");
            assert_eq!(second.counts.requests(), 50);
        });
        drop(others);
    });
}

/// Fills the range toward an address from 127.0.0.1.
fn fill(to: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    while let Ok(one) = TcpStream::connect(to) {
        // Closed with a reset, it leaves no TIME_WAIT.
        socket2::SockRef::from(&one).set_linger(Some(Duration::ZERO)).unwrap();
        held.push(one);
    }
    held
}

/// With no port left, dials go on from those set aside, one after the other as often as one likes: a
/// connection on one leaves nothing behind.
#[test]
fn ports_set_aside_are_for_when_no_other_is_free() {
    netns::isolated(|| {
        netns::write("tcp_tw_reuse", "0");
        let server = server_beside(40_000, 40_009);
        let told = Arc::new(AtomicUsize::new(0));
        let on_exhausted = {
            let told = Arc::clone(&told);
            Arc::new(move |_: Option<IpAddr>, _: SocketAddr| {
                told.fetch_add(1, Ordering::SeqCst);
            })
        };
        let dialer = Dialer::telling(DialConfig::default(), on_exhausted).setting_ports_aside();
        let target = Target::tcp("127.0.0.1", server.addr.port());
        let is_aside = |dialed: &Dialed| matches!(dialed.stream, Stream::Aside(_));
        run(async {
            let first = dialer.dial(&target).await.unwrap();
            assert!(!first.aside && !is_aside(&first), "an automatic port comes first");
            let held = fill(server.addr);
            assert_eq!(held.len(), 7, "two of ten are set aside, one is in use");
            assert_eq!(told.load(Ordering::SeqCst), 0);
            for _ in 0..20 {
                let mut dialed = dialer.dial(&target).await.unwrap();
                assert!(dialed.aside && is_aside(&dialed));
                // Also after an orderly end of what runs on it.
                dialed.stream.shutdown().await.unwrap();
            }
            let (one, two) = (dialer.dial(&target).await, dialer.dial(&target).await);
            assert!(one.is_ok() && two.is_ok());
            assert_eq!(dialer.dial(&target).await.unwrap_err().label(), "ports_exhausted");
            drop((one, two, first));
            assert_eq!(dialer.counters().of(DialOutcome::ConnectedAside), 22);
            assert_eq!(told.load(Ordering::SeqCst), 23);
            drop(held);
            assert!(!dialer.dial(&target).await.unwrap().aside);
        });
    });
}

/// A replica whose center ends the connection again and again, while others hold every port.
#[test]
fn a_replica_comes_back_although_no_port_is_free() {
    netns::isolated(|| {
        netns::write("tcp_tw_reuse", "0");
        run(async {
            netns::port_range(20_000, 20_099);
            let center = FakeCenter::with_orders();
            netns::port_range(40_000, 40_009);
            let mut config = config_of(&center.url());
            config.dialer = config.dialer.setting_ports_aside();
            let replica = keepgate_client::replica::Replica::follow(config).unwrap();
            replica.wait_for(center.head(), LONG).await.unwrap();
            let _held = fill(center.addr);
            for n in 0..5 {
                center.hang_up();
                let head = center.put("a", n);
                replica.wait_for(head, LONG).await.unwrap();
                until_within("connected", || replica.is_connected()).await;
            }
        });
    });
}
