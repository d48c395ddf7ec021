//! Back up, restore, recover: what an operator does to a store while no center serves it, and the
//! one thing (a backup) that works while one does.
//!
//! Everything but a backup and a dry look makes a *declared successor*: a new history that names
//! the old one as its ancestor and continues above every revision that was ever told, so that gates
//! follow it forward and never back.
//!
//! INVARIANT: a step that fails leaves the store as it was. The files that a restore replaces stay
//! in a folder beside it.

mod diff;
mod format;
mod place;
mod restore;

use std::path::{Path, PathBuf};

use keepgate_policy::mark::SUCCESSOR_GAP;
use keepgate_policy::{HistoryId, Mark, Revision};

use crate::desk::verify;
use crate::store::{
    AuditRow, EditVerdict, Fault, Fork, Meta, Retention, RevisionRow, SqliteStore, Standing, Store,
    StoreError,
};

pub use diff::{Difference, Effect};
pub use format::{BackupError, Contents};
pub use place::Place;
pub use restore::{Kept, Prepared, recover, restore};

/// An upkeep command did not do it.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The store cannot be read or written.
    #[error("cannot use the store in `{dir}`")]
    Store {
        /// The data directory or database.
        dir: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The backup cannot be written or read.
    #[error("cannot use the backup `{file}`")]
    Backup {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: BackupError,
    },
    /// The command does not fit what was found.
    #[error("{0}")]
    Unfit(String),
    /// A file operation failed.
    #[error("cannot {what} `{path}`")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn of_store(place: &Place) -> impl Fn(StoreError) -> UpkeepError + use<> {
    let dir = place.to_string();
    move |source| UpkeepError::Store { dir: dir.clone(), source }
}

/// What a backup holds.
#[derive(Clone, Debug)]
pub struct BackedUp {
    /// The file.
    pub file: PathBuf,
    /// The history that it is of.
    pub history: HistoryId,
    /// The revision.
    pub revision: Revision,
    /// How many rows of each sort.
    pub contents: Contents,
}

/// Writes all of a store, at one revision, to a new file of our own format. Works while a center
/// serves the store. Blocks.
///
/// # Errors
/// A store that is lost or damaged is not backed up; a file that exists is not overwritten.
pub fn backup(place: impl Into<Place>, file: &Path, unix_ms: u64) -> Result<BackedUp, UpkeepError> {
    let place = place.into();
    let of_file = |source| UpkeepError::Backup { file: file.display().to_string(), source };
    let mut done = None;
    place.peek(&mut |reading| {
        let state = verify::all(reading)?;
        done = Some(format::write(file, reading, &state, unix_ms).map(|contents| BackedUp {
            file: file.to_owned(),
            history: state.meta.history,
            revision: state.head.revision,
            contents,
        }));
        Ok(())
    })?;
    match done {
        Some(done) => done.map_err(of_file),
        None => Err(UpkeepError::Unfit("the store was not read".to_owned())),
    }
}

/// A store with a new history.
#[derive(Clone, Debug)]
pub struct Succeeded {
    /// The history before; none: there was no store to read.
    pub before: Option<(HistoryId, Revision)>,
    /// The new history.
    pub history: HistoryId,
    /// Its first revision.
    pub revision: Revision,
}

/// Makes a copied data directory a center of its own. Blocks.
///
/// # Errors
/// A directory that is no copy, one that lost what it acknowledged, and one in use are refused.
pub fn adopt(dir: &Path, unix_ms: u64) -> Result<Succeeded, UpkeepError> {
    let place = &Place::from(dir);
    let (store, said) = SqliteStore::open_repair(dir).map_err(of_store(place))?;
    match said {
        Some(StoreError::Refused {
            fault: Fault::Copied | Fault::Mixed | Fault::Damaged, ..
        }) => {}
        Some(other) => return Err(of_store(place)(other)),
        None => {
            return Err(UpkeepError::Unfit(format!(
                "expected a copied data directory, found the original one in `{}`: start it with \
                 `keepgate center --data {0}`",
                dir.display()
            )));
        }
    }
    let high = SqliteStore::high_mark(dir).map_err(of_store(place))?;
    succeed(place, &store, high, unix_ms)
}

