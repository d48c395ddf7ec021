//! Lines of byte offsets.

/// Where the lines of a text end. Made once for a file, so that the lines of a million items cost
/// one reading of the text and a binary search each.
pub(super) struct Lines {
    /// The offsets of the newlines, in order.
    breaks: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Lines {
        Lines { breaks: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn at(&self, offset: usize) -> usize {
        self.breaks.partition_point(|newline| *newline < offset) + 1
    }

    /// The character of a byte offset within its line, counted from 1; of the same text.
    pub(super) fn column(&self, text: &str, offset: usize) -> usize {
        let before = self.breaks.partition_point(|newline| *newline < offset).checked_sub(1);
        let start = before.and_then(|at| self.breaks.get(at)).map_or(0, |newline| newline + 1);
        text.get(start..offset).map_or(1, |own| own.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one() {
        let text = "a\n\nbc\n";
        let lines = Lines::of(text);
        for (offset, line) in [(0, 1), (1, 1), (2, 2), (3, 3), (5, 3), (6, 4), (100, 4)] {
            assert_eq!(lines.at(offset), line, "at {offset}");
        }
        assert_eq!(Lines::of("").at(0), 1);
    }
}
