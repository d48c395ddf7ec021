//! `*entities.json`: Cedar's JSON entity format.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::elements::{Elements, MAX_ELEMENT_BYTES, Next};
use super::{ENTITIES_LIST, Reader};
use crate::item::canonical_json;
use crate::model::{EntityBody, Item, ItemBody, Uid};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entity {
    uid: Reference,
    #[serde(default)]
    attrs: BTreeMap<String, Value>,
    #[serde(default)]
    parents: Vec<Reference>,
    #[serde(default)]
    tags: BTreeMap<String, Value>,
}

/// `{"type","id"}`, or the same within `__entity`.
struct Reference(Uid);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Reference, D::Error> {
        let value = Value::deserialize(from)?;
        let inner = match value {
            Value::Object(mut map) if map.len() == 1 && map.contains_key("__entity") => {
                map.remove("__entity").unwrap_or_default()
            }
            other => other,
        };
        serde_json::from_value(inner).map(Reference).map_err(|_| {
            D::Error::custom("an entity is written `{\"type\": \"..\", \"id\": \"..\"}`")
        })
    }
}

pub(super) fn parse(reader: &mut Reader, file: &str, text: &str) {
    if let Err(source) = read(reader, file, text.as_bytes(), |_| true) {
        // Memory does not fail to be read.
        reader.error(file, None, source.to_string());
    }
}

/// How often the caller hears how far it is.
const TOLD_EVERY: usize = 4_096;

/// Reads the list entity by entity, so that each has its line and none of them has to be in
/// memory beside the others as a text.
pub(super) fn read(
    reader: &mut Reader,
    file: &str,
    text: impl Read,
    mut told: impl FnMut(usize) -> bool,
) -> io::Result<()> {
    let mut elements = Elements::of(text);
    loop {
        let (text, line) = match elements.next()? {
            Next::Element(text, line) => (text, line),
            Next::End => return Ok(()),
            Next::Wrong(message, line) => {
                reader.error(file, Some(line), message);
                return Ok(());
            }
            Next::TooLong(line) => {
                let message = format!("an entity has at most {MAX_ELEMENT_BYTES} bytes; divide it");
                reader.error(file, Some(line), message);
                return Ok(());
            }
        };
        match serde_json::from_slice::<Value>(text) {
            Ok(value) => entity(reader, file, line, value),
            Err(source) => {
                let line = line + source.line().saturating_sub(1);
                reader.error(file, Some(line), bare(&source));
                return Ok(());
            }
        }
        let count = reader.found.len();
        if count.is_multiple_of(TOLD_EVERY) && !told(count) {
            return Ok(());
        }
    }
}

fn entity(reader: &mut Reader, file: &str, line: usize, value: Value) {
    match serde_json::from_value::<Entity>(value) {
        Ok(entity) => {
            let body = EntityBody {
                uid: entity.uid.0,
                attrs: entity.attrs,
                parents: entity.parents.into_iter().map(|parent| parent.0).collect(),
                tags: entity.tags,
            };
            let item = Item::new(&reader.service, "", ItemBody::Entity(body));
            reader.put(file, line, item);
        }
        Err(source) => reader.error(file, Some(line), bare(&source)),
    }
}

/// The message without its place, which is counted from another start.
fn bare(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

pub(super) fn render(items: &[&Item]) -> Option<String> {
    let entities: Vec<String> = items
        .iter()
        .filter_map(|item| match &item.body {
            ItemBody::Entity(entity) => {
                Some(String::from_utf8_lossy(&canonical_json(entity)).into_owned())
            }
            _ => None,
        })
        .collect();
    // One line an entity: a change of one is a change of one line.
    let [open, between, close] = ENTITIES_LIST;
    (!entities.is_empty()).then(|| format!("{open}{}{close}", entities.join(between)))
}
