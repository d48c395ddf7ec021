//! Entities of one service against its schema, or of the directory against none.

use cedar_policy::{Entity, Schema};
use serde_json::Value;

use super::Check;
use crate::cedar_text;
use crate::json::is_deeper;
use crate::model::{Item, ItemBody};
use crate::stack::{self, Need};

/// Values of at most so many levels are checked on the caller's stack.
const SMALL: usize = 8;

impl Check {
    pub(super) fn entities(&mut self, schema: Option<&Schema>, items: &[&Item]) {
        if !items.iter().any(|item| matches!(item.body, ItemBody::Entity(_))) {
            return;
        }
        // A few levels of JSON are many levels of calls.
        let is_deep = |item: &&Item| match &item.body {
            ItemBody::Entity(body) => {
                let mut values = body.attrs.values().chain(body.tags.values());
                values.any(|value| is_deeper(value, SMALL))
            }
            _ => false,
        };
        let need = if items.iter().any(is_deep) { Need::Large } else { Need::Small };
        let checked = stack::run(need, || self.entities_against(schema, items));
        if let (Err(error), Some(first)) = (checked, items.first()) {
            self.problem(&first.key, error.to_string());
        }
    }

    fn entities_against(&mut self, schema: Option<&Schema>, items: &[&Item]) {
        for item in items {
            let ItemBody::Entity(body) = &item.body else {
                continue;
            };
            // What Cedar cannot name is said already.
            if !body.uid.has_valid_kind() || body.parents.iter().any(|p| !p.has_valid_kind()) {
                continue;
            }
            // Nothing is left of which Cedar could say something.
            if schema.is_none() && body.attrs.is_empty() && body.tags.is_empty() {
                continue;
            }
            // Cedar's own message for this names neither the attribute nor the way out.
            let mut members = body.attrs.iter().chain(&body.tags);
            if let Some((name, value)) = members.find(|(_, value)| has_float(value)) {
                let message = format!(
                    "`{name}` is `{value}`, but Cedar has whole numbers only; write \
                     {{\"__extn\": {{\"fn\": \"decimal\", \"arg\": \"1.5\"}}}} for 1.5"
                );
                self.problem(&item.key, message);
                continue;
            }
            let json = match serde_json::to_value(body) {
                Ok(json) => json,
                Err(error) => {
                    self.problem(&item.key, error.to_string());
                    continue;
                }
            };
            if let Err(error) = Entity::from_json_value(json, schema) {
                let message = cedar_text::explained(&error, "").message;
                self.problem(&item.key, message);
            }
        }
    }
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64().is_none(),
        Value::Array(list) => list.iter().any(has_float),
        Value::Object(map) => map.values().any(has_float),
        _ => false,
    }
}
