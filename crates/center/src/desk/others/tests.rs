//! Several desks on one store: SQLite's, which says that it is shared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use keepgate_policy::model::{EntityBody, GrantBody, MemberBody};
use keepgate_policy::proto::follow_response::Response;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::wire::delta_from_proto;
use keepgate_policy::{Change, Item, ItemBody, ItemKey, Kind, Mark, Uid, World, proto};
use prost::Message as _;

use super::super::recent::Since;
use super::super::{
    Anew, Bulk, BulkPlanner, Desk, Edit, EditPlan, Outcome, Planner, Witness, Work,
};
use super::*;
use crate::store::{Retention, SqliteStore, Store, TokenRow};
use crate::token::Role;

mod seen;
use seen::{Fault, Seen};

/// The bound of every wait.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Center {
    pub(crate) seen: Arc<Seen>,
    pub(crate) desk: Arc<Desk>,
}

pub(crate) struct Place {
    dir: PathBuf,
    store: Arc<SqliteStore>,
    keep: Retention,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place::keeping(Retention::default())
    }

    fn keeping(keep: Retention) -> Place {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepgate-others-{}-{n}", std::process::id());
        // Thousands of commits would wait for a disk.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }.join(name);
        let _ = std::fs::remove_dir_all(&dir);
        let store = Arc::new(SqliteStore::open(&dir).unwrap());
        Place { dir, store, keep }
    }

    pub(crate) fn center(&self) -> Center {
        let seen = Seen::of(&self.store);
        let store: Arc<dyn Store> = Arc::clone(&seen) as Arc<dyn Store>;
        let desk = Arc::new(Desk::open(store, self.keep, Duration::ZERO).unwrap());
        Center { seen, desk }
    }

    fn head(&self) -> Revision {
        self.store.read().unwrap().head().unwrap()
    }

    /// Copies the store as it is now, for a center that is served by a standby which lags behind.
    fn copy(&self) -> (Arc<SqliteStore>, PathBuf) {
        self.store.settle().unwrap();
        let dir = self.dir.with_extension("copy");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(self.dir.join("center.db"), dir.join("center.db")).unwrap();
        std::fs::copy(self.dir.join("center.high"), dir.join("center.high")).unwrap();
        (Arc::new(SqliteStore::open_repair(&dir).unwrap().0), dir)
    }

    /// Each desk comes to hold what the store holds.
    async fn agree(&self, centers: &[Center]) {
        let (want, ..) = load(self.store.as_ref(), None).unwrap();
        for (n, center) in centers.iter().enumerate() {
            let desk = &center.desk;
            eventually("the head", || desk.head().revision == want.revision).await;
            let head = desk.head();
            assert_eq!(head.mark, want.mark, "center {n}");
            assert_eq!(head.world.revision(), want.revision);
            assert_eq!(head.world.digest(), want.world.digest(), "center {n}");
            assert_eq!(head.scopes, want.scopes, "center {n}");
            assert_eq!(head.services, want.services, "center {n}");
            assert_eq!(head.tokens, want.tokens, "center {n}");
            assert_eq!(head.sums, want.sums, "center {n}");
            assert_eq!(head.newer, want.newer, "center {n}");
            assert_eq!(head.authzen_together, want.authzen_together, "center {n}");
            assert_eq!(desk.condition(), Condition::Ready, "center {n}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Center {
    async fn land(&self, changes: Vec<Change>) -> Result<Outcome, Refusal> {
        self.land_as(changes, None).await
    }

    async fn land_as(
        &self,
        changes: Vec<Change>,
        write_id: Option<WriteId>,
    ) -> Result<Outcome, Refusal> {
        let plan: Planner = Box::new(move |_, _| Ok(EditPlan { changes, ..EditPlan::default() }));
        let actor = "t".to_owned();
        self.desk.edit(Edit { actor, action: "put", dry_run: false, write_id, plan }).await
    }

    pub(crate) async fn put(&self, items: Vec<Item>) -> Outcome {
        self.land(items.into_iter().map(Change::Put).collect()).await.unwrap()
    }

    pub(crate) async fn token(&self, row: TokenRow) -> Outcome {
        let plan: Planner =
            Box::new(move |_, _| Ok(EditPlan { tokens: vec![row], ..EditPlan::default() }));
        let actor = "t".to_owned();
        let edit = Edit { actor, action: "token", dry_run: false, write_id: None, plan };
        self.desk.edit(edit).await.unwrap()
    }

    async fn bulk(
        &self,
        items: Vec<Item>,
        write_id: Option<WriteId>,
        mut first: impl FnMut() + Send + 'static,
    ) -> Result<Outcome, Refusal> {
        let wanted: BTreeMap<ItemKey, Arc<Encoded>> =
            items.iter().map(|item| (item.key.clone(), Arc::new(Encoded::of(item)))).collect();
        let plan: BulkPlanner = Box::new(move |store, _| {
            let mut steps = Vec::new();
            for (key, item) in &wanted {
                steps.extend(Step::new(key, store.item(key)?.as_ref(), Some(item)));
            }
            first();
            Ok(steps.into())
        });
        let bulk = Bulk {
            actor: "t".to_owned(),
            action: "apply",
            dry_run: false,
            write_id,
            plan,
            work: Arc::new(Work::default()),
            anew: Anew::Far,
            place: Box::new(()),
        };
        self.desk.edit_bulk(bulk).await
    }
}

pub(crate) fn named(name: &str, help: u64) -> Item {
    let mut settings = ServiceSettings::named(name);
    settings.help = Some(format!("https://example.org/{help}"));
    Item::new(name, "", ItemBody::Service(Box::new(settings)))
}

pub(crate) fn entity(service: &str, id: u64, parents: &[u64]) -> Item {
    let body = EntityBody {
        uid: Uid::new("user", format!("u{id}")),
        attrs: Default::default(),
        parents: parents.iter().map(|n| Uid::role(&format!("r{n}"))).collect(),
        tags: Default::default(),
    };
    Item::new(service, "", ItemBody::Entity(body))
}

fn member(id: u64, role: u64, until_unix_s: Option<u64>) -> Item {
    let body = MemberBody {
        member: Uid::new("user", format!("u{id}")),
        role: Uid::role(&format!("r{role}")),
        source: String::new(),
        until_unix_s,
    };
    Item::new("", "", ItemBody::Member(body))
}

fn grant(service: &str, id: u64, until_unix_s: Option<u64>) -> Item {
    let body =
        GrantBody { principal: Uid::role("r1"), actions: Vec::new(), resource: None, until_unix_s };
    Item::new(service, &format!("g{id}"), ItemBody::Grant(body))
}

pub(crate) fn token(id: u64, revoked_unix_s: Option<u64>) -> TokenRow {
    TokenRow {
        id: format!("t{id}"),
        role: Role::Viewer,
        service: String::new(),
        sha256: [7; 32],
        note: String::new(),
        created_unix_s: 1,
        last_used_unix_s: None,
        last_used_from: String::new(),
        revoked_unix_s,
        expires_unix_s: None,
    }
}

/// A generator with a state of its own.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn item(&mut self) -> Item {
        let service = ["s", "t"][self.below(2) as usize];
        let until = (self.below(2) == 0).then_some(5_000_000_000);
        match self.below(8) {
            0 => member(self.below(6), self.below(3), until),
            1 => grant(service, self.below(4), until),
            2 => named(service, self.below(4)),
            3 => entity("", self.below(6), &[]),
            _ => entity(service, self.below(8), &[self.below(3)]),
        }
    }

    fn changes(&mut self) -> Vec<Change> {
        let many = 1 + self.below(4);
        (0..many)
            .map(|_| {
                let item = self.item();
                // Services stay, as nothing of them could land without.
                match self.below(3) == 0 && item.key.kind != Kind::Service {
                    true => Change::Delete(item.key),
                    false => Change::Put(item),
                }
            })
            .collect()
    }
}

