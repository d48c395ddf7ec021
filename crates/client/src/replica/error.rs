//! What can go wrong, in three kinds: a replica that does not start, one that is not following, and
//! a question without a decision.

use std::path::PathBuf;
use std::time::Duration;

use keepgate_policy::Revision;
use keepgate_policy::decision::QueryError;

use super::{MAX_CENTERS, MAX_SERVICES, Standing};
use crate::dial::TargetError;

/// A replica that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The center's URL.
    #[error("the center's URL cannot be used")]
    Center(#[source] TargetError),
    /// No center at all.
    #[error("no center is named")]
    NoCenter,
    /// More than 16 centers.
    #[error("{0} centers, at most {MAX_CENTERS} are possible")]
    TooManyCenters(usize),
    /// Two that lead to the same place.
    #[error("the center `{url}` is named twice{}; leave one", also(url, other))]
    Twice {
        /// The center's URL.
        url: String,
        /// The one before it.
        other: String,
    },
    /// Plain HTTP to another host.
    #[error(
        "the center `{url}` is neither https nor on this host: the token and the permissions would \
         travel in the clear"
    )]
    Plain {
        /// The center's URL.
        url: String,
    },
    /// The token cannot be sent in a header.
    #[error("the token holds characters that no token has")]
    Token,
    /// More than 256 services.
    #[error("{0} services, at most {MAX_SERVICES} are possible")]
    Services(usize),
    /// Outside of a tokio runtime.
    #[error("a replica starts inside a tokio runtime")]
    NoRuntime,
    /// The data directory.
    #[error("the data directory `{}` cannot be used", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another replica uses the data directory.
    #[error("the data directory `{}` is in use by another replica", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

/// Where the same center is written in another way.
fn also(url: &str, other: &str) -> String {
    if url == other { String::new() } else { format!(", also as `{other}`") }
}

/// Why there is no decision. None of these is a denial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoDecision {
    /// Nothing was received yet, and nothing was kept from before.
    #[error("no snapshot from the center yet")]
    NoReplica,
    /// It is not known when this state was last current (kept from before a restart, and the
    /// wall clock went backwards since, or nothing was noted).
    #[error("the age of the replica is unknown")]
    AgeUnknown,
    /// The replica has not been current for longer than the question allows.
    #[error("the replica is {age:?} old, at most {max_age:?} is allowed here")]
    Stale {
        /// The replica's age.
        age: Duration,
        /// The question's bound.
        max_age: Duration,
    },
    /// The question asks for a later revision.
    #[error("expected a replica at revision {wanted} or later, got revision {held}")]
    TooOld {
        /// The replica's revision.
        held: Revision,
        /// The revision asked for.
        wanted: Revision,
    },
    /// The replica does not have this service.
    #[error("the service `{0}` is unknown")]
    UnknownService(String),
    /// A policy that might forbid was not evaluated to its end: it is beyond a bound, or the
    /// calling thread has too little stack left.
    #[error("policy `{policy}` cannot be evaluated: {reason}")]
    Undecided {
        /// The policy's id.
        policy: keepgate_policy::PolicyName,
        /// The bound that was met, and what to do.
        reason: String,
    },
    /// The question is at fault, not the replica.
    #[error("the question cannot be decided")]
    Question(#[source] QueryError),
}

impl NoDecision {
    /// The value of the metric's label `reason`.
    pub fn label(&self) -> &'static str {
        match self {
            NoDecision::NoReplica => "no_replica",
            NoDecision::AgeUnknown => "age_unknown",
            NoDecision::Stale { .. } => "stale",
            NoDecision::TooOld { .. } => "too_old",
            NoDecision::UnknownService(_) => "unknown_service",
            NoDecision::Undecided { .. } => "undecided",
            NoDecision::Question(_) => "question",
        }
    }
}

/// Why a replica is not following its center; see [`super::Replica::last_error`]. The texts name the
/// cause down to the system call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// There is no connection, or it was lost.
    #[error("the center is not reached: {0}")]
    Unreachable(String),
    /// The center refuses the token: it is unknown there, revoked, or not for these services.
    #[error("the center refuses this token: {0}")]
    TokenRefused(String),
    /// The center does not have this service.
    #[error("the center does not have the service `{0}`")]
    UnknownService(String),
    /// The center is not one to follow; a person must look.
    #[error("{0}")]
    NotFollowed(Standing),
    /// The center answered, and not as it should.
    #[error("{0}")]
    Center(String),
}
