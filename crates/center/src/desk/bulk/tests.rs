//! Edits that land while another is worked out: the planner itself lands them, so each order is
//! the one that the test says.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use keepgate_policy::model::{EntityBody, GrantBody, LinkBody, MemberBody, PolicyBody, SchemaBody};
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Encoded, ItemBody, Uid};

use super::super::{Desk, Edit, EditPlan};
use super::*;
use crate::store::{Retention, SqliteStore};

struct Place {
    dir: PathBuf,
    desk: Arc<Desk>,
}

impl Place {
    fn new() -> Place {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepgate-bulk-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        let desk = Arc::new(open(&dir));
        Place { dir, desk }
    }

    async fn put(&self, items: Vec<Item>) {
        land(&self.desk, items.into_iter().map(Change::Put).collect()).await.unwrap();
    }

    async fn has(&self, key: &ItemKey) -> bool {
        let key = key.clone();
        self.desk.read(move |store| Ok(store.item(&key)?.is_some())).await.unwrap()
    }

    /// Lands items as one bulk edit; `first` and `later` land while it is planned.
    async fn bulk(
        &self,
        items: Vec<Item>,
        meanwhile: Vec<Vec<Change>>,
    ) -> (Result<Outcome, Refusal>, usize) {
        let planned = Arc::new(AtomicUsize::new(0));
        let handle = tokio::runtime::Handle::current();
        let wanted: Vec<Arc<Encoded>> =
            items.iter().map(|item| Arc::new(Encoded::of(item))).collect();
        let mut meanwhile = meanwhile.into_iter();
        let (desk, counted) = (Arc::clone(&self.desk), Arc::clone(&planned));
        let plan: BulkPlanner = Box::new(move |store, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut steps = Vec::new();
            for item in &wanted {
                steps.extend(Step::new(&item.key, store.item(&item.key)?.as_ref(), Some(item)));
            }
            steps.sort_by(|a, b| a.key.cmp(&b.key));
            if let Some(changes) = meanwhile.next() {
                handle.block_on(land(&desk, changes)).unwrap();
            }
            Ok(steps.into())
        });
        let work = Arc::new(Work::default());
        let bulk = Bulk {
            actor: "t".to_owned(),
            action: "apply",
            dry_run: false,
            write_id: None,
            plan,
            work,
            anew: Anew::Far,
            place: Box::new(()),
        };
        (self.desk.edit_bulk(bulk).await, planned.load(Ordering::Relaxed))
    }

    /// Opens the store anew: that holds the items against their digests.
    fn reopened(self) {
        self.desk.close().unwrap();
        let (revision, digest) = (self.desk.head().revision, self.desk.head().world.digest());
        drop(self.desk);
        let desk = open(&self.dir);
        assert_eq!(desk.head().revision, revision);
        assert_eq!(desk.head().world.digest(), digest);
        desk.close().unwrap();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn open(dir: &Path) -> Desk {
    let store = Arc::new(SqliteStore::open(dir).unwrap());
    Desk::open(store, Retention::default(), std::time::Duration::ZERO).unwrap()
}

async fn land(desk: &Desk, changes: Vec<Change>) -> Result<Outcome, Refusal> {
    let plan: super::super::Planner =
        Box::new(move |_, _| Ok(EditPlan { changes, ..EditPlan::default() }));
    desk.edit(Edit { actor: "t".to_owned(), action: "put", dry_run: false, write_id: None, plan })
        .await
}

fn service() -> Item {
    Item::new("s", "", ItemBody::Service(Box::new(ServiceSettings::named("s"))))
}

fn entity(id: &str, parents: &[&str]) -> Item {
    let body = EntityBody {
        uid: Uid::new("user", id),
        attrs: Default::default(),
        parents: parents.iter().map(|role| Uid::role(role)).collect(),
        tags: Default::default(),
    };
    Item::new("s", "", ItemBody::Entity(body))
}

fn policy(id: &str, text: &str) -> Item {
    let body = PolicyBody { text: text.to_owned(), file: String::new() };
    Item::new("s", id, ItemBody::Policy(body))
}

fn member(member: &str, role: &str) -> Item {
    let body = MemberBody {
        member: Uid::role(member),
        role: Uid::role(role),
        source: String::new(),
        until_unix_s: None,
    };
    Item::new("", "", ItemBody::Member(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_meanwhile_stays() {
    let place = Place::new();
    place.put(vec![service(), entity("alice", &[]), entity("bob", &["reader"])]).await;
    let (alice, bob) = (entity("alice", &["admin"]), entity("bob", &["reader", "admin"]));
    let revoked = vec![Change::Delete(alice.key.clone()), Change::Put(entity("bob", &[]))];
    let wanted = vec![alice.clone(), bob.clone(), entity("carol", &["admin"])];
    let (outcome, planned) = place.bulk(wanted, vec![revoked]).await;
    let outcome = outcome.unwrap();
    assert_eq!((planned, outcome.counts.created, outcome.counts.updated), (1, 1, 0));
    assert_eq!(outcome.kept, [alice.key.clone(), bob.key.clone()]);
    assert!(!place.has(&alice.key).await);
    assert!(place.has(&entity("carol", &[]).key).await);
    assert!(!place.desk.head().world.digest().0.iter().all(|lane| *lane == 0));
    place.reopened();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_made_meanwhile_stays() {
    let place = Place::new();
    place.put(vec![service()]).await;
    let forbid = policy("stop", "forbid (principal, action, resource);");
    let wanted = vec![policy("go", "permit (principal, action, resource);")];
    let (outcome, planned) =
        place.bulk(wanted.clone(), vec![vec![Change::Put(forbid.clone())]]).await;
    assert_eq!((planned, outcome.unwrap().kept.len()), (1, 0));
    assert!(place.has(&forbid.key).await && place.has(&wanted[0].key).await);
    place.reopened();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_from_two_sides_is_no_conflict() {
    let place = Place::new();
    place.put(vec![service()]).await;
    let wanted = vec![entity("alice", &["admin"])];
    let same = vec![Change::Put(entity("alice", &["admin"]))];
    let (outcome, _) = place.bulk(wanted, vec![same]).await;
    let outcome = outcome.unwrap();
    assert_eq!((outcome.counts.all(), outcome.kept.len()), (0, 0));
    place.reopened();
}

/// What is valid alone and not together is planned anew, and then refused.
#[tokio::test(flavor = "multi_thread")]
async fn two_edits_that_do_not_go_together() {
    let grant = |id: &str| {
        let body = GrantBody {
            principal: Uid::role("r"),
            actions: Vec::new(),
            resource: None,
            until_unix_s: None,
        };
        Item::new("s", id, ItemBody::Grant(body))
    };
    let link =
        LinkBody { template: "t".to_owned(), principal: Some(Uid::role("r")), resource: None };
    let template = "permit (principal in ?principal, action, resource);";
    let template = PolicyBody { text: template.to_owned(), file: String::new() };
    let template = Item::new("s", "t", ItemBody::Template(template));
    let schema =
        |text: &str| Item::new("s", "", ItemBody::Schema(SchemaBody { text: text.into() }));
    for (before, wanted, meanwhile, message) in [
        (
            vec![],
            policy("same", "permit (principal, action, resource);"),
            Change::Put(grant("same")),
            "there is a policy of this id already",
        ),
        (vec![], member("a", "b"), Change::Put(member("b", "a")), "membership forms a cycle"),
        (
            vec![template.clone()],
            Item::new("s", "l", ItemBody::Link(link)),
            Change::Delete(template.key.clone()),
            "there is no template `t`",
        ),
        (
            vec![],
            entity("alice", &[]),
            Change::Put(schema(
                "entity role; action read appliesTo { principal: role, resource: role };",
            )),
            "user",
        ),
        (vec![], entity("alice", &[]), Change::Delete(service().key), "there is no service `s`"),
    ] {
        let place = Place::new();
        place.put([vec![service()], before].concat()).await;
        let (outcome, planned) = place.bulk(vec![wanted.clone()], vec![vec![meanwhile]]).await;
        match outcome {
            Err(Refusal::Invalid(problems)) => {
                assert!(problems.iter().any(|p| p.message.contains(message)), "{problems:?}");
            }
            other => panic!("{message}: {other:?}"),
        }
        assert_eq!(planned, 2, "{message}");
        assert!(!place.has(&wanted.key).await);
        place.reopened();
    }
}

/// Others may change what it rests on again and again: at last the writer plans it.
#[tokio::test(flavor = "multi_thread")]
async fn it_lands_at_last() {
    let place = Place::new();
    place.put(vec![service()]).await;
    let settings = |n: usize| {
        let mut settings = ServiceSettings::named("s");
        settings.help = Some(format!("https://example.org/{n}"));
        vec![Change::Put(Item::new("s", "", ItemBody::Service(Box::new(settings))))]
    };
    let (outcome, planned) =
        place.bulk(vec![entity("alice", &[])], (0..ATTEMPTS).map(settings).collect()).await;
    assert_eq!((outcome.unwrap().counts.created, planned), (1, ATTEMPTS + 1));
    place.reopened();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_does_not_land() {
    let place = Place::new();
    place.put(vec![service()]).await;
    let before = place.desk.head().revision;
    let work = Arc::new(Work::default());
    let given_up = Arc::clone(&work);
    let item = Arc::new(Encoded::of(&entity("alice", &[])));
    let plan: BulkPlanner = Box::new(move |_, _| {
        given_up.give_up();
        Ok(Step::new(&item.key, None, Some(&item)).into_iter().collect::<Vec<_>>().into())
    });
    let bulk = Bulk {
        actor: "t".to_owned(),
        action: "apply",
        dry_run: false,
        write_id: None,
        plan,
        work,
        anew: Anew::Far,
        place: Box::new(()),
    };
    assert!(matches!(place.desk.edit_bulk(bulk).await, Err(Refusal::Gone)));
    assert_eq!(place.desk.head().revision, before);
    place.reopened();
}

/// Random items, random edits meanwhile: what others did stands, what only the edit touches is as
/// it says, and the store agrees with the world.
#[tokio::test(flavor = "multi_thread")]
async fn random_edits_meanwhile() {
    let mut seed: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let place = Place::new();
    place.put(vec![service()]).await;
    for _ in 0..40 {
        let role = |n: u64| format!("r{n}");
        let mut one = |of: u64| entity(&format!("u{}", random(of)), &[&role(random(3))]);
        let wanted: std::collections::BTreeMap<ItemKey, Item> =
            (0..12).map(|_| one(20)).map(|item| (item.key.clone(), item)).collect();
        let meanwhile: Vec<Change> = (0..4)
            .map(|n| {
                let item = one(20);
                if n % 2 == 0 { Change::Put(item) } else { Change::Delete(item.key) }
            })
            .collect();
        let before = place.desk.head();
        let (outcome, _) =
            place.bulk(wanted.values().cloned().collect(), vec![meanwhile.clone()]).await;
        let outcome = outcome.unwrap();
        let last: std::collections::BTreeMap<ItemKey, Option<Item>> = meanwhile
            .into_iter()
            .map(|change| match change {
                Change::Put(item) => (item.key.clone(), Some(item)),
                Change::Delete(key) => (key, None),
            })
            .collect();
        for (key, item) in &last {
            let row = {
                let key = key.clone();
                place.desk.read(move |store| Ok(store.item(&key)?)).await.unwrap()
            };
            // An edit that changed nothing is none: then the bulk edit's word counts.
            if row.as_ref().is_some_and(|row| row.revision <= before.revision)
                || wanted
                    .get(key)
                    .is_some_and(|w| row.as_ref().is_some_and(|r| r.body == w.encode()))
            {
                continue;
            }
            assert_eq!(row.map(|row| row.body), item.as_ref().map(Item::encode), "{key}");
        }
        for key in &outcome.kept {
            assert!(last.contains_key(key), "{key}");
        }
        for (key, item) in wanted.iter().filter(|(key, _)| !last.contains_key(*key)) {
            let key = key.clone();
            let row = place.desk.read(move |store| Ok(store.item(&key)?)).await.unwrap();
            assert_eq!(row.map(|row| row.body), Some(item.encode()));
        }
    }
    place.reopened();
}
