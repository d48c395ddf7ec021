//! Which claim gives which role.

use std::fmt;
use std::str::FromStr;

use keepgate_policy::service::is_service_name;
use serde_json::{Map, Value};

use crate::token::Role;

/// The longest claim and value, in bytes.
const MAX_BYTES: usize = 500;

/// Whoever has this value in this claim has this role: `ROLE[@SERVICE]=CLAIM=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRule {
    /// `admin`, `editor` or `viewer`.
    pub role: Role,
    /// The service that an editor is bound to; empty: all.
    pub service: String,
    /// The claim. One that has this name counts; else dots lead into objects (`realm_access.roles`).
    pub claim: String,
    /// Its text, or one of its texts; `true` also fits the JSON value.
    pub value: String,
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected ROLE[@SERVICE]=CLAIM=VALUE, such as editor@shop=groups=shop-team: {0}")]
pub struct RoleRuleError(String);

impl FromStr for RoleRule {
    type Err = RoleRuleError;

    fn from_str(text: &str) -> Result<RoleRule, RoleRuleError> {
        let wrong = |what: String| Err(RoleRuleError(what));
        let Some((given, rest)) = text.split_once('=') else {
            return wrong("it has no `=`".to_owned());
        };
        let Some((claim, value)) = rest.split_once('=') else {
            return wrong("it has no `=` after the claim".to_owned());
        };
        let (name, service) = given.split_once('@').unwrap_or((given, ""));
        let role = match Role::from_name(name) {
            Some(role @ (Role::Admin | Role::Editor | Role::Viewer)) => role,
            _ => return wrong(format!("`{name}` is none of admin, editor, viewer")),
        };
        if given.contains('@') {
            if role != Role::Editor {
                return wrong(format!(
                    "a role `{name}` is for all services; leave `@{service}` out"
                ));
            }
            if !is_service_name(service) {
                return wrong(format!("`{service}` is not the name of a service"));
            }
        }
        for (what, text) in [("claim", claim), ("value", value)] {
            if text.is_empty() || text.len() > MAX_BYTES || text.chars().any(char::is_control) {
                return wrong(format!("the {what} has 1 to {MAX_BYTES} bytes"));
            }
        }
        let (service, claim, value) = (service.to_owned(), claim.to_owned(), value.to_owned());
        Ok(RoleRule { role, service, claim, value })
    }
}

impl fmt::Display for RoleRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.name())?;
        if !self.service.is_empty() {
            write!(f, "@{}", self.service)?;
        }
        write!(f, "={}={}", self.claim, self.value)
    }
}

impl RoleRule {
    /// Whether these claims have it.
    pub(crate) fn fits(&self, claims: &Map<String, Value>) -> bool {
        let is_it = |value: &Value| match value {
            Value::String(text) => *text == self.value,
            Value::Bool(is) => is.to_string() == self.value,
            _ => false,
        };
        match find(claims, &self.claim) {
            Some(Value::Array(many)) => many.iter().any(is_it),
            Some(one) => is_it(one),
            None => false,
        }
    }
}

/// A claim by its name, or by names with dots between them.
pub(crate) fn find<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(found) = claims.get(name) {
        return Some(found);
    }
    let mut parts = name.split('.');
    let mut found = claims.get(parts.next()?)?;
    for part in parts {
        found = found.as_object()?.get(part)?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_says_what_it_gives_for_what() {
        for text in [
            "admin=groups=keepgate-admins",
            "viewer=sub=248",
            "editor=groups=cn=editors,ou=groups",
            "editor@shop=https://id.example/roles=shop=team",
        ] {
            assert_eq!(text.parse::<RoleRule>().unwrap().to_string(), text);
        }
        let rule: RoleRule = "editor@shop=a.b=x=y".parse().unwrap();
        assert_eq!((rule.role, rule.service.as_str()), (Role::Editor, "shop"));
        assert_eq!((rule.claim.as_str(), rule.value.as_str()), ("a.b", "x=y"));
        for (bad, said) in [
            ("", "no `=`"),
            ("admin", "no `=`"),
            ("admin=groups", "after the claim"),
            ("admin=groups=", "value"),
            ("admin==a", "claim"),
            ("gate=groups=a", "`gate`"),
            ("Admin=groups=a", "`Admin`"),
            ("admin@shop=groups=a", "for all services"),
            ("editor@=groups=a", "not the name"),
            ("editor@a b=groups=a", "not the name"),
            ("admin=groups=a\nb", "value"),
        ] {
            let error = bad.parse::<RoleRule>().unwrap_err().to_string();
            assert!(error.contains(said), "{bad}: {error}");
        }
        for (bytes, good) in [(MAX_BYTES, true), (MAX_BYTES + 1, false)] {
            let text = format!("admin=groups={}", "v".repeat(bytes));
            assert_eq!(text.parse::<RoleRule>().is_ok(), good);
        }
    }

    #[test]
    fn a_claim_fits_as_text_among_texts_and_inside_objects() {
        let claims = json!({
            "groups": ["a", "b", 7],
            "name": "a",
            "is_admin": true,
            "a.b": "dotted",
            "a": { "b": "nested", "c": { "d": ["deep"] } },
        });
        let claims = claims.as_object().unwrap();
        let fits = |text: &str| text.parse::<RoleRule>().unwrap().fits(claims);
        for good in [
            "admin=groups=a",
            "admin=groups=b",
            "admin=name=a",
            "admin=is_admin=true",
            "admin=a.b=dotted",
            "admin=a.c.d=deep",
        ] {
            assert!(fits(good), "{good}");
        }
        for bad in [
            "admin=groups=A",
            "admin=groups=ab",
            "admin=groups=7",
            "admin=name=",
            "admin=a.b=nested",
            "admin=a.c=deep",
            "admin=a.c.d.e=deep",
            "admin=none=a",
            "admin=is_admin=false",
        ] {
            if let Ok(rule) = bad.parse::<RoleRule>() {
                assert!(!rule.fits(claims), "{bad}");
            }
        }
    }
}
