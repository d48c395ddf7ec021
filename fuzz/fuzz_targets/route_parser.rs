//! Lines of templates, then a path to match: no panic, and a route that matches has as many values as
//! its template has parameters.
#![no_main]

use keepgate_policy::route::{Route, Template};
use keepgate_policy::router::{Matched, Router};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines: Vec<&str> = text.lines().take(20).collect();
    let path = lines.pop().unwrap_or_default();
    let methods = ["GET", "PUT", "*"];
    let routes: Vec<Route> = lines
        .iter()
        .zip(methods.iter().cycle())
        .map(|(line, method)| Route::new(*method, *line))
        .filter(|route| route.check().is_ok())
        .collect();
    let Ok(router) = Router::new(routes) else { return };
    for method in ["GET", "HEAD", "DELETE"] {
        if let Matched::Found(found) = router.matched(method, path) {
            let template = found.route().and_then(|route| route.path.parse::<Template>().ok());
            let params = template.map(|template| template.params().count());
            assert_eq!(params, Some(found.values.len()));
            let _ = (found.action(), found.resource());
        }
    }
});
