//! Runs scripts of `tests/browser` in Debian's Chromium. `crates/keepgate` has this module too, by its path.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The browser's script; it ends with the test, with the browser that it started.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.0.id()) {
            // SAFETY: it takes no pointer, and the group is of this test's own child.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.0.wait();
    }
}

/// What the scripts need.
pub(crate) struct Needs {
    scripts: PathBuf,
    modules: PathBuf,
    chromium: PathBuf,
}

impl Needs {
    /// Finds it; else what is not here.
    pub(crate) fn found() -> Result<Needs, &'static str> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let modules = root.join("target/fixtures/console");
        if !modules.join("node_modules/playwright-core").is_dir() {
            return Err("playwright-core is not there (scripts/setup)");
        }
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let mut found = names.iter().map(|name| Path::new("/usr/bin").join(name));
        let chromium = found.find(|p| p.exists()).ok_or("chromium is not installed")?;
        Ok(Needs { scripts: root.join("crates/center/tests/browser"), modules, chromium })
    }

    /// Runs a script with this environment to its end, which must be good.
    pub(crate) fn run(&self, script: &str, more: &[(&str, String)]) {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("node");
        command
            .arg(self.scripts.join(script))
            .env_remove("PICTURES")
            .env("MODULES", &self.modules)
            .env("CHROMIUM", &self.chromium)
            .envs(more.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let mut script = Script(command.spawn().unwrap());
        let mut said = String::new();
        if let Some(mut out) = script.0.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut said).unwrap();
        }
        assert!(script.0.wait().unwrap().success(), "{said}");
        eprintln!("{said}");
    }
}
