//! What a worker needs of one version of the world, compiled once and read by every request.
//!
//! INVARIANT: settings, routes, keys and policies that a request sees are of one revision; a
//! request takes its table once and keeps it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keepgate_limit::rules::{NamedPlan, Rule};
use keepgate_policy::host::HostPattern;
use keepgate_policy::identify::{
    AddressRange, ClientCertificate, Identify, JwtIssuer, is_everybody,
};
use keepgate_policy::model::KeyBody;
use keepgate_policy::route::Route;
use keepgate_policy::router::Router;
use keepgate_policy::service::{Authzen, OnTokenExpiry, ServiceSettings, Unmatched};
use keepgate_policy::validate::MIN_MAX_AGE_MS;
use keepgate_policy::world::{Reads, ServiceView};
use keepgate_policy::{Resolved, Uid, World};

use http::header::AUTHORIZATION;

use super::cors::CorsRules;
use super::known::{Known, Sides};
use super::limits::{InForce, Limiting};
use super::methods::Methods;
use super::source::{Currency, Dated, DecisionSource, Peek, Version};
use crate::identify::introspection::{Introspector, Introspectors};
use crate::identify::issuers::{IssuerKeys, Issuers};
use crate::message::headers::Regard;
use crate::message::path::PathRules;

/// Where tables come from; shared by all workers.
pub(crate) struct Tables {
    /// The service's name.
    pub(crate) service: String,
    pub(crate) source: Arc<dyn DecisionSource>,
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) introspectors: Arc<Introspectors>,
    pub(crate) limiting: Limiting,
    /// The operator's word that a trusted header's peers may be everybody.
    pub(crate) trust_everybody: bool,
    /// A site of the service asks callers for certificates.
    pub(crate) asks_for_certificates: AtomicBool,
    /// It was said that a trusted header's peers are everybody.
    pub(crate) said_everybody: AtomicBool,
}

impl Tables {
    /// The table of the world as it is now; compiled anew where the world is another than that of
    /// `held`, which is replaced by it.
    pub(crate) fn renew(&self, held: &mut Option<Arc<Table>>) -> Option<Arc<Table>> {
        match self.source.peek_service(&self.service, held.as_ref().map(|table| table.version)) {
            Peek::Same => {}
            Peek::Nothing => *held = None,
            Peek::New(dated) => {
                let table = Table::compile(dated, held.as_deref(), self);
                *held = Some(Arc::new(table));
            }
        }
        held.clone()
    }
}

/// A JWT issuer and its keys.
pub(crate) struct Issuer {
    pub(crate) settings: JwtIssuer,
    pub(crate) keys: Arc<IssuerKeys>,
}

/// A trusted header, ready for use.
pub(crate) struct Believed {
    pub(crate) header: http::HeaderName,
    pub(crate) peers: Vec<AddressRange>,
    pub(crate) principal_type: String,
    /// Its peers are everybody, and the gate's operator did not say that this is meant: it is
    /// believed from nobody.
    pub(crate) is_refused: bool,
}

/// The ways to identify a caller, ready for use.
pub(crate) struct Ways {
    pub(crate) issuers: Vec<Issuer>,
    /// Who knows the tokens that are of none of them.
    pub(crate) introspection: Option<Arc<Introspector>>,
    pub(crate) api_key: Option<http::HeaderName>,
    pub(crate) certificate: Option<ClientCertificate>,
    pub(crate) trusted: Option<Believed>,
    pub(crate) anonymous: Arc<Uid>,
    /// The longest token that is read.
    pub(crate) token_bytes: usize,
    /// Headers that carry claims to the upstream: nobody else's pass.
    pub(crate) claimed: Vec<http::HeaderName>,
    /// `WWW-Authenticate` of a 401.
    pub(crate) challenge: http::HeaderValue,
}

/// See the module.
pub(crate) struct Table {
    pub(crate) world: World,
    pub(crate) version: Version,
    /// How old `world` is, and not the newest one: a request that waits grows old with its world.
    currency: Arc<dyn Currency>,
    /// Grants or memberships end: decisions ask for the time.
    pub(crate) depends_on_time: bool,
    /// What the policies read, once somebody has asked.
    reads: OnceLock<Arc<Reads>>,
    pub(crate) service: Option<Arc<Service>>,
    known: Known,
}

