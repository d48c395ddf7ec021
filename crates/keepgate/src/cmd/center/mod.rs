//! `keepgate center`: the authorization center by itself.

mod oidc;
mod token;
mod upkeep;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use keepgate_center::store::Retention;
use keepgate_center::{Bounds, Center, CenterConfig, Certificate, TlsFiles, WebhookConfig};
use keepgate_gate::identify::access::{Asker, KeyAccess, Origin};
use keepgate_policy::duration;
use serde_json::json;

use crate::admin::{ADMIN_TOKEN_FILE, DATA_DEFAULT};
use crate::exit::{Exit, usage};
use crate::reread::Files;
use crate::signals::{Hangup, Stop};
use crate::style::{self, Paint};
use crate::telemetry;

/// Run an authorization center
///
/// It keeps policies, roles, routes, keys and tokens in an embedded store, and serves the admin
/// API, AuthZEN, the follow protocol and metrics on one port. The first start on an empty store
/// writes an admin token to DATA/admin.token and prints where.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  keepgate center --data /var/lib/keepgate
  keepgate center --database 'postgres://keepgate@db1,db2/keepgate?password_file=/etc/keepgate/db'
  keepgate center backup --data /var/lib/keepgate center-2026-01-31.kgbackup
  keepgate center token --data /var/lib/keepgate --expires 8h
  keepgate center --listen 0.0.0.0:7480 --tls-cert center.pem --tls-key center.key"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    upkeep: Option<upkeep::Upkeep>,
    /// Directory of the store, and of the first admin token; created if missing
    #[arg(long, env = "KEEPGATE_DATA", value_name = "DIR", default_value = DATA_DEFAULT)]
    data: PathBuf,
    #[command(flatten)]
    database: upkeep::DatabaseArgs,
    /// Where to listen; anything but loopback needs a certificate
    #[arg(long, env = "KEEPGATE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7480")]
    listen: SocketAddr,
    /// PEM file with the certificate chain, leaf first
    #[arg(long, env = "KEEPGATE_TLS_CERT", value_name = "F", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "KEEPGATE_TLS_KEY", value_name = "F", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// PEM file with the authorities whose certificates gates may show in place of a token
    #[arg(long, env = "KEEPGATE_CLIENT_CA", value_name = "F", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// The URL that callers reach it by: for the AuthZEN metadata, and as a name that requests may have
    /// in `Host`. Without it, a center on a loopback address answers to loopback names only
    #[arg(long, env = "KEEPGATE_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// How long a center that has run before waits for gates before it serves; a gate with a newer
    /// state shows that the store is outdated
    #[arg(
        long,
        env = "KEEPGATE_WITNESS_WAIT",
        value_name = "DURATION",
        value_parser = duration::parse_ms,
        default_value = "3s"
    )]
    witness_wait: u64,
    /// Largest `apply` in bytes; a million entities take about 170 million
    #[arg(long, env = "KEEPGATE_APPLY_BYTES", value_name = "BYTES", default_value_t = keepgate_center::APPLY_BYTES, value_parser = clap::value_parser!(u64).range(1..))]
    apply_bytes: u64,
    /// How long past states can be decided in, compared and gone back to
    #[arg(
        long,
        env = "KEEPGATE_HISTORY_AGE",
        value_name = "DURATION",
        value_parser = duration::parse_ms,
        default_value = "30d"
    )]
    history_age: u64,
    /// Bytes that may be kept for that; the oldest states go first
    #[arg(long, env = "KEEPGATE_HISTORY_BYTES", value_name = "BYTES", default_value_t = Retention::DEFAULT.past_bytes)]
    history_bytes: u64,
    /// Connections that one address may hold at the same time; a quarter of all unless given
    #[arg(long, env = "KEEPGATE_CONNECTIONS_OF_AN_ADDRESS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections_of_an_address: Option<u32>,
    /// A URL that is told of each new request for access, by POST, signed as Standard Webhooks has it
    #[arg(long, env = "KEEPGATE_WEBHOOK", value_name = "URL", requires = "webhook_secret")]
    webhook: Option<String>,
    /// File with the secret by which the webhook's messages are signed, 16 bytes at least
    #[arg(long, env = "KEEPGATE_WEBHOOK_SECRET", value_name = "F", requires = "webhook")]
    webhook_secret: Option<PathBuf>,
    #[command(flatten)]
    oidc: oidc::OidcArgs,
    /// Origins (https://host:port) that the center may ask; may be repeated. Plain HTTP and this host must
    /// be named. Default: HTTPS to any other host
    #[arg(long, env = "KEEPGATE_OUTBOUND_ALLOW", value_name = "ORIGIN", value_delimiter = ',')]
    outbound_allow: Vec<Origin>,
    /// Print where it listens as one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    if let Some(upkeep) = args.upkeep {
        return upkeep::run(upkeep);
    }
    let json = args.json;
    let telemetry = telemetry::start("keepgate-center")?;
    super::server_runtime()?.block_on(async {
        let mut stop = Stop::register()?;
        let hangup = Hangup::register()?;
        let data = args.data.clone();
        let secure = args.tls_cert.is_some();
        let database = args.database.address()?;
        let at = database.as_ref().map(ToString::to_string);
        let (tracing, lost) = (telemetry.tracing.clone(), Arc::clone(&telemetry.lost));
        let config = CenterConfig { database, tracing, lost, ..config(args)? };
        let center = start(config, "--listen").await?;
        telemetry.show(center.metrics());
        let scheme = if secure { "https" } else { "http" };
        let url = format!("{scheme}://{}", center.addr());
        let written = center.admin_token_file().map(|path| path.display().to_string());
        if json {
            style::print(&format!("{}\n", json!({ "center": url, "admin_token_file": written })))?;
        } else {
            let paint = Paint::stdout();
            let mut screen = format!("{}  {url}\n", paint.strong("keepgate center"));
            if let Some(at) = at {
                screen += &format!("  database     {at}\n");
            }
            screen += &format!("  data         {}\n", data.display());
            screen += &match written {
                Some(path) => format!("  admin token  {path} (written now, mode 0600)\n"),
                None => format!(
                    "  admin token  made at the first start, in {}\n",
                    data.join(ADMIN_TOKEN_FILE).display()
                ),
            };
            style::print(&screen)?;
        }
        let rereading = tokio::spawn(reread(hangup, center.certificate()));
        let ran = center.run(async move { stop.wait_twice().await }).await;
        rereading.abort();
        ran.context("running the center")?;
        Ok(Exit::Ok)
    })
}

