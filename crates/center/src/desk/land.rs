//! One edit becomes one revision, or nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use keepgate_policy::service::{Authzen, ServiceSettings};
use keepgate_policy::{Digest, Item, ItemBody, ItemKey, Kind, Revision, World};

use super::history::{self, By, Moved, WriteId};
use super::others::{self, Ground};
use super::recent::Landed;
use super::step::{self, Counts, Settled, Step};
use super::work::Work;
use super::{Edit, EditPlan, Head, Newer, Outcome, Refusal, Shared, bulk, check};
use crate::store::{
    AuditRow, Brought, ChangeRow, EditVerdict, Fork, Meta, PastItem, PastRow, RequestChange,
    RequestRow, RequestsOf, Row, ScopeRow, SessionBounds, SessionChange, Staged, StoreError,
    TokenRow, Writing,
};
use crate::token::Role;

/// Changes of a revision that are kept as rows for followers; of a larger revision only that it
/// was: its followers get a snapshot.
const CHANGE_ROWS: usize = 10_000;

/// The action of a rollback, as the audit log names it.
pub(crate) const ROLLBACK: &str = "rollback";

/// Changes of one kind in one revision that have an audit row each; more are summed up in one.
const AUDIT_ROWS: u64 = 10_000;

/// Rows between two looks whether anybody still waits.
const LOOK_EVERY: usize = 1_024;

/// How often an edit begins again because other centers wrote more than is taken over in its
/// transaction.
const BEGINNINGS: usize = 8;

/// Lands one edit and publishes it. Runs on the writer thread alone.
pub(super) fn land(shared: &Shared, edit: Edit) -> Result<Outcome, Refusal> {
    let Edit { actor, action, dry_run, plan, write_id } = edit;
    let mut plan = Some(plan);
    let stamp = Stamp::now(&actor, action, write_id)?;
    on_ground(shared, |tx, ground| {
        if let Some(landed) = landed_before(tx, write_id.filter(|_| !dry_run))? {
            return Ok((landed, Fate::Noted));
        }
        let plan = plan.take().ok_or(Refusal::Closed)?;
        attempt(tx, ground, plan, &stamp, dry_run, shared)
    })
    .map(|(outcome, _)| outcome)
}

/// Makes an attempt in a write transaction, on the state that the store has: see [`in_transaction`].
/// What other centers wrote is taken over first.
pub(super) fn on_ground<T>(
    shared: &Shared,
    mut attempt: impl FnMut(&mut dyn Writing, &Ground) -> Result<(T, Fate), Refusal>,
) -> Result<(T, Option<Arc<Head>>), Refusal> {
    for _ in 0..BEGINNINGS {
        let landed = in_transaction(shared, |tx| match shared.ground(&*tx)? {
            Some(ground) => attempt(tx, &ground).map(|(done, fate)| (Some(done), fate)),
            None => Ok((None, Fate::Nothing)),
        })?;
        match landed {
            (Some(done), replaced) => return Ok((done, replaced)),
            (None, _) => drop(shared.catch_up()?),
        }
    }
    Err(Refusal::Busy)
}

/// What became of an edit of this id that was sent before: it is not made again.
pub(super) fn landed_before(
    tx: &mut dyn Writing,
    write_id: Option<WriteId>,
) -> Result<Option<Outcome>, StoreError> {
    let Some(write_id) = write_id else { return Ok(None) };
    let Some(row) = tx.written(&write_id)? else { return Ok(None) };
    // Whoever hears of it now may have heard nothing before: it must be durable.
    others::write_nothing(tx)?;
    Ok(Some(Outcome { replayed: true, ..Outcome::nothing(row.revision) }))
}

