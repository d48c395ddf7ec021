//! What a store keeps of access logs that were signed, on both engines, and over backups and moves.

use keepgate_center::store::{Address, EditVerdict, LogHeadRow, LogKeyRow, SqliteStore, Store};
use keepgate_center::upkeep::{self, Place};
use keepgate_policy::proto;
use keepgate_record::{Anchor, PublicKey};
use serde_json::Value;

use crate::database::{shared, skipped, unique};
use crate::fixture::{Dir, Mirror, Running, STAFF, config};

fn head(log: u8, token: &str, seq: u64) -> LogHeadRow {
    LogHeadRow {
        log: [log; 16],
        token: token.to_owned(),
        gate: format!("{token}/gate"),
        seq,
        chain: [seq as u8; 32],
        unix_ms: 1_000 + seq,
    }
}

fn put(store: &dyn Store, heads: &[LogHeadRow]) {
    let mut all = |tx: &mut dyn keepgate_center::store::Writing| {
        heads.iter().try_for_each(|head| tx.put_log_head(head))?;
        Ok(EditVerdict::Commit)
    };
    store.write(&mut all).unwrap();
}

/// `open` opens the same store again.
fn keeps_what_was_signed(open: impl Fn() -> Box<dyn Store>) {
    let store = open();
    {
        let reading = store.read().unwrap();
        assert_eq!(reading.log_keys().unwrap(), []);
        assert_eq!(reading.log_heads(None, 10).unwrap(), []);
        assert_eq!(reading.log_head(&[1; 16]).unwrap(), None);
    }
    let keys = [("b", 1), ("a", 2)].map(|(id, unix_ms)| LogKeyRow {
        id: id.to_owned(),
        seed: [3; 32],
        public: [4; 32],
        unix_ms,
    });
    store
        .write(&mut |tx| {
            keys.iter().try_for_each(|key| tx.put_log_key(key))?;
            Ok(EditVerdict::Commit)
        })
        .unwrap();
    put(&*store, &[head(1, "t", 5), head(2, "t", 7), head(3, "u", 6)]);
    put(&*store, &[head(1, "t", 9)]);
    // What is rolled back was never there.
    store
        .write(&mut |tx| {
            tx.put_log_head(&head(1, "t", 99))?;
            Ok(EditVerdict::Rollback)
        })
        .unwrap();
    drop(store);
    let store = open();
    let reading = store.read().unwrap();
    assert_eq!(reading.log_keys().unwrap(), keys);
    assert_eq!(reading.log_head(&[1; 16]).unwrap(), Some(head(1, "t", 9)));
    let newest = [head(1, "t", 9), head(2, "t", 7), head(3, "u", 6)];
    assert_eq!(reading.log_heads(None, 10).unwrap(), newest);
    assert_eq!(reading.log_heads(None, 2).unwrap(), newest[..2]);
    assert_eq!(reading.log_heads(Some("t"), 10).unwrap(), newest[..2]);
    assert_eq!(reading.log_heads(Some("x"), 10).unwrap(), []);
    // The key of signatures is shown to nobody.
    assert!(!format!("{keys:?}").contains("[3"), "{keys:?}");
}

#[test]
fn sqlite_keeps_what_was_signed() {
    let dir = Dir::new();
    keeps_what_was_signed(|| Box::new(SqliteStore::open(dir.path()).unwrap()));
}

#[test]
fn postgres_keeps_what_was_signed() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    let schema = unique("logs");
    keeps_what_was_signed(|| Box::new(cluster.store(&schema)));
}

/// As a verifier has it.
fn anchor(told: &proto::LogAnchor) -> Anchor {
    assert_eq!(told.refused, "");
    let bytes = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap_or_default();
    Anchor {
        log: told.log.as_slice().try_into().unwrap(),
        gate: told.gate.clone(),
        seq: told.seq,
        chain: bytes(&told.chain),
        previous_seq: told.previous_seq,
        previous_chain: bytes(&told.previous_chain),
        unix_ms: told.unix_ms,
        key: told.key.clone(),
        signature: told.signature.as_slice().try_into().unwrap(),
    }
}

