//! One HTTP/2 connection to a center, and gRPC on it.
//!
//! A center's name may lead to several addresses. Each connection goes to one that was not tried
//! since all of them were; where one does not connect within 250 ms, the next joins it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keepgate_policy::wire::MAX_DELTA_BYTES;
use tonic::metadata::{Ascii, MetadataValue};

use super::backoff::random_below;
use crate::dial::{DialError, Dialer, Target};
use crate::proto::sync_client::SyncClient;

/// A message is a chunk or a delta; both are bounded by the model.
const MAX_MESSAGE_BYTES: usize = 2 * MAX_DELTA_BYTES;
/// Enough to take a snapshot at full speed from afar.
const WINDOW_BYTES: u32 = 4 << 20;
/// Pings find a dead connection when even heartbeats do not come.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Addresses of a name that are remembered as tried; the dialer takes no more of one.
const MAX_TRIED: usize = 8;
/// The longest time that a center may ask a replica to stay away.
const MAX_AWAY: Duration = Duration::from_secs(60);

pub(super) struct Center {
    /// As it was named.
    url: String,
    target: Target,
    origin: Uri,
    dialer: Dialer,
    /// None: the client certificate says who it is.
    authorization: Option<MetadataValue<Ascii>>,
    /// Addresses of this name that were tried since all of them were.
    tried: Vec<SocketAddr>,
    /// Addresses of the name, beside the one of the last connection, that were not tried.
    untried: usize,
    /// Addresses of the name when it was last looked up.
    addresses: usize,
    /// Whether several of these are of one family. One of each family is one center.
    is_several: bool,
    /// When the center wants to be asked again, where it said so.
    away: Arc<Mutex<Option<Instant>>>,
}

