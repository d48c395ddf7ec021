//! What is said of policies is what stock Cedar says: errors and warnings, on generated sets.
//!
//! The stock side is built by other means: one text of all policies, links and grants made by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use cedar_policy::{
    EntityUid, Policy, PolicyId, PolicySet, Schema, SlotId, Template, ValidationMode, Validator,
};
use keepgate_policy::model::{GrantBody, LinkBody, PolicyBody, SchemaBody};
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::validate::{self, Review};
use keepgate_policy::{Encoded, Item, ItemBody, Uid};
use miette::Diagnostic;
use serde_json::json;

use crate::random::Rng;

const SETS: u64 = 600;

const TYPES: [&str; 6] = ["User", "Group", "Photo", "Album", "Folder", "color"];
const ACTIONS: [&str; 5] = ["any", "read", "write", "paint", "idle"];

const SCHEMA: &str = r#"
    entity User in [Group] { level: Long, name?: String, boss?: User };
    entity Group;
    entity Photo in [Album] { owner: User, tags?: Set<String>, ip?: ipaddr };
    entity Album in [Album];
    entity Folder;
    entity color enum ["red", "green"];
    action any;
    action read, write in [any] appliesTo {
        principal: [User], resource: [Photo, Album], context: { hour: Long, ip?: ipaddr },
    };
    action paint appliesTo { principal: [User, Group], resource: [color] };
    action idle;
"#;

/// Valid, impossible, odd and wrong ones.
const CONDITIONS: [&str; 24] = [
    "true",
    "false",
    "principal has level && principal.level > 3",
    "principal has nope",
    "principal has nope && principal.nope == 1",
    "principal.nope == 1",
    "resource in Folder::\"f\"",
    "resource in Album::\"a\"",
    "principal in Group::\"g\"",
    "principal is Photo",
    "principal is User && principal has name && principal.name == \"say_\u{4bb}ello\"",
    "principal has name && principal.name == \"\\u{202e}nimda\"",
    "principal has name && principal.name like \"*\u{4bb}a*\"",
    "principal == User::\"\u{430}dmin\"",
    "principal == User::\"a\\nb\"",
    "resource has owner && resource.owner == principal",
    "context.hour > 3",
    "context has ip && context.ip.isInRange(ip(\"10.0.0.0/8\"))",
    "resource has tags && resource.tags.contains(1)",
    "1 == \"a\"",
    "if context.hour > 1 then false else false",
    "resource == color::\"blue\"",
    "Unknown::\"x\" == principal",
    "!(resource is Photo) && resource is Photo",
];

fn entity(rng: &mut Rng, of: &[&str]) -> String {
    let kind = of[rng.below(of.len())];
    let id = if kind == "color" { "red" } else { "x" };
    format!("{kind}::\"{id}\"")
}

fn side(rng: &mut Rng, var: &str, slot: bool, usual: &[&str]) -> String {
    let of: &[&str] = if rng.chance(80) { usual } else { &TYPES };
    let value = if slot { format!("?{var}") } else { entity(rng, of) };
    let kind = of[rng.below(of.len())];
    match rng.below(if slot { 3 } else { 6 }) {
        0 => format!("{var} == {value}"),
        1 => format!("{var} in {value}"),
        2 => format!("{var} is {kind} in {value}"),
        3 => format!("{var} is {kind}"),
        _ => var.to_owned(),
    }
}

fn action(rng: &mut Rng) -> String {
    let one = |rng: &mut Rng| format!("Action::\"{}\"", ACTIONS[rng.below(ACTIONS.len())]);
    match rng.below(5) {
        0 => "action".to_owned(),
        1 | 2 => format!("action == {}", one(rng)),
        3 => format!("action in {}", one(rng)),
        _ => format!("action in [{}, {}]", one(rng), one(rng)),
    }
}

fn text(rng: &mut Rng, slots: [bool; 2]) -> String {
    let principal = side(rng, "principal", slots[0], &["User", "Group"]);
    let resource = side(rng, "resource", slots[1], &["Photo", "Album", "Folder"]);
    let effect = rng.pick(&["permit", "forbid"]);
    let mut text = format!("{effect} ({principal}, {},\n {resource})", action(rng));
    for _ in 0..rng.below(3) {
        let condition = CONDITIONS[rng.below(CONDITIONS.len())];
        text += &format!("\n{} {{ {condition} }}", rng.pick(&["when", "when", "unless"]));
    }
    text + ";"
}

