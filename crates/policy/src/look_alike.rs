//! Texts that do not read as they are: characters that turn the direction of text or are not seen, and
//! letters of one script that look like those of another. Nothing is refused for them, but a dry run and
//! an apply warn.
//!
//! Pure. Source: Unicode Technical Standard #39, by the tables that Cedar's own checks use.

use std::collections::{BTreeMap, HashMap};

use unicode_security::MixedScript as _;
use unicode_security::confusable_detection::skeleton;

use crate::caution::Warning;
use crate::encoded::Encoded;
use crate::model::{ItemBody, ItemKey, Kind, Uid};

/// Warnings that are given at most; one more says that there are others.
pub const MAX_FOUND: usize = 100;

/// Ids outside of ASCII that are held against all others.
const MAX_COMPARED: usize = 10_000;

/// Characters of an id that are looked at: two ids that differ later only are not compared.
const MAX_CHARS: usize = 1_024;

/// What is odd about a text, in words; none: nothing is.
pub(crate) fn suspect(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    if let Some(turn) = text.chars().find(|c| turns_direction(*c)) {
        return Some(format!("U+{:04X}, which changes the direction of the text", u32::from(turn)));
    }
    if let Some(unseen) = text.chars().find(|c| is_unseen(*c)) {
        return Some(format!("U+{:04X}, which is not shown", u32::from(unseen)));
    }
    if !text.is_single_script() {
        return Some("letters of several scripts, which may look alike".to_owned());
    }
    let looks: String = skeleton(text).take(MAX_CHARS).collect();
    (looks.is_ascii() && looks.bytes().any(|byte| byte.is_ascii_alphabetic()))
        .then(|| format!("letters that look like the Latin `{looks}`"))
}

/// A warning about a text of this sort.
pub(crate) fn told(sort: &str, text: &str, why: &str) -> String {
    let shown: String = text
        .chars()
        .take(MAX_CHARS)
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c.to_string()
            } else {
                c.escape_unicode().to_string()
            }
        })
        .collect();
    format!("the id of {sort}, `{shown}`, has {why}; if that is not meant, write the id anew")
}

/// Controls of Unicode's bidirectional algorithm.
pub(crate) fn turns_direction(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Characters without a shape of their own.
fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{00AD}' | '\u{034F}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200D}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2065}' | '\u{206A}'..='\u{206F}'
            | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// Warnings about the ids of items, and about those that look like another one of the same sort.
pub fn warnings<'a>(items: impl Iterator<Item = &'a Encoded> + Clone) -> Vec<Warning> {
    let mut look = Look::default();
    for item in items.clone().filter(|item| is_odd(&item.key.id) || is_odd_within(item)) {
        look.at(item);
    }
    // Each id in ASCII against the others: only where there are others.
    if !look.shapes.is_empty() {
        for item in items.filter(|item| !is_odd(&item.key.id)) {
            look.twins(item);
        }
    }
    look.found.sort_by(|a, b| (&a.key, &a.message).cmp(&(&b.key, &b.message)));
    look.found.dedup();
    let more = look.found.len() > MAX_FOUND;
    look.found.truncate(MAX_FOUND);
    if let Some(last) = look.found.last().filter(|_| more) {
        let message =
            format!("more than {MAX_FOUND} ids read as they are not; the others are not shown");
        look.found.push(Warning { key: last.key.clone(), spot: None, message });
    }
    look.found
}

/// Whether there may be something: ids of entities are written with escapes.
fn is_odd(id: &str) -> bool {
    !id.is_ascii() || id.contains("\\u{")
}

/// Whether a link or grant names something odd, as their ids need not.
fn is_odd_within(item: &Encoded) -> bool {
    matches!(item.key.kind, Kind::Link | Kind::Grant)
        && std::str::from_utf8(&item.body).is_ok_and(|body| is_odd(body) || body.contains("\\u"))
}

#[derive(Default)]
struct Look {
    found: Vec<Warning>,
    /// Ids outside of ASCII, by what they look like.
    shapes: HashMap<String, BTreeMap<(String, String), ItemKey>>,
}

impl Look {
    fn at(&mut self, item: &Encoded) {
        for (sort, kind, id) in named(item) {
            if id.is_ascii() {
                continue;
            }
            if let Some(why) = suspect(&id) {
                self.warn(&item.key, told(sort, &id, &why));
            }
            if self.shapes.len() < MAX_COMPARED {
                let same = self.shapes.entry(shape(&id)).or_default();
                let twin = same.iter().find(|((of, other), _)| *of == kind && *other != id);
                let twin = twin.map(|((_, other), _)| other.clone());
                same.insert((kind, id.clone()), item.key.clone());
                if let Some(twin) = twin {
                    self.warn(&item.key, alike(sort, &id, &twin));
                }
            }
        }
    }

