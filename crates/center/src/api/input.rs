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
use serde_json::Value;

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

/// A JSON body as [`Json`] has it, in which no member occurs twice: two readers of the same bytes must not
/// see different questions.
pub(crate) struct StrictJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for StrictJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::media_type("send it with `Content-Type: application/json`"));
        }
        let bytes = bytes(request, BODY, app).await?;
        let wrong = |e: &dyn std::fmt::Display| {
            Problem::bad_request(format!("the body does not parse: {e}"))
        };
        drop(keepgate_policy::json::parse(&bytes).map_err(|e| wrong(&e))?);
        // Read again, as only so an error has its place.
        let read = serde_json::from_slice(&bytes).or_else(|error| {
            let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else { return Err(error) };
            // Of the question's own members: inside a context a number is what it says.
            let own = value.as_object_mut().into_iter().flat_map(|fields| fields.values_mut());
            own.filter(|value| value.is_number()).for_each(whole_numbers);
            serde_json::from_value(value).map_err(|_| error)
        });
        read.map(StrictJson).map_err(|e| wrong(&e))
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
        parse(&bytes)
            .map(Json)
            .map_err(|e| Problem::bad_request(format!("the body does not parse: {e}")))
    }
}

/// A value from JSON. A number such as `3.0` is an integer, as JSON Schema has it, where an integer
/// is expected.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(bytes).or_else(|error| {
        let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Err(error) };
        whole_numbers(&mut value);
        serde_json::from_value(value).map_err(|_| error)
    })
}

/// Up to this, every whole number is a floating point number of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes whole numbers as integers.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= EXACT);
            if let Some(whole) = whole {
                #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough")]
                let whole = whole as i64;
                *value = Value::from(whole);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
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

    /// The page of a whole list, which ascends by its ids, and where the next page begins.
    pub(crate) fn cut<T>(
        &self,
        mut all: Vec<T>,
        id: impl Fn(&T) -> &String,
    ) -> (Vec<T>, Option<String>) {
        all.drain(..all.partition_point(|one| *id(one) <= self.after && !self.after.is_empty()));
        let more = all.len() > self.limit();
        all.truncate(self.limit());
        let next = more.then(|| all.last().map(|one| id(one).clone())).flatten();
        (all, next)
    }
}

/// What the caller believes about an item: `If-Match`, `If-None-Match: *`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    matches: Option<Match>,
    absent: bool,
}

/// `If-Match` (RFC 9110, section 13.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Match {
    /// `*`: the item is there.
    Any,
    /// One of these entity tags, as they were sent.
    Tags(Vec<String>),
}

/// Entity tags in one `If-Match` at most.
const TAGS: usize = 16;

/// What `If-Match` may be besides `*`: see [`Match::read`].
pub(crate) const IF_MATCH_TAGS: &str = r#"^(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*"){0,15}$"#;

impl Match {
    fn read(text: &str) -> Answer<Match> {
        if text == "*" {
            return Ok(Match::Any);
        }
        Match::tags(text).map(Match::Tags).ok_or_else(|| Problem::bad_request(format!(
            "`If-Match`: expected `*` or an entity tag such as `\"7\"` (an answer's `ETag`, the quotes \
             included), got `{text}`"
        )))
    }

    /// The entity tags of a list. There may be commas in a tag.
    fn tags(text: &str) -> Option<Vec<String>> {
        let mut tags = Vec::new();
        let mut rest = text.trim();
        while tags.len() < TAGS {
            let opaque = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
            let (inside, after) = opaque.split_once('"')?;
            if !inside.bytes().all(|b| b.is_ascii_graphic()) {
                return None;
            }
            tags.push(rest.get(..rest.len() - after.len())?.to_owned());
            match after.trim_start() {
                "" => return Some(tags),
                more => rest = more.strip_prefix(',')?.trim_start(),
            }
        }
        None
    }
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
        let matches = text(header::IF_MATCH)?.map(|text| Match::read(&text)).transpose()?;
        Ok(Condition { matches, absent })
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
        let tag = found.map(etag).unwrap_or_default();
        self.held(&id, &tag, found.is_some(), found.unwrap_or_default())
    }

    /// The same of anything with a quoted tag, last changed by `found`.
    pub(crate) fn held(
        &self,
        id: &str,
        tag: &str,
        exists: bool,
        found: Revision,
    ) -> Result<(), Refusal> {
        let stale = |wanted: String| Err(Refusal::Stale { id: id.to_owned(), wanted, found });
        if self.absent && exists {
            return stale("0".to_owned());
        }
        match &self.matches {
            None => Ok(()),
            Some(Match::Any) if exists => Ok(()),
            Some(Match::Any) => stale("*".to_owned()),
            Some(Match::Tags(tags)) if tags.iter().any(|one| one == tag) => Ok(()),
            Some(Match::Tags(tags)) => {
                let wanted: Vec<&str> = tags.iter().map(|tag| tag.trim_matches('"')).collect();
                stale(wanted.join(", "))
            }
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
        UidInput::Parts(api::Uid { kind, id })
        | UidInput::Escaped(api::EscapedUid { entity: api::Uid { kind, id } }) => {
            let uid = Uid { kind, id };
            if uid.has_valid_kind() {
                return Ok(uid);
            }
            let detail = format!("`{field}`: `{}` is not a Cedar entity type", uid.kind);
            Err(Problem::unprocessable(detail))
        }
        UidInput::Text(text) => uid_of(&text, &format!("`{field}`")),
    }
}