fn items(rng: &mut Rng) -> Vec<Item> {
    let mut items = vec![
        Item::new("s", "", ItemBody::Service(Box::new(ServiceSettings::named("s")))),
        Item::new("s", "", ItemBody::Schema(SchemaBody { text: SCHEMA.to_owned() })),
    ];
    let body = |text| PolicyBody { text, file: String::new() };
    // Some sets have nothing to be said of.
    if rng.chance(30) {
        let condition = rng.pick(&[0, 2, 7, 15, 16, 17].map(|at| CONDITIONS[at]));
        let text = format!(
            "permit (principal, action == Action::\"read\", resource is Photo) when {{ {condition} }};"
        );
        items.push(Item::new("s", "p0", ItemBody::Policy(body(text))));
        return items;
    }
    for at in 0..1 + rng.below(4) {
        items.push(Item::new(
            "s",
            &format!("p{at}"),
            ItemBody::Policy(body(text(rng, [false, false]))),
        ));
    }
    for at in 0..rng.below(3) {
        let slots = [[true, false], [false, true], [true, true]][rng.below(3)];
        let id = format!("t{at}");
        items.push(Item::new("s", &id, ItemBody::Template(body(text(rng, slots)))));
        for link in 0..rng.below(3) {
            let value = |rng: &mut Rng, usual: &[&str]| -> Uid {
                let of: &[&str] = if rng.chance(80) { usual } else { &TYPES };
                entity(rng, of).parse().unwrap()
            };
            let link_body = LinkBody {
                template: id.clone(),
                principal: slots[0].then(|| value(rng, &["User", "Group"])),
                resource: slots[1].then(|| value(rng, &["Photo", "Album"])),
            };
            items.push(Item::new("s", &format!("l{at}{link}"), ItemBody::Link(link_body)));
        }
    }
    for at in 0..rng.below(3) {
        let uid = |text: String| text.parse::<Uid>().unwrap();
        let principal = uid(entity(rng, &["User", "Group", "Folder"]));
        let actions: Vec<Uid> =
            (0..rng.below(3)).map(|_| Uid::action(rng.pick(&ACTIONS))).collect();
        let resource = rng.chance(70).then(|| uid(entity(rng, &TYPES)));
        let grant = json!({ "principal": principal, "actions": actions, "resource": resource });
        let grant: GrantBody = serde_json::from_value(grant).unwrap();
        items.push(Item::new("s", &format!("g{at}"), ItemBody::Grant(grant)));
    }
    items
}

fn cedar_set(items: &[Item]) -> PolicySet {
    let mut set = PolicySet::new();
    let uid = |uid: &Uid| uid.to_string().parse::<EntityUid>().unwrap();
    for item in items {
        let id = PolicyId::new(&item.key.id);
        match &item.body {
            ItemBody::Policy(body) => {
                set.add(Policy::parse(Some(id), &body.text).unwrap()).unwrap();
            }
            ItemBody::Template(body) => {
                set.add_template(Template::parse(Some(id), &body.text).unwrap()).unwrap();
            }
            ItemBody::Link(body) => {
                let mut values = std::collections::HashMap::new();
                values.extend(body.principal.iter().map(|p| (SlotId::principal(), uid(p))));
                values.extend(body.resource.iter().map(|r| (SlotId::resource(), uid(r))));
                set.link(PolicyId::new(&body.template), id, values).unwrap();
            }
            ItemBody::Grant(body) => {
                let actions: Vec<String> = body.actions.iter().map(Uid::to_string).collect();
                let action = match actions.is_empty() {
                    true => "action".to_owned(),
                    false => format!("action in [{}]", actions.join(", ")),
                };
                let resource = body.resource.as_ref().map(|uid| format!("resource in {uid}"));
                let resource = resource.unwrap_or_else(|| "resource".to_owned());
                let text =
                    format!("permit (principal in {}, {action}, {resource});", body.principal);
                set.add(Policy::parse(Some(id), text).unwrap()).unwrap();
            }
            _ => {}
        }
    }
    set
}

/// The same words as an answer has.
fn words<E: Diagnostic>(error: &E, id: &str) -> String {
    let one_line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut message = one_line(error.to_string());
    let mut source = Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {}", one_line(cause.to_string()));
        source = cause.source();
    }
    if let Some(help) = error.help() {
        message = format!("{message}; {}", one_line(help.to_string()));
    }
    message.strip_prefix(&format!("for policy `{id}`, ")).unwrap_or(&message).to_owned()
}

fn review(items: &[Item]) -> Review {
    let encoded: Vec<Encoded> = items.iter().map(Encoded::of).collect();
    validate::review(encoded.iter(), false, || true)
}

type Said = BTreeMap<String, BTreeSet<String>>;

