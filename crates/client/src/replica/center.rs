//! One HTTP/2 connection to a center, and gRPC on it.

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

pub(super) struct Center {
    target: Target,
    origin: Uri,
    dialer: Dialer,
    authorization: MetadataValue<Ascii>,
}

/// The connection, and the task that drives it; it closes with this.
pub(super) struct Connection {
    pub(super) client: SyncClient<OneConnection>,
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
        let mut authorization: MetadataValue<Ascii> = format!("Bearer {token}").parse()?;
        authorization.set_sensitive(true);
        let scheme = if target.tls.is_some() { "https" } else { "http" };
        let origin = Uri::builder()
            .scheme(scheme)
            .authority(target.authority())
            .path_and_query("/")
            .build()
            .unwrap_or_else(|_| Uri::from_static("http://center/"));
        Ok(Center { target, origin, dialer, authorization })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The request with our credentials.
    pub(super) fn authorized<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request
    }

    pub(super) async fn connect(&self) -> Result<Connection, ConnectError> {
        let dialed = self.dialer.dial(&self.target).await.map_err(ConnectError::Dial)?;
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
        Ok(Connection { client, _driver: AbortOnDrop(driver) })
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
