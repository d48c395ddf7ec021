//! The verdict against the kernel: a table of situations, made for real, named ones and generated
//! ones. At each, `connect()` itself says to each destination whether a port is left.
//!
//! Both ways: never HEALTHY nor NOT PORTS where a connect() fails for a port, never EXHAUSTED nor
//! NOT PORTS where each succeeds. The same for each destination asked for alone.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use keepgate_ports::ranges::PortRange;
use keepgate_ports::read::ReadOptions;
use keepgate_ports::report::{Cause, Report, Verdict};
use keepgate_ports::rules;
use socket2::Socket;

use crate::world::{
    CLIENT, CLIENT_6, SERVER, SERVER_6, World, available, bind_without_port, listener, socket,
};

/// The first port of a generated range.
const LOW: u16 = 40_000;
/// How many generated situations.
const GENERATED: u64 = 34;

/// How a connection gets its port.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Plain,
    /// `bind(src, 0)`, then connect.
    Bind,
    /// The same with SO_REUSEADDR.
    BindReuse,
    /// The same with IP_BIND_ADDRESS_NO_PORT.
    BindLate,
    /// Bound to the device.
    Device,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Established,
    TimeWait,
}

/// So many connections to one of the destinations.
#[derive(Debug, Clone)]
struct Group {
    to: usize,
    how: How,
    end: End,
    count: usize,
}

/// A situation.
#[derive(Debug, Clone)]
struct Situation {
    ports: u16,
    /// IPv6 where true.
    destinations: Vec<bool>,
    groups: Vec<Group>,
    listeners: u16,
    idle: u16,
    reserved: u16,
    reuse: u8,
    fastopen: bool,
}

impl Situation {
    fn new(ports: u16, destinations: usize) -> Self {
        Self {
            ports,
            destinations: vec![false; destinations],
            groups: Vec::new(),
            listeners: 0,
            idle: 0,
            reserved: 0,
            reuse: 0,
            fastopen: true,
        }
    }

    /// So many connections, dealt out to all destinations in turn.
    fn spread(mut self, how: How, end: End, count: usize) -> Self {
        let n = self.destinations.len();
        for to in 0..n {
            let count = count / n + usize::from(to < count % n);
            self.groups.push(Group { to, how, end, count });
        }
        self
    }

    fn generated(seed: u64) -> Self {
        let mut random = Random(seed);
        let ports = 2 * random.below(16) as u16 + 8;
        let mut made = Self::new(ports, 1 + random.below(6) as usize);
        for v6 in &mut made.destinations {
            *v6 = random.below(4) == 0;
        }
        made.reuse = random.below(3) as u8;
        made.fastopen = random.below(8) > 0;
        if random.below(3) == 0 {
            made.listeners = random.below(4) as u16;
            made.idle = random.below(4) as u16;
            made.reserved = random.below(4) as u16;
        }
        let hows = [How::Plain, How::Bind, How::BindReuse, How::BindLate, How::Device];
        for _ in 0..=random.below(5) {
            made.groups.push(Group {
                to: random.below(made.destinations.len() as u64) as usize,
                how: hows[random.below(5) as usize],
                end: if random.below(3) == 0 { End::TimeWait } else { End::Established },
                count: random.below(u64::from(ports) + 4) as usize,
            });
        }
        made
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % n.max(1)
    }
}

/// A situation that stands.
struct Standing {
    world: World,
    servers: Vec<(SocketAddr, TcpListener)>,
    _keep: Vec<Box<dyn std::any::Any>>,
}

fn source(dst: SocketAddr) -> IpAddr {
    if dst.is_ipv4() { CLIENT } else { CLIENT_6 }.parse().unwrap()
}

fn prepare(socket: &Socket, how: How, dst: SocketAddr) -> std::io::Result<()> {
    let own = SocketAddr::new(source(dst), 0);
    match how {
        How::Plain => Ok(()),
        How::Bind => socket.bind(&own.into()),
        How::BindReuse => {
            socket.set_reuse_address(true)?;
            socket.bind(&own.into())
        }
        How::BindLate => {
            bind_without_port(socket, own.ip());
            Ok(())
        }
        How::Device => socket.bind_device(Some(b"v0")),
    }
}

