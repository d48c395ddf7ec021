//! Nothing that nests, however deep or long, ends the process or passes unchecked: policies,
//! schemas and entities, at the bounds and far beyond them, on stacks as they are in use.

use std::collections::BTreeMap;

use keepgate_policy::decision::QueryError;
use keepgate_policy::model::{EntityBody, PolicyBody, SchemaBody};
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{
    Decision, Item, ItemBody, MAX_DEPTH, MAX_TERMS, Query, Revision, Snapshot, Uid, World, bundle,
    validate,
};
use proptest::prelude::*;
use serde_json::json;

const SERVICE: &str = "orders";

/// The stack of a worker of tokio's, and of Rust's threads.
const WORKER: usize = 2 << 20;

/// Where a schema is wanted, this one: every construct below is well typed in it.
const SCHEMA: &str = "
    type A = { a?: Long };
    entity user = { n: Long, s: String, l: Set<Long> } tags Long;
    entity role;
    action read appliesTo { principal: user, resource: user, context: {} };
";

/// How a condition nests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Parens,
    ParensOpen,
    Lists,
    ListsOpen,
    Records,
    RecordsOpen,
    Nots,
    NotRun,
    Negs,
    IfElse,
    IfThen,
    IfTest,
    Plus,
    Minus,
    Times,
    Access,
    Index,
    Contains,
    Calls,
    Has,
    HasNested,
    Equals,
    Less,
    Method,
    AndOr,
    OrOfParens,
    Tags,
    Strings,
    Comments,
}

const SHAPES: [Shape; 29] = [
    Shape::Parens,
    Shape::ParensOpen,
    Shape::Lists,
    Shape::ListsOpen,
    Shape::Records,
    Shape::RecordsOpen,
    Shape::Nots,
    Shape::NotRun,
    Shape::Negs,
    Shape::IfElse,
    Shape::IfThen,
    Shape::IfTest,
    Shape::Plus,
    Shape::Minus,
    Shape::Times,
    Shape::Access,
    Shape::Index,
    Shape::Contains,
    Shape::Calls,
    Shape::Has,
    Shape::HasNested,
    Shape::Equals,
    Shape::Less,
    Shape::Method,
    Shape::AndOr,
    Shape::OrOfParens,
    Shape::Tags,
    Shape::Strings,
    Shape::Comments,
];

impl Shape {
    /// A condition that repeats the construct `n` times.
    fn condition(self, n: usize) -> String {
        let around = |open: &str, inner: &str, close: &str| {
            format!("{}{inner}{}", open.repeat(n), close.repeat(n))
        };
        match self {
            Shape::Parens => around("(", "true", ")"),
            Shape::ParensOpen => "(".repeat(n),
            Shape::Lists => format!("[{}] == [{}]", around("[", "1", "]"), around("[", "1", "]")),
            Shape::ListsOpen => "[".repeat(n),
            Shape::Records => format!("{} has a", around("{a: ", "1", "}")),
            Shape::RecordsOpen => "{a: ".repeat(n),
            Shape::Nots => around("!(", "true", ")"),
            Shape::NotRun => around("!", "true", ""),
            Shape::Negs => format!("{} == 1", around("-(", "1", ")")),
            Shape::IfElse => around("if false then false else ", "true", ""),
            Shape::IfThen => around("if true then ", "true", " else false"),
            Shape::IfTest => around("if ", "true", " then true else false"),
            Shape::Plus => format!("1{} == 1", " + 0".repeat(n)),
            Shape::Minus => format!("1{} == 1", " - 0".repeat(n)),
            Shape::Times => format!("1{} == 1", " * 1".repeat(n)),
            Shape::Access => format!("context{} == 1", ".a".repeat(n)),
            Shape::Index => format!("context{} == 1", "[\"a\"]".repeat(n)),
            Shape::Contains => format!("{} == true", around("[true].contains(", "true", ")")),
            Shape::Calls => format!("[1]{}", ".contains(1)".repeat(n)),
            Shape::Has => format!("context has a{}", ".a".repeat(n)),
            Shape::HasNested => around("(", "context", " has a)"),
            Shape::Equals => around("(1 == ", "1", ")"),
            Shape::Less => format!("1{}", " < 1".repeat(n)),
            Shape::Method => {
                format!("decimal(\"1.0\"){}", ".lessThan(decimal(\"2.0\"))".repeat(n))
            }
            Shape::AndOr => around("(true && (false || ", "true", "))"),
            Shape::OrOfParens => around("(false || ", "true", ")"),
            Shape::Tags => format!("principal{} == 1", ".getTag(\"a\")".repeat(n)),
            Shape::Strings => format!("\"{}\" == \"\"", "(".repeat(n)),
            Shape::Comments => format!("// {}\n true", "[".repeat(n)),
        }
    }

