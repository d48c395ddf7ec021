//! Rules and plans as items, and the limits of a service from them. What they mean is said in
//! `keepgate_limit`.

use std::ops::Deref;

use keepgate_limit::rules::{Limits, NamedPlan, RouteCost, RoutePattern, Rule};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::route::Route;
use crate::service::ServiceSettings;

/// What somebody wrote, and the JSON in which it was written.
///
/// The JSON is what is stored, sent, hashed and shown again, so a default that was written out
/// stays: release 0.1 hashed it as it stood, and whoever compares sees no change that is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Written<T> {
    value: T,
    json: Value,
}

impl<T> Written<T> {
    /// The JSON: sorted members, no nulls.
    pub fn as_json(&self) -> &Value {
        &self.json
    }

    /// What it says.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T: DeserializeOwned> Written<T> {
    /// Reads it from JSON. Errors are those of the type.
    pub fn read(mut json: Value) -> Result<Written<T>, serde_json::Error> {
        plain_json(&mut json);
        json.sort_all_objects();
        Ok(Written { value: serde_json::from_value(json.clone())?, json })
    }
}

impl<T> Deref for Written<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::read(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<T: JsonSchema> JsonSchema for Written<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

/// They are written in TOML too: absent and null are the same, and a number has 64 bits with a sign
/// or is a float.
fn plain_json(value: &mut Value) {
    match value {
        Value::Number(number) if number.as_i64().is_none() => {
            if let Some(float) = number.as_f64() {
                *value = float.into();
            }
        }
        Value::Array(list) => {
            list.retain(|value| !value.is_null());
            list.iter_mut().for_each(plain_json);
        }
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(plain_json);
        }
        _ => {}
    }
}

/// The limits of a service with these settings (none: the default ones), rules and plans.
pub fn limits_of<'a>(
    settings: Option<&ServiceSettings>,
    rules: impl IntoIterator<Item = &'a Rule>,
    plans: impl IntoIterator<Item = &'a NamedPlan>,
) -> Limits {
    let mut limits = Limits {
        rules: rules.into_iter().cloned().collect(),
        plans: plans.into_iter().cloned().map(NamedPlan::split).collect(),
        ..Limits::default()
    };
    if let Some(settings) = settings {
        limits.headers = settings.limits.headers;
        limits.defaults = settings.limits.default;
        limits.help.clone_from(&settings.help);
    }
    limits
}

impl Route {
    /// What a request on it costs, where it says so.
    pub fn cost(&self) -> Option<RouteCost> {
        Some(RouteCost {
            route: RoutePattern::Exact(self.path.clone()),
            methods: if self.method == "*" { Vec::new() } else { vec![self.method.clone()] },
            cost: self.cost?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_written_stays_and_what_it_says_is_read() {
        let json =
            json!({"rate": "1/h", "name": "n", "key": "header:X-Who", "cost": 1, "burst": null});
        let rule: Written<Rule> = Written::read(json).unwrap();
        assert_eq!((rule.name.as_str(), rule.cost, rule.burst), ("n", 1, None));
        let text = r#"{"cost":1,"key":"header:X-Who","name":"n","rate":"1/h"}"#;
        assert_eq!(rule.as_json().to_string(), text);
        assert_eq!(serde_json::to_string(&rule).unwrap(), text);
        assert_eq!(serde_json::from_str::<Written<Rule>>(text).unwrap(), rule);
        let unknown = json!({"name": "gold", "rule": [], "n": 1});
        let error = Written::<NamedPlan>::read(unknown).unwrap_err();
        assert!(error.to_string().contains("unknown field `n`"), "{error}");
    }
}
