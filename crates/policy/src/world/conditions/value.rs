//! JSON to Cedar values.
//!
//! Operators may use Cedar's `__entity` and `__extn` escapes in stored attributes, and in questions that
//! they write as Cedar's request files are; other requests may not, or a caller could name entities and
//! forge types that a policy trusts. In requests null is absent, and a number with a fraction is a Cedar
//! decimal or refused.

use cedar_policy_core::FromNormalizedStr;
use cedar_policy_core::ast::{
    Eid, EntityType, EntityUID, Literal, Name, PartialValue, Value, ValueKind,
};
use cedar_policy_core::extensions::Extensions;
use serde_json::Value as Json;
use smol_str::SmolStr;

/// Who wrote the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::world) enum Trust {
    /// A stored item.
    Operator,
    /// A request.
    Request,
    /// A request whose context is written as Cedar's own request files are.
    CedarRequest,
}

impl Trust {
    fn is_request(self) -> bool {
        self != Trust::Operator
    }
}

/// A JSON value that is no Cedar value, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::world) struct ValueProblem {
    pub(in crate::world) path: String,
    pub(in crate::world) reason: String,
}

impl ValueProblem {
    pub(super) fn new(reason: impl Into<String>) -> ValueProblem {
        ValueProblem { path: String::new(), reason: reason.into() }
    }

    pub(super) fn below(mut self, name: &str) -> ValueProblem {
        self.path = match self.path.as_str() {
            "" => name.to_owned(),
            rest if rest.starts_with('[') => format!("{name}{rest}"),
            rest => format!("{name}.{rest}"),
        };
        self
    }
}

pub(in crate::world) const ESCAPES: [&str; 3] = ["__entity", "__extn", "__expr"];

/// None for what is absent.
pub(super) fn read(json: &Json, trust: Trust) -> Result<Option<Value>, ValueProblem> {
    Ok(Some(match json {
        Json::Null if trust.is_request() => return Ok(None),
        Json::Null => return Err(ValueProblem::new("null is not a Cedar value; leave it out")),
        Json::Bool(bool) => Value::from(*bool),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => match number.as_i64() {
            Some(long) => Value::from(long),
            None if trust.is_request() && number.is_f64() => decimal(number)?,
            None => return Err(unfit_number(number)),
        },
        Json::Array(items) => {
            let mut values = Vec::with_capacity(items.len());
            for (at, item) in items.iter().enumerate() {
                values.extend(read(item, trust).map_err(|p| p.below(&format!("[{at}]")))?);
            }
            Value::set(values, None)
        }
        Json::Object(members) => {
            if let Some(escape) = ESCAPES.iter().find(|escape| members.contains_key(**escape)) {
                if trust == Trust::Request {
                    return Err(ValueProblem::new(instead(escape)));
                }
                return escaped(members, escape).map(Some);
            }
            let mut record: Vec<(SmolStr, Value)> = Vec::with_capacity(members.len());
            for (name, member) in members {
                if let Some(value) = read(member, trust).map_err(|p| p.below(name))? {
                    record.push((name.into(), value));
                }
            }
            Value::record(record, None)
        }
    }))
}

/// What to send in place of an escape.
/// A value of a request as JSON again: a decimal is a number, an entity and any other value of an extension
/// the text that Cedar has for it. The recursion is as deep as the value, which was bounded when it was
/// read.
pub(super) fn json(value: &Value) -> Json {
    match value.value_kind() {
        ValueKind::Lit(Literal::Bool(bool)) => (*bool).into(),
        ValueKind::Lit(Literal::Long(number)) => (*number).into(),
        ValueKind::Lit(Literal::String(text)) => text.as_str().into(),
        ValueKind::Lit(Literal::EntityUID(uid)) => uid.to_string().into(),
        ValueKind::Set(set) => set.iter().map(json).collect(),
        ValueKind::Record(members) => Json::Object(
            members.iter().map(|(name, value)| (name.to_string(), json(value))).collect(),
        ),
        ValueKind::ExtensionValue(_) => {
            let text = value.to_string();
            let decimal = text.strip_prefix("decimal(\"").and_then(|rest| rest.strip_suffix("\")"));
            match decimal
                .and_then(|decimal| serde_json::from_str::<serde_json::Number>(decimal).ok())
            {
                Some(number) => number.into(),
                None => text.into(),
            }
        }
    }
}

fn instead(escape: &str) -> String {
    let plain = match escape {
        "__extn" => {
            "send the value as a text, such as \"10.0.0.1\", \"1.50\", \"2030-01-31T12:00:00Z\" or \"1h30m\", \
             and declare the type `ipaddr`, `decimal`, `datetime` or `duration` in the service's schema; \
             without a schema, a policy converts it: `ip(context.address)`"
        }
        "__entity" => {
            "send {\"type\": \"..\", \"id\": \"..\"}, and declare the entity type in the service's schema"
        }
        _ => "send plain values",
    };
    format!("`{escape}` is not allowed in a request; {plain}")
}

fn unfit_number(number: &serde_json::Number) -> ValueProblem {
    ValueProblem::new(format!(
        "`{number}` is neither a 64-bit integer nor a decimal with at most 4 digits after the \
         point; send it as a string"
    ))
}

