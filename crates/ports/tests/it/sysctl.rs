//! `tune lint` and `--fix` against the installed `sysctl -p`, and values against the kernel.
//!
//! Each file is applied in a mount and network namespace of its own. Keys that are not of a network
//! namespace are files of a scratch tree there, so this host stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use keepgate_ports::tune::values::{Reading, known_keys, reading};
use keepgate_ports::tune::{Code, Level, Source, fix, lint, outcome, path_of_key};

use crate::world::{World, available};

/// Trees of `/proc/sys` that belong to the host.
const HOST_TREES: [&str; 6] = ["abi", "debug", "fs", "kernel", "user", "vm"];
const MAX_DEPTH: usize = 6;

fn mount(from: &Path, to: &Path) {
    let c = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();
    let (from, to) = (c(from), c(to));
    // SAFETY: both are strings that end in a zero and live for the call.
    let result = unsafe {
        libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
    };
    assert_eq!(result, 0, "{from:?} on {to:?}: {}", io::Error::last_os_error());
}

/// Runs `work` in new mount and network namespaces with a scratch tree for what is the host's.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let core: Vec<String> = names(Path::new("/proc/sys/net/core"));
            // SAFETY: no pointers; affects this thread alone.
            let apart = unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET) };
            assert_eq!(apart, 0, "{}", io::Error::last_os_error());
            let root = CString::new("/").unwrap();
            let none = std::ptr::null();
            // SAFETY: a string that ends in a zero, and nulls where the call ignores them.
            let private = unsafe {
                libc::mount(none, root.as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast())
            };
            assert_eq!(private, 0, "{}", io::Error::last_os_error());
            let id = format!("{}-{:?}", std::process::id(), std::thread::current().id());
            let scratch = std::env::temp_dir()
                .join(format!("keepgate-sysctl-{}", id.replace(['(', ')'], "")));
            let _ = fs::remove_dir_all(&scratch);
            for tree in HOST_TREES {
                let real = Path::new("/proc/sys").join(tree);
                if real.is_dir() {
                    copy(&real, &scratch.join(tree), 0);
                    mount(&scratch.join(tree), &real);
                }
            }
            // Of `net.core` a namespace has a part of its own; the rest is the host's.
            let (real, mixed) = (Path::new("/proc/sys/net/core"), scratch.join("core"));
            fs::create_dir_all(&mixed).unwrap();
            for name in core {
                fs::write(mixed.join(&name), "1\n").unwrap();
                let own = real.join(&name);
                let writable = |m: fs::Metadata| !m.permissions().readonly();
                if own.metadata().is_ok_and(writable) {
                    mount(&own, &mixed.join(&name));
                }
            }
            mount(&mixed, real);
            let result = work();
            (result, scratch)
        });
        let (result, scratch) = thread.join().unwrap();
        // The mounts went with the thread.
        let _ = fs::remove_dir_all(scratch);
        result
    })
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Files of the same names; what cannot be read is empty.
fn copy(from: &Path, to: &Path, depth: usize) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let source = from.join(&name);
        let Ok(about) = source.symlink_metadata() else { continue };
        // An automounted file system is none of ours.
        if about.is_dir() && depth < MAX_DEPTH && name != "binfmt_misc" {
            copy(&source, &to.join(&name), depth + 1);
        } else if about.is_file() {
            fs::write(to.join(&name), "1\n").unwrap();
        }
    }
}

fn value(key: &str) -> Option<String> {
    // A long list comes in one piece only.
    let text =
        keepgate_ports::read::setting(&Path::new("/proc/sys").join(path_of_key(key))).ok()?;
    Some(text.trim_end().to_owned())
}

fn known_values() -> BTreeMap<String, String> {
    known_keys().filter_map(|key| Some((key.to_owned(), value(key)?))).collect()
}

fn exists(key: &str) -> Option<bool> {
    if key.contains(['*', '?', '[']) {
        return None;
    }
    Some(Path::new("/proc/sys").join(path_of_key(key)).is_file())
}

