//! What was acknowledged stays, or the center says so: every row of the start table, files taken
//! away beneath a running center, bit flips, witnesses, and the ways out.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use keepgate_center::{Center, upkeep};
use serde_json::{Value, json};

use crate::fixture::{Dir, Held, Raw, Running, STAFF, chain, config};

/// The error of a start that must be refused, with what every refusal must name.
async fn refused(dir: &Dir, fault: &str, file: &str) -> String {
    let error = match Center::start(config(dir)).await {
        Ok(_) => panic!("started in spite of: {fault}"),
        Err(error) => chain(&error),
    };
    let path = dir.path().join(file).display().to_string();
    assert!(error.contains(fault), "{error}");
    assert!(error.contains(&path), "does not name the file: {error}");
    assert!(error.contains("expected") && error.contains("found"), "{error}");
    assert!(error.contains("keepgate center "), "does not name a way out: {error}");
    error
}

/// A service with staff, and some revisions.
async fn furnish(center: &Running, members: usize) {
    center.service("orders", &[("staff", STAFF)]).await;
    for n in 0..members {
        center.member(&format!("u{n}"), "assign").await.good();
    }
}

/// The bytes of the database and its log, to be put back in place (the inodes stay).
struct Bytes {
    dir: PathBuf,
    database: Vec<u8>,
    log: Option<Vec<u8>>,
    high: Vec<u8>,
}

impl Bytes {
    fn of(dir: &Dir) -> Bytes {
        let read = |name: &str| std::fs::read(dir.path().join(name));
        Bytes {
            dir: dir.path().to_owned(),
            database: read("center.db").unwrap(),
            log: read("center.db-wal").ok().filter(|log| !log.is_empty()),
            high: read("center.high").unwrap(),
        }
    }

    /// As a kill would have left it.
    fn put_back(&self) {
        overwrite(&self.dir.join("center.db"), &self.database);
        let log = self.dir.join("center.db-wal");
        match &self.log {
            Some(bytes) => std::fs::write(&log, bytes).unwrap(),
            None => {
                let _ = std::fs::remove_file(&log);
            }
        }
        let _ = std::fs::remove_file(self.dir.join("center.db-shm"));
    }
}

