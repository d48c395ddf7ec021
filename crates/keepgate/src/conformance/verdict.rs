//! Judges one answer of a decision point. Errors say what was expected and what came.

use serde_json::Value;

use super::cases::{Case, Expect, REQUEST_ID};
use super::{Outcome, media_type};
use crate::origin::Answer;

/// The body of a successful answer: 200, `application/json`, an object.
pub(super) fn json(answer: &Answer) -> Result<Value, String> {
    let status = answer.status.as_u16();
    if status != 200 {
        return Err(format!("expected 200, got {status} {}", excerpt(answer)));
    }
    let kind = media_type(answer);
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(format!("expected Content-Type application/json, got `{kind}`"));
    }
    match serde_json::from_slice(&answer.body) {
        Ok(body @ Value::Object(_)) => Ok(body),
        Ok(_) => Err(format!("expected a JSON object, got {}", excerpt(answer))),
        Err(e) => Err(format!("expected JSON, got {}: {e}", excerpt(answer))),
    }
}

/// Whether the answer is what the case expects.
pub(super) fn judge(case: &Case, answer: &Answer) -> Result<(), String> {
    if let Some(id) = case.request_id {
        let echoed = answer.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        if echoed != Some(id) {
            return Err(format!("expected X-Request-ID `{id}` back, got {echoed:?}"));
        }
    }
    match case.expect {
        Expect::BadRequest => match answer.status.as_u16() {
            400 => Ok(()),
            status => Err(format!("expected 400, got {status} {}", excerpt(answer))),
        },
        Expect::Decision(wanted) => decision(&json(answer)?, Some(wanted)),
        Expect::Decisions(wanted) => {
            let body = json(answer)?;
            let items = array(&body, "evaluations")?;
            if items.len() != wanted.len() {
                return Err(format!("expected {} evaluations, got {}", wanted.len(), items.len()));
            }
            for (number, (item, wanted)) in items.iter().zip(wanted).enumerate() {
                decision(item, *wanted)
                    .map_err(|why| format!("evaluation {}: {why}", number + 1))?;
            }
            Ok(())
        }
        Expect::Entities(kind, wanted) => {
            let body = json(answer)?;
            let results = array(&body, "results")?;
            for result in results {
                let (of, id) = (member(result, "type")?, member(result, "id")?);
                if of != kind {
                    return Err(format!("expected results of type `{kind}`, got `{of}` (`{id}`)"));
                }
            }
            includes(results, "id", wanted)
        }
        Expect::Actions(wanted) => {
            let body = json(answer)?;
            let results = array(&body, "results")?;
            for result in results {
                member(result, "name")?;
            }
            includes(results, "name", wanted)
        }
        Expect::Nothing => match array(&json(answer)?, "results")? {
            [] => Ok(()),
            results => Err(format!("expected no results, got {}", results.len())),
        },
        Expect::Page | Expect::NextPage => {
            let body = json(answer)?;
            array(&body, "results")?;
            match body.get("page") {
                None => Ok(()),
                Some(Value::Object(page)) => match page.get("next_token") {
                    Some(Value::String(_)) => Ok(()),
                    other => {
                        Err(format!("expected `page.next_token` to be a string, got {other:?}"))
                    }
                },
                Some(other) => Err(format!("expected `page` to be an object, got {other}")),
            }
        }
    }
}

/// The token of the next page.
pub(super) fn next_token(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    Some(body.get("page")?.get("next_token")?.as_str()?.to_owned())
}

/// A page that was asked for with a token must have a `page` of its own.
pub(super) fn later_page(answer: &Answer) -> Result<(), String> {
    array(&json(answer)?, "results")?;
    match next_token(answer) {
        Some(_) => Ok(()),
        None => Err("expected `page.next_token` to be a string".into()),
    }
}

/// The scenario's section 6.
pub(super) fn metadata(document: &Value, url: &str) -> Vec<(&'static str, &'static str, Outcome)> {
    let is = |truth: bool, why: &str| {
        if truth { Outcome::Pass } else { Outcome::Fail(why.to_owned()) }
    };
    let point = document.get("policy_decision_point").and_then(Value::as_str).unwrap_or_default();
    let mut judged = vec![
        (
            "6.3a",
            "policy_decision_point is the base URL",
            is(
                point.trim_end_matches('/') == url && point.starts_with("https://"),
                &format!("expected `{url}` (https), got `{point}`"),
            ),
        ),
        (
            "6.3b",
            "access_evaluation_endpoint",
            endpoint(document, "access_evaluation_endpoint", true),
        ),
    ];
    for (id, parameter) in [
        ("6.4a", "access_evaluations_endpoint"),
        ("6.4b", "search_subject_endpoint"),
        ("6.4c", "search_resource_endpoint"),
        ("6.4d", "search_action_endpoint"),
    ] {
        judged.push((id, parameter, endpoint(document, parameter, false)));
    }
    let capabilities = match document.get("capabilities") {
        None => Outcome::Skip("not in the document".into()),
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => Outcome::Pass,
        Some(_) => Outcome::Fail("expected an array of strings".into()),
    };
    judged.push(("6.4e", "capabilities", capabilities));
    let signed = match document.get("signed_metadata") {
        None => Outcome::Skip("not in the document".into()),
        Some(Value::String(jwt)) if jwt.split('.').count() == 3 => {
            Outcome::Skip("a JWT; this runner has no key to verify it with".into())
        }
        Some(_) => Outcome::Fail("expected a JWT".into()),
    };
    judged.push(("6.4f", "signed_metadata", signed));
    judged
}

