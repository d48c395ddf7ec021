//! The public keys with which gates sign what they assert to upstreams: what they told, for whom, and
//! until when it is published.
//!
//! Kept in memory: after a restart of the center each gate says its keys again when it connects. A key
//! outlives its gate for a while, because what it has signed does.
//!
//! INVARIANT: for a service only keys are published whose gate may follow that service, with a token
//! that is still good; so no gate can assert for a service that is not its own. A key is one that its
//! gate has proved to hold, and its name is computed here: no gate can spoil the list for the others.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use keepgate_policy::assertion::{KEYS, PublicKey, possession};
use keepgate_policy::proto;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::access::Caller;
use crate::desk::Scope;
use crate::neighbors::TokenKey;

/// How long a key is published that nobody tells any more. Assertions are valid for a minute.
pub(crate) const KEPT: Duration = Duration::from_secs(10 * 60);
/// Keys of one token. With two a gate there is room for 128 gates, or for as many restarts.
const OF_A_TOKEN: usize = 256;
/// Keys of all: two for each of ten thousand followers.
const ALL: usize = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct AssertionKeys(Mutex<BTreeMap<Name, Told>>);

/// The id of the token, and the key's name.
type Name = (String, String);

#[derive(Clone, Debug)]
struct Told {
    key: PublicKey,
    caller: Caller,
    scope: Scope,
    /// The connection that said it last.
    follower: u64,
    /// None: that connection still says it.
    until: Option<Instant>,
}

impl Told {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

impl AssertionKeys {
    /// Takes what a follower says, in place of what it said before. The names of those that are
    /// published from now on; the others are no keys, or there are too many.
    pub(crate) fn tell(
        &self,
        follower: u64,
        (caller, scope): (&Caller, &Scope),
        said: &[proto::AssertionKey],
        now: Instant,
    ) -> Vec<String> {
        let keys: Vec<(Name, PublicKey)> = said
            .iter()
            .take(KEYS)
            .filter_map(PublicKey::from_proto)
            .map(|key| ((caller.token_id().to_owned(), key.kid()), key))
            .collect();
        // Outside of the lock: a signature takes a while to verify.
        let is_known = |name: &Name| self.lock().contains_key(name);
        let proved: Vec<_> =
            keys.into_iter().filter(|(name, key)| is_known(name) || is_proved(key)).collect();
        let mut all = self.lock();
        all.retain(|_, told| !told.is_over(now));
        for ((token, _), told) in all.iter_mut() {
            if token == caller.token_id() && told.follower == follower {
                told.until.get_or_insert(now + KEPT);
            }
        }
        let mut published = Vec::new();
        for (name, key) in proved {
            if !all.contains_key(&name) && !make_room(&mut all, &name.0) {
                continue;
            }
            let (caller, scope) = (caller.clone(), scope.clone());
            published.push(name.1.clone());
            all.insert(name, Told { key, caller, scope, follower, until: None });
        }
        published
    }

    /// The follower's connection has ended.
    pub(crate) fn leave(&self, follower: u64, now: Instant) {
        for told in self.lock().values_mut().filter(|told| told.follower == follower) {
            told.until.get_or_insert(now + KEPT);
        }
    }

    /// All keys that are published.
    pub(crate) fn all(&self, now: Instant) -> Vec<TokenKey> {
        let all = self.lock();
        let told = all.iter().filter(|(_, told)| !told.is_over(now));
        told.map(|((token, _), told)| TokenKey {
            token: token.clone(),
            scope: told.scope.clone(),
            key: told.key.clone(),
            left: told.until.map(|until| until.saturating_duration_since(now)),
        })
        .collect()
    }

