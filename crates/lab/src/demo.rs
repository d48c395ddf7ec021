//! Two more scenes on the same stage: the center dies, and ports toward the upstream are few.

use std::path::Path;

use crate::run::{LabPlan, Progress, play_with};
use crate::{Arm, LabReport};

/// When the center is killed.
pub const CENTER_DIES_S: u64 = 4;
/// When it is started again.
pub const CENTER_RETURNS_S: u64 = 16;

/// A scene beside the arms; both play the arm `keepgate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demo {
    /// The center is killed and comes back; decisions go on until the replica is too old.
    CenterOutage,
    /// Fifty ports toward an upstream that takes 20 ms, and 256 callers.
    PortSqueeze,
}

impl Demo {
    /// The numbers of the scene.
    pub fn plan(self) -> LabPlan {
        match self {
            Demo::CenterOutage => LabPlan {
                duration_s: 22.0,
                crawler_from_s: 22.0,
                users_per_s: 100.0,
                max_age_s: 6,
                ..LabPlan::fast()
            },
            Demo::PortSqueeze => LabPlan {
                duration_s: 10.0,
                crawler_from_s: 10.0,
                users_per_s: 900.0,
                users: 256,
                range: (50_000, 50_049),
                work_ms: 20,
                application_away: true,
                ..LabPlan::fast()
            },
        }
    }

    /// One line for people.
    pub fn about(self) -> &'static str {
        match self {
            Demo::CenterOutage => {
                "the center is killed at second 4 and returns at 16; a replica may be 6 s old"
            }
            Demo::PortSqueeze => "50 ports toward an upstream that takes 20 ms, 256 callers",
        }
    }
}

/// Plays the scene.
///
/// # Errors
/// As [`crate::run()`].
pub fn play(
    demo: Demo,
    keepgate: &Path,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> anyhow::Result<LabReport> {
    let plan = demo.plan();
    let mut report = LabReport::new(plan.clone());
    progress(Progress::Begins(Arm::Keepgate));
    let played = play_with(keepgate, folder, &plan, Arm::Keepgate, progress, &mut |t, stage| {
        match (demo, t) {
            (Demo::CenterOutage, CENTER_DIES_S) => stage.kill_center(),
            (Demo::CenterOutage, CENTER_RETURNS_S) => stage.spawn_center()?,
            _ => {}
        }
        Ok(())
    })?;
    progress(Progress::Ended(&played));
    report.arms.push(played);
    Ok(report)
}
