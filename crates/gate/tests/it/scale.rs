//! Ports and connections at some scale, in network namespaces that the tests make.
//!
//! Callers come over a Unix socket: every TCP connection that the namespace's kernel counts as
//! opened is then the gate's, toward its upstream.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keepgate_gate::Listen;

use super::support::{Draft, TestGate, serve, skip};

/// Runs a test in a network namespace of its own, with these local ports. The namespace goes
/// with the last thread in it.
fn in_namespace<F: Future<Output = ()> + 'static>(ports: Option<&'static str>, test: fn() -> F) {
    let namespace = std::thread::spawn(move || {
        // SAFETY: it takes no pointer and changes this new thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let error = std::io::Error::last_os_error();
            skip(&format!("no network namespace can be made: {error}"));
            return;
        }
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        if !up.is_ok_and(|status| status.success()) {
            skip("`ip` (iproute2) cannot bring up lo");
            return;
        }
        if let Some(ports) = ports {
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", ports).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(test());
        runtime.shutdown_timeout(Duration::from_secs(1));
    });
    if let Err(panic) = namespace.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ActiveOpens` of this thread's namespace: connections opened from it, ever.
fn active_opens() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    both.find(|(name, _)| *name == "ActiveOpens").unwrap().1.parse().unwrap()
}

/// So many requests by so many callers, each on a connection of its own. How many were 200.
async fn load(socket: &Path, callers: usize, requests: usize) -> usize {
    let left = Arc::new(AtomicUsize::new(requests));
    let fine = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (left, fine, socket) = (Arc::clone(&left), Arc::clone(&fine), socket.to_owned());
        tasks.push(tokio::spawn(async move {
            #[expect(clippy::disallowed_methods, reason = "the test is the caller")]
            let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let next = |n: usize| n.checked_sub(1);
            while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok() {
                sender.ready().await.unwrap();
                let request = Request::get("/public")
                    .header("host", "a.example")
                    .body(Full::<Bytes>::default())
                    .unwrap();
                let response = sender.send_request(request).await.unwrap();
                let status = response.status();
                response.into_body().collect().await.unwrap();
                if status == 200 {
                    fine.fetch_add(1, Ordering::SeqCst);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    fine.load(Ordering::SeqCst)
}

async fn gate_at(
    name: &str,
    pause: Duration,
) -> (TestGate, std::path::PathBuf, super::support::Echo) {
    let echo = serve(move |_: Request<Incoming>| async move {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Response::new(Full::new(Bytes::from_static(&[b'x'; 1024])))
    })
    .await;
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let socket =
        std::env::temp_dir().join(format!("keepgate-{name}-{}-{number}.sock", std::process::id()));
    let listen = Listen::Unix(socket.clone());
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.listen = listen;
        config.admin_listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 7)));
    })
    .await;
    (gate, socket, echo)
}

#[test]
fn many_requests_open_few_connections() {
    in_namespace(None, || async {
        let (gate, socket, _echo) = gate_at("few", Duration::ZERO).await;
        let before = active_opens();
        assert_eq!(load(&socket, 64, 100_000).await, 100_000);
        let opened = active_opens() - before;
        assert!((1..=64).contains(&opened), "{opened} connections were opened");
        let metric = gate.metric("keepgate_gate_upstream_opened_total").await;
        assert_eq!(metric, f64::from(u32::try_from(opened).unwrap()), "the metric says the same");
        gate.stop().await;
        std::fs::remove_file(socket).unwrap();
    });
}

#[test]
fn fifty_ports_are_enough_for_everybody() {
    in_namespace(Some("50000 50049"), || async {
        let (gate, socket, _echo) = gate_at("fifty", Duration::from_millis(20)).await;
        let before = active_opens();
        let requests = if std::env::var_os("KEEPGATE_LONG").is_some() { 20_000 } else { 5_000 };
        assert_eq!(load(&socket, 256, requests).await, requests);
        let opened = active_opens() - before;
        assert!((1..=50).contains(&opened), "{opened} connections were opened");
        gate.stop().await;
        std::fs::remove_file(socket).unwrap();
    });
}
