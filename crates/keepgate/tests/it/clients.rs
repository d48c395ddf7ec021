//! A crawler walks the ids of one route through two gates of one center: `top clients` names it,
//! with its share, the plan that fits it and the command that puts it there.

use serde_json::Value;

use crate::harness::{Nginx, Running, Scratch, eventually, keepgate_run, skipped, text};
use crate::requests::Http;
use crate::separate::CenterProcess;

const SERVICE: &str = "name = \"orders\"\n[identify.api_key]\n";
const ROUTES: &str = "[[route]]\nmethod = \"GET\"\npath = \"/orders\"\n\n\
    [[route]]\nmethod = \"GET\"\npath = \"/orders/{id}\"\n";
const ROLES: &str = "[[role]]\nid = \"reader\"\nmembers = ['user::\"alice\"', 'client::\"crawler\"']\n\
    [[role.grant]]\nactions = [\"GET\"]\nresource = 'route::\"/orders\"'\n";
/// Every second crawled id is refused sooner or later: the burst is short, the rate slow.
const LIMITS: &str = "[[rule]]\nname = \"each\"\nkey = \"principal\"\nrate = \"60/h\"\nburst = 200\n\
    [[rule]]\nname = \"address\"\nkey = \"address\"\nrate = \"100000/s\"\n\
    [plan.small]\n[[plan.small.rule]]\nname = \"small\"\nkey = \"api_key\"\nrate = \"1/h\"\n\
    [plan.bulk]\ndescription = \"for crawlers that asked\"\n\
    [[plan.bulk.rule]]\nname = \"bulk\"\nkey = \"api_key\"\nrate = \"100000/s\"\n";

fn gate(center: &CenterProcess, token: &str, upstream: &str) -> (Running, String, String) {
    let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let of = ["--service", "orders", "--upstream", upstream, "--center", &center.url];
    let args = [&["gate", "--json", "--token-file", token][..], &of, &listen].concat();
    let mut gate = Running::keepgate(&args);
    let screen = gate.json();
    (gate, text(&screen, "/gate"), text(&screen, "/admin"))
}

/// The console, as the holder of this token.
fn signed_in(url: &str, bearer: &str) -> Http {
    let login = Http::new(url, &[]).get("/login");
    let cookie = |answer: &crate::requests::Answer| {
        answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
    };
    let (form, page) = (cookie(&login), login.text());
    let csrf = page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let kind = ("Content-Type", "application/x-www-form-urlencoded");
    let mut http = Http::new(url, &[("Cookie", &form), ("Origin", url), kind]);
    let token = bearer.trim_start_matches("Bearer ");
    let answer = http.send("POST", "/login", &format!("csrf={csrf}&token={token}"));
    assert_eq!(answer.status, 303, "{}", answer.text());
    Http::new(url, &[("Cookie", &cookie(&answer))])
}

