//! The checker: what was acknowledged, what arrived, and what may not have.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::MAX_AGE;

/// One edit: whether a user is permitted from then on.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) user: usize,
    pub(super) permitted: bool,
    pub(super) sent: Instant,
    /// None: the center did not answer, so it may be there or not.
    pub(super) acknowledged: Option<Instant>,
}

/// What the processes did, as seen from outside.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Requests that reached the upstream.
    pub(super) arrivals: Vec<(Instant, usize)>,
    /// Answers of the gate.
    pub(super) answers: Vec<(Instant, usize, u16)>,
    /// When the gate was thawed.
    pub(super) thaws: Vec<Instant>,
    /// When this process itself was held up, and for how long.
    pub(super) stalls: Vec<(Instant, Duration)>,
}

/// All edits, and what was noticed on the way.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    edits: Vec<Edit>,
    users: usize,
    /// The edit that each (history, revision) was acknowledged for.
    revisions: HashMap<(String, u64), usize>,
    wrong: Vec<String>,
    pub(super) refusals: usize,
    losses: usize,
}

impl Ledger {
    pub(super) fn new(users: usize) -> Ledger {
        Ledger { users, ..Ledger::default() }
    }

    pub(super) fn edit(&mut self, edit: Edit, revision: Option<(String, u64)>) {
        if let Some(revision) = revision {
            let text = format!("{revision:?}");
            if let Some(other) = self.revisions.insert(revision, self.edits.len()) {
                let (a, b) = (&self.edits[other], &edit);
                self.wrong.push(format!("{text} was acknowledged for two edits: {a:?}, {b:?}"));
            }
        }
        self.edits.push(edit);
    }

