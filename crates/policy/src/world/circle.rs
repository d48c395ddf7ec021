//! Circles of membership: walked over the indexed world, so that a change of a million entities
//! costs a million steps and no reading of a store.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::World;
use super::layer::Layer;
use super::names::Id;
use crate::model::{ItemKey, Uid};

/// Names of a circle that are told; of a longer one the first of them.
const TOLD: usize = 12;

/// Membership that leads back to where it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circle {
    /// The item that makes the last step.
    pub key: ItemKey,
    /// What is in what, the first of them again at the end; shortened where it is long.
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    OnPath,
    Done,
}

enum Step {
    Enter(Id),
    Leave(Id),
}

impl World {
    /// The circles that can be reached from these entities, in the view of a service (or of the
    /// directory alone if it is empty), at most `most` of them. Each entity is visited once.
    pub fn circles<'u>(
        &self,
        service: &str,
        from: impl IntoIterator<Item = &'u Uid>,
        most: usize,
    ) -> Vec<Circle> {
        let own = self.inner.services.get(service).map(|part| &part.layer);
        let layers = [Some(&self.inner.directory.layer), own];
        let mut found = Vec::new();
        let mut seen: HashMap<Id, Seen, FixedState> = HashMap::default();
        let (mut path, mut steps): (Vec<Id>, Vec<Step>) = (Vec::new(), Vec::new());
        for start in from {
            let Some(start) = self.inner.names.uid(start) else { continue };
            if seen.contains_key(&start) {
                continue;
            }
            steps.push(Step::Enter(start));
            // An explicit stack: a long chain is no reason to overflow.
            while let Some(step) = steps.pop() {
                let id = match step {
                    Step::Leave(id) => {
                        seen.insert(id, Seen::Done);
                        path.pop();
                        continue;
                    }
                    Step::Enter(id) => id,
                };
                match seen.get(&id) {
                    Some(Seen::Done) => continue,
                    Some(Seen::OnPath) => {
                        found.push(self.circle(service, &path, id));
                        if found.len() >= most {
                            return found;
                        }
                        continue;
                    }
                    None => {}
                }
                seen.insert(id, Seen::OnPath);
                path.push(id);
                steps.push(Step::Leave(id));
                let parents = layers.into_iter().flatten().flat_map(|layer| layer.parents(id));
                steps.extend(parents.map(Step::Enter));
            }
        }
        found
    }

    /// In how many roles an entity is by memberships of its own.
    pub fn memberships(&self, member: &Uid) -> usize {
        let id = self.inner.names.uid(member);
        let slot = id.and_then(|id| self.inner.directory.layer.slot(id));
        slot.map_or(0, |slot| slot.edges().len())
    }

    fn circle(&self, service: &str, path: &[Id], back_to: Id) -> Circle {
        let from = path.iter().position(|id| *id == back_to).unwrap_or_default();
        let circle = path.get(from..).unwrap_or_default();
        let last = circle.last().copied().unwrap_or(back_to);
        let names = &self.inner.names;
        let mut text: Vec<String> =
            circle.iter().take(TOLD).map(|id| names.to_uid(*id).to_string()).collect();
        if circle.len() > TOLD {
            text.push(format!("({} more)", circle.len() - TOLD));
        }
        text.push(names.to_uid(back_to).to_string());
        Circle { key: self.step_key(service, last, back_to), text: text.join(" in ") }
    }

    /// The item that says that `child` is in `parent`.
    pub(super) fn step_key(&self, service: &str, child: Id, parent: Id) -> ItemKey {
        let names = &self.inner.names;
        let says = |layer: &Layer| {
            layer.slot(child).is_some_and(|slot| slot.parents.as_slice().contains(&parent))
        };
        let directory = &self.inner.directory.layer;
        if self.inner.services.get(service).is_some_and(|part| says(&part.layer)) {
            return ItemKey::entity(service, &names.to_uid(child));
        }
        let is_member = directory
            .slot(child)
            .is_some_and(|slot| slot.edges().iter().any(|edge| edge.to == parent));
        if is_member {
            return ItemKey::member(&names.to_uid(child), &names.to_uid(parent));
        }
        if says(directory) {
            return ItemKey::entity("", &names.to_uid(child));
        }
        ItemKey::schema(service)
    }
}
