//! The follow protocol `keepgate.sync.v1`, the center's side.
//!
//! Each follower has one task that pulls: it holds the revision it was last sent, and whenever
//! a revision lands or a second has passed it sends what is missing through a short queue. A
//! follower that reads slowly holds up only its own task; when the revisions it needs have left
//! the window ([`crate::desk::Recent`]) it is brought up to date from the store, and when it
//! takes nothing at all for a while its stream is ended. Both are counted.

pub(crate) mod activity;
pub(crate) mod frame;
pub(crate) mod snapshot;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use keepgate_policy::proto::follow_request::Request as Asked;
use keepgate_policy::{Digest, Revision, proto};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Request, Response, Status, Streaming};

use crate::access::{Caller, Permission};
use crate::desk::{Desk, Head, Scope, Since};
use crate::metrics::Metrics;
use crate::proto::sync_server::Sync;
use crate::store::Changes;
use activity::{Activities, Dropped};
use frame::Frame;
use snapshot::Snapshots;

/// How often a follower hears of the head.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Messages that wait for one follower's connection.
const QUEUE: usize = 32;

/// A follower that takes no message for this long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// How long a new stream may take to say Hello.
const HELLO: Duration = Duration::from_secs(10);

/// Followers that may be sent a snapshot at the same time; the others wait, with heartbeats.
const SNAPSHOTS: usize = 64;

/// Change rows that are merged into one delta; beyond, a snapshot is cheaper.
const CATCH_UP_ROWS: usize = 10_000;

/// Revisions taken from the window at once.
const BATCH: usize = 64;

/// Services one follower may name.
const SERVICES: usize = 256;

/// The longest follower name, in bytes.
const NAME_BYTES: usize = 200;

/// A follower as operators see it.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Its own name.
    pub name: String,
    /// Where its connection comes from.
    pub peer: Option<SocketAddr>,
    /// The id of its token.
    pub token: String,
    /// What it follows.
    pub scope: Scope,
    /// The revision it was last sent.
    pub sent: Revision,
    /// The revision it last said it has published to its readers.
    pub applied: Revision,
    /// When it said so, in milliseconds since the Unix epoch; none: not yet.
    pub applied_unix_ms: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub connected_unix_ms: u64,
}

/// All followers that are connected, by connection number.
#[derive(Debug, Default)]
pub struct Followers {
    next: AtomicU64,
    connected: Mutex<BTreeMap<u64, Follower>>,
    activities: Activities,
}

impl Followers {
    /// A copy of the list, in order of arrival.
    pub fn list(&self) -> Vec<Follower> {
        self.lock().values().cloned().collect()
    }

    /// How many follow this service.
    pub(crate) fn of(&self, service: &str) -> usize {
        self.lock().values().filter(|follower| follower.scope.covers(service)).count()
    }

    /// What they last said about who makes the requests.
    pub(crate) fn activities(&self) -> &Activities {
        &self.activities
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Follower>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Followers>, follower: Follower) -> Joined {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, follower);
        Joined { followers: Arc::clone(self), number }
    }
}

/// A place in the list of followers; dropping it leaves.
struct Joined {
    followers: Arc<Followers>,
    number: u64,
}

impl Joined {
    fn update(&self, f: impl FnOnce(&mut Follower)) {
        if let Some(follower) = self.followers.lock().get_mut(&self.number) {
            f(follower);
        }
    }

    /// Keeps what the follower says about a service that it follows.
    fn tell(&self, scope: &Scope, activity: proto::Activity) -> Result<(), Dropped> {
        if activity.service.is_empty() || !scope.covers(&activity.service) {
            return Err(Dropped::Service);
        }
        let now = std::time::Instant::now();
        self.followers.activities.keep(self.number, &activity.service, activity.report, now)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.followers.lock().remove(&self.number);
        self.followers.activities.forget(self.number);
    }
}

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct SyncService {
    desk: Arc<Desk>,
    followers: Arc<Followers>,
    snapshots: Arc<Snapshots>,
    admission: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    /// True once the center shuts down.
    closing: watch::Receiver<bool>,
}

impl SyncService {
    pub(crate) fn new(
        desk: Arc<Desk>,
        followers: Arc<Followers>,
        metrics: Arc<Metrics>,
        closing: watch::Receiver<bool>,
    ) -> SyncService {
        SyncService {
            desk,
            followers,
            snapshots: Arc::new(Snapshots::new()),
            admission: Arc::new(Semaphore::new(SNAPSHOTS)),
            metrics,
            closing,
        }
    }
}