/// Applies a text: whether `sysctl -p` was content, and what the known keys read then.
fn apply(text: impl AsRef<[u8]>) -> (bool, BTreeMap<String, String>, String) {
    let id = format!("{}-{:?}", std::process::id(), std::thread::current().id());
    let file =
        std::env::temp_dir().join(format!("keepgate-sysctl-{}.conf", id.replace(['(', ')'], "")));
    fs::write(&file, text.as_ref()).unwrap();
    let output = Command::new("sysctl").arg("-p").arg(&file).output().unwrap();
    let _ = fs::remove_file(&file);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), known_values(), said)
}

/// Name, text and bytes of each file.
fn corpus() -> Vec<(String, String, Vec<u8>)> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/sysctl"));
    let mut files: Vec<(String, String, Vec<u8>)> = names(&folder)
        .into_iter()
        .map(|name| {
            let bytes = fs::read(folder.join(&name)).unwrap();
            (name, String::from_utf8_lossy(&bytes).into_owned(), bytes)
        })
        .collect();
    files.sort();
    files
}

/// Lines that a finding says the kernel, or `sysctl`, does not take.
fn not_taken(text: &str) -> BTreeSet<usize> {
    let sources = [Source { name: "file", text }];
    lint(&sources, &exists)
        .iter()
        .filter(|f| matches!(f.code, Code::OutOfRange | Code::UnknownKey | Code::RemovedKey))
        .map(|f| f.line)
        .collect()
}

#[test]
fn lint_says_what_sysctl_does() {
    if !available() {
        return;
    }
    let files = corpus();
    assert!(files.len() >= 15, "{} files", files.len());
    for (name, text, bytes) in files {
        apart(|| {
            let before = known_values();
            let predicted = outcome(&[&text], &exists);
            let (content, after, said) = apply(&bytes);
            assert_eq!(content, !predicted.fails, "{name}: {predicted:?}\n{said}");
            let mut expected = before;
            for (key, value) in &predicted.values {
                if let Some(entry) = expected.get_mut(key) {
                    entry.clone_from(value);
                }
            }
            assert_eq!(after, expected, "{name}\n{said}");
            let refused: BTreeSet<usize> =
                predicted.refused.iter().map(|(_, line)| *line).collect();
            let flagged = not_taken(&text);
            assert!(refused.is_subset(&flagged), "{name}: {refused:?} {flagged:?}\n{said}");
            // Keys without a table: the last line that is there has the last word.
            if name.starts_with("13") {
                assert_eq!(value("vm.swappiness").as_deref(), Some("10"), "{said}");
            }
        });
    }
}

#[test]
fn fixing_changes_nothing_that_is_right() {
    if !available() {
        return;
    }
    for (name, text, bytes) in corpus() {
        let sources = [Source { name: "file", text: &text }];
        let findings = apart(|| lint(&sources, &|_| None));
        let fixed = fix(&text);
        assert_eq!(fix(&fixed), fixed, "{name}: fixing it again changes it");
        let wrong: BTreeSet<usize> =
            findings.iter().filter(|f| f.level == Level::Error).map(|f| f.line).collect();
        if wrong.is_empty() {
            assert_eq!(fixed, text, "{name} is correct");
            continue;
        }
        let (_, original, _) = apart(|| apply(&bytes));
        let (_, corrected, said) = apart(|| apply(&fixed));
        // Nothing in the copy is refused but keys that another kernel may have.
        assert!(
            !said.contains("Invalid argument") && !said.contains("invalid syntax"),
            "{name}\n{fixed}\n{said}"
        );
        // What was right does the same. The two lists of ports are what corrections are about.
        let lists = ["net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"];
        for (key, value) in original {
            let touched = text.lines().enumerate().any(|(index, line)| {
                wrong.contains(&(index + 1)) && line.replace('/', ".").contains(key.as_str())
            });
            if !touched && !lists.contains(&key.as_str()) {
                assert_eq!(corrected.get(&key), Some(&value), "{name}: {key}\n{fixed}");
            }
        }
    }
    // Lists that a file means together are one.
    let merged = fix(
        "net.ipv4.ip_local_reserved_ports = 35000-35010\nnet.ipv4.ip_local_reserved_ports = 40000,40002\n",
    );
    assert_eq!(
        merged.lines().last(),
        Some("net.ipv4.ip_local_reserved_ports = 35000-35010,40000,40002")
    );
}

