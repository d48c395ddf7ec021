//! The page for callers: from the replica, with or without a center, and never a way to it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepgate_client::replica::Unanswered;
use keepgate_gate::service::source::{Answering, Peek, Version};
use keepgate_gate::{DecisionSource, FixedSource, Gate, GateConfig, Listen};
use keepgate_limit::rules::Defaults;
use keepgate_policy::Revision;
use keepgate_policy::model::KeyBody;
use keepgate_policy::proto::caller_answer::Answer as Told;
use keepgate_policy::proto::caller_question::Question;
use keepgate_policy::proto::{AccessAsked, CallerRefused, KeyMade};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::limits::{behind_a_proxy, limited};
use super::support::{
    Answer, Draft, Echo, PATIENCE, SERVICE, TestGate, ask, connect, get, route, uid,
};

const PAGE: &str = "/.keepgate/api";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const GOOD: &str = "who=Nightly+import&what_for=Copies+orders&per_day=1%2C000";

/// A source whose center answers as it is told.
pub(super) struct Asked {
    world: FixedSource,
    /// To who asks for access, and to who fetches a key.
    answers: Mutex<[Result<Told, Unanswered>; 2]>,
    questions: Mutex<Vec<(String, String, Question)>>,
}

impl DecisionSource for Asked {
    fn peek(&self, held: Option<Version>) -> Peek {
        self.world.peek(held)
    }

    fn age(&self) -> Option<Duration> {
        self.world.age()
    }

    fn wait_for(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        self.world.wait_for(revision, timeout)
    }

    fn ask_center<'a>(
        &'a self,
        service: &'a str,
        address: &'a str,
        question: Question,
    ) -> Answering<'a> {
        let [asked, fetched] = self.answers.lock().unwrap().clone();
        let answer = match &question {
            Question::AskAccess(_) => asked,
            Question::FetchKey(_) => fetched,
        };
        let question = (service.to_owned(), address.to_owned(), question);
        self.questions.lock().unwrap().push(question);
        Box::pin(std::future::ready(answer))
    }
}

/// A gate whose center is a double; stopped when dropped.
pub(super) struct Doubled {
    pub(super) addr: SocketAddr,
    source: Arc<Asked>,
    _stop: oneshot::Sender<()>,
}

impl Doubled {
    pub(super) async fn start(draft: &Draft, upstream: &str) -> Doubled {
        let source = Arc::new(Asked {
            world: FixedSource::new(draft.world()),
            answers: Mutex::new([Err(Unanswered::NoCenter), Err(Unanswered::NoCenter)]),
            questions: Mutex::default(),
        });
        let mut config = GateConfig {
            service: SERVICE.to_owned(),
            upstream: upstream.to_owned(),
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
            workers: 1,
            ..GateConfig::default()
        };
        behind_a_proxy(&mut config);
        let gate = Gate::with_source(config, source.clone()).await.unwrap();
        let addr = gate.addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            gate.run(shutdown).await.unwrap();
        });
        Doubled { addr, source, _stop: stop }
    }

    /// The next answers of the center.
    pub(super) fn tell(&self, answer: Result<Told, Unanswered>) {
        self.tell_each(answer.clone(), answer);
    }

    /// The next answers to who asks for access, and to who fetches a key.
    pub(super) fn tell_each(
        &self,
        asked: Result<Told, Unanswered>,
        fetched: Result<Told, Unanswered>,
    ) {
        *self.source.answers.lock().unwrap() = [asked, fetched];
    }

    /// A form, from an address of its own.
    async fn post(&self, place: &str, from: &str, body: &str) -> Answer {
        let headers = [FORM, ("x-forwarded-for", from)];
        ask(self.addr, "POST", &format!("{PAGE}{place}"), &headers, body).await
    }
}

fn refused(reason: &str, retry_after_s: u32) -> Result<Told, Unanswered> {
    Ok(Told::Refused(CallerRefused { reason: reason.to_owned(), retry_after_s }))
}

