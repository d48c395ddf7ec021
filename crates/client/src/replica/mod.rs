//! A center's permissions in this process, with a measured age.
//!
//! [`Replica::follow`] keeps one HTTP/2 connection to a center (one of several, where several are
//! named), follows snapshot, deltas and
//! heartbeats on it (`keepgate.sync.v1`), and publishes each revision atomically. Deciding
//! is a read of the published [`World`]: no I/O, no lock, no wait.
//!
//! INVARIANT: what is published is the center's state at some revision, whole, as proven by its
//! digest; whatever does not decode, does not follow or does not add up changes nothing.
//!
//! INVARIANT: the *age* never flatters. It counts from when a pulse was queued whose echo came with
//! a head that the world holds: every edit acknowledged before then is in it (`age`). Each world
//! has its own: that of a world that was replaced stands still, so a request that still holds it
//! asks [`Pinned::age`] and not [`Replica::age`].
//!
//! INVARIANT: a replica never goes back. It follows a center whose history it holds and whose head
//! is not behind, or one that declares to be that history's successor and has passed what is held.
//! From any other it takes nothing, keeps what it has, and says so ([`Standing`]).
//!
//! INVARIANT: there is one connection at a time, whatever the number of centers.
//!
//! What this module deliberately does not know: which age is too old (the caller says so with
//! each question), and anything about HTTP requests.

mod age;
mod backoff;
mod center;
mod centers;
mod disk;
mod error;
mod figures;
mod fixed;
mod follow;
mod mason;
mod metrics;
mod questions;
mod received;
mod renewal;
mod say;
mod standing;
mod take;
pub mod time;
mod traced;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt as _;
use keepgate_observe::span::Tracing;
use keepgate_policy::assertion::PublicKey;
use keepgate_policy::decision::QueryError;
use keepgate_policy::{Decision, HistoryId, Mark, Query, Revision, World, proto};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::dial::{DialConfig, Dialer, Identity, Roots};
pub use age::RestartAge;
use age::{Clock, Currency};
pub use disk::{KeptError, KeptState, read_kept};
pub use error::{FollowError, NoDecision, StartError};
use mason::Mason;
use metrics::Counters;
pub use metrics::ReplicaMetrics;
use questions::Questions;
pub use questions::{ANSWER_WITHIN, MAX_ADDRESS, MAX_QUESTION, MAX_QUESTIONS, Unanswered};
use received::Received;
use renewal::Renewal;
use standing::Lineage;
pub use standing::{Foreign, Standing};
use time::{HostTime, TimeSource};

/// Services that one replica may follow.
const MAX_SERVICES: usize = 256;
/// Centers that one replica may know.
pub const MAX_CENTERS: usize = 16;
/// The longest name, in bytes (a bound of the protocol).
const MAX_NAME: usize = 200;

/// The largest report that [`Replica::report`] takes on, in bytes (a bound of the protocol).
pub const MAX_REPORT: usize = 64 << 10;

/// What a follower tells its center about its services; the center knows what the bytes are. Each
/// report has a number, which counts up.
#[derive(Debug, Default)]
struct Activities {
    newest: u64,
    by_service: BTreeMap<String, (u64, Arc<Vec<u8>>)>,
}

/// What to follow, and how. Made by [`FollowConfig::new`]; more settings may come.
#[derive(Clone)]
#[non_exhaustive]
pub struct FollowConfig {
    /// The centers, each as `http://host:port`, `https://host:port` or `unix:/path`: from 1 to 16
    /// that serve the same store. One of them is followed, and the next one when that fails.
    pub centers: Vec<String>,
    /// A token with the role `gate`; never logged. Empty: the center knows the replica by the client
    /// certificate of `identity`.
    pub token: String,
    /// The services to follow; empty: all that the token may see.
    pub services: Vec<String>,
    /// A name to show to operators, at most 200 bytes.
    pub name: String,
    /// Where to keep the last good state over restarts; none: in memory alone. One replica a
    /// directory.
    pub data_dir: Option<PathBuf>,
    /// Whom to trust as the center, for `https`.
    pub roots: Roots,
    /// A client certificate to show to the center.
    pub identity: Option<Identity>,
    /// Local addresses to connect from; empty: the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// What opens the connection.
    pub dialer: Dialer,
    /// A center that says nothing for this long is gone; it should send a heartbeat each second.
    pub silence: Duration,
    /// Where there is another center, or another address: one from which no current heartbeat came
    /// for this long is left. At least 1.5 times `pulse`, and at most `silence`, counts.
    pub move_after: Duration,
    /// Takes a center that is reached over plain HTTP and is not on this host, which reads the token
    /// and chooses the permissions as does everybody on the way. For tests.
    pub allow_plain: bool,
    /// Bounds of the jittered pause between two attempts.
    pub backoff: (Duration, Duration),
    /// How often the center is asked for an echo; the age is at least this, on average half of it.
    pub pulse: Duration,
    /// What the age counts from after a reboot of the host.
    pub restart_age: RestartAge,
    /// The clocks.
    pub time: Arc<dyn TimeSource>,
    /// Which streams to a center are recorded in traces, and who takes their spans; none: the center is
    /// told of no trace.
    pub tracing: Option<Tracing>,
}

