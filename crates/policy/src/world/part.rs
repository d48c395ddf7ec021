//! The items of one service, or of the directory, indexed.
//!
//! Edits happen on a copy that shares everything with the published world; an edit that fails
//! is dropped as a whole, so references and digest need no undoing.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use keepgate_limit::rules::{NamedPlan, Rule};

use super::conditions::{
    ActionText, Attributes, Parsed, Ref, Schema, ScopeText, Unreadable, parse,
};
use super::ends::{Ends, NEVER};
use super::index::{ActionScope, Index, Policy, Scope};
use super::layer::{Edge, Extra, Layer, Parents, Slot};
use super::names::{Id, Names, hash_text};
use super::trie::Trie;
use crate::digest::Digest;
use crate::item::ENDING;
use crate::model::{
    EntityBody, GrantBody, Item, ItemBody, ItemKey, KeyBody, Kind, LinkBody, MemberBody, Uid,
};
use crate::route::Route;
use crate::service::ServiceSettings;

/// An item that is neither an entity nor a membership.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) kind: Kind,
    pub(super) id: Arc<str>,
    digest: Digest,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Kept elsewhere in the part, or of no use to a decision.
    Plain,
    Policy {
        policy: Arc<Policy>,
        text: Arc<str>,
    },
    Template {
        parsed: Arc<Parsed>,
        text: Arc<str>,
    },
    /// A link is a policy while its template is there.
    Link {
        link: Arc<LinkBody>,
        policy: Option<Arc<Policy>>,
    },
    Grant(Arc<Policy>),
    Route(Arc<Route>),
    Key(Arc<KeyBody>),
    Rule(Arc<Rule>),
    Plan(Arc<NamedPlan>),
}

