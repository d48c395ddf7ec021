//! The pool's rules, each against a real server, counted at the server and in the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use keepgate_client::dial::{Dialer, Target};
use keepgate_client::pool::{Pool, PoolConfig, PooledBody, Protocol, Upstream, UpstreamId};

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
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let (upstream, left) = (upstream.clone(), left.clone());
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
