//! A gate takes the place of another one, and no listener closes in between.
//!
//! Both run with the same `--takeover PATH`. The new one connects to the Unix socket at PATH. The old
//! one lets go of the data directory and passes a copy of each listening descriptor. When the new one
//! can decide it accepts from the same queues, says so, and listens at PATH itself. Then the old one
//! leaves: its callers are asked to go, its exchanges end in their own time.
//!
//! INVARIANT: descriptors go to, and come from, processes of the same user only. A new gate that does
//! not become ready changes nothing, but that the old one keeps its state in memory only.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UnixStream as Asking;

use super::rights;

/// What the old gate says with the descriptors. The number goes up when what follows changes.
const HELLO: &[u8] = b"keepgate takeover 1\n";
/// What the new gate says when it serves.
const READY: &[u8] = b"ready\n";
/// How long the other side may take to say what is next, but for getting ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a new gate may take until it can decide.
const GET_READY: Duration = Duration::from_secs(60);
/// Between two looks at whether it can.
const LOOK: Duration = Duration::from_millis(50);

/// Why a gate cannot take another one's place, or be replaced.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The socket.
    #[error("the takeover socket `{path}` cannot be used")]
    Socket {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else's.
    #[error("expected a gate of user {own} at the takeover socket `{path}`, found user {other}")]
    User {
        /// Its path.
        path: String,
        /// Our user id.
        own: u32,
        /// Theirs.
        other: u32,
    },
    /// Something else listens there.
    #[error("expected a gate of this release or a later one at the takeover socket `{path}`")]
    Protocol {
        /// Its path.
        path: String,
    },
    /// This gate did not become ready.
    #[error("the gate was not ready within {0:?}: {1}; the one before it goes on")]
    NotReady(Duration, String),
    /// There are too many listeners for one message.
    #[error("at most 253 listeners can be passed on, there are {0}; use fewer workers")]
    TooMany(usize),
}

/// The listeners of the gate before this one, and itself, which waits.
#[derive(Default)]
pub(crate) struct Inherited {
    tcp: Vec<(SocketAddr, TcpListener)>,
    unix: Vec<(PathBuf, UnixListener)>,
    old: Option<UnixStream>,
}

impl Inherited {
    /// Whether there is a gate before this one.
    pub(crate) fn is_some(&self) -> bool {
        self.old.is_some()
    }

    /// Those at this address.
    pub(crate) fn tcp(&mut self, addr: SocketAddr) -> Vec<TcpListener> {
        self.tcp.extract_if(.., |(at, _)| *at == addr).map(|(_, listener)| listener).collect()
    }

    /// Those at this path.
    pub(crate) fn unix(&mut self, path: &Path) -> Vec<UnixListener> {
        self.unix.extract_if(.., |(at, _)| at == path).map(|(_, listener)| listener).collect()
    }

    /// The old gate, once all that is wanted was taken. What was not is closed with the old one's.
    pub(crate) fn old(self) -> Option<UnixStream> {
        for (addr, _) in &self.tcp {
            tracing::info!(%addr, "a listener of the gate before this one is not configured here");
        }
        for (path, _) in &self.unix {
            let path = path.display();
            tracing::info!(%path, "a listener of the gate before this one is not configured here");
        }
        self.old
    }

    fn add(&mut self, fd: OwnedFd) -> io::Result<()> {
        let addr = SockRef::from(&fd).local_addr()?;
        match (addr.as_socket(), addr.as_pathname()) {
            (Some(addr), _) => self.tcp.push((addr, fd.into())),
            (None, Some(path)) => self.unix.push((path.to_owned(), fd.into())),
            (None, None) => return Err(io::Error::other("a descriptor is not a listener")),
        }
        Ok(())
    }
}

/// Asks the gate at this path for its listeners; nothing where there is none.
pub(crate) async fn ask(path: &Path) -> Result<Inherited, TakeoverError> {
    let at = || path.display().to_string();
    let socket = |source| TakeoverError::Socket { path: at(), source };
    #[expect(
        clippy::disallowed_methods,
        reason = "it leads to a process of this user on this host"
    )]
    let asking = match Asking::connect(path).await {
        Ok(asking) => asking,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(Inherited::default());
        }
        Err(error) => return Err(socket(error)),
    };
    let (own, other) = users(&asking).map_err(socket)?;
    if own != other {
        return Err(TakeoverError::User { path: at(), own, other });
    }
    let stream = blocking(asking).map_err(socket)?;
    let received = tokio::task::spawn_blocking(move || {
        let mut hello = [0; 64];
        let (read, each) = rights::receive(&stream, &mut hello)?;
        Ok::<_, io::Error>((stream, hello.get(..read) == Some(HELLO), each))
    });
    let (stream, is_gate, each) =
        received.await.map_err(|e| socket(io::Error::other(e)))?.map_err(socket)?;
    if !is_gate {
        return Err(TakeoverError::Protocol { path: at() });
    }
    let mut inherited = Inherited::default();
    for fd in each {
        inherited.add(fd).map_err(socket)?;
    }
    inherited.old = Some(stream);
    Ok(inherited)
}

