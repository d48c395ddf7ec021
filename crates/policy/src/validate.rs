//! Checks that stand between an edit and a revision: parse, schema, references.
//!
//! What [`world`] accepts, a [`crate::World`] can be built from, and Cedar's own validator has no
//! objection in strict mode. Whether limits hold together is said by the `limit` crate. All
//! problems are reported, not only the first.

mod effort;
mod entities;
mod policies;
mod review;
mod warn;

pub use effort::MAX_STEPS;
pub use review::{Review, review};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy_core::ast::Template;
use cedar_policy_core::validator::ValidatorSchema;

use self::effort::Effort;
use crate::bundle::FileLine;
use crate::caution::Warning;
use crate::cedar_text::{self, PolicyError, Sort};
use crate::identify::Identify;
use crate::instant;
use crate::look_alike;
use crate::model::{GrantBody, Item, ItemBody, ItemKey, Kind, MemberBody, Uid};
use crate::route::Route;
use crate::router::Router;
use crate::spot::Spot;
use crate::wire::MAX_ITEM_BYTES;

/// The longest id of an item in bytes.
pub const MAX_ID_BYTES: usize = 1024;

/// Why a state cannot become a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemProblem {
    /// The item at fault.
    pub key: ItemKey,
    /// The place within the item's text (policies, schemas), where it is known.
    pub spot: Option<Spot>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl ItemProblem {
    /// The file and line, where the item came from a bundle.
    pub fn place(&self, places: &BTreeMap<ItemKey, FileLine>) -> Option<FileLine> {
        let place = places.get(&self.key)?;
        Some(place.within(self.spot))
    }
}

