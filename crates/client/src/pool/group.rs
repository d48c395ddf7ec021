//! An upstream with one address or many.
//!
//! Each address has its own connections ([`Upstream`]); which one gets a request is chosen by
//! `balance`. Names are looked up again and again ([`Group::watch`]), so an upstream follows its
//! name. With a single address a request goes straight there: nothing is chosen, counted or kept.
//!
//! A request goes on to another address only if it is certain that the first one did not get it (no
//! connection could be made, or too many wait for one), or if its method is idempotent, its
//! connection died before an answer, and the retry budget allows it. Each address is tried once.

use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, HeaderName};
use http::{HeaderMap, Request, Response, StatusCode};

use super::balance::{Failure, Key, stable_hash};
use super::balancer::{Balancer, OnEvent, Picked};
use super::config::{PoolConfig, Protocol};
use super::error::PoolError;
use super::incoming::PooledBody;
use super::members::{MAX_GROUP_ADDRESSES, Member, Members, Set};
use super::outgoing::RequestBody;
use super::shared::Shared;
use super::stats::{GroupStats, UpstreamStats};
use super::terms::Terms;
use super::upstream::{Sending, Upstream};
use crate::dial::{Dialer, Target};

/// Addresses that one request is sent to at most.
const MAX_TRIED: usize = 8;

/// What keeps a caller at one address, as long as that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie. The upstream sets it; the pool only reads it.
    Cookie(String),
}

/// What a [`Group`] is, and how it behaves.
#[derive(Clone)]
pub struct GroupConfig {
    /// Its addresses: 1 to [`MAX_GROUP_ADDRESSES`].
    pub targets: Vec<Target>,
    /// How to speak to all of them.
    pub protocol: Protocol,
    /// Bounds and deadlines.
    pub pool: PoolConfig,
    /// What keeps callers at one address.
    pub sticky: Option<Sticky>,
    /// The path, with a query if there is one, that each address is asked for by `GET` now and then
    /// to see whether it is healthy: if it answers 200 to 399. None: addresses are not asked.
    pub check: Option<String>,
    /// Is told what becomes of addresses and names.
    pub on_event: Option<OnEvent>,
}

impl GroupConfig {
    /// With the defaults.
    pub fn new(targets: Vec<Target>) -> GroupConfig {
        GroupConfig {
            targets,
            protocol: Protocol::Auto,
            pool: PoolConfig::default(),
            sticky: None,
            check: None,
            on_event: None,
        }
    }
}

/// A [`GroupConfig`] that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// There is no address.
    #[error("expected at least one address, got none")]
    NoAddress,
    /// There are too many.
    #[error("expected at most {MAX_GROUP_ADDRESSES} addresses, got {0}")]
    TooManyAddresses(usize),
    /// One is there twice.
    #[error("expected each address once, got `{0}` twice")]
    Repeated(String),
    /// The path of the check is not one.
    #[error("expected a path such as `/healthz` for the check, got `{0}`")]
    CheckPath(String),
    /// A time that makes no sense.
    #[error("expected at least 100 ms for `{0}`, got {1:?}")]
    TooShort(&'static str, Duration),
}

/// An upstream. A clone is the same one. `B` is the type of request bodies.
pub struct Group<B: RequestBody> {
    pub(super) inner: Arc<Inner<B>>,
}

pub(super) struct Inner<B: RequestBody> {
    pub(super) dialer: Dialer,
    pub(super) members: Members<B>,
    pub(super) balancer: Arc<Balancer>,
    shared: Arc<Shared>,
    sticky: Option<Sticky>,
    pub(super) check: Option<String>,
    pub(super) pool: PoolConfig,
}

impl<B: RequestBody> Clone for Group<B> {
    fn clone(&self) -> Group<B> {
        Group { inner: Arc::clone(&self.inner) }
    }
}

impl<B: RequestBody> Group<B> {
    /// Opens nothing yet. Asks the budget of each address, which may read a few files of `/proc`.
    ///
    /// # Errors
    /// Names what cannot be used; see [`GroupError`].
    pub fn new(dialer: Dialer, config: GroupConfig) -> Result<Group<B>, GroupError> {
        config.validate()?;
        let shared = Arc::new(Shared::new());
        let (pool, on_event) = (config.pool, config.on_event);
        let balancer = Balancer::new(pool.balance.clone(), Arc::clone(&shared), on_event);
        let balancer = Arc::new(balancer);
        let members = Members::new(
            dialer.clone(),
            config.targets,
            config.protocol,
            pool.clone(),
            Arc::clone(&shared),
            Arc::clone(&balancer),
        );
        Ok(Group {
            inner: Arc::new(Inner {
                dialer,
                members,
                balancer,
                shared,
                sticky: config.sticky,
                check: config.check,
                pool,
            }),
        })
    }

