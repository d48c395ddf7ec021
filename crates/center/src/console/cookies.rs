//! The console's cookies.

use http::{HeaderMap, HeaderValue, header};

use crate::oidc::Attempt;

/// What a cookie is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// The session's secret.
    Session,
    /// By what forms of those are known who have not signed in.
    Form,
    /// A sign-in that has begun at an identity provider. It comes back from another site, so it is the one
    /// that such a request shows.
    SignIn,
    /// Light or dark.
    Theme,
    /// The language.
    Language,
}

/// How long a choice is remembered, in seconds.
const YEAR_S: u64 = 365 * 86_400;

impl Cookie {
    /// Its name. Beyond loopback a browser takes it only from this host, by TLS, for all paths.
    pub(crate) fn name(self, secure: bool) -> &'static str {
        match (self, secure) {
            (Cookie::Session, true) => "__Host-keepgate",
            (Cookie::Session, false) => "keepgate-session",
            (Cookie::Form, true) => "__Host-keepgate-form",
            (Cookie::Form, false) => "keepgate-form",
            (Cookie::SignIn, true) => "__Host-keepgate-sign-in",
            (Cookie::SignIn, false) => "keepgate-sign-in",
            (Cookie::Theme, _) => "keepgate-theme",
            (Cookie::Language, _) => "keepgate-language",
        }
    }

    /// The header that sets it; an empty value takes it away.
    pub(crate) fn set(self, secure: bool, value: &str) -> Option<HeaderValue> {
        let name = self.name(secure);
        let secure = if secure { "; Secure" } else { "" };
        let age = match self {
            _ if value.is_empty() => "; Max-Age=0".to_owned(),
            // They end with the browser, and before that with the store's row.
            Cookie::Session | Cookie::Form => String::new(),
            Cookie::SignIn => format!("; Max-Age={}", Attempt::LASTS_S),
            Cookie::Theme | Cookie::Language => format!("; Max-Age={YEAR_S}"),
        };
        let site = if self == Cookie::SignIn { "Lax" } else { "Strict" };
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite={site}{secure}{age}");
        HeaderValue::from_str(&text).ok()
    }

    /// Its value in a request; of several the first.
    pub(crate) fn read(self, headers: &HeaderMap, secure: bool) -> Option<&str> {
        let name = self.name(secure);
        let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        all.flat_map(|text| text.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(of, _)| *of == name)
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_for_this_host_alone_and_not_for_scripts() {
        let text = |cookie: Cookie, secure, value| {
            cookie.set(secure, value).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(
            text(Cookie::Session, true, "ab"),
            "__Host-keepgate=ab; Path=/; HttpOnly; SameSite=Strict; Secure"
        );
        assert_eq!(
            text(Cookie::Session, false, ""),
            "keepgate-session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
        );
        assert_eq!(
            text(Cookie::SignIn, true, "ab"),
            "__Host-keepgate-sign-in=ab; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=600"
        );
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; keepgate-session=one"));
        headers.append(header::COOKIE, HeaderValue::from_static("keepgate-session=two"));
        assert_eq!(Cookie::Session.read(&headers, false), Some("one"));
        // What plain HTTP may have set is no session where there is TLS.
        assert_eq!(Cookie::Session.read(&headers, true), None);
    }
}
