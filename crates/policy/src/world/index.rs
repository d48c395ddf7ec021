//! The scope index: from who asks for what to the few policies whose scope can match.
//!
//! First by the principal's key (==, in, is, any), then by the resource's; actions are checked
//! in the leaf, by a bloom word and then exactly, so there may be any number of them, and they
//! may be interned in any order. A request looks up the closures of principal and resource.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::conditions::Condition;
use super::ends::NEVER;
use super::names::{Id, hash_number};
use super::paged::Paged;
use super::trie::Trie;
use crate::decision::PolicyName;

/// A policy's constraint on principal or resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Any,
    Is(Id),
    Eq(Id),
    In(Id),
    IsIn(Id, Id),
}

/// A policy's constraint on the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ActionScope {
    Any,
    Eq(Id),
    In(Box<[Id]>),
}

/// A policy as it is decided on: static, linked or granted.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) name: PolicyName,
    pub(super) forbid: bool,
    pub(super) principal: Scope,
    pub(super) action: ActionScope,
    pub(super) resource: Scope,
    pub(super) condition: Option<Arc<Condition>>,
    /// Seconds since the Unix epoch from which on it does not count; of what does not end
    /// [`NEVER`](super::ends::NEVER).
    pub(super) until: u64,
    /// Where its leaf was last seen in its cell; a hint, since several worlds share a policy.
    pub(super) at: AtomicU32,
}

impl Scope {
    fn ids(self) -> [Option<Id>; 2] {
        match self {
            Scope::Any => [None, None],
            Scope::Is(id) | Scope::Eq(id) | Scope::In(id) => [Some(id), None],
            Scope::IsIn(kind, id) => [Some(kind), Some(id)],
        }
    }

    fn key(self) -> Key {
        match self {
            Scope::Any => Key::ANY,
            Scope::Is(kind) => Key::is(kind),
            Scope::Eq(id) => Key::eq(id),
            // The type is checked when the leaf is found.
            Scope::In(id) | Scope::IsIn(_, id) => Key::within(id),
        }
    }

    /// What the key does not say: the type of `is .. in`.
    fn kind_fits(self, kind: Option<Id>) -> bool {
        match self {
            Scope::IsIn(wanted, _) => kind == Some(wanted),
            _ => true,
        }
    }
}

impl ActionScope {
    /// What a leaf repeats of it.
    fn hint(&self) -> ActionHint {
        match self {
            ActionScope::Any => ActionHint { bloom: ANY_ACTION, only: Id::MAX },
            ActionScope::In(ids) => match **ids {
                [only] => ActionHint { bloom: IN_ONLY, only },
                [] => ActionHint { bloom: IN_ONLY, only: Id::MAX },
                _ => ActionHint {
                    bloom: ids.iter().fold(0, |bloom, id| bloom | action_bit(*id)),
                    only: Id::MAX,
                },
            },
            ActionScope::Eq(id) => ActionHint { bloom: IS_ONLY, only: *id },
        }
    }

    fn matches(&self, actions: &[Id], action: Option<Id>) -> bool {
        match self {
            ActionScope::Any => true,
            ActionScope::Eq(id) => action == Some(*id),
            ActionScope::In(ids) => ids.iter().any(|id| actions.contains(id)),
        }
    }
}

impl Policy {
    /// All ids the policy refers to.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        let actions: &[Id] = match &self.action {
            ActionScope::Any => &[],
            ActionScope::Eq(id) => std::slice::from_ref(id),
            ActionScope::In(ids) => ids,
        };
        let ends = self.principal.ids().into_iter().chain(self.resource.ids());
        ends.flatten().chain(actions.iter().copied())
    }
}

/// An action scope in 8 bytes, so that most leaves are judged without reading their policies.
#[derive(Clone, Copy, Debug)]
struct ActionHint {
    /// Each action's bit, or one of the three below.
    bloom: u32,
    only: Id,
}

const ANY_ACTION: u32 = 1 << 31;
/// The scope is `== only`.
const IS_ONLY: u32 = 1 << 30;
/// The scope is `in [only]`.
const IN_ONLY: u32 = 0;

fn action_bit(id: Id) -> u32 {
    1 << (id % 30)
}

impl ActionHint {
    /// Whether the scope can match; an empty list of actions matches nothing.
    #[inline]
    fn may_match(self, action: &Side<'_>, bloom: u32) -> bool {
        match self.bloom {
            IN_ONLY => action.closure.contains(&self.only),
            IS_ONLY => action.id == Some(self.only),
            some => some & bloom != 0,
        }
    }

