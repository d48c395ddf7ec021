//! `keepgate gate`: a gate by itself, before one upstream or, with a file, before those of many
//! sites, following a center.

mod access_log;
pub(crate) mod reload;
mod settings;
pub(crate) mod sites;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::ValueEnum;
use keepgate_client::pool::{Protocol, Sticky};
use keepgate_client::replica::RestartAge;
use keepgate_gate::identify::access::{KeyAccess, Origin};
use keepgate_gate::{
    AcmeConfig, Gate, GateConfig, Listen, ListenError, Peers, TlsFiles, UnixAccess, UpstreamHost,
};
use keepgate_policy::identify::AddressRange;
use serde_json::json;

use crate::admin::{CENTER_DEFAULT, read_token};
use crate::cmd::center::named;
use crate::exit::{Exit, usage};
use crate::signals::{Hangup, Stop};
use crate::style::{self, Paint};
use crate::telemetry;

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
  keepgate gate --service orders --upstream unix:/run/orders.sock --listen unix:/run/gate.sock
  keepgate gate --service orders --check-listen 127.0.0.1:8090      answers another proxy
  keepgate gate --config gate.toml --check-config
  keepgate gate --config gate.toml        many sites; see docs/gate.md")]
pub(crate) struct Args {
    /// The center's URL; may be repeated for several centers of one store, at most 16. The gate
    /// follows one of them, and the next one when that fails
    #[arg(
        long,
        env = "KEEPGATE_CENTER",
        value_name = "URL",
        value_delimiter = ',',
        default_value = CENTER_DEFAULT
    )]
    center: Vec<String>,
    /// File with the gate's token; KEEPGATE_TOKEN may hold the token itself
    #[arg(long, env = "KEEPGATE_TOKEN_FILE", value_name = "F")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificates to trust for the center in place of this host's store
    #[arg(long, env = "KEEPGATE_CA_FILE", value_name = "F")]
    ca_file: Option<PathBuf>,
    /// PEM file with the gate's own certificate chain for the center, leaf first: it may take the place
    /// of a token
    #[arg(long, env = "KEEPGATE_CENTER_CERT", value_name = "F", requires = "center_key")]
    center_cert: Option<PathBuf>,
    /// PEM file with that certificate's private key
    #[arg(long, env = "KEEPGATE_CENTER_KEY", value_name = "F", requires = "center_cert")]
    center_key: Option<PathBuf>,
    /// Follow a center on another host over plain HTTP, for tests: anyone on the network path can
    /// read the token and change the permissions
    #[arg(long, env = "KEEPGATE_INSECURE_CENTER")]
    insecure_center: bool,
    /// The service that this gate protects; with several sites, the file names each one's
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME", required = true)]
    service: Option<String>,
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
    /// Unix socket at which a new gate takes the place of a running one, which passes its listeners on
    /// and drains: start both with the same path
    #[arg(long, env = "KEEPGATE_TAKEOVER", value_name = "PATH")]
    takeover: Option<PathBuf>,
    /// Print where it listens as one JSON object
    #[arg(long)]
    json: bool,
    /// Check the configuration, print everything that is wrong with it, and end
    #[arg(long)]
    check_config: bool,
    /// The server to protect: http://host:port, https://host or unix:/path; may be repeated for a
    /// server with several addresses. A gate with --check-listen needs none
    #[arg(long, env = "KEEPGATE_UPSTREAM", value_name = "URL", value_delimiter = ',')]
    upstream: Vec<String>,
    /// The file with the tables of sites and upstreams; filled in where --config has them
    #[arg(long, hide = true)]
    sites: Option<PathBuf>,
}

