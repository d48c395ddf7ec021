//! Whether the limits of a service hold: rules and plans by the rules of the `limit` crate, the
//! costs of routes by the rules that apply to them, and keys by their plans.

use std::collections::{BTreeMap, BTreeSet};

use keepgate_limit::rules::{CostError, Limits, NamedPlan, Rule, ServiceFacts};
use keepgate_policy::limits::limits_of;
use keepgate_policy::model::KeyBody;
use keepgate_policy::route::Route;
use keepgate_policy::service::{ServiceSettings, Unmatched};
use keepgate_policy::{Item, ItemBody, ItemKey, Kind};

use super::check::EditProblem;

/// Keys and plans that a message names.
const NAMED: usize = 10;

/// Routes times what rules say about routes: each is held against each.
const ROUTES_BY_RULES: usize = 4_000_000;

/// What is wrong with them in the state that is about to land; `items` has all rules and plans of
/// the service, and its routes and keys where the change may concern them; `removed` are the plans
/// that go.
pub(super) fn check(service: &str, items: &[Item], removed: &BTreeSet<&str>) -> Vec<EditProblem> {
    let (mut rules, mut plans): (Vec<&Rule>, Vec<&NamedPlan>) = Default::default();
    let mut named: BTreeMap<String, ItemKey> = BTreeMap::new();
    let mut settings: Option<&ServiceSettings> = None;
    let mut routes: Vec<(&ItemKey, &Route)> = Vec::new();
    let mut keys = Vec::new();
    for item in items.iter().filter(|item| item.key.service == service) {
        match &item.body {
            ItemBody::Service(found) => settings = Some(found),
            ItemBody::Route(route) => routes.push((&item.key, route)),
            ItemBody::Key(key) if !key.plan.is_empty() => keys.push((&item.key, key)),
            ItemBody::Limit(rule) => {
                named.insert(rule.name.clone(), item.key.clone());
                rules.push(rule);
            }
            ItemBody::Plan(plan) => {
                named.insert(plan.name.clone(), item.key.clone());
                let rules = plan.rules.iter().map(|rule| rule.name.clone());
                named.extend(rules.map(|name| (name, item.key.clone())));
                plans.push(plan);
            }
            _ => {}
        }
    }
    let limits = limits_of(settings, rules, plans);
    let mut problems = keys_without_plan(service, &keys, &limits, removed);
    if !problems.is_empty() {
        return problems;
    }
    if let Some(problem) = too_many_pairs(service, &limits, &routes) {
        return vec![problem];
    }
    if let Err(e) = limits.validate(&facts(settings, &routes, &mut Vec::new(), &mut Vec::new())) {
        let key = named.get(&e.rule).cloned().unwrap_or_else(|| ItemKey::service(service));
        problems.push(EditProblem::of(&key, keepgate_observe::chain(&e)));
    } else if let Err((key, e)) = costs(&limits, &routes) {
        problems.push(EditProblem::of(key, e.to_string()));
    }
    problems
}

/// Routes and rules are held against each other, so their product is bounded.
fn too_many_pairs(
    service: &str,
    limits: &Limits,
    routes: &[(&ItemKey, &Route)],
) -> Option<EditProblem> {
    let in_plans = limits.plans.values().flat_map(|plan| &plan.rules);
    let said: usize = limits.rules.iter().chain(in_plans).map(|rule| 1 + rule.costs.len()).sum();
    (said.saturating_mul(routes.len()) > ROUTES_BY_RULES).then(|| {
        let message = format!(
            "{} routes times {said} rules and costs are more than {ROUTES_BY_RULES}; merge rules, \
             or set costs in the routes",
            routes.len()
        );
        EditProblem::of(&ItemKey::service(service), message)
    })
}

/// Keys whose plan is not there, or goes.
fn keys_without_plan(
    service: &str,
    keys: &[(&ItemKey, &KeyBody)],
    limits: &Limits,
    removed: &BTreeSet<&str>,
) -> Vec<EditProblem> {
    let mut problems = Vec::new();
    let mut held: BTreeMap<&str, Vec<&KeyBody>> = BTreeMap::new();
    for (at, key) in keys.iter().filter(|(_, key)| !limits.plans.contains_key(&key.plan)) {
        if removed.contains(key.plan.as_str()) {
            held.entry(&key.plan).or_default().push(key);
        } else {
            problems.push(EditProblem::of(at, no_plan(service, &key.plan, limits)));
        }
    }
    for (plan, keys) in held {
        let mut named: Vec<String> = keys
            .iter()
            .take(NAMED)
            .map(|key| format!("{} of {}", key.prefix, key.principal))
            .collect();
        if keys.len() > NAMED {
            named.push(format!("{} more", keys.len() - NAMED));
        }
        let message = format!(
            "it is the plan of keys: {}; revoke them or make them anew in another plan, or keep it",
            named.join(", ")
        );
        problems.push(EditProblem::of(&ItemKey::new(service, Kind::Plan, plan), message));
    }
    problems
}

fn no_plan(service: &str, plan: &str, limits: &Limits) -> String {
    let known: Vec<&str> = limits.plans.keys().map(String::as_str).take(NAMED).collect();
    let known = match known.as_slice() {
        [] => "it has none; `keepgate plan set` makes one".to_owned(),
        [one] => format!("its plan is `{one}`"),
        known if known.len() < limits.plans.len() => {
            let more = limits.plans.len() - known.len();
            format!("its plans are `{}` and {more} more", known.join("`, `"))
        }
        known => format!("its plans are `{}`", known.join("`, `")),
    };
    format!("there is no plan `{plan}` in service `{service}`; {known}")
}

/// What a service offers for its rules to refer to.
fn facts<'a>(
    settings: Option<&'a ServiceSettings>,
    routes: &[(&'a ItemKey, &'a Route)],
    templates: &'a mut Vec<&'a str>,
    headers: &'a mut Vec<&'a str>,
) -> ServiceFacts<'a> {
    let Some(settings) = settings else { return ServiceFacts::default() };
    // Whether a rule's route is one of the service is said only where all routes are at hand.
    let closed = settings.unmatched == Unmatched::Refuse && !routes.is_empty();
    templates.extend(routes.iter().map(|(_, route)| route.path.as_str()));
    let ways = &settings.identify;
    headers.extend(ways.api_key.iter().map(|way| way.header.as_str()));
    headers.extend(ways.trusted_header.iter().map(|way| way.header.as_str()));
    // What a caller sends in them is nobody's: the gate removes it.
    headers
        .extend(ways.jwt.iter().flat_map(|jwt| jwt.uses.claim_headers.keys()).map(String::as_str));
    let identifies = !ways.jwt.is_empty()
        || !ways.introspection.is_empty()
        || ways.api_key.is_some()
        || ways.client_certificate.is_some()
        || ways.trusted_header.is_some();
    ServiceFacts {
        routes: closed.then_some(templates.as_slice()),
        identifies: Some(identifies),
        api_keys: Some(ways.api_key.is_some()),
        identity_headers: headers,
        ..ServiceFacts::default()
    }
}

/// Whether what routes cost fits the rules that apply to them; else the route and why.
fn costs<'a>(
    limits: &Limits,
    routes: &[(&'a ItemKey, &'a Route)],
) -> Result<(), (&'a ItemKey, CostError)> {
    for (key, route) in routes {
        let Some(cost) = route.cost() else { continue };
        limits.check_costs(&[cost]).map_err(|e| (*key, e))?;
    }
    Ok(())
}
