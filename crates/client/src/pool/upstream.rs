//! One address of an upstream: from a request to a response.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::config::{PoolConfig, UpstreamId};
use super::error::{PoolError, WireError};
use super::idle::{Driver, Timer, shard};
use super::incoming::PooledBody;
use super::look::Look;
use super::opening::{OpenError, open};
use super::outgoing::{Outgoing, RequestBody, Source, Watch};
use super::plain::{Failed, is_plain};
use super::request::{copy_of_head, for_http1, for_http2, forget_host, is_idempotent, names_host};
use super::shared::Shared;
use super::slots::{Found, Grant, Lease, Link, Slots};
use super::stats::UpstreamStats;
use super::terms::Terms;
use crate::dial::Dialer;

/// Times one request is put on a connection at most.
const MAX_ATTEMPTS: usize = 8;
/// How often, within its deadline, a request that waits for a connection says so.
const PRESSURE_STEPS: u32 = 8;
/// Subtracted from what an upstream grants by `Keep-Alive: timeout=`, for the way there.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// Connections to one address of an upstream. A clone is the same.
pub struct Upstream<B: RequestBody> {
    slots: Arc<Slots<B>>,
}

impl<B: RequestBody> Clone for Upstream<B> {
    fn clone(&self) -> Upstream<B> {
        Upstream { slots: self.slots.clone() }
    }
}

impl<B: RequestBody> Upstream<B> {
    pub(super) fn new(
        id: UpstreamId,
        dialer: Dialer,
        config: PoolConfig,
        shared: Arc<Shared>,
        among: usize,
    ) -> Upstream<B> {
        Upstream { slots: Arc::new(Slots::new(id, dialer, config, shared, among)) }
    }

    /// Its identity.
    pub fn id(&self) -> &UpstreamId {
        &self.slots.id
    }

    /// Counters and gauges.
    pub fn stats(&self) -> UpstreamStats {
        self.slots.stats()
    }

    /// How many connections there may be, where each carries one request at a time (HTTP/1.1).
    pub fn unshared(&self) -> Option<usize> {
        self.slots.unshared()
    }

    /// Whether a request has to wait because there are no ports to open a connection.
    pub(super) fn is_short(&self) -> bool {
        self.slots.is_short()
    }

    /// A look at its ports begins.
    pub(super) fn begin_look(&self) {
        self.slots.begin_look();
    }

    /// So many connections may be opened until the next look; none: nothing is known.
    pub(super) fn looked(&self, room: Option<u32>) {
        self.slots.looked(room);
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.slots.dialer
    }

    pub(super) fn close_idle(&self) {
        self.slots.retire();
    }

    /// Its upstream has so many addresses. May block briefly.
    pub(super) fn share(&self, among: usize) {
        self.slots.share(among);
    }

    /// Sends a request and waits for the head of its response, on the pool's terms.
    ///
    /// The request is shaped for its connection: on HTTP/1.1 its target becomes origin-form and
    /// `Host` is set if missing (from the target's authority, else the upstream's); on HTTP/2
    /// `Host` becomes `:authority` and connection headers go. All else passes as it is.
    ///
    /// With a 101 response (ask for it with `Connection: upgrade`), `hyper::upgrade::on` gives
    /// the connection; it keeps its permit until it is dropped.
    ///
    /// Dropping the future cancels: a request on its way closes its HTTP/1.1 connection.
    pub async fn send(&self, request: Request<B>) -> Result<Response<PooledBody<B>>, PoolError> {
        self.send_on(request, &Terms::default()).await
    }

    /// As [`Upstream::send`], on terms of its own.
    pub async fn send_on(
        &self,
        request: Request<B>,
        terms: &Terms<'_>,
    ) -> Result<Response<PooledBody<B>>, PoolError> {
        let mut sending = self.begin(request, terms);
        self.exchange(&mut sending, terms).await
    }