impl Body {
    pub(super) fn policy(&self) -> Option<&Arc<Policy>> {
        match self {
            Body::Policy { policy, .. } | Body::Grant(policy) => Some(policy),
            Body::Link { policy, .. } => policy.as_ref(),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The service; empty for the directory.
    name: Arc<str>,
    /// How many items there are.
    pub(super) len: usize,
    pub(super) layer: Layer,
    pub(super) index: Index,
    /// When grants and memberships end.
    pub(super) ends: Ends,
    /// Policies, templates, links and grants.
    pub(super) policies: Trie<Stored>,
    /// The rest.
    others: Trie<Stored>,
    /// The links of each template, whether the template is there or not.
    links: Trie<(Arc<str>, Trie<Arc<str>>)>,
    /// Links whose template is not there (yet), with the template.
    pub(super) waiting: BTreeMap<Arc<str>, String>,
    pub(super) settings: Arc<ServiceSettings>,
    pub(super) schema: Option<Arc<Schema>>,
    /// The action groups that the schema brought.
    schema_edges: Arc<[(Id, Id)]>,
    pub(super) routes: Arc<[Route]>,
    pub(super) rules: Arc<[Rule]>,
    pub(super) plans: Arc<[NamedPlan]>,
    /// Which of the three lists above have to be made anew.
    stale: [bool; 3],
}

fn slot_hash(kind: Kind, id: &str) -> u64 {
    hash_text(kind as u32, id)
}

fn is_policy_like(kind: Kind) -> bool {
    matches!(kind, Kind::Policy | Kind::Template | Kind::Link | Kind::Grant)
}

impl Part {
    pub(super) fn new(name: &str) -> Part {
        Part {
            name: name.into(),
            len: 0,
            layer: Layer::default(),
            index: Index::default(),
            ends: Ends::default(),
            policies: Trie::default(),
            others: Trie::default(),
            links: Trie::default(),
            waiting: BTreeMap::new(),
            settings: Arc::new(ServiceSettings::named(name)),
            schema: None,
            schema_edges: Arc::default(),
            routes: Arc::default(),
            rules: Arc::default(),
            plans: Arc::default(),
            stale: [false; 3],
        }
    }

    /// The service; empty for the directory.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The policy, link or grant of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Stored> {
        [Kind::Grant, Kind::Policy, Kind::Link]
            .into_iter()
            .find_map(|kind| self.stored(kind, name).filter(|held| held.body.policy().is_some()))
    }

    /// Whether something in it ends.
    pub(super) fn has_ends(&self) -> bool {
        !self.ends.is_empty()
    }

    pub(super) fn stored(&self, kind: Kind, id: &str) -> Option<&Stored> {
        let items = if is_policy_like(kind) { &self.policies } else { &self.others };
        items.find(slot_hash(kind, id), |held| held.kind == kind && &*held.id == id)
    }

    /// What it holds of a key: the item's digest, and the lowest format that understands it.
    pub(super) fn held(&self, names: &Names, key: &ItemKey) -> Option<(Digest, u32)> {
        match key.kind {
            Kind::Entity => {
                let uid = Uid::from_str(&key.id).ok()?;
                let slot = self.layer.slots.get(names.uid(&uid)?).filter(|slot| slot.stored)?;
                Some((self.entity_digest(names, &uid, slot), 1))
            }
            Kind::Member => {
                let (member, role) = member_key(&key.id)?;
                let (from, to) = (names.uid(&member)?, names.uid(&role)?);
                let edge = self.layer.slot(from)?.edges().iter().find(|edge| edge.to == to)?;
                let source = names.text(edge.source).to_owned();
                let until_unix_s = self.layer.until(from, to);
                let body = MemberBody { member, role, source, until_unix_s };
                let item = Item::new("", "", ItemBody::Member(body));
                Some((Digest::of(&item), item.needs()))
            }
            kind => {
                let stored = self.stored(kind, &key.id)?;
                let needs = match &stored.body {
                    Body::Plain if kind == Kind::Service => self.settings.needs(),
                    Body::Route(route) => route.needs(),
                    Body::Grant(policy) if policy.until != NEVER => ENDING,
                    _ => 1,
                };
                Some((stored.digest, needs))
            }
        }
    }

    /// Adds or replaces an item; returns what it adds to the digest and what it takes away.
    pub(super) fn put(
        &mut self,
        names: &mut Names,
        item: &Item,
        digest: Digest,
    ) -> Result<Moved, String> {
        match &item.body {
            ItemBody::Entity(body) => return self.put_entity(names, digest, body),
            ItemBody::Member(body) => return self.put_member(names, digest, body),
            _ => {}
        }
        let (kind, id): (Kind, Arc<str>) = (item.key.kind, item.key.id.as_str().into());
        let body = match &item.body {
            ItemBody::Entity(_) | ItemBody::Member(_) | ItemBody::Role(_) => Body::Plain,
            ItemBody::Service(settings) => {
                self.settings = Arc::new(ServiceSettings::clone(settings));
                Body::Plain
            }
            ItemBody::Schema(schema) => {
                let schema = Schema::parse(&schema.text)?;
                self.set_schema(names, Some(schema))?;
                Body::Plain
            }
            ItemBody::Policy(body) => {
                let policy = static_policy(names, &id, &readable(&body.text)?)?;
                Body::Policy { policy: Arc::new(policy), text: body.text.as_str().into() }
            }
            ItemBody::Template(body) => {
                let parsed = readable(&body.text)?;
                if parsed.is_decidable() && !parsed.is_template() {
                    return Err("it has no slot; a template has ?principal or ?resource".into());
                }
                Body::Template { parsed: Arc::new(parsed), text: body.text.as_str().into() }
            }
            ItemBody::Link(link) => Body::Link { link: Arc::new(link.clone()), policy: None },
            ItemBody::Grant(grant) => Body::Grant(Arc::new(granted_policy(names, &id, grant)?)),
            ItemBody::Route(route) => Body::Route(Arc::new(Route::clone(route))),
            ItemBody::Key(key) => Body::Key(Arc::new(key.clone())),
            ItemBody::Limit(rule) => Body::Rule(Arc::new(Rule::clone(rule))),
            ItemBody::Plan(plan) => Body::Plan(Arc::new(NamedPlan::clone(plan))),
        };
        let moved = Moved { plus: digest, minus: self.take_stored(names, kind, &id) };
        self.len += usize::from(moved.minus.is_none());
        if let Some(policy) = body.policy() {
            self.index.insert(policy);
            if policy.until != NEVER {
                self.ends.add(policy.until);
            }
        }
        if moved.minus != Some(digest) {
            self.mark_stale(kind);
        }
        let stored = Stored { kind, id: Arc::clone(&id), digest, body };
        let items = if is_policy_like(kind) { &mut self.policies } else { &mut self.others };
        items.insert(slot_hash(kind, &id), stored);
        match &item.body {
            ItemBody::Link(link) => {
                self.enlist(&link.template, &id);
                self.relink(names, &id)?;
            }
            ItemBody::Template(_) => self.relink_all(names, &id)?,
            _ => {}
        }
        Ok(moved)
    }

    /// Removes an item; one that is not there changes nothing.
    pub(super) fn delete(&mut self, names: &mut Names, key: &ItemKey) -> Result<Moved, String> {
        let minus = match key.kind {
            Kind::Entity => {
                let uid = Uid::from_str(&key.id).map_err(|e| e.to_string())?;
                self.take_entity(names, &uid)
            }
            Kind::Member => {
                let (member, role) = member_key(&key.id)
                    .ok_or_else(|| format!("`{}` is not `member in role`", key.id))?;
                self.take_member(names, &member, &role)
            }
            kind => {
                let digest = self.take_stored(names, kind, &key.id);
                if digest.is_some() {
                    self.mark_stale(kind);
                    match kind {
                        Kind::Service => {
                            self.settings = Arc::new(ServiceSettings::named(&*self.name));
                        }
                        Kind::Schema => self.set_schema(names, None)?,
                        Kind::Template => self.relink_all(names, &key.id)?,
                        _ => {}
                    }
                }
                digest
            }
        };
        self.len -= usize::from(minus.is_some());
        Ok(Moved { plus: Digest::default(), minus })
    }

    /// Makes the lists anew whose items changed.
    pub(super) fn refresh(&mut self) {
        let [routes, rules, plans] = std::mem::take(&mut self.stale);
        if !(routes || rules || plans) {
            return;
        }
        let mut held: Vec<&Stored> = Vec::new();
        self.others.for_each(&mut |stored| held.push(stored));
        held.sort_by(|a, b| a.id.cmp(&b.id));
        if rules {
            let of = |stored: &&Stored| match &stored.body {
                Body::Rule(rule) => Some(Rule::clone(rule)),
                _ => None,
            };
            self.rules = held.iter().filter_map(of).collect();
        }
        if plans {
            let of = |stored: &&Stored| match &stored.body {
                Body::Plan(plan) => Some(NamedPlan::clone(plan)),
                _ => None,
            };
            self.plans = held.iter().filter_map(of).collect();
        }
        if routes {
            let of = |stored: &&Stored| match &stored.body {
                Body::Route(route) => Some(Route::clone(route)),
                _ => None,
            };
            self.routes = held.iter().filter_map(of).collect();
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale.contains(&true)
    }

    fn mark_stale(&mut self, kind: Kind) {
        let [routes, rules, plans] = &mut self.stale;
        match kind {
            Kind::Route => *routes = true,
            Kind::Limit => *rules = true,
            Kind::Plan => *plans = true,
            _ => {}
        }
    }

    fn take_stored(&mut self, names: &mut Names, kind: Kind, id: &str) -> Option<Digest> {
        let items = if is_policy_like(kind) { &mut self.policies } else { &mut self.others };
        let stored =
            items.remove(slot_hash(kind, id), |held| held.kind == kind && &*held.id == id)?;
        if let Some(policy) = stored.body.policy() {
            self.retire(names, policy);
        }
        if let Body::Link { link, .. } = &stored.body {
            let hash = hash_text(0, &link.template);
            if let Some((_, links)) = self.links.find_mut(hash, |(t, _)| **t == *link.template) {
                links.remove(hash_text(0, id), |held| &**held == id);
                if links.is_empty() {
                    self.links.remove(hash, |(t, _)| **t == *link.template);
                }
            }
            self.waiting.remove(id);
        }
        Some(stored.digest)
    }

    fn retire(&mut self, names: &mut Names, policy: &Arc<Policy>) {
        self.index.remove(policy);
        if policy.until != NEVER {
            self.ends.remove(policy.until);
        }
        policy.ids().for_each(|id| names.release(id));
    }

    fn enlist(&mut self, template: &str, link: &Arc<str>) {
        let hash = hash_text(0, template);
        if self.links.find(hash, |(t, _)| **t == *template).is_none() {
            self.links.insert(hash, (template.into(), Trie::default()));
        }
        if let Some((_, links)) = self.links.find_mut(hash, |(t, _)| **t == *template) {
            links.insert(hash_text(0, link), Arc::clone(link));
        }
    }

    /// Makes the policies of a template's links anew.
    fn relink_all(&mut self, names: &mut Names, template: &str) -> Result<(), String> {
        let mut ids = Vec::new();
        if let Some((_, links)) = self.links.find(hash_text(0, template), |(t, _)| **t == *template)
        {
            links.for_each(&mut |link| ids.push(Arc::clone(link)));
        }
        ids.iter().try_for_each(|id| self.relink(names, id))
    }

    fn relink(&mut self, names: &mut Names, id: &Arc<str>) -> Result<(), String> {
        let Some(Stored { body: Body::Link { link, policy }, .. }) = self.stored(Kind::Link, id)
        else {
            return Ok(());
        };
        let (link, old) = (Arc::clone(link), policy.clone());
        let new = match self.stored(Kind::Template, &link.template) {
            Some(Stored { body: Body::Template { parsed, .. }, .. }) => {
                let parsed = Arc::clone(parsed);
                Some(Arc::new(linked_policy(names, id, &link, &parsed)?))
            }
            _ => None,
        };
        match &new {
            Some(policy) => {
                self.index.insert(policy);
                self.waiting.remove(id);
            }
            None => {
                self.waiting.insert(Arc::clone(id), link.template.clone());
            }
        }
        let hash = slot_hash(Kind::Link, id);
        if let Some(stored) = self.policies.find_mut(hash, |h| h.kind == Kind::Link && h.id == *id)
        {
            stored.body = Body::Link { link, policy: new };
        }
        if let Some(old) = old {
            self.retire(names, &old);
        }
        Ok(())
    }

    fn set_schema(&mut self, names: &mut Names, schema: Option<Schema>) -> Result<(), String> {
        let mut edges = Vec::new();
        if let Some(schema) = &schema {
            for (action, group) in schema.action_groups()? {
                edges.push((names.intern(&action)?, names.intern(&group)?));
            }
        }
        for &(action, group) in &*std::mem::take(&mut self.schema_edges) {
            self.layer.remove_edge(action, group);
            names.release(action);
            names.release(group);
        }
        for &(action, group) in &edges {
            self.layer.set_edge(action, Edge { to: group, source: group });
        }
        self.schema_edges = edges.into();
        self.schema = schema.map(Arc::new);
        Ok(())
    }

    fn put_entity(
        &mut self,
        names: &mut Names,
        plus: Digest,
        body: &EntityBody,
    ) -> Result<Moved, String> {
        let id = names.intern(&body.uid)?;
        let parents: Result<Vec<Id>, String> =
            body.parents.iter().map(|parent| names.intern(parent)).collect();
        let parents = Parents::new(parents?);
        let extra = if body.attrs.is_empty() && body.tags.is_empty() {
            None
        } else {
            let kind = names.type_name(names.kind(id)).ok_or("its type is unknown")?;
            let attributes =
                Attributes::trusted(kind.uid(&body.uid.id), &body.attrs, &body.tags)
                    .map_err(|problem| format!("`{}`: {}", problem.path, problem.reason))?;
            Some(Arc::new(Extra { digest: plus, attributes }))
        };
        let minus = self.take_entity(names, &body.uid);
        self.len += usize::from(minus.is_none());
        let slot = self.layer.slots.at_mut(id);
        (slot.parents, slot.extra, slot.stored) = (parents, extra, true);
        Ok(Moved { plus, minus })
    }

    fn take_entity(&mut self, names: &mut Names, uid: &Uid) -> Option<Digest> {
        let id = names.uid(uid)?;
        let slot = self.layer.slots.get(id).filter(|slot| slot.stored)?;
        let digest = self.entity_digest(names, uid, slot);
        let slot = self.layer.slots.at_mut(id);
        let parents = std::mem::take(&mut slot.parents);
        (slot.extra, slot.stored) = (None, false);
        parents.as_slice().iter().for_each(|parent| names.release(*parent));
        names.release(id);
        Some(digest)
    }

    fn entity_digest(&self, names: &Names, uid: &Uid, slot: &Slot) -> Digest {
        if let Some(extra) = &slot.extra {
            return extra.digest;
        }
        let parents = slot.parents.as_slice().iter().map(|parent| names.to_uid(*parent)).collect();
        let body =
            EntityBody { uid: uid.clone(), attrs: BTreeMap::new(), parents, tags: BTreeMap::new() };
        Digest::of(&Item::new(&self.name, "", ItemBody::Entity(body)))
    }

    fn put_member(
        &mut self,
        names: &mut Names,
        plus: Digest,
        body: &MemberBody,
    ) -> Result<Moved, String> {
        let (member, role) = (names.intern(&body.member)?, names.intern(&body.role)?);
        let source = names.intern_word(&body.source);
        let minus = self.take_member(names, &body.member, &body.role);
        self.len += usize::from(minus.is_none());
        self.layer.set_edge(member, Edge { to: role, source });
        self.layer.set_until(member, role, body.until_unix_s);
        if let Some(at) = body.until_unix_s {
            self.ends.add(at);
        }
        Ok(Moved { plus, minus })
    }

    fn take_member(&mut self, names: &mut Names, member: &Uid, role: &Uid) -> Option<Digest> {
        let (from, to) = (names.uid(member)?, names.uid(role)?);
        let edge = self.layer.remove_edge(from, to)?;
        let source = names.text(edge.source).to_owned();
        let until_unix_s = self.layer.until(from, to);
        if let Some(at) = until_unix_s {
            self.layer.set_until(from, to, None);
            self.ends.remove(at);
        }
        let body = MemberBody { member: member.clone(), role: role.clone(), source, until_unix_s };
        [from, to, edge.source].into_iter().for_each(|id| names.release(id));
        Some(Digest::of(&Item::new("", "", ItemBody::Member(body))))
    }
}

/// How an edit moves the digest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) plus: Digest,
    pub(super) minus: Option<Digest>,
}

impl Parsed {
    fn is_template(&self) -> bool {
        self.principal.has_slot() || self.resource.has_slot()
    }
}

impl ScopeText {
    fn has_slot(&self) -> bool {
        matches!(
            self,
            ScopeText::Eq(Ref::Slot) | ScopeText::In(Ref::Slot) | ScopeText::IsIn(_, Ref::Slot)
        )
    }
}

/// The text taken apart. One that is beyond a bound may have landed before there was that bound:
/// it stays, and what it would say stays unknown.
fn readable(text: &str) -> Result<Parsed, String> {
    match parse(text) {
        Ok(parsed) => Ok(parsed),
        Err(Unreadable::Beyond(reason)) => Ok(Parsed::undecidable(&reason)),
        Err(Unreadable::Wrong(reason)) => Err(reason),
    }
}

/// The two identifiers of a membership's key, `member in role`.
pub fn member_key(id: &str) -> Option<(Uid, Uid)> {
    const IN: &str = " in ";
    id.match_indices(IN).find_map(|(at, _)| {
        let (member, role) = (id.get(..at)?, id.get(at + IN.len()..)?);
        Some((member.parse().ok()?, role.parse().ok()?))
    })
}

fn static_policy(names: &mut Names, id: &Arc<str>, parsed: &Parsed) -> Result<Policy, String> {
    if parsed.is_template() {
        return Err("it has a slot; a policy with ?principal or ?resource is a template".into());
    }
    linked(names, id, parsed, None, None)
}

fn linked_policy(
    names: &mut Names,
    id: &Arc<str>,
    link: &LinkBody,
    parsed: &Parsed,
) -> Result<Policy, String> {
    if !parsed.is_decidable() {
        return linked(names, id, parsed, None, None);
    }
    for (slot, scope, value) in [
        ("?principal", &parsed.principal, &link.principal),
        ("?resource", &parsed.resource, &link.resource),
    ] {
        if scope.has_slot() != value.is_some() {
            return Err(if value.is_some() {
                format!("link `{id}`: template `{}` has no {slot}", link.template)
            } else {
                format!("link `{id}`: template `{}` needs a value for {slot}", link.template)
            });
        }
    }
    linked(names, id, parsed, link.principal.as_ref(), link.resource.as_ref())
}

fn linked(
    names: &mut Names,
    id: &Arc<str>,
    parsed: &Parsed,
    principal: Option<&Uid>,
    resource: Option<&Uid>,
) -> Result<Policy, String> {
    Ok(Policy {
        name: Arc::clone(id),
        forbid: parsed.forbid,
        principal: scope(names, &parsed.principal, principal)?,
        action: match &parsed.action {
            ActionText::Any => ActionScope::Any,
            ActionText::Eq(uid) => ActionScope::Eq(names.intern(uid)?),
            ActionText::In(uids) => ActionScope::In(intern_all(names, uids)?),
        },
        resource: scope(names, &parsed.resource, resource)?,
        condition: parsed.condition.clone(),
        until: NEVER,
        at: AtomicU32::new(0),
    })
}

fn granted_policy(names: &mut Names, id: &Arc<str>, grant: &GrantBody) -> Result<Policy, String> {
    Ok(Policy {
        name: Arc::clone(id),
        forbid: false,
        principal: Scope::In(names.intern(&grant.principal)?),
        action: if grant.actions.is_empty() {
            ActionScope::Any
        } else {
            ActionScope::In(intern_all(names, &grant.actions)?)
        },
        resource: match &grant.resource {
            Some(resource) => Scope::In(names.intern(resource)?),
            None => Scope::Any,
        },
        condition: None,
        until: grant.until_unix_s.unwrap_or(NEVER),
        at: AtomicU32::new(0),
    })
}

fn intern_all(names: &mut Names, uids: &[Uid]) -> Result<Box<[Id]>, String> {
    uids.iter().map(|uid| names.intern(uid)).collect()
}

fn scope(names: &mut Names, scope: &ScopeText, slot: Option<&Uid>) -> Result<Scope, String> {
    let entity = |names: &mut Names, reference: &Ref| match (reference, slot) {
        (Ref::Uid(uid), _) => names.intern(uid),
        (Ref::Slot, Some(uid)) => names.intern(uid),
        (Ref::Slot, None) => Err("a slot has no value".to_owned()),
    };
    Ok(match scope {
        ScopeText::Any => Scope::Any,
        ScopeText::Is(kind) => Scope::Is(names.intern_type(kind)?),
        ScopeText::Eq(reference) => Scope::Eq(entity(names, reference)?),
        ScopeText::In(reference) => Scope::In(entity(names, reference)?),
        ScopeText::IsIn(kind, reference) => {
            Scope::IsIn(names.intern_type(kind)?, entity(names, reference)?)
        }
    })
}
