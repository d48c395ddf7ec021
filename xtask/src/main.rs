//! Project tasks; `cargo xtask --help` lists them.

mod generate;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

/// Project tasks.
#[derive(Parser)]
enum Task {
    /// Write the Rust code of proto/; with --check, fail if it is stale.
    Generate {
        /// Compare only.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = root.parent().context("xtask lies in the workspace")?;
    match Task::parse() {
        Task::Generate { check } => generate::run(root, check),
    }
}
