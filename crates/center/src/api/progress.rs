//! Answers that take a while, as lines of JSON (`application/x-ndjson`): how far it is, once a
//! second, and the result or the problem last.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use keepgate_api::{Applied, Line, Progress};
use tokio::time::{Interval, MissedTickBehavior};

use super::Answer;
use crate::desk::{Watching, Work};

/// The media type.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// Between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Whether a request asks for such an answer.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|one| one.split(';').next().is_some_and(|one| one.trim() == NDJSON))
    })
}

type Job = Pin<Box<dyn Future<Output = Answer<Applied>> + Send>>;

struct Telling {
    job: Job,
    work: Arc<Work>,
    /// Dropped with the answer: a client that leaves ends the work.
    _watch: Watching,
    every: Interval,
}

/// The lines of a job. It runs while they are read and ends when they are dropped.
pub(crate) fn stream(
    work: Arc<Work>,
    watch: Watching,
    job: impl Future<Output = Answer<Applied>> + Send + 'static,
) -> Response {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let telling = Telling { job: Box::pin(job), work, _watch: watch, every };
    let lines = stream::unfold(Some(telling), |telling| async move {
        let mut telling = telling?;
        tokio::select! {
            biased;
            answer = &mut telling.job => {
                let line = match answer {
                    Ok(result) => Line::Result(result),
                    Err(problem) => Line::Problem(problem.told(None)),
                };
                Some((line_of(&line), None))
            }
            _ = telling.every.tick() => {
                let (stage, done, total) = telling.work.progress();
                let stage = stage.name().to_owned();
                let line = Line::Progress(Progress { stage, done, total });
                Some((line_of(&line), Some(telling)))
            }
        }
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn line_of(line: &Line) -> Result<Bytes, Infallible> {
    // Structs of texts and numbers always serialize.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    Ok(Bytes::from(text))
}
