//! Applies changes: refuse, write down, arm the dead-man, set, read back, verify by the model.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use keepgate_ports::snapshot::HostSnapshot;
use keepgate_ports::tune::{Refusal, Step, TunePlan, formats, refusals};

use super::journal::{Changed, ChangedFile, Desk, Journal, State, boot, now_unix_ms};
use super::settings::{self, same};
use super::watch;

/// How to apply.
pub(crate) struct Manner {
    /// Confirmed from the start.
    pub(crate) yes: bool,
    /// How long to wait for a confirmation.
    pub(crate) patience: Duration,
    /// The file that makes it last; none for namespaces that have no such file.
    pub(crate) file: Option<PathBuf>,
    /// Where journals are.
    pub(crate) state_dir: PathBuf,
}

/// How it went.
pub(crate) enum Applied {
    /// Must not be applied to this host; nothing was changed.
    Refused(Vec<Refusal>),
    /// Done.
    Done {
        /// What was set.
        steps: Vec<Step>,
        /// Keys left alone, since somebody else has changed them after an earlier application.
        aside: Vec<String>,
        /// The watcher's process id, unless confirmed already.
        watcher: Option<u32>,
    },
}

/// Repairs what an earlier run left in the middle; says what it did.
pub(crate) fn repair(desk: &Desk) -> anyhow::Result<Vec<String>> {
    let mut said: Vec<String> = desk.take_word()?.into_iter().collect();
    if let Some(journal) = desk.load()?
        && journal.is_abandoned()
    {
        said.push("An earlier change was left unfinished; it was taken back.".to_owned());
        said.extend(desk.take_back(&journal)?);
    }
    Ok(said)
}

/// Applies the plan's steps. The caller has its turn at the desk.
pub(crate) fn apply(
    desk: &Desk,
    snapshot: &HostSnapshot,
    plan: &TunePlan,
    manner: &Manner,
) -> anyhow::Result<Applied> {
    let earlier = desk.load()?;
    let (aside, mut steps) = step_aside(desk, earlier.as_ref(), &plan.steps)?;
    let changes: Vec<(String, String)> =
        steps.iter().map(|step| (step.key.clone(), step.to.clone())).collect();
    let refused = refusals(snapshot, &changes);
    if !refused.is_empty() {
        return Ok(Applied::Refused(refused));
    }
    // What is so already needs no journal.
    let mut wanted = Vec::new();
    for step in steps.drain(..) {
        if !same(&settings::read(&desk.namespace, &step.key)?, &step.to) {
            wanted.push(step);
        }
    }
    if wanted.is_empty() {
        return Ok(Applied::Done { steps: Vec::new(), aside, watcher: None });
    }

    let mut journal = begin(desk, earlier, &wanted, manner)?;
    desk.save(&journal)?;
    let watcher = watch::start(desk, &manner.state_dir)?;
    let set = set_all(desk, &wanted).and_then(|()| verify(desk, plan));
    if let Err(error) = set {
        let left = desk.take_back(&journal)?;
        let left = if left.is_empty() { String::new() } else { format!(" ({})", left.join("; ")) };
        return Err(error.context(format!("nothing is changed: everything was taken back{left}")));
    }
    if let Some(file) = &journal.file {
        settings::write_file(&file.path, &file.after)?;
    }
    journal.state = if manner.yes { State::Confirmed } else { State::Armed };
    journal.deadline_unix_ms = deadline(manner.patience);
    desk.save(&journal)?;
    let watcher = (!manner.yes).then_some(watcher);
    Ok(Applied::Done { steps: wanted, aside, watcher })
}

fn deadline(patience: Duration) -> u64 {
    now_unix_ms() + u64::try_from(patience.as_millis()).unwrap_or(u64::MAX / 2)
}

/// Steps without those whose key somebody else has changed since we set it.
fn step_aside(
    desk: &Desk,
    earlier: Option<&Journal>,
    steps: &[Step],
) -> anyhow::Result<(Vec<String>, Vec<Step>)> {
    let mut aside = Vec::new();
    let mut rest = steps.to_vec();
    for owned in earlier.map(|journal| journal.changes.as_slice()).unwrap_or_default() {
        let now = settings::read(&desk.namespace, &owned.key)?;
        if !same(&now, &owned.after) && now != owned.before {
            aside.push(format!(
                "somebody else has set {} to `{}` since; it is left alone",
                owned.key,
                now.trim()
            ));
            rest.retain(|step| step.key != owned.key);
        }
    }
    Ok((aside, rest))
}

