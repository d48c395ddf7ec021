//! Reused, bounded and counted HTTP connections to upstreams.
//!
//! A [`Pool`] has one [`Upstream`] for each [`UpstreamId`], and an upstream has at most
//! [`PoolConfig::max_connections`] sockets open, counting those being opened, those in use, idle
//! and upgraded. Who comes beyond that waits in a FIFO queue of bounded length, until a
//! connection comes back or the deadline passes.
//!
//! The rules, each one bought with an incident somewhere:
//!
//! - The key is the whole identity ([`UpstreamId`]), compared in full.
//! - INVARIANT: the permit of a connection lives in its socket (`connect`), so it returns when
//!   the socket is gone, by `Drop`, also after an upgrade; the kernel never holds more sockets
//!   than the permits say.
//! - INVARIANT: nobody waits while a connection is idle, and a connection is opened only when
//!   none is idle on any thread.
//! - Reuse is last in, first out, so that a burst's surplus ages and is closed.
//! - A connection is looked at before it is used again: what the peer has closed carries nothing.
//! - A request is sent again only if the library hands it back unsent, if the peer says that it did
//!   nothing with it (HTTP/2: above the last stream of its GOAWAY, or a refused stream), or if its
//!   method is idempotent and the reused connection died before a response. Its body, where it
//!   has one, must be small enough to have been kept ([`KEPT_BODY`]).
//! - The last attempt gets a connection of its own, which no idle timeout of the peer can meet.
//! - Running out of ports or descriptors stops opening for a moment and queues the request; it
//!   fails under its own name, [`PoolError::PortsExhausted`], if its deadline passes.
//!
//! One pool serves several single-threaded runtimes: the bound and the queue are global, the
//! idle lists are one a thread, and a thread takes from another's only when its own is empty.
//!
//! What it deliberately does not know: which headers may pass (the gate's forward phase), and
//! what a status code of its errors would be.

mod body;
mod budget;
mod connect;
mod error;
mod look;
mod request;
mod slots;
mod stats;
mod upstream;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use body::{BodyError, KEPT_BODY, PooledBody};
pub use budget::{Budget, half_of_the_usable_ports};
pub use error::PoolError;
pub use stats::UpstreamStats;
pub use upstream::{RequestBody, Terms, Upstream};

use crate::dial::{Dialer, Target};

/// Bounds and deadlines; each upstream has them to itself.
#[derive(Clone)]
pub struct PoolConfig {
    /// Sockets at most; none: what `budget` says.
    pub max_connections: Option<usize>,
    /// How many sockets an upstream may have, asked again every ten seconds; the result is
    /// clamped to 1..=[`MAX_CONNECTIONS`].
    pub budget: Budget,
    /// Requests that may wait for a connection.
    pub max_queue: usize,
    /// How long a request may wait for a connection.
    pub queue_timeout: Duration,
    /// How long a connection may be idle; shorter than what upstreams grant by habit (nginx 75
    /// s). A `Keep-Alive: timeout=` of the upstream shortens it further.
    pub idle_timeout: Duration,
    /// How long the upstream may take to begin its response, from the last byte of the request that
    /// was forwarded.
    pub response_timeout: Duration,
    /// How long nothing may move within an exchange whose response has begun.
    pub body_timeout: Duration,
    /// HTTP/2 connections at most; another is opened only when all streams of all are in use.
    pub h2_max_connections: usize,
    /// Streams at most on one HTTP/2 connection; the upstream's own limit lowers it.
    pub h2_max_streams: usize,
    /// How often a busy HTTP/2 connection is asked whether it is alive.
    pub h2_ping: Duration,
}

/// The most fields of a response's head.
const RESPONSE_FIELDS: usize = 2048;
/// The most bytes of a response's head.
const RESPONSE_HEAD_BYTES: usize = 128 * 1024;

/// Sockets an upstream may have at most, whatever its budget.
pub const MAX_CONNECTIONS: usize = 1024;

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig {
            max_connections: None,
            budget: Arc::new(half_of_the_usable_ports),
            max_queue: 1024,
            queue_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            response_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(300),
            h2_max_connections: 4,
            h2_max_streams: 100,
            h2_ping: Duration::from_secs(15),
        }
    }
}

impl std::fmt::Debug for PoolConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolConfig")
            .field("max_connections", &self.max_connections)
            .field("max_queue", &self.max_queue)
            .field("queue_timeout", &self.queue_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .finish_non_exhaustive()
    }
}

/// How to speak to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// What ALPN agrees on; HTTP/1.1 without TLS.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, over plain TCP by prior knowledge.
    Http2,
}

/// The full identity of an upstream: only equal ones share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId {
    /// Address, TLS settings and name, source addresses.
    pub target: Target,
    /// How to speak to it.
    pub protocol: Protocol,
}

impl From<Target> for UpstreamId {
    fn from(target: Target) -> UpstreamId {
        UpstreamId { target, protocol: Protocol::Auto }
    }
}

/// Upstreams by identity. A clone is the same pool. `B` is the type of request bodies.
pub struct Pool<B: RequestBody> {
    inner: Arc<Upstreams<B>>,
}

struct Upstreams<B: RequestBody> {
    dialer: Dialer,
    config: PoolConfig,
    known: RwLock<HashMap<UpstreamId, Upstream<B>>>,
}

impl<B: RequestBody> Clone for Pool<B> {
    fn clone(&self) -> Pool<B> {
        Pool { inner: self.inner.clone() }
    }
}

impl<B: RequestBody> Pool<B> {
    /// A pool that opens its connections with `dialer`.
    pub fn new(dialer: Dialer, config: PoolConfig) -> Pool<B> {
        Pool { inner: Arc::new(Upstreams { dialer, config, known: RwLock::default() }) }
    }

    /// The upstream of this identity. Asks the budget when it is new (which may read a few
    /// files of `/proc`); keep the handle where requests are many.
    pub fn upstream(&self, id: &UpstreamId) -> Upstream<B> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = known.get(id) {
            return upstream.clone();
        }
        drop(known);
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        known
            .entry(id.clone())
            .or_insert_with(|| {
                Upstream::new(id.clone(), self.inner.dialer.clone(), self.inner.config.clone())
            })
            .clone()
    }

    /// Sends a request to the upstream of this identity; see [`Upstream::send`].
    pub async fn send(
        &self,
        id: &UpstreamId,
        request: http::Request<B>,
    ) -> Result<http::Response<PooledBody<B>>, PoolError> {
        self.upstream(id).send(request).await
    }

    /// Forgets upstreams that are not wanted any more; their idle connections are closed, those
    /// in use end with their requests.
    pub fn retain(&self, wanted: impl Fn(&UpstreamId) -> bool) {
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, upstream| {
            let keep = wanted(id);
            if !keep {
                upstream.close_idle();
            }
            keep
        });
    }

    /// What every upstream did and does.
    pub fn stats(&self) -> Vec<(UpstreamId, UpstreamStats)> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(id, upstream)| (id.clone(), upstream.stats())).collect()
    }

    /// The dialer, for its counters.
    pub fn dialer(&self) -> &Dialer {
        &self.inner.dialer
    }
}
