//! Why a decision is what it is, for people: the texts of the policies that determined it, and
//! the permits that came near.
//!
//! This walks all policies of the service; it is for `check --explain`, not for a gate.

use std::fmt::Write as _;

use super::World;
use super::closure::Graph;
use super::conditions::{Failure, Question, Schema, Seen, seen};
use super::decide::{Case, with_scratch};
use super::index::{ActionScope, Policy, Scope};
use super::names::{Id, Names};
use super::part::{Body, Part, Stored};
use super::path::{PathStep, Reached};
use super::prepared::Prepared;
use crate::decision::{Decision, PolicyName, Query, QueryError};
use crate::model::{ItemKey, Kind, Uid};

/// At most this many near misses are given, the nearest first.
const MAX_NEAR: usize = 10;

/// At most this many of the policies that determined it are given with their texts.
const MAX_DETERMINING: usize = 100;

/// Conditions that are evaluated in search of near misses.
const MAX_CONDITIONS: usize = 1_000;

/// Letters of a name that are compared with others.
const MAX_SLIPPED: usize = 200;

/// A policy's text is cut off here, in bytes.
const MAX_TEXT: usize = 16 << 10;

/// A decision and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The determining policies, in the decision's order, the first hundred.
    pub determining: Vec<Determining>,
    /// Permits that did not match and how far they were from it; empty if the answer is allow.
    pub near: Vec<NearMiss>,
    /// The other policies that came near: forbids, and where the answer is allow, permits.
    pub others: Vec<NearMiss>,
    /// What is remarkable about the question, such as an entity that nothing is known of.
    pub notes: Vec<String>,
}

/// A policy that determined the decision, and how it matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Determining {
    /// The policy.
    pub policy: PolicyText,
    /// The item that it is.
    pub item: ItemKey,
    /// From the principal to the entity that the policy names; empty where it names itself or nobody.
    pub principal: Vec<PathStep>,
    /// The same from the resource.
    pub resource: Vec<PathStep>,
    /// What its condition saw.
    pub seen: Vec<Seen>,
}

/// A policy and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// The policy's id.
    pub id: PolicyName,
    /// Its text; of a link the template's with the slots' values, of a grant what it stands for.
    pub text: String,
}

/// A policy that does not match by one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The policy.
    pub policy: PolicyText,
    /// Whether it forbids; else it permits.
    pub forbid: bool,
    /// The one thing, in words.
    pub why: String,
    /// What its condition saw, where that is the one thing.
    pub seen: Vec<Seen>,
}

impl World {
    /// Decides and says why.
    pub fn explain(&self, query: &Query<'_>) -> Result<Explanation, QueryError> {
        let decision = self.decide(query)?;
        let part = self.part_of(query.service)?;
        let mut held = Vec::new();
        part.policies.for_each(&mut |stored: &Stored| {
            if let Some(policy) = stored.body.policy() {
                held.push((stored, &**policy));
            }
        });
        held.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        with_scratch(|scratch| {
            let case = Case::new(&self.inner, part, query, Prepared::nothing(), scratch)?;
            let mut look = Look::new(self, case, query)?;
            let told = decision.determining.iter().take(MAX_DETERMINING);
            let determining = told.filter_map(|name| {
                let at = held.binary_search_by(|(_, policy)| policy.name.cmp(name)).ok()?;
                let (stored, policy) = held.get(at)?;
                Some(look.determining(stored, policy))
            });
            let determining = determining.collect();
            let notes = look.notes();
            let (near, others) = match look.refused.take() {
                Some(refused) => (vec![refused], Vec::new()),
                None => look.near_misses(&decision, &held),
            };
            Ok(Explanation { decision, determining, near, others, notes })
        })
    }
}

/// A question that is looked at closely.
struct Look<'a> {
    world: &'a World,
    case: Case<'a>,
    query: &'a Query<'a>,
    question: Question,
    /// Why the service's schema does not know the request.
    refused: Option<NearMiss>,
}

impl<'a> Look<'a> {
    fn new(world: &'a World, mut case: Case<'a>, query: &'a Query<'a>) -> Result<Self, QueryError> {
        let mut question = case.question()?;
        let mut refused = None;
        if let Some(schema) = &case.part.schema {
            if let Err(why) = question.known_to(schema) {
                let text = "(the service's schema)".to_owned();
                let policy = PolicyText { id: "schema".into(), text };
                let why = format!("{why}{}", suggestion(schema, query));
                refused = Some(NearMiss { policy, forbid: false, why, seen: Vec::new() });
            } else {
                // The decision before has shown that the values fit.
                let _ = question.fit(schema);
            }
        }
        Ok(Look { world, case, query, question, refused })
    }

