//! The state of a store, read and checked as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepgate_policy::world::Builder;
use keepgate_policy::{Digest, Item, ItemBody, Mark};

use super::head::digest_of;
use super::{Head, Newer, OpenError, Scope, verify};
use crate::store::{Fork, Meta, Store, StoreError};

/// The head of a store, all at one revision. It must go on from what is known of it already.
pub(super) fn load(
    store: &dyn Store,
    known: Option<&Mark>,
) -> Result<(Head, Meta, Vec<Fork>), OpenError> {
    let reading = store.read()?;
    let meta = reading.meta()?;
    let forks = reading.forks()?;
    let last = verify::chain(reading.as_ref(), &meta)?;
    if let Some(known) = known {
        let moved = |found: String| StoreError::Moved { expected: known.to_string(), found };
        if last.revision < known.revision {
            return Err(moved(last.revision.to_string()).into());
        }
        let skipped =
            forks.iter().any(|fork| fork.at < known.revision && known.revision < fork.resumed);
        match reading.revision(known.revision)? {
            Some(row) if row.chain != known.chain => {
                return Err(moved("another revision of that number".to_owned()).into());
            }
            // The line jumped over it: what was told is not there.
            None if skipped => return Err(moved(last.revision.to_string()).into()),
            _ => {}
        }
        // Where the line jumped, the rows before it are gone.
        let over = |fork: &&Fork| fork.at < known.revision && known.revision < fork.resumed;
        if let Some(Fork { at, resumed }) = forks.iter().find(over) {
            return Err(moved(format!("{resumed}, which follows {at}")).into());
        }
    }
    let revision = last.revision;
    let mut newer = Newer::default();
    let mut world = Builder::new(revision);
    let mut services = BTreeMap::new();
    let mut scopes = BTreeMap::new();
    for scope in reading.scopes()? {
        let mut sum = Digest::default();
        let mut broken: Option<OpenError> = None;
        let mut count = 0;
        reading.each(&scope.service, &mut |row| {
            if broken.is_some() {
                return Ok(());
            }
            count += 1;
            let item = Item::decode(row.key.clone(), &row.body)?;
            let digest = verify::row(&row, &item, revision)?;
            sum = sum.plus(digest);
            newer.moved(&item.key.service, row.needs, true);
            if let ItemBody::Service(settings) = &item.body {
                services.insert(item.key.service.clone(), Arc::new((**settings).clone()));
            }
            // A replica computes its digest from what it decodes.
            let same = item.encode() == row.body;
            let digest = if same { digest } else { Digest::of(&item) };
            // An error of the engine is not the store's.
            broken = world.put(&item, digest).err().map(OpenError::World);
            Ok(())
        })?;
        if let Some(e) = broken {
            return Err(e);
        }
        verify::scope(&scope, sum, count)?;
        scopes.insert(scope.service.clone(), scope);
    }
    let world = world.finish(Some(digest_of(&scopes, &Scope::All)))?;
    let tokens = reading.tokens()?;
    let sums = verify::sums(reading.as_ref(), &tokens)?;
    let tokens = tokens.into_iter().map(|row| (row.id.clone(), row)).collect();
    let head = Head {
        revision,
        world,
        scopes: Arc::new(scopes),
        services: Arc::new(services),
        tokens: Arc::new(tokens),
        mark: meta.mark(revision, last.chain),
        sums,
        newer: Arc::new(newer),
        authzen_together: meta.authzen_together,
    };
    Ok((head, meta, forks))
}
