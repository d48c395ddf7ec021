//! Who is it? The service's ways are tried in their order; the first credential that is shown
//! decides, for better or worse.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use keepgate_observe::unix_s;
use keepgate_policy::Uid;
use keepgate_policy::identify::CertificateName;
use keepgate_serve::certificate::{CertificateError, NameOf};
use subtle::ConstantTimeEq as _;

use super::stage::{Accepted, By, Ended, Found, Identified, Identity, Refused, Routed, ShownKey};
use super::worker::Served;
use crate::identify::cache::{self, Known};
use crate::identify::claims::{self, Said, Unsayable};
use crate::identify::introspection::{self, Introspector, Verdict};
use crate::identify::jwt::{JwtError, Unverified, Verified};
use crate::identify::key;
use crate::message::problem::{Kind, Problem};
use crate::observe::phase::Phase;
use crate::service::table::{Issuer, Ways};
use crate::wire::peer::Peer;

/// The longest id that a trusted header may carry.
const MAX_ID: usize = 256;

#[expect(clippy::manual_async_fn, reason = "an async fn would hold its argument twice")]
pub(crate) fn run(
    mut routed: Routed,
) -> impl Future<Output = Result<Identified, Box<Refused>>> + Send {
    async move {
        match identity(&mut routed).await {
            Ok(identity) => Ok(routed.identified(identity)),
            Err(problem) => Err(Refused::new(Phase::Identify, problem, Ended::Routed(routed))),
        }
    }
}

/// Who it is. Credentials that are between the caller and the gate are taken out of its headers.
pub(super) async fn identity(routed: &mut Routed) -> Result<Identity, Problem> {
    let ways = Arc::clone(&routed.found.service.ways);
    let belief = disbelieve(routed, &ways);
    let identity = by_any_way(routed, &ways, belief).await?;
    // The key is between the caller and the gate, also where something else identified it.
    if let Some(header) = ways.api_key.as_ref().filter(|header| **header != AUTHORIZATION) {
        fields(routed).remove(header);
    }
    Ok(identity)
}

fn fields(routed: &mut Routed) -> &mut HeaderMap {
    &mut routed.accepted.arrived.parts.headers
}

/// Whether the trusted header can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Belief {
    /// It can, if it is still there.
    Readable,
    /// It is there, and the gate may not believe it from anybody.
    Refused,
}

/// Takes the trusted header away from whoever is not trusted with it, whatever else is shown:
/// the upstream may believe it too.
fn disbelieve(routed: &mut Routed, ways: &Ways) -> Belief {
    let Some(way) = &ways.trusted else { return Belief::Readable };
    if way.is_refused {
        let was_there = fields(routed).remove(&way.header).is_some();
        return if was_there { Belief::Refused } else { Belief::Readable };
    }
    // Behind a sender of PROXY protocol headers this is the source that it named.
    let peer = &routed.accepted.arrived.peer;
    let peer = peer.address().filter(|_| !peer.is_unnamed);
    let believes = |ip| way.peers.iter().any(|range| range.contains(ip));
    if !peer.is_some_and(believes) {
        fields(routed).remove(&way.header);
    }
    Belief::Readable
}