/// The orders service with a key of alice's.
pub(super) fn keyed() -> (Draft, String) {
    let key = format!("kgk_alice_{}", "s".repeat(32));
    let mut draft = Draft::orders();
    draft.settings.identify.api_key = serde_json::from_value(json!({})).unwrap();
    draft.keys.push(KeyBody {
        prefix: "alice".to_owned(),
        sha256: Sha256::digest(key.as_bytes()).iter().map(|b| format!("{b:02x}")).collect(),
        principal: uid("user", "alice"),
        plan: String::new(),
        expires_unix_s: None,
        note: String::new(),
    });
    draft.limits = vec![json!({"name": "mine", "key": "principal", "rate": "100/h"})];
    (draft, key)
}

/// The page, with all that a browser must hear of it.
#[track_caller]
fn is_page(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(answer.headers["content-security-policy"].starts_with("default-src 'none'"));
    assert!(answer.headers.contains_key("x-request-id"));
    assert_eq!(matches!(status, 202 | 429 | 503), answer.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_from_the_replica() {
    let echo = Echo::start().await;
    let (draft, _) = keyed();
    let gate = TestGate::start(&draft, &echo.url).await;
    let page = get(gate.addr, PAGE, &[]).await;
    is_page(&page, 200);
    assert!(page.body.contains("/orders/{id}") && page.body.contains("x-api-key: $KEY"));
    assert!(page.body.contains("http://a.example/orders"));
    let chinese = get(gate.addr, PAGE, &[("accept-language", "zh-CN")]).await;
    assert_eq!(chinese.headers["content-language"], "zh-Hans");
    let chosen = get(gate.addr, &format!("{PAGE}?lang=zh-Hans"), &[]).await;
    assert_eq!(chosen.headers["content-language"], "zh-Hans");
    let style = get(gate.addr, &format!("{PAGE}/style.css"), &[]).await;
    assert_eq!(style.headers["content-type"], "text/css; charset=utf-8");
    let head = ask(gate.addr, "HEAD", PAGE, &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    // However old the replica is: nothing is decided here.
    gate.source.set_age(None);
    is_page(&get(gate.addr, PAGE, &[]).await, 200);
    // What looks like it, and is not, is the service's.
    for other in ["/.keepgate", "/.keepgate/api/", "/.keepgate/api/x", "/.keepgate/apis", "/keys"] {
        get(gate.addr, other, &[]).await.is_problem(404, "no-route");
    }
    for (method, place) in [("POST", ""), ("DELETE", ""), ("GET", "/ask"), ("GET", "/key")] {
        let answer = ask(gate.addr, method, &format!("{PAGE}{place}"), &[], "").await;
        answer.is_problem(405, "method-not-allowed");
        assert!(answer.headers.contains_key("allow"));
    }
    assert!(gate.metric("keepgate_gate_help_page_total").await >= 5.0);
    // Before there is a replica nothing is known of the API.
    let empty = TestGate::on(Arc::default(), &echo.url, |_| {}).await;
    get(empty.addr, PAGE, &[]).await.is_problem(503, "no-decision");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_page_is_can_be_set_and_turned_off() {
    let echo = Echo::start().await;
    let (mut draft, _) = keyed();
    draft.routes.push(route("GET", "/.keepgate/{*rest}"));
    let moved =
        TestGate::with(&draft, &echo.url, |config| config.help_page = "/help".to_owned()).await;
    is_page(&get(moved.addr, "/help", &[]).await, 200);
    // The service has its own page there.
    get(moved.addr, PAGE, &[]).await.is_problem(401, "unauthenticated");
    let off = TestGate::with(&draft, &echo.url, |config| config.help_page.clear()).await;
    get(off.addr, "/help", &[]).await.is_problem(404, "no-route");
    get(off.addr, PAGE, &[]).await.is_problem(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_told_what_it_may_do_and_has_left() {
    let echo = Echo::start().await;
    let (draft, key) = keyed();
    let gate = TestGate::start(&draft, &echo.url).await;
    let left = |answer: &Answer| {
        let text = answer.body.split(" of 100 left").next().unwrap();
        text.rsplit('>').next().unwrap().parse::<u32>().unwrap()
    };
    let shown = get(gate.addr, PAGE, &[("x-api-key", &key)]).await;
    is_page(&shown, 200);
    assert_eq!(left(&shown), 100);
    assert_eq!(get(gate.addr, "/orders", &[("x-api-key", &key)]).await.status, 200);
    let sent = format!("key={key}");
    let again = ask(gate.addr, "POST", &format!("{PAGE}/left"), &[FORM], &sent).await;
    assert_eq!(left(&again), 99, "a look takes nothing, and a request one");
    assert!(!again.body.contains(&"s".repeat(32)), "the secret is not repeated");
    for (operation, says) in
        [("GET /orders<", "May<"), ("GET /orders/secret<", "May not<"), ("* /public<", "")]
    {
        let operation = operation.replace("* ", "any ");
        let row = again.body.split(&*operation).nth(1).unwrap();
        let row = row.split("</tr>").next().unwrap();
        assert!(row.contains(says), "{operation}: {row}");
    }
    // What cannot be decided is not told as a refusal.
    gate.source.set_age(None);
    let old = get(gate.addr, PAGE, &[("x-api-key", &key)]).await;
    assert!(old.body.contains("Not known now") && !old.body.contains("May not<"));
    // An unknown key and a wrong secret look alike.
    let bodies: Vec<String> = {
        let wrong = ["kgk_alice_wrong", "kgk_nobody_wrong", "x"];
        let mut bodies = Vec::new();
        for wrong in wrong {
            bodies.push(get(gate.addr, PAGE, &[("x-api-key", wrong)]).await.body);
        }
        bodies
    };
    assert!(bodies[0].contains("not a key of this API") && bodies.iter().all(|b| *b == bodies[0]));
}

/// What single methods and routes have left is among it, with what it is for, and a look takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_told_what_single_routes_have_left() {
    let echo = Echo::start().await;
    let (mut draft, key) = keyed();
    draft.limits = vec![
        json!({"name": "mine", "key": "principal", "rate": "100/h"}),
        json!({"name": "one-route", "key": "api_key", "rate": "50/h", "route": "/orders", "plan": "*"}),
        json!({"name": "writes", "key": "api_key", "rate": "7/h", "methods": ["DELETE"],
               "route": "/orders/*", "plan": "*"}),
        json!({"name": "at-once", "key": "api_key", "concurrency": 3, "route": "/orders", "plan": "*"}),
        json!({"name": "unused", "key": "api_key", "rate": "9/h", "route": "/nothing/*", "plan": "*"}),
        json!({"name": "watched", "key": "api_key", "rate": "8/h", "plan": "*", "shadow": true}),
    ];
    draft.routes.push(route("DELETE", "/orders/{id}"));
    let gate = TestGate::start(&draft, &echo.url).await;
    let left = async || {
        let shown = get(gate.addr, PAGE, &[("x-api-key", &key)]).await;
        let (_, list) = shown.body.split_once("<dl>").unwrap();
        let (list, _) = list.split_once("</dl>").unwrap();
        let plain = list.split(['<', '>']).skip(2).step_by(2);
        plain.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("|")
    };
    let first = left().await;
    assert_eq!(
        first,
        "Plan|none|mine|100 of 100 left|writes| on DELETE /orders/*|7 of 7 left|\
         at-once| on /orders|3 of 3 left|one-route| on /orders|50 of 50 left"
    );
    assert_eq!(left().await, first, "a look takes nothing");
    assert_eq!(get(gate.addr, "/orders", &[("x-api-key", &key)]).await.status, 200);
    let after = left().await;
    assert!(after.contains("|99 of 100 left") && after.contains("|49 of 50 left"), "{after}");
    assert!(after.contains("|7 of 7 left"), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_reaches_the_center_and_its_answer_the_caller() {
    let echo = Echo::start().await;
    let gate = Doubled::start(&keyed().0, &echo.url).await;
    gate.tell(Ok(Told::Asked(AccessAsked { code: "c0de".to_owned() })));
    let asked = gate.post("/ask", "192.0.2.1", GOOD).await;
    is_page(&asked, 200);
    assert!(asked.body.contains("c0de"));
    let (service, address, question) = gate.source.questions.lock().unwrap().remove(0);
    assert_eq!((service.as_str(), address.as_str()), (SERVICE, "192.0.2.1"));
    let Question::AskAccess(ask) = question else { panic!("{question:?}") };
    assert_eq!((ask.who.as_str(), ask.per_day), ("Nightly import", 1_000));
    let (key, plan) = ("kgk_new_secret".to_owned(), "bulk".to_owned());
    gate.tell(Ok(Told::Key(KeyMade { key, plan })));
    let made = gate.post("/key", "192.0.2.2", "code=c0de").await;
    is_page(&made, 200);
    assert!(made.body.contains("kgk_new_secret") && made.body.contains("bulk"));
    for (from, answer, status, says) in [
        ("192.0.2.3", refused("unknown", 0), 404, "does not give a key"),
        ("192.0.2.4", refused("pending", 0), 202, "Nobody has decided"),
        ("192.0.2.5", refused("declined", 0), 410, "was declined"),
        ("192.0.2.6", refused("too-many", 7), 429, "in 7 s"),
        ("192.0.2.7", refused("full", 0), 503, "No more requests are taken"),
        ("192.0.2.8", refused("invalid", 0), 422, "cannot be asked"),
        ("192.0.2.9", refused("unavailable", 0), 503, "You are not declined"),
        // What a newer center says is not guessed at.
        ("192.0.2.10", refused("of-tomorrow", 0), 503, "You are not declined"),
        ("192.0.2.11", Ok(Told::Asked(AccessAsked::default())), 503, "You are not declined"),
        ("192.0.2.12", Err(Unanswered::NoCenter), 503, "You are not declined"),
        ("192.0.2.13", Err(Unanswered::Late), 503, "You are not declined"),
    ] {
        gate.tell(answer);
        let told = gate.post("/key", from, "code=c0de").await;
        is_page(&told, status);
        assert!(told.body.contains(says), "{says}: {}", told.body);
    }
    // What was written is still there.
    let asked = gate.post("/ask", "192.0.2.14", GOOD).await;
    is_page(&asked, 503);
    assert!(asked.body.contains("Nightly import"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_wrong_or_of_another_page_reaches_nobody() {
    let echo = Echo::start().await;
    let gate = Doubled::start(&keyed().0, &echo.url).await;
    let path = format!("{PAGE}/ask");
    let long = format!("{GOOD}&x={}", "x".repeat(1024));
    let huge = format!("{GOOD}&x={}", "x".repeat(3 * 1024));
    for (from, header, body, status) in [
        ("192.0.2.1", FORM, "who=&what_for=b&per_day=0", 422),
        ("192.0.2.2", FORM, long.as_str(), 400),
        ("192.0.2.3", FORM, huge.as_str(), 413),
        ("192.0.2.4", ("content-type", "text/plain"), GOOD, 400),
        ("192.0.2.5", ("x-none", ""), GOOD, 400),
    ] {
        let headers = [header, ("x-forwarded-for", from)];
        let answer = ask(gate.addr, "POST", &path, &headers, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    for (from, forged) in [
        ("192.0.2.6", ("origin", "https://evil.example")),
        ("192.0.2.7", ("sec-fetch-site", "cross-site")),
        ("192.0.2.8", ("sec-fetch-site", "same-site")),
    ] {
        let headers = [FORM, forged, ("x-forwarded-for", from)];
        ask(gate.addr, "POST", &path, &headers, GOOD).await.is_problem(400, "bad-request");
    }
    // In chunks, of which no length is announced.
    let chunk = format!("{:x}\r\n{huge}\r\n0\r\n\r\n", huge.len());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Type: {}\r\nX-Forwarded-For: 192.0.2.9\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        FORM.1
    );
    let answer = Answer::parse(&super::support::talk(gate.addr, head + &chunk).await);
    answer.is_problem(413, "body-too-large");
    let code = format!("code={}", "c".repeat(65));
    is_page(&gate.post("/key", "192.0.2.10", &code).await, 404);
    assert!(gate.source.questions.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_asks_ten_times_a_minute() {
    let echo = Echo::start().await;
    let gate = Doubled::start(&keyed().0, &echo.url).await;
    gate.tell(Ok(Told::Asked(AccessAsked::default())));
    let begun = std::time::Instant::now();
    let mut taken = 0;
    let refused = loop {
        let answer = gate.post("/ask", "192.0.2.1", GOOD).await;
        if answer.status == 429 {
            break answer;
        }
        taken += 1;
    };
    is_page(&refused, 429);
    // One comes back every 6 s.
    let most = 10 + begun.elapsed().as_secs() / 6 + 1;
    assert!((10..=most).contains(&taken), "{taken} in {:?}", begun.elapsed());
    assert_eq!(gate.source.questions.lock().unwrap().len() as u64, taken);
    // Another address, and another form of this one, are counted by themselves.
    is_page(&gate.post("/ask", "192.0.2.2", GOOD).await, 200);
    let tries = begun.elapsed().as_secs() / 6 + 12;
    let mut last = 0;
    for _ in 0..tries {
        last = gate.post("/key", "192.0.2.1", "code=x").await.status;
    }
    assert_eq!(last, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_leads_to_the_page() {
    let echo = Echo::start().await;
    let rules = json!([{"name": "few", "key": "address", "rate": "1/h"}]);
    for (help, path, leads_to) in [
        (None, PAGE, Some(PAGE)),
        (None, "", None),
        (Some("https://own.example/api"), PAGE, Some("https://own.example/api")),
    ] {
        let mut draft = limited(rules.clone());
        draft.settings.help = help.map(str::to_owned);
        draft.settings.limits.default = Defaults::Off;
        let gate =
            TestGate::with(&draft, &echo.url, |config| config.help_page = path.to_owned()).await;
        let refused = loop {
            let answer = get(gate.addr, "/orders", &[("x-user", "alice")]).await;
            if answer.status == 429 {
                break answer;
            }
        };
        let problem = refused.is_problem(429, "quota-exceeded");
        assert_eq!(problem.get("help").and_then(|help| help.as_str()), leads_to);
        let link = leads_to.map(|to| format!("<{to}>; rel=\"help\""));
        assert_eq!(refused.headers.get("link"), link.as_ref());
        // Who is over a limit can read how to get more.
        if !path.is_empty() {
            is_page(&get(gate.addr, path, &[]).await, 200);
        }
    }
}

/// The page and its forms are the same over HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_same_over_http_2() {
    let echo = Echo::start().await;
    let gate = Doubled::start(&keyed().0, &echo.url).await;
    gate.tell(Ok(Told::Asked(AccessAsked { code: "c0de".to_owned() })));
    let io = TokioIo::new(connect(gate.addr).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let huge = "x".repeat(4096);
    for (method, place, body, status, says) in [
        ("GET", "", "", 200, "http://a.example/orders"),
        ("POST", "/ask", GOOD, 200, "c0de"),
        ("POST", "/ask", huge.as_str(), 413, "body-too-large"),
        ("GET", "/ask", "", 405, "method-not-allowed"),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://a.example{PAGE}{place}"))
            .header(FORM.0, FORM.1)
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status(), status, "{method} {place}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(says), "{method} {place}");
    }
}
