//! Real upstreams: whatever method, path, host and headers are sent, what a framework reads is
//! what was decided on. Five of them: Flask (Werkzeug), Django, Starlette (uvicorn), Express and
//! Python's `http.server`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use keepgate_gate::message::path::{Mode, PathRules, normal};
use keepgate_policy::service::{Paths, PathsFold};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::support::{Answer, Draft, TestGate, ask, eventually, get, route, skip, talk};

/// Requests to each upstream; `KEEPGATE_CASES` for more.
const CASES: usize = 150;

/// A framework's process; it ends with the test, also when that is killed.
struct Upstream {
    child: Child,
    url: String,
    port_file: PathBuf,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.port_file);
    }
}

fn cases() -> usize {
    std::env::var("KEEPGATE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES)
}

/// The same cases in each run; others with another `KEEPGATE_SEED`.
fn runner() -> TestRunner {
    let asked = std::env::var("KEEPGATE_SEED").ok().and_then(|n| n.parse().ok());
    let number: u32 = asked.unwrap_or(1);
    eprintln!("KEEPGATE_SEED={number}");
    let seed: [u8; 32] = std::array::from_fn(|n| if n < 4 { number.to_le_bytes()[n] } else { 7 });
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}

/// None: it is not installed, and the test may be left out.
async fn upstream(kind: &str) -> Option<Upstream> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = here.join("../../target/fixtures");
    // Of its own: tests that run at the same time have upstreams of the same kind.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let port_file =
        std::env::temp_dir().join(format!("keepgate-{kind}-{}-{number}.port", std::process::id()));
    let mut command = if kind == "express" {
        let modules = fixtures.join("express/node_modules");
        if !modules.join("express").exists() {
            skip("target/fixtures/express is missing; run scripts/fetch-fixtures");
            return None;
        }
        let mut command = Command::new("node");
        command.arg(here.join("tests/frameworks/express.js")).env("NODE_PATH", modules);
        command
    } else {
        let python = fixtures.join("clients/bin/python");
        if !python.exists() {
            skip("target/fixtures/clients is missing; run scripts/fetch-fixtures");
            return None;
        }
        let mut command = Command::new(python);
        command.arg(here.join("tests/frameworks/echo.py")).arg(kind);
        command
    };
    command.arg(&port_file).stdin(Stdio::piped()).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    let mut upstream = Upstream { child, url: String::new(), port_file };
    let file = upstream.port_file.clone();
    eventually("the upstream listens", async || file.exists()).await;
    let port = std::fs::read_to_string(&upstream.port_file).unwrap();
    upstream.url = format!("http://127.0.0.1:{port}");
    Some(upstream)
}

/// Anybody may do everything on these routes but what a policy forbids.
fn open(routes: &[&str], forbid: &str) -> Draft {
    let mut draft = Draft::orders();
    draft.routes = routes
        .iter()
        .map(|path| {
            let mut route = route("*", path);
            route.anonymous = true;
            route
        })
        .collect();
    draft.policies = vec![("all".to_owned(), "permit (principal, action, resource);".to_owned())];
    if !forbid.is_empty() {
        draft.policies.push(("ban".to_owned(), forbid.to_owned()));
    }
    draft
}

const EVERYTHING: &[&str] = &["/{*rest}"];

