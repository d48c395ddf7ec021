//! JSON without members that occur twice (RFC 7493 section 2.3): two readers of the same bytes
//! must not see different things. For all that comes from callers: bodies, tokens.
//!
//! Nesting is bounded by `serde_json`: 128 levels. What is stored nests less ([`MAX_DEPTH`]), so
//! that it can be sent within something else.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The levels to which a stored value may nest: an attribute, a tag, a rule, a plan.
pub const MAX_DEPTH: usize = 100;

/// Whether a value nests deeper than [`MAX_DEPTH`].
pub fn is_too_deep(value: &Value) -> bool {
    is_deeper(value, MAX_DEPTH)
}

/// Whether a value nests deeper than so many levels; a plain one has none. Walked without
/// recursion.
pub(crate) fn is_deeper(value: &Value, levels: usize) -> bool {
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        let below = depth + 1;
        match value {
            Value::Array(_) | Value::Object(_) if depth >= levels => return true,
            Value::Array(list) => open.extend(list.iter().map(|value| (value, below))),
            Value::Object(members) => open.extend(members.values().map(|value| (value, below))),
            _ => {}
        }
    }
    false
}

/// Why bytes are no such JSON.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// An object has two members of one name.
    #[error(transparent)]
    Repeated(serde_json::Error),
    /// It is no JSON at all, or nests too deep.
    #[error(transparent)]
    Syntax(serde_json::Error),
}

/// The one value in these bytes.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let repeated = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(&repeated).deserialize(&mut reader);
    value.and_then(|value| reader.end().map(|()| value)).map_err(|error| {
        if repeated.get() { JsonError::Repeated(error) } else { JsonError::Syntax(error) }
    })
}

/// Reads a value, and notes whether it was given up for a repeated member.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = from.next_element_seed(self)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            let value = from.next_value_seed(self)?;
            if members.contains_key(&name) {
                self.0.set(true);
                return Err(A::Error::custom(format!("the member `{name}` occurs twice")));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}