/// The connection, and the task that drives it; it closes with this.
pub(super) struct Connection {
    pub(super) client: SyncClient<OneConnection>,
    /// Where it leads; none for a Unix socket.
    pub(super) remote: Option<SocketAddr>,
    driver: AbortOnDrop,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection to the center")]
    Dial(#[source] DialError),
    #[error("the center does not speak HTTP/2")]
    Http2(#[source] hyper::Error),
}

impl Center {
    pub(super) fn new(
        url: &str,
        target: Target,
        dialer: Dialer,
        token: &str,
    ) -> Result<Center, tonic::metadata::errors::InvalidMetadataValue> {
        let authorization = match token {
            "" => None,
            token => {
                let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse()?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let scheme = if target.tls.is_some() { "https" } else { "http" };
        let origin = Uri::builder()
            .scheme(scheme)
            .authority(target.authority())
            .path_and_query("/")
            .build()
            .unwrap_or_else(|_| Uri::from_static("http://center/"));
        Ok(Center {
            url: url.to_owned(),
            target,
            origin,
            dialer,
            authorization,
            tried: Vec::new(),
            untried: 0,
            addresses: 0,
            is_several: false,
            away: Arc::default(),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Takes the credentials of the same center.
    pub(super) fn renew(&mut self, with: Center) {
        self.target = with.target;
        self.authorization = with.authorization;
    }

    /// Whether its name was found to lead to several places.
    pub(super) fn is_several(&self) -> bool {
        self.is_several
    }

    #[cfg(test)]
    pub(super) fn stay_away(&self, wait: Duration) {
        *self.away.lock().unwrap() = Some(Instant::now() + wait);
    }

    /// How long the center wants not to be asked; zero: it did not say.
    pub(super) fn away(&self) -> Duration {
        let until = *self.away.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// The request with our credentials.
    pub(super) fn authorized<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }

    /// The center at this address failed, or is not one to follow: whether the name has another
    /// address, which is tried next. Else all of them may be tried again.
    pub(super) fn give_up(&mut self, address: Option<SocketAddr>, is_unfollowed: bool) -> bool {
        let goes_on = self.untried > 0 && (self.is_several || is_unfollowed);
        if let Some(address) = address.filter(|_| goes_on) {
            self.tried.truncate(MAX_TRIED - 1);
            self.tried.push(address);
            // That was the center at this address.
            *self.away.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return true;
        }
        self.tried.clear();
        self.untried = 0;
        false
    }

    /// All addresses, but that of the last connection, may be tried again.
    pub(super) fn forget_tried(&mut self) {
        self.tried.clear();
        self.untried = self.addresses.saturating_sub(1);
    }

    /// Opens a connection; `within` is a shorter deadline than the dialer's own.
    pub(super) async fn connect(
        &mut self,
        within: Option<Duration>,
    ) -> Result<Connection, ConnectError> {
        let tried = &self.tried;
        let (mut all, mut v4, mut left) = (0, 0, 0);
        let choose = |addresses: Vec<SocketAddr>| {
            all = addresses.len();
            v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
            let fresh = untried(addresses, tried);
            left = fresh.len();
            with_random_first(fresh)
        };
        let dial = self.dialer.dial_some(&self.target, choose);
        let dialed = match within {
            None => dial.await,
            Some(within) => tokio::time::timeout(within, dial).await.unwrap_or_else(|_| {
                let peer = self.target.to_string();
                Err(DialError::Timeout { peer, after: Some(within) })
            }),
        };
        (self.addresses, self.untried) = (all, 0);
        self.is_several = v4.max(all - v4) > 1;
        let dialed = dialed.map_err(ConnectError::Dial)?;
        self.untried = left.saturating_sub(1);
        let remote = dialed.remote;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(dialed.stream))
            .await
            .map_err(ConnectError::Http2)?;
        let driver = tokio::spawn(async move {
            // Its end shows on the streams.
            let _ = connection.await;
        });
        let one = OneConnection { sender, away: Arc::clone(&self.away) };
        let client = SyncClient::with_origin(one, self.origin.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Connection { client, remote, driver: AbortOnDrop(driver) })
    }
}

impl Connection {
    /// Ends when the connection is closed.
    pub(super) async fn close(self) {
        let Connection { client, mut driver, .. } = self;
        drop(client);
        driver.0.abort();
        let _ = (&mut driver.0).await;
    }
}

/// The addresses that were not tried; all of them where none would be left.
fn untried(mut addresses: Vec<SocketAddr>, tried: &[SocketAddr]) -> Vec<SocketAddr> {
    if addresses.iter().any(|address| !tried.contains(address)) {
        addresses.retain(|address| !tried.contains(address));
    }
    addresses
}

/// Begins with any of those that are of the family of the first, so that the followers of a name are
/// spread over its addresses.
fn with_random_first(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let of_family: Vec<usize> = (0..addresses.len())
        .filter(|at| addresses.get(*at).is_some_and(|address| address.is_ipv4() == is_v4))
        .collect();
    if let Some(first) = of_family.get(random_below(of_family.len())) {
        addresses.swap(0, *first);
    }
    addresses
}

/// The `Retry-After` of an answer that is none, in whole seconds.
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response.headers().get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_AWAY))
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends every call over this connection and never over another: what tonic's own channel,
/// which reconnects on its own, would not promise.
#[derive(Clone)]
pub(super) struct OneConnection {
    sender: http2::SendRequest<tonic::body::Body>,
    /// Where it is noted that the center wants to be left alone for a while.
    away: Arc<Mutex<Option<Instant>>>,
}

impl tower_service::Service<Request<tonic::body::Body>> for OneConnection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let (answer, away) = (self.sender.send_request(request), Arc::clone(&self.away));
        Box::pin(async move {
            let response = answer.await?;
            let wait = retry_after(&response).map(|wait| Instant::now() + wait);
            *away.lock().unwrap_or_else(PoisonError::into_inner) = wait;
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_were_tried_are_the_last_resort() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b) = (parse("[::1]:1"), parse("1.1.1.1:1"));
        assert_eq!(untried(vec![a, b], &[]), [a, b]);
        assert_eq!(untried(vec![a, b], &[a]), [b]);
        assert_eq!(untried(vec![a, b], &[a, b]), [a, b]);
        assert_eq!(untried(vec![a], &[b]), [a]);
    }

    #[test]
    fn any_address_of_the_first_family_comes_first() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let all = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"].map(parse);
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut order = with_random_first(all.to_vec());
            first.insert(order[0]);
            order.sort_unstable();
            let mut sorted = all;
            sorted.sort_unstable();
            assert_eq!(order, sorted, "none is lost");
        }
        assert_eq!(first, ["[::1]:1", "[::2]:1", "[::3]:1"].map(parse).into_iter().collect());
        assert!(with_random_first(Vec::new()).is_empty());
    }

    #[test]
    fn a_center_may_ask_for_a_minute_at_most() {
        let answer = |value: &str| {
            retry_after(&Response::builder().header("retry-after", value).body(()).unwrap())
        };
        assert_eq!(answer("7"), Some(Duration::from_secs(7)));
        assert_eq!(answer("100000"), Some(MAX_AWAY));
        assert_eq!(answer("soon"), None);
        assert_eq!(retry_after(&Response::new(())), None);
    }
}
