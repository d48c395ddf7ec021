//! One arm's stage: namespaces, links, the center with its policies, and the program at the
//! front (the naive subsystem, or the gate with the subsystem behind it).
//!
//! ```text
//!   users 10.77.1.100..  ---- veth ----+
//!                                      +-- subsystem ---- veth ---- center
//!   crawler 10.77.2.2    ---- veth ----+   10.77.x.1                10.77.3.2
//! ```

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::Arm;
use crate::actor::subsystem::{CenterAccess, SubsystemSpec};
use crate::actor::{Actor, Epoch};
use crate::child::Running;
use crate::net::{End, Namespace, join};
use crate::run::LabPlan;

/// Where the center listens.
pub const CENTER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 3, 2)), 7480);
/// Where callers find the service.
pub const FRONT_PORT: u16 = 8080;
/// The subsystem behind the gate.
const APP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
/// The same on another host.
const APP_AWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 3, 2)), 8000);
/// The gate's own metrics.
pub const GATE_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// The namespaces and programs of one arm.
#[derive(Debug)]
pub struct Stage {
    /// Where users call from.
    pub users: Namespace,
    /// Where the crawler calls from.
    pub crawler: Namespace,
    /// The host whose ports run out.
    pub subsystem: Namespace,
    /// The authorization center's host.
    pub center: Namespace,
    // Fields drop in order: programs first is not needed, but their logs outlive them.
    programs: Vec<Running>,
    keepgate: PathBuf,
    folder: PathBuf,
    certificate: Vec<u8>,
    bottleneck: SocketAddr,
}

fn ip(a: u8, b: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, a, b))
}

/// The addresses users call from.
pub fn user_addresses() -> Vec<IpAddr> {
    (100..200).map(|last| ip(1, last)).collect()
}

/// The crawler's address.
pub fn crawler_addresses() -> Vec<IpAddr> {
    vec![ip(2, 2)]
}

/// Where users, or the crawler, find the front.
pub fn front(crawler: bool) -> SocketAddr {
    SocketAddr::new(ip(if crawler { 2 } else { 1 }, 1), FRONT_PORT)
}

