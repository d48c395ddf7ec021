//! Which address of an upstream gets a request, and which addresses get none for a while.
//!
//! Pure: it reads no clock (`now_ms` is an argument, on any clock that does not go back), draws its
//! chances from a seed, and opens nothing. It knows addresses by [`Key`] only.
//!
//! - Of two addresses chosen by chance, the one with fewer requests under way gets the request.
//! - An address whose connects fail in a row, or that answers 5xx in a row, is *ejected*: it gets no
//!   request for a while, and each time for twice as long. Then one request at a time tries it. After
//!   the first that succeeds, its share grows back from a tenth (*slow start*).
//! - Active checks, where there are some, take an address out and bring it back on their own.
//! - INVARIANT: there is always an address to try, as long as one was not tried yet. Where all are
//!   ejected, all are used (*panic*): a server that fails some requests is better than none.
//! - INVARIANT: what a request says counts only for the period in which it was sent. An answer that
//!   was under way when its address was ejected neither brings it back nor keeps it away.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// The whole share of an address, and what one that comes back begins with.
const WHOLE: u64 = 100;
const TENTH: u64 = WHOLE / 10;
/// Doublings of the time of an ejection.
const MAX_DOUBLINGS: u32 = 16;

/// When an address is left out, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceConfig {
    /// Connects in a row that fail before the address is ejected; 0: never.
    pub connect_failures: u32,
    /// Answers in a row with a 5xx status, or none before the connection ended or the deadline passed,
    /// before the address is ejected; 0: never. 501 and 505 do not count: they are about the request.
    pub server_errors: u32,
    /// How long the first ejection lasts; each one after it twice as long.
    pub eject_min: Duration,
    /// How long an ejection lasts at most. An address that was in use for that long since its last
    /// ejection begins again with `eject_min`.
    pub eject_max: Duration,
    /// How long the share of an address grows that is new or comes back; zero: it has all at once.
    pub slow_start: Duration,
    /// Active checks in a row that fail before the address is taken out.
    pub check_fall: u32,
    /// Active checks in a row that succeed before it is brought back.
    pub check_rise: u32,
}

impl Default for BalanceConfig {
    fn default() -> BalanceConfig {
        BalanceConfig {
            connect_failures: 2,
            server_errors: 5,
            eject_min: Duration::from_secs(1),
            eject_max: Duration::from_secs(60),
            slow_start: Duration::from_secs(10),
            check_fall: 3,
            check_rise: 2,
        }
    }
}

/// An address. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) u64);

/// One request's choice. To be followed by [`Balance::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) key: Key,
    /// The address's period: see the module.
    period: u32,
    /// All addresses were left out, and so none was.
    pub(super) panic: bool,
}

/// How a request failed, as far as its address is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection could be made.
    Connect,
    /// It answered 5xx, or not at all.
    Server,
}

/// What became of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is ejected, for so long.
    Ejected(Failure, Duration),
    /// It is back in use.
    Returned,
    /// Active checks took it out.
    Down,
    /// They brought it back.
    Up,
}

/// What is to be known about all addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) addresses: usize,
    pub(super) ejected: usize,
    pub(super) down: usize,
    /// None may be used: all are.
    pub(super) panic: bool,
}

/// See the module.
pub(super) struct Balance {
    config: BalanceConfig,
    entries: Vec<Entry>,
    chance: u64,
}

struct Entry {
    key: Key,
    /// For sticky choices: of the address as text, and so the same in every process.
    hash: u64,
    /// Requests under way.
    outstanding: u32,
    state: State,
    /// Taken out by active checks.
    down: bool,
    /// Goes up with each ejection and return.
    period: u32,
    connect_failures: u32,
    server_errors: u32,
    /// Ejections in a row.
    ejections: u32,
    /// When it came back last.
    returned_ms: u64,
    checks_failed: u32,
    checks_passed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In use. With a time: its share has grown since then.
    In { since_ms: Option<u64> },
    /// Ejected.
    Out { until_ms: u64 },
    /// One request at a time tries it.
    Trial { busy: bool },
}

impl Balance {
    pub(super) fn new(config: BalanceConfig, seed: u64) -> Balance {
        Balance { config, entries: Vec::new(), chance: seed }
    }

