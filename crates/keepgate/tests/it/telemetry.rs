//! OpenTelemetry: a collector that is not ours gets the spans of one request through gate and upstream
//! under one trace id, and metrics and log lines, over TLS; a real Prometheus gets the exemplars; a
//! receiver that takes nothing delays nobody.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Running, Scratch, eventually, free_port, keepgate, skipped, text};
use crate::requests::Http;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A service whose routes anybody may `GET`.
fn policy(scratch: &Scratch) -> String {
    scratch.write("policy/service.toml", "name = \"orders\"\n[limits]\ndefault = \"off\"\n");
    let route = "[[route]]\nmethod = \"GET\"\npath = \"/orders/{id}\"\nanonymous = true\n";
    scratch.write("policy/routes.toml", route);
    scratch.write("policy/all.cedar", "permit (principal, action, resource);\n");
    scratch.join("policy").display().to_string()
}

/// `keepgate up` that tells a receiver of itself, soon.
fn up(scratch: &Scratch, upstream: &str, receiver: &str, more: &[(&str, &str)]) -> Running {
    let mut command = keepgate();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env("OTEL_BLRP_SCHEDULE_DELAY", "50")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "300")
        .envs(more.iter().copied());
    let (policy, data) = (policy(scratch), scratch.join("data").display().to_string());
    let any = "127.0.0.1:0";
    let args = [
        "up",
        "--json",
        "--upstream",
        upstream,
        "--policy",
        &policy,
        "--data",
        &data,
        "--listen",
        any,
        "--center",
        any,
        "--admin-listen",
        any,
        "--workers",
        "1",
    ];
    Running::start(command, &args)
}

/// A span as the collector shows it.
#[derive(Debug)]
struct Shown {
    trace: String,
    parent: String,
    id: String,
    name: String,
    kind: String,
    service: String,
}

/// The spans in what the collector has printed.
fn spans(printed: &str) -> Vec<Shown> {
    let mut spans: Vec<Shown> = Vec::new();
    let mut service = String::new();
    let mut in_span = false;
    for line in printed.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("-> service.name: Str(") {
            service = name.trim_end_matches(')').to_owned();
        }
        if line.starts_with("Span #") {
            in_span = true;
            spans.push(Shown {
                trace: String::new(),
                parent: String::new(),
                id: String::new(),
                name: String::new(),
                kind: String::new(),
                service: service.clone(),
            });
        }
        if line.starts_with("Resource") || line.starts_with("Status code") {
            in_span = false;
        }
        let Some(((key, value), span)) = line.split_once(':').zip(spans.last_mut()) else {
            continue;
        };
        let value = value.trim().to_owned();
        match key.trim() {
            "Trace ID" if in_span => span.trace = value,
            "Parent ID" if in_span => span.parent = value,
            "ID" if in_span => span.id = value,
            "Name" if in_span => span.name = value,
            "Kind" if in_span => span.kind = value,
            _ => {}
        }
    }
    spans
}

