//! What a verified token says of its caller beyond a name: roles, attributes, claims for the context,
//! headers for the upstream.
//!
//! Read once a token and kept with it. Pure.
//!
//! INVARIANT: nothing is left out. A `forbid` may depend on any role, attribute or claim, and an upstream
//! on any header, so what does not fit, or what the token leaves out itself, is [`Unsayable`]: then
//! nothing can be decided about the caller, which is not a denial.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use keepgate_policy::Uid;
use keepgate_policy::identify::{ClaimPath, ClaimUses, ContextClaims};
use keepgate_policy::world::Prepared;
use serde_json::{Map, Value};

/// Roles of one token at most.
pub const MAX_ROLES: usize = 1_000;
/// Bytes of a role at most, without its prefix.
pub const MAX_ROLE: usize = 512;
/// Values in the claims and attributes of one token at most: texts, numbers, sets, records and what
/// is in them.
pub const MAX_VALUES: usize = 2_000;
/// Levels of a claim at most: a text is one, a set of texts two.
pub const MAX_LEVELS: usize = 10;
/// Bytes of names and texts in the claims and attributes of one token at most.
pub const MAX_BYTES: usize = 32 * 1024;
/// Bytes of a header that a claim is sent in at most.
pub const MAX_HEADER: usize = 4 * 1024;

/// The type of all that a token can be in.
const ROLE: &str = "role";

/// What a token says.
#[derive(Debug)]
pub struct Said {
    /// Roles that the principal is in, sorted, each once.
    pub roles: Box<[Uid]>,
    /// Claims and attributes in the evaluator's terms.
    pub prepared: Prepared,
    /// Headers for the upstream.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    /// About how many bytes of memory it takes.
    pub bytes: usize,
}

/// Why it cannot be told what a token says. The texts go to the caller, of whose token they speak.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsayable {
    /// The issuer has left the claim out because it is too large for a token (Entra ID has a limit of
    /// 200 groups): what would be in it is not known.
    #[error(
        "the token's issuer has left out the claim `{0}` because it is too large for a token; let the \
         issuer send fewer values, such as the groups of this application or its app roles"
    )]
    Overage(String),
    /// It has another form than it must have for its use.
    #[error("the token's claim `{claim}` cannot be used: expected {expected}")]
    Shape {
        /// The claim.
        claim: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Over a bound.
    #[error("the token has too much to be used: more than {0}")]
    TooMuch(&'static str),
    /// No Cedar value.
    #[error("the token's claim `{path}` cannot be used: {reason}")]
    Value {
        /// Where it would be, such as `context.claims.level`.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Unsayable {
    /// Its machine-readable reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Unsayable::Overage(_) => "claims_left_out",
            Unsayable::Shape { .. } | Unsayable::TooMuch(_) | Unsayable::Value { .. } => "claims",
        }
    }
}

/// What claims say, by the settings of their issuer. `None`: they are used for nothing.
pub fn said(uses: &ClaimUses, claims: &Map<String, Value>) -> Result<Option<Arc<Said>>, Unsayable> {
    if uses.is_nothing() {
        return Ok(None);
    }
    let token = Token { claims };
    let roles = token.roles(uses)?;
    let attributes = token.attributes(&uses.attributes_from)?;
    let context = token.context(&uses.claims)?;
    let mut bound = Bound::default();
    for (name, value) in attributes.iter().chain(context.iter().flatten()) {
        bound.add(name, value)?;
    }
    let headers = token.headers(&uses.claim_headers)?;
    let prepared = Prepared::new(context.as_ref(), &attributes).map_err(|error| match error {
        keepgate_policy::QueryError::Value { path, reason } => Unsayable::Value { path, reason },
        other => Unsayable::Value { path: "claims".to_owned(), reason: other.to_string() },
    })?;
    let of_roles: usize = roles.iter().map(|role| 96 + role.id.len()).sum();
    let of_headers: usize =
        headers.iter().map(|(name, value)| 64 + name.as_str().len() + value.len()).sum();
    let bytes = 128 + of_roles + of_headers + 96 * bound.values + bound.bytes;
    Ok(Some(Arc::new(Said { roles, prepared, headers, bytes })))
}

/// The claims of a token that was verified.
struct Token<'t> {
    claims: &'t Map<String, Value>,
}

