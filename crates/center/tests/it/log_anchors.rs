//! What a store keeps of access logs that were signed, on both engines.

use keepgate_center::store::{EditVerdict, LogHeadRow, LogKeyRow, SqliteStore, Store};

use crate::database::{shared, skipped, unique};
use crate::fixture::Dir;

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
