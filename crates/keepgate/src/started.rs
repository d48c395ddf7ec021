//! What a command has started, in order, and torn down in reverse on every way out: after a stop,
//! an early error, or a panic.
//!
//! [`run`] owns the runtime, so that the teardown can wait also where a panic passes through.

use std::any::Any;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use anyhow::anyhow;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

/// Runs a wiring on a runtime, and tears down what it started. If both fail, the wiring's error is
/// returned and the other is logged.
pub(crate) fn run<T>(
    runtime: Runtime,
    wiring: impl AsyncFnOnce(&mut Started) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut guard = Guard { runtime, started: Started::default() };
    let outcome = guard.runtime.block_on(wiring(&mut guard.started));
    let mut errors = guard.tear_down().into_iter();
    let outcome = outcome.and_then(|value| errors.next().map_or(Ok(value), Err));
    for error in errors {
        tracing::warn!(error = format!("{error:#}"), "while stopping after an error");
    }
    outcome
}

/// Tears down by `Drop` too: that is what a panic leaves.
struct Guard {
    runtime: Runtime,
    started: Started,
}

impl Guard {
    /// Ends all parts, the last one first. An error of one does not keep the others up.
    fn tear_down(&mut self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        while let Some(part) = self.started.parts.pop() {
            errors.extend(self.runtime.block_on(part.end()).err());
        }
        errors
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for error in self.tear_down() {
            tracing::warn!(error = format!("{error:#}"), "while stopping after a panic");
        }
    }
}

/// The parts that are up, the oldest first.
#[derive(Default)]
pub(crate) struct Started {
    parts: Vec<Part>,
}

struct Part {
    name: &'static str,
    end: End,
}

/// How a part ends.
enum End {
    /// It is told to, and waited for; none: it ended by itself.
    Close { close: watch::Sender<bool>, task: Option<JoinHandle<anyhow::Result<()>>> },
    /// Something is done.
    Undo(Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>),
    /// It is dropped.
    Drop(Box<dyn Any + Send>),
}

impl Started {
    /// Runs a server until its end is torn down: then the future that `server` was given is ready.
    pub(crate) fn serve<F>(&mut self, name: &'static str, server: impl FnOnce(Closing) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (close, closing) = watch::channel(false);
        let task = Some(tokio::spawn(server(Closing(closing))));
        self.parts.push(Part { name, end: End::Close { close, task } });
    }

    /// Does this when it is torn down, or at [`Started::end_last`].
    pub(crate) fn undo_later(
        &mut self,
        name: &'static str,
        undo: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.parts.push(Part { name, end: End::Undo(Box::pin(undo)) });
    }

    /// Keeps this until it is torn down.
    pub(crate) fn keep(&mut self, name: &'static str, value: impl Any + Send) {
        self.parts.push(Part { name, end: End::Drop(Box::new(value)) });
    }

    /// Ends the part that was started last, now.
    pub(crate) async fn end_last(&mut self) -> anyhow::Result<()> {
        match self.parts.pop() {
            Some(part) => part.end().await,
            None => Ok(()),
        }
    }

