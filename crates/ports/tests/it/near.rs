//! The command in situations that other programs make: every port of the default range bound, rights
//! that are missing, containers with files of their own, and what only looks like ports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use keepgate_ports::doctor::Exit;
use keepgate_ports::names::{Names, Service, answers};
use keepgate_ports::netns::Namespace;
use keepgate_ports::report::{Cause, Finding, Report, Severity, Verdict};

use crate::golden::doctor;
use crate::world::{CLIENT, SERVER, World, available, open, run, socket};

/// A program that prints a line once its situation stands, and keeps it until its input ends.
pub(crate) struct Script(Child);

impl Script {
    /// Runs Python, in front of it `words` (`ip netns exec NAME`, ..).
    fn start(words: &[&str], code: &str) -> Self {
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(["python3", "-c", code])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "{code}");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Connects from each port of a range, to port 7000 + (port % destinations) of the server.
pub(crate) fn connect_from(
    world: &World,
    low: u16,
    high: u16,
    destinations: u16,
    bind: bool,
) -> Script {
    let how = if bind {
        format!("s.setsockopt(1, 2, 1); s.bind(('{CLIENT}', p))")
    } else {
        "s.setsockopt(0, 51, struct.pack('=I', p | p << 16))".to_owned()
    };
    let code = format!(
        "import resource, socket, struct, sys\n\
         hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n\
         keep = []\n\
         for p in range({low}, {high} + 1):\n\
         \x20   s = socket.socket(); {how}\n\
         \x20   s.connect(('{SERVER}', 7000 + p % {destinations})); keep.append(s)\n\
         print('ready', flush=True); sys.stdin.read()\n"
    );
    Script::start(&["ip", "netns", "exec", &world.client], &code)
}

fn report(words: &[&str]) -> (Exit, Report) {
    let (exit, out, err) = doctor(&[words, &["--json"]].concat());
    let report = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    (exit, report)
}

fn found<'a>(report: &'a Report, id: &str) -> &'a Finding {
    report.findings.iter().find(|f| f.id == id).unwrap_or_else(|| panic!("no {id}: {report:#?}"))
}

const DESTINATIONS: u16 = 20;

fn default_range() -> (World, Vec<std::net::TcpListener>) {
    let world = World::new();
    world.server_sysctl("net.core.somaxconn", "65535");
    let listeners =
        (0..DESTINATIONS).map(|i| world.listen(&format!("{SERVER}:{}", 7000 + i))).collect();
    (world, listeners)
}

