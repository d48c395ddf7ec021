//! The line of revisions, as the desk keeps it: how a revision is numbered, chained and noted,
//! whether the store still has what was acknowledged, and who contradicts it.
//!
//! INVARIANT: a head is published only after its mark is durable in the store and outside of it.
//! Once the condition is [`Condition::Losing`], no state is told any more until the center is started
//! on a store that an operator has brought out of it. It becomes [`Condition::Lost`] when the store
//! says so, and not before: whoever reads that may stop the center and go by what it said.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use keepgate_policy::mark::{Chain, change_digest};
use keepgate_policy::{Digest, ItemKey, Mark, Revision, proto};
use tokio::sync::watch;

use super::Head;
use crate::store::{
    Fork, Meta, Retention, RevisionRow, Standing, StoreError, Sum, SumRow, TokenRow, Tombstone,
    Writing,
};

/// By what a commit can be looked up whose outcome is unknown.
pub type WriteId = [u8; 16];

/// Marks kept in memory, so that what gates report does not cost a look into the store.
const MARKS: usize = 4096;

/// A look at the store's files older than this confirms nothing.
const CONFIRMED: Duration = Duration::from_secs(1);

/// How the center stands to its own past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All is well.
    Ready,
    /// Started on a store that was there before: gates are heard for a moment, in case they hold
    /// more than it does.
    Waiting,
    /// A gate has shown that acknowledged state is not there, and this is being written down:
    /// nothing is told and nothing is decided. [`Condition::Lost`] follows, and is shown only once
    /// a restart would find it, too.
    Losing(Arc<str>),
    /// Acknowledged state is not there: nothing is told and nothing is decided.
    Lost(Arc<str>),
    /// No space is left: reads go on, edits are refused until there is.
    Full(Arc<str>),
    /// Changes cannot be stored, or not noted outside of the store: reads go on, edits fail until they
    /// can.
    Stopped(Arc<str>),
}

impl Condition {
    /// As in answers.
    pub fn name(&self) -> &'static str {
        match self {
            Condition::Ready => "ready",
            Condition::Waiting => "waiting-for-witnesses",
            Condition::Losing(_) => "noting-loss",
            Condition::Lost(_) => "history-lost",
            Condition::Full(_) => "storage-full",
            Condition::Stopped(_) => "stopped",
        }
    }

    /// Whether its state may be told to followers and decided on.
    pub fn serves(&self) -> bool {
        !matches!(self, Condition::Waiting) && !self.is_loss()
    }

    /// Whether acknowledged state is not there, written down or not yet.
    pub fn is_loss(&self) -> bool {
        matches!(self, Condition::Losing(_) | Condition::Lost(_))
    }

    /// For people; empty where all is well.
    pub fn why(&self) -> &str {
        match self {
            Condition::Ready => "",
            Condition::Waiting => {
                "the center has started and hears for a moment whether a gate holds a newer state"
            }
            Condition::Losing(why)
            | Condition::Lost(why)
            | Condition::Full(why)
            | Condition::Stopped(why) => why,
        }
    }
}

/// Digests of what belongs to no service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Of all tokens.
    pub tokens: SumRow,
    /// Of all tombstones.
    pub tombstones: SumRow,
}

/// What a mark from outside says about this center's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Witness {
    /// It is of this line; deltas can go on from it.
    OnLine,
    /// It is older than the revisions that are kept, and taken as of this line.
    Older,
    /// It is of a history that this one continues.
    Ancestor,
    /// It is of another history.
    Foreign,
    /// It was not made by this history.
    Forged,
    /// It was made by this history, and this center does not have it.
    Contradiction(Mark),
}

/// See the module.
pub(crate) struct Line {
    meta: Meta,
    condition: watch::Sender<Condition>,
    marks: Mutex<VecDeque<(Revision, Chain)>>,
    forks: RwLock<Vec<Fork>>,
    /// When the last look began that found the store in its place and, where other centers write to
    /// it, its head published; none: there was none.
    confirmed: watch::Sender<Option<Instant>>,
}

impl Line {
    pub(super) fn new(meta: Meta, forks: Vec<Fork>, head: &Mark, wait: bool) -> Line {
        let condition = match &meta.standing {
            Standing::Lost { why, .. } => Condition::Lost(why.as_str().into()),
            _ if wait => Condition::Waiting,
            _ => Condition::Ready,
        };
        let line = Line {
            meta,
            condition: watch::Sender::new(condition),
            marks: Mutex::default(),
            forks: RwLock::new(forks),
            confirmed: watch::Sender::new(None),
        };
        line.told(head);
        line
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    pub(crate) fn condition(&self) -> Condition {
        self.condition.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// INVARIANT: a lost history stays lost.
    pub(super) fn become_(&self, next: Condition) -> bool {
        self.condition.send_if_modified(|now| {
            let may = match now {
                Condition::Lost(_) => false,
                Condition::Losing(_) => next.is_loss(),
                _ => true,
            };
            let change = may && *now != next;
            if change {
                *now = next;
            }
            change
        })
    }

    /// The head was published.
    pub(super) fn told(&self, mark: &Mark) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.push_back((mark.revision, mark.chain));
        if marks.len() > MARKS {
            marks.pop_front();
        }
    }

    /// The chain of a revision that was published by this process.
    pub(super) fn chain_of(&self, revision: Revision) -> Option<Chain> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = marks.binary_search_by_key(&revision, |(revision, _)| *revision).ok()?;
        marks.get(at).map(|(_, chain)| *chain)
    }

