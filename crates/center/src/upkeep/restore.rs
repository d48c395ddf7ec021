//! Restore a backup, or recover from a replica: a new store beside the old one, shown as a
//! difference first, then put in its place.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use keepgate_policy::mark::change_digest;
use keepgate_policy::{Digest, HistoryId, Item, ItemKey, Mark, Revision};

use super::diff::{self, Difference};
use super::format::{self, AuditLog, Backup};
use super::{Place, Succeeded, UpkeepError, ancestors, begun_anew, highest, of_store, successor};
use crate::desk::verify;
use crate::store::{
    Address, AuditRow, Brought, EditVerdict, Fork, LogHeadRow, LogKeyRow, Meta, PostgresStore,
    Retention, RevisionRow, Row, ScopeRow, SqliteStore, Store, StoreError, Sum, SumRow, TokenRow,
    Tombstone, Writing, unsaid,
};
use crate::token::{self, Role};

/// What a replica kept, read from a gate's host.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The mark of what it holds; none: it is of a center of release 0.1.
    pub mark: Option<Mark>,
    /// The services that it followed; empty: all.
    pub services: Vec<String>,
    /// The revision.
    pub revision: Revision,
    /// Its items.
    pub items: Vec<Item>,
}

/// What is there now.
struct Now {
    /// The readable store; none: there is none, or it is damaged.
    meta: Option<(Meta, Revision)>,
    items: BTreeMap<ItemKey, Row>,
    tokens: BTreeMap<String, TokenRow>,
    tombstones: Vec<Tombstone>,
    audit: Vec<AuditRow>,
    audit_log: Option<AuditLog>,
    log_keys: Vec<LogKeyRow>,
    log_heads: Vec<LogHeadRow>,
    high: Option<Mark>,
    /// Why the store is not served, or not readable.
    said: Option<StoreError>,
}

/// A restore or recovery that was worked out, and not done yet.
pub struct Prepared {
    place: Place,
    next: Contents,
    /// The revision and history of the store that is there; none: there is none to read.
    pub before: Option<(HistoryId, Revision)>,
    /// Why the store that is there is not served; none: it is good, or there is none.
    pub said: Option<String>,
    /// What is put in its place.
    pub source: (HistoryId, Revision),
    /// What changes by it, what becomes permitted again first.
    pub differences: Vec<Difference>,
    first_revision: Revision,
    lines: Vec<HistoryId>,
}

/// The rows of the new store.
struct Contents {
    items: Vec<Row>,
    tokens: Vec<TokenRow>,
    tombstones: Vec<Tombstone>,
    audit: Vec<AuditRow>,
    /// The log that goes on; none: a new one begins.
    audit_log: Option<AuditLog>,
    /// Also those of the store that is there: what they have signed can be verified further on.
    log_keys: Vec<LogKeyRow>,
    log_heads: Vec<LogHeadRow>,
    from: Revision,
    /// See [`Meta::authzen_together`].
    authzen_together: bool,
}

/// Reads a backup and compares it with the store that is there. Nothing is changed before
/// [`Prepared::commit`]. Blocks.
///
/// # Errors
/// A backup that is not whole, and a data directory in use.
pub fn restore(place: impl Into<Place>, file: &Path) -> Result<Prepared, UpkeepError> {
    let place = place.into();
    let of_file = |source| UpkeepError::Backup { file: file.display().to_string(), source };
    let backup = format::read(file).map_err(of_file)?;
    let now = look(&place)?;
    let mut differences = Vec::new();
    if now.meta.is_some() {
        differences = diff::items(&now.items, backup.items.iter(), |_| true);
        differences.extend(diff::tokens(&now.tokens, &backup.tokens, keepgate_observe::unix_s()));
        differences.sort_by_key(|difference| difference.effect);
    }
    let Backup { history, ancestors: older, revision, .. } = backup;
    let mut log_keys = backup.log_keys;
    for key in &now.log_keys {
        if log_keys.iter().all(|known| known.id != key.id) {
            log_keys.push(key.clone());
        }
    }
    // What was signed since the backup is not forgotten: no line is signed twice.
    let mut log_heads = now.log_heads.clone();
    for head in backup.log_heads {
        match log_heads.iter_mut().find(|known| known.log == head.log) {
            Some(known) if known.seq >= head.seq => {}
            Some(known) => *known = head,
            None => log_heads.push(head),
        }
    }
    let next = Contents {
        items: backup.items,
        tokens: backup.tokens,
        tombstones: backup.tombstones,
        audit: backup.audit,
        audit_log: backup.audit_log,
        log_keys,
        log_heads,
        from: revision,
        authzen_together: backup.authzen_together,
    };
    prepare(place, &now, next, (history, revision), &older, differences)
}

