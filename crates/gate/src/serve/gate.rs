//! A gate: bound early, run until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use keepgate_client::dial::{Dialer, Roots, Target, TargetError, TlsSettings};
use keepgate_client::pool::{MAX_CONNECTIONS, Pool, PoolConfig, Protocol, UpstreamId};
use keepgate_client::replica::{self, FollowConfig, Replica};
use keepgate_observe::Counter;
use keepgate_policy::identify::{AddressRange, is_everybody};
use keepgate_serve::descriptors::TooFew;
use keepgate_serve::{Needs, Network, Places, PlacesConfig, Shares};
use tokio::sync::{oneshot, watch};

use super::admin::{self, Admin};
use super::front::Front;
use super::listen::{self, ListenError, Listener};
use super::{revoke, thread};
use crate::config::GateConfig;
use crate::exchange::ongoing::List;
use crate::identify::issuers::Issuers;
use crate::observe::dropped::Dropped;
use crate::observe::metrics::WorkerMetrics;
use crate::observe::report;
use crate::phase::worker::{Common, Worker};
use crate::service::limits::Limiting;
use crate::service::source::DecisionSource;
use crate::service::table::Tables;
use crate::wire::head::MAX_HEADER_COUNT;

/// Descriptors kept back for the connection to the center, and the one that replaces it.
const CENTER: usize = 4;
/// For logs, the data directory, certificates, key files.
const FILES: usize = 32;
/// For key sets that are fetched, and health checks.
const KEY_FETCHES: usize = 16;

