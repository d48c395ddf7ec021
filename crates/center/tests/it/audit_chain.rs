//! The chain of the audit log: of the store, on both engines; over what is done to the database behind the
//! center's back; over backups.

use std::collections::BTreeSet;

use keepgate_center::store::{
    AuditRow, EditVerdict, Reading, Retention, SqliteStore, Store, StoreError,
};
use keepgate_center::upkeep::{self, Place};
use keepgate_policy::Revision;
use keepgate_record::{
    AuditAnchor, AuditHead, AuditLine, AuditWitness, FindingKind, Link, PublicKey, Report, hex,
    sealed, verify_audit,
};
use serde_json::{Value, json};

use crate::database::{Cluster, shared, skipped, unique};
use crate::fixture::{Answer, Dir, Running, STAFF, config, request};
use crate::store_conformance::{Engine, Postgres, Sqlite, on_every_engine, revision_row};

fn entry(id: &str, revision: u64) -> AuditRow {
    AuditRow {
        seq: 0,
        revision: Revision(revision),
        unix_ms: 1_000 + revision,
        actor: "me".to_owned(),
        action: "test".to_owned(),
        service: "s".to_owned(),
        kind: "policy".to_owned(),
        id: id.to_owned(),
        before: revision.is_multiple_of(2).then(|| "{\"text\":\"x\"}".to_owned()),
        after: Some("{\"text\":\"\u{1}\\u0000\"}".to_owned()),
    }
}

fn line(row: &AuditRow) -> Vec<u8> {
    AuditLine {
        unix_ms: row.unix_ms,
        revision: row.revision.0,
        actor: &row.actor,
        action: &row.action,
        service: &row.service,
        kind: &row.kind,
        id: &row.id,
        before: row.before.as_deref(),
        after: row.after.as_deref(),
    }
    .text()
}

/// The chain is the one that is made of what is read, and numbers have no gap. How many rows there are.
fn holds(reading: &dyn Reading) -> u64 {
    let state = reading.audit_state().unwrap();
    let mut link = Link { next: state.removed_through + 1, chain: state.removed_chain };
    if state.removed_through == 0 {
        assert_eq!(link, Link::first(&state.log));
    }
    let mut at = 0;
    loop {
        let rows = reading.audit_sealed(at, 7).unwrap();
        let Some((last, _)) = rows.last() else { break };
        at = last.seq;
        for (row, chain) in &rows {
            assert_eq!(row.seq, link.next);
            link.seal(&line(row), &mut Vec::new());
            assert_eq!(*chain, link.chain, "line {}", row.seq);
        }
    }
    assert_eq!((state.seq, state.chain), (link.next - 1, link.chain));
    state.seq - state.removed_through
}

fn land(store: &dyn Store, revision: u64, rows: usize, keep: u64) -> Result<(), StoreError> {
    let keep = Retention { audit_rows: keep, ..Retention::DEFAULT };
    store.write(&mut |tx| {
        for at in 0..rows {
            tx.audit(&entry(&format!("{revision}-{at}-\0\u{1}\"ü"), revision))?;
        }
        tx.advance(&revision_row(revision), keep)?;
        Ok(EditVerdict::Commit)
    })?;
    let meta = store.read()?.meta()?;
    store.note_high(&meta.mark(Revision(revision), revision_row(revision).chain))
}

on_every_engine!(rows_are_chained, rows_of_an_earlier_release_are_chained, goes_on_elsewhere);

fn rows_are_chained(engine: &impl Engine) {
    let store = engine.open().unwrap();
    assert_eq!(holds(&*store.read().unwrap()), 0);
    let log = store.read().unwrap().audit_state().unwrap().log;
    // More than are written at once; what is kept shrinks and grows.
    let mut revision = 0;
    for (rows, keep) in [(1, 9), (0, 9), (3, 9), (1, 2), (5, 3), (2_500, 2_000), (1, 1), (2, 100)] {
        revision += 1;
        land(&*store, revision, rows, keep).unwrap();
        let held = holds(&*store.read().unwrap());
        assert!(held <= keep, "{held} of {keep}");
    }
    // What is rolled back is in no chain.
    store
        .write(&mut |tx| {
            tx.audit(&entry("never", 99))?;
            Ok(EditVerdict::Rollback)
        })
        .unwrap();
    land(&*store, revision + 1, 1, 100).unwrap();
    drop(store);
    let store = engine.open().unwrap();
    assert_eq!(holds(&*store.read().unwrap()), 4);
    // All are removed, and numbers go on.
    land(&*store, revision + 2, 1, 0).unwrap();
    assert_eq!(holds(&*store.read().unwrap()), 0);
    let before = store.read().unwrap().audit_state().unwrap();
    land(&*store, revision + 3, 2, 100).unwrap();
    assert_eq!(holds(&*store.read().unwrap()), 2);
    let after = store.read().unwrap().audit_state().unwrap();
    assert_eq!((after.log, after.seq), (log, before.seq + 2));
}