/// Puts what a replica kept in the place of the same services of the store that is there. Tokens
/// are never recovered: those of the store stay, where it can be read. Nothing is changed before
/// [`Prepared::commit`]. Blocks.
///
/// # Errors
/// A replica of another history, and a data directory in use.
pub fn recover(place: impl Into<Place>, kept: Kept) -> Result<Prepared, UpkeepError> {
    let place = place.into();
    let now = look(&place)?;
    let Some(mark) = kept.mark else {
        return Err(UpkeepError::Unfit(
            "expected a replica that follows a center of release 0.2 or later, found one without a \
             mark"
                .to_owned(),
        ));
    };
    let known = now.meta.as_ref().map(|(meta, _)| meta.history);
    let known = known.or(now.high.map(|high| high.history));
    if let Some(known) = known
        && known != mark.history
    {
        return Err(UpkeepError::Unfit(format!(
            "expected a replica of history {}, found one of {}",
            known.short(),
            mark.history.short()
        )));
    }
    let covers = |key: &ItemKey| {
        key.service.is_empty() || kept.services.is_empty() || kept.services.contains(&key.service)
    };
    let mut rows: Vec<Row> = kept.items.iter().map(|item| row_of(item, kept.revision)).collect();
    for row in &mut rows {
        if let Some(known) = now.items.get(&row.key).filter(|known| known.digest == row.digest) {
            row.origin = known.origin;
        }
    }
    let differences = diff::items(&now.items, rows.iter(), covers);
    let mut items: Vec<Row> = now.items.values().filter(|row| !covers(&row.key)).cloned().collect();
    items.extend(rows);
    let there: std::collections::BTreeSet<&ItemKey> = items.iter().map(|row| &row.key).collect();
    let tombstones = now
        .tombstones
        .iter()
        .filter(|tombstone| !there.contains(&tombstone.key))
        .cloned()
        .collect();
    let (tokens, audit) = (now.tokens.values().cloned().collect(), now.audit.clone());
    drop(there);
    let authzen_together = now.meta.as_ref().is_some_and(|(meta, _)| meta.authzen_together);
    let from = kept.revision;
    let (log_keys, log_heads) = (now.log_keys.clone(), now.log_heads.clone());
    let audit_log = now.audit_log.clone();
    let next = Contents {
        items,
        tokens,
        tombstones,
        audit,
        audit_log,
        log_keys,
        log_heads,
        from,
        authzen_together,
    };
    prepare(place, &now, next, (mark.history, kept.revision), &[], differences)
}

/// An empty store in the place of one whose database is gone; with an admin token of its own. It
/// continues the history that the high-water mark names, where that can be read.
///
/// # Errors
/// A directory in which no center has run, and one whose database is there.
pub(super) fn nothing(dir: &Path) -> Result<Prepared, UpkeepError> {
    let traces = ["center.db", "center.db-wal", "center.high", "admin.token"];
    if !traces.iter().any(|name| dir.join(name).symlink_metadata().is_ok()) {
        return Err(UpkeepError::Unfit(format!(
            "expected the data directory of a center, found no trace of one in `{0}`: `keepgate \
             center --data {0}` makes a new one",
            dir.display()
        )));
    }
    let place = Place::from(dir);
    let now = look(&place)?;
    if now.meta.is_some() {
        let text = format!("the store in `{}` can be read; nothing was changed", dir.display());
        return Err(UpkeepError::Unfit(text));
    }
    let source = now.high.map_or((NO_HISTORY, Revision(0)), |mark| (mark.history, mark.revision));
    let next = Contents {
        items: Vec::new(),
        tokens: Vec::new(),
        tombstones: Vec::new(),
        audit: Vec::new(),
        audit_log: None,
        log_keys: Vec::new(),
        log_heads: Vec::new(),
        from: source.1,
        authzen_together: false,
    };
    prepare(place, &now, next, source, &[], Vec::new())
}

