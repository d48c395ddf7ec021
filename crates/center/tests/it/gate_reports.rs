//! What gates say of themselves and their hosts.

use keepgate_policy::proto::{GateReport, PortsLeft};
use serde_json::{Value, json};

use crate::console::{Visitor, text};
use crate::fixture::{Dir, Mirror, Running, STAFF, patiently};

pub(crate) fn report() -> GateReport {
    GateReport {
        caller_connections: Some(412),
        upstream_connections: Some(32),
        requests: Some(6_000),
        reused: Some(5_940),
        tightest: Some(PortsLeft {
            source: "192.0.2.1".to_owned(),
            destination: "192.0.2.80:443".to_owned(),
            usable: 28_232,
            free: 1_200,
        }),
        verdict: Some("at_risk".to_owned()),
        headline: Some("ports toward <192.0.2.80:443> run low".to_owned()),
    }
}

/// The reports of all gates, once each that should have one has.
async fn told(center: &Running, expected: usize) -> Vec<Value> {
    patiently("the reports", async {
        loop {
            let status = center.status().await;
            let gates = status["gates"].as_array().unwrap();
            let told = gates.iter().map(|gate| gate["report"].clone()).collect::<Vec<_>>();
            if told.iter().filter(|report| !report.is_null()).count() >= expected {
                return told;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn what_a_gate_says_of_itself_is_shown_as_its_own() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let token = center.token("gate", "orders").await;
    let one = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    let silent = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    let liar = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    one.gate_report(report()).await;
    // What cannot be is dropped, and what it said before stays.
    liar.gate_report(GateReport { caller_connections: Some(1), ..GateReport::default() }).await;
    told(&center, 2).await;
    let many = PortsLeft { free: 28_233, ..report().tightest.unwrap() };
    liar.gate_report(GateReport { tightest: Some(many), ..report() }).await;
    liar.gate_report(GateReport { headline: Some("x".repeat(301)), ..report() }).await;
    // A report at last that is taken, so that those before it have been looked at.
    one.gate_report(GateReport { caller_connections: Some(413), ..report() }).await;
    liar.gate_report(GateReport { caller_connections: Some(2), ..GateReport::default() }).await;
    let all = patiently("the last reports", async {
        loop {
            let all = told(&center, 2).await;
            if all[0]["caller_connections"] == 413 && all[2]["caller_connections"] == 2 {
                return all;
            }
        }
    })
    .await;
    let mut first = all[0].clone();
    assert!(first.as_object_mut().unwrap().remove("told_ms_ago").unwrap().as_u64().is_some());
    assert_eq!(
        first,
        json!({
            "caller_connections": 413, "upstream_connections": 32, "requests": 6000, "reused": 5940,
            "tightest": { "source": "192.0.2.1", "destination": "192.0.2.80:443", "usable": 28232,
                "free": 1200 },
            "verdict": "at_risk", "headline": "ports toward <192.0.2.80:443> run low",
        })
    );
    assert!(all[1].is_null(), "{all:?}");
    assert_eq!((&all[2]["requests"], &all[2]["verdict"]), (&Value::Null, &Value::Null));

    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    let page = text(&visitor.get("/overview?service=orders").await);
    for part in
        ["413", "99\u{202f}%", "192.0.2.80:443", "ports toward &lt;192.0.2.80:443&gt; run low"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    // Four figures of the silent one, three of the other, which has told one.
    assert!(page.matches("not known").count() >= 7, "{page}");
    drop((one, silent, liar));
    center.stop().await;
}