/// A follower of a desk: takes what [`Recent::since`] gives, and holds it against the store.
struct Follower {
    world: World,
    at: Revision,
    deltas: usize,
    behind: usize,
    digests: usize,
}

impl Follower {
    fn new(center: &Center) -> Follower {
        let head = center.desk.head();
        let (world, at) = (head.world.clone(), head.revision);
        Follower { world, at, deltas: 0, behind: 0, digests: 0 }
    }

    fn follow(&mut self, center: &Center, store: &SqliteStore) {
        loop {
            let landed = match center.desk.recent().since(self.at, 64) {
                Since::Landed(landed) if landed.is_empty() => return,
                Since::Landed(landed) => landed,
                Since::Behind => {
                    // A snapshot, for this purpose.
                    let (head, ..) = load(store, None).unwrap();
                    assert!(head.revision > self.at);
                    (self.world, self.at) = (head.world, head.revision);
                    self.behind += 1;
                    continue;
                }
            };
            for landed in landed {
                let frame = landed.frame(&Scope::All).unwrap();
                let said = proto::FollowResponse::decode(frame).unwrap().response;
                let Some(Response::Delta(delta)) = said else { panic!("{said:?}") };
                let mark = Mark::from_proto(delta.mark.as_ref().unwrap()).unwrap();
                assert_eq!((delta.previous, mark.revision.0), (self.at.0, delta.revision));
                let jumped = store.read().unwrap().forks().unwrap();
                let jumped = jumped.iter().find(|fork| fork.at == self.at).map(|fork| fork.resumed);
                let next = jumped.unwrap_or(Revision(self.at.0 + 1));
                assert_eq!(delta.revision, next.0, "each revision, in order");
                assert!(center.desk.meta().sealed(&mark));
                let reading = store.read().unwrap();
                if let Some(row) = reading.revision(mark.revision).unwrap() {
                    assert_eq!(row.chain, mark.chain);
                }
                let delta = delta_from_proto(delta).unwrap();
                self.digests += usize::from(delta.digest.is_some());
                // It checks the digest, where there is one.
                self.world = self.world.apply(&delta).unwrap();
                self.at = delta.revision;
                self.deltas += 1;
            }
        }
    }
}

