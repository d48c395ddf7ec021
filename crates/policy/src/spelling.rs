//! Routes that an upstream may reach by another spelling, past what is said of them.
//!
//! A gate compares paths byte by byte. Many frameworks do not: to Express `/Admin` is `/admin`. Where
//! a catch-all route (or `unmatched = "forward"`) takes `/Admin`, a ban on `/admin` does not hold for
//! it. [`warnings`] finds such places; nothing is refused for them, for not every upstream folds.
//!
//! Pure, and bounded: see `MAX_FOUND` and `MAX_PAIRS`.

use cedar_policy_core::ast::{
    Effect, EntityReference, EntityUID, PrincipalOrResourceConstraint, Template as Policy,
};

use crate::caution::Warning;
use crate::cedar_text::{self, Sort};
use crate::model::{Item, ItemBody, ItemKey};
use crate::route::{Route, Segment, Template};
use crate::router::{Matched, Router};
use crate::service::{ServiceSettings, Unmatched};

/// Warnings that are given at most.
pub const MAX_FOUND: usize = 50;
/// Pairs of a route and a policy that are looked at; beyond, nothing is said.
const MAX_PAIRS: usize = 4_000_000;

/// In what a framework takes paths for the same.
struct Fold {
    frameworks: &'static str,
    /// Another spelling of a path, if there is one.
    spell: fn(&Template) -> Option<String>,
    remedy: &'static str,
}

/// Frameworks' defaults, as their documentation has them.
const FOLDS: [Fold; 3] = [
    Fold {
        frameworks: "Express, ASP.NET Core and IIS match without case",
        spell: in_another_case,
        remedy: "set `paths_fold = \"case\"`",
    },
    Fold {
        frameworks: "Express, Rails and FastAPI ignore (or redirect) a slash at the end",
        spell: with_another_end,
        remedy: "write the route as `PATH{/*rest}`",
    },
    Fold {
        frameworks: "Rails and Spring (before 5.3) take a format such as `.json` off",
        spell: with_a_format,
        remedy: "add a route `PATH.{format}` with the same policies",
    },
];

/// What a policy says of resources, as far as a path's place in the tree of routes matters.
struct Said<'a> {
    forbids: bool,
    id: &'a str,
    scope: Scope,
}

enum Scope {
    Any,
    Eq(String),
    In(String),
    /// Resources that are no routes.
    Others,
}

impl Scope {
    fn of(entity: &EntityReference, below: bool) -> Scope {
        let EntityReference::EUID(uid) = entity else { return Scope::Others };
        let uid: &EntityUID = uid;
        let id: &str = uid.eid().as_ref();
        match (uid.entity_type().to_string() == "route", below) {
            (false, _) => Scope::Others,
            (true, true) => Scope::In(id.to_owned()),
            (true, false) => Scope::Eq(id.to_owned()),
        }
    }

    fn covers(&self, resource: &str) -> bool {
        match self {
            Scope::Any => true,
            Scope::Eq(path) => path == resource,
            Scope::In(path) if path == "/" => true,
            Scope::In(path) => resource
                .strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Scope::Others => false,
        }
    }
}

/// Warnings about the items of a service with these settings.
pub fn warnings(settings: &ServiceSettings, items: &[Item]) -> Vec<Warning> {
    let mut look = Look { settings, routes: Vec::new(), said: Vec::new(), found: Vec::new() };
    for item in items {
        look.read(item);
    }
    look.all();
    look.found.truncate(MAX_FOUND);
    look.found
}

/// What a policy says: whether it forbids, and of which resources.
fn said(policy: Policy) -> Result<(bool, Scope), cedar_text::PolicyError> {
    let scope = match policy.resource_constraint().as_inner() {
        PrincipalOrResourceConstraint::Any => Scope::Any,
        PrincipalOrResourceConstraint::Eq(entity) => Scope::of(entity, false),
        PrincipalOrResourceConstraint::In(entity)
        | PrincipalOrResourceConstraint::IsIn(_, entity) => Scope::of(entity, true),
        PrincipalOrResourceConstraint::Is(kind) if kind.to_string() == "route" => Scope::Any,
        PrincipalOrResourceConstraint::Is(_) => Scope::Others,
    };
    Ok((policy.effect() == Effect::Forbid, scope))
}

struct Look<'a> {
    settings: &'a ServiceSettings,
    routes: Vec<Route>,
    said: Vec<Said<'a>>,
    found: Vec<Warning>,
}

impl<'a> Look<'a> {
    fn read(&mut self, item: &'a Item) {
        let scope = match &item.body {
            ItemBody::Route(route) => {
                self.routes.push(route.as_ref().clone());
                return;
            }
            ItemBody::Grant(grant) => match &grant.resource {
                None => (false, Scope::Any),
                Some(uid) if uid.kind == "route" => (false, Scope::In(uid.id.clone())),
                Some(_) => (false, Scope::Others),
            },
            ItemBody::Policy(body) => {
                match cedar_text::read(Sort::Policy, None, &body.text, said) {
                    Ok((forbids, scope)) => {
                        if forbids && reads_the_path(&body.text) {
                            self.found_path_condition(&item.key);
                        }
                        (forbids, scope)
                    }
                    Err(_) => return,
                }
            }
            _ => return,
        };
        self.said.push(Said { forbids: scope.0, id: &item.key.id, scope: scope.1 });
    }

