//! One edit becomes one revision, or nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Delta, Digest, Item, ItemBody, ItemKey, Kind, Revision};

use super::check::{self, Problem};
use super::history::{self, By, Moved};
use super::recent::Landed;
use super::{Edit, Head, Newer, Outcome, Plan, Refusal, Shared};
use crate::store::{AuditRow, ChangeRow, Row, ScopeRow, StoreError, TokenRow, Verdict, Writing};
use crate::token::Role;

/// What an edit did to one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Created, updated or deleted.
    pub op: ChangeOp,
    /// The item.
    pub key: ItemKey,
}

/// How an item changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeOp {
    /// It was not there.
    Create,
    /// It was there and says something else now.
    Update,
    /// It is gone.
    Delete,
}

impl ChangeOp {
    /// As in answers.
    pub fn name(self) -> &'static str {
        match self {
            ChangeOp::Create => "create",
            ChangeOp::Update => "update",
            ChangeOp::Delete => "delete",
        }
    }
}

/// One item's way from what is stored to what shall be.
pub(super) struct Step {
    pub(super) key: ItemKey,
    pub(super) before: Option<Row>,
    pub(super) after: Option<(Item, Row)>,
}

impl Step {
    fn op(&self) -> ChangeOp {
        match (&self.before, &self.after) {
            (None, _) => ChangeOp::Create,
            (Some(_), Some(_)) => ChangeOp::Update,
            (Some(_), None) => ChangeOp::Delete,
        }
    }
}

/// Lands one edit and publishes it. Runs on the writer thread alone.
pub(super) fn land(shared: &Shared, edit: Edit) -> Result<Outcome, Refusal> {
    let before = shared.head.load_full();
    let Edit { actor, action, dry_run, plan } = edit;
    let mut plan = Some(plan);
    let mut refused = None;
    let mut landed: Option<(Outcome, Option<Next>)> = None;
    shared.store.write(&mut |tx| {
        let Some(plan) = plan.take() else { return Ok(Verdict::Rollback) };
        let stamp = Stamp { actor: &actor, action, unix_ms: unix_ms(), dry_run };
        match attempt(tx, &before, plan, &stamp, shared) {
            Ok(done) => {
                let verdict = if done.1.is_some() { Verdict::Commit } else { Verdict::Rollback };
                landed = Some(done);
                Ok(verdict)
            }
            Err(Refusal::Store(e)) => Err(e),
            Err(refusal) => {
                refused = Some(refusal);
                Ok(Verdict::Rollback)
            }
        }
    })?;
    if let Some(refusal) = refused {
        return Err(refusal);
    }
    let Some((outcome, next)) = landed else { return Err(Refusal::Closed) };
    if let Some(next) = next {
        shared.publish(next)?;
    }
    Ok(outcome)
}

struct Stamp<'a> {
    actor: &'a str,
    action: &'static str,
    unix_ms: u64,
    dry_run: bool,
}

/// What is published after the commit.
pub(super) struct Next {
    pub(super) head: Head,
    pub(super) landed: Landed,
}

