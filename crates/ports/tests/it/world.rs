//! Throw-away network namespaces: a client and a server joined by a veth pair.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keepgate_ports::diag::TcpState;
use keepgate_ports::netns::{self, Namespace};
use keepgate_ports::read::{self, ReadOptions};
use keepgate_ports::snapshot::HostSnapshot;
use socket2::{Domain, Socket, Type};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The addresses of the two ends.
pub(crate) const CLIENT: &str = "10.77.0.1";
pub(crate) const CLIENT_2: &str = "10.77.0.3";
pub(crate) const SERVER: &str = "10.77.0.2";
pub(crate) const SILENT: &str = "10.77.0.99";
pub(crate) const CLIENT_6: &str = "fd77::1";
pub(crate) const SERVER_6: &str = "fd77::2";
const BOGUS_MAC: &str = "02:00:00:00:00:99";

/// True when namespaces can be made here; otherwise says so, or fails where skipping is forbidden.
pub(crate) fn available() -> bool {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!("kgp{}probe{number}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    let ok = made.as_ref().is_ok_and(|o| o.status.success());
    if ok {
        run("ip", &["netns", "del", &name]);
        return true;
    }
    let why = format!("network namespaces cannot be made here: {made:?}");
    assert!(std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(), "{why}");
    println!("SKIPPED: {why}");
    false
}

pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
}

/// Two namespaces, removed when dropped.
pub(crate) struct World {
    pub(crate) client: String,
    pub(crate) server: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("kgp{}x{number}", std::process::id());
        let world = Self { client: format!("{prefix}c"), server: format!("{prefix}s") };
        let (c, s) = (world.client.as_str(), world.server.as_str());
        run("ip", &["netns", "add", c]);
        run("ip", &["netns", "add", s]);
        let veth = ["link", "add", "v0", "netns", c, "type", "veth", "peer", "name", "v0", "netns"];
        run("ip", &[&veth[..], &[s]].concat());
        for (ns, addresses) in [
            (c, vec![("10.77.0.1/24", false), ("10.77.0.3/24", false), ("fd77::1/64", true)]),
            (s, vec![("10.77.0.2/24", false), ("fd77::2/64", true)]),
        ] {
            for (address, v6) in addresses {
                let nodad: &[&str] = if v6 { &["nodad"] } else { &[] };
                let add = ["-n", ns, "address", "add", address, "dev", "v0"];
                run("ip", &[&add[..], nodad].concat());
            }
            run("ip", &["-n", ns, "link", "set", "lo", "up"]);
            run("ip", &["-n", ns, "link", "set", "v0", "up"]);
        }
        run("ip", &["-n", c, "neigh", "add", SILENT, "lladdr", BOGUS_MAC, "dev", "v0"]);
        world
    }

    /// A world whose client has this range of ports.
    pub(crate) fn with_range(low: u16, high: u16) -> Self {
        let world = Self::new();
        world.sysctl("net.ipv4.ip_local_port_range", &format!("{low} {high}"));
        world
    }

    /// Runs `work` in the client's namespace.
    pub(crate) fn in_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::enter(&Namespace::Named(self.client.clone()), work).unwrap()
    }

    /// Runs `work` in the server's namespace.
    pub(crate) fn in_server<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::enter(&Namespace::Named(self.server.clone()), work).unwrap()
    }

    /// Sets one of the client's settings.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.in_client(|| std::fs::write(&path, value)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// The same at the server.
    pub(crate) fn server_sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.in_server(|| std::fs::write(&path, value)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    pub(crate) fn listen(&self, addr: &str) -> TcpListener {
        let addr: SocketAddr = addr.parse().unwrap();
        self.in_server(|| listener(addr))
    }

    /// From now on nothing the client sends reaches the server.
    pub(crate) fn mute_client(&self) {
        let neigh = ["neigh", "replace", SERVER, "lladdr", BOGUS_MAC, "dev", "v0"];
        run("ip", &[&["-n", &self.client], &neigh[..], &["nud", "permanent"]].concat());
    }

    /// Reads the client's namespace, for connections to `dst`.
    pub(crate) fn look(&self, dst: SocketAddr, from: Option<IpAddr>) -> HostSnapshot {
        self.look_with(ReadOptions {
            interval: None,
            to: vec![(dst.to_string(), dst)],
            from,
            ..ReadOptions::default()
        })
    }

    pub(crate) fn look_with(&self, options: ReadOptions) -> HostSnapshot {
        let namespace = Namespace::Named(self.client.clone());
        read::host(&ReadOptions { namespace, ..options }).unwrap()
    }

    /// Waits until the client has exactly so many sockets in that state.
    pub(crate) fn wait_for(&self, state: TcpState, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let options = ReadOptions { interval: None, owners: false, ..ReadOptions::default() };
            let seen = self.look_with(options).sockets.in_state(state);
            if seen == count {
                return;
            }
            assert!(Instant::now() < deadline, "{seen} sockets in {state:?}, not {count}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Opens connections until the kernel refuses, and says how many that were.
    pub(crate) fn connects(&self, dst: SocketAddr, from: Option<IpAddr>) -> (u32, i32) {
        self.in_client(|| {
            let (opened, errno) = connect_up_to(dst, from, 5000);
            assert!(opened < 5000, "no end of ports");
            (opened, errno)
        })
    }

    /// The same, but at most so many; to be called inside the namespace.
    pub(crate) fn connects_up_to(&self, dst: SocketAddr, most: usize) -> (u32, i32) {
        connect_up_to(dst, None, most)
    }
}

fn connect_up_to(dst: SocketAddr, from: Option<IpAddr>, most: usize) -> (u32, i32) {
    let mut open = Vec::new();
    while open.len() < most {
        let socket = socket(dst);
        if let Some(from) = from {
            bind_without_port(&socket, from);
        }
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&dst.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return (open.len() as u32, e.raw_os_error().unwrap_or(0)),
        }
        open.push(socket);
    }
    (open.len() as u32, 0)
}

impl Drop for World {
    fn drop(&mut self) {
        for ns in [&self.client, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", ns]).output();
        }
    }
}

pub(crate) fn socket(dst: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(dst), Type::STREAM, None).unwrap()
}