/// Random edits at three centers at once: afterwards each holds what the store holds, and followers
/// of each have seen each revision in order, with its mark.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_desks_agree() {
    for seed in 1..=3_u64 {
        let place = Place::new();
        let centers: Arc<Vec<Center>> = Arc::new((0..3).map(|_| place.center()).collect());
        centers[0].put(vec![named("s", 0), named("t", 0)]).await;
        place.agree(&centers).await;
        centers[2].seen.deaf.store(true, Ordering::SeqCst);
        let done = Arc::new(AtomicBool::new(false));
        let following: Vec<_> = (0..3)
            .map(|n| {
                let (centers, done) = (Arc::clone(&centers), Arc::clone(&done));
                let store = Arc::clone(&place.store);
                let mut follower = Follower::new(&centers[n]);
                tokio::spawn(async move {
                    while !done.load(Ordering::SeqCst) {
                        follower.follow(&centers[n], &store);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    follower.follow(&centers[n], &store);
                    follower
                })
            })
            .collect();
        let editing: Vec<_> = (0..3_u64)
            .map(|n| {
                let centers = Arc::clone(&centers);
                let mut random = Random(seed << 8 | (n + 1));
                tokio::spawn(async move {
                    let center = &centers[n as usize];
                    for _ in 0..60 {
                        if random.below(6) == 0 {
                            let revoked = (random.below(2) == 0).then_some(5);
                            center.token(token(random.below(5), revoked)).await;
                        } else if random.below(6) == 0 {
                            let items = (0..20).map(|_| random.item()).collect();
                            center.bulk(items, None, || {}).await.unwrap();
                        } else {
                            center.land(random.changes()).await.unwrap();
                        }
                    }
                })
            })
            .collect();
        for task in editing {
            task.await.unwrap();
        }
        place.agree(&centers).await;
        done.store(true, Ordering::SeqCst);
        for task in following {
            let follower = task.await.unwrap();
            let head = centers[0].desk.head();
            assert_eq!(
                (follower.at, follower.world.digest()),
                (head.revision, head.world.digest())
            );
            assert_eq!(follower.behind, 0);
            assert!(follower.deltas > 100 && follower.digests > 2, "{}", follower.deltas);
        }
        for center in &*centers {
            center.desk.close().unwrap();
        }
    }
}

