//! Questions to the admin API's own endpoints, in process: the same permissions, checks and audit.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use http::{HeaderName, Method, header};
use keepgate_api as api;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower_service::Service as _;

use super::Console;
use super::visit::Visit;
use crate::api::guard::SignedIn;

/// Bytes of an answer: a page of a list is smaller.
const ANSWER: usize = 8 << 20;

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Told<T> {
    pub(crate) value: T,
    /// Its entity tag, with its quotes.
    pub(crate) tag: String,
}

/// A question.
pub(crate) struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Option<Value>,
    tag: Option<&'a str>,
    /// Sent again, it lands once.
    once: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(path: &'a str) -> Ask<'a> {
        Ask { method: Method::GET, path, body: None, tag: None, once: None }
    }

    pub(crate) fn post(path: &'a str, body: Value) -> Ask<'a> {
        Ask { method: Method::POST, body: Some(body), ..Ask::get(path) }
    }

    pub(crate) fn put(path: &'a str, body: Value) -> Ask<'a> {
        Ask { method: Method::PUT, body: Some(body), ..Ask::get(path) }
    }

    pub(crate) fn delete(path: &'a str) -> Ask<'a> {
        Ask { method: Method::DELETE, ..Ask::get(path) }
    }

    /// Only over the state that has this tag.
    pub(crate) fn over(mut self, tag: &'a str) -> Ask<'a> {
        self.tag = Some(tag).filter(|tag| !tag.is_empty());
        self
    }

    /// A form that is sent twice does what it does once.
    pub(crate) fn once(mut self, visit: &'a Visit) -> Ask<'a> {
        self.once = Some(visit.form.raw("once")).filter(|once| !once.is_empty());
        self
    }
}

impl Console {
    /// Asks as the visitor.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        visit: &Visit,
        ask: Ask<'_>,
    ) -> Result<Told<T>, api::Problem> {
        let failed = |what: &str| {
            tracing::error!(path = ask.path, what, "the console could not ask");
            crate::api::problem::Problem::internal().told(None)
        };
        let Some(who) = &visit.who else { return Err(failed("nobody has signed in")) };
        let mut request = Request::builder().method(ask.method).uri(ask.path);
        if let Some(tag) = ask.tag {
            request = request.header(header::IF_MATCH, tag);
        }
        if let Some(once) = ask.once {
            request = request.header(HeaderName::from_static("idempotency-key"), once);
        }
        let body = match ask.body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let mut request = request.body(body).map_err(|_| failed("not a request"))?;
        request.extensions_mut().insert(SignedIn(who.caller.clone()));
        if let Some(peer) = visit.peer {
            request.extensions_mut().insert(peer);
        }
        // A router is always ready; its error cannot be.
        let Ok(response) = self.api.clone().call(request).await;
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, ANSWER).await.map_err(|_| failed("a large answer"))?;
        if !parts.status.is_success() {
            let problem = serde_json::from_slice::<api::Problem>(&bytes);
            return Err(problem.unwrap_or_else(|_| failed("an unknown refusal")));
        }
        let tag = parts.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let value = serde_json::from_slice(&bytes).map_err(|_| failed("an unknown answer"))?;
        Ok(Told { value, tag: tag.unwrap_or_default().to_owned() })
    }

    /// The same, where only the answer counts.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        visit: &Visit,
        path: &str,
    ) -> Result<T, api::Problem> {
        Ok(self.ask(visit, Ask::get(path)).await?.value)
    }
}