/// The history of a store of which nothing is known.
const NO_HISTORY: HistoryId = HistoryId([0; 16]);

fn row_of(item: &Item, revision: Revision) -> Row {
    let body = item.encode();
    let digest = Digest::of_encoded(&item.key, &body);
    let source = verify::source_of(&item.body).to_owned();
    // A replica does not say who brought it. An apply that says otherwise names it.
    let origin = unsaid(&item.body, Brought::Command);
    Row { key: item.key.clone(), body, revision, digest, source, needs: item.needs(), origin }
}

fn look(place: &Place) -> Result<Now, UpkeepError> {
    let mut now = Now {
        meta: None,
        items: BTreeMap::new(),
        tokens: BTreeMap::new(),
        tombstones: Vec::new(),
        audit: Vec::new(),
        audit_log: None,
        log_keys: Vec::new(),
        log_heads: Vec::new(),
        high: None,
        said: None,
    };
    let dir = match place {
        Place::Dir(dir) if dir.exists() => dir,
        Place::Dir(_) => return Ok(now),
        Place::Database { address, .. } => {
            // One that cannot be reached, or is of another layout, is not replaced unseen.
            if let Some(store) = place.attach(address)? {
                match read_now(&store, &mut now) {
                    Ok(()) => {}
                    Err(e @ StoreError::Corrupt { .. }) => {
                        now.meta = None;
                        now.said = Some(e);
                    }
                    Err(e) => return Err(of_store(place)(e)),
                }
            }
            return Ok(now);
        }
    };
    now.high = SqliteStore::high_mark(dir).ok().flatten();
    match SqliteStore::open_repair(dir) {
        Ok((store, said)) => {
            now.said = said;
            let read = read_now(&store, &mut now);
            if let Err(e) = read {
                now.meta = None;
                now.said = Some(e);
            }
        }
        // One of another release is not something to be replaced unseen.
        Err(e @ (StoreError::Locked { .. } | StoreError::Layout { .. })) => {
            return Err(of_store(place)(e));
        }
        Err(e) => now.said = Some(e),
    }
    Ok(now)
}

fn read_now(store: &dyn Store, now: &mut Now) -> Result<(), StoreError> {
    let reading = store.read()?;
    let state = verify::all(reading.as_ref())?;
    for scope in state.scopes.keys() {
        reading.each(scope, &mut |row| {
            now.items.insert(row.key.clone(), row);
            Ok(())
        })?;
    }
    now.tokens = reading.tokens()?.into_iter().map(|row| (row.id.clone(), row)).collect();
    reading.tombstones(&mut |tombstone| {
        now.tombstones.push(tombstone);
        Ok(())
    })?;
    now.audit = reading.audit_after(0, usize::MAX)?;
    now.audit_log = Some(reading.audit_state()?.into());
    now.log_keys = reading.log_keys()?;
    now.log_heads = reading.log_heads(None, usize::MAX)?;
    now.meta = Some((state.meta, state.head.revision));
    Ok(())
}

