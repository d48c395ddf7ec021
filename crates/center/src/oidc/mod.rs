//! Sign-in to the console at an identity provider (OpenID Connect Core 1.0, code flow with PKCE).
//!
//! [`rules`] says who gets which role, [`provider`] talks to the provider. The console has the pages, and
//! the browser's half of the proof: one random secret in a cookie, from which state, nonce and code
//! verifier follow ([`Attempt`]), so that any center of a store can finish what another has begun, and
//! beginning costs nothing that is kept.
//!
//! INVARIANT: nobody is let in but by an ID token that names this issuer, this client, and the nonce of the
//! same browser; and only with the role that a setting gives for a claim in it.

mod provider;
mod rules;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

pub(crate) use provider::{NotSignedIn, Provider, SignedIn, plain};
pub use rules::{RoleRule, RoleRuleError};

use crate::token;

/// Settings of sign-in at an identity provider.
#[derive(Clone)]
pub struct OidcConfig {
    /// The provider, as its ID tokens name it (`iss`), byte for byte.
    pub issuer: String,
    /// By what the provider knows this center.
    pub client_id: String,
    /// The client's secret; none: a public client, which PKCE alone protects.
    pub client_secret: Option<String>,
    /// What is asked for beside `openid`.
    pub scopes: Vec<String>,
    /// Who gets which role; the first that fits counts. Without any nobody gets in.
    pub roles: Vec<RoleRule>,
    /// The claim by which the audit log names people.
    pub user_claim: String,
    /// How long a session lasts in all, from a minute to [`OidcConfig::LONGEST`].
    pub session: Duration,
}

impl OidcConfig {
    /// A session of somebody who was removed at the provider lasts as long at most.
    pub const LONGEST: Duration = Duration::from_secs(12 * 3_600);
    /// The longest issuer, client id, secret, claim name and scope, in bytes.
    pub const MAX_TEXT: usize = 2_048;
    /// Rules at most.
    pub const MAX_RULES: usize = 1_000;
}

impl fmt::Debug for OidcConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcConfig")
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The issuer may not be asked.
    #[error("the OpenID Connect issuer cannot be asked")]
    Access(#[from] keepgate_identify::access::AccessError),
    /// The issuer has what an issuer has not.
    #[error("the OpenID Connect issuer `{0}`: expected a URL without query and fragment")]
    Issuer(String),
    /// A text is empty or too long.
    #[error(
        "the {what} of OpenID Connect: expected 1 to {} bytes without control characters, and no space in a scope",
        OidcConfig::MAX_TEXT
    )]
    Text {
        /// Of what.
        what: &'static str,
    },
    /// There is no rule, or there are too many.
    #[error(
        "the roles of OpenID Connect: expected 1 to {} rules of the form ROLE[@SERVICE]=CLAIM=VALUE, got \
         {found}",
        OidcConfig::MAX_RULES
    )]
    Rules {
        /// How many there are.
        found: usize,
    },
    /// The session is too short or too long.
    #[error("the session of OpenID Connect: expected 1 minute to 12 hours")]
    Session,
    /// No certificates to trust.
    #[error("the OpenID Connect issuer cannot be asked")]
    Tls(#[source] keepgate_identify::ask::AskError),
}

/// One sign-in that a browser has begun.
///
/// The state is bound to all that the cookie has, so whoever can change the cookie's way or time, but not
/// what the provider sends back, gains nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// 64 hex digits.
    secret: String,
    /// When it began, in seconds since the Unix epoch.
    began_unix_s: u64,
    /// The page to go to.
    pub(crate) next: String,
}

impl Attempt {
    /// How long one has to sign in, in seconds.
    pub(crate) const LASTS_S: u64 = 600;
    /// The longest page to go to, in bytes; beyond it one begins at the overview.
    pub(crate) const MAX_NEXT: usize = 1_024;

    /// A new one; none: the system gives no random numbers.
    pub(crate) fn new(next: &str, now_unix_s: u64) -> Option<Attempt> {
        let secret: [u8; 32] = crate::store::random().ok()?;
        let next = if next.len() > Attempt::MAX_NEXT { "" } else { next };
        Some(Attempt {
            secret: token::hex(&secret),
            began_unix_s: now_unix_s,
            next: next.to_owned(),
        })
    }

    /// As a cookie's value.
    pub(crate) fn text(&self) -> String {
        let next = URL_SAFE_NO_PAD.encode(&self.next);
        format!("{}.{}.{next}", self.secret, self.began_unix_s)
    }

