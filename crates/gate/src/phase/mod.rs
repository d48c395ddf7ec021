//! The life of a request: one list of phases, one file each.
//!
//! ```text
//! accept > route > limit by address > identify > limit by principal > decide > forward > record
//! ```
//!
//! A phase reads and adds to the [`Exchange`], and either lets it go on or answers it. [`live`]
//! is the list; nothing else calls a phase.

pub(crate) mod accept;
pub(crate) mod decide;
pub(crate) mod forward;
pub(crate) mod identify;
pub(crate) mod limit_address;
pub(crate) mod limit_principal;
pub(crate) mod record;
pub(crate) mod revision;
pub(crate) mod route;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use keepgate_limit::{LimitVerdict, Permit};
use keepgate_policy::Uid;
use serde_json::Value;

use self::limit_address::Limited;
use crate::body::GateBody;
use crate::headers::Asked;
use crate::problem::Problem;
use crate::table::{Service, Table};
use crate::worker::{Peer, Worker};

/// The phases, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Accept,
    Route,
    LimitAddress,
    Identify,
    LimitPrincipal,
    Decide,
    Forward,
}

impl Phase {
    /// In order.
    pub(crate) const ALL: &'static [Phase] = &[
        Phase::Accept,
        Phase::Route,
        Phase::LimitAddress,
        Phase::Identify,
        Phase::LimitPrincipal,
        Phase::Decide,
        Phase::Forward,
    ];

    /// The metric label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Accept => "accept",
            Phase::Route => "route",
            Phase::LimitAddress => "limit_address",
            Phase::Identify => "identify",
            Phase::LimitPrincipal => "limit_principal",
            Phase::Decide => "decide",
            Phase::Forward => "forward",
        }
    }
}

/// How a phase ends.
pub(crate) enum PhaseVerdict {
    /// The next phase.
    Continue,
    /// The gate's own answer; the request goes no further. Boxed: it is the rare case.
    Answer(Box<Problem>),
}

impl From<Problem> for PhaseVerdict {
    fn from(problem: Problem) -> PhaseVerdict {
        PhaseVerdict::Answer(Box::new(problem))
    }
}

/// What the route phase found.
pub(crate) struct Routed {
    /// The service as it was when the request came.
    pub(crate) service: Arc<Service>,
    /// Place of the route in the service's list; none: unmatched, and forwarded all the same.
    pub(crate) index: Option<usize>,
    /// The path that is decided on, where it is not the one that is forwarded.
    pub(crate) path: Option<Box<str>>,
    pub(crate) action: Uid,
    pub(crate) resource: Uid,
    pub(crate) anonymous: bool,
    pub(crate) max_age_ms: u64,
    /// None: the gate's.
    pub(crate) answer_timeout: Option<Duration>,
    /// None: the gate's.
    pub(crate) answer_idle: Option<Duration>,
}

impl Routed {
    /// The route's path template; none: unmatched.
    pub(crate) fn template(&self) -> Option<&str> {
        let route = self.service.router.routes().get(self.index?)?;
        Some(&route.path)
    }
}

/// One request on its way.
pub(crate) struct Exchange {
    pub(crate) parts: Parts,
    pub(crate) body: Option<Incoming>,
    pub(crate) worker: Arc<Worker>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) started: Instant,
    /// The phase it is in.
    pub(crate) phase: Phase,
    pub(crate) request_id: HeaderValue,

    // Added by `accept`.
    /// The host asked for, as [`keepgate_policy::host`] writes it.
    pub(crate) host: Box<str>,
    /// The caller's address, behind trusted proxies; none over a Unix socket.
    pub(crate) client: Option<IpAddr>,
    /// The peer is a trusted proxy.
    pub(crate) trusted: bool,
    pub(crate) asked: Asked,
    pub(crate) websocket: bool,
    /// The caller speaks gRPC, and is answered in it.
    pub(crate) grpc: bool,
    pub(crate) min_revision: Option<revision::Wanted>,

    // Added by `route`.
    pub(crate) table: Option<Arc<Table>>,
    /// The service; there also where no route matched.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) routed: Option<Routed>,

    // Added by `identify`.
    pub(crate) principal: Option<Arc<Uid>>,
    /// Its value for `Keepgate-Principal`.
    pub(crate) principal_header: Option<HeaderValue>,
    /// Nobody in particular: the principal is the service's for anonymous callers.
    pub(crate) is_anonymous: bool,
    /// The prefix of the API key that was shown.
    pub(crate) api_key: Option<String>,
    /// The plan of the API key that was shown.
    pub(crate) plan: String,

    /// When the credential that was shown expires; none: never, or there is none.
    pub(crate) until_unix_s: Option<u64>,

    // Added by the limits.
    pub(crate) limited: Limited,

    // Added by `decide`.
    /// The context that was decided on.
    pub(crate) decided_on: BTreeMap<String, Value>,

    // Added by `forward`, which gives the headers away.
    pub(crate) user_agent: Option<HeaderValue>,
}

