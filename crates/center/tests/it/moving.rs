//! A store in a database: what makes it, moves it there and back, backs it up and restores it.

use keepgate_center::store::Address;
use keepgate_center::upkeep::{self, Place};

use crate::database::{shared, skipped, unique};
use crate::fixture::{Dir, Running, STAFF, chain, config};

/// Off the runtime, as the commands are.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_to_a_database_and_back() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    let url = cluster.url(&unique("moved"), "");
    let address = blocking(move || Address::parse(&url).unwrap()).await;
    let (dir, beside, back) = (Dir::new(), Dir::new(), Dir::new());
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.member("alice", "assign").await.good();
    let admin = center.admin.clone();
    center.stop().await;
    let database =
        Place::Database { address: Box::new(address.clone()), data: beside.path().to_owned() };
    let (from, to) = (Place::from(dir.path()), database.clone());
    let moved = blocking(move || upkeep::move_to(from, to, 9).unwrap()).await;
    // The old place serves nobody, and the new one what was there, to the same tokens.
    let error = keepgate_center::Center::start(config(&dir)).await.err().unwrap();
    assert!(chain(&error).contains("was moved to postgres://"), "{}", chain(&error));
    std::fs::create_dir_all(beside.path()).unwrap();
    std::fs::write(beside.path().join("admin.token"), &admin).unwrap();
    let mut on_database = config(&beside);
    on_database.database = Some(Box::new(address.clone()));
    let center = Running::with(on_database.clone()).await;
    assert!(center.allowed("alice").await);
    assert_eq!(center.revision().await, moved.revision.0);
    // A backup while it runs; what comes after it is listed by a restore, which refuses under a center.
    let file = beside.path().join("a.kgbackup");
    let (at, to) = (database.clone(), file.clone());
    blocking(move || upkeep::backup(at, &to, 5).unwrap()).await;
    center.member("alice", "revoke").await.good();
    let (at, of) = (database.clone(), file.clone());
    let said = blocking(move || upkeep::restore(at, &of).unwrap().commit(6).err().unwrap()).await;
    assert!(chain(&said).contains("nothing was changed"), "{}", chain(&said));
    assert!(!center.allowed("alice").await);
    let revoked = center.revision().await;
    center.stop().await;
    let (at, of) = (database.clone(), file.clone());
    let restored = blocking(move || {
        let prepared = upkeep::restore(at, &of).unwrap();
        assert!(prepared.is_older(), "what becomes permitted again is listed");
        prepared.commit(7).unwrap()
    })
    .await;
    assert!(restored.revision.0 > revoked);
    let center = Running::with(on_database.clone()).await;
    assert!(center.allowed("alice").await);
    // Nothing that serves may be moved.
    let (from, to) = (database.clone(), Place::from(back.path()));
    let said = blocking(move || upkeep::move_to(from, to, 8).err().unwrap()).await;
    assert!(chain(&said).contains("no center that runs"), "{}", chain(&said));
    center.stop().await;
    // And back.
    let (from, to) = (database, Place::from(back.path()));
    let returned = blocking(move || upkeep::move_to(from, to, 9).unwrap()).await;
    let error = keepgate_center::Center::start(on_database).await.err().unwrap();
    assert!(chain(&error).contains("was moved"), "{}", chain(&error));
    std::fs::write(back.path().join("admin.token"), &admin).unwrap();
    let center = Running::start(&back).await;
    assert!(center.allowed("alice").await);
    assert_eq!(center.revision().await, returned.revision.0);
    center.stop().await;
}

/// Centers that start at the same time on an empty database make it once, with one admin token; a data
/// directory with a store is not passed over.
#[tokio::test(flavor = "multi_thread")]
async fn centers_start_at_once_on_an_empty_database() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    let url = cluster.url(&unique("first"), "");
    let address = Box::new(blocking(move || Address::parse(&url).unwrap()).await);
    let dirs = [Dir::new(), Dir::new(), Dir::new()];
    let mut starts = tokio::task::JoinSet::new();
    for dir in &dirs {
        let mut own = config(dir);
        own.database = Some(address.clone());
        starts.spawn(keepgate_center::Center::start(own));
    }
    let centers: Vec<_> =
        starts.join_all().await.into_iter().map(|center| center.unwrap()).collect();
    let written: Vec<_> =
        dirs.iter().filter(|dir| dir.path().join("admin.token").exists()).collect();
    assert_eq!(written.len(), 1, "one admin token");
    assert_eq!(centers.iter().filter(|center| center.admin_token_file().is_some()).count(), 1);
    let asked = keepgate_api::NewAdminToken { note: "a test".to_owned(), expires_unix_s: None };
    let place = Place::Database { address: address.clone(), data: dirs[0].path().to_owned() };
    let made = keepgate_center::admin_token(place, &asked).await.unwrap();
    assert!(made.token.starts_with("kgt_"));
    drop(centers);
    let held = Dir::new();
    Running::start(&held).await.stop().await;
    let mut beside = config(&held);
    beside.database = Some(address);
    let error = chain(&keepgate_center::Center::start(beside).await.err().unwrap());
    assert!(error.contains("keepgate center move --from"), "{error}");
}
