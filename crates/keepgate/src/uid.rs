//! Entities as they are typed: `client::"crawler"`, and `client::crawler`, for a shell takes the
//! quotes away.

use keepgate_policy::Uid;
use keepgate_policy::uid::is_type_name;

/// Reads an entity. Without quotes the last `::` ends the type and all behind it is the id.
pub(crate) fn parse(text: &str) -> Result<Uid, String> {
    if let Ok(uid) = text.parse::<Uid>() {
        return Ok(uid);
    }
    let bare = text.rsplit_once("::").filter(|(kind, id)| {
        is_type_name(kind) && !id.is_empty() && !id.contains(['"', '\\']) && !has_control(id)
    });
    match bare {
        Some((kind, id)) => Ok(Uid::new(kind, id)),
        None => Err(format!("expected kind::id or 'kind::\"id\"', got `{text}`")),
    }
}

/// An entity of an answer, in Cedar syntax.
pub(crate) fn told(uid: &keepgate_api::Uid) -> String {
    Uid::new(uid.kind.as_str(), uid.id.as_str()).to_string()
}

/// An entity as one word of a shell that [`parse`] reads back.
pub(crate) fn shell_word(cedar: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if let Ok(uid) = cedar.parse::<Uid>()
        && !uid.id.is_empty()
        && uid.id.chars().all(plain)
    {
        return format!("{}::{}", uid.kind, uid.id);
    }
    format!("'{}'", cedar.replace('\'', r"'\''"))
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        for (text, kind, id) in [
            ("client::crawler", "client", "crawler"),
            ("client::\"crawler\"", "client", "crawler"),
            ("App::user::alice", "App::user", "alice"),
            ("App::user::\"a::b\"", "App::user", "a::b"),
            ("user::alice@example.org", "user", "alice@example.org"),
            ("route::/orders/{id}", "route", "/orders/{id}"),
        ] {
            assert_eq!(parse(text), Ok(Uid::new(kind, id)), "{text}");
        }
        for text in ["", "alice", "client::", "::x", "client::\"x", "a b::c", "client::x\"y"] {
            let said = parse(text).err().unwrap_or_default();
            assert!(
                said.contains(&format!("expected kind::id or 'kind::\"id\"', got `{text}`")),
                "{said}"
            );
        }
    }

    #[test]
    fn a_shell_word_reads_back() {
        assert_eq!(shell_word("client::\"crawler\""), "client::crawler");
        assert_eq!(shell_word("client::\"it's\""), r#"'client::"it'\''s"'"#);
        assert_eq!(shell_word("client::\"a b\""), "'client::\"a b\"'");
    }
}
