//! The admin listener: `/metrics`, `/top`, `/healthz`, `/readyz`. Apart from callers, and read only.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use keepgate_limit::top::{MOST_TOLD, Report};
use keepgate_serve::{Place, Places, PlacesConfig};
use tokio::net::{TcpListener, TcpStream};

use crate::listen::ListenError;
use crate::metrics::{self, WorkerMetrics, head};
use crate::source::Peek;
use crate::worker::Common;

/// Connections at once. An idle one makes room for the next, so that whoever keeps some open does
/// not lock the others out.
const CONNECTIONS: usize = 32;
/// The descriptors that takes.
pub(crate) const PLACES: usize = CONNECTIONS + keepgate_serve::places::MAX_SLACK_OF_FEW;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a connection, whatever it does.
const LIFETIME: Duration = Duration::from_secs(600);
/// For the rest of an answer, on a connection that was told to close.
const LINGER: Duration = Duration::from_millis(200);

/// See the module.
pub(crate) struct Admin {
    listener: TcpListener,
    addr: SocketAddr,
    view: Arc<View>,
}

/// The answer of `/top`.
#[derive(serde::Serialize)]
struct Heaviest<'a> {
    service: &'a str,
    now_unix_ms: u64,
    #[serde(flatten)]
    report: Report,
}

struct View {
    common: Arc<Common>,
    workers: Arc<[Arc<WorkerMetrics>]>,
}

impl Admin {
    pub(crate) fn bind(
        addr: SocketAddr,
        common: Arc<Common>,
        workers: Arc<[Arc<WorkerMetrics>]>,
    ) -> Result<Admin, ListenError> {
        let bind = || -> io::Result<(TcpListener, SocketAddr)> {
            let listener = std::net::TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            let addr = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, addr))
        };
        let (listener, addr) = bind().map_err(|source| ListenError::Tcp { addr, source })?;
        Ok(Admin { listener, addr, view: Arc::new(View { common, workers }) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) async fn run(self) {
        let config = PlacesConfig { per_peer: Some(CONNECTIONS), ..PlacesConfig::new(CONNECTIONS) };
        let places = Places::new(config);
        loop {
            let Ok((stream, peer)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let now_ms = self.view.common.now_ms();
            // Where all are in use it is closed; who asks for metrics asks again.
            let Ok(place) = places.take(Some(peer.ip()), now_ms) else { continue };
            tokio::spawn(serve(Arc::clone(&self.view), stream, place));
        }
    }
}

async fn serve(view: Arc<View>, stream: TcpStream, place: Place) {
    let seat = Arc::clone(place.seat());
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (seat, asked) = (Arc::clone(&seat), Arc::clone(&asked));
        service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            seat.begin();
            let answer = view.answer(&request);
            seat.end(view.common.now_ms());
            async move { Ok::<_, Infallible>(answer) }
        })
    };
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // Whoever asked has gone, or has its answer.
        _ = tokio::time::timeout(LIFETIME, connection.as_mut()) => {}
        () = seat.told() => {
            // An answer that is being written gets a moment; where nothing was asked there is none.
            connection.as_mut().graceful_shutdown();
            if asked.load(Ordering::Relaxed) {
                let _ = tokio::time::timeout(LINGER, connection).await;
            }
        }
    }
    drop(place);
}

