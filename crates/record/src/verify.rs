//! Whether a log is whole, and was not changed: its chain, its files, and what a center has signed.
//!
//! The chain alone shows any change by somebody who does not compute it anew. Whoever owns the gate can do
//! that; then the anchors show it, because only the center can sign. Lines after the last anchor are proven
//! by nothing yet.

use std::collections::BTreeMap;
use std::io;

use crate::anchor::{Anchor, Head, PublicKey};
use crate::chain::{Begins, Mark, Sealed};
use crate::files::{FileLine, LogFile, next_line};
use crate::hash::{Hash, LogId};
use crate::time;

/// Findings that are told one by one; the others are counted.
pub const MAX_FINDINGS: usize = 100;
/// Anchors of a log that are looked at; more than a year of one each second.
const MAX_ANCHORS: usize = 40_000_000;

/// What anchors are judged by.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    /// The center's keys.
    pub keys: Vec<PublicKey>,
    /// What it has signed last of each log; none: it was not asked.
    pub heads: Option<Vec<Head>>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file's name; empty: it is about all.
    pub file: String,
    /// The line in it, from 1; 0: it is about the file.
    pub line: u64,
    /// What it is.
    pub kind: FindingKind,
    /// In words.
    pub what: String,
}

/// The ways in which a log can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// A line is not as it was written, or the one before is not.
    Changed,
    /// Lines are missing.
    Removed,
    /// A line is not in its place.
    Reordered,
    /// The log ended later than it does.
    Truncated,
    /// A file is missing.
    FileMissing,
    /// The center has signed another chain.
    Rewritten,
    /// An anchor that the center has not signed.
    BadAnchor,
    /// It cannot be read.
    Unreadable,
}

impl FindingKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Changed => "changed",
            FindingKind::Removed => "removed",
            FindingKind::Reordered => "reordered",
            FindingKind::Truncated => "truncated",
            FindingKind::FileMissing => "file_missing",
            FindingKind::Rewritten => "rewritten",
            FindingKind::BadAnchor => "bad_anchor",
            FindingKind::Unreadable => "unreadable",
        }
    }
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The log.
    pub log: Option<LogId>,
    /// Files that were read.
    pub files: u64,
    /// Lines of them.
    pub lines: u64,
    /// Records among them.
    pub records: u64,
    /// Records that could not be written.
    pub lost: u64,
    /// Requests that were left out by sampling.
    pub sampled_out: u64,
    /// The number of the first line, and of the last.
    pub span: Option<(u64, u64)>,
    /// What is wrong, in the order of the log.
    pub findings: Vec<Finding>,
    /// Findings that are not told.
    pub more: u64,
    /// What a reader should know, and is not wrong.
    pub notes: Vec<String>,
    /// Anchors whose signature holds.
    pub anchors: u64,
    /// The last line that is proven, and when it was signed, in milliseconds since the Unix epoch.
    pub proven: Option<(u64, u64)>,
    /// Lines after it, without anchors and other marks about the log.
    pub unproven: u64,
}

impl Report {
    pub(crate) fn find(&mut self, place: &Place, kind: FindingKind, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            let (file, line) = (place.file.clone(), place.line);
            self.findings.push(Finding { file, line, kind, what });
        } else {
            self.more += 1;
        }
    }

    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Where a reader is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: u64,
}

/// A claim about the chain at a line.
struct Claim {
    chain: Hash,
    unix_ms: u64,
    /// It is what the center says that it had signed before.
    is_previous: bool,
    /// By the center itself, just now.
    is_head: bool,
}

/// Verifies the files of a log, the oldest first.
pub fn verify(files: &[LogFile], witness: Option<&Witness>) -> Report {
    let mut report = Report::default();
    let claims = match witness {
        Some(witness) => claims(files, witness, &mut report),
        None => BTreeMap::new(),
    };
    let mut run = Run { claims, ..Run::default() };
    for file in files {
        report.files += 1;
        run.begin(file);
        if let Err(error) = run.file(file, &mut report) {
            let what = format!("the file cannot be read: {error}");
            report.find(&run.place.clone(), FindingKind::Unreadable, what);
        }
    }
    run.end(witness, &mut report);
    report
}

