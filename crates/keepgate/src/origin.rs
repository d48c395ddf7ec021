//! A small HTTP/1.1 client for one origin, over [`keepgate_client::dial`]. It keeps its one
//! connection for the next request, follows no redirect and retries nothing. Where an origin has
//! several places, the first one that can be connected to is spoken to.
//!
//! Bounds: [`TIMEOUT`] for a whole exchange, [`MAX_BODY_BYTES`] for an answer's body.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use keepgate_client::dial::{DialConfig, Dialer, Roots, Target, TlsSettings};
use keepgate_observe::trace::TraceContext;

/// The longest a whole exchange may take, the connection included.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The longest that an answer which tells its progress may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest until such an answer begins: what is sent may be large, and others may be before it.
const PATIENCE: Duration = Duration::from_secs(900);
/// The largest answer, in bytes.
const MAX_BODY_BYTES: usize = 256 << 20;

/// Whether a text is a `traceparent`.
fn is_trace(text: &str) -> bool {
    TraceContext::parse(text.as_bytes()).is_some()
}

/// One origin and the connection to it.
pub(crate) struct Origin {
    dialer: Dialer,
    /// Where the connection leads, or the next one.
    target: Target,
    /// Where else the same is served.
    others: Vec<Target>,
    /// The path that all paths are below; empty or without a slash at its end.
    base: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Origin {
    /// `http://host:port`, `https://host` or `unix:/path`, with a base path where it is a URL.
    /// `ca` trusts that PEM file in place of the host's certificate store.
    pub(crate) fn new(url: &str, ca: Option<&Path>) -> anyhow::Result<Origin> {
        Origin::first_of(&[url.to_owned()], ca)
    }

    /// As [`Origin::new`], with several places that serve the same: the first that can be connected to
    /// is spoken to.
    pub(crate) fn first_of(urls: &[String], ca: Option<&Path>) -> anyhow::Result<Origin> {
        let roots = ca.map_or(Roots::System, |path| Roots::File(path.to_owned()));
        let mut base = None;
        let mut targets = Vec::with_capacity(urls.len());
        for url in urls {
            let (origin, own) = split(url);
            let own = own.trim_end_matches('/');
            if *base.get_or_insert(own) != own {
                bail!("`{url}`: expected the same path in each URL, got `{own}` here");
            }
            targets.push(Target::from_url(origin, || {
                TlsSettings::new(&roots, None, &["http/1.1"]).map(Arc::new)
            })?);
        }
        let mut targets = targets.into_iter();
        let target = targets.next().context("no URL is given")?;
        let dialer = Dialer::new(DialConfig::default());
        let base = base.unwrap_or_default().to_owned();
        Ok(Origin { dialer, target, others: targets.collect(), base, connection: None })
    }

    /// Whether bytes to it can be read by nobody on the way: TLS, a Unix socket, or loopback.
    pub(crate) fn is_private(&self) -> bool {
        self.target.is_private() && self.others.iter().all(Target::is_private)
    }

    /// Sends a request for a path below the base path and reads the answer.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Answer> {
        let path = format!("{}{path}", self.base);
        self.send_at_root(method, &path, headers, body).await
    }

