//! The command: arguments, exit codes, JSON, recording, serving.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use expect_test::expect;
use keepgate_ports::diag::TcpState;
use keepgate_ports::doctor::args::{Args, Command, parse};
use keepgate_ports::doctor::metrics::{self, Looks};
use keepgate_ports::doctor::{self, Exit};
use keepgate_ports::explain::explain;
use keepgate_ports::netns::Namespace;
use keepgate_ports::report::{Cause, Report, Verdict};

use crate::golden::{PROGRAM, doctor};
use crate::world::{CLIENT, SERVER, World, available, churn, close_into_time_wait, open, run};

fn parsed(words: &[&str]) -> Args {
    match parse(words.iter().map(std::ffi::OsString::from)).unwrap() {
        Command::Look(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments() {
    let args = parsed(&["--to", "[::1]:80", "--to=db:5432", "--pid", "7", "--json", "--once"]);
    assert_eq!(args.to, ["[::1]:80", "db:5432"]);
    assert_eq!(args.namespace, Namespace::Pid(7));
    assert!(args.json && args.interval.is_none());
    for (text, ms) in
        [("0.5", 500), ("500ms", 500), ("2s", 2000), ("1.5m", 90_000), ("1h", 3_600_000)]
    {
        assert_eq!(parsed(&["--interval", text]).interval.unwrap().as_millis(), ms, "{text}");
    }
    assert_eq!(parsed(&["--serve", "[::1]:9", "--every", "2s", "--all-netns"]).every.as_secs(), 2);
    for text in ["2 s s", "s", "-1s", "99ms", "61m", "1d", "inf", "1e9h", "2S"] {
        let words = ["--interval", text].map(std::ffi::OsString::from);
        assert!(parse(words).is_err(), "{text}");
    }
    for (words, says) in [
        (&["--nope"][..], expect!["unknown option `--nope` (see --help)"]),
        (&["--json=yes"], expect!["unknown option `--json=yes` (see --help)"]),
        (&["--to"], expect!["`--to` needs a value: HOST:PORT"]),
        (&["--to", "db"], expect!["--to: expected HOST:PORT, got `db`"]),
        (&["--to", "db:0"], expect!["--to: expected HOST:PORT, got `db:0`"]),
        (
            &["--interval", "0"],
            expect![
                "--interval: expected a time between the two looks from 0.1s to 1h, such as 2s or 500ms, got `0`"
            ],
        ),
        (
            &["--interval", "NaN"],
            expect![
                "--interval: expected a time between the two looks from 0.1s to 1h, such as 2s or 500ms, got `NaN`"
            ],
        ),
        (&["--netns", "a", "--pid", "1"], expect!["--netns and --pid exclude each other"]),
        (
            &["--all-netns", "--pid", "1"],
            expect!["--all-netns and --netns or --pid exclude each other"],
        ),
        (
            &["--from-snapshot", "f", "--watch"],
            expect!["--from-snapshot and --watch, --serve or --all-netns exclude each other"],
        ),
    ] {
        let (exit, out, err) = doctor(words);
        assert_eq!((exit, exit.code(), out.as_str()), (Exit::Usage, 64, ""), "{words:?}");
        says.assert_eq(err.trim().strip_prefix("error: ").unwrap());
    }
}

#[test]
fn help_names_every_option() {
    let (exit, help, _) = doctor(&["--help"]);
    assert_eq!(exit, Exit::Healthy);
    for option in [
        "--to",
        "--from",
        "--explain",
        "--netns",
        "--pid",
        "--all-netns",
        "--once",
        "--interval",
        "--watch",
        "--rounds",
        "--json",
        "--record",
        "--from-snapshot",
        "--serve",
        "--every",
        "--probe",
        "--root",
        "--color",
        "--version",
    ] {
        assert!(
            help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")),
            "{option}"
        );
    }
    assert!(help.lines().all(|line| line.len() <= 96));
}

#[test]
fn it_says_why_it_could_not_look() {
    for (words, part) in [
        (&["--netns", "no-such-namespace"][..], "no-such-namespace"),
        (&["--netns", "../etc"], "../etc"),
        (&["--from-snapshot", "/no/such/file"], "/no/such/file"),
        (&["--to", "no-such-host.invalid:80"], "no-such-host.invalid"),
        (&["--root", "/no/such/dir", "--once"], "/no/such/dir"),
    ] {
        let (exit, out, err) = doctor(words);
        assert_eq!((exit, out.as_str()), (Exit::CouldNotLook, ""), "{words:?} {err}");
        assert!(err.starts_with("error: ") && err.contains(part), "{err}");
    }
}

/// Makes connections until the kernel refuses, and what doctor then says: its JSON, the same as a
/// type, and how many ports are left (an odd range may keep one that the kernel's search never
/// reaches). Again, a few times, where ports came back meanwhile: on a slow machine the first
/// TIME_WAITs end before the last ones are made, and now and then a connection leaves none.
fn exhausted(world: &World, listener: &TcpListener, file: &str) -> (String, Report, u32) {
    let mut last = String::new();
    for _ in 0..5 {
        churn(world, listener, 15_001);
        world.wait_for(TcpState::FinWait2, 0);
        let words = ["--netns", &world.client, "--json", "--interval", "0.2", "--record", file];
        let (exit, json, err) = doctor(&words);
        assert_eq!((exit, err.as_str()), (Exit::Finding, ""));
        let report: Report = serde_json::from_str(&json).unwrap();
        let bucket = &report.buckets[0];
        // Whatever the number is, it is the kernel's own.
        let held: u64 = bucket.states.values().sum();
        assert_eq!(u64::from(bucket.used), held, "{bucket:?}");
        let spare = bucket.remaining.max;
        if spare <= 1 && bucket.remaining.min == 0 {
            return (json, report, spare);
        }
        last = format!("{bucket:?}");
    }
    panic!("ports come back faster than they are used: {last}");
}

/// The incident's numbers: range 50000-65000, one connection per request, 198 still open.
#[test]
fn the_incident() {
    if !available() {
        return;
    }
    let world = World::with_range(50_000, 65_000);
    world.server_sysctl("net.core.somaxconn", "65535");
    let listener = world.listen(&format!("{SERVER}:8443"));
    let held = open(&world, &listener, 198, &|_| {});
    // All open at first and closed together, so that none is over before the last is made.
    churn(&world, &listener, 14_803);
    world.wait_for(TcpState::FinWait2, 0);
    world.wait_for(TcpState::FinWait1, 0);
    let file = std::env::temp_dir().join(format!("keepgate-incident-{}.json", std::process::id()));
    let file = file.to_str().unwrap();
    let (json, report, spare) = exhausted(&world, &listener, file);
    let bucket = &report.buckets[0];
    let verdict = Verdict::Exhausted;
    assert_eq!((report.verdict, report.findings[0].id.as_str()), (verdict, "exhausted"));
    assert_eq!(
        (report.range.low, report.range.high, report.range.usable),
        (50_000, 65_000, 15_001)
    );
    assert_eq!(bucket.cause, Cause::TimeWaitChurn);
    assert_eq!((bucket.usable, bucket.used), (15_001, 15_001 - spare));
    assert_eq!(bucket.states[&TcpState::TimeWait], u64::from(14_803 - spare));
    assert_eq!(bucket.states[&TcpState::Established], 198);
    // This very process holds the 198: it is the likely owner of the rest.
    assert_eq!(bucket.owners[0].pid, std::process::id());
    assert_eq!(
        world.connects(format!("{SERVER}:8443").parse().unwrap(), None).1,
        libc::EADDRNOTAVAIL
    );

    // Judged elsewhere, the recorded host gives the same report.
    let (exit, again, _) = doctor(&["--from-snapshot", file, "--json"]);
    assert_eq!(exit, Exit::Finding);
    assert_eq!(serde_json::from_str::<Report>(&again).unwrap(), report);
    std::fs::remove_file(file).unwrap();

    // The JSON contract: these names, these types.
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["verdict"], verdict.name());
    assert!(json["netns"].is_string());
    for name in ["total", "time_wait", "established", "close_wait"] {
        assert!(json["sockets"][name].is_u64(), "{name}");
    }
    let bucket = &json["buckets"][0];
    assert_eq!(bucket["src"], CLIENT);
    assert_eq!(bucket["dst"], SERVER);
    assert_eq!(bucket["dport"], 8443);
    assert_eq!(bucket["remaining"], serde_json::json!({"min": 0, "max": spare}));
    assert_eq!(bucket["states"]["time_wait"], 14_803 - spare);
    assert!(bucket["opens_per_s"].is_f64());
    assert_eq!(bucket["exhausted_in_s"], 0);
    assert_eq!(bucket["owners"][0]["confidence"], "likely");
    let finding = &json["findings"][0];
    assert_eq!(finding["severity"], "critical");
    assert_eq!(finding["bucket"], 0);
    let kinds: Vec<&str> = finding["remedies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|remedy| remedy["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"now") && kinds.contains(&"then"));

    // The first remedy for now works as it is printed.
    let command = finding["remedies"][0]["command"].as_str().unwrap();
    run("sh", &["-c", command]);
    let dst: SocketAddr = format!("{SERVER}:8443").parse().unwrap();
    // Held connections show that timestamps are on; TIME_WAITs older than a second are free.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let (opened, _) = world.in_client(|| world.connects_up_to(dst, 50));
    assert_eq!(opened, 50);
    drop(held);
}

#[test]
fn localhost_is_ipv6_and_there_is_none() {
    if !available() {
        return;
    }
    let world = World::new();
    world.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    let (exit, out, _) =
        doctor(&["--netns", &world.client, "--to", "[::1]:8080", "--once", "--json"]);
    let report: Report = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, report.verdict), (Exit::Finding, Verdict::NotPorts));
    assert_eq!(report.findings[0].cause, Cause::Ipv6Unavailable);
    let dst = "[::1]:8080".parse().unwrap();
    assert_eq!(world.connects(dst, None), (0, libc::EADDRNOTAVAIL), "the very words");
    // The remedy is what it says.
    run("sh", &["-c", report.findings[0].remedies[0].command.as_deref().unwrap()]);
    let (_, errno) = world.in_client(|| world.connects_up_to(dst, 1));
    assert_ne!(errno, libc::EADDRNOTAVAIL);
    let (exit, _, _) = doctor(&["--netns", &world.client, "--to", "[::1]:8080", "--once"]);
    assert_eq!(exit, Exit::Healthy);
}

