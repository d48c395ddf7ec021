//! One door to the benchmarks: `cargo xtask bench [NAME ..]`.
//!
//! Each is a program of its own that prints a table with the thing it is compared against in
//! the same run. None is a test: figures depend on the machine, and `docs/benchmarks.md` says
//! on which one they were taken.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

struct Bench {
    name: &'static str,
    about: &'static str,
    command: &'static [&'static str],
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "decisions",
        about: "one decision beside stock Cedar and a hash map; memory of a million entities",
        command: &[
            "cargo",
            "run",
            "--release",
            "-q",
            "-p",
            "keepgate-policy",
            "--example",
            "decide_bench",
        ],
    },
    Bench {
        name: "routes",
        about: "loading a large OpenAPI document and matching its routes",
        command: &[
            "cargo",
            "run",
            "--release",
            "-q",
            "-p",
            "keepgate-policy",
            "--example",
            "route_bench",
        ],
    },
    Bench {
        name: "limits",
        about: "both limit phases beside a locked hash map; bytes a key",
        command: &[
            "cargo",
            "run",
            "--release",
            "-q",
            "-p",
            "keepgate-limit",
            "--example",
            "limit_bench",
        ],
    },
    Bench {
        name: "instructions",
        about: "instructions of a decision, both limit phases, a proxied request, an evaluation",
        command: &["scripts/bench-instructions"],
    },
    Bench {
        name: "gateway",
        about: "CPU a proxied request beside nginx, with and without auth_request",
        command: &["scripts/bench-gateway"],
    },
    Bench {
        name: "crawl",
        about: "what users wait beside a crawler at fifty times its limit",
        command: &["scripts/bench-crawl"],
    },
    Bench {
        name: "beside",
        about: "limits beside nginx, Envoy (from PyPI) and a Redis script: exactness, memory, floods",
        command: &["scripts/bench-limits-beside"],
    },
];

/// Prints the names.
pub fn list() {
    for bench in BENCHES {
        println!("{:<12} {}", bench.name, bench.about);
    }
}

/// Runs the named ones, or all.
///
/// # Errors
/// An unknown name, or the first benchmark that fails.
pub fn run(root: &Path, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        anyhow::ensure!(
            BENCHES.iter().any(|bench| bench.name == name),
            "no benchmark `{name}`; see `cargo xtask bench --list`"
        );
    }
    for bench in BENCHES {
        if !names.is_empty() && !names.iter().any(|name| name == bench.name) {
            continue;
        }
        println!("== {}: {}", bench.name, bench.about);
        let (program, arguments) = bench.command.split_first().context("an empty command")?;
        let program = if program.contains('/') { root.join(program) } else { program.into() };
        let status = Command::new(&program)
            .args(arguments)
            .current_dir(root)
            .status()
            .with_context(|| format!("starting {}", program.display()))?;
        anyhow::ensure!(status.success(), "benchmark `{}` failed: {status}", bench.name);
    }
    Ok(())
}
