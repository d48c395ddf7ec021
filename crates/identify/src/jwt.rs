//! JSON Web Tokens (RFC 7519) in compact JWS form (RFC 7515), verified with `ring`.
//!
//! Written here and not taken from a library because the libraries bind to other cryptography,
//! and because what is refused matters more than what is read: an algorithm is a property of the
//! *key* and of the issuer's list, never of the token; `none`, `crit` and repeated members are
//! refused; a key that a token brings along (`jwk`, `jku`, `x5c`, `x5u`) is never looked at.
//!
//! Pure: the time is an argument, in seconds since the Unix epoch.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keepgate_policy::identify::{Algorithm, JwtIssuer};
use keepgate_policy::json::{self, JsonError};
use serde_json::Value;

use crate::jwks::KeySet;

/// The longest `kid`.
const MAX_KID: usize = 256;
/// How many keys are tried for a token without `kid`.
const MAX_TRIES: usize = 4;

/// Why a token identifies nobody. The texts go to the caller: they tell what is wrong with the
/// token, never what the gate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Over the service's bound.
    #[error("the token is too long")]
    TooLong,
    /// Not three base64url parts with JSON objects in the first two.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// A member twice in one object.
    #[error("the token repeats a member")]
    Repeated,
    /// `crit`, or `b64`.
    #[error("the token needs an extension that is not supported")]
    Critical,
    /// `typ` is of something that is no JWT for access.
    #[error("the token is of another type")]
    Type,
    /// Not in the issuer's list, unknown, or `none`.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// No issuer of the service.
    #[error("the token's issuer is not accepted")]
    Issuer,
    /// No key with that id; the key set may be renewed for it.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The signature does not hold.
    #[error("the token's signature does not hold")]
    Signature,
    /// `exp` is missing.
    #[error("the token has no expiry")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    NotYet,
    /// `aud` names nobody that is accepted, or `azp` another client.
    #[error("the token is for another audience")]
    Audience,
    /// `nonce` is missing, or of another sign-in.
    #[error("the token is not of this sign-in")]
    Nonce,
    /// `iat` is missing, or to come.
    #[error("the token does not say when it was issued")]
    IssuedAt,
    /// The principal's claim is missing or is no text.
    #[error("the token does not say who the caller is")]
    Principal,
    /// The server that has issued it says so (RFC 7662).
    #[error("the token is not active")]
    Inactive,
    /// `cnf` asks for a proof that is not one by a client certificate (RFC 8705).
    #[error("the token asks for a proof of possession that is not supported")]
    Confirmation,
    /// No `cnf`, and the issuer's tokens must have one.
    #[error("the token is not bound to a client certificate")]
    Unbound,
}

/// Who a verified token says the caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The principal's id; its type is the issuer's setting.
    pub id: String,
    /// When the token is refused, in seconds since the Unix epoch; leeway included.
    pub until_unix_s: u64,
    /// Before when it is refused; leeway included.
    pub from_unix_s: u64,
    /// SHA-256 of the client certificate that the connection must have (RFC 8705, `x5t#S256`).
    pub bound: Option<[u8; 32]>,
}

/// A token that was read but not verified; nothing in it may be believed.
#[derive(Debug)]
pub struct Unverified<'a> {
    /// What is signed: the first two parts with the dot.
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    /// The key's id.
    pub kid: Option<String>,
    /// Whether its `typ` is that of access tokens (RFC 9068).
    pub(crate) is_access: bool,
    claims: serde_json::Map<String, Value>,
}

