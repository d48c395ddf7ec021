//! The other end of a caller's connection: who it is, and its place among the connections.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use keepgate_serve::certificate::{Certificate, CertificateError};
use keepgate_serve::{ClientCas, Place, Seat};
use rustls::pki_types::CertificateDer;

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
    /// What the caller has shown of itself in the handshake; none: nothing.
    pub(crate) certificate: Option<ShownCertificate>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) seat: Arc<Seat>,
    /// Held for its Drop, also by what outlives the connection.
    pub(crate) place: Arc<CallerPlace>,
}

impl Peer {
    /// `client`'s address, an IPv4 one as such.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.client.map(|addr| addr.ip().to_canonical())
    }

    /// The peer of another proxy, which asks over this one's connection. None of `whose`: it did not
    /// say, so it is this peer that counts, and it is trusted with nothing.
    pub(crate) fn of_proxy(&self, whose: Option<Option<IpAddr>>) -> Peer {
        let client = match whose {
            Some(address) => address.map(|address| SocketAddr::new(address, 0)),
            None => self.client,
        };
        Peer {
            client,
            is_unnamed: whose.is_none(),
            forwarded_for: None,
            is_tls: false,
            is_h2: false,
            certificate: None,
            shared: Arc::clone(&self.shared),
            seat: Arc::clone(&self.seat),
            place: Arc::clone(&self.place),
        }
    }
}

/// A client certificate that a handshake has accepted. It is of the connection: read once, and the
/// same for every site and service that the connection's requests are for.
pub(crate) struct ShownCertificate {
    chain: Vec<CertificateDer<'static>>,
    pub(crate) read: Result<Certificate, CertificateError>,
    cas: Arc<ClientCas>,
    /// Which files of authorities have issued it, as far as that was asked.
    judged: Mutex<Vec<(PathBuf, bool)>>,
}

impl ShownCertificate {
    /// Of a chain that was accepted by one of the authorities; none: it is empty.
    pub(crate) fn new(
        chain: &[CertificateDer<'_>],
        cas: Arc<ClientCas>,
    ) -> Option<ShownCertificate> {
        let read = Certificate::parse(chain.first()?);
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        Some(ShownCertificate { chain, read, cas, judged: Mutex::default() })
    }

    /// Whether an authority in this file has issued it.
    pub(crate) fn is_of(&self, ca: &Path) -> bool {
        if self.cas.is_only(ca) {
            return true;
        }
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, is_of)) = judged.iter().find(|(path, _)| path == ca) {
            return *is_of;
        }
        let is_of = self.cas.accepts(ca, &self.chain, keepgate_observe::unix_s());
        judged.push((ca.to_owned(), is_of));
        is_of
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
