//! What only a database of several centers does: sessions that end, locks, poolers, TLS, failover.
//! What every store does is in `store_conformance.rs`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use keepgate_center::store::{
    Address, Brought, EditVerdict, Origin, PostgresStore, Retention, RevisionRow, Row, SqliteStore,
    Staged, Store, StoreError, Writing,
};
use keepgate_policy::{ItemKey, Kind, Revision};

use crate::database::{Bouncer, Cluster, Psql, eventually, open, shared, skipped, unique};
use crate::fixture::{Dir, PATIENCE, chain};
use crate::store_conformance::{conformance, put, revision_row, row, write};

const KEEP: Retention = Retention { revisions: 10_000, audit_rows: 100, ..Retention::DEFAULT };

/// The shared cluster, or a loud skip.
macro_rules! cluster {
    () => {
        match shared() {
            Some(cluster) => cluster,
            None => return skipped("PostgreSQL is not installed"),
        }
    };
}

fn refused(url: &str) -> StoreError {
    PostgresStore::open(&Address::parse(url).unwrap()).unwrap_err()
}

/// The next revision, with one item.
fn advance(store: &dyn Store) -> Result<Revision, StoreError> {
    let mut made = Revision(0);
    write(store, |tx| {
        let revision = tx.head()?.0 + 1;
        put(tx, &row("s", Kind::Policy, "p", "{}", revision))?;
        made = Revision(revision);
        tx.advance(&with_id(revision), KEEP)
    })?;
    Ok(made)
}

/// A row with an id of its own, also after another one of its number was lost.
fn with_id(revision: u64) -> RevisionRow {
    static NEXT: Mutex<u64> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    *next += 1;
    let mut row = revision_row(revision);
    row.write_id[8..].copy_from_slice(&next.to_le_bytes());
    row
}

#[test]
fn without_prepared_statements_it_is_the_same_store() {
    let cluster = cluster!();
    let schema = unique("unprepared");
    conformance(&open(&cluster.url(&schema, "&prepared=false")));
}

#[test]
fn several_centers_write_one_line() {
    const WRITERS: usize = 4;
    const EACH: u64 = 25;
    let cluster = cluster!();
    let schema = unique("several");
    let stores: Vec<PostgresStore> = std::thread::scope(|threads| {
        // All of them start at once, on an empty database.
        let starts: Vec<_> =
            (0..WRITERS).map(|_| threads.spawn(|| cluster.store(&schema))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(stores.iter().filter(|store| store.is_first()).count(), 1);
    let made = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for store in &stores {
            threads.spawn(|| {
                for _ in 0..EACH {
                    let revision = loop {
                        match advance(store) {
                            Ok(revision) => break revision,
                            // On a loaded machine the others may hold the lock for long.
                            Err(StoreError::Server { .. }) => {}
                            Err(e) => panic!("{}", chain(&e)),
                        }
                    };
                    made.lock().unwrap().push(revision.0);
                }
            });
        }
        // Meanwhile nobody sees a revision without those before it.
        let reader = &stores[0];
        threads.spawn(move || {
            let mut last = 0;
            while last < WRITERS as u64 * EACH {
                let reading = reader.read().unwrap();
                let head = reading.head().unwrap().0;
                assert!(head >= last);
                last = head;
                // The row of revision 0 goes with the first other one.
                let mut next = head.min(1);
                reading
                    .revisions(&mut |row| {
                        assert_eq!(row.revision.0, next);
                        next += 1;
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(next, head + 1);
            }
        });
    });
    let mut made = made.into_inner().unwrap();
    made.sort_unstable();
    assert_eq!(made, (1..=WRITERS as u64 * EACH).collect::<Vec<_>>());
    for store in &stores {
        store.confirm().unwrap();
    }
    assert_eq!(stores[0].centers().unwrap(), WRITERS as u64);
    stores[1].settle().unwrap();
    assert_eq!(stores[0].centers().unwrap(), WRITERS as u64 - 1);
}

#[test]
fn another_centers_change_wakes() {
    let cluster = cluster!();
    for more in ["", "&prepared=false"] {
        let schema = unique("wakes");
        let (one, two) = (open(&cluster.url(&schema, more)), open(&cluster.url(&schema, more)));
        assert!(one.is_shared());
        assert_eq!(one.wait_head(Revision(0), Duration::from_millis(10)).unwrap(), Revision(0));
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| one.wait_head(Revision(0), PATIENCE).unwrap());
            advance(&two).unwrap();
            assert_eq!(waiting.join().unwrap(), Revision(1));
        });
        // What was seen before is no loss of what was committed since.
        let next = advance(&one).unwrap();
        assert_eq!(one.wait_head(next, Duration::from_millis(50)).unwrap(), next);
        // The listener's session ends; it comes back by itself.
        cluster.sql("kg", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%{schema}.head%' AND pid <> pg_backend_pid()"));
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| {
                let end = Instant::now() + PATIENCE;
                loop {
                    match one.wait_head(next, PATIENCE) {
                        Ok(head) if head != next => break head,
                        _ => assert!(Instant::now() < end),
                    }
                }
            });
            let last = advance(&two).unwrap();
            assert_eq!(waiting.join().unwrap(), last);
        });
    }
}

