//! `keepgate gate`: a gate by itself, before one upstream, following a center.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;
use keepgate_client::pool::Protocol;
use keepgate_client::replica::RestartAge;
use keepgate_gate::identify::access::{KeyAccess, Origin};
use keepgate_gate::{Gate, GateConfig, Listen, Peers, TlsFiles};
use keepgate_policy::identify::AddressRange;
use serde_json::json;

use crate::admin::{CENTER_DEFAULT, read_token};
use crate::cmd::center::named;
use crate::exit::{Exit, usage};
use crate::signals::Stop;
use crate::style::{self, Paint};

/// Run a gate in front of a service
///
/// It follows the center over one connection, decides in process, and forwards what is allowed.
/// 403 means denied and nothing else; where it cannot decide it answers 503.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate token create --role gate --service orders --out gate.token
  keepgate gate --center http://127.0.0.1:7480 --token-file gate.token \\
      --service orders --upstream http://127.0.0.1:3000
  keepgate gate --service orders --upstream unix:/run/orders.sock --listen unix:/run/gate.sock")]
pub(crate) struct Args {
    /// The center's URL
    #[arg(long, env = "KEEPGATE_CENTER", value_name = "URL", default_value = CENTER_DEFAULT)]
    center: String,
    /// File with the gate's token; KEEPGATE_TOKEN may hold the token itself
    #[arg(long, env = "KEEPGATE_TOKEN_FILE", value_name = "F")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificates to trust for the center in place of this host's store
    #[arg(long, env = "KEEPGATE_CA_FILE", value_name = "F")]
    ca_file: Option<PathBuf>,
    /// Follow a center on another host over plain HTTP, for tests: anyone on the network path can
    /// read the token and change the permissions
    #[arg(long, env = "KEEPGATE_INSECURE_CENTER")]
    insecure_center: bool,
    /// The service that this gate protects
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
    service: String,
    #[command(flatten)]
    pub(crate) traffic: Traffic,
    /// Directory for the last good replica, so that a restart needs no center
    #[arg(long, env = "KEEPGATE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// What the age of a kept replica counts from after a reboot of the host
    #[arg(
        long,
        env = "KEEPGATE_RESTART_AGE",
        value_enum,
        value_name = "FROM",
        default_value = "wall-clock"
    )]
    restart_age: AgeFrom,
    /// PEM file with the certificate chain for callers, leaf first
    #[arg(long, env = "KEEPGATE_TLS_CERT", value_name = "F", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "KEEPGATE_TLS_KEY", value_name = "F", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Print where it listens as one JSON object
    #[arg(long)]
    json: bool,
    /// The server to protect: http://host:port, https://host or unix:/path
    #[arg(long, env = "KEEPGATE_UPSTREAM", value_name = "URL")]
    upstream: String,
}

