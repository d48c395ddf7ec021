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

/// Each test that SPECIFICATION.md names (a code span with `::`) is a test in that module of that crate.
fn promises(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let Ok(text) = std::fs::read_to_string(root.join("SPECIFICATION.md")) else {
        return Ok(vec!["SPECIFICATION.md is missing".to_owned()]);
    };
    let mut problems = Vec::new();
    for span in text.split('`').skip(1).step_by(2).filter(|span| span.contains("::")) {
        let mut modules: Vec<&str> = span.split("::").collect();
        let Some(test) = modules.pop() else { continue };
        let package = modules.remove(0);
        let mut folder = Path::new("crates").join(package);
        if !root.join(&folder).exists() {
            folder = PathBuf::from(package);
        }
        let mut elsewhere = None;
        let mut found = false;
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
            let Ok(inside) = file.strip_prefix(&folder) else { continue };
            let source = std::fs::read_to_string(root.join(file))?;
            let Some(within) = module_of_test(&source, test) else { continue };
            let place: Vec<&str> = modules_of_file(inside).into_iter().chain(within).collect();
            if place == modules {
                found = true;
                break;
            }
            elsewhere = Some(place.join("::"));
        }
        problems.extend(match (found, elsewhere) {
            (true, _) => None,
            (false, None) => {
                Some(format!("SPECIFICATION.md names test `{span}`, which does not exist"))
            }
            (false, Some(place)) => Some(format!(
                "SPECIFICATION.md names test `{span}`, which is in `{package}::{place}`"
            )),
        });
    }
    Ok(problems)
}

/// The modules that lead to a file of a package: `tests/it/a/mod.rs` and `src/a.rs` are `a`.
fn modules_of_file(inside: &Path) -> Vec<&str> {
    let mut parts: Vec<&str> = inside.iter().filter_map(|part| part.to_str()).collect();
    let root = if parts.first() == Some(&"tests") { 2 } else { 1 };
    parts.drain(..root.min(parts.len()));
    if let Some(name) = parts.pop() {
        let stem = name.trim_end_matches(".rs");
        if !["mod", "lib", "main"].contains(&stem) {
            parts.push(stem);
        }
    }
    parts
}

/// The inline modules around the test of this name, outermost first; None: there is none. Relies on
/// formatted sources, where a block ends at the indentation at which it began.
fn module_of_test<'s>(source: &'s str, test: &str) -> Option<Vec<&'s str>> {
    let signature = format!("fn {test}(");
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut is_test = false;
    for line in source.lines() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if code == "}" {
            open.retain(|(at, _)| *at != indent);
        }
        if let Some(name) = code.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            open.push((indent, name));
        }
        let starts = code.strip_prefix("async ").unwrap_or(code);
        if is_test && starts.starts_with(&signature) {
            return Some(open.into_iter().map(|(_, name)| name).collect());
        }
        // Attributes and comments stand between `#[test]` and the function.
        let attribute = code.starts_with("#[");
        is_test = (attribute && code.contains("test"))
            || (is_test && (attribute || code.starts_with("//") || code.is_empty()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_in_their_modules() {
        let source = "mod a {\n    fn x() {\n    }\n    mod tests {\n        /// Doc.\n        #[test]\n        fn t() {}\n    }\n}\n\n#[tokio::test]\n#[ignore = \"heavy\"]\nasync fn u() {}\nfn v() {}\n";
        assert_eq!(module_of_test(source, "t"), Some(vec!["a", "tests"]));
        assert_eq!(module_of_test(source, "u"), Some(vec![]));
        assert_eq!(module_of_test(source, "x"), None, "is not a test");
        assert_eq!(module_of_test(source, "v"), None);
        assert_eq!(modules_of_file(Path::new("src/lib.rs")), Vec::<&str>::new());
        assert_eq!(modules_of_file(Path::new("src/a/mod.rs")), ["a"]);
        assert_eq!(modules_of_file(Path::new("tests/it/a/b.rs")), ["a", "b"]);
    }
}
