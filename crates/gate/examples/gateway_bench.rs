//! CPU seconds a proxied request costs: this gate beside other proxies, on the same upstream, in
//! interleaved runs.
//!
//! `gateway_bench [--seconds N] [--rounds N] [--only TEXT]`; needs nginx, wrk, curl and openssl, and
//! for some rows HAProxy, Envoy, Caddy and h2load (where one is missing, its rows are too). Counted is
//! the processor time (user and system) of the proxies and of the authorization services, from
//! `/proc/PID/stat`. `--only`: the rows whose name holds the text, and those that they are beside.

mod bench;

use std::path::Path;
use std::process::Command;

use bench::{
    Fault, Running, Scratch, Serving, WORKERS, cpu_s, floor, free_port, median, nginx, peers,
    wait_for, wait_until,
};
use keepgate_gate::TlsFiles;

const CONNECTIONS: usize = 64;
/// Of HTTP/2, and the requests at once on each: as many requests at once as with HTTP/1.1.
const H2_CONNECTIONS: usize = 8;
/// Limits that are asked, and never reached.
const LIMITS: &[(&str, &str)] = &[("address", "10000000/s"), ("principal", "10000000/s")];

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value =
        |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    if let Some(listen) = value("--floor") {
        let upstream = value("--upstream").unwrap_or_default();
        return floor::serve(listen.parse()?, upstream.parse()?);
    }
    if let (Some(listen), Some(upstream)) = (value("--serve"), value("--upstream")) {
        let check = value("--check").map(|at| at.parse()).transpose()?;
        let files = value("--cert").zip(value("--key"));
        let tls = files.map(|(cert, key)| TlsFiles { cert: cert.into(), key: key.into() });
        return Serving { listen: listen.parse()?, check, tls, upstream }.run(LIMITS);
    }
    let seconds: u32 = value("--seconds").map_or(Ok(3), |text| text.parse())?;
    let rounds: usize = value("--rounds").map_or(Ok(5), |text| text.parse())?;
    let scratch = Scratch::new("gateway-bench")?;
    let mut arms = Arms::start(&scratch.0)?;
    if let Some(only) = value("--only") {
        arms.keep(&only);
    }
    arms.run(seconds, rounds)
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// wrk, over HTTP/1.1.
    Http1,
    /// wrk, over TLS.
    Tls,
    /// h2load, over HTTP/2 without TLS.
    Http2,
    /// wrk, as a proxy that asks by forward authentication.
    Check,
}

/// One row.
struct Arm {
    name: &'static str,
    asks: Asks,
    port: u16,
    pids: Vec<u32>,
    /// The row that it is compared with.
    beside: &'static str,
    per_100k: Vec<f64>,
    per_s: Vec<f64>,
}

impl Arm {
    fn url(&self) -> String {
        match self.asks {
            Asks::Tls => format!("https://127.0.0.1:{}/orders/7", self.port),
            Asks::Check => format!("http://127.0.0.1:{}/auth", self.port),
            Asks::Http1 | Asks::Http2 => format!("http://127.0.0.1:{}/orders/7", self.port),
        }
    }

    /// Until it answers 200.
    fn wait(&self) -> Result<(), Fault> {
        let url = self.url();
        let mut args = vec!["-H", "x-user: user7777"];
        match self.asks {
            Asks::Http1 => return wait_for(self.port),
            Asks::Tls => {}
            Asks::Http2 => args.push("--http2-prior-knowledge"),
            Asks::Check => args.extend(CHECK),
        }
        args.push(&url);
        wait_until(&args)
    }

    fn run(&mut self, seconds: u32) -> Result<(), Fault> {
        let mut command = if self.asks == Asks::Http2 {
            let mut command = Command::new("h2load");
            let (connections, streams) = (H2_CONNECTIONS, CONNECTIONS / H2_CONNECTIONS);
            command.args(["-c", &connections.to_string(), "-m", &streams.to_string()]);
            command.args(["-D", &seconds.to_string()]);
            command
        } else {
            let mut command = Command::new("wrk");
            command.args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{seconds}s")]);
            command
        };
        command.args(["-H", "x-user: user7777"]);
        if self.asks == Asks::Check {
            command.args(CHECK);
        }
        let before: f64 = self.pids.iter().map(|pid| cpu_s(*pid)).sum();
        let out = command.arg(self.url()).output()?;
        let after: f64 = self.pids.iter().map(|pid| cpu_s(*pid)).sum();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let count = if self.asks == Asks::Http2 { h2load_count(&text) } else { wrk_count(&text) };
        let count = count
            .ok_or_else(|| format!("{}: expected answers of 200 alone, got:\n{text}", self.name))?;
        self.per_100k.push((after - before) / count * 1e5);
        self.per_s.push(count / f64::from(seconds));
        Ok(())
    }
}

