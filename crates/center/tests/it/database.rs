//! A private PostgreSQL for the tests, and poolers before it. Nothing of it outlives the test process:
//! each server hangs on a pipe that ends with us.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keepgate_center::store::{Address, PostgresStore};

use crate::fixture::PATIENCE;

/// The one that tests share, each in a schema of its own; none: there is no PostgreSQL here.
pub(crate) fn shared() -> Option<&'static Cluster> {
    static SHARED: LazyLock<Option<Cluster>> = LazyLock::new(|| Cluster::new("fsync = off\n"));
    SHARED.as_ref()
}

/// A name that no other test has.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Says loudly that a test did not run; fails where that is not allowed.
pub(crate) fn skipped(why: &str) {
    let required = std::env::var_os("KEEPGATE_REQUIRE_ALL").is_some_and(|v| v == "1");
    assert!(!required, "must not skip: {why}");
    eprintln!("SKIPPED: {why}");
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the programs of the server are; none: it is not installed.
fn programs() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let release = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/postgres").exists().then(|| (release, path.join("bin")))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, path)| path)
}

/// Whom the servers run as: never root, which they refuse.
fn owner() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    if uid.split_whitespace().next() != Some("0") {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let mut fields = line.split(':').skip(2);
    let mut next = || fields.next().unwrap().parse().unwrap();
    Some((next(), next()))
}

