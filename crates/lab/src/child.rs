//! Child processes that end with their owner.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// A running program of the lab; dropping it kills it and waits.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    /// Starts it, its standard error going to `log`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(
        what: &str,
        command: &mut Command,
        log: std::path::PathBuf,
    ) -> anyhow::Result<Running> {
        let file =
            std::fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {what}"))?;
        Ok(Running { what: what.to_owned(), child, log })
    }

    /// Whether this is the program started under that name.
    pub fn is(&self, what: &str) -> bool {
        self.what == what
    }

    /// Sends each line of its standard output to `lines`, from a thread that ends with it.
    pub fn forward_lines(&mut self, lines: mpsc::Sender<String>) {
        if let Some(stdout) = self.child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if lines.send(line).is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// Kills it now (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its end of standard error, for a message when something went wrong.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .iter()
            .skip(lines.len().saturating_sub(12))
            .map(|line| format!("\n  {line}"))
            .collect()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the program ends first or the time is over; the message carries its last words.
    pub fn wait_until(
        &mut self,
        bound: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + bound;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("{} ended early ({status}):{}", self.what, self.last_words());
            }
            if Instant::now() > deadline {
                anyhow::bail!("{} was not ready within {bound:?}:{}", self.what, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
