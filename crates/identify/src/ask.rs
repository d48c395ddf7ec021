//! One question to a server outside, by HTTP/1.1, each over a connection of its own.
//!
//! For what is asked seldom: an identity provider's documents, its token endpoint, a webhook. The
//! gate's pool is for what requests wait for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::access::{AccessError, Asked, KeyAccess};

/// What is asked.
pub struct Question<'a> {
    /// GET or POST, usually.
    pub method: Method,
    /// Judged by the rules of [`KeyAccess`], and so is every address of its host.
    pub url: &'a str,
    /// Beside `Host` and `Connection`.
    pub headers: &'a [(http::HeaderName, http::HeaderValue)],
    /// Sent whole.
    pub body: Bytes,
    /// The largest answer that is read, in bytes.
    pub max_answer: usize,
    /// For all of it: name, connection, TLS, answer.
    pub timeout: Duration,
}

/// What came back. Redirects are not followed: the server is where the operator said.
#[derive(Debug)]
pub struct Answer {
    /// Any.
    pub status: StatusCode,
    /// All of it.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The URL or an address of its host is not allowed.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The host's name resolves to nothing.
    #[error("the name `{host}` does not resolve")]
    Name {
        /// The host.
        host: String,
        /// Why, where the resolver said.
        #[source]
        source: Option<std::io::Error>,
    },
    /// No address of the host takes the connection.
    #[error("no connection to {address}")]
    Connect {
        /// The last one that was tried.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The host's own store of root certificates is empty.
    #[error("this host has no usable root certificate; install ca-certificates")]
    NoRoots,
    /// The library cannot use what there is.
    #[error("TLS cannot be used")]
    Tls(#[source] rustls::Error),
    /// The name in the URL is none for TLS.
    #[error("`{0}` is neither a DNS name nor an address")]
    ServerName(String),
    /// The server ended it, or spoke something else.
    #[error("the server gave no answer of HTTP/1.1")]
    Http(#[source] hyper::Error),
    /// The answer is too large, or broke off.
    #[error("the answer broke off, or is larger than {max} bytes")]
    Body {
        /// The bound.
        max: usize,
    },
    /// Not a request that can be sent.
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

/// Settings for TLS that trust what this host trusts, or only the given certificates.
///
/// # Errors
/// [`AskError::NoRoots`] without any certificate, [`AskError::Tls`] where the library refuses.
pub fn tls(
    roots: Option<Vec<rustls::pki_types::CertificateDer<'static>>>,
) -> Result<Arc<ClientConfig>, AskError> {
    let roots = roots.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs);
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots);
    if store.is_empty() {
        return Err(AskError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(AskError::Tls)?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Asks once.
///
/// # Errors
/// [`AskError`]; an answer of any status is none.
pub async fn ask(
    question: Question<'_>,
    access: &KeyAccess,
    tls: &Arc<ClientConfig>,
) -> Result<Answer, AskError> {
    let bound = question.timeout;
    let asked = access.url(question.url)?;
    let all = all(question, &asked, tls);
    tokio::time::timeout(bound, all).await.map_err(|_| AskError::Timeout(bound))?
}

async fn all(
    question: Question<'_>,
    asked: &Asked,
    tls: &Arc<ClientConfig>,
) -> Result<Answer, AskError> {
    let tcp = connected(asked).await?;
    if !asked.is_https() {
        return exchange(question, asked, tcp).await;
    }
    let host = asked.host().to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| AskError::ServerName(host))?;
    let address = tcp.peer_addr();
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
    let unknown = || SocketAddr::from(([0, 0, 0, 0], asked.port()));
    let stream = stream.map_err(|source| AskError::Connect {
        address: address.unwrap_or_else(|_| unknown()),
        source,
    })?;
    exchange(question, asked, stream).await
}

/// The addresses that are judged are the ones connected to: the name is not asked again.
#[expect(
    clippy::disallowed_methods,
    reason = "the center has no pool; what it asks is few and bounded"
)]
async fn connected(asked: &Asked) -> Result<TcpStream, AskError> {
    let host = || asked.host().to_owned();
    let found = tokio::net::lookup_host((asked.host(), asked.port())).await;
    let found: Vec<SocketAddr> =
        found.map_err(|e| AskError::Name { host: host(), source: Some(e) })?.collect();
    for address in &found {
        asked.check(address.ip())?;
    }
    let mut last = AskError::Name { host: host(), source: None };
    for address in found {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => last = AskError::Connect { address, source },
        }
    }
    Err(last)
}

async fn exchange(
    question: Question<'_>,
    asked: &Asked,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Answer, AskError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(AskError::Http)?;
    let drive = Driven(tokio::spawn(async move {
        // What ends it early, the question itself is told.
        drop(connection.await);
    }));
    let mut request = Request::builder()
        .method(question.method)
        .uri(asked.path.as_str())
        .header(HOST, asked.authority())
        .header(CONNECTION, "close");
    for (name, value) in question.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(question.body)).map_err(AskError::Request)?;
    let response = sender.send_request(request).await.map_err(AskError::Http)?;
    let status = response.status();
    let max = question.max_answer;
    let body = Limited::new(response.into_body(), max).collect().await;
    drop(drive);
    Ok(Answer { status, body: body.map_err(|_| AskError::Body { max })?.to_bytes() })
}

/// The connection's task; it ends with the question, also where that is given up.
struct Driven(tokio::task::JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    fn question(url: &str, max_answer: usize) -> Question<'_> {
        Question {
            method: Method::POST,
            url,
            headers: &[],
            body: Bytes::from_static(b"ping"),
            max_answer,
            timeout: Duration::from_secs(20),
        }
    }

    /// Answers one connection with a body of as many bytes; gives what was asked.
    fn server(bytes: usize) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"ping") {
                let n = stream.read(&mut buffer).unwrap();
                assert!(n > 0);
                asked.extend_from_slice(&buffer[..n]);
            }
            let body = "x".repeat(bytes);
            // A client that has read enough may have gone.
            let _ = write!(
                stream,
                "HTTP/1.1 302 Found\r\nlocation: /else\r\ncontent-length: {bytes}\r\n\r\n{body}"
            );
            String::from_utf8(asked).unwrap()
        });
        (port, served)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_answer_is_read_up_to_its_bound_and_no_redirect_is_followed() {
        let access = KeyAccess { local: true, ..KeyAccess::default() };
        let trusted = tls(None).unwrap();
        for (bytes, fits) in [(64, true), (65, false)] {
            let (port, served) = server(bytes);
            let url = format!("http://localhost:{port}/hook?a=1");
            let got = run(ask(question(&url, 64), &access, &trusted));
            let asked = served.join().unwrap();
            assert!(asked.starts_with("POST /hook?a=1 HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains(&format!("host: localhost:{port}\r\n")), "{asked}");
            match got {
                Ok(answer) if fits => {
                    assert_eq!((answer.status.as_u16(), answer.body.len()), (302, 64));
                }
                Err(AskError::Body { max: 64 }) if !fits => {}
                other => panic!("{bytes}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_allowed_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let trusted = tls(None).unwrap();
        let access = KeyAccess::default();
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://localhost:{port}/");
            let got = run(ask(question(&url, 64), &access, &trusted));
            assert!(matches!(got, Err(AskError::Access(_))), "{got:?}");
        }
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
