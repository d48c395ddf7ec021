//! Policies, templates, links and grants of one service.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::{
    EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Schema, SlotId, ValidationMode,
    Validator,
};

use super::Check;
use crate::bundle::MARKER;
use crate::cedar_text::{self, PolicyError};
use crate::model::{GrantBody, Item, ItemBody, ItemKey, LinkBody, Uid};

impl Check {
    pub(super) fn policies(&mut self, schema: Option<&Schema>, own: &[&Item]) {
        let mut set = PolicySet::new();
        let mut ids: BTreeMap<&str, (&ItemKey, &str)> = BTreeMap::new();
        for item in own {
            let text = match &item.body {
                ItemBody::Policy(body) | ItemBody::Template(body) => body.text.as_str(),
                ItemBody::Link(_) | ItemBody::Grant(_) => "",
                _ => continue,
            };
            if let Some((other, _)) = ids.insert(&item.key.id, (&item.key, text)) {
                let message = format!("there is a {} of this id already", other.kind);
                self.problem(&item.key, message);
            }
        }
        // Templates before their links.
        for item in own {
            let added = match &item.body {
                ItemBody::Policy(body) => self.policy(&item.key, &body.text, &mut set),
                ItemBody::Template(body) => self.template(&item.key, &body.text, &mut set),
                _ => Ok(()),
            };
            if let Err(error) = added {
                self.at(&item.key, error.line, error.message);
            }
        }
        for item in own {
            if let ItemBody::Link(body) = &item.body {
                self.link(&item.key, body, &mut set);
            }
        }
        let Some(schema) = schema else {
            return;
        };
        let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
        let first = self.problems.len();
        for error in result.validation_errors() {
            let id: &str = error.policy_id().as_ref();
            if let Some((key, text)) = ids.get(id) {
                let PolicyError { line, message } = cedar_text::explained(error, text);
                // Cedar names the policy first, and so does the problem.
                let named = format!("for policy `{id}`, ");
                let message = message.strip_prefix(&named).unwrap_or(&message).to_owned();
                self.at(key, line, message);
            }
        }
        // Cedar's order is that of a hash map; people compare two runs.
        if let Some(found) = self.problems.get_mut(first..) {
            found.sort_by(|a, b| (&a.key, a.line, &a.message).cmp(&(&b.key, b.line, &b.message)));
        }
        self.grants(schema, own);
    }

    fn policy(
        &mut self,
        key: &ItemKey,
        text: &str,
        set: &mut PolicySet,
    ) -> Result<(), PolicyError> {
        let policy = cedar_text::policy(Some(&key.id), text)?;
        self.text(key, text, policy.annotation("id"));
        // The only other error is an id that is there already, which is said.
        let _ = set.add(policy);
        Ok(())
    }

    fn template(
        &mut self,
        key: &ItemKey,
        text: &str,
        set: &mut PolicySet,
    ) -> Result<(), PolicyError> {
        let template = cedar_text::template(Some(&key.id), text)?;
        self.text(key, text, template.annotation("id"));
        let _ = set.add_template(template);
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
        let template = PolicyId::new(&body.template);
        if set.template(&template).is_none() {
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
        if let Err(error) = set.link(template, PolicyId::new(&key.id), values) {
            let error = cedar_text::explained(&error, "");
            self.problem(key, error.message);
        }
    }

    /// A grant has no condition, so all that Cedar's validator could object to is a name that
    /// the schema does not have.
    fn grants(&mut self, schema: &Schema, own: &[&Item]) {
        let actions: BTreeSet<Uid> = schema
            .actions()
            .map(|uid| Uid::new(uid.type_name().to_string(), uid.id().unescaped()))
            .collect();
        let types: BTreeSet<String> = schema.entity_types().map(ToString::to_string).collect();
        for item in own {
            let ItemBody::Grant(GrantBody { principal, actions: granted, resource }) = &item.body
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
                if uid.has_valid_kind() && !types.contains(&uid.kind) {
                    let message = format!(
                        "the schema has no entity type `{}`; it has {}",
                        uid.kind,
                        some_of(types.iter().cloned())
                    );
                    self.problem(&item.key, message);
                }
            }
        }
    }
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

pub(super) fn cedar_uid(uid: &Uid) -> Option<EntityUid> {
    let kind: EntityTypeName = uid.kind.parse().ok()?;
    Some(EntityUid::from_type_name_and_id(kind, EntityId::new(&uid.id)))
}