impl FollowConfig {
    /// With the defaults: one center, all services, memory alone, the host's roots.
    pub fn new(center_url: impl Into<String>, token: impl Into<String>) -> FollowConfig {
        FollowConfig {
            centers: vec![center_url.into()],
            token: token.into(),
            services: Vec::new(),
            name: format!("pid-{}", std::process::id()),
            data_dir: None,
            roots: Roots::System,
            identity: None,
            sources: Vec::new(),
            dialer: Dialer::new(DialConfig {
                connect_timeout: Duration::from_secs(2),
                ..DialConfig::default()
            }),
            silence: Duration::from_secs(4),
            move_after: Duration::from_millis(1800),
            allow_plain: false,
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            pulse: Duration::from_secs(1),
            restart_age: RestartAge::default(),
            time: Arc::new(HostTime),
            tracing: None,
        }
    }
}

impl FollowConfig {
    /// Whether [`Replica::follow`] would take the centers and the token. Reads the files of `roots`.
    ///
    /// # Errors
    /// The first center that cannot be used, or the token.
    pub fn check(&self) -> Result<(), StartError> {
        renewal::centers(self).map(drop)
    }
}

impl std::fmt::Debug for FollowConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FollowConfig")
            .field("centers", &self.centers)
            .field("services", &self.services)
            .field("name", &self.name)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// A decision, and how old the state was that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The decision.
    pub decision: Decision,
    /// The age of the replica.
    pub age: Duration,
}

/// What readers see; replaced as a whole.
#[derive(Debug, Default)]
struct Published {
    state: Received,
    /// Whether `state` is one that was received, and not the empty one before it.
    received: bool,
    /// Which state it is; none: kept by release 0.1.
    mark: Option<Mark>,
    /// When this world was last current.
    currency: Currency,
    /// Services that need a newer release, and the last state that was understood.
    held_back: BTreeMap<String, Arc<Published>>,
}

impl Published {
    /// The state that decides for a service: this one, but for a service that is held back. The
    /// empty name is that of the only one.
    fn of(&self, service: &str) -> &Published {
        let older = match service {
            "" if self.state.world.services().next().is_none() => self.held_back.values().next(),
            name => self.held_back.get(name),
        };
        older.map_or(self, |older| older)
    }
}

/// Where a center is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The center's URL, as it was named.
    pub center: String,
    /// The address that the connection leads to; none for a Unix socket.
    pub address: Option<SocketAddr>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.center)?;
        match self.address {
            // Where the URL does not say it.
            Some(address) if !self.center.contains(&address.ip().to_string()) => {
                write!(f, " at {address}")
            }
            _ => Ok(()),
        }
    }
}

