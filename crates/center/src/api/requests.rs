//! Requests for access: those of a service, approved or declined.

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use keepgate_api as api;
use keepgate_policy::{ItemKey, Kind};
use serde::Deserialize;

use super::input::{Args, Json, PAGE, Params, told, uid};
use super::problem::Problem;
use super::{Answer, App, items};
use crate::access::Caller;
use crate::desk::{EditPlan, Refusal};
use crate::store::{Reading, RequestRow, RequestState, RequestsOf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListArgs {
    #[serde(default)]
    state: Option<String>,
    /// Ids after this one.
    #[serde(default)]
    after: String,
    #[serde(default)]
    limit: Option<usize>,
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(service): Params<String>,
    Args(args): Args<ListArgs>,
) -> Answer<Out<api::AccessRequests>> {
    let state = match args.state.as_deref() {
        None => None,
        Some(name) => Some(RequestState::from_name(name).ok_or_else(|| {
            let expected = "pending, approved, declined, or fetched";
            Problem::unprocessable(format!("`state`: expected {expected}, got `{name}`"))
        })?),
    };
    let limit = args.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let read = app.desk.read(move |store| {
        items::service_must_be(store, &service)?;
        let of = RequestsOf::Service(&service, state, &args.after, limit + 1);
        Ok(store.requests(of)?)
    });
    let mut rows = read.await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = more.then(|| rows.last().map(|row| row.id.clone())).flatten();
    Ok(Out(api::AccessRequests { requests: rows.into_iter().map(shown).collect(), next }))
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Params((service, id)): Params<(String, String)>,
) -> Answer<Out<api::AccessRequest>> {
    let row = app.desk.read(move |store| one(store, &service, &id)).await?;
    Ok(Out(shown(row)))
}

pub(crate) async fn approve(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params((service, id)): Params<(String, String)>,
    Json(asked): Json<api::ApproveRequest>,
) -> Answer<Out<api::AccessRequest>> {
    let api::ApproveRequest { principal, plan, expires_unix_s } = asked;
    let principal = uid(principal, "principal")?;
    decide(&app, &caller, "request.approve", (service, id), move |store, row| {
        if !plan.is_empty() {
            let key = ItemKey::new(&row.service, Kind::Plan, &plan);
            if store.item(&key)?.is_none() {
                return Err(Refusal::Unfit(format!(
                    "`plan`: service `{}` has no plan `{plan}`",
                    row.service
                )));
            }
        }
        row.state = RequestState::Approved;
        row.body.principal = Some(principal);
        row.body.plan = plan;
        row.body.expires_unix_s = expires_unix_s;
        Ok(())
    })
    .await
}

pub(crate) async fn decline(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params((service, id)): Params<(String, String)>,
) -> Answer<Out<api::AccessRequest>> {
    decide(&app, &caller, "request.decline", (service, id), |_, row| {
        row.state = RequestState::Declined;
        Ok(())
    })
    .await
}

/// One that waits can be approved and declined; one that was approved, declined while its key was not
/// fetched.
async fn decide(
    app: &App,
    caller: &Caller,
    action: &'static str,
    (service, id): (String, String),
    make: impl FnOnce(&dyn Reading, &mut RequestRow) -> Result<(), Refusal> + Send + 'static,
) -> Answer<Out<api::AccessRequest>> {
    let by = caller.token_id().to_owned();
    let (of, at) = (service.clone(), id.clone());
    items::edit(app, caller, action, move |store, _| {
        let mut row = one(store, &of, &at)?;
        let is_open = row.state == RequestState::Pending
            || row.state == RequestState::Approved && action == "request.decline";
        if !is_open {
            return Err(Refusal::Unfit(format!(
                "the request is {}: only one that is pending can be decided",
                row.state.name()
            )));
        }
        make(store, &mut row)?;
        row.changed_unix_s = keepgate_observe::unix_s();
        row.body.decided_by = by;
        Ok(EditPlan { requests: vec![row], ..EditPlan::default() })
    })
    .await?;
    let row = app.desk.read(move |store| one(store, &service, &id)).await?;
    Ok(Out(shown(row)))
}

fn one(store: &dyn Reading, service: &str, id: &str) -> Result<RequestRow, Refusal> {
    items::service_must_be(store, service)?;
    let found = store.requests(RequestsOf::One(service, id))?.pop();
    found.ok_or_else(|| Refusal::Missing {
        kind: "request",
        id: id.to_owned(),
        place: format!(" in service `{service}`"),
    })
}

fn shown(row: RequestRow) -> api::AccessRequest {
    let body = row.body;
    api::AccessRequest {
        id: row.id,
        service: row.service,
        state: row.state,
        who: body.who,
        what_for: body.what_for,
        per_day: body.per_day,
        address: row.address,
        asked_unix_s: row.created_unix_s,
        changed_unix_s: row.changed_unix_s,
        principal: body.principal.map(told),
        plan: body.plan,
        expires_unix_s: body.expires_unix_s,
        decided_by: body.decided_by,
        key: body.key,
    }
}
