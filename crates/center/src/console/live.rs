//! Server-sent events: that something may have changed, and the newest revision. A page then asks for
//! itself anew. Bounded, and over when the session or the center is.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};

use super::visit::Visit;
use super::{Console, session};

/// Streams of one token, and in all.
const OF_TOKEN: usize = 16;
const ALL: usize = 256;

/// How often a page hears of the center where nothing changes.
const EVERY: Duration = Duration::from_secs(5);

/// How long changes are gathered.
const GATHERED: Duration = Duration::from_millis(250);

/// The streams under way, by token.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<String, usize>>);

struct Seat {
    streams: Arc<Streams>,
    token: String,
}

impl Streams {
    fn enter(self: &Arc<Streams>, token: &str) -> Option<Seat> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.get(token).copied().unwrap_or_default();
        if own >= OF_TOKEN || held.values().sum::<usize>() >= ALL {
            return None;
        }
        held.insert(token.to_owned(), own + 1);
        Some(Seat { streams: Arc::clone(self), token: token.to_owned() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(&self.token) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.token);
            }
        }
    }
}

pub(crate) fn stream(console: &Console, visit: &Visit) -> Response {
    let Some(who) = &visit.who else { return StatusCode::UNAUTHORIZED.into_response() };
    let Some(seat) = console.streams.enter(who.caller.token_id()) else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    struct State {
        console: Console,
        secret: String,
        changes: tokio::sync::watch::Receiver<keepgate_policy::Revision>,
        is_first: bool,
        _seat: Seat,
    }
    let state = State {
        console: console.clone(),
        secret: who.secret.clone(),
        changes: console.app.desk.watch(),
        is_first: true,
        _seat: seat,
    };
    let events = stream::unfold(state, |mut state| async move {
        if !std::mem::take(&mut state.is_first) {
            let mut closing = state.console.closing.clone();
            let changed = async {
                tokio::select! {
                    _ = tokio::time::sleep(EVERY) => {}
                    _ = state.changes.changed() => tokio::time::sleep(GATHERED).await,
                }
            };
            tokio::select! {
                () = changed => {}
                _ = closing.wait_for(|is_closing| *is_closing) => return None,
            }
        }
        // Whoever is signed out meanwhile hears no more.
        let who = session::look(&state.console, state.secret.clone()).await;
        let text = match who {
            Ok(Some(_)) => {
                let revision = *state.changes.borrow_and_update();
                format!("event: tick\ndata: {revision}\n\n")
            }
            Ok(None) => return None,
            // The store cannot be asked now: nothing is said, and the page knows how old it is.
            Err(_) => ": waiting\n\n".to_owned(),
        };
        Some((Ok::<_, Infallible>(Bytes::from(text)), state))
    });
    let mut response = Body::from_stream(events).into_response();
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    // A proxy between passes each event on at once.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_by_token_and_in_all() {
        let streams: Arc<Streams> = Arc::default();
        let mut held: Vec<Seat> = (0..OF_TOKEN).map(|_| streams.enter("a").unwrap()).collect();
        assert!(streams.enter("a").is_none());
        held.pop();
        held.push(streams.enter("a").unwrap());
        for n in 0..ALL - OF_TOKEN {
            held.push(streams.enter(&format!("t{n}")).unwrap());
        }
        assert!(streams.enter("more").is_none());
        drop(held);
        assert!(streams.0.lock().unwrap().is_empty());
    }
}
