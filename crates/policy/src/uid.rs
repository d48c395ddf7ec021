//! Cedar's entity identifiers, `kind::"id"`, as two texts.
//!
//! The text form is Cedar's own, escapes included, and agrees with `cedar_policy::EntityUid` both
//! ways (a property test holds it). This module does not know which types a schema declares.

use std::fmt;
use std::str::FromStr;

use cedar_policy_core::ast::EntityUID;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Cedar entity identifier in its two parts: `kind::"id"`.
///
/// In JSON as Cedar has it: `{"type":"user","id":"alice"}`. `Display` writes Cedar syntax with
/// Cedar's escapes, `FromStr` reads it.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "EntityUid")]
pub struct Uid {
    /// The entity type, a Cedar name such as `user` or `shop::order`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The identifier, any text.
    pub id: String,
}

impl Uid {
    /// `kind::"id"`; the kind is not checked here.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Uid {
        Uid { kind: kind.into(), id: id.into() }
    }

    /// An action from its short text: `Action::"read"` for `read`, while a text that is a whole
    /// Cedar identifier (`shop::Action::"read"`) is taken as it is.
    pub fn action(text: &str) -> Uid {
        Uid::from_short(text, "Action")
    }

    /// A role from its short text: `role::"editor"` for `editor`, or a whole Cedar identifier.
    pub fn role(text: &str) -> Uid {
        Uid::from_short(text, "role")
    }

    /// The entity of a path: `route::"/orders/{id}"`.
    pub fn route(path: &str) -> Uid {
        Uid::new("route", path)
    }

    /// The shortest text that [`Uid::action`] reads as this identifier.
    pub fn to_action_text(&self) -> String {
        self.to_short("Action")
    }

    /// The shortest text that [`Uid::role`] reads as this identifier.
    pub fn to_role_text(&self) -> String {
        self.to_short("role")
    }

    /// Whether Cedar takes the kind as an entity type.
    pub fn has_valid_kind(&self) -> bool {
        is_type_name(&self.kind)
    }

    fn from_short(text: &str, kind: &str) -> Uid {
        match text.parse::<Uid>() {
            Ok(uid) => uid,
            Err(_) => Uid::new(kind, text),
        }
    }

    fn to_short(&self, kind: &str) -> String {
        if self.kind == kind && self.id.parse::<Uid>().is_err() {
            self.id.clone()
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        f.write_str("::\"")?;
        // Most ids have nothing that is escaped, and records write them by the million.
        if self.id.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\' | b'\'')) {
            f.write_str(&self.id)?;
        } else {
            write!(f, "{}", self.id.escape_debug())?;
        }
        f.write_str("\"")
    }
}

/// A text that is not a Cedar entity identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a Cedar identifier; write it as `kind::\"id\"`")]
pub struct UidError(pub String);

impl FromStr for Uid {
    type Err = UidError;

    fn from_str(text: &str) -> Result<Uid, UidError> {
        // The common form needs no parser: a plain name and a text without any escape.
        if let Some((kind, rest)) = text.split_once("::\"")
            && let Some(id) = rest.strip_suffix('"')
            && is_type_name(kind)
            && !id.contains(|c: char| c.is_control() || c == '"' || c == '\\')
        {
            return Ok(Uid::new(kind, id));
        }
        // Its id is in quotes. Names are tried as identifiers with each question, and the parser takes as
        // long as a hundred decisions.
        if !text.contains('"') {
            return Err(UidError(text.to_owned()));
        }
        // The public `EntityUid::from_str` wants the normal form of escapes, which people do not
        // know; the core's parser takes what a policy may say.
        match EntityUID::from_str(text) {
            Ok(uid) => Ok(Uid::new(uid.entity_type().to_string(), uid.eid().as_ref() as &str)),
            Err(_) => Err(UidError(text.to_owned())),
        }
    }
}

/// Whether a text is a Cedar entity type: identifiers joined by `::`, none of them reserved.
pub fn is_type_name(text: &str) -> bool {
    text.split("::").all(is_identifier)
}

/// Whether a text is a Cedar identifier that is no reserved word.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !matches!(
            text,
            "true" | "false" | "if" | "then" | "else" | "in" | "is" | "like" | "has" | "__cedar"
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_escapes_what_must_be_and_is_read_back(id in r#"[ -~"'\\\n\u{0}é]{0,12}|\PC{0,12}"#) {
            let uid = Uid::new("user", id.as_str());
            prop_assert_eq!(uid.to_string(), format!("user::\"{}\"", id.escape_debug()));
            prop_assert_eq!(uid.to_string().parse::<Uid>(), Ok(uid));
        }

        #[test]
        fn a_text_without_quotes_is_none(text in r#"[^"]{0,24}"#) {
            // As Cedar's parser has it.
            prop_assert!(EntityUID::from_str(&text).is_err());
            prop_assert!(text.parse::<Uid>().is_err());
        }
    }
}
