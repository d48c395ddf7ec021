//! Checks on the files themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Rooms whose name says nothing.
const NAMELESS: &[&str] = &["common", "utils", "util", "types", "helpers", "helper", "misc"];

/// Above this many lines ask which two things a file is.
const MANY_LINES: usize = 800;

/// Text that must not be in a tracked file: paths of one machine.
const MACHINE_PATHS: &[&str] =
    &[concat!("/", "work/"), concat!("/", "root/"), concat!("/home", "/")];

/// What git tracks, relative to `root`.
pub(super) fn tracked_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("starting git ls-files")?;
    anyhow::ensure!(output.status.success(), "git ls-files failed: {}", output.status);
    let text = String::from_utf8(output.stdout).context("a file name that is no UTF-8")?;
    let files = text.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    Ok(files.filter(|file| root.join(file).is_file()).collect())
}

pub(super) fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files {
        let shown = file.display();
        let bytes = std::fs::read(root.join(file)).with_context(|| format!("reading {shown}"))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        for path in MACHINE_PATHS {
            if let Some(line) = text.lines().position(|line| line.contains(path)) {
                problems.push(format!("{shown}:{}: path of a machine `{path}`", line + 1));
            }
        }
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        if let Some(name) = file
            .components()
            .filter_map(|c| c.as_os_str().to_str())
            .find(|name| NAMELESS.contains(&name.trim_end_matches(".rs")))
        {
            problems.push(format!("{shown}: `{name}` says nothing about what is inside"));
        }
        let lines = text.lines().count();
        if lines > MANY_LINES && !shown.to_string().contains("/proto/") {
            problems.push(format!("{shown}: {lines} lines; which two things is it?"));
        }
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
        if !first.is_some_and(|line| line.starts_with("//!") || line.starts_with("// This file is"))
        {
            problems.push(format!("{shown}: begins without `//!` that says what it is"));
        }
    }
    Ok(problems)
}
