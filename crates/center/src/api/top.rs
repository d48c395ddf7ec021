//! Who is making the requests of a service: what its gates have reported, merged.
//!
//! "No gate was heard" is an answer of its own, never "no traffic".

use axum::Json as Out;
use axum::extract::State;
use keepgate_limit::rules::{Limits, Plan};
use keepgate_limit::top::{MOST_TOLD, merge};
use keepgate_policy::service::is_service_name;
use serde_json::{Value, json};

use super::input::Params;
use super::problem::Problem;
use super::{Answer, App, items};

/// Lists whose members have a first moment.
const LISTS: [&str; 4] = ["addresses", "principals", "user_agents", "routes"];

pub(crate) async fn fetch(
    State(app): State<App>,
    Params(service): Params<String>,
) -> Answer<Out<Value>> {
    if !is_service_name(&service) {
        return Err(Problem::bad_request(format!("`{service}` cannot name a service")));
    }
    let name = service.clone();
    app.desk.read(move |store| items::service_must_be(store, &name)).await?;
    // Reading the reports of many gates takes a while: not on the runtime's threads.
    let answer = tokio::task::spawn_blocking(move || answer(&app, &service)).await;
    answer.map(Out).map_err(|_| Problem::internal())
}

fn answer(app: &App, service: &str) -> Value {
    let now_unix_ms = crate::desk::unix_ms();
    let heard = app.followers.activities().of(service, std::time::Instant::now());
    let oldest_ms = heard.iter().map(|one| one.age_ms).max();
    let following = app.followers.of(service);
    let mut fields = json!({
        "service": service,
        "now_unix_ms": now_unix_ms,
        "gates": { "heard": heard.len(), "oldest_ms": oldest_ms, "following": following },
    });
    if heard.is_empty() {
        return fields;
    }
    let report = merge(&heard, MOST_TOLD, Some(&plans(app, service)));
    let mut report = serde_json::to_value(&report).unwrap_or_default();
    for list in LISTS {
        let hitters = report.get_mut(list).and_then(Value::as_array_mut);
        for hitter in hitters.into_iter().flatten() {
            let age = hitter.get("first_seen_age_ms").and_then(Value::as_u64).unwrap_or_default();
            if let Some(hitter) = hitter.as_object_mut() {
                let at = now_unix_ms.saturating_sub(age);
                hitter.insert("first_seen_unix_ms".to_owned(), json!(at));
            }
        }
    }
    if let (Some(fields), Value::Object(report)) = (fields.as_object_mut(), report) {
        fields.extend(report);
    }
    fields
}

/// The service's plans; nothing else of its limits matters here.
fn plans(app: &App, service: &str) -> Limits {
    let head = app.desk.head();
    let mut limits = Limits::default();
    let Some(view) = head.world.service(service) else { return limits };
    for body in view.plans().iter() {
        let mut body = body.clone();
        let name = body.as_object_mut().and_then(|fields| fields.remove("name"));
        if let (Some(Value::String(name)), Ok(plan)) = (name, serde_json::from_value::<Plan>(body))
        {
            limits.plans.insert(name, plan);
        }
    }
    limits
}