/// Why a gate cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that makes no sense.
    #[error("`{setting}`: {reason}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The limit of open descriptors is not known.
    #[error("the limit of open descriptors cannot be read")]
    Limit(#[source] std::io::Error),
    /// There are too few descriptors.
    #[error("the gate cannot serve with so few descriptors")]
    Descriptors(#[source] TooFew),
    /// The upstream's URL.
    #[error("the upstream's URL cannot be used")]
    Upstream(#[source] TargetError),
    /// A listener.
    #[error("the gate cannot listen")]
    Listen(#[source] ListenError),
    /// The certificate or key toward callers.
    #[error(transparent)]
    Tls(#[from] keepgate_serve::TlsError),
    /// The center cannot be followed.
    #[error("the center cannot be followed")]
    Follow(#[source] replica::StartError),
}

/// Why a gate stopped without being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A worker could not start, or ended.
    #[error("worker {worker} failed")]
    Worker {
        /// Its number.
        worker: usize,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// See the module.
pub struct Gate {
    front: Arc<Front>,
    listeners: Vec<Listener>,
    addr: Option<SocketAddr>,
    admin: Option<Admin>,
    metrics: Arc<[Arc<WorkerMetrics>]>,
}

impl Gate {
    /// Binds and follows the center. It answers 503 until the first snapshot is here. Must be
    /// called on a tokio runtime, as [`Gate::with_source`].
    pub async fn start(config: GateConfig) -> Result<Gate, StartError> {
        check(&config)?;
        let mut follow = FollowConfig::new(&config.center, &config.token);
        follow.services = vec![config.service.clone()];
        follow.data_dir.clone_from(&config.data_dir);
        follow.restart_age = config.restart_age;
        follow.allow_plain = config.insecure_center;
        if let Some(ca) = &config.center_ca {
            follow.roots = Roots::File(ca.clone());
        }
        let replica = Replica::follow(follow).map_err(|error| match error {
            replica::StartError::Plain { url } => StartError::Setting {
                setting: "center",
                reason: format!(
                    "`{url}` is neither https nor on this host: the token and the permissions \
                     would travel in the clear; use https, or, for tests, --insecure-center"
                ),
            },
            error => StartError::Follow(error),
        })?;
        if config.insecure_center {
            tracing::warn!(
                center = config.center,
                "--insecure-center: a center may be followed over plain HTTP: anyone on the network \
                 path can read the token and change the permissions"
            );
        }
        Gate::with_source(config, Arc::new(replica)).await
    }

    /// Binds, and has `source` decide. Must be called on a tokio runtime, which becomes the
    /// control runtime: it fetches key sets and serves the admin listener.
    pub async fn with_source(
        config: GateConfig,
        source: Arc<dyn DecisionSource>,
    ) -> Result<Gate, StartError> {
        check(&config)?;
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let mut config = config;
        let shares = descriptors(&config, workers)?;
        config.bounds.max_connections = shares.connections;
        bound_pool(&mut config.pool, shares.upstream);
        let dialer = Dialer::default();
        let upstream = Pool::new(dialer.clone(), config.pool.clone()).upstream(&UpstreamId {
            target: upstream_target(&config)?,
            protocol: config.upstream_protocol,
        });
        let tls = match &config.tls {
            Some(files) => Some(tokio_rustls::TlsAcceptor::from(files.load()?)),
            None => None,
        };
        let listeners = listen::bind(&config.listen, workers).map_err(StartError::Listen)?;
        let control = tokio::runtime::Handle::current();
        let workers = listeners.each.len();
        let tables = Arc::new(Tables {
            service: config.service.clone(),
            source,
            issuers: Issuers::new(control, dialer, config.keys.clone(), config.key_access.clone()),
            limiting: Limiting::new(workers),
            trust_everybody: config.trust_everybody,
            said_everybody: AtomicBool::new(false),
        });
        let metrics: Arc<[Arc<WorkerMetrics>]> = (0..workers).map(|_| Arc::default()).collect();
        let places = places(&config);
        let common = Arc::new(Common {
            settings: GateConfig { token: String::new(), ..config },
            tables,
            upstream,
            dropped: Arc::new(Dropped::new(workers)),
            uploads: Arc::default(),
            revision_waiters: AtomicUsize::new(0),
        });
        let admin_listen = common.settings.admin_listen;
        let list = |metrics: &Arc<WorkerMetrics>| Arc::new(List::new(Arc::clone(&metrics.cuts)));
        let front = Arc::new(Front {
            common,
            tls,
            began: Instant::now(),
            places,
            ongoing: metrics.iter().map(list).collect(),
            redecided: Counter::default(),
            stopping: AtomicBool::new(false),
            stop: watch::Sender::new(false),
        });
        let admin = match admin_listen {
            None => None,
            Some(addr) => Some(
                Admin::bind(addr, Arc::clone(&front), Arc::clone(&metrics))
                    .map_err(StartError::Listen)?,
            ),
        };
        Ok(Gate { front, listeners: listeners.each, addr: listeners.addr, admin, metrics })
    }

    /// Where callers connect; none for a Unix socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Where the metrics are, if anywhere.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::addr)
    }

    /// Serves until `shutdown` is ready, then lets open exchanges end within their bound.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let admin = self.admin.map(|admin| tokio::spawn(admin.run()));
        let Common { tables, dropped, .. } = &*self.front.common;
        let reports = tokio::spawn(report::run(Arc::clone(tables), Arc::clone(dropped)));
        let rounds = tokio::spawn(revoke::run(Arc::clone(&self.front)));
        let mut ends = Vec::new();
        let workers = self.metrics.iter().zip(&self.front.ongoing);
        for (number, (listener, (metrics, ongoing))) in
            self.listeners.into_iter().zip(workers).enumerate()
        {
            let (ended, end) = oneshot::channel();
            let common = Arc::clone(&self.front.common);
            let worker = Worker::new(common, number, Arc::clone(metrics), Arc::clone(ongoing));
            let (front, worker) = (Arc::clone(&self.front), Arc::new(worker));
            let started = std::thread::Builder::new()
                .name(format!("gate-{number}"))
                .stack_size(keepgate_policy::DECISION_STACK)
                .spawn(move || drop(ended.send(thread::run(&front, &worker, listener))));
            if let Err(source) = started {
                self.front.stop();
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
        let mut all = std::pin::pin!(futures_util::future::try_join_all(ends));
        let result = tokio::select! {
            result = &mut all => result,
            () = shutdown => {
                self.front.stop();
                all.await
            }
        };
        self.front.stop();
        if let Some(admin) = admin {
            admin.abort();
        }
        reports.abort();
        rounds.abort();
        self.front.common.tables.source.close();
        result.map(|_| ())
    }
}

fn check(config: &GateConfig) -> Result<(), StartError> {
    let bad =
        |setting, reason: &str| Err(StartError::Setting { setting, reason: reason.to_owned() });
    let bounds = &config.bounds;
    if config.service.is_empty() {
        return bad("service", "is empty; name the service this gate protects");
    }
    if bounds.header_count > MAX_HEADER_COUNT || bounds.header_count == 0 {
        return bad("header_count", "must be between 1 and 100");
    }
    if bounds.max_connections == 0 || bounds.max_connections_per_address == Some(0) {
        return bad("max_connections", "must be at least 1, also for one address");
    }
    for (setting, least) in [
        ("body_idle", bounds.body_idle),
        ("body_window", bounds.body_window),
        ("answer_timeout", bounds.answer_timeout),
        ("answer_idle", bounds.answer_idle),
    ] {
        if least < Duration::from_millis(1) {
            return bad(setting, "must be at least 1 ms");
        }
    }
    for (setting, peers) in
        [("trusted_proxies", &config.trusted_proxies), ("proxy_senders", &config.proxy_senders)]
    {
        if !config.trust_everybody && is_everybody(&peers.ranges) {
            let reason = "covers every address, so any caller could claim any address; name the \
                          proxies in front, or pass --trust-everybody if nobody else can connect";
            return bad(setting, reason);
        }
    }
    Ok(())
}

/// Raises the limit of descriptors, and divides what there is.
fn descriptors(config: &GateConfig, workers: usize) -> Result<Shares, StartError> {
    let limit = keepgate_serve::raise_limit().map_err(StartError::Limit)?;
    let needs = Needs {
        connections: config.bounds.max_connections,
        upstream: config.pool.max_connections.unwrap_or(MAX_CONNECTIONS).min(MAX_CONNECTIONS),
        center: CENTER,
        admin: if config.admin_listen.is_some() { admin::PLACES } else { 0 },
        files: FILES,
        health_checks: KEY_FETCHES,
        // A listener, an epoll instance, its timer and its waker; and the control runtime's.
        own: 4 * workers + 16,
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

/// The pool opens no more connections than there are descriptors for.
fn bound_pool(pool: &mut PoolConfig, most: usize) {
    pool.max_connections = pool.max_connections.map(|asked| asked.min(most));
    let budget = Arc::clone(&pool.budget);
    pool.budget = Arc::new(move |target| budget(target).min(most));
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

fn upstream_target(config: &GateConfig) -> Result<Target, StartError> {
    let alpn: &[&str] = match config.upstream_protocol {
        Protocol::Auto => &["h2", "http/1.1"],
        Protocol::Http1 => &["http/1.1"],
        Protocol::Http2 => &["h2"],
    };
    let roots = config.upstream_ca.clone().map_or(Roots::System, Roots::File);
    Target::from_url(&config.upstream, || TlsSettings::new(&roots, None, alpn).map(Arc::new))
        .map_err(StartError::Upstream)
}