impl std::fmt::Display for ItemProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(f)?;
        if let Some(spot) = self.spot {
            write!(f, ", line {}", spot.line)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// The smallest `max_age` that a service or route may be given, in milliseconds. A healthy gate's age
/// is up to a second and the way to the center and back; a smaller bound fails on every hiccup.
pub const MIN_MAX_AGE_MS: u64 = 3_000;

/// Checks an item that is put, and not those that are there: what an earlier release accepted stays.
pub fn put(item: &Item) -> Option<ItemProblem> {
    let max_age_ms = match &item.body {
        ItemBody::Service(settings) => Some(settings.max_age_ms),
        ItemBody::Route(route) => route.max_age_ms,
        _ => None,
    };
    let max_age_ms = max_age_ms.filter(|ms| *ms < MIN_MAX_AGE_MS)?;
    Some(ItemProblem {
        key: item.key.clone(),
        spot: None,
        message: format!(
            "`max_age` is {max_age_ms} ms, at least {MIN_MAX_AGE_MS} ms are possible: a gate hears its \
             center once a second"
        ),
    })
}

/// Checks a whole state, or a part of it that holds everything its parts refer to: the directory
/// and the services that changed.
pub fn world(items: &[Item]) -> Vec<ItemProblem> {
    checked(items, &mut Known::default(), true)
}

/// The same, of one portion of a change after the other. Circles of membership may span portions:
/// they are not looked for here, see [`crate::World::circles`].
pub fn portion(items: &[Item], known: &mut Known) -> Vec<ItemProblem> {
    checked(items, known, false)
}

fn checked(items: &[Item], known: &mut Known, with_circles: bool) -> Vec<ItemProblem> {
    let mut check = Check { known: std::mem::take(known), ..Check::default() };
    let mut seen = BTreeSet::new();
    let mut services: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for item in items {
        if !seen.insert(&item.key) {
            check.problem(&item.key, "it occurs twice");
            continue;
        }
        check.alone(item);
        services.entry(&item.key.service).or_default().push(item);
    }
    let directory = services.remove("").unwrap_or_default();
    if with_circles {
        check.memberships(&directory);
    }
    // The directory's entities are seen by services with different schemas, so they need to be
    // Cedar entities only.
    check.entities(None, &directory);
    for (service, own) in &services {
        check.service(service, own);
        if with_circles {
            check.circles_of_service(own, &directory);
        }
    }
    *known = check.known;
    check.problems
}

/// What is kept from one portion of a change to the next: the schema, so that it is parsed once, and
/// what the type checks took so far, which is bounded ([`MAX_STEPS`]).
#[derive(Default)]
pub struct Known {
    schema: Option<(String, Result<Arc<Types>, PolicyError>)>,
    steps: u64,
    /// Templates without their conditions, by id.
    scopes: HashMap<String, Template>,
    /// What Cedar warns of; none: it is not asked.
    warnings: Option<Vec<Warning>>,
    /// Some files could not be read, so that what is missing may be in them.
    is_partial: bool,
}

impl Known {
    /// Whether a template is known, so that links of it can be checked.
    pub fn has_template(&self, id: &str) -> bool {
        self.scopes.contains_key(id)
    }

    /// Takes note of a template that is checked elsewhere, or was before it landed: the links in later
    /// portions may be of it. Of a text that does not parse there is nothing to note.
    pub fn template(&mut self, item: &Item) {
        let ItemBody::Template(body) = &item.body else { return };
        let scope = |template| Ok(policies::scope_of(&template));
        if let Ok(scope) = cedar_text::read(Sort::Template, Some(&item.key.id), &body.text, scope) {
            self.scopes.insert(item.key.id.clone(), scope);
        }
    }
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// A schema, as policies and as entities are held against it.
struct Types {
    policies: ValidatorSchema,
    entities: cedar_policy::Schema,
    effort: Effort,
}

impl Types {
    fn of(schema: ValidatorSchema) -> Types {
        let (entities, effort) = (schema.clone().into(), Effort::of(&schema));
        Types { policies: schema, entities, effort }
    }
}

#[derive(Default)]
struct Check {
    problems: Vec<ItemProblem>,
    directory_has_circles: bool,
    known: Known,
}

impl Check {
    fn problem(&mut self, key: &ItemKey, message: impl Into<String>) {
        self.at(key, None, message);
    }

    fn at(&mut self, key: &ItemKey, spot: Option<Spot>, message: impl Into<String>) {
        self.problems.push(ItemProblem { key: key.clone(), spot, message: message.into() });
    }

    /// What can be said of an item without looking at others.
    fn alone(&mut self, item: &Item) {
        let key = &item.key;
        if let Err(error) = item.check_key() {
            // The text names the item, and so does the problem.
            let text = error.to_string();
            let named = format!("{key}: ");
            self.problem(key, text.strip_prefix(&named).unwrap_or(&text));
        }
        if key.id.len() > MAX_ID_BYTES {
            let message = format!("the id has {} bytes, at most {MAX_ID_BYTES}", key.id.len());
            self.problem(key, message);
        }
        let bytes = match is_surely_small(item) {
            true => 0,
            false => item.encode().len() + key.id.len() + key.service.len() + 64,
        };
        if bytes > MAX_ITEM_BYTES {
            let message = format!("it has {bytes} bytes, at most {MAX_ITEM_BYTES}; divide it");
            self.problem(key, message);
        }
        for (name, value) in values(&item.body) {
            if crate::json::is_too_deep(value) {
                let message = format!(
                    "`{name}` nests more than {0} levels deep, at most {0} are allowed",
                    crate::json::MAX_DEPTH
                );
                self.problem(key, message);
            }
        }
        if let ItemBody::Member(MemberBody { until_unix_s: Some(at), .. })
        | ItemBody::Grant(GrantBody { until_unix_s: Some(at), .. }) = &item.body
            && *at > instant::LAST
        {
            let most = instant::LAST;
            let message = format!("`until_unix_s`: expected at most {most} (year 9999), got {at}");
            self.problem(key, message);
        }
        for uid in uids(&item.body) {
            if !uid.has_valid_kind() {
                self.problem(key, format!("`{}` is not an entity type", uid.kind));
            }
        }
        if let ItemBody::Key(body) = &item.body
            && (body.sha256.len() != 64
                || !body.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        {
            self.problem(key, "`sha256` has 64 hexadecimal digits in lower case");
        }
    }

    /// Membership must not lead in a circle; neither must parents, which Cedar checks with them.
    fn memberships(&mut self, directory: &[&Item]) {
        let before = self.problems.len();
        self.circles(&edges(directory.iter().copied()));
        self.directory_has_circles = self.problems.len() > before;
    }

    /// A depth-first walk with an explicit stack: a long chain is no reason to overflow.
    fn circles(&mut self, parents: &Edges<'_>) {
        let before = self.problems.len();
        let mut starts: Vec<&&Uid> = parents.keys().collect();
        starts.sort();
        let mut done: BTreeSet<&Uid> = BTreeSet::new();
        for start in starts {
            let mut path: Vec<(&Uid, usize)> = vec![(start, 0)];
            let mut on_path: BTreeSet<&Uid> = BTreeSet::from([*start]);
            while let Some((at, next)) = path.last_mut() {
                let edge = if done.contains(*at) {
                    None
                } else {
                    parents.get(*at).and_then(|list| list.get(*next))
                };
                *next += 1;
                match edge {
                    Some((parent, key)) if on_path.contains(parent) => {
                        if self.problems.len() - before >= CIRCLES {
                            return;
                        }
                        let from = path.iter().position(|(uid, _)| uid == parent).unwrap_or(0);
                        let steps = path.iter().skip(from).map(|(uid, _)| *uid);
                        let message = format!(
                            "membership forms a cycle: {}; remove one step of it",
                            circle(steps, path.len() - from, parent)
                        );
                        self.problem(key, message);
                    }
                    Some((parent, _)) => {
                        path.push((parent, 0));
                        on_path.insert(parent);
                    }
                    None => {
                        on_path.remove(*at);
                        done.insert(at);
                        path.pop();
                    }
                }
            }
        }
    }

    fn circles_of_service(&mut self, own: &[&Item], directory: &[&Item]) {
        let has_parents =
            |item: &&Item| matches!(&item.body, ItemBody::Entity(body) if !body.parents.is_empty());
        if own.iter().any(has_parents) && !self.directory_has_circles {
            self.circles(&edges(own.iter().chain(directory).copied()));
        }
    }

    fn service(&mut self, service: &str, own: &[&Item]) {
        if !self.known.is_partial
            && !own.iter().any(|item| item.key.kind == Kind::Service)
            && let Some(first) = own.first()
        {
            let message = format!("there is no service `{service}`; create it first");
            self.problem(&first.key, message);
        }
        let schema = own.iter().find_map(|item| match &item.body {
            ItemBody::Schema(body) => Some((&item.key, &body.text)),
            _ => None,
        });
        let schema = schema.and_then(|(key, text)| Some((key, self.schema(key, text)?)));
        self.policies(schema.as_ref().map(|(key, types)| (*key, &**types)), own);
        self.entities(schema.as_ref().map(|(_, types)| &types.entities), own);
        self.routes(own);
    }

    fn schema(&mut self, key: &ItemKey, text: &str) -> Option<Arc<Types>> {
        let known = self.known.schema.take().filter(|(known, _)| known == text);
        let known = known.unwrap_or_else(|| {
            let read = cedar_text::schema::parse_with_warnings(text);
            let types = read.map(|(schema, warnings)| {
                for (line, message) in warnings {
                    self.warn(key, line, message);
                }
                for action in schema.action_ids().map(|action| action.name().eid()) {
                    let suspect = look_alike::suspect(action.as_ref());
                    if let Some(why) = suspect {
                        self.warn(key, None, look_alike::told("an action", action.as_ref(), &why));
                    }
                }
                Arc::new(Types::of(schema))
            });
            (text.to_owned(), types)
        });
        let (_, read) = self.known.schema.insert(known);
        match read.clone() {
            Ok(types) => Some(types),
            Err(error) => {
                for (spot, message) in error.all() {
                    self.at(key, spot, message);
                }
                None
            }
        }
    }

    fn routes(&mut self, own: &[&Item]) {
        let routes: Vec<Route> = own
            .iter()
            .filter_map(|item| match &item.body {
                ItemBody::Route(route) => Some((&item.key, route.as_ref())),
                _ => None,
            })
            .filter_map(|(key, route)| match route.check() {
                Ok(_) => Some(route.clone()),
                Err(error) => {
                    self.problem(key, error.to_string());
                    None
                }
            })
            .collect();
        let first = routes.first().map(|route| {
            let service = own.first().map_or("", |item| item.key.service.as_str());
            ItemKey::route(service, &route.method, &route.path)
        });
        let fold = own.iter().find_map(|item| match &item.body {
            ItemBody::Service(settings) => Some(settings.paths_fold),
            _ => None,
        });
        let router = Router::folding(routes, fold.unwrap_or_default());
        if let (Err(error), Some(first)) = (router, first) {
            self.problem(&first, error.to_string());
        }
        let identify = own.iter().find_map(|item| match &item.body {
            ItemBody::Service(settings) => Some((&item.key, &settings.identify)),
            _ => None,
        });
        if let Some((key, Identify { anonymous: who, .. })) = identify
            && !who.principal.has_valid_kind()
        {
            let message = format!("`{}` is not an entity type", who.principal.kind);
            self.problem(key, message);
        }
    }
}

/// The most circles that are told; each takes as long as its path.
const CIRCLES: usize = 100;

/// A circle in words; of a long one its beginning and its end.
fn circle<'u>(steps: impl Iterator<Item = &'u Uid>, count: usize, back: &Uid) -> String {
    const SHOWN: usize = 10;
    let mut shown: Vec<String> = steps.take(SHOWN).map(ToString::to_string).collect();
    if count > SHOWN {
        shown.push(format!(".. ({} more)", count - SHOWN));
    }
    shown.push(back.to_string());
    shown.join(" in ")
}

/// From an entity to its parents, with the item that says so.
type Edges<'a> = HashMap<&'a Uid, Vec<(&'a Uid, &'a ItemKey)>>;

fn edges<'a>(items: impl Iterator<Item = &'a Item>) -> Edges<'a> {
    let mut parents: Edges<'a> = HashMap::new();
    for item in items {
        match &item.body {
            ItemBody::Member(body) => {
                parents.entry(&body.member).or_default().push((&body.role, &item.key));
            }
            ItemBody::Entity(body) if !body.parents.is_empty() => {
                let list = parents.entry(&body.uid).or_default();
                list.extend(body.parents.iter().map(|parent| (parent, &item.key)));
            }
            _ => {}
        }
    }
    parents
}

