//! Who is making the requests of a service: what its gates have reported, merged.
//!
//! "No gate was heard" is an answer of its own, never "no traffic".

use axum::Json as Out;
use axum::extract::State;
use keepgate_limit::top::{GatesHeard, MAX_TOLD, TopAnswer, merge};
use keepgate_policy::service::is_service_name;

use super::input::Params;
use super::problem::Problem;
use super::{Answer, App, items};

pub(crate) async fn fetch(
    State(app): State<App>,
    Params(service): Params<String>,
) -> Answer<Out<TopAnswer>> {
    if !is_service_name(&service) {
        return Err(Problem::bad_request(format!("`{service}` cannot name a service")));
    }
    let name = service.clone();
    app.desk.read(move |store| items::service_must_be(store, &name)).await?;
    // Reading the reports of many gates takes a while: not on the runtime's threads.
    let answer = tokio::task::spawn_blocking(move || answer(&app, &service)).await;
    answer.map(Out).map_err(|_| Problem::internal())
}

fn answer(app: &App, service: &str) -> TopAnswer {
    let mut heard = app.followers.activities().of(service, std::time::Instant::now());
    heard.extend(app.neighbors.reports(service));
    let following =
        app.neighbors.followers().iter().filter(|(_, one)| one.scope.covers(service)).count();
    let gates = GatesHeard {
        heard: heard.len() as u64,
        oldest_ms: heard.iter().map(|one| one.age_ms).max(),
        following: following as u64,
        centers: app.neighbors.count(),
    };
    let report = (!heard.is_empty()).then(|| {
        let head = app.desk.head();
        let limits = head.world.service(service).map(|view| view.limits()).unwrap_or_default();
        merge(&heard, MAX_TOLD, Some(&limits))
    });
    let (service, now_unix_ms) = (service.to_owned(), keepgate_observe::unix_ms());
    TopAnswer { service, now_unix_ms, gates: Some(gates), report }.dated()
}
