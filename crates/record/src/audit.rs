//! The audit log of a center, as it is exported: who changed what, chained as a gate's log is.
//!
//! A part of the log begins with a line that says which log it is and which line is before it
//! ([`AuditStart`]). Then comes one sealed line an entry ([`AuditLine`], [`Sealed`]), then the center's
//! signature on the last one ([`AuditAnchor`]). A part that goes on where another ended can be appended to it.
//!
//! The anchor also says up to which line the center has removed the log, so that nobody passes off a
//! front that was cut as one that was removed because it was old.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use crate::anchor::PublicKey;
use crate::chain::{Link, Sealed};
use crate::files::{FileLine, next_line_within};
use crate::hash::{Hash, LogId};
use crate::verify::{FindingKind, Place, Report};
use crate::{hex, time};

/// The longest line, in bytes: two bodies of 1 MiB, each byte of them escaped, and room for the rest.
pub const MAX_AUDIT_LINE: usize = (12 << 20) + (64 << 10);
/// The action of the entry that says that the line of revisions was begun anew, by a restored
/// backup or by a loss that was accepted.
pub const BEGUN_ANEW: &str = "history.begin";

/// An entry.
#[derive(Clone, Copy, Debug)]
pub struct AuditLine<'a> {
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The revision that it is part of.
    pub revision: u64,
    /// Who: a token's id, `host`, ..
    pub actor: &'a str,
    /// What was asked for: `apply`, `role.assign`, ..
    pub action: &'a str,
    /// The service; empty: none.
    pub service: &'a str,
    /// The kind of what was changed.
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
    /// The body before, as JSON; none: it was not there.
    pub before: Option<&'a str>,
    /// The body after.
    pub after: Option<&'a str>,
}

impl AuditLine<'_> {
    /// As a line without its seal and its end.
    pub fn text(&self) -> Vec<u8> {
        let mut out = b"{\"time\":\"".to_vec();
        time::rfc3339(&mut out, self.unix_ms);
        out.extend_from_slice(b"\",\"revision\":");
        time::number(&mut out, self.revision);
        for (name, text) in [
            ("actor", self.actor),
            ("action", self.action),
            ("service", self.service),
            ("kind", self.kind),
            ("id", self.id),
        ] {
            named(&mut out, name);
            quoted(&mut out, text);
        }
        for (name, body) in [("before", self.before), ("after", self.after)] {
            let Some(body) = body else { continue };
            named(&mut out, name);
            if is_one_value(body) {
                out.extend_from_slice(body.as_bytes());
            } else {
                quoted(&mut out, body);
            }
        }
        out.push(b'}');
        out
    }
}

fn named(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    // A text is always written.
    out.extend_from_slice(&serde_json::to_vec(text).unwrap_or_else(|_| b"\"\"".to_vec()));
}

/// Whether a text is JSON that can stand in a line as it is.
fn is_one_value(text: &str) -> bool {
    !text.bytes().any(|byte| byte < b' ')
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Where a part of the log begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStart {
    /// The log.
    #[serde(with = "hex::member")]
    pub log: LogId,
    /// The line before the first one here; 0: none.
    pub after_seq: u64,
    /// The chain up to and with that line.
    #[serde(with = "hex::member")]
    pub after_chain: Hash,
}

/// The center's word that the log has this chain at this line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnchor {
    /// The log.
    #[serde(with = "hex::member")]
    pub log: LogId,
    /// The number of its last line.
    pub seq: u64,
    /// The chain up to and with it.
    #[serde(with = "hex::member")]
    pub chain: Hash,
    /// Lines up to this one were removed because the log keeps so many; 0: none.
    pub removed_through: u64,
    /// When, by the center's clock, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The center's key, by name.
    pub key: String,
    /// Ed25519 over [`AuditAnchor::signed`].
    #[serde(with = "hex::member")]
    pub signature: [u8; 64],
}

impl AuditAnchor {
    /// The bytes that are signed; those of a gate's log begin otherwise.
    pub fn signed(&self) -> Vec<u8> {
        let mut out = b"keepgate audit anchor\0".to_vec();
        out.extend_from_slice(&u32::try_from(self.key.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(self.key.as_bytes());
        out.extend_from_slice(&self.log);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.removed_through.to_be_bytes());
        out.extend_from_slice(&self.unix_ms.to_be_bytes());
        out
    }

    /// Whether this key has signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.key == key.id && key.has_signed(&self.signed(), &self.signature)
    }
}

