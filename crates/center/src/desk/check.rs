//! What must hold before a revision lands.
//!
//! Only what the change can have broken is looked at: the changed items and what they refer to,
//! or the whole service where a change reaches further (its schema, a template). It is looked at
//! in portions of [`PORTION`] items, so that a change of a million items needs a million steps and
//! the memory of a portion. Circles of membership are looked for in the new world, see [`circles`].
//!
//! Left out: a circle that closes only in one service's view, through an entity of its own, when
//! the last step is made in the directory. The engine walks circles to their end, and the next
//! change of that service's entities is refused by name.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use keepgate_api::Located;
use keepgate_policy::bundle::{BundleError, FileLine};
use keepgate_policy::{Item, ItemBody, ItemKey, Kind, Span, Spot, Uid, World, validate};

use super::Refusal;
use super::head::is_default;
use super::limits;
use super::step::{Step, find};
use super::work::Work;
use crate::store::{Reading, Row, StoreError};

/// Items that are decoded and checked at once, and their bytes: a policy takes a thousand times its
/// bytes while it is checked.
const PORTION: usize = 4_096;
const PORTION_BYTES: usize = 1 << 20;

/// Rows read at once; each may have a MiB.
const PAGE: usize = 100;

/// Problems that are told.
pub(super) const TOLD: usize = 1_000;

/// Circles that are told.
const CIRCLES: usize = 100;

/// Rules and plans of one service.
const MAX_LIMITS: usize = 4_096;

/// Memberships of one member: what a decision about it walks through.
pub(super) const MAX_MEMBERSHIPS: usize = 10_000;

/// Actions of one grant: a decision holds each of them against the request's.
const MAX_ACTIONS: usize = 1_000;

/// Routes of one service, one more than there may be: enough to say so.
const ROUTES_READ: usize = keepgate_policy::route::MAX_ROUTES + 1;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditProblem {
    /// The item at fault, where it is known.
    pub key: Option<ItemKey>,
    /// The file of an `apply`, where it came with one.
    pub file: Option<String>,
    /// The line in that file, or in the item's text, from 1.
    pub line: Option<usize>,
    /// The characters in that line.
    pub span: Option<Span>,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl EditProblem {
    /// Of an item.
    pub fn of(key: &ItemKey, message: impl Into<String>) -> EditProblem {
        EditProblem {
            key: Some(key.clone()),
            file: None,
            line: None,
            span: None,
            message: message.into(),
        }
    }

    /// Of a file.
    pub fn in_file(file: impl Into<String>, message: impl Into<String>) -> EditProblem {
        EditProblem {
            key: None,
            file: Some(file.into()),
            line: None,
            span: None,
            message: message.into(),
        }
    }

    /// The same, in the words of the files that the items came from.
    #[must_use]
    pub fn placed(mut self, place_of: impl Fn(&ItemKey) -> Option<FileLine>) -> EditProblem {
        if let Some(place) = self.key.as_ref().and_then(place_of) {
            let spot = self.line.map(|line| Spot { line, span: self.span });
            let FileLine { file, line, span } = place.within(spot);
            (self.file, self.line, self.span) = (Some(file), Some(line), span);
        }
        self
    }

    /// As in answers.
    pub fn told(&self) -> Located {
        Located {
            file: self.file.clone(),
            line: self.line.map(|line| line as u64),
            column: self.span.map(|span| span.column as u64),
            length: self.span.map(|span| span.length as u64),
            kind: self.key.as_ref().map(|key| key.kind.as_str().to_owned()),
            id: self.key.as_ref().map(|key| shown_id(key).to_owned()),
            message: self.message.clone(),
        }
    }
}

/// A service and its schema have no id of their own.
pub(crate) fn shown_id(key: &ItemKey) -> &str {
    if key.id.is_empty() { &key.service } else { &key.id }
}

impl fmt::Display for EditProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line, &self.key) {
            (Some(file), Some(line), _) => write!(f, "{file}:{line}: ")?,
            (Some(file), None, _) => write!(f, "{file}: ")?,
            (None, Some(line), Some(key)) => {
                write!(f, "{} `{}`, line {line}: ", key.kind, shown_id(key))?;
            }
            (None, None, Some(key)) => write!(f, "{} `{}`: ", key.kind, shown_id(key))?,
            (None, _, None) => {}
        }
        f.write_str(&self.message)
    }
}