/// A number with a fraction, if Cedar's decimal holds it exactly.
fn decimal(number: &serde_json::Number) -> Result<Value, ValueProblem> {
    let exact = number.as_f64().and_then(|float| {
        let text = format!("{float:.4}");
        (text.parse() == Ok(float)).then_some(text)
    });
    match exact {
        Some(text) => call("decimal", &[Value::from(text)]).map_err(|_| unfit_number(number)),
        None => Err(unfit_number(number)),
    }
}

/// Calls an extension's constructor.
pub(super) fn call(function: &str, arguments: &[Value]) -> Result<Value, ValueProblem> {
    let problem = |e: String| ValueProblem::new(e);
    let name = Name::from_normalized_str(function)
        .map_err(|_| problem(format!("`{function}` is not an extension function")))?;
    let function = Extensions::all_available().func(&name).map_err(|e| problem(e.to_string()))?;
    match function.call(arguments) {
        Ok(PartialValue::Value(value)) => Ok(value),
        Ok(PartialValue::Residual(_)) => Err(problem(format!("`{name}` gives no value"))),
        Err(error) => Err(problem(error.to_string())),
    }
}

/// An entity from its two texts.
pub(super) fn entity(kind: &str, id: &str) -> Result<Value, ValueProblem> {
    let kind = EntityType::from_normalized_str(kind)
        .map_err(|_| ValueProblem::new(format!("`{kind}` is not an entity type")))?;
    Ok(Value::from(EntityUID::from_components(kind.with_loc(None), Eid::new(id), None)))
}

fn escaped(members: &serde_json::Map<String, Json>, escape: &str) -> Result<Value, ValueProblem> {
    let shape = |wanted: &str| ValueProblem::new(format!("`{escape}` needs {wanted}"));
    let (Some(inner), 1) = (members.get(escape), members.len()) else {
        return Err(shape("to be the only member"));
    };
    let text = |name: &str| inner.get(name).and_then(Json::as_str);
    match escape {
        "__entity" => match (text("type"), text("id")) {
            (Some(kind), Some(id)) => entity(kind, id),
            _ => Err(shape("an object with strings `type` and `id`")),
        },
        "__extn" => {
            let function = text("fn").ok_or_else(|| shape("a string `fn`"))?;
            let arguments = match (inner.get("arg"), inner.get("args")) {
                (Some(one), None) => vec![one],
                (None, Some(Json::Array(many))) => many.iter().collect(),
                _ => return Err(shape("either `arg` or a list `args`")),
            };
            let mut values = Vec::with_capacity(arguments.len());
            for argument in arguments {
                values.extend(read(argument, Trust::Operator)?);
            }
            call(function, &values)
        }
        _ => Err(ValueProblem::new(format!("Cedar no longer supports `{escape}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(json: &str, trust: Trust) -> String {
        match read(&serde_json::from_str(json).unwrap(), trust) {
            Ok(Some(value)) => value.to_string(),
            Ok(None) => "absent".to_owned(),
            Err(problem) => format!("{}: {}", problem.path, problem.reason),
        }
    }

    #[test]
    fn requests_have_no_escapes() {
        use Trust::{CedarRequest, Operator, Request};
        for (json, trust, shown) in [
            ("1", Request, "1"),
            ("1.5", Request, "decimal(\"1.5000\")"),
            ("-0.0001", Request, "decimal(\"-0.0001\")"),
            ("null", Request, "absent"),
            ("[1,null]", Request, "[1]"),
            ("{\"a\":null,\"b\":true}", Request, "{b: true}"),
            ("{\"__entity\":{\"type\":\"user\",\"id\":\"a\"}}", Operator, "user::\"a\""),
            ("{\"__extn\":{\"fn\":\"ip\",\"arg\":\"10.0.0.1\"}}", Operator, "ip(\"10.0.0.1\")"),
            ("{\"__entity\":{\"type\":\"user\",\"id\":\"a\"}}", CedarRequest, "user::\"a\""),
            (
                "{\"__extn\":{\"fn\":\"ip\",\"args\":[\"10.0.0.1\"]}}",
                CedarRequest,
                "ip(\"10.0.0.1\")",
            ),
            ("[1.5,null]", CedarRequest, "[decimal(\"1.5000\")]"),
        ] {
            assert_eq!(show(json, trust), shown, "{json}");
        }
        for (json, trust, start) in [
            ("1.23456", Request, ": `1.23456` is neither"),
            ("1e300", Request, ": `1e+300` is neither"),
            ("18446744073709551615", Request, ": `18446744073709551615` is neither"),
            ("[{\"a\":{\"__entity\":{}}}]", Request, "[0].a: `__entity` is not allowed"),
            ("{\"__extn\":{\"fn\":\"ip\",\"arg\":\"1\"}}", Request, ": `__extn` is not allowed"),
            ("{\"__expr\":\"1\"}", Operator, ": Cedar no longer supports"),
            ("{\"__entity\":{\"type\":\"a b\",\"id\":\"\"}}", Operator, ": `a b` is not an entity"),
            ("{\"__entity\":{},\"x\":1}", Operator, ": `__entity` needs to be the only"),
            ("null", Operator, ": null is not"),
        ] {
            let shown = show(json, trust);
            assert!(shown.starts_with(start), "{json}: {shown}");
        }
    }
}
