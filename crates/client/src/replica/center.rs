//! One HTTP/2 connection to a center, and gRPC on it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keepgate_policy::wire::MAX_DELTA_BYTES;
use tonic::metadata::{Ascii, MetadataValue};

use crate::dial::{DialError, Dialer, Target};
use crate::proto::sync_client::SyncClient;

/// A message is a chunk or a delta; both are bounded by the model.
const MAX_MESSAGE_BYTES: usize = 2 * MAX_DELTA_BYTES;
/// Enough to take a snapshot at full speed from afar.
const WINDOW_BYTES: u32 = 4 << 20;
/// Pings find a dead connection when even heartbeats do not come.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Addresses that are avoided at most.
const MAX_FOREIGN: usize = 8;

pub(super) struct Center {
    target: Target,
    origin: Uri,
    dialer: Dialer,
    /// None: the client certificate says who it is.
    authorization: Option<MetadataValue<Ascii>>,
    /// Addresses of this name where another center answered; at most as many as a name has.
    foreign: Vec<SocketAddr>,
}

/// The connection, and the task that drives it; it closes with this.
pub(super) struct Connection {
    pub(super) client: SyncClient<OneConnection>,
    /// Where it leads; none for a Unix socket.
    pub(super) remote: Option<SocketAddr>,
    _driver: AbortOnDrop,
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
        Ok(Center { target, origin, dialer, authorization, foreign: Vec::new() })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The request with our credentials.
    pub(super) fn authorized<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }

    /// Another center answers at this address: the next one of the name is tried, and this one
    /// again when there is no other.
    pub(super) fn avoid(&mut self, address: SocketAddr) {
        if !self.foreign.contains(&address) {
            self.foreign.truncate(MAX_FOREIGN - 1);
            self.foreign.push(address);
        }
    }

    pub(super) async fn connect(&mut self) -> Result<Connection, ConnectError> {
        let dialed = self.dialer.dial_avoiding(&self.target, &self.foreign).await;
        let dialed = dialed.map_err(ConnectError::Dial)?;
        let remote = dialed.remote;
        if remote.is_some_and(|remote| self.foreign.contains(&remote)) {
            // All were tried.
            self.foreign.clear();
        }
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
        let client = SyncClient::with_origin(OneConnection(sender), self.origin.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Connection { client, remote, _driver: AbortOnDrop(driver) })
    }
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
pub(super) struct OneConnection(http2::SendRequest<tonic::body::Body>);

impl tower_service::Service<Request<tonic::body::Body>> for OneConnection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
