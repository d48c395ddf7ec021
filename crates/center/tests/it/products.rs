//! Requests whose cost is a product of two of their sizes.

use serde_json::{Value, json};

use crate::fixture::{Dir, Running, connect, patiently};

fn batch(evaluations: usize, numbers: usize) -> Value {
    json!({
        "subject": { "type": "user", "id": "alice" },
        "action": { "name": "GET" },
        "context": { "numbers": (0..numbers).collect::<Vec<_>>() },
        "evaluations": (0..evaluations)
            .map(|n| json!({ "resource": { "type": "order", "id": n.to_string() } }))
            .collect::<Vec<_>>(),
    })
}

async fn pdp(dir: &Dir) -> (Running, String) {
    let center = Running::start(dir).await;
    let text = "permit (principal, action, resource) when { context.numbers.contains(7) };";
    center.service("s", &[("p", text)]).await;
    let pep = center.token("pep", "").await;
    (center, pep)
}

/// A batch is bounded by the values that its items are decided with, those they share counted
/// for each; its bytes may be few.
#[tokio::test(flavor = "multi_thread")]
async fn evaluations_times_values_are_bounded() {
    let dir = Dir::new();
    let (center, pep) = pdp(&dir).await;
    let path = "/access/v1/evaluations";
    let many = batch(5_000, 100_000);
    assert!(many.to_string().len() < 1_000_000);
    let refused = center.ask_as(Some(&pep), "POST", path, Some(many)).await;
    assert!(refused.problem(400).contains("at most 4000000 are answered"));
    // An item has one value of its own, the list and its numbers: 39 * 100,002 fits, 40 do not.
    let beyond = center.ask_as(Some(&pep), "POST", path, Some(batch(40, 100_000))).await;
    assert!(beyond.problem(400).contains("4000080 values"));
    let at = center.ask_as(Some(&pep), "POST", path, Some(batch(39, 100_000))).await.good();
    assert_eq!(at["evaluations"].as_array().unwrap().len(), 39);
    assert!(at["evaluations"].as_array().unwrap().iter().all(|one| one["decision"] == true));
    let small = center.ask_as(Some(&pep), "POST", path, Some(batch(5_000, 10))).await.good();
    assert_eq!(small["evaluations"].as_array().unwrap().len(), 5_000);
    center.stop().await;
}

/// Evaluation ends with its request: a client that leaves gives its place to the next.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_not_decided_for() {
    use tokio::io::AsyncWriteExt as _;
    let dir = Dir::new();
    let (center, pep) = pdp(&dir).await;
    let path = "/access/v1/evaluations";
    let body = batch(39, 100_000).to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {pep}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // Each of them alone takes seconds; all of them in turn would take minutes.
    for _ in 0..60 {
        let mut stream = connect(center.addr).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        drop(stream);
    }
    let one = center.ask_as(Some(&pep), "POST", path, Some(batch(2, 10))).await.good();
    assert_eq!(one["evaluations"].as_array().unwrap().len(), 2);
    center.stop().await;
}

/// A token that asks all the time holds up neither another token nor the admin API.
#[tokio::test(flavor = "multi_thread")]
async fn one_tokens_work_does_not_starve_anothers() {
    let dir = Dir::new();
    let (center, greedy) = pdp(&dir).await;
    let modest = center.token("pep", "").await;
    let path = "/access/v1/evaluations";
    let center = std::sync::Arc::new(center);
    let mut asking = Vec::new();
    for _ in 0..6 {
        let (center, greedy) = (std::sync::Arc::clone(&center), greedy.clone());
        asking.push(tokio::spawn(async move {
            center.ask_as(Some(&greedy), "POST", path, Some(batch(39, 100_000))).await.good();
        }));
    }
    for _ in 0..3 {
        center.ask_as(Some(&modest), "POST", path, Some(batch(2, 10))).await.good();
        center.ask("GET", "/v1/services", None).await.good();
    }
    // The greedy ones were not done meanwhile, or they would not have been in the way.
    assert!(asking.iter().any(|asking| !asking.is_finished()));
    for asking in asking {
        patiently("the greedy ones", asking).await.unwrap();
    }
    std::sync::Arc::into_inner(center).unwrap().stop().await;
}

