//! What the policies of a service read of a request, by the names in their conditions.
//!
//! It is a superset: what no policy names is not in it, and what one names is, whether or not a decision
//! came to the place. Where a condition uses a record as a whole, all of its members count.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::World;
use super::conditions::Accessed;
use super::part::Body;
use super::prepared::Prepared;

/// Named of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// Whatever there is.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Default for Named {
    fn default() -> Named {
        Named::Only(BTreeSet::new())
    }
}

impl Named {
    /// Whether this one is among them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Named::All => true,
            Named::Only(names) => names.contains(name),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Members of the context.
    pub context: Named,
    /// Members of `context.claims`.
    pub claims: Named,
    /// Attributes, of whatever entity: those of the principal among them.
    pub attributes: Named,
}

impl World {
    /// What the policies and templates of a service read; nothing where there is no such service. It
    /// walks through all policies of the service: keep it as long as they are the same
    /// ([`World::decides_as`]).
    pub fn reads(&self, service: &str) -> Reads {
        let mut accessed = Accessed::default();
        if let Ok(part) = self.part_of(service) {
            part.policies.for_each(&mut |stored| {
                let condition = match &stored.body {
                    Body::Policy { policy, .. } => policy.condition.as_ref(),
                    Body::Template { parsed, .. } => parsed.condition.as_ref(),
                    _ => None,
                };
                if let Some(condition) = condition {
                    condition.accesses(&mut accessed);
                }
            });
        }
        let only = |names: BTreeSet<smol_str::SmolStr>, all: bool| match all {
            true => Named::All,
            false => Named::Only(names.into_iter().map(String::from).collect()),
        };
        Reads {
            context: only(accessed.context, accessed.whole_context),
            claims: only(accessed.claims, accessed.whole_claims || accessed.whole_context),
            attributes: only(accessed.attributes, false),
        }
    }
}

impl Prepared {
    /// What is read of its claims and properties, as JSON; decimals are numbers again.
    pub fn read_by(&self, reads: &Reads) -> (Map<String, Value>, Map<String, Value>) {
        let claims =
            self.claims.as_ref().map(|claims| claims.members(|name| reads.claims.has(name)));
        let properties = self.properties.json(|name| reads.attributes.has(name));
        (claims.unwrap_or_default(), properties)
    }
}
