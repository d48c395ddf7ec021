//! The programs of the lab: callers, and the subsystem of the incident.
//!
//! Each runs in a process of its own, told what to be by one JSON text and telling what it saw
//! by one JSON line a second on standard output.

pub mod load;
pub mod second;
pub mod subsystem;
mod wire;

use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// What to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "actor", rename_all = "snake_case")]
pub enum Actor {
    /// Users or a crawler.
    Load(load::LoadSpec),
    /// The subsystem, naive or with one remedy.
    Subsystem(Box<subsystem::SubsystemSpec>),
}

/// Plays the actor that `spec` (JSON) describes until killed, or until a load has ended.
///
/// # Errors
/// A text that is no actor, or a listener that cannot be bound.
pub fn play(spec: &str) -> anyhow::Result<()> {
    let actor: Actor = serde_json::from_str(spec).context("the actor's description")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        match actor {
            Actor::Load(spec) => load::play(spec).await,
            Actor::Subsystem(spec) => subsystem::play(*spec).await,
        }
    })
}

/// The time all actors of an arm count from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch {
    /// Milliseconds since the Unix epoch; the actors share one clock, being on one host.
    pub unix_ms: u64,
}

impl Epoch {
    /// This far from now.
    pub fn in_the_future(by: Duration) -> Epoch {
        Epoch {
            unix_ms: keepgate_observe::unix_ms()
                + u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Seconds since the epoch; negative before it.
    pub fn elapsed_s(self) -> f64 {
        (keepgate_observe::unix_ms() as f64 - self.unix_ms as f64) / 1000.0
    }

    /// Sleeps until `t` seconds after the epoch; not at all if that is over.
    pub(crate) async fn until(self, t: f64) {
        let left = t - self.elapsed_s();
        if left > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(left)).await;
        }
    }
}