    /// Waits until a server ends by itself, which none should; returns which one, and how.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        poll_fn(|cx| {
            for part in &mut self.parts {
                let End::Close { task, .. } = &mut part.end else { continue };
                let Some(running) = task else { continue };
                if let Poll::Ready(ended) = Pin::new(running).poll(cx) {
                    *task = None;
                    return Poll::Ready(match joined(part.name, ended) {
                        Ok(()) => anyhow!("{} ended by itself", part.name),
                        Err(error) => error.context(format!("{} ended", part.name)),
                    });
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Part {
    async fn end(self) -> anyhow::Result<()> {
        tracing::debug!(part = self.name, "stopping");
        match self.end {
            End::Close { task: None, .. } => Ok(()),
            End::Close { close, task: Some(task) } => {
                close.send_replace(true);
                joined(self.name, task.await)
            }
            End::Undo(undo) => undo.await,
            End::Drop(value) => {
                drop(value);
                Ok(())
            }
        }
    }
}

/// A task's result; a panic is an error of that part.
fn joined(name: &str, ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    ended.unwrap_or_else(|error| Err(anyhow!("{name}: {error}")))
}

/// Tells a server when to end.
pub(crate) struct Closing(watch::Receiver<bool>);

impl Closing {
    /// Ready when the server is to end.
    pub(crate) async fn wait(mut self) {
        // A sender that is gone means the same.
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, Mutex};

    use anyhow::bail;

    use super::*;

    type Log = Arc<Mutex<Vec<&'static str>>>;

    /// Says that it is gone.
    struct Dropped(Log);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("kept");
        }
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    /// One part of each kind, and a listener that closes only after a while. Returns its address.
    fn start(started: &mut Started, log: &Log) -> SocketAddr {
        started.keep("kept", Dropped(log.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let said = log.clone();
        started.serve("server", |closing| async move {
            closing.wait().await;
            // Others get their turn before it has ended.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            drop(listener);
            said.lock().unwrap().push("server");
            Ok(())
        });
        let said = log.clone();
        started.undo_later("undone", async move {
            said.lock().unwrap().push("undone");
            Ok(())
        });
        addr
    }

    fn assert_gone(log: &Log, addr: SocketAddr) {
        assert_eq!(*log.lock().unwrap(), ["undone", "server", "kept"]);
        TcpListener::bind(addr).expect("the listener is closed");
    }

    #[test]
    fn all_is_torn_down_in_reverse_after_success_and_after_an_error() {
        for fails in [false, true] {
            let (log, mut addr) = (Log::default(), None);
            let outcome = run(runtime(), async |started| {
                addr = Some(start(started, &log));
                if fails {
                    bail!("in the middle");
                }
                Ok(7)
            });
            assert_gone(&log, addr.unwrap());
            match outcome {
                Ok(value) => assert!(!fails && value == 7),
                Err(error) => assert!(fails && error.to_string() == "in the middle"),
            }
        }
    }

    #[test]
    fn all_is_torn_down_in_reverse_after_a_panic() {
        let (log, mut addr) = (Log::default(), None);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            run(runtime(), async |started| -> anyhow::Result<()> {
                addr = Some(start(started, &log));
                tokio::task::yield_now().await;
                panic!("in the middle");
            })
        }));
        assert!(caught.is_err());
        assert_gone(&log, addr.unwrap());
    }

    #[test]
    fn a_part_that_does_not_end_well_keeps_no_other_up() {
        let (log, mut addr) = (Log::default(), None);
        let outcome = run(runtime(), async |started| {
            addr = Some(start(started, &log));
            started.undo_later("fails", async { Err(anyhow!("cannot be undone")) });
            started.serve("panics", |closing| async move {
                closing.wait().await;
                panic!("at the end");
            });
            Ok(())
        });
        assert_gone(&log, addr.unwrap());
        let error = outcome.unwrap_err().to_string();
        assert!(error.starts_with("panics: ") && error.contains("panicked"), "{error}");
    }

    #[test]
    fn a_server_that_ends_by_itself_is_named() {
        for (ends, expected) in
            [(Ok(()), "two ended by itself"), (Err("no memory"), "two ended: no memory")]
        {
            let error = run(runtime(), async |started| -> anyhow::Result<()> {
                started.serve("one", |closing| async {
                    closing.wait().await;
                    Ok(())
                });
                started.serve("two", |_| async move { ends.map_err(|text: &str| anyhow!(text)) });
                Err(started.failure().await)
            })
            .unwrap_err();
            assert_eq!(format!("{error:#}"), expected);
        }
    }

    #[test]
    fn what_is_ended_early_is_not_ended_again() {
        let log = Log::default();
        run(runtime(), async |started| {
            start(started, &log);
            started.end_last().await?;
            assert_eq!(*log.lock().unwrap(), ["undone"]);
            Ok(())
        })
        .unwrap();
        assert_eq!(*log.lock().unwrap(), ["undone", "server", "kept"]);
    }
}