/// The default range, every port bound before connect(), 20 destinations: each connect() of every
/// program fails, and whatever is asked says so.
#[test]
fn every_port_of_the_default_range_is_bound() {
    if !available() {
        return;
    }
    let (world, _listeners) = default_range();
    let (low, middle, high) = (32_768, 46_883, 60_999);
    let _first = connect_from(&world, low, middle, DESTINATIONS, true);
    let _second = connect_from(&world, middle + 1, high, DESTINATIONS, true);
    let dst = format!("{SERVER}:7003");
    assert_eq!(world.connects(dst.parse().unwrap(), None), (0, libc::EADDRNOTAVAIL));
    let ns = ["--netns", world.client.as_str()];
    let message = format!("dial tcp {dst}: connect: cannot assign requested address");
    for more in [
        &["--once"][..],
        &["--interval", "0.2"],
        &["--once", "--to", &dst],
        &["--once", "--to", "10.77.0.2:9"],
        &["--once", "--explain", &message],
    ] {
        let (exit, report) = report(&[&ns, more].concat());
        assert_eq!((exit, report.verdict), (Exit::Finding, Verdict::Exhausted), "{more:?}");
        assert_eq!(report.findings[0].cause, Cause::ExplicitBind, "{more:?}");
        let bucket = &report.buckets[0];
        assert_eq!((bucket.remaining.min, bucket.remaining.max), (0, 0), "{more:?} {bucket:?}");
        let probe = report.probe.unwrap();
        assert_eq!((probe.ports, probe.bound), (28_232, 28_232), "{more:?}");
    }
    let (exit, out, _) =
        doctor(&[&ns[..], &["--watch", "--rounds", "1", "--interval", "0.1"]].concat());
    assert!(exit == Exit::Finding && out.starts_with("EXHAUSTED"), "{out}");
    let mut served = Command::new(env!("CARGO_BIN_EXE_keepgate-doctor"))
        .args([&ns[..], &["--serve", "127.0.0.1:0", "--rounds", "1", "--interval", "0.1"]].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(served.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("metrics at http://").unwrap();
    let addr: SocketAddr = addr.strip_suffix("/metrics").unwrap().parse().unwrap();
    let client = socket(addr);
    client.connect(&addr.into()).unwrap();
    let mut stream: std::net::TcpStream = client.into();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    assert!(metrics.contains("verdict=\"exhausted\"} 1\n"), "{metrics}");
    assert!(served.wait().unwrap().success());
    let (_, text, _) = doctor(&[&ns[..], &["--once"]].concat());
    assert!(text.contains("28232 are bound explicitly (before connect())"), "{text}");
    assert!(text.contains("28232 ports probed for explicit binding in "), "{text}");
    assert!(!text.contains("ip_local_port_range="), "a wider range is no cure: {text}");
}

/// While the ports are probed again and again, a loop of connects beside it never fails, although
/// there is one port left for it, and that is probed as well.
#[test]
fn probing_disturbs_no_connect() {
    if !available() {
        return;
    }
    let (world, _listeners) = default_range();
    let (low, middle, high) = (32_768, 46_883, 60_999);
    // All but the last port toward port 7000; the last one toward another destination.
    let _first = connect_from(&world, low, middle, 1, false);
    let _second = connect_from(&world, middle + 1, high - 1, 1, false);
    let _other = connect_from(&world, high, high, 2, false);
    // A process of its own: what this one forks for other tests holds its sockets for a moment, also
    // those that it has closed, and the next connect would find its own port taken.
    let code = format!(
        "import errno, select, socket, struct, sys\n\
         print('ready', flush=True)\n\
         tried = 0; taken = 0\n\
         while not select.select([sys.stdin], [], [], 0)[0] or tried < 100:\n\
         \x20   s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n\
         \x20   tried += 1; taken += s.connect_ex(('{SERVER}', 7000)) == errno.EADDRNOTAVAIL; s.close()\n\
         print(tried, taken, flush=True)\n"
    );
    let mut connects = Script::start(&["ip", "netns", "exec", &world.client], &code);
    for _ in 0..5 {
        let words = ["--netns", &world.client, "--once", "--to", "10.77.0.2:9"];
        let (_, report) = report(&words);
        let probe = report.probe.unwrap();
        assert!(probe.ports >= 28_000 && probe.bound == 0, "{probe:?}");
        assert_eq!(report.verdict, Verdict::Healthy, "{report:#?}");
    }
    drop(connects.0.stdin.take());
    let mut said = String::new();
    connects.0.stdout.as_mut().unwrap().read_to_string(&mut said).unwrap();
    let counts: Vec<u32> = said.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(counts[0] >= 100, "{said}");
    assert_eq!(counts[1], 0, "no port beside the probe, of {said}");
}

/// Runs the built command as somebody without rights, or with parts of `/proc` hidden.
fn outside(words: &[&str], more: &[&str]) -> (Option<i32>, Report) {
    let copy = std::env::temp_dir().join(format!(
        "keepgate-doctor-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::copy(env!("CARGO_BIN_EXE_keepgate-doctor"), &copy).unwrap();
    let output = Command::new(words[0])
        .args(&words[1..])
        .arg(&copy)
        .args(more)
        .args(["--json", "--once"])
        .output()
        .unwrap();
    std::fs::remove_file(&copy).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"));
    (output.status.code(), report)
}

#[test]
fn assumed_settings_are_no_answer() {
    if !available() {
        return;
    }
    let world = World::with_range(40_000, 40_039);
    let listener = world.listen(&format!("{SERVER}:7000"));
    let _held = open(&world, &listener, 40, &|_| {});
    let inside = Script::start(
        &["ip", "netns", "exec", &world.client],
        "import sys; print('ready', flush=True); sys.stdin.read()",
    );
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let nobody = [&nobody[..], &["--bounding-set=-all"]].concat();
    let hide = |what: &str| format!("mount -t tmpfs none {what} && exec \"$0\" \"$@\"");
    let (proc, sys) = (hide("/proc"), hide("/proc/sys/net/ipv4"));
    let in_client = ["ip", "netns", "exec", &world.client, "unshare", "-m", "sh", "-c"];
    for (words, more) in [
        (nobody, vec!["--pid".to_owned(), inside.pid()]),
        ([&in_client[..], &[&proc]].concat(), Vec::new()),
        ([&in_client[..], &[&sys]].concat(), Vec::new()),
        ([&in_client[..], &[&sys]].concat(), vec!["--to".to_owned(), format!("{SERVER}:7000")]),
    ] {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let (code, report) = outside(&words, &more);
        assert_eq!((code, report.verdict), (Some(2), Verdict::Unknown), "{words:?} {report:#?}");
        assert!(report.unknown[0].why.contains("ip_local_port_range"), "{report:#?}");
        assert!(report.headline.contains("could not be read"), "{}", report.headline);
    }
}

/// A program that holds as many files as it may.
const AT_ITS_LIMIT: &str = "import resource, sys\n\
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))\n\
    KEEP\n\
    while True:\n\
    \x20   try: keep.append(open('/dev/null'))\n\
    \x20   except OSError: break\n\
    print('ready', flush=True); sys.stdin.read()\n";

#[test]
fn files_count_where_the_sockets_are_and_where_they_are_asked_about() {
    if !available() {
        return;
    }
    let world = World::new();
    let _listener = world.listen(&format!("{SERVER}:7000"));
    let message = "socket: too many open files";
    let _elsewhere = Script::start(&["env"], &AT_ITS_LIMIT.replace("KEEP", "keep = []"));
    let ns = ["--netns", world.client.as_str(), "--once"];
    let no_socket = ["ip", "netns", "exec", world.client.as_str()];
    let _inside = Script::start(&no_socket, &AT_ITS_LIMIT.replace("KEEP", "keep = []"));
    let (exit, quiet) = report(&[&ns[..], &["--explain", message]].concat());
    assert_eq!((exit, quiet.verdict), (Exit::Healthy, Verdict::Healthy), "{quiet:#?}");
    let holds =
        format!("import socket; s = socket.socket(); s.connect(('{SERVER}', 7000)); keep = [s]");
    let owner = Script::start(&no_socket, &AT_ITS_LIMIT.replace("KEEP", &holds));
    let (exit, asked) = report(&[&ns[..], &["--explain", message]].concat());
    assert_eq!((exit, asked.verdict), (Exit::Finding, Verdict::NotPorts), "{asked:#?}");
    assert!(found(&asked, "fd_limit").evidence.contains(&owner.pid()), "{asked:#?}");
    assert_eq!(asked.findings.iter().filter(|f| f.id == "fd_limit").count(), 1, "{asked:#?}");
    // Nobody asked about files: the limit explains nothing.
    assert_eq!(report(&ns).1.verdict, Verdict::Healthy);
    let to = [&ns[..], &["--explain", "connect: cannot assign requested address"]].concat();
    assert!(
        report(&to).1.findings.iter().all(|f| f.id != "fd_limit" || f.severity == Severity::Info)
    );
}

/// A container: its own files below its own root, links included, and its own name server.
#[test]
fn names_are_those_of_the_process() {
    if !available() {
        return;
    }
    let world = World::new();
    world.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    let root = std::env::temp_dir().join(format!("keepgate-root-{}", std::process::id()));
    std::fs::create_dir_all(root.join("etc/inner")).unwrap();
    std::fs::write(root.join("etc/inner/hosts"), "::1 localhost\n10.77.0.2 db\n").unwrap();
    // Read from outside this link would lead to the host's own directory.
    std::os::unix::fs::symlink("/etc/inner/hosts", root.join("etc/hosts")).unwrap();
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.53\nsearch example\n")
        .unwrap();
    let code = format!(
        "import os, socket, struct, sys, threading\n\
         server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); server.bind(('127.0.0.53', 53))\n\
         import encodings.idna\n\
         os.chroot('{}'); os.chdir('/')\n\
         def serve():\n\
         \x20   while True:\n\
         \x20       q, who = server.recvfrom(512)\n\
         \x20       wanted = b'\\x05queue\\x07example\\x00' in q and q[-3] == 1\n\
         \x20       head = q[:2] + b'\\x81\\x80' + q[4:6] + (b'\\0\\1' if wanted else b'\\0\\0') + b'\\0' * 4\n\
         \x20       data = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4' + bytes([10, 77, 0, 2])\n\
         \x20       server.sendto(head + q[12:] + (data if wanted else b''), who)\n\
         threading.Thread(target=serve, daemon=True).start()\n\
         print('ready', flush=True); sys.stdin.read()\n",
        root.display()
    );
    let container = Script::start(&["ip", "netns", "exec", &world.client], &code);
    let pid = container.pid();
    let ask = |to: &str| doctor(&["--pid", &pid, "--once", "--json", "--to", to]);
    let of = |to: &str| -> Report { serde_json::from_str(&ask(to).1).unwrap() };
    let localhost = of("localhost:5432");
    assert_eq!(localhost.verdict, Verdict::NotPorts, "{localhost:#?}");
    assert_eq!(localhost.findings[0].cause, Cause::Ipv6Unavailable);
    for name in ["db:7000", "queue:7000"] {
        assert_eq!(of(name).buckets[0].dst, SERVER.parse::<IpAddr>().unwrap(), "{name}");
    }
    let (exit, _, err) = ask("nobody:7000");
    assert!(exit == Exit::CouldNotLook && err.contains("`nobody` cannot be resolved"), "{err}");
    drop(container);
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn what_names_are_resolved_with() {
    let names = Names::parse(
        "10.0.0.9 db\n".to_owned(),
        "# x\nnameserver 10.0.0.53\nnameserver fd00::53 ; y\nsearch a.example b.example\noptions ndots:2\n",
        "passwd: files\nhosts: files mdns4_minimal [NOTFOUND=return] dns # z\n",
    );
    assert_eq!(names.servers.len(), 2);
    assert_eq!(names.order, [Service::Files, Service::Dns]);
    assert_eq!(names.candidates("db"), ["db.a.example", "db.b.example", "db"]);
    assert_eq!(names.candidates("x.y.z"), ["x.y.z", "x.y.z.a.example", "x.y.z.b.example"]);
    assert_eq!(names.candidates("db."), ["db"]);
    let ours = Namespace::Current;
    assert_eq!(names.resolve(&ours, "DB").unwrap(), ["10.0.0.9".parse::<IpAddr>().unwrap()]);
    let files = Names::parse(String::new(), "", "hosts: files\n");
    assert_eq!(files.resolve(&ours, "db").unwrap(), Vec::<IpAddr>::new());
    // Answers that are cut short, or loop, are no answers.
    let good = [
        0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0,
        0, 0, 9, 0, 4, 10, 0, 0, 1,
    ];
    assert_eq!(answers(&good, 1).unwrap(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    for length in 0..good.len() {
        assert_eq!(answers(&good[..length], 1), None, "{length}");
    }
}

#[test]
fn sockets_bound_to_a_device_have_a_bucket_of_their_own() {
    if !available() {
        return;
    }
    let world = World::with_range(40_000, 40_039);
    let listener = world.listen(&format!("{SERVER}:7000"));
    let _bound = open(&world, &listener, 40, &|s| s.bind_device(Some(b"v0")).unwrap());
    let (exit, whole) = report(&["--netns", &world.client, "--once"]);
    assert_eq!((exit, whole.verdict), (Exit::Finding, Verdict::Exhausted));
    assert_eq!(whole.buckets[0].device.as_deref(), Some("v0"));
    assert!(whole.headline.contains("on v0"), "{}", whole.headline);
    let dst = format!("{SERVER}:7000");
    let (_, asked) = report(&["--netns", &world.client, "--once", "--to", &dst]);
    // A plain connect() has all ports; who binds to the device has none.
    assert_eq!((asked.buckets[0].device.as_ref(), asked.buckets[0].remaining.min), (None, 40));
    assert_eq!(asked.buckets[1].remaining.max, 0);
    assert_eq!(asked.verdict, Verdict::AtRisk, "{asked:#?}");
    let (_, text, _) = doctor(&["--netns", &world.client, "--once"]);
    assert!(text.contains(&format!("{CLIENT} -> {dst} on v0")), "{text}");
}

#[test]
fn programs_that_limit_themselves() {
    use std::os::fd::AsRawFd;
    if !available() {
        return;
    }
    let world = World::with_range(40_000, 40_199);
    let proxy = world.listen(&format!("{SERVER}:7000"));
    let narrow = world.listen(&format!("{SERVER}:7001"));
    let usual = world.listen(&format!("{SERVER}:7002"));
    let next = AtomicU32::new(20_000);
    // HAProxy's `source ADDR:20000-20003`.
    let _four = open(&world, &proxy, 4, &|s| {
        let port = next.fetch_add(1, Ordering::Relaxed) as u16;
        s.set_reuse_address(true).unwrap();
        s.bind(&SocketAddr::new(CLIENT.parse().unwrap(), port).into()).unwrap();
    });
    let _eight = open(&world, &narrow, 8, &|s| {
        let range: u32 = 40_050 | 40_057 << 16;
        let at = std::ptr::from_ref(&range).cast();
        // SAFETY: the option is a u32, valid for the call.
        assert_eq!(unsafe { libc::setsockopt(s.as_raw_fd(), libc::IPPROTO_IP, 51, at, 4) }, 0);
    });
    let _plain = open(&world, &usual, 8, &|_| {});
    let (exit, report) = report(&["--netns", &world.client, "--once"]);
    assert_eq!((exit, report.verdict), (Exit::Finding, Verdict::AtRisk));
    let said: Vec<&str> = report
        .findings
        .iter()
        .filter(|f| f.id == "own_ports" && f.severity == Severity::Warning)
        .map(|f| f.evidence.as_str())
        .collect();
    assert_eq!(said.len(), 2, "{report:#?}");
    assert!(said.iter().any(|text| text.contains("all of 20000-20003")), "{said:?}");
    assert!(said.iter().any(|text| text.contains("all of 40050-40057")), "{said:?}");
}

#[test]
fn address_translation_without_ports() {
    if !available() {
        return;
    }
    let world = World::new();
    let dst: SocketAddr = format!("{SERVER}:7000").parse().unwrap();
    let listener = world.listen(&dst.to_string());
    let rules = "table ip nat { chain post { type nat hook postrouting priority 100; \
                 oifname \"v0\" meta l4proto tcp masquerade to :20000-20003; }; }";
    run("ip", &["netns", "exec", &world.client, "nft", rules]);
    let _four = open(&world, &listener, 4, &|_| {});
    let _stuck: Vec<socket2::Socket> = world.in_client(|| {
        let stuck = |_| {
            let socket = socket(dst);
            socket.set_nonblocking(true).unwrap();
            let error = socket.connect(&dst.into()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
            socket
        };
        (0..8).map(stuck).collect()
    });
    for more in [&["--interval", "1.5"][..], &["--interval", "1.5", "--to", &dst.to_string()]] {
        let (exit, report) = report(&[&["--netns", world.client.as_str()], more].concat());
        assert_eq!((exit, report.verdict), (Exit::Finding, Verdict::NotPorts), "{report:#?}");
        let snat = found(&report, "snat_full");
        assert_eq!((snat.cause, snat.severity), (Cause::SnatFull, Severity::Critical));
        assert!(report.headline.contains("insert_failed"), "{}", report.headline);
        assert!(!snat.remedies.is_empty());
    }
}

#[test]
fn an_outgoing_connection_has_the_port_of_a_service() {
    if !available() {
        return;
    }
    let world = World::with_range(10_254, 10_255);
    let listener = world.listen(&format!("{SERVER}:7000"));
    let _two = open(&world, &listener, 2, &|_| {});
    // The very error.
    let any = SocketAddr::from(([0, 0, 0, 0], 10_254));
    let error = world.in_client(|| socket(any).bind(&any.into())).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
    let me = std::process::id().to_string();
    for message in [
        "listen tcp :10254: bind: address already in use",
        "nginx: [emerg] bind() to 0.0.0.0:10254 failed (98: Address already in use)",
    ] {
        let (exit, report) = report(&["--netns", &world.client, "--once", "--explain", message]);
        let taken = found(&report, "port_in_use");
        assert_eq!((exit, taken.severity), (Exit::Finding, Severity::Warning), "{message}");
        assert!(taken.evidence.contains(&format!("{CLIENT}:10254 -> {SERVER}:7000")), "{taken:?}");
        assert!(taken.evidence.contains(&me), "whose it is: {taken:?}");
        let command = taken.remedies.iter().find_map(|r| r.command.clone()).unwrap();
        assert!(command.ends_with("ip_local_reserved_ports=10254"), "{command}");
    }
    // What the service itself accepted before it ended is not an outgoing connection.
    let service =
        world.in_client(|| crate::world::listener(SocketAddr::from(([0, 0, 0, 0], 7007))));
    let _accepted = world.in_server(|| {
        let caller = socket(any);
        caller.connect(&SocketAddr::new(CLIENT.parse().unwrap(), 7007).into()).unwrap();
        (caller, service.accept().unwrap())
    });
    drop(service);
    for (port, says) in [(7, "nobody has port 7"), (7007, "that it accepted before")] {
        let message = format!("listen tcp :{port}: bind: address already in use");
        let (_, report) = report(&["--netns", &world.client, "--once", "--explain", &message]);
        assert!(found(&report, "port_in_use").evidence.contains(says), "{report:#?}");
    }
}

#[test]
fn the_remedy_that_opens_a_way() {
    if !available() {
        return;
    }
    let world = World::new();
    let ns = ["--netns", world.client.as_str(), "--once"];
    let to = |dst: &str| report(&[&ns[..], &["--to", dst]].concat());
    // Link-local: the address says nothing without its device, and is accepted with it.
    let bare = to("[fe80::1]:80").1;
    assert_eq!(bare.verdict, Verdict::NotPorts);
    assert!(found(&bare, "no_route").remedies[0].text.contains("[fe80::1%v0]:80"), "{bare:#?}");
    let (exit, scoped) = to("[fe80::1%v0]:80");
    assert_eq!((exit, scoped.verdict), (Exit::Healthy, Verdict::Healthy), "{scoped:#?}");
    assert_eq!(scoped.buckets[0].device.as_deref(), Some("v0"));
    let (exit, _, err) = doctor(&[&ns[..], &["--to", "[fe80::1%nope]:80"]].concat());
    assert!(exit == Exit::CouldNotLook && err.contains("no device `nope`"), "{err}");
    // A missing route, and a device that is down.
    let missing = to("192.0.2.1:80").1;
    let command = found(&missing, "no_route").remedies[0].command.clone().unwrap();
    run("sh", &["-c", &command.replace("GATEWAY", SERVER)]);
    assert_eq!(to("192.0.2.1:80").1.verdict, Verdict::Healthy);
    // The device that would lead there is down.
    run("ip", &["-n", &world.client, "link", "set", "v0", "down"]);
    let down = to(&format!("{SERVER}:80")).1;
    assert_eq!(down.verdict, Verdict::NotPorts, "{down:#?}");
    let command = found(&down, "no_route").remedies[0].command.clone().unwrap();
    assert!(command.ends_with("ip link set v0 up"), "{command}");
    run("sh", &["-c", &command]);
    assert_eq!(to(&format!("{SERVER}:80")).1.verdict, Verdict::Healthy);
    // Loopback down: the remedy brings it up.
    for dst in ["127.0.0.1:80", "[::1]:80"] {
        run("ip", &["-n", &world.client, "link", "set", "lo", "down"]);
        let down = to(dst).1;
        assert_eq!(down.verdict, Verdict::NotPorts, "{down:#?}");
        let command = down.findings[0].remedies[0].command.clone().unwrap();
        assert!(command.ends_with("ip link set lo up"), "{command}");
        run("sh", &["-c", &command]);
        assert_eq!(to(dst).1.verdict, Verdict::Healthy);
    }
}