struct Shared {
    published: Arc<ArcSwap<Published>>,
    clock: Clock,
    counters: Counters,
    revision: watch::Sender<Revision>,
    /// The last report about each service; one that is not sent when the next one comes never is.
    activity: watch::Sender<Activities>,
    /// The keys of assertions that the center is to publish.
    assertion_keys: watch::Sender<Arc<[PublicKey]>>,
    /// How far the access log of this replica's gate is.
    log_position: watch::Sender<Option<proto::LogPosition>>,
    /// What the center answered last about it.
    log_anchor: ArcSwapOption<proto::LogAnchor>,
    /// What callers ask the center.
    questions: Questions,
    /// What the center was not told yet of the requests that were served.
    figures: figures::Untold,
    /// The names of those that it said it does.
    assertion_kids: ArcSwap<Vec<String>>,
    dialer: Dialer,
    /// Where the center is that is followed; none: there is no connection.
    place: ArcSwapOption<Place>,
    /// As they were named.
    centers: Vec<String>,
    standing: ArcSwap<Standing>,
    lineage: ArcSwap<Lineage>,
    /// Why the center is not followed; none: it is, or nothing was tried yet.
    error: ArcSwapOption<FollowError>,
    /// Told of every new world and of every confirmation of its age.
    current: Notify,
    /// Credentials for the next connection.
    renewal: Renewal,
    /// The services asked for.
    services: Vec<String>,
    mason: Mason,
    /// Where timers run; none: nothing ever changes.
    runtime: Option<Handle>,
}

/// A handle to a replica. A clone is the same replica; with the last one it stops following.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
    alive: Arc<watch::Sender<()>>,
    /// Its sender is gone once the follower and the writer of the data directory have ended.
    ended: watch::Receiver<()>,
}

/// A published world with its own age, to be kept over awaits.
#[derive(Clone)]
pub struct Pinned {
    published: Arc<Published>,
    shared: Arc<Shared>,
}

impl Pinned {
    /// The world.
    pub fn world(&self) -> &World {
        &self.published.state.world
    }

    /// Which state it is; none: release 0.1 kept it.
    pub fn mark(&self) -> Option<Mark> {
        self.published.mark
    }

    /// Time since this world, and not a later one, was last known to be current. Once it is
    /// replaced it only grows. None: never, or unknown.
    pub fn age(&self) -> Option<Duration> {
        self.published.currency.age(&self.shared.clock)
    }
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned")
            .field("mark", &self.mark())
            .field("age", &self.age())
            .finish_non_exhaustive()
    }
}

/// The published world, pinned for as long as this lives.
pub struct Current(arc_swap::Guard<Arc<Published>>);

impl Deref for Current {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0.state.world
    }
}

impl Replica {
    /// Loads what the data directory has, starts following on the current tokio runtime, and
    /// returns at once; [`Replica::wait_for`] waits for a state.
    pub fn follow(config: FollowConfig) -> Result<Replica, StartError> {
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        if config.services.len() > MAX_SERVICES {
            return Err(StartError::Services(config.services.len()));
        }
        let centers = renewal::centers(&config)?;
        let shared = Arc::new(Shared {
            published: Arc::default(),
            clock: Clock::new(Arc::clone(&config.time)),
            counters: Counters::default(),
            revision: watch::Sender::new(Revision(0)),
            activity: watch::Sender::new(Activities::default()),
            assertion_keys: watch::Sender::new(Arc::default()),
            log_position: watch::Sender::new(None),
            log_anchor: ArcSwapOption::empty(),
            questions: Questions::default(),
            figures: figures::Untold::default(),
            assertion_kids: ArcSwap::default(),
            dialer: config.dialer.clone(),
            place: ArcSwapOption::empty(),
            centers: config.centers.clone(),
            standing: ArcSwap::default(),
            lineage: ArcSwap::default(),
            error: ArcSwapOption::empty(),
            current: Notify::new(),
            renewal: Renewal::default(),
            services: config.services.clone(),
            mason: Mason::start(),
            runtime: Some(runtime.clone()),
        });
        let (ending, ended) = watch::channel(());
        let ending = Arc::new(ending);
        let mut unconfirmed = None;
        let mut name = config.name.clone();
        name.truncate(name.floor_char_boundary(MAX_NAME));
        let disk = match &config.data_dir {
            None => None,
            Some(path) => {
                let owner = disk::owner(&config.centers, &config.services);
                let (disk, kept) = disk::open(path, owner, &shared, config.restart_age, &ending)?;
                if let Some(kept) = kept {
                    let same_center = kept.same_center;
                    let published = Published {
                        state: kept.state,
                        received: true,
                        mark: kept.mark,
                        currency: Currency::new(kept.current),
                        held_back: BTreeMap::new(),
                    };
                    if same_center {
                        shared.publish(published);
                    } else {
                        tracing::info!("kept state is used once the center accepts it");
                        unconfirmed = Some(published);
                    }
                }
                disk
            }
        };
        let (alive, gone) = watch::channel(());
        let follower = follow::Follower {
            shared: shared.clone(),
            centers,
            name,
            disk,
            data_dir: config.data_dir,
            unconfirmed,
            silence: config.silence,
            move_after: config.move_after,
            backoff: config.backoff,
            pulse: config.pulse,
            traced: config.tracing.map(traced::Streams::new),
            heard: follow::Heard::default(),
            left: None,
            foreign: BTreeSet::new(),
            unfollowed: None,
        };
        runtime.spawn(async move {
            follower.run(gone).await;
            drop(ending);
        });
        Ok(Replica { shared, alive: Arc::new(alive), ended })
    }

