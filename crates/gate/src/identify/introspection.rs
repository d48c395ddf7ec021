//! Opaque tokens: what they mean is asked of the server that has issued them (RFC 7662).
//!
//! A token is asked about once, however many requests come with it at the same time: the first one
//! begins a *flight*, and the others wait for it. The answer is used again for a while, never past the
//! token's own end. A server that does not answer, or not as it should, is no word about the token:
//! that is `Unavailable`, never a refusal.
//!
//! Flights run on the control runtime and go on when their request is gone. They reuse connections,
//! of which there are few. Everything has a bound: flights, waiting, answers and what is kept of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt as _, Full, Limited};
use keepgate_client::blocking;
use keepgate_client::dial::{DialError, Dialer, Roots, Target, TlsError, TlsSettings};
use keepgate_client::pool::{Pool, PoolConfig, PoolError, Protocol, UpstreamId};
use keepgate_observe::chain;
use keepgate_policy::identify::{Credential, Introspection};
use keepgate_policy::{Uid, json};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::access::{AccessError, Asked, KeyAccess};
use super::claims::{self, Said, Unsayable};
use super::jwt::{self, JwtError};

/// Questions to one server at the same time.
pub const FLIGHTS: usize = 64;
/// Connections to one address of a server.
const CONNECTIONS: usize = 16;
/// One question, with all that it takes.
const FLIGHT: Duration = Duration::from_secs(5);
/// For how long a token that is not active is not asked about again, in seconds.
const INACTIVE_S: u64 = 5;
/// The largest answer, in bytes.
pub const MAX_ANSWER: usize = 64 * 1024;
/// Parts of the cache, each with a lock of its own.
const SHARDS: usize = 16;
/// Answers in one part, and their bytes.
const ENTRIES: usize = 1024;
const BYTES: usize = 1 << 20;
/// How long the addresses of a name are used.
const RESOLVED: Duration = Duration::from_secs(5);

/// What a server has said of a token.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Active(Arc<Active>),
    /// It identifies nobody here.
    Refused(JwtError),
}

/// A token that is active.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) principal: Arc<Uid>,
    /// When it ends, in seconds since the Unix epoch; none: nobody has said.
    pub(crate) until_unix_s: Option<u64>,
    /// The client certificate that the connection must have (RFC 8705).
    pub(crate) bound: Option<[u8; 32]>,
    /// What else the answer says; what cannot be said is no refusal.
    pub(crate) said: Result<Option<Arc<Said>>, Unsayable>,
}

