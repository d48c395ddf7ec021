//! A gate: bound early, run until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keepgate_client::dial::{Dialer, Roots, Target, TargetError, TlsSettings};
use keepgate_client::pool::{MAX_CONNECTIONS, Pool, PoolConfig, Protocol, UpstreamId};
use keepgate_client::replica::{self, FollowConfig, Replica};
use keepgate_observe::Counter;
use keepgate_policy::identify::{AddressRange, is_everybody};
use keepgate_serve::descriptors::TooFew;
use keepgate_serve::{Needs, Network, Places, PlacesConfig, Shares};
use tokio::sync::{oneshot, watch};

use crate::admin::Admin;
use crate::config::GateConfig;
use crate::dropped::Dropped;
use crate::identify::issuers::Issuers;
use crate::limits::Limiting;
use crate::listen::{self, ListenError, Listener};
use crate::metrics::WorkerMetrics;
use crate::source::DecisionSource;
use crate::wire::head::MAX_HEADER_COUNT;
use crate::worker::{Common, Worker};

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
    common: Arc<Common>,
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
        let issuers =
            Arc::new(Issuers::new(control, dialer, config.keys.clone(), config.key_access.clone()));
        let metrics: Arc<[Arc<WorkerMetrics>]> =
            (0..listeners.each.len()).map(|_| Arc::default()).collect();
        let common = Arc::new(Common {
            source,
            issuers,
            upstream,
            limiting: Limiting::new(listeners.each.len()),
            dropped: Dropped::new(listeners.each.len()),
            said_everybody: AtomicBool::new(false),
            tls,
            began: Instant::now(),
            places: places(&config),
            ongoing: (0..listeners.each.len()).map(|_| Arc::default()).collect(),
            redecided: Counter::default(),
            uploads: Arc::default(),
            revision_waiters: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            settings: Arc::new(GateConfig { token: String::new(), ..config }),
        });
        let admin = match common.settings.admin_listen {
            None => None,
            Some(addr) => Some(
                Admin::bind(addr, Arc::clone(&common), Arc::clone(&metrics))
                    .map_err(StartError::Listen)?,
            ),
        };
        Ok(Gate { common, listeners: listeners.each, addr: listeners.addr, admin, metrics })
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
        let reports = tokio::spawn(crate::report::run(Arc::clone(&self.common)));
        let rounds = tokio::spawn(crate::revoke::run(Arc::clone(&self.common)));
        let mut ends = Vec::new();
        for (number, (listener, metrics)) in
            self.listeners.into_iter().zip(self.metrics.iter()).enumerate()
        {
            let (ended, end) = oneshot::channel();
            let (common, metrics) = (Arc::clone(&self.common), Arc::clone(metrics));
            let started = std::thread::Builder::new()
                .name(format!("gate-{number}"))
                .stack_size(keepgate_policy::DECISION_STACK)
                .spawn(move || drop(ended.send(run_worker(common, number, metrics, listener))));
            if let Err(source) = started {
                self.common.stop();
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
                self.common.stop();
                all.await
            }
        };
        self.common.stop();
        if let Some(admin) = admin {
            admin.abort();
        }
        reports.abort();
        rounds.abort();
        self.common.source.close();
        result.map(|_| ())
    }
}

impl Common {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.send_replace(true);
    }
}

/// A worker's thread, from its runtime to its end.
fn run_worker(
    common: Arc<Common>,
    number: usize,
    metrics: Arc<WorkerMetrics>,
    listener: Listener,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let drain = common.settings.bounds.drain;
    let worker = Arc::new(Worker::new(common, number, metrics));
    let result = runtime.block_on(async {
        listen::accept(&worker, listener).await?;
        drained(&worker, drain).await;
        Ok(())
    });
    // Whatever is still open had its time.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Ends when this worker's connections have, or when their time is over.
async fn drained(worker: &Worker, within: Duration) {
    let open = async {
        while worker.metrics.open.value() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(within, open).await.is_err() {
        let left = worker.metrics.open.value();
        tracing::info!(left, "connections were cut off at the end");
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
        admin: if config.admin_listen.is_some() { crate::admin::PLACES } else { 0 },
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
