//! Pages of other origins: preflights, what a script can read, and a real browser.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::browser::{Browser, START};
use super::support::{Answer, Draft, Echo, TestGate, ask, eventually, route, serve};

const APP: &str = "https://app.example";
const ORIGIN: (&str, &str) = ("origin", APP);

fn asking(method: &str) -> [(&'static str, &str); 2] {
    [ORIGIN, ("access-control-request-method", method)]
}

/// The orders service, for pages of one application.
fn draft(more: Value) -> Draft {
    let mut draft = Draft::orders();
    let mut cors = json!({"origins": [APP, "https://*.app.example"]});
    for (name, value) in more.as_object().unwrap() {
        cors[name] = value.clone();
    }
    let mut settings = serde_json::to_value(&draft.settings).unwrap();
    settings["cors"] = cors;
    draft.settings = serde_json::from_value(settings).unwrap();
    draft
}

/// The headers of an answer that are about origins, one a line.
fn about_origins(answer: &Answer) -> String {
    let is_about = |name: &str| name.starts_with("access-control-") || name == "vary";
    let told = answer.headers.iter().filter(|(name, _)| is_about(name));
    told.map(|(name, value)| format!("{name}: {value}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_answers_preflights_of_its_routes() {
    let echo = Echo::start().await;
    let settings = json!({"headers": ["X-User", "content-type"], "max_age": "1h"});
    let gate = TestGate::start(&draft(settings), &echo.url).await;
    // Nobody is identified: there are no credentials.
    let answer = ask(gate.addr, "OPTIONS", "/orders/1", &asking("PUT"), "").await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
    assert_eq!(
        about_origins(&answer),
        "access-control-allow-headers: content-type, x-user\n\
         access-control-allow-methods: PUT\n\
         access-control-allow-origin: https://app.example\n\
         access-control-max-age: 3600\n\
         vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\n"
    );
    assert!(answer.headers.contains_key("x-request-id"), "{answer:?}");
    // A name below, and its route by a GET for HEAD.
    let below = [("origin", "https://a.app.example"), ("access-control-request-method", "HEAD")];
    let answer = ask(gate.addr, "OPTIONS", "/orders", &below, "").await;
    assert_eq!(answer.headers["access-control-allow-origin"], "https://a.app.example");
    // Another origin is told nothing, and no browser goes on.
    for other in [
        "https://evil.example",
        "https://app.example.evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://.app.example",
        "null",
        "https://a.app.example:1",
    ] {
        let asked = [("origin", other), ("access-control-request-method", "PUT")];
        let answer = ask(gate.addr, "OPTIONS", "/orders/1", &asked, "").await;
        assert_eq!(answer.status, 204, "{other}");
        let vary = "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\n";
        assert_eq!(about_origins(&answer), vary, "{other}");
    }
    assert!(gate.metric("keepgate_gate_preflights_total ").await >= 9.0);
    gate.stop().await;
}

/// What is no preflight is identified, decided, and has a route or none.
#[tokio::test(flavor = "multi_thread")]
async fn any_other_options_is_an_ordinary_request() {
    let echo = Echo::start().await;
    let mut draft = draft(json!({}));
    draft.routes.push(route("OPTIONS", "/orders"));
    let gate = TestGate::start(&draft, &echo.url).await;
    let method = "access-control-request-method";
    for headers in [
        vec![],
        vec![ORIGIN],
        vec![(method, "GET")],
        // Methods without a route, and what is no method.
        vec![ORIGIN, (method, "DELETE")],
        vec![ORIGIN, (method, "get")],
        vec![ORIGIN, (method, "")],
        vec![ORIGIN, (method, "TRACE")],
        vec![ORIGIN, (method, "GET"), (method, "POST")],
    ] {
        let answer = ask(gate.addr, "OPTIONS", "/orders", &headers, "").await;
        answer.is_problem(401, "unauthenticated");
        let known = [headers, vec![("x-user", "alice")]].concat();
        let answer = ask(gate.addr, "OPTIONS", "/orders", &known, "").await;
        assert_eq!(answer.status, 200, "{known:?}: {answer:?}");
        assert!(answer.body.starts_with("OPTIONS /orders"), "{answer:?}");
    }
    ask(gate.addr, "OPTIONS", "/none", &asking("GET"), "").await.is_problem(404, "no-route");
    // A request that only looks like one.
    let answer = ask(gate.addr, "GET", "/orders", &asking("GET"), "").await;
    answer.is_problem(401, "unauthenticated");
    gate.stop().await;

    // Where the service says nothing of origins, nothing is one.
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let answer = ask(gate.addr, "OPTIONS", "/orders", &asking("GET"), "").await;
    answer.is_problem(405, "method-not-allowed");
    assert_eq!(about_origins(&answer), "");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_limited_by_address() {
    let echo = Echo::start().await;
    for settings in [json!({}), json!({"preflight": "forward"})] {
        let mut draft = draft(settings);
        draft.limits = vec![json!({"name": "few", "key": "address", "rate": "2/h", "burst": 2})];
        let gate = TestGate::start(&draft, &echo.url).await;
        for expected in [true, true, false] {
            let answer = ask(gate.addr, "OPTIONS", "/orders/1", &asking("PUT"), "").await;
            assert_eq!(answer.status < 300, expected, "{answer:?}");
            if !expected {
                answer.is_problem(429, "quota-exceeded");
                assert_eq!(answer.headers["access-control-allow-origin"], APP);
            }
        }
        gate.stop().await;
    }
}

/// From nobody, with nothing: undecided, so no policy, key or age plays a part.
#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_for_the_upstream_has_no_credentials_and_no_body() {
    let echo = Echo::start().await;
    let mut draft = draft(json!({"preflight": "forward"}));
    draft.policies.clear();
    let gate = TestGate::start(&draft, &echo.url).await;
    gate.source.set_age(Duration::from_secs(86_400));
    let method = ("access-control-request-method", "PUT");
    let secret = [
        ORIGIN,
        method,
        ("authorization", "Bearer secret"),
        ("cookie", "session=secret"),
        ("proxy-authorization", "secret"),
        ("x-user", "alice"),
        ("keepgate-principal", "secret"),
        ("content-type", "text/secret"),
        ("access-control-request-headers", "x-user"),
    ];
    let answer = ask(gate.addr, "OPTIONS", "/orders/1", &secret, "a secret body").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = answer.body.to_lowercase();
    assert!(seen.starts_with("options /orders/1\n"), "{seen}");
    for kept in [
        "origin: https://app.example",
        "access-control-request-method: put",
        "access-control-request-headers: x-user",
    ] {
        assert!(seen.contains(kept), "{seen}");
    }
    for gone in [
        "secret",
        "cookie",
        "authorization",
        "x-user: ",
        "keepgate-principal",
        "content-length",
        "transfer-encoding",
    ] {
        assert!(!seen.contains(gone), "`{gone}` in {seen}");
    }
    // It answers for itself: the gate adds nothing.
    assert_eq!(about_origins(&answer), "");
    // An ordinary request on the same gate is decided.
    let answer = ask(gate.addr, "PUT", "/orders/1", &[ORIGIN, ("x-user", "alice")], "").await;
    answer.is_problem(503, "no-decision");
    gate.stop().await;
}

/// What the gate refuses itself: a page reads the status, the reason and when to come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_reads_the_gates_own_answers() {
    let echo = Echo::start().await;
    let mut draft = draft(json!({"credentials": true}));
    let few = json!({"name": "few", "key": "principal", "rate": "1/h", "burst": 1,
                     "route": "/orders", "methods": ["POST"]});
    draft.limits = vec![few];
    let gate = TestGate::start(&draft, &echo.url).await;
    let alice = ("x-user", "alice");
    let read = |answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{answer:?}");
        let told = about_origins(answer);
        for line in [
            "access-control-allow-origin: https://app.example\n",
            "access-control-allow-credentials: true\n",
            "access-control-expose-headers: retry-after, ratelimit, ratelimit-policy, ",
            "vary: Origin\n",
        ] {
            assert!(told.contains(line), "{status}: {told}");
        }
    };
    read(&ask(gate.addr, "GET", "/orders", &[ORIGIN], "").await, 401);
    read(&ask(gate.addr, "GET", "/orders/secret", &[ORIGIN, alice], "").await, 403);
    read(&ask(gate.addr, "GET", "/nowhere", &[ORIGIN, alice], "").await, 404);
    read(&ask(gate.addr, "DELETE", "/orders", &[ORIGIN, alice], "").await, 405);
    assert_eq!(ask(gate.addr, "POST", "/orders", &[ORIGIN, alice], "").await.status, 200);
    let over = ask(gate.addr, "POST", "/orders", &[ORIGIN, alice], "").await;
    read(&over, 429);
    assert!(over.headers.contains_key("retry-after"), "{over:?}");
    // Another origin, or none, reads nothing; a cache keeps them apart.
    for headers in [vec![alice], vec![alice, ("origin", "https://evil.example")]] {
        let answer = ask(gate.addr, "GET", "/orders/secret", &headers, "").await;
        answer.is_problem(403, "denied");
        assert_eq!(about_origins(&answer), "vary: Origin\n");
    }
    gate.source.set_age(Duration::from_secs(86_400));
    read(&ask(gate.addr, "GET", "/orders", &[ORIGIN, alice], "").await, 503);
    gate.stop().await;

    // The headers are the upstream's by the time that it fails.
    let gone = TestGate::start(&draft, "http://127.0.0.1:1").await;
    read(&ask(gone.addr, "GET", "/orders", &[ORIGIN, alice], "").await, 502);
    gone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_reads_the_upstreams_answers() {
    let alice = ("x-user", "alice");
    let plain = Echo::start().await;
    let speaking = serve(|_: Request<Incoming>| async {
        let mut response = Response::new(Full::new(Bytes::from_static(b"mine")));
        let headers = response.headers_mut();
        headers
            .insert("access-control-allow-origin", HeaderValue::from_static("https://own.example"));
        response
    })
    .await;
    let told = async |settings: Value, upstream: &Echo, headers: &[(&str, &str)]| {
        let gate = TestGate::start(&draft(settings), &upstream.url).await;
        let answer = ask(gate.addr, "GET", "/orders", headers, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        gate.stop().await;
        about_origins(&answer)
    };
    let added = "ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, \
                 x-ratelimit-reset, x-request-id";
    assert_eq!(
        told(json!({"expose": ["X-Upstream"]}), &plain, &[ORIGIN, alice]).await,
        format!(
            "access-control-allow-origin: {APP}\naccess-control-expose-headers: {added}, \
             x-upstream\nvary: Origin\n"
        )
    );
    assert_eq!(told(json!({}), &plain, &[alice]).await, "vary: Origin\n");
    let evil = ("origin", "https://evil.example");
    assert_eq!(told(json!({}), &plain, &[alice, evil]).await, "vary: Origin\n");
    // For all, it is the same for all.
    assert_eq!(
        told(json!({"origins": ["*"]}), &plain, &[alice, evil]).await,
        format!("access-control-allow-origin: *\naccess-control-expose-headers: {added}\n")
    );
    // An upstream that speaks of origins is not contradicted, in either way.
    for settings in [json!({}), json!({"preflight": "forward"})] {
        assert_eq!(
            told(settings, &speaking, &[ORIGIN, alice]).await,
            format!(
                "access-control-allow-origin: https://own.example\naccess-control-expose-headers: \
                 {added}\n"
            )
        );
    }
    assert_eq!(told(json!({"preflight": "forward"}), &plain, &[ORIGIN, alice]).await, "");
}

/// `*` never stands beside credentials, whatever is configured and asked; and headers are allowed by
/// name, because `*` does not mean `Authorization`.
#[tokio::test(flavor = "multi_thread")]
async fn a_star_never_comes_with_credentials() {
    let echo = Echo::start().await;
    for settings in [
        json!({"origins": ["*"], "headers": ["*"]}),
        json!({"origins": ["*", APP], "headers": ["authorization"]}),
        json!({"credentials": true}),
    ] {
        let gate = TestGate::start(&draft(settings.clone()), &echo.url).await;
        for origin in [APP, "https://evil.example", "null", "*"] {
            let asked = [
                ("origin", origin),
                ("access-control-request-method", "PUT"),
                ("access-control-request-headers", "authorization,x-any"),
            ];
            let preflight = ask(gate.addr, "OPTIONS", "/orders/1", &asked, "").await;
            let refused = ask(gate.addr, "GET", "/orders", &asked, "").await;
            for told in [about_origins(&preflight), about_origins(&refused)] {
                let any = told.contains("allow-origin: *");
                let credentials = told.contains("allow-credentials");
                assert!(!(any && credentials), "{settings}, {origin}: {told}");
                assert!(!told.contains("allow-headers: *"), "{settings}: {told}");
            }
            if settings["headers"][0] == "*" {
                let allowed = &preflight.headers["access-control-allow-headers"];
                assert_eq!(allowed, "authorization,x-any");
            }
        }
        gate.stop().await;
    }
}

/// The page: it tells what its calls to the gate, which is another origin, come to.
const PAGE: &str = r#"<!doctype html><title>page</title><script>
const to = new URLSearchParams(location.search);
const tell = (what, more) => fetch("/told", {method: "POST", body: JSON.stringify({what, ...more})});
const call = async (what, url, options) => {
  try {
    const answer = await fetch(url, options);
    const type = answer.headers.get("content-type") || "";
    const body = type.includes("json") ? await answer.json() : {text: await answer.text()};
    const header = name => answer.headers.get(name);
    await tell(what, {status: answer.status, type: body.type, reason: body.reason,
      retry: header("retry-after"), limit: header("ratelimit"), id: header("x-request-id"),
      challenge: header("www-authenticate"), upstream: header("x-upstream")});
    return answer.status;
  } catch (error) {
    await tell(what, {error: String(error)});
    return 0;
  }
};
(async () => {
  const gate = `http://127.0.0.1:${to.get("gate")}`;
  const other = `http://127.0.0.1:${to.get("other")}`;
  const alice = {"x-user": "alice"};
  await call("put", `${gate}/orders/1`, {method: "PUT", body: "{}",
    headers: {...alice, "content-type": "application/json"}});
  await call("nobody", `${gate}/orders`);
  await call("denied", `${gate}/orders/secret`, {headers: alice});
  for (let n = 0; n < 10; n++)
    if (await call("limited", `${gate}/orders`, {headers: alice}) !== 200) break;
  await call("no header", `${gate}/orders`, {headers: {...alice, "x-not-listed": "1"}});
  await call("other origin", `${other}/orders`, {headers: alice});
  await call("other origin, simple", `${other}/orders`);
  tell("done", {});
})();
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_real_page_of_another_origin_calls_and_reads_when_to_come_again() {
    let echo = Echo::start().await;
    let (tell, mut told) = mpsc::unbounded_channel::<Value>();
    let page = serve(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let is_told = request.uri().path() == "/told";
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if is_told {
                let _ = tell.send(serde_json::from_slice(&body).unwrap());
            }
            let mut response = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
            let kind = HeaderValue::from_static("text/html");
            response.headers_mut().insert("content-type", kind);
            response
        }
    })
    .await;
    let settings = json!({
        "origins": [format!("http://{}", page.addr)],
        "headers": ["x-user", "content-type"],
        "expose": ["x-upstream"],
        "max_age": "10m",
    });
    let mut draft = draft(settings);
    draft.limits = vec![json!({"name": "reads", "key": "principal", "rate": "3/h", "burst": 3,
                               "route": "/orders", "methods": ["GET"]})];
    let gate = TestGate::start(&draft, &echo.url).await;
    let other = TestGate::start(&self::draft(json!({"headers": ["x-user"]})), &echo.url).await;
    let url =
        format!("http://{}/?gate={}&other={}", page.addr, gate.addr.port(), other.addr.port());
    let Some(browser) = Browser::start(&url) else { return };
    let mut said: Vec<Value> = Vec::new();
    while !said.iter().any(|said| said["what"] == "done") {
        match tokio::time::timeout(START, told.recv()).await {
            Ok(Some(one)) => said.push(one),
            _ => panic!("the page has said only: {said:?}"),
        }
    }
    let of = |what: &str| said.iter().rfind(|said| said["what"] == what).unwrap();
    assert_eq!(of("put")["status"], 200, "{said:?}");
    assert_eq!(of("put")["upstream"], "echo", "{said:?}");
    assert_eq!(of("nobody")["status"], 401);
    assert_eq!(of("nobody")["challenge"], "Bearer realm=\"orders\"");
    assert_eq!(of("denied")["status"], 403);
    assert_eq!(of("denied")["reason"], "forbid");
    let limited = of("limited");
    assert_eq!(limited["status"], 429, "{said:?}");
    assert_eq!(limited["type"], "urn:keepgate:problem:quota-exceeded");
    let seconds: u32 = limited["retry"].as_str().unwrap().parse().unwrap();
    assert!((1..=3_600).contains(&seconds), "{limited}");
    assert!(limited["limit"].as_str().unwrap().starts_with("\"reads\""), "{limited}");
    assert!(limited["id"].is_string(), "{limited}");
    assert_eq!(said.iter().filter(|said| said["what"] == "limited").count(), 4, "{said:?}");
    for what in ["no header", "other origin", "other origin, simple"] {
        assert!(of(what)["error"].is_string(), "{what}: {said:?}");
    }
    eventually("the browser asked first", async || {
        gate.metric("keepgate_gate_preflights_total ").await >= 2.0
    })
    .await;
    drop(browser);
    gate.stop().await;
    other.stop().await;
}