/// The file stays the same file.
fn overwrite(path: &Path, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

#[tokio::test]
async fn a_log_that_lost_acknowledged_revisions_is_refused() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 30).await;
    let revision = center.revision().await;
    // As a kill leaves it: the log not brought into the database.
    let killed = Bytes::of(&dir);
    center.stop().await;
    let log = killed.log.clone().expect("a running center has a log");
    let wal = dir.path().join("center.db-wal");
    killed.put_back();
    let center = Running::start(&dir).await;
    assert_eq!(center.revision().await, revision, "a kill loses nothing");
    center.stop().await;
    let flipped = |at: usize| {
        let mut log = log.clone();
        log[at] ^= 0x10;
        log
    };
    let zeroed = {
        let mut log = log.clone();
        let from = log.len() - 8192;
        log[from..].fill(0);
        log
    };
    for (name, bytes) in [
        ("a bit in the middle", Some(flipped(log.len() / 2))),
        ("a bit in the header", Some(flipped(5))),
        ("cut in half", Some(log[..log.len() / 2].to_vec())),
        ("the last 8 KiB are zeros", Some(zeroed)),
        ("empty", Some(Vec::new())),
        ("deleted", None),
    ] {
        killed.put_back();
        match bytes {
            Some(bytes) => std::fs::write(&wal, bytes).unwrap(),
            None => std::fs::remove_file(&wal).unwrap(),
        }
        let error = refused(&dir, "acknowledged state is lost", "center.db").await;
        assert!(error.contains("accept-loss"), "{name}: {error}");
        if error.contains("found revision") {
            let expected = format!("expected revision {revision}, which was acknowledged");
            assert!(error.contains(&expected), "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn a_missing_or_empty_database_is_no_first_start() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 1).await;
    center.stop().await;
    let token = dir.path().join("admin.token");
    let before = std::fs::read(&token).unwrap();
    let database = dir.path().join("center.db");
    let aside = dir.path().join("aside");
    std::fs::rename(&database, &aside).unwrap();
    refused(&dir, "acknowledged state is lost", "center.db").await;
    assert!(!database.exists(), "a refused start made a database");
    std::fs::write(&database, b"").unwrap();
    refused(&dir, "acknowledged state is lost", "center.db").await;
    std::fs::remove_file(&database).unwrap();
    // Each of the other files alone shows that a center has run here.
    let high = dir.path().join("center.high");
    let kept = std::fs::read(&high).unwrap();
    std::fs::remove_file(&high).unwrap();
    refused(&dir, "acknowledged state is lost", "center.db").await;
    std::fs::rename(&token, dir.path().join("token-aside")).unwrap();
    std::fs::write(dir.path().join("center.db-wal"), b"something").unwrap();
    refused(&dir, "acknowledged state is lost", "center.db").await;
    std::fs::remove_file(dir.path().join("center.db-wal")).unwrap();
    std::fs::write(&high, &kept).unwrap();
    refused(&dir, "acknowledged state is lost", "center.db").await;
    std::fs::remove_file(&high).unwrap();
    std::fs::rename(dir.path().join("token-aside"), &token).unwrap();
    assert_eq!(std::fs::read(&token).unwrap(), before, "admin.token was overwritten");
    // A database without tables beside them is an empty one too.
    let raw = rusqlite::Connection::open(&database).unwrap();
    raw.execute_batch("CREATE TABLE t (a); DROP TABLE t;").unwrap();
    drop(raw);
    refused(&dir, "acknowledged state is lost", "center.db").await;
}

/// Each way out that a refusal names leads out, also where no database is left.
#[tokio::test]
async fn where_no_database_is_left_the_loss_can_be_accepted() {
    for (what, kept) in [("the mark is left", true), ("the mark is gone, too", false)] {
        let dir = Dir::new();
        let center = Running::start(&dir).await;
        furnish(&center, 1).await;
        let admin = center.admin.clone();
        let mut follower = Raw::follow(&center, &admin, None).await;
        let held = follower.held().await;
        drop(follower);
        center.stop().await;
        std::fs::remove_file(dir.path().join("center.db")).unwrap();
        if !kept {
            std::fs::remove_file(dir.path().join("center.high")).unwrap();
        }
        let error = refused(&dir, "acknowledged state is lost", "center.db").await;
        assert!(error.contains("accept-loss"), "{what}: {error}");
        let made = upkeep::accept_loss(dir.path(), 9).unwrap();
        assert!(made.before.is_none());
        let center = Running::start(&dir).await;
        assert_ne!(center.admin, admin, "{what}: the old token is of the lost store");
        center.ask_as(Some(&admin), "GET", "/v1/services", None).await.problem(401);
        let services = center.ask("GET", "/v1/services", None).await.good();
        assert_eq!(services["services"], json!([]), "{what}");
        // Gates that held its state are told of a successor, if it is known to be one.
        let new = center.admin.clone();
        let mut follower = Raw::follow(&center, &new, Some(held.clone())).await;
        let welcome = follower.welcome().await;
        let is_known = welcome.ancestors == [held.mark.as_ref().unwrap().history.clone()];
        assert_eq!(is_known, kept, "{what}");
        assert!(welcome.head.unwrap().revision > held.revision, "{what}");
        center.stop().await;
    }
    let empty = Dir::new();
    std::fs::create_dir_all(empty.path()).unwrap();
    let error = chain(&upkeep::accept_loss(empty.path(), 9).unwrap_err());
    assert!(error.contains("no trace of one"), "{error}");
}

#[tokio::test]
async fn a_copy_is_refused_until_it_is_adopted() {
    let (dir, copy) = (Dir::new(), Dir::new());
    let center = Running::start(&dir).await;
    furnish(&center, 3).await;
    let head = center.ask("GET", "/v1/status", None).await.good();
    std::fs::create_dir_all(copy.path()).unwrap();
    for name in ["center.db", "center.db-wal", "center.high", "admin.token"] {
        let from = dir.path().join(name);
        if from.exists() {
            std::fs::copy(&from, copy.path().join(name)).unwrap();
        }
    }
    let error = refused(&copy, "is a copy", "center.high").await;
    assert!(error.contains("adopt"), "{error}");
    // Without the high-water mark (`cp center.db`) it is a copy as well.
    std::fs::remove_file(copy.path().join("center.high")).unwrap();
    refused(&copy, "is a copy", "center.high").await;
    center.stop().await;
    assert!(upkeep::adopt(dir.path(), 1).is_err(), "the original is no copy");
    let adopted = upkeep::adopt(copy.path(), 1).unwrap();
    let again = Running::start(&copy).await;
    let status = again.ask("GET", "/v1/status", None).await.good();
    let (old, new) = (&head["centers"][0], &status["centers"][0]);
    assert_ne!(new["history"], old["history"]);
    assert_eq!(new["ancestors"][0], old["history"]);
    assert_eq!(new["history"], json!(adopted.history.to_string()));
    assert_eq!(
        new["revision"].as_u64().unwrap(),
        old["revision"].as_u64().unwrap() + 1_000_000_000
    );
    assert!(again.allowed("u1").await);
    again.member("u1", "revoke").await.good();
    again.stop().await;
    Running::start(&copy).await.stop().await;
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_refused() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 2).await;
    center.stop().await;
    let older = Bytes::of(&dir);
    let center = Running::start(&dir).await;
    center.member("u0", "revoke").await.good();
    center.member("u1", "revoke").await.good();
    center.stop().await;
    let newer = Bytes::of(&dir);
    // An older database under the newer mark: the revocations are lost.
    older.put_back();
    refused(&dir, "acknowledged state is lost", "center.db").await;
    // An older mark under the newer database, by more than a crash can explain.
    newer.put_back();
    overwrite(&dir.path().join("center.high"), &older.high);
    let error = refused(&dir, "do not belong together", "center.high").await;
    assert!(error.contains("adopt"), "{error}");
    overwrite(&dir.path().join("center.high"), &[0; 1024]);
    refused(&dir, "the store is damaged", "center.high").await;
    // Another center's files, written over these.
    let other = Dir::new();
    let center = Running::start(&other).await;
    furnish(&center, 2).await;
    center.stop().await;
    let foreign = Bytes::of(&other);
    overwrite(&dir.path().join("center.db"), &foreign.database);
    overwrite(&dir.path().join("center.high"), &newer.high);
    refused(&dir, "do not belong together", "center.high").await;
    overwrite(&dir.path().join("center.high"), &foreign.high);
    refused(&dir, "is a copy", "center.high").await;
    newer.put_back();
    overwrite(&dir.path().join("center.high"), &newer.high);
    Running::start(&dir).await.stop().await;
}

#[tokio::test]
async fn a_crash_between_commit_and_mark_goes_on() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 1).await;
    center.stop().await;
    let before = std::fs::read(dir.path().join("center.high")).unwrap();
    let center = Running::start(&dir).await;
    let started = std::fs::read(dir.path().join("center.high")).unwrap();
    center.member("late", "assign").await.good();
    let revision = center.revision().await;
    center.stop().await;
    assert_ne!(before, started);
    overwrite(&dir.path().join("center.high"), &started);
    let center = Running::start(&dir).await;
    assert_eq!(center.revision().await, revision);
    center.stop().await;
}