fn rows_of_an_earlier_release_are_chained(engine: &impl Engine) {
    let store = engine.open().unwrap();
    for revision in 1..=4 {
        land(&*store, revision, 700, 2_500).unwrap();
    }
    let before = store.read().unwrap().audit_after(0, 10_000).unwrap();
    drop(store);
    engine.forget_past();
    let store = engine.open().unwrap();
    let reading = store.read().unwrap();
    assert_eq!(holds(&*reading), 2_500);
    assert_eq!(reading.audit_after(0, 10_000).unwrap(), before);
    assert_eq!(reading.audit_state().unwrap().removed_through, 300);
}

/// A log that is elsewhere goes on with its numbers; one that has begun does not.
fn goes_on_elsewhere(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let begin = |chain: u8| {
        store.write(&mut |tx| {
            tx.audit_begin(&[5; 16], 41, &[chain; 32])?;
            tx.audit(&entry("a", 1))?;
            tx.advance(&revision_row(1), Retention::DEFAULT)?;
            Ok(EditVerdict::Commit)
        })
    };
    begin(7).unwrap();
    let reading = store.read().unwrap();
    let state = reading.audit_state().unwrap();
    assert_eq!((state.log, state.removed_through, state.seq), ([5; 16], 41, 42));
    assert_eq!(holds(&*reading), 1);
    drop(reading);
    assert!(begin(8).is_err());
    assert_eq!(store.read().unwrap().audit_state().unwrap(), state);
}

/// The log as a center exports it, in parts of so many lines.
async fn exported(center: &Running, limit: usize) -> Vec<u8> {
    let mut log = Vec::new();
    let mut after = 0;
    for part in 0.. {
        assert!(part < 1_000);
        let path = format!("/v1/audit/log?after={after}&limit={limit}");
        let bearer = format!("Bearer {}", center.admin);
        let asked = request(http::Method::GET, &path).header("authorization", bearer);
        let answer: Answer = center.send(asked.body(bytes::Bytes::new()).unwrap()).await;
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        assert!(answer.status.is_success(), "{answer:?}");
        log.extend_from_slice(&answer.body);
        let last = answer.body.strip_suffix(b"\n").unwrap().rsplit(|b| *b == b'\n').next().unwrap();
        match keepgate_record::Sealed::of(last) {
            Some(sealed) => after = sealed.seq,
            None => break,
        }
    }
    log
}

/// What is kept elsewhere: the answer of `GET /v1/log-keys`.
async fn noted(center: &Running) -> AuditWitness {
    let told = center.ask("GET", "/v1/log-keys", None).await.good();
    let keys = told["keys"].as_array().unwrap();
    let keys: Vec<PublicKey> =
        keys.iter().map(|key| serde_json::from_value(key.clone()).unwrap()).collect();
    let head: AuditHead = serde_json::from_value(told["audit"].clone()).unwrap();
    AuditWitness { keys: Some(keys), heads: vec![head], after: None }
}

fn verified(log: &[u8], witness: &AuditWitness) -> Report {
    verify_audit(&mut &log[..], witness).unwrap()
}

fn kinds(report: &Report) -> BTreeSet<FindingKind> {
    report.findings.iter().map(|found| found.kind).collect()
}

async fn changes(center: &Running) {
    center.service("orders", &[("staff", STAFF)]).await;
    for who in ["alice", "bob", "carol", "dave"] {
        center.member(who, "assign").await.good();
    }
    center.member("bob", "revoke").await.good();
}

