//! For whom a request is meant: its `Host`, against the names that this center has.
//!
//! A page of any site may have its visitor's browser send requests to this host, under a name of that
//! site that resolves to 127.0.0.1 (DNS rebinding). What they carry is the site's name in `Host`.
//! So a center on a loopback address answers to loopback names and, where one is configured, to the
//! public URL's name. One on other addresses serves TLS, and no site has a certificate's key but its
//! own: it is held to the public URL, where one is configured, or to an address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header;
use http::uri::Authority;

use super::App;
use super::problem::Problem;

/// The names that a center answers to.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    on_loopback: bool,
    /// Of the public URL, in lower case, without a port.
    public: Option<Arc<str>>,
}

impl Hosts {
    /// `public_url` is one that was checked at the start.
    pub(crate) fn new(listen: SocketAddr, public_url: Option<&str>) -> Hosts {
        let public = public_url.and_then(|url| url.parse::<http::Uri>().ok());
        let public = public.as_ref().and_then(http::Uri::host).map(|host| plain(host).into());
        Hosts { on_loopback: listen.ip().to_canonical().is_loopback(), public }
    }

    /// Whether requests to this `HOST[:PORT]` are for this center. The port is not looked at: it may
    /// have been mapped, and says nothing of who wrote the name.
    fn know(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = plain(authority.host());
        if self.public.as_deref() == Some(&host) {
            return true;
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        match (self.on_loopback, address) {
            (true, Some(address)) => address.to_canonical().is_loopback(),
            (true, None) => host == "localhost",
            // An address cannot be another site's name.
            (false, Some(_)) => true,
            (false, None) => self.public.is_none(),
        }
    }

    /// What is wrong with a request's authority, if anything.
    pub(crate) fn wrong(&self, request: &Request) -> Option<String> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (written, more) = (hosts.next(), hosts.next());
        // HTTP/2 has it in the request's URI, and may have both.
        let named = [
            request.uri().authority().map(|authority| authority.as_str().to_owned()),
            written.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()),
        ];
        let mut named = named.into_iter().flatten().peekable();
        if more.is_some() || named.peek().is_none() {
            return Some("expected one `Host`".to_owned());
        }
        let other = named.find(|host| !self.know(host))?;
        let expected = match (&self.public, self.on_loopback) {
            (Some(public), true) => format!("`{public}`, `localhost` or a loopback address"),
            (Some(public), false) => format!("`{public}` or an address"),
            (None, _) => "`localhost` or a loopback address".to_owned(),
        };
        Some(format!(
            "expected {expected} in `Host`, got `{}`; if callers reach the center by that name, start \
             it with --public-url",
            other.escape_debug()
        ))
    }
}

/// In lower case, and without the dot of a name that is complete.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// In front of everything but the request id and the count.
pub(crate) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    match is_for(&app, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// See [`check`].
pub(crate) fn is_for(app: &App, request: &Request) -> Result<(), Problem> {
    match app.hosts.wrong(request) {
        None => Ok(()),
        Some(detail) => Err(Problem::misdirected(detail)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listen: &str, public_url: Option<&str>) -> Hosts {
        Hosts::new(listen.parse().unwrap(), public_url)
    }

    #[test]
    fn on_loopback_only_loopback_names_and_the_public_one_are_known() {
        let alone = hosts("127.0.0.1:7480", None);
        let public = hosts("[::1]:7480", Some("https://PDP.example.com:8443/x"));
        for good in [
            "127.0.0.1",
            "127.0.0.1:7480",
            "127.1.2.3:1",
            "[::1]:7480",
            "localhost",
            "LOCALHOST.:80",
        ] {
            assert!(alone.know(good) && public.know(good), "{good}");
        }
        assert!(public.know("pdp.example.com") && public.know("Pdp.Example.Com.:443"));
        for bad in [
            "",
            "attacker.example",
            "127.0.0.1.attacker.example",
            "localhost.attacker.example",
            "user@localhost",
            "127.0.0.1@attacker.example",
            "0.0.0.0:7480",
            "10.0.0.1:7480",
            "[::ffff:10.0.0.1]:7480",
            "[::]:7480",
            "2130706433",
            "localhost:7480:1",
            "local host",
        ] {
            assert!(!alone.know(bad) && !public.know(bad), "{bad}");
        }
        assert!(!alone.know("pdp.example.com"));
    }

    #[test]
    fn beyond_loopback_names_are_held_to_the_public_url() {
        let any = hosts("0.0.0.0:7480", None);
        let public = hosts("0.0.0.0:7480", Some("https://pdp.example.com"));
        assert!(any.know("center.internal:7480") && any.know("10.0.0.1"));
        assert!(public.know("pdp.example.com:7480") && public.know("10.0.0.1:7480"));
        assert!(!public.know("center.internal:7480"));
    }
}