#[tokio::test]
async fn a_database_deleted_under_a_running_center_acknowledges_nothing() {
    for gone in [&["center.db", "center.db-wal", "center.db-shm"][..], &["center.db-wal"][..]] {
        let dir = Dir::new();
        let center = Running::start(&dir).await;
        furnish(&center, 1).await;
        for name in gone {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        let answer = center.member("new", "assign").await;
        assert_eq!(answer.json()["type"], json!("urn:keepgate:problem:history-lost"));
        answer.problem(503);
        assert!(center.readiness().await.starts_with("history: history-lost"));
        // Nothing is decided on it either, and that is no denial.
        center.evaluation("u0").await.problem(503);
    }
}

/// Bit by bit, in the database, in its log and in the high-water mark: whatever starts decides as
/// before.
#[tokio::test]
async fn flipped_bits_are_refused_or_harmless() {
    let dir = Dir::in_memory();
    let center = Running::start(&dir).await;
    furnish(&center, 6).await;
    center.member("u1", "revoke").await.good();
    let good = center.token("viewer", "").await;
    let made = center.ask("POST", "/v1/tokens", Some(json!({ "role": "viewer" }))).await.good();
    let bad = made["token"].as_str().unwrap().to_owned();
    center.stop().await;
    // What is revoked now is revoked in the log alone.
    let center = Running::start(&dir).await;
    center.member("u4", "revoke").await.good();
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    center.ask("DELETE", &path, None).await.good();
    let said = async |center: &Running| -> Value {
        let mut decisions = Vec::new();
        for n in 0..6 {
            decisions.push(center.allowed(&format!("u{n}")).await);
        }
        let revision = center.ask("GET", "/v1/revision", None).await.good();
        let good = center.ask_as(Some(&good), "GET", "/v1/services", None).await.status.as_u16();
        let bad = center.ask_as(Some(&bad), "GET", "/v1/services", None).await.status.as_u16();
        json!([decisions, revision, good, bad])
    };
    let before = said(&center).await;
    assert_eq!(before[0], json!([true, false, true, true, false, true]));
    assert_eq!((&before[2], &before[3]), (&json!(200), &json!(401)));
    let killed = Bytes::of(&dir);
    center.stop().await;
    let settled = Bytes::of(&dir);
    assert!(killed.log.is_some() && settled.log.is_none());
    // The same flips in every run.
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut below = |n: usize| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) % n as u64) as usize
    };
    let mut counts = std::collections::BTreeMap::new();
    for (name, flips) in
        [("center.db", 60), ("center.db-wal", 40), ("center.high", 20), ("both", 20)]
    {
        for round in 0..flips {
            let whole = if name == "center.db" { &settled } else { &killed };
            whole.put_back();
            overwrite(&dir.path().join("center.high"), &whole.high);
            let names = if name == "both" { &["center.db", "center.db-wal"][..] } else { &[name] };
            let mut bits = Vec::new();
            for name in names {
                let path = dir.path().join(name);
                let mut bytes = std::fs::read(&path).unwrap();
                let bit = below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                overwrite(&path, &bytes);
                bits.push(bit);
            }
            let started = match Center::start(config(&dir)).await {
                Ok(center) => {
                    let center = Running::of(center, &dir);
                    assert_eq!(said(&center).await, before, "{name}: round {round}, bits {bits:?}");
                    center.stop().await;
                    true
                }
                Err(error) => {
                    let error = chain(&error);
                    assert!(error.contains("keepgate center"), "{name} {bits:?}: {error}");
                    false
                }
            };
            *counts.entry((name, started)).or_insert(0) += 1;
        }
    }
    println!("{counts:?}");
    let count = |started: bool| {
        counts.iter().filter(|((_, was), _)| *was == started).map(|(_, n)| n).sum::<i32>()
    };
    assert!(count(true) > 0 && count(false) > 0, "{counts:?}");
}

