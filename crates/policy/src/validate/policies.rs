//! Policies, templates, links and grants of one service.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy_core::ast::{
    Eid, EntityType, EntityUID, ExprKind, Literal, PolicyID, PolicySet, SlotId, StaticPolicy,
    Template,
};
use cedar_policy_core::validator::typecheck::Typechecker;
use cedar_policy_core::validator::{ValidationError, ValidationMode, Validator, ValidatorSchema};

use miette::Diagnostic;

use super::{Check, MAX_STEPS, Types};
use crate::bundle::MARKER;
use crate::cedar_text::{self, PolicyError, Sort};
use crate::model::{GrantBody, Item, ItemBody, ItemKey, LinkBody, Uid};
use crate::spot::Spot;
use crate::stack::{self, Need};

/// The most problems that are told of one policy; the first ones are the useful ones.
pub(super) const TOLD: usize = 20;

impl Check {
    pub(super) fn policies(&mut self, schema: Option<(&ItemKey, &Types)>, own: &[&Item]) {
        let mut ids: BTreeMap<&str, (&ItemKey, &str)> = BTreeMap::new();
        let mut need = Need::Small;
        for item in own {
            let text = match &item.body {
                ItemBody::Policy(body) | ItemBody::Template(body) => body.text.as_str(),
                ItemBody::Link(_) | ItemBody::Grant(_) => "",
                _ => continue,
            };
            if cedar_text::need(text) == Need::Large {
                need = Need::Large;
            }
            if let Some((other, _)) = ids.insert(&item.key.id, (&item.key, text)) {
                let message = format!("there is a {} of this id already", other.kind);
                self.problem(&item.key, message);
            }
        }
        // The type checker recurses, so it runs where the stack suffices for all of them; there
        // the set is dropped too.
        let checked = stack::run(need, || {
            let set = self.set(own);
            if let Some((key, types)) = schema {
                self.against(key, types, &set, &ids);
            }
            self.strings(&set, &ids);
        });
        if let (Err(error), Some(first)) = (checked, own.first()) {
            self.problem(&first.key, error.to_string());
        }
        if let Some((_, types)) = schema {
            self.grants(types, own);
        }
    }

    fn set(&mut self, own: &[&Item]) -> PolicySet {
        let mut set = PolicySet::new();
        // Templates before their links.
        for item in own {
            let added = match &item.body {
                ItemBody::Policy(body) => self.add(Sort::Policy, &item.key, &body.text, &mut set),
                ItemBody::Template(body) => {
                    self.add(Sort::Template, &item.key, &body.text, &mut set)
                }
                _ => Ok(()),
            };
            if let Err(error) = added {
                for (spot, message) in error.all() {
                    self.at(&item.key, spot, message);
                }
            }
        }
        for item in own {
            if let ItemBody::Link(body) = &item.body {
                self.link(&item.key, body, &mut set);
            }
        }
        set
    }