/// Signs at `seq`. All that was signed so far must be by keys that the center tells, and the new anchor
/// must go on from the last.
async fn goes_on(center: &Running, gate: &str, seq: u64, anchors: &mut Vec<Anchor>) {
    let mut mirror = Mirror::follow(center, gate, &["orders"]).await.unwrap();
    let new = anchor(&mirror.sign([7; 16], seq).await);
    let last = anchors.last().map_or((0, [0; 32]), |last| (last.seq, last.chain));
    assert_eq!((new.previous_seq, new.previous_chain), last);
    anchors.push(new);
    let told = center.ask("GET", "/v1/log-keys", None).await.good();
    let keys: Vec<PublicKey> = told["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| serde_json::from_value(key.clone()).unwrap())
        .collect();
    for anchor in &*anchors {
        assert!(keys.iter().any(|key| anchor.is_signed_by(key)), "line {}: {told}", anchor.seq);
    }
    assert_eq!(told["logs"][0]["seq"], Value::from(seq));
}

async fn upkept<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_access_logs_come_along_with_a_backup_and_a_move() {
    let (dir, moved, other) = (Dir::new(), Dir::new(), Dir::new());
    let mut anchors = Vec::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let gate = center.token("gate", "orders").await;
    let admin = center.admin.clone();
    // No key is in this one: the key that was made since stays.
    let early = dir.path().join("early.kgbackup");
    let (at, to) = (Place::from(dir.path()), early.clone());
    upkept(move || upkeep::backup(at, &to, 1).unwrap()).await;
    goes_on(&center, &gate, 5, &mut anchors).await;
    let file = dir.path().join("a.kgbackup");
    let (at, to) = (Place::from(dir.path()), file.clone());
    let held = upkept(move || upkeep::backup(at, &to, 2).unwrap()).await;
    assert_eq!((held.contents.log_keys, held.contents.log_heads), (1, 1));
    goes_on(&center, &gate, 9, &mut anchors).await;
    center.stop().await;
    for (at_ms, backup) in [(3, &file), (4, &early)] {
        let (at, of) = (Place::from(dir.path()), backup.clone());
        upkept(move || upkeep::restore(at, &of).unwrap().commit(at_ms).unwrap()).await;
        let center = Running::start(&dir).await;
        let seq = anchors.last().unwrap().seq + 1;
        // What was signed after the backup is not forgotten.
        goes_on(&center, &gate, seq, &mut anchors).await;
        center.stop().await;
    }
    // Elsewhere, it goes on where the backup is.
    let (at, of) = (Place::from(other.path()), file.clone());
    upkept(move || upkeep::restore(at, &of).unwrap().commit(4).unwrap()).await;
    std::fs::write(other.path().join("admin.token"), &admin).unwrap();
    let center = Running::start(&other).await;
    goes_on(&center, &gate, 6, &mut vec![anchors[0].clone()]).await;
    center.stop().await;
    // A private key that is not that of the public one is told at once.
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once("\"seed\":\"").unwrap();
    let wrong = format!("{before}\"seed\":\"{}{}", "0".repeat(64), &rest[64..]);
    let of = other.path().join("wrong.kgbackup");
    std::fs::write(&of, wrong).unwrap();
    let at = Place::from(dir.path());
    let error = upkept(move || upkeep::restore(at, &of).err().unwrap()).await;
    let error = crate::fixture::chain(&error);
    assert!(error.contains("expected a private key with its public one"), "{error}");
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    let url = cluster.url(&unique("keys"), "");
    let address = upkept(move || Address::parse(&url).unwrap()).await;
    let database =
        Place::Database { address: Box::new(address.clone()), data: moved.path().to_owned() };
    let (from, to) = (Place::from(dir.path()), database);
    upkept(move || upkeep::move_to(from, to, 9).unwrap()).await;
    std::fs::create_dir_all(moved.path()).unwrap();
    std::fs::write(moved.path().join("admin.token"), &admin).unwrap();
    let mut on_database = config(&moved);
    on_database.database = Some(Box::new(address));
    let center = Running::with(on_database).await;
    goes_on(&center, &gate, 20, &mut anchors).await;
    center.stop().await;
}