async fn by_any_way(routed: &mut Routed, ways: &Ways, belief: Belief) -> Result<Identity, Problem> {
    let mut is_other = false;
    match bearer(fields(routed), ways)? {
        Shown::Token(token) => return by_token(&routed.accepted, ways, &token).await,
        Shown::Key(key) => return by_key(routed, ways, AUTHORIZATION, &key),
        Shown::Other => is_other = true,
        Shown::Nothing => {}
    }
    if let Some(header) = &ways.api_key
        && let Some(value) = only(fields(routed), header, ways)?
    {
        let key = value.to_owned();
        return by_key(routed, ways, header.clone(), &key);
    }
    if let Some(identity) = by_certificate(&routed.accepted, ways)? {
        return Ok(identity);
    }
    if belief == Belief::Refused {
        // Nobody is told that a name does not hold because of how the gate was started.
        let detail = "the gate does not accept the identity header from every address";
        return Err(Problem::new(Kind::NoIdentity, detail));
    }
    if let Some(identity) = by_trusted_header(fields(routed), ways)? {
        return Ok(identity);
    }
    // It hid nothing, and alone it is no way to be nobody.
    if is_other {
        return Err(refused(ways, "the service takes no credential of this kind"));
    }
    if routed.found.anonymous {
        let principal = Arc::clone(&ways.anonymous);
        let header = header_of(&principal);
        let (key, until_unix_s, said) = (None, None, None);
        let (is_anonymous, by) = (true, By::Nothing);
        return Ok(Identity { principal, header, is_anonymous, by, key, until_unix_s, said });
    }
    if ways.certificate.is_some() && routed.accepted.entry.site.client_ca.is_none() {
        // Nobody is told to show what the gate does not ask for.
        let detail =
            "the gate does not ask callers for the client certificate that the service takes";
        return Err(Problem::new(Kind::NoIdentity, detail));
    }
    Err(Problem::new(Kind::Unauthenticated, "no credentials were shown")
        .header(WWW_AUTHENTICATE, ways.challenge.clone()))
}

/// What `Authorization` shows.
enum Shown {
    Token(String),
    Key(String),
    /// What the service does not take, beside tokens that it does.
    Other,
    /// Nothing, or what is the upstream's business.
    Nothing,
}

/// Where the service takes no tokens, what is shown is the upstream's business. Nothing that the
/// service does not take hides what it does.
fn bearer(fields: &HeaderMap, ways: &Ways) -> Result<Shown, Problem> {
    let mut found = Shown::Nothing;
    for value in fields.get_all(AUTHORIZATION) {
        let shown = match value.to_str() {
            Ok(text) => credential(text, ways),
            Err(_) if is_bearer(value.as_bytes()) && ways.takes_tokens() => {
                return Err(refused(ways, "the credential is malformed"));
            }
            Err(_) => Shown::Other,
        };
        found = match (found, shown) {
            (Shown::Nothing | Shown::Other, shown @ (Shown::Token(_) | Shown::Key(_))) => shown,
            (Shown::Token(_) | Shown::Key(_), Shown::Token(_) | Shown::Key(_)) => {
                return Err(refused(ways, "more than one credential was shown"));
            }
            (Shown::Nothing, Shown::Other) if ways.takes_tokens() => Shown::Other,
            (found, _) => found,
        };
    }
    Ok(found)
}

fn is_bearer(value: &[u8]) -> bool {
    value.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"bearer "))
        || value.eq_ignore_ascii_case(b"bearer")
}

/// What one value of `Authorization` is to a service.
fn credential(value: &str, ways: &Ways) -> Shown {
    if !is_bearer(value.as_bytes()) {
        return Shown::Other;
    }
    let token = value.get(6..).unwrap_or_default().trim().to_owned();
    match (token.starts_with("kgk_"), ways.api_key.is_some(), ways.takes_tokens()) {
        (true, true, _) => Shown::Key(token),
        (false, _, true) => Shown::Token(token),
        _ => Shown::Other,
    }
}

/// The one value of a header that a credential is in.
fn only<'f>(
    fields: &'f HeaderMap,
    header: &HeaderName,
    ways: &Ways,
) -> Result<Option<&'f str>, Problem> {
    let mut values = fields.get_all(header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused(ways, "more than one credential was shown"));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(refused(ways, "the credential is malformed")),
    }
}