    fn policy(self, n: usize) -> String {
        format!("permit (principal, action, resource)\nwhen {{ {} }};", self.condition(n))
    }
}

/// A flat list of this many users, as people write it.
fn users(n: usize, operator: &str) -> String {
    let terms: Vec<String> = (0..n).map(|at| format!("principal == user::\"u{at}\"")).collect();
    format!("permit (principal, action, resource) when {{ {} }};", terms.join(operator))
}

fn clauses(effect: &str, n: usize, clause: &str) -> String {
    format!("{effect} (principal, action, resource) {};", clause.repeat(n))
}

fn item(body: ItemBody) -> Item {
    Item::new(SERVICE, "p", body)
}

fn policy(text: &str) -> Item {
    item(ItemBody::Policy(PolicyBody { text: text.to_owned(), file: String::new() }))
}

fn settings() -> Item {
    item(ItemBody::Service(Box::new(ServiceSettings::named(SERVICE))))
}

fn schema(text: &str) -> Item {
    item(ItemBody::Schema(SchemaBody { text: text.to_owned() }))
}

fn problems(items: Vec<Item>) -> Vec<String> {
    let items: Vec<Item> = [settings()].into_iter().chain(items).collect();
    validate::world(&items).into_iter().map(|problem| problem.to_string()).collect()
}

fn world(items: Vec<Item>) -> World {
    let mut items: Vec<Item> = [settings()].into_iter().chain(items).collect();
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let digest = keepgate_policy::Digest::of_all(&items);
    World::from_snapshot(&Snapshot { revision: Revision(1), digest, items }).unwrap()
}

fn decide(world: &World) -> Result<Decision, QueryError> {
    world.decide(
        &Query::new(&Uid::new("user", "u0"), &Uid::action("read"), &Uid::new("user", "u0"))
            .service(SERVICE),
    )
}

/// Runs on a stack of this size, where an overflow ends the test's process.
fn on<T: Send>(stack: usize, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, work);
        thread.unwrap().join().unwrap()
    })
}

/// Everything that is done with a text: `apply`, a single PUT, an export, a world, a decision.
/// What is wrong with it.
fn through_all(text: &str, schema_text: Option<&str>) -> Vec<String> {
    let schemas = || schema_text.map(schema).into_iter();
    let files = BTreeMap::from([
        ("service.toml".to_owned(), format!("name = \"{SERVICE}\"\n")),
        ("p.cedar".to_owned(), text.to_owned()),
    ]);
    let parsed = bundle::parse(&files);
    let told = problems(schemas().chain([policy(text)]).collect());
    match parsed {
        // What a file says of its texts is said of them one by one too.
        Err(errors) => {
            assert!(!told.is_empty(), "{errors:?}");
            errors.iter().map(ToString::to_string).collect()
        }
        Ok(bundle) => {
            bundle::render(SERVICE, &bundle.items);
            told
        }
    }
}

#[test]
fn sixty_four_levels_of_everything_work_on_a_worker() {
    for shape in SHAPES {
        // Two levels at a time.
        let text = shape.policy(if shape == Shape::AndOr { 32 } else { 64 });
        on(WORKER, || {
            let told = through_all(&text, None);
            // Texts that Cedar has no meaning for are refused for what they are.
            match told.first() {
                Some(problem) => assert!(!problem.contains("levels"), "{shape:?}: {problem}"),
                None => {
                    let decided = decide(&world(vec![policy(&text)]));
                    assert!(decided.is_ok(), "{shape:?}: {decided:?}");
                }
            }
        });
    }
}

#[test]
fn the_bound_is_exact_and_named_with_its_line() {
    for shape in [Shape::Plus, Shape::Access, Shape::Nots, Shape::Records, Shape::IfElse] {
        let fits = |n: usize| on(WORKER, || through_all(&shape.policy(n), None));
        let last = (1..=MAX_DEPTH + 2).take_while(|n| fits(*n).is_empty()).last().unwrap();
        // Each has a comparison or a literal of its own.
        assert!((MAX_DEPTH - 3..=MAX_DEPTH).contains(&last), "{shape:?}: {last}");
        let problem = fits(last + 1).remove(0);
        assert!(problem.starts_with("p.cedar:2: "), "{shape:?}: {problem}");
        assert!(problem.contains(&format!("at most {MAX_DEPTH} are allowed")), "{problem}");
        // At the bound it is decided on a worker.
        on(WORKER, || {
            let decided = decide(&world(vec![policy(&shape.policy(last))]));
            assert!(decided.is_ok(), "{shape:?}: {decided:?}");
        });
    }
}

