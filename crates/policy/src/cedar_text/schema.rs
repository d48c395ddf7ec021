//! Schemas as texts: what they stand for is bounded before Cedar works it out.
//!
//! Cedar writes every common type out wherever it is named, so a page of text can stand for a
//! type of a billion members; it computes all ancestors of all actions and types; and it lists
//! every combination of action, principal and resource type. All three are counted here on the
//! parsed text, without recursion and without building them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy_core::extensions::Extensions;
use cedar_policy_core::validator::json_schema::{
    EntityTypeKind, Fragment, NamespaceDefinition, Type, TypeVariant,
};
use cedar_policy_core::validator::{RawName, ValidatorSchema, ValidatorSchemaFragment};

use super::{MAX_DEPTH, PolicyError, explained, scan};
use crate::spot::Spot;
use crate::stack::{self, Need};

/// The most members of a record or list in a schema.
pub const MAX_MEMBERS: usize = 1_024;

/// The most types of a schema, once common types are written out.
pub const MAX_TYPES: usize = 200_000;

/// The most pairs of an action (or entity type) and one that it is in, directly or not.
pub const MAX_HIERARCHY: usize = 100_000;

/// The most combinations of an action with a principal type and a resource type.
pub const MAX_ENVIRONMENTS: usize = 50_000;

/// The most warnings that are told of one schema.
const MAX_WARNINGS: usize = 100;

/// What Cedar warns of in a text: places and messages.
pub(crate) type Warnings = Vec<(Option<Spot>, String)>;

/// Parses a schema, on a large stack: the depth of its types is not seen in its text.
pub(crate) fn parse(text: &str) -> Result<ValidatorSchema, PolicyError> {
    parse_with_warnings(text).map(|(schema, _)| schema)
}

/// The same, with what Cedar warns of: types that are named like other types.
pub(crate) fn parse_with_warnings(text: &str) -> Result<(ValidatorSchema, Warnings), PolicyError> {
    scan::schema(text)?;
    let parsed = stack::run(Need::Large, || {
        let extensions = Extensions::all_available();
        let (fragment, warnings) = Fragment::from_cedarschema_str(text, extensions)
            .map_err(|error| explained(&error, text))?;
        let mut warnings: Warnings = warnings
            .take(MAX_WARNINGS)
            .map(|warning| explained(&warning, text))
            .map(|warning| (warning.spot, warning.message))
            .collect();
        // Cedar's order is that of a hash map.
        warnings.sort();
        Ok((built(fragment, text)?, warnings))
    });
    parsed.unwrap_or_else(|error| Err(PolicyError::whole(error.to_string())))
}

/// The schema of a parsed text, if it is within the bounds.
pub(super) fn built(
    fragment: Fragment<RawName>,
    text: &str,
) -> Result<ValidatorSchema, PolicyError> {
    Weight::check(&fragment)?;
    let schema = ValidatorSchemaFragment::from_schema_fragment(fragment).and_then(|fragment| {
        ValidatorSchema::from_schema_fragments([fragment], Extensions::all_available())
    });
    schema.map_err(|error| explained(&error, text))
}

/// How many types a type stands for, and how deep.
#[derive(Clone, Copy, Default)]
struct Size {
    types: usize,
    depth: usize,
}

/// A common type by namespace and name; the empty namespace is empty.
type Name = (String, String);

struct Weight<'a> {
    common: BTreeMap<Name, &'a Type<RawName>>,
    known: HashMap<Name, Size>,
}

impl<'a> Weight<'a> {
    fn check(fragment: &'a Fragment<RawName>) -> Result<(), PolicyError> {
        let mut weight = Weight { common: BTreeMap::new(), known: HashMap::new() };
        for (namespace, definition) in &fragment.0 {
            let namespace = namespace.as_ref().map(ToString::to_string).unwrap_or_default();
            for (name, common) in &definition.common_types {
                weight.common.insert((namespace.clone(), name.to_string()), &common.ty);
            }
        }
        let names: Vec<Name> = weight.common.keys().cloned().collect();
        let mut total = 0;
        for name in names {
            weight.measure(&name)?;
            let size = weight.known.get(&name).copied().unwrap_or_default();
            within(&mut total, size, &format!("type `{}`", name.1))?;
        }
        let mut environments = 0_usize;
        for (namespace, definition) in &fragment.0 {
            let namespace = namespace.as_ref().map(ToString::to_string).unwrap_or_default();
            weight.entity_types(&namespace, definition, &mut total)?;
            weight.actions(&namespace, definition, &mut total, &mut environments)?;
        }
        hierarchy(&entity_parents(fragment), "entity types")?;
        hierarchy(&action_parents(fragment), "actions")
    }

