//! The revision that a request asks for (`Keepgate-Min-Revision`).

use keepgate_policy::{HistoryId, Revision};

/// A revision that is asked for, perhaps of a history that is named by its first digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(super) revision: Revision,
    /// 8 to 32 hexadecimal digits, in lower case.
    pub(super) history: Option<String>,
}

impl Wanted {
    /// `REVISION` or `REVISION@HISTORY`.
    pub(super) fn parse(text: &str) -> Option<Wanted> {
        let (revision, history) = match text.split_once('@') {
            Some((revision, history)) => (revision, Some(history)),
            None => (text, None),
        };
        let fits = |digits: &str| {
            (8..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
        };
        if !history.is_none_or(fits) || !revision.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let revision = Revision(revision.parse().ok()?);
        Some(Wanted { revision, history: history.map(str::to_ascii_lowercase) })
    }

    /// Whether this history is meant. Without a name any is.
    pub(super) fn is_of(&self, history: Option<HistoryId>) -> bool {
        self.history.as_ref().is_none_or(|digits| {
            history.is_some_and(|history| history.to_string().starts_with(digits))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_revisions() {
        let wanted = |text: &str| Wanted::parse(text);
        assert_eq!(wanted("5"), Some(Wanted { revision: Revision(5), history: None }));
        let named = wanted("5@ABCDef01").unwrap();
        assert_eq!(named.history.as_deref(), Some("abcdef01"));
        let id = |hex: &str| HistoryId::from_hex(hex);
        assert!(named.is_of(id("abcdef01000000000000000000000000")));
        assert!(!named.is_of(id("abcdef02000000000000000000000000")));
        assert!(!named.is_of(None), "a source without histories has not this one");
        assert!(wanted("5").unwrap().is_of(None));
        for bad in [
            "",
            "@abcdef01",
            "5@",
            "5@abc",
            "5@abcdefgh",
            "+5",
            "-5",
            "5@abcdef01@",
            "x",
            "5@abcdef0100000000000000000000000011",
            "18446744073709551616",
        ] {
            assert_eq!(wanted(bad), None, "{bad:?}");
        }
    }
}
