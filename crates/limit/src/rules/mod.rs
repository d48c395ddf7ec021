//! What an operator writes about limits: `limits.toml`, or the same as JSON.
//!
//! ```toml
//! headers = "draft-11"                # or "x-ratelimit", "off"
//! help = "https://example.org/api"    # told to a caller who was refused
//! defaults = "on"                     # "off" drops the default rules, explicitly
//!
//! [[rule]]
//! name = "orders"
//! key = "principal"                   # address, principal, api_key, header:NAME
//! route = "/orders/*"                 # a route template, or everything below one
//! methods = ["GET"]
//! rate = "100/min"
//! burst = 50
//! concurrency = 10
//! costs = [{ route = "/orders/export", cost = 20 }]
//!
//! [plan.bulk]
//! description = "for crawlers that asked"
//! [[plan.bulk.rule]]
//! name = "bulk"
//! key = "api_key"
//! rate = "1000/min"
//! ```
//!
//! Which rules apply to a request? Those whose `route`, `methods`, `principal_type` and
//! `plan` match, in layers, the most specific first: rules for every plan (`plan = "*"`),
//! rules of the caller's plan, rules of the service, default rules. A layer in which a
//! rule *settles* the rate ends the descent, and all rules found so far apply. A rule
//! settles if it has a rate, is not in shadow mode, and is not keyed by a header (which the
//! caller chooses). So a rule for one route does not lift the limit of the others, and a
//! plan with nothing to say about a method leaves the service's rule in force.
//!
//! The model knows no request, no state and no service; what a service offers is passed to
//! [`Limits::validate`] as [`ServiceFacts`].

mod costs;
mod rate;
mod validate;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use costs::CostError;
pub use rate::{Rate, RateError};
pub use validate::{
    MAX_MEMORY_MIB, MAX_PLANS, MAX_RULES_A_CALLER, RuleError, RuleFault, ServiceFacts,
};

/// Everything an operator says about the limits of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How answers tell the caller about its limits.
    pub headers: Dialect,
    /// Where a refused caller reads about the API and how to get a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Whether the default rules are in force below the others.
    pub defaults: Defaults,
    /// The rules of the service.
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Plans by name.
    #[serde(rename = "plan", skip_serializing_if = "BTreeMap::is_empty")]
    pub plans: BTreeMap<String, Plan>,
}

/// The fields in which limits are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LimitHeaders")]
pub enum Dialect {
    /// `RateLimit` and `RateLimit-Policy`, draft-ietf-httpapi-ratelimit-headers-11.
    #[default]
    #[serde(rename = "draft-11")]
    Draft11,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds from now).
    #[serde(rename = "x-ratelimit")]
    XRateLimit,
    /// None; `Retry-After` stays.
    #[serde(rename = "off")]
    Off,
}

/// Whether the default rules are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "DefaultLimits")]
pub enum Defaults {
    /// They are.
    #[default]
    On,
    /// They are not, because somebody said so.
    Off,
}

/// A named set of limits an API key belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PlanLimits")]
pub struct Plan {
    /// For people: whom it is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its rules. Their `plan` is this one and is not written.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
}

/// A plan as it is stored, with its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Plan")]
pub struct NamedPlan {
    /// Its name.
    pub name: String,
    /// For people: whom it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its rules. Their `plan` is this one and is not written.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
}

impl NamedPlan {
    /// The plan and its name apart.
    pub fn split(self) -> (String, Plan) {
        let NamedPlan { name, description, rules } = self;
        (name, Plan { description, rules })
    }
}

/// One limit: on whom, on what, how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name, told to callers as the policy's name; one of a kind in the service.
    pub name: String,
    /// Whose requests are counted together.
    pub key: Key,
    /// Only requests on these routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RoutePattern>,
    /// Only requests with these methods; empty means every method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Only principals of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_type: Option<String>,
    /// Only callers of this plan; `*` means of any plan or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// How many tokens each period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The size of the bucket; if not given, the rate's count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// How many requests under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Tokens a request costs.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub cost: u32,
    /// Costs of single routes; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<RouteCost>,
    /// Leading bits of an IPv6 address that make one caller.
    #[serde(default = "sixty_four", skip_serializing_if = "is_sixty_four")]
    pub ipv6_prefix: u8,
    /// Count, but do not refuse.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// The most memory its keys take, in MiB; if not given, 16, or 4 where callers
    /// are known (`principal`, `api_key`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
}

/// What a request on certain routes costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteCost {
    /// The routes.
    pub route: RoutePattern,
    /// The methods; empty means every method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Tokens.
    pub cost: u32,
}

/// When a rule is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before any cryptography: the caller is an address.
    Address,
    /// After the caller is known.
    Principal,
}

/// Whose requests a rule counts together. A request that lacks the key is counted by
/// its address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The client's address.
    Address,
    /// The principal.
    Principal,
    /// The API key.
    ApiKey,
    /// The value of a request header (its name in lower case).
    Header(String),
}

/// A route template, or everything below one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RoutePattern {
    /// This template.
    Exact(String),
    /// `/orders/*`: the template `/orders` and all below it. `/*` is every known route.
    Below(String),
}

impl Rule {
    /// A rule on every request with a rate and nothing else.
    pub fn new(name: &str, key: Key, rate: Rate) -> Rule {
        Rule {
            name: name.to_owned(),
            key,
            route: None,
            methods: Vec::new(),
            principal_type: None,
            plan: None,
            rate: Some(rate),
            burst: None,
            concurrency: None,
            cost: 1,
            costs: Vec::new(),
            ipv6_prefix: 64,
            shadow: false,
            memory_mib: None,
        }
    }

