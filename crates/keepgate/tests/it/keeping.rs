//! `keepgate status`, `center backup`, `restore`, `move` and `export --all`, as an operator runs them.

use crate::harness::{Running, Scratch, eventually, gate_args, keepgate_ok, keepgate_run};
use crate::separate::{CenterProcess, policies};

#[test]
fn an_operator_backs_up_and_restores() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let center = CenterProcess::start(None, &data, "127.0.0.1:0");
    let policy = policies(&scratch, "1h");
    center.ok(&["apply", &policy]);
    center.ok(&["role", "assign", "user::\"dave\"", "role::\"orders-reader\""]);
    let made: serde_json::Value = serde_json::from_str(&center.ok(&["status", "--json"])).unwrap();
    assert_eq!(made["centers"][0]["condition"], "ready");
    assert_eq!(made["wrong"], serde_json::json!([]));
    let screen = center.ok(&["status"]);
    assert!(screen.contains("nothing is wrong"), "{screen}");
    assert!(screen.contains("no gate is connected"), "{screen}");
    let out = scratch.join("out").to_str().unwrap().to_owned();
    let said = keepgate_run(
        &center.with(&["export", &out]).iter().map(String::as_str).collect::<Vec<_>>(),
    );
    assert!(said.stderr.contains("not in these files: 1 memberships"), "{}", said.stderr);
    center.ok(&["export", &out, "--all", "--force"]);
    let extras = std::fs::read_to_string(scratch.join("out/.extras.json")).unwrap();
    assert!(extras.contains("dave"), "{extras}");
    // What apply reads is not disturbed by it.
    assert!(center.ok(&["apply", &out]).contains("nothing to change"));
    let (data, file) = (data.to_str().unwrap(), scratch.join("one.kgbackup"));
    let file = file.to_str().unwrap();
    let said = keepgate_ok(&["center", "backup", file, "--data", data]);
    assert!(said.starts_with("backed up revision "), "{said}");
    center.ok(&["role", "revoke", "user::\"dave\"", "role::\"orders-reader\""]);
    center.process.stop();
    let said = keepgate_run(&["center", "restore", file, "--data", data]);
    assert!(said.stdout.contains("restores: member user::\"dave\""), "{}", said.stdout);
    assert!(said.stderr.contains("--accept-older"), "{}", said.stderr);
    let said = keepgate_ok(&["center", "restore", file, "--data", data, "--accept-older"]);
    assert!(said.contains("restored: history "), "{said}");
    let moved = scratch.join("moved").to_str().unwrap().to_owned();
    let said = keepgate_ok(&["center", "move", "--data", data, "--to", &moved]);
    assert!(said.contains("moved: history "), "{said}");
    let said = keepgate_run(&["center", "--data", data, "--listen", "127.0.0.1:0"]);
    assert!(said.stderr.contains("this center was moved"), "{}", said.stderr);
    let said = keepgate_run(&["center", "adopt", "--data", &moved]);
    assert!(said.stderr.contains("expected a copied data directory"), "{}", said.stderr);
    let said = keepgate_run(&["center", "accept-loss", "--data", &moved]);
    assert!(said.stderr.contains("none missing"), "{}", said.stderr);
}

/// Each command of docs/backup.md is run, in order, and must print what the chapter shows; what differs
/// from run to run (ids, places) is compared by its shape.
/// `UPDATE_EXPECT=1` writes what was printed into the chapter.
#[test]
fn the_chapter_on_backups_shows_what_is_printed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/backup.md");
    let chapter = std::fs::read_to_string(path).unwrap();
    let mut story = Story::new();
    let mut printed = String::new();
    let mut lines = chapter.lines().peekable();
    let (mut in_block, mut commands) = (false, 0);
    while let Some(line) = lines.next() {
        printed.push_str(line);
        printed.push('\n');
        if line.starts_with("```") {
            in_block = !in_block;
        }
        let Some(command) = line.strip_prefix("$ ").filter(|_| in_block) else { continue };
        let shown: Vec<&str> =
            std::iter::from_fn(|| lines.next_if(|l| !l.starts_with("$ ") && !l.starts_with("```")))
                .collect();
        let said = story.run(command);
        commands += 1;
        let same = shape(&said) == shape(&shown.join("\n"));
        if std::env::var_os("UPDATE_EXPECT").is_none() {
            assert!(
                same,
                "`{command}` prints:\n{said}\nand the chapter shows:\n{}",
                shown.join("\n")
            );
        }
        let text = if same { shown.join("\n") } else { said };
        if !text.is_empty() {
            printed.push_str(&text);
            printed.push('\n');
        }
    }
    assert_eq!(commands, 11);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, printed).unwrap();
    }
}

/// What the chapter tells, on directories of its own.
struct Story {
    scratch: Scratch,
    center: Option<CenterProcess>,
    replica: String,
    turn: usize,
}

const DATA: &str = "/var/lib/keepgate";

impl Story {
    fn new() -> Story {
        Story { scratch: Scratch::new(), center: None, replica: String::new(), turn: 0 }
    }

