//! What Cedar's validator warns of: what is valid and can never decide anything, and texts that do not
//! read as they are. Only a [`super::review`] asks; whether something may land does not depend on it.

use std::collections::{BTreeMap, HashSet};

use cedar_policy::ValidationWarning;
use cedar_policy_core::ast::{
    ActionConstraint, Annotations, Effect, PolicyID, PolicySet, PrincipalConstraint,
    ResourceConstraint, StaticPolicy, Template,
};
use cedar_policy_core::validator::{
    ValidationMode, Validator, ValidatorSchema, confusable_string_checks,
};
use miette::Diagnostic;

use super::policies::{TOLD, cedar_uid, explained};
use super::{Check, MAX_STEPS, Types};
use crate::caution::Warning;
use crate::model::{GrantBody, Item, ItemBody, ItemKey, Uid};
use crate::spot::Spot;

/// Warnings that are kept; one more says that there are others.
pub(super) const MAX_WARNINGS: usize = 1_000;

/// Items and their texts by id.
type Ids<'a> = BTreeMap<&'a str, (&'a ItemKey, &'a str)>;

impl Check {
    pub(super) fn is_asked_for_warnings(&self) -> bool {
        self.known.warnings.is_some()
    }

    pub(super) fn warn(&mut self, key: &ItemKey, spot: Option<Spot>, message: impl Into<String>) {
        let Some(warnings) = &mut self.known.warnings else { return };
        // What is not told is said: see `review`.
        if warnings.len() <= MAX_WARNINGS {
            warnings.push(Warning { key: key.clone(), spot, message: message.into() });
        }
    }

    /// Warnings of one item, in order, each once.
    pub(super) fn warned<'w, W: Diagnostic + 'w>(
        &mut self,
        key: &ItemKey,
        text: &str,
        warnings: impl Iterator<Item = &'w W>,
    ) {
        if !self.is_asked_for_warnings() {
            return;
        }
        let mut told = explained(&key.id, text, warnings);
        told.dedup();
        for (spot, message) in told.into_iter().take(TOLD) {
            self.warn(key, spot, message);
        }
    }

    /// Strings and names that do not read as they are; a schema does not matter.
    pub(super) fn strings(&mut self, set: &PolicySet, ids: &Ids<'_>) {
        if !self.is_asked_for_warnings() {
            return;
        }
        for template in set.all_templates() {
            let id: &str = template.id().as_ref();
            let Some((key, text)) = ids.get(id) else { continue };
            let found: Vec<_> = confusable_string_checks(std::iter::once(template)).collect();
            self.warned(key, text, found.iter());
        }
    }

    /// Policies, templates and links whose scope leaves no combination of principal, action and
    /// resource that the schema knows. Scopes say that alone, so conditions are left out.
    pub(super) fn applications(
        &mut self,
        schema: &ValidatorSchema,
        set: &PolicySet,
        ids: &Ids<'_>,
    ) {
        let mut scopes = PolicySet::new();
        for template in set.all_templates() {
            add(&mut scopes, scope_in_place(template));
        }
        for link in set.policies().filter(|policy| !policy.is_static()) {
            // What cannot be linked is an error, which is told.
            let (template, id) = (link.template().id().clone(), link.id().clone());
            scopes.link(template, id, link.env().clone()).map(drop).unwrap_or_default();
        }
        let result = Validator::new(schema.clone()).validate(&scopes, ValidationMode::Strict);
        let result = cedar_policy::ValidationResult::from(result);
        let mut found: BTreeMap<&str, Vec<&ValidationWarning>> = BTreeMap::new();
        for warning in result.validation_warnings() {
            if matches!(warning, ValidationWarning::InvalidActionApplication(_)) {
                found.entry(warning.policy_id().as_ref()).or_default().push(warning);
            }
        }
        for (id, warnings) in found {
            if let Some((key, text)) = ids.get(id) {
                self.warned(key, text, warnings.into_iter());
            }
        }
    }