#[tonic::async_trait]
impl Sync for SyncService {
    type FollowStream = BoxStream<'static, Result<Frame, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<proto::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("no token"))?;
        let peer = request.extensions().get::<crate::server::Peer>().map(|peer| peer.0);
        let mut asked = request.into_inner();
        let first = tokio::time::timeout(HELLO, asked.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let Some(proto::FollowRequest { request: Some(Asked::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first message must be a Hello"));
        };
        let proto::Hello { services, revision, digest, follower: mut name, .. } = hello;
        if services.len() > SERVICES {
            return Err(Status::invalid_argument(format!(
                "{} services; a follower names at most {SERVICES}",
                services.len()
            )));
        }
        while name.len() > NAME_BYTES {
            name.pop();
        }
        let scope = Scope::of(services);
        admit(&caller, &scope)?;
        let held = if revision == 0 {
            None
        } else {
            Digest::from_bytes(&digest).map(|digest| (Revision(revision), digest))
        };
        let joined = self.followers.join(Follower {
            name,
            peer,
            token: caller.token_id().to_owned(),
            scope: scope.clone(),
            sent: Revision(0),
            applied: Revision(0),
            applied_unix_ms: None,
            connected_unix_ms: crate::desk::unix_ms(),
        });
        let (to, queue) = mpsc::channel::<Result<Frame, Status>>(QUEUE);
        let feed = Feed {
            service: self.clone(),
            caller,
            scope,
            to,
            joined: Arc::new(joined),
            sent: Revision(0),
        };
        tokio::spawn(feed.run(held, asked));
        let frames = stream::unfold(queue, |mut queue| async move {
            queue.recv().await.map(|frame| (frame, queue))
        });
        Ok(Response::new(Box::pin(frames)))
    }
}

/// A gate token follows its own service, an admin token anything.
fn admit(caller: &Caller, scope: &Scope) -> Result<(), Status> {
    if !caller.may(Permission::Follow) {
        return Err(Status::permission_denied(format!(
            "a token of role `{}` may not follow",
            caller.role().name()
        )));
    }
    let Some(own) = caller.service() else { return Ok(()) };
    match scope {
        Scope::Services(names) if names.iter().all(|name| name == own) => Ok(()),
        _ => Err(Status::permission_denied(format!(
            "this token may follow service `{own}` and no other"
        ))),
    }
}

/// One follower's task.
struct Feed {
    service: SyncService,
    caller: Caller,
    scope: Scope,
    to: mpsc::Sender<Result<Frame, Status>>,
    joined: Arc<Joined>,
    /// The revision last sent.
    sent: Revision,
}

/// Why a stream ends; the status goes to the follower if it still listens.
enum End {
    /// The follower is gone.
    Gone,
    /// The center ends it.
    Status(Status),
}

impl Feed {
    async fn run(
        mut self,
        held: Option<(Revision, Digest)>,
        mut asked: Streaming<proto::FollowRequest>,
    ) {
        let joined = Arc::clone(&self.joined);
        let (scope, metrics) = (self.scope.clone(), Arc::clone(&self.service.metrics));
        let listen = async move {
            loop {
                match asked.message().await {
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Applied(applied)) })) => {
                        joined.update(|follower| {
                            follower.applied = Revision(applied.revision);
                            follower.applied_unix_ms = Some(crate::desk::unix_ms());
                        });
                    }
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Activity(activity)) })) => {
                        match joined.tell(&scope, activity) {
                            Ok(()) => metrics.activity_kept.add(1),
                            Err(dropped) => {
                                metrics.activity_dropped.add(1);
                                let error = crate::chain(&dropped);
                                tracing::debug!(error, "a follower's report was dropped");
                            }
                        }
                    }
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Hello(_)) })) => {
                        let status = "a Hello comes once, and first";
                        return End::Status(Status::invalid_argument(status));
                    }
                    // A newer follower may say more; what it says is not needed here.
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Pulse(_)) | None })) => {}
                    // A follower may close its side and go on listening; a broken one is gone.
                    Ok(None) => std::future::pending().await,
                    Err(_) => return End::Gone,
                }
            }
        };
        let mut closing = self.service.closing.clone();
        let to = self.to.clone();
        let end = tokio::select! {
            end = self.feed(held) => end,
            end = listen => end,
            () = to.closed() => End::Gone,
            () = crate::server::closed(&mut closing) => {
                End::Status(Status::unavailable("the center is shutting down"))
            }
        };
        if let End::Status(status) = end {
            let _ = to.try_send(Err(status));
        }
    }

    async fn feed(&mut self, held: Option<(Revision, Digest)>) -> End {
        let mut landed = self.service.desk.watch();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Err(end) = self.begin(held, &mut heartbeat).await {
            return end;
        }
        loop {
            if let Err(end) = self.pump(&mut heartbeat).await {
                return end;
            }
            tokio::select! {
                changed = landed.changed() => {
                    if changed.is_err() {
                        return End::Status(Status::unavailable("the center is shutting down"));
                    }
                }
                _ = heartbeat.tick() => {
                    // INVARIANT: but while it waits for a snapshot, no follower hears of a head that
                    // it was not sent: what it holds is current as of each heartbeat.
                    let head = self.service.desk.head();
                    if let Err(end) = self.pump(&mut heartbeat).await {
                        return end;
                    }
                    if let Err(end) = self.beat(&head).await {
                        return end;
                    }
                }
            }
        }
    }

    /// From what the follower holds to a position that deltas can go on from.
    async fn begin(
        &mut self,
        held: Option<(Revision, Digest)>,
        heartbeat: &mut tokio::time::Interval,
    ) -> Result<(), End> {
        let Some((revision, digest)) = held else {
            return self.snapshot(Revision(0), heartbeat).await;
        };
        let head = self.service.desk.head();
        if revision == head.revision {
            if digest != head.digest(&self.scope) {
                return self.snapshot(head.revision, heartbeat).await;
            }
            self.advance(revision);
            return Ok(());
        }
        self.catch_up(revision, heartbeat).await
    }

    /// Sends all that has landed since the position.
    async fn pump(&mut self, heartbeat: &mut tokio::time::Interval) -> Result<(), End> {
        loop {
            match self.service.desk.recent().since(self.sent, BATCH) {
                Since::Landed(landed) if landed.is_empty() => return Ok(()),
                Since::Landed(landed) => {
                    for landed in landed {
                        match landed.frame(&self.scope) {
                            Some(bytes) => {
                                self.send(bytes).await?;
                                self.service.metrics.deltas_sent.add(1);
                                self.advance(landed.revision);
                            }
                            None => self.snapshot(landed.revision, heartbeat).await?,
                        }
                        if self.sent > landed.revision {
                            break;
                        }
                    }
                }
                Since::Behind => {
                    self.service.metrics.followers_resynced.add(1);
                    self.catch_up(self.sent, heartbeat).await?;
                }
            }
        }
    }

    /// One merged delta from the store, or a snapshot where that is impossible or dearer.
    async fn catch_up(
        &mut self,
        from: Revision,
        heartbeat: &mut tokio::time::Interval,
    ) -> Result<(), End> {
        let scope = self.scope.clone();
        let merged = self
            .service
            .desk
            .read(move |store| {
                let Changes::Rows(rows) = store.changes_after(from, CATCH_UP_ROWS)? else {
                    return Ok(None);
                };
                let mut bytes = 0;
                let mut changes = Vec::new();
                for row in rows.into_iter().filter(|row| scope.covers(&row.key.service)) {
                    bytes += row.body.as_ref().map_or(0, Vec::len) + row.key.id.len() + 64;
                    changes.push(frame::change(&row.key, row.body));
                }
                if bytes > crate::desk::DELTA_BYTES {
                    return Ok(None);
                }
                let digest = store
                    .scopes()?
                    .iter()
                    .filter(|row| scope.covers(&row.service))
                    .fold(Digest::default(), |sum, row| sum.plus(row.digest));
                let head = store.head()?;
                Ok(Some((frame::delta(from, head, changes, Some(digest)), head)))
            })
            .await
            .map_err(failed)?;
        match merged {
            Some((bytes, head)) => {
                self.send(bytes).await?;
                self.service.metrics.deltas_sent.add(1);
                self.advance(head);
                Ok(())
            }
            None => self.snapshot(from, heartbeat).await,
        }
    }

    /// A snapshot, when it is this follower's turn. Until then it hears heartbeats.
    /// INVARIANT: no follower is taken back behind `at_least`, the revision that it holds.
    async fn snapshot(
        &mut self,
        at_least: Revision,
        heartbeat: &mut tokio::time::Interval,
    ) -> Result<(), End> {
        let service = self.service.clone();
        let scope = self.scope.clone();
        let made = async move {
            let permit = Arc::clone(&service.admission).acquire_owned().await.ok();
            let made = service.snapshots.of(&service.desk, &scope, at_least).await;
            (permit, made)
        };
        tokio::pin!(made);
        let (permit, made): (Option<OwnedSemaphorePermit>, _) = loop {
            tokio::select! {
                done = &mut made => break done,
                _ = heartbeat.tick() => {
                    let head = self.service.desk.head();
                    self.beat(&head).await?;
                }
            }
        };
        let encoded = made.map_err(failed)?;
        for bytes in &encoded.frames {
            self.send(bytes.clone()).await?;
        }
        drop(permit);
        self.service.metrics.snapshots_sent.add(1);
        self.advance(encoded.revision);
        Ok(())
    }

    async fn beat(&mut self, head: &Head) -> Result<(), End> {
        // A token revoked meanwhile ends the stream within a heartbeat.
        if !self.caller.still_good(head) {
            return Err(End::Status(Status::unauthenticated("the token was revoked")));
        }
        self.send(frame::heartbeat(head.revision, crate::desk::unix_ms())).await
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), End> {
        let deadline = Instant::now() + STALLED;
        match tokio::time::timeout_at(deadline, self.to.send(Ok(Frame(bytes)))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                self.service.metrics.followers_stalled.add(1);
                Err(End::Status(Status::aborted("the follower does not read")))
            }
        }
    }

    fn advance(&mut self, to: Revision) {
        self.sent = to;
        self.joined.update(|follower| follower.sent = to);
    }
}

fn failed(refusal: crate::desk::Refusal) -> End {
    tracing::error!(error = %crate::chain(&refusal), "a follower could not be served");
    End::Status(Status::unavailable("the center cannot read its store"))
}
