//! Sysctls of one namespace, as raw text, and files, written whole or not at all.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepgate_ports::netns::{self, Namespace};
use keepgate_ports::tune::path_of_key;

/// Where a sysctl lives; its name with dots.
pub(crate) fn path_of(key: &str) -> anyhow::Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    anyhow::ensure!(
        key.starts_with("net.") && key.chars().all(plain) && !key.contains(".."),
        "`{key}` is no setting of a network namespace"
    );
    Ok(Path::new("/proc/sys").join(path_of_key(key)))
}

/// Reads a setting, byte for byte.
pub(crate) fn read(namespace: &Namespace, key: &str) -> anyhow::Result<String> {
    let path = path_of(key)?;
    netns::enter(namespace, || keepgate_ports::read::setting(&path))?
        .with_context(|| format!("reading `{key}`"))
}

/// Writes a setting. An empty text would be no write at all to the kernel, so it becomes an
/// empty line, which clears a list.
pub(crate) fn write(namespace: &Namespace, key: &str, value: &str) -> anyhow::Result<()> {
    let path = path_of(key)?;
    let value = if value.is_empty() { "\n" } else { value };
    netns::enter(namespace, || std::fs::write(&path, value))?
        .with_context(|| format!("setting `{key}` to `{}`", value.trim()))
}

/// Replaces a file in one step: readers see the old text or the new one, also after a crash.
pub(crate) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().context("a file without a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let name = path.file_name().and_then(|name| name.to_str()).context("a file without a name")?;
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        // A leftover of a killed run; never a link to somewhere else.
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(folder)?.sync_all()
    })();
    written.with_context(|| format!("writing {}", path.display())).inspect_err(|_| {
        // The error is told; a leftover would only be litter.
        let _ = std::fs::remove_file(&temporary);
    })
}

/// The text of a file; none where there is no file.
pub(crate) fn read_file(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Removes a file; one that is not there is removed already.
pub(crate) fn remove_file(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
