//! Questions of callers to the center, and their answers, on the follow stream.
//!
//! A question is asked on one stream, and answered on that stream or not at all. Nothing is asked
//! twice: a question that was sent may have been acted upon although its answer was lost.
//!
//! INVARIANT: no answer is never a refusal. Whoever asks hears [`Unanswered`] then.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keepgate_policy::proto::{CallerAnswer, CallerQuestion, caller_answer, caller_question};
use prost::Message as _;
use tokio::sync::{Semaphore, oneshot, watch};

use super::Shared;

/// Questions that may wait for their answers at the same time.
pub const MAX_QUESTIONS: usize = 64;
/// How long an answer is waited for. A center of a release that knows no questions sends none.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The largest question, encoded, in bytes (a bound of the protocol).
pub const MAX_QUESTION: usize = 1 << 10;
/// The longest address of a caller in a question, in bytes (a bound of the protocol).
pub const MAX_ADDRESS: usize = 64;

/// Why a question has no answer. What it asked for may have been done all the same if it was
/// [sent](Unanswered::was_sent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unanswered {
    /// No center is followed.
    #[error("there is no connection to a center")]
    NoCenter,
    /// So many questions wait already.
    #[error("{MAX_QUESTIONS} questions wait for their answers")]
    Full,
    /// The question is over the bound.
    #[error("a question has at most {MAX_QUESTION} bytes, and an address {MAX_ADDRESS}")]
    TooLarge,
    /// The stream that it was sent on has ended.
    #[error("the connection to the center was lost before the answer")]
    Lost,
    /// The time is over.
    #[error("the center gave no answer within {ANSWER_WITHIN:?}")]
    Late,
    /// The answer is one that this release does not know.
    #[error("the answer is of a newer release")]
    Unknown,
}

impl Unanswered {
    /// Whether the center may have got the question.
    pub fn was_sent(self) -> bool {
        matches!(self, Unanswered::Lost | Unanswered::Late | Unanswered::Unknown)
    }
}

type Answering = oneshot::Sender<CallerAnswer>;

/// Those that were not sent yet.
#[derive(Debug)]
pub(super) struct Questions {
    places: Semaphore,
    queue: Mutex<VecDeque<(CallerQuestion, Answering)>>,
    /// Counts up with each.
    asked: watch::Sender<u64>,
}

impl Default for Questions {
    fn default() -> Questions {
        Questions {
            places: Semaphore::new(MAX_QUESTIONS),
            queue: Mutex::default(),
            asked: watch::Sender::new(0),
        }
    }
}

impl Questions {
    /// For one stream. The receiver is told of what waits already.
    pub(super) fn on_stream(&self) -> (watch::Receiver<u64>, Arc<Sent>) {
        let mut told = self.asked.subscribe();
        told.mark_changed();
        (told, Arc::default())
    }

    /// The oldest that somebody still waits for, with its number on this stream; and whether more
    /// may be left. None: there is none, or the stream has ended.
    pub(super) fn next(&self, sent: &Sent) -> Option<(CallerQuestion, bool)> {
        let mut of_stream = sent.0.lock().unwrap_or_else(PoisonError::into_inner);
        if of_stream.is_over {
            return None;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.retain(|(_, answering)| !answering.is_closed());
        let (mut question, answering) = queue.pop_front()?;
        // Of those that were given up, the answers may never come.
        of_stream.waiting.retain(|_, answering| !answering.is_closed());
        of_stream.last += 1;
        question.id = of_stream.last;
        of_stream.waiting.insert(question.id, answering);
        Some((question, !queue.is_empty()))
    }
}

/// Those that were sent on one stream.
#[derive(Debug, Default)]
pub(super) struct Sent(Mutex<OfStream>);

#[derive(Debug, Default)]
struct OfStream {
    /// The number of the last.
    last: u64,
    waiting: HashMap<u64, Answering>,
    is_over: bool,
}

impl Sent {
    /// Passes an answer on; one that nobody waits for is dropped.
    pub(super) fn answered(&self, answer: CallerAnswer) {
        let mut of_stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answering) = of_stream.waiting.remove(&answer.id) {
            let _gave_up = answering.send(answer);
        }
    }
}

/// While a stream lives. With it, all that wait for its answers hear that it is lost.
pub(super) struct Answers(pub(super) Arc<Sent>);

impl Drop for Answers {
    fn drop(&mut self) {
        let mut of_stream = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        of_stream.is_over = true;
        of_stream.waiting.clear();
    }
}

impl Shared {
    /// See [`super::Replica::ask_center`].
    pub(super) async fn ask_center(
        &self,
        service: String,
        address: String,
        question: caller_question::Question,
    ) -> Result<caller_answer::Answer, Unanswered> {
        let question = CallerQuestion { id: 0, service, address, question: Some(question) };
        // Its number adds 11 bytes at most.
        if question.address.len() > MAX_ADDRESS || question.encoded_len() + 11 > MAX_QUESTION {
            return Err(Unanswered::TooLarge);
        }
        if !self.counters.connected() {
            return Err(Unanswered::NoCenter);
        }
        let questions = &self.questions;
        let _place = questions.places.try_acquire().map_err(|_| Unanswered::Full)?;
        let (answering, answer) = oneshot::channel();
        questions
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back((question, answering));
        questions.asked.send_modify(|number| *number += 1);
        match self.within(ANSWER_WITHIN, answer).await {
            Some(Ok(CallerAnswer { answer: Some(answer), .. })) => Ok(answer),
            Some(Ok(_)) => Err(Unanswered::Unknown),
            Some(Err(_)) => Err(Unanswered::Lost),
            None => Err(Unanswered::Late),
        }
    }
}
