//! The other end of a caller's connection: who it is, and its place among the connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;
use keepgate_serve::{Place, Seat};

use crate::exchange::cut::Cut;
use crate::exchange::shared::Shared;
use crate::observe::metrics::WorkerMetrics;

/// The request of a cut that is a whole connection's.
pub(crate) const NO_REQUEST: HeaderValue = HeaderValue::from_static("none");

/// See the module.
pub(crate) struct Peer {
    /// Who connected, or whom that one speaks for (PROXY protocol); none over a Unix socket.
    pub(crate) client: Option<SocketAddr>,
    /// A PROXY protocol header named nobody: `client` is who connected, and is not trusted.
    pub(crate) is_unnamed: bool,
    /// `client`'s address as `X-Forwarded-For` has it.
    pub(crate) forwarded_for: Option<HeaderValue>,
    pub(crate) is_tls: bool,
    pub(crate) is_h2: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) seat: Arc<Seat>,
    #[expect(dead_code, reason = "held for its Drop, also by what outlives the connection")]
    pub(crate) place: CallerPlace,
}

impl Peer {
    /// `client`'s address, an IPv4 one as such.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.client.map(|addr| addr.ip().to_canonical())
    }
}

/// A place among the connections, held until the connection has ended, also as a tunnel.
///
/// INVARIANT: the place is free before the metrics count one connection less (fields are dropped
/// in their order), so that whoever saw the number fall finds a place.
pub(crate) struct CallerPlace {
    place: Place,
    counted: Counted,
}

/// A connection in the metrics of its worker.
struct Counted(Arc<WorkerMetrics>);

impl CallerPlace {
    /// Counts the connection that has this place.
    pub(crate) fn new(place: Place, metrics: &Arc<WorkerMetrics>) -> CallerPlace {
        metrics.open.rise();
        CallerPlace { place, counted: Counted(Arc::clone(metrics)) }
    }

    pub(crate) fn seat(&self) -> &Arc<Seat> {
        self.place.seat()
    }
}

impl Drop for CallerPlace {
    fn drop(&mut self) {
        if self.seat().is_told() {
            self.counted.0.cuts.note(Cut::Places, &NO_REQUEST);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fall();
    }
}
