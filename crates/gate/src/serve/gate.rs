//! A gate: bound early, run until told to stop.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use keepgate_client::dial::Dialer;
use keepgate_client::replica::{self, FollowConfig, Replica};
use keepgate_observe::{Counter, Dialect};
use keepgate_policy::identify::AddressRange;
use keepgate_serve::{Needs, Network, Places, PlacesConfig, Shares};
use tokio::sync::{Notify, oneshot};

use super::acme::Acme;
use super::admin::{self, Admin, View};
use super::check::check;
use super::failure::{RunError, StartError};
use super::front::{Door, Front};
use super::life::{Clock, Life};
use super::listen::{self, Listener};
use super::ports::{Ports, Purpose};
use super::reload::{Following, Reloader};
use super::takeover::{self, Inherited, Takeover};
use super::{anchors, assertions, doctor, follow, revoke, sites, thread, told, upstream};
use crate::config::GateConfig;
use crate::exchange::ongoing::List;
use crate::identify::assertion::Keyring;
use crate::identify::introspection::Introspectors;
use crate::identify::issuers::Issuers;
use crate::observe::dropped::Dropped;
use crate::observe::metrics::WorkerMetrics;
use crate::observe::records::Records;
use crate::observe::report;
use crate::phase::worker::{Common, Live, Worker};
use crate::service::limits::Limiting;
use crate::service::page_limits::PageLimits;
use crate::service::source::DecisionSource;
use crate::service::table::Tables;

/// Descriptors kept back for the connection to the center, and the one that replaces it.
const CENTER: usize = 4;
/// For logs, the data directory, certificates, key files.
const FILES: usize = 32;
/// For key sets that are fetched, and health checks.
const KEY_FETCHES: usize = 16;

/// For the last records to be written.
const RECORDS_CLOSE: Duration = Duration::from_secs(5);

/// How long another gate may take to let go of the data directory.
const LET_GO: Duration = Duration::from_secs(20);

/// See the module.
pub struct Gate {
    front: Arc<Front>,
    /// Each worker's.
    listeners: Vec<Vec<(Door, Listener)>>,
    addrs: Vec<SocketAddr>,
    check_addrs: Vec<SocketAddr>,
    admin: Option<Admin>,
    metrics: Arc<[Arc<WorkerMetrics>]>,
    takeover: Option<Takeover>,
    follows: Option<Following>,
    /// For upstreams that are made while it runs, and how many connections all may have.
    dialer: Dialer,
    share: usize,
}

impl Gate {
    /// Binds and follows the center. It answers 503 until the first snapshot is here. Must be
    /// called on a tokio runtime, as [`Gate::with_source`].
    pub async fn start(config: GateConfig) -> Result<Gate, StartError> {
        check(&config)?;
        let ports = Arc::new(Ports::new());
        let follow = follow::config(&config, &ports)?;
        let inherited = match &config.takeover {
            Some(path) => takeover::ask(path).await.map_err(StartError::Takeover)?,
            None => Inherited::default(),
        };
        let replica = followed(&follow, inherited.is_some()).await.map_err(follow::not_followed)?;
        if config.insecure_center {
            tracing::warn!(
                center = config.centers.join(", "),
                "--insecure-center: a center may be followed over plain HTTP: anyone on the network \
                 path can read the token and change the permissions"
            );
        }
        let source = Arc::new(replica.clone());
        let mut gate = Gate::with(config, source, inherited, ports).await?;
        gate.follows = Some(Following { replica, config: follow });
        Ok(gate)
    }

    /// Binds, and has `source` decide. Must be called on a tokio runtime, which becomes the
    /// control runtime: it fetches key sets and serves the admin listener.
    pub async fn with_source(
        config: GateConfig,
        source: Arc<dyn DecisionSource>,
    ) -> Result<Gate, StartError> {
        let inherited = match &config.takeover {
            Some(path) => takeover::ask(path).await.map_err(StartError::Takeover)?,
            None => Inherited::default(),
        };
        Gate::with(config, source, inherited, Arc::new(Ports::new())).await
    }

