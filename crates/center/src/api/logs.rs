//! The keys with which the access logs of gates are signed.

use axum::Json as Out;
use axum::extract::State;
use keepgate_api as api;
use keepgate_record::hex;

use super::{Answer, App};

/// Logs that are told at most.
const LOGS: usize = 10_000;

/// The public keys, what was signed last of each log, and where the audit log is.
pub(crate) async fn keys(State(app): State<App>) -> Answer<Out<api::LogKeys>> {
    let read = app.desk.read(|reading| {
        Ok((reading.log_keys()?, reading.log_heads(None, LOGS)?, reading.audit_state()?))
    });
    let (keys, heads, audit) = read.await?;
    let keys = keys.into_iter().map(|key| api::LogKey {
        id: key.id,
        public: hex::text(&key.public),
        unix_ms: key.unix_ms,
    });
    let logs = heads.into_iter().map(|head| api::LogHead {
        log: hex::text(&head.log),
        gate: head.gate,
        seq: head.seq,
        chain: hex::text(&head.chain),
        unix_ms: head.unix_ms,
    });
    let audit = api::AuditHead {
        log: hex::text(&audit.log),
        seq: audit.seq,
        chain: hex::text(&audit.chain),
        removed_through: audit.anchor.map_or(0, |anchor| anchor.removed_through),
    };
    Ok(Out(api::LogKeys { keys: keys.collect(), logs: logs.collect(), audit: Some(audit) }))
}
