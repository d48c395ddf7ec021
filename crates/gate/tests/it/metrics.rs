//! The metrics and their table in `docs/metrics.md` are the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use keepgate_client::replica::{FollowConfig, Replica};
use keepgate_gate::{AcmeConfig, DecisionSource};
use keepgate_observe::Page;

use super::support::{Draft, Echo, TestGate, get};

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_in_the_table() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    assert_eq!(get(gate.addr, "/orders", &[("x-user", "alice")]).await.status, 200);
    let mut text = get(gate.admin, "/metrics", &[]).await.body;
    // A gate that obtains certificates adds its own; its authority need not be there.
    let dir = std::env::temp_dir().join(format!("keepgate-metrics-{}", std::process::id()));
    let obtaining = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.acme = Some(AcmeConfig {
            directory: "https://127.0.0.1:9/".to_owned(),
            hosts: vec!["a.example".to_owned()],
            contact: None,
            dir: dir.clone(),
            accepts_terms: true,
            ca: None,
        });
    })
    .await;
    text.push_str(&get(obtaining.admin, "/metrics", &[]).await.body);
    // And so does one with an access log.
    let recording = TestGate::with(&Draft::orders(), &echo.url, |config| {
        let to = keepgate_record::Destination::Unix(dir.join("nobody.sock"));
        config.records = Some(keepgate_gate::RecordConfig::new(to, "gate-1"));
    })
    .await;
    text.push_str(&get(recording.admin, "/metrics", &[]).await.body);
    std::fs::remove_dir_all(&dir).unwrap();
    // The gate under test has a world in hand; a replica adds its own.
    let config = FollowConfig::new("http://127.0.0.1:9", "none");
    let replica = Arc::new(Replica::follow(config).unwrap());
    let mut page = Page::new("keepgate_gate_");
    DecisionSource::metrics(&*replica, &mut page);
    text.push_str(&page.finish());
    let names: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let docs = include_str!("../../../../docs/metrics.md");
    let documented: BTreeSet<&str> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `keepgate_gate_")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let names: BTreeSet<&str> =
        names.into_iter().map(|name| name.strip_prefix("keepgate_gate_").unwrap()).collect();
    assert_eq!(names, documented);
}