impl From<BundleError> for EditProblem {
    fn from(e: BundleError) -> EditProblem {
        EditProblem {
            key: None,
            file: Some(e.file),
            line: e.line,
            span: e.span,
            message: e.message,
        }
    }
}

impl From<validate::ItemProblem> for EditProblem {
    fn from(problem: validate::ItemProblem) -> EditProblem {
        EditProblem {
            key: Some(problem.key),
            file: None,
            line: problem.spot.map(|spot| spot.line),
            span: problem.spot.and_then(|spot| spot.span),
            message: problem.message,
        }
    }
}

/// Kinds that share their ids, and whose texts are checked together.
const NAMED: [Kind; 4] = [Kind::Policy, Kind::Template, Kind::Link, Kind::Grant];

/// Kinds that are read as a whole: their items are checked against each other.
const WHOLE: [Kind; 3] = [Kind::Limit, Kind::Plan, Kind::Route];

/// Checks the state that these steps leave, before they are written: all of the steps, or of them
/// and what is stored the items `of` only. The steps are in key order.
pub(super) fn check(
    store: &dyn Reading,
    steps: &[Step],
    of: Option<&BTreeSet<ItemKey>>,
    work: &Work,
) -> Result<Vec<EditProblem>, Refusal> {
    let mut problems = Vec::new();
    let mut scopes: BTreeSet<&str> = BTreeSet::new();
    match of {
        None => scopes.extend(steps.iter().map(|step| step.key.service.as_str())),
        Some(keys) => scopes.extend(keys.iter().map(|key| key.service.as_str())),
    }
    for service in scopes {
        let (found, known) = Default::default();
        let mut scope = Scope { store, steps, of, service, work, problems: found, known };
        scope.check()?;
        problems.append(&mut scope.problems);
    }
    one_default(store, steps, &mut problems)?;
    // Several portions may see the same fault.
    problems.sort_by(|a, b| (&a.key, a.line).cmp(&(&b.key, b.line)));
    problems.dedup();
    problems.truncate(TOLD);
    Ok(problems)
}

/// At most one service decides the AuthZEN requests that name none.
fn one_default(
    store: &dyn Reading,
    steps: &[Step],
    problems: &mut Vec<EditProblem>,
) -> Result<(), Refusal> {
    let mut wanted: Vec<&str> = Vec::new();
    for step in steps.iter().filter(|step| step.key.kind == Kind::Service) {
        if let Some(after) = &step.after
            && is_default(&after.body)?
        {
            wanted.push(&step.key.service);
        }
    }
    let Some(first) = wanted.first().copied() else { return Ok(()) };
    let mut others: Vec<String> = wanted.iter().skip(1).map(|name| (*name).to_owned()).collect();
    for scope in store.scopes()? {
        let key = ItemKey::service(&scope.service);
        if find(steps, &key).is_none()
            && let Some(row) = store.item(&key)?
            && is_default(&row.body)?
        {
            others.push(scope.service);
        }
    }
    problems.extend(others.first().map(|other| {
        let message = format!(
            "`authzen = \"default\"` is for one service, and `{other}` says it already: let \
             `{other}` say `authzen = true` first"
        );
        EditProblem::of(&ItemKey::service(first), message)
    }));
    Ok(())
}

/// Circles of membership that the changed items are part of, in the world that they lead to, and
/// members of too many roles.
pub(super) fn circles<'k>(
    world: &World,
    keys: impl Iterator<Item = &'k ItemKey> + Clone,
) -> Vec<EditProblem> {
    let mut problems = Vec::new();
    let scopes: BTreeSet<&str> = keys.clone().map(|key| key.service.as_str()).collect();
    for service in scopes {
        let own = keys.clone().filter(|key| key.service == service);
        let below: Vec<Uid> = own.filter_map(below).collect();
        problems.extend(world.circles(service, &below, CIRCLES).into_iter().map(|circle| {
            let message =
                format!("membership forms a cycle: {}; remove one step of it", circle.text);
            EditProblem::of(&circle.key, message)
        }));
        if service.is_empty() {
            let many = below.iter().filter(|uid| world.memberships(uid) > MAX_MEMBERSHIPS);
            let of_many = |uid| EditProblem::of(&ItemKey::entity("", uid), too_many_memberships());
            problems.extend(many.take(CIRCLES).map(of_many));
        }
    }
    problems.dedup();
    problems
}