/// An edit at one center rests on what another landed, at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_rests_on_what_others_landed() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    centers.iter().for_each(|center| center.seen.deaf.store(true, Ordering::SeqCst));
    centers[0].put(vec![named("s", 0)]).await;
    for n in 0..20_u64 {
        let (one, other) = (&centers[n as usize % 2], &centers[(n as usize + 1) % 2]);
        let revision = one.put(vec![entity("s", n, &[])]).await.revision;
        assert_eq!(other.put(vec![member(n, 0, None)]).await.revision.0, revision.0 + 1);
        assert!(other.desk.head().world.held(&entity("s", n, &[]).key).is_some());
    }
    place.agree(&centers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_elsewhere_ends_here() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    centers[0].token(token(1, None)).await;
    let good = |center: &Center| center.desk.head().tokens.get("t1").map(|row| row.is_good(1));
    eventually("the token", || good(&centers[1]) == Some(true)).await;
    centers[0].token(token(1, Some(2))).await;
    eventually("its end", || good(&centers[1]) == Some(false)).await;
    place.agree(&centers).await;
}

/// What is not kept row by row any more, or never was, is read as a whole; followers get a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_too_far_behind_reads_all() {
    let place = Place::keeping(Retention { revisions: 5, ..Retention::default() });
    let centers = [place.center(), place.center()];
    centers[0].put(vec![named("s", 0)]).await;
    place.agree(&centers).await;
    let mut follower = Follower::new(&centers[1]);
    centers[1].seen.set_away(true);
    for n in 0..20 {
        centers[0].put(vec![entity("s", n, &[])]).await;
    }
    assert!(
        matches!(centers[1].desk.recent().since(follower.at, 64), Since::Landed(l) if l.is_empty())
    );
    centers[1].seen.set_away(false);
    place.agree_but_for_condition(&centers).await;
    assert!(matches!(centers[1].desk.recent().since(follower.at, 64), Since::Behind));
    follower.follow(&centers[1], &place.store);
    assert_eq!((follower.behind, follower.at), (1, place.head()));
    // From there on revision by revision again.
    centers[0].put(vec![entity("s", 50, &[])]).await;
    place.agree_but_for_condition(&centers).await;
    follower.follow(&centers[1], &place.store);
    assert_eq!((follower.behind, follower.deltas, follower.at), (1, 1, place.head()));
    // One revision of more changes than are kept as rows; the other lands an edit on top of it.
    let many = (0..10_001).map(|n| entity("s", 100 + n, &[])).collect();
    centers[0].bulk(many, None, || {}).await.unwrap();
    centers[1].put(vec![entity("s", 51, &[])]).await;
    place.agree_but_for_condition(&centers).await;
    follower.follow(&centers[1], &place.store);
    assert_eq!(follower.at, place.head());
    assert_eq!(follower.behind, 2);
}

impl Place {
    /// The same as [`Place::agree`], where a center was away: it says so until its next probe.
    async fn agree_but_for_condition(&self, centers: &[Center]) {
        for center in centers {
            eventually("readiness", || center.desk.condition() == Condition::Ready).await;
        }
        self.agree(centers).await;
    }
}

/// An edit of many items is worked out at one center while others land small ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_items_beside_small_edits_of_two_centers() {
    let place = Place::new();
    let centers = Arc::new([place.center(), place.center()]);
    centers[0].put(vec![named("s", 0), entity("s", 1, &[1]), entity("s", 2, &[])]).await;
    let handle = tokio::runtime::Handle::current();
    let others = Arc::clone(&centers);
    let mut planned = 0;
    let meanwhile = move || {
        planned += 1;
        assert_eq!(planned, 1);
        // The one is deleted and stays deleted; the other is put by both.
        let change = vec![Change::Delete(entity("s", 1, &[]).key)];
        handle.block_on(others[0].land(change)).unwrap();
        handle.block_on(others[1].put(vec![entity("s", 3, &[2])]));
    };
    let wanted: Vec<Item> = (1..200).map(|n| entity("s", n, &[0])).collect();
    let outcome = centers[1].bulk(wanted, None, meanwhile).await.unwrap();
    assert_eq!(outcome.kept, [entity("s", 1, &[]).key, entity("s", 3, &[]).key]);
    assert!(centers[1].desk.head().world.held(&entity("s", 1, &[]).key).is_none());
    assert!(centers[1].desk.head().world.held(&entity("s", 150, &[]).key).is_some());
    place.agree(&*centers).await;
}

