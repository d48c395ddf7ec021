//! The page for callers at `/apis/NAME`: only of services that say so, within bounds, and by the same way to
//! a key as through a gate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use keepgate_center::Center;
use keepgate_center::store::Address;
use keepgate_policy::proto::caller_answer::Answer as Told;
use keepgate_policy::proto::caller_question::Question;
use keepgate_policy::proto::{AskAccess, FetchKey};
use serde_json::{Value, json};

use crate::database::{shared, skipped, unique};
use crate::fixture::{Answer, Dir, Mirror, Running, STAFF, config, patiently};

const PAGE: &str = "/apis/orders";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const GOOD: &str = "who=Nightly+import&what_for=Copies+orders&per_day=1%2C000";
const REQUESTS: &str = "/v1/services/orders/requests";

/// A caller with an address of its own: 127.0.0.N.
struct Caller<'c>(&'c Running, u8);

impl Caller<'_> {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in [("host", &*self.0.addr.to_string())].iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        let own = IpAddr::from(Ipv4Addr::new(127, 0, 0, self.1));
        socket.bind(SocketAddr::new(own, 0)).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test client, to the center it started")]
        let stream = patiently("a connection", socket.connect(self.0.addr)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let response = patiently("an answer", sender.send_request(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = patiently("a body", body.collect()).await.unwrap().to_bytes();
        driver.abort();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn post(&self, place: &str, body: &str) -> Answer {
        self.ask("POST", &format!("{PAGE}{place}"), &[FORM], body).await
    }
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// The page, with all that a browser must hear of it.
#[track_caller]
fn page(answer: &Answer, status: u16) -> String {
    let body = text(answer);
    assert_eq!(answer.status.as_u16(), status, "{body}");
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{body}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(answer.header("x-frame-options"), "DENY");
    assert!(!answer.header("x-request-id").is_empty());
    assert_eq!(matches!(status, 202 | 429 | 503), !answer.header("retry-after").is_empty());
    body
}

/// The text in the first `pre` after what is said.
fn secret(page: &str) -> String {
    let (_, rest) = page.split_once("role=\"status\"").unwrap();
    let (_, rest) = rest.split_once("<pre").unwrap();
    let (_, rest) = rest.split_once('>').unwrap();
    rest.split('<').next().unwrap().to_owned()
}

const DOCUMENT: &str = "openapi: 3.1.0\npaths:\n  /orders:\n    get:\n      operationId: listOrders\n      \
    summary: |\n        Lists <b>orders</b>.\n        And more.\n  /orders/{id}:\n    get:\n      description: One of them\n";

async fn published(center: &Running, url: &str) {
    let url = if url.is_empty() { String::new() } else { format!("url = \"{url}\"\n") };
    let files = json!({ "files": {
        "service.toml":
            format!("name = \"orders\"\n[identify.api_key]\n[callers_page]\ncenter = true\n{url}"),
        "a.cedar": "permit (principal is client, action == Action::\"GET\", resource == route::\"/orders\");",
        "openapi.yaml": DOCUMENT,
        "limits.toml": "[plan.bulk]\ndescription = \"for crawlers\"\n[[plan.bulk.rule]]\nname = \"bulk\"\n\
                        key = \"api_key\"\nrate = \"50/s\"\n",
    } });
    center.ask("POST", "/v1/services/orders/apply", Some(files)).await.good();
}

async fn pending(center: &Running) -> Vec<Value> {
    let listed = center.ask("GET", &format!("{REQUESTS}?state=pending"), None).await.good();
    listed["requests"].as_array().unwrap().clone()
}

#[tokio::test]
async fn nothing_is_told_about_services_without_the_page() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    published(&center, "").await;
    center.service("quiet", &[("staff", STAFF)]).await;
    let off = json!({ "callers_page": { "url": "https://off.example" } });
    center.ask("PUT", "/v1/services/off", Some(off)).await.good();
    let caller = Caller(&center, 2);
    // As a service that is not there, and as a path at which nothing is.
    for (method, place, body) in [
        ("GET", "", ""),
        ("HEAD", "", ""),
        ("GET", "?lang=zh-Hans", ""),
        ("GET", "/style.css", ""),
        ("GET", "/ask", ""),
        ("DELETE", "", ""),
        ("POST", "/ask", GOOD),
        ("POST", "/key", "code=kgr_1"),
        ("POST", "/left", "key=kgk_a_b"),
        ("POST", "/ask", &*"x".repeat(8 << 10)),
    ] {
        let mut told = Vec::new();
        for name in ["quiet", "off", "nowhere", "QUIET", "%6frders"] {
            let path = format!("/apis/{name}{place}");
            let answer =
                caller.ask(method, &path, &[FORM, ("origin", "http://evil.example")], body);
            let mut answer = answer.await;
            assert_eq!(answer.status, 404, "{method} {path}");
            let id = answer.header("x-request-id").to_owned();
            let said = text(&answer).replace(&id, "ID").replace(name, "NAME");
            for own in ["x-request-id", "date", "content-length"] {
                answer.headers.remove(own);
            }
            told.push((said, format!("{:?}", answer.headers)));
        }
        assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    }
    // And as all that is not there.
    let (other, apis) = (caller.get("/nothing").await, caller.get("/apis/quiet").await);
    let shape = |answer: &Answer| {
        text(answer).replace(answer.header("x-request-id"), "").replace("/nothing", "/apis/quiet")
    };
    assert_eq!(shape(&other), shape(&apis));
    for odd in ["/apis", "/apis/", "/apis//orders", "/apis/orders/", "/apis/orders/style.css/x"] {
        caller.get(odd).await.problem(404);
    }
    page(&caller.get(PAGE).await, 200);
    // Taken back, it is gone.
    let keys = json!({ "identify": { "api_key": {} } });
    center.ask("PUT", "/v1/services/orders", Some(keys)).await.good();
    caller.get(PAGE).await.problem(404);
    center.stop().await;
}

#[tokio::test]
async fn the_page_says_what_the_service_says_of_itself() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    published(&center, "https://shop.example/v1/").await;
    let caller = Caller(&center, 2);
    let said = page(&caller.get(PAGE).await, 200);
    for part in [
        "listOrders",
        "Lists &lt;b&gt;orders&lt;/b&gt;.</span>",
        "One of them</span>",
        "x-api-key: $KEY",
        "'https://shop.example/v1/orders/{id}'",
        "for crawlers",
        "50/s",
        "default-principal",
        "action=\"/apis/orders/ask\"",
        "href=\"/apis/orders/style.css\"",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("And more") && !said.contains("https://HOST"));
    let style = caller.get("/apis/orders/style.css").await;
    assert_eq!(style.header("content-type"), "text/css; charset=utf-8");
    let head = caller.ask("HEAD", PAGE, &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    let chinese = caller.ask("GET", PAGE, &[("accept-language", "zh-CN")], "").await;
    assert_eq!(chinese.header("content-language"), "zh-Hans");
    let chosen = caller.get(&format!("{PAGE}?lang=zh-Hans")).await;
    assert!(page(&chosen, 200).contains("lang=\"zh-Hans\""));
    for (method, place) in [("POST", ""), ("DELETE", ""), ("GET", "/ask"), ("HEAD", "/key")] {
        let answer = caller.ask(method, &format!("{PAGE}{place}"), &[], "").await;
        let allowed = if place.is_empty() { "GET, HEAD" } else { "POST" };
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, allowed));
    }
    // What is exported is what was applied.
    let export = center.ask("GET", "/v1/services/orders/export", None).await.good();
    let files = json!({ "files": export["files"] });
    let again = center.ask("POST", "/v1/services/orders/apply", Some(files)).await.good();
    assert_eq!(again["changes"], json!([]), "{export}");
    // It is meant for this center.
    let rebound = caller.ask("GET", PAGE, &[("host", "evil.example")], "").await;
    assert!(matches!(rebound.status.as_u16(), 400 | 421), "{rebound:?}");
    // Where nobody said how callers reach it, the page says that.
    published(&center, "").await;
    let said = page(&caller.get(PAGE).await, 200);
    assert!(said.contains("'https://HOST/orders'") && said.contains("Replace https://HOST"));
    center.stop().await;
}

