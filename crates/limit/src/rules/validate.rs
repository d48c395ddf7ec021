//! Which rules are refused, and what the refusal says: the rule, the fault, the way out.
//!
//! A rule is never silently without effect: a key that cannot resolve, a route, plan or
//! principal type that does not exist, a cost that never fits are all errors here.

use std::collections::BTreeSet;

use super::{Key, Limits, Phase, RouteCost, RoutePattern, Rule};
use crate::gcra::{Quota, QuotaError};

/// The most rules that one caller may have to be matched against in one phase.
pub const MAX_RULES_A_CALLER: usize = 64;
/// The most plans of a service.
pub const MAX_PLANS: usize = 256;
/// The most memory one rule may ask for its keys.
pub const MAX_MEMORY_MIB: u32 = 4096;

/// What the service offers for a rule to refer to. What is not known is not checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceFacts<'a> {
    /// The route templates, if the service has a closed list of them.
    pub routes: Option<&'a [&'a str]>,
    /// The types a principal may have, if known.
    pub principal_types: Option<&'a [&'a str]>,
    /// Some source of principals is configured (JWT, API key, certificate, header);
    /// `None`: not known.
    pub identifies: Option<bool>,
    /// API keys are accepted; `None`: not known.
    pub api_keys: Option<bool>,
    /// The headers in which callers show who they are (in lower case): taken away once read, or
    /// from whoever is not believed.
    pub identity_headers: &'a [&'a str],
    /// What requests cost on single routes where a rule does not say; at most a rule's burst is
    /// taken.
    pub costs: &'a [RouteCost],
}

/// A rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule `{rule}` is refused")]
pub struct RuleError {
    /// The rule's name (or a plan's).
    pub rule: String,
    /// What is wrong and the way out.
    #[source]
    pub fault: RuleFault,
}

/// What is wrong with a rule, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    /// The name cannot be told in a header.
    #[error("expected a name of 1 to 64 letters, digits, `-`, `_` or `.`; rename it")]
    Name,
    /// Two rules have this name.
    #[error("another rule has this name, and callers tell limits apart by name; rename one")]
    Twice,
    /// Neither rate nor concurrency.
    #[error("it limits nothing; give it a `rate` or a `concurrency`, or remove it")]
    LimitsNothing,
    /// A concurrency of 0.
    #[error("a concurrency of 0 admits nothing; give at least 1, or refuse the route in a policy")]
    ZeroConcurrency,
    /// A burst without a rate.
    #[error("a `burst` or a `cost` needs a `rate`; give one or remove them")]
    NeedsRate,
    /// The rate and burst are no quota.
    #[error("its rate and burst do not fit together")]
    Quota(#[source] QuotaError),
    /// A cost of 0 would lift the limit.
    #[error("a cost of 0 on `{on}` would disable the limit; give at least 1")]
    ZeroCost {
        /// The route, or `every route`.
        on: String,
    },
    /// A cost above the burst is never admitted.
    #[error(
        "a cost of {cost} on `{on}` never fits a burst of {burst}; raise `burst` or lower the cost"
    )]
    CostAboveBurst {
        /// The route, or `every route`.
        on: String,
        /// The cost.
        cost: u32,
        /// The burst.
        burst: u32,
    },
    /// No method.
    #[error("expected a method in upper case such as `GET`, got `{method}`")]
    Method {
        /// The text.
        method: String,
    },
    /// No prefix length.
    #[error("expected an `ipv6_prefix` from 1 to 128, got {prefix}; 64 is one household or site")]
    Prefix {
        /// The prefix asked for.
        prefix: u8,
    },
    /// Memory out of bounds.
    #[error("expected a `memory_mib` from 1 to 4096, got {mib}")]
    Memory {
        /// The memory asked for.
        mib: u32,
    },
    /// The service does not know who calls.
    #[error(
        "its key `{key}` cannot resolve: the service identifies nobody; \
         configure a source of principals, or key the rule by `address`"
    )]
    NobodyIdentified {
        /// The rule's key or condition.
        key: String,
    },
    /// The service takes no API keys.
    #[error(
        "its key `api_key` cannot resolve: the service accepts no API keys; \
         accept them, or key the rule by `principal` or `address`"
    )]
    NoApiKeys,
    /// The header never arrives.
    #[error(
        "its key `header:{header}` cannot resolve: that header is removed before limits apply; \
         key the rule by `principal`, or choose another header"
    )]
    HeaderNeverArrives {
        /// The header.
        header: String,
    },
    /// The header says who calls and is gone when limits apply, or is believed of some only.
    #[error(
        "its key `header:{header}` cannot resolve: the service identifies callers by that header, \
         and it is removed before limits apply; key the rule by `principal` or `api_key`, \
         or choose another header"
    )]
    HeaderIdentifies {
        /// The header.
        header: String,
    },
    /// No such route.
    #[error("no route of the service is `{route}`; correct it, or add the route")]
    UnknownRoute {
        /// The route pattern.
        route: String,
    },
    /// No such type.
    #[error("no principal has the type `{principal_type}`; correct it, or add it to the schema")]
    UnknownPrincipalType {
        /// The type.
        principal_type: String,
    },
    /// No such plan.
    #[error("there is no plan `{plan}`; add `[plan.{plan}]`, or correct the name")]
    UnknownPlan {
        /// The plan.
        plan: String,
    },
    /// A rule in a plan names another plan.
    #[error("it is in the plan `{plan}` and names the plan `{named}`; remove `plan`")]
    PlanInPlan {
        /// Where it stands.
        plan: String,
        /// What it names.
        named: String,
    },
    /// The plan's rules are all about part of the requests or lack a rate.
    #[error("the plan has no rule; give it one with a `rate`, or remove the plan")]
    EmptyPlan,
    /// Too many rules for one caller.
    #[error("more than 64 rules may apply to one caller; merge rules, e.g. with `costs`")]
    TooManyRules,
    /// Too many plans.
    #[error("there are more than 256 plans; merge some")]
    TooManyPlans,
    /// The help link is no URL of the web.
    #[error("expected an absolute http or https URL without spaces in `help`, got `{help}`")]
    Help {
        /// The text.
        help: String,
    },
}

