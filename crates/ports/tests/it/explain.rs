//! Error texts of real programs: which call, toward where, whose words, and what `doctor` then
//! says, in a namespace without ports and in one with all of them.
//!
//! `data/errors.txt` is written by `scripts/record-errors`; `data/errors-told.txt` has, in the same
//! form, texts of programs that it cannot start, from their documentation, source and bug reports.

use std::fmt::Write as _;

use expect_test::expect_file;
use keepgate_ports::explain::{MAX_TEXT, explain};
use keepgate_ports::report::Verdict;

use crate::golden::doctor;
use crate::world::{CLIENT, SERVER, World, available};

const RECORDED: &str = include_str!("data/errors.txt");
const TOLD: &str = include_str!("data/errors-told.txt");

/// Name and text of each block.
fn blocks(file: &str) -> Vec<(String, String)> {
    file.split("\n### ")
        .skip(1)
        .map(|block| {
            let (name, text) = block.split_once('\n').unwrap();
            (name.to_owned(), text.trim_end().to_owned())
        })
        .collect()
}

fn all() -> Vec<(String, String)> {
    let mut all = blocks(RECORDED);
    all.extend(blocks(TOLD));
    all
}

fn row(name: &str, text: &str) -> String {
    let found = explain(text);
    let word = |option: &Option<String>| option.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "{name:<34} | {:<13} | {:<7} | {:<22} | {}",
        word(&found.errno),
        word(&found.call),
        word(&found.address),
        word(&found.runtime)
    )
}

#[test]
fn texts_of_real_programs() {
    let all = all();
    let programs: std::collections::BTreeSet<String> =
        all.iter().filter_map(|(_, text)| explain(text).runtime).collect();
    assert!(all.len() >= 80, "{} texts", all.len());
    assert!(programs.len() >= 20, "{programs:?}");
    let mut table = String::new();
    for (name, text) in &all {
        let _ = writeln!(table, "{}", row(name, text));
    }
    expect_file!["data/errors.table"].assert_eq(&table);
}

/// No text that names EADDRNOTAVAIL ends in HEALTHY unless its destination was looked at; and in a
/// namespace where every connect() fails, none does.
#[test]
fn verdicts_with_and_without_ports() {
    if !available() {
        return;
    }
    let out = World::with_range(40_000, 40_003);
    out.sysctl("net.ipv4.ip_local_reserved_ports", "40000-40003");
    let fine = World::new();
    let look = |world: &World, text: &str| {
        let (exit, json, err) =
            doctor(&["--netns", &world.client, "--once", "--json", "--explain", text]);
        let report: serde_json::Value =
            serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json} {err}"));
        let verdict: Verdict = serde_json::from_value(report["verdict"].clone()).unwrap();
        (verdict, exit.code())
    };
    let mut decided = 0;
    for (name, text) in all() {
        let found = explain(&text);
        if !found.is_about_ports() {
            continue;
        }
        let (bad, code) = look(&out, &text);
        let (good, _) = look(&fine, &text);
        let here = |address: &str| -> bool {
            let hosts = [SERVER, CLIENT, "127.0.0.1", "[::1]", "[fd77::2]", "localhost"];
            hosts.iter().any(|host| address.starts_with(&format!("{host}:")))
        };
        let placed = found.address.as_deref().is_some_and(&here);
        match (found.is_bind(), placed) {
            // A foreign source address is one in either namespace; without one, nobody knows.
            (true, _) if found.address.is_some() => {
                // Without ports that is said first, and as true.
                assert!(matches!(bad, Verdict::Exhausted | Verdict::NotPorts), "{name} {bad:?}");
                assert_eq!(good, Verdict::NotPorts, "{name}\n{text}");
            }
            (false, true) => {
                decided += 1;
                assert_eq!((bad, code), (Verdict::Exhausted, 1), "{name}\n{text}");
                assert_eq!(good, Verdict::Healthy, "{name}\n{text}");
            }
            _ => {
                assert!(matches!(bad, Verdict::Exhausted | Verdict::Unknown), "{name} {bad:?}");
                assert_ne!(code, 0, "{name}");
                // Elsewhere there is no route to it, which is an answer as well.
                let routeless = found.address.is_some() && good == Verdict::NotPorts;
                assert!(good == Verdict::Unknown || routeless, "{name} {good:?}\n{text}");
            }
        }
    }
    assert!(decided >= 60, "{decided} texts were placed");
}

#[test]
fn a_log_is_read_up_to_its_bound() {
    let line = "dial tcp 10.77.0.2:8443: connect: cannot assign requested address\n";
    let filler = "nothing of interest at 10.0.0.9:80\n";
    // The failing line is found wherever it is.
    let count = (MAX_TEXT - line.len()) / filler.len();
    let text = filler.repeat(count) + line;
    assert_eq!(explain(&text).address.as_deref(), Some("10.77.0.2:8443"));
    // Beyond the bound nothing is read, and nothing is claimed.
    let text = filler.repeat(count + 2) + line;
    assert_eq!(explain(&text).errno, None);
    // A cut inside a character breaks nothing.
    let text = "ü".repeat(MAX_TEXT);
    assert_eq!(explain(&text).errno, None);
}

/// Port 0 is a source's: in the failing line, in another line of the same program, anywhere.
#[test]
fn no_destination_has_port_0() {
    let texts = [
        "Error: connect EADDRNOTAVAIL ::1:80:0 - Local (:::0)",
        "Error: cNOTAVAIL ::1:1080 - Loconnect EADDRNOTAVAIL ::1:80:0 - Local (:::0)",
        "Error: connect EADDRNOTAVAIL 10.77.0.2:0 - Local (0.0.0.0:0)\nconnect EADDRNOTAVAIL 10.77.0.2:0",
        "dial tcp 10.77.0.2:0: connect: cannot assign requested address",
        "connect to http://10.77.0.2:0/ failed: Cannot assign requested address",
    ];
    for text in texts {
        let address = explain(text).address;
        assert!(address.as_deref().is_none_or(|it| !it.ends_with(":0")), "{address:?}: {text}");
    }
}
