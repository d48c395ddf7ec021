//! Backups and what is made of them, stores of release 0.1, full disks, gates of release 0.1.

use std::path::Path;
use std::process::Command;

use keepgate_center::store::{SqliteStore, Store as _};
use keepgate_center::upkeep::{self, Effect};
use keepgate_policy::proto;
use serde_json::json;

use crate::fixture::{Dir, Raw, Running, config};

const STAFF: &str = "permit (principal in role::\"staff\", action, resource);";

async fn member(center: &Running, who: &str, what: &str) {
    let body = json!({ "member": format!("user::\"{who}\""), "role": "role::\"staff\"" });
    center.ask("POST", &format!("/v1/roles/{what}"), Some(body)).await.good();
}

async fn allowed(center: &Running, who: &str) -> bool {
    let body = json!({
        "subject": { "type": "user", "id": who },
        "action": { "name": "read" },
        "resource": { "type": "record", "id": "r1" },
    });
    let answer = center.ask("POST", "/s/orders/access/v1/evaluation", Some(body)).await.good();
    answer["decision"].as_bool().unwrap()
}

async fn status(center: &Running) -> serde_json::Value {
    center.ask("GET", "/v1/status", None).await.good()
}

#[tokio::test]
async fn a_backup_of_a_running_center_is_restored_as_a_successor() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    for who in ["alice", "bob"] {
        member(&center, who, "assign").await;
    }
    let viewer = center.ask("POST", "/v1/tokens", Some(json!({ "role": "viewer" }))).await.good();
    let files = Dir::new();
    std::fs::create_dir_all(files.path()).unwrap();
    let file = files.path().join("one.kgbackup");
    let made = upkeep::backup(dir.path(), &file, 5).unwrap();
    assert_eq!(made.revision.0, center.revision().await);
    // It is not overwritten.
    assert!(upkeep::backup(dir.path(), &file, 5).is_err());
    // Revoked since: each comes back with the backup, and is named first.
    member(&center, "bob", "revoke").await;
    let path = format!("/v1/tokens/{}", viewer["id"].as_str().unwrap());
    center.ask("DELETE", &path, None).await.good();
    member(&center, "carol", "assign").await;
    let before = status(&center).await["centers"][0].clone();
    let (history, head) = (before["history"].clone(), before["revision"].as_u64().unwrap());
    // A store in use is not replaced.
    assert!(upkeep::restore(dir.path(), &file).is_err());
    center.stop().await;
    let prepared = upkeep::restore(dir.path(), &file).unwrap();
    assert!(prepared.is_older());
    let again: Vec<String> = prepared
        .differences
        .iter()
        .filter(|difference| difference.effect == Effect::PermitsAgain)
        .map(|difference| difference.text.clone())
        .collect();
    let bob = "comes back: member user::\"bob\" in role::\"staff\" in the directory".to_owned();
    let token = format!("good again: viewer token `{}`", viewer["id"].as_str().unwrap());
    assert_eq!(again, [bob, token]);
    assert!(prepared.differences.iter().any(|d| d.text.contains("carol")));
    let restored = prepared.commit(6).unwrap();
    assert_eq!(restored.revision.0, head + 1_000_000_000);
    let center = Running::start(&dir).await;
    let after = status(&center).await["centers"][0].clone();
    assert_eq!(after["ancestors"][0], history);
    assert!(allowed(&center, "bob").await && !allowed(&center, "carol").await);
    let text = viewer["token"].as_str().unwrap();
    assert_eq!(center.ask_as(Some(text), "GET", "/v1/services", None).await.status, 200);
    // The next revision goes on from there.
    member(&center, "dave", "assign").await;
    assert_eq!(center.revision().await, restored.revision.0 + 1);
    center.stop().await;
    // What was replaced is kept.
    assert!(dir.path().join("replaced-6/center.db").exists());
    // And it can be restored where nothing is left but the file.
    let empty = Dir::new();
    let prepared = upkeep::restore(empty.path(), &file).unwrap();
    assert!(!prepared.is_older());
    prepared.commit(7).unwrap();
    std::fs::copy(dir.path().join("admin.token"), empty.path().join("admin.token")).unwrap();
    let center = Running::start(&empty).await;
    assert!(allowed(&center, "bob").await);
    center.stop().await;
}

