//! The follower: connect, follow, publish, and begin again when anything is wrong.
//!
//! Three kinds of trouble are told apart. When the *connection* fails, ends or falls silent, another
//! one is opened after a jittered pause. When the *center* is not one to follow (its Welcome says
//! so, or it sends none), nothing is taken from it. In both cases the next place is tried: another
//! address, or another center of the list. Pauses are short until all places have failed once; then
//! they grow, and it is said that there is no center. When a *message*
//! does not fit (a gap, a digest that differs, bytes that do not decode), a new stream is begun on
//! the same connection, with what is held or, where that is in doubt, with nothing; after the first
//! time, too, with a pause.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use keepgate_observe::chain;
use keepgate_policy::mark::FORMAT;
use keepgate_policy::proto::follow_response::Response as Told;
use keepgate_policy::wire::SnapshotDecoder;
use keepgate_policy::{HistoryId, Mark, Revision, proto};
use tokio::sync::watch;

use super::age::{Moment, Pending, Ring};
use super::backoff::{self, Backoff};
use super::center::{ConnectError, Connection};
use super::centers::Centers;
use super::disk::Disk;
use super::error::FollowError;
use super::questions::Answers;
use super::received::Unusable;
use super::say::{Applied, requests};
use super::standing::{Foreign, Lineage, Standing};
use super::take::{Incoming, Taking};
use super::traced::Streams;
use super::{Place, Published, Shared};

/// A connection that lasted this long was good: the next pause is a short one.
const GOOD_CONNECTION: Duration = Duration::from_secs(5);
/// The shortest pause after the center refused the token, or is not one to follow.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// While some places are not reached, and the others not followed, for so long, a person must look.
const UNFOLLOWED: Duration = Duration::from_secs(10);
/// Streams in a row that bring nothing of use, before the next center is asked.
const USELESS_STREAMS: u32 = 5;
/// Histories that one continues; a center has few, and memory is bounded.
const MAX_ANCESTORS: usize = 1024;

pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) centers: Centers,
    pub(super) name: String,
    pub(super) disk: Option<Disk>,
    pub(super) data_dir: Option<PathBuf>,
    /// Kept from the center under another URL: to be published once a Welcome accepts it.
    pub(super) unconfirmed: Option<Published>,
    pub(super) silence: Duration,
    pub(super) move_after: Duration,
    pub(super) backoff: (Duration, Duration),
    pub(super) pulse: Duration,
    pub(super) traced: Option<Streams>,
    /// Whether the stream that is up, or was last, had a Welcome, and an echo.
    pub(super) heard: Heard,
    /// Where it followed last, and why it does not any more.
    pub(super) left: Option<(Place, String)>,
    /// The centers of which it was said that they are of another history.
    pub(super) foreign: BTreeSet<String>,
    /// Since when centers answer and are not followed; none: one is, or none answers.
    pub(super) unfollowed: Option<Instant>,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heard {
    #[default]
    Nothing,
    Welcome,
    /// A heartbeat that can be dated.
    Echo,
}

/// What became of the places that were tried, since all of them were.
#[derive(Default)]
struct Round {
    tried: usize,
    refused: usize,
    /// The last center that refused the token, and what it said.
    refusal: Option<(String, String)>,
    unfollowed: usize,
    /// Of the last that is not followed.
    standing: Option<Standing>,
}

/// How long a stream may say nothing that counts. Only time that is spent waiting counts: what a
/// message takes to be used is not the center's.
struct Patience {
    bound: Duration,
    waited: Duration,
}

impl Patience {
    fn of(bound: Duration) -> Patience {
        Patience { bound, waited: Duration::ZERO }
    }