impl Limits {
    /// Refuses what would be without effect or not what it seems.
    pub fn validate(&self, facts: &ServiceFacts<'_>) -> Result<(), RuleError> {
        if let Some(help) = &self.help
            && !is_link(help)
        {
            return Err(refused("help", RuleFault::Help { help: help.clone() }));
        }
        if self.plans.len() > MAX_PLANS {
            return Err(refused("plan", RuleFault::TooManyPlans));
        }
        let mut names = BTreeSet::new();
        for (plan, rule) in self.all_rules() {
            let fault = |fault| refused(&rule.name, fault);
            check_rule(rule, facts).map_err(fault)?;
            self.check_plan(plan, rule).map_err(fault)?;
            if !names.insert(rule.name.as_str()) {
                return Err(fault(RuleFault::Twice));
            }
        }
        for (name, plan) in &self.plans {
            if !is_name(name) {
                return Err(refused(name, RuleFault::Name));
            }
            if plan.rules.is_empty() && !self.rules.iter().any(|r| r.plan.as_ref() == Some(name)) {
                return Err(refused(name, RuleFault::EmptyPlan));
            }
        }
        for phase in [Phase::Address, Phase::Principal] {
            let shared = |rule: &&Rule| rule.phase() == phase;
            // Two default rules and the largest plan on top of the shared rules.
            let largest = self.plans.values().map(|plan| plan.rules.len()).max().unwrap_or(0);
            let count = self.rules.iter().filter(shared).count() + largest + 2;
            if count > MAX_RULES_A_CALLER
                && let Some(rule) = self
                    .rules
                    .last()
                    .or_else(|| self.plans.values().filter_map(|plan| plan.rules.last()).next())
            {
                return Err(refused(&rule.name, RuleFault::TooManyRules));
            }
        }
        Ok(())
    }

