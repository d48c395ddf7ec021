//! The follower: connect, follow, publish, and begin again when anything is wrong.
//!
//! Two kinds of trouble are told apart. When the *connection* fails, ends or falls silent, it is
//! opened again after a jittered pause. When a *message* does not fit (a gap, a digest that
//! differs, bytes that do not decode), a new stream is begun on the same connection, with what is
//! held or, where that is in doubt, with nothing; after the first time, too, with a pause.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, Stream, StreamExt as _};
use keepgate_policy::proto::follow_response::Response as Told;
use keepgate_policy::proto::{self, follow_request};
use keepgate_policy::wire::{self, SnapshotDecoder, WireError};
use keepgate_policy::world::WorldError;
use keepgate_policy::{Digest, Revision, World};
use tokio::sync::watch;

use super::age::{BootMs, Pending};
use super::backoff::Backoff;
use super::center::{Center, ConnectError, Connection};
use super::disk::Disk;
use super::{Activity, Published, Shared};

/// A delta with more changes is applied on a thread where that may take a while.
const MAX_INLINE_CHANGES: usize = 64;
/// How often a snapshot may be asked for only to have it on disk again.
const DISK_REPAIR_INTERVAL: Duration = Duration::from_secs(60);

/// A connection that lasted this long was good: the next pause is a short one.
const GOOD_CONNECTION: Duration = Duration::from_secs(5);
/// The shortest pause after the center refused the token.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) center: Center,
    pub(super) services: Vec<String>,
    pub(super) name: String,
    pub(super) disk: Option<Disk>,
    pub(super) silence: Duration,
    pub(super) backoff: (Duration, Duration),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("connecting failed")]
    Connect(#[from] ConnectError),
    #[error("the center ended the stream")]
    Ended,
    #[error("the center answered: {}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the center said nothing for {0:?}")]
    Silent(Duration),
}

impl From<tonic::Status> for Lost {
    fn from(status: tonic::Status) -> Lost {
        Lost::Status(Box::new(status))
    }
}

