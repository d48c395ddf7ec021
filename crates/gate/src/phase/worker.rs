//! What the requests of one worker share, and what those of all workers do.
//!
//! Workers share no contended memory on a request's way: counters, the compiled tables, the token
//! caches, the ids and the pointers to sites are each worker's own.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use keepgate_client::pool::Group;
use keepgate_observe::span::Tracer;
use keepgate_policy::Uid;
use tokio::sync::Notify;

use super::context::Context;
use crate::config::sites::{NoSite, SiteConfig, SiteMap, searched};
use crate::config::{Bounds, GateConfig};
use crate::exchange::ongoing::List;
use crate::identify::assertion::{Assertions, Keyring, Signer};
use crate::identify::cache::{Known, TokenCache};
use crate::message::body::CallerBody;
use crate::message::problem::{Kind, Problem};
use crate::message::request_id::RequestIds;
use crate::message::retry::Waits;
use crate::message::uploads::Uploads;
use crate::observe::dropped::{Dropped, shown};
use crate::observe::metrics::{ServiceMetrics, WorkerMetrics};
use crate::observe::records::{Recorder, Records};
use crate::observe::timings::SiteTimings;
use crate::observe::trace::tracer;
use crate::observe::warnings::UpstreamWarnings;
use crate::service::page_limits::PageLimits;
use crate::service::table::{Table, Tables};

/// What the requests of all workers share.
pub(crate) struct Common {
    pub(crate) settings: GateConfig,
    /// The services of the sites, each once.
    pub(crate) services: Box<[Arc<Tables>]>,
    /// What the gate's file says of sites and upstreams, as it is now.
    pub(crate) live: ArcSwap<Live>,
    /// Is told when `live` has changed.
    pub(crate) relived: Notify,
    pub(crate) dropped: Arc<Dropped>,
    /// Requests that wait for a revision.
    pub(crate) revision_waiters: AtomicUsize,
    /// The keys that sign what upstreams are told of callers.
    pub(crate) keyring: Keyring,
    /// The decision and access log; none: there is none.
    pub(crate) records: Option<Arc<Records>>,
    /// What the pages for callers are asked for.
    pub(crate) page_limits: PageLimits,
}

/// Sites and their upstreams. Another state of the file takes the place of all of it at once.
pub(crate) struct Live {
    /// What they were made from.
    pub(crate) config: GateConfig,
    pub(crate) backends: Box<[Arc<Backend>]>,
    pub(crate) sites: Box<[Arc<Site>]>,
    pub(crate) map: SiteMap,
}

/// An upstream, and what the requests to it share.
pub(crate) struct Backend {
    /// Its name in the configuration; empty: the only one.
    pub(crate) name: String,
    pub(crate) upstream: Group<CallerBody>,
    /// Request bodies in progress.
    pub(crate) uploads: Arc<Uploads>,
    /// How long a request waits for a connection.
    pub(crate) queue_timeout: Duration,
    /// It sees the caller's `Host`, else its own.
    pub(crate) keeps_host: bool,
    /// How many connections it may have, as the gate divides them.
    pub(crate) max_total: usize,
}

/// A site, with all that it needs.
pub(crate) struct Site {
    pub(crate) config: SiteConfig,
    /// Its place among the sites.
    pub(crate) number: usize,
    /// The gate's, with what the site sets for itself.
    pub(crate) bounds: Bounds,
    /// The whole path of its page for callers; none: it has none.
    pub(crate) page: Option<Box<str>>,
    /// The authorities whose certificates identify its callers; none: it does not ask for any.
    pub(crate) client_ca: Option<PathBuf>,
    /// The place of its service.
    pub(crate) service: usize,
    /// None: the gate only answers other proxies.
    pub(crate) backend: Option<Arc<Backend>>,
}

/// A site at one worker.
pub(crate) struct Entry {
    pub(crate) site: Arc<Site>,
    pub(crate) served: Arc<Served>,
    pub(crate) timings: Arc<SiteTimings>,
    /// The state of the file that it is of.
    pub(crate) live: Arc<Live>,
}

/// The sites of one state of the file at one worker, in their order.
struct Entries {
    live: Arc<Live>,
    each: Box<[Arc<Entry>]>,
}

impl Entries {
    fn new(live: Arc<Live>, served: &[Arc<Served>], metrics: &WorkerMetrics) -> Entries {
        let timings = metrics.timed(live.sites.iter().map(|site| site.config.label()));
        let entry = |(site, timings): (&Arc<Site>, Arc<SiteTimings>)| {
            let (site, served) = (Arc::clone(site), Arc::clone(served.get(site.service)?));
            Some(Arc::new(Entry { site, served, timings, live: Arc::clone(&live) }))
        };
        let each = live.sites.iter().zip(timings).filter_map(entry).collect();
        Entries { live, each }
    }
}

/// A service at one worker.
pub(crate) struct Served {
    pub(crate) tables: Arc<Tables>,
    /// Its place among the services.
    pub(crate) number: usize,
    pub(crate) metrics: Arc<ServiceMetrics>,
    table: Mutex<Option<Arc<Table>>>,
    /// Tokens that its issuers have signed; another service's issuers are not asked.
    tokens: Mutex<TokenCache>,
    assertions: Mutex<Assertions>,
}