impl Stage {
    /// Builds namespaces and links, and starts the center with the orders service.
    ///
    /// # Errors
    /// Whatever cannot be made, with the last words of the program that failed.
    pub fn build(
        keepgate: &Path,
        folder: &Path,
        plan: &LabPlan,
        arm: Arm,
    ) -> anyhow::Result<Stage> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        let mut stage = Stage {
            users: Namespace::create("users")?,
            crawler: Namespace::create("crawler")?,
            subsystem: Namespace::create("subsystem")?,
            center: Namespace::create("center")?,
            programs: Vec::new(),
            keepgate: keepgate.to_owned(),
            folder: folder.to_owned(),
            certificate: Vec::new(),
            bottleneck: if plan.application_away { APP_AWAY } else { CENTER },
        };
        stage.link()?;
        let (low, high) = if arm == Arm::WiderRange { plan.wider_range } else { plan.range };
        stage.subsystem.sysctl("net.ipv4.ip_local_port_range", &format!("{low} {high}"))?;
        if arm == Arm::TwReuse {
            stage.subsystem.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
        }
        stage.start_center(plan)?;
        Ok(stage)
    }

    fn link(&self) -> anyhow::Result<()> {
        for (other, near, far, third) in [
            (&self.users, "to-users", user_addresses(), 1),
            (&self.crawler, "to-crawler", crawler_addresses(), 2),
            (&self.center, "to-center", vec![CENTER.ip()], 3),
        ] {
            let here = [ip(third, 1)];
            let near = End { namespace: &self.subsystem, interface: near, addresses: &here };
            let far = End { namespace: other, interface: "to-subsystem", addresses: &far };
            join(&near, &far)?;
        }
        Ok(())
    }

    fn start_center(&mut self, plan: &LabPlan) -> anyhow::Result<()> {
        let issued = rcgen::generate_simple_self_signed(vec![CENTER.ip().to_string()])
            .context("making a certificate for the center")?;
        self.certificate = issued.cert.der().to_vec();
        let (cert, key) = (self.path("center.crt"), self.path("center.key"));
        std::fs::write(&cert, issued.cert.pem())?;
        std::fs::write(&key, issued.signing_key.serialize_pem())?;
        self.spawn_center()?;
        let service = self.folder.join("orders");
        write_service(&service, plan)?;
        self.admin(&["apply", &service.to_string_lossy()])?;
        Ok(())
    }

    /// Starts the center's program (again) on the data it has.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn spawn_center(&mut self) -> anyhow::Result<()> {
        let mut command = self.center.command(&self.keepgate);
        command
            .arg("center")
            .args(["--listen", &CENTER.to_string()])
            .arg("--data")
            .arg(self.path("center"))
            .arg("--tls-cert")
            .arg(self.path("center.crt"))
            .arg("--tls-key")
            .arg(self.path("center.key"))
            .stdout(Stdio::null());
        let mut center = Running::start("the center", &mut command, self.path("center.log"))?;
        let token = self.path("center/admin.token");
        center.wait_until(READY, || token.exists() && listens(&self.center, CENTER.port()))?;
        self.programs.push(center);
        Ok(())
    }

    /// Kills the center (SIGKILL).
    pub fn kill_center(&mut self) {
        self.programs.retain_mut(|program| {
            let center = program.is("the center");
            if center {
                program.kill();
            }
            !center
        });
    }

    /// Runs an administrative command against the center; what it printed.
    ///
    /// # Errors
    /// When it exits otherwise than 0, with what it said.
    pub fn admin(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .to_center(self.center.command(&self.keepgate).args(arguments))
            .arg("--token-file")
            .arg(self.path("center/admin.token"))
            .output()
            .context("starting keepgate")?;
        anyhow::ensure!(
            output.status.success(),
            "keepgate {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn to_center<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .arg("--center")
            .arg(format!("https://{CENTER}"))
            .arg("--ca-file")
            .arg(self.path("center.crt"))
    }

    /// Starts what stands at the front in this arm; its lines go to `lines`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_front(
        &mut self,
        arm: Arm,
        plan: &LabPlan,
        epoch: Epoch,
        lines: &std::sync::mpsc::Sender<String>,
    ) -> anyhow::Result<()> {
        let behind_gate = arm == Arm::Keepgate;
        let front = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), FRONT_PORT);
        let app = if plan.application_away { APP_AWAY } else { APP };
        let listen = if behind_gate { app } else { front };
        let center = if behind_gate {
            None
        } else {
            let token = self.admin(&["token", "create", "--role", "pep"])?;
            Some(CenterAccess { address: CENTER, certificate: self.certificate.clone(), token })
        };
        let spec = Actor::Subsystem(Box::new(SubsystemSpec {
            listen,
            center,
            reuse: arm == Arm::ReuseConnections,
            cache_s: (arm == Arm::Cache).then_some(5.0),
            limit_per_s: (arm == Arm::Limit).then_some(plan.limit_per_s),
            work_ms: plan.work_ms,
            epoch,
            end_s: plan.duration_s,
        }));
        let side = if plan.application_away { Where::Center } else { Where::Subsystem };
        self.start_actor("the subsystem", &spec, side, lines, Some(listen.port()))?;
        if behind_gate {
            self.start_gate(front, app)?;
        }
        Ok(())
    }

    fn start_gate(&mut self, listen: SocketAddr, app: SocketAddr) -> anyhow::Result<()> {
        let token = self.admin(&["token", "create", "--role", "gate", "--service", "orders"])?;
        let token_file = self.path("gate.token");
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&token_file)?
            .write_all(token.as_bytes())?;
        let mut command = self.subsystem.command(&self.keepgate);
        command.arg("gate");
        self.to_center(&mut command)
            .arg("--token-file")
            .arg(&token_file)
            .args(["--service", "orders", "--upstream", &format!("http://{app}")])
            .args(["--listen", &listen.to_string(), "--admin-listen", &GATE_ADMIN.to_string()])
            .arg("--data")
            .arg(self.path("gate"))
            .stdout(Stdio::null());
        let mut gate = Running::start("the gate", &mut command, self.path("gate.log"))?;
        gate.wait_until(READY, || {
            self.subsystem
                .run(|| http_status(GATE_ADMIN, "/readyz"))
                .is_ok_and(|status| status == 200)
        })?;
        self.programs.push(gate);
        Ok(())
    }

    /// Starts callers; their lines go to `lines`.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn start_load(
        &mut self,
        spec: crate::actor::load::LoadSpec,
        lines: &std::sync::mpsc::Sender<String>,
    ) -> anyhow::Result<()> {
        let side = if spec.who == "crawler" { Where::Crawler } else { Where::Users };
        let what = if spec.who == "crawler" { "the crawler" } else { "the users" };
        self.start_actor(what, &Actor::Load(spec), side, lines, None)
    }

    fn start_actor(
        &mut self,
        what: &str,
        actor: &Actor,
        side: Where,
        lines: &std::sync::mpsc::Sender<String>,
        port: Option<u16>,
    ) -> anyhow::Result<()> {
        let namespace = match side {
            Where::Users => &self.users,
            Where::Crawler => &self.crawler,
            Where::Subsystem => &self.subsystem,
            Where::Center => &self.center,
        };
        let spec = serde_json::to_string(actor).context("describing an actor")?;
        let mut command = namespace.command(&self.keepgate);
        // The description holds a token: by environment, which only its owner can read.
        command.args(["lab", "actor"]).env("KEEPGATE_LAB_ACTOR", spec).stdout(Stdio::piped());
        let log = self.path(&format!("{}.log", what.trim_start_matches("the ")));
        let mut program = Running::start(what, &mut command, log)?;
        program.forward_lines(lines.clone());
        if let Some(port) = port {
            program.wait_until(READY, || listens(namespace, port))?;
        }
        self.programs.push(program);
        Ok(())
    }

    /// What `keepgate doctor --json` says on the subsystem's host about connections to `to`.
    ///
    /// # Errors
    /// When doctor cannot be started.
    pub fn doctor(&self, to: SocketAddr) -> anyhow::Result<Look> {
        let child = self
            .subsystem
            .command(&self.keepgate)
            // Less than a second in all, so that one look a second keeps up with the seconds.
            .args(["doctor", "--json", "--interval", "0.8", "--to", &to.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting keepgate doctor")?;
        Ok(Look { child: Some(child) })
    }

    /// The destination toward which ports are scarce: what doctor is asked about.
    pub fn bottleneck(&self) -> SocketAddr {
        self.bottleneck
    }

    /// A file or folder of this stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The last words of every program, for a message when something went wrong.
    pub fn last_words(&self) -> String {
        self.programs.iter().map(Running::last_words).collect()
    }
}

/// A doctor that is looking.
#[derive(Debug)]
pub struct Look {
    child: Option<Child>,
}

impl Look {
    /// What it saw; nothing while it still looks.
    ///
    /// # Errors
    /// When doctor could not look.
    pub fn result(&mut self) -> anyhow::Result<Option<serde_json::Value>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        // Its report is smaller than a pipe's buffer: it never waits for a reader.
        if child.try_wait().context("waiting for keepgate doctor")?.is_none() {
            return Ok(None);
        }
        let Some(child) = self.child.take() else { return Ok(None) };
        let output = child.wait_with_output().context("reading keepgate doctor")?;
        serde_json::from_slice(&output.stdout)
            .map(Some)
            .with_context(|| format!("doctor: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[derive(Clone, Copy)]
enum Where {
    Users,
    Crawler,
    Subsystem,
    Center,
}

/// Whether something listens on this TCP port there; read, not tried, so that no connection
/// of ours is counted.
fn listens(namespace: &Namespace, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let read = namespace.run(|| {
        let v4 = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
        let v6 = std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default();
        Ok(v4 + &v6)
    });
    let port = format!(":{port:04X}");
    read.is_ok_and(|text| {
        text.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next().unwrap_or(""), words.nth(1).unwrap_or(""));
            local.ends_with(&port) && state == LISTEN
        })
    })
}

/// The status of a GET, by the plainest client there is; for programs of ours on loopback.
///
/// # Errors
/// When there is no answer.
#[expect(clippy::disallowed_methods, reason = "the lab looks at the product from outside")]
pub fn http_status(address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(4096).read_to_string(&mut text)?;
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP answer")
}

/// The orders service as the lab's center knows it.
fn write_service(folder: &Path, plan: &LabPlan) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let members: Vec<String> = (0..plan.users).map(|user| format!("'user::\"u{user}\"'")).collect();
    let files = [
        (
            "service.toml",
            format!(
                "name = \"orders\"\nmax_age = \"{}s\"\n\n[identify.trusted_header]\n\
                 header = \"x-user\"\npeers = [\"10.77.0.0/16\"]\nprincipal_type = \"user\"\n",
                plan.max_age_s
            ),
        ),
        (
            "roles.toml",
            format!(
                "[[role]]\nid = \"reader\"\nmembers = [{}, 'user::\"crawler\"']\n\n\
                 [[role.grant]]\nactions = [\"GET\"]\nresource = 'route::\"/orders\"'\n",
                members.join(", ")
            ),
        ),
        (
            "routes.toml",
            "[[route]]\nmethod = \"GET\"\npath = \"/orders\"\n\n\
             [[route]]\nmethod = \"GET\"\npath = \"/orders/{id}\"\n"
                .to_owned(),
        ),
    ];
    for (name, text) in files {
        std::fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}
