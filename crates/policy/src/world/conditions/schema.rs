//! Schemas at decision time: which requests they know, and values in the types they declare.
//!
//! Attributes that a schema does not know are dropped; plain JSON becomes what the schema says
//! (`{"type":..,"id":..}` an entity, a text an IP address, and so on). Validation of policies
//! is done before a revision lands, not here.

use std::collections::BTreeMap;

use cedar_policy_core::ast::{EntityType, EntityUID, Literal, Value, ValueKind};
use cedar_policy_core::validator::types::{Attributes as Members, EntityKind, OpenTag, Type};
use cedar_policy_core::validator::{ValidatorEntityTypeKind, ValidatorSchema};
use smol_str::SmolStr;

use super::parse::{chain, uid_text};
use super::value::{ValueProblem, call, entity};
use crate::cedar_text;
use crate::model::Uid;

/// A service's schema.
#[derive(Debug)]
pub(in crate::world) struct Schema(ValidatorSchema, Option<Box<str>>);

impl Schema {
    pub(in crate::world) fn parse(text: &str) -> Result<Schema, String> {
        match cedar_text::schema::parse(text) {
            Ok(schema) => Ok(Schema(schema, None)),
            // It may have landed before there was such a bound.
            Err(error) if error.is_bound => {
                Ok(Schema(ValidatorSchema::empty(), Some(error.message.into())))
            }
            Err(error) => Err(error.message),
        }
    }

    /// Why nothing can be decided by this schema.
    pub(in crate::world) fn refused(&self) -> Option<&str> {
        self.1.as_deref()
    }

    /// All actions, groups included.
    pub(in crate::world) fn actions(&self) -> impl Iterator<Item = Uid> {
        self.0.action_ids().map(|action| uid_text(action.name()))
    }

    /// All entity types.
    pub(in crate::world) fn types(&self) -> impl Iterator<Item = String> {
        self.0.entity_type_names().map(EntityType::to_string)
    }

    /// Each action that is in an action group, with all groups it is in.
    pub(in crate::world) fn action_groups(&self) -> Result<Vec<(Uid, Uid)>, String> {
        let actions = self.0.action_entities().map_err(|e| chain(&e))?;
        let mut edges: Vec<_> = actions
            .iter()
            .flat_map(|action| {
                action.ancestors().map(|group| (uid_text(action.uid()), uid_text(group)))
            })
            .collect();
        edges.sort();
        Ok(edges)
    }

    /// Whether the schema knows such a request; if not, why.
    pub(super) fn knows(
        &self,
        principal: &EntityUID,
        action: &EntityUID,
        resource: &EntityUID,
    ) -> Result<(), String> {
        for uid in [principal, resource] {
            let Some(kind) = self.0.get_entity_type(uid.entity_type()) else {
                return Err(format!("the schema has no entity type `{}`", uid.entity_type()));
            };
            if let ValidatorEntityTypeKind::Enum(choices) = &kind.kind
                && !choices.iter().any(|choice| choice == uid.eid())
            {
                return Err(format!("the schema has no entity `{uid}`"));
            }
        }
        let Some(declared) = self.0.get_action_id(action) else {
            return Err(format!("the schema has no action `{action}`"));
        };
        if !declared.is_applicable_principal_type(principal.entity_type()) {
            return Err(format!(
                "in the schema, `{action}` is not for principals of type `{}`",
                principal.entity_type()
            ));
        }
        if !declared.is_applicable_resource_type(resource.entity_type()) {
            return Err(format!(
                "in the schema, `{action}` is not for resources of type `{}`",
                resource.entity_type()
            ));
        }
        Ok(())
    }

