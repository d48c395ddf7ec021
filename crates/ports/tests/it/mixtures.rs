//! The verdict against the kernel over random mixtures, wider than those of `situations`: two source
//! addresses, IPv6 and IPv4-mapped destinations, ranges of any size, reserved ports anywhere, ports
//! chosen within `IP_LOCAL_PORT_RANGE`, connections ended by either side, children of listeners in
//! the range, UDP beside it; asked by root, by an ordinary user, and from outside the namespace.
//!
//! Each mixture comes from its number, so that one that fails can be made again:
//! `KEEPGATE_MIXTURES=17..18`. `scripts/long port-mixtures` makes many.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use keepgate_ports::read::ReadOptions;
use keepgate_ports::report::{Report, Verdict};
use keepgate_ports::rules;
use socket2::Socket;

use crate::situations::{Random, contradiction};
use crate::world::{
    CLIENT, CLIENT_2, CLIENT_6, SERVER, SERVER_6, World, available, bind_without_port, socket,
};

/// The first port of a range is near this one.
const LOW: u16 = 40_000;
/// How many mixtures an ordinary run makes.
const MIXTURES: u64 = 24;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Family {
    V4,
    V6,
    /// An IPv6 socket toward `::ffff:10.77.0.2`.
    Mapped,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Plain,
    Bind,
    BindReuse,
    BindLate,
    /// `IP_LOCAL_PORT_RANGE` over the lower half of the range.
    Ranged,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Established,
    TimeWait,
    /// The server ends first, and the client does not notice.
    CloseWait,
    /// The client ends first, and the server does not notice.
    FinWait2,
    /// The server ends first, then the client: nothing stays here.
    Gone,
}

#[derive(Debug, Clone)]
struct Group {
    to: usize,
    how: How,
    second_source: bool,
    end: End,
    count: usize,
}

#[derive(Debug, Clone)]
struct Mixture {
    low: u16,
    ports: u16,
    destinations: Vec<Family>,
    groups: Vec<Group>,
    reserved: Vec<u16>,
    listeners: Vec<(u16, IpAddr)>,
    idle: Vec<u16>,
    udp: Vec<u16>,
    /// Connections that a listener in the range has accepted, and whether it is gone since.
    children: Option<(u16, usize, bool)>,
    reuse: u8,
    fastopen: bool,
    timestamps: (bool, bool),
}

impl Mixture {
    fn numbered(number: u64) -> Self {
        let mut random = Random(number ^ 0x6b67);
        let mut below = |n: u64| random.below(n);
        let low = LOW + below(2) as u16;
        let ports = 1 + below(40) as u16;
        let port = |below: &mut dyn FnMut(u64) -> u64| low + below(u64::from(ports)) as u16;
        let families = [Family::V4, Family::V4, Family::V6, Family::Mapped];
        let destinations: Vec<Family> =
            (0..1 + below(5)).map(|_| families[below(4) as usize]).collect();
        let hows = [How::Plain, How::Plain, How::Bind, How::BindReuse, How::BindLate, How::Ranged];
        let ends = [
            End::Established,
            End::Established,
            End::TimeWait,
            End::TimeWait,
            End::CloseWait,
            End::FinWait2,
            End::Gone,
        ];
        let mut groups = Vec::new();
        for _ in 0..below(6) {
            groups.push(Group {
                to: below(destinations.len() as u64) as usize,
                how: hows[below(6) as usize],
                second_source: below(3) == 0,
                end: ends[below(7) as usize],
                count: below(u64::from(ports) + 2) as usize,
            });
        }
        let some = |below: &mut dyn FnMut(u64) -> u64| -> Vec<u16> {
            let many = if below(3) == 0 { below(6) } else { 0 };
            let mut ports: Vec<u16> = (0..many).map(|_| port(below)).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        let addresses: [IpAddr; 4] = [
            CLIENT.parse().unwrap(),
            CLIENT_2.parse().unwrap(),
            "::1".parse().unwrap(),
            "0.0.0.0".parse().unwrap(),
        ];
        let listeners =
            some(&mut below).into_iter().map(|port| (port, addresses[below(4) as usize])).collect();
        let children = (below(4) == 0)
            .then(|| (port(&mut below), below(4) as usize, below(2) == 0))
            .filter(|_| ports > 4);
        Self {
            low,
            ports,
            groups,
            reserved: some(&mut below),
            listeners,
            idle: some(&mut below),
            udp: some(&mut below),
            children,
            reuse: below(3) as u8,
            fastopen: below(8) > 0,
            timestamps: (below(6) > 0, below(6) > 0),
            destinations,
        }
    }
}

/// What an address looks like to the socket that connects there.
fn as_dialed(family: Family, dst: SocketAddr) -> SocketAddr {
    match (family, dst.ip()) {
        (Family::Mapped, IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), dst.port()),
        _ => dst,
    }
}

