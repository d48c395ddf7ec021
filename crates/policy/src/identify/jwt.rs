//! `[[identify.jwt]]`: one issuer of JWTs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::claims::{ClaimPath, ClaimUses, ContextClaims};
use super::{type_name, user};
use crate::service::is_default;

/// The longest issuer whose document is asked for, in bytes.
const MAX_URL: usize = 2_048;

/// One issuer of JWTs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "JwtTable", into = "JwtTable")]
#[schemars(with = "JwtTable")]
pub struct JwtIssuer {
    /// The exact `iss` claim.
    pub issuer: String,
    /// `aud` must name at least one of these; never empty.
    pub audiences: Vec<String>,
    /// Where the keys are.
    pub keys: KeySource,
    /// The algorithms that are accepted; never empty, and all of them fit the keys.
    pub algorithms: Vec<Algorithm>,
    /// The entity type of the principal.
    pub principal_type: String,
    /// The claim that holds the principal's id.
    pub principal_claim: String,
    /// Seconds by which clocks may differ in `exp` and `nbf`; at most [`JwtIssuer::MAX_LEEWAY_S`].
    pub leeway_s: u32,
    /// Only tokens that are bound to a client certificate are accepted (RFC 8705). One that is bound
    /// needs that certificate in any case.
    pub certificate_bound: bool,
    /// What else its claims are used for.
    pub uses: ClaimUses,
}

impl JwtIssuer {
    /// Above this a leeway is a mistake.
    pub const MAX_LEEWAY_S: u32 = 300;
    /// The leeway where none is given.
    pub const DEFAULT_LEEWAY_S: u32 = 30;

    /// Whether it says what release 0.2 refuses.
    pub(super) fn is_new(&self) -> bool {
        let old = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa, Algorithm::Hs256];
        matches!(self.keys, KeySource::Discovery(_))
            || self.certificate_bound
            || !self.uses.is_nothing()
            // The default is not written.
            || (self.algorithms != ASYMMETRIC && self.algorithms.iter().any(|a| !old.contains(a)))
    }
}

/// Where the keys of a JWT issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Where the issuer's own document says (OpenID Connect Discovery 1.0): the issuer's URL.
    Discovery(String),
    /// A JWKS (RFC 7517) behind a URL, cached and refreshed by the gate.
    JwksUrl(String),
    /// A JWKS in a file at the gate.
    JwksFile(String),
    /// The shared secret of HS256 in a file at the gate.
    SecretFile(String),
}

/// Signature algorithms of JWTs (RFC 7518, RFC 8037); there is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSASSA-PSS with SHA-384.
    #[serde(rename = "PS384")]
    Ps384,
    /// RSASSA-PSS with SHA-512.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 10] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
        Algorithm::Hs256,
    ];

    /// The `alg` header's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Hs256 => "HS256",
        }
    }

    /// The algorithm of an `alg` header; case matters.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    const fn is_symmetric(self) -> bool {
        matches!(self, Algorithm::Hs256)
    }
}

/// What is wrong with a name.
fn unknown(name: &str) -> String {
    let known = Algorithm::ALL.map(Algorithm::as_str).join(", ");
    match name {
        "ES512" => "`ES512` is not supported: the gate's cryptography has no curve P-521; let the \
                    issuer sign with ES256, ES384 or EdDSA"
            .to_owned(),
        "none" => format!("`none` is never accepted: expected one of {known}"),
        _ => format!("unknown algorithm `{name}`: expected one of {known}"),
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Algorithm, D::Error> {
        let name = String::deserialize(from)?;
        Algorithm::from_name(&name).ok_or_else(|| serde::de::Error::custom(unknown(&name)))
    }
}

/// `[[identify.jwt]]` as written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JwtTable {
    issuer: String,
    audience: OneOrMany,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jwks_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jwks_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_file: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    algorithms: Vec<Algorithm>,
    #[serde(default = "user", deserialize_with = "type_name")]
    principal_type: String,
    #[serde(default = "sub")]
    principal_claim: String,
    #[serde(default = "default_leeway_s")]
    leeway_s: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    certificate_bound: bool,
    #[serde(default, skip_serializing_if = "is_default")]
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
enum JwtTableError {
    #[error("`issuer` is empty")]
    Issuer,
    #[error("`audience` is empty; name the audience that tokens for this service carry")]
    Audience,
    #[error("give at most one of `jwks_url`, `jwks_file` and `secret_file`")]
    Keys,
    #[error(
        "`{0}` has no document that names its keys: expected an issuer such as \
         `https://id.example.org`, without `?` and `#`, or one of `jwks_url`, `jwks_file` and \
         `secret_file`"
    )]
    Discovery(String),
    #[error("`jwks_url` must start with `https://` or `http://`: `{0}`")]
    Url(String),
    #[error("`{}` does not fit the keys: HS256 needs `secret_file`, the others public keys", .0.as_str())]
    Algorithm(Algorithm),
    #[error("`leeway_s` is at most {}", JwtIssuer::MAX_LEEWAY_S)]
    Leeway,
    #[error("`principal_claim` is empty")]
    Claim,
    #[error("{0}")]
    Uses(String),
}