impl View {
    /// Whether the request was meant for this listener. A browser that was led here by a name of
    /// somebody else's (DNS rebinding) sends that name.
    fn is_own_host(&self, request: &Request<Incoming>) -> bool {
        let mut hosts = request.headers().get_all(HOST).iter();
        let host = match (request.uri().authority(), hosts.next(), hosts.next()) {
            (Some(authority), ..) => authority.as_str(),
            (None, Some(host), None) => host.to_str().unwrap_or_default(),
            _ => return false,
        };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        bare.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.common.settings.admin_hosts.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !self.is_own_host(request) {
            let line = "this host name is not the admin listener's; ask by IP address or \
                        `localhost`, or start the gate with --admin-host NAME\n";
            return text(StatusCode::MISDIRECTED_REQUEST, line.to_owned());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.ready(),
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics());
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                response
            }
            "/top" => self.top(),
            _ => {
                let line = "try /metrics, /top, /healthz or /readyz\n".to_owned();
                text(StatusCode::NOT_FOUND, line)
            }
        }
    }

    /// Ready once there is a replica that has the service, and as long as the center is one that it
    /// can follow. A center that is away is no reason: deciding goes on.
    fn ready(&self) -> Response<Full<Bytes>> {
        if let Some(trouble) = self.common.source.trouble() {
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n"));
        }
        match self.common.source.peek(None) {
            Peek::New(dated) if dated.world.service(&self.common.settings.service).is_some() => {
                text(StatusCode::OK, "ready\n".to_owned())
            }
            Peek::New(_) => {
                let line = "the replica does not know the service\n".to_owned();
                text(StatusCode::SERVICE_UNAVAILABLE, line)
            }
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "there is no replica yet\n".to_owned()),
        }
    }

    /// Who is making the requests, as JSON.
    fn top(&self) -> Response<Full<Bytes>> {
        let limiting = &self.common.limiting;
        let (now, last) = (limiting.now(), limiting.last());
        let mut report = limiting.top.report(now, MOST_TOLD, last.as_ref().map(|l| &*l.limits));
        report.unheard = self.common.dropped.peers();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = Heaviest {
            service: &self.common.settings.service,
            now_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            report,
        };
        let Ok(json) = serde_json::to_string(&body) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "no report\n".to_owned());
        };
        let mut response = text(StatusCode::OK, json);
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    fn limits(&self, out: &mut String) {
        let name = "keepgate_gate_limits_broken";
        head(out, name, "gauge", "Whether limits are in force that are not the service's.");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name} {}", u8::from(self.common.limiting.is_broken()));
    }

    fn metrics(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        metrics::render(&self.workers, &mut out);
        self.limits(&mut out);
        self.places(&mut out);
        self.replica(&mut out);
        self.upstream(&mut out);
        self.common.source.metrics(&mut out);
        out
    }

    fn places(&self, out: &mut String) {
        let places = &self.common.places;
        let counts = places.counts();
        let open = self.common.ongoing.iter().map(|list| list.len()).sum::<usize>();
        let gauge = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        for (name, sort, help, value) in [
            ("connections_limit", "gauge", "Connections of callers that there may be.", {
                gauge(places.bound())
            }),
            ("connections_limit_per_address", "gauge", "Of these, one address's.", {
                gauge(places.per_peer())
            }),
            ("connections_closed_idle_total", "counter", "Idle connections closed for others.", {
                counts.closed_idle
            }),
            (
                "connections_refused_address_total",
                "counter",
                "Connections closed at once because their address holds as many as it may.",
                counts.refused_peer,
            ),
            ("revision_waiters", "gauge", "Requests that wait for a revision.", {
                gauge(self.common.revision_waiters.load(Ordering::Relaxed))
            }),
            ("exchanges_open", "gauge", "Exchanges under way that may be decided again.", {
                gauge(open)
            }),
            (
                "exchanges_redecided_total",
                "counter",
                "Times an open exchange was decided again.",
                { self.common.redecided.value() },
            ),
        ] {
            let name = format!("keepgate_gate_{name}");
            head(out, &name, sort, help);
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name} {value}");
        }
    }

    fn replica(&self, out: &mut String) {
        let revision = match self.common.source.peek(None) {
            Peek::New(dated) => dated.version.0.0,
            _ => 0,
        };
        let name = "keepgate_gate_replica_revision";
        head(out, name, "gauge", "Revision of the permissions in force; 0: none yet.");
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "{name} {revision}");
        if let Some(age) = self.common.source.age() {
            let name = "keepgate_gate_replica_age_seconds";
            head(out, name, "gauge", "Time since the permissions were known to be current.");
            let _ = writeln!(out, "{name} {:.3}", age.as_secs_f64());
        }
    }

    fn upstream(&self, out: &mut String) {
        let stats = self.common.upstream.stats();
        let gauge = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        for (name, sort, help, value) in [
            ("opened_total", "counter", "Connections that were opened.", stats.opened),
            ("open_failures_total", "counter", "Connections that could not be opened.", {
                stats.open_failures
            }),
            (
                "ports_exhausted_total",
                "counter",
                "Of these, for want of a local port or descriptor.",
                stats.ports_exhausted,
            ),
            ("requests_total", "counter", "Requests put on a connection.", stats.requests),
            ("retries_total", "counter", "Requests sent a second time.", stats.retries),
            ("queued_total", "counter", "Requests that waited for a connection.", stats.queued),
            ("queue_full_total", "counter", "Requests refused by a full queue.", stats.queue_full),
            (
                "queue_timeouts_total",
                "counter",
                "Requests that waited for a connection in vain.",
                stats.queue_timeouts,
            ),
            ("connections_open", "gauge", "Sockets, with those being opened.", gauge(stats.open)),
            ("connections_idle", "gauge", "Connections that are idle.", gauge(stats.idle)),
            ("connections_limit", "gauge", "Sockets that there may be.", gauge(stats.limit)),
            ("queue_waiting", "gauge", "Requests that wait for a connection.", {
                gauge(stats.waiting)
            }),
        ] {
            let name = format!("keepgate_gate_upstream_{name}");
            head(out, &name, sort, help);
            let _ = writeln!(out, "{name} {value}");
        }
        let name = "keepgate_gate_upstream_requests_per_connection";
        head(out, name, "gauge", "Requests for each connection opened, so far.");
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = stats.requests as f64 / stats.opened.max(1) as f64;
        let _ = writeln!(out, "{name} {ratio:.3}");
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