    /// The published world; before the first snapshot an empty one at revision 0.
    pub fn current(&self) -> Current {
        Current(self.shared.published.load())
    }

    /// A reader for one thread that remembers what it read last: reading again costs one load
    /// and a comparison, without any write to memory that threads share.
    pub fn reader(&self) -> Reader {
        Reader { cache: arc_swap::Cache::new(self.shared.published.clone()), replica: self.clone() }
    }

    /// The published world with its own age, to be kept over awaits.
    pub fn pin(&self) -> Pinned {
        Pinned { published: self.shared.published.load_full(), shared: Arc::clone(&self.shared) }
    }

    /// As [`Replica::pin`], for one service: the last state of it that was understood, where it is
    /// held back.
    pub fn pin_of(&self, service: &str) -> Pinned {
        let published = self.shared.published.load_full();
        let published = match published.held_back.get(service) {
            Some(older) => Arc::clone(older),
            None => published,
        };
        Pinned { published, shared: Arc::clone(&self.shared) }
    }

    /// Time since the replica was last known to be current; none: never, or unknown.
    pub fn age(&self) -> Option<Duration> {
        self.shared.published.load().currency.age(&self.shared.clock)
    }

    /// How it stands with the center.
    pub fn standing(&self) -> Arc<Standing> {
        self.shared.standing.load_full()
    }

    /// The history of what is held; none: nothing is, or release 0.1 kept it.
    pub fn history(&self) -> Option<HistoryId> {
        self.shared.published.load().mark.map(|mark| mark.history)
    }

    /// Whether the history that begins with these hexadecimal digits is one that the history held
    /// continues, and so a lost one: its revisions mean nothing any more.
    pub fn is_lost_history(&self, digits: &str) -> bool {
        self.shared.lineage.load().is_lost(digits)
    }

    /// The published revision; 0 before the first snapshot.
    pub fn revision(&self) -> Revision {
        self.shared.published.load().state.world.revision()
    }

    /// Whether there is a state to decide on, whatever its age.
    pub fn is_ready(&self) -> bool {
        self.shared.published.load().received
    }

    /// Whether the connection to the center is up.
    pub fn is_connected(&self) -> bool {
        self.shared.counters.connected()
    }

    /// Where the center is that is followed now; none: there is no connection.
    pub fn place(&self) -> Option<Arc<Place>> {
        self.shared.place.load_full()
    }

    /// The centers, as they were named.
    pub fn centers(&self) -> &[String] {
        &self.shared.centers
    }

    /// Decides, if the replica's age is at most `max_age`.
    pub fn decide(&self, query: &Query<'_>, max_age: Duration) -> Result<Answer, NoDecision> {
        decide(&self.shared.published.load(), &self.shared.clock, query, max_age)
    }

    /// Whether a question with these bounds can be decided now; the world to do so, and its age.
    pub fn view(
        &self,
        max_age: Duration,
        at_least: Option<Revision>,
    ) -> Result<(Current, Duration), NoDecision> {
        let published = self.shared.published.load();
        let age = usable(&published, &self.shared.clock, max_age)?;
        let held = published.state.world.revision();
        match at_least {
            Some(wanted) if wanted > held => Err(NoDecision::TooOld { held, wanted }),
            _ => Ok((Current(published), age)),
        }
    }

    /// Waits until the published revision is at least `wanted`, and returns it. That revision may
    /// be too old to decide: see [`Replica::wait_ready`].
    pub async fn wait_for(
        &self,
        wanted: Revision,
        timeout: Duration,
    ) -> Result<Revision, NoDecision> {
        let mut revisions = self.shared.revision.subscribe();
        let reached = async { revisions.wait_for(|held| *held >= wanted).await.map(|held| *held) };
        match self.shared.within(timeout, reached).await {
            Some(Ok(held)) => Ok(held),
            Some(Err(_)) | None => Err(NoDecision::TooOld { held: self.revision(), wanted }),
        }
    }

