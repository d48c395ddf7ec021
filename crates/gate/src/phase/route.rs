//! From host, method and path to a route of the service, on the path's one form.
//!
//! From here on a request belongs to one version of the world: the table it takes here.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use keepgate_policy::Uid;
use keepgate_policy::router::Matched;

use super::{Exchange, PhaseVerdict, Routed};
use crate::path::{self, Mode};
use crate::phase::decide::no_decision;
use crate::problem::{Kind, Problem};

pub(crate) fn run(x: &mut Exchange) -> PhaseVerdict {
    match route(x) {
        Ok(()) => PhaseVerdict::Continue,
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
    if !service.hosts.is_empty() && !service.hosts.iter().any(|host| host.matches(&x.host)) {
        return Err(Problem::new(Kind::Misdirected, "the host is not one of the service's"));
    }
    let method = x.parts.method.as_str();
    if !service.methods.contains(method) {
        return Err(Problem::new(Kind::NotImplemented, "the method is not one of the service's"));
    }
    let mut rules = service.paths;
    rules.keep_encoded_slash |= x.worker.settings.keep_encoded_slash;
    let form = path::normal(x.parts.uri.path(), rules)
        .map_err(|e| Problem::new(Kind::BadPath, e.to_string()))?;
    let mut decided = None;
    let mut routed = match service.router.matched(method, &form) {
        Matched::Found(found) => {
            let route = found.route();
            let resource = found
                .resource()
                .map_err(|e| Problem::new(Kind::BadPath, e.to_string()))?
                .into_owned();
            if let Cow::Owned(spelled) = found.spelled(&form) {
                decided = Some(spelled);
            }
            Routed {
                index: Some(found.index),
                path: None,
                action: found.action().into_owned(),
                resource,
                anonymous: route.is_some_and(|route| route.anonymous),
                max_age_ms: route.and_then(|r| r.max_age_ms).unwrap_or(service.max_age_ms),
                answer_timeout: wait(route.and_then(|r| r.answer_timeout_ms))
                    .or(service.answer_timeout),
                answer_idle: wait(route.and_then(|r| r.answer_idle_ms)).or(service.answer_idle),
                service: Arc::clone(&service),
            }
        }
        _ if service.forward_unmatched => Routed {
            index: None,
            path: None,
            action: Uid::new("Action", method),
            resource: Uid::route("/"),
            anonymous: false,
            max_age_ms: service.max_age_ms,
            answer_timeout: service.answer_timeout,
            answer_idle: service.answer_idle,
            service: Arc::clone(&service),
        },
        Matched::MethodNotAllowed(methods) => return Err(not_allowed(&methods)),
        Matched::NotFound => return Err(Problem::new(Kind::NoRoute, "")),
    };
    let decided = match (decided, form) {
        (Some(spelled), _) => Some(spelled),
        (None, Cow::Owned(form)) => Some(form),
        (None, Cow::Borrowed(_)) => None,
    };
    if let Some(decided) = decided {
        if rules.mode == Mode::Exact {
            routed.path = Some(decided.into());
        } else {
            let uri = with_path(&x.parts.uri, &decided);
            x.parts.uri =
                uri.ok_or_else(|| Problem::new(Kind::BadPath, "the path is malformed"))?;
        }
    }
    x.table = Some(table);
    x.routed = Some(routed);
    Ok(())
}

fn wait(ms: Option<u64>) -> Option<Duration> {
    ms.map(Duration::from_millis)
}

/// 405, with what the path has. A GET route serves HEAD too.
fn not_allowed(methods: &[&str]) -> Problem {
    let mut allow = methods.join(", ");
    if methods.contains(&"GET") && !methods.contains(&"HEAD") {
        allow.push_str(", HEAD");
    }
    let problem = Problem::new(Kind::MethodNotAllowed, "the path does not have this method");
    match http::HeaderValue::try_from(allow) {
        Ok(allow) => problem.header(http::header::ALLOW, allow),
        Err(_) => problem,
    }
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
