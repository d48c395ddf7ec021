//! A request with an opaque token that nobody has asked about yet waits here, before it is identified.
//!
//! It is limited by address first. While it waits, permissions may change: after the wait it begins
//! anew, as it was accepted, so that routes, settings and policies are the newest. It is not charged
//! twice.

use std::sync::Arc;

use http::{HeaderMap, Uri};

use super::stage::{Accepted, Ended, Paid, Refused, Routed, Unrouted};
use super::{identify, limit_address, route};
use crate::identify::introspection::{Introspector, Name};
use crate::observe::phase::Phase;

/// A request whose token is asked about, and its head as it came.
pub(super) struct Asking {
    accepted: Accepted,
    server: Arc<Introspector>,
    token: String,
    name: Name,
    uri: Uri,
    headers: HeaderMap,
}

impl Asking {
    /// The request itself where there is nothing to ask.
    pub(super) fn of(accepted: Accepted) -> Result<Accepted, Box<Asking>> {
        let table = accepted.entry.served.table();
        let Some(service) = table.as_ref().and_then(|table| table.service.as_ref()) else {
            return Ok(accepted);
        };
        let Some(server) = &service.ways.introspection else { return Ok(accepted) };
        let headers = &accepted.arrived.parts.headers;
        let Some((token, name)) = identify::opaque(headers, &service.ways) else {
            return Ok(accepted);
        };
        if server.held(&name).is_some() {
            return Ok(accepted);
        }
        let (server, uri) = (Arc::clone(server), accepted.arrived.parts.uri.clone());
        let headers = headers.clone();
        Err(Box::new(Asking { accepted, server, token, name, uri, headers }))
    }

    /// Waits for the answer, which is kept. Then the request is as it was accepted, but for what the
    /// limits said.
    pub(super) async fn wait(self: Box<Self>) -> Result<Accepted, Box<Refused>> {
        let Asking { accepted, server, token, name, uri, headers } = *self;
        let (mut accepted, by_address) = match limit_address::counted(route::run(accepted))? {
            // What has no route is refused without an answer.
            Err((Unrouted { accepted, by_address, .. }, _)) => (accepted, by_address),
            Ok(routed) => {
                let metrics = &routed.accepted.arrived.worker.metrics;
                let begun = || metrics.introspections.add(1);
                if server.ask(&token, name, begun).await.is_err() {
                    metrics.introspection_failed.add(1);
                    let ended = Ended::Routed(routed);
                    return Err(Refused::new(Phase::Identify, identify::unavailable(), ended));
                }
                let Routed { accepted, by_address, .. } = routed;
                (accepted, by_address)
            }
        };
        let by_principal = accepted.paid.take().and_then(|paid| paid.by_principal);
        accepted.paid = Some(Box::new(Paid { by_address, by_principal }));
        accepted.arrived.parts.uri = uri;
        accepted.arrived.parts.headers = headers;
        Ok(accepted)
    }
}
