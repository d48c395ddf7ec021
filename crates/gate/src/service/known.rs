//! What a table's world knows of its routes and of the principals who ask, looked up once.
//!
//! A route's action and resource are looked up by the first request that needs them: a world with
//! many routes costs nobody who does not use them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use keepgate_policy::world::Principals;
use keepgate_policy::{Resolved, Uid, World};

use super::table::Service;

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
    pub(super) fn new(world: &World, name: &str, service: Option<&Service>) -> Known {
        let routes = service.map_or(0, |service| service.router.routes().len());
        Known {
            service: name.into(),
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
            principals: Mutex::new(Principals::new(world, name)),
        }
    }

    pub(super) fn principal(&self, uid: &Uid, roles: &[Uid]) -> Option<Arc<Resolved>> {
        self.principals.lock().unwrap_or_else(PoisonError::into_inner).of(uid, roles)
    }

    pub(super) fn route(&self, index: usize, world: &World, service: &Service) -> Option<&Sides> {
        let sides = self.routes.get(index)?.get_or_init(|| {
            let (action, resource) = service.router.fixed(index);
            let look_up = |uid: Option<&Uid>| world.resolve(&self.service, uid?).ok();
            Sides { action: look_up(action), resource: look_up(resource) }
        });
        Some(sides)
    }
}
