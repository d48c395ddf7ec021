//! One service with the items that a target makes, checked, built and asked.

use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Digest, Item, ItemBody, Query, Revision, Snapshot, Uid, World, validate};

/// Holds what is accepted against what can be built and decided: a state without problems is a
/// world, and decides. Whatever else may come of the items, nothing overflows. True: no problems.
pub(crate) fn holds(bodies: Vec<ItemBody>, principal: &Uid, action: &str, resource: &Uid) -> bool {
    let settings = ItemBody::Service(Box::new(ServiceSettings::named("s")));
    let all = std::iter::once(settings).chain(bodies);
    let mut items: Vec<Item> = all.map(|body| Item::new("s", "p", body)).collect();
    let is_good = validate::world(&items).is_empty();
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let digest = Digest::of_all(&items);
    let world = World::from_snapshot(&Snapshot { revision: Revision(1), digest, items });
    assert!(!is_good || world.is_ok(), "{world:?}");
    let Ok(world) = world else { return is_good };
    let decided = world.decide(&Query::new(principal, &Uid::action(action), resource).service("s"));
    assert!(!is_good || decided.is_ok(), "{decided:?}");
    is_good
}