    fn entity_types(
        &mut self,
        namespace: &str,
        definition: &'a NamespaceDefinition<RawName>,
        total: &mut usize,
    ) -> Result<(), PolicyError> {
        for (name, entity) in &definition.entity_types {
            let EntityTypeKind::Standard(standard) = &entity.kind else { continue };
            for ty in [Some(&standard.shape.0), standard.tags.as_ref()].into_iter().flatten() {
                let size = self.of_type(namespace, ty);
                within(total, size, &format!("entity type `{name}`"))?;
            }
        }
        Ok(())
    }

    fn actions(
        &mut self,
        namespace: &str,
        definition: &'a NamespaceDefinition<RawName>,
        total: &mut usize,
        environments: &mut usize,
    ) -> Result<(), PolicyError> {
        for (name, action) in &definition.actions {
            let Some(applies) = &action.applies_to else { continue };
            let size = self.of_type(namespace, &applies.context.0);
            within(total, size, &format!("the context of action `{name}`"))?;
            *environments += applies.principal_types.len() * applies.resource_types.len();
            if *environments > MAX_ENVIRONMENTS {
                return Err(bound(format!(
                    "its actions apply to more than {MAX_ENVIRONMENTS} combinations of principal \
                     and resource types, up to action `{name}`; divide the service"
                )));
            }
        }
        Ok(())
    }

    /// Measures a common type and all that it names, the innermost first.
    fn measure(&mut self, name: &Name) -> Result<(), PolicyError> {
        let mut open = vec![(name.clone(), false)];
        let mut on_path = BTreeSet::new();
        while let Some((name, entered)) = open.pop() {
            if self.known.contains_key(&name) {
                continue;
            }
            let Some(ty) = self.common.get(&name).copied() else { continue };
            if entered {
                let size = self.of_type(&name.0, ty);
                within(&mut 0, size, &format!("type `{}`", name.1))?;
                on_path.remove(&name);
                self.known.insert(name, size);
                continue;
            }
            // A circle is an error of the schema; Cedar names it before it writes anything out.
            if !on_path.insert(name.clone()) {
                continue;
            }
            let mut named = Vec::new();
            self.references(&name.0, ty, &mut named);
            open.push((name, true));
            open.extend(named.into_iter().map(|name| (name, false)));
        }
        Ok(())
    }

    /// The common types that a type names. Recurses as deep as the text nests, which is bounded.
    fn references(&self, namespace: &str, ty: &Type<RawName>, into: &mut Vec<Name>) {
        match ty {
            Type::CommonTypeRef { type_name, .. }
            | Type::Type { ty: TypeVariant::EntityOrCommon { type_name }, .. } => {
                into.extend(self.resolved(namespace, type_name));
            }
            Type::Type { ty: TypeVariant::Set { element }, .. } => {
                self.references(namespace, element, into);
            }
            Type::Type { ty: TypeVariant::Record(record), .. } => {
                for member in record.attributes.values() {
                    self.references(namespace, &member.ty, into);
                }
            }
            Type::Type { .. } => {}
        }
    }

    /// The size of a type, where the sizes of all common types that it names are known.
    fn of_type(&self, namespace: &str, ty: &Type<RawName>) -> Size {
        let below = match ty {
            Type::CommonTypeRef { type_name, .. }
            | Type::Type { ty: TypeVariant::EntityOrCommon { type_name }, .. } => {
                let name = self.resolved(namespace, type_name);
                return name
                    .and_then(|name| self.known.get(&name))
                    .copied()
                    .unwrap_or(Size { types: 1, depth: 1 });
            }
            Type::Type { ty: TypeVariant::Set { element }, .. } => self.of_type(namespace, element),
            Type::Type { ty: TypeVariant::Record(record), .. } => {
                let mut sum = Size::default();
                for member in record.attributes.values() {
                    let size = self.of_type(namespace, &member.ty);
                    sum.types = sum.types.saturating_add(size.types);
                    sum.depth = sum.depth.max(size.depth);
                }
                sum
            }
            Type::Type { .. } => Size::default(),
        };
        Size { types: below.types.saturating_add(1), depth: below.depth + 1 }
    }

