//! Checks on the documents: links that lead somewhere, promises whose tests exist.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub(super) fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(root.join(file))
            .with_context(|| format!("reading {}", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        for target in links(&text) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !path.is_empty() && !root.join(folder).join(path).exists() {
                problems.push(format!("{}: link to `{target}` leads nowhere", file.display()));
            }
        }
    }
    problems.extend(promises(root, files)?);
    Ok(problems)
}

/// Targets of `[text](target)` outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, more)) = after.split_once(')') else { break };
            found.push(target.split(' ').next().unwrap_or_default());
            rest = more;
        }
    }
    found
}

/// Each test that SPECIFICATION.md names (a code span with `::`) is a function in that crate.
fn promises(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let Ok(text) = std::fs::read_to_string(root.join("SPECIFICATION.md")) else {
        return Ok(vec!["SPECIFICATION.md is missing".to_owned()]);
    };
    let mut problems = Vec::new();
    for span in text.split('`').skip(1).step_by(2).filter(|span| span.contains("::")) {
        let mut parts = span.split("::");
        let (Some(package), Some(test)) = (parts.next(), span.rsplit("::").next()) else {
            continue;
        };
        let mut folder = Path::new("crates").join(package);
        if !root.join(&folder).exists() {
            folder = PathBuf::from(package);
        }
        let wanted = format!("fn {test}(");
        let mut found = false;
        for file in files.iter().filter(|f| f.starts_with(&folder)) {
            if file.extension().is_some_and(|e| e == "rs") {
                let source = std::fs::read_to_string(root.join(file))?;
                found = found || source.contains(&wanted);
            }
        }
        if !found {
            problems.push(format!("SPECIFICATION.md names test `{span}`, which does not exist"));
        }
    }
    Ok(problems)
}
