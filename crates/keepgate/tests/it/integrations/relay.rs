//! Between a proxy and the gate: passes bytes on, counts connections, and goes away when told to.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Listens on loopback until it is dropped.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    to: Mutex<SocketAddr>,
    opened: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub(super) fn to(to: SocketAddr) -> Relay {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: Mutex::new(to),
            opened: AtomicUsize::new(0),
            open: Mutex::default(),
        });
        let (accepting, with) = (listener.try_clone().unwrap(), Arc::clone(&shared));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                with.opened.fetch_add(1, Ordering::Relaxed);
                with.join(stream);
            }
        });
        Relay { address, listener, shared }
    }

    /// How many connections were opened so far.
    pub(super) fn opened(&self) -> usize {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// From now on it leads to this gate.
    pub(super) fn lead(&self, to: SocketAddr) {
        *self.shared.to.lock().unwrap() = to;
        self.close();
    }

    /// As if the gate had ended: connections are closed, and new ones are refused.
    pub(super) fn stop(&self) {
        // SAFETY: the descriptor is open. The thread that accepts on it gets an error and ends.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        self.close();
    }

    fn close(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "a test is not the product")]
    fn join(&self, from: TcpStream) {
        // No gate there: the caller sees its connection closed.
        let Ok(to) = TcpStream::connect(*self.to.lock().unwrap()) else { return };
        for stream in [&from, &to] {
            let _ = stream.set_nodelay(true);
            self.open.lock().unwrap().push(stream.try_clone().unwrap());
        }
        copy(from.try_clone().unwrap(), to.try_clone().unwrap());
        copy(to, from);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}
