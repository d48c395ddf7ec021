//! What a service says of itself, as far as its callers need it.

use keepgate_limit::rules::{Defaults, Limits, Rule};
use keepgate_policy::identify::Identify;
use keepgate_policy::route::{MAX_SUMMARY_BYTES, Route, one_line};

/// Operations that the page lists.
pub const MAX_OPERATIONS: usize = 200;
/// Limits and plans that it lists, each.
const MAX_LISTED: usize = 50;

/// An API as its callers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// The service's name.
    pub name: String,
    /// The first [`MAX_OPERATIONS`].
    pub operations: Vec<Operation>,
    /// How many more there are.
    pub left_out: usize,
    /// The limits without a plan.
    pub limits: Vec<Limit>,
    /// Plans, by name.
    pub plans: Vec<Plan>,
    /// The header in which API keys are shown; none: it takes none.
    pub key_header: Option<String>,
    /// Whether it takes bearer tokens.
    pub takes_tokens: bool,
    /// Whether it takes client certificates.
    pub takes_certificates: bool,
    /// The operator's own page about the API.
    pub help: Option<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The method; `*`: any.
    pub method: String,
    /// The path template, with the prefix under which callers reach it.
    pub path: String,
    /// The `operationId` of the OpenAPI document; empty: there is none.
    pub name: String,
    /// What it does, in one line; empty: nobody said it.
    pub summary: String,
    /// It needs no credentials.
    pub anonymous: bool,
}

/// A limit, in the words of its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The rule's name.
    pub name: String,
    /// By what callers are counted, such as `principal`.
    pub per: String,
    /// Such as `100/min`; empty: it limits no rate.
    pub rate: String,
    /// How many requests may come at once; none: as many as the rate says.
    pub burst: Option<u32>,
    /// How many may be under way at the same time.
    pub at_once: Option<u32>,
    /// Methods and route; empty: all.
    pub of: String,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// For whom it is; empty: nothing is said.
    pub description: String,
    /// Its limits.
    pub limits: Vec<Limit>,
}

impl Api {
    /// What a service is made of. `prefix` is what callers put before the path of a route; empty:
    /// nothing.
    pub fn of(
        name: &str,
        routes: &[Route],
        limits: &Limits,
        identify: &Identify,
        prefix: &str,
    ) -> Api {
        let operation = |route: &Route| Operation {
            method: route.method.clone(),
            path: format!("{prefix}{}", route.path),
            name: one_line(route.operation_id(), MAX_SUMMARY_BYTES),
            summary: route.summary(),
            anonymous: route.anonymous,
        };
        let mut shown: Vec<&Rule> = limits
            .rules
            .iter()
            .filter(|rule| rule.plan.as_deref().is_none_or(|p| p == "*"))
            .collect();
        let defaults = Limits::default_rules();
        if limits.defaults == Defaults::On {
            let stands = |rule: &&Rule| !limits.rules.iter().any(|own| own.name == rule.name);
            shown.extend(defaults.iter().filter(stands));
        }
        let plan = |(name, plan): (&String, &keepgate_limit::rules::Plan)| {
            let own = limits.rules.iter().filter(|rule| rule.plan.as_ref() == Some(name));
            Plan {
                name: name.clone(),
                description: plan.description.clone(),
                limits: listed(plan.rules.iter().chain(own)),
            }
        };
        Api {
            name: name.to_owned(),
            operations: routes.iter().take(MAX_OPERATIONS).map(operation).collect(),
            left_out: routes.len().saturating_sub(MAX_OPERATIONS),
            limits: listed(shown.into_iter()),
            plans: limits.plans.iter().take(MAX_LISTED).map(plan).collect(),
            key_header: identify.api_key.as_ref().map(|way| way.header.clone()),
            takes_tokens: !identify.jwt.is_empty() || !identify.introspection.is_empty(),
            takes_certificates: identify.client_certificate.is_some(),
            help: limits.help.clone(),
        }
    }
}

fn listed<'r>(rules: impl Iterator<Item = &'r Rule>) -> Vec<Limit> {
    rules.filter(|rule| !rule.shadow).take(MAX_LISTED).map(Limit::of).collect()
}

impl Limit {
    /// What a rule is about, such as `GET, POST /orders/*`; empty: all.
    pub fn subject(rule: &Rule) -> String {
        let mut of = rule.methods.join(", ");
        if let Some(route) = &rule.route {
            if !of.is_empty() {
                of.push(' ');
            }
            of.push_str(&route.to_string());
        }
        of
    }

    fn of(rule: &Rule) -> Limit {
        Limit {
            name: rule.name.clone(),
            per: rule.key.to_string(),
            rate: rule.rate.map(|rate| rate.to_string()).unwrap_or_default(),
            burst: rule.burst,
            at_once: rule.concurrency,
            of: Limit::subject(rule),
        }
    }
}