    fn left(&self) -> Duration {
        self.bound.saturating_sub(self.waited)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("connecting failed")]
    Connect(#[from] ConnectError),
    #[error("the center ended the stream")]
    Ended,
    #[error("the center answered: {}: {}{}", .0.code(), .0.message(), cause(.0))]
    Status(Box<tonic::Status>),
    #[error("the center said nothing for {0:?}")]
    Silent(Duration),
    #[error("what the center sends cannot be used: {0}")]
    Useless(String),
    #[error("{0}")]
    Unfollowed(Standing),
}

impl From<tonic::Status> for Lost {
    fn from(status: tonic::Status) -> Lost {
        Lost::Status(Box::new(status))
    }
}

/// Why a status is one that the connection has, and not the center: such as a certificate that it
/// refuses.
fn cause(status: &tonic::Status) -> String {
    let source = std::error::Error::source(status);
    source.map_or_else(String::new, |source| format!(": {}", chain(source)))
}

/// Why a stream is begun anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum Resync {
    #[error("delta after revision {previous}, held is {held}")]
    Gap { previous: Revision, held: Revision },
    #[error("a snapshot cannot be used")]
    Snapshot(#[source] Unusable),
    #[error("a delta cannot be used")]
    Delta(#[source] Unusable),
    #[error(
        "the center went back within a stream: expected revision {held} or later, found {head}"
    )]
    Regression { head: Revision, held: Revision },
    #[error("a message came out of order: {0}")]
    Order(&'static str),
    #[error("the data directory needs a snapshot")]
    Disk,
    #[error("settings that were not understood have changed")]
    Retry,
}

/// What the next stream says it holds.
#[derive(Clone, Copy, PartialEq)]
enum Holding {
    /// What is published.
    Published,
    /// Nothing: only a snapshot will do.
    Nothing,
}

impl Resync {
    /// Whether it is the center's, and another one may do better.
    fn is_fault(&self) -> bool {
        !matches!(self, Resync::Disk | Resync::Retry)
    }

    fn then(&self) -> Holding {
        match self {
            Resync::Gap { .. } | Resync::Order(_) | Resync::Regression { .. } => Holding::Published,
            _ => Holding::Nothing,
        }
    }
}

impl Follower {
    /// Follows until the last handle is gone.
    pub(super) async fn run(mut self, mut gone: watch::Receiver<()>) {
        let follow = async {
            let mut backoff = Backoff::new(self.backoff);
            let mut round = Round::default();
            let mut well = true;
            // Whether it was said that the center refuses the token, since all was well.
            let mut refusal_said = false;
            loop {
                if let Some(renewed) = self.shared.renewal.take() {
                    self.centers.renew(renewed);
                }
                self.let_go();
                let began = Instant::now();
                let (lost, address) = self.follow_once(&mut well).await;
                if self.heard == Heard::Echo {
                    // It was current just now: all other places are worth a try, at once.
                    self.centers.begin_round();
                    round = Round::default();
                }
                if began.elapsed() >= GOOD_CONNECTION {
                    backoff.reset();
                }
                self.disconnected();
                self.shared.counters.disconnects.add(1);
                let refused = lost.is_refusal() && !self.shared.renewal.is_waiting();
                round.tried += 1;
                round.refused += usize::from(refused);
                self.shared.counters.refusals.add(u64::from(refused));
                self.shared.error.store(Some(Arc::new(lost.told())));
                let error = chain(&lost);
                if let Some((_, why)) = &mut self.left
                    && why.is_empty()
                {
                    why.clone_from(&error);
                }
                let center = self.centers.current().target().to_string();
                let left = self.centers.current().url().to_owned();
                if refused {
                    round.refusal = Some((center.clone(), error.clone()));
                }
                let is_unfollowed = matches!(lost, Lost::Unfollowed(_));
                let is_over = self.centers.give_up(address, is_unfollowed);
                if let Lost::Unfollowed(standing) = lost {
                    self.count(&standing);
                    self.unfollowed.get_or_insert_with(Instant::now);
                    round.unfollowed += 1;
                    if !is_over && standing.is_other_history() {
                        self.say_foreign(&left, &standing);
                    }
                    round.standing = Some(standing);
                }
                refusal_said &= !well;
                if !is_over {
                    let pause = backoff::short(self.backoff).max(self.centers.current().away());
                    tracing::debug!(%center, error, ?pause, "the next center is tried");
                    self.pause(pause).await;
                    continue;
                }
                let mut pause = backoff.next().max(self.centers.current().away());
                let Round { tried, refused, refusal, unfollowed, standing } =
                    std::mem::take(&mut round);
                if refused == tried {
                    pause = pause.max(REFUSED_PAUSE);
                }
                let is_lasting = self.unfollowed.is_some_and(|since| since.elapsed() >= UNFOLLOWED);
                if let Some(standing) = standing
                    && (unfollowed == tried || is_lasting)
                {
                    self.not_followed(&center, standing);
                } else if let Some((center, error)) = refusal.filter(|_| !refusal_said) {
                    refusal_said = true;
                    tracing::error!(%center, error, "the center refuses this token");
                } else if !well {
                    tracing::debug!(%center, error, ?pause, "still no center");
                } else {
                    tracing::warn!(%center, error, tried, "{}", self.without_center());
                }
                well = false;
                self.pause(pause).await;
            }
        };
        tokio::select! {
            // First: whoever closes does not want to hear that the center is gone, too.
            biased;
            // A value means closed; an error, that the last handle is gone.
            _ = gone.changed() => {}
            () = follow => {}
        }
        self.shared.counters.set_connected(false);
        self.shared.place.store(None);
    }

