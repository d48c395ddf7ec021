//! How a service's callers are identified: the `[identify]` part of `service.toml`.
//!
//! Only what is to be done, checked as far as it can be without a network or a file: each JWT
//! issuer has exactly one source of keys, its algorithms fit that source (a symmetric algorithm
//! with public keys is the classic confusion), types are Cedar names, peers are address ranges.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
}

impl JwtIssuer {
    /// Above this a leeway is a mistake.
    pub const MAX_LEEWAY_S: u32 = 300;
    /// The leeway where none is given.
    pub const DEFAULT_LEEWAY_S: u32 = 30;
}

/// Where the keys of a JWT issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A JWKS (RFC 7517) behind a URL, cached and refreshed by the gate.
    JwksUrl(String),
    /// A JWKS in a file at the gate.
    JwksFile(String),
    /// The shared secret of HS256 in a file at the gate.
    SecretFile(String),
}

/// Signature algorithms of JWTs (RFC 7518, RFC 8037); there is no `none`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
}

impl Algorithm {
    /// The `alg` header's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Hs256 => "HS256",
        }
    }

    /// The algorithm of an `alg` header; case matters.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa, Algorithm::Hs256]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == name)
    }

    const fn is_symmetric(self) -> bool {
        matches!(self, Algorithm::Hs256)
    }
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
    #[error("give exactly one of `jwks_url`, `jwks_file` and `secret_file`")]
    Keys,
    #[error("`jwks_url` must start with `https://` or `http://`: `{0}`")]
    Url(String),
    #[error("`{}` does not fit the keys: HS256 needs `secret_file`, the others `jwks_url` or `jwks_file`", .0.as_str())]
    Algorithm(Algorithm),
    #[error("`leeway_s` is at most {}", JwtIssuer::MAX_LEEWAY_S)]
    Leeway,
    #[error("`principal_claim` is empty")]
    Claim,
}

const ASYMMETRIC: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

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
            (Some(url), None, None)
                if url.starts_with("https://") || url.starts_with("http://") =>
            {
                KeySource::JwksUrl(url)
            }
            (Some(url), None, None) => return Err(JwtTableError::Url(url)),
            (None, Some(file), None) => KeySource::JwksFile(file),
            (None, None, Some(file)) => KeySource::SecretFile(file),
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
        Ok(JwtIssuer {
            issuer: table.issuer,
            audiences,
            keys,
            algorithms,
            principal_type: table.principal_type,
            principal_claim: table.principal_claim,
            leeway_s: table.leeway_s,
            certificate_bound: table.certificate_bound,
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
        let default = match issuer.keys {
            KeySource::JwksUrl(url) => {
                jwks_url = Some(url);
                ASYMMETRIC.as_slice()
            }
            KeySource::JwksFile(file) => {
                jwks_file = Some(file);
                ASYMMETRIC.as_slice()
            }
            KeySource::SecretFile(file) => {
                secret_file = Some(file);
                [Algorithm::Hs256].as_slice()
            }
        };
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
        }
    }
}

fn user() -> String {
    "user".to_owned()
}

fn sub() -> String {
    "sub".to_owned()
}

fn x_api_key() -> String {
    "x-api-key".to_owned()
}

fn default_leeway_s() -> u32 {
    JwtIssuer::DEFAULT_LEEWAY_S
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
