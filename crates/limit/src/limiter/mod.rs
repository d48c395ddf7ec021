//! Rules compiled, with their stores: the two phases of a request.
//!
//! A [`Limiter`] is immutable but for the states of its keys, and is shared by all
//! threads. A new revision of the rules makes a new one with [`Limiter::compile`], given the
//! old one: a rule whose name, key, rate and burst are the same keeps its store,
//! and one whose name and key are the same keeps its requests under way.
//!
//! It never reads a clock and never sleeps; it knows callers only as [`Caller`] shows them.
//!
//! INVARIANTS
//! - A request refused by one rule is charged to none (unless two requests race: then
//!   it may be charged to a rule although another refuses it; never the other way).
//! - A rule in shadow mode refuses nothing and is charged only what is admitted.
//! - A request that lacks a rule's key is counted by its address under that rule; over a Unix
//!   socket, where there is none, not at all.

mod caller;
mod done;
mod verdict;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::concurrency::Concurrency;
use crate::gcra::{Answer, Nanos, Quota};
use crate::hash::{Fingerprint, Seed, Sort};
use crate::rules::{
    Defaults, Dialect, Key, Limits, Phase, Rule, RuleError, RuleFault, ServiceFacts,
};
use crate::store::{Census, Charge, Store};

use done::{Done, Own};

pub use caller::{AddressKey, Caller};
pub use verdict::{LimitVerdict, MAX_REPORTS, Outcome, PolicyReport, Unit};

/// Rules compiled, with their stores.
#[derive(Debug)]
pub struct Limiter {
    id: u64,
    seed: Seed,
    headers: Dialect,
    help: Option<String>,
    policies: Vec<Policy>,
    address: List,
    principal: List,
    plans: HashMap<String, List>,
}

/// One rule in force.
#[derive(Debug)]
pub struct Policy {
    rule: Rule,
    rate: Option<Metered>,
    concurrency: Option<(u32, Arc<Concurrency>)>,
    /// What answers say of it in the same words each time; written by `headers`.
    texts: OnceLock<Texts>,
    /// What it did; a rule of the same name in the next limiter goes on counting.
    done: Arc<Done>,
}

/// A policy in the fields of draft 11, for its rate and for its concurrency.
#[derive(Debug)]
pub(crate) struct Texts {
    /// As an item of `RateLimit-Policy`.
    pub(crate) policy: [Box<str>; 2],
    /// Its name, with which an item of `RateLimit` begins.
    pub(crate) name: [Box<str>; 2],
}

#[derive(Debug)]
struct Metered {
    quota: Quota,
    store: Arc<Store>,
}

/// The policies that may apply to one kind of caller in one phase, in the order of layers; as
/// bits, which of them do what.
#[derive(Debug, Default)]
struct List {
    candidates: Vec<Candidate>,
    concurrent: u64,
    /// With a rate that refuses.
    enforced: u64,
    /// With a rate that only counts.
    shadow: u64,
}

/// A policy that may apply to a caller.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    layer: Layer,
    policy: u16,
}

/// Where a rule stands, the most specific first; see [`crate::rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Every,
    Plan,
    Service,
    Default,
}

