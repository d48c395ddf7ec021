//! What was there before, written down before anything is changed.
//!
//! INVARIANT: a setting is changed only while a journal that holds its old value is on disk, so
//! whoever comes next (the watcher, `tune undo`, the next `tune`) can take it back.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepgate_ports::netns::Namespace;
use keepgate_ports::tune::values;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::settings;

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
    /// What the kernel changes along with it (see [`settings::sides`]), as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sides: Vec<(String, String)>,
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
    /// Of this application alone, until it is confirmed; then of all.
    pub(crate) changes: Vec<Changed>,
    pub(crate) file: Option<ChangedFile>,
    /// Files of earlier applications under other names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) more_files: Vec<ChangedFile>,
    /// What was confirmed before: taking this application back leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) earlier: Option<Box<Journal>>,
}

/// Where release 0.1 kept its journals: in the center's data folder.
const OLD_FOLDER: &str = "/var/lib/keepgate";
/// Where journals are unless somewhere else was asked for, and where locks are then.
pub(crate) const STATE_FOLDER: &str = "/var/lib/keepgate-tune";
const LOCK_FOLDER: &str = "/run/keepgate-tune";

/// Where journals are, for one namespace.
#[derive(Clone, Debug)]
pub(crate) struct TuneState {
    folder: PathBuf,
    label: String,
    pub(crate) namespace: Namespace,
}

/// While it lives, nobody else applies, confirms or takes back.
pub(crate) struct Turn {
    _lock: File,
}

impl TuneState {
    pub(crate) fn new(folder: &Path, namespace: Namespace) -> TuneState {
        let label = match &namespace {
            Namespace::Current => "host".to_owned(),
            Namespace::Named(name) => format!("netns-{name}"),
            Namespace::Pid(pid) => format!("pid-{pid}"),
        };
        TuneState { folder: folder.to_owned(), label, namespace }
    }

    /// The same desk for somebody who is in the namespace already.
    pub(crate) fn seen_from_inside(mut self) -> TuneState {
        self.namespace = Namespace::Current;
        self
    }

    fn name(&self) -> String {
        format!("tune-{}.json", self.label)
    }

    /// Where the watcher leaves word of what it could not take back.
    fn word(&self) -> String {
        format!("tune-{}.txt", self.label)
    }

    fn is_default(&self) -> bool {
        self.folder == Path::new(STATE_FOLDER)
    }

    /// Waits for the turn of this namespace.
    pub(crate) fn turn(&self) -> anyhow::Result<Turn> {
        Folder::open_or_make(&self.folder)?;
        let folder = if self.is_default() { Path::new(LOCK_FOLDER) } else { &self.folder };
        let lock = Folder::open_or_make(folder)?.lock(&format!("tune-{}.lock", self.label))?;
        Ok(Turn { _lock: lock })
    }

    pub(crate) fn load(&self) -> anyhow::Result<Option<Journal>> {
        let name = self.name();
        let mut folder = Folder::open(&self.folder)?;
        let mut text = folder.as_ref().map(|folder| folder.read(&name)).transpose()?.flatten();
        if text.is_none() && self.is_default() {
            // Whoever owns the center's data, the journal itself is root's, or refused.
            folder = Folder::open_unchecked(Path::new(OLD_FOLDER))?;
            text = folder.as_ref().map(|folder| folder.read(&name)).transpose()?.flatten();
        }
        let (Some(folder), Some(text)) = (folder, text) else { return Ok(None) };
        let journal: Journal = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; look at it by hand", folder.display(&name)))?;
        journal.check().with_context(|| format!("{} is refused", folder.display(&name)))?;
        Ok(Some(journal))
    }