#[tokio::test]
async fn a_mark_that_cannot_be_written_stops_changes_and_nothing_else() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 1).await;
    let before = center.revision().await;
    let (high, aside) = (dir.path().join("center.high"), dir.path().join("aside"));
    std::fs::rename(&high, &aside).unwrap();
    std::fs::create_dir(&high).unwrap();
    let detail = center.member("u1", "assign").await.problem(503);
    assert!(detail.contains("center.high"), "{detail}");
    // Nobody hears of the revision, and nothing lands on top of it.
    assert_eq!(center.revision().await, before);
    assert!(!center.allowed("u1").await);
    center.member("u2", "assign").await.problem(503);
    let ready = center.ask("GET", "/readyz", None).await;
    assert_eq!(ready.status.as_u16(), 503);
    std::fs::remove_dir(&high).unwrap();
    std::fs::rename(&aside, &high).unwrap();
    center.until_ready().await;
    // What was stored is told now.
    assert_eq!(center.revision().await, before + 1);
    assert!(center.allowed("u1").await);
    center.member("u2", "assign").await.good();
    center.stop().await;
    Running::start(&dir).await.stop().await;
}

/// Takes `u1` out of the staff, lets a gate see that, and puts back the database and the mark of
/// before; what the gate holds.
async fn rolled_back(dir: &Dir) -> Held {
    let center = Running::start(dir).await;
    furnish(&center, 2).await;
    center.stop().await;
    let older = Bytes::of(dir);
    let center = Running::start(dir).await;
    center.member("u1", "revoke").await.good();
    let gate = center.token("gate", "orders").await;
    let mut follower = Raw::follow(&center, &gate, None).await;
    let held = follower.held().await;
    assert_eq!(held.revision, center.revision().await);
    drop(follower);
    center.stop().await;
    older.put_back();
    overwrite(&dir.path().join("center.high"), &older.high);
    held
}

