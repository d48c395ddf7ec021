//! Where the gate's permissions come from: a replica of a center, or a world in hand.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use keepgate_client::replica::{Replica, ReplicaMetrics};
use keepgate_policy::{Digest, Revision, World};
use tokio::sync::watch;

use crate::metrics::head;

/// Which state of a world is meant. The digest tells apart what a restored center may number
/// alike.
pub type Version = (Revision, Digest);

/// A look at a source.
#[derive(Debug)]
pub enum Peek {
    /// It has no world yet.
    Nothing,
    /// It still has the version that is held.
    Same,
    /// It has another one.
    New(World),
}

/// A source of permissions. Asked on every request: no call may block or do I/O.
pub trait DecisionSource: Send + Sync + 'static {
    /// What it has, compared with the version that is held.
    fn peek(&self, held: Option<Version>) -> Peek;

    /// How long ago its world was last known to be current; none: never, or nobody knows.
    fn age(&self) -> Option<Duration>;

    /// The newest revision that it has heard of; by default the one it has.
    fn head(&self) -> Revision {
        match self.peek(None) {
            Peek::New(world) => world.revision(),
            Peek::Nothing | Peek::Same => Revision(0),
        }
    }

    /// Waits, within bounds, until it has at least this revision. Whether it has.
    fn wait_for(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// Numbers for `/metrics`, in the text format; none by default.
    fn metrics(&self, out: &mut String) {
        let _ = out;
    }

    /// Takes on a report about who makes the requests of this service (JSON), for whoever collects
    /// them; nobody does by default. Must not wait.
    fn report(&self, service: &str, report: Vec<u8>) {
        let _ = (service, report);
    }

    /// The gate has ended and asks no more.
    fn close(&self) {}
}

impl DecisionSource for Replica {
    fn peek(&self, held: Option<Version>) -> Peek {
        if !self.is_ready() {
            return Peek::Nothing;
        }
        let world = self.current();
        if held == Some((world.revision(), world.digest())) {
            Peek::Same
        } else {
            Peek::New(World::clone(&world))
        }
    }

    fn age(&self) -> Option<Duration> {
        Replica::age(self)
    }

    fn head(&self) -> Revision {
        Replica::metrics(self).head.max(self.revision())
    }

    fn wait_for(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move { Replica::wait_for(self, revision, timeout).await.is_ok() })
    }

    fn metrics(&self, out: &mut String) {
        replica_metrics(&Replica::metrics(self), out);
    }

    fn report(&self, service: &str, report: Vec<u8>) {
        // INVARIANT: a gate's reports are within the bound; see `crate::report`.
        let _ = Replica::report(self, service, report);
    }

    fn close(&self) {
        Replica::close(self);
    }
}

fn replica_metrics(replica: &ReplicaMetrics, out: &mut String) {
    let counters = [
        (
            "connections_opened_total",
            "Connections opened to the center.",
            replica.connections_opened,
        ),
        ("streams_total", "Follow streams begun.", replica.streams),
        (
            "disconnects_total",
            "Connections to the center that failed or ended.",
            replica.disconnects,
        ),
        ("silences_total", "Connections given up because the center said nothing.", {
            replica.silences
        }),
        ("refusals_total", "Times the center refused this gate's token.", replica.refusals),
        ("heartbeats_total", "Heartbeats received.", replica.heartbeats),
        ("snapshots_total", "Snapshots published.", replica.snapshots),
        ("snapshots_rejected_total", "Snapshots that changed nothing because they are broken.", {
            replica.snapshots_rejected
        }),
        ("deltas_total", "Deltas published.", replica.deltas),
        ("deltas_rejected_total", "Deltas that changed nothing because they are broken.", {
            replica.deltas_rejected
        }),
        ("gaps_total", "Deltas that did not follow the revision held.", replica.gaps),
        ("resyncs_total", "Streams begun anew on the same connection.", replica.resyncs),
        ("regressions_total", "Times the center was behind this gate.", replica.regressions),
        ("disk_rejected_total", "Files in the data directory that were broken.", {
            replica.disk_rejected
        }),
        ("disk_failures_total", "Writes to the data directory that failed.", replica.disk_failures),
    ];
    let gauges = [
        ("connected", "Whether the connection to the center is up.", u64::from(replica.connected)),
        ("head_revision", "The newest revision the center has told of.", replica.head.0),
    ];
    let counters = counters.into_iter().map(|(n, h, v)| (n, "counter", h, v));
    let gauges = gauges.into_iter().map(|(n, h, v)| (n, "gauge", h, v));
    for (name, sort, help, value) in gauges.chain(counters) {
        let name = format!("keepgate_gate_replica_{name}");
        head(out, &name, sort, help);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name} {value}");
    }
}

/// A world in hand, which its owner replaces and ages.
#[derive(Debug)]
pub struct FixedSource {
    world: ArcSwapOption<World>,
    age: Mutex<Duration>,
    revision: watch::Sender<Revision>,
}

impl Default for FixedSource {
    /// One that has no world yet.
    fn default() -> FixedSource {
        FixedSource {
            world: ArcSwapOption::empty(),
            age: Mutex::new(Duration::ZERO),
            revision: watch::Sender::new(Revision(0)),
        }
    }
}

impl FixedSource {
    /// A source of this world, of age zero.
    pub fn new(world: World) -> FixedSource {
        let source = FixedSource::default();
        source.replace(world);
        source
    }

    /// From now on it is this world.
    pub fn replace(&self, world: World) {
        let revision = world.revision();
        self.world.store(Some(Arc::new(world)));
        self.revision.send_replace(revision);
    }

    /// From now on it has this age.
    pub fn set_age(&self, age: Duration) {
        *self.age.lock().unwrap_or_else(PoisonError::into_inner) = age;
    }
}

impl DecisionSource for FixedSource {
    fn peek(&self, held: Option<Version>) -> Peek {
        match self.world.load().as_deref() {
            None => Peek::Nothing,
            Some(world) if held == Some((world.revision(), world.digest())) => Peek::Same,
            Some(world) => Peek::New(world.clone()),
        }
    }

    fn age(&self) -> Option<Duration> {
        self.world.load().as_ref()?;
        Some(*self.age.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wait_for(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let mut seen = self.revision.subscribe();
        Box::pin(async move {
            let reached = seen.wait_for(|have| *have >= revision);
            matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
        })
    }
}
