//! The published state: what a reader takes once, and what it says by itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use keepgate_policy::service::{Authzen, ServiceSettings};
use keepgate_policy::{Digest, Mark, Revision, World};

use super::{Newer, Scope, Sums};
use crate::store::{ScopeRow, StoreError, TokenRow};

/// Everything a reader needs, at one revision.
#[derive(Clone, Debug)]
pub struct Head {
    /// The revision.
    pub revision: Revision,
    /// What decisions are made with.
    pub world: World,
    /// Digest and size of each scope, by service name; the directory's is empty.
    pub scopes: Arc<BTreeMap<String, ScopeRow>>,
    /// The settings of each service, by name.
    pub services: Arc<BTreeMap<String, Arc<ServiceSettings>>>,
    /// All tokens, revoked ones included, by id.
    pub tokens: Arc<HashMap<String, TokenRow>>,
    /// The sealed mark of the revision.
    pub mark: Mark,
    /// Digests of tokens and tombstones.
    pub sums: Sums,
    /// Which services use what followers of release 0.1 do not understand.
    pub newer: Arc<Newer>,
    /// Several services decide AuthZEN requests that name none together, as in the release that the
    /// store comes from; until one is the default.
    pub authzen_together: bool,
}

/// Why no service decides a question that names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unnamed {
    /// There is none.
    #[error("the center has no service yet; `keepgate apply DIR` makes one")]
    None,
    /// The only one does not want to.
    #[error(
        "the only service says `authzen = false`: name it (`/s/NAME/access/v1/..`, or `service` in \
         `/v1/check`), or say `authzen = \"default\"` in its service.toml"
    )]
    Refused,
    /// There are several.
    #[error(
        "the request names no service, and none of the {0} says `authzen = \"default\"` in its \
         service.toml: name one (`/s/NAME/access/v1/..`, or `service` in `/v1/check`), or make one \
         the default"
    )]
    Several(usize),
}

impl Head {
    /// The digest of what a follower of this scope holds.
    pub fn digest(&self, scope: &Scope) -> Digest {
        digest_of(&self.scopes, scope)
    }

    /// The services that decide a question which names none: one, or, in a store of an earlier
    /// release, several.
    pub fn unnamed(&self) -> Result<Vec<&str>, Unnamed> {
        let of = |wanted: fn(Authzen) -> bool| {
            let found = self.services.iter().filter(move |(_, s)| wanted(s.authzen));
            found.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
        };
        let default = of(|authzen| authzen == Authzen::Default);
        if !default.is_empty() {
            return Ok(default);
        }
        let deciding = of(|authzen| authzen != Authzen::No);
        match self.services.len() {
            _ if self.authzen_together && !deciding.is_empty() => Ok(deciding),
            0 => Err(Unnamed::None),
            1 if deciding.is_empty() => Err(Unnamed::Refused),
            1 => Ok(deciding),
            several => Err(Unnamed::Several(several)),
        }
    }

    /// What an operator should know of that, if anything.
    pub fn authzen_warning(&self) -> Option<String> {
        let together = self.unnamed().ok().filter(|names| names.len() > 1)?;
        Some(format!(
            "AuthZEN requests that name no service are decided by {} services together, as in an \
             earlier release ({}): a permit of one allows what belongs to another; say `authzen = \
             \"default\"` in the service.toml of the one that decides them",
            together.len(),
            together.iter().take(5).copied().collect::<Vec<_>>().join(", ")
        ))
    }
}

pub(super) fn digest_of(scopes: &BTreeMap<String, ScopeRow>, scope: &Scope) -> Digest {
    scopes
        .values()
        .filter(|row| scope.covers(&row.service))
        .fold(Digest::default(), |sum, row| sum.plus(row.digest))
}

/// Whether the settings of a service make it the default one of AuthZEN.
pub(crate) fn is_default(settings: &[u8]) -> Result<bool, StoreError> {
    let settings: ServiceSettings = serde_json::from_slice(settings)
        .map_err(|e| StoreError::Corrupt { what: e.to_string() })?;
    Ok(settings.authzen == Authzen::Default)
}