async fn by_token(accepted: &Accepted, ways: &Ways, token: &str) -> Result<Identity, Problem> {
    let (worker, peer) = (&accepted.arrived.worker, &accepted.arrived.peer);
    let served: &Served = &accepted.entry.served;
    let name = cache::name(token);
    let mut state = served.tables.issuers.state();
    let now = unix_s();
    if let Some(known) = served.known_token(state, &name, now) {
        worker.metrics.token_cached.add(1);
        let until = Some(known.until_unix_s.min(bound_to(peer, ways, known.bound, now)?));
        let identity = somebody(ways, By::Jwt, known.principal, Some(known.header), None, until)?;
        return saying(identity, known.said);
    }
    if let Some(server) = ways.introspection.as_ref().filter(|_| is_opaque(token, ways)) {
        return by_introspection(accepted, ways, server, (token, name)).await;
    }
    let unverified =
        Unverified::parse(token, ways.token_bytes).map_err(|e| jwt_refused(ways, e))?;
    let (issuer, verified) = verify(served, ways, &unverified, now, &mut state).await?;
    worker.metrics.token_verified.add(1);
    let said = claims::said(&issuer.settings.uses, unverified.claims(&verified));
    let said = said.map_err(Arc::new);
    let principal = Arc::new(Uid::new(&issuer.settings.principal_type, verified.id));
    let header = header_of(&principal);
    let until = verified.until_unix_s.min(bound_to(peer, ways, verified.bound, now)?);
    if let Some(header) = &header {
        let known = Known {
            principal: Arc::clone(&principal),
            header: header.clone(),
            from_unix_s: verified.from_unix_s,
            until_unix_s: verified.until_unix_s,
            bound: verified.bound,
            said: said.clone(),
        };
        served.keep_token(state, name, known);
    }
    saying(somebody(ways, By::Jwt, principal, header, None, Some(until))?, said)
}

/// The identity with what its token says beyond a name. Where that cannot be told, nothing can be
/// decided about it: it is not denied, and who it is holds all the same.
fn saying(
    identity: Identity,
    said: Result<Option<Arc<Said>>, Arc<Unsayable>>,
) -> Result<Identity, Problem> {
    match said {
        Ok(said) => Ok(Identity { said, ..identity }),
        Err(unsayable) => {
            let problem = Problem::new(Kind::NoDecision, unsayable.to_string());
            Err(problem.reason(unsayable.reason()))
        }
    }
}

/// The token in a request's headers whose meaning its issuer alone knows, and its name.
pub(super) fn opaque(fields: &HeaderMap, ways: &Ways) -> Option<(String, [u8; 32])> {
    match bearer(fields, ways) {
        Ok(Shown::Token(token)) if is_opaque(&token, ways) => {
            let name = cache::name(&token);
            Some((token, name))
        }
        _ => None,
    }
}

/// Whether a token is no JWT of one of the issuers whose keys are known here. What is too long is
/// nobody's.
fn is_opaque(token: &str, ways: &Ways) -> bool {
    token.len() <= ways.token_bytes
        && introspection::claimed_issuer(token)
            .is_none_or(|issuer| ways.issuers.iter().all(|known| known.settings.issuer != issuer))
}

/// Whom a token names whose meaning was asked. That has happened before, but for a token whose answer
/// is not kept any more.
async fn by_introspection(
    accepted: &Accepted,
    ways: &Ways,
    server: &Arc<Introspector>,
    (token, name): (&str, [u8; 32]),
) -> Result<Identity, Problem> {
    let (metrics, peer) = (&accepted.arrived.worker.metrics, &accepted.arrived.peer);
    let verdict = match server.held(&name) {
        Some(verdict) => verdict,
        None => server
            .ask(token, name, || metrics.introspections.add(1))
            .await
            .map_err(|_| unavailable())?,
    };
    let active = match verdict {
        Verdict::Active(active) => active,
        Verdict::Refused(error) => return Err(jwt_refused(ways, error)),
    };
    let now = unix_s();
    // The answer may be kept for a second in which the token ends.
    if active.until_unix_s.is_some_and(|until| now >= until) {
        return Err(jwt_refused(ways, JwtError::Expired));
    }
    let bound = bound_to(peer, ways, active.bound, now)?;
    let until = active.until_unix_s.unwrap_or(u64::MAX).min(bound);
    let until = (until < u64::MAX).then_some(until);
    let principal = Arc::clone(&active.principal);
    let header = header_of(&principal);
    let said = active.said.clone().map_err(Arc::new);
    saying(somebody(ways, By::Introspection, principal, header, None, until)?, said)
}

