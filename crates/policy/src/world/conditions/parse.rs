//! Policy texts to scopes in words, and conditions with what they can reach.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use cedar_policy_core::ast::{
    ActionConstraint, BinaryOp, Effect, EntityReference, EntityUID, Expr, ExprKind, Literal,
    PrincipalOrResourceConstraint, Template, Var,
};
use smol_str::SmolStr;

use crate::cedar_text::{self, PolicyError, Sort};
use crate::model::Uid;

/// An entity in a scope, or the place for one.
#[derive(Clone, Debug)]
pub(in crate::world) enum Ref {
    Uid(Uid),
    Slot,
}

/// A constraint on principal or resource, in words.
#[derive(Clone, Debug)]
pub(in crate::world) enum ScopeText {
    Any,
    Is(String),
    Eq(Ref),
    In(Ref),
    IsIn(String, Ref),
}

/// A constraint on the action, in words.
#[derive(Clone, Debug)]
pub(in crate::world) enum ActionText {
    Any,
    Eq(Uid),
    In(Vec<Uid>),
}

/// A policy or template, taken apart.
#[derive(Debug)]
pub(in crate::world) struct Parsed {
    pub(in crate::world) forbid: bool,
    pub(in crate::world) principal: ScopeText,
    pub(in crate::world) action: ActionText,
    pub(in crate::world) resource: ScopeText,
    pub(in crate::world) condition: Option<Arc<Condition>>,
}

/// What `when` and `unless` say, and which entities that can touch.
#[derive(Debug)]
pub(in crate::world) struct Condition {
    pub(super) expr: Arc<Expr>,
    pub(super) needs: Needs,
    /// Why it cannot be evaluated at all.
    pub(super) refused: Option<Box<str>>,
}

impl Condition {
    /// Whether what it comes to may depend on the request's context, or is not known at all.
    pub(in crate::world) fn depends_on_request(&self) -> bool {
        let is_context = |expr: &Expr| matches!(expr.expr_kind(), ExprKind::Var(Var::Context));
        self.refused.is_some() || self.expr.subexpressions().any(is_context)
    }

    /// Its text, in Cedar.
    pub(in crate::world) fn text(&self) -> String {
        self.expr.to_string()
    }

    /// The entities that it names, some more than once; none: it was not read to its end.
    pub(in crate::world) fn named(&self) -> Option<impl Iterator<Item = &EntityUID>> {
        let found = self.expr.subexpressions().filter_map(|expr| match expr.expr_kind() {
            ExprKind::Lit(Literal::EntityUID(uid)) => Some(&**uid),
            _ => None,
        });
        self.refused.is_none().then_some(found)
    }
}

/// Which members and attributes conditions name.
#[derive(Clone, Debug, Default)]
pub(in crate::world) struct Accessed {
    pub(in crate::world) context: BTreeSet<SmolStr>,
    pub(in crate::world) claims: BTreeSet<SmolStr>,
    pub(in crate::world) attributes: BTreeSet<SmolStr>,
    /// The context is used other than by a member of a name.
    pub(in crate::world) whole_context: bool,
    pub(in crate::world) whole_claims: bool,
}

impl Condition {
    /// Adds what it names.
    pub(in crate::world) fn accesses(&self, accessed: &mut Accessed) {
        // Each use of a record is either below an access to a member of it, or one of it as a whole.
        let (mut contexts, mut of_context) = (0_usize, 0_usize);
        let (mut claims, mut of_claims) = (0_usize, 0_usize);
        for expr in self.expr.subexpressions() {
            let (below, name) = match expr.expr_kind() {
                ExprKind::Var(Var::Context) => {
                    contexts += 1;
                    continue;
                }
                ExprKind::GetAttr { expr, attr } | ExprKind::HasAttr { expr, attr } => (expr, attr),
                _ => continue,
            };
            accessed.attributes.insert(name.clone());
            claims += usize::from(is_claims(expr));
            if matches!(below.expr_kind(), ExprKind::Var(Var::Context)) {
                of_context += 1;
                accessed.context.insert(name.clone());
            } else if is_claims(below) {
                of_claims += 1;
                accessed.claims.insert(name.clone());
            }
        }
        accessed.whole_context |= contexts > of_context;
        accessed.whole_claims |= claims > of_claims;
    }
}

/// Whether it is `context.claims`.
fn is_claims(expr: &Expr) -> bool {
    let ExprKind::GetAttr { expr, attr } = expr.expr_kind() else { return false };
    attr == "claims" && matches!(expr.expr_kind(), ExprKind::Var(Var::Context))
}

