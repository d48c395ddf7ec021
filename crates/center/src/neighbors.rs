//! What the centers of one store tell each other: who follows them, what these reported, and the keys
//! with which they sign. So each answers for all of them.
//!
//! A center writes one note into the store every [`TOLD_EVERY`], and reads those of the others. Ages are
//! told, not times: the hosts' clocks need not agree. A note that is old is not left out without a word:
//! its center is named as one that was not heard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use keepgate_api as api;
use keepgate_limit::top::Heard;
use keepgate_policy::assertion::PublicKey;
use keepgate_policy::{HistoryId, Revision, proto};
use serde::{Deserialize, Serialize};

use crate::desk::{Desk, Head, Scope};
use crate::follow::{Follower, Followers, GateReport, TOO_OLD, activity, keys};
use crate::store::StoreError;

/// How often a center tells.
pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(2);
/// Exchanges for who asks begin at least this far apart.
const APART: Duration = Duration::from_millis(250);
/// How long is waited for an exchange by who told something new, and by who asks.
const TELLS: Duration = Duration::from_secs(2);
const HEARS: Duration = Duration::from_millis(500);
/// A center whose note is older is not counted any more.
const SILENT: Duration = Duration::from_secs(10);
/// One whose note is older than this is forgotten, in milliseconds.
const FORGOTTEN_MS: u64 = 60 * 60 * 1000;
/// Bytes of a note, before it is compressed; reports that do not fit are left out.
const NOTE_BYTES: usize = 32 << 20;
/// A note of another center is not unpacked beyond this.
const MAX_NOTE_BYTES: usize = 2 * NOTE_BYTES;

/// What a center tells the others.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    center: api::CenterStatus,
    followers: Vec<Told>,
    reports: Vec<Report>,
    keys: Vec<Key>,
}

