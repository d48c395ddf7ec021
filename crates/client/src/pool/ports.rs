//! Looks at the buckets of upstreams' addresses, and says to each how many connections it may open
//! until the next look.
//!
//! The last twentieth of a bucket's ports is kept back: other programs, and what tells people why
//! nothing works, need ports too. Addresses that share a bucket share its room.

use std::io;
use std::net::{IpAddr, SocketAddr};

use keepgate_ports::read::watch::{Wanted, Watch};

use super::outgoing::RequestBody;
use super::upstream::Upstream;
use crate::dial::{Endpoint, Room, Target};

/// One port in so many is kept back, and at least one.
const RESERVE: u32 = 20;

/// A bucket as the last look saw it: a source address toward a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The source address.
    pub src: IpAddr,
    /// The destination.
    pub dst: SocketAddr,
    /// Ports that exist for it.
    pub usable: u32,
    /// Those that are free, at most.
    pub free: u32,
    /// How many of these are kept back.
    pub reserve: u32,
}

impl Bucket {
    /// How many connections may be opened.
    fn room(&self) -> u32 {
        self.free.saturating_sub(self.reserve)
    }
}

/// See the module. Stays in the network namespace in which it was opened; what it opens and looks at
/// is to be on threads of that one.
#[derive(Debug)]
pub struct PortWatch {
    watch: Watch,
}

impl PortWatch {
    /// A watch on the calling thread's namespace. Needs no rights.
    ///
    /// # Errors
    /// The kernel's, where it gives no netlink socket.
    pub fn open() -> io::Result<PortWatch> {
        Ok(PortWatch { watch: Watch::open()? })
    }

    /// Has the next look read settings and bound ports again, as when a connect has failed although
    /// there was room.
    pub fn forget(&mut self) {
        self.watch.forget();
    }

    /// Looks at the buckets of these addresses, and tells each of them its room. Returns the buckets
    /// of each, in their order; none of a Unix socket, or of a name that was not looked up. Blocks for
    /// a walk of the kernel's socket table.
    ///
    /// # Errors
    /// The kernel's, where it does not list its sockets. Then there is no bound on what is opened.
    pub fn look<B: RequestBody>(
        &mut self,
        upstreams: &[Upstream<B>],
    ) -> io::Result<Vec<Vec<Bucket>>> {
        let wanted: Vec<Vec<Wanted>> =
            upstreams.iter().map(|upstream| buckets(&upstream.id().target)).collect();
        upstreams.iter().for_each(Upstream::begin_look);
        let flat: Vec<Wanted> = wanted.iter().flatten().copied().collect();
        let seen = match self.watch.look(&flat) {
            Ok(seen) => seen,
            Err(error) => {
                upstreams.iter().for_each(|upstream| upstream.looked(None));
                return Err(error);
            }
        };
        let mut seen = seen.into_iter();
        let each: Vec<Vec<Bucket>> = wanted
            .iter()
            .map(|wanted| {
                let of_one = wanted.iter().zip(seen.by_ref());
                of_one.filter_map(|(wanted, seen)| Some((wanted.dst, seen?))).map(bucket).collect()
            })
            .collect();
        let sharers = |bucket: &Bucket| {
            let same = |other: &&Bucket| (other.src, other.dst) == (bucket.src, bucket.dst);
            u32::try_from(each.iter().flatten().filter(same).count()).unwrap_or(u32::MAX)
        };
        for (upstream, buckets) in upstreams.iter().zip(&each) {
            let rooms: Vec<Room> = buckets
                .iter()
                .map(|bucket| Room {
                    src: bucket.src,
                    dst: bucket.dst,
                    ports: bucket.room() / sharers(bucket).max(1),
                })
                .collect();
            upstream.dialer().note_rooms(&rooms);
            let room = rooms.iter().fold(0_u32, |all, room| all.saturating_add(room.ports));
            upstream.looked((!rooms.is_empty()).then_some(room));
        }
        Ok(each)
    }
}

fn bucket((dst, seen): (SocketAddr, keepgate_ports::read::watch::Seen)) -> Bucket {
    let reserve = seen.usable.div_ceil(RESERVE).max(1);
    // What is in doubt counts as free: a bucket that nothing is connected to any more would otherwise
    // never be tried.
    Bucket { src: seen.src, dst, usable: seen.usable, free: seen.remaining.max, reserve }
}

/// The buckets that a target's connections may be in.
fn buckets(target: &Target) -> Vec<Wanted> {
    let dst = match (&target.place, target.address) {
        (Endpoint::Unix(_), _) => return Vec::new(),
        (Endpoint::Tcp { .. }, Some(address)) => address,
        (Endpoint::Tcp { host, port }, None) => match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, *port),
            Err(_) => return Vec::new(),
        },
    };
    if target.sources.is_empty() {
        return vec![Wanted { src: None, dst }];
    }
    let fitting = target.sources.iter().filter(|source| source.is_ipv4() == dst.is_ipv4());
    fitting.map(|source| Wanted { src: Some(*source), dst }).collect()
}