    pub(crate) fn save(&self, journal: &Journal) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(journal)?;
        Folder::open_or_make(&self.folder)?.write(&self.name(), &text)?;
        self.remove_old()
    }

    fn remove(&self) -> anyhow::Result<()> {
        if let Some(folder) = Folder::open(&self.folder)? {
            folder.remove(&self.name())?;
        }
        self.remove_old()
    }

    /// The journal of release 0.1 has done its duty once a new one is written, or none is needed.
    fn remove_old(&self) -> anyhow::Result<()> {
        match Folder::open_unchecked(Path::new(OLD_FOLDER)).ok().flatten() {
            // Only one that would have been believed: nobody else's file is touched.
            Some(old) if self.is_default() && matches!(old.read(&self.name()), Ok(Some(_))) => {
                old.remove(&self.name())
            }
            _ => Ok(()),
        }
    }

    /// Takes an application back, last change first, and closes its journal; what was confirmed
    /// before it stays. Returns what was left alone because somebody else has changed it since.
    ///
    /// One setting that cannot be taken back keeps no other from it; the journal then stays.
    pub(crate) fn take_back(&self, journal: &Journal) -> anyhow::Result<Vec<String>> {
        let (mut aside, mut left) = (Vec::new(), Vec::new());
        let mut note = |result: anyhow::Result<Option<String>>| match result {
            Ok(word) => aside.extend(word),
            Err(error) => left.push(format!("{error:#}")),
        };
        if journal.boot == boot() {
            for changed in journal.changes.iter().rev() {
                note(self.take_one_back(changed));
            }
        }
        for file in journal.file.iter().chain(&journal.more_files) {
            note(restore_file(file));
        }
        self.finish(journal, &left)?;
        Ok(aside)
    }

    fn take_one_back(&self, changed: &Changed) -> anyhow::Result<Option<String>> {
        let now = match settings::read(&self.namespace, &changed.key) {
            Ok(now) => now,
            Err(error) if settings::is_gone(&error) => {
                let key = &changed.key;
                return Ok(Some(format!("{key} no longer exists; nothing to take back")));
            }
            Err(error) => return Err(error),
        };
        if now == changed.before {
            return Ok(None);
        }
        if !values::same(&changed.key, &now, &changed.after) {
            return Ok(Some(format!(
                "another program has set {} to `{}` since; it is left unchanged (it was `{}`)",
                changed.key,
                now.trim(),
                changed.before.trim()
            )));
        }
        self.put_back(changed).map(|()| None)
    }

    /// Takes back what an application that failed has written, whatever it reads as now: nobody
    /// else had the time to set it. Each value is read again.
    pub(crate) fn restore(&self, journal: &Journal) -> anyhow::Result<()> {
        let mut left = Vec::new();
        for changed in journal.changes.iter().rev() {
            let done = settings::read(&self.namespace, &changed.key).and_then(|now| {
                if now == changed.before { Ok(()) } else { self.put_back(changed) }
            });
            // What is gone cannot be otherwise than it was.
            left.extend(done.err().filter(|error| !settings::is_gone(error)));
        }
        left.extend(journal.file.as_ref().and_then(|file| restore_file(file).err()));
        let left: Vec<String> = left.into_iter().map(|error| format!("{error:#}")).collect();
        self.finish(journal, &left)
    }

    /// Closes a journal once all of it is as it was.
    fn finish(&self, journal: &Journal, left: &[String]) -> anyhow::Result<()> {
        anyhow::ensure!(
            left.is_empty(),
            "not as it was, and to be set by hand (all else was taken back): {}",
            left.join("; ")
        );
        self.close(journal)
    }

    fn put_back(&self, changed: &Changed) -> anyhow::Result<()> {
        // What the kernel changed along goes back with it, what somebody else has set since stays.
        let mut sides = Vec::new();
        for (key, before) in &changed.sides {
            let now = match settings::read(&self.namespace, key) {
                Ok(now) => now,
                Err(error) if settings::is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let ours = settings::follows(key, &changed.key, &now, &changed.after);
            sides.push((key, if ours { before.clone() } else { now }));
        }
        self.set_exactly(&changed.key, &changed.before)?;
        for (key, wanted) in sides {
            if settings::read(&self.namespace, key)? != wanted {
                self.set_exactly(key, &wanted)?;
            }
        }
        Ok(())
    }

    fn set_exactly(&self, key: &str, wanted: &str) -> anyhow::Result<()> {
        settings::write(&self.namespace, key, wanted)?;
        let now = settings::read(&self.namespace, key)?;
        anyhow::ensure!(
            now == wanted,
            "{key} reads `{}` and was `{}`: set it by hand",
            now.trim(),
            wanted.trim()
        );
        Ok(())
    }

    fn close(&self, journal: &Journal) -> anyhow::Result<()> {
        match &journal.earlier {
            Some(earlier) => self.save(earlier),
            None => self.remove(),
        }
    }

    /// Leaves word for the next command.
    pub(crate) fn leave_word(&self, lines: &[String]) -> anyhow::Result<()> {
        let folder = Folder::open_or_make(&self.folder)?;
        folder.write(&self.word(), &format!("{}\n", lines.join("\n")))
    }

    /// Word that was left, taken away.
    pub(crate) fn take_word(&self) -> anyhow::Result<Option<String>> {
        let Some(folder) = Folder::open(&self.folder)? else { return Ok(None) };
        let word = folder.read(&self.word())?;
        folder.remove(&self.word())?;
        Ok(word)
    }
}

