//! One gate takes the place of another under load, and no request is dropped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use keepgate_client::pool::PoolConfig;
use keepgate_gate::config::file;
use keepgate_gate::{GateConfig, Listen};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::revoke::websocket_of;
use super::support::{
    Draft, Echo, PATIENCE, TestGate, connect, echo_websocket, eventually, get, serve,
};
use super::upstreams::{h2, h2_get};

/// Plain answers, gRPC calls that take a moment, and WebSockets that echo.
async fn upstream() -> Echo {
    serve(|mut request: Request<Incoming>| async move {
        if request.headers().contains_key("upgrade") {
            let mut response = Response::new(Either::Left(Full::<Bytes>::default()));
            echo_websocket(&mut request, &mut response);
            return response;
        }
        let is_grpc =
            request.headers().get("content-type").is_some_and(|t| t == "application/grpc");
        let _ = request.into_body().collect().await;
        if !is_grpc {
            return Response::new(Either::Left(Full::from("fine")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from("message"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut response = Response::new(Either::Right(body));
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        // Over HTTP/1.1 they are sent only where they were announced.
        response.headers_mut().insert("trailer", "grpc-status".parse().unwrap());
        response
    })
    .await
}

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("keepgate-takeover-{}-{name}", std::process::id()))
}

/// What callers saw.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    answered: AtomicUsize,
    /// Connections that callers were asked to leave.
    moved: AtomicUsize,
}

/// Requests on kept connections, one after the other, until it is over. A caller that is told to go
/// opens another connection; anything else that is no answer is a request that was dropped.
async fn http1_caller(addr: SocketAddr, method: &str, seen: Arc<Seen>) -> Result<(), String> {
    let request = format!(
        "{method} /orders HTTP/1.1\r\nHost: a.example\r\nx-user: alice\r\nContent-Length: 0\r\n\r\n"
    );
    let mut stream = connect(addr).await;
    while !seen.over.load(Ordering::SeqCst) {
        stream.write_all(request.as_bytes()).await.map_err(|e| format!("{method}: {e}"))?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"fine") {
            let mut chunk = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await;
            let n = read.map_err(|e| e.to_string())?.map_err(|e| format!("{method}: {e}"))?;
            let so_far = String::from_utf8_lossy(&answer);
            if n == 0 {
                return Err(format!("{method}: closed after `{so_far}`"));
            }
            answer.extend_from_slice(&chunk[..n]);
        }
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        if !answer.starts_with("http/1.1 200") {
            return Err(answer);
        }
        seen.answered.fetch_add(1, Ordering::SeqCst);
        if answer.contains("\r\nconnection: close") {
            seen.moved.fetch_add(1, Ordering::SeqCst);
            stream = connect(addr).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// The same over HTTP/2. A request that comes back unsent, or that the gate says it did not take, was not
/// dropped.
async fn http2_caller(addr: SocketAddr, is_grpc: bool, seen: Arc<Seen>) -> Result<(), String> {
    let mut sender = h2(addr).await;
    while !seen.over.load(Ordering::SeqCst) {
        if sender.ready().await.is_err() {
            seen.moved.fetch_add(1, Ordering::SeqCst);
            sender = h2(addr).await;
            continue;
        }
        let mut request = h2_get(addr, "/orders").body(Full::<Bytes>::default()).unwrap();
        if is_grpc {
            let grpc = "application/grpc".parse().unwrap();
            request.headers_mut().insert("content-type", grpc);
            request.headers_mut().insert("te", "trailers".parse().unwrap());
        }
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => match error.take_message() {
                Some(_) => continue,
                None => {
                    let error = format!("{:?}", error.into_error());
                    // Its stream is above the last one of the GOAWAY: the gate did nothing with it,
                    // and says so (RFC 9113 section 6.8). Clients send it again.
                    if !error.contains("GoAway(b\"\", NO_ERROR, Remote)") {
                        return Err(error);
                    }
                    continue;
                }
            },
        };
        if response.status() != 200 {
            return Err(response.status().to_string());
        }
        let body = response.into_body().collect().await.map_err(|e| format!("{e:?}"))?;
        if is_grpc && body.trailers().is_none_or(|all| all["grpc-status"] != "0") {
            return Err(format!("{:?}", body.trailers()));
        }
        seen.answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

async fn more(seen: &Seen, requests: usize) {
    let before = seen.answered.load(Ordering::SeqCst);
    eventually("callers are answered", async || {
        seen.answered.load(Ordering::SeqCst) >= before + requests
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_under_load_drops_no_request() {
    let upstream = upstream().await;
    let path = socket("load");
    let settings = |config: &mut GateConfig| {
        config.takeover = Some(path.clone());
        config.bounds.drain = Duration::from_secs(60);
    };
    let first = TestGate::with(&Draft::orders(), &upstream.url, settings).await;
    let (addr, admin) = (first.addr, first.admin);
    let seen = Arc::new(Seen::default());
    let mut callers = JoinSet::new();
    for method in ["GET", "POST", "GET", "POST"] {
        callers.spawn(http1_caller(addr, method, Arc::clone(&seen)));
    }
    for is_grpc in [false, true, true] {
        callers.spawn(http2_caller(addr, is_grpc, Arc::clone(&seen)));
    }
    let mut ws = websocket_of(&first, "x-user", "alice").await;
    more(&seen, 200).await;

    let second = TestGate::with(&Draft::orders(), &upstream.url, |config| {
        settings(config);
        (config.listen, config.admin_listen) = (Listen::Tcp(addr), Some(admin));
        // Every listener has a worker, also where there are fewer.
        config.workers = 1;
    })
    .await;
    assert_eq!((second.addr, second.admin), (addr, admin));
    more(&seen, 200).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    while seen.moved.load(Ordering::SeqCst) < 7 {
        if let Some(ended) = callers.try_join_next() {
            panic!("a request was dropped: {:?}", ended.unwrap());
        }
        assert!(tokio::time::Instant::now() < end, "all callers move");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The WebSocket is the old gate's, and goes on there.
    ws.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut frame = [0; 4];
    tokio::time::timeout(PATIENCE, ws.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame, [0x81, 2, b'h', b'i']);
    let mut first = first;
    let ended = first.ended.take().unwrap();
    // Its caller goes: nothing is left there.
    drop(ws);
    tokio::time::timeout(PATIENCE, ended).await.expect("the old gate ends by itself").unwrap();
    more(&seen, 200).await;
    assert_eq!(get(admin, "/readyz", &[]).await.status, 200, "the new gate is asked");

    seen.over.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        assert_eq!(ended.unwrap(), Ok(()), "no request is dropped");
    }
    // And once more, by a gate with more workers.
    let third = TestGate::with(&Draft::orders(), &upstream.url, |config| {
        settings(config);
        (config.listen, config.admin_listen) = (Listen::Tcp(addr), Some(admin));
        config.workers = 4;
    })
    .await;
    let mut second = second;
    let ended = second.ended.take().unwrap();
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap();
    for _ in 0..20 {
        assert_eq!(get(addr, "/orders", &[("x-user", "alice")]).await.status, 200);
    }
    third.stop().await;
    std::fs::remove_file(&path).unwrap();
}

/// Established connections of this host to a URL's port.
fn connections_to(url: &str) -> usize {
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    let (end, established) = (format!(":{port:04X}"), "01");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2].ends_with(&end) && row[3] == established).count()
}

/// Sites and upstreams come and go under callers of every sort, who notice nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_load_drops_no_request() {
    let (one, two) = (upstream().await, upstream().await);
    let file = |url: &str, more: &str| {
        let text = format!(
            "[upstream.u]\naddresses = \"{url}\"\n\
             [[site]]\nservice = \"orders\"\nupstream = \"u\"\n{more}"
        );
        file::read(&text, std::path::Path::new("/"), &PoolConfig::default()).unwrap()
    };
    let mut config = GateConfig::default();
    let gate = TestGate::with(&Draft::orders(), "", |config_of_gate| {
        let read = file(&one.url, "");
        config_of_gate.service = String::new();
        (config_of_gate.sites, config_of_gate.upstreams) = (read.sites, read.upstreams);
        config = config_of_gate.clone();
    })
    .await;
    let seen = Arc::new(Seen::default());
    let mut callers = JoinSet::new();
    for method in ["GET", "POST"] {
        callers.spawn(http1_caller(gate.addr, method, Arc::clone(&seen)));
    }
    for is_grpc in [false, true] {
        callers.spawn(http2_caller(gate.addr, is_grpc, Arc::clone(&seen)));
    }
    let mut ws = websocket_of(&gate, "x-user", "alice").await;
    for round in 0..10 {
        let url = if round % 2 == 0 { &two.url } else { &one.url };
        let read = file(url, &format!("body_bytes = {}\n", 1_000 + round));
        (config.sites, config.upstreams) = (read.sites, read.upstreams);
        let said = gate.reloader.reconfigure(config.clone()).await;
        let what: Vec<_> = said.iter().map(|done| (&*done.what, &done.error)).collect();
        assert_eq!(what, [("sites and upstreams", &None)]);
        more(&seen, 50).await;
    }
    // The same again is nothing, and what cannot change is named.
    assert_eq!(gate.reloader.reconfigure(config.clone()).await, []);
    let said = gate.reloader.reconfigure(GateConfig { workers: 7, ..config.clone() }).await;
    assert!(matches!(&*said, [left] if left.what == "`workers`" && left.error.is_some()));
    // The WebSocket is on the upstream that it began with.
    ws.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut frame = [0; 4];
    tokio::time::timeout(PATIENCE, ws.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame, [0x81, 2, b'h', b'i']);
    seen.over.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        assert_eq!(ended.unwrap(), Ok(()), "no request is dropped");
    }
    assert_eq!(seen.moved.load(Ordering::SeqCst), 0, "nobody has to go");
    // The connections to upstreams that are gone are closed with their last exchange.
    drop(ws);
    eventually("no connection to it is left", async || connections_to(&two.url) == 0).await;
    gate.stop().await;
}

/// Who takes the listeners and goes away leaves the gate as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_does_not_get_ready_takes_no_place() {
    let upstream = upstream().await;
    let path = socket("gone");
    let gate = TestGate::with(&Draft::orders(), &upstream.url, |config| {
        config.takeover = Some(path.clone());
    })
    .await;
    eventually("it can be asked", async || path.exists()).await;
    for _ in 0..2 {
        #[expect(clippy::disallowed_methods, reason = "the test is the other gate")]
        let mut asking = tokio::net::UnixStream::connect(&path).await.unwrap();
        let mut hello = [0; 20];
        tokio::time::timeout(PATIENCE, asking.read_exact(&mut hello)).await.unwrap().unwrap();
        assert_eq!(&hello, b"keepgate takeover 1\n");
        drop(asking);
        for _ in 0..10 {
            assert_eq!(get(gate.addr, "/orders", &[("x-user", "alice")]).await.status, 200);
        }
        assert_eq!(get(gate.admin, "/readyz", &[]).await.status, 200);
    }
    gate.stop().await;
    std::fs::remove_file(&path).unwrap();
}
