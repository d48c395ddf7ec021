//! Tokens of the center's callers, and API keys of a service's callers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Uid, UidInput};

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// Everything.
    Admin,
    /// Read and write services, directory and keys; ask for decisions.
    Editor,
    /// Read what an editor reads; ask for decisions.
    Viewer,
    /// Follow one service.
    Gate,
    /// Ask for decisions.
    Pep,
}

/// A token to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// One of `admin`, `editor`, `viewer`, `gate`, `pep`.
    #[schemars(with = "TokenRole")]
    pub role: String,
    /// The service it is for. A gate's token needs it, and may name up to 256, with `,` between them.
    #[serde(default)]
    pub service: String,
    /// For people; at most 500 bytes.
    #[serde(default)]
    pub note: String,
    /// When it ends, in Unix seconds; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
    /// A gate's client certificate that is shown in place of a secret: a DNS name or a URI among its
    /// alternative names. Then there is no token's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate: String,
}

/// An admin token to make for whoever can reach the center's socket in its data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAdminToken {
    /// For people; at most 500 bytes.
    #[serde(default)]
    pub note: String,
    /// When it ends, in Unix seconds; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
}

/// How to put a new token, or a new key, in an old one's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// How long the old one goes on working, in seconds; never longer than it would have.
    #[serde(default)]
    pub overlap_s: u64,
    /// When the new one ends, in Unix seconds. Absent: it is valid for as long as the old one was
    /// meant to be when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
    /// The new one never ends; not together with `expires_unix_s`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never_expires: bool,
}

/// A token that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MadeToken {
    /// Its id, which lists show.
    pub id: String,
    /// The token itself. It is shown once. Empty: a client certificate is shown in its place.
    pub token: String,
    /// The revision at which it is good.
    pub revision: u64,
}

/// A page of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TokenList")]
pub struct Tokens {
    /// The newest revision.
    pub revision: u64,
    /// By id; revoked ones included.
    pub tokens: Vec<Token>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// What it may do: one of `admin`, `editor`, `viewer`, `gate`, `pep`.
    #[schemars(with = "TokenRole")]
    pub role: String,
    /// The service it is for (a gate's: one or more, with `,` between them); empty: all.
    #[serde(default)]
    pub service: String,
    /// For people.
    #[serde(default)]
    pub note: String,
    /// When it was made, in Unix seconds.
    pub created_unix_s: u64,
    /// When it was used last, in Unix seconds; null: never.
    pub last_used_unix_s: Option<u64>,
    /// The address that used it last; empty: not known.
    #[serde(default)]
    pub last_used_from: String,
    /// When it was revoked, in Unix seconds; null: it was not.
    pub revoked_unix_s: Option<u64>,
    /// When it ends, in Unix seconds; null: never.
    #[serde(default)]
    pub expires_unix_s: Option<u64>,
    /// The name of the client certificate that is shown in place of a secret; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// A page of the console's sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SessionList")]
pub struct Sessions {
    /// The newest revision.
    pub revision: u64,
    /// By id; those that have ended are not among them.
    pub sessions: Vec<Session>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A session of the console, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// By what it is told from others of the same holder.
    pub id: String,
    /// Whose it is, as the audit log names them: the id of a token, or `oidc:` and a name.
    pub holder: String,
    /// What they may do: one of `admin`, `editor`, `viewer`.
    #[schemars(with = "TokenRole")]
    pub role: String,
    /// The service that an editor is bound to; empty: all.
    #[serde(default)]
    pub service: String,
    /// The identity provider they signed in at; absent: they signed in with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When it began, in Unix seconds.
    pub began_unix_s: u64,
    /// When it ends unless it is used, in Unix seconds.
    pub expires_unix_s: u64,
    /// When it ends in any case, in Unix seconds.
    pub ends_unix_s: u64,
}

/// An API key to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// Whom it identifies.
    pub principal: UidInput,
    /// The plan whose limits apply; empty: none.
    #[serde(default)]
    pub plan: String,
    /// When it ends, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
    /// For people.
    #[serde(default)]
    pub note: String,
}

/// An API key that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MadeKey {
    /// What lists show of it.
    pub prefix: String,
    /// The key itself. It is shown once.
    pub key: String,
    /// The revision at which it is good.
    pub revision: u64,
}

/// A page of API keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "KeyPage")]
pub struct Keys {
    /// The newest revision.
    pub revision: u64,
    /// By prefix.
    pub keys: Vec<Key>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An API key, without its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// What it begins with.
    pub prefix: String,
    /// Its SHA-256 in hexadecimal; only in exports for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whom it identifies.
    pub principal: Uid,
    /// The plan whose limits apply; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan: String,
    /// When it ends, in Unix seconds; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}
