//! An item in the bytes that are stored and sent. A million of them are held in this form: it
//! takes a third of what a decoded item takes.

use crate::digest::Digest;
use crate::item::DecodeError;
use crate::model::{Item, ItemBody, ItemKey};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The item's name.
    pub key: ItemKey,
    /// Its canonical JSON, see [`Item::encode`].
    pub body: Vec<u8>,
    /// The digest of both.
    pub digest: Digest,
    /// The service whose files brought a role or a membership; empty for all others.
    pub source: Box<str>,
    /// The lowest format that understands it, see [`Item::needs`].
    pub needs: u32,
}

impl Encoded {
    /// The bytes of an item.
    pub fn of(item: &Item) -> Encoded {
        let mut body = item.encode();
        body.shrink_to_fit();
        let digest = Digest::of_encoded(&item.key, &body);
        let source = source_of(&item.body).into();
        Encoded { key: item.key.clone(), body, digest, source, needs: item.needs() }
    }

    /// The item.
    pub fn decode(&self) -> Result<Item, DecodeError> {
        Item::decode(self.key.clone(), &self.body)
    }
}

/// The service whose files brought an item into the directory; empty for all others.
pub fn source_of(body: &ItemBody) -> &str {
    match body {
        ItemBody::Role(role) => &role.source,
        ItemBody::Member(member) => &member.source,
        _ => "",
    }
}
