//! What every store must do, as functions over any [`Store`], on every engine by one macro.

use keepgate_center::store::{
    Address, AuditRow, Brought, ChangeRow, Changes, EditVerdict, Fork, Meta, Origin, PostgresStore,
    Retention, RevisionRow, Row, ScopeRow, SqliteStore, Standing, Store, StoreError, Sum, SumRow,
    TokenRow, TokenUse, Tombstone, Writing,
};
use keepgate_center::token::Role;
use keepgate_policy::{Digest, ItemKey, Kind, Revision};

use crate::database::{Cluster, shared, skipped, unique};
use crate::fixture::Dir;

pub(crate) const KEEP: Retention =
    Retention { revisions: 100, audit_rows: 100, ..Retention::DEFAULT };

pub(crate) fn row(service: &str, kind: Kind, id: &str, body: &str, revision: u64) -> Row {
    let key = ItemKey::new(service, kind, id);
    let digest = Digest::of_encoded(&key, body.as_bytes());
    Row {
        key,
        body: body.into(),
        revision: Revision(revision),
        digest,
        source: String::new(),
        needs: 1,
        origin: Origin::new(Brought::Files),
    }
}

pub(crate) fn revision_row(revision: u64) -> RevisionRow {
    let mut write_id = [0; 16];
    write_id[..8].copy_from_slice(&revision.to_le_bytes());
    RevisionRow {
        revision: Revision(revision),
        previous: Revision(revision.saturating_sub(1)),
        chain: [revision as u8; 32],
        changed: Digest([revision, 1, 2, 3]),
        others: Digest([4, 5, 6, revision]),
        write_id,
        unix_ms: revision + 1_000,
    }
}

pub(crate) fn write(
    store: &dyn Store,
    mut work: impl FnMut(&mut dyn Writing) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    store.write(&mut |tx| work(tx).map(|()| EditVerdict::Commit))
}

pub(crate) fn put(tx: &mut dyn Writing, row: &Row) -> Result<(), StoreError> {
    tx.put(row)?;
    let body = Some(row.body.clone());
    tx.change(&ChangeRow { revision: row.revision, key: row.key.clone(), body, needs: 1 })
}

/// A new store is empty, at revision 0, which has a row.
fn is_empty_at_first(store: &dyn Store) {
    let reading = store.read().unwrap();
    assert_eq!(reading.head().unwrap(), Revision(0));
    assert_eq!(reading.revision(Revision(0)).unwrap(), Some(RevisionRow::zero()));
    assert_eq!(reading.scopes().unwrap(), []);
    assert_eq!(reading.tokens().unwrap(), []);
    assert_eq!(reading.audit_after(0, 10).unwrap(), []);
    assert_eq!(reading.changes_after(Revision(0), 10).unwrap(), Changes::Rows(vec![]));
    assert_eq!(reading.changes_after(Revision(1), 10).unwrap(), Changes::Pruned);
}

