//! `[[identify.introspection]]`: an authorization server that says what opaque tokens mean (RFC 7662).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::claims::{ClaimPath, ClaimUses, ContextClaims};
use super::{type_name, user};

/// A server that is asked what a token means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Table", into = "Table")]
#[schemars(with = "Table")]
pub struct Introspection {
    /// Its introspection endpoint.
    pub url: String,
    /// As whom the gate asks.
    pub credential: Credential,
    /// The exact `iss` of its answers; none: any, also none.
    pub issuer: Option<String>,
    /// `aud` of an answer must name at least one of these; empty: it is not looked at.
    pub audiences: Vec<String>,
    /// The entity type of the principal.
    pub principal_type: String,
    /// The member of an answer that holds the principal's id.
    pub principal_claim: String,
    /// Seconds for which an answer is used again, never past the token's own end; 1 to
    /// [`Introspection::MAX_CACHE_S`].
    pub max_cache_s: u32,
    /// What else the members of an answer are used for.
    pub uses: ClaimUses,
}

/// As whom a gate asks. The files are at the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A client's id and secret (RFC 6749, section 2.3.1: HTTP Basic).
    Client {
        /// The id.
        id: String,
        /// The file with the secret.
        secret_file: String,
    },
    /// The file with a bearer token (RFC 6750).
    Bearer(String),
}

impl Introspection {
    /// The longest time for which an answer may be used again, in seconds.
    pub const MAX_CACHE_S: u32 = 300;
    /// Where nothing else is said.
    pub const DEFAULT_CACHE_S: u32 = 30;

    /// What it is called among the issuers of a service.
    pub(super) fn name(&self) -> &str {
        self.issuer.as_deref().unwrap_or(&self.url)
    }
}

/// As written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_secret_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bearer_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audience: Option<OneOrMany>,
    #[serde(default = "user", deserialize_with = "type_name")]
    principal_type: String,
    #[serde(default = "sub")]
    principal_claim: String,
    #[serde(default = "default_cache_s")]
    max_cache_s: u32,
    #[serde(default, skip_serializing_if = "crate::service::is_default")]
    claims: ContextClaims,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roles_from: Vec<ClaimPath>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    role_prefix: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes_from: BTreeMap<String, ClaimPath>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    claim_headers: BTreeMap<String, ClaimPath>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("`url` must start with `https://` or `http://`: `{0}`")]
    Url(String),
    #[error(
        "an introspection server must know who asks: give `client_id` and `client_secret_file`, or \
         `bearer_file`"
    )]
    Credential,
    #[error("`client_id` is empty")]
    Client,
    #[error("`audience` is empty; name the audience of tokens for this service, or leave it out")]
    Audience,
    #[error("`issuer` is empty; leave it out where answers have no `iss`")]
    Issuer,
    #[error("`principal_claim` is empty")]
    Claim,
    #[error("`max_cache_s` is 1 to {}, got {}", Introspection::MAX_CACHE_S, .0)]
    Cache(u32),
    #[error("{0}")]
    Uses(String),
}

impl TryFrom<Table> for Introspection {
    type Error = TableError;

