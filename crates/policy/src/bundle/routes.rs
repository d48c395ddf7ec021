//! Routes: of an OpenAPI document, of `routes.toml`, or of both.
//!
//! Beside a document, a route of `routes.toml` is added, or takes the place of the one of the document
//! that matches the same requests.

use serde::Deserialize;

use super::line::Lines;
use super::{ROUTES, Reader};
use crate::model::{Item, ItemBody};
use crate::openapi;
use crate::route::{MAX_ROUTES, MAX_TEMPLATE_BYTES, Route};
use crate::router;
use crate::service::PathsFold;

/// The files that have routes.
#[derive(Default)]
pub(super) struct Files<'f> {
    /// `routes.toml`.
    pub(super) own: Option<&'f str>,
    /// A document's name and text.
    document: Option<(&'f str, &'f str)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutesIn {
    #[serde(default)]
    route: Vec<toml::Spanned<Route>>,
}

/// A route and where it stands.
struct Placed<'f> {
    file: &'f str,
    line: usize,
    route: Route,
}

impl<'f> Files<'f> {
    /// Takes a document; a service has one.
    pub(super) fn document(&mut self, reader: &mut Reader, file: &'f str, text: &'f str) {
        match self.document {
            None => self.document = Some((file, text)),
            Some((other, _)) => {
                let message = format!("`{other}` has the routes already; keep one of them");
                reader.error(file, None, message);
            }
        }
    }

    /// Reads them, once all are known.
    pub(super) fn settle(self, reader: &mut Reader) {
        let errors = reader.count_errors();
        let mut all = self.own.map(|text| own(reader, text)).unwrap_or_default();
        refuse_conflicts(reader, &all);
        let of_document = self.document.map(|(file, text)| document(reader, file, text));
        if reader.count_errors() > errors {
            return;
        }
        let own = all.len();
        all.extend(of_document.unwrap_or_default());
        let mut replaced = vec![false; all.len()];
        for (first, second) in conflicts(&all) {
            // Within each file there are none.
            if let Some(replaced) = replaced.get_mut(second).filter(|_| first < own) {
                *replaced = true;
            }
        }
        let kept = all.into_iter().zip(replaced).filter(|(_, replaced)| !replaced);
        let kept: Vec<Placed<'_>> = kept.map(|(placed, _)| placed).collect();
        if kept.len() > MAX_ROUTES {
            let message = format!("expected at most {MAX_ROUTES} routes, found {}", kept.len());
            return reader.error(ROUTES, None, message);
        }
        for Placed { file, line, route } in kept {
            let item = Item::new(&reader.service, "", ItemBody::Route(Box::new(route)));
            reader.put(file, line, item);
        }
    }
}

/// The routes of `routes.toml`.
fn own(reader: &mut Reader, text: &str) -> Vec<Placed<'static>> {
    let file = match toml::from_str::<RoutesIn>(text) {
        Ok(file) => file,
        Err(error) => {
            reader.toml_error(ROUTES, text, &error);
            return Vec::new();
        }
    };
    let lines = Lines::of(text);
    let mut routes = Vec::with_capacity(file.route.len());
    for route in file.route {
        let line = lines.at(route.span().start);
        let route = route.into_inner();
        match openapi::own_spelling(&route.path) {
            Ok(own) if own == route.path => {}
            // What is too long is said so, and not repeated.
            _ if route.path.len() > MAX_TEMPLATE_BYTES => {}
            Ok(own) => {
                let message = format!("expected a path such as `{own}`, found `{}`", route.path);
                reader.error(ROUTES, Some(line), message);
                continue;
            }
            Err(reason) => {
                reader.error(ROUTES, Some(line), format!("`{}`: {reason}", route.path));
                continue;
            }
        }
        match route.check() {
            Ok(_) => routes.push(Placed { file: ROUTES, line, route }),
            Err(error) => reader.error(ROUTES, Some(line), error.to_string()),
        }
    }
    routes
}

/// The routes of a document.
fn document<'f>(reader: &mut Reader, file: &'f str, text: &str) -> Vec<Placed<'f>> {
    match openapi::load(text) {
        Ok(routes) => routes
            .into_iter()
            .map(|openapi::Placed { line, route }| Placed { file, line, route })
            .collect(),
        Err(problems) => {
            for openapi::Problem { line, message } in problems {
                reader.error(file, line, message);
            }
            Vec::new()
        }
    }
}

fn conflicts(all: &[Placed<'_>]) -> Vec<(usize, usize)> {
    let routes: Vec<Route> = all.iter().map(|placed| placed.route.clone()).collect();
    router::conflicts(&routes, PathsFold::None)
}

fn refuse_conflicts(reader: &mut Reader, routes: &[Placed<'_>]) {
    for (first, second) in conflicts(routes) {
        let (Some(first), Some(second)) = (routes.get(first), routes.get(second)) else { continue };
        let message = format!(
            "`{}` and `{}` (line {}) match the same requests; remove one of them",
            second.route.name(),
            first.route.name(),
            first.line
        );
        reader.error(second.file, Some(second.line), message);
    }
}
