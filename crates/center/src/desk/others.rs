//! Other centers on the same store: the head in memory is brought up to what they wrote, and what
//! became of a commit whose outcome is unknown is looked up.
//!
//! Few revisions are taken over one by one from their change rows, each with the mark of its row, so
//! that followers see each of them. Many, or such as are not kept row by row, are not worth that: the
//! whole store is read anew, and followers get snapshots.
//!
//! INVARIANT: the head in memory only moves on, along one chain. A store that has the same revision
//! with another chain, or an older head, has lost what was told: [`StoreError::Moved`].

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keepgate_policy::mark::{SUCCESSOR_GAP, change_digest};
use keepgate_policy::{Digest, Encoded, Revision};

use super::history::{Condition, WriteId};
use super::land::{self, Next};
use super::recent::{self, Landed};
use super::step::{Before, Step};
use super::{Head, OpenError, Refusal, Scope, Shared, Sums, Written, bulk, head, load};
use crate::store::{
    ChangeRow, Changes, EditVerdict, Fork, Meta, Origin, Reading, RevisionRow, Standing,
    StoreError, Sum, SumRow, Writing,
};

/// What is taken over one by one; more, and the store is read anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within {
    revisions: u64,
    rows: usize,
}

/// Outside of a write transaction.
const BESIDE: Within = Within { revisions: 1_024, rows: 10_000 };

/// Within one: all centers wait for it.
const IN_TURN: Within = Within { revisions: 64, rows: 1_000 };

/// Up to so many rows of revisions are read one by one, as that costs less than reading all.
const ONE_BY_ONE: u64 = 32;

/// More scopes than these are held against those of the store only now and then: where deltas carry
/// digests.
const SCOPES: usize = 64;

/// How often the store is read anew until the head in memory is that of the store.
const READ_ANEW: usize = 8;

/// How long the outcome of a commit is looked up before it is said to be unknown.
const LOOKED_UP: Duration = Duration::from_secs(5);

/// Pause between two look-ups.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How far the head in memory got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caught {
    /// It is that of the reading.
    Up,
    /// Too much lies between for one by one.
    Far,
}

/// What an edit stands on.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// The published state, which is that of the transaction.
    pub(super) before: Arc<Head>,
    /// The revision that the edit makes.
    pub(super) revision: Revision,
    /// The engine's line of time, where it is another one than the store knows.
    timeline: Option<String>,
}

impl Ground {
    /// Where the line jumps with this edit.
    fn fork(&self) -> Option<Fork> {
        let (at, resumed) = (self.before.revision, self.revision);
        (resumed.0 > at.0 + 1).then_some(Fork { at, resumed })
    }

    /// Notes a new line of time, and the jump that comes with it.
    pub(super) fn note(&self, tx: &mut dyn Writing) -> Result<Option<Fork>, StoreError> {
        if let Some(timeline) = &self.timeline {
            let meta = tx.meta()?;
            tx.set_meta(&Meta { timeline: timeline.clone(), ..meta })?;
        }
        let fork = self.fork();
        if let Some(fork) = fork {
            tx.fork(fork)?;
        }
        Ok(fork)
    }
}

impl Shared {
    /// Held by whoever publishes a state, or works out the next one from what others wrote.
    pub(super) fn publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The published state inside a write transaction; in a shared store brought up to what the
    /// transaction found. None: too much lies between, it is to be caught up outside.
    ///
    /// Refuses to write over a store that lacks what was told, and on top of a loss that was shown while
    /// the edit waited for its transaction.
    pub(super) fn ground(&self, tx: &dyn Reading) -> Result<Option<Ground>, Refusal> {
        self.no_loss()?;
        let next = |before: Arc<Head>| Ground {
            revision: Revision(before.revision.0 + 1),
            before,
            timeline: None,
        };
        if !self.store.is_shared() {
            let before = self.head.load_full();
            let found = tx.head()?;
            if found != before.revision {
                // Somebody put other bytes in its place, or wrote to it.
                let (expected, found) = (before.revision.to_string(), found.to_string());
                return Err(StoreError::Moved { expected, found }.into());
            }
            return Ok(Some(next(before)));
        }
        let meta = tx.meta()?;
        self.stands(&meta)?;
        let before = {
            let _one = self.publishing();
            // Nobody commits meanwhile: what is published is in the transaction.
            let told = self.head.load().revision;
            if self.follow(tx, &meta, (told, IN_TURN))? == Caught::Far {
                return Ok(None);
            }
            self.head.load_full()
        };
        let mut ground = next(before);
        let timeline = tx.timeline()?;
        if timeline != meta.timeline && !timeline.is_empty() {
            // Another server of the same database goes on. What the one before it told last may not
            // be here, so its numbers are not given out again.
            if !meta.timeline.is_empty() {
                ground.revision = Revision(ground.before.revision.0 + SUCCESSOR_GAP);
                tracing::warn!(
                    at = %ground.before.revision, resumed = %ground.revision,
                    "the database goes on on another timeline: revisions jump"
                );
            }
            ground.timeline = Some(timeline);
        }
        Ok(Some(ground))
    }