#[tokio::test]
async fn the_log_is_exported_as_it_is_and_is_whole() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    // Before anything was written, too.
    let empty = noted(&center).await;
    assert_eq!(verified(&exported(&center, 10).await, &empty).findings, []);
    changes(&center).await;
    let witness = noted(&center).await;
    let entries = center.ask("GET", "/v1/audit?limit=1000", None).await.good();
    let entries = entries["entries"].as_array().unwrap().clone();
    let mut logs = Vec::new();
    for limit in [1, 3, 10_000] {
        let log = exported(&center, limit).await;
        let report = verified(&log, &witness);
        assert_eq!(report.findings, [], "{limit}");
        assert_eq!(report.records, entries.len() as u64);
        let last = entries.last().unwrap()["seq"].as_u64().unwrap();
        assert_eq!(report.proven.map(|(seq, _)| seq), Some(last));
        logs.push(log);
    }
    // It says the same as the entries do.
    let log = String::from_utf8(logs.pop().unwrap()).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, entry) in lines[1..lines.len() - 1].iter().zip(&entries) {
        for name in ["seq", "revision", "actor", "action", "service", "kind", "id"] {
            assert_eq!(line[name], entry[name], "{line}");
        }
        for name in ["before", "after"] {
            assert_eq!(line.get(name).unwrap_or(&Value::Null), &entry[name], "{line}");
        }
    }
    // A line that is not there yet, and one that cannot be.
    let beyond = entries.len() + 1;
    center.ask("GET", &format!("/v1/audit/log?after={beyond}"), None).await.problem(422);
    center.ask("GET", "/v1/audit/log?after=-1", None).await.problem(400);
    center.ask("GET", "/v1/audit/log?nonsense=1", None).await.problem(400);
    // Who writes to the log in the center's place is found by what was noted, and what was added since is
    // no fault.
    center.member("erin", "assign").await.good();
    assert_eq!(verified(&exported(&center, 10_000).await, &witness).findings, []);
    center.stop().await;
}

/// A way to change the database behind the center's back.
struct Tampering {
    what: &'static str,
    sql: &'static str,
    found: FindingKind,
    /// The center's own keys are enough to find it.
    by_keys: bool,
}

const fn tampering(what: &'static str, sql: &'static str, found: FindingKind) -> Tampering {
    Tampering { what, sql, found, by_keys: true }
}

impl Tampering {
    /// Without the last signature, the center has no memory of what was there.
    const fn by_what_was_noted(self) -> Tampering {
        Tampering { by_keys: false, ..self }
    }
}

/// Statements of both engines.
const TAMPERINGS: &[Tampering] = &[
    tampering("changed", "UPDATE audit SET actor = 'x' WHERE seq = 3", FindingKind::Changed),
    tampering("a body", "UPDATE audit SET after = '{}' WHERE seq = 4", FindingKind::Changed),
    tampering(
        "a time",
        "UPDATE audit SET unix_ms = unix_ms - 1 WHERE seq = 2",
        FindingKind::Changed,
    ),
    tampering("removed", "DELETE FROM audit WHERE seq = 3", FindingKind::Removed),
    tampering(
        "reordered",
        "UPDATE audit SET seq = 999 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 4; \
         UPDATE audit SET seq = 4 WHERE seq = 999",
        FindingKind::Changed,
    ),
    tampering(
        "removed and renumbered",
        "DELETE FROM audit WHERE seq = 3; UPDATE audit SET seq = -(seq - 1) WHERE seq > 3; \
         UPDATE audit SET seq = -seq WHERE seq < 0",
        FindingKind::Changed,
    ),
    tampering(
        "cut",
        "DELETE FROM audit WHERE seq > (SELECT max(seq) - 2 FROM audit)",
        FindingKind::Truncated,
    ),
    tampering(
        "cut, with the signature",
        "DELETE FROM audit WHERE seq > (SELECT max(seq) - 2 FROM audit); \
         UPDATE audit_log SET anchor = ''",
        FindingKind::Truncated,
    )
    .by_what_was_noted(),
    tampering("the front removed", "DELETE FROM audit WHERE seq < 4", FindingKind::Removed),
    tampering(
        "the front passed off as old",
        "UPDATE audit_log SET removed_through = 3, chain = (SELECT chain FROM audit WHERE seq = 3); \
         DELETE FROM audit WHERE seq < 4",
        FindingKind::Removed,
    ),
    tampering("all of it removed", "DELETE FROM audit", FindingKind::Truncated),
];

