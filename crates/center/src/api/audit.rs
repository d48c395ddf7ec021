//! The audit log: who changed what, from the oldest on or from the newest; and the log as it is, with its
//! chain.

use axum::Json as Out;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use keepgate_api as api;
use keepgate_policy::service::is_service_name;
use keepgate_record::{AuditMark, AuditStart};
use serde::Deserialize;

use super::input::{Args, PAGE};
use super::problem::Problem;
use super::progress::NDJSON;
use super::{Answer, App, items};
use crate::store::{AuditRow, Reading, StoreError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditArgs {
    /// The newest first.
    #[serde(default)]
    newest: bool,
    /// From the oldest on: entries after this one.
    #[serde(default)]
    after: u64,
    /// The newest first: entries before this one; 0: from the newest on.
    #[serde(default)]
    before: u64,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    actor: Option<String>,
    /// An action, or what actions begin with before a dot.
    #[serde(default)]
    action: Option<String>,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    since_ms: Option<u64>,
    #[serde(default)]
    until_ms: Option<u64>,
}

impl AuditArgs {
    fn passes(&self, row: &AuditRow) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        let is_action = self.action.as_ref().is_none_or(|wanted| {
            let rest = row.action.strip_prefix(wanted.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        is_action
            && is(&self.actor, &row.actor)
            && is(&self.service, &row.service)
            && is(&self.kind, &row.kind)
            && is(&self.id, &row.id)
            && self.since_ms.is_none_or(|since| row.unix_ms >= since)
            && self.until_ms.is_none_or(|until| row.unix_ms < until)
    }
}

/// Rows read at once: each may have two bodies of a MiB.
const STRIDE: usize = 8;

/// Lines of a part at most.
const LINES: usize = 10_000;

/// Rows looked at for one answer; the next page goes on from there.
const LOOKED_AT: usize = 20_000;

pub(crate) async fn audit(
    State(app): State<App>,
    Args(args): Args<AuditArgs>,
) -> Answer<Out<api::Audit>> {
    if let Some(service) = args.service.as_ref().filter(|service| !is_service_name(service)) {
        let detail = format!("`service`: expected the name of a service, got `{service}`");
        return Err(Problem::bad_request(detail));
    }
    let limit = args.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let read = app.desk.read(move |store| {
        let mut rows: Vec<AuditRow> = Vec::new();
        let mut at = if args.newest { args.before } else { args.after };
        let (mut bytes, mut looked_at) = (0, 0);
        loop {
            let more = match (args.newest, &args.id) {
                (true, Some(id)) => store.audit_of_id(id, at, STRIDE)?,
                (true, None) => store.audit_before(at, STRIDE)?,
                (false, _) => store.audit_after(at, STRIDE)?,
            };
            let is_last = more.len() < STRIDE;
            for row in more {
                at = row.seq;
                looked_at += 1;
                if args.passes(&row) {
                    let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
                    bytes += of(&row.before) + of(&row.after);
                    rows.push(row);
                    if rows.len() >= limit {
                        return Ok((rows, Some(at)));
                    }
                }
            }
            if is_last {
                return Ok((rows, None));
            }
            if bytes > items::PAGE_BYTES || looked_at >= LOOKED_AT {
                return Ok((rows, Some(at)));
            }
        }
    });
    let (rows, next) = read.await?;
    Ok(Out(api::Audit { entries: rows.into_iter().map(shown).collect(), next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogArgs {
    /// Lines after this one.
    #[serde(default)]
    after: u64,
    #[serde(default)]
    limit: Option<usize>,
}

/// A part of the log as it is: a line that says where it begins, then the entries with their seals, and, at
/// the end of the log, the signature on all of it.
pub(crate) async fn log(State(app): State<App>, Args(args): Args<LogArgs>) -> Answer<Response> {
    let limit = args.limit.unwrap_or(LINES).clamp(1, LINES);
    let after = args.after;
    let was_signed = app.desk.read(|store| Ok(store.audit_state()?.anchor.is_some())).await?;
    if !was_signed {
        // A log of an earlier release that nothing was written to since. Without, it is unproven.
        let _unsigned = app.desk.sign(Vec::new()).await;
    }
    let part = app.desk.read(move |store| Ok(part(store, after, limit)?)).await?;
    let Some(part) = part else {
        let detail = format!("`after`: the audit log has no line {after} yet");
        return Err(Problem::unprocessable(detail));
    };
    let mut response = Response::new(Body::from(part));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

/// None: the log does not reach so far.
fn part(store: &dyn Reading, after: u64, limit: usize) -> Result<Option<Vec<u8>>, StoreError> {
    let state = store.audit_state()?;
    if after > state.seq {
        return Ok(None);
    }
    let (mut at, chain) = if after <= state.removed_through {
        (state.removed_through, state.removed_chain)
    } else {
        match store.audit_sealed(after.saturating_sub(1), 1)?.pop() {
            Some((row, chain)) if row.seq == after => (after, chain),
            _ => return Ok(None),
        }
    };
    let start = AuditStart { log: state.log, after_seq: at, after_chain: chain };
    let mut out = AuditMark::AuditLog(start).line();
    let mut lines = 0;
    'all: while out.len() < items::PAGE_BYTES && lines < limit {
        let rows = store.audit_sealed(at, STRIDE.min(limit - lines))?;
        if rows.is_empty() {
            break;
        }
        for (row, chain) in rows {
            at = row.seq;
            lines += 1;
            keepgate_record::sealed(&row.line(), row.seq, &chain, &mut out);
            if out.len() >= items::PAGE_BYTES {
                break 'all;
            }
        }
    }
    if at == state.seq
        && let Some(anchor) = state.anchor
    {
        out.extend(AuditMark::AuditAnchor(anchor).line());
    }
    Ok(Some(out))
}

fn shown(row: AuditRow) -> api::AuditEntry {
    let body = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    api::AuditEntry {
        seq: row.seq,
        revision: row.revision.0,
        unix_ms: row.unix_ms,
        actor: row.actor,
        action: row.action,
        service: row.service,
        kind: row.kind,
        id: row.id,
        before: body(row.before),
        after: body(row.after),
    }
}
