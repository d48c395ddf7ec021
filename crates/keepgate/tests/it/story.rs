//! One story in a real browser, from start to end: a center, a gate, an upstream, an operator at the
//! console, bob, and a crawler. `crates/center/tests/browser/story.mjs` tells it.

use crate::browser::Needs;
use crate::harness::{Nginx, Running, Scratch, gate_args, skipped, text};
use crate::separate::{CenterProcess, policies};

/// A limit that a crawler meets and bob does not, and a plan for those who ask.
const LIMITS: &str = "[[rule]]\nname = \"reads\"\nkey = \"principal\"\nroute = \"/orders/{id}\"\n\
    rate = \"1/min\"\nburst = 5\n\n[plan.bulk]\ndescription = \"for crawlers that asked\"\n\n\
    [[plan.bulk.rule]]\nname = \"bulk\"\nkey = \"api_key\"\nrate = \"1000/s\"\n";

const ROLES: &str = "[[role]]\nid = \"orders-reader\"\nmembers = ['user::\"alice\"', 'client::\"crawler\"']\n\
    [[role.grant]]\nactions = [\"GET\"]\nresource = 'route::\"/orders\"'\n\
    [[role.grant]]\nactions = [\"GET\"]\nresource = 'route::\"/orders/{id}\"'\n";

#[test]
fn bob_is_let_in_and_a_crawler_gets_a_plan() {
    let needs = match Needs::found() {
        Ok(needs) => needs,
        Err(why) => return skipped(why),
    };
    let Some(nginx) = Nginx::start(None, "127.0.0.1") else { return skipped("nginx") };
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    let policy = policies(&scratch, "1h");
    scratch.write("policy/roles.toml", ROLES);
    scratch.write("policy/limits.toml", LIMITS);
    center.ok(&["apply", &policy]);
    let key = |who: &str| center.ok(&["key", "create", "--principal", who]).trim().to_owned();
    let (bob, crawler) = (key("user::bob"), key("client::crawler"));
    let token = center.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
    let token = scratch.write("gate.token", &token).to_str().unwrap().to_owned();
    let upstream = format!("http://127.0.0.1:{}", nginx.port);
    let args = gate_args(&center.url, &token, "127.0.0.1:0");
    let args: Vec<&str> = args
        .into_iter()
        .map(|arg| if arg == "http://127.0.0.1:9" { &upstream } else { arg })
        .collect();
    let mut gate = Running::keepgate(&args);
    let url = text(&gate.json(), "/gate");
    let admin = std::fs::read_to_string(center.token_file()).unwrap().trim().to_owned();
    needs.run(
        "story.mjs",
        &[
            ("CENTER", center.url.clone()),
            ("GATE", url),
            ("ADMIN", admin),
            ("BOB", bob),
            ("CRAWLER", crawler),
        ],
    );
    gate.stop();
    center.process.stop();
}
