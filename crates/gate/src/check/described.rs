//! A request as another proxy describes it.

use std::net::IpAddr;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::message::problem::{Kind, Problem};
use crate::wire::head;

/// See the module.
#[derive(Debug)]
pub(crate) struct Described {
    /// Its head, as HTTP/1.1 has it.
    pub(crate) parts: Parts,
    /// Who made it, by the proxy's word; none over a Unix socket. None at all: it did not say.
    pub(crate) peer: Option<Option<IpAddr>>,
}

impl Described {
    /// Of the parts of a description. `headers` are the request's alone.
    ///
    /// # Errors
    /// What no request is: 400.
    pub(crate) fn new(
        method: &[u8],
        target: &[u8],
        host: Option<HeaderValue>,
        mut headers: HeaderMap,
        peer: Option<Option<IpAddr>>,
    ) -> Result<Described, Problem> {
        let method = Method::from_bytes(method).map_err(|_| bad("the method is malformed"))?;
        head::check_target(target)?;
        if target.first() != Some(&b'/') && target != b"*" {
            return Err(Problem::new(Kind::BadPath, "a path begins with `/`"));
        }
        let uri = Uri::try_from(target).map_err(|_| bad("the target is malformed"))?;
        if let Some(host) = host {
            headers.insert(HOST, host);
        }
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        Ok(Described { parts: request.into_parts().0, peer })
    }

    /// The names of its headers.
    pub(crate) fn names(&self) -> Vec<HeaderName> {
        self.parts.headers.keys().cloned().collect()
    }
}

pub(crate) fn bad(detail: &'static str) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}
