//! AuthZEN 1.0 in process, on the gate's replica: what the center answers, without the way to it.
//!
//! Bodies and their meaning are `policy::authzen`'s. A replica that is too old for the service's
//! `max_age`, or that is not there, answers nothing: 503.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use keepgate_policy::authzen::{Batch, BatchResponse, Evaluation, Metadata, Response as Answer};
use keepgate_policy::decision::{DenyReason, Effect, QueryError};
use keepgate_policy::service::Authzen;
use keepgate_policy::world::Reads;
use keepgate_policy::{Decision, Query};
use keepgate_record::{Inputs, MAX_INPUTS, Outcome};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::message::body::GateBody;
use crate::message::problem::{Kind, Problem};
use crate::observe::records::Recorder;
use crate::phase::undecided::{fresh_within, no_decision};
use crate::phase::worker::{Served, Worker};
use crate::phase::written::{self, Asked, Determined};
use crate::service::table::Table;

/// The longest body, in bytes; as the center's.
const BODY: usize = 4 << 20;
/// A question of up to this many bytes is answered at once, on the worker's own thread.
const SMALL: usize = 16 << 10;
/// For a body to arrive, and for a place beside the workers.
const WITHIN: Duration = Duration::from_secs(10);
/// Questions that are answered beside the workers at once, over the whole process; more wait.
static BESIDE: Semaphore = Semaphore::const_new(4);

const METADATA: &str = "/.well-known/authzen-configuration";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Evaluation,
    Evaluations,
    Metadata,
}