/// Where the log was at some time, kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The log; none: whichever is verified.
    #[serde(default, with = "hex::optional", skip_serializing_if = "Option::is_none")]
    pub log: Option<LogId>,
    /// The number of a line.
    pub seq: u64,
    /// The chain up to and with it.
    #[serde(with = "hex::member")]
    pub chain: Hash,
}

/// A line that is no entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditMark {
    /// A part of the log begins.
    AuditLog(AuditStart),
    /// The center has signed it.
    AuditAnchor(AuditAnchor),
}

impl AuditMark {
    /// As a line, with its end.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// The mark that a line is; none: it is an entry, or something else.
    fn of(line: &[u8]) -> Option<Result<AuditMark, serde_json::Error>> {
        let is_mark = [&b"{\"audit_log\":"[..], b"{\"audit_anchor\":"];
        is_mark.iter().any(|begin| line.starts_with(begin)).then(|| serde_json::from_slice(line))
    }
}

/// What the log is judged by.
#[derive(Clone, Debug, Default)]
pub struct AuditWitness {
    /// The center's keys; none: signatures are not looked at.
    pub keys: Option<Vec<PublicKey>>,
    /// Where the log was at earlier times.
    pub heads: Vec<AuditHead>,
    /// The line after which a part begins that is verified alone; none: what is verified is all of it.
    pub after: Option<(u64, Hash)>,
}

/// Verifies an audit log as it was exported.
///
/// # Errors
/// What reading it says.
pub fn verify_audit(from: &mut dyn BufRead, witness: &AuditWitness) -> io::Result<Report> {
    let mut report = Report { files: 1, ..Report::default() };
    let mut run = Run { witness, place: Place::default(), at: None, begun: None, anew: Vec::new() };
    while let Some(line) = next_line_within(from, MAX_AUDIT_LINE)? {
        run.place.line += 1;
        report.lines += 1;
        match line {
            FileLine::Whole(line) => run.line(&line, &mut report),
            FileLine::Torn(_) => {
                let what = "the log ends within a line".to_owned();
                report.find(&run.place, FindingKind::Truncated, what);
            }
            FileLine::TooLong => {
                let what = "the line is longer than any line of an audit log".to_owned();
                report.find(&run.place, FindingKind::Changed, what);
            }
        }
    }
    run.end(&mut report);
    Ok(report)
}

struct Run<'w> {
    witness: &'w AuditWitness,
    place: Place,
    /// The last line, and the chain there.
    at: Option<(u64, Hash)>,
    /// Where the log begins here, and up to where the center says that it removed it.
    begun: Option<(u64, u64)>,
    /// Lines that say that the line of revisions was begun anew.
    anew: Vec<u64>,
}