#[test]
fn other_reasons_for_the_same_words() {
    if !available() {
        return;
    }
    let world = World::new();
    let look = |words: &[&str]| -> Report {
        let (_, out, err) =
            doctor(&[&["--netns", &world.client, "--once", "--json"], words].concat());
        assert_eq!(err, "");
        serde_json::from_str(&out).unwrap()
    };
    let nonlocal = look(&["--to", "10.77.0.2:80", "--from", "10.9.9.9"]);
    assert_eq!(nonlocal.verdict, Verdict::NotPorts);
    assert_eq!(nonlocal.findings[0].cause, Cause::NonlocalBind);
    let no_route = look(&["--to", "192.0.2.1:80"]);
    assert_eq!(no_route.verdict, Verdict::NotPorts);
    assert_eq!(no_route.findings[0].id, "no_route");
    assert!(no_route.findings[0].evidence.contains("ENETUNREACH"));
    // Without a destination, and as an error message has it.
    assert_eq!(look(&["--from", "10.9.9.9"]).findings[0].cause, Cause::NonlocalBind);
    let nginx = "nginx: [emerg] bind() to 10.9.9.9:80 failed (99: Cannot assign requested address)";
    let explained = look(&["--explain", nginx]);
    assert_eq!(explained.verdict, Verdict::NotPorts);
    assert_eq!(explained.findings[0].cause, Cause::NonlocalBind);
    let own = format!("bind() to {CLIENT}:80 failed (99: Cannot assign requested address)");
    assert_eq!(look(&["--explain", &own]).verdict, Verdict::Healthy);
    let fine = look(&["--to", "10.77.0.2:80", "--from", CLIENT]);
    assert_eq!(fine.verdict, Verdict::Healthy);
    // A tentative address cannot be bound yet.
    run("ip", &["-n", &world.server, "link", "set", "v0", "down"]);
    run("ip", &["-n", &world.client, "address", "add", "fd77::9/64", "dev", "v0"]);
    let tentative = look(&["--to", "[fd77::2]:80", "--from", "fd77::9"]);
    assert_eq!(tentative.findings[0].cause, Cause::NonlocalBind);
    assert!(tentative.findings[0].evidence.contains("duplicates"), "{tentative:?}");
}

