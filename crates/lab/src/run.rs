//! Plays arms one after the other and records each second.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::Arm;
use crate::actor::Epoch;
use crate::actor::load::LoadSpec;
use crate::actor::second::Second;
use crate::report::{ArmReport, LabReport, Moment};
use crate::stage::{self, Look, Stage};

/// From the start of the programs to second 0. A busy machine may need longer than the first of
/// these: then the stage is built again, with the next one.
const STARTS: [Duration; 3] =
    [Duration::from_millis(2500), Duration::from_secs(8), Duration::from_secs(25)];

/// The numbers of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabPlan {
    /// How long each arm lasts, in seconds.
    pub duration_s: f64,
    /// When the crawler joins.
    pub crawler_from_s: f64,
    /// When doctor's forecast is noted down.
    pub forecast_at_s: u64,
    /// All users together.
    pub users_per_s: f64,
    /// The crawler.
    pub crawler_per_s: f64,
    /// `ip_local_port_range` of the subsystem's host, both ends included.
    pub range: (u16, u16),
    /// The same for the arm `wider-range`.
    pub wider_range: (u16, u16),
    /// The limit per address of the arm `limit`, requests per second.
    pub limit_per_s: f64,
    /// How many users there are; each waits for its answer before it asks again.
    pub users: u32,
    /// The oldest replica by which the gate may decide, in seconds.
    pub max_age_s: u64,
    /// How long the subsystem's application works on an answer, in milliseconds.
    pub work_ms: u64,
    /// The application behind the gate is on another host, so that ports toward it count.
    pub application_away: bool,
    /// Draws the callers' phases.
    pub seed: u64,
}

impl LabPlan {
    /// The incident's numbers (see the README): range 50000 to 65000, crawler from the tenth second.
    pub fn full() -> LabPlan {
        LabPlan {
            duration_s: 75.0,
            crawler_from_s: 10.0,
            forecast_at_s: 15,
            users_per_s: 50.0,
            crawler_per_s: 450.0,
            range: (50_000, 65_000),
            wider_range: (1_024, 65_535),
            limit_per_s: 20.0,
            users: 100,
            max_age_s: 3600,
            work_ms: 0,
            application_away: false,
            seed: 7,
        }
    }

    /// The same picture with a tenth of the ports, in about a minute for all arms.
    pub fn fast() -> LabPlan {
        LabPlan {
            duration_s: 10.0,
            crawler_from_s: 2.0,
            forecast_at_s: 3,
            crawler_per_s: 400.0,
            range: (50_000, 51_199),
            wider_range: (50_000, 52_399),
            ..LabPlan::full()
        }
    }
}

