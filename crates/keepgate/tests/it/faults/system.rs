//! A center, a middlebox, a gate, an upstream and callers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::check::{Edit, Ledger, Seen};
use super::relay::Relay;
use super::{Dice, MAX_AGE};
use crate::harness::{PATIENCE, Running, Said, Scratch, eventually, free_port, keepgate, text};
use crate::postgres::{Pair, Part, receiver_of, send};
use crate::requests::{Http, metric};
use crate::separate::policies;

/// Between two requests of one caller.
const PACE: Duration = Duration::from_millis(20);

/// Whose wall clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    Center,
    Gate,
}

impl Whose {
    fn file(self) -> &'static str {
        match self {
            Whose::Center => "center.clock",
            Whose::Gate => "gate.clock",
        }
    }
}

pub(super) struct System {
    scratch: Scratch,
    /// None: the center keeps its store in `data`.
    database: Option<Pair>,
    pub(super) data: PathBuf,
    copy: PathBuf,
    port: u16,
    center: Option<Child>,
    gate: Option<Running>,
    gate_args: Vec<String>,
    pub(super) relay: Arc<Relay>,
    users: usize,
    token: String,
    /// Since when a loss is declared that the next start does not speak of.
    declared: Option<Instant>,
    seen: Arc<Mutex<Seen>>,
    done: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl System {
    pub(super) fn start(database: Option<Pair>, users: usize, ledger: &mut Ledger) -> System {
        let scratch = Scratch::new();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let done = Arc::new(AtomicBool::new(false));
        let upstream = upstream(Arc::clone(&seen));
        let port = free_port();
        let relay = Relay::start(port);
        let data = scratch.join("data");
        let mut system = System {
            copy: scratch.join("copy"),
            data,
            scratch,
            database,
            port,
            center: None,
            gate: None,
            gate_args: Vec::new(),
            relay,
            users,
            token: String::new(),
            declared: None,
            seen,
            done,
            threads: Vec::new(),
        };
        system.make_clocks();
        system.spawn_center().unwrap_or_else(|said| panic!("the first start: {said}"));
        let policy = policies(&system.scratch, "5s");
        system.command(&["apply", &policy]);
        let keys: Vec<String> = (0..users)
            .map(|user| {
                let principal = format!("user::\"u{user}\"");
                system.command(&["key", "create", "--principal", &principal]).trim().to_owned()
            })
            .collect();
        system.make_tokens();
        let token = system.scratch.join("gate.token");
        for user in 0..users {
            system.edit(user, true, ledger);
        }
        // An orderly stop empties the WAL: damage to it later costs edits, and not the gate's token.
        system.stop_center();
        system.spawn_center().unwrap_or_else(|said| panic!("the second start: {said}"));
        let listen = format!("127.0.0.1:{}", free_port());
        let admin = format!("127.0.0.1:{}", free_port());
        let center = format!("http://127.0.0.1:{}", system.relay.port);
        let replica = system.scratch.join("replica");
        system.gate_args = [
            "gate",
            "--json",
            "--center",
            &center,
            "--token-file",
            token.to_str().unwrap(),
            "--service",
            "orders",
            "--upstream",
            &upstream,
            "--listen",
            &listen,
            "--admin-listen",
            &admin,
            "--data",
            replica.to_str().unwrap(),
        ]
        .map(str::to_owned)
        .to_vec();
        system.restart_gate();
        for (user, key) in keys.into_iter().enumerate() {
            let (seen, done, listen) =
                (Arc::clone(&system.seen), Arc::clone(&system.done), listen.clone());
            system
                .threads
                .push(std::thread::spawn(move || call(user, &key, &listen, &seen, &done)));
        }
        let (seen, stop) = (Arc::clone(&system.seen), Arc::clone(&system.done));
        system.threads.push(std::thread::spawn(move || watch_stalls(&seen, &stop)));
        system.settle(ledger);
        system
    }

    /// A wall clock for each process, which no other one sees.
    fn make_clocks(&self) {
        let mut cc = Command::new("cc");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/faults/clock.c");
        cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(self.scratch.join("clock.so")).arg(source);
        let said = crate::harness::run(cc);
        assert_eq!(said.code, 0, "{said:?}");
        for whose in [Whose::Center, Whose::Gate] {
            std::fs::write(self.scratch.join(whose.file()), 0_i64.to_ne_bytes()).unwrap();
        }
    }

    /// `keepgate` under its own clock.
    fn clocked(&self, whose: Whose) -> Command {
        let mut command = keepgate();
        command
            .env("LD_PRELOAD", self.scratch.join("clock.so"))
            .env("FAULT_CLOCK", self.scratch.join(whose.file()));
        command
    }

    /// Sets that clock against the host's. In place: the process has the file mapped.
    pub(super) fn jump(&self, whose: Whose, ahead_ms: i64) {
        let path = self.scratch.join(whose.file());
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&ahead_ms.to_ne_bytes(), 0).unwrap();
    }

