//! The check listener: other proxies ask about requests that they forward themselves.
//!
//! Each hook says in its own way which request it means. `described` makes one request of that, and
//! it lives as the gate's own do, up to the decision (`phase::check`): the same sites, limits,
//! identities and policies, one path of decisions. Then the hook is told the answer in its own way.
//!
//! INVARIANTS:
//! - What a proxy does not say is never made up from what its caller sent: a request that is not
//!   described whole is refused, with what to set in the proxy.
//! - 200 (and OK) is an allowed request and nothing else.
//! - The path that is decided on is the path that came, unless the proxy takes another one.

mod authzen;
mod described;
mod envoy;
mod grpc;
mod http_hooks;
mod removal;
mod rls;

use std::sync::Arc;

use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::Incoming;

use self::authzen::{Answered, Asker, Endpoint};
use self::described::Described;
use self::grpc::{Code, Failure};
use crate::config::Bounds;
use crate::message::answer;
use crate::message::body::GateBody;
use crate::message::headers::X_REQUEST_ID;
use crate::message::problem::{Kind, Problem};
use crate::observe::hook::Hook;
use crate::observe::metrics::CheckOutcome;
use crate::observe::phase::Phase;
use crate::phase::checked::{Checked, Verdict};
use crate::phase::stage::Arrived;
use crate::phase::worker::Worker;
use crate::phase::written::{self, Asked, Determined};
use crate::proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use crate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use crate::wire::h2::FRAGMENT;
use crate::wire::peer::Peer;

const AUTH: &str = "/auth";
const FORWARD_AUTH: &str = "/forward-auth";
const EXT_AUTHZ: &str = "/ext_authz";
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Envoy removes these headers from the request that it passes on.
const HEADERS_TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// The head of the request that an encoded `CheckRequest` of Envoy's describes.
///
/// # Errors
/// What is wrong with the description, as the caller of the request would be told.
pub fn request_of(bytes: &[u8], bounds: &Bounds) -> Result<Parts, Problem> {
    let request: CheckRequest = prost::Message::decode(bytes)
        .map_err(|_| Problem::new(Kind::BadRequest, "the message is malformed"))?;
    envoy::described(request, bounds).map(|(described, _)| described.parts)
}

/// Answers one request to the check listener. No body is an empty one.
pub(crate) async fn answer(
    worker: Arc<Worker>,
    peer: Arc<Peer>,
    parts: Parts,
    body: Option<Incoming>,
) -> Response<GateBody> {
    let asking = Asking { worker, peer };
    // HTTP/2's reader marks such targets; the mark is no header of anybody's.
    if parts.version == Version::HTTP_2 && parts.headers.contains_key(FRAGMENT) {
        let problem = Problem::new(Kind::BadRequest, "the target has a fragment");
        return asking.own(problem, parts.headers.get(X_REQUEST_ID));
    }
    let path = parts.uri.path();
    match path {
        AUTH | FORWARD_AUTH if parts.method != Method::GET => {
            let detail =
                "the check listener takes GET here; the method that is asked about is in a header";
            let problem = Problem::new(Kind::MethodNotAllowed, detail)
                .header(ALLOW, HeaderValue::from_static("GET"));
            asking.own(problem, parts.headers.get(X_REQUEST_ID))
        }
        AUTH => {
            let checked = asking.http(Hook::Auth, http_hooks::auth(parts)).await;
            let mut response = checked.response.map(|_| GateBody::full(bytes::Bytes::new()));
            response.headers_mut().remove(CONTENT_TYPE);
            response
        }
        FORWARD_AUTH => {
            let checked = asking.http(Hook::ForwardAuth, http_hooks::forward_auth(parts)).await;
            checked.response.map(GateBody::full)
        }
        CHECK if grpc::is_call(&parts) => {
            grpc::call(&parts, body, async |request| Ok(asking.envoy(request).await)).await
        }
        SHOULD_RATE_LIMIT if grpc::is_call(&parts) => {
            let id = asking.worker.request_ids.of(parts.headers.get(X_REQUEST_ID));
            grpc::call(&parts, body, async |request| asking.limit(&request, &id)).await
        }
        _ if grpc::is_call(&parts) => {
            let message = "the check listener has no such method";
            grpc::failed(&Failure::new(Code::Unimplemented, message))
        }
        CHECK | SHOULD_RATE_LIMIT => {
            let detail = "this is a gRPC service: it takes POST over HTTP/2 with \
                          `Content-Type: application/grpc`";
            asking.own(Problem::new(Kind::BadRequest, detail), parts.headers.get(X_REQUEST_ID))
        }
        _ if path.starts_with(EXT_AUTHZ) => {
            let read = http_hooks::ext_authz(parts, EXT_AUTHZ);
            let came = read.as_ref().map(Described::names).unwrap_or_default();
            let Checked { verdict, mut response } = asking.http(Hook::EnvoyHttp, read).await;
            if let Verdict::Allowed(grant) = verdict
                && let Some(names) = removal::listed(&removal::removed(&came, &grant))
            {
                response.headers_mut().insert(HEADERS_TO_REMOVE, names);
            }
            response.map(GateBody::full)
        }
        _ => {
            if let Some((endpoint, service)) = authzen::endpoint(path) {
                return asking.authzen(&parts, body, endpoint, service).await;
            }
            let detail = "the check listener has `/auth`, `/forward-auth`, `/ext_authz/`, \
                          AuthZEN, and Envoy's gRPC services; is this the address of the gate's own listener?";
            asking.own(Problem::new(Kind::NoRoute, detail), parts.headers.get(X_REQUEST_ID))
        }
    }
}

