//! Why a decision is what it is, for people: the texts of the policies that determined it, and
//! the permits that came near.
//!
//! This walks all policies of the service; it is for `check --explain`, not for a gate.

use std::fmt::Write as _;

use super::World;
use super::conditions::Failure;
use super::decide::{Case, with_scratch};
use super::index::{ActionScope, Policy, Scope};
use super::names::Names;
use super::part::{Body, Part, Stored};
use super::prepared::Prepared;
use crate::decision::{Decision, PolicyName, Query, QueryError};
use crate::model::Kind;

/// At most this many near misses are given, the nearest first.
const MAX_NEAR: usize = 10;

/// At most this many of the policies that determined it are given with their texts.
const MAX_DETERMINING: usize = 100;

/// Conditions that are evaluated in search of near misses.
const MAX_CONDITIONS: usize = 1_000;

/// A policy's text is cut off here, in bytes.
const MAX_TEXT: usize = 16 << 10;

/// A decision and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The determining policies, in the decision's order, the first hundred.
    pub determining: Vec<PolicyText>,
    /// Permits that did not match and how far they were from it; empty if the answer is allow.
    pub near: Vec<NearMiss>,
}

/// A policy and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// The policy's id.
    pub id: PolicyName,
    /// Its text; of a link the template's with the slots' values, of a grant what it stands for.
    pub text: String,
}

/// A permit that does not match by one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The policy.
    pub policy: PolicyText,
    /// The one thing, in words.
    pub why: String,
}

impl World {
    /// Decides and says why.
    pub fn explain(&self, query: &Query<'_>) -> Result<Explanation, QueryError> {
        let decision = self.decide(query)?;
        let part = self.part_of(query.service)?;
        let names = &self.inner.names;
        let mut held = Vec::new();
        part.policies.for_each(&mut |stored: &Stored| {
            if let Some(policy) = stored.body.policy() {
                held.push((stored, &**policy));
            }
        });
        held.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        let told = decision.determining.iter().take(MAX_DETERMINING);
        let determining = told.filter_map(|name| {
            let at = held.binary_search_by(|(_, policy)| policy.name.cmp(name)).ok()?;
            let (stored, policy) = held.get(at)?;
            Some(policy_text(names, part, stored, policy))
        });
        let determining = determining.collect();
        let near = if decision.is_allowed() {
            Vec::new()
        } else {
            with_scratch(|scratch| {
                let case = Case::new(&self.inner, part, query, Prepared::nothing(), scratch)?;
                near_misses(&self.inner.names, case, query, &held)
            })?
        };
        Ok(Explanation { decision, determining, near })
    }
}

fn near_misses(
    names: &Names,
    mut case: Case<'_>,
    query: &Query<'_>,
    held: &[(&Stored, &Policy)],
) -> Result<Vec<NearMiss>, QueryError> {
    let mut question = case.question()?;
    if let Some(schema) = &case.part.schema {
        if let Err(why) = question.known_to(schema) {
            let text = "(the service's schema)".to_owned();
            return Ok(vec![NearMiss { policy: PolicyText { id: "schema".into(), text }, why }]);
        }
        // The decision before has shown that the values fit.
        let _ = question.fit(schema);
    }
    // By how much is missing: a condition is nearer than a scope. Texts are made of what is told.
    let (mut by_condition, mut by_scope) = (Vec::new(), Vec::new());
    let mut conditions = 0;
    for (stored, policy) in held {
        if policy.forbid {
            continue;
        }
        if by_condition.len() >= MAX_NEAR {
            break;
        }
        if policy.until <= case.graph.now {
            let fits = case.ask.principal.matches(policy.principal)
                && case.ask.matches_action(&policy.action)
                && case.ask.resource.matches(policy.resource);
            if fits {
                let policy = policy_text(names, case.part, stored, policy);
                by_condition.push(NearMiss { policy, why: "the grant has ended".to_owned() });
            }
            continue;
        }
        let misses = [
            !case.ask.principal.matches(policy.principal),
            !case.ask.matches_action(&policy.action),
            !case.ask.resource.matches(policy.resource),
        ];
        let near = |why| NearMiss { policy: policy_text(names, case.part, stored, policy), why };
        let why = match misses {
            [false, false, false] if conditions < MAX_CONDITIONS => {
                conditions += 1;
                match case.evaluate(&question, &[policy]).pop() {
                    Some(Ok(false)) => by_condition.push(near("its condition is false".to_owned())),
                    Some(Err(Failure::Error(message) | Failure::Undecided(message))) => {
                        by_condition.push(near(format!("its condition fails: {message}")));
                    }
                    _ => {}
                }
                continue;
            }
            // Who asks is the usual reason: a role that is not held.
            _ if by_scope.len() >= MAX_NEAR => continue,
            [true, false, false] => {
                let scope = scope_text(names, "principal", policy.principal);
                format!("`{}` does not match `{scope}`", query.principal)
            }
            [false, true, false] => {
                let scope = action_text(names, &policy.action);
                format!("`{}` does not match `{scope}`", query.action)
            }
            [false, false, true] => {
                let scope = scope_text(names, "resource", policy.resource);
                format!("`{}` does not match `{scope}`", query.resource)
            }
            _ => continue,
        };
        by_scope.push(near(cut(why)));
    }
    Ok(by_condition.into_iter().chain(by_scope).take(MAX_NEAR).collect())
}

/// A text that is not too long to be read.
fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push_str(" ..");
    }
    text
}

fn policy_text(names: &Names, part: &Part, stored: &Stored, policy: &Policy) -> PolicyText {
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

fn scope_text(names: &Names, variable: &str, scope: Scope) -> String {
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

fn action_text(names: &Names, action: &ActionScope) -> String {
    match action {
        ActionScope::Any => "action".to_owned(),
        ActionScope::Eq(id) => format!("action == {}", names.to_uid(*id)),
        ActionScope::In(ids) => {
            let uids: Vec<String> = ids.iter().map(|id| names.to_uid(*id).to_string()).collect();
            format!("action in [{}]", uids.join(", "))
        }
    }
}