/// Whether an item is below the bound on its bytes whatever has to be escaped in it: those that come
/// in millions are, and need not be written out to know.
fn is_surely_small(item: &Item) -> bool {
    // Each byte may become `\u0000`.
    let most = |uid: &Uid| 6 * (uid.kind.len() + uid.id.len()) + 64;
    let bytes = match &item.body {
        ItemBody::Entity(body) if body.attrs.is_empty() && body.tags.is_empty() => {
            most(&body.uid) + body.parents.iter().map(most).sum::<usize>()
        }
        ItemBody::Member(body) => most(&body.member) + most(&body.role) + 6 * body.source.len(),
        _ => return false,
    };
    bytes + item.key.id.len() + item.key.service.len() < MAX_ITEM_BYTES / 2
}

/// The values of an item that may have any form, with their names.
fn values(body: &ItemBody) -> Vec<(&str, &serde_json::Value)> {
    match body {
        ItemBody::Entity(body) => body
            .attrs
            .iter()
            .chain(&body.tags)
            .map(|(name, value)| (name.as_str(), value))
            .collect(),
        ItemBody::Limit(rule) => vec![("rule", rule.as_json())],
        ItemBody::Plan(plan) => vec![("plan", plan.as_json())],
        _ => Vec::new(),
    }
}

/// Identifiers that must be of a Cedar type.
fn uids(body: &ItemBody) -> Vec<&Uid> {
    match body {
        ItemBody::Entity(body) => [&body.uid].into_iter().chain(&body.parents).collect(),
        ItemBody::Role(body) => vec![&body.uid],
        ItemBody::Member(body) => vec![&body.member, &body.role],
        ItemBody::Link(body) => body.principal.iter().chain(&body.resource).collect(),
        ItemBody::Grant(body) => {
            [&body.principal].into_iter().chain(&body.actions).chain(&body.resource).collect()
        }
        ItemBody::Key(body) => vec![&body.principal],
        _ => Vec::new(),
    }
}
