//! The cases as data: what is sent, and what must come back. Ids are the section numbers of the
//! certification scenario, with a letter where one section has several; `S.n` are ours.

use hyper::header::HeaderName;

use super::Level;

/// The header that is echoed.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An endpoint of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// One decision.
    Evaluation,
    /// Several decisions.
    Evaluations,
    /// Who may.
    SubjectSearch,
    /// On what one may.
    ResourceSearch,
    /// What one may.
    ActionSearch,
}

impl Endpoint {
    /// The path where the metadata names none.
    pub(crate) fn default_path(self) -> &'static str {
        match self {
            Endpoint::Evaluation => "/access/v1/evaluation",
            Endpoint::Evaluations => "/access/v1/evaluations",
            Endpoint::SubjectSearch => "/access/v1/search/subject",
            Endpoint::ResourceSearch => "/access/v1/search/resource",
            Endpoint::ActionSearch => "/access/v1/search/action",
        }
    }

    /// Its name in the metadata.
    pub(crate) fn parameter(self) -> &'static str {
        match self {
            Endpoint::Evaluation => "access_evaluation_endpoint",
            Endpoint::Evaluations => "access_evaluations_endpoint",
            Endpoint::SubjectSearch => "search_subject_endpoint",
            Endpoint::ResourceSearch => "search_resource_endpoint",
            Endpoint::ActionSearch => "search_action_endpoint",
        }
    }
}

/// What must come back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// 200 and this decision.
    Decision(bool),
    /// 200 and this many decisions, in order; none: either.
    Decisions(&'static [Option<bool>]),
    /// 400.
    BadRequest,
    /// 200 and results of this type alone, these among them.
    Entities(&'static str, &'static [&'static str]),
    /// 200 and actions, these among them.
    Actions(&'static [&'static str]),
    /// 200 and no results.
    Nothing,
    /// 200, results, and a well-formed `page` if there is one.
    Page,
    /// As `Page`; then the next page with its token, if there is one.
    NextPage,
}

/// One request and its expectation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) id: &'static str,
    pub(crate) level: Level,
    pub(crate) endpoint: Endpoint,
    pub(crate) title: &'static str,
    pub(crate) body: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) request_id: Option<&'static str>,
    /// How often it is sent; the decision must not change.
    pub(crate) times: u32,
    pub(crate) expect: Expect,
}

const fn case(
    id: &'static str,
    level: Level,
    endpoint: Endpoint,
    title: &'static str,
    body: &'static str,
    expect: Expect,
) -> Case {
    let content_type = "application/json";
    Case { id, level, endpoint, title, body, content_type, request_id: None, times: 1, expect }
}

