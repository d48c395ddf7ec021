//! Random worlds and questions from a seed, small enough that everything collides with everything.

use std::collections::{BTreeMap, BTreeSet};

use keepgate_policy::decision::QueryError;
use keepgate_policy::model::{EntityBody, GrantBody, LinkBody, MemberBody, PolicyBody, RoleBody};
use keepgate_policy::world::Prepared;
use keepgate_policy::{Change, Decision, Item, ItemBody, ItemKey, Kind, Uid, Verdict, World};
use serde_json::{Value, json};

pub(crate) type Json = BTreeMap<String, Value>;

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers for the same seed, for ever.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

pub(crate) const SERVICE: &str = "shop";
pub(crate) const PATHS: [&str; 7] =
    ["/", "/orders", "/orders/{id}", "/orders/{id}/items", "/admin", "/admin/x/y", "orders"];
const NAMES: [&str; 8] =
    ["level", "owner", "manager", "name", "team", "rec", "home", "level \"odd\" name"];
const TEMPLATES: [&str; 5] = ["t0", "t1", "t2", "t3", "t4"];

/// What a world can be about: how many there are of each.
pub(crate) struct Shape {
    users: usize,
    groups: usize,
    docs: usize,
    actions: usize,
    policies: usize,
    /// Groups form one long chain besides their random parents.
    chain: bool,
    /// Memberships and grants may end.
    ends: bool,
}

/// Ends, and times to ask at, are below this.
pub(crate) const TIMES: usize = 8;

impl Shape {
    pub(crate) fn random(rng: &mut Rng) -> Shape {
        Shape {
            users: 3 + rng.below(6),
            groups: if rng.chance(15) { 30 + rng.below(40) } else { 3 + rng.below(7) },
            docs: 2 + rng.below(6),
            actions: if rng.chance(10) { 70 + rng.below(100) } else { 2 + rng.below(5) },
            policies: 4 + rng.below(22),
            chain: rng.chance(40),
            ends: rng.chance(50),
        }
    }

    fn until(&self, rng: &mut Rng) -> Option<u64> {
        (self.ends && rng.chance(60)).then(|| rng.below(TIMES) as u64)
    }

    pub(crate) fn is_deep(&self) -> bool {
        self.chain && self.groups >= 30
    }

    pub(crate) fn has_many_actions(&self) -> bool {
        self.actions > 64
    }

    pub(crate) fn user(&self, rng: &mut Rng) -> Uid {
        // One more than there are, so some do not exist.
        Uid::new("user", format!("u{}", rng.below(self.users + 1)))
    }

    fn group(&self, rng: &mut Rng) -> Uid {
        let n = rng.below(self.groups);
        Uid::new(if n % 3 == 2 { "role" } else { "group" }, format!("g{n}"))
    }

    fn doc(&self, rng: &mut Rng) -> Uid {
        let n = rng.below(self.docs + 1);
        Uid::new(if n.is_multiple_of(2) { "doc" } else { "shop::item" }, format!("d{n}"))
    }

    fn folder(&self, rng: &mut Rng) -> Uid {
        Uid::new("folder", format!("f{}", rng.below(4)))
    }

    pub(crate) fn resource(&self, rng: &mut Rng) -> Uid {
        match rng.below(10) {
            0..=5 => self.doc(rng),
            6 => self.folder(rng),
            7 => self.user(rng),
            _ => Uid::route(rng.pick(&PATHS)),
        }
    }

    fn principal_like(&self, rng: &mut Rng) -> Uid {
        if rng.chance(35) { self.user(rng) } else { self.group(rng) }
    }

    fn resource_like(&self, rng: &mut Rng) -> Uid {
        match rng.below(8) {
            0..=2 => self.doc(rng),
            3..=5 => self.folder(rng),
            _ => Uid::route(rng.pick(&PATHS)),
        }
    }

    /// Parents for one request that make no circle: nothing is in a user, and what is in a group may
    /// be in the one that asks.
    fn given_parents(&self, principal: &Uid, rng: &mut Rng) -> Vec<Uid> {
        if !rng.chance(22) {
            return Vec::new();
        }
        let one = |rng: &mut Rng| match rng.below(8) {
            0 => Uid::role("nothing stored names it"),
            1 => Uid::route(rng.pick(&PATHS)),
            2 => self.folder(rng),
            _ if principal.kind == "user" => self.group(rng),
            _ => Uid::new("group", "g999"),
        };
        (0..1 + rng.below(4)).map(|_| one(rng)).collect()
    }

    pub(crate) fn action(&self, rng: &mut Rng) -> Uid {
        Uid::action(&format!("a{}", rng.below(self.actions + 1)))
    }