/// Makes an attempt in a write transaction. A state that it makes is committed and published; with
/// what came of the attempt, the state that was published before. Else nothing is written.
///
/// In a shared store a commit of unknown outcome is looked up: nothing is guessed.
fn in_transaction<T>(
    shared: &Shared,
    attempt: impl FnOnce(&mut dyn Writing) -> Result<(T, Fate), Refusal>,
) -> Result<(T, Option<Arc<Head>>), Refusal> {
    let mut attempt = Some(attempt);
    let mut done = Err(Refusal::Closed);
    let written = shared.store.write(&mut |tx| {
        let Some(attempt) = attempt.take() else {
            // What the first run made is not there.
            done = Err(Refusal::Busy);
            return Ok(EditVerdict::Rollback);
        };
        match attempt(tx) {
            Err(Refusal::Store(e)) => Err(e),
            landed => {
                let is_kept = matches!(landed, Ok((_, Fate::Noted | Fate::State(_))));
                done = landed;
                Ok(if is_kept { EditVerdict::Commit } else { EditVerdict::Rollback })
            }
        }
    });
    match (written, done) {
        (Ok(()), Ok((outcome, Fate::State(next)))) => Ok((outcome, Some(shared.publish(*next)?))),
        (Ok(()), done) => done.map(|(outcome, _)| (outcome, None)),
        (
            Err(e @ (StoreError::Unknown { .. } | StoreError::Outcome { .. })),
            Ok((outcome, Fate::State(next))),
        ) if shared.store.is_shared() => {
            settle_unknown(shared, &e, &next)?;
            Ok((outcome, Some(shared.publish(*next)?)))
        }
        (Err(e), _) => Err(e.into()),
    }
}

/// Finds out whether a commit happened whose outcome is unknown; refused where it did not, or where
/// that cannot be told now. A later edit first finds what it left, as it takes the same lock.
fn settle_unknown(shared: &Shared, error: &StoreError, next: &Next) -> Result<(), Refusal> {
    let why = keepgate_observe::chain(error);
    match shared.look_up_patiently(&next.write_id) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            tracing::warn!(error = why, "a commit failed; nothing of it is stored");
            Err(Refusal::Undone(why.into()))
        }
        Err(e) => {
            shared.note_failure(&e);
            let error = keepgate_observe::chain(&e);
            tracing::error!(why, error, "whether a change was stored is not known");
            Err(Refusal::OutcomeUnknown { write_id: next.write_id })
        }
    }
}

/// What becomes of an attempt.
pub(super) enum Fate {
    /// Nothing of it is kept.
    Nothing,
    /// What it wrote is kept, and makes no revision.
    Noted,
    /// The next state.
    State(Box<Next>),
}

/// Who does what, and when.
pub(super) struct Stamp<'a> {
    actor: &'a str,
    action: &'static str,
    unix_ms: u64,
    write_id: WriteId,
}

impl Stamp<'_> {
    /// With the id that the caller gave the edit, or else a random one.
    pub(super) fn now<'a>(
        actor: &'a str,
        action: &'static str,
        write_id: Option<WriteId>,
    ) -> Result<Stamp<'a>, StoreError> {
        let write_id = write_id.map_or_else(crate::store::random, Ok)?;
        Ok(Stamp { actor, action, unix_ms: keepgate_observe::unix_ms(), write_id })
    }
}

/// What is published after the commit.
pub(super) struct Next {
    pub(super) head: Head,
    pub(super) landed: Landed,
    /// By what its commit can be looked up.
    pub(super) write_id: WriteId,
    /// Where the line jumped with it.
    pub(super) fork: Option<Fork>,
}

fn attempt(
    tx: &mut dyn Writing,
    ground: &Ground,
    plan: super::Planner,
    stamp: &Stamp<'_>,
    dry_run: bool,
    shared: &Shared,
) -> Result<(Outcome, Fate), Refusal> {
    let (before, revision) = (&*ground.before, ground.revision);
    let EditPlan { changes, tokens, settled, requests, ended } = plan(&*tx, before)?;
    let steps = step::steps(&*tx, changes)?;
    if steps.is_empty() && tokens.is_empty() && requests.is_empty() && ended.is_empty() {
        let noted = !dry_run && settle(tx, &settled)?;
        let fate = if noted { Fate::Noted } else { Fate::Nothing };
        return Ok((Outcome::nothing(before.revision), fate));
    }
    let work = Work::default();
    let problems = check::check(&*tx, &steps, None, &work)?;
    if !problems.is_empty() {
        return Err(Refusal::Invalid(problems));
    }
    let world = bulk::build(&before.world, revision, &steps, || Ok(()))?;
    let problems = check::circles(&world, steps.iter().map(|step| &step.key));
    if !problems.is_empty() {
        return Err(Refusal::Invalid(problems));
    }
    if dry_run {
        return Ok((Outcome::of(before.revision, &steps), Fate::Nothing));
    }
    write(tx, &steps, revision, stamp, None, None)?;
    for request in requests {
        let row = request_audit(&*tx, &request, revision, stamp)?;
        tx.audit(&row)?;
        tx.request_change(&RequestChange::Put(request))?;
    }
    for holder in ended {
        let (kind, id) = ("session".to_owned(), holder.clone());
        tx.audit(&AuditRow { kind, id, ..stamp.row(revision) })?;
        tx.session_change(&SessionChange::EndOf(holder), SessionBounds::DEFAULT)?;
    }
    settle(tx, &settled)?;
    let outcome = Outcome::of(revision, &steps);
    let next = next(tx, shared, ground, &steps, tokens, world, stamp)?;
    Ok((outcome, Fate::State(Box::new(next))))
}

