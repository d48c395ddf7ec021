//! Writes that are sent twice, under the same `Idempotency-Key`, and what became of them.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Answer, Dir, Running, request};

/// A request with an `Idempotency-Key`.
async fn keyed(
    center: &Running,
    (token, key): (&str, &str),
    (method, path): (&str, &str),
    body: Option<Value>,
) -> Answer {
    let mut request = request(Method::from_bytes(method.as_bytes()).unwrap(), path)
        .header("authorization", format!("Bearer {token}"))
        .header("idempotency-key", key);
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    center.send(request.body(Bytes::from(body)).unwrap()).await
}

/// As `id_of` in `api::writes` makes it, of an assignment.
fn write_id(token: &str, key: &str) -> String {
    use sha2::Digest as _;
    let id = token.split('_').nth(1).unwrap();
    let hash = sha2::Sha256::digest(format!("{id}\nPOST\n/v1/roles/assign\n\n\n{key}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_request_of_the_same_key_lands_once() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let admin = center.admin.clone();
    let other = center.token("admin", "").await;
    center.service("orders", &[]).await;
    let assign = ("POST", "/v1/roles/assign");
    let staff = json!({ "member": "user::\"alice\"", "role": "role::\"staff\"" });
    let key = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    let first = keyed(&center, (&admin, key), assign, Some(staff.clone())).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    let first = first.good();
    assert_eq!(first["changes"][0]["op"], "create");
    // It was taken back meanwhile: that is not undone.
    center.member("alice", "revoke").await.good();
    let head = center.revision().await;
    let again = keyed(&center, (&admin, key), assign, Some(staff.clone())).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    let again = again.good();
    assert_eq!((&again["revision"], &again["changes"]), (&first["revision"], &json!([])));
    assert_eq!(center.revision().await, head);
    let members = center.ask("GET", "/v1/members", None).await.good();
    assert_eq!(members["members"], json!([]));
    // Another request's key is another one, and so is another token's.
    let name = json!({ "member": "user::\"alice\"", "role": "role::\"staff\"" });
    keyed(&center, (&admin, key), ("POST", "/v1/roles/revoke"), Some(name)).await.problem(404);
    let theirs = keyed(&center, (&other, key), assign, Some(staff.clone())).await;
    assert_eq!(theirs.header("idempotency-replayed"), "");
    assert_eq!(theirs.good()["revision"], head + 1);

    let path = format!("/v1/writes/{}", write_id(&admin, key));
    let written = center.ask("GET", &path, None).await.good();
    assert_eq!((&written["landed"], &written["revision"]), (&json!(true), &first["revision"]));
    assert!(written["unix_ms"].as_u64().unwrap() > 0);
    let path = format!("/v1/writes/{}", write_id(&admin, "another"));
    let written = center.ask("GET", &path, None).await.good();
    assert_eq!(written["landed"], false, "{written}");
    for wrong in ["1", &"g".repeat(32)] {
        let detail = center.ask("GET", &format!("/v1/writes/{wrong}"), None).await.problem(422);
        assert!(detail.contains("32 hexadecimal digits"), "{detail}");
    }
    center.stop().await;
}

#[tokio::test]
async fn what_refused_requests_and_dry_runs_name_is_free() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let admin = center.admin.clone();
    let settings =
        |body: Value| keyed(&center, (&admin, "k"), ("PUT", "/v1/services/orders"), Some(body));
    settings(json!({ "max_age": "1ms" })).await.problem(422);
    let put = settings(json!({})).await;
    assert_eq!(put.header("idempotency-replayed"), "");
    put.good();
    let files = json!({ "files": {
        "service.toml": "name = \"orders\"\n",
        "policies/p.cedar": "permit (principal, action, resource);",
    } });
    let apply = |query: &str| {
        let path = format!("/v1/services/orders/apply{query}");
        let (center, admin, files) = (&center, &admin, files.clone());
        async move { keyed(center, (admin, "a"), ("POST", &path), Some(files)).await }
    };
    let dry = apply("?dry_run=true").await.good();
    assert_eq!((&dry["dry_run"], dry["changes"].as_array().unwrap().len()), (&json!(true), 1));
    let first = apply("").await.good();
    assert_eq!((first["changes"].as_array().unwrap().len(), first.get("replayed")), (1, None));
    let again = apply("").await.good();
    assert_eq!((&again["replayed"], &again["revision"]), (&json!(true), &first["revision"]));
    center.stop().await;
}

/// A secret is told once: whoever sends the request again hears that it is there.
#[tokio::test]
async fn a_secret_is_not_told_again() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let admin = center.admin.clone();
    center.service("orders", &[]).await;
    for (path, body) in [
        ("/v1/tokens", json!({ "role": "viewer" })),
        ("/v1/services/orders/keys", json!({ "principal": "client::\"c\"" })),
    ] {
        let make = || keyed(&center, (&admin, path), ("POST", path), Some(body.clone()));
        let made = make().await.good();
        let head = center.revision().await;
        let detail = make().await.problem(409);
        assert!(detail.contains(&format!("revision {}", made["revision"])), "{detail}");
        assert_eq!(center.revision().await, head);
    }
    center.stop().await;
}

#[tokio::test]
async fn a_key_has_bounds() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let admin = center.admin.clone();
    let put = |key: String| {
        let (center, admin) = (&center, &admin);
        async move {
            keyed(center, (admin, &key), ("PUT", "/v1/services/orders"), Some(json!({}))).await
        }
    };
    for wrong in [String::new(), "x".repeat(65), "a b".to_owned(), "\u{e4}".to_owned()] {
        let detail = put(wrong).await.problem(400);
        assert!(detail.starts_with("`Idempotency-Key`: expected"), "{detail}");
    }
    assert_eq!(center.revision().await, 1);
    put("x".repeat(64)).await.good();
    // What only reads takes no notice of it.
    keyed(&center, (&admin, "a b"), ("GET", "/v1/revision"), None).await.good();
    center.stop().await;
}
