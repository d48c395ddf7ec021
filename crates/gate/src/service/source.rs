//! Where the gate's permissions come from: a replica of a center, or a world in hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use keepgate_client::replica::{Pinned, Replica, ReplicaMetrics, Unanswered};
use keepgate_observe::{Page, Sort};
use keepgate_policy::assertion::PublicKey;
use keepgate_policy::{Digest, HistoryId, Revision, World, proto};
use tokio::sync::watch;

/// Which state of a world is meant: a revision means one state within its history. The digest
/// tells apart what a source without histories may number alike.
pub type Version = (Revision, Digest, Option<HistoryId>);

/// How old one world is: not the newest one that its source has.
pub trait Currency: Send + Sync + std::fmt::Debug {
    /// How long ago this world was last known to be current; none: never, or nobody knows. Once
    /// the world is replaced, this only grows.
    fn age(&self) -> Option<Duration>;
}

/// A world and its own age.
#[derive(Clone, Debug)]
pub struct Dated {
    /// The world.
    pub world: World,
    /// Which one it is.
    pub version: Version,
    /// How old it is.
    pub currency: Arc<dyn Currency>,
}

/// A look at a source.
#[derive(Debug)]
pub enum Peek {
    /// It has no world yet.
    Nothing,
    /// It still has the version that is held.
    Same,
    /// It has another one.
    New(Dated),
}

/// An answer to come; an error is never a refusal.
pub type Answering<'a> =
    Pin<Box<dyn Future<Output = Result<proto::caller_answer::Answer, Unanswered>> + Send + 'a>>;

/// A source of permissions. Asked on every request: no call may block or do I/O.
pub trait DecisionSource: Send + Sync + 'static {
    /// What it has, compared with the version that is held.
    fn peek(&self, held: Option<Version>) -> Peek;

    /// What it has for one service: an older state where the newest is one that it does not
    /// understand. By default what it has for all.
    fn peek_service(&self, service: &str, held: Option<Version>) -> Peek {
        let _ = service;
        self.peek(held)
    }

    /// How long ago its world was last known to be current; none: never, or nobody knows.
    fn age(&self) -> Option<Duration>;

    /// The newest revision that it has heard of; by default the one it has.
    fn head(&self) -> Revision {
        match self.peek(None) {
            Peek::New(dated) => dated.version.0,
            Peek::Nothing | Peek::Same => Revision(0),
        }
    }

    /// Waits, within bounds, until it has at least this revision. Whether it has.
    fn wait_for(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// The history of its world; none: it has none, or knows no histories.
    fn history(&self) -> Option<HistoryId> {
        None
    }

    /// Whether the history that begins with these hexadecimal digits is one that was lost and that
    /// its own continues: a revision of it will never be reached.
    fn is_lost_history(&self, digits: &str) -> bool {
        let _ = digits;
        false
    }

    /// What keeps it from following its center and needs a person; deciding goes on meanwhile.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Where the center is that it follows now; none: nowhere, or it follows none.
    fn center(&self) -> Option<String> {
        None
    }

    /// Numbers for `/metrics`; none by default.
    fn metrics(&self, page: &mut Page) {
        let _ = page;
    }

    /// Takes on a report about who makes the requests of this service (JSON), for whoever collects
    /// them; nobody does by default. Must not wait.
    fn report(&self, service: &str, report: Vec<u8>) {
        let _ = (service, report);
    }

    /// Takes on what was done with the requests of a service since the last call, for whoever adds it up;
    /// nobody does by default. Must not wait.
    fn tell_figures(&self, figures: proto::Figures) {
        let _ = figures;
    }

    /// Has these keys of assertions published in place of those before; must not wait. By default
    /// nobody publishes any.
    fn publish_assertion_keys(&self, keys: &[PublicKey]) {
        let _ = keys;
    }

    /// Whether a key is published, so that upstreams can verify what it signs. By default it is: the
    /// program that embeds the gate publishes it.
    fn is_assertion_key_published(&self, key: &PublicKey) -> bool {
        let _ = key;
        true
    }

    /// Has this position of the access log signed; must not wait. By default nobody does.
    fn tell_log_position(&self, position: proto::LogPosition) {
        let _ = position;
    }

    /// What was answered last about a position.
    fn log_anchor(&self) -> Option<Arc<proto::LogAnchor>> {
        None
    }

    /// Asks the center what a caller asks for. By default there is no center to ask.
    fn ask_center<'a>(
        &'a self,
        service: &'a str,
        address: &'a str,
        question: proto::caller_question::Question,
    ) -> Answering<'a> {
        let _ = (service, address, question);
        Box::pin(std::future::ready(Err(Unanswered::NoCenter)))
    }

    /// Another process takes over what only one may have, such as a directory.
    fn let_go(&self) {}

    /// The gate has ended and asks no more.
    fn close(&self) {}
}