/// The journal of this application, on top of an earlier one that was confirmed.
fn begin(
    desk: &Desk,
    earlier: Option<Journal>,
    steps: &[Step],
    manner: &Manner,
) -> anyhow::Result<Journal> {
    let mut changes = earlier.as_ref().map(|journal| journal.changes.clone()).unwrap_or_default();
    for step in steps {
        match changes.iter_mut().find(|changed| changed.key == step.key) {
            // What was there before the first of our changes is what undo brings back.
            Some(changed) => changed.after.clone_from(&step.to),
            None => changes.push(Changed {
                key: step.key.clone(),
                before: settings::read(&desk.namespace, &step.key)?,
                after: step.to.clone(),
            }),
        }
    }
    let file = match &manner.file {
        None => None,
        Some(path) => {
            let now = settings::read_file(path)?;
            let first = earlier.and_then(|journal| journal.file);
            let before = match first {
                Some(first) if now.as_deref() == Some(first.after.as_str()) => first.before,
                _ => now,
            };
            let lasting: Vec<Step> = changes
                .iter()
                .map(|changed| Step {
                    key: changed.key.clone(),
                    from: changed.before.trim().to_owned(),
                    to: changed.after.clone(),
                    why: steps
                        .iter()
                        .find(|step| step.key == changed.key)
                        .map_or_else(|| "as before".to_owned(), |step| step.why.clone()),
                    risk: String::new(),
                })
                .collect();
            Some(ChangedFile { path: path.clone(), before, after: formats::sysctl(&lasting) })
        }
    };
    Ok(Journal {
        version: 1,
        state: State::Applying,
        boot: boot(),
        pid: std::process::id(),
        deadline_unix_ms: deadline(manner.patience),
        changes,
        file,
    })
}

fn set_all(desk: &Desk, steps: &[Step]) -> anyhow::Result<()> {
    for step in steps {
        settings::write(&desk.namespace, &step.key, &step.to)?;
        let now = settings::read(&desk.namespace, &step.key)?;
        anyhow::ensure!(
            same(&now, &step.to),
            "`{}` reads back as `{}` after setting it to `{}`",
            step.key,
            now.trim(),
            step.to
        );
    }
    Ok(())
}

/// The live host, read again, gives each bucket the ports that the plan promised. Ports bound
/// since then are allowed for: they are nobody's promise.
fn verify(desk: &Desk, plan: &TunePlan) -> anyhow::Result<()> {
    let options = keepgate_ports::read::ReadOptions {
        namespace: desk.namespace.clone(),
        interval: None,
        owners: false,
        ..Default::default()
    };
    let snapshot = keepgate_ports::read::host(&options).context("reading the host again")?;
    let model = keepgate_ports::budget::Model::new(&snapshot);
    let bound = model.bound_in_pool().len();
    for gain in &plan.gains {
        let key = keepgate_ports::table::BucketKey {
            src: gain.src,
            dst: gain.dst,
            dport: gain.dport,
            interface: 0,
        };
        let usable = model.budget(key).usable;
        anyhow::ensure!(
            usable + bound >= gain.usable.1,
            "{} -> {}:{} has {usable} ports, {} were promised",
            gain.src,
            gain.dst,
            gain.dport,
            gain.usable.1
        );
    }
    Ok(())
}

/// Confirms what is armed.
pub(crate) fn confirm(desk: &Desk) -> anyhow::Result<bool> {
    let Some(mut journal) = desk.load()? else { return Ok(false) };
    if journal.state != State::Armed {
        return Ok(false);
    }
    journal.state = State::Confirmed;
    desk.save(&journal)?;
    Ok(true)
}

/// Takes back what was applied: none when nothing was, else what was left alone.
pub(crate) fn undo(desk: &Desk) -> anyhow::Result<Option<Vec<String>>> {
    match desk.load()? {
        None => Ok(None),
        Some(journal) => desk.take_back(&journal).map(Some),
    }
}

/// Steps from a sysctl file instead of a plan, in its order.
pub(crate) fn steps_of_file(desk: &Desk, path: &Path) -> anyhow::Result<Vec<Step>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut steps = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            anyhow::bail!(
                "{}:{}: neither a comment nor `key = value`; see `keepgate tune lint {}`",
                path.display(),
                index + 1,
                path.display()
            );
        };
        let (key, to) = (key.trim().to_owned(), value.trim().to_owned());
        // A key that is gone is refused by name later; it has no value to read.
        let from = settings::read(&desk.namespace, &key).unwrap_or_default().trim().to_owned();
        let why = format!("{}:{}", path.display(), index + 1);
        steps.push(Step { key, from, to, why, risk: "as judged by its author".to_owned() });
    }
    Ok(steps)
}
