//! The stages of a request: what is known of it, by type.
//!
//! ```text
//! Arrived > Accepted > Routed > Identified > Admitted > Allowed > Sent
//! ```
//!
//! Each stage holds the one before it and what its phase found out, so that a phase has what it
//! needs without asking whether it is there. An exchange that goes no further is [`Refused`], with
//! the stage at which it ended.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderValue, Version};
use keepgate_limit::{AddressKey, LimitVerdict, Permit};
use keepgate_policy::world::Prepared;
use keepgate_policy::{PolicyName, Uid};

use super::wanted::Wanted;
use super::worker::{Entry, Served, Worker};
use crate::identify::claims::Said;
use crate::message::fate::BodyFate;
use crate::message::headers::{self, Asked, X_REQUEST_ID};
use crate::message::problem::Problem;
use crate::observe::hook::Hook;
use crate::observe::phase::Phase;
use crate::observe::timings::SiteTimings;
use crate::observe::trace::Trace;
use crate::service::table::{Service, Table};
use crate::wire::peer::Peer;

/// A request whose head is here; nothing is known of it yet.
pub(crate) struct Arrived {
    pub(crate) parts: Parts,
    pub(crate) worker: Arc<Worker>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) started: Instant,
    pub(crate) request_id: HeaderValue,
    /// The caller speaks gRPC, and is answered in it.
    pub(crate) grpc: bool,
    /// Who passes it on.
    pub(crate) carrier: Carrier,
    /// The trace that it belongs to.
    pub(crate) trace: Trace,
}

/// Who passes a request on once it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// The gate.
    Gate,
    /// The proxy that asks by this hook.
    Proxy(Hook),
}

impl Carrier {
    /// The path that is decided on must be the one that came: nobody puts the one in the place of
    /// the other.
    pub(crate) fn keeps_path(self) -> bool {
        matches!(self, Carrier::Proxy(hook) if !hook.takes_path())
    }

    /// A browser's preflight can be answered in its place.
    pub(crate) fn answers(self) -> bool {
        match self {
            Carrier::Gate => true,
            Carrier::Proxy(hook) => hook.takes_answers(),
        }
    }
}

/// A request that is one, and from whom.
pub(crate) struct Accepted {
    /// Boxed: a stage is moved from phase to phase, and this is much of it.
    pub(crate) arrived: Box<Arrived>,
    /// The site that it is for.
    pub(crate) entry: Arc<Entry>,
    /// The host asked for, as [`keepgate_policy::host`] writes it.
    pub(crate) host: Box<str>,
    /// The caller's address, behind trusted proxies; none over a Unix socket.
    pub(crate) client: Option<IpAddr>,
    /// The peer is a trusted proxy.
    pub(crate) trusted: bool,
    pub(crate) asked: Asked,
    pub(crate) websocket: bool,
    /// The revision that it asks for.
    pub(crate) min_revision: Option<Wanted>,
    /// What was charged before a wait for that revision; none: it did not wait.
    pub(crate) paid: Option<Box<Paid>>,
}

/// What the limits said before a wait, which counts after it too.
pub(crate) struct Paid {
    /// None: there was no service yet whose limits could have been asked.
    pub(crate) by_address: Option<LimitVerdict>,
    /// Who was charged; none: nobody was identified.
    pub(crate) by_principal: Option<(Charged, LimitVerdict)>,
}

/// Whom the limits by principal have counted.
#[derive(PartialEq, Eq)]
pub(crate) struct Charged {
    principal: Arc<Uid>,
    key: Option<ShownKey>,
}

/// What routing has found.
pub(crate) struct Found {
    /// The version of the world that the request belongs to from here on.
    pub(crate) table: Arc<Table>,
    /// The table's service.
    pub(crate) service: Arc<Service>,
    /// Place of the route in the service's list; none: unmatched, and forwarded all the same.
    pub(crate) index: Option<usize>,
    /// The path that is decided on, where it is not the one that is forwarded.
    pub(crate) path: Option<Box<str>>,
    /// The whole path that another proxy is to forward in place of the one that came.
    pub(crate) replaced: Option<Box<str>>,
    pub(crate) action: Uid,
    pub(crate) resource: Uid,
    pub(crate) anonymous: bool,
    pub(crate) max_age_ms: u64,
    /// None: the gate's.
    pub(crate) answer_timeout: Option<Duration>,
    /// None: the gate's.
    pub(crate) answer_idle: Option<Duration>,
    /// How many bytes the body may have.
    pub(crate) body_bytes: u64,
    /// What a browser asks for a page of another origin.
    pub(crate) cross: Cross,
}