    /// What Cedar's validator says in strict mode. It is called in its parts, because as a whole
    /// it passes a policy that it could not check to the end (4.14.1: a type checker out of stack
    /// adds no error, and only its result says so).
    fn against(
        &mut self,
        key: &ItemKey,
        types: &Types,
        set: &PolicySet,
        ids: &BTreeMap<&str, (&ItemKey, &str)>,
    ) {
        let schema = &types.policies;
        if let Err(error) = schema.check_complete() {
            return self.problem(key, cedar_text::explained(&error, "").message);
        }
        let first = self.problems.len();
        let checker = Typechecker::new(schema, ValidationMode::Strict);
        for template in set.all_templates() {
            let id: &str = template.id().as_ref();
            let Some((key, text)) = ids.get(id) else { continue };
            let unknown = unknown_names(schema, template);
            if !self.has_steps(types, key, template, cedar_text::tokens(text), unknown.len()) {
                return;
            }
            if let Some(name) = unknown.get(TOLD) {
                let message = format!(
                    "it has more than {TOLD} entity types and actions that the schema does not have, \
                     such as `{name}`"
                );
                self.problem(key, message);
                continue;
            }
            let mut errors: HashSet<ValidationError> =
                Validator::validate_entity_types_and_literals(schema, template).collect();
            let mut warnings = HashSet::new();
            let is_well_typed = checker.typecheck_policy(template, &mut errors, &mut warnings);
            self.warned(key, text, warnings.iter());
            if errors.is_empty() && !is_well_typed {
                self.unchecked(template, ids);
            }
            self.told(id, errors.iter(), ids);
        }
        if self.is_asked_for_warnings() {
            self.applications(schema, set, ids);
        }
        if let Some(links) = scopes_of_links(set) {
            for template in links.all_templates() {
                let id: &str = template.id().as_ref();
                let Some((key, _)) = ids.get(id) else { continue };
                if !self.has_steps(types, key, template, 0, 0) {
                    return;
                }
            }
            let result = Validator::new(schema.clone()).validate(&links, ValidationMode::Strict);
            let result = cedar_policy::ValidationResult::from(result);
            for error in result.validation_errors() {
                let id: &str = error.policy_id().as_ref();
                // What is said of a template is said already.
                if links.get_template(&PolicyID::from_string(id)).is_none() {
                    self.told(id, std::iter::once(error), ids);
                }
            }
        }
        // Cedar's order is that of a hash map; people compare two runs.
        if let Some(found) = self.problems.get_mut(first..) {
            found.sort_by(|a, b| (&a.key, a.spot, &a.message).cmp(&(&b.key, b.spot, &b.message)));
        }
    }

    /// Takes the steps of one more policy, and says so where they are too many.
    fn has_steps(
        &mut self,
        types: &Types,
        key: &ItemKey,
        template: &Template,
        tokens: usize,
        unknown: usize,
    ) -> bool {
        let steps = types.effort.steps(&types.policies, template, tokens, unknown);
        let (before, sum) = (self.known.steps, self.known.steps.saturating_add(steps));
        self.known.steps = sum;
        if sum > MAX_STEPS && before <= MAX_STEPS {
            let message = format!(
                "to check the policies up to this one against the schema takes {sum} steps, at most \
                 {MAX_STEPS} are possible: a policy's tokens times the combinations of action, \
                 principal type and resource type that its scope leaves; name actions in the scope, \
                 or divide the service"
            );
            self.problem(key, message);
        }
        sum <= MAX_STEPS
    }

    fn told<'e, E: Diagnostic + 'e>(
        &mut self,
        id: &str,
        errors: impl Iterator<Item = &'e E>,
        ids: &BTreeMap<&str, (&ItemKey, &str)>,
    ) {
        let Some((key, text)) = ids.get(id) else { return };
        for (spot, message) in explained(id, text, errors).into_iter().take(TOLD) {
            self.at(key, spot, message);
        }
    }

    /// The type checker did not get to the end. The bounds on depth make that impossible; should
    /// they ever not, the policy does not land.
    fn unchecked(&mut self, template: &Template, ids: &BTreeMap<&str, (&ItemKey, &str)>) {
        let id: &str = template.id().as_ref();
        if let Some((key, _)) = ids.get(id) {
            let message = "it could not be checked against the schema to its end, because it nests \
                           too deep; divide it";
            self.problem(key, message);
        }
    }

    fn add(
        &mut self,
        sort: Sort,
        key: &ItemKey,
        text: &str,
        set: &mut PolicySet,
    ) -> Result<(), PolicyError> {
        let template = cedar_text::template(sort, &key.id, text)?;
        self.text(key, text, cedar_text::id_of(&template));
        // The only other error is an id that is there already, which is said.
        match StaticPolicy::try_from(template.clone()) {
            Ok(policy) => set.add_static(policy).unwrap_or_default(),
            Err(_) => set.add_template(template).unwrap_or_default(),
        }
        Ok(())
    }

    fn text(&mut self, key: &ItemKey, text: &str, annotation: Option<&str>) {
        if let Some(id) = annotation
            && id != key.id
        {
            self.problem(key, format!("the text says `@id(\"{id}\")`; make them the same"));
        }
        if text.lines().any(|line| line.trim_start().starts_with(MARKER)) {
            let message = format!("a line starts with `{MARKER}`, which is for files of policies");
            self.problem(key, message);
        }
    }

