//! Answers that are not what was asked for: `application/problem+json` (RFC 9457).
//!
//! The type is `urn:keepgate:problem:NAME`, a contract; the title is for people; the detail names
//! the culprit and the way out. What only a log may see (store errors) never gets here.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use keepgate_api as api;
use keepgate_policy::decision::QueryError;

use crate::desk::{self, Refusal};
use crate::store::StoreError;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    write_id: Option<desk::WriteId>,
    problems: Vec<desk::EditProblem>,
    warnings: Vec<api::Warning>,
}

/// The kind of [`Problem::gathering`], which is no failure of the center.
pub(crate) const GATHERING: &str = "gathering";

impl Problem {
    fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem {
            status,
            kind,
            title,
            detail: detail.into(),
            write_id: None,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", "the request is malformed", detail)
    }

    /// The request has the form of the OpenAPI document; what that cannot express is wrong.
    pub(crate) fn unprocessable(detail: impl Into<String>) -> Problem {
        let title = "the request is well-formed, but not valid";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", title, detail)
    }

    pub(crate) fn unauthenticated(detail: impl Into<String>) -> Problem {
        let title = "a good token is needed";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", title, detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", "the token may not do this", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "there is no such thing", detail)
    }

    pub(crate) fn method(detail: impl Into<String>) -> Problem {
        let title = "the path does not take this method";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", title, detail)
    }

    pub(crate) fn media_type(detail: impl Into<String>) -> Problem {
        let title = "the body must be JSON";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", title, detail)
    }

    pub(crate) fn too_large(limit: u64) -> Problem {
        let title = "the body is too large";
        let detail = format!("a body here has at most {limit} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", title, detail)
    }

    pub(crate) fn too_slow() -> Problem {
        let title = "the body came too slowly";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", title, "send it again, faster")
    }

    pub(crate) fn invalid(problems: Vec<desk::EditProblem>) -> Problem {
        let detail = match problems.first() {
            Some(first) => first.to_string(),
            None => "the change is not valid".to_owned(),
        };
        let title = "the change is not valid";
        let mut problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", title, detail);
        problem.problems = problems;
        problem
    }

    /// It was sent to another host than this center is.
    pub(crate) fn misdirected(detail: impl Into<String>) -> Problem {
        let title = "the request is for another host";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", title, detail)
    }

    /// The same, with what is wrong item by item.
    fn with(mut self, problems: Vec<desk::EditProblem>) -> Problem {
        self.problems = problems;
        self
    }

    /// The same, with what is valid and likely not meant.
    #[must_use]
    pub(crate) fn warned(mut self, warnings: Vec<api::Warning>) -> Problem {
        self.warnings = warnings;
        self
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, "conflict", "the state does not allow it", detail)
    }

    pub(crate) fn internal() -> Problem {
        let title = "the center failed";
        let detail = "its log says why, under this request id";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title, detail)
    }

    /// A question that has no decision: the caller's fault, or a policy's.
    pub(crate) fn of_query(error: &QueryError) -> Problem {
        if error.is_undecided() {
            let title = "the policies cannot decide it";
            return Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no-decision",
                title,
                error.to_string(),
            );
        }
        Problem::unprocessable(error.to_string())
    }

    pub(crate) fn too_many(detail: impl Into<String>) -> Problem {
        let title = "too many requests at once";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many", title, detail)
    }

    /// All connections are taken, but for a reserve.
    pub(crate) fn crowded() -> Problem {
        Problem::unavailable("all connections are taken; try again")
    }

    /// All places for what is asked are taken.
    pub(crate) fn busy(detail: impl Into<String>) -> Problem {
        Problem::unavailable(detail)
    }

    /// Gates have not said their keys yet since the center began.
    pub(crate) fn gathering() -> Problem {
        let title = "the center cannot do it now";
        let detail = "the gates have not said their keys yet; try again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, GATHERING, title, detail)
    }

    fn unavailable(detail: impl Into<String>) -> Problem {
        let title = "the center cannot do it now";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", title, detail)
    }

    /// Acknowledged state is lost, or may be: nothing is told or decided.
    pub(crate) fn history(condition: &desk::Condition) -> Problem {
        let title = "the center may not answer from what it holds";
        let kind = condition.name();
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, condition.why())
    }

    fn storage_full(detail: impl Into<String>) -> Problem {
        let title = "the center has no space left to store it";
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, "storage-full", title, detail)
    }

    /// What it is, as in its type.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The body, with the request id where there is one.
    pub(crate) fn body(&self, request_id: Option<&str>) -> Vec<u8> {
        // A struct of texts and numbers always serializes.
        serde_json::to_vec(&self.told(request_id)).unwrap_or_default()
    }

    /// The same as a value.
    pub(crate) fn told(&self, request_id: Option<&str>) -> api::Problem {
        api::Problem {
            kind: format!("urn:keepgate:problem:{}", self.kind),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            request_id: request_id.map(str::to_owned),
            write_id: self.write_id.map(|id| crate::token::hex(&id)),
            problems: self.problems.iter().map(desk::EditProblem::told).collect(),
            warnings: self.warnings.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body(None)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The outermost layer writes the body again with the request id, and says when to try again.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let text = refusal.to_string();
        match refusal {
            Refusal::Invalid(problems) => Problem::invalid(problems),
            Refusal::Missing { .. } => Problem::not_found(text),
            Refusal::Stale { .. } => {
                let title = "the item has changed";
                Problem::new(StatusCode::PRECONDITION_FAILED, "stale", title, text)
            }
            Refusal::LastAdmin(_) | Refusal::Ended(_) => Problem::conflict(text),
            Refusal::NotAllowed(_) => Problem::forbidden(text),
            Refusal::Unfit(_) => Problem::unprocessable(text),
            Refusal::Hanging { first, .. } => Problem::conflict(text).with(first),
            Refusal::Emptied(emptied) => {
                let detail = emptied.first().map_or(text, ToString::to_string);
                Problem::conflict(detail).with(emptied)
            }
            Refusal::Moved(since) => {
                let title = "the state has changed";
                let stale = Problem::new(StatusCode::PRECONDITION_FAILED, "stale", title, text);
                stale.with(since.first)
            }
            Refusal::Busy | Refusal::Overtaken(_) | Refusal::Closed | Refusal::Gone => {
                Problem::unavailable(text)
            }
            Refusal::Lost(why) => Problem::history(&desk::Condition::Lost(why)),
            Refusal::Stopped(why) => Problem::unavailable(&*why),
            Refusal::Undone(_) => Problem::unavailable(text),
            Refusal::OutcomeUnknown { write_id } => {
                let title = "whether the change was stored is not known";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let problem = Problem::new(status, "outcome-unknown", title, text);
                Problem { write_id: Some(write_id), ..problem }
            }
            Refusal::Store(e) if e.is_full() => Problem::storage_full(e.to_string()),
            Refusal::Store(e) if e.is_lost() => {
                Problem::history(&desk::Condition::Lost(e.to_string().into()))
            }
            Refusal::Store(e @ StoreError::HighWater { .. }) => Problem::unavailable(e.to_string()),
            // The desk has logged what it is.
            Refusal::World(_) | Refusal::Store(_) => Problem::internal(),
        }
    }
}
