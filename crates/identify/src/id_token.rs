//! ID tokens of a sign-in by a code (OpenID Connect Core 1.0, section 3.1.3.7).
//!
//! INVARIANT: a token is good for the one sign-in that it was asked for. It names the issuer, this client, and
//! the nonce of the browser that began; what was issued for another client, another sign-in or
//! another purpose is refused. Its signature is always checked, also where the connection to the issuer
//! vouches for it, and never with the client's secret.

use keepgate_policy::identify::{Algorithm, ClaimUses, JwtIssuer, KeySource};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use crate::jwks::KeySet;
use crate::jwt::{JwtError, Unverified, seconds};

/// The longest ID token, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// The longest `sub`, in ASCII characters (section 2 there).
pub const MAX_SUBJECT: usize = 255;

/// Seconds by which the clocks of issuer and center may differ.
const LEEWAY_S: u32 = 60;

/// What tokens of an issuer for this client have.
#[derive(Clone, Debug)]
pub struct Expected {
    issuer: JwtIssuer,
    client: String,
}

impl Expected {
    /// Tokens of this issuer for this client, with any public key algorithm that there is.
    pub fn new(issuer: &str, client: &str) -> Expected {
        let algorithms =
            Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != Algorithm::Hs256).collect();
        let issuer = JwtIssuer {
            issuer: issuer.to_owned(),
            audiences: vec![client.to_owned()],
            keys: KeySource::Discovery(issuer.to_owned()),
            algorithms,
            principal_type: String::new(),
            principal_claim: "sub".to_owned(),
            leeway_s: LEEWAY_S,
            certificate_bound: false,
            uses: ClaimUses::default(),
        };
        Expected { issuer, client: client.to_owned() }
    }

    /// The claims of a token, if it is good for the sign-in with this nonce.
    ///
    /// # Errors
    /// [`JwtError`]; with [`JwtError::UnknownKey`] newer keys may know it.
    pub fn verify(
        &self,
        token: &str,
        nonce: &str,
        keys: &KeySet,
        now_unix_s: u64,
    ) -> Result<Map<String, Value>, JwtError> {
        let token = Unverified::parse(token, MAX_BYTES)?;
        if token.is_access {
            return Err(JwtError::Type);
        }
        let verified = token.verify(&self.issuer, keys, now_unix_s)?;
        let claims = token.claims(&verified);
        let many = matches!(claims.get("aud"), Some(Value::Array(many)) if many.len() > 1);
        match claims.get("azp") {
            Some(Value::String(client)) if *client == self.client => {}
            // For several audiences it must say for which of them it was issued.
            None if !many => {}
            _ => return Err(JwtError::Audience),
        }
        let issued = seconds(claims.get("iat").ok_or(JwtError::IssuedAt)?)?;
        if issued > now_unix_s.saturating_add(u64::from(LEEWAY_S)) {
            return Err(JwtError::IssuedAt);
        }
        let told = claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
        if nonce.is_empty() || !bool::from(told.as_bytes().ct_eq(nonce.as_bytes())) {
            return Err(JwtError::Nonce);
        }
        let is_subject = verified.id.len() <= MAX_SUBJECT && verified.id.is_ascii();
        if !is_subject {
            return Err(JwtError::Principal);
        }
        Ok(claims.clone())
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn signer() -> (Ed25519KeyPair, KeySet) {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let jwks = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] });
        let keys = KeySet::from_jwks(jwks.to_string().as_bytes()).unwrap();
        (pair, keys)
    }

    fn signed(pair: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes()));
        format!("{text}.{signature}")
    }

    fn good() -> Value {
        json!({ "iss": "https://id.example", "aud": "console", "sub": "248", "nonce": "n-1",
                "exp": NOW + 300, "iat": NOW })
    }

    /// The good token with members changed; `null` takes one away.
    fn with(changes: &Value) -> Value {
        let mut claims = good();
        for (name, value) in changes.as_object().unwrap() {
            let all = claims.as_object_mut().unwrap();
            if value.is_null() {
                all.remove(name);
            } else {
                all.insert(name.clone(), value.clone());
            }
        }
        claims
    }

    #[test]
    fn a_token_is_good_for_its_own_sign_in_alone() {
        let (pair, keys) = signer();
        let expected = Expected::new("https://id.example", "console");
        let header = json!({ "alg": "EdDSA", "kid": "k", "typ": "JWT" });
        let verify = |changes: Value| {
            let token = signed(&pair, &header, &with(&changes));
            expected.verify(&token, "n-1", &keys, NOW).map(|claims| claims["sub"].clone())
        };
        let longest = "s".repeat(MAX_SUBJECT);
        for (good, sub) in [
            (json!({}), "248"),
            (json!({ "aud": ["console"] }), "248"),
            (json!({ "aud": ["console", "other"], "azp": "console" }), "248"),
            (json!({ "azp": "console" }), "248"),
            (json!({ "iat": NOW + 60 }), "248"),
            (json!({ "exp": NOW - 59 }), "248"),
            (json!({ "sub": longest }), longest.as_str()),
        ] {
            assert_eq!(verify(good.clone()), Ok(json!(sub)), "{good}");
        }
        for (bad, error) in [
            (json!({ "iss": "https://id.example/" }), JwtError::Issuer),
            (json!({ "iss": null }), JwtError::Issuer),
            (json!({ "aud": "other" }), JwtError::Audience),
            (json!({ "aud": null }), JwtError::Audience),
            (json!({ "aud": ["console", "other"] }), JwtError::Audience),
            (json!({ "aud": ["console", "other"], "azp": "other" }), JwtError::Audience),
            (json!({ "azp": "other" }), JwtError::Audience),
            (json!({ "azp": 7 }), JwtError::Audience),
            (json!({ "nonce": "n-2" }), JwtError::Nonce),
            (json!({ "nonce": "" }), JwtError::Nonce),
            (json!({ "nonce": null }), JwtError::Nonce),
            (json!({ "nonce": ["n-1"] }), JwtError::Nonce),
            (json!({ "exp": NOW - 60 }), JwtError::Expired),
            (json!({ "exp": null }), JwtError::NoExpiry),
            (json!({ "iat": NOW + 61 }), JwtError::IssuedAt),
            (json!({ "iat": null }), JwtError::IssuedAt),
            (json!({ "nbf": NOW + 61 }), JwtError::NotYet),
            (json!({ "sub": "" }), JwtError::Principal),
            (json!({ "sub": null }), JwtError::Principal),
            (json!({ "sub": 248 }), JwtError::Principal),
            (json!({ "sub": "ä" }), JwtError::Principal),
            (json!({ "sub": "s".repeat(MAX_SUBJECT + 1) }), JwtError::Principal),
        ] {
            assert_eq!(verify(bad.clone()), Err(error), "{bad}");
        }
    }

    #[test]
    fn neither_an_access_token_nor_another_signature_will_do() {
        let (pair, keys) = signer();
        let (other, _) = signer();
        let expected = Expected::new("https://id.example", "console");
        let verify = |header: Value, pair: &Ed25519KeyPair| {
            let token = signed(pair, &header, &good());
            expected.verify(&token, "n-1", &keys, NOW).err()
        };
        assert_eq!(verify(json!({ "alg": "EdDSA" }), &pair), None);
        for (header, pair, error) in [
            (json!({ "alg": "EdDSA", "typ": "at+jwt" }), &pair, JwtError::Type),
            (json!({ "alg": "EdDSA", "typ": "application/at+JWT" }), &pair, JwtError::Type),
            (json!({ "alg": "EdDSA", "typ": "logout+jwt" }), &pair, JwtError::Type),
            (json!({ "alg": "EdDSA" }), &other, JwtError::Signature),
            (json!({ "alg": "EdDSA", "kid": "k2" }), &pair, JwtError::UnknownKey),
            (json!({ "alg": "none" }), &pair, JwtError::Algorithm),
            (json!({ "alg": "HS256" }), &pair, JwtError::Algorithm),
            (json!({ "alg": "RS256" }), &pair, JwtError::UnknownKey),
        ] {
            assert_eq!(verify(header.clone(), pair), Some(error), "{header}");
        }
        // A nonce that nobody made is none.
        let token = signed(&pair, &json!({ "alg": "EdDSA" }), &with(&json!({ "nonce": "" })));
        assert_eq!(expected.verify(&token, "", &keys, NOW), Err(JwtError::Nonce));
    }

    #[test]
    fn a_token_is_bounded() {
        let (pair, keys) = signer();
        let expected = Expected::new("https://id.example", "console");
        let sized = |pad: usize| {
            let claims = with(&json!({ "pad": "p".repeat(pad) }));
            signed(&pair, &json!({ "alg": "EdDSA" }), &claims)
        };
        let pad = (10_000..13_000).rfind(|pad| sized(*pad).len() <= MAX_BYTES).unwrap();
        expected.verify(&sized(pad), "n-1", &keys, NOW).unwrap();
        // Base64 has no text of each length.
        let error = expected.verify(&sized(pad + 3), "n-1", &keys, NOW);
        assert_eq!(error, Err(JwtError::TooLong));
    }
}