fn prepare(
    place: Place,
    now: &Now,
    next: Contents,
    source: (HistoryId, Revision),
    older: &[HistoryId],
    differences: Vec<Difference>,
) -> Result<Prepared, UpkeepError> {
    let told = match &now.meta {
        Some((meta, head)) => highest(meta, *head, now.high.as_ref()),
        None => now.high.map_or(Revision(0), |mark| mark.revision),
    };
    let here = now.meta.as_ref().map(|(meta, _)| meta.history);
    let before_that = now.meta.iter().flat_map(|(meta, _)| meta.ancestors.iter().copied());
    let lines = here
        .into_iter()
        .chain(now.high.map(|mark| mark.history))
        .chain(std::iter::once(source.0))
        .chain(before_that)
        .chain(older.iter().copied())
        .filter(|history| *history != NO_HISTORY);
    Ok(Prepared {
        place,
        next,
        before: now.meta.as_ref().map(|(meta, head)| (meta.history, *head)),
        said: now.said.as_ref().map(|e| keepgate_observe::chain(e)),
        source,
        differences,
        first_revision: successor(told.max(source.1))?,
        lines: ancestors(lines),
    })
}

impl Prepared {
    /// Whether a store that is there holds what the source does not.
    pub fn is_older(&self) -> bool {
        self.before.is_some() && !self.differences.is_empty()
    }

    /// Builds the new store and puts it in the place of the one that is there. What it replaces is kept:
    /// files in a folder beside the new ones, tables under another name of the schema. Blocks.
    ///
    /// # Errors
    /// The store that is there stays as it is.
    pub fn commit(mut self, unix_ms: u64) -> Result<Succeeded, UpkeepError> {
        let admin = self.admin_token(unix_ms)?;
        let (history, dir) = match &self.place {
            Place::Dir(dir) => {
                make_dir(dir)?;
                let _held = SqliteStore::hold(dir).map_err(of_store(&self.place))?;
                let staging = dir.join("restore.new");
                let _ = std::fs::remove_dir_all(&staging);
                let history = self.build(&staging, unix_ms)?;
                let put = put(dir, &staging, unix_ms);
                let _ = std::fs::remove_dir_all(&staging);
                put?;
                (history, dir)
            }
            Place::Database { address, data } => (self.replace(address, unix_ms)?, data),
        };
        if let Some(text) = admin {
            make_dir(dir)?;
            let path = dir.join("admin.token");
            crate::write_secret(&path, &text).map_err(io("write", &path))?;
        }
        Ok(Succeeded { before: self.before, history, revision: self.first_revision })
    }

    /// In one transaction: a step that fails leaves all as it was.
    fn replace(&self, address: &Address, unix_ms: u64) -> Result<HistoryId, UpkeepError> {
        let mut history = None;
        PostgresStore::replace(address, unix_ms, &mut |tx| {
            history = Some(self.fill(tx, unix_ms)?);
            Ok(())
        })
        .map_err(of_store(&self.place))?;
        history.ok_or_else(|| UpkeepError::Unfit("the store was not written".to_owned()))
    }

    /// Where no admin token would be left, a new one: else nobody could get in.
    fn admin_token(&mut self, unix_ms: u64) -> Result<Option<String>, UpkeepError> {
        let now = unix_ms / 1000;
        let good = |token: &TokenRow| token.role == Role::Admin && token.is_good(now);
        if self.next.tokens.iter().any(good) {
            return Ok(None);
        }
        let minted = token::mint("kgt").map_err(|e| UpkeepError::Unfit(e.to_string()))?;
        self.next.tokens.push(TokenRow {
            id: minted.id,
            role: Role::Admin,
            service: String::new(),
            sha256: minted.sha256,
            note: "made by a recovery".to_owned(),
            created_unix_s: unix_ms / 1000,
            last_used_unix_s: None,
            last_used_from: String::new(),
            revoked_unix_s: None,
            expires_unix_s: None,
        });
        Ok(Some(minted.text))
    }