/// Goes on with a store that lost what it acknowledged; where no database is left in a data directory,
/// with an empty one that continues its history. Blocks.
///
/// # Errors
/// A store that lost nothing, one that is damaged, and one in use are refused.
pub fn accept_loss(place: impl Into<Place>, unix_ms: u64) -> Result<Succeeded, UpkeepError> {
    let place = place.into();
    let dir = match &place {
        Place::Dir(dir) => dir,
        Place::Database { address, .. } => {
            let store = place.alone(address)?;
            let standing = store.read().and_then(|reading| reading.meta());
            return match standing.map_err(of_store(&place))?.standing {
                Standing::Lost { .. } => succeed(&place, &store, None, unix_ms),
                _ => Err(nothing_lost(&place)),
            };
        }
    };
    let (store, said) = match SqliteStore::open_repair(dir) {
        Ok(opened) => opened,
        // There is no database, or an empty one.
        Err(e) if e.is_lost() => return restore::nothing(dir)?.commit(unix_ms),
        Err(e) => return Err(of_store(&place)(e)),
    };
    let standing = {
        let reading = store.read().map_err(of_store(&place))?;
        reading.meta().map_err(of_store(&place))?.standing
    };
    match (said, standing) {
        (Some(StoreError::Refused { fault: Fault::Lost, .. }), _)
        | (None, Standing::Lost { .. }) => {}
        (Some(other), _) => return Err(of_store(&place)(other)),
        (None, _) => return Err(nothing_lost(&place)),
    }
    let high = SqliteStore::high_mark(dir).map_err(of_store(&place))?;
    succeed(&place, &store, high, unix_ms)
}

fn nothing_lost(place: &Place) -> UpkeepError {
    UpkeepError::Unfit(format!(
        "expected a store that lost acknowledged state, found none missing in `{place}`"
    ))
}

/// Marks a store as moved: no center starts on it any more. Blocks.
///
/// # Errors
/// A store that may not be served may not be moved either.
pub fn retire(place: impl Into<Place>, to: &str) -> Result<(), UpkeepError> {
    retire_at(&place.into(), to, None)
}

/// As [`retire`]; refused where it is not at this revision any more.
fn retire_at(place: &Place, to: &str, at: Option<Revision>) -> Result<(), UpkeepError> {
    let store: Box<dyn Store> = match &place {
        Place::Dir(dir) => Box::new(SqliteStore::open(dir).map_err(of_store(place))?),
        Place::Database { address, .. } => Box::new(place.alone(address)?),
    };
    let mut moved = None;
    let retired = store.write(&mut |tx| {
        let head = tx.head()?;
        if at.is_some_and(|at| at != head) {
            moved = Some(head);
            return Ok(EditVerdict::Rollback);
        }
        let meta = tx.meta()?;
        let standing = Standing::Retired { to: to.to_owned() };
        tx.set_meta(&Meta { standing, ..meta })?;
        Ok(EditVerdict::Commit)
    });
    retired.and_then(|()| store.settle()).map_err(of_store(place))?;
    match (moved, at) {
        (Some(head), Some(at)) => Err(UpkeepError::Unfit(format!(
            "expected revision {at} in {place}, found {head}: it was changed meanwhile; nothing was moved, \
             try again"
        ))),
        _ => Ok(()),
    }
}

/// Moves a store to another place, of either engine: backs it up, retires it, and only then restores it
/// there. The backup stays as `moved.kgbackup`, in the data directory of the two. Blocks.
///
/// # Errors
/// As [`backup`], [`retire`] and [`restore`]; the target must not hold a store.
pub fn move_to(
    from: impl Into<Place>,
    to: impl Into<Place>,
    unix_ms: u64,
) -> Result<Succeeded, UpkeepError> {
    let (from, to) = (from.into(), to.into());
    let there = match &to {
        Place::Dir(dir) => dir.join("center.db").exists() || dir.join("center.high").exists(),
        Place::Database { address, .. } => to.attach(address)?.is_some(),
    };
    if there {
        return Err(UpkeepError::Unfit(format!("expected no store, found one in `{to}`")));
    }
    let dir = match (&from, &to) {
        (_, Place::Dir(dir)) | (Place::Dir(dir), _) => dir,
        (_, Place::Database { data, .. }) => data,
    };
    if let Place::Database { address, .. } = &from {
        // Before anything is written: it is retired below.
        from.alone(address)?;
    }
    restore::make_dir(dir)?;
    let file = dir.join("moved.kgbackup");
    let held = backup(from.clone(), &file, unix_ms)?;
    retire_at(&from, &to.to_string(), Some(held.revision))?;
    restore(to, &file)?.commit(unix_ms)
}

