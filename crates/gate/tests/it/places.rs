//! Places for connections: nobody is locked out by those who only hold one.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::support::{Draft, Echo, PATIENCE, TestGate, eventually, get, read_until, talk};

const ALICE: (&str, &str) = ("x-user", "alice");

/// A connection from another address of the loopback network.
#[expect(clippy::disallowed_methods, reason = "the test is the caller")]
async fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
    tokio::time::timeout(PATIENCE, socket.connect(to)).await.unwrap().unwrap()
}

async fn ask_from(from: &str, to: SocketAddr) -> String {
    let mut stream = connect_from(from, to).await;
    let request = "GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap();
    text
}

/// Reads to the end, whatever comes.
async fn is_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room_and_the_heaviest_address_goes_first() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.max_connections = 8;
        config.bounds.max_connections_per_address = Some(6);
    })
    .await;
    let mut heavy = Vec::new();
    for _ in 0..6 {
        heavy.push(connect_from("127.0.0.2", gate.addr).await);
    }
    // One of them has begun a head, one is kept after an exchange: neither has an exchange now.
    heavy[0].write_all(b"GET /orders HTT").await.unwrap();
    heavy[1].write_all(b"GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n").await.unwrap();
    read_until(&mut heavy[1], "x-upstream").await;
    let mut light = Vec::new();
    for _ in 0..2 {
        light.push(connect_from("127.0.0.3", gate.addr).await);
    }
    eventually("all places are taken", async || {
        gate.metric("keepgate_gate_connections_open").await == 8.0
    })
    .await;
    for n in 1..=4 {
        assert!(ask_from(&format!("127.0.0.{}", 10 + n), gate.addr).await.contains("200 OK"));
    }
    // Each of those gave its place back, so one idle connection was enough for all of them.
    assert!(gate.metric("keepgate_gate_cut_total{bound=\"places\"}").await >= 1.0);
    for stream in &mut light {
        stream
            .write_all(b"GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n")
            .await
            .unwrap();
        read_until(stream, "x-upstream").await;
    }
    assert_eq!(gate.metric("keepgate_gate_connections_over_bound_total").await, 0.0);
}

/// An address at its own bound gives up its own idle connections, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_quarter_of_all_places() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.max_connections = 16;
    })
    .await;
    let mut all = Vec::new();
    for n in 1..=12 {
        all.push(connect_from("127.0.0.2", gate.addr).await);
        // Two workers accept: only one that was seen by one of them is older than the next.
        eventually("it is accepted", async || {
            gate.metric("keepgate_gate_connections_accepted_total").await == f64::from(n)
        })
        .await;
        if all.len() > 4 {
            // The oldest made room. Its place is free when its end has been counted.
            is_closed(all.remove(0)).await;
            eventually("a quarter is left", async || {
                gate.metric("keepgate_gate_connections_open").await == 4.0
            })
            .await;
        }
    }
    assert!(ask_from("127.0.0.3", gate.addr).await.contains("200 OK"));
    for stream in &mut all {
        stream
            .write_all(b"GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n")
            .await
            .unwrap();
        read_until(stream, "x-upstream").await;
    }
}

/// HTTP/2 connections without a stream make room too.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_http2_connection_makes_room() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.max_connections = 4;
        config.bounds.max_connections_per_address = Some(4);
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut stream = connect_from("127.0.0.2", gate.addr).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut greeting = [0; 9];
        stream.read_exact(&mut greeting).await.unwrap();
        idle.push(stream);
    }
    assert!(ask_from("127.0.0.3", gate.addr).await.contains("200 OK"));
    assert_eq!(gate.metric("keepgate_gate_connections_over_bound_total").await, 0.0);
}

/// Who holds all connections of the admin listener idle does not keep others from it; and it
/// answers only to its own names.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_has_its_own_places_and_names() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(super::support::connect(gate.admin).await);
    }
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
    let status = async |host: &str| {
        let line = if host.is_empty() { String::new() } else { format!("Host: {host}\r\n") };
        let request = format!("GET /healthz HTTP/1.1\r\n{line}Connection: close\r\n\r\n");
        // Those that were told to close may take their time; until then there is no room, and whoever asks
        // for metrics asks again.
        let asking = async {
            loop {
                match talk(gate.admin, &request).await {
                    said if said.is_empty() => tokio::time::sleep(Duration::from_millis(10)).await,
                    said => return said,
                }
            }
        };
        let said = tokio::time::timeout(PATIENCE, asking).await.expect("there is room");
        said.get(9..12).unwrap_or_default().to_owned()
    };
    for own in ["localhost", "LocalHost:8081", "127.0.0.1", "10.1.2.3:80", "[::1]:80", "A.example"]
    {
        assert_eq!(status(own).await, "200", "{own}");
    }
    for other in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8081"] {
        assert_eq!(status(other).await, "421", "{other}");
    }
    assert_ne!(status("").await, "200");
    drop(idle);
}

/// The habitual soft limit of 1,024 and 1,100 callers that say nothing: others are served. In a
/// process of its own, whose limits are lowered.
#[tokio::test(flavor = "multi_thread")]
async fn a_soft_limit_of_1024_and_1100_idle_callers() {
    const CHILD: &str = "KEEPGATE_TEST_LOW_LIMIT";
    if std::env::var_os(CHILD).is_some() {
        return low_limit_child().await;
    }
    keepgate_serve::raise_limit().unwrap();
    for hard in ["1024", "8192"] {
        let mut child = Command::new("bash")
            .args(["-c", "ulimit -Sn 1024 && ulimit -Hn $1 && exec \"$0\" \"${@:2}\""])
            .arg(std::env::current_exe().unwrap())
            .args([hard, "--exact", "places::a_soft_limit_of_1024_and_1100_idle_callers"])
            .arg("--nocapture")
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let (line, _rest) = tokio::task::spawn_blocking(move || {
            use std::io::BufRead as _;
            let mut lines = std::io::BufReader::new(out).lines();
            let line = lines.find_map(|line| {
                let line = line.unwrap();
                line.split_once("GATE ").map(|(_, addr)| addr.trim().to_owned())
            });
            (line, lines)
        })
        .await
        .unwrap();
        let addr: SocketAddr = line.expect("the child tells its address").parse().unwrap();
        let mut idle = Vec::new();
        for _ in 0..1_100 {
            idle.push(connect_from("127.0.0.2", addr).await);
        }
        for n in 1..=10 {
            let answer = ask_from(&format!("127.0.0.{}", 10 + n), addr).await;
            assert!(answer.contains("200 OK"), "hard limit {hard}, caller {n}: {answer:?}");
        }
        drop(idle);
        drop(child.stdin.take());
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        assert!(ended.success(), "hard limit {hard}");
    }
}

async fn low_limit_child() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.first_byte = 4 * PATIENCE;
    })
    .await;
    println!("GATE {}", gate.addr);
    // Until the parent is done, or gone.
    let end = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()));
    let _ = tokio::time::timeout(6 * PATIENCE, end).await;
    gate.stop().await;
}
