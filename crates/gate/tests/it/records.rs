//! One record a request: each way in which one ends, at the gate and at the check listener.

use std::path::PathBuf;
use std::time::Duration;

use keepgate_gate::{Listen, RecordConfig};
use keepgate_record::{Destination, Entry, Format, Mark, Record, files};

use super::support::{Draft, Echo, TestGate, ask, get};

/// The records of a gate that has ended, by request id.
pub(crate) struct Written {
    dir: PathBuf,
}

impl Written {
    pub(crate) fn new(name: &str) -> Written {
        let dir = std::env::temp_dir().join(format!("keepgate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Written { dir }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("access.log")
    }

    pub(crate) fn config(&self) -> RecordConfig {
        RecordConfig::new(Destination::File(self.log()), "gate-1")
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.log()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn record(&self, request_id: &str) -> Record {
        let of = |line: &String| match Entry::of(line.as_bytes()) {
            Entry::Record(record) if record.request_id == request_id => Some(*record),
            _ => None,
        };
        let found: Vec<_> = self.lines().iter().filter_map(of).collect();
        let [record] = found.as_slice() else { panic!("{request_id}: {found:#?}") };
        record.clone()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_recorded_once() {
    let (echo, written) = (Echo::start().await, Written::new("records"));
    let mut draft = Draft::orders();
    draft.policies.push((
        "reads".to_owned(),
        "permit (principal, action, resource == route::\"/orders\") when { context.method == \"PUT\" };"
            .to_owned(),
    ));
    let gate = TestGate::with(&draft, &echo.url, |config| {
        config.records = Some(written.config());
        config.check_listen = vec![Listen::Tcp(([127, 0, 0, 1], 0).into())];
    })
    .await;
    let alice = |id: &'static str| [("x-user", "alice"), ("x-request-id", id)];
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = [("x-user", "alice"), ("x-request-id", "allowed"), ("traceparent", parent)];
    assert_eq!(ask(gate.addr, "POST", "/orders?secret=1", &traced, "body!").await.status, 200);
    assert_eq!(get(gate.addr, "/orders/7", &alice("again")).await.status, 200);
    assert_eq!(get(gate.addr, "/orders/secret", &alice("forbidden")).await.status, 403);
    let mallory = [("x-user", "mallory"), ("x-request-id", "no-permit")];
    assert_eq!(get(gate.addr, "/orders", &mallory).await.status, 403);
    let nobody = [("x-request-id", "nobody")];
    assert_eq!(get(gate.addr, "/orders", &nobody).await.status, 401);
    assert_eq!(get(gate.addr, "/public", &[("x-request-id", "anonymous")]).await.status, 200);
    assert_eq!(get(gate.addr, "/nowhere", &alice("no-route")).await.status, 404);
    assert_eq!(get(gate.addr, "/a/%zz", &alice("bad-path")).await.status, 400);
    let check = gate.check.unwrap();
    let asking = |path: &'static str, id: &'static str| {
        [
            ("x-original-method", "GET"),
            ("x-original-uri", path),
            ("x-real-ip", "127.0.0.1"),
            ("x-user", "alice"),
            ("x-request-id", id),
        ]
    };
    assert_eq!(get(check, "/auth", &asking("/orders", "checked")).await.status, 200);
    assert_eq!(get(check, "/auth", &asking("/orders/secret", "check-denied")).await.status, 403);
    let question = serde_json::json!({
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "GET"},
        "resource": {"type": "route", "id": "/orders"},
    });
    for (id, body, status) in
        [("authzen", question.to_string(), 200), ("no-question", "{}".into(), 400)]
    {
        let headers = [("x-request-id", id), ("content-type", "application/json")];
        let path = "/s/orders/access/v1/evaluation";
        assert_eq!(ask(check, "POST", path, &headers, &body).await.status, status);
    }
    gate.source.set_age(None);
    assert_eq!(get(gate.addr, "/orders", &alice("stale")).await.status, 503);
    gate.source.set_age(Duration::ZERO);
    drop(echo);
    // A connection of it may last a moment longer.
    let mut more = 1;
    while get(gate.addr, "/orders", &alice("more")).await.status < 500 {
        more += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(get(gate.addr, "/orders", &alice("no-upstream")).await.status >= 500);
    gate.stop().await;

    let of = |id: &str| {
        let record = written.record(id);
        (record.outcome.clone(), record.status.unwrap(), record.reason.clone())
    };
    let is = |id: &str, outcome: &str, status: u16, reason: &str| {
        assert_eq!(of(id), (outcome.to_owned(), status, reason.to_owned()), "{id}");
    };
    is("allowed", "allowed", 200, "");
    is("anonymous", "allowed", 200, "");
    is("forbidden", "denied", 403, "forbid");
    is("no-permit", "denied", 403, "no_permit");
    is("nobody", "unauthenticated", 401, "unauthenticated");
    is("no-route", "refused", 404, "no-route");
    is("bad-path", "refused", 400, "bad-path");
    is("checked", "allowed", 200, "");
    is("check-denied", "denied", 403, "forbid");
    is("stale", "cannot_decide", 503, "age_unknown");
    assert_eq!(of("no-upstream").0, "upstream_failed");
    is("authzen", "allowed", 200, "");
    is("no-question", "refused", 400, "bad-request");
    let asked = written.record("authzen");
    assert_eq!(
        (asked.principal.as_str(), asked.policies),
        ("user::\"alice\"", vec!["alice".to_owned()])
    );

    let allowed = written.record("allowed");
    let texts = [
        (&allowed.gate, "gate-1"),
        (&allowed.service, "orders"),
        (&allowed.principal, "user::\"alice\""),
        (&allowed.identified_by, "trusted_header"),
        (&allowed.address, "127.0.0.1"),
        (&allowed.method, "POST"),
        (&allowed.host, "a.example"),
        (&allowed.route, "/orders"),
        // Without its query.
        (&allowed.path, "/orders"),
        (&allowed.action, "Action::\"POST\""),
        (&allowed.resource, "route::\"/orders\""),
        (&allowed.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736"),
    ];
    for (found, expected) in texts {
        assert_eq!(found, expected);
    }
    assert_eq!((allowed.policies, allowed.revision), (vec!["alice".to_owned()], Some(1)));
    assert_eq!((allowed.bytes_in, allowed.reused), (Some(5), Some(false)));
    assert!(allowed.bytes_out.unwrap() > 0 && allowed.decide_ns.unwrap() > 0);
    assert!(allowed.total_us.unwrap() >= allowed.upstream_us.unwrap());
    assert!(allowed.age_ms.is_some() && !allowed.upstream_address.is_empty());
    // Of the context the policies read the method alone.
    let inputs = allowed.inputs.unwrap();
    assert_eq!(inputs, serde_json::json!({"context": {"method": "POST"}}));
    assert_eq!(written.record("anonymous").identified_by, "anonymous");
    assert_eq!(written.record("check-denied").policies, ["secret"]);
    // The gate ended in order, and what it wrote is whole.
    let report = keepgate_record::verify(&files::list(&written.log()).unwrap(), None);
    assert!(report.is_whole() && report.notes.is_empty(), "{report:#?}");
    assert_eq!((report.records, report.lost), (14 + more, 0), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_requests_are_sampled_and_denials_are_not() {
    let (echo, written) = (Echo::start().await, Written::new("sampled"));
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.workers = 1;
        config.records = Some(RecordConfig {
            samples: vec!["GET /public=4".parse().unwrap(), "/orders=0".parse().unwrap()],
            ..written.config()
        });
    })
    .await;
    for _ in 0..8 {
        assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
        assert_eq!(get(gate.addr, "/orders", &[("x-user", "alice")]).await.status, 200);
        assert_eq!(get(gate.addr, "/orders", &[("x-user", "mallory")]).await.status, 403);
        assert_eq!(get(gate.addr, "/orders/7", &[("x-user", "alice")]).await.status, 200);
    }
    assert_eq!(gate.metric("keepgate_gate_access_log_sampled_out_total").await, 14.0);
    gate.stop().await;
    let (mut allowed, mut denied, mut left_out) = (0, 0, 0);
    for line in written.lines() {
        match Entry::of(line.as_bytes()) {
            Entry::Record(record) if record.outcome == "allowed" => allowed += 1,
            Entry::Record(_) => denied += 1,
            Entry::Mark(Mark::SampledOut(count)) => left_out += count,
            _ => {}
        }
    }
    // Two of eight, none of eight, and all of the route without a rule.
    assert_eq!((allowed, denied, left_out), (10, 8, 14));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_formats_are_lines_of_theirs() {
    let (echo, written) = (Echo::start().await, Written::new("combined"));
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.records =
            Some(RecordConfig { format: Format::Combined, query: true, ..written.config() });
    })
    .await;
    let headers = [("x-user", "alice"), ("user-agent", "curl/8"), ("referer", "http://a/")];
    assert_eq!(get(gate.addr, "/orders?a=1", &headers).await.status, 200);
    gate.stop().await;
    let [line] = &*written.lines() else { panic!("{:?}", written.lines()) };
    let (before, after) = line.split_once('[').unwrap();
    assert_eq!(before, "127.0.0.1 - user::\\\"alice\\\" ");
    let (_, after) = after.split_once("] ").unwrap();
    assert!(after.starts_with("\"GET /orders?a=1 HTTP/1.1\" 200 "), "{line}");
    assert!(after.ends_with(" \"http://a/\" \"curl/8\""), "{line}");
}
