//! Conditions over the few entities they can reach.
//!
//! The slice is built once per decision, for all conditions whose scopes matched.
//! INVARIANT: an entity that an evaluation dereferences is in the slice if it exists; see
//! `Needs` for why following named attributes to a depth finds all of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cedar_policy_core::ast::{
    BinaryOp, Context, Entity, EntityUID, EntityUIDEntry, Expr, ExprKind, Literal, PartialValue,
    Request, UnaryOp, Value, ValueKind,
};
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::evaluator::{EvaluationError, Evaluator, unary_app};
use cedar_policy_core::extensions::Extensions;
use smol_str::SmolStr;

use super::parse::{Ancestors, Condition, Needs};
use super::schema::Schema;
use super::value::ValueProblem;
use super::{Attributes, CedarUid, Record, texts};

/// The entities a slice is cut from.
pub(in crate::world) trait Store {
    /// What is known of an entity; none if it does not exist.
    fn facts(&self, kind: &str, id: &str) -> Option<Facts<'_>>;
    /// All ancestors of an entity.
    fn ancestors(&self, kind: &str, id: &str) -> Vec<CedarUid>;
    /// Which of these are ancestors of an entity.
    fn ancestors_among(&self, kind: &str, id: &str, groups: &[CedarUid]) -> Vec<CedarUid>;
}

/// An existing entity's attributes: of the directory, then of the service, which override.
pub(in crate::world) struct Facts<'a> {
    pub(in crate::world) layers: [Option<&'a Attributes>; 2],
}

/// Principal, action or resource of a question.
pub(in crate::world) struct Subject {
    pub(in crate::world) uid: CedarUid,
    /// Properties that overlay the attributes.
    pub(in crate::world) properties: Record,
}

/// A question in the evaluator's terms.
pub(in crate::world) struct Question {
    pub(in crate::world) principal: Subject,
    pub(in crate::world) action: Subject,
    pub(in crate::world) resource: Subject,
    pub(in crate::world) context: Record,
}

impl Question {
    /// Whether the schema knows such a request; if not, why.
    pub(in crate::world) fn known_to(&self, schema: &Schema) -> Result<(), String> {
        schema.knows(&self.principal.uid, &self.action.uid, &self.resource.uid)
    }

    /// Gives context and properties the schema's types, and drops what it does not know.
    pub(in crate::world) fn fit(&mut self, schema: &Schema) -> Result<(), ValueProblem> {
        let context = std::mem::take(&mut self.context.0);
        self.context.0 =
            schema.context(&self.action.uid, context).map_err(|p| p.below("context"))?;
        for (subject, path) in [
            (&mut self.principal, "principal.properties"),
            (&mut self.resource, "resource.properties"),
        ] {
            let properties = std::mem::take(&mut subject.properties.0);
            subject.properties.0 = schema
                .properties(subject.uid.entity_type(), properties)
                .map_err(|p| p.below(path))?;
        }
        Ok(())
    }

    /// The properties that overlay this entity; both, should principal and resource be one.
    fn overlay(&self, uid: &CedarUid) -> impl Iterator<Item = (&SmolStr, &Value)> {
        [&self.principal, &self.resource]
            .into_iter()
            .filter(|subject| !subject.properties.0.is_empty() && subject.uid == *uid)
            .flat_map(|subject| &subject.properties.0)
    }
}

/// Why a condition has no truth value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::world) enum Failure {
    /// It fails on this request, with Cedar's message; Cedar skips the policy.
    Error(String),
    /// It was not evaluated to its end: what it would say is not known.
    Undecided(String),
}

/// Evaluates conditions, each to its truth or to why it has none.
pub(in crate::world) fn evaluate<'c>(
    question: &Question,
    schema: Option<&Schema>,
    store: &impl Store,
    conditions: impl Iterator<Item = &'c Condition> + Clone,
) -> Vec<Result<bool, Failure>> {
    let mut rest = conditions.clone();
    let joined;
    let needs = match (rest.next(), rest.next()) {
        (None, _) => return Vec::new(),
        (Some(one), None) => &one.needs,
        _ => {
            let mut needs = Needs::default();
            conditions.clone().for_each(|condition| needs.join(&condition.needs));
            needs.seal();
            joined = needs;
            &joined
        }
    };
    let evaluated = with_evaluator(question, schema, store, needs, |evaluator| {
        let no_slots = Default::default();
        let of = |condition: &Condition| {
            if let Some(reason) = &condition.refused {
                return Err(Failure::Undecided(reason.to_string()));
            }
            match evaluator.interpret(&condition.expr, &no_slots) {
                Ok(value) => truth(value).map_err(Failure::Error),
                Err(error @ EvaluationError::RecursionLimit(_)) => {
                    Err(Failure::Undecided(format!("{error}; call from a thread with more stack")))
                }
                Err(error) => Err(Failure::Error(error.to_string())),
            }
        };
        conditions.clone().map(of).collect()
    });
    evaluated
        .unwrap_or_else(|error| conditions.map(|_| Err(Failure::Error(error.clone()))).collect())
}