    /// Keeps exactly these addresses, each with the hash of its text. A new one starts slowly, but
    /// where all are new.
    pub(super) fn keep(&mut self, present: &[(Key, u64)], now_ms: u64) {
        self.entries.retain(|entry| present.iter().any(|(key, _)| *key == entry.key));
        let all_new = self.entries.is_empty();
        for (key, hash) in present {
            if self.entries.iter().any(|entry| entry.key == *key) {
                continue;
            }
            let since_ms = (!all_new).then_some(now_ms);
            self.entries.push(Entry::new(*key, *hash, since_ms, now_ms));
        }
    }

    /// The address for a request that was not sent to `avoid` yet; none: it was sent to all of them.
    /// With `sticky`, the hash of what its caller is known by, callers stay with an address.
    pub(super) fn pick(&mut self, now_ms: u64, avoid: &[Key], sticky: Option<u64>) -> Option<Pick> {
        let slow_start = self.config.slow_start;
        let usable = |entry: &&mut Entry| entry.is_usable(now_ms) && !avoid.contains(&entry.key);
        let mut chance = Chance(&mut self.chance);
        let mut chosen = choose(
            self.entries.iter_mut().filter(usable),
            &mut chance,
            |entry| entry.weight(now_ms, slow_start),
            sticky,
        );
        let none_usable = chosen.is_none();
        if none_usable {
            let untried = |entry: &&mut Entry| !avoid.contains(&entry.key);
            chosen =
                choose(self.entries.iter_mut().filter(untried), &mut chance, |_| WHOLE, sticky);
        }
        let entry = chosen?;
        if entry.is_usable(now_ms) && !matches!(entry.state, State::In { .. }) {
            entry.state = State::Trial { busy: true };
        }
        entry.outstanding = entry.outstanding.saturating_add(1);
        let panic = none_usable && avoid.is_empty();
        Some(Pick { key: entry.key, period: entry.period, panic })
    }

    /// The request is over, whatever became of it.
    pub(super) fn done(&mut self, pick: Pick) {
        let Some(entry) = self.entry(pick.key) else { return };
        entry.outstanding = entry.outstanding.saturating_sub(1);
        if entry.period == pick.period
            && let State::Trial { busy } = &mut entry.state
        {
            *busy = false;
        }
    }

    /// It was answered, and not with a 5xx.
    pub(super) fn succeeded(&mut self, pick: Pick, now_ms: u64) -> Option<Change> {
        let entry = self.entry(pick.key).filter(|entry| entry.period == pick.period)?;
        entry.connect_failures = 0;
        entry.server_errors = 0;
        if matches!(entry.state, State::In { .. }) {
            return None;
        }
        entry.come_back(now_ms);
        Some(Change::Returned)
    }

    /// It failed.
    pub(super) fn failed(&mut self, pick: Pick, failure: Failure, now_ms: u64) -> Option<Change> {
        let (eject_min, eject_max) = (self.config.eject_min, self.config.eject_max);
        let limits = (self.config.connect_failures, self.config.server_errors);
        let entry = self.entry(pick.key).filter(|entry| entry.period == pick.period)?;
        let (count, limit) = match failure {
            Failure::Connect => (&mut entry.connect_failures, limits.0),
            Failure::Server => {
                // It took the connection.
                entry.connect_failures = 0;
                (&mut entry.server_errors, limits.1)
            }
        };
        *count = count.saturating_add(1);
        let ejects = match entry.state {
            State::In { .. } => limit > 0 && *count >= limit,
            State::Trial { .. } => true,
            // Used although it is ejected, in a panic: its time goes on.
            State::Out { .. } => false,
        };
        ejects.then(|| Change::Ejected(failure, entry.eject(now_ms, eject_min, eject_max)))
    }

    /// An active check has its result.
    pub(super) fn checked(&mut self, key: Key, healthy: bool, now_ms: u64) -> Option<Change> {
        let (fall, rise) = (self.config.check_fall.max(1), self.config.check_rise.max(1));
        let entry = self.entry(key)?;
        if healthy {
            entry.checks_failed = 0;
            entry.checks_passed = entry.checks_passed.saturating_add(1);
            if !entry.down || entry.checks_passed < rise {
                return None;
            }
            entry.down = false;
            entry.come_back(now_ms);
            return Some(Change::Up);
        }
        entry.checks_passed = 0;
        entry.checks_failed = entry.checks_failed.saturating_add(1);
        if entry.down || entry.checks_failed < fall {
            return None;
        }
        entry.down = true;
        Some(Change::Down)
    }