/// What `gate` and `up` have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct Traffic {
    /// Where callers connect: ADDR:PORT, localhost:PORT, :PORT for all addresses, or unix:/path;
    /// may be repeated. Default: 127.0.0.1:8080; nowhere with --check-listen and no upstream
    #[arg(long, env = "KEEPGATE_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    pub(crate) listen: Vec<Listen>,
    /// Where other proxies (Envoy, nginx, Caddy, Traefik, HAProxy) ask whether a request that they
    /// forward is allowed, and programs ask by AuthZEN: as --listen; may be repeated
    #[arg(long, env = "KEEPGATE_CHECK_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    pub(crate) check_listen: Vec<Listen>,
    /// Addresses of the proxies that may ask there, `unix` for every user whom the permissions of the
    /// Unix socket let connect; may be repeated. Others are not answered. Default: this host, and
    /// over a Unix socket the user that the gate runs as
    #[arg(long, env = "KEEPGATE_CHECK_PEER", value_name = "RANGE", value_delimiter = ',')]
    pub(crate) check_peer: Vec<Peer>,
    /// PEM file with the certificate chain for callers, leaf first
    #[arg(long, env = "KEEPGATE_TLS_CERT", value_name = "F", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "KEEPGATE_TLS_KEY", value_name = "F", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// PEM file with the authorities whose certificates identify callers; with it, callers are asked
    /// for a certificate in TLS, and may go without
    #[arg(long, env = "KEEPGATE_CLIENT_CA", value_name = "F")]
    pub(crate) client_ca: Option<PathBuf>,
    /// Permissions of the gate's Unix sockets, such as 0660; default: what the umask leaves
    #[arg(long, env = "KEEPGATE_UNIX_MODE", value_name = "MODE", value_parser = mode)]
    pub(crate) unix_mode: Option<u32>,
    /// Group of the gate's Unix sockets, by name or number; default: the gate's own
    #[arg(long, env = "KEEPGATE_UNIX_GROUP", value_name = "GROUP", value_parser = group)]
    pub(crate) unix_group: Option<u32>,
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
    /// How to speak to the upstream
    #[arg(
        long,
        env = "KEEPGATE_UPSTREAM_PROTOCOL",
        value_enum,
        value_name = "P",
        default_value = "auto"
    )]
    pub(crate) upstream_protocol: UpstreamProtocol,
    /// A local address from which connections to the upstream are opened; may be repeated: each has
    /// ports of its own. Default: the one that the routing table chooses
    #[arg(long, env = "KEEPGATE_SOURCE", value_name = "ADDR", value_delimiter = ',', value_parser = source)]
    pub(crate) source: Vec<IpAddr>,
    /// PEM file with the certificates to trust for the upstream in place of this host's store
    #[arg(long, env = "KEEPGATE_UPSTREAM_CA_FILE", value_name = "F")]
    pub(crate) upstream_ca_file: Option<PathBuf>,
    /// PEM file with the gate's own certificate chain for the upstream, leaf first
    #[arg(long, env = "KEEPGATE_UPSTREAM_CERT", value_name = "F", requires = "upstream_key")]
    pub(crate) upstream_cert: Option<PathBuf>,
    /// PEM file with that certificate's private key
    #[arg(long, env = "KEEPGATE_UPSTREAM_KEY", value_name = "F", requires = "upstream_cert")]
    pub(crate) upstream_key: Option<PathBuf>,
    /// A header whose value keeps a caller at one of several addresses of the upstream
    #[arg(
        long,
        env = "KEEPGATE_UPSTREAM_STICKY_HEADER",
        value_name = "NAME",
        conflicts_with = "upstream_sticky_cookie"
    )]
    pub(crate) upstream_sticky_header: Option<http::HeaderName>,
    /// A cookie whose value does so; the upstream sets it
    #[arg(long, env = "KEEPGATE_UPSTREAM_STICKY_COOKIE", value_name = "NAME", value_parser = cookie)]
    pub(crate) upstream_sticky_cookie: Option<String>,
    /// A path that each address of the upstream is asked for now and then; one that fails gets no
    /// requests until it succeeds
    #[arg(long, env = "KEEPGATE_UPSTREAM_CHECK_PATH", value_name = "PATH")]
    pub(crate) upstream_check_path: Option<String>,
    /// What the upstream sees as Host
    #[arg(
        long,
        env = "KEEPGATE_UPSTREAM_HOST",
        value_enum,
        value_name = "HOST",
        default_value = "auto"
    )]
    pub(crate) upstream_host: HostOfUpstream,
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
    /// Where callers find a page about the API, below each site's path; empty: nowhere. A 429 leads
    /// there, unless the service has its own `help`
    #[arg(
        long,
        env = "KEEPGATE_HELP_PAGE",
        value_name = "PATH",
        default_value = keepgate_gate::config::sites::HELP_PAGE,
        value_parser = help_page
    )]
    pub(crate) help_page: String,
    #[command(flatten)]
    access_log: access_log::AccessLog,
    #[command(flatten)]
    acme: Acme,
    /// Worker threads; 0: one a core
    #[arg(long, env = "KEEPGATE_WORKERS", value_name = "N", default_value_t = 0)]
    pub(crate) workers: usize,
    #[command(flatten)]
    pub(crate) settings: settings::Settings,
}

