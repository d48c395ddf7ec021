//! Which roles there are: a name that nothing knows is likely a slip.

use std::collections::BTreeSet;

use keepgate_policy::{Item, ItemBody, ItemKey, Kind, Naming, Uid};

use crate::desk::{EditProblem, Refusal};
use crate::store::{Reading, StoreError};

/// Names that are held against an unknown one.
const NAMES: usize = 10_000;

/// Refuses a role that nothing knows: no description, entity, membership, grant or policy names it.
pub(crate) fn must_exist(store: &dyn Reading, role: &Uid) -> Result<(), Refusal> {
    let mut look = Look { role, is_known: false, names: BTreeSet::new() };
    look.all(store)?;
    if look.is_known {
        return Ok(());
    }
    let nearest = match look.nearest() {
        Some(name) => format!("did you mean `{name}`? To make another one, "),
        None => "to make it, ".to_owned(),
    };
    let message = format!(
        "no description, member, grant or policy names this role; {nearest}say so (`--create`)"
    );
    Err(Refusal::Invalid(vec![EditProblem::of(&ItemKey::role(role), message)]))
}

struct Look<'a> {
    role: &'a Uid,
    is_known: bool,
    names: BTreeSet<Uid>,
}

impl Look<'_> {
    fn all(&mut self, store: &dyn Reading) -> Result<(), StoreError> {
        let scopes = store.scopes()?;
        let direct = [ItemKey::role(self.role), ItemKey::entity("", self.role)];
        let of_services =
            scopes.iter().map(|scope| ItemKey::entity(scope.service.as_str(), self.role));
        for key in direct.into_iter().chain(of_services) {
            self.is_known |= store.item(&key)?.is_some();
        }
        for kind in [Kind::Role, Kind::Member] {
            self.each(store, "", kind)?;
        }
        for scope in &scopes {
            for kind in [Kind::Grant, Kind::Policy] {
                self.each(store, &scope.service, kind)?;
            }
        }
        Ok(())
    }

    fn each(&mut self, store: &dyn Reading, service: &str, kind: Kind) -> Result<(), StoreError> {
        if self.is_known {
            return Ok(());
        }
        store.each_of(service, kind, &mut |row| {
            if self.is_known {
                return Ok(());
            }
            let item = Item::decode(row.key, &row.body)?;
            match &item.body {
                ItemBody::Role(role) => self.note(&role.uid),
                ItemBody::Member(member) => {
                    self.note(&member.role);
                    self.is_known |= member.member == *self.role;
                }
                ItemBody::Grant(grant) => self.note(&grant.principal),
                ItemBody::Policy(policy) => {
                    let may_name = policy.text.contains(&self.role.kind);
                    if let Some(naming) = may_name.then(|| Naming::of(&policy.text).ok()).flatten()
                    {
                        naming.named.iter().for_each(|uid| self.note(uid));
                    }
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn note(&mut self, uid: &Uid) {
        self.is_known |= uid == self.role;
        if uid.kind == self.role.kind && self.names.len() < NAMES {
            self.names.insert(uid.clone());
        }
    }

    /// The name that is the fewest slips away, where they are few.
    fn nearest(&self) -> Option<&Uid> {
        let slips = self.names.iter().map(|uid| (distance(&uid.id, &self.role.id), uid));
        let (slips, nearest) = slips.min_by_key(|(slips, _)| *slips)?;
        let most = 2.max(self.role.id.chars().count() / 3);
        (slips <= most).then_some(nearest)
    }
}

/// Characters to insert, delete or replace from one text to the other (Levenshtein), of their first
/// 200; case does not count.
fn distance(a: &str, b: &str) -> usize {
    let letters =
        |text: &str| -> String { text.chars().flat_map(char::to_lowercase).take(200).collect() };
    strsim::levenshtein(&letters(a), &letters(b))
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn slips_are_counted() {
        for (a, b, slips) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("orders-reader", "oders-reader", 1),
            ("Admin", "admin", 0),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (slips, slips), "{a} {b}");
        }
    }
}
