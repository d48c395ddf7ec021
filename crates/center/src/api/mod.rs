//! HTTP: the admin API under `/v1`, AuthZEN, health, metrics.
//!
//! [`table`] lists every endpoint once, with what it needs and what it says; the router, the
//! OpenAPI document and the guard are made from it.

pub(crate) mod assertions;
pub(crate) mod audit;
pub(crate) mod authzen;
pub(crate) mod authzen_shapes;
pub(crate) mod cedar;
pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod directory;
pub(crate) mod extras;
pub(crate) mod fair;
pub(crate) mod files;
pub(crate) mod gains;
pub(crate) mod guard;
pub(crate) mod host;
mod hour;
pub(crate) mod import;
pub(crate) mod input;
pub(crate) mod items;
pub(crate) mod keys;
pub(crate) mod logs;
pub(crate) mod openapi;
mod past;
pub(crate) mod problem;
pub(crate) mod progress;
pub(crate) mod removal;
pub(crate) mod requests;
mod review;
pub(crate) mod roles;
mod rollback;
pub(crate) mod samples;
pub(crate) mod services;
mod sessions;
mod since;
pub(crate) mod sources;
pub(crate) mod spool;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod tokens;
pub(crate) mod top;
pub(crate) mod traced;
mod twice;
mod who;
pub(crate) mod writes;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::middleware;
use axum::response::Response;
use http::Method;
use keepgate_observe::span::{Tracer, Tracing};
use keepgate_serve::Outages;
use tokio::sync::watch;
use tower_service::Service as _;

use crate::apis;
use crate::console;
use crate::desk::Desk;
use crate::follow::{Followers, SyncService};
use crate::metrics::Metrics;
use crate::neighbors::Neighbors;
use crate::oidc::Provider;
use crate::proto::sync_server::SyncServer;
use crate::server::Bounds;
use problem::Problem;

/// What handlers share. A clone is the same, and costs one count: each layer makes some for a request.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

impl App {
    pub(crate) fn new(shared: Shared) -> App {
        App(Arc::new(shared))
    }
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// See [`App`].
pub(crate) struct Shared {
    pub(crate) desk: Arc<Desk>,
    pub(crate) followers: Arc<Followers>,
    pub(crate) neighbors: Arc<Neighbors>,
    /// Requests for access.
    pub(crate) requests: Arc<crate::requests::Requests>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) usage: Arc<guard::Usage>,
    pub(crate) bounds: Bounds,
    /// Threads for decisions that take a while, shared out by token.
    pub(crate) fair: Arc<fair::Fair>,
    /// Whether the last single decision took long.
    pub(crate) slow: Arc<AtomicBool>,
    /// Who may bring many items at the same time.
    pub(crate) bulk: Arc<files::FileSeats>,
    /// Whether callers reach this center by `https`.
    pub(crate) secure: bool,
    /// The names it answers to.
    pub(crate) hosts: host::Hosts,
    /// The URL callers reach it by, where it was configured.
    pub(crate) public_url: Option<Arc<str>>,
    /// How long callers are asked to wait.
    pub(crate) outages: Arc<Outages>,
    /// Which requests are recorded in traces; none: none are.
    pub(crate) tracing: Option<Tracing>,
    pub(crate) tracer: Arc<Tracer>,
    /// Where people sign in to the console beside tokens; none: nowhere.
    pub(crate) oidc: Option<Arc<Provider>>,
    /// The last hour of each service.
    pub(crate) hours: Arc<crate::hour::Hours>,
    /// When the center began.
    pub(crate) began: Instant,
    /// False once the center shuts down.
    pub(crate) ready: Arc<AtomicBool>,
}

impl Shared {
    /// Milliseconds since the center began.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The result of a handler.
pub(crate) type Answer<T> = Result<T, Problem>;

/// Bytes of a message from a follower. Far above what is kept of one, so that a report which is
/// too large is dropped and does not end the stream.
const FOLLOW_REQUEST_BYTES: usize = 1 << 20;

/// The path of the follow protocol.
pub(crate) const FOLLOW: &str = "/keepgate.sync.v1.Sync/Follow";

/// The whole port: HTTP and gRPC.
#[derive(Clone)]
pub(crate) struct Port {
    app: App,
    router: Router,
}

impl Port {
    pub(crate) fn new(app: App, closing: watch::Receiver<bool>) -> Port {
        Port { router: router(app.clone(), closing), app }
    }

    /// Answers a request.
    pub(crate) async fn answer(&mut self, request: Request) -> Response {
        if request.method() == Method::POST && request.uri().path() == authzen::EVALUATION {
            return authzen::direct(self.app.clone(), request).await;
        }
        let Ok(response) = self.router.call(request).await;
        response
    }
}

fn router(app: App, closing: watch::Receiver<bool>) -> Router {
    let mut endpoints = Router::new();
    for endpoint in table::endpoints() {
        let layer =
            middleware::from_fn_with_state((app.clone(), endpoint.needs), guard::permission);
        let mut handler = (endpoint.handler)();
        if endpoint.query.is_empty() {
            handler = handler.route_layer(middleware::from_fn(guard::no_query));
        }
        let handler = handler.route_layer(layer);
        endpoints = endpoints.route(&endpoint.path, handler);
    }
    let sync = SyncServer::new(SyncService::new(
        Arc::clone(&app.desk),
        Arc::clone(&app.followers),
        Arc::clone(&app.metrics),
        Arc::clone(&app.neighbors),
        Arc::clone(&app.requests),
        closing.clone(),
    ))
    .max_decoding_message_size(FOLLOW_REQUEST_BYTES);
    let sync = axum::routing::post_service(sync)
        .route_layer(middleware::from_fn_with_state(app.clone(), guard::follower));
    let apis = apis::router(app.clone());
    // The console asks the same endpoints, past nothing but the door of the port.
    let console = console::router(app.clone(), endpoints.clone().with_state(app.clone()), closing);
    endpoints
        .route(FOLLOW, sync)
        .with_state(app.clone())
        .merge(console)
        .merge(apis)
        .fallback(async |request: Request| {
            Problem::not_found(format!("nothing is at `{}`", request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| {
            Problem::method(format!(
                "`{}` does not take {}",
                request.uri().path(),
                request.method()
            ))
        })
        .layer(middleware::from_fn_with_state(app.clone(), host::check))
        .layer(middleware::from_fn_with_state(app, guard::envelope))
}