/// What a request has to do with pages of other origins; nothing where the service has no `[cors]`.
#[derive(Default)]
pub(crate) struct Cross {
    /// The request is a preflight: the route is that of the method that it asks about.
    pub(crate) preflight: bool,
    /// Kept beside the headers, which become the upstream's.
    pub(crate) origin: Option<HeaderValue>,
}

/// Where routing has led a request.
pub(crate) struct Way {
    pub(crate) accepted: Accepted,
    pub(crate) found: Result<Found, Missed>,
}

/// Why routing has found nothing.
pub(crate) struct Missed {
    /// The service; none: there is none yet.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) problem: Problem,
}

/// A request without a route, counted by its address all the same.
pub(crate) struct Unrouted {
    pub(crate) accepted: Accepted,
    /// None: there is none yet.
    pub(crate) service: Option<Arc<Service>>,
    /// None: there were no limits yet.
    pub(crate) by_address: Option<LimitVerdict>,
}

/// A request with a route, counted by its address.
pub(crate) struct Routed {
    pub(crate) accepted: Accepted,
    pub(crate) found: Found,
    /// None: it waited for a revision, and there were no limits before that.
    pub(crate) by_address: Option<LimitVerdict>,
}

/// Who a caller is.
pub(crate) struct Identity {
    pub(crate) principal: Arc<Uid>,
    /// Its value for `Keepgate-Principal`.
    pub(crate) header: Option<HeaderValue>,
    /// Nobody in particular: the principal is the service's for anonymous callers.
    pub(crate) is_anonymous: bool,
    /// What showed it.
    pub(crate) by: By,
    /// The API key that was shown.
    pub(crate) key: Option<ShownKey>,
    /// When the credential that was shown expires; none: never, or there is none.
    pub(crate) until_unix_s: Option<u64>,
    /// What its token says beyond a name: roles, attributes, claims, headers.
    pub(crate) said: Option<Arc<Said>>,
}

/// What shows who a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Nothing,
    Jwt,
    Introspection,
    ApiKey,
    ClientCertificate,
    TrustedHeader,
}

impl By {
    /// Its name in a record.
    pub(crate) fn name(self) -> &'static str {
        match self {
            By::Nothing => "anonymous",
            By::Jwt => "jwt",
            By::Introspection => "introspection",
            By::ApiKey => "api_key",
            By::ClientCertificate => "client_certificate",
            By::TrustedHeader => "trusted_header",
        }
    }
}

/// An API key that holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ShownKey {
    pub(crate) prefix: String,
    /// Empty: none.
    pub(crate) plan: String,
}

/// A request whose caller is known.
pub(crate) struct Identified {
    pub(crate) routed: Routed,
    pub(crate) identity: Identity,
}

/// A request that is within all its limits.
pub(crate) struct Admitted {
    pub(crate) identified: Identified,
    pub(crate) by_principal: LimitVerdict,
    /// How it was decided. None: it was not (yet), or nobody records it.
    pub(crate) evidence: Option<Box<Evidence>>,
}

/// How a request was decided, for its record.
pub(crate) struct Evidence {
    /// How long it took, in nanoseconds.
    pub(crate) decide_ns: u64,
    /// The policies that determined it.
    pub(crate) policies: Vec<PolicyName>,
    /// What the policies read of it: members of a JSON object. None: too much.
    pub(crate) inputs: Option<String>,
}

/// Who answered a request that was sent, for its record; and what of its headers is in it.
pub(crate) struct Via {
    /// From when it was handed to the upstream's connections to the answer's head, in microseconds.
    pub(crate) upstream_us: u64,
    /// The address, and whether its connection had been used before; none: nobody answered.
    pub(crate) answered: Option<(String, bool)>,
    pub(crate) referer: Option<HeaderValue>,
    /// The path that came; it may be another one by now.
    pub(crate) path: Box<str>,
    /// None: it had no body.
    pub(crate) body: Option<Arc<BodyFate>>,
}

/// A request that the policies permit.
pub(crate) struct Allowed {
    pub(crate) admitted: Admitted,
}

/// A request that was given to the upstream, with its headers.
pub(crate) struct Sent {
    /// Its headers are the upstream's now.
    pub(crate) admitted: Admitted,
    pub(crate) user_agent: Option<HeaderValue>,
    /// None: nobody records it.
    pub(crate) via: Option<Box<Via>>,
}

/// An exchange that the gate answers itself, and how far it came.
pub(crate) struct Refused {
    /// The phase that refused it.
    pub(crate) phase: Phase,
    pub(crate) problem: Problem,
    pub(crate) ended: Ended,
}

/// The stage at which an exchange ended.
pub(crate) enum Ended {
    /// It was not accepted; the caller's address, as far as it was found out.
    Arrived(Box<Arrived>, Option<IpAddr>),
    Unrouted(Unrouted),
    Routed(Routed),
    /// It was over a limit by principal, which said this.
    Limited(Identified, LimitVerdict),
    Admitted(Admitted),
    Sent(Sent),
}