/// Nobody has said what the token means. The cause is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    #[error("the introspection server's name leads nowhere")]
    Resolve(#[source] DialError),
    #[error("the introspection server cannot be asked")]
    Send(#[source] PoolError),
    #[error("the introspection server does not know the gate ({0}): check its client and secret")]
    Credential(http::StatusCode),
    #[error("the credential in `{0}` is empty, or has characters that it cannot have")]
    Secret(String),
    #[error("the introspection server answered {0}")]
    Status(http::StatusCode),
    #[error("the introspection server did not answer in time")]
    Timeout,
    #[error("the answer broke off or is too large")]
    Body,
    #[error("the answer is not a JSON object with `active`")]
    Malformed,
    #[error("there are too many questions to the introspection server")]
    Full,
}

/// A token's name: SHA-256, as in the cache of tokens that were verified.
pub(crate) type Name = [u8; 32];

type Landed = Option<Result<Verdict, Unavailable>>;

/// One server and its answers; shared by all workers and by services with the same settings.
pub(crate) struct Introspector {
    settings: Introspection,
    access: Arc<KeyAccess>,
    dialer: Dialer,
    control: tokio::runtime::Handle,
    pool: Pool<Full<Bytes>>,
    tls: Mutex<Option<Arc<TlsSettings>>>,
    resolved: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
    places: Arc<Semaphore>,
    flights: Mutex<HashMap<Name, watch::Receiver<Landed>>>,
    shards: [Mutex<Shard>; SHARDS],
    failing: AtomicBool,
}

/// Some of the answers.
#[derive(Debug, Default)]
struct Shard {
    kept: HashMap<Name, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    verdict: Verdict,
    until: Instant,
    bytes: usize,
}

/// The servers that are in use.
pub(crate) struct Introspectors {
    control: tokio::runtime::Handle,
    dialer: Dialer,
    access: Arc<KeyAccess>,
    known: Mutex<HashMap<String, Weak<Introspector>>>,
}

impl Introspectors {
    pub(crate) fn new(
        control: tokio::runtime::Handle,
        dialer: Dialer,
        access: KeyAccess,
    ) -> Introspectors {
        Introspectors { control, dialer, access: Arc::new(access), known: Mutex::default() }
    }

    /// The one with these settings.
    pub(crate) fn of(&self, settings: &Introspection) -> Arc<Introspector> {
        let name = format!("{settings:?}");
        let mut known = locked(&self.known);
        known.retain(|_, one| one.strong_count() > 0);
        if let Some(one) = known.get(&name).and_then(Weak::upgrade) {
            return one;
        }
        let config = PoolConfig {
            max_connections: Some(CONNECTIONS),
            max_queue: FLIGHTS,
            queue_timeout: FLIGHT,
            response_timeout: FLIGHT,
            body_timeout: FLIGHT,
            ..PoolConfig::default()
        };
        let one = Arc::new(Introspector {
            settings: settings.clone(),
            access: Arc::clone(&self.access),
            dialer: self.dialer.clone(),
            control: self.control.clone(),
            pool: Pool::new(self.dialer.clone(), config),
            tls: Mutex::default(),
            resolved: Mutex::default(),
            places: Arc::new(Semaphore::new(FLIGHTS)),
            flights: Mutex::default(),
            shards: Default::default(),
            failing: AtomicBool::new(false),
        });
        known.insert(name, Arc::downgrade(&one));
        one
    }
}

impl Introspector {
    /// What was said of a token a moment ago.
    pub(crate) fn held(&self, name: &Name) -> Option<Verdict> {
        self.shard(name).find(name, Instant::now())
    }

    /// What the token means: as held, or asked. `begun` is told where this request begins the flight.
    pub(crate) async fn ask(
        self: &Arc<Introspector>,
        token: &str,
        name: Name,
        begun: impl FnOnce(),
    ) -> Result<Verdict, Unavailable> {
        let mut landed = {
            let mut flights = locked(&self.flights);
            // A flight keeps its answer before it goes.
            if let Some(verdict) = self.held(&name) {
                return Ok(verdict);
            }
            match flights.get(&name) {
                Some(flight) => flight.clone(),
                None => {
                    let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                        self.note(&Err::<(), _>(AskError::Full));
                        return Err(Unavailable);
                    };
                    begun();
                    let (land, landed) = watch::channel(None);
                    flights.insert(name, landed.clone());
                    let (this, token) = (Arc::clone(self), token.to_owned());
                    self.control.spawn(async move {
                        let _place = place;
                        land.send_replace(Some(this.flight(&token, name).await));
                    });
                    landed
                }
            }
        };
        // The flight has a deadline of its own; it goes with the runtime alone.
        let landed = landed.wait_for(Option::is_some).await;
        landed.ok().and_then(|landed| landed.clone()).unwrap_or(Err(Unavailable))
    }

    async fn flight(&self, token: &str, name: Name) -> Result<Verdict, Unavailable> {
        let asked = tokio::time::timeout(FLIGHT, self.question(token)).await;
        let answer = asked.map_err(|_| AskError::Timeout).flatten();
        self.note(&answer);
        let result = match answer {
            Ok((claims, bytes)) => {
                let now = keepgate_observe::unix_s();
                let verdict = judge(&self.settings, &claims, now);
                let seconds = kept_s(&self.settings, &verdict, now);
                let until = Instant::now() + Duration::from_secs(seconds);
                let said = match &verdict {
                    Verdict::Active(active) => active.said.as_ref().ok().and_then(Option::as_ref),
                    Verdict::Refused(_) => None,
                };
                let bytes = bytes + said.map_or(0, |said| said.bytes);
                let kept = Kept { verdict: verdict.clone(), until, bytes };
                self.shard(&name).keep(name, kept);
                Ok(verdict)
            }
            Err(_) => Err(Unavailable),
        };
        locked(&self.flights).remove(&name);
        result
    }

    /// Says once that there are no answers, and once that there are again.
    fn note<T>(&self, result: &Result<T, AskError>) {
        let url = &self.settings.url;
        match result {
            Ok(_) if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!(url, "the introspection server answers again");
            }
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                let error = chain(error);
                tracing::warn!(url, error, "tokens cannot be introspected; their callers get 503");
            }
            _ => {}
        }
    }

    /// The answer, and how many bytes it has.
    async fn question(&self, token: &str) -> Result<(Map<String, Value>, usize), AskError> {
        let asked = self.access.url(&self.settings.url)?;
        let authorization = self.authorization().await?;
        let id = UpstreamId { target: self.target(&asked).await?, protocol: Protocol::Http1 };
        let body = Bytes::from(format!("token={}&token_type_hint=access_token", escaped(token)));
        let mut again = true;
        let response = loop {
            let request = http::Request::post(asked.path.as_str())
                .header(AUTHORIZATION, authorization.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(ACCEPT, "application/json")
                .body(Full::new(body.clone()))
                .map_err(|_| AccessError::Url { url: self.settings.url.clone() })?;
            match self.pool.send(&id, request).await {
                Ok(response) => break response,
                // A kept connection may end as it is used. A question changes nothing at the server.
                Err(error) if std::mem::take(&mut again) && !error.is_no_capacity() => {}
                Err(error) => return Err(AskError::Send(error)),
            }
        };
        let status = response.status();
        // Read also where it is not wanted, so that the connection can be used again.
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        match status {
            http::StatusCode::OK => {}
            http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN => {
                return Err(AskError::Credential(status));
            }
            status => return Err(AskError::Status(status)),
        }
        let body = body.map_err(|_| AskError::Body)?.to_bytes();
        match json::parse(&body) {
            Ok(Value::Object(claims)) if claims.get("active").is_some_and(Value::is_boolean) => {
                Ok((claims, body.len()))
            }
            _ => Err(AskError::Malformed),
        }
    }

    async fn authorization(&self) -> Result<HeaderValue, AskError> {
        let (Credential::Client { secret_file: file, .. } | Credential::Bearer(file)) =
            &self.settings.credential;
        let (access, path) = (Arc::clone(&self.access), file.clone());
        // A file system may be slow: not on the runtime's threads. Read each time: it may be replaced.
        let read = blocking::run(move || access.file(&path)).await;
        let bytes = read.map_err(|_| AskError::Timeout)??;
        let wrong = || AskError::Secret(file.clone());
        let secret = std::str::from_utf8(&bytes).map_err(|_| wrong())?.trim();
        if secret.is_empty() {
            return Err(wrong());
        }
        let text = match &self.settings.credential {
            Credential::Client { id, .. } => {
                // Both are form-encoded first (RFC 6749, section 2.3.1).
                let both = format!("{}:{}", escaped(id), escaped(secret));
                format!("Basic {}", STANDARD.encode(both))
            }
            Credential::Bearer(_) => format!("Bearer {secret}"),
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| wrong())?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Where to ask: an address that was judged, and that is connected to.
    async fn target(&self, asked: &Asked) -> Result<Target, AskError> {
        let mut target = Target::tcp(asked.host(), asked.port());
        if asked.is_https() {
            target.tls = Some(self.tls()?);
        }
        let now = Instant::now();
        let held = locked(&self.resolved).clone().filter(|(at, _)| now < *at + RESOLVED);
        let addresses = match held {
            Some((_, addresses)) => addresses,
            None => {
                let addresses = self.dialer.resolve(asked.host(), asked.port()).await;
                let addresses = addresses.map_err(AskError::Resolve)?;
                for address in &addresses {
                    asked.check(address.ip())?;
                }
                self.pool.retain(|id| id.target.address.is_none_or(|at| addresses.contains(&at)));
                *locked(&self.resolved) = Some((now, addresses.clone()));
                addresses
            }
        };
        // The first: the others are tried when the name has changed.
        target.address = addresses.first().copied();
        Ok(target)
    }

    fn tls(&self) -> Result<Arc<TlsSettings>, AskError> {
        let mut held = locked(&self.tls);
        if let Some(tls) = &*held {
            return Ok(Arc::clone(tls));
        }
        let tls = TlsSettings::new(&Roots::System, None, &["http/1.1"]).map_err(AskError::Tls)?;
        Ok(Arc::clone(held.insert(Arc::new(tls))))
    }

    fn shard(&self, name: &Name) -> MutexGuard<'_, Shard> {
        let [first, ..] = name;
        let [zero, ..] = &self.shards;
        locked(self.shards.get(usize::from(*first) % SHARDS).unwrap_or(zero))
    }
}

