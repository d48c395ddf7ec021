//! Backups and what is made of them, stores of release 0.1, full disks, gates of release 0.1.

use std::path::Path;
use std::process::Command;

use keepgate_center::store::{SqliteStore, Store as _};
use keepgate_center::upkeep::{self, Effect};
use keepgate_policy::proto;
use serde_json::{Value, json};

use crate::fixture::{Dir, Held, Raw, Running, STAFF, chain, config};

#[tokio::test]
async fn a_backup_of_a_running_center_is_restored_as_a_successor() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    for who in ["alice", "bob"] {
        center.member(who, "assign").await.good();
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
    center.member("bob", "revoke").await.good();
    let path = format!("/v1/tokens/{}", viewer["id"].as_str().unwrap());
    center.ask("DELETE", &path, None).await.good();
    center.member("carol", "assign").await.good();
    let before = center.status().await["centers"][0].clone();
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
    let bob = "restores: member user::\"bob\" in role::\"staff\" in the directory".to_owned();
    let token = format!("valid again: viewer token `{}`", viewer["id"].as_str().unwrap());
    assert_eq!(again, [bob, token]);
    assert!(prepared.differences.iter().any(|d| d.text.contains("carol")));
    let restored = prepared.commit(6).unwrap();
    assert_eq!(restored.revision.0, head + 1_000_000_000);
    let center = Running::start(&dir).await;
    let after = center.status().await["centers"][0].clone();
    assert_eq!(after["ancestors"][0], history);
    assert!(center.allowed("bob").await && !center.allowed("carol").await);
    let text = viewer["token"].as_str().unwrap();
    assert_eq!(center.ask_as(Some(text), "GET", "/v1/services", None).await.status, 200);
    // The next revision goes on from there.
    center.member("dave", "assign").await.good();
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
    assert!(center.allowed("bob").await);
    center.stop().await;
}

fn rows(dir: &Dir, columns_of: &str) -> Vec<String> {
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    let mut statement = raw.prepare(&format!("SELECT {columns_of}")).unwrap();
    let columns = statement.column_count();
    let read = statement.query_map([], |row| {
        let values = (0..columns).map(|at| row.get::<_, rusqlite::types::Value>(at));
        Ok(format!("{:?}", values.collect::<Result<Vec<_>, _>>()?))
    });
    read.unwrap().map(Result::unwrap).collect()
}

/// Nothing that a store holds is left out of a backup without a word.
#[tokio::test]
async fn a_restored_store_has_every_row() {
    let (dir, target) = (Dir::new(), Dir::new());
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF), ("gone", STAFF)]).await;
    center.ask("DELETE", "/v1/services/orders/policies/gone", None).await.good();
    center.member("alice", "assign").await.good();
    center.member("bob", "assign").await.good();
    center.member("bob", "revoke").await.good();
    let lines = "{\"uid\":{\"type\":\"user\",\"id\":\"erin\"},\"attrs\":{\"floor\":3}}\n";
    crate::bulk::import(&center, "/v1/import/entities", lines).await.good();
    for (path, body) in [
        (
            "/v1/services/orders/keys",
            json!({ "principal": "user::\"carol\"", "note": "\u{e9}\"\\" }),
        ),
        ("/v1/tokens", json!({ "role": "viewer", "note": "revoked soon" })),
        ("/v1/tokens", json!({ "role": "gate", "service": "orders" })),
    ] {
        let made = center.ask("POST", path, Some(body)).await.good();
        if made["note"] == "revoked soon" || path == "/v1/tokens" && made["role"] == "viewer" {
            let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
            center.ask("DELETE", &path, None).await.good();
        }
    }
    center.stop().await;
    let file = dir.path().join("all.kgbackup");
    upkeep::backup(dir.path(), &file, 5).unwrap();
    upkeep::restore(target.path(), &file).unwrap().commit(6).unwrap();
    for columns in [
        "service, kind, id, body, revision, digest, source, needs, brought, base FROM items \
         ORDER BY 1, 2, 3",
        "service, digest, items FROM scopes ORDER BY 1",
        "* FROM tokens ORDER BY 1",
        "* FROM tombstones ORDER BY 1, 2, 3",
        "name, digest, rows FROM sums ORDER BY 1",
        // The restore has an entry of its own.
        "seq, revision, unix_ms, actor, action, service, kind, id, before, after, chain FROM audit \
         WHERE action <> 'history.begin' ORDER BY seq",
    ] {
        let (before, after) = (rows(&dir, columns), rows(&target, columns));
        assert!(!before.is_empty(), "{columns}");
        assert_eq!(before, after, "{columns}");
    }
    let tables = "name FROM sqlite_schema WHERE type = 'table' ORDER BY 1";
    let known =
        ["audit", "changes", "forks", "head", "items", "meta", "revisions", "scopes", "sums"];
    // The past of a restored store begins with its head.
    let more = ["tokens", "tombstones", "sqlite_sequence", "sqlite_stat1", "past"];
    for table in rows(&dir, tables) {
        // Keys of access logs are in `log_anchors`. On purpose: whoever is signed in to the console signs in
        // again.
        let known =
            known.iter().chain(&more).chain(&["sessions", "requests", "log_keys", "log_heads"]);
        assert!(known.into_iter().any(|name| table.contains(name)), "{table}: is it backed up?");
    }
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
    center.member("alice", "assign").await.good();
    center.stop().await;
    let moved = upkeep::move_to(dir.path(), target.path(), 9).unwrap();
    let error = keepgate_center::Center::start(config(&dir)).await.err().unwrap();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("was moved"), "{source}");
    std::fs::copy(dir.path().join("admin.token"), target.path().join("admin.token")).unwrap();
    let center = Running::start(&target).await;
    assert!(center.allowed("alice").await);
    assert_eq!(center.revision().await, moved.revision.0);
    center.stop().await;
}