    /// A request before its first attempt.
    pub(super) fn begin(&self, request: Request<B>, terms: &Terms<'_>) -> Sending<B> {
        let config = &self.slots.config;
        let idempotent = is_idempotent(request.method());
        let names_host = names_host(&request);
        let (parts, body) = request.into_parts();
        // On HTTP/1.1 only what is idempotent may be sent twice.
        let keeps = idempotent || self.slots.multiplexed() != Some(false);
        let (body, source) = Outgoing::new(body, keeps);
        Sending {
            request: Some(Request::from_parts(parts, body)),
            watch: source.as_ref().map(|source| Arc::clone(&source.watch)),
            source,
            idempotent,
            keeps,
            waits: Waits {
                begin: terms.answer_timeout.unwrap_or(config.response_timeout),
                idle: terms.answer_idle.unwrap_or(config.body_timeout),
                bidirectional: terms.bidirectional,
            },
            patience: Patience::default(),
            attempts: 0,
            names_host,
            elsewhere: false,
        }
    }

    /// Sends it here, as often as it may be. After an error it is whole in `sending` if it may be sent
    /// elsewhere.
    pub(super) async fn exchange(
        &self,
        sending: &mut Sending<B>,
        terms: &Terms<'_>,
    ) -> Result<Response<PooledBody<B>>, PoolError> {
        let slots = &self.slots;
        while sending.attempts < MAX_ATTEMPTS {
            sending.attempts += 1;
            let last = sending.attempts == MAX_ATTEMPTS;
            let again = sending.idempotent && sending.keeps && !last;
            let mut lease = acquire(slots, &mut sending.patience, terms, last, again).await?;
            if sending.attempts > 1 && terms.still_wanted.is_some_and(|wanted| !wanted()) {
                return Err(PoolError::Withdrawn);
            }
            let Some(mut request) = sending.request.take() else { break };
            if sending.attempts > 1 && !sending.names_host {
                forget_host(&mut request);
            }
            slots.shared.counters.requests.add(1);
            if lease.link().is_some_and(|link| link.carries()) {
                slots.shared.counters.reused.add(1);
            }
            if lease.plain().is_some() {
                if sending.source.is_none() && is_plain(&request) {
                    match self.exchange_plainly(sending, request, lease, terms, again).await? {
                        Some(response) => return Ok(response),
                        None => continue,
                    }
                }
                let driven = lease.drive().await;
                driven.map_err(|error| PoolError::exchange(slots.name.clone(), error))?;
            }
            let (watch, waits) = (sending.watch.as_deref(), &sending.waits);
            let Some(link) = lease.link() else { continue };
            let (copy, stale, counts, timer, outcome) = match link {
                Link::H1(conn) => {
                    for_http1(&mut request, &slots.host);
                    let stale = conn.reused;
                    let copy =
                        (again && (stale || sending.elsewhere)).then(|| copy_of_head(&request, ()));
                    let mut timer = local_timer(conn.timer.take(), waits.begin);
                    let Driver::Hyper(sender) = &mut conn.driver else { break };
                    let sent = sender.try_send_request(request);
                    let look = Arc::clone(&conn.look);
                    lease.sent = true;
                    let ended = Ended { look: &look, let_go: || lease.let_go() };
                    let outcome = head(sent, timer.as_mut(), watch, waits, ended).await;
                    (copy, stale, !stale, timer, outcome)
                }
                Link::H2(conn) => {
                    for_http2(&mut request, &slots.host, slots.id.target.tls.is_some())?;
                    let copy = (!last).then(|| copy_of_head(&request, ()));
                    let mut timer = local_timer(None, waits.begin);
                    let sent = conn.sender.clone().try_send_request(request);
                    let look = Arc::clone(&conn.look);
                    lease.sent = true;
                    let ended = Ended { look: &look, let_go: || lease.let_go() };
                    let outcome = head(sent, timer.as_mut(), watch, waits, ended).await;
                    (copy, true, sending.elsewhere, timer, outcome)
                }
            };
            let mut error = match outcome {
                Ok(Ok(response)) => {
                    if let Some(answered) = terms.answered {
                        answered(&slots.name, stale);
                    }
                    let watch = sending.watch.take();
                    return Ok(self.finish(response, lease, watch, Some(timer), waits));
                }
                Ok(Err(error)) => error,
                Err(late) => return Err(late.error(slots.name.clone(), waits)),
            };
            drop(lease);
            if let Some(unsent) = error.take_message() {
                if last {
                    return Err(self.failed(error.into_error(), watch));
                }
                sending.request = Some(unsent);
                slots.shared.counters.retries.add(1);
                continue;
            }
            let failed = watch.is_some_and(Watch::has_failed);
            let refused = !failed && is_refusal(error.error());
            let dead = !failed && sending.idempotent && is_death(error.error());
            let body = match &sending.source {
                _ if !refused && !dead => None,
                None => Some(Outgoing::empty()),
                Some(source) => source.again(),
            };
            let Some((copy, body)) = copy.zip(body) else {
                if refused {
                    let upstream = slots.name.clone();
                    return Err(PoolError::NotTaken { upstream, source: error.into_error() });
                }
                return Err(self.failed(error.into_error(), watch));
            };
            // A kept connection of HTTP/1.1 that dies before a byte of the answer was closed while it was
            // idle, as a rule. Otherwise what was sent may have been processed.
            if counts && !refused && !slots.shared.may_retry() {
                return Err(self.failed(error.into_error(), watch));
            }
            slots.shared.counters.retries.add(1);
            sending.request = Some(copy.map(|()| body));
            // A connection that was new did not die of being idle: the address is to blame.
            if dead && !refused && !stale {
                return Err(self.failed(error.into_error(), watch));
            }
        }
        Err(PoolError::Unsendable("no attempt is left"))
    }

