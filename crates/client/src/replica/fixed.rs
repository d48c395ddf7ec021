//! A replica without a center, for tests of those who embed one.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use keepgate_policy::{Revision, World};
use tokio::sync::{Notify, watch};

use super::age::{Clock, Currency};
use super::mason::Mason;
use super::metrics::Counters;
use super::received::Received;
use super::renewal::Renewal;
use super::time::{Boot, TimeSource};
use super::{Published, Replica, Shared, Standing};
use crate::dial::{DialConfig, Dialer};

/// Time that does not pass.
#[derive(Debug)]
struct Still;

/// Far enough from zero for any age.
const NOW_NS: i64 = i64::MAX / 2;

impl TimeSource for Still {
    fn boottime_ns(&self) -> i64 {
        NOW_NS
    }

    fn realtime_ns(&self) -> i64 {
        NOW_NS
    }

    fn boot(&self) -> Boot {
        Boot::default()
    }
}

impl Replica {
    /// A replica of this world that is, and stays, this old. It follows nobody and needs no runtime:
    /// for the tests of a program that embeds a replica, where every bound and both answers can be
    /// tried.
    pub fn fixed(world: World, age: Duration) -> Replica {
        let clock = Clock::new(Arc::new(Still));
        let currency = Currency::new(Some(clock.ago(age)));
        let revision = world.revision();
        let published = Published {
            state: Received::of(world),
            received: true,
            currency,
            ..Published::default()
        };
        let shared = Arc::new(Shared {
            published: Arc::new(ArcSwap::from_pointee(published)),
            clock,
            counters: Counters::default(),
            revision: watch::Sender::new(Revision(0)),
            activity: watch::Sender::new(super::Activities::default()),
            assertion_keys: watch::Sender::new(Arc::default()),
            log_position: watch::Sender::new(None),
            log_anchor: ArcSwapOption::empty(),
            questions: super::Questions::default(),
            figures: super::figures::Untold::default(),
            assertion_kids: ArcSwap::default(),
            dialer: Dialer::new(DialConfig::default()),
            place: ArcSwapOption::empty(),
            centers: Vec::new(),
            standing: ArcSwap::from_pointee(Standing::Following),
            lineage: ArcSwap::default(),
            error: ArcSwapOption::empty(),
            current: Notify::new(),
            renewal: Renewal::default(),
            services: Vec::new(),
            mason: Mason::default(),
            runtime: None,
        });
        shared.revision.send_replace(revision);
        // Nobody is to be waited for.
        let (_, ended) = watch::channel(());
        Replica { shared, alive: Arc::new(watch::Sender::new(())), ended }
    }
}
