//! `keepgate up`: center and gate in one process.
//!
//! One linear function: bind, set up what is missing (idempotent: a second start finds it), run
//! until told to stop. The set-up talks to the center's admin API like anyone, with a token that
//! lives in memory and is revoked before the gate starts. [`started`] tears down what is up,
//! however the function ends.

mod first_steps;
mod screen;
mod set_up;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::Method;
use keepgate_center::CenterConfig;
use keepgate_center::token::Role;

use crate::admin::{Admin, DATA_DEFAULT, Refusal};
use crate::cmd::apply::{Bundle, show_problems};
use crate::cmd::gate::Traffic;
use crate::cmd::{center, gate};
use crate::demo;
use crate::exit::{Exit, usage};
use crate::origin::Origin;
use crate::secret::{self, TemporaryDirectory};
use crate::signals::{Hangup, Stop};
use crate::started::{self, Started};
use crate::style::{self, Paint};
use crate::telemetry::{self, Telemetry};

use screen::Screen;
use set_up::{SetUp, Wanted};

/// How long the start screen waits for the gate's first replica.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Run center and gate in one process
///
/// Protects the server at --upstream. The first start makes the store, an admin token, the
/// service and the gate's token, all in --data; later starts find them there. With --demo it
/// adds a small orders service with two users and a program, and prints curl lines to try.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate up --demo
  keepgate up --upstream http://127.0.0.1:3000 --policy ./policy
  keepgate up --upstream unix:/run/app.sock --listen 0.0.0.0:8080 --data /var/lib/keepgate")]
pub(crate) struct Args {
    /// The server to protect: http://host:port, https://host or unix:/path; may be repeated for a
    /// server with several addresses
    #[arg(
        long,
        env = "KEEPGATE_UPSTREAM",
        value_name = "URL",
        value_delimiter = ',',
        required_unless_present = "demo"
    )]
    upstream: Vec<String>,
    /// Where the center listens
    #[arg(long, env = "KEEPGATE_UP_CENTER", value_name = "ADDR", default_value = "127.0.0.1:7480")]
    center: SocketAddr,
    /// Directory for all data; created if missing. With --demo the default is a temporary directory
    /// that is removed at the end
    #[arg(long, env = "KEEPGATE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Directory to apply at the start, as `keepgate apply` does. What a command has changed or taken
    /// away since stays so, and is named
    #[arg(long, env = "KEEPGATE_POLICY", value_name = "DIR", conflicts_with = "demo")]
    policy: Option<PathBuf>,
    /// The service to protect; default: the one in --policy, else the only one there is
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME", conflicts_with_all = ["demo", "policy"])]
    service: Option<String>,
    /// Add a small orders service to try it on
    #[arg(long, env = "KEEPGATE_DEMO")]
    demo: bool,
    /// Print where everything is as one JSON object in place of the start screen
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    traffic: Traffic,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let telemetry = telemetry::start("keepgate")?;
    started::run(super::server_runtime()?, async |started| {
        let mut stop = Stop::register()?;
        up(started, args, &telemetry, stop.wait_twice()).await
    })
}

/// Starts one part after the other. What is started is torn down in reverse however this ends: the
/// gate before the center, so that requests under way still find what they need.
async fn up(
    started: &mut Started,
    args: Args,
    telemetry: &Telemetry,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Exit> {
    let hangup = Hangup::register()?;
    let data = Data::new(&args)?;
    let (dir, temporary) = (data.path().to_owned(), matches!(data, Data::Temporary(_)));
    started.keep("the data directory", data);
    let bundle = match (&args.policy, args.demo) {
        (Some(dir), _) => Some(Bundle::read(dir, args.service.as_deref())?),
        (None, true) => Some(demo::bundle()?),
        (None, false) => None,
    };
    let upstream = match (args.upstream.as_slice(), args.demo) {
        (urls @ [_, ..], _) => urls.join(","),
        ([], true) => {
            let orders = demo::orders::Orders::start().await?;
            let url = orders.url();
            started.keep("the orders service", orders);
            url
        }
        ([], false) => return Err(usage("pass --upstream URL, or --demo")),
    };

    // Its only gate is in this process: nobody outside can hold more than the store.
    let config =
        CenterConfig { witness_wait: Duration::ZERO, ..CenterConfig::new(&dir, args.center) };
    let traced = || (telemetry.tracing.clone(), Arc::clone(&telemetry.lost));
    let (tracing, lost) = traced();
    let center = center::start(CenterConfig { tracing, lost, ..config }, "--center").await?;
    telemetry.show(center.metrics());
    let center_url = format!("http://{}", center.addr());
    let setup_token = center.create_token(Role::Admin, "", "keepgate up, while it starts").await?;
    started.serve("the center", |closing| async move {
        center.run(closing.wait()).await.context("running the center")
    });

    let mut admin = connect(&center_url, &setup_token)?;
    let mut revoking = connect(&center_url, &setup_token)?;
    started.undo_later("the token of the start", async move {
        set_up::revoke(&mut revoking, &setup_token).await
    });
    let set_up = match SetUp::ensure(&mut admin, &args.wanted(), bundle.as_ref(), &dir).await {
        Ok(set_up) => set_up,
        Err(error) => match (error.downcast_ref::<Refusal>(), &args.policy) {
            (Some(refusal), Some(files)) if show_problems(files, refusal) => {
                return Ok(Exit::Failure);
            }
            _ => return Err(error),
        },
    };
    started.end_last().await?;

    let (tracing, lost) = traced();
    let mut config = keepgate_gate::GateConfig {
        tracing,
        lost,
        centers: vec![center_url.clone()],
        token: set_up.gate_token.clone(),
        service: set_up.service.clone(),
        upstream: upstream.clone(),
        data_dir: Some(dir.join("replica")),
        ..args.traffic.config()?
    };
    // Whoever runs both tries it out, or is the one who edits the service too.
    config.key_access.local = true;
    let listen = config.listen.clone();
    let scheme = gate::sites::scheme(&config);
    let gate = gate::start(config).await?;
    telemetry.show(gate.metrics());
    let watched = gate::reload::Watched { token: None, file: None };
    let reloading = tokio::spawn(gate::reload::run(hangup, gate.reloader(), watched));
    let screen = Screen {
        gate: gate::url(scheme, &gate, &listen),
        metrics: gate.admin_addr().map(|addr| format!("http://{addr}")),
        upstream,
        center: center_url,
        data: dir,
        temporary,
        set_up,
    };
    started.serve("the gate", |closing| async move {
        let ended = gate.run(closing.wait()).await;
        reloading.abort();
        ended.context("running the gate")
    });
    if let Some(metrics) = &screen.metrics {
        wait_until_ready(metrics).await;
    }
    let shown = if args.json { screen.json() } else { screen.text(Paint::stdout()) };
    style::print(&shown)?;

    tokio::select! {
        () = stop => Ok(Exit::Ok),
        error = started.failure() => Err(error),
    }
}

fn connect(center: &str, token: &str) -> anyhow::Result<Admin> {
    Admin::new(Origin::new(center, None)?, center.to_owned(), token)
}

impl Args {
    fn wanted(&self) -> Wanted<'_> {
        let (service, policy) = (self.service.as_deref(), self.policy.as_deref());
        Wanted { service, policy, demo: self.demo }
    }
}