/// The service's part; shared with the next table as long as nothing of it changes.
pub(crate) struct Service {
    settings: Arc<ServiceSettings>,
    routes: Arc<[Route]>,
    pub(crate) router: Router,
    pub(crate) ways: Arc<Ways>,
    pub(crate) limits: Arc<InForce>,
    /// What `limits` is of.
    rules: Arc<[Rule]>,
    plans: Arc<[NamedPlan]>,
    /// The hosts that it answers for; empty: any.
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) methods: Methods,
    pub(crate) paths: PathRules,
    pub(crate) regard: Arc<Regard>,
    pub(crate) forward_unmatched: bool,
    pub(crate) max_age_ms: u64,
    /// None: the gate's.
    pub(crate) answer_timeout: Option<Duration>,
    /// None: the gate's.
    pub(crate) answer_idle: Option<Duration>,
    /// None: the gate's.
    pub(crate) body_bytes: Option<u64>,
    /// An open exchange ends when its credential expires.
    pub(crate) closes_on_expiry: bool,
    /// The upstream gets an assertion about each caller.
    pub(crate) asserts: bool,
    /// None: what pages of other origins may do is the upstream's business.
    pub(crate) cors: Option<CorsRules>,
}

impl Table {
    /// Compiles a world. `previous` lends what did not change.
    fn compile(dated: Dated, previous: Option<&Table>, tables: &Tables) -> Table {
        let Dated { world, version, currency } = dated;
        let service = world.service(&tables.service).and_then(|view| {
            let before = previous.and_then(|table| table.service.as_ref());
            if let Some(before) = before
                && Arc::ptr_eq(&before.routes, view.routes())
                && before.settings == *view.settings()
                && Arc::ptr_eq(&before.rules, view.rules())
                && Arc::ptr_eq(&before.plans, view.plans())
            {
                return Some(Arc::clone(before));
            }
            Service::compile(&view, before, tables).map(Arc::new)
        });
        let depends_on_time = world.depends_on_time(&tables.service);
        let reads = match previous {
            Some(previous) if world.decides_as(&previous.world, &tables.service) => {
                previous.reads.clone()
            }
            _ => OnceLock::new(),
        };
        let routes = service.as_ref().map_or(0, |service| service.routes.len());
        let known = Known::new(&world, &tables.service, routes);
        Table { world, version, currency, depends_on_time, reads, service, known }
    }

    /// What the policies of its service read of a request.
    pub(crate) fn reads(&self, service: &str) -> Arc<Reads> {
        Arc::clone(self.reads.get_or_init(|| Arc::new(self.world.reads(service))))
    }

    /// What is known of this principal and these roles of it; none: it is looked up.
    pub(crate) fn principal(&self, uid: &Uid, roles: &[Uid]) -> Option<Arc<Resolved>> {
        self.known.principal(uid, roles)
    }

    /// What is known of a route's action and resource.
    pub(crate) fn route(&self, index: usize) -> Option<&Sides> {
        self.known.route(index, &self.world, &self.service.as_ref()?.router)
    }

    /// How long ago this world was last known to be current; none: nobody knows.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.currency.age()
    }

    /// The API key with this prefix in a service of this world.
    pub(crate) fn key(&self, service: &str, prefix: &str) -> Option<&KeyBody> {
        self.world.service(service)?.key(prefix)
    }
}

impl Service {
    /// Whether it decides AuthZEN requests that name no service.
    pub(crate) fn authzen(&self) -> Authzen {
        self.settings.authzen
    }

    /// How callers are identified, as the service says it.
    pub(crate) fn identify(&self) -> &Identify {
        &self.settings.identify
    }

    fn compile(
        view: &ServiceView<'_>,
        before: Option<&Arc<Service>>,
        tables: &Tables,
    ) -> Option<Service> {
        let (settings, routes) = (view.settings(), view.routes());
        let router = match before {
            Some(before)
                if Arc::ptr_eq(&before.routes, routes)
                    && before.router.fold() == settings.paths_fold =>
            {
                before.router.clone()
            }
            _ => match Router::folding(Arc::clone(routes), settings.paths_fold) {
                Ok(router) => router,
                Err(error) => {
                    // The center validates before it commits; this is a defect somewhere.
                    tracing::error!(error = %error, "the routes of the service cannot be used");
                    return None;
                }
            },
        };
        let ways = match before {
            Some(before) if before.settings.identify == settings.identify => {
                Arc::clone(&before.ways)
            }
            _ => {
                tables.issuers.touch();
                Arc::new(Ways::new(settings, tables))
            }
        };
        warn_of_strict_age(settings, routes, before);
        Some(Service {
            settings: Arc::clone(settings),
            routes: Arc::clone(routes),
            router,
            limits: tables.limiting.of(view)?,
            rules: Arc::clone(view.rules()),
            plans: Arc::clone(view.plans()),
            hosts: settings.hosts.clone(),
            methods: Methods::of(routes),
            paths: PathRules::of(settings),
            regard: Arc::new(Regard {
                believed: ways.believed(),
                kept: settings.keep_headers.clone(),
                claimed: ways.claimed.clone(),
            }),
            forward_unmatched: settings.unmatched == Unmatched::Forward,
            max_age_ms: settings.max_age_ms,
            answer_timeout: settings.answer_timeout_ms.map(Duration::from_millis),
            answer_idle: settings.answer_idle_ms.map(Duration::from_millis),
            body_bytes: settings.body_bytes,
            closes_on_expiry: settings.on_token_expiry == OnTokenExpiry::Close,
            asserts: settings.assertion,
            cors: settings.cors.as_ref().map(CorsRules::new),
            ways,
        })
    }
}

