//! From host, method and path to a route of the site's service, on the path's one form.
//!
//! From here on a request belongs to one version of the world: the table it takes here.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::uri::PathAndQuery;
use keepgate_policy::Uid;
use keepgate_policy::router::Matched;
use keepgate_policy::service::PathsFold;

use super::preflight;
use super::stage::{Accepted, Carrier, Found, Missed, Way};
use super::undecided::no_decision;
use super::worker::Site;
use crate::config::sites::{SiteMap, generous, stripped};
use crate::message::path::{self, Mode};
use crate::message::problem::{Kind, Problem};
use crate::service::table::{Service, Table};

/// The route; the path is from now on the one that is decided on, and where it may be forwarded, the
/// one that is forwarded.
pub(crate) fn run(mut accepted: Accepted) -> Way {
    let found = find(&mut accepted);
    Way { accepted, found }
}

fn find(accepted: &mut Accepted) -> Result<Found, Missed> {
    let missed = |service, problem| Err(Missed { service, problem });
    let Some(table) = accepted.entry.served.table() else {
        return missed(None, no_decision("no_replica", "the gate has no permissions yet"));
    };
    let Some(service) = table.service.clone() else {
        return missed(None, no_decision("no_service", "the gate does not know its service yet"));
    };
    route(accepted, table, &service).or_else(|problem| missed(Some(service), problem))
}

fn route(
    accepted: &mut Accepted,
    table: Arc<Table>,
    service: &Arc<Service>,
) -> Result<Found, Problem> {
    let Accepted { arrived, entry, host, .. } = accepted;
    if !service.hosts.is_empty() && !service.hosts.iter().any(|own| own.matches(host)) {
        return Err(Problem::new(Kind::Misdirected, "the host is not one of the service's"));
    }
    let method = arrived.parts.method.as_str();
    if !service.methods.contains(method) {
        return Err(Problem::new(Kind::NotImplemented, "the method is not one of the service's"));
    }
    let mut rules = service.paths;
    rules.keep_encoded_slash |= arrived.worker.common.settings.keep_encoded_slash;
    let came = arrived.parts.uri.path();
    let form = path::normal(came, rules).map_err(|e| Problem::new(Kind::BadPath, e.to_string()))?;
    let folds = service.router.fold() == PathsFold::Case;
    is_of_site(&entry.live.map, &entry.site, host, &form, folds)?;
    let is_kept = form == came;
    // What the upstream gets of the path as it came, where it gets that.
    let mut forwarded = None;
    let form = if entry.site.config.strip_prefix {
        let prefix = &entry.site.config.path;
        if rules.mode == Mode::Exact {
            forwarded = Some(without(came, prefix)?.to_owned());
        }
        Cow::Owned(without(&form, prefix)?.to_owned())
    } else {
        form
    };
    let (method, cross) = preflight::of(service, arrived.carrier, &arrived.parts, method, &form);
    let body_bytes = service.body_bytes.unwrap_or(entry.site.bounds.body_bytes);
    let mut decided = None;
    let mut found = match service.router.matched(method, &form) {
        Matched::Found(found) => {
            let route = found.route();
            let resource = found
                .resource()
                .map_err(|e| Problem::new(Kind::BadPath, e.to_string()))?
                .into_owned();
            if let Cow::Owned(spelled) = found.spelled(&form) {
                decided = Some(spelled);
            }
            Found {
                index: Some(found.index),
                path: None,
                replaced: None,
                action: found.action().into_owned(),
                resource,
                anonymous: route.is_some_and(|route| route.anonymous),
                max_age_ms: route.and_then(|r| r.max_age_ms).unwrap_or(service.max_age_ms),
                answer_timeout: wait(route.and_then(|r| r.answer_timeout_ms))
                    .or(service.answer_timeout),
                answer_idle: wait(route.and_then(|r| r.answer_idle_ms)).or(service.answer_idle),
                body_bytes: route.and_then(|r| r.body_bytes).unwrap_or(body_bytes),
                cross,
                service: Arc::clone(service),
                table,
            }
        }
        _ if service.forward_unmatched => Found {
            index: None,
            path: None,
            replaced: None,
            action: Uid::new("Action", method),
            resource: Uid::route("/"),
            anonymous: false,
            max_age_ms: service.max_age_ms,
            answer_timeout: service.answer_timeout,
            answer_idle: service.answer_idle,
            body_bytes,
            cross,
            service: Arc::clone(service),
            table,
        },
        Matched::MethodNotAllowed(methods) => return Err(not_allowed(&methods)),
        Matched::NotFound => return Err(Problem::new(Kind::NoRoute, "")),
    };
    if announced(&arrived.parts).is_some_and(|bytes| bytes > found.body_bytes) {
        let detail = "the request body is over the bound";
        return Err(Problem::new(Kind::BodyTooLarge, detail).close());
    }
    if arrived.carrier != Carrier::Gate && (decided.is_some() || !is_kept) {
        if arrived.carrier.keeps_path() {
            let detail = "the path is not in the form that is decided on, and the proxy in front \
                          forwards it as it came";
            return Err(Problem::new(Kind::BadPath, detail));
        }
        // The proxy takes no prefix away: what it forwards is the whole path.
        let site = &entry.site.config;
        let prefix = if site.strip_prefix { site.path.as_str() } else { "" };
        let whole = [prefix, decided.as_deref().unwrap_or(&form)].concat();
        found.replaced = Some(whole.into());
    }
    let decided = match (decided, form) {
        (Some(spelled), _) => Some(spelled),
        (None, Cow::Owned(form)) => Some(form),
        (None, Cow::Borrowed(_)) => None,
    };
    if let Some(decided) = decided {
        if rules.mode == Mode::Exact {
            found.path = Some(decided.into());
        } else {
            forwarded = Some(decided);
        }
    }
    if let Some(forwarded) = forwarded {
        let uri = with_path(&arrived.parts.uri, &forwarded);
        arrived.parts.uri =
            uri.ok_or_else(|| Problem::new(Kind::BadPath, "the path is malformed"))?;
    }
    Ok(found)
}

/// How many bytes the body has, as the request says.
fn announced(parts: &Parts) -> Option<u64> {
    parts.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A site was found by the path as it came. What an upstream may read in the path that it gets must
/// not be a path of another site, whose service decides about it.
fn is_of_site(
    map: &SiteMap,
    site: &Site,
    host: &str,
    form: &str,
    folds: bool,
) -> Result<(), Problem> {
    if map.is_by_host() {
        return Ok(());
    }
    let read = generous(form);
    let mut same =
        map.find(host, form) == Ok(site.number) && map.find(host, &read) == Ok(site.number);
    if folds {
        same &= map.find_folded(host, &read) == Ok(site.number);
    }
    if same {
        return Ok(());
    }
    Err(Problem::new(Kind::BadPath, "the path could be read as one of another site"))
}

/// A path without the site's prefix.
fn without<'p>(path: &'p str, prefix: &str) -> Result<&'p str, Problem> {
    let rest = stripped(path, prefix);
    if rest.len() == path.len() {
        let detail = "the path does not begin with the site's prefix as it is written";
        return Err(Problem::new(Kind::BadPath, detail));
    }
    Ok(rest)
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
