//! An upstream that counts its connections and does as the path says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

#[derive(Default, Debug)]
pub struct Counts {
    pub accepted: AtomicUsize,
    pub open: AtomicUsize,
    pub most_open: AtomicUsize,
    pub requests: AtomicUsize,
}

impl Counts {
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
    pub fn most_open(&self) -> usize {
        self.most_open.load(Ordering::SeqCst)
    }
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

struct Open(Arc<Counts>);

impl Open {
    fn new(counts: &Arc<Counts>) -> Open {
        counts.accepted.fetch_add(1, Ordering::SeqCst);
        let now = counts.open.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most_open.fetch_max(now, Ordering::SeqCst);
        Open(counts.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

pub struct Server {
    pub addr: SocketAddr,
    pub counts: Arc<Counts>,
}

/// An upstream on 127.0.0.1 in a thread of its own, for as long as the process lives.
pub fn start(h2: Option<u32>) -> Server {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    let counts = Arc::new(Counts::default());
    let shared = counts.clone();
    in_thread(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream, shared.clone(), h2));
        }
    });
    Server { addr, counts }
}

pub fn start_unix(path: &std::path::Path) -> Arc<Counts> {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let counts = Arc::new(Counts::default());
    let shared = counts.clone();
    in_thread(async move {
        let listener = UnixListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(serve(stream, shared.clone(), None));
        }
    });
    counts
}

/// Runs a server's future in a thread (and so in this thread's namespace) of its own.
pub fn in_thread(future: impl Future<Output = ()> + Send + 'static) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future);
    });
}

/// A center that answers each request with the same recorded messages, and keeps the stream open.
pub fn recorded_center(messages: Vec<u8>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    let messages = Bytes::from(messages);
    in_thread(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let messages = messages.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                let said = futures_util::stream::iter([Ok::<_, Infallible>(messages.clone())]);
                let frames = said.chain(futures_util::stream::pending()).map_ok(Frame::data);
                let response = Response::builder()
                    .header("content-type", "application/grpc")
                    .body(StreamBody::new(frames))
                    .unwrap();
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    addr
}

async fn serve<S>(stream: S, counts: Arc<Counts>, h2: Option<u32>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let open = Arc::new(Open::new(&counts));
    let held = open.clone();
    let service = service_fn(move |request| answer(request, counts.clone(), held.clone()));
    let io = TokioIo::new(stream);
    if let Some(streams) = h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(streams)
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await;
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn text(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()).boxed_unsync())
}

async fn answer(
    mut request: Request<Incoming>,
    counts: Arc<Counts>,
    open: Arc<Open>,
) -> Result<Answer, Infallible> {
    counts.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            text("slow")
        }
        "/never" => std::future::pending().await,
        "/echo" => {
            let headers = request.headers().clone();
            let mut response = Response::new(
                request.into_body().map_err(|e| -> Infallible { panic!("{e}") }).boxed_unsync(),
            );
            for name in ["trailer", "host", "te"] {
                if let Some(value) = headers.get(name) {
                    response.headers_mut().insert(
                        http::HeaderName::from_bytes(format!("x-{name}").as_bytes()).unwrap(),
                        value.clone(),
                    );
                }
            }
            response
        }
        "/collect" => match request.into_body().collect().await {
            Ok(body) => text(body.to_bytes().len().to_string()),
            // The connection is broken; nobody will read this.
            Err(_) => text("broken"),
        },
        "/authority" => text(
            request
                .uri()
                .authority()
                .map(|authority| authority.to_string())
                .or_else(|| Some(request.headers().get("host")?.to_str().unwrap().to_owned()))
                .unwrap_or_default(),
        ),
        "/chunks" => {
            let frames = futures_util::stream::iter(0..100)
                .map(|n| Ok(Frame::data(Bytes::from(format!("{n:1000}")))));
            let mut response =
                Response::new(http_body_util::BodyExt::boxed_unsync(StreamBody::new(frames)));
            response.headers_mut().insert("x-kind", HeaderValue::from_static("chunks"));
            response
        }
        "/trailers" => {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [Ok(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures_util::stream::iter(frames));
            let mut response = Response::new(body.boxed_unsync());
            response.headers_mut().insert("trailer", HeaderValue::from_static("grpc-status"));
            response
        }
        "/stall" => {
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from("first")))]);
            let body = StreamBody::new(first.chain(futures_util::stream::pending()));
            Response::new(body.boxed_unsync())
        }
        "/close" => {
            let mut response = text("closing");
            response.headers_mut().insert("connection", HeaderValue::from_static("close"));
            response
        }
        "/keep-alive-1" => {
            let mut response = text("short");
            response.headers_mut().insert("keep-alive", HeaderValue::from_static("timeout=1"));
            response
        }
        "/empty" => {
            let mut response = text("");
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        "/upgrade" => {
            let on = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(on.await.unwrap());
                let mut buf = [0; 64];
                while let Ok(n @ 1..) = io.read(&mut buf).await {
                    io.write_all(&buf[..n]).await.unwrap();
                }
                drop(open);
            });
            let mut response = text("");
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            response.headers_mut().insert("upgrade", HeaderValue::from_static("echo"));
            response
        }
        _ => text(path),
    })
}
