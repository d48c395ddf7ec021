//! What a service says to pages of other origins (`[cors]`), ready for use.
//!
//! INVARIANT: an answer never has `Access-Control-Allow-Origin: *` together with
//! `Access-Control-Allow-Credentials`; settings that would are not accepted.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, VARY,
};
use http::{HeaderMap, HeaderValue};
use keepgate_policy::cors::{Cors, Origin, Preflight};

/// What a script reads of the gate's own answers, beside the headers that need no permission.
const OWN: &str = "retry-after, ratelimit, ratelimit-policy, x-ratelimit-limit, \
                   x-ratelimit-remaining, x-ratelimit-reset, x-request-id, www-authenticate";
/// What the gate adds to the upstream's answers.
const ADDED: &str = "ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, \
                     x-ratelimit-reset, x-request-id";

/// See the module.
pub(crate) struct CorsRules {
    origins: Vec<Origin>,
    /// Every origin, without credentials: an answer is the same for all.
    any: bool,
    credentials: bool,
    headers: Headers,
    expose: HeaderValue,
    max_age: Option<HeaderValue>,
    /// Preflights are the upstream's.
    pub(crate) forward: bool,
}

/// The headers that a page may send.
enum Headers {
    None,
    These(HeaderValue),
    Any,
}

impl CorsRules {
    pub(crate) fn new(settings: &Cors) -> CorsRules {
        let text = |text: String| HeaderValue::try_from(text).ok();
        let headers = match settings.headers.as_slice() {
            names if names.iter().any(|name| name == "*") => Headers::Any,
            [] => Headers::None,
            names => text(names.join(", ")).map_or(Headers::None, Headers::These),
        };
        let more = settings.expose.iter().map(|name| format!(", {name}")).collect::<String>();
        CorsRules {
            any: settings.origins.iter().any(Origin::is_any) && !settings.credentials,
            origins: settings.origins.clone(),
            credentials: settings.credentials,
            headers,
            expose: text(format!("{ADDED}{more}"))
                .unwrap_or_else(|| HeaderValue::from_static(ADDED)),
            max_age: settings.max_age_ms.map(|ms| HeaderValue::from(ms / 1_000)),
            forward: settings.preflight == Preflight::Forward,
        }
    }

    /// What an origin that may call is told; none: it may not, or there is no origin.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        let origin = origin?;
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        let text = origin.to_str().ok()?;
        let is_one = |pattern: &Origin| !pattern.is_any() && pattern.matches(text);
        self.origins.iter().any(is_one).then(|| origin.clone())
    }

    fn allow(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
        let Some(allowed) = self.allowed(origin) else { return false };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }

    /// The headers of the answer to a preflight: `method` is what it asks about, which has a route.
    pub(crate) fn answer(
        &self,
        asked: &HeaderMap,
        origin: Option<&HeaderValue>,
        method: Option<&HeaderValue>,
        headers: &mut HeaderMap,
    ) {
        // Of three headers, whatever the answer: a cache must not give it to another question.
        headers.insert(
            VARY,
            HeaderValue::from_static(
                "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
            ),
        );
        if !self.allow(origin, headers) {
            return;
        }
        if let Some(method) = method {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        }
        match &self.headers {
            Headers::None => {}
            Headers::These(names) => {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
            }
            // By name: `*` does not mean `Authorization`.
            Headers::Any => {
                for names in asked.get_all(ACCESS_CONTROL_REQUEST_HEADERS) {
                    headers.append(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
                }
            }
        }
        if let Some(max_age) = &self.max_age {
            headers.insert(ACCESS_CONTROL_MAX_AGE, max_age.clone());
        }
    }

    /// Lets a page read an answer of the gate's own.
    pub(crate) fn stamp_own(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if self.allow(origin, headers) {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(OWN));
        }
    }

    /// Lets a page read an answer of the upstream's, and what the gate adds to it. An upstream that
    /// speaks of origins itself is not contradicted; nor is one that answers preflights.
    pub(crate) fn stamp_forwarded(
        &self,
        preflight: bool,
        origin: Option<&HeaderValue>,
        headers: &mut HeaderMap,
    ) {
        let speaks = headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN);
        if preflight || (self.forward && !speaks) {
            return;
        }
        if !self.any && !speaks {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if speaks || self.allow(origin, headers) {
            headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone());
        }
    }
}
