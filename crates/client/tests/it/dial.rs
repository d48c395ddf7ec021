//! What the kernel says, and what it is called here; in namespaces made for each case.

use std::time::Duration;

use keepgate_client::dial::{
    DialConfig, DialError, DialOutcome, Dialer, Identity, Roots, Target, TlsSettings,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::sync::Arc;

use crate::{netns, server};

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.unwrap() })
}

fn dialer(timeout_ms: u64) -> Dialer {
    Dialer::new(DialConfig {
        connect_timeout: Duration::from_millis(timeout_ms),
        ..DialConfig::default()
    })
}

async fn label(target: &Target) -> &'static str {
    let dialer = dialer(500);
    let result = dialer.dial(target).await;
    let outcome = match &result {
        Ok(_) => DialOutcome::Connected,
        Err(error) => error.outcome(),
    };
    assert_eq!(dialer.counters().of(outcome), 1, "counted under its own name");
    outcome.label()
}

fn from(mut target: Target, source: &str) -> Target {
    target.sources = vec![source.parse().unwrap()];
    target
}

#[test]
fn every_cause_has_its_name() {
    netns::isolated(|| {
        netns::run("ip", &["link", "add", "d0", "type", "veth", "peer", "name", "d1"]);
        netns::run("ip", &["address", "add", "10.7.0.1/24", "dev", "d0"]);
        netns::run("ip", &["link", "set", "d0", "up"]);
        netns::run("ip", &["link", "set", "d1", "up"]);
        netns::run("ip", &["route", "add", "unreachable", "10.9.0.0/24"]);
        let server = server::start(None);
        let here = || Target::tcp("127.0.0.1", server.addr.port());
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = Target::tcp("127.0.0.1", closed.local_addr().unwrap().port());
        drop(closed);
        let file = std::env::temp_dir().join(format!("keepgate-dial-{}", std::process::id()));
        std::fs::write(&file, "no socket").unwrap();
        run(async {
            assert_eq!(label(&here()).await, "connected");
            assert_eq!(label(&from(here(), "127.0.0.5")).await, "connected");
            assert_eq!(label(&nobody).await, "refused");
            assert_eq!(label(&from(here(), "10.255.0.1")).await, "source_not_local");
            assert_eq!(label(&from(here(), "::1")).await, "source_family");
            assert_eq!(label(&Target::tcp("10.9.0.1", 80)).await, "unreachable");
            assert_eq!(label(&Target::tcp("192.0.2.1", 80)).await, "unreachable");
            // Nobody answers on the other end of the pair.
            assert_eq!(label(&Target::tcp("10.7.0.9", 80)).await, "timeout");
            assert_eq!(label(&Target::tcp("no-such-host.invalid", 80)).await, "resolve");
            assert_eq!(label(&Target::unix("/nonexistent/socket")).await, "socket_missing");
            assert_eq!(label(&Target::unix(&file)).await, "refused");
        });
        let _ = std::fs::remove_file(&file);
    });
}

#[test]
fn no_ipv6_is_not_a_full_range() {
    netns::isolated(|| {
        netns::run("ip", &["-6", "address", "flush", "dev", "lo"]);
        run(async {
            assert_eq!(label(&Target::tcp("::1", 80)).await, "no_ipv6");
            assert_eq!(label(&Target::tcp("2001:db8::1", 80)).await, "no_ipv6");
            assert_eq!(label(&from(Target::tcp("::1", 80), "::1")).await, "no_ipv6");
        });
    });
}

#[test]
fn a_full_range_has_its_name_and_another_source_has_room() {
    netns::isolated(|| {
        netns::port_range(20_000, 20_099);
        let server = server::start(None);
        netns::port_range(40_000, 40_019);
        let held: Vec<_> =
            (0..20).map(|_| std::net::TcpStream::connect(server.addr).unwrap()).collect();
        assert_eq!(netns::ports_toward(server.addr.port()), 20);
        run(async {
            let here = Target::tcp("127.0.0.1", server.addr.port());
            let error = dialer(500).dial(&here).await.unwrap_err();
            let DialError::PortsExhausted { src, dst, source } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*src, Some("127.0.0.1".parse().unwrap()));
            assert_eq!(*dst, server.addr);
            assert_eq!(source.raw_os_error(), Some(libc::EADDRNOTAVAIL));
            assert!(error.is_local_shortage());
            // Bound without a port, the second source has all of its twenty.
            let mut two = here.clone();
            two.sources = vec!["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
            let dialer = dialer(500);
            let mut more = Vec::new();
            for _ in 0..20 {
                more.push(dialer.dial(&two).await.unwrap());
            }
            assert_eq!(dialer.dial(&two).await.unwrap_err().label(), "ports_exhausted");
        });
        drop(held);
    });
}

