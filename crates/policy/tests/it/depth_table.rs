//! The table of docs/reliability.md: each kind of input at its bound and at ten times that.
//!
//! Each row is measured in a process of its own, so that its peak memory is its own.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use keepgate_policy::authzen::Evaluation;
use keepgate_policy::model::{EntityBody, PolicyBody, SchemaBody};
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{
    Item, ItemBody, MAX_DEPTH, MAX_ENVIRONMENTS, MAX_HIERARCHY, MAX_MEMBERS, MAX_TERMS, MAX_TOKENS,
    Uid, json, validate,
};

const ROW: &str = "KEEPGATE_DEPTH_ROW";

/// The kinds with their bounds.
const KINDS: [(&str, usize); 14] = [
    ("parentheses", MAX_DEPTH),
    ("lists", MAX_DEPTH - 2),
    ("records", MAX_DEPTH - 2),
    ("`if`s", MAX_DEPTH - 2),
    ("`+` in a row", MAX_DEPTH - 2),
    ("`.a` in a row", MAX_DEPTH - 2),
    ("terms of `||`", MAX_TERMS - 2),
    ("`unless` clauses", MAX_TERMS - 3),
    ("elements of a list", MAX_TOKENS / 2 - 20),
    ("`Set<..>` in a schema", MAX_DEPTH - 2),
    ("types that name the next one twice", 15),
    ("actions, each in the next one", 446),
    ("members of a record type", MAX_MEMBERS - 1),
    ("levels of an attribute", json::MAX_DEPTH),
];

fn condition(kind: &str, n: usize) -> Option<String> {
    let around = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(n), close.repeat(n))
    };
    Some(match kind {
        "parentheses" => around("(", "true", ")"),
        "lists" => format!("{} == 1", around("[", "1", "]")),
        "records" => format!("{} == 1", around("{a: ", "1", "}")),
        "`if`s" => around("if true then ", "true", " else false"),
        "`+` in a row" => format!("1{} == 1", " + 0".repeat(n)),
        "`.a` in a row" => format!("context{} == 1", ".a".repeat(n)),
        "terms of `||`" => vec!["principal == user::\"a\""; n].join(" || "),
        "`unless` clauses" => vec!["true"; n].join(" } unless { "),
        "elements of a list" => format!("[{}].contains(2)", vec!["1"; n].join(",")),
        _ => return None,
    })
}

fn body(kind: &str, n: usize) -> ItemBody {
    if let Some(condition) = condition(kind, n) {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        return ItemBody::Policy(PolicyBody { text, file: String::new() });
    }
    let many = |each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<String>();
    let schema = match kind {
        "`Set<..>` in a schema" => {
            format!("entity e = {{ a: {}Long{} }};", "Set<".repeat(n), ">".repeat(n))
        }
        "types that name the next one twice" => {
            many(&|at| format!("type t{at} = {{ a: t{0}, b: t{0} }};", at + 1))
                + &format!("type t{n} = Long;")
        }
        "actions, each in the next one" => {
            many(&|at| format!("action a{at} in a{};", at + 1)) + &format!("action a{n};")
        }
        "members of a record type" => {
            format!("entity e = {{ {} }};", many(&|at| format!("a{at}: Long,")))
        }
        _ => {
            let value = (0..n).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
            return ItemBody::Entity(EntityBody {
                uid: Uid::new("user", "a"),
                attrs: BTreeMap::from([("a".to_owned(), value)]),
                parents: Vec::new(),
                tags: BTreeMap::new(),
            });
        }
    };
    ItemBody::Schema(SchemaBody { text: schema })
}

/// The most memory that this process had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// `scripts/long depth` prints it.
#[test]
#[ignore = "a measurement: scripts/long depth"]
fn the_table() {
    if let Ok(row) = std::env::var(ROW) {
        let (at, times) = row.split_once(' ').unwrap();
        let (at, times): (usize, usize) = (at.parse().unwrap(), times.parse().unwrap());
        let (kind, bound) = KINDS[at];
        let n = bound * times;
        let settings = ItemBody::Service(Box::new(ServiceSettings::named("s")));
        let items = [Item::new("s", "", settings), Item::new("s", "p", body(kind, n))];
        let before = peak_mib();
        let started = Instant::now();
        let problems = validate::world(&items);
        let took = started.elapsed().as_millis();
        let answer = if problems.is_empty() { "accepted" } else { "422" };
        let kind = kind.replace('|', "\\|");
        println!("ROW| {kind} | {n} | {took} ms | {} MiB | {answer} |", peak_mib() - before);
        std::process::exit(0);
    }
    println!("| input | size | time | peak memory | answer |\n|---|---|---|---|---|");
    for (at, (kind, _)) in KINDS.iter().enumerate() {
        for times in [1, 10] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "--nocapture", "depth_table::the_table"])
                .env(ROW, format!("{at} {times}"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let row = text.lines().find_map(|line| line.split_once("ROW").map(|(_, row)| row));
            println!("{}", row.unwrap_or_else(|| panic!("{kind} x {times}: {output:?}")));
        }
    }
    // What is read in a request never gets to a policy: serde_json stops at 128 levels.
    for n in [127, 1_270] {
        let value = format!("{}1{}", "[".repeat(n - 2), "]".repeat(n - 2));
        let body = format!(
            "{{\"subject\":{{\"type\":\"u\",\"id\":\"a\"}},\"action\":{{\"name\":\"r\"}},\
             \"resource\":{{\"type\":\"d\",\"id\":\"b\"}},\"context\":{{\"a\":{value}}}}}"
        );
        let started = Instant::now();
        let read = Evaluation::parse(body.as_bytes());
        let answer = if read.is_ok() { "read" } else { "400" };
        println!(
            "| levels of an AuthZEN context | {n} | {} ms | - | {answer} |",
            started.elapsed().as_millis()
        );
    }
    const { assert!(MAX_HIERARCHY >= 446 * 447 / 2 && MAX_ENVIRONMENTS > 0) };
}