#[test]
fn a_session_that_ends_within_a_write_leaves_nothing() {
    let cluster = cluster!();
    let schema = unique("killed");
    let store = cluster.store(&schema);
    advance(&store).unwrap();
    let before = store.read().unwrap().head().unwrap();
    let failed = write(&store, |tx| {
        put(tx, &row("s", Kind::Policy, "half", "{}", before.0 + 1))?;
        // So that the row has been sent.
        assert_eq!(tx.count("s", Kind::Policy)?, 2);
        cluster.sql("kg", &format!("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = '{schema}.head'::regclass AND mode = 'RowShareLock'"));
        tx.advance(&with_id(before.0 + 1), KEEP)
    })
    .unwrap_err();
    assert!(!matches!(failed, StoreError::Outcome { .. }), "{}", chain(&failed));
    assert!(failed.is_passing(), "{}", chain(&failed));
    let reading = store.read().unwrap();
    assert_eq!(reading.head().unwrap(), before);
    assert_eq!(reading.item(&ItemKey::policy("s", "half")).unwrap(), None);
    drop(reading);
    assert_eq!(advance(&store).unwrap().0, before.0 + 1);
    // All others end, too, between two calls.
    cluster.sql("kg", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'kg' AND query LIKE '%{schema}%'"));
    assert_eq!(store.read().unwrap().head().unwrap().0, before.0 + 1);
    store.confirm().unwrap();
    assert_eq!(advance(&store).unwrap().0, before.0 + 2);
}

#[test]
fn a_failed_statement_is_never_committed() {
    let cluster = cluster!();
    let store = cluster.store(&unique("swallowed"));
    advance(&store).unwrap();
    let once = store.read().unwrap().revision(Revision(1)).unwrap().unwrap();
    let said = write(&store, |tx| {
        put(tx, &row("s", Kind::Policy, "x", "{}", 2))?;
        let twice = RevisionRow { revision: Revision(2), ..once.clone() };
        assert!(tx.advance(&twice, KEEP).is_err());
        Ok(())
    });
    assert!(said.is_err());
    assert_eq!(store.read().unwrap().head().unwrap(), Revision(1));
    assert_eq!(advance(&store).unwrap(), Revision(2));
}

#[test]
fn who_waits_too_long_for_the_lock_is_told_so() {
    let cluster = cluster!();
    let schema = unique("locked");
    let store = cluster.store(&schema);
    let mut other = Psql::new(cluster);
    other.send(&format!("BEGIN; SELECT * FROM {schema}.head FOR UPDATE"));
    let held = format!(
        "SELECT count(*) FROM pg_locks WHERE relation = '{schema}.head'::regclass AND mode = 'RowShareLock'"
    );
    eventually("a held lock", || cluster.sql("kg", &held) != "0");
    let error = advance(&store).unwrap_err();
    assert!(chain(&error).contains("another center holds the write lock"), "{}", chain(&error));
    assert!(error.is_passing());
    // Reading goes on meanwhile.
    assert_eq!(store.read().unwrap().head().unwrap(), Revision(0));
    store.confirm().unwrap();
    // A write of many rows says so, and is waited for.
    other.send(&format!(
        "SELECT pg_advisory_xact_lock(hashtext('keepgate long write'), hashtext('{schema}'))"
    ));
    let held = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted \
         AND objid::bigint = hashtext('{schema}')::bigint & 4294967295"
    );
    eventually("a long write", || cluster.sql("kg", &held) != "0");
    std::thread::scope(|threads| {
        let writing = threads.spawn(|| advance(&store));
        // Longer than the wait for a lock.
        std::thread::sleep(Duration::from_secs(7));
        other.send("COMMIT");
        assert_eq!(writing.join().unwrap().unwrap(), Revision(1));
    });
}