    fn names(&self) -> &'a Names {
        &self.world.inner.names
    }

    fn determining(&self, stored: &Stored, policy: &Policy) -> Determining {
        Determining {
            policy: policy_text(self.names(), self.case.part, stored, policy),
            item: ItemKey::new(&**self.case.part.name(), stored.kind, &*stored.id),
            principal: self.path(self.query.principal, policy.principal),
            resource: self.path(self.query.resource, policy.resource),
            seen: self.seen(policy),
        }
    }

    fn path(&self, from: &Uid, scope: Scope) -> Vec<PathStep> {
        match scope {
            Scope::In(id) | Scope::IsIn(_, id) => {
                match self.world.path(self.case.graph, self.case.part, from, id) {
                    Reached::By(steps) => steps,
                    Reached::Not => Vec::new(),
                }
            }
            _ => Vec::new(),
        }
    }

    fn seen(&self, policy: &Policy) -> Vec<Seen> {
        let Some(condition) = &policy.condition else { return Vec::new() };
        seen(&self.question, self.case.part.schema.as_deref(), &self.case.graph, condition)
    }

    /// What nothing is known of.
    fn notes(&self) -> Vec<String> {
        let graph = self.case.graph;
        let mut notes = Vec::new();
        let principal = self.query.principal;
        let is_known = self.names().uid(principal).is_some_and(|id| {
            [graph.directory, graph.service].iter().any(|layer| layer.slot(id).is_some())
        });
        if !is_known && self.query.principal_parents.is_empty() {
            notes.push(format!("`{principal}` is not stored, and is in nothing"));
        }
        notes
    }

    /// The permits that came near where the answer is a denial, and the other policies that did.
    fn near_misses(
        &self,
        decision: &Decision,
        held: &[(&Stored, &Policy)],
    ) -> (Vec<NearMiss>, Vec<NearMiss>) {
        let mut near = Nearest::default();
        let mut others = Nearest::default();
        let mut conditions = 0;
        for (stored, policy) in held {
            let list = if policy.forbid || decision.is_allowed() { &mut others } else { &mut near };
            let Some((why, is_scope)) = self.why_not(policy, &mut conditions, list) else {
                continue;
            };
            let seen = if is_scope { Vec::new() } else { self.seen(policy) };
            let policy_text = policy_text(self.names(), self.case.part, stored, policy);
            let miss = NearMiss { policy: policy_text, forbid: policy.forbid, why: cut(why), seen };
            if is_scope { list.by_scope.push(miss) } else { list.by_condition.push(miss) }
        }
        (near.first(), others.first())
    }

    /// The one thing by which a policy does not match, and whether it is its scope; none: it matches,
    /// or it is farther away, or there are enough.
    fn why_not(
        &self,
        policy: &Policy,
        conditions: &mut usize,
        list: &Nearest,
    ) -> Option<(String, bool)> {
        if list.by_condition.len() >= MAX_NEAR {
            return None;
        }
        let ask = &self.case.ask;
        let misses = [
            !ask.principal.matches(policy.principal),
            !ask.matches_action(&policy.action),
            !ask.resource.matches(policy.resource),
        ];
        if policy.until <= self.case.graph.now {
            let fits = misses == [false; 3];
            return fits.then(|| ("the grant has ended".to_owned(), false));
        }
        match misses {
            [false, false, false] if policy.condition.is_some() && *conditions < MAX_CONDITIONS => {
                *conditions += 1;
                match self.case.evaluate(&self.question, &[policy]).pop() {
                    Some(Ok(false)) => Some(("its condition is false".to_owned(), false)),
                    Some(Err(Failure::Error(message) | Failure::Undecided(message))) => {
                        Some((format!("its condition fails: {message}"), false))
                    }
                    _ => None,
                }
            }
            // Who asks is the usual reason: a role that is not held.
            _ if list.by_scope.len() >= MAX_NEAR => None,
            [true, false, false] => {
                Some((self.not_in(self.query.principal, "principal", policy.principal), true))
            }
            [false, true, false] => {
                let scope = action_text(self.names(), &policy.action);
                let nearest = self.nearest_action(&policy.action);
                Some((format!("`{}` does not match `{scope}`{nearest}", self.query.action), true))
            }
            [false, false, true] => {
                Some((self.not_in(self.query.resource, "resource", policy.resource), true))
            }
            _ => None,
        }
    }

    /// Why an entity does not match a scope.
    fn not_in(&self, uid: &Uid, variable: &str, scope: Scope) -> String {
        let Scope::In(id) = scope else {
            return format!(
                "`{uid}` does not match `{}`",
                scope_text(self.names(), variable, scope)
            );
        };
        let to = self.names().to_uid(id);
        // A membership that has ended is no path any more.
        let ever = Graph { now: 0, ..self.case.graph };
        if self.case.graph.now > 0
            && let Reached::By(steps) = self.world.path(ever, self.case.part, uid, id)
        {
            let now = self.case.graph.now;
            let ended = steps.iter().find(|step| step.until_unix_s.is_some_and(|at| at <= now));
            if let Some(PathStep { entity, until_unix_s: Some(at), .. }) = ended {
                let at = crate::instant::to_text(*at);
                return format!(
                    "`{uid}` is not in `{to}` any more: its place in `{entity}` ended at {at}"
                );
            }
        }
        format!("`{uid}` is not in `{to}`")
    }

    /// An action that may be meant, where nothing names the one that is asked for.
    fn nearest_action(&self, scope: &ActionScope) -> String {
        if self.names().uid(self.query.action).is_some() {
            return String::new();
        }
        let ids: &[Id] = match scope {
            ActionScope::Any => &[],
            ActionScope::Eq(id) => std::slice::from_ref(id),
            ActionScope::In(ids) => ids,
        };
        let known = ids.iter().map(|id| self.names().to_uid(*id));
        meant(&self.query.action.id, known.map(|uid| uid.to_action_text()))
    }
}