async fn is_found(
    what: &str,
    start: impl AsyncFn() -> Running,
    tamper: impl FnOnce(),
    wanted: FindingKind,
    by_keys: bool,
) {
    let center = start().await;
    changes(&center).await;
    let mut witness = noted(&center).await;
    assert_eq!(verified(&exported(&center, 10).await, &witness).findings, [], "{what}");
    center.stop().await;
    tamper();
    let center = start().await;
    let log = exported(&center, 10).await;
    let report = verified(&log, &witness);
    assert!(kinds(&report).contains(&wanted), "{what}: {:?}", report.findings);
    // By what the center says now.
    let report = verified(&log, &noted(&center).await);
    assert_eq!(report.is_whole(), !by_keys, "{what}, asked: {:?}", report.findings);
    // The center's keys alone.
    witness.heads.clear();
    let report = verified(&log, &witness);
    assert_eq!(report.is_whole(), !by_keys, "{what}: {:?}", report.findings);
    // What is written now is not signed over it.
    center.member("mallory", "assign").await.good();
    let report = verified(&exported(&center, 10).await, &witness);
    assert_eq!(report.is_whole(), !by_keys, "{what}, and went on: {:?}", report.findings);
    center.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_the_database_is_found() {
    for Tampering { what, sql, found, by_keys } in TAMPERINGS {
        let dir = Dir::new();
        let tamper = || {
            let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
            raw.execute_batch(sql).unwrap();
        };
        is_found(what, || Running::start(&dir), tamper, *found, *by_keys).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_postgres_is_found() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    for Tampering { what, sql, found, by_keys } in TAMPERINGS {
        let (dir, schema) = (Dir::new(), unique("tamper"));
        let tamper = || drop(cluster.sql("kg", &format!("SET search_path TO {schema}; {sql}")));
        let start = || async { Running::with(on_postgres(&dir, cluster, &schema).await).await };
        is_found(what, start, tamper, *found, *by_keys).await;
    }
}

async fn on_postgres(dir: &Dir, cluster: &Cluster, schema: &str) -> keepgate_center::CenterConfig {
    let url = cluster.url(schema, "");
    let parsed =
        tokio::task::spawn_blocking(move || keepgate_center::store::Address::parse(&url).unwrap());
    let mut config = config(dir);
    config.database = Some(Box::new(parsed.await.unwrap()));
    config
}

/// Whoever owns the database has the key as well, and can write all of it anew: what was noted elsewhere
/// shows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_written_anew_by_the_owner_of_the_database_is_found_by_what_was_noted() {
    let dir = Dir::new();
    let tamper = || {
        let store = SqliteStore::open(dir.path()).unwrap();
        let (state, mut rows, key) = {
            let reading = store.read().unwrap();
            let rows = reading.audit_after(0, 1_000).unwrap();
            (reading.audit_state().unwrap(), rows, reading.log_keys().unwrap().pop().unwrap())
        };
        drop(store);
        rows.remove(2);
        let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
        raw.execute_batch("DELETE FROM audit").unwrap();
        let mut link = Link::first(&state.log);
        for row in &rows {
            let seq = link.next;
            link.seal(&line(row), &mut Vec::new());
            raw.execute(
                "INSERT INTO audit VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                rusqlite::params![
                    seq as i64,
                    row.revision.0 as i64,
                    row.unix_ms as i64,
                    row.actor,
                    row.action,
                    row.service,
                    row.kind,
                    row.id,
                    row.before,
                    row.after,
                    link.chain
                ],
            )
            .unwrap();
        }
        let pair =
            ring::signature::Ed25519KeyPair::from_seed_and_public_key(&key.seed, &key.public);
        let mut anchor =
            AuditAnchor { seq: link.next - 1, chain: link.chain, ..state.anchor.unwrap() };
        anchor.signature = pair.unwrap().sign(&anchor.signed()).as_ref().try_into().unwrap();
        let text = serde_json::to_string(&anchor).unwrap();
        raw.execute("UPDATE audit_log SET anchor = ?1", [text]).unwrap();
    };
    let start = || Running::start(&dir);
    is_found("written anew", start, tamper, FindingKind::Truncated, false).await;
}