    /// A condition on the path is a comparison of bytes, also below a catch-all.
    fn found_path_condition(&mut self, key: &ItemKey) {
        let message = "it forbids by `context.path`, which is compared byte by byte: an upstream \
                       that matches without case (Express, ASP.NET Core) takes `/Admin` for \
                       `/admin`; write a route such as `/admin{/*rest}`, forbid it by its resource \
                       and set `paths_fold`";
        self.found.push(Warning { key: key.clone(), spot: None, message: message.to_owned() });
    }

    fn all(&mut self) {
        let forwards = self.settings.unmatched == Unmatched::Forward;
        let has_catch_all = forwards || self.routes.iter().any(is_catch_all);
        if !has_catch_all {
            // Another spelling is 404.
            self.found.clear();
            return;
        }
        let Ok(router) = Router::folding(self.routes.clone(), self.settings.paths_fold) else {
            return;
        };
        if self.routes.len().saturating_mul(self.said.len()) > MAX_PAIRS {
            return;
        }
        for route in &self.routes {
            if self.found.len() >= MAX_FOUND {
                return;
            }
            let Ok(template) = route.path.parse::<Template>() else { continue };
            for fold in &FOLDS {
                let Some(spelled) = (fold.spell)(&template) else { continue };
                if let Some((by, resource, anonymous)) =
                    self.reached(&router, route, &spelled, forwards)
                    && let Some(why) = self.loses(route, &resource, anonymous)
                {
                    let key = ItemKey::route(&self.settings.name, &route.method, &route.path);
                    let message = format!(
                        "a request for `{spelled}` is {by}, {why}; {}: {}",
                        fold.frameworks,
                        fold.remedy.replace("PATH", &route.path)
                    );
                    self.found.push(Warning { key, spot: None, message });
                }
            }
        }
    }

    /// By what a spelling of a route's path is taken, if it is not the route: words, the resource,
    /// and whether callers may be anonymous.
    fn reached(
        &self,
        router: &Router,
        route: &Route,
        spelled: &str,
        forwards: bool,
    ) -> Option<(String, String, bool)> {
        let method = if route.method == "*" { "GET" } else { &route.method };
        match router.matched(method, spelled) {
            Matched::Found(found) => {
                let other = found.route()?;
                let is_other = other.name() != route.name() && is_catch_all(other);
                is_other.then(|| {
                    let by = format!("one of `{}`", other.name());
                    (by, other.resource_path().to_owned(), other.anonymous)
                })
            }
            Matched::NotFound if forwards => {
                Some(("forwarded as `route::\"/\"`".to_owned(), "/".to_owned(), false))
            }
            _ => None,
        }
    }

    /// What holds for the route and not for a request that is taken for another resource.
    fn loses(&self, route: &Route, resource: &str, anonymous: bool) -> Option<String> {
        let own = route.resource_path();
        if own == resource {
            return None;
        }
        let of = |forbids: bool| self.said.iter().filter(move |said| said.forbids == forbids);
        if let Some(ban) =
            of(true).find(|said| said.scope.covers(own) && !said.scope.covers(resource))
        {
            return Some(format!("to which the `forbid` of `{}` does not apply", ban.id));
        }
        if let Some(wide) =
            of(false).find(|said| said.scope.covers(resource) && !said.scope.covers(own))
        {
            return Some(format!("which `{}` permits to more callers than this route", wide.id));
        }
        (anonymous && !route.anonymous)
            .then(|| "which is open to callers without credentials".to_owned())
    }
}

fn reads_the_path(text: &str) -> bool {
    text.contains("context.path") || text.contains("context[\"path\"]")
}

fn is_catch_all(route: &Route) -> bool {
    let template = route.path.parse::<Template>();
    template.is_ok_and(|t| matches!(t.segments.last(), Some(Segment::Rest(_) | Segment::Tree(_))))
}

/// A path of a template; `literal` writes its texts.
fn path_of(template: &Template, mut literal: impl FnMut(&str) -> String) -> String {
    let mut path = String::new();
    for segment in &template.segments {
        match segment {
            Segment::Tree(_) => continue,
            _ => path.push('/'),
        }
        match segment {
            Segment::Literal(text) => path.push_str(&literal(text)),
            Segment::Param(_) | Segment::Rest(_) => path.push('1'),
            Segment::Mixed { head, params } => {
                path.push_str(&literal(head));
                for (_, tail) in params {
                    path.push('1');
                    path.push_str(&literal(tail));
                }
            }
            Segment::Tree(_) => {}
        }
    }
    if path.is_empty() { "/".to_owned() } else { path }
}