/// Each key of the table with each way of writing that people, or the kernel, know.
#[test]
fn values_are_read_as_the_kernel_reads_them() {
    if !available() {
        return;
    }
    let numbers = [
        "0",
        "1",
        "2",
        "3",
        "01",
        "0x1",
        "0X1",
        " 1",
        "1 ",
        "1\t",
        "1 # remark",
        "1#remark",
        "1 2",
        "+1",
        "-1",
        "-5",
        "1x",
        "1,",
        "",
        "127",
        "128",
        "255",
        "256",
        "30",
        "030",
        "0x1e",
        "08",
        "1024",
        "32767",
        "32768",
        "60000",
        "60001",
        "65535",
        "65536",
        "2147483",
        "2147483647",
        "2147483648",
        "4294967295",
        "99999999999",
        "1.0",
        "on",
        "\"1\"",
    ];
    let ranges = [
        "50000 60000",
        "50000\t60000",
        "  50000   60000  ",
        "0xc350 0xea60",
        "0141520 60000",
        "50000 60000 # remark",
        "50000 60000 70000",
        "50000,60000",
        "50000-60000",
        "50000",
        "60000 50000",
        "+50000 60000",
        "50000 60000;",
        "",
        "50000 65536",
        "-1 60000",
        "50000 50000",
        "1024 65535",
    ];
    let lists = [
        "8080,8081",
        "8080-8081",
        "8080, 8081",
        "8080 ,8081",
        "8080 8081",
        "0x1f90",
        "08080",
        "017620",
        "8081,8080",
        "8080-8081,8082",
        "8080,,8081",
        ",8080",
        "8080,",
        "8080 # remark",
        "8080#remark",
        "8081-8080",
        "65536",
        "0",
        "-5",
        "",
        "8080 - 8081",
        "8080-",
        "1-65535",
        "8080;",
        "8080-8080",
    ];
    let world = World::new();
    let mut tried = 0;
    world.in_client(|| {
        for key in known_keys() {
            let path = Path::new("/proc/sys").join(path_of_key(key));
            let Ok(before) = fs::read_to_string(&path) else { continue };
            let spellings: &[&str] = match key {
                "net.ipv4.ip_local_port_range" => &ranges,
                "net.ipv4.ip_local_reserved_ports" => &lists,
                _ => &numbers,
            };
            for text in spellings {
                tried += 1;
                let written = fs::write(&path, format!("{text}\n"));
                let after = fs::read_to_string(&path).unwrap();
                let (taken, after) = (written.is_ok(), after.trim_end());
                match reading(key, text) {
                    Reading::Value(value) => {
                        // The first unprivileged port may not lie inside the range.
                        let beyond = key.ends_with("port_start")
                            && value.parse::<u32>().is_ok_and(|start| start > 32_768);
                        if beyond {
                            assert!(!taken, "{key} = `{text}`");
                        } else {
                            assert_eq!((taken, after), (true, value.as_str()), "{key} = `{text}`");
                        }
                    }
                    Reading::Refused => {
                        assert_eq!((taken, after), (false, before.trim_end()), "{key} = `{text}`");
                    }
                    Reading::LowAlone(low) => {
                        assert_eq!((taken, after), (true, format!("{low}\t60999").as_str()));
                    }
                    Reading::Unknown => panic!("{key} is known"),
                }
                fs::write(&path, &before).unwrap_or_else(|e| panic!("{key}: `{before}` {e}"));
                let empty = before.trim().is_empty();
                if empty {
                    fs::write(&path, "\n").unwrap();
                }
                assert_eq!(fs::read_to_string(&path).unwrap(), before, "{key}");
            }
        }
    });
    assert!(tried > 700, "{tried} values");
}