    pub(super) fn census(&self, now_ms: u64) -> Census {
        let out = |entry: &&Entry| !matches!(entry.state, State::In { .. });
        Census {
            addresses: self.entries.len(),
            ejected: self.entries.iter().filter(out).count(),
            down: self.entries.iter().filter(|entry| entry.down).count(),
            panic: !self.entries.is_empty() && !self.entries.iter().any(|e| e.may_be_used(now_ms)),
        }
    }

    fn entry(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }
}

impl Entry {
    fn new(key: Key, hash: u64, since_ms: Option<u64>, now_ms: u64) -> Entry {
        Entry {
            key,
            hash,
            outstanding: 0,
            state: State::In { since_ms },
            down: false,
            period: 0,
            connect_failures: 0,
            server_errors: 0,
            ejections: 0,
            returned_ms: now_ms,
            checks_failed: 0,
            checks_passed: 0,
        }
    }

    /// Whether a request may be sent there now.
    fn is_usable(&self, now_ms: u64) -> bool {
        self.may_be_used(now_ms) && !matches!(self.state, State::Trial { busy: true })
    }

    /// The same, whether or not a request tries it at this moment.
    fn may_be_used(&self, now_ms: u64) -> bool {
        !self.down && !matches!(self.state, State::Out { until_ms } if now_ms < until_ms)
    }

    /// Its share, up to [`WHOLE`].
    fn weight(&self, now_ms: u64, slow_start: Duration) -> u64 {
        let State::In { since_ms: Some(since_ms) } = self.state else { return WHOLE };
        let grown = WHOLE.saturating_mul(now_ms.saturating_sub(since_ms));
        (grown / ms(slow_start).max(1)).clamp(TENTH, WHOLE)
    }

    fn eject(&mut self, now_ms: u64, eject_min: Duration, eject_max: Duration) -> Duration {
        let in_use = matches!(self.state, State::In { .. });
        if in_use && now_ms.saturating_sub(self.returned_ms) >= ms(eject_max) {
            self.ejections = 0;
        }
        let doubled = eject_min.saturating_mul(1 << self.ejections.min(MAX_DOUBLINGS));
        let lasts = doubled.min(eject_max);
        self.ejections = self.ejections.saturating_add(1);
        self.next_period();
        self.state = State::Out { until_ms: now_ms.saturating_add(ms(lasts)) };
        lasts
    }

    fn come_back(&mut self, now_ms: u64) {
        self.next_period();
        self.returned_ms = now_ms;
        self.state = State::In { since_ms: Some(now_ms) };
    }

    fn next_period(&mut self) {
        self.period = self.period.wrapping_add(1);
        self.connect_failures = 0;
        self.server_errors = 0;
    }
}

/// By `sticky` where it is given, else the one of two with less to do.
fn choose<'e>(
    candidates: impl Iterator<Item = &'e mut Entry>,
    chance: &mut Chance<'_>,
    weight: impl Fn(&Entry) -> u64,
    sticky: Option<u64>,
) -> Option<&'e mut Entry> {
    if let Some(sticky) = sticky {
        return candidates.max_by_key(|entry| mixed(sticky ^ entry.hash));
    }
    // A sample of two by weight in one pass: the two largest of u^(1/w) (Efraimidis and Spirakis 2006).
    let mut first: Option<(f64, &mut Entry)> = None;
    let mut second: Option<(f64, &mut Entry)> = None;
    for entry in candidates {
        let drawn = chance.draw(weight(entry));
        if first.as_ref().is_none_or(|(most, _)| drawn > *most) {
            second = first.replace((drawn, entry));
        } else if second.as_ref().is_none_or(|(most, _)| drawn > *most) {
            second = Some((drawn, entry));
        }
    }
    match (first, second) {
        (Some((_, first)), Some((_, second))) => {
            Some(if second.outstanding < first.outstanding { second } else { first })
        }
        (first, _) => first.map(|(_, entry)| entry),
    }
}

/// Chances, drawn from a number (SplitMix64, Steele and others 2014).
struct Chance<'s>(&'s mut u64);

impl Chance<'_> {
    /// A uniform draw, to the power of [`WHOLE`] over the weight.
    #[expect(clippy::cast_precision_loss, reason = "a draw needs 53 bits, a weight fewer")]
    fn draw(&mut self, weight: u64) -> f64 {
        *self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let uniform = ((mixed(*self.0) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        if weight == WHOLE {
            return uniform;
        }
        uniform.powf(WHOLE as f64 / weight.max(1) as f64)
    }
}

/// The finalizer of SplitMix64.
fn mixed(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A hash that is the same in every process and release (FNV-1a, then mixed).
pub(super) fn stable_hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mixed(fnv)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