/// Certificates that the gate obtains.
#[derive(Debug, clap::Args)]
struct Acme {
    /// A host name for which the gate obtains and renews a certificate by ACME; callers and the
    /// authority must reach the gate's port as 443; may be repeated
    #[arg(long, env = "KEEPGATE_ACME_HOST", value_name = "NAME", value_delimiter = ',')]
    acme_host: Vec<String>,
    /// Directory for the ACME account, certificates and keys
    #[arg(long, env = "KEEPGATE_ACME_DIR", value_name = "DIR")]
    acme_dir: Option<PathBuf>,
    /// Accept the terms of service of the certificate authority
    #[arg(long, env = "KEEPGATE_ACME_ACCEPT_TERMS")]
    acme_accept_terms: bool,
    /// Where the authority may write to, such as mailto:ops@example.com
    #[arg(long, env = "KEEPGATE_ACME_CONTACT", value_name = "URL")]
    acme_contact: Option<String>,
    /// The URL of the authority's directory
    #[arg(
        long,
        env = "KEEPGATE_ACME_DIRECTORY",
        value_name = "URL",
        default_value = keepgate_gate::LETS_ENCRYPT
    )]
    acme_directory: String,
    /// PEM file with the certificates to trust for the authority in place of this host's store
    #[arg(long, env = "KEEPGATE_ACME_CA_FILE", value_name = "F")]
    acme_ca_file: Option<PathBuf>,
}

impl Acme {
    fn config(self) -> Option<AcmeConfig> {
        (!self.acme_host.is_empty()).then(|| AcmeConfig {
            directory: self.acme_directory,
            hosts: self.acme_host,
            contact: self.acme_contact,
            dir: self.acme_dir.unwrap_or_default(),
            accepts_terms: self.acme_accept_terms,
            ca: self.acme_ca_file,
        })
    }
}

/// What the upstream sees as `Host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostOfUpstream {
    /// The upstream's own over TLS, so that it agrees with the name in TLS (SNI); else the caller's
    Auto,
    /// The caller's
    Caller,
    /// The upstream's own
    Upstream,
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

fn help_page(text: &str) -> Result<String, String> {
    match keepgate_gate::config::sites::wrong_help_page(text) {
        None => Ok(text.to_owned()),
        Some(wrong) => Err(wrong),
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
    ///
    /// # Errors
    /// A file that it names cannot be read.
    pub(crate) fn config(self) -> anyhow::Result<GateConfig> {
        let mut listen = self.listen.into_iter();
        let defaults = GateConfig::default();
        let mut config = GateConfig {
            listen: listen.next().unwrap_or(defaults.listen),
            more_listen: listen.collect(),
            check_listen: self.check_listen,
            check_peers: match self.check_peer.as_slice() {
                [] => defaults.check_peers,
                named => peers(named),
            },
            unix_access: UnixAccess { mode: self.unix_mode, group: self.unix_group },
            tls: self.tls_cert.zip(self.tls_key).map(|(cert, key)| TlsFiles { cert, key }),
            client_ca: self.client_ca,
            admin_listen: Some(self.admin_listen),
            admin_hosts: self.admin_host,
            upstream_protocol: match self.upstream_protocol {
                UpstreamProtocol::Auto => Protocol::Auto,
                UpstreamProtocol::Http1 => Protocol::Http1,
                UpstreamProtocol::Http2 => Protocol::Http2,
            },
            upstream_host: match self.upstream_host {
                HostOfUpstream::Auto => UpstreamHost::Auto,
                HostOfUpstream::Caller => UpstreamHost::Caller,
                HostOfUpstream::Upstream => UpstreamHost::Upstream,
            },
            upstream_sticky: self
                .upstream_sticky_header
                .map(Sticky::Header)
                .or(self.upstream_sticky_cookie.map(Sticky::Cookie)),
            upstream_check: self.upstream_check_path,
            upstream_sources: sources(self.source),
            upstream_ca: self.upstream_ca_file,
            upstream_client: self
                .upstream_cert
                .zip(self.upstream_key)
                .map(|(cert, key)| TlsFiles { cert, key }),
            workers: self.workers,
            records: self.access_log.config()?,
            acme: self.acme.config(),
            trusted_proxies: peers(&self.trusted_proxy),
            forwarding_header: self.forwarded_header,
            proxy_senders: peers(&self.proxy_protocol),
            trust_everybody: self.trust_everybody,
            help_page: self.help_page,
            key_access: KeyAccess {
                secrets: self.secrets,
                allow: self.jwks_allow,
                ..KeyAccess::default()
            },
            ..GateConfig::default()
        };
        self.settings.apply(&mut config);
        Ok(config)
    }
}

/// A local address.
fn source(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => Ok(ip),
        _ => Err(format!("expected an IP address of this host, such as 10.0.0.5, got `{text}`")),
    }
}

