//! `keepgate tune` in real network namespaces: what a plan promises is what then happens, and
//! whatever happens in between, everything can go back.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keepgate_lab::net::{End, Namespace, join};

const KEYS: [&str; 4] = [
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_timestamps",
];
/// Longest wait for a state.
const BOUND: Duration = Duration::from_secs(60);

/// Two namespaces, a server that closes what it accepts, and folders for files and journals.
pub(crate) struct Host {
    pub(crate) client: Namespace,
    _server: Namespace,
    pub(crate) to: SocketAddr,
    /// Whether the server lets callers end first.
    patient: Arc<AtomicBool>,
    pub(crate) folder: PathBuf,
}

/// None where namespaces cannot be made; then it has said so.
pub(crate) fn host(name: &str) -> Option<Host> {
    // SAFETY: reads the process's own credentials.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(), "this test must run, as root");
        eprintln!("SKIPPED: making network namespaces needs root");
        return None;
    }
    let (client, server) =
        (Namespace::create("client").unwrap(), Namespace::create("server").unwrap());
    let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 79, 0, last));
    join(
        &End { namespace: &client, interface: "up0", addresses: &[ip(1)] },
        &End { namespace: &server, interface: "up0", addresses: &[ip(2)] },
    )
    .unwrap();
    let to = SocketAddr::new(ip(2), 8443);
    let listener = server.run(|| Ok(TcpListener::bind(to)?)).unwrap();
    let patient = Arc::new(AtomicBool::new(false));
    let wait = Arc::clone(&patient);
    std::thread::spawn(move || {
        // Ends with the test's process. The first connection stays open, so that timestamps can
        // be seen. Of the others this side waits for the caller's end, or ends first: a caller
        // that holds on then keeps its port taken in CLOSE_WAIT.
        let mut first = None;
        for mut stream in listener.incoming().flatten() {
            if first.is_none() {
                first = Some(stream);
            } else if wait.load(Ordering::SeqCst) {
                let _ = stream.read(&mut [0]);
            }
        }
    });
    let folder = std::env::temp_dir().join(format!("keepgate-tune-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    Some(Host { client, _server: server, to, patient, folder })
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Host {
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.client.command(env!("CARGO_BIN_EXE_keepgate"));
        command.arg("tune").args(words);
        if matches!(words.first(), Some(&"apply" | &"undo")) {
            command.arg("--sysctl-dir").arg(self.folder.join("sysctl.d"));
            command.arg("--state-dir").arg(self.folder.join("state"));
        }
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn tune(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Raw texts of all settings and of the lasting file.
    pub(crate) fn state(&self) -> BTreeMap<String, Option<String>> {
        let mut state: BTreeMap<String, Option<String>> =
            KEYS.iter().map(|key| ((*key).to_owned(), Some(self.value(key)))).collect();
        let file = self.folder.join("sysctl.d/90-keepgate.conf");
        state.insert("file".to_owned(), std::fs::read_to_string(file).ok());
        state
    }

    pub(crate) fn value(&self, key: &str) -> String {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.client.run(|| Ok(keepgate_ports::read::setting(&path)?)).unwrap()
    }

    pub(crate) fn journal(&self) -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.join("state/tune-host.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Opens and closes until no port is left that is not in TIME_WAIT.
    fn churn(&self) {
        self.patient.store(true, Ordering::SeqCst);
        let output = self
            .client
            .command("python3")
            .args(["-c", CHURN, &self.to.ip().to_string(), &self.to.port().to_string()])
            .output()
            .unwrap();
        self.patient.store(false, Ordering::SeqCst);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Connects until no port is left.
    fn fill(&self) -> Held {
        let mut held = Held { holders: Vec::new(), count: 0 };
        loop {
            let mut holder = self
                .client
                .command("python3")
                .args(["-c", HOLDER, &self.to.ip().to_string(), &self.to.port().to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            let count: usize = line.trim().parse().unwrap();
            held.holders.push(holder);
            held.count += count;
            assert!(held.count < 66_000, "more connections than ports");
            if count < A_HOLDER_S {
                return held;
            }
        }
    }
}

/// Connections of one holder: a process may have only so many descriptors.
const A_HOLDER_S: usize = 15_000;

/// Connects up to 15,000 times, says how often that worked, and holds the connections until
/// its input ends. IP_LOCAL_PORT_RANGE (51), set to everything, has the kernel allocate from the
/// same ports without its slow scan beyond half of the range.
const HOLDER: &str = r#"
import errno, socket, struct, sys
to, held = (sys.argv[1], int(sys.argv[2])), []
while len(held) < 15000:
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_IP, 51, struct.pack("I", (65535 << 16) | 1))
    try:
        s.connect(to)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        break
    held.append(s)
print(len(held), flush=True)
sys.stdin.read()
"#;

/// Opens and closes until no port is left. This side ends first and sees the other side's end:
/// the TIME_WAIT is here. The option is [`HOLDER`]'s: with the slow scan the first TIME_WAITs may
/// end while the last are made.
const CHURN: &str = r#"
import errno, socket, struct, sys
to = (sys.argv[1], int(sys.argv[2]))
for _ in range(66000):
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_IP, 51, struct.pack("I", (65535 << 16) | 1))
    try:
        s.connect(to)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        break
    s.shutdown(socket.SHUT_WR)
    while s.recv(1):
        pass
    s.close()
else:
    sys.exit("more connections than ports")
"#;

/// Connections held by processes; dropping it ends them.
struct Held {
    holders: Vec<Child>,
    count: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the callers of the host under test")]
fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(to)
}

pub(crate) fn wait_for<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + BOUND;
    loop {
        if let Some(reached) = state() {
            return reached;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn ok(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}{error}", output.status);
    text
}

#[test]
#[ignore = "heavy: 100,000 connections"]
fn connects_rise_to_exactly_what_the_plan_promised() {
    let Some(host) = host("promise") else { return };
    host.client.sysctl("net.ipv4.ip_local_port_range", "50000 65000").unwrap();
    host.client.sysctl("net.ipv4.tcp_tw_reuse", "0").unwrap();
    let file = host.folder.join("sysctl.d/90-keepgate.conf");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "# somebody's\nnet.ipv4.tcp_sack = 1\n").unwrap();
    let before = host.state();

    // The incident: every port in TIME_WAIT, closed by this side, but for one that lives.
    let alive = host.client.run(|| Ok(connect(host.to)?)).unwrap();
    host.churn();
    assert_eq!(host.fill().count, 0, "ports are left");

    let to = host.to.to_string();
    let planned = wait_for("a plan whose promise is exact and the same twice", || {
        let promise = || {
            let plan: serde_json::Value =
                serde_json::from_str(&ok(&host.tune(&["plan", "--json", "--to", &to]))).unwrap();
            let after = plan.pointer("/gains/0/remaining_after").cloned()?;
            (after["min"] == after["max"]).then(|| after["min"].as_u64()).flatten()
        };
        let first = promise()?;
        (promise()? == first && first > 50_000).then_some(first)
    });
    ok(&host.tune(&["apply", "--yes", "--to", &to]));
    assert_eq!(host.value("net.ipv4.tcp_tw_reuse"), "1\n");
    assert_eq!(host.fill().count as u64, planned);
    drop(alive);

    let lasting = std::fs::read_to_string(&file).unwrap();
    assert!(lasting.contains("net.ipv4.ip_local_port_range = 10240 65535"), "{lasting}");
    ok(&host.tune(&["undo"]));
    assert_eq!(host.state(), before, "undo restores every byte");
    assert!(host.journal().is_none());
}

#[test]
#[ignore = "heavy: 100,000 connections"]
fn services_that_start_later_can_bind() {
    const SERVICES: [u16; 11] =
        [11211, 15672, 25672, 26257, 26379, 27017, 27018, 27019, 28015, 50051, 61616];
    let Some(host) = host("services") else { return };
    let able = |host: &Host| {
        let _taken = host.fill();
        host.client
            .run(|| {
                let listening = SERVICES.map(|port| TcpListener::bind(("0.0.0.0", port)).ok());
                Ok(listening.iter().flatten().count())
            })
            .unwrap()
    };
    // Without the plan: the same range, by hand.
    host.client.sysctl("net.ipv4.ip_local_port_range", "10240 65535").unwrap();
    assert_eq!(able(&host), 0, "every port was free to be taken");

    host.client.sysctl("net.ipv4.ip_local_port_range", "32768 60999").unwrap();
    ok(&host.tune(&["apply", "--yes", "--widen"]));
    assert_eq!(host.value("net.ipv4.ip_local_port_range"), "10240\t65535\n");
    assert_eq!(able(&host), SERVICES.len());
}

#[test]
fn unconfirmed_changes_go_back() {
    let Some(host) = host("deadman") else { return };
    let before = host.state();
    let text = ok(&host.tune(&["apply", "--widen", "--timeout", "1"]));
    assert!(text.contains("keepgate tune apply --confirm --state-dir"), "{text}");
    assert!(host.value(KEYS[0]).starts_with("10240"));
    // The program has ended; the watcher acts alone.
    wait_for("everything as it was", || (host.state() == before).then_some(()));
    wait_for("the journal closed", || host.journal().is_none().then_some(()));
    let again = host.tune(&["apply", "--confirm"]);
    assert_eq!(again.status.code(), Some(1), "there is nothing to confirm");
    let word = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(word.contains("not confirmed in time"), "{word}");
}

#[test]
fn confirmed_changes_stay() {
    let Some(host) = host("confirmed") else { return };
    let before = host.state();
    ok(&host.tune(&["apply", "--widen", "--timeout", "3600"]));
    ok(&host.tune(&["apply", "--confirm"]));
    assert_eq!(host.journal().unwrap()["state"], "confirmed");
    assert!(host.value(KEYS[0]).starts_with("10240"));
    // A second application owns nothing new and forgets nothing.
    assert!(ok(&host.tune(&["apply", "--yes", "--widen"])).contains("Nothing to change"));
    ok(&host.tune(&["undo"]));
    assert_eq!(host.state(), before);
}

#[test]
fn killed_in_the_middle_goes_back() {
    let Some(host) = host("killed") else { return };
    let before = host.state();
    let mut interrupted = 0;
    for round in 0..10 {
        let mut child = host
            .command(&["apply", "--widen", "--timeout", "3600"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed as soon as it has begun, or a little later: before, between, after the writes.
        let deadline = Instant::now() + BOUND;
        while host.journal().is_none() {
            assert!(Instant::now() < deadline, "no journal");
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(Duration::from_micros(round * 200));
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for("taken back, or whole", || match host.journal() {
            None => (host.state() == before).then_some(()),
            Some(journal) if journal["state"] == "armed" => Some(()),
            Some(_) => {
                // The watcher may have come to life or not; the next command repairs either way.
                host.tune(&["apply", "--confirm"]);
                None
            }
        });
        if host.journal().is_some() {
            ok(&host.tune(&["undo"]));
        } else {
            // There was a journal when it was killed, and it was taken back.
            interrupted += 1;
        }
        assert_eq!(host.state(), before, "in round {round}");
    }
    assert!(interrupted > 0, "none was caught in the middle");
}

#[test]
fn steps_aside_for_somebody_else() {
    let Some(host) = host("aside") else { return };
    let before = host.state();
    ok(&host.tune(&["apply", "--yes", "--widen"]));
    host.client.sysctl("net.ipv4.ip_local_port_range", "20000 30001").unwrap();
    let again = host.tune(&["apply", "--yes", "--widen"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("another program has set net.ipv4.ip_local_port_range"), "{said}");
    let undone = host.tune(&["undo"]);
    assert_eq!(undone.status.code(), Some(1), "not everything could go back");
    let mut expected = before;
    expected.insert(KEYS[0].to_owned(), Some("20000\t30001\n".to_owned()));
    assert_eq!(host.state(), expected);
}

#[test]
fn harmful_changes_are_refused() {
    let Some(host) = host("refused") else { return };
    let _listener = host.client.run(|| Ok(TcpListener::bind("0.0.0.0:20080")?)).unwrap();
    let before = host.state();
    for (text, culprit) in [
        ("net.ipv4.tcp_tw_recycle = 1\n", "net.ipv4.tcp_tw_recycle"),
        ("net.ipv4.tcp_timestamps = 0\n", "net.ipv4.tcp_timestamps"),
        ("net.ipv4.ip_local_port_range = 20000 60999\n", "20080"),
        ("net.ipv4.ip_local_port_range = 1024-65535\n", "1024-65535"),
    ] {
        let file = host.folder.join("their.conf");
        std::fs::write(&file, text).unwrap();
        let output = host.tune(&["apply", "--yes", "--file", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}{said}");
        assert!(said.contains("refused") && said.contains(culprit), "{said}");
        assert_eq!(host.state(), before);
    }
    // The same range is fine once the listener's port is reserved.
    let file = host.folder.join("their.conf");
    std::fs::write(
        &file,
        "net.ipv4.ip_local_reserved_ports = 20080\nnet.ipv4.ip_local_port_range = 20000 60999\n",
    )
    .unwrap();
    ok(&host.tune(&["apply", "--yes", "--file", file.to_str().unwrap()]));
    assert_eq!(host.value(KEYS[1]), "20080\n");
}

#[test]
fn another_process_s_namespace() {
    let Some(host) = host("pid") else { return };
    let mut inside = host.client.command("sleep").arg("600").spawn().unwrap();
    let pid = inside.id().to_string();
    let before = host.state();
    let state = host.folder.join("state");
    let tune = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepgate"));
        command.arg("tune").args(words).args(["--pid", &pid]).arg("--state-dir").arg(&state);
        command.output().unwrap()
    };
    ok(&tune(&["apply", "--yes", "--widen"]));
    assert!(host.value(KEYS[0]).starts_with("10240"));
    let journal = std::fs::read_to_string(state.join(format!("tune-pid-{pid}.json"))).unwrap();
    assert!(journal.contains(r#""file": null"#), "a file of this host would be wrong: {journal}");
    ok(&tune(&["undo"]));
    assert_eq!(host.state(), before);
    inside.kill().unwrap();
    inside.wait().unwrap();
}