/// What one call is matched by.
#[derive(Clone, Copy)]
struct Call<'a, 'c> {
    caller: &'a Caller<'c>,
    method: &'a str,
    route: Option<&'a str>,
    /// How many requests it stands for.
    hits: u32,
    now: Nanos,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Limiter {
    /// Validates `limits` and compiles them. `seed` is the process's; with a `previous` limiter its
    /// seed is used, and the states of unchanged rules live on.
    pub fn compile(
        limits: &Limits,
        facts: &ServiceFacts<'_>,
        seed: Seed,
        previous: Option<&Limiter>,
    ) -> Result<Limiter, RuleError> {
        limits.validate(facts)?;
        let mut limiter = Limiter {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            seed: previous.map_or(seed, |previous| previous.seed),
            headers: limits.headers,
            help: limits.help.clone(),
            policies: Vec::new(),
            address: List::default(),
            principal: List::default(),
            plans: limits.plans.keys().map(|name| (name.clone(), List::default())).collect(),
        };
        for (stands_in, rule) in limits.all_rules() {
            let plan = stands_in.or(rule.plan.as_deref());
            let layer = match plan {
                Some("*") => Layer::Every,
                Some(_) => Layer::Plan,
                None => Layer::Service,
            };
            // A rule in a plan is of the principal phase, whatever its key.
            let phase = if plan.is_some() { Phase::Principal } else { rule.phase() };
            limiter.add(&rule.costing(facts.costs), phase, layer, plan, previous)?;
        }
        if limits.defaults == Defaults::On {
            for rule in Limits::default_rules() {
                let replaced = limiter.policies.iter().any(|policy| policy.rule.name == rule.name);
                let nobody = rule.key == Key::Principal && facts.identifies == Some(false);
                if !replaced && !nobody {
                    let rule = rule.costing(facts.costs);
                    limiter.add(&rule, rule.phase(), Layer::Default, None, previous)?;
                }
            }
        }
        let lists = limiter.plans.values_mut();
        for list in lists.chain([&mut limiter.address, &mut limiter.principal]) {
            list.seal(&limiter.policies);
        }
        Ok(limiter)
    }

    fn add(
        &mut self,
        rule: &Rule,
        phase: Phase,
        layer: Layer,
        plan: Option<&str>,
        previous: Option<&Limiter>,
    ) -> Result<(), RuleError> {
        let fault = |fault| RuleError { rule: rule.name.clone(), fault };
        let index =
            u16::try_from(self.policies.len()).map_err(|_| fault(RuleFault::TooManyRules))?;
        let quota = rule.quota().map_err(|error| fault(RuleFault::Quota(error)))?;
        self.policies.push(Policy::new(rule, quota, previous));
        let candidate = Candidate { layer, policy: index };
        match (phase, plan) {
            (Phase::Address, _) => self.address.candidates.push(candidate),
            (Phase::Principal, Some(plan)) if plan != "*" => {
                self.plans.entry(plan.to_owned()).or_default().candidates.push(candidate);
            }
            (Phase::Principal, _) => {
                self.principal.candidates.push(candidate);
                self.plans.values_mut().for_each(|list| list.candidates.push(candidate));
            }
        }
        Ok(())
    }

    /// The first phase, before any cryptography: rules keyed by address.
    ///
    /// `route` is the template that matched, if any.
    pub fn check_address(
        &self,
        address: &AddressKey,
        method: &str,
        route: Option<&str>,
        now: Nanos,
    ) -> LimitVerdict {
        self.check_address_for(address, method, route, 1, now)
    }

    /// The same for so many requests at once: all of them pass, or none.
    pub fn check_address_for(
        &self,
        address: &AddressKey,
        method: &str,
        route: Option<&str>,
        hits: u32,
        now: Nanos,
    ) -> LimitVerdict {
        let caller = Caller::anonymous(*address);
        self.check(&self.address, &Call { caller: &caller, method, route, hits, now })
    }

    /// The second phase, when the caller is known (or known to be anonymous).
    pub fn check_principal(
        &self,
        caller: &Caller<'_>,
        method: &str,
        route: Option<&str>,
        now: Nanos,
    ) -> LimitVerdict {
        self.check_principal_for(caller, method, route, 1, now)
    }

    /// The same for so many requests at once: all of them pass, or none.
    pub fn check_principal_for(
        &self,
        caller: &Caller<'_>,
        method: &str,
        route: Option<&str>,
        hits: u32,
        now: Nanos,
    ) -> LimitVerdict {
        let plan = caller.plan.and_then(|plan| self.plans.get(plan));
        self.check(plan.unwrap_or(&self.principal), &Call { caller, method, route, hits, now })
    }

    /// What both phases would have left for a caller, without charging anybody: a report for each policy
    /// that would be asked, whatever it says; in a verdict for each phase.
    pub fn peek(
        &self,
        caller: &Caller<'_>,
        method: &str,
        route: Option<&str>,
        now: Nanos,
    ) -> [LimitVerdict; 2] {
        let plan = caller.plan.and_then(|plan| self.plans.get(plan)).unwrap_or(&self.principal);
        let call = Call { caller, method, route, hits: 1, now };
        [&self.address, plan].map(|list| {
            let chosen = self.choose(&list.candidates, &call);
            let mut verdict = LimitVerdict::new(self.id);
            for (_, index, policy) in self.each(list, chosen) {
                let shadow = policy.rule.shadow;
                if let Some((quota, charge)) = policy.ask(&self.seed, &call, false) {
                    verdict.rate(index, shadow, quota, charge, now);
                }
                if let Some((limit, table)) = &policy.concurrency {
                    let under_way = table.under_way(policy.key(&self.seed, &call));
                    verdict.places(index, shadow, *limit, under_way);
                }
            }
            verdict
        })
    }

    /// The policy a report is about; `None` if another limiter made the report.
    pub fn policy(&self, verdict: &LimitVerdict, report: &PolicyReport) -> Option<&Policy> {
        (verdict.limiter == self.id).then(|| self.policies.get(usize::from(report.policy)))?
    }

    /// All policies in force.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// In which fields limits are told.
    pub fn headers(&self) -> Dialect {
        self.headers
    }

    /// Where a refused caller reads about the API.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The most bytes its stores will ever take.
    pub fn byte_bound(&self) -> usize {
        let metered = self.policies.iter().filter_map(|policy| policy.rate.as_ref());
        metered.map(|metered| metered.store.byte_bound()).sum()
    }

    fn check(&self, list: &List, call: &Call<'_, '_>) -> LimitVerdict {
        let chosen = self.choose(&list.candidates, call);
        let mut verdict = LimitVerdict::new(self.id);
        // Candidates that refuse, in shadow mode or not.
        let mut refusing = 0_u64;
        for (bit, index, policy) in self.each(list, chosen & list.concurrent) {
            let Some((limit, table)) = &policy.concurrency else { continue };
            let acquired = table.acquire(policy.key(&self.seed, call), *limit);
            refusing |= if acquired.is_err() { bit } else { 0 };
            verdict.concurrency(index, policy.rule.shadow, *limit, acquired);
        }
        if !verdict.is_admitted() {
            verdict.release();
            self.note(list, chosen, refusing, false, call.hits);
            return verdict;
        }
        let enforced = chosen & list.enforced;
        // More than one rule: ask all before charging any. What refuses now refuses again: at
        // one moment, states only grow.
        let several = enforced.count_ones() > 1;
        let refuses = |(_, _, policy): (u64, u16, &Policy)| {
            policy.ask(&self.seed, call, false).is_some_and(|(_, charge)| !charge.is_admitted())
        };
        let charge = !(several && self.each(list, enforced).any(refuses));
        for rates in [enforced, chosen & list.shadow] {
            for (bit, index, policy) in self.each(list, rates) {
                if let Some((quota, answer)) = policy.ask(&self.seed, call, charge) {
                    refusing |= if answer.is_admitted() { 0 } else { bit };
                    verdict.rate(index, policy.rule.shadow, quota, answer, call.now);
                }
            }
            if !verdict.is_admitted() {
                verdict.release();
                break;
            }
        }
        self.note(list, chosen, refusing, verdict.is_admitted(), call.hits);
        verdict
    }

    /// Counts what the policies did: those that refuse have refused, and the others have let through
    /// what is admitted. Where another one refuses it, they did nothing.
    #[inline]
    fn note(&self, list: &List, chosen: u64, refusing: u64, is_admitted: bool, hits: u32) {
        // Where nothing is admitted, only those that refuse did something.
        let counted = if is_admitted { chosen } else { chosen & refusing };
        let own = Own::of_thread();
        for (bit, _, policy) in self.each(list, counted) {
            policy.done.add(own, bit & refusing != 0, hits);
        }
    }

    /// The policies of the candidates whose bits are set, each with its bit.
    #[inline]
    fn each(&self, list: &List, mut bits: u64) -> impl Iterator<Item = (u64, u16, &Policy)> {
        std::iter::from_fn(move || {
            while bits != 0 {
                let lowest = bits.trailing_zeros();
                let candidate = list.candidates.get(lowest as usize);
                bits &= bits - 1;
                if let Some(candidate) = candidate {
                    let policy = self.policies.get(usize::from(candidate.policy))?;
                    return Some((1 << lowest, candidate.policy, policy));
                }
            }
            None
        })
    }

    /// Which candidates apply, as bits; see [`crate::rules`] for the layers.
    #[inline]
    fn choose(&self, candidates: &[Candidate], call: &Call<'_, '_>) -> u64 {
        let mut chosen = 0;
        let mut deepest = Layer::Default;
        for (index, candidate) in candidates.iter().enumerate() {
            if candidate.layer > deepest {
                break;
            }
            let Some(policy) = self.policies.get(usize::from(candidate.policy)) else { continue };
            if policy.matches(call) {
                chosen |= 1 << index;
                if candidate.layer != Layer::Every && policy.rule.settles() {
                    deepest = candidate.layer;
                }
            }
        }
        chosen
    }
}

impl List {
    fn seal(&mut self, policies: &[Policy]) {
        self.candidates.sort_by_key(|candidate| candidate.layer);
        for (index, candidate) in self.candidates.iter().enumerate() {
            let Some(policy) = policies.get(usize::from(candidate.policy)) else { continue };
            let bit = 1 << index;
            self.concurrent |= if policy.concurrency.is_some() { bit } else { 0 };
            match (&policy.rate, policy.rule.shadow) {
                (Some(_), false) => self.enforced |= bit,
                (Some(_), true) => self.shadow |= bit,
                (None, _) => {}
            }
        }
    }
}

impl Policy {
    fn new(rule: &Rule, quota: Option<Quota>, previous: Option<&Limiter>) -> Policy {
        let named = previous
            .and_then(|previous| previous.policies.iter().find(|p| p.rule.name == rule.name));
        let done = named.map_or_else(Arc::default, |before| Arc::clone(&before.done));
        let before = previous.and_then(|previous| {
            previous.policies.iter().find(|p| p.rule.name == rule.name && p.rule.key == rule.key)
        });
        let same_keys = before.filter(|before| before.rule.ipv6_prefix == rule.ipv6_prefix);
        let rate = quota.map(|quota| {
            let kept = same_keys.and_then(|before| before.rate.as_ref()).filter(|metered| {
                metered.quota == quota
                    && same_keys.is_some_and(|b| b.rule.memory_bytes() == rule.memory_bytes())
            });
            let store = kept.map_or_else(
                || Arc::new(Store::new(rule.memory_bytes())),
                |metered| Arc::clone(&metered.store),
            );
            Metered { quota, store }
        });
        let concurrency = rule.concurrency.map(|limit| {
            let kept = same_keys.and_then(|before| before.concurrency.as_ref());
            (limit, kept.map_or_else(Concurrency::new, |(_, table)| Arc::clone(table)))
        });
        Policy { rule: rule.clone(), rate, concurrency, texts: OnceLock::new(), done }
    }

