//! Chains of `||` and `&&` as balanced trees.
//!
//! Cedar parses `a || b || c || d` as `((a || b) || c) || d`: as deep as it is long. Both
//! operators are associative, also in what they evaluate: from left to right until one term
//! decides or fails. So the tree `(a || b) || (c || d)` has the same value, the same error and the
//! same type, at the logarithm of the depth. The clauses of a policy are such a chain too.
//!
//! These functions recurse over the expression: they run where the stack suffices for it.

use std::sync::Arc;

use cedar_policy_core::ast::{Expr, ExprBuilder, ExprKind, Template};
use cedar_policy_core::expr_builder::ExprBuilder as _;
use cedar_policy_core::parser::Loc;

/// The same policy with balanced chains.
pub(super) fn balanced(template: Template) -> Template {
    let Some(condition) = template.non_scope_constraints() else {
        return template;
    };
    let condition = tree(condition);
    Template::new_shared(
        template.id().clone(),
        template.loc().cloned(),
        Arc::clone(template.annotations_arc()),
        template.effect(),
        template.principal_constraint().clone(),
        template.action_constraint().clone(),
        template.resource_constraint().clone(),
        Some(Arc::new(condition)),
    )
}

/// The height of a policy's condition; with the first expression that is deeper than `bound`.
pub(super) fn height(template: &Template, bound: usize) -> (usize, Option<Loc>) {
    let mut deep = None;
    let height = match template.non_scope_constraints() {
        Some(condition) => height_of(condition, 1, bound, &mut deep),
        None => 0,
    };
    (height, deep)
}

fn height_of(expr: &Expr, at: usize, bound: usize, deep: &mut Option<Loc>) -> usize {
    if at > bound && deep.is_none() {
        *deep = expr.source_loc().cloned();
    }
    // `a has b.c.d` is evaluated step by step.
    let own = match expr.expr_kind() {
        ExprKind::ExtHasAttr { attrs, .. } => attrs.len(),
        _ => 1,
    };
    let mut below = 0;
    each_child(expr, |child| below = below.max(height_of(child, at + own, bound, deep)));
    own + below
}

fn each_child(expr: &Expr, mut each: impl FnMut(&Expr)) {
    match expr.expr_kind() {
        ExprKind::Lit(_) | ExprKind::Var(_) | ExprKind::Slot(_) | ExprKind::Unknown(_) => {}
        ExprKind::If { test_expr, then_expr, else_expr } => {
            [test_expr, then_expr, else_expr].into_iter().for_each(|child| each(child));
        }
        ExprKind::And { left, right } | ExprKind::Or { left, right } => {
            [left, right].into_iter().for_each(|child| each(child));
        }
        ExprKind::BinaryApp { arg1, arg2, .. } => {
            [arg1, arg2].into_iter().for_each(|child| each(child));
        }
        ExprKind::UnaryApp { arg: child, .. }
        | ExprKind::GetAttr { expr: child, .. }
        | ExprKind::HasAttr { expr: child, .. }
        | ExprKind::ExtHasAttr { expr: child, .. }
        | ExprKind::Like { expr: child, .. }
        | ExprKind::Is { expr: child, .. } => each(child),
        ExprKind::ExtensionFunctionApp { args: children, .. } | ExprKind::Set(children) => {
            children.iter().for_each(each);
        }
        ExprKind::Record(members) => members.values().for_each(each),
    }
}

fn tree(expr: &Expr) -> Expr {
    let arc = |child: &Arc<Expr>| Arc::new(tree(child));
    let kind = match expr.expr_kind() {
        kind @ (ExprKind::Lit(_) | ExprKind::Var(_) | ExprKind::Slot(_) | ExprKind::Unknown(_)) => {
            kind.clone()
        }
        ExprKind::And { .. } | ExprKind::Or { .. } => {
            let terms: Vec<Arc<Expr>> =
                terms(expr).into_iter().map(|term| Arc::new(tree(term))).collect();
            return Arc::unwrap_or_clone(joined(&terms, expr));
        }
        ExprKind::If { test_expr, then_expr, else_expr } => ExprKind::If {
            test_expr: arc(test_expr),
            then_expr: arc(then_expr),
            else_expr: arc(else_expr),
        },
        ExprKind::UnaryApp { op, arg: child } => ExprKind::UnaryApp { op: *op, arg: arc(child) },
        ExprKind::BinaryApp { op, arg1, arg2 } => {
            ExprKind::BinaryApp { op: *op, arg1: arc(arg1), arg2: arc(arg2) }
        }
        ExprKind::ExtensionFunctionApp { fn_name, args } => ExprKind::ExtensionFunctionApp {
            fn_name: fn_name.clone(),
            args: Arc::new(args.iter().map(tree).collect()),
        },
        ExprKind::GetAttr { expr, attr } => {
            ExprKind::GetAttr { expr: arc(expr), attr: attr.clone() }
        }
        ExprKind::HasAttr { expr, attr } => {
            ExprKind::HasAttr { expr: arc(expr), attr: attr.clone() }
        }
        ExprKind::ExtHasAttr { expr, attrs } => {
            ExprKind::ExtHasAttr { expr: arc(expr), attrs: attrs.clone() }
        }
        ExprKind::Like { expr, pattern } => {
            ExprKind::Like { expr: arc(expr), pattern: pattern.clone() }
        }
        ExprKind::Is { expr, entity_type } => {
            ExprKind::Is { expr: arc(expr), entity_type: entity_type.clone() }
        }
        ExprKind::Set(items) => ExprKind::Set(Arc::new(items.iter().map(tree).collect())),
        ExprKind::Record(members) => ExprKind::Record(Arc::new(
            members.iter().map(|(name, member)| (name.clone(), tree(member))).collect(),
        )),
    };
    like(expr).with_expr_kind(kind)
}

/// The terms of a chain in the order of evaluation, found without recursion.
fn terms(chain: &Expr) -> Vec<&Expr> {
    let is_or = matches!(chain.expr_kind(), ExprKind::Or { .. });
    let (mut terms, mut open) = (Vec::new(), vec![chain]);
    while let Some(expr) = open.pop() {
        match expr.expr_kind() {
            ExprKind::Or { left, right } if is_or => open.extend([&**right, &**left]),
            ExprKind::And { left, right } if !is_or => open.extend([&**right, &**left]),
            _ => terms.push(expr),
        }
    }
    terms
}

/// A balanced tree over at least two terms; it recurses to the logarithm of their number.
fn joined(terms: &[Arc<Expr>], chain: &Expr) -> Arc<Expr> {
    match terms {
        [] => Arc::new(chain.clone()),
        [only] => Arc::clone(only),
        _ => {
            let (left, right) = terms.split_at(terms.len().div_ceil(2));
            let (left, right) = (joined(left, chain), joined(right, chain));
            let kind = match chain.expr_kind() {
                ExprKind::Or { .. } => ExprKind::Or { left, right },
                _ => ExprKind::And { left, right },
            };
            Arc::new(like(chain).with_expr_kind(kind))
        }
    }
}

fn like(expr: &Expr) -> ExprBuilder<()> {
    ExprBuilder::new().with_same_source_loc(expr)
}