impl<'a> Unverified<'a> {
    /// Reads a token of at most so many bytes.
    pub fn parse(token: &'a str, max_bytes: usize) -> Result<Unverified<'a>, JwtError> {
        if token.len() > max_bytes {
            return Err(JwtError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        if payload.contains('.') {
            return Err(JwtError::Malformed);
        }
        let header = object(&decode(header)?)?;
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(JwtError::Critical);
        }
        let is_access = match header.get("typ") {
            None => false,
            Some(Value::String(typ)) => {
                let typ = typ.to_ascii_lowercase();
                match typ.strip_prefix("application/").unwrap_or(&typ) {
                    "jwt" => false,
                    "at+jwt" => true,
                    _ => return Err(JwtError::Type),
                }
            }
            Some(_) => return Err(JwtError::Malformed),
        };
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .and_then(Algorithm::from_name)
            .ok_or(JwtError::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= MAX_KID => Some(kid.clone()),
            Some(_) => return Err(JwtError::Malformed),
        };
        let signature = decode(signature)?;
        let claims = object(&decode(payload)?)?;
        Ok(Unverified { signed, signature, algorithm, kid, is_access, claims })
    }

    /// The issuer it claims, by which the settings to verify it with are chosen.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Its claims, once somebody has verified it.
    pub fn claims(&self, _verified: &Verified) -> &serde_json::Map<String, Value> {
        &self.claims
    }

    /// Verifies it with an issuer's settings and keys.
    pub fn verify(
        &self,
        issuer: &JwtIssuer,
        keys: &KeySet,
        now_unix_s: u64,
    ) -> Result<Verified, JwtError> {
        if self.issuer() != Some(issuer.issuer.as_str()) {
            return Err(JwtError::Issuer);
        }
        if !issuer.algorithms.contains(&self.algorithm) {
            return Err(JwtError::Algorithm);
        }
        let mut candidates =
            keys.candidates(self.kid.as_deref(), self.algorithm).take(MAX_TRIES).peekable();
        if candidates.peek().is_none() {
            return Err(JwtError::UnknownKey);
        }
        if !candidates
            .any(|key| key.verifies(self.algorithm, self.signed.as_bytes(), &self.signature))
        {
            return Err(JwtError::Signature);
        }
        self.check_claims(issuer, now_unix_s)
    }

    fn check_claims(&self, issuer: &JwtIssuer, now: u64) -> Result<Verified, JwtError> {
        let leeway = u64::from(issuer.leeway_s);
        let until = match self.claims.get("exp") {
            None => return Err(JwtError::NoExpiry),
            Some(exp) => seconds(exp)?.saturating_add(leeway),
        };
        if now >= until {
            return Err(JwtError::Expired);
        }
        let from = match self.claims.get("nbf") {
            None => 0,
            Some(nbf) => seconds(nbf)?.saturating_sub(leeway),
        };
        if now < from {
            return Err(JwtError::NotYet);
        }
        let accepted = |aud: &Value| {
            aud.as_str().is_some_and(|aud| issuer.audiences.iter().any(|ours| ours == aud))
        };
        let for_us = match self.claims.get("aud") {
            Some(Value::Array(many)) => many.iter().any(accepted),
            Some(one) => accepted(one),
            None => false,
        };
        if !for_us {
            return Err(JwtError::Audience);
        }
        let bound = confirmation(&self.claims)?;
        if issuer.certificate_bound && bound.is_none() {
            return Err(JwtError::Unbound);
        }
        match self.claims.get(&issuer.principal_claim) {
            Some(Value::String(id)) if !id.is_empty() => {
                Ok(Verified { id: id.clone(), until_unix_s: until, from_unix_s: from, bound })
            }
            _ => Err(JwtError::Principal),
        }
    }
}

/// The certificate that a token is bound to (RFC 8705, section 3.1). An issuer that asks for
/// another confirmation (RFC 7800) counts on it: such a token is refused, not ignored.
pub fn confirmation(claims: &serde_json::Map<String, Value>) -> Result<Option<[u8; 32]>, JwtError> {
    let Some(cnf) = claims.get("cnf") else { return Ok(None) };
    let hash = match cnf.as_object() {
        Some(members) if !members.contains_key("jkt") => members.get("x5t#S256"),
        _ => None,
    };
    let hash = hash.and_then(Value::as_str).ok_or(JwtError::Confirmation)?;
    let hash = URL_SAFE_NO_PAD.decode(hash).ok().and_then(|hash| hash.try_into().ok());
    hash.map(Some).ok_or(JwtError::Confirmation)
}

fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed)
}

/// NumericDate: a JSON number of seconds; a fraction is cut off.
pub fn seconds(value: &Value) -> Result<u64, JwtError> {
    if let Some(n) = value.as_u64() {
        return Ok(n);
    }
    match value.as_f64() {
        // Exact for all dates of interest, and nothing else gets in.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the bounds are checked in the guard"
        )]
        Some(f) if (0.0..9e15).contains(&f) => Ok(f as u64),
        _ => Err(JwtError::Malformed),
    }
}

/// A JSON object without repeated members, at any depth. Two readers of a repeated member may
/// believe different ones.
fn object(bytes: &[u8]) -> Result<serde_json::Map<String, Value>, JwtError> {
    match json::parse(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Err(JsonError::Repeated(_)) => Err(JwtError::Repeated),
        Ok(_) | Err(JsonError::Syntax(_)) => Err(JwtError::Malformed),
    }
}