fn attempt(
    tx: &mut dyn Writing,
    before: &Head,
    plan: super::Planner,
    stamp: &Stamp<'_>,
    shared: &Shared,
) -> Result<(Outcome, Option<Next>), Refusal> {
    if tx.head()? != before.revision {
        let what = format!("it is at revision {}, the center at {}", tx.head()?, before.revision);
        return Err(StoreError::Corrupt { what }.into());
    }
    let Plan { changes, tokens } = plan(tx, before)?;
    let revision = Revision(before.revision.0 + 1);
    let steps = steps(tx, changes, revision)?;
    let changes: Vec<Change> =
        steps.iter().map(|step| Change { op: step.op(), key: step.key.clone() }).collect();
    if steps.is_empty() && tokens.is_empty() {
        return Ok((Outcome { revision: before.revision, changes }, None));
    }
    let problems = check::check(tx, &steps)?;
    if !problems.is_empty() {
        return Err(Refusal::Invalid(problems));
    }
    let delta = Delta {
        previous: before.revision,
        revision,
        changes: steps
            .iter()
            .map(|step| match &step.after {
                Some((item, _)) => keepgate_policy::Change::Put(item.clone()),
                None => keepgate_policy::Change::Delete(step.key.clone()),
            })
            .collect(),
        digest: None,
    };
    let world = before.world.apply(&delta)?;
    if stamp.dry_run {
        return Ok((Outcome { revision: before.revision, changes }, None));
    }
    for step in &steps {
        write_step(tx, step, revision, stamp)?;
    }
    let scopes = scopes(tx, before, &steps)?;
    for token in &tokens {
        tx.audit(&token_audit(before, token, revision, stamp))?;
        tx.token(token)?;
    }
    let moved = steps.iter().map(|step| Moved {
        key: &step.key,
        was: step.before.as_ref().map(|row| row.digest),
        body: step.after.as_ref().map(|(_, row)| row.body.as_slice()),
    });
    let by = By { actor: stamp.actor, action: stamp.action, unix_ms: stamp.unix_ms };
    let (mark, sums) =
        history::advance(tx, before, &shared.line, moved, &tokens, &by, shared.keep)?;
    let head = Head {
        revision,
        world,
        services: services(before, &steps),
        tokens: with_tokens(before, tokens),
        scopes: Arc::clone(&scopes),
        mark,
        sums,
        newer: newer(before, &steps),
    };
    let landed = Landed::new(before.revision, mark, &steps, scopes);
    Ok((Outcome { revision, changes }, Some(Next { head, landed })))
}

/// What really changes: the last change of each key, less those that change nothing.
fn steps(
    tx: &dyn Writing,
    changes: Vec<keepgate_policy::Change>,
    revision: Revision,
) -> Result<Vec<Step>, Refusal> {
    let mut wanted: BTreeMap<ItemKey, Option<Item>> = BTreeMap::new();
    for change in changes {
        match change {
            keepgate_policy::Change::Put(item) => wanted.insert(item.key.clone(), Some(item)),
            keepgate_policy::Change::Delete(key) => wanted.insert(key, None),
        };
    }
    let mut steps = Vec::new();
    let mut problems = Vec::new();
    for (key, item) in wanted {
        let before = tx.item(&key)?;
        let after = match item {
            None => None,
            Some(item) => {
                if let Err(e) = item.check_key() {
                    problems.push(Problem::of(&key, crate::chain(&e)));
                    continue;
                }
                let body = item.encode();
                let digest = Digest::of_encoded(&key, &body);
                let source = source_of(&item.body).to_owned();
                let needs = item.needs();
                let row = Row { key: key.clone(), body, revision, digest, source, needs };
                Some((item, row))
            }
        };
        let same = match (&before, &after) {
            (None, None) => true,
            (Some(before), Some((_, after))) => before.body == after.body,
            _ => false,
        };
        if !same {
            steps.push(Step { key, before, after });
        }
    }
    if problems.is_empty() { Ok(steps) } else { Err(Refusal::Invalid(problems)) }
}

pub(super) fn source_of(body: &ItemBody) -> &str {
    match body {
        ItemBody::Role(role) => &role.source,
        ItemBody::Member(member) => &member.source,
        _ => "",
    }
}

fn write_step(
    tx: &mut dyn Writing,
    step: &Step,
    revision: Revision,
    stamp: &Stamp<'_>,
) -> Result<(), StoreError> {
    match &step.after {
        Some((_, row)) => tx.put(row)?,
        None => {
            tx.delete(&step.key)?;
        }
    }
    tx.change(&ChangeRow {
        revision,
        key: step.key.clone(),
        body: step.after.as_ref().map(|(_, row)| row.body.clone()),
        needs: step.after.as_ref().map_or(1, |(_, row)| row.needs),
    })?;
    tx.audit(&AuditRow {
        seq: 0,
        revision,
        unix_ms: stamp.unix_ms,
        actor: stamp.actor.to_owned(),
        action: stamp.action.to_owned(),
        service: step.key.service.clone(),
        kind: step.key.kind.as_str().to_owned(),
        id: step.key.id.clone(),
        before: step.before.as_ref().map(|row| shown(&step.key, &row.body)),
        after: step.after.as_ref().map(|(_, row)| shown(&step.key, &row.body)),
    })
}

