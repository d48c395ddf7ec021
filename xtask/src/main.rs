//! Project tasks; `cargo xtask --help` lists them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use xtask::{bench, generate, tidy};

/// Project tasks.
#[derive(Parser)]
enum Task {
    /// Write the Rust code of proto/; with --check, fail if it is stale.
    Generate {
        /// Compare only.
        #[arg(long)]
        check: bool,
    },
    /// Hold the structure: directions, licenses, versions, folders, links.
    Tidy {
        /// The root of another workspace than this one.
        #[arg(long)]
        root: Option<PathBuf>,
    },
    /// Run benchmarks (release profile) and print their tables; all without a name.
    Bench {
        /// Which: see `cargo xtask bench --list`.
        names: Vec<String>,
        /// List the benchmarks and leave.
        #[arg(long)]
        list: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = root.parent().context("xtask lies in the workspace")?;
    match Task::parse() {
        Task::Generate { check } => generate::run(root, check)?,
        Task::Bench { list: true, .. } => bench::list(),
        Task::Bench { names, list: false } => bench::run(root, &names)?,
        Task::Tidy { root: other } => {
            let problems = tidy::run(other.as_deref().unwrap_or(root))?;
            for problem in &problems {
                eprintln!("tidy: {problem}");
            }
            if !problems.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
