//! Envoy's `ext_authz` over gRPC: a `CheckRequest` is a request, and a `CheckResponse` the answer.
//!
//! What Envoy makes of an answer (as measured with 1.40): `status` decides, not the response beside
//! it, and an empty message means OK. So every answer has a status, and every refusal a
//! `denied_response` with an HTTP status: without one a user gets 403 whatever the status says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::described::{Described, bad};
use super::http_hooks::last_hop;
use super::removal::removed;
use crate::config::Bounds;
use crate::message::headers::{KEEPGATE_PRINCIPAL, X_FORWARDED_FOR, X_REQUEST_ID, is_grpc};
use crate::message::problem::{Kind, Problem};
use crate::phase::checked::{Checked, Grant, KEEPGATE_AGE, KEEPGATE_REVISION, Verdict};
use crate::proto::envoy::config::core::v3::address::Address as Source;
use crate::proto::envoy::config::core::v3::{HeaderValue as Field, HeaderValueOption};
use crate::proto::envoy::service::auth::v3::attribute_context::HttpRequest;
use crate::proto::envoy::service::auth::v3::check_response::HttpResponse;
use crate::proto::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use crate::proto::envoy::r#type::v3::HttpStatus;
use crate::proto::google::protobuf::value::Kind as ValueKind;
use crate::proto::google::protobuf::{BoolValue, Struct, Value};
use crate::proto::google::rpc::Status;

/// What is answered to a caller whose preflight is answered: not OK, so that Envoy answers it.
const ANSWERED: i32 = 7;

/// What has to be kept of a request until its answer.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The names of its headers.
    came: Vec<HeaderName>,
    query: Option<String>,
    is_grpc: bool,
}

/// The request that is meant.
pub(crate) fn described(
    request: CheckRequest,
    bounds: &Bounds,
) -> Result<(Described, Kept), Problem> {
    let attributes = request.attributes.unwrap_or_default();
    let http = attributes.request.and_then(|request| request.http).ok_or_else(|| {
        bad("expected an HTTP request in the attributes; use the HTTP filter `ext_authz`")
    })?;
    let address = attributes.source.and_then(|source| source.address?.address);
    let peer = address.and_then(|address| match address {
        Source::SocketAddress(socket) => socket.address.parse::<IpAddr>().ok().map(Some),
        Source::Pipe(_) => Some(None),
    });
    let peer = peer.map(|address| address.map(|address| address.to_canonical()));
    let mut headers = fields(&http, bounds)?;
    let host = host(&http, &headers)?;
    // Envoy adds who connected to it, where it was told to; that is said twice then.
    let mut before = HeaderMap::new();
    for line in headers.get_all(X_FORWARDED_FOR) {
        before.append(X_FORWARDED_FOR, line.clone());
    }
    if let Ok(Some(last)) = last_hop(&mut before)
        && peer == Some(Some(last))
    {
        headers.remove(X_FORWARDED_FOR);
        headers.extend(before);
    }
    let kept = Kept {
        came: headers.keys().cloned().collect(),
        query: http.path.split_once('?').map(|(_, query)| query.to_owned()),
        is_grpc: is_grpc(&headers),
    };
    let (method, target) = (http.method.as_bytes(), http.path.as_bytes());
    Ok((Described::new(method, target, host, headers, peer)?, kept))
}