#[test]
fn all_namespaces_are_found() {
    if !available() {
        return;
    }
    let world = World::with_range(40_000, 40_039);
    let listener = world.listen(&format!("{SERVER}:7000"));
    close_into_time_wait(&world, open(&world, &listener, 40, &|_| {}));
    let (exit, out, err) = doctor(&["--all-netns", "--once", "--json"]);
    assert_eq!((exit, err.as_str()), (Exit::Finding, ""));
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    let ours = all["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .find(|report| report["netns"] == world.client.as_str())
        .unwrap();
    assert_eq!(ours["verdict"], "exhausted");
    assert!(all["namespaces"].as_array().unwrap().len() >= 3);
}

#[test]
fn an_ordinary_user_sees_enough() {
    if !available() {
        return;
    }
    // Another user, without any right, in a namespace whose ports are used up.
    let world = World::with_range(40_000, 40_039);
    let listener = world.listen(&format!("{SERVER}:7000"));
    close_into_time_wait(&world, open(&world, &listener, 40, &|_| {}));
    let program = env!("CARGO_BIN_EXE_keepgate-doctor");
    let copy = std::env::temp_dir().join(format!("keepgate-doctor-{}", std::process::id()));
    std::fs::copy(program, &copy).unwrap();
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", &world.client, "setpriv", "--reuid=65534", "--regid=65534"])
        .args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
        .arg(&copy)
        .args(["--json", "--interval", "0.2"])
        .output()
        .unwrap();
    std::fs::remove_file(&copy).unwrap();
    let report: Report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report.verdict, Verdict::Exhausted);
    assert_eq!(report.buckets[0].used, 40);
    assert!(report.unknown.iter().any(|u| u.why.contains("root")), "{:?}", report.unknown);
}