/// Each once.
fn sources(named: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut sources = Vec::new();
    for ip in named {
        if !sources.contains(&ip) {
            sources.push(ip);
        }
    }
    sources
}

/// The name of a cookie.
fn cookie(text: &str) -> Result<String, String> {
    match keepgate_gate::config::file::is_cookie_name(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected the name of a cookie, got `{text}`")),
    }
}

/// Permissions in octal.
fn mode(text: &str) -> Result<u32, String> {
    let is_octal =
        (1..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if is_octal && mode <= 0o777 => Ok(mode),
        _ => Err(format!("expected permissions in octal, such as 0660, got `{text}`")),
    }
}

/// The id of a group, by number or as `/etc/group` names it.
fn group(text: &str) -> Result<u32, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let groups = std::fs::read_to_string("/etc/group")
        .map_err(|error| format!("cannot read /etc/group: {error}; pass the group's number"))?;
    let id = groups.lines().find_map(|line| {
        let mut members = line.split(':');
        (members.next() == Some(text)).then(|| members.nth(1)?.parse().ok()).flatten()
    });
    id.ok_or_else(|| {
        format!(
            "expected a group in /etc/group or its number, got `{text}`; `getent group` lists them"
        )
    })
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let (json, only_check) = (args.json, args.check_config);
    let named = match &args.sites {
        None => args.service.clone(),
        Some(_) => None,
    };
    let token = token(&args.token_file, args.center_cert.is_some(), named.as_deref());
    let file = crate::config::file().map(|file| reload::File { path: file, read: read_again });
    let watched = reload::Watched { token: args.token_file.clone(), file };
    let config = config(args)?;
    if only_check || !config.sites.is_empty() {
        let mut wrong = sites::faults(&config);
        wrong.extend(token.as_ref().err().filter(|_| only_check).map(|error| format!("{error:#}")));
        if !wrong.is_empty() {
            return Err(usage(wrong.join("\nerror: ")));
        }
    }
    if only_check {
        style::print(&sites::summary(&config))?;
        return Ok(Exit::Ok);
    }
    let telemetry = telemetry::start("keepgate-gate")?;
    let (tracing, lost) = (telemetry.tracing.clone(), Arc::clone(&telemetry.lost));
    let config = GateConfig { token: token?, tracing, lost, ..config };
    super::server_runtime()?.block_on(async {
        let mut stop = Stop::register()?;
        let hangup = Hangup::register()?;
        let (scheme, listen) = (sites::scheme(&config), config.listen.clone());
        let check_listen = config.check_listen.clone();
        let (upstream, center) = (sites::upstreams(&config), config.centers.clone());
        let services = sites::services(&config);
        let gate = start(config).await?;
        telemetry.show(gate.metrics());
        let url = url(scheme, &gate, &listen);
        let checks = checks(&gate, &check_listen);
        let admin = gate.admin_addr().map(|addr| format!("http://{addr}"));
        if json {
            let mut screen = json!({ "gate": url, "admin": admin });
            let one = |all: &[String]| match all {
                [one] => json!(one),
                several => json!(several),
            };
            if let Some(screen) = screen.as_object_mut() {
                screen.insert("service".to_owned(), one(&services));
                screen.insert("upstream".to_owned(), one(&upstream));
                screen.insert("center".to_owned(), one(&center));
                if !checks.is_empty() {
                    screen.insert("check".to_owned(), one(&checks));
                }
            }
            style::print(&format!("{screen}\n"))?;
        } else {
            let paint = Paint::stdout();
            let (noun, shown) = match services.as_slice() {
                [one] => ("service ", one.clone()),
                several => ("services", several.join(", ")),
            };
            let upstream = upstream.join(", ");
            let mut screen = match listen {
                Listen::Nowhere => format!("{}\n", paint.strong("keepgate gate")),
                _ => format!("{}  {url}  ->  {upstream}\n", paint.strong("keepgate gate")),
            };
            if !checks.is_empty() {
                screen += &format!("  checks   {}  for other proxies\n", checks.join(", "));
            }
            let of = if center.len() > 1 { "one of " } else { "" };
            let center = center.join(", ");
            screen += &format!("  {noun} {shown}, following {of}{center}\n");
            screen += &format!("  metrics  {}/metrics\n", admin.unwrap_or_default());
            style::print(&screen)?;
        }
        let reloading = tokio::spawn(reload::run(hangup, gate.reloader(), watched));
        let ended = gate.run(async move { stop.wait_twice().await }).await;
        reloading.abort();
        ended.context("running the gate")?;
        Ok(Exit::Ok)
    })
}