impl Exchange {
    /// At its beginning.
    pub(crate) fn new(
        request: Request<Incoming>,
        worker: Arc<Worker>,
        peer: Arc<Peer>,
    ) -> Exchange {
        let (parts, body) = request.into_parts();
        let request_id = worker.request_ids.of(parts.headers.get(crate::headers::X_REQUEST_ID));
        Exchange {
            parts,
            body: Some(body),
            worker,
            peer,
            started: Instant::now(),
            phase: Phase::Accept,
            request_id,
            host: Box::default(),
            client: None,
            trusted: false,
            asked: Asked::default(),
            websocket: false,
            grpc: false,
            min_revision: None,
            table: None,
            service: None,
            routed: None,
            principal: None,
            principal_header: None,
            is_anonymous: false,
            api_key: None,
            plan: String::new(),
            until_unix_s: None,
            limited: Limited::default(),
            decided_on: BTreeMap::new(),
            user_agent: None,
        }
    }

    /// Forgets what was found out about it since it was accepted, but for what the limits said.
    fn forget(&mut self) {
        (self.table, self.service, self.routed) = (None, None, None);
        (self.principal, self.principal_header, self.is_anonymous) = (None, None, false);
        (self.api_key, self.until_unix_s) = (None, None);
        self.plan.clear();
    }

    /// Type and id of the principal; none for an anonymous caller.
    pub(crate) fn known_principal(&self) -> Option<(&str, &str)> {
        let principal = self.principal.as_ref().filter(|_| !self.is_anonymous)?;
        Some((&principal.kind, &principal.id))
    }

    /// Takes the caller's places among the requests under way; dropping them gives them back.
    pub(crate) fn take_permits(&mut self) -> Vec<Permit> {
        let Limited { by_address, by_principal } = &mut self.limited;
        let mut permits = by_address.as_mut().map(LimitVerdict::take_permits).unwrap_or_default();
        permits.extend(by_principal.as_mut().map(LimitVerdict::take_permits).unwrap_or_default());
        permits
    }
}

/// Runs a phase; its answer, if any, ends the list.
macro_rules! phase {
    ($exchange:ident, $phase:ident, $run:expr) => {
        $exchange.phase = Phase::$phase;
        if let PhaseVerdict::Answer(problem) = $run {
            return Err(problem);
        }
    };
}

/// The list.
async fn phases(x: &mut Exchange) -> Result<Response<GateBody>, Box<Problem>> {
    phase!(x, Accept, accept::run(x));
    x.phase = Phase::Route;
    let behind = revision::Behind::of(x);
    let mut routed = route::run(x);
    // Who asks for routes that are not there is limited all the same.
    phase!(x, LimitAddress, limit_address::run(x));
    let mut charged = None;
    if let Some(behind) = behind {
        // Whoever waits is limited first, by whatever is known of it before the wait.
        if matches!(routed, PhaseVerdict::Continue) {
            x.phase = Phase::Identify;
            if let PhaseVerdict::Continue = identify::run(x).await {
                phase!(x, LimitPrincipal, limit_principal::run(x));
                charged = revision::Charged::of(x);
            }
        }
        phase!(x, Route, behind.wait(x).await);
        routed = route::run(x);
    }
    phase!(x, Route, routed);
    phase!(x, Identify, identify::run(x).await);
    if charged.is_none() || charged != revision::Charged::of(x) {
        phase!(x, LimitPrincipal, limit_principal::run(x));
    }
    phase!(x, Decide, decide::run(x));
    x.phase = Phase::Forward;
    forward::run(x).await
}

/// A request's whole life, from its head to its answer's head.
pub(crate) async fn live(mut x: Exchange) -> Response<GateBody> {
    let outcome = phases(&mut x).await;
    record::run(&mut x, outcome)
}
