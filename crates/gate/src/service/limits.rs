//! The limits in force: the service's rules and plans compiled, shared by all workers.
//!
//! Workers see a new world at different moments; those that see the same limits share one
//! [`Limiter`], and a new one takes over the states of all rules that did not change.
//!
//! It knows no request; the phases `limit_address` and `limit_principal` ask it.
//!
//! INVARIANT: a service is never unlimited by accident. Limits that do not compile change nothing:
//! those before them stay in force, and where there are none, the defaults.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use keepgate_limit::rules::RouteCost;
use keepgate_limit::top::{ENTRIES, Top};
use keepgate_limit::{Limiter, Limits, Nanos, RuleError, Seed, ServiceFacts};
use keepgate_observe::chain;
use keepgate_policy::route::Route;
use keepgate_policy::world::ServiceView;

/// Heavy hitters are those of the current window and the one before.
const TOP_WINDOW: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Limiting {
    seed: Seed,
    /// Where [`Limiting::now`] counts from.
    origin: Instant,
    held: Mutex<Held>,
    broken: AtomicBool,
    pub(crate) top: Top,
}

#[derive(Default)]
struct Held {
    last: Option<Arc<InForce>>,
    /// What workers still use; at most one a worker, and the last.
    in_use: Vec<Weak<InForce>>,
}

/// The limits of one version of the service.
pub(crate) struct InForce {
    asked: Asked,
    /// What `limiter` was compiled from.
    pub(crate) limits: Arc<Limits>,
    pub(crate) limiter: Arc<Limiter>,
    broken: bool,
}

/// All that limits are made of.
#[derive(Clone, PartialEq)]
struct Asked {
    limits: Arc<Limits>,
    /// What the service's routes cost.
    costs: Vec<RouteCost>,
}

/// Why limits are not in force.
#[derive(Debug, thiserror::Error)]
#[error("the limits contradict each other")]
struct BrokenLimits(#[source] RuleError);

impl Limiting {
    /// For so many workers. The seed of its hashes is random.
    pub(crate) fn new(workers: usize) -> Limiting {
        let random = || RandomState::new().build_hasher().finish().to_le_bytes();
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(random().into_iter().chain(random())) {
            *to = from;
        }
        let seed = Seed::new(bytes);
        Limiting {
            seed,
            origin: Instant::now(),
            held: Mutex::default(),
            broken: AtomicBool::new(false),
            top: Top::new(seed, workers, ENTRIES, TOP_WINDOW),
        }
    }

    /// The moment on the clock of the limits, which never goes back.
    pub(crate) fn now(&self) -> Nanos {
        Nanos::since_origin(self.origin.elapsed())
    }

    /// Whether the limits that were seen last are not in force.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The limits that were seen last.
    pub(crate) fn last(&self) -> Option<Arc<InForce>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    /// The limits of a service as this view has it; none only if not even the defaults compile.
    pub(crate) fn of(&self, view: &ServiceView<'_>) -> Option<Arc<InForce>> {
        let asked = Asked::of(view);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.in_use.retain(|used| used.strong_count() > 0);
        // Workers may look at different revisions for a moment, and must not take turns in
        // replacing each other's.
        // What stood in for broken limits once is not what stands in for them now.
        let last = held.last.clone().filter(|last| last.asked == asked);
        let same = || {
            let mut used = held.in_use.iter().filter_map(Weak::upgrade);
            used.find(|used| !used.broken && used.asked == asked)
        };
        let found = match last.or_else(same) {
            Some(same) => same,
            None => {
                let made = Arc::new(self.compile(asked, held.last.as_deref())?);
                held.in_use.push(Arc::downgrade(&made));
                made
            }
        };
        self.broken.store(found.broken, Ordering::Relaxed);
        held.last = Some(Arc::clone(&found));
        Some(found)
    }

    fn compile(&self, asked: Asked, before: Option<&InForce>) -> Option<InForce> {
        let previous = before.map(|before| &*before.limiter);
        let facts = ServiceFacts { costs: &asked.costs, ..ServiceFacts::default() };
        let compile = |limits: &Limits| Limiter::compile(limits, &facts, self.seed, previous);
        let error = match compile(&asked.limits) {
            Ok(limiter) => {
                let (limits, limiter) = (Arc::clone(&asked.limits), Arc::new(limiter));
                return Some(InForce { asked, limits, limiter, broken: false });
            }
            Err(error) => chain(&BrokenLimits(error)),
        };
        if let Some(before) = before {
            tracing::error!(error, "the limits cannot be used; those before them stay in force");
            let (limits, limiter) = (Arc::clone(&before.limits), Arc::clone(&before.limiter));
            return Some(InForce { asked, limits, limiter, broken: true });
        }
        tracing::error!(error, "the limits cannot be used; the default ones are in force");
        let limits = Limits::default();
        match compile(&limits) {
            Ok(limiter) => {
                let (limits, limiter) = (Arc::new(limits), Arc::new(limiter));
                Some(InForce { asked, limits, limiter, broken: true })
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "not even the default limits can be used");
                None
            }
        }
    }
}

impl Asked {
    fn of(view: &ServiceView<'_>) -> Asked {
        let mut costs: Vec<RouteCost> = view.routes().iter().filter_map(Route::cost).collect();
        // The first that matches counts: those for one method before those for all.
        costs.sort_by_key(|cost| cost.methods.is_empty());
        Asked { limits: Arc::new(view.limits()), costs }
    }
}
