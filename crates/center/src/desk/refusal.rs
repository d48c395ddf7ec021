//! Why an edit did not land, or the desk did not open. What a caller sees of it is the API's matter.

use std::fmt;
use std::sync::Arc;

use keepgate_policy::{ItemKey, Kind, Revision};

use super::history::WriteId;
use super::{EditProblem, shown_id};
use crate::store::StoreError;

/// An edit that did not land; nothing changed, but for [`Refusal::OutcomeUnknown`].
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The state it would leave is not valid.
    #[error("the change is not valid")]
    Invalid(Vec<EditProblem>),
    /// It names something that is not there.
    #[error("there is no {kind} `{id}`{place}")]
    Missing {
        /// `policy`, `service`, `token`, ...
        kind: &'static str,
        /// Its id.
        id: String,
        /// ` in service ..` or nothing.
        place: String,
    },
    /// The item is not at the revision that the caller saw.
    #[error("`{id}` is at revision {found}, not at {wanted}: someone changed it meanwhile")]
    Stale {
        /// The item's id.
        id: String,
        /// The caller's `If-Match`.
        wanted: String,
        /// What is there; 0: nothing.
        found: Revision,
    },
    /// Other items name it, and the caller did not say that they may go.
    #[error(
        "{key}: {count} other items hang on it (memberships, grants and others that name it); delete \
         all of them with it (`?cascade=true`, `--cascade`), or take them away first"
    )]
    Hanging {
        /// The item that was to be deleted.
        key: ItemKey,
        /// How many others.
        count: usize,
        /// The first of them, and why.
        first: Vec<EditProblem>,
    },
    /// Files are missing, and all that they brought would go.
    #[error("files are missing, and all that they brought would go")]
    Emptied(Vec<EditProblem>),
    /// The state is not that of the revision that the caller saw.
    #[error("{0}")]
    Moved(Box<Since>),
    /// It would leave no way in.
    #[error(
        "`{0}` is the last admin token; create another one first (`keepgate token create --role \
         admin`)"
    )]
    LastAdmin(String),
    /// The token has ended, so nothing can take its place.
    #[error("token `{0}` was revoked or has expired; make a new one (`keepgate token create`)")]
    Ended(String),
    /// The caller may not write what it wants to.
    #[error("{0}")]
    NotAllowed(String),
    /// It asks for what does not fit what is there.
    #[error("{0}")]
    Unfit(String),
    /// Acknowledged state is not there; nothing lands on top of what is left.
    #[error("history-lost: {0}")]
    Lost(Arc<str>),
    /// The last revision could not be noted outside of the store; nothing lands until it is. Or the
    /// store, which other centers write to as well, cannot be reached now.
    #[error("{0}")]
    Stopped(Arc<str>),
    /// The commit failed, and nothing of the change is stored.
    #[error("the change was not stored, and will not be: {0}; try again")]
    Undone(Arc<str>),
    /// The commit failed, and whether it happened all the same cannot be told now.
    #[error(
        "whether the change was stored is not known: the store cannot be asked now; ask for it later \
         (`GET /v1/writes/{}`), or send the change again with the same `Idempotency-Key`",
        crate::token::hex(.write_id)
    )]
    OutcomeUnknown {
        /// By what it can be looked up.
        write_id: WriteId,
    },
    /// Nobody waits for it any more.
    #[error("the caller has gone; nothing was changed")]
    Gone,
    /// Too many edits wait already.
    #[error("too many changes are waiting; try again")]
    Busy,
    /// Others changed what a large edit rests on, again and again.
    #[error(
        "others changed the service's settings, schema, templates, routes or limits again and again \
         while this change of {0} items was worked out; try again"
    )]
    Overtaken(usize),
    /// The center is shutting down.
    #[error("the center is shutting down")]
    Closed,
    /// The engine does not take what passed all checks; a defect.
    #[error("the decision engine refused the change")]
    World(#[from] keepgate_policy::world::WorldError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// What has changed since the revision that a caller saw.
#[derive(Clone, Debug)]
pub struct Since {
    /// The revision that the caller saw.
    pub wanted: Revision,
    /// The newest revision.
    pub head: Revision,
    /// Why it cannot be told what changed; none: it can.
    pub untold: Option<&'static str>,
    /// How many changes there are.
    pub count: usize,
    /// The newest of them: who, when and what.
    pub first: Vec<EditProblem>,
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Since { wanted, head, untold, count, first } = self;
        if let Some(untold) = untold {
            return write!(f, "expected revision {wanted}, the center is at {head}: {untold}");
        }
        write!(
            f,
            "expected revision {wanted}, the center is at {head}: {count} changes of the service or \
             the directory since"
        )?;
        for change in first.iter().take(3) {
            write!(f, "; {change}")?;
        }
        write!(f, "; look at them (`keepgate audit`), export again, and apply over that")
    }
}

impl Refusal {
    /// There is no such item.
    pub fn missing(key: &ItemKey) -> Refusal {
        let place = match (key.kind, key.service.as_str()) {
            (Kind::Service, _) => String::new(),
            (_, "") => " in the directory".to_owned(),
            (_, service) => format!(" in service `{service}`"),
        };
        Refusal::Missing { kind: key.kind.as_str(), id: shown_id(key).to_owned(), place }
    }

    /// There is no such service.
    pub fn no_service(name: &str) -> Refusal {
        Refusal::missing(&ItemKey::service(name))
    }
}

/// The desk did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error("cannot read the store")]
    Store(#[from] StoreError),
    /// The engine does not take the stored items.
    #[error("the store holds a state that the engine does not take")]
    World(#[from] keepgate_policy::world::WorldError),
    /// The writer thread did not start.
    #[error("cannot start the writer thread")]
    Thread(#[source] std::io::Error),
}