    fn try_from(table: Table) -> Result<Introspection, TableError> {
        if !table.url.starts_with("https://") && !table.url.starts_with("http://") {
            return Err(TableError::Url(table.url));
        }
        let credential = match (table.client_id, table.client_secret_file, table.bearer_file) {
            (Some(id), Some(_), None) if id.is_empty() => return Err(TableError::Client),
            (Some(id), Some(secret_file), None) => Credential::Client { id, secret_file },
            (None, None, Some(file)) => Credential::Bearer(file),
            _ => return Err(TableError::Credential),
        };
        let audiences = match table.audience {
            None => Vec::new(),
            Some(OneOrMany::One(one)) => vec![one],
            Some(OneOrMany::Many(many)) if many.is_empty() => return Err(TableError::Audience),
            Some(OneOrMany::Many(many)) => many,
        };
        if audiences.iter().any(String::is_empty) {
            return Err(TableError::Audience);
        }
        if table.issuer.as_ref().is_some_and(String::is_empty) {
            return Err(TableError::Issuer);
        }
        if table.principal_claim.is_empty() {
            return Err(TableError::Claim);
        }
        if !(1..=Introspection::MAX_CACHE_S).contains(&table.max_cache_s) {
            return Err(TableError::Cache(table.max_cache_s));
        }
        let uses = ClaimUses {
            claims: table.claims,
            roles_from: table.roles_from,
            role_prefix: table.role_prefix,
            attributes_from: table.attributes_from,
            claim_headers: table.claim_headers,
        };
        Ok(Introspection {
            url: table.url,
            credential,
            issuer: table.issuer,
            audiences,
            principal_type: table.principal_type,
            principal_claim: table.principal_claim,
            max_cache_s: table.max_cache_s,
            uses: uses.checked().map_err(TableError::Uses)?,
        })
    }
}

impl From<Introspection> for Table {
    fn from(server: Introspection) -> Table {
        let mut audiences = server.audiences;
        let audience = match (audiences.len(), audiences.pop()) {
            (_, None) => None,
            (1, Some(one)) => Some(OneOrMany::One(one)),
            (_, Some(last)) => {
                audiences.push(last);
                Some(OneOrMany::Many(audiences))
            }
        };
        let (client_id, client_secret_file, bearer_file) = match server.credential {
            Credential::Client { id, secret_file } => (Some(id), Some(secret_file), None),
            Credential::Bearer(file) => (None, None, Some(file)),
        };
        Table {
            url: server.url,
            client_id,
            client_secret_file,
            bearer_file,
            issuer: server.issuer,
            audience,
            principal_type: server.principal_type,
            principal_claim: server.principal_claim,
            max_cache_s: server.max_cache_s,
            claims: server.uses.claims,
            roles_from: server.uses.roles_from,
            role_prefix: server.uses.role_prefix,
            attributes_from: server.uses.attributes_from,
            claim_headers: server.uses.claim_headers,
        }
    }
}

fn sub() -> String {
    "sub".to_owned()
}

fn default_cache_s() -> u32 {
    Introspection::DEFAULT_CACHE_S
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_wrong_is_named() {
        let read = |text: &str| toml::from_str::<Introspection>(text).map_err(|e| e.to_string());
        let url = "url = \"https://id.example/i\"\n";
        let basic = format!("{url}client_id = \"a\"\nclient_secret_file = \"s\"\n");
        for more in [
            "",
            "audience = \"a\"",
            "audience = [\"a\", \"b\"]\nissuer = \"i\"",
            "max_cache_s = 300",
        ] {
            let read = read(&format!("{basic}{more}")).unwrap();
            let json = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<Introspection>(&json).unwrap(), read, "{json}");
        }
        assert_eq!(read(&basic).unwrap().max_cache_s, Introspection::DEFAULT_CACHE_S);
        for (text, says) in [
            (url.to_owned(), "client_secret_file"),
            (format!("{basic}bearer_file = \"b\""), "bearer_file"),
            (format!("{url}client_id = \"\"\nclient_secret_file = \"s\""), "client_id"),
            ("url = \"ldap://x\"\nbearer_file = \"b\"".to_owned(), "https://"),
            (format!("{basic}audience = []"), "audience"),
            (format!("{basic}issuer = \"\""), "issuer"),
            (format!("{basic}principal_claim = \"\""), "principal_claim"),
            (format!("{basic}principal_type = \"no type\""), "no type"),
            (format!("{basic}max_cache_s = 0"), "1 to 300, got 0"),
            (format!("{basic}max_cache_s = 301"), "1 to 300, got 301"),
            (format!("{basic}cache = 1"), "cache"),
        ] {
            let said = read(&text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