/// A body as the audit log shows it: a key's hash is left out.
fn shown(key: &ItemKey, body: &[u8]) -> String {
    if key.kind == Kind::Key
        && let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(body)
    {
        fields.remove("sha256");
        return serde_json::Value::Object(fields).to_string();
    }
    String::from_utf8_lossy(body).into_owned()
}

fn scopes(
    tx: &mut dyn Writing,
    before: &Head,
    steps: &[Step],
) -> Result<Arc<BTreeMap<String, ScopeRow>>, StoreError> {
    if steps.is_empty() {
        return Ok(Arc::clone(&before.scopes));
    }
    let mut scopes = (*before.scopes).clone();
    let mut touched: Vec<&str> = Vec::new();
    for step in steps {
        let service = step.key.service.as_str();
        let scope = scopes.entry(service.to_owned()).or_insert_with(|| ScopeRow {
            service: service.to_owned(),
            digest: Digest::default(),
            items: 0,
        });
        if let Some(row) = &step.before {
            scope.digest = scope.digest.minus(row.digest);
            scope.items = scope.items.saturating_sub(1);
        }
        if let Some((_, row)) = &step.after {
            scope.digest = scope.digest.plus(row.digest);
            scope.items += 1;
        }
        if touched.last() != Some(&service) {
            touched.push(service);
        }
    }
    for service in touched {
        if let Some(scope) = scopes.get(service) {
            tx.scope(scope)?;
        }
    }
    scopes.retain(|_, scope| scope.items > 0);
    Ok(Arc::new(scopes))
}

fn services(before: &Head, steps: &[Step]) -> Arc<BTreeMap<String, Arc<ServiceSettings>>> {
    let of_services: Vec<&Step> =
        steps.iter().filter(|step| step.key.kind == Kind::Service).collect();
    if of_services.is_empty() {
        return Arc::clone(&before.services);
    }
    let mut services = (*before.services).clone();
    for step in of_services {
        match &step.after {
            Some((Item { body: ItemBody::Service(settings), .. }, _)) => {
                services.insert(step.key.service.clone(), Arc::new((**settings).clone()));
            }
            _ => {
                services.remove(&step.key.service);
            }
        }
    }
    Arc::new(services)
}

/// Which services use what release 0.1 does not understand.
fn newer(before: &Head, steps: &[Step]) -> Arc<Newer> {
    let mut newer = (*before.newer).clone();
    for step in steps {
        let service = &step.key.service;
        if let Some(row) = &step.before {
            newer.moved(service, row.needs, false);
        }
        if let Some((_, row)) = &step.after {
            newer.moved(service, row.needs, true);
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

fn token_audit(before: &Head, token: &TokenRow, revision: Revision, stamp: &Stamp<'_>) -> AuditRow {
    AuditRow {
        seq: 0,
        revision,
        unix_ms: stamp.unix_ms,
        actor: stamp.actor.to_owned(),
        action: stamp.action.to_owned(),
        service: token.service.clone(),
        kind: "token".to_owned(),
        id: token.id.clone(),
        before: before.tokens.get(&token.id).map(token_shown),
        after: Some(token_shown(token)),
    }
}

fn token_shown(token: &TokenRow) -> String {
    serde_json::json!({
        "role": token.role.name(),
        "service": token.service,
        "note": token.note,
        "revoked": token.revoked_unix_s.is_some(),
    })
    .to_string()
}

/// Whether an admin token that is not in `gone` is left.
pub(crate) fn an_admin_remains(head: &Head, gone: &str) -> bool {
    head.tokens
        .values()
        .any(|row| row.role == Role::Admin && row.revoked_unix_s.is_none() && row.id != gone)
}

/// Milliseconds since the Unix epoch; for people, never for arithmetic on validity.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