/// Notes which items are as the files have them; false: there are none.
pub(super) fn settle(tx: &mut dyn Writing, settled: &[Settled]) -> Result<bool, StoreError> {
    for Settled { key, digest } in settled {
        tx.settle_origin(key, *digest)?;
    }
    Ok(!settled.is_empty())
}

/// Writes the items of a revision, its change rows and its audit rows. Items that were laid aside in
/// the store are taken over from there, but for those of these keys, which are not among the steps.
pub(super) fn write(
    tx: &mut dyn Writing,
    steps: &[Step],
    revision: Revision,
    stamp: &Stamp<'_>,
    work: Option<&Work>,
    staged: Option<(&Staged, &[ItemKey])>,
) -> Result<(), Refusal> {
    let by = Brought::by(stamp.action);
    let with_changes = steps.len() <= CHANGE_ROWS;
    // What a rollback replaces can be gone back to, however much it is.
    let with_past = with_changes || stamp.action == ROLLBACK;
    let mut sums: BTreeMap<(&str, Kind), Counts> = BTreeMap::new();
    for step in steps {
        sums.entry((&step.key.service, step.key.kind)).or_default().add(step.op());
    }
    sums.retain(|_, counts| counts.all() > AUDIT_ROWS);
    for (at, step) in steps.iter().enumerate() {
        if let Some(work) = work
            && at.is_multiple_of(LOOK_EVERY)
        {
            work.checked(0)?;
            work.at(at);
        }
        let summed = sums.contains_key(&(step.key.service.as_str(), step.key.kind));
        let before = match step.before {
            Some(_) if with_past || !summed => tx.item(&step.key)?,
            _ => None,
        };
        if !summed {
            tx.audit(&audit_row(step, before.as_ref(), revision, stamp))?;
        }
        if with_past {
            tx.past(&past_row(step, before, revision))?;
        }
        write_step(tx, step, revision, by, with_changes, staged.is_none())?;
    }
    if let Some((staged, without)) = staged {
        tx.put_staged(staged, revision, without)?;
    }
    if with_past {
        tx.past_complete()?;
    }
    if !with_changes {
        tx.changes_left_out(revision, steps.len())?;
    }
    for ((service, kind), counts) in sums {
        let row = AuditRow {
            service: service.to_owned(),
            kind: kind.as_str().to_owned(),
            id: String::new(),
            before: None,
            after: Some(serde_json::json!({ "summary": counts }).to_string()),
            ..stamp.row(revision)
        };
        tx.audit(&row)?;
    }
    Ok(())
}

fn write_step(
    tx: &mut dyn Writing,
    step: &Step,
    revision: Revision,
    by: Brought,
    with_changes: bool,
    with_row: bool,
) -> Result<(), StoreError> {
    match &step.after {
        Some(after) if with_row => tx.put(&step.row(after, revision, by))?,
        Some(_) => {}
        None => {
            tx.delete(&step.key)?;
        }
    }
    if with_changes {
        let body = step.after.as_ref().map(|after| after.body.clone());
        let needs = step.after.as_ref().map_or(1, |after| after.needs);
        tx.change(&ChangeRow { revision, key: step.key.clone(), body, needs })?;
    }
    Ok(())
}

/// What is audited of a step.
fn audit_row(step: &Step, before: Option<&Row>, revision: Revision, stamp: &Stamp<'_>) -> AuditRow {
    AuditRow {
        service: step.key.service.clone(),
        kind: step.key.kind.as_str().to_owned(),
        id: step.key.id.clone(),
        before: before.map(|row| shown(step.key.kind, &row.body)),
        after: step.after.as_ref().map(|after| shown(step.key.kind, &after.body)),
        ..stamp.row(revision)
    }
}