/// Why a stream is begun anew.
#[derive(Debug, thiserror::Error)]
enum Resync {
    #[error("delta after revision {previous}, held is {held}")]
    Gap { previous: Revision, held: Revision },
    #[error("a snapshot cannot be used")]
    Snapshot(#[source] Unusable),
    #[error("a delta cannot be used")]
    Delta(#[source] Unusable),
    #[error("the center is at revision {head}, held is {held}: it was set back")]
    Regression { head: Revision, held: Revision },
    #[error("a message came out of its place: {0}")]
    Order(&'static str),
    #[error("the data directory needs a snapshot")]
    Disk,
}

/// Why a snapshot or delta is not a world.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it does not decode")]
    Wire(#[from] WireError),
    #[error("it does not fit together")]
    World(#[from] WorldError),
    #[error("it became revision {came} with another digest, announced was {announced}")]
    Other { announced: Revision, came: Revision },
    #[error("the work was lost with its thread")]
    Thread,
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
    fn then(&self) -> Holding {
        match self {
            Resync::Gap { .. } | Resync::Order(_) => Holding::Published,
            _ => Holding::Nothing,
        }
    }
}

impl Follower {
    /// Follows until the last handle is gone.
    pub(super) async fn run(mut self, mut gone: watch::Receiver<()>) {
        let follow = async {
            let mut backoff = Backoff::new(self.backoff);
            let mut well = true;
            loop {
                let began = Instant::now();
                let lost = self.follow_once(&mut well).await;
                if began.elapsed() >= GOOD_CONNECTION {
                    backoff.reset();
                }
                self.shared.counters.set_connected(false);
                self.shared.counters.disconnects.add();
                let mut pause = backoff.next();
                let refused = lost.is_refusal();
                if refused {
                    self.shared.counters.refusals.add();
                    pause = pause.max(REFUSED_PAUSE);
                }
                let center = self.center.target();
                let error = chain(&lost);
                if !well {
                    tracing::debug!(%center, error, ?pause, "still no center");
                } else if refused {
                    tracing::error!(%center, error, "the center refuses this token");
                } else {
                    tracing::warn!(%center, error, "lost the center; deciding goes on");
                }
                well = false;
                tokio::time::sleep(pause).await;
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
    }

    /// One connection, from its opening to its end.
    async fn follow_once(&mut self, well: &mut bool) -> Lost {
        let mut connection = match self.center.connect().await {
            Ok(connection) => connection,
            Err(error) => return error.into(),
        };
        let mut holding = Holding::Published;
        let mut streams = Backoff::new(self.backoff);
        loop {
            let mut progress = Progress::default();
            let ended = self.stream(&mut connection, holding, &mut progress, well).await;
            let resync = match ended {
                Ok(resync) => resync,
                Err(lost) => return lost,
            };
            self.report(&resync);
            self.shared.counters.resyncs.add();
            holding = resync.then();
            if progress.published {
                streams.reset();
            } else {
                tokio::time::sleep(streams.next()).await;
            }
        }
    }

    /// One stream. Ends with the reason to begin another one on the same connection.
    async fn stream(
        &mut self,
        connection: &mut Connection,
        holding: Holding,
        progress: &mut Progress,
        well: &mut bool,
    ) -> Result<Resync, Lost> {
        let silence = self.silence;
        self.shared.counters.streams.add();
        let (applied, acks) = watch::channel(None);
        let mut reports = self.shared.activity.subscribe();
        // The last report may be unsent, and a center that was away does not know it.
        if reports.borrow().is_some() {
            reports.mark_changed();
        }
        let requests = requests(self.hello(holding), acks, reports);
        let request = self.center.authorized(requests);
        let begun = tokio::time::timeout(silence, connection.client.follow(request));
        let mut told = begun.await.map_err(|_| self.silent())??.into_inner();

        let mut pending = Pending::default();
        let mut snapshot: Option<Incoming> = None;
        // Asked for nothing, the center may take us back; otherwise never.
        let mut may_go_back = holding == Holding::Nothing;
        loop {
            let message = tokio::time::timeout(silence, told.message());
            let message = message.await.map_err(|_| self.silent())??.ok_or(Lost::Ended)?;
            if !self.shared.counters.connected() {
                self.shared.counters.set_connected(true);
                tracing::info!(center = %self.center.target(), "following the center");
                *well = true;
            }
            let outcome = match message.response {
                Some(Told::Heartbeat(heartbeat)) => {
                    let receiving = snapshot.is_some();
                    self.heard(Revision(heartbeat.head), &mut pending, receiving, may_go_back)
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
                        let keep = self.disk.is_some();
                        match off_thread(move || incoming.chunk(chunk, keep)).await {
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
                    Some(incoming) => self.finish(incoming, end, &mut may_go_back).await.map(Some),
                },
                Some(Told::Delta(_)) if snapshot.is_some() => {
                    Err(Resync::Order("a delta within a snapshot"))
                }
                Some(Told::Delta(delta)) => self.delta(delta).await.map(Some),
                // A newer center may say more; what it says is not needed to stay correct.
                Some(Told::Welcome(_)) | None => Ok(None),
            };
            let done = match outcome {
                Err(resync) => return Ok(resync),
                Ok(done) => done,
            };
            if let Some((revision, digest)) = done {
                progress.published = true;
                if let Some(at) = pending.reached(revision) {
                    self.current_at(at, revision);
                }
                applied.send_replace(Some((revision, digest)));
            }
        }
    }

    fn hello(&self, holding: Holding) -> proto::Hello {
        let published = self.shared.published.load();
        let held = holding == Holding::Published && published.received;
        proto::Hello {
            services: self.services.clone(),
            revision: if held { published.world.revision().0 } else { 0 },
            digest: if held { published.world.digest().to_bytes().to_vec() } else { Vec::new() },
            follower: self.name.clone(),
            ..proto::Hello::default()
        }
    }

    fn heard(
        &mut self,
        head: Revision,
        pending: &mut Pending,
        receiving: bool,
        may_go_back: bool,
    ) -> Result<Option<(Revision, Digest)>, Resync> {
        self.shared.counters.heartbeats.add();
        self.shared.counters.set_head(head);
        let published = self.shared.published.load();
        let (held, received) = (published.world.revision(), published.received);
        drop(published);
        let set_back = received && head < held;
        if set_back && !receiving && !may_go_back {
            return Err(Resync::Regression { head, held });
        }
        pending.heard(head, BootMs::now());
        // What is about to be replaced by an older state is not current.
        if received
            && !receiving
            && !set_back
            && let Some(at) = pending.reached(held)
        {
            self.current_at(at, held);
        }
        if let Some(disk) = &mut self.disk
            && !receiving
            && disk.needs_snapshot(DISK_REPAIR_INTERVAL, Instant::now())
        {
            return Err(Resync::Disk);
        }
        Ok(None)
    }

    fn current_at(&mut self, at: BootMs, held: Revision) {
        self.shared.clock.set_current_at(at);
        if let Some(disk) = &mut self.disk
            && let Some(unix_ms) = self.shared.clock.current_unix_ms()
        {
            disk.seen(held, unix_ms);
        }
    }

    async fn finish(
        &mut self,
        incoming: Incoming,
        end: proto::SnapshotEnd,
        may_go_back: &mut bool,
    ) -> Result<(Revision, Digest), Resync> {
        let (announced, chunks) = (incoming.begin.clone(), incoming.chunks);
        let decoder = incoming.decoder;
        let built = off_thread(move || {
            let snapshot = decoder.finish(&end)?;
            let world = World::from_snapshot(&snapshot)?;
            checked(world, snapshot.revision, Some(snapshot.digest))
        });
        let world = built.await.map_err(Resync::Snapshot)?;
        let (revision, digest) = (world.revision(), world.digest());
        let published = self.shared.published.load();
        let held = published.world.revision();
        if published.received && revision < held {
            if !*may_go_back {
                return Err(Resync::Regression { head: revision, held });
            }
            tracing::warn!(%held, %revision, "the center was set back; so is the replica");
            self.shared.clock.forget();
        }
        drop(published);
        *may_go_back = false;
        retire(self.shared.publish(world));
        self.shared.counters.snapshots.add();
        tracing::info!(%revision, items = announced.items, "snapshot published");
        if let Some(disk) = &mut self.disk {
            disk.snapshot(announced, chunks, self.shared.clock.current_unix_ms());
        }
        Ok((revision, digest))
    }

    async fn delta(&mut self, delta: proto::Delta) -> Result<(Revision, Digest), Resync> {
        let world = self.shared.published.load().world.clone();
        let held = world.revision();
        if Revision(delta.previous) != held || !self.shared.published.load().received {
            return Err(Resync::Gap { previous: Revision(delta.previous), held });
        }
        let bytes = self.disk.is_some().then(|| prost::Message::encode_to_vec(&delta));
        let large = delta.changes.len() > MAX_INLINE_CHANGES;
        let apply = move || {
            let delta = wire::delta_from_proto(delta)?;
            let after = world.apply(&delta)?;
            checked(after, delta.revision, delta.digest)
        };
        let after = if large { off_thread(apply).await } else { apply() };
        let after = after.map_err(Resync::Delta)?;
        let (revision, digest) = (after.revision(), after.digest());
        drop(self.shared.publish(after));
        self.shared.counters.deltas.add();
        tracing::debug!(%revision, "delta published");
        if let (Some(disk), Some(bytes)) = (&mut self.disk, bytes) {
            disk.delta(bytes, revision, digest, self.shared.clock.current_unix_ms());
        }
        Ok((revision, digest))
    }

    fn silent(&self) -> Lost {
        self.shared.counters.silences.add();
        Lost::Silent(self.silence)
    }

    /// Counts and says why a stream is begun anew. What cannot be used is an alarm: the center
    /// and this replica disagree, and a person must look.
    fn report(&self, resync: &Resync) {
        let counters = &self.shared.counters;
        let center = self.center.target();
        let error = chain(resync);
        match resync {
            Resync::Gap { .. } => {
                counters.gaps.add();
                tracing::warn!(%center, error, "a delta is missing; asking again");
            }
            Resync::Snapshot(_) => {
                counters.snapshots_rejected.add();
                tracing::error!(%center, error, "snapshot rejected; the last good state stays");
            }
            Resync::Delta(_) => {
                counters.deltas_rejected.add();
                tracing::error!(%center, error, "delta rejected; the last good state stays");
            }
            Resync::Regression { .. } => {
                counters.regressions.add();
                tracing::error!(%center, error, "the center went back in time; asking for all");
            }
            Resync::Order(_) => {
                tracing::error!(%center, error, "protocol violated; asking again");
            }
            Resync::Disk => tracing::info!(%center, error, "asking for a snapshot"),
        }
    }
}

impl Lost {
    fn is_refusal(&self) -> bool {
        use tonic::Code;
        let refused = |code| matches!(code, Code::Unauthenticated | Code::PermissionDenied);
        matches!(self, Lost::Status(status) if refused(status.code()))
    }
}

#[derive(Default)]
struct Progress {
    published: bool,
}

/// A snapshot on its way.
struct Incoming {
    begin: proto::SnapshotBegin,
    decoder: SnapshotDecoder,
    /// As they came, for the disk.
    chunks: Vec<Vec<u8>>,
}

impl Incoming {
    fn chunk(mut self, chunk: proto::SnapshotChunk, keep: bool) -> Result<Incoming, Unusable> {
        self.decoder.chunk(&chunk)?;
        if keep {
            self.chunks.push(chunk.zstd);
        }
        Ok(self)
    }
}

/// A world, if it is the one announced.
fn checked(world: World, announced: Revision, digest: Option<Digest>) -> Result<World, Unusable> {
    if world.revision() != announced || digest.is_some_and(|digest| digest != world.digest()) {
        return Err(Unusable::Other { announced, came: world.revision() });
    }
    Ok(world)
}

/// Work that takes too long for a thread that serves requests.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unusable> + Send + 'static,
) -> Result<T, Unusable> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Unusable::Thread))
}

/// Drops a world, perhaps the last handle to a million entities, where that disturbs nobody.
fn retire(before: Arc<Published>) {
    tokio::task::spawn_blocking(move || drop(before));
}

/// The Hello, then an Applied for each revision published and an Activity for each report (when
/// they come fast, for the last). Ends with the stream that it belongs to.
fn requests(
    hello: proto::Hello,
    acks: watch::Receiver<Option<(Revision, Digest)>>,
    reports: watch::Receiver<Option<Arc<Activity>>>,
) -> impl Stream<Item = proto::FollowRequest> + Send + 'static {
    let hello = follow_request::Request::Hello(hello);
    let later = stream::unfold((acks, reports), |(mut acks, mut reports)| async move {
        let request = tokio::select! {
            biased;
            changed = acks.changed() => {
                changed.ok()?;
                let latest = *acks.borrow_and_update();
                let (revision, digest) = latest?;
                let digest = digest.to_bytes().to_vec();
                follow_request::Request::Applied(proto::Applied { revision: revision.0, digest, mark: None })
            }
            Ok(()) = reports.changed() => {
                let latest = reports.borrow_and_update().clone()?;
                follow_request::Request::Activity(proto::Activity {
                    service: latest.service.clone(),
                    report: latest.report.clone(),
                })
            }
        };
        Some((request, (acks, reports)))
    });
    stream::iter([hello])
        .chain(later)
        .map(|request| proto::FollowRequest { request: Some(request) })
}

/// An error and all its causes in one line, for a log.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