/// The endpoint of a path, and the service in it.
pub(crate) fn endpoint(path: &str) -> Option<(Endpoint, Option<&str>)> {
    if let Some(rest) = path.strip_prefix(METADATA) {
        return match rest.strip_prefix("/s/") {
            None if rest.is_empty() => Some((Endpoint::Metadata, None)),
            Some(name) if is_name(name) => Some((Endpoint::Metadata, Some(name))),
            _ => None,
        };
    }
    let (service, rest) = match path.strip_prefix("/s/") {
        None => (None, path),
        Some(below) => {
            let (name, _) = below.split_once('/')?;
            (Some(name), below.get(name.len()..)?)
        }
    };
    match rest {
        "/access/v1/evaluation" => Some((Endpoint::Evaluation, service)),
        "/access/v1/evaluations" => Some((Endpoint::Evaluations, service)),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

/// An answer, and what was decided in it.
pub(crate) struct Answered {
    pub(crate) response: Response<GateBody>,
    pub(crate) permits: Vec<bool>,
}

/// Answers.
pub(crate) async fn answered(
    worker: &Worker,
    parts: &Parts,
    body: Option<Incoming>,
    endpoint: Endpoint,
    service: Option<&str>,
    asker: Asker,
) -> Result<Answered, Problem> {
    let method = if endpoint == Endpoint::Metadata { Method::GET } else { Method::POST };
    if parts.method != method {
        let detail = format!("expected {method} here");
        let allow = HeaderValue::try_from(method.as_str()).ok();
        let problem = Problem::new(Kind::MethodNotAllowed, detail);
        return Err(allow.into_iter().fold(problem, |problem, allow| problem.header(ALLOW, allow)));
    }
    if endpoint == Endpoint::Metadata {
        let base = base(parts)?;
        let base = match service {
            Some(name) if worker.service(name).is_none() => return Err(no_service(name)),
            Some(name) => format!("{base}/s/{name}"),
            None => base,
        };
        return Ok(Answered { response: json(&Metadata::of(&base)), permits: Vec::new() });
    }
    if !is_json(&parts.headers) {
        let detail = "send it with `Content-Type: application/json`";
        return Err(Problem::new(Kind::BadRequest, detail));
    }
    let panel = Panel::of(worker, service, asker)?;
    let body = read(body).await?;
    if endpoint == Endpoint::Evaluation && body.len() <= SMALL {
        return panel.one(&body);
    }
    // It may take a while: not on the worker's thread.
    let place = tokio::time::timeout(WITHIN, BESIDE.acquire()).await;
    let Ok(Ok(place)) = place else {
        let detail = "too many questions wait to be answered; try again";
        return Err(Problem::new(Kind::Overloaded, detail));
    };
    let done = tokio::task::spawn_blocking(move || {
        // Given back when the work has ended, not when its caller has gone.
        let _place = place;
        match endpoint {
            Endpoint::Evaluation => panel.one(&body),
            _ => panel.many(&body),
        }
    });
    done.await.unwrap_or_else(|_| Err(Problem::new(Kind::Overloaded, "the question broke off")))
}

/// Who decides, at one revision.
struct Panel {
    table: Arc<Table>,
    service: String,
    now_unix_s: u64,
    asker: Asker,
}

/// Who asks, for the records of what is decided.
pub(crate) struct Asker {
    /// None: nobody records it.
    pub(crate) recorder: Option<Recorder>,
    pub(crate) request_id: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) path: String,
}

impl Asker {
    fn record(
        &self,
        panel: &Panel,
        query: &Query<'_>,
        decided: &Result<Decision, QueryError>,
        took: Duration,
    ) {
        let Some(recorder) = &self.recorder else { return };
        let said = match decided {
            Ok(decision) => match decision.effect {
                Effect::Allow => (Outcome::Allowed, "", 200),
                Effect::Deny(DenyReason::Forbid) => (Outcome::Denied, "forbid", 200),
                Effect::Deny(DenyReason::NoPermit) => (Outcome::Denied, "no_permit", 200),
            },
            Err(error) if error.is_undecided() => (Outcome::CannotDecide, "undecided", 503),
            Err(_) => (Outcome::Refused, Kind::BadRequest.suffix(), 400),
        };
        let inputs = inputs(&panel.table.reads(&panel.service), query);
        let determined = Determined {
            service: &panel.service,
            principal: Some(query.principal),
            identified_by: "",
            about: Some([query.action, query.resource]),
            policies: decided.as_ref().map_or(&[], |decision| &decision.determining),
            table: Some(&panel.table),
            decide_ns: Some(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            inputs: Some(match &inputs {
                Some(members) => Inputs::Members(members),
                None => Inputs::TooLarge,
            }),
        };
        let (request_id, path) = (self.request_id.as_str(), self.path.as_str());
        let asked =
            Asked { request_id, address: self.address, method: "POST", path, ..Asked::default() };
        written::question(recorder, &asked, said, &determined);
    }
}

/// What the policies read of a question, as members of a JSON object; none: more than a record may hold.
fn inputs(reads: &Reads, query: &Query<'_>) -> Option<String> {
    let mut context: BTreeMap<&str, &Value> = BTreeMap::new();
    context.extend(query.context.iter().map(|(name, value)| (name.as_str(), value)));
    context.retain(|name, _| reads.context.has(name));
    let properties = |all: &BTreeMap<String, Value>| -> BTreeMap<String, Value> {
        let read = all.iter().filter(|(name, _)| reads.attributes.has(name));
        read.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let action = match reads.context.has("action") {
        true => query.action_properties.clone(),
        false => BTreeMap::new(),
    };
    let mut members = Vec::new();
    if !context.is_empty() {
        members.push(("context", serde_json::to_string(&context).ok()?));
    }
    for (name, read) in [
        ("properties", properties(query.principal_properties)),
        ("resource_properties", properties(query.resource_properties)),
        ("action_properties", action),
    ] {
        if !read.is_empty() {
            members.push((name, serde_json::to_string(&read).ok()?));
        }
    }
    let members: Vec<String> =
        members.into_iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
    Some(members.join(",")).filter(|text| text.len() + 2 <= MAX_INPUTS)
}

impl Panel {
    fn of(worker: &Worker, named: Option<&str>, asker: Asker) -> Result<Panel, Problem> {
        let (served, table) = match named {
            Some(name) => {
                let served = worker.service(name).ok_or_else(|| no_service(name))?;
                (served, table(served)?)
            }
            None => unnamed(worker)?,
        };
        let max_age_ms = table.service.as_ref().map_or(0, |service| service.max_age_ms);
        fresh_within(&table, max_age_ms)?;
        let service = served.tables.service.clone();
        Ok(Panel { table, service, now_unix_s: keepgate_observe::unix_s(), asker })
    }

    /// `is_item`: an error is the answer to one of several questions, and not that to all.
    fn decide(&self, evaluation: &Evaluation, is_item: bool) -> Result<Decision, QueryError> {
        let query = evaluation.query(&self.service).at(self.now_unix_s);
        let started = Instant::now();
        let decided = self.table.world.decide(&query);
        if decided.is_ok() || is_item {
            self.asker.record(self, &query, &decided, started.elapsed());
        }
        decided
    }

    fn single(&self, evaluation: &Evaluation) -> Result<Answer, Problem> {
        self.decide(evaluation, false)
            .map(|decision| Answer::decided(&decision))
            .map_err(|e| of_query(&e))
    }

    fn one(&self, body: &[u8]) -> Result<Answered, Problem> {
        let evaluation = Evaluation::parse(body).map_err(bad)?;
        let answer = self.single(&evaluation)?;
        Ok(Answered { permits: vec![answer.decision], response: json(&answer) })
    }

    fn many(&self, body: &[u8]) -> Result<Answered, Problem> {
        let batch = Batch::parse(body).map_err(bad)?;
        let answer = match &batch {
            Batch::One(evaluation) => BatchResponse::One(self.single(evaluation)?),
            Batch::Many { .. } => batch.answer(|evaluation| {
                Ok::<_, Problem>(match self.decide(evaluation, true) {
                    Ok(decision) => Answer::decided(&decision),
                    Err(error) => Answer::refused(&error),
                })
            })?,
        };
        let permits = match &answer {
            BatchResponse::One(answer) => vec![answer.decision],
            BatchResponse::Many { evaluations } => evaluations.iter().map(|a| a.decision).collect(),
        };
        Ok(Answered { response: json(&answer), permits })
    }
}

/// The service that decides what names none: the default one, else the gate's only one.
fn unnamed(worker: &Worker) -> Result<(&Served, Arc<Table>), Problem> {
    let mut all = Vec::new();
    for served in worker.services() {
        // Any of them may be the default one: without all of them it is not known which.
        all.push((served, table(served)?));
    }
    let of = |(_, table): &&(&Served, Arc<Table>)| {
        table.service.as_ref().map_or(Authzen::No, |service| service.authzen())
    };
    if let Some((served, table)) = all.iter().find(|one| of(one) == Authzen::Default) {
        return Ok((served, Arc::clone(table)));
    }
    match all.as_slice() {
        [one @ (served, table)] if of(&one) == Authzen::Yes => Ok((served, Arc::clone(table))),
        [_] => {
            let detail = "the service does not decide what names no service (`authzen = false`); \
                          ask at `/s/NAME/access/v1/evaluation`";
            Err(Problem::new(Kind::NoRoute, detail))
        }
        several => {
            let detail = format!(
                "the gate has {} services, and none of them is the default one of AuthZEN; ask at \
                 `/s/NAME/access/v1/evaluation`, or say `authzen = \"default\"` in one service.toml",
                several.len()
            );
            Err(Problem::new(Kind::NoRoute, detail))
        }
    }
}

fn table(served: &Served) -> Result<Arc<Table>, Problem> {
    let Some(table) = served.table() else {
        return Err(no_decision("no_replica", "the gate has no permissions yet"));
    };
    if table.service.is_none() {
        return Err(no_decision("no_service", "the gate does not know its service yet"));
    }
    Ok(table)
}

fn no_service(name: &str) -> Problem {
    Problem::new(Kind::NoRoute, format!("the gate has no service `{name}`"))
}

fn bad(error: keepgate_policy::authzen::BadRequest) -> Problem {
    Problem::new(Kind::BadRequest, error.to_string())
}

fn of_query(error: &QueryError) -> Problem {
    match error {
        QueryError::UnknownService(_) => {
            no_decision("no_service", "the gate does not know its service yet")
        }
        error if error.is_undecided() => no_decision("undecided", "a policy cannot be evaluated"),
        error => Problem::new(Kind::BadRequest, error.to_string()),
    }
}

async fn read(body: Option<Incoming>) -> Result<Bytes, Problem> {
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    let whole = async {
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| Problem::new(Kind::BadBody, "the body could not be read"))?;
            let Ok(data) = frame.into_data() else { continue };
            if all.len() + data.len() > BODY {
                let detail = format!("a body here has at most {BODY} bytes");
                return Err(Problem::new(Kind::BodyTooLarge, detail).close());
            }
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    };
    tokio::time::timeout(WITHIN, whole)
        .await
        .unwrap_or_else(|_| Err(Problem::new(Kind::TooSlow, "the body came too slowly").close()))
}

/// How callers call the gate, as they just did. Tokens are not asked for here: it is plain HTTP.
fn base(parts: &Parts) -> Result<String, Problem> {
    let host = match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
    };
    let host = host.ok_or_else(|| Problem::new(Kind::BadRequest, "no Host"))?;
    Ok(format!("http://{host}"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

fn json(body: &impl Serialize) -> Response<GateBody> {
    // These types have no map with keys that are no text.
    let text = serde_json::to_string(body).unwrap_or_default();
    let mut response = Response::new(GateBody::full(Bytes::from(text)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (path, expected) in [
            ("/access/v1/evaluation", Some((Endpoint::Evaluation, None))),
            ("/access/v1/evaluations", Some((Endpoint::Evaluations, None))),
            ("/s/orders/access/v1/evaluation", Some((Endpoint::Evaluation, Some("orders")))),
            ("/s/orders/access/v1/evaluations", Some((Endpoint::Evaluations, Some("orders")))),
            ("/.well-known/authzen-configuration", Some((Endpoint::Metadata, None))),
            (
                "/.well-known/authzen-configuration/s/orders",
                Some((Endpoint::Metadata, Some("orders"))),
            ),
            ("/access/v1/evaluation/", None),
            ("/access/v1/search/subject", None),
            ("/s/orders", None),
            ("/s/orders/x/access/v1/evaluation", None),
            ("/.well-known/authzen-configuration/s/", None),
            ("/.well-known/authzen-configurations", None),
            ("/.well-known/authzen-configuration/s/a/b", None),
        ] {
            assert_eq!(endpoint(path), expected, "{path}");
        }
    }
}
