//! Request bodies, paths and conditions, read with bounds and refused by name.

use axum::body::{HttpBody as _, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::LengthLimitError;
use keepgate_api::{self as api, UidInput};
use keepgate_policy::{ItemKey, Revision, Uid};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::{Answer, App};
use crate::desk::Refusal;
use crate::store::Reading;

/// Bytes of a body where nothing else is said.
pub(crate) const BODY: usize = 1 << 20;

/// Whether the header says JSON, whatever its parameters.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    is_type(headers, "application/json")
}

/// Whether the header says this media type, whatever its parameters.
pub(crate) fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(wanted)
}

/// A whole body within its bounds of size and time.
pub(crate) async fn bytes(request: Request, limit: usize, app: &App) -> Answer<Bytes> {
    if request.body().size_hint().lower() > limit as u64 {
        return Err(Problem::too_large(limit as u64));
    }
    let read = to_bytes(request.into_body(), limit);
    match tokio::time::timeout(app.bounds.body, read).await {
        Err(_) => Err(Problem::too_slow()),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) => {
            let source = std::error::Error::source(&e);
            if source.is_some_and(|source| source.is::<LengthLimitError>()) {
                Err(Problem::too_large(limit as u64))
            } else {
                Err(Problem::bad_request("the body ended early"))
            }
        }
    }
}

/// A JSON body of at most `LIMIT` bytes.
pub(crate) struct Json<T, const LIMIT: usize = BODY>(pub(crate) T);

impl<T: DeserializeOwned, const LIMIT: usize> FromRequest<App> for Json<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::media_type("send it with `Content-Type: application/json`"));
        }
        let bytes = bytes(request, LIMIT, app).await?;
        serde_json::from_slice(&bytes)
            .map(Json)
            .map_err(|e| Problem::bad_request(format!("the body does not parse: {e}")))
    }
}

/// Path parameters, decoded.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, app).await {
            Ok(Path(params)) => Ok(Params(params)),
            Err(e) if e.status() == StatusCode::BAD_REQUEST => {
                Err(Problem::bad_request(e.body_text()))
            }
            Err(_) => Err(Problem::internal()),
        }
    }
}

/// Query parameters; unknown ones are refused where the type says so.
pub(crate) struct Args<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Args<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, app).await {
            Ok(Query(args)) => Ok(Args(args)),
            Err(e) => {
                let text = e.body_text();
                let why = text.strip_prefix("Failed to deserialize query string: ");
                Err(Problem::bad_request(format!("the query: {}", why.unwrap_or(&text))))
            }
        }
    }
}

/// `?after=ID&limit=N` of lists.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// Ids after this one.
    #[serde(default)]
    pub(crate) after: String,
    /// At most this many; at most 1,000.
    #[serde(default)]
    limit: Option<usize>,
}

/// The most that one list answers with.
pub(crate) const PAGE: usize = 1000;

impl Page {
    pub(crate) fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE)
    }
}

/// What the caller believes about an item: `If-Match`, `If-None-Match: *`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    matches: Option<String>,
    absent: bool,
}

impl FromRequestParts<App> for Condition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let text = |name| match parts.headers.get(&name) {
            None => Ok(None),
            Some(value) => value.to_str().map(|text| Some(text.trim().to_owned())).map_err(|_| {
                Problem::bad_request(format!("expected ASCII text in the header `{name}`"))
            }),
        };
        let absent = match text(header::IF_NONE_MATCH)?.as_deref() {
            None => false,
            Some("*") => true,
            Some(other) => {
                let detail = format!("`If-None-Match: {other}`: only `*` is understood here");
                return Err(Problem::bad_request(detail));
            }
        };
        Ok(Condition { matches: text(header::IF_MATCH)?, absent })
    }
}

impl Condition {
    /// Holds the stored item against what the caller believes.
    pub(crate) fn check(&self, store: &dyn Reading, key: &ItemKey) -> Result<(), Refusal> {
        if self.matches.is_none() && !self.absent {
            return Ok(());
        }
        let found = store.item(key)?.map(|row| row.revision);
        let id = if key.id.is_empty() { key.kind.to_string() } else { key.id.clone() };
        let stale = |wanted: &str| Refusal::Stale {
            id: id.clone(),
            wanted: wanted.to_owned(),
            found: found.unwrap_or_default(),
        };
        if self.absent && found.is_some() {
            return Err(stale("0"));
        }
        match (self.matches.as_deref(), found) {
            (None, _) | (Some("*"), Some(_)) => Ok(()),
            (Some(wanted), Some(found)) if wanted == etag(found) => Ok(()),
            (Some(wanted), _) => Err(stale(wanted.trim_matches('"'))),
        }
    }
}

/// The entity tag of an item: its revision, quoted.
pub(crate) fn etag(revision: Revision) -> String {
    format!("\"{revision}\"")
}

/// The entity that a request names; `field` is named when it is none.
pub(crate) fn uid(input: UidInput, field: &str) -> Answer<Uid> {
    match input {
        UidInput::Parts(api::Uid { kind, id }) => {
            let uid = Uid { kind, id };
            if uid.has_valid_kind() {
                return Ok(uid);
            }
            let detail = format!("`{field}`: `{}` is not a Cedar entity type", uid.kind);
            Err(Problem::bad_request(detail))
        }
        UidInput::Text(text) => {
            text.parse().map_err(|e| Problem::bad_request(format!("`{field}`: {e}")))
        }
    }
}

/// An entity as answers show it.
pub(crate) fn told(uid: Uid) -> api::Uid {
    api::Uid { kind: uid.kind, id: uid.id }
}

/// An entity in a path.
pub(crate) fn path_uid(text: &str) -> Answer<Uid> {
    text.parse().map_err(|e| Problem::bad_request(format!("in the path: {e}")))
}