/// A pinned world, compared with the version that is held.
fn peeked(pinned: Pinned, held: Option<Version>) -> Peek {
    let world = pinned.world();
    let history = pinned.mark().map(|mark| mark.history);
    let version = (world.revision(), world.digest(), history);
    if held == Some(version) {
        Peek::Same
    } else {
        Peek::New(Dated { world: world.clone(), version, currency: Arc::new(pinned) })
    }
}

impl DecisionSource for Replica {
    fn peek(&self, held: Option<Version>) -> Peek {
        if self.is_ready() { peeked(self.pin(), held) } else { Peek::Nothing }
    }

    fn peek_service(&self, service: &str, held: Option<Version>) -> Peek {
        if self.is_ready() { peeked(self.pin_of(service), held) } else { Peek::Nothing }
    }

    fn history(&self) -> Option<HistoryId> {
        Replica::history(self)
    }

    fn let_go(&self) {
        self.let_go_of_data_dir();
    }

    fn is_lost_history(&self, digits: &str) -> bool {
        Replica::is_lost_history(self, digits)
    }

    fn trouble(&self) -> Option<String> {
        let standing = self.standing();
        standing.needs_a_person().then(|| standing.to_string())
    }

    fn age(&self) -> Option<Duration> {
        Replica::age(self)
    }

    fn head(&self) -> Revision {
        Replica::metrics(self).head.max(self.revision())
    }

    fn wait_for(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move { Replica::wait_for(self, revision, timeout).await.is_ok() })
    }

    fn center(&self) -> Option<String> {
        self.place().map(|place| place.to_string())
    }

    fn metrics(&self, page: &mut Page) {
        replica_metrics(&Replica::metrics(self), page);
        let place = self.place();
        let help = "Whether it is this center that is followed.";
        let mut series = page.metric(Sort::Gauge, "replica_center", help);
        for center in self.centers() {
            let is_followed = place.as_ref().is_some_and(|place| place.center == *center);
            series.line(&[("center", center)], u8::from(is_followed));
        }
    }

    fn report(&self, service: &str, report: Vec<u8>) {
        // INVARIANT: a gate's reports are within the bound; see `crate::observe::report`.
        let _ = Replica::report(self, service, report);
    }

    fn tell_figures(&self, figures: proto::Figures) {
        // INVARIANT: a gate serves no more services than its replica may follow.
        let _ = Replica::tell_figures(self, figures);
    }

    fn publish_assertion_keys(&self, keys: &[PublicKey]) {
        Replica::publish_assertion_keys(self, keys);
    }

    fn tell_log_position(&self, position: proto::LogPosition) {
        Replica::tell_log_position(self, position);
    }

    fn log_anchor(&self) -> Option<Arc<proto::LogAnchor>> {
        Replica::log_anchor(self)
    }

    fn ask_center<'a>(
        &'a self,
        service: &'a str,
        address: &'a str,
        question: proto::caller_question::Question,
    ) -> Answering<'a> {
        Box::pin(Replica::ask_center(self, service, address, question))
    }

    fn is_assertion_key_published(&self, key: &PublicKey) -> bool {
        Replica::is_assertion_key_published(self, key)
    }

    fn close(&self) {
        // The process ends next, or waits for the replica itself.
        drop(Replica::close(self));
    }
}

impl Currency for Pinned {
    fn age(&self) -> Option<Duration> {
        Pinned::age(self)
    }
}