/// The chain has no secret, so anybody who writes to the database can add a row that fits: it is never
/// signed.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_somebody_added_is_not_signed() {
    let dir = Dir::new();
    let tamper = || {
        let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
        let (seq, chain): (i64, [u8; 32]) = raw
            .query_row("SELECT seq, chain FROM audit ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        let forged = entry("forged", 1);
        let mut link = Link { next: seq as u64 + 1, chain };
        link.seal(&line(&forged), &mut Vec::new());
        raw.execute(
            "INSERT INTO audit (seq, revision, unix_ms, actor, action, service, kind, id, before, after, \
             chain) VALUES (?1, 1, 1001, 'me', 'test', 's', 'policy', 'forged', ?2, ?3, ?4)",
            rusqlite::params![seq + 1, forged.before, forged.after, link.chain],
        )
        .unwrap();
    };
    let start = || Running::start(&dir);
    is_found("added", start, tamper, FindingKind::Reordered, true).await;
}

async fn upkept<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A restored log goes on, and says that it was restored; what the backup did not have is missing, and
/// that is found by what was noted after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_log_goes_on_and_says_so() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    changes(&center).await;
    let before = noted(&center).await;
    let file = dir.path().join("a.kgbackup");
    let (at, to) = (Place::from(dir.path()), file.clone());
    upkept(move || upkeep::backup(at, &to, 1).unwrap()).await;
    center.member("mallory", "assign").await.good();
    let later = noted(&center).await;
    center.stop().await;
    let (at, of) = (Place::from(dir.path()), file.clone());
    upkept(move || upkeep::restore(at, &of).unwrap().commit(2).unwrap()).await;
    let center = Running::start(&dir).await;
    center.member("erin", "assign").await.good();
    let log = exported(&center, 10_000).await;
    let report = verified(&log, &before);
    assert_eq!(report.findings, []);
    assert!(report.notes.iter().any(|note| note.contains("begun anew")), "{:?}", report.notes);
    let report = verified(&log, &later);
    assert_eq!(kinds(&report), [FindingKind::Rewritten].into());
    let what = &report.findings[0].what;
    assert!(what.contains("says since when, and why"), "{what}");
    let entries = center.ask("GET", "/v1/audit?action=history", None).await.good();
    let entry = &entries["entries"][0];
    assert_eq!((&entry["actor"], &entry["kind"]), (&json!("host"), &json!("history")), "{entry}");
    assert_eq!(entry["before"]["audit"]["seq"], json!(before.heads[0].seq));
    assert_eq!(entry["before"]["audit"]["chain"], json!(hex::text(&before.heads[0].chain)));
    center.stop().await;
}

/// A log that was changed before it was backed up is not made right by restoring it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_does_not_launder_a_log() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    changes(&center).await;
    center.stop().await;
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    raw.execute_batch("UPDATE audit SET actor = 'x' WHERE seq = 3").unwrap();
    drop(raw);
    let file = dir.path().join("a.kgbackup");
    let (at, to) = (Place::from(dir.path()), file.clone());
    upkept(move || upkeep::backup(at, &to, 1).unwrap()).await;
    let (at, of) = (Place::from(dir.path()), file.clone());
    upkept(move || upkeep::restore(at, &of).unwrap().commit(2).unwrap()).await;
    let center = Running::start(&dir).await;
    let witness = AuditWitness { heads: Vec::new(), ..noted(&center).await };
    let report = verified(&exported(&center, 10_000).await, &witness);
    assert_eq!(kinds(&report), [FindingKind::Rewritten].into(), "{:?}", report.findings);
    assert!(report.findings[0].what.contains("when it was restored"));
    center.stop().await;
}

/// A file is verified as it was exported, byte by byte.
#[test]
fn a_sealed_line_is_as_the_store_has_it() {
    let row = entry("a", 2);
    let mut link = Link::first(&[1; 16]);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    link.seal(&line(&row), &mut one);
    sealed(&line(&row), 1, &link.chain, &mut two);
    assert_eq!(one, two);
}
