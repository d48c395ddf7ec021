//! What the gate asserts to an upstream about a caller: `Keepgate-Assertion`, a JWT (RFC 7519) in
//! compact JWS form (RFC 7515), signed with ES256 (RFC 7518), for one service and at most a minute.
//!
//! The key is made here and never leaves the gate but for the file in its data directory. Its public
//! half goes to the center, which publishes it for each service that the gate may follow. A key signs
//! only once the center has published it, and is kept then: where the center is away, a gate that was
//! started anew goes on with the key that upstreams can find.
//!
//! The time is an argument, in seconds since the Unix epoch.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use http::HeaderValue;
use keepgate_policy::Uid;
use keepgate_policy::assertion::{POINT_BYTES, PublicKey, possession};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

/// The header.
pub const HEADER: http::HeaderName = http::HeaderName::from_static("keepgate-assertion");
/// The issuer of assertions (`iss`).
pub const ISSUER: &str = "keepgate";
/// How long an assertion is valid.
pub const VALID_S: u64 = 60;
/// How long one is used again for the same caller: it stays valid for as long again.
pub const REUSED_S: u64 = 30;
/// How long a key signs.
pub const KEY_S: u64 = 24 * 60 * 60;
/// Assertions that a worker keeps for one service; at about 700 bytes each this is under 3 MB.
const KEPT: usize = 4096;
/// The largest file of a key, in bytes.
const MAX_FILE: u64 = 4096;
/// Its name in the data directory.
const FILE: &str = "assertion.key";

/// A key that signs.
pub struct Signer {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    public: PublicKey,
    /// The first part of each token.
    header: String,
    made_unix_s: u64,
}

/// The key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The system gives no random numbers.
    #[error("no key for assertions can be made")]
    Make,
    /// Not a key of ES256.
    #[error("the bytes are not a private key of ES256")]
    Key,
    /// The file in the data directory.
    #[error("`{path}` cannot be read or written")]
    File {
        /// Which one.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl std::fmt::Debug for Signer {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("kid", &self.public.kid()).finish_non_exhaustive()
    }
}

impl Signer {
    /// A new key.
    ///
    /// # Errors
    /// [`SignerError::Make`].
    pub fn new(now_unix_s: u64) -> Result<Signer, SignerError> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        Signer::of(pkcs8.map_err(|_| SignerError::Make)?.as_ref(), now_unix_s)
    }

    fn of(pkcs8: &[u8], made_unix_s: u64) -> Result<Signer, SignerError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random);
        let pair = pair.map_err(|_| SignerError::Key)?;
        let point: [u8; POINT_BYTES] =
            pair.public_key().as_ref().try_into().map_err(|_| SignerError::Key)?;
        let proof = pair.sign(&random, &possession(&point)).map_err(|_| SignerError::Make)?;
        let public = PublicKey { point, proof: proof.as_ref().to_vec() };
        let header = json!({"alg": "ES256", "kid": public.kid(), "typ": "JWT"}).to_string();
        Ok(Signer { pair, pkcs8: pkcs8.to_vec(), public, header: B64.encode(header), made_unix_s })
    }

    /// What the center publishes of it.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Whether another one should take its place.
    pub fn is_old(&self, now_unix_s: u64) -> bool {
        now_unix_s.saturating_sub(self.made_unix_s) >= KEY_S
    }

    /// An assertion about a principal, for a service; none: the system gives no random numbers.
    pub fn sign(&self, principal: &Uid, service: &str, now_unix_s: u64) -> Option<HeaderValue> {
        let claims = json!({
            "iss": ISSUER,
            "sub": principal.to_string(),
            "aud": service,
            "iat": now_unix_s,
            "exp": now_unix_s + VALID_S,
            "principal": {"type": principal.kind, "id": principal.id},
        });
        let mut token = format!("{}.{}", self.header, B64.encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
        token.push('.');
        B64.encode_string(signature.as_ref(), &mut token);
        HeaderValue::try_from(token).ok()
    }

    /// Keeps it in a data directory, for this user alone.
    ///
    /// # Errors
    /// [`SignerError::File`].
    pub fn keep(&self, dir: &Path) -> Result<(), SignerError> {
        let (path, draft) = (dir.join(FILE), dir.join(format!("{FILE}.new")));
        let failed = |source| SignerError::File { path: path.display().to_string(), source };
        let mut bytes = self.made_unix_s.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.pkcs8);
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&draft);
        let mut file = file.map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&draft, &path).map_err(failed)
    }

    /// The one that was kept; none: there is none.
    ///
    /// # Errors
    /// A file that cannot be read, or is no key.
    pub fn kept(dir: &Path) -> Result<Option<Signer>, SignerError> {
        let path = dir.join(FILE);
        let failed = |source| SignerError::File { path: path.display().to_string(), source };
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
        let (made, pkcs8) = bytes.split_first_chunk::<8>().ok_or(SignerError::Key)?;
        Signer::of(pkcs8, u64::from_be_bytes(*made)).map(Some)
    }
}

