//! What only a database of several centers does: sessions that end, locks, poolers, TLS, failover.
//! What every store does is in `store_conformance.rs`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use keepgate_center::store::{
    Address, EditVerdict, PostgresStore, Retention, RevisionRow, Store, StoreError, Writing,
};
use keepgate_policy::{ItemKey, Kind, Revision};

use crate::database::{Bouncer, Cluster, Psql, eventually, open, shared, skipped, unique};
use crate::fixture::{PATIENCE, chain};
use crate::store_conformance::{conformance, put, revision_row, row, write};

const KEEP: Retention = Retention { revisions: 10_000, audit_rows: 100 };

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
    eventually("a long write", || {
        cluster.sql("kg", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") != "0"
    });
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
    // And one that is not there.
    let nowhere = cluster.url(&schema, "").replace("/kg?", "/nowhere?");
    assert!(chain(&refused(&nowhere)).contains("createdb"));
}

#[test]
fn what_would_be_migrated_is_told_before() {
    let cluster = cluster!();
    let schema = unique("pending");
    let address = Address::parse(&cluster.url(&schema, "")).unwrap();
    let told = PostgresStore::pending(&address).unwrap();
    assert_eq!(told, [format!("schema `{schema}`, layout 1: create the tables of a center")]);
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
    // The wait is canceled: it was there all along.
    cluster.sql(
        "postgres",
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
    );
    eventually("a commit", || cluster.sql("kg", waiting) == "0");
    missing(false);
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
    assert_eq!(store.read().unwrap().written(&row.write_id).unwrap(), Some(row));
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