#[test]
fn watching_prints_a_line_a_look() {
    let (_, out, err) = doctor(&["--watch", "--rounds", "2", "--interval", "0.1"]);
    assert_eq!(err, "");
    assert_eq!(out.lines().count(), 2, "{out}");
    let (_, out, _) = doctor(&["--watch", "--rounds", "2", "--interval", "0.1", "--json"]);
    for line in out.lines() {
        serde_json::from_str::<Report>(line).unwrap();
    }
}

#[test]
fn error_messages_of_many_programs() {
    let table: &[(&str, &str, &str, &str, &str)] = &[
        (
            "dial tcp 10.0.0.1:0->10.0.0.2:8443: connect: cannot assign requested address",
            "EADDRNOTAVAIL",
            "connect",
            "Go",
            "10.0.0.2:8443",
        ),
        (
            "Get \"http://auth.internal:8080/check\": dial tcp [::1]:8080: connect: cannot assign requested address",
            "EADDRNOTAVAIL",
            "connect",
            "Go",
            "[::1]:8080",
        ),
        (
            "java.net.NoRouteToHostException: Cannot assign requested address (Address not available)",
            "EADDRNOTAVAIL",
            "connect",
            "Java",
            "",
        ),
        (
            "java.net.ConnectException: Cannot assign requested address: connect to auth/10.0.0.2:8443",
            "EADDRNOTAVAIL",
            "connect",
            "Java",
            "10.0.0.2:8443",
        ),
        (
            "java.net.BindException: Address already in use (Bind failed)",
            "EADDRINUSE",
            "bind",
            "Java",
            "",
        ),
        ("OSError: [Errno 99] Cannot assign requested address", "EADDRNOTAVAIL", "", "Python", ""),
        (
            "HTTPConnectionPool(host='10.0.0.2', port=8443): Max retries exceeded with url: / (Caused by NewConnectionError('<urllib3.connection.HTTPConnection object>: Failed to establish a new connection: [Errno 99] Cannot assign requested address'))",
            "EADDRNOTAVAIL",
            "connect",
            "Python",
            "10.0.0.2:8443",
        ),
        (
            "Error: connect EADDRNOTAVAIL 10.0.0.2:8443 - Local (0.0.0.0:0)",
            "EADDRNOTAVAIL",
            "connect",
            "Node",
            "10.0.0.2:8443",
        ),
        (
            "Error: connect EADDRNOTAVAIL ::1:8080 - Local (:::0)",
            "EADDRNOTAVAIL",
            "connect",
            "Node",
            "[::1]:8080",
        ),
        (
            "Error: listen EADDRINUSE: address already in use :::8080",
            "EADDRINUSE",
            "bind",
            "Node",
            "[::]:8080",
        ),
        (
            "2024/05/01 12:00:00 [crit] 7#7: *99 connect() to 10.0.0.2:8443 failed (99: Cannot assign requested address) while connecting to upstream, client: 10.1.1.1, server: , request: \"GET / HTTP/1.1\", upstream: \"http://10.0.0.2:8443/\", host: \"x\"",
            "EADDRNOTAVAIL",
            "connect",
            "nginx",
            "10.0.0.2:8443",
        ),
        (
            "nginx: [emerg] bind() to 10.0.0.9:80 failed (99: Cannot assign requested address)",
            "EADDRNOTAVAIL",
            "bind",
            "nginx",
            "10.0.0.9:80",
        ),
        (
            "curl: (7) Failed to connect to 10.0.0.2 port 8443 after 0 ms: Cannot assign requested address",
            "EADDRNOTAVAIL",
            "connect",
            "curl",
            "10.0.0.2:8443",
        ),
        (
            "curl: (45) bind failed with errno 99: Cannot assign requested address",
            "EADDRNOTAVAIL",
            "bind",
            "curl",
            "",
        ),
        (
            "Os { code: 99, kind: AddrNotAvailable, message: \"Cannot assign requested address\" }",
            "EADDRNOTAVAIL",
            "",
            "Rust",
            "",
        ),
        ("Cannot assign requested address (os error 99)", "EADDRNOTAVAIL", "", "Rust", ""),
        (
            "System.Net.Sockets.SocketException (99): Cannot assign requested address",
            "EADDRNOTAVAIL",
            "",
            ".NET",
            "",
        ),
        (
            "Errno::EADDRNOTAVAIL: Failed to open TCP connection to center:8443 (Cannot assign requested address - connect(2) for \"center\" port 8443)",
            "EADDRNOTAVAIL",
            "connect",
            "Ruby",
            "center:8443",
        ),
        (
            "stream_socket_client(): Unable to connect to tcp://10.0.0.2:6379 (Cannot assign requested address)",
            "EADDRNOTAVAIL",
            "connect",
            "PHP",
            "10.0.0.2:6379",
        ),
        ("socket: too many open files", "EMFILE", "socket", "", ""),
        ("dial tcp 10.0.0.2:443: i/o timeout", "ETIMEDOUT", "connect", "Go", "10.0.0.2:443"),
        ("connect: network is unreachable", "ENETUNREACH", "connect", "", ""),
        (
            "lookup db on 10.0.0.53:53: write udp 10.0.0.1:0: resource temporarily unavailable",
            "EAGAIN",
            "send",
            "",
            "10.0.0.53:53",
        ),
        ("the cat sat on the mat", "", "", "", ""),
    ];
    for (text, errno, call, runtime, address) in table {
        let found = explain(text);
        let word = |option: &Option<String>| option.clone().unwrap_or_default();
        assert_eq!(
            [word(&found.errno), word(&found.call), word(&found.runtime), word(&found.address)],
            [*errno, *call, *runtime, *address].map(str::to_owned),
            "{text}"
        );
        assert!(!found.means.is_empty());
        assert_eq!(found.checks.is_empty(), errno.is_empty(), "{text}");
    }
}

