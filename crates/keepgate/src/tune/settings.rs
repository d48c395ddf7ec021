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
        "expected a setting of a network namespace, such as `net.ipv4.tcp_tw_reuse`, got `{key}`"
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

/// Whether reading failed because there is no such setting, for instance because its device is gone.
pub(crate) fn is_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

const FORWARD: &str = "net.ipv4.ip_forward";
const FORWARD_ALL: &str = "net.ipv4.conf.all.forwarding";
const REDIRECTS_ALL: &str = "net.ipv4.conf.all.accept_redirects";
/// Most settings of devices that are kept for one key.
const MAX_SIDES: usize = 16_384;

/// Settings that the kernel may change along with this one, with their values: forwarding of all
/// devices with `ip_forward`, that of a device with `conf.all` or `conf.default`.
///
/// Source: `inet_forward_change` and `devinet_copy_dflt_conf` in `net/ipv4/devinet.c`,
/// `addrconf_sysctl_*` in `net/ipv6/addrconf.c`, `neigh_copy_dflt_parms` in `net/core/neighbour.c`.
pub(crate) fn sides(namespace: &Namespace, key: &str) -> anyhow::Result<Vec<(String, String)>> {
    let forwards = key == FORWARD || key == FORWARD_ALL;
    let parts: Vec<&str> = if forwards { FORWARD_ALL } else { key }.split('.').collect();
    let ["net", family @ ("ipv4" | "ipv6"), tree @ ("conf" | "neigh"), "all" | "default", name] =
        parts.as_slice()
    else {
        return Ok(Vec::new());
    };
    let folder = Path::new("/proc/sys/net").join(family).join(tree);
    let devices = netns::enter(namespace, || {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        // A device may have a dot in its name, where keys have their separator.
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .map(|device| device.replace('.', "/"))
            .take(MAX_SIDES)
            .collect::<Vec<String>>()
    })?;
    let more = [FORWARD, REDIRECTS_ALL].into_iter().filter(|_| forwards).map(str::to_owned);
    let each = devices.into_iter().map(|device| format!("net.{family}.{tree}.{device}.{name}"));
    let mut sides = Vec::new();
    for side in each.chain(more).filter(|side| side != key) {
        match read(namespace, &side) {
            Ok(value) => sides.push((side, value)),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sides)
}

/// Whether a side reads as the kernel sets it when `key` is set to `after`.
pub(crate) fn follows(side: &str, key: &str, now: &str, after: &str) -> bool {
    if side == REDIRECTS_ALL && (key == FORWARD || key == FORWARD_ALL) {
        let off = keepgate_ports::tune::values::same(key, after, "0");
        return now.trim() == if off { "1" } else { "0" };
    }
    keepgate_ports::tune::values::same(side, now, after)
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
