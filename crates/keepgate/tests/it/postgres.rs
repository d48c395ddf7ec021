//! A private PostgreSQL with a streaming standby, over Unix sockets. No server outlives the test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Said, Scratch, eventually, run, skipped};

const USER: &str = "keepgate";

/// Which of the two servers; they swap places at a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Primary,
    Standby,
}

/// A primary and its standby.
pub(crate) struct Pair {
    programs: PathBuf,
    /// By place; none: it does not run.
    servers: [Option<Child>; 2],
    /// The place of the primary.
    primary: usize,
    scratch: Scratch,
}

impl Pair {
    /// With a synchronous standby; none: PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Pair> {
        let Some(programs) = programs() else {
            skipped("PostgreSQL is not installed");
            return None;
        };
        let scratch = Scratch::new();
        let open = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(scratch.path(), open).unwrap();
        let mut pair = Pair { programs, servers: [None, None], primary: 0, scratch };
        let data = pair.data(Part::Primary);
        let mut initdb = pair.as_owner("initdb", &[]);
        initdb.args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--username"]);
        done(initdb.arg(USER).arg("--pgdata").arg(data));
        pair.start_server(Part::Primary);
        pair.new_standby();
        Some(pair)
    }

    /// The URL with both of them.
    pub(crate) fn url(&self) -> String {
        let dir = self.scratch.path().display();
        let ports = (self.port(0), self.port(1));
        format!("postgres://{USER}@/postgres?host={dir},{dir}&port={},{}", ports.0, ports.1)
    }

    fn place(&self, part: Part) -> usize {
        match part {
            Part::Primary => self.primary,
            Part::Standby => 1 - self.primary,
        }
    }

    /// A name in the directory of the sockets, so nobody else's.
    fn port(&self, place: usize) -> usize {
        5432 + place
    }

    pub(crate) fn data(&self, part: Part) -> PathBuf {
        self.scratch.join(&format!("server-{}", self.place(part)))
    }

    /// A program of the server, never as root, which it refuses. It ends with this thread.
    fn as_owner(&self, program: &str, more: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(more);
        // SAFETY: asks for a number.
        if unsafe { libc::geteuid() } == 0 {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        command.arg("--").arg(self.programs.join(program)).current_dir("/");
        command
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn start_server(&mut self, part: Part) {
        let place = self.place(part);
        let log = self.scratch.join(&format!("log-{place}"));
        let until = Instant::now() + PATIENCE;
        // What is left of a killed one can be in the way for a moment.
        while !self.try_start_server(part, &log, until) {
            assert!(
                Instant::now() < until,
                "PostgreSQL does not start: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn try_start_server(&mut self, part: Part, log: &Path, until: Instant) -> bool {
        let place = self.place(part);
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut postgres = self.as_owner("postgres", &["--pdeathsig=QUIT"]);
        postgres.arg("-D").arg(self.data(part)).args(["-p", &self.port(place).to_string()]);
        postgres.arg("-k").arg(self.scratch.path());
        // The power stays on: what is written is there after any end of a process.
        for setting in
            ["listen_addresses=", "fsync=off", "max_connections=60", "shared_buffers=32MB"]
        {
            postgres.args(["-c", setting]);
        }
        postgres.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut server = postgres.spawn().unwrap();
        while self.try_sql(part, "SELECT 1").is_err() {
            if server.try_wait().unwrap().is_some() || Instant::now() >= until {
                let _ = server.kill();
                let _ = server.wait();
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.servers[place] = Some(server);
        true
    }

    pub(crate) fn sql(&self, part: Part, sql: &str) -> String {
        self.try_sql(part, sql).unwrap_or_else(|said| panic!("{sql}: {said:?}"))
    }

    fn try_sql(&self, part: Part, sql: &str) -> Result<String, Said> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", "postgres", "-h"]);
        psql.arg(self.scratch.path()).args(["-p", &self.port(self.place(part)).to_string()]);
        psql.args(["-c", sql]).env("PGCONNECT_TIMEOUT", "10").current_dir("/");
        let said = run(psql);
        if said.code == 0 { Ok(said.stdout.trim().to_owned()) } else { Err(said) }
    }

    /// Whether the primary confirms a commit only once the standby has it.
    pub(crate) fn make_synchronous(&self, synchronous: bool) {
        let (names, state) = if synchronous { ("standby", "sync") } else { ("", "async") };
        self.sql(Part::Primary, &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        self.sql(Part::Primary, "SELECT pg_reload_conf()");
        eventually("the standby is synchronous, or not", || {
            let now = self.sql(Part::Primary, "SELECT sync_state FROM pg_stat_replication LIMIT 1");
            (now == state).then_some(())
        });
        // That is what a sender has read. Commits go by what the checkpointer has read; before its
        // work it reads.
        self.sql(Part::Primary, "CHECKPOINT");
    }

    /// A copy of the primary in the other place, which streams from it and is synchronous.
    pub(crate) fn new_standby(&mut self) {
        let data = self.data(Part::Standby);
        let _ = std::fs::remove_dir_all(&data);
        let mut copy = self.as_owner("pg_basebackup", &[]);
        copy.args(["--no-sync", "--checkpoint=fast", "-X", "stream", "-R", "-U", USER, "-h"]);
        copy.arg(self.scratch.path()).args(["-p", &self.port(self.primary).to_string()]);
        done(copy.args(["-d", "application_name=standby", "-D"]).arg(&data));
        self.start_server(Part::Standby);
        eventually("the standby streams", || {
            let state = self.sql(Part::Primary, "SELECT state FROM pg_stat_replication");
            (state == "streaming").then_some(())
        });
        self.make_synchronous(true);
    }

    /// Ends it by this signal, and waits until no process of it is left.
    pub(crate) fn end(&mut self, part: Part, signal: i32) {
        let place = self.place(part);
        let mut server = self.servers[place].take().unwrap();
        send(server.id(), signal);
        server.wait().unwrap();
        let data = self.data(part);
        eventually("its processes end", || processes(&data).is_empty().then_some(()));
    }

    /// Stops all processes of it where they are.
    pub(crate) fn freeze(&self, part: Part) -> Frozen {
        let data = self.data(part);
        let mut frozen = Frozen(Vec::new());
        // Once the one that starts others stands still, there are no more.
        frozen.stop(self.servers[self.place(part)].as_ref().unwrap().id());
        processes(&data).into_iter().for_each(|pid| frozen.stop(pid));
        frozen
    }

    /// Makes the standby the primary. The other one has ended.
    pub(crate) fn promote(&mut self) {
        eventually("the standby takes over", || {
            self.try_sql(Part::Standby, "SELECT pg_promote(true, 60)").ok()?;
            let waits = self.try_sql(Part::Standby, "SELECT pg_is_in_recovery()").ok()?;
            (waits == "f").then_some(())
        });
        self.primary = 1 - self.primary;
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for place in 0..2 {
            let Some(mut server) = self.servers[place].take() else { continue };
            send(server.id(), libc::SIGQUIT);
            send(server.id(), libc::SIGCONT);
            processes(&self.scratch.join(&format!("server-{place}")))
                .into_iter()
                .for_each(|pid| send(pid, libc::SIGCONT));
            let _ = server.wait();
        }
    }
}

/// Processes that stand still until this is dropped.
pub(crate) struct Frozen(Vec<u32>);

impl Frozen {
    fn stop(&mut self, pid: u32) {
        send(pid, libc::SIGSTOP);
        self.0.push(pid);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| send(*pid, libc::SIGCONT));
    }
}

/// The process that receives what the primary sends, of a standby with this directory.
pub(crate) fn receiver_of(data: &Path) -> u32 {
    eventually("the standby receives", || {
        processes(data).into_iter().find(|pid| {
            let name = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&name).contains("walreceiver")
        })
    })
}

/// The processes of a server: they work in its directory.
fn processes(data: &Path) -> Vec<u32> {
    let data = data.canonicalize().unwrap_or_default();
    let entries = std::fs::read_dir("/proc").unwrap();
    let pid = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (std::fs::read_link(entry.path().join("cwd")).ok()? == data).then_some(pid)
    };
    entries.filter_map(pid).collect()
}

pub(crate) fn send(pid: u32, signal: i32) {
    // SAFETY: sends a signal to a process of the test's.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) };
}

fn done(command: &mut Command) {
    let said = command.stdin(Stdio::null()).output().unwrap();
    assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
}

/// Where the programs of the newest server are; none: it is not installed.
fn programs() -> Option<PathBuf> {
    let releases = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let release = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let programs = path.join("bin");
        programs.join("postgres").exists().then_some((number, programs))
    };
    releases.filter_map(release).max().map(|(_, programs)| programs)
}
