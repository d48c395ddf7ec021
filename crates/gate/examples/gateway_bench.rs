//! CPU seconds a proxied request costs: this gate beside nginx as a plain proxy and nginx with
//! `auth_request`, on the same upstream, in interleaved runs.
//!
//! `gateway_bench [--seconds N] [--rounds N]`; needs nginx and wrk. Counted is the processor time
//! (user and system) of the proxies and of the authorization service, from `/proc/PID/stat`.

use std::error::Error;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keepgate_gate::{FixedSource, Gate, GateConfig, Listen};
use keepgate_policy::model::GrantBody;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Digest, Item, ItemBody, Revision, Snapshot, Uid, World};

type Fault = Box<dyn Error>;

const CONNECTIONS: &str = "64";
const GRANTS: usize = 10_000;
const WORKERS: usize = 2;

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value =
        |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    if let (Some(listen), Some(upstream)) = (value("--serve"), value("--upstream")) {
        return serve(listen.parse()?, upstream);
    }
    let seconds: u32 = value("--seconds").map_or(Ok(3), |text| text.parse())?;
    let rounds: usize = value("--rounds").map_or(Ok(5), |text| text.parse())?;
    bench(seconds, rounds)
}

/// The gate under test, in a process of its own.
fn serve(listen: SocketAddr, upstream: String) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = GateConfig {
            service: "orders".to_owned(),
            upstream,
            listen: Listen::Tcp(listen),
            workers: WORKERS,
            ..GateConfig::default()
        };
        let gate = Gate::with_source(config, Arc::new(FixedSource::new(world()?))).await?;
        gate.run(std::future::pending()).await?;
        Ok(())
    })
}

/// 10,000 grants, of which one is the caller's.
fn world() -> Result<World, Fault> {
    let settings: ServiceSettings = serde_json::from_value(serde_json::json!({
        "name": "orders",
        "identify": {"trusted_header": {"header": "x-user", "peers": ["127.0.0.0/8"]}},
    }))?;
    let mut items = vec![Item::new("orders", "", ItemBody::Service(Box::new(settings)))];
    // Limits that are asked, and never reached.
    for (name, key) in [("default-address", "address"), ("default-principal", "principal")] {
        let rule = serde_json::json!({"name": name, "key": key, "rate": "10000000/s"});
        items.push(Item::new("orders", "", ItemBody::Limit(rule)));
    }
    for method in ["GET", "POST"] {
        let route =
            serde_json::from_value(serde_json::json!({"method": method, "path": "/orders/{id}"}))?;
        let id = format!("{method} /orders/{{id}}");
        items.push(Item::new("orders", &id, ItemBody::Route(Box::new(route))));
    }
    for n in 0..GRANTS {
        let grant = GrantBody {
            principal: Uid::new("user", format!("user{n}")),
            actions: vec![Uid::action("GET")],
            resource: Some(Uid::route("/orders")),
        };
        items.push(Item::new("orders", &format!("grant{n}"), ItemBody::Grant(grant)));
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let digest = Digest::of_all(&items);
    Ok(World::from_snapshot(&Snapshot { revision: Revision(1), digest, items })?)
}

/// A process that ends with the benchmark.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // nginx's workers go with their master on TERM, not on KILL.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> Result<u16, Fault> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn nginx(dir: &Path, name: &str, http: &str) -> Result<Running, Fault> {
    let at = dir.display();
    let config = format!(
        "daemon off; worker_processes {WORKERS}; pid {at}/{name}.pid; error_log {at}/{name}.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000; tcp_nodelay on;\n\
         client_body_temp_path {at}/{name}.b; proxy_temp_path {at}/{name}.p;\n\
         fastcgi_temp_path {at}/{name}.f; uwsgi_temp_path {at}/{name}.u;\n\
         scgi_temp_path {at}/{name}.s;\n{http}\n}}\n"
    );
    let file = dir.join(format!("{name}.conf"));
    fs::write(&file, config)?;
    let program = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|p| Path::new(p).exists());
    let program = program.ok_or("nginx is not installed; scripts/test installs it")?;
    let child = Command::new(program)
        .args(["-p", &at.to_string(), "-c"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Running(child))
}

/// Processor time of a process and its children so far, in seconds.
fn cpu_s(pid: u32) -> f64 {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        // The name, in parentheses, may hold anything; the fields follow the last one.
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        if id == pid || field(1) == u64::from(pid) {
            ticks += field(11) + field(12);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    let seconds = ticks as f64 / 100.0;
    seconds
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn wait_for(port: u16) -> Result<(), Fault> {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let curl = Command::new("curl")
            .args(["-sf", "-o", "/dev/null", "-H", "x-user: user7777"])
            .arg(format!("http://127.0.0.1:{port}/orders/7"))
            .status()?;
        if curl.success() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("port {port} does not answer").into())
}

fn bench(seconds: u32, rounds: usize) -> Result<(), Fault> {
    let scratch =
        Scratch(std::env::temp_dir().join(format!("gateway-bench-{}", std::process::id())));
    fs::create_dir_all(&scratch.0)?;
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
