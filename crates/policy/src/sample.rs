//! Requests that routes serve, for people to try. Pure.
//!
//! INVARIANT: a sample is routed to the route that it is of; a route that no sample was found for has
//! none.

use crate::route::Segment;
use crate::router::{Matched, Router};
use crate::uid::Uid;

/// The most samples that are made of one service.
pub const MAX_SAMPLES: usize = 20;

/// A request, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// In capitals.
    pub method: String,
    /// In its normal form.
    pub path: String,
    /// The route's name, `METHOD template`.
    pub route: String,
    /// What is decided on.
    pub action: Uid,
    /// What is decided on.
    pub resource: Uid,
    /// Whether a caller without credentials is let through to the decision.
    pub anonymous: bool,
}

/// Samples of the first [`MAX_SAMPLES`] routes, by path.
pub fn samples(router: &Router) -> Vec<Sample> {
    let mut order: Vec<usize> = (0..router.routes().len()).collect();
    let name = |index: &usize| router.routes().get(*index).map(|r| (&r.path, &r.method));
    order.sort_by(|a, b| name(a).cmp(&name(b)));
    order.into_iter().filter_map(|index| of(router, index)).take(MAX_SAMPLES).collect()
}

/// A request that is routed to this route of the router.
pub fn of(router: &Router, index: usize) -> Option<Sample> {
    let route = router.routes().get(index)?;
    let template = route.check().ok()?;
    let methods: &[&str] = match route.method.as_str() {
        "*" => &["GET", "POST", "PUT", "DELETE", "PATCH"],
        method => &[method],
    };
    // A literal of another route may be in the way of one value, hardly of all.
    let values: [fn(&str) -> String; 3] = [plain, |_| "sample-1".to_owned(), |_| "x9".to_owned()];
    for value in values {
        let path = filled(&template.segments, value);
        for method in methods {
            if let Matched::Found(found) = router.matched(method, &path)
                && found.index == index
                && let Ok(resource) = found.resource()
            {
                return Some(Sample {
                    method: (*method).to_owned(),
                    route: route.name(),
                    action: found.action().into_owned(),
                    resource: resource.into_owned(),
                    anonymous: route.anonymous,
                    path,
                });
            }
        }
    }
    None
}

/// A value as people expect it: `1` for `{id}`, else the parameter's own name.
fn plain(name: &str) -> String {
    let is_number = ["id", "Id", "ID", "number"].iter().any(|end| name.ends_with(end));
    let kept: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    if is_number || kept.is_empty() { "1".to_owned() } else { kept }
}

fn filled(segments: &[Segment], value: impl Fn(&str) -> String) -> String {
    let mut path = String::new();
    for segment in segments {
        match segment {
            Segment::Literal(text) => {
                path.push('/');
                path.push_str(text);
            }
            Segment::Param(name) => {
                path.push('/');
                path.push_str(&value(name));
            }
            Segment::Mixed { head, params } => {
                path.push('/');
                path.push_str(head);
                for (name, tail) in params {
                    path.push_str(&value(name));
                    path.push_str(tail);
                }
            }
            Segment::Rest(_) => path.push_str("/a/b"),
            // The path itself.
            Segment::Tree(_) => {}
        }
    }
    if path.is_empty() { "/".to_owned() } else { path }
}
