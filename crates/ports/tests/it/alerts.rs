//! The alert rules and dashboards that are shipped, for all parts: they are well formed, rules fire when
//! they should, and every metric and label that an expression names exists (`docs/metrics.md`, which the
//! tests of each part hold against what the part emits).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const CONTRIB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib");

/// Labels that Prometheus adds, or that a kind of metric has.
const EVERYWHERE: [&str; 3] = ["instance", "job", "le"];

/// Labels that the table of metrics does not name in backticks: metrics that begin so have them.
const LABELS: &[(&str, &[&str])] = &[
    ("keepgate_center_requests_total", &["api", "class"]),
    ("keepgate_center_decisions_total", &["effect"]),
    ("keepgate_center_edits_total", &["outcome"]),
    ("keepgate_center_telemetry_dropped_total", &["signal"]),
    ("keepgate_gate_limited_total", &["shadow"]),
    ("keepgate_gate_upstream_", &["upstream"]),
    ("keepgate_doctor_", &["netns"]),
    ("keepgate_doctor_verdict", &["verdict"]),
    ("keepgate_doctor_findings", &["severity", "cause"]),
    ("keepgate_doctor_sockets", &["state"]),
    ("keepgate_doctor_bucket_", &["src", "dst"]),
];

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(Path::new(CONTRIB).join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with(ending));
    files.sort();
    assert!(!files.is_empty(), "no {ending} in {folder}");
    files
}

/// Runs promtool. False: there is none, and it need not be.
fn promtool(words: &[&str], folder: &Path) -> bool {
    let output = match Command::new("promtool").args(words).current_dir(folder).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(), "promtool: {error}");
            println!("SKIPPED: promtool (Debian's prometheus) cannot be run: {error}");
            return false;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {words:?}\n{said}");
    true
}

#[test]
fn rules_fire_before_the_incident_and_while_it_lasts() {
    let folder = Path::new(CONTRIB).join("prometheus");
    for rules in files("prometheus", ".rules.yml") {
        let rules = rules.file_name().unwrap().to_str().unwrap();
        let tests = rules.replace(".rules.yml", ".tests.yml");
        let ran = promtool(&["check", "rules", rules], &folder)
            && promtool(&["test", "rules", &tests], &folder);
        if !ran {
            return;
        }
    }
}

/// The metrics of the documents, each with its labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let docs = include_str!("../../../../docs/metrics.md");
    let mut metrics = BTreeMap::new();
    for line in docs.lines().filter_map(|line| line.strip_prefix("| `keepgate_")) {
        let (name, what) = line.split_once('`').unwrap();
        let name = format!("keepgate_{name}");
        let mut labels: BTreeSet<String> = EVERYWHERE.map(str::to_owned).into();
        // What stands in backticks are labels, and some of their values.
        labels.extend(what.split('`').skip(1).step_by(2).map(str::to_owned));
        for (begin, more) in LABELS {
            if name.starts_with(begin) {
                labels.extend(more.iter().map(|label| (*label).to_owned()));
            }
        }
        metrics.insert(name, labels);
    }
    assert!(metrics.len() > 100, "{}", metrics.len());
    metrics
}

/// Holds the names in an expression against the documents.
#[track_caller]
fn check(expr: &str, metrics: &BTreeMap<String, BTreeSet<String>>) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let known: BTreeSet<&str> = metrics.values().flatten().map(String::as_str).collect();
    let labels = |list: &str| -> Vec<String> {
        let names = list.split(',').map(|part| part.trim().split(['=', '!']).next().unwrap_or(""));
        names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    };
    let mut rest = expr;
    let mut found = 0;
    while let Some(at) = rest.find("keepgate_") {
        rest = &rest[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|ending| {
                name.strip_suffix(ending).filter(|family| family.ends_with("_seconds"))
            })
            .unwrap_or(name);
        let own = metrics.get(family).unwrap_or_else(|| panic!("no metric `{name}`, in {expr}"));
        if let Some((inside, _)) = after.strip_prefix('{').and_then(|inside| inside.split_once('}'))
        {
            for label in labels(inside) {
                assert!(own.contains(&label), "`{name}` has no label `{label}`, in {expr}");
            }
        }
        (rest, found) = (after, found + 1);
    }
    assert!(found > 0, "no metric of ours in {expr}");
    for word in [" by (", " on (", "without (", "ignoring (", "group_left ("] {
        for part in expr.split(word).skip(1) {
            for label in labels(part.split(')').next().unwrap_or_default()) {
                assert!(
                    known.contains(label.as_str()),
                    "nothing has the label `{label}`, in {expr}"
                );
            }
        }
    }
}

