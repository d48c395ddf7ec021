//! The key sets of JWT issuers, fetched and kept fresh away from any request.
//!
//! Each source of keys (an issuer's document, a URL or a file) has one task. It reads the source at the
//! start, then again at intervals, and on demand when a token names an unknown key: a few times in a
//! row, then once a minute, so that an issuer may change its keys twice at once, and made-up key ids
//! are no lever against it. A source that fails leaves the last good key set in place.
//!
//! The tasks run on one control runtime, not on the workers; workers read an atomic pointer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use keepgate_client::blocking;
use keepgate_client::dial::{
    DialError, Dialed, Dialer, Endpoint, Roots, Target, TargetError, TlsSettings,
};
use keepgate_observe::chain;
use keepgate_policy::identify::KeySource;
use tokio::sync::watch;
use tokio::time::Instant;

use super::access::{AccessError, KeyAccess};
use super::discovery::{self, DocumentError};
use super::jwks::{KeySet, KeySetError, MAX_BYTES};

/// How often key sets are read and how long that may take.
#[derive(Clone, Debug)]
pub struct KeyRefresh {
    /// Between two reads of a URL that go well.
    pub interval: Duration,
    /// Between two looks at a file.
    pub file_interval: Duration,
    /// Between two reads because of unknown key ids, once [`KeyRefresh::UNKNOWN_BURST`] were made.
    pub unknown_interval: Duration,
    /// Before the first retry while there is no key set; doubles up to `interval`.
    pub retry: Duration,
    /// One read of a URL, from connecting to the last byte.
    pub timeout: Duration,
    /// How long a request waits for keys that it needs.
    pub wait: Duration,
}

impl KeyRefresh {
    /// Reads because of unknown key ids that may follow each other at once; one comes back each
    /// `unknown_interval`.
    pub const UNKNOWN_BURST: u32 = 5;
}

impl Default for KeyRefresh {
    fn default() -> KeyRefresh {
        KeyRefresh {
            interval: Duration::from_secs(300),
            file_interval: Duration::from_secs(5),
            unknown_interval: Duration::from_secs(60),
            retry: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            wait: Duration::from_secs(2),
        }
    }
}

/// Why a key set could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("`{url}` cannot be fetched from")]
    Target {
        url: String,
        #[source]
        source: TargetError,
    },
    #[error("the key server cannot be reached")]
    Dial(#[source] DialError),
    #[error("the key server does not speak HTTP")]
    Http(#[source] hyper::Error),
    #[error("the key server answered {0}")]
    Status(http::StatusCode),
    #[error("the key server did not answer in time")]
    Timeout,
    #[error("the answer broke off or is too large")]
    Body,
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Keys(KeySetError),
}

/// One source's keys.
#[derive(Debug)]
pub(crate) struct IssuerKeys {
    source: KeySource,
    keys: ArcSwapOption<KeySet>,
    /// Reads that were done, well or not.
    reads: watch::Sender<u64>,
    asked: tokio::sync::Notify,
    /// Reads that may be asked for.
    allowance: Mutex<Allowance>,
    /// The last read went wrong.
    failing: AtomicBool,
}

/// How often a source may be asked again: a bucket of tokens.
#[derive(Debug)]
struct Allowance {
    /// When the bucket is full again.
    full_at: Option<Instant>,
    /// How many reads were done when the last one was asked for: until there are more, it goes on.
    asked_after: Option<u64>,
}

impl Allowance {
    /// Takes one read, if there is one.
    fn take(&mut self, now: Instant, interval: Duration) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        // Empty: all of the burst is yet to come back.
        if full_at + interval > now + interval * KeyRefresh::UNKNOWN_BURST {
            return false;
        }
        self.full_at = Some(full_at + interval);
        true
    }
}

impl IssuerKeys {
    /// The keys as they are; none were ever read: none.
    pub(crate) fn current(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Whether the last read went wrong, so that the keys may be others by now.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Has the keys read again, unless that was asked for too often, and waits for it within bounds.
    /// Whether something was read. Who comes while a read is under way waits for that one.
    pub(crate) async fn renewed(&self, refresh: &KeyRefresh) -> bool {
        let mut reads = self.reads.subscribe();
        reads.mark_unchanged();
        if self.current().is_some() {
            let done = *reads.borrow();
            let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
            if allowance.asked_after != Some(done) {
                if !allowance.take(Instant::now(), refresh.unknown_interval) {
                    return false;
                }
                allowance.asked_after = Some(done);
                self.asked.notify_one();
            }
            drop(allowance);
        } else if *reads.borrow() > 0 {
            // The source fails; its task retries on its own.
            return false;
        }
        tokio::time::timeout(refresh.wait, reads.changed()).await.is_ok_and(|r| r.is_ok())
    }
}

/// All sources that are in use.
pub(crate) struct Issuers {
    control: tokio::runtime::Handle,
    dialer: Dialer,
    refresh: KeyRefresh,
    access: Arc<KeyAccess>,
    sources: Mutex<HashMap<String, Weak<IssuerKeys>>>,
    /// Moves on with every change of any key set; part of the token cache's state.
    state: Arc<AtomicU64>,
}

impl Issuers {
    pub(crate) fn new(
        control: tokio::runtime::Handle,
        dialer: Dialer,
        refresh: KeyRefresh,
        access: KeyAccess,
    ) -> Issuers {
        let state = Arc::new(AtomicU64::new(1));
        let access = Arc::new(access);
        Issuers { control, dialer, refresh, access, sources: Mutex::default(), state }
    }