/// A program of the server, as its owner.
fn as_owner(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = owner() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").env_remove("PGHOST").env("LC_ALL", "C");
    command
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// A server that ends, with its directory, when we do.
struct Server {
    /// Holds the pipe.
    watch: Child,
}

impl Server {
    fn start(dir: &Path, program: &Path, args: &[&str], signal: &str) -> Server {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        if let Some((uid, gid)) = owner() {
            chown(dir.join("log"), Some(uid), Some(gid)).unwrap();
        }
        let script = "trap : INT TERM HUP; \"$@\" & echo $! >\"$DIR/pid\"; cat >/dev/null; \
                      kill -$SIGNAL $!; wait $!; [ -e \"$DIR/keep\" ] || rm -rf \"$DIR\"";
        let watch = as_owner("sh")
            .args(["-c", script, "sh"])
            .arg(program)
            .args(args)
            .env("DIR", dir)
            .env("SIGNAL", signal)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Server { watch }
    }

    fn has_ended(&self, dir: &Path) -> bool {
        let pid = std::fs::read_to_string(dir.join("pid")).unwrap_or_default();
        !pid.trim().is_empty() && !Path::new("/proc").join(pid.trim()).exists()
    }

    /// Ends it, and waits for that.
    fn end(&mut self) {
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn directory() -> PathBuf {
    let name = format!("keepgate-pg-{}-{}", std::process::id(), unique(""));
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    if let Some((uid, gid)) = owner() {
        chown(&dir, Some(uid), Some(gid)).unwrap();
    }
    dir
}

/// A file that belongs to the servers' owner alone.
fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    if let Some((uid, gid)) = owner() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// A PostgreSQL with one database `kg` that belongs to the user `kg`.
pub(crate) struct Cluster {
    dir: PathBuf,
    port: u16,
    server: Option<Server>,
}

impl Cluster {
    /// A new one with these settings; none: PostgreSQL is not installed.
    pub(crate) fn new(settings: &str) -> Option<Cluster> {
        let programs = programs()?;
        let dir = directory();
        // An order of texts that is not that of their bytes, as in most databases.
        done(
            as_owner(programs.join("initdb"))
                .args(["--auth=trust", "--no-sync", "--username=postgres", "--encoding=UTF8"])
                .args(["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"])
                .arg("--pgdata")
                .arg(dir.join("data")),
        );
        let mut cluster = Cluster { dir, port: 0, server: None };
        cluster.certify();
        cluster.configure(settings);
        cluster.start();
        cluster.sql("postgres", "CREATE ROLE kg LOGIN PASSWORD 'secret'");
        cluster.sql("postgres", "CREATE DATABASE kg OWNER kg");
        Some(cluster)
    }

    /// A standby of this one, which streams from it, under this name.
    pub(crate) fn standby(&self, name: &str) -> Cluster {
        let dir = directory();
        let from = format!(
            "host={} port={} user=postgres application_name={name}",
            self.dir.display(),
            self.port
        );
        done(
            as_owner(programs().unwrap().join("pg_basebackup"))
                .args(["--no-sync", "--checkpoint=fast", "--write-recovery-conf", "--pgdata"])
                .arg(dir.join("data"))
                .args(["--dbname", &from]),
        );
        let mut cluster = Cluster { dir, port: 0, server: None };
        cluster.start();
        cluster
    }

    /// A server certificate for `localhost`, and the CA that it is from.
    fn certify(&self) {
        let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        put(&self.dir.join("data/server.crt"), &leaf.pem());
        put(&self.dir.join("data/server.key"), &key.serialize_pem());
        std::fs::write(self.dir.join("ca.pem"), ca_pem).unwrap();
    }

    /// The CA of the server's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub(crate) fn configure(&self, settings: &str) {
        // The first line that fits counts: over TLS a password is asked for.
        put(
            &self.dir.join("data/pg_hba.conf"),
            "local all all trust\nlocal replication all trust\n\
             hostssl all all 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n",
        );
        let base = "ssl = on\nmax_connections = 200\nshared_buffers = 32MB\n\
                    hot_standby = on\nwal_level = replica\n";
        put(&self.dir.join("data/postgresql.auto.conf"), &format!("{base}{settings}"));
    }

    /// Starts it, on another port than before if that one is taken.
    pub(crate) fn start(&mut self) {
        let programs = programs().unwrap();
        let (dir, data) = (self.dir.display().to_string(), self.dir.join("data"));
        for _ in 0..20 {
            if self.port == 0 {
                let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                self.port = free.local_addr().unwrap().port();
            }
            let _ = std::fs::remove_file(self.dir.join("pid"));
            let port = self.port.to_string();
            let data = data.display().to_string();
            let args = ["-D", &data, "-k", &dir, "-h", "127.0.0.1", "-p", &port];
            let server = Server::start(&self.dir, &programs.join("postgres"), &args, "QUIT");
            let end = Instant::now() + PATIENCE;
            loop {
                if self.try_sql("postgres", "postgres", "SELECT 1").is_ok() {
                    self.server = Some(server);
                    return;
                }
                if server.has_ended(&self.dir) {
                    break;
                }
                assert!(Instant::now() < end, "PostgreSQL does not start: {}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
            // Somebody else has the port; the directory stays.
            std::fs::write(self.dir.join("keep"), "").unwrap();
            drop(server);
            std::fs::remove_file(self.dir.join("keep")).unwrap();
            self.port = 0;
        }
        panic!("PostgreSQL does not start: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Ends it at once, as if its power went; its data stays until the cluster is dropped.
    pub(crate) fn crash(&mut self) {
        std::fs::write(self.dir.join("keep"), "").unwrap();
        self.server = None;
        std::fs::remove_file(self.dir.join("keep")).unwrap();
    }

    /// Makes a primary of a standby.
    pub(crate) fn promote(&self) {
        self.sql("postgres", "SELECT pg_promote(true, 60)");
        eventually("a primary", || self.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    }

    /// What statements answer, to the superuser.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        match self.try_sql(database, "postgres", sql) {
            Ok(said) => said,
            Err(said) => panic!("{sql}: {said}"),
        }
    }

    pub(crate) fn try_sql(&self, database: &str, user: &str, sql: &str) -> Result<String, String> {
        let output = Command::new("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, "-c", sql])
            .arg("-h")
            .arg(&self.dir)
            .args(["-p", &self.port.to_string()])
            .env("PGCONNECT_TIMEOUT", "10")
            .current_dir("/")
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The URL over its socket, with these further parameters.
    pub(crate) fn url(&self, schema: &str, more: &str) -> String {
        let (dir, port) = (self.dir.display(), self.port);
        format!("postgres:///kg?host={dir}&port={port}&user=kg&schema={schema}{more}")
    }

    /// The URL over TCP.
    pub(crate) fn tcp(&self, host: &str, schema: &str, more: &str) -> String {
        format!("postgres://kg:secret@{host}:{}/kg?schema={schema}{more}", self.port)
    }

    /// The URL of both clusters, this one first.
    pub(crate) fn url_with(&self, other: &Cluster, schema: &str) -> String {
        format!(
            "postgres://kg@/kg?host={},{}&port={},{}&schema={schema}",
            self.dir.display(),
            other.dir.display(),
            self.port,
            other.port
        )
    }

    pub(crate) fn store(&self, schema: &str) -> PostgresStore {
        open(&self.url(schema, ""))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn open(url: &str) -> PostgresStore {
    PostgresStore::open(&Address::parse(url).unwrap()).unwrap()
}

/// A PgBouncer before a cluster.
pub(crate) struct Bouncer {
    dir: PathBuf,
    server: Option<Server>,
}

impl Bouncer {
    /// One in this mode (`session`, `transaction`); none: it is not installed.
    pub(crate) fn new(cluster: &Cluster, mode: &str) -> Option<Bouncer> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(Path::new);
        let program = program.into_iter().find(|path| path.exists())?;
        let dir = directory();
        let mut settings = String::new();
        let (host, port) = (cluster.dir.display(), cluster.port);
        let own = dir.display();
        settings.push_str(&format!(
            "[databases]\nkg = host={host} port={port} dbname=kg user=kg\n[pgbouncer]\n\
             unix_socket_dir = {own}\nlisten_addr =\nlisten_port = 6432\nauth_type = any\n\
             pool_mode = {mode}\ndefault_pool_size = 20\nlogfile = {own}/bouncer.log\n"
        ));
        put(&dir.join("ini"), &settings);
        let ini = dir.join("ini").display().to_string();
        let server = Server::start(&dir, program, &[&ini], "TERM");
        eventually("a pooler", || dir.join(".s.PGSQL.6432").exists());
        Some(Bouncer { dir, server: Some(server) })
    }

    pub(crate) fn url(&self, schema: &str, more: &str) -> String {
        let dir = self.dir.display();
        format!("postgres:///kg?host={dir}&port=6432&user=kg&schema={schema}{more}")
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A client that sends statements and keeps its session: `psql` on a pipe.
pub(crate) struct Psql(Child);

impl Psql {
    pub(crate) fn new(cluster: &Cluster) -> Psql {
        let child = Command::new("psql")
            .args(["-XqAt", "-U", "postgres", "-d", "kg", "-p", &cluster.port.to_string(), "-h"])
            .arg(&cluster.dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Psql(child)
    }

    pub(crate) fn send(&mut self, sql: &str) {
        let input = self.0.stdin.as_mut().unwrap();
        input.write_all(format!("{sql};\n").as_bytes()).unwrap();
        input.flush().unwrap();
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