    fn action_like(&self, rng: &mut Rng) -> Uid {
        if rng.chance(25) { Uid::action(&format!("set{}", rng.below(3))) } else { self.action(rng) }
    }

    fn any_uid(&self, rng: &mut Rng) -> Uid {
        match rng.below(3) {
            0 => self.principal_like(rng),
            1 => self.resource_like(rng),
            _ => self.user(rng),
        }
    }

    /// A value of a stored attribute.
    fn stored_value(&self, rng: &mut Rng, name: &str) -> Value {
        let entity = |uid: Uid| json!({"__entity": {"type": uid.kind, "id": uid.id}});
        if rng.chance(6) {
            return json!("of the wrong type");
        }
        match name {
            "owner" | "manager" => entity(self.user(rng)),
            "home" => entity(self.resource_like(rng)),
            "team" => (0..rng.below(4)).map(|_| entity(self.any_uid(rng))).collect(),
            "rec" => json!({"who": entity(self.user(rng)), "n": rng.below(5)}),
            "name" => json!(["alice", "bob", "al*ce"][rng.below(3)]),
            _ if rng.chance(10) => json!({"__extn": {"fn": "decimal", "arg": "1.25"}}),
            _ => json!(rng.below(6)),
        }
    }

    /// A value of a request.
    fn asked_value(&self, rng: &mut Rng) -> Value {
        match rng.below(9) {
            0 => json!(null),
            1 => json!(1.25),
            2 => json!("alice"),
            3 => json!([1, "x", null]),
            4 => json!({"n": rng.below(5), "gone": null}),
            5 => json!(rng.chance(50)),
            _ => json!(rng.below(6)),
        }
    }

    pub(crate) fn asked(&self, rng: &mut Rng, percent: usize) -> Json {
        if !rng.chance(percent) {
            return Json::new();
        }
        (0..1 + rng.below(3))
            .map(|_| {
                let name = rng.pick(&["level", "name", "rec", "action", "hour"]);
                (name.to_owned(), self.asked_value(rng))
            })
            .collect()
    }

    /// Claims of a token, of which some are mostly what conditions want.
    fn claims(&self, rng: &mut Rng) -> Json {
        let mut claims = self.asked(rng, 50);
        if rng.chance(80) {
            claims.insert("level".to_owned(), json!(rng.below(6)));
            claims.insert("n".to_owned(), json!(rng.below(9)));
        }
        claims
    }

    fn attributes(&self, rng: &mut Rng, percent: usize) -> Json {
        let mut attributes = Json::new();
        for name in NAMES {
            if rng.chance(percent) {
                attributes.insert(name.to_owned(), self.stored_value(rng, name));
            }
        }
        attributes
    }

    /// Parents come after their members in one order of all, so there is no cycle.
    fn entity(&self, rng: &mut Rng) -> Item {
        let service = if rng.chance(50) { SERVICE } else { "" };
        let mut tags = Json::new();
        let (uid, parents, percent): (Uid, Vec<Uid>, usize) = match rng.below(10) {
            0..=3 => {
                if rng.chance(40) {
                    tags.insert("t".into(), self.stored_value(rng, "owner"));
                    tags.insert("level".into(), json!(rng.below(4)));
                }
                let parents = (0..rng.below(4)).map(|_| self.group(rng)).collect();
                (self.user(rng), parents, 40)
            }
            4..=5 => {
                let n = rng.below(self.groups);
                let kind = |n: usize| if n % 3 == 2 { "role" } else { "group" };
                let mut parents: Vec<Uid> = (0..rng.below(3))
                    .map(|_| n + 1 + rng.below(self.groups))
                    .filter(|above| *above < self.groups)
                    .map(|above| Uid::new(kind(above), format!("g{above}")))
                    .collect();
                if self.chain && n + 1 < self.groups {
                    parents.push(Uid::new(kind(n + 1), format!("g{}", n + 1)));
                }
                (Uid::new(kind(n), format!("g{n}")), parents, 15)
            }
            6..=7 => {
                let mut parents = vec![self.folder(rng)];
                // What is in a principal is in what that is in.
                if rng.chance(15) {
                    parents.push(self.user(rng));
                }
                if rng.chance(20) {
                    parents.push(Uid::route(rng.pick(&PATHS)));
                }
                (self.doc(rng), parents, 40)
            }
            8 => {
                let n = rng.below(4);
                let parents =
                    if n < 3 { vec![Uid::new("folder", format!("f{}", n + 1))] } else { vec![] };
                if rng.chance(25) {
                    // A route may be stored too; it may be in a folder, which is in no route.
                    (Uid::route(rng.pick(&PATHS)), vec![self.folder(rng)], 30)
                } else {
                    (Uid::new("folder", format!("f{n}")), parents, 10)
                }
            }
            _ => {
                let action = self.action(rng);
                let set = Uid::action(&format!("set{}", rng.below(3)));
                (action, vec![set], 10)
            }
        };
        let attrs = self.attributes(rng, percent);
        Item::new(service, "", ItemBody::Entity(EntityBody { uid, attrs, parents, tags }))
    }