/// The keys of a gate: the one that signs, and the one that will, once the center has published it.
#[derive(Debug)]
pub(crate) struct Keyring {
    signs: ArcSwapOption<Signer>,
    next: ArcSwapOption<Signer>,
    dir: Option<PathBuf>,
}

impl Keyring {
    /// With the key of the data directory, if there is one. Blocks on the file.
    pub(crate) fn open(dir: Option<&Path>) -> Keyring {
        let kept = dir.map(Signer::kept).transpose().unwrap_or_else(|error| {
            let error = keepgate_observe::chain(&error);
            tracing::warn!(
                error,
                "the kept key for assertions cannot be used; there will be another"
            );
            None
        });
        let signs = ArcSwapOption::from(kept.flatten().map(Arc::new));
        Keyring { signs, next: ArcSwapOption::empty(), dir: dir.map(Path::to_owned) }
    }

    /// The key that signs now; none: none was published yet.
    pub(crate) fn signer(&self) -> Option<Arc<Signer>> {
        self.signs.load_full()
    }

    /// What the center is to publish.
    pub(crate) fn public(&self) -> Vec<PublicKey> {
        let both = [self.signs.load_full(), self.next.load_full()];
        both.into_iter().flatten().map(|signer| signer.public.clone()).collect()
    }

    /// Makes a key where there is none, or where the one that signs is old. Whether it did.
    pub(crate) fn renew(&self, now_unix_s: u64) -> Result<bool, SignerError> {
        let is_fresh = |signer: &Arc<Signer>| !signer.is_old(now_unix_s);
        if self.signs.load().as_ref().is_some_and(is_fresh) || self.next.load().is_some() {
            return Ok(false);
        }
        self.next.store(Some(Arc::new(Signer::new(now_unix_s)?)));
        Ok(true)
    }

    /// Lets the next key sign, if it is among those that are published, and keeps it. Blocks on the
    /// file. Whether another key signs from now on.
    pub(crate) fn publish(&self, is_published: impl Fn(&PublicKey) -> bool) -> bool {
        let Some(next) = self.next.load_full().filter(|next| is_published(&next.public)) else {
            return false;
        };
        if let Some(dir) = &self.dir
            && let Err(error) = next.keep(dir)
        {
            let error = keepgate_observe::chain(&error);
            tracing::warn!(
                error,
                "the key for assertions is not kept; a restart makes another one"
            );
        }
        self.signs.store(Some(next));
        self.next.store(None);
        true
    }
}

/// The assertions of one service at one worker, each used again for a while.
#[derive(Debug, Default)]
pub(crate) struct Assertions {
    /// The key that has signed them.
    kid: String,
    made: HashMap<Arc<Uid>, (u64, HeaderValue)>,
}

impl Assertions {
    /// An assertion about a principal, and whether it was signed just now. None: it cannot be signed.
    pub(crate) fn of(
        &mut self,
        signer: &Signer,
        principal: &Arc<Uid>,
        service: &str,
        now_unix_s: u64,
    ) -> Option<(HeaderValue, bool)> {
        if self.kid != signer.public.kid() {
            self.made.clear();
            self.kid = signer.public.kid();
        }
        // A clock that was set back makes a new one, too.
        let is_fresh = |made: u64| (made..made + REUSED_S).contains(&now_unix_s);
        if let Some((made, value)) = self.made.get(principal)
            && is_fresh(*made)
        {
            return Some((value.clone(), false));
        }
        let value = signer.sign(principal, service, now_unix_s)?;
        if self.made.len() >= KEPT {
            self.made.retain(|_, (made, _)| is_fresh(*made));
        }
        if self.made.len() >= KEPT {
            // Any will do: a wrong guess costs one signature.
            let half: Vec<_> = self.made.keys().take(KEPT / 2).cloned().collect();
            for principal in half {
                self.made.remove(&principal);
            }
        }
        self.made.insert(Arc::clone(principal), (now_unix_s, value.clone()));
        Some((value, true))
    }
}