#[tokio::test]
async fn a_url_that_is_none_is_refused() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let long = |n: usize| format!("https://a.example/{}", "x".repeat(n - 18));
    for (url, is_taken) in [
        ("https://a.example:8443/b", true),
        (&*long(256), true),
        (&*long(257), false),
        ("a.example", false),
        ("ftp://a.example", false),
        ("https://", false),
        ("https://a.example/?b", false),
        ("https://u@a.example", false),
        ("https://a.example/'$(id)'", false),
        ("https://a.example/b c", false),
        ("javascript://a.example/%0aalert(1)", false),
    ] {
        let body = json!({ "callers_page": { "center": true, "url": url } });
        let answer = center.ask("PUT", "/v1/services/orders", Some(body)).await;
        assert_eq!(answer.status.is_success(), is_taken, "{url}: {answer:?}");
        if !is_taken {
            assert!(text(&answer).contains("is not the address of an API"), "{answer:?}");
        }
    }
    center.stop().await;
}

#[tokio::test]
async fn a_key_is_asked_for_and_fetched_once_on_the_page() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    published(&center, "").await;
    let caller = Caller(&center, 2);
    let code = secret(&page(&caller.post("/ask", GOOD).await, 200));
    assert!(code.starts_with("kgr_") && code.len() == 44, "{code}");
    let request = pending(&center).await.pop().unwrap();
    assert_eq!((&request["who"], &request["per_day"]), (&json!("Nightly import"), &json!(1_000)));
    assert_eq!(request["address"], "127.0.0.2");
    let fetch = format!("code={code}");
    page(&caller.post("/key", &fetch).await, 202);
    // A program that follows links does not use it up.
    let linked = caller.get(&format!("{PAGE}/key?{fetch}")).await;
    assert_eq!(linked.status, 405);
    let at = format!("{REQUESTS}/{}/approve", request["id"].as_str().unwrap());
    let approval = json!({ "principal": "client::\"import\"", "plan": "bulk" });
    center.ask("POST", &at, Some(approval)).await.good();
    let (one, two) = tokio::join!(caller.post("/key", &fetch), caller.post("/key", &fetch));
    let (made, spent) = if one.status == 200 { (one, two) } else { (two, one) };
    let key = secret(&page(&made, 200));
    assert!(key.starts_with("kgk_") && text(&made).contains("bulk"), "{key}");
    page(&spent, 404);
    page(&caller.post("/key", &fetch).await, 404);
    // On record, by whom, without code and key.
    let audit = center.ask("GET", "/v1/audit?limit=1000", None).await.good();
    let fetched = audit["entries"].as_array().unwrap().iter();
    let mut fetched = fetched.filter(|entry| entry["action"] == "request.fetch");
    assert!(fetched.all(|entry| entry["actor"] == "callers-page"), "{audit}");
    assert!(!audit.to_string().contains(&code) && !audit.to_string().contains(&key));

    // What the key may do; what it has left is not known here. Not kept, and never in an address.
    let form = format!("key={key}");
    for answer in [
        caller.post("/left", &form).await,
        caller.ask("GET", PAGE, &[("x-api-key", &*key)], "").await,
        caller.ask("GET", PAGE, &[("authorization", &*format!("Bearer {key}"))], "").await,
    ] {
        let said = page(&answer, 200);
        let prefix = key.split('_').nth(1).unwrap();
        for part in [prefix, "not known here", "class=\"yes\">May<", "class=\"no\">May not<"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains(&key));
    }
    let unknown = page(&caller.post("/left", "key=kgk_none_none").await, 200);
    assert_eq!(unknown, page(&caller.post("/left", &format!("{form}x")).await, 200));
    // One that is declined says so, to who has its code.
    let code = secret(&page(&caller.post("/ask", GOOD).await, 200));
    let id = pending(&center).await[0]["id"].as_str().unwrap().to_owned();
    center.ask("POST", &format!("{REQUESTS}/{id}/decline"), Some(json!({}))).await.good();
    page(&caller.post("/key", &format!("code={code}")).await, 410);
    center.stop().await;
}

