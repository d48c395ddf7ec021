//! The example that embeds a replica in an axum service, as it is.

use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use keepgate_client::dial::{Dialer, Target};
use keepgate_client::replica::{FollowConfig, Replica};
use keepgate_policy::Change;

use crate::center::{FakeCenter, service};

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

#[test]
fn a_service_decides_for_itself() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let center = FakeCenter::start();
        center.set_mute(true);
        let replica = Replica::follow(FollowConfig::new(center.url(), "test-token")).unwrap();
        let app = example::app(example::Orders {
            replica: replica.clone(),
            service: "orders".to_owned(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });

        assert_eq!(status(addr, None).await, (401, false));
        assert_eq!(status(addr, Some("alice")).await, (503, true));
        center.set_mute(false);
        let head = center.commit(service("orders").into_iter().map(Change::Put).collect());
        replica.wait_for(head, Duration::from_secs(30)).await.unwrap();
        while replica.age().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(status(addr, Some("alice")).await, (200, false));
        assert_eq!(status(addr, Some("bob")).await, (403, false));
    });
}
