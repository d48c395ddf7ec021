//! The addresses of an upstream as they are now: each with its own connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::balance::Key;
use super::balancer::Balancer;
use super::config::{PoolConfig, Protocol, UpstreamId};
use super::outgoing::RequestBody;
use super::shared::Shared;
use super::upstream::Upstream;
use crate::dial::{Dialer, Target};

/// Addresses of an upstream at most, over all its names.
pub const MAX_GROUP_ADDRESSES: usize = 256;
/// Addresses of one name that are used at most.
pub const MAX_NAME_ADDRESSES: usize = 64;

/// An address and its connections.
pub(super) struct Member<B: RequestBody> {
    pub(super) key: Key,
    pub(super) upstream: Upstream<B>,
}

/// The addresses at one moment.
pub(super) struct Set<B: RequestBody> {
    pub(super) members: Box<[Member<B>]>,
}

impl<B: RequestBody> Set<B> {
    /// Addresses toward which nothing can be opened for want of ports, and that have no connection free.
    pub(super) fn short(&self) -> Vec<Key> {
        self.members.iter().filter(|member| member.upstream.is_short()).map(|m| m.key).collect()
    }

    pub(super) fn member(&self, key: Key) -> Option<&Member<B>> {
        self.members.iter().find(|member| member.key == key)
    }
}

/// See the module.
pub(super) struct Members<B: RequestBody> {
    dialer: Dialer,
    protocol: Protocol,
    config: PoolConfig,
    shared: Arc<Shared>,
    balancer: Arc<Balancer>,
    /// What was configured, and where the names lead.
    places: Mutex<Places>,
    set: RwLock<Arc<Set<B>>>,
}

struct Places {
    each: Vec<Place>,
    next_key: u64,
}

struct Place {
    target: Target,
    /// None: not a name, or not looked up yet.
    addresses: Option<Vec<SocketAddr>>,
}

impl<B: RequestBody> Members<B> {
    pub(super) fn new(
        dialer: Dialer,
        targets: Vec<Target>,
        protocol: Protocol,
        config: PoolConfig,
        shared: Arc<Shared>,
        balancer: Arc<Balancer>,
    ) -> Members<B> {
        let each = targets.into_iter().map(|target| Place { target, addresses: None }).collect();
        let members = Members {
            dialer,
            protocol,
            config,
            shared,
            balancer,
            places: Mutex::new(Places { each, next_key: 0 }),
            set: RwLock::new(Arc::new(Set { members: Box::default() })),
        };
        members.settle(&mut members.lock());
        members
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses now.
    pub(super) fn now(&self) -> Arc<Set<B>> {
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The places whose names must be looked up: where each is, and its target.
    pub(super) fn names(&self) -> Vec<(usize, Target)> {
        let places = self.lock();
        let all = places.each.iter().enumerate();
        all.filter(|(_, place)| place.target.name().is_some())
            .map(|(at, place)| (at, place.target.clone()))
            .collect()
    }

    /// The same places with other TLS settings. Where those are equal to the old ones, connections
    /// stay.
    pub(super) fn retarget(&self, targets: Vec<Target>) {
        let mut places = self.lock();
        for target in targets {
            let held = places.each.iter_mut().find(|place| place.target.place == target.place);
            if let Some(held) = held {
                held.target = target;
            }
        }
        self.settle(&mut places);
    }

    /// A name leads there now. Returns whether that is news; and how many addresses are not used,
    /// because there are too many.
    pub(super) fn moved(&self, at: usize, mut found: Vec<SocketAddr>) -> (bool, usize) {
        let mut places = self.lock();
        let Some(place) = places.each.get_mut(at) else { return (false, 0) };
        // Those in use stay ahead: a resolver that turns its list round must not turn ours.
        let held = place.addresses.clone().unwrap_or_default();
        found.sort_by_key(|address| {
            held.iter().position(|known| known == address).unwrap_or(usize::MAX)
        });
        let mut left_out = found.len().saturating_sub(MAX_NAME_ADDRESSES);
        found.truncate(MAX_NAME_ADDRESSES);
        let news = place.addresses.as_ref() != Some(&found);
        if news {
            place.addresses = Some(found);
            left_out += self.settle(&mut places);
        }
        (news, left_out)
    }

    /// Makes the set what the places say. Connections of addresses that stay, stay; those of the
    /// others are closed when their requests have ended. Returns how many addresses are too many.
    fn settle(&self, places: &mut Places) -> usize {
        let mut wanted: Vec<UpstreamId> = Vec::new();
        for place in &places.each {
            let target = &place.target;
            let each = match &place.addresses {
                None => vec![target.clone()],
                Some(addresses) => addresses
                    .iter()
                    .map(|address| Target { address: Some(*address), ..target.clone() })
                    .collect(),
            };
            for target in each {
                let id = UpstreamId { target, protocol: self.protocol };
                if !wanted.contains(&id) {
                    wanted.push(id);
                }
            }
        }
        let too_many = wanted.len().saturating_sub(MAX_GROUP_ADDRESSES);
        wanted.truncate(MAX_GROUP_ADDRESSES);
        let (before, among) = (self.now(), wanted.len());
        let held = |id: &UpstreamId| before.members.iter().find(|m| m.upstream.id() == id);
        let members: Box<[Member<B>]> = wanted
            .into_iter()
            .map(|id| match held(&id) {
                Some(member) => {
                    member.upstream.share(among);
                    Member { key: member.key, upstream: member.upstream.clone() }
                }
                None => {
                    let key = Key(places.next_key);
                    places.next_key += 1;
                    let (dialer, config) = (self.dialer.clone(), self.config.clone());
                    let shared = Arc::clone(&self.shared);
                    Member { key, upstream: Upstream::new(id, dialer, config, shared, among) }
                }
            })
            .collect();
        let present = members
            .iter()
            .map(|member| (member.key, Arc::from(member.upstream.id().target.to_string())))
            .collect();
        let set = Arc::new(Set { members });
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&set);
        self.balancer.keep(present);
        for gone in before.members.iter().filter(|member| set.member(member.key).is_none()) {
            gone.upstream.close_idle();
        }
        too_many
    }
}
