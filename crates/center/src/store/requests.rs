//! Requests for access to a service, as every engine keeps them.
//!
//! They are no part of the state: no digest or backup has them. That one was approved or declined is a
//! revision with an entry in the audit log.

pub use keepgate_api::RequestState;
use keepgate_policy::Uid;
use serde::{Deserialize, Serialize};

use super::StoreError;

/// What a request says, and what was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestBody {
    /// Who asks, in its own words.
    pub who: String,
    /// What for.
    pub what_for: String,
    /// Requests a day.
    pub per_day: u64,
    /// The token of the gate through which it came, or the name of the center's own page.
    pub gate: String,
    /// For whom the key is; none: nobody has approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Uid>,
    /// The plan of the key; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan: String,
    /// When the key ends, in seconds since the Unix epoch; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
    /// The token that approved or declined.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub decided_by: String,
    /// The prefix of the key that was made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// A request as stored: never its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// 16 hexadecimal digits; later requests have larger ones.
    pub id: String,
    /// The service.
    pub service: String,
    /// What became of it.
    pub state: RequestState,
    /// SHA-256 of its code.
    pub code_sha256: [u8; 32],
    /// The asker's address as the gate knows it; empty: it has none.
    pub address: String,
    /// Seconds since the Unix epoch.
    pub created_unix_s: u64,
    /// When it got its state, in seconds since the Unix epoch.
    pub changed_unix_s: u64,
    /// Whether the webhook has heard of it.
    pub told: bool,
    /// The rest.
    pub body: RequestBody,
}

impl RequestRow {
    pub(super) fn text(&self) -> String {
        serde_json::to_string(&self.body).unwrap_or_default()
    }
}

pub(super) fn body_of(text: &str) -> Result<RequestBody, StoreError> {
    serde_json::from_str(text)
        .map_err(|e| StoreError::Corrupt { what: format!("a request for access: {e}") })
}

pub(super) fn state_of(name: &str) -> Result<RequestState, StoreError> {
    RequestState::from_name(name)
        .ok_or_else(|| StoreError::Corrupt { what: format!("a request for access is `{name}`") })
}

/// Which requests are read.
#[derive(Clone, Copy, Debug)]
pub enum RequestsOf<'a> {
    /// The one of this hash of a code.
    Code(&'a [u8; 32]),
    /// One of a service.
    One(&'a str, &'a str),
    /// Those of a service, or of one state, with ids after this one, in order, at most so many.
    Service(&'a str, Option<RequestState>, &'a str, usize),
    /// Those that the webhook has not heard of, at most so many.
    Untold(usize),
}

/// How many requests a store keeps, and how long.
#[derive(Clone, Copy, Debug)]
pub struct RequestBounds {
    /// That wait, in all.
    pub pending: u32,
    /// Of one service.
    pub of_service: u32,
    /// Of one address.
    pub of_address: u32,
    /// That do not wait any more; the oldest go first.
    pub done: u32,
    /// Seconds that one waits, and that one is approved, before it is forgotten.
    pub waits_s: u64,
    /// Seconds after which one that was declined or fetched is forgotten.
    pub done_s: u64,
}

impl RequestBounds {
    /// What is kept: a thousand that wait, for 30 days.
    pub const DEFAULT: RequestBounds = RequestBounds {
        pending: 1_000,
        of_service: 500,
        of_address: 20,
        done: 10_000,
        waits_s: 30 * 86_400,
        done_s: 90 * 86_400,
    };
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum RequestChange {
    /// It is taken down, if there is room; those that are too old are forgotten.
    Ask(RequestRow, RequestBounds),
    /// It is as the row says.
    Put(RequestRow),
    /// The webhook has heard of the one of this id.
    Told(String),
}