/// Database and mark rolled back together: only a gate can know.
#[tokio::test]
async fn a_witness_shows_a_rollback_and_it_stays_lost() {
    let dir = Dir::new();
    let held = rolled_back(&dir).await;
    let mut waiting = config(&dir);
    waiting.witness_wait = std::time::Duration::from_secs(60);
    let center = Running::with(waiting).await;
    // While gates are heard, nothing is told, decided or changed.
    assert!(center.readiness().await.starts_with("history: waiting-for-witnesses"));
    let admin = center.admin.clone();
    let status = Raw::try_follow(&center, &admin, Some(held.clone())).await.err().unwrap();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    assert!(status.message().starts_with("history-lost"), "{status:?}");
    assert!(status.message().contains("recover --from"), "{status:?}");
    center.member("x", "assign").await.problem(503);
    assert!(center.readiness().await.starts_with("history: history-lost"));
    center.stop().await;
    // It stays lost, whoever comes.
    let center = Running::start(&dir).await;
    center.member("x", "assign").await.problem(503);
    assert!(Raw::try_follow(&center, &admin, None).await.is_err());
    center.stop().await;
    let accepted = upkeep::accept_loss(dir.path(), 1).unwrap();
    assert_eq!(accepted.revision.0, held.revision + 1_000_000_000);
    let center = Running::start(&dir).await;
    assert!(center.allowed("u1").await, "accepted: what was lost stays lost");
    // The gate that held more is told of a successor of what it held.
    let mut follower = Raw::follow(&center, &admin, Some(held.clone())).await;
    let welcome = follower.welcome().await;
    assert_eq!(welcome.ancestors[0], held.mark.as_ref().unwrap().history);
    assert!(welcome.head.unwrap().revision > held.revision);
    center.stop().await;
}

/// What the store says of its history, past the center.
fn standing(dir: &Dir) -> String {
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    raw.query_row("SELECT state FROM meta", [], |row| row.get(0)).unwrap()
}