    fn link(&mut self, key: &ItemKey, body: &LinkBody, set: &mut PolicySet) {
        let template = PolicyID::from_string(&body.template);
        if set.get_template(&template).is_none()
            && let Some(scope) = self.known.scopes.get(&body.template)
        {
            set.add_template(scope.clone()).unwrap_or_default();
        }
        if set.get_template(&template).is_none_or(|template| template.slots().next().is_none()) {
            if self.known.is_partial {
                return;
            }
            let message = format!("there is no template `{}`", body.template);
            return self.problem(key, message);
        }
        let mut values = HashMap::new();
        for (slot, uid) in
            [(SlotId::principal(), &body.principal), (SlotId::resource(), &body.resource)]
        {
            match uid.as_ref().map(cedar_uid) {
                Some(Some(uid)) => {
                    values.insert(slot, uid);
                }
                // A type that is no Cedar name is said already.
                Some(None) => return,
                None => {}
            }
        }
        if let Err(error) = set.link(template, PolicyID::from_string(&key.id), values) {
            let error = cedar_text::explained(&error, "");
            self.problem(key, error.message);
        }
    }

    /// A grant has no condition, so all that Cedar's validator could object to is a name that
    /// the schema does not have.
    fn grants(&mut self, types: &Types, own: &[&Item]) {
        let schema = &types.policies;
        let actions: BTreeSet<Uid> = schema
            .action_ids()
            .map(|action| action.name())
            .map(|uid| Uid::new(uid.entity_type().to_string(), uid.eid().as_ref() as &str))
            .collect();
        let kinds: BTreeSet<String> =
            schema.entity_types().map(|kind| kind.name().to_string()).collect();
        for item in own {
            let ItemBody::Grant(GrantBody { principal, actions: granted, resource, .. }) =
                &item.body
            else {
                continue;
            };
            if let Some(unknown) = granted.iter().find(|action| !actions.contains(*action)) {
                let message = format!(
                    "the schema has no action `{unknown}`; it has {}",
                    some_of(actions.iter().map(ToString::to_string))
                );
                self.problem(&item.key, message);
            }
            for uid in [principal].into_iter().chain(resource) {
                if uid.has_valid_kind() && !kinds.contains(&uid.kind) {
                    let message = format!(
                        "the schema has no entity type `{}`; it has {}",
                        uid.kind,
                        some_of(kinds.iter().cloned())
                    );
                    self.problem(&item.key, message);
                }
            }
        }
        self.grants_that_never_apply(types, own);
    }
}

/// Entity types and actions that the schema does not have, one more than are told at most. Cedar
/// searches for each of them what may have been meant.
fn unknown_names(schema: &ValidatorSchema, template: &Template) -> Vec<String> {
    let has_type = |kind: &EntityType| schema.get_entity_type(kind).is_some();
    let condition = template.condition();
    let unknown = condition.subexpressions().filter_map(|part| match part.expr_kind() {
        ExprKind::Lit(Literal::EntityUID(uid)) => {
            let is_known = has_type(uid.entity_type()) || schema.get_action_id(uid).is_some();
            (!is_known).then(|| uid.to_string())
        }
        ExprKind::Is { entity_type, .. } => {
            (!has_type(entity_type)).then(|| entity_type.to_string())
        }
        _ => None,
    });
    unknown.take(TOLD + 1).collect()
}