#[test]
fn errors_and_warnings_are_those_of_stock_cedar() {
    let validator = Validator::new(SCHEMA.parse::<Schema>().unwrap());
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..SETS {
        let rng = &mut Rng::new(seed);
        let items = items(rng);
        let set = cedar_set(&items);
        let stock = validator.validate(&set, ValidationMode::Strict);
        let ours = review(&items);
        let place = || format!("set {seed}: {items:#?}");

        // An error of a grant is in our words, so of errors only the policies are compared.
        let wrong: BTreeSet<String> =
            stock.validation_errors().map(|e| e.policy_id().to_string()).collect();
        let found: BTreeSet<String> = ours.problems.iter().map(|p| p.key.id.clone()).collect();
        assert_eq!(found, wrong, "{}", place());
        let landed: BTreeSet<String> =
            validate::world(&items).iter().map(|p| p.key.id.clone()).collect();
        assert_eq!(landed, wrong, "what lands: {}", place());

        let mut wanted = Said::new();
        for warning in stock.validation_warnings() {
            let id = warning.policy_id().to_string();
            let said = words(warning, &id);
            wanted.entry(id).or_default().insert(said);
        }
        let mut told = Said::new();
        for warning in &ours.warnings {
            told.entry(warning.key.id.clone()).or_default().insert(warning.message.clone());
        }
        assert_eq!(told, wanted, "{}", place());

        *tally.entry("sets").or_default() += 1;
        *tally.entry("with errors").or_default() += usize::from(!wrong.is_empty());
        *tally.entry("valid, with warnings").or_default() +=
            usize::from(wrong.is_empty() && !wanted.is_empty());
        *tally.entry("valid, without").or_default() +=
            usize::from(wrong.is_empty() && wanted.is_empty());
        for (id, messages) in &wanted {
            let sort = match id.as_bytes()[0] {
                b'p' => "of policies",
                b't' => "of templates",
                b'l' => "of links",
                _ => "of grants",
            };
            *tally.entry(sort).or_default() += messages.len();
            for message in messages {
                let kind = match message.as_str() {
                    m if m.contains("impossible") => "impossible",
                    m if m.contains("applicable action") => "without an action",
                    m if m.contains("bidirectional") || m.contains("BIDI") => "turned",
                    m if m.contains("script") => "mixed scripts",
                    _ => "other",
                };
                *tally.entry(kind).or_default() += 1;
            }
        }
    }
    for (name, count) in &tally {
        println!("{count:>8} {name}");
    }
    let least =
        ["with errors", "valid, with warnings", "valid, without", "of policies", "of links"];
    for name in
        least.into_iter().chain(["of templates", "of grants", "impossible", "without an action"])
    {
        assert!(tally.get(name).is_some_and(|count| *count >= 20), "{name}: {tally:?}");
    }
}

/// The set that landed without a word.
#[test]
fn a_scope_that_the_schema_leaves_nothing_of_is_said() {
    let policy = "permit(principal is User, action == Action::\"read\",\n resource is Photo in Folder::\"f\");";
    let body = PolicyBody { text: policy.to_owned(), file: String::new() };
    let mut items = items(&mut Rng::new(1));
    items.truncate(2);
    items.push(Item::new("s", "p", ItemBody::Policy(body)));
    let found = review(&items);
    assert_eq!(found.problems, []);
    let said: Vec<&str> = found.warnings.iter().map(|w| w.message.as_str()).collect();
    assert!(said.iter().any(|said| said.contains("policy is impossible")), "{said:?}");
    assert!(
        said.iter().any(|said| said.contains("unable to find an applicable action")),
        "{said:?}"
    );
}

#[test]
fn types_that_are_named_like_others_are_said_with_their_line() {
    let warned = |text: &str| -> Vec<(Option<usize>, String)> {
        let items = [
            Item::new("s", "", ItemBody::Service(Box::new(ServiceSettings::named("s")))),
            Item::new("s", "", ItemBody::Schema(SchemaBody { text: text.to_owned() })),
        ];
        let found = review(&items);
        assert_eq!(found.problems, [], "{text}");
        found.warnings.into_iter().map(|w| (w.spot.map(|spot| spot.line), w.message)).collect()
    };
    for (text, line, name) in [
        ("entity User;\nentity String;", 2, "`String`"),
        ("namespace A {\n\nentity Long; }", 3, "`Long`"),
        ("entity ipaddr;", 1, "`ipaddr`"),
        ("type T = Long;\nentity T;", 2, "T"),
    ] {
        let said = warned(text);
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(said[0].0 == Some(line) && said[0].1.contains(name), "{said:?}");
    }
    let said = warned("entity U;\naction \"re\u{430}d\" appliesTo { principal: U, resource: U };");
    assert!(said.len() == 1 && said[0].1.contains("several scripts"), "{said:?}");
    assert_eq!(warned("entity User;"), []);
}

/// 1,000 warnings are told, and that there are more.
#[test]
fn warnings_are_bounded() {
    let many = |count: usize| {
        let mut items = items(&mut Rng::new(1));
        items.truncate(2);
        for at in 0..count {
            let text = "permit (principal, action, resource) when { false };".to_owned();
            let body = ItemBody::Policy(PolicyBody { text, file: String::new() });
            items.push(Item::new("s", &format!("p{at:04}"), body));
        }
        review(&items).warnings
    };
    assert_eq!(many(1_000).len(), 1_000);
    let more = many(1_001);
    assert_eq!(more.len(), 1_001);
    assert!(more[1_000].message.contains("more than 1000 warnings"), "{:?}", more[1_000]);
}
