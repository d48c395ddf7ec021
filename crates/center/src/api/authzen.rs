//! AuthZEN 1.0: the HTTPS binding. Bodies and their meaning are `policy::authzen`'s.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::Json as Out;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response as HttpResponse};
use bytes::Bytes;
use http::{HeaderMap, Uri, header};
use keepgate_policy::Decision;
use keepgate_policy::authzen::{
    BadRequest, Batch, BatchResponse, Evaluation, MAX_VALUES, Metadata, Response,
};
use keepgate_policy::decision::QueryError;

use super::input::{self, Params};
use super::problem::Problem;
use super::{Answer, App, check, guard, host};
use crate::access::Caller;
use crate::desk::{Head, Refusal, Work};

/// The longest body of an evaluation, or of a batch of them, in bytes.
const BODY: usize = 4 << 20;

/// A body of up to this many bytes is decided at once, on the runtime's own thread.
const SMALL: usize = 16 << 10;

/// Not where the last decision took longer: those that follow leave the runtime's threads to others,
/// until one of them is fast again.
const SLOW: Duration = Duration::from_millis(2);

/// Where several services decide together (see [`Head::unnamed`]): the values of a batch times the
/// services.
const VALUES_BY_SERVICES: usize = 2 * MAX_VALUES;

/// Where an evaluation is asked for that names no service.
pub(crate) const EVALUATION: &str = "/access/v1/evaluation";

/// As [`evaluation`], without the router: all that stands before that in `api::router` and in
/// `api::table`, in the same order. It is what a program asks thousands of times a second, and the layers
/// cost as much as the decision.
pub(crate) async fn direct(app: App, request: Request) -> HttpResponse {
    let answer = async |request: Request| {
        host::is_for(&app, &request)?;
        let caller = guard::decider(&app, &request)?;
        guard::takes_no_query(&request)?;
        one(&app, caller, None, request).await
    };
    guard::enveloped(&app, request, async |request| answer(request).await.into_response()).await
}