/// As nginx asks (`integrations/nginx`).
const CHECK: [&str; 6] = [
    "-H",
    "X-Original-Method: GET",
    "-H",
    "X-Original-URI: /orders/7",
    "-H",
    "X-Real-IP: 127.0.0.1",
];

/// Requests that were answered; none: some were answered otherwise.
fn wrk_count(text: &str) -> Option<f64> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

fn h2load_count(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("status codes: "))?;
    let counts: Vec<f64> = line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    match counts.as_slice() {
        [good, others @ ..] if *good > 0.0 && others.iter().all(|count| *count == 0.0) => {
            Some(*good)
        }
        _ => None,
    }
}

const PLAIN: &str = "nginx, plain proxy";
const AUTH: &str = "nginx, auth_request + service";
const TLS: &str = "nginx, plain proxy, TLS callers";
const H2: &str = "nginx, plain proxy, HTTP/2 callers";

/// All rows, and the processes behind them.
struct Arms {
    arms: Vec<Arm>,
    running: Vec<Running>,
}

impl Arms {
    fn start(dir: &Path) -> Result<Arms, Fault> {
        let mut all = Arms { arms: Vec::new(), running: Vec::new() };
        let (upstream, auth) = (free_port()?, free_port()?);
        let body = "x".repeat(1024);
        let answers =
            format!("server {{ listen {upstream}; location / {{ return 200 '{body}'; }} }}");
        all.running.push(nginx(dir, "upstream", &answers)?);
        // Envoy takes no 204 for an allow.
        let allows = format!(
            "server {{ listen {auth}; location / {{ return 204; }} \
             location /ext_authz {{ return 200; }} }}"
        );
        let service = nginx(dir, "auth", &allows)?;
        let service_pid = service.0.id();
        all.running.push(service);
        let (cert, key) = peers::certificate(dir)?;
        all.nginx(dir, upstream, auth, service_pid, &cert, &key)?;
        all.floor(upstream)?;
        let port = free_port()?;
        all.other("HAProxy, plain proxy", port, peers::haproxy(dir, port, upstream)?, &[]);
        let port = free_port()?;
        all.other("Envoy, plain proxy", port, peers::envoy(dir, port, upstream, None)?, &[]);
        let port = free_port()?;
        let envoy = peers::envoy(dir, port, upstream, Some(auth))?;
        all.other("Envoy, ext_authz + service", port, envoy, &[service_pid]);
        let port = free_port()?;
        all.other("Caddy, plain proxy", port, peers::caddy(dir, port, upstream)?, &[]);
        all.gates(dir, upstream, &cert, &key)?;
        if Command::new("h2load").arg("--version").output().is_err() {
            eprintln!("no rows of HTTP/2 callers: h2load (nghttp2-client) is not installed");
            all.arms.retain(|arm| arm.asks != Asks::Http2);
        }
        for arm in &all.arms {
            arm.wait()?;
        }
        Ok(all)
    }

    fn nginx(
        &mut self,
        dir: &Path,
        upstream: u16,
        auth: u16,
        service: u32,
        cert: &Path,
        key: &Path,
    ) -> Result<(), Fault> {
        let pools = pools(upstream, auth);
        let pass = "location / { proxy_pass http://up; }";
        let (cert, key) = (cert.display(), key.display());
        let certificate = format!("ssl_certificate {cert}; ssl_certificate_key {key};");
        for (name, asks, listen) in
            [(PLAIN, Asks::Http1, ""), (TLS, Asks::Tls, " ssl"), (H2, Asks::Http2, " http2")]
        {
            let port = free_port()?;
            let file = format!("plain-{port}");
            let certificate = if asks == Asks::Tls { certificate.as_str() } else { "" };
            let server =
                format!("{pools} server {{ listen {port}{listen}; {certificate} {pass} }}");
            let running = nginx(dir, &file, &server)?;
            self.push(name, asks, port, vec![running.0.id()], name);
            self.running.push(running);
        }
        let port = free_port()?;
        let server = format!(
            "{pools} server {{ listen {port};\n\
             location / {{ auth_request /_auth; proxy_pass http://up; }}\n\
             location = /_auth {{ internal; proxy_pass http://auth; {ASKING} }} }}"
        );
        let running = nginx(dir, "guarded", &server)?;
        self.push(AUTH, Asks::Http1, port, vec![running.0.id(), service], PLAIN);
        self.running.push(running);
        Ok(())
    }

    fn floor(&mut self, upstream: u16) -> Result<(), Fault> {
        let port = free_port()?;
        let child = Command::new(std::env::current_exe()?)
            .args(["--floor", &format!("127.0.0.1:{port}")])
            .args(["--upstream", &format!("127.0.0.1:{upstream}")])
            .spawn()?;
        self.other("the floor: an echo on the gate's runtime", port, Some(Running(child)), &[]);
        Ok(())
    }