#[test]
fn explaining_asks_for_the_destination_the_message_names() {
    let text = "Error: connect EADDRNOTAVAIL 127.0.0.1:8443 - Local (0.0.0.0:0)";
    let (_, out, err) = doctor(&["--explain", text, "--once", "--json"]);
    assert_eq!(err, "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["explanation"]["errno"], "EADDRNOTAVAIL");
    assert_eq!(json["buckets"][0]["dst"], "127.0.0.1");
    assert_eq!(json["buckets"][0]["dport"], 8443);
    let (_, text, _) = doctor(&["--explain", text, "--once"]);
    assert!(text.contains("EADDRNOTAVAIL at connect()") && text.contains("Node"), "{text}");
}

#[test]
fn metrics_are_well_formed_and_bounded() {
    let file = format!("{}/tests/it/golden/close-wait.json", env!("CARGO_MANIFEST_DIR"));
    let (_, json, _) = doctor(&["--from-snapshot", &file, "--json"]);
    let report: Report = serde_json::from_str(&json).unwrap();
    let text = metrics::render(
        std::slice::from_ref(&report),
        Looks { taken: 3, failed: 1, last_unix_s: 7 },
    );
    let netns = &report.netns;
    let verdict = format!("keepgate_doctor_verdict{{netns=\"{netns}\",verdict=\"at_risk\"}} 1\n");
    assert!(text.contains(&verdict), "{text}");
    assert!(text.contains("keepgate_doctor_looks_failed_total 1\n"));
    let bucket = format!("netns=\"{netns}\",src=\"10.0.0.1\",dst=\"10.0.0.2:8443\"");
    for line in [
        format!("keepgate_doctor_bucket_ports_used{{{bucket}}} 924\n"),
        format!("keepgate_doctor_bucket_cause{{{bucket},cause=\"close_wait_leak\"}} 1\n"),
    ] {
        assert!(text.contains(&line), "{line}{text}");
    }
    // Nothing is opened to the other destination: it never runs out, and says so.
    assert!(
        text.contains("keepgate_doctor_bucket_exhausted_in_seconds{") && text.contains("} +Inf\n")
    );
    let mut declared = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(declared.insert(rest.split(' ').next().unwrap().to_owned()), "twice: {line}");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(declared.contains(name), "not declared: {line}");
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        }
    }
    let docs = include_str!("../../../../docs/metrics.md");
    let named = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let documented = docs.lines().filter_map(named).filter(|n| n.starts_with("keepgate_doctor_"));
    assert_eq!(declared, documented.collect(), "docs/metrics.md");
    // The rules and the dashboard shipped with it use only metrics that exist.
    let contrib = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib");
    for file in ["prometheus/keepgate-doctor.rules.yml", "grafana/keepgate-doctor.json"] {
        let used = std::fs::read_to_string(format!("{contrib}/{file}")).unwrap();
        let mut count = 0;
        for part in used.split("keepgate_doctor_").skip(1) {
            let end = part.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap();
            let name = format!("keepgate_doctor_{}", &part[..end]);
            assert!(declared.contains(&name), "{file} uses {name}");
            count += 1;
        }
        assert!(count > 5, "{file}");
    }
}