/// A replica brings back what the store lost, for what it followed; tokens stay as they are.
#[tokio::test]
async fn what_a_gate_holds_is_recovered() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.member("alice", "assign").await.good();
    center.member("bob", "assign").await.good();
    center.stop().await;
    let older = std::fs::read(dir.path().join("center.db")).unwrap();
    let center = Running::start(&dir).await;
    center.member("bob", "revoke").await.good();
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
    assert_eq!(texts, ["- removes: member user::\"bob\" in role::\"staff\" in the directory"]);
    let recovered = prepared.commit(3).unwrap();
    assert_eq!(recovered.revision.0, held.revision + 1_000_000_000);
    let center = Running::start(&dir).await;
    assert!(center.allowed("alice").await && !center.allowed("bob").await);
    center.stop().await;
    // A replica of another history is not taken.
    let error = upkeep::recover(dir.path(), kept).err().unwrap().to_string();
    assert!(error.contains("expected a replica of history"), "{error}");
}

/// The same backup as it was written before items said who brought them, and before it was said
/// which services decide AuthZEN.
fn as_it_was(file: &Path) {
    use sha2::{Digest as _, Sha256};
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let head = lines[0].as_object_mut().unwrap();
    assert!(head.remove("origins").is_some() && head.remove("authzen_together").is_some());
    let mut end = lines.pop().unwrap();
    let mut written = String::new();
    for mut line in lines {
        if let Some(item) = line.get_mut("item").and_then(Value::as_object_mut) {
            item.remove("brought");
            item.remove("base");
        }
        written.push_str(&format!("{line}\n"));
    }
    let sum: String = Sha256::digest(&written).iter().map(|byte| format!("{byte:02x}")).collect();
    end["end"]["sha256"] = json!(sum);
    written.push_str(&format!("{end}\n"));
    std::fs::write(file, written).unwrap();
}