/// Says once, as long as it does not change, that a bound is one that no healthy gate can keep.
fn warn_of_strict_age(settings: &ServiceSettings, routes: &[Route], before: Option<&Arc<Service>>) {
    let strictest = |settings: &ServiceSettings, routes: &[Route]| {
        let routes = routes.iter().filter_map(|route| route.max_age_ms);
        routes.chain([settings.max_age_ms]).min().filter(|ms| *ms < MIN_MAX_AGE_MS)
    };
    let Some(max_age_ms) = strictest(settings, routes) else { return };
    if before.and_then(|before| strictest(&before.settings, &before.routes)) != Some(max_age_ms) {
        tracing::warn!(
            service = settings.name,
            max_age_ms,
            at_least_ms = MIN_MAX_AGE_MS,
            "`max_age` is below what a gate can keep; expect 503 `stale`, and set a higher one"
        );
    }
}

/// Whether the trusted header's peers are everybody without the operator's word for it; warns of
/// that once.
fn is_refused(settings: &ServiceSettings, tables: &Tables) -> bool {
    let trusted = settings.identify.trusted_header.as_ref();
    let is_refused = !tables.trust_everybody && trusted.is_some_and(|way| is_everybody(&way.peers));
    if is_refused && !tables.said_everybody.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            service = settings.name,
            "the `peers` of the trusted header include every address, so any caller could claim \
             any identity: requests with it get 503; name the proxies in front, or start the \
             gate with --trust-everybody if nobody else can connect"
        );
    }
    is_refused
}

impl Ways {
    /// Whether bearer tokens identify callers.
    pub(crate) fn takes_tokens(&self) -> bool {
        !self.issuers.is_empty() || self.introspection.is_some()
    }

    /// The headers that identify callers.
    pub(crate) fn believed(&self) -> Vec<http::HeaderName> {
        let authorization =
            (self.takes_tokens() || self.api_key.is_some()).then_some(AUTHORIZATION);
        let trusted = self.trusted.as_ref().map(|way| way.header.clone());
        authorization.into_iter().chain(self.api_key.clone()).chain(trusted).collect()
    }

    fn new(settings: &ServiceSettings, tables: &Tables) -> Ways {
        let identify = &settings.identify;
        if identify.client_certificate.is_some()
            && !tables.asks_for_certificates.load(Ordering::Relaxed)
        {
            tracing::warn!(
                service = settings.name,
                "the service identifies callers by client certificate, and this gate asks for none: \
                 callers without another credential get 503; start the gate with --client-ca FILE"
            );
        }
        let header = |name: &str| http::HeaderName::from_bytes(name.as_bytes()).ok();
        let challenge = format!("Bearer realm=\"{}\"", settings.name);
        Ways {
            issuers: identify
                .jwt
                .iter()
                .map(|settings| Issuer {
                    settings: settings.clone(),
                    keys: tables.issuers.keys(&settings.keys),
                })
                .collect(),
            introspection: {
                let server = identify.introspection.first();
                server.map(|settings| tables.introspectors.of(settings))
            },
            api_key: identify.api_key.as_ref().and_then(|way| header(&way.header)),
            certificate: identify.client_certificate.clone(),
            trusted: identify.trusted_header.as_ref().and_then(|way| {
                Some(Believed {
                    header: header(&way.header)?,
                    peers: way.peers.clone(),
                    principal_type: way.principal_type.clone(),
                    is_refused: is_refused(settings, tables),
                })
            }),
            anonymous: Arc::new(identify.anonymous.principal.clone()),
            token_bytes: usize::try_from(identify.token_bytes.unwrap_or(Identify::TOKEN_BYTES))
                .unwrap_or_default(),
            claimed: {
                let named = identify.issuers().flat_map(|(_, uses)| uses.claim_headers.keys());
                named.filter_map(|name| header(name)).collect()
            },
            challenge: http::HeaderValue::try_from(challenge)
                .unwrap_or_else(|_| http::HeaderValue::from_static("Bearer")),
        }
    }
}