/// A doctor that serves, and the address where it says that it does.
fn served(words: &[&str]) -> (std::process::Child, SocketAddr) {
    // A port that is free now.
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_keepgate-doctor"))
        .args(["--serve", "127.0.0.1:0", "--interval", "0.1"])
        .args(words)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut first).unwrap();
    let addr = first.trim().strip_prefix("metrics at http://").unwrap();
    (child, addr.strip_suffix("/metrics").unwrap().parse().unwrap())
}

fn answer(addr: SocketAddr, request: &str) -> String {
    let socket = crate::world::socket(addr);
    socket.connect(&addr.into()).unwrap();
    let mut stream: std::net::TcpStream = socket.into();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Every namespace has its own series, also one that is out of ports, and looks go on.
#[test]
fn serving_all_namespaces() {
    if !available() {
        return;
    }
    let (fine, out) = (World::new(), World::with_range(40_000, 40_003));
    out.sysctl("net.ipv4.ip_local_reserved_ports", "40000-40003");
    let (mut child, addr) = served(&["--all-netns", "--every", "2s", "--rounds", "200"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let metrics = loop {
        let metrics = answer(addr, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let taken = metrics.lines().find_map(|l| l.strip_prefix("keepgate_doctor_looks_total "));
        if taken.unwrap().parse::<u64>().unwrap() >= 2 {
            break metrics;
        }
        assert!(std::time::Instant::now() < deadline, "no second look:\n{metrics}");
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    for (world, verdict) in [(&fine, "healthy"), (&out, "exhausted")] {
        let netns = &world.client;
        let line =
            format!("keepgate_doctor_verdict{{netns=\"{netns}\",verdict=\"{verdict}\"}} 1\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[test]
fn serving() {
    let (mut child, addr) = served(&["--rounds", "3"]);
    let ask = |request: &str| answer(addr, request);
    let metrics = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains(",verdict=\"healthy\"}"), "{metrics}");
    assert!(ask("GET /nope HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_pipe_that_closes_is_no_failure() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut err = Vec::new();
    let words = ["--once".into()];
    let exit = doctor::run_with(&PROGRAM, words, false, &mut Closed, &mut err);
    assert_eq!((exit, err.len()), (Exit::Healthy, 0));
}
