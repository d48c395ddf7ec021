//! What a table's world knows of its routes and of the principals who ask, looked up once.
//!
//! A route's action and resource are looked up by the first request that needs them: a world with
//! many routes costs nobody who does not use them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use keepgate_policy::router::Router;
use keepgate_policy::world::Principals;
use keepgate_policy::{Resolved, Uid, World};

/// See the module.
pub(crate) struct Known {
    service: Box<str>,
    /// In the order of the service's routes.
    routes: Box<[OnceLock<Sides>]>,
    principals: Mutex<Principals>,
}

/// The action and the resource of a route, where they are the same for all of its requests.
#[derive(Default)]
pub(crate) struct Sides {
    pub(crate) action: Option<Resolved>,
    pub(crate) resource: Option<Resolved>,
}

impl Known {
    /// Of a service with so many routes.
    pub(super) fn new(world: &World, name: &str, routes: usize) -> Known {
        Known {
            service: name.into(),
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
            principals: Mutex::new(Principals::new(world, name)),
        }
    }

    pub(super) fn principal(&self, uid: &Uid, roles: &[Uid]) -> Option<Arc<Resolved>> {
        self.principals.lock().unwrap_or_else(PoisonError::into_inner).of(uid, roles)
    }

    pub(super) fn route(&self, index: usize, world: &World, router: &Router) -> Option<&Sides> {
        let sides = self.routes.get(index)?.get_or_init(|| {
            let (action, resource) = router.fixed(index);
            let look_up = |uid: Option<&Uid>| world.resolve(&self.service, uid?).ok();
            Sides { action: look_up(action), resource: look_up(resource) }
        });
        Some(sides)
    }
}
