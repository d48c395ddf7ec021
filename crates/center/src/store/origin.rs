//! Who brought an item, and what the last apply of files made of it.
//!
//! An apply replaces only what an apply brought. Where somebody else has changed such an item since,
//! its *base* (the digest that the last apply wrote) differs from what is stored; so an apply can tell
//! a change of its files from a change by command, and never takes the second back unseen.

use keepgate_policy::{Digest, ItemBody, ItemKey};
use sha2::{Digest as _, Sha256};

use super::Row;

/// The sort of edit that brought an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Brought {
    /// An apply of files.
    #[default]
    Files,
    /// A command: command line, API, console.
    Command,
    /// An import.
    Import,
}

impl Brought {
    /// All of them.
    pub const ALL: [Brought; 3] = [Brought::Files, Brought::Command, Brought::Import];

    /// As stored and as in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Brought::Files => "files",
            Brought::Command => "command",
            Brought::Import => "import",
        }
    }

    /// That of this name.
    pub fn from_name(name: &str) -> Option<Brought> {
        Brought::ALL.into_iter().find(|brought| brought.name() == name)
    }

    /// What an action, as the audit log names it, is.
    pub fn by(action: &str) -> Brought {
        match action {
            APPLY => Brought::Files,
            action if action.ends_with(".import") => Brought::Import,
            _ => Brought::Command,
        }
    }
}

/// The action of an apply of files, as the audit log and tombstones name it.
pub const APPLY: &str = "apply";

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Who brought the item first.
    pub brought: Brought,
    /// The digest that the last apply wrote, where the item has another one now.
    pub base: Option<Digest>,
}

impl Origin {
    /// That of an item which nobody had.
    pub const fn new(brought: Brought) -> Origin {
        Origin { brought, base: None }
    }

    /// That of an item after an edit: `before` it had this digest and origin, now it has `digest`.
    pub(crate) fn after(before: Option<(Digest, Origin)>, by: Brought, digest: Digest) -> Origin {
        match (before, by) {
            (_, Brought::Files) | (None, _) => Origin::new(by),
            (Some((was, Origin { brought: Brought::Files, base })), _) => {
                let base = base.unwrap_or(was);
                Origin { brought: Brought::Files, base: (base != digest).then_some(base) }
            }
            (Some((_, origin)), _) => origin,
        }
    }

    /// The base as stored, with a checksum: a bit that flips in it would let an apply take back what a
    /// command changed.
    pub(crate) fn base_bytes(&self, key: &ItemKey) -> Option<Vec<u8>> {
        self.base.map(|base| {
            let mut bytes = base.to_bytes().to_vec();
            bytes.extend_from_slice(&checksum(key, base));
            bytes
        })
    }

    /// Reads [`Origin::base_bytes`]; none: they are not what was written.
    pub(crate) fn base_of(key: &ItemKey, bytes: &[u8]) -> Option<Digest> {
        let base = Digest::from_bytes(bytes.get(..32)?)?;
        (bytes.get(32..)? == checksum(key, base)).then_some(base)
    }
}

/// Bytes of the checksum of a base.
const CHECKSUM: usize = 8;

fn checksum(key: &ItemKey, base: Digest) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    for part in [key.service.as_str(), key.kind.as_str(), key.id.as_str()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(base.to_bytes());
    let mut sum = [0; CHECKSUM];
    for (to, from) in sum.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    sum
}

/// What is known of an item whose row says nothing (it is from an earlier release, or from a replica):
/// files name themselves in roles and memberships.
pub(crate) fn unsaid(body: &ItemBody, otherwise: Brought) -> Origin {
    match body {
        ItemBody::Role(_) | ItemBody::Member(_) => {
            match keepgate_policy::source_of(body).is_empty() {
                true => Origin::new(Brought::Command),
                false => Origin::new(Brought::Files),
            }
        }
        _ => Origin::new(otherwise),
    }
}

impl Row {
    /// Whether files brought it, and somebody else has changed it since.
    pub(crate) fn is_changed_since_files(&self) -> bool {
        self.origin.brought == Brought::Files && self.origin.base.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_what_the_last_apply_wrote() {
        let digest = |n| Digest([n, 0, 0, 0]);
        let made = Origin::after(None, Brought::Files, digest(1));
        assert_eq!(made, Origin::new(Brought::Files));
        let changed = Origin::after(Some((digest(1), made)), Brought::Command, digest(2));
        assert_eq!(changed, Origin { brought: Brought::Files, base: Some(digest(1)) });
        let again = Origin::after(Some((digest(2), changed)), Brought::Import, digest(3));
        assert_eq!(again, Origin { brought: Brought::Files, base: Some(digest(1)) });
        let back = Origin::after(Some((digest(3), again)), Brought::Command, digest(1));
        assert_eq!(back, Origin::new(Brought::Files));
        let over = Origin::after(Some((digest(3), again)), Brought::Files, digest(4));
        assert_eq!(over, Origin::new(Brought::Files));
        let own = Origin::after(None, Brought::Command, digest(1));
        let own = Origin::after(Some((digest(1), own)), Brought::Import, digest(2));
        assert_eq!(own, Origin::new(Brought::Command));
    }

    #[test]
    fn a_base_with_a_flipped_bit_is_not_read() {
        let key = ItemKey::policy("s", "p");
        let origin = Origin { brought: Brought::Files, base: Some(Digest([1, 2, 3, 4])) };
        let bytes = origin.base_bytes(&key).unwrap();
        assert_eq!(Origin::base_of(&key, &bytes), origin.base);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Origin::base_of(&key, &flipped), None, "bit {bit}");
        }
        assert_eq!(Origin::base_of(&ItemKey::policy("s", "q"), &bytes), None);
        assert_eq!(Origin::base_of(&key, &bytes[..bytes.len() - 1]), None);
        assert_eq!(Origin::base_of(&key, &[]), None);
    }

    #[test]
    fn an_action_says_who_brings() {
        for (action, brought) in [
            ("apply", Brought::Files),
            ("role.import", Brought::Import),
            ("role.assign", Brought::Command),
            ("policy.put", Brought::Command),
        ] {
            assert_eq!(Brought::by(action), brought, "{action}");
        }
        for brought in Brought::ALL {
            assert_eq!(Brought::from_name(brought.name()), Some(brought));
        }
    }
}