#[test]
fn far_beyond_the_bound_everything_is_refused_by_name() {
    for n in [129, 365, 1_000, 10_000, 100_000] {
        for shape in SHAPES {
            let text = shape.policy(n);
            on(WORKER, || {
                let told = through_all(&text, Some(SCHEMA));
                match shape {
                    Shape::Strings | Shape::Comments => assert_eq!(told, [""; 0], "{shape:?} {n}"),
                    _ => assert!(!told.is_empty(), "{shape:?} {n}"),
                }
            });
        }
    }
}

#[test]
fn flat_chains_of_ten_thousand_terms_work() {
    let schema = SCHEMA.replace("entity role;", "entity role in role;");
    for schema in [None, Some(schema.as_str())] {
        for (text, allowed) in [
            (users(10_000, " || "), true),
            (users(10_000, " && "), false),
            (users(365, " ||\n "), true),
            (clauses("permit", 10_000, " when { true }"), true),
            (clauses("permit", 10_000, " unless { false }"), true),
            (clauses("forbid", 500, " unless { false }"), false),
            (clauses("permit", 500, " when { true } unless { false }"), true),
        ] {
            on(WORKER, || {
                let shown: String = text.chars().take(90).collect();
                // A list of which only one can be true is no error in Cedar.
                assert_eq!(through_all(&text, schema), [""; 0], "{shown}");
                let decision = decide(&world(vec![policy(&text)])).unwrap();
                assert_eq!(decision.is_allowed(), allowed, "{shown}");
                assert_eq!(decision.errors, [], "{shown}");
            });
        }
    }
}

#[test]
fn more_terms_than_the_bound_are_refused() {
    for text in [
        users(MAX_TERMS + 1, "||"),
        users(MAX_TERMS + 1, "&&"),
        clauses("permit", MAX_TERMS + 1, "when{true}"),
        format!("permit (principal, action, resource) when {{ {} }};", "1||".repeat(300_000)),
    ] {
        let told = on(WORKER, || through_all(&text, None));
        assert!(told[0].contains(&format!("more than {MAX_TERMS} terms")), "{}", told[0]);
    }
}

#[test]
fn a_forbid_of_five_hundred_clauses_forbids() {
    let text = clauses("forbid", 500, " unless {false}");
    let permit = Item::new(
        SERVICE,
        "q",
        ItemBody::Policy(PolicyBody {
            text: "permit (principal, action, resource);".to_owned(),
            file: String::new(),
        }),
    );
    on(WORKER, || {
        let decision = decide(&world(vec![policy(&text), permit])).unwrap();
        assert!(!decision.is_allowed());
        assert_eq!(decision.errors, []);
    });
}

#[test]
fn without_stack_nothing_is_decided_and_nothing_is_skipped() {
    let permit = "permit (principal, action, resource);".to_owned();
    let permit = ItemBody::Policy(PolicyBody { text: permit, file: String::new() });
    let text = Shape::AndOr.policy(24).replace("permit", "forbid");
    let world = world(vec![policy(&text), Item::new(SERVICE, "q", permit)]);
    assert!(!decide(&world).unwrap().is_allowed());
    // Cedar wants 100 KiB to be left: here there are few.
    let error = on(112 << 10, || decide(&world)).unwrap_err();
    assert!(matches!(&error, QueryError::Undecided { policy, .. } if &**policy == "p"), "{error}");
    assert!(error.is_undecided());
}

#[test]
fn what_landed_before_the_bound_is_kept_and_not_decided() {
    let permit = "permit (principal, action, resource);".to_owned();
    let permit =
        Item::new(SERVICE, "q", ItemBody::Policy(PolicyBody { text: permit, file: String::new() }));
    for body in [
        ItemBody::Policy(PolicyBody { text: Shape::Parens.policy(5_000), file: String::new() }),
        ItemBody::Policy(PolicyBody { text: Shape::Plus.policy(500), file: String::new() }),
        ItemBody::Schema(SchemaBody {
            text: format!("entity a = {{ a: {}Long{} }};", "Set<".repeat(5_000), ">".repeat(5_000)),
        }),
    ] {
        on(WORKER, || {
            let world = world(vec![item(body), permit.clone()]);
            let error = decide(&world).unwrap_err();
            assert!(error.is_undecided(), "{error}");
            assert!(error.to_string().contains("levels deep"), "{error}");
        });
    }
}

