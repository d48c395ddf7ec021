//! Texts compared line by line, as `diff -u` shows them.

use std::fmt::Write as _;

/// Lines that are shown around a change.
const AROUND: usize = 3;

/// Pairs of lines that are compared; beyond, all of one is shown before all of the other.
const PAIRS: usize = 1_000_000;

/// What changes from one text to the other; empty: nothing.
pub(crate) fn unified(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let most = old.len().min(new.len()) - head;
    let backwards = old.iter().rev().zip(new.iter().rev()).take(most);
    let tail = backwards.take_while(|(a, b)| a == b).count();
    let middle_old = old.get(head..old.len() - tail).unwrap_or_default();
    let middle_new = new.get(head..new.len() - tail).unwrap_or_default();
    if middle_old.is_empty() && middle_new.is_empty() {
        return String::new();
    }
    let from = head.saturating_sub(AROUND);
    let above = old.get(from..head).unwrap_or_default();
    let below = old.get(old.len() - tail..).unwrap_or_default();
    let below = below.get(..AROUND.min(below.len())).unwrap_or_default();
    let mut text = String::new();
    let around = above.len() + below.len();
    let _ = writeln!(
        text,
        "@@ -{},{} +{},{} @@",
        from + 1,
        middle_old.len() + around,
        from + 1,
        middle_new.len() + around
    );
    let mut line = |mark: char, line: &str| {
        let _ = writeln!(text, "{mark}{line}");
    };
    above.iter().for_each(|shown| line(' ', shown));
    for (mark, shown) in edits(middle_old, middle_new) {
        line(mark, shown);
    }
    below.iter().for_each(|shown| line(' ', shown));
    text
}

/// The lines of both, those that are in one alone marked, by the longest common subsequence.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    if old.len().saturating_mul(new.len()) > PAIRS {
        let gone = old.iter().map(|line| ('-', *line));
        return gone.chain(new.iter().map(|line| ('+', *line))).collect();
    }
    // From the end: how many lines the rests have in common.
    let width = new.len() + 1;
    let mut common = vec![0_u32; (old.len() + 1) * width];
    let at = |common: &[u32], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let longest = match a == b {
                true => at(&common, i + 1, j + 1) + 1,
                false => at(&common, i + 1, j).max(at(&common, i, j + 1)),
            };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = longest;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut found = Vec::new();
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => {
                found.push((' ', *a));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), Some(_)) if at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                found.push(('-', *a));
                i += 1;
            }
            (_, Some(b)) => {
                found.push(('+', *b));
                j += 1;
            }
            (Some(a), None) => {
                found.push(('-', *a));
                i += 1;
            }
            (None, None) => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_lines_around_them() {
        assert_eq!(unified("a\nb", "a\nb"), "");
        assert_eq!(unified("", "a\nb"), "@@ -1,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(unified("a", ""), "@@ -1,1 +1,0 @@\n-a\n");
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9";
        let after = "1\n2\n3\n4\nfive\n6\nnew\n7\n8\n9";
        let wanted = "@@ -2,8 +2,9 @@\n 2\n 3\n 4\n-5\n+five\n 6\n+new\n 7\n 8\n 9\n";
        assert_eq!(unified(before, after), wanted);
    }

    /// Without the lines that are gone it is the new text, without those that came the old one.
    #[test]
    fn both_texts_are_in_it() {
        let text =
            |n: u32| -> String { (0..12).map(|at| format!("{}\n", (n >> at) % 3)).collect() };
        for n in 0..200_u32 {
            let (before, after) = (text(n.wrapping_mul(2_654_435_761)), text(n * 7919));
            let (old, new): (Vec<&str>, Vec<&str>) =
                (before.lines().collect(), after.lines().collect());
            let found = edits(&old, &new);
            let side = |mark: char| -> Vec<&str> {
                let own = found.iter().filter(|(found, _)| *found == mark || *found == ' ');
                own.map(|(_, line)| *line).collect()
            };
            assert_eq!((side('-'), side('+')), (old, new));
        }
    }

    #[test]
    fn large_texts_cost_no_more_than_their_lines() {
        let text = |mark: &str| -> String { (0..2_000).map(|n| format!("{mark}{n}\n")).collect() };
        let shown = unified(&text("a"), &text("b"));
        assert_eq!(shown.lines().count(), 4_001);
    }
}