/// A commit of unknown outcome is looked up: it is acknowledged if it happened, and else refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_unknown_outcome_is_looked_up() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    centers[0].put(vec![named("s", 0)]).await;
    let arm = |stored, away| *centers[0].seen.fault.lock().unwrap() = Some(Fault { stored, away });
    arm(true, false);
    let revision = centers[0].put(vec![entity("s", 1, &[])]).await.revision;
    assert_eq!((revision, centers[0].desk.head().revision), (place.head(), place.head()));
    arm(false, false);
    let refused = centers[0].land(vec![Change::Put(entity("s", 2, &[]))]).await;
    assert!(matches!(&refused, Err(Refusal::Undone(why)) if why.contains("COMMIT")), "{refused:?}");
    assert_eq!(place.head(), revision);
    assert_eq!(centers[0].put(vec![entity("s", 2, &[])]).await.revision.0, revision.0 + 1);
    // The same of an edit of many items.
    arm(true, false);
    let many = (10..300).map(|n| entity("s", n, &[])).collect();
    let landed = centers[0].bulk(many, None, || {}).await.unwrap();
    assert_eq!((landed.revision, landed.counts.created), (place.head(), 290));
    place.agree(&centers).await;
}

/// Where it cannot be looked up it stays unknown; nothing is guessed. Sent again, it lands once.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_looked_up_stays_unknown() {
    for stored in [true, false] {
        let place = Place::new();
        let centers = [place.center(), place.center()];
        centers[0].put(vec![named("s", 0)]).await;
        let before = place.head();
        let id: WriteId = [9; 16];
        *centers[0].seen.fault.lock().unwrap() = Some(Fault { stored, away: true });
        let wanted = || vec![Change::Put(entity("s", 1, &[]))];
        let refused = centers[0].land_as(wanted(), Some(id)).await;
        let is_unknown = |refusal: &Refusal| matches!(refusal, Refusal::OutcomeUnknown { write_id } if *write_id == id);
        assert!(is_unknown(&refused.unwrap_err()));
        assert!(is_unknown(&centers[0].desk.written(id).await.unwrap_err()));
        assert!(matches!(centers[0].desk.condition(), Condition::Stopped(_)));
        let away = centers[0].land(wanted()).await;
        assert!(
            matches!(&away, Err(Refusal::Stopped(why)) if why.contains("try again")),
            "{away:?}"
        );
        let away = centers[0].desk.read(|store| Ok(store.head()?)).await;
        assert!(matches!(away, Err(Refusal::Stopped(_))), "{away:?}");
        assert_eq!(place.head().0, before.0 + u64::from(stored));
        // Another center can tell.
        let told = centers[1].desk.written(id).await.unwrap();
        assert_eq!(matches!(told, Written::Landed { .. }), stored, "{told:?}");
        centers[0].seen.set_away(false);
        eventually("readiness", || centers[0].desk.condition() == Condition::Ready).await;
        assert_eq!(centers[0].desk.written(id).await.unwrap(), told);
        for center in [&centers[1], &centers[0]] {
            let again = center.land_as(wanted(), Some(id)).await.unwrap();
            assert_eq!(again.revision.0, before.0 + 1);
            assert_eq!(again.replayed, stored || std::ptr::eq(center, &centers[0]));
        }
        assert_eq!(place.head().0, before.0 + 1);
        place.agree(&centers).await;
    }
}

/// A write of the same id is made once, whatever it says and wherever it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_the_same_id_is_made_once() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    centers[0].put(vec![named("s", 0)]).await;
    let first = centers[0].land_as(vec![Change::Put(entity("s", 1, &[]))], Some([1; 16])).await;
    let first = first.unwrap();
    assert!(!first.replayed && first.counts.created == 1);
    let other = centers[1].land_as(vec![Change::Put(entity("s", 2, &[]))], Some([1; 16])).await;
    let other = other.unwrap();
    assert_eq!((other.replayed, other.revision, other.counts.all()), (true, first.revision, 0));
    let many = || (10..300).map(|n| entity("s", n, &[])).collect::<Vec<Item>>();
    let first = centers[0].bulk(many(), Some([2; 16]), || {}).await.unwrap();
    let other = centers[1].bulk(many(), Some([2; 16]), || panic!("planned")).await.unwrap();
    assert_eq!((other.replayed, other.revision), (true, first.revision));
    // At the same time, too.
    let both = (0..8)
        .map(|n| centers[n % 2].land_as(vec![Change::Put(entity("s", 1_000, &[]))], Some([3; 16])));
    let both = futures_util::future::join_all(both).await;
    let landed: Vec<Outcome> = both.into_iter().map(Result::unwrap).collect();
    assert_eq!(landed.iter().filter(|outcome| !outcome.replayed).count(), 1);
    assert!(landed.iter().all(|outcome| outcome.revision.0 == first.revision.0 + 1));
    assert_eq!(
        centers[1].desk.written([4; 16]).await.unwrap(),
        Written::Absent { kept_since_unix_ms: None }
    );
    place.agree(&centers).await;
}

