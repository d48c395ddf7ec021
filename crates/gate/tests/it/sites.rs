//! Several sites behind one gate: which service decides, what the upstream gets, and what is told of
//! each.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use keepgate_client::pool::PoolConfig;
use keepgate_gate::config::file;
use keepgate_gate::{FixedSource, GateConfig, Listen, TlsFiles, UnixAccess};
use keepgate_policy::model::PolicyBody;
use keepgate_policy::route::Route;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Digest, Item, ItemBody, Revision, Snapshot, World};
use serde_json::{Value, json};

use super::support::{Answer, Draft, Echo, TestGate, ask, eventually, get, route, serve, talk};

/// A service whose route `/who` is for anybody, and whose policy permits it or not.
struct Tiny {
    settings: Value,
    routes: Vec<Route>,
    permits: bool,
}

impl Tiny {
    fn new(permits: bool) -> Tiny {
        let mut open = route("*", "/{*rest}");
        open.anonymous = true;
        let mut root = route("*", "/");
        root.anonymous = true;
        let settings = json!({
            "limits": {"default": "off"},
            "identify": {"trusted_header": {"header": "x-user", "peers": ["127.0.0.0/8", "::1"]}},
        });
        Tiny { settings, routes: vec![root, open], permits }
    }

    fn with(mut self, key: &str, value: Value) -> Tiny {
        self.settings[key] = value;
        self
    }

    fn route(mut self, body: Value) -> Tiny {
        self.routes.push(serde_json::from_value(body).unwrap());
        self
    }
}