    fn member(&self, rng: &mut Rng) -> Item {
        let member = self.user(rng);
        let source = if rng.chance(30) { "other-service".to_owned() } else { String::new() };
        Item::new(
            "",
            "",
            ItemBody::Member(MemberBody {
                member,
                role: self.group(rng),
                source,
                until_unix_s: self.until(rng),
            }),
        )
    }

    fn policy(&self, rng: &mut Rng, id: usize) -> Item {
        let text = self.policy_text(rng, None);
        let body = PolicyBody { text, file: String::new() };
        Item::new(SERVICE, &format!("p{id}"), ItemBody::Policy(body))
    }

    /// `slots`: bit 0 for `?principal`, bit 1 for `?resource`.
    fn policy_text(&self, rng: &mut Rng, slots: Option<usize>) -> String {
        let slots = slots.unwrap_or(0);
        let scope = |rng: &mut Rng, var: &str, slot: bool, uid: Uid, kinds: &[&str]| {
            let target = if slot { format!("?{var}") } else { uid.to_string() };
            match rng.below(if slot { 6 } else { 10 }) {
                0 | 1 => format!("{var} == {target}"),
                2..=4 => format!("{var} in {target}"),
                5 => format!("{var} is {} in {target}", rng.pick(kinds)),
                6 => format!("{var} is {}", rng.pick(kinds)),
                _ => var.to_owned(),
            }
        };
        let principal = self.principal_like(rng);
        let principal =
            scope(rng, "principal", slots & 1 != 0, principal, &["user", "group", "no"]);
        let resource = self.resource_like(rng);
        let resource =
            scope(rng, "resource", slots & 2 != 0, resource, &["doc", "shop::item", "route"]);
        let action = match rng.below(5) {
            0 => format!("action == {}", self.action(rng)),
            1 => format!("action in {}", self.action_like(rng)),
            2 => {
                let uids: Vec<_> =
                    (0..rng.below(4)).map(|_| self.action_like(rng).to_string()).collect();
                format!("action in [{}]", uids.join(", "))
            }
            _ => "action".to_owned(),
        };
        let effect = if rng.chance(25) { "forbid" } else { "permit" };
        let mut text = format!("{effect} ({principal}, {action}, {resource})");
        if rng.chance(55) {
            for _ in 0..1 + usize::from(rng.chance(20)) {
                let word = if rng.chance(80) { "when" } else { "unless" };
                text += &format!("\n{word} {{ {} }}", self.condition(rng, 2));
            }
        }
        text + ";"
    }

    /// An expression that is mostly, but not always, a truth value.
    fn condition(&self, rng: &mut Rng, depth: usize) -> String {
        if depth > 0 && rng.chance(35) {
            let (a, b) = (self.condition(rng, depth - 1), self.condition(rng, depth - 1));
            return match rng.below(4) {
                0 => format!("({a}) && ({b})"),
                1 => format!("({a}) || ({b})"),
                2 => format!("!({a})"),
                _ => format!("if ({a}) then ({b}) else ({})", self.condition(rng, depth - 1)),
            };
        }
        let e = self.entity_expr(rng);
        let n = rng.below(5);
        match rng.below(26) {
            0 => format!("{e}.level > {n}"),
            1 => format!("{e} has level && {e}.level < {n}"),
            2 => format!("{e} has rec.who.level"),
            3 => format!("{e}.rec.who.level >= {n}"),
            4 => format!("{e} in {}", self.any_uid(rng)),
            5 => format!("{e} in [{}, {}]", self.any_uid(rng), self.any_uid(rng)),
            6 => format!("{e} in {}", self.entity_expr(rng)),
            7 => format!("{e} in resource.team"),
            8 => format!("resource.team.contains({e})"),
            9 => format!("{e} == {}", self.entity_expr(rng)),
            10 => format!("{e} is user"),
            11 => format!("{e}.name like \"al\\*c*\""),
            12 => format!("{e}.hasTag(\"t\") && {e}.getTag(\"t\").level == {n}"),
            13 => format!("{e}.getTag(\"level\") == {n}"),
            14 => format!("context.level == {n}"),
            15 => format!(
                "context has action && context.action has level && context.action.level > {n}"
            ),
            16 => format!("context.action.level + {n} > 3"),
            17 => format!("{{\"x\": {e}, \"y\": 1}}.x.level == {n}"),
            20 => format!("context.claims.level == {n}"),
            21 => format!("context has claims && context.claims.level < {n} + 1"),
            22..=23 => {
                format!("context has claims && context.claims has n && context.claims.n >= {n}")
            }
            24 => format!(
                "context has claims && context.claims has rec && context.claims.rec.n < {n}"
            ),
            18 => format!("{e}[\"level \\\"odd\\\" name\"] == {n}"),
            19 => format!("context.rec.n == {e}.level * {n}"),
            _ => format!(
                "{e}.level.lessThan(decimal(\"1.5\")) || {e}.name == 9223372036854775807 + 1"
            ),
        }
    }