    /// Whether that it can match says that it does.
    fn is_exact(self) -> bool {
        matches!(self.bloom, IN_ONLY | IS_ONLY | ANY_ACTION)
    }
}

/// A scope as a number: what sort, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    pub(super) const ANY: Key = Key(0);
    pub(super) const SORTS: usize = 4;

    pub(super) const fn is(kind: Id) -> Key {
        Key(1 << 32 | kind as u64)
    }

    pub(super) const fn eq(id: Id) -> Key {
        Key(2 << 32 | id as u64)
    }

    pub(super) const fn within(id: Id) -> Key {
        Key(3 << 32 | id as u64)
    }

    pub(super) const fn sort(self) -> usize {
        (self.0 >> 32) as usize
    }

    const fn id(self) -> Id {
        self.0 as Id
    }

    /// Its row in a table with this many, a power of two.
    pub(super) const fn row(self, rows: usize) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize & (rows - 1)
    }
}

/// One side of a request: itself, its type, itself and its ancestors.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) id: Option<Id>,
    pub(super) kind: Option<Id>,
    pub(super) closure: &'a [Id],
}

/// A request in ids.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) principal: Side<'a>,
    pub(super) action: Side<'a>,
    pub(super) resource: Side<'a>,
}

/// A bit for each entity of a closure: most that are not in it are told by theirs.
#[derive(Clone, Copy)]
pub(super) struct Bloom {
    action: u32,
    resource: u64,
}

impl Side<'_> {
    pub(super) fn matches(&self, scope: Scope) -> bool {
        match scope {
            Scope::Any => true,
            Scope::Is(kind) => self.kind == Some(kind),
            Scope::Eq(id) => self.id == Some(id),
            Scope::In(id) => self.closure.contains(&id),
            Scope::IsIn(kind, id) => self.kind == Some(kind) && self.closure.contains(&id),
        }
    }
}

impl Ask<'_> {
    pub(super) fn bloom(&self) -> Bloom {
        let actions = self.action.closure.iter();
        let resources = self.resource.closure.iter();
        Bloom {
            action: actions.fold(ANY_ACTION, |bloom, id| bloom | action_bit(*id)),
            resource: resources.fold(0, |bloom, id| bloom | 1 << (id % 64)),
        }
    }

    pub(super) fn matches_action(&self, action: &ActionScope) -> bool {
        action.matches(self.action.closure, self.action.id)
    }
}

/// What most policies are judged by, so that they need not be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    resource: Id,
    sort: u8,
    /// It has no condition, no end, and no type besides its keys.
    plain: bool,
    pub(super) forbid: bool,
    action: ActionHint,
}

/// A policy in its place.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) mark: Mark,
    policy: Arc<Policy>,
}

/// Leaves up to this many are searched from end to end.
const FEW: usize = 32;

#[derive(Clone, Debug)]
pub(super) enum Bucket {
    Few(Vec<Leaf>),
    Many(Many),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Many {
    /// How many leaves there are of each sort of resource key.
    sorts: [u32; Key::SORTS],
    cells: Trie<(Key, Arc<Vec<Leaf>>)>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    any: Option<Arc<Bucket>>,
    is: Trie<(Id, Option<Arc<Bucket>>)>,
    eq: Paged<Option<Arc<Bucket>>>,
    within: Paged<Option<Arc<Bucket>>>,
    len: usize,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, policy: &Arc<Policy>) {
        let leaf = Leaf::new(policy);
        self.len += 1;
        let bucket = self.bucket_mut(policy.principal);
        Arc::make_mut(bucket.get_or_insert_with(|| Arc::new(Bucket::Few(Vec::new())))).insert(leaf);
    }

    pub(super) fn remove(&mut self, policy: &Arc<Policy>) {
        let bucket = self.bucket_mut(policy.principal);
        let Some(held) = bucket else { return };
        let inner = Arc::make_mut(held);
        let removed = inner.remove(policy);
        if inner.is_empty() {
            *bucket = None;
        }
        self.len -= usize::from(removed);
    }