pub(crate) async fn evaluation(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Answer<Out<Response>> {
    one(&app, caller, None, request).await
}

pub(crate) async fn service_evaluation(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
    request: Request,
) -> Answer<Out<Response>> {
    one(&app, caller, Some(service), request).await
}

pub(crate) async fn evaluations(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Answer<Out<BatchResponse>> {
    many(app, caller, None, request).await
}

pub(crate) async fn service_evaluations(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
    request: Request,
) -> Answer<Out<BatchResponse>> {
    many(app, caller, Some(service), request).await
}

async fn one(
    app: &App,
    caller: Caller,
    service: Option<String>,
    request: Request,
) -> Answer<Out<Response>> {
    let panel = Panel::of(app, &caller, service)?;
    let body = body(app, request).await?;
    let at_once = body.len() <= SMALL && !app.slow.load(Ordering::Relaxed);
    let slow = Arc::clone(&app.slow);
    let work = move |_: &Work| {
        let began = Instant::now();
        let read = Evaluation::parse(&body);
        let evaluation = read.map_err(|e| Problem::bad_request(e.to_string()))?;
        let answer = panel.single(&evaluation);
        slow.store(began.elapsed() > SLOW, Ordering::Relaxed);
        answer
    };
    if at_once {
        return work(&Work::default()).map(Out);
    }
    check::beside(app, &caller, work).await.map(Out)
}

async fn many(
    app: App,
    caller: Caller,
    service: Option<String>,
    request: Request,
) -> Answer<Out<BatchResponse>> {
    let panel = Panel::of(&app, &caller, service)?;
    let body = body(&app, request).await?;
    // A batch may hold thousands of questions: not on the runtime's threads.
    let answered = check::beside(&app, &caller, move |work| {
        let batch = Batch::parse(&body).map_err(|e| Problem::bad_request(e.to_string()))?;
        if let Batch::Many { items, .. } = &batch {
            panel.bounded(items)?;
        }
        match &batch {
            Batch::One(evaluation) => panel.single(evaluation).map(BatchResponse::One),
            Batch::Many { .. } => batch.answer(|evaluation| {
                // It ends with its request.
                if work.is_given_up() {
                    return Err(Problem::from(Refusal::Gone));
                }
                Ok(panel.item(evaluation))
            }),
        }
    });
    answered.await.map(Out)
}

/// The body, whose type must be JSON: else a 400, as the certification scenario has it.
async fn body(app: &App, request: Request) -> Answer<Bytes> {
    if !input::is_json(request.headers()) {
        return Err(Problem::bad_request("send it with `Content-Type: application/json`"));
    }
    input::bytes(request, BODY, app).await
}

/// Who decides: one service, or in a store of an earlier release several; all at one revision.
struct Panel {
    app: App,
    head: Arc<Head>,
    services: Vec<String>,
    /// When they decide.
    now_unix_s: u64,
}

impl Panel {
    fn of(app: &App, caller: &Caller, service: Option<String>) -> Answer<Panel> {
        let head = app.desk.head();
        let services = check::asked(&head, caller, service.as_deref())?;
        let services = services.into_iter().map(str::to_owned).collect();
        let now_unix_s = keepgate_observe::unix_s();
        Ok(Panel { app: app.clone(), head, services, now_unix_s })
    }

    /// Refuses a batch that would be decided by too many services.
    fn bounded(&self, items: &[Result<Evaluation, BadRequest>]) -> Answer<()> {
        let services = self.services.len();
        if services == 1 {
            return Ok(());
        }
        let values: usize = items.iter().flatten().map(Evaluation::values).sum();
        if values.saturating_mul(services) <= VALUES_BY_SERVICES {
            return Ok(());
        }
        Err(Problem::bad_request(format!(
            "{values} values of the evaluations times {services} services that decide them are \
             more than {VALUES_BY_SERVICES}: send fewer evaluations at a time, or ask one service \
             at `/s/NAME/access/v1/evaluations`"
        )))
    }

    fn decide(&self, evaluation: &Evaluation) -> Result<Decision, QueryError> {
        let decision = match self.services.as_slice() {
            [service] => self.head.world.decide(&evaluation.query(service).at(self.now_unix_s))?,
            _ => self.head.world.decide_any(&evaluation.query("").at(self.now_unix_s))?,
        };
        check::count(&self.app.metrics, decision.effect);
        Ok(decision)
    }

    fn single(&self, evaluation: &Evaluation) -> Answer<Response> {
        match self.decide(evaluation) {
            Ok(decision) => Ok(Response::decided(&decision)),
            Err(e) => Err(Problem::of_query(&e)),
        }
    }

    fn item(&self, evaluation: &Evaluation) -> Response {
        match self.decide(evaluation) {
            Ok(decision) => Response::decided(&decision),
            Err(e) => Response::refused(&e),
        }
    }
}

pub(crate) async fn configuration(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer<Out<Metadata>> {
    Ok(Out(Metadata::of(&base(&app, &uri, &headers)?)))
}

/// The well-known URI of the PDP `BASE/s/NAME`: inserted between host and path.
pub(crate) async fn service_configuration(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    Params(service): Params<String>,
) -> Answer<Out<Metadata>> {
    if !app.desk.head().services.contains_key(&service) {
        return Err(Refusal::no_service(&service).into());
    }
    Ok(Out(Metadata::of(&format!("{}/s/{service}", base(&app, &uri, &headers)?))))
}

/// How callers call this center: as configured, else as they just did.
fn base(app: &App, uri: &Uri, headers: &HeaderMap) -> Answer<String> {
    if let Some(url) = &app.public_url {
        return Ok(url.to_string());
    }
    // HTTP/2 has it in the request's URI.
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).and_then(|host| host.to_str().ok()),
    };
    let host = host.ok_or_else(|| Problem::bad_request("the request has no Host"))?;
    let scheme = if app.secure { "https" } else { "http" };
    Ok(format!("{scheme}://{host}"))
}
