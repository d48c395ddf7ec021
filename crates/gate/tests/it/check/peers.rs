//! Who is answered, over which sockets, and until when.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use keepgate_gate::{Gate, GateConfig, Listen, Peers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Original, asked, both, listening};
use crate::support::{
    Answer, Draft, Echo, PATIENCE, TestGate, connect, eventually, get, is_read, read_to_close,
};

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("keepgate-check-{}-{name}", std::process::id()))
}

fn public() -> Original {
    Original::new("GET", "/public")
}

/// A peer that may not ask gets no answer that a proxy could take for one.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_answered() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        listening(config);
        config.check_peers = vec!["10.0.0.0/8".parse().unwrap()].into();
    })
    .await;
    let mut stream = connect(gate.check.unwrap()).await;
    // The connection may be gone before all is written.
    let _ = stream.write_all(public().auth().as_bytes()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("it is closed");
    assert_eq!(answer, b"");
    assert_eq!(gate.metric("keepgate_gate_check_connections_refused_total").await, 1.0);
    assert_eq!(gate.metric("keepgate_gate_connections_accepted_total").await, 0.0);
}

/// Questions are not answered by the listener for callers, nor are requests forwarded by the other.
#[tokio::test(flavor = "multi_thread")]
async fn each_listener_does_its_own() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    asked(gate.addr, &public().auth()).await.is_problem(404, "no-route");
    let answer = asked(gate.check.unwrap(), &public().plain()).await;
    answer.is_problem(404, "no-route");
    assert!(answer.json()["detail"].to_string().contains("/ext_authz"), "{answer:?}");
}

#[expect(clippy::disallowed_methods, reason = "the test is the proxy")]
async fn over_unix(path: &Path, text: String) -> Answer {
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut out)).await.unwrap().unwrap();
    Answer::parse(&String::from_utf8_lossy(&out))
}

/// Over a Unix socket the user that the gate runs as may ask. Its file has the mode of all the gate's.
#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket() {
    let echo = Echo::start().await;
    let path = socket("unix");
    let listen = Listen::Unix(path.clone());
    let gate = TestGate::with(&Draft::orders(), &echo.url, move |config| {
        config.check_listen = vec![listen];
        config.check_peers = Peers::default();
        config.unix_access.mode = Some(0o600);
    })
    .await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(over_unix(&path, public().auth()).await.status, 200);
    drop(gate);
    let _ = std::fs::remove_file(path);
}

/// A gate without upstream listens for questions alone.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_upstream() {
    let mut gate = TestGate::with(&Draft::orders(), "", |config| {
        listening(config);
        config.listen = Listen::Nowhere;
    })
    .await;
    let check = gate.check.unwrap();
    assert_eq!(asked(check, &public().auth()).await.status, 200);
    assert_eq!(get(gate.admin, "/readyz", &[]).await.status, 200);
    // A question that came before the end is answered.
    let mut stream = connect(check).await;
    let text = public().auth();
    let (first, rest) = text.split_at(20);
    stream.write_all(first.as_bytes()).await.unwrap();
    // What the gate has not seen has not come.
    is_read(&stream).await;
    gate.tell_to_stop();
    stream.write_all(rest.as_bytes()).await.unwrap();
    let answer = Answer::parse(&read_to_close(&mut stream).await);
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (200, "close"));
    gate.stop().await;
}

/// The listener goes to the next gate with all others: no question is refused meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_passed_on() {
    let echo = Echo::start().await;
    let path = socket("takeover");
    let mut listen = None;
    let mut gates: Vec<TestGate> = Vec::new();
    for _ in 0..3 {
        let (takeover, at) = (path.clone(), listen.clone());
        let gate = TestGate::with(&Draft::orders(), &echo.url, move |config| {
            config.takeover = Some(takeover);
            config.check_listen = vec![at.unwrap_or(Listen::Tcp("127.0.0.1:0".parse().unwrap()))];
        })
        .await;
        let check = gate.check.unwrap();
        if let Some(before) = gates.last_mut() {
            assert_eq!(before.check, Some(check));
            let ended = before.ended.take().unwrap();
            tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
        } else {
            eventually("it can be replaced", async || path.exists()).await;
        }
        assert_eq!(asked(check, &public().auth()).await.status, 200);
        listen = Some(Listen::Tcp(check));
        gates.push(gate);
    }
    let _ = std::fs::remove_file(path);
}

/// Bounds of a connection are those of callers' connections.
#[tokio::test(flavor = "multi_thread")]
async fn bounds() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    let with =
        |header: String| public().auth().replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
    let long = |bytes: usize| with(format!("X-Long: {}", "a".repeat(bytes)));
    assert_eq!(asked(check, &long(31 * 1024)).await.status, 200);
    assert_eq!(asked(check, &long(33 * 1024)).await.status, 431);
    let many = |more: usize| {
        let lines: Vec<String> = (0..more).map(|n| format!("X-{n}: 1")).collect();
        with(lines.join("\r\n"))
    };
    // Five are the question's own.
    assert_eq!(asked(check, &many(95)).await.status, 200);
    assert_eq!(asked(check, &many(96)).await.status, 431);
    let target = |bytes: usize| {
        let target = format!("/public/{}", "a".repeat(bytes - 8));
        Original::new("GET", &target)
    };
    for (request, status) in [(target(8 * 1024), 200), (target(8 * 1024 + 1), 414)] {
        for text in [request.auth(), request.forward_auth()] {
            assert_eq!(asked(check, &text).await.status, status);
        }
    }
}

/// What cannot be a configuration.
#[tokio::test]
async fn faults() {
    let loopback = Listen::Tcp("127.0.0.1:18080".parse().unwrap());
    let base = || GateConfig {
        service: "orders".to_owned(),
        upstream: "http://127.0.0.1:9".to_owned(),
        listen: loopback.clone(),
        ..GateConfig::default()
    };
    let faults = |change: fn(&mut GateConfig)| {
        let mut config = base();
        change(&mut config);
        keepgate_gate::faults(&config)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert_eq!(faults(listening), "");
    assert!(faults(|c| c.check_listen = vec![c.listen.clone()]).contains("check_listen"));
    assert!(faults(|c| c.listen = Listen::Nowhere).contains("`listen`"));
    assert!(
        faults(|c| c.check_peers = vec!["0.0.0.0/0".parse().unwrap()].into())
            .contains("`check_peer`: covers every address")
    );
    let many = |c: &mut GateConfig| {
        c.check_listen = (1..=65).map(|n| Listen::Localhost(20_000 + n)).collect();
    };
    assert!(faults(many).contains("more than 64"), "{}", faults(many));
    // All at once at the start, too.
    let source = std::sync::Arc::new(keepgate_gate::FixedSource::new(Draft::orders().world()));
    let mut config = base();
    config.check_listen = vec![config.listen.clone()];
    assert!(Gate::with_source(config, source).await.is_err());
}