/// The names in `label_values(METRIC, LABEL)` of a dashboard's variables.
fn variable(query: &str, metrics: &BTreeMap<String, BTreeSet<String>>) {
    let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (metric, label) = inside.and_then(|inside| inside.split_once(", ")).unwrap();
    check(&format!("count by ({label}) ({metric})"), metrics);
}

#[test]
fn rules_and_dashboards_name_what_exists() {
    let mut metrics = documented();
    for rules in files("prometheus", ".rules.yml") {
        let text = std::fs::read_to_string(&rules).unwrap();
        // What rules record exists, too, for the rules of the same file.
        for name in text.lines().filter_map(|line| line.trim().strip_prefix("- record: ")) {
            metrics.insert(name.to_owned(), EVERYWHERE.map(str::to_owned).into());
        }
        // An expression is the rest of its line, or the deeper lines that follow `>-`.
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let Some((indent, expr)) = line.split_once("expr: ") else { continue };
            let mut whole = if expr == ">-" { String::new() } else { expr.to_owned() };
            while expr == ">-"
                && lines.peek().is_some_and(|l| l.starts_with(&format!("{indent}  ")))
            {
                whole = whole + " " + lines.next().unwrap().trim();
            }
            check(&whole, &metrics);
        }
    }
    let mut group = Vec::new();
    for file in files("grafana", ".json") {
        let shown = file.display().to_string();
        let dashboard: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(dashboard["uid"].as_str(), file.file_stem().unwrap().to_str(), "{shown}");
        for variable_ in dashboard["templating"]["list"].as_array().unwrap() {
            if let Some(query) = variable_["query"]["query"].as_str() {
                variable(query, &metrics);
            }
        }
        let variables: Vec<&str> = dashboard["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|variable| variable["name"].as_str())
            .collect();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{shown}: two panels of one id");
            for target in panel["targets"].as_array().unwrap() {
                let expr = target["expr"].as_str().unwrap();
                check(expr, &metrics);
                for used in expr.split("\"$").skip(1) {
                    let used = used.split('"').next().unwrap();
                    assert!(variables.contains(&used), "{shown}: no variable `{used}`");
                }
                let expr = expr.replace("$__rate_interval", "5m").replace('$', "");
                group.push(serde_json::json!({"record": "panel", "expr": expr, "labels": {"panel": format!("{}", group.len())}}));
            }
        }
    }
    // Well formed is what promtool takes.
    let folder = std::env::temp_dir();
    let name = format!("keepgate-dashboards-{}.json", std::process::id());
    let rules = serde_json::json!({"groups": [{"name": "dashboards", "rules": group}]});
    std::fs::write(folder.join(&name), rules.to_string()).unwrap();
    promtool(&["check", "rules", &name], &folder);
    std::fs::remove_file(folder.join(&name)).unwrap();
}

#[test]
fn a_name_that_does_not_exist_is_found() {
    let metrics = documented();
    let wrong = |expr: &str| {
        let said = std::panic::catch_unwind(|| check(expr, &metrics)).unwrap_err();
        said.downcast_ref::<String>().unwrap().clone()
    };
    assert!(
        wrong("rate(keepgate_gate_requests[5m])").contains("no metric `keepgate_gate_requests`")
    );
    assert!(wrong("keepgate_gate_requests_total_sum").contains("no metric"));
    let said = wrong("sum(keepgate_gate_requests_total{route=~\"x\"})");
    assert!(said.contains("no label `route`"), "{said}");
    let said = wrong("sum by (path) (keepgate_gate_requests_total)");
    assert!(said.contains("label `path`"), "{said}");
    check(
        "sum by (outcome) (keepgate_gate_request_seconds_count{site=\"a\",outcome!=\"denied\"})",
        &metrics,
    );
}