/// Near misses, by how much is missing: a condition is nearer than a scope.
#[derive(Default)]
struct Nearest {
    by_condition: Vec<NearMiss>,
    by_scope: Vec<NearMiss>,
}

impl Nearest {
    fn first(self) -> Vec<NearMiss> {
        self.by_condition.into_iter().chain(self.by_scope).take(MAX_NEAR).collect()
    }
}

/// What may be meant in place of what the schema does not have.
fn suggestion(schema: &Schema, query: &Query<'_>) -> String {
    let types: Vec<String> = schema.types().collect();
    for uid in [query.principal, query.resource] {
        if !types.contains(&uid.kind) {
            return meant(&uid.kind, types.into_iter());
        }
    }
    let actions: Vec<Uid> = schema.actions().collect();
    if actions.contains(query.action) {
        return String::new();
    }
    meant(&query.action.id, actions.iter().map(Uid::to_action_text))
}

/// `, did you mean ..?`, where one of these is few slips away.
fn meant(wanted: &str, known: impl Iterator<Item = String>) -> String {
    let letters = |text: &str| -> String {
        text.chars().flat_map(char::to_lowercase).take(MAX_SLIPPED).collect()
    };
    let wanted = letters(wanted);
    let slips = known.map(|name| (strsim::osa_distance(&letters(&name), &wanted), name));
    let most = 2.max(wanted.chars().count() / 3);
    match slips.min() {
        Some((slips, name)) if slips <= most => format!(", did you mean `{name}`?"),
        _ => String::new(),
    }
}

/// A text that is not too long to be read.
pub(super) fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push_str(" ..");
    }
    text
}

pub(super) fn policy_text(
    names: &Names,
    part: &Part,
    stored: &Stored,
    policy: &Policy,
) -> PolicyText {
    let text = match &stored.body {
        Body::Policy { text, .. } => text.to_string(),
        Body::Link { link, .. } => {
            let template = match part.stored(Kind::Template, &link.template) {
                Some(Stored { body: Body::Template { text, .. }, .. }) => text,
                _ => "",
            };
            let mut head = format!("// link of template `{}`", link.template);
            for (slot, value) in [("?principal", &link.principal), ("?resource", &link.resource)] {
                if let Some(value) = value {
                    let _ = write!(head, ", {slot} = {value}");
                }
            }
            format!("{head}\n{template}")
        }
        _ => plain_text(names, policy),
    };
    PolicyText { id: policy.name.clone(), text: cut(text) }
}

fn plain_text(names: &Names, policy: &Policy) -> String {
    format!(
        "{} ({}, {}, {});",
        if policy.forbid { "forbid" } else { "permit" },
        scope_text(names, "principal", policy.principal),
        action_text(names, &policy.action),
        scope_text(names, "resource", policy.resource),
    )
}

pub(super) fn scope_text(names: &Names, variable: &str, scope: Scope) -> String {
    match scope {
        Scope::Any => variable.to_owned(),
        Scope::Is(kind) => format!("{variable} is {}", names.text(kind)),
        Scope::Eq(id) => format!("{variable} == {}", names.to_uid(id)),
        Scope::In(id) => format!("{variable} in {}", names.to_uid(id)),
        Scope::IsIn(kind, id) => {
            format!("{variable} is {} in {}", names.text(kind), names.to_uid(id))
        }
    }
}

pub(super) fn action_text(names: &Names, action: &ActionScope) -> String {
    match action {
        ActionScope::Any => "action".to_owned(),
        ActionScope::Eq(id) => format!("action == {}", names.to_uid(*id)),
        ActionScope::In(ids) => {
            let uids: Vec<String> = ids.iter().map(|id| names.to_uid(*id).to_string()).collect();
            format!("action in [{}]", uids.join(", "))
        }
    }
}