/// Why is told of ten policies, however many there are and however long they are.
#[tokio::test(flavor = "multi_thread")]
async fn explanations_are_bounded() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let text = |n: usize, effect: &str| {
        let filler = "x".repeat(20_000);
        format!("// {filler}\n@id(\"{effect}{n}\")\n{effect} (principal, action, resource);\n")
    };
    for effect in ["permit", "forbid"] {
        let policies: String = (0..300).map(|n| text(n, effect)).collect();
        let files = json!({ "files": { "service.toml": "name = \"s\"\n", "p.cedar": policies } });
        center.ask("POST", "/v1/services/s/apply", Some(files)).await.good();
        let question = json!({ "service": "s", "principal": "user::\"a\"", "action": "GET",
            "resource": "order::\"1\"" });
        let answer = center.ask("POST", "/v1/check", Some(question)).await;
        assert!(answer.body.len() < 4_000_000, "{} bytes", answer.body.len());
        assert_eq!(answer.good()["determining"].as_array().unwrap().len(), 100);
    }
    center.stop().await;
}

/// A page of a list or of the log ends early where its items are large.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_bounded_in_bytes() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let list: Vec<Value> = (0..30)
        .map(|n| {
            json!({ "uid": { "type": "user", "id": format!("u{n:02}") },
            "attrs": { "text": "x".repeat(500_000) } })
        })
        .collect();
    let files = json!({ "files": { "service.toml": "name = \"s\"\n",
        "entities.json": Value::Array(list).to_string() } });
    center.ask("POST", "/v1/services/s/apply", Some(files)).await.good();
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/services/s/entities?after={after}");
        let page = center.ask("GET", &path, None).await;
        assert!(page.body.len() < 6_000_000, "{} bytes", page.body.len());
        let page = page.good();
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            None => break,
            Some(next) => after = next.replace('"', "%22").replace(':', "%3A"),
        }
    }
    assert_eq!(seen.len(), 30, "{seen:?}");
    let (mut rows, mut after) = (0, 0);
    loop {
        let page = center.ask("GET", &format!("/v1/audit?after={after}"), None).await;
        assert!(page.body.len() < 9_000_000, "{} bytes", page.body.len());
        let page = page.good();
        rows += page["entries"].as_array().unwrap().len();
        match page["next"].as_u64() {
            None => break,
            Some(next) => after = next,
        }
    }
    // The first token, the service and its entities.
    assert_eq!(rows, 32);
    center.stop().await;
}

/// Routes are held against what rules say about routes: the product is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn routes_times_rules_are_bounded() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let routes = |count: usize| -> String {
        (0..count).map(|n| format!("[[route]]\nmethod = \"GET\"\npath = \"/r{n}\"\n")).collect()
    };
    let limits = |costs: usize| -> String {
        let costs: Vec<String> =
            (0..costs).map(|n| format!("{{ route = \"/r{n}\", cost = 2 }}")).collect();
        format!(
            "[[rule]]\nname = \"all\"\nkey = \"address\"\nrate = \"100/s\"\nburst = 100\n\
             costs = [{}]\n",
            costs.join(", ")
        )
    };
    let apply = |r: usize, c: usize| {
        let files = json!({ "files": { "service.toml": "name = \"s\"\n",
            "routes.toml": routes(r), "limits.toml": limits(c) } });
        let center = &center;
        async move { center.ask("POST", "/v1/services/s/apply", Some(files)).await }
    };
    apply(2_000, 1_999).await.good();
    let refused = apply(2_001, 1_999).await.problem(422);
    assert!(refused.contains("2001 routes times 2000 rules and costs"), "{refused}");
    center.stop().await;
}