    /// Sends it on a connection that nobody else drives. None: it is in `sending` again, and may be sent
    /// once more. `again`: it may be, also where it may have been processed.
    async fn exchange_plainly(
        &self,
        sending: &mut Sending<B>,
        mut request: Request<Outgoing<B>>,
        mut lease: Lease<B>,
        terms: &Terms<'_>,
        again: bool,
    ) -> Result<Option<Response<PooledBody<B>>>, PoolError> {
        let (slots, waits) = (&self.slots, &sending.waits);
        for_http1(&mut request, &slots.host);
        lease.sent = true;
        let Some(Link::H1(conn)) = lease.link() else { return Ok(None) };
        let stale = conn.reused;
        let mut timer = local_timer(conn.timer.take(), waits.begin);
        let Driver::Plain(plain) = &mut conn.driver else { return Ok(None) };
        let outcome = within(plain.exchange(&request), timer.as_mut()).await;
        let Failed { error, unsent } = match outcome {
            None => return Err(Late::Begin.error(slots.name.clone(), waits)),
            Some(Ok(response)) => {
                if let Some(answered) = terms.answered {
                    answered(&slots.name, stale);
                }
                if let Some(value) = response.headers().get("keep-alive") {
                    conn.keep = granted_idle(value).min(slots.config.idle_timeout);
                }
                let idle = waits.idle;
                return Ok(Some(
                    response.map(|rest| PooledBody::plain(rest, lease, Some(timer), idle)),
                ));
            }
            Some(Err(failed)) => failed,
        };
        drop(lease);
        let failed = |error| Err(PoolError::exchange(slots.name.clone(), error));
        if unsent {
            if sending.attempts == MAX_ATTEMPTS {
                return failed(error);
            }
        } else {
            if !again || !is_end(&error) || !(stale || sending.elsewhere) {
                return failed(error);
            }
            // As below: what was idle was closed while it was, as a rule.
            if !stale && !slots.shared.may_retry() {
                return failed(error);
            }
        }
        slots.shared.counters.retries.add(1);
        sending.request = Some(request);
        // A connection that was new did not die of being idle: the address is to blame.
        if unsent || stale { Ok(None) } else { failed(error) }
    }

