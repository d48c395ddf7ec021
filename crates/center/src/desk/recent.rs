//! The last revisions, in the bytes that followers get.
//!
//! A follower holds a position (the revision it was last sent) and pulls what is after it. The
//! window is bounded; a follower that falls out of it catches up from the store. A delta is
//! encoded at most once for each set of followers that see the same part of it.
//!
//! INVARIANT: what is sent stays below `wire::MAX_DELTA_BYTES` and `wire::MAX_CHANGES`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use keepgate_policy::{Digest, Mark, Revision, proto};

use super::step::Step;
use crate::follow::frame;
use crate::store::ScopeRow;

/// Revisions in the window.
const WINDOW: usize = 1024;

/// Bytes of bodies in the window; the oldest revisions leave first.
const WINDOW_BYTES: usize = 64 << 20;

/// A delta carries a digest when its revision is a multiple of this.
pub(crate) const DIGEST_EVERY: u64 = 32;

/// A larger delta is not sent; its followers get a snapshot.
pub(crate) const DELTA_BYTES: usize = 2 << 20;

/// A delta of more changes is not sent either.
pub(crate) const DELTA_CHANGES: usize = 50_000;

/// What a follower follows; the directory is always part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every service.
    All,
    /// These services, sorted, without repetition.
    Services(Vec<String>),
}

impl Scope {
    /// As a Hello asks for it: no names mean all.
    pub fn of(mut services: Vec<String>) -> Scope {
        if services.is_empty() {
            return Scope::All;
        }
        services.sort();
        services.dedup();
        Scope::Services(services)
    }

    /// Whether items of this service (the directory if empty) belong to it.
    pub fn covers(&self, service: &str) -> bool {
        service.is_empty()
            || match self {
                Scope::All => true,
                Scope::Services(names) => names.iter().any(|name| name == service),
            }
    }
}

/// One revision that landed.
#[derive(Debug)]
pub struct Landed {
    /// The revision before.
    pub previous: Revision,
    /// The revision.
    pub revision: Revision,
    mark: Mark,
    /// The services in which it put what release 0.1 does not understand.
    newer: Vec<String>,
    scopes: Arc<BTreeMap<String, ScopeRow>>,
    parts: Vec<(String, Vec<proto::Change>)>,
    bytes: usize,
    /// Nothing of it is kept: its followers get a snapshot.
    is_large: bool,
    frames: Mutex<HashMap<FrameKey, Bytes>>,
}

/// Followers with equal keys get the same bytes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FrameKey {
    /// For each part, whether it is seen.
    seen: Vec<bool>,
    /// The digest, where this revision carries one.
    digest: Option<Digest>,
}

impl Landed {
    pub(super) fn new(
        previous: Revision,
        mark: Mark,
        steps: &[Step],
        scopes: Arc<BTreeMap<String, ScopeRow>>,
    ) -> Landed {
        let mut newer = Vec::new();
        let mut parts: Vec<(String, Vec<proto::Change>)> = Vec::new();
        let bytes = |step: &Step| {
            step.after.as_ref().map_or(0, |after| after.body.len()) + step.key.id.len() + 64
        };
        let mut bytes: usize = steps.iter().map(bytes).sum();
        let is_large = bytes > DELTA_BYTES || steps.len() > DELTA_CHANGES;
        if is_large {
            bytes = 0;
        }
        for step in steps {
            let needs = step.after.as_ref().map_or(1, |after| after.needs);
            if needs > 1 && newer.last() != Some(&step.key.service) {
                newer.push(step.key.service.clone());
            }
            if is_large {
                continue;
            }
            let body = step.after.as_ref().map(|after| after.body.clone());
            let change = frame::change(&step.key, body, needs);
            match parts.last_mut() {
                Some((service, changes)) if *service == step.key.service => changes.push(change),
                _ => parts.push((step.key.service.clone(), vec![change])),
            }
        }
        let revision = mark.revision;
        let frames = Mutex::default();
        Landed { previous, revision, mark, newer, scopes, parts, bytes, is_large, frames }
    }

    /// Whether followers of this scope must understand more than release 0.1 did.
    pub(crate) fn is_newer(&self, scope: &Scope) -> bool {
        self.newer.iter().any(|service| scope.covers(service))
    }

    /// The encoded delta for followers of this scope; none: too large, take a snapshot.
    pub fn frame(&self, scope: &Scope) -> Option<Bytes> {
        if self.is_large {
            return None;
        }
        let seen: Vec<bool> = self.parts.iter().map(|(service, _)| scope.covers(service)).collect();
        let digest = self
            .revision
            .0
            .is_multiple_of(DIGEST_EVERY)
            .then(|| super::digest_of(&self.scopes, scope));
        let key = FrameKey { seen, digest };
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = frames.get(&key) {
            return Some(bytes.clone());
        }
        let changes: Vec<proto::Change> = self
            .parts
            .iter()
            .zip(&key.seen)
            .filter(|(_, seen)| **seen)
            .flat_map(|((_, changes), _)| changes.iter().cloned())
            .collect();
        let bytes = frame::delta(self.previous, &self.mark, changes, digest);
        frames.insert(key, bytes.clone());
        Some(bytes)
    }
}

/// What [`Recent::since`] found.
#[derive(Debug)]
pub enum Since {
    /// These revisions, in order, each following the one before; empty: nothing new.
    Landed(Vec<Arc<Landed>>),
    /// The window begins later, or the position is not in it.
    Behind,
}

/// See the module.
#[derive(Debug)]
pub struct Recent {
    window: RwLock<Window>,
}

#[derive(Debug)]
struct Window {
    head: Revision,
    bytes: usize,
    landed: VecDeque<Arc<Landed>>,
}

impl Recent {
    pub(super) fn new(head: Revision) -> Recent {
        Recent { window: RwLock::new(Window { head, bytes: 0, landed: VecDeque::new() }) }
    }

    pub(super) fn push(&self, landed: Landed) {
        let mut window = self.window.write().unwrap_or_else(PoisonError::into_inner);
        window.head = landed.revision;
        window.bytes += landed.bytes;
        window.landed.push_back(Arc::new(landed));
        while window.landed.len() > WINDOW
            || (window.bytes > WINDOW_BYTES && window.landed.len() > 1)
        {
            if let Some(old) = window.landed.pop_front() {
                window.bytes -= old.bytes;
            }
        }
    }

    /// Forgets all: a state was published that does not follow from them.
    pub(super) fn restart(&self, head: Revision) {
        let mut window = self.window.write().unwrap_or_else(PoisonError::into_inner);
        *window = Window { head, bytes: 0, landed: VecDeque::new() };
    }

    /// The revisions after `position`, at most `limit`. A position beyond the head, which a follower
    /// may have from the store, has nothing after it yet.
    pub fn since(&self, position: Revision, limit: usize) -> Since {
        let window = self.window.read().unwrap_or_else(PoisonError::into_inner);
        if position >= window.head {
            return Since::Landed(Vec::new());
        }
        // Revisions may jump: what follows the position is the one that says so.
        let skip = window.landed.partition_point(|landed| landed.previous < position);
        if window.landed.get(skip).is_none_or(|landed| landed.previous != position) {
            return Since::Behind;
        }
        Since::Landed(window.landed.iter().skip(skip).take(limit).cloned().collect())
    }
}
