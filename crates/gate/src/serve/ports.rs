//! The gate's own ports: how its connections are opened, by purpose, and how its buckets stood when
//! they were looked at last. `doctor` looks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keepgate_client::dial::{DialConfig, DialOutcome, Dialer};
use keepgate_client::pool::{Bucket, PortWatch};
use keepgate_observe::{Counter, Page, Sort, chain};

use crate::observe::ports::{BucketSeen, DialsOf, PortsAnswer, UpstreamPorts};
use crate::phase::worker::Backend;

/// Dials without a port that wait to be looked into; of more, only the number is kept.
const EVENTS: usize = 16;
/// How long a connection to the center may take to open.
const CENTER_TIMEOUT: Duration = Duration::from_secs(2);

macro_rules! purposes {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// For what the gate opens connections. The label is the metric's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Purpose { $($(#[$doc])* $name,)* }

        impl Purpose {
            const ALL: &[Purpose] = &[$(Purpose::$name,)*];

            fn label(self) -> &'static str {
                match self { $(Purpose::$name => $label,)* }
            }
        }

        /// A dialer for each purpose.
        #[expect(non_snake_case, reason = "one field a purpose, named like it")]
        struct Dialers { $($name: Dialer,)* }

        impl Dialers {
            fn of(&self, purpose: Purpose) -> &Dialer {
                match purpose { $(Purpose::$name => &self.$name,)* }
            }
        }
    };
}

purposes! {
    /// Requests.
    Upstream = "upstream",
    /// Following a center. Two ports are set aside for it.
    Center = "center",
    /// Key sets of issuers.
    Keys = "keys",
    /// Introspection of tokens.
    Introspection = "introspection",
    /// Certificates toward callers.
    Certificates = "certificates",
}

/// See the module.
pub(crate) struct Ports {
    dialers: Dialers,
    events: Mutex<Option<Receiver<Exhausted>>>,
    seen: Mutex<Seen>,
    looks: Counter,
    looks_failed: Counter,
    pub(super) reports: Counter,
}

/// A dial that found no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted {
    pub(super) src: Option<IpAddr>,
    pub(super) dst: SocketAddr,
}

/// What the last look saw, by upstream.
#[derive(Default)]
struct Seen {
    took: Option<Duration>,
    upstreams: HashMap<String, OfUpstream>,
}

#[derive(Clone, Default)]
struct OfUpstream {
    buckets: Vec<Bucket>,
    /// When it was looked at, and how many connections had been opened then.
    opened: Option<(Instant, u64)>,
    opens_per_s: Option<f64>,
}

impl Ports {
    pub(crate) fn new() -> Ports {
        let (sender, events) = sync_channel(EVENTS);
        let base = Dialer::telling(DialConfig::default(), on_exhausted(sender));
        let dialers = Dialers {
            Center: base.apart_within(CENTER_TIMEOUT).setting_ports_aside(),
            Keys: base.apart(),
            Introspection: base.apart(),
            Certificates: base.apart(),
            Upstream: base,
        };
        Ports {
            dialers,
            events: Mutex::new(Some(events)),
            seen: Mutex::default(),
            looks: Counter::default(),
            looks_failed: Counter::default(),
            reports: Counter::default(),
        }
    }

    /// What opens connections for this purpose.
    pub(crate) fn dialer(&self, purpose: Purpose) -> &Dialer {
        self.dialers.of(purpose)
    }

    fn exhausted(&self) -> u64 {
        let of = |purpose: &Purpose| self.dialer(*purpose).counters();
        Purpose::ALL.iter().map(|p| of(p).of(DialOutcome::PortsExhausted)).sum()
    }

    /// Dials without a port, as they happen; for one taker.
    pub(super) fn events(&self) -> Option<Receiver<Exhausted>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// One look at the buckets of these upstreams.
    pub(super) fn look(&self, watch: &mut PortWatch, backends: &[Arc<Backend>]) {
        let mut names = Vec::new();
        let mut all = Vec::new();
        for backend in backends {
            for address in backend.upstream.addresses() {
                names.push(backend.name.as_str());
                all.push(address);
            }
        }
        let began = Instant::now();
        let looked = watch.look(&all);
        let took = began.elapsed();
        self.looks.add(1);
        let each = match looked {
            Ok(each) => each,
            Err(error) => {
                self.looks_failed.add(1);
                if self.looks_failed.value() == 1 {
                    tracing::warn!(
                        error = chain(&error),
                        "the gate cannot see its own ports: it opens connections until the kernel refuses"
                    );
                }
                Vec::new()
            }
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut seen.upstreams);
        seen.took = Some(took);
        for backend in backends {
            let opened = backend.upstream.stats().all.opened;
            let last = before.get(&backend.name).and_then(|one| one.opened);
            let one = seen.upstreams.entry(backend.name.clone()).or_default();
            one.opened = Some((began, opened));
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = |(then, before): (Instant, u64)| {
                let elapsed = began.saturating_duration_since(then).as_secs_f64();
                opened.saturating_sub(before) as f64 / elapsed.max(0.001)
            };
            one.opens_per_s = last.map(rate);
        }
        for (name, buckets) in names.into_iter().zip(each) {
            if let Some(one) = seen.upstreams.get_mut(name) {
                one.buckets.extend(buckets);
            }
        }
    }