/// Terms of a chain: true, false, no truth value, failing.
fn term() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => Just("principal == user::\"u0\""),
        6 => Just("principal == user::\"u1\""),
        1 => Just("true"),
        1 => Just("false"),
        1 => Just("1"),
        1 => Just("context.missing == 1"),
        1 => Just("(principal has l && principal.l.isEmpty())"),
        1 => Just("(principal == user::\"u1\" || 1 == 1)"),
    ]
}

/// One chain within another, long enough to be balanced.
fn chain() -> impl Strategy<Value = String> {
    let joined = |operator: &'static str, other: &'static str| {
        let inner = proptest::collection::vec(term(), 1..4)
            .prop_map(move |terms| format!("({})", terms.join(other)));
        let term = prop_oneof![4 => term().prop_map(str::to_owned), 1 => inner];
        proptest::collection::vec(term, 50..90).prop_map(move |terms| terms.join(operator))
    };
    prop_oneof![joined(" || ", " && "), joined(" && ", " || "), joined(" } when { ", " || ")]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// The same answer as stock Cedar's, which keeps the chain as it is; and the validator has an
    /// objection to one exactly if it has one to the other.
    #[test]
    fn a_balanced_chain_is_the_chain(condition in chain()) {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let (stock_valid, stock_allows, stock_errors) = on(64 << 20, || stock(&text));
        let valid = problems(vec![schema(SCHEMA), policy(&text)]).is_empty();
        prop_assert_eq!(valid, stock_valid);
        let decision = decide(&world(vec![policy(&text)])).unwrap();
        prop_assert_eq!(decision.is_allowed(), stock_allows);
        let errors: Vec<String> = decision.errors.into_iter().map(|e| e.message).collect();
        prop_assert_eq!(errors, stock_errors);
    }
}

/// Whether stock Cedar's validator passes the policy, whether it allows, and its errors.
fn stock(text: &str) -> (bool, bool, Vec<String>) {
    use cedar_policy::{
        AuthorizationError, Authorizer, Context, Decision, Entities, Policy, PolicyId, PolicySet,
        Request, Schema, ValidationMode, Validator,
    };
    let policy = Policy::parse(Some(PolicyId::new("p")), text).unwrap();
    let set = PolicySet::from_policies([policy]).unwrap();
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
    let valid = Validator::new(schema).validate(&set, ValidationMode::Strict).validation_passed();
    let user = || "user::\"u0\"".parse().unwrap();
    let action = "Action::\"read\"".parse().unwrap();
    let request = Request::new(user(), action, user(), Context::empty(), None).unwrap();
    let answer = Authorizer::new().is_authorized(&request, &set, &Entities::empty());
    let errors = answer
        .diagnostics()
        .errors()
        .map(|AuthorizationError::PolicyEvaluationError(error)| error.inner().to_string());
    (valid, answer.decision() == Decision::Allow, errors.collect())
}

fn entity(value: serde_json::Value) -> Item {
    let uid = Uid::new("user", "u0");
    item(ItemBody::Entity(EntityBody {
        uid,
        attrs: BTreeMap::from([("a".to_owned(), value)]),
        parents: Vec::new(),
        tags: BTreeMap::new(),
    }))
}

fn nested(n: usize, wrap: impl Fn(serde_json::Value) -> serde_json::Value) -> serde_json::Value {
    (0..n).fold(json!(1), |inner, _| wrap(inner))
}

#[test]
fn entities_nest_to_the_bound() {
    let record = |inner| json!({ "a": inner });
    let list = |inner| json!([inner]);
    for n in [1, 64, keepgate_policy::json::MAX_DEPTH] {
        for value in [nested(n, record), nested(n, list)] {
            on(WORKER, || {
                let entity = entity(value);
                assert_eq!(problems(vec![entity.clone()]), [""; 0], "{n}");
                // The canonical body is read back, and the world holds it.
                let read = Item::decode(entity.key.clone(), &entity.encode()).unwrap();
                decide(&world(vec![read])).unwrap();
            });
        }
    }
    for n in [keepgate_policy::json::MAX_DEPTH + 1, 1_000] {
        for value in [nested(n, record), nested(n, list)] {
            on(WORKER, || {
                let told = problems(vec![entity(value)]);
                assert!(told[0].contains("levels deep"), "{n}: {told:?}");
            });
        }
    }
}