/// What is kept of what a step found.
fn past_row(step: &Step, before: Option<Row>, revision: Revision) -> PastRow {
    let before =
        before.map(|row| PastItem { body: row.body, digest: row.digest, since: row.revision });
    PastRow { revision, key: step.key.clone(), before }
}

impl Stamp<'_> {
    /// An audit row that names nothing yet.
    fn row(&self, revision: Revision) -> AuditRow {
        AuditRow {
            seq: 0,
            revision,
            unix_ms: self.unix_ms,
            actor: self.actor.to_owned(),
            action: self.action.to_owned(),
            service: String::new(),
            kind: String::new(),
            id: String::new(),
            before: None,
            after: None,
        }
    }
}

/// A body as the audit log shows it: a key's hash is left out.
pub(crate) fn shown(kind: Kind, body: &[u8]) -> String {
    if kind == Kind::Key
        && let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(body)
    {
        fields.remove("sha256");
        return serde_json::Value::Object(fields).to_string();
    }
    String::from_utf8_lossy(body).into_owned()
}

/// Writes scopes, tokens and the head; what is to be published after the commit.
pub(super) fn next(
    tx: &mut dyn Writing,
    shared: &Shared,
    ground: &Ground,
    steps: &[Step],
    tokens: Vec<TokenRow>,
    world: World,
    stamp: &Stamp<'_>,
) -> Result<Next, Refusal> {
    let (before, revision) = (&*ground.before, ground.revision);
    let fork = ground.note(tx)?;
    let scopes = write_scopes(tx, before, steps)?;
    for token in &tokens {
        tx.audit(&token_audit(before, token, revision, stamp))?;
        tx.token(token)?;
    }
    let moved = steps.iter().map(|step| Moved {
        key: &step.key,
        was: step.before.as_ref().map(|before| before.digest),
        now: step.after.as_ref().map(|after| after.digest),
    });
    let Stamp { actor, action, unix_ms, write_id } = *stamp;
    let by = By { actor, action, unix_ms, write_id };
    let at = (before, revision);
    let (mark, sums) = history::advance(tx, at, &shared.line, moved, &tokens, &by, shared.keep)?;
    let landed = Landed::new(before.revision, mark, steps, Arc::clone(&scopes));
    let services = services(before, steps)?;
    let has_default = || services.values().any(|service| service.authzen == Authzen::Default);
    let authzen_together = before.authzen_together && !has_default();
    if before.authzen_together && !authzen_together {
        let meta = tx.meta()?;
        tx.set_meta(&Meta { authzen_together, ..meta })?;
    }
    let head = Head {
        revision,
        world,
        services,
        tokens: with_tokens(before, tokens),
        scopes,
        mark,
        sums,
        newer: newer(before, steps),
        authzen_together,
    };
    Ok(Next { head, landed, write_id, fork })
}

/// The scopes after steps; those that they touch are written.
fn write_scopes(
    tx: &mut dyn Writing,
    before: &Head,
    steps: &[Step],
) -> Result<Arc<BTreeMap<String, ScopeRow>>, StoreError> {
    let scopes = scopes(before, steps);
    for run in steps.chunk_by(|a, b| a.key.service == b.key.service) {
        let Some(first) = run.first() else { continue };
        let service = &first.key.service;
        match scopes.get(service) {
            Some(scope) => tx.scope(scope)?,
            None => tx.scope(&ScopeRow {
                service: service.clone(),
                digest: Digest::default(),
                items: 0,
            })?,
        }
    }
    Ok(scopes)
}

