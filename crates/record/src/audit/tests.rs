//! Logs that nobody touched, and what was done to others.

use expect_test::expect;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;
use crate::chain::sealed;

const LOG: LogId = [7; 16];

struct Center {
    pair: Ed25519KeyPair,
    key: PublicKey,
}

impl Center {
    fn new(seed: u8) -> Center {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = PublicKey::new(pair.public_key().as_ref().try_into().unwrap());
        Center { pair, key }
    }

    fn anchor(&self, log: LogId, at: (u64, Hash), removed_through: u64) -> Vec<u8> {
        let (seq, chain) = at;
        let key = self.key.id.clone();
        let mut anchor =
            AuditAnchor { log, seq, chain, removed_through, unix_ms: 5, key, signature: [0; 64] };
        anchor.signature = self.pair.sign(&anchor.signed()).as_ref().try_into().unwrap();
        AuditMark::AuditAnchor(anchor).line()
    }

    fn witness(&self) -> AuditWitness {
        AuditWitness { keys: Some(vec![self.key.clone()]), ..AuditWitness::default() }
    }
}

fn entry(id: &str) -> Vec<u8> {
    AuditLine {
        unix_ms: 1_000,
        revision: 1,
        actor: "a",
        action: "apply",
        service: "s",
        kind: "policy",
        id,
        before: None,
        after: Some("{\"text\":\"x\"}"),
    }
    .text()
}

fn start(log: LogId, after_seq: u64, after_chain: Hash) -> Vec<u8> {
    AuditMark::AuditLog(AuditStart { log, after_seq, after_chain }).line()
}

/// Entries from `first` on with the chain before each and after the last.
fn entries(log: LogId, ids: &[&str]) -> (Vec<Vec<u8>>, Vec<Hash>) {
    let mut link = Link::first(&log);
    let mut chains = vec![link.chain];
    let lines = ids.iter().map(|id| {
        let mut line = Vec::new();
        link.seal(&entry(id), &mut line);
        chains.push(link.chain);
        line
    });
    (lines.collect(), chains)
}

/// A log of six entries, as it is exported.
fn whole(center: &Center) -> (Vec<Vec<u8>>, Vec<Hash>) {
    let (lines, chains) = entries(LOG, &["1", "2", "3", "4", "5", "6"]);
    let mut log = vec![start(LOG, 0, chains[0])];
    log.extend(lines);
    log.push(center.anchor(LOG, (6, chains[6]), 0));
    (log, chains)
}

fn found(log: &[Vec<u8>], witness: &AuditWitness) -> Vec<FindingKind> {
    let report = verify_audit(&mut &log.concat()[..], witness).unwrap();
    report.findings.iter().map(|found| found.kind).collect()
}

fn head(seq: u64, chain: Hash) -> AuditHead {
    AuditHead { log: Some(LOG), seq, chain }
}

#[test]
fn a_line_of_an_entry() {
    let line = AuditLine {
        unix_ms: 1_795_757_400_123,
        revision: 7,
        actor: "4f9c2a7e",
        action: "role.assign",
        service: "",
        kind: "member",
        id: "a\"\n\0",
        before: Some("not JSON"),
        after: Some("{\"a\":[1]}"),
    };
    expect![[r#"{"time":"2026-11-27T05:30:00.123Z","revision":7,"actor":"4f9c2a7e","action":"role.assign","service":"","kind":"member","id":"a\"\n\u0000","before":"not JSON","after":{"a":[1]}}"#]]
        .assert_eq(&String::from_utf8(line.text()).unwrap());
    // What would break the line is written as a text.
    let broken = AuditLine { after: Some("{\n}"), before: None, ..line }.text();
    assert!(broken.ends_with(b",\"after\":\"{\\n}\"}"));
}

#[test]
fn a_log_that_nobody_touched_is_whole() {
    let center = Center::new(1);
    let (log, chains) = whole(&center);
    let heads = vec![head(0, chains[0]), head(3, chains[3]), head(6, chains[6])];
    let witness = AuditWitness { heads, ..center.witness() };
    let report = verify_audit(&mut &log.concat()[..], &witness).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.records, report.proven, report.unproven), (6, Some((6, 5)), 0));
}