fn build(situation: &Situation) -> Standing {
    let world = World::with_range(LOW, LOW + situation.ports - 1);
    world.sysctl("net.ipv4.tcp_tw_reuse", &situation.reuse.to_string());
    world.sysctl("net.ipv4.tcp_tw_reuse_delay", "1");
    world.sysctl("net.ipv4.tcp_fastopen", if situation.fastopen { "1" } else { "0" });
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    let mut own_ports: Vec<u16> = (0..situation.ports).map(|i| LOW + i).collect();
    if situation.reserved > 0 {
        let last = LOW + situation.reserved - 1;
        world.sysctl("net.ipv4.ip_local_reserved_ports", &format!("{LOW}-{last}"));
    }
    keep.push(Box::new(world.in_client(|| {
        let mut own = |_| SocketAddr::new(CLIENT.parse().unwrap(), own_ports.pop().unwrap());
        let listeners: Vec<TcpListener> =
            (0..situation.listeners).map(&mut own).map(listener).collect();
        let idle: Vec<Socket> = (0..situation.idle)
            .map(&mut own)
            .map(|addr| {
                let idle = socket(addr);
                idle.bind(&addr.into()).unwrap();
                idle
            })
            .collect();
        (listeners, idle)
    })));
    let servers: Vec<(SocketAddr, TcpListener)> = situation
        .destinations
        .iter()
        .enumerate()
        .map(|(index, v6)| {
            let ip: IpAddr = if *v6 { SERVER_6 } else { SERVER }.parse().unwrap();
            let addr = SocketAddr::new(ip, 7000 + index as u16);
            (addr, world.listen(&addr.to_string()))
        })
        .collect();
    for group in &situation.groups {
        let (dst, server) = &servers[group.to];
        let mut pairs = Vec::new();
        world.in_client(|| {
            for _ in 0..group.count {
                let client = socket(*dst);
                // Out of ports already: that is a situation too.
                if prepare(&client, group.how, *dst).is_err() {
                    break;
                }
                if client.connect(&(*dst).into()).is_err() {
                    break;
                }
                pairs.push((client, server.accept().unwrap().0));
            }
        });
        match group.end {
            End::Established => keep.push(Box::new(pairs)),
            End::TimeWait => {
                for (client, mut server) in pairs {
                    drop(client);
                    std::io::Read::read(&mut server, &mut [0u8; 1]).unwrap();
                }
            }
        }
    }
    world.wait_for(keepgate_ports::diag::TcpState::FinWait2, 0);
    // Every TIME_WAIT is older than tcp_tw_reuse_delay now.
    std::thread::sleep(Duration::from_millis(10));
    Standing { world, servers, _keep: keep }
}

impl Standing {
    fn judged(&self, to: Option<SocketAddr>) -> Report {
        let to = to.into_iter().map(|dst| (dst.to_string(), dst)).collect();
        let options = ReadOptions { interval: None, to, owners: false, ..ReadOptions::default() };
        rules::judge(&self.world.look_with(options))
    }

    /// Whether the kernel finds a port for a plain connect(), which is reset at once.
    fn connects(&self, dst: SocketAddr) -> bool {
        self.world.in_client(|| {
            let socket = socket(dst);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            match socket.connect(&dst.into()) {
                Ok(()) => true,
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => false,
                Err(error) => panic!("connect to {dst}: {error}"),
            }
        })
    }
}

/// What is wrong with a verdict, given what the kernel did.
pub(crate) fn contradiction(verdict: Verdict, all: bool, any: bool) -> Option<&'static str> {
    match verdict {
        Verdict::Healthy | Verdict::NotPorts if !all => Some("fine, and a connect() fails"),
        Verdict::Exhausted if any && all => Some("exhausted, and each connect() succeeds"),
        Verdict::NotPorts => Some("not ports, and ports are all there is"),
        _ => None,
    }
}

