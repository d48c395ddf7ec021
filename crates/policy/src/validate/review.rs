//! A look at all files of a service, before anything is held against what is stored: all problems of
//! those that can be read, also where others cannot, and all that Cedar warns of.

use super::warn::MAX_WARNINGS;
use super::{ItemProblem, Known, portion};
use crate::caution::Warning;
use crate::encoded::Encoded;
use crate::model::{Item, Kind};

/// Items that are decoded and looked at together, and their bytes: a policy takes a thousand times
/// its bytes while it is looked at.
const PORTION: usize = 4_096;
const PORTION_BYTES: usize = 1 << 20;

/// Problems that are told.
const MAX_PROBLEMS: usize = 1_000;

/// What is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// What cannot land, as far as these items alone say it.
    pub problems: Vec<ItemProblem>,
    /// What can land and is perhaps not meant, sorted; at most 1,000 and one that says so.
    pub warnings: Vec<Warning>,
}

/// Looks at the items of one service, each key once. With `is_partial`, some files could not be read:
/// all kinds are looked at, and what is missing is no problem. `goes_on` is asked between portions.
pub fn review<'a>(
    items: impl Iterator<Item = &'a Encoded> + Clone,
    is_partial: bool,
    mut goes_on: impl FnMut() -> bool,
) -> Review {
    let of = |kinds: &'static [Kind]| {
        items.clone().filter(move |item| kinds.contains(&item.key.kind) && is_own(item))
    };
    let decoded = |item: &Encoded| item.decode().ok();
    let frame: Vec<Item> = of(&[Kind::Service, Kind::Schema]).filter_map(decoded).collect();
    let warnings = Some(Vec::new());
    let mut look = Look {
        frame,
        known: Known { warnings, is_partial, ..Known::default() },
        problems: Vec::new(),
    };
    look.at(Vec::new());
    // Templates before their links.
    let asked: &[&[Kind]] = match is_partial {
        false => &[&[Kind::Policy, Kind::Template], &[Kind::Link, Kind::Grant]],
        true => &[&[Kind::Policy, Kind::Template], &[Kind::Link, Kind::Grant], &[Kind::Entity]],
    };
    for kinds in asked {
        let (mut held, mut bytes) = (Vec::new(), 0);
        for item in of(kinds) {
            bytes += item.body.len();
            held.extend(decoded(item));
            if held.len() >= PORTION || bytes >= PORTION_BYTES {
                look.at(std::mem::take(&mut held));
                bytes = 0;
                if !goes_on() || look.problems.len() > MAX_PROBLEMS {
                    return look.end();
                }
            }
        }
        look.at(held);
    }
    look.end()
}

/// Not of the directory, which has no schema.
fn is_own(item: &Encoded) -> bool {
    !item.key.service.is_empty()
}

struct Look {
    frame: Vec<Item>,
    known: Known,
    problems: Vec<ItemProblem>,
}

impl Look {
    fn at(&mut self, mut items: Vec<Item>) {
        for item in &items {
            self.known.template(item);
        }
        items.extend_from_slice(&self.frame);
        self.problems.extend(portion(&items, &mut self.known));
    }

    fn end(mut self) -> Review {
        let by_place = |a: &ItemProblem, b: &ItemProblem| {
            (&a.key, a.spot, &a.message).cmp(&(&b.key, b.spot, &b.message))
        };
        self.problems.sort_by(by_place);
        self.problems.dedup();
        self.problems.truncate(MAX_PROBLEMS);
        let mut warnings = self.known.warnings.unwrap_or_default();
        let more = warnings.len() > MAX_WARNINGS;
        warnings.truncate(MAX_WARNINGS);
        warnings.sort_by(|a, b| (&a.key, a.spot, &a.message).cmp(&(&b.key, b.spot, &b.message)));
        warnings.dedup();
        if let Some(last) = warnings.last().filter(|_| more) {
            let message =
                format!("there are more than {MAX_WARNINGS} warnings; the others are not shown");
            warnings.push(Warning { key: last.key.clone(), spot: None, message });
        }
        Review { problems: self.problems, warnings }
    }
}
