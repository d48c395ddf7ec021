//! Where the gate's permissions come from: a replica of a center, or a world in hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use keepgate_policy::{Digest, Revision, World};
use tokio::sync::watch;

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

    /// How long ago its world was last known to be current; none: there is no world.
    fn age(&self) -> Option<Duration>;

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