    async fn with(
        config: GateConfig,
        source: Arc<dyn DecisionSource>,
        mut inherited: Inherited,
        ports: Arc<Ports>,
    ) -> Result<Gate, StartError> {
        check(&config)?;
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let given = GateConfig { token: String::new(), ..config.clone() };
        let mut config = config;
        let sites = sites::of(&config);
        let services = sites::services(&sites);
        let shares = descriptors(&config, workers)?;
        config.bounds.max_connections = shares.connections;
        let dialer = ports.dialer(Purpose::Upstream).clone();
        let backends = sites::backends(&config, &dialer, shares.upstream, None)?;
        upstream::look_up(&backends).await;
        let (sites, map) = sites::made(&config, sites, &services, &backends)?;
        let acme = config
            .acme
            .as_ref()
            .map(|acme| Acme::open(acme, ports.dialer(Purpose::Certificates).clone()))
            .transpose()?;
        let tls = sites::tls(&config, acme.as_ref().map(Acme::issued))?.map(ArcSwap::from);
        let listens: Vec<_> =
            [&config.listen].into_iter().chain(&config.more_listen).cloned().collect();
        let listeners = listen::bind(&listens, config.unix_access, workers, &mut inherited)
            .map_err(StartError::Listen)?;
        let checks =
            listen::bind(&config.check_listen, config.unix_access, workers, &mut inherited)
                .map_err(StartError::Listen)?;
        let control = tokio::runtime::Handle::current();
        let workers = listeners.each.len();
        let (keys, access) = (config.keys.clone(), config.key_access.clone());
        let asking = ports.dialer(Purpose::Introspection).clone();
        let introspectors = Introspectors::new(control.clone(), asking, access.clone());
        let introspectors = Arc::new(introspectors);
        let issuers =
            Arc::new(Issuers::new(control, ports.dialer(Purpose::Keys).clone(), keys, access));
        let tables = services.into_iter().map(|service| {
            Arc::new(Tables {
                asks_for_certificates: AtomicBool::new(config.asks_for_certificates(&service)),
                service,
                source: Arc::clone(&source),
                issuers: Arc::clone(&issuers),
                introspectors: Arc::clone(&introspectors),
                limiting: Limiting::new(workers),
                trust_everybody: config.trust_everybody,
                said_everybody: AtomicBool::new(false),
            })
        });
        let services: Box<[Arc<Tables>]> = tables.collect();
        let metrics: Arc<[Arc<WorkerMetrics>]> =
            (0..workers).map(|_| Arc::new(WorkerMetrics::new(services.len()))).collect();
        let (places, check_places) = (places(&config), check_places(&config));
        if let Some(tracing) = &mut config.tracing {
            tracing.sampler.honors_callers = config.honors_sampled;
        }
        let settings = GateConfig { token: String::new(), ..config };
        let live = Live { config: given, backends: backends.into(), sites: sites.into(), map };
        let dir = settings.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || Keyring::open(dir.as_deref()));
        let keyring = opened.await.unwrap_or_else(|_| Keyring::open(None));
        let records = Records::open(&settings, workers).map_err(StartError::Records)?;
        let common = Arc::new(Common {
            keyring,
            records,
            settings,
            services,
            live: ArcSwap::from_pointee(live),
            relived: Notify::new(),
            dropped: Arc::new(Dropped::new(workers)),
            revision_waiters: AtomicUsize::new(0),
            page_limits: PageLimits::new(),
        });
        assertions::renew(&common);
        let admin_listen = common.settings.admin_listen;
        let list = |metrics: &Arc<WorkerMetrics>| Arc::new(List::new(Arc::clone(&metrics.cuts)));
        let front = Arc::new(Front {
            common,
            ports,
            acme,
            tls,
            began: Instant::now(),
            places,
            check_places,
            user: std::fs::metadata("/proc/self").ok().map(|own| own.uid()),
            told_stranger: AtomicBool::new(false),
            ongoing: metrics.iter().map(list).collect(),
            redecided: Counter::default(),
            workers: Arc::clone(&metrics),
            life: Clock::default(),
        });
        let admin = match admin_listen {
            None => None,
            Some(addr) => {
                let (front, metrics) = (Arc::clone(&front), Arc::clone(&metrics));
                let listener = inherited.tcp(addr).pop();
                Some(Admin::bind(addr, front, metrics, listener).map_err(StartError::Listen)?)
            }
        };
        let takeover = match &front.common.settings.takeover {
            None => None,
            Some(path) => {
                let copies = || {
                    let mut copies = listeners.copies()?;
                    copies.extend(checks.copies()?);
                    copies.extend(admin.as_ref().map(Admin::copy).transpose()?);
                    Ok(copies)
                };
                let taken = Takeover::new(path, inherited.old(), copies());
                Some(taken.map_err(StartError::Takeover)?)
            }
        };
        let each = listeners.each.into_iter().zip(checks.each);
        let each = each.map(|(callers, checks)| {
            let callers = callers.into_iter().map(|one| (Door::Callers, one));
            callers.chain(checks.into_iter().map(|one| (Door::Check, one))).collect()
        });
        let (addrs, check_addrs) = (listeners.addrs, checks.addrs);
        let (listeners, share) = (each.collect(), shares.upstream);
        Ok(Gate {
            front,
            listeners,
            addrs,
            check_addrs,
            admin,
            metrics,
            takeover,
            follows: None,
            dialer,
            share,
        })
    }

    /// Where callers connect, the first address; none where there are Unix sockets alone.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addrs.first().copied()
    }

    /// All addresses where callers connect; Unix sockets are not among them.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// All addresses where other proxies ask; Unix sockets are not among them.
    pub fn check_addrs(&self) -> &[SocketAddr] {
        &self.check_addrs
    }

    /// Where the metrics are, if anywhere.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::addr)
    }

    /// What makes the page of `/metrics`; none: the gate has ended.
    pub fn metrics(&self) -> impl Fn(Dialect) -> Option<String> + Send + Sync + 'static {
        let (front, workers) = (Arc::downgrade(&self.front), Arc::clone(&self.metrics));
        move |dialect| Some(View::new(front.upgrade()?, Arc::clone(&workers)).metrics(dialect))
    }

    /// What reads certificates and credentials anew while it runs.
    pub fn reloader(&self) -> Reloader {
        let (front, follows) = (Arc::clone(&self.front), self.follows.clone());
        Reloader::new(front, follows, self.dialer.clone(), self.share)
    }

    /// Serves until `shutdown` is ready, then leaves: see [`crate::config::Bounds::drain_delay`] and
    /// `drain`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let mut shutdown = std::pin::pin!(shutdown);
        if let Some(takeover) = &self.takeover {
            let ready = takeover.get_ready(|| admin::unready(&self.front));
            tokio::select! {
                ready = ready => ready.map_err(RunError::Takeover)?,
                () = &mut shutdown => return Ok(()),
            }
        }
        let admin = self.admin.map(|admin| tokio::spawn(admin.run()));
        let Common { services, dropped, .. } = &*self.front.common;
        let reports = tokio::spawn(report::run(services.to_vec(), Arc::clone(dropped)));
        let rounds = tokio::spawn(revoke::run(Arc::clone(&self.front)));
        let telling = tokio::spawn(told::run(Arc::clone(&self.front), Arc::clone(&self.metrics)));
        doctor::start(&self.front);
        let watching = tokio::spawn(upstream::watch(Arc::clone(&self.front)));
        let obtaining = tokio::spawn(obtain(Arc::clone(&self.front)));
        let anchoring = tokio::spawn(anchored(Arc::clone(&self.front.common)));
        let asserting = tokio::spawn(assertions::run(Arc::clone(&self.front.common)));
        let mut ends = Vec::new();
        let workers = self.metrics.iter().zip(&self.front.ongoing);
        for (number, (listeners, (metrics, ongoing))) in
            self.listeners.into_iter().zip(workers).enumerate()
        {
            let (ended, end) = oneshot::channel();
            let common = Arc::clone(&self.front.common);
            let worker = Worker::new(common, number, Arc::clone(metrics), Arc::clone(ongoing));
            let (front, worker) = (Arc::clone(&self.front), Arc::new(worker));
            let started = std::thread::Builder::new()
                .name(format!("gate-{number}"))
                .stack_size(keepgate_policy::DECISION_STACK)
                .spawn(move || drop(ended.send(thread::run(&front, &worker, listeners))));
            if let Err(source) = started {
                self.front.life.advance(Life::Ended);
                return Err(RunError::Worker { worker: number, source });
            }
            ends.push(async move {
                let source = match end.await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(source)) => source,
                    Err(_) => std::io::Error::other("the thread ended unexpectedly"),
                };
                Err(RunError::Worker { worker: number, source })
            });
        }
        let front = &self.front;
        let takeover = self.takeover;
        let taken = async {
            let Some(takeover) = takeover else { return std::future::pending().await };
            let let_go = || {
                if let Some(tables) = front.common.services.first() {
                    tables.source.let_go();
                }
            };
            takeover.run(let_go).await
        };
        let mut all = std::pin::pin!(futures_util::future::try_join_all(ends));
        let result = tokio::select! {
            result = &mut all => result,
            () = &mut shutdown => {
                let delay = self.front.common.settings.bounds.drain_delay;
                tokio::select! {
                    result = &mut all => result,
                    never = self.front.leave(delay) => match never {},
                }
            }
            taken = taken => {
                // Checks of this address reach the other gate from now on, and so does who asks it
                // for metrics.
                if let Some(admin) = &admin {
                    admin.abort();
                }
                let ended = tokio::select! {
                    result = &mut all => result,
                    never = self.front.leave(Duration::ZERO) => match never {},
                };
                taken.map_err(RunError::Takeover).and(ended)
            }
        };
        self.front.life.advance(Life::Ended);
        if let Some(admin) = admin {
            admin.abort();
        }
        reports.abort();
        rounds.abort();
        watching.abort();
        telling.abort();
        obtaining.abort();
        asserting.abort();
        anchoring.abort();
        if let Some(tables) = self.front.common.services.first() {
            tables.source.close();
        }
        close_records(&self.front.common).await;
        result.map(|_| ())
    }
}