    fn bucket_mut(&mut self, principal: Scope) -> &mut Option<Arc<Bucket>> {
        match principal {
            Scope::Any => &mut self.any,
            Scope::Eq(id) => self.eq.at_mut(id),
            Scope::In(id) | Scope::IsIn(_, id) => self.within.at_mut(id),
            Scope::Is(kind) => {
                let hash = hash_number(kind.into());
                if self.is.find(hash, |(id, _)| *id == kind).is_none() {
                    self.is.insert(hash, (kind, None));
                }
                match self.is.find_mut(hash, |(id, _)| *id == kind) {
                    Some((_, bucket)) => bucket,
                    // It was inserted just above; any bucket will do for what cannot happen.
                    None => &mut self.any,
                }
            }
        }
    }

    /// Visits every policy whose scope matches, each once.
    pub(super) fn visit<'a>(&'a self, ask: &Ask<'_>, mut found: impl FnMut(&'a Leaf)) {
        let bloom = ask.bloom();
        self.doors(ask.principal, |bucket| bucket.visit(ask, bloom, &mut found));
    }

    /// Where the policies are whose scope can match this principal.
    pub(super) fn doors<'a>(&'a self, principal: Side<'_>, mut door: impl FnMut(&'a Arc<Bucket>)) {
        self.any.iter().for_each(&mut door);
        if let Some(kind) = principal.kind
            && !self.is.is_empty()
        {
            let held = self.is.find(hash_number(kind.into()), |(id, _)| *id == kind);
            held.and_then(|(_, bucket)| bucket.as_ref()).into_iter().for_each(&mut door);
        }
        if let Some(id) = principal.id {
            self.eq.get(id).and_then(Option::as_ref).into_iter().for_each(&mut door);
        }
        for id in principal.closure {
            self.within.get(*id).and_then(Option::as_ref).into_iter().for_each(&mut door);
        }
    }
}

impl Bucket {
    fn is_empty(&self) -> bool {
        match self {
            Bucket::Few(leaves) => leaves.is_empty(),
            Bucket::Many(many) => many.sorts.iter().all(|n| *n == 0),
        }
    }

    fn insert(&mut self, leaf: Leaf) {
        match self {
            Bucket::Few(leaves) if leaves.len() < FEW => leaves.push(leaf),
            Bucket::Few(leaves) => {
                let mut many = Many::default();
                leaves.drain(..).chain([leaf]).for_each(|leaf| many.insert(leaf));
                *self = Bucket::Many(many);
            }
            Bucket::Many(many) => many.insert(leaf),
        }
    }

    fn remove(&mut self, policy: &Arc<Policy>) -> bool {
        match self {
            Bucket::Few(leaves) => remove_from(leaves, policy),
            Bucket::Many(many) => many.remove(policy),
        }
    }

    /// The leaves, where they are few.
    pub(super) fn few(&self) -> Option<&[Leaf]> {
        match self {
            Bucket::Few(leaves) => Some(leaves),
            Bucket::Many(_) => None,
        }
    }

    #[inline]
    pub(super) fn visit<'a>(
        &'a self,
        ask: &Ask<'_>,
        bloom: Bloom,
        found: &mut impl FnMut(&'a Leaf),
    ) {
        match self {
            Bucket::Few(leaves) => {
                for leaf in leaves {
                    if leaf.mark.resource_fits(ask, bloom) && leaf.mark.action_may_fit(ask, bloom) {
                        leaf.check(ask, found);
                    }
                }
            }
            Bucket::Many(many) => {
                let mut cell = |key: Key| {
                    for leaf in many.cell(key) {
                        if leaf.mark.action_may_fit(ask, bloom) {
                            leaf.check(ask, found);
                        }
                    }
                };
                let [any, is, eq, within] = many.sorts;
                if any > 0 {
                    cell(Key::ANY);
                }
                if is > 0
                    && let Some(kind) = ask.resource.kind
                {
                    cell(Key::is(kind));
                }
                if eq > 0
                    && let Some(id) = ask.resource.id
                {
                    cell(Key::eq(id));
                }
                if within > 0 {
                    ask.resource.closure.iter().for_each(|id| cell(Key::within(*id)));
                }
            }
        }
    }
}

impl Mark {
    fn new(policy: &Policy) -> Mark {
        let key = policy.resource.key();
        let typed = |scope| matches!(scope, Scope::IsIn(..));
        Mark {
            resource: key.id(),
            sort: key.sort() as u8,
            plain: policy.condition.is_none()
                && policy.until == NEVER
                && !typed(policy.principal)
                && !typed(policy.resource),
            forbid: policy.forbid,
            action: policy.action.hint(),
        }
    }

