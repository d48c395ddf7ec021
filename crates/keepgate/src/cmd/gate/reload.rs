//! SIGHUP, and files that change: certificates, keys, CAs, the token and the configuration file are
//! read anew.
//!
//! What cannot be used changes nothing, and is said.

use std::path::{Path, PathBuf};

use keepgate_client::blocking;
use keepgate_gate::{GateConfig, Reloaded, Reloader};

use crate::admin::read_token;
use crate::reread::Files;
use crate::signals::Hangup;

/// What is watched besides the gate's own files.
pub(crate) struct Watched {
    /// The file with the token for the center, if it is in one.
    pub(crate) token: Option<PathBuf>,
    /// The configuration file, if it is read anew.
    pub(crate) file: Option<File>,
}

/// A configuration file.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// Reads the whole configuration anew.
    pub(crate) read: fn() -> anyhow::Result<GateConfig>,
}

/// Runs until it is dropped.
pub(crate) async fn run(hangup: Hangup, reloader: Reloader, watched: Watched) {
    let mut files = Files::new(hangup, paths(&reloader, &watched)).await;
    loop {
        let asked = files.next().await;
        if let Some(file) = &watched.file {
            reconfigure(&reloader, file, asked).await;
        }
        reload(&reloader, watched.token.as_deref(), asked && watched.file.is_none()).await;
        // The configuration file may name others now.
        files.watch(paths(&reloader, &watched)).await;
    }
}

fn paths(reloader: &Reloader, watched: &Watched) -> Vec<PathBuf> {
    let mut paths = reloader.files();
    paths.extend(watched.token.clone());
    paths.extend(watched.file.as_ref().map(|file| file.path.clone()));
    paths
}

/// Takes what the configuration file says now.
async fn reconfigure(reloader: &Reloader, file: &File, asked: bool) {
    let path = file.path.display().to_string();
    let read = blocking::run(file.read).await;
    let config = match read.map_err(anyhow::Error::from).flatten() {
        Ok(config) => config,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(
                file = path,
                error,
                "the configuration file cannot be used; what was used before stays"
            );
            return;
        }
    };
    let done = reloader.reconfigure(config).await;
    if done.is_empty() && asked {
        tracing::info!(file = path, "the configuration file says nothing new");
    }
    say(&done);
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
    let read = blocking::run(move || reloader.reload(token.as_deref())).await;
    let read = read.unwrap_or_default();
    say(&read);
    if read.is_empty() && asked {
        tracing::info!("SIGHUP: there is no file to read anew");
    }
}

fn say(all: &[Reloaded]) {
    for done in all {
        match &done.error {
            None => tracing::info!(what = done.what, "read anew"),
            Some(error) => tracing::warn!(
                what = done.what,
                error,
                "cannot be used as it is now; what was used before stays"
            ),
        }
    }
}
