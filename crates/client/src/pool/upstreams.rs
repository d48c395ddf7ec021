//! The upstreams of a pool, by identity.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::config::{PoolConfig, UpstreamId};
use super::error::PoolError;
use super::incoming::PooledBody;
use super::outgoing::RequestBody;
use super::shared::Shared;
use super::stats::UpstreamStats;
use super::upstream::Upstream;
use crate::dial::Dialer;

/// Upstreams by identity. A clone is the same pool. `B` is the type of request bodies.
pub struct Pool<B: RequestBody> {
    inner: Arc<Upstreams<B>>,
}

struct Upstreams<B: RequestBody> {
    dialer: Dialer,
    config: PoolConfig,
    known: RwLock<HashMap<UpstreamId, Upstream<B>>>,
}

impl<B: RequestBody> Clone for Pool<B> {
    fn clone(&self) -> Pool<B> {
        Pool { inner: self.inner.clone() }
    }
}

impl<B: RequestBody> Pool<B> {
    /// A pool that opens its connections with `dialer`.
    pub fn new(dialer: Dialer, config: PoolConfig) -> Pool<B> {
        Pool { inner: Arc::new(Upstreams { dialer, config, known: RwLock::default() }) }
    }

    /// The upstream of this identity. Asks the budget when it is new (which may read a few
    /// files of `/proc`); keep the handle where requests are many.
    pub fn upstream(&self, id: &UpstreamId) -> Upstream<B> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = known.get(id) {
            return upstream.clone();
        }
        drop(known);
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        known
            .entry(id.clone())
            .or_insert_with(|| {
                let (dialer, config) = (self.inner.dialer.clone(), self.inner.config.clone());
                Upstream::new(id.clone(), dialer, config, Arc::new(Shared::new()), 1)
            })
            .clone()
    }

    /// Sends a request to the upstream of this identity; see [`Upstream::send`].
    pub async fn send(
        &self,
        id: &UpstreamId,
        request: http::Request<B>,
    ) -> Result<http::Response<PooledBody<B>>, PoolError> {
        self.upstream(id).send(request).await
    }

    /// Forgets upstreams that are not wanted any more; their idle connections are closed, those
    /// in use end with their requests.
    pub fn retain(&self, wanted: impl Fn(&UpstreamId) -> bool) {
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, upstream| {
            let keep = wanted(id);
            if !keep {
                upstream.close_idle();
            }
            keep
        });
    }

    /// What every upstream did and does.
    pub fn stats(&self) -> Vec<(UpstreamId, UpstreamStats)> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(id, upstream)| (id.clone(), upstream.stats())).collect()
    }

    /// The dialer, for its counters.
    pub fn dialer(&self) -> &Dialer {
        &self.inner.dialer
    }
}
