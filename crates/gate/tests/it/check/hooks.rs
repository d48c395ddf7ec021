//! What each hook is told, and what it must tell.

use super::{Original, both};
use crate::support::{Draft, Echo, TestGate, eventually, talk};
use crate::upstreams::h2;

use super::asked;

/// An allowed request by each hook over HTTP: 200, and who it is, of which revision.
#[tokio::test(flavor = "multi_thread")]
async fn allowed() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    let request = Original::new("GET", "/orders/7?q=1").with("x-user", "alice");
    for text in [request.auth(), request.forward_auth(), request.ext_authz()] {
        let answer = asked(check, &text).await;
        assert_eq!(answer.status, 200, "{text}\n{answer:?}");
        assert_eq!(answer.headers["keepgate-principal"], "user::\"alice\"");
        assert_eq!(answer.headers["keepgate-revision"], "1");
        let age: f64 = answer.headers["keepgate-age"].parse().unwrap();
        assert!((0.0..3_600.0).contains(&age), "{answer:?}");
        assert_eq!(answer.headers["content-length"], "0");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert!(answer.body.is_empty());
    }
    for hook in ["auth", "forward_auth", "ext_authz_http"] {
        let line = format!("keepgate_gate_checks_total{{hook=\"{hook}\",outcome=\"allowed\"}}");
        assert_eq!(gate.metric(&line).await, 1.0, "{line}");
    }
    let line = "keepgate_gate_service_requests_total{service=\"orders\",outcome=\"allowed\",\
                status=\"200\"}";
    assert_eq!(gate.metric(line).await, 3.0);
}

/// A refusal is the gate's own, with its body; nginx reads none.
#[tokio::test(flavor = "multi_thread")]
async fn refused() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    for (request, status, kind) in [
        (Original::new("GET", "/orders/secret").with("x-user", "alice"), 403, "denied"),
        (Original::new("GET", "/orders"), 401, "unauthenticated"),
        (Original::new("GET", "/nothing"), 404, "no-route"),
        (Original::new("DELETE", "/orders"), 405, "method-not-allowed"),
        (Original::new("BREW", "/orders"), 501, "method-not-implemented"),
        (Original::new("GET", "/orders/../orders"), 400, "bad-path"),
    ] {
        for text in [request.forward_auth(), request.ext_authz()] {
            asked(check, &text).await.is_problem(status, kind);
        }
        let answer = asked(check, &request.auth()).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.headers["content-length"], "0", "{answer:?}");
        assert!(answer.body.is_empty() && !answer.headers.contains_key("content-type"));
        assert_eq!(status == 401, answer.headers.contains_key("www-authenticate"));
        assert_eq!(status == 405, answer.headers.contains_key("allow"));
    }
    let line = "keepgate_gate_checks_total{hook=\"auth\",outcome=\"denied\"}";
    assert_eq!(gate.metric(line).await, 1.0);
}

/// What the proxy does not say is not made up: 400, with what to set.
#[tokio::test(flavor = "multi_thread")]
async fn descriptions_that_are_not_whole() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    let request = Original::new("GET", "/public").with("x-user", "alice");
    let detail = |answer: &crate::support::Answer| answer.json()["detail"].to_string();
    for (text, lines) in [
        (request.auth(), &["X-Original-Method", "X-Original-URI", "X-Real-IP"][..]),
        (
            request.forward_auth(),
            &["X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host", "X-Forwarded-For"],
        ),
    ] {
        assert_eq!(asked(check, &text).await.status, 200, "{text}");
        for name in lines {
            let kept = |line: &&str| !line.starts_with(&format!("{name}:"));
            let line = text.lines().find(|line| !kept(line)).unwrap();
            let without: String = text.lines().filter(kept).map(|l| format!("{l}\r\n")).collect();
            let answer = asked(check, &without).await;
            assert_eq!(answer.status, 400, "{without}");
            if text.contains("/forward-auth") {
                assert!(detail(&answer).contains(name), "{answer:?}");
            }
            let twice = text.replace(&format!("{line}\r\n"), &format!("{line}\r\n{line}\r\n"));
            // A second address is one that came with the request.
            let expected = if *name == "X-Forwarded-For" { 200 } else { 400 };
            assert_eq!(asked(check, &twice).await.status, expected, "{twice}");
        }
    }
    for (from, to) in [
        ("X-Real-IP: 127.0.0.1", "X-Real-IP: me"),
        ("X-Original-Method: GET", "X-Original-Method: G T"),
        ("X-Original-URI: /public", "X-Original-URI: http://a.example/public"),
        ("X-Original-URI: /public", "X-Original-URI: public"),
        ("X-Original-URI: /public", "X-Original-URI: /public#x"),
        ("X-Original-URI: /public", "X-Original-URI:"),
    ] {
        let text = request.auth().replace(from, to);
        assert_eq!(asked(check, &text).await.status, 400, "{text}");
    }
    for (text, status) in [
        (request.auth().replace("GET /auth", "POST /auth"), 405),
        (request.forward_auth().replace("GET /forward-auth", "PUT /forward-auth"), 405),
        (request.plain(), 404),
        (request.ext_authz().replace("/ext_authz/public", "/ext_authz"), 400),
        (request.ext_authz().replace("/ext_authz/public", "/ext_authzpublic"), 400),
    ] {
        assert_eq!(asked(check, &text).await.status, status, "{text}");
    }
}