/// Has the access log signed, where there is one.
async fn anchored(common: Arc<Common>) {
    if let (Some(records), Some(tables)) = (&common.records, common.services.first()) {
        anchors::run(Arc::clone(records), Arc::clone(&tables.source)).await;
    }
}

/// Writes what is left of the access log, within bounds.
async fn close_records(common: &Common) {
    let Some(records) = common.records.clone() else { return };
    let closed = tokio::task::spawn_blocking(move || records.log.close(RECORDS_CLOSE)).await;
    if !matches!(closed, Ok(true)) {
        tracing::error!("the access log was not ended in order: its last records may be missing");
    }
}

/// Obtains certificates, as long as the gate is not leaving: then another one may do so.
async fn obtain(front: Arc<Front>) {
    if let Some(acme) = &front.acme {
        tokio::select! {
            () = acme.run() => (),
            () = front.life.reached(Life::Leaving) => (),
        }
    }
}

/// Follows. Where another gate lets go of the data directory, that is waited for.
async fn followed(config: &FollowConfig, waits: bool) -> Result<Replica, replica::StartError> {
    let end = Instant::now() + LET_GO;
    loop {
        match Replica::follow(config.clone()) {
            Err(replica::StartError::Locked { .. }) if waits && Instant::now() < end => {
                tokio::time::sleep(LET_GO / 200).await;
            }
            result => return result,
        }
    }
}