fn world(services: &[(&str, Tiny)], revision: u64) -> World {
    let mut items = Vec::new();
    for (name, tiny) in services {
        let mut settings = tiny.settings.clone();
        settings["name"] = json!(name);
        let settings: ServiceSettings = serde_json::from_value(settings).unwrap();
        items.push(Item::new(name, "", ItemBody::Service(Box::new(settings))));
        for route in &tiny.routes {
            let id = format!("{} {}", route.method, route.path);
            items.push(Item::new(name, &id, ItemBody::Route(Box::new(route.clone()))));
        }
        if tiny.permits {
            let text = "permit (principal, action, resource);".to_owned();
            let body = PolicyBody { text, file: String::new() };
            items.push(Item::new(name, "all", ItemBody::Policy(body)));
        }
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let digest = Digest::of_all(&items);
    World::from_snapshot(&Snapshot { revision: Revision(revision), digest, items }).unwrap()
}

/// A gate with the sites of a file; `URL` in it is the echo's address.
async fn gate(world: World, echo: &Echo, text: &str) -> TestGate {
    gate_with(world, echo, text, |_| {}).await
}

async fn gate_with(
    world: World,
    echo: &Echo,
    text: &str,
    change: impl FnOnce(&mut GateConfig),
) -> TestGate {
    let text = text.replace("URL", &echo.url);
    let dir = std::env::temp_dir();
    let read = file::read(&text, &dir, &PoolConfig::default()).unwrap_or_else(|faults| {
        let told: Vec<String> = faults.iter().map(|fault| fault.shown("gate.toml")).collect();
        panic!("{told:#?}")
    });
    TestGate::on(Arc::new(FixedSource::new(world)), "", |config| {
        config.service = String::new();
        (config.sites, config.upstreams) = (read.sites, read.upstreams);
        change(config);
    })
    .await
}

async fn at(gate: &TestGate, host: &str, path: &str) -> Answer {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    Answer::parse(&talk(gate.addr, text).await)
}

const SITES: &str = r#"
[upstream.one]
addresses = "URL"
[upstream.two]
addresses = ["URL"]

[[site]]
hosts = ["shop.example", "*.shop.example"]
path = "/api/orders"
strip_prefix = true
service = "orders"
upstream = "one"
request_headers = { set = { "x-env" = "prod" }, remove = ["x-debug"] }

[[site]]
hosts = ["shop.example"]
service = "shop"
upstream = "two"

[[site]]
hosts = ["admin.example"]
path = "/admin"
service = "admin"
upstream = "two"
"#;

fn three() -> World {
    world(&[("admin", Tiny::new(false)), ("orders", Tiny::new(true)), ("shop", Tiny::new(true))], 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn host_and_path_lead_to_a_service_and_its_upstream() {
    let echo = Echo::start().await;
    let gate = gate(three(), &echo, SITES).await;
    for (host, path, forwarded) in [
        ("shop.example", "/api/orders/7?q=1", "GET /7?q=1\n"),
        ("a.shop.example", "/api/orders", "GET /\n"),
        ("SHOP.example:8443", "/api/orders/", "GET /\n"),
        ("shop.example", "/api/%6Frders/7", "GET /7\n"),
        ("shop.example", "/x/../api/orders/7", "GET /7\n"),
        ("shop.example", "/api//orders/7", "GET /7\n"),
        ("shop.example", "/api/ordersx", "GET /api/ordersx\n"),
        ("shop.example", "/api", "GET /api\n"),
    ] {
        let answer = at(&gate, host, path).await;
        assert_eq!(answer.status, 200, "{host}{path}: {answer:?}");
        assert!(answer.body.contains(forwarded), "{host}{path}: {}", answer.body);
    }
    // The service of the path decides, and no other.
    at(&gate, "admin.example", "/admin").await.is_problem(403, "denied");
    at(&gate, "admin.example", "/admin/x").await.is_problem(403, "denied");
    at(&gate, "admin.example", "/").await.is_problem(404, "no-route");
    at(&gate, "a.shop.example", "/").await.is_problem(404, "no-route");
    at(&gate, "other.example", "/api/orders").await.is_problem(421, "misdirected");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_set_and_removed_and_cannot_be_forged() {
    let echo = Echo::start().await;
    let gate = gate(three(), &echo, SITES).await;
    let ask = async |path: &str| {
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: shop.example\r\nX-Env: test\r\nX-Debug: 1\r\n\
             Connection: close\r\n\r\n"
        );
        Answer::parse(&talk(gate.addr, text).await).body
    };
    let body = ask("/api/orders").await;
    assert!(body.contains("x-env: prod\n") && !body.contains("x-env: test"), "{body}");
    assert!(!body.contains("x-debug"), "{body}");
    let body = ask("/").await;
    assert!(body.contains("x-env: test\n") && body.contains("x-debug: 1\n"), "{body}");
}

/// Two services share one upstream. Whatever way the path of one is written, the other's policies
/// never decide about it: as the upstream might read it, it would be a way around them.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_leads_around_the_service_of_a_path() {
    let sites = r#"
[upstream.u]
addresses = "URL"
[[site]]
path = "/admin"
service = "admin"
upstream = "u"
[[site]]
service = "open"
upstream = "u"
"#;
    let echo = Echo::start().await;
    for keep in [
        json!({}),
        json!({"paths": "exact"}),
        json!({"paths": "strict"}),
        json!({"empty_segments": "keep"}),
        json!({"path_parameters": "keep", "encoded_slash": "keep"}),
        json!({"paths_fold": "case"}),
        json!({
            "paths": "exact", "empty_segments": "keep", "path_parameters": "keep",
            "encoded_slash": "keep", "paths_fold": "case",
        }),
    ] {
        let mut open = Tiny::new(true);
        for (key, value) in keep.as_object().unwrap() {
            open = open.with(key, value.clone());
        }
        let world = world(&[("admin", Tiny::new(false)), ("open", open)], 1);
        let gate = gate(world, &echo, sites).await;
        assert_eq!(at(&gate, "a", "/other").await.status, 200, "{keep}");
        for path in [
            "/admin",
            "/admin/x",
            "/%61dmin/x",
            "/x/../admin",
            "/./admin",
            "/x//../admin",
            "//admin",
            "/admin;x/y",
            "/admin%3Bx/y",
            "/admin%2Fx",
            "/admin./x",
            "/admin%20/x",
            "/x/%2e%2e/admin",
            "/admin/",
        ] {
            let answer = at(&gate, "a", path).await;
            assert!(matches!(answer.status, 400 | 403), "{keep} {path}: {answer:?}");
        }
        if keep["paths_fold"] == "case" {
            for path in ["/ADMIN", "/Admin/x", "/aDmin;x"] {
                let answer = at(&gate, "a", path).await;
                assert!(matches!(answer.status, 400 | 403), "{keep} {path}: {answer:?}");
            }
        }
    }
}

/// With exact paths the bytes that came are forwarded, without the prefix as it is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_stripped_from_exact_paths() {
    let sites = r#"
[upstream.u]
addresses = "URL"
[[site]]
path = "/api"
strip_prefix = true
service = "s"
upstream = "u"
"#;
    let echo = Echo::start().await;
    let world = world(&[("s", Tiny::new(true).with("paths", json!("exact")))], 1);
    let gate = gate(world, &echo, sites).await;
    let answer = at(&gate, "a", "/api/%7Ex?y=%7E").await;
    assert!(answer.body.contains("GET /%7Ex?y=%7E\n"), "{answer:?}");
    at(&gate, "a", "/%61pi/x").await.is_problem(400, "bad-path");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_has_its_own_bounds() {
    let sites = r#"
[upstream.u]
addresses = "URL"
[[site]]
path = "/small"
service = "s"
upstream = "u"
body_bytes = 4
[[site]]
service = "s"
upstream = "u"
body_bytes = "200MB"
"#;
    let echo = Echo::start().await;
    let gate = gate(world(&[("s", Tiny::new(true))], 1), &echo, sites).await;
    assert_eq!(ask(gate.addr, "POST", "/small", &[], "1234").await.status, 200);
    let answer = ask(gate.addr, "POST", "/small", &[], "12345").await;
    answer.is_problem(413, "body-too-large");
    // Also where its length is not announced.
    let chunked = "POST /small HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\
                   Connection: close\r\n\r\n5\r\n12345\r\n0\r\n\r\n";
    Answer::parse(&talk(gate.addr, chunked).await).is_problem(413, "body-too-large");
    assert_eq!(ask(gate.addr, "POST", "/large", &[], "12345").await.status, 200);
}

/// A route overrides its service, which overrides the site.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_and_a_route_have_their_own_bound_of_bodies() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.body_bytes = Some(4);
    for (path, bytes) in [("/large", Some(8)), ("/small", Some(2)), ("/as-the-service", None)] {
        let mut route = route("POST", path);
        (route.anonymous, route.body_bytes) = (true, bytes);
        draft.routes.push(route);
    }
    draft.policies.push(("all".to_owned(), "permit (principal, action, resource);".to_owned()));
    let gate = TestGate::with(&draft, &echo.url, |config| config.bounds.body_bytes = 1).await;
    for (path, most) in [("/large", 8), ("/small", 2), ("/as-the-service", 4)] {
        let body = "x".repeat(most + 1);
        let chunked = |body: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\
                 Connection: close\r\n\r\n{}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )
        };
        assert_eq!(ask(gate.addr, "POST", path, &[], &body[..most]).await.status, 200, "{path}");
        ask(gate.addr, "POST", path, &[], &body).await.is_problem(413, "body-too-large");
        let announced = Answer::parse(&talk(gate.addr, chunked(&body[..most])).await);
        assert_eq!(announced.status, 200, "{path}");
        let over = Answer::parse(&talk(gate.addr, chunked(&body)).await);
        over.is_problem(413, "body-too-large");
    }
}