/// The scopes after steps, which are in key order.
pub(super) fn scopes(before: &Head, steps: &[Step]) -> Arc<BTreeMap<String, ScopeRow>> {
    if steps.is_empty() {
        return Arc::clone(&before.scopes);
    }
    let mut scopes = (*before.scopes).clone();
    // The steps are in key order, so each service is a run of them.
    for run in steps.chunk_by(|a, b| a.key.service == b.key.service) {
        let Some(first) = run.first() else { continue };
        let service = first.key.service.as_str();
        let scope = scopes.entry(service.to_owned()).or_insert_with(|| ScopeRow {
            service: service.to_owned(),
            digest: Digest::default(),
            items: 0,
        });
        for step in run {
            if let Some(before) = &step.before {
                scope.digest = scope.digest.minus(before.digest);
                scope.items = scope.items.saturating_sub(1);
            }
            if let Some(after) = &step.after {
                scope.digest = scope.digest.plus(after.digest);
                scope.items += 1;
            }
        }
    }
    scopes.retain(|_, scope| scope.items > 0);
    Arc::new(scopes)
}

/// The settings of all services after steps.
pub(super) fn services(
    before: &Head,
    steps: &[Step],
) -> Result<Arc<BTreeMap<String, Arc<ServiceSettings>>>, StoreError> {
    let mut of_services = steps.iter().filter(|step| step.key.kind == Kind::Service).peekable();
    if of_services.peek().is_none() {
        return Ok(Arc::clone(&before.services));
    }
    let mut services = (*before.services).clone();
    for step in of_services {
        let after = step.after.as_ref().map(|after| after.decode()).transpose();
        match after? {
            Some(Item { body: ItemBody::Service(settings), .. }) => {
                services.insert(step.key.service.clone(), Arc::new(*settings));
            }
            _ => {
                services.remove(&step.key.service);
            }
        }
    }
    Ok(Arc::new(services))
}

/// Which services use what old followers do not understand, after steps.
pub(super) fn newer(before: &Head, steps: &[Step]) -> Arc<Newer> {
    let mut newer = (*before.newer).clone();
    for step in steps {
        let service = &step.key.service;
        if let Some(before) = &step.before {
            newer.moved(service, before.needs, false);
        }
        if let Some(after) = &step.after {
            newer.moved(service, after.needs, true);
        }
    }
    if newer == *before.newer { Arc::clone(&before.newer) } else { Arc::new(newer) }
}

fn with_tokens(before: &Head, changed: Vec<TokenRow>) -> Arc<HashMap<String, TokenRow>> {
    if changed.is_empty() {
        return Arc::clone(&before.tokens);
    }
    let mut tokens = (*before.tokens).clone();
    for token in changed {
        tokens.insert(token.id.clone(), token);
    }
    Arc::new(tokens)
}

/// What is audited of a request for access that was decided or whose key was made.
fn request_audit(
    tx: &dyn Writing,
    request: &RequestRow,
    revision: Revision,
    stamp: &Stamp<'_>,
) -> Result<AuditRow, StoreError> {
    let shown = |row: &RequestRow| {
        let mut shown = serde_json::json!(row.body);
        if let Some(members) = shown.as_object_mut() {
            members.insert("state".to_owned(), row.state.name().into());
            members.insert("address".to_owned(), row.address.clone().into());
        }
        shown.to_string()
    };
    let before = tx.requests(RequestsOf::One(&request.service, &request.id))?.pop();
    Ok(AuditRow {
        service: request.service.clone(),
        kind: "request".to_owned(),
        id: request.id.clone(),
        before: before.as_ref().map(shown),
        after: Some(shown(request)),
        ..stamp.row(revision)
    })
}

fn token_audit(before: &Head, token: &TokenRow, revision: Revision, stamp: &Stamp<'_>) -> AuditRow {
    AuditRow {
        service: token.service.clone(),
        kind: "token".to_owned(),
        id: token.id.clone(),
        before: before.tokens.get(&token.id).map(token_shown),
        after: Some(token_shown(token)),
        ..stamp.row(revision)
    }
}

fn token_shown(token: &TokenRow) -> String {
    let mut shown = serde_json::json!({
        "role": token.role.name(),
        "service": token.service,
        "note": token.note,
        "revoked": token.revoked_unix_s.is_some(),
    });
    if let (Some(at), Some(shown)) = (token.expires_unix_s, shown.as_object_mut()) {
        shown.insert("expires_unix_s".to_owned(), at.into());
    }
    shown.to_string()
}

/// Whether a good admin token other than `gone` is left.
pub(crate) fn an_admin_remains(head: &Head, gone: &str) -> bool {
    let now = keepgate_observe::unix_s();
    head.tokens.values().any(|row| row.role == Role::Admin && row.is_good(now) && row.id != gone)
}
