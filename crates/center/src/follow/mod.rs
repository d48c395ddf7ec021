//! The follow protocol `keepgate.sync.v1`, the center's side.
//!
//! Each follower has one task that pulls: it holds the revision it was last sent, and whenever
//! a revision lands or a second has passed it sends what is missing through a short queue. A
//! follower that reads slowly holds up only its own task; when the revisions it needs have left
//! the window ([`crate::desk::Recent`]) it is brought up to date from the store, and when it
//! takes nothing at all for a while its stream is ended. Both are counted.

pub(crate) mod activity;
mod anchors;
pub(crate) mod figures;
mod followers;
pub(crate) mod frame;
mod gate;
pub(crate) mod keys;
mod pulses;
pub(crate) mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use keepgate_policy::proto::follow_request::Request as Asked;
use keepgate_policy::{Digest, HistoryId, Revision, proto};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Request, Response, Status, Streaming};

use crate::access::{Caller, Permission};
use crate::api::fair::{Fair, Seat};
use crate::desk::{Condition, Confirmed, Desk, Head, Scope, Since, Witness};
use crate::metrics::Metrics;
use crate::neighbors::Neighbors;
use crate::proto::sync_server::Sync;
use crate::requests::Requests;
use crate::store::Changes;
use anchors::Anchors;
use followers::Joined;
pub use followers::{Follower, Followers};
use frame::Frame;
pub use gate::{GateReport, PortsLeft};
use keys::Pace;
use pulses::Pulses;
use snapshot::Snapshots;

/// How often a follower hears of the head.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A pulse is answered at once, but not more often than this.
const BEATS_APART: Duration = Duration::from_millis(50);

/// Messages that wait for one follower's connection.
const QUEUE: usize = 32;

/// A follower that takes no message for this long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// How long a new stream may take to say Hello.
const HELLO: Duration = Duration::from_secs(10);

/// Questions of callers that one follower has under way, until their answers are on its queue.
const QUESTIONS: usize = 64;

/// Followers that may be sent a snapshot at the same time; the others wait, with heartbeats.
const SNAPSHOTS: usize = 64;

/// Of these, followers of one token: others always find a place.
const SNAPSHOTS_OF_A_TOKEN: usize = 16;

/// A follower that takes no piece of its snapshot for this long gives its place back and is given
/// up. The queue before it has room for [`QUEUE`] pieces, so this is far below any useful speed.
const SNAPSHOT_STALLED: Duration = Duration::from_secs(20);

/// Change rows that are merged into one delta; beyond, a snapshot is cheaper.
const CATCH_UP_ROWS: usize = 10_000;

/// Revisions taken from the window at once.
const BATCH: usize = 64;

/// Services one follower may name.
pub(crate) const SERVICES: usize = 256;

/// The longest name of a release, in bytes.
const RELEASE_BYTES: usize = 40;

/// The longest follower name, in bytes.
const NAME_BYTES: usize = 200;

/// A service uses what release 0.1 does not understand.
pub(crate) const TOO_OLD: &str = "it is of release 0.1, and its service uses what that release does not \
                       understand; upgrade the gate";

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct SyncService {
    anchors: Anchors,
    desk: Arc<Desk>,
    followers: Arc<Followers>,
    snapshots: Arc<Snapshots>,
    admission: Arc<Fair>,
    metrics: Arc<Metrics>,
    neighbors: Arc<Neighbors>,
    requests: Arc<Requests>,
    /// True once the center shuts down.
    closing: watch::Receiver<bool>,
}

