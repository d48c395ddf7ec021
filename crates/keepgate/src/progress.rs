//! How far a long command is, on a terminal: one line of stderr that is written again and again.
//! In a pipe there is nothing of it.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Between two lines.
const EVERY: Duration = Duration::from_millis(100);

/// Characters of a bar.
const WIDTH: u64 = 30;

/// See the module. Dropping it clears the line.
pub(crate) struct Progress {
    on: bool,
    began: Instant,
    told: Option<Instant>,
}

impl Progress {
    /// Silent unless stderr is a terminal.
    pub(crate) fn new() -> Progress {
        Progress { on: io::stderr().is_terminal(), began: Instant::now(), told: None }
    }

    /// A bar of `done` out of `total`, where that is known, with words behind it.
    pub(crate) fn bar(&mut self, done: u64, total: Option<u64>, words: &str) {
        if !self.is_due() {
            return;
        }
        let seconds = self.began.elapsed().as_secs();
        match total.filter(|total| *total > 0) {
            Some(total) => {
                let share = |of: u64| {
                    (u128::from(done.min(total)) * u128::from(of) / u128::from(total)) as u64
                };
                let full = usize::try_from(share(WIDTH)).unwrap_or_default();
                let rest = usize::try_from(WIDTH).unwrap_or_default() - full;
                let bar = format!("[{}{}]", "=".repeat(full), " ".repeat(rest));
                self.write(&format!("{bar} {:3} %  {words}  {seconds} s", share(100)));
            }
            None => self.write(&format!("{words}  {seconds} s")),
        }
    }

    fn is_due(&mut self) -> bool {
        let due = self.on && self.told.is_none_or(|told| told.elapsed() >= EVERY);
        if due {
            self.told = Some(Instant::now());
        }
        due
    }

    fn write(&self, line: &str) {
        let mut stderr = io::stderr().lock();
        // Nothing can be done about a stream that is gone.
        let _ = write!(stderr, "\r\x1b[K{line}");
        let _ = stderr.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() {
            self.write("");
        }
    }
}
