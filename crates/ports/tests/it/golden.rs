//! Recorded hosts, judged and printed: the text, plain and in color, held by files.
//!
//! `UPDATE_EXPECT=1 cargo test -p keepgate-ports golden` rewrites them; read what changed.

use expect_test::{ExpectFile, expect_file};
use keepgate_ports::doctor::{self, Exit, Program};
use keepgate_ports::report::{Report, Verdict};

pub(crate) const PROGRAM: Program =
    Program { name: "keepgate doctor", version: "0.0.0", resolve: None };

/// Runs the doctor as from a shell: exit code, standard output, standard error.
pub(crate) fn doctor(words: &[&str]) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = words.iter().map(std::ffi::OsString::from);
    let exit = doctor::run_with(&PROGRAM, words, false, &mut out, &mut err);
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn path(name: &str) -> String {
    format!("{}/tests/it/golden/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

fn check(name: &str, verdict: Verdict, more: &[&str], plain: ExpectFile, color: ExpectFile) {
    let file = path(name);
    let run = |last: &[&str]| doctor(&[&["--from-snapshot", &file], more, last].concat());
    let (exit, json, err) = run(&["--json"]);
    assert_eq!(err, "");
    let report: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(report.verdict, verdict);
    let healthy = verdict == Verdict::Healthy;
    assert_eq!(exit, if healthy { Exit::Healthy } else { Exit::Finding });
    let (_, text, _) = run(&[]);
    plain.assert_eq(&text);
    assert!(text.is_ascii(), "no terminal can garble it");
    // Commands are there to be copied, so they may be longer; nothing else is.
    for line in text.lines().filter(|line| !line.contains("sysctl")) {
        assert!(line.len() <= 90, "{line}");
    }
    let (_, painted, _) = run(&["--color", "always"]);
    color.assert_eq(&painted);
    assert_eq!(strip(&painted), text, "color is decoration");
}

fn strip(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        out.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    out + rest
}

#[test]
fn the_incident() {
    check(
        "incident",
        Verdict::Exhausted,
        &[],
        expect_file!["golden/incident.txt"],
        expect_file!["golden/incident.ansi"],
    );
}

#[test]
fn localhost_without_ipv6() {
    check(
        "localhost",
        Verdict::NotPorts,
        &[],
        expect_file!["golden/localhost.txt"],
        expect_file!["golden/localhost.ansi"],
    );
}

#[test]
fn a_close_wait_leak() {
    check(
        "close-wait",
        Verdict::AtRisk,
        &[],
        expect_file!["golden/close-wait.txt"],
        expect_file!["golden/close-wait.ansi"],
    );
}

#[test]
fn a_recorded_host_asked_for_another_destination() {
    check(
        "close-wait",
        Verdict::Healthy,
        &["--to", "10.0.0.9:443", "--from", "10.0.0.7"],
        expect_file!["golden/other.txt"],
        expect_file!["golden/other.ansi"],
    );
}

/// From 60 to 200 columns no line is wider than the terminal, and a command is one for a shell.
#[test]
fn every_width_is_kept() {
    use keepgate_ports::text::{Style, render};
    for file in ["incident", "close-wait", "localhost"] {
        let path = format!("{}/tests/it/golden/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let snapshot: keepgate_ports::snapshot::HostSnapshot = serde_json::from_str(&text).unwrap();
        let report = keepgate_ports::rules::judge(&snapshot);
        for width in 60..=200 {
            let text = render(&report, Style { color: false, width });
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{file} at {width}: `{line}`");
            }
            // With its backslashes each command reads as it was.
            let joined: String = text.replace(" \\\n", " ").split_whitespace().collect();
            for remedy in report.findings.iter().flat_map(|finding| &finding.remedies) {
                if let Some(command) = &remedy.command {
                    let bare: String = command.split_whitespace().collect();
                    assert!(joined.contains(&bare), "{file} at {width}: {command}\n{text}");
                }
            }
        }
    }
}