    fn twins(&mut self, item: &Encoded) {
        for (sort, kind, id) in named(item) {
            let Some(same) = self.shapes.get(&shape(&id)) else { continue };
            let twins: Vec<(String, ItemKey)> = same
                .iter()
                .filter(|((of, other), _)| *of == kind && *other != id)
                .map(|((_, other), key)| (other.clone(), key.clone()))
                .collect();
            for (other, key) in twins {
                self.warn(&key, alike(sort, &other, &id));
            }
        }
    }

    fn warn(&mut self, key: &ItemKey, message: String) {
        if self.found.len() <= 2 * MAX_FOUND {
            self.found.push(Warning { key: key.clone(), spot: None, message });
        }
    }
}

fn alike(sort: &str, id: &str, other: &str) -> String {
    told(sort, id, &format!("the look of another one, `{}`", other.escape_default()))
}

fn shape(id: &str) -> String {
    skeleton(id).take(MAX_CHARS).collect()
}

/// The ids that an item has and names: what sort of thing it is, in words, what may not look alike with
/// it, and the id.
fn named(item: &Encoded) -> Vec<(&'static str, String, String)> {
    let id = item.key.id.clone();
    let entity = |uid: &Uid| ("an entity", uid.kind.clone(), uid.id.clone());
    match item.key.kind {
        Kind::Policy | Kind::Template => vec![("a policy", "policy".to_owned(), id)],
        Kind::Entity | Kind::Role => id.parse().map(|uid| vec![entity(&uid)]).unwrap_or_default(),
        Kind::Member => match item.decode().map(|item| item.body) {
            Ok(ItemBody::Member(body)) => vec![entity(&body.member), entity(&body.role)],
            _ => Vec::new(),
        },
        Kind::Link => match item.decode().map(|item| item.body) {
            Ok(ItemBody::Link(body)) => {
                let filled = body.principal.iter().chain(&body.resource).map(entity);
                filled.chain([("a link", "policy".to_owned(), id)]).collect()
            }
            _ => Vec::new(),
        },
        Kind::Grant => match item.decode().map(|item| item.body) {
            Ok(ItemBody::Grant(body)) => {
                let named = [&body.principal].into_iter().chain(&body.actions);
                named.chain(&body.resource).map(entity).collect()
            }
            _ => Vec::new(),
        },
        Kind::Limit => vec![("a rule", "rule".to_owned(), id)],
        Kind::Plan => vec![("a plan", "plan".to_owned(), id)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntityBody, Item, PolicyBody};

    #[test]
    fn texts_that_do_not_read_as_they_are() {
        for (text, why) in [
            ("alice", ""),
            ("Zo\u{eb}", ""),
            ("\u{438}\u{432}\u{430}\u{43d}", ""),
            ("\u{7530}\u{4e2d}", ""),
            ("\u{202e}nimda", "U+202E, which changes"),
            ("ad\u{2066}min", "U+2066, which changes"),
            ("ad\u{200b}min", "U+200B, which is not shown"),
            ("\u{430}dmin", "letters of several scripts"),
            ("\u{430}\u{440}\u{435}", "letters that look like the Latin `ape`"),
        ] {
            let found = suspect(text).unwrap_or_default();
            assert!(
                found.starts_with(why) && found.is_empty() == why.is_empty(),
                "{text}: {found}"
            );
        }
    }

    fn entity(id: &str) -> Encoded {
        let uid = Uid::new("user", id);
        let body =
            EntityBody { uid, attrs: BTreeMap::new(), parents: Vec::new(), tags: BTreeMap::new() };
        Encoded::of(&Item::new("s", "", ItemBody::Entity(body)))
    }

    fn messages(items: &[Encoded]) -> Vec<String> {
        warnings(items.iter()).into_iter().map(|warning| warning.message).collect()
    }

    #[test]
    fn ids_that_look_alike_are_told_once_each() {
        assert_eq!(messages(&[entity("rl"), entity("r1"), entity("carl")]), [""; 0]);
        let both = messages(&[entity("paypal"), entity("\u{440}\u{430}ypal"), entity("zo\u{eb}")]);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both.iter().any(|said| said.contains("look of another one, `paypal`")), "{both:?}");
        let body = PolicyBody { text: String::new(), file: String::new() };
        let policy = Encoded::of(&Item::new("s", "a\u{202e}b", ItemBody::Policy(body)));
        let said = messages(&[policy]);
        assert!(
            said.len() == 1 && said[0].starts_with("the id of a policy, `a\\u{202e}b`"),
            "{said:?}"
        );
    }

    #[test]
    fn warnings_about_ids_are_bounded() {
        let many = |count: u32| -> Vec<Encoded> {
            (0..count).map(|at| entity(&format!("\u{202e}{at}"))).collect()
        };
        assert_eq!(messages(&many(100)).len(), MAX_FOUND);
        let more = messages(&many(101));
        assert_eq!(more.len(), MAX_FOUND + 1);
        assert!(more[MAX_FOUND].contains("the others are not shown"), "{more:?}");
    }
}
