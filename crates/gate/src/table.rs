//! What a worker needs of one version of the world, compiled once and read by every request.
//!
//! INVARIANT: settings, routes, keys and policies that a request sees are of one revision; a
//! request takes its table once and keeps it.

use std::sync::Arc;

use keepgate_policy::identify::{AddressRange, JwtIssuer};
use keepgate_policy::route::Route;
use keepgate_policy::router::Router;
use keepgate_policy::service::{Paths, ServiceSettings, Unmatched};
use keepgate_policy::{Uid, World};

use crate::identify::issuers::{IssuerKeys, Issuers};
use crate::path::PathPolicy;
use crate::source::Version;

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
}

/// The ways to identify a caller, ready for use.
pub(crate) struct Ways {
    pub(crate) issuers: Vec<Issuer>,
    pub(crate) api_key: Option<http::HeaderName>,
    pub(crate) trusted: Option<Believed>,
    pub(crate) anonymous: Arc<Uid>,
    /// `WWW-Authenticate` of a 401.
    pub(crate) challenge: http::HeaderValue,
}

/// See the module.
pub(crate) struct Table {
    pub(crate) world: World,
    pub(crate) version: Version,
    pub(crate) service: Option<Arc<Service>>,
}

/// The service's part; shared with the next table as long as nothing of it changes.
pub(crate) struct Service {
    settings: Arc<ServiceSettings>,
    routes: Arc<[Route]>,
    pub(crate) router: Router,
    pub(crate) ways: Arc<Ways>,
    pub(crate) path_policy: PathPolicy,
    pub(crate) forward_unmatched: bool,
    pub(crate) max_age_ms: u64,
}

impl Table {
    /// Compiles a world. `previous` lends what did not change.
    pub(crate) fn compile(
        world: World,
        name: &str,
        previous: Option<&Table>,
        issuers: &Issuers,
    ) -> Table {
        let version = (world.revision(), world.digest());
        let service = world.service(name).and_then(|view| {
            let (settings, routes) = (view.settings(), view.routes());
            let before = previous.and_then(|table| table.service.as_ref());
            if let Some(before) = before
                && Arc::ptr_eq(&before.routes, routes)
                && before.settings == *settings
            {
                return Some(Arc::clone(before));
            }
            Service::compile(settings, routes, before, issuers).map(Arc::new)
        });
        Table { world, version, service }
    }
}

impl Service {
    fn compile(
        settings: &Arc<ServiceSettings>,
        routes: &Arc<[Route]>,
        before: Option<&Arc<Service>>,
        issuers: &Issuers,
    ) -> Option<Service> {
        let router = match before {
            Some(before) if Arc::ptr_eq(&before.routes, routes) => before.router.clone(),
            _ => match Router::new(Arc::clone(routes)) {
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
                issuers.touch();
                Arc::new(Ways::new(settings, issuers))
            }
        };
        Some(Service {
            settings: Arc::clone(settings),
            routes: Arc::clone(routes),
            router,
            ways,
            path_policy: match settings.paths {
                Paths::Normalize => PathPolicy::Normalise,
                Paths::Refuse => PathPolicy::Refuse,
            },
            forward_unmatched: settings.unmatched == Unmatched::Forward,
            max_age_ms: settings.max_age_ms,
        })
    }
}

impl Ways {
    fn new(settings: &ServiceSettings, issuers: &Issuers) -> Ways {
        let identify = &settings.identify;
        if identify.client_certificate.is_some() {
            tracing::warn!(
                service = settings.name,
                "this gate does not identify callers by client certificate; such callers get 401"
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
                    keys: issuers.keys(&settings.keys),
                })
                .collect(),
            api_key: identify.api_key.as_ref().and_then(|way| header(&way.header)),
            trusted: identify.trusted_header.as_ref().and_then(|way| {
                Some(Believed {
                    header: header(&way.header)?,
                    peers: way.peers.clone(),
                    principal_type: way.principal_type.clone(),
                })
            }),
            anonymous: Arc::new(identify.anonymous.principal.clone()),
            challenge: http::HeaderValue::try_from(challenge)
                .unwrap_or_else(|_| http::HeaderValue::from_static("Bearer")),
        }
    }
}