/// Each line, each way.
#[test]
fn what_is_done_to_a_log_is_found() {
    let center = Center::new(1);
    let (log, chains) = whole(&center);
    let witness = center.witness();
    for at in 1..=6 {
        let mut changed = log.clone();
        let byte = changed[at].iter().position(|byte| *byte == b'x').unwrap();
        changed[at][byte] = b'y';
        assert_eq!(found(&changed, &witness), [FindingKind::Changed], "line {at}");

        let mut removed = log.clone();
        removed.remove(at);
        let wanted = if at == 6 { FindingKind::Truncated } else { FindingKind::Removed };
        assert_eq!(found(&removed, &witness), [wanted], "line {at}");

        if at < 6 {
            let mut swapped = log.clone();
            swapped.swap(at, at + 1);
            assert!(found(&swapped, &witness).contains(&FindingKind::Reordered), "line {at}");
        }
        let mut doubled = log.clone();
        doubled.insert(at, log[at].clone());
        assert_eq!(found(&doubled, &witness), [FindingKind::Reordered], "line {at}");

        // The end, without the signature and with it.
        let cut = &log[..=at];
        assert_eq!(found(cut, &witness), [FindingKind::Truncated], "line {at}");
        let mut torn = log.concat();
        torn.truncate(torn.len() - 1 - at);
        let report = verify_audit(&mut &torn[..], &witness).unwrap();
        assert!(report.findings.iter().any(|found| found.kind == FindingKind::Truncated));

        // The front, passed off as one that was removed because it was old.
        let mut front = vec![start(LOG, at as u64, chains[at])];
        front.extend_from_slice(&log[at + 1..]);
        assert_eq!(found(&front, &witness), [FindingKind::Removed], "line {at}");
    }
    assert_eq!(found(&log[1..], &witness), [FindingKind::Removed, FindingKind::Changed][..1]);
    assert_eq!(found(&log[..0], &witness), [FindingKind::Truncated]);
    assert_eq!(found(&log[..1], &witness), []);
}

#[test]
fn a_log_that_is_written_anew_is_found() {
    let center = Center::new(1);
    let (log, chains) = whole(&center);
    let (lines, anew) = entries(LOG, &["1", "2", "other", "4", "5", "6"]);
    let rewritten = |anchor: Vec<u8>| {
        let mut log = vec![start(LOG, 0, anew[0])];
        log.extend(lines.clone());
        log.push(anchor);
        log
    };
    // With the signature that there was, with one by another key, with another log's.
    let witness = center.witness();
    let old = rewritten(log.last().unwrap().clone());
    assert_eq!(found(&old, &witness), [FindingKind::Rewritten]);
    let forged = rewritten(Center::new(2).anchor(LOG, (6, anew[6]), 0));
    assert_eq!(found(&forged, &witness), [FindingKind::BadAnchor]);
    let other = rewritten(center.anchor([8; 16], (6, anew[6]), 0));
    assert_eq!(found(&other, &witness), [FindingKind::BadAnchor]);
    // Who has the center's key as well is found by what was noted elsewhere, wherever it is not before
    // what was changed.
    let signed = rewritten(center.anchor(LOG, (6, anew[6]), 0));
    assert_eq!(found(&signed, &witness), []);
    for (seq, chain) in (0..).zip(&chains) {
        let witness = AuditWitness { heads: vec![head(seq, *chain)], ..center.witness() };
        let wanted: &[_] = if seq < 3 { &[] } else { &[FindingKind::Rewritten] };
        assert_eq!(found(&signed, &witness), wanted, "{seq}");
    }
    let later = AuditWitness { heads: vec![head(9, [1; 32])], ..center.witness() };
    assert_eq!(found(&log, &later), [FindingKind::Truncated]);
    let mut another = head(3, chains[3]);
    another.log = Some([9; 16]);
    let another = AuditWitness { heads: vec![another], ..center.witness() };
    assert_eq!(found(&log, &another), [FindingKind::Rewritten]);
}