pub(crate) fn listener(addr: SocketAddr) -> TcpListener {
    let socket = socket(addr);
    if addr.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&addr.into()).unwrap();
    socket.listen(65_535).unwrap();
    socket.into()
}

/// Binds to an address and leaves the choice of the port to `connect()`.
pub(crate) fn bind_without_port(socket: &Socket, addr: IpAddr) {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, valid for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            24,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
    socket.bind(&SocketAddr::new(addr, 0).into()).unwrap();
}

/// A connection, both ends.
pub(crate) struct Pair {
    pub(crate) client: Socket,
    pub(crate) server: TcpStream,
}

/// How a client socket is prepared before it connects.
pub(crate) type Prepare<'a> = &'a (dyn Fn(&Socket) + Sync);

/// Opens connections from the client's namespace to a listener.
pub(crate) fn open(
    world: &World,
    listener: &TcpListener,
    count: usize,
    prepare: Prepare<'_>,
) -> Vec<Pair> {
    let dst = listener.local_addr().unwrap();
    open_to(world, listener, dst, count, prepare)
}

pub(crate) fn open_to(
    world: &World,
    listener: &TcpListener,
    dst: SocketAddr,
    count: usize,
    prepare: Prepare<'_>,
) -> Vec<Pair> {
    world.in_client(|| {
        (0..count)
            .map(|i| {
                let client = socket(dst);
                prepare(&client);
                client.connect(&dst.into()).unwrap_or_else(|e| panic!("connect {i}: {e}"));
                let (server, _) = listener.accept().unwrap();
                Pair { client, server }
            })
            .collect()
    })
}

/// Opens connections whose other ends wait in the listener's queue, so that they cost this process
/// one file each, until there are so many or the kernel refuses; then closes them, the client
/// first.
pub(crate) fn churn(world: &World, listener: &TcpListener, most: usize) {
    let dst = listener.local_addr().unwrap();
    let clients: Vec<Socket> = world.in_client(|| {
        let mut clients = Vec::new();
        while clients.len() < most {
            let client = socket(dst);
            match client.connect(&dst.into()) {
                Ok(()) => clients.push(client),
                Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => break,
                Err(e) => panic!("connect {}: {e}", clients.len()),
            }
        }
        clients
    });
    for client in clients {
        let (server, _) = listener.accept().unwrap();
        close_client_first(Pair { client, server });
    }
}

/// Closes a connection so that the client is left with a TIME_WAIT.
fn close_client_first(pair: Pair) {
    let Pair { mut client, mut server } = pair;
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut byte = [0u8; 1];
    // The client's FIN must arrive first, or both sides close at once.
    assert_eq!(std::io::Read::read(&mut server, &mut byte).unwrap(), 0);
    drop(server);
    // And its socket must see the other's: a busy host may drop one that nobody owns any more.
    assert_eq!(std::io::Read::read(&mut client, &mut byte).unwrap(), 0);
}

/// Closes connections so that the client is left with a TIME_WAIT each.
pub(crate) fn close_into_time_wait(world: &World, pairs: Vec<Pair>) {
    let wanted = pairs.len() as u64;
    let now = world
        .look_with(ReadOptions { interval: None, owners: false, ..ReadOptions::default() })
        .sockets
        .in_state(TcpState::TimeWait);
    pairs.into_iter().for_each(close_client_first);
    world.wait_for(TcpState::TimeWait, now + wanted);
}
