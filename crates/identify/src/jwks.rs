//! JSON Web Key Sets (RFC 7517) and the keys in them.
//!
//! INVARIANT: which algorithms a key verifies follows from its type, and from its `alg` where it has
//! one: RSA those of RSA, a curve the one of that curve. A public key can therefore never be taken
//! for an HMAC secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keepgate_policy::identify::Algorithm;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;

/// The largest key set that is read, in bytes, and the most keys that are kept of it.
pub const MAX_BYTES: usize = 1 << 20;
const MAX_KEYS: usize = 256;
/// HS256 with less than its hash's length is refused (RFC 7518 section 3.2).
const MIN_SECRET: usize = 32;

/// Why there is no key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or not a key set.
    #[error("not a JSON Web Key Set: {0}")]
    Json(String),
    /// Over [`MAX_BYTES`].
    #[error("the key set is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// Nothing in it can verify a signature.
    #[error(
        "the key set has no usable key; RSA (2048 bits or more), EC P-256 and P-384, and Ed25519 are \
         taken"
    )]
    NoKey,
    /// A secret that is too short.
    #[error("an HS256 secret has at least {MIN_SECRET} bytes")]
    ShortSecret,
}

/// The keys of one issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// One key.
pub struct Key {
    kid: Option<String>,
    material: Material,
    /// The only algorithm, where the key set names one.
    only: Option<Algorithm>,
}

enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(ring::hmac::Key),
}

/// A member of `keys` as written; unknown members are ignored, as RFC 7517 asks.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads the public keys of a JWKS. Keys of other types, uses or algorithms are passed over;
    /// symmetric keys are never taken from a JWKS.
    pub fn from_jwks(bytes: &[u8]) -> Result<KeySet, KeySetError> {
        if bytes.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let jwks: Jwks =
            serde_json::from_slice(bytes).map_err(|e| KeySetError::Json(e.to_string()))?;
        let keys: Vec<Key> = jwks
            .keys
            .into_iter()
            .take(MAX_KEYS)
            .filter_map(|jwk| serde_json::from_value::<Jwk>(jwk).ok())
            .filter_map(|jwk| jwk.into_key())
            .collect();
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(KeySet { keys }) }
    }

    /// The one key of an HS256 secret: the file's bytes without a newline at their end.
    pub fn from_secret(bytes: &[u8]) -> Result<KeySet, KeySetError> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.len() < MIN_SECRET {
            return Err(KeySetError::ShortSecret);
        }
        let material = Material::Secret(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, bytes));
        Ok(KeySet { keys: vec![Key { kid: None, material, only: None }] })
    }

    /// The keys that may have signed a token with this key id and algorithm.
    pub fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |key| {
            key.takes(algorithm)
                // A key without an id answers to any; a token without one asks all.
                && (kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid)
        })
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Jwk {
    fn into_key(self) -> Option<Key> {
        let to_verify = self.usage.as_deref().is_none_or(|u| u == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !to_verify {
            return None;
        }
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let n = strip_zeros(decode(self.n.as_ref())?);
                let e = strip_zeros(decode(self.e.as_ref())?);
                (n.len() >= 256 && n.len() <= 1024).then_some(Material::Rsa { n, e })?
            }
            ("EC", Some("P-256")) => Material::P256(self.point(32)?),
            ("EC", Some("P-384")) => Material::P384(self.point(48)?),
            ("OKP", Some("Ed25519")) => {
                let x = decode(self.x.as_ref())?;
                (x.len() == 32).then_some(Material::Ed25519(x))?
            }
            _ => return None,
        };
        let only = match self.alg.as_deref() {
            None => None,
            // RFC 9864 names the curve.
            Some("Ed25519") => Some(Algorithm::EdDsa),
            // An algorithm that is not taken, or that of an encryption.
            Some(alg) => Some(Algorithm::from_name(alg)?),
        };
        let key = Key { kid: self.kid, material, only: None };
        // It must be one of its own family.
        only.is_none_or(|only| key.takes(only)).then_some(Key { only, ..key })
    }

    /// A point of a curve whose coordinates have so many bytes, uncompressed (SEC 1 section 2.3.3).
    fn point(&self, bytes: usize) -> Option<Vec<u8>> {
        let (x, y) = (decode(self.x.as_ref())?, decode(self.y.as_ref())?);
        if x.len() != bytes || y.len() != bytes {
            return None;
        }
        let mut point = vec![4];
        point.extend(x);
        point.extend(y);
        Some(point)
    }
}

fn decode(text: Option<&String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok()
}

/// ring wants big integers without leading zeros.
fn strip_zeros(bytes: Vec<u8>) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.into_iter().skip(zeros).collect()
}

impl Key {
    /// Whether it verifies this algorithm.
    pub fn takes(&self, algorithm: Algorithm) -> bool {
        let family = match self.material {
            Material::Rsa { .. } => rsa(algorithm).is_some(),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::P384(_) => algorithm == Algorithm::Es384,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
            Material::Secret(_) => algorithm == Algorithm::Hs256,
        };
        family && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether this is its signature of `message` by this algorithm.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.takes(algorithm) {
            return false;
        }
        match (&self.material, rsa(algorithm)) {
            (Material::Rsa { n, e }, Some(parameters)) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            (Material::Rsa { .. }, None) => false,
            (Material::P256(point), _) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            (Material::P384(point), _) => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            (Material::Ed25519(x), _) => {
                UnparsedPublicKey::new(&ED25519, x).verify(message, signature).is_ok()
            }
            (Material::Secret(key), _) => ring::hmac::verify(key, message, signature).is_ok(),
        }
    }

    /// Its type, in words.
    fn sort(&self) -> &'static str {
        match self.material {
            Material::Rsa { .. } => "RSA",
            Material::P256(_) => "P-256",
            Material::P384(_) => "P-384",
            Material::Ed25519(_) => "Ed25519",
            Material::Secret(_) => "secret",
        }
    }
}

/// How RSA verifies an algorithm; none: it is not one of RSA's.
fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa | Algorithm::Hs256 => None,
    }
}

impl std::fmt::Debug for Key {
    /// Never shows a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("sort", &self.sort())
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}
