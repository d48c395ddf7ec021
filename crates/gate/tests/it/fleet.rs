//! Twelve sites with forty addresses behind one gate: real nginx servers that die, come back, and move
//! by name, under load. With a fixed seed; `KEEPGATE_FLEET_SECONDS` makes it longer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keepgate_client::pool::PoolConfig;
use keepgate_gate::FixedSource;
use keepgate_gate::config::file;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::support::{Draft, PATIENCE, TestGate, connect, eventually, free_port, skip};

const SITES: usize = 12;
const ADDRESSES: usize = 40;
/// How long it goes on, in the short form.
const SECONDS: u64 = 8;
/// Where they are: 127.0.77.N, and this port.
const NET: &str = "127.0.77";

/// An nginx process at an address of its own.
struct Nginx {
    number: usize,
    port: u16,
    dir: PathBuf,
    child: Option<Child>,
}

impl Nginx {
    fn new(scratch: &Path, number: usize, port: u16) -> Nginx {
        let dir = scratch.join(number.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let shown = dir.display();
        let config = format!(
            "pid {shown}/pid;\nerror_log {shown}/error.log;\nevents {{ worker_connections 512; }}\n\
             http {{\n access_log off;\n keepalive_requests 1000000;\n\
             client_body_temp_path {shown}/client;\n proxy_temp_path {shown}/proxy;\n\
             fastcgi_temp_path {shown}/fastcgi;\n uwsgi_temp_path {shown}/uwsgi;\n\
             scgi_temp_path {shown}/scgi;\n\
             server {{ listen {NET}.{number}:{port}; location / {{ return 200 'server {number}\\n'; }} }}\n}}\n"
        );
        std::fs::write(dir.join("nginx.conf"), config).unwrap();
        Nginx { number, port, dir, child: None }
    }

    fn start(&mut self) {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&self.dir).arg("-c").arg(self.dir.join("nginx.conf"));
        command.args(["-g", "daemon off; master_process off;"]);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(quiet.spawn().unwrap());
    }

    /// As a crash does it, or an orderly stop that cuts off what is under way.
    fn stop(&mut self, crash: bool) {
        if let Some(mut child) = self.child.take() {
            let signal = if crash { libc::SIGKILL } else { libc::SIGTERM };
            // SAFETY: the process is our child and has not been waited for, so the id is its.
            #[expect(unsafe_code, reason = "std sends only SIGKILL")]
            unsafe {
                libc::kill(i32::try_from(child.id()).unwrap(), signal);
            }
            child.wait().unwrap();
        }
    }

    fn endpoint(&self) -> String {
        format!("{NET}.{}:{}", self.number, self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop(true);
    }
}

/// What callers got.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    answered: AtomicUsize,
    /// POSTs whose connection died: nobody can tell whether they were processed.
    posts_lost: AtomicUsize,
}

