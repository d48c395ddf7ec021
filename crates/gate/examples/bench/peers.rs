//! Proxies of others, each as its makers say that it reuses connections.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Fault, Running, WORKERS};

/// HAProxy as a plain proxy.
pub(crate) fn haproxy(dir: &Path, listen: u16, upstream: u16) -> Result<Option<Running>, Fault> {
    let Some(program) = found(&["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"]) else {
        return Ok(None);
    };
    let config = format!(
        "global\n  nbthread {WORKERS}\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         option http-keep-alive\n  http-reuse always\n  option forwardfor\n\
         frontend callers\n  bind 127.0.0.1:{listen}\n  default_backend upstream\n\
         backend upstream\n  server one 127.0.0.1:{upstream}\n"
    );
    let file = written(dir, "haproxy.cfg", &config)?;
    started(Command::new(program).args(["-db", "-f"]).arg(file)).map(Some)
}

/// Caddy as a plain proxy.
pub(crate) fn caddy(dir: &Path, listen: u16, upstream: u16) -> Result<Option<Running>, Fault> {
    let Some(program) = found(&["target/fixtures/proxies/caddy"]) else { return Ok(None) };
    let config = format!(
        "{{\n  admin off\n  auto_https off\n  persist_config off\n}}\n\
         http://127.0.0.1:{listen} {{\n  reverse_proxy 127.0.0.1:{upstream} {{\n    \
         transport http {{\n      keepalive_idle_conns_per_host 64\n    }}\n  }}\n}}\n"
    );
    let file = written(dir, "Caddyfile", &config)?;
    let mut command = Command::new(program);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("GOMAXPROCS", WORKERS.to_string()).env("HOME", dir);
    started(&mut command).map(Some)
}

/// Envoy as a plain proxy, or with `ext_authz` over HTTP to a service that allows everything.
pub(crate) fn envoy(
    dir: &Path,
    listen: u16,
    upstream: u16,
    service: Option<u16>,
) -> Result<Option<Running>, Fault> {
    let Some(program) = found(&["target/fixtures/proxies/envoy"]) else { return Ok(None) };
    let named =
        |package: &str| format!("type.googleapis.com/envoy.extensions.filters.http.{package}");
    let mut filters = Vec::new();
    if service.is_some() {
        filters.push(serde_json::json!({
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": named("ext_authz.v3.ExtAuthz"),
                "transport_api_version": "V3",
                "http_service": {
                    "server_uri": {"uri": "http://service", "cluster": "service", "timeout": "3s"},
                    "path_prefix": "/ext_authz",
                },
            },
        }));
    }
    filters.push(serde_json::json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": named("router.v3.Router")},
    }));
    let cluster = |name: &str, port: u16| {
        let at = serde_json::json!({"address": "127.0.0.1", "port_value": port});
        serde_json::json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": at}}}]}],
            },
        })
    };
    let clusters: Vec<_> = [Some(("upstream", upstream)), service.map(|port| ("service", port))]
        .into_iter()
        .flatten()
        .map(|(name, port)| cluster(name, port))
        .collect();
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                   HttpConnectionManager";
    let route = serde_json::json!({"virtual_hosts": [{
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
    }]});
    let config = serde_json::json!({"static_resources": {
        "listeners": [{
            "name": "callers",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": listen}},
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": manager,
                    "stat_prefix": "callers",
                    "use_remote_address": true,
                    "route_config": route,
                    "http_filters": filters,
                },
            }]}],
        }],
        "clusters": clusters,
    }});
    let file = written(dir, &format!("envoy-{listen}.json"), &config.to_string())?;
    let mut command = Command::new(program);
    command.args(["--disable-hot-restart", "--concurrency", &WORKERS.to_string(), "-c"]).arg(file);
    started(&mut command).map(Some)
}

/// A certificate for the name `localhost`, and its key.
pub(crate) fn certificate(dir: &Path) -> Result<(PathBuf, PathBuf), Fault> {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status()?;
    if !made.success() {
        return Err("expected `openssl req` to make a certificate, it failed".into());
    }
    Ok((cert, key))
}

fn found(paths: &[&str]) -> Option<PathBuf> {
    let found = paths.iter().map(PathBuf::from).find(|path| path.exists());
    if found.is_none() {
        eprintln!("no row for {}: it is not there; scripts/setup brings it", paths.join(", "));
    }
    found
}

fn written(dir: &Path, name: &str, text: &str) -> Result<PathBuf, Fault> {
    let file = dir.join(name);
    fs::write(&file, text)?;
    Ok(file)
}

fn started(command: &mut Command) -> Result<Running, Fault> {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Running(silent.spawn()?))
}