/// What is written is read, replaced and deleted by its whole key.
fn keeps_items(store: &dyn Store) {
    let one = row("s", Kind::Policy, "a", "{\"text\":\"1\"}", 1);
    let two = Row { source: "s".to_owned(), ..row("", Kind::Role, "role::\"ü\\\"\"", "{}", 1) };
    let other = row("t", Kind::Policy, "a", "{\"text\":\"2\"}", 1);
    write(store, |tx| {
        for row in [&one, &two, &other] {
            put(tx, row)?;
        }
        // A transaction sees its own writes.
        assert_eq!(tx.item(&one.key)?, Some(one.clone()));
        tx.advance(&revision_row(1), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    assert_eq!(reading.head().unwrap(), Revision(1));
    assert_eq!(reading.item(&one.key).unwrap(), Some(one.clone()));
    assert_eq!(reading.item(&other.key).unwrap(), Some(other.clone()));
    assert_eq!(reading.sourced("s").unwrap(), std::slice::from_ref(&two));
    assert_eq!(reading.sourced("").unwrap(), []);
    drop(reading);
    let newer = row("s", Kind::Policy, "a", "{\"text\":\"3\"}", 2);
    write(store, |tx| {
        put(tx, &newer)?;
        assert!(tx.delete(&other.key)?);
        assert!(!tx.delete(&other.key)?);
        tx.advance(&revision_row(2), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    assert_eq!(reading.item(&one.key).unwrap(), Some(newer));
    assert_eq!(reading.item(&other.key).unwrap(), None);
}

/// An error or a rollback leaves nothing.
fn is_atomic(store: &dyn Store) {
    let before = store.read().unwrap().head().unwrap();
    let one = row("atomic", Kind::Policy, "a", "{}", 99);
    let work = |tx: &mut dyn Writing| {
        put(tx, &one)?;
        tx.advance(&revision_row(99), KEEP)
    };
    store.write(&mut |tx| work(tx).map(|()| EditVerdict::Rollback)).unwrap();
    let failed = store.write(&mut |tx| {
        work(tx)?;
        Err(StoreError::Corrupt { what: "on purpose".to_owned() })
    });
    assert!(matches!(failed, Err(StoreError::Corrupt { .. })));
    let reading = store.read().unwrap();
    assert_eq!(reading.head().unwrap(), before);
    assert_eq!(reading.item(&one.key).unwrap(), None);
}

/// A reading shows one revision, whatever is written meanwhile.
fn readings_do_not_move(store: &dyn Store) {
    let next = Revision(store.read().unwrap().head().unwrap().0 + 1);
    let old = store.read().unwrap();
    let one = row("still", Kind::Policy, "a", "{}", next.0);
    write(store, |tx| {
        put(tx, &one)?;
        tx.advance(&revision_row(next.0), KEEP)
    })
    .unwrap();
    assert_eq!(old.head().unwrap(), Revision(next.0 - 1));
    assert_eq!(old.item(&one.key).unwrap(), None);
    assert_eq!(store.read().unwrap().item(&one.key).unwrap(), Some(one));
}

/// Lists come in id order and go on after an id; a scope comes in kind order.
fn lists_in_order(store: &dyn Store) {
    let next = Revision(store.read().unwrap().head().unwrap().0 + 1);
    let ids = ["b", "a", "ä", "B", "a b", "z"];
    write(store, |tx| {
        for id in ids {
            put(tx, &row("list", Kind::Grant, id, "{}", next.0))?;
        }
        put(tx, &row("list", Kind::Service, "", "{}", next.0))?;
        put(tx, &row("list", Kind::Policy, "p", "{}", next.0))?;
        tx.advance(&revision_row(next.0), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    let list = |after: &str, limit| -> Vec<String> {
        let rows = reading.list("list", Kind::Grant, after, limit).unwrap();
        rows.into_iter().map(|row| row.key.id).collect()
    };
    assert_eq!(list("", 100), ["B", "a", "a b", "b", "z", "ä"]);
    assert_eq!(list("a", 2), ["a b", "b"]);
    assert_eq!(list("ä", 2), Vec::<String>::new());
    assert_eq!(reading.list("list", Kind::Service, "", 2).unwrap().len(), 1);
    assert_eq!(reading.count("list", Kind::Grant).unwrap(), 6);
    assert_eq!(reading.count("nowhere", Kind::Grant).unwrap(), 0);
    let mut kinds = Vec::new();
    reading
        .each("list", &mut |row| {
            kinds.push(row.key.kind);
            Ok(())
        })
        .unwrap();
    let mut sorted = kinds.clone();
    sorted.sort();
    assert_eq!(kinds, sorted);
    assert_eq!(kinds.len(), 8);
}

/// Changes come in order; old ones go; both are told apart from too many.
fn keeps_changes_for_a_while(store: &dyn Store) {
    let keep = Retention { revisions: 3, audit_rows: 4, ..Retention::DEFAULT };
    let first = store.read().unwrap().head().unwrap().0 + 1;
    for revision in first..first + 6 {
        write(store, |tx| {
            let one = row("c", Kind::Policy, &format!("p{revision}"), "{}", revision);
            put(tx, &one)?;
            let key = ItemKey::policy("c", "gone");
            tx.change(&ChangeRow { revision: Revision(revision), key, body: None, needs: 1 })?;
            tx.audit(&AuditRow {
                seq: 0,
                revision: Revision(revision),
                unix_ms: revision,
                actor: "me".to_owned(),
                action: "test".to_owned(),
                service: "c".to_owned(),
                kind: "policy".to_owned(),
                id: one.key.id.clone(),
                before: None,
                after: Some("{}".to_owned()),
            })?;
            tx.advance(&revision_row(revision), keep)
        })
        .unwrap();
    }
    let reading = store.read().unwrap();
    let head = first + 5;
    let Changes::Rows(rows) = reading.changes_after(Revision(head - 2), 10).unwrap() else {
        panic!("no rows");
    };
    let seen: Vec<(u64, &str, bool)> =
        rows.iter().map(|r| (r.revision.0, r.key.id.as_str(), r.body.is_some())).collect();
    let (p1, p2) = (format!("p{}", head - 1), format!("p{head}"));
    assert_eq!(
        seen,
        [
            (head - 1, p1.as_str(), true),
            (head - 1, "gone", false),
            (head, p2.as_str(), true),
            (head, "gone", false)
        ]
    );
    assert_eq!(reading.changes_after(Revision(head - 2), 3).unwrap(), Changes::TooMany);
    assert!(matches!(reading.changes_after(Revision(head - 3), 10).unwrap(), Changes::Rows(_)));
    assert_eq!(reading.changes_after(Revision(head - 4), 10).unwrap(), Changes::Pruned);
    assert_eq!(reading.changes_after(Revision(head + 1), 10).unwrap(), Changes::Pruned);
    let audit = reading.audit_after(0, 100).unwrap();
    assert_eq!(audit.len(), 4);
    assert!(audit.is_sorted_by(|a, b| a.seq < b.seq));
    assert_eq!(audit.last().unwrap().revision, Revision(head));
    assert_eq!(reading.audit_after(audit[1].seq, 1).unwrap(), [audit[2].clone()]);
}

/// Scopes and tokens are replaced; a scope without items is gone.
fn keeps_scopes_and_tokens(store: &dyn Store) {
    let scope = |items| ScopeRow {
        service: "scope".to_owned(),
        digest: Digest([1, 2, 3, u64::MAX]),
        items,
    };
    let token = TokenRow {
        id: "id1".to_owned(),
        role: Role::Gate,
        service: "scope".to_owned(),
        sha256: [7; 32],
        note: "ü".to_owned(),
        created_unix_s: 10,
        last_used_unix_s: None,
        last_used_from: String::new(),
        revoked_unix_s: None,
        expires_unix_s: Some(99),
    };
    write(store, |tx| {
        tx.scope(&scope(2))?;
        tx.token(&token)
    })
    .unwrap();
    assert!(store.read().unwrap().scopes().unwrap().contains(&scope(2)));
    assert_eq!(store.read().unwrap().tokens().unwrap(), std::slice::from_ref(&token));
    let revoked = TokenRow { revoked_unix_s: Some(11), ..token };
    write(store, |tx| {
        tx.scope(&scope(0))?;
        tx.token(&revoked)?;
        tx.touch(&[used("id1", 20, "::1"), used("id1", 15, "::2"), used("nobody", 1, "")])
    })
    .unwrap();
    // What was noted of its use stays when the token is written with what was known before.
    write(store, |tx| tx.token(&revoked)).unwrap();
    let reading = store.read().unwrap();
    assert!(!reading.scopes().unwrap().iter().any(|row| row.service == "scope"));
    let (last_used_unix_s, last_used_from) = (Some(20), "::1".to_owned());
    let kept = TokenRow { last_used_unix_s, last_used_from, ..revoked };
    assert_eq!(reading.tokens().unwrap(), [kept]);
}

fn used(id: &str, unix_s: u64, from: &str) -> TokenUse {
    TokenUse { id: id.to_owned(), unix_s, from: from.to_owned() }
}

/// Revisions, forks, sums, tombstones and what the store says of its history come back as written.
fn keeps_its_history(store: &dyn Store) {
    let before = store.read().unwrap().meta().unwrap();
    assert_eq!(before.standing, Standing::Ok);
    let next = store.read().unwrap().head().unwrap().0 + 1;
    let tombstone = Tombstone {
        key: ItemKey::policy("h", "gone"),
        revision: Revision(next),
        unix_ms: 7,
        actor: "me".to_owned(),
        action: "policy.delete".to_owned(),
        was: Digest([1, 2, 3, 4]),
    };
    let sum = SumRow { digest: Digest([9, 8, 7, 6]), rows: 3 };
    write(store, |tx| {
        tx.put_tombstone(&tombstone)?;
        tx.set_sum(Sum::Tombstones, sum)?;
        tx.advance(&revision_row(next), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    let row = revision_row(next);
    assert_eq!(reading.revision(Revision(next)).unwrap(), Some(row.clone()));
    assert_eq!(reading.written(&row.write_id).unwrap(), Some(row));
    assert_eq!(reading.written(&[0xff; 16]).unwrap(), None);
    assert_eq!(reading.revision(Revision(next + 1)).unwrap(), None);
    assert_eq!(reading.sum(Sum::Tombstones).unwrap(), sum);
    assert_eq!(reading.tombstone(&tombstone.key).unwrap(), Some(tombstone.clone()));
    let mut found = Vec::new();
    reading
        .tombstones(&mut |row| {
            found.push(row);
            Ok(())
        })
        .unwrap();
    assert_eq!(found, std::slice::from_ref(&tombstone));
    drop(reading);
    // A commit's id comes once.
    let twice = RevisionRow { revision: Revision(next + 1), ..revision_row(next) };
    assert!(write(store, |tx| tx.advance(&twice, KEEP)).is_err());
    let lost = Standing::Lost { why: "a gate says so".to_owned(), witnessed: Revision(5) };
    let meta = Meta { standing: lost, ancestors: vec![before.history], ..before.clone() };
    let fork = Fork { at: Revision(next), resumed: Revision(next + 100) };
    write(store, |tx| {
        tx.remove_tombstone(&tombstone.key)?;
        tx.set_meta(&meta)?;
        tx.fork(fork)?;
        tx.advance(&revision_row(next + 100), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    assert_eq!(reading.meta().unwrap(), meta);
    assert_eq!(reading.forks().unwrap(), [fork]);
    assert_eq!(reading.tombstone(&tombstone.key).unwrap(), None);
    // Nobody is caught up across a fork.
    assert_eq!(reading.changes_after(Revision(next), 10).unwrap(), Changes::Pruned);
    assert_eq!(reading.changes_after(Revision(next + 99), 10).unwrap(), Changes::Pruned);
    let after = reading.changes_after(Revision(next + 100), 10).unwrap();
    assert_eq!(after, Changes::Rows(vec![]));
    drop(reading);
    write(store, |tx| tx.set_meta(&before)).unwrap();
}

/// What is acknowledged is noted, and the note is of the head.
fn notes_the_head(store: &dyn Store) {
    let reading = store.read().unwrap();
    let head = reading.head().unwrap();
    let row = reading.revision(head).unwrap().unwrap();
    let mark = reading.meta().unwrap().mark(head, row.chain);
    store.note_high(&mark).unwrap();
    store.confirm().unwrap();
}

/// Many readings at once, more than any pool keeps.
fn reads_while_writing(store: &dyn Store) {
    let first = store.read().unwrap().head().unwrap().0 + 1;
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                for _ in 0..50 {
                    let reading = store.read().unwrap();
                    let head = reading.head().unwrap();
                    if head.0 >= first {
                        let key = ItemKey::policy("busy", "counter");
                        assert_eq!(reading.item(&key).unwrap().unwrap().revision, head);
                    }
                }
            });
        }
        for revision in first..first + 50 {
            write(store, |tx| {
                put(tx, &row("busy", Kind::Policy, "counter", "{}", revision))?;
                tx.advance(&revision_row(revision), KEEP)
            })
            .unwrap();
        }
    });
}

/// All of it, in an order in which each leaves the store fit for the next.
pub(crate) fn conformance(store: &dyn Store) {
    is_empty_at_first(store);
    keeps_items(store);
    is_atomic(store);
    readings_do_not_move(store);
    lists_in_order(store);
    keeps_changes_for_a_while(store);
    keeps_scopes_and_tokens(store);
    keeps_its_history(store);
    reads_while_writing(store);
    notes_the_head(store);
    store.settle().unwrap();
    assert!(store.read().unwrap().head().unwrap() > Revision(0));
}

/// One engine, with a store that can be opened again.
pub(crate) trait Engine {
    /// A place for a store; none: the engine is not here, which was said.
    fn new() -> Option<Self>
    where
        Self: Sized;
    fn open(&self) -> Result<Box<dyn Store>, StoreError>;
    /// Makes it one of this layout, whatever is in it.
    fn set_layout(&self, layout: i64);
    /// Makes it one of the release before past states were kept.
    fn forget_past(&self);
    /// The layout that this release writes.
    const LAYOUT: i64;
}

pub(crate) struct Sqlite(Dir);

impl Engine for Sqlite {
    const LAYOUT: i64 = 4;

    fn new() -> Option<Sqlite> {
        Some(Sqlite(Dir::new()))
    }

    fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(SqliteStore::open(self.0.path())?))
    }

    fn set_layout(&self, layout: i64) {
        let raw = rusqlite::Connection::open(self.0.path().join("center.db")).unwrap();
        raw.pragma_update(None, "user_version", layout).unwrap();
    }

    fn forget_past(&self) {
        let raw = rusqlite::Connection::open(self.0.path().join("center.db")).unwrap();
        raw.execute_batch(
            "DROP INDEX audit_by_id; DROP TABLE past; DROP TABLE past_head; DROP TABLE log_keys; DROP TABLE log_heads;
             DROP TABLE sessions; DROP TABLE requests; DROP TABLE audit_log; ALTER TABLE audit DROP COLUMN chain;",
        )
        .unwrap();
        self.set_layout(3);
    }
}

pub(crate) struct Postgres(&'static Cluster, String);

impl Engine for Postgres {
    const LAYOUT: i64 = 2;

    fn new() -> Option<Postgres> {
        let Some(cluster) = shared() else {
            skipped("PostgreSQL is not installed");
            return None;
        };
        Some(Postgres(cluster, unique("conformance")))
    }

    fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        let address = Address::parse(&self.0.url(&self.1, "")).unwrap();
        Ok(Box::new(PostgresStore::open(&address)?))
    }

    fn set_layout(&self, layout: i64) {
        let Postgres(cluster, schema) = self;
        cluster.sql("kg", &format!("UPDATE {schema}.layout SET version = {layout}"));
    }

    fn forget_past(&self) {
        let Postgres(cluster, schema) = self;
        let tables = "past past_head log_keys log_heads sessions requests audit_log hour";
        let tables = tables.split(' ').map(|table| format!("{schema}.{table}"));
        let tables = tables.collect::<Vec<_>>().join(", ");
        cluster.sql("kg", &format!("DROP TABLE {tables}; DROP INDEX {schema}.audit_by_id; ALTER TABLE {schema}.audit DROP COLUMN chain"));
        self.set_layout(1);
    }
}

/// Each test on each engine.
macro_rules! on_every_engine {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $test() {
                if let Some(engine) = <super::Sqlite as super::Engine>::new() {
                    super::$test(&engine);
                }
            })*
        }

        mod postgres {
            $(#[test]
            fn $test() {
                if let Some(engine) = <super::Postgres as super::Engine>::new() {
                    super::$test(&engine);
                }
            })*
        }
    };
}

pub(crate) use on_every_engine;

on_every_engine!(
    does_what_every_store_does,
    is_found_again,
    refuses_a_newer_layout_by_number,
    visits_more_than_a_page,
    sees_what_it_has_just_written,
    looks_for_many_tombstones,
    keeps_texts_as_they_are,
    settles_who_brought,
);

fn does_what_every_store_does(engine: &impl Engine) {
    conformance(&*engine.open().unwrap());
}

fn is_found_again(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let one = row("s", Kind::Policy, "a", "{}", 1);
    write(&*store, |tx| {
        put(tx, &one)?;
        tx.advance(&revision_row(1), KEEP)
    })
    .unwrap();
    let meta = store.read().unwrap().meta().unwrap();
    store.note_high(&meta.mark(Revision(1), revision_row(1).chain)).unwrap();
    drop(store);
    let again = engine.open().unwrap();
    let reading = again.read().unwrap();
    assert_eq!(reading.head().unwrap(), Revision(1));
    assert_eq!(reading.item(&one.key).unwrap(), Some(one));
    assert_eq!(reading.meta().unwrap().history, meta.history);
}

fn refuses_a_newer_layout_by_number<E: Engine>(engine: &E) {
    drop(engine.open().unwrap());
    engine.set_layout(7);
    let error = engine.open().map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "the store has layout 7, expected {}; a lower one is migrated by `keepgate center`, a \
             higher one needs a newer release",
            E::LAYOUT
        )
    );
}

fn tombstone(id: &str, revision: u64) -> Tombstone {
    Tombstone {
        key: ItemKey::policy("h", id),
        revision: Revision(revision),
        unix_ms: 7,
        actor: "me".to_owned(),
        action: "policy.delete".to_owned(),
        was: Digest([1, 2, 3, 4]),
    }
}

fn audit(id: &str, revision: u64) -> AuditRow {
    AuditRow {
        seq: 0,
        revision: Revision(revision),
        unix_ms: 1,
        actor: "me".to_owned(),
        action: "test".to_owned(),
        service: "s".to_owned(),
        kind: "policy".to_owned(),
        id: id.to_owned(),
        before: None,
        after: Some("{}".to_owned()),
    }
}

/// Visits come to the end, in order, however many rows there are.
fn visits_more_than_a_page(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let ids: Vec<String> = (0..1300).map(|n| format!("p{n:04}")).collect();
    write(&*store, |tx| {
        for id in ids.iter().rev() {
            put(tx, &row("s", Kind::Policy, id, "{}", 1))?;
            tx.put_tombstone(&tombstone(id, 1))?;
            tx.audit(&audit(id, 1))?;
        }
        tx.advance(
            &revision_row(1),
            Retention { revisions: 100, audit_rows: 2000, ..Retention::DEFAULT },
        )
    })
    .unwrap();
    let reading = store.read().unwrap();
    let (mut items, mut graves, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    reading
        .each_of("s", Kind::Policy, &mut |row| {
            items.push(row.key.id);
            Ok(())
        })
        .unwrap();
    reading
        .tombstones(&mut |row| {
            graves.push(row.key.id);
            Ok(())
        })
        .unwrap();
    reading
        .each_change(&mut |row| {
            changes.push(row.key.id);
            Ok(())
        })
        .unwrap();
    assert_eq!(items, ids);
    assert_eq!(graves, ids);
    assert!(changes.iter().eq(ids.iter().rev()));
    assert_eq!(reading.count("s", Kind::Policy).unwrap(), 1300);
    assert_eq!(reading.audit_after(0, 5000).unwrap().len(), 1300);
    assert_eq!(reading.audit_before(0, 1).unwrap()[0].id, "p0000");
    let key = ItemKey::policy("s", "p0777");
    assert_eq!(reading.audit_of(Revision(1), &key).unwrap().unwrap().id, "p0777");
    assert_eq!(reading.audit_of(Revision(2), &key).unwrap(), None);
    let stopped = reading.each("s", &mut |_| Err(StoreError::Corrupt { what: "stop".to_owned() }));
    assert!(stopped.is_err());
    assert_eq!(reading.head().unwrap(), Revision(1));
}

/// A transaction sees its own writes, by whichever way it looks.
fn sees_what_it_has_just_written(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let one = row("s", Kind::Policy, "a", "{}", 1);
    let two = Row { source: "s".to_owned(), ..row("", Kind::Role, "r", "{}", 1) };
    write(&*store, |tx| {
        put(tx, &one)?;
        put(tx, &two)?;
        assert_eq!(tx.item(&one.key)?, Some(one.clone()));
        assert_eq!(tx.count("s", Kind::Policy)?, 1);
        assert_eq!(tx.list("s", Kind::Policy, "", 9)?, std::slice::from_ref(&one));
        assert_eq!(tx.sourced("s")?, std::slice::from_ref(&two));
        let newer = row("s", Kind::Policy, "a", "{\"a\":1}", 1);
        tx.put(&newer)?;
        assert_eq!(tx.item(&one.key)?, Some(newer));
        assert!(tx.delete(&one.key)?);
        assert!(!tx.delete(&one.key)?);
        assert_eq!(tx.item(&one.key)?, None);
        tx.put(&one)?;
        assert!(tx.delete(&one.key)?);
        assert_eq!(tx.count("s", Kind::Policy)?, 0);
        tx.put(&one)?;
        let grave = tombstone("a", 1);
        tx.put_tombstone(&grave)?;
        assert_eq!(tx.tombstone(&grave.key)?, Some(grave.clone()));
        tx.remove_tombstone(&grave.key)?;
        assert_eq!(tx.tombstone(&grave.key)?, None);
        tx.put_tombstone(&grave)?;
        tx.audit(&audit("a", 1))?;
        tx.audit(&audit("b", 1))?;
        let log = tx.audit_after(0, 9)?;
        assert_eq!(
            log.iter().map(|row| (row.seq, row.id.as_str())).collect::<Vec<_>>(),
            [(1, "a"), (2, "b")]
        );
        assert_eq!(tx.head()?, Revision(0));
        tx.advance(&revision_row(1), KEEP)?;
        assert_eq!(tx.head()?, Revision(1));
        assert!(
            matches!(tx.changes_after(Revision(0), 9)?, Changes::Rows(rows) if rows.len() == 2)
        );
        tx.audit(&audit("c", 1))
    })
    .unwrap();
    let reading = store.read().unwrap();
    assert_eq!(reading.item(&one.key).unwrap(), Some(one));
    assert_eq!(reading.tombstone(&tombstone("a", 1).key).unwrap(), Some(tombstone("a", 1)));
    assert_eq!(reading.audit_before(0, 9).unwrap().len(), 3);
    assert_eq!(reading.audit_of_id("b", 0, 9).unwrap(), reading.audit_after(1, 1).unwrap());
    assert_eq!(reading.audit_of_id("b", 2, 9).unwrap(), []);
    drop(reading);
    write(&*store, |tx| {
        tx.remove_tombstone(&tombstone("a", 1).key)?;
        tx.changes_left_out(Revision(2), 5)?;
        tx.advance(&revision_row(2), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    assert_eq!(reading.tombstone(&tombstone("a", 1).key).unwrap(), None);
    assert_eq!(reading.changes_after(Revision(1), 9).unwrap(), Changes::TooMany);
}

/// Many look-ups of tombstones find what one does, also of those that the transaction writes.
fn looks_for_many_tombstones(engine: &impl Engine) {
    let store = engine.open().unwrap();
    write(&*store, |tx| {
        for n in (0..300).step_by(2) {
            tx.put_tombstone(&tombstone(&format!("t{n}"), 1))?;
        }
        tx.advance(&revision_row(1), KEEP)
    })
    .unwrap();
    write(&*store, |tx| {
        for n in 0..300 {
            let one = tombstone(&format!("t{n}"), 1);
            let was = (n % 2 == 0).then(|| one.clone());
            assert_eq!(tx.tombstone(&one.key)?, was, "{n}");
            match was {
                Some(_) => tx.remove_tombstone(&one.key)?,
                None => tx.put_tombstone(&one)?,
            }
            let now = (n % 2 == 1).then_some(one.clone());
            assert_eq!(tx.tombstone(&one.key)?, now, "{n}");
        }
        tx.advance(&revision_row(2), KEEP)
    })
    .unwrap();
    let mut left = 0;
    store
        .read()
        .unwrap()
        .tombstones(&mut |row| {
            let n: u32 = row.key.id[1..].parse().unwrap();
            assert_eq!(n % 2, 1);
            left += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(left, 150);
}

/// Any text is an id: no order, no length and no character changes it.
fn keeps_texts_as_they_are(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let mut ids = [
        "\0",
        "\0a",
        "\u{1}",
        "\u{1}\0",
        "\u{2}",
        " ",
        "'",
        "\"",
        "\\",
        "a",
        "A",
        "\u{10ffff}",
        "é",
        "e\u{301}",
    ];
    ids.sort_unstable();
    write(&*store, |tx| {
        for id in ids {
            put(tx, &row("s", Kind::Grant, id, "{}", 1))?;
            tx.audit(&audit(id, 1))?;
            let key = ItemKey::new("s", Kind::Grant, id);
            tx.put_tombstone(&Tombstone { key, ..tombstone("", 1) })?;
        }
        tx.advance(&revision_row(1), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    let found = reading.list("s", Kind::Grant, "", 100).unwrap();
    assert!(found.iter().map(|row| row.key.id.as_str()).eq(ids));
    for (at, id) in ids.iter().enumerate() {
        let key = ItemKey::new("s", Kind::Grant, *id);
        assert_eq!(reading.item(&key).unwrap().unwrap().key, key);
        assert_eq!(reading.tombstone(&key).unwrap().unwrap().key, key);
        assert_eq!(reading.list("s", Kind::Grant, id, 100).unwrap().len(), ids.len() - at - 1);
    }
    let mut graves = Vec::new();
    reading
        .tombstones(&mut |row| {
            graves.push(row.key.id);
            Ok(())
        })
        .unwrap();
    assert_eq!(graves, ids);
    assert!(reading.audit_after(0, 100).unwrap().iter().map(|row| row.id.as_str()).eq(ids));
}

/// Only an item that is as the files have it is noted as theirs.
fn settles_who_brought(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let base = Some(Digest([1, 2, 3, 4]));
    let origin = Origin { brought: Brought::Files, base };
    let one = Row { origin, ..row("s", Kind::Policy, "a", "{}", 1) };
    let two = Row { origin: Origin::new(Brought::Command), ..row("s", Kind::Policy, "b", "{}", 1) };
    write(&*store, |tx| {
        put(tx, &one)?;
        put(tx, &two)?;
        tx.settle_origin(&one.key, one.digest)?;
        tx.settle_origin(&two.key, one.digest)?;
        let settled = Row { origin: Origin::new(Brought::Files), ..one.clone() };
        assert_eq!(tx.item(&one.key)?, Some(settled));
        tx.advance(&revision_row(1), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    let settled = Row { origin: Origin::new(Brought::Files), ..one.clone() };
    assert_eq!(reading.item(&one.key).unwrap(), Some(settled));
    assert_eq!(reading.item(&two.key).unwrap(), Some(two));
    drop(reading);
    // What is put afterwards counts.
    write(&*store, |tx| {
        tx.settle_origin(&one.key, one.digest)?;
        tx.put(&one)?;
        tx.advance(&revision_row(2), KEEP)
    })
    .unwrap();
    assert_eq!(store.read().unwrap().item(&one.key).unwrap(), Some(one));
}
