//! `limits.toml`: rules and plans. Each table is read as what it is, and kept as it was written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Spanned;

use super::line::Lines;
use super::{LIMITS, Reader, toml_text};
use crate::limits::Written;
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
        let rule = object(table.into_inner()).and_then(|body| {
            if !body.get("name").is_some_and(|name| name.is_string() && name != "") {
                return Err("expected a `name` (a string) in the rule".to_owned());
            }
            Written::read(Value::Object(body)).map_err(|e| e.to_string())
        });
        match rule {
            Ok(rule) => {
                let body = ItemBody::Limit(Box::new(rule));
                reader.put(LIMITS, line, Item::new(&reader.service, "", body));
            }
            Err(message) => reader.error(LIMITS, Some(line), message),
        }
    }
    for (name, table) in file.plan {
        let line = lines.at(table.span().start);
        let plan = object(table.into_inner()).and_then(|mut body| {
            if body.contains_key("name") || name.is_empty() {
                return Err(
                    "a plan takes its name from its table, `[plan.NAME]`; remove `name`".to_owned()
                );
            }
            body.insert("name".to_owned(), name.into());
            Written::read(Value::Object(body)).map_err(|e| e.to_string())
        });
        match plan {
            Ok(plan) => {
                let body = ItemBody::Plan(Box::new(plan));
                reader.put(LIMITS, line, Item::new(&reader.service, "", body));
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
            return Err(format!("expected a string, got `{when}`; put it in quotes"));
        }
        toml::Value::Array(list) => list.into_iter().map(json).collect::<Result<_, _>>()?,
        toml::Value::Table(table) => Value::Object(object(table)?),
    })
}

pub(super) fn render(items: &[&Item]) -> Option<String> {
    let mut out = LimitsOut { rule: Vec::new(), plan: BTreeMap::new() };
    for item in items {
        match &item.body {
            ItemBody::Limit(rule) => out.rule.push(rule.as_json().clone()),
            ItemBody::Plan(plan) => {
                let mut body = plan.as_json().clone();
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
