//! Positions of access logs that followers ask to be signed: gathered, so that all of a moment are one
//! write to the store.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use keepgate_policy::proto;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::Status;

use super::frame::{self, Frame};
use crate::access::Caller;
use crate::desk::Desk;
use crate::desk::logs::{Signed, Wanted};

/// Positions that wait at most: one of each of ten thousand followers.
const WAITING: usize = 10_000;
/// Positions of one write at most.
const AT_ONCE: usize = 1_000;
/// How long positions are gathered.
const GATHERS: Duration = Duration::from_millis(100);

type Ask = (Wanted, oneshot::Sender<Signed>);

/// See the module. A clone is the same, but for what one follower waits for.
pub(super) struct Anchors {
    to: mpsc::Sender<Ask>,
    /// The position that is being signed for this handle's follower.
    signing: Mutex<Option<JoinHandle<()>>>,
}

impl Clone for Anchors {
    fn clone(&self) -> Anchors {
        Anchors { to: self.to.clone(), signing: Mutex::new(None) }
    }
}

impl Anchors {
    /// Signs until the last handle is gone. Must be called on a runtime.
    pub(super) fn new(desk: Arc<Desk>) -> Anchors {
        let (to, asked) = mpsc::channel(WAITING);
        // The task ends a moment after the last handle; until then it must not hold the store.
        tokio::spawn(run(Arc::downgrade(&desk), asked));
        Anchors { to, signing: Mutex::new(None) }
    }

    /// Has a position signed and its answer sent, beside whatever else the follower says: a store that
    /// is slow delays no pulse. One at a time; a follower that is not answered asks again.
    pub(super) fn tell(
        &self,
        (caller, name): (&Caller, &str),
        position: proto::LogPosition,
        answers: &mpsc::Sender<Result<Frame, Status>>,
    ) {
        let mut signing = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        if signing.as_ref().is_some_and(|signing| !signing.is_finished()) {
            return;
        }
        let (to, answers) = (self.to.clone(), answers.clone());
        let (token, gate) = (caller.token_id().to_owned(), format!("{}/{name}", caller.token_id()));
        *signing = Some(tokio::spawn(async move {
            if let Some(anchor) = sign(&to, token, gate, &position).await {
                // The follower may have gone.
                let _ = answers.send(Ok(Frame(frame::log_anchor(anchor)))).await;
            }
        }));
    }
}

/// The answer to a position; none: it cannot be signed, or not now.
async fn sign(
    to: &mpsc::Sender<Ask>,
    token: String,
    gate: String,
    position: &proto::LogPosition,
) -> Option<proto::LogAnchor> {
    let wanted = Wanted {
        log: position.log.as_slice().try_into().ok()?,
        seq: position.seq,
        chain: position.chain.as_slice().try_into().ok()?,
        token,
        gate: gate.clone(),
    };
    // Numbers are signed ones in the store.
    if wanted.seq == 0 || i64::try_from(wanted.seq).is_err() {
        return None;
    }
    let (reply, signed) = oneshot::channel();
    to.try_send((wanted, reply)).ok()?;
    let mut answer = proto::LogAnchor {
        log: position.log.clone(),
        seq: position.seq,
        chain: position.chain.clone(),
        gate,
        ..proto::LogAnchor::default()
    };
    match signed.await.ok()? {
        Ok(anchor) => {
            if anchor.previous_seq > 0 {
                answer.previous_chain = anchor.previous_chain.to_vec();
            }
            answer.previous_seq = anchor.previous_seq;
            answer.unix_ms = anchor.unix_ms;
            answer.key = anchor.key;
            answer.signature = anchor.signature.to_vec();
        }
        Err(refused) => answer.refused = refused,
    }
    Some(answer)
}

async fn run(desk: Weak<Desk>, mut asked: mpsc::Receiver<Ask>) {
    let mut asks = Vec::new();
    let mut is_failing = false;
    loop {
        if asked.recv_many(&mut asks, AT_ONCE).await == 0 {
            return;
        }
        tokio::time::sleep(GATHERS).await;
        while asks.len() < AT_ONCE
            && let Ok(ask) = asked.try_recv()
        {
            asks.push(ask);
        }
        let (wanted, replies): (Vec<_>, Vec<_>) = asks.drain(..).unzip();
        let Some(desk) = desk.upgrade() else { return };
        match desk.sign(wanted).await {
            Ok(signed) => {
                is_failing = false;
                for (reply, signed) in replies.into_iter().zip(signed) {
                    // The follower may have gone.
                    let _ = reply.send(signed);
                }
            }
            // Nobody is told: who asked asks again, with a later position.
            Err(error) => {
                let error = keepgate_observe::chain(&error);
                if std::mem::replace(&mut is_failing, true) {
                    tracing::debug!(error, "access logs are still not signed");
                } else {
                    tracing::warn!(error, "access logs were not signed");
                }
            }
        }
    }
}