impl Shard {
    fn find(&mut self, name: &Name, now: Instant) -> Option<Verdict> {
        if self.kept.get(name)?.until <= now {
            self.forget(name);
            return None;
        }
        self.kept.get(name).map(|kept| kept.verdict.clone())
    }

    fn keep(&mut self, name: Name, kept: Kept) {
        self.forget(&name);
        while self.kept.len() >= ENTRIES || self.bytes + kept.bytes > BYTES {
            // Any will do: a wrong guess costs one question.
            let Some(other) = self.kept.keys().next().copied() else { break };
            self.forget(&other);
        }
        self.bytes += kept.bytes;
        self.kept.insert(name, kept);
    }

    fn forget(&mut self, name: &Name) {
        if let Some(kept) = self.kept.remove(name) {
            self.bytes -= kept.bytes;
        }
    }
}

/// For how many seconds an answer is used again.
fn kept_s(settings: &Introspection, verdict: &Verdict, now_unix_s: u64) -> u64 {
    let most = u64::from(settings.max_cache_s);
    match verdict {
        Verdict::Active(active) => {
            active.until_unix_s.map_or(most, |until| until.saturating_sub(now_unix_s).min(most))
        }
        Verdict::Refused(_) => INACTIVE_S.min(most),
    }
}

/// What an answer means for a service with these settings. Pure.
fn judge(settings: &Introspection, claims: &Map<String, Value>, now_unix_s: u64) -> Verdict {
    match active(settings, claims, now_unix_s) {
        Ok(active) => Verdict::Active(Arc::new(active)),
        Err(error) => Verdict::Refused(error),
    }
}

