//! `keepgate center token`: an admin token for whoever has the data directory.
//!
//! A center that runs on the directory is asked through its socket there. Where none answers, the
//! command takes the store's lock and writes the token itself. The lock decides: two processes never
//! write one store.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hyper::Method;
use keepgate_api::{MadeToken, NewAdminToken, Problem};
use keepgate_center::upkeep::Place;
use keepgate_policy::duration;

use super::upkeep::DataArgs;
use crate::cmd::{ends_in, token::hand_over};
use crate::exit::Exit;
use crate::origin::Origin;

/// How long a process that holds the store is waited for: a center that starts has no socket yet.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest that a center may take to answer.
const ANSWER: Duration = Duration::from_secs(12);

/// What `keepgate center token` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the token is valid, such as 8h; default: until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_ms)]
    expires: Option<u64>,
    /// A note for people
    #[arg(long, value_name = "TEXT", default_value = "made on the host")]
    note: String,
    /// Write the token to this file, mode 0600, in place of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: DataArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let Args { expires, note, out, place } = args;
    let asked = NewAdminToken { note, expires_unix_s: expires.map(ends_in).transpose()? };
    let made = crate::cmd::server_runtime()?.block_on(make(&place.data, place.place()?, &asked))?;
    hand_over(&made, out.as_deref(), place.json, |error| {
        error.context(format!("run `keepgate token revoke {}`: nobody holds the token", made.id))
    })?;
    Ok(Exit::Ok)
}

async fn make(data: &Path, place: Place, asked: &NewAdminToken) -> anyhow::Result<MadeToken> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(made) = ask(data, asked).await? {
            return Ok(made);
        }
        match keepgate_center::admin_token(place.clone(), asked).await {
            Ok(made) => return Ok(made),
            Err(error) if error.is_held() && Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) if error.is_held() => {
                let socket = data.join(keepgate_center::SOCKET);
                return Err(anyhow::Error::from(error).context(format!(
                    "a process holds the store and did not answer on `{}` within {} s",
                    socket.display(),
                    PATIENCE.as_secs()
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks the center that runs on the directory; none: no center answers there.
async fn ask(data: &Path, asked: &NewAdminToken) -> anyhow::Result<Option<MadeToken>> {
    let Ok(dir) = data.canonicalize() else { return Ok(None) };
    if !dir.join(keepgate_center::SOCKET).exists() {
        return Ok(None);
    }
    let held = File::open(&dir).with_context(|| format!("opening `{}`", dir.display()))?;
    let path = keepgate_center::short_path(&dir, &held, keepgate_center::SOCKET);
    let mut origin = Origin::new(&format!("unix:{}", path.display()), None)?;
    let body = serde_json::to_vec(asked).context("writing the request")?;
    let sent = origin.send(Method::POST, "/token", &[], Some(("application/json", body.into())));
    let answer = match tokio::time::timeout(ANSWER, sent).await {
        Ok(Ok(answer)) => answer,
        // Nobody is there, or not any more: the lock says which.
        Ok(Err(error)) => {
            tracing::debug!(error = format!("{error:#}"), "no center answers");
            return Ok(None);
        }
        Err(_) => return Ok(None),
    };
    if !answer.status.is_success() {
        let problem: Problem = serde_json::from_slice(&answer.body).unwrap_or_default();
        bail!("the center made no token: {} {}", answer.status.as_u16(), problem.detail);
    }
    let made = serde_json::from_slice(&answer.body);
    made.context("the center did not answer as this release expects").map(Some)
}