#[test]
fn a_collector_gets_one_trace_through_gate_and_upstream() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/fixtures/telemetry");
    let (receiver, python) = (format!("{fixtures}/receiver"), format!("{fixtures}/bin/python"));
    if !PathBuf::from(&receiver).exists() {
        return skipped("the collector is not there: scripts/fetch-fixtures");
    }
    let scratch = Scratch::new();
    let (grpc, http) = (free_port(), free_port());
    let printed = scratch.join("collector.log");
    let file = std::fs::File::create(&printed).unwrap();
    let mut command = Command::new(receiver);
    command
        .args(["start", "--exporter", "blackhole", "--disable-batching"])
        .args(["--debug-log", "traces", "--debug-log", "metrics", "--debug-log", "logs"])
        .args(["--debug-log-verbosity", "detailed"])
        .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
        .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
        .stdin(Stdio::null())
        .stderr(file.try_clone().unwrap())
        .stdout(file);
    let collector = Child(command.spawn().unwrap());
    let shown = || std::fs::read_to_string(&printed).unwrap_or_default();
    eventually("the collector listens", || Http::try_new(&format!("127.0.0.1:{grpc}"), &[]).ok());

    let at = format!("http://127.0.0.1:{grpc}");
    let Some(front) = Front::start(&scratch, grpc) else {
        return skipped("nginx is not installed");
    };
    let trusted = [("OTEL_EXPORTER_OTLP_CERTIFICATE", front.certificate.as_str())];
    let port = free_port();
    let mut upstream = Command::new(python);
    upstream.env("OTEL_EXPORTER_OTLP_ENDPOINT", &at).env("OTEL_SERVICE_NAME", "upstream");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/telemetry/upstream.py");
    let mut upstream = Running::start(upstream, &[script, &port.to_string()]);
    assert_eq!(upstream.line(), "ready");

    let mut keepgate = up(&scratch, &format!("http://127.0.0.1:{port}"), &front.url, &trusted);
    let said = keepgate.json();
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let mut caller = Http::new(&text(&said, "/gate"), &[("traceparent", &traceparent)]);
    assert_eq!(caller.get("/orders/7").status, 200);

    let trace = eventually("all spans of the request are there", || {
        let mut spans = spans(&shown());
        spans.retain(|span| span.trace == TRACE);
        (spans.len() >= 9).then_some(spans)
    });
    let find = |name: &str| {
        let mut found = trace.iter().filter(|span| span.name == name);
        let (Some(span), None) = (found.next(), found.next()) else {
            panic!("{name} in {trace:?}")
        };
        span
    };
    let whole = find("GET /orders/{id}");
    assert_eq!((whole.parent.as_str(), whole.kind.as_str()), (CALLER, "SPAN_KIND_SERVER"));
    for phase in ["accept", "route", "limit_address", "identify", "limit_principal", "decide"] {
        assert_eq!(find(phase).parent, whole.id, "{phase}");
    }
    let asked = find("GET");
    assert_eq!((&asked.parent, asked.kind.as_str()), (&whole.id, "SPAN_KIND_CLIENT"));
    let work = find("upstream work");
    assert_eq!((&work.parent, work.service.as_str()), (&asked.id, "upstream"));
    assert_eq!(whole.service, "keepgate");

    // The gate's stream to its center is one trace, on both sides.
    let streams = eventually("both ends of the stream are there", || {
        let spans = spans(&shown());
        let gate = spans.iter().find(|span| span.name == "keepgate.sync.v1.Sync/Follow")?;
        let center = spans.iter().find(|span| span.parent == gate.id)?;
        Some([gate, center].map(|span| (span.trace.clone(), span.name.clone(), span.kind.clone())))
    });
    let [gate, center] = streams;
    assert_eq!((&gate.0, gate.2.as_str()), (&center.0, "SPAN_KIND_CLIENT"));
    let route = "POST /keepgate.sync.v1.Sync/Follow";
    assert_eq!((center.1.as_str(), center.2.as_str()), (route, "SPAN_KIND_SERVER"));

    // A command passes on the trace that it is part of.
    let other = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut command = crate::harness::keepgate();
    command.env("TRACEPARENT", format!("00-{other}-{CALLER}-01"));
    let token = scratch.join("data/admin.token").display().to_string();
    command.args(["token", "list", "--center", &text(&said, "/center"), "--token-file", &token]);
    let listed = crate::harness::run(command);
    assert_eq!(listed.code, 0, "{listed:?}");
    let span = eventually("the command's request is there", || {
        spans(&shown()).into_iter().find(|span| span.trace == other)
    });
    assert_eq!((span.name.as_str(), span.parent.as_str()), ("GET /v1/tokens", CALLER));
    for name in [
        "keepgate_gate_request_seconds",
        "keepgate_gate_requests_total",
        "keepgate_center_revision",
    ] {
        eventually(name, || shown().contains(&format!("-> Name: {name}")).then_some(()));
    }
    // The histogram names the trace as its example.
    let exemplar = || {
        let shown = shown();
        let at = shown.find("Exemplar #")?;
        shown[at..].contains(TRACE).then_some(())
    };
    eventually("an exemplar", exemplar);
    let Some(prometheus) = Prometheus::start(&scratch, &text(&said, "/metrics")) else {
        return skipped("Debian's prometheus is not installed");
    };
    for kind in ["request", "decision", "upstream"] {
        let name = format!("keepgate_gate_{kind}_seconds_bucket");
        eventually(&name, || prometheus.exemplars(&name).contains(TRACE).then_some(()));
    }
    eventually("a line of the log", || shown().contains("LogRecord #").then_some(()));
    assert!(shown().contains("deployment.environment.name: Str(test)"));
    assert!(!keepgate.stderr().contains("s3cret") && !shown().contains("s3cret"));
    keepgate.stop();
    // Every signal had the header, which is a secret, and went over TLS.
    let log = std::fs::read_to_string(scratch.join("front/access.log")).unwrap();
    for signal in ["TraceService", "MetricsService", "LogsService"] {
        assert!(log.contains(&format!("{signal}/Export 200 Bearer s3cret")), "{log}");
    }
    assert!(log.lines().all(|line| line.ends_with("Bearer s3cret")), "{log}");
    drop((upstream, collector));
}