/// A follower; of all times the age.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    name: String,
    peer: Option<std::net::SocketAddr>,
    token: String,
    /// None: all services.
    services: Option<Vec<String>>,
    sent: u64,
    applied: u64,
    applied_ms: Option<u64>,
    connected_ms: u64,
    format: u32,
    release: String,
    history: Option<[u8; 16]>,
    age_ms: Option<u64>,
    pulse: u64,
    pulse_ms: Option<u64>,
    held_back: bool,
    /// How it is, and how long ago it said so, in milliseconds; centers of earlier releases do not tell.
    #[serde(default)]
    report: Option<(GateReport, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Report {
    service: String,
    age_ms: u64,
    report: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Key {
    token: String,
    /// None: all services.
    services: Option<Vec<String>>,
    point: Vec<u8>,
    proof: Vec<u8>,
    /// How long it is published yet; none: its gate still says it.
    left_ms: Option<u64>,
}

/// A key that gates of this token sign with.
#[derive(Clone, Debug)]
pub(crate) struct TokenKey {
    pub(crate) token: String,
    pub(crate) scope: Scope,
    pub(crate) key: PublicKey,
    /// How long it is published yet; none: its gate still says it.
    pub(crate) left: Option<Duration>,
}

/// What another center told last.
#[derive(Debug)]
struct Neighbor {
    note: Note,
    /// When the note was written, by this host's clock.
    at: Instant,
}

impl Neighbor {
    fn age_ms(&self) -> u64 {
        ms(self.at.elapsed())
    }

    fn is_silent(&self) -> bool {
        self.at.elapsed() > SILENT
    }
}

/// See the module.
pub(crate) struct Neighbors {
    desk: Arc<Desk>,
    followers: Arc<Followers>,
    /// Where this center listens, for people.
    address: String,
    others: ArcSwap<Vec<Neighbor>>,
    /// When the last exchange began; held while one is under way.
    last: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl Neighbors {
    pub(crate) fn new(desk: Arc<Desk>, followers: Arc<Followers>, address: String) -> Neighbors {
        let (others, last) = Default::default();
        Neighbors { desk, followers, address, others, last }
    }

    /// Tells and hears, while it is polled. Ends at once where the store is this center's alone.
    pub(crate) async fn run(self: Arc<Neighbors>) {
        while self.desk.is_shared() {
            self.round(Duration::ZERO, TOLD_EVERY).await;
            tokio::time::sleep(TOLD_EVERY).await;
        }
    }

    /// Tells the others what is so now, and returns when each of them answers with it. While the store
    /// is out of reach that is not waited for.
    pub(crate) async fn tell(self: &Arc<Neighbors>) {
        if self.desk.is_shared() {
            self.round(Duration::ZERO, TELLS).await;
            tokio::time::sleep(APART).await;
        }
    }

    /// Hears the others, unless that is so short a while ago that [`Neighbors::tell`] still waits: what
    /// anybody asks costs a few exchanges a second at most. While the store is out of reach, what was
    /// heard before stays.
    pub(crate) async fn hear(self: &Arc<Neighbors>) {
        if self.desk.is_shared() {
            self.round(APART, HEARS).await;
        }
    }

    /// Tells and hears, unless the last exchange began less than `apart` ago; waits for `at_most`. One
    /// exchange is under way at a time, and goes on when nobody waits for it any more. What fails is
    /// done in the next round.
    async fn round(self: &Arc<Neighbors>, apart: Duration, at_most: Duration) {
        let own = Arc::clone(self);
        let round = async move {
            let mut last = Arc::clone(&own.last).lock_owned().await;
            if last.is_some_and(|last| last.elapsed() < apart) {
                return;
            }
            *last = Some(Instant::now());
            let exchange = tokio::task::spawn_blocking(move || {
                let done = own.exchange();
                // Not before: it is what keeps another one from beginning.
                drop(last);
                done
            });
            if let Ok(Err(error)) = exchange.await {
                let error = keepgate_observe::chain(&error);
                tracing::debug!(error, "the other centers were not told, or not heard");
            }
        };
        let _ = tokio::time::timeout(at_most, round).await;
    }

    fn exchange(&self) -> Result<(), StoreError> {
        let note = serde_json::to_vec(&self.note()).unwrap_or_default();
        let packed = zstd::bulk::compress(&note, 1).unwrap_or_default();
        let heard = self.desk.exchange(&packed)?;
        let mut others = Vec::new();
        for told in heard {
            let read = zstd::bulk::decompress(&told.note, MAX_NOTE_BYTES)
                .ok()
                .and_then(|note| serde_json::from_slice::<Note>(&note).ok());
            // One of another release may say it in another way.
            let Some(note) = read else { continue };
            let at = Instant::now().checked_sub(Duration::from_millis(told.age_ms));
            if let Some(at) = at.filter(|_| told.age_ms < FORGOTTEN_MS) {
                others.push(Neighbor { note, at });
            }
        }
        others.sort_by(|a, b| a.note.center.address.cmp(&b.note.center.address));
        self.others.store(Arc::new(others));
        Ok(())
    }

    fn note(&self) -> Note {
        let (now, head) = (keepgate_observe::unix_ms(), self.desk.head());
        let followers: Vec<Told> =
            self.followers.list().into_iter().map(|follower| told(follower, now)).collect();
        let mut room = NOTE_BYTES;
        let mut reports = Vec::new();
        for (service, age, report) in self.followers.activities().all(Instant::now()) {
            let Ok(report) = String::from_utf8(report.to_vec()) else { continue };
            let Some(left) = room.checked_sub(report.len() + service.len()) else { break };
            room = left;
            reports.push(Report { service, age_ms: ms(age), report });
        }
        let keys = self.followers.keys().all(Instant::now());
        let keys = keys.into_iter().map(|key| Key {
            token: key.token,
            services: names(key.scope),
            point: key.key.point.to_vec(),
            proof: key.key.proof,
            left_ms: key.left.map(ms),
        });
        let center = self.own(&head);
        Note { center, followers, reports, keys: keys.collect() }
    }

    /// How this center is.
    pub(crate) fn own(&self, head: &Head) -> api::CenterStatus {
        let (condition, meta) = (self.desk.condition(), self.desk.meta());
        api::CenterStatus {
            address: self.address.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            format: keepgate_policy::mark::FORMAT,
            condition: condition.name().to_owned(),
            why: condition.why().to_owned(),
            history: meta.history.to_string(),
            ancestors: meta.ancestors.iter().map(ToString::to_string).collect(),
            revision: head.revision.0,
            services: head.services.len() as u64,
            gates: self.followers.count() as u64,
            heard_ms_ago: None,
        }
    }

    /// How the other centers are, as each said last; what is wrong with the answer, in words.
    pub(crate) fn centers(&self) -> (Vec<api::CenterStatus>, Vec<String>) {
        let (mut centers, mut wrong) = (Vec::new(), Vec::new());
        for other in self.others.load().iter() {
            let mut center = other.note.center.clone();
            center.heard_ms_ago = Some(other.age_ms());
            let address = &center.address;
            if other.is_silent() {
                let seconds = other.age_ms() / 1000;
                wrong.push(format!(
                    "center {address}: not heard for {seconds} s; its gates are not known"
                ));
                center.condition = "silent".to_owned();
            } else if !center.why.is_empty() {
                wrong.push(format!("center {address}: {}: {}", center.condition, center.why));
            }
            centers.push(center);
        }
        (centers, wrong)
    }

    /// How many centers an answer speaks for: this one, and those that were heard.
    pub(crate) fn count(&self) -> u64 {
        1 + self.others.load().iter().filter(|other| !other.is_silent()).count() as u64
    }

    /// The followers of all centers that were heard, this one's first, each with its center's address.
    pub(crate) fn followers(&self) -> Vec<(String, Follower)> {
        let own = self.followers.list().into_iter();
        let mut all: Vec<(String, Follower)> =
            own.map(|follower| (self.address.clone(), follower)).collect();
        let now = keepgate_observe::unix_ms();
        for other in self.others.load().iter().filter(|other| !other.is_silent()) {
            let (age, address) = (other.age_ms(), &other.note.center.address);
            let of = other.note.followers.iter();
            all.extend(of.map(|told| (address.clone(), follower(told, now.saturating_sub(age)))));
        }
        all
    }

    /// The reports about a service at the other centers, with their ages.
    pub(crate) fn reports(&self, service: &str) -> Vec<Heard> {
        let mut heard = Vec::new();
        for other in self.others.load().iter().filter(|other| !other.is_silent()) {
            for report in other.note.reports.iter().filter(|report| report.service == service) {
                let age_ms = report.age_ms.saturating_add(other.age_ms());
                let read = activity::read(report.report.as_bytes());
                if let Ok(report) = read
                    && age_ms <= ms(activity::FORGOTTEN)
                {
                    heard.push(Heard { report, age_ms });
                }
            }
        }
        heard
    }

    /// The keys for a service that other centers were told, whose token `is_good`. A center that is
    /// not heard any more may have gates yet, so its keys stay as long as those of a gate that left.
    pub(crate) fn keys(&self, service: &str, is_good: impl Fn(&str) -> bool) -> Vec<PublicKey> {
        let mut found = Vec::new();
        for other in self.others.load().iter() {
            let kept = keys::KEPT;
            for key in &other.note.keys {
                let left = key.left_ms.map_or(kept, Duration::from_millis);
                let over = other.is_silent() || key.left_ms.is_some();
                if (over && other.at.elapsed() > left)
                    || !scope(key.services.as_ref()).covers(service)
                    || !is_good(&key.token)
                {
                    continue;
                }
                let (point, proof) = (key.point.clone(), key.proof.clone());
                let told = proto::AssertionKey { point, proof };
                found.extend(PublicKey::from_proto(&told));
            }
        }
        found
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn names(scope: Scope) -> Option<Vec<String>> {
    match scope {
        Scope::All => None,
        Scope::Services(names) => Some(names),
    }
}

fn scope(services: Option<&Vec<String>>) -> Scope {
    services.map_or(Scope::All, |names| Scope::Services(names.clone()))
}

fn told(follower: Follower, now: u64) -> Told {
    Told {
        name: follower.name,
        peer: follower.peer,
        token: follower.token,
        services: names(follower.scope),
        sent: follower.sent.0,
        applied: follower.applied.0,
        applied_ms: follower.applied_unix_ms.map(|at| now.saturating_sub(at)),
        connected_ms: now.saturating_sub(follower.connected_unix_ms),
        format: follower.format,
        release: follower.release,
        history: follower.history.map(|history| history.0),
        age_ms: follower.age_ms,
        pulse: follower.pulse,
        pulse_ms: follower.pulse_unix_ms.map(|at| now.saturating_sub(at)),
        held_back: follower.held_back.is_some(),
        report: follower.report.map(|(gate, at)| (gate, now.saturating_sub(at))),
    }
}

/// As of the time of the note, by this host's clock.
fn follower(told: &Told, at: u64) -> Follower {
    Follower {
        name: told.name.clone(),
        peer: told.peer,
        token: told.token.clone(),
        scope: scope(told.services.as_ref()),
        sent: Revision(told.sent),
        applied: Revision(told.applied),
        applied_unix_ms: told.applied_ms.map(|ms| at.saturating_sub(ms)),
        connected_unix_ms: at.saturating_sub(told.connected_ms),
        format: told.format,
        release: told.release.clone(),
        history: told.history.map(HistoryId),
        age_ms: told.age_ms,
        pulse: told.pulse,
        pulse_unix_ms: told.pulse_ms.map(|ms| at.saturating_sub(ms)),
        held_back: told.held_back.then_some(TOO_OLD),
        report: told.report.clone().map(|(gate, ms)| (gate, at.saturating_sub(ms))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::desk::others::tests::{Center, Place};
    use crate::store;

    fn neighbors(center: &Center, address: &str) -> Arc<Neighbors> {
        let desk = Arc::clone(&center.desk);
        Arc::new(Neighbors::new(desk, Arc::default(), address.to_owned()))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_center_that_is_silent_is_named_and_not_counted() {
        let place = Place::new();
        let (one, other) = (place.center(), place.center());
        let (here, there) = (neighbors(&one, "http://a"), neighbors(&other, "http://b"));
        there.tell().await;
        let note = other.seen.notes.lock().unwrap().0.clone();
        for (age_ms, count, silent) in [(0, 2, false), (11_000, 1, true)] {
            let told = store::Told { age_ms, note: note.clone() };
            one.seen.notes.lock().unwrap().1 = vec![told];
            here.tell().await;
            assert_eq!(here.count(), count, "{age_ms}");
            let (centers, wrong) = here.centers();
            assert_eq!(centers[0].address, "http://b");
            assert_eq!(centers[0].condition == "silent", silent);
            assert_eq!(wrong.iter().any(|said| said.contains("http://b: not heard")), silent);
        }
        // What is no note, and one that is long forgotten, is nobody.
        let far = store::Told { age_ms: FORGOTTEN_MS, note };
        let noise = store::Told { age_ms: 0, note: b"noise".to_vec() };
        one.seen.notes.lock().unwrap().1 = vec![far, noise];
        here.tell().await;
        assert!(here.centers().0.is_empty());
    }

    /// While the store does not answer, whoever asks is answered from what was heard, and one exchange
    /// is under way.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_hangs_holds_nobody() {
        let place = Place::new();
        let center = place.center();
        let here = neighbors(&center, "http://a");
        center.seen.stuck.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            here.hear().await;
            here.tell().await;
        }
        assert_eq!(center.seen.exchanges.load(Ordering::SeqCst), 1);
        center.seen.stuck.store(false, Ordering::SeqCst);
        here.tell().await;
        assert!(center.seen.exchanges.load(Ordering::SeqCst) > 1);
    }
}
