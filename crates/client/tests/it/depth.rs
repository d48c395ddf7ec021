//! Deep policies on a worker of tokio's, with its default stack of 2 MiB: where a program that
//! embeds the replica decides.

use std::time::Duration;

use keepgate_client::replica::{FollowConfig, NoDecision, Replica};
use keepgate_policy::model::PolicyBody;
use keepgate_policy::{Change, Item, ItemBody, MAX_DEPTH, Query, Revision, Uid};

use crate::center::{FakeCenter, service};

const LONG: Duration = Duration::from_secs(60);

fn forbid(id: &str, condition: &str) -> Change {
    let text = format!("forbid (principal, action, resource) when {{ {condition} }};");
    Change::Put(Item::new("orders", id, ItemBody::Policy(PolicyBody { text, file: String::new() })))
}

fn around(open: &str, inner: &str, close: &str, n: usize) -> String {
    format!("{}{inner}{}", open.repeat(n), close.repeat(n))
}

/// Decides on a worker of the runtime; a stack that is too small ends the test's process.
async fn on_a_worker(replica: &Replica, at_least: Revision) -> Result<bool, NoDecision> {
    replica.wait_for(at_least, LONG).await.unwrap();
    let replica = replica.clone();
    let decided = tokio::spawn(async move {
        while replica.age().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (alice, read) = (Uid::new("user", "alice"), Uid::action("read"));
        let record = Uid::new("record", "r1");
        let query = Query::new(&alice, &read, &record).service("orders");
        replica.decide(&query, LONG).map(|answer| answer.decision.is_allowed())
    });
    tokio::time::timeout(LONG, decided).await.unwrap().unwrap()
}

#[test]
fn a_policy_at_the_bound_is_decided_on_a_tokio_worker() {
    let center = FakeCenter::start();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let replica = Replica::follow(FollowConfig::new(center.url(), "test-token")).unwrap();
        center.commit(service("orders").into_iter().map(Change::Put).collect());
        let n = MAX_DEPTH - 3;
        let head = center.commit(vec![
            forbid("nots", &around("!(", "false", ")", n / 2 * 2)),
            forbid("records", &format!("{} == 1", around("{a: ", "1", "}", n))),
            forbid("lists", &format!("{} == 1", around("[", "1", "]", n))),
            forbid("ifs", &around("if true then ", "false", " else true", n)),
            forbid("calls", &around("[true].contains(", "false", ")", n)),
            forbid("and-or", &around("(true && (false || ", "false", "))", n / 2)),
            forbid("sums", &format!("1{} == 1", " + 1".repeat(n))),
            forbid("clauses", &vec!["true"; 500].join(" } unless { ")),
        ]);
        assert_eq!(on_a_worker(&replica, head).await, Ok(true));
        // They are evaluated, not skipped.
        let head =
            center.commit(vec![forbid("and-or", &around("(true && (false || ", "true", "))", 48))]);
        assert_eq!(on_a_worker(&replica, head).await, Ok(false));
        // A center of before the bound, or one that means harm.
        let head = center.commit(vec![forbid("deep", &around("(", "false", ")", 10_000))]);
        let decided = on_a_worker(&replica, head).await;
        assert!(
            matches!(&decided, Err(NoDecision::Undecided { policy, .. }) if &**policy == "deep"),
            "{decided:?}"
        );
    });
}
