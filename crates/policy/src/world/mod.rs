//! The indexed world at one revision.
//!
//! Entities and policies are held compactly: identifiers are interned (`names`), an entity is
//! its parents and, where it has any, attributes (`layer`), policies are found by scope
//! (`index`), and only conditions run in Cedar's evaluator (`conditions`). All tables are
//! persistent (`trie`, `paged`), so a world is changed by copying the few pages that a delta
//! touches, and published by swapping one pointer.
//!
//! INVARIANT: a decision is the one that `cedar_policy::Authorizer` gives on the same policies
//! and entities: effect, determining policies and errors. The oracle test holds it.

mod access;
mod children;
mod circle;
mod closure;
mod conditions;
mod decide;
mod ends;
mod explain;
mod index;
mod layer;
mod names;
mod naming;
mod paged;
mod part;
mod path;
mod prepared;
mod principals;
mod reads;
mod resolved;
mod retired;
mod shortlist;
mod trie;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use keepgate_limit::rules::{Limits, NamedPlan, Rule};

use self::children::Kept;
use self::names::Names;
use self::part::{Body, Moved, Part};
use crate::digest::Digest;
use crate::limits::limits_of;
use crate::model::{Change, Delta, Item, ItemKey, KeyBody, Kind, Revision, Snapshot};
use crate::route::Route;
use crate::service::ServiceSettings;

pub use self::access::{
    Access, Cursor, Found, Given, Holding, InRole, MAX_ACTIONS, MAX_NAMED, WhoCan, Whom,
};
pub use self::circle::Circle;
pub use self::conditions::Seen;
pub use self::explain::{Determining, Explanation, NearMiss, PolicyText};
pub use self::naming::Naming;
pub use self::part::member_key;
pub use self::path::PathStep;
pub use self::prepared::Prepared;
pub use self::principals::Principals;
pub use self::reads::{Named, Reads};
pub(crate) use self::resolved::Handles;
pub use self::resolved::Resolved;
pub use self::retired::Retired;

/// An immutable, indexed state; a clone is cheap and shares everything.
#[derive(Clone, Default)]
pub struct World {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    revision: Revision,
    digest: Digest,
    names: Names,
    directory: Arc<Part>,
    services: BTreeMap<Arc<str>, Arc<Part>>,
    /// Who is below whom, where somebody has asked.
    children: Arc<Kept>,
}

impl Default for Inner {
    fn default() -> Self {
        Inner {
            revision: Revision::default(),
            digest: Digest::default(),
            names: Names::default(),
            directory: Arc::new(Part::new("")),
            services: BTreeMap::new(),
            children: Arc::default(),
        }
    }
}