fn source(family: Family, second: bool) -> IpAddr {
    match (family, second) {
        (Family::V6, _) => CLIENT_6.parse().unwrap(),
        (Family::V4, second) => if second { CLIENT_2 } else { CLIENT }.parse().unwrap(),
        (Family::Mapped, second) => match source(Family::V4, second) {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
            v6 => v6,
        },
    }
}

fn choose_within(socket: &Socket, low: u16, high: u16) {
    use std::os::fd::AsRawFd;
    let range = u32::from(low) | (u32::from(high) << 16);
    // SAFETY: the option (51, IP_LOCAL_PORT_RANGE) is an int, valid for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            51,
            std::ptr::from_ref(&range).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

struct Standing {
    world: World,
    /// Each destination, as it is asked for and as it is dialed.
    servers: Vec<(Family, SocketAddr, TcpListener)>,
    _keep: Vec<Box<dyn std::any::Any>>,
}

fn prepare(mixture: &Mixture, group: &Group, family: Family, socket: &Socket) -> bool {
    let own = source(family, group.second_source);
    match group.how {
        How::Plain => true,
        How::Bind => socket.bind(&SocketAddr::new(own, 0).into()).is_ok(),
        How::BindReuse => {
            socket.set_reuse_address(true).unwrap();
            socket.bind(&SocketAddr::new(own, 0).into()).is_ok()
        }
        How::BindLate => {
            bind_without_port(socket, own);
            true
        }
        How::Ranged => {
            if group.second_source {
                bind_without_port(socket, own);
            }
            choose_within(socket, mixture.low, mixture.low + mixture.ports / 2);
            true
        }
    }
}

fn build(mixture: &Mixture) -> Standing {
    let (low, high) = (mixture.low, mixture.low + mixture.ports - 1);
    let world = World::with_range(low, high);
    let flag = |on: bool| if on { "1" } else { "0" };
    world.sysctl("net.ipv4.tcp_tw_reuse", &mixture.reuse.to_string());
    world.sysctl("net.ipv4.tcp_tw_reuse_delay", "1");
    world.sysctl("net.ipv4.tcp_fastopen", flag(mixture.fastopen));
    world.sysctl("net.ipv4.tcp_timestamps", flag(mixture.timestamps.0));
    world.server_sysctl("net.ipv4.tcp_timestamps", flag(mixture.timestamps.1));
    let reserved: Vec<String> = mixture.reserved.iter().map(u16::to_string).collect();
    if !reserved.is_empty() {
        world.sysctl("net.ipv4.ip_local_reserved_ports", &reserved.join(","));
    }
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    keep.push(Box::new(world.in_client(|| {
        let try_bind = |addr: SocketAddr| {
            let socket = socket(addr);
            if addr.is_ipv6() {
                socket.set_only_v6(true).unwrap();
            }
            socket.bind(&addr.into()).ok().map(|()| socket)
        };
        let listeners: Vec<Socket> = mixture
            .listeners
            .iter()
            .filter_map(|(port, ip)| try_bind(SocketAddr::new(*ip, *port)))
            .inspect(|socket| {
                // Two of one port on several addresses may exclude each other.
                let _ = socket.listen(8);
            })
            .collect();
        let client: IpAddr = CLIENT.parse().unwrap();
        let idle: Vec<Socket> = mixture
            .idle
            .iter()
            .filter_map(|port| try_bind(SocketAddr::new(client, *port)))
            .collect();
        let udp: Vec<UdpSocket> =
            mixture.udp.iter().filter_map(|port| UdpSocket::bind((client, *port)).ok()).collect();
        (listeners, idle, udp)
    })));
    if let Some((port, count, gone)) = mixture.children {
        let own = SocketAddr::new(CLIENT.parse().unwrap(), port);
        let server = world.in_client(|| {
            let socket = socket(own);
            socket.bind(&own.into()).and_then(|()| socket.listen(64)).ok().map(|()| socket)
        });
        if let Some(server) = server {
            let children: Vec<(Socket, Socket)> = world.in_server(|| {
                (0..count)
                    .map(|_| {
                        let client = socket(own);
                        client.connect(&own.into()).unwrap();
                        (client, server.accept().unwrap().0)
                    })
                    .collect()
            });
            keep.push(Box::new(children));
            if !gone {
                keep.push(Box::new(server));
            }
        }
    }
    let servers: Vec<(Family, SocketAddr, TcpListener)> = mixture
        .destinations
        .iter()
        .enumerate()
        .map(|(index, family)| {
            let ip: IpAddr = if *family == Family::V6 { SERVER_6 } else { SERVER }.parse().unwrap();
            let addr = SocketAddr::new(ip, 7000 + index as u16);
            (*family, addr, world.listen(&addr.to_string()))
        })
        .collect();
    for group in &mixture.groups {
        let (family, dst, server) = &servers[group.to];
        let dialed = as_dialed(*family, *dst);
        let mut pairs = Vec::new();
        world.in_client(|| {
            for _ in 0..group.count {
                let client = socket(dialed);
                if !prepare(mixture, group, *family, &client)
                    || client.connect(&dialed.into()).is_err()
                {
                    // Out of ports already: that is a mixture too.
                    break;
                }
                pairs.push((client, server.accept().unwrap().0));
            }
        });
        let ended = |stream: &mut dyn std::io::Read| {
            assert_eq!(stream.read(&mut [0u8; 1]).unwrap(), 0);
        };
        for (mut client, mut server) in pairs {
            match group.end {
                End::Established => keep.push(Box::new((client, server))),
                End::TimeWait => {
                    drop(client);
                    ended(&mut server);
                }
                End::CloseWait => {
                    drop(server);
                    let mut peek = [std::mem::MaybeUninit::<u8>::uninit(); 1];
                    assert_eq!(client.peek(&mut peek).unwrap(), 0);
                    keep.push(Box::new(client));
                }
                End::FinWait2 => {
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                    ended(&mut server);
                    keep.push(Box::new((client, server)));
                }
                End::Gone => {
                    drop(server);
                    ended(&mut client);
                    drop(client);
                }
            }
        }
    }
    let held: usize = mixture.groups.iter().filter(|g| g.end == End::FinWait2).count();
    if held == 0 {
        world.wait_for(keepgate_ports::diag::TcpState::FinWait2, 0);
    }
    world.wait_for(keepgate_ports::diag::TcpState::LastAck, 0);
    world.wait_for(keepgate_ports::diag::TcpState::FinWait1, 0);
    // Every TIME_WAIT is older than tcp_tw_reuse_delay now.
    std::thread::sleep(Duration::from_millis(10));
    Standing { world, servers, _keep: keep }
}

/// Somebody who wants to connect: where to, and from which source where not from the usual one.
#[derive(Debug, Clone, Copy)]
struct Wish {
    family: Family,
    dst: SocketAddr,
    from: Option<IpAddr>,
}

impl Standing {
    fn wishes(&self) -> Vec<Wish> {
        let second: IpAddr = CLIENT_2.parse().unwrap();
        self.servers
            .iter()
            .flat_map(|(family, dst, _)| {
                let (family, dst) = (*family, *dst);
                let usual = Wish { family, dst, from: None };
                let other = (family != Family::V6).then_some(Wish { from: Some(second), ..usual });
                std::iter::once(usual).chain(other)
            })
            .collect()
    }

    fn judged(&self, wish: Option<&Wish>) -> Report {
        let to = wish.map(|wish| {
            let dialed = as_dialed(wish.family, wish.dst);
            (dialed.to_string(), dialed)
        });
        let options = ReadOptions {
            interval: None,
            to: to.into_iter().collect(),
            from: wish.and_then(|wish| wish.from),
            owners: false,
            ..ReadOptions::default()
        };
        rules::judge(&self.world.look_with(options))
    }

    /// Whether the kernel finds a port, for a connection that is reset at once.
    fn connects(&self, wish: &Wish) -> bool {
        let dialed = as_dialed(wish.family, wish.dst);
        self.world.in_client(|| {
            let socket = socket(dialed);
            if wish.from.is_some() {
                bind_without_port(&socket, source(wish.family, true));
            }
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            match socket.connect(&dialed.into()) {
                Ok(()) => true,
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => false,
                Err(error) => panic!("connect to {dialed}: {error}"),
            }
        })
    }
}

fn check(number: u64) -> Vec<String> {
    let mixture = Mixture::numbered(number);
    let standing = build(&mixture);
    let mut wrong = Vec::new();
    let mut note = |text: String, report: &Report| {
        wrong.push(format!("mixture {number}: {text}\n{mixture:?}\n{report:#?}"));
    };
    let wishes = standing.wishes();
    let whole = standing.judged(None);
    let asked: Vec<Report> = wishes.iter().map(|wish| standing.judged(Some(wish))).collect();
    let succeeded: Vec<bool> = wishes.iter().map(|wish| standing.connects(wish)).collect();
    let (all, any) = (succeeded.iter().all(|ok| *ok), succeeded.iter().any(|ok| *ok));
    if let Some(text) = contradiction(whole.verdict, all, any) {
        note(text.to_owned(), &whole);
    }
    for ((wish, report), ok) in wishes.iter().zip(&asked).zip(&succeeded) {
        if let Some(text) = contradiction(report.verdict, *ok, *ok) {
            note(format!("{wish:?}: {text}"), report);
        }
        let Some(bucket) = report.buckets.first() else {
            note(format!("{wish:?}: nothing about what was asked"), report);
            continue;
        };
        if (*ok && bucket.remaining.max == 0) || (!*ok && bucket.remaining.min > 0) {
            note(format!("{wish:?}: {} left, and connect() {ok}", bucket.remaining), report);
        }
        if !bucket.remaining.is_exact() && bucket.doubts.is_empty() {
            note(format!("{wish:?}: an interval without a reason"), report);
        }
        if report.verdict == Verdict::Unknown && report.unknown.is_empty() {
            note(format!("{wish:?}: unknown, and no reason"), report);
        }
    }
    // The number itself, for one of them.
    if let (Some(wish), Some(report)) = (wishes.last(), asked.last()) {
        let remaining = report.buckets.first().map(|b| b.remaining).unwrap_or_default();
        let (opened, _) = standing.world.connects(wish.dst, wish.from);
        if !remaining.contains(opened) {
            note(format!("{remaining} predicted, {opened} opened: {wish:?}"), report);
        }
    }
    println!(
        "{} mixture {number}: {}, asked {:?}, connect() {succeeded:?}",
        if wrong.is_empty() { "ok   " } else { "WRONG" },
        whole.verdict.name(),
        asked.iter().map(|report| report.verdict.name()).collect::<Vec<_>>(),
    );
    wrong
}

/// `KEEPGATE_MIXTURES=FROM..TO`, or the usual ones.
fn numbers() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("KEEPGATE_MIXTURES") else { return 0..MIXTURES };
    let (from, to) = text.split_once("..").expect("KEEPGATE_MIXTURES=FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn no_mixture_contradicts_connect() {
    if !available() {
        return;
    }
    let wrong: Vec<String> = numbers().flat_map(check).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// An ordinary user inside the namespace sees what root sees; from outside nothing is decided by
/// the kernel's defaults.
#[test]
fn an_ordinary_user_is_told_nothing_wrong() {
    if !available() {
        return;
    }
    for number in [1, 2, 3, 4] {
        let standing = build(&Mixture::numbered(number));
        // The build's own folder may be closed to others.
        let program = std::env::temp_dir().join(format!("kgp-doctor-{}", std::process::id()));
        std::fs::copy(env!("CARGO_BIN_EXE_keepgate-doctor"), &program).unwrap();
        let mut sleeper = std::process::Command::new("ip")
            .args(["netns", "exec", &standing.world.client, "sleep", "600"])
            .spawn()
            .unwrap();
        let pid = sleeper.id().to_string();
        let said = |words: &[&str]| -> String {
            let output = std::process::Command::new(words[0])
                .args(&words[1..])
                .args(["--once", "--json"])
                .output()
                .unwrap();
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|e| panic!("{e}: {output:?}"));
            report["verdict"].as_str().unwrap().to_owned()
        };
        let name = program.to_str().unwrap();
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", name];
        let inside = ["ip", "netns", "exec", &standing.world.client];
        let root = standing.judged(None).verdict;
        assert_eq!(said(&[&inside[..], &nobody].concat()), root.name(), "mixture {number}");
        let outside = said(&[&nobody[..], &["--pid", &pid]].concat());
        assert!(matches!(outside.as_str(), "unknown" | "not_ports"), "mixture {number}: {outside}");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        std::fs::remove_file(&program).unwrap();
    }
}