/// Runs something with an evaluator of the question, over the entities that these needs can reach.
fn with_evaluator<T>(
    question: &Question,
    schema: Option<&Schema>,
    store: &impl Store,
    needs: &Needs,
    work: impl FnOnce(&Evaluator<'_>) -> T,
) -> Result<T, String> {
    let extensions = Extensions::all_available();
    let slice = Slice { question, schema, store, needs }.cut();
    let entities = Entities::new().add_entities(
        slice,
        None::<&NoEntitiesSchema>,
        TCComputation::AssumeAlreadyComputed,
        extensions,
    );
    let entities = entities.map_err(|error| error.to_string())?;
    let known = |subject: &Subject| EntityUIDEntry::known(subject.uid.clone(), None);
    let request = Request::new_unchecked(
        known(&question.principal),
        known(&question.action),
        known(&question.resource),
        Some(Context::Value(Arc::new(question.context.0.clone()))),
    );
    Ok(work(&Evaluator::new(request, &entities, extensions)))
}

/// A part of a condition, and what it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The part, in Cedar: an attribute, or a test of one or of a membership.
    pub part: String,
    /// Its value, in Cedar, or Cedar's error.
    pub value: String,
}

/// Parts of a condition that are told; each at most of so many bytes.
const SEEN: usize = 24;
const SEEN_BYTES: usize = 512;

/// What a condition reads of the request and of entities, and what it finds there.
pub(in crate::world) fn seen(
    question: &Question,
    schema: Option<&Schema>,
    store: &impl Store,
    condition: &Condition,
) -> Vec<Seen> {
    let reads = |expr: &&Expr| match expr.expr_kind() {
        ExprKind::GetAttr { .. } | ExprKind::HasAttr { .. } | ExprKind::ExtHasAttr { .. } => true,
        ExprKind::BinaryApp { op, .. } => {
            matches!(op, BinaryOp::In | BinaryOp::GetTag | BinaryOp::HasTag)
        }
        _ => false,
    };
    if condition.refused.is_some() {
        return Vec::new();
    }
    let found = with_evaluator(question, schema, store, &condition.needs, |evaluator| {
        let no_slots = Default::default();
        let mut found: Vec<Seen> = Vec::new();
        for expr in condition.expr.subexpressions().filter(reads) {
            let part = cut(expr.to_string());
            // What is read on the way to something else is in that.
            let is_told = found.iter().any(|seen| {
                seen.part
                    .strip_prefix(&part)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            });
            if is_told {
                continue;
            }
            if found.len() >= SEEN {
                break;
            }
            let value = match evaluator.interpret(expr, &no_slots) {
                Ok(value) => value.to_string(),
                Err(error) => format!("error: {error}"),
            };
            found.push(Seen { part, value: cut(value) });
        }
        found
    });
    found.unwrap_or_default()
}

fn cut(mut text: String) -> String {
    if text.len() > SEEN_BYTES {
        let end = (0..=SEEN_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push_str(" ..");
    }
    text
}

/// The value as a truth value; of any other, Cedar's own type error.
fn truth(value: Value) -> Result<bool, String> {
    match value.value_kind() {
        ValueKind::Lit(Literal::Bool(bool)) => Ok(*bool),
        _ => unary_app(UnaryOp::Not, value, None).map(|_| false).map_err(|error| error.to_string()),
    }
}

struct Slice<'a, S> {
    question: &'a Question,
    schema: Option<&'a Schema>,
    store: &'a S,
    needs: &'a Needs,
}

