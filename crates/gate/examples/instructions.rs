//! The work whose instructions `scripts/bench-instructions` counts: a fixed number of operations, in
//! one thread, from fixed questions.
//!
//! `instructions decide N`, `instructions limits N`, or `instructions gate UPSTREAM`: a gate with one
//! worker that prints its address and serves until its standard input ends (`recorded`: each request is
//! recorded in a trace; `logged`: in an access log, in the file that follows). The script counts two
//! runs of different lengths; what starting costs is the same in both.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use keepgate_gate::{FixedSource, Gate, GateConfig, Listen, RecordConfig};
use keepgate_limit::{AddressKey, Caller, Limiter, Limits, Nanos, Seed, ServiceFacts};
use keepgate_observe::span::{Sampler, Span, SpanSink, Tracing};
use keepgate_policy::limits::Written;
use keepgate_policy::model::GrantBody;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Digest, Item, ItemBody, Query, Revision, Snapshot, Uid, World};
use keepgate_record::Destination;

type Fault = Box<dyn std::error::Error + Send + Sync>;

const SERVICE: &str = "orders";
/// Users, each with a grant of its own.
const USERS: u64 = 1_000;
/// A rate that nobody reaches: every request is charged in both phases.
const RATE: &str = "1000000000/s";

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["decide", count] => decide(count.parse()?),
        ["limits", count] => limits(count.parse()?),
        ["gate", upstream] => gate((*upstream).to_owned(), None, None),
        ["recorded", upstream] => {
            let sampler = Sampler { ratio: 1.0, parent_based: true, honors_callers: false };
            let tracing = Tracing { sampler, sink: Arc::new(Dropping) };
            gate((*upstream).to_owned(), Some(tracing), None)
        }
        ["logged", upstream, file] => {
            let records = RecordConfig::new(Destination::File(file.into()), "bench");
            gate((*upstream).to_owned(), None, Some(records))
        }
        _ => Err("expected `decide N`, `limits N`, `gate UPSTREAM`, `recorded UPSTREAM` or \
                  `logged UPSTREAM FILE`"
            .into()),
    }
}

/// Each user may `GET /orders`; every other question is about `POST`, which nobody may.
fn decide(count: u64) -> Result<(), Fault> {
    let world = world()?;
    let users: Vec<Uid> = (0..USERS).map(user).collect();
    let actions = [Uid::action("GET"), Uid::action("POST")];
    let resource = Uid::route("/orders/{id}");
    let context = BTreeMap::from([
        ("method".to_owned(), "GET".into()),
        ("path".to_owned(), "/orders/7".into()),
        ("host".to_owned(), "shop.example".into()),
    ]);
    let mut allowed = 0;
    for (turn, (user, action)) in (0..count).zip(users.iter().cycle().zip(actions.iter().cycle())) {
        let query = Query::new(user, action, &resource).service(SERVICE).context(&context);
        let decision = world.decide(black_box(&query))?;
        allowed += u64::from(decision.is_allowed());
        assert_eq!(decision.is_allowed(), turn % 2 == 0, "only GET is granted");
    }
    assert_eq!(allowed, count.div_ceil(2), "only GET is granted");
    Ok(())
}

/// A rule by address and one by principal, for as many callers as there are users.
fn limits(count: u64) -> Result<(), Fault> {
    let rules: Limits = serde_json::from_value(serde_json::json!({"rule": [
        {"name": "address", "key": "address", "rate": RATE},
        {"name": "principal", "key": "principal", "rate": RATE},
    ]}))?;
    let limiter = Limiter::compile(&rules, &ServiceFacts::default(), Seed::new([7; 16]), None)?;
    let names: Vec<String> = (0..USERS).map(|n| user(n).id).collect();
    let route = Some("/orders/{id}");
    for (turn, (name, host)) in (0..count).zip(names.iter().zip(1..).cycle()) {
        let now = Nanos::new(1_000_000_000 + turn * 1_000);
        let from = AddressKey::V4(Ipv4Addr::from_bits(0x0a00_0000 + host));
        assert!(limiter.check_address(&from, "GET", route, now).is_admitted(), "{RATE}");
        let caller = Caller { principal: Some(("user", name)), ..Caller::anonymous(from) };
        assert!(limiter.check_principal(&caller, "GET", route, now).is_admitted(), "{RATE}");
    }
    Ok(())
}

/// Takes spans, and drops them: what is sent is sent by another thread.
#[derive(Debug)]
struct Dropping;

impl SpanSink for Dropping {
    fn take(&self, span: Span) {
        drop(black_box(span));
    }
}

/// The whole gate, identifying by a trusted header.
fn gate(
    upstream: String,
    tracing: Option<Tracing>,
    records: Option<RecordConfig>,
) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = GateConfig {
            service: SERVICE.to_owned(),
            upstream,
            listen: Listen::Tcp("127.0.0.1:0".parse()?),
            workers: 1,
            tracing,
            records,
            ..GateConfig::default()
        };
        let gate = Gate::with_source(config, Arc::new(FixedSource::new(world()?))).await?;
        println!("{}", gate.addr().ok_or("a gate on TCP has an address")?);
        let end = async {
            let read = || std::io::stdin().read_to_end(&mut Vec::new());
            let _ = tokio::task::spawn_blocking(read).await;
        };
        Ok(gate.run(end).await?)
    })
}

fn user(n: u64) -> Uid {
    Uid::new("user", format!("user{n}"))
}

fn world() -> Result<World, Fault> {
    let settings: ServiceSettings = serde_json::from_value(serde_json::json!({
        "name": SERVICE,
        "identify": {"trusted_header": {"header": "x-user", "peers": ["127.0.0.0/8"]}},
    }))?;
    let mut items = vec![Item::new(SERVICE, "", ItemBody::Service(Box::new(settings)))];
    for key in ["address", "principal"] {
        let rule = serde_json::json!({"name": format!("default-{key}"), "key": key, "rate": RATE});
        items.push(Item::new(SERVICE, "", ItemBody::Limit(Box::new(Written::read(rule)?))));
    }
    for method in ["GET", "POST"] {
        let route =
            serde_json::from_value(serde_json::json!({"method": method, "path": "/orders/{id}"}))?;
        let id = format!("{method} /orders/{{id}}");
        items.push(Item::new(SERVICE, &id, ItemBody::Route(Box::new(route))));
    }
    for n in 0..USERS {
        let grant = GrantBody {
            principal: user(n),
            actions: vec![Uid::action("GET")],
            resource: Some(Uid::route("/orders")),
            until_unix_s: None,
        };
        items.push(Item::new(SERVICE, &format!("grant{n}"), ItemBody::Grant(grant)));
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let digest = Digest::of_all(&items);
    Ok(World::from_snapshot(&Snapshot { revision: Revision(1), digest, items })?)
}