    /// Everything a restored store says, in one transaction.
    fn fill(&self, tx: &mut dyn Writing, unix_ms: u64) -> Result<HistoryId, StoreError> {
        let (next, revision) = (&self.next, self.first_revision);
        let mut scopes: BTreeMap<&str, ScopeRow> = BTreeMap::new();
        let mut changed = Digest::default();
        for row in &next.items {
            tx.put(row)?;
            changed = changed.plus(change_digest(&row.key, Some(&row.body)));
            let service = row.key.service.as_str();
            let scope = scopes.entry(service).or_insert_with(|| ScopeRow {
                service: service.to_owned(),
                digest: Digest::default(),
                items: 0,
            });
            scope.digest = scope.digest.plus(row.digest);
            scope.items += 1;
        }
        for scope in scopes.values() {
            tx.scope(scope)?;
        }
        let (mut tokens, mut tombstones) = (SumRow::default(), SumRow::default());
        for row in &next.tokens {
            tx.token(row)?;
            tokens.add(row.digest());
        }
        for row in &next.tombstones {
            tx.put_tombstone(row)?;
            tombstones.add(row.digest());
        }
        if let Some(log) = &next.audit_log {
            tx.audit_begin(&log.log, log.removed_through, &log.removed_chain)?;
        }
        for row in &next.audit {
            tx.audit(row)?;
        }
        next.log_keys.iter().try_for_each(|row| tx.put_log_key(row))?;
        next.log_heads.iter().try_for_each(|row| tx.put_log_head(row))?;
        tx.set_sum(Sum::Tokens, tokens)?;
        tx.set_sum(Sum::Tombstones, tombstones)?;
        let authzen_together = next.authzen_together;
        let meta = Meta { authzen_together, ..crate::store::new_meta(self.lines.clone())? };
        let mut row = RevisionRow {
            revision,
            previous: next.from,
            changed,
            others: tokens.digest.plus(tombstones.digest),
            write_id: crate::store::random()?,
            unix_ms,
            ..RevisionRow::zero()
        };
        row.chain = row.chained(&[0; 32], meta.history);
        let at = next.audit_log.as_ref().map(|log| (log.seq, log.chain));
        let (old, from) = (self.source.0, next.from);
        tx.audit(&begun_anew((old, from), at, (meta.history, revision), unix_ms))?;
        tx.forget_revisions()?;
        tx.advance(&row, Retention::default())?;
        crate::desk::logs::sign_audit(tx, Retention::default(), unix_ms)?;
        tx.fork(Fork { at: next.from, resumed: revision })?;
        let history = meta.history;
        tx.set_meta(&meta)?;
        Ok(history)
    }

    fn build(&self, staging: &Path, unix_ms: u64) -> Result<HistoryId, UpkeepError> {
        let failed = of_store(&Place::from(staging));
        let store = SqliteStore::open(staging).map_err(&failed)?;
        let mut history = None;
        store
            .write(&mut |tx| {
                history = Some(self.fill(tx, unix_ms)?);
                Ok(EditVerdict::Commit)
            })
            .and_then(|()| store.settle())
            .map_err(&failed)?;
        history.ok_or_else(|| UpkeepError::Unfit("the store was not written".to_owned()))
    }
}

/// The high-water mark stays until the new store's first start replaces it, so that a crash at
/// any step leaves a directory that is refused or whole.
fn put(dir: &Path, staging: &Path, unix_ms: u64) -> Result<(), UpkeepError> {
    let aside = dir.join(format!("replaced-{unix_ms}"));
    for name in ["center.db", "center.db-wal", "center.high"] {
        let old = dir.join(name);
        if old.symlink_metadata().is_ok() {
            make_dir(&aside)?;
            let kept = aside.join(name);
            std::fs::hard_link(&old, &kept).map_err(io("keep", &kept))?;
        }
    }
    // A log that is left would be played back into the new database.
    for name in ["center.db-wal", "center.db-shm"] {
        let old = dir.join(name);
        match std::fs::remove_file(&old) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("remove", &old)(e));
            }
            _ => {}
        }
    }
    let (new, place) = (staging.join("center.db"), dir.join("center.db"));
    std::fs::rename(&new, &place).map_err(io("put in place", &place))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir))
}

pub(super) fn make_dir(dir: &Path) -> Result<(), UpkeepError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("create", dir))
}

fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> UpkeepError + 'a {
    move |source| UpkeepError::Io { what, path: path.display().to_string(), source }
}