#[test]
fn many_rows_are_written_and_read() {
    let cluster = cluster!();
    let store = cluster.store(&unique("many"));
    let rows = 7_000;
    write(&store, |tx| {
        for n in 0..rows {
            put(tx, &row("s", Kind::Grant, &format!("g{n:05}"), "{}", 1))?;
        }
        tx.advance(&with_id(1), KEEP)
    })
    .unwrap();
    let reading = store.read().unwrap();
    let mut seen = 0;
    reading
        .each("s", &mut |row| {
            assert_eq!(row.key.id, format!("g{seen:05}"));
            // A visitor may read on.
            if seen % 1000 == 0 {
                assert_eq!(reading.item(&row.key)?.as_ref(), Some(&row));
            }
            seen += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, rows);
    let mut changes = 0;
    reading
        .each_change(&mut |_| {
            changes += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(changes, rows);
}

#[test]
fn tls_is_verified() {
    let cluster = cluster!();
    let schema = unique("tls");
    let ca = cluster.ca().display().to_string();
    let more = format!("&sslmode=verify-full&sslrootcert={ca}&channel_binding=require");
    let store = open(&cluster.tcp("localhost", &schema, &more));
    advance(&store).unwrap();
    let sql = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE client_addr IS NOT NULL";
    assert_eq!(cluster.sql("kg", sql), "t");
    // The certificate is of `localhost`, not of the address.
    let said = chain(&refused(&cluster.tcp("127.0.0.1", &schema, &more)));
    assert!(said.contains("certificate"), "{said}");
    // The host does not know the CA.
    let said = chain(&refused(&cluster.tcp("localhost", &schema, "&sslmode=require")));
    assert!(said.contains("certificate"), "{said}");
    let wrong = cluster.tcp("localhost", &schema, &more).replace("secret", "guessed");
    let said = refused(&wrong);
    assert!(chain(&said).contains("password_file"), "{}", chain(&said));
    assert!(!chain(&said).contains("guessed"));
    // From a file.
    let file = std::env::temp_dir().join(format!("{schema}-{}", std::process::id()));
    std::fs::write(&file, "secret\n").unwrap();
    let url = cluster.tcp("localhost", &schema, &more).replace(":secret", "");
    let store = open(&format!("{url}&password_file={}", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(store.read().unwrap().head().unwrap(), Revision(1));
}

#[test]
fn a_pooler_of_sessions_is_no_different() {
    let cluster = cluster!();
    let Some(pooler) = Bouncer::new(cluster, "session") else {
        return skipped("PgBouncer is not installed");
    };
    conformance(&open(&pooler.url(&unique("session"), "")));
    conformance(&open(&pooler.url(&unique("session"), "&prepared=false")));
}

#[test]
fn a_pooler_of_transactions_needs_the_setting() {
    let cluster = cluster!();
    let Some(pooler) = Bouncer::new(cluster, "transaction") else {
        return skipped("PgBouncer is not installed");
    };
    let schema = unique("pooled");
    let error = refused(&pooler.url(&schema, ""));
    assert!(matches!(error, StoreError::Pooler { .. }), "{}", chain(&error));
    assert!(error.to_string().contains("`prepared=false`"), "{error}");
    let store = open(&pooler.url(&schema, "&prepared=false"));
    conformance(&store);
    let head = store.read().unwrap().head().unwrap();
    let other = open(&pooler.url(&schema, "&prepared=false"));
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| store.wait_head(head, PATIENCE).unwrap());
        assert_eq!(advance(&other).unwrap(), waiting.join().unwrap());
    });
}

#[test]
fn a_database_that_takes_no_writes_says_so() {
    let Some(cluster) = Cluster::new("fsync = off\n") else {
        return skipped("PostgreSQL is not installed");
    };
    let schema = unique("readonly");
    let store = cluster.store(&schema);
    advance(&store).unwrap();
    cluster.sql("kg", "ALTER DATABASE kg SET default_transaction_read_only = on");
    cluster.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'kg'",
    );
    for error in [
        advance(&store).unwrap_err(),
        store.confirm().unwrap_err(),
        refused(&cluster.url(&schema, "")),
    ] {
        assert!(chain(&error).contains("the database takes no writes"), "{}", chain(&error));
        assert!(error.is_passing());
    }
    cluster.sql("postgres", "ALTER DATABASE kg RESET default_transaction_read_only");
    assert_eq!(advance(&store).unwrap(), Revision(2));
    // One that has no connection left, and one that is not there.
    cluster.sql("postgres", "ALTER ROLE kg CONNECTION LIMIT 0");
    let full = refused(&cluster.url(&schema, ""));
    assert!(chain(&full).contains("no connection left"), "{}", chain(&full));
    cluster.sql("postgres", "ALTER ROLE kg CONNECTION LIMIT -1");
    let nowhere = cluster.url(&schema, "").replace("/kg?", "/nowhere?");
    assert!(chain(&refused(&nowhere)).contains("createdb"));
}

#[test]
fn what_would_be_migrated_is_told_before() {
    let cluster = cluster!();
    let schema = unique("pending");
    let address = Address::parse(&cluster.url(&schema, "")).unwrap();
    let told = PostgresStore::pending(&address).unwrap();
    let steps = [
        "layout 1: create the tables of a center",
        "layout 2: keep past states, the keys of access logs, and sessions of the console",
    ];
    assert_eq!(told, steps.map(|step| format!("schema `{schema}`, {step}")));
    // Nothing was written.
    assert_eq!(PostgresStore::pending(&address).unwrap(), told);
    let store = PostgresStore::open(&address).unwrap();
    assert!(store.is_first());
    assert_eq!(PostgresStore::pending(&address).unwrap(), Vec::<String>::new());
    assert!(!cluster.store(&schema).is_first());
}

#[test]
fn tables_that_are_gone_are_lost() {
    let cluster = cluster!();
    let schema = unique("dropped");
    let store = cluster.store(&schema);
    advance(&store).unwrap();
    cluster.sql("kg", &format!("DROP SCHEMA {schema} CASCADE"));
    assert!(store.confirm().unwrap_err().is_lost());
    assert!(advance(&store).unwrap_err().is_lost());
    assert!(store.read().map(|_| ()).unwrap_err().is_lost());
}

/// A COMMIT that waits for a standby which is not there: nobody knows, until the lock can be had again.
#[test]
fn a_commit_without_an_answer_is_unknown() {
    let Some(cluster) = Cluster::new("fsync = off\n") else {
        return skipped("PostgreSQL is not installed");
    };
    let schema = unique("unknown");
    let store = cluster.store(&schema);
    let missing = |on: bool| {
        let names = if on { "absent" } else { "" };
        cluster.configure(&format!("fsync = off\nsynchronous_standby_names = '{names}'\n"));
        cluster.sql("postgres", "SELECT pg_reload_conf()");
        eventually("the setting", || {
            cluster.sql("postgres", "SHOW synchronous_standby_names") == names
        });
    };
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
    missing(true);
    // No answer within our own time.
    let row = with_id(1);
    let began = Instant::now();
    let error = write(&store, |tx| tx.advance(&row, KEEP)).unwrap_err();
    assert!(began.elapsed() >= Duration::from_secs(5));
    let StoreError::Outcome { write_id, .. } = &error else { panic!("{}", chain(&error)) };
    assert_eq!(*write_id, Some(row.write_id));
    assert!(error.is_passing());
    // It is not seen, and nobody else gets the lock: it stays unknown.
    assert_eq!(store.read().unwrap().head().unwrap(), Revision(0));
    assert!(matches!(advance(&store), Err(StoreError::Server { .. })));
    // Nor is anything confirmed, and who tries again does not pile up.
    for _ in 0..3 {
        assert!(store.confirm().is_err());
    }
    let waiting_all = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_eq!(cluster.sql("kg", waiting_all), "2");
    // The wait is canceled: it was there all along.
    cluster.sql(
        "postgres",
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
    );
    eventually("a commit", || cluster.sql("kg", waiting) == "0");
    missing(false);
    eventually("a confirmation", || store.confirm().is_ok());
    let found = Mutex::new(None);
    store
        .write(&mut |tx| {
            *found.lock().unwrap() = tx.written(&row.write_id)?;
            Ok(EditVerdict::Rollback)
        })
        .unwrap();
    assert_eq!(found.into_inner().unwrap(), Some(row));
    // An answer with a warning: the wait was canceled before our time was over.
    missing(true);
    let row = with_id(2);
    std::thread::scope(|threads| {
        let writing = threads.spawn(|| write(&store, |tx| tx.advance(&row, KEEP)));
        eventually("a wait or an end", || {
            if cluster.sql("kg", waiting) != "0" {
                cluster.sql("postgres", "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'");
            }
            writing.is_finished()
        });
        let error = writing.join().unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Outcome { .. }), "{}", chain(&error));
    });
    missing(false);
    eventually("the commit", || {
        store.read().unwrap().written(&row.write_id).unwrap().as_ref() == Some(&row)
    });
    assert_eq!(advance(&store).unwrap(), Revision(3));
}

