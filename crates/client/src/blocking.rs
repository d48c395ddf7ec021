//! Work that takes too long for a thread that serves: files, name look-ups, worlds.

use tokio::task::JoinError;

/// Runs it on a thread for such work, and returns what it returns.
///
/// While the runtime goes down, work that was not begun never is. This future does not end then: who
/// waits for it is about to be dropped, and must not take "nothing was done" for a failure and say so.
///
/// # Errors
/// The work panicked.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match tokio::task::spawn_blocking(work).await {
        Err(gone) if gone.is_cancelled() => std::future::pending().await,
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn what_panics_is_an_error() {
        assert_eq!(super::run(|| 7).await.unwrap(), 7);
        assert!(super::run(|| panic!("on purpose")).await.unwrap_err().is_panic());
    }

    /// The only thread for such work is taken while the runtime goes down.
    #[test]
    fn work_that_a_shutdown_leaves_undone_is_no_failure() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (ended, hears) = mpsc::channel();
        let (go, held) = mpsc::channel::<()>();
        runtime.spawn(async move {
            let first = tokio::task::spawn_blocking(move || held.recv());
            let second = super::run(|| ());
            let said = second.await.is_ok();
            let _ = ended.send(said);
            let _ = first.await;
        });
        std::thread::sleep(Duration::from_millis(50));
        runtime.shutdown_background();
        drop(go);
        // The sender went with its task, and nothing was sent.
        let said = hears.recv_timeout(Duration::from_secs(60));
        assert_eq!(said, Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
