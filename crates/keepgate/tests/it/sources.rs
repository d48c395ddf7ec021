//! A day of an operator, by commands only: from empty to a protected service, a colleague's change, an
//! emergency that survives restarts and an apply, things taken away, a restore.

use std::path::Path;

use crate::harness::{Nginx, Running, Said, Scratch, eventually, keepgate_run, skipped, text};
use crate::requests::Http;
use crate::separate::policies;

/// `keepgate up` on data of its own, and commands to its center.
struct Up {
    process: Running,
    gate: String,
    center: String,
    token: String,
}

impl Up {
    fn start(upstream: &str, policy: &str, data: &Path) -> Up {
        let mut process = Running::up(upstream, policy, data);
        let screen = process.json();
        Up {
            gate: text(&screen, "/gate"),
            center: text(&screen, "/center"),
            token: text(&screen, "/admin_token_file"),
            process,
        }
    }

    fn run(&self, args: &[&str]) -> Said {
        keepgate_run(&[args, &["--center", &self.center, "--token-file", &self.token]].concat())
    }

    fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "keepgate {args:?}: {said:?}");
        said.stdout
    }

    fn status(&self, key: &str) -> u16 {
        Http::new(&self.gate, &[("X-Api-Key", key)]).get("/orders").status
    }

    fn until(&self, what: &str, key: &str, status: u16) {
        eventually(what, || (self.status(key) == status).then_some(()));
    }
}