#[tokio::test]
async fn a_backup_that_is_not_whole_is_refused() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.stop().await;
    let file = dir.path().join("b.kgbackup");
    upkeep::backup(dir.path(), &file, 5).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let target = Dir::new();
    let refused = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        upkeep::restore(target.path(), &file).is_err()
    };
    // Every byte counts, those of the checksum included.
    for at in (0..whole.len()).step_by(7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        assert!(refused(&flipped), "a flipped bit at {at} of {}", whole.len());
    }
    for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
        assert!(refused(&whole[..cut]), "cut at {cut}");
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let without = [&lines[..1], &lines[2..]].concat().concat();
    assert!(refused(&without), "a line less");
    assert!(refused(&[whole.as_slice(), b"{}\n"].concat()), "a line more");
    assert!(!refused(&whole), "it is whole");
    assert!(!target.path().join("center.db").exists(), "nothing was put in place");
}

#[tokio::test]
async fn a_moved_store_serves_at_one_place_only() {
    let (dir, target) = (Dir::new(), Dir::new());
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    member(&center, "alice", "assign").await;
    center.stop().await;
    let moved = upkeep::move_to(dir.path(), target.path(), 9).unwrap();
    let error = keepgate_center::Center::start(config(&dir)).await.err().unwrap();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("was moved"), "{source}");
    std::fs::copy(dir.path().join("admin.token"), target.path().join("admin.token")).unwrap();
    let center = Running::start(&target).await;
    assert!(allowed(&center, "alice").await);
    assert_eq!(center.revision().await, moved.revision.0);
    center.stop().await;
}

/// A replica brings back what the store lost, for what it followed; tokens stay as they are.
#[tokio::test]
async fn what_a_gate_holds_is_recovered() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    member(&center, "alice", "assign").await;
    member(&center, "bob", "assign").await;
    center.stop().await;
    let older = std::fs::read(dir.path().join("center.db")).unwrap();
    let center = Running::start(&dir).await;
    member(&center, "bob", "revoke").await;
    let admin = center.admin.clone();
    let mut follower = Raw::follow(&center, &admin, None).await;
    let held = follower.held().await;
    center.stop().await;
    // What the gate kept.
    let mut items = Vec::new();
    let store = SqliteStore::open(dir.path()).unwrap();
    let reading = store.read().unwrap();
    for scope in ["", "orders"] {
        reading
            .each(scope, &mut |row| {
                items.push(keepgate_policy::Item::decode(row.key, &row.body).unwrap());
                Ok(())
            })
            .unwrap();
    }
    drop(reading);
    drop(store);
    let kept = upkeep::Kept {
        mark: Some(keepgate_policy::Mark::from_proto(held.mark.as_ref().unwrap()).unwrap()),
        services: vec!["orders".to_owned()],
        revision: keepgate_policy::Revision(held.revision),
        items,
    };
    // The store as it was before the revocation.
    let _ = std::fs::remove_file(dir.path().join("center.db-wal"));
    let _ = std::fs::remove_file(dir.path().join("center.db-shm"));
    let database = std::fs::OpenOptions::new().write(true).open(dir.path().join("center.db"));
    std::io::Write::write_all(&mut database.unwrap(), &older).unwrap();
    let prepared = upkeep::recover(dir.path(), kept.clone()).unwrap();
    assert!(prepared.said.as_ref().unwrap().contains("acknowledged state is lost"));
    let texts: Vec<String> = prepared.differences.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["- goes: member user::\"bob\" in role::\"staff\" in the directory"]);
    let recovered = prepared.commit(3).unwrap();
    assert_eq!(recovered.revision.0, held.revision + 1_000_000_000);
    let center = Running::start(&dir).await;
    assert!(allowed(&center, "alice").await && !allowed(&center, "bob").await);
    center.stop().await;
    // A replica of another history is not taken.
    let error = upkeep::recover(dir.path(), kept).err().unwrap().to_string();
    assert!(error.contains("expected a replica of history"), "{error}");
}

