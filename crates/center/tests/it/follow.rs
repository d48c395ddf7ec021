//! The follow protocol against the real server: snapshot plus deltas equals a fresh snapshot.

use std::time::Duration;

use keepgate_policy::{Digest, Kind, Revision};
use serde_json::json;

use crate::fixture::{Dir, Mirror, Running, patiently};

const ALLOW: &str = "permit (principal, action, resource);";

#[tokio::test]
async fn a_snapshot_then_deltas_and_only_what_is_followed() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("all", ALLOW)]).await;
    center.service("stock", &[("all", ALLOW)]).await;
    let gate = center.token("gate", "orders").await;
    let mut mirror = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    mirror.until(center.revision().await).await;
    assert_eq!(mirror.snapshots, 1);
    assert_eq!(mirror.items.len(), 2);
    // A change of the directory and of the service come, one of another service comes empty.
    let assign = json!({ "member": "user::\"a\"", "role": "role::\"r\"" });
    center.ask("POST", "/v1/roles/assign", Some(assign)).await.good();
    let path = "/v1/services/stock/policies/p2";
    center.ask("PUT", path, Some(json!({ "text": ALLOW }))).await.good();
    center.ask("DELETE", "/v1/services/orders/policies/all", None).await.good();
    mirror.until(center.revision().await).await;
    let seen: Vec<usize> = mirror.deltas.iter().map(|delta| delta.changes.len()).collect();
    assert_eq!(seen, [1, 0, 1]);
    assert_eq!(mirror.snapshots, 1);
    let kinds: Vec<Kind> = mirror.items.keys().map(|key| key.kind).collect();
    assert_eq!(kinds, [Kind::Member, Kind::Service]);
    center.stop().await;
}

#[tokio::test]
async fn many_changes_later_every_mirror_equals_a_fresh_one() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    center.service("stock", &[]).await;
    let gate = center.token("gate", "orders").await;
    let mut early = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    let mut all = Mirror::follow(&center, &center.admin, &[]).await.unwrap();
    for n in 0..100 {
        let service = if n % 3 == 0 { "stock" } else { "orders" };
        let path = format!("/v1/services/{service}/policies/p{}", n % 17);
        if n % 5 == 4 {
            center.ask("DELETE", &path, None).await;
        } else {
            let text = format!("permit (principal, action, resource == r::\"{n}\");");
            center.ask("PUT", &path, Some(json!({ "text": text }))).await.good();
        }
    }
    let head = center.revision().await;
    early.until(head).await;
    all.until(head).await;
    // Digests came on the way and were held against the model in `Mirror::step`.
    assert!(early.deltas.iter().filter(|delta| delta.digest.is_some()).count() >= 2);
    let mut fresh = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    fresh.until(head).await;
    assert_eq!(fresh.items, early.items);
    let digest = center.ask("GET", "/v1/revision", None).await.good()["digest"].clone();
    assert_eq!(json!(all.digest().to_string()), digest);
    center.stop().await;
}

#[tokio::test]
async fn a_change_does_not_wait_for_a_heartbeat() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let mut mirror = Mirror::follow(&center, &center.admin, &["orders"]).await.unwrap();
    mirror.until(center.revision().await).await;
    // Were changes sent when a heartbeat is due, each of these would have to see one.
    for n in 0..40 {
        let path = format!("/v1/services/orders/policies/p{n}");
        let put = center.ask("PUT", &path, Some(json!({ "text": ALLOW }))).await.good();
        mirror.until(put["revision"].as_u64().unwrap()).await;
    }
    assert_eq!(mirror.deltas.len(), 40);
    assert!(mirror.heads.len() < 20, "{} heartbeats for 40 changes", mirror.heads.len());
    center.stop().await;
}

