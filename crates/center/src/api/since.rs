//! An edit over a state that the caller has seen: what has changed since, and by whom.

use http::{HeaderMap, header};
use keepgate_policy::{ItemKey, Kind, Revision};

use super::Answer;
use super::problem::Problem;
use crate::desk::{ChangedSince, EditProblem, Refusal};
use crate::store::{AuditRow, Reading};

/// Changes that a refusal names.
const TOLD: usize = 100;

/// Rows of the audit log read at once: each may have two bodies of a MiB.
const STRIDE: usize = 64;

/// Rows of the audit log looked at; beyond, it is too long ago to say what changed.
const LOOKED_AT: usize = 100_000;

/// The revision that a request must land over: `?if_revision=`, or `If-Match`.
pub(crate) fn wanted(headers: &HeaderMap, query: Option<u64>) -> Answer<Option<Revision>> {
    let by_query = query.map(Revision);
    if headers.contains_key(header::IF_NONE_MATCH) {
        let detail = "expected `If-Match` with the revision of an export; an apply has no \
                      `If-None-Match`";
        return Err(Problem::unprocessable(detail));
    }
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(by_query) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(by_query);
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let by_header = match number.unwrap_or(text).parse().map(Revision) {
        Ok(revision) => revision,
        Err(_) => {
            let detail = format!(
                "expected the revision of an export in `If-Match`, such as `\"12\"`, got `{text}`"
            );
            // A tag is well-formed, and of no revision.
            let is_tag = text.starts_with('"') || text.starts_with("W/");
            return Err(match is_tag {
                true => Problem::unprocessable(detail),
                false => Problem::bad_request(detail),
            });
        }
    };
    match by_query {
        Some(other) if other != by_header => Err(Problem::unprocessable(format!(
            "`If-Match` says revision {by_header}, `if_revision` says {other}; send one of them"
        ))),
        _ => Ok(Some(by_header)),
    }
}

/// Refuses where something of the service or of the directory has changed since.
pub(crate) fn must_stand(
    store: &dyn Reading,
    service: &str,
    wanted: Revision,
) -> Result<(), Refusal> {
    let head = store.head()?;
    let moved = |untold, count, first| {
        Err(Refusal::Moved(Box::new(ChangedSince { wanted, head, untold, count, first })))
    };
    if wanted == head {
        return Ok(());
    }
    if wanted > head {
        return moved(Some("it has no such revision yet; is it another center?"), 0, Vec::new());
    }
    let (mut count, mut first) = (0, Vec::new());
    let (mut before, mut looked_at) = (0, 0);
    loop {
        let rows = store.audit_before(before, STRIDE)?;
        let Some(last) = rows.last() else { break };
        before = last.seq;
        for row in &rows {
            if row.revision <= wanted {
                return match count {
                    0 => Ok(()),
                    count => moved(None, count, first),
                };
            }
            if row.kind != "token" && (row.service.is_empty() || row.service == service) {
                count += 1;
                if first.len() < TOLD {
                    first.push(told(row));
                }
            }
        }
        looked_at += rows.len();
        if looked_at > LOOKED_AT {
            break;
        }
    }
    // The log does not reach back to it.
    let untold = (count == 0).then_some("its audit log does not reach back that far");
    moved(untold, count, first)
}

/// Who, when and what.
fn told(row: &AuditRow) -> EditProblem {
    let did = match (&row.before, &row.after) {
        (None, Some(_)) => "created",
        (_, None) => "deleted",
        (Some(_), Some(_)) => "updated",
    };
    let message = format!(
        "{did} by {} (token {}) at revision {}, {}",
        row.action,
        row.actor,
        row.revision,
        keepgate_observe::date(row.unix_ms / 1_000)
    );
    match Kind::from_name(&row.kind) {
        Some(kind) => {
            EditProblem::of(&ItemKey::new(row.service.as_str(), kind, row.id.as_str()), message)
        }
        None => EditProblem { key: None, file: None, line: None, span: None, message },
    }
}
