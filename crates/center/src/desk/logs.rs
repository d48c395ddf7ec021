//! Signs how far the access logs of gates are.
//!
//! INVARIANT: a signature is given only after it is durable what it is about, and never for a line before
//! one that was signed, or for another chain at the same line. Each signature says what was signed before.
//! So all signatures of a log lie on one chain, over all centers of one store.

use keepgate_record::{Anchor, AuditAnchor, PublicKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::{Refusal, Shared};
use crate::store::{EditVerdict, LogHeadRow, LogKeyRow, Reading, Retention, StoreError, Writing};

/// Logs of one token at most: a gate begins one with each new file that does not continue another.
pub(crate) const OF_A_TOKEN: usize = 1_000;

/// How far a log is.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) log: [u8; 16],
    pub(crate) seq: u64,
    pub(crate) chain: [u8; 32],
    /// The id of the token that asks.
    pub(crate) token: String,
    /// The name that it is signed under.
    pub(crate) gate: String,
}

/// The signature, or why there is none.
pub(crate) type Signed = Result<Box<Anchor>, String>;

/// Signs them, on the writer's thread.
pub(super) fn sign(shared: &Shared, wanted: &[Wanted]) -> Result<Vec<Signed>, Refusal> {
    if shared.line.condition() != super::Condition::Ready {
        return Err(Refusal::Busy);
    }
    let now = keepgate_observe::unix_ms();
    let mut noted = None;
    shared.store.write(&mut |tx| {
        let key = key(tx, now)?;
        let heads =
            wanted.iter().map(|wanted| note(tx, wanted, now)).collect::<Result<Vec<_>, _>>()?;
        sign_audit(tx, shared.keep, now)?;
        noted = Some((key, heads));
        Ok(EditVerdict::Commit)
    })?;
    let Some((key, heads)) = noted else { return Err(Refusal::Closed) };
    let pair = pair(&key)?;
    let signed = wanted.iter().zip(heads).map(|(wanted, before)| {
        let before = before?;
        let mut anchor = Anchor {
            log: wanted.log,
            gate: wanted.gate.clone(),
            seq: wanted.seq,
            chain: wanted.chain,
            previous_seq: before.as_ref().map_or(0, |before| before.seq),
            previous_chain: before.map_or([0; 32], |before| before.chain),
            unix_ms: now,
            key: key.id.clone(),
            signature: [0; 64],
        };
        anchor.signature = pair
            .sign(&anchor.signed())
            .as_ref()
            .try_into()
            .map_err(|_| "the signature has another length".to_owned())?;
        Ok(Box::new(anchor))
    });
    Ok(signed.collect())
}

/// Signs the audit log as it stands in this transaction. So all of it that anybody reads is signed.
///
/// A log that does not go on from what was signed last is not signed: somebody wrote to the database. It
/// is not called removed either, but for what `keep` removes.
pub(crate) fn sign_audit(
    tx: &mut dyn Writing,
    keep: Retention,
    now: u64,
) -> Result<(), StoreError> {
    let mut state = tx.audit_state()?;
    if state.is_signed() {
        return Ok(());
    }
    if let Some(last) = &state.anchor {
        // What is behind it must be what this transaction has added.
        let from = tx.audit_from().unwrap_or((state.seq, state.chain));
        if last.log != state.log || from != (last.seq, last.chain) {
            tracing::error!(
                line = last.seq,
                "the audit log is not the one that was signed last: somebody has changed the database; it \
                 is not signed any more (`keepgate audit verify` says more)"
            );
            return Ok(());
        }
        let kept = state.seq.saturating_sub(keep.audit_rows);
        state.removed_through = state.removed_through.min(kept.max(last.removed_through));
    }
    let key = key(tx, now)?;
    let mut anchor = AuditAnchor {
        log: state.log,
        seq: state.seq,
        chain: state.chain,
        removed_through: state.removed_through,
        unix_ms: now,
        key: key.id.clone(),
        signature: [0; 64],
    };
    let wrong = || StoreError::Corrupt { what: "the key of access logs".to_owned() };
    let signed = pair(&key)?.sign(&anchor.signed());
    anchor.signature = signed.as_ref().try_into().map_err(|_| wrong())?;
    tx.put_audit_anchor(&anchor)
}

fn pair(key: &LogKeyRow) -> Result<Ed25519KeyPair, StoreError> {
    Ed25519KeyPair::from_seed_and_public_key(&key.seed, &key.public)
        .map_err(|_| StoreError::Corrupt { what: "the key of access logs".to_owned() })
}

/// The newest key; made where there is none.
fn key(tx: &mut dyn Writing, now: u64) -> Result<LogKeyRow, StoreError> {
    if let Some(key) = tx.log_keys()?.pop() {
        return Ok(key);
    }
    let mut seed = [0; 32];
    let wrong = |what: &str| StoreError::Corrupt { what: what.to_owned() };
    SystemRandom::new().fill(&mut seed).map_err(|_| wrong("no random numbers for a key"))?;
    let pair =
        Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| wrong("a key was refused"))?;
    let public = pair.public_key().as_ref().try_into().map_err(|_| wrong("a key of no length"))?;
    let row = LogKeyRow { id: PublicKey::new(public).id, seed, public, unix_ms: now };
    tx.put_log_key(&row)?;
    Ok(row)
}

/// Notes what is about to be signed. What was signed before; or why it is not signed.
fn note(
    tx: &mut dyn Writing,
    wanted: &Wanted,
    now: u64,
) -> Result<Result<Option<LogHeadRow>, String>, StoreError> {
    let before = tx.log_head(&wanted.log)?;
    match &before {
        Some(before) if before.token != wanted.token && !is_heir(tx, before, wanted, now)? => {
            return Ok(Err("the log is one that was signed for another token".to_owned()));
        }
        Some(before) if before.seq == wanted.seq && before.chain == wanted.chain => {
            // Asked again: the answer was lost on its way.
            return Ok(Ok(Some(before.clone())));
        }
        Some(before) if before.seq >= wanted.seq => {
            let why = format!(
                "line {} was signed before, with another chain: the log goes back to line {}; was a file \
                 of it removed or restored?",
                before.seq, wanted.seq
            );
            return Ok(Err(why));
        }
        Some(_) => {}
        None if is_full(tx, &wanted.token)? => {
            return Ok(Err(format!("the token has {OF_A_TOKEN} logs, the most that it may have")));
        }
        None => {}
    }
    let Wanted { log, seq, chain, token, gate } = wanted.clone();
    tx.put_log_head(&LogHeadRow { log, token, gate, seq, chain, unix_ms: now })?;
    Ok(Ok(before))
}

fn is_full(tx: &dyn Writing, token: &str) -> Result<bool, StoreError> {
    Ok(Reading::log_heads(tx, Some(token), OF_A_TOKEN)?.len() >= OF_A_TOKEN)
}

/// Whether a token may go on with the log of another one: that is not good any more, or is of the same
/// service.
fn is_heir(
    tx: &dyn Writing,
    before: &LogHeadRow,
    wanted: &Wanted,
    now: u64,
) -> Result<bool, StoreError> {
    let tokens = tx.tokens()?;
    let find = |id: &str| tokens.iter().find(|token| token.id == id);
    Ok(match (find(&before.token), find(&wanted.token)) {
        (Some(old), new) => {
            !old.is_good(now / 1_000) || new.is_some_and(|new| new.service == old.service)
        }
        (None, _) => true,
    })
}