    fn entity_expr(&self, rng: &mut Rng) -> String {
        match rng.below(14) {
            0..=2 => "principal".to_owned(),
            3..=5 => "resource".to_owned(),
            6 => "action".to_owned(),
            7 => "resource.owner".to_owned(),
            8 => "principal.manager".to_owned(),
            9 => "principal.manager.manager".to_owned(),
            10 => "resource.rec.who.manager".to_owned(),
            11 => self.any_uid(rng).to_string(),
            12 => format!("{}.owner", self.resource_like(rng)),
            _ => "(if principal has manager then principal.manager else resource.home)".to_owned(),
        }
    }

    fn template(&self, rng: &mut Rng, at: usize) -> Item {
        let text = self.policy_text(rng, Some(1 + at % 3));
        let body = PolicyBody { text, file: String::new() };
        Item::new(SERVICE, TEMPLATES[at], ItemBody::Template(body))
    }

    fn link(&self, rng: &mut Rng, id: usize) -> Item {
        let at = rng.below(TEMPLATES.len());
        let slots = 1 + at % 3;
        let body = LinkBody {
            template: TEMPLATES[at].to_owned(),
            principal: (slots & 1 != 0).then(|| self.principal_like(rng)),
            resource: (slots & 2 != 0).then(|| self.resource_like(rng)),
        };
        Item::new(SERVICE, &format!("l{id}"), ItemBody::Link(body))
    }

    fn grant(&self, rng: &mut Rng, id: usize) -> Item {
        let body = GrantBody {
            principal: self.principal_like(rng),
            actions: (0..rng.below(4)).map(|_| self.action_like(rng)).collect(),
            resource: rng.chance(85).then(|| self.resource_like(rng)),
            until_unix_s: self.until(rng),
        };
        Item::new(SERVICE, &format!("g{id}"), ItemBody::Grant(body))
    }

    pub(crate) fn item(&self, rng: &mut Rng) -> Item {
        let id = rng.below(2 * self.policies);
        match rng.below(20) {
            0..=5 => self.entity(rng),
            6..=8 => self.member(rng),
            9..=13 => self.policy(rng, id),
            14..=15 => self.link(rng, id),
            16 => {
                let at = rng.below(TEMPLATES.len());
                self.template(rng, at)
            }
            17 => {
                let body = RoleBody {
                    uid: self.group(rng),
                    description: "a role".to_owned(),
                    source: String::new(),
                };
                Item::new("", "", ItemBody::Role(body))
            }
            _ => self.grant(rng, id),
        }
    }
}

/// The items of a world by key; the truth that both engines are built from.
#[derive(Clone, Default)]
pub(crate) struct Items(pub(crate) BTreeMap<ItemKey, Item>);

impl Items {
    pub(crate) fn random(shape: &Shape, rng: &mut Rng) -> Items {
        let mut items = Items::default();
        let mut put = |item: Item| items.0.insert(item.key.clone(), item);
        for at in 0..TEMPLATES.len() {
            put(shape.template(rng, at));
        }
        for _ in 0..2 * (shape.users + shape.groups + shape.docs) + shape.actions / 2 {
            put(shape.entity(rng));
        }
        for _ in 0..shape.users {
            put(shape.member(rng));
        }
        for id in 0..shape.policies {
            put(match rng.below(5) {
                0 | 1 => shape.policy(rng, id),
                2 | 3 => shape.grant(rng, id),
                _ => shape.link(rng, id),
            });
        }
        items
    }

    /// Templates alone.
    pub(crate) fn templates(shape: &Shape, rng: &mut Rng) -> Items {
        let items = (0..TEMPLATES.len()).map(|at| shape.template(rng, at));
        Items(items.map(|item| (item.key.clone(), item)).collect())
    }