#[tokio::test]
async fn a_follower_that_comes_back_gets_what_it_missed() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("a", ALLOW)]).await;
    let gate = center.token("gate", "orders").await;
    let mut first = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    first.until(center.revision().await).await;
    let (held, digest, items) = (first.revision, first.digest(), first.items.clone());
    drop(first);
    for n in 0..3 {
        let path = format!("/v1/services/orders/policies/n{n}");
        center.ask("PUT", &path, Some(json!({ "text": ALLOW }))).await.good();
    }
    let head = center.revision().await;
    let back = |revision, digest| {
        Mirror::hello(&center, &gate, &["orders"], revision, Some(digest), items.clone())
    };
    let mut again = back(held, digest).await.unwrap();
    again.until(head).await;
    assert_eq!((again.snapshots, again.deltas.len()), (0, 3 - 2));
    assert_eq!(again.deltas[0].digest, Some(again.digest()));
    // At the head already: nothing but heartbeats.
    let current = (again.revision, again.digest(), again.items.clone());
    let mut idle =
        Mirror::hello(&center, &gate, &["orders"], current.0, Some(current.1), current.2)
            .await
            .unwrap();
    while idle.heads.is_empty() {
        idle.step().await.unwrap();
    }
    assert_eq!((idle.snapshots, idle.deltas.len()), (0, 0));
    // A wrong digest at the head, or a revision that never was: a snapshot.
    for (revision, digest) in [(current.0, Digest([1; 4])), (Revision(10_000), current.1)] {
        let mut lost = back(Revision(0), digest).await.unwrap();
        lost.until(head).await;
        let mut wrong =
            Mirror::hello(&center, &gate, &["orders"], revision, Some(digest), Default::default())
                .await
                .unwrap();
        wrong.revision = Revision(0);
        wrong.until(head).await;
        assert_eq!(wrong.snapshots, 1);
        assert_eq!(wrong.items, again.items);
    }
    center.stop().await;
}

#[tokio::test]
async fn history_that_is_gone_means_a_snapshot() {
    let dir = Dir::new();
    let mut config = crate::fixture::config(&dir);
    config.retention.revisions = 4;
    let center = Running::with(config.clone()).await;
    center.service("orders", &[("a", ALLOW)]).await;
    let gate = center.token("gate", "orders").await;
    let mut first = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    first.until(center.revision().await).await;
    for n in 0..10 {
        let path = format!("/v1/services/orders/policies/n{n}");
        center.ask("PUT", &path, Some(json!({ "text": ALLOW }))).await.good();
    }
    let head = center.revision().await;
    center.stop().await;
    // After a restart the window in memory is empty: the store alone answers.
    let center = Running::with(config).await;
    let mut again = Mirror::hello(
        &center,
        &gate,
        &["orders"],
        first.revision,
        Some(first.digest()),
        first.items.clone(),
    )
    .await
    .unwrap();
    again.until(head).await;
    assert_eq!(again.snapshots, 1);
    let recent = Revision(head - 2);
    let mut short = Mirror::hello(&center, &gate, &["orders"], recent, Some(Digest::default()), {
        let mut items = again.items.clone();
        items.retain(|key, _| key.id != "n8" && key.id != "n9");
        items
    })
    .await
    .unwrap();
    short.until(head).await;
    assert_eq!((short.snapshots, short.deltas.len()), (0, 1));
    assert_eq!(short.items, again.items);
    center.stop().await;
}

#[tokio::test]
async fn a_change_too_large_for_a_delta_goes_as_a_snapshot() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let gate = center.token("gate", "orders").await;
    let mut mirror = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    mirror.until(center.revision().await).await;
    let big = |n: usize| {
        let text = format!("// {}\n{ALLOW}", format!("{n}").repeat(700_000));
        json!({ "text": text })
    };
    // One large item still goes as a delta.
    center.ask("PUT", "/v1/services/orders/policies/a", Some(big(1))).await.good();
    mirror.until(center.revision().await).await;
    assert_eq!(mirror.snapshots, 1);
    center.ask("PUT", "/v1/services/orders/policies/b", Some(big(2))).await.good();
    center.ask("PUT", "/v1/services/orders/policies/c", Some(big(3))).await.good();
    center.ask("PUT", "/v1/services/orders/policies/d", Some(big(4))).await.good();
    mirror.until(center.revision().await).await;
    let before = mirror.snapshots;
    // Deleting the service is small; catching up over all of it is not.
    let (held, digest, items) = (Revision(3), Digest::default(), Default::default());
    let mut late =
        Mirror::hello(&center, &gate, &["orders"], held, Some(digest), items).await.unwrap();
    late.until(center.revision().await).await;
    assert_eq!(late.snapshots, 1);
    assert_eq!(late.items, mirror.items);
    assert_eq!(mirror.snapshots, before);
    center.stop().await;
}

