//! How a service's callers are identified: the `[identify]` part of `service.toml`.
//!
//! Only what is to be done, checked as far as it can be without a network or a file: each JWT
//! issuer has exactly one source of keys, its algorithms fit that source (a symmetric algorithm
//! with public keys is the classic confusion), types are Cedar names, peers are address ranges.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod claims;
mod introspection;
mod jwt;

pub use self::claims::{ClaimPath, ClaimUses, ContextClaims, NotAnObject, check_prefixes};
pub use self::introspection::{Credential, Introspection};
pub use self::jwt::{Algorithm, JwtIssuer, KeySource};
pub use crate::address::{AddressRange, AddressRangeError, is_everybody};
use crate::service::is_default;
use crate::uid::{Uid, is_type_name};

/// How callers are identified; each way that is set is tried, in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identify {
    /// Bearer tokens (RFC 7519), one entry an issuer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwt: Vec<JwtIssuer>,
    /// A server that says what other bearer tokens mean (RFC 7662); at most one, for a token does not
    /// say whose it is, and is nobody else's business.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub introspection: Vec<Introspection>,
    /// The longest token that is read, in bytes; none: [`Identify::TOKEN_BYTES`].
    #[serde(default, with = "crate::size::token", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub token_bytes: Option<u64>,
    /// API keys of the center.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyHeader>,
    /// Client certificates of TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// A header that a trusted proxy sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_header: Option<TrustedHeader>,
    /// Who callers without credentials are, on routes that let them in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anonymous: Anonymous,
}

impl Identify {
    /// The longest token where nothing else is said, in bytes.
    pub const TOKEN_BYTES: u64 = 8 * 1024;
    /// The longest that may be set: with the other headers it fits in a gate's `header_bytes`.
    pub const MAX_TOKEN_BYTES: u64 = 16 * 1024;

    /// Whether it says what release 0.2 refuses.
    pub(crate) fn is_new(&self) -> bool {
        self.token_bytes.is_some()
            || !self.introspection.is_empty()
            || self.jwt.iter().any(JwtIssuer::is_new)
    }

    /// Who gives tokens, by name, and what else their claims are used for.
    pub fn issuers(&self) -> impl Iterator<Item = (&str, &ClaimUses)> {
        let jwt = self.jwt.iter().map(|jwt| (jwt.issuer.as_str(), &jwt.uses));
        jwt.chain(self.introspection.iter().map(|server| (server.name(), &server.uses)))
    }

    /// What its ways say together that they may not; see [`check_prefixes`]. Names what to change.
    fn check(&self) -> Result<(), String> {
        if self.introspection.len() > 1 {
            return Err(format!(
                "expected at most one [[identify.introspection]], got {}: a token does not say whose \
                 it is, so each server would see the tokens of the others",
                self.introspection.len()
            ));
        }
        check_prefixes(self.issuers())?;
        let claimed = self.issuers().flat_map(|(_, uses)| uses.claim_headers.keys());
        let taken = [
            self.api_key.as_ref().map(|way| &way.header),
            self.trusted_header.as_ref().map(|way| &way.header),
        ];
        for header in claimed {
            if taken.contains(&Some(header)) {
                return Err(format!(
                    "`{header}` cannot carry a claim to the upstream: callers are identified by it"
                ));
            }
        }
        Ok(())
    }
}

/// Reads `[identify]`, and checks its ways against each other.
pub(crate) fn checked<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Identify, D::Error> {
    let identify = Identify::deserialize(from)?;
    identify.check().map_err(serde::de::Error::custom)?;
    Ok(identify)
}

/// The header that carries API keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyHeader {
    /// The header's name, lower case.
    #[serde(default = "x_api_key", deserialize_with = "header_name")]
    pub header: String,
}

/// Client certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// The entity type of the principal.
    #[serde(default = "user", deserialize_with = "type_name")]
    pub principal_type: String,
    /// The part of the certificate that is the principal's id.
    #[serde(default)]
    pub principal_from: CertificateName,
}

/// A name in a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateName {
    /// The subject's common name.
    #[default]
    CommonName,
    /// The first DNS name among the alternative names.
    Dns,
    /// The first URI among the alternative names (SPIFFE).
    Uri,
    /// The first e-mail address among the alternative names.
    Email,
    /// SHA-256 of the certificate, 64 lower-case hex digits.
    Sha256,
}

/// A header that a proxy in front sets, believed from its addresses only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedHeader {
    /// The header's name, lower case.
    #[serde(deserialize_with = "header_name")]
    pub header: String,
    /// From whom it is believed; never empty.
    #[serde(deserialize_with = "peers")]
    pub peers: Vec<AddressRange>,
    /// The entity type of the principal.
    #[serde(default = "user", deserialize_with = "type_name")]
    pub principal_type: String,
}

/// Who callers without credentials are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Anonymous {
    /// The principal, in Cedar syntax in TOML and JSON.
    #[serde(default = "anonymous_user", with = "uid_text")]
    #[schemars(with = "String")]
    pub principal: Uid,
}

impl Default for Anonymous {
    fn default() -> Anonymous {
        Anonymous { principal: anonymous_user() }
    }
}

fn user() -> String {
    "user".to_owned()
}

fn x_api_key() -> String {
    "x-api-key".to_owned()
}

fn anonymous_user() -> Uid {
    Uid::new("user", "anonymous")
}

fn type_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    if is_type_name(&name) {
        Ok(name)
    } else {
        Err(serde::de::Error::custom(format!("`{name}` is not an entity type")))
    }
}

/// Field names of HTTP (RFC 9110 section 5.1), brought to lower case.
fn header_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.is_empty() && name.len() <= 128 && name.bytes().all(token) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(serde::de::Error::custom(format!("`{name}` is not a header name")))
    }
}

fn peers<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<AddressRange>, D::Error> {
    let peers = Vec::<AddressRange>::deserialize(from)?;
    if peers.is_empty() {
        return Err(serde::de::Error::custom(
            "`peers` is empty; a header that anybody may set identifies nobody",
        ));
    }
    Ok(peers)
}

mod uid_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::uid::Uid;

    pub(super) fn serialize<S: Serializer>(uid: &Uid, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(uid)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Uid, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
