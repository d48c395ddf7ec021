//! A request's headers as the upstream gets them.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method};

use super::stage::{Accepted, Identified, Routed};
use super::worker::Backend;
use crate::message::headers::{
    self, KEEPGATE_PRINCIPAL, Sender, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT,
    X_FORWARDED_PROTO, X_REQUEST_ID,
};
use crate::wire::peer::Peer;

/// Cleans them, and adds what the gate says of the request. Its target has no authority any more.
pub(crate) fn prepare(identified: &mut Identified, backend: &Backend, has_body: bool) {
    let Identified { routed: Routed { accepted, found, .. }, identity } = identified;
    let Accepted { arrived, entry, client, trusted, asked, websocket, .. } = accepted;
    let (client, trusted, peer) = (*client, *trusted, &arrived.peer);
    let parts = &mut arrived.parts;
    let trailers = headers::takes_trailers(&parts.headers);
    let authority = parts.uri.authority().map(|a| a.as_str().to_owned());
    let map = &mut parts.headers;
    let settings = &arrived.worker.common.settings;
    let sender = Sender { trusted, forwarding: &settings.forwarding_header };
    headers::clean_request(map, *asked, sender, &found.service.regard, trailers);
    map.remove(EXPECT);
    arrived.trace.pass_on(map);
    let changes = &entry.site.config.request_headers;
    for name in &changes.remove {
        map.remove(name);
    }
    for (name, value) in &changes.set {
        map.insert(name, value.clone());
    }
    if has_body
        && matches!(parts.method, Method::GET | Method::HEAD)
        && !map.contains_key(CONTENT_LENGTH)
    {
        // hyper sends no body with these unless it is told to.
        map.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let host = match (map.get(HOST), &authority) {
        (Some(host), _) => Some(host.clone()),
        (None, Some(authority)) => HeaderValue::try_from(authority.as_str()).ok(),
        (None, None) => None,
    };
    name_caller(map, trusted, client, peer);
    let scheme = if peer.is_tls { "https" } else { "http" };
    if !(trusted && map.contains_key(X_FORWARDED_PROTO)) {
        map.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !(trusted && map.contains_key(X_FORWARDED_PORT)) {
        let asked = host
            .as_ref()
            .and_then(|host| keepgate_policy::host::normal(host.to_str().ok()?).ok()?.1);
        let port = asked.unwrap_or(if peer.is_tls { 443 } else { 80 });
        map.insert(X_FORWARDED_PORT, HeaderValue::from(port));
    }
    if let Some(host) = &host
        && !(trusted && map.contains_key(X_FORWARDED_HOST))
    {
        map.insert(X_FORWARDED_HOST, host.clone());
    }
    match (backend.keeps_host, host) {
        (true, Some(host)) => {
            map.insert(HOST, host);
        }
        // The pool puts in the upstream's own.
        _ => {
            map.remove(HOST);
        }
    }
    map.insert(X_REQUEST_ID, arrived.request_id.clone());
    if let Some(principal) = &identity.header {
        map.insert(KEEPGATE_PRINCIPAL, principal.clone());
    }
    // Last, so that nothing that was set before passes for a claim.
    for (name, value) in identity.said.iter().flat_map(|said| &said.headers) {
        map.insert(name, value.clone());
    }
    if *websocket {
        map.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        map.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if authority.is_some() {
        let mut target = http::uri::Parts::default();
        target.path_and_query = parts.uri.path_and_query().cloned();
        if let Ok(uri) = http::Uri::from_parts(target) {
            parts.uri = uri;
        }
    }
}

/// `X-Forwarded-For`: what came of it from a trusted proxy, else the caller that another header
/// named, and the peer.
fn name_caller(map: &mut HeaderMap, trusted: bool, client: Option<IpAddr>, peer: &Peer) {
    let Some(peer_value) = &peer.forwarded_for else {
        // Over a Unix socket there is no address to add.
        if let (false, Some(client)) = (map.contains_key(X_FORWARDED_FOR), client)
            && let Ok(value) = HeaderValue::try_from(client.to_string())
        {
            map.insert(X_FORWARDED_FOR, value);
        }
        return;
    };
    let is_other = client != peer.address();
    let named = client.filter(|_| is_other).map(|client| client.to_string());
    let named = named.and_then(|text| HeaderValue::try_from(text).ok());
    let value = match (map.get(X_FORWARDED_FOR), &named) {
        (Some(before), _) if trusted => {
            joined(map.get_all(X_FORWARDED_FOR).iter(), before, peer_value)
        }
        (None, Some(named)) if trusted => joined([named].into_iter(), named, peer_value),
        _ => peer_value.clone(),
    };
    map.insert(X_FORWARDED_FOR, value);
}

/// All lines of `X-Forwarded-For`, and the peer.
fn joined<'a>(
    lines: impl Iterator<Item = &'a HeaderValue>,
    first: &HeaderValue,
    peer: &HeaderValue,
) -> HeaderValue {
    let mut text = Vec::with_capacity(first.len() + peer.len() + 2);
    for line in lines {
        text.extend_from_slice(line.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| peer.clone())
}