/// The address is the one that the proxy has seen; what came with the request counts only where that
/// one is a trusted proxy.
#[tokio::test(flavor = "multi_thread")]
async fn addresses() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    let when = "when { context has ip && context.ip == \"9.9.9.9\" };";
    draft.policies[1].1 =
        format!("permit (principal, action, resource in route::\"/public\") {when}");
    let gate = TestGate::with(&draft, &echo.url, |config| {
        super::listening(config);
        config.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()].into();
    })
    .await;
    let check = gate.check.unwrap();
    let texts = |from: &str, forwarded: Option<&str>| {
        let mut request = Original::new("GET", "/public");
        from.clone_into(&mut request.from);
        let mut texts = [request.auth(), request.forward_auth(), request.ext_authz()];
        let Some(forwarded) = forwarded else { return texts };
        for text in &mut texts {
            let own = format!("X-Forwarded-For: {from}");
            *text = match text.contains(&own) {
                true => text.replace(&own, &format!("X-Forwarded-For: {forwarded}, {from}")),
                false => {
                    text.replace("\r\n\r\n", &format!("\r\nX-Forwarded-For: {forwarded}\r\n\r\n"))
                }
            };
        }
        texts
    };
    for (from, forwarded, status) in [
        ("9.9.9.9", None, 200),
        ("8.8.8.8", None, 403),
        ("8.8.8.8", Some("9.9.9.9"), 403),
        ("9.9.9.9", Some("8.8.8.8"), 200),
        ("10.0.0.1", Some("9.9.9.9"), 200),
        ("10.0.0.1", Some("9.9.9.9, 8.8.8.8"), 403),
        ("10.0.0.1", Some("8.8.8.8, 9.9.9.9, 10.0.0.2"), 200),
        ("::ffff:9.9.9.9", None, 200),
    ] {
        for text in texts(from, forwarded) {
            let answer = asked(check, &text).await;
            assert_eq!(answer.status, status, "{text}\n{answer:?}");
        }
    }
}

/// A trusted header counts from whom the proxy was connected from, and from nobody else; over Envoy's
/// HTTP without an address from nobody at all, although the proxy itself would be one of the peers.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_borrows_the_proxys_trust() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    let mut request = Original::new("GET", "/orders").with("x-user", "alice");
    for (from, status) in [("127.0.0.1", 200), ("9.9.9.9", 401), ("10.0.0.1", 401)] {
        from.clone_into(&mut request.from);
        for text in [request.auth(), request.forward_auth(), request.ext_authz()] {
            let answer = asked(check, &text).await;
            assert_eq!(answer.status, status, "{text}\n{answer:?}");
        }
    }
    let nobody = request.ext_authz().replace("X-Forwarded-For: 10.0.0.1\r\n", "");
    assert_eq!(asked(check, &nobody).await.status, 401, "{nobody}");
    let public = nobody.replace("/orders", "/public").replace("x-user: alice\r\n", "");
    assert_eq!(asked(check, &public).await.status, 200, "{public}");
}

/// Envoy is told which headers the upstream must not see: those of the gate's names in any spelling,
/// what overrides a method, what is between the caller and the gate. It is not told to remove its own.
#[tokio::test(flavor = "multi_thread")]
async fn headers_to_remove() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let request = Original::new("GET", "/orders")
        .with("x-user", "alice")
        .with("Keepgate-Principal", "user::\"root\"")
        .with("Keepgate_Principal", "user::\"root\"")
        .with("X-HTTP-Method-Override", "DELETE")
        .with("X_User", "root")
        .with("X-Envoy-Internal", "true")
        .with("X-Forwarded-Proto", "https")
        .with("Accept", "*/*");
    let answer = asked(gate.check.unwrap(), &request.ext_authz()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut names: Vec<&str> =
        answer.headers["x-envoy-auth-headers-to-remove"].split(',').collect();
    names.sort_unstable();
    assert_eq!(names, ["keepgate_principal", "x-http-method-override", "x_user"]);
    assert_eq!(answer.headers["keepgate-principal"], "user::\"alice\"");
}

/// One connection, many questions; and what is no question ends no connection.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let request = Original::new("GET", "/orders").with("x-user", "alice");
    let kept = |text: String| text.replace("Connection: close\r\n", "");
    let denied = Original::new("GET", "/orders/secret").with("x-user", "alice");
    let bad = kept(request.auth()).replace("X-Real-IP: 127.0.0.1\r\n", "");
    let text = [kept(request.auth()), bad, kept(denied.auth()), request.auth()].concat();
    let answers = talk(gate.check.unwrap(), text).await;
    let statuses: Vec<&str> =
        answers.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)).collect();
    assert_eq!(statuses, ["200", "400", "403", "200"], "{answers}");
    eventually("the connection is over", async || {
        gate.metric("keepgate_gate_connections_open").await == 0.0
    })
    .await;
}

/// The hooks over HTTP/2 without TLS: the host is the authority.
#[tokio::test(flavor = "multi_thread")]
async fn over_http2() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.hosts = vec!["a.example".parse().unwrap()];
    let gate = both(&draft, &echo.url).await;
    let mut sender = h2(gate.check.unwrap()).await;
    for (authority, status) in [("a.example", 200), ("b.example", 421)] {
        for (path, headers) in [
            (
                "/auth",
                &[
                    ("x-original-method", "GET"),
                    ("x-original-uri", "/public"),
                    ("x-real-ip", "::1"),
                ][..],
            ),
            ("/ext_authz/public", &[("x-forwarded-for", "10.0.0.1")]),
        ] {
            let mut request = http::Request::get(format!("http://{authority}{path}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(http_body_util::Full::default()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), status, "{authority}{path}");
        }
    }
    let request =
        http::Request::get("http://a.example/ext_authz/public").header("host", "b.example");
    let request = request.body(http_body_util::Full::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 400);
}
