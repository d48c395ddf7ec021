//! Checks on what `cargo metadata` says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use cargo_metadata::{DependencyKind, Metadata, Package};

/// Which crates each may name, by layer. A new crate belongs here first.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("keepgate-ports", &[]),
    ("keepgate-policy", &["keepgate-limit"]),
    ("keepgate-limit", &[]),
    ("keepgate-api", &[]),
    ("keepgate-observe", &[]),
    ("keepgate-serve", &[]),
    ("keepgate-record", &[]),
    ("keepgate-client", &["keepgate-observe", "keepgate-policy", "keepgate-ports"]),
    ("keepgate-identify", &["keepgate-policy"]),
    ("keepgate-page", &["keepgate-limit", "keepgate-policy"]),
    (
        "keepgate-center",
        &[
            "keepgate-api",
            "keepgate-identify",
            "keepgate-limit",
            "keepgate-observe",
            "keepgate-page",
            "keepgate-policy",
            "keepgate-record",
            "keepgate-serve",
        ],
    ),
    (
        "keepgate-gate",
        &[
            "keepgate-client",
            "keepgate-identify",
            "keepgate-limit",
            "keepgate-observe",
            "keepgate-page",
            "keepgate-policy",
            "keepgate-ports",
            "keepgate-record",
            "keepgate-serve",
        ],
    ),
    ("keepgate-lab", &["keepgate-observe", "keepgate-ports"]),
];

/// May name everything: the binary, the fuzz targets, the tasks.
const ABOVE_ALL: &[&str] = &["keepgate", "keepgate-fuzz", "xtask"];

fn members(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id))
}

/// Data flows one way through the crates.
pub(super) fn directions(metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    for package in members(metadata) {
        let name = package.name.as_str();
        if ABOVE_ALL.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(of, _)| *of == name) else {
            problems.push(format!("crate `{name}` has no layer; give it one in xtask/src/tidy"));
            continue;
        };
        for dependency in &package.dependencies {
            let of = dependency.name.as_str();
            let product = dependency.kind != DependencyKind::Development;
            if product && of.starts_with("keepgate") && !allowed.contains(&of) {
                problems.push(format!("crate `{name}` must not depend on `{of}`"));
            }
        }
    }
    problems
}

/// Cedar is named by one crate.
pub(super) fn one_cedar(metadata: &Metadata) -> Vec<String> {
    members(metadata)
        .filter(|package| package.name.as_str() != "keepgate-policy")
        .flat_map(|package| package.dependencies.iter().map(move |d| (&package.name, &d.name)))
        .filter(|(_, dependency)| dependency.starts_with("cedar-policy"))
        .map(|(package, dependency)| format!("crate `{package}` names `{dependency}`"))
        .collect()
}

/// A program that wants only the client's connections builds neither Cedar nor gRPC.
pub(super) fn connections_alone(root: &Path, metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    const CLIENT: &str = "keepgate-client";
    if members(metadata).all(|package| package.name.as_str() != CLIENT) {
        return Ok(Vec::new());
    }
    let text = tree(root, &["-p", CLIENT, "--no-default-features", "--edges", "normal"])?;
    let heavy = |name: &str| name.starts_with("cedar-policy") || name == "tonic";
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| heavy(name))
        .map(|name| format!("crate `{CLIENT}` needs `{name}` without its default features"))
        .collect())
}

/// `cargo tree`: a package and its version a line.
fn tree(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(env!("CARGO"))
        .arg("tree")
        .args(arguments)
        .args(["--prefix", "none", "--locked", "--format", "{p}"])
        .current_dir(root)
        .output()
        .context("starting cargo tree")?;
    anyhow::ensure!(output.status.success(), "cargo tree failed: {}", output.status);
    String::from_utf8(output.stdout).context("cargo tree printed text that is not UTF-8")
}

/// Every package takes the workspace's lints.
pub(super) fn lints(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in members(metadata) {
        let manifest: toml::Table = std::fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("reading {}", package.manifest_path))?
            .parse()
            .with_context(|| format!("parsing {}", package.manifest_path))?;
        let inherits = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool)
            .unwrap_or(false);
        // Fuzz targets are `no_main` programs whose macro expands to code of another house.
        if !inherits && package.name.as_str() != "keepgate-fuzz" {
            problems.push(format!("package `{}` lacks `[lints] workspace = true`", package.name));
        }
    }
    Ok(problems)
}

