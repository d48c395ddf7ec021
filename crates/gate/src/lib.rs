//! The gateway: identify, route, limit, decide, forward, record.
//!
//! A [`Gate`] stands before upstreams. Host and path of a request lead to a site, and the gate lets
//! it through to the site's upstream when the policies of the site's service permit it. The life of a request is the list in `phase`. Permissions come from a
//! [`DecisionSource`], by default the replica of a center; decisions are made in process.
//!
//! Each wing sees only those above it in this list:
//!
//! ```text
//! identify  who a caller is, from what it shows
//! exchange  what a connection and its exchanges tell each other; what is cut short
//! message   headers, paths, bodies, and the gate's own answers
//! config    what a gate is told when it starts
//! service   one version of the service, compiled: routes, limits, ways to identify
//! observe   what operators see
//! wire      bytes before they are a request
//! phase     the life of a request
//! check     requests that other proxies ask about and forward themselves
//! serve     the gate: listeners, connections, workers, background tasks
//! ```
//!
//! It deliberately does not know: how permissions get here (`keepgate_client`), what they mean
//! (`keepgate_policy`), how connections are opened and kept (`keepgate_client::{dial, pool}`),
//! and where its configuration was written.
//!
//! Invariants:
//! - 403 is an answer of the policies and of nothing else.
//! - The bytes of the path that were decided on are the bytes that are forwarded, or (exact paths)
//!   what the bytes that are forwarded mean to every reader.
//! - A credential that is shown and does not hold is 401, on every route.
//! - Nothing waits without a deadline, nothing grows without a bound.
//! - What was allowed goes on only as long as it is: an open exchange is decided again when
//!   permissions change.
//! - No lock or counter on a request's way is contended between workers, but for the upstream
//!   pool's, a shard of the limits' stores and, of a request with a body, the list of uploads.
//! - No module reaches another in a circle (`cargo xtask tidy`).

pub mod check;
pub mod config;
mod exchange;
pub mod identify;
pub mod message;
mod observe;
mod phase;
pub mod proto;
mod serve;
pub mod service;
pub mod wire;

pub use config::acme::{ACME_HOSTS, AcmeConfig, LETS_ENCRYPT};
pub use config::records::{RecordBounds, RecordConfig, Sample};
pub use config::{Bounds, GateConfig, Listen, Peers, UnixAccess, UpstreamHost};
pub use keepgate_serve::TlsFiles;
pub use observe::ports::{BucketSeen, DialsOf, PortsAnswer, UpstreamPorts};
pub use serve::acme::DirectoryError;
pub use serve::check::faults;
pub use serve::failure::{RunError, StartError};
pub use serve::gate::Gate;
pub use serve::listen::ListenError;
pub use serve::reload::{Reloaded, Reloader};
pub use serve::takeover::TakeoverError;
pub use service::source::{Answering, DecisionSource, FixedSource};
