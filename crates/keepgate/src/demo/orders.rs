//! The demo's upstream: orders over HTTP/1.1, in memory.
//!
//! It knows nothing of permissions: whoever reaches it may do anything, which is the point of a
//! gate before it. It says who asked, as the gate tells it in `Keepgate-Principal`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time; the gate opens at most this many by default.
const MAX_CONNECTIONS: usize = 1_024;
/// Orders kept; more are refused.
const MAX_ORDERS: usize = 1_000;
/// Bytes of a request body.
const MAX_BODY_BYTES: usize = 16 << 10;
/// A new connection, or one between requests, must send a header within this time. Longer than
/// the gate keeps idle connections.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);

/// The running service; it ends when this is dropped.
pub(crate) struct Orders {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Orders {
    /// Listens on a loopback port of the kernel's choice.
    pub(crate) async fn start() -> anyhow::Result<Orders> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("binding a port for the demo's orders service")?;
        let addr = listener.local_addr().context("asking for the port of the orders service")?;
        let task = tokio::spawn(serve(listener, Arc::new(Mutex::new(Store::new()))));
        Ok(Orders { addr, task })
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, store: Arc<Mutex<Store>>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    connection(stream, store).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the orders service cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, store: Arc<Mutex<Store>>) {
    let service = service_fn(move |request| {
        let store = Arc::clone(&store);
        async move { Ok::<_, Infallible>(respond(request, &store).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection of the orders service ended");
    }
}

async fn respond(request: Request<Incoming>, store: &Mutex<Store>) -> Response<Full<Bytes>> {
    let principal = request.headers().get("keepgate-principal");
    let principal = principal.and_then(|p| p.to_str().ok()).unwrap_or("nobody").to_owned();
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let id = path.strip_prefix("/orders/").and_then(|id| id.parse::<u64>().ok());
    let locked = || store.lock().unwrap_or_else(PoisonError::into_inner);
    match (&head.method, path, id) {
        (&Method::GET, "/orders", _) => answer(StatusCode::OK, &locked().all()),
        (&Method::POST, "/orders", _) => {
            let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
                return answer(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "error": "too large" }));
            };
            let Ok(body) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
                return answer(StatusCode::BAD_REQUEST, &json!({ "error": "no JSON" }));
            };
            let item = body.get("item").and_then(Value::as_str).unwrap_or("something");
            match locked().add(item, &principal) {
                Some((id, order)) => {
                    let mut response = answer(StatusCode::CREATED, &order);
                    if let Ok(place) = HeaderValue::from_str(&format!("/orders/{id}")) {
                        response.headers_mut().insert(LOCATION, place);
                    }
                    response
                }
                None => {
                    answer(StatusCode::INSUFFICIENT_STORAGE, &json!({ "error": "too many orders" }))
                }
            }
        }
        (&Method::GET, _, Some(id)) => match locked().orders.get(&id) {
            Some(order) => answer(StatusCode::OK, order),
            None => answer(StatusCode::NOT_FOUND, &json!({ "error": "no such order" })),
        },
        (&Method::DELETE, _, Some(id)) => match locked().orders.remove(&id) {
            Some(_) => {
                let mut response = Response::new(Full::new(Bytes::new()));
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            None => answer(StatusCode::NOT_FOUND, &json!({ "error": "no such order" })),
        },
        _ => answer(StatusCode::NOT_FOUND, &json!({ "error": "nothing here" })),
    }
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(format!("{body}\n").into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

struct Store {
    orders: BTreeMap<u64, Value>,
    next: u64,
}

impl Store {
    fn new() -> Store {
        let mut store = Store { orders: BTreeMap::new(), next: 1 };
        store.add("two pounds of tea", "the demo");
        store.add("a kettle", "the demo");
        store
    }

    fn all(&self) -> Value {
        json!({ "orders": self.orders.values().collect::<Vec<_>>() })
    }

    fn add(&mut self, item: &str, by: &str) -> Option<(u64, Value)> {
        if self.orders.len() >= MAX_ORDERS {
            return None;
        }
        let id = self.next;
        self.next += 1;
        let order = json!({ "id": id, "item": item, "by": by });
        self.orders.insert(id, order.clone());
        Some((id, order))
    }
}
