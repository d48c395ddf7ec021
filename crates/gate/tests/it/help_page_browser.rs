//! The page for callers in a real browser: `tests/browser/help_page.mjs`, by Debian's Chromium.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use keepgate_policy::proto::caller_answer::Answer;
use keepgate_policy::proto::{AccessAsked, KeyMade};

use super::help_page::{Doubled, keyed};
use super::support::{Echo, skip};

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

/// Without script: ask, and fetch the key. axe-core in both languages and both themes; a phone. Where
/// `KEEPGATE_PICTURES` names a directory, pictures go there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_asks_for_access_and_fetches_its_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let modules = root.join("target/fixtures/console");
    if !modules.join("node_modules/playwright-core").is_dir() {
        return skip("playwright-core is not there (scripts/setup)");
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.iter().map(|name| Path::new("/usr/bin").join(name)).find(|p| p.exists());
    let Some(chromium) = found else { return skip("chromium is not installed") };
    let echo = Echo::start().await;
    let (draft, key) = keyed();
    let gate = Doubled::start(&draft, &echo.url).await;
    let made = KeyMade { key: "kgk_new_secret".to_owned(), plan: "bulk".to_owned() };
    gate.tell_each(
        Ok(Answer::Asked(AccessAsked { code: "c0de".to_owned() })),
        Ok(Answer::Key(made)),
    );
    let page = format!("http://{}/.keepgate/api", gate.addr);
    let ran = tokio::task::spawn_blocking(move || {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("node");
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/help_page.mjs"))
            .env("PAGE", page)
            .env("KEY", key)
            .env("MODULES", modules)
            .env("CHROMIUM", chromium)
            .env_remove("PICTURES")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        if let Some(pictures) = std::env::var_os("KEEPGATE_PICTURES") {
            command.env("PICTURES", pictures);
        }
        let mut script = Script(command.spawn().unwrap());
        let mut said = String::new();
        if let Some(mut out) = script.0.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut said).unwrap();
        }
        (script.0.wait().unwrap().success(), said)
    });
    let (good, said) = ran.await.unwrap();
    assert!(good, "{said}");
}