/// The standby that is promoted lacks a revision that was acknowledged.
#[test]
fn a_promoted_standby_is_another_line_of_time() {
    let Some(mut primary) = Cluster::new("fsync = off\n") else {
        return skipped("PostgreSQL is not installed");
    };
    let schema = unique("fork");
    drop(primary.store(&schema));
    let standby = primary.standby("standby");
    let store = open(&primary.url_with(&standby, &schema));
    advance(&store).unwrap();
    advance(&store).unwrap();
    let timeline = store.read().unwrap().meta().unwrap().timeline;
    eventually("a standby that has it", || {
        standby.sql("kg", &format!("SELECT revision FROM {schema}.head")) == "2"
    });
    // The standby hears no more, and a revision is acknowledged that it lacks.
    standby.sql("postgres", "ALTER SYSTEM SET primary_conninfo = ''");
    standby.sql("postgres", "SELECT pg_reload_conf()");
    eventually("no stream", || {
        primary.sql("postgres", "SELECT count(*) FROM pg_stat_replication") == "0"
    });
    advance(&store).unwrap();
    primary.crash();
    standby.promote();
    // What was acknowledged is not there.
    let error = store.confirm().unwrap_err();
    let StoreError::Moved { expected, found } = &error else { panic!("{}", chain(&error)) };
    assert_eq!((expected.as_str(), found.as_str()), ("3", "2"));
    assert!(error.is_lost());
    assert_eq!(store.wait_head(Revision(3), PATIENCE).unwrap(), Revision(2));
    // A center that has not heard of it goes on, and sees the other line of time.
    let other = open(&standby.url(&schema, ""));
    other.confirm().unwrap();
    for store in [&store, &other] {
        let reading = store.read().unwrap();
        assert_eq!(reading.head().unwrap(), Revision(2));
        let (noted, now) = (reading.meta().unwrap().timeline, reading.timeline().unwrap());
        assert_eq!(noted, timeline);
        assert_eq!(now, timeline.replace("/00000001", "/00000002"));
        drop(reading);
        let mut written = String::new();
        store
            .write(&mut |tx: &mut dyn Writing| {
                written = tx.timeline()?;
                Ok(EditVerdict::Rollback)
            })
            .unwrap();
        assert_eq!(written, now);
    }
}

