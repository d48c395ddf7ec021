//! The admin listener: `/metrics`, `/top`, `/healthz`, `/readyz`. Apart from callers, and read only.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use keepgate_limit::top::{MAX_TOLD, TopAnswer};
use keepgate_observe::{Page, Sort};
use keepgate_serve::{Place, Places, PlacesConfig};
use tokio::net::{TcpListener, TcpStream};

use super::front::Front;
use super::listen::ListenError;
use crate::observe::metrics::{self, WorkerMetrics};
use crate::service::source::Peek;
use crate::service::table::Tables;

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

struct View {
    front: Arc<Front>,
    workers: Arc<[Arc<WorkerMetrics>]>,
}

impl Admin {
    pub(crate) fn bind(
        addr: SocketAddr,
        front: Arc<Front>,
        workers: Arc<[Arc<WorkerMetrics>]>,
    ) -> Result<Admin, ListenError> {
        let bind = || -> io::Result<(TcpListener, SocketAddr)> {
            let listener = std::net::TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            let addr = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, addr))
        };
        let (listener, addr) = bind().map_err(|source| ListenError::Tcp { addr, source })?;
        Ok(Admin { listener, addr, view: Arc::new(View { front, workers }) })
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
            let now_ms = self.view.front.now_ms();
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
            seat.end(view.front.now_ms());
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
    fn tables(&self) -> &Tables {
        &self.front.common.tables
    }

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
            || self
                .front
                .common
                .settings
                .admin_hosts
                .iter()
                .any(|own| own.eq_ignore_ascii_case(name))
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
                let kind = HeaderValue::from_static(Page::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/top" => self.top(),
            _ => {
                let line = "try /metrics, /top, /healthz or /readyz\n".to_owned();
                text(StatusCode::NOT_FOUND, line)
            }
        }
    }

    /// Ready once there is a replica that has the service and whose age is known, and as long as the
    /// center is one that it can follow. A center that is away is no reason: deciding goes on.
    fn ready(&self) -> Response<Full<Bytes>> {
        if let Some(trouble) = self.tables().source.trouble() {
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n"));
        }
        let missing = match self.tables().source.peek(None) {
            Peek::New(dated) if dated.world.service(&self.tables().service).is_none() => {
                "the replica does not know the service\n"
            }
            // As after the first snapshot, or a reboot without a center: every answer is 503.
            Peek::New(dated) if dated.currency.age().is_none() => {
                "it is not known how old the replica is; the center was not heard yet\n"
            }
            Peek::New(_) => return text(StatusCode::OK, "ready\n".to_owned()),
            _ => "there is no replica yet\n",
        };
        text(StatusCode::SERVICE_UNAVAILABLE, missing.to_owned())
    }

    /// Who is making the requests, as JSON.
    fn top(&self) -> Response<Full<Bytes>> {
        let limiting = &self.tables().limiting;
        let (now, last) = (limiting.now(), limiting.last());
        let mut report = limiting.top.report(now, MAX_TOLD, last.as_ref().map(|l| &*l.limits));
        report.unheard = self.front.common.dropped.peers();
        let body = TopAnswer {
            service: self.tables().service.clone(),
            now_unix_ms: keepgate_observe::unix_ms(),
            gates: None,
            report: Some(report),
        };
        let Ok(json) = serde_json::to_string(&body) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "no report\n".to_owned());
        };
        let mut response = text(StatusCode::OK, json);
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    fn metrics(&self) -> String {
        let mut page = Page::new("keepgate_gate_");
        metrics::render(&self.workers, &mut page);
        let help = "Whether limits are in force that are not the service's.";
        let broken = u8::from(self.tables().limiting.is_broken());
        page.value(Sort::Gauge, "limits_broken", help, broken);
        self.places(&mut page);
        self.replica(&mut page);
        self.upstream(&mut page);
        self.tables().source.metrics(&mut page);
        page.finish()
    }

    fn places(&self, page: &mut Page) {
        let places = &self.front.places;
        let counts = places.counts();
        let open = self.front.ongoing.iter().map(|list| list.len()).sum::<usize>();
        let gauge = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        for (name, sort, help, value) in [
            ("connections_limit", Sort::Gauge, "Connections that callers may have.", {
                gauge(places.bound())
            }),
            ("connections_limit_per_address", Sort::Gauge, "Of these, for one address.", {
                gauge(places.per_peer())
            }),
            (
                "connections_closed_idle_total",
                Sort::Counter,
                "Idle connections closed for others.",
                { counts.closed_idle },
            ),
            (
                "connections_refused_address_total",
                Sort::Counter,
                "Connections closed at once because their address has too many.",
                counts.refused_peer,
            ),
            ("revision_waiters", Sort::Gauge, "Requests that wait for a revision.", {
                gauge(self.front.common.revision_waiters.load(Ordering::Relaxed))
            }),
            ("exchanges_open", Sort::Gauge, "Exchanges under way that may be decided again.", {
                gauge(open)
            }),
            (
                "exchanges_redecided_total",
                Sort::Counter,
                "Times an open exchange was decided again.",
                { self.front.redecided.value() },
            ),
        ] {
            page.value(sort, name, help, value);
        }
    }

    fn replica(&self, page: &mut Page) {
        let revision = match self.tables().source.peek(None) {
            Peek::New(dated) => dated.version.0.0,
            _ => 0,
        };
        let help = "Revision of the permissions in force; 0: none yet.";
        page.value(Sort::Gauge, "replica_revision", help, revision);
        if let Some(age) = self.tables().source.age() {
            let help = "Time since the permissions were known to be current.";
            let age = format_args!("{:.3}", age.as_secs_f64());
            page.value(Sort::Gauge, "replica_age_seconds", help, age);
        }
    }

    fn upstream(&self, page: &mut Page) {
        let stats = self.front.common.upstream.stats();
        let gauge = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        for (name, sort, help, value) in [
            ("opened_total", Sort::Counter, "Connections that were opened.", stats.opened),
            ("open_failures_total", Sort::Counter, "Connections that could not be opened.", {
                stats.open_failures
            }),
            (
                "ports_exhausted_total",
                Sort::Counter,
                "Of these, because no local port or descriptor was free.",
                stats.ports_exhausted,
            ),
            ("requests_total", Sort::Counter, "Requests put on a connection.", stats.requests),
            ("retries_total", Sort::Counter, "Requests sent a second time.", stats.retries),
            ("queued_total", Sort::Counter, "Requests that waited for a connection.", stats.queued),
            (
                "queue_full_total",
                Sort::Counter,
                "Requests refused by a full queue.",
                stats.queue_full,
            ),
            (
                "queue_timeouts_total",
                Sort::Counter,
                "Requests that waited for a connection and got none in time.",
                stats.queue_timeouts,
            ),
            (
                "connections_open",
                Sort::Gauge,
                "Sockets, with those being opened.",
                gauge(stats.open),
            ),
            ("connections_idle", Sort::Gauge, "Connections that are idle.", gauge(stats.idle)),
            ("connections_limit", Sort::Gauge, "Sockets that are allowed.", gauge(stats.limit)),
            ("queue_waiting", Sort::Gauge, "Requests that wait for a connection.", {
                gauge(stats.waiting)
            }),
        ] {
            page.value(sort, &format!("upstream_{name}"), help, value);
        }
        let help = "Requests for each connection opened, so far.";
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = stats.requests as f64 / stats.opened.max(1) as f64;
        let ratio = format_args!("{ratio:.3}");
        page.value(Sort::Gauge, "upstream_requests_per_connection", help, ratio);
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