/// An entity from Cedar text; what has the form of one and is none is named as such.
fn uid_of(text: &str, place: &str) -> Answer<Uid> {
    text.parse().map_err(|e| {
        let detail = format!("{place}: {e}");
        match text.contains("::\"") && text.ends_with('"') {
            true => Problem::unprocessable(detail),
            false => Problem::bad_request(detail),
        }
    })
}

/// An entity as answers show it.
pub(crate) fn told(uid: Uid) -> api::Uid {
    api::Uid { kind: uid.kind, id: uid.id }
}

/// An entity in a path.
pub(crate) fn path_uid(text: &str) -> Answer<Uid> {
    uid_of(text, "in the path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_is_a_star_or_entity_tags() {
        let tags = |tags: &[&str]| Some(Match::Tags(tags.iter().map(|&t| t.to_owned()).collect()));
        for (text, expected) in [
            ("*", Some(Match::Any)),
            ("\"7\"", tags(&["\"7\""])),
            ("\"\"", tags(&["\"\""])),
            ("\"7\", W/\"8\"", tags(&["\"7\"", "W/\"8\""])),
            ("\"a,b\" ,\",\"", tags(&["\"a,b\"", "\",\""])),
            ("\"7\" \"8\"", None),
            ("", None),
            (" ", None),
            ("7", None),
            ("\"7", None),
            ("\"", None),
            ("\"7\",", None),
            ("*, \"7\"", None),
            ("\"a b\"", None),
        ] {
            assert_eq!(Match::read(text).ok(), expected, "{text:?}");
        }
        let many = |count| vec!["\"7\""; count].join(",");
        assert!(Match::read(&many(TAGS)).is_ok());
        assert!(Match::read(&many(TAGS + 1)).is_err());
        let detail = Match::read("").unwrap_err().detail().to_owned();
        assert!(detail.contains("expected `*` or an entity tag"), "{detail}");
    }

    #[test]
    fn pages_of_a_list_are_the_list() {
        let all: Vec<String> = (10..35).map(|n| n.to_string()).collect();
        for limit in [1, 7, 24, 25, 26, 10_000] {
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let page = Page { after: after.clone(), limit: Some(limit) };
                let (mut part, next) = page.cut(all.clone(), |id| id);
                assert!(!part.is_empty() && part.len() <= limit);
                seen.append(&mut part);
                let Some(next) = next else { break };
                after = next;
            }
            assert_eq!(seen, all, "{limit}");
        }
        let beyond = Page { after: "99".to_owned(), limit: None };
        assert_eq!(beyond.cut(all, |id| id), (Vec::new(), None));
    }

    #[test]
    fn a_whole_number_is_an_integer_whatever_its_form() {
        for (text, expected) in [
            ("[3]", Some(vec![3])),
            ("[3.0, 4e2]", Some(vec![3, 400])),
            ("[9007199254740992.0]", Some(vec![9_007_199_254_740_992])),
            ("[18446744073709551615]", Some(vec![u64::MAX])),
            ("[3.5]", None),
            ("[-1.0]", None),
            ("[1e300]", None),
        ] {
            assert_eq!(parse::<Vec<u64>>(text.as_bytes()).ok(), expected, "{text}");
        }
        let error = parse::<Vec<u64>>(b"[3.5]").unwrap_err().to_string();
        assert!(error.contains("3.5") && error.contains("line 1"), "{error}");
    }
}