    /// The rule as it was written.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Its quota, if it limits a rate.
    pub fn quota(&self) -> Option<&Quota> {
        self.rate.as_ref().map(|metered| &metered.quota)
    }

    /// How many requests it has let through since it first was in force, and how many it refused (in
    /// shadow mode: would have refused).
    pub fn done(&self) -> (u64, u64) {
        self.done.sum()
    }

    /// What answers say of it, written the first time that it is asked for.
    pub(crate) fn texts(&self, write: impl FnOnce(&Policy) -> Texts) -> &Texts {
        self.texts.get_or_init(|| write(self))
    }

    /// What its store holds, counted by walking it; nothing if it limits no rate.
    pub fn census(&self) -> Census {
        self.rate.as_ref().map(|metered| metered.store.census()).unwrap_or_default()
    }

    /// What its rate says, charging the caller or not; `None` if it limits no rate.
    #[inline]
    fn ask(&self, seed: &Seed, call: &Call<'_, '_>, charge: bool) -> Option<(&Quota, Charge)> {
        let Metered { quota, store } = self.rate.as_ref()?;
        let key = self.key(seed, call);
        let cost = self.rule.cost_of(call.method, call.route).saturating_mul(call.hits);
        let answer = if charge {
            store.charge(key, quota, cost, call.now)
        } else {
            store.peek(key, quota, cost, call.now)
        };
        Some((quota, answer))
    }

