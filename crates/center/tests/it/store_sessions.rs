//! Sessions of the console, on every engine.

use keepgate_center::store::{
    Address, EditVerdict, Person, PostgresStore, SessionBounds, SessionChange, SessionRow,
    SessionsOf, SqliteStore, Store, TokenRow,
};
use keepgate_center::token::Role;

use crate::database::{shared, skipped, unique};
use crate::fixture::Dir;

const BOUNDS: SessionBounds = SessionBounds { of_holder: 2, all: 4 };

fn row(n: u8, token: &str, created_unix_s: u64) -> SessionRow {
    SessionRow {
        sha256: [n; 32],
        holder: token.to_owned(),
        person: None,
        created_unix_s,
        expires_unix_s: created_unix_s + 100,
        ends_unix_s: created_unix_s + 1_000,
    }
}

fn change(store: &dyn Store, change: &SessionChange) -> bool {
    let mut done = false;
    store
        .write(&mut |tx| {
            done = tx.session_change(change, BOUNDS)?;
            Ok(EditVerdict::Commit)
        })
        .unwrap();
    done
}

fn begin(store: &dyn Store, row: SessionRow) -> bool {
    change(store, &SessionChange::Begin(row))
}

fn found(store: &dyn Store, n: u8) -> Option<SessionRow> {
    store.read().unwrap().console_sessions(SessionsOf::Secret(&[n; 32])).unwrap().pop()
}

fn keeps_sessions(store: &dyn Store) {
    let head = store.read().unwrap().head().unwrap();
    assert_eq!(found(store, 1), None);
    assert!(begin(store, row(1, "a", 1_000)));
    assert_eq!(found(store, 1), Some(row(1, "a", 1_000)));
    // A use keeps it, never beyond its end and never for a shorter time.
    assert!(change(store, &SessionChange::Extend([1; 32], 1_500)));
    assert_eq!(found(store, 1).unwrap().expires_unix_s, 1_500);
    assert!(change(store, &SessionChange::Extend([1; 32], 1_200)));
    assert_eq!(found(store, 1).unwrap().expires_unix_s, 1_500);
    assert!(change(store, &SessionChange::Extend([1; 32], u64::MAX)));
    assert_eq!(found(store, 1).unwrap().expires_unix_s, 2_000);
    assert!(!change(store, &SessionChange::Extend([9; 32], 1_500)));
    assert!(change(store, &SessionChange::End([1; 32])));
    assert!(!change(store, &SessionChange::End([1; 32])));
    assert_eq!(found(store, 1), None);

    // One more of a token ends its oldest; one more of all is refused, until some have expired.
    for (n, token) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        assert!(begin(store, row(n, token, 3_000 + u64::from(n))));
    }
    assert!(begin(store, row(5, "a", 3_010)));
    assert_eq!((found(store, 1), found(store, 2).is_some()), (None, true));
    assert!(!begin(store, row(6, "c", 3_020)));
    assert_eq!(found(store, 6), None);
    assert!(begin(store, row(6, "c", 3_200)));
    assert_eq!(found(store, 2), None, "expired");

    // They end with their token.
    let token = TokenRow {
        id: "c".to_owned(),
        role: Role::Viewer,
        service: String::new(),
        sha256: [0; 32],
        note: String::new(),
        created_unix_s: 1,
        last_used_unix_s: None,
        last_used_from: String::new(),
        revoked_unix_s: None,
        expires_unix_s: None,
    };
    let write = |token: &TokenRow| {
        store.write(&mut |tx| tx.token(token).map(|()| EditVerdict::Commit)).unwrap();
    };
    write(&token);
    assert!(found(store, 6).is_some());
    write(&TokenRow { revoked_unix_s: Some(5), ..token });
    assert_eq!(found(store, 6), None);
    // Of people the store keeps by what setting they came; all of one end together.
    let person = Person {
        issuer: "https://id.example".to_owned(),
        rule: "admin=groups=\"a\" \u{e9}".to_owned(),
    };
    let of_person = |n| SessionRow { person: Some(person.clone()), ..row(n, "oidc:ada", 5_000) };
    for n in [11, 12] {
        assert!(begin(store, of_person(n)));
    }
    assert!(begin(store, row(13, "a", 5_050)));
    assert_eq!(found(store, 11), Some(of_person(11)));
    let good = |now| -> Vec<u8> {
        let all = store.read().unwrap().console_sessions(SessionsOf::Good(now)).unwrap();
        all.iter().map(|row| row.sha256[0]).collect()
    };
    assert_eq!((good(5_099), good(5_100)), (vec![13, 11, 12], vec![13]));
    assert!(change(store, &SessionChange::EndOf("oidc:ada".to_owned())));
    assert!(!change(store, &SessionChange::EndOf("oidc:ada".to_owned())));
    assert_eq!(good(5_060), [13]);
    assert!(change(store, &SessionChange::End([13; 32])));
    // No revision was made for any of it.
    assert_eq!(store.read().unwrap().head().unwrap(), head);
}

#[test]
fn sqlite_keeps_sessions() {
    let dir = Dir::new();
    keeps_sessions(&SqliteStore::open(dir.path()).unwrap());
}

/// A store that was made before there was a console.
#[test]
fn a_store_of_an_earlier_release_gets_the_table() {
    let dir = Dir::new();
    drop(SqliteStore::open(dir.path()).unwrap());
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    raw.execute_batch(
        "DROP INDEX audit_by_id; DROP TABLE past; DROP TABLE past_head; DROP TABLE log_keys; DROP TABLE log_heads;
         DROP TABLE sessions; DROP TABLE requests; DROP TABLE audit_log; ALTER TABLE audit DROP COLUMN chain; PRAGMA user_version = 3;",
    )
    .unwrap();
    drop(raw);
    assert!(begin(&SqliteStore::open(dir.path()).unwrap(), row(1, "a", 1)));
}

#[test]
fn postgresql_keeps_sessions_for_all_centers() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    let address = Address::parse(&cluster.url(&unique("sessions"), "")).unwrap();
    let store = PostgresStore::open(&address).unwrap();
    keeps_sessions(&store);
    // What one center begins, another one knows.
    let other = PostgresStore::open(&address).unwrap();
    assert!(begin(&store, row(7, "d", 9_000)));
    assert_eq!(found(&other, 7), Some(row(7, "d", 9_000)));
    assert!(change(&other, &SessionChange::End([7; 32])));
    assert_eq!(found(&store, 7), None);
}
