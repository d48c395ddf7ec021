//! The one door: what is known of a request before a page is made of it.
//!
//! INVARIANT: nobody reaches a page that needs a session without one, and no form is looked at before
//! its host, its origin and its token are right.

use std::net::IpAddr;

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::cookies::Cookie;
use super::form::Fields;
use super::session::{self, Who};
use super::text::Lang;
use super::{Console, frame, login};
use crate::api::input;
use crate::server::Peer;
use crate::token;

/// Bytes of a form: the largest text of policies, each byte of it written as three.
const FORM: usize = 2 << 20;

/// Marks the requests by which a page keeps itself current: no use of the session.
const LIVE: HeaderName = HeaderName::from_static("x-keepgate-live");

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    SignedIn,
}

/// A request that may be answered.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// Path and query, to come back to.
    pub(crate) here: String,
    pub(crate) query: Fields,
    /// What was posted.
    pub(crate) form: Fields,
    pub(crate) lang: Lang,
    pub(crate) theme: Theme,
    /// Whether cookies are for TLS alone.
    pub(crate) secure: bool,
    pub(crate) who: Option<Who>,
    pub(crate) from: Option<IpAddr>,
    pub(crate) peer: Option<Peer>,
    /// By what forms are known: the session's secret, or that of a cookie of its own.
    secret: String,
    /// A sign-in that this browser has begun at an identity provider; empty: none.
    pub(crate) sign_in: String,
    /// Scheme, host and port, as the visitor names them.
    pub(crate) origin: String,
    /// Cookies that the answer sets.
    fresh: Option<HeaderValue>,
}

/// Light or dark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    /// As the browser has it.
    System,
    Light,
    Dark,
}

impl Theme {
    pub(crate) const ALL: [Theme; 3] = [Theme::System, Theme::Light, Theme::Dark];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Theme::System => "system",
            Theme::Light => "light",
            Theme::Dark => "dark",
        }
    }

    pub(crate) fn from_name(name: &str) -> Theme {
        Theme::ALL.into_iter().find(|theme| theme.name() == name).unwrap_or(Theme::System)
    }
}

/// Lets a request in, or says why not.
pub(crate) async fn enter(
    console: &Console,
    request: Request,
    door: Door,
) -> Result<Visit, Box<Response>> {
    let refused = |problem: crate::api::problem::Problem| Box::new(problem.into_response());
    // It was checked for the whole port; a page does not rest on that.
    if let Some(wrong) = console.app.hosts.wrong(&request) {
        return Err(refused(crate::api::problem::Problem::misdirected(wrong)));
    }
    let headers = request.headers();
    let secure = console.app.secure || is_public(console, &request);
    let mut visit = Visit {
        method: if *request.method() == Method::POST { Method::POST } else { Method::GET },
        path: request.uri().path().to_owned(),
        here: here(request.uri()),
        query: Fields::read(request.uri().query().unwrap_or_default()).unwrap_or_default(),
        form: Fields::default(),
        lang: Lang::of(Cookie::Language.read(headers, secure), headers),
        theme: Theme::from_name(Cookie::Theme.read(headers, secure).unwrap_or_default()),
        secure,
        who: session::of(console, headers, secure).await.map_err(refused)?,
        from: request.extensions().get::<Peer>().map(|peer| peer.0.ip()),
        peer: request.extensions().get::<Peer>().copied(),
        secret: String::new(),
        sign_in: Cookie::SignIn.read(headers, secure).unwrap_or_default().to_owned(),
        origin: format!(
            "{}://{}",
            if secure { "https" } else { "http" },
            host_of(&request).unwrap_or_default()
        ),
        fresh: None,
    };
    let is_live = headers.contains_key(&LIVE);
    match (&visit.who, Cookie::Form.read(headers, secure)) {
        (Some(who), _) => visit.secret = who.secret.clone(),
        (None, Some(secret)) if secret.len() == 64 => visit.secret = secret.to_owned(),
        _ => {
            let secret: [u8; 32] = crate::store::random()
                .map_err(|_| refused(crate::api::problem::Problem::internal()))?;
            visit.secret = token::hex(&secret);
            visit.fresh = Cookie::Form.set(secure, &visit.secret);
        }
    }
    if visit.method == Method::POST {
        if !is_own(&request, secure) {
            return Err(Box::new(visit.finish(frame::forged(&visit))));
        }
        if !input::is_type(headers, "application/x-www-form-urlencoded") {
            let problem = crate::api::problem::Problem::media_type("expected a form");
            return Err(refused(problem));
        }
        let bytes = input::bytes(request, FORM, &console.app).await.map_err(refused)?;
        let fields = std::str::from_utf8(&bytes).ok().and_then(Fields::read).ok_or_else(|| {
            refused(crate::api::problem::Problem::bad_request("the form does not parse"))
        })?;
        visit.form = fields;
        // Of whoever has no session, nothing is done: they sign in, and find what they wrote.
        let expired = door == Door::SignedIn && visit.who.is_none();
        if !expired && !visit.is_mine(visit.form.raw("csrf")) {
            return Err(Box::new(visit.finish(frame::forged(&visit))));
        }
    }
    match (&visit.who, door) {
        (None, Door::SignedIn) if visit.method == Method::POST => {
            Err(Box::new(visit.finish(login::expired(console, &visit))))
        }
        (None, Door::SignedIn) if is_live || visit.path == "/live" => {
            Err(Box::new(StatusCode::UNAUTHORIZED.into_response()))
        }
        (None, Door::SignedIn) => {
            let to = format!("/login?next={}", super::form::encoded(&visit.here));
            Err(Box::new(visit.finish(see_other(&to))))
        }
        (Some(who), _) if !is_live && visit.path != "/live" => {
            session::used(console, who).await;
            Ok(visit)
        }
        _ => Ok(visit),
    }
}