/// What anchors and the center say of the chain, by line. Says which anchors do not hold.
fn claims(files: &[LogFile], witness: &Witness, report: &mut Report) -> BTreeMap<u64, Vec<Claim>> {
    let mut claims: BTreeMap<u64, Vec<Claim>> = BTreeMap::new();
    let mut log = None;
    for file in files {
        let mut place = Place { file: file.name(), line: 0 };
        let Ok(mut from) = file.open() else { continue };
        while let Ok(Some(line)) = next_line(&mut *from) {
            place.line += 1;
            let (FileLine::Whole(line) | FileLine::Torn(line)) = line else { continue };
            let Some(sealed) = Sealed::of(&line) else { continue };
            match Mark::of(sealed.open) {
                Some(Mark::Begins(begins)) => log = Some(begins.log),
                Some(Mark::Anchor(anchor)) if (report.anchors as usize) < MAX_ANCHORS => {
                    match judged(&anchor, &sealed, log, witness) {
                        Ok(()) => {
                            report.anchors += 1;
                            claim(&mut claims, &anchor);
                        }
                        Err(why) => report.find(&place, FindingKind::BadAnchor, why),
                    }
                }
                _ => {}
            }
        }
    }
    let head = log.and_then(|log| witness.heads.as_ref()?.iter().find(|head| head.log == log));
    if let Some(head) = head {
        let Head { chain, unix_ms, seq, .. } = head.clone();
        let claim = Claim { chain, unix_ms, is_previous: false, is_head: true };
        claims.entry(seq).or_default().push(claim);
    }
    claims
}

fn claim(claims: &mut BTreeMap<u64, Vec<Claim>>, anchor: &Anchor) {
    let Anchor { seq, chain, unix_ms, previous_seq, previous_chain, .. } = *anchor;
    let claim = Claim { chain, unix_ms, is_previous: false, is_head: false };
    claims.entry(seq).or_default().push(claim);
    // As a rule the anchor before says the same.
    let before = claims.entry(previous_seq).or_default();
    if previous_seq > 0 && before.iter().all(|claim| claim.chain != previous_chain) {
        before.push(Claim { chain: previous_chain, unix_ms, is_previous: true, is_head: false });
    }
}

fn judged(
    anchor: &Anchor,
    line: &Sealed<'_>,
    log: Option<LogId>,
    witness: &Witness,
) -> Result<(), String> {
    let Some(key) = witness.keys.iter().find(|key| key.id == anchor.key) else {
        return Err(format!(
            "the anchor is signed with `{}`, which is none of the keys",
            anchor.key
        ));
    };
    if !anchor.is_signed_by(key) {
        return Err("the anchor's signature does not hold".to_owned());
    }
    if log.is_some_and(|log| log != anchor.log) {
        return Err("the anchor is of another log".to_owned());
    }
    if anchor.seq >= line.seq {
        return Err(format!("the anchor is about line {}, which comes after it", anchor.seq));
    }
    Ok(())
}

#[derive(Default)]
struct Run {
    claims: BTreeMap<u64, Vec<Claim>>,
    place: Place,
    /// The number and chain of the line before.
    last: Option<(u64, Hash)>,
    begins: Option<Begins>,
    /// The number of the first file, and the newest that is said to have been removed.
    first_file: Option<u64>,
    removed_through: u64,
    /// The last line ended the log in order.
    is_closed: bool,
    /// Records, by how many came up to the last line that is proven.
    proven_records: u64,
    is_torn: bool,
}

impl Run {
    fn begin(&mut self, file: &LogFile) {
        self.place = Place { file: file.name(), line: 0 };
    }

