//! What one request may ask of a pool.

use std::time::Duration;

/// What holds for one request in particular.
#[derive(Clone, Copy, Default)]
pub struct Terms<'a> {
    /// How long the response may take to begin, from the last byte of the request that was
    /// forwarded; none: the pool's.
    pub answer_timeout: Option<Duration>,
    /// How long nothing may move in either direction once it has begun; none: the pool's.
    pub answer_idle: Option<Duration>,
    /// Request and response are streams beside each other (gRPC): a request that pauses before the
    /// response begins is bounded by `answer_idle`.
    pub bidirectional: bool,
    /// Asked before a request that had to wait for its connection is sent on it.
    pub still_wanted: Option<&'a (dyn Fn() -> bool + Send + Sync)>,
    /// A hash of who makes the request, which cannot be guessed: while requests wait for a connection,
    /// callers take turns. None: all that give none are one caller.
    pub caller: Option<&'a (dyn Fn() -> u64 + Send + Sync)>,
    /// Told who answers, once a response has begun: the address, and whether its connection had been
    /// used before.
    #[expect(clippy::type_complexity, reason = "a name for it would hide the lifetime")]
    pub answered: Option<&'a (dyn Fn(&str, bool) + Send + Sync)>,
    /// Told now and then, while the request waits for a connection, for how long it has.
    pub waiting: Option<&'a (dyn Fn(Duration) + Send + Sync)>,
}
