//! What an upstream is, and the bounds and deadlines of its connections.

use std::sync::Arc;
use std::time::Duration;

use super::balance::BalanceConfig;
use super::budget::{Budget, MAX_CONNECTIONS, default_budget};
use crate::dial::Target;

/// Bounds and deadlines; each upstream has them to itself.
#[derive(Clone)]
pub struct PoolConfig {
    /// Sockets at most, over all addresses of an upstream, each of which gets an equal share; none:
    /// what `budget` says of each.
    pub max_connections: Option<usize>,
    /// How many sockets an address may have (its destination has ports of its own), asked again
    /// every ten seconds; the result is clamped to 1..=[`MAX_CONNECTIONS`].
    pub budget: Budget,
    /// Sockets at most, over all addresses of an upstream, whatever the budget of each; each address
    /// gets an equal share and may have at least one.
    pub max_total: usize,
    /// Requests that may wait for a connection.
    pub max_queue: usize,
    /// How long a request may wait for a connection.
    pub queue_timeout: Duration,
    /// How long a connection may be idle; shorter than what upstreams grant by habit (nginx 75
    /// s). A `Keep-Alive: timeout=` of the upstream shortens it further.
    pub idle_timeout: Duration,
    /// How old a connection may become, up to a tenth less: then it takes no further request. None:
    /// as old as its use allows.
    pub max_age: Option<Duration>,
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
    /// When an address among several is left out.
    pub balance: BalanceConfig,
    /// How often names are looked up. The system's resolver tells no lifetime.
    pub dns_refresh: Duration,
    /// From the end of one active check of an address to the next.
    pub check_every: Duration,
    /// How long the answer to a check may take.
    pub check_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig {
            max_connections: None,
            budget: default_budget(),
            max_total: usize::MAX,
            max_queue: 1024,
            queue_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            max_age: None,
            response_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(300),
            h2_max_connections: 4,
            h2_max_streams: 100,
            h2_ping: Duration::from_secs(15),
            balance: BalanceConfig::default(),
            dns_refresh: Duration::from_secs(5),
            check_every: Duration::from_secs(5),
            check_timeout: Duration::from_secs(2),
        }
    }
}

impl PoolConfig {
    /// How many connections this address may have, which is one of `among`: what is configured, else
    /// what the budget says.
    pub(super) fn limit(&self, id: &UpstreamId, among: usize) -> usize {
        let share = |all: usize| all / among.max(1);
        let asked = match self.max_connections {
            Some(all) => share(all),
            None => (self.budget)(&id.target),
        };
        asked.min(share(self.max_total)).clamp(1, MAX_CONNECTIONS)
    }
}

impl PartialEq for PoolConfig {
    /// Whether they mean the same; budgets do if they are one function.
    fn eq(&self, other: &PoolConfig) -> bool {
        let PoolConfig {
            max_connections,
            budget,
            max_total,
            max_queue,
            queue_timeout,
            idle_timeout,
            max_age,
            response_timeout,
            body_timeout,
            h2_max_connections,
            h2_max_streams,
            h2_ping,
            balance,
            dns_refresh,
            check_every,
            check_timeout,
        } = self;
        Arc::ptr_eq(budget, &other.budget)
            && *balance == other.balance
            && (*max_connections, *max_total, *max_queue)
                == (other.max_connections, other.max_total, other.max_queue)
            && (*queue_timeout, *idle_timeout, *max_age)
                == (other.queue_timeout, other.idle_timeout, other.max_age)
            && (*response_timeout, *body_timeout) == (other.response_timeout, other.body_timeout)
            && (*h2_max_connections, *h2_max_streams, *h2_ping)
                == (other.h2_max_connections, other.h2_max_streams, other.h2_ping)
            && (*dns_refresh, *check_every, *check_timeout)
                == (other.dns_refresh, other.check_every, other.check_timeout)
    }
}

impl std::fmt::Debug for PoolConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolConfig")
            .field("max_connections", &self.max_connections)
            .field("max_queue", &self.max_queue)
            .field("queue_timeout", &self.queue_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_age", &self.max_age)
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
