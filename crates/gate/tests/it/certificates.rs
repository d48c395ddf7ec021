//! Callers with client certificates: who they are, and when they are nobody.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepgate_gate::config::file;
use keepgate_gate::{Gate, GateConfig, TlsFiles};
use keepgate_policy::model::KeyBody;
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::client::TlsStream;

use super::identify::Signer;
use super::support::{
    Answer, Draft, Echo, PATIENCE, SERVICE, TestGate, connect, eventually, route, uid,
};

/// A file that goes with the test.
pub(crate) struct Temp(pub(crate) PathBuf);

impl Temp {
    pub(crate) fn new(text: &str) -> Temp {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepgate-certificates-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Temp(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An authority.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    file: Temp,
}

/// A certificate with its key.
#[derive(Clone)]
struct Own {
    der: CertificateDer<'static>,
    key: Vec<u8>,
    pem: String,
    key_pem: String,
}

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let file = Temp::new(&pem);
        Ca { issuer: Issuer::new(params, key), pem, file }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Own {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Own {
            der: certificate.der().clone(),
            key: key.serialize_der(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    fn named(&self, name: &str) -> Own {
        self.issue(|params| params.distinguished_name.push(DnType::CommonName, name))
    }

    fn with_uris(&self, uris: &[&str]) -> Own {
        self.issue(|params| {
            let uri = |text: &&str| SanType::URI((*text).try_into().unwrap());
            params.subject_alt_names = uris.iter().map(uri).collect();
        })
    }
}

/// The gate's own certificate.
struct Server {
    ca: Ca,
    files: TlsFiles,
    _held: [Temp; 2],
}

impl Server {
    fn new() -> Server {
        let ca = Ca::new();
        let own = ca.issue(|params| {
            let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
            params.subject_alt_names = vec![dns("a.example"), dns("b.example")];
        });
        let held = [Temp::new(&own.pem), Temp::new(&own.key_pem)];
        let files = TlsFiles { cert: held[0].0.clone(), key: held[1].0.clone() };
        Server { ca, files, _held: held }
    }

    async fn gate(&self, draft: &Draft, echo: &Echo, client_ca: &Ca) -> TestGate {
        TestGate::with(draft, &echo.url, |config| {
            config.tls = Some(self.files.clone());
            config.client_ca = Some(client_ca.file.0.clone());
        })
        .await
    }

    async fn open(
        &self,
        addr: SocketAddr,
        own: Option<&Own>,
        alpn: &str,
    ) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        use rustls::pki_types::pem::PemObject as _;
        roots.add(CertificateDer::from_pem_slice(self.ca.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key.clone()));
                config.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("a.example").unwrap();
        connector.connect(name, connect(addr).await).await
    }

    /// One request on a connection of its own; none: it was not let in.
    async fn get(
        &self,
        addr: SocketAddr,
        own: Option<&Own>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<Answer> {
        let mut tls = self.open(addr, own, "http/1.1").await.ok()?;
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        // In TLS 1.3 a certificate is refused after the handshake, as the client sees it.
        tls.write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
        let mut out = Vec::new();
        let read = tokio::time::timeout(PATIENCE, tls.read_to_end(&mut out)).await.unwrap();
        if out.is_empty() {
            return None;
        }
        read.unwrap();
        Some(Answer::parse(&String::from_utf8_lossy(&out)))
    }
}

fn draft(identify: Value) -> Draft {
    let mut draft = Draft::orders();
    draft.settings.identify = serde_json::from_value(identify).unwrap();
    draft.policies.push(("all".into(), "permit (principal, action, resource);".into()));
    draft
}

fn from(name: &str) -> Value {
    json!({"client_certificate": {"principal_from": name, "principal_type": "client"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_identifies_and_what_is_no_name_does_not() {
    let (echo, server, ca) = (Echo::start().await, Server::new(), Ca::new());
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let email = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
    let spiffe = "spiffe://prod.example/ns/shop/sa/worker";
    let worker = ca.with_uris(&[spiffe]);
    let sha256: String = Sha256::digest(&worker.der).iter().map(|b| format!("{b:02x}")).collect();
    let two = ca.issue(|params| params.subject_alt_names = vec![dns("b.x"), dns("c.x")]);
    let mail = ca.issue(|params| params.subject_alt_names = vec![email("a@x.example")]);
    let table: &[(&str, &Own, Result<&str, &str>)] = &[
        ("common_name", &ca.named("alice"), Ok("alice")),
        ("common_name", &worker, Err("no such name")),
        ("dns", &two, Ok("b.x")),
        ("dns", &worker, Err("no such name")),
        ("email", &mail, Ok("a@x.example")),
        ("sha256", &worker, Ok(&sha256)),
        ("uri", &worker, Ok(spiffe)),
        ("uri", &ca.with_uris(&["https://shop.example/worker"]), Ok("https://shop.example/worker")),
        ("uri", &ca.with_uris(&[spiffe, "https://shop.example/"]), Err("more than one URI")),
        ("uri", &ca.with_uris(&["spiffe://prod.example/"]), Err("not a SPIFFE id")),
        ("uri", &ca.with_uris(&["spiffe://prod.example:1/a"]), Err("not a SPIFFE id")),
        ("uri", &two, Err("no such name")),
    ];
    for (name, own, expected) in table {
        let gate = server.gate(&draft(from(name)), &echo, &ca).await;
        let answer = server.get(gate.addr, Some(own), "/orders", &[]).await.unwrap();
        match expected {
            Ok(id) => {
                assert_eq!(answer.status, 200, "{name} {answer:?}");
                let principal = format!("keepgate-principal: client::\"{id}\"\n");
                assert!(answer.body.contains(&principal), "{name} {answer:?}");
            }
            Err(why) => {
                let said = answer.is_problem(401, "unauthenticated")["detail"].to_string();
                assert!(said.contains(why), "{name} {said}");
                // What is shown and does not hold is not nobody, either.
                let answer = server.get(gate.addr, Some(own), "/public", &[]).await.unwrap();
                assert_eq!(answer.status, 401, "{name} {answer:?}");
            }
        }
        gate.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ways_go_in_their_order_and_nobody_needs_a_certificate() {
    let (echo, server, ca) = (Echo::start().await, Server::new(), Ca::new());
    let key = "kgk_abc_secret";
    let secret = Temp::new("a secret of 32 bytes or more, for HS256");
    let mut draft = draft(json!({
        "jwt": [{"issuer": "i", "audience": "a", "secret_file": secret.0}],
        "api_key": {},
        "client_certificate": {},
        "trusted_header": {"header": "x-user", "peers": ["127.0.0.0/8"]},
    }));
    let sha256: String =
        Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    draft.keys.push(KeyBody {
        prefix: "abc".to_owned(),
        sha256,
        principal: uid("user", "key"),
        plan: String::new(),
        expires_unix_s: None,
        note: String::new(),
    });
    let gate = server.gate(&draft, &echo, &ca).await;
    let signer = Signer::Hmac(b"a secret of 32 bytes or more, for HS256".to_vec());
    let exp = keepgate_observe::unix_s() + 600;
    let token = signer.token("", &json!({"iss": "i", "aud": "a", "sub": "token", "exp": exp}));
    let (token, own) = (format!("Bearer {token}"), ca.named("cert"));
    let all = [("Authorization", token.as_str()), ("X-Api-Key", key), ("X-User", "header")];
    for (own, shown, expected) in [
        (Some(&own), &all[..], "token"),
        (Some(&own), &all[1..], "key"),
        (Some(&own), &all[2..], "cert"),
        (Some(&own), &[], "cert"),
        (None, &all[2..], "header"),
        (None, &all[1..], "key"),
    ] {
        let answer = server.get(gate.addr, own, "/orders", shown).await.unwrap();
        let principal = format!("keepgate-principal: user::\"{expected}\"\n");
        assert!(answer.status == 200 && answer.body.contains(&principal), "{expected} {answer:?}");
    }
    let answer = server.get(gate.addr, None, "/orders", &[]).await.unwrap();
    answer.is_problem(401, "unauthenticated");
    assert_eq!(server.get(gate.addr, None, "/public", &[]).await.unwrap().status, 200);
    // Another authority's, and one that has expired, are not let in at all.
    let other = Ca::new().named("cert");
    assert!(server.get(gate.addr, Some(&other), "/orders", &[]).await.is_none());
    let expired = ca.issue(|params| {
        params.distinguished_name.push(DnType::CommonName, "cert");
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    assert!(server.get(gate.addr, Some(&expired), "/orders", &[]).await.is_none());
    gate.stop().await;
}

/// A certificate that ends while its connection is up ends what may be asked on it.
#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_seen_on_a_kept_connection() {
    let (echo, server, ca) = (Echo::start().await, Server::new(), Ca::new());
    let gate = server.gate(&draft(from("common_name")), &echo, &ca).await;
    let own = ca.issue(|params| {
        params.distinguished_name.push(DnType::CommonName, "alice");
        let seconds = std::time::Duration::from_secs(4);
        params.not_after = (std::time::SystemTime::now() + seconds).into();
    });
    let tls = server.open(gate.addr, Some(&own), "h2").await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .unwrap();
    tokio::spawn(connection);
    let ask = || {
        let mut sender = sender.clone();
        async move {
            let request = Request::get("https://a.example/orders").body(Empty::<Bytes>::new());
            let answer = sender.send_request(request.unwrap()).await.unwrap();
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let expired = "the client certificate has expired";
            (status.as_u16(), String::from_utf8_lossy(&body).contains(expired))
        }
    };
    assert_eq!(ask().await, (200, false));
    eventually("it is refused", || async { ask().await == (401, true) }).await;
    gate.stop().await;
}

/// One HTTP/2 connection, two sites: each takes the certificate by its own authorities and service.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_of_the_connection_and_each_site_judges_it() {
    let (echo, server) = (Echo::start().await, Server::new());
    let (one, two) = (Ca::new(), Ca::new());
    let text = format!(
        "[upstream.u]\naddresses = \"{}\"\n\
         [[site]]\nhosts = [\"a.example\"]\nservice = \"orders\"\nupstream = \"u\"\n\
         [[site]]\nhosts = [\"b.example\"]\nservice = \"orders\"\nupstream = \"u\"\nclient_ca = \"{}\"\n",
        echo.addr,
        two.file.0.display(),
    );
    let read = file::read(&text, "".as_ref(), &GateConfig::default().pool).unwrap();
    let gate = TestGate::with(&draft(from("common_name")), "", |config| {
        (config.sites, config.upstreams) = (read.sites, read.upstreams);
        config.tls = Some(server.files.clone());
        config.client_ca = Some(one.file.0.clone());
    })
    .await;
    for (own, a, b) in [(one.named("alice"), 200, 401), (two.named("alice"), 401, 200)] {
        let tls = server.open(gate.addr, Some(&own), "h2").await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                .await
                .unwrap();
        tokio::spawn(connection);
        for (host, expected) in [("a", a), ("b", b), ("a", a), ("b", b)] {
            let uri = format!("https://{host}.example/orders");
            let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            assert_eq!(sender.send_request(request).await.unwrap().status(), expected, "{host}");
        }
    }
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorities_are_read_anew() {
    let (echo, server, first, second) = (Echo::start().await, Server::new(), Ca::new(), Ca::new());
    let gate = server.gate(&draft(from("common_name")), &echo, &first).await;
    let (old, new) = (first.named("alice"), second.named("alice"));
    assert!(gate.reloader.files().contains(&first.file.0));
    let is_in = async |own: &Own| server.get(gate.addr, Some(own), "/orders", &[]).await.is_some();
    assert!(is_in(&old).await && !is_in(&new).await);
    std::fs::write(&first.file.0, "nothing").unwrap();
    let said = gate.reloader.reload(None);
    assert!(said.iter().any(|one| one.error.is_some()), "{said:?}");
    assert!(is_in(&old).await && !is_in(&new).await);
    std::fs::write(&first.file.0, &second.pem).unwrap();
    let said = gate.reloader.reload(None);
    assert!(said.iter().all(|one| one.error.is_none()), "{said:?}");
    assert!(!is_in(&old).await && is_in(&new).await);
    gate.stop().await;
}

/// Tokens that are bound to a certificate (RFC 8705): also those that were verified before.
#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_needs_its_certificate() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    let (echo, server, ca) = (Echo::start().await, Server::new(), Ca::new());
    let secret = Temp::new("a secret of 32 bytes or more, for HS256");
    let issuer = |name: &str, bound: bool| {
        json!({
            "issuer": name, "audience": "a", "secret_file": secret.0, "certificate_bound": bound,
        })
    };
    let draft = draft(json!({"jwt": [issuer("free", false), issuer("strict", true)]}));
    let gate = server.gate(&draft, &echo, &ca).await;
    let signer = Signer::Hmac(b"a secret of 32 bytes or more, for HS256".to_vec());
    let (own, other) = (ca.named("worker"), ca.named("worker"));
    let hash = |own: &Own| B64.encode(Sha256::digest(&own.der));
    let exp = keepgate_observe::unix_s() + 600;
    let token = |issuer: &str, cnf: Option<Value>| {
        let mut claims = json!({"iss": issuer, "aud": "a", "sub": "alice", "exp": exp});
        if let Some(cnf) = cnf {
            claims["cnf"] = cnf;
        }
        signer.token("", &claims)
    };
    let bound = json!({"x5t#S256": hash(&own)});
    let not_shown = "this connection has not shown";
    let unsupported = "not supported";
    let short = B64.encode([0; 31]);
    let table: &[(String, Option<&Own>, Result<(), &str>)] = &[
        (token("free", None), None, Ok(())),
        (token("strict", None), Some(&own), Err("not bound")),
        (token("free", Some(bound.clone())), Some(&own), Ok(())),
        (token("strict", Some(bound.clone())), Some(&own), Ok(())),
        (token("free", Some(bound.clone())), None, Err(not_shown)),
        (token("free", Some(bound.clone())), Some(&other), Err(not_shown)),
        (token("free", Some(json!({"jkt": "x"}))), Some(&own), Err(unsupported)),
        (token("free", Some(json!({"jkt": "x", "x5t#S256": hash(&own)}))), Some(&own), {
            Err(unsupported)
        }),
        (token("free", Some(json!({"x5t#S256": short}))), Some(&own), Err(unsupported)),
        (token("free", Some(json!({"x5t#S256": 1}))), Some(&own), Err(unsupported)),
        (token("free", Some(json!({}))), Some(&own), Err(unsupported)),
        (token("free", Some(json!("x"))), Some(&own), Err(unsupported)),
    ];
    // Twice, and in the order in which a cache that forgets the binding would let one through.
    for (token, own, expected) in table.iter().chain(table) {
        let shown = [("Authorization", &*format!("Bearer {token}"))];
        let answer = server.get(gate.addr, *own, "/orders", &shown).await.unwrap();
        match expected {
            Ok(()) => assert_eq!(answer.status, 200, "{answer:?}"),
            Err(why) => {
                let said = answer.is_problem(401, "unauthenticated")["detail"].to_string();
                assert!(said.contains(why), "{why}: {said}");
            }
        }
    }
    assert!(gate.metric("keepgate_gate_tokens_cached_total").await > 0.0, "none was cached");
    gate.stop().await;
}

/// A gate that asks for no certificate cannot tell who would have shown one.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_does_not_ask_says_so() {
    let (echo, server, ca) = (Echo::start().await, Server::new(), Ca::new());
    let mut draft = draft(from("common_name"));
    draft.routes.push(route("GET", "/more"));
    let gate = TestGate::with(&draft, &echo.url, |config| config.tls = Some(server.files.clone()));
    let gate = gate.await;
    let own = ca.named("alice");
    let answer = server.get(gate.addr, Some(&own), "/orders", &[]).await.unwrap();
    let said = answer.is_problem(503, "no-identity")["detail"].to_string();
    assert!(said.contains("does not ask"), "{said}");
    assert_eq!(server.get(gate.addr, Some(&own), "/public", &[]).await.unwrap().status, 200);
    gate.stop().await;
    let source = Arc::new(keepgate_gate::FixedSource::new(draft.world()));
    let config = GateConfig {
        service: SERVICE.to_owned(),
        upstream: echo.url.clone(),
        client_ca: Some(ca.file.0.clone()),
        ..GateConfig::default()
    };
    let error = Gate::with_source(config, source).await.err().unwrap().to_string();
    assert!(error.contains("`client_ca`") && error.contains("clear text"), "{error}");
}