/// One caller of one site, with one kept connection.
async fn caller(
    gate: SocketAddr,
    site: usize,
    method: &str,
    tally: Arc<Tally>,
) -> Result<(), String> {
    let request = format!(
        "{method} /orders HTTP/1.1\r\nHost: site{site}.test\r\nx-user: alice\r\nContent-Length: 0\r\n\r\n"
    );
    let mut stream = connect(gate).await;
    while !tally.over.load(Ordering::SeqCst) {
        stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut answer = String::new();
        let mut chunk = [0; 4096];
        while !answer.contains("server ") && !answer.contains("\"request_id\"") {
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await;
            let n = read.map_err(|_| format!("{method} at site {site}: late"))?;
            let n = n.map_err(|e| e.to_string())?;
            if n == 0 {
                return Err(format!("{method} at site {site}: the gate closed: {answer}"));
            }
            answer.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
        if answer.starts_with("HTTP/1.1 200") {
            tally.answered.fetch_add(1, Ordering::SeqCst);
        } else if method == "POST" && answer.starts_with("HTTP/1.1 502") {
            tally.posts_lost.fetch_add(1, Ordering::SeqCst);
        } else {
            return Err(format!("{method} at site {site}: {answer}"));
        }
        if answer.to_lowercase().contains("connection: close") {
            stream = connect(gate).await;
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    Ok(())
}

/// The addresses of the last site's name, as the resolver reads them.
fn point(hosts: &Path, numbers: &[usize]) {
    let lines: String = numbers.iter().map(|n| format!("{NET}.{n} moving.test\n")).collect();
    std::fs::write(hosts, lines).unwrap();
}

#[test]
fn forty_addresses_of_twelve_sites_die_come_back_and_move_and_no_safe_request_fails() {
    if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
        return skip("nginx is not installed");
    }
    // In a thread with a hosts file of its own.
    let run = std::thread::spawn(|| {
        // SAFETY: no pointers; affects this thread, and those that it starts.
        #[expect(unsafe_code, reason = "std has no unshare")]
        let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        if result != 0 {
            return skip("no mount namespace of its own");
        }
        let scratch = std::env::temp_dir().join(format!("keepgate-fleet-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let hosts = scratch.join("hosts");
        std::fs::write(&hosts, "").unwrap();
        for args in
            [&["--make-rprivate", "/"][..], &["--bind", hosts.to_str().unwrap(), "/etc/hosts"]]
        {
            assert!(Command::new("mount").args(args).status().unwrap().success());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(fleet(&scratch, &hosts));
        std::fs::remove_dir_all(&scratch).unwrap();
    });
    run.join().unwrap();
}

async fn fleet(scratch: &Path, hosts: &Path) {
    let port = free_port();
    let mut servers: Vec<Nginx> =
        (1..=ADDRESSES).map(|number| Nginx::new(scratch, number, port)).collect();
    servers.iter_mut().for_each(Nginx::start);
    for server in &servers {
        let addr = server.endpoint().parse::<SocketAddr>().unwrap();
        eventually("nginx listens", async || {
            #[expect(clippy::disallowed_methods, reason = "the test looks whether it is there")]
            tokio::net::TcpStream::connect(addr).await.is_ok()
        })
        .await;
    }
    // Sites 0 to 10 have three addresses each; the last one a name, for the other seven.
    let fixed = SITES - 1;
    point(hosts, &[34, 35]);
    let mut text = String::new();
    for site in 0..SITES {
        let addresses: Vec<String> = match site {
            last if last == fixed => vec![format!("moving.test:{port}")],
            site => servers[3 * site..3 * site + 3].iter().map(Nginx::endpoint).collect(),
        };
        text += &format!(
            "[upstream.u{site}]\naddresses = {addresses:?}\ndns_refresh = \"200ms\"\n\
             eject_min = \"200ms\"\neject_max = \"2s\"\n\
             [[site]]\nhosts = [\"site{site}.test\"]\nservice = \"orders\"\nupstream = \"u{site}\"\n"
        );
    }
    let read = file::read(&text, scratch, &PoolConfig::default());
    let read = read.unwrap_or_else(|faults| panic!("{:?}", faults[0].shown("gate.toml")));
    let source = Arc::new(FixedSource::new(Draft::orders().world()));
    let gate = TestGate::on(source, "", |config| {
        config.service = String::new();
        (config.sites, config.upstreams) = (read.sites, read.upstreams);
    })
    .await;

    let tally = Arc::new(Tally::default());
    let mut callers = JoinSet::new();
    for site in 0..SITES {
        for method in ["GET", "GET", "POST"] {
            callers.spawn(caller(gate.addr, site, method, Arc::clone(&tally)));
        }
    }
    let seconds = std::env::var("KEEPGATE_FLEET_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS).min(600));
    let mut random = 20_261_126_u64;
    let mut dead: Vec<usize> = Vec::new();
    let (mut died, mut moved) = (0, 0);
    while Instant::now() < end {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let draw = usize::try_from(random >> 33).unwrap();
        match draw % 4 {
            // One address of a site at a time: another one must be there.
            0 | 1 => {
                let at = draw / 4 % (3 * fixed);
                if !dead.iter().any(|other| other / 3 == at / 3) {
                    servers[at].stop(draw % 2 == 0);
                    dead.push(at);
                    died += 1;
                }
            }
            2 if !dead.is_empty() => {
                let at = dead.swap_remove(draw / 4 % dead.len());
                servers[at].start();
            }
            _ => {
                let first = 34 + draw / 4 % 6;
                point(hosts, &[first, first + 1]);
                moved += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        if let Some(ended) = callers.try_join_next() {
            panic!("after {died} deaths, {moved} moves: {:?}", ended.unwrap());
        }
    }
    tally.over.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        assert_eq!(ended.unwrap(), Ok(()), "after {died} deaths, {moved} moves");
    }
    let (answered, lost) =
        (tally.answered.load(Ordering::SeqCst), tally.posts_lost.load(Ordering::SeqCst));
    let failovers = gate.metric("keepgate_gate_upstream_failovers_total{upstream=\"u0\"}").await;
    let moves = gate.metric("keepgate_gate_upstream_name_changes_total{upstream=\"u11\"}").await;
    eprintln!(
        "{answered} answered; {died} deaths; {moved} moves ({moves} followed); {lost} POSTs lost; {failovers} failovers at one site"
    );
    assert!(died > 5 && moves >= 2.0 && answered > 200, "{died} {moves} {answered}");
    gate.stop().await;
}