    fn file(&mut self, file: &LogFile, report: &mut Report) -> io::Result<()> {
        let mut from = file.open()?;
        while let Some(line) = next_line(&mut *from)? {
            self.place.line += 1;
            report.lines += 1;
            match line {
                FileLine::Whole(line) => self.line(&line, report),
                FileLine::Torn(line) => {
                    self.is_torn = true;
                    if file.number.is_some() {
                        let what = "the file ends within a line".to_owned();
                        report.find(&self.place, FindingKind::Changed, what);
                    } else {
                        report.lines -= 1;
                        let bytes = line.len();
                        report.notes.push(format!(
                            "the log ends within a line ({bytes} bytes): the gate is writing it, or was killed"
                        ));
                    }
                }
                FileLine::TooLong => {
                    let what = "the line is longer than any line of a log".to_owned();
                    report.find(&self.place, FindingKind::Changed, what);
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], report: &mut Report) {
        let Some(sealed) = Sealed::of(line) else {
            let what = "the line has no number and chain".to_owned();
            report.find(&self.place, FindingKind::Changed, what);
            return;
        };
        let mark = Mark::of(sealed.open);
        if let Some(Mark::Begins(begins)) = &mark {
            self.begins(begins, sealed.seq, report);
        } else if self.place.line == 1 {
            let what = "the file does not begin as a file of a log does".to_owned();
            report.find(&self.place, FindingKind::Changed, what);
        }
        self.linked(&sealed, report);
        self.claimed(&sealed, report);
        self.is_closed = mark == Some(Mark::Closed(true));
        match mark {
            None => report.records += 1,
            Some(Mark::Lost(count)) => report.lost = report.lost.saturating_add(count),
            Some(Mark::SampledOut(count)) => {
                report.sampled_out = report.sampled_out.saturating_add(count);
            }
            Some(Mark::Removed(removed)) => {
                self.removed_through = self.removed_through.max(removed.through_file);
                let (through, line) = (removed.through_file, self.place.line);
                report.notes.push(format!(
                    "files up to {through} were removed by the gate, because all were too large ({}:{line})",
                    self.place.file
                ));
            }
            Some(Mark::Resumed(resumed)) if !resumed.clean => {
                report.notes.push(format!(
                    "{}:{}: the gate was started again after it had not ended in order; records that \
                     had not reached the file are missing here, and nobody knows how many ({} bytes \
                     of a torn line were cut off)",
                    self.place.file, self.place.line, resumed.cut_bytes
                ));
            }
            Some(_) => {}
        }
    }

    fn begins(&mut self, begins: &Begins, seq: u64, report: &mut Report) {
        report.log = Some(begins.log);
        let place = self.place.clone();
        if place.line != 1 {
            let what = "the beginning of a file stands within one".to_owned();
            report.find(&place, FindingKind::Reordered, what);
        }
        match &self.begins {
            None => {
                self.first_file = Some(begins.file);
                // What came before is not here; the chain goes on from what the file says.
                if seq > 1 || begins.file > 1 {
                    self.last = Some((seq.saturating_sub(1), begins.previous));
                }
            }
            Some(before) if before.log != begins.log => {
                let aside = match begins.set_aside.as_str() {
                    "" => "another log begins here".to_owned(),
                    name => format!(
                        "another log begins here: the gate could not read the end of the one before, \
                         and set it aside as `{name}`"
                    ),
                };
                report.find(&place, FindingKind::FileMissing, aside);
                self.last = Some((seq.saturating_sub(1), begins.previous));
            }
            Some(before) if begins.file > before.file + 1 => {
                let (from, to) = (before.file + 1, begins.file - 1);
                let which = if from == to {
                    format!("file {from}")
                } else {
                    format!("files {from} to {to}")
                };
                let what = format!("{which} of the log, before this one, cannot be found");
                report.find(&place, FindingKind::FileMissing, what);
                self.last = Some((seq.saturating_sub(1), begins.previous));
            }
            Some(before) if begins.file <= before.file => {
                let what =
                    format!("file {} of the log comes after file {}", begins.file, before.file);
                report.find(&place, FindingKind::Reordered, what);
                self.last = Some((seq.saturating_sub(1), begins.previous));
            }
            Some(_) => {}
        }
        self.begins = Some(begins.clone());
    }

    /// Whether the line follows the one before.
    fn linked(&mut self, sealed: &Sealed<'_>, report: &mut Report) {
        let (before, chain) = match (self.last, &self.begins) {
            (Some(last), _) => last,
            (None, Some(begins)) => (0, begins.previous),
            // The file's beginning is missing, which was said.
            (None, None) => {
                self.last = Some((sealed.seq, sealed.chain));
                report.span = Some((sealed.seq, sealed.seq));
                return;
            }
        };
        let follows = sealed.after(&chain) == sealed.chain;
        let place = self.place.clone();
        if sealed.seq > before + 1 {
            let (from, to) = (before + 1, sealed.seq - 1);
            let what = if from == to {
                format!("line {from} of the log is missing before this one")
            } else {
                format!("lines {from} to {to} of the log are missing before this one")
            };
            report.find(&place, FindingKind::Removed, what);
        } else if sealed.seq <= before {
            let what = format!("line {} of the log stands after line {before}", sealed.seq);
            report.find(&place, FindingKind::Reordered, what);
        } else if !follows {
            let what = format!(
                "line {} of the log, or the one before it, is not as it was written",
                sealed.seq
            );
            report.find(&place, FindingKind::Changed, what);
        }
        // One finding a place: from here on, what the line says itself counts.
        self.last = Some((sealed.seq, sealed.chain));
        report.span = match report.span {
            None => Some((sealed.seq, sealed.seq)),
            Some((first, _)) => Some((first, sealed.seq)),
        };
    }

    /// Whether the line is what the center has signed.
    fn claimed(&mut self, sealed: &Sealed<'_>, report: &mut Report) {
        let Some(claims) = self.claims.remove(&sealed.seq) else { return };
        for claim in claims {
            if claim.chain == sealed.chain {
                let signed = if claim.is_previous { None } else { Some(claim.unix_ms) };
                if let Some(at) = signed
                    && report.proven.is_none_or(|(seq, _)| seq <= sealed.seq)
                {
                    report.proven = Some((sealed.seq, at));
                    self.proven_records = report.records + 1;
                }
                continue;
            }
            let by = if claim.is_head { "says" } else { "has signed" };
            let what = format!(
                "the center {by} another chain for line {} of the log (at {}): what is up to here was \
                 written anew",
                sealed.seq,
                time::text(claim.unix_ms)
            );
            report.find(&self.place, FindingKind::Rewritten, what);
            return;
        }
    }

    fn end(mut self, witness: Option<&Witness>, report: &mut Report) {
        let all = Place::default();
        self.place = all.clone();
        let Some((last, _)) = self.last else {
            if report.findings.is_empty() {
                report.notes.push("there are no lines".to_owned());
            }
            return self.heads(witness, report);
        };
        if let Some(first) = self.first_file.filter(|first| *first > 1)
            && self.removed_through + 1 < first
        {
            let what = format!(
                "files up to {} of the log cannot be found, and the gate did not say that it removed them",
                first - 1
            );
            report.find(&all, FindingKind::FileMissing, what);
        }
        let beyond: Vec<_> = self.claims.range(last + 1..).collect();
        if let Some((seq, claims)) = beyond.last() {
            let at = claims.first().map(|claim| time::text(claim.unix_ms)).unwrap_or_default();
            let what = format!(
                "the log ends with line {last}; the center has signed up to line {seq} (at {at})"
            );
            report.find(&all, FindingKind::Truncated, what);
        }
        report.unproven = report.records.saturating_sub(self.proven_records.min(report.records));
        if report.proven.is_none() {
            report.unproven = report.records;
        }
        if !self.is_closed && !self.is_torn {
            report.notes.push(
                "the gate did not end the log: it is running, or was killed; then records that had not \
                 reached the file are missing at the end"
                    .to_owned(),
            );
        }
        self.heads(witness, report);
    }

    /// What the center knows of this log and its gate's others.
    fn heads(&self, witness: Option<&Witness>, report: &mut Report) {
        let Some(heads) = witness.and_then(|witness| witness.heads.as_ref()) else { return };
        let own = report.log.and_then(|log| heads.iter().find(|head| head.log == log));
        match (own, report.log) {
            (None, Some(_)) if report.records > 0 => {
                report.notes.push("the center has never signed this log".to_owned());
            }
            _ => {}
        }
        let gate = own.map(|head| head.gate.as_str());
        let others = heads.iter().filter(|head| Some(head.log) != report.log);
        for other in others.filter(|other| gate.is_none_or(|gate| gate == other.gate)) {
            let Head { gate, log, seq, unix_ms, .. } = other;
            report.notes.push(format!(
                "the center has also signed log {} of `{gate}`, up to line {seq}, last at {}: is it kept \
                 elsewhere?",
                crate::hex::text(log),
                time::text(*unix_ms)
            ));
        }
    }
}
