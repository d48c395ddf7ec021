//! Starting, stopping, starting again: files and their modes, locks, TLS, refusals.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepgate_center::{Center, TlsFiles};
use serde_json::json;

use crate::fixture::{Dir, Running, chain, config, connect, patiently};

const ALLOW: &str = "permit (principal, action, resource);";

#[tokio::test]
async fn the_first_start_writes_a_token_and_the_second_does_not() {
    let dir = Dir::new();
    let center = Center::start(config(&dir)).await.unwrap();
    let file = dir.path().join("admin.token");
    assert_eq!(center.admin_token_file(), Some(file.as_path()));
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path()), 0o700);
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&dir.path().join("center.db")), 0o600);
    center.run(async {}).await.unwrap();
    // Nothing is left behind in the log after a clean stop.
    let wal = dir.path().join("center.db-wal");
    assert_eq!(wal.metadata().map_or(0, |meta| meta.len()), 0);
    let again = Center::start(config(&dir)).await.unwrap();
    assert_eq!(again.admin_token_file(), None);
    again.run(async {}).await.unwrap();
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("all", ALLOW)]).await;
    let body = json!({ "member": "user::\"a\"", "role": "role::\"r\"" });
    center.ask("POST", "/v1/roles/assign", Some(body)).await.good();
    let before = center.ask("GET", "/v1/revision", None).await.good();
    center.stop().await;
    let center = Running::start(&dir).await;
    assert_eq!(center.ask("GET", "/v1/revision", None).await.good(), before);
    let services = center.ask("GET", "/v1/services", None).await.good();
    assert_eq!(services["services"][0]["policies"], 1);
    center.stop().await;
}

#[tokio::test]
async fn a_second_center_on_the_same_directory_is_refused_by_name() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let error = chain(&Center::start(config(&dir)).await.err().unwrap());
    let expected = format!(
        "cannot open the store in `{0}`: data directory `{0}` is in use by another center \
         (process {1}); stop it or choose another directory",
        dir.path().display(),
        std::process::id()
    );
    assert_eq!(error, expected);
    center.stop().await;
    Running::start(&dir).await.stop().await;
}

#[tokio::test]
async fn plain_http_is_for_loopback() {
    let dir = Dir::new();
    for open in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        let mut config = config(&dir);
        config.listen = open.parse().unwrap();
        let error = chain(&Center::start(config).await.err().unwrap());
        assert!(error.contains("refusing plain HTTP"), "{error}");
        assert!(error.contains("--tls-cert") && error.contains("127.0.0.1"), "{error}");
        assert!(!dir.path().exists(), "a refused start left files");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&dir);
    config.listen = taken.local_addr().unwrap();
    let error = chain(&Center::start(config).await.err().unwrap());
    assert!(error.starts_with("cannot listen on `127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_store_whose_items_were_altered_is_refused() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("all", ALLOW)]).await;
    center.stop().await;
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    let changed = raw
        .execute("UPDATE items SET body = CAST(replace(body, 'permit', 'forbid') AS BLOB) WHERE id = 'all'", [])
        .unwrap();
    assert_eq!(changed, 1);
    drop(raw);
    let error = chain(&Center::start(config(&dir)).await.err().unwrap());
    assert!(error.contains("policy `all` of service `orders` does not have the digest"), "{error}");
}

#[tokio::test]
async fn tls_with_http2_and_http1() {
    let dir = Dir::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::create_dir_all(dir.path()).unwrap();
    let files = TlsFiles { cert: dir.path().join("c.pem"), key: dir.path().join("k.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let mut config = config(&dir);
    // With a certificate, any address will do.
    config.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    config.tls = Some(files.clone());
    let center = Center::start(config.clone()).await.unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], center.addr().port()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(center.run(async move {
        let _ = stopped.await;
    }));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for (alpn, version) in [("h2", http::Version::HTTP_2), ("http/1.1", http::Version::HTTP_11)] {
        let mut client = client.clone();
        client.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, connect(addr).await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        let request = http::Request::builder()
            .uri("https://localhost/.well-known/authzen-configuration")
            .header("host", "localhost")
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let io = TokioIo::new(stream);
        let response = if alpn == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(response.version(), version);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["policy_decision_point"], "https://localhost");
    }
    drop(stop);
    patiently("a clean stop", task).await.unwrap().unwrap();
    // What is no certificate is refused by file.
    std::fs::write(&files.cert, "nothing").unwrap();
    let error = chain(&Center::start(config.clone()).await.err().unwrap());
    assert!(error.contains("c.pem"), "{error}");
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
    let error = chain(&Center::start(config).await.err().unwrap());
    assert!(error.contains("cannot be used"), "{error}");
}
