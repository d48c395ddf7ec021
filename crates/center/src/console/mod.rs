//! The console: pages for people, at the center's `/`.
//!
//! Every request passes [`serve`], which knows each path by [`PATHS`] and enters by [`visit::enter`]:
//! host, session, origin and form are checked there, and nowhere else. Pages know no rule of their own:
//! what they show and do, they ask of the admin API's own endpoints, in process, as whoever has signed
//! in ([`ask`]). Nothing is inline: styles, script and icon are [`assets`], and no page names another
//! host.
//!
//! All texts are in [`text`], in each language; a test over the sources finds one that is not.

mod access;
mod ask;
mod assets;
mod back;
mod callers;
mod chart;
mod complete;
mod cookies;
mod diff;
mod form;
mod frame;
mod grants;
mod history;
mod live;
mod login;
mod oidc;
mod overview;
mod part;
mod plans;
mod policies;
mod requests;
mod reviews;
mod session;
mod text;
mod visit;
mod way;
mod why;
mod wrong;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::sync::watch;

use crate::api::App;
use visit::{Door, Visit};

/// A path of the console, its method, and whether it needs a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsolePath {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Without parameters.
    pub path: &'static str,
    /// Whether only those come in who have signed in.
    pub signed_in: bool,
}

const fn path(method: &'static str, path: &'static str, signed_in: bool) -> ConsolePath {
    ConsolePath { method, path, signed_in }
}

/// All of them, but for files that never change (`/static/`).
pub const PATHS: [ConsolePath; 32] = [
    path("GET", "/", false),
    path("GET", "/login", false),
    path("POST", "/login", false),
    path("GET", oidc::BEGIN, false),
    path("GET", oidc::BACK, false),
    path("POST", "/settings", false),
    path("POST", "/logout", true),
    path("GET", "/overview", true),
    path("GET", "/why", true),
    path("GET", "/access", true),
    path("GET", "/access/give", true),
    path("POST", "/access/give", true),
    path("GET", "/access/take", true),
    path("POST", "/access/take", true),
    path("GET", "/access/grant", true),
    path("POST", "/access/grant", true),
    path("GET", "/access/ungrant", true),
    path("POST", "/access/ungrant", true),
    path("GET", "/policies", true),
    path("POST", "/policies", true),
    path("GET", "/callers", true),
    path("POST", "/callers/key", true),
    path("POST", "/callers/revoke", true),
    path("GET", "/callers/request", true),
    path("POST", "/callers/approve", true),
    path("POST", "/callers/decline", true),
    path("GET", "/history", true),
    path("GET", "/history/diff", true),
    path("GET", "/history/back", true),
    path("POST", "/history/back", true),
    path("GET", "/complete", true),
    path("GET", "/live", true),
];

/// What the console's pages share.
#[derive(Clone)]
pub(crate) struct Console {
    app: App,
    /// The admin API's endpoints, with their permissions.
    api: Router,
    attempts: Arc<crate::attempts::Attempts>,
    streams: Arc<live::Streams>,
    closing: watch::Receiver<bool>,
}

/// The console's routes; `api` are the endpoints that it asks.
pub(crate) fn router(app: App, api: Router, closing: watch::Receiver<bool>) -> Router {
    let console = Console { app, api, attempts: Arc::default(), streams: Arc::default(), closing };
    let mut router = Router::new().route("/static/{name}", get(assets::fetch));
    for ConsolePath { method, path, .. } in PATHS {
        let handler = if method == "GET" { get(serve) } else { post(serve) };
        router = router.route(path, handler);
    }
    router.layer(axum::middleware::map_response(guarded)).with_state(console)
}

/// What a browser may do with an answer of the console: load what is the center's own, and nothing
/// that is written in a page.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// With `same-origin`, and not `no-referrer`: without a referrer a form's `Origin` is `null`.
const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Every page and every form.
async fn serve(State(console): State<Console>, request: Request) -> Response {
    let door = PATHS.iter().find(|known| {
        known.path == request.uri().path() && known.method == method_of(request.method())
    });
    let Some(door) = door else { return StatusCode::NOT_FOUND.into_response() };
    let door = if door.signed_in { Door::SignedIn } else { Door::Open };
    let visit = match visit::enter(&console, request, door).await {
        Ok(visit) => visit,
        Err(refused) => return *refused,
    };
    let answer = page(&console, &visit).await;
    visit.finish(answer)
}

/// A page asked for by HEAD is made as by GET; what serves it leaves the body out.
fn method_of(method: &Method) -> &str {
    if method == Method::HEAD { "GET" } else { method.as_str() }
}

async fn page(console: &Console, visit: &Visit) -> Response {
    match (visit.method.as_str(), visit.path.as_str()) {
        ("GET", "/login") => login::show(console, visit),
        ("GET", oidc::BEGIN) => oidc::begin(console, visit).await,
        ("GET", oidc::BACK) => oidc::back(console, visit).await,
        ("POST", "/login") => login::sign_in(console, visit).await,
        ("POST", "/logout") => login::sign_out(console, visit).await,
        ("POST", "/settings") => login::settings(visit),
        ("GET", "/overview") => overview::show(console, visit).await,
        ("GET", "/why") => why::show(console, visit).await,
        ("GET", "/access") => access::show(console, visit).await,
        (_, "/access/give") => access::give(console, visit).await,
        (_, "/access/take") => access::take(console, visit).await,
        (_, "/access/grant") => grants::give(console, visit).await,
        (_, "/access/ungrant") => grants::take(console, visit).await,
        ("GET", "/policies") => policies::show(console, visit).await,
        ("POST", "/policies") => policies::submit(console, visit).await,
        ("GET", "/callers") => callers::show(console, visit).await,
        ("POST", "/callers/key") => callers::make_key(console, visit).await,
        ("POST", "/callers/revoke") => callers::revoke_key(console, visit).await,
        ("GET", "/callers/request") => requests::show(console, visit).await,
        ("POST", "/callers/approve" | "/callers/decline") => requests::decide(console, visit).await,
        ("GET", "/history") => history::show(console, visit).await,
        ("GET", "/history/diff") => diff::show(console, visit).await,
        (_, "/history/back") => back::go(console, visit).await,
        ("GET", "/complete") => complete::answer(console, visit).await,
        ("GET", "/live") => live::stream(console, visit),
        _ => visit::see_other(if visit.who.is_some() { "/overview" } else { "/login" }),
    }
}
