//! The keys by which upstreams verify what gates assert to them (`Keepgate-Assertion`).

use std::time::{Duration, Instant};

use axum::Json as Out;
use axum::extract::State;
use http::header::CACHE_CONTROL;
use keepgate_policy::assertion::{Jwk, PublicKey};
use schemars::JsonSchema;
use serde::Serialize;

use super::input::Params;
use super::problem::Problem;
use super::{Answer, App};
use crate::access::Caller;
use crate::desk::Refusal;

/// How long a verifier may go without asking again. A key is published before it signs.
const FRESH: &str = "public, max-age=30";

/// After its start the center waits so long for gates to say their keys: an empty list would have
/// verifiers forget what they know.
const GATHERS: Duration = Duration::from_secs(30);

/// A key set (RFC 7517).
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeySet {
    /// Keys of ES256, by their thumbprints (RFC 7638).
    keys: Vec<Jwk>,
}

/// The keys of the gates that follow a service.
pub(crate) async fn jwks(
    State(app): State<App>,
    Params(service): Params<String>,
) -> Answer<([(http::HeaderName, &'static str); 1], Out<KeySet>)> {
    let head = app.desk.head();
    if !head.services.contains_key(&service) {
        return Err(Refusal::no_service(&service).into());
    }
    let is_good = |caller: &Caller| caller.still_good(&head);
    let mut keys = app.followers.keys().of(&service, is_good, Instant::now());
    if app.desk.is_shared() {
        // A gate may sign since a moment ago.
        app.neighbors.hear().await;
        let now = keepgate_observe::unix_s();
        let is_good = |token: &str| head.tokens.get(token).is_some_and(|row| row.is_good(now));
        for key in app.neighbors.keys(&service, is_good) {
            if !keys.iter().any(|known| known.point == key.point) {
                keys.push(key);
            }
        }
    }
    if keys.is_empty() && app.began.elapsed() < GATHERS {
        return Err(Problem::gathering());
    }
    let keys = keys.iter().map(PublicKey::jwk).collect();
    Ok(([(CACHE_CONTROL, FRESH)], Out(KeySet { keys })))
}
