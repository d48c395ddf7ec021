//! Requests that the routes of an apply serve: what a dry run shows, so that a base path that is wrong
//! is seen before callers see it.

use keepgate_api as api;
use keepgate_policy::bundle::Packed;
use keepgate_policy::route::Route;
use keepgate_policy::router::Router;
use keepgate_policy::{ItemBody, Kind, sample};

/// Samples, and how many routes there are where not each has one. Blocks.
pub(crate) fn of(packed: &Packed) -> (Vec<api::Sample>, Option<u64>) {
    let is_asked = |kind| matches!(kind, Kind::Service | Kind::Route);
    let items = packed.items().filter(|item| is_asked(item.key.kind));
    let mut routes: Vec<Route> = Vec::new();
    let mut fold = None;
    for item in items.filter_map(|item| item.decode().ok()) {
        match item.body {
            ItemBody::Route(route) => routes.push(*route),
            ItemBody::Service(settings) => fold = Some(settings.paths_fold),
            _ => {}
        }
    }
    let count = routes.len();
    // What is valid makes a router.
    let Ok(router) = Router::folding(routes, fold.unwrap_or_default()) else {
        return (Vec::new(), None);
    };
    let samples: Vec<api::Sample> = sample::samples(&router)
        .into_iter()
        .map(|sample| api::Sample {
            request: format!("{} {}", sample.method, sample.path),
            route: sample.route,
            action: sample.action.to_string(),
            resource: sample.resource.to_string(),
        })
        .collect();
    let total = (samples.len() < count).then_some(count as u64);
    (samples, total)
}