/// Brings a lasting file back, unless somebody else has changed it; then says so.
fn restore_file(file: &ChangedFile) -> anyhow::Result<Option<String>> {
    let now = settings::read_file(&file.path)?;
    if now.as_deref() == Some(file.after.as_str()) {
        match &file.before {
            Some(text) => settings::write_file(&file.path, text)?,
            None => settings::remove_file(&file.path)?,
        }
    } else if now != file.before {
        return Ok(Some(format!(
            "another program has changed {} since; it is left unchanged",
            file.path.display()
        )));
    }
    Ok(None)
}

impl Journal {
    /// Whether it can be one of ours: it names settings of a network namespace, and files that
    /// this program writes.
    fn check(&self) -> anyhow::Result<()> {
        for changed in &self.changes {
            settings::path_of(&changed.key)?;
            for (side, _) in &changed.sides {
                settings::path_of(side)?;
            }
        }
        for file in self.file.iter().chain(&self.more_files) {
            let name = file.path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            anyhow::ensure!(
                file.path.is_absolute() && name.ends_with("keepgate.conf"),
                "`{}` is not a file that this program writes",
                file.path.display()
            );
        }
        self.earlier.as_ref().map_or(Ok(()), |earlier| earlier.check())
    }

    /// This application and what was confirmed before it as one: undo brings back what was there
    /// before the first.
    pub(crate) fn confirmed(mut self) -> Journal {
        self.state = State::Confirmed;
        let Some(earlier) = self.earlier.take() else { return self };
        let mut changes = earlier.changes;
        for new in std::mem::take(&mut self.changes) {
            match changes.iter_mut().find(|old| old.key == new.key) {
                Some(old) => old.after = new.after,
                None => changes.push(new),
            }
        }
        self.changes = changes;
        self.more_files = earlier.more_files;
        match (earlier.file, &mut self.file) {
            (Some(old), Some(new)) if old.path == new.path => {
                // In between somebody else may have written it: then that is what comes back.
                if new.before.as_deref() == Some(old.after.as_str()) {
                    new.before = old.before;
                }
            }
            (Some(old), Some(_)) => self.more_files.push(old),
            (old, None) => self.file = old,
            (None, Some(_)) => {}
        }
        self
    }

    /// Whether the one who applies is gone in the middle, or the deadline has passed.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self.state {
            State::Applying => !alive(self.pid) || self.boot != boot(),
            State::Armed => {
                keepgate_observe::unix_ms() >= self.deadline_unix_ms || self.boot != boot()
            }
            State::Confirmed => false,
        }
    }
}

/// This boot of the kernel.
pub(crate) fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Whether a process with this number runs (and is no zombie).
fn alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything; the state is the first word after it.
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X") | None)
}
