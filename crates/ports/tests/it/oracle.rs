//! The oracle: what the model predicts is what the kernel then does.
//!
//! Each situation is made for real in two namespaces; the prediction is read, and then connections
//! are opened until the kernel refuses. Their number must be the predicted one (or lie in the
//! predicted interval, where a situation says that one is due), and the cause must be right.

use std::net::SocketAddr;
use std::net::{IpAddr, UdpSocket};

use keepgate_ports::budget::{Interval, Model};
use keepgate_ports::diag::TcpState;
use keepgate_ports::report::Cause;
use keepgate_ports::rules;
use keepgate_ports::table::BucketKey;
use socket2::SockRef;

use keepgate_ports::read::watch::{Wanted, Watch};

use crate::world::{
    CLIENT, CLIENT_2, CLIENT_6, SERVER, SERVER_6, SILENT, World, available, bind_without_port,
    close_into_time_wait, listener, open, open_to, socket,
};

const LOW: u16 = 40_000;
const HIGH: u16 = 40_039;

/// What is asked, and what must come out.
struct Case {
    dst: SocketAddr,
    from: Option<IpAddr>,
    /// The exact remaining number, as this situation was built.
    truth: u32,
    /// Whether the answer must be exact.
    exact: bool,
    cause: Cause,
    /// Kept open until the kernel has been asked.
    keep: Vec<Box<dyn std::any::Any>>,
}

impl Case {
    fn new(truth: u32, cause: Cause) -> Self {
        let dst = addr(SERVER, 7000);
        Self { dst, from: None, truth, exact: true, cause, keep: Vec::new() }
    }

    fn keep(mut self, what: impl std::any::Any) -> Self {
        self.keep.push(Box::new(what));
        self
    }

    fn interval(self) -> Self {
        Self { exact: false, ..self }
    }

    fn to(self, dst: SocketAddr) -> Self {
        Self { dst, ..self }
    }

    fn from(self, from: &str) -> Self {
        Self { from: Some(from.parse().unwrap()), ..self }
    }
}