#[tokio::test(flavor = "multi_thread")]
async fn flask_and_django_do_not_get_a_ban_in_another_spelling() {
    let ban = "forbid (principal, action == Action::\"DELETE\", resource);";
    for kind in ["flask", "django"] {
        let Some(upstream) = upstream(kind).await else { return };
        let gate = TestGate::start(&open(EVERYTHING, ban), &upstream.url).await;
        ask(gate.addr, "DELETE", "/x", &[], "").await.is_problem(403, "denied");
        for method in ["delete", "Delete", "DELETe"] {
            ask(gate.addr, method, "/x", &[], "").await.is_problem(501, "method-not-implemented");
        }
        // What they would have read.
        let direct = upstream.url.trim_start_matches("http://").parse().unwrap();
        let answer = ask(direct, "delete", "/x", &[], "").await;
        assert_eq!(answer.json()["method"], "DELETE", "{kind} upper-cases methods");
        gate.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn express_does_not_get_a_ban_in_another_case() {
    let Some(upstream) = upstream("express").await else { return };
    let ban = "forbid (principal, action, resource in route::\"/admin\");";
    let mut draft = open(&["/{*rest}", "/admin{/*rest}"], ban);
    let reached = async |draft: &Draft, path: &str| {
        let gate = TestGate::start(draft, &upstream.url).await;
        let answer = get(gate.addr, path, &[]).await;
        gate.stop().await;
        (answer.status, answer.json()["route"].as_str().unwrap_or_default().to_owned())
    };
    let without = reached(&draft, "/Admin/secret").await;
    assert_eq!(without, (200, "admin".to_owned()), "Express matches without case");
    draft.settings.paths_fold = PathsFold::Case;
    for path in ["/admin", "/admin/", "/Admin", "/ADMIN/secret", "/%41dmin/secret", "/Admin/"] {
        assert_eq!(reached(&draft, path).await.0, 403, "{path}");
    }
    assert_eq!(reached(&draft, "/other").await, (200, "other".to_owned()));
}

/// Spellings of and around `/admin`, most of which are none.
fn near_admin() -> impl Strategy<Value = String> {
    let admin = prop::sample::select(vec![
        "admin",
        "Admin",
        "ADMIN",
        "aDMIN",
        "%61dmin",
        "%41dmin",
        "adm%69n",
        "admin.",
        "admin%20",
        "admin%00",
        "admin;x",
        "admin%3b",
        "admin.json",
        "admi\u{307}n",
        "%2561dmin",
        "admin%2e",
    ]);
    let before = prop_oneof![
        1 => Just(""),
        1 => prop::sample::select(vec!["/", "./", "x/../", "%2e/", "a/%2E%2E/", "..;/", "x/"]),
    ];
    let after = prop_oneof![
        1 => Just(""),
        2 => prop::sample::select(vec!["/", "//", "/.", "/x/..", "/x", "/%2e", "/..;", "?", "%"]),
    ];
    (before, admin, after).prop_map(|(before, admin, after)| format!("/{before}{admin}{after}"))
}

/// Whatever is sent, Express's own route for `/admin` is never reached past a ban on it.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_reaches_expresss_route_past_a_ban() {
    let Some(upstream) = upstream("express").await else { return };
    let ban = "forbid (principal, action, resource in route::\"/admin\");";
    let (cases, mut runner) = (cases(), runner());
    let (mut denied, mut passed) = (0, 0);
    for paths in [Paths::Normal, Paths::Exact, Paths::Strict] {
        let mut draft = open(&["/{*rest}", "/admin{/*rest}"], ban);
        draft.settings.paths = paths;
        draft.settings.paths_fold = PathsFold::Case;
        let gate = TestGate::start(&draft, &upstream.url).await;
        for _ in 0..cases / 3 {
            let path = near_admin().new_tree(&mut runner).unwrap().current();
            let answer = get(gate.addr, &path, &[]).await;
            denied += usize::from(answer.status == 403);
            if answer.headers.contains_key("x-echo") {
                passed += 1;
                assert_eq!(answer.json()["route"], "other", "{paths:?}: {path}");
            }
        }
        gate.stop().await;
    }
    assert!(denied > 0 && passed > 0, "{denied} denied, {passed} passed");
}

/// A request as it is sent, and the parts of it.
#[derive(Clone, Debug)]
struct Sent {
    method: String,
    path: String,
    host: String,
    headers: Vec<(String, String)>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let method = prop_oneof![
        4 => prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"]),
        1 => prop::sample::select(vec!["delete", "Get", "TRACE", "MKCOL", "pOST", "CONNECT", "PURGE"]),
    ];
    let piece = prop::sample::select(vec![
        "/",
        "/",
        "//",
        ".",
        "..",
        "/../",
        "/./",
        "a",
        "A",
        "admin",
        "Admin",
        "%61",
        "%41",
        "%2e",
        "%2E%2e",
        "%2F",
        "%2f",
        "%5c",
        "\\",
        ";",
        ";x=1",
        "..;",
        "%3B",
        "%c3%a9",
        "%C3%A9",
        "\u{e9}",
        "%ff",
        "%c0%af",
        "%00",
        "%0a",
        "%25",
        "%252e",
        "%20",
        "+",
        "[",
        "]",
        "|",
        "^",
        "{",
        "}",
        "\"",
        "<",
        "`",
        "~",
        "%7e",
        ":",
        "@",
        "%40",
        "http:",
        "evil.example",
        "&",
        "=",
        ",",
        "*",
        "'",
        "!",
        "$",
        "(",
        "...",
        "%",
    ]);
    let path =
        proptest::collection::vec(piece, 0..7).prop_map(|pieces| format!("/{}", pieces.concat()));
    let host = prop::sample::select(vec![
        "a.example",
        "A.EXAMPLE",
        "a.example.",
        "a.example:8080",
        "a.example:",
        "evil@a.example",
        "a,b",
        "127.0.0.1",
        "[::1]",
        "[::1]:80",
        "",
        "a b",
        "a/b",
        "b.example",
    ]);
    let header = (
        prop::sample::select(vec![
            "X-HTTP-Method-Override",
            "X-Method-Override",
            "X_HTTP_Method_Override",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X.Rewrite.URL",
            "X-Original-Host",
            "X-Forwarded-Host",
            "X-Forwarded-For",
            "X-Script-Name",
            "X-Forwarded-Prefix",
            "Forwarded",
            "X-Fine",
        ]),
        prop::sample::select(vec!["DELETE", "/evil", "evil", "6.6.6.6", "for=6.6.6.6;host=evil"]),
    )
        .prop_map(|(name, value)| (name.to_owned(), value.to_owned()));
    (method, path, host, proptest::collection::vec(header, 0..3)).prop_map(
        |(method, path, host, headers)| Sent {
            method: method.to_owned(),
            path,
            host: host.to_owned(),
            headers,
        },
    )
}

impl Sent {
    async fn to(&self, addr: std::net::SocketAddr) -> String {
        let Sent { method, path, host, headers } = self;
        let mut text =
            format!("{method} {path}?q=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        talk(addr, text).await
    }
}

impl Sent {
    /// Some of these servers close a kept connection just when it is used again, which only an
    /// idempotent request survives: then it is asked again.
    async fn answered(&self, addr: std::net::SocketAddr) -> Answer {
        let mut answer = Answer::parse(&self.to(addr).await);
        for _ in 0..5 {
            if answer.status != 502 {
                break;
            }
            answer = Answer::parse(&self.to(addr).await);
        }
        answer
    }
}

fn unescaped(path: &str) -> String {
    keepgate_policy::router::decoded(path).unwrap().into_owned()
}

/// What may have been decided on, and what the upstream says.
fn judge(kind: &str, sent: &Sent, answer: &Answer, mode: Mode) -> Result<(), String> {
    if answer.headers.get("x-echo").map(String::as_str) != Some(kind) {
        let is_ours = answer.headers.get("content-type").map(String::as_str)
            == Some("application/problem+json");
        // Some servers refuse by themselves, such as Node a QUERY or an odd Host.
        let refused = match is_ours {
            true => matches!(answer.status, 400 | 501),
            false => answer.status == 400,
        };
        return if refused { Ok(()) } else { Err(format!("not refused: {answer:?}")) };
    }
    let decided = normal(&sent.path, PathRules { mode, ..PathRules::default() })
        .map_err(|error| format!("it was forwarded, but: {error}"))?;
    let (host, port) = keepgate_policy::host::normal(&sent.host).map_err(|e| e.to_string())?;
    let said = answer.json();
    let text = |name: &str| said[name].as_str().map(str::to_owned);
    let expected = unescaped(&decided);
    if text("method").as_deref() != Some(&sent.method) {
        return Err(format!("another method: {said}"));
    }
    for name in ["path", "url_path"] {
        if text(name).is_some_and(|read| read != expected) {
            return Err(format!("another path than {expected:?}: {said}"));
        }
    }
    let read = text("host").unwrap_or_default();
    if read.is_empty() {
        // Werkzeug's word for a host that it does not take, such as `name:`.
        return Ok(());
    }
    let (read_host, read_port) = keepgate_policy::host::normal(&read).map_err(|e| e.to_string())?;
    // Werkzeug leaves the scheme's usual port out.
    let usual = |port: Option<u16>| port.filter(|port| *port != 80);
    if (read_host, usual(read_port)) != (host, usual(port)) {
        return Err(format!("another host: {said}"));
    }
    let overrides = ["override", "-url", "original", "script-name", "prefix", "forwarded"];
    let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];
    let headers = said["headers"].as_array().unwrap().iter().filter_map(serde_json::Value::as_str);
    match headers
        .filter(|name| !ours.contains(name))
        .find(|n| overrides.iter().any(|o| n.contains(o)))
    {
        Some(name) => Err(format!("`{name}` arrived: {said}")),
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_frameworks_read_what_was_decided() {
    let cases = cases();
    for kind in ["flask", "django", "starlette", "express", "http.server"] {
        let Some(upstream) = upstream(kind).await else { return };
        let mut runner = runner();
        for (paths, mode) in [
            (Paths::Normal, Mode::Normal),
            (Paths::Exact, Mode::Exact),
            (Paths::Strict, Mode::Strict),
        ] {
            let mut draft = open(EVERYTHING, "");
            draft.settings.paths = paths;
            let gate = TestGate::start(&draft, &upstream.url).await;
            let mut arrived = 0;
            for _ in 0..cases / 3 {
                let sent = sent().new_tree(&mut runner).unwrap().current();
                let answer = sent.answered(gate.addr).await;
                arrived += usize::from(answer.headers.contains_key("x-echo"));
                if let Err(wrong) = judge(kind, &sent, &answer, mode) {
                    panic!("{kind}, {paths:?}: {sent:?}: {wrong}");
                }
            }
            assert!(arrived > 0, "{kind}, {paths:?}: nothing was forwarded");
            gate.stop().await;
        }
    }
}
