//! `keepgate plan`, keys in plans, and grants, as somebody types them.

use serde_json::Value;

use crate::harness::{Said, Scratch, keepgate_run};
use crate::separate::{CenterProcess, policies};

fn said(center: &CenterProcess, args: &[&str]) -> Said {
    let args = center.with(args);
    keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn refused(center: &CenterProcess, args: &[&str], parts: &[&str]) {
    let said = said(center, args);
    assert_eq!(said.code, 1, "{said:?}");
    for part in parts {
        assert!(said.stderr.contains(part), "no `{part}` in {}", said.stderr);
    }
}

#[test]
fn a_heavy_user_is_put_into_a_plan() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &policies(&scratch, "1h")]);
    // As the documents write it, before there is a plan: the way out is named.
    let create = ["key", "create", "--principal", "client::crawler", "--plan", "bulk"];
    let create = [&create[..], &["--expires", "90d"]].concat();
    refused(
        &center,
        &create,
        &["there is no plan `bulk` in service `orders`", "keepgate plan set"],
    );

    let set = ["plan", "set", "bulk", "--rate", "1000/min", "--burst", "50", "--concurrency", "8"];
    let set = [&set[..], &["--description", "for crawlers that asked"]].concat();
    assert!(center.ok(&set).starts_with("made the plan bulk, revision "));
    assert!(center.ok(&set).starts_with("unchanged: the plan bulk"));
    let file = "[[rule]]\nname = \"reads\"\nkey = \"principal\"\nmethods = [\"GET\"]\n\
        route = \"/orders/*\"\nrate = \"5/s\"\n[[rule]]\nname = \"all\"\nkey = \"api_key\"\nrate = \"9/s\"\n";
    let file = scratch.write("partner.toml", file).to_str().unwrap().to_owned();
    center.ok(&["plan", "create", "partner", "--file", &file]);

    let key = center.ok(&create);
    assert!(key.starts_with("kgk_") && key.lines().count() == 1, "{key}");
    let prefix = key.split('_').nth(1).unwrap();
    // Both forms of an entity, and the old name of the flag.
    let other = ["key", "create", "--principal", "client::\"it's\"", "--expires-in", "1h"];
    center.ok(&other);
    refused(
        &center,
        &["key", "create", "--principal", "user::bob", "--plan", "bulky"],
        &["no plan `bulky`", "its plans are `bulk`, `partner`"],
    );
    let wrong = said(&center, &["key", "create", "--principal", "crawler"]);
    assert_eq!(wrong.code, 64, "{wrong:?}");
    assert!(
        wrong.stderr.contains("expected kind::id or 'kind::\"id\"', got `crawler`"),
        "{wrong:?}"
    );

    let listed = center.ok(&["plan", "list"]);
    let lines: Vec<&str> = listed.lines().map(str::trim_end).collect();
    let limits = "1000/min each api_key, burst 50, 8 at once";
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["PLAN", "KEYS", "LIMITS", "DESCRIPTION"]
    );
    assert!(lines[1].starts_with("bulk     1     ") && lines[1].contains(limits), "{listed}");
    assert!(lines[1].ends_with("for crawlers that asked"), "{listed}");
    assert!(
        lines[2]
            .starts_with("partner  0     5/s each principal, on GET /orders/*; 9/s each api_key"),
        "{listed}"
    );
    let json: Value = serde_json::from_str(&center.ok(&["plan", "list", "--json"])).unwrap();
    assert_eq!((&json["plans"][0]["name"], &json["plans"][0]["keys"]), (&"bulk".into(), &1.into()));
    assert_eq!(json["plans"][0]["rule"][0]["rate"], "1000/min");

    let shown = center.ok(&["plan", "show", "bulk"]);
    assert!(shown.contains(limits) && shown.contains(prefix), "{shown}");
    // A date that a person reads; seconds for programs.
    let keys: Value = serde_json::from_str(&center.ok(&["key", "list", "--json"])).unwrap();
    let of = |key: &&Value| key["prefix"] == prefix;
    let found = keys["keys"].as_array().unwrap().iter().find(of).unwrap();
    assert!(found["expires_unix_s"].is_u64(), "{found}");
    let listed = center.ok(&["key", "list"]);
    let line = listed.lines().find(|line| line.starts_with(prefix)).unwrap();
    assert!(line.contains(" UTC") && line.contains("20"), "{line}");
    assert!(!line.contains(&found["expires_unix_s"].to_string()), "{line}");
    assert!(center.ok(&["plan", "show", "partner"]).contains("no key is in it"));

    // A plan with keys stays, and says whose they are; an empty one goes.
    let owner = format!("{prefix} of client::\"crawler\"");
    refused(&center, &["plan", "remove", "bulk"], &[&owner, "revoke them"]);
    center.ok(&["key", "revoke", prefix]);
    center.ok(&["plan", "remove", "bulk"]);
    center.ok(&["plan", "remove", "partner"]);
    refused(&center, &["plan", "remove", "bulk"], &[" 404 "]);
    refused(
        &center,
        &["plan", "set", "x", "--rate", "5/s", "--burst", "0"],
        &["rule `x` is refused"],
    );
    assert_eq!(said(&center, &["plan", "set", "x"]).code, 64, "a plan limits something");
    center.process.stop();
}

#[test]
fn a_role_is_granted_and_not_any_more() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &policies(&scratch, "1h")]);
    let check = ["check", "--principal", "user::alice", "--action", "POST"];
    let check = [&check[..], &["--resource", "route::/orders"]].concat();
    assert_eq!(said(&center, &check).code, 2);
    let grant = ["role", "grant", "orders-reader", "--action", "POST,PUT", "--resource"];
    let done = center.ok(&[&grant[..], &["route::/orders"]].concat());
    assert!(
        done.starts_with("granted orders-reader: POST, PUT on route::\"/orders\", rev"),
        "{done}"
    );
    assert_eq!(said(&center, &check).code, 0);
    let listed = center.ok(&["role", "grants"]);
    assert!(listed.contains("orders-reader: GET on route::\"/orders\""), "{listed}");
    assert!(listed.contains("Action::\"POST\", Action::\"PUT\""), "{listed}");
    center.ok(&["role", "ungrant", "orders-reader: POST, PUT on route::\"/orders\""]);
    assert_eq!(said(&center, &check).code, 2);
    // Everything can be granted, and must be said.
    assert_eq!(said(&center, &["role", "grant", "x", "--action", "any"]).code, 64);
    let both = ["role", "grant", "x", "--action", "any,GET", "--resource", "any"];
    assert_eq!(said(&center, &both).code, 64);
    center.ok(&["role", "grant", "user::alice", "--action", "any", "--resource", "any"]);
    assert_eq!(said(&center, &check).code, 0);
    center.process.stop();
}
