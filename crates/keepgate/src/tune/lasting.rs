//! Which name makes settings last: the files of `sysctl.d` are applied in the order of their names,
//! and what comes later has the last word.
//!
//! Source: `sysctl.d(5)` (systemd sorts by name over all folders; a file in `/etc` hides one of the
//! same name elsewhere) and `sysctl(8)` (procps applies `/etc/sysctl.conf` after all of them).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keepgate_ports::tune::{self, values};

/// The usual name, and one that sorts after what vendors and Debian (`99-sysctl.conf`) choose.
const NAMES: [&str; 2] = ["90-keepgate.conf", "99-zzz-keepgate.conf"];
/// Where else files come from, the first one wins for a name.
const OTHER_FOLDERS: [&str; 4] =
    ["/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Someone else's line that is applied after ours and says something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Winner {
    pub(crate) file: PathBuf,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// The file to write for these settings in this folder, and who still overrides it.
pub(crate) fn choose(folder: &Path, settings: &[(String, String)]) -> (PathBuf, Vec<Winner>) {
    let mut chosen = None;
    for name in NAMES {
        let path = folder.join(name);
        let winners = winners(folder, name, settings);
        let done = winners.is_empty();
        // The last name is no better than the first where neither has the last word.
        if done || chosen.is_none() {
            chosen = Some((path, winners));
        }
        if done {
            break;
        }
    }
    chosen.unwrap_or_default()
}

/// Who has the last word on these settings if they are in a file of this name.
fn winners(folder: &Path, name: &str, settings: &[(String, String)]) -> Vec<Winner> {
    let mut later: Vec<PathBuf> = Vec::new();
    let mut by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
    let standard = folder == Path::new("/etc/sysctl.d");
    let others = OTHER_FOLDERS.iter().map(Path::new).filter(|_| standard);
    for folder in std::iter::once(folder).chain(others) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".conf") {
                by_name.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    later.extend(
        by_name.into_iter().filter(|(other, _)| other.as_str() > name).map(|(_, path)| path),
    );
    // `sysctl --system` of procps: last of all.
    later.extend(folder.parent().map(|parent| parent.join("sysctl.conf")));
    let mut winners: BTreeMap<String, Winner> = BTreeMap::new();
    for file in later {
        let ours = file.file_name().is_some_and(|n| NAMES.iter().any(|ours| n == *ours));
        let Some(text) = read(&file).filter(|_| !ours) else { continue };
        // Their text after ours: what is so at the end is what this file makes of it.
        let mine: String =
            settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let end = tune::outcome(&[&mine, &text], &|_| None).values;
        for (key, value) in settings {
            let Some(now) = end.get(key) else { continue };
            if values::same(key, now, value) {
                // A later file may agree again.
                winners.remove(key);
            } else {
                let winner = Winner { file: file.clone(), key: key.clone(), value: now.clone() };
                winners.insert(key.clone(), winner);
            }
        }
    }
    winners.into_values().collect()
}

fn read(file: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(file).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root =
            std::env::temp_dir().join(format!("keepgate-lasting-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("sysctl.d")).unwrap();
        for (file, text) in files {
            std::fs::write(root.join(file), text).unwrap();
        }
        root.join("sysctl.d")
    }

    fn reuse() -> Vec<(String, String)> {
        vec![("net.ipv4.tcp_tw_reuse".to_owned(), "1".to_owned())]
    }

    #[test]
    fn the_name_sorts_after_whoever_says_something_else() {
        let check = |name: &str, files: &[(&str, &str)], chosen: &str, winners: usize| {
            let folder = folder(name, files);
            let (path, found) = choose(&folder, &reuse());
            assert_eq!(path, folder.join(chosen), "{name}");
            assert_eq!(found.len(), winners, "{name} {found:?}");
            let _ = std::fs::remove_dir_all(folder.parent().unwrap());
        };
        let no = "net.ipv4.tcp_tw_reuse = 0\n";
        let last = "99-zzz-keepgate.conf";
        check("alone", &[], "90-keepgate.conf", 0);
        check("before", &[("sysctl.d/10-x.conf", no)], "90-keepgate.conf", 0);
        check("vendor", &[("sysctl.d/99-vendor.conf", no)], last, 0);
        check("debian", &[("sysctl.d/99-sysctl.conf", "net/ipv4/tcp_tw_reuse=0\n")], last, 0);
        check(
            "pattern",
            &[("sysctl.d/99-x.conf", "net.ipv4.tcp_tw_reus? = 0\n")],
            "90-keepgate.conf",
            0,
        );
        check(
            "agrees",
            &[("sysctl.d/99-x.conf", "net.ipv4.tcp_tw_reuse = 0x1\n")],
            "90-keepgate.conf",
            0,
        );
        check(
            "refused",
            &[("sysctl.d/99-x.conf", "net.ipv4.tcp_tw_reuse = 9\n")],
            "90-keepgate.conf",
            0,
        );
        check("not a file", &[("sysctl.d/99-x.txt", no)], "90-keepgate.conf", 0);
        check("last of all", &[("sysctl.conf", no)], "90-keepgate.conf", 1);
        check("zzzz", &[("sysctl.d/zzzz.conf", no)], "90-keepgate.conf", 1);
        let again = [("sysctl.d/99-x.conf", no), ("sysctl.conf", "net.ipv4.tcp_tw_reuse = 1\n")];
        check("agrees again", &again, "90-keepgate.conf", 0);
    }
}