/// Raises the limit of descriptors, and divides what there is.
fn descriptors(config: &GateConfig, workers: usize) -> Result<Shares, StartError> {
    let limit = keepgate_serve::raise_limit().map_err(StartError::Limit)?;
    let listens = 1 + config.more_listen.len() + config.check_listen.len();
    let checks = if config.check_listen.is_empty() { 0 } else { config.bounds.check_connections };
    // Of each listener one, to be passed on.
    let copies = match config.takeover {
        Some(_) => 2 * listens * workers + 1,
        None => 0,
    };
    let needs = Needs {
        connections: config.bounds.max_connections,
        upstream: sites::connections(config),
        center: CENTER,
        admin: if config.admin_listen.is_some() { admin::PLACES } else { 0 },
        files: FILES,
        health_checks: KEY_FETCHES,
        // An epoll instance, its timer and its waker, and listeners (two of one with two families);
        // and the control runtime's.
        own: (2 + 2 * listens) * workers + 16 + copies + checks,
    };
    let shares = needs.within(limit.now).map_err(StartError::Descriptors)?;
    if shares.connections < needs.connections {
        let (asked, limit) = (needs.connections, limit.now);
        tracing::info!(
            asked,
            limit,
            connections = shares.connections,
            upstream = shares.upstream,
            "fewer connections than configured: the limit of open descriptors"
        );
    }
    Ok(shares)
}

/// Who may ask is one of few, and has no bound of its own.
fn check_places(config: &GateConfig) -> Places {
    let bound = config.bounds.check_connections;
    Places::new(PlacesConfig { per_peer: Some(bound), ..PlacesConfig::new(bound) })
}

fn places(config: &GateConfig) -> Places {
    let network = |range: &AddressRange| Network { address: range.network, prefix: range.prefix };
    Places::new(PlacesConfig {
        bound: config.bounds.max_connections,
        per_peer: config.bounds.max_connections_per_address,
        exempt: [&config.trusted_proxies, &config.proxy_senders]
            .into_iter()
            .flat_map(|peers| &peers.ranges)
            .map(network)
            .collect(),
    })
}