    fn gates(&mut self, dir: &Path, upstream: u16, cert: &Path, key: &Path) -> Result<(), Fault> {
        let gate = |listen: u16| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--serve", &format!("127.0.0.1:{listen}")]);
            command.args(["--upstream", &format!("http://127.0.0.1:{upstream}")]);
            Ok::<_, Fault>(command)
        };
        let (port, check) = (free_port()?, free_port()?);
        let plain = gate(port)?.args(["--check", &format!("127.0.0.1:{check}")]).spawn()?;
        let pid = plain.id();
        self.running.push(Running(plain));
        self.push("gate, all phases", Asks::Http1, port, vec![pid], PLAIN);
        self.push("gate, all phases, HTTP/2 callers", Asks::Http2, port, vec![pid], H2);
        let tls = free_port()?;
        let child = gate(tls)?.arg("--cert").arg(cert).arg("--key").arg(key).spawn()?;
        self.push("gate, all phases, TLS callers", Asks::Tls, tls, vec![child.id()], TLS);
        self.running.push(Running(child));
        self.push("gate, its check listener alone", Asks::Check, check, vec![pid], AUTH);
        let port = free_port()?;
        let server = format!(
            "{} server {{ listen {port};\n\
             location / {{ auth_request /_auth; proxy_pass http://up; }}\n\
             location = /_auth {{ internal; proxy_pass http://auth/auth; {ASKING}\n\
             proxy_set_header X-Original-Method $request_method; \
             proxy_set_header X-Real-IP $remote_addr; }} }}",
            pools(upstream, check)
        );
        let running = nginx(dir, "asking", &server)?;
        let pids = vec![running.0.id(), pid];
        self.push("nginx, auth_request + the gate's check listener", Asks::Http1, port, pids, AUTH);
        self.running.push(running);
        Ok(())
    }

    fn other(&mut self, name: &'static str, port: u16, peer: Option<Running>, service: &[u32]) {
        let Some(running) = peer else { return };
        let pids = [&[running.0.id()], service].concat();
        let beside = if service.is_empty() { PLAIN } else { AUTH };
        self.push(name, Asks::Http1, port, pids, beside);
        self.running.push(running);
    }

    fn push(
        &mut self,
        name: &'static str,
        asks: Asks,
        port: u16,
        pids: Vec<u32>,
        beside: &'static str,
    ) {
        let (per_100k, per_s) = (Vec::new(), Vec::new());
        self.arms.push(Arm { name, asks, port, pids, beside, per_100k, per_s });
    }

    /// The rows that hold this text, and those beside them.
    fn keep(&mut self, only: &str) {
        let named: Vec<_> = self.arms.iter().filter(|arm| arm.name.contains(only)).collect();
        let kept: Vec<_> = named.iter().flat_map(|arm| [arm.name, arm.beside]).collect();
        self.arms.retain(|arm| kept.contains(&arm.name));
    }

    fn run(&mut self, seconds: u32, rounds: usize) -> Result<(), Fault> {
        for arm in &mut self.arms {
            arm.run(1)?;
            arm.per_100k.clear();
            arm.per_s.clear();
        }
        for _ in 0..rounds {
            for arm in &mut self.arms {
                arm.run(seconds)?;
            }
        }
        println!(
            "{CONNECTIONS} connections (HTTP/2: {H2_CONNECTIONS}, of {} requests each), {WORKERS} \
             workers, 1 KiB answers, {rounds} rounds of {seconds} s, medians\n",
            CONNECTIONS / H2_CONNECTIONS
        );
        println!("| proxy | CPU s / 100k requests | ratio | beside | requests/s |");
        println!("|---|---|---|---|---|");
        let cost = |name: &str| {
            let arm = self.arms.iter().find(|arm| arm.name == name);
            arm.map_or(f64::NAN, |arm| median(&arm.per_100k))
        };
        for arm in &self.arms {
            let own = median(&arm.per_100k);
            let (ratio, beside) = (own / cost(arm.beside), arm.beside);
            let per_s = median(&arm.per_s);
            println!("| {} | {own:.2} | {ratio:.2} | {beside} | {per_s:.0} |", arm.name);
        }
        Ok(())
    }
}

/// How nginx asks an authorization service.
const ASKING: &str = "proxy_pass_request_body off; proxy_set_header Content-Length ''; \
                      proxy_http_version 1.1; proxy_set_header Connection ''; \
                      proxy_set_header X-Original-URI $request_uri;";

/// nginx's upstreams, with kept connections.
fn pools(upstream: u16, auth: u16) -> String {
    let pool = |name: &str, port: u16| {
        format!(
            "upstream {name} {{ server 127.0.0.1:{port}; keepalive 64; \
             keepalive_requests 100000000; }}\n"
        )
    };
    format!(
        "{}{}proxy_http_version 1.1; proxy_set_header Connection '';\n\
         proxy_set_header X-Forwarded-For $remote_addr;",
        pool("up", upstream),
        pool("auth", auth)
    )
}
