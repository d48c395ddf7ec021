//! What every store keeps of the past: what revisions found before they changed it.

use keepgate_center::store::{
    Changes, Fork, PastHead, PastItem, PastRow, Retention, RevisionRow, Store,
};
use keepgate_policy::{Digest, ItemKey, Kind, Revision};

use crate::store_conformance::{
    Engine, KEEP, Postgres, Sqlite, on_every_engine, put, revision_row, row, write,
};

on_every_engine!(
    begins_a_history,
    keeps_what_revisions_found,
    lets_go_of_the_past,
    a_gap_ends_the_past,
    begins_its_past_with_a_migration,
);

fn past(id: &str, revision: u64, was: Option<(&str, u64)>) -> PastRow {
    let key = ItemKey::policy("s", id);
    let before = was.map(|(body, since)| PastItem {
        digest: Digest::of_encoded(&key, body.as_bytes()),
        body: body.into(),
        since: Revision(since),
    });
    PastRow { revision: Revision(revision), key, before }
}

fn past_of(store: &dyn Store, after: u64) -> Vec<PastRow> {
    let mut rows = Vec::new();
    let reading = store.read().unwrap();
    reading
        .past_after(Revision(after), &mut |row| {
            rows.push(row);
            Ok(true)
        })
        .unwrap();
    rows
}

fn advance(store: &dyn Store, row: &RevisionRow, rows: &[PastRow], keep: Retention) -> PastHead {
    write(store, |tx| {
        rows.iter().try_for_each(|row| tx.past(row))?;
        tx.past_complete()?;
        tx.advance(row, keep)
    })
    .unwrap();
    store.read().unwrap().past_head().unwrap()
}

/// They come by revision, then by key, and are the same after a restart.
fn keeps_what_revisions_found(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let head = store.read().unwrap().past_head().unwrap();
    assert_eq!((head.oldest, head.through, head.bytes), (Revision(0), Revision(0), 0));
    assert_eq!(head.reaches(Revision(0)), Revision(0));
    // The row of revision 0 goes with the first revision, and so does its state.
    let head = advance(&*store, &revision_row(1), &[past("a", 1, None)], KEEP);
    assert_eq!((head.oldest, head.bytes), (Revision(1), 0));
    assert_eq!(past_of(&*store, 0), []);
    let two: Vec<PastRow> = (0..200).map(|n| past(&format!("p{n:03}"), 2, None)).collect();
    let reversed: Vec<PastRow> = two.iter().rev().cloned().collect();
    advance(&*store, &revision_row(2), &reversed, KEEP);
    let three = [past("a\u{0}\u{e4}", 3, Some(("{}", 2))), past("b", 3, None)];
    let head = advance(&*store, &revision_row(3), &three, KEEP);
    assert_eq!(head.oldest, Revision(1));
    assert_eq!(head.bytes, two.iter().chain(&three).map(PastRow::bytes).sum::<u64>());
    // A revision without items, such as that of a token.
    let head = advance(&*store, &revision_row(4), &[], KEEP);
    assert_eq!((head.oldest, head.through), (Revision(1), Revision(4)));
    let meta = store.read().unwrap().meta().unwrap();
    store.note_high(&meta.mark(Revision(4), revision_row(4).chain)).unwrap();
    drop(store);
    let store = engine.open().unwrap();
    assert_eq!(past_of(&*store, 1), [two.as_slice(), &three].concat());
    assert_eq!(past_of(&*store, 2), three);
    assert_eq!(past_of(&*store, 3), []);
    let reading = store.read().unwrap();
    let mut seen = 0;
    reading
        .past_after(Revision(1), &mut |_| {
            seen += 1;
            Ok(seen < 3)
        })
        .unwrap();
    assert_eq!(seen, 3);
    let at = |unix_ms| reading.revision_at(unix_ms).unwrap().map(|row| row.revision.0);
    assert_eq!([at(1_000), at(1_001), at(1_002), at(9_999)], [None, Some(1), Some(2), Some(4)]);
}

