//! `keepgate up`: center and gate in one process.
//!
//! One linear function: bind, set up what is missing (idempotent: a second start finds it), run
//! until told to stop. The set-up talks to the center's admin API like anyone, with a token that
//! lives in memory and is revoked before the gate starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use hyper::Method;
use keepgate_api::{ItemList, Services, Token, Tokens};
use keepgate_center::token::Role;
use keepgate_center::{Center, CenterConfig};
use keepgate_gate::Gate;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admin::{ADMIN_TOKEN_FILE, Admin, DATA_DEFAULT, Refusal, read_token, segment};
use crate::cmd::apply::{Bundle, How, show_left, show_problems};
use crate::cmd::gate::Traffic;
use crate::cmd::token::TokenRole;
use crate::cmd::{center, gate, token};
use crate::demo;
use crate::exit::{Exit, usage};
use crate::origin::Origin;
use crate::secret::{self, TemporaryDirectory};
use crate::signals::Stop;
use crate::style::{self, Paint};

/// The service of a center that has none yet and was given no policies.
const SERVICE_DEFAULT: &str = "default";
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
    /// The server to protect: http://host:port, https://host or unix:/path
    #[arg(long, env = "KEEPGATE_UPSTREAM", value_name = "URL", required_unless_present = "demo")]
    upstream: Option<String>,
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
    super::server_runtime()?.block_on(up(args))
}

async fn up(args: Args) -> anyhow::Result<Exit> {
    let mut stop = Stop::register()?;
    let data = Data::new(&args)?;
    let bundle = match (&args.policy, args.demo) {
        (Some(dir), _) => Some(Bundle::read(dir)?),
        (None, true) => Some(demo::bundle()?),
        (None, false) => None,
    };
    let orders = match (&args.upstream, args.demo) {
        (None, true) => Some(demo::orders::Orders::start().await?),
        _ => None,
    };
    let upstream = match (&args.upstream, &orders) {
        (Some(url), _) => url.clone(),
        (None, Some(orders)) => orders.url(),
        (None, None) => return Err(usage("pass --upstream URL, or --demo")),
    };

    // Its only gate is in this process: nobody outside can hold more than the store.
    let config = CenterConfig {
        witness_wait: Duration::ZERO,
        ..CenterConfig::new(data.path(), args.center)
    };
    let center = center::start(config, "--center").await?;
    let center_url = format!("http://{}", center.addr());
    let setup_token = center.create_token(Role::Admin, "", "keepgate up, while it starts").await?;
    let (close, closing) = watch::channel(false);
    let mut center_task = tokio::spawn(run_center(center, closing.clone()));

    let mut admin = Admin::new(Origin::new(&center_url, None)?, center_url.clone(), &setup_token)?;
    let set_up = set_up(&mut admin, &args, bundle.as_ref(), data.path()).await;
    let revoked = revoke(&mut admin, &setup_token).await;
    let (exit, set_up) = match set_up {
        Ok(set_up) => (Exit::Ok, Some(set_up)),
        Err(error) => match (error.downcast_ref::<Refusal>(), &args.policy) {
            (Some(refusal), Some(dir)) if show_problems(dir, refusal) => (Exit::Failure, None),
            _ => {
                close.send_replace(true);
                let _ = center_task.await;
                return Err(error);
            }
        },
    };
    let Some(set_up) = set_up else {
        close.send_replace(true);
        let _ = center_task.await;
        return Ok(exit);
    };
    revoked?;

    let mut config = keepgate_gate::GateConfig {
        center: center_url.clone(),
        token: set_up.gate_token.clone(),
        service: set_up.service.clone(),
        upstream: upstream.clone(),
        data_dir: Some(data.path().join("replica")),
        ..args.traffic.config()
    };
    // Whoever runs both tries it out, or is the one who edits the service too.
    config.key_access.local = true;
    let listen = config.listen.clone();
    let gate = match gate::start(config).await {
        Ok(gate) => gate,
        Err(error) => {
            close.send_replace(true);
            let _ = center_task.await;
            return Err(error);
        }
    };
    let screen = Screen {
        gate: gate::url("http", &gate, &listen),
        metrics: gate.admin_addr().map(|addr| format!("http://{addr}")),
        upstream,
        center: center_url,
        data: data.path().to_owned(),
        temporary: matches!(data, Data::Temporary(_)),
        set_up,
    };
    let (close_gate, closing_gate) = watch::channel(false);
    let mut gate_task = tokio::spawn(run_gate(gate, closing_gate));
    if let Some(metrics) = &screen.metrics {
        wait_until_ready(metrics).await;
    }
    let shown = if args.json { screen.json() } else { screen.text(Paint::stdout()) };
    style::print(&shown)?;

    // One of the two ending by itself is an error; a signal ends both, the gate first, so that
    // requests under way still find what they need.
    let ended = tokio::select! {
        () = stop.wait_twice() => None,
        ended = &mut center_task => Some(("the center", ended)),
        ended = &mut gate_task => Some(("the gate", ended)),
    };
    let failed = match ended {
        None => None,
        Some((what, Ok(Err(error)))) => Some(error.context(format!("{what} ended"))),
        Some((what, Ok(Ok(())))) => Some(anyhow!("{what} ended by itself")),
        Some((what, Err(error))) => Some(anyhow!("{what} ended: {error}")),
    };
    close_gate.send_replace(true);
    let gate_end = if gate_task.is_finished() { Ok(()) } else { gate_task.await? };
    close.send_replace(true);
    let center_end = if center_task.is_finished() { Ok(()) } else { center_task.await? };
    match failed {
        Some(error) => Err(error),
        None => gate_end.and(center_end).map(|()| Exit::Ok),
    }
}