/// Asks the doctor, then the kernel; returns what does not agree.
fn check(name: &str, situation: &Situation, expected: Option<(Verdict, Cause)>) -> Vec<String> {
    let standing = build(situation);
    let whole = standing.judged(None);
    let asked: Vec<Report> =
        standing.servers.iter().map(|(dst, _)| standing.judged(Some(*dst))).collect();
    let succeeded: Vec<bool> =
        standing.servers.iter().map(|(dst, _)| standing.connects(*dst)).collect();
    let mut wrong = Vec::new();
    let mut note = |text: String, report: &Report| {
        wrong.push(format!("{name}: {text}\n{situation:?}\n{report:#?}"));
    };
    let (all, any) = (succeeded.iter().all(|ok| *ok), succeeded.iter().any(|ok| *ok));
    // Sockets bound to a device fail where others do not: nobody asked the kernel for those.
    let device = situation.groups.iter().any(|group| group.how == How::Device);
    let text = contradiction(whole.verdict, all, any);
    if let Some(text) = text.filter(|_| !(device && whole.verdict == Verdict::Exhausted)) {
        note(text.to_owned(), &whole);
    }
    if let Some((verdict, cause)) = expected {
        let found = (whole.verdict, whole.buckets.first().map_or(Cause::None, |b| b.cause));
        if found != (verdict, cause) {
            note(format!("{found:?}, not {verdict:?} {cause:?}"), &whole);
        }
    }
    for (report, ok) in asked.iter().zip(&succeeded) {
        if let Some(text) = contradiction(report.verdict, *ok, *ok) {
            note(text.to_owned(), report);
        }
        let remaining = report.buckets.first().unwrap().remaining;
        if (*ok && remaining.max == 0) || (!*ok && remaining.min > 0) {
            note(format!("{remaining} left, and connect() {ok}"), report);
        }
        // Exact, or with the reason; and a verdict of its own only where it is decided.
        if !remaining.is_exact() && report.buckets.first().unwrap().doubts.is_empty() {
            note("an interval without a reason".to_owned(), report);
        }
        if report.verdict == Verdict::Unknown && report.unknown.is_empty() {
            note("unknown, and no reason".to_owned(), report);
        }
    }
    // The number itself, for one of them.
    if let (Some((dst, _)), Some(report)) = (standing.servers.last(), asked.last()) {
        let remaining = report.buckets.first().unwrap().remaining;
        let (opened, _) = standing.world.connects(*dst, None);
        if !remaining.contains(opened) {
            note(format!("{remaining} predicted, {opened} opened to {dst}"), report);
        }
    }
    println!(
        "{} {name}: {}, asked {:?}, connect() {succeeded:?}",
        if wrong.is_empty() { "ok   " } else { "WRONG" },
        whole.verdict.name(),
        asked.iter().map(|report| report.verdict.name()).collect::<Vec<_>>(),
    );
    wrong
}