fn active(
    settings: &Introspection,
    claims: &Map<String, Value>,
    now_unix_s: u64,
) -> Result<Active, JwtError> {
    if claims.get("active") != Some(&Value::Bool(true)) {
        return Err(JwtError::Inactive);
    }
    let until_unix_s = claims.get("exp").map(jwt::seconds).transpose()?;
    if until_unix_s.is_some_and(|until| now_unix_s >= until) {
        return Err(JwtError::Expired);
    }
    let from = claims.get("nbf").map(jwt::seconds).transpose()?;
    if from.is_some_and(|from| now_unix_s < from) {
        return Err(JwtError::NotYet);
    }
    if let Some(issuer) = &settings.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer.as_str())
    {
        return Err(JwtError::Issuer);
    }
    let accepted =
        |aud: &Value| aud.as_str().is_some_and(|aud| settings.audiences.iter().any(|a| a == aud));
    let is_for_us = match claims.get("aud") {
        _ if settings.audiences.is_empty() => true,
        Some(Value::Array(many)) => many.iter().any(accepted),
        Some(one) => accepted(one),
        None => false,
    };
    if !is_for_us {
        return Err(JwtError::Audience);
    }
    let bound = jwt::confirmation(claims)?;
    let id = match claims.get(&settings.principal_claim) {
        Some(Value::String(id)) if !id.is_empty() => id.clone(),
        _ => return Err(JwtError::Principal),
    };
    let principal = Arc::new(Uid::new(&settings.principal_type, id));
    let said = claims::said(&settings.uses, claims);
    Ok(Active { principal, until_unix_s, bound, said })
}

/// The issuer that a token claims if it is a JWT; nothing in it may be believed.
pub(crate) fn claimed_issuer(token: &str) -> Option<String> {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get("iss").and_then(Value::as_str).map(str::to_owned)
}

