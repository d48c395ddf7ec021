//! A middlebox between gate and center, which cuts connections and holds what the center says.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A middlebox between gate and center.
pub(super) struct Relay {
    pub(super) port: u16,
    cut: AtomicBool,
    hold: AtomicBool,
    /// Which connections are open still: those of an earlier cut are not.
    cuts: AtomicU64,
}

impl Relay {
    pub(super) fn start(center: u16) -> Arc<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Arc::new(Relay {
            port: listener.local_addr().unwrap().port(),
            cut: AtomicBool::new(false),
            hold: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&relay);
        std::thread::spawn(move || {
            for gate in listener.incoming().map_while(Result::ok) {
                if !accepting.cut.load(Ordering::SeqCst) {
                    accepting.join(gate, center);
                }
            }
        });
        relay
    }

    #[expect(clippy::disallowed_methods, reason = "a test is not the product")]
    fn join(self: &Arc<Relay>, gate: TcpStream, center: u16) {
        let Ok(center) = TcpStream::connect(("127.0.0.1", center)) else { return };
        let born = self.cuts.load(Ordering::SeqCst);
        for (from, to, is_down) in
            [(gate.try_clone().unwrap(), center.try_clone().unwrap(), false), (center, gate, true)]
        {
            let relay = Arc::clone(self);
            std::thread::spawn(move || relay.pump(from, to, born, is_down));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, born: u64, is_down: bool) {
        from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut buffer);
            if self.cuts.load(Ordering::SeqCst) != born {
                break;
            }
            match read {
                Ok(0) => break,
                Ok(read) => {
                    while is_down && self.hold.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    if to.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                Err(error) if is_timeout(&error) => {}
                Err(_) => break,
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Cut: what is open ends, and nothing new is joined.
    pub(super) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
        if cut {
            self.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Held: what the center says is taken and delivered later.
    pub(super) fn hold(&self, hold: bool) {
        self.hold.store(hold, Ordering::SeqCst);
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