/// Whoever reads that the history is lost may kill the center and go by it. It waits for no edit,
/// however many there are.
#[tokio::test]
async fn a_loss_is_written_down_before_it_is_shown() {
    let dir = Dir::new();
    let held = rolled_back(&dir).await;
    let center = std::sync::Arc::new(Running::start(&dir).await);
    let before = center.revision().await;
    // The store takes no writes, and more edits than may wait do.
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut edits = tokio::task::JoinSet::new();
    for n in 0..300 {
        let center = std::sync::Arc::clone(&center);
        edits.spawn(async move { center.member(&format!("late{n}"), "assign").await });
    }
    // Some are refused at once: the queue is full.
    let first = edits.join_next().await.unwrap().unwrap();
    first.problem(503);
    let witness = {
        let (center, held) = (std::sync::Arc::clone(&center), held.clone());
        tokio::spawn(async move {
            let admin = center.admin.clone();
            Raw::try_follow(&center, &admin, Some(held)).await.err().unwrap()
        })
    };
    // It serves nobody from then on, and does not say yet what a restart would not know.
    let said = center.until_readiness("history: noting-loss").await;
    assert!(said.contains("recover --from"), "{said}");
    center.evaluation("u1").await.problem(503);
    assert_eq!(standing(&dir), "ok");
    raw.execute_batch("ROLLBACK").unwrap();
    center.until_readiness("history: history-lost").await;
    assert_eq!(standing(&dir), "lost");
    let status = witness.await.unwrap();
    assert!(status.message().contains("recover --from"), "{status:?}");
    // None of the edits landed on top of it.
    while let Some(answer) = edits.join_next().await {
        let answer = answer.unwrap();
        assert!(!answer.status.is_success(), "{answer:?}");
    }
    assert_eq!(center.revision().await, before);
}

/// Where it cannot be written down at all, nothing is served, the reason is told, and an orderly stop
/// or the next moment with room writes it.
#[tokio::test]
async fn a_loss_that_cannot_be_written_down_is_told_as_such() {
    let dir = Dir::new();
    let held = rolled_back(&dir).await;
    let center = Running::start(&dir).await;
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    raw.execute_batch(
        "CREATE TRIGGER refuse BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'no'); END;
         CREATE TRIGGER refuse_new BEFORE INSERT ON meta BEGIN SELECT RAISE(ABORT, 'no'); END;",
    )
    .unwrap();
    let admin = center.admin.clone();
    let status = Raw::try_follow(&center, &admin, Some(held)).await.err().unwrap();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    let said = center.until_readiness("history: noting-loss").await;
    assert!(said.contains("cannot be written down"), "{said}");
    assert_eq!(standing(&dir), "ok");
    center.evaluation("u1").await.problem(503);
    center.member("x", "assign").await.problem(503);
    raw.execute_batch("DROP TRIGGER refuse; DROP TRIGGER refuse_new;").unwrap();
    center.until_readiness("history: history-lost").await;
    assert_eq!(standing(&dir), "lost");
}

#[tokio::test]
async fn a_made_up_mark_stops_nobody() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 1).await;
    let admin = center.admin.clone();
    let mut follower = Raw::follow(&center, &admin, None).await;
    let held = follower.held().await;
    let mut forged = held.clone();
    forged.mark.as_mut().unwrap().revision += 1_000_000;
    forged.revision += 1_000_000;
    let mut other = Raw::follow(&center, &admin, Some(forged)).await;
    assert_eq!(other.held().await.revision, held.revision, "it is sent a snapshot");
    let mut foreign = held.clone();
    foreign.mark.as_mut().unwrap().history = vec![9; 16];
    Raw::follow(&center, &admin, Some(foreign)).await.held().await;
    let mut short = held.clone();
    short.mark.as_mut().unwrap().chain = vec![1; 3];
    Raw::follow(&center, &admin, Some(short)).await.held().await;
    let ready = center.ask("GET", "/readyz", None).await;
    assert_eq!(ready.status.as_u16(), 200);
    center.member("u9", "assign").await.good();
    center.stop().await;
}

