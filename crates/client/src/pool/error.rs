//! Why a request has no response.

use std::io;
use std::time::Duration;

use crate::dial::{DialError, DialOutcome};

/// A request without a response, by name. `upstream` is shown as a URL.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All connections are in use and as many requests as allowed wait already.
    #[error("{waiting} requests wait for {upstream} already")]
    QueueFull {
        /// The upstream.
        upstream: String,
        /// The bound.
        waiting: usize,
        /// After how many seconds a place comes free for it, at the rate of now.
        retry_after_s: u32,
    },
    /// No connection came back within the deadline.
    #[error("no connection to {upstream} became free within {after:?}")]
    QueueTimeout {
        /// The upstream.
        upstream: String,
        /// How long the request waited.
        after: Duration,
        /// As above.
        retry_after_s: u32,
    },
    /// Only ports are left that are kept back, and no connection came back in time either.
    #[error(
        "no port toward {upstream} is left beside the reserve, and no connection became free within {after:?}"
    )]
    PortReserve {
        /// The upstream.
        upstream: String,
        /// How long the request waited.
        after: Duration,
        /// As above.
        retry_after_s: u32,
    },
    /// This host ran out of ports or descriptors, and no connection came back in time either.
    #[error("no connection to {upstream} can be opened and none became free within {after:?}")]
    PortsExhausted {
        /// The upstream.
        upstream: String,
        /// How long the request waited.
        after: Duration,
        /// As above.
        retry_after_s: u32,
        /// The last attempt: [`DialError::PortsExhausted`] or [`DialError::FdLimit`].
        #[source]
        source: DialError,
    },
    /// The connection could not be opened in time.
    #[error("{upstream} did not accept a connection in time")]
    ConnectTimeout {
        /// The upstream.
        upstream: String,
        /// What was tried.
        #[source]
        source: DialError,
    },
    /// The connection could not be opened; the source names why ([`DialError::outcome`]).
    #[error("no connection to {upstream}")]
    Connect {
        /// The upstream.
        upstream: String,
        /// Why.
        #[source]
        source: DialError,
    },
    /// The connection ended before there was a response.
    #[error("{upstream} ended the connection without a response")]
    Reset {
        /// The upstream.
        upstream: String,
        /// What was seen.
        #[source]
        source: WireError,
    },
    /// What came back is not HTTP.
    #[error("{upstream} sent an invalid response")]
    UpstreamProtocol {
        /// The upstream.
        upstream: String,
        /// What is wrong with it.
        #[source]
        source: WireError,
    },
    /// The response did not begin in time.
    #[error("{upstream} did not begin its response within {after:?}")]
    ResponseTimeout {
        /// The upstream.
        upstream: String,
        /// The deadline.
        after: Duration,
    },
    /// The request's own body failed; the client's fault, not the upstream's.
    #[error("the request's body ended with an error")]
    RequestBody {
        /// The body's error.
        #[source]
        source: hyper::Error,
    },
    /// Nothing moved for too long in an exchange whose request is still under way (gRPC).
    #[error("nothing moved in the exchange with {upstream} for {after:?}")]
    Idle {
        /// The upstream.
        upstream: String,
        /// The bound.
        after: Duration,
    },
    /// The upstream closed the connection before it took the request (GOAWAY), and the body is too
    /// large to have been kept. It did nothing with the request: the client may send it again.
    #[error("{upstream} closed the connection before it took the request")]
    NotTaken {
        /// The upstream.
        upstream: String,
        /// What it said.
        #[source]
        source: hyper::Error,
    },
    /// The request waited for a connection, and whoever sent it does not want it sent any more.
    #[error("the request was withdrawn while it waited")]
    Withdrawn,
    /// The request cannot be put on the wire.
    #[error("the request cannot be sent: {0}")]
    Unsendable(&'static str),
}

impl PoolError {
    /// The value of the metric's label `error`.
    pub fn label(&self) -> &'static str {
        match self {
            PoolError::QueueFull { .. } => "queue_full",
            PoolError::QueueTimeout { .. } => "queue_timeout",
            PoolError::PortReserve { .. } => "port_reserve",
            PoolError::PortsExhausted { source, .. } => source.label(),
            PoolError::ConnectTimeout { .. } => "connect_timeout",
            PoolError::Connect { source, .. } => source.label(),
            PoolError::Reset { .. } => "reset",
            PoolError::UpstreamProtocol { .. } => "upstream_protocol",
            PoolError::ResponseTimeout { .. } => "response_timeout",
            PoolError::RequestBody { .. } => "request_body",
            PoolError::Idle { .. } => "answer_idle",
            PoolError::NotTaken { .. } => "goaway",
            PoolError::Withdrawn => "withdrawn",
            PoolError::Unsendable(_) => "unsendable",
        }
    }

    /// Whether the client's request is to blame (its body failed, or it cannot be sent).
    pub fn is_request(&self) -> bool {
        matches!(
            self,
            PoolError::RequestBody { .. } | PoolError::Unsendable(_) | PoolError::Withdrawn
        )
    }

    /// Whether this side had no connection to give: the upstream was never asked.
    pub fn is_no_capacity(&self) -> bool {
        matches!(
            self,
            PoolError::QueueFull { .. }
                | PoolError::QueueTimeout { .. }
                | PoolError::PortReserve { .. }
                | PoolError::PortsExhausted { .. }
        )
    }

    /// Where this side had no connection to give: after how many seconds, 1 to 60, it will have one, as
    /// fast as they came free lately.
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            PoolError::QueueFull { retry_after_s, .. }
            | PoolError::QueueTimeout { retry_after_s, .. }
            | PoolError::PortReserve { retry_after_s, .. }
            | PoolError::PortsExhausted { retry_after_s, .. } => Some(*retry_after_s),
            _ => None,
        }
    }

    pub(super) fn dial(upstream: String, source: DialError) -> PoolError {
        match source.outcome() {
            DialOutcome::Timeout => PoolError::ConnectTimeout { upstream, source },
            _ => PoolError::Connect { upstream, source },
        }
    }

    pub(super) fn exchange(upstream: String, source: impl Into<WireError>) -> PoolError {
        let source = source.into();
        if source.is_invalid() {
            PoolError::UpstreamProtocol { upstream, source }
        } else {
            PoolError::Reset { upstream, source }
        }
    }
}

/// What went wrong on a connection.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// As the HTTP library says it.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// Reading or writing failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The peer closed it too early.
    #[error("the connection was closed before the response was whole")]
    Incomplete,
    /// What came is no response.
    #[error("the response has {0}")]
    Invalid(&'static str),
}

impl WireError {
    /// Whether what came back is not HTTP.
    fn is_invalid(&self) -> bool {
        match self {
            WireError::Http(error) => error.is_parse() || error.is_parse_too_large(),
            WireError::Io(_) | WireError::Incomplete => false,
            WireError::Invalid(_) => true,
        }
    }
}
