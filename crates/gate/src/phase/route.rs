//! From method and path to a route of the service, on the path's one normal form.
//!
//! From here on a request belongs to one version of the world: the table it takes here.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use keepgate_policy::Uid;
use keepgate_policy::router::Matched;

use super::{Exchange, Routed, Verdict};
use crate::path;
use crate::phase::decide::no_decision;
use crate::problem::{Kind, Problem};

pub(crate) fn run(x: &mut Exchange) -> Verdict {
    match route(x) {
        Ok(()) => Verdict::Continue,
        Err(problem) => problem.into(),
    }
}

fn route(x: &mut Exchange) -> Result<(), Problem> {
    let Some(table) = x.worker.table() else {
        return Err(no_decision("no_replica", "the gate has no permissions yet"));
    };
    let Some(service) = table.service.clone() else {
        return Err(no_decision("no_service", "the gate does not know its service yet"));
    };
    x.service = Some(Arc::clone(&service));
    let keep = x.worker.settings.keep_encoded_slash;
    let normal = path::normalise(x.parts.uri.path(), service.path_policy, keep)
        .map_err(|e| Problem::new(Kind::BadPath, e.to_string()))?;
    if let Cow::Owned(normal) = normal {
        let normal = with_path(&x.parts.uri, &normal);
        x.parts.uri = normal.ok_or_else(|| Problem::new(Kind::BadPath, "the path is malformed"))?;
    }
    let method = x.parts.method.as_str();
    let routed = match service.router.matched(method, x.parts.uri.path()) {
        Matched::Found(found) => {
            let route = found.route();
            let resource = found
                .resource()
                .map_err(|e| Problem::new(Kind::BadPath, e.to_string()))?
                .into_owned();
            Routed {
                index: Some(found.index),
                action: found.action().into_owned(),
                resource,
                anonymous: route.is_some_and(|route| route.anonymous),
                max_age_ms: route.and_then(|r| r.max_age_ms).unwrap_or(service.max_age_ms),
                answer_timeout: wait(route.and_then(|r| r.answer_timeout_ms))
                    .or(service.answer_timeout),
                answer_idle: wait(route.and_then(|r| r.answer_idle_ms)).or(service.answer_idle),
                service,
            }
        }
        _ if service.forward_unmatched => Routed {
            index: None,
            action: Uid::new("Action", method),
            resource: Uid::route("/"),
            anonymous: false,
            max_age_ms: service.max_age_ms,
            answer_timeout: service.answer_timeout,
            answer_idle: service.answer_idle,
            service,
        },
        // Which methods a path has is for those to know who may call it.
        _ => return Err(Problem::new(Kind::NoRoute, "")),
    };
    x.table = Some(table);
    x.routed = Some(routed);
    Ok(())
}

fn wait(ms: Option<u64>) -> Option<Duration> {
    ms.map(Duration::from_millis)
}

/// The same target with another path.
fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).ok()?);
    Uri::from_parts(parts).ok()
}