    fn finish(
        &self,
        response: Response<Incoming>,
        mut lease: Lease<B>,
        watch: Option<Arc<Watch>>,
        timer: Option<Pin<Box<Sleep>>>,
        waits: &Waits,
    ) -> Response<PooledBody<B>> {
        if let Some(Link::H1(conn)) = lease.link()
            && let Some(value) = response.headers().get("keep-alive")
        {
            conn.keep = granted_idle(value).min(self.slots.config.idle_timeout);
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        response.map(|incoming| {
            let lease = (!upgraded).then_some(lease);
            PooledBody::new(incoming, lease, watch, timer, waits.idle)
        })
    }

    fn failed(&self, source: hyper::Error, watch: Option<&Watch>) -> PoolError {
        if watch.is_some_and(Watch::has_failed) {
            return PoolError::RequestBody { source };
        }
        PoolError::exchange(self.slots.name.clone(), source)
    }
}

/// A request over all attempts to send it, here or elsewhere.
pub(super) struct Sending<B> {
    /// None: it is on a connection, or may not be sent any more.
    request: Option<Request<Outgoing<B>>>,
    source: Option<Arc<Source<B>>>,
    watch: Option<Arc<Watch>>,
    idempotent: bool,
    keeps: bool,
    waits: Waits,
    patience: Patience,
    attempts: usize,
    /// It came with a host; else each address puts in its own.
    names_host: bool,
    /// There is another address to send it to, if its connection dies: also one that was new.
    pub(super) elsewhere: bool,
}

impl<B> Sending<B> {
    /// Whether it is whole, and may be sent (once more).
    pub(super) fn is_whole(&self) -> bool {
        self.request.is_some() && self.attempts < MAX_ATTEMPTS
    }
}

/// How long one exchange may wait.
struct Waits {
    begin: Duration,
    idle: Duration,
    bidirectional: bool,
}

/// The deadline that passed.
enum Late {
    Begin,
    Idle,
}

impl Late {
    fn error(self, upstream: String, waits: &Waits) -> PoolError {
        match self {
            Late::Begin => PoolError::ResponseTimeout { upstream, after: waits.begin },
            Late::Idle => PoolError::Idle { upstream, after: waits.idle },
        }
    }
}

/// The outcome, or none: the deadline passed.
async fn within<F: Future>(sending: F, mut timer: Pin<&mut Sleep>) -> Option<F::Output> {
    let mut sending = pin!(sending);
    poll_fn(|cx| match sending.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending if has_passed(timer.as_mut(), cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// What is done once a connection has ended: its request, if that crossed the end, comes back when
/// nothing else holds on to the connection.
struct Ended<'a, F> {
    look: &'a Look,
    let_go: F,
}

/// The response's head, or the deadline.
async fn head<F: Future>(
    sending: F,
    mut timer: Pin<&mut Sleep>,
    watch: Option<&Watch>,
    waits: &Waits,
    Ended { look, let_go }: Ended<'_, impl FnOnce()>,
) -> Result<F::Output, Late> {
    let mut sending = pin!(sending);
    let mut ended = pin!(look.ended());
    let mut let_go = Some(let_go);
    // What ended before `ended` was made does not wake it.
    let is_over = look.is_gone();
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        if let_go.is_some()
            && (is_over || ended.as_mut().poll(cx).is_ready())
            && let Some(let_go) = let_go.take()
        {
            let_go();
        }
        while has_passed(timer.as_mut(), cx) {
            match later(watch, waits) {
                Ok(later) => timer.as_mut().reset(later),
                Err(late) => return Poll::Ready(Err(late)),
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether the timer has ended. It is asked outside of tokio's budget: an upstream that sends without
/// pause, informational answers for instance, uses that up, and the timer would never be looked at.
fn has_passed(timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> bool {
    pin!(tokio::task::unconstrained(timer)).poll(cx).is_ready()
}

/// The deadline moves with the request's body. While more of that is awaited, how long is for its
/// sender to bound, but for a stream beside which the answer may begin at any time.
fn later(watch: Option<&Watch>, waits: &Waits) -> Result<Instant, Late> {
    let Some(watch) = watch else { return Err(Late::Begin) };
    let now = Instant::now();
    let (late, end) = match (watch.is_starved(), waits.bidirectional) {
        (true, false) => return Ok(now + waits.begin),
        (true, true) => (Late::Idle, watch.alive() + waits.idle),
        (false, _) => (Late::Begin, watch.alive() + waits.begin),
    };
    if end > now { Ok(end) } else { Err(late) }
}

/// How long a request has waited and may wait.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
    had_its_turn: bool,
}

impl Patience {
    /// The wait has ended. Where there was one, what was known before it is asked again.
    fn over<B: RequestBody>(
        &self,
        lease: Lease<B>,
        terms: &Terms<'_>,
    ) -> Result<Lease<B>, PoolError> {
        match terms.still_wanted {
            Some(still_wanted) if self.since.is_some() && !still_wanted() => {
                Err(PoolError::Withdrawn)
            }
            _ => Ok(lease),
        }
    }
}

/// `fresh`: a connection that nobody has used. `repeatable`: the request may be sent again.
async fn acquire<B: RequestBody>(
    slots: &Arc<Slots<B>>,
    patience: &mut Patience,
    terms: &Terms<'_>,
    fresh: bool,
    repeatable: bool,
) -> Result<Lease<B>, PoolError> {
    loop {
        let full = |retry_after_s| {
            let (upstream, waiting) = (slots.name.clone(), slots.config.max_queue);
            PoolError::QueueFull { upstream, waiting, retry_after_s }
        };
        let grant = match slots.find(patience.had_its_turn, fresh, terms) {
            Found::Grant(grant) => grant,
            Found::Full(retry_after_s) => return Err(full(retry_after_s)),
            Found::Wait(mut ticket) => {
                let since = *patience.since.get_or_insert_with(Instant::now);
                match granted(slots, &mut ticket.granted, since, terms).await {
                    Ok(grant) => grant,
                    Err(NoGrant::Late) => return Err(too_late(slots, since)),
                    Err(NoGrant::Displaced) => {
                        slots.shared.counters.queue_full.add(1);
                        return Err(full(slots.wait_s()));
                    }
                }
            }
        };
        let opening = match grant {
            Grant::Lease(lease) if lease.is_gone(repeatable) => {
                lease.give_up();
                patience.had_its_turn = true;
                continue;
            }
            Grant::Lease(lease) => return patience.over(lease, terms),
            Grant::Open(opening) => opening,
        };
        match open(slots, opening).await {
            Ok(lease) => return patience.over(lease, terms),
            Err(OpenError::Dial(error)) if error.is_local_shortage() => {
                patience.had_its_turn = true;
                let since = *patience.since.get_or_insert_with(Instant::now);
                if since.elapsed() >= slots.config.queue_timeout {
                    return Err(too_late(slots, since));
                }
            }
            Err(OpenError::Dial(error)) => {
                return Err(PoolError::dial(slots.name.clone(), error));
            }
            Err(OpenError::Handshake(error)) => {
                return Err(PoolError::exchange(slots.name.clone(), error));
            }
        }
    }
}

/// Why a request in the queue got nothing.
enum NoGrant {
    /// It was too late.
    Late,
    /// Another caller's request took its place.
    Displaced,
}

/// Waits in the queue.
async fn granted<B: RequestBody>(
    slots: &Slots<B>,
    grant: &mut oneshot::Receiver<Grant<B>>,
    since: Instant,
    terms: &Terms<'_>,
) -> Result<Grant<B>, NoGrant> {
    let deadline = since + slots.config.queue_timeout;
    loop {
        let step = (Instant::now() + slots.config.queue_timeout / PRESSURE_STEPS).min(deadline);
        match tokio::time::timeout_at(step, &mut *grant).await {
            Ok(grant) => return grant.map_err(|_| NoGrant::Displaced),
            Err(_) if step >= deadline => return Err(NoGrant::Late),
            Err(_) => {
                if let Some(waiting) = terms.waiting {
                    waiting(since.elapsed());
                }
            }
        }
    }
}

fn too_late<B: RequestBody>(slots: &Slots<B>, since: Instant) -> PoolError {
    slots.shared.counters.queue_timeouts.add(1);
    let (upstream, after) = (slots.name.clone(), since.elapsed());
    let retry_after_s = slots.wait_s();
    match slots.shortage() {
        Some(source) => PoolError::PortsExhausted { upstream, after, retry_after_s, source },
        None if slots.is_at_reserve() => PoolError::PortReserve { upstream, after, retry_after_s },
        None => PoolError::QueueTimeout { upstream, after, retry_after_s },
    }
}

/// The connection's timer if this thread's runtime made it, else a new one.
fn local_timer(kept: Option<Timer>, timeout: Duration) -> Pin<Box<Sleep>> {
    match kept {
        Some(Timer { shard: owner, mut sleep }) if owner == shard() => {
            sleep.as_mut().reset(Instant::now() + timeout);
            sleep
        }
        _ => Box::pin(tokio::time::sleep(timeout)),
    }
}

/// Whether an HTTP/2 peer says that it did nothing with the request (RFC 9113, section 8.7): any
/// method may be sent again.
fn is_refusal(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    source.is_some_and(|h2: &h2::Error| {
        h2.reason() == Some(h2::Reason::REFUSED_STREAM)
            || h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// Whether the connection died, as idle connections do, rather than answered badly. Of a request
/// without a body, `is_user` says that the runtime which drove the connection is gone.
fn is_death(error: &hyper::Error) -> bool {
    let io = || {
        let source = std::error::Error::source(error)?;
        let source = match source.downcast_ref::<h2::Error>() {
            Some(h2) => h2.get_io()?,
            None => source.downcast_ref::<std::io::Error>()?,
        };
        Some(is_end_of_io(source))
    };
    error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || error.is_user()
        || io() == Some(true)
}

/// The same of a connection that hyper does not drive.
fn is_end(error: &WireError) -> bool {
    match error {
        WireError::Http(error) => is_death(error),
        WireError::Io(error) => is_end_of_io(error),
        WireError::Incomplete => true,
        WireError::Invalid(_) => false,
    }
}

fn is_end_of_io(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::BrokenPipe
            | std::io::ErrorKind::UnexpectedEof
    )
}

/// How long `Keep-Alive: timeout=N` lets us keep the connection.
fn granted_idle(value: &HeaderValue) -> Duration {
    let seconds = value.to_str().ok().and_then(|text| {
        text.split(',').find_map(|part| {
            let (name, seconds) = part.split_once('=')?;
            let named = name.trim().eq_ignore_ascii_case("timeout");
            named.then(|| seconds.trim().parse::<u64>().ok()).flatten()
        })
    });
    seconds.map_or(Duration::MAX, |s| Duration::from_secs(s).saturating_sub(KEEP_ALIVE_MARGIN))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A request that crosses the end of its connection, before or while it is waited for.
    #[tokio::test]
    async fn a_request_that_crossed_the_end_comes_back() {
        for ends_before in [true, false] {
            let (socket, _peer) = UnixStream::pair().unwrap();
            let look = Look::at(&socket);
            let waits = Waits {
                begin: Duration::from_secs(3600),
                idle: Duration::from_secs(3600),
                bidirectional: false,
            };
            // As hyper's channel: it answers when the last handle on it is dropped.
            let (handle, sending) = oneshot::channel::<()>();
            if ends_before {
                look.gone();
            }
            let mut timer = local_timer(None, waits.begin);
            let ended = Ended { look: &look, let_go: || drop(handle) };
            let waiting = head(sending, timer.as_mut(), None, &waits, ended);
            let ends = async {
                tokio::task::yield_now().await;
                look.gone();
            };
            let bounded = tokio::time::timeout(Duration::from_secs(20), async {
                tokio::join!(waiting, ends)
            });
            let (outcome, ()) = bounded.await.expect("it hangs");
            assert!(matches!(outcome, Ok(Err(_))), "ends_before: {ends_before}");
        }
    }

    #[test]
    fn keep_alive_timeouts() {
        let idle = |text: &'static str| granted_idle(&HeaderValue::from_static(text));
        assert_eq!(idle("timeout=5"), Duration::from_secs(4));
        assert_eq!(idle("max=100, Timeout = 5"), Duration::from_secs(4));
        assert_eq!(idle("timeout=0"), Duration::ZERO);
        assert_eq!(idle("timeout=x"), Duration::MAX);
        assert_eq!(idle("max=1"), Duration::MAX);
    }
}