/// A few names, for an error text.
fn some_of(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 12;
    let mut names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    match (names.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

pub(super) fn cedar_uid(uid: &Uid) -> Option<EntityUID> {
    let kind: EntityType = uid.kind.parse().ok()?;
    Some(EntityUID::from_components(kind, Eid::new(&uid.id), None))
}

/// A template without its condition.
pub(super) fn scope_of(template: &Template) -> Template {
    Template::new_shared(
        template.id().clone(),
        None,
        Arc::default(),
        template.effect(),
        template.principal_constraint().clone(),
        template.action_constraint().clone(),
        template.resource_constraint().clone(),
        None,
    )
}

/// The links of a set on templates without conditions; those are checked once, not again for the
/// links.
fn scopes_of_links(set: &PolicySet) -> Option<PolicySet> {
    let mut scopes = PolicySet::new();
    let mut any = false;
    for link in set.policies().filter(|policy| !policy.is_static()) {
        let template = link.template();
        let id = template.id();
        if scopes.get_template(id).is_none() {
            scopes.add_template(scope_of(template)).ok()?;
        }
        scopes.link(id.clone(), link.id().clone(), link.env().clone()).ok()?;
        any = true;
    }
    any.then_some(scopes)
}

/// What Cedar says of a policy with this text, sorted, with the place within the text. Cedar names the
/// policy first; a problem or a warning does that by itself.
pub(super) fn explained<'e, E: Diagnostic + 'e>(
    id: &str,
    text: &str,
    found: impl Iterator<Item = &'e E>,
) -> Vec<(Option<Spot>, String)> {
    let named = format!("for policy `{id}`, ");
    let mut told: Vec<(Option<Spot>, String)> = found
        .map(|one| cedar_text::explained(one, text))
        .map(|one| (one.spot, one.message.strip_prefix(&named).unwrap_or(&one.message).to_owned()))
        .collect();
    told.sort();
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    /// At the bound on steps a policy is checked; one step beyond, it is refused by name.
    #[test]
    fn the_steps_of_one_change_are_bounded() {
        let schema = "entity user, doc; action read, write appliesTo { principal: user, \
                      resource: doc };";
        let types = Types::of(cedar_text::schema::parse(schema).unwrap());
        let text = "permit (principal, action == Action::\"read\", resource) when { true };";
        let key = ItemKey::new("s", Kind::Policy, "p");
        let template = cedar_text::template(Sort::Policy, "p", text).unwrap();
        let tokens = cedar_text::tokens(text);
        let steps = types.effort.steps(&types.policies, &template, tokens, 0);
        // One of two combinations, and the scope in both.
        assert_eq!(steps, u64::try_from(tokens).unwrap() + 2 * 8);
        for (before, told) in [(MAX_STEPS - steps, 0), (MAX_STEPS - steps + 1, 1)] {
            let mut check = Check::default();
            check.known.steps = before;
            assert_eq!(check.has_steps(&types, &key, &template, tokens, 0), told == 0);
            assert_eq!(check.problems.len(), told, "{:?}", check.problems);
        }
    }

    /// Cedar 4.14.1: the validator as a whole has nothing to say of a policy that its type checker
    /// gave up on. Its result does, and so does this module.
    #[test]
    fn what_is_not_checked_to_its_end_does_not_land() {
        const LITTLE: usize = 160 << 10;
        let schema = "entity user; action read appliesTo { principal: user, resource: user };";
        let schema = cedar_text::schema::parse(schema).unwrap();
        let types = Types::of(schema.clone());
        let condition = format!("{}true{}", "!(".repeat(90), ")".repeat(90));
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let key = ItemKey::new("s", Kind::Policy, "p");
        let template = cedar_text::template(Sort::Policy, "p", &text).unwrap();
        let mut set = PolicySet::new();
        set.add_static(StaticPolicy::try_from(template).unwrap()).unwrap();
        let ids = BTreeMap::from([("p", (&key, text.as_str()))]);
        let told = |stack: usize| {
            let mut check = Check::default();
            std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().stack_size(stack);
                let work = || check.against(&key, &types, &set, &ids);
                thread.spawn_scoped(scope, work).unwrap().join().unwrap();
            });
            check.problems
        };
        assert_eq!(told(64 << 20), []);
        let problems = told(LITTLE);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains("could not be checked"), "{problems:?}");
        // The whole validator on the same stack passes it.
        let validator = Validator::new(schema.clone());
        let passes = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(LITTLE);
            let work = || validator.validate(&set, ValidationMode::Strict).validation_passed();
            thread.spawn_scoped(scope, work).unwrap().join().unwrap()
        });
        assert!(passes, "Cedar says it by itself now: the parts can be the whole again");
    }
}