    /// How many edits were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.edits.iter().filter(|edit| edit.acknowledged.is_some()).count()
    }

    /// What the last edit says; none: it cannot be said, as the last one was not acknowledged.
    pub(super) fn is_permitted(&self, user: usize) -> Option<bool> {
        let mut last = None;
        for edit in self.edits.iter().filter(|edit| edit.user == user) {
            last = match edit.acknowledged {
                Some(_) => Some(edit.permitted),
                // Unknown, unless it changes nothing.
                None => last.filter(|before| *before == edit.permitted),
            };
        }
        last
    }

    /// What the center has after a start; `lost`: since when it has said that edits are lost. From
    /// then on gates may have heard of what it has.
    pub(super) fn found(&mut self, permitted: &[bool], lost: Option<Instant>) {
        for (user, permitted) in permitted.iter().copied().enumerate() {
            let now = Instant::now();
            match self.is_permitted(user) {
                Some(expected) if expected == permitted => continue,
                Some(expected) if lost.is_none() => self.wrong.push(format!(
                    "an acknowledged edit disappeared unsaid: user {user} should be permitted: \
                     {expected}, is: {permitted}"
                )),
                Some(_) => self.losses += 1,
                None => {}
            }
            let acknowledged = Some(now);
            let sent = lost.unwrap_or(now);
            self.edits.push(Edit { user, permitted, sent, acknowledged });
        }
    }

    pub(super) fn refused(&mut self, said: &str) -> &'static str {
        self.refusals += 1;
        let ways = ["adopt", "accept-loss", "recover", "restore"];
        match ways.into_iter().find(|way| said.contains(way)) {
            Some("adopt") => "adopt",
            Some(_) => "accept-loss",
            None => {
                self.wrong.push(format!("a refusal that names no way out:\n{said}"));
                "accept-loss"
            }
        }
    }

    pub(super) fn judge(self, seen: &Seen) {
        let mut wrong = self.wrong.clone();
        let (mut latest, mut at_thaw) = (Duration::ZERO, 0);
        for (arrived, user) in &seen.arrivals {
            let Some(over) = self.overdue(*arrived, *user) else { continue };
            if seen.thaws.iter().any(|thaw| {
                arrived.checked_duration_since(*thaw).is_some_and(|d| d < Duration::from_millis(50))
            }) {
                at_thaw += 1;
                continue;
            }
            // What this process noted late, because it was held up itself, arrived earlier.
            let held_up = seen.stalls.iter().filter(|(at, _)| {
                arrived.max(at).duration_since(*arrived.min(at)) < Duration::from_secs(1)
            });
            let held_up = held_up.map(|(_, stall)| *stall).max().unwrap_or_default();
            latest = latest.max(over);
            if over > held_up {
                wrong.push(format!(
                    "a request of user {user} reached the upstream {over:?} beyond the bound \
                     (this process was held up {held_up:?})"
                ));
            }
        }
        for (_, user, status) in &seen.answers {
            if !matches!(status, 200 | 403 | 503) {
                wrong.push(format!("user {user} got {status}"));
            }
        }
        let acknowledged = self.acknowledged();
        let last = self.last_after_revocation(seen);
        eprintln!(
            "{} edits, {acknowledged} acknowledged; {} requests at the upstream, {} answers; \
             {} refusals, {} edits declared lost; last request after a revocation: {last:?}; \
             latest beyond the bound: {latest:?}; at a thaw: {at_thaw}",
            self.edits.len(),
            seen.arrivals.len(),
            seen.answers.len(),
            self.refusals,
            self.losses,
        );
        assert!(seen.arrivals.len() > 100, "too few requests to judge by");
        assert!((0..self.users).any(|user| self.edits.iter().any(|e| e.user == user)));
        wrong.truncate(20);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// How far beyond the bound a request arrived; none: it was permitted, or within it.
    fn overdue(&self, arrived: Instant, user: usize) -> Option<Duration> {
        let revoked = self.revoked_before(arrived, user)?;
        arrived.duration_since(revoked).checked_sub(MAX_AGE).filter(|over| !over.is_zero())
    }

    /// When the revocation was acknowledged that is in force at this time, if one is.
    fn revoked_before(&self, at: Instant, user: usize) -> Option<Instant> {
        let mut revoked = None;
        for edit in self.edits.iter().filter(|edit| edit.user == user && edit.sent <= at) {
            match (edit.permitted, edit.acknowledged) {
                // It may have been permitted from when it was sent.
                (true, _) => revoked = None,
                (false, Some(acknowledged)) if acknowledged <= at => {
                    revoked = revoked.or(Some(acknowledged));
                }
                (false, _) => {}
            }
        }
        revoked
    }

    fn last_after_revocation(&self, seen: &Seen) -> Duration {
        let after = |(at, user): &(Instant, usize)| {
            Some(at.duration_since(self.revoked_before(*at, *user)?))
        };
        seen.arrivals.iter().filter_map(after).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(user: usize, permitted: bool, sent: Instant, acknowledged: Option<Instant>) -> Edit {
        Edit { user, permitted, sent, acknowledged }
    }

    /// The checker itself finds what it is there for.
    #[test]
    fn the_checker_finds_what_is_wrong() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut ledger = Ledger::new(1);
        ledger.edit(edit(0, true, at(0), Some(at(1))), Some(("h".to_owned(), 1)));
        ledger.edit(edit(0, false, at(100), Some(at(110))), Some(("h".to_owned(), 2)));
        assert_eq!(ledger.overdue(at(5110), 0), None, "at the bound");
        assert_eq!(ledger.overdue(at(5111), 0), Some(Duration::from_millis(1)));
        assert_eq!(ledger.is_permitted(0), Some(false));
        // A grant that was not acknowledged may have landed.
        ledger.edit(edit(0, true, at(6000), None), None);
        assert_eq!(ledger.overdue(at(9000), 0), None);
        assert_eq!(ledger.is_permitted(0), None);
        ledger.edit(edit(0, false, at(9000), Some(at(9001))), Some(("h".to_owned(), 2)));
        assert_eq!(ledger.wrong.len(), 1, "one revision for two edits");
        ledger.found(&[true], None);
        assert_eq!(ledger.wrong.len(), 2, "an edit that disappeared unsaid");
        ledger.found(&[false], Some(at(9500)));
        assert_eq!((ledger.wrong.len(), ledger.losses), (2, 1));
        assert_eq!(ledger.refused("run `keepgate center adopt`"), "adopt");
        ledger.refused("no");
        assert_eq!(ledger.wrong.len(), 3, "a refusal without a way out");
    }
}