async fn run_center(center: Center, closing: watch::Receiver<bool>) -> anyhow::Result<()> {
    center.run(closed(closing)).await.context("running the center")
}

async fn run_gate(gate: Gate, closing: watch::Receiver<bool>) -> anyhow::Result<()> {
    gate.run(closed(closing)).await.context("running the gate")
}

async fn closed(mut closing: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = closing.wait_for(|closing| *closing).await;
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

/// What the first start makes and later starts find.
struct SetUp {
    service: String,
    /// Whether the service has a route; without one the gate refuses everything.
    has_routes: bool,
    gate_token: String,
    keys: Option<demo::Keys>,
}

async fn set_up(
    admin: &mut Admin,
    args: &Args,
    bundle: Option<&Bundle>,
    data: &Path,
) -> anyhow::Result<SetUp> {
    let service = match (bundle, &args.service) {
        (Some(bundle), _) => {
            apply_at_start(admin, bundle, args.policy.as_deref()).await?;
            bundle.service.clone()
        }
        (None, Some(name)) => existing_or_new(admin, name).await?,
        (None, None) => {
            let answer: Services = admin.load("/v1/services").await?;
            let names: Vec<&str> = answer.services.iter().map(|s| s.name.as_str()).collect();
            match names.as_slice() {
                [] => existing_or_new(admin, SERVICE_DEFAULT).await?,
                [only] => (*only).to_owned(),
                several => {
                    return Err(usage(format!(
                        "the center has several services; say which one to protect with --service: {}",
                        several.join(", ")
                    )));
                }
            }
        }
    };
    let routes = format!("/v1/services/{}/routes", segment(&service));
    let routes: ItemList<IgnoredAny> = admin.load(&routes).await?;
    let has_routes = !routes.items.is_empty();
    let gate_token = gate_token(admin, &service, data).await?;
    let keys =
        if args.demo { Some(demo::Keys::ensure(admin, &service, data).await?) } else { None };
    Ok(SetUp { service, has_routes, gate_token, keys })
}

/// Applies the directory as far as nobody has changed what is stored since. What somebody took away or
/// changed stays so over every restart, and is named; the start goes on with what is stored.
async fn apply_at_start(
    admin: &mut Admin,
    bundle: &Bundle,
    dir: Option<&Path>,
) -> anyhow::Result<()> {
    let dir = dir.unwrap_or(Path::new("demo"));
    let starts = |why: &str| {
        eprintln!("{} starting on what is stored: {why}", Paint::stderr().warn("warning:"));
    };
    match bundle.apply(admin, How::default()).await {
        Ok(answer) => {
            show_left(dir, &answer);
            if !answer.conflicts.is_empty() {
                starts("it differs from the files where a command has changed it");
            }
            Ok(())
        }
        // Only of a service that is stored: of another nothing can be emptied.
        Err(error) => match error.downcast_ref::<Refusal>() {
            Some(refusal) if refusal.status == 409 && show_problems(dir, refusal) => {
                starts("nothing of the files was applied; `keepgate apply` takes --prune");
                Ok(())
            }
            _ => Err(error),
        },
    }
}

/// The service; made, with nothing in it, if it is not there.
async fn existing_or_new(admin: &mut Admin, name: &str) -> anyhow::Result<String> {
    match admin.load::<IgnoredAny>(&format!("/v1/services/{}", segment(name))).await {
        Ok(IgnoredAny) => {}
        Err(error) if error.downcast_ref::<Refusal>().is_some_and(|r| r.status == 404) => {
            let settings = format!("name = {}\n", toml::Value::from(name));
            let files = [("service.toml".to_owned(), settings)].into();
            Bundle::from_files(files, "--service")?.apply(admin, How::default()).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(name.to_owned())
}

/// The gate's token from the data directory while the center still knows it, else a new one.
async fn gate_token(admin: &mut Admin, service: &str, data: &Path) -> anyhow::Result<String> {
    let path = data.join(format!("gate-{service}.token"));
    if let Ok(token) = read_token(&path) {
        let id = token_id(&token);
        let tokens: Tokens = admin.load("/v1/tokens").await?;
        let is_good = |known: &Token| known.id == id && !token::is_revoked(known);
        if tokens.tokens.iter().any(is_good) {
            return Ok(token);
        }
    }
    let made = token::create(admin, TokenRole::Gate, Some(service), "keepgate up").await?;
    let token = made.token;
    secret::write(&path, &format!("{token}\n"))?;
    Ok(token)
}

async fn revoke(admin: &mut Admin, token: &str) -> anyhow::Result<()> {
    admin.delete(&format!("/v1/tokens/{}", segment(token_id(token)))).await?;
    Ok(())
}

/// The readable part of `kgt_<id>_<secret>`.
fn token_id(token: &str) -> &str {
    token.split('_').nth(1).unwrap_or_default()
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

/// What a person sees when all is up.
struct Screen {
    gate: String,
    metrics: Option<String>,
    upstream: String,
    center: String,
    data: PathBuf,
    temporary: bool,
    set_up: SetUp,
}

impl Screen {
    fn admin_token_file(&self) -> PathBuf {
        self.data.join(ADMIN_TOKEN_FILE)
    }

    fn json(&self) -> String {
        let demo = self.set_up.keys.as_ref().map_or(Value::Null, |keys| json!({ "keys": keys }));
        let screen = json!({
            "gate": self.gate,
            "metrics": self.metrics,
            "upstream": self.upstream,
            "center": self.center,
            "service": self.set_up.service,
            "data": self.data,
            "admin_token_file": self.admin_token_file(),
            "demo": demo,
        });
        format!("{screen}\n")
    }

    fn text(&self, paint: Paint) -> String {
        let service = &self.set_up.service;
        let data = match self.temporary {
            true => format!("{} (removed at the end)", self.data.display()),
            false => self.data.display().to_string(),
        };
        let mut out = format!("\n  {} {}\n\n", paint.strong("keepgate"), env!("CARGO_PKG_VERSION"));
        let mut line = |name: &str, value: &str, remark: &str| {
            out += format!("  {name:<12} {value:<28} {}", paint.faint(remark)).trim_end();
            out.push('\n');
        };
        line("gate", &self.gate, &format!("-> {} (service {service})", self.upstream));
        line("center", &self.center, "admin API, AuthZEN, metrics");
        if let Some(metrics) = &self.metrics {
            line("metrics", &format!("{metrics}/metrics"), "of the gate");
        }
        line("data", &data, "");
        line("admin token", &self.admin_token_file().display().to_string(), "");
        out.push('\n');
        match &self.set_up.keys {
            Some(keys) => self.demo(keys, paint, &mut out),
            None => self.next(paint, &mut out),
        }
        out += &format!("  {}\n\n", paint.faint("Ctrl-C ends it."));
        out
    }

    /// The command that talks to this center, as it can be pasted.
    fn keepgate(&self, words: &str) -> String {
        let mut command = format!("{} {words}", executable());
        if self.center != crate::admin::CENTER_DEFAULT {
            command += &format!(" --center {}", self.center);
        }
        if self.center != crate::admin::CENTER_DEFAULT || self.data != Path::new(DATA_DEFAULT) {
            command += &format!(" --token-file {}", self.admin_token_file().display());
        }
        command
    }

    fn next(&self, paint: Paint, out: &mut String) {
        let mut step = |remark: &str, command: String| {
            *out += &format!("  {}\n  {command}\n\n", paint.faint(&format!("# {remark}")));
        };
        let service = &self.set_up.service;
        if !self.set_up.has_routes {
            step(
                &format!(
                    "`{service}` has no routes: every request is refused. Write policies (docs/files.md), with name = \"{service}\" in service.toml, then:"
                ),
                self.keepgate("apply ./policy"),
            );
        }
        step(
            "a key for a caller",
            self.keepgate(&format!("key create --service {service} --principal 'user::\"me\"'")),
        );
        step("what a change would do, before it does", self.keepgate("apply ./policy --dry-run"));
    }

    fn demo(&self, keys: &demo::Keys, paint: Paint, out: &mut String) {
        let orders = format!("{}/orders", self.gate);
        let mut step = |remark: &str, command: String| {
            *out += &format!("  {}\n  {command}\n\n", paint.faint(&format!("# {remark}")));
        };
        step(
            "alice may do everything on orders: 200",
            format!("curl -i {orders} -H 'X-Api-Key: {}'", keys.alice),
        );
        step(
            "bob may only read: 403, and why",
            format!("curl -i {orders} -H 'X-Api-Key: {}' -d '{{\"item\":\"sugar\"}}'", keys.bob),
        );
        step("a request without a key: 401", format!("curl -i {orders}"));
        step(
            "the crawler is a program that reads",
            format!("curl -i {orders}/1 -H 'X-Api-Key: {}'", keys.crawler),
        );
        step("take bob's role away ..", self.keepgate("role revoke 'user::\"bob\"' orders-reader"));
        step(
            ".. and the gate refuses him at once",
            format!("curl -i {orders} -H 'X-Api-Key: {}'", keys.bob),
        );
    }
}

/// This executable as one types it: by name if the shell would find it, else by path.
fn executable() -> String {
    let Ok(path) = std::env::current_exe() else { return "keepgate".into() };
    let on_path = std::env::var_os("PATH").is_some_and(|dirs| {
        path.parent().is_some_and(|parent| std::env::split_paths(&dirs).any(|dir| dir == parent))
    });
    if on_path {
        return "keepgate".into();
    }
    let below =
        std::env::current_dir().ok().and_then(|dir| Some(path.strip_prefix(dir).ok()?.to_owned()));
    below.map_or_else(|| path.display().to_string(), |below| format!("./{}", below.display()))
}