/// All of them, in the scenario's order.
pub(crate) const CASES: &[Case] = &[
    case(
        "2.2.1",
        Level::BasicCore,
        Endpoint::Evaluation,
        "permit decision",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Decision(true),
    ),
    case(
        "2.2.2",
        Level::BasicCore,
        Endpoint::Evaluation,
        "deny decision",
        r#"{"subject":{"type":"user","id":"bob"},"action":{"name":"write"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Decision(false),
    ),
    case(
        "2.2.2b",
        Level::BasicCore,
        Endpoint::Evaluation,
        "rule 2: alice writes",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"write"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Decision(true),
    ),
    case(
        "2.2.2c",
        Level::BasicCore,
        Endpoint::Evaluation,
        "rule 3: bob reads",
        r#"{"subject":{"type":"user","id":"bob"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Decision(true),
    ),
    case(
        "2.2.3",
        Level::BasicCore,
        Endpoint::Evaluation,
        "optional context",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"},"context":{"time":"2025-06-27T18:03-07:00","ip":"192.168.1.1"}}"#,
        Expect::Decision(true),
    ),
    case(
        "2.2.4",
        Level::BasicProperties,
        Endpoint::Evaluation,
        "deny by resource properties",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"write"},"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}"#,
        Expect::Decision(false),
    ),
    case(
        "2.2.5",
        Level::BasicProperties,
        Endpoint::Evaluation,
        "permit by subject properties",
        r#"{"subject":{"type":"user","id":"bob","properties":{"role":"admin"}},"action":{"name":"write"},"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}"#,
        Expect::Decision(true),
    ),
    case(
        "2.2.6",
        Level::BasicProperties,
        Endpoint::Evaluation,
        "permit by action properties",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"delete","properties":{"soft":true}},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Decision(true),
    ),
    case(
        "2.2.7",
        Level::BasicProperties,
        Endpoint::Evaluation,
        "deny by action properties",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"delete","properties":{"soft":false}},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Decision(false),
    ),
    case(
        "2.2.8",
        Level::BasicCore,
        Endpoint::Evaluation,
        "additional properties",
        r#"{"subject":{"type":"user","id":"alice","properties":{"department":"Sales","role":"manager"}},"action":{"name":"read","properties":{"method":"GET"}},"resource":{"type":"record","id":"record-1","properties":{"status":"active","owner":"bob"}}}"#,
        Expect::Decision(true),
    ),
    case(
        "2.2.9",
        Level::BasicCore,
        Endpoint::Evaluation,
        "unknown fields",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"},"foo":"bar","futureField":{"nested":true}}"#,
        Expect::Decision(true),
    ),
    case(
        "2.4.1a",
        Level::BasicCore,
        Endpoint::Evaluation,
        "subject missing",
        r#"{"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    case(
        "2.4.1b",
        Level::BasicCore,
        Endpoint::Evaluation,
        "action missing",
        r#"{"subject":{"type":"user","id":"alice"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    case(
        "2.4.1c",
        Level::BasicCore,
        Endpoint::Evaluation,
        "resource missing",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"}}"#,
        Expect::BadRequest,
    ),
    case(
        "2.4.2a",
        Level::BasicCore,
        Endpoint::Evaluation,
        "subject without type",
        r#"{"subject":{"id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    case(
        "2.4.2b",
        Level::BasicCore,
        Endpoint::Evaluation,
        "subject without id",
        r#"{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    case(
        "2.4.2c",
        Level::BasicCore,
        Endpoint::Evaluation,
        "action without name",
        r#"{"subject":{"type":"user","id":"alice"},"action":{},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    case(
        "2.4.2d",
        Level::BasicCore,
        Endpoint::Evaluation,
        "resource without type",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    case(
        "2.4.2e",
        Level::BasicCore,
        Endpoint::Evaluation,
        "resource without id",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record"}}"#,
        Expect::BadRequest,
    ),
    Case {
        content_type: "text/plain",
        ..case(
            "2.4.3",
            Level::BasicCore,
            Endpoint::Evaluation,
            "content type not JSON",
            r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
            Expect::BadRequest,
        )
    },
    case(
        "2.4.4",
        Level::BasicCore,
        Endpoint::Evaluation,
        "malformed JSON",
        r#"{"subject":"#,
        Expect::BadRequest,
    ),
    case("2.4.5", Level::BasicCore, Endpoint::Evaluation, "empty body", r#""#, Expect::BadRequest),
    case(
        "2.4.6a",
        Level::BasicCore,
        Endpoint::Evaluation,
        "subject is a text",
        r#"{"subject":"alice","action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    case(
        "2.4.6b",
        Level::BasicCore,
        Endpoint::Evaluation,
        "action name is a number",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":123},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    Case {
        request_id: Some("conformance-2-5-1"),
        ..case(
            "2.5.1",
            Level::BasicCore,
            Endpoint::Evaluation,
            "X-Request-ID is echoed",
            r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
            Expect::Decision(true),
        )
    },
    Case {
        request_id: Some("conformance-2-5-1b"),
        ..case(
            "2.5.1b",
            Level::BasicCore,
            Endpoint::Evaluation,
            "X-Request-ID is echoed with an error",
            r#"{"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
            Expect::BadRequest,
        )
    },
    case(
        "2.5.2",
        Level::BasicCore,
        Endpoint::Evaluation,
        "X-Request-ID absent",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Decision(true),
    ),
    Case {
        times: 10,
        ..case(
            "2.6",
            Level::BasicCore,
            Endpoint::Evaluation,
            "the same request, the same decision",
            r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
            Expect::Decision(true),
        )
    },
    case(
        "3.2.1",
        Level::BatchCore,
        Endpoint::Evaluations,
        "evaluations array",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"evaluations":[{"resource":{"type":"record","id":"record-1"}},{"resource":{"type":"record","id":"record-2"}}]}"#,
        Expect::Decisions(&[None, None]),
    ),
    case(
        "3.2.2",
        Level::BatchCore,
        Endpoint::Evaluations,
        "decisions in order",
        r#"{"subject":{"type":"user","id":"bob"},"resource":{"type":"record","id":"record-1"},"evaluations":[{"action":{"name":"read"}},{"action":{"name":"write"}}]}"#,
        Expect::Decisions(&[Some(true), Some(false)]),
    ),
    case(
        "3.2.3",
        Level::BatchProperties,
        Endpoint::Evaluations,
        "resource properties item by item",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"write"},"evaluations":[{"resource":{"type":"record","id":"record-1","properties":{"status":"active"}}},{"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}]}"#,
        Expect::Decisions(&[Some(true), Some(false)]),
    ),
    case(
        "3.2.4",
        Level::BatchProperties,
        Endpoint::Evaluations,
        "subject properties item by item",
        r#"{"action":{"name":"write"},"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}},"evaluations":[{"subject":{"type":"user","id":"alice"}},{"subject":{"type":"user","id":"bob","properties":{"role":"admin"}}}]}"#,
        Expect::Decisions(&[Some(false), Some(true)]),
    ),
    case(
        "3.2.5",
        Level::BatchCore,
        Endpoint::Evaluations,
        "no defaults",
        r#"{"evaluations":[{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}},{"subject":{"type":"user","id":"bob"},"action":{"name":"write"},"resource":{"type":"record","id":"record-1"}}]}"#,
        Expect::Decisions(&[Some(true), Some(false)]),
    ),
    case(
        "3.2.6",
        Level::BatchCore,
        Endpoint::Evaluations,
        "context inherited and replaced",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"context":{"time":"2025-06-27T18:03-07:00"},"evaluations":[{"resource":{"type":"record","id":"record-1"}},{"resource":{"type":"record","id":"record-2"},"context":{"time":"2025-06-27T19:00-07:00","source":"batch-override"}}]}"#,
        Expect::Decisions(&[None, None]),
    ),
    case(
        "3.2.7",
        Level::BatchProperties,
        Endpoint::Evaluations,
        "an entity is inherited or replaced whole",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"write"},"resource":{"type":"record","id":"record-1","properties":{"status":"active"}},"evaluations":[{},{"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}]}"#,
        Expect::Decisions(&[Some(true), Some(false)]),
    ),
    case(
        "3.4.1",
        Level::BatchCore,
        Endpoint::Evaluations,
        "one bad item among good ones",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"options":{"evaluations_semantic":"execute_all"},"evaluations":[{"resource":{"type":"record","id":"record-1"}},{}]}"#,
        Expect::Decisions(&[Some(true), Some(false)]),
    ),
    case(
        "3.4.2",
        Level::BatchCore,
        Endpoint::Evaluations,
        "no evaluations: a single decision",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Decision(true),
    ),
    case(
        "3.4.3",
        Level::BatchCore,
        Endpoint::Evaluations,
        "empty evaluations: a single decision",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"},"evaluations":[]}"#,
        Expect::Decision(true),
    ),
    case(
        "S.1",
        Level::BatchSemantics,
        Endpoint::Evaluations,
        "deny_on_first_deny stops at a deny",
        r#"{"subject":{"type":"user","id":"bob"},"resource":{"type":"record","id":"record-1"},"options":{"evaluations_semantic":"deny_on_first_deny"},"evaluations":[{"action":{"name":"read"}},{"action":{"name":"write"}},{"action":{"name":"read"}}]}"#,
        Expect::Decisions(&[Some(true), Some(false)]),
    ),
    case(
        "S.2",
        Level::BatchSemantics,
        Endpoint::Evaluations,
        "permit_on_first_permit stops at a permit",
        r#"{"subject":{"type":"user","id":"bob"},"resource":{"type":"record","id":"record-1"},"options":{"evaluations_semantic":"permit_on_first_permit"},"evaluations":[{"action":{"name":"write"}},{"action":{"name":"read"}},{"action":{"name":"write"}}]}"#,
        Expect::Decisions(&[Some(false), Some(true)]),
    ),
    case(
        "S.3",
        Level::BatchSemantics,
        Endpoint::Evaluations,
        "execute_all executes all",
        r#"{"subject":{"type":"user","id":"bob"},"resource":{"type":"record","id":"record-1"},"options":{"evaluations_semantic":"execute_all"},"evaluations":[{"action":{"name":"write"}},{"action":{"name":"read"}},{"action":{"name":"write"}}]}"#,
        Expect::Decisions(&[Some(false), Some(true), Some(false)]),
    ),
    case(
        "4.2.1",
        Level::SearchCore,
        Endpoint::SubjectSearch,
        "subject search",
        r#"{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Entities("user", &["alice", "bob"]),
    ),
    case(
        "4.2.2",
        Level::SearchCore,
        Endpoint::SubjectSearch,
        "subject search with context",
        r#"{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"},"context":{"time":"2025-06-27T18:03-07:00","ip":"192.168.1.1"}}"#,
        Expect::Entities("user", &["alice", "bob"]),
    ),
    case(
        "4.2.3",
        Level::SearchCore,
        Endpoint::SubjectSearch,
        "the subject id is ignored",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Entities("user", &["alice", "bob"]),
    ),
    case(
        "4.2.4",
        Level::SearchProperties,
        Endpoint::SubjectSearch,
        "subject search by resource properties",
        r#"{"subject":{"type":"user"},"action":{"name":"write"},"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}"#,
        Expect::Entities("user", &["bob"]),
    ),
    case(
        "4.3.1",
        Level::SearchCore,
        Endpoint::ResourceSearch,
        "resource search",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record"}}"#,
        Expect::Entities("record", &["record-1"]),
    ),
    case(
        "4.3.2",
        Level::SearchCore,
        Endpoint::ResourceSearch,
        "resource search with context",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record"},"context":{"time":"2025-06-27T18:03-07:00","ip":"192.168.1.1"}}"#,
        Expect::Entities("record", &["record-1"]),
    ),
    case(
        "4.3.3",
        Level::SearchCore,
        Endpoint::ResourceSearch,
        "the resource id is ignored",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Entities("record", &["record-1"]),
    ),
    case(
        "4.3.4",
        Level::SearchProperties,
        Endpoint::ResourceSearch,
        "resource search by subject properties",
        r#"{"subject":{"type":"user","id":"bob","properties":{"role":"admin"}},"action":{"name":"write"},"resource":{"type":"record"}}"#,
        Expect::Entities("record", &["record-2"]),
    ),
    case(
        "4.4.1",
        Level::SearchCore,
        Endpoint::ActionSearch,
        "action search",
        r#"{"subject":{"type":"user","id":"alice"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Actions(&["read", "write"]),
    ),
    case(
        "4.4.2",
        Level::SearchCore,
        Endpoint::ActionSearch,
        "action search with context",
        r#"{"subject":{"type":"user","id":"alice"},"resource":{"type":"record","id":"record-1"},"context":{"time":"2025-06-27T18:03-07:00","ip":"192.168.1.1"}}"#,
        Expect::Actions(&["read", "write"]),
    ),
    case(
        "4.4.3",
        Level::SearchProperties,
        Endpoint::ActionSearch,
        "action search by properties",
        r#"{"subject":{"type":"user","id":"bob","properties":{"role":"admin"}},"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}"#,
        Expect::Actions(&["write"]),
    ),
    case(
        "4.5.1",
        Level::SearchCore,
        Endpoint::SubjectSearch,
        "page limit",
        r#"{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"},"page":{"limit":1}}"#,
        Expect::Page,
    ),
    case(
        "4.5.2",
        Level::SearchCore,
        Endpoint::SubjectSearch,
        "page token",
        r#"{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"},"page":{"limit":1}}"#,
        Expect::NextPage,
    ),
    case(
        "4.6.1",
        Level::SearchCore,
        Endpoint::ActionSearch,
        "unknown subject: no actions",
        r#"{"subject":{"type":"user","id":"nonexistent-user"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Nothing,
    ),
    case(
        "4.6.1b",
        Level::SearchCore,
        Endpoint::ResourceSearch,
        "unknown subject: no resources",
        r#"{"subject":{"type":"user","id":"nonexistent-user"},"action":{"name":"read"},"resource":{"type":"record"}}"#,
        Expect::Nothing,
    ),
    case(
        "4.6.2",
        Level::SearchCore,
        Endpoint::SubjectSearch,
        "unknown subject type",
        r#"{"subject":{"type":"spaceship"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::Nothing,
    ),
    case(
        "4.6.2b",
        Level::SearchCore,
        Endpoint::ResourceSearch,
        "unknown resource type",
        r#"{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"spaceship"}}"#,
        Expect::Nothing,
    ),
    case(
        "4.7.1a",
        Level::SearchCore,
        Endpoint::SubjectSearch,
        "subject search without action",
        r#"{"subject":{"type":"user"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
    case(
        "4.7.1b",
        Level::SearchCore,
        Endpoint::ResourceSearch,
        "resource search without subject",
        r#"{"action":{"name":"read"},"resource":{"type":"record"}}"#,
        Expect::BadRequest,
    ),
    case(
        "4.7.1c",
        Level::SearchCore,
        Endpoint::ActionSearch,
        "action search without resource",
        r#"{"subject":{"type":"user","id":"alice"}}"#,
        Expect::BadRequest,
    ),
    case(
        "4.7.2a",
        Level::SearchCore,
        Endpoint::SubjectSearch,
        "subject search, resource without id",
        r#"{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"record"}}"#,
        Expect::BadRequest,
    ),
    case(
        "4.7.2b",
        Level::SearchCore,
        Endpoint::ResourceSearch,
        "resource search, subject without id",
        r#"{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"record"}}"#,
        Expect::BadRequest,
    ),
    case(
        "4.7.2c",
        Level::SearchCore,
        Endpoint::ActionSearch,
        "action search, subject without id",
        r#"{"subject":{"type":"user"},"resource":{"type":"record","id":"record-1"}}"#,
        Expect::BadRequest,
    ),
];