/// What `gate` and `up` have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct Traffic {
    /// Where callers connect: ADDR:PORT or unix:/path
    #[arg(long, env = "KEEPGATE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = listen)]
    pub(crate) listen: Listen,
    /// Where the gate's /metrics, /healthz and /readyz are
    #[arg(
        long,
        env = "KEEPGATE_ADMIN_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:8081"
    )]
    pub(crate) admin_listen: SocketAddr,
    /// A host name for requests to the metrics, besides IP addresses and localhost; may be repeated
    #[arg(long, env = "KEEPGATE_ADMIN_HOST", value_name = "NAME", value_delimiter = ',')]
    pub(crate) admin_host: Vec<String>,
    /// Connections that callers may have; at the limit, an idle one is closed for the next
    #[arg(long, env = "KEEPGATE_MAX_CONNECTIONS", value_name = "N", default_value_t = 10_000)]
    pub(crate) max_connections: usize,
    /// Connections that one address may have; default: a quarter of --max-connections
    #[arg(long, env = "KEEPGATE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    pub(crate) max_connections_per_address: Option<usize>,
    /// How to speak to the upstream
    #[arg(
        long,
        env = "KEEPGATE_UPSTREAM_PROTOCOL",
        value_enum,
        value_name = "P",
        default_value = "auto"
    )]
    pub(crate) upstream_protocol: UpstreamProtocol,
    /// PEM file with the certificates to trust for the upstream in place of this host's store
    #[arg(long, env = "KEEPGATE_UPSTREAM_CA_FILE", value_name = "F")]
    pub(crate) upstream_ca_file: Option<PathBuf>,
    /// Connections to the upstream at most; default: half of the usable ports, at most 1024
    #[arg(long, env = "KEEPGATE_UPSTREAM_CONNECTIONS", value_name = "N")]
    pub(crate) upstream_connections: Option<usize>,
    /// Addresses (such as 10.0.0.0/8) of proxies whose X-Forwarded-* is believed, `unix` for those
    /// that connect to a Unix socket; may be repeated
    #[arg(long, env = "KEEPGATE_TRUSTED_PROXY", value_name = "RANGE", value_delimiter = ',')]
    pub(crate) trusted_proxy: Vec<Peer>,
    /// The header in which trusted proxies name their callers' addresses
    #[arg(
        long,
        env = "KEEPGATE_FORWARDED_HEADER",
        value_name = "NAME",
        default_value = "x-forwarded-for"
    )]
    pub(crate) forwarded_header: http::HeaderName,
    /// Addresses (or `unix`) whose connections all begin with a PROXY protocol header; may be
    /// repeated
    #[arg(long, env = "KEEPGATE_PROXY_PROTOCOL", value_name = "RANGE", value_delimiter = ',')]
    pub(crate) proxy_protocol: Vec<Peer>,
    /// Accept ranges that cover every address, as proxies and as the `peers` of a trusted header
    #[arg(long, env = "KEEPGATE_TRUST_EVERYBODY")]
    pub(crate) trust_everybody: bool,
    /// Directory with the key and secret files of services; without it, no such file is read
    #[arg(long, env = "KEEPGATE_SECRETS", value_name = "DIR")]
    pub(crate) secrets: Option<PathBuf>,
    /// Origins (https://host:port) from which key sets may be fetched; may be repeated. Plain
    /// HTTP and this host must be named. Default: HTTPS from any other host; in `up`, any origin
    #[arg(long, env = "KEEPGATE_JWKS_ALLOW", value_name = "ORIGIN", value_delimiter = ',')]
    pub(crate) jwks_allow: Vec<Origin>,
    /// Worker threads; 0: one a core
    #[arg(long, env = "KEEPGATE_WORKERS", value_name = "N", default_value_t = 0)]
    pub(crate) workers: usize,
}

/// What an age counts from after a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AgeFrom {
    /// The wall clock, and at least the uptime
    WallClock,
    /// Nothing: 503 until the center is heard
    Unknown,
}

/// One of `--trusted-proxy`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// By address.
    Range(AddressRange),
    /// Over a Unix socket.
    Unix,
}

impl std::str::FromStr for Peer {
    type Err = <AddressRange as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Peer, Self::Err> {
        if text == "unix" { Ok(Peer::Unix) } else { text.parse().map(Peer::Range) }
    }
}

fn peers(named: &[Peer]) -> Peers {
    let range = |peer: &Peer| match peer {
        Peer::Range(range) => Some(*range),
        Peer::Unix => None,
    };
    Peers {
        ranges: named.iter().filter_map(range).collect(),
        unix: named.iter().any(|peer| matches!(peer, Peer::Unix)),
    }
}

/// How to speak to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpstreamProtocol {
    /// What ALPN agrees on; HTTP/1.1 without TLS
    Auto,
    /// HTTP/1.1
    Http1,
    /// HTTP/2, without TLS by prior knowledge
    Http2,
}

impl Traffic {
    /// A gate's configuration with these and the defaults.
    pub(crate) fn config(self) -> GateConfig {
        let mut config = GateConfig {
            listen: self.listen,
            admin_listen: Some(self.admin_listen),
            admin_hosts: self.admin_host,
            upstream_protocol: match self.upstream_protocol {
                UpstreamProtocol::Auto => Protocol::Auto,
                UpstreamProtocol::Http1 => Protocol::Http1,
                UpstreamProtocol::Http2 => Protocol::Http2,
            },
            upstream_ca: self.upstream_ca_file,
            workers: self.workers,
            trusted_proxies: peers(&self.trusted_proxy),
            forwarding_header: self.forwarded_header,
            proxy_senders: peers(&self.proxy_protocol),
            trust_everybody: self.trust_everybody,
            key_access: KeyAccess { secrets: self.secrets, allow: self.jwks_allow, local: false },
            ..GateConfig::default()
        };
        config.pool.max_connections = self.upstream_connections;
        config.bounds.max_connections = self.max_connections;
        config.bounds.max_connections_per_address = self.max_connections_per_address;
        config
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') {
            Ok(Listen::Unix(path.into()))
        } else {
            Err("a Unix socket is written as `unix:/path`".into())
        };
    }
    text.parse().map(Listen::Tcp).map_err(|_| "expected ADDR:PORT or unix:/path".into())
}