    /// Waits until a question with this bound can be decided, and returns the age. Without an end of
    /// its own: bound it with a timeout, and ask [`Replica::last_error`] what is in the way.
    ///
    /// After [`Replica::close`], and for a [`Replica::fixed`] one, it returns at once.
    pub async fn wait_ready(&self, max_age: Duration) -> Result<Duration, NoDecision> {
        let mut ended = self.ended.clone();
        loop {
            let mut changed = std::pin::pin!(self.shared.current.notified());
            // Before the look, so that what comes in between is not missed.
            changed.as_mut().enable();
            let looked = usable(&self.shared.published.load(), &self.shared.clock, max_age);
            let Err(reason) = looked else { return looked };
            tokio::select! {
                () = changed => {}
                // Nothing comes any more.
                _ = ended.changed() => return Err(reason),
            }
        }
    }

    /// Why the center is not followed, as far as is known; none: it is followed, or the first
    /// attempt is still under way. Deciding may go on meanwhile, on what is held.
    pub fn last_error(&self) -> Option<Arc<FollowError>> {
        if let Some(error) = self.shared.error.load_full() {
            return Some(error);
        }
        let published = self.shared.published.load();
        let services = published.received.then_some(&self.shared.services)?;
        let world = |name: &str| published.of(name).state.world.service(name).is_some();
        let missing = services.iter().find(|name| !world(name))?;
        Some(Arc::new(FollowError::UnknownService(missing.clone())))
    }

    /// Tells the center about one of the services followed, when the connection is next free: in
    /// place of a report about that service that is still unsent. Never waits; false if the report
    /// is too large, or is about one service more than a replica may follow.
    pub fn report(&self, service: &str, report: Vec<u8>) -> bool {
        if report.len() > MAX_REPORT {
            return false;
        }
        let mut is_taken = true;
        self.shared.activity.send_if_modified(|told| {
            let is_new = !told.by_service.contains_key(service);
            is_taken = !is_new || told.by_service.len() < MAX_SERVICES;
            if is_taken {
                told.newest += 1;
                told.by_service.insert(service.to_owned(), (told.newest, Arc::new(report)));
            }
            is_taken
        });
        is_taken
    }

    /// Tells the center what was done with the requests of one of the services followed, since this was
    /// last called. What the connection was not free for is told together; while there is none, only
    /// the last seconds are kept. Never waits; false if it is about one service more than a replica may
    /// follow.
    pub fn tell_figures(&self, figures: proto::Figures) -> bool {
        self.shared.figures.add(figures, self.shared.clock.now())
    }

    /// Has the center publish these keys of assertions in place of those before, on this connection
    /// and each later one; at most [`keepgate_policy::assertion::KEYS`]. Never waits.
    pub fn publish_assertion_keys(&self, keys: &[PublicKey]) {
        self.shared.assertion_keys.send_if_modified(|told| {
            let is_new = told.as_ref() != keys;
            if is_new {
                *told = keys.into();
            }
            is_new
        });
    }

    /// Whether the center has said that it publishes the key. It keeps it for a while when this
    /// replica is gone, and is told again after a restart of its own.
    pub fn is_assertion_key_published(&self, key: &PublicKey) -> bool {
        self.shared.assertion_kids.load().contains(&key.kid())
    }

    /// Has the center sign how far an access log is, now or as soon as a center is there; a later
    /// position takes the place of one that was not asked about yet. Never waits.
    pub fn tell_log_position(&self, position: proto::LogPosition) {
        self.shared.log_position.send_replace(Some(position));
    }

    /// What a center has answered last about a position; none: nothing yet.
    pub fn log_anchor(&self) -> Option<Arc<proto::LogAnchor>> {
        self.shared.log_anchor.load_full()
    }

    /// Asks the center what a caller asks for, through the connection on which it is followed.
    /// `address` is the caller's, at most [`MAX_ADDRESS`] bytes. The question as a whole has at most
    /// [`MAX_QUESTION`] bytes. The answer is waited for up to [`ANSWER_WITHIN`].
    ///
    /// # Errors
    /// There is no answer. That is never a refusal; a refusal is an answer.
    pub async fn ask_center(
        &self,
        service: &str,
        address: &str,
        question: proto::caller_question::Question,
    ) -> Result<proto::caller_answer::Answer, Unanswered> {
        self.shared.ask_center(service.to_owned(), address.to_owned(), question).await
    }

