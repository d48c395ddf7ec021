//! The alert rules that are shipped: they are well formed, and fire when they should.

use std::process::Command;

#[test]
fn rules_fire_before_the_incident_and_while_it_lasts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/prometheus");
    for words in [
        ["check", "rules", "keepgate-doctor.rules.yml"],
        ["test", "rules", "keepgate-doctor.tests.yml"],
        ["check", "rules", "keepgate-gate.rules.yml"],
        ["test", "rules", "keepgate-gate.tests.yml"],
    ] {
        let output = match Command::new("promtool").args(words).current_dir(folder).output() {
            Ok(output) => output,
            Err(error) => {
                assert!(std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(), "promtool: {error}");
                println!("SKIPPED: promtool (Debian's prometheus) cannot be run: {error}");
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {words:?}\n{said}");
    }
}
