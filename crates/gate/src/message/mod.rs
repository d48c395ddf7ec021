//! Requests and answers as messages: headers, paths, bodies, ids, and the gate's own answers.
//!
//! [`problem`] says what went wrong, `answer` writes it down as a response. [`path`] and
//! [`forwarding`] are pure.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod fate;
pub mod forwarding;
pub(crate) mod headers;
pub mod path;
pub mod problem;
pub(crate) mod recording;
pub(crate) mod request_id;
pub(crate) mod retry;
pub(crate) mod uploads;