#[test]
fn no_descriptor_is_not_a_full_range() {
    // In a process of its own: the limit is the whole process's.
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new(this)
        .args(["--exact", "dial::with_few_descriptors", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by no_descriptor_is_not_a_full_range"]
fn with_few_descriptors() {
    let server = server::start(None);
    run(async {
        let limit = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
        // SAFETY: the pointer is to a whole rlimit.
        #[expect(unsafe_code, reason = "std has no setrlimit")]
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        assert_eq!(result, 0);
        let target = Target::tcp("127.0.0.1", server.addr.port());
        let dialer = dialer(500);
        let mut held = Vec::new();
        let error = loop {
            match dialer.dial(&target).await {
                Ok(dialed) => held.push(dialed),
                Err(error) => break error,
            }
        };
        assert_eq!(error.label(), "fd_limit", "{error:?}");
        assert!(error.is_local_shortage());
    });
}

#[test]
fn an_abandoned_dial_is_counted() {
    netns::isolated(|| {
        netns::run("ip", &["link", "add", "d0", "type", "veth", "peer", "name", "d1"]);
        netns::run("ip", &["address", "add", "10.7.0.1/24", "dev", "d0"]);
        netns::run("ip", &["link", "set", "d0", "up"]);
        netns::run("ip", &["link", "set", "d1", "up"]);
        run(async {
            let dialer = dialer(10_000);
            let target = Target::tcp("10.7.0.9", 80);
            let dial = dialer.dial(&target);
            assert!(tokio::time::timeout(Duration::from_millis(20), dial).await.is_err());
            assert_eq!(dialer.counters().of(DialOutcome::Abandoned), 1);
        });
    });
}

#[test]
fn the_next_address_is_tried() {
    netns::isolated(|| {
        // `localhost` is ::1 and 127.0.0.1 nearly everywhere; here only the second has a server.
        let server = server::start(None);
        run(async {
            let target = Target::tcp("localhost", server.addr.port());
            let dialed = dialer(5000).dial(&target).await.unwrap();
            assert_eq!(dialed.remote, Some(server.addr));
        });
    });
}

/// A server that shows this certificate.
fn tls_server(certificate: rustls::pki_types::CertificateDer<'static>, key: &KeyPair) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    server::in_thread(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    // Keep it open until the client goes.
                    let _ = tokio::io::copy(
                        &mut tokio::io::BufReader::new(stream),
                        &mut tokio::io::sink(),
                    )
                    .await;
                }
            });
        }
    });
    port
}

#[test]
fn tls_verifies_and_agrees() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["up.example".to_owned()])
        .unwrap()
        .signed_by(&key, &ca)
        .unwrap();
    let port = tls_server(leaf.der().clone(), &key);
    let roots = Roots::Pem(ca.pem().into_bytes());
    let settings = |alpn: &[&str]| Arc::new(TlsSettings::new(&roots, None, alpn).unwrap());
    assert_eq!(settings(&["h2"]), settings(&["h2"]));
    assert_ne!(settings(&["h2"]), settings(&["http/1.1"]));
    let bad = Identity { chain_pem: b"x".to_vec(), key_pem: b"y".to_vec() };
    let error = TlsSettings::new(&roots, Some(&bad), &[]).unwrap_err();
    assert_eq!(error.to_string(), "the client certificate is not PEM, or holds none");
    let named = |name: &str, tls: Arc<TlsSettings>| {
        let mut target = Target::tcp("127.0.0.1", port).with_tls(tls);
        target.server_name = Some(name.to_owned());
        target
    };
    run(async {
        let dialer = dialer(10_000);
        let dialed = dialer.dial(&named("up.example", settings(&["h2"]))).await.unwrap();
        assert_eq!(dialed.alpn.as_deref(), Some(&b"h2"[..]));
        let error = dialer.dial(&named("other.example", settings(&["h2"]))).await.unwrap_err();
        assert_eq!(error.label(), "tls");
        assert_eq!(error.to_string(), "TLS with `other.example` failed");
        let stranger = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap();
        let untrusting = Roots::Pem(stranger.cert.pem().into_bytes());
        let untrusting = Arc::new(TlsSettings::new(&untrusting, None, &["h2"]).unwrap());
        let error = dialer.dial(&named("up.example", untrusting)).await.unwrap_err();
        assert_eq!(error.label(), "tls");
    });
}

/// What `openssl req -x509` makes: a certificate that calls itself a CA, served as it is.
#[test]
fn the_usual_self_signed_certificate_is_its_own_ca_file() {
    let made = |names: &[&str], change: fn(&mut CertificateParams)| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let port = tls_server(certificate.der().clone(), &key);
        (port, certificate.pem())
    };
    let said = |port: u16, trusted: &str, name: &str| {
        let roots = Roots::Pem(trusted.as_bytes().to_vec());
        let tls = Arc::new(TlsSettings::new(&roots, None, &["h2"]).unwrap());
        let mut target = Target::tcp("127.0.0.1", port).with_tls(tls);
        target.server_name = Some(name.to_owned());
        run(async {
            match dialer(10_000).dial(&target).await {
                Ok(_) => "connected".to_owned(),
                Err(error) => std::error::Error::source(&error).unwrap().to_string(),
            }
        })
    };
    let (port, own) = made(&["up.example", "127.0.0.1"], |_| {});
    assert_eq!(said(port, &own, "up.example"), "connected");
    assert_eq!(said(port, &own, "127.0.0.1"), "connected");
    let other_name = said(port, &own, "other.example");
    assert!(other_name.contains("is for") && other_name.contains("up.example"), "{other_name}");
    // Trusting one such certificate is not trusting another.
    let (_, another) = made(&["up.example"], |_| {});
    let stranger = said(port, &another, "up.example");
    assert!(
        stranger.contains("not one that is trusted") || stranger.contains("not signed by"),
        "{stranger}"
    );
    let (port, nameless) = made(&[], |_| {});
    let nameless = said(port, &nameless, "up.example");
    assert!(nameless.contains("subjectAltName"), "{nameless}");
    let (port, old) = made(&["up.example"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let old = said(port, &old, "up.example");
    assert!(old.contains("expired"), "{old}");
    // One that is no CA is its own CA file too, as before.
    let (port, plain) = made(&["up.example"], |params| params.is_ca = IsCa::NoCa);
    assert_eq!(said(port, &plain, "up.example"), "connected");
}