    /// The keys of a service, by name, each once.
    /// `is_good` says whether a caller's token still is.
    pub(crate) fn of(
        &self,
        service: &str,
        is_good: impl Fn(&Caller) -> bool,
        now: Instant,
    ) -> Vec<PublicKey> {
        let mut found: BTreeMap<String, PublicKey> = BTreeMap::new();
        for ((_, kid), told) in self.lock().iter() {
            if told.scope.covers(service) && !told.is_over(now) && is_good(&told.caller) {
                found.insert(kid.clone(), told.key.clone());
            }
        }
        found.into_values().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is room for one more key of a token, if need be in place of one that is not said any
/// more and is the next to go: of the same token, so that no token takes the place of another's.
fn make_room(all: &mut BTreeMap<Name, Told>, token: &str) -> bool {
    let own = |(of, _): &Name| of == token;
    let count = all.keys().filter(|name| own(name)).count();
    if count < OF_A_TOKEN && all.len() < ALL {
        return true;
    }
    let gone = all.iter().filter(|(name, told)| own(name) && told.until.is_some());
    let next = gone.min_by_key(|(_, told)| told.until).map(|(name, _)| name.clone());
    next.is_some_and(|name| all.remove(&name).is_some())
}

fn is_proved(key: &PublicKey) -> bool {
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point);
    public.verify(&possession(&key.point), &key.proof).is_ok()
}

/// How often a follower may tell its keys.
const APART: Duration = Duration::from_secs(1);

/// When a follower told its keys last. Proofs take a while to verify: one that says many waits for
/// itself, and for no other.
#[derive(Default)]
pub(super) struct Pace {
    last: Option<tokio::time::Instant>,
}

impl Pace {
    /// Ends when it is the follower's turn.
    pub(super) async fn turn(&mut self) {
        if let Some(last) = self.last {
            tokio::time::sleep_until(last + APART).await;
        }
        self.last = Some(tokio::time::Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use keepgate_policy::assertion::POINT_BYTES;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;
    use crate::access::tests::caller;

    fn key() -> proto::AssertionKey {
        let (random, alg) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &random).unwrap();
        let point: [u8; POINT_BYTES] = pair.public_key().as_ref().try_into().unwrap();
        let proof = pair.sign(&random, &possession(&point)).unwrap();
        proto::AssertionKey { point: point.to_vec(), proof: proof.as_ref().to_vec() }
    }

    fn kid(key: &proto::AssertionKey) -> String {
        PublicKey::from_proto(key).unwrap().kid()
    }

    fn published(all: &AssertionKeys, service: &str, now: Instant) -> Vec<String> {
        all.of(service, |_| true, now).iter().map(PublicKey::kid).collect()
    }

    #[test]
    fn of_its_own_services_while_its_token_is_good_and_a_while_longer() {
        let (all, now) = (AssertionKeys::default(), Instant::now());
        let gate = caller("a", "orders");
        let scope = Scope::of(vec!["orders".to_owned()]);
        let (one, two, other) = (key(), key(), key());
        let forged = proto::AssertionKey { proof: other.proof.clone(), ..key() };
        let said = all.tell(1, (&gate, &scope), &[one.clone(), forged, two.clone()], now);
        assert_eq!(said, [kid(&one), kid(&two)]);
        let mut both = [kid(&one), kid(&two)];
        both.sort();
        assert_eq!(published(&all, "orders", now), both);
        assert!(published(&all, "shop", now).is_empty());
        // The second alone is said from now on; the first stays for a while.
        all.tell(1, (&gate, &scope), std::slice::from_ref(&two), now);
        let (just, over) = (now + KEPT - Duration::from_secs(1), now + KEPT);
        assert_eq!(published(&all, "orders", just), both);
        assert_eq!(published(&all, "orders", over), [kid(&two)]);
        // It is gone, comes again, and is gone.
        all.leave(1, now);
        assert_eq!(published(&all, "orders", just).len(), 2);
        all.tell(2, (&gate, &scope), std::slice::from_ref(&two), now);
        all.leave(1, now);
        assert_eq!(published(&all, "orders", over), [kid(&two)]);
        assert!(all.of("orders", |_| false, now).is_empty(), "the token was revoked");
    }

    #[test]
    fn one_tokens_keys_are_bounded_and_take_nobody_elses_place() {
        let (all, now) = (AssertionKeys::default(), Instant::now());
        let greedy = caller("a", "orders");
        let other = caller("b", "orders");
        let scope = Scope::of(vec!["orders".to_owned()]);
        let five: Vec<_> = (0..KEYS + 1).map(|_| key()).collect();
        assert_eq!(all.tell(0, (&greedy, &scope), &five, now).len(), KEYS);
        assert_eq!(all.tell(1, (&other, &scope), &[key()], now).len(), 1);
        let names: Vec<_> = (0..OF_A_TOKEN as u64)
            .map(|n| all.tell(10 + n, (&greedy, &scope), &[key()], now).len())
            .collect();
        assert_eq!(names.iter().sum::<usize>(), OF_A_TOKEN - KEYS);
        let of = |token: &str| {
            let is_its = |caller: &Caller| caller.token_id() == token;
            all.of("orders", is_its, now).len()
        };
        assert_eq!((of("a"), of("b")), (OF_A_TOKEN, 1));
        // One that is gone makes room.
        all.leave(10, now);
        assert_eq!(all.tell(9_999, (&greedy, &scope), &[key()], now).len(), 1);
        assert_eq!((of("a"), of("b")), (OF_A_TOKEN, 1));
    }
}
