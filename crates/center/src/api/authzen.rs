//! AuthZEN 1.0: the HTTPS binding. Bodies and their meaning are `policy::authzen`'s.

use axum::Json as Out;
use axum::extract::State;
use http::{HeaderMap, Uri, header};
use serde_json::{Value, json};

use super::input::Params;
use super::problem::Problem;
use super::{Answer, App};

pub(crate) async fn configuration(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer<Out<Value>> {
    Ok(Out(metadata(&base(&app, &uri, &headers)?)))
}

/// The well-known URI of the PDP `BASE/s/NAME`: inserted between host and path.
pub(crate) async fn service_configuration(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    Params(service): Params<String>,
) -> Answer<Out<Value>> {
    if !app.desk.head().services.contains_key(&service) {
        return Err(crate::desk::Refusal::no_service(&service).into());
    }
    Ok(Out(metadata(&format!("{}/s/{service}", base(&app, &uri, &headers)?))))
}

fn metadata(base: &str) -> Value {
    json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
    })
}

/// How callers call this center: as configured, else as they just did.
fn base(app: &App, uri: &Uri, headers: &HeaderMap) -> Answer<String> {
    if let Some(url) = &app.public_url {
        return Ok(url.to_string());
    }
    // HTTP/2 has it in the request's URI.
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).and_then(|host| host.to_str().ok()),
    };
    let host = host.ok_or_else(|| Problem::bad_request("the request has no Host"))?;
    let scheme = if app.secure { "https" } else { "http" };
    Ok(format!("{scheme}://{host}"))
}
