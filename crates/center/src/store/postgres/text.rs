//! Texts as the database can hold them: it has no zero byte, and ids may.

use std::borrow::Cow;

/// The same text without zero bytes, in the same order among others: U+0000 becomes two characters that
/// come before all others, and so does U+0001, which they begin with.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', '\u{1}']) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => stored.push_str("\u{1}\u{1}"),
            '\u{1}' => stored.push_str("\u{1}\u{2}"),
            c => stored.push(c),
        }
    }
    Cow::Owned(stored)
}

/// Takes back [`storable`].
pub(super) fn readable(stored: String) -> String {
    if !stored.contains('\u{1}') {
        return stored;
    }
    let mut text = String::with_capacity(stored.len());
    let mut chars = stored.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1}' => text.push(if chars.next() == Some('\u{1}') { '\0' } else { '\u{1}' }),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_and_keep_their_order() {
        let mut texts =
            ["", "a", "\0", "\u{1}", "\u{2}", "a\0", "a\0b", "a\u{1}", "a\u{1}\u{1}", "ab", "\0\0"];
        texts.sort_unstable();
        let stored: Vec<String> = texts.iter().map(|text| storable(text).into_owned()).collect();
        assert!(stored.is_sorted());
        assert!(stored.iter().all(|stored| !stored.contains('\0')));
        for (text, stored) in texts.iter().zip(stored) {
            assert_eq!(readable(stored), *text);
        }
    }
}
