//! The bodies of the center's admin API as types: what the center answers, what the command line
//! reads, and what the OpenAPI document is made from are the same.
//!
//! A type says the JSON to the letter. A member that may be absent is an `Option` (or a list) that is
//! left out where it is empty, unless its documentation says that it is null. Requests refuse members
//! they do not know. Answers may grow: whoever reads one ignores what it does not know.
//!
//! It names no other crate of Keepgate. Bodies of items (policies, routes, limits, ..) belong to the
//! crates that decide on them, so here they are a parameter.

mod access;
mod changes;
mod check;
mod directory;
mod hour;
mod json;
mod logs;
mod past;
mod problem;
mod requests;
mod services;
mod status;
mod uid;
mod who;

pub use access::{
    Key, Keys, MadeKey, MadeToken, NewAdminToken, NewKey, NewToken, Rotate, Session, Sessions,
    Token, TokenRole, Tokens,
};
pub use changes::{
    AccessChange, Applied, Brought, Change, Changed, Conflict, Imported, ItemName, Kept, Line, Op,
    Progress, Sample, Stay,
};
pub use check::{
    ActionInput, Answer, Determining, Effect, Miss, PathStep, PolicyFailure, Question, Reason, Saw,
    Since,
};
pub use directory::{Member, Members, Membership, MembershipName};
pub use hour::{LimitHour, ServiceHour};
pub use json::Json;
pub use logs::{AuditAnchor, AuditHead, AuditLogLine, AuditStart, LogHead, LogKey, LogKeys};
pub use past::{
    AsOf, ChangeCounts, History, HistoryEntry, PastChange, RevisionShown, Rollback, RolledBack,
    StateDiff,
};
pub use problem::{Located, Problem, Warning};
pub use requests::{AccessRequest, AccessRequests, ApproveRequest, RequestState};
pub use services::{
    Apply, CedarText, Export, Extras, ForeignMember, ForeignRole, ItemList, Listed, NewCedarText,
    Service, ServiceSummary, Services, Tombstone,
};
pub use status::{
    Audit, AuditEntry, CenterStatus, Follower, Followers, GateStatus, Landed, Missing, Part,
    Readiness, Revision, Scope, Status, Written,
};
pub use uid::{EscapedUid, TYPE, UID, Uid, UidInput};
pub use who::{
    AccessEntry, GivenBy, Holding, PolicyEffect, PrincipalAccess, ResourceAccess, RoleAccess,
    RoleEntry,
};