/// A store in the layout of release 0.1.0 with the digests that it computes, as SQL.
pub(crate) fn store_of_release_01(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let raw = rusqlite::Connection::open(dir.join("center.db")).unwrap();
    raw.execute_batch(include_str!("../fixtures/store-0.1.sql")).unwrap();
    raw.pragma_update(None, "user_version", 1).unwrap();
    drop(raw);
    std::fs::write(dir.join("admin.token"), include_str!("../fixtures/store-0.1.admin.token"))
        .unwrap();
}

#[tokio::test]
async fn a_store_of_release_01_is_migrated_once() {
    let dir = Dir::new();
    store_of_release_01(dir.path());
    let center = Running::start(&dir).await;
    assert!(allowed(&center, "alice").await, "as in release 0.1");
    assert!(!allowed(&center, "bob").await, "revoked in release 0.1");
    let before = status(&center).await["centers"][0].clone();
    assert_eq!(before["ancestors"], json!([]));
    member(&center, "dave", "assign").await;
    center.stop().await;
    let center = Running::start(&dir).await;
    let after = status(&center).await["centers"][0].clone();
    assert_eq!(after["history"], before["history"]);
    assert_eq!(after["revision"].as_u64(), before["revision"].as_u64().map(|r| r + 1));
    center.stop().await;
    // Put back under the mark of the migrated one, it is not taken for a new migration.
    std::fs::remove_file(dir.path().join("center.db")).unwrap();
    store_of_release_01(dir.path());
    let error = keepgate_center::Center::start(config(&dir)).await.err().unwrap();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("do not belong together"), "{source}");
}