/// What is known of an exchange wherever it ended, for those who report it.
pub(crate) struct Facts<'e> {
    pub(crate) arrived: &'e Arrived,
    pub(crate) client: Option<IpAddr>,
    /// The service at its worker; none: the request has no site.
    pub(crate) served: Option<&'e Served>,
    /// The place of its site; none: it has none.
    pub(crate) site: Option<usize>,
    pub(crate) service: Option<&'e Arc<Service>>,
    pub(crate) found: Option<&'e Found>,
    pub(crate) identity: Option<&'e Identity>,
    pub(crate) user_agent: Option<&'e HeaderValue>,
    entry: Option<&'e Entry>,
    pub(crate) host: &'e str,
    pub(crate) evidence: Option<&'e Evidence>,
    pub(crate) via: Option<&'e Via>,
    by_address: Option<&'e LimitVerdict>,
    by_principal: Option<&'e LimitVerdict>,
}

impl Arrived {
    /// At its beginning.
    pub(crate) fn new(parts: Parts, worker: Arc<Worker>, peer: Arc<Peer>) -> Box<Arrived> {
        let request_id = worker.request_ids.of(parts.headers.get(X_REQUEST_ID));
        let grpc = parts.version == Version::HTTP_2 && headers::is_grpc(&parts.headers);
        let (carrier, started) = (Carrier::Gate, Instant::now());
        let tracing = worker.common.settings.tracing.as_ref();
        let trace = Trace::of(&parts.headers, tracing, &worker.tracer, started);
        Box::new(Arrived { parts, worker, peer, started, request_id, grpc, carrier, trace })
    }

    /// A request that another proxy describes and asks about. Whoever made it, the proxy is answered
    /// by HTTP.
    pub(crate) fn described(
        parts: Parts,
        worker: Arc<Worker>,
        peer: Arc<Peer>,
        hook: Hook,
    ) -> Box<Arrived> {
        let mut arrived = Arrived::new(parts, worker, peer);
        (arrived.grpc, arrived.carrier) = (false, Carrier::Proxy(hook));
        arrived
    }

    fn facts(&self, client: Option<IpAddr>) -> Facts<'_> {
        Facts {
            arrived: self,
            client,
            served: self.worker.only().map(Arc::as_ref),
            site: None,
            service: None,
            found: None,
            identity: None,
            user_agent: self.parts.headers.get(USER_AGENT),
            entry: None,
            host: "",
            evidence: None,
            via: None,
            by_address: None,
            by_principal: None,
        }
    }
}

impl Accepted {
    /// The caller's address, as limits and heavy hitters count it.
    pub(crate) fn address(&self) -> AddressKey {
        address(self.client)
    }

    /// The path of the page for callers, where this gate serves it.
    pub(crate) fn page(&self) -> Option<&str> {
        let page = self.entry.site.page.as_deref();
        page.filter(|_| self.arrived.carrier == Carrier::Gate)
    }

    fn facts(&self) -> Facts<'_> {
        let paid = self.paid.as_ref().and_then(|paid| paid.by_principal.as_ref());
        Facts {
            served: Some(&self.entry.served),
            site: Some(self.entry.site.number),
            entry: Some(&self.entry),
            host: &self.host,
            by_principal: paid.map(|(_, said)| said),
            ..self.arrived.facts(self.client)
        }
    }
}

impl Found {
    /// The route's path template; none: unmatched.
    pub(crate) fn template(&self) -> Option<&str> {
        let route = self.service.router.routes().get(self.index?)?;
        Some(&route.path)
    }
}

impl Unrouted {
    fn facts(&self) -> Facts<'_> {
        let (service, by_address) = (self.service.as_ref(), self.by_address.as_ref());
        Facts { service, by_address, ..self.accepted.facts() }
    }
}

impl Routed {
    pub(crate) fn identified(self, identity: Identity) -> Identified {
        Identified { routed: self, identity }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            service: Some(&self.found.service),
            found: Some(&self.found),
            by_address: self.by_address.as_ref(),
            ..self.accepted.facts()
        }
    }
}

impl Identity {
    /// Roles that it is in for this request alone.
    pub(crate) fn roles(&self) -> &[Uid] {
        self.said.as_ref().map_or(&[], |said| &said.roles)
    }

    /// Its claims and attributes, as decisions take them.
    pub(crate) fn prepared(&self) -> &Prepared {
        self.said.as_ref().map_or(Prepared::nothing(), |said| &said.prepared)
    }

    /// Type and id of the principal; none for an anonymous caller.
    pub(crate) fn known(&self) -> Option<(&str, &str)> {
        (!self.is_anonymous).then_some((&self.principal.kind, &self.principal.id))
    }

