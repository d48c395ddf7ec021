//! Files that are read anew while a program runs: on SIGHUP, and when they change.
//!
//! A file counts as changed once it has looked the same twice: a certificate and its key are rarely
//! written at one moment.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::signals::Hangup;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// How a file looks; none: it is not there.
type Look = Option<(u64, u64, i64, i64)>;

/// The files that are watched.
pub(crate) struct Files {
    hangup: Hangup,
    paths: Vec<PathBuf>,
    /// As they were when they were read.
    known: Vec<Look>,
    /// As they were at the last look.
    seen: Vec<Look>,
}

impl Files {
    /// To be called before they are read for the first time, or soon after.
    pub(crate) async fn new(hangup: Hangup, paths: Vec<PathBuf>) -> Files {
        let known = looks(&paths).await;
        Files { hangup, paths, seen: known.clone(), known }
    }

    /// Waits until they are to be read; says whether by SIGHUP.
    pub(crate) async fn next(&mut self) -> bool {
        loop {
            let asked = tokio::select! {
                () = self.hangup.next() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = looks(&self.paths).await;
            let settled = self.seen == now;
            self.seen.clone_from(&now);
            if asked || settled && now != self.known {
                self.known = now;
                return asked;
            }
        }
    }

    /// Watches these from now on.
    pub(crate) async fn watch(&mut self, paths: Vec<PathBuf>) {
        if paths != self.paths {
            self.known = looks(&paths).await;
            self.seen.clone_from(&self.known);
            self.paths = paths;
        }
    }
}

async fn looks(files: &[PathBuf]) -> Vec<Look> {
    let files = files.to_vec();
    let look = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    };
    let all = move || files.iter().map(look).collect();
    keepgate_client::blocking::run(all).await.unwrap_or_default()
}