    /// Ends following, for all handles: the connection closes, the world stays as it is and
    /// grows old. For an orderly stop, where a center that goes away first is no surprise.
    ///
    /// It is told at once; the future ends when the connection is closed and all that was to be
    /// written into the data directory is, which another replica may use then.
    pub fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        self.alive.send_replace(());
        let mut ended = self.ended.clone();
        async move { while ended.changed().await.is_ok() {} }
    }

    /// Hears of each published revision (the latest counts).
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.shared.revision.subscribe()
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> ReplicaMetrics {
        let shared = &self.shared;
        let standing = self.standing();
        shared.counters.read(self.revision(), self.age(), &standing, shared.dialer.counters())
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("revision", &self.revision())
            .field("age", &self.age())
            .finish_non_exhaustive()
    }
}

/// See [`Replica::reader`].
pub struct Reader {
    cache: arc_swap::Cache<Arc<ArcSwap<Published>>, Arc<Published>>,
    replica: Replica,
}

impl Reader {
    /// The published world.
    pub fn world(&mut self) -> &World {
        &self.cache.load().state.world
    }

    /// As [`Replica::decide`].
    pub fn decide(&mut self, query: &Query<'_>, max_age: Duration) -> Result<Answer, NoDecision> {
        let clock = &self.replica.shared.clock;
        decide(self.cache.load(), clock, query, max_age)
    }

    /// As [`Replica::view`], for the world that this reader holds.
    pub fn view(
        &mut self,
        max_age: Duration,
        at_least: Option<Revision>,
    ) -> Result<(&World, Duration), NoDecision> {
        let published = self.cache.load();
        let age = usable(published, &self.replica.shared.clock, max_age)?;
        let held = published.state.world.revision();
        match at_least {
            Some(wanted) if wanted > held => Err(NoDecision::TooOld { held, wanted }),
            _ => Ok((&published.state.world, age)),
        }
    }
}

fn usable(published: &Published, clock: &Clock, max_age: Duration) -> Result<Duration, NoDecision> {
    if !published.received {
        return Err(NoDecision::NoReplica);
    }
    match published.currency.age(clock) {
        None => Err(NoDecision::AgeUnknown),
        Some(age) if age > max_age => Err(NoDecision::Stale { age, max_age }),
        Some(age) => Ok(age),
    }
}

fn decide(
    published: &Published,
    clock: &Clock,
    query: &Query<'_>,
    max_age: Duration,
) -> Result<Answer, NoDecision> {
    let published = published.of(query.service);
    let age = usable(published, clock, max_age)?;
    let world = &published.state.world;
    // Where nothing ends, the time is not asked.
    let decided = match query.at_unix_s {
        None if world.depends_on_time(query.service) => {
            world.decide(&query.clone().at(keepgate_observe::unix_s()))
        }
        _ => world.decide(query),
    };
    match decided {
        Ok(decision) => Ok(Answer { decision, age }),
        Err(QueryError::UnknownService(service)) => Err(NoDecision::UnknownService(service)),
        Err(QueryError::Undecided { policy, reason }) => {
            Err(NoDecision::Undecided { policy, reason })
        }
        Err(error) => Err(NoDecision::Question(error)),
    }
}

impl Shared {
    /// Shows a world to all readers from now on. What they saw before is freed once they have let it go.
    fn publish(&self, published: Published) {
        let revision = published.state.world.revision();
        let before = self.published.swap(Arc::new(published));
        self.revision.send_replace(revision);
        self.current.notify_waiters();
        self.mason.retire(before.state.world.clone());
    }

    /// Bounds a wait. On the follower's runtime, so that whoever waits may be on any executor.
    async fn within<T>(&self, timeout: Duration, work: impl Future<Output = T>) -> Option<T> {
        // Where nothing changes there is nothing to wait for.
        let Some(runtime) = &self.runtime else { return work.now_or_never() };
        let timer = {
            let _entered = runtime.enter();
            tokio::time::sleep(timeout)
        };
        tokio::select! {
            done = work => Some(done),
            () = timer => None,
        }
    }
}