/// 200 MB in one request: refused by default, and streamed where a site allows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_arrives_where_the_site_allows_it() {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    const SIZE: usize = 200_000_000;
    let counting = serve(|request| async move {
        let mut body = request.into_body();
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
        }
        http::Response::new(http_body_util::Full::new(bytes::Bytes::from(bytes.to_string())))
    })
    .await;
    let sites = r#"
[upstream.u]
addresses = "URL"
[[site]]
path = "/large"
service = "s"
upstream = "u"
body_bytes = "200MB"
[[site]]
service = "s"
upstream = "u"
"#;
    let gate = gate(world(&[("s", Tiny::new(true))], 1), &counting, sites).await;
    let head = |path: &str, size: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        )
    };
    let mut stream = super::support::connect(gate.addr).await;
    stream.write_all(head("/large", SIZE).as_bytes()).await.unwrap();
    let part = vec![b'x'; 1_000_000];
    for _ in 0..SIZE / part.len() {
        stream.write_all(&part).await.unwrap();
    }
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("200000000"), "{said}");
    let answer = Answer::parse(&talk(gate.addr, head("/large", SIZE + 1)).await);
    answer.is_problem(413, "body-too-large");
    Answer::parse(&talk(gate.addr, head("/", SIZE)).await).is_problem(413, "body-too-large");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_metrics_are_told_by_service() {
    let echo = Echo::start().await;
    // One of the three is not in the replica.
    let world = world(&[("orders", Tiny::new(true)), ("admin", Tiny::new(false))], 7);
    let gate = gate(world, &echo, SITES).await;
    let ready = get(gate.admin, "/readyz", &[]).await;
    assert_eq!((ready.status, ready.headers["content-type"].as_str()), (200, "application/json"));
    let body = ready.json();
    assert_eq!(body["ready"], true);
    let of = |body: &Value, name: &str| {
        let all = body["services"].as_array().unwrap().clone();
        all.into_iter().find(|service| service["service"] == name).unwrap()
    };
    assert_eq!(of(&body, "orders")["revision"], 7);
    assert_eq!(of(&body, "orders")["age_ms"], 0);
    assert_eq!(of(&body, "orders")["missing"], Value::Null);
    assert!(of(&body, "shop")["missing"].as_str().unwrap().contains("does not know the service"));
    assert_eq!(get(gate.admin, "/readyz?service=orders", &[]).await.status, 200);
    assert_eq!(get(gate.admin, "/readyz?service=shop", &[]).await.status, 503);
    assert_eq!(get(gate.admin, "/readyz?service=other", &[]).await.status, 404);
    // Its own callers get 503, and nobody else.
    at(&gate, "shop.example", "/").await.is_problem(503, "no-decision");
    assert_eq!(at(&gate, "shop.example", "/api/orders").await.status, 200);
    at(&gate, "admin.example", "/admin").await.is_problem(403, "denied");
    for (line, value) in [
        ("keepgate_gate_service_ready{service=\"orders\"}", 1.0),
        ("keepgate_gate_service_ready{service=\"shop\"}", 0.0),
        ("keepgate_gate_service_revision{service=\"orders\"}", 7.0),
        ("keepgate_gate_upstream_requests_total{upstream=\"one\"}", 1.0),
        ("keepgate_gate_upstream_requests_total{upstream=\"two\"}", 0.0),
    ] {
        assert_eq!(gate.metric(line).await, value, "{line}");
    }
    let count = |service: &str, outcome: &str, status: &str| {
        format!(
            "keepgate_gate_service_requests_total{{service=\"{service}\",outcome=\"{outcome}\",\
             status=\"{status}\"}}"
        )
    };
    for line in [
        count("orders", "forwarded", "2xx"),
        count("admin", "denied", "403"),
        count("shop", "no-decision", "503"),
    ] {
        assert_eq!(gate.metric(&line).await, 1.0, "{line}");
    }
    // Who makes the requests is told by service too.
    let top = get(gate.admin, "/top?service=orders", &[]).await.json();
    assert_eq!((&top["service"], &top["requests"]), (&json!("orders"), &json!(1)));
    assert_eq!(get(gate.admin, "/top", &[]).await.status, 400);
}