#[test]
fn a_day_by_commands_alone() {
    let Some(nginx) = Nginx::start(None, "127.0.0.1") else {
        return skipped("nginx is not installed");
    };
    let upstream = format!("http://127.0.0.1:{}", nginx.port);
    let scratch = Scratch::new();
    let (policy, data) = (policies(&scratch, "1h"), scratch.join("data"));

    // From empty to a protected service.
    let mut up = Up::start(&upstream, &policy, &data);
    let key = |up: &Up, who: &str| {
        up.ok(&["key", "create", "--principal", &format!("user::{who}")]).trim().to_owned()
    };
    let (alice, bob) = (key(&up, "alice"), key(&up, "bob"));
    up.until("alice reads", &alice, 200);
    up.until("bob reads", &bob, 200);

    // A colleague works on the same service.
    let copy = scratch.join("copy").to_str().unwrap().to_owned();
    up.ok(&["export", &copy]);
    let settings = std::fs::read_to_string(scratch.join("copy/service.toml")).unwrap();
    let revision = settings.lines().next().unwrap().strip_prefix("# revision ").unwrap().to_owned();
    let colleague = up.ok(&["token", "create", "--role", "editor", "--note", "colleague"]);
    let colleague = scratch.write("colleague.token", &colleague).display().to_string();
    let grant = ["role", "grant", "orders-admin", "--action", "any", "--resource", "any"];
    let center = ["--center", &up.center, "--token-file", &colleague];
    assert_eq!(keepgate_run(&[&grant[..], &center].concat()).code, 0);
    let said = up.run(&["apply", &copy, "--if-revision", &revision]);
    assert_eq!(said.code, 1, "{said:?}");
    for part in ["expected revision", "orders-admin: any on any", "created by grant.put", "token "]
    {
        assert!(said.stderr.contains(part), "{part}: {said:?}");
    }
    // It is not lost by one who does not look, either.
    let said = up.run(&["apply", &copy]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stderr.contains("grant orders-admin: any on any was brought by a command"),
        "{said:?}"
    );

    // An emergency: it survives two restarts and an apply, and is named each time.
    up.ok(&["role", "revoke", "user::bob", "orders-reader"]);
    up.until("bob is refused", &bob, 403);
    for _ in 0..2 {
        up.process.stop();
        up = Up::start(&upstream, &policy, &data);
        up.until("alice reads", &alice, 200);
        assert_eq!(up.status(&bob), 403);
        up.process.says("user::\"bob\" in role::\"orders-reader\"`: deleted at");
        up.process.says("starting on what is stored");
    }
    let said = up.run(&["apply", &policy]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.contains("roles.toml:3") && said.stderr.contains("role.revoke"),
        "{said:?}"
    );
    assert_eq!(up.status(&bob), 403);

    // A dry run shows texts and access; the log says who did what.
    scratch.write("policy/extra.cedar", "permit (principal == user::\"ann\", action, resource);\n");
    let dry = up.run(&["apply", &policy, "--dry-run"]);
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(
        dry.stdout.contains("gains what policy `extra` permits, only with user::\"ann\""),
        "{dry:?}"
    );
    std::fs::remove_file(scratch.join("policy/extra.cedar")).unwrap();
    let log = up.ok(&["audit", "--action", "role.revoke"]);
    assert!(log.contains("- member user::\"bob\" in role::\"orders-reader\""), "{log}");
    let csv = up.ok(&["audit", "--csv", "--kind", "grant", "--service", "orders"]);
    assert!(
        csv.starts_with("seq,revision,time,actor,action,service,kind,id,before,after\r\n"),
        "{csv}"
    );
    assert!(csv.contains(",grant.put,orders,grant,orders-admin: any on any,,\"{"), "{csv}");
    let json: serde_json::Value =
        serde_json::from_str(&up.ok(&["audit", "--json", "--limit", "1"])).unwrap();
    assert_eq!(json["entries"].as_array().unwrap().len(), 1);

    // A slip makes no role.
    let said = up.run(&["role", "assign", "user::ann", "orders-reeder"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("did you mean `role::\"orders-reader\"`?"), "{said:?}");
    up.ok(&["role", "assign", "user::ann", "orders-reeder", "--create"]);
    up.ok(&["role", "revoke", "user::ann", "orders-reeder"]);

    // A file that was forgotten empties nothing, by no way in.
    let roles = std::fs::read_to_string(scratch.join("policy/roles.toml")).unwrap();
    std::fs::remove_file(scratch.join("policy/roles.toml")).unwrap();
    let said = up.run(&["apply", &policy]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("the files have no roles.toml"), "{said:?}");
    up.process.stop();
    up = Up::start(&upstream, &policy, &data);
    up.until("alice reads", &alice, 200);
    scratch.write("policy/roles.toml", &roles);

    // A restore brings back what was, and says what becomes permitted again.
    let backup = scratch.join("one.kgbackup").to_str().unwrap().to_owned();
    let at = data.to_str().unwrap();
    assert_eq!(keepgate_run(&["center", "backup", &backup, "--data", at]).code, 0);

    // What is taken away is gone: a role, and a user.
    let said = up.run(&["role", "delete", "orders-reader"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("user::\"alice\" in role::\"orders-reader\""), "{said:?}");
    assert_eq!(up.status(&alice), 200);
    let gone = up.ok(&["role", "delete", "orders-reader", "--cascade"]);
    assert!(gone.contains("- grant") && gone.contains("deleted role::\"orders-reader\""), "{gone}");
    up.until("alice is refused", &alice, 403);
    assert!(!up.ok(&["role", "list"]).contains("orders-reader"));
    assert_eq!(up.run(&["user", "delete", "alice"]).code, 1);
    up.ok(&["user", "delete", "alice", "--cascade"]);
    up.until("her key is gone", &alice, 401);
    assert_eq!(up.run(&["user", "delete", "alice"]).code, 1, "there is nobody of that name");
    let said = up.run(&["apply", &policy]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("role.delete"), "{said:?}");
    assert_eq!(up.status(&bob), 403);

    up.process.stop();
    let said = keepgate_run(&["center", "restore", &backup, "--data", at]);
    assert!(said.stderr.contains("--accept-older"), "{said:?}");
    let said = keepgate_run(&["center", "restore", &backup, "--data", at, "--accept-older"]);
    assert_eq!(said.code, 0, "{said:?}");
    up = Up::start(&upstream, &policy, &data);
    up.until("alice reads again", &alice, 200);
    assert_eq!(up.status(&bob), 403, "the emergency was before the backup");

    // The admin token is lost: whoever is on the host has another one made, while all goes on.
    std::fs::remove_file(&up.token).unwrap();
    assert_eq!(up.run(&["service", "list"]).code, 1);
    let said = keepgate_run(&["center", "token", "--data", at, "--expires", "8h"]);
    assert_eq!(said.code, 0, "{said:?}");
    up.token = scratch.write("found.token", &said.stdout).display().to_string();
    up.ok(&["service", "list"]);
    assert_eq!(up.status(&alice), 200);
    let said = up.run(&["apply", &policy, "--overwrite"]);
    assert_eq!(said.code, 0, "{said:?}");
    up.until("bob reads again", &bob, 200);
    // The gate says that a restore has begun another history.
    up.process.stop_but(&["declared a successor of its history"]);
}
