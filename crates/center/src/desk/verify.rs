//! What a store says about itself, checked against what it holds: every digest, the chain of its
//! revisions, and the columns that follow from others. What is served must be what was written.

use std::collections::BTreeMap;

use keepgate_policy::mark::{FORMAT, change_digest};
use keepgate_policy::{Digest, Item, ItemBody, Revision};

use crate::store::{Meta, Reading, RevisionRow, Row, ScopeRow, StoreError, Sum, SumRow, TokenRow};

use super::history::Sums;

fn corrupt(what: String) -> StoreError {
    StoreError::Corrupt { what }
}

/// An item's row: its digest, and the columns that follow from its body.
pub(crate) fn row(row: &Row, item: &Item, head: Revision) -> Result<Digest, StoreError> {
    let digest = Digest::of_encoded(&row.key, &row.body);
    let source = keepgate_policy::source_of(&item.body);
    let wrong = if row.digest != digest {
        "digest"
    } else if row.source != source {
        "source"
    } else if row.needs > FORMAT || row.needs == 0 {
        "format"
    } else if row.revision > head {
        "revision"
    } else {
        return Ok(digest);
    };
    Err(corrupt(format!("{} does not have the {wrong} that its row says", row.key)))
}

/// A scope: its items sum up to its digest and their number.
pub(crate) fn scope(scope: &ScopeRow, sum: Digest, items: u64) -> Result<(), StoreError> {
    if sum != scope.digest {
        let name = &scope.service;
        return Err(corrupt(format!("the items of scope `{name}` do not sum up to its digest")));
    }
    if items != scope.items {
        let (name, said) = (&scope.service, scope.items);
        return Err(corrupt(format!("scope `{name}` has {items} items, not {said}")));
    }
    Ok(())
}

/// Tokens and tombstones sum up to their digests.
pub(crate) fn sums(
    reading: &(impl Reading + ?Sized),
    tokens: &[TokenRow],
) -> Result<Sums, StoreError> {
    let mut found = Sums::default();
    for token in tokens {
        found.tokens.add(token.digest());
    }
    reading.tombstones(&mut |tombstone| {
        found.tombstones.add(tombstone.digest());
        Ok(())
    })?;
    same("tokens", reading.sum(Sum::Tokens)?, found.tokens)?;
    same("tombstones", reading.sum(Sum::Tombstones)?, found.tombstones)?;
    Ok(found)
}

fn same(what: &str, said: SumRow, found: SumRow) -> Result<(), StoreError> {
    if said == found {
        Ok(())
    } else {
        Err(corrupt(format!("the {what} do not sum up to their digest")))
    }
}

/// The revisions form one chain up to the head, and the change rows that are kept are theirs.
pub(crate) fn chain(
    reading: &(impl Reading + ?Sized),
    meta: &Meta,
) -> Result<RevisionRow, StoreError> {
    let head = reading.head()?;
    let mut changed: BTreeMap<Revision, Digest> = BTreeMap::new();
    reading.each_change(&mut |row| {
        let sum = changed.entry(row.revision).or_default();
        *sum = sum.plus(change_digest(&row.key, row.body.as_deref()));
        Ok(())
    })?;
    let mut last: Option<RevisionRow> = None;
    reading.revisions(&mut |row| {
        let r = row.revision;
        if let Some(before) = &last
            && (row.previous != before.revision
                || row.chain != row.chained(&before.chain, meta.history))
        {
            return Err(corrupt(format!(
                "revision {r} does not follow from revision {}",
                before.revision
            )));
        }
        if changed.get(&r).is_some_and(|sum| *sum != row.changed) {
            return Err(corrupt(format!("the changes of revision {r} do not have its digest")));
        }
        last = Some(row);
        Ok(())
    })?;
    match last {
        Some(row) if row.revision == head => Ok(row),
        Some(row) => {
            Err(corrupt(format!("the head is {head}, the last revision {}", row.revision)))
        }
        None => Err(corrupt(format!("there is no revision, the head is {head}"))),
    }
}

/// How many items of each service need a newer format than release 0.1 has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newer(BTreeMap<String, u64>);

impl Newer {
    /// An item came (`true`) or went.
    pub(crate) fn moved(&mut self, service: &str, needs: u32, came: bool) {
        if needs <= 1 {
            return;
        }
        let count = self.0.entry(service.to_owned()).or_default();
        *count = if came { count.saturating_add(1) } else { count.saturating_sub(1) };
        self.0.retain(|_, count| *count > 0);
    }

    /// Whether items of a service do.
    pub fn has(&self, covers: impl Fn(&str) -> bool) -> bool {
        self.0.keys().any(|service| covers(service))
    }
}

/// What a store holds, verified.
pub(crate) struct State {
    pub(crate) meta: Meta,
    pub(crate) head: RevisionRow,
    pub(crate) scopes: BTreeMap<String, ScopeRow>,
    /// Digest of all items.
    pub(crate) digest: Digest,
    pub(crate) sums: Sums,
}

/// Checks everything, without making a world of it.
pub(crate) fn all(reading: &(impl Reading + ?Sized)) -> Result<State, StoreError> {
    let meta = reading.meta()?;
    let head = chain(reading, &meta)?;
    let mut scopes = BTreeMap::new();
    let mut digest = Digest::default();
    for said in reading.scopes()? {
        let (mut sum, mut items) = (Digest::default(), 0);
        reading.each(&said.service, &mut |stored| {
            let item = Item::decode(stored.key.clone(), &stored.body)
                .map_err(|e| corrupt(keepgate_observe::chain(&e)))?;
            sum = sum.plus(row(&stored, &item, head.revision)?);
            items += 1;
            Ok(())
        })?;
        scope(&said, sum, items)?;
        digest = digest.plus(sum);
        scopes.insert(said.service.clone(), said);
    }
    let sums = sums(reading, &reading.tokens()?)?;
    Ok(State { meta, head, scopes, digest, sums })
}

/// The service whose apply brought an item into the directory.
pub(crate) fn source_of(body: &ItemBody) -> &str {
    keepgate_policy::source_of(body)
}
