//! Methods, hosts and paths by a service's settings: what is decided on is what arrives.

use keepgate_policy::service::{Doubtful, EmptySegments, Paths, PathsFold, Unmatched};
use serde_json::json;

use super::support::{Draft, Echo, TestGate, ask, get, route, talk};

const ALICE: (&str, &str) = ("x-user", "alice");

/// Anybody may do everything, anonymously, on each of these routes; a policy forbids what its
/// context says.
fn open(routes: &[(&str, &str)], forbid: &str) -> Draft {
    let mut draft = Draft::orders();
    draft.routes = routes
        .iter()
        .map(|(method, path)| {
            let mut route = route(method, path);
            route.anonymous = true;
            route
        })
        .collect();
    let policy = |id: &str, text: &str| (id.to_owned(), text.to_owned());
    draft.policies = vec![policy("all", "permit (principal, action, resource);")];
    if !forbid.is_empty() {
        draft.policies.push(policy("ban", forbid));
    }
    draft
}

fn first_line(body: &str) -> &str {
    body.lines().next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_on_a_method_holds_in_every_spelling() {
    let echo = Echo::start().await;
    let ban = "forbid (principal, action == Action::\"DELETE\", resource);";
    let gate = TestGate::start(&open(&[("*", "/{*rest}"), ("PURGE", "/x")], ban), &echo.url).await;
    ask(gate.addr, "DELETE", "/x", &[], "").await.is_problem(403, "denied");
    for method in ["delete", "Delete", "dELETE", "TRACE", "MKCOL", "PROPFIND"] {
        ask(gate.addr, method, "/x", &[], "").await.is_problem(501, "method-not-implemented");
    }
    for method in ["GET", "POST", "PUT", "PATCH", "OPTIONS", "QUERY", "PURGE"] {
        let answer = ask(gate.addr, method, "/x", &[], "").await;
        assert_eq!((answer.status, first_line(&answer.body)), (200, &*format!("{method} /x")));
    }
    // A route names it, and still only in capitals.
    ask(gate.addr, "purge", "/x", &[], "").await.is_problem(501, "method-not-implemented");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_without_the_method_says_which_it_has() {
    let echo = Echo::start().await;
    let mut draft = open(&[("GET", "/orders"), ("POST", "/orders"), ("PUT", "/orders/{id}")], "");
    let gate = TestGate::start(&draft, &echo.url).await;
    let answer = ask(gate.addr, "DELETE", "/orders", &[], "").await;
    answer.is_problem(405, "method-not-allowed");
    assert_eq!(answer.headers["allow"], "GET, POST, HEAD");
    get(gate.addr, "/none", &[]).await.is_problem(404, "no-route");
    gate.stop().await;
    // Forwarded if `route::"/"` may be asked.
    draft.settings.unmatched = Unmatched::Forward;
    draft.policies[0].1 = "permit (principal, action, resource == route::\"/\");".to_owned();
    let gate = TestGate::start(&draft, &echo.url).await;
    assert_eq!(ask(gate.addr, "DELETE", "/orders", &[ALICE], "").await.status, 200);
    ask(gate.addr, "GET", "/orders", &[ALICE], "").await.is_problem(403, "denied");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overriding_headers_pass_only_by_name() {
    let echo = Echo::start().await;
    let mut draft = open(&[("*", "/{*rest}")], "");
    draft.settings = serde_json::from_value(json!({
        "name": "orders", "limits": {"default": "off"}, "keep_headers": ["X-Original-URL"],
    }))
    .unwrap();
    let gate = TestGate::start(&draft, &echo.url).await;
    let sent =
        [("X-Original-URL", "/kept"), ("X_Original_URL", "/gone"), ("X-Rewrite-URL", "/gone")];
    let answer = get(gate.addr, "/a", &sent).await;
    assert!(answer.body.contains("x-original-url: /kept\n"), "{answer:?}");
    assert!(!answer.body.contains("/gone"), "{answer:?}");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_answers_for_its_hosts_only() {
    let echo = Echo::start().await;
    let ban = "forbid (principal, action, resource) when { context.host == \"b.shop.example\" };";
    let mut draft = open(&[("*", "/{*rest}")], ban);
    draft.settings.hosts =
        ["Shop.Example", "*.shop.example", "[::1]"].map(|h| h.parse().unwrap()).to_vec();
    let gate = TestGate::start(&draft, &echo.url).await;
    let host = async |line: &str, target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {line}\r\nConnection: close\r\n\r\n");
        super::support::Answer::parse(&talk(gate.addr, request).await)
    };
    for line in ["shop.example", "SHOP.example:8443", "shop.example.", "a.shop.example", "[::1]:80"]
    {
        let answer = host(line, "/x").await;
        assert_eq!(answer.status, 200, "{line}");
        assert!(answer.body.contains(&format!("host: {line}\n")), "as it was sent: {answer:?}");
    }
    for line in ["evil.example", "xshop.example", "shop.example.evil", "127.0.0.1"] {
        host(line, "/x").await.is_problem(421, "misdirected");
    }
    for line in ["b.shop.example", "B.shop.example.:80"] {
        host(line, "/x").await.is_problem(403, "denied");
    }
    assert_eq!(host("shop.example", "http://shop.example/x").await.status, 200);
    host("shop.example", "http://evil.example/x").await.is_problem(400, "bad-request");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_paths_are_normal_or_refused() {
    let echo = Echo::start().await;
    let mut draft = open(&[("*", "/{*rest}")], "");
    for paths in [Paths::Strict, Paths::Refuse] {
        draft.settings.paths = paths;
        let gate = TestGate::start(&draft, &echo.url).await;
        for path in ["/orders/7", "/a%20b/c", "/caf%C3%A9"] {
            let answer = get(gate.addr, path, &[]).await;
            assert_eq!((answer.status, first_line(&answer.body)), (200, &*format!("GET {path}")));
        }
        for path in
            ["//orders", "/x/../orders", "/%6Frders", "/a%40b", "/a.", "/a%20", "/a%2Fb", "/a[1]"]
        {
            get(gate.addr, path, &[]).await.is_problem(400, "bad-path");
        }
        gate.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_paths_arrive_byte_for_byte_and_bans_hold() {
    let echo = Echo::start().await;
    let ban = "forbid (principal, action, resource) when { context.path == \"/a-b/%C3%A9\" };";
    let mut draft = open(&[("*", "/{*rest}"), ("GET", "/secret")], ban);
    draft.policies.push((
        "secret".to_owned(),
        "forbid (principal, action, resource == route::\"/secret\");".to_owned(),
    ));
    draft.settings.paths = Paths::Exact;
    let gate = TestGate::start(&draft, &echo.url).await;
    for path in ["/a%2db?x=%7e//..", "/caf%c3%a9", "/a%3d%20b", "/%61/{x}|", "/a.b/..."] {
        let answer = get(gate.addr, path, &[]).await;
        assert_eq!((answer.status, first_line(&answer.body)), (200, &*format!("GET {path}")));
    }
    for path in
        ["/a-b/%C3%A9", "/a%2Db/%c3%a9", "/%61-b/%C3%A9", "/secret", "/s%65cret", "/%73ecret"]
    {
        get(gate.addr, path, &[]).await.is_problem(403, "denied");
    }
    for path in
        ["/a/../b", "/a/%2e%2e/b", "/a;b", "/a%2fb", "/a//b", "//a", "/a/./b", "/a%00", "/a%5Cb"]
    {
        get(gate.addr, path, &[]).await.is_problem(400, "bad-path");
    }
    // Flask's server takes these bytes for Latin-1, and reads `/a-b/\u{c3}\u{a9}`.
    get(gate.addr, "/a-b/\u{e9}", &[]).await.is_problem(400, "bad-path");
    gate.stop().await;
    draft.settings.empty_segments = EmptySegments::Keep;
    let gate = TestGate::start(&draft, &echo.url).await;
    let url = "/get/http://a.example//b";
    assert_eq!(first_line(&get(gate.addr, url, &[]).await.body), format!("GET {url}"));
    get(gate.addr, "//a.example/b", &[]).await.is_problem(400, "bad-path");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_keeps_arrives() {
    let echo = Echo::start().await;
    let mut draft = open(&[("*", "/{*rest}")], "");
    draft.settings.empty_segments = EmptySegments::Keep;
    draft.settings.path_parameters = Doubtful::Keep;
    draft.settings.encoded_slash = Doubtful::Keep;
    let gate = TestGate::start(&draft, &echo.url).await;
    for (path, arrives) in
        [("/a//b", "/a//b"), ("/@scope%2fname", "/@scope%2Fname"), ("/a;v=1/b", "/a;v=1/b")]
    {
        let answer = get(gate.addr, path, &[]).await;
        assert_eq!((answer.status, first_line(&answer.body)), (200, &*format!("GET {arrives}")));
    }
    for path in ["/a/..;/b", "/a%2F..%2Fb", "//a", "/a/..%3B/b"] {
        get(gate.addr, path, &[]).await.is_problem(400, "bad-path");
    }
    gate.stop().await;
    // Release 0.1's setting of the gate.
    let draft = open(&[("*", "/{*rest}")], "");
    let gate = TestGate::with(&draft, &echo.url, |config| config.keep_encoded_slash = true).await;
    assert_eq!(first_line(&get(gate.addr, "/a%2Fb", &[]).await.body), "GET /a%2Fb");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folded_paths_match_without_case_and_arrive_in_the_routes_spelling() {
    let echo = Echo::start().await;
    let ban = "forbid (principal, action, resource in route::\"/admin\");";
    let mut draft =
        open(&[("*", "/{*rest}"), ("*", "/admin{/*rest}"), ("*", "/Users/{id}/caf%C3%A9")], ban);
    let gate = TestGate::start(&draft, &echo.url).await;
    for path in ["/admin", "/admin/", "/admin/secret", "/admin/a/b"] {
        get(gate.addr, path, &[]).await.is_problem(403, "denied");
    }
    assert_eq!(get(gate.addr, "/Admin/secret", &[]).await.status, 200, "nothing folds");
    gate.stop().await;
    draft.settings.paths_fold = PathsFold::Case;
    let gate = TestGate::start(&draft, &echo.url).await;
    for path in ["/admin", "/Admin", "/ADMIN/", "/Admin/secret", "/%41dmin/secret", "/aDmIn/a/b"] {
        get(gate.addr, path, &[]).await.is_problem(403, "denied");
    }
    for (path, arrives) in [
        ("/users/Bob/CAF%C3%89", "/Users/Bob/caf%C3%A9"),
        ("/USERS/bOb/caf\u{e9}", "/Users/bOb/caf%C3%A9"),
        ("/Other/Path", "/Other/Path"),
    ] {
        let answer = get(gate.addr, path, &[]).await;
        assert_eq!((answer.status, first_line(&answer.body)), (200, &*format!("GET {arrives}")));
    }
    gate.stop().await;
}