impl Served {
    fn new(number: usize, tables: Arc<Tables>, metrics: Arc<ServiceMetrics>) -> Served {
        let (table, tokens, assertions) = (Mutex::new(None), Mutex::default(), Mutex::default());
        Served { tables, number, metrics, table, tokens, assertions }
    }

    /// The table of the world as it is now; compiled anew where the world has changed.
    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        let mut held = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        self.tables.renew(&mut held)
    }

    pub(crate) fn known_token(&self, state: u64, name: &[u8; 32], now: u64) -> Option<Known> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).find(state, name, now)
    }

    /// An assertion about a principal, and whether it was signed just now; none: it cannot be.
    pub(crate) fn assertion(
        &self,
        signer: &Signer,
        principal: &Arc<Uid>,
        now: u64,
    ) -> Option<(HeaderValue, bool)> {
        let mut assertions = self.assertions.lock().unwrap_or_else(PoisonError::into_inner);
        assertions.of(signer, principal, &self.tables.service, now)
    }

    pub(crate) fn keep_token(&self, state: u64, name: [u8; 32], known: Known) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).keep(state, name, known);
    }
}

/// What the requests of one worker share.
pub(crate) struct Worker {
    pub(crate) common: Arc<Common>,
    /// Its place among the workers.
    pub(crate) number: usize,
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// Its exchanges that are under way.
    pub(crate) ongoing: Arc<List>,
    pub(crate) request_ids: Arc<RequestIds>,
    pub(crate) warnings: UpstreamWarnings,
    /// How long callers are asked to wait.
    pub(crate) waits: Waits,
    pub(crate) tracer: Tracer,
    /// The decision and access log.
    pub(crate) recorder: Option<Recorder>,
    /// In the order of the services.
    served: Box<[Arc<Served>]>,
    entries: Mutex<Entries>,
    context: Mutex<Context>,
}

impl Worker {
    pub(crate) fn new(
        common: Arc<Common>,
        number: usize,
        metrics: Arc<WorkerMetrics>,
        ongoing: Arc<List>,
    ) -> Worker {
        let services = common.services.iter().zip(metrics.services.iter()).enumerate();
        let served: Box<[Arc<Served>]> = services
            .map(|(number, (tables, metrics))| {
                Arc::new(Served::new(number, Arc::clone(tables), Arc::clone(metrics)))
            })
            .collect();
        let entries = Mutex::new(Entries::new(common.live.load_full(), &served, &metrics));
        Worker {
            recorder: Recorder::of(common.records.as_ref(), number),
            common,
            number,
            metrics,
            ongoing,
            request_ids: Arc::new(RequestIds::new()),
            warnings: UpstreamWarnings::default(),
            waits: Waits::default(),
            tracer: tracer(),
            served,
            entries,
            context: Mutex::default(),
        }
    }

    /// The site of a host, in its one form, and a path as it came.
    pub(crate) fn entry(&self, host: &str, path: &str) -> Result<Arc<Entry>, Problem> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.common.live.load();
        if !Arc::ptr_eq(&entries.live, &live) {
            *entries = Entries::new(Arc::clone(&live), &self.served, &self.metrics);
        }
        let map = &entries.live.map;
        let found = if map.is_by_host() {
            map.find(host, "/")
        } else {
            let form = searched(path).map_err(|e| Problem::new(Kind::BadPath, e.to_string()))?;
            map.find(host, &form)
        };
        match found.map(|place| entries.each.get(place)) {
            Ok(Some(entry)) => Ok(Arc::clone(entry)),
            Ok(None) | Err(NoSite::Path) => {
                Err(Problem::new(Kind::NoRoute, "no site of the host has this path"))
            }
            Err(NoSite::Host) => {
                Err(Problem::new(Kind::Misdirected, "the host is not one of the gate's"))
            }
        }
    }

    /// The only service, if there is one alone: what has no site is told of it.
    pub(crate) fn only(&self) -> Option<&Arc<Served>> {
        let [only] = &*self.served else { return None };
        Some(only)
    }

    /// The services, in their order.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Served> {
        self.served.iter().map(Arc::as_ref)
    }

    /// The service of this name.
    pub(crate) fn service(&self, name: &str) -> Option<&Served> {
        self.services().find(|served| served.tables.service == name)
    }

    /// Lends the decision context's memory.
    pub(crate) fn with_context<T>(&self, with: impl FnOnce(&mut Context) -> T) -> T {
        with(&mut self.context.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another proxy does not say whose request it asks about: all count as one caller's.
    pub(crate) fn address_is_missing(&self, peer: Option<IpAddr>) {
        if self.common.dropped.record(self.number, peer) {
            let shown = shown(peer);
            tracing::warn!(
                peer = shown,
                "a proxy asks about requests without the address of who makes them: all of them \
                 count as one caller's; let it send X-Forwarded-For"
            );
        }
    }

    /// A peer that is no trusted proxy names callers.
    pub(crate) fn forwarding_was_dropped(&self, peer: Option<IpAddr>) {
        self.metrics.forwarding_dropped.add(1);
        if self.common.dropped.record(self.number, peer) {
            let shown = shown(peer);
            tracing::warn!(
                peer = shown,
                "headers that name callers' addresses are dropped: all requests of this peer count \
                 as one caller's; if it is a proxy in front, start the gate with --trusted-proxy \
                 {shown}"
            );
        }
    }
}
