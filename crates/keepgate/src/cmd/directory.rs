//! A directory of policies as `apply` sends it: the texts of all files in it and below.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use keepgate_policy::bundle::{MAX_DIRECTORIES, is_ignored};

use crate::exit::usage;

/// Largest file, in bytes: above what a center takes unless it is told otherwise (`--apply-bytes`).
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most files, as many as a center takes.
const MAX_FILES: usize = 10_000;

/// The files, by their paths below the directory. Files of a name that nobody knows are read too: the
/// center refuses them, so that a misspelt name does not silently leave out what it holds.
pub(crate) fn read(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let names = names(dir)?;
    names.into_iter().map(|name| Ok((name.clone(), text(&dir.join(name))?))).collect()
}

/// The paths of all files below a directory that are not hidden or words for people, divided by `/`.
pub(crate) fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    add(dir, "", 0, &mut names)?;
    Ok(names)
}

fn add(dir: &Path, within: &str, depth: usize, names: &mut Vec<String>) -> anyhow::Result<()> {
    let shown = dir.display();
    let reading = || format!("reading the directory `{shown}`");
    for entry in std::fs::read_dir(dir).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(usage(format!(
                "expected file names in UTF-8, got `{}`; rename the file",
                path.display()
            )));
        };
        let name = format!("{within}{name}");
        if is_ignored(&name) {
            continue;
        }
        if path.is_dir() {
            // A link to a directory above would go on for ever.
            if depth == MAX_DIRECTORIES {
                return Err(usage(format!(
                    "`{}` is more than {MAX_DIRECTORIES} directories deep; move it up, or look for a \
                     link to a directory above",
                    path.display()
                )));
            }
            add(&path, &format!("{name}/"), depth + 1, names)?;
            continue;
        }
        if names.len() == MAX_FILES {
            bail!("`{shown}` has more than {MAX_FILES} files, those in other directories counted");
        }
        names.push(name);
    }
    Ok(())
}

/// A file of at most [`MAX_FILE_BYTES`], in UTF-8.
pub(crate) fn text(path: &Path) -> anyhow::Result<String> {
    let reading = || format!("reading `{}`", path.display());
    let length = std::fs::metadata(path).with_context(reading)?.len();
    if length > MAX_FILE_BYTES {
        bail!("`{}` has {length} bytes; {MAX_FILE_BYTES} are allowed", path.display());
    }
    let bytes = std::fs::read(path).with_context(reading)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        anyhow::anyhow!(
            "{}:{line}: expected text in UTF-8; save the file as UTF-8, or hide it by a dot",
            path.display()
        )
    })
}