/// As in the migration of a store: what a command made is a command's, the rest is of files, and so
/// the next apply undoes nothing unseen.
#[tokio::test]
async fn a_backup_that_says_not_who_brought_its_items_is_restored() {
    let (dir, target) = (Dir::new(), Dir::new());
    let center = Running::start(&dir).await;
    let files = json!({ "files": {
        "service.toml": "name = \"orders\"\n",
        "staff.cedar": STAFF,
        "roles.toml": "[[role]]\nid = \"staff\"\nmembers = ['user::\"alice\"', 'user::\"bob\"']\n",
    } });
    let apply = "/v1/services/orders/apply";
    center.ask("POST", apply, Some(files.clone())).await.good();
    center.member("bob", "revoke").await.good();
    center.member("carol", "assign").await.good();
    let grant = json!({ "principal": { "type": "user", "id": "dave" }, "actions": [] });
    center.ask("PUT", "/v1/services/orders/grants/dave", Some(grant)).await.good();
    let admin = center.admin.clone();
    center.stop().await;
    let file = dir.path().join("old.kgbackup");
    upkeep::backup(dir.path(), &file, 5).unwrap();
    as_it_was(&file);
    upkeep::restore(target.path(), &file).unwrap().commit(6).unwrap();
    std::fs::write(target.path().join("admin.token"), &admin).unwrap();
    let center = Running::start(&target).await;
    let members = center.ask("GET", "/v1/members", None).await.good();
    let brought: Vec<String> = members["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| format!("{} {}", member["member"]["id"], member["brought"]).replace('"', ""))
        .collect();
    assert_eq!(brought, ["alice files", "carol command"], "{members}");
    let grants = center.ask("GET", "/v1/services/orders/grants", None).await.good();
    assert_eq!(grants["items"][0]["brought"], "command");
    let again = center.ask("POST", apply, Some(files)).await.good();
    assert_eq!(again["changes"], json!([]), "{again}");
    assert_eq!(again["conflicts"].as_array().unwrap().len(), 1, "bob stays revoked: {again}");
    assert_eq!(again["stays"].as_array().unwrap().len(), 2, "{again}");
    center.stop().await;
}

/// What `scripts/record-old-release` has recorded of release 0.1.0.
fn recorded(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/release-0.1");
    std::fs::read(root.join(name)).unwrap()
}

fn recorded_text(name: &str) -> String {
    String::from_utf8(recorded(name)).unwrap().trim().to_owned()
}

/// The store of a center of release 0.1.0 that was killed: its last revisions are in the log.
pub(crate) fn store_of_release_01(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    for name in ["center.db", "center.db-wal", "admin.token"] {
        std::fs::write(dir.join(name), recorded(&format!("store/{name}"))).unwrap();
    }
}

#[tokio::test]
async fn a_store_of_release_01_is_migrated_once() {
    let dir = Dir::new();
    store_of_release_01(dir.path());
    let center = Running::start(&dir).await;
    // What that center said of it last.
    let said = center.ask("GET", "/v1/revision", None).await.good();
    let said = format!("{} {}", said["revision"], said["digest"].as_str().unwrap());
    assert_eq!(said, recorded_text("revision"));
    for (who, permitted) in [("alice", true), ("bob", false), ("carol", true), ("dave", true)] {
        assert_eq!(center.allowed(who).await, permitted, "{who}");
    }
    assert!(!center.allowed("nobody").await, "the policy that let everybody in was deleted");
    let keys = center.ask("GET", "/v1/services/orders/keys", None).await.good();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "the other one was revoked: {keys}");
    let viewer = recorded_text("revoked.token");
    let answer = center.ask_as(Some(&viewer), "GET", "/v1/services", None).await;
    assert_eq!(answer.status, 401, "revoked in release 0.1");
    let before = center.status().await["centers"][0].clone();
    assert_eq!(before["ancestors"], json!([]));
    center.member("erin", "assign").await.good();
    center.stop().await;
    let center = Running::start(&dir).await;
    let after = center.status().await["centers"][0].clone();
    assert_eq!(after["history"], before["history"]);
    assert_eq!(after["revision"].as_u64(), before["revision"].as_u64().map(|r| r + 1));
    center.stop().await;
    // Put back under the mark of the migrated one, it is not taken for a new migration.
    std::fs::remove_file(dir.path().join("center.db")).unwrap();
    store_of_release_01(dir.path());
    let error = chain(&keepgate_center::Center::start(config(&dir)).await.err().unwrap());
    assert!(error.contains("do not belong together"), "{error}");
}

/// Damage that release 0.1 would not have noticed is not migrated.
#[tokio::test]
async fn a_damaged_store_of_release_01_is_not_migrated() {
    for (what, sql) in [
        (
            "a membership that was revoked comes back",
            "UPDATE items SET body = replace(body, 'alice', 'aliCe') WHERE kind = 'member'",
        ),
        ("a policy is gone", "DELETE FROM items WHERE kind = 'policy'"),
    ] {
        let dir = Dir::new();
        store_of_release_01(dir.path());
        let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
        assert!(raw.execute(sql, []).unwrap() > 0, "{what}");
        drop(raw);
        let error = chain(&keepgate_center::Center::start(config(&dir)).await.err().expect(what));
        assert!(error.contains("damaged"), "{what}: {error}");
        let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
        let layout: i64 = raw.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(layout, 1, "{what}: it is left as it was");
        assert!(!dir.path().join("center.high").exists());
    }
}