    /// Whether the schema knows requests of principals of this type.
    pub(in crate::world) fn applies(&self, kind: &str, action: &Uid, resource: &Uid) -> bool {
        let types = |kind: &str| super::TypeName::parse(kind).ok().map(|kind| kind.0);
        let (Some(kind), Some(action_type), Some(resource_type)) =
            (types(kind), types(&action.kind), types(&resource.kind))
        else {
            return false;
        };
        let action = super::TypeName(action_type).uid(&action.id);
        self.0.get_action_id(&action).is_some_and(|declared| {
            declared.is_applicable_principal_type(&kind)
                && declared.is_applicable_resource_type(&resource_type)
        })
    }

    /// The context in the types of this action.
    pub(super) fn context(
        &self,
        action: &EntityUID,
        context: BTreeMap<SmolStr, Value>,
    ) -> Result<BTreeMap<SmolStr, Value>, ValueProblem> {
        match self.0.context_type(action) {
            Some(Type::Record { attrs, open_attributes }) => {
                members(context, attrs, is_open(*open_attributes), true)
            }
            _ => Ok(context),
        }
    }

    /// Properties of a request in the types of this entity type.
    pub(super) fn properties(
        &self,
        kind: &EntityType,
        properties: BTreeMap<SmolStr, Value>,
    ) -> Result<BTreeMap<SmolStr, Value>, ValueProblem> {
        match self.0.get_entity_type(kind) {
            Some(kind) => {
                members(properties, kind.attributes(), is_open(kind.open_attributes()), false)
            }
            None => Ok(properties),
        }
    }

    /// A stored attribute in the type that the schema gives it; none if it gives none. What
    /// does not fit stays as it is: a policy that reads it fails then, as Cedar has it.
    pub(super) fn attribute(&self, kind: &EntityType, name: &str, value: &Value) -> Option<Value> {
        let Some(kind) = self.0.get_entity_type(kind) else { return Some(value.clone()) };
        match kind.attr(name) {
            Some(attr) => Some(fit(value.clone(), &attr.attr_type).unwrap_or(value.clone())),
            None => is_open(kind.open_attributes()).then(|| value.clone()),
        }
    }

    /// The same for a tag.
    pub(super) fn tag(&self, kind: &EntityType, value: &Value) -> Option<Value> {
        let Some(kind) = self.0.get_entity_type(kind) else { return Some(value.clone()) };
        let kind = kind.tag_type()?;
        Some(fit(value.clone(), kind).unwrap_or(value.clone()))
    }
}

fn members(
    mut values: BTreeMap<SmolStr, Value>,
    types: &Members,
    open: bool,
    required: bool,
) -> Result<BTreeMap<SmolStr, Value>, ValueProblem> {
    let mut fitted = BTreeMap::new();
    for (name, kind) in types.iter() {
        match values.remove(name) {
            Some(value) => {
                let value = fit(value, &kind.attr_type).map_err(|p| p.below(name))?;
                fitted.insert(name.clone(), value);
            }
            None if required && kind.is_required() => {
                return Err(ValueProblem::new("the schema requires it").below(name));
            }
            None => {}
        }
    }
    if open {
        fitted.append(&mut values);
    }
    Ok(fitted)
}