/// A center that finds in the store that the history is lost stops as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_another_center_wrote_down_stops_this_one() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    centers[0].put(vec![named("s", 0)]).await;
    place.agree(&centers).await;
    let ahead = centers[0].desk.meta().mark(Revision(place.head().0 + 3), [1; 32]);
    let said = centers[0].desk.witness(&ahead.to_proto()).await.unwrap();
    assert!(matches!(said, Witness::Contradiction(_)));
    for center in &centers {
        let is_lost = || matches!(center.desk.condition(), Condition::Lost(_));
        eventually("the loss", is_lost).await;
        let refused = center.land(vec![Change::Put(entity("s", 1, &[]))]).await;
        assert!(matches!(refused, Err(Refusal::Lost(_))), "{refused:?}");
        assert!(center.desk.confirmed().is_none());
    }
}

/// A witness of a revision that another center has just told is none of a loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_of_what_another_center_told_is_on_the_line() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    centers[1].seen.deaf.store(true, Ordering::SeqCst);
    centers[0].put(vec![named("s", 0)]).await;
    for n in 0..30 {
        centers[0].put(vec![entity("s", n, &[])]).await;
        let mark = centers[0].desk.head().mark;
        let said = centers[1].desk.witness(&mark.to_proto()).await.unwrap();
        assert_eq!(said, Witness::OnLine);
        assert!(centers[1].desk.head().revision >= mark.revision);
    }
    place.agree(&centers).await;
}

/// What may be called current up to a time has all that any center acknowledged before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_head_has_what_others_acknowledged() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    centers[1].seen.deaf.store(true, Ordering::SeqCst);
    centers[0].put(vec![named("s", 0)]).await;
    for n in 0..6 {
        let revision = centers[0].put(vec![entity("s", n, &[])]).await.revision;
        let acknowledged = Instant::now();
        let confirmed = || {
            let confirmed = centers[1].desk.confirmed()?;
            (confirmed.until.unwrap() >= acknowledged).then_some(confirmed.head)
        };
        eventually("a look", || confirmed().is_some()).await;
        assert!(confirmed().unwrap().revision >= revision);
    }
    // A head that cannot be read is not current, though the store is in its place.
    centers[1].seen.set_away(true);
    eventually("doubt", || centers[1].desk.confirmed().is_none()).await;
    centers[1].seen.set_away(false);
    eventually("confirmation", || centers[1].desk.confirmed().is_some()).await;
}

