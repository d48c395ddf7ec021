//! The console in a real browser: `tests/browser/console.mjs`, by Debian's Chromium.

use std::time::Duration;

use keepgate_center::OidcConfig;
use keepgate_identify::access::{Asker, KeyAccess};
use keepgate_limit::top::{Observation, Outcome, Top};
use keepgate_limit::{AddressKey, Nanos, Seed};
use keepgate_policy::proto::caller_question::Question;
use keepgate_policy::proto::{AskAccess, Figures, GateReport, LimitFigures, PortsLeft};
use serde_json::json;

use crate::browser::Needs;
use crate::database::skipped;
use crate::fixture::{Dir, Mirror, Running, STAFF, config};
use crate::gate_reports;

/// A gate's report: a crawler, and three people.
fn report() -> Vec<u8> {
    let top = Top::new(Seed::new([7; 16]), 1, 256, Duration::from_secs(60));
    let at = |ms: u64| Nanos::new(ms * 1_000_000);
    for n in 0..2_400_u64 {
        let (is_crawl, path) = (n % 12 != 0, format!("/orders/{n}"));
        let person = ["alice", "bob", "carol"][(n / 12 % 3) as usize];
        let outcome = match (is_crawl, n % 12) {
            (true, 1..=5) => Outcome::Limited,
            (false, _) if n % 96 == 0 => Outcome::Denied,
            _ => Outcome::Other,
        };
        top.record(
            0,
            &Observation {
                address: AddressKey::V4([198, 51, 100, if is_crawl { 7 } else { 20 }].into()),
                principal: Some(if is_crawl { ("client", "crawler") } else { ("user", person) }),
                user_agent: Some(if is_crawl { "crawler/1.0" } else { "Mozilla/5.0" }),
                method: "GET",
                route: Some(if is_crawl { "/orders/{id}" } else { "/orders" }),
                path: is_crawl.then_some(path.as_str()),
                refused: outcome != Outcome::Other,
                outcome,
                now: at(n * 20),
            },
        );
    }
    serde_json::to_vec(&top.report(at(48_000), 20, None)).unwrap()
}

/// What the gate did in a few seconds.
fn figures(requests: u64) -> Figures {
    let limits =
        [("everybody", 9, 4), ("bulk", 2, 0)].map(|(name, passed, refused)| LimitFigures {
            name: name.to_owned(),
            passed: requests * passed / 13,
            refused: requests * refused / 13,
        });
    Figures {
        service: "orders".to_owned(),
        requests,
        refused: requests * 4 / 13 + requests / 50,
        limited: requests * 4 / 13,
        denied: requests / 50,
        undecided: 0,
        limits: limits.to_vec(),
    }
}

const POLICIES: &str = "// Whatever roles it is put into, a program changes nothing.\n\
    @id(\"clients-only-read\")\nforbid (principal is client, action, resource)\n\
    unless { action == Action::\"GET\" };\n\n\
    @id(\"admins\")\npermit (principal in role::\"orders-admin\", action, resource in route::\"/orders\");\n\n\
    @id(\"everybody-reads\")\npermit (principal, action == Action::\"GET\", resource);\n";

const ROUTES: &str = "[[route]]\nmethod = \"GET\"\npath = \"/orders\"\n\
    operation = \"listOrders\\nLists the orders of a customer\"\n\n[[route]]\nmethod = \"GET\"\n\
    path = \"/orders/{id}\"\noperation = \"showOrder\\nShows one order\"\n\n[[route]]\nmethod = \"DELETE\"\n\
    path = \"/orders/{id}\"\nmax_age = \"5s\"\n";