/// Which entities a condition can dereference.
///
/// A value moves up the expression; what is dereferenced (by `.a`, `has`, `in`, tags) is a
/// request variable, a literal, or was taken out of one by the attribute accesses below it.
/// Elements of sets cannot be taken out in Cedar. So following the named attributes `depth`
/// times from the roots finds every entity that an evaluation can ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    pub(super) principal: bool,
    pub(super) action: bool,
    pub(super) resource: bool,
    pub(super) context: bool,
    /// Entities named in the policy that it dereferences.
    pub(super) literals: Vec<EntityUID>,
    /// Names of all attributes it accesses, sorted where there are many.
    names: Vec<SmolStr>,
    /// Whether it reads tags, whose names may be computed.
    pub(super) tags: bool,
    /// How many accesses deep a dereferenced value can come from.
    pub(super) depth: usize,
    pub(super) ancestors: Ancestors,
}

/// Which ancestors `in` asks about.
#[derive(Clone, Debug, Default)]
pub(super) enum Ancestors {
    #[default]
    None,
    /// Only these.
    Among(Vec<EntityUID>),
    /// The right side is not known before the evaluation.
    All,
}

impl Ancestors {
    pub(super) fn join(&mut self, other: &Ancestors) {
        match (&mut *self, other) {
            (_, Ancestors::None) | (Ancestors::All, _) => {}
            (_, Ancestors::All) => *self = Ancestors::All,
            (Ancestors::None, other) => *self = other.clone(),
            // Some may be there twice: to compare all with all takes the square of their number.
            (Ancestors::Among(held), Ancestors::Among(more)) => held.extend(more.iter().cloned()),
        }
    }
}

impl Needs {
    pub(super) fn join(&mut self, other: &Needs) {
        self.principal |= other.principal;
        self.action |= other.action;
        self.resource |= other.resource;
        self.context |= other.context;
        self.tags |= other.tags;
        self.depth = self.depth.max(other.depth);
        self.literals.extend(other.literals.iter().cloned());
        self.names.extend(other.names.iter().cloned());
        self.ancestors.join(&other.ancestors);
    }

    /// After the last [`Needs::join`].
    pub(super) fn seal(&mut self) {
        if self.names.len() > Needs::FEW {
            self.names.sort_unstable();
        }
    }

    /// Up to this many names are compared one by one.
    const FEW: usize = 32;

    /// Whether it accesses an attribute of this name.
    pub(super) fn names(&self, name: &SmolStr) -> bool {
        match self.names.len() > Needs::FEW {
            true => self.names.binary_search(name).is_ok(),
            false => self.names.contains(name),
        }
    }

    fn of(expr: &Expr) -> Needs {
        let mut needs = Needs::default();
        needs.walk(expr, false);
        needs.names.sort_unstable();
        needs.names.dedup();
        if let Ancestors::Among(groups) = &mut needs.ancestors {
            let mut seen = HashSet::new();
            groups.retain(|group| seen.insert(group.clone()));
        }
        needs
    }

    /// The number of accesses that a value of this expression can have gone through; `held`
    /// says that the value may be dereferenced further up.
    fn walk(&mut self, expr: &Expr, held: bool) -> usize {
        match expr.expr_kind() {
            ExprKind::Lit(Literal::EntityUID(uid)) => {
                if held {
                    self.literals.push(EntityUID::clone(uid));
                }
                0
            }
            ExprKind::Var(var) => {
                if held {
                    match var {
                        Var::Principal => self.principal = true,
                        Var::Action => self.action = true,
                        Var::Resource => self.resource = true,
                        Var::Context => self.context = true,
                    }
                }
                0
            }
            ExprKind::GetAttr { expr, attr } => {
                self.names.push(attr.clone());
                1 + self.dereference(expr)
            }
            ExprKind::HasAttr { expr, attr } => {
                self.names.push(attr.clone());
                self.dereference(expr)
            }
            ExprKind::ExtHasAttr { expr, attrs } => {
                self.names.extend(attrs.iter().cloned());
                let depth = self.walk(expr, true) + attrs.len() - 1;
                self.depth = self.depth.max(depth);
                depth
            }
            ExprKind::BinaryApp { op: BinaryOp::GetTag, arg1, arg2 } => {
                self.tags = true;
                let key = self.walk(arg2, held);
                key.max(1 + self.dereference(arg1))
            }
            ExprKind::BinaryApp { op: BinaryOp::HasTag, arg1, arg2 } => {
                let key = self.walk(arg2, held);
                key.max(self.dereference(arg1))
            }
            ExprKind::BinaryApp { op: BinaryOp::In, arg1, arg2 } => {
                let groups = match literal_uids(arg2) {
                    Some(uids) => Ancestors::Among(uids),
                    None => Ancestors::All,
                };
                self.ancestors.join(&groups);
                let right = self.walk(arg2, held);
                right.max(self.dereference(arg1))
            }
            ExprKind::BinaryApp { arg1, arg2, .. } => {
                self.walk(arg1, held).max(self.walk(arg2, held))
            }
            ExprKind::UnaryApp { arg, .. } => self.walk(arg, held),
            ExprKind::If { test_expr, then_expr, else_expr } => {
                let branches = self.walk(then_expr, held).max(self.walk(else_expr, held));
                branches.max(self.walk(test_expr, held))
            }
            ExprKind::And { left, right } | ExprKind::Or { left, right } => {
                self.walk(left, held).max(self.walk(right, held))
            }
            ExprKind::Like { expr, .. } | ExprKind::Is { expr, .. } => self.walk(expr, held),
            ExprKind::Set(items) => {
                items.iter().map(|item| self.walk(item, held)).max().unwrap_or(0)
            }
            ExprKind::Record(members) => {
                members.values().map(|member| self.walk(member, held)).max().unwrap_or(0)
            }
            ExprKind::ExtensionFunctionApp { args, .. } => {
                args.iter().map(|arg| self.walk(arg, held)).max().unwrap_or(0)
            }
            ExprKind::Lit(_) | ExprKind::Slot(_) | ExprKind::Unknown(_) => 0,
        }
    }