/// The data directory, or one that goes away.
enum Data {
    Kept(PathBuf),
    Temporary(TemporaryDirectory),
}

impl Data {
    fn new(args: &Args) -> anyhow::Result<Data> {
        match &args.data {
            Some(path) => Data::kept(path.clone()),
            None if args.demo => Ok(Data::Temporary(TemporaryDirectory::new("keepgate-demo")?)),
            None => Data::kept(DATA_DEFAULT.into()),
        }
    }

    fn kept(path: PathBuf) -> anyhow::Result<Data> {
        secret::directory(&path)?;
        Ok(Data::Kept(path))
    }

    fn path(&self) -> &Path {
        match self {
            Data::Kept(path) => path,
            Data::Temporary(directory) => directory.path(),
        }
    }
}

/// Waits, within bounds, until the gate can decide, so that a pasted line works.
async fn wait_until_ready(metrics: &str) {
    let ready = async {
        let Ok(mut origin) = Origin::new(metrics, None) else { return };
        loop {
            let answer = origin.send(Method::GET, "/readyz", &[], None).await;
            if answer.is_ok_and(|answer| answer.status.is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(READY_TIMEOUT, ready).await.is_err() {
        tracing::warn!("the gate has no replica yet; it answers 503 until it has one");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use clap::Parser as _;
    use keepgate_api::Tokens;
    use keepgate_center::Center;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Line::parse_from(["up"].iter().chain(line)).args
    }

    fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    /// The gate's port is taken: by then the data directory, the orders service, the center and the
    /// token of the start are there.
    #[test]
    fn a_start_that_fails_in_the_middle_leaves_nothing_behind() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (center, listen) = (free().to_string(), taken.local_addr().unwrap().to_string());
        let line = ["--demo", "--center", &center, "--listen", &listen];
        let started = |line: &[&str]| {
            let args = args(line);
            started::run(crate::cmd::server_runtime().unwrap(), async |started| {
                up(started, args, &Telemetry::default(), std::future::pending()).await
            })
        };
        let error = started(&line).unwrap_err().to_string();
        assert!(error.contains(&listen) && error.contains("--listen"), "{error}");
        TcpListener::bind(&center).expect("nothing listens as the center");
        let prefix = format!("keepgate-demo-{}-", std::process::id());
        let left: Vec<_> = std::fs::read_dir(std::env::temp_dir())
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        assert!(left.is_empty(), "{left:?}");

        // With a directory that stays: no token of the start is good any more.
        let dir = TemporaryDirectory::new("keepgate-up-test").unwrap();
        let data = dir.path().join("data");
        let kept = [&line[..], &["--data", data.to_str().unwrap()]].concat();
        started(&kept).unwrap_err();
        let tokens = tokens(&data);
        let made = |t: &&keepgate_api::Token| t.note == "keepgate up, while it starts";
        let of_the_start: Vec<_> = tokens.iter().filter(made).collect();
        assert_eq!(of_the_start.len(), 1, "{tokens:?}");
        assert!(of_the_start.iter().all(|t| t.revoked_unix_s.is_some()), "{of_the_start:?}");
        assert!(tokens.iter().any(|t| t.revoked_unix_s.is_none()), "the admin's is");
    }

    /// As a center on this directory lists them.
    fn tokens(data: &Path) -> Vec<keepgate_api::Token> {
        started::run(crate::cmd::server_runtime().unwrap(), async |started| {
            let center = Center::start(CenterConfig {
                witness_wait: Duration::ZERO,
                ..CenterConfig::new(data, free())
            })
            .await?;
            let url = format!("http://{}", center.addr());
            started.serve(
                "the center",
                |closing| async move { Ok(center.run(closing.wait()).await?) },
            );
            let token = crate::admin::read_token(&data.join(crate::admin::ADMIN_TOKEN_FILE))?;
            connect(&url, &token)?.load_all::<Tokens>("/v1/tokens").await
        })
        .unwrap()
    }
}
