//! How far the end of the gate has come, and who waits for it.
//!
//! A gate that is told to stop first stays reachable, so that load balancers see that it goes
//! (`Leaving`), then takes no connection any more (`Draining`), then closes connections without an
//! exchange (`Closing`), and at last ends what is still open (`Ended`). From the beginning it asks
//! callers to go: HTTP/1.1 with `Connection: close` in each answer, HTTP/2 with GOAWAY. A connection
//! of HTTP/1.1 is not closed at once: its caller may be about to send a request.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;

/// See the module. Later ones are greater; before the first all is as always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Life {
    /// It will stop: listeners are open, callers are asked to go.
    Leaving = 1,
    /// Listeners are closed.
    Draining,
    /// Connections without an exchange are closed.
    Closing,
    /// What is still open had its time.
    Ended,
}

/// Where it is told. Each step has a channel of its own: a connection asks once to be woken, and no
/// step before the one that it waits for may use that up.
#[derive(Debug)]
pub(crate) struct Clock {
    now: AtomicU8,
    steps: [(Life, watch::Sender<bool>); 4],
}

impl Default for Clock {
    fn default() -> Clock {
        let steps = [Life::Leaving, Life::Draining, Life::Closing, Life::Ended];
        Clock { now: AtomicU8::new(0), steps: steps.map(|life| (life, watch::Sender::new(false))) }
    }
}

impl Clock {
    /// Whether it has come that far.
    pub(crate) fn is(&self, life: Life) -> bool {
        self.now.load(Ordering::Acquire) >= life as u8
    }

    /// Goes on to `life`, never back.
    pub(crate) fn advance(&self, life: Life) {
        self.now.fetch_max(life as u8, Ordering::AcqRel);
        for (_, step) in self.steps.iter().filter(|(step, _)| *step <= life) {
            step.send_if_modified(|reached| !std::mem::replace(reached, true));
        }
    }

    /// Ends when it has come that far.
    pub(crate) fn reached(&self, life: Life) -> impl Future<Output = ()> + Send + 'static {
        let step = self.steps.iter().find(|(step, _)| *step == life);
        let step = step.map(|(_, step)| step.subscribe());
        async move {
            if let Some(mut step) = step {
                // The sender lives as long as the gate; its end is the end too.
                let _ = step.wait_for(|reached| *reached).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake};

    use futures_util::FutureExt as _;

    use super::*;

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polled once, as a connection does: the step that it waits for wakes it, and none before that.
    #[test]
    fn who_waits_for_a_step_is_woken_by_that_one() {
        let (clock, woken) = (Clock::default(), Arc::new(Woken::default()));
        let mut closing = Box::pin(clock.reached(Life::Closing));
        let waker = Arc::clone(&woken).into();
        assert!(closing.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        clock.advance(Life::Leaving);
        clock.advance(Life::Draining);
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        clock.advance(Life::Closing);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        clock.advance(Life::Ended);
        for life in [Life::Leaving, Life::Draining, Life::Closing, Life::Ended] {
            assert!(clock.is(life) && clock.reached(life).now_or_never().is_some());
        }
        clock.advance(Life::Leaving);
        assert!(clock.is(Life::Ended), "never back");
    }
}