impl SyncService {
    pub(crate) fn new(
        desk: Arc<Desk>,
        followers: Arc<Followers>,
        metrics: Arc<Metrics>,
        neighbors: Arc<Neighbors>,
        requests: Arc<Requests>,
        closing: watch::Receiver<bool>,
    ) -> SyncService {
        SyncService {
            anchors: Anchors::new(Arc::clone(&desk)),
            desk,
            followers,
            neighbors,
            requests,
            snapshots: Arc::new(Snapshots::new()),
            admission: Arc::new(Fair::of(SNAPSHOTS, SNAPSHOTS_OF_A_TOKEN, usize::MAX)),
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
        let proto::Hello {
            services,
            revision,
            digest,
            follower: mut name,
            mark,
            format,
            mut release,
        } = hello;
        if services.len() > SERVICES {
            return Err(Status::invalid_argument(format!(
                "{} services; a follower names at most {SERVICES}",
                services.len()
            )));
        }
        while name.len() > NAME_BYTES {
            name.pop();
        }
        let scope = match caller.services() {
            // All that the token may see.
            Some(own) if services.is_empty() => Scope::of(own.map(str::to_owned).collect()),
            _ => Scope::of(services),
        };
        admit(&caller, &scope)?;
        let format = format.max(1);
        while release.len() > RELEASE_BYTES {
            release.pop();
        }
        if format == 1 {
            "0.1".clone_into(&mut release);
        }
        // A witness is heard even where nothing can be told now: that is what a witness is for.
        let said = match &mark {
            Some(mark) => Some(self.desk.witness(mark).await.map_err(unreadable)?),
            None => None,
        };
        if self.desk.condition().is_loss() {
            return Err(loss(&self.desk).await);
        }
        let held = match (said, Digest::from_bytes(&digest)) {
            _ if revision == 0 => None,
            // Release 0.1 knows no marks: the digest tells whether it holds what it says.
            (None, Some(digest)) if format == 1 => Some((Revision(revision), digest)),
            (Some(Witness::OnLine), Some(digest)) => Some((Revision(revision), digest)),
            (Some(Witness::Forged), _) => {
                tracing::warn!(follower = name, "a follower holds a mark with a false seal");
                None
            }
            _ => None,
        };
        let joined = self.followers.join(Follower {
            name: name.clone(),
            peer,
            token: caller.token_id().to_owned(),
            scope: scope.clone(),
            sent: Revision(0),
            applied: Revision(0),
            applied_unix_ms: None,
            connected_unix_ms: keepgate_observe::unix_ms(),
            format,
            release,
            history: mark.as_ref().and_then(|mark| HistoryId::from_bytes(&mark.history)),
            age_ms: None,
            pulse: 0,
            pulse_unix_ms: None,
            held_back: None,
            report: None,
        });
        let (to, queue) = mpsc::channel::<Result<Frame, Status>>(QUEUE);
        let feed = Feed {
            service: self.clone(),
            caller,
            scope,
            to,
            joined: Arc::new(joined),
            name,
            sent: Revision(0),
            waiting: None,
            format,
            pulse: watch::Sender::default(),
            echoed: 0,
            beaten: None,
        };
        tokio::spawn(feed.run(held, asked));
        let frames = stream::unfold(queue, |mut queue| async move {
            queue.recv().await.map(|frame| (frame, queue))
        });
        Ok(Response::new(Box::pin(frames)))
    }
}

/// A gate token follows its own services, an admin token anything.
fn admit(caller: &Caller, scope: &Scope) -> Result<(), Status> {
    if !caller.may(Permission::Follow) {
        return Err(Status::permission_denied(format!(
            "a token of role `{}` may not follow",
            caller.role().name()
        )));
    }
    let Some(own) = caller.services() else { return Ok(()) };
    let own: Vec<&str> = own.collect();
    let told = |what: &str| {
        let (noun, shown) = match own.as_slice() {
            [one] => ("service", format!("`{one}`")),
            several => ("services", format!("`{}`", several.join("`, `"))),
        };
        let other = if own.len() == 1 { "no other" } else { "no others" };
        Status::permission_denied(format!("this token may follow {noun} {shown} and {other}{what}"))
    };
    match scope {
        Scope::Services(names) => match names.iter().find(|name| !own.contains(&name.as_str())) {
            None => Ok(()),
            Some(_) if own.len() == 1 => Err(told("")),
            Some(name) => Err(told(&format!(", got `{name}`; make a token that names it too"))),
        },
        Scope::All => Err(told("")),
    }
}

/// One follower's task.
struct Feed {
    service: SyncService,
    caller: Caller,
    scope: Scope,
    to: mpsc::Sender<Result<Frame, Status>>,
    joined: Arc<Joined>,
    /// What the follower calls itself.
    name: String,
    /// The revision last sent.
    sent: Revision,
    /// What the follower said it holds, where nothing could be sent to it yet because it is too old
    /// for what its services use: from there it goes on once they do not.
    waiting: Option<Option<(Revision, Digest)>>,
    /// The newest format that the follower understands.
    format: u32,
    /// The newest pulses that came.
    pulse: watch::Sender<Pulses>,
    /// The newest of them that a heartbeat has answered.
    echoed: u64,
    /// When the last heartbeat that answers a pulse was sent.
    beaten: Option<Instant>,
}

/// Why a stream ends; the status goes to the follower if it still listens.
enum End {
    /// The follower is gone.
    Gone,
    /// Acknowledged state is lost.
    Lost,
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
        let (desk, pulse) = (Arc::clone(&self.service.desk), self.pulse.clone());
        let (caller, answers) = (self.caller.clone(), self.to.clone());
        let neighbors = Arc::clone(&self.service.neighbors);
        let (anchors, name) = (self.service.anchors.clone(), self.name.clone());
        let requests = Arc::clone(&self.service.requests);
        let asking = Arc::new(tokio::sync::Semaphore::new(QUESTIONS));
        let listen = async move {
            let mut keys_pace = Pace::default();
            loop {
                match asked.message().await {
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Applied(applied)) })) => {
                        joined.update(|follower| {
                            follower.applied = Revision(applied.revision);
                            follower.applied_unix_ms = Some(keepgate_observe::unix_ms());
                            let history = applied.mark.as_ref().map(|mark| &mark.history);
                            follower.history = history.and_then(|id| HistoryId::from_bytes(id));
                        });
                        // What it holds is a witness too, for as long as it follows.
                        if let Some(mark) = &applied.mark
                            && let Ok(Witness::Contradiction(_)) = desk.witness(mark).await
                        {
                            return End::Lost;
                        }
                    }
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Pulse(beat)) })) => {
                        let now = std::time::Instant::now();
                        pulse.send_if_modified(|pulses| pulses.came(beat.nonce, now));
                        joined.update(|follower| {
                            follower.pulse = follower.pulse.max(beat.nonce);
                            follower.pulse_unix_ms = Some(keepgate_observe::unix_ms());
                            follower.age_ms = beat.age_ms;
                        });
                    }
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Activity(activity)) })) => {
                        match joined.tell(&scope, activity) {
                            Ok(()) => metrics.activity_kept.add(1),
                            Err(dropped) => {
                                metrics.activity_dropped.add(1);
                                let error = keepgate_observe::chain(&dropped);
                                tracing::debug!(error, "a follower's report was dropped");
                            }
                        }
                    }
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Figures(figures)) })) => {
                        match joined.count(&scope, &figures, &desk.head()) {
                            Ok(()) => metrics.activity_kept.add(1),
                            Err(dropped) => {
                                metrics.activity_dropped.add(1);
                                tracing::debug!(error = %dropped, "a follower's figures were dropped");
                            }
                        }
                    }
                    Ok(Some(proto::FollowRequest { request: Some(Asked::GateReport(said)) })) => {
                        match GateReport::read(said) {
                            Ok(report) => joined.update(|follower| {
                                follower.report = Some((report, keepgate_observe::unix_ms()));
                            }),
                            Err(dropped) => {
                                metrics.activity_dropped.add(1);
                                tracing::debug!(error = %dropped, "what a gate says of itself was dropped");
                            }
                        }
                    }
                    Ok(Some(proto::FollowRequest {
                        request: Some(Asked::AssertionKeys(said)),
                    })) => {
                        keys_pace.turn().await;
                        let now = std::time::Instant::now();
                        let all = joined.followers.keys();
                        let kids = all.tell(joined.number, (&caller, &scope), &said.keys, now);
                        // Each center publishes them: the gate must not sign before.
                        neighbors.tell().await;
                        let published = Ok(Frame(frame::keys_published(kids)));
                        if answers.send(published).await.is_err() {
                            return End::Gone;
                        }
                    }
                    Ok(Some(proto::FollowRequest {
                        request: Some(Asked::LogPosition(position)),
                    })) => {
                        anchors.tell((&caller, &name), position, &answers);
                    }
                    Ok(Some(proto::FollowRequest { request: Some(Asked::Hello(_)) })) => {
                        let status = "a Hello comes once, and first";
                        return End::Status(Status::invalid_argument(status));
                    }
                    Ok(Some(proto::FollowRequest {
                        request: Some(Asked::CallerQuestion(question)),
                    })) => {
                        // One too many has no answer, which is never taken for a refusal.
                        let Ok(place) = Arc::clone(&asking).try_acquire_owned() else { continue };
                        let (requests, answers) = (Arc::clone(&requests), answers.clone());
                        let (token, scope) = (caller.token_id().to_owned(), scope.clone());
                        // Beside whatever else the follower says: a store that is slow delays no pulse.
                        tokio::spawn(async move {
                            let answer = requests.answer(&token, &scope, question).await;
                            // The follower may have gone.
                            let _ = answers.send(Ok(Frame(frame::caller_answer(answer)))).await;
                            drop(place);
                        });
                    }
                    // A newer follower may say more; what it says is not needed here.
                    Ok(Some(proto::FollowRequest { request: None })) => {}
                    // A follower may close its side and go on listening; a broken one is gone.
                    Ok(None) => std::future::pending().await,
                    Err(_) => return End::Gone,
                }
            }
        };
        let mut closing = self.service.closing.clone();
        let to = self.to.clone();
        let desk = Arc::clone(&self.service.desk);
        let mut condition = desk.watch_condition();
        let lost = async move {
            // The sender lives as long as the desk.
            if condition.wait_for(Condition::is_loss).await.is_err() {
                std::future::pending::<()>().await;
            }
            End::Lost
        };
        let end = tokio::select! {
            // First: a lost history tells nothing more, however much is ready to be sent.
            biased;
            end = lost => end,
            end = self.feed(held) => end,
            end = listen => end,
            () = to.closed() => End::Gone,
            () = crate::server::closed(&mut closing) => {
                End::Status(Status::unavailable("the center is shutting down"))
            }
        };
        let status = match end {
            End::Gone => return,
            End::Lost => loss(&desk).await,
            End::Status(status) => status,
        };
        let _ = to.try_send(Err(status));
    }

    async fn feed(&mut self, held: Option<(Revision, Digest)>) -> End {
        // Until gates have been heard, no state is told: theirs may be newer than the store's.
        if self.service.desk.settled().await.is_loss() {
            return End::Lost;
        }
        let mut landed = self.service.desk.watch();
        let mut pulse = self.pulse.subscribe();
        let mut confirmed = self.service.desk.watch_confirmed();
        let is_shared = self.service.desk.is_shared();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if self.format > 1 {
            let head = self.service.desk.head();
            let ancestors = &self.service.desk.meta().ancestors;
            if let Err(end) = self.send(frame::welcome(&head.mark, ancestors)).await {
                return end;
            }
        }
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
                    if let Err(end) = self.round(&mut heartbeat).await {
                        return end;
                    }
                }
                // The sender lives in this struct.
                _ = pulse.changed(), if is_shared || self.may_beat() => {
                    // Where other centers write, the pulse is answered by a look that begins later.
                    if is_shared {
                        continue;
                    }
                    // The next one by itself is a second after this one.
                    heartbeat.reset();
                    if let Err(end) = self.round(&mut heartbeat).await {
                        return end;
                    }
                }
                // The sender lives as long as the desk.
                _ = confirmed.changed(), if is_shared && self.is_awaited() => {
                    if self.confirmed().is_some_and(|(_, echo)| echo > self.echoed) {
                        heartbeat.reset();
                        if let Err(end) = self.round(&mut heartbeat).await {
                            return end;
                        }
                    }
                }
            }
        }
    }

    fn may_beat(&self) -> bool {
        self.beaten.is_none_or(|at| at.elapsed() >= BEATS_APART)
    }

    /// Whether a pulse is not answered yet.
    fn is_awaited(&self) -> bool {
        self.pulse.borrow().newest() > self.echoed
    }

    /// The confirmed head, and the newest pulse that a heartbeat of it echoes. INVARIANT: the head was
    /// read after that pulse had come.
    fn confirmed(&self) -> Option<(Arc<Head>, u64)> {
        let newest = self.pulse.borrow().newest();
        let Confirmed { head, until } = self.service.desk.confirmed()?;
        let echo = until.map_or(newest, |at| self.pulse.borrow().until(at));
        Some((head, echo))
    }

    /// One round. INVARIANT: the pulse is read first, then the confirmed head; all up to that head
    /// is sent before the heartbeat that echoes the pulse. So a follower that has taken what came
    /// before the heartbeat is as new as the center was when the pulse had arrived.
    async fn round(&mut self, heartbeat: &mut tokio::time::Interval) -> Result<(), End> {
        let confirmed = self.confirmed();
        self.pump(heartbeat).await?;
        match confirmed {
            Some((head, echo)) => self.beat(&head, echo).await,
            // The files were not found in place lately: nothing may be called current.
            None => self.check_token(),
        }
    }

    /// Whether the follower is too old for what its services use now. It is then told nothing
    /// more, so that its age grows.
    fn too_old(&self) -> bool {
        let head = self.service.desk.head();
        let newer = self.format <= 1 && head.newer.has(|service| self.scope.covers(service));
        self.joined.update(|follower| follower.held_back = newer.then_some(TOO_OLD));
        newer
    }

    /// From what the follower holds to a position that deltas can go on from.
    async fn begin(
        &mut self,
        held: Option<(Revision, Digest)>,
        heartbeat: &mut tokio::time::Interval,
    ) -> Result<(), End> {
        if !self.too_old() {
            match held {
                None => self.snapshot(Revision(0), heartbeat).await?,
                Some((revision, digest)) => {
                    let head = self.service.desk.head();
                    if revision != head.revision {
                        self.catch_up(revision, heartbeat).await?;
                    } else if digest == head.digest(&self.scope) {
                        self.advance(revision);
                    } else {
                        self.snapshot(head.revision, heartbeat).await?;
                    }
                }
            }
        }
        if self.format <= 1 && self.sent == Revision(0) {
            self.waiting = Some(held);
        }
        Ok(())
    }

    /// Sends all that has landed since the position.
    async fn pump(&mut self, heartbeat: &mut tokio::time::Interval) -> Result<(), End> {
        if self.too_old() {
            return Ok(());
        }
        if let Some(held) = self.waiting.take() {
            self.begin(held, heartbeat).await?;
            if self.waiting.is_some() {
                return Ok(());
            }
        }
        loop {
            match self.service.desk.recent().since(self.sent, BATCH) {
                Since::Landed(landed) if landed.is_empty() => return Ok(()),
                Since::Landed(landed) => {
                    for landed in landed {
                        if self.format <= 1 && landed.is_newer(&self.scope) {
                            return self.past_newer(heartbeat).await;
                        }
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
                let mut newer = false;
                let mut changes = Vec::new();
                for row in rows.into_iter().filter(|row| scope.covers(&row.key.service)) {
                    bytes += row.body.as_ref().map_or(0, Vec::len) + row.key.id.len() + 64;
                    newer |= row.needs > 1;
                    changes.push(frame::change(&row.key, row.body, row.needs));
                }
                if bytes > crate::desk::DELTA_BYTES {
                    return Ok(None);
                }
                let digest = store
                    .scopes()?
                    .iter()
                    .filter(|row| scope.covers(&row.service))
                    .fold(Digest::default(), |sum, row| sum.plus(row.digest));
                let mark = snapshot::head_mark(store)?;
                let bytes = frame::delta(from, &mark, changes, Some(digest));
                Ok(Some((bytes, mark.revision, newer)))
            })
            .await
            .map_err(failed)?;
        match merged {
            Some((_, _, true)) if self.format <= 1 => self.past_newer(heartbeat).await,
            Some((bytes, head, _)) => {
                self.send(bytes).await?;
                self.service.metrics.deltas_sent.add(1);
                self.advance(head);
                Ok(())
            }
            None => self.snapshot(from, heartbeat).await,
        }
    }

    /// Between what an old follower holds and the head lies what it does not understand; the head
    /// may have nothing of it any more.
    async fn past_newer(&mut self, heartbeat: &mut tokio::time::Interval) -> Result<(), End> {
        if self.too_old() {
            return Ok(());
        }
        let head = self.service.desk.head().revision;
        self.snapshot(head, heartbeat).await
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
        let token = self.caller.token_id().to_owned();
        let made = async move {
            let permit = service.admission.seat(&token).await.ok();
            let made = service.snapshots.of(&service.desk, &scope, at_least).await;
            (permit, made)
        };
        tokio::pin!(made);
        let (permit, made): (Option<Seat>, _) = loop {
            tokio::select! {
                done = &mut made => break done,
                _ = heartbeat.tick() => {
                    // It hears of a head that it does not have yet; its age waits for it.
                    if let Some((head, echo)) = self.confirmed() {
                        self.beat(&head, echo).await?;
                    }
                }
            }
        };
        let encoded = made.map_err(failed)?;
        if self.format <= 1 && encoded.newer {
            return Ok(());
        }
        for bytes in &encoded.frames {
            self.send_within(bytes.clone(), SNAPSHOT_STALLED).await?;
        }
        drop(permit);
        self.service.metrics.snapshots_sent.add(1);
        self.advance(encoded.revision);
        Ok(())
    }

    async fn beat(&mut self, head: &Head, echo: u64) -> Result<(), End> {
        self.check_token()?;
        if self.too_old() {
            return Ok(());
        }
        // One that answers no pulse may not put off the first that does: until then a follower does
        // not know how old what it has is, and its gate is not ready.
        if echo > 0 {
            self.beaten = Some(Instant::now());
        }
        self.echoed = echo;
        self.send(frame::heartbeat(&head.mark, keepgate_observe::unix_ms(), echo)).await
    }

    /// A token revoked meanwhile ends the stream within a heartbeat.
    fn check_token(&self) -> Result<(), End> {
        if self.caller.still_good(&self.service.desk.head()) {
            Ok(())
        } else {
            Err(End::Status(Status::unauthenticated(
                "the token or certificate was revoked, or has expired",
            )))
        }
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), End> {
        self.send_within(bytes, STALLED).await
    }

    async fn send_within(&mut self, bytes: Bytes, patience: Duration) -> Result<(), End> {
        let deadline = Instant::now() + patience;
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
    End::Status(unreadable(refusal))
}

fn unreadable(refusal: crate::desk::Refusal) -> Status {
    tracing::error!(error = %keepgate_observe::chain(&refusal), "a follower could not be served");
    Status::unavailable("the center cannot read its store")
}

/// What a follower is told of a loss: that it is one, once a restart of the center would know it.
async fn loss(desk: &Desk) -> Status {
    let condition = desk.noted().await;
    let said = format!("{}: {}", condition.name(), condition.why());
    match condition {
        Condition::Losing(_) => Status::unavailable(said),
        _ => Status::failed_precondition(said),
    }
}

#[cfg(test)]
mod tests;