    /// `keepgate ARGS..` at the center, which must succeed.
    fn command(&self, args: &[&str]) -> String {
        let url = format!("http://127.0.0.1:{}", self.port);
        let token = self.data.join("admin.token");
        let mut all = args.to_vec();
        all.extend(["--center", &url, "--token-file", token.to_str().unwrap()]);
        crate::harness::keepgate_ok(&all)
    }

    /// Permits or revokes a user who is not yet.
    pub(super) fn toggle(&mut self, dice: &mut Dice, ledger: &mut Ledger) {
        let user = usize::try_from(dice.below(self.users as u64)).unwrap();
        let permitted = ledger.is_permitted(user) == Some(false);
        self.edit(user, permitted, ledger);
    }

    fn edit(&mut self, user: usize, permitted: bool, ledger: &mut Ledger) {
        let sent = Instant::now();
        let answer = self.ask_edit(user, permitted);
        let acknowledged = answer.is_some().then(Instant::now);
        let history = answer.as_ref().and_then(|_| self.history());
        let revision = answer.and_then(|answer| answer["revision"].as_u64());
        let edit = Edit { user, permitted, sent, acknowledged };
        ledger.edit(edit, history.zip(revision));
    }

    /// None: the center did not say that it is done.
    fn ask_edit(&self, user: usize, permitted: bool) -> Option<Value> {
        let mut http = self.http()?;
        let path = format!("/v1/services/orders/policies/u{user}");
        let policy = format!("permit (principal == user::\"u{user}\", action, resource);");
        let body = json!({ "text": policy }).to_string();
        let answer = match permitted {
            true => http.try_send("PUT", &path, &body),
            false => http.try_send("DELETE", &path, ""),
        };
        let answer = answer.ok().filter(|answer| (200..300).contains(&answer.status))?;
        Some(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    fn history(&self) -> Option<String> {
        let answer = self.http()?.try_send("GET", "/v1/revision", "").ok()?;
        let answer: Value = serde_json::from_slice(&answer.body).ok()?;
        Some(answer["history"].as_str().unwrap_or_default().to_owned())
    }

    fn http(&self) -> Option<Http> {
        let token = format!("Bearer {}", self.token);
        Http::try_new(&format!("127.0.0.1:{}", self.port), &[("Authorization", &token)]).ok()
    }

    /// Starts the center; where it refuses, by the way that it names. Then its state is compared.
    pub(super) fn start_center(&mut self, ledger: &mut Ledger) {
        let mut lost = self.declared.take();
        for attempt in 0.. {
            assert!(attempt < 4, "the way out that the center names does not lead out");
            let said = match self.spawn_center() {
                Ok(()) => break,
                Err(said) => said,
            };
            lost.get_or_insert_with(Instant::now);
            self.lead_out(&said, ledger);
        }
        ledger.found(&self.permitted(), lost);
        if lost.is_some() {
            // What was copied before a declared loss is of a history that gates no longer know: see
            // the limits in docs/reliability.md.
            let _ = std::fs::remove_dir_all(&self.copy);
        }
    }

    /// Ends a center that refuses, and does what it names.
    fn lead_out(&mut self, said: &str, ledger: &mut Ledger) {
        let way = ledger.refused(said);
        let Some(database) = &self.database else {
            self.kill_center();
            let mut command = keepgate();
            command.args(["center", way, "--data", self.data.to_str().unwrap()]);
            let done = crate::harness::run(command);
            assert_eq!(done.code, 0, "`center {way}` after {said}: {done:?}");
            return;
        };
        let url = database.url();
        // In order: one that was killed counts as running for ten seconds.
        self.stop_center();
        let mut last = None;
        let until = Instant::now() + PATIENCE;
        while last.as_ref().is_none_or(|done: &Said| done.code != 0) {
            assert!(Instant::now() < until, "`center {way}` after {said}: {last:?}");
            let mut command = keepgate();
            command.args(["center", way, "--database", &url]);
            last = Some(crate::harness::run(command));
            std::thread::sleep(PACE);
        }
    }

    /// Who is permitted, as the center has it.
    fn permitted(&self) -> Vec<bool> {
        self.try_permitted().unwrap_or_else(|said| panic!("the center is up: {said}"))
    }

    fn try_permitted(&self) -> Result<Vec<bool>, String> {
        let mut http = self.http().ok_or("no connection")?;
        let of = |user| {
            let path = format!("/v1/services/orders/policies/u{user}");
            match http.try_send("GET", &path, "").map(|answer| answer.status) {
                Ok(200) => Ok(true),
                Ok(404) => Ok(false),
                other => Err(format!("{path}: {other:?}")),
            }
        };
        (0..self.users).map(of).collect()
    }

    fn database(&mut self) -> &mut Pair {
        self.database.as_mut().expect("a run on PostgreSQL")
    }

    /// Who is permitted, as the database has it. Whatever waits for its commit has committed or never
    /// will.
    fn stored(&self) -> Vec<bool> {
        let database = self.database.as_ref().expect("a run on PostgreSQL");
        let rows = database.sql(
            Part::Primary,
            "BEGIN; SELECT '' FROM keepgate.head FOR UPDATE; \
             SELECT id FROM keepgate.items WHERE service = 'orders'; COMMIT",
        );
        let of = |user| rows.lines().any(|id| id == format!("u{user}"));
        (0..self.users).map(of).collect()
    }

    /// Nothing that was acknowledged may be missing, and the center that ran on must come to have what
    /// its database has.
    fn compare(&self, ledger: &mut Ledger) {
        let stored = self.stored();
        ledger.found(&stored, None);
        eventually("the center goes on with what its database has", || {
            assert!(!self.is_lost(), "a loss is said, and nothing is lost: {stored:?}");
            let ready = self.http()?.try_send("GET", "/readyz", "").ok()?;
            (ready.status == 200 && self.try_permitted().ok()? == stored).then_some(())
        });
    }

    /// The server of the database ends at once and starts again.
    pub(super) fn kill_database(&mut self, dice: &mut Dice, ledger: &mut Ledger) {
        let part = part(dice);
        let signal = if dice.below(2) == 0 { libc::SIGKILL } else { libc::SIGQUIT };
        self.toggle(dice, ledger);
        self.database().end(part, signal);
        if part == Part::Primary {
            self.toggle(dice, ledger);
        }
        self.database().start_server(part);
        self.compare(ledger);
    }

    /// An edit while a server of the database stands still.
    pub(super) fn freeze_database(
        &mut self,
        pause: Duration,
        dice: &mut Dice,
        ledger: &mut Ledger,
    ) {
        let part = part(dice);
        let frozen = self.database().freeze(part);
        let thaw = std::thread::spawn(move || {
            std::thread::sleep(pause);
            drop(frozen);
        });
        self.toggle(dice, ledger);
        thaw.join().unwrap();
        self.compare(ledger);
    }

    /// The primary ends right after an edit, and the synchronous standby takes over: with all.
    pub(super) fn fail_over(&mut self, dice: &mut Dice, ledger: &mut Ledger) {
        self.toggle(dice, ledger);
        self.database().end(Part::Primary, libc::SIGKILL);
        if dice.below(2) == 0 {
            self.toggle(dice, ledger);
        }
        self.database().promote();
        self.compare(ledger);
        self.toggle(dice, ledger);
        self.database().new_standby();
    }

    /// The primary ends after edits that a standby, which is not synchronous, never receives. The
    /// center says so, whether it ran on or was started anew; then the loss is accepted.
    pub(super) fn fail_over_losing(&mut self, dice: &mut Dice, ledger: &mut Ledger) {
        self.database().make_synchronous(false);
        let receiver = receiver_of(&self.database().data(Part::Standby));
        send(receiver, libc::SIGSTOP);
        let before = ledger.acknowledged();
        for _ in 0..3 {
            self.toggle(dice, ledger);
        }
        let is_lost = ledger.acknowledged() > before;
        self.await_gate();
        let held = self.gate_revision();
        let runs_on = dice.below(2) == 0;
        if !runs_on {
            self.kill_center();
        }
        self.database().end(Part::Primary, libc::SIGKILL);
        // What waits for it in its socket goes with it.
        send(receiver, libc::SIGKILL);
        self.database().promote();
        if runs_on && is_lost {
            let said = eventually("the center says that it has lost something", || self.loss());
            self.declared = Some(Instant::now());
            assert_eq!(self.gate_revision(), held, "a gate does not go back");
            self.lead_out(&said, ledger);
        }
        if !runs_on || is_lost {
            let refused = ledger.refusals;
            self.start_center(ledger);
            assert!(runs_on || !is_lost || ledger.refusals > refused, "a loss was not said");
        }
        self.database().new_standby();
    }

    /// Err: what it said when it ended, or why it is not ready.
    fn spawn_center(&mut self) -> Result<(), String> {
        let log = self.scratch.join("center.log");
        let file = std::fs::File::create(&log).unwrap();
        let listen = format!("127.0.0.1:{}", self.port);
        let mut command = self.clocked(Whose::Center);
        command
            .args(["center", "--json", "--data", self.data.to_str().unwrap(), "--listen", &listen])
            .args(self.database.iter().flat_map(|database| ["--database".into(), database.url()]))
            .stdout(Stdio::null())
            .stderr(file);
        self.center = Some(command.spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "the center neither serves nor says why");
            let center = self.center.as_mut().unwrap();
            if center.try_wait().unwrap().is_some() {
                self.center = None;
                return Err(std::fs::read_to_string(&log).unwrap());
            }
            let ready = Http::try_new(&listen, &[])
                .and_then(|mut http| http.try_send("GET", "/readyz", ""));
            match ready {
                Ok(answer) if answer.status == 200 => return Ok(()),
                // It learned from a follower that it has lost something.
                Ok(answer) if answer.text().contains("history-lost") => {
                    return Err(std::fs::read_to_string(&log).unwrap() + &answer.text());
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    pub(super) fn signal_center(&self, signal: i32) {
        if let Some(center) = &self.center {
            send(center.id(), signal);
        }
    }

    pub(super) fn kill_center(&mut self) {
        if let Some(mut center) = self.center.take() {
            let _ = center.kill();
            center.wait().unwrap();
        }
    }

    pub(super) fn stop_center(&mut self) {
        let Some(mut center) = self.center.take() else { return };
        send(center.id(), libc::SIGTERM);
        eventually("the center ends", || center.try_wait().unwrap());
    }

    pub(super) fn freeze_gate(&self) {
        self.gate.as_ref().unwrap().send(libc::SIGSTOP);
    }

    pub(super) fn thaw_gate(&self) {
        self.seen.lock().unwrap().thaws.push(Instant::now());
        self.gate.as_ref().unwrap().send(libc::SIGCONT);
    }

    pub(super) fn restart_gate(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.kill();
        }
        let args: Vec<&str> = self.gate_args.iter().map(String::as_str).collect();
        let mut gate = Running::start(self.clocked(Whose::Gate), &args);
        text(&gate.json(), "/gate");
        self.gate = Some(gate);
    }

    /// Waits until the gate has all that the center has: it is a witness of it then.
    pub(super) fn await_gate(&self) {
        let Some(head) = self.head() else { return };
        eventually("the gate has what the center has", || {
            (self.gate_revision()? >= head).then_some(())
        });
    }

    fn gate_revision(&self) -> Option<f64> {
        let place = self.gate_args.iter().position(|arg| arg == "--admin-listen").unwrap();
        let admin = &self.gate_args[place + 1];
        let text = Http::try_new(admin, &[]).ok()?.try_send("GET", "/metrics", "").ok()?.text();
        metric(&text, "keepgate_gate_replica_revision")
    }

    fn head(&self) -> Option<f64> {
        let answer = self.http()?.try_send("GET", "/v1/revision", "").ok()?;
        let answer: Value = serde_json::from_slice(&answer.body).ok()?;
        answer["revision"].as_f64()
    }

    /// Puts these files back as they were at the last copy, in place; then makes another copy.
    pub(super) fn restore_copy(&self, names: &[&str]) {
        if self.copy.exists() {
            for name in names {
                match std::fs::read(self.copy.join(name)) {
                    Ok(bytes) => std::fs::write(self.data.join(name), bytes).unwrap(),
                    Err(_) => drop(std::fs::remove_file(self.data.join(name))),
                }
            }
        }
    }

    fn renew_copy(&self) {
        let _ = std::fs::remove_dir_all(&self.copy);
        copy_directory(&self.data, &self.copy);
    }

    /// A copy of the directory behind the same address must not serve; then the right one is back.
    pub(super) fn try_copied_directory(&mut self) {
        if !self.copy.exists() {
            self.renew_copy();
        }
        let (data, aside) = (self.data.clone(), self.scratch.join("aside"));
        std::fs::rename(&data, &aside).unwrap();
        copy_directory(&self.copy, &data);
        let said = self.spawn_center();
        self.kill_center();
        let said = said.expect_err("a copied directory served");
        assert!(said.contains("adopt"), "the way out of a copy: {said}");
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(&aside, &data).unwrap();
    }

    /// A single flipped bit of the database: refused, or harmless. Then it is flipped back.
    pub(super) fn try_flipped_database(&mut self, dice: &mut Dice, ledger: &mut Ledger) {
        let path = self.data.join("center.db");
        let whole = std::fs::read(&path).unwrap();
        let high = std::fs::read(self.data.join("center.high")).unwrap();
        let bit = usize::try_from(dice.below(whole.len() as u64 * 8)).unwrap();
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, flipped).unwrap();
        let started = self.spawn_center();
        if started.is_ok() {
            ledger.found(&self.permitted(), None);
        }
        self.kill_center();
        if let Err(said) = started {
            assert!(said.contains("keepgate center"), "bit {bit}: no way out: {said}");
            // In place; nothing was acknowledged meanwhile.
            std::fs::write(&path, whole).unwrap();
            std::fs::write(self.data.join("center.high"), high).unwrap();
        }
    }

    /// The slot that was not written last, or the newest, which leaves the one before.
    pub(super) fn tear_high(&self, dice: &mut Dice) {
        let path = self.data.join("center.high");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
        bytes[at] ^= 1 << dice.below(8);
        std::fs::write(&path, bytes).unwrap();
    }

    /// Whatever the center says after that is no acknowledgement. What leads out here is what the
    /// gate has kept; tokens are made anew.
    pub(super) fn remove_database(&mut self, dice: &mut Dice, ledger: &mut Ledger) {
        for name in ["center.db", "center.db-wal", "center.db-shm"] {
            let _ = std::fs::remove_file(self.data.join(name));
        }
        let before = ledger.acknowledged();
        for _ in 0..3 {
            self.toggle(dice, ledger);
        }
        assert_eq!(ledger.acknowledged(), before, "acknowledged without a database");
        self.kill_center();
        let said = self.spawn_center().expect_err("it started without its database");
        self.kill_center();
        ledger.refused(&said);
        self.declared = Some(Instant::now());
        if let Some(gate) = self.gate.take() {
            gate.kill();
        }
        let replica = self.scratch.join("replica/replica.snapshot");
        let mut command = keepgate();
        command.args(["center", "recover", "--yes", "--from", replica.to_str().unwrap()]);
        command.args(["--data", self.data.to_str().unwrap()]);
        let done = crate::harness::run(command);
        assert_eq!(done.code, 0, "recover after {said}: {done:?}");
        self.spawn_center().unwrap_or_else(|said| panic!("after a recovery: {said}"));
        self.make_tokens();
        // What was copied is of the old history.
        let _ = std::fs::remove_dir_all(&self.copy);
        self.stop_center();
        self.restart_gate();
    }

    fn make_tokens(&mut self) {
        let token = self.command(&["token", "create", "--role", "gate", "--service", "orders"]);
        self.scratch.write("gate.token", &token);
        let admin = std::fs::read_to_string(self.data.join("admin.token")).unwrap();
        self.token = admin.trim().to_owned();
    }

    /// Starts the center on files that a gate contradicts, and kills it as soon as it says so: the
    /// next start knows it without the gate.
    pub(super) fn kill_when_lost(&mut self) {
        if self.spawn_center().is_ok() {
            // The gate had seen nothing that is missing, or has not come yet.
            let until = Instant::now() + Duration::from_secs(3);
            while !self.is_lost() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let lost = self.is_lost();
        self.kill_center();
        if lost {
            let said = self.spawn_center().expect_err("a loss that was shown is forgotten");
            assert!(said.contains("lost"), "{said}");
            self.kill_center();
        }
    }

    /// Waits until the gate decides as the center does, for all users. A center that learned late
    /// that it has lost something is led out.
    pub(super) fn settle(&mut self, ledger: &mut Ledger) {
        let until = Instant::now() + PATIENCE;
        let mut began = Instant::now();
        loop {
            if self.is_lost() {
                if self.database.is_none() {
                    self.kill_center();
                }
                self.stop_center();
                self.start_center(ledger);
                began = Instant::now();
            }
            for user in 0..self.users {
                if ledger.is_permitted(user).is_none() {
                    self.edit(user, true, ledger);
                    began = Instant::now();
                }
            }
            if self.agrees(ledger, began) {
                break;
            }
            if Instant::now() >= until {
                let gate = self.gate.as_ref().map(Running::stderr).unwrap_or_default();
                panic!("the gate does not come to decide as the center; it says:\n{gate}");
            }
            std::thread::sleep(PACE);
        }
        // For the next restore: a state that is behind by then.
        if self.database.is_none() && self.center.is_some() && !self.copy.exists() {
            self.signal_center(libc::SIGSTOP);
            self.renew_copy();
            self.signal_center(libc::SIGCONT);
        }
    }

    /// Whether each user's last answer since then is what the center has.
    fn agrees(&self, ledger: &Ledger, since: Instant) -> bool {
        let seen = self.seen.lock().unwrap();
        (0..self.users).all(|user| {
            let expected = if ledger.is_permitted(user) == Some(false) { 403 } else { 200 };
            let mut answers = seen.answers.iter().rev().take_while(|(at, ..)| *at > since);
            answers.find(|(_, of, _)| *of == user).is_some_and(|(_, _, status)| *status == expected)
        })
    }

    fn is_lost(&self) -> bool {
        self.loss().is_some()
    }

    /// What the center says of a loss that the next start would find, too.
    fn loss(&self) -> Option<String> {
        let answer = self.http()?.try_send("GET", "/readyz", "").ok()?;
        let said = answer.text();
        (answer.status == 503 && said.contains("history-lost")).then_some(said)
    }

    pub(super) fn stop(mut self) -> Seen {
        // What is revoked last has its time to arrive.
        std::thread::sleep(MAX_AGE + Duration::from_secs(1));
        self.done.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        if let Some(gate) = self.gate.take() {
            gate.kill();
        }
        self.kill_center();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        self.kill_center();
    }
}

/// Mostly the primary.
fn part(dice: &mut Dice) -> Part {
    if dice.below(4) == 0 { Part::Standby } else { Part::Primary }
}

fn copy_directory(from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(from).arg(to);
    let said = crate::harness::run(cp);
    assert_eq!(said.code, 0, "{said:?}");
}

/// A caller: one request after the other, whatever the answers.
fn call(user: usize, key: &str, gate: &str, seen: &Mutex<Seen>, done: &AtomicBool) {
    let mut http = None;
    while !done.load(Ordering::SeqCst) {
        std::thread::sleep(PACE);
        let mut open = match http.take() {
            Some(open) => open,
            None => match Http::try_new(gate, &[("X-Api-Key", key)]) {
                Ok(open) => open,
                Err(_) => continue,
            },
        };
        if let Ok(answer) = open.try_send("GET", "/orders", "") {
            seen.lock().unwrap().answers.push((Instant::now(), user, answer.status));
            http = Some(open);
        }
    }
}

/// Notes when threads of this process get their turn late: what they note is late then, too.
fn watch_stalls(seen: &Mutex<Seen>, done: &AtomicBool) {
    const STEP: Duration = Duration::from_millis(5);
    while !done.load(Ordering::SeqCst) {
        let before = Instant::now();
        std::thread::sleep(STEP);
        let late = before.elapsed().saturating_sub(STEP);
        if late > STEP {
            seen.lock().unwrap().stalls.push((Instant::now(), late));
        }
    }
}

/// Notes whose requests arrive, and when.
fn upstream(seen: Arc<Mutex<Seen>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || serve(stream, &seen));
        }
    });
    url
}

fn serve(stream: TcpStream, seen: &Mutex<Seen>) {
    let mut to = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(first)) = lines.next() {
        let arrived = Instant::now();
        assert!(first.starts_with("GET "), "{first}");
        let mut user = None;
        for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let line = line.to_ascii_lowercase();
            if let Some(principal) = line.strip_prefix("keepgate-principal:") {
                let digits: String = principal.chars().filter(char::is_ascii_digit).collect();
                user = digits.parse().ok();
            }
        }
        if let Some(user) = user {
            seen.lock().unwrap().arrivals.push((arrived, user));
        }
        if to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}