/// The same requests, whichever way they come: asked on the page, fetched through a gate, and the other way
/// round.
#[tokio::test]
async fn the_page_and_a_gate_lead_to_the_same_requests() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    published(&center, "").await;
    let token = center.token("gate", "orders").await;
    let mut gate = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    let caller = Caller(&center, 2);
    let code = secret(&page(&caller.post("/ask", GOOD).await, 200));
    let (who, what_for) = ("a".to_owned(), "b".to_owned());
    let ask = Question::AskAccess(AskAccess { who, what_for, per_day: 1 });
    let Told::Asked(other) = gate.question("orders", "192.0.2.1", ask).await else { panic!() };
    for request in pending(&center).await {
        let at = format!("{REQUESTS}/{}/approve", request["id"].as_str().unwrap());
        center.ask("POST", &at, Some(json!({ "principal": "client::\"a\"" }))).await.good();
    }
    let fetched = gate.question("orders", "", Question::FetchKey(FetchKey { code })).await;
    assert!(matches!(fetched, Told::Key(_)), "{fetched:?}");
    page(&caller.post("/key", &format!("code={}", other.code)).await, 200);
    center.stop().await;
}

/// Asked at one, approved at the other, fetched at the first; and once only, over both.
#[tokio::test(flavor = "multi_thread")]
async fn centers_of_one_database_serve_the_same_page() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    let url = cluster.url(&unique("apis"), "");
    let parsed = tokio::task::spawn_blocking(move || Address::parse(&url).unwrap()).await.unwrap();
    let (dir, other) = (Dir::new(), Dir::new());
    let with = |dir: &Dir| {
        let mut config = config(dir);
        config.database = Some(Box::new(parsed.clone()));
        config
    };
    let one = Running::with(with(&dir)).await;
    let two = patiently("a start", Center::start(with(&other))).await.unwrap();
    let admin = other.path().join("admin.token");
    std::fs::write(&admin, &one.admin).unwrap();
    let two = Running::of(two, &other);
    published(&one, "").await;
    let (here, there) = (Caller(&one, 2), Caller(&two, 3));
    patiently("the page at the other center", async {
        while there.get(PAGE).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    let code = secret(&page(&here.post("/ask", GOOD).await, 200));
    let id = pending(&two).await[0]["id"].as_str().unwrap().to_owned();
    let approval = json!({ "principal": "client::\"a\"" });
    two.ask("POST", &format!("{REQUESTS}/{id}/approve"), Some(approval)).await.good();
    let fetch = format!("code={code}");
    let (a, b) = tokio::join!(here.post("/key", &fetch), there.post("/key", &fetch));
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404], "{a:?} {b:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn forms_have_bounds_and_come_from_the_page() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    published(&center, "").await;
    let own = format!("http://{}", center.addr);
    let ask = format!("{PAGE}/ask");
    for (n, (site, origin, is_taken)) in [
        ("cross-site", &*own, false),
        ("same-site", &*own, false),
        ("", "https://evil.example", false),
        ("", "null", false),
        ("same-origin", &*own, true),
        ("", &*own, true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut headers = vec![FORM];
        headers.extend([("sec-fetch-site", site), ("origin", origin)]);
        headers.retain(|(_, value)| !value.is_empty());
        let caller = Caller(&center, n as u8 + 10);
        let answer = caller.ask("POST", &ask, &headers, GOOD).await;
        assert_eq!(answer.status.as_u16(), if is_taken { 200 } else { 400 }, "{site} {origin}");
    }
    assert_eq!(pending(&center).await.len(), 2);
    let caller = Caller(&center, 2);
    let json = caller.ask("POST", &ask, &[("content-type", "application/json")], "{}").await;
    assert_eq!(json.status, 415);
    // Each byte may be written as three.
    let coded = |n: usize| "%41".repeat(n);
    let large = |n: usize| format!("{GOOD}&x={}", "x".repeat(n - GOOD.len() - 3));
    for (body, status) in [
        (large(3 << 10), 400),
        (large((3 << 10) + 1), 413),
        (format!("x={}", coded(1 << 10)), 413),
        (format!("{GOOD}&x=%ff"), 400),
        (GOOD.to_owned() + &"&x=1".repeat(20), 400),
        (String::new(), 422),
        (format!("who={}&what_for=a&per_day=1", "x".repeat(201)), 422),
        (format!("who=a&what_for={}&per_day=1", "x".repeat(501)), 422),
        ("who=a&what_for=b&per_day=1000000001".to_owned(), 422),
        // What the center itself refuses: the direction of writing is turned.
        ("who=a%E2%80%AEb&what_for=b&per_day=1".to_owned(), 422),
    ] {
        let answer = caller.post("/ask", &body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", text(&answer));
    }
    assert_eq!(pending(&center).await.len(), 2);
    let evil = "who=%3Cscript%3E%22&what_for=%3Cimg+src%3Dx%3E&per_day=x";
    let said = page(&caller.post("/ask", evil).await, 422);
    assert!(!said.contains("<script") && !said.contains("<img") && said.contains("&lt;script&gt;"));
    let most = format!("who={}&what_for={}&per_day=1000000000", "x".repeat(200), "y".repeat(500));
    page(&caller.post("/ask", &most).await, 200);
    for code in ["", "x", &*"x".repeat(64), &*"x".repeat(65)] {
        page(&caller.post("/key", &format!("code={code}")).await, 404);
    }
    center.stop().await;
}

#[tokio::test]
async fn an_address_may_do_so_much_on_the_page() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    published(&center, "").await;
    for (n, (place, body)) in
        [("/ask", GOOD), ("/key", "code=kgr_0"), ("/left", "key=kgk_a_b")].into_iter().enumerate()
    {
        let caller = Caller(&center, n as u8 + 2);
        let mut passed = 0;
        let last = loop {
            let answer = caller.post(place, body).await;
            if answer.status == 429 || passed == 30 {
                break answer;
            }
            passed += 1;
        };
        // A few come back while the test runs.
        assert!((10..20).contains(&passed), "{place}: {passed}");
        page(&last, 429);
        assert!((1..=6).contains(&last.header("retry-after").parse::<u32>().unwrap()));
        assert_ne!(Caller(&center, n as u8 + 20).post(place, body).await.status, 429);
    }
    // The page itself, whatever the name: nothing is told by that either.
    let caller = Caller(&center, 30);
    let mut passed = 0;
    while passed < 1_000 && caller.get("/apis/nowhere").await.status == 404 {
        passed += 1;
    }
    assert!((120..1_000).contains(&passed), "{passed}");
    let (known, unknown) = (caller.get(PAGE).await, caller.get("/apis/nowhere").await);
    assert_eq!((known.status, unknown.status), (unknown.status, known.status));
    // Nobody else waits for that, and the admin API least of all.
    page(&Caller(&center, 31).get(PAGE).await, 200);
    center.status().await;
    // A crowd waits its turn, or is told to come again; the admin API is asked beside it.
    let crowd = (32..96).map(|n| {
        let center = &center;
        async move { Caller(center, n).get(PAGE).await }
    });
    let (all, _) = tokio::join!(futures_util::future::join_all(crowd), center.status());
    for answer in all {
        let is_told = answer.status == 503 && !answer.header("retry-after").is_empty();
        assert!(answer.status == 200 || is_told, "{answer:?}");
    }
    center.stop().await;
}