/// By number, by age and by bytes; what is kept is complete.
fn lets_go_of_the_past(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let one = |revision: u64| vec![past(&format!("p{revision}"), revision, Some(("{}", 1)))];
    let wide = Retention { past_ms: u64::MAX, past_bytes: u64::MAX, ..KEEP };
    for revision in 1..=10 {
        assert_eq!(advance(&*store, &revision_row(revision), &one(revision), wide).oldest.0, 1);
    }
    // Rows of revisions are 1 ms apart: the state of the second lasted until 8 ms ago.
    let head = advance(&*store, &revision_row(11), &one(11), Retention { past_ms: 8, ..wide });
    assert_eq!(head.oldest, Revision(3));
    assert_eq!(past_of(&*store, 0).len(), 8);
    let bytes = past("p10", 10, Some(("{}", 1))).bytes();
    let keep = Retention { past_bytes: 3 * bytes, ..wide };
    let head = advance(&*store, &revision_row(12), &one(12), keep);
    assert_eq!((head.oldest, head.bytes), (Revision(9), 3 * bytes));
    assert_eq!(past_of(&*store, 0), (10..=12).flat_map(one).collect::<Vec<_>>());
    let head = advance(&*store, &revision_row(13), &one(13), Retention { revisions: 2, ..wide });
    assert_eq!(head.oldest, Revision(12));
    assert!(store.read().unwrap().revision(Revision(12)).unwrap().is_some());
    // One that is larger than all that may be kept: nothing before it can be made.
    let head = advance(&*store, &revision_row(14), &one(14), Retention { past_bytes: 1, ..wide });
    assert_eq!((head.oldest, head.through, head.bytes), (Revision(14), Revision(14), 0));
    assert_eq!(past_of(&*store, 0), []);
}

/// Where a revision does not say what it found, no state before it can be made.
fn a_gap_ends_the_past(engine: &impl Engine) {
    let store = engine.open().unwrap();
    advance(&*store, &revision_row(1), &[past("a", 1, None)], KEEP);
    write(&*store, |tx| tx.advance(&revision_row(2), KEEP)).unwrap();
    let head = store.read().unwrap().past_head().unwrap();
    assert_eq!((head.oldest, head.through), (Revision(2), Revision(2)));
    // A jump of the line is none: what is before it was not changed in between.
    let row = RevisionRow { previous: Revision(2), ..revision_row(900) };
    let head = advance(&*store, &row, &[past("a", 900, Some(("{}", 1)))], KEEP);
    assert_eq!((head.oldest, head.through), (Revision(900), Revision(900)), "by number");
    let wide = Retention { revisions: 10_000, ..KEEP };
    let row = RevisionRow { previous: Revision(900), ..revision_row(1_900) };
    let head = advance(&*store, &row, &[past("a", 1_900, Some(("{}", 900)))], wide);
    assert_eq!((head.oldest, head.through), (Revision(900), Revision(1_900)));
    // Written by another, after another revision than the one that is known.
    let row = RevisionRow { previous: Revision(2_000), ..revision_row(2_001) };
    let head = advance(&*store, &row, &[past("a", 2_001, None)], wide);
    assert_eq!((head.oldest, head.through), (Revision(2_000), Revision(2_001)));
}

/// What a release without a past left begins it with its head.
fn begins_its_past_with_a_migration(engine: &impl Engine) {
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
    engine.forget_past();
    let store = engine.open().unwrap();
    assert_eq!(store.read().unwrap().item(&one.key).unwrap(), Some(one));
    let head = store.read().unwrap().past_head().unwrap();
    assert_eq!((head.oldest, head.through, head.bytes), (Revision(1), Revision(1), 0));
    let head = advance(&*store, &revision_row(2), &[past("a", 2, Some(("{}", 1)))], KEEP);
    assert_eq!((head.oldest, head.through), (Revision(1), Revision(2)));
}

/// A history begins within a store: its rows are forgotten, and numbers go on.
fn begins_a_history(engine: &impl Engine) {
    let store = engine.open().unwrap();
    for revision in 1..4 {
        write(&*store, |tx| {
            put(tx, &row("s", Kind::Policy, "a", "{}", revision))?;
            tx.advance(&revision_row(revision), KEEP)
        })
        .unwrap();
    }
    let fork = Fork { at: Revision(3), resumed: Revision(1000) };
    write(&*store, |tx| {
        tx.forget_revisions()?;
        tx.advance(&revision_row(1000), KEEP)?;
        tx.fork(fork)?;
        tx.fork(fork)
    })
    .unwrap();
    let reading = store.read().unwrap();
    assert_eq!(reading.head().unwrap(), Revision(1000));
    assert_eq!(reading.revision(Revision(3)).unwrap(), None);
    assert_eq!(reading.forks().unwrap(), [fork]);
    let mut rows = 0;
    let mut count = |_| {
        rows += 1;
        Ok(())
    };
    reading.revisions(&mut count).unwrap();
    assert_eq!(rows, 1);
    assert_eq!(reading.changes_after(Revision(3), 9).unwrap(), Changes::Pruned);
}
