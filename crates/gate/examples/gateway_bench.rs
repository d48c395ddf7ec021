//! CPU seconds a proxied request costs: this gate beside nginx as a plain proxy and nginx with
//! `auth_request`, on the same upstream, in interleaved runs.
//!
//! `gateway_bench [--seconds N] [--rounds N]`; needs nginx and wrk. Counted is the processor time
//! (user and system) of the proxies and of the authorization service, from `/proc/PID/stat`.

mod bench;

use std::process::Command;

use bench::{Fault, Running, Scratch, cpu_s, free_port, median, nginx, wait_for};

const CONNECTIONS: &str = "64";
/// Limits that are asked, and never reached.
const LIMITS: &[(&str, &str)] = &[("address", "10000000/s"), ("principal", "10000000/s")];

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value =
        |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    if let (Some(listen), Some(upstream)) = (value("--serve"), value("--upstream")) {
        return bench::serve(listen.parse()?, upstream, LIMITS);
    }
    let seconds: u32 = value("--seconds").map_or(Ok(3), |text| text.parse())?;
    let rounds: usize = value("--rounds").map_or(Ok(5), |text| text.parse())?;
    compare(seconds, rounds)
}

struct Arm {
    name: &'static str,
    port: u16,
    pids: Vec<u32>,
    per_100k: Vec<f64>,
    per_s: Vec<f64>,
}

impl Arm {
    fn run(&mut self, seconds: u32) -> Result<(), Fault> {
        let before: f64 = self.pids.iter().map(|pid| cpu_s(*pid)).sum();
        let out = Command::new("wrk")
            .args(["-t", "1", "-c", CONNECTIONS, "-d", &format!("{seconds}s")])
            .args(["-H", "x-user: user7777"])
            .arg(format!("http://127.0.0.1:{}/orders/7", self.port))
            .output()?;
        let after: f64 = self.pids.iter().map(|pid| cpu_s(*pid)).sum();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            return Err(
                format!("{}: not all requests were answered 200:\n{text}", self.name).into()
            );
        }
        let line = text.lines().find(|line| line.contains(" requests in "));
        let count = line.and_then(|line| line.split_whitespace().next()).unwrap_or_default();
        let count: f64 = count.parse()?;
        self.per_100k.push((after - before) / count * 1e5);
        self.per_s.push(count / f64::from(seconds));
        Ok(())
    }
}

fn compare(seconds: u32, rounds: usize) -> Result<(), Fault> {
    let scratch = Scratch::new("gateway-bench")?;
    let dir = &scratch.0;
    let (upstream, auth) = (free_port()?, free_port()?);
    let (plain, with_auth, gate) = (free_port()?, free_port()?, free_port()?);
    let body = "x".repeat(1024);
    let _upstream = nginx(
        dir,
        "upstream",
        &format!("server {{ listen {upstream}; location / {{ return 200 '{body}'; }} }}"),
    )?;
    let service =
        nginx(dir, "auth", &format!("server {{ listen {auth}; location / {{ return 204; }} }}"))?;
    let pools = format!(
        "upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; \
         keepalive_requests 100000000; }}\n\
         upstream auth {{ server 127.0.0.1:{auth}; keepalive 64; \
         keepalive_requests 100000000; }}\n\
         proxy_http_version 1.1; proxy_set_header Connection '';\n\
         proxy_set_header X-Forwarded-For $remote_addr;"
    );
    let proxy = nginx(
        dir,
        "plain",
        &format!("{pools} server {{ listen {plain}; location / {{ proxy_pass http://up; }} }}"),
    )?;
    let guarded = nginx(
        dir,
        "guarded",
        &format!(
            "{pools} server {{ listen {with_auth};\n\
             location / {{ auth_request /_auth; proxy_pass http://up; }}\n\
             location = /_auth {{ internal; proxy_pass http://auth; \
             proxy_pass_request_body off; proxy_set_header Content-Length '';\n\
             proxy_http_version 1.1; proxy_set_header Connection ''; \
             proxy_set_header X-Original-URI $request_uri; }} }}"
        ),
    )?;
    let child = Command::new(std::env::current_exe()?)
        .args(["--serve", &format!("127.0.0.1:{gate}")])
        .args(["--upstream", &format!("http://127.0.0.1:{upstream}")])
        .spawn()?;
    let child = Running(child);
    let arm = |name, port, pids: &[&Running]| Arm {
        name,
        port,
        pids: pids.iter().map(|running| running.0.id()).collect(),
        per_100k: Vec::new(),
        per_s: Vec::new(),
    };
    let mut arms = [
        arm("nginx, plain proxy", plain, &[&proxy]),
        arm("nginx, auth_request + service", with_auth, &[&guarded, &service]),
        arm("gate, deciding over 10,000 grants", gate, &[&child]),
    ];
    for arm in &mut arms {
        wait_for(arm.port)?;
        arm.run(1)?;
        arm.per_100k.clear();
        arm.per_s.clear();
    }
    for _ in 0..rounds {
        for arm in &mut arms {
            arm.run(seconds)?;
        }
    }
    let (beside_plain, beside_auth) = match &arms {
        [plain, auth, _] => (median(&plain.per_100k), median(&auth.per_100k)),
    };
    println!("{CONNECTIONS} connections, 1 KiB answers, {rounds} rounds of {seconds} s, medians\n");
    println!("| proxy | CPU s / 100k requests | beside plain | beside auth_request | requests/s |");
    println!("|---|---|---|---|---|");
    for arm in &arms {
        let cost = median(&arm.per_100k);
        println!(
            "| {} | {cost:.2} | {:.2} | {:.2} | {:.0} |",
            arm.name,
            cost / beside_plain,
            cost / beside_auth,
            median(&arm.per_s)
        );
    }
    Ok(())
}