    /// A few random changes, applied here too. Templates are replaced, but not deleted.
    pub(crate) fn edit(&mut self, shape: &Shape, rng: &mut Rng, steps: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        for _ in 0..steps {
            if rng.chance(35) && !self.0.is_empty() {
                let key = self.0.keys().nth(rng.below(self.0.len())).cloned();
                let Some(key) = key.filter(|key| key.kind != Kind::Template) else { continue };
                self.0.remove(&key);
                changes.push(Change::Delete(key));
            } else {
                let item = shape.item(rng);
                self.0.insert(item.key.clone(), item.clone());
                changes.push(Change::Put(item));
            }
        }
        changes
    }

    pub(crate) fn to_vec(&self) -> Vec<Item> {
        self.0.values().cloned().collect()
    }

    /// All routes that anything can be asked about.
    pub(crate) fn routes() -> BTreeSet<Uid> {
        PATHS.iter().map(|path| Uid::route(path)).collect()
    }
}

/// One question, owned.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) principal: Uid,
    pub(crate) action: Uid,
    pub(crate) resource: Uid,
    pub(crate) context: Json,
    /// What becomes `context.claims`; with it the principal's properties are read beforehand.
    pub(crate) claims: Option<Json>,
    pub(crate) principal_parents: Vec<Uid>,
    pub(crate) principal_properties: Json,
    pub(crate) action_properties: Json,
    pub(crate) resource_properties: Json,
    /// When it is asked.
    pub(crate) at: u64,
}

impl Question {
    pub(crate) fn random(shape: &Shape, rng: &mut Rng) -> Question {
        let principal = if rng.chance(92) { shape.user(rng) } else { shape.group(rng) };
        let principal_parents = shape.given_parents(&principal, rng);
        let is_itself = !principal_parents.is_empty() && rng.chance(35);
        Question {
            resource: if is_itself { principal.clone() } else { shape.resource(rng) },
            principal,
            principal_parents,
            action: shape.action(rng),
            context: shape.asked(rng, 40),
            claims: rng.chance(50).then(|| shape.claims(rng)),
            principal_properties: shape.asked(rng, 15),
            action_properties: shape.asked(rng, 15),
            resource_properties: shape.asked(rng, 15),
            at: rng.below(TIMES) as u64,
        }
    }

    pub(crate) fn query(&self) -> keepgate_policy::Query<'_> {
        keepgate_policy::Query::new(&self.principal, &self.action, &self.resource)
            .service(SERVICE)
            .context(&self.context)
            .principal_parents(&self.principal_parents)
            .principal_properties(&self.principal_properties)
            .action_properties(&self.action_properties)
            .resource_properties(&self.resource_properties)
            .at(self.at)
    }

    /// Asks a world, with what is known of the principal beforehand read beforehand.
    pub(crate) fn ask(&self, world: &World) -> Result<Decision, QueryError> {
        let Some(claims) = &self.claims else { return world.decide(&self.query()) };
        let prepared = Prepared::new(Some(claims), &self.principal_properties)?;
        let nothing = Json::new();
        world.decide_prepared(&self.query().principal_properties(&nothing), &prepared)
    }

    /// The same, of what another world (or this one) has looked up before: of principal, action and
    /// resource those whose bit is set.
    pub(crate) fn ask_resolved(
        &self,
        world: &World,
        by: &World,
        which: usize,
    ) -> (Result<Decision, QueryError>, Result<Verdict, QueryError>) {
        let wanted = |bit: usize| (which & bit != 0).then_some(());
        let principal = wanted(1).and_then(|()| {
            by.resolve_principal(SERVICE, &self.principal, &self.principal_parents).ok()
        });
        let action = wanted(2).and_then(|()| by.resolve(SERVICE, &self.action).ok());
        let resource = wanted(4).and_then(|()| by.resolve(SERVICE, &self.resource).ok());
        let mut query = self.query();
        if let Some(principal) = &principal {
            query = query.resolved_principal(principal);
        }
        if let Some(action) = &action {
            query = query.resolved_action(action);
        }
        if let Some(resource) = &resource {
            query = query.resolved_resource(resource);
        }
        let nothing = Json::new();
        let prepared = match &self.claims {
            None => Prepared::nothing().clone(),
            Some(claims) => {
                query = query.principal_properties(&nothing);
                match Prepared::new(Some(claims), &self.principal_properties) {
                    Ok(prepared) => prepared,
                    Err(error) => return (Err(error.clone()), Err(error)),
                }
            }
        };
        (world.decide_prepared(&query, &prepared), world.judge(&query, &prepared))
    }
}