/// A center with a service, a gate that reports, and one that has nothing to say.
async fn world(center: &Running) -> (Mirror, Mirror) {
    let files = json!({ "files": {
        "service.toml": "name = \"orders\"\nauthzen = \"default\"\n[identify.api_key]\n\
                         [callers_page]\ncenter = true\nurl = \"https://shop.example\"\n",
        "orders.cedar": POLICIES,
        "routes.toml": ROUTES,
        "roles.toml": "[[role]]\nid = \"orders-admin\"\ndescription = \"everything on orders\"\n\
                       members = ['user::\"alice\"']\n",
    } });
    center.ask("POST", "/v1/services/orders/apply", Some(files)).await.good();
    let rule = json!({ "key": "address", "rate": "20/s", "burst": 40 });
    center.ask("PUT", "/v1/services/orders/limits/everybody", Some(rule)).await.good();
    let plan = json!({ "description": "for programs that ask", "rule": [
            { "name": "bulk", "key": "api_key", "rate": "50/s", "burst": 100 },
            { "name": "bulk-one", "key": "api_key", "rate": "3000/min", "route": "/orders/{id}",
              "methods": ["GET"], "concurrency": 8 },
        ] });
    center.ask("PUT", "/v1/services/orders/plans/bulk", Some(plan)).await.good();
    center.service("stock", &[]).await;
    let grant = json!({ "principal": { "type": "role", "id": "orders-admin" }, "actions": [],
        "resource": { "type": "route", "id": "/orders" } });
    center.ask("PUT", "/v1/services/orders/grants/admins-all", Some(grant)).await.good();
    for name in ["crawler", "returns"] {
        let key = json!({ "principal": format!("client::\"{name}\""), "note": "from the desk",
            "plan": if name == "returns" { "bulk" } else { "" } });
        center.ask("POST", "/v1/services/orders/keys", Some(key)).await.good();
    }
    // Something of the past: a membership that was taken away, and a policy that became another.
    let night = json!({ "member": "user::\"carol\"", "role": "role::\"orders-admin\"" });
    center.ask("POST", "/v1/roles/assign", Some(night.clone())).await.good();
    center.ask("POST", "/v1/roles/revoke", Some(night)).await.good();
    let text = POLICIES.replace(
        "== Action::\"GET\", resource);",
        "in [Action::\"GET\", Action::\"HEAD\"], resource);",
    );
    let text = json!({ "text": text });
    center.ask("PUT", "/v1/services/orders/cedar", Some(text)).await.good();
    let token = center.token("gate", "orders").await;
    let mut one = Mirror::follow(center, &token, &["orders"]).await.unwrap();
    let two = Mirror::follow(center, &token, &["orders"]).await.unwrap();
    one.figures(figures(400)).await;
    one.report("orders", report()).await;
    let asked = AskAccess {
        who: "Price crawler, crawler@example.org".to_owned(),
        what_for: "Reads each order once a day".to_owned(),
        per_day: 100_000,
    };
    one.question("orders", "192.0.2.7", Question::AskAccess(asked)).await;
    (one, two)
}

/// How the gate is; the other one does not say.
fn gate_report() -> GateReport {
    let report = gate_reports::report();
    let tightest = report.tightest.map(|left| PortsLeft { free: 26_900, ..left });
    let verdict = Some("healthy".to_owned());
    GateReport { tightest, verdict, headline: None, ..report }
}

async fn run(pictures: Option<&str>) {
    let needs = match Needs::found() {
        Ok(needs) => needs,
        Err(why) => return skipped(why),
    };
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let gates = world(&center).await;
    gates.0.gate_report(gate_report()).await;
    // For the charts of pictures: a minute and a half in which something happens.
    for n in 0..if pictures.is_some() { 9 } else { 0 } {
        gates.0.figures(figures(300 + 60 * n)).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let editor = center.token("editor", "stock").await;
    let (base, admin) = (format!("http://{}", center.addr), center.admin.clone());
    let database = dir.path().join("center.db").display().to_string();
    let asked = center.ask("GET", "/v1/services/orders/requests", None).await.good();
    let request = asked["requests"][0]["id"].as_str().unwrap().to_owned();
    let mut more = vec![
        ("BASE", base),
        ("ADMIN", admin),
        ("EDITOR", editor),
        ("DATABASE", database),
        ("REQUEST", request),
    ];
    more.extend(pictures.map(|to| ("PICTURES", to.to_owned())));
    let shown = tokio::task::spawn_blocking(move || needs.run("console.mjs", &more));
    // As a gate does: a report of half a minute ago says nothing about now.
    let again = async {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            gates.0.report("orders", report()).await;
            gates.0.gate_report(gate_report()).await;
        }
    };
    tokio::select! {
        shown = shown => shown.unwrap(),
        () = again => {}
    }
}

/// Sign in, a wrong token, an expired session, a forged form, the editor of another service, two editors
/// at once; live and not live; axe-core on every page, in both themes and both languages; a phone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_in_a_browser() {
    run(None).await;
}

/// People come in by a real provider, and find what they wrote after their session ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_in_at_a_provider_in_a_browser() {
    let needs = match Needs::found() {
        Ok(needs) => needs,
        Err(why) => return skipped(why),
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let dir = Dir::new();
    let mut config = config(&dir);
    let secret = "not a secret, for this test";
    config.oidc = Some(OidcConfig {
        issuer: issuer.clone(),
        client_id: "keepgate".to_owned(),
        client_secret: Some(secret.to_owned()),
        scopes: vec!["groups".to_owned()],
        roles: vec!["admin=groups=platform".parse().unwrap()],
        user_claim: "sub".to_owned(),
        session: Duration::from_secs(3_600),
    });
    config.outbound = KeyAccess {
        allow: vec![issuer.parse().unwrap()],
        asker: Asker::Center,
        ..KeyAccess::default()
    };
    let center = Running::with(config).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let more = vec![
        ("BASE", format!("http://{}", center.addr)),
        ("ADMIN", center.admin.clone()),
        ("ISSUER", issuer),
        ("SECRET", secret.to_owned()),
        ("DATABASE", dir.path().join("center.db").display().to_string()),
    ];
    tokio::task::spawn_blocking(move || needs.run("oidc.mjs", &more)).await.unwrap();
    center.stop().await;
}

/// Pictures of every page, for people to look at: `scripts/long console-pictures`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes pictures"]
async fn pictures_of_the_console() {
    let Ok(to) = std::env::var("KEEPGATE_PICTURES") else {
        println!("no picture is made: KEEPGATE_PICTURES names no directory");
        return;
    };
    run(Some(&to)).await;
}
