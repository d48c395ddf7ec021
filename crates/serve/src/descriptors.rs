//! Open descriptors: how many there may be, and who gets them.
//!
//! A server that accepts until the kernel says `EMFILE` has no descriptor left for its upstream,
//! its logs or the operator who looks at it. So the limit is raised once at the start, and divided
//! before the first connection is accepted.

use std::io;

/// Connections of callers that a server must be able to hold; with less it does not start.
pub const LEAST_CONNECTIONS: usize = 16;
/// Connections to the upstream that it must be able to hold.
pub const LEAST_UPSTREAM: usize = 4;
/// Descriptors that nobody asks for by name: standard streams, the directory of a library, a
/// file that is read at once, connections that are closing.
const SPARE: usize = 32;

/// The limit of open descriptors (`RLIMIT_NOFILE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The soft limit as it was found.
    pub before: u64,
    /// The soft limit now: the hard limit, where that could be set.
    pub now: u64,
}

/// Raises the soft limit of open descriptors to the hard one, as every process may. Call it once,
/// at the start: the limit belongs to the process.
///
/// Where the kernel refuses, the limit stays as it is and is told as such; an error means that
/// not even the present limit is known.
pub fn raise_limit() -> io::Result<DescriptorLimit> {
    let found = limit()?;
    let before = found.rlim_cur;
    if found.rlim_cur < found.rlim_max {
        let wanted = libc::rlimit { rlim_cur: found.rlim_max, rlim_max: found.rlim_max };
        // SAFETY: the pointer is to a whole rlimit, which outlives the call.
        #[expect(unsafe_code, reason = "std has no setrlimit")]
        // What it says is read back below: the limit in force counts, not the attempt.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) };
    }
    Ok(DescriptorLimit { before, now: limit()?.rlim_cur })
}

fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a whole rlimit, which outlives the call.
    #[expect(unsafe_code, reason = "std has no getrlimit")]
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 { Ok(limit) } else { Err(io::Error::last_os_error()) }
}

/// What a server wants descriptors for. All but the first two are kept back in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Connections of callers, at most. Gets what is left.
    pub connections: usize,
    /// Connections to the upstream (a center: to its database), at most. Gets at most a third.
    pub upstream: usize,
    /// Connections to the center, with one that is being opened.
    pub center: usize,
    /// Connections to the admin listener.
    pub admin: usize,
    /// Files: logs, data, certificates, key sets.
    pub files: usize,
    /// Health checks under way, in both directions.
    pub health_checks: usize,
    /// Listeners, runtimes and their wakers.
    pub own: usize,
}

/// Who gets how many descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections of callers.
    pub connections: usize,
    /// Connections to the upstream.
    pub upstream: usize,
}

/// The limit leaves no room to serve anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected at least {needed} open descriptors, the limit is {limit}; raise it \
     (`ulimit -n`, `LimitNOFILE=` of a unit)"
)]
pub struct TooFew {
    /// The limit.
    pub limit: u64,
    /// The least that would do.
    pub needed: usize,
}

impl Needs {
    /// Divides `limit` descriptors. The sum of all shares and reserves never exceeds it.
    pub fn within(&self, limit: u64) -> Result<Shares, TooFew> {
        let reserved = [self.center, self.admin, self.files, self.health_checks, self.own, SPARE];
        let reserved = reserved.into_iter().fold(0, usize::saturating_add);
        let least_upstream = self.upstream.min(LEAST_UPSTREAM);
        let needed = reserved
            .saturating_add(least_upstream)
            .saturating_add(self.connections.min(LEAST_CONNECTIONS))
            // Connections that were told to close hold theirs for a moment.
            .saturating_add(1);
        let all = usize::try_from(limit).unwrap_or(usize::MAX);
        if all < needed {
            return Err(TooFew { limit, needed });
        }
        let rest = all - reserved;
        // Never less than the least, which `needed` has room for.
        let upstream = self.upstream.min((rest / 3).max(least_upstream));
        let rest = rest - upstream;
        // What is closing comes on top: see `places::slack`.
        let connections = self.connections.min(without_slack(rest));
        Ok(Shares { connections, upstream })
    }
}

/// The most places that fit, with those that are closing, into `room` descriptors.
fn without_slack(room: usize) -> usize {
    let mut places = room - crate::places::slack(room).min(room);
    while places > 0 && places.saturating_add(crate::places::slack(places)) > room {
        places -= 1;
    }
    places
}
