//! Applies changes: refuse, write down, arm the dead-man, set, read back, verify by the model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use keepgate_ports::snapshot::HostSnapshot;
use keepgate_ports::tune::values::same;
use keepgate_ports::tune::{Refusal, Step, TunePlan, formats, refusals};

use super::journal::{Changed, ChangedFile, Journal, State, TuneState, boot};
use super::lasting::{self, Winner};
use super::settings;
use super::watch;

/// How to apply.
pub(crate) struct Manner {
    /// Confirmed from the start.
    pub(crate) yes: bool,
    /// How long to wait for a confirmation.
    pub(crate) patience: Duration,
    /// The folder of the file that makes it last; none for namespaces that have no such file.
    pub(crate) sysctl_dir: Option<PathBuf>,
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
        /// The file that makes it last.
        file: Option<PathBuf>,
        /// Later files that say something else.
        winners: Vec<Winner>,
    },
    /// An earlier change waits for its confirmation.
    Pending,
}

/// Repairs what an earlier run left in the middle; says what it did.
pub(crate) fn repair(desk: &TuneState) -> anyhow::Result<Vec<String>> {
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
    desk: &TuneState,
    snapshot: &HostSnapshot,
    plan: &TunePlan,
    manner: &Manner,
) -> anyhow::Result<Applied> {
    let mut earlier = desk.load()?;
    if let Some(pending) = earlier.take_if(|journal| journal.state == State::Armed) {
        if !manner.yes {
            return Ok(Applied::Pending);
        }
        let confirmed = pending.confirmed();
        desk.save(&confirmed)?;
        earlier = Some(confirmed);
    }
    let (aside, steps) = step_aside(desk, earlier.as_ref(), &plan.steps)?;
    let changes: Vec<(String, String)> =
        steps.iter().map(|step| (step.key.clone(), step.to.clone())).collect();
    let refused = refusals(snapshot, &changes);
    if !refused.is_empty() {
        return Ok(Applied::Refused(refused));
    }
    // What is so already needs no journal.
    let mut wanted: Vec<Step> = Vec::new();
    let mut stirred = BTreeSet::new();
    for step in steps {
        // One that is so already is set again where an earlier step may change it along.
        let now = settings::read(&desk.namespace, &step.key)?;
        if !same(&step.key, &now, &step.to) || stirred.contains(&step.key) {
            let sides = settings::sides(&desk.namespace, &step.key)?;
            stirred.extend(sides.into_iter().map(|(side, _)| side));
            wanted.push(step);
        }
    }
    let lasting: Vec<(String, String)> = earlier
        .iter()
        .flat_map(|journal| &journal.changes)
        .map(|changed| (changed.key.clone(), changed.after.clone()))
        .filter(|(key, _)| wanted.iter().all(|step| step.key != *key))
        .chain(wanted.iter().map(|step| (step.key.clone(), step.to.clone())))
        .collect();
    let chosen = manner.sysctl_dir.as_deref().map(|folder| lasting::choose(folder, &lasting));
    let (file, winners) =
        chosen.map_or((None, Vec::new()), |(file, winners)| (Some(file), winners));
    if wanted.is_empty() {
        return Ok(Applied::Done { steps: Vec::new(), aside, watcher: None, file: None, winners });
    }

    let mut journal = begin(desk, earlier, &wanted, file.as_deref(), manner)?;
    desk.save(&journal)?;
    let watcher = watch::start(desk, &manner.state_dir)?;
    let done = set_all(desk, &wanted)
        .and_then(|()| verify(desk, plan))
        .and_then(|()| match &journal.file {
            Some(file) => settings::write_file(&file.path, &file.after),
            None => Ok(()),
        })
        .and_then(|()| {
            let mut armed = journal.clone();
            armed.state = State::Armed;
            armed.deadline_unix_ms = deadline(manner.patience);
            journal = if manner.yes { armed.confirmed() } else { armed };
            desk.save(&journal)
        });
    if let Err(error) = done {
        return Err(match desk.restore(&journal) {
            Ok(()) => error.context("nothing is changed: everything was taken back"),
            // Whoever reads this must know both: what failed, and what is not as it was.
            Err(left) => left.context(format!(
                "this change failed ({error:#}), and could not be taken back whole; run `keepgate \
                 tune undo`"
            )),
        });
    }
    let watcher = (!manner.yes).then_some(watcher);
    Ok(Applied::Done { steps: wanted, aside, watcher, file, winners })
}

fn deadline(patience: Duration) -> u64 {
    keepgate_observe::unix_ms() + u64::try_from(patience.as_millis()).unwrap_or(u64::MAX / 2)
}

