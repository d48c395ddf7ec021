//! What a replica did and does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keepgate_observe::Counter;
use keepgate_policy::Revision;

use super::standing::Standing;
use crate::dial::{DialCounters, DialOutcome};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the start, and gauges of this moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ReplicaMetrics {
            /// The published revision.
            pub revision: Revision,
            /// The newest revision that the center has told of.
            pub head: Revision,
            /// Time since the replica was last known to be current; none: never, or unknown.
            pub age: Option<Duration>,
            /// Whether the connection to the center is up.
            pub connected: bool,
            /// Whether the last center that was heard is not followed.
            pub foreign: bool,
            /// Services that need a newer release of this replica.
            pub held_back: u64,
            /// Connections opened to the center.
            pub connections_opened: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            head: AtomicU64,
            connected: AtomicBool,
            held_back: AtomicU64,
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn read(
                &self,
                revision: Revision,
                age: Option<Duration>,
                standing: &Standing,
                dials: &DialCounters,
            ) -> ReplicaMetrics {
                ReplicaMetrics {
                    revision,
                    head: Revision(self.head.load(Ordering::Relaxed)),
                    age,
                    connected: self.connected(),
                    foreign: matches!(standing, Standing::Foreign(_)),
                    held_back: self.held_back.load(Ordering::Relaxed),
                    connections_opened: dials.of(DialOutcome::Connected),
                    $($name: self.$name.value(),)*
                }
            }
        }
    };
}

metrics! {
    /// Follow streams begun; more than one on a connection after a resync.
    streams,
    /// Connections to the center that failed or ended.
    disconnects,
    /// Times that it went on to follow another center, or another address of one.
    moves,
    /// Connections given up because the center said nothing.
    silences,
    /// Answers of the center that this token may not follow.
    refusals,
    /// Heartbeats received.
    heartbeats,
    /// Snapshots published.
    snapshots,
    /// ALARM: snapshots that did not decode, did not add up or could not become a world.
    snapshots_rejected,
    /// Deltas published.
    deltas,
    /// ALARM: deltas that did not decode, did not add up or could not be applied.
    deltas_rejected,
    /// Deltas that did not follow the revision held.
    gaps,
    /// Streams begun anew on the same connection.
    resyncs,
    /// ALARM: times that a center was not followed: its head is behind what is held, or it is of
    /// another history.
    regressions,
    /// Times that a center of release 0.1 was not followed.
    old_centers,
    /// Files in the data directory that were corrupt and ignored.
    disk_rejected,
    /// Writes to the data directory that failed.
    disk_failures,
}

impl Counters {
    pub(super) fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(super) fn set_held_back(&self, services: usize) {
        self.held_back.store(services as u64, Ordering::Relaxed);
    }

    pub(super) fn set_head(&self, head: Revision) {
        self.head.store(head.0, Ordering::Relaxed);
    }
}
