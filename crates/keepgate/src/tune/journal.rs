//! What was there before, written down before anything is changed.
//!
//! INVARIANT: a setting is changed only while a journal that holds its old value is on disk, so
//! whoever comes next (the watcher, `tune undo`, the next `tune`) can take it back.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepgate_ports::netns::Namespace;
use serde::{Deserialize, Serialize};

use super::settings::{self, same};

/// How far an application has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Settings are being written.
    Applying,
    /// All are written; unless confirmed, they go back at the deadline.
    Armed,
    /// They stay, until `tune undo`.
    Confirmed,
}

/// One setting's old and new text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    pub(crate) key: String,
    /// Byte for byte as it was read.
    pub(crate) before: String,
    /// As it was asked for.
    pub(crate) after: String,
}

/// The file that makes the settings last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangedFile {
    pub(crate) path: PathBuf,
    /// None: there was no file.
    pub(crate) before: Option<String>,
    pub(crate) after: String,
}

/// The journal of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) version: u32,
    pub(crate) state: State,
    /// The kernel's boot: live values of another boot are gone.
    pub(crate) boot: String,
    /// Who applies; meaningful while `applying`.
    pub(crate) pid: u32,
    /// When unconfirmed changes go back, milliseconds since the Unix epoch.
    pub(crate) deadline_unix_ms: u64,
    pub(crate) changes: Vec<Changed>,
    pub(crate) file: Option<ChangedFile>,
}

/// Where journals are, for one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    folder: PathBuf,
    label: String,
    pub(crate) namespace: Namespace,
}

/// While it lives, nobody else applies, confirms or takes back.
pub(crate) struct Turn {
    _lock: File,
}

impl Desk {
    pub(crate) fn new(folder: &Path, namespace: Namespace) -> Desk {
        let label = match &namespace {
            Namespace::Current => "host".to_owned(),
            Namespace::Named(name) => format!("netns-{name}"),
            Namespace::Pid(pid) => format!("pid-{pid}"),
        };
        Desk { folder: folder.to_owned(), label, namespace }
    }

    /// The same desk for somebody who is in the namespace already.
    pub(crate) fn seen_from_inside(mut self) -> Desk {
        self.namespace = Namespace::Current;
        self
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(format!("tune-{}.json", self.label))
    }

    /// Where the watcher leaves word of what it could not take back.
    fn word(&self) -> PathBuf {
        self.folder.join(format!("tune-{}.txt", self.label))
    }

    /// Waits for the turn of this namespace.
    pub(crate) fn turn(&self) -> anyhow::Result<Turn> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("creating {}", self.folder.display()))?;
        let path = self.folder.join(format!("tune-{}.lock", self.label));
        let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        lock.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(Turn { _lock: lock })
    }

    pub(crate) fn load(&self) -> anyhow::Result<Option<Journal>> {
        let path = self.path();
        let Some(text) = settings::read_file(&path)? else { return Ok(None) };
        let journal = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; look at it by hand", path.display()))?;
        Ok(Some(journal))
    }

    pub(crate) fn save(&self, journal: &Journal) -> anyhow::Result<()> {
        settings::write_file(&self.path(), &serde_json::to_string_pretty(journal)?)
    }

    /// Takes everything back, last change first, and closes the journal. Returns what was left
    /// alone because somebody else has changed it since.
    pub(crate) fn take_back(&self, journal: &Journal) -> anyhow::Result<Vec<String>> {
        let mut aside = Vec::new();
        if journal.boot == boot() {
            for changed in journal.changes.iter().rev() {
                let now = settings::read(&self.namespace, &changed.key)?;
                if now == changed.before {
                    continue;
                }
                if same(&now, &changed.after) {
                    settings::write(&self.namespace, &changed.key, &changed.before)?;
                } else {
                    aside.push(format!(
                        "somebody else has set {} to `{}` since; it stays so (it was `{}`)",
                        changed.key,
                        now.trim(),
                        changed.before.trim()
                    ));
                }
            }
        }
        if let Some(file) = &journal.file {
            let now = settings::read_file(&file.path)?;
            if now.as_deref() == Some(file.after.as_str()) {
                match &file.before {
                    Some(text) => settings::write_file(&file.path, text)?,
                    None => settings::remove_file(&file.path)?,
                }
            } else if now != file.before {
                aside.push(format!(
                    "somebody else has changed {} since; it stays so",
                    file.path.display()
                ));
            }
        }
        settings::remove_file(&self.path())?;
        Ok(aside)
    }

    /// Leaves word for the next command.
    pub(crate) fn leave_word(&self, lines: &[String]) -> anyhow::Result<()> {
        settings::write_file(&self.word(), &format!("{}\n", lines.join("\n")))
    }

    /// Word that was left, taken away.
    pub(crate) fn take_word(&self) -> anyhow::Result<Option<String>> {
        let word = settings::read_file(&self.word())?;
        settings::remove_file(&self.word())?;
        Ok(word)
    }
}

impl Journal {
    /// Whether the one who applies is gone in the middle, or the deadline has passed.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self.state {
            State::Applying => !alive(self.pid) || self.boot != boot(),
            State::Armed => now_unix_ms() >= self.deadline_unix_ms || self.boot != boot(),
            State::Confirmed => false,
        }
    }
}

/// This boot of the kernel.
pub(crate) fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

pub(crate) fn now_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)).unwrap_or(0)
}

/// Whether a process with this number runs (and is no zombie).
fn alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything; the state is the first word after it.
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X") | None)
}