    /// The body of `/ports`.
    pub(crate) fn answer(&self, backends: &[Arc<Backend>]) -> PortsAnswer {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let upstreams = backends.iter().map(|backend| {
            let all = backend.upstream.stats().all;
            let one = seen.upstreams.get(&backend.name).cloned().unwrap_or_default();
            UpstreamPorts {
                upstream: backend.name.clone(),
                requests: all.requests,
                reused: all.reused,
                opened: all.opened,
                opens_per_s: one.opens_per_s,
                open: wide(all.open),
                idle: wide(all.idle),
                limit: wide(all.limit),
                waiting: wide(all.waiting),
                buckets: one.buckets.iter().map(shown).collect(),
            }
        });
        let dials = Purpose::ALL.iter().map(|purpose| {
            let counters = self.dialer(*purpose).counters();
            let (connected, aside) =
                (counters.of(DialOutcome::Connected), counters.of(DialOutcome::ConnectedAside));
            let all: u64 = DialOutcome::ALL.iter().map(|outcome| counters.of(*outcome)).sum();
            let given_up = counters.of(DialOutcome::Abandoned);
            DialsOf {
                purpose: purpose.label().to_owned(),
                connected: connected + aside,
                aside,
                ports_exhausted: counters.of(DialOutcome::PortsExhausted),
                failed: all.saturating_sub(connected + aside + given_up),
            }
        });
        PortsAnswer {
            now_unix_ms: keepgate_observe::unix_ms(),
            look_us: seen.took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            exhausted: self.exhausted(),
            upstreams: upstreams.collect(),
            dials: dials.collect(),
        }
    }

    /// Of the last look, what these upstreams have: another file may be in force since.
    pub(crate) fn metrics(&self, backends: &[Arc<Backend>], page: &mut Page) {
        let help = "Connections that the gate opened or tried to open, by purpose and outcome.";
        let mut series = page.metric(Sort::Counter, "dials_total", help);
        for purpose in Purpose::ALL {
            let counters = self.dialer(*purpose).counters();
            for outcome in DialOutcome::ALL {
                let n = counters.of(*outcome);
                if n > 0 || *outcome == DialOutcome::Connected {
                    let labels = [("purpose", purpose.label()), ("outcome", outcome.label())];
                    series.line(&labels, n);
                }
            }
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<(&String, &OfUpstream)> =
            backends.iter().filter_map(|b| seen.upstreams.get_key_value(&b.name)).collect();
        all.sort_by_key(|(name, _)| *name);
        type Row = (&'static str, &'static str, fn(&Bucket) -> u32);
        const ROWS: [Row; 3] = [
            ("upstream_ports_usable", "Ports that exist toward the upstream's addresses.", |b| {
                b.usable
            }),
            ("upstream_ports_free", "Of these, free.", |b| b.free),
            ("upstream_ports_reserve", "Of the free ones, how many the gate leaves alone.", |b| {
                b.reserve.min(b.free)
            }),
        ];
        for (name, help, of) in ROWS {
            let mut series = page.metric(Sort::Gauge, name, help);
            for (upstream, one) in all.iter().filter(|(_, one)| !one.buckets.is_empty()) {
                let label = [("upstream", upstream.as_str())];
                let sum: u64 = one.buckets.iter().map(|bucket| u64::from(of(bucket))).sum();
                series.line(if upstream.is_empty() { &[] } else { &label }, sum);
            }
        }
        let help = "How long the last look at the gate's ports took; 0: there was none yet.";
        let took = seen.took.unwrap_or_default();
        drop(seen);
        let took = format_args!("{:.6}", took.as_secs_f64());
        page.value(Sort::Gauge, "port_look_seconds", help, took);
        for (name, help, value) in [
            ("port_looks_total", "Looks at the gate's ports.", self.looks.value()),
            ("port_looks_failed_total", "Of these, that saw nothing.", self.looks_failed.value()),
            (
                "ports_exhausted_total",
                "Dials for any purpose that found no free port.",
                self.exhausted(),
            ),
            (
                "port_reports_total",
                "Reports that say who holds the ports, written to the log and the data directory.",
                self.reports.value(),
            ),
        ] {
            page.value(Sort::Counter, name, help, value);
        }
    }
}

fn shown(bucket: &Bucket) -> BucketSeen {
    let Bucket { src, dst, usable, free, reserve } = *bucket;
    BucketSeen { src, dst, usable, free, reserve }
}

/// The queue is short and the thread may be busy: then one that is left out is a number in the metrics.
fn on_exhausted(
    events: SyncSender<Exhausted>,
) -> Arc<dyn Fn(Option<IpAddr>, SocketAddr) + Send + Sync> {
    Arc::new(move |src, dst| {
        let _ = events.try_send(Exhausted { src, dst });
    })
}
