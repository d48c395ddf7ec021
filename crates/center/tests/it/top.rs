//! What gates report about their callers: kept, merged, forgotten; never a danger to the stream.

use std::time::Duration;

use keepgate_limit::top::{Observation, Outcome, Top};
use keepgate_limit::{AddressKey, Nanos, Seed};
use serde_json::{Value, json};

use crate::fixture::{Dir, Mirror, Running, patiently};

const SECOND: u64 = 1_000_000_000;

/// A gate's report: a crawler that walked these ids of `/orders/{id}`, a tenth of it refused.
fn crawl(ids: std::ops::Range<u64>) -> Vec<u8> {
    let top = Top::new(Seed::new([7; 16]), 1, 64, Duration::from_secs(60));
    for id in ids {
        let path = format!("/orders/{id}");
        top.record(
            0,
            &Observation {
                address: AddressKey::Local,
                principal: Some(("client", "crawler")),
                user_agent: Some("crawl/1"),
                method: "GET",
                route: Some("/orders/{id}"),
                path: Some(&path),
                refused: id % 10 == 0,
                outcome: if id % 10 == 0 { Outcome::Limited } else { Outcome::Other },
                now: Nanos::new(5 * SECOND),
            },
        );
    }
    serde_json::to_vec(&top.report(Nanos::new(20 * SECOND), 20, None)).unwrap()
}

async fn metric(center: &Running, name: &str) -> u64 {
    let page = center.ask("GET", "/metrics", None).await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let name = format!("keepgate_center_{name} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

async fn counted(center: &Running, name: &str, count: u64) {
    patiently("the count", async {
        while metric(center, name).await < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(metric(center, name).await, count, "{name}");
}

async fn top(center: &Running) -> Value {
    center.ask("GET", "/v1/services/orders/top", None).await.good()
}

#[tokio::test]
async fn reports_of_gates_are_merged_and_forgotten_with_their_streams() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let plan = json!({ "rule": [{ "name": "bulk", "key": "api_key", "rate": "1000/s" }] });
    center.ask("PUT", "/v1/services/orders/plans/bulk", Some(plan.clone())).await.problem(422);
    let settings = json!({ "identify": { "api_key": {} } });
    center.ask("PUT", "/v1/services/orders", Some(settings)).await.good();
    center.ask("PUT", "/v1/services/orders/plans/bulk", Some(plan)).await.good();
    center.ask("GET", "/v1/services/none/top", None).await.problem(404);
    // Nobody was heard: that is said, and nothing about traffic.
    let silent = top(&center).await;
    let none = json!({ "heard": 0, "following": 0, "oldest_ms": null, "centers": 1 });
    assert_eq!(silent["gates"], none);
    assert!(silent.get("requests").is_none(), "{silent}");

    let gate = center.token("gate", "orders").await;
    let one = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    let two = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    one.report("orders", crawl(0..500)).await;
    one.report("orders", crawl(0..1_000)).await;
    two.report("orders", crawl(1_000..3_000)).await;
    counted(&center, "activity_reports_total", 3).await;
    let told = top(&center).await;
    assert_eq!((&told["gates"]["heard"], &told["gates"]["following"]), (&json!(2), &json!(2)));
    assert!(told["gates"]["oldest_ms"].as_u64().unwrap() < 60_000, "{told}");
    // The last of each counts.
    assert_eq!((&told["requests"], &told["refused"]), (&json!(3_000), &json!(300)));
    let who = &told["principals"][0];
    assert_eq!(who["name"], "client::\"crawler\"");
    assert_eq!((&who["requests"], &who["at_least"]), (&json!(3_000), &json!(3_000)));
    assert_eq!((&who["share"], &who["refused"]), (&json!(1.0), &json!(300)));
    let age = who["first_seen_age_ms"].as_u64().unwrap();
    assert!((15_000..75_000).contains(&age), "first seen 15 s before the report: {who}");
    let now = told["now_unix_ms"].as_u64().unwrap();
    assert_eq!(who["first_seen_unix_ms"], json!(now - age));
    let crawl = &told["crawls"][0];
    assert_eq!((&crawl["requests"], &crawl["plan"]), (&json!(3_000), &json!("bulk")));

    drop(two);
    patiently("the stream's end", async {
        while top(&center).await["gates"]["heard"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(top(&center).await["requests"], 1_000);
    // No other service is told of.
    center.service("stock", &[]).await;
    let stock = center.ask("GET", "/v1/services/stock/top", None).await.good();
    assert_eq!(stock["gates"]["heard"], 0);
    center.stop().await;
}

/// A gate of several services tells of each, and none of its reports takes another's place.
#[tokio::test]
async fn a_gate_of_several_services_reports_about_each() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    for service in ["orders", "stock"] {
        center.service(service, &[]).await;
    }
    let gate = center.token("gate", "orders,stock").await;
    let mirror = Mirror::follow(&center, &gate, &["orders", "stock"]).await.unwrap();
    mirror.report("orders", crawl(0..500)).await;
    mirror.report("stock", crawl(0..700)).await;
    counted(&center, "activity_reports_total", 2).await;
    let stock = center.ask("GET", "/v1/services/stock/top", None).await.good();
    assert_eq!((&top(&center).await["requests"], &stock["requests"]), (&json!(500), &json!(700)));
    mirror.report("orders", crawl(0..900)).await;
    counted(&center, "activity_reports_total", 3).await;
    let stock = center.ask("GET", "/v1/services/stock/top", None).await.good();
    assert_eq!((&top(&center).await["requests"], &stock["requests"]), (&json!(900), &json!(700)));
    center.stop().await;
}

#[tokio::test]
async fn what_is_no_report_is_dropped_and_the_stream_goes_on() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    center.service("stock", &[]).await;
    let gate = center.token("gate", "orders").await;
    let mut mirror = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    mirror.until(center.revision().await).await;
    let good = crawl(0..500);
    let control = String::from_utf8(good.clone()).unwrap().replace("crawl/1", "crawl\\u001b[2J");
    let padded = [good.clone(), vec![b' '; 64 << 10]].concat();
    for (service, report) in [
        ("stock", good.clone()),
        ("", good.clone()),
        ("orders", Vec::new()),
        ("orders", b"null".to_vec()),
        ("orders", vec![0xff; 1_000]),
        ("orders", padded),
        ("orders", vec![b'['; 60 << 10]),
        ("orders", control.into_bytes()),
    ] {
        mirror.report(service, report).await;
    }
    mirror.say_nothing().await;
    counted(&center, "activity_reports_dropped_total", 8).await;
    assert_eq!(top(&center).await["gates"]["heard"], 0);
    // The same stream still carries changes, acknowledgements and reports.
    mirror.report("orders", good).await;
    counted(&center, "activity_reports_total", 1).await;
    assert_eq!(top(&center).await["requests"], 500);
    let path = "/v1/services/orders/policies/p";
    let text = json!({ "text": "permit (principal, action, resource);" });
    center.ask("PUT", path, Some(text)).await.good();
    mirror.until(center.revision().await).await;
    assert_eq!(mirror.snapshots, 1);
    center.stop().await;
}