/// A gate that can be replaced, and may replace another one.
pub(crate) struct Takeover {
    place: Place,
    /// The one before it.
    old: Option<UnixStream>,
    /// Copies of all listeners.
    listeners: Vec<OwnedFd>,
}

impl Takeover {
    /// `old`: the gate before this one. `listeners`: copies of all of this one's.
    pub(crate) fn new(
        path: &Path,
        old: Option<UnixStream>,
        listeners: io::Result<Vec<OwnedFd>>,
    ) -> Result<Takeover, TakeoverError> {
        let socket = |source| TakeoverError::Socket { path: path.display().to_string(), source };
        let listeners = listeners.map_err(socket)?;
        if listeners.len() > rights::MOST {
            return Err(TakeoverError::TooMany(listeners.len()));
        }
        let place = Place::beside(path).map_err(socket)?;
        Ok(Takeover { place, old, listeners })
    }

    /// Where there is a gate before this one: waits until this one can decide. Until then it must take
    /// nothing from the queues that they share. `unready` says why it cannot yet.
    pub(crate) async fn get_ready(
        &self,
        unready: impl Fn() -> Option<String>,
    ) -> Result<(), TakeoverError> {
        if self.old.is_none() {
            return Ok(());
        }
        let end = tokio::time::Instant::now() + GET_READY;
        while let Some(why) = unready() {
            if tokio::time::Instant::now() >= end {
                return Err(TakeoverError::NotReady(GET_READY, why));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Tells the gate before this one that it serves, then waits until another one has taken its place.
    /// `let_go`: lets go of what only one may have.
    pub(crate) async fn run(mut self, let_go: impl Fn()) -> Result<(), TakeoverError> {
        let path = self.place.path.display().to_string();
        let socket = |source| TakeoverError::Socket { path: path.clone(), source };
        let listener = self.place.take().map_err(socket)?;
        if let Some(old) = self.old.take() {
            let said = tokio::task::spawn_blocking(move || (&old).write_all(READY)).await;
            match said.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(()) => tracing::info!("took the place of the gate before this one"),
                // This one serves; to end it too would leave nobody.
                Err(error) => tracing::warn!(
                    %error,
                    "the gate before this one did not hear that this one serves; if it still runs, \
                     stop it"
                ),
            }
        }
        loop {
            let asking = match listener.accept().await {
                Ok((asking, _)) => asking,
                Err(error) => {
                    tracing::warn!(%error, "the takeover socket cannot be accepted from");
                    tokio::time::sleep(PATIENCE).await;
                    continue;
                }
            };
            match users(&asking) {
                Ok((own, other)) if own == other => {}
                _ => {
                    tracing::warn!("a process of another user asked for the listeners: refused");
                    continue;
                }
            }
            let_go();
            match self.pass_on(asking).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(
                    %error,
                    "another gate took the listeners and did not become ready; this one goes on, \
                     and keeps its state in memory only"
                ),
            }
        }
    }

    /// Passes the listeners on, and waits until the other gate is ready.
    async fn pass_on(&self, asking: Asking) -> io::Result<()> {
        let stream = blocking(asking)?;
        let each: Vec<RawFd> = self.listeners.iter().map(|fd| fd.as_raw_fd()).collect();
        rights::send(&stream, HELLO, &each)?;
        stream.set_read_timeout(Some(GET_READY + PATIENCE))?;
        let heard = tokio::task::spawn_blocking(move || {
            let mut said = [0; READY.len()];
            (&stream).read_exact(&mut said)?;
            if said == READY { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        });
        heard.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// The socket at which the gate can be asked, at first beside its path: until the gate serves, that is
/// another one's.
struct Place {
    path: PathBuf,
    beside: PathBuf,
    listener: UnixListener,
}

impl Place {
    /// Only this user may connect.
    fn beside(path: &Path) -> io::Result<Place> {
        let mut beside = path.as_os_str().to_owned();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        beside.push(format!(".{}-{number}", std::process::id()));
        let beside = PathBuf::from(beside);
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        Ok(Place { path: path.to_owned(), beside, listener })
    }

    /// Takes the path, whoever had it.
    fn take(&self) -> io::Result<tokio::net::UnixListener> {
        std::fs::rename(&self.beside, &self.path)?;
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Gone already, where the path was taken.
        let _ = std::fs::remove_file(&self.beside);
    }
}

/// Our user id, and that of the process at the other end.
fn users(stream: &Asking) -> io::Result<(u32, u32)> {
    let own = std::fs::metadata("/proc/self")?.uid();
    Ok((own, stream.peer_cred()?.uid()))
}

fn blocking(stream: Asking) -> io::Result<UnixStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