#[test]
fn a_crawl_through_two_gates_is_named_with_its_plan() {
    let Some(nginx) = Nginx::start(None, "127.0.0.1") else {
        return skipped("nginx is not installed");
    };
    let scratch = Scratch::new();
    for (file, content) in [
        ("service.toml", SERVICE),
        ("routes.toml", ROUTES),
        ("roles.toml", ROLES),
        ("limits.toml", LIMITS),
    ] {
        scratch.write(&format!("policy/{file}"), content);
    }
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", scratch.join("policy").to_str().unwrap()]);
    let key = |who: &str| center.ok(&["key", "create", "--principal", who]).trim().to_owned();
    let (alice, crawler) = (key("user::alice"), key("client::crawler"));
    let token = center.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
    let token = scratch.write("gate.token", &token).to_str().unwrap().to_owned();

    // No gate yet: that is what is said, and not "no traffic".
    let ask = |args: &[&str]| {
        let args = center.with(&[&["top", "clients"][..], args].concat());
        keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let said = ask(&[]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stdout.contains("no gate of it is connected"), "{said:?}");

    let upstream = format!("http://127.0.0.1:{}", nginx.port);
    let gates = [gate(&center, &token, &upstream), gate(&center, &token, &upstream)];
    for (number, (_, url, _)) in gates.iter().enumerate() {
        let mut person = Http::new(url, &[("X-Api-Key", &alice), ("User-Agent", "browser/1")]);
        eventually("the gate decides", || (person.get("/orders").status == 200).then_some(()));
        let walk = [("X-Api-Key", crawler.as_str()), ("User-Agent", "crawl/1")];
        let mut crawl = Http::new(url, &walk);
        for id in 0..400 {
            let id = 400 * number + id;
            let status = crawl.get(&format!("/orders/{id}")).status;
            assert!(status == 200 || status == 429, "{status}");
        }
        for _ in 0..20 {
            assert_eq!(person.get("/orders").status, 200);
        }
    }

    let path = "/v1/services/orders/top";
    let bearer = std::fs::read_to_string(center.token_file()).unwrap();
    let bearer = format!("Bearer {}", bearer.trim());
    let mut admin = Http::new(&center.url, &[("Authorization", &bearer)]);
    let told: Value = eventually("both gates have told of all of it", || {
        let told = admin.get(path).json();
        (told["gates"]["heard"] == 2 && told["requests"].as_u64() >= Some(842)).then_some(told)
    });
    let requests = told["requests"].as_u64().unwrap() as f64;
    let who = &told["principals"][0];
    assert_eq!((text(who, "/name"), &who["requests"]), ("client::\"crawler\"".into(), &800.into()));
    assert!((who["share"].as_f64().unwrap() - 800.0 / requests).abs() < 1e-9, "{told}");
    // Each gate lets a burst of 200 through, and a token or two more.
    let refused = who["refused"].as_u64().unwrap();
    assert!((380..=400).contains(&refused), "{who}");
    let crawl = &told["crawls"][0];
    assert_eq!(
        (text(crawl, "/route"), text(crawl, "/plan")),
        ("/orders/{id}".into(), "bulk".into())
    );
    assert_eq!(crawl["requests"], 800, "{crawl}");
    assert_eq!(told["crawls"].as_array().unwrap().len(), 1, "alice walks nothing: {told}");

    // Each gate says how it and its host are. Over 200 requests of each were put on a connection.
    let status = eventually("both gates have told how they are", || {
        let status = admin.get("/v1/status").json();
        let gates = status["gates"].as_array().unwrap();
        let has_told = |gate: &&Value| gate["report"]["requests"].as_u64() > Some(200);
        (gates.iter().filter(has_told).count() == 2).then_some(status)
    });
    for gate in status["gates"].as_array().unwrap() {
        let report = &gate["report"];
        let (requests, reused) = (report["requests"].as_u64(), report["reused"].as_u64());
        // One connection to the upstream carries nearly all of them.
        assert!(reused > Some(150) && reused < requests, "{report}");
        assert!(report["upstream_connections"].as_u64() >= Some(1), "{report}");
        assert!(report["caller_connections"].as_u64().is_some(), "{report}");
        let free = report["tightest"]["free"].as_u64().unwrap();
        assert!(free > 0 && free <= report["tightest"]["usable"].as_u64().unwrap(), "{report}");
        assert_eq!(report["tightest"]["destination"], format!("127.0.0.1:{}", nginx.port));
        let verdicts = ["healthy", "at_risk", "exhausted", "not_ports", "unknown"];
        assert!(verdicts.contains(&report["verdict"].as_str().unwrap()), "{report}");
    }

    let said = ask(&["--service", "orders"]);
    assert_eq!(said.code, 0, "{said:?}");
    let shown = said.stdout;
    // Alice asked until each gate decided, which takes longer on a busy machine.
    let share = format!("different ids, {:.0} % of requests", 100.0 * 800.0 / requests);
    for part in [
        "requests in ",
        " at 2 gates (oldest report ",
        "CRAWL  client::\"crawler\" walks /orders/{id}: about ",
        &share,
        "the plan bulk fits it",
        "keepgate key create --service orders --principal client::crawler --plan bulk",
        "  user::\"alice\"",
        "  crawl/1",
    ] {
        assert!(shown.contains(part), "no `{part}` in:\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "no colors in a pipe: {shown}");
    // What it says to do next works as it is written, and a program reads the same.
    let command =
        shown.lines().map(str::trim).find(|l| l.starts_with("keepgate key create")).unwrap();
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    assert!(center.ok(&words).starts_with("kgk_"), "{command}");
    let json: Value = serde_json::from_str(&ask(&["--json"]).stdout).unwrap();
    assert_eq!(json["principals"][0]["requests"], 800);

    // The center adds up what each gate says it did, to the last request, and shows it beside the limits.
    let hour: Value = eventually("both gates have told what they did", || {
        let hour = admin.get("/v1/services/orders/hour").json();
        (hour["requests"].as_u64() >= Some(requests as u64)).then_some(hour)
    });
    assert_eq!(hour["requests"].as_f64(), Some(requests), "{hour}");
    let limits = hour["limits"].as_array().unwrap();
    let each = limits.iter().find(|limit| limit["name"] == "each").unwrap();
    assert_eq!((&each["refused"], &hour["limited"]), (&refused.into(), &refused.into()), "{hour}");
    let row =
        format!("each</th><td class=\"n\">{}</td><td class=\"n\">{refused}<", each["requests"]);
    let page = signed_in(&center.url, &bearer).get("/policies?service=orders&tab=limits").text();
    assert!(page.contains(&row), "no `{row}` in:\n{page}");

    // One gate, asked without any center.
    let (_, _, admin) = &gates[0];
    let said = keepgate_run(&["top", "clients", "--gate", admin]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("CRAWL  client::\"crawler\" walks /orders/{id}"), "{said:?}");
    assert!(!said.stdout.contains("gates (oldest"), "{said:?}");
    for (gate, _, _) in gates {
        gate.stop();
    }
    center.process.stop();
}