/// Items of all sorts, in key order.
fn many_items(revision: u64, from: usize, to: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for n in from..to {
        let id = format!("user::\"{n:05}{}\"", ["", "\0", "\u{1}", "ü"][n % 4]);
        let mut item = row("s", Kind::Entity, &id, &format!("{{\"at\":{revision}}}"), revision);
        item.needs = 1 + (n % 3) as u32;
        if n % 5 == 0 {
            item.source = "files".to_owned();
            item.origin = Origin { brought: Brought::Files, base: Some(item.digest) };
        }
        if n % 7 == 0 {
            item.origin = Origin::new(Brought::Import);
        }
        rows.push(item);
    }
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

fn stage(store: &dyn Store, rows: &[Row]) -> Staged {
    let mut staged = None;
    // The one before may be on its way out.
    eventually("a place", || {
        let mut unknown = rows.iter().map(|row| Row { revision: Revision(0), ..row.clone() });
        staged = store.stage(&mut unknown, rows.len()).unwrap();
        staged.is_some()
    });
    staged.unwrap()
}

fn all_items(store: &dyn Store) -> Vec<Row> {
    let mut found = Vec::new();
    store
        .read()
        .unwrap()
        .each("s", &mut |row| {
            found.push(row);
            Ok(())
        })
        .unwrap();
    found
}

/// Tables of the schema for items that are laid aside.
fn staging_tables(cluster: &Cluster, schema: &str) -> String {
    cluster.sql("kg", &format!("SELECT count(*) FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relname LIKE 'staged%'"))
}

/// The same rows, laid aside or put one by one, make the same store.
#[test]
fn what_was_laid_aside_is_as_if_put() {
    let cluster = cluster!();
    for more in ["", "&prepared=false"] {
        let schemas = [unique("put"), unique("staged")];
        let long = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted \
             AND objid::bigint = hashtext('{}')::bigint & 4294967295",
            schemas[1]
        );
        let [put_one, staged_one] =
            [&schemas[0], &schemas[1]].map(|schema| open(&cluster.url(schema, more)));
        for (revision, from, to) in [(1, 0, 3_000), (2, 1_500, 7_500)] {
            let rows = many_items(revision, from, to);
            // Others changed some of them meanwhile, more than a statement takes.
            let without: Vec<ItemKey> = rows.iter().step_by(3).map(|row| row.key.clone()).collect();
            write(&put_one, |tx| {
                for row in rows.iter().filter(|row| !without.contains(&row.key)) {
                    tx.put(row)?;
                }
                tx.advance(&with_id(revision), KEEP)
            })
            .unwrap();
            let staged = stage(&staged_one, &rows);
            assert_eq!(staged.rows(), rows.len());
            assert_eq!(staging_tables(cluster, &schemas[1]), "1");
            write(&staged_one, |tx| {
                tx.put(&row("s", Kind::Policy, "p", "{}", revision))?;
                tx.put_staged(&staged, Revision(revision), &without)?;
                // Others see that it is a long one, and wait for longer.
                assert_eq!(cluster.sql("kg", &long), if rows.len() > 5_000 { "1" } else { "0" });
                // It sees what it took over.
                assert_eq!(tx.item(&rows[1].key)?.as_ref(), Some(&rows[1]));
                tx.delete(&ItemKey::policy("s", "p"))?;
                tx.advance(&with_id(revision), KEEP)
            })
            .unwrap();
            drop(staged);
            eventually("no table", || staging_tables(cluster, &schemas[1]) == "0");
            assert_eq!(all_items(&staged_one), all_items(&put_one));
        }
        assert!(all_items(&staged_one).len() > 4_000);
    }
}