/// What is known of revisions that were told, beyond what the store holds.
fn highest(meta: &Meta, head: Revision, high: Option<&Mark>) -> Revision {
    let witnessed = match &meta.standing {
        Standing::Lost { witnessed, .. } => *witnessed,
        _ => Revision(0),
    };
    head.max(witnessed).max(high.map_or(Revision(0), |mark| mark.revision))
}

fn successor(highest: Revision) -> Result<Revision, UpkeepError> {
    let next = highest.0.saturating_add(SUCCESSOR_GAP);
    if next < keepgate_policy::mark::MAX_REVISION {
        Ok(Revision(next))
    } else {
        Err(UpkeepError::Unfit(format!("expected a revision below 2^53, found {next}")))
    }
}

/// The entry of the audit log that says that the line of revisions begins anew: from which one, where its
/// audit log stood by its own word, and as which one.
fn begun_anew(
    (old, head): (HistoryId, Revision),
    audit: Option<(u64, [u8; 32])>,
    (new, revision): (HistoryId, Revision),
    unix_ms: u64,
) -> AuditRow {
    let mut before = serde_json::json!({ "history": old.to_string(), "revision": head.0 });
    if let (Some((seq, chain)), Some(members)) = (audit, before.as_object_mut()) {
        let chain = keepgate_record::hex::text(&chain);
        members.insert("audit".to_owned(), serde_json::json!({ "seq": seq, "chain": chain }));
    }
    let after = serde_json::json!({ "history": new.to_string(), "revision": revision.0 });
    AuditRow {
        seq: 0,
        revision,
        unix_ms,
        actor: "host".to_owned(),
        action: keepgate_record::BEGUN_ANEW.to_owned(),
        service: String::new(),
        kind: "history".to_owned(),
        id: new.to_string(),
        before: Some(before.to_string()),
        after: Some(after.to_string()),
    }
}

/// The nearest first, without repetition.
fn ancestors(lines: impl IntoIterator<Item = HistoryId>) -> Vec<HistoryId> {
    let mut kept: Vec<HistoryId> = Vec::new();
    for history in lines {
        if !kept.contains(&history) {
            kept.push(history);
        }
    }
    kept
}

/// A new history in place, with what the store holds.
fn succeed(
    place: &Place,
    store: &dyn Store,
    high: Option<Mark>,
    unix_ms: u64,
) -> Result<Succeeded, UpkeepError> {
    let mut done = None;
    let mut unfit = None;
    store
        .write(&mut |tx| {
            let state = verify::all(tx)?;
            let (old, head) = (state.meta.history, state.head.revision);
            let revision = match successor(highest(&state.meta, head, high.as_ref())) {
                Ok(revision) => revision,
                Err(e) => {
                    unfit = Some(e);
                    return Ok(EditVerdict::Rollback);
                }
            };
            let lines = std::iter::once(old)
                .chain(high.map(|mark| mark.history))
                .chain(state.meta.ancestors.iter().copied());
            let meta = Meta {
                authzen_together: state.meta.authzen_together,
                ..crate::store::new_meta(ancestors(lines))?
            };
            let mut row = RevisionRow {
                revision,
                previous: head,
                changed: state.digest,
                others: state.sums.tokens.digest.plus(state.sums.tombstones.digest),
                write_id: crate::store::random()?,
                unix_ms,
                ..RevisionRow::zero()
            };
            row.chain = row.chained(&state.head.chain, meta.history);
            let audit = tx.audit_state()?;
            let (from, at) = ((old, head), Some((audit.seq, audit.chain)));
            tx.audit(&begun_anew(from, at, (meta.history, revision), unix_ms))?;
            tx.forget_revisions()?;
            tx.advance(&row, Retention::default())?;
            crate::desk::logs::sign_audit(tx, Retention::default(), unix_ms)?;
            tx.fork(Fork { at: head, resumed: revision })?;
            tx.set_meta(&meta)?;
            done = Some(Succeeded { before: Some((old, head)), history: meta.history, revision });
            Ok(EditVerdict::Commit)
        })
        .and_then(|()| store.settle())
        .map_err(of_store(place))?;
    match (done, unfit) {
        (Some(done), _) => Ok(done),
        (None, Some(e)) => Err(e),
        (None, None) => Err(UpkeepError::Unfit("the store was not written".to_owned())),
    }
}