/// `deny.toml`, as far as it can be held without the advisory database.
pub(super) fn deny(root: &Path, metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let rules: toml::Table = std::fs::read_to_string(root.join("deny.toml"))
        .context("reading deny.toml")?
        .parse()
        .context("parsing deny.toml")?;
    let strings = |table: &str, key: &str| -> Vec<String> {
        let list = rules.get(table).and_then(|t| t.get(key)).and_then(toml::Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|v| v.as_str().or_else(|| v.get("crate")?.as_str()))
            .map(str::to_owned)
            .collect()
    };
    let (allowed, banned) = (strings("licenses", "allow"), strings("bans", "deny"));
    let (skipped, registries) = (strings("bans", "skip"), strings("sources", "allow-registry"));

    let mut problems = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in built(root, metadata)? {
        let name = package.name.as_str();
        versions.entry(name).or_default().insert(package.version.to_string());
        if banned.iter().any(|ban| ban == name) {
            problems.push(format!("dependency `{name}` is banned by deny.toml"));
        }
        match package.license.as_deref() {
            None => problems.push(format!("dependency `{name}` states no license")),
            Some(expression) if !permitted(expression, &allowed) => {
                problems
                    .push(format!("dependency `{name}`: license `{expression}` is not allowed"));
            }
            Some(_) => {}
        }
        if let Some(source) = &package.source
            && !registries.iter().any(|registry| source.repr == format!("registry+{registry}"))
        {
            problems.push(format!("dependency `{name}` comes from `{source}`"));
        }
    }
    let mut used = BTreeSet::new();
    for (name, found) in versions.iter().filter(|(_, found)| found.len() > 1) {
        let left: Vec<&String> = found
            .iter()
            .filter(|version| {
                let skip = skipped.iter().find(|skip| {
                    skip.split_once('@').is_some_and(|(of, prefix)| {
                        of == *name
                            && (*version == prefix || version.starts_with(&format!("{prefix}.")))
                    })
                });
                used.extend(skip);
                skip.is_none()
            })
            .collect();
        if left.len() > 1 {
            problems.push(format!("dependency `{name}` is built in versions {left:?}"));
        }
    }
    for skip in skipped.iter().filter(|skip| !used.contains(skip)) {
        problems.push(format!("deny.toml skips `{skip}`, which is no duplicate any more"));
    }
    Ok(problems)
}

/// Packages that a build for this machine really uses, tests included. `cargo tree` says, since
/// `cargo metadata` lists optional dependencies that weak features merely mention.
fn built<'m>(root: &Path, metadata: &'m Metadata) -> anyhow::Result<Vec<&'m Package>> {
    let text = tree(root, &["--workspace", "--edges", "normal,build,dev"])?;
    let names: BTreeSet<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    Ok(metadata
        .packages
        .iter()
        .filter(|package| names.contains(&(package.name.as_str(), &package.version.to_string())))
        .collect())
}

/// SPDX expressions as they occur: `A OR B`, `A/B`, `A AND B`, one level of parentheses.
fn permitted(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ");
    split_top(&expression, " AND ").iter().all(|part| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')');
        part.split(" OR ").any(|id| allowed.iter().any(|a| a == id.trim()))
    })
}

fn split_top<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0
            && at >= start
            && text.get(at..).is_some_and(|rest| rest.starts_with(separator))
        {
            parts.extend(text.get(start..at));
            start = at + separator.len();
        }
    }
    parts.extend(text.get(start..));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn license_expressions() {
        let allowed = ["MIT".to_owned(), "NCSA".to_owned()];
        assert!(permitted("MIT OR GPL-3.0", &allowed));
        assert!(permitted("(MIT OR Apache-2.0) AND NCSA", &allowed));
        assert!(permitted("Unlicense/MIT", &allowed));
        assert!(!permitted("MIT AND GPL-3.0", &allowed));
        assert!(!permitted("(GPL-2.0 OR GPL-3.0) AND MIT", &allowed));
        assert!(!permitted("GPL-3.0", &allowed));
    }
}