/// No answer is no denial.
pub(super) fn unavailable() -> Problem {
    let detail = "the server that knows the token's meaning does not say it right now";
    Problem::new(Kind::NoIdentity, detail).reason("introspection")
}

/// Refuses a token that is bound to a certificate (RFC 8705) on a connection that has not shown it.
/// Until when the connection's holds; without a binding it does not matter.
fn bound_to(peer: &Peer, ways: &Ways, bound: Option<[u8; 32]>, now: u64) -> Result<u64, Problem> {
    let Some(bound) = bound else { return Ok(u64::MAX) };
    let shown = peer.certificate.as_ref().and_then(|shown| shown.read.as_ref().ok());
    match shown.filter(|shown| bool::from(shown.sha256.ct_eq(&bound))) {
        None => Err(refused(
            ways,
            "the token is bound to a client certificate that this connection has not shown",
        )),
        Some(shown) if now >= shown.until_unix_s() => {
            Err(refused(ways, CertificateError::Expired.to_string()))
        }
        Some(shown) => Ok(shown.until_unix_s()),
    }
}

/// Whom the connection's certificate names, if it has one and the service takes it.
fn by_certificate(accepted: &Accepted, ways: &Ways) -> Result<Option<Identity>, Problem> {
    let (Some(way), Some(ca)) = (&ways.certificate, &accepted.entry.site.client_ca) else {
        return Ok(None);
    };
    let Some(shown) = &accepted.arrived.peer.certificate else { return Ok(None) };
    if !shown.is_of(ca) {
        let detail = "the client certificate is of an authority that this site does not accept";
        return Err(refused(ways, detail));
    }
    let wrong = |error: CertificateError| refused(ways, error.to_string());
    let certificate = shown.read.as_ref().map_err(|error| wrong(*error))?;
    let until = certificate.until_unix_s();
    if unix_s() >= until {
        return Err(wrong(CertificateError::Expired));
    }
    let id = certificate.name(name_of(way.principal_from)).map_err(wrong)?;
    let principal = Arc::new(Uid::new(&way.principal_type, id));
    let header = header_of(&principal);
    somebody(ways, By::ClientCertificate, principal, header, None, Some(until)).map(Some)
}

/// Verifies with each issuer of that name; waits for keys where they are missing. `state` is
/// then the one of the keys that were used.
async fn verify<'w>(
    served: &Served,
    ways: &'w Ways,
    token: &Unverified<'_>,
    now: u64,
    state: &mut u64,
) -> Result<(&'w Issuer, Verified), Problem> {
    let mut last = JwtError::Issuer;
    for issuer in ways.issuers.iter().filter(|i| token.issuer() == Some(&i.settings.issuer)) {
        let mut verdict =
            issuer.keys.current().map(|keys| token.verify(&issuer.settings, &keys, now));
        if matches!(verdict, None | Some(Err(JwtError::UnknownKey))) {
            let refresh = served.tables.issuers.refresh();
            if issuer.keys.renewed(refresh).await || verdict.is_none() {
                *state = served.tables.issuers.state();
                let keys = issuer.keys.current();
                verdict = keys.map(|keys| token.verify(&issuer.settings, &keys, now));
            }
        }
        match verdict {
            Some(Ok(verified)) => return Ok((issuer, verified)),
            // The issuer may have changed its keys, and cannot be asked: nobody knows that the token
            // does not hold.
            Some(Err(JwtError::UnknownKey)) if issuer.keys.is_failing() => {
                let detail =
                    "the token's key is not known, and the issuer's keys cannot be read anew";
                return Err(Problem::new(Kind::NoIdentity, detail));
            }
            Some(Err(error)) => last = error,
            None => {
                let detail = "the keys of the token's issuer are not available";
                return Err(Problem::new(Kind::NoIdentity, detail));
            }
        }
    }
    Err(jwt_refused(ways, last))
}