#[test]
fn what_the_center_removed_is_not_missing() {
    let center = Center::new(1);
    let (log, chains) = whole(&center);
    for removed in 0..=6_u64 {
        let at = usize::try_from(removed).unwrap();
        let mut kept = vec![start(LOG, removed, chains[at])];
        kept.extend_from_slice(&log[at + 1..7]);
        kept.push(center.anchor(LOG, (6, chains[6]), removed));
        assert_eq!(found(&kept, &center.witness()), [], "{removed}");
        // One less was removed than is missing.
        if removed > 0 {
            *kept.last_mut().unwrap() = center.anchor(LOG, (6, chains[6]), removed - 1);
            assert_eq!(found(&kept, &center.witness()), [FindingKind::Removed], "{removed}");
        }
    }
}

/// A part is appended to what was exported before, and goes on from its last line.
#[test]
fn parts_of_a_log_are_one_log() {
    let center = Center::new(1);
    let (log, chains) = whole(&center);
    let part = |from: usize, to: usize| {
        let mut part = vec![start(LOG, from as u64, chains[from])];
        part.extend_from_slice(&log[from + 1..=to]);
        part.push(center.anchor(LOG, (to as u64, chains[to]), 0));
        part
    };
    let witness = center.witness();
    assert_eq!(found(&[part(0, 2), part(2, 6)].concat(), &witness), []);
    assert_eq!(found(&[part(0, 2), part(3, 6)].concat(), &witness), [FindingKind::Removed]);
    assert_eq!(found(&[part(0, 3), part(2, 6)].concat()[..6], &witness)[0], FindingKind::Reordered);
    // A later part alone: by what was noted of the line before it, or not at all.
    assert_eq!(found(&part(2, 6), &witness), [FindingKind::Removed]);
    let noted = AuditWitness { heads: vec![head(2, chains[2])], ..center.witness() };
    assert_eq!(found(&part(2, 6), &noted), [FindingKind::Removed]);
    let after = AuditWitness { after: Some((2, chains[2])), ..center.witness() };
    assert_eq!(found(&part(2, 6), &after), []);
    let other = AuditWitness { after: Some((2, chains[3])), ..center.witness() };
    assert_eq!(found(&part(2, 6), &other), [FindingKind::Rewritten]);
    assert_eq!(found(&part(3, 6), &after), [FindingKind::Removed]);
}

/// What somebody says of old lines counts only where the center has signed it.
#[test]
fn a_head_does_not_say_what_was_removed() {
    let center = Center::new(1);
    let (log, chains) = whole(&center);
    let mut front = vec![start(LOG, 2, chains[2])];
    front.extend_from_slice(&log[3..]);
    // As a center tells it that somebody has changed.
    let said = serde_json::json!({ "log": hex::text(&LOG), "seq": 6, "chain": hex::text(&chains[6]),
        "removed_through": 2 });
    let said = serde_json::from_value(said).unwrap();
    let witness = AuditWitness { heads: vec![said], ..center.witness() };
    assert_eq!(found(&front, &witness), [FindingKind::Removed]);
}

#[test]
fn the_largest_numbers_are_numbers() {
    let center = Center::new(1);
    let mut lines = vec![start(LOG, u64::MAX, [3; 32])];
    for seq in [u64::MAX, 0, u64::MAX] {
        let mut line = Vec::new();
        sealed(&entry("a"), seq, &[1; 32], &mut line);
        lines.push(line);
    }
    assert!(!found(&lines, &center.witness()).is_empty());
}

#[test]
fn a_line_has_a_bound() {
    let center = Center::new(1);
    let mut lines = vec![start(LOG, 0, Link::first(&LOG).chain)];
    let body = "x".repeat(MAX_AUDIT_LINE - 400);
    let text = AuditLine {
        unix_ms: 0,
        revision: 1,
        actor: "",
        action: "",
        service: "",
        kind: "",
        id: "",
        before: None,
        after: Some(&body),
    }
    .text();
    let mut link = Link::first(&LOG);
    let mut line = Vec::new();
    link.seal(&text, &mut line);
    assert!(line.len() <= MAX_AUDIT_LINE);
    lines.push(line);
    lines.push(center.anchor(LOG, (1, link.chain), 0));
    assert_eq!(found(&lines, &center.witness()), []);
    let mut long = Vec::new();
    sealed(&[text.as_slice(), &[b' '; 400]].concat(), 1, &link.chain, &mut long);
    assert!(long.len() > MAX_AUDIT_LINE + 1);
    lines[1] = long;
    assert!(found(&lines, &center.witness()).contains(&FindingKind::Changed));
}
