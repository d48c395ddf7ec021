//! Whom the gate believes: proxies in front, PROXY protocol senders, centers, issuers.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use keepgate_gate::identify::access::KeyAccess;
use keepgate_gate::{Gate, GateConfig, Listen, Peers, StartError};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, UnixStream};

use super::support::{
    Answer, Draft, Echo, PATIENCE, TestGate, eventually, free_port, get, skip, talk,
};

/// Everybody may `/public`, but for what a policy says of addresses.
fn public(ban: &str) -> Draft {
    let mut draft = Draft::orders();
    if !ban.is_empty() {
        let text =
            format!("forbid (principal, action, resource) when {{ context.ip == \"{ban}\" }};");
        draft.policies.push(("ban".to_owned(), text));
    }
    draft
}

/// Sends bytes from another address of this host.
#[expect(clippy::disallowed_methods, reason = "the test is the caller")]
async fn talk_from(from: Ipv4Addr, to: SocketAddr, bytes: &[u8]) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut stream = tokio::time::timeout(PATIENCE, socket.connect(to)).await.unwrap().unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut out = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut out);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    Answer::parse(&String::from_utf8_lossy(&out))
}

fn request(headers: &[u8]) -> Vec<u8> {
    let head = b"GET /public HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n";
    [head, headers, b"\r\n"].concat()
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "the test is the caller")]
fn is_open(addr: SocketAddr) -> bool {
    std::net::TcpStream::connect(addr).is_ok()
}