    /// Sends a request to one of the addresses, on the pool's terms; see [`Upstream::send`].
    pub async fn send(&self, request: Request<B>) -> Result<Response<PooledBody<B>>, PoolError> {
        self.send_on(request, &Terms::default()).await
    }

    /// As [`Group::send`], on terms of its own.
    pub async fn send_on(
        &self,
        request: Request<B>,
        terms: &Terms<'_>,
    ) -> Result<Response<PooledBody<B>>, PoolError> {
        let set = self.inner.members.now();
        match &*set.members {
            [only] => only.upstream.send_on(request, terms).await,
            // Boxed: with one address its size would be carried for nothing.
            _ => Box::pin(self.balanced(&set, request, terms)).await,
        }
    }

    async fn balanced(
        &self,
        set: &Arc<Set<B>>,
        request: Request<B>,
        terms: &Terms<'_>,
    ) -> Result<Response<PooledBody<B>>, PoolError> {
        let Inner { members, balancer, sticky, .. } = &*self.inner;
        let sticky = sticky.as_ref().and_then(|sticky| sticky.hash(request.headers()));
        let most = set.members.len().min(MAX_TRIED);
        let mut tried: Vec<Key> = Vec::new();
        let mut later = None;
        let mut first = Some(request);
        let mut sending: Option<Sending<B>> = None;
        // Addresses whose ports are used up come last: another's bucket has room.
        let short: Vec<Key> = set.short();
        let pick = |tried: &[Key]| {
            if short.is_empty() || short.iter().all(|key| tried.contains(key)) {
                return balancer.pick(tried, sticky);
            }
            let avoid = [tried, &short].concat();
            balancer.pick(&avoid, sticky).or_else(|| balancer.pick(tried, sticky))
        };
        while let Some(picked) = pick(&tried) {
            tried.push(picked.key());
            if set.member(picked.key()).is_none() {
                // The addresses have changed in between.
                later = Some(members.now());
            }
            let current = later.as_ref().unwrap_or(set);
            let Some(Member { upstream, .. }) = current.member(picked.key()) else { continue };
            if let Some(request) = first.take() {
                sending = Some(upstream.begin(request, terms));
            }
            let Some(sending) = &mut sending else { break };
            sending.elsewhere = tried.len() < most;
            match upstream.exchange(sending, terms).await {
                Ok(response) => return Ok(answered(response, picked)),
                Err(error) => {
                    if let Some(failure) = failure(&error) {
                        picked.failed(failure);
                    }
                    if !(sending.elsewhere && sending.is_whole() && goes_on(&error)) {
                        return Err(error);
                    }
                    balancer.counters.failovers.add(1);
                }
            }
        }
        Err(PoolError::Unsendable("no address is left"))
    }

    /// Takes other TLS settings for the same addresses: new connections are made with them, and the old
    /// ones end with their requests. Addresses that the upstream does not have are ignored.
    pub fn retarget(&self, targets: Vec<Target>) {
        self.inner.members.retarget(targets);
    }

    /// The upstream is not used any more: idle connections are closed, and those in use when their
    /// requests have ended.
    pub fn retire(&self) {
        for member in &self.inner.members.now().members {
            member.upstream.close_idle();
        }
    }