fn too_many_memberships() -> String {
    format!("it is in more than {MAX_MEMBERSHIPS} roles; put roles into roles")
}

/// The entity whose parents an item says.
fn below(key: &ItemKey) -> Option<Uid> {
    match key.kind {
        Kind::Entity => key.id.parse().ok(),
        // Ids are `MEMBER in ROLE`, and texts in them may have any words.
        Kind::Member => key.id.match_indices(" in ").find_map(|(at, _)| {
            let role = key.id.get(at + 4..)?;
            role.parse::<Uid>().ok()?;
            key.id.get(..at)?.parse().ok()
        }),
        _ => None,
    }
}

/// One service, or the directory.
struct Scope<'a> {
    store: &'a dyn Reading,
    steps: &'a [Step],
    of: Option<&'a BTreeSet<ItemKey>>,
    service: &'a str,
    work: &'a Work,
    problems: Vec<EditProblem>,
    /// Of the service's schema, from one portion to the next.
    known: validate::Known,
}

impl<'a> Scope<'a> {
    fn check(&mut self) -> Result<(), Refusal> {
        let changed: BTreeSet<Kind> = match self.of {
            None => self.own_steps().map(|step| step.key.kind).collect(),
            Some(keys) => self.own(keys).map(|key| key.kind).collect(),
        };
        let any = |kinds: &[Kind]| kinds.iter().any(|kind| changed.contains(kind));
        if self.service.is_empty() {
            self.members();
            return self.each_changed(&[], &Kind::ALL);
        }
        let mut frame = Vec::new();
        for key in [ItemKey::service(self.service), ItemKey::schema(self.service)] {
            frame.extend(self.after(&key)?);
        }
        self.namesakes()?;
        self.puts()?;
        if any(&[Kind::Schema, Kind::Template]) {
            let parts = [Kind::Policy, Kind::Template, Kind::Link, Kind::Grant, Kind::Entity];
            for kind in parts {
                self.each_of_all(&frame, kind)?;
            }
            self.each_changed(&frame, &[Kind::Key])?;
        } else {
            self.each_changed(
                &frame,
                &[Kind::Policy, Kind::Link, Kind::Grant, Kind::Entity, Kind::Key],
            )?;
        }
        let with_routes = any(&[Kind::Service, Kind::Route, Kind::Limit, Kind::Plan]);
        if with_routes || any(&[Kind::Schema, Kind::Key]) {
            self.whole(frame, with_routes)?;
        }
        Ok(())
    }

    fn own_steps(&self) -> impl Iterator<Item = &'a Step> + use<'a> {
        let service = self.service;
        let from = self.steps.partition_point(|step| *step.key.service < *service);
        let own = self.steps.get(from..).unwrap_or_default();
        own.iter().take_while(move |step| step.key.service == service)
    }

    fn own(&self, keys: &'a BTreeSet<ItemKey>) -> impl Iterator<Item = &'a ItemKey> + use<'a> {
        let service = self.service;
        keys.iter().filter(move |key| key.service == service)
    }

    /// An item as the steps leave it.
    fn after(&self, key: &ItemKey) -> Result<Option<Item>, StoreError> {
        match find(self.steps, key) {
            Some(step) => step.after.as_ref().map(|after| decoded(after.decode())).transpose(),
            None => self.store.item(key)?.map(stored).transpose(),
        }
    }

    /// Checks the changed items of these kinds, in portions, each together with the frame and the
    /// templates that it refers to.
    fn each_changed(&mut self, frame: &[Item], kinds: &[Kind]) -> Result<(), Refusal> {
        let mut portion = Portion::default();
        match self.of {
            None => {
                for step in self.own_steps().filter(|step| kinds.contains(&step.key.kind)) {
                    if let Some(after) = &step.after {
                        portion.add(decoded(after.decode())?, after.body.len());
                        self.full(&mut portion, frame)?;
                    }
                }
            }
            Some(keys) => {
                for key in self.own(keys).filter(|key| kinds.contains(&key.kind)) {
                    if let Some(item) = self.after(key)? {
                        let bytes = item.encode().len();
                        portion.add(item, bytes);
                        self.full(&mut portion, frame)?;
                    }
                }
            }
        }
        self.portion(portion.items, frame)
    }

