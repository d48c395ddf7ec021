//! The way in for whoever may read the data directory: a Unix socket in it that makes admin tokens.
//!
//! Who reads and writes the store's files can do everything anyway; the socket only spares them from
//! stopping the center. So it has mode 0600, and only the center's own user and root are answered.
//! It takes `POST /token` with a [`NewAdminToken`] and nothing else.
//!
//! INVARIANT: the socket is made and removed only while the store's lock is held, so that one which
//! is there belongs to this process or to one that is dead.

use std::convert::Infallible;
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use keepgate_api::{MadeToken, NewAdminToken};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::api::problem::Problem;
use crate::api::tokens;
use crate::desk::{Desk, Edit, EditPlan, Planner};
use crate::opening::open_store;
use crate::store::{PostgresStore, SqliteStore, StoreError, TokenRow};
use crate::token::Role;
use crate::upkeep::Place;

/// The socket's name in the data directory.
pub const SOCKET: &str = "center.sock";

/// Where it is made, before it has its mode.
const DRAFT: &str = "center.sock.new";

/// Callers at the same time.
const CALLERS: usize = 4;

/// Bytes of a request's body.
const BODY: usize = 4 << 10;

/// A whole exchange.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Who asked, in the audit log.
const ACTOR: &str = "host";

/// The socket, until it is dropped.
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Makes the socket in a directory whose store is locked by this process. Replaces one that a
    /// dead center left.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Door> {
        let (path, draft) = (dir.join(SOCKET), dir.join(DRAFT));
        for old in [&path, &draft] {
            match std::fs::remove_file(old) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let held = File::open(dir)?;
        let listener = UnixListener::bind(short_path(dir, &held, DRAFT))?;
        std::fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
        std::fs::rename(&draft, &path)?;
        Ok(Door { listener, path })
    }

    /// Serves until it is dropped.
    pub(crate) async fn serve(self, desk: Arc<Desk>) {
        let places = Arc::new(Semaphore::new(CALLERS));
        loop {
            // Those who wait are few: they have the data directory.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "a connection to the socket was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if !is_ours(&stream) {
                continue;
            }
            let desk = Arc::clone(&desk);
            tokio::spawn(async move {
                let _place = place;
                let _ = tokio::time::timeout(EXCHANGE, exchange(stream, desk)).await;
            });
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Paths of sockets have at most 107 bytes (`unix(7)`).
const SHORT: usize = 100;

/// A path by which this process reaches a socket of this name in a directory that it holds open: in
/// UTF-8, and short enough for the address of a socket, whatever the directory's own path is.
pub fn short_path(dir: &Path, held: &File, name: &str) -> PathBuf {
    let path = dir.join(name);
    match path.to_str() {
        Some(text) if text.len() < SHORT => path,
        _ => PathBuf::from(format!("/proc/self/fd/{}/{name}", held.as_raw_fd())),
    }
}

/// Whether the peer runs as this process's user, or as root.
fn is_ours(stream: &UnixStream) -> bool {
    // SAFETY: it takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn exchange(stream: UnixStream, desk: Arc<Desk>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(answer(request, &desk).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).keep_alive(false);
    if let Err(e) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error = %e, "a connection to the socket ended early");
    }
}

