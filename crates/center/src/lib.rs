//! The authorization center: store, admin API, AuthZEN, follow protocol, on one port.
//!
//! [`Center::start`] opens the store and binds the listener; [`Center::run`] serves until it is
//! told to stop. Inside, data flows one way: an edit comes in by HTTP, the [`desk`] lands it as
//! one revision in the [`store`] and publishes a new [`desk::Head`], and the followers'
//! tasks ([`follow`]) send what is new. Readers take the head once and see one state.
//!
//! It deliberately does not know routes' traffic, limits' state, or any gate's address: gates
//! connect to it. It connects to nobody but its database, and the webhook and identity provider
//! that its operator named.

pub mod access;
mod api;
mod apis;
mod attempts;
mod console;
pub mod desk;
mod door;
pub mod follow;
pub mod hour;
pub mod metrics;
mod neighbors;
mod oidc;
mod opening;
pub(crate) mod proto;
mod requests;
mod server;
pub mod store;
mod tls;
pub mod token;
pub mod upkeep;
mod webhook;

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keepgate_identify::access::{Asker, KeyAccess};
use keepgate_observe::Dialect;
use keepgate_observe::span::{Lost, Tracing};
use tokio::net::TcpListener;
use tokio::sync::watch;

use desk::{Desk, Edit, EditPlan, OpenError, Refusal};
use metrics::Metrics;
use neighbors::Neighbors;
use oidc::Provider;
use requests::Requests;
use store::{Address, Retention, StoreError};
use token::{RandomError, Role};
use webhook::Webhook;

pub use api::writes::idempotency_key;
pub use console::{ConsolePath, PATHS as CONSOLE_PATHS};
pub use door::{DoorError, SOCKET, admin_token, short_path};
pub use keepgate_serve::TlsFiles;
pub use oidc::{OidcConfig, OidcError, RoleRule, RoleRuleError};
pub use server::{APPLY_BYTES, Bounds};
pub use tls::{Certificate, TlsError};
pub use webhook::{WebhookConfig, WebhookError};

/// How long the end of a center waits for the last hour to be told.
const LAST_HOUR: Duration = Duration::from_secs(2);

/// How often the times of token use are written down.
const USAGE_EVERY: Duration = Duration::from_secs(30);

/// How to run a center.
#[derive(Clone, Debug)]
pub struct CenterConfig {
    /// Where the first admin token and the socket for `keepgate center token` are, and the store, unless
    /// it is in a database; created with mode 0700.
    pub data_dir: PathBuf,
    /// The database with the store, which other centers may share; none: SQLite in `data_dir`.
    pub database: Option<Box<Address>>,
    /// Where to listen; without TLS a loopback address. Port 0 takes any.
    pub listen: SocketAddr,
    /// Certificate and key; none: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The URL callers reach it by: for AuthZEN metadata (none: what they call it in `Host`), and for
    /// the `Host` of their requests. Plain HTTP is for loopback names only.
    pub public_url: Option<String>,
    /// A PEM file with the authorities whose certificates gates may show in place of a token; none:
    /// nobody is asked for one. Needs TLS.
    pub client_ca: Option<PathBuf>,
    /// Bounds on clients.
    pub bounds: Bounds,
    /// How much history is kept.
    pub retention: Retention,
    /// How long a center that was started before hears gates out, before it tells or changes
    /// anything: one that holds a newer state shows that the store is an old one.
    pub witness_wait: Duration,
    /// Which requests are recorded in traces, and who takes what is recorded; none: none are.
    pub tracing: Option<Tracing>,
    /// Counts what of traces, metrics and logs was dropped.
    pub lost: Arc<Lost>,
    /// Where new requests for access are told; none: nowhere.
    pub webhook: Option<WebhookConfig>,
    /// Where people sign in to the console beside tokens; none: nowhere.
    pub oidc: Option<OidcConfig>,
    /// Which servers it may ask.
    pub outbound: KeyAccess,
}

impl CenterConfig {
    /// A center in this directory, at this address, with defaults for the rest.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> CenterConfig {
        CenterConfig { data_dir: data_dir.into(), listen, ..CenterConfig::default() }
    }
}