type Situation = (&'static str, fn(&World) -> Case);

fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn server(world: &World) -> std::net::TcpListener {
    world.listen(&format!("{SERVER}:7000"))
}

fn plain(_: &socket2::Socket) {}

fn bind_to_address(socket: &socket2::Socket) {
    socket.bind(&addr(CLIENT, 0).into()).unwrap();
}

const SITUATIONS: &[Situation] = &[
    ("nothing at all", |w| Case::new(40, Cause::None).keep(server(w))),
    ("established, some", |w| {
        let l = server(w);
        Case::new(10, Cause::NarrowRange).keep(open(w, &l, 30, &plain)).keep(l)
    }),
    ("established, all", |w| {
        let l = server(w);
        Case::new(0, Cause::NarrowRange).keep(open(w, &l, 40, &plain)).keep(l)
    }),
    ("established, all of a range that is not narrow", |w| {
        w.sysctl("net.ipv4.ip_local_port_range", "40000 41099");
        let l = server(w);
        Case::new(0, Cause::EstablishedLeak).keep(open(w, &l, 1100, &plain)).keep(l)
    }),
    ("time_wait, reuse 2 toward another machine", |w| {
        let l = server(w);
        close_into_time_wait(w, open(w, &l, 40, &plain));
        Case::new(0, Cause::TimeWaitChurn).keep(l)
    }),
    ("time_wait, reuse 0", |w| {
        w.sysctl("net.ipv4.tcp_tw_reuse", "0");
        w.sysctl("net.ipv4.tcp_tw_reuse_delay", "1");
        let l = server(w);
        close_into_time_wait(w, open(w, &l, 38, &plain));
        Case::new(2, Cause::TimeWaitChurn).keep(l)
    }),
    ("time_wait, reuse 1, old enough, timestamps seen", |w| {
        reuse(w, "1");
        let l = server(w);
        let live = open(w, &l, 1, &plain);
        close_into_time_wait(w, open(w, &l, 39, &plain));
        Case::new(39, Cause::None).keep(live).keep(l)
    }),
    ("time_wait, reuse 1, old enough, no live connection to look at", |w| {
        reuse(w, "1");
        let l = server(w);
        close_into_time_wait(w, open(w, &l, 40, &plain));
        Case::new(40, Cause::None).interval().keep(l)
    }),
    ("time_wait, reuse 1, too young", |w| {
        w.sysctl("net.ipv4.tcp_tw_reuse", "1");
        w.sysctl("net.ipv4.tcp_tw_reuse_delay", "60000");
        let l = server(w);
        let live = open(w, &l, 1, &plain);
        close_into_time_wait(w, open(w, &l, 39, &plain));
        Case::new(0, Cause::TimeWaitChurn).keep(live).keep(l)
    }),
    ("time_wait, reuse 1, no timestamps at the client", |w| {
        w.sysctl("net.ipv4.tcp_timestamps", "0");
        reuse(w, "1");
        let l = server(w);
        let live = open(w, &l, 1, &plain);
        close_into_time_wait(w, open(w, &l, 39, &plain));
        Case::new(0, Cause::TimeWaitChurn).keep(live).keep(l)
    }),
    ("time_wait, reuse 1, no timestamps at the server", |w| {
        w.server_sysctl("net.ipv4.tcp_timestamps", "0");
        reuse(w, "1");
        let l = server(w);
        let live = open(w, &l, 1, &plain);
        close_into_time_wait(w, open(w, &l, 39, &plain));
        Case::new(0, Cause::TimeWaitChurn).keep(live).keep(l)
    }),
    ("time_wait from before timestamps were switched off", |w| {
        reuse(w, "1");
        let l = server(w);
        let live = open(w, &l, 1, &plain);
        close_into_time_wait(w, open(w, &l, 39, &plain));
        w.sysctl("net.ipv4.tcp_timestamps", "0");
        Case::new(39, Cause::None).keep(live).keep(l)
    }),
    ("time_wait on loopback, reuse 2", |w| {
        reuse(w, "2");
        let l = w.in_client(|| listener(addr("127.0.0.1", 7000)));
        let live = open(w, &l, 1, &plain);
        let pairs = open(w, &l, 39, &plain);
        close_into_time_wait(w, pairs);
        Case::new(39, Cause::None).to(addr("127.0.0.1", 7000)).keep(live).keep(l)
    }),
    ("close_wait", |w| {
        let l = server(w);
        let pairs = open(w, &l, 40, &plain);
        let clients: Vec<_> = pairs.into_iter().map(|p| p.client).collect();
        w.wait_for(TcpState::CloseWait, 40);
        Case::new(0, Cause::CloseWaitLeak).keep(clients).keep(l)
    }),
    ("fin_wait2, held by the program", |w| {
        let l = server(w);
        let pairs = open(w, &l, 30, &plain);
        for pair in &pairs {
            pair.client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        w.wait_for(TcpState::FinWait2, 30);
        Case::new(10, Cause::FinWait2).keep(pairs).keep(l)
    }),
    ("fin_wait2, orphaned, reuse 1", |w| {
        reuse(w, "1");
        let l = server(w);
        let live = open(w, &l, 1, &plain);
        let pairs = open(w, &l, 39, &plain);
        let servers: Vec<_> = pairs.into_iter().map(|p| p.server).collect();
        w.wait_for(TcpState::FinWait2, 39);
        Case::new(0, Cause::FinWait2).keep(live).keep(servers).keep(l)
    }),
    ("fin_wait1", |w| {
        let l = server(w);
        let pairs = open(w, &l, 40, &plain);
        w.mute_client();
        let servers: Vec<_> = pairs.into_iter().map(|p| p.server).collect();
        w.wait_for(TcpState::FinWait1, 40);
        Case::new(0, Cause::FinWait2).keep(servers).keep(l)
    }),
    ("last_ack", |w| {
        let l = server(w);
        let pairs = open(w, &l, 40, &plain);
        let clients: Vec<_> = pairs.into_iter().map(|p| p.client).collect();
        w.wait_for(TcpState::CloseWait, 40);
        w.mute_client();
        drop(clients);
        w.wait_for(TcpState::LastAck, 40);
        Case::new(0, Cause::FinWait2).keep(l)
    }),
    ("closing", |w| {
        let l = server(w);
        let pairs = open(w, &l, 40, &plain);
        w.mute_client();
        for pair in &pairs {
            pair.client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        w.wait_for(TcpState::FinWait1, 40);
        let clients: Vec<_> = pairs.into_iter().map(|p| p.client).collect();
        w.wait_for(TcpState::Closing, 40);
        Case::new(0, Cause::FinWait2).keep(clients).keep(l)
    }),
    ("syn_sent", |w| {
        let dst = addr(SILENT, 7000);
        let sockets: Vec<_> = w.in_client(|| {
            (0..40)
                .map(|_| {
                    let s = socket(dst);
                    s.set_nonblocking(true).unwrap();
                    assert!(s.connect(&dst.into()).is_err());
                    s
                })
                .collect()
        });
        w.wait_for(TcpState::SynSent, 40);
        Case::new(0, Cause::SynSent).to(dst).keep(sockets)
    }),
    ("listeners in the range", |w| {
        let own: Vec<_> =
            w.in_client(|| (0..25).map(|i| listener(addr(CLIENT, LOW + i))).collect());
        let l = server(w);
        Case::new(0, Cause::ListenersInRange).keep(open(w, &l, 15, &plain)).keep(own).keep(l)
    }),
    ("listeners on ::1 alone cost IPv4 ports too", |w| {
        let own: Vec<_> = w.in_client(|| (0..25).map(|i| listener(addr("::1", LOW + i))).collect());
        Case::new(15, Cause::ListenersInRange).keep(server(w)).keep(own)
    }),
    ("idle bound sockets", |w| {
        let own: Vec<_> = w.in_client(|| {
            (0..25)
                .map(|i| {
                    let s = socket(addr(CLIENT, 0));
                    s.bind(&addr(CLIENT, LOW + i).into()).unwrap();
                    s
                })
                .collect()
        });
        Case::new(15, Cause::ExplicitBind).keep(server(w)).keep(own)
    }),
    ("bound, then connected to another destination", |w| {
        let other = w.listen(&format!("{SERVER}:7001"));
        let pairs = open(w, &other, 25, &bind_to_address);
        Case::new(15, Cause::ExplicitBind).keep(pairs).keep(other).keep(server(w))
    }),
    ("bound with SO_REUSEADDR, then connected to another destination", |w| {
        let other = w.listen(&format!("{SERVER}:7001"));
        let pairs = open(w, &other, 25, &|s| {
            s.set_reuse_address(true).unwrap();
            bind_to_address(s);
        });
        Case::new(15, Cause::ExplicitBind).keep(pairs).keep(other).keep(server(w))
    }),
    ("time_wait of bound sockets, reuse 1", |w| {
        reuse(w, "1");
        let l = server(w);
        let live = open(w, &l, 1, &plain);
        close_into_time_wait(w, open(w, &l, 30, &bind_to_address));
        Case::new(9, Cause::ExplicitBind).keep(live).keep(l)
    }),
    ("bound without a port, connected to another destination", |w| {
        let other = w.listen(&format!("{SERVER}:7001"));
        let pairs = open(w, &other, 25, &|s| bind_without_port(s, CLIENT.parse().unwrap()));
        Case::new(40, Cause::None).keep(pairs).keep(other).keep(server(w))
    }),
    ("explicit binds that cannot be proven: no TCP Fast Open to probe with", |w| {
        w.sysctl("net.ipv4.tcp_fastopen", "0");
        let other = w.listen(&format!("{SERVER}:7001"));
        let pairs = open(w, &other, 25, &bind_to_address);
        Case::new(15, Cause::None).interval().keep(pairs).keep(other).keep(server(w))
    }),
    ("plain connects elsewhere, loopback down", |w| {
        crate::world::run("ip", &["-n", &w.client, "link", "set", "lo", "down"]);
        let other = w.listen(&format!("{SERVER}:7001"));
        let pairs = open(w, &other, 25, &plain);
        Case::new(40, Cause::None).keep(pairs).keep(other).keep(server(w))
    }),
    ("children of a listener that is gone", |w| {
        let own = w.in_client(|| listener(addr(CLIENT, LOW + 7)));
        let children: Vec<_> = w.in_server(|| {
            (0..3)
                .map(|_| {
                    let s = socket(addr(CLIENT, 0));
                    s.connect(&addr(CLIENT, LOW + 7).into()).unwrap();
                    (s, own.accept().unwrap())
                })
                .collect()
        });
        drop(own);
        let l = server(w);
        Case::new(9, Cause::NarrowRange).keep(open(w, &l, 30, &plain)).keep(children).keep(l)
    }),
    ("reserved, some", |w| {
        w.sysctl("net.ipv4.ip_local_reserved_ports", "40000-40019");
        let l = server(w);
        Case::new(10, Cause::ReservedPorts).keep(open(w, &l, 10, &plain)).keep(l)
    }),
    ("reserved, all", |w| {
        w.sysctl("net.ipv4.ip_local_reserved_ports", "39000-41000");
        Case::new(0, Cause::ReservedPorts).keep(server(w))
    }),
    ("reserved ports that are bound explicitly cost nothing more", |w| {
        w.sysctl("net.ipv4.ip_local_reserved_ports", "40000-40003");
        let own: Vec<_> = w.in_client(|| (0..4).map(|i| listener(addr(CLIENT, LOW + i))).collect());
        Case::new(36, Cause::None).keep(server(w)).keep(own)
    }),
    ("an odd range", |w| {
        w.sysctl("net.ipv4.ip_local_port_range", "40000 40040");
        let l = server(w);
        Case::new(40, Cause::None).interval().keep(l)
    }),
    ("a range of three", |w| {
        w.sysctl("net.ipv4.ip_local_port_range", "40000 40002");
        Case::new(2, Cause::None).keep(server(w))
    }),
    ("a range of one", |w| {
        w.sysctl("net.ipv4.ip_local_port_range", "40000 40000");
        Case::new(1, Cause::None).keep(server(w))
    }),
    ("another source address", |w| {
        let l = server(w);
        let pairs = open(w, &l, 40, &plain);
        Case::new(40, Cause::None).from(CLIENT_2).keep(pairs).keep(l)
    }),
    ("this source address, used from both", |w| {
        let l = server(w);
        let mut pairs = open(w, &l, 30, &|s| bind_without_port(s, CLIENT_2.parse().unwrap()));
        pairs.extend(open(w, &l, 12, &plain));
        Case::new(10, Cause::NarrowRange).from(CLIENT_2).keep(pairs).keep(l)
    }),
    ("another destination port", |w| {
        let other = w.listen(&format!("{SERVER}:7001"));
        let pairs = open(w, &other, 40, &plain);
        Case::new(40, Cause::None).keep(pairs).keep(other).keep(server(w))
    }),
    ("ipv6, used up", |w| {
        let l = w.listen(&format!("[{SERVER_6}]:7000"));
        let pairs = open(w, &l, 40, &plain);
        Case::new(0, Cause::NarrowRange).to(addr(SERVER_6, 7000)).keep(pairs).keep(l)
    }),
    ("ipv6 time_wait, reuse 1", |w| {
        reuse(w, "1");
        let l = w.listen(&format!("[{SERVER_6}]:7000"));
        let live = open(w, &l, 1, &plain);
        close_into_time_wait(w, open(w, &l, 39, &plain));
        Case::new(39, Cause::None).to(addr(SERVER_6, 7000)).keep(live).keep(l)
    }),
    ("ipv6 used up does not touch ipv4", |w| {
        let l = w.listen(&format!("[{SERVER_6}]:7000"));
        let pairs = open(w, &l, 40, &plain);
        Case::new(40, Cause::None).keep(pairs).keep(l).keep(server(w))
    }),
    ("ipv4-mapped counts as ipv4", |w| {
        let l = server(w);
        let mapped = addr(&format!("::ffff:{SERVER}"), 7000);
        let pairs = open_to(w, &l, mapped, 30, &plain);
        Case::new(10, Cause::NarrowRange).keep(pairs).keep(l)
    }),
    ("ipv4-mapped time_wait, reuse 1", |w| {
        reuse(w, "1");
        let l = server(w);
        let mapped = addr(&format!("::ffff:{SERVER}"), 7000);
        let live = open_to(w, &l, mapped, 1, &plain);
        close_into_time_wait(w, open_to(w, &l, mapped, 39, &plain));
        Case::new(39, Cause::None).keep(live).keep(l)
    }),
    ("sockets bound to a device", |w| {
        let l = server(w);
        let pairs = open(w, &l, 40, &|s| s.bind_device(Some(b"v0")).unwrap());
        Case::new(40, Cause::None).keep(pairs).keep(l)
    }),
    ("another namespace", |w| {
        // The same sockets, seen from the server: its own range is another one.
        let l = w.in_client(|| listener(addr(CLIENT, 7000)));
        let pairs: Vec<_> = w.in_server(|| {
            (0..30)
                .map(|_| {
                    let s = socket(addr(CLIENT, 0));
                    s.connect(&addr(CLIENT, 7000).into()).unwrap();
                    (s, l.accept().unwrap())
                })
                .collect()
        });
        Case::new(40, Cause::None).keep(pairs).keep(l).keep(server(w))
    }),
    ("closed by reset", |w| {
        let l = server(w);
        let pairs = open(w, &l, 40, &plain);
        for pair in &pairs {
            pair.client.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        drop(pairs);
        w.wait_for(TcpState::Established, 0);
        Case::new(40, Cause::None).keep(l)
    }),
    ("time_wait at the server", |w| {
        let l = server(w);
        let pairs = open(w, &l, 40, &plain);
        let clients: Vec<_> = pairs.into_iter().map(|p| p.client).collect();
        w.wait_for(TcpState::CloseWait, 40);
        drop(clients);
        w.wait_for(TcpState::LastAck, 0);
        w.wait_for(TcpState::CloseWait, 0);
        Case::new(40, Cause::None).keep(l)
    }),
    ("udp sockets", |w| {
        let udp: Vec<_> = w.in_client(|| {
            (0..30).map(|i| UdpSocket::bind(addr(CLIENT, LOW + i)).unwrap()).collect()
        });
        Case::new(40, Cause::None).keep(udp).keep(server(w))
    }),
    ("more closes than tcp_max_tw_buckets", |w| {
        w.sysctl("net.ipv4.tcp_max_tw_buckets", "10");
        let l = server(w);
        let pairs = open(w, &l, 40, &plain);
        let mut servers = Vec::new();
        for pair in pairs {
            drop(pair.client);
            servers.push(pair.server);
        }
        for server in &mut servers {
            std::io::Read::read(server, &mut [0u8; 1]).unwrap();
        }
        drop(servers);
        w.wait_for(TcpState::FinWait2, 0);
        let left = w.look(addr(SERVER, 7000), None).sockets.in_state(TcpState::TimeWait) as u32;
        assert!((1..40).contains(&left), "{left}");
        Case::new(40 - left, Cause::None).keep(l)
    }),
    ("a bit of everything", |w| {
        w.sysctl("net.ipv4.ip_local_reserved_ports", "40000-40004");
        let own: Vec<_> =
            w.in_client(|| (5..10).map(|i| listener(addr(CLIENT, LOW + i))).collect());
        let other = w.listen(&format!("{SERVER}:7001"));
        let bound = open(w, &other, 5, &bind_to_address);
        let elsewhere = open(w, &other, 8, &plain);
        let l = server(w);
        let live = open(w, &l, 6, &plain);
        close_into_time_wait(w, open(w, &l, 12, &plain));
        Case::new(7, Cause::TimeWaitChurn).keep((own, bound, elsewhere, live)).keep(other).keep(l)
    }),
];

fn reuse(world: &World, value: &str) {
    world.sysctl("net.ipv4.tcp_tw_reuse", value);
    // Old enough after a millisecond.
    world.sysctl("net.ipv4.tcp_tw_reuse_delay", "1");
}

#[test]
fn the_prediction_is_what_the_kernel_does() {
    if !available() {
        return;
    }
    let mut wrong = Vec::new();
    for (name, build) in SITUATIONS {
        let world = World::with_range(LOW, HIGH);
        let case = build(&world);
        // Every TIME_WAIT is a few milliseconds old now.
        std::thread::sleep(std::time::Duration::from_millis(10));
        let snapshot = world.look(case.dst, case.from);
        let report = rules::judge(&snapshot);
        let predicted: Interval = report.buckets.first().map(|b| b.remaining).unwrap_or_default();
        let cause = report.buckets.first().map_or(Cause::None, |b| b.cause);
        let (opened, errno) = world.connects(case.dst, case.from);
        // An interval where one is due, and only there.
        let fits = predicted.contains(opened) && predicted.is_exact() == case.exact;
        let truth = opened == case.truth || (!case.exact && opened.abs_diff(case.truth) <= 1);
        let ok = fits && truth && errno == libc::EADDRNOTAVAIL && cause == case.cause;
        println!(
            "{} {name}: predicted {predicted}, opened {opened} (built for {}), {}",
            if ok { "ok   " } else { "WRONG" },
            case.truth,
            cause.name()
        );
        if !ok {
            wrong.push(format!("{name}: {predicted} {opened} {errno} {cause:?}\n{report:#?}"));
        }
        drop(case.keep);
    }
    assert!(SITUATIONS.len() >= 25);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_socket_with_its_own_range() {
    use std::os::fd::AsRawFd;
    if !available() {
        return;
    }
    let world = World::with_range(LOW, HIGH + 1);
    let dst = addr(SERVER, 7000);
    let l = server(&world);
    let _pairs = open(&world, &l, 10, &plain);
    let snapshot = world.look(dst, None);
    let key =
        BucketKey { src: CLIENT.parse().unwrap(), dst: dst.ip(), dport: dst.port(), interface: 0 };
    let model = Model::new(&snapshot);
    let own = keepgate_ports::ranges::PortRange { low: LOW, high: HIGH + 1 };
    let predicted = model.budget_with_range(key, own).remaining;
    assert!(predicted.is_exact(), "a socket's own range is searched port by port");
    let opened = world.in_client(|| {
        let mut open = Vec::new();
        loop {
            let s = socket(dst);
            let range = u32::from(own.low) | (u32::from(own.high) << 16);
            // SAFETY: the option is a u32, valid for the call.
            let set = unsafe {
                libc::setsockopt(
                    s.as_raw_fd(),
                    libc::IPPROTO_IP,
                    51,
                    std::ptr::from_ref(&range).cast(),
                    4,
                )
            };
            assert_eq!(set, 0);
            s.set_nonblocking(true).unwrap();
            match s.connect(&dst.into()) {
                Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => break open.len() as u32,
                _ => open.push(s),
            }
        }
    });
    assert_eq!(opened, predicted.min);
    // An option wholly outside the range is ignored.
    let outside = keepgate_ports::ranges::PortRange { low: 50_000, high: 50_010 };
    assert_eq!(model.budget_with_range(key, outside), model.budget(key));
}

#[test]
fn the_look_consumes_nothing() {
    if !available() {
        return;
    }
    let world = World::with_range(LOW, HIGH);
    reuse(&world, "1");
    let l = server(&world);
    let live = open(&world, &l, 2, &plain);
    close_into_time_wait(&world, open(&world, &l, 30, &plain));
    let dst = addr(SERVER, 7000);
    let before = world.look(dst, None);
    let opens = |s: &keepgate_ports::snapshot::HostSnapshot| s.counts.active_opens;
    for _ in 0..20 {
        let after = world.look(dst, None);
        assert_eq!(after.sockets.states, before.sockets.states);
        assert_eq!(opens(&after), opens(&before), "a look opened a connection");
        assert_eq!(after.evidence.bound, before.evidence.bound);
    }
    for pair in &live {
        assert!(SockRef::from(&pair.client).take_error().unwrap().is_none());
    }
}

#[test]
fn the_cheap_count_agrees_with_the_full_look() {
    if !available() {
        return;
    }
    let world = World::with_range(LOW, HIGH);
    let l = server(&world);
    let own = world.in_client(|| listener(addr(CLIENT, LOW + 3)));
    let _pairs = open(&world, &l, 20, &plain);
    let l6 = world.listen(&format!("[{SERVER_6}]:7000"));
    let _pairs6 = open(&world, &l6, 5, &plain);
    for dst in [addr(SERVER, 7000), addr(SERVER_6, 7000), addr(SERVER, 9)] {
        let full = rules::judge(&world.look(dst, None));
        let count =
            world.in_client(|| keepgate_ports::budget::usable_ports_toward(dst, None)).unwrap();
        let bucket = full.buckets.first().unwrap();
        assert_eq!(count.remaining, bucket.remaining, "{dst}");
        assert_eq!((count.usable, count.used), (bucket.usable, bucket.used), "{dst}");
    }
    // Several at once, of both families and in any order, beside others that are not asked for.
    let other = world.listen(&format!("{SERVER}:7001"));
    let _others = open(&world, &other, 3, &plain);
    let all = [addr(SERVER, 9), addr(SERVER_6, 7000), addr(SERVER, 7000), addr(SERVER, 7000)];
    let wanted = all.map(|dst| Wanted { src: None, dst });
    let seen = world.in_client(|| Watch::open().unwrap().look(&wanted)).unwrap();
    for (dst, seen) in all.iter().zip(seen) {
        let (dst, seen) = (*dst, seen.unwrap());
        let count =
            world.in_client(|| keepgate_ports::budget::usable_ports_toward(dst, None)).unwrap();
        assert_eq!((seen.usable, seen.used), (count.usable, count.used), "{dst}");
        assert_eq!(seen.remaining, count.remaining, "{dst}");
    }
    let supply = world.in_client(keepgate_ports::read::watch::supply).unwrap();
    let fresh =
        world.in_client(|| keepgate_ports::budget::usable_ports_toward(all[0], None)).unwrap();
    assert_eq!(supply, fresh.usable);
    let from = CLIENT_6.parse().ok();
    let count = world
        .in_client(|| keepgate_ports::budget::usable_ports_toward(addr(SERVER_6, 7000), from))
        .unwrap();
    assert_eq!(count.used, 5);
    drop(own);
}