impl<'t> Token<'t> {
    /// Whether the issuer says that it has left a claim out. Entra ID does in two ways, and OpenID
    /// Connect (Core 1.0 section 5.6.2) in the first: `_claim_names` names it, or `hasgroups` is there.
    fn left_out(&self, claim: &str) -> Result<(), Unsayable> {
        let left_out = match self.claims.get("_claim_names") {
            None | Some(Value::Null) => false,
            Some(Value::Object(names)) => names.contains_key(claim),
            // It names something, and nobody knows what.
            Some(_) => true,
        };
        let has_groups = || match self.claims.get("hasgroups") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(_) => claim == "groups",
        };
        if left_out || has_groups() { Err(Unsayable::Overage(claim.to_owned())) } else { Ok(()) }
    }

    fn find(&self, path: &ClaimPath) -> Result<Option<&'t Value>, Unsayable> {
        self.left_out(path.claim())?;
        path.find(self.claims).map_err(|_| shape(path, "an object on the way to it"))
    }

    fn roles(&self, uses: &ClaimUses) -> Result<Box<[Uid]>, Unsayable> {
        let mut roles: BTreeSet<Uid> = BTreeSet::new();
        let mut count = 0;
        let mut add = |value: &str| {
            count += 1;
            if count > MAX_ROLES {
                return Err(Unsayable::TooMuch("1,000 roles"));
            }
            if value.len() > MAX_ROLE {
                return Err(Unsayable::TooMuch("512 bytes in a role"));
            }
            // Not `Uid::role`, which takes a text such as `user::"root"` for that entity.
            roles.insert(Uid::new(ROLE, format!("{}{value}", uses.role_prefix)));
            Ok(())
        };
        for path in &uses.roles_from {
            // RFC 6749 section 3.3 and RFC 8693 section 4.2: scopes are separated by spaces.
            let is_scope = matches!(path.keys().last().map(String::as_str), Some("scope" | "scp"));
            match self.find(path)? {
                None => {}
                Some(Value::String(text)) if is_scope => {
                    text.split(' ').filter(|one| !one.is_empty()).try_for_each(&mut add)?;
                }
                Some(Value::String(one)) => add(one)?,
                Some(Value::Array(many)) => {
                    for one in many {
                        let one = one.as_str().ok_or_else(|| shape(path, "a list of texts"))?;
                        add(one)?;
                    }
                }
                Some(_) => return Err(shape(path, "a text or a list of texts")),
            }
        }
        Ok(roles.into_iter().collect())
    }

    fn attributes(
        &self,
        from: &BTreeMap<String, ClaimPath>,
    ) -> Result<BTreeMap<String, Value>, Unsayable> {
        let mut attributes = BTreeMap::new();
        for (name, path) in from {
            if let Some(value) = self.find(path)? {
                attributes.insert(name.clone(), value.clone());
            }
        }
        Ok(attributes)
    }

    fn context(&self, which: &ContextClaims) -> Result<Option<BTreeMap<String, Value>>, Unsayable> {
        let own = |(name, value): (&String, &Value)| (name.clone(), value.clone());
        match which {
            ContextClaims::None => Ok(None),
            ContextClaims::All => Ok(Some(self.claims.iter().map(own).collect())),
            ContextClaims::Named(names) => {
                let mut some = BTreeMap::new();
                for name in names {
                    self.left_out(name)?;
                    some.extend(self.claims.get_key_value(name).map(own));
                }
                Ok(Some(some))
            }
        }
    }

    fn headers(
        &self,
        from: &BTreeMap<String, ClaimPath>,
    ) -> Result<Box<[(HeaderName, HeaderValue)]>, Unsayable> {
        let mut headers = Vec::with_capacity(from.len());
        for (name, path) in from {
            let Some(value) = self.find(path)? else { continue };
            let wrong = || {
                shape(
                    path,
                    "what a header can carry: a text without control characters, not over \
                             4 KiB, or a list of texts without commas",
                )
            };
            let text = header_text(value).ok_or_else(wrong)?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            headers.push((name, text));
        }
        Ok(headers.into())
    }
}

fn shape(path: &ClaimPath, expected: &'static str) -> Unsayable {
    Unsayable::Shape { claim: path.to_string(), expected }
}

