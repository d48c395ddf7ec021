//! Worlds that were replaced, kept until nobody else has them.
//!
//! To free a world of a million entities takes a while, and whoever lets go of it last pays. A world
//! that is kept here is let go of last by the owner of the list, on the thread of its choice.

use std::sync::Arc;

use super::World;

/// See the module.
#[derive(Debug, Default)]
pub struct Retired {
    worlds: Vec<World>,
}

impl Retired {
    /// Takes a world that was replaced.
    pub fn push(&mut self, world: World) {
        self.worlds.push(world);
    }

    /// Those that nobody else has; to drop them frees what no other world shares.
    #[must_use]
    pub fn free(&mut self) -> Vec<World> {
        let is_free = |world: &mut World| Arc::strong_count(&world.inner) == 1;
        self.worlds.extract_if(.., is_free).collect()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.worlds.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Item, ItemBody, Revision};
    use crate::service::ServiceSettings;
    use crate::{Digest, Uid};

    /// Who lets go of a retired world does not free it, however it came to have it.
    #[test]
    fn a_world_is_freed_by_the_list_alone() {
        let settings = ItemBody::Service(Box::new(ServiceSettings::named("shop")));
        let items = [Item::new("shop", "", settings)];
        let world = World::from_items(Revision(1), Digest::of_all(&items), &items).unwrap();
        let held = Arc::downgrade(world.service("shop").unwrap().settings());
        let known = world.resolve_principal("shop", &Uid::new("user", "a"), &[]).unwrap();
        let mut retired = Retired::default();
        retired.push(world.clone());
        assert!(retired.free().is_empty(), "the owner has it");
        drop(world);
        assert!(retired.free().is_empty(), "what it looked up keeps it");
        drop(known);
        assert!(held.upgrade().is_some(), "neither of them freed it");
        assert_eq!(retired.free().len(), 1);
        assert!(held.upgrade().is_none() && retired.is_empty());
    }
}