    /// Brings the head in memory up to that of a shared store; returns it. Blocks.
    pub(super) fn catch_up(&self) -> Result<Revision, Refusal> {
        for _ in 0..READ_ANEW {
            let seen = {
                // Before the reading begins: then that must have it.
                let told = self.head.load().revision;
                let reading = self.store.read()?;
                let meta = reading.meta()?;
                self.stands(&meta)?;
                let _one = self.publishing();
                let caught = self.follow(reading.as_ref(), &meta, (told, BESIDE))?;
                let head = self.head.load().revision;
                if caught == Caught::Up {
                    return Ok(head);
                }
                head
            };
            self.read_anew(seen)?;
        }
        Err(Refusal::Busy)
    }

    /// Whether the store is still of this history, and says that nothing is lost.
    fn stands(&self, meta: &Meta) -> Result<(), Refusal> {
        let known = self.line.meta();
        if meta.history != known.history || meta.key != known.key {
            let expected =
                format!("{} (history {})", self.head.load().revision, known.history.short());
            let found = format!("history {}", meta.history.short());
            return Err(StoreError::Moved { expected, found }.into());
        }
        let why: Arc<str> = match &meta.standing {
            Standing::Ok => return Ok(()),
            Standing::Lost { why, .. } => why.as_str().into(),
            Standing::Retired { to } => {
                format!("the store was moved to {to}: start the centers on that one").into()
            }
        };
        if self.line.become_(Condition::Lost(Arc::clone(&why))) {
            tracing::error!(
                why = &*why,
                "the store says that the history is lost: nothing is served"
            );
        }
        Err(Refusal::Lost(why))
    }

    /// Takes over what a reading shows beyond the head in memory, which is `told` or later; that was
    /// told before the reading began. To be called by who publishes.
    fn follow(
        &self,
        reading: &dyn Reading,
        meta: &Meta,
        (told, within): (Revision, Within),
    ) -> Result<Caught, Refusal> {
        let known = self.head.load_full();
        let found = reading.head()?;
        let moved = |found: String| -> Refusal {
            StoreError::Moved { expected: known.revision.to_string(), found }.into()
        };
        if found < told {
            return Err(moved(found.to_string()));
        }
        if found < known.revision {
            // Another thread read later, and has taken over more.
            return Ok(Caught::Up);
        }
        match reading.revision(known.revision)? {
            Some(row) if row.chain != known.mark.chain => {
                return Err(moved("another revision of that number".to_owned()));
            }
            Some(_) if found == known.revision => return Ok(Caught::Up),
            Some(_) => {}
            None if found == known.revision => {
                return Err(
                    StoreError::Corrupt { what: format!("revision {found} has no row") }.into()
                );
            }
            // It is not kept any more.
            None => return Ok(Caught::Far),
        }
        let between = match self.between(reading, meta, &known, (found, within)) {
            // What does not fit together is looked at as a whole: that says what is damaged.
            Err(e @ (Refusal::World(_) | Refusal::Store(StoreError::Corrupt { .. }))) => {
                let error = keepgate_observe::chain(&e);
                tracing::warn!(error, "what another center wrote is read anew as a whole");
                return Ok(Caught::Far);
            }
            between => between?,
        };
        let Some(between) = between else { return Ok(Caught::Far) };
        for next in between {
            self.show(next);
        }
        Ok(Caught::Up)
    }

