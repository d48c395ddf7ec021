//! W3C Trace Context: taken up and passed on, what is recorded, and examples in the histograms.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use keepgate_gate::Listen;
use keepgate_observe::span::{Sampler, Span, SpanKind, SpanSink, Tracing, Value};
use keepgate_observe::trace::TraceContext;

use super::support::{Draft, Echo, TestGate, get, talk};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Keeps all spans.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<Span>>);

impl SpanSink for Kept {
    fn take(&self, span: Span) {
        self.0.lock().unwrap().push(span);
    }
}

impl Kept {
    fn take_all(&self) -> Vec<Span> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn tracing(ratio: f64, kept: &Arc<Kept>) -> Option<Tracing> {
    let sampler = Sampler { ratio, parent_based: true, honors_callers: false };
    Some(Tracing { sampler, sink: Arc::<Kept>::clone(kept) })
}

/// The headers that the upstream saw.
fn seen(body: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in body.lines().filter_map(|line| line.split_once(": ")) {
        seen.entry(name).or_default().push(value);
    }
    seen
}

/// What the upstream was told.
fn context(body: &str) -> TraceContext {
    let seen = seen(body);
    let [said] = seen["traceparent"][..] else { panic!("not one in {body}") };
    TraceContext::parse(said.as_bytes()).unwrap_or_else(|| panic!("{said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tracing_what_came_is_passed_on_as_it_is() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    for said in [PARENT, "not one at all", "00-0-0-0"] {
        let state = "rojo=00f067aa0ba902b7";
        let headers = [("x-user", "alice"), ("traceparent", said), ("tracestate", state)];
        let answer = get(gate.addr, "/orders/7", &headers).await;
        let seen = seen(&answer.body);
        assert_eq!(
            (&seen["traceparent"][..], &seen["tracestate"][..]),
            (&[said][..], &[state][..])
        );
    }
    let answer = get(gate.addr, "/orders/7", &[("x-user", "alice")]).await;
    assert!(!answer.body.contains("traceparent"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_request_has_a_span_for_each_phase_and_its_upstream() {
    let echo = Echo::start().await;
    let kept: Arc<Kept> = Arc::default();
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.tracing = tracing(1.0, &kept);
    })
    .await;
    let headers = [
        ("x-user", "alice"),
        ("traceparent", PARENT),
        ("tracestate", "a=1, b=2"),
        ("tracestate", "c=3"),
    ];
    let answer = get(gate.addr, "/orders/7?secret=x", &headers).await;
    let told = context(&answer.body);
    assert_eq!(seen(&answer.body)["tracestate"], ["a=1,b=2,c=3"]);
    let spans = kept.take_all();
    let trace = told.trace_id.to_string();
    assert!(
        trace == TRACE && told.sampled && spans.iter().all(|span| span.trace_id == told.trace_id)
    );
    let (whole, steps) = spans.split_last().unwrap();
    assert_eq!((whole.kind, &*whole.name), (SpanKind::Server, "GET /orders/{id}"));
    assert_eq!(whole.parent.unwrap().to_string(), "b7ad6b7169203331");
    assert!(whole.is_parent_remote);
    let names: Vec<&str> = steps.iter().map(|span| &*span.name).collect();
    let phases =
        ["accept", "route", "limit_address", "identify", "limit_principal", "decide", "GET"];
    assert_eq!(names, phases);
    for step in steps {
        assert_eq!(step.parent, Some(whole.span_id));
        assert!(step.began >= whole.began && step.took <= whole.took, "{step:?} of {whole:?}");
        assert!(step.failed.is_none());
    }
    let upstream = steps.last().unwrap();
    assert_eq!((upstream.kind, upstream.span_id), (SpanKind::Client, told.span_id));
    let attributes: BTreeMap<&str, &Value> =
        whole.attributes.iter().map(|(name, value)| (*name, value)).collect();
    assert_eq!(attributes["keepgate.outcome"], &Value::from("allowed"));
    assert_eq!(attributes["http.response.status_code"], &Value::Number(200));
    assert!(!format!("{spans:?}").contains("secret"), "no query in {spans:?}");

    // One that ends early has the spans up to there, and nothing of an upstream.
    get(gate.addr, "/orders/7", &[("x-user", "bob")]).await.is_problem(403, "denied");
    let spans = kept.take_all();
    let (whole, steps) = spans.split_last().unwrap();
    assert_eq!((whole.parent, whole.is_parent_remote), (None, false), "it begins here");
    let names: Vec<&str> = steps.iter().map(|span| &*span.name).collect();
    assert_eq!(names, phases[..6]);
    assert!(spans.iter().all(|span| span.failed.is_none()), "a denial is no failure");

    // A dead upstream is one.
    let dead = TestGate::with(&Draft::orders(), "http://127.0.0.1:9", |config| {
        config.tracing = tracing(1.0, &kept);
    })
    .await;
    get(dead.addr, "/orders/7", &[("x-user", "alice")]).await.is_problem(502, "bad-upstream");
    let spans = kept.take_all();
    let failed: Vec<_> = spans.iter().filter_map(|span| span.failed.as_deref()).collect();
    assert_eq!(failed, ["upstream_failed"; 2], "{spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_replaced_and_no_caller_is_recorded_beyond_the_ratio() {
    let echo = Echo::start().await;
    let kept: Arc<Kept> = Arc::default();
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.tracing = tracing(0.0, &kept);
    })
    .await;
    let ask = async |said: &[&str], state: &str| {
        let mut headers = vec![("x-user", "alice"), ("tracestate", state)];
        headers.extend(said.iter().map(|said| ("traceparent", *said)));
        get(gate.addr, "/orders/7", &headers).await.body
    };
    for wrong in [&["nothing"][..], &[&PARENT[..54]], &[PARENT, PARENT], &[]] {
        let body = ask(wrong, "a=1").await;
        let told = context(&body);
        assert!(told.trace_id.to_string() != TRACE && !told.sampled);
        assert!(!seen(&body).contains_key("tracestate"), "it was of another trace");
    }
    // The caller wants it recorded; the gate does not, and says so to the upstream.
    let body = ask(&[PARENT], "a=1").await;
    let told = context(&body);
    assert_eq!((told.trace_id.to_string().as_str(), told.sampled), (TRACE, false));
    assert_eq!(told.span_id.to_string(), "b7ad6b7169203331", "nothing lies between");
    let long = format!("a={},b=1", "x".repeat(257));
    assert!(!seen(&ask(&[PARENT], &long).await).contains_key("tracestate"));
    assert!(kept.take_all().is_empty());

    let honoring = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.tracing = tracing(0.0, &kept);
        config.honors_sampled = true;
    })
    .await;
    let headers = [("x-user", "alice"), ("traceparent", PARENT)];
    assert!(context(&get(honoring.addr, "/orders/7", &headers).await.body).sampled);
    assert_eq!(kept.take_all().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_another_proxy_is_recorded_under_the_callers_trace() {
    let kept: Arc<Kept> = Arc::default();
    let gate = TestGate::with(&Draft::orders(), "", |config| {
        config.tracing = tracing(1.0, &kept);
        config.listen = Listen::Nowhere;
        config.check_listen = vec!["127.0.0.1:0".parse().unwrap()];
    })
    .await;
    let headers = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", "/orders/7"),
        ("x-forwarded-host", "a.example"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-user", "alice"),
        ("traceparent", PARENT),
    ];
    assert_eq!(get(gate.check.unwrap(), "/forward-auth", &headers).await.status, 200);
    let spans = kept.take_all();
    let (whole, steps) = spans.split_last().unwrap();
    assert!(
        whole.trace_id.to_string() == TRACE
            && whole.attributes.contains(&("keepgate.check", Value::from("forward_auth")))
    );
    assert_eq!(steps.len(), 6, "no upstream: {spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn histograms_by_site_and_outcome_name_a_trace_in_open_metrics_alone() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let traced = [("x-user", "alice"), ("traceparent", PARENT)];
    assert_eq!(get(gate.addr, "/orders/7", &traced).await.status, 200);
    get(gate.addr, "/orders/7", &[("x-user", "bob")]).await.is_problem(403, "denied");
    let bad = talk(gate.addr, "GET /orders HTTP/1.1\r\nHost: a..b\r\nConnection: close\r\n\r\n");
    assert!(bad.await.contains("400 Bad Request"));
    let page = get(gate.admin, "/metrics", &[]).await;
    assert!(page.headers["content-type"].starts_with("text/plain"), "{page:?}");
    assert!(!page.body.contains(TRACE));
    for (series, count) in [
        (r#"request_seconds_count{site="*",outcome="allowed"}"#, 1),
        (r#"request_seconds_count{site="*",outcome="denied"}"#, 1),
        (r#"request_seconds_count{site="none",outcome="refused"}"#, 1),
        (r#"decision_seconds_count{site="*",outcome="denied"}"#, 1),
        (r#"upstream_seconds_count{site="*",outcome="allowed"}"#, 1),
    ] {
        let line = format!("keepgate_gate_{series} {count}\n");
        assert!(page.body.contains(&line), "no {line} in {}", page.body);
    }
    assert!(!page.body.contains(r#"upstream_seconds_count{site="*",outcome="denied"}"#));

    let page = get(gate.admin, "/metrics", &[("accept", "application/openmetrics-text")]).await;
    assert!(page.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(page.body.ends_with("# EOF\n"));
    let exemplar = format!("# {{trace_id=\"{TRACE}\"}} 0.");
    let named = |name: &str| {
        page.body.lines().any(|line| line.starts_with(name) && line.contains(&exemplar))
    };
    for kind in ["request", "decision", "upstream"] {
        let name = format!("keepgate_gate_{kind}_seconds_bucket{{site=\"*\",outcome=\"allowed\"");
        assert!(named(&name), "{kind}: {}", page.body);
        let denied = name.replace("allowed", "denied");
        assert!(!named(&denied), "that request belongs to no trace");
    }
    // Every sample of a counter has the ending that OpenMetrics asks for.
    let mut counter = None;
    for line in page.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            counter = rest.strip_suffix(" counter").map(str::to_owned);
        } else if let (Some(counter), false) = (&counter, line.starts_with('#')) {
            assert!(line.starts_with(&format!("{counter}_total")), "{line}");
        }
    }
}