#[test]
fn long_chains_and_circles_of_parents_are_walked() {
    const LONG: usize = 30_000;
    let uid = |at: usize| Uid::new("user", format!("u{at}"));
    let link = |at: usize, parent: usize| {
        item(ItemBody::Entity(EntityBody {
            uid: uid(at),
            attrs: BTreeMap::new(),
            parents: vec![uid(parent)],
            tags: BTreeMap::new(),
        }))
    };
    let text = format!("permit (principal in user::\"u{LONG}\", action, resource);");
    let chain: Vec<Item> = (0..LONG).map(|at| link(at, at + 1)).chain([policy(&text)]).collect();
    let mut circle = chain.clone();
    circle.push(link(LONG, 0));
    on(WORKER, || {
        assert_eq!(problems(chain.clone()), [""; 0]);
        assert!(decide(&world(chain)).unwrap().is_allowed());
        let told = problems(circle.clone());
        assert!(told[0].contains("forms a cycle"), "{told:?}");
        assert!(told[0].len() < 1_000, "{}", told[0].len());
        assert!(decide(&world(circle)).unwrap().is_allowed());
    });
}

/// Schemas at a size, and whether Cedar could take them.
fn schemas(n: usize) -> Vec<(&'static str, String)> {
    let many = |each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<String>();
    vec![
        ("sets", format!("entity e = {{ a: {}Long{} }};", "Set<".repeat(n), ">".repeat(n))),
        ("sets open", format!("entity e = {{ a: {}", "Set<".repeat(n))),
        ("records", format!("entity e = {{ a: {}Long{} }};", "{a: ".repeat(n), "}".repeat(n))),
        ("records open", format!("entity e = {}", "{a: ".repeat(n))),
        ("namespaces", format!("namespace {}a {{ entity e; }}", "a::".repeat(n))),
        (
            "chain of types",
            many(&|at| format!("type t{at} = Set<t{}>;\n", at + 1)) + &format!("type t{n} = Long;"),
        ),
        (
            "chain of records",
            many(&|at| format!("type t{at} = {{ a: t{} }};\n", at + 1))
                + &format!("type t{n} = Long;"),
        ),
        ("circle of types", many(&|at| format!("type t{at} = Set<t{}>;\n", (at + 1) % n))),
        (
            "multiplied types",
            many(&|at| format!("type t{at} = {{ a: t{0}, b: t{0} }};\n", at + 1))
                + &format!("type t{n} = Long; entity e = {{ a: t0 }};"),
        ),
        (
            "chain of actions",
            many(&|at| format!("action a{at} in a{};\n", at + 1)) + &format!("action a{n};"),
        ),
        ("circle of actions", many(&|at| format!("action a{at} in a{};\n", (at + 1) % n))),
        (
            "chain of entity types",
            many(&|at| format!("entity e{at} in e{};\n", at + 1)) + &format!("entity e{n};"),
        ),
        ("circle of entity types", many(&|at| format!("entity e{at} in e{};\n", (at + 1) % n))),
        ("members", format!("entity e = {{ {} }};", many(&|at| format!("a{at}: Long,")))),
        ("annotations", many(&|at| format!("@a{at}(\"x\")\n")) + "entity e;"),
        (
            "environments",
            many(&|at| format!("entity e{at};"))
                + &format!(
                    "action a appliesTo {{ principal: [{0}], resource: [{0}] }};",
                    (0..n).map(|at| format!("e{at}")).collect::<Vec<_>>().join(",")
                ),
        ),
    ]
}

#[test]
fn schemas_nest_to_the_bound_and_no_further() {
    for n in [20, 60, 1_000, 3_000] {
        for (name, text) in schemas(n) {
            let told = on(WORKER, || problems(vec![schema(&text)]));
            let accepted = match name {
                "circle of types" | "circle of actions" | "sets open" | "records open" => false,
                "multiplied types" => n < 16,
                "namespaces" | "annotations" => true,
                "members" => n < 1_024,
                "circle of entity types"
                | "chain of entity types"
                | "chain of actions"
                | "environments" => n < 200,
                _ => n < MAX_DEPTH,
            };
            assert_eq!(told.is_empty(), accepted, "{name} {n}: {told:?}");
            // A world takes what is stored, whatever it is, or says that it cannot.
            on(WORKER, || {
                let items = [settings(), schema(&text)];
                let digest = keepgate_policy::Digest::of_all(&items);
                let snapshot = Snapshot { revision: Revision(1), digest, items: items.to_vec() };
                let _ = World::from_snapshot(&snapshot).map(|world| decide(&world));
            });
        }
    }
}
