//! A center, a gate with both listeners, and the upstream, with callers for each way.

use std::net::SocketAddr;

use serde_json::json;

use super::cases::Who;
use super::proxies::Way;
use super::upstream::Upstream;
use crate::harness::{Running, Scratch, eventually, text};
use crate::requests::{Center, Http};
use crate::separate::CenterProcess;

const SERVICE: &str = "name = \"orders\"\n[limits]\ndefault = \"off\"\n\
    [identify.api_key]\nheader = \"x-api-key\"\n";

const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "/orders", ""),
    ("POST", "/orders", ""),
    ("GET", "/orders/{id}", ""),
    ("PUT", "/orders/{id}", ""),
    ("PATCH", "/orders/{id}", ""),
    ("DELETE", "/orders/{id}", ""),
    ("GET", "/orders/secret", ""),
    ("*", "/admin{/*rest}", ""),
    ("GET", "/public", "anonymous = true"),
    ("GET", "/limited", ""),
    ("GET", "/by-address", "anonymous = true"),
    ("GET", "/by-ip", ""),
    ("GET", "/by-host", ""),
    ("GET", "/quota", ""),
    // The shortest that there is.
    ("GET", "/young", "max_age = \"3s\""),
];

const POLICIES: &str = r#"
permit (principal in role::"reader", action == Action::"GET", resource in route::"/orders");
permit (principal in role::"writer", action, resource in route::"/orders");
forbid (principal, action, resource == route::"/orders/secret");
permit (principal, action, resource == route::"/public");
permit (principal, action, resource == route::"/limited");
permit (principal, action, resource == route::"/by-address");
permit (principal in role::"reader", action, resource == route::"/young");
permit (principal, action, resource == route::"/by-ip")
  when { context.ip like "127.0.1.*" };
permit (principal, action, resource == route::"/by-host")
  when { context.host == "shop.example" };
"#;

const LIMITS: &str = "[[rule]]\nname = \"each\"\nkey = \"principal\"\nroute = \"/limited\"\n\
    rate = \"1/h\"\nburst = 1\n\
    [[rule]]\nname = \"address\"\nkey = \"address\"\nroute = \"/by-address\"\n\
    rate = \"1/h\"\nburst = 1\n\
    [plan.small]\n[[plan.small.rule]]\nname = \"quota\"\nkey = \"api_key\"\n\
    route = \"/quota\"\nrate = \"3/h\"\nburst = 3\n";

/// What the gate logs of callers that write addresses into headers.
pub(super) const SPOOFED: &[&str] = &["headers that name callers' addresses are dropped"];

/// All of it; ended when dropped.
pub(super) struct Stage {
    pub(super) scratch: Scratch,
    pub(super) center: CenterProcess,
    pub(super) gate: Gate,
    pub(super) scene: Scene,
}

/// What callers need; threads may share it.
pub(super) struct Scene {
    pub(super) upstream: Upstream,
    /// Where the gate forwards.
    pub(super) gate: SocketAddr,
    /// Where the gate is asked.
    pub(super) check: SocketAddr,
    keys: Vec<(Who, Way, String)>,
}

/// A gate that runs.
pub(super) struct Gate {
    pub(super) process: Running,
    /// Where it forwards.
    pub(super) address: SocketAddr,
    /// Where it is asked.
    pub(super) check: SocketAddr,
}

impl Stage {
    /// With a reader and a writer for each of these ways.
    pub(super) fn start(ways: &[Way]) -> Stage {
        let scratch = Scratch::new();
        scratch.write("policy/service.toml", SERVICE);
        let routes: String = ROUTES
            .iter()
            .map(|(method, path, more)| {
                format!("[[route]]\nmethod = \"{method}\"\npath = \"{path}\"\n{more}\n")
            })
            .collect();
        scratch.write("policy/routes.toml", &routes);
        scratch.write("policy/all.cedar", POLICIES);
        scratch.write("policy/limits.toml", LIMITS);
        let members = |role: &str| {
            let list: Vec<String> =
                ways.iter().map(|way| format!("'{}'", principal(role, *way))).collect();
            format!("[[role]]\nid = \"{role}\"\nmembers = [{}]\n", list.join(", "))
        };
        scratch.write("policy/roles.toml", &(members("reader") + &members("writer")));

        let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
        center.ok(&["apply", scratch.join("policy").to_str().unwrap()]);
        let mut admin =
            Center::new(&center.url, &std::fs::read_to_string(center.token_file()).unwrap());
        let mut keys = Vec::new();
        for way in ways {
            for (who, role) in [(Who::Reader, "reader"), (Who::Writer, "writer")] {
                let id = format!("{role}-{}", way.name());
                let body = json!({ "principal": { "type": "user", "id": id }, "plan": "small" });
                let made = admin.post("/v1/services/orders/keys", &body);
                keys.push((who, *way, text(&made, "/key")));
            }
        }
        let token = center.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
        scratch.write("gate.token", &token);
        let upstream = Upstream::start();
        let gate = Gate::start(&scratch, &center.url, upstream.address);
        let (_, _, last) = keys.last().unwrap();
        eventually("the gate has all keys", || {
            let mut http = Http::new(&gate.address.to_string(), &[("X-Api-Key", last)]);
            (http.get("/orders").status == 200).then_some(())
        });
        let scene = Scene { upstream, gate: gate.address, check: gate.check, keys };
        Stage { scratch, center, gate, scene }
    }
}

impl Scene {
    /// The API key of a caller.
    pub(super) fn key(&self, who: Who, way: Way) -> Option<&str> {
        match who {
            Who::Nobody => None,
            Who::Unknown => Some("kgk_nobody_has_this_one"),
            _ => {
                let mut keys = self.keys.iter();
                keys.find(|(w, y, _)| (*w, *y) == (who, way)).map(|(_, _, key)| key.as_str())
            }
        }
    }
}

impl Gate {
    /// Before this upstream, following a center that need not be there.
    pub(super) fn start(scratch: &Scratch, center: &str, upstream: SocketAddr) -> Gate {
        let (any, token) = ("127.0.0.1:0", scratch.join("gate.token"));
        let mut process = Running::keepgate(&[
            "gate",
            "--json",
            "--center",
            center,
            "--token-file",
            token.to_str().unwrap(),
            "--service",
            "orders",
            "--upstream",
            &format!("http://{upstream}"),
            "--listen",
            any,
            "--check-listen",
            any,
            "--admin-listen",
            any,
        ]);
        let screen = process.json();
        let at = |path| text(&screen, path).trim_start_matches("http://").parse().unwrap();
        Gate { address: at("/gate"), check: at("/check"), process }
    }
}

/// A caller in Cedar syntax.
pub(super) fn principal(role: &str, way: Way) -> String {
    format!("user::\"{role}-{}\"", way.name())
}
