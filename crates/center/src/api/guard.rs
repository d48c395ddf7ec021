//! What every request passes: its id, the count, the token, the permission.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use axum::RequestExt as _;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::App;
use super::problem::{GATHERING, Problem};
use super::traced::Recorded;
use super::writes::{self, REPLAYED, TRUE};
use crate::access::{Caller, Permission};
use crate::metrics::Api;
use crate::server::Peer;
use crate::store::TokenUse;
use crate::token::{self, PeerCertificate};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Marks a request that is refused because all connections are taken, but for a reserve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowded;

/// In the extensions of an answer that says by itself when to come again, and with 503 of no failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SaysWhen;

/// The outermost layer: request id in and out, metrics, errors in the log.
pub(crate) async fn envelope(State(app): State<App>, request: Request, next: Next) -> Response {
    enveloped(&app, request, |request| next.run(request)).await
}

/// The same around anything that answers.
pub(crate) async fn enveloped<F: Future<Output = Response>>(
    app: &App,
    request: Request,
    inner: impl FnOnce(Request) -> F,
) -> Response {
    let began = Instant::now();
    let api = Api::of(request.uri().path());
    let id = match request.headers().get(&REQUEST_ID) {
        Some(id) => Some(id.clone()),
        None => new_id(),
    };
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let recorded = Recorded::of(app, &request);
    let is_crowded = request.extensions().get::<Crowded>().is_some();
    let mut response =
        if is_crowded { Problem::crowded().into_response() } else { inner(request).await };
    app.metrics.answered(api, response.status().as_u16());
    if matches!(api, Api::Admin | Api::Authzen) {
        app.metrics.took(began.elapsed(), recorded.as_ref().map(|recorded| recorded.trace_id));
    }
    let shown = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
    if let Some(recorded) = recorded {
        recorded.ended(response.status(), began.elapsed(), shown);
    }
    let kind = response.extensions().get::<Problem>().map(Problem::kind);
    // Why it is not ready is said once, by whoever finds out, and not for each question.
    let is_asked = path == "/readyz";
    let says_when = response.extensions().get::<SaysWhen>().is_some();
    let is_expected = is_crowded || kind == Some(GATHERING) || is_asked || says_when;
    if response.status().is_server_error() && !is_expected {
        tracing::error!(%method, path, status = response.status().as_u16(), request_id = shown,
            "a request failed");
    }
    let problem = response.extensions_mut().remove::<Problem>();
    if matches!(response.status().as_u16(), 429 | 503) && !says_when {
        let kind = problem.as_ref().map_or("not-ready", Problem::kind);
        let wait = app.outages.refused(kind, app.now_ms(), random());
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    }
    if let Some(problem) = problem {
        let body = problem.body(Some(shown).filter(|shown| !shown.is_empty()));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A number that callers cannot foresee; where there is none, always the same.
pub(crate) fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// In front of endpoints that take no parameter: one that is sent has no effect, and whoever sent it
/// expects one.
pub(crate) async fn no_query(request: Request, next: Next) -> Response {
    match takes_no_query(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// See [`no_query`].
pub(crate) fn takes_no_query(request: &Request) -> Result<(), Problem> {
    match request.uri().query().unwrap_or_default() {
        "" => Ok(()),
        query => {
            let name = query.split(['=', '&']).next().unwrap_or_default();
            let path = request.uri().path();
            let detail = format!("the query: {name}: unknown field `{name}`; `{path}` takes none");
            Err(Problem::bad_request(detail))
        }
    }
}

/// A random part of this process, then a number: unique, not secret.
fn new_id() -> Option<HeaderValue> {
    static PROCESS: LazyLock<u64> = LazyLock::new(random);
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut bytes = [0_u8; 12];
    let (process, number) = bytes.split_at_mut(8);
    process.copy_from_slice(&PROCESS.to_be_bytes());
    number.copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    HeaderValue::from_str(&token::hex(&bytes)).ok()
}

/// In front of every endpoint: is there a good token where one is needed, and may it?
pub(crate) async fn permission(
    State((app, needs)): State<(App, Permission)>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut named = None;
    if needs != Permission::Open {
        let caller = match caller(&app, &request) {
            Ok(caller) => caller,
            Err(problem) => return problem.into_response(),
        };
        if let Err(problem) = may(&caller, needs, &request) {
            return problem.into_response();
        }
        if needs == Permission::Write
            && let Some(own) = caller.bound()
            && let Some(other) = service_of(&mut request).await.filter(|name| name != own)
        {
            let detail = format!("an editor of service `{own}` may not write service `{other}`");
            return Problem::forbidden(detail).into_response();
        }
        let writes = matches!(needs, Permission::Write | Permission::Tokens);
        let write = match writes && request.method() != Method::GET {
            true => writes::named(&request, caller.token_id()),
            false => Ok(None),
        };
        named = match write {
            Ok(write) => write,
            Err(problem) => return problem.into_response(),
        };
        request.extensions_mut().insert(caller.named(named.clone()));
    }
    if needs == Permission::Decide
        && let Err(problem) = serves(&app)
    {
        return problem.into_response();
    }
    let mut response = next.run(request).await;
    if named.is_some_and(|write| write.is_replayed()) {
        response.headers_mut().insert(REPLAYED, TRUE);
    }
    response
}

/// Who asks for a decision: as [`permission`], for an endpoint that is not asked through the router.
pub(crate) fn decider(app: &App, request: &Request) -> Result<Caller, Problem> {
    let caller = caller(app, request)?;
    may(&caller, Permission::Decide, request)?;
    serves(app)?;
    Ok(caller)
}

fn may(caller: &Caller, needs: Permission, request: &Request) -> Result<(), Problem> {
    if caller.may(needs) {
        return Ok(());
    }
    Err(Problem::forbidden(format!(
        "a token of role `{}` may not {} {}",
        caller.role().name(),
        request.method(),
        request.uri().path()
    )))
}

/// Decisions from a state that may lack what was acknowledged would flatter.
fn serves(app: &App) -> Result<(), Problem> {
    let condition = app.desk.condition();
    if condition.serves() { Ok(()) } else { Err(Problem::history(&condition)) }
}

/// The service that a request's path names. One that cannot be decoded names none that there is.
async fn service_of(request: &mut Request) -> Option<String> {
    let params = request.extract_parts::<RawPathParams>().await.ok()?;
    params.iter().find(|(name, _)| *name == "service").map(|(_, value)| value.to_owned())
}

/// In front of the follow protocol: the same, in the words of gRPC.
pub(crate) async fn follower(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match follower_of(&app, &request) {
        Ok(caller) if caller.may(Permission::Follow) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(caller) => {
            let role = caller.role().name();
            let status = tonic::Status::permission_denied(format!(
                "a token of role `{role}` may not follow"
            ));
            status.into_http::<Body>()
        }
        Err(problem) => {
            tonic::Status::unauthenticated(problem.detail().to_owned()).into_http::<Body>()
        }
    }
}

/// Who follows: by token, or without one by the connection's client certificate.
fn follower_of(app: &App, request: &Request) -> Result<Caller, Problem> {
    let certificate = request.extensions().get::<Arc<PeerCertificate>>();
    let Some(certificate) =
        certificate.filter(|_| !request.headers().contains_key(header::AUTHORIZATION))
    else {
        return caller(app, request);
    };
    match Caller::of_certificate(certificate, &app.desk.head()) {
        Some(caller) => {
            note_use(app, &caller, request);
            Ok(caller)
        }
        None => {
            app.metrics.unauthenticated.add(1);
            let shown: Vec<&str> = certificate.names.iter().map(String::as_str).take(4).collect();
            let shown = match shown.as_slice() {
                [] => "no DNS name and no URI".to_owned(),
                names => format!("`{}`", names.join("`, `")),
            };
            Err(Problem::unauthenticated(format!(
                "the client certificate has expired, or none of its names may follow: it has {shown}; \
                 `keepgate token create --role gate --service NAME --certificate NAME` lets one"
            )))
        }
    }
}

fn note_use(app: &App, caller: &Caller, request: &Request) {
    if caller.is_person() {
        return;
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip().to_canonical());
    app.usage.note(caller.token_id(), peer);
}

/// In the extensions of a request that the console makes in process, for whoever has signed in. No
/// request from outside has extensions.
#[derive(Clone, Debug)]
pub(crate) struct SignedIn(pub(crate) Caller);

fn caller(app: &App, request: &Request) -> Result<Caller, Problem> {
    if let Some(SignedIn(caller)) = request.extensions().get::<SignedIn>() {
        note_use(app, caller, request);
        return Ok(caller.clone());
    }
    let head = app.desk.head();
    let found = bearer(request.headers()).and_then(|text| {
        Caller::of(text, &head).ok_or_else(|| {
            Problem::unauthenticated("the token is unknown, was revoked, or has expired")
        })
    });
    match found {
        Ok(caller) => {
            note_use(app, &caller, request);
            Ok(caller)
        }
        Err(problem) => {
            app.metrics.unauthenticated.add(1);
            Err(problem)
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let detail =
            "expected `Authorization: Bearer TOKEN`; `keepgate token create` makes a token";
        return Err(Problem::unauthenticated(detail));
    };
    let (scheme, text) =
        value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(|| {
            Problem::unauthenticated("expected `Authorization: Bearer TOKEN`, got another form")
        })?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        let detail = "expected `Authorization: Bearer TOKEN`, got another scheme";
        return Err(Problem::unauthenticated(detail));
    }
    Ok(text.trim())
}

/// When tokens were used and from where, until it is written down: no request waits for a write.
/// Bounded: only known tokens get here, one entry each.
#[derive(Debug, Default)]
pub(crate) struct Usage(Mutex<HashMap<String, Use>>);

/// The last use of a token.
#[derive(Clone, Copy, Debug)]
struct Use {
    unix_s: u64,
    from: Option<IpAddr>,
}

impl Use {
    fn of(self, id: String) -> TokenUse {
        let from = self.from.map(|from| from.to_string()).unwrap_or_default();
        TokenUse { id, unix_s: self.unix_s, from }
    }
}

impl Usage {
    fn note(&self, id: &str, from: Option<IpAddr>) {
        let last = Use { unix_s: keepgate_observe::unix_s(), from };
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match used.get_mut(id) {
            Some(held) => *held = last,
            None => {
                used.insert(id.to_owned(), last);
            }
        }
    }

    /// Takes what has been noted since the last time.
    pub(crate) fn take(&self) -> Vec<TokenUse> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *used).into_iter().map(|(id, last)| last.of(id)).collect()
    }

    /// The last use of a token, where that is not written down yet.
    pub(crate) fn last(&self, id: &str) -> Option<TokenUse> {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.get(id).map(|last| last.of(id.to_owned()))
    }
}