fn fit(value: Value, kind: &Type) -> Result<Value, ValueProblem> {
    let wrong = || Err(ValueProblem::new(wanted(kind)));
    let constructor = |name: &str| match name {
        "ipaddr" => "ip".to_owned(),
        name => name.to_owned(),
    };
    match (kind, value.value) {
        (Type::Bool(_), ValueKind::Lit(Literal::Bool(bool))) => Ok(bool.into()),
        (Type::Long, ValueKind::Lit(Literal::Long(long))) => Ok(long.into()),
        (Type::String, ValueKind::Lit(Literal::String(text))) => {
            Ok(Value::new(Literal::String(text), None))
        }
        (Type::Set { element_type }, ValueKind::Set(set)) => {
            let Some(kind) = element_type else {
                return Ok(Value { value: ValueKind::Set(set), loc: None });
            };
            let items: Result<Vec<_>, _> =
                set.iter().map(|item| fit(item.clone(), kind).map_err(|p| p.below("[]"))).collect();
            Ok(Value::set(items?, None))
        }
        (Type::Record { attrs, open_attributes }, ValueKind::Record(record)) => {
            let record = members((*record).clone(), attrs, is_open(*open_attributes), true)?;
            Ok(Value::record_arc(record.into(), None))
        }
        (Type::Entity(kinds), ValueKind::Lit(Literal::EntityUID(uid))) => {
            if has(kinds, uid.entity_type()) { Ok(Value::new(uid, None)) } else { wrong() }
        }
        (Type::Entity(kinds), ValueKind::Record(record)) => {
            let text = |name: &str| match record.get(name).map(Value::value_kind) {
                Some(ValueKind::Lit(Literal::String(text))) => Some(text.clone()),
                _ => None,
            };
            let (Some(kind), Some(id), 2) = (text("type"), text("id"), record.len()) else {
                return wrong();
            };
            match entity(&kind, &id)?.value {
                ValueKind::Lit(Literal::EntityUID(uid)) if has(kinds, uid.entity_type()) => {
                    Ok(Value::new(uid, None))
                }
                _ => wrong(),
            }
        }
        (Type::ExtensionType { name }, ValueKind::ExtensionValue(value)) => {
            if value.typename() == *name {
                Ok(Value { value: ValueKind::ExtensionValue(value), loc: None })
            } else {
                wrong()
            }
        }
        (Type::ExtensionType { name }, ValueKind::Lit(Literal::String(text))) => {
            let made =
                call(&constructor(&name.to_string()), &[Value::new(Literal::String(text), None)]);
            made.map_err(|problem| ValueProblem {
                reason: format!("{}; {}", wanted(kind), problem.reason),
                ..problem
            })
        }
        // As Cedar's JSON has it where the type is known: the escape without its name.
        (Type::ExtensionType { name }, ValueKind::Record(record)) => {
            let function = match record.get("fn").map(Value::value_kind) {
                Some(ValueKind::Lit(Literal::String(function))) => function.clone(),
                _ => return wrong(),
            };
            let arguments = match (record.get("arg"), record.get("args"), record.len()) {
                (Some(one), None, 2) => vec![one.clone()],
                _ => return wrong(),
            };
            match call(&function, &arguments)?.value {
                ValueKind::ExtensionValue(value) if value.typename() == *name => {
                    Ok(Value { value: ValueKind::ExtensionValue(value), loc: None })
                }
                _ => wrong(),
            }
        }
        // A decimal that happens to have no fraction.
        (Type::ExtensionType { name }, ValueKind::Lit(Literal::Long(long)))
            if name.to_string() == "decimal" =>
        {
            call("decimal", &[Value::from(format!("{long}.0"))])
        }
        _ => wrong(),
    }
}

/// What the schema says, and what to send for it where JSON has no such value.
fn wanted(kind: &Type) -> String {
    let example = match kind {
        Type::ExtensionType { name } => match name.to_string().as_str() {
            "ipaddr" => "a text such as \"10.0.0.1\" or \"10.0.0.0/8\"",
            "decimal" => "a text such as \"1.50\"",
            "datetime" => "a text such as \"2030-01-31\" or \"2030-01-31T12:00:00Z\"",
            "duration" => "a text such as \"1h30m\"",
            _ => "a text that its constructor takes",
        },
        Type::Entity(_) => "{\"type\": \"..\", \"id\": \"..\"}",
        _ => return format!("the schema says {kind}"),
    };
    format!("the schema says {kind}: send {example}")
}

fn is_open(tag: OpenTag) -> bool {
    matches!(tag, OpenTag::OpenAttributes)
}

fn has(kinds: &EntityKind, kind: &EntityType) -> bool {
    match kinds {
        EntityKind::AnyEntity => true,
        EntityKind::Entity(kinds) => kinds.get_single_entity() == Some(kind),
    }
}