    pub(crate) fn refresh(&self) -> &KeyRefresh {
        &self.refresh
    }

    /// A number that changes whenever a token may be judged differently.
    pub(crate) fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    /// Something about issuers changed.
    pub(crate) fn touch(&self) {
        self.state.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the keys of a source were never read, so that no token of its issuer can be judged.
    pub(crate) fn is_unread(&self, source: &KeySource) -> bool {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = sources.get(&format!("{source:?}")).and_then(Weak::upgrade);
        keys.is_none_or(|keys| keys.keys.load().is_none())
    }

    /// The keys of a source; its task runs as long as somebody holds them.
    pub(crate) fn keys(&self, source: &KeySource) -> Arc<IssuerKeys> {
        let name = format!("{source:?}");
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|_, keys| keys.strong_count() > 0);
        if let Some(keys) = sources.get(&name).and_then(Weak::upgrade) {
            return keys;
        }
        let keys = Arc::new(IssuerKeys {
            source: source.clone(),
            keys: ArcSwapOption::empty(),
            reads: watch::Sender::new(0),
            asked: tokio::sync::Notify::new(),
            allowance: Mutex::new(Allowance { full_at: None, asked_after: None }),
            failing: AtomicBool::new(false),
        });
        sources.insert(name, Arc::downgrade(&keys));
        let task = keep_fresh(
            Arc::downgrade(&keys),
            self.dialer.clone(),
            self.refresh.clone(),
            Arc::clone(&self.access),
            Arc::clone(&self.state),
        );
        self.control.spawn(task);
        keys
    }
}

/// Reads one source again and again, until nobody holds its keys.
async fn keep_fresh(
    weak: Weak<IssuerKeys>,
    dialer: Dialer,
    refresh: KeyRefresh,
    access: Arc<KeyAccess>,
    state: Arc<AtomicU64>,
) {
    let mut held: Option<Bytes> = None;
    let mut retry = refresh.retry;
    let mut failing = false;
    loop {
        let Some(keys) = weak.upgrade() else { return };
        let interval = match keys.source {
            KeySource::Discovery(_) | KeySource::JwksUrl(_) => refresh.interval,
            KeySource::JwksFile(_) | KeySource::SecretFile(_) => refresh.file_interval,
        };
        let read = read(&keys.source, &dialer, &access, refresh.timeout, held.as_ref());
        let pause = match read.await {
            Ok(fresh) => {
                if failing {
                    tracing::info!(source = name(&keys.source), "keys of a JWT issuer are back");
                    failing = false;
                }
                keys.failing.store(false, Ordering::Release);
                retry = refresh.retry;
                if let Some((bytes, set)) = fresh {
                    tracing::info!(
                        source = name(&keys.source),
                        keys = set.len(),
                        "keys of a JWT issuer are new"
                    );
                    keys.keys.store(Some(Arc::new(set)));
                    held = Some(bytes);
                    state.fetch_add(1, Ordering::AcqRel);
                }
                jittered(interval)
            }
            Err(error) => {
                if !failing {
                    let chain = chain(&error);
                    tracing::warn!(
                        source = name(&keys.source),
                        error = chain,
                        keeping = held.is_some(),
                        "keys of a JWT issuer cannot be read"
                    );
                    failing = true;
                }
                keys.failing.store(true, Ordering::Release);
                let pause = retry;
                retry = (2 * retry).min(interval.max(refresh.retry));
                pause
            }
        };
        keys.reads.send_modify(|n| *n += 1);
        // Wait without holding the keys, so that they can go.
        let until = Instant::now() + pause;
        let asked = async {
            keys.asked.notified().await;
        };
        tokio::select! {
            () = asked => {}
            () = gone_or(until, &weak) => {}
        }
    }
}

/// Ends at `until`.
async fn gone_or(until: Instant, weak: &Weak<IssuerKeys>) {
    // The caller holds one reference itself while it waits; a lone one means nobody else cares.
    loop {
        let step = (Instant::now() + Duration::from_secs(1)).min(until);
        tokio::time::sleep_until(step).await;
        if step >= until || weak.strong_count() <= 1 {
            return;
        }
    }
}

/// Nine to eleven tenths, so that many gates do not ask together.
fn jittered(interval: Duration) -> Duration {
    let mut byte = [128u8];
    // Without randomness there is no jitter, which does no harm.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut byte);
    let [byte] = byte;
    interval.mul_f64(0.9 + f64::from(byte) / 1280.0)
}

/// The first of the addresses that answers, as the target.
async fn dial_first(
    target: &Target,
    addresses: &[SocketAddr],
    dialer: &Dialer,
) -> Result<Dialed, ReadError> {
    let mut last = ReadError::Timeout;
    for address in addresses {
        let there = Target {
            place: Endpoint::Tcp { host: address.ip().to_string(), port: address.port() },
            server_name: Some(target.server_name().to_owned()),
            ..target.clone()
        };
        match dialer.dial(&there).await {
            Ok(dialed) => return Ok(dialed),
            Err(error) => last = ReadError::Dial(error),
        }
    }
    Err(last)
}

fn name(source: &KeySource) -> &str {
    match source {
        KeySource::Discovery(text)
        | KeySource::JwksUrl(text)
        | KeySource::JwksFile(text)
        | KeySource::SecretFile(text) => text,
    }
}

/// Reads a source. `None`: it has the bytes that are held.
async fn read(
    source: &KeySource,
    dialer: &Dialer,
    access: &Arc<KeyAccess>,
    timeout: Duration,
    held: Option<&Bytes>,
) -> Result<Option<(Bytes, KeySet)>, ReadError> {
    let bytes = match source {
        KeySource::Discovery(issuer) => {
            let read = discovered(issuer, dialer, access);
            tokio::time::timeout(timeout, read).await.map_err(|_| ReadError::Timeout)??
        }
        KeySource::JwksUrl(url) => {
            let read = fetch(url, MAX_BYTES, dialer, access);
            tokio::time::timeout(timeout, read).await.map_err(|_| ReadError::Timeout)??
        }
        KeySource::JwksFile(path) | KeySource::SecretFile(path) => {
            let (access, path) = (Arc::clone(access), path.clone());
            // A file system may be slow: not on the runtime's threads.
            let read = blocking::run(move || access.file(&path));
            Bytes::from(read.await.map_err(|_| ReadError::Timeout)??)
        }
    };
    if held == Some(&bytes) {
        return Ok(None);
    }
    let set = match source {
        KeySource::SecretFile(_) => KeySet::from_secret(&bytes),
        KeySource::Discovery(_) | KeySource::JwksUrl(_) | KeySource::JwksFile(_) => {
            KeySet::from_jwks(&bytes)
        }
    };
    let set = set.map_err(ReadError::Keys)?;
    Ok(Some((bytes, set)))
}

/// The key set that an issuer's own document names. Both URLs are judged by the same rules, and the
/// document is read each time: an issuer may move its keys.
async fn discovered(issuer: &str, dialer: &Dialer, access: &KeyAccess) -> Result<Bytes, ReadError> {
    let at = discovery::url(issuer);
    let document = fetch(&at, discovery::MAX_BYTES, dialer, access).await?;
    let keys = discovery::read(issuer, &document)?.jwks_uri;
    fetch(&keys, MAX_BYTES, dialer, access).await
}

/// GET without following redirects: an issuer's keys are where the operator said.
async fn fetch(
    url: &str,
    max_bytes: usize,
    dialer: &Dialer,
    access: &KeyAccess,
) -> Result<Bytes, ReadError> {
    let bad = |source| ReadError::Target { url: url.to_owned(), source };
    let asked = access.url(url)?;
    let mut target = Target::tcp(asked.host(), asked.port());
    if asked.is_https() {
        let tls = TlsSettings::new(&Roots::System, None, &["http/1.1"]);
        let tls = tls.map_err(|source| bad(TargetError::Tls { url: url.to_owned(), source }))?;
        target = target.with_tls(Arc::new(tls));
    }
    let path = asked.path.as_str();
    // The addresses that are judged are the ones connected to: the name is not asked again.
    let addresses = dialer.resolve(asked.host(), asked.port()).await.map_err(ReadError::Dial)?;
    for address in &addresses {
        asked.check(address.ip())?;
    }
    let dialed = dial_first(&target, &addresses, dialer).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(dialed.stream))
            .await
            .map_err(ReadError::Http)?;
    let drive = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, target.authority())
        .header(http::header::ACCEPT, "application/jwk-set+json, application/json")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| bad(TargetError::Url(url.to_owned())))?;
    let response = sender.send_request(request).await.map_err(ReadError::Http)?;
    if response.status() != http::StatusCode::OK {
        drive.abort();
        return Err(ReadError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), max_bytes).collect().await;
    drive.abort();
    Ok(body.map_err(|_| ReadError::Body)?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst at once, then one an interval, whatever was asked in between.
    #[test]
    fn reads_on_demand_are_bounded_by_rate() {
        let (start, interval) = (Instant::now(), Duration::from_secs(60));
        let mut allowance = Allowance { full_at: None, asked_after: None };
        let mut taken = |after_s: u64, tries: usize| {
            let now = start + Duration::from_secs(after_s);
            (0..tries).filter(|_| allowance.take(now, interval)).count()
        };
        assert_eq!(taken(0, 20), 5);
        assert_eq!(taken(59, 20), 0);
        assert_eq!(taken(60, 20), 1);
        assert_eq!(taken(61, 20), 0);
        assert_eq!(taken(180, 20), 2);
        assert_eq!(taken(3_600, 20), 5, "never more than the burst");
    }
}