/// The headers, of whichever form Envoy was told to send them in. Pseudo-headers are none.
fn fields(http: &HttpRequest, bounds: &Bounds) -> Result<HeaderMap, Problem> {
    let raw = http.header_map.iter().flat_map(|map| &map.headers).map(|field| {
        let value =
            if field.raw_value.is_empty() { field.value.as_bytes() } else { &field.raw_value };
        (field.key.as_str(), value)
    });
    let is_raw = http.header_map.as_ref().is_some_and(|map| !map.headers.is_empty());
    let joined = http.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let joined = joined.filter(|_| !is_raw);
    let mut headers = HeaderMap::new();
    let mut bytes = 0;
    for (name, value) in raw.chain(joined).filter(|(name, _)| !name.starts_with(':')) {
        bytes += name.len() + value.len();
        if headers.len() >= bounds.header_count {
            let detail = "more header fields than the gate takes";
            return Err(Problem::new(Kind::HeadersTooLarge, detail));
        }
        if bytes > bounds.header_bytes {
            let detail = "the header section is over the gate's bound";
            return Err(Problem::new(Kind::HeadersTooLarge, detail));
        }
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| bad("a header name is malformed"))?;
        let value =
            HeaderValue::from_bytes(value).map_err(|_| bad("a header value is malformed"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn host(http: &HttpRequest, headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    if http.host.is_empty() {
        return Ok(None);
    }
    let host = HeaderValue::try_from(&http.host).map_err(|_| bad("Host is malformed"))?;
    let differs = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(host.as_bytes());
    if headers.get_all(HOST).iter().any(differs) {
        return Err(bad("Host is not the request's authority"));
    }
    Ok(Some(host))
}

/// The answer as Envoy takes it.
pub(crate) fn answered(checked: Checked, kept: &Kept) -> CheckResponse {
    let Checked { verdict, response } = checked;
    let headers = response.headers();
    let (code, message, metadata, said) = match verdict {
        Verdict::Allowed(grant) => {
            let metadata = allowed_metadata(&grant);
            let ok = HttpResponse::OkResponse(allowed(&grant, headers, kept));
            (0, String::new(), metadata, ok)
        }
        Verdict::Answered => {
            let denied = denied(response.status().as_u16(), headers, String::new());
            let metadata = vec![("decision", text("preflight"))];
            (ANSWERED, "the gate answers the preflight".to_owned(), metadata, denied)
        }
        Verdict::Refused { kind, message } => {
            let json = String::from_utf8_lossy(response.body()).into_owned();
            // To a caller that speaks gRPC, Envoy writes the body into `grpc-message`.
            let body = if kept.is_grpc { message.clone() } else { json };
            let denied = denied(response.status().as_u16(), headers, body);
            let metadata = vec![("decision", text(kind.suffix()))];
            (i32::from(kind.grpc()), message, metadata, denied)
        }
    };
    CheckResponse {
        status: Some(Status { code, message }),
        http_response: Some(said),
        dynamic_metadata: Some(Struct {
            fields: metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }),
    }
}

fn allowed(grant: &Grant, told: &HeaderMap, kept: &Kept) -> OkHttpResponse {
    let mut headers = Vec::new();
    for name in [KEEPGATE_PRINCIPAL, KEEPGATE_REVISION, KEEPGATE_AGE] {
        if let Some(value) = told.get(&name) {
            headers.push(option(name.as_str(), value.as_bytes(), false));
        }
    }
    for (name, value) in &grant.says {
        headers.push(option(name.as_str(), value.as_bytes(), false));
    }
    if let Some(path) = &grant.path {
        let path = match &kept.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_string(),
        };
        headers.push(option(":path", path.as_bytes(), false));
    }
    let mut remove = removed(&kept.came, grant);
    if grant.principal.is_none() && !remove.contains(&KEEPGATE_PRINCIPAL) {
        remove.push(KEEPGATE_PRINCIPAL);
    }
    let is_said = |name: &HeaderName| grant.says.iter().any(|(said, _)| said == name);
    let of_callers = |name: &HeaderName| {
        !is_said(name)
            && *name != CACHE_CONTROL
            && *name != X_REQUEST_ID
            && !name.as_str().starts_with("keepgate-")
    };
    let response = told.iter().filter(|(name, _)| of_callers(name));
    OkHttpResponse {
        headers,
        headers_to_remove: remove.iter().map(|name| name.as_str().to_owned()).collect(),
        // The upstream's own stay beside them.
        response_headers_to_add: response
            .map(|(name, value)| option(name.as_str(), value.as_bytes(), true))
            .collect(),
    }
}

fn denied(status: u16, headers: &HeaderMap, body: String) -> HttpResponse {
    // One field a name: without `append` a second one would take the place of the first.
    let mut fields: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (name, value) in headers {
        let joined = fields.entry(name.as_str()).or_default();
        if !joined.is_empty() && *name != CONTENT_TYPE && *name != RETRY_AFTER {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value.as_bytes());
        } else {
            *joined = value.as_bytes().to_vec();
        }
    }
    HttpResponse::DeniedResponse(DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(status) }),
        headers: fields.iter().map(|(name, value)| option(name, value, false)).collect(),
        body,
    })
}

fn allowed_metadata(grant: &Grant) -> Vec<(&'static str, Value)> {
    let mut metadata = vec![
        ("decision", text("allowed")),
        // Exact up to 2^53.
        ("revision", Value { kind: Some(ValueKind::NumberValue(grant.revision as f64)) }),
    ];
    if let Some(principal) = grant.principal.as_ref() {
        metadata.push(("principal", text(&String::from_utf8_lossy(principal.as_bytes()))));
    }
    if let Some(route) = &grant.route {
        metadata.push(("route", text(route)));
    }
    metadata
}

fn text(text: &str) -> Value {
    Value { kind: Some(ValueKind::StringValue(text.to_owned())) }
}

fn option(name: &str, value: &[u8], append: bool) -> HeaderValueOption {
    let value = String::from_utf8_lossy(value).into_owned();
    HeaderValueOption {
        header: Some(Field { key: name.to_owned(), value, raw_value: Vec::new() }),
        append: append.then_some(BoolValue { value: true }),
        append_action: 0,
    }
}