    /// Whom limits by principal count.
    pub(crate) fn charged(&self) -> Charged {
        Charged { principal: Arc::clone(&self.principal), key: self.key.clone() }
    }
}

impl Identified {
    fn facts(&self) -> Facts<'_> {
        Facts { identity: Some(&self.identity), ..self.routed.facts() }
    }
}

impl Admitted {
    pub(crate) fn arrived(&self) -> &Arrived {
        &self.identified.routed.accepted.arrived
    }

    pub(crate) fn arrived_mut(&mut self) -> &mut Arrived {
        &mut self.identified.routed.accepted.arrived
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.identified.routed.accepted.entry
    }

    pub(crate) fn found(&self) -> &Found {
        &self.identified.routed.found
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            by_principal: Some(&self.by_principal),
            evidence: self.evidence.as_deref(),
            ..self.identified.facts()
        }
    }

    /// Takes the caller's places among the requests under way; dropping them gives them back.
    pub(crate) fn take_permits(&mut self) -> Vec<Permit> {
        permits(self.identified.routed.by_address.as_mut(), Some(&mut self.by_principal))
    }
}

impl Sent {
    pub(crate) fn facts(&self) -> Facts<'_> {
        let (user_agent, via) = (self.user_agent.as_ref(), self.via.as_deref());
        Facts { user_agent, via, ..self.admitted.facts() }
    }

    /// As [`Admitted::take_permits`].
    pub(crate) fn take_permits(&mut self) -> Vec<Permit> {
        self.admitted.take_permits()
    }
}

impl Refused {
    /// Boxed: it is the rare case.
    #[cold]
    pub(crate) fn new(phase: Phase, problem: Problem, ended: Ended) -> Box<Refused> {
        Box::new(Refused { phase, problem, ended })
    }
}

impl Ended {
    pub(crate) fn facts(&self) -> Facts<'_> {
        match self {
            Ended::Arrived(arrived, client) => arrived.facts(*client),
            Ended::Unrouted(unrouted) => unrouted.facts(),
            Ended::Routed(routed) => routed.facts(),
            Ended::Limited(identified, said) => {
                Facts { by_principal: Some(said), ..identified.facts() }
            }
            Ended::Admitted(admitted) => admitted.facts(),
            Ended::Sent(sent) => sent.facts(),
        }
    }

    /// As [`Admitted::take_permits`].
    pub(crate) fn take_permits(&mut self) -> Vec<Permit> {
        match self {
            Ended::Arrived(..) => Vec::new(),
            Ended::Unrouted(Unrouted { accepted, by_address, .. })
            | Ended::Routed(Routed { accepted, by_address, .. }) => {
                let paid = accepted.paid.as_mut().and_then(|paid| paid.by_principal.as_mut());
                permits(by_address.as_mut(), paid.map(|(_, said)| said))
            }
            Ended::Limited(identified, said) => {
                permits(identified.routed.by_address.as_mut(), Some(said))
            }
            Ended::Admitted(admitted) => admitted.take_permits(),
            Ended::Sent(sent) => sent.take_permits(),
        }
    }
}

impl Facts<'_> {
    /// The caller's address, as limits and heavy hitters count it.
    pub(crate) fn address(&self) -> AddressKey {
        address(self.client)
    }

    /// The path of the page for callers, where this gate serves it.
    pub(crate) fn page(&self) -> Option<&str> {
        let page = self.entry?.site.page.as_deref();
        page.filter(|_| self.arrived.carrier == Carrier::Gate)
    }

    /// How long requests of its site take.
    pub(crate) fn timings(&self) -> &SiteTimings {
        self.entry.map_or(&self.arrived.worker.metrics.siteless, |entry| &entry.timings)
    }

    /// The name of its upstream; none: it has no name.
    pub(crate) fn upstream(&self) -> Option<&str> {
        let backend = self.entry?.site.backend.as_ref()?;
        Some(backend.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Passes on what the limits said, in the order of their phases.
    pub(crate) fn said<T>(&self, to: impl FnOnce(&[&LimitVerdict]) -> T) -> T {
        match (self.by_address, self.by_principal) {
            (Some(by_address), Some(by_principal)) => to(&[by_address, by_principal]),
            (Some(said), None) | (None, Some(said)) => to(&[said]),
            (None, None) => to(&[]),
        }
    }
}

fn address(client: Option<IpAddr>) -> AddressKey {
    client.map_or(AddressKey::Local, AddressKey::from)
}

fn permits(
    by_address: Option<&mut LimitVerdict>,
    by_principal: Option<&mut LimitVerdict>,
) -> Vec<Permit> {
    let mut permits = by_address.map(LimitVerdict::take_permits).unwrap_or_default();
    permits.extend(by_principal.map(LimitVerdict::take_permits).unwrap_or_default());
    permits
}