    /// Grants that no request can match. What Cedar says of one depends on types and actions only, so
    /// each combination of them is looked at once.
    pub(super) fn grants_that_never_apply(&mut self, types: &Types, own: &[&Item]) {
        if !self.is_asked_for_warnings() {
            return;
        }
        let faulty: HashSet<ItemKey> =
            self.problems.iter().map(|problem| problem.key.clone()).collect();
        let mut known: BTreeMap<Signature, Vec<String>> = BTreeMap::new();
        for item in own.iter().filter(|item| !faulty.contains(&item.key)) {
            let ItemBody::Grant(grant) = &item.body else { continue };
            let signature = Signature::of(grant);
            if !known.contains_key(&signature) {
                let Some(template) = grant_scope(&item.key.id, grant) else { continue };
                let steps = types.effort.steps(&types.policies, &template, 0, 0);
                self.known.steps = self.known.steps.saturating_add(steps);
                if self.known.steps > MAX_STEPS {
                    let message = "the grants from this one on are not looked through for warnings: \
                                   the schema has too many combinations of actions and types";
                    return self.warn(&item.key, None, message);
                }
                known.insert(signature.clone(), never_applies(types, &item.key, template));
            }
            for message in known.get(&signature).into_iter().flatten() {
                self.warn(&item.key, None, message);
            }
        }
    }
}

fn never_applies(types: &Types, key: &ItemKey, scope: Template) -> Vec<String> {
    let mut set = PolicySet::new();
    add(&mut set, scope);
    let result = Validator::new(types.policies.clone()).validate(&set, ValidationMode::Strict);
    let result = cedar_policy::ValidationResult::from(result);
    let told = explained(&key.id, "", result.validation_warnings());
    told.into_iter().map(|(_, message)| message).collect()
}

/// What a warning about a grant depends on. Of an entity that is an action, or may be one of few, the
/// id matters too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Signature {
    principal: String,
    actions: Vec<Uid>,
    resource: Option<String>,
}

impl Signature {
    fn of(grant: &GrantBody) -> Signature {
        let kind = |uid: &Uid| match uid.kind.rsplit("::").next() {
            Some("Action") => uid.to_string(),
            _ => uid.kind.clone(),
        };
        Signature {
            principal: kind(&grant.principal),
            actions: grant.actions.clone(),
            resource: grant.resource.as_ref().map(kind),
        }
    }
}

/// The policy that a grant is; none where it has a type that Cedar cannot name.
fn grant_scope(id: &str, grant: &GrantBody) -> Option<Template> {
    let principal = PrincipalConstraint::is_in(cedar_uid(&grant.principal)?.into());
    let action = match grant.actions.as_slice() {
        [] => ActionConstraint::any(),
        some => ActionConstraint::is_in(some.iter().map(cedar_uid).collect::<Option<Vec<_>>>()?),
    };
    let resource = match &grant.resource {
        None => ResourceConstraint::any(),
        Some(uid) => ResourceConstraint::is_in(cedar_uid(uid)?.into()),
    };
    let none = Annotations::new().into();
    let id = PolicyID::from_string(id);
    Some(Template::new_shared(id, None, none, Effect::Permit, principal, action, resource, None))
}

/// A template without its condition, where it stands.
fn scope_in_place(template: &Template) -> Template {
    Template::new_shared(
        template.id().clone(),
        template.loc().cloned(),
        Annotations::new().into(),
        template.effect(),
        template.principal_constraint().clone(),
        template.action_constraint().clone(),
        template.resource_constraint().clone(),
        None,
    )
}

/// Adds to a set; an id that is there already is a problem that is told elsewhere.
fn add(set: &mut PolicySet, template: Template) {
    match StaticPolicy::try_from(template.clone()) {
        Ok(policy) => set.add_static(policy).unwrap_or_default(),
        Err(_) => set.add_template(template).unwrap_or_default(),
    }
}
