//! Reused, bounded and counted HTTP connections to upstreams.
//!
//! An [`Upstream`] is one address; a [`Group`] is an upstream with one address or many, which follows
//! its names. A [`Pool`] has one [`Upstream`] for each [`UpstreamId`]. An address has at most
//! [`PoolConfig::max_connections`] sockets open, counting those being opened, those in use, idle
//! and upgraded. Who comes beyond that waits in a queue of bounded length, until a
//! connection comes back or the deadline passes. Callers take turns there, so that none starves another.
//!
//! The rules, each one bought with an incident somewhere:
//!
//! - The key is the whole identity ([`UpstreamId`]), compared in full.
//! - INVARIANT: the permit of a connection lives in its socket (`opening`), so it returns when
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
//! - Of the requests that may have been processed already, at most a fifth is sent again (`retries`).
//! - The last attempt gets a connection of its own, which no idle timeout of the peer can meet.
//! - Where somebody looks at the buckets ([`PortWatch`]), the last twentieth of a bucket's ports is left
//!   to others: nothing is opened, before the kernel would refuse.
//! - Running out of ports or descriptors stops opening for a moment and queues the request; it
//!   fails under its own name, [`PoolError::PortsExhausted`], if its deadline passes.
//!
//! One pool serves several single-threaded runtimes: the bound and the queue are global, the
//! idle lists are one a thread, and a thread takes from another's only when its own is empty.
//!
//! What it deliberately does not know: which headers may pass (the gate's forward phase), and
//! what a status code of its errors would be.
//!
//! The files, from the bottom to the top; each uses only those before it.
//!
//! - `budget`, `config`, `stats`, `error`, `request`, `terms`, `look`, `balance`, `retries`: values and pure
//!   functions.
//! - `shared`: what the addresses of one upstream share. `balancer`: which address is next.
//! - `outgoing`: a request's body.
//! - `plain`: requests without a body, on connections that hyper does not drive.
//! - `places`: how many sockets there are and may be. `queue`: who waits for one. `rate`: for how long.
//! - `idle`: HTTP/1.1 connections between two requests. `streams`: HTTP/2 connections.
//! - `slots`: these four under one lock, and the guards that bring things back.
//! - `sweeper`, `opening`: closing what is idle for too long; from the right to open a connection
//!   to a connection.
//! - `incoming`: a response's body. `upstream`: from a request to a response, at one address.
//! - `members`, `group`, `watch`: an upstream's addresses now, a request over all of them, and what
//!   follows their names and health. `upstreams`: the pool. `ports`: looks at the buckets of many
//!   addresses, and says to each how much room there is.

mod balance;
mod balancer;
mod budget;
mod config;
mod error;
mod group;
mod idle;
mod incoming;
mod look;
mod members;
mod opening;
mod outgoing;
mod places;
mod plain;
mod ports;
mod queue;
mod rate;
mod request;
mod retries;
mod shared;
mod slots;
mod stats;
mod streams;
mod sweeper;
mod terms;
mod upstream;
mod upstreams;
mod watch;

pub use balance::BalanceConfig;
pub use balancer::{GroupEvent, OnEvent};
pub use budget::{Budget, MAX_CONNECTIONS, half_of_the_usable_ports};
pub use config::{PoolConfig, Protocol, UpstreamId};
pub use error::{PoolError, WireError};
pub use group::{Group, GroupConfig, GroupError, Held, Sticky};
pub use incoming::{BodyError, PooledBody};
pub use members::{MAX_GROUP_ADDRESSES, MAX_NAME_ADDRESSES};
pub use outgoing::{KEPT_BODY, RequestBody};
pub use ports::{Bucket, PortWatch};
pub use stats::{GroupStats, UpstreamStats};
pub use terms::Terms;
pub use upstream::Upstream;
pub use upstreams::Pool;