/// Who asks.
struct Asking {
    worker: Arc<Worker>,
    /// The proxy.
    peer: Arc<Peer>,
}

impl Asking {
    /// The answer about a request that a hook describes over HTTP.
    async fn http(&self, hook: Hook, read: Result<Described, Problem>) -> Checked {
        match read {
            Ok(described) => self.check(hook, described).await,
            Err(problem) => self.undescribed(hook, problem),
        }
    }

    /// The answer to Envoy over gRPC.
    async fn envoy(&self, request: CheckRequest) -> CheckResponse {
        let bounds = &self.worker.common.settings.bounds;
        match envoy::described(request, bounds) {
            Ok((described, kept)) => {
                envoy::answered(self.check(Hook::EnvoyGrpc, described).await, &kept)
            }
            Err(problem) => {
                let checked = self.undescribed(Hook::EnvoyGrpc, problem);
                envoy::answered(checked, &envoy::Kept::default())
            }
        }
    }

    async fn check(&self, hook: Hook, described: Described) -> Checked {
        let Described { parts, peer } = described;
        if peer.is_none() {
            self.worker.address_is_missing(self.peer.address());
        }
        let peer = Arc::new(self.peer.of_proxy(peer));
        let arrived = Arrived::described(parts, Arc::clone(&self.worker), peer, hook);
        crate::phase::check(arrived).await
    }

    /// The answer about a request that the hook has not described whole.
    fn undescribed(&self, hook: Hook, problem: Problem) -> Checked {
        let kind = problem.kind;
        self.worker.metrics.answered(Phase::Accept, kind);
        self.worker.metrics.checked(hook, CheckOutcome::Refused(kind));
        let message = answer::line(&problem);
        let response = answer::written(problem, &self.worker.request_ids.of(None));
        Checked { verdict: Verdict::Refused { kind, message }, response }
    }

    /// What the limits say, to Envoy.
    fn limit(
        &self,
        request: &RateLimitRequest,
        id: &HeaderValue,
    ) -> Result<RateLimitResponse, Failure> {
        let (response, is_over) = rls::answered(&self.worker, request, id)?;
        let outcome = match is_over {
            true => CheckOutcome::Refused(Kind::LimitReached),
            false => CheckOutcome::Allowed,
        };
        self.worker.metrics.checked(Hook::RateLimit, outcome);
        Ok(response)
    }

    /// The answer to a program that asks by AuthZEN. It gets its request id back.
    async fn authzen(
        &self,
        parts: &Parts,
        body: Option<Incoming>,
        endpoint: Endpoint,
        service: Option<&str>,
    ) -> Response<GateBody> {
        let asked = parts.headers.get(X_REQUEST_ID);
        let id = asked.cloned().unwrap_or_else(|| self.worker.request_ids.of(None));
        let metrics = &self.worker.metrics;
        let asker = Asker {
            recorder: self.worker.recorder.clone(),
            request_id: id.to_str().unwrap_or_default().to_owned(),
            address: self.peer.address(),
            path: parts.uri.path().to_owned(),
        };
        let mut response =
            match authzen::answered(&self.worker, parts, body, endpoint, service, asker).await {
                Ok(Answered { response, permits }) => {
                    for permit in permits {
                        let denied = CheckOutcome::Refused(Kind::Denied);
                        let outcome = if permit { CheckOutcome::Allowed } else { denied };
                        metrics.checked(Hook::Authzen, outcome);
                    }
                    response
                }
                Err(mut problem) => {
                    if problem.kind.status() == StatusCode::SERVICE_UNAVAILABLE {
                        problem.retry_after_s = Some(self.worker.waits.after(problem.kind));
                    }
                    metrics.checked(Hook::Authzen, CheckOutcome::Refused(problem.kind));
                    self.record(&problem, &id, parts);
                    answer::response(problem, &id)
                }
            };
        response.headers_mut().insert(X_REQUEST_ID, id);
        response
    }

    /// The record of a question that says nothing that could be decided on.
    fn record(&self, problem: &Problem, id: &HeaderValue, parts: &Parts) {
        let Some(recorder) = &self.worker.recorder else { return };
        let asked = Asked {
            request_id: id.to_str().unwrap_or_default(),
            address: self.peer.address(),
            method: parts.method.as_str(),
            path: parts.uri.path(),
            ..Asked::default()
        };
        let (kind, status) = (problem.kind, problem.kind.status().as_u16());
        let said = (kind.outcome(), problem.reason.unwrap_or(kind.suffix()), status);
        written::question(recorder, &asked, said, &Determined::default());
    }

    /// What is wrong with the question itself.
    fn own(&self, problem: Problem, request_id: Option<&HeaderValue>) -> Response<GateBody> {
        self.worker.metrics.answered(Phase::Accept, problem.kind);
        answer::response(problem, &self.worker.request_ids.of(request_id))
    }
}