/// Behind a pooler of transactions the session that holds the table is another one than that which
/// takes it over.
#[test]
fn items_are_laid_aside_behind_a_pooler() {
    let cluster = cluster!();
    let Some(bouncer) = Bouncer::new(cluster, "transaction") else {
        return skipped("PgBouncer is not installed");
    };
    let schema = unique("aside");
    let store = open(&bouncer.url(&schema, "&prepared=false"));
    let rows = many_items(1, 0, 2_500);
    let staged = stage(&store, &rows);
    write(&store, |tx| {
        tx.put_staged(&staged, Revision(1), &[])?;
        tx.advance(&with_id(1), KEEP)
    })
    .unwrap();
    drop(staged);
    eventually("no table", || staging_tables(cluster, &schema) == "0");
    assert_eq!(all_items(&store), rows);
}

/// A center that goes between laying aside and commit leaves a table without a holder; one that is at
/// work keeps its own.
#[test]
fn what_a_crash_leaves_aside_goes_at_the_next_start() {
    let cluster = cluster!();
    let schema = unique("left");
    let store = cluster.store(&schema);
    advance(&store).unwrap();
    let before = all_items(&store);
    let rows = many_items(2, 0, 1_500);
    let gone = stage(&store, &rows);
    // One at a time; another center has one of its own.
    assert!(store.stage(&mut std::iter::empty(), 0).unwrap().is_none());
    let other = cluster.store(&schema);
    let held = stage(&other, &rows);
    assert_eq!(staging_tables(cluster, &schema), "2");
    let holding = || {
        format!(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_locks JOIN pg_class c ON \
             c.oid = relation JOIN pg_stat_activity USING (pid) WHERE relname LIKE 'staged%' AND \
             relnamespace = '{schema}'::regnamespace ORDER BY backend_start LIMIT 1) AS h"
        )
    };
    cluster.sql("kg", &holding());
    let table = "a table less";
    eventually(table, || {
        drop(cluster.store(&schema));
        staging_tables(cluster, &schema) == "1"
    });
    // What has gone cannot be taken over, and nothing of that write stays.
    let error = write(&store, |tx| {
        tx.put(&row("s", Kind::Policy, "q", "{}", 2))?;
        tx.put_staged(&gone, Revision(2), &[])?;
        tx.advance(&with_id(2), KEEP)
    })
    .unwrap_err();
    assert!(error.is_passing() && !error.is_lost(), "{}", chain(&error));
    assert_eq!(all_items(&store), before);
    // Nor what was emptied, as by a crash of the server, or fails in the middle.
    let names = format!(
        "SELECT relname FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relname LIKE 'staged%'"
    );
    let name = cluster.sql("kg", &names);
    cluster.sql("kg", &format!("DELETE FROM {schema}.{name} WHERE id LIKE '%7%'"));
    let error = write(&store, |tx| {
        tx.put_staged(&held, Revision(2), &[])?;
        tx.advance(&with_id(2), KEEP)
    })
    .unwrap_err();
    assert!(error.is_passing() && !error.is_lost(), "{}", chain(&error));
    assert!(chain(&error).contains("expected 1500 items, found "), "{}", chain(&error));
    assert_eq!(all_items(&store), before);
    drop((gone, held));
    eventually("no table", || staging_tables(cluster, &schema) == "0");
    // The next one is as any.
    let staged = stage(&store, &rows);
    write(&store, |tx| {
        tx.put_staged(&staged, Revision(2), &[])?;
        tx.advance(&with_id(2), KEEP)
    })
    .unwrap();
    assert_eq!(all_items(&store).len(), before.len() + rows.len());
}

