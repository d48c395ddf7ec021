//! Runs `keepgate` and what it needs: processes that are ended by id, temporary directories,
//! free ports, network namespaces. Every wait has a bound.

use std::io::{BufRead as _, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// No wait of any test is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

fn unique(prefix: &str) -> String {
    format!("{prefix}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A directory that is removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let path = std::env::temp_dir().join(unique("keepgate-it-"));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A directory that says no more than the name of a service.
    pub(crate) fn service(&self, name: &str) -> String {
        self.write(&format!("{name}/service.toml"), &format!("name = \"{name}\"\n"));
        self.join(name).display().to_string()
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        if name.ends_with(".token") {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A free port, for programs that cannot say which one they took. It is below those that the kernel
/// gives to clients (32768 on), so no connection takes it before the program does; no two calls of this
/// process return the same.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const PORTS: u16 = 20_000;
    // Two processes at the same time begin apart.
    let begin = (std::process::id().wrapping_mul(67) % u32::from(PORTS)) as u16;
    loop {
        let at = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(at < PORTS, "no free port from {FIRST} on");
        let port = FIRST + (begin + at) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The executable, without this process's own settings.
pub(crate) fn keepgate() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_keepgate")))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEEPGATE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("COLUMNS").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

/// What a command that ends by itself has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end with this on its stdin.
pub(crate) fn run_with_input(mut command: Command, input: &str) -> Said {
    let scratch = Scratch::new();
    let file = std::fs::File::open(scratch.write("input", input)).unwrap();
    command.stdin(file);
    run(command)
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Said {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let code = wait(&mut child).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{command:?} did not end");
    });
    Said { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code().unwrap_or(-1));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Runs `keepgate ARGS..` to its end.
pub(crate) fn keepgate_run(args: &[&str]) -> Said {
    let mut command = keepgate();
    command.args(args);
    run(command)
}

/// As [`keepgate_run`], and it must succeed; its stdout.
pub(crate) fn keepgate_ok(args: &[&str]) -> String {
    let said = keepgate_run(args);
    assert_eq!(said.code, 0, "keepgate {args:?}: {said:?}");
    said.stdout
}

/// A gate of `orders` that follows a center. Nobody listens at its upstream: 502 means that it has
/// decided to let the request through.
pub(crate) fn gate_args<'a>(center: &'a str, token_file: &'a str, listen: &'a str) -> Vec<&'a str> {
    vec![
        "gate",
        "--json",
        "--center",
        center,
        "--token-file",
        token_file,
        "--service",
        "orders",
        "--upstream",
        "http://127.0.0.1:9",
        "--listen",
        listen,
        "--admin-listen",
        "127.0.0.1:0",
    ]
}

/// Waits for a state.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that runs until it is told to stop.
pub(crate) struct Running {
    child: Child,
    name: String,
    stdout: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    /// Reads stderr to its end.
    reader: std::thread::JoinHandle<()>,
}

impl Running {
    /// `keepgate ARGS..`.
    pub(crate) fn keepgate(args: &[&str]) -> Running {
        Running::start(keepgate(), args)
    }

    /// `keepgate up --json` before this upstream, with these policies, on any free ports.
    pub(crate) fn up(upstream: &str, policy: &str, data: &Path) -> Running {
        Running::up_with(upstream, policy, data, &["--json"])
    }

    /// As [`Running::up`], with these flags in place of `--json`.
    pub(crate) fn up_with(upstream: &str, policy: &str, data: &Path, more: &[&str]) -> Running {
        let any = "127.0.0.1:0";
        let args = [
            "up",
            "--upstream",
            upstream,
            "--policy",
            policy,
            "--data",
            data.to_str().unwrap(),
            "--listen",
            any,
            "--center",
            any,
            "--admin-listen",
            any,
        ];
        Running::keepgate(&[&args[..], more].concat())
    }

    /// `keepgate ARGS..` in a network namespace.
    pub(crate) fn keepgate_in(netns: &Netns, args: &[&str]) -> Running {
        let mut command = clean(Command::new("ip"));
        command.args(["netns", "exec", &netns.name, env!("CARGO_BIN_EXE_keepgate")]);
        Running::start(command, args)
    }

    /// Any program.
    pub(crate) fn start(mut command: Command, args: &[&str]) -> Running {
        command.args(args).env("KEEPGATE_LOG", "info");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (lines, stdout) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let err = BufReader::new(child.stderr.take().unwrap());
        let into = Arc::clone(&stderr);
        let reader = std::thread::spawn(move || {
            for line in err.lines().map_while(Result::ok) {
                let mut text = into.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        Running { child, name: format!("{command:?}"), stdout, stderr, reader }
    }

    /// The next line of stdout.
    pub(crate) fn line(&mut self) -> String {
        match self.stdout.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} says nothing; stderr: {}", self.name, self.stderr())
            }
            Err(RecvTimeoutError::Disconnected) => {
                panic!("{} has ended; stderr: {}", self.name, self.stderr())
            }
        }
    }

    /// The next line of stdout, as JSON.
    pub(crate) fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// Stdout up to and with the line that contains `needle`.
    pub(crate) fn until(&mut self, needle: &str) -> String {
        let mut text = String::new();
        loop {
            let line = self.line();
            text.push_str(&line);
            text.push('\n');
            if line.contains(needle) {
                return text;
            }
        }
    }

    /// Bytes of memory it holds now (`VmRSS`).
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    /// What it has logged so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until it has said this on stderr.
    pub(crate) fn says(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < until, "`{text}` is not said: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal.
    pub(crate) fn send(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: the process is our child and has not been waited for, so the id is its.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// SIGSTOP, and waits until all its threads stand still.
    pub(crate) fn freeze(&self) {
        self.send(libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        eventually("all threads stand still", || {
            let mut all = std::fs::read_dir(&tasks).unwrap().map_while(Result::ok);
            let stopped =
                |stat: String| stat.rsplit(") ").next().is_some_and(|s| s.starts_with('T'));
            all.all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(stopped))
                .then_some(())
        });
    }

    /// SIGKILL: what a crash is.
    pub(crate) fn kill(mut self) {
        self.send(libc::SIGKILL);
        self.child.wait().unwrap();
    }

    /// SIGTERM; it must end with 0 and must not have logged a WARN or an ERROR, but for lines
    /// that contain one of `announced`.
    pub(crate) fn stop_but(mut self, announced: &[&str]) {
        self.send(libc::SIGTERM);
        let code = wait(&mut self.child);
        eventually("all that it said is read", || self.reader.is_finished().then_some(()));
        let log = self.stderr();
        assert_eq!(code, Some(0), "{}: {log}", self.name);
        let loud: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains("ERROR"))
            .filter(|line| !announced.iter().any(|known| line.contains(known)))
            .collect();
        assert!(loud.is_empty(), "{} logged:\n{}", self.name, loud.join("\n"));
    }

    /// As [`Running::stop_but`], nothing announced.
    pub(crate) fn stop(self) {
        self.stop_but(&[]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            if std::thread::panicking() {
                eprintln!("{} said:\n{}", self.name, self.stderr());
            }
        }
    }
}

/// A member of a JSON object that must be a text.
pub(crate) fn text(value: &Value, path: &str) -> String {
    let found = value.pointer(path).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no text at {path} in {value}")).to_owned()
}

/// Says loudly that a test did not run; fails where that is not allowed.
pub(crate) fn skipped(why: &str) {
    assert!(
        std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none_or(|v| v != "1"),
        "must not skip: {why}"
    );
    eprintln!("SKIPPED: {why}");
}

/// A network namespace that is removed at the end.
pub(crate) struct Netns {
    pub(crate) name: String,
}

impl Netns {
    /// A new one with its loopback up; none where this process may not.
    pub(crate) fn new() -> Option<Netns> {
        let name = unique("kgit");
        let added = Command::new("ip").args(["netns", "add", &name]).output().ok()?;
        if !added.status.success() {
            return None;
        }
        let netns = Netns { name };
        netns.ip(&["link", "set", "lo", "up"]);
        Some(netns)
    }

    /// `ip ARGS..` in it.
    pub(crate) fn ip(&self, args: &[&str]) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(args);
        let said = run(command);
        assert_eq!(said.code, 0, "ip {args:?}: {said:?}");
    }

    /// Joins two namespaces: `a` gets 10.9.N.1, `b` 10.9.N.2.
    pub(crate) fn join(a: &Netns, b: &Netns, number: u8) {
        let (left, right) = (format!("kga{number}"), format!("kgb{number}"));
        a.ip(&["link", "add", &left, "type", "veth", "peer", "name", &right, "netns", &b.name]);
        for (netns, link, host) in [(a, &left, 1), (b, &right, 2)] {
            netns.ip(&["addr", "add", &format!("10.9.{number}.{host}/24"), "dev", link]);
            netns.ip(&["link", "set", link, "up"]);
        }
    }

    /// A counter of `/proc/net/snmp`, such as `Tcp` `ActiveOpens`.
    pub(crate) fn counter(&self, protocol: &str, name: &str) -> u64 {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "cat", "/proc/net/snmp"]);
        let table = run(command).stdout;
        let mut rows = table.lines().filter_map(|line| line.strip_prefix(&format!("{protocol}: ")));
        let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
        let index = names.split(' ').position(|n| n == name).unwrap();
        values.split(' ').nth(index).unwrap().parse().unwrap()
    }

    /// Moves the calling thread into it, for good.
    pub(crate) fn enter(&self) {
        use std::os::fd::AsRawFd as _;
        let file = std::fs::File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        // SAFETY: the descriptor is open and names a network namespace.
        assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A real nginx before files of its own.
pub(crate) struct Nginx {
    _scratch: Scratch,
    _process: Running,
    pub(crate) port: u16,
}

impl Nginx {
    /// Starts one on this address; none: nginx is not installed.
    pub(crate) fn start(netns: Option<&Netns>, address: &str) -> Option<Nginx> {
        Command::new("nginx").arg("-v").output().ok()?;
        let scratch = Scratch::new();
        let port = free_port();
        let dir = scratch.path().display().to_string();
        scratch.write("www/orders.json", "{\"orders\":[]}\n");
        for kind in ["client", "proxy", "fastcgi", "uwsgi", "scgi"] {
            std::fs::create_dir_all(scratch.join(kind)).unwrap();
        }
        // keepalive_requests: nginx closes a connection after 1,000 requests by default.
        let config = format!(
            "user root;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
             events {{ worker_connections 2048; }}\n\
             http {{\n  access_log off;\n  default_type application/json;\n  keepalive_requests 10000000;\n\
             \x20 client_body_temp_path {dir}/client;\n  proxy_temp_path {dir}/proxy;\n\
             \x20 fastcgi_temp_path {dir}/fastcgi;\n  uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n\
             \x20 server {{\n    listen {address}:{port} backlog=1024;\n    root {dir}/www;\n\
             \x20   location = /orders {{ try_files /orders.json =404; }}\n\
             \x20   location /orders/ {{ return 200 '{{\"order\":\"$uri\",\"by\":\"$http_keepgate_principal\"}}\\n'; }}\n\
             \x20 }}\n}}\n"
        );
        scratch.write("nginx.conf", &config);
        let mut command = match netns {
            None => Command::new("nginx"),
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &netns.name, "nginx"]);
                command
            }
        };
        command.args([
            "-p",
            &dir,
            "-c",
            &format!("{dir}/nginx.conf"),
            "-g",
            "daemon off; master_process off;",
        ]);
        let process = Running::start(command, &[]);
        eventually("nginx has written its pid", || {
            scratch.join("pid").metadata().ok().filter(|m| m.len() > 0)
        });
        Some(Nginx { _scratch: scratch, _process: process, port })
    }
}
