//! The model of history, loss and age (`model/history.pml`) holds, and finds what breaks it.
//!
//! Spin explores every order of steps within the model's bounds. A run that ends without an error
//! has seen all of them. Each mutation takes one rule away and must be found: a check that finds
//! nothing in a broken model proves nothing about a good one. The `REACH_` runs ask for states that
//! must exist, so that the model is not true only because nothing happens in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What one run of the checker must say.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// All states were seen and no assertion fails.
    Holds,
    /// An assertion fails.
    Found,
}
use Expected::{Found, Holds};

/// Defines for Spin, and what must come of them.
const RUNS: &[(&[&str], Expected)] = &[
    // Crashes and rollbacks; a copied directory; promotion of a lagging standby.
    (&[], Holds),
    (&["COPIES", "CRASHES=2"], Holds),
    (&["PG"], Holds),
    // Commit and start.
    (&["MUT_NO_HIGH"], Found),
    (&["MUT_PUBLISH_FIRST"], Found),
    (&["MUT_ACK_FIRST"], Found),
    (&["COPIES", "MUT_NO_INODE"], Found),
    // Witnesses and successors.
    (&["MUT_NO_WITNESS"], Found),
    (&["MUT_SAME_HISTORY"], Found),
    (&["COPIES", "CRASHES=2", "MUT_GATE_GOES_BACK"], Found),
    // Age.
    (&["MUT_RECEIPT"], Found),
    (&["PULSES=2", "MUT_HEAD_FIRST"], Found),
    (&["MUT_OLD_STREAM"], Found),
    (&["MUT_LIVE_AGE"], Found),
    // Both files rolled back and nobody there who knows better: the limit that the documents name.
    (&["MAY_MISS=1"], Found),
    // Not vacuous.
    (&["REACH_CURRENT"], Found),
    (&["REACH_SUCCESSOR"], Found),
    (&["REACH_LOST_BY_WITNESS"], Found),
    (&["COPIES", "CRASHES=2", "REACH_FOREIGN"], Found),
];

/// For each run, in seconds; a run takes less than ten on an idle machine.
const LIMIT: &str = "300";

#[test]
fn the_model_holds_and_every_mutation_is_found() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/history.pml");
    if Command::new("spin").arg("-V").output().is_err() {
        let required = std::env::var_os("KEEPGATE_REQUIRE_ALL").is_some_and(|v| v == "1");
        assert!(!required, "must not skip: spin is not installed");
        eprintln!("SKIPPED: spin is not installed");
        return;
    }
    let next = Mutex::new(RUNS.iter());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(|| {
                loop {
                    let run = next.lock().unwrap().next();
                    let Some((defines, expected)) = run else { return };
                    let said = check(&model, defines);
                    if said != Ok(*expected) {
                        wrong.lock().unwrap().push(format!("{defines:?}: {said:?}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Generates, compiles and runs the checker for one set of defines.
fn check(model: &Path, defines: &[&str]) -> Result<Expected, String> {
    let scratch = Scratch::new(&defines.join("-").replace('=', "_"));
    let mut flags: Vec<String> = defines.iter().map(|define| format!("-D{define}")).collect();
    flags.push("-DEDITS=2".to_owned());
    run(Command::new("spin").args(&flags).arg("-a").arg(model).current_dir(&scratch.0))?;
    // A violation is found in seconds or never: only the full searches are worth optimizing.
    let mut cc = Command::new("cc");
    cc.args(["-w", "-O2", "-DSAFETY", "-DNOCLAIM", "-DCOLLAPSE", "-DMEMLIM=2000"]);
    run(cc.args(["-o", "pan", "pan.c"]).current_dir(&scratch.0))?;
    let mut pan = Command::new("timeout");
    pan.args([LIMIT, "./pan", "-E", "-m1000000"]).current_dir(&scratch.0);
    let said = run(&mut pan)?;
    let complete = !said.contains("Search not completed") && !said.contains("max search depth");
    if said.contains("errors: 0") && complete {
        Ok(Holds)
    } else if said.contains("assertion violated") {
        Ok(Found)
    } else {
        Err(said)
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("keepgate-model-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        if let Err(error) = std::fs::create_dir_all(&path) {
            unreachable!("cannot create `{}`: {error}", path.display());
        }
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
