//! Requests for access to a service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Uid, UidInput};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestState {
    /// Nobody has decided.
    Pending,
    /// The asker can fetch a key.
    Approved,
    /// The asker is told so.
    Declined,
    /// The asker has fetched its key.
    Fetched,
}

impl RequestState {
    /// Each of them.
    pub const ALL: [RequestState; 4] = [
        RequestState::Pending,
        RequestState::Approved,
        RequestState::Declined,
        RequestState::Fetched,
    ];

    /// Its name, as in JSON, in the store and in the command line.
    pub fn name(self) -> &'static str {
        match self {
            RequestState::Pending => "pending",
            RequestState::Approved => "approved",
            RequestState::Declined => "declined",
            RequestState::Fetched => "fetched",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<RequestState> {
        RequestState::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A request for access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessRequest {
    /// Its id; later requests have larger ones.
    pub id: String,
    /// The service.
    pub service: String,
    /// What became of it.
    pub state: RequestState,
    /// Who asks, in its own words: nobody has checked them.
    pub who: String,
    /// What for, in its own words.
    pub what_for: String,
    /// Requests a day.
    pub per_day: u64,
    /// The asker's address as the gate knows it; empty: it has none.
    pub address: String,
    /// When it was asked, in Unix seconds.
    pub asked_unix_s: u64,
    /// When it got its state, in Unix seconds.
    pub changed_unix_s: u64,
    /// For whom the key is; absent: it was not approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Uid>,
    /// The plan of the key; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan: String,
    /// When the key ends, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
    /// The token that approved or declined; empty: none has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub decided_by: String,
    /// The prefix of the key that was made; empty: none was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// A page of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessRequests {
    /// In the order of their ids.
    pub requests: Vec<AccessRequest>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A request to approve: what key the asker can fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveRequest {
    /// Whom the key identifies.
    pub principal: UidInput,
    /// The plan whose limits apply; empty: none.
    #[serde(default)]
    pub plan: String,
    /// When the key ends, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
}
