//! Values between rows and types, and what is checked on the way: the same for every engine.

use keepgate_policy::{Digest, HistoryId, ItemKey, Kind, Revision};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::history::of_parts;
use super::{Brought, Meta, Origin, Standing, StoreError};

/// The kind of the one row in place of a revision's change rows that are not kept.
pub(super) const LEFT_OUT: &str = "left-out";

/// Integers of the engines are signed; ours count up from zero and never get that far.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The other way; what is below zero was never written.
pub(super) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

pub(super) fn stored_kind(name: &str) -> Result<Kind, StoreError> {
    Kind::from_name(name)
        .ok_or_else(|| StoreError::Corrupt { what: format!("an item of kind `{name}`") })
}

pub(super) fn digest_of(bytes: &[u8]) -> Result<Digest, StoreError> {
    Digest::from_bytes(bytes)
        .ok_or_else(|| StoreError::Corrupt { what: "a digest that is not 32 bytes".to_owned() })
}

pub(super) fn sized<const N: usize>(what: &str, bytes: &[u8]) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt {
        what: format!("{what} has {} bytes, not {N}", bytes.len()),
    })
}

/// Who brought an item, checked.
pub(super) fn origin_of(
    key: &ItemKey,
    brought: &str,
    base: Option<&[u8]>,
) -> Result<Origin, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt { what: format!("{key} has {what}") };
    let brought = Brought::from_name(brought).ok_or_else(|| corrupt("an unknown source"))?;
    let base = base
        .map(|bytes| Origin::base_of(key, bytes).ok_or_else(|| corrupt("a base that is damaged")))
        .transpose()?;
    Ok(Origin { brought, base })
}

/// The row that says which history a store holds, as its columns.
pub(super) struct RawMeta {
    pub(super) history: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) state: String,
    pub(super) why: String,
    pub(super) witnessed: u64,
    pub(super) ancestors: Vec<u8>,
    pub(super) timeline: String,
    pub(super) fresh: bool,
    pub(super) authzen_together: bool,
}

impl RawMeta {
    pub(super) fn of(meta: &Meta) -> RawMeta {
        let (state, why, witnessed) = match &meta.standing {
            Standing::Ok => ("ok", "", Revision(0)),
            Standing::Lost { why, witnessed } => ("lost", why.as_str(), *witnessed),
            Standing::Retired { to } => ("retired", to.as_str(), Revision(0)),
        };
        RawMeta {
            history: meta.history.0.to_vec(),
            key: meta.key.to_vec(),
            state: state.to_owned(),
            why: why.to_owned(),
            witnessed: witnessed.0,
            ancestors: meta.ancestors.iter().flat_map(|history| history.0).collect(),
            timeline: meta.timeline.clone(),
            fresh: meta.fresh,
            authzen_together: meta.authzen_together,
        }
    }

    /// The row has a digest of its own: a flipped bit in a key or a state must not go unseen. It is
    /// that of SQLite's stores before layout 3, unless there is something that they could not say.
    pub(super) fn digest(&self) -> Digest {
        let witnessed = self.witnessed.to_le_bytes();
        let mut parts: Vec<&[u8]> = vec![
            b"meta",
            &self.history,
            &self.key,
            self.state.as_bytes(),
            self.why.as_bytes(),
            &witnessed,
            &self.ancestors,
            self.timeline.as_bytes(),
            if self.fresh { &[1] } else { &[0] },
        ];
        if self.authzen_together {
            parts.push(b"authzen together");
        }
        of_parts(&parts)
    }

    /// What the columns say, where they have the digest that is stored beside them.
    pub(super) fn checked(self, digest: &[u8]) -> Result<Meta, StoreError> {
        let corrupt = |what: &str| StoreError::Corrupt { what: what.to_owned() };
        if digest_of(digest)? != self.digest() {
            return Err(corrupt("the row of the history does not have its digest"));
        }
        let standing = match self.state.as_str() {
            "ok" => Standing::Ok,
            "lost" => Standing::Lost { why: self.why, witnessed: Revision(self.witnessed) },
            "retired" => Standing::Retired { to: self.why },
            _ => return Err(corrupt("the history has an unknown state")),
        };
        let ancestors =
            self.ancestors.chunks(16).map(HistoryId::from_bytes).collect::<Option<Vec<_>>>();
        Ok(Meta {
            history: HistoryId(sized("the name of the history", &self.history)?),
            key: sized("the key of the history", &self.key)?,
            standing,
            ancestors: ancestors.ok_or_else(|| corrupt("an ancestor that is not 16 bytes"))?,
            timeline: self.timeline,
            fresh: self.fresh,
            authzen_together: self.authzen_together,
        })
    }
}

/// A history of its own, with these ancestors.
pub(crate) fn new_meta(ancestors: Vec<HistoryId>) -> Result<Meta, StoreError> {
    Ok(Meta {
        history: HistoryId(random()?),
        key: random()?,
        standing: Standing::Ok,
        ancestors,
        timeline: String::new(),
        fresh: true,
        authzen_together: false,
    })
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StoreError::Corrupt {
        what: "the system gives no random numbers".to_owned(),
    })?;
    Ok(bytes)
}
