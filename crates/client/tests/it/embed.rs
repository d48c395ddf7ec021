//! The example that embeds a replica in an axum service, as it is.

use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use keepgate_client::dial::{Dialer, Target};
use keepgate_client::replica::{FollowConfig, FollowError, NoDecision, Replica};
use keepgate_client::{Query, Revision, Uid, World, bundle};
use keepgate_policy::Change;

use crate::center::FakeCenter;

#[path = "../../examples/embed_axum.rs"]
#[allow(unreachable_pub, reason = "an example's items are its program's")]
mod example;

async fn status(addr: std::net::SocketAddr, user: Option<&str>) -> (u16, bool) {
    let target = Target::tcp(addr.ip().to_string(), addr.port());
    let dialed = Dialer::default().dial(&target).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(dialed.stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = Request::get("/orders/7").header("host", "example");
    if let Some(user) = user {
        request = request.header("x-user", user);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let answer = (response.status().as_u16(), response.headers().contains_key("retry-after"));
    response.into_body().collect().await.unwrap();
    drop(sender);
    driver.await.unwrap().unwrap();
    answer
}

async fn serve(replica: &Replica) -> std::net::SocketAddr {
    let app = example::app(example::Orders { replica: replica.clone() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

/// The world of `examples/orders`, as `keepgate apply` would read it.
fn orders() -> World {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/orders");
    let entries = std::fs::read_dir(directory).unwrap();
    let files = entries.map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    });
    bundle::parse(&files.collect()).unwrap().world().unwrap()
}

#[test]
fn what_the_example_asks_is_what_examples_orders_grants() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let addr = serve(&Replica::fixed(orders(), Duration::from_secs(59))).await;
        assert_eq!(status(addr, None).await, (401, false));
        assert_eq!(status(addr, Some("alice")).await, (200, false));
        assert_eq!(status(addr, Some("bob")).await, (200, false));
        assert_eq!(status(addr, Some("mallory")).await, (403, false));
        let addr = serve(&Replica::fixed(orders(), Duration::from_secs(61))).await;
        assert_eq!(status(addr, Some("alice")).await, (503, true));
        assert_eq!(status(addr, Some("mallory")).await, (503, true));
    });
}

/// A center's items in place of those that it was made with.
fn put_all(center: &FakeCenter, files: &[(&str, &str)]) -> Revision {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let bundle = bundle::parse(&files.collect()).unwrap();
    center.commit(bundle.items.into_iter().map(Change::Put).collect())
}

#[test]
fn ready_means_that_the_first_question_is_decided() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let center = FakeCenter::start();
    center.set_mute(true);
    let replica = runtime.block_on(async {
        let replica = Replica::follow(FollowConfig::new(center.url(), "test-token")).unwrap();
        let addr = serve(&replica).await;
        assert_eq!(status(addr, Some("alice")).await, (503, true));
        center.set_mute(false);
        let policy = "permit (principal == user::\"alice\", action, resource);";
        put_all(&center, &[("service.toml", "name = \"orders\""), ("a.cedar", policy)]);
        for _ in 0..20 {
            let age = replica.wait_ready(Duration::from_secs(60)).await.unwrap();
            assert!(age < Duration::from_secs(60));
            let (alice, bob) = (Uid::new("user", "alice"), Uid::new("user", "bob"));
            let (get, order) = (Uid::action("GET"), Uid::new("order", "7"));
            let may = |who| {
                let query = Query::new(who, &get, &order);
                replica.decide(&query, Duration::from_secs(60)).unwrap().decision.is_allowed()
            };
            if replica.current().services().next().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            assert!(may(&alice) && !may(&bob));
        }
        replica
    });
    // Without a runtime around it, on an executor that knows none, nothing panics.
    let later = Revision(replica.revision().0 + 1);
    let waited = std::thread::scope(|scope| {
        let waiting =
            || futures_util::FutureExt::now_or_never(replica.wait_for(later, Duration::ZERO));
        scope.spawn(waiting).join().unwrap()
    });
    assert!(waited.is_none() || waited.unwrap().is_err());
    // Closed, it says so to whoever waits, and lets go of everything.
    runtime.block_on(async {
        replica.close().await;
        let waited = replica.wait_ready(Duration::ZERO).await;
        assert!(matches!(waited, Err(NoDecision::Stale { .. })), "{waited:?}");
    });
}

#[test]
fn the_last_error_says_which_of_them_it_is() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let error = async |replica: &Replica| loop {
            if let Some(error) = replica.last_error() {
                return FollowError::clone(&error);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let follow = |url: &str, token: &str, service: Option<&str>| {
            let mut config = FollowConfig::new(url, token);
            config.services = service.iter().map(|name| (*name).to_owned()).collect();
            Replica::follow(config).unwrap()
        };
        let center = FakeCenter::with_orders();
        let good = follow(&center.url(), "test-token", Some("orders"));
        good.wait_ready(Duration::from_secs(60)).await.unwrap();
        assert_eq!(good.last_error(), None);
        let missing = follow(&center.url(), "test-token", Some("missing"));
        assert_eq!(error(&missing).await, FollowError::UnknownService("missing".to_owned()));
        let refused = error(&follow(&center.url(), "another-token", None)).await;
        assert!(matches!(&refused, FollowError::TokenRefused(_)), "{refused}");
        let dead = error(&follow("http://127.0.0.1:9", "test-token", None)).await;
        assert!(dead.to_string().contains("refused the connection"), "{dead}");
        // Away, and back.
        center.set_down(true);
        let away = error(&good).await;
        assert!(matches!(&away, FollowError::Unreachable(_)), "{away}");
        center.set_down(false);
        while good.last_error().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_directory_is_free_once_close_has_ended() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let center = FakeCenter::with_orders();
    let scratch = crate::replica::Scratch::new("close");
    runtime.block_on(async {
        let mut config = FollowConfig::new(center.url(), "test-token");
        config.data_dir = Some(scratch.0.clone());
        for _ in 0..10 {
            let replica = Replica::follow(config.clone()).unwrap();
            replica.wait_ready(Duration::from_secs(60)).await.unwrap();
            // A handle is left; it is closed all the same.
            replica.close().await;
        }
    });
}