async fn answer(request: Request<Incoming>, desk: &Desk) -> Response<Body> {
    use axum::response::IntoResponse as _;
    if request.method() != Method::POST || request.uri().path() != "/token" {
        return Problem::not_found("here is `POST /token`, and nothing else").into_response();
    }
    let Ok(body) = Limited::new(request.into_body(), BODY).collect().await else {
        return Problem::too_large(BODY as u64).into_response();
    };
    let asked: NewAdminToken = match serde_json::from_slice(&body.to_bytes()) {
        Ok(asked) => asked,
        Err(e) => {
            return Problem::bad_request(format!("the body does not parse: {e}")).into_response();
        }
    };
    match make(desk, &asked).await {
        Ok(made) => {
            // Texts and a number always serialize.
            let body = serde_json::to_vec(&made).unwrap_or_default();
            let kind = [(header::CONTENT_TYPE, "application/json")];
            (StatusCode::CREATED, kind, body).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

async fn make(desk: &Desk, asked: &NewAdminToken) -> Result<MadeToken, Problem> {
    if asked.note.len() > tokens::NOTE_BYTES {
        let most = tokens::NOTE_BYTES;
        return Err(Problem::unprocessable(format!("`note`: at most {most} bytes")));
    }
    tokens::in_the_future("expires_unix_s", asked.expires_unix_s)?;
    let minted = tokens::mint("kgt")?;
    let row = tokens::row(&minted, Role::Admin, String::new(), asked.note.clone());
    let row = TokenRow { expires_unix_s: asked.expires_unix_s, ..row };
    let plan: Planner =
        Box::new(move |_, _| Ok(EditPlan { tokens: vec![row], ..EditPlan::default() }));
    let actor = ACTOR.to_owned();
    let edit = Edit { actor, action: "token.create", dry_run: false, write_id: None, plan };
    let outcome = desk.edit(edit).await?;
    tracing::info!(id = minted.id, "made an admin token for this host");
    Ok(MadeToken { id: minted.id, token: minted.text, revision: outcome.revision.0 })
}

/// No admin token was made.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// There is no store to make one in.
    #[error(
        "expected the data directory of a center, found no `center.db` in `{0}`; the first start of \
         `keepgate center --data DIR` makes the store and an admin token"
    )]
    NoStore(String),
    /// There is no store in the database.
    #[error(
        "expected a store, found none in {0}; the first start of `keepgate center --database URL` makes \
         it and an admin token"
    )]
    NoDatabase(String),
    /// The store does not open; another process may hold it ([`DoorError::is_held`]).
    #[error("cannot open the store in `{dir}`")]
    Store {
        /// The data directory.
        dir: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// What is stored cannot be served.
    #[error("cannot use what is stored in `{dir}`")]
    Open {
        /// The data directory.
        dir: String,
        /// Why.
        #[source]
        source: crate::desk::OpenError,
    },
    /// The token was refused, or not stored.
    #[error("{0}")]
    Refused(String),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Runtime,
}

impl DoorError {
    /// Whether another process holds the store.
    pub fn is_held(&self) -> bool {
        matches!(self, DoorError::Store { source: StoreError::Locked { .. }, .. })
    }
}

/// Makes an admin token in a store that no center serves. It takes the store's lock, so that no
/// center starts meanwhile.
///
/// # Errors
/// A store that is held by another process, or that may not be served.
pub async fn admin_token(
    place: impl Into<Place>,
    asked: &NewAdminToken,
) -> Result<MadeToken, DoorError> {
    let place = place.into();
    let shown = place.to_string();
    let desk = tokio::task::spawn_blocking(move || {
        let path = match place {
            Place::Dir(dir) => dir,
            // Other centers may run on it: this is one more of them, for a moment.
            Place::Database { address, data } => {
                let failed = |source| DoorError::Store { dir: shown.clone(), source };
                if PostgresStore::attach(&address).map_err(failed)?.is_none() {
                    return Err(DoorError::NoDatabase(shown));
                }
                let (store, _) = open_store(&data, Some(&address)).map_err(failed)?;
                return Desk::open(store, crate::Retention::ALL_PAST, Duration::ZERO)
                    .map_err(|source| DoorError::Open { dir: shown, source });
            }
        };
        // An empty directory must not become a store.
        if !path.join("center.db").exists() {
            if path.join("center.high").exists()
                && let Err(source) = SqliteStore::open_repair(&path)
            {
                return Err(DoorError::Store { dir: shown, source });
            }
            return Err(DoorError::NoStore(shown));
        }
        let store = SqliteStore::open(&path)
            .map_err(|source| DoorError::Store { dir: shown.clone(), source })?;
        Desk::open(Arc::new(store), crate::Retention::ALL_PAST, Duration::ZERO)
            .map_err(|source| DoorError::Open { dir: shown, source })
    })
    .await
    .map_err(|_| DoorError::Runtime)??;
    let desk = Arc::new(desk);
    let made = make(&desk, asked).await.map_err(|e| DoorError::Refused(e.detail().to_owned()));
    let closed = tokio::task::spawn_blocking(move || desk.close());
    match closed.await {
        Ok(Ok(())) => made,
        // What was acknowledged is durable; only the log was not brought into the database.
        Ok(Err(e)) => {
            tracing::warn!(error = %keepgate_observe::chain(&e), "the store did not come to rest");
            made
        }
        Err(_) => Err(DoorError::Runtime),
    }
}