/// A change of one service's policies ends its exchanges and leaves those of another.
#[tokio::test(flavor = "multi_thread")]
async fn each_service_revokes_its_own() {
    let echo = Echo::start().await;
    let gate = gate_with(three(), &echo, SITES, |config| {
        config.bounds.revoke_after = std::time::Duration::ZERO;
    })
    .await;
    assert_eq!(at(&gate, "shop.example", "/x").await.status, 200);
    assert_eq!(at(&gate, "shop.example", "/api/orders").await.status, 200);
    let changed = world(
        &[("admin", Tiny::new(true)), ("orders", Tiny::new(false)), ("shop", Tiny::new(true))],
        2,
    );
    gate.source.replace(changed);
    at(&gate, "shop.example", "/api/orders").await.is_problem(403, "denied");
    assert_eq!(at(&gate, "shop.example", "/x").await.status, 200);
    assert_eq!(at(&gate, "admin.example", "/admin").await.status, 200);
}

/// A token that one service's issuer has signed is nothing to another service, remembered or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_one_service_is_no_route_of_another() {
    let sites = r#"
[upstream.u]
addresses = "URL"
[[site]]
path = "/a"
service = "a"
upstream = "u"
[[site]]
path = "/b"
service = "b"
upstream = "u"
"#;
    let echo = Echo::start().await;
    let only = |path: &str| {
        let mut tiny = Tiny::new(true);
        tiny.routes.clear();
        tiny.route(json!({"method": "GET", "path": path, "anonymous": true}))
    };
    let world = world(&[("a", only("/a/x")), ("b", only("/b/x"))], 1);
    let gate = gate(world, &echo, sites).await;
    assert_eq!(at(&gate, "h", "/a/x").await.status, 200);
    assert_eq!(at(&gate, "h", "/b/x").await.status, 200);
    at(&gate, "h", "/a/y").await.is_problem(404, "no-route");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_listeners_serve_alike() {
    let echo = Echo::start().await;
    let dir = std::env::temp_dir().join(format!("keepgate-listen-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("gate.sock");
    let group = std::fs::metadata(&dir).map(|meta| {
        use std::os::unix::fs::MetadataExt as _;
        meta.gid()
    });
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.listen = Listen::Localhost(0);
        config.more_listen =
            vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), Listen::Unix(path.clone())];
        config.unix_access = UnixAccess { mode: Some(0o620), group: group.ok() };
    })
    .await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o620);
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
    let six = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, gate.addr.port()));
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert_eq!(get(six, "/public", &[]).await.status, 200);
    }
    #[expect(clippy::disallowed_methods, reason = "the test is the caller")]
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let head = "GET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    gate.stop().await;
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A certificate with its key, in files that go with it.
struct Made {
    files: TlsFiles,
    pem: String,
}

