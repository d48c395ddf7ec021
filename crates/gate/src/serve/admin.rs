//! The admin listener: `/metrics`, `/top`, `/ports`, `/healthz`, `/readyz`. Apart from callers, and read only.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use keepgate_limit::top::{MAX_TOLD, TopAnswer};
use keepgate_observe::{Dialect, Page, Sort};
use keepgate_serve::{Place, Places, PlacesConfig};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

use super::front::Front;
use super::life::Life;
use super::listen::ListenError;
use super::upstream;
use crate::observe::metrics::{self, WorkerMetrics};
use crate::observe::records;
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

/// What the listener shows.
pub(crate) struct View {
    front: Arc<Front>,
    workers: Arc<[Arc<WorkerMetrics>]>,
}

impl Admin {
    pub(crate) fn bind(
        addr: SocketAddr,
        front: Arc<Front>,
        workers: Arc<[Arc<WorkerMetrics>]>,
        inherited: Option<std::net::TcpListener>,
    ) -> Result<Admin, ListenError> {
        let bind = || -> io::Result<(TcpListener, SocketAddr)> {
            let listener = match inherited {
                Some(listener) => listener,
                None => std::net::TcpListener::bind(addr)?,
            };
            listener.set_nonblocking(true)?;
            let addr = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, addr))
        };
        let (listener, addr) = bind().map_err(|source| ListenError::Tcp { addr, source })?;
        Ok(Admin { listener, addr, view: Arc::new(View::new(front, workers)) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A copy of its listener, to be passed on.
    pub(crate) fn copy(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
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
    pub(crate) fn new(front: Arc<Front>, workers: Arc<[Arc<WorkerMetrics>]>) -> View {
        View { front, workers }
    }

    fn services(&self) -> &[Arc<Tables>] {
        &self.front.common.services
    }

    /// The services that a request's `?service=NAME` means; without one, all.
    fn asked(&self, query: Option<&str>) -> Result<&[Arc<Tables>], Response<Full<Bytes>>> {
        let services = self.services();
        let Some(name) = query.and_then(|query| query.strip_prefix("service=")) else {
            return Ok(services);
        };
        match services.iter().position(|tables| tables.service == name) {
            Some(place) => Ok(services.get(place..=place).unwrap_or_default()),
            None => {
                let names: Vec<&str> = services.iter().map(|t| t.service.as_str()).collect();
                let line =
                    format!("this gate does not have that service; try {}\n", names.join(", "));
                Err(text(StatusCode::NOT_FOUND, line))
            }
        }
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
        let query = request.uri().query();
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.asked(query).map_or_else(|refusal| refusal, |of| self.ready(of)),
            "/metrics" => {
                let accept = request.headers().get_all(ACCEPT).iter();
                let dialect = Dialect::asked(accept.filter_map(|value| value.to_str().ok()));
                let mut response = text(StatusCode::OK, self.metrics(dialect));
                let kind = HeaderValue::from_static(dialect.content_type());
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/ports" => json(
                StatusCode::OK,
                &self.front.ports.answer(&self.front.common.live.load().backends),
            ),
            "/top" => self.asked(query).map_or_else(|refusal| refusal, |of| self.top(of)),
            _ => {
                let line = "try /metrics, /top, /ports, /healthz or /readyz\n".to_owned();
                text(StatusCode::NOT_FOUND, line)
            }
        }
    }

    /// Ready once one of the services is, and as long as the center is one that can be followed. A
    /// center that is away is no reason: deciding goes on. Nor is one service of several that is not
    /// there: the others would go down with it.
    fn ready(&self, services: &[Arc<Tables>]) -> Response<Full<Bytes>> {
        let mut services: Vec<ServiceReady> =
            services.iter().map(|t| ServiceReady::of(t)).collect();
        let trouble = match self.front.life.is(Life::Leaving) {
            true => Some("the gate stops".to_owned()),
            false => self.services().first().and_then(|tables| tables.source.trouble()),
        };
        let ready = trouble.is_none() && services.iter().any(|service| service.missing.is_none());
        services.sort_by(|a, b| a.service.cmp(b.service));
        let center = self.services().first().and_then(|tables| tables.source.center());
        let body = Ready { ready, missing: trouble, center, services };
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json(status, &body)
    }

    /// Who is making the requests of one service, as JSON.
    fn top(&self, services: &[Arc<Tables>]) -> Response<Full<Bytes>> {
        let [tables] = services else {
            let names: Vec<&str> = services.iter().map(|t| t.service.as_str()).collect();
            let line = format!("name a service: /top?service=NAME, of {}\n", names.join(", "));
            return text(StatusCode::BAD_REQUEST, line);
        };
        let limiting = &tables.limiting;
        let (now, last) = (limiting.now(), limiting.last());
        let mut report = limiting.top.report(now, MAX_TOLD, last.as_ref().map(|l| &*l.limits));
        report.unheard = self.front.common.dropped.peers();
        let body = TopAnswer {
            service: tables.service.clone(),
            now_unix_ms: keepgate_observe::unix_ms(),
            gates: None,
            report: Some(report),
        };
        json(StatusCode::OK, &body)
    }

    pub(crate) fn metrics(&self, dialect: Dialect) -> String {
        let mut page = Page::written("keepgate_gate_", dialect);
        metrics::render(&self.workers, &mut page);
        let help = "Whether limits are in force that are not the service's.";
        let broken = self.services().iter().any(|tables| tables.limiting.is_broken());
        page.value(Sort::Gauge, "limits_broken", help, u8::from(broken));
        let help = "Spans, log lines and points of metrics that no OTLP receiver took in time.";
        let mut series = page.metric(Sort::Counter, "telemetry_dropped_total", help);
        for (signal, count) in self.front.common.settings.lost.counts() {
            series.line(&[("signal", signal)], count);
        }
        self.each_service(&mut page);
        self.places(&mut page);
        self.replica(&mut page);
        let live = self.front.common.live.load();
        upstream::metrics(&live.backends, &mut page);
        self.front.ports.metrics(&live.backends, &mut page);
        if let Some(acme) = &self.front.acme {
            acme.metrics(&mut page);
        }
        if let Some(records) = &self.front.common.records {
            records::render(&records.log.stats(), &mut page);
        }
        if let Some(tables) = self.services().first() {
            tables.source.metrics(&mut page);
        }
        page.finish()
    }

    fn each_service(&self, page: &mut Page) {
        let names: Vec<&str> = self.services().iter().map(|t| t.service.as_str()).collect();
        metrics::services(&self.workers, &names, page);
        let ready: Vec<ServiceReady> =
            self.services().iter().map(|tables| ServiceReady::of(tables)).collect();
        let help = "Whether the service can be decided about; a route may find the state too old.";
        let mut series = page.metric(Sort::Gauge, "service_ready", help);
        for service in &ready {
            series.line(&[("service", service.service)], u8::from(service.missing.is_none()));
        }
        let help = "Revision of the service's permissions in force; 0: none yet.";
        let mut series = page.metric(Sort::Gauge, "service_revision", help);
        for service in &ready {
            series.line(&[("service", service.service)], service.revision);
        }
        let help = "Time since the service's permissions were known to be current.";
        let mut series = page.metric(Sort::Gauge, "service_age_seconds", help);
        for service in &ready {
            if let Some(age) = service.age {
                let age = format_args!("{:.3}", age.as_secs_f64());
                series.line(&[("service", service.service)], age);
            }
        }
        let help = "Whether limits are in force that are not this service's.";
        let mut series = page.metric(Sort::Gauge, "service_limits_broken", help);
        for tables in self.services() {
            let broken = u8::from(tables.limiting.is_broken());
            series.line(&[("service", &tables.service)], broken);
        }
    }

    fn places(&self, page: &mut Page) {
        let places = &self.front.places;
        let counts = places.counts();
        let open = self.front.ongoing.iter().map(|list| list.len()).sum::<usize>();
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
        let Some(tables) = self.services().first() else { return };
        let revision = match tables.source.peek(None) {
            Peek::New(dated) => dated.version.0.0,
            _ => 0,
        };
        let help = "Revision of the permissions in force; 0: none yet.";
        page.value(Sort::Gauge, "replica_revision", help, revision);
        if let Some(age) = tables.source.age() {
            let help = "Time since the permissions were known to be current.";
            let age = format_args!("{:.3}", age.as_secs_f64());
            page.value(Sort::Gauge, "replica_age_seconds", help, age);
        }
    }
}

fn gauge(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// The body of `/readyz`.
#[derive(Serialize)]
struct Ready<'s> {
    ready: bool,
    /// What is missing for all services; none: nothing.
    missing: Option<String>,
    /// The center that is followed; none: there is no connection.
    center: Option<String>,
    services: Vec<ServiceReady<'s>>,
}

/// How it stands with one service.
#[derive(Serialize)]
struct ServiceReady<'s> {
    service: &'s str,
    /// What is missing; none: nothing.
    missing: Option<&'static str>,
    revision: u64,
    /// None: nobody knows.
    #[serde(rename = "age_ms", serialize_with = "as_ms")]
    age: Option<Duration>,
    /// Issuers of tokens whose keys were never read: their tokens get 503. It is no reason not to be
    /// ready, since other callers are served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    issuers_without_keys: Vec<String>,
}