    /// The base path; empty or without a slash at its end.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request for a whole path and reads the answer.
    pub(crate) async fn send_at_root(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Answer> {
        let shown = format!("{}{path}", self.target);
        let exchange = self.exchange(method, path, headers, body);
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(answer) => answer.with_context(|| format!("no answer from `{shown}`")),
            Err(_) => Err(late(&shown, TIMEOUT)),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> http::request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.target.authority())
            .header(USER_AGENT, concat!("keepgate/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Whoever runs the command may trace it (OpenTelemetry: environment variables as carriers).
        if let Some(trace) = std::env::var("TRACEPARENT").ok().filter(|trace| is_trace(trace)) {
            request = request.header("traceparent", trace);
        }
        request
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Answer> {
        let mut sender = self.sender().await?;
        let mut request = self.request(method, path, headers);
        let bytes = match body {
            None => Bytes::new(),
            Some((kind, bytes)) => {
                request = request.header(CONTENT_TYPE, kind);
                bytes
            }
        };
        let request = request.body(Full::new(bytes)).context("building the request")?;
        let response = sender.send_request(request).await.context(Lost)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES)
            .collect()
            .await
            .map_err(|e| anyhow::anyhow!("reading the answer: {e}").context(Lost))?
            .to_bytes();
        self.connection = Some(sender);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Sends a request whose answer comes line by line; the connection is not used again.
    pub(crate) async fn send_and_follow(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: (&str, Bytes),
    ) -> anyhow::Result<Following> {
        let path = format!("{}{path}", self.base);
        let mut sender = self.sender().await?;
        let shown = format!("{}{path}", self.target);
        let mut request = self.request(method, &path, headers);
        request = request.header(CONTENT_TYPE, body.0);
        let request = request.body(Full::new(body.1)).context("building the request")?;
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
        let response = match answer {
            Ok(response) => {
                response.context(Lost).with_context(|| format!("no answer from `{shown}`"))?
            }
            Err(_) => return Err(late(&shown, PATIENCE)),
        };
        let (head, body) = response.into_parts();
        Ok(Following { head, body, held: Vec::new(), shown, _sender: sender })
    }

    /// The connection of the last request, if it is still good.
    async fn kept(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let mut kept = self.connection.take()?;
        kept.ready().await.ok()?;
        Some(kept)
    }

    /// That connection, or a new one: to the first place that can be connected to, and to the one of
    /// before first of all.
    async fn sender(&mut self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        if let Some(kept) = self.kept().await {
            return Ok(kept);
        }
        let mut last = connect(&self.dialer, &self.target).await;
        for other in &mut self.others {
            if last.is_ok() {
                break;
            }
            std::mem::swap(&mut self.target, other);
            last = connect(&self.dialer, &self.target).await;
        }
        last
    }
}

async fn connect(dialer: &Dialer, target: &Target) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let dialed = dialer.dial(target).await?;
    let (sender, connection) = handshake(TokioIo::new(dialed.stream)).await?;
    // It ends when the sender is dropped; its error is the one the sender reports.
    tokio::spawn(connection);
    Ok(sender)
}

/// The connection was there, and no whole answer came: what the request asks for may have been done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer was lost")
    }
}

fn late(shown: &str, patience: Duration) -> anyhow::Error {
    anyhow::anyhow!("no answer from `{shown}` within {} s", patience.as_secs()).context(Lost)
}

/// An answer that is read line by line.
pub(crate) struct Following {
    pub(crate) head: http::response::Parts,
    body: hyper::body::Incoming,
    held: Vec<u8>,
    shown: String,
    /// The connection ends with it.
    _sender: SendRequest<Full<Bytes>>,
}

impl Following {
    /// The next line, without its end; none: the answer has ended. An answer without lines is one.
    pub(crate) async fn line(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let rest = self.held.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.held.len() > MAX_BODY_BYTES {
                bail!("a line of `{}` has more than {MAX_BODY_BYTES} bytes", self.shown);
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            match frame {
                Err(_) => {
                    let said = format!("`{}` was silent for {} s", self.shown, SILENCE.as_secs());
                    return Err(anyhow::anyhow!(said).context(Lost));
                }
                Ok(Some(frame)) => {
                    let read = frame.context(Lost);
                    let frame = read.with_context(|| format!("reading `{}`", self.shown))?;
                    self.held.extend(frame.data_ref().into_iter().flatten());
                }
                Ok(None) if self.held.is_empty() => return Ok(None),
                Ok(None) => return Ok(Some(std::mem::take(&mut self.held))),
            }
        }
    }

    /// Whether it comes in lines of JSON.
    pub(crate) fn has_lines(&self) -> bool {
        let kind = self.head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        kind.is_some_and(|kind| kind.starts_with("application/x-ndjson"))
    }
}

/// The origin of a URL and the path after it.
pub(crate) fn split(url: &str) -> (&str, &str) {
    let after_scheme = match url.split_once("://") {
        Some((scheme, _)) if scheme != "unix" => scheme.len() + 3,
        _ => return (url, ""),
    };
    let rest = url.get(after_scheme..).unwrap_or_default();
    let end = rest.find('/').map_or(url.len(), |slash| after_scheme + slash);
    url.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_origin_and_a_base_path() {
        let check = |url, origin, base| assert_eq!(split(url), (origin, base));
        check("http://a:1", "http://a:1", "");
        check("https://a/tenant1/", "https://a", "/tenant1/");
        check("unix:/run/x.sock", "unix:/run/x.sock", "");
        check("unix:///run/x.sock", "unix:///run/x.sock", "");
    }

    #[test]
    fn tokens_travel_only_where_nobody_listens() {
        let private = |url| Origin::new(url, None).unwrap().is_private();
        assert!(private("http://127.0.0.1:7480"));
        assert!(private("http://[::1]:7480"));
        assert!(private("unix:/run/keepgate.sock"));
        assert!(!private("http://10.0.0.1:7480"));
        assert!(!private("http://localhost.example:7480"));
    }
}
