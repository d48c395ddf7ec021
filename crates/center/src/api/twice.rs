//! Entities that a service has and the directory, too.

use keepgate_api as api;
use keepgate_policy::{ItemKey, Kind};

use crate::desk::shown_id;
use crate::store::{Reading, StoreError};

/// Warnings of one answer.
const TOLD: usize = 100;

/// Look-ups for one answer. Without a bound, a portion of an import into the directory would look
/// for each of its lines in each service.
const LOOKUPS: usize = 100_000;

/// What is said of one.
pub(crate) const MESSAGE: &str = "the directory has an entity of this name, too: the service sees \
                                  the attributes of its own, and is in the parents of both";

/// Warnings about those of these entities that a service and the directory have. Blocks.
pub(crate) fn warnings<'k>(
    store: &dyn Reading,
    keys: impl Iterator<Item = &'k ItemKey>,
) -> Result<Vec<api::Warning>, StoreError> {
    let mut keys = keys.filter(|key| key.kind == Kind::Entity).peekable();
    let Some(first) = keys.peek() else { return Ok(Vec::new()) };
    // Where the others are, of those that have any entity at all.
    let mut places = Vec::new();
    let others = if first.service.is_empty() {
        store.scopes()?.into_iter().map(|scope| scope.service).collect()
    } else {
        vec![String::new()]
    };
    for place in others {
        if place != first.service && !store.list(&place, Kind::Entity, "", 1)?.is_empty() {
            places.push(place);
        }
    }
    let mut told = Vec::new();
    let mut lookups = 0;
    for key in keys {
        for place in &places {
            if told.len() == TOLD || lookups == LOOKUPS {
                return Ok(told);
            }
            lookups += 1;
            let other = ItemKey::new(place, Kind::Entity, &key.id);
            if store.item(&other)?.is_none() {
                continue;
            }
            let message = if place.is_empty() {
                MESSAGE.to_owned()
            } else {
                format!(
                    "service `{place}` has an entity of this name, too: it sees the attributes of \
                     its own, and the entity is in the parents of both"
                )
            };
            let id = shown_id(key).to_owned();
            told.push(api::Warning {
                id,
                message,
                gate: None,
                file: None,
                line: None,
                column: None,
                length: None,
            });
        }
    }
    Ok(told)
}