    pub(super) fn found_in_place(&self, at: Instant) {
        self.confirmed.send_replace(Some(at));
    }

    /// When the last look at the store began that found it in its place, if that was within the last
    /// second.
    pub(super) fn confirmed(&self) -> Option<Instant> {
        self.confirmed.borrow().filter(|at| at.elapsed() <= CONFIRMED)
    }

    /// Wakes when a look has ended so.
    pub(super) fn watch_confirmed(&self) -> watch::Receiver<Option<Instant>> {
        self.confirmed.subscribe()
    }

    /// Where the line jumped, as the store has it now.
    pub(super) fn jumped(&self, forks: Vec<Fork>) {
        *self.forks.write().unwrap_or_else(PoisonError::into_inner) = forks;
    }

    /// It jumped once more.
    pub(super) fn jumps(&self, fork: Fork) {
        self.forks.write().unwrap_or_else(PoisonError::into_inner).push(fork);
    }

    /// What a mark says, as far as it can be told without the store; an error: look there. Of a
    /// `shared` store the head in memory may be behind.
    pub(super) fn quick(
        &self,
        mark: &proto::Mark,
        head: &Head,
        shared: bool,
    ) -> Result<Witness, Mark> {
        let Ok(mark) = Mark::from_proto(mark) else { return Ok(Witness::Forged) };
        if mark.history != self.meta.history {
            let known = self.meta.ancestors.contains(&mark.history);
            return Ok(if known { Witness::Ancestor } else { Witness::Foreign });
        }
        if !self.meta.sealed(&mark) {
            return Ok(Witness::Forged);
        }
        if self.between_forks(mark.revision) {
            return Ok(Witness::Contradiction(mark));
        }
        if mark.revision > head.revision {
            return if shared { Err(mark) } else { Ok(Witness::Contradiction(mark)) };
        }
        match self.chain_of(mark.revision) {
            Some(chain) if chain == mark.chain => Ok(Witness::OnLine),
            Some(_) => Ok(Witness::Contradiction(mark)),
            None => Err(mark),
        }
    }

    fn between_forks(&self, revision: Revision) -> bool {
        let forks = self.forks.read().unwrap_or_else(PoisonError::into_inner);
        forks.iter().any(|fork| fork.at < revision && revision < fork.resumed)
    }
}

/// What the row of a revision, or its absence, says about a mark.
pub(super) fn compare(mark: Mark, row: Option<&RevisionRow>, oldest: Revision) -> Witness {
    match row {
        Some(row) if row.chain == mark.chain => Witness::OnLine,
        None if mark.revision < oldest => Witness::Older,
        _ => Witness::Contradiction(mark),
    }
}

/// An item that a revision changed.
pub(super) struct Moved<'a> {
    pub(super) key: &'a ItemKey,
    /// Its digest before; none: it was not there.
    pub(super) was: Option<Digest>,
    /// Its digest now, which is that of the change too; none: it is gone.
    pub(super) now: Option<Digest>,
}

/// Who changes what, and when.
pub(super) struct By<'a> {
    pub(super) actor: &'a str,
    pub(super) action: &'a str,
    pub(super) unix_ms: u64,
    /// By what the commit can be looked up.
    pub(super) write_id: WriteId,
}

/// Makes `revision` the head of the store, after `before`: its chain, tokens' digest and tombstones.
/// Called once in each transaction that changes anything, after the rows are written.
pub(super) fn advance<'a>(
    tx: &mut dyn Writing,
    (before, revision): (&Head, Revision),
    line: &Line,
    moved: impl Iterator<Item = Moved<'a>>,
    tokens: &[TokenRow],
    by: &By<'_>,
    keep: Retention,
) -> Result<(Mark, Sums), StoreError> {
    let (mut sums, mut changed, mut others) = (before.sums, Digest::default(), Digest::default());
    let mut tombstones = false;
    for item in moved {
        changed = changed.plus(item.now.unwrap_or_else(|| change_digest(item.key, None)));
        match (item.was, item.now) {
            (Some(was), None) => {
                let tombstone = Tombstone {
                    key: item.key.clone(),
                    revision,
                    unix_ms: by.unix_ms,
                    actor: by.actor.to_owned(),
                    action: by.action.to_owned(),
                    was,
                };
                tx.put_tombstone(&tombstone)?;
                others = others.plus(tombstone.digest());
                sums.tombstones.add(tombstone.digest());
                tombstones = true;
            }
            (None, Some(_)) if sums.tombstones.rows > 0 => {
                if let Some(old) = tx.tombstone(item.key)? {
                    tx.remove_tombstone(item.key)?;
                    sums.tombstones.remove(old.digest());
                    tombstones = true;
                }
            }
            _ => {}
        }
    }
    for token in tokens {
        if let Some(old) = before.tokens.get(&token.id) {
            sums.tokens.remove(old.digest());
        }
        sums.tokens.add(token.digest());
        others = others.plus(token.digest());
    }
    if !tokens.is_empty() {
        tx.set_sum(Sum::Tokens, sums.tokens)?;
    }
    if tombstones {
        tx.set_sum(Sum::Tombstones, sums.tombstones)?;
    }
    let mut row = RevisionRow {
        revision,
        previous: before.revision,
        chain: [0; 32],
        changed,
        others,
        write_id: by.write_id,
        unix_ms: by.unix_ms,
    };
    row.chain = row.chained(&before.mark.chain, line.meta.history);
    tx.advance(&row, keep)?;
    super::logs::sign_audit(tx, keep, by.unix_ms)?;
    Ok((line.meta.mark(revision, row.chain), sums))
}
