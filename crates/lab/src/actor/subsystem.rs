//! The subsystem of the incident: it asks the center on every request, each time over a new
//! connection, and says 403 when it got no answer. Each remedy can be switched on alone.
//!
//! Counts: `asked` (questions to the center), `opened` (connections that came to be),
//! `eaddrnotavail`, `failed` (other failures to get an answer), `cached`, `limited`.
//! Latencies are of opening a connection, TLS included.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};

use super::Epoch;
use super::second::Recorder;
use super::wire::{self, Connection};

/// A permission pull that takes longer has failed.
const PULL_BOUND: Duration = Duration::from_secs(2);
/// Kept connections, where they are kept.
const POOL_SIZE: usize = 64;
/// Entries of the cache and of the limit's table; beyond that they start anew.
const TABLE_SIZE: usize = 100_000;

/// What the subsystem is like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubsystemSpec {
    /// Where callers come in.
    pub listen: SocketAddr,
    /// The center it asks; none: it trusts the gate before it.
    pub center: Option<CenterAccess>,
    /// Keep connections to the center.
    pub reuse: bool,
    /// Keep permissions this long, in seconds.
    pub cache_s: Option<f64>,
    /// Requests per second and client address; beyond that 429.
    pub limit_per_s: Option<f64>,
    /// How long it works on an answer, in milliseconds.
    pub work_ms: u64,
    /// When second 0 begins.
    pub epoch: Epoch,
    /// How many seconds to report.
    pub end_s: f64,
}

/// How to reach the center.
#[derive(Clone, Serialize, Deserialize)]
pub struct CenterAccess {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate (DER, as a list of bytes), trusted alone.
    pub certificate: Vec<u8>,
    /// A token of role pep.
    pub token: String,
}

impl std::fmt::Debug for CenterAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of logs.
        f.debug_struct("CenterAccess").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Serves until the report is over and then on, until killed.
pub(super) async fn play(spec: SubsystemSpec) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(spec.listen)
        .await
        .with_context(|| format!("listening on {}", spec.listen))?;
    let recorder = Arc::new(Recorder::new("subsystem", spec.epoch));
    let end_s = spec.end_s;
    let state = Arc::new(Subsystem::new(spec, Arc::clone(&recorder))?);
    tokio::spawn(async move { recorder.speak(end_s).await });
    loop {
        let (stream, peer) = listener.accept().await.context("accepting")?;
        stream.set_nodelay(true)?;
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(&request, peer.ip()).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // A caller that goes away is its own business.
            let _ = connection.await;
        });
    }
}

struct Subsystem {
    spec: SubsystemSpec,
    tls: Arc<rustls::ClientConfig>,
    recorder: Arc<Recorder>,
    idle: Mutex<Vec<Connection>>,
    cache: Mutex<HashMap<String, (bool, Instant)>>,
    buckets: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

impl Subsystem {
    fn new(spec: SubsystemSpec, recorder: Arc<Recorder>) -> anyhow::Result<Subsystem> {
        let mut roots = rustls::RootCertStore::empty();
        if let Some(center) = &spec.center {
            roots.add(center.certificate.clone().into()).context("the center's certificate")?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Subsystem {
            spec,
            tls: Arc::new(tls),
            recorder,
            idle: Mutex::default(),
            cache: Mutex::default(),
            buckets: Mutex::default(),
        })
    }

    async fn answer(
        &self,
        request: &Request<hyper::body::Incoming>,
        peer: IpAddr,
    ) -> Response<Full<Bytes>> {
        if !self.within_limit(peer) {
            self.recorder.count("limited");
            return say(StatusCode::TOO_MANY_REQUESTS, "limited");
        }
        let user = request.headers().get("x-user").and_then(|v| v.to_str().ok()).unwrap_or("");
        let allowed = match &self.spec.center {
            None => true,
            Some(center) => self.permitted(center, user, request.method().as_str()).await,
        };
        if self.spec.work_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.spec.work_ms)).await;
        }
        if allowed {
            say(StatusCode::OK, "an order")
        } else {
            say(StatusCode::FORBIDDEN, "forbidden")
        }
    }

    /// The incident's flaw is here: no answer counts as "no".
    async fn permitted(&self, center: &CenterAccess, user: &str, method: &str) -> bool {
        let key = format!("{user} {method}");
        if let Some(allowed) = self.cached(&key) {
            self.recorder.count("cached");
            return allowed;
        }
        self.recorder.count("asked");
        let pull = tokio::time::timeout(PULL_BOUND, self.pull(center, user, method)).await;
        match pull {
            Ok(Ok(allowed)) => {
                self.remember(key, allowed);
                allowed
            }
            Ok(Err(error)) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                self.recorder.count("eaddrnotavail");
                false
            }
            Ok(Err(_)) | Err(_) => {
                self.recorder.count("failed");
                false
            }
        }
    }

    async fn pull(&self, center: &CenterAccess, user: &str, method: &str) -> io::Result<bool> {
        let body = serde_json::json!({
            "subject": {"type": "user", "id": user},
            "action": {"name": method},
            "resource": {"type": "route", "id": "/orders/{id}"},
        });
        let body = body.to_string();
        let kept = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let began = Instant::now();
                let connection = wire::open(center.address, &self.tls).await?;
                self.recorder.latency(began.elapsed());
                self.recorder.count("opened");
                connection
            }
        };
        let path = "/access/v1/evaluation";
        let (status, answer) =
            wire::post(&mut connection, center.address, path, &center.token, body.as_bytes())
                .await?;
        if self.spec.reuse {
            if let Ok(mut idle) = self.idle.lock()
                && idle.len() < POOL_SIZE
            {
                idle.push(connection);
            }
        } else {
            tokio::spawn(wire::close(connection));
        }
        let answer: serde_json::Value = serde_json::from_slice(&answer)?;
        match answer.get("decision").and_then(serde_json::Value::as_bool) {
            Some(allowed) if status == 200 => Ok(allowed),
            _ => Err(io::Error::other(format!("the center answered {status}"))),
        }
    }

    fn cached(&self, key: &str) -> Option<bool> {
        let keep = Duration::from_secs_f64(self.spec.cache_s?);
        let cache = self.cache.lock().ok()?;
        cache.get(key).filter(|(_, at)| at.elapsed() < keep).map(|(allowed, _)| *allowed)
    }

    fn remember(&self, key: String, allowed: bool) {
        if self.spec.cache_s.is_some()
            && let Ok(mut cache) = self.cache.lock()
        {
            if cache.len() >= TABLE_SIZE {
                cache.clear();
            }
            cache.insert(key, (allowed, Instant::now()));
        }
    }

    /// A token bucket of one second's worth per address.
    fn within_limit(&self, peer: IpAddr) -> bool {
        let Some(rate) = self.spec.limit_per_s else { return true };
        let Ok(mut buckets) = self.buckets.lock() else { return false };
        if buckets.len() >= TABLE_SIZE {
            buckets.clear();
        }
        let now = Instant::now();
        let (tokens, at) = buckets.entry(peer).or_insert((rate.max(1.0), now));
        *tokens = (*tokens + now.duration_since(*at).as_secs_f64() * rate).min(rate.max(1.0));
        *at = now;
        let admitted = *tokens >= 1.0;
        if admitted {
            *tokens -= 1.0;
        }
        admitted
    }
}

fn say(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