impl<S: Store> Slice<'_, S> {
    fn cut(&self) -> Vec<Arc<Entity>> {
        let (needs, question) = (self.needs, self.question);
        let mut reached = Reached::default();
        for (needed, subject) in [
            (needs.principal, &question.principal),
            (needs.action, &question.action),
            (needs.resource, &question.resource),
        ] {
            if needed {
                reached.add(&subject.uid);
            }
        }
        needs.literals.iter().for_each(|uid| reached.add(uid));
        if needs.context {
            self.follow(question.context.0.iter(), &mut reached);
        }
        let mut slice = Vec::new();
        let (mut done, mut depth) = (0, 0);
        while done < reached.list.len() {
            // One level: everything that was reached with `depth` accesses.
            let level = reached.list.len();
            while done < level {
                let Some(uid) = reached.list.get(done).cloned() else { break };
                done += 1;
                let Some(entity) = self.entity(&uid) else { continue };
                if depth < needs.depth {
                    let values = entity.attrs().filter_map(|(name, value)| match value {
                        PartialValue::Value(value) => Some((name, value)),
                        PartialValue::Residual(_) => None,
                    });
                    self.follow(values, &mut reached);
                    if needs.tags {
                        for (_, tag) in entity.tags() {
                            if let PartialValue::Value(tag) = tag {
                                self.follow_value(tag, &mut reached);
                            }
                        }
                    }
                }
                slice.push(entity);
            }
            depth += 1;
        }
        slice
    }

    fn follow<'v>(
        &self,
        members: impl Iterator<Item = (&'v SmolStr, &'v Value)>,
        reached: &mut Reached,
    ) {
        for (name, value) in members {
            if self.needs.names(name) {
                self.follow_value(value, reached);
            }
        }
    }

    fn follow_value(&self, value: &Value, reached: &mut Reached) {
        match value.value_kind() {
            ValueKind::Lit(Literal::EntityUID(uid)) => reached.add(uid),
            ValueKind::Record(members) => self.follow(members.iter(), reached),
            // Nothing can be taken out of a set.
            ValueKind::Lit(_) | ValueKind::Set(_) | ValueKind::ExtensionValue(_) => {}
        }
    }

    fn entity(&self, uid: &CedarUid) -> Option<Arc<Entity>> {
        let (kind, id) = texts(uid);
        let ancestors = match &self.needs.ancestors {
            Ancestors::None => Vec::new(),
            Ancestors::Among(groups) => self.store.ancestors_among(&kind, id, groups),
            Ancestors::All => self.store.ancestors(&kind, id),
        };
        let facts = self.store.facts(&kind, id);
        let overlay = self.question.overlay(uid);
        let mut overlay = overlay.peekable();
        if overlay.peek().is_none() {
            match &facts {
                None if ancestors.is_empty() => return None,
                // The entity as it is stored.
                Some(Facts { layers: [Some(only), None] | [None, Some(only)] })
                    if ancestors.is_empty() && self.schema.is_none() =>
                {
                    return Some(Arc::clone(&only.0));
                }
                _ => {}
            }
        }
        let (mut attrs, mut tags) = (BTreeMap::new(), BTreeMap::new());
        let layers = facts.iter().flat_map(|facts| facts.layers.into_iter().flatten());
        for Attributes(stored) in layers {
            for (name, value) in stored.attrs() {
                if let Some(value) = self.attribute(uid, name, value) {
                    attrs.insert(name.clone(), value);
                }
            }
            for (name, value) in stored.tags() {
                if let Some(value) = self.tag(uid, value) {
                    tags.insert(name.clone(), value);
                }
            }
        }
        for (name, value) in overlay {
            attrs.insert(name.clone(), PartialValue::Value(value.clone()));
        }
        Some(Arc::new(Entity::new_with_attr_partial_value(
            uid.clone(),
            attrs,
            HashSet::new(),
            ancestors.into_iter().collect(),
            tags,
        )))
    }

    fn attribute(&self, uid: &CedarUid, name: &str, value: &PartialValue) -> Option<PartialValue> {
        match (self.schema, value) {
            (Some(schema), PartialValue::Value(value)) => {
                schema.attribute(uid.entity_type(), name, value).map(PartialValue::Value)
            }
            _ => Some(value.clone()),
        }
    }

    fn tag(&self, uid: &CedarUid, value: &PartialValue) -> Option<PartialValue> {
        match (self.schema, value) {
            (Some(schema), PartialValue::Value(value)) => {
                schema.tag(uid.entity_type(), value).map(PartialValue::Value)
            }
            _ => Some(value.clone()),
        }
    }
}

/// Entities in the order in which they were reached, each once.
#[derive(Default)]
struct Reached {
    list: Vec<CedarUid>,
    set: HashSet<CedarUid>,
}

impl Reached {
    /// Up to this many are compared one by one.
    const FEW: usize = 8;

    fn add(&mut self, uid: &EntityUID) {
        let known =
            if self.set.is_empty() { self.list.contains(uid) } else { self.set.contains(uid) };
        if known {
            return;
        }
        self.list.push(uid.clone());
        if !self.set.is_empty() {
            self.set.insert(uid.clone());
        } else if self.list.len() > Self::FEW {
            self.set.extend(self.list.iter().cloned());
        }
    }
}