impl Made {
    fn of(name: &str) -> Made {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let at = |end: &str, text: &str| -> PathBuf {
            let file = format!("keepgate-sni-{}-{name}.{end}", std::process::id());
            let path = std::env::temp_dir().join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        let pem = made.cert.pem();
        let files =
            TlsFiles { cert: at("crt", &pem), key: at("key", &made.signing_key.serialize_pem()) };
        Made { files, pem }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.files.cert);
        let _ = std::fs::remove_file(&self.files.key);
    }
}

/// Whether a caller that trusts this certificate alone gets an answer for this name.
async fn speaks(addr: SocketAddr, name: &str, pem: &str) -> Result<u16, String> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = super::support::connect(addr).await;
    let name_sent = ServerName::try_from(name.to_owned()).unwrap();
    let mut tls = connector.connect(name_sent, stream).await.map_err(|e| e.to_string())?;
    let text = format!("GET /who HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    tls.write_all(text.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut said = Vec::new();
    let _ = tls.read_to_end(&mut said).await;
    Ok(Answer::parse(&String::from_utf8_lossy(&said)).status)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_host_is_shown_its_own_certificate() {
    let echo = Echo::start().await;
    let (a, b) = (Made::of("a.example"), Made::of("b.example"));
    let sites = r#"
[upstream.u]
addresses = "URL"
[[site]]
hosts = ["a.example"]
service = "s"
upstream = "u"
[[site]]
hosts = ["b.example"]
service = "s"
upstream = "u"
"#;
    let named = |config: &mut GateConfig| {
        config.sites[0].tls = Some(a.files.clone());
        config.sites[1].tls = Some(b.files.clone());
    };
    let world = || world(&[("s", Tiny::new(true))], 1);
    let gate = gate_with(world(), &echo, sites, named).await;
    assert_eq!(speaks(gate.addr, "a.example", &a.pem).await, Ok(200));
    assert_eq!(speaks(gate.addr, "b.example", &b.pem).await, Ok(200));
    assert!(speaks(gate.addr, "a.example", &b.pem).await.is_err());
    // A name that no site has is shown nobody's certificate.
    assert!(speaks(gate.addr, "c.example", &a.pem).await.is_err());
    gate.stop().await;

    // Without a certificate for one of the hosts the gate does not start, and says which.
    let config = |change: fn(&mut GateConfig)| {
        let text = sites.replace("URL", &echo.url);
        let read = file::read(&text, &std::env::temp_dir(), &PoolConfig::default()).unwrap();
        let mut config = GateConfig {
            sites: read.sites,
            upstreams: read.upstreams,
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
            ..GateConfig::default()
        };
        named(&mut config);
        change(&mut config);
        keepgate_gate::faults(&config).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(config(|_| {}), Vec::<String>::new());
    let said = config(|config| config.sites[1].tls = None).join("\n");
    assert!(said.contains("[[site]] 2: has no certificate for `b.example`"), "{said}");
    let said = config(|config| config.sites[1].hosts = config.sites[0].hosts.clone()).join("\n");
    assert!(said.contains("[[site]] 2: has another certificate for `a.example`"), "{said}");
    let said = config(|config| config.sites[0].hosts.clear()).join("\n");
    assert!(said.contains("[[site]] 1: has `tls` and no `hosts`"), "{said}");
    eventually("the echo serves", async || get(echo.addr, "/", &[]).await.status == 200).await;
}

/// An HTTPS server that asks for a client certificate. It answers each request with the name that
/// was asked for in TLS and the `Host` that came.
async fn strict_server(own: &Made, client: &Made) -> SocketAddr {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(client.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let chain = vec![CertificateDer::from_pem_slice(own.pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&own.files.key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(stream).await else { return };
                let name = tls.get_ref().1.server_name().unwrap_or_default().to_owned();
                let mut head = vec![0; 8192];
                let n = tls.read(&mut head).await.unwrap_or_default();
                let head = String::from_utf8_lossy(&head[..n]).to_ascii_lowercase();
                let host = head.lines().find_map(|l| l.strip_prefix("host: ")).unwrap_or_default();
                let body = format!("sni={name} host={host}");
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
                let answer = format!("{head}{}\r\n\r\n{body}", body.len());
                let _ = tls.write_all(answer.as_bytes()).await;
                let _ = tls.shutdown().await;
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_upstream_sees_one_name_and_the_gates_certificate() {
    let (own, client) = (Made::of("inner.example"), Made::of("gate.example"));
    let addr = strict_server(&own, &client).await;
    let echo = Echo::start().await;
    let upstream = |name: &str, host: &str, client: Option<&Made>| {
        let client = client.map(|made| {
            let TlsFiles { cert, key } = &made.files;
            format!("cert = \"{}\", key = \"{}\", ", cert.display(), key.display())
        });
        format!(
            "[upstream.{name}]\naddresses = \"https://{addr}\"\nprotocol = \"http1\"\n{host}\
             tls = {{ {}ca = \"{}\", server_name = \"inner.example\" }}\n\
             [[site]]\npath = \"/{name}\"\nservice = \"s\"\nupstream = \"{name}\"\n",
            client.unwrap_or_default(),
            own.files.cert.display(),
        )
    };
    let text = [
        upstream("auto", "", Some(&client)),
        upstream("caller", "host = \"caller\"\n", Some(&client)),
        upstream("nobody", "", None),
    ]
    .concat();
    let gate = gate(world(&[("s", Tiny::new(true))], 1), &echo, &text).await;
    let port = addr.port();
    let answer = at(&gate, "shop.example", "/auto").await;
    assert_eq!(answer.body, format!("sni=inner.example host=inner.example:{port}"), "{answer:?}");
    let answer = at(&gate, "shop.example", "/caller").await;
    assert_eq!(answer.body, "sni=inner.example host=shop.example", "{answer:?}");
    // Without its certificate the gate is not let in.
    at(&gate, "shop.example", "/nobody").await.is_problem(502, "bad-upstream");
}

/// A page for callers is below its site's path, of its own service, and each site may say where.
#[tokio::test(flavor = "multi_thread")]
async fn each_site_has_its_own_page_for_callers() {
    let echo = Echo::start().await;
    let text = SITES
        .replacen("service = \"shop\"", "service = \"shop\"\nhelp_page = \"/help\"", 1)
        .replacen("service = \"admin\"", "service = \"admin\"\nhelp_page = \"\"", 1);
    let gate = gate(three(), &echo, &text).await;
    let page = at(&gate, "shop.example", "/api/orders/.keepgate/api").await;
    assert!(page.status == 200 && page.body.contains("<title>orders</title>"), "{page:?}");
    // The prefix that is taken away is told to callers.
    assert!(page.body.contains("http://shop.example/api/orders/"), "{}", page.body);
    let page = at(&gate, "shop.example", "/help").await;
    assert!(page.status == 200 && page.body.contains("<title>shop</title>"), "{page:?}");
    for (host, path) in [
        ("shop.example", "/.keepgate/api"),
        ("admin.example", "/admin/.keepgate/api"),
        ("shop.example", "/api/orders/help"),
    ] {
        let answer = at(&gate, host, path).await;
        assert!(!answer.body.contains("<title>"), "{host}{path}: {answer:?}");
    }
    for wrong in ["help", "/", "/help/", "/a/../b"] {
        let text = text.replace("\"/help\"", &format!("\"{wrong}\"")).replace("URL", &echo.url);
        let read = file::read(&text, &std::env::temp_dir(), &PoolConfig::default());
        let told = read.unwrap_err().first().unwrap().shown("gate.toml");
        assert!(told.contains("`help_page`: expected"), "{told}");
    }
}