fn in_another_case(template: &Template) -> Option<String> {
    let mut changed = false;
    let path = path_of(template, |text| {
        let mut escape = 0;
        text.chars()
            .map(|c| {
                escape = if c == '%' { 3 } else { usize::saturating_sub(escape, 1) };
                let swaps = !changed && escape == 0 && c.is_ascii_alphabetic();
                changed |= swaps;
                match c {
                    c if !swaps => c,
                    c if c.is_ascii_lowercase() => c.to_ascii_uppercase(),
                    c => c.to_ascii_lowercase(),
                }
            })
            .collect()
    });
    changed.then_some(path)
}

fn with_another_end(template: &Template) -> Option<String> {
    if matches!(template.segments.last(), None | Some(Segment::Rest(_) | Segment::Tree(_))) {
        return None;
    }
    let path = path_of(template, str::to_owned);
    match path.strip_suffix('/') {
        Some("") => None,
        Some(shorter) => Some(shorter.to_owned()),
        None => Some(format!("{path}/")),
    }
}

fn with_a_format(template: &Template) -> Option<String> {
    match template.segments.last() {
        Some(Segment::Literal(text)) if !text.is_empty() && !text.contains('.') => {
            Some(format!("{}.json", path_of(template, str::to_owned)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PolicyBody;

    fn found(settings: &str, routes: &[&str], policies: &[&str]) -> Vec<String> {
        let settings: ServiceSettings =
            serde_json::from_str(&format!("{{\"name\":\"orders\"{settings}}}")).unwrap();
        let mut items = vec![Item::new("orders", "", ItemBody::Service(Box::new(settings)))];
        for route in routes {
            let (method, path) = route.split_once(' ').unwrap();
            let body = ItemBody::Route(Box::new(Route::new(method, path)));
            items.push(Item::new("orders", route, body));
        }
        for (n, text) in policies.iter().enumerate() {
            let body = PolicyBody { text: (*text).to_owned(), file: String::new() };
            items.push(Item::new("orders", &format!("p{n}"), ItemBody::Policy(body)));
        }
        crate::caution::warnings(&items)
            .into_iter()
            .map(|w| format!("{}: {}", w.key.id, w.message))
            .collect()
    }

    const ALL: &str = "permit (principal, action, resource);";
    const BAN: &str = "forbid (principal, action, resource in route::\"/admin\");";

    #[test]
    fn a_ban_behind_a_catch_all_is_warned_of_in_each_spelling() {
        let routes = ["* /{*rest}", "* /admin"];
        let said = found("", &routes, &[ALL, BAN]);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("* /admin: a request for `/Admin` is one of `* /{*rest}`"));
        assert!(said[0].contains("`p1`") && said[0].contains("Express"), "{said:?}");
        assert!(said[0].ends_with("set `paths_fold = \"case\"`"), "{said:?}");
        assert!(said[1].contains("`/admin/`") && said[1].contains("`/admin{/*rest}`"), "{said:?}");
        assert!(said[2].contains("`/admin.json`"), "{said:?}");
        let folded = found(",\"paths_fold\":\"case\"", &routes, &[ALL, BAN]);
        assert_eq!(folded.len(), 2, "{folded:?}");
        let tree = ["* /{*rest}", "* /admin{/*rest}"];
        assert_eq!(found(",\"paths_fold\":\"case\"", &tree, &[ALL, BAN]), Vec::<String>::new());
        let forwarded = found(",\"unmatched\":\"forward\"", &["* /admin"], &[ALL, BAN]);
        assert!(forwarded[0].contains("forwarded as `route::\"/\"`"), "{forwarded:?}");
    }

    #[test]
    fn a_narrower_grant_is_warned_of_too() {
        let wide = "permit (principal, action, resource == route::\"/{*rest}\");";
        let narrow = "permit (principal == user::\"root\", action, resource == route::\"/admin\");";
        let said = found("", &["GET /{*rest}", "GET /admin"], &[wide, narrow]);
        assert!(said[0].contains("`p0` permits to more callers"), "{said:?}");
    }

    #[test]
    fn what_cannot_be_passed_is_not_warned_of() {
        for (routes, policies) in [
            // No catch-all: another spelling is 404.
            (&["* /admin", "* /orders/{id}"][..], &[ALL, BAN][..]),
            // The ban is on everything, or on nothing that has a route.
            (&["* /{*rest}", "* /admin"], &[ALL, "forbid (principal, action, resource);"]),
            (&["* /{*rest}", "* /orders"], &[ALL, BAN]),
        ] {
            assert_eq!(found("", routes, policies), Vec::<String>::new(), "{routes:?}");
        }
    }

    #[test]
    fn a_ban_by_the_path_is_warned_of() {
        let ban = "forbid (principal, action, resource) when { context.path like \"/admin*\" };";
        let said = found("", &["* /{*rest}"], &[ALL, ban]);
        assert!(
            said.len() == 1 && said[0].starts_with("p1: it forbids by `context.path`"),
            "{said:?}"
        );
        assert_eq!(found("", &["* /admin"], &[ALL, ban]), Vec::<String>::new());
    }

    #[test]
    fn there_is_an_end_to_it() {
        let routes: Vec<String> = (0..200).map(|n| format!("* /admin/r{n}")).collect();
        let mut routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        routes.push("* /{*rest}");
        assert_eq!(found("", &routes, &[ALL, BAN]).len(), MAX_FOUND);
    }
}
