//! How the center is: health, revision, audit log, followers, metrics.

use std::sync::atomic::Ordering;

use axum::Json as Out;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use keepgate_api as api;
use keepgate_observe::Dialect;
use keepgate_policy::Revision;

use super::App;
use crate::desk::{Condition, Desk, Scope};
use crate::follow::{Follower, Followers, GateReport, PortsLeft};
use crate::metrics::{Levels, Metrics};

pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

pub(crate) async fn readyz(State(app): State<App>) -> Response {
    let missing = missing(&app);
    let ready = missing.is_empty();
    let body = Out(api::Readiness { ready, missing });
    if ready {
        return body.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

fn missing(app: &App) -> Vec<api::Missing> {
    let mut missing = Vec::new();
    let mut lacks = |part, kind: &str, why: &str| {
        missing.push(api::Missing { part, kind: kind.to_owned(), why: why.to_owned() });
    };
    if !app.ready.load(Ordering::Relaxed) {
        lacks(api::Part::Process, "shutting-down", "the center was told to stop");
    }
    let condition = app.desk.condition();
    let part = match &condition {
        Condition::Ready => None,
        Condition::Full(_) | Condition::Stopped(_) => Some(api::Part::Disk),
        Condition::Waiting | Condition::Losing(_) | Condition::Lost(_) => Some(api::Part::History),
    };
    if let Some(part) = part {
        lacks(part, condition.name(), condition.why());
    }
    if !crate::desk::an_admin_remains(&app.desk.head(), "") {
        let why = "no admin token is valid; on the center's host, `keepgate center token --data DIR` \
                   makes one";
        lacks(api::Part::Keys, "no-admin-token", why);
    }
    missing
}

pub(crate) async fn revision(State(app): State<App>) -> Out<api::Revision> {
    let head = app.desk.head();
    Out(api::Revision {
        revision: head.revision.0,
        digest: head.digest(&Scope::All).to_string(),
        history: head.mark.history.to_string(),
    })
}

/// A gate that was not heard for longer than this is one to look at; it pulses every second.
const SILENT_MS: u64 = 5_000;

/// Every center and gate with release, history, revision, age and connection, and what is wrong.
pub(crate) async fn status(State(app): State<App>) -> Out<api::Status> {
    let head = app.desk.head();
    let condition = app.desk.condition();
    let now = keepgate_observe::unix_ms();
    let mut wrong: Vec<String> = Vec::new();
    if condition != Condition::Ready {
        wrong.push(format!("center: {}: {}", condition.name(), condition.why()));
    }
    let mut centers = vec![app.neighbors.own(&head)];
    let (others, said) = app.neighbors.centers();
    centers.extend(others);
    wrong.extend(said);
    let mut gates = Vec::new();
    for (center, follower) in app.neighbors.followers() {
        let said = faults(&follower, head.revision, now);
        wrong.extend(said.iter().map(|said| format!("gate {}: {said}", follower.name)));
        gates.push(api::GateStatus {
            name: follower.name,
            center,
            peer: follower.peer.map(|peer| peer.to_string()),
            services: shown(follower.scope),
            release: follower.release,
            format: follower.format,
            history: follower.history.map(|history| history.to_string()),
            sent: follower.sent.0,
            revision: follower.applied.0,
            age_ms: follower.age_ms,
            heard_ms_ago: follower.pulse_unix_ms.map(|at| now.saturating_sub(at)),
            connected_ms: now.saturating_sub(follower.connected_unix_ms),
            report: follower.report.map(|(report, at)| told(report, now.saturating_sub(at))),
            wrong: said,
        });
    }
    Out(api::Status { centers, gates, wrong })
}

fn told(report: GateReport, told_ms_ago: u64) -> api::GateReport {
    let left = |left: PortsLeft| api::PortsLeft {
        source: left.source,
        destination: left.destination,
        usable: left.usable,
        free: left.free,
    };
    api::GateReport {
        told_ms_ago,
        caller_connections: report.caller_connections,
        upstream_connections: report.upstream_connections,
        requests: report.requests,
        reused: report.reused,
        tightest: report.tightest.map(left),
        verdict: report.verdict,
        headline: report.headline,
    }
}

fn faults(follower: &Follower, head: Revision, now: u64) -> Vec<String> {
    let mut said = Vec::new();
    said.extend(follower.held_back.map(str::to_owned));
    if follower.format <= 1 && follower.held_back.is_none() {
        said.push("release 0.1: it does not count its age by pulses; upgrade it".to_owned());
    }
    if let Some(at) = follower.pulse_unix_ms
        && now.saturating_sub(at) > SILENT_MS
    {
        said.push(format!("not heard for {} ms", now.saturating_sub(at)));
    }
    let connected = now.saturating_sub(follower.connected_unix_ms);
    if follower.applied < head && follower.sent < head && connected > SILENT_MS {
        said.push(format!("at revision {}, the center is at {head}", follower.applied));
    }
    said
}

fn shown(scope: Scope) -> api::Scope {
    match scope {
        Scope::All => api::Scope::ALL,
        Scope::Services(names) => api::Scope::Services(names.into_iter().collect()),
    }
}

pub(crate) async fn followers(State(app): State<App>) -> Out<api::Followers> {
    let revision = app.desk.head().revision.0;
    let shown = |(center, follower): (String, Follower)| api::Follower {
        name: follower.name,
        center,
        peer: follower.peer.map(|peer| peer.to_string()),
        token: follower.token,
        services: shown(follower.scope),
        sent: follower.sent.0,
        applied: follower.applied.0,
        applied_unix_ms: follower.applied_unix_ms,
        connected_unix_ms: follower.connected_unix_ms,
    };
    let followers = app.neighbors.followers().into_iter().map(shown).collect();
    Out(api::Followers { revision, centers: app.neighbors.count(), followers })
}

/// The page of metrics.
pub(crate) fn page(
    desk: &Desk,
    followers: &Followers,
    metrics: &Metrics,
    dialect: Dialect,
) -> String {
    let head = desk.head();
    let followers = followers.list();
    let behind = followers.iter().map(|f| head.revision.0.saturating_sub(f.applied.0)).max();
    let levels = Levels {
        revision: head.revision.0,
        services: head.services.len() as u64,
        items: head.scopes.values().map(|scope| scope.items).sum(),
        followers: followers.len() as u64,
        lag_revisions: behind.unwrap_or(0),
    };
    metrics.render(levels, dialect)
}

pub(crate) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter();
    let dialect = Dialect::asked(accept.filter_map(|value| value.to_str().ok()));
    let mut response = page(&app.desk, &app.followers, &app.metrics, dialect).into_response();
    let kind = HeaderValue::from_static(dialect.content_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