#[cfg(test)]
mod tests {
    use keepgate_policy::identify::JwtIssuer;

    use super::*;
    use crate::identify::jwks::KeySet;
    use crate::identify::jwt::{JwtError, Unverified};

    fn issuer(service: &str) -> JwtIssuer {
        serde_json::from_value(json!({
            "issuer": ISSUER, "audience": service, "jwks_file": "x", "algorithms": ["ES256"],
            "leeway_s": 0,
        }))
        .unwrap()
    }

    fn keys(all: &[PublicKey]) -> KeySet {
        let keys: Vec<_> = all.iter().map(PublicKey::jwk).collect();
        KeySet::from_jwks(json!({"keys": keys}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_gates_own_verifier_takes_it_for_a_minute_and_one_service() {
        let (signer, other) = (Signer::new(0).unwrap(), Signer::new(0).unwrap());
        let alice = Uid::new("user", "alice \"quoted\"");
        let value = signer.sign(&alice, "orders", 1_000).unwrap();
        let token = Unverified::parse(value.to_str().unwrap(), 8192).unwrap();
        let own = keys(&[other.public().clone(), signer.public().clone()]);
        let verified = token.verify(&issuer("orders"), &own, 1_000).unwrap();
        assert_eq!(verified.id, alice.to_string());
        assert!(verified.until_unix_s <= 1_000 + 60);
        assert!(token.verify(&issuer("orders"), &own, 1_059).is_ok());
        for (service, keys, now, error) in [
            ("orders", &own, 1_060, JwtError::Expired),
            ("shop", &own, 1_000, JwtError::Audience),
            ("orders", &keys(&[other.public().clone()]), 1_000, JwtError::UnknownKey),
        ] {
            assert_eq!(token.verify(&issuer(service), keys, now), Err(error));
        }
    }

    #[test]
    fn one_is_used_again_for_half_a_minute_by_its_own_caller() {
        let (signer, next) = (Signer::new(0).unwrap(), Signer::new(0).unwrap());
        let mut all = Assertions::default();
        let (alice, bob) = (Arc::new(Uid::new("u", "a")), Arc::new(Uid::new("u", "b")));
        let first = all.of(&signer, &alice, "s", 1_000).unwrap();
        assert_eq!(all.of(&signer, &alice, "s", 1_029).unwrap(), (first.0.clone(), false));
        assert_ne!(all.of(&signer, &bob, "s", 1_029).unwrap(), first);
        let second = all.of(&signer, &alice, "s", 1_030).unwrap();
        assert_ne!(second, first);
        assert_ne!(all.of(&signer, &alice, "s", 999).unwrap(), second, "the clock was set back");
        let third = all.of(&next, &alice, "s", 1_030).unwrap();
        assert!(third != second && all.made.len() == 1, "another key");
        for n in 0..3 * KEPT {
            all.made.insert(Arc::new(Uid::new("u", n.to_string())), (1_030, third.0.clone()));
            if all.made.len() > KEPT {
                all.of(&next, &Arc::new(Uid::new("v", n.to_string())), "s", 1_031).unwrap();
            }
            assert!(all.made.len() <= KEPT + 1);
        }
    }

    #[test]
    fn a_key_signs_once_it_is_published_and_is_kept() {
        let dir = std::env::temp_dir().join(format!("keepgate-assertion-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let ring = Keyring::open(Some(&dir));
        assert!(ring.signer().is_none() && ring.renew(1_000).unwrap());
        assert!(!ring.renew(1_000).unwrap(), "one at a time");
        assert!(!ring.publish(|_| false) && ring.signer().is_none());
        assert!(ring.publish(|_| true) && !ring.publish(|_| true));
        let kid = ring.signer().unwrap().public().kid();
        let again = Keyring::open(Some(&dir));
        assert_eq!(again.signer().unwrap().public().kid(), kid, "it is kept");
        assert!(!again.renew(1_000 + KEY_S - 1).unwrap());
        assert!(again.renew(1_000 + KEY_S).unwrap());
        assert_eq!(again.signer().unwrap().public().kid(), kid, "the old one signs on");
        assert_eq!(again.public().len(), 2);
        assert!(again.publish(|_| true));
        assert_ne!(again.signer().unwrap().public().kid(), kid);
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(dir.join(FILE), b"no key").unwrap();
        assert!(Signer::kept(&dir).is_err());
        assert!(Keyring::open(Some(&dir)).signer().is_none());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