#[tokio::test]
async fn heartbeats_and_acks() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let gate = center.token("gate", "orders").await;
    let mut mirror = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    let head = center.revision().await;
    while mirror.heads.len() < 2 {
        mirror.step().await.unwrap();
    }
    assert_eq!(mirror.heads, [head, head]);
    mirror.applied().await;
    let follower = patiently("the ack", async {
        loop {
            let list = center.ask("GET", "/v1/followers", None).await.good();
            let follower = list["followers"][0].clone();
            if follower["applied"] == json!(head) {
                return follower;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(follower["name"], "mirror");
    assert_eq!(follower["services"], json!(["orders"]));
    assert!(follower["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(follower["applied_unix_ms"].is_u64() && follower["connected_unix_ms"].is_u64());
    drop(mirror);
    patiently("the follower to leave", async {
        while center.ask("GET", "/v1/followers", None).await.good()["followers"] != json!([]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    center.stop().await;
}

#[tokio::test]
async fn who_may_follow_what() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let gate = center.token("gate", "orders").await;
    let viewer = center.token("viewer", "").await;
    for (token, services, expected) in [
        (gate.as_str(), &["orders"][..], None),
        (&gate, &["orders", "orders"][..], None),
        (&gate, &["stock"][..], Some(tonic::Code::PermissionDenied)),
        (&gate, &["orders", "stock"][..], Some(tonic::Code::PermissionDenied)),
        // All that the token may see.
        (&gate, &[][..], None),
        (&viewer, &["orders"][..], Some(tonic::Code::PermissionDenied)),
        (&center.admin, &[][..], None),
        ("kgt_x_y", &["orders"][..], Some(tonic::Code::Unauthenticated)),
    ] {
        let code = match Mirror::follow(&center, token, services).await {
            Ok(mut mirror) => mirror.step().await.err().map(|status| status.code()),
            Err(status) => Some(status.code()),
        };
        assert_eq!(code, expected, "{services:?}");
    }
    center.stop().await;
}

/// A gate's token may name several services, and follows no other.
#[tokio::test]
async fn a_token_of_several_services_follows_those_alone() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    for service in ["orders", "shop", "stock"] {
        center.service(service, &[]).await;
    }
    let gate = center.token("gate", "orders,shop").await;
    for (services, expected) in [
        (&["orders"][..], None),
        (&["shop"][..], None),
        (&["shop", "orders"][..], None),
        (&[][..], None),
        (&["stock"][..], Some(tonic::Code::PermissionDenied)),
        (&["orders", "shop", "stock"][..], Some(tonic::Code::PermissionDenied)),
        // No part of a name, and no list that is taken for a name.
        (&["order"][..], Some(tonic::Code::PermissionDenied)),
        (&["orders,shop"][..], Some(tonic::Code::PermissionDenied)),
    ] {
        let code = match Mirror::follow(&center, &gate, services).await {
            Ok(mut mirror) => mirror.step().await.err().map(|status| status.code()),
            Err(status) => {
                let said = status.message();
                assert!(said.contains("services `orders`, `shop` and no others"), "{said}");
                Some(status.code())
            }
        };
        assert_eq!(code, expected, "{services:?}");
    }
    // Without names it is told of its own services, and of no other.
    let mut mirror = Mirror::follow(&center, &gate, &[]).await.unwrap();
    mirror.until(center.revision().await).await;
    let follower = &center.ask("GET", "/v1/followers", None).await.good()["followers"][0];
    assert_eq!(follower["services"], json!(["orders", "shop"]));
    center.stop().await;
}

#[tokio::test]
async fn the_services_of_a_token_are_checked() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let name = |n: usize| format!("s{n}");
    let many = |n: usize| (0..n).map(name).collect::<Vec<_>>().join(",");
    for (role, service, problem) in [
        ("gate", "a,b".to_owned(), None),
        ("gate", many(256), None),
        ("gate", many(257), Some("at most 256 services, got 257")),
        ("gate", "a,a".to_owned(), Some("`a` is there twice")),
        ("gate", "a,".to_owned(), Some("got `` as one of them")),
        ("gate", "a, b".to_owned(), Some("got ` b` as one of them")),
        ("pep", "a,b".to_owned(), Some("expected the name of a service, got `a,b`")),
    ] {
        let body = json!({ "role": role, "service": service });
        let answer = center.ask("POST", "/v1/tokens", Some(body)).await;
        match problem {
            None => drop(answer.good()),
            Some(part) => {
                let said = answer.problem(422).to_string();
                assert!(said.contains(part), "{role} {service}: {said}");
            }
        }
    }
    center.stop().await;
}

#[tokio::test]
async fn a_revoked_token_ends_its_stream() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let gate = center.token("gate", "orders").await;
    let mut mirror = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    mirror.step().await.unwrap();
    let id = gate.split('_').nth(1).unwrap();
    center.ask("DELETE", &format!("/v1/tokens/{id}"), None).await.good();
    let end = patiently("the end", async {
        loop {
            if let Err(status) = mirror.step().await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(end.code(), tonic::Code::Unauthenticated);
    center.stop().await;
}

#[tokio::test]
async fn a_clean_stop_ends_streams_by_name() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut mirror = Mirror::follow(&center, &center.admin, &[]).await.unwrap();
    mirror.step().await.unwrap();
    center.stop().await;
    let end = patiently("the end", async {
        loop {
            if let Err(status) = mirror.step().await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(end.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn a_follower_that_does_not_read_catches_up_from_the_store() {
    let dir = Dir::in_memory();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let mut slow = Mirror::follow(&center, &center.admin, &["orders"]).await.unwrap();
    slow.until(center.revision().await).await;
    // More than the window of recent revisions and every buffer on the way together.
    let note = "x".repeat(4_000);
    for n in 0..1_300 {
        let text = format!("permit (principal, action, resource); // {n} {note}");
        let path = "/v1/services/orders/policies/p";
        center.ask("PUT", path, Some(json!({ "text": text }))).await.good();
    }
    let head = center.revision().await;
    slow.until(head).await;
    let fresh = {
        let mut fresh = Mirror::follow(&center, &center.admin, &["orders"]).await.unwrap();
        fresh.until(head).await;
        fresh
    };
    assert_eq!(slow.items, fresh.items);
    assert!(slow.deltas.len() < 1_300, "nothing was merged");
    let page = center.ask("GET", "/metrics", None).await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(page.contains("\nkeepgate_center_followers_resynced_total 1\n"), "{page}");
    center.stop().await;
}

#[tokio::test]
async fn a_fleet_gets_one_encoded_snapshot() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("a", ALLOW)]).await;
    let gate = center.token("gate", "orders").await;
    let head = center.revision().await;
    let mut fleet = Vec::new();
    for _ in 0..40 {
        fleet.push(Mirror::follow(&center, &gate, &["orders"]).await.unwrap());
    }
    center.ask("DELETE", "/v1/services/orders/policies/a", None).await.good();
    // Those that come later may get the older snapshot, and then what has changed since.
    fleet.push(Mirror::follow(&center, &gate, &["orders"]).await.unwrap());
    for mirror in &mut fleet {
        mirror.until(head + 1).await;
        assert_eq!((mirror.snapshots, mirror.items.len()), (1, 1));
    }
    let list = center.ask("GET", "/v1/followers", None).await.good();
    assert_eq!(list["followers"].as_array().unwrap().len(), 41);
    center.stop().await;
}
