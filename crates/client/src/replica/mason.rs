//! Builds worlds and frees them, on a thread of its own that gives way to those that serve.
//!
//! INVARIANT: a world that was replaced is freed here: it is kept until no request, worker or reader has
//! it any more, so none of them is the last to let it go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use keepgate_policy::World;
use keepgate_policy::world::Retired;
use tokio::sync::oneshot;

use super::received::Unusable;

/// What the thread is called.
pub(super) const NAME: &str = "replica-worlds";
/// By how much the thread gives way, as `nice` counts. Beside a worker that never rests it still gets a
/// quarter of a core: a revocation must not wait for a quiet hour.
const NICE: i32 = 5;
/// Between two looks at what may be freed; longer and longer while nothing is.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

enum Job {
    Build(Box<dyn FnOnce() + Send>),
    Retire(World),
}

/// See the module. The thread ends with the last of its handles.
#[derive(Clone, Default)]
pub(super) struct Mason {
    /// None: there is no thread.
    jobs: Option<Sender<Job>>,
}

impl Mason {
    /// Without a thread, where none is to be had, work is done where other such work is.
    pub(super) fn start() -> Mason {
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new().name(NAME.to_owned());
        let stack = thread.stack_size(keepgate_policy::DECISION_STACK);
        let jobs = match stack.spawn(move || run(&queue)) {
            Ok(_) => Some(jobs),
            Err(error) => {
                tracing::warn!(%error, "no thread to build permissions on: they are built beside requests");
                None
            }
        };
        Mason { jobs }
    }

    /// Does work that takes too long for a thread that serves, in its turn.
    pub(super) async fn build<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Unusable> + Send + 'static,
    ) -> Result<T, Unusable> {
        let Some(jobs) = &self.jobs else {
            return crate::blocking::run(work).await.unwrap_or(Err(Unusable::Thread));
        };
        let (reply, built) = oneshot::channel();
        let job = Box::new(move || drop(reply.send(work())));
        if jobs.send(Job::Build(job)).is_err() {
            return Err(Unusable::Thread);
        }
        built.await.unwrap_or(Err(Unusable::Thread))
    }

    /// Frees a world that was replaced, once nobody else has it.
    pub(super) fn retire(&self, world: World) {
        if let Some(jobs) = &self.jobs {
            // Without a receiver the process is about to end.
            let _ = jobs.send(Job::Retire(world));
        }
    }
}

fn run(queue: &Receiver<Job>) {
    give_way();
    let mut retired = Retired::default();
    let mut pause = LOOKS.0;
    loop {
        let job = if retired.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(pause)
        };
        match job {
            Ok(Job::Build(work)) => {
                // Whoever waits hears of it: the reply is dropped with the work.
                let _ = catch_unwind(AssertUnwindSafe(work));
            }
            Ok(Job::Retire(world)) => {
                retired.push(world);
                pause = LOOKS.0;
                // Those who serve have not seen the next one yet.
                continue;
            }
            Err(RecvTimeoutError::Timeout) => pause = LOOKS.1.min(pause * 2),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        drop(retired.free());
    }
}

/// Lets others have the processor first; for this thread alone.
fn give_way() {
    // Linux takes it as the thread's. Where it is refused, nothing but that is lost.
    #[expect(unsafe_code, reason = "std knows no priorities")]
    // SAFETY: it takes a number, and no memory.
    unsafe {
        libc::nice(NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_on_its_thread_and_what_panics_is_an_error() {
        let mason = Mason::start();
        let name = || Ok(std::thread::current().name().map(ToOwned::to_owned));
        assert_eq!(mason.build(name).await.unwrap().as_deref(), Some(NAME));
        let lost = mason.build(|| -> Result<(), Unusable> { panic!("on purpose") }).await;
        assert!(matches!(lost, Err(Unusable::Thread)));
        assert!(mason.build(name).await.is_ok());
        assert!(Mason::default().build(|| Ok(7)).await.is_ok_and(|seven| seven == 7));
    }
}
