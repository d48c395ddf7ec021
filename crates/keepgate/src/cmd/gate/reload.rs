//! SIGHUP, and files that change: certificates, keys, CAs and the token are read anew.
//!
//! A file counts as changed once it has looked the same twice: a certificate and its key are rarely
//! written at one moment. What cannot be used changes nothing, and is said.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keepgate_gate::Reloader;

use crate::admin::read_token;
use crate::signals::Hangup;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// What is watched besides the gate's own files.
pub(crate) struct Watched {
    /// The file with the token for the center, if it is in one.
    pub(crate) token: Option<PathBuf>,
    /// The file with the sites, whose changes need a start.
    pub(crate) sites: Option<PathBuf>,
}

/// How a file looks; none: it is not there.
type Look = Option<(u64, u64, i64, i64)>;

/// Runs until it is dropped.
pub(crate) async fn run(mut hangup: Hangup, reloader: Reloader, watched: Watched) {
    let mut files = reloader.files();
    files.extend(watched.token.clone());
    let mut known = looks(&files).await;
    let mut seen = known.clone();
    let sites: Vec<PathBuf> = watched.sites.iter().cloned().collect();
    let mut known_sites = looks(&sites).await;
    loop {
        let asked = tokio::select! {
            () = hangup.next() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let now = looks(&files).await;
        let settled = std::mem::replace(&mut seen, now.clone()) == now;
        if asked || settled && now != known {
            known = now;
            reload(&reloader, watched.token.as_deref(), asked).await;
        }
        let now = looks(&sites).await;
        if now != known_sites {
            known_sites = now;
            let file = sites.first().map(|path| path.display().to_string()).unwrap_or_default();
            tracing::warn!(
                file,
                "the configuration file has changed, and takes effect at the next start; a gate \
                 with --takeover can be started beside this one, and no request is dropped"
            );
        }
    }
}

async fn reload(reloader: &Reloader, token_file: Option<&Path>, asked: bool) {
    let token = match token_file.map(read_token) {
        Some(Err(error)) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "the token file cannot be used; the token stays");
            None
        }
        Some(Ok(token)) => Some(token),
        None => None,
    };
    let reloader = reloader.clone();
    let read = tokio::task::spawn_blocking(move || reloader.reload(token.as_deref())).await;
    let read = read.unwrap_or_default();
    for done in &read {
        match &done.error {
            None => tracing::info!(what = done.what, "read anew"),
            Some(error) => tracing::warn!(
                what = done.what,
                error,
                "cannot be used as it is now; what was used before stays"
            ),
        }
    }
    if read.is_empty() && asked {
        tracing::info!("SIGHUP: there is no file to read anew");
    }
}

async fn looks(files: &[PathBuf]) -> Vec<Look> {
    let files = files.to_vec();
    let look = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    };
    let all = move || files.iter().map(look).collect();
    tokio::task::spawn_blocking(all).await.unwrap_or_default()
}