fn by_key(
    routed: &mut Routed,
    ways: &Ways,
    header: HeaderName,
    shown: &str,
) -> Result<Identity, Problem> {
    let Routed { accepted, found: Found { table, .. }, .. } = routed;
    let prefix = key::prefix(shown).map_err(|e| refused(ways, e.to_string()))?;
    let body = table
        .key(&accepted.entry.served.tables.service, prefix)
        .ok_or_else(|| refused(ways, "the API key is not known"))?;
    key::check(shown, body, unix_s()).map_err(|e| refused(ways, e.to_string()))?;
    let principal = Arc::new(body.principal.clone());
    let value = header_of(&principal);
    // The key is between the caller and the gate.
    accepted.arrived.parts.headers.remove(header);
    let key = ShownKey { prefix: prefix.to_owned(), plan: body.plan.clone() };
    somebody(ways, By::ApiKey, principal, value, Some(key), body.expires_unix_s)
}

fn name_of(name: CertificateName) -> NameOf {
    match name {
        CertificateName::CommonName => NameOf::CommonName,
        CertificateName::Dns => NameOf::Dns,
        CertificateName::Uri => NameOf::Uri,
        CertificateName::Email => NameOf::Email,
        CertificateName::Sha256 => NameOf::Sha256,
    }
}

/// Whom a trusted header says it is, if it is there: it is only if its sender is believed.
fn by_trusted_header(fields: &HeaderMap, ways: &Ways) -> Result<Option<Identity>, Problem> {
    let Some(way) = &ways.trusted else { return Ok(None) };
    let mut values = fields.get_all(&way.header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let id = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    if values.next().is_some() || id.is_empty() || id.len() > MAX_ID {
        return Err(refused(ways, "the identity header is malformed"));
    }
    let principal = Arc::new(Uid::new(&way.principal_type, id));
    let value = header_of(&principal);
    somebody(ways, By::TrustedHeader, principal, value, None, None).map(Some)
}

/// Whoever shows a credential is somebody: nobody's name is not taken from one, else `sub:
/// "anonymous"` would be what the policies say of callers without any.
fn somebody(
    ways: &Ways,
    by: By,
    principal: Arc<Uid>,
    header: Option<HeaderValue>,
    key: Option<ShownKey>,
    until_unix_s: Option<u64>,
) -> Result<Identity, Problem> {
    if principal == ways.anonymous {
        return Err(refused(ways, "the credential names the principal of anonymous callers"));
    }
    let (is_anonymous, said) = (false, None);
    Ok(Identity { principal, header, is_anonymous, by, key, until_unix_s, said })
}

/// A principal in Cedar syntax, as a header's value; its escapes leave no control character.
fn header_of(principal: &Uid) -> Option<HeaderValue> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@+/".contains(&b);
    if principal.id.bytes().all(is_plain) {
        // What it takes to write any identifier costs ten times as much.
        let text = [principal.kind.as_str(), "::\"", &principal.id, "\""].concat();
        return HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok();
    }
    HeaderValue::from_bytes(principal.to_string().as_bytes()).ok()
}

fn jwt_refused(ways: &Ways, error: JwtError) -> Problem {
    refused(ways, error.to_string())
}

fn refused(ways: &Ways, detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    let challenge = ways.challenge.to_str().unwrap_or("Bearer");
    let challenge = HeaderValue::try_from(format!("{challenge}, error=\"invalid_token\""));
    let challenge = challenge.unwrap_or_else(|_| ways.challenge.clone());
    Problem::new(Kind::Unauthenticated, detail).header(WWW_AUTHENTICATE, challenge)
}