    fn dereference(&mut self, expr: &Expr) -> usize {
        let depth = self.walk(expr, true);
        self.depth = self.depth.max(depth);
        depth
    }
}

/// The entities of a literal or of a set of literals.
fn literal_uids(expr: &Expr) -> Option<Vec<EntityUID>> {
    match expr.expr_kind() {
        ExprKind::Lit(Literal::EntityUID(uid)) => Some(vec![EntityUID::clone(uid)]),
        ExprKind::Set(items) => {
            let uids = items.iter().map(literal_uids).collect::<Option<Vec<_>>>()?;
            Some(uids.into_iter().flatten().collect())
        }
        _ => None,
    }
}

/// A text that cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::world) enum Unreadable {
    /// It is no policy.
    Wrong(String),
    /// It may be a policy, but it is beyond a bound: it cannot be decided on.
    Beyond(String),
}

/// Takes exactly one policy or template apart.
pub(in crate::world) fn parse(text: &str) -> Result<Parsed, Unreadable> {
    let parsed = cedar_text::read(Sort::Any, None, text, |template| {
        // Through the JSON form, which has no source locations (see the module above).
        let est = cedar_policy_core::est::Policy::from(template);
        let template = est.try_into_ast_policy_or_template(None);
        template.map(|template| parsed(&template)).map_err(|e| PolicyError::whole(chain(&e)))
    });
    parsed.map_err(|error| match error.is_bound {
        true => Unreadable::Beyond(error.message),
        false => Unreadable::Wrong(error.message),
    })
}

fn parsed(template: &Template) -> Parsed {
    Parsed {
        forbid: template.effect() == Effect::Forbid,
        principal: scope(template.principal_constraint().as_inner()),
        action: match template.action_constraint() {
            ActionConstraint::Any => ActionText::Any,
            ActionConstraint::Eq(uid) => ActionText::Eq(uid_text(uid)),
            ActionConstraint::In(uids) => {
                ActionText::In(uids.iter().map(|uid| uid_text(uid)).collect())
            }
        },
        resource: scope(template.resource_constraint().as_inner()),
        condition: template.non_scope_constraints_arc().map(|expr| {
            let (needs, expr) = (Needs::of(expr), Arc::clone(expr));
            Arc::new(Condition { needs, expr, refused: None })
        }),
    }
}

impl Parsed {
    /// What stands for a policy beyond a bound: it matches every request, and none of them can be
    /// decided.
    pub(in crate::world) fn undecidable(reason: &str) -> Parsed {
        let condition = Condition {
            expr: Arc::new(Expr::val(false)),
            needs: Needs::default(),
            refused: Some(reason.into()),
        };
        Parsed {
            forbid: true,
            principal: ScopeText::Any,
            action: ActionText::Any,
            resource: ScopeText::Any,
            condition: Some(Arc::new(condition)),
        }
    }

    /// Whether it can be decided on.
    pub(in crate::world) fn is_decidable(&self) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.refused.is_none())
    }
}

fn scope(constraint: &PrincipalOrResourceConstraint) -> ScopeText {
    let reference = |reference: &EntityReference| match reference {
        EntityReference::EUID(uid) => Ref::Uid(uid_text(uid)),
        EntityReference::Slot(_) => Ref::Slot,
    };
    match constraint {
        PrincipalOrResourceConstraint::Any => ScopeText::Any,
        PrincipalOrResourceConstraint::In(entity) => ScopeText::In(reference(entity)),
        PrincipalOrResourceConstraint::Eq(entity) => ScopeText::Eq(reference(entity)),
        PrincipalOrResourceConstraint::Is(kind) => ScopeText::Is(kind.to_string()),
        PrincipalOrResourceConstraint::IsIn(kind, entity) => {
            ScopeText::IsIn(kind.to_string(), reference(entity))
        }
    }
}

pub(super) fn uid_text(uid: &EntityUID) -> Uid {
    Uid::new(uid.entity_type().to_string(), uid.eid().as_ref())
}

/// An error with its causes, which Cedar keeps apart.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