    /// The rules that are in force, each with the plan it stands in.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = (Option<&str>, &Rule)> {
        let own = self.rules.iter().map(|rule| (None, rule));
        let plans = self.plans.iter().flat_map(|(name, plan)| {
            plan.rules.iter().map(move |rule| (Some(name.as_str()), rule))
        });
        own.chain(plans)
    }

    fn check_plan(&self, stands_in: Option<&str>, rule: &Rule) -> Result<(), RuleFault> {
        match (stands_in, rule.plan.as_deref()) {
            (Some(plan), Some(named)) if plan != named => {
                Err(RuleFault::PlanInPlan { plan: plan.to_owned(), named: named.to_owned() })
            }
            (None, Some(plan)) if plan != "*" && !self.plans.contains_key(plan) => {
                Err(RuleFault::UnknownPlan { plan: plan.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

impl Rule {
    /// Its rate and burst as a quota; `None` without a rate.
    pub fn quota(&self) -> Result<Option<Quota>, QuotaError> {
        let Some(rate) = self.rate else {
            return Ok(None);
        };
        let burst = self.burst.unwrap_or(u32::try_from(rate.count()).unwrap_or(u32::MAX));
        Quota::new(rate.count(), rate.period(), burst).map(Some)
    }
}

pub(crate) fn refused(rule: &str, fault: RuleFault) -> RuleError {
    RuleError { rule: rule.to_owned(), fault }
}

fn check_rule(rule: &Rule, facts: &ServiceFacts<'_>) -> Result<(), RuleFault> {
    if !is_name(&rule.name) {
        return Err(RuleFault::Name);
    }
    if rule.rate.is_none() && rule.concurrency.is_none() {
        return Err(RuleFault::LimitsNothing);
    }
    if rule.concurrency == Some(0) {
        return Err(RuleFault::ZeroConcurrency);
    }
    if !(1..=128).contains(&rule.ipv6_prefix) {
        return Err(RuleFault::Prefix { prefix: rule.ipv6_prefix });
    }
    if let Some(mib) = rule.memory_mib
        && !(1..=MAX_MEMORY_MIB).contains(&mib)
    {
        return Err(RuleFault::Memory { mib });
    }
    let cost_methods = rule.costs.iter().flat_map(|cost| &cost.methods);
    if let Some(method) = rule.methods.iter().chain(cost_methods).find(|m| !is_method(m)) {
        return Err(RuleFault::Method { method: method.clone() });
    }
    check_costs(rule)?;
    check_key(rule, facts)?;
    check_names(rule, facts)
}

fn check_costs(rule: &Rule) -> Result<(), RuleFault> {
    let Some(quota) = rule.quota().map_err(RuleFault::Quota)? else {
        let bare = rule.burst.is_none() && rule.cost == 1 && rule.costs.is_empty();
        return if bare { Ok(()) } else { Err(RuleFault::NeedsRate) };
    };
    let single = rule.costs.iter().map(|cost| (cost.route.to_string(), cost.cost));
    for (on, cost) in single.chain([("every route".to_owned(), rule.cost)]) {
        if cost == 0 {
            return Err(RuleFault::ZeroCost { on });
        }
        if cost > quota.burst() {
            return Err(RuleFault::CostAboveBurst { on, cost, burst: quota.burst() });
        }
    }
    Ok(())
}

/// Headers that are read and removed by the hop itself, or that only the gate may set.
fn never_arrives(header: &str) -> bool {
    const HOP_BY_HOP: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    header.starts_with("keepgate-") || HOP_BY_HOP.contains(&header)
}

fn check_key(rule: &Rule, facts: &ServiceFacts<'_>) -> Result<(), RuleFault> {
    match &rule.key {
        Key::Header(header) if never_arrives(header) => {
            return Err(RuleFault::HeaderNeverArrives { header: header.clone() });
        }
        Key::Header(header) if facts.identity_headers.contains(&header.as_str()) => {
            return Err(RuleFault::HeaderIdentifies { header: header.clone() });
        }
        Key::ApiKey if facts.api_keys == Some(false) => return Err(RuleFault::NoApiKeys),
        Key::Principal if facts.identifies == Some(false) => {
            return Err(RuleFault::NobodyIdentified { key: rule.key.to_string() });
        }
        _ => {}
    }
    if rule.principal_type.is_some() && facts.identifies == Some(false) {
        return Err(RuleFault::NobodyIdentified { key: "principal_type".to_owned() });
    }
    Ok(())
}

fn check_names(rule: &Rule, facts: &ServiceFacts<'_>) -> Result<(), RuleFault> {
    if let Some(routes) = facts.routes {
        let named = rule.route.iter().chain(rule.costs.iter().map(|cost| &cost.route));
        let unknown = |pattern: &&RoutePattern| !routes.iter().any(|route| pattern.matches(route));
        if let Some(route) = named.into_iter().find(unknown) {
            return Err(RuleFault::UnknownRoute { route: route.to_string() });
        }
    }
    if let (Some(types), Some(wanted)) = (facts.principal_types, &rule.principal_type)
        && !types.contains(&wanted.as_str())
    {
        return Err(RuleFault::UnknownPrincipalType { principal_type: wanted.clone() });
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(legal)
}

fn is_method(method: &str) -> bool {
    let legal = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b"-_".contains(&b);
    (1..=32).contains(&method.len()) && method.bytes().all(legal)
}

fn is_link(help: &str) -> bool {
    let after = help.strip_prefix("https://").or_else(|| help.strip_prefix("http://"));
    let printable = |b: u8| (0x21..=0x7e).contains(&b) && !b"<>\"\\^`{|}".contains(&b);
    after.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && help.len() <= 2048
        && help.bytes().all(printable)
}