    /// When it is applied: by its key, and by what it needs to know of the caller.
    pub fn phase(&self) -> Phase {
        match self.key {
            Key::Address if self.principal_type.is_none() && self.plan.is_none() => Phase::Address,
            _ => Phase::Principal,
        }
    }

    /// Whether it ends the descent through the layers (see the module).
    pub fn settles(&self) -> bool {
        self.rate.is_some() && !self.shadow && !matches!(self.key, Key::Header(_))
    }

    /// What one request costs.
    pub fn cost_of(&self, method: &str, route: Option<&str>) -> u32 {
        let found = self.costs.iter().find(|cost| {
            route.is_some_and(|route| cost.route.matches(route))
                && (cost.methods.is_empty() || cost.methods.iter().any(|m| m == method))
        });
        found.map_or(self.cost, |cost| cost.cost)
    }

    /// The same with the costs of these routes after its own; none above its burst, which would
    /// never fit ([`Limits::check_costs`] tells whoever writes one).
    #[must_use]
    pub fn costing(&self, routes: &[RouteCost]) -> Rule {
        let mut rule = self.clone();
        if let Ok(Some(quota)) = self.quota() {
            let most = |cost: &RouteCost| RouteCost {
                cost: cost.cost.clamp(1, quota.burst().max(1)),
                ..cost.clone()
            };
            rule.costs.extend(routes.iter().map(most));
        }
        rule
    }

    /// The most bytes its keys may take.
    pub fn memory_bytes(&self) -> usize {
        let mib = self.memory_mib.unwrap_or(match self.key {
            Key::Address | Key::Header(_) => 16,
            Key::Principal | Key::ApiKey => 4,
        });
        mib as usize * 1024 * 1024
    }
}

impl Limits {
    /// The rules in force for a service that said nothing: every method, GET included.
    ///
    /// An address may hold several people, so it gets more than a principal.
    pub fn default_rules() -> Vec<Rule> {
        const ADDRESS: NonZeroU32 = NonZeroU32::new(100).unwrap();
        const PRINCIPAL: NonZeroU32 = NonZeroU32::new(20).unwrap();
        let mut address = Rule::new("default-address", Key::Address, Rate::each_second(ADDRESS));
        address.burst = Some(200);
        let mut principal =
            Rule::new("default-principal", Key::Principal, Rate::each_second(PRINCIPAL));
        principal.burst = Some(100);
        principal.concurrency = Some(64);
        vec![address, principal]
    }

    /// The plan with the lowest rate that still is at least `per_second` requests a second,
    /// on one route if a rule names it; `None` if no plan is large enough.
    pub fn plan_that_fits(&self, per_second: f64) -> Option<&str> {
        let fitting = self.plans.iter().filter_map(|(name, plan)| {
            let rates = plan.rules.iter().filter(|rule| rule.settles());
            let least = rates
                .filter_map(|rule| Some(rule.rate?.per_second() / f64::from(rule.cost.max(1))))
                .min_by(f64::total_cmp)?;
            (least >= per_second).then_some((least, name.as_str()))
        });
        fitting.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
    }
}

impl RoutePattern {
    /// Whether the template of a request's route is meant.
    #[inline]
    pub fn matches(&self, route: &str) -> bool {
        // `/orders{/*rest}` is the route `/orders` and all below it.
        let route = match route.rsplit_once("{/*") {
            Some((route, name)) if name.ends_with('}') => route,
            _ => route,
        };
        match self {
            RoutePattern::Exact(template) => template == route,
            RoutePattern::Below(template) => match route.strip_prefix(template.as_str()) {
                Some(rest) => rest.is_empty() || rest.starts_with('/'),
                None => false,
            },
        }
    }
}

impl fmt::Display for RoutePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoutePattern::Exact(template) => f.write_str(template),
            RoutePattern::Below(template) => write!(f, "{template}/*"),
        }
    }
}

/// A text is not a route pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a route that starts with `/`, with `*` only at the end as in `/orders/*`, got `{text}`"
)]
pub struct RoutePatternError {
    text: String,
}

impl FromStr for RoutePattern {
    type Err = RoutePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (template, below) = match text.strip_suffix("/*") {
            Some(template) => (template, true),
            None => (text, false),
        };
        let rooted = template.starts_with('/') || (below && template.is_empty());
        if !rooted || template.contains('*') {
            return Err(RoutePatternError { text: text.to_owned() });
        }
        let template = template.to_owned();
        Ok(if below { RoutePattern::Below(template) } else { RoutePattern::Exact(template) })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Address => f.write_str("address"),
            Key::Principal => f.write_str("principal"),
            Key::ApiKey => f.write_str("api_key"),
            Key::Header(name) => write!(f, "header:{name}"),
        }
    }
}

/// A text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of `address`, `principal`, `api_key`, `header:NAME`, got `{text}`")]
pub struct KeyError {
    text: String,
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "address" => Ok(Key::Address),
            "principal" => Ok(Key::Principal),
            "api_key" => Ok(Key::ApiKey),
            _ => match text.strip_prefix("header:") {
                Some(name) if !name.is_empty() && name.bytes().all(is_token) => {
                    Ok(Key::Header(name.to_ascii_lowercase()))
                }
                _ => Err(KeyError { text: text.to_owned() }),
            },
        }
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Types written as one string.
macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                concat!("Limit", stringify!($name)).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string" })
            }
        }
    )*};
}
serde_as_text!(Key, RoutePattern, Rate);

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(cost: &u32) -> bool {
    *cost == 1
}

fn sixty_four() -> u8 {
    64
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_sixty_four(prefix: &u8) -> bool {
    *prefix == 64
}