/// A stock nginx before the gate, with the usual line. It is 127.0.0.1 to the gate, its caller is
/// 127.0.0.2, which is banned.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_nginx_speaks_for_its_callers() {
    let Some(nginx) =
        ["/usr/sbin/nginx", "/usr/bin/nginx"].iter().find(|p| std::path::Path::new(p).exists())
    else {
        skip("nginx is not installed");
        return;
    };
    let echo = Echo::start().await;
    let gate = TestGate::with(&public("127.0.0.2"), &echo.url, |config| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()].into();
    })
    .await;
    let dir = std::env::temp_dir().join(format!("keepgate-front-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let port = free_port();
    let (at, to) = (dir.display(), gate.addr);
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
         events {{}}\n\
         http {{ access_log {at}/access.log; client_body_temp_path {at}; proxy_temp_path {at};\n\
         fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{to};\n\
         proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n"
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let child = Command::new(nginx)
        .args(["-p", dir.to_str().unwrap(), "-c", "nginx.conf"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    let front = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("nginx listens", async || is_open(front)).await;
    let (banned, other) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let lines: [&[u8]; 9] = [
        b"",
        b"X-Forwarded-For: \xff\r\n",
        b"X-Forwarded-For: 6.6.6.6\r\n",
        b"X-Forwarded-For: 127.0.0.1\r\n",
        b"X-Forwarded-For: \"\r\n",
        b"X-Forwarded-For: \"6.6.6.6\r\nX-Forwarded-For: unknown\r\n",
        b"X-Forwarded-For: ,\r\n",
        b"Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nTrue-Client-IP: 6.6.6.6\r\n",
        b"X_Forwarded_For: 6.6.6.6\r\n",
    ];
    for line in lines {
        let shown = String::from_utf8_lossy(line).into_owned();
        let answer = talk_from(banned, front, &request(line)).await;
        assert_eq!(answer.status, 403, "{shown}: {answer:?}");
        let answer = talk_from(other, front, &request(line)).await;
        assert_eq!(answer.status, 200, "{shown}: {answer:?}");
        assert!(answer.body.contains("127.0.0.3, 127.0.0.1\n"), "{answer:?}");
        for gone in ["forwarded: for", "x-real-ip", "true-client-ip", "x_forwarded"] {
            assert!(!answer.body.contains(gone), "{answer:?}");
        }
    }
    drop(running);
    gate.stop().await;
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_needed_address_that_cannot_be_read_is_400() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&public(""), &echo.url, |config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()].into();
    })
    .await;
    for value in
        [&b"\xff"[..], b"", b"6.6.6.6, ", b"unknown", b"\"6.6.6.6", b"6.6.6.6, \xff, 127.0.0.9"]
    {
        let line = [b"X-Forwarded-For: ", value, b"\r\n"].concat();
        let answer = Answer::parse(&talk(gate.addr, request(&line)).await);
        answer.is_problem(400, "bad-request");
    }
    // A proxy that says nothing speaks for itself.
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_header_is_read_and_a_setting_names_it() {
    let echo = Echo::start().await;
    let banned = "192.0.2.1";
    for (header, value) in [
        ("x-real-ip", "192.0.2.1"),
        ("forwarded", "for=6.6.6.6, for=\"192.0.2.1:4711\";proto=https"),
    ] {
        let gate = TestGate::with(&public(banned), &echo.url, |config| {
            config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()].into();
            config.forwarding_header = header.parse().unwrap();
        })
        .await;
        get(gate.addr, "/public", &[(header, value)]).await.is_problem(403, "denied");
        let answer =
            get(gate.addr, "/public", &[(header, "for=192.0.2.2"), ("X-Forwarded-For", banned)])
                .await;
        let expected = if header == "forwarded" { 200 } else { 400 };
        assert_eq!(answer.status, expected, "{answer:?}");
        if expected == 200 {
            assert!(answer.body.contains("x-forwarded-for: 192.0.2.2, 127.0.0.1\n"), "{answer:?}");
        }
        gate.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_forwarding_headers_are_counted_and_named() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&public(""), &echo.url).await;
    for n in 0..5 {
        let value = format!("192.0.2.{n}");
        assert_eq!(get(gate.addr, "/public", &[("X-Forwarded-For", &value)]).await.status, 200);
    }
    assert_eq!(get(gate.addr, "/public", &[("X-Real-IP", "192.0.2.1")]).await.status, 200);
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
    assert_eq!(gate.metric("keepgate_gate_forwarding_dropped_total").await, 6.0);
    let asked = format!("GET /top HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gate.admin);
    let top = Answer::parse(&talk(gate.admin, asked).await).json();
    assert_eq!(top["unheard"], json!([{"peer": "127.0.0.1", "requests": 6}]), "{top}");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_header_is_believed_from_the_source_that_proxy_names() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.identify = serde_json::from_value(json!({
        "trusted_header": {"header": "x-user", "peers": ["192.0.2.7"]}
    }))
    .unwrap();
    let gate = TestGate::with(&draft, &echo.url, |config| {
        config.proxy_senders = vec!["127.0.0.1".parse().unwrap()].into();
        // To trust the load balancer is not to trust whom it lets through.
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()].into();
    })
    .await;
    let ask = async |line: &str| {
        let text = format!(
            "{line}\r\nGET /orders HTTP/1.1\r\nHost: a\r\nX-User: alice\r\n\
             X-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n"
        );
        Answer::parse(&talk(gate.addr, text).await)
    };
    let answer = ask("PROXY TCP4 192.0.2.7 192.0.2.1 4 80").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("x-forwarded-for: 192.0.2.7\n"), "{answer:?}");
    ask("PROXY TCP4 192.0.2.8 192.0.2.1 4 80").await.is_problem(401, "unauthenticated");
    // It names nobody: then nobody is believed.
    ask("PROXY UNKNOWN").await.is_problem(401, "unauthenticated");
    gate.stop().await;
}

/// A header that is believed from everybody identifies nobody, unless the operator says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_header_of_everybody_is_not_believed() {
    let echo = Echo::start().await;
    for peers in [
        json!(["0.0.0.0/0"]),
        json!(["0.0.0.0/0", "::/0"]),
        json!(["0.0.0.0/1", "128.0.0.0/1"]),
        json!(["::/0", "127.0.0.0/8"]),
    ] {
        let mut draft = Draft::orders();
        draft.settings.identify =
            serde_json::from_value(json!({"trusted_header": {"header": "x-user", "peers": peers}}))
                .unwrap();
        let gate = TestGate::start(&draft, &echo.url).await;
        let alice = get(gate.addr, "/orders", &[("x-user", "alice")]).await;
        let json = alice.is_problem(503, "no-identity");
        assert!(json["detail"].as_str().unwrap().contains("every address"), "{json}");
        // Not even where it is not needed does the upstream hear of it.
        let public = get(gate.addr, "/public", &[("x-user", "alice")]).await;
        public.is_problem(503, "no-identity");
        let public = get(gate.addr, "/public", &[("x_user", "alice")]).await;
        assert!(public.status == 200 && !public.body.contains("alice"), "{public:?}");
        get(gate.addr, "/orders", &[]).await.is_problem(401, "unauthenticated");
        gate.stop().await;
        let meant = TestGate::with(&draft, &echo.url, |config| config.trust_everybody = true).await;
        assert_eq!(get(meant.addr, "/orders", &[("x-user", "alice")]).await.status, 200, "{peers}");
        meant.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_listener_is_not_one_caller() {
    let echo = Echo::start().await;
    let socket = std::env::temp_dir().join(format!("keepgate-unix-{}.sock", std::process::id()));
    let mut draft = public("192.0.2.1");
    draft.limits = vec![json!({"name": "few", "key": "address", "rate": "1/h", "burst": 2})];
    let ask = async |line: &str| {
        #[expect(clippy::disallowed_methods, reason = "the test is the caller")]
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(&request(line.as_bytes())).await.unwrap();
        let mut out = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut out);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        Answer::parse(&String::from_utf8_lossy(&out))
    };
    let start = async |unix: bool| {
        TestGate::with(&draft, &echo.url, |config| {
            config.listen = Listen::Unix(socket.clone());
            config.trusted_proxies = Peers { ranges: Vec::new(), unix };
        })
        .await
    };
    let gate = start(false).await;
    for _ in 0..10 {
        assert_eq!(ask("").await.status, 200, "nobody is counted by an address that is not there");
    }
    assert_eq!(ask("X-Forwarded-For: 192.0.2.1\r\n").await.status, 200, "and nobody is believed");
    gate.stop().await;
    let gate = start(true).await;
    ask("X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n").await.is_problem(403, "denied");
    for caller in ["192.0.2.2", "192.0.2.3"] {
        let line = format!("X-Forwarded-For: {caller}\r\n");
        for expected in [200, 200, 429] {
            assert_eq!(ask(&line).await.status, expected, "{caller}");
        }
    }
    gate.stop().await;
    let _ = std::fs::remove_file(&socket);
}

async fn refused(change: impl FnOnce(&mut GateConfig)) -> Option<String> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = GateConfig {
        service: "orders".to_owned(),
        upstream: "http://127.0.0.1:1".to_owned(),
        token: "kgt_a_b".to_owned(),
        listen: Listen::Tcp(loopback),
        workers: 1,
        ..GateConfig::default()
    };
    change(&mut config);
    match Gate::start(config).await {
        Ok(_) => None,
        Err(error @ StartError::Setting { .. }) => Some(error.to_string()),
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_no_trusted_proxy() {
    let ranges = |texts: &[&str]| -> Peers {
        texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>().into()
    };
    for texts in [&["0.0.0.0/0"][..], &["::/0"], &["0.0.0.0/1", "128.0.0.0/1"]] {
        let said = refused(|config| config.trusted_proxies = ranges(texts)).await.unwrap();
        assert!(said.contains("--trust-everybody"), "{said}");
        let said = refused(|config| config.proxy_senders = ranges(texts)).await.unwrap();
        assert!(said.contains("proxy_senders"), "{said}");
        let allowed = refused(|config| {
            config.trusted_proxies = ranges(texts);
            config.trust_everybody = true;
        });
        assert_eq!(allowed.await, None);
    }
    assert_eq!(refused(|config| config.trusted_proxies = ranges(&["10.0.0.0/8"])).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_center_over_plain_http_is_refused() {
    for url in ["http://192.0.2.1:7480", "http://center.example:7480", "http://[2001:db8::1]:7480"]
    {
        let said = refused(|config| config.centers = vec![url.to_owned()]).await.unwrap();
        assert!(said.contains(url) && said.contains("--insecure-center"), "{said}");
        let insecure = refused(|config| {
            config.centers = vec![url.to_owned()];
            config.insecure_center = true;
        });
        assert_eq!(insecure.await, None);
    }
    for url in
        ["http://127.0.0.1:7480", "http://localhost:7480", "http://[::1]:7480", "unix:/run/c.sock"]
    {
        assert_eq!(refused(|config| config.centers = vec![url.to_owned()]).await, None, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_where_the_operator_said() {
    let echo = Echo::start().await;
    let dir = std::env::temp_dir().join(format!("keepgate-trust-keys-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let keys = "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"\
                AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}";
    std::fs::write(dir.join("keys.json"), keys).unwrap();
    let moved =
        super::support::serve(move |request: http::Request<hyper::body::Incoming>| async move {
            let is_moved = request.uri().path() == "/moved";
            let mut response = http::Response::new(http_body_util::Full::new(
                bytes::Bytes::from_static(keys.as_bytes()),
            ));
            if is_moved {
                *response.status_mut() = http::StatusCode::FOUND;
                response.headers_mut().insert("location", http::HeaderValue::from_static("/keys"));
            }
            response
        })
        .await;
    // Whether the keys were read shows in the answer to a token that none of them signed.
    let token = "Bearer eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJtZSIsImV4cCI6OTk5OTk5OTk5OX0.AAAA";
    let hs256 = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJtZSIsImV4cCI6OTk5OTk5OTk5OX0.AAAA";
    let status = async |source: serde_json::Value, access: KeyAccess| {
        let mut jwt = json!({"issuer": "me", "audience": "orders"});
        let is_secret = source.get("secret_file").is_some();
        for (name, value) in source.as_object().unwrap() {
            jwt[name] = value.clone();
        }
        let mut draft = Draft::orders();
        draft.settings.identify = serde_json::from_value(json!({"jwt": [jwt]})).unwrap();
        let gate = TestGate::with(&draft, &echo.url, |config| config.key_access = access).await;
        let shown = if is_secret { hs256 } else { token };
        let answer = get(gate.addr, "/orders", &[("Authorization", shown)]).await;
        gate.stop().await;
        answer.status
    };
    let none = KeyAccess::default;
    let files = || KeyAccess { secrets: Some(dir.clone()), ..none() };
    let local = || KeyAccess { local: true, ..none() };
    let listed = || KeyAccess { allow: vec![moved.url.parse().unwrap()], ..none() };
    let other =
        || KeyAccess { allow: vec!["https://id.example".parse().unwrap()], local: true, ..none() };
    let url = format!("{}/keys", moved.url);
    let redirect = format!("{}/moved", moved.url);
    for (source, access, expected) in [
        (json!({"jwks_file": "keys.json"}), files(), 401),
        (json!({"jwks_file": dir.join("keys.json")}), files(), 401),
        (json!({"jwks_file": "keys.json"}), none(), 503),
        (json!({"jwks_file": "/etc/passwd"}), files(), 503),
        (json!({"secret_file": "/etc/shadow"}), files(), 503),
        (json!({"secret_file": "/dev/zero"}), files(), 503),
        (json!({"secret_file": "/dev/zero"}), none(), 503),
        (json!({"secret_file": "../../etc/shadow"}), files(), 503),
        (json!({"jwks_url": url}), local(), 401),
        (json!({"jwks_url": url}), listed(), 401),
        (json!({"jwks_url": url}), none(), 503),
        (json!({"jwks_url": url}), other(), 503),
        (json!({"jwks_url": redirect}), local(), 503),
        (json!({"jwks_url": "http://169.254.169.254/latest"}), local(), 503),
    ] {
        assert_eq!(status(source.clone(), access.clone()).await, expected, "{source} {access:?}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