/// A situation, its name, and the verdict and cause that it must have, where that is certain.
type Named = (&'static str, Situation, Option<(Verdict, Cause)>);

fn named() -> Vec<Named> {
    let all = 40;
    let exhausted = |cause| Some((Verdict::Exhausted, cause));
    vec![
        (
            "40 ports, 10 destinations, all bound before connect()",
            Situation::new(40, 10).spread(How::Bind, End::Established, all),
            exhausted(Cause::ExplicitBind),
        ),
        (
            "the same with SO_REUSEADDR",
            Situation::new(40, 10).spread(How::BindReuse, End::Established, all),
            exhausted(Cause::ExplicitBind),
        ),
        (
            "the same with IP_BIND_ADDRESS_NO_PORT costs nobody a port",
            Situation::new(40, 10).spread(How::BindLate, End::Established, all),
            Some((Verdict::Healthy, Cause::None)),
        ),
        (
            "one destination, all bound",
            Situation::new(40, 1).spread(How::Bind, End::Established, all),
            exhausted(Cause::ExplicitBind),
        ),
        (
            "one destination, all bound and closed",
            Situation { reuse: 1, ..Situation::new(40, 1) }.spread(How::Bind, End::TimeWait, all),
            exhausted(Cause::ExplicitBind),
        ),
        (
            "half bound, half chosen, over four destinations",
            Situation::new(40, 4).spread(How::Bind, End::Established, 20).spread(
                How::Plain,
                End::Established,
                80,
            ),
            exhausted(Cause::ExplicitBind),
        ),
        (
            "a destination for each port, bound",
            Situation::new(40, 40).spread(How::Bind, End::Established, all),
            exhausted(Cause::ExplicitBind),
        ),
        (
            "IPv6, bound over ten destinations",
            Situation { destinations: vec![true; 10], ..Situation::new(40, 10) }.spread(
                How::Bind,
                End::Established,
                all,
            ),
            exhausted(Cause::ExplicitBind),
        ),
        (
            "bound over ten destinations, and nothing to probe with",
            Situation { fastopen: false, ..Situation::new(40, 10) }.spread(
                How::Bind,
                End::Established,
                all,
            ),
            Some((Verdict::Unknown, Cause::None)),
        ),
        (
            "chosen by connect(), and nothing to probe with",
            Situation { fastopen: false, ..Situation::new(40, 10) }.spread(
                How::Plain,
                End::Established,
                all,
            ),
            None,
        ),
        (
            "TIME_WAITs that may be reused or not",
            Situation { reuse: 1, ..Situation::new(40, 1) }.spread(How::Plain, End::TimeWait, all),
            Some((Verdict::Unknown, Cause::None)),
        ),
        (
            "a leak in a range of 700 ports",
            Situation::new(700, 1).spread(How::Plain, End::Established, 700),
            exhausted(Cause::EstablishedLeak),
        ),
        (
            "some of everything",
            Situation { listeners: 3, idle: 3, reserved: 4, ..Situation::new(40, 3) }
                .spread(How::Bind, End::Established, 6)
                .spread(How::BindReuse, End::TimeWait, 6)
                .spread(How::Plain, End::Established, 30),
            None,
        ),
    ]
}

#[test]
fn no_verdict_contradicts_connect() {
    if !available() {
        return;
    }
    let mut wrong = Vec::new();
    let mut count = 0;
    for (name, situation, expected) in named() {
        wrong.extend(check(name, &situation, expected));
        count += 1;
    }
    for seed in 0..GENERATED {
        let situation = Situation::generated(seed);
        wrong.extend(check(&format!("generated {seed}"), &situation, None));
        count += 1;
    }
    assert!(count >= 40);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A leak in a small range is a leak; the range is said beside it. A pool that is larger than the
/// range is no leak.
#[test]
fn the_cause_is_what_holds_the_ports() {
    if !available() {
        return;
    }
    let leak =
        build(&Situation::new(700, 1).spread(How::Plain, End::Established, 700)).judged(None);
    assert_eq!(leak.buckets[0].cause, Cause::EstablishedLeak);
    assert!(leak.findings.iter().any(|f| f.cause == Cause::NarrowRange), "{leak:#?}");
    let pool = build(&Situation::new(40, 1).spread(How::Plain, End::Established, 40)).judged(None);
    assert_eq!(pool.buckets[0].cause, Cause::NarrowRange);
    let bound = build(&Situation::new(40, 1).spread(How::Bind, End::Established, 40));
    let report = bound.judged(None);
    assert_eq!(report.findings[0].cause, Cause::ExplicitBind);
    let text = keepgate_ports::text::render(&report, Default::default());
    assert!(
        text.contains("bound explicitly") && text.contains("IP_BIND_ADDRESS_NO_PORT"),
        "{text}"
    );
    let options = ReadOptions { interval: None, ..ReadOptions::default() };
    let snapshot = bound.world.look_with(options);
    let plan = keepgate_ports::tune::plan(&snapshot, &Default::default());
    assert!(plan.steps.is_empty(), "a wider range is no cure: {plan:#?}");
    assert!(plan.beyond_settings.iter().any(|text| text.contains("binds its ports")), "{plan:#?}");
    assert!(snapshot.settings.range == PortRange { low: LOW, high: LOW + 39 });
}
