//! What it takes to check policies against a schema, counted before it is done.
//!
//! Cedar checks each policy once for each combination of an action with a principal type and a
//! resource type (and, of a template, with each type that a slot may have). So a page of policies
//! and a page of schema can keep it busy for hours. The steps of one change are summed up, over
//! all portions in which it is checked, and bounded.

use std::collections::{HashMap, HashSet};

use cedar_policy_core::ast::{
    ActionConstraint, EntityType, EntityUID, PrincipalOrResourceConstraint, SlotId, Template,
};
use cedar_policy_core::validator::{ValidatorActionId, ValidatorSchema};

/// The most steps of one change: tokens of its policies times the combinations of action, principal
/// type and resource type that they are checked for. A step takes about a microsecond.
pub const MAX_STEPS: u64 = 50_000_000;

/// Steps for a combination that a policy's scope leaves out: the scope is checked all the same.
const SCOPE: u64 = 8;

/// Steps for holding an unknown name against one that is known, to propose what was meant.
const LIKENESS: u64 = 8;

/// The combinations of a schema.
#[derive(Debug, Default)]
pub(super) struct Effort {
    actions: HashMap<EntityUID, Applies>,
    all: Applies,
    /// Entity types and actions.
    names: u64,
}

/// Combinations of principal and resource types, by what of a template is a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Applies {
    neither: u64,
    principal: u64,
    resource: u64,
    both: u64,
}

impl Applies {
    fn of(&self, principal_is_slot: bool, resource_is_slot: bool) -> u64 {
        match (principal_is_slot, resource_is_slot) {
            (false, false) => self.neither,
            (true, false) => self.principal,
            (false, true) => self.resource,
            (true, true) => self.both,
        }
    }

    fn plus(&self, other: &Applies) -> Applies {
        Applies {
            neither: self.neither.saturating_add(other.neither),
            principal: self.principal.saturating_add(other.principal),
            resource: self.resource.saturating_add(other.resource),
            both: self.both.saturating_add(other.both),
        }
    }
}

impl Effort {
    pub(super) fn of(schema: &ValidatorSchema) -> Effort {
        let mut above: HashMap<&EntityType, u64> = HashMap::new();
        for kind in schema.entity_types() {
            for below in &kind.descendants {
                *above.entry(below).or_default() += 1;
            }
        }
        let types = count(schema.entity_types().count());
        // For a slot, Cedar looks through all types for those that the entity can be in.
        let slot = |kind: &EntityType| 1 + above.get(kind).copied().unwrap_or_default() + types / 8;
        // How many types, and how many values of a slot for all of them.
        let sides = |kinds: &mut dyn Iterator<Item = &EntityType>| {
            kinds.fold((0_u64, 0_u64), |(plain, values), kind| {
                (plain + 1, values.saturating_add(slot(kind)))
            })
        };
        let mut effort = Effort { names: types, ..Effort::default() };
        for action in schema.action_ids() {
            let principals = sides(&mut action.applies_to_principals());
            let resources = sides(&mut action.applies_to_resources());
            let applies = Applies {
                neither: principals.0.saturating_mul(resources.0),
                principal: principals.1.saturating_mul(resources.0),
                resource: principals.0.saturating_mul(resources.1),
                both: principals.1.saturating_mul(resources.1),
            };
            effort.all = effort.all.plus(&applies);
            effort.actions.insert(action.name().clone(), applies);
        }
        effort.names = effort.names.saturating_add(count(effort.actions.len()));
        effort
    }

    /// The steps of a policy or template of so many tokens, of which so many are names that the schema
    /// does not have.
    pub(super) fn steps(
        &self,
        schema: &ValidatorSchema,
        template: &Template,
        tokens: usize,
        unknown: usize,
    ) -> u64 {
        let is_slot = |slot: SlotId, constraint: &PrincipalOrResourceConstraint| {
            let is_in = matches!(
                constraint,
                PrincipalOrResourceConstraint::In(_) | PrincipalOrResourceConstraint::IsIn(..)
            );
            is_in && template.slots().any(|held| held.id == slot)
        };
        let principal = is_slot(SlotId::principal(), template.principal_constraint().as_inner());
        let resource = is_slot(SlotId::resource(), template.resource_constraint().as_inner());
        let of = |uid: &EntityUID| {
            self.actions.get(uid).map_or(0, |applies| applies.of(principal, resource))
        };
        let all = self.all.of(principal, resource);
        let matching = match template.action_constraint() {
            ActionConstraint::Eq(action) => of(action),
            ActionConstraint::In(list) => {
                let groups: HashSet<&EntityUID> = list.iter().map(|uid| &**uid).collect();
                let mut matching = groups.clone();
                let known = groups.into_iter().filter_map(|group| schema.get_action_id(group));
                matching.extend(known.flat_map(ValidatorActionId::descendants));
                matching.into_iter().map(of).fold(0, u64::saturating_add)
            }
            _ => all,
        };
        let likeness = self.names.saturating_mul(LIKENESS).saturating_mul(count(unknown));
        matching
            .saturating_mul(count(tokens))
            .saturating_add(all.saturating_mul(SCOPE))
            .saturating_add(likeness)
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