    /// Checks all items of a kind, stored and changed, in portions.
    fn each_of_all(&mut self, frame: &[Item], kind: Kind) -> Result<(), Refusal> {
        let mut portion = Portion::default();
        let mut after = String::new();
        loop {
            let rows = self.store.list(self.service, kind, &after, PAGE)?;
            let Some(last) = rows.last() else { break };
            after.clone_from(&last.key.id);
            let is_last = rows.len() < PAGE;
            for row in rows.into_iter().filter(|row| find(self.steps, &row.key).is_none()) {
                let bytes = row.body.len();
                portion.add(stored(row)?, bytes);
                self.full(&mut portion, frame)?;
            }
            if is_last {
                break;
            }
        }
        for step in self.own_steps().filter(|step| step.key.kind == kind) {
            if let Some(after) = &step.after {
                portion.add(decoded(after.decode())?, after.body.len());
                self.full(&mut portion, frame)?;
            }
        }
        self.portion(portion.items, frame)
    }

    fn full(&mut self, portion: &mut Portion, frame: &[Item]) -> Result<(), Refusal> {
        if portion.items.len() < PORTION && portion.bytes < PORTION_BYTES {
            return Ok(());
        }
        self.portion(std::mem::take(portion).items, frame)
    }

    fn portion(&mut self, mut portion: Vec<Item>, frame: &[Item]) -> Result<(), Refusal> {
        if portion.is_empty() || self.problems.len() > TOLD {
            return Ok(());
        }
        self.work.checked(portion.len())?;
        for item in &portion {
            if let ItemBody::Grant(grant) = &item.body
                && grant.actions.len() > MAX_ACTIONS
            {
                let message = format!(
                    "it has {} actions, at most {MAX_ACTIONS}; group actions, or grant \"any\"",
                    grant.actions.len()
                );
                self.problems.push(EditProblem::of(&item.key, message));
            }
            if let ItemBody::Link(link) = &item.body
                && !self.known.has_template(&link.template)
                && let Some(template) =
                    self.after(&ItemKey::template(self.service, &link.template))?
            {
                self.known.template(&template);
            }
        }
        portion.extend_from_slice(frame);
        let found = validate::portion(&portion, &mut self.known);
        self.problems.extend(found.into_iter().map(EditProblem::from));
        Ok(())
    }

    /// Settings, routes, rules and plans, which are checked against each other; and the keys whose
    /// plan is not there.
    fn whole(&mut self, mut items: Vec<Item>, with_routes: bool) -> Result<(), Refusal> {
        for kind in WHOLE {
            let (most, what) = match kind {
                Kind::Route if !with_routes => continue,
                Kind::Route => (ROUTES_READ, "routes"),
                Kind::Limit => (MAX_LIMITS, "rules"),
                _ => (MAX_LIMITS, "plans"),
            };
            let mut count = 0;
            for row in self.store.list(self.service, kind, "", most)? {
                if find(self.steps, &row.key).is_none() {
                    count += 1;
                    items.push(stored(row)?);
                }
            }
            for step in self.own_steps().filter(|step| step.key.kind == kind) {
                if let Some(after) = &step.after {
                    count += 1;
                    if count > most {
                        break;
                    }
                    items.push(decoded(after.decode())?);
                }
            }
            if count > most {
                let message = format!("the service has more than {most} {what}; merge some");
                self.problems.push(EditProblem::of(&ItemKey::service(self.service), message));
                return Ok(());
            }
        }
        self.work.checked(0)?;
        let found = validate::portion(&items, &mut self.known);
        self.problems.extend(found.into_iter().map(EditProblem::from));
        let plans: BTreeSet<String> = items
            .iter()
            .filter(|item| item.key.kind == Kind::Plan)
            .map(|item| item.key.id.clone())
            .collect();
        let removed: BTreeSet<&str> = self
            .own_steps()
            .filter(|step| step.key.kind == Kind::Plan && step.after.is_none())
            .map(|step| step.key.id.as_str())
            .collect();
        self.keys(&plans, !removed.is_empty(), &mut items)?;
        self.problems.extend(limits::check(self.service, &items, &removed));
        Ok(())
    }