/// Steps without those whose key somebody else has changed since we set it.
fn step_aside(
    desk: &TuneState,
    earlier: Option<&Journal>,
    steps: &[Step],
) -> anyhow::Result<(Vec<String>, Vec<Step>)> {
    let mut aside = Vec::new();
    let mut rest = steps.to_vec();
    for owned in earlier.map(|journal| journal.changes.as_slice()).unwrap_or_default() {
        let now = settings::read(&desk.namespace, &owned.key)?;
        if !same(&owned.key, &now, &owned.after) && now != owned.before {
            aside.push(format!(
                "another program has set {} to `{}` since; it is left unchanged",
                owned.key,
                now.trim()
            ));
            rest.retain(|step| step.key != owned.key);
        }
    }
    Ok((aside, rest))
}

/// The journal of this application; the one that was confirmed before goes on inside it.
fn begin(
    desk: &TuneState,
    earlier: Option<Journal>,
    steps: &[Step],
    file: Option<&Path>,
    manner: &Manner,
) -> anyhow::Result<Journal> {
    let mut changes = Vec::new();
    for step in steps {
        changes.push(Changed {
            key: step.key.clone(),
            before: settings::read(&desk.namespace, &step.key)?,
            after: step.to.clone(),
            sides: settings::sides(&desk.namespace, &step.key)?,
        });
    }
    let file = match file {
        None => None,
        Some(path) => {
            let before = settings::read_file(path)?;
            let kept = earlier.iter().flat_map(|journal| &journal.changes);
            let kept = kept.filter(|changed| steps.iter().all(|step| step.key != changed.key));
            let lasting: Vec<Step> = kept
                .map(|changed| Step {
                    key: changed.key.clone(),
                    from: changed.before.trim().to_owned(),
                    to: changed.after.clone(),
                    why: "as before".to_owned(),
                    risk: String::new(),
                })
                .chain(steps.iter().cloned())
                .collect();
            Some(ChangedFile { path: path.to_owned(), before, after: formats::sysctl(&lasting) })
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
        more_files: Vec::new(),
        earlier: earlier.map(Box::new),
    })
}

fn set_all(desk: &TuneState, steps: &[Step]) -> anyhow::Result<()> {
    for step in steps {
        settings::write(&desk.namespace, &step.key, &step.to)?;
        let now = settings::read(&desk.namespace, &step.key)?;
        anyhow::ensure!(
            same(&step.key, &now, &step.to),
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
fn verify(desk: &TuneState, plan: &TunePlan) -> anyhow::Result<()> {
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

/// Whether a change waits for its confirmation.
pub(crate) fn is_pending(desk: &TuneState) -> anyhow::Result<bool> {
    Ok(desk.load()?.is_some_and(|journal| journal.state == State::Armed))
}

/// Confirms what is armed.
pub(crate) fn confirm(desk: &TuneState) -> anyhow::Result<bool> {
    let Some(journal) = desk.load()? else { return Ok(false) };
    if journal.state != State::Armed {
        return Ok(false);
    }
    desk.save(&journal.confirmed())?;
    Ok(true)
}

/// Takes back what was applied: none when nothing was, else what was left alone.
pub(crate) fn undo(desk: &TuneState) -> anyhow::Result<Option<Vec<String>>> {
    let mut aside = None;
    // One that waits for its confirmation first, then what was confirmed before it.
    while let Some(journal) = desk.load()? {
        aside.get_or_insert_with(Vec::new).extend(desk.take_back(&journal)?);
    }
    Ok(aside)
}

/// Steps from a sysctl file instead of a plan, in its order.
pub(crate) fn steps_of_file(desk: &TuneState, path: &Path) -> anyhow::Result<Vec<Step>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut steps: Vec<Step> = Vec::new();
    for (line, setting) in keepgate_ports::tune::settings_of(&text) {
        let (key, to) = match setting {
            Ok(pair) => pair,
            Err(what) => anyhow::bail!(
                "{}:{line}: {what}; see `keepgate tune lint {}`",
                path.display(),
                path.display()
            ),
        };
        // A key that is gone is refused by name later; it has no value to read.
        let from = settings::read(&desk.namespace, &key).unwrap_or_default().trim().to_owned();
        let why = format!("{}:{line}", path.display());
        // The last line on a key has the last word.
        steps.retain(|step| step.key != key);
        steps.push(Step { key, from, to, why, risk: "as judged by its author".to_owned() });
    }
    Ok(steps)
}