fn replica_metrics(replica: &ReplicaMetrics, page: &mut Page) {
    let counters = [
        (
            "connections_opened_total",
            "Connections opened to the center.",
            replica.connections_opened,
        ),
        ("streams_total", "Follow streams begun.", replica.streams),
        (
            "disconnects_total",
            "Connections to the center that failed or ended.",
            replica.disconnects,
        ),
        ("moves_total", "Times it went on to follow another center, or another address of one.", {
            replica.moves
        }),
        ("silences_total", "Connections given up because the center said nothing.", {
            replica.silences
        }),
        ("refusals_total", "Times the center refused this gate's token.", replica.refusals),
        ("heartbeats_total", "Heartbeats received.", replica.heartbeats),
        ("snapshots_total", "Snapshots published.", replica.snapshots),
        ("snapshots_rejected_total", "Snapshots that changed nothing because they are broken.", {
            replica.snapshots_rejected
        }),
        ("deltas_total", "Deltas published.", replica.deltas),
        ("deltas_rejected_total", "Deltas that changed nothing because they are broken.", {
            replica.deltas_rejected
        }),
        ("gaps_total", "Deltas that did not follow the revision held.", replica.gaps),
        ("resyncs_total", "Streams begun anew on the same connection.", replica.resyncs),
        ("regressions_total", "Times a center was not followed: behind, or of another history.", {
            replica.regressions
        }),
        ("old_centers_total", "Times a center of release 0.1 was not followed.", {
            replica.old_centers
        }),
        ("disk_rejected_total", "Files in the data directory that were broken.", {
            replica.disk_rejected
        }),
        ("disk_failures_total", "Writes to the data directory that failed.", replica.disk_failures),
    ];
    let gauges = [
        ("connected", "Whether the connection to the center is up.", u64::from(replica.connected)),
        ("head_revision", "The newest revision that the center announced.", replica.head.0),
        ("foreign", "Whether the last center that answered is not followed.", {
            u64::from(replica.foreign)
        }),
        ("held_back", "Services with settings that need a newer release of this gate.", {
            replica.held_back
        }),
    ];
    let counters = counters.into_iter().map(|(n, h, v)| (Sort::Counter, n, h, v));
    let gauges = gauges.into_iter().map(|(n, h, v)| (Sort::Gauge, n, h, v));
    for (sort, name, help, value) in gauges.chain(counters) {
        page.value(sort, &format!("replica_{name}"), help, value);
    }
}

/// A world in hand, which its owner replaces and ages.
#[derive(Debug)]
pub struct FixedSource {
    dated: ArcSwapOption<(World, Arc<FixedAge>)>,
    revision: watch::Sender<Revision>,
}

impl Default for FixedSource {
    /// One that has no world yet.
    fn default() -> FixedSource {
        FixedSource { dated: ArcSwapOption::empty(), revision: watch::Sender::new(Revision(0)) }
    }
}

impl FixedSource {
    /// A source of this world, of age zero.
    pub fn new(world: World) -> FixedSource {
        let source = FixedSource::default();
        source.replace(world);
        source
    }

    /// From now on it is this world, as old as the one before.
    pub fn replace(&self, world: World) {
        let revision = world.revision();
        let held = self.dated.load();
        let age = held.as_deref().map_or(Some(Duration::ZERO), |(_, age)| age.get());
        self.dated.store(Some(Arc::new((world, Arc::new(FixedAge(Mutex::new(age)))))));
        self.revision.send_replace(revision);
    }

    /// From now on its world has this age, or one that nobody knows; one that it replaced keeps its
    /// own.
    pub fn set_age(&self, age: impl Into<Option<Duration>>) {
        if let Some((_, held)) = self.dated.load().as_deref() {
            *held.0.lock().unwrap_or_else(PoisonError::into_inner) = age.into();
        }
    }
}

#[derive(Debug)]
struct FixedAge(Mutex<Option<Duration>>);

impl FixedAge {
    fn get(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Currency for FixedAge {
    fn age(&self) -> Option<Duration> {
        self.get()
    }
}

impl DecisionSource for FixedSource {
    fn peek(&self, held: Option<Version>) -> Peek {
        let dated = self.dated.load();
        let Some((world, age)) = dated.as_deref() else { return Peek::Nothing };
        let version = (world.revision(), world.digest(), None);
        if held == Some(version) {
            return Peek::Same;
        }
        let currency: Arc<dyn Currency> = Arc::clone(age) as Arc<dyn Currency>;
        Peek::New(Dated { world: world.clone(), version, currency })
    }

    fn age(&self) -> Option<Duration> {
        self.dated.load().as_deref()?.1.get()
    }

    fn wait_for(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let mut seen = self.revision.subscribe();
        Box::pin(async move {
            let reached = seen.wait_for(|have| *have >= revision);
            matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
        })
    }
}
