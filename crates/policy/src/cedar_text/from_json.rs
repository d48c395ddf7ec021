//! Cedar's JSON forms of schemas and policies, rewritten as Cedar text: what is stored and sent to gates
//! is always text.
//!
//! The JSON is bounded before Cedar sees it, and the text is read back: what does not come back as
//! the same is refused, never guessed.

use cedar_policy_core::ast::{PolicyID, Template};
use cedar_policy_core::est;
use cedar_policy_core::validator::RawName;
use cedar_policy_core::validator::json_schema::Fragment;
use serde_json::Value;

use super::{MAX_TOKENS, PolicyError, Sort, explained, schema};
use crate::json;
use crate::spot::Spot;
use crate::stack::{self, Need};

/// The Cedar text of a schema in JSON.
///
/// # Errors
/// Lines are those of the JSON, where they are known.
pub(crate) fn schema_text(json: &str) -> Result<String, PolicyError> {
    let value = strict(json)?;
    bounded(&value)?;
    let read = stack::run(Need::Large, || {
        let fragment: Fragment<RawName> =
            serde_json::from_str(json).map_err(|error| at_line(&error))?;
        let text = fragment.to_cedarschema();
        // Told of the JSON, and not of the text that nobody has seen.
        let declared = schema::built(fragment, "");
        drop(declared.map_err(|error| found_in(json, error))?);
        let text = text.map_err(|error| PolicyError::whole(explained(&error, "").message))?;
        let again = schema::parse(&text).map_err(|error| PolicyError { spot: None, ..error })?;
        drop(again);
        Ok(text)
    });
    read.unwrap_or_else(|error| Err(PolicyError::whole(error.to_string())))
}

/// The Cedar text of one policy or template in JSON (EST).
pub(crate) fn policy_text(value: &Value) -> Result<String, PolicyError> {
    bounded(value)?;
    let read = stack::run(Need::Large, || {
        let policy: est::Policy = serde_json::from_value(value.clone())
            .map_err(|error| PolicyError::whole(bare(&error.to_string())))?;
        let text = policy.to_string();
        let meant = policy
            .try_into_ast_policy_or_template(Some(PolicyID::from_string("json")))
            .map_err(|error| PolicyError::whole(explained(&error, "").message))?;
        super::scan::policy(&text)?;
        let said = super::parsed(Sort::Any, Some("json"), &text)
            .map_err(|error| PolicyError { spot: None, ..error })?;
        if is_same(&meant, &said) {
            Ok(text)
        } else {
            Err(PolicyError::whole("Cedar text cannot say the same; write the policy as *.cedar"))
        }
    });
    read.unwrap_or_else(|error| Err(PolicyError::whole(error.to_string())))
}

/// Equality of shape: where things stand does not matter.
fn is_same(a: &Template, b: &Template) -> bool {
    let annotations = |template: &Template| {
        let all = template.annotations();
        all.map(|(name, value)| (name.to_string(), value.val.to_string())).collect::<Vec<_>>()
    };
    a.effect() == b.effect()
        && annotations(a) == annotations(b)
        && a.condition().eq_shape(&b.condition())
}

/// JSON without a member that occurs twice.
fn strict(text: &str) -> Result<Value, PolicyError> {
    json::parse(text.as_bytes()).map_err(|error| match &error {
        json::JsonError::Repeated(source) | json::JsonError::Syntax(source) => at_line(source),
    })
}

fn at_line(error: &serde_json::Error) -> PolicyError {
    let spot = Some(error.line()).filter(|line| *line > 0).map(Spot::line);
    PolicyError { spot, ..PolicyError::whole(bare(&error.to_string())) }
}

/// The message without its place, which is told beside it.
fn bare(text: &str) -> String {
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// An error that names something quoted: the line where the JSON says that first.
fn found_in(json: &str, error: PolicyError) -> PolicyError {
    let names = error.message.split('`').skip(1).step_by(2);
    let at = names
        .filter_map(|name| json.find(&Value::from(name.rsplit("::").next()?).to_string()))
        .next();
    PolicyError { spot: at.map(|at| Spot::line(Spot::of(json, at, 0).line)), ..error }
}

/// Bounds on the JSON: as many values as a text may have tokens. The reader bounds its depth.
fn bounded(value: &Value) -> Result<(), PolicyError> {
    let bound = |message: String| PolicyError { is_bound: true, ..PolicyError::whole(message) };
    let mut open = vec![value];
    let mut count = 0_usize;
    while let Some(value) = open.pop() {
        count += 1;
        if count > MAX_TOKENS {
            return Err(bound(format!("it has more than {MAX_TOKENS} JSON values; divide it")));
        }
        match value {
            Value::Array(list) => open.extend(list),
            Value::Object(members) => open.extend(members.values()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_json_are_bounded() {
        let list = |count: usize| Value::from(vec![Value::Null; count]);
        assert_eq!(bounded(&list(MAX_TOKENS - 1)), Ok(()));
        let beyond = bounded(&list(MAX_TOKENS)).unwrap_err();
        assert!(beyond.is_bound && beyond.message.contains("JSON values"), "{beyond:?}");
    }
}
