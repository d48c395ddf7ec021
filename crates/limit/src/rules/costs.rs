//! What requests cost on single routes, where rules do not say: the `cost` of a route.
//!
//! A gate takes at most a rule's burst, so that what was written before never locks a route.
//! Whoever writes a cost that never fits is told, by [`Limits::check_costs`].

use super::{Defaults, Limits, RouteCost, RoutePattern, Rule};

/// A route's cost is above the burst of a rule that applies to it: no request would ever fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cost of {} on `{}` never fits the burst of {burst} of the rule `{rule}`; lower the cost, or {}",
    cost.cost, shown(cost), way_out(rule, *is_default)
)]
pub struct CostError {
    /// The rule's name.
    pub rule: String,
    /// Its burst.
    pub burst: u32,
    /// Nobody wrote it.
    pub is_default: bool,
    /// The cost, and where.
    pub cost: RouteCost,
}

fn shown(cost: &RouteCost) -> String {
    if cost.methods.is_empty() {
        cost.route.to_string()
    } else {
        format!("{} {}", cost.methods.join(","), cost.route)
    }
}

fn way_out(rule: &str, is_default: bool) -> String {
    if is_default {
        format!("write a rule `{rule}` with a larger `burst`, which replaces the default one")
    } else {
        "raise its `burst`, or give it `costs` of its own for this route".to_owned()
    }
}

impl Limits {
    /// Refuses a route's cost above the burst of an enforced rule that may apply to the route.
    pub fn check_costs(&self, costs: &[RouteCost]) -> Result<(), CostError> {
        let defaults = match self.defaults {
            Defaults::On => Limits::default_rules(),
            Defaults::Off => Vec::new(),
        };
        for cost in costs {
            let own = self.all_rules().map(|(_, rule)| (rule, false));
            let default = defaults.iter().filter(|rule| self.reaches(rule, cost));
            for (rule, is_default) in own.chain(default.map(|rule| (rule, true))) {
                let Ok(Some(quota)) = rule.quota() else { continue };
                if !rule.shadow && takes(rule, cost) && cost.cost > quota.burst() {
                    let (rule, burst) = (rule.name.clone(), quota.burst());
                    return Err(CostError { rule, burst, is_default, cost: cost.clone() });
                }
            }
        }
        Ok(())
    }

    /// Whether a default rule may apply to a request of this cost: no rule of its name, and
    /// none of the service that settles the rate of every caller there.
    fn reaches(&self, default: &Rule, cost: &RouteCost) -> bool {
        let replaced = self.all_rules().any(|(_, rule)| rule.name == default.name);
        let settled = self.rules.iter().any(|rule| {
            rule.plan.is_none()
                && rule.phase() == default.phase()
                && rule.settles()
                && rule.principal_type.is_none()
                && on_route(rule.route.as_ref(), cost)
                && covers(&rule.methods, &cost.methods)
        });
        !replaced && !settled
    }
}

/// Whether some request of this cost is charged with it by the rule.
fn takes(rule: &Rule, cost: &RouteCost) -> bool {
    let meets = rule.methods.is_empty()
        || cost.methods.is_empty()
        || rule.methods.iter().any(|method| cost.methods.contains(method));
    let asked = if cost.methods.is_empty() { &rule.methods } else { &cost.methods };
    let says_itself = rule
        .costs
        .iter()
        .any(|own| on_route(Some(&own.route), cost) && covers(&own.methods, asked));
    on_route(rule.route.as_ref(), cost) && meets && !says_itself
}

/// Whether a pattern takes in all routes of the cost.
fn on_route(pattern: Option<&RoutePattern>, cost: &RouteCost) -> bool {
    let Some(pattern) = pattern else { return true };
    match &cost.route {
        RoutePattern::Exact(route) => pattern.matches(route),
        RoutePattern::Below(route) => {
            matches!(pattern, RoutePattern::Below(_)) && pattern.matches(route)
        }
    }
}

/// Whether all of `methods` are among `these`; empty means every method.
fn covers(these: &[String], methods: &[String]) -> bool {
    these.is_empty() || (!methods.is_empty() && methods.iter().all(|method| these.contains(method)))
}