fn as_ms<S: serde::Serializer>(age: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)).serialize(to)
}

/// Why no service can be decided about yet; none: one can.
pub(crate) fn unready(front: &Front) -> Option<String> {
    let services = &front.common.services;
    if let Some(trouble) = services.first().and_then(|tables| tables.source.trouble()) {
        return Some(trouble);
    }
    let missing: Vec<&str> =
        services.iter().filter_map(|tables| ServiceReady::of(tables).missing).collect();
    (missing.len() == services.len()).then(|| missing.first().copied().unwrap_or_default().into())
}

impl ServiceReady<'_> {
    /// Ready once there is a replica that has the service and whose age is known.
    fn of(tables: &Tables) -> ServiceReady<'_> {
        let service = tables.service.as_str();
        let Peek::New(dated) = tables.source.peek_service(service, None) else {
            let missing = Some("there is no replica yet");
            return ServiceReady {
                service,
                missing,
                revision: 0,
                age: None,
                issuers_without_keys: Vec::new(),
            };
        };
        let (revision, age) = (dated.version.0.0, dated.currency.age());
        let view = dated.world.service(service);
        let issuers = view.iter().flat_map(|view| &view.settings().identify.jwt);
        let unread = issuers.filter(|jwt| tables.issuers.is_unread(&jwt.keys));
        let mut issuers_without_keys: Vec<String> = unread.map(|jwt| jwt.issuer.clone()).collect();
        issuers_without_keys.sort_unstable();
        issuers_without_keys.dedup();
        let missing = if view.is_none() {
            Some("the replica does not know the service")
        } else if age.is_none() {
            // As after the first snapshot, or a reboot without a center: every answer is 503.
            Some("it is not known how old the replica is; the center was not heard yet")
        } else {
            None
        };
        ServiceReady { service, missing, revision, age, issuers_without_keys }
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let Ok(json) = serde_json::to_string(body) else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the answer cannot be written\n".to_owned(),
        );
    };
    let mut response = text(status, json);
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