/// What gates of release 0.1.0 have sent, byte for byte: first with nothing held, then from what was
/// kept, which is of the recorded store.
#[tokio::test]
async fn what_gates_of_release_01_send_is_understood() {
    let dir = Dir::new();
    store_of_release_01(dir.path());
    let center = Running::start(&dir).await;
    let token = recorded_text("gate.token");
    let recorded_head = recorded_text("revision");
    let head: u64 = recorded_head.split(' ').next().unwrap().parse().unwrap();
    let mut first = Raw::replay(&center, &token, &recorded("gate-first")).await;
    let held = first.held().await;
    assert_eq!(held.revision, head);
    let digest = keepgate_policy::Digest::from_bytes(&held.digest).unwrap().to_string();
    assert!(recorded_head.ends_with(&digest), "the digest that release 0.1 has of it: {digest}");
    let mut again = Raw::replay(&center, &token, &recorded("gate-again")).await;
    again.hold(Held { revision: head - 1, digest: Vec::new(), mark: None });
    while again.held().await.revision < head {
        again.next().await.unwrap();
    }
    assert_eq!(again.held().await.digest, held.digest, "a delta brings it there");
    assert_eq!(again.snapshots(), 0);
    for stream in [&mut first, &mut again] {
        while stream.beats() == 0 {
            stream.next().await.unwrap();
        }
        assert!(!stream.was_welcomed(), "release 0.1 knows no Welcome");
    }
    let gates = center.status().await["gates"].clone();
    for gate in gates.as_array().unwrap() {
        assert_eq!(gate["release"], "0.1", "{gates}");
    }
    center.stop().await;
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
    center.member("alice", "assign").await.good();
    let revision = center.revision().await;
    while old.held().await.revision < revision {
        old.next().await.unwrap();
    }
    let said = center.status().await;
    assert_eq!(said["gates"][0]["release"], "0.1");
    center.ask("PUT", "/v1/services/orders", Some(newer)).await.good();
    center.member("bob", "assign").await.good();
    let held_back = async {
        loop {
            let said = center.status().await;
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
    center.member("carol", "assign").await.good();
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

/// Whoever applies what a connected gate does not understand is told which gate that is, before and
/// after.
#[tokio::test]
async fn gates_that_are_too_old_for_an_apply_are_named() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    for service in ["orders", "other"] {
        center.service(service, &[("staff", STAFF)]).await;
    }
    let gate = center.token("gate", "orders").await;
    let hello = |follower: &str, format| proto::Hello {
        services: vec!["orders".to_owned()],
        follower: follower.to_owned(),
        format,
        ..proto::Hello::default()
    };
    let mut old = Raw::say_hello(&center, &gate, hello("east", 0)).await.unwrap();
    old.held().await;
    let current = keepgate_policy::mark::FORMAT;
    let mut new = Raw::say_hello(&center, &gate, hello("west", current)).await.unwrap();
    new.held().await;
    let apply = async |service: &str, settings: &str, dry_run: bool| {
        let settings = format!("name = \"{service}\"\n{settings}");
        let files = json!({ "files": { "service.toml": settings, "staff.cedar": STAFF } });
        let path = format!("/v1/services/{service}/apply?dry_run={dry_run}");
        center.ask("POST", &path, Some(files)).await.good()["warnings"].clone()
    };
    assert_eq!(apply("orders", "", true).await, json!(null), "all understand it");
    let newer = "answer_timeout = \"7s\"\n";
    assert_eq!(apply("other", newer, true).await, json!(null), "nobody follows it");
    for dry_run in [true, false] {
        let warned = apply("orders", newer, dry_run).await;
        assert_eq!(warned.as_array().unwrap().len(), 1, "{warned}");
        assert_eq!(warned[0]["gate"], "east");
        let message = warned[0]["message"].as_str().unwrap();
        assert!(message.contains("release 0.1") && message.contains("upgrade"), "{message}");
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
    center.member("alice", "assign").await.good();
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
    assert_eq!(ready.status.as_u16(), 503);
    assert!(center.readiness().await.starts_with("disk: storage-full"), "{ready:?}");
    // Decisions go on.
    assert!(center.allowed("alice").await);
    assert!(!center.allowed(&format!("m{n}")).await);
    std::fs::remove_file(&filler).unwrap();
    center.until_ready().await;
    center.member(&format!("m{n}"), "assign").await.good();
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
    center.member("alice", "assign").await.good();
    center.ask("DELETE", "/v1/services/orders/policies/gone", None).await.good();
    let key = json!({ "principal": "user::\"carol\"" });
    center.ask("POST", "/v1/services/orders/keys", Some(key)).await.good();
    let lines =
        "{\"uid\":{\"type\":\"user\",\"id\":\"erin\"},\"attrs\":{\"floor\":3},\"parents\":[]}\n";
    crate::bulk::import(&center, "/v1/import/entities", lines).await.good();
    let path = "/v1/services/orders/extras";
    let all = center.ask("GET", path, None).await.good();
    assert_eq!(all["members"][0]["member"], "user::\"alice\"");
    assert_eq!(all["entities"][0]["attrs"], json!({ "floor": 3 }), "of the directory, by import");
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