fn endpoint(document: &Value, parameter: &str, required: bool) -> Outcome {
    match document.get(parameter) {
        None if required => Outcome::Fail("missing".into()),
        None => Outcome::Skip("not in the document".into()),
        Some(Value::String(url)) => match url.parse::<hyper::Uri>() {
            Ok(uri) if uri.scheme_str() == Some("https") => Outcome::Pass,
            _ => Outcome::Fail(format!("expected an https URL, got `{url}`")),
        },
        Some(other) => Outcome::Fail(format!("expected an https URL, got {other}")),
    }
}

fn decision(body: &Value, wanted: Option<bool>) -> Result<(), String> {
    match body.get("context") {
        None | Some(Value::Object(_)) => {}
        Some(other) => return Err(format!("expected `context` to be an object, got {other}")),
    }
    match (body.get("decision"), wanted) {
        (Some(Value::Bool(_)), None) => Ok(()),
        (Some(Value::Bool(decision)), Some(wanted)) if *decision == wanted => Ok(()),
        (Some(Value::Bool(decision)), Some(wanted)) => {
            Err(format!("expected decision {wanted}, got {decision}"))
        }
        (Some(other), _) => Err(format!("expected `decision` to be true or false, got {other}")),
        (None, _) => Err(format!("expected `decision`, got {body}")),
    }
}

fn array<'a>(body: &'a Value, name: &str) -> Result<&'a [Value], String> {
    match body.get(name) {
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("expected `{name}` to be an array")),
        None => Err(format!("expected `{name}`, got {body}")),
    }
}

fn member<'a>(result: &'a Value, name: &str) -> Result<&'a str, String> {
    let text = result.get(name).and_then(Value::as_str);
    text.ok_or_else(|| format!("expected each result to have a string `{name}`, got {result}"))
}

fn includes(results: &[Value], name: &str, wanted: &[&str]) -> Result<(), String> {
    let has = |id: &&&str| {
        results.iter().any(|result| result.get(name).and_then(Value::as_str) == Some(**id))
    };
    let missing: Vec<_> = wanted.iter().filter(|id| !has(id)).copied().collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("missing from the results: {}", missing.join(", ")))
    }
}

/// The beginning of a body, on one line.
fn excerpt(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;
    use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

    use super::super::cases::CASES;
    use super::*;

    fn answer(status: u16, kind: &'static str, body: &'static str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let status = status.try_into().unwrap();
        Answer { status, headers, body: Bytes::from_static(body.as_bytes()) }
    }

    fn judged(id: &str, status: u16, kind: &'static str, body: &'static str) -> Result<(), String> {
        let case = CASES.iter().find(|case| case.id == id).unwrap();
        judge(case, &answer(status, kind, body))
    }

    #[test]
    fn wrong_answers_fail() {
        let json = "application/json";
        let why = |id, status, kind, body| judged(id, status, kind, body).unwrap_err();
        assert_eq!(
            why("2.2.1", 200, json, r#"{"decision":false}"#),
            "expected decision true, got false"
        );
        assert_eq!(
            why("2.2.1", 200, "text/plain", r#"{"decision":true}"#),
            "expected Content-Type application/json, got `text/plain`"
        );
        assert_eq!(
            why("2.2.1", 200, json, r#"{"decision":"true"}"#),
            "expected `decision` to be true or false, got \"true\""
        );
        assert_eq!(why("2.2.1", 403, json, "{}"), "expected 200, got 403 {}");
        assert_eq!(
            why("2.4.1a", 200, json, r#"{"decision":false}"#),
            "expected 400, got 200 {\"decision\":false}"
        );
        assert_eq!(
            why("3.2.2", 200, json, r#"{"evaluations":[{"decision":false},{"decision":true}]}"#),
            "evaluation 1: expected decision true, got false"
        );
        assert_eq!(
            why("3.2.2", 200, json, r#"{"evaluations":[]}"#),
            "expected 2 evaluations, got 0"
        );
        assert_eq!(
            why("4.2.1", 200, json, r#"{"results":[{"type":"user","id":"alice"}]}"#),
            "missing from the results: bob"
        );
        assert_eq!(
            why("4.2.1", 200, json, r#"{"results":[{"type":"bot","id":"x"}]}"#),
            "expected results of type `user`, got `bot` (`x`)"
        );
        assert_eq!(
            why("2.5.1", 200, json, r#"{"decision":true}"#),
            "expected X-Request-ID `conformance-2-5-1` back, got None"
        );
    }

    #[test]
    fn right_answers_pass() {
        let json = "application/json; charset=utf-8";
        judged("2.2.1", 200, json, r#"{"decision":true,"context":{}}"#).unwrap();
        judged("2.4.1a", 400, "text/plain", "no subject").unwrap();
        judged("4.6.1", 200, json, r#"{"results":[]}"#).unwrap();
        judged("4.5.1", 200, json, r#"{"results":[],"page":{"next_token":""}}"#).unwrap();
    }

    #[test]
    fn case_ids_are_unique_and_bodies_are_what_they_claim() {
        for (number, case) in CASES.iter().enumerate() {
            assert!(CASES.iter().skip(number + 1).all(|other| other.id != case.id), "{}", case.id);
            let valid = serde_json::from_str::<Value>(case.body).is_ok();
            assert_eq!(valid, !["2.4.4", "2.4.5"].contains(&case.id), "{}", case.id);
        }
    }
}