/// What public keys may verify where nothing else is said.
const ASYMMETRIC: [Algorithm; 9] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
];

fn is_url(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// The keys' place, of an issuer that says none of its own.
fn discovered(issuer: &str) -> Result<KeySource, JwtTableError> {
    let odd = |c: char| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control();
    if is_url(issuer) && issuer.len() <= MAX_URL && !issuer.contains(odd) {
        Ok(KeySource::Discovery(issuer.to_owned()))
    } else {
        Err(JwtTableError::Discovery(issuer.to_owned()))
    }
}

impl TryFrom<JwtTable> for JwtIssuer {
    type Error = JwtTableError;

    fn try_from(table: JwtTable) -> Result<JwtIssuer, JwtTableError> {
        let audiences = match table.audience {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        };
        if table.issuer.is_empty() {
            return Err(JwtTableError::Issuer);
        }
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(JwtTableError::Audience);
        }
        let keys = match (table.jwks_url, table.jwks_file, table.secret_file) {
            (Some(url), None, None) if is_url(&url) => KeySource::JwksUrl(url),
            (Some(url), None, None) => return Err(JwtTableError::Url(url)),
            (None, Some(file), None) => KeySource::JwksFile(file),
            (None, None, Some(file)) => KeySource::SecretFile(file),
            (None, None, None) => discovered(&table.issuer)?,
            _ => return Err(JwtTableError::Keys),
        };
        let symmetric = matches!(keys, KeySource::SecretFile(_));
        if let Some(odd) = table.algorithms.iter().find(|a| a.is_symmetric() != symmetric) {
            return Err(JwtTableError::Algorithm(*odd));
        }
        let algorithms = match (table.algorithms.is_empty(), symmetric) {
            (false, _) => table.algorithms,
            (true, true) => vec![Algorithm::Hs256],
            (true, false) => ASYMMETRIC.to_vec(),
        };
        if table.leeway_s > JwtIssuer::MAX_LEEWAY_S {
            return Err(JwtTableError::Leeway);
        }
        if table.principal_claim.is_empty() {
            return Err(JwtTableError::Claim);
        }
        let uses = ClaimUses {
            claims: table.claims,
            roles_from: table.roles_from,
            role_prefix: table.role_prefix,
            attributes_from: table.attributes_from,
            claim_headers: table.claim_headers,
        };
        Ok(JwtIssuer {
            issuer: table.issuer,
            audiences,
            keys,
            algorithms,
            principal_type: table.principal_type,
            principal_claim: table.principal_claim,
            leeway_s: table.leeway_s,
            certificate_bound: table.certificate_bound,
            uses: uses.checked().map_err(JwtTableError::Uses)?,
        })
    }
}

impl From<JwtIssuer> for JwtTable {
    fn from(issuer: JwtIssuer) -> JwtTable {
        let mut audiences = issuer.audiences;
        let audience = match (audiences.len(), audiences.pop()) {
            (1, Some(one)) => OneOrMany::One(one),
            (_, Some(last)) => {
                audiences.push(last);
                OneOrMany::Many(audiences)
            }
            (_, None) => OneOrMany::Many(Vec::new()),
        };
        let (mut jwks_url, mut jwks_file, mut secret_file) = (None, None, None);
        let mut default = ASYMMETRIC.as_slice();
        match issuer.keys {
            KeySource::Discovery(_) => {}
            KeySource::JwksUrl(url) => jwks_url = Some(url),
            KeySource::JwksFile(file) => jwks_file = Some(file),
            KeySource::SecretFile(file) => {
                secret_file = Some(file);
                default = [Algorithm::Hs256].as_slice();
            }
        }
        let algorithms = if issuer.algorithms == default { Vec::new() } else { issuer.algorithms };
        JwtTable {
            issuer: issuer.issuer,
            audience,
            jwks_url,
            jwks_file,
            secret_file,
            algorithms,
            principal_type: issuer.principal_type,
            principal_claim: issuer.principal_claim,
            leeway_s: issuer.leeway_s,
            certificate_bound: issuer.certificate_bound,
            claims: issuer.uses.claims,
            roles_from: issuer.uses.roles_from,
            role_prefix: issuer.uses.role_prefix,
            attributes_from: issuer.uses.attributes_from,
            claim_headers: issuer.uses.claim_headers,
        }
    }
}

fn sub() -> String {
    "sub".to_owned()
}

fn default_leeway_s() -> u32 {
    JwtIssuer::DEFAULT_LEEWAY_S
}