/// The gate's token; `service` is the only one, if there is one. Empty: a certificate takes its place.
fn token(
    file: &Option<PathBuf>,
    has_certificate: bool,
    service: Option<&str>,
) -> anyhow::Result<String> {
    match (file, std::env::var("KEEPGATE_TOKEN")) {
        (None, Err(_)) if has_certificate => Ok(String::new()),
        (Some(path), _) => read_token(path),
        (None, Ok(token)) => Ok(token.trim().to_owned()),
        (None, Err(_)) => Err(usage(format!(
            "no token for the center: pass --token-file F (or set KEEPGATE_TOKEN_FILE, or KEEPGATE_TOKEN to the token itself); `keepgate token create --role gate --service {}` makes one",
            service.unwrap_or("A --service B")
        ))),
    }
}

/// The configuration, but for the token.
fn config(args: Args) -> anyhow::Result<GateConfig> {
    let is_told_to_listen = !args.traffic.listen.is_empty();
    let mut config = GateConfig {
        centers: args.center,
        center_ca: args.ca_file,
        center_client: args
            .center_cert
            .zip(args.center_key)
            .map(|(cert, key)| TlsFiles { cert, key }),
        insecure_center: args.insecure_center,
        data_dir: args.data,
        restart_age: match args.restart_age {
            AgeFrom::WallClock => RestartAge::WallClock,
            AgeFrom::Unknown => RestartAge::Unknown,
        },
        takeover: args.takeover,
        ..args.traffic.config()?
    };
    match (&args.sites, args.service, args.upstream.as_slice()) {
        (Some(path), None, []) => sites::read(path, &mut config)?,
        (Some(path), service, _) => {
            let flag = if service.is_some() { "--service" } else { "--upstream" };
            return Err(usage(format!(
                "{flag} is for a gate with one site, and `{}` has [[site]] tables; name the service and upstream there, and leave {flag} (and its environment variable) out",
                path.display()
            )));
        }
        (None, service, upstream) => {
            config.service = service.unwrap_or_default();
            config.upstream = upstream.join(",");
        }
    }
    if config.upstream.is_empty() && config.upstreams.is_empty() {
        if config.check_listen.is_empty() {
            return Err(usage(
                "no upstream: pass --upstream URL (or set KEEPGATE_UPSTREAM) with the server to \
                 protect, or --check-listen ADDR if another proxy forwards the requests",
            ));
        }
        if is_told_to_listen {
            return Err(usage(
                "--listen is for requests that the gate forwards, and there is no upstream: pass \
                 --upstream URL, or leave --listen (and KEEPGATE_LISTEN) out",
            ));
        }
        config.listen = Listen::Nowhere;
    }
    Ok(config)
}

