//! Which entities a policy names, and whether it is bound to one: what is looked at before an entity
//! is deleted.

use cedar_policy_core::ast::{BinaryOp, Effect, Expr, ExprKind, Literal, Var};

use crate::cedar_text::{self, PolicyError, Sort};
use crate::model::Uid;

/// What a policy or template says about entities by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// Whether it permits; else it forbids.
    pub permits: bool,
    /// Entities without which it never applies: its scope, or a condition that must hold, says
    /// `principal in role::"x"`, `resource == photo::"y"`.
    pub bound: Vec<Uid>,
    /// All entities that it names, those included.
    pub named: Vec<Uid>,
}

impl Naming {
    /// Reads a policy or template; the error says why it cannot be read.
    pub fn of(text: &str) -> Result<Naming, String> {
        let naming = cedar_text::read(Sort::Any, None, text, |template| {
            let condition = template.condition();
            let mut bound = Vec::new();
            conjuncts(&condition, &mut bound);
            let mut named: Vec<Uid> = condition.subexpressions().filter_map(literal).collect();
            bound.sort();
            bound.dedup();
            named.sort();
            named.dedup();
            let permits = template.effect() == Effect::Permit;
            Ok(Naming { permits, bound, named })
        });
        naming.map_err(|error: PolicyError| error.message)
    }
}

/// The entities that the variables must be, or be in, for an expression to be true.
fn conjuncts(expr: &Expr, bound: &mut Vec<Uid>) {
    // A list in place of recursion: chains of `&&` may be long.
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        match expr.expr_kind() {
            ExprKind::And { left, right } => open.extend([&**left, &**right]),
            ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 } => {
                for (var, other) in [(arg1, arg2), (arg2, arg1)] {
                    if is_variable(var) {
                        bound.extend(literal(other));
                    }
                }
            }
            ExprKind::BinaryApp { op: BinaryOp::In, arg1, arg2 } if is_variable(arg1) => {
                match arg2.expr_kind() {
                    ExprKind::Set(items) if items.len() == 1 => {
                        bound.extend(items.iter().filter_map(literal));
                    }
                    _ => bound.extend(literal(arg2)),
                }
            }
            _ => {}
        }
    }
}

fn is_variable(expr: &Expr) -> bool {
    matches!(expr.expr_kind(), ExprKind::Var(Var::Principal | Var::Action | Var::Resource))
}

fn literal(expr: &Expr) -> Option<Uid> {
    match expr.expr_kind() {
        ExprKind::Lit(Literal::EntityUID(uid)) => {
            Some(Uid::new(uid.entity_type().to_string(), uid.eid().as_ref() as &str))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, permits: bool, bound: &[&str], named: &[&str]) {
        let naming = Naming::of(text).unwrap();
        let texts = |uids: &[Uid]| uids.iter().map(Uid::to_string).collect::<Vec<_>>();
        assert_eq!(naming.permits, permits, "{text}");
        assert_eq!(texts(&naming.bound), bound, "{text}");
        assert_eq!(texts(&naming.named), named, "{text}");
    }

    #[test]
    fn a_policy_is_bound_by_what_must_hold() {
        let (temp, eve) = ("role::\"temp\"", "user::\"eve\"");
        let permit = true;
        check("permit (principal, action, resource);", permit, &[], &[]);
        let scope = "permit (principal in role::\"temp\", action, resource);";
        check(scope, permit, &[temp], &[temp]);
        let when = "permit (principal, action, resource) when { true && principal == user::\"eve\" \
                    && context.x };";
        check(when, permit, &[eve], &[eve]);
        let escaped = "permit (principal == user::\"\\u{65}ve\", action, resource);";
        check(escaped, permit, &[eve], &[eve]);
        let set = "permit (principal, action, resource) when { principal in [role::\"temp\"] };";
        check(set, permit, &[temp], &[temp]);
        // Others may be permitted, too: it is not bound.
        for condition in [
            "when { principal == user::\"eve\" || context.x }",
            "when { principal in [user::\"eve\", role::\"staff\"] }",
            "unless { principal == user::\"eve\" }",
            "when { resource.owner == user::\"eve\" }",
            "when { if context.x then principal == user::\"eve\" else true }",
        ] {
            let text = format!("permit (principal, action, resource) {condition};");
            let naming = Naming::of(&text).unwrap();
            assert_eq!(naming.bound, [], "{text}");
            assert!(naming.named.contains(&Uid::new("user", "eve")), "{text}");
        }
        let forbid = "forbid (principal == user::\"eve\", action, resource);";
        check(forbid, false, &[eve], &[eve]);
        let template = "permit (principal == ?principal, action, resource in photo::\"a\");";
        check(template, permit, &["photo::\"a\""], &["photo::\"a\""]);
        assert!(Naming::of("permit").is_err());
    }
}
