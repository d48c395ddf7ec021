//! `limits.toml`: rules and plans. What is in them is for the `limit` crate; here they are
//! tables with a name, and their bodies are the tables as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Spanned;

use super::line::Lines;
use super::{LIMITS, Reader, toml_text};
use crate::item::plain_json;
use crate::model::{Item, ItemBody};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsIn {
    #[serde(default, alias = "limit")]
    rule: Vec<Spanned<toml::Table>>,
    #[serde(default)]
    plan: BTreeMap<String, Spanned<toml::Table>>,
}

#[derive(Serialize)]
struct LimitsOut {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rule: Vec<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    plan: BTreeMap<String, Value>,
}

pub(super) fn parse(reader: &mut Reader, text: &str) {
    let file: LimitsIn = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => return reader.toml_error(LIMITS, text, &error),
    };
    let lines = Lines::of(text);
    for table in file.rule {
        let line = lines.at(table.span().start);
        match object(table.into_inner()) {
            Ok(body) if body.get("name").is_some_and(|name| name.is_string() && name != "") => {
                let body = ItemBody::Limit(Value::Object(body));
                reader.put(LIMITS, line, Item::new(&reader.service, "", body));
            }
            Ok(_) => reader.error(LIMITS, Some(line), "a rule needs a `name`, a text"),
            Err(message) => reader.error(LIMITS, Some(line), message),
        }
    }
    for (name, table) in file.plan {
        let line = lines.at(table.span().start);
        match object(table.into_inner()) {
            Ok(mut body) if !body.contains_key("name") && !name.is_empty() => {
                body.insert("name".to_owned(), name.into());
                let body = ItemBody::Plan(Value::Object(body));
                reader.put(LIMITS, line, Item::new(&reader.service, "", body));
            }
            Ok(_) => {
                reader.error(
                    LIMITS,
                    Some(line),
                    "a plan's name is that of its table, `[plan.NAME]`",
                );
            }
            Err(message) => reader.error(LIMITS, Some(line), message),
        }
    }
}

fn object(table: toml::Table) -> Result<Map<String, Value>, String> {
    table.into_iter().map(|(key, value)| Ok((key, json(value)?))).collect()
}

fn json(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => {
            Value::from(serde_json::Number::from_f64(number).ok_or("a number is not finite")?)
        }
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(when) => {
            return Err(format!("`{when}` is no text; put it in quotes"));
        }
        toml::Value::Array(list) => list.into_iter().map(json).collect::<Result<_, _>>()?,
        toml::Value::Table(table) => Value::Object(object(table)?),
    })
}

pub(super) fn render(items: &[&Item]) -> Option<String> {
    let mut out = LimitsOut { rule: Vec::new(), plan: BTreeMap::new() };
    for item in items {
        match &item.body {
            ItemBody::Limit(body) => {
                let mut body = body.clone();
                plain_json(&mut body);
                out.rule.push(body);
            }
            ItemBody::Plan(body) => {
                let mut body = body.clone();
                plain_json(&mut body);
                if let Value::Object(map) = &mut body {
                    map.remove("name");
                }
                out.plan.insert(item.key.id.clone(), body);
            }
            _ => {}
        }
    }
    let is_empty = out.rule.is_empty() && out.plan.is_empty();
    (!is_empty).then(|| toml_text(&out))
}