    /// How many connections there may be, where each carries one request at a time (HTTP/1.1).
    pub fn unshared(&self) -> Option<usize> {
        self.inner.members.now().members.iter().map(|member| member.upstream.unshared()).sum()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> GroupStats {
        let set = self.inner.members.now();
        let gauges = set.members.iter().map(|member| member.upstream.stats());
        let zero = self.inner.shared.counters.stats();
        let all = gauges.fold(zero, |all, one| UpstreamStats {
            open: all.open + one.open,
            idle: all.idle + one.idle,
            streams: all.streams + one.streams,
            waiting: all.waiting + one.waiting,
            limit: all.limit + one.limit,
            short: all.short + one.short,
            ..all
        });
        let (census, counters) = (self.inner.balancer.census(), &self.inner.balancer.counters);
        GroupStats {
            all,
            addresses: census.addresses,
            ejected: census.ejected,
            down: census.down,
            panic: census.panic,
            ejections: counters.ejections.value(),
            failovers: counters.failovers.value(),
            panics: counters.panics.value(),
            checks_failed: counters.checks_failed.value(),
            lookups: counters.lookups.value(),
            lookups_failed: counters.lookups_failed.value(),
            moves: counters.moves.value(),
        }
    }

    /// The addresses now, each with its own connections.
    pub fn addresses(&self) -> Vec<Upstream<B>> {
        self.inner.members.now().members.iter().map(|member| member.upstream.clone()).collect()
    }
}

impl GroupConfig {
    /// Whether it can be used, as [`Group::new`] sees it.
    ///
    /// # Errors
    /// Names what cannot; see [`GroupError`].
    pub fn validate(&self) -> Result<(), GroupError> {
        const SHORTEST: Duration = Duration::from_millis(100);
        match self.targets.len() {
            0 => return Err(GroupError::NoAddress),
            count if count > MAX_GROUP_ADDRESSES => {
                return Err(GroupError::TooManyAddresses(count));
            }
            _ => {}
        }
        for (at, target) in self.targets.iter().enumerate() {
            if self.targets.iter().take(at).any(|before| before == target) {
                return Err(GroupError::Repeated(target.to_string()));
            }
        }
        let pool = &self.pool;
        for (name, time) in [
            ("dns_refresh", pool.dns_refresh),
            ("check_every", pool.check_every),
            ("check_timeout", pool.check_timeout),
        ] {
            if time < SHORTEST {
                return Err(GroupError::TooShort(name, time));
            }
        }
        match &self.check {
            Some(path)
                if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() =>
            {
                Err(GroupError::CheckPath(path.clone()))
            }
            _ => Ok(()),
        }
    }
}

impl Sticky {
    /// What the caller is known by; none: it does not say.
    fn hash(&self, headers: &HeaderMap) -> Option<u64> {
        let value = match self {
            Sticky::Header(name) => headers.get(name)?.as_bytes(),
            Sticky::Cookie(name) => headers
                .get_all(COOKIE)
                .iter()
                .flat_map(|cookies| cookies.as_bytes().split(|byte| *byte == b';'))
                .find_map(|cookie| {
                    let cookie = cookie.trim_ascii_start();
                    cookie.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
                })?,
        };
        Some(stable_hash(value.trim_ascii()))
    }
}

/// Notes the answer's status, and counts the exchange as under way until its body has ended.
fn answered<B: RequestBody>(
    mut response: Response<PooledBody<B>>,
    picked: Picked,
) -> Response<PooledBody<B>> {
    let status = response.status();
    let of_the_request =
        [StatusCode::NOT_IMPLEMENTED, StatusCode::HTTP_VERSION_NOT_SUPPORTED].contains(&status);
    if status.is_server_error() && !of_the_request {
        picked.failed(Failure::Server);
    } else {
        picked.succeeded();
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        response.extensions_mut().insert(Held { _picked: Arc::new(picked) });
        return response;
    }
    response.map(|body| body.counting(picked))
}

/// Among the extensions of a 101 response: as long as it is held, the tunnel counts as under way at
/// its address.
#[derive(Clone)]
pub struct Held {
    _picked: Arc<Picked>,
}

/// What an error says of its address; none: nothing.
fn failure(error: &PoolError) -> Option<Failure> {
    match error {
        PoolError::Connect { .. } | PoolError::ConnectTimeout { .. } => Some(Failure::Connect),
        PoolError::Reset { .. }
        | PoolError::UpstreamProtocol { .. }
        | PoolError::ResponseTimeout { .. } => Some(Failure::Server),
        // Of this side, of the request, or an orderly end.
        PoolError::QueueFull { .. }
        | PoolError::QueueTimeout { .. }
        | PoolError::PortReserve { .. }
        | PoolError::PortsExhausted { .. }
        | PoolError::RequestBody { .. }
        | PoolError::Idle { .. }
        | PoolError::NotTaken { .. }
        | PoolError::Withdrawn
        | PoolError::Unsendable(_) => None,
    }
}

/// Whether a request that ended so, and is whole, may go on to another address.
fn goes_on(error: &PoolError) -> bool {
    failure(error).is_some() || matches!(error, PoolError::QueueFull { .. })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn callers_are_known_by_a_header_or_a_cookie() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static(" ann "));
        headers.append(COOKIE, HeaderValue::from_static("other=1; sid2=no; sid=ann"));
        let header = Sticky::Header(HeaderName::from_static("x-user"));
        let cookie = |name: &str| Sticky::Cookie(name.to_owned()).hash(&headers);
        assert_eq!(header.hash(&headers), Some(stable_hash(b"ann")));
        assert_eq!(cookie("sid"), Some(stable_hash(b"ann")));
        assert_eq!(cookie("si"), None);
        assert_eq!(Sticky::Header(HeaderName::from_static("x-other")).hash(&headers), None);
        headers.append(COOKIE, HeaderValue::from_static("late=ann"));
        assert_eq!(Sticky::Cookie("late".to_owned()).hash(&headers), Some(stable_hash(b"ann")));
    }
}
