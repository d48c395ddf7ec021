//! Cedar's corpus (`corpus-tests` of its integration tests), held against stock Cedar: what lands, what is
//! warned of, and each decision with its reasons and errors. `scripts/long cedar-corpus DIR` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement may fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cedar_policy::{
    Authorizer, Context, Entities, EntityUid, PolicySet, Request, Schema, ValidationMode, Validator,
};
use keepgate_policy::bundle;
use keepgate_policy::{Encoded, Query, Uid, validate};
use serde_json::Value;

fn main() {
    let dir = std::env::args().nth(1).expect("usage: cedar_corpus DIR");
    let mut tally = Tally::default();
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json") && !name.ends_with(".entities.json"))
        .collect();
    names.sort();
    for name in names {
        one(Path::new(&dir), name.strip_suffix(".json").unwrap(), &mut tally);
    }
    for (what, count) in &tally.counts {
        println!("{count:>8} {what}");
    }
    for (what, names) in &tally.differ {
        println!(
            "DIFFER {what}: {} sets, such as {:?}",
            names.len(),
            names.iter().take(5).collect::<Vec<_>>()
        );
    }
    assert!(tally.differ.is_empty(), "there are differences");
}

#[derive(Default)]
struct Tally {
    counts: BTreeMap<&'static str, usize>,
    differ: BTreeMap<String, BTreeSet<String>>,
}

impl Tally {
    fn count(&mut self, what: &'static str, when: bool) {
        *self.counts.entry(what).or_default() += usize::from(when);
    }

    fn differ(&mut self, what: &str, name: &str) {
        self.differ.entry(what.to_owned()).or_default().insert(name.to_owned());
    }
}

fn one(dir: &Path, name: &str, tally: &mut Tally) {
    let read = |end: &str| std::fs::read_to_string(dir.join(format!("{name}{end}"))).unwrap();
    let test: Value = serde_json::from_str(&read(".json")).unwrap();
    let (schema_text, policy_text, entity_text) =
        (read(".cedarschema"), read(".cedar"), read(".entities.json"));
    let should = test["shouldValidate"].as_bool().unwrap();
    tally.count("sets", true);
    tally.count("sets that the corpus calls invalid", !should);

    // Stock.
    let (Ok((schema, schema_warnings)), Ok(set)) =
        (Schema::from_cedarschema_str(&schema_text), policy_text.parse::<PolicySet>())
    else {
        return tally.count("sets that stock Cedar does not read", true);
    };
    let schema_warnings = schema_warnings.count();
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let wrong: BTreeSet<String> =
        result.validation_errors().map(|e| e.policy_id().to_string()).collect();
    let mut warned: BTreeMap<String, usize> = BTreeMap::new();
    for warning in result.validation_warnings() {
        *warned.entry(warning.policy_id().to_string()).or_default() += 1;
    }

    // Ours: the same files, as apply reads them.
    let files = BTreeMap::from([
        ("service.toml".to_owned(), "name = \"s\"\n".to_owned()),
        ("policies.cedar".to_owned(), policy_text),
        ("schema.cedarschema".to_owned(), schema_text),
    ]);
    let bundle = match bundle::parse(&files) {
        Ok(bundle) => bundle,
        Err(errors) => {
            let bound = errors.iter().all(|e| e.message.contains("at most"));
            return if bound {
                tally.count("sets beyond a bound", true);
            } else {
                println!("{name}: {}", errors[0]);
                tally.differ("does not parse", name);
            };
        }
    };
    let id = |ours: &str| match ours {
        "policies" => "policy0".to_owned(),
        other => match other.strip_prefix("policies#").and_then(|n| n.parse::<usize>().ok()) {
            Some(n) => format!("policy{}", n - 1),
            None => other.to_owned(),
        },
    };
    let encoded: Vec<Encoded> = bundle.items.iter().map(Encoded::of).collect();
    let review = validate::review(encoded.iter(), false, || true);
    let of_policy = |kind: keepgate_policy::Kind| kind != keepgate_policy::Kind::Schema;
    let found: BTreeSet<String> =
        review.problems.iter().filter(|p| of_policy(p.key.kind)).map(|p| id(&p.key.id)).collect();
    let bounds = review.problems.iter().filter(|p| p.message.contains("at most")).count();
    if bounds > 0 {
        return tally.count("sets beyond a bound", true);
    }
    if found != wrong {
        println!("{name}: errors {found:?}, stock {wrong:?}: {:?}", review.problems.first());
        tally.differ("errors", name);
    }
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for warning in review.warnings.iter().filter(|w| of_policy(w.key.kind)) {
        *told.entry(id(&warning.key.id)).or_default() += 1;
    }
    if wrong.is_empty() && told.keys().ne(warned.keys()) {
        println!("{name}: warnings {told:?}, stock {warned:?}");
        tally.differ("warnings", name);
    }
    let of_schema = review.warnings.iter().filter(|w| !of_policy(w.key.kind)).count();
    if of_schema < schema_warnings {
        tally.differ("warnings of the schema", name);
    }
    tally.count("invalid by the corpus, refused", !should && !found.is_empty());
    tally
        .count("invalid by the corpus, warned of", !should && found.is_empty() && !told.is_empty());
    if !should && review.problems.is_empty() && review.warnings.is_empty() {
        tally.differ("invalid, and nothing is said", name);
    }

    // Decisions, without the schema on either side: the corpus has the answers.
    let entities = Entities::from_json_str(&entity_text, None).unwrap();
    let mut files = files;
    files.remove("schema.cedarschema");
    files.insert("entities.json".to_owned(), entity_text);
    let Ok(bundle) = bundle::parse(&files) else { return tally.differ("entities", name) };
    let Ok(world) = bundle.world() else { return tally.differ("world", name) };
    for request in test["requests"].as_array().unwrap() {
        let ours = |side: &str| -> Uid {
            let value = &request[side];
            serde_json::from_value(value.get("__entity").unwrap_or(value).clone()).unwrap()
        };
        let (principal, action, resource) = (ours("principal"), ours("action"), ours("resource"));
        let stock = |uid: &Uid| uid.to_string().parse::<EntityUid>().unwrap();
        let context = Context::from_json_value(request["context"].clone(), None).unwrap();
        let asked =
            Request::new(stock(&principal), stock(&action), stock(&resource), context, None)
                .unwrap();
        let answer = Authorizer::new().is_authorized(&asked, &set, &entities);
        let reasons: BTreeSet<String> =
            answer.diagnostics().reason().map(ToString::to_string).collect();
        let failed: BTreeSet<String> = answer
            .diagnostics()
            .errors()
            .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(e)| {
                e.policy_id().to_string()
            })
            .collect();
        let context: BTreeMap<String, Value> =
            serde_json::from_value(request["context"].clone()).unwrap();
        let query = Query::new(&principal, &action, &resource).service("s").context(&context);
        tally.count("requests", true);
        match world.decide(&query.cedar_json()) {
            Ok(decision) => {
                let determining: BTreeSet<String> =
                    decision.determining.iter().map(|name| id(name)).collect();
                let errors: BTreeSet<String> =
                    decision.errors.iter().map(|error| id(&error.policy)).collect();
                let allow = answer.decision() == cedar_policy::Decision::Allow;
                tally.count("allowed", allow);
                tally.count("with errors", !failed.is_empty());
                if (decision.is_allowed(), determining, errors) != (allow, reasons, failed) {
                    println!("{name}: {}: another answer", request["description"]);
                    tally.differ("decisions", name);
                }
            }
            Err(error) => {
                println!("{name}: {}: {error}", request["description"]);
                tally.differ("no decision", name);
            }
        }
    }
}
