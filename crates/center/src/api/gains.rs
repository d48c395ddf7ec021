//! Access that an apply gives or takes, as far as it can be named from its items. What conditions,
//! roles within roles and claims make of it is for a decision to say.

use std::collections::{BTreeMap, BTreeSet};

use keepgate_api::AccessChange;
use keepgate_policy::bundle::Packed;
use keepgate_policy::model::GrantBody;
use keepgate_policy::{Item, ItemBody, Kind, Naming, Uid};

use crate::desk::{Refusal, Step};
use crate::store::{Reading, StoreError};

/// Changes that are named.
const TOLD: usize = 500;

/// Grants that are named with a membership.
const NAMED: usize = 5;

/// In place of a principal, an action or a resource: all there are.
const ANY: &str = "any";

/// What the steps of an apply give and take.
pub(crate) fn named(
    store: &dyn Reading,
    service: &str,
    packed: &Packed,
    steps: &[Step],
) -> Result<Vec<AccessChange>, Refusal> {
    told(store, steps, || Grants::of(store, service, packed))
}

/// What steps give and take.
pub(crate) fn of_steps(store: &dyn Reading, steps: &[Step]) -> Result<Vec<AccessChange>, Refusal> {
    told(store, steps, || {
        let mut grants = Grants::default();
        for scope in store.scopes()? {
            grants.stored(store, &scope.service)?;
        }
        Ok(grants)
    })
}

fn told(
    store: &dyn Reading,
    steps: &[Step],
    all: impl Fn() -> Result<Grants, Refusal>,
) -> Result<Vec<AccessChange>, Refusal> {
    let mut found = Vec::new();
    let mut grants: Option<Grants> = None;
    for step in steps {
        if found.len() >= TOLD {
            break;
        }
        let is_asked = matches!(
            step.key.kind,
            Kind::Member | Kind::Grant | Kind::Policy | Kind::Entity | Kind::Link
        );
        if !is_asked {
            continue;
        }
        let before = match step.before {
            Some(_) => store.item(&step.key)?.map(|row| Item::decode(row.key, &row.body)),
            None => None,
        };
        let before = before.transpose().map_err(StoreError::from)?;
        let after = step.after.as_ref().map(|after| after.decode()).transpose();
        let after = after.map_err(StoreError::from)?;
        if step.key.kind == Kind::Member && grants.is_none() {
            grants = Some(all()?);
        }
        let none = Grants::default();
        let grants = grants.as_ref().unwrap_or(&none);
        let (lost, gained) = (said(before.as_ref(), grants), said(after.as_ref(), grants));
        for (gains, said, other) in [(false, &lost, &gained), (true, &gained, &lost)] {
            for (permits, principal, message) in said.iter().filter(|said| !other.contains(said)) {
                found.push(AccessChange {
                    gained: gains == *permits,
                    principal: principal.clone(),
                    message: message.clone(),
                });
            }
        }
    }
    found.truncate(TOLD);
    Ok(found)
}

/// Whether it permits, whom, and what: as an item says it.
type Said = (bool, String, String);

fn said(item: Option<&Item>, grants: &Grants) -> BTreeSet<Said> {
    let mut found = BTreeSet::new();
    let Some(item) = item else { return found };
    let id = &item.key.id;
    match &item.body {
        ItemBody::Member(member) => {
            let may = grants.words(&member.role);
            let message = format!("membership in {}{may}", member.role);
            found.insert((true, member.member.to_string(), message));
        }
        ItemBody::Grant(grant) => {
            let message = format!("{} (grant `{id}`)", words(grant));
            found.insert((true, grant.principal.to_string(), message));
        }
        ItemBody::Link(link) => {
            let principal = link.principal.as_ref().map_or_else(|| ANY.to_owned(), Uid::to_string);
            let message = format!("what template `{}` says (link `{id}`)", link.template);
            found.insert((true, principal, message));
        }
        ItemBody::Entity(entity) => {
            for parent in &entity.parents {
                let message = format!("place in {parent}, as its entity says");
                found.insert((true, entity.uid.to_string(), message));
            }
        }
        ItemBody::Policy(policy) => {
            if let Ok(naming) = Naming::of(&policy.text) {
                let bound: Vec<String> = naming.bound.iter().map(Uid::to_string).collect();
                let of = match bound.as_slice() {
                    [] => String::new(),
                    bound => format!(", only with {}", bound.join(", ")),
                };
                let does = if naming.permits { "permits" } else { "forbids" };
                let message = format!("what policy `{id}` {does}{of}");
                found.insert((naming.permits, ANY.to_owned(), message));
            }
        }
        _ => {}
    }
    found
}

/// What a grant is of.
fn words(grant: &GrantBody) -> String {
    let actions: Vec<String> = grant.actions.iter().map(Uid::to_action_text).collect();
    let actions = if actions.is_empty() { ANY.to_owned() } else { actions.join(", ") };
    let resource = grant.resource.as_ref().map_or_else(|| ANY.to_owned(), Uid::to_string);
    format!("{actions} on {resource}")
}

/// What roles may do by grants, stored or in the files.
#[derive(Default)]
struct Grants(BTreeMap<Uid, BTreeSet<String>>);

impl Grants {
    fn of(store: &dyn Reading, service: &str, packed: &Packed) -> Result<Grants, Refusal> {
        let mut grants = Grants::default();
        grants.stored(store, service)?;
        for item in packed.items().filter(|item| item.key.kind == Kind::Grant) {
            grants.add(&item.decode().map_err(StoreError::from)?);
        }
        Ok(grants)
    }

    fn stored(&mut self, store: &dyn Reading, service: &str) -> Result<(), StoreError> {
        store.each_of(service, Kind::Grant, &mut |row| {
            self.add(&Item::decode(row.key, &row.body)?);
            Ok(())
        })
    }

    fn add(&mut self, item: &Item) {
        if let ItemBody::Grant(grant) = &item.body {
            self.0.entry(grant.principal.clone()).or_default().insert(words(grant));
        }
    }

    fn words(&self, role: &Uid) -> String {
        let Some(of_role) = self.0.get(role) else { return String::new() };
        let first: Vec<&str> = of_role.iter().take(NAMED).map(String::as_str).collect();
        let more = of_role.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; {more} more") } else { String::new() };
        format!(", which may {}{more}", first.join("; "))
    }
}