impl Visit {
    /// Whether a form was made for this visitor.
    fn is_mine(&self, token: &str) -> bool {
        token.as_bytes().ct_eq(self.csrf().as_bytes()).into()
    }

    /// What this visitor's forms have in their field `csrf`.
    pub(crate) fn csrf(&self) -> String {
        csrf(&self.secret)
    }

    /// The service that is looked at, where the request names one.
    pub(crate) fn service(&self) -> &str {
        match self.form.text("service") {
            "" => self.query.text("service"),
            named => named,
        }
    }

    /// Sets the cookies that were made on the way in.
    pub(crate) fn finish(&self, mut response: Response) -> Response {
        if let Some(cookie) = &self.fresh {
            response.headers_mut().append(header::SET_COOKIE, cookie.clone());
        }
        response
    }
}

/// What the forms of whoever has this secret have in their field `csrf`.
pub(crate) fn csrf(secret: &str) -> String {
    let hash = Sha256::new_with_prefix(b"keepgate form\0").chain_update(secret).finalize();
    token::hex(hash.get(..16).unwrap_or_default())
}

/// A redirect that a browser follows with GET.
pub(crate) fn see_other(to: &str) -> Response {
    let location = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/overview"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

fn here(uri: &Uri) -> String {
    uri.path_and_query().map(|here| here.as_str().to_owned()).unwrap_or_else(|| "/".to_owned())
}

/// Whether the caller came by the public URL, and that is one of TLS.
fn is_public(console: &Console, request: &Request) -> bool {
    let public = console.app.public_url.as_deref().and_then(|url| url.parse::<Uri>().ok());
    let Some(public) = public.filter(|url| url.scheme_str() == Some("https")) else { return false };
    let named = host_of(request).and_then(|host| host.parse::<http::uri::Authority>().ok());
    let (Some(named), Some(public)) = (named, public.host()) else { return false };
    named.host().trim_end_matches('.').eq_ignore_ascii_case(public.trim_end_matches('.'))
}

fn host_of(request: &Request) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
}

/// Whether a form was sent by a page of this center: browsers say from where they post.
fn is_own(request: &Request, secure: bool) -> bool {
    let Some(host) = host_of(request) else { return false };
    own(request.headers(), host, secure)
}

fn own(headers: &HeaderMap, host: &str, secure: bool) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin") {
        return false;
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
    let Some((scheme, authority)) = origin.to_str().ok().and_then(|text| text.split_once("://"))
    else {
        return false;
    };
    let port = match scheme {
        "https" => ":443",
        "http" if !secure => ":80",
        _ => return false,
    };
    let plain = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        authority.strip_suffix(port).map(str::to_owned).unwrap_or(authority)
    };
    plain(authority) == plain(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_posted_by_a_page_of_the_same_origin() {
        let check = |origin: &str, site: &str, host: &str, secure: bool| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                if !value.is_empty() {
                    headers.insert(name, HeaderValue::from_str(value).unwrap());
                }
            }
            own(&headers, host, secure)
        };
        for (origin, site, host, secure) in [
            ("http://127.0.0.1:7480", "", "127.0.0.1:7480", false),
            ("http://localhost:7480", "same-origin", "LOCALHOST:7480", false),
            ("https://pdp.example.com", "same-origin", "pdp.example.com:443", true),
        ] {
            assert!(check(origin, site, host, secure), "{origin}");
        }
        for (origin, site, host, secure) in [
            ("", "", "127.0.0.1:7480", false),
            ("null", "", "127.0.0.1:7480", false),
            ("http://127.0.0.1:7481", "", "127.0.0.1:7480", false),
            ("http://127.0.0.1:7480", "cross-site", "127.0.0.1:7480", false),
            ("http://127.0.0.1:7480", "same-site", "127.0.0.1:7480", false),
            ("http://pdp.example.com", "", "pdp.example.com", true),
            ("https://evil.example", "", "pdp.example.com", true),
            ("file://", "", "127.0.0.1:7480", false),
        ] {
            assert!(!check(origin, site, host, secure), "{origin}");
        }
    }
}