/// What `docs` say of a large write: many items in one transaction, on each engine.
#[test]
#[ignore = "takes a while, and only prints how long"]
fn a_million_items_beside_sqlite() {
    let items = std::env::var("KEEPGATE_ITEMS").ok().and_then(|text| text.parse().ok());
    let items: usize = items.unwrap_or(100_000);
    // The memory that a server has if nothing is set.
    let Some(cluster) = Cluster::new("shared_buffers = 128MB\n") else {
        return skipped("PostgreSQL is not installed");
    };
    let dir = Dir::new();
    let sqlite = SqliteStore::open(dir.path()).unwrap();
    let put = cluster.store(&unique("put"));
    let aside = cluster.store(&unique("aside"));
    let engines: [(&str, &dyn Store, bool); 3] = [
        ("SQLite", &sqlite, false),
        ("PostgreSQL, row by row", &put, false),
        ("PostgreSQL, copied", &aside, true),
    ];
    let item = |n: usize, revision: u64| {
        row("s", Kind::Entity, &format!("user::\"{n:07}\""), &"{\"a\":1}".repeat(20), revision)
    };
    println!("| {items} items | before the lock | under the lock | all | beside SQLite |");
    println!("|---|---|---|---|---|");
    let mut of_sqlite = [0.0; 2];
    for (name, store, lay_aside) in engines {
        for (revision, what) in [(1, "new"), (2, "changed")] {
            let began = Instant::now();
            let staged = lay_aside.then(|| {
                let mut rows = (0..items).map(|n| item(n, 0));
                store.stage(&mut rows, items).unwrap().unwrap()
            });
            let before = began.elapsed().as_secs_f64();
            write(store, |tx| {
                match &staged {
                    Some(staged) => tx.put_staged(staged, Revision(revision), &[])?,
                    None => {
                        for n in 0..items {
                            tx.put(&item(n, revision))?;
                        }
                    }
                }
                tx.advance(&with_id(revision), KEEP)
            })
            .unwrap();
            let all = began.elapsed().as_secs_f64();
            let sqlite = &mut of_sqlite[revision as usize - 1];
            if name == "SQLite" {
                *sqlite = all;
            }
            println!(
                "| {name}, {what} | {before:.1} s | {:.1} s | {all:.1} s | {:.1} |",
                all - before,
                all / *sqlite
            );
            drop(staged);
            let mut read = 0;
            store
                .read()
                .unwrap()
                .each("s", &mut |row| {
                    assert_eq!(row.revision, Revision(revision));
                    read += 1;
                    Ok(())
                })
                .unwrap();
            assert_eq!(read, items);
        }
    }
}