    /// The keys whose plan is not one of these: of all keys where a plan goes, else of the changed
    /// ones.
    fn keys(
        &self,
        plans: &BTreeSet<String>,
        all: bool,
        items: &mut Vec<Item>,
    ) -> Result<(), Refusal> {
        let astray = |item: &Item| match &item.body {
            ItemBody::Key(key) => !key.plan.is_empty() && !plans.contains(&key.plan),
            _ => false,
        };
        let mut found = Vec::new();
        for step in self.own_steps().filter(|step| step.key.kind == Kind::Key) {
            if let Some(after) = &step.after {
                found.push(decoded(after.decode())?);
            }
        }
        for key in self.of.into_iter().flatten().filter(|key| key.kind == Kind::Key) {
            if key.service == self.service && find(self.steps, key).is_none() {
                found.extend(self.after(key)?);
            }
        }
        found.retain(astray);
        let mut after = String::new();
        while all && found.len() < TOLD {
            let rows = self.store.list(self.service, Kind::Key, &after, PAGE)?;
            let Some(last) = rows.last() else { break };
            after.clone_from(&last.key.id);
            for row in rows.into_iter().filter(|row| find(self.steps, &row.key).is_none()) {
                found.push(stored(row)?);
            }
            found.retain(astray);
        }
        items.append(&mut found);
        Ok(())
    }

    /// What is put anew keeps bounds that an earlier release did not have.
    fn puts(&mut self) -> Result<(), Refusal> {
        let bounded = |step: &&Step| matches!(step.key.kind, Kind::Service | Kind::Route);
        let own = self.own_steps().filter(bounded).filter_map(|step| step.after.as_ref());
        for after in own {
            let item = decoded(after.decode())?;
            self.problems.extend(validate::put(&item).map(EditProblem::from));
        }
        Ok(())
    }

    /// Policies, templates, links and grants share their ids.
    fn namesakes(&mut self) -> Result<(), Refusal> {
        let mut held: HashMap<Kind, bool> = HashMap::new();
        for kind in NAMED {
            held.insert(kind, !self.store.list(self.service, kind, "", 1)?.is_empty());
        }
        let changed: Box<dyn Iterator<Item = &ItemKey>> = match self.of {
            None => {
                Box::new(self.own_steps().filter(|step| step.after.is_some()).map(|step| &step.key))
            }
            Some(keys) => Box::new(self.own(keys)),
        };
        for key in changed.filter(|key| NAMED.contains(&key.kind)) {
            for kind in NAMED.into_iter().filter(|kind| *kind != key.kind) {
                let other = ItemKey::new(self.service, kind, key.id.as_str());
                let is_there = match find(self.steps, &other) {
                    Some(step) => step.after.is_some(),
                    None => held.get(&kind) == Some(&true) && self.store.item(&other)?.is_some(),
                };
                if is_there {
                    let (first, second) =
                        if *key < other { (key.clone(), other) } else { (other, key.clone()) };
                    let message = format!("there is a {} of this id already", first.kind);
                    self.problems.push(EditProblem::of(&second, message));
                }
            }
        }
        Ok(())
    }

    /// Members of too many roles, before a world is made of them: there each costs a look at the
    /// others.
    fn members(&mut self) {
        let mut counts: HashMap<Uid, usize> = HashMap::new();
        let new = self.own_steps().filter(|step| step.after.is_some());
        for step in new.filter(|step| step.key.kind == Kind::Member) {
            if let Some(member) = below(&step.key) {
                let count = counts.entry(member).or_default();
                *count += 1;
                if *count == MAX_MEMBERSHIPS + 1 {
                    self.problems.push(EditProblem::of(&step.key, too_many_memberships()));
                }
            }
        }
    }
}

/// Items that are checked at once.
#[derive(Default)]
struct Portion {
    items: Vec<Item>,
    bytes: usize,
}

impl Portion {
    fn add(&mut self, item: Item, bytes: usize) {
        self.items.push(item);
        self.bytes += bytes;
    }
}

fn stored(row: Row) -> Result<Item, StoreError> {
    decoded(Item::decode(row.key, &row.body))
}

fn decoded(item: Result<Item, keepgate_policy::item::DecodeError>) -> Result<Item, StoreError> {
    Ok(item?)
}
