//! `entities.json`: Cedar's JSON entity format.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::line::line_of;
use super::{ENTITIES, Reader};
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

pub(super) fn parse(reader: &mut Reader, text: &str) {
    // Entity by entity, so that each has its line.
    let mut at = 0;
    let error = |reader: &mut Reader, at: usize, message: &str| {
        reader.error(ENTITIES, Some(line_of(text, at)), message);
    };
    if !take(text, &mut at, '[') {
        return error(reader, at, "not a JSON list of entities");
    }
    if !take(text, &mut at, ']') {
        loop {
            skip_space(text, &mut at);
            let rest = text.get(at..).unwrap_or_default();
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            match values.next() {
                Some(Ok(value)) => {
                    entity(reader, line_of(text, at), value);
                    at += values.byte_offset();
                }
                Some(Err(source)) => {
                    let line = line_of(text, at) + source.line().saturating_sub(1);
                    return reader.error(ENTITIES, Some(line), bare(&source));
                }
                None => return error(reader, at, "the list is not closed"),
            }
            if take(text, &mut at, ']') {
                break;
            }
            if !take(text, &mut at, ',') {
                return error(reader, at, "a comma or the list's end is expected");
            }
        }
    }
    skip_space(text, &mut at);
    if at < text.len() {
        error(reader, at, "nothing may follow the list");
    }
}

fn entity(reader: &mut Reader, line: usize, value: Value) {
    match serde_json::from_value::<Entity>(value) {
        Ok(entity) => {
            let body = EntityBody {
                uid: entity.uid.0,
                attrs: entity.attrs,
                parents: entity.parents.into_iter().map(|parent| parent.0).collect(),
                tags: entity.tags,
            };
            reader.put(ENTITIES, line, Item::new(&reader.service, "", ItemBody::Entity(body)));
        }
        Err(source) => reader.error(ENTITIES, Some(line), bare(&source)),
    }
}

/// The message without its place, which is counted from another start.
fn bare(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

fn skip_space(text: &str, at: &mut usize) {
    let rest = text.get(*at..).unwrap_or_default();
    *at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
}

fn take(text: &str, at: &mut usize, what: char) -> bool {
    skip_space(text, at);
    let found = text.get(*at..).is_some_and(|rest| rest.starts_with(what));
    *at += usize::from(found);
    found
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
    (!entities.is_empty()).then(|| format!("[\n  {}\n]\n", entities.join(",\n  ")))
}