    fn data(&self) -> std::path::PathBuf {
        self.scratch.join("data")
    }

    fn start(&mut self) {
        let data = self.data();
        self.center = Some(CenterProcess::start(None, &data, "127.0.0.1:0"));
    }

    fn ok(&self, args: &[&str]) -> String {
        self.center.as_ref().unwrap().ok(args)
    }

    fn stop(&mut self) {
        if let Some(center) = self.center.take() {
            center.process.stop();
        }
    }

    fn member(&self, what: &str, who: &str) {
        let who = format!("user::\"{who}\"");
        let mut command = vec!["role", what, &who, "role::\"staff\""];
        if what == "assign" {
            // Nothing else names the role before its first member.
            command.push("--create");
        }
        self.ok(&command);
    }

    /// Over the files, which stay the same files.
    fn put_back(&self, from: &str) {
        for name in ["center.db", "center.high"] {
            let bytes = std::fs::read(self.scratch.join(from).join(name));
            if let Ok(bytes) = bytes {
                std::fs::write(self.data().join(name), bytes).unwrap();
            }
        }
    }

    fn keep(&self, to: &str, names: &[&str]) {
        std::fs::create_dir_all(self.scratch.join(to)).unwrap();
        for name in names {
            std::fs::copy(self.data().join(name), self.scratch.join(to).join(name)).unwrap();
        }
    }

    /// What happens before the command.
    fn before(&mut self) {
        self.turn += 1;
        match self.turn {
            // A backup of a running center.
            1 => {
                self.start();
                let policy = policies(&self.scratch, "1h");
                self.ok(&["apply", &policy]);
                for who in ["alice", "bob", "dave"] {
                    self.member("assign", who);
                }
                self.member("revoke", "dave");
                self.ok(&["token", "create", "--role", "viewer"]);
            }
            // The same files, exported.
            2 => {}
            // A restore over what was revoked since.
            4 => {
                self.member("revoke", "bob");
                let tokens: serde_json::Value =
                    serde_json::from_str(&self.ok(&["token", "list", "--json"])).unwrap();
                let tokens = tokens["tokens"].as_array().unwrap();
                let viewer = tokens.iter().find(|token| token["role"] == "viewer").unwrap();
                self.ok(&["token", "revoke", viewer["id"].as_str().unwrap()]);
                self.member("assign", "carol");
                self.stop();
            }
            // A database that lost what a gate still has.
            6 => {
                self.start();
                let gate = self.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
                self.stop();
                self.keep("older", &["center.db"]);
                self.start();
                self.member("revoke", "bob");
                let token = self.scratch.write("gate.token", &gate);
                let replica = self.scratch.join("replica");
                let url = self.center.as_ref().unwrap().url.clone();
                let mut args = gate_args(&url, token.to_str().unwrap(), "127.0.0.1:0");
                args.extend(["--data", replica.to_str().unwrap()]);
                let gate = Running::keepgate(&args);
                let kept = replica.join("replica.snapshot");
                eventually("the gate has kept it", || kept.exists().then_some(()));
                gate.kill();
                self.replica = kept.to_str().unwrap().to_owned();
                self.stop();
                self.put_back("older");
            }
            // Once more, and accepted.
            8 => {
                self.start();
                self.stop();
                self.keep("older", &["center.db"]);
                self.start();
                self.member("assign", "erin");
                self.stop();
                self.put_back("older");
            }
            // A copy, and a move.
            9 => {
                self.start();
                self.stop();
                let mut cp = std::process::Command::new("cp");
                cp.arg("-a").args([self.data(), self.scratch.join("copy")]);
                assert_eq!(crate::harness::run(cp).code, 0);
            }
            _ => {}
        }
    }

    /// Runs a command of the chapter; what it prints, with the chapter's names of places.
    fn run(&mut self, command: &str) -> String {
        self.before();
        let place = |name: &str| self.scratch.join(name).to_str().unwrap().to_owned();
        let places = [
            ("/srv/keepgate-copy", place("copy")),
            ("/srv/keepgate", place("moved")),
            (DATA, place("data")),
            ("center-1.kgbackup", place("center-1.kgbackup")),
            ("replica.snapshot", self.replica.clone()),
            ("orders", place("out")),
        ];
        let mut words: Vec<String> = Vec::new();
        for word in command.split(' ').skip(1) {
            let real = places.iter().find(|(shown, _)| *shown == word);
            words.push(real.map_or(word.to_owned(), |(_, real)| real.clone()));
        }
        if let Some(center) = &self.center
            && words[0] == "export"
        {
            words = center.with(&words.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let said = keepgate_run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let mut text = said.stdout + &said.stderr;
        for (shown, real) in places.iter().filter(|(_, real)| !real.is_empty()) {
            text = text.replace(real, shown);
        }
        text.trim_end().to_owned()
    }
}

/// Ids of histories and tokens are any.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        let is_id =
            matches!(word.len(), 8 | 12 | 64) && word.bytes().all(|b| b.is_ascii_hexdigit());
        shape.push_str(if is_id { "<id>" } else { &word });
        word.clear();
        shape.push(c);
    }
    shape
}
