//! The real proxies, each with its file of `integrations/`: only the addresses are others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Running, Scratch, eventually, free_port};

/// A way to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The gate itself.
    Gate,
    EnvoyGrpc,
    EnvoyHttp,
    /// Envoy's rate limit service alone.
    EnvoyRateLimit,
    Nginx,
    Caddy,
    Haproxy,
    /// By its contract alone.
    Traefik,
}

/// Every proxy that asks whether a request is allowed.
pub(super) const PROXIES: [Way; 5] =
    [Way::EnvoyGrpc, Way::EnvoyHttp, Way::Nginx, Way::Caddy, Way::Haproxy];

impl Way {
    /// The directory in `integrations/`, and part of the names of its callers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Gate => "gate",
            Way::EnvoyGrpc => "envoy-grpc",
            Way::EnvoyHttp => "envoy-http",
            Way::EnvoyRateLimit => "envoy-ratelimit",
            Way::Nginx => "nginx",
            Way::Caddy => "caddy",
            Way::Haproxy => "haproxy",
            Way::Traefik => "traefik",
        }
    }

    /// Its callers come from an address of their own, so that limits by address do not mix.
    pub(super) fn caller(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1 + self as u8))
    }
}

/// A proxy that runs; ended when dropped.
pub(super) struct Proxy {
    way: Way,
    pub(super) address: SocketAddr,
    process: Running,
    _scratch: Scratch,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program, or what is missing.
fn program(way: Way) -> Result<Command, &'static str> {
    let fixture = |name: &str| {
        let path = root().join("target/fixtures/proxies").join(name);
        let missing = "target/fixtures/proxies is missing; run scripts/fetch-fixtures";
        if path.exists() { Ok(Command::new(path)) } else { Err(missing) }
    };
    let installed = |name: &str, flag: &str, missing: &'static str| {
        let found = Command::new(name).arg(flag).output();
        found.map_err(|_| missing).map(|_| Command::new(name))
    };
    match way {
        Way::Gate | Way::Traefik => Err("no program"),
        Way::EnvoyGrpc | Way::EnvoyHttp | Way::EnvoyRateLimit => fixture("envoy"),
        Way::Caddy => fixture("caddy"),
        Way::Nginx => installed("nginx", "-v", "nginx is not installed"),
        Way::Haproxy => installed("haproxy", "-v", "haproxy is not installed"),
    }
}

impl Proxy {
    /// Starts it before this gate and this application. Envoy ends with the thread that started it.
    pub(super) fn start(
        way: Way,
        gate: SocketAddr,
        upstream: SocketAddr,
    ) -> Result<Proxy, &'static str> {
        let mut command = program(way)?;
        let scratch = Scratch::new();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let from = root().join("integrations").join(way.name());
        for file in std::fs::read_dir(&from).unwrap() {
            let file = file.unwrap().path();
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&file).unwrap();
            scratch.write(&name, &substituted(way, &name, &text, address, gate, upstream));
        }
        let dir = scratch.path();
        command.current_dir(dir);
        match way {
            Way::Nginx => command.args([
                "-p",
                dir.to_str().unwrap(),
                "-c",
                scratch.join("nginx.conf").to_str().unwrap(),
                "-g",
                "daemon off; master_process off;",
            ]),
            Way::Haproxy => command.args(["-db", "-f", "haproxy.cfg"]),
            Way::Caddy => command
                .args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"])
                .env("XDG_DATA_HOME", dir)
                .env("XDG_CONFIG_HOME", dir),
            _ => command
                .args("-c envoy.yaml --use-dynamic-base-id --concurrency 1 -l warning".split(' ')),
        };
        Ok(Proxy { way, address, process: Running::start(command, &[]), _scratch: scratch })
    }

    /// Waits until it answers; accepting a connection is not enough.
    pub(super) fn ready(&self) {
        let place = self.address.to_string();
        eventually(self.way.name(), || {
            let mut http = crate::requests::Http::try_new(&place, &[]).ok()?;
            http.try_send("GET", "/ready", "").ok()
        });
    }

    /// What it has logged, for a failed test.
    pub(super) fn log(&self) -> String {
        self.process.stderr()
    }
}

/// The file with other addresses; all else is as users have it.
fn substituted(
    way: Way,
    file: &str,
    text: &str,
    own: SocketAddr,
    gate: SocketAddr,
    upstream: SocketAddr,
) -> String {
    let mut text = text.to_owned();
    let main = matches!(file, "nginx.conf" | "Caddyfile" | "haproxy.cfg" | "envoy.yaml");
    for (port, to) in [("8080", own), ("8090", gate), ("9000", upstream)] {
        assert!(!main || text.contains(port), "{file} names port {port}");
        text = text.replace(port, &to.port().to_string());
    }
    match way {
        // Where a test may write.
        Way::Nginx => {
            let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let paths: String =
                kinds.iter().map(|kind| format!("  {kind}_temp_path {kind};\n")).collect();
            text.replace("http {\n", &format!("http {{\n{paths}"))
        }
        // One name for each HAProxy of this host.
        Way::Haproxy => {
            text.replace("abns@keepgate-check", &format!("abns@keepgate-check-{}", own.port()))
        }
        _ => text,
    }
}
