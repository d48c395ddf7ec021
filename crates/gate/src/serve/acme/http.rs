//! How the ACME library speaks to an authority: on the gate's own connections.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use keepgate_client::dial::{Dialer, Roots, Target, TlsError, TlsSettings};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer at most.
const MAX_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Clone)]
pub(super) struct Http {
    dialer: Dialer,
    tls: Arc<TlsSettings>,
}

impl Http {
    pub(super) fn new(dialer: Dialer, roots: &Roots) -> Result<Http, TlsError> {
        let tls = Arc::new(TlsSettings::new(roots, None, &["http/1.1"])?);
        Ok(Http { dialer, tls })
    }

    async fn send(&self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let url = request.uri().clone();
        let (Some("https"), Some(host)) = (url.scheme_str(), url.host()) else {
            return Err(Error::Str("an https URL"));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let target = Target::tcp(host, url.port_u16().unwrap_or(443)).with_tls(self.tls.clone());
        let dialed = self.dialer.dial(&target).await.map_err(other)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(dialed.stream))
                .await
                .map_err(other)?;
        let drive = tokio::spawn(connection);
        let path = url.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = path.into();
        let authority = HeaderValue::from_str(&target.authority()).map_err(other)?;
        request.headers_mut().insert(HOST, authority);
        let agent = HeaderValue::from_static(concat!("keepgate/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let answer = sender.send_request(request).await.map_err(other);
        let read = async {
            let (parts, body) = answer?.into_parts();
            let body = Limited::new(body, MAX_BYTES).collect().await.map_err(Error::Other)?;
            Ok(Response::from_parts(parts, Full::new(body.to_bytes())).into())
        };
        let read = read.await;
        drive.abort();
        read
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let http = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(TIMEOUT, http.send(request)).await {
                Ok(answer) => answer,
                Err(late) => Err(other(late)),
            }
        })
    }
}