    /// The states after `known` up to the head that was found, checked against what the store says of
    /// it. None: too much lies between.
    fn between(
        &self,
        reading: &dyn Reading,
        meta: &Meta,
        known: &Head,
        (found, within): (Revision, Within),
    ) -> Result<Option<Vec<Next>>, Refusal> {
        let corrupt = |what: String| Refusal::Store(StoreError::Corrupt { what });
        if found.0 - known.revision.0 > within.revisions {
            return Ok(None);
        }
        let Changes::Rows(rows) = reading.changes_after(known.revision, within.rows)? else {
            return Ok(None);
        };
        let others = Others::read(reading, known)?;
        let mut rows = rows.into_iter().peekable();
        let mut before = known.clone();
        let mut states = Vec::new();
        for row in rows_after(reading, known.revision, found)? {
            let revision = row.revision;
            if row.previous != before.revision
                || row.chain != row.chained(&before.mark.chain, meta.history)
            {
                let previous = before.revision;
                return Err(corrupt(format!(
                    "revision {revision} does not follow from {previous}"
                )));
            }
            let mut changed = Digest::default();
            let mut steps = Vec::new();
            while let Some(change) = rows.next_if(|change| change.revision == revision) {
                changed = changed.plus(change_digest(&change.key, change.body.as_deref()));
                steps.push(step(&before, change));
            }
            if changed != row.changed {
                let what = format!("the changes of revision {revision} do not have its digest");
                return Err(corrupt(what));
            }
            steps.sort_by(|a, b| a.key.cmp(&b.key));
            let next = after(&before, &row, &steps, meta, &others)?;
            before = next.head.clone();
            states.push(next);
        }
        let mut same = before.world.digest() == head::digest_of(&before.scopes, &Scope::All);
        let passed = |revision: Revision| revision.0 / recent::DIGEST_EVERY;
        if before.scopes.len() <= SCOPES || passed(found) > passed(known.revision) {
            let scopes = reading.scopes()?;
            same &= scopes.len() == before.scopes.len()
                && scopes.iter().all(|scope| before.scopes.get(&scope.service) == Some(scope));
        }
        if before.revision != found || rows.peek().is_some() || !same {
            return Err(corrupt(format!("the changes up to revision {found} do not lead to it")));
        }
        Ok(Some(states))
    }

    /// Reads the whole store and publishes it, unless the head in memory has left `seen` meanwhile.
    fn read_anew(&self, seen: Revision) -> Result<(), Refusal> {
        let _one = self.reading_anew.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.head.load_full();
        if known.revision != seen {
            return Ok(());
        }
        let (head, meta, forks) =
            load(self.store.as_ref(), Some(&known.mark)).map_err(|e| match e {
                OpenError::Store(e) => Refusal::Store(e),
                OpenError::World(e) => Refusal::World(e),
                OpenError::Thread(_) => Refusal::Closed,
            })?;
        self.stands(&meta)?;
        let _one = self.publishing();
        if head.revision <= self.head.load().revision {
            return Ok(());
        }
        tracing::info!(revision = %head.revision, "the state of another center was read as a whole");
        let revision = head.revision;
        self.line.jumped(forks);
        self.line.told(&head.mark);
        self.recent.restart(revision);
        let replaced = self.head.swap(Arc::new(head));
        self.retire(&replaced);
        self.landed.send_replace(revision);
        Ok(())
    }

    /// What became of a commit: its revision, or none where it never happened and never will.
    ///
    /// The answer comes under the lock of the head, which the commit had, too. It is good once a
    /// transaction after it is durable: then what it found is durable as well.
    pub(super) fn look_up(&self, write_id: &WriteId) -> Result<Option<RevisionRow>, StoreError> {
        let mut found = None;
        self.store.write(&mut |tx| {
            found = tx.written(write_id)?;
            write_nothing(tx)?;
            Ok(EditVerdict::Commit)
        })?;
        Ok(found)
    }

    /// The same, tried for a while. An error: it stays unknown.
    pub(super) fn look_up_patiently(
        &self,
        write_id: &WriteId,
    ) -> Result<Option<RevisionRow>, StoreError> {
        let until = Instant::now() + LOOKED_UP;
        loop {
            match self.look_up(write_id) {
                Err(e) if Instant::now() >= until => return Err(e),
                Err(_) => std::thread::sleep(LOOK_EVERY),
                found => return found,
            }
        }
    }