/// Told to whoever shows the progress.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// The arm's stage is being built.
    Begins(Arm),
    /// A second is over.
    Moment(Arm, &'a Moment),
    /// The arm is over.
    Ended(&'a ArmReport),
}

/// Plays the arms; the report of all of them.
///
/// `keepgate` is the executable to use, `folder` takes data and logs of the programs.
///
/// # Errors
/// When a stage cannot be built or a program ends early.
pub fn run(
    keepgate: &Path,
    folder: &Path,
    plan: &LabPlan,
    arms: &[Arm],
    progress: &mut dyn FnMut(Progress<'_>),
) -> anyhow::Result<LabReport> {
    let mut report = LabReport::new(plan.clone());
    for &arm in arms {
        progress(Progress::Begins(arm));
        let folder: PathBuf = folder.join(arm.name());
        let played = play(keepgate, &folder, plan, arm, progress)
            .with_context(|| format!("arm `{arm}` (logs in {})", folder.display()))?;
        progress(Progress::Ended(&played));
        report.arms.push(played);
    }
    Ok(report)
}

fn play(
    keepgate: &Path,
    folder: &Path,
    plan: &LabPlan,
    arm: Arm,
    progress: &mut dyn FnMut(Progress<'_>),
) -> anyhow::Result<ArmReport> {
    play_with(keepgate, folder, plan, arm, progress, &mut |_, _| Ok(()))
}

/// Plays one arm; `event` is called as each second begins and may change the stage.
///
/// # Errors
/// When the stage cannot be built, a program ends early, or the event fails.
pub fn play_with(
    keepgate: &Path,
    folder: &Path,
    plan: &LabPlan,
    arm: Arm,
    progress: &mut dyn FnMut(Progress<'_>),
    event: &mut dyn FnMut(u64, &mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<ArmReport> {
    let Began { mut stage, epoch, lines } = begin(keepgate, folder, plan, arm)?;
    let mut recording = Recording::new(&stage, epoch)?;
    let mut report = ArmReport::new(arm);
    let seconds = plan.duration_s as u64;
    for t in 0..seconds {
        recording.wait_for_begin(t);
        event(t, &mut stage)?;
        let moment = recording.second(&stage, t, &lines)?;
        progress(Progress::Moment(arm, &moment));
        report.seconds.push(moment);
    }
    report.conclude(plan);
    Ok(report)
}

/// A stage whose programs all run, before second 0.
struct Began {
    stage: Stage,
    epoch: Epoch,
    lines: mpsc::Receiver<String>,
}

fn begin(keepgate: &Path, folder: &Path, plan: &LabPlan, arm: Arm) -> anyhow::Result<Began> {
    for start in STARTS {
        let mut stage = Stage::build(keepgate, folder, plan, arm)?;
        let (sender, lines) = mpsc::channel();
        // Long enough for the programs to start; the stage's own connections are over by then.
        let epoch = Epoch::in_the_future(start);
        stage.start_front(arm, plan, epoch, &sender)?;
        for spec in loads(plan, epoch) {
            stage.start_load(spec, &sender)?;
        }
        if epoch.elapsed_s() < 0.0 {
            return Ok(Began { stage, epoch, lines });
        }
        drop(stage);
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("removing {}", folder.display()))?;
    }
    anyhow::bail!("the programs took longer than {:?} to start", STARTS.last())
}

/// Users from the start, the crawler later.
pub fn loads(plan: &LabPlan, epoch: Epoch) -> [LoadSpec; 2] {
    let users = LoadSpec {
        who: "users".to_owned(),
        target: stage::front(false),
        sources: stage::user_addresses(),
        callers: plan.users,
        requests_per_s: plan.users_per_s,
        guest_every: 20,
        identity: String::new(),
        epoch,
        begin_s: 0.0,
        end_s: plan.duration_s,
        seed: plan.seed,
    };
    let crawler = LoadSpec {
        who: "crawler".to_owned(),
        target: stage::front(true),
        sources: stage::crawler_addresses(),
        callers: 64,
        requests_per_s: plan.crawler_per_s,
        guest_every: 0,
        identity: "crawler".to_owned(),
        begin_s: plan.crawler_from_s,
        ..users.clone()
    };
    [users, crawler]
}

/// Joins what actors, kernel and doctor say into one [`Moment`] a second.
///
/// INVARIANT: nothing that takes long is waited for, so that on a busy machine a second is still
/// a second: a look of doctor's that is late counts where it belongs, or not at all.
#[derive(Debug)]
pub struct Recording {
    epoch: Epoch,
    /// When the kernel's counter was read, in seconds since the epoch, and what it said.
    read: (f64, u64),
    /// Connections opened up to the end of the last second.
    opens: f64,
    early: BTreeMap<(u64, String), Second>,
    looking: Option<(u64, Look)>,
    /// The newest look that is over, and the second in which it began.
    looked: Option<(u64, serde_json::Value)>,
}

/// How long the first look of an arm may take: without it there is nothing to say.
const FIRST_LOOK: Duration = Duration::from_secs(20);
/// How often a look is asked whether it is over.
const ASK: Duration = Duration::from_millis(20);

impl Recording {
    /// Counts from now.
    ///
    /// # Errors
    /// When the kernel's counters cannot be read.
    pub fn new(stage: &Stage, epoch: Epoch) -> anyhow::Result<Recording> {
        let opens = stage.subsystem.tcp_counter("ActiveOpens")?;
        Ok(Recording {
            epoch,
            read: (epoch.elapsed_s(), opens),
            opens: opens as f64,
            early: BTreeMap::new(),
            looking: None,
            looked: None,
        })
    }

    /// Waits for second `t` to begin; not at all if it has.
    pub fn wait_for_begin(&self, t: u64) {
        let left = t as f64 - self.epoch.elapsed_s();
        if left > 0.0 {
            std::thread::sleep(Duration::from_secs_f64(left));
        }
    }

    /// Waits for second `t` to be over and returns what happened in it.
    ///
    /// # Errors
    /// When an actor fell silent or doctor could not look.
    pub fn second(
        &mut self,
        stage: &Stage,
        t: u64,
        lines: &mpsc::Receiver<String>,
    ) -> anyhow::Result<Moment> {
        self.take_look()?;
        if self.looking.is_none() {
            self.looking = Some((t, stage.doctor(stage.bottleneck())?));
        }
        self.wait_for_begin(t + 1);
        let mut moment = Moment { opened: self.opened_until(stage, t + 1)?, ..Moment::default() };
        for who in ["users", "crawler", "subsystem"] {
            let second = self.line(stage, t, who, lines)?;
            moment.join(who, &second);
        }
        self.take_look()?;
        let deadline = std::time::Instant::now() + FIRST_LOOK;
        while self.looked.is_none() {
            anyhow::ensure!(std::time::Instant::now() < deadline, "doctor took {FIRST_LOOK:?}");
            std::thread::sleep(ASK);
            self.take_look()?;
        }
        let mut seen = match &self.looked {
            Some((looked, doctor)) => Moment::new(*looked, doctor),
            None => Moment::default(),
        };
        // An older look's forecast counts from its own second.
        let age = t.saturating_sub(seen.t) as f64;
        seen.exhausted_in_s = seen.exhausted_in_s.map(|s| (s - age).max(0.0));
        Ok(Moment {
            t,
            opened: moment.opened,
            users: moment.users,
            crawler: moment.crawler,
            eaddrnotavail: moment.eaddrnotavail,
            connect_p50_us: moment.connect_p50_us,
            connect_p99_us: moment.connect_p99_us,
            ..seen
        })
    }

    /// Connections opened since the end of the second before, up to the moment `t`; the kernel is
    /// asked a little later, so what came between is counted by its share.
    fn opened_until(&mut self, stage: &Stage, t: u64) -> anyhow::Result<u64> {
        let now = stage.subsystem.tcp_counter("ActiveOpens")?;
        let (at, (before_s, before)) = (self.epoch.elapsed_s(), self.read);
        let until = opens_at(t as f64, (before_s, before), (at, now));
        self.read = (at, now);
        let opened = (until - self.opens).round().max(0.0);
        self.opens += opened;
        Ok(opened as u64)
    }

    fn take_look(&mut self) -> anyhow::Result<()> {
        if let Some((t, look)) = &mut self.looking
            && let Some(doctor) = look.result()?
        {
            self.looked = Some((*t, doctor));
            self.looking = None;
        }
        Ok(())
    }

    fn line(
        &mut self,
        stage: &Stage,
        t: u64,
        who: &str,
        lines: &mpsc::Receiver<String>,
    ) -> anyhow::Result<Second> {
        let key = (t, who.to_owned());
        loop {
            if let Some(second) = self.early.remove(&key) {
                return Ok(second);
            }
            let line = lines.recv_timeout(Duration::from_secs(5)).map_err(|_| {
                anyhow::anyhow!("no line of {who} for second {t}:{}", stage.last_words())
            })?;
            let second: Second =
                serde_json::from_str(&line).with_context(|| format!("an actor said `{line}`"))?;
            self.early.insert((second.t, second.who.clone()), second);
        }
    }
}

/// A counter at the moment `t`, on the line between two readings: `(seconds, count)` each.
fn opens_at(t: f64, before: (f64, u64), after: (f64, u64)) -> f64 {
    let (span, counted) = (after.0 - before.0, after.1.saturating_sub(before.1) as f64);
    let share = if span > 0.0 { ((t - before.0) / span).clamp(0.0, 1.0) } else { 1.0 };
    before.1 as f64 + counted * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reading_moves_nothing_into_the_second_before() {
        // 100 a second, read 0.5 s late: second 3 ended at 300.
        assert!((opens_at(3.0, (2.0, 200), (3.5, 350)) - 300.0).abs() < 1e-9);
        assert!((opens_at(4.0, (3.5, 350), (4.0, 400)) - 400.0).abs() < 1e-9);
        // Never beyond what was read.
        assert!((opens_at(9.0, (3.5, 350), (4.0, 400)) - 400.0).abs() < 1e-9);
        assert!((opens_at(1.0, (1.0, 7), (1.0, 9)) - 9.0).abs() < 1e-9);
    }
}