/// A store that lacks what was told, or has something else under its number, is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lacks_what_was_told_is_lost() {
    for (again, timeline) in [(false, ""), (true, ""), (true, "7/2")] {
        let place = Place::new();
        let centers = [place.center(), place.center()];
        if !timeline.is_empty() {
            "7/1".clone_into(&mut centers[0].seen.timeline.lock().unwrap());
        }
        centers[0].put(vec![named("s", 0)]).await;
        let (copy, dir) = place.copy();
        centers[0].put(vec![entity("s", 1, &[])]).await;
        place.agree(&centers).await;
        if again {
            // There the number is given out again, or the line has jumped over it.
            let seen = Seen::of(&copy);
            timeline.clone_into(&mut seen.timeline.lock().unwrap());
            let desk = Desk::open(seen, place.keep, Duration::ZERO).unwrap();
            let plan: Planner = Box::new(|_, _| {
                let changes = vec![Change::Put(entity("s", 2, &[]))];
                Ok(EditPlan { changes, ..EditPlan::default() })
            });
            let actor = "t".to_owned();
            let edit = Edit { actor, action: "put", dry_run: false, write_id: None, plan };
            let landed = desk.edit(edit).await.unwrap().revision;
            assert_eq!(landed > place.head(), !timeline.is_empty());
            desk.close().unwrap();
        }
        assert!(centers[1].seen.standby.set(copy).is_ok());
        let is_lost = || matches!(centers[1].desk.condition(), Condition::Lost(_));
        eventually("the loss", is_lost).await;
        let refused = centers[1].land(vec![Change::Put(entity("s", 3, &[]))]).await;
        assert!(matches!(refused, Err(Refusal::Lost(_))), "{refused:?}");
        assert_eq!(centers[0].desk.condition(), Condition::Ready);
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Another server goes on with the database: its revisions are not those that the one before it may
/// have told.
#[tokio::test(flavor = "multi_thread")]
async fn another_timeline_is_a_fork() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    let serve = |timeline: &str| {
        for center in &centers {
            timeline.clone_into(&mut center.seen.timeline.lock().unwrap());
        }
    };
    let forks = || place.store.read().unwrap().forks().unwrap();
    let timeline = || place.store.read().unwrap().meta().unwrap().timeline;
    centers[0].put(vec![named("s", 0)]).await;
    // The first that is known is none.
    serve("7/1");
    let at = centers[0].put(vec![entity("s", 1, &[])]).await.revision;
    assert_eq!((timeline().as_str(), forks()), ("7/1", vec![]));
    place.agree(&centers).await;
    let lost = centers[0].desk.meta().mark(Revision(at.0 + 1), [1; 32]);
    let mut followers = [Follower::new(&centers[0]), Follower::new(&centers[1])];
    serve("7/2");
    // A refused edit leaves nothing of it.
    let orphan = entity("nowhere", 1, &[]);
    assert!(centers[0].land(vec![Change::Put(orphan)]).await.is_err());
    assert_eq!((timeline().as_str(), forks()), ("7/1", vec![]));
    let outcome = centers[0].bulk(vec![entity("s", 2, &[])], None, || {}).await.unwrap();
    let resumed = Revision(at.0 + SUCCESSOR_GAP);
    assert_eq!((outcome.revision, place.head()), (resumed, resumed));
    assert_eq!((timeline().as_str(), forks()), ("7/2", vec![Fork { at, resumed }]));
    assert_eq!(centers[1].put(vec![entity("s", 3, &[])]).await.revision.0, resumed.0 + 1);
    place.agree(&centers).await;
    for (follower, center) in followers.iter_mut().zip(&centers) {
        follower.follow(center, &place.store);
        assert_eq!((follower.at, follower.world.digest()), {
            let head = center.desk.head();
            (head.revision, head.world.digest())
        });
    }
    // The center that made the jump has the delta over it; the other read all anew.
    assert_eq!((followers[0].behind, followers[0].deltas), (0, 2));
    assert_eq!(followers[1].behind, 1);
    serve("7/3");
    let again = centers[1].put(vec![entity("s", 4, &[])]).await.revision;
    assert_eq!(again.0, resumed.0 + 1 + SUCCESSOR_GAP);
    place.agree(&centers).await;
    // What was told between is lost, and both know it.
    for center in &centers {
        let said = center.desk.witness(&lost.to_proto()).await.unwrap();
        assert!(matches!(said, Witness::Contradiction(_)), "{said:?}");
    }
}

/// Revisions that jump: a follower before the jump gets the one after it.
#[test]
fn revisions_may_jump() {
    let mark = |revision| Mark {
        history: keepgate_policy::HistoryId([1; 16]),
        revision: Revision(revision),
        chain: [0; 32],
        seal: [0; 16],
    };
    let recent = super::super::Recent::new(Revision(4));
    for (previous, revision) in [(4, 5), (5, 1_000), (1_000, 1_001)] {
        recent.push(Landed::new(Revision(previous), mark(revision), &[], Arc::default()));
    }
    let since = |position| match recent.since(Revision(position), 2) {
        Since::Landed(landed) => Some(landed.iter().map(|l| l.revision.0).collect::<Vec<_>>()),
        Since::Behind => None,
    };
    assert_eq!(since(4), Some(vec![5, 1_000]));
    assert_eq!(since(5), Some(vec![1_000, 1_001]));
    assert_eq!(since(1_000), Some(vec![1_001]));
    assert_eq!((since(1_001), since(2_000)), (Some(vec![]), Some(vec![])));
    assert_eq!((since(3), since(6), since(999)), (None, None, None));
    recent.restart(Revision(5_000));
    assert_eq!((since(1_001), since(5_000)), (None, Some(vec![])));
}