    /// What became of a write. Runs on the writer's thread alone.
    pub(super) fn written(&self, write_id: &WriteId) -> Result<Written, Refusal> {
        self.no_loss()?;
        let unknown = |e: StoreError| {
            self.note_failure(&e);
            Refusal::OutcomeUnknown { write_id: *write_id }
        };
        if let Some(RevisionRow { revision, unix_ms, .. }) =
            self.look_up(write_id).map_err(unknown)?
        {
            return Ok(Written::Landed { revision, unix_ms });
        }
        let mut oldest = None;
        let reading = self.store.read().map_err(unknown)?;
        let read = reading.revisions(&mut |row| {
            oldest.get_or_insert(row);
            Ok(())
        });
        read.map_err(unknown)?;
        let cut = oldest.filter(|row| row.revision > Revision(1));
        Ok(Written::Absent { kept_since_unix_ms: cut.map(|row| row.unix_ms) })
    }
}

/// A write that changes nothing: for a commit that has to be durable.
pub(super) fn write_nothing(tx: &mut dyn Writing) -> Result<(), StoreError> {
    let sum = tx.sum(Sum::Tokens)?;
    tx.set_sum(Sum::Tokens, sum)
}

/// What belongs to no service, at the head of a reading.
struct Others {
    tokens: Arc<std::collections::HashMap<String, crate::store::TokenRow>>,
    sums: Sums,
}

impl Others {
    fn read(reading: &dyn Reading, known: &Head) -> Result<Others, StoreError> {
        let sums =
            Sums { tokens: reading.sum(Sum::Tokens)?, tombstones: reading.sum(Sum::Tombstones)? };
        if sums.tokens == known.sums.tokens {
            return Ok(Others { tokens: Arc::clone(&known.tokens), sums });
        }
        let tokens = reading.tokens()?;
        let mut found = SumRow::default();
        tokens.iter().for_each(|token| found.add(token.digest()));
        if found != sums.tokens {
            let what = "the tokens do not sum up to their digest".to_owned();
            return Err(StoreError::Corrupt { what });
        }
        let tokens = tokens.into_iter().map(|row| (row.id.clone(), row)).collect();
        Ok(Others { tokens: Arc::new(tokens), sums })
    }
}

/// The rows of the revisions after `known`, up to the head that was found.
fn rows_after(
    reading: &dyn Reading,
    known: Revision,
    found: Revision,
) -> Result<Vec<RevisionRow>, StoreError> {
    let mut rows = Vec::new();
    if found.0 - known.0 > ONE_BY_ONE {
        reading.revisions(&mut |row| {
            if row.revision > known {
                rows.push(row);
            }
            Ok(())
        })?;
        return Ok(rows);
    }
    for revision in known.0 + 1..=found.0 {
        let row = reading.revision(Revision(revision))?;
        rows.push(row.ok_or_else(|| StoreError::Corrupt {
            what: format!("revision {revision} has no row"),
        })?);
    }
    Ok(rows)
}

/// What a change row did to the state before it. Origin and source are not needed for publishing.
fn step(before: &Head, change: ChangeRow) -> Step {
    let ChangeRow { key, body, needs, .. } = change;
    let held = before.world.held(&key);
    let after = body.map(|body| {
        let digest = Digest::of_encoded(&key, &body);
        let (key, source) = (key.clone(), Box::default());
        Arc::new(Encoded { key, body, digest, source, needs })
    });
    let before = held.map(|(digest, needs)| Before { digest, needs, origin: Origin::default() });
    Step { key, before, after }
}

/// The state that a revision of another center leaves.
fn after(
    before: &Head,
    row: &RevisionRow,
    steps: &[Step],
    meta: &Meta,
    others: &Others,
) -> Result<Next, Refusal> {
    let revision = row.revision;
    let world = bulk::build(&before.world, revision, steps, || Ok(()))?;
    let scopes = land::scopes(before, steps);
    let mark = meta.mark(revision, row.chain);
    let landed = Landed::new(before.revision, mark, steps, Arc::clone(&scopes));
    let head = Head {
        revision,
        world,
        services: land::services(before, steps)?,
        tokens: Arc::clone(&others.tokens),
        scopes,
        mark,
        sums: others.sums,
        newer: land::newer(before, steps),
        authzen_together: meta.authzen_together,
    };
    Ok(Next { head, landed, write_id: row.write_id, fork: None })
}

#[cfg(test)]
pub(crate) mod tests;