#[test]
fn a_receiver_that_takes_nothing_delays_nobody() {
    // One that nobody listens at, and one that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = format!("http://{}", silent.local_addr().unwrap());
    let dead_at = format!("http://127.0.0.1:{}", free_port());
    let upstream = free_port();
    let scratches = [Scratch::new(), Scratch::new()];
    for (scratch, at) in scratches.iter().zip([dead_at, silent_at]) {
        let queue = [("OTEL_BSP_MAX_QUEUE_SIZE", "16"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "500")];
        let mut keepgate = up(scratch, &format!("http://127.0.0.1:{upstream}"), &at, &queue);
        let said = keepgate.json();
        let mut caller = Http::new(&text(&said, "/gate"), &[]);
        let began = Instant::now();
        for _ in 0..200 {
            // Nobody listens at the upstream either.
            assert_eq!(caller.get("/orders/7").status, 502);
        }
        // Each would have taken half a second.
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        let admin = text(&said, "/metrics");
        let dropped = |signal: &str| {
            let page = Http::new(&admin, &[]).get("/metrics").text();
            let line = format!("keepgate_gate_telemetry_dropped_total{{signal=\"{signal}\"}} ");
            let value = page.lines().find_map(|l| l.strip_prefix(&line)?.parse::<u64>().ok());
            value.unwrap_or_else(|| panic!("no {line} in {page}"))
        };
        // 200 requests have eight spans each, of which few are waiting.
        eventually("most spans are dropped and counted", || {
            (dropped("spans") > 1_000).then_some(())
        });
        eventually("metrics are", || (dropped("metrics") > 0).then_some(()));
        let began = Instant::now();
        keepgate.stop_but(&["the OTLP receiver does not take", "the upstream failed a request"]);
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
}

/// TLS before the collector, whose log has the header that was sent.
struct Front {
    url: String,
    certificate: String,
    _nginx: Child,
}

impl Front {
    /// None: there is no nginx.
    fn start(scratch: &Scratch, collector: u16) -> Option<Front> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = scratch.write("front/cert.pem", &made.cert.pem());
        scratch.write("front/key.pem", &made.signing_key.serialize_pem());
        let port = free_port();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}
            http {{
              log_format seen '$uri $status $http_authorization'; access_log access.log seen;
              client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
              uwsgi_temp_path uwsgi; scgi_temp_path scgi;
              server {{
                listen 127.0.0.1:{port} ssl http2;
                ssl_certificate cert.pem; ssl_certificate_key key.pem;
                location / {{ grpc_pass grpc://127.0.0.1:{collector}; }}
              }}
            }}"
        );
        let config = scratch.write("front/nginx.conf", &config);
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(scratch.join("front")).arg("-c").arg(config);
        nginx.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nginx = nginx.spawn().ok()?;
        let nginx = Child(nginx);
        eventually("nginx listens", || Http::try_new(&format!("127.0.0.1:{port}"), &[]).ok());
        let certificate = certificate.display().to_string();
        Some(Front { url: format!("https://localhost:{port}"), certificate, _nginx: nginx })
    }
}

/// A real Prometheus that scrapes a gate.
struct Prometheus {
    url: String,
    _process: Child,
}

impl Prometheus {
    /// None: there is none.
    fn start(scratch: &Scratch, metrics: &str) -> Option<Prometheus> {
        let target = metrics.trim_start_matches("http://");
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n  \
             - {{job_name: gate, static_configs: [{{targets: [\"{target}\"]}}]}}\n"
        );
        let (config, port) = (scratch.write("prometheus.yml", &config), free_port());
        let url = format!("127.0.0.1:{port}");
        let mut command = Command::new("prometheus");
        command
            .arg("--config.file")
            .arg(config)
            .arg("--storage.tsdb.path")
            .arg(scratch.join("prometheus"))
            .args(["--web.listen-address", &url, "--enable-feature=exemplar-storage"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Child(command.spawn().ok()?);
        eventually("Prometheus listens", || Http::try_new(&url, &[]).ok());
        Some(Prometheus { url, _process: process })
    }

    /// What it knows of the examples of a histogram.
    fn exemplars(&self, name: &str) -> String {
        let end = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 60;
        let from = end - 600;
        let path = format!("/api/v1/query_exemplars?query={name}&start={from}&end={end}");
        Http::new(&self.url, &[]).get(&path).text()
    }
}

/// Is ended with the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