    /// Of a cookie's value; none: it is none, or too old.
    pub(crate) fn of(text: &str, now_unix_s: u64) -> Option<Attempt> {
        if text.len() > 3 * Attempt::MAX_NEXT {
            return None;
        }
        let (secret, rest) = text.split_once('.')?;
        let (began, next) = rest.split_once('.')?;
        let is_secret = secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
        let began_unix_s: u64 = began.parse().ok()?;
        let next = String::from_utf8(URL_SAFE_NO_PAD.decode(next).ok()?).ok()?;
        let age = now_unix_s.checked_sub(began_unix_s)?;
        (is_secret && age <= Attempt::LASTS_S).then(|| Attempt {
            secret: secret.to_owned(),
            began_unix_s,
            next,
        })
    }

    fn derived(&self, what: &str) -> [u8; 32] {
        let hash = Sha256::new_with_prefix(b"keepgate sign-in\0").chain_update(what);
        hash.chain_update([0]).chain_update(self.text()).finalize().into()
    }

    /// What comes back with the code: this browser has begun it.
    pub(crate) fn state(&self) -> String {
        token::hex(&self.derived("state"))
    }

    /// Whether that came back, in constant time.
    pub(crate) fn is_state(&self, told: &str) -> bool {
        told.as_bytes().ct_eq(self.state().as_bytes()).into()
    }

    /// What the ID token has: it was issued for this sign-in.
    pub(crate) fn nonce(&self) -> String {
        token::hex(&self.derived("nonce"))
    }

    /// What exchanges the code (RFC 7636): whoever has asked for it.
    pub(crate) fn verifier(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.derived("verifier"))
    }

    /// What is said of it in front (S256).
    pub(crate) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_told_by_its_cookie_alone_and_not_for_long() {
        let one = Attempt::new("/why?service=a%20b", 1_000).unwrap();
        let text = one.text();
        assert_eq!(Attempt::of(&text, 1_000), Some(one.clone()));
        assert_eq!(Attempt::of(&text, 1_600), Some(one.clone()));
        assert_eq!(Attempt::of(&text, 1_601), None);
        assert_eq!(Attempt::of(&text, 999), None, "the clock went back");
        let other = Attempt::new("/why?service=a%20b", 1_000).unwrap();
        let all = [one.state(), one.nonce(), one.verifier(), other.state(), other.nonce()];
        for (at, text) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(text));
            assert!(!one.text().contains(text.as_str()));
        }
        assert!(one.is_state(&one.state()));
        assert!(!one.is_state(&other.state()) && !one.is_state(""));
        // Another way or time is another state.
        let moved = Attempt { next: "/access".to_owned(), ..one.clone() };
        let later = Attempt { began_unix_s: 1_001, ..one.clone() };
        assert!(!moved.is_state(&one.state()) && !later.is_state(&one.state()));
        for bad in ["", "a.1.b", &text.replace('.', ""), &format!("g{}", &text[1..])] {
            assert_eq!(Attempt::of(bad, 1_000), None, "{bad}");
        }
    }

    #[test]
    fn a_verifier_and_its_challenge_are_as_rfc_7636_has_them() {
        let one = Attempt::new("", 1_000).unwrap();
        let verifier = one.verifier();
        assert_eq!(verifier.len(), 43);
        assert!(verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_eq!(one.challenge().len(), 43);
        // The example of its appendix B, for the hash.
        let known = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(known));
        assert_eq!(hash, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    proptest::proptest! {
        #[test]
        fn a_cookie_of_any_text_begins_nothing(text in "[0-9a-f]{60,66}\\.[0-9]{0,22}\\.?.{0,40}") {
            if let Some(attempt) = Attempt::of(&text, 1_000) {
                // Base64 may be written in one way alone.
                proptest::prop_assert_eq!(attempt.secret.len(), 64);
                proptest::prop_assert!(attempt.next.len() <= Attempt::MAX_NEXT);
            }
        }
    }

    #[test]
    fn a_long_way_is_not_kept() {
        let next = |bytes: usize| {
            let next = format!("/{}", "a".repeat(bytes - 1));
            let text = Attempt::new(&next, 1).unwrap().text();
            Attempt::of(&text, 1).unwrap().next.len()
        };
        assert_eq!(next(Attempt::MAX_NEXT), Attempt::MAX_NEXT);
        assert_eq!(next(Attempt::MAX_NEXT + 1), 0);
    }
}