/// A listen address as it is written on the command line.
pub(crate) fn shown(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(addr) => addr.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let token = match (&args.token_file, std::env::var("KEEPGATE_TOKEN")) {
        (Some(path), _) => read_token(path)?,
        (None, Ok(token)) => token.trim().to_owned(),
        (None, Err(_)) => {
            return Err(usage(format!(
                "no token for the center: pass --token-file F (or set KEEPGATE_TOKEN_FILE, or KEEPGATE_TOKEN to the token itself); `keepgate token create --role gate --service {}` makes one",
                args.service
            )));
        }
    };
    let json = args.json;
    let config = GateConfig {
        center: args.center,
        token,
        center_ca: args.ca_file,
        insecure_center: args.insecure_center,
        service: args.service,
        upstream: args.upstream,
        data_dir: args.data,
        restart_age: match args.restart_age {
            AgeFrom::WallClock => RestartAge::WallClock,
            AgeFrom::Unknown => RestartAge::Unknown,
        },
        tls: args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles { cert, key }),
        ..args.traffic.config()
    };
    super::server_runtime()?.block_on(async {
        let mut stop = Stop::register()?;
        let (service, upstream, center) =
            (config.service.clone(), config.upstream.clone(), config.center.clone());
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let listen = config.listen.clone();
        let gate = start(config).await?;
        let url = url(scheme, &gate, &listen);
        let admin = gate.admin_addr().map(|addr| format!("http://{addr}"));
        if json {
            let screen =
                json!({ "gate": url, "admin": admin, "service": service, "upstream": upstream });
            style::print(&format!("{screen}\n"))?;
        } else {
            let paint = Paint::stdout();
            let mut screen = format!("{}  {url}  ->  {upstream}\n", paint.strong("keepgate gate"));
            screen += &format!("  service  {service}, following {center}\n");
            screen += &format!("  metrics  {}/metrics\n", admin.unwrap_or_default());
            style::print(&screen)?;
        }
        gate.run(async move { stop.wait_twice().await }).await.context("running the gate")?;
        Ok(Exit::Ok)
    })
}

/// Starts a gate; says which flag to change when a port is taken.
pub(crate) async fn start(config: GateConfig) -> anyhow::Result<Gate> {
    let listen = shown(&config.listen);
    let admin = config.admin_listen.map(|addr| addr.to_string()).unwrap_or_default();
    warn_of_clear_text(&config);
    Gate::start(config).await.map_err(|error| {
        let error = anyhow::Error::from(error);
        // Both listeners fail with the same words but for the address.
        if !admin.is_empty() && admin != listen && format!("{error:#}").contains(&admin) {
            named(error, "the gate's metrics", admin, "--admin-listen")
        } else {
            named(error, "the gate", listen, "--listen")
        }
    })
}

/// Says at each start that whoever is on the way reads keys and tokens.
fn warn_of_clear_text(config: &GateConfig) {
    if let Listen::Tcp(addr) = &config.listen
        && config.tls.is_none()
        && addr.ip().to_canonical().is_unspecified()
    {
        tracing::warn!(
            listen = %addr,
            "the gate listens in clear text on all addresses: API keys and tokens can be read on the \
             way; pass --tls-cert and --tls-key, or listen on the address of a proxy that speaks TLS"
        );
    }
}

/// Where callers connect, as a URL.
pub(crate) fn url(scheme: &str, gate: &Gate, listen: &Listen) -> String {
    match gate.addr() {
        Some(addr) => format!("{scheme}://{addr}"),
        None => shown(listen),
    }
}
