//! Places within a text, as people count them: lines, and characters in a line, from 1.

use serde::{Deserialize, Serialize};

/// Characters of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The first one, counted from 1. A tab is one character, and so is each Unicode scalar value.
    pub column: usize,
    /// How many, up to the end of the line.
    pub length: usize,
}

/// A place within a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The line, counted from 1.
    pub line: usize,
    /// The characters in it, where they are known.
    pub span: Option<Span>,
}

impl Spot {
    /// A line as a whole.
    pub fn line(line: usize) -> Spot {
        Spot { line, span: None }
    }

    /// Of this many bytes at an offset in bytes; what is no place in the text is its end.
    pub fn of(text: &str, offset: usize, bytes: usize) -> Spot {
        let start = text.floor_char_boundary(offset.min(text.len()));
        let end = text.floor_char_boundary(offset.saturating_add(bytes).min(text.len()));
        let before = text.get(..start).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let own = before.rsplit('\n').next().unwrap_or_default();
        let within = text.get(start..end).unwrap_or_default();
        let length = within.lines().next().unwrap_or_default().chars().count();
        Spot { line, span: Some(Span { column: own.chars().count() + 1, length }) }
    }

    /// The character; the first one where it is not known.
    pub fn column(self) -> usize {
        self.span.map_or(1, |span| span.column)
    }

    /// The same place in a text in which this one begins at a line and a character.
    #[must_use]
    pub fn behind(self, line: usize, column: usize) -> Spot {
        let by = if self.line == 1 { column.saturating_sub(1) } else { 0 };
        let span = self.span.map(|span| Span { column: span.column + by, ..span });
        Spot { line: line + self.line.saturating_sub(1), span }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Counting lines and characters to the place finds the byte again.
        #[test]
        fn a_place_is_the_character_at_its_offset(
            parts in proptest::collection::vec(
                prop_oneof![Just("\n"), Just("\t"), Just("a"), Just("\u{e9}"), Just("\u{6743}"),
                    Just("\u{1f600}"), Just("e\u{301}"), Just(" ")],
                0..40,
            ),
            at in 0usize..100,
            bytes in 0usize..20,
        ) {
            let text = parts.concat();
            let spot = Spot::of(&text, at, bytes);
            let span = spot.span.unwrap();
            let line = text.split('\n').nth(spot.line - 1).unwrap();
            let start: usize = text.split('\n').take(spot.line - 1).map(|line| line.len() + 1).sum();
            let before: usize = line.chars().take(span.column - 1).map(char::len_utf8).sum();
            prop_assert_eq!(start + before, text.floor_char_boundary(at.min(text.len())));
            prop_assert!(span.column - 1 + span.length <= line.chars().count());
        }
    }

    #[test]
    fn a_text_within_a_text_begins_somewhere() {
        let outer = "// \u{6743}\n\tpermit(x);\u{e9} forbid(\n  y);";
        for needle in ["forbid", "y"] {
            let inner = &outer[outer.find("forbid").unwrap()..];
            let at = Spot::of(outer, outer.find("forbid").unwrap(), 0);
            let spot = Spot::of(inner, inner.find(needle).unwrap(), 1);
            let wanted = Spot::of(outer, outer.find(needle).unwrap(), 1);
            assert_eq!(spot.behind(at.line, at.column()), wanted, "{needle}");
        }
    }

    #[test]
    fn what_is_beyond_the_text_is_its_end() {
        let spot = Spot::of("a\nbc", 100, 5);
        assert_eq!(spot, Spot { line: 2, span: Some(Span { column: 3, length: 0 }) });
        assert_eq!(Spot::of("", 0, 0).line, 1);
    }
}