/// A snapshot or delta that cannot become a world; the old world stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// The delta does not follow this revision.
    #[error("delta follows revision {expected}, the world is at {held}")]
    Gap {
        /// The delta's `previous`.
        expected: Revision,
        /// The world's revision.
        held: Revision,
    },
    /// The state after it has another digest than the center's.
    #[error("digest differs from the center's at revision {0}")]
    Digest(Revision),
    /// An item does not parse.
    #[error("{key}: {reason}")]
    Item {
        /// The item's kind and id.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

impl World {
    /// Builds the world of a snapshot.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<World, WorldError> {
        World::from_items(snapshot.revision, snapshot.digest, &snapshot.items)
    }

    /// Builds a world item by item, so that they need not be in memory all at once.
    pub fn from_items<I>(revision: Revision, digest: Digest, items: I) -> Result<World, WorldError>
    where
        I: IntoIterator,
        I::Item: std::borrow::Borrow<Item>,
    {
        let mut builder = Builder::new(revision);
        for item in items {
            let item = std::borrow::Borrow::borrow(&item);
            builder.put(item, Digest::of(item))?;
        }
        builder.finish(Some(digest))
    }

    /// The world after a delta; `self` is untouched and shares what did not change.
    pub fn apply(&self, delta: &Delta) -> Result<World, WorldError> {
        if delta.previous != self.inner.revision {
            return Err(WorldError::Gap { expected: delta.previous, held: self.inner.revision });
        }
        let mut inner = Inner::clone(&self.inner);
        inner.revision = delta.revision;
        for change in &delta.changes {
            match change {
                Change::Put(item) => inner.put(item, Digest::of(item))?,
                Change::Delete(key) => inner.delete(key)?,
            }
        }
        inner.finish(delta.digest)
    }

    /// The world after these changes, at this revision; each comes with the digest of what it puts, so
    /// that it need not be computed again. The first error that a change is ends it.
    pub fn changed<E: From<WorldError>>(
        &self,
        revision: Revision,
        changes: impl IntoIterator<Item = Result<(Change, Digest), E>>,
    ) -> Result<World, E> {
        let mut inner = Inner::clone(&self.inner);
        inner.revision = revision;
        for change in changes {
            match change? {
                (Change::Put(item), digest) => inner.put(&item, digest)?,
                (Change::Delete(key), _) => inner.delete(&key)?,
            }
        }
        Ok(inner.finish(None)?)
    }

    /// The revision it shows.
    pub fn revision(&self) -> Revision {
        self.inner.revision
    }

    /// The digest of all its items.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// What it holds of an item: its digest, and the lowest format that understands it (see
    /// [`Item::needs`]). None: it holds no such item.
    pub fn held(&self, key: &ItemKey) -> Option<(Digest, u32)> {
        let part = match key.service.as_str() {
            "" => &self.inner.directory,
            name => self.inner.services.get(name)?,
        };
        part.held(&self.inner.names, key)
    }

    /// How many identifiers it holds, those only referred to included.
    pub fn interned(&self) -> usize {
        self.inner.names.len()
    }

    /// A service, if the world holds anything of it.
    pub fn service(&self, name: &str) -> Option<ServiceView<'_>> {
        self.inner.services.get(name).map(|part| ServiceView { part })
    }

    /// Whether all that decisions of this service depend on is certainly the same in both worlds. Only
    /// worlds that came from each other by deltas share anything: of others it is false.
    pub fn decides_as(&self, other: &World, service: &str) -> bool {
        let part = |world: &World| world.inner.services.get(service).map(Arc::as_ptr);
        Arc::ptr_eq(&self.inner.directory, &other.inner.directory) && part(self) == part(other)
    }

    /// Whether what this service decides depends on the time: some grant of it, or some membership,
    /// ends or has ended.
    pub fn depends_on_time(&self, service: &str) -> bool {
        self.ends(service).any(Part::has_ends)
    }

    /// The first time after this one at which what this service decides may change by itself; both
    /// in seconds since the Unix epoch. None: it does not.
    pub fn next_end(&self, service: &str, now_unix_s: u64) -> Option<u64> {
        self.ends(service).filter_map(|part| part.ends.after(now_unix_s)).min()
    }

    /// The last time up to this one at which it may have. None: it did not.
    pub fn last_end(&self, service: &str, now_unix_s: u64) -> Option<u64> {
        self.ends(service).filter_map(|part| part.ends.until(now_unix_s)).max()
    }

    /// What may end of what a service decides with.
    fn ends(&self, service: &str) -> impl Iterator<Item = &Part> {
        std::iter::once(&*self.inner.directory).chain(self.part_of(service).ok())
    }

    /// The names of all services, sorted.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.inner.services.keys().map(|name| &**name)
    }
}

/// A world that is made item by item, by one who has no list of them.
pub struct Builder {
    inner: Inner,
}

impl Builder {
    /// Of the world at this revision, empty so far.
    pub fn new(revision: Revision) -> Builder {
        Builder { inner: Inner { revision, ..Inner::default() } }
    }

    /// Adds an item of this digest; one of the same key before it is replaced.
    pub fn put(&mut self, item: &Item, digest: Digest) -> Result<(), WorldError> {
        self.inner.put(item, digest)
    }