/// The pulse that a heartbeat echoes was read before the head that it names.
#[tokio::test]
async fn heartbeats_echo_pulses_and_carry_the_confirmed_head() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 1).await;
    let admin = center.admin.clone();
    let mut follower = Raw::follow(&center, &admin, None).await;
    let welcome = follower.welcome().await;
    assert_eq!(welcome.format, keepgate_policy::mark::FORMAT);
    let held = follower.held().await;
    assert_eq!(held.mark.as_ref().unwrap().history, welcome.history);
    for nonce in 1..5_u64 {
        // Acknowledged before the pulse: in the head that echoes it.
        center.member(&format!("p{nonce}"), "assign").await.good();
        let acknowledged = center.revision().await;
        follower.pulse(nonce).await;
        let beat = follower.echo(nonce).await;
        assert!(beat.head >= acknowledged, "{beat:?}");
        assert_eq!(beat.mark.as_ref().unwrap().revision, beat.head);
        assert!(follower.held().await.revision >= beat.head, "all up to the head comes first");
    }
    // A store that is not there confirms nothing, whatever is published.
    std::fs::remove_file(dir.path().join("center.db")).unwrap();
    follower.pulse(9).await;
    let status = follower.end().await;
    assert!(status.message().starts_with("history-lost"), "{status:?}");
    // It cannot come to rest either; its owner only drops it.
}

/// A follower knows its age, and its gate is ready, at once and not a heartbeat later: the first
/// pulse is answered also right after a heartbeat that answers none.
#[tokio::test]
async fn the_first_pulse_is_not_put_off_by_a_heartbeat_before_it() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut shortest = u64::MAX;
    // By the center's own times; the shortest of some, as the host may be busy.
    for _ in 0..5 {
        let mut follower = Raw::follow(&center, &center.admin, None).await;
        let before = follower.echo(0).await;
        follower.pulse(1).await;
        let after = follower.echo(1).await;
        shortest = shortest.min(after.unix_ms - before.unix_ms);
    }
    assert!(shortest < 900, "{shortest} ms");
    center.stop().await;
}

/// An older database written over the open one keeps its inode: the next edit shows it.
#[tokio::test]
async fn a_database_rolled_back_under_a_running_center_acknowledges_nothing() {
    for sql in
        ["UPDATE head SET revision = revision - 1", "UPDATE head SET revision = revision + 1"]
    {
        let dir = Dir::new();
        let center = Running::start(&dir).await;
        furnish(&center, 2).await;
        let before = center.revision().await;
        let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
        assert_eq!(raw.execute(sql, []).unwrap(), 1);
        drop(raw);
        let answer = center.member("late", "assign").await;
        assert_eq!(answer.json()["type"], json!("urn:keepgate:problem:history-lost"), "{sql}");
        let detail = answer.problem(503);
        assert!(detail.contains("expected the store at revision"), "{detail}");
        assert!(center.readiness().await.starts_with("history: history-lost"));
        center.evaluation("u0").await.problem(503);
        assert_eq!(center.revision().await, before, "nothing was published");
        // Whether it comes to rest or not, what is there is not served again.
        let _ = center.try_stop().await;
        let error = chain(&Center::start(config(&dir)).await.err().expect(sql));
        assert!(error.contains("keepgate center"), "{error}");
    }
}

/// Where writing fails for another reason, `/readyz` says so until it works again.
#[tokio::test]
async fn a_store_that_cannot_be_written_is_not_ready() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 1).await;
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    raw.execute_batch(
        "CREATE TRIGGER no_sums BEFORE UPDATE ON sums BEGIN SELECT RAISE(ABORT, 'no'); END;
         CREATE TRIGGER no_head BEFORE UPDATE ON head BEGIN SELECT RAISE(ABORT, 'no'); END;",
    )
    .unwrap();
    center.member("late", "assign").await.problem(500);
    assert!(center.readiness().await.starts_with("disk: stopped"), "{}", center.readiness().await);
    assert!(center.allowed("u0").await, "what it has decides on");
    // The outage is young: between 1 and 2 seconds, not the same for all.
    let mut waits = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let ready = center.ask("GET", "/readyz", None).await;
        let wait: u64 = ready.header("retry-after").parse().unwrap();
        assert!((1..=30).contains(&wait), "{wait}");
        waits.insert(wait);
    }
    assert!(waits.len() > 1, "{waits:?}");
    raw.execute_batch("DROP TRIGGER no_sums; DROP TRIGGER no_head;").unwrap();
    center.until_ready().await;
    center.member("late", "assign").await.good();
    center.stop().await;
}

