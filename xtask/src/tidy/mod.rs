//! What a reviewer would otherwise have to look for: directions between crates, licenses and
//! versions, folder names, module docs, circles of modules, links and named tests in the documents, plain words.
//!
//! Each check returns sentences that name the culprit; none changes anything.

mod documents;
mod literals;
mod modules;
mod packages;
mod prose;
mod sources;

use std::path::Path;

use anyhow::Context as _;

/// Runs all checks; the problems found, empty when tidy.
///
/// # Errors
/// When the workspace cannot be read.
pub fn run(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .context("cargo metadata --locked")?;
    let files = sources::tracked_files(root)?;
    let mut problems = packages::directions(&metadata);
    problems.extend(packages::one_cedar(&metadata));
    problems.extend(packages::connections_alone(root, &metadata)?);
    problems.extend(packages::lints(&metadata)?);
    problems.extend(packages::deny(root, &metadata)?);
    problems.extend(sources::check(root, &files)?);
    problems.extend(modules::check(root, &files)?);
    problems.extend(documents::check(root, &files)?);
    problems.extend(prose::check(root, &files)?);
    Ok(problems)
}
