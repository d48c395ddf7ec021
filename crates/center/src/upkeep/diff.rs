//! What a restore or a recovery would change, in the words of an operator: above all, what becomes
//! permitted again.

use std::collections::BTreeMap;
use std::fmt;

use keepgate_policy::{ItemKey, Kind};

use crate::store::{Row, TokenRow};

/// What a difference does to what is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Something that was taken away since comes back, or something that forbids goes: callers may
    /// do again what they may not do now.
    PermitsAgain,
    /// What was made since goes.
    TakesAway,
    /// Neither can be said without deciding.
    Alters,
}

/// One difference between what is stored and what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it does.
    pub effect: Effect,
    /// One line for people.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.effect {
            Effect::PermitsAgain => '!',
            Effect::TakesAway => '-',
            Effect::Alters => '~',
        };
        write!(f, "{sign} {}", self.text)
    }
}

/// The differences from `now` to `then`, what becomes permitted again first.
pub(super) fn items<'a>(
    now: &BTreeMap<ItemKey, Row>,
    then: impl Iterator<Item = &'a Row>,
    covers: impl Fn(&ItemKey) -> bool,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut left: BTreeMap<&ItemKey, &Row> = now.iter().filter(|(key, _)| covers(key)).collect();
    for row in then {
        match left.remove(&row.key) {
            None => {
                // A policy may permit or forbid: only its text tells, and both may do either.
                let forbids = row.key.kind == Kind::Policy && says(row, "forbid");
                let effect = if forbids { Effect::Alters } else { Effect::PermitsAgain };
                found.push(Difference { effect, text: format!("restores: {}", named(&row.key)) });
            }
            Some(before) if before.body != row.body => {
                let text = format!("changes: {}", named(&row.key));
                found.push(Difference { effect: Effect::Alters, text });
            }
            Some(_) => {}
        }
    }
    for (key, row) in left {
        let lifts = key.kind == Kind::Limit || (key.kind == Kind::Policy && says(row, "forbid"));
        let effect = if lifts { Effect::PermitsAgain } else { Effect::TakesAway };
        found.push(Difference { effect, text: format!("removes: {}", named(key)) });
    }
    found.sort_by(|a, b| (a.effect, &a.text).cmp(&(b.effect, &b.text)));
    found
}

/// The same for tokens at a time: one that has ended or is unknown now, and is good in the backup, is
/// good again; one that ends later there is good for longer.
pub(super) fn tokens(
    now: &BTreeMap<String, TokenRow>,
    then: &[TokenRow],
    unix_s: u64,
) -> Vec<Difference> {
    let mut found = Vec::new();
    for token in then.iter().filter(|token| token.is_good(unix_s)) {
        let words = match now.get(&token.id).filter(|row| row.is_good(unix_s)) {
            None => "valid again",
            Some(row) => match (row.expires_unix_s, token.expires_unix_s) {
                (Some(ends), later) if later.is_none_or(|later| later > ends) => "valid longer",
                _ => continue,
            },
        };
        let place = match token.service.as_str() {
            "" => String::new(),
            service => format!(" of service `{service}`"),
        };
        let text = format!("{words}: {} token `{}`{place}", token.role.name(), token.id);
        found.push(Difference { effect: Effect::PermitsAgain, text });
    }
    for token in now.values().filter(|token| token.is_good(unix_s)) {
        let good = then.iter().any(|row| row.id == token.id && row.is_good(unix_s));
        if !good {
            let text = format!("removes: {} token `{}`", token.role.name(), token.id);
            found.push(Difference { effect: Effect::TakesAway, text });
        }
    }
    found
}

fn says(row: &Row, word: &str) -> bool {
    String::from_utf8_lossy(&row.body).contains(word)
}

fn named(key: &ItemKey) -> String {
    match (key.service.as_str(), key.id.as_str()) {
        ("", id) => format!("{} {id} in the directory", key.kind.as_str()),
        (service, "") => format!("{} `{service}`", key.kind.as_str()),
        (service, id) => format!("{} {id} of service `{service}`", key.kind.as_str()),
    }
}
