//! Decides open exchanges again when permissions change, and ends those that may not go on.
//!
//! In rounds, at least [`ROUND`] apart, on a thread apart from the workers. An exchange is decided
//! again, with what it was decided on before, when an item that its service's decisions depend on
//! has changed since, or a grant or membership of them has ended; not before it is as old as
//! `revoke_after`, so that the many short ones cost nothing. Else it is only asked whether the
//! permissions are still young enough for it and, where the service closes then, whether its
//! credential still holds.
//!
//! INVARIANT: no list is held for longer than it takes to copy [`CHUNK`] pointers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepgate_policy::service::ServiceSettings;
use keepgate_policy::world::Prepared;
use keepgate_policy::{Query, Revision, World};
use tokio::time::MissedTickBehavior;

use super::front::Front;
use crate::exchange::ongoing::{Ending, Inputs, Ongoing};
use crate::identify::issuers::IssuerKeys;
use crate::service::source::{Dated, Peek};
use crate::service::table::Tables;

/// The time between two rounds.
const ROUND: Duration = Duration::from_millis(100);
/// How long an exchange that was told may take to end before its connection is closed.
const GRACE: Duration = Duration::from_secs(1);
/// Exchanges looked at before others get the processor.
const CHUNK: usize = 128;

/// Runs until it is dropped.
pub(crate) async fn run(front: Arc<Front>) {
    let mut every = tokio::time::interval(ROUND);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = Rounds::default();
    loop {
        every.tick().await;
        rounds.look(&front);
        if front.ongoing.iter().all(|list| list.len() == 0) {
            continue;
        }
        // Taken and not copied: who else holds an exchange is how it is seen to have ended.
        let told = std::mem::take(&mut rounds.told);
        let mut next = Rounds { told, ..rounds.clone() };
        let front = Arc::clone(&front);
        // A round that did not come to its end changed nothing here: the next one does its work.
        if let Ok(told) = tokio::task::spawn_blocking(move || {
            next.round(&front);
            next.told
        })
        .await
        {
            rounds.told = told;
            for seen in &mut rounds.services {
                seen.all = false;
            }
        }
    }
}

/// What is known from one round to the next.
#[derive(Clone, Default)]
struct Rounds {
    /// In the order of the services.
    services: Vec<Seen>,
    /// Those that were told, and when.
    told: Vec<(Arc<Ongoing>, Instant)>,
}

/// What was seen of one service.
#[derive(Clone, Default)]
struct Seen {
    /// The world that was seen last.
    world: Option<Dated>,
    /// The first revision at which all that decisions depend on was as it is now.
    since: Revision,
    /// Every exchange is to be decided again, whatever its revision.
    all: bool,
    /// The last end of a grant or a membership of its world, up to this round.
    last_end: Option<u64>,
    /// The keys of the issuers in its settings: held, they are read before a request needs them.
    keys: Arc<[Arc<IssuerKeys>]>,
    /// The settings that they are of.
    settings: Option<Arc<ServiceSettings>>,
}

impl Seen {
    /// Sees whether something has changed.
    fn look(&mut self, tables: &Tables) {
        let Peek::New(dated) = tables.source.peek_service(&tables.service, None) else { return };
        let world = &dated.world;
        if let Some(service) = world.service(&tables.service) {
            self.hold_keys(service.settings(), tables);
        }
        let Some(before) = &self.world else {
            self.since = world.revision();
            self.world = Some(dated);
            return;
        };
        if !world.decides_as(&before.world, &tables.service) {
            // Where numbers do not ascend (another center's state) they tell nothing.
            self.all |= world.revision() <= before.world.revision();
            self.since = world.revision();
        }
        self.world = Some(dated);
    }
}

impl Seen {
    fn hold_keys(&mut self, settings: &Arc<ServiceSettings>, tables: &Tables) {
        let jwt = &settings.identify.jwt;
        if self.settings.as_ref().is_none_or(|held| held.identify.jwt != *jwt) {
            self.keys = jwt.iter().map(|issuer| tables.issuers.keys(&issuer.keys)).collect();
        }
        self.settings = Some(Arc::clone(settings));
    }
}

