//! How a replica stands with the center it was pointed at.

use std::fmt;

use keepgate_policy::{HistoryId, Mark, Revision};

/// What the replica makes of the last center that it heard. Deciding goes on in all of them, as
/// long as the age allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// No center was heard yet.
    #[default]
    Unheard,
    /// It follows.
    Following,
    /// The center is behind what is held, or of another history. Nothing is taken from it.
    Foreign(Foreign),
    /// The center is of release 0.1, whose word about its head cannot be dated.
    OldCenter,
    /// The center has settings that this release does not understand.
    NeedsUpgrade {
        /// The service; empty: the directory.
        service: String,
        /// The format it needs; see `keepgate_policy::mark::FORMAT`.
        needs: u32,
    },
}

/// A center that is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Where it answered.
    pub address: String,
    /// Its history.
    pub history: HistoryId,
    /// Its head.
    pub head: Revision,
    /// What the replica holds; none: what release 0.1 kept, of which only the revision is known.
    pub held: Option<Mark>,
    /// The revision held.
    pub revision: Revision,
    /// Where the replica is kept, to be deleted by whoever wants to begin with nothing.
    pub directory: Option<String>,
}

impl Standing {
    /// Whether it is a center of another history than what is held.
    pub(super) fn is_other_history(&self) -> bool {
        let Standing::Foreign(foreign) = self else { return false };
        foreign.held.is_some_and(|held| held.history != foreign.history)
    }

    /// Whether a person must look before the replica can go on.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Standing::Foreign(_) | Standing::OldCenter | Standing::NeedsUpgrade { .. })
    }
}

/// What is wrong, and the way out.
impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Unheard => f.write_str("no center was heard yet"),
            Standing::Following => f.write_str("following the center"),
            Standing::Foreign(foreign) => foreign.fmt(f),
            Standing::OldCenter => f.write_str(
                "the center is of release 0.1, which cannot say how old what it sends is: \
                 upgrade the center first; until then nothing is taken from it",
            ),
            Standing::NeedsUpgrade { service, needs } => {
                let what = match service.as_str() {
                    "" => "the directory".to_owned(),
                    name => format!("service `{name}`"),
                };
                write!(
                    f,
                    "{what} has settings of format {needs}, this release understands {}: upgrade \
                     this gate; until then it uses the last state that it understood, up to `max_age`",
                    keepgate_policy::mark::FORMAT
                )
            }
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Foreign { address, history, head, held, revision, directory } = self;
        let center = format!("{head}@{}", history.short());
        let held_text = held.map_or_else(|| revision.to_string(), |held| held.to_string());
        if held.is_some_and(|held| held.history != *history) {
            write!(
                f,
                "the center at {address} is of another history: expected a successor of \
                       {held_text}, found {center}. "
            )?;
        } else {
            write!(
                f,
                "the center at {address} was set back: expected revision {held_text} or \
                       later, found {center}. "
            )?;
        }
        f.write_str(
            "Nothing is taken from it. If this is the right center and edits are lost, run \
             `keepgate center accept-loss` or `keepgate center recover` there; if the gate is \
             meant to start without state, stop it and delete ",
        )?;
        match directory {
            Some(directory) => write!(f, "`{directory}`"),
            None => f.write_str("nothing: its replica is in memory alone, so restart it"),
        }
    }
}

/// The history that is followed, and those that it continues.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage {
    pub(super) ancestors: Vec<HistoryId>,
}

impl Lineage {
    /// At least 8 digits name a history, as in `Keepgate-Min-Revision: REV@HISTORY`.
    pub(super) fn is_lost(&self, digits: &str) -> bool {
        let digits = digits.to_ascii_lowercase();
        digits.len() >= 8 && self.ancestors.iter().any(|id| id.to_string().starts_with(&digits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_names_its_way_out() {
        let mark = |history: u8, revision| Mark {
            history: HistoryId([history; 16]),
            revision: Revision(revision),
            chain: [0; 32],
            seal: [0; 16],
        };
        let foreign = Foreign {
            address: "127.0.0.1:7480".to_owned(),
            history: HistoryId([0xbb; 16]),
            head: Revision(3),
            held: Some(mark(0xaa, 8)),
            revision: Revision(8),
            directory: Some("/var/lib/keepgate/replica".to_owned()),
        };
        let text = foreign.to_string();
        for part in ["another history", "8@aaaaaaaa", "3@bbbbbbbb", "accept-loss", "replica`"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let back = Foreign { held: Some(mark(0xbb, 8)), ..foreign };
        assert!(back.to_string().contains("was set back"), "{back}");
        for (standing, way_out) in [
            (Standing::OldCenter, "upgrade the center first"),
            (
                Standing::NeedsUpgrade { service: "orders".to_owned(), needs: 3 },
                "upgrade this gate",
            ),
        ] {
            assert!(standing.needs_a_person() && standing.to_string().contains(way_out));
        }
        assert!(!Standing::Following.needs_a_person());
    }

    #[test]
    fn lost_histories_are_known_by_their_first_digits() {
        let lineage = Lineage { ancestors: vec![HistoryId([0xab; 16])] };
        assert!(lineage.is_lost("abababab") && lineage.is_lost("ABABABABAB"));
        assert!(!lineage.is_lost("ababab"), "too few digits");
        assert!(!lineage.is_lost("ababcdcd"));
    }
}