impl Default for CenterConfig {
    /// In `keepgate-data`, at 127.0.0.1:7480.
    fn default() -> CenterConfig {
        CenterConfig {
            data_dir: PathBuf::from("keepgate-data"),
            database: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 7480)),
            tls: None,
            client_ca: None,
            public_url: None,
            bounds: Bounds::default(),
            retention: Retention::default(),
            witness_wait: Duration::from_secs(3),
            tracing: None,
            lost: Arc::default(),
            webhook: None,
            oidc: None,
            outbound: KeyAccess { asker: Asker::Center, ..KeyAccess::default() },
        }
    }
}

/// The center does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates, or the lack of them.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The webhook cannot be used.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The identity provider cannot be used.
    #[error(transparent)]
    Oidc(#[from] OidcError),
    /// The address cannot be listened on.
    #[error("cannot listen on `{addr}`")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store does not open.
    #[error("cannot open the store in `{dir}`")]
    Store {
        /// The data directory.
        dir: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// What is stored cannot be served.
    #[error("cannot serve what is stored in `{dir}`")]
    Open {
        /// The data directory.
        dir: String,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The first admin token was not made.
    #[error("cannot make the first admin token")]
    Random(#[from] RandomError),
    /// The first admin token was not stored.
    #[error("cannot store the first admin token")]
    FirstToken(#[source] Refusal),
    /// The first admin token was not written.
    #[error("cannot write the first admin token to `{path}`")]
    TokenFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There are too few descriptors.
    #[error(transparent)]
    Descriptors(#[from] keepgate_serve::descriptors::TooFew),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Runtime,
}

/// The center ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store did not come to rest; nothing acknowledged is lost.
    #[error("cannot bring the store to rest")]
    Store(#[from] StoreError),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Runtime,
}

/// A center that is ready to run.
pub struct Center {
    /// First: it must be gone before the store's lock is.
    door: Option<door::Door>,
    app: api::App,
    listener: TcpListener,
    addr: SocketAddr,
    tls: Option<Certificate>,
    bounds: Bounds,
    seats: server::Seats,
    admin_token_file: Option<PathBuf>,
}

impl Center {
    /// Binds, opens the store, and on an empty one makes the first admin token.
    pub async fn start(config: CenterConfig) -> Result<Center, StartError> {
        if let Some(url) = &config.public_url {
            tls::check_public_url(url)?;
        }
        let tls =
            tls::certificate(config.tls.as_ref(), config.client_ca.as_deref(), config.listen)?;
        let seats = server::Seats::new(&config.bounds)?;
        // Before the store is opened, which is not closed again at once.
        let metrics = Arc::new(Metrics::beside(config.lost));
        let oidc = config.oidc.map(|oidc| Provider::new(oidc, config.outbound.clone()));
        let oidc = oidc.transpose()?.map(Arc::new);
        let webhook = config
            .webhook
            .map(|webhook| Webhook::new(&webhook, config.outbound, Arc::clone(&metrics)))
            .transpose()?;
        let bind = |source| StartError::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let keep = config.retention;
        let wait = config.witness_wait;
        let place = (config.data_dir.clone(), config.database.clone());
        let desk = tokio::task::spawn_blocking(move || {
            let (dir, database) = place;
            let shown = match &database {
                Some(address) => address.to_string(),
                None => dir.display().to_string(),
            };
            let (store, first) = opening::open_store(&dir, database.as_deref())
                .map_err(|source| StartError::Store { dir: shown.clone(), source })?;
            // Nobody can hold anything of a store that was just made.
            let wait = if first { Duration::ZERO } else { wait };
            Desk::open(store, keep, wait).map_err(|source| StartError::Open { dir: shown, source })
        })
        .await
        .map_err(|_| StartError::Runtime)??;
        let desk = Arc::new(desk);
        let admin_token_file = first_token(&desk, &config.data_dir).await?;
        let door = door::Door::open(&config.data_dir)
            .inspect_err(|error| {
                let file = config.data_dir.join(SOCKET).display().to_string();
                tracing::warn!(%error, file, "`keepgate center token` cannot ask this center");
            })
            .ok();
        let head = desk.head();
        tracing::info!(%addr, revision = head.revision.0, services = head.services.len(),
            tls = tls.is_some(), "the center is ready");
        if let Some(warning) = head.authzen_warning() {
            tracing::warn!("{warning}");
        }
        let followers: Arc<follow::Followers> = Arc::default();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = config.public_url.clone().unwrap_or_else(|| format!("{scheme}://{addr}"));
        let neighbors =
            Arc::new(Neighbors::new(Arc::clone(&desk), Arc::clone(&followers), address));
        let app = api::App::new(api::Shared {
            requests: Arc::new(Requests::new(Arc::clone(&desk), Arc::clone(&metrics), webhook)),
            desk,
            neighbors,
            followers,
            metrics,
            usage: Arc::default(),
            fair: Arc::default(),
            slow: Arc::default(),
            bulk: Arc::default(),
            bounds: config.bounds,
            secure: tls.is_some(),
            hosts: api::host::Hosts::new(addr, config.public_url.as_deref()),
            public_url: config.public_url.map(|url| Arc::from(url.trim_end_matches('/'))),
            outages: Arc::default(),
            tracing: config.tracing,
            tracer: Arc::new(api::traced::tracer()),
            oidc,
            hours: Arc::default(),
            began: Instant::now(),
            ready: Arc::new(AtomicBool::new(true)),
        });
        let bounds = config.bounds;
        Ok(Center { door, app, listener, addr, tls, bounds, seats, admin_token_file })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What makes the page of `/metrics`; none: the center has ended. It does not hold the store.
    pub fn metrics(&self) -> impl Fn(Dialect) -> Option<String> + Send + Sync + 'static {
        let (desk, followers) = (Arc::downgrade(&self.app.desk), Arc::clone(&self.app.followers));
        let metrics = Arc::clone(&self.app.metrics);
        move |dialect| Some(api::status::page(&*desk.upgrade()?, &followers, &metrics, dialect))
    }

    /// Its certificate, to be read anew while it runs; none: plain HTTP.
    pub fn certificate(&self) -> Option<Certificate> {
        self.tls.clone()
    }

    /// The file that this start wrote the first admin token to; none: it was not the first.
    pub fn admin_token_file(&self) -> Option<&Path> {
        self.admin_token_file.as_deref()
    }

    /// Makes a token, for a gate in the same process. The text is not kept.
    pub async fn create_token(
        &self,
        role: Role,
        service: &str,
        note: &str,
    ) -> Result<String, TokenError> {
        if let Some(wrong) = api::tokens::wrong_service(role, service) {
            return Err(TokenError::Service(wrong));
        }
        let minted = token::mint("kgt")?;
        let row = api::tokens::row(&minted, role, service.to_owned(), note.to_owned());
        let plan: desk::Planner =
            Box::new(move |_, _| Ok(EditPlan { tokens: vec![row], ..EditPlan::default() }));
        let actor = "center".to_owned();
        self.app
            .desk
            .edit(Edit { actor, action: "token.create", dry_run: false, write_id: None, plan })
            .await?;
        Ok(minted.text)
    }

    /// Serves until `shutdown` is done; then finishes what is under way, ends the streams and
    /// brings the store to rest.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let Center { door, app, listener, tls, bounds, seats, .. } = self;
        let (close, closing) = watch::channel(false);
        let server = server::Server {
            listener,
            tls,
            port: api::Port::new(app.clone(), closing.clone()),
            bounds,
            metrics: Arc::clone(&app.metrics),
            seats,
            closing,
        };
        let serving = server.run();
        let desk = Arc::clone(&app.desk);
        let door = async move {
            if let Some(door) = door {
                door.serve(desk).await;
            }
            std::future::pending::<()>().await;
        };
        let mut door = Box::pin(door);
        tokio::pin!(serving, shutdown);
        // Not a task of its own: nothing may hold the store when this ends.
        let neighbors = Arc::clone(&app.neighbors);
        let mut neighbors = Box::pin(async move {
            neighbors.run().await;
            std::future::pending::<()>().await;
        });
        let requests = Arc::clone(&app.requests);
        let told = Arc::clone(&app.desk);
        let mut webhook = Box::pin(async move {
            if let Some(webhook) = &requests.webhook {
                webhook.run(&told).await;
            }
            std::future::pending::<()>().await;
        });
        let mut hour = Box::pin(keep_hour(app.clone()));
        let mut usage = tokio::time::interval(USAGE_EVERY);
        loop {
            tokio::select! {
                () = &mut serving => break,
                () = &mut shutdown => {
                    tracing::info!("the center is shutting down");
                    app.ready.store(false, Ordering::Relaxed);
                    close.send_replace(true);
                    serving.as_mut().await;
                    break;
                }
                () = &mut door => {}
                () = &mut neighbors => {}
                () = &mut webhook => {}
                _ = usage.tick() => note_usage(&app),
                () = &mut hour => {}
            }
        }
        drop((neighbors, webhook, hour));
        // The followers have gone: what they said last is told to others.
        let last = async {
            close_span(&app).await;
            tell_hour(&app).await;
        };
        let _ = tokio::time::timeout(LAST_HOUR, last).await;
        // The socket goes while the store is still locked.
        drop(door);
        note_usage(&app);
        let desk = Arc::clone(&app.desk);
        tokio::task::spawn_blocking(move || desk.close())
            .await
            .map_err(|_| RunError::Runtime)??;
        tracing::info!("the center has shut down");
        Ok(())
    }
}

/// A token was not made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The role does not go with the service.
    #[error("{0}")]
    Service(String),
    /// No random numbers.
    #[error("cannot make a token")]
    Random(#[from] RandomError),
    /// It was not stored.
    #[error("cannot store the token")]
    Edit(#[from] Refusal),
}

/// Closes the spans of the last hour, and beside that tells them to other centers: neither waits for the
/// other, nor anything for them.
async fn keep_hour(app: api::App) {
    let mut every = tokio::time::interval(hour::EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let closing = async {
        loop {
            every.tick().await;
            close_span(&app).await;
        }
    };
    let telling = async {
        while app.desk.is_shared() {
            tell_hour(&app).await;
            tokio::time::sleep(hour::EVERY).await;
        }
    };
    tokio::join!(closing, telling);
}

/// Reading the reports of many gates takes a while: not on the runtime's threads.
async fn close_span(app: &api::App) {
    let (desk, hours) = (Arc::downgrade(&app.desk), Arc::clone(&app.hours));
    let followers = Arc::clone(&app.followers);
    let sample = tokio::task::spawn_blocking(move || {
        if let Some(desk) = desk.upgrade() {
            hours.sample(&desk, &followers, keepgate_observe::unix_s());
        }
    });
    let _ = sample.await;
}

async fn tell_hour(app: &api::App) {
    let (desk, hours) = (Arc::clone(&app.desk), Arc::clone(&app.hours));
    let told = tokio::task::spawn_blocking(move || desk.exchange_hour(&hours)).await;
    if let Ok(Err(error)) = told {
        let error = keepgate_observe::chain(&error);
        tracing::debug!(error, "the last hour was not told to other centers, or theirs not heard");
    }
}

fn note_usage(app: &api::App) {
    let used = app.usage.take();
    if !used.is_empty() {
        app.desk.touch(used);
    }
}

/// On an empty store: a token in a file first, then in the store. A crash in between leaves a
/// file that the next start replaces, never a store without a way in.
async fn first_token(desk: &Desk, dir: &Path) -> Result<Option<PathBuf>, StartError> {
    // Beyond revision 0 a store without tokens is not one that a center left: it stays closed.
    if !desk.head().tokens.is_empty() || desk.head().revision.0 > 0 {
        return Ok(None);
    }
    let minted = token::mint("kgt")?;
    let path = dir.join("admin.token");
    write_secret(&path, &minted.text)
        .map_err(|source| StartError::TokenFile { path: path.display().to_string(), source })?;
    let note = "the first admin token".to_owned();
    let row = api::tokens::row(&minted, Role::Admin, String::new(), note);
    // Of centers that start on one database at the same time, one makes it.
    let plan: desk::Planner = Box::new(move |_, head| {
        let tokens = if head.tokens.is_empty() { vec![row] } else { Vec::new() };
        Ok(EditPlan { tokens, ..EditPlan::default() })
    });
    let actor = "center".to_owned();
    desk.edit(Edit { actor, action: "token.create", dry_run: false, write_id: None, plan })
        .await
        .map_err(StartError::FirstToken)?;
    if !desk.head().tokens.contains_key(&minted.id) {
        let _ = std::fs::remove_file(&path);
        return Ok(None);
    }
    tracing::info!(file = %path.display(), "wrote the first admin token");
    Ok(Some(path))
}

/// Mode 0600 from the beginning, whole or not at all.
pub(crate) fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("token.new");
    let _ = std::fs::remove_file(&draft);
    let mut file =
        std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}
