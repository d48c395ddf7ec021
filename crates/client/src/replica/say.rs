//! What a follower says on a stream: Hello, then pulses, acknowledgements and reports.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use keepgate_policy::assertion::PublicKey;
use keepgate_policy::proto::{self, follow_request};
use keepgate_policy::{Digest, Mark};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::age::Ring;
use super::questions::Sent;
use super::{Activities, Shared};

/// A revision that is published to readers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    pub(super) mark: Mark,
    pub(super) digest: Digest,
}

/// The ring that pulses are noted in, the clock, and how often there is one.
type Pulses = (Arc<Mutex<Ring>>, Arc<Shared>, Duration);

/// What is said beside reports: keys of assertions, the position of the access log, questions of
/// callers, and figures.
type Rare = (
    watch::Receiver<Arc<[PublicKey]>>,
    watch::Receiver<Option<proto::LogPosition>>,
    (watch::Receiver<u64>, Arc<Sent>),
    watch::Receiver<u64>,
);

/// The Hello, then a Pulse each second, an Applied for each revision published and an Activity for
/// each report (when they come fast, for the last), and the keys of assertions and the
/// position of the access log, at once and whenever they change; and what callers ask. Ends with the
/// stream that it belongs to.
pub(super) fn requests(
    hello: proto::Hello,
    acks: watch::Receiver<Option<Applied>>,
    reports: watch::Receiver<Activities>,
    rare: Rare,
    (ring, shared, every): Pulses,
) -> impl Stream<Item = proto::FollowRequest> + Send + 'static {
    let hello = follow_request::Request::Hello(hello);
    let mut ticks = tokio::time::interval(every);
    // After a stop one pulse is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The number of the newest report that was sent on this stream.
    let state = (acks, reports, rare, 0, ticks);
    let later =
        stream::unfold(state, move |(mut acks, mut reports, mut rare, mut told, mut ticks)| {
            let (ring, shared) = (Arc::clone(&ring), Arc::clone(&shared));
            async move {
                let request = tokio::select! {
                    biased;
                    _ = ticks.tick() => {
                        // The time is taken before the pulse is handed on: what happens to it later
                        // only makes the age larger.
                        let now = shared.clock.now();
                        let nonce = ring.lock().unwrap_or_else(PoisonError::into_inner).next(now);
                        follow_request::Request::Pulse(proto::Pulse {
                            nonce,
                            age_ms: age_ms(&shared),
                        })
                    }
                    changed = acks.changed() => {
                        changed.ok()?;
                        let latest = *acks.borrow_and_update();
                        let Applied { mark, digest } = latest?;
                        follow_request::Request::Applied(proto::Applied {
                            revision: mark.revision.0,
                            digest: digest.to_bytes().to_vec(),
                            mark: Some(mark.to_proto()),
                        })
                    }
                    Ok(()) = rare.0.changed() => {
                        let keys = Arc::clone(&rare.0.borrow_and_update());
                        let keys = keys.iter().map(PublicKey::to_proto).collect();
                        follow_request::Request::AssertionKeys(proto::AssertionKeys { keys })
                    }
                    Ok(()) = rare.1.changed() => {
                        let position = rare.1.borrow_and_update().clone();
                        follow_request::Request::LogPosition(position.unwrap_or_default())
                    }
                    question = next_question(&shared, &mut rare.2) => {
                        follow_request::Request::CallerQuestion(question)
                    }
                    // Before the report of the same moment: see the center's `hour`.
                    figures = next_figures(&shared, &mut rare.3) => {
                        follow_request::Request::Figures(figures)
                    }
                    Ok(()) = reports.changed() => {
                        let activity;
                        (activity, told) = next_report(&mut reports, told)?;
                        follow_request::Request::Activity(activity)
                    }
                };
                Some((request, (acks, reports, rare, told, ticks)))
            }
        });
    stream::iter([hello])
        .chain(later)
        .map(|request| proto::FollowRequest { request: Some(request) })
}

/// The next question of a caller. Where more are left, the receiver is told again. Never ends where
/// there is none.
async fn next_question(
    shared: &Shared,
    (asked, sent): &mut (watch::Receiver<u64>, Arc<Sent>),
) -> proto::CallerQuestion {
    loop {
        if asked.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some((question, has_more)) = shared.questions.next(sent) {
            if has_more {
                asked.mark_changed();
            }
            return question;
        }
    }
}

/// The next figures that are not told yet. Never ends where there is none.
async fn next_figures(shared: &Shared, added: &mut watch::Receiver<u64>) -> proto::Figures {
    loop {
        if added.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some((figures, has_more)) = shared.figures.take(shared.clock.now()) {
            if has_more {
                added.mark_changed();
            }
            return figures;
        }
    }
}

/// The oldest report after number `told`, and its own number. Where more are left, the receiver is
/// told again, so that pulses and acknowledgements come between two reports.
fn next_report(
    reports: &mut watch::Receiver<Activities>,
    told: u64,
) -> Option<(proto::Activity, u64)> {
    let (activity, number, is_last) = {
        let all = reports.borrow_and_update();
        let unsent = all.by_service.iter().filter(|(_, (number, _))| *number > told);
        let (service, (number, report)) = unsent.min_by_key(|(_, (number, _))| *number)?;
        let activity =
            proto::Activity { service: service.clone(), report: report.as_ref().clone() };
        (activity, *number, *number == all.newest)
    };
    if !is_last {
        reports.mark_changed();
    }
    Some((activity, number))
}

/// For operators alone; see the message.
fn age_ms(shared: &Shared) -> Option<u64> {
    let age = shared.published.load().currency.age(&shared.clock)?;
    u64::try_from(age.as_millis()).ok()
}