impl Run<'_> {
    fn removed_by(&mut self, through: u64) {
        if let Some((_, removed)) = &mut self.begun {
            *removed = (*removed).max(through);
        }
    }

    fn line(&mut self, line: &[u8], report: &mut Report) {
        match AuditMark::of(line) {
            Some(Ok(AuditMark::AuditLog(start))) => return self.start(&start, report),
            Some(Ok(AuditMark::AuditAnchor(anchor))) => return self.anchor(&anchor, report),
            Some(Err(error)) => {
                let what = format!("the line about the log cannot be read: {error}");
                return report.find(&self.place, FindingKind::Changed, what);
            }
            None => {}
        }
        let Some(sealed) = Sealed::of(line) else {
            let what = "the line has no number and chain".to_owned();
            return report.find(&self.place, FindingKind::Changed, what);
        };
        report.records += 1;
        let anew = format!("\"action\":\"{BEGUN_ANEW}\",");
        if sealed.open.windows(anew.len()).any(|found| found == anew.as_bytes()) {
            self.begun_anew(&sealed, report);
        }
        self.entry(&sealed, report);
    }

    /// The entry of a restore says where the log stood that was restored.
    fn begun_anew(&mut self, sealed: &Sealed<'_>, report: &mut Report) {
        #[derive(Deserialize)]
        struct Entry {
            action: String,
            before: Option<Before>,
        }
        #[derive(Deserialize)]
        struct Before {
            audit: Option<AuditHead>,
        }
        let line = [sealed.open, b"}"].concat();
        let Ok(entry) = serde_json::from_slice::<Entry>(&line) else { return };
        if entry.action != BEGUN_ANEW {
            return;
        }
        self.anew.push(sealed.seq);
        let said = entry.before.and_then(|before| before.audit);
        if let (Some(said), Some(before)) = (said, self.at)
            && (said.seq, said.chain) != before
        {
            let what = format!(
                "the log that line {} goes on from ended with another line {}: it was not as it was \
                 written when it was restored",
                sealed.seq, said.seq
            );
            report.find(&self.place, FindingKind::Rewritten, what);
        }
        report.notes.push(format!(
            "line {}: the line of revisions was begun anew here, after a restore, a move or a loss that \
             was accepted; what an older log had after line {} is not in this one",
            sealed.seq,
            sealed.seq.saturating_sub(1)
        ));
    }

    fn start(&mut self, start: &AuditStart, report: &mut Report) {
        match report.log {
            Some(log) if log != start.log => {
                let what = format!("another log begins here: {}", hex::text(&start.log));
                report.find(&self.place, FindingKind::Rewritten, what);
            }
            _ => {}
        }
        report.log = Some(start.log);
        let Some((seq, chain)) = self.at else {
            self.at = Some((start.after_seq, start.after_chain));
            self.begun = Some((start.after_seq, 0));
            if start.after_seq == 0 && start.after_chain != Link::first(&start.log).chain {
                let what = "the chain before the first line is not the one of this log".to_owned();
                report.find(&self.place, FindingKind::Changed, what);
            }
            self.heads_at(start.after_seq, &start.after_chain, report);
            return;
        };
        if start.after_seq > seq {
            self.missing(seq.saturating_add(1), start.after_seq, report);
        } else if start.after_seq < seq {
            let what = format!(
                "a part that begins after line {} stands after line {seq}",
                start.after_seq
            );
            report.find(&self.place, FindingKind::Reordered, what);
        } else if start.after_chain != chain {
            let what = format!("the part that begins here goes on from another line {seq}");
            report.find(&self.place, FindingKind::Rewritten, what);
        }
        self.at = Some((start.after_seq, start.after_chain));
    }

    fn missing(&self, from: u64, to: u64, report: &mut Report) {
        let what = if from == to {
            format!("line {from} of the log is missing before this one")
        } else {
            format!("lines {from} to {to} of the log are missing before this one")
        };
        report.find(&self.place, FindingKind::Removed, what);
    }

    fn entry(&mut self, sealed: &Sealed<'_>, report: &mut Report) {
        let Some((seq, chain)) = self.at else {
            let what = "the log does not begin with the line that says which one it is".to_owned();
            report.find(&self.place, FindingKind::Removed, what);
            self.begun = Some((sealed.seq.saturating_sub(1), 0));
            self.at = Some((sealed.seq, sealed.chain));
            report.span = Some((sealed.seq, sealed.seq));
            return;
        };
        let next = seq.saturating_add(1);
        if sealed.seq > next {
            self.missing(next, sealed.seq.saturating_sub(1), report);
        } else if sealed.seq <= seq {
            let what = format!("line {} of the log stands after line {seq}", sealed.seq);
            report.find(&self.place, FindingKind::Reordered, what);
        } else if sealed.after(&chain) != sealed.chain {
            let what = format!(
                "line {} of the log, or the one before it, is not as it was written",
                sealed.seq
            );
            report.find(&self.place, FindingKind::Changed, what);
        }
        // One finding a place: from here on, what the line says itself counts.
        self.at = Some((sealed.seq, sealed.chain));
        let first = report.span.map_or(sealed.seq, |(first, _)| first);
        report.span = Some((first, sealed.seq));
        self.heads_at(sealed.seq, &sealed.chain, report);
    }

    /// Whether the line is the one that it was at an earlier time.
    fn heads_at(&self, seq: u64, chain: &Hash, report: &mut Report) {
        let own = |head: &&AuditHead| head.log.is_none() || head.log == report.log;
        let heads = self.witness.heads.iter().filter(own).map(|head| (head.seq, head.chain));
        let mut noted = heads.chain(self.witness.after).filter(|(at, _)| *at == seq);
        if noted.any(|(_, noted)| noted != *chain) {
            let what = format!(
                "line {seq} had another chain when it was noted: the log up to here was written anew{}",
                self.after_anew(seq)
            );
            report.find(&self.place, FindingKind::Rewritten, what);
        }
    }

    fn after_anew(&self, seq: u64) -> String {
        let line = self.anew.iter().rev().find(|line| **line <= seq);
        line.map(|line| format!("; line {line} says since when, and why")).unwrap_or_default()
    }

    fn anchor(&mut self, anchor: &AuditAnchor, report: &mut Report) {
        let Some(keys) = &self.witness.keys else { return };
        let bad = match keys.iter().find(|key| key.id == anchor.key) {
            None => Some(format!("the signature is by a key that is not known: `{}`", anchor.key)),
            Some(key) if !anchor.is_signed_by(key) => {
                Some("the signature is not the center's".to_owned())
            }
            Some(_) if report.log.is_some_and(|log| log != anchor.log) => {
                Some(format!("the signature is about another log: {}", hex::text(&anchor.log)))
            }
            Some(_) => None,
        };
        if let Some(what) = bad {
            return report.find(&self.place, FindingKind::BadAnchor, what);
        }
        report.anchors += 1;
        self.removed_by(anchor.removed_through);
        let (seq, chain) = self.at.unwrap_or_default();
        if anchor.seq > seq {
            let what = format!(
                "the center has signed up to line {} (at {}); here the log ends with line {seq}",
                anchor.seq,
                time::text(anchor.unix_ms)
            );
            report.find(&self.place, FindingKind::Truncated, what);
        } else if anchor.seq < seq {
            let what = format!("the signature on line {} stands after line {seq}", anchor.seq);
            report.find(&self.place, FindingKind::Reordered, what);
        } else if anchor.chain != chain {
            let what = format!(
                "the center has signed another chain for line {seq} (at {}): what is up to here was \
                 written anew",
                time::text(anchor.unix_ms)
            );
            report.find(&self.place, FindingKind::Rewritten, what);
        } else {
            report.proven = Some((seq, anchor.unix_ms));
        }
    }

    fn end(mut self, report: &mut Report) {
        let last_line = std::mem::take(&mut self.place);
        let Some((last, _)) = self.at else {
            let what = "there is no audit log here".to_owned();
            return report.find(&last_line, FindingKind::Truncated, what);
        };
        for head in &self.witness.heads {
            match head.log.filter(|log| Some(*log) != report.log) {
                Some(log) => {
                    let what = format!(
                        "this is another log than the one that was noted: {}",
                        hex::text(&log)
                    );
                    report.find(&self.place, FindingKind::Rewritten, what);
                }
                None if head.seq > last => {
                    let what = format!(
                        "the log ends with line {last}; it had line {} when it was noted{}",
                        head.seq,
                        self.after_anew(u64::MAX)
                    );
                    report.find(&self.place, FindingKind::Truncated, what);
                }
                None => {}
            }
        }
        let (begun, removed) = self.begun.unwrap_or_default();
        // Only what the center has signed counts: anybody may say that lines were old.
        let is_part = self.witness.after.is_some_and(|(seq, _)| seq == begun);
        if is_part {
            report
                .notes
                .push(format!("what is before line {} is not here", begun.saturating_add(1)));
        } else if begun > removed && self.witness.keys.is_some() {
            let what = format!(
                "lines {} to {begun} are not here, and the center did not say that it removed them",
                removed.saturating_add(1)
            );
            report.find(&self.place, FindingKind::Removed, what);
        } else if begun > 0 {
            report.notes.push(format!(
                "the log begins with line {}: the center has removed older ones",
                begun.saturating_add(1)
            ));
        }
        for head in self.witness.heads.iter().filter(|head| head.seq < begun) {
            report.notes.push(format!(
                "line {} was noted, and cannot be compared: it was removed",
                head.seq
            ));
        }
        report.unproven = last - report.proven.map_or(begun, |(seq, _)| seq).min(last);
        if self.witness.keys.is_some() && report.unproven > 0 && report.is_whole() {
            let what = format!(
                "after line {} there is no signature of the center: the log was cut, or changed",
                last - report.unproven
            );
            report.find(&self.place, FindingKind::Truncated, what);
        }
    }
}

#[cfg(test)]
mod tests;
