//! Has the center sign the access log's chain each second, and writes what it has signed into the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepgate_policy::proto;
use keepgate_record::{Anchor, Position};
use tokio::time::MissedTickBehavior;

use crate::observe::records::Records;
use crate::service::source::DecisionSource;

/// Between two looks at what the center has answered.
const LOOK: Duration = Duration::from_millis(250);
/// Before a position is told again that was not answered.
const AGAIN: Duration = Duration::from_secs(5);
/// So many looks are between two positions.
const EVERY: u32 = 4;

/// Runs until it is dropped.
pub(crate) async fn run(records: Arc<Records>, source: Arc<dyn DecisionSource>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking = Asking::default();
    let mut looks = 0_u32;
    loop {
        look.tick().await;
        if let Some(answer) = source.log_anchor() {
            asking.answered(&records, &answer);
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(EVERY)
            && let Some(position) = records.log.position()
            && asking.asks(position)
        {
            source.tell_log_position(proto::LogPosition {
                log: position.log.to_vec(),
                seq: position.seq,
                chain: position.chain.to_vec(),
            });
        }
    }
}

/// What was asked, and what of it was answered.
#[derive(Default)]
struct Asking {
    /// Not answered yet. One that a center signed and whose answer was lost is asked again with a later
    /// one: the center says then what it had signed.
    asked: Vec<(Position, Instant)>,
    refused: bool,
}

/// Positions that wait for an answer; the oldest is forgotten.
const WAITING: usize = 64;

impl Asking {
    fn asks(&mut self, position: Position) -> bool {
        let now = Instant::now();
        if let Some((_, at)) = self.asked.iter_mut().find(|(asked, _)| *asked == position) {
            let is_due = now.duration_since(*at) >= AGAIN;
            if is_due {
                *at = now;
            }
            return is_due;
        }
        if self.asked.len() == WAITING {
            self.asked.remove(0);
        }
        self.asked.push((position, now));
        true
    }

    fn answered(&mut self, records: &Records, answer: &proto::LogAnchor) {
        let is_it = |(asked, _): &(Position, Instant)| {
            asked.seq == answer.seq
                && asked.log.as_slice() == answer.log
                && asked.chain.as_slice() == answer.chain
        };
        let Some(place) = self.asked.iter().position(is_it) else { return };
        // Those before it are signed with it.
        let Some((asked, _)) = self.asked.drain(..=place).next_back() else { return };
        if !answer.refused.is_empty() {
            if !std::mem::replace(&mut self.refused, true) {
                let why = answer.refused.as_str();
                tracing::error!(why, "the center does not sign the access log");
            }
            return;
        }
        match anchor(asked, answer) {
            Some(anchor) => {
                self.refused = false;
                records.log.anchored(anchor);
            }
            None => tracing::warn!("the center's signature of the access log is malformed"),
        }
    }
}

fn anchor(asked: Position, answer: &proto::LogAnchor) -> Option<Anchor> {
    if answer.gate.len() > keepgate_record::MAX_GATE || answer.key.len() > 64 {
        return None;
    }
    let previous_chain = match answer.previous_chain.as_slice() {
        [] => [0; 32],
        chain => chain.try_into().ok()?,
    };
    Some(Anchor {
        log: asked.log,
        gate: answer.gate.clone(),
        seq: asked.seq,
        chain: asked.chain,
        previous_seq: answer.previous_seq,
        previous_chain,
        unix_ms: answer.unix_ms,
        key: answer.key.clone(),
        signature: answer.signature.as_slice().try_into().ok()?,
    })
}