/// The configuration as flags, environment and file say it now.
fn read_again() -> anyhow::Result<GateConfig> {
    let cli = crate::config::parse(std::env::args_os().collect())
        .map_err(|stop| anyhow::anyhow!(stop.text()))?;
    let super::Command::Gate(args) = cli.command else {
        anyhow::bail!("the command line is not one of a gate");
    };
    let config = config(args)?;
    match sites::faults(&config) {
        faults if faults.is_empty() => Ok(config),
        faults => anyhow::bail!(faults.join("\nerror: ")),
    }
}

/// Starts a gate; says which flag to change when a port is taken.
pub(crate) async fn start(config: GateConfig) -> anyhow::Result<Gate> {
    let listen = config.listen.to_string();
    let checks: Vec<String> = config.check_listen.iter().map(Listen::to_string).collect();
    let is_of_callers = |place: &str| {
        let mut all = config.more_listen.iter().chain([&config.listen]);
        all.any(|listen| listen.to_string() == place)
    };
    let admin = config.admin_listen.map(|addr| addr.to_string()).unwrap_or_default();
    warn_of_clear_text(&config);
    let is_of_admin = !is_of_callers(&admin);
    Gate::start(config).await.map_err(|error| {
        let error = anyhow::Error::from(error);
        let place = error.chain().find_map(|e| e.downcast_ref()).map(|error| match error {
            ListenError::Tcp { addr, .. } => addr.to_string(),
            ListenError::Unix { path, .. } => format!("unix:{path}"),
        });
        // Both sorts of listeners fail with the same words but for the address.
        match place {
            Some(place) if place == admin && is_of_admin => {
                named(error, "the gate's metrics", admin, "--admin-listen")
            }
            Some(place) if checks.contains(&place) => {
                named(error, "the check listener", place, "--check-listen")
            }
            place => named(error, "the gate", place.unwrap_or(listen), "--listen"),
        }
    })
}

/// Says at each start that whoever is on the way reads keys and tokens.
fn warn_of_clear_text(config: &GateConfig) {
    let is_open = |listen: &&Listen| match listen {
        Listen::Tcp(addr) => addr.ip().to_canonical().is_unspecified(),
        Listen::Any(_) => true,
        Listen::Localhost(_) | Listen::Unix(_) | Listen::Nowhere => false,
    };
    let is_beyond = |listen: &&Listen| match listen {
        Listen::Tcp(addr) => !addr.ip().to_canonical().is_loopback(),
        listen => is_open(listen),
    };
    if let Some(listen) = config.check_listen.iter().find(is_beyond) {
        tracing::warn!(
            %listen,
            "the check listener speaks clear text beyond this host: what proxies send of their \
             callers' credentials can be read on the way; listen on 127.0.0.1 or a Unix socket \
             beside the proxy, or on a network that nobody else can read"
        );
    }
    let open = [&config.listen].into_iter().chain(&config.more_listen).find(is_open);
    if let Some(listen) = open
        && sites::scheme(config) == "http"
    {
        tracing::warn!(
            %listen,
            "the gate listens in clear text on all addresses: API keys and tokens can be read on the \
             way; pass --tls-cert and --tls-key, or listen on the address of a proxy that speaks TLS"
        );
    }
}

/// Where other proxies ask: URLs and Unix sockets.
fn checks(gate: &Gate, listens: &[Listen]) -> Vec<String> {
    let addrs = gate.check_addrs().iter().map(|addr| format!("http://{addr}"));
    let sockets = listens.iter().filter(|listen| matches!(listen, Listen::Unix(_)));
    addrs.chain(sockets.map(Listen::to_string)).collect()
}

/// Where callers connect, as a URL.
pub(crate) fn url(scheme: &str, gate: &Gate, listen: &Listen) -> String {
    match gate.addr() {
        Some(addr) => format!("{scheme}://{addr}"),
        None => listen.to_string(),
    }
}