impl Rounds {
    fn look(&mut self, front: &Front) {
        let services = &front.common.services;
        self.services.resize_with(services.len(), Seen::default);
        for (seen, tables) in self.services.iter_mut().zip(services) {
            seen.look(tables);
        }
    }

    fn round(&mut self, front: &Front) {
        let now = Instant::now();
        let unix_s = keepgate_observe::unix_s();
        for (seen, tables) in self.services.iter_mut().zip(&front.common.services) {
            let world = seen.world.as_ref().map(|dated| &dated.world);
            seen.last_end = world.and_then(|world| world.last_end(&tables.service, unix_s));
        }
        for list in front.ongoing.iter() {
            let mut from = Some(0);
            while let Some(place) = from {
                let (some, next) = list.some(place, CHUNK);
                for ongoing in some {
                    self.judge(front, &ongoing, now, unix_s);
                }
                from = next;
                std::thread::yield_now();
            }
        }
        self.told.retain(|(ongoing, at)| {
            // The list has let it go: this is the last that holds it.
            let over = Arc::strong_count(ongoing) == 1;
            let late = now.saturating_duration_since(*at) >= GRACE;
            if !over && late {
                ongoing.kill();
            }
            !over && !late
        });
    }

    fn judge(&mut self, front: &Front, ongoing: &Arc<Ongoing>, now: Instant, unix_s: u64) {
        let place = ongoing.inputs.service;
        let (Some(seen), Some(tables)) =
            (self.services.get(place), front.common.services.get(place))
        else {
            return;
        };
        if seen.all {
            ongoing.set_decided(Revision(0));
        }
        let young = now.saturating_duration_since(ongoing.began)
            < front.common.settings.bounds.revoke_after;
        if young || ongoing.ending().is_some() {
            return;
        }
        if let Some(ending) = seen.verdict(front, tables, ongoing, unix_s)
            && ongoing.end(ending)
        {
            self.told.push((Arc::clone(ongoing), now));
        }
    }
}

impl Seen {
    /// Why it is over; none: it goes on.
    fn verdict(
        &self,
        front: &Front,
        tables: &Tables,
        ongoing: &Ongoing,
        unix_s: u64,
    ) -> Option<Ending> {
        let inputs = &ongoing.inputs;
        if inputs.undecided {
            return None;
        }
        if inputs.until_unix_s.is_some_and(|until| unix_s >= until) {
            return Some(Ending::Expired);
        }
        // The age of the world that decides here, and not of one that came since.
        let Some(Dated { world, currency, .. }) = &self.world else {
            return Some(Ending::Undecided);
        };
        if currency.age().is_none_or(|age| age > inputs.max_age) {
            return Some(Ending::Undecided);
        }
        let has_ended = self.last_end.is_some_and(|at| ongoing.decided_unix_s() < at);
        if ongoing.decided() >= self.since && !has_ended {
            return None;
        }
        front.redecided.add(1);
        let ending = decide(world, &tables.service, inputs, unix_s);
        if ending.is_none() {
            ongoing.set_decided(world.revision());
            ongoing.set_decided_unix_s(unix_s);
        }
        ending
    }
}

fn decide(world: &World, service: &str, inputs: &Inputs, unix_s: u64) -> Option<Ending> {
    if let Some(prefix) = &inputs.api_key {
        let view = world.service(service)?;
        // A key that is gone, or another's by now, is no credential any more.
        if view.key(prefix).is_none_or(|key| key.principal != *inputs.principal) {
            return Some(Ending::Denied);
        }
    }
    let said = inputs.said.as_deref();
    let context = inputs.circumstances.context();
    let decision = world.decide_prepared(
        &Query::new(&inputs.principal, &inputs.action, &inputs.resource)
            .service(service)
            .context(&context)
            .principal_parents(said.map_or(&[], |said| &said.roles))
            .at(unix_s),
        said.map_or(Prepared::nothing(), |said| &said.prepared),
    );
    match decision {
        Ok(decision) => (!decision.is_allowed()).then_some(Ending::Denied),
        // A question that cannot be put any more has no answer, and so no denial.
        Err(_) => Some(Ending::Undecided),
    }
}
