//! Where a connection leads, as a value: two equal targets may share connections.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::tls::{TlsError, TlsSettings};

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A host (a name, or an address without brackets) and a port.
    Tcp {
        /// The name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// The full identity of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The other end.
    pub place: Endpoint,
    /// Where the place's name leads, for one connection among those to all of its addresses; none: it
    /// is resolved for each connection.
    pub address: Option<SocketAddr>,
    /// TLS, and everything that decides whom it trusts and as whom it speaks; none: plain.
    pub tls: Option<Arc<TlsSettings>>,
    /// The name asked for and verified in TLS; none: the place's host.
    pub server_name: Option<String>,
    /// Local addresses to connect from; empty: the kernel chooses. Several are used in turn, and
    /// each has ports of its own.
    pub sources: Vec<IpAddr>,
}

/// A URL that is no target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not a URL at all.
    #[error("`{0}` is not a URL such as `http://host:port`, `https://host` or `unix:/path`")]
    Url(String),
    /// A scheme that is not served.
    #[error("`{url}`: the scheme must be `http`, `https` or `unix`")]
    Scheme {
        /// The URL.
        url: String,
    },
    /// A URL with a path, query or user, where only an origin makes sense.
    #[error("`{url}`: only scheme, host and port are allowed here, not `{extra}`")]
    Extra {
        /// The URL.
        url: String,
        /// What is too much.
        extra: String,
    },
    /// The TLS settings for an `https` URL cannot be had.
    #[error("`{url}`: TLS cannot be set up")]
    Tls {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: TlsError,
    },
}

impl Target {
    /// Plain TCP.
    pub fn tcp(host: impl Into<String>, port: u16) -> Target {
        Target {
            place: Endpoint::Tcp { host: host.into(), port },
            address: None,
            tls: None,
            server_name: None,
            sources: Vec::new(),
        }
    }

    /// A Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Target {
        Target {
            place: Endpoint::Unix(path.into()),
            address: None,
            tls: None,
            server_name: None,
            sources: Vec::new(),
        }
    }

    /// The same place over TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<TlsSettings>) -> Target {
        self.tls = Some(tls);
        self
    }

    /// `http://host[:port]`, `https://host[:port]` or `unix:/path`. `tls` is asked for only
    /// where the scheme is `https`.
    pub fn from_url(
        url: &str,
        tls: impl FnOnce() -> Result<Arc<TlsSettings>, TlsError>,
    ) -> Result<Target, TargetError> {
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(TargetError::Url(url.to_owned()));
            }
            return Ok(Target::unix(path));
        }
        let bad = || TargetError::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let extra =
            |extra: &str| TargetError::Extra { url: url.to_owned(), extra: extra.to_owned() };
        match uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
            None | Some("/" | "") => {}
            Some(path) => return Err(extra(path)),
        }
        let authority = uri.authority().ok_or_else(bad)?;
        if let Some((user, _)) = authority.as_str().rsplit_once('@') {
            let user = user.split(':').next().unwrap_or_default();
            return Err(extra(&format!("{user}@")));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(bad());
        }
        // `Authority::port` says none for a port that does not fit.
        let rest = authority.as_str().get(authority.host().len()..).unwrap_or_default();
        let port = |default| match rest.strip_prefix(':') {
            None => Ok(default),
            Some(digits) => digits.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad),
        };
        match uri.scheme_str() {
            Some("http") => Ok(Target::tcp(host, port(80)?)),
            Some("https") => {
                let tls =
                    tls().map_err(|source| TargetError::Tls { url: url.to_owned(), source })?;
                Ok(Target::tcp(host, port(443)?).with_tls(tls))
            }
            _ => Err(TargetError::Scheme { url: url.to_owned() }),
        }
    }

    /// The name that must be resolved to connect; none: it is an address, or a Unix socket.
    pub fn name(&self) -> Option<(&str, u16)> {
        match &self.place {
            Endpoint::Tcp { host, port } if host.parse::<IpAddr>().is_err() => Some((host, *port)),
            _ => None,
        }
    }

    /// Whether nobody on the way can read what is sent: TLS, a Unix socket, or this host.
    pub fn is_private(&self) -> bool {
        self.tls.is_some()
            || match &self.place {
                Endpoint::Unix(_) => true,
                Endpoint::Tcp { host, .. } => {
                    host.eq_ignore_ascii_case("localhost")
                        || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
                }
            }
    }

    /// The name for TLS and for `Host`.
    pub fn server_name(&self) -> &str {
        match (&self.server_name, &self.place) {
            (Some(name), _) => name,
            (None, Endpoint::Tcp { host, .. }) => host,
            (None, Endpoint::Unix(_)) => "localhost",
        }
    }

    /// What belongs into `Host` and `:authority` when the caller has nothing better: the name that
    /// TLS asks for, where that is another than the place's.
    pub fn authority(&self) -> String {
        self.with_port(self.server_name.as_deref())
    }

    fn with_port(&self, name: Option<&str>) -> String {
        let default = if self.tls.is_some() { 443 } else { 80 };
        match &self.place {
            Endpoint::Unix(_) => self.server_name().to_owned(),
            Endpoint::Tcp { host, port } => {
                let host = name.unwrap_or(host);
                let v6 = host.contains(':');
                let (open, close) = if v6 { ("[", "]") } else { ("", "") };
                if *port == default {
                    format!("{open}{host}{close}")
                } else {
                    format!("{open}{host}{close}:{port}")
                }
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match &self.place {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Tcp { .. } => {
                write!(f, "{scheme}://{}", self.with_port(None))?;
                self.address.map_or(Ok(()), |address| write!(f, " at {address}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> String {
        match Target::from_url(url, || Err(TlsError::NoRoots { errors: 0 })) {
            Ok(target) => target.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn urls() {
        let cases = [
            ("http://a.example", "http://a.example"),
            ("http://a.example:80/", "http://a.example"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
            ("https://a.example", "error: `https://a.example`: TLS cannot be set up"),
            (
                "http://a.example/path?q",
                "error: `http://a.example/path?q`: only scheme, host and port are allowed here, \
                 not `/path?q`",
            ),
            ("ftp://a", "error: `ftp://a`: the scheme must be `http`, `https` or `unix`"),
        ];
        for (url, expected) in cases {
            assert_eq!(parse(url), expected, "{url}");
        }
        for url in ["", "a.example:80", "unix:relative", "http://a:99999", "http://"] {
            assert!(parse(url).starts_with("error: "), "{url}: {}", parse(url));
        }
        // A password is never repeated in an error.
        let error = parse("http://u:secret@a");
        assert!(error.contains("not `u@`"), "{error}");
    }
}