/// Reads the certificate anew on SIGHUP and when its files change. Runs until it is dropped.
async fn reread(hangup: Hangup, certificate: Option<Certificate>) {
    let paths = certificate.iter().flat_map(Certificate::files).collect();
    let mut files = Files::new(hangup, paths).await;
    loop {
        let asked = files.next().await;
        let Some(certificate) = certificate.clone() else {
            tracing::info!("SIGHUP: there is no file to read anew");
            continue;
        };
        let read = tokio::task::spawn_blocking(move || certificate.reload()).await;
        match read {
            Ok(Ok(())) => tracing::info!(asked, "the certificate was read anew"),
            Ok(Err(error)) => tracing::warn!(
                error = keepgate_observe::chain(&error),
                "the certificate cannot be used as it is now; what was used before stays"
            ),
            // The runtime is going.
            Err(_) => return,
        }
    }
}

fn config(args: Args) -> anyhow::Result<CenterConfig> {
    let webhook =
        args.webhook.zip(args.webhook_secret).map(|(url, file)| webhook(url, &file)).transpose()?;
    let tls = args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles { cert, key });
    let bounds = Bounds {
        apply_bytes: args.apply_bytes,
        connections_of_an_address: args.connections_of_an_address.map(|n| n as usize),
        ..Bounds::default()
    };
    let retention = Retention {
        past_ms: args.history_age,
        past_bytes: args.history_bytes,
        ..Retention::DEFAULT
    };
    Ok(CenterConfig {
        retention,
        webhook,
        oidc: args.oidc.config()?,
        outbound: KeyAccess {
            allow: args.outbound_allow,
            asker: Asker::Center,
            ..KeyAccess::default()
        },
        tls,
        client_ca: args.client_ca,
        public_url: args.public_url,
        witness_wait: Duration::from_millis(args.witness_wait),
        bounds,
        ..CenterConfig::new(args.data, args.listen)
    })
}

fn webhook(url: String, file: &Path) -> anyhow::Result<WebhookConfig> {
    let shown = file.display();
    let secret = std::fs::read_to_string(file)
        .map_err(|e| usage(format!("`--webhook-secret {shown}` cannot be read: {e}")))?;
    Ok(WebhookConfig { url, secret })
}

/// Starts a center; says which flag to change when its port is taken.
pub(crate) async fn start(config: CenterConfig, flag: &str) -> anyhow::Result<Center> {
    let listen = config.listen;
    Center::start(config).await.map_err(|error| named(error.into(), "the center", listen, flag))
}

/// An error of a start; where the cause is a taken port, with the flag that chooses another.
pub(crate) fn named(
    error: anyhow::Error,
    what: &str,
    listen: impl std::fmt::Display,
    flag: &str,
) -> anyhow::Error {
    let kind =
        error.chain().find_map(|e| e.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    match kind {
        Some(std::io::ErrorKind::AddrInUse) => usage(format!(
            "{what} cannot listen on `{listen}`: another process listens there already; stop it (`ss -ltnp` names it), or choose another address with {flag} ADDR"
        )),
        Some(std::io::ErrorKind::AddrNotAvailable) => usage(format!(
            "{what} cannot listen on `{listen}`: this host has no such address; choose another with {flag} ADDR"
        )),
        _ => error.context(format!("{what} does not start")),
    }
}