/// Nothing is read or written elsewhere, and what is no file is not waited for.
#[tokio::test]
async fn links_and_pipes_are_refused_by_name() {
    for name in ["center.db", "center.db-wal", "center.db-shm", "center.high", "center.lock"] {
        let dir = Dir::new();
        let center = Running::start(&dir).await;
        furnish(&center, 1).await;
        center.stop().await;
        let (path, aside) = (dir.path().join(name), dir.path().join("elsewhere"));
        let was = std::fs::read(&path).unwrap_or_else(|_| b"precious".to_vec());
        std::fs::write(&aside, &was).unwrap();
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        let error = chain(&Center::start(config(&dir)).await.err().expect(name));
        assert!(error.contains(name), "{error}");
        assert_eq!(std::fs::read(&aside).unwrap(), was, "{name} was followed");
        std::fs::remove_file(&path).unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(pipe.success());
        let start = crate::fixture::patiently("a refusal", Center::start(config(&dir)));
        let error = chain(&start.await.err().expect(name));
        assert!(error.contains(name), "{error}");
    }
}

/// The index of the log is made anew from it: garbage in it is nothing.
#[tokio::test]
async fn the_index_of_the_log_may_be_anything() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 3).await;
    let revision = center.revision().await;
    let killed = Bytes::of(&dir);
    center.stop().await;
    for index in [vec![0xa5; 32768], vec![0; 100], Vec::new()] {
        killed.put_back();
        overwrite(&dir.path().join("center.high"), &killed.high);
        std::fs::write(dir.path().join("center.db-shm"), index).unwrap();
        let center = Running::start(&dir).await;
        assert_eq!(center.revision().await, revision);
        center.stop().await;
    }
}

#[tokio::test]
async fn tokens_and_tombstones_have_digests() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    furnish(&center, 2).await;
    let made = center.ask("POST", "/v1/tokens", Some(json!({ "role": "viewer" }))).await.good();
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    center.ask("DELETE", &path, None).await.good();
    center.member("u0", "revoke").await.good();
    center.stop().await;
    let whole = Bytes::of(&dir);
    for (sql, what) in [
        ("UPDATE tokens SET revoked_unix_s = NULL", "tokens"),
        ("UPDATE tokens SET role = 'admin' WHERE role = 'viewer'", "tokens"),
        ("DELETE FROM tokens WHERE role = 'viewer'", "tokens"),
        ("DELETE FROM tombstones", "tombstones"),
        ("UPDATE tombstones SET actor = 'nobody'", "tombstones"),
        ("UPDATE revisions SET chain = zeroblob(32) WHERE revision = 3", "revision"),
        ("DELETE FROM revisions WHERE revision = 3", "revision"),
        ("UPDATE changes SET id = 'other' WHERE revision = 3", "revision 3"),
        ("UPDATE items SET digest = zeroblob(32) WHERE kind = 'member'", "digest"),
        ("UPDATE items SET source = 'x' WHERE kind = 'member'", "source"),
        ("UPDATE meta SET key = zeroblob(32)", "history"),
        ("UPDATE scopes SET items = items + 1", "scope"),
    ] {
        let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
        let changed = raw.execute(sql, []).unwrap();
        drop(raw);
        assert!(changed > 0, "changed nothing: {sql}");
        let error = chain(&Center::start(config(&dir)).await.err().expect(sql));
        assert!(error.contains("damaged") && error.contains(what), "{sql}: {error}");
        assert!(error.contains("keepgate center restore"), "{sql}: {error}");
        whole.put_back();
        overwrite(&dir.path().join("center.high"), &whole.high);
    }
    Running::start(&dir).await.stop().await;
}