    /// The world, if its items sum up to this digest; none: that is not asked.
    pub fn finish(self, digest: Option<Digest>) -> Result<World, WorldError> {
        self.inner.finish(digest)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("names", &self.inner.names.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("revision", &self.inner.revision.0)
            .field("services", &self.inner.services.keys())
            .field("names", &self.inner.names.len())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn put(&mut self, item: &Item, digest: Digest) -> Result<(), WorldError> {
        item.check_key().map_err(|e| broken(&item.key, e.to_string()))?;
        let part = match item.key.service.as_str() {
            "" => &mut self.directory,
            // A second look-up beats an allocation for each of a million items.
            name if self.services.contains_key(name) => match self.services.get_mut(name) {
                Some(part) => part,
                None => return Ok(()),
            },
            name => self.services.entry(name.into()).or_insert_with(|| Arc::new(Part::new(name))),
        };
        let moved = Arc::make_mut(part)
            .put(&mut self.names, item, digest)
            .map_err(|reason| broken(&item.key, reason))?;
        self.moved(moved);
        Ok(())
    }

    fn delete(&mut self, key: &ItemKey) -> Result<(), WorldError> {
        let part = match key.service.as_str() {
            "" => &mut self.directory,
            name => match self.services.get_mut(name) {
                Some(part) => part,
                None => return Ok(()),
            },
        };
        let part = Arc::make_mut(part);
        let moved = part.delete(&mut self.names, key).map_err(|reason| broken(key, reason))?;
        if part.len == 0 {
            self.services.remove(key.service.as_str());
        }
        self.moved(moved);
        Ok(())
    }

    fn moved(&mut self, moved: Moved) {
        self.digest = self.digest.plus(moved.plus).minus(moved.minus.unwrap_or_default());
    }

    fn finish(mut self, digest: Option<Digest>) -> Result<World, WorldError> {
        for (service, part) in &mut self.services {
            if let Some((link, template)) = part.waiting.first_key_value() {
                return Err(WorldError::Item {
                    key: ItemKey::link(service, link).to_string(),
                    reason: format!("its template `{template}` does not exist"),
                });
            }
            if part.is_stale() {
                Arc::make_mut(part).refresh();
            }
        }
        if digest.is_some_and(|digest| digest != self.digest) {
            return Err(WorldError::Digest(self.revision));
        }
        Ok(World { inner: Arc::new(self) })
    }
}

fn broken(key: &ItemKey, reason: String) -> WorldError {
    WorldError::Item { key: key.to_string(), reason }
}

/// What a gate reads of a service besides decisions.
#[derive(Clone, Copy)]
pub struct ServiceView<'a> {
    part: &'a Part,
}

impl<'a> ServiceView<'a> {
    /// The settings; the defaults where the service has none stored.
    pub fn settings(&self) -> &'a Arc<ServiceSettings> {
        &self.part.settings
    }

    /// The routes in key order; the same pointer as long as no route changes.
    pub fn routes(&self) -> &'a Arc<[Route]> {
        &self.part.routes
    }

    /// The API key of this prefix.
    pub fn key(&self, prefix: &str) -> Option<&'a KeyBody> {
        match &self.part.stored(Kind::Key, prefix)?.body {
            Body::Key(key) => Some(key),
            _ => None,
        }
    }

    /// The rate-limit rules in key order; the same pointer as long as none changes.
    pub fn rules(&self) -> &'a Arc<[Rule]> {
        &self.part.rules
    }

    /// The plans in key order; the same pointer as long as none changes.
    pub fn plans(&self) -> &'a Arc<[NamedPlan]> {
        &self.part.plans
    }

    /// The service's limits as a whole.
    pub fn limits(&self) -> Limits {
        limits_of(Some(self.settings()), self.rules().iter(), self.plans().iter())
    }

    /// How many grants have an end, whether it has come or not.
    pub fn ending_grants(&self) -> usize {
        self.part.ends.len()
    }

    /// The next end of one of its grants after this time; both in seconds since the Unix epoch.
    pub fn next_end(&self, now_unix_s: u64) -> Option<u64> {
        self.part.ends.after(now_unix_s)
    }

    /// How many policies, links and grants decide.
    pub fn policy_count(&self) -> usize {
        self.part.index.len()
    }

    /// Whether the service has a schema.
    pub fn has_schema(&self) -> bool {
        self.part.schema.is_some()
    }
}
