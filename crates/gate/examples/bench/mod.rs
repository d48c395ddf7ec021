//! What the benchmarks of the gate share: a gate in a process of its own, nginx, processor time.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub(crate) mod floor;
pub(crate) mod peers;

use std::error::Error;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keepgate_gate::{FixedSource, Gate, GateConfig, Listen, Peers, TlsFiles};
use keepgate_policy::limits::Written;
use keepgate_policy::model::GrantBody;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Digest, Item, ItemBody, Revision, Snapshot, Uid, World};

pub(crate) type Fault = Box<dyn Error>;

const GRANTS: usize = 10_000;
pub(crate) const WORKERS: usize = 2;

/// The gate under test, in a process of its own.
pub(crate) struct Serving {
    pub(crate) listen: SocketAddr,
    /// Where other proxies ask.
    pub(crate) check: Option<SocketAddr>,
    /// A certificate, for TLS.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) upstream: String,
}

impl Serving {
    pub(crate) fn plain(listen: SocketAddr, upstream: String) -> Serving {
        Serving { listen, check: None, tls: None, upstream }
    }

    /// Serves until the process ends, with a rule for each of these keys.
    pub(crate) fn run(self, limits: &[(&str, &str)]) -> Result<(), Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let config = GateConfig {
                service: "orders".to_owned(),
                upstream: self.upstream,
                listen: Listen::Tcp(self.listen),
                check_listen: self.check.into_iter().map(Listen::Tcp).collect(),
                check_peers: Peers::loopback(),
                tls: self.tls,
                workers: WORKERS,
                ..GateConfig::default()
            };
            let gate =
                Gate::with_source(config, Arc::new(FixedSource::new(world(limits)?))).await?;
            gate.run(std::future::pending()).await?;
            Ok(())
        })
    }
}

/// 10,000 grants, to `user0` and so on: each may `GET /orders/{id}`. A rule for each of these keys, at
/// this rate.
fn world(limits: &[(&str, &str)]) -> Result<World, Fault> {
    let settings: ServiceSettings = serde_json::from_value(serde_json::json!({
        "name": "orders",
        "identify": {"trusted_header": {"header": "x-user", "peers": ["127.0.0.0/8"]}},
    }))?;
    let mut items = vec![Item::new("orders", "", ItemBody::Service(Box::new(settings)))];
    for (key, rate) in limits {
        let rule = serde_json::json!({"name": format!("default-{key}"), "key": key, "rate": rate});
        items.push(Item::new("orders", "", ItemBody::Limit(Box::new(Written::read(rule)?))));
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
            until_unix_s: None,
        };
        items.push(Item::new("orders", &format!("grant{n}"), ItemBody::Grant(grant)));
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let digest = Digest::of_all(&items);
    Ok(World::from_snapshot(&Snapshot { revision: Revision(1), digest, items })?)
}

/// A process that ends with the benchmark.
pub(crate) struct Running(pub(crate) Child);

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

/// A directory that is removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Result<Scratch, Fault> {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn free_port() -> Result<u16, Fault> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// nginx with this as its `http` block.
pub(crate) fn nginx(dir: &Path, name: &str, http: &str) -> Result<Running, Fault> {
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
pub(crate) fn cpu_s(pid: u32) -> f64 {
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

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Until it answers.
pub(crate) fn wait_for(port: u16) -> Result<(), Fault> {
    wait_until(&["-H", "x-user: user7777", &format!("http://127.0.0.1:{port}/orders/7")])
}

/// Until curl succeeds with these arguments.
pub(crate) fn wait_until(args: &[&str]) -> Result<(), Fault> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        let curl = Command::new("curl").args(["-skf", "-o", "/dev/null"]).args(args).status()?;
        if curl.success() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("expected an answer of 200 to: curl {}", args.join(" ")).into())
}