    pub(super) fn key(self) -> Key {
        Key(u64::from(self.sort) << 32 | u64::from(self.resource))
    }

    #[inline]
    pub(super) fn action_may_fit(self, ask: &Ask<'_>, bloom: Bloom) -> bool {
        self.action.may_match(&ask.action, bloom.action)
    }

    #[inline]
    fn resource_fits(self, ask: &Ask<'_>, bloom: Bloom) -> bool {
        match self.sort {
            0 => true,
            1 => ask.resource.kind == Some(self.resource),
            2 => ask.resource.id == Some(self.resource),
            _ => {
                bloom.resource >> (self.resource % 64) & 1 == 1
                    && ask.resource.closure.contains(&self.resource)
            }
        }
    }

    /// Whether it matches and holds as soon as its keys fit and its action may.
    #[inline]
    pub(super) fn is_all(self) -> bool {
        self.plain && self.action.is_exact()
    }
}

impl Leaf {
    fn new(policy: &Arc<Policy>) -> Leaf {
        Leaf { mark: Mark::new(policy), policy: Arc::clone(policy) }
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether it counts at this time, once it matches. None: its condition says so.
    #[inline]
    pub(super) fn holds(&self, now: u64) -> Option<bool> {
        if self.mark.plain {
            return Some(true);
        }
        // Only a grant ends, and it has no condition.
        self.policy.condition.is_none().then(|| self.policy.until > now)
    }

    /// Notes where it is.
    fn hint(&self, at: usize) {
        self.policy.at.store(u32::try_from(at).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    #[inline]
    fn check<'a>(&'a self, ask: &Ask<'_>, found: &mut impl FnMut(&'a Leaf)) {
        if self.mark.is_all() || self.fits(ask) {
            found(self);
        }
    }

    /// Whether what neither its keys nor its mark say fits.
    pub(super) fn fits(&self, ask: &Ask<'_>) -> bool {
        let policy = &*self.policy;
        policy.principal.kind_fits(ask.principal.kind)
            && policy.resource.kind_fits(ask.resource.kind)
            && (self.mark.action.is_exact() || ask.matches_action(&policy.action))
    }
}

impl Many {
    fn cell(&self, key: Key) -> &[Leaf] {
        self.cells.find(hash_number(key.0), |(held, _)| *held == key).map_or(&[], |(_, cell)| cell)
    }

    fn count(&mut self, key: Key) -> Option<&mut u32> {
        self.sorts.get_mut(key.sort())
    }

    fn insert(&mut self, leaf: Leaf) {
        let key = leaf.policy.resource.key();
        if let Some(count) = self.count(key) {
            *count += 1;
        }
        let hash = hash_number(key.0);
        match self.cells.find_mut(hash, |(held, _)| *held == key) {
            Some((_, cell)) => {
                leaf.hint(cell.len());
                Arc::make_mut(cell).push(leaf);
            }
            None => self.cells.insert(hash, (key, Arc::new(vec![leaf]))),
        }
    }

    fn remove(&mut self, policy: &Arc<Policy>) -> bool {
        let key = policy.resource.key();
        let hash = hash_number(key.0);
        let Some((_, cell)) = self.cells.find_mut(hash, |(held, _)| *held == key) else {
            return false;
        };
        let leaves = Arc::make_mut(cell);
        let removed = remove_from(leaves, policy);
        if leaves.is_empty() {
            self.cells.remove(hash, |(held, _)| *held == key);
        }
        if removed && let Some(count) = self.count(key) {
            *count -= 1;
        }
        removed
    }
}

/// Takes a policy's leaf out, without a search from end to end for each of many: the hint says
/// where it is, and where it does not (another world moved its leaves), all hints are made anew.
fn remove_from(leaves: &mut Vec<Leaf>, policy: &Arc<Policy>) -> bool {
    let hinted = |leaves: &[Leaf]| {
        let at = policy.at.load(Ordering::Relaxed) as usize;
        leaves.get(at).is_some_and(|leaf| Arc::ptr_eq(&leaf.policy, policy)).then_some(at)
    };
    let at = hinted(leaves).or_else(|| {
        leaves.iter().enumerate().for_each(|(at, leaf)| leaf.hint(at));
        hinted(leaves)
    });
    let Some(at) = at else { return false };
    leaves.swap_remove(at);
    if let Some(moved) = leaves.get(at) {
        moved.hint(at);
    }
    true
}
