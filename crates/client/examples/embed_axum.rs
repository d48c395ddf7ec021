//! A service that decides for itself: axum with a replica inside.
//!
//! ```text
//! keepgate apply examples/orders
//! export KEEPGATE_TOKEN=$(keepgate token create --role gate --service orders)
//! cargo run -p keepgate-client --example embed_axum
//! curl -i -H 'X-User: alice' http://127.0.0.1:8090/orders/7
//! ```
//!
//! 403 means denied and nothing else; without a decision the answer is 503.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use keepgate_client::replica::{FollowConfig, NoDecision, Replica};
use keepgate_client::{Query, Uid};

/// Orders may be read on permissions of the last minute, not on older ones.
const MAX_AGE: Duration = Duration::from_secs(60);
/// How long the start waits for the first permissions.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a request needs to be decided.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The permissions of the one service that this program is.
    pub replica: Replica,
}

/// The service's routes.
pub fn app(orders: Orders) -> Router {
    Router::new().route("/orders/{id}", get(order)).with_state(orders)
}

async fn order(
    State(orders): State<Orders>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    // A real service knows its callers from a verified token.
    let Some(user) = headers.get("x-user").and_then(|user| user.to_str().ok()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    // What the gate would ask: `examples/orders` grants the method on the route.
    let (user, get) = (Uid::new("user", user), Uid::action("GET"));
    let route = Uid::new("route", "/orders/{id}");
    let query = Query::new(&user, &get, &route);
    match orders.replica.decide(&query, MAX_AGE) {
        Ok(answer) if answer.decision.is_allowed() => format!("order {id}\n").into_response(),
        Ok(_) => StatusCode::FORBIDDEN.into_response(),
        Err(NoDecision::Question(error)) => {
            (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
        }
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "1"), (header::CACHE_CONTROL, "no-store")],
            format!("{reason}\n"),
        )
            .into_response(),
    }
}

#[tokio::main(flavor = "current_thread")]
#[allow(dead_code, reason = "a test includes this file as a module and has its own main")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let center = variable("KEEPGATE_CENTER").unwrap_or("http://127.0.0.1:7480".to_owned());
    // The token is bound to one service, so that one is followed.
    let replica = Replica::follow(FollowConfig::new(center, variable("KEEPGATE_TOKEN")?))?;
    if tokio::time::timeout(PATIENCE, replica.wait_ready(MAX_AGE)).await.is_err()
        && let Some(error) = replica.last_error()
    {
        eprintln!("no permissions yet, every answer is 503: {error}");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8090").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app(Orders { replica: replica.clone() })).await?;
    replica.close().await;
    Ok(())
}