/// A claim as a header's value, from which the claim can be told again.
fn header_text(value: &Value) -> Option<HeaderValue> {
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let text = match value {
        Value::Array(many) => {
            let each: Option<Vec<String>> =
                many.iter().map(|one| plain(one).filter(|one| !one.contains(','))).collect();
            each?.join(",")
        }
        one => plain(one)?,
    };
    // Space around a value is not part of it for who reads it (RFC 9110 section 5.5).
    let is_trimmed = text.trim_matches([' ', '\t']).len() == text.len();
    if !is_trimmed || text.len() > MAX_HEADER || text.chars().any(char::is_control) {
        return None;
    }
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

/// How much there is of claims and attributes.
#[derive(Default)]
struct Bound {
    values: usize,
    bytes: usize,
}

impl Bound {
    fn add(&mut self, name: &str, value: &Value) -> Result<(), Unsayable> {
        self.bytes += name.len();
        let mut open = vec![(value, 1)];
        while let Some((value, level)) = open.pop() {
            self.values += 1;
            if level > MAX_LEVELS {
                return Err(Unsayable::TooMuch("10 levels in a claim"));
            }
            match value {
                Value::String(text) => self.bytes += text.len(),
                Value::Array(many) => open.extend(many.iter().map(|one| (one, level + 1))),
                Value::Object(members) => {
                    self.bytes += members.keys().map(String::len).sum::<usize>();
                    open.extend(members.values().map(|one| (one, level + 1)));
                }
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
            if self.values > MAX_VALUES {
                return Err(Unsayable::TooMuch("2,000 values in claims"));
            }
            if self.bytes > MAX_BYTES {
                return Err(Unsayable::TooMuch("32 KiB of claims"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn uses(json: Value) -> ClaimUses {
        let mut table = json!({"issuer": "https://i", "audience": "a"});
        table.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        let issuer: keepgate_policy::identify::JwtIssuer = serde_json::from_value(table).unwrap();
        issuer.uses
    }

    fn read(settings: Value, claims: &Value) -> Result<Arc<Said>, Unsayable> {
        said(&uses(settings), claims.as_object().unwrap()).map(Option::unwrap)
    }

    fn roles(from: Value, claims: &Value) -> Vec<String> {
        match read(json!({"roles_from": from}), claims) {
            Ok(said) => said.roles.iter().map(|role| role.id.clone()).collect(),
            Err(error) => vec![format!("! {error}")],
        }
    }

    #[test]
    fn roles_are_where_the_settings_say() {
        let claims = json!({
            "groups": ["ops", "dev team", "ops"],
            "realm_access": {"roles": ["admin"]},
            "resource_access": {"my.app": {"roles": ["viewer"]}},
            "https://shop.example/roles": ["buyer"],
            "scope": "openid  orders:read",
            "scp": ["a", "b"],
            "one": "a role with spaces",
            "nothing": null,
            "number": 7,
            "numbers": ["a", 7],
        });
        for (from, expected) in [
            (json!(["groups"]), vec!["dev team", "ops"]),
            (json!(["realm_access.roles", "groups"]), vec!["admin", "dev team", "ops"]),
            (json!([["resource_access", "my.app", "roles"]]), vec!["viewer"]),
            (json!(["https://shop.example/roles"]), vec!["buyer"]),
            (json!(["scope"]), vec!["openid", "orders:read"]),
            (json!(["scp"]), vec!["a", "b"]),
            (json!(["one"]), vec!["a role with spaces"]),
            (json!(["nothing", "absent", "realm_access.groups"]), vec![]),
        ] {
            assert_eq!(roles(from.clone(), &claims), expected, "{from}");
        }
        for bad in ["number", "numbers", "realm_access", "groups.x", "one.x"] {
            let said = roles(json!([bad]), &claims);
            assert!(said[0].starts_with("! the token's claim"), "{bad}: {said:?}");
        }
    }

    /// Whatever a value reads like, it is the id of a role with the issuer's prefix.
    #[test]
    fn no_value_names_another_entity() {
        let odd = ["user::\"root\"", "role::\"admin\"", "Action::\"x\"", "", "\"", "a\u{0}b", "*"];
        for (prefix, from) in [("", json!(["groups"])), ("kc:", json!(["groups"]))] {
            let mut settings = json!({"roles_from": from});
            if !prefix.is_empty() {
                settings["role_prefix"] = json!(prefix);
            }
            for value in odd {
                let said = read(settings.clone(), &json!({"groups": [value]})).unwrap();
                let [role] = &*said.roles else { panic!("one role") };
                assert_eq!(
                    (role.kind.as_str(), role.id.clone()),
                    ("role", format!("{prefix}{value}"))
                );
            }
        }
    }

    #[test]
    fn what_the_issuer_left_out_is_not_known() {
        for claims in [
            json!({"_claim_names": {"groups": "src1"}}),
            json!({"_claim_names": {"groups": "src1"}, "groups": ["a"]}),
            json!({"_claim_names": "odd", "groups": ["a"]}),
            json!({"hasgroups": true}),
            json!({"hasgroups": "true", "groups": []}),
        ] {
            let said = roles(json!(["groups"]), &claims);
            assert!(said[0].contains("has left out the claim `groups`"), "{claims}: {said:?}");
        }
        for (from, claims) in [
            (json!(["roles"]), json!({"_claim_names": {"groups": "src1"}, "roles": ["a"]})),
            (json!(["roles"]), json!({"hasgroups": true, "roles": ["a"]})),
            (json!(["groups"]), json!({"hasgroups": false, "groups": ["a"]})),
            (json!(["groups"]), json!({"_claim_names": {}, "groups": ["a"]})),
        ] {
            assert_eq!(roles(from, &claims), ["a"], "{claims}");
        }
        let left = json!({"_claim_names": {"dept": "src1"}});
        for settings in [
            json!({"attributes_from": {"department": "dept"}}),
            json!({"claim_headers": {"x-dept": "dept"}}),
            json!({"claims": ["dept"]}),
        ] {
            assert!(matches!(read(settings, &left), Err(Unsayable::Overage(_))));
        }
    }

    #[test]
    fn bounds_at_and_beyond() {
        let many = |n: usize| json!({"groups": (0..n).map(|i| i.to_string()).collect::<Vec<_>>()});
        assert_eq!(roles(json!(["groups"]), &many(MAX_ROLES)).len(), MAX_ROLES);
        assert!(
            roles(json!(["groups"]), &many(MAX_ROLES + 1))[0].contains("more than 1,000 roles")
        );
        let long = |n: usize| json!({"groups": ["x".repeat(n)]});
        assert_eq!(roles(json!(["groups"]), &long(MAX_ROLE))[0].len(), MAX_ROLE);
        assert!(roles(json!(["groups"]), &long(MAX_ROLE + 1))[0].contains("512 bytes"));
        let all = |claims: Value| read(json!({"claims": true}), &claims).map(|_| ());
        // The set itself is a value too.
        let set = |n: usize| json!({"s": (0..n).collect::<Vec<_>>()});
        assert_eq!(all(set(MAX_VALUES - 1)), Ok(()));
        assert_eq!(all(set(MAX_VALUES)), Err(Unsayable::TooMuch("2,000 values in claims")));
        let deep = |levels: usize| {
            let inner = (1..levels).fold(json!(1), |value, _| json!([value]));
            json!({"d": inner})
        };
        assert_eq!(all(deep(MAX_LEVELS)), Ok(()));
        assert_eq!(all(deep(MAX_LEVELS + 1)), Err(Unsayable::TooMuch("10 levels in a claim")));
        let text = |n: usize| json!({"t": "x".repeat(n)});
        assert_eq!(all(text(MAX_BYTES - 1)), Ok(()));
        assert_eq!(all(text(MAX_BYTES)), Err(Unsayable::TooMuch("32 KiB of claims")));
    }

    #[test]
    fn values_that_are_no_cedar_values_are_refused_and_escapes_are_values_of_nothing() {
        let all = |claims: Value| read(json!({"claims": true}), &claims).map(|_| ());
        assert_eq!(all(json!({"a": 1.5, "n": null, "b": [true, "x"], "c": {"d": -7}})), Ok(()));
        let escape = json!({"__entity": {"type": "role", "id": "admin"}});
        for bad in [
            json!({"a": 1.23456}),
            json!({"a": 18_446_744_073_709_551_615_u64}),
            json!({"a": 1e300}),
            json!({"a": escape}),
            json!({"a": [{"b": escape}]}),
            json!({"a": {"__extn": {"fn": "ip", "arg": "127.0.0.1"}}}),
            escape.clone(),
        ] {
            assert!(matches!(all(bad.clone()), Err(Unsayable::Value { .. })), "{bad}");
            let nested = json!({"x": bad});
            let as_attribute = read(json!({"attributes_from": {"x": "x"}}), &nested);
            assert!(matches!(as_attribute, Err(Unsayable::Value { .. })), "{bad}");
        }
    }

    #[test]
    fn a_header_carries_what_can_be_read_back() {
        let sent = |value: Value| {
            let said =
                read(json!({"claim_headers": {"X-Claim": "c"}}), &json!({"c": value})).ok()?;
            let value = said.headers.first().map(|(_, value)| value.as_bytes().to_vec());
            Some(String::from_utf8(value.unwrap_or_default()).unwrap())
        };
        for (value, text) in [
            (json!("a@b.example"), "a@b.example"),
            (json!("Zoë Ünal"), "Zoë Ünal"),
            (json!(7), "7"),
            (json!(false), "false"),
            (json!(["a", "b c"]), "a,b c"),
            (json!([]), ""),
            (json!(""), ""),
        ] {
            assert_eq!(sent(value.clone()).unwrap(), text, "{value}");
        }
        for bad in [
            json!("a\r\nx-admin: 1"),
            json!("a\0"),
            json!("a\tb"),
            json!(" a"),
            json!("a "),
            json!({"a": 1}),
            json!([["a"]]),
            json!(["a,b"]),
            json!("x".repeat(MAX_HEADER + 1)),
        ] {
            assert_eq!(sent(bad.clone()), None, "{bad}");
        }
        assert!(sent(json!("x".repeat(MAX_HEADER))).is_some());
        let none = read(json!({"claim_headers": {"x-claim": "c"}}), &json!({"c": null})).unwrap();
        assert!(none.headers.is_empty());
    }
}
