//! What happened to a service in the last hour, as its gates say.

use axum::Json as Out;
use axum::extract::State;
use keepgate_api as api;
use keepgate_policy::service::is_service_name;

use super::input::Params;
use super::problem::Problem;
use super::{Answer, App, items};

pub(crate) async fn fetch(
    State(app): State<App>,
    Params(service): Params<String>,
) -> Answer<Out<api::ServiceHour>> {
    if !is_service_name(&service) {
        return Err(Problem::bad_request(format!("`{service}` cannot name a service")));
    }
    let name = service.clone();
    app.desk.read(move |store| items::service_must_be(store, &name)).await?;
    let now = keepgate_observe::unix_s();
    let known = app.hours.of(&service, now);
    let limits = app.hours.limits(&service, now).map(|limits| {
        let each = limits.into_iter();
        each.map(|(name, did)| api::LimitHour {
            name,
            requests: did.requests,
            refused: did.refused,
        })
        .collect()
    });
    Ok(Out(api::ServiceHour {
        service,
        minutes: known.minutes,
        requests: known.requests.sum,
        refused: known.refused.sum,
        limited: known.limited.sum,
        denied: known.denied.sum,
        undecided: known.undecided.sum,
        limits,
    }))
}