/// A value of a form (`application/x-www-form-urlencoded`).
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(more: Value) -> Introspection {
        let mut table = json!({"url": "https://id.example/i", "bearer_file": "t"});
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(table).unwrap()
    }

    fn said(settings: &Introspection, answer: Value, now: u64) -> Result<String, JwtError> {
        match judge(settings, answer.as_object().unwrap(), now) {
            Verdict::Active(active) => Ok(active.principal.id.clone()),
            Verdict::Refused(error) => Err(error),
        }
    }

    #[test]
    fn an_answer_is_judged_by_the_settings() {
        let plain = settings(json!({}));
        let strict = settings(json!({"issuer": "i", "audience": ["a", "b"]}));
        let by_client = settings(json!({"principal_claim": "client_id"}));
        let whole =
            json!({"active": true, "sub": "alice", "client_id": "app", "iss": "i", "aud": "b"});
        let with = |name: &str, value: Value| {
            let mut answer = whole.clone();
            answer[name] = value;
            answer
        };
        for (settings, answer, now, expected) in [
            (&plain, json!({"active": true, "sub": "alice"}), 9, Ok("alice")),
            (&plain, json!({"active": false, "sub": "alice"}), 9, Err(JwtError::Inactive)),
            (&plain, json!({"active": "true", "sub": "alice"}), 9, Err(JwtError::Inactive)),
            (&plain, json!({"active": true}), 9, Err(JwtError::Principal)),
            (&plain, with("sub", json!(7)), 9, Err(JwtError::Principal)),
            (&plain, with("exp", json!(10)), 9, Ok("alice")),
            (&plain, with("exp", json!(10)), 10, Err(JwtError::Expired)),
            (&plain, with("nbf", json!(10)), 9, Err(JwtError::NotYet)),
            (&plain, with("nbf", json!(10)), 10, Ok("alice")),
            (&plain, with("exp", json!("10")), 9, Err(JwtError::Malformed)),
            (&plain, with("cnf", json!({"jkt": "x"})), 9, Err(JwtError::Confirmation)),
            (&strict, whole.clone(), 9, Ok("alice")),
            (&strict, with("aud", json!(["x", "a"])), 9, Ok("alice")),
            (&strict, with("aud", json!(["x"])), 9, Err(JwtError::Audience)),
            (&strict, with("aud", Value::Null), 9, Err(JwtError::Audience)),
            (&strict, with("iss", json!("j")), 9, Err(JwtError::Issuer)),
            (&strict, with("iss", Value::Null), 9, Err(JwtError::Issuer)),
            (&by_client, whole.clone(), 9, Ok("app")),
        ] {
            let found = said(settings, answer.clone(), now);
            assert_eq!(found.as_deref().map_err(|e| *e), expected, "{answer}");
        }
    }

    #[test]
    fn an_answer_is_kept_no_longer_than_told() {
        let settings = settings(json!({"max_cache_s": 20}));
        for (answer, expected) in [
            (json!({"active": true, "sub": "a"}), 20),
            (json!({"active": true, "sub": "a", "exp": 1_500}), 20),
            (json!({"active": true, "sub": "a", "exp": 1_007}), 7),
            (json!({"active": false}), INACTIVE_S),
            (json!({"active": true, "sub": "a", "exp": 1_000}), INACTIVE_S),
        ] {
            let verdict = judge(&settings, answer.as_object().unwrap(), 1_000);
            assert_eq!(kept_s(&settings, &verdict, 1_000), expected, "{answer}");
        }
    }

    #[test]
    fn answers_are_bounded_and_end() {
        let (mut shard, now) = (Shard::default(), Instant::now());
        let until = now + Duration::from_secs(9);
        let verdict = Verdict::Refused(JwtError::Inactive);
        let name = |n: u32| {
            let mut name = [0; 32];
            name[..4].copy_from_slice(&n.to_be_bytes());
            name
        };
        for n in 0..3 * ENTRIES as u32 {
            shard.keep(name(n), Kept { verdict: verdict.clone(), until, bytes: 1 });
            assert!(shard.find(&name(n), now).is_some());
        }
        assert_eq!((shard.kept.len(), shard.bytes), (ENTRIES, ENTRIES));
        assert!(shard.find(&name(3 * ENTRIES as u32 - 1), until).is_none());
        for n in 0..40 {
            shard.keep(name(n), Kept { verdict: verdict.clone(), until, bytes: MAX_ANSWER });
            assert!(shard.bytes <= BYTES);
        }
        assert!(shard.kept.len() <= BYTES / MAX_ANSWER + ENTRIES && shard.kept.len() >= 15);
    }

    #[test]
    fn whose_a_token_claims_to_be() {
        use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
        let payload = |text: &str| B64.encode(text);
        for (token, expected) in [
            ("opaque".to_owned(), None),
            ("a.b.c".to_owned(), None),
            (format!("x.{}.y", payload("{\"iss\":\"i\"}")), Some("i")),
            (format!("x.{}.y", payload("{\"iss\":7}")), None),
            (format!("x.{}.y", payload("[]")), None),
            (format!("x.{}.y.z", payload("{\"iss\":\"i\"}")), None),
            (format!("x.{}", payload("{\"iss\":\"i\"}")), None),
        ] {
            assert_eq!(claimed_issuer(&token).as_deref(), expected, "{token}");
        }
        assert_eq!(escaped("a b+c/&=ä*"), "a%20b%2Bc%2F%26%3D%C3%A4*");
    }
}