    /// A name without a namespace is of the namespace it is used in, else of none.
    fn resolved(&self, namespace: &str, name: &RawName) -> Option<Name> {
        let text = name.to_string();
        match text.rsplit_once("::") {
            Some((namespace, name)) => Some((namespace.to_owned(), name.to_owned())),
            None => [namespace, ""]
                .into_iter()
                .map(|namespace| (namespace.to_owned(), text.clone()))
                .find(|name| self.common.contains_key(name)),
        }
    }
}

/// Adds to a schema's types, within the bounds.
fn within(total: &mut usize, size: Size, what: &str) -> Result<(), PolicyError> {
    if size.depth > MAX_DEPTH {
        return Err(bound(format!(
            "{what} nests more than {MAX_DEPTH} levels deep, at most {MAX_DEPTH} are allowed; the \
             types that it names count"
        )));
    }
    *total = total.saturating_add(size.types);
    if *total > MAX_TYPES {
        return Err(bound(format!(
            "written out, it has more than {MAX_TYPES} types, up to {what}; common types that name \
             each other multiply"
        )));
    }
    Ok(())
}

fn bound(message: String) -> PolicyError {
    PolicyError { is_bound: true, ..PolicyError::whole(message) }
}

/// From a type or action to those that it is in.
type Parents = BTreeMap<Name, Vec<Name>>;

fn entity_parents(fragment: &Fragment<RawName>) -> Parents {
    let mut parents = Parents::new();
    for (namespace, definition) in &fragment.0 {
        let namespace = namespace.as_ref().map(ToString::to_string).unwrap_or_default();
        for (name, entity) in &definition.entity_types {
            let EntityTypeKind::Standard(standard) = &entity.kind else { continue };
            let above = standard.member_of_types.iter().map(|name| {
                let name = name.to_string();
                match name.rsplit_once("::") {
                    Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
                    None => (namespace.clone(), name),
                }
            });
            parents.insert((namespace.clone(), name.to_string()), above.collect());
        }
    }
    resolved_parents(parents)
}

fn action_parents(fragment: &Fragment<RawName>) -> Parents {
    let mut parents = Parents::new();
    for (namespace, definition) in &fragment.0 {
        let namespace = namespace.as_ref().map(ToString::to_string).unwrap_or_default();
        for (name, action) in &definition.actions {
            let above = action.member_of.iter().flatten().map(|group| {
                let ty = group.ty.as_ref().map(ToString::to_string).unwrap_or_default();
                let of = ty.strip_suffix("::Action").unwrap_or(&namespace);
                (of.to_owned(), group.id.to_string())
            });
            parents.insert((namespace.clone(), name.to_string()), above.collect());
        }
    }
    resolved_parents(parents)
}

/// What is not in its namespace is in none.
fn resolved_parents(mut parents: Parents) -> Parents {
    let names: BTreeSet<Name> = parents.keys().cloned().collect();
    for name in parents.values_mut().flatten() {
        if !names.contains(name) {
            name.0.clear();
        }
    }
    parents
}

/// Counts all pairs of a member and one above it, up to the bound.
fn hierarchy(parents: &Parents, what: &str) -> Result<(), PolicyError> {
    let mut pairs = 0;
    for start in parents.keys() {
        let mut seen: BTreeSet<&Name> = BTreeSet::new();
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            for parent in parents.get(at).into_iter().flatten() {
                if seen.insert(parent) {
                    pairs += 1;
                    open.push(parent);
                }
            }
            if pairs > MAX_HIERARCHY {
                return Err(bound(format!(
                    "its {what} are in each other in more than {MAX_HIERARCHY} ways, direct and \
                     indirect; make the hierarchy flatter"
                )));
            }
        }
    }
    Ok(())
}