/// A gate of release 0.1 is served in its form while its service uses nothing newer.
#[tokio::test]
async fn a_gate_of_release_01_is_served_until_it_is_too_old() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.service("other", &[]).await;
    let gate = center.token("gate", "orders").await;
    let hello = proto::Hello {
        services: vec!["orders".to_owned()],
        follower: "old".to_owned(),
        ..proto::Hello::default()
    };
    let mut old = Raw::say_hello(&center, &gate, hello.clone()).await.unwrap();
    old.held().await;
    while old.beats() == 0 {
        old.next().await.unwrap();
    }
    let newer = json!({ "answer_timeout": "7s" });
    // Of another service: nothing to it.
    center.ask("PUT", "/v1/services/other", Some(newer.clone())).await.good();
    member(&center, "alice", "assign").await;
    let revision = center.revision().await;
    while old.held().await.revision < revision {
        old.next().await.unwrap();
    }
    let said = status(&center).await;
    assert_eq!(said["gates"][0]["release"], "0.1");
    center.ask("PUT", "/v1/services/orders", Some(newer)).await.good();
    member(&center, "bob", "assign").await;
    let held_back = async {
        loop {
            let said = status(&center).await;
            if said["wrong"].to_string().contains("upgrade the gate") {
                return said;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let said = crate::fixture::patiently("status to name the gate", held_back).await;
    assert!(said["wrong"].to_string().contains("gate old: it is of release 0.1"), "{said}");
    // A new stream of it gets neither state nor heartbeats.
    let mut silent = Raw::say_hello(&center, &gate, hello.clone()).await.unwrap();
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(2500), silent.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    // One that holds what came before, too.
    let held = old.held().await;
    let mut holding = Raw::say_hello(
        &center,
        &gate,
        proto::Hello { revision: held.revision, digest: held.digest.clone(), ..hello.clone() },
    )
    .await
    .unwrap();
    holding.hold(held);
    // One of this release is served all of it.
    let mut new = Raw::follow(&center, &gate, None).await;
    let revision = center.revision().await;
    while new.held().await.revision < revision {
        new.next().await.unwrap();
    }
    // The setting is taken back: each goes on from what it holds, and hears that it is current.
    center.ask("PUT", "/v1/services/orders", Some(json!({}))).await.good();
    member(&center, "carol", "assign").await;
    let revision = center.revision().await;
    for stream in [&mut old, &mut silent, &mut holding] {
        while stream.held().await.revision < revision {
            stream.next().await.unwrap();
        }
        let beats = stream.beats();
        while stream.beats() == beats {
            stream.next().await.unwrap();
        }
    }
    center.stop().await;
}

/// A small file system of its own, unmounted with its owner.
struct Small(Dir);

impl Small {
    fn mount(kib: u32) -> Small {
        let dir = Dir::new();
        std::fs::create_dir_all(dir.path()).unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k,mode=0700"), "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(done.success(), "mounting a tmpfs needs root");
        Small(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_space_brings_it_back() {
    let small = Small::mount(2048);
    let center = Running::start(&small.0).await;
    center.service("orders", &[("staff", STAFF)]).await;
    member(&center, "alice", "assign").await;
    let before = center.revision().await;
    // All that is left is taken.
    let filler = small.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    drop(file);
    let mut refused = None;
    for n in 0..2000 {
        let body = json!({ "member": format!("user::\"m{n}\""), "role": "role::\"staff\"" });
        let answer = center.ask("POST", "/v1/roles/assign", Some(body)).await;
        if !answer.status.is_success() {
            refused = Some((n, answer));
            break;
        }
    }
    let (n, answer) = refused.expect("a full disk refused nothing");
    assert_eq!(answer.json()["type"], "urn:keepgate:problem:storage-full");
    answer.problem(507);
    assert_eq!(center.revision().await, before + n, "what was acknowledged, and no more");
    let ready = center.ask("GET", "/readyz", None).await;
    assert!(String::from_utf8_lossy(&ready.body).starts_with("storage-full"), "{ready:?}");
    assert_eq!(ready.status.as_u16(), 503);
    // Decisions go on.
    assert!(allowed(&center, "alice").await);
    assert!(!allowed(&center, &format!("m{n}")).await);
    std::fs::remove_file(&filler).unwrap();
    center.until_ready().await;
    member(&center, &format!("m{n}"), "assign").await;
    assert_eq!(center.revision().await, before + n + 1);
    center.stop().await;
    let center = Running::start(&small.0).await;
    assert_eq!(center.revision().await, before + n + 1);
    center.stop().await;
}

/// The log stays small, however much is written.
#[tokio::test]
async fn the_log_is_brought_into_the_database() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let mut largest = 0;
    for n in 0..40 {
        let text = format!("permit (principal, action, resource) when {{ {n} == {n} }};");
        let text = format!("{text}//{}", "x".repeat(400_000));
        let path = format!("/v1/services/orders/policies/p{}", n % 3);
        center.ask("PUT", &path, Some(json!({ "text": text }))).await.good();
        let log = dir.path().join("center.db-wal").metadata().unwrap().len();
        largest = largest.max(log);
    }
    assert!(largest < 12 << 20, "the log grew to {largest} bytes");
    center.stop().await;
}

#[tokio::test]
async fn extras_hold_what_files_do_not() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF), ("gone", STAFF)]).await;
    member(&center, "alice", "assign").await;
    center.ask("DELETE", "/v1/services/orders/policies/gone", None).await.good();
    let key = json!({ "principal": "user::\"carol\"" });
    center.ask("POST", "/v1/services/orders/keys", Some(key)).await.good();
    let path = "/v1/services/orders/extras";
    let all = center.ask("GET", path, None).await.good();
    assert_eq!(all["members"][0]["member"], "user::\"alice\"");
    assert_eq!(all["keys"][0]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(all["tombstones"][0]["id"], "gone");
    assert_eq!(all["tombstones"][0]["service"], "orders");
    let viewer = center.token("viewer", "").await;
    let seen = center.ask_as(Some(&viewer), "GET", path, None).await.good();
    assert_eq!(seen["keys"][0].get("sha256"), None, "hashes are for admins");
    // Made again, it is no longer deleted.
    let body = json!({ "text": STAFF });
    center.ask("PUT", "/v1/services/orders/policies/gone", Some(body)).await.good();
    let all = center.ask("GET", path, None).await.good();
    assert_eq!(all["tombstones"], json!([]));
    center.stop().await;
    Running::start(&dir).await.stop().await;
}