    #[inline]
    fn matches(&self, call: &Call<'_, '_>) -> bool {
        let rule = &self.rule;
        (rule.methods.is_empty() || rule.methods.iter().any(|method| method == call.method))
            && rule
                .route
                .as_ref()
                .is_none_or(|pattern| call.route.is_some_and(|r| pattern.matches(r)))
            && rule
                .principal_type
                .as_ref()
                .is_none_or(|wanted| call.caller.principal.is_some_and(|(kind, _)| kind == wanted))
            && (call.caller.address != AddressKey::Local || self.has_own_key(call.caller))
    }

    /// Whether a caller is counted by something other than its address.
    fn has_own_key(&self, caller: &Caller<'_>) -> bool {
        match &self.rule.key {
            Key::Address => false,
            Key::Principal => caller.principal.is_some(),
            Key::ApiKey => caller.api_key.is_some(),
            Key::Header(name) => (caller.header)(name).is_some(),
        }
    }

    #[inline]
    fn key(&self, seed: &Seed, call: &Call<'_, '_>) -> Fingerprint {
        let caller = call.caller;
        let own = match &self.rule.key {
            Key::Address => None,
            Key::Principal => caller
                .principal
                .map(|(kind, id)| seed.pair(Sort::Principal, kind.as_bytes(), id.as_bytes())),
            Key::ApiKey => caller.api_key.map(|key| seed.bytes(Sort::ApiKey, key.as_bytes())),
            Key::Header(name) => (caller.header)(name).map(|value| seed.bytes(Sort::Header, value)),
        };
        own.unwrap_or_else(|| caller.address.fingerprint(seed, self.rule.ipv6_prefix))
    }
}

/// Whether the quota's answer lets the request through.
pub(crate) fn admits(answer: Answer) -> bool {
    matches!(answer, Answer::Admitted { .. })
}