    /// The connection is gone.
    fn disconnected(&mut self) {
        self.shared.counters.set_connected(false);
        if let Some(place) = self.shared.place.swap(None) {
            self.left = Some((Place::clone(&place), String::new()));
        }
    }

    /// Where the data directory is another's now, nothing more is written to it.
    fn let_go(&mut self) {
        if self.shared.renewal.lets_go() && self.disk.take().is_some() {
            tracing::info!("let go of the data directory; the replica is kept in memory alone");
        }
    }

    /// So long, or until there are other credentials.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.shared.renewal.told() => {}
        }
    }

    /// What it means that there is no connection to the center.
    fn without_center(&self) -> &'static str {
        let was_heard = self.shared.counters.streams.value() > 0;
        match (was_heard, self.shared.published.load().received) {
            (true, true) => "lost the center; decisions continue",
            (true, false) => "lost the center before it sent any state; nothing is decided yet",
            (false, true) => "the center is not reached; decisions continue with the state on disk",
            (false, false) => "the center is not reached; nothing is decided yet",
        }
    }

    fn count(&self, standing: &Standing) {
        let counters = &self.shared.counters;
        match standing {
            Standing::OldCenter => counters.old_centers.add(1),
            _ => counters.regressions.add(1),
        }
    }

    /// Says once that one of several centers is of another history: it should not be in the list.
    fn say_foreign(&mut self, url: &str, standing: &Standing) {
        if self.foreign.insert(url.to_owned()) {
            let center = url;
            tracing::error!(%center, %standing, "this center is not followed; the next one is tried");
        }
    }

    /// Says once that no center is followed, and why the last one is not.
    fn not_followed(&self, center: &str, standing: Standing) {
        if *self.shared.standing.load_full() == standing {
            tracing::debug!(%standing, "still not followed");
        } else {
            tracing::error!(%center, %standing, "this center is not followed; the last good state stays");
            self.shared.standing.store(Arc::new(standing));
        }
    }

    /// Whether to be quick, because there is a place that may be better.
    fn is_hurried(&self) -> bool {
        self.centers.has_others() && (self.centers.is_hopeful() || self.heard == Heard::Echo)
    }

    /// How long a center may say nothing.
    fn patience(&self) -> Duration {
        if !self.is_hurried() {
            return self.silence;
        }
        // An echo comes no more often than a pulse goes.
        self.move_after.max(self.pulse + self.pulse / 2).min(self.silence)
    }

    /// One connection, from its opening to its end. Why it ended, and the address it led to.
    async fn follow_once(&mut self, well: &mut bool) -> (Lost, Option<SocketAddr>) {
        self.heard = Heard::Nothing;
        let within = self.is_hurried().then(|| self.patience() / 2);
        let mut connection = match self.centers.connect(within).await {
            Ok(connection) => connection,
            Err(error) => return (error.into(), None),
        };
        let lost = self.follow_on(&mut connection, well).await;
        let address = connection.remote;
        // Before another one is opened.
        connection.close().await;
        (lost, address)
    }

    /// The streams of one connection.
    async fn follow_on(&mut self, connection: &mut Connection, well: &mut bool) -> Lost {
        let mut holding = Holding::Published;
        let mut streams = Backoff::new(self.backoff);
        let mut useless = 0;
        loop {
            let mut published = false;
            let ended = self.stream(connection, holding, &mut published, well).await;
            let resync = match ended {
                Ok(resync) => resync,
                Err(lost) => return lost,
            };
            self.report(&resync);
            self.shared.counters.resyncs.add(1);
            holding = resync.then();
            if published {
                useless = 0;
                streams.reset();
            } else {
                useless += u32::from(resync.is_fault());
                if useless >= USELESS_STREAMS && self.centers.has_others() {
                    return Lost::Useless(chain(&resync));
                }
                tokio::time::sleep(streams.next()).await;
            }
        }
    }

    /// One stream. Ends with the reason to begin another one on the same connection.
    async fn stream(
        &mut self,
        connection: &mut Connection,
        holding: Holding,
        progress: &mut bool,
        well: &mut bool,
    ) -> Result<Resync, Lost> {
        self.shared.counters.streams.add(1);
        // Nothing large comes before the Welcome.
        let mut patience = Patience::of(match self.is_hurried() {
            true => self.patience() / 2,
            false => self.silence,
        });
        let (applied, acks) = watch::channel(None);
        let mut reports = self.shared.activity.subscribe();
        // The last reports may be unsent, and a center that was away does not know them.
        if reports.borrow().newest > 0 {
            reports.mark_changed();
        }
        // Pulses are numbered within a stream, so an echo is of this stream or of none.
        let ring = Arc::new(Mutex::new(Ring::default()));
        let pulses = (Arc::clone(&ring), Arc::clone(&self.shared), self.pulse);
        let mut keys = self.shared.assertion_keys.subscribe();
        // A center that was away does not know them.
        if !keys.borrow().is_empty() {
            keys.mark_changed();
        }
        let mut log = self.shared.log_position.subscribe();
        // What was not signed yet is asked for again.
        if log.borrow().is_some() {
            log.mark_changed();
        }
        let (asked, sent) = self.shared.questions.on_stream();
        let answers = Answers(Arc::clone(&sent));
        let rare = (keys, log, (asked, sent), self.shared.figures.subscribe());
        let requests = requests(self.hello(holding), acks, reports, rare, pulses);
        let mut request = self.centers.current().authorized(requests);
        let traced = self.traced.as_ref().map(Streams::begin);
        if let Some(traced) = &traced {
            traced.stamp(&mut request);
        }
        let begun = tokio::time::timeout(patience.bound, connection.client.follow(request));
        let told = begun.await.map_err(|_| self.silent(patience.bound))??.into_inner();
        let mut told = told.fuse();

        let first = self.next(&mut told, &mut patience).await?;
        let history = match first.response {
            Some(Told::Welcome(welcome)) => self.welcome(&welcome, connection)?,
            _ => return Err(Lost::Unfollowed(Standing::OldCenter)),
        };
        if let Some(traced) = traced {
            traced.welcomed();
        }
        self.shared.error.store(None);
        self.heard = self.heard.max(Heard::Welcome);
        self.unfollowed = None;
        if !self.shared.counters.connected() {
            self.follows(connection);
            *well = true;
        }
        if let Some(confirmed) = self.unconfirmed.take() {
            self.shared.publish(confirmed);
        }

        let mut pending = Pending::default();
        let mut snapshot: Option<Incoming> = None;
        let mut taking = Taking::new(history, &self.shared.published.load());
        let mut dated = None;
        patience = Patience::of(self.patience());
        loop {
            let message = self.next(&mut told, &mut patience).await?;
            // With another place to go to, a center must show that it is current.
            let is_alone = !self.centers.has_others();
            let mut counts = is_alone
                || self.heard < Heard::Echo
                || matches!(
                    message.response,
                    Some(Told::SnapshotBegin(_) | Told::SnapshotChunk(_))
                );
            let outcome = match message.response {
                Some(Told::Heartbeat(heartbeat)) => {
                    let sent =
                        ring.lock().unwrap_or_else(PoisonError::into_inner).of(heartbeat.echo);
                    if sent > dated {
                        (dated, counts) = (sent, true);
                        self.heard = Heard::Echo;
                    } else {
                        counts = is_alone;
                    }
                    let heard = self.heard(&heartbeat, sent, history, &mut pending);
                    heard.and_then(|()| self.due(&mut taking, snapshot.is_some())).map(|()| None)
                }
                Some(Told::SnapshotBegin(begin)) => match SnapshotDecoder::begin(&begin) {
                    _ if snapshot.is_some() => Err(Resync::Order("a snapshot within a snapshot")),
                    Ok(decoder) => {
                        snapshot = Some(Incoming { begin, decoder, chunks: Vec::new() });
                        Ok(None)
                    }
                    Err(error) => Err(Resync::Snapshot(error.into())),
                },
                Some(Told::SnapshotChunk(chunk)) => match snapshot.take() {
                    None => Err(Resync::Order("a chunk without a snapshot")),
                    Some(incoming) => {
                        match self.shared.mason.build(move || incoming.chunk(chunk)).await {
                            Ok(incoming) => {
                                snapshot = Some(incoming);
                                Ok(None)
                            }
                            Err(error) => Err(Resync::Snapshot(error)),
                        }
                    }
                },
                Some(Told::SnapshotEnd(end)) => match snapshot.take() {
                    None => Err(Resync::Order("the end of a snapshot that did not begin")),
                    Some(incoming) => self.finish(&mut taking, incoming, end).await,
                },
                Some(Told::Delta(_)) if snapshot.is_some() => {
                    Err(Resync::Order("a delta within a snapshot"))
                }
                Some(Told::Delta(delta)) => self.delta(&mut taking, delta).await,
                Some(Told::AssertionKeysPublished(published)) => {
                    let mut kids = published.kids;
                    kids.truncate(keepgate_policy::assertion::KEYS);
                    self.shared.assertion_kids.store(Arc::new(kids));
                    Ok(None)
                }
                Some(Told::LogAnchor(anchor)) => {
                    self.shared.log_anchor.store(Some(Arc::new(anchor)));
                    Ok(None)
                }
                Some(Told::CallerAnswer(answer)) => {
                    answers.0.answered(answer);
                    Ok(None)
                }
                Some(Told::Welcome(_)) => Err(Resync::Order("a second Welcome")),
                // A newer center may say more; what it says is not needed to stay correct.
                None => Ok(None),
            };
            if counts {
                patience = Patience::of(self.patience());
            }
            let done: Option<Applied> = match outcome {
                Err(resync) => return Ok(resync),
                Ok(done) => done,
            };
            if let Some(done) = done {
                *progress = true;
                if let Some(at) = pending.reached(done.mark.revision) {
                    self.confirm(at);
                }
                applied.send_replace(Some(done));
            }
        }
    }

    /// The next message, if it comes in time.
    async fn next(
        &self,
        told: &mut futures_util::stream::Fuse<tonic::Streaming<proto::FollowResponse>>,
        patience: &mut Patience,
    ) -> Result<proto::FollowResponse, Lost> {
        let began = Instant::now();
        let message = tokio::time::timeout(patience.left(), told.next()).await;
        patience.waited += began.elapsed();
        Ok(message.map_err(|_| self.silent(patience.bound))?.ok_or(Lost::Ended)??)
    }

    /// A center is followed from now on. Another than before is a move.
    fn follows(&mut self, connection: &Connection) {
        let center = self.centers.current();
        let place = Place { center: center.url().to_owned(), address: connection.remote };
        self.foreign.remove(&place.center);
        self.shared.counters.set_connected(true);
        self.shared.place.store(Some(Arc::new(place.clone())));
        match self.left.take() {
            Some((from, why)) if from != place => {
                self.shared.counters.moves.add(1);
                tracing::info!(%from, to = %place, why, "moved to another center");
            }
            _ => tracing::info!(center = %place, "following the center"),
        }
    }

    fn hello(&self, holding: Holding) -> proto::Hello {
        let published = self.shared.published.load();
        let held = match &self.unconfirmed {
            Some(unconfirmed) => unconfirmed,
            None => &**published,
        };
        let mut hello = proto::Hello {
            services: self.shared.services.clone(),
            follower: self.name.clone(),
            // Also where a snapshot is asked for: a follower is a witness of what it was told.
            mark: held.mark.map(|mark| mark.to_proto()),
            format: FORMAT,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            ..proto::Hello::default()
        };
        if holding == Holding::Published && held.received && held.mark.is_some() {
            hello.revision = held.state.world.revision().0;
            hello.digest = held.state.digest.to_bytes().to_vec();
        }
        hello
    }

    /// Whether to follow this center: see the table in the documents. Its history.
    fn welcome(
        &mut self,
        welcome: &proto::Welcome,
        connection: &Connection,
    ) -> Result<HistoryId, Lost> {
        let old = || Lost::Unfollowed(Standing::OldCenter);
        let head = welcome.head.as_ref().and_then(|head| Mark::from_proto(head).ok());
        let head = head.ok_or_else(old)?;
        let history = HistoryId::from_bytes(&welcome.history).ok_or_else(old)?;
        let ancestors: Vec<HistoryId> = welcome
            .ancestors
            .iter()
            .take(MAX_ANCESTORS)
            .filter_map(|id| HistoryId::from_bytes(id))
            .collect();
        let published = self.shared.published.load_full();
        let held = match &self.unconfirmed {
            Some(unconfirmed) => Some((unconfirmed.mark, unconfirmed.state.world.revision())),
            None => published.received.then(|| (published.mark, published.state.world.revision())),
        };
        let follows = match held {
            None => true,
            // Release 0.1 kept it: all that is known is its number.
            Some((None, revision)) => head.revision >= revision,
            Some((Some(mark), _)) if mark.history == history => head.revision >= mark.revision,
            Some((Some(mark), _)) => ancestors.contains(&mark.history),
        };
        if !follows || head.history != history {
            let (mark, revision) = held.unwrap_or_default();
            return Err(Lost::Unfollowed(Standing::Foreign(Foreign {
                address: match connection.remote {
                    Some(address) => address.to_string(),
                    None => self.centers.current().target().to_string(),
                },
                history,
                head: head.revision,
                held: mark,
                revision,
                directory: self.data_dir.as_ref().map(|path| path.display().to_string()),
            })));
        }
        self.shared.lineage.store(Arc::new(Lineage { ancestors }));
        self.shared.counters.set_head(head.revision);
        if !matches!(**self.shared.standing.load(), Standing::NeedsUpgrade { .. }) {
            self.shared.standing.store(Arc::new(Standing::Following));
        }
        Ok(history)
    }

    /// `sent`: when the pulse was queued that this heartbeat echoes.
    fn heard(
        &mut self,
        heartbeat: &proto::Heartbeat,
        sent: Option<Moment>,
        history: HistoryId,
        pending: &mut Pending,
    ) -> Result<(), Resync> {
        self.shared.counters.heartbeats.add(1);
        let head = Revision(heartbeat.head);
        if heartbeat.mark.as_ref().is_some_and(|mark| mark.history != history.0) {
            return Err(Resync::Order("a heartbeat of another history"));
        }
        self.shared.counters.set_head(head);
        let published = self.shared.published.load_full();
        let held = published.state.world.revision();
        let same = published.received && published.mark.is_some_and(|mark| mark.history == history);
        if same && head < held {
            return Err(Resync::Regression { head, held });
        }
        // Without an echo of this stream it cannot be dated, and says nothing.
        if let Some(sent) = sent {
            pending.heard(head, sent);
            if same && let Some(at) = pending.reached(held) {
                self.confirm(at);
            }
        }
        Ok(())
    }

    /// What is to be done every now and then, beside following.
    fn due(&mut self, taking: &mut Taking, receiving: bool) -> Result<(), Resync> {
        self.let_go();
        if receiving {
            return Ok(());
        }
        if taking.is_retry_due(self.backoff.1) {
            return Err(Resync::Retry);
        }
        if let Some(disk) = &mut self.disk
            && disk.needs_snapshot(Instant::now())
        {
            return Err(Resync::Disk);
        }
        Ok(())
    }

    /// The published world holds every edit that was acknowledged before then.
    fn confirm(&mut self, at: Moment) {
        let published = self.shared.published.load_full();
        published.currency.confirm(at);
        self.shared.current.notify_waiters();
        if let (Some(disk), Some(mark)) = (&mut self.disk, published.mark)
            && published.held_back.is_empty()
            && let Some(at) = published.currency.at()
        {
            disk.seen(mark, || self.shared.clock.note(at));
        }
    }

    fn silent(&self, bound: Duration) -> Lost {
        self.shared.counters.silences.add(1);
        Lost::Silent(bound)
    }

    /// Counts and says why a stream is begun anew. What cannot be used is an alarm: the center
    /// and this replica disagree, and a person must look.
    fn report(&self, resync: &Resync) {
        let counters = &self.shared.counters;
        let center = self.centers.current().target();
        let error = chain(resync);
        match resync {
            Resync::Gap { .. } => {
                counters.gaps.add(1);
                tracing::warn!(%center, error, "a delta is missing; asking again");
            }
            Resync::Snapshot(_) => {
                counters.snapshots_rejected.add(1);
                tracing::error!(%center, error, "snapshot rejected; the last good state stays");
            }
            Resync::Delta(_) => {
                counters.deltas_rejected.add(1);
                tracing::error!(%center, error, "delta rejected; the last good state stays");
            }
            Resync::Regression { .. } => {
                counters.regressions.add(1);
                tracing::error!(%center, error, "the last good state stays; asking again");
            }
            Resync::Order(_) => {
                tracing::error!(%center, error, "protocol violated; asking again");
            }
            Resync::Disk | Resync::Retry => {
                tracing::info!(%center, error, "asking for a snapshot");
            }
        }
    }
}

impl Lost {
    /// What an embedder hears of it.
    fn told(&self) -> FollowError {
        match self {
            _ if self.is_refusal() => FollowError::TokenRefused(chain(self)),
            Lost::Connect(error) => FollowError::Unreachable(chain(error)),
            Lost::Unfollowed(standing) => FollowError::NotFollowed(standing.clone()),
            Lost::Ended | Lost::Silent(_) => FollowError::Unreachable(chain(self)),
            Lost::Useless(_) => FollowError::Center(chain(self)),
            // A status that is not the center's, but of a connection that broke.
            Lost::Status(status) if std::error::Error::source(&**status).is_some() => {
                FollowError::Unreachable(chain(self))
            }
            Lost::Status(_) => FollowError::Center(chain(self)),
        }
    }

    fn is_refusal(&self) -> bool {
        use tonic::Code;
        let refused = |code| matches!(code, Code::Unauthenticated | Code::PermissionDenied);
        matches!(self, Lost::Status(status) if refused(status.code()))
    }
}
