//! Where recursion over foreign input runs.
//!
//! Cedar's parser, conversions, type checker and drops recurse over what they are given, and only
//! two of them look at the stack. So each input is measured before it is worked on (see
//! [`crate::cedar_text`]). What is small is worked on by the caller's thread; what is large runs
//! on a thread with a stack of [`LARGE_STACK`] bytes. Tests hold that stack against the largest
//! inputs that are let through.
//!
//! At most [`PLACES`] such threads run at a time, so that stacks are in memory a few times, not once
//! per request, and one long piece of work does not hold up the others.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

/// The stack of the thread for large inputs, in bytes; only what is used of it is in memory.
///
/// Twice and more of what the largest input that is let through needs where code is compiled with
/// `opt-level = 1`: the test `the_large_stack_has_room` below holds it.
pub(crate) const LARGE_STACK: usize = 256 << 20;

/// Threads with a large stack at the same time.
const PLACES: usize = 4;

/// The stack of a thread that decides, in bytes: on it every policy within the bounds can be
/// evaluated. Rust and tokio give their threads as much; servers here set it all the same.
pub const DECISION_STACK: usize = 2 << 20;

/// What small inputs may use of the caller's stack, in bytes.
const SMALL_STACK: usize = 1 << 20;

/// No thread could be started for a large input.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread with a stack of {LARGE_STACK} bytes: {0}; try again later")]
pub(crate) struct NoStack(#[from] std::io::Error);

/// How much of the stack a piece of work can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// At most [`SMALL_STACK`].
    Small,
    /// Up to [`LARGE_STACK`].
    Large,
}

thread_local! {
    /// Whether this is a thread with a large stack.
    static IS_LARGE: Cell<bool> = const { Cell::new(false) };
}

/// Does the work where the stack suffices, and waits for it.
pub(crate) fn run<T: Send>(need: Need, work: impl FnOnce() -> T + Send) -> Result<T, NoStack> {
    let here = IS_LARGE.get() || (need == Need::Small && has_room(SMALL_STACK));
    if here {
        return Ok(work());
    }
    let _place = Deep::take();
    on(LARGE_STACK, work)
}

static FREE: Mutex<usize> = Mutex::new(PLACES);
static FREED: Condvar = Condvar::new();

/// One of the [`PLACES`], given back by its drop.
struct Deep;

impl Deep {
    fn take() -> Deep {
        // Nothing panics while it holds the lock, so there is nothing to find broken.
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = FREED.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Deep
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        FREED.notify_one();
    }
}

/// Does the work on a thread with a stack of so many bytes, and counts that as a large one.
fn on<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Result<T, NoStack> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("keepgate-deep".to_owned())
            .stack_size(bytes)
            .spawn_scoped(scope, || {
                IS_LARGE.set(true);
                work()
            })?;
        match thread.join() {
            Ok(done) => Ok(done),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Whether this thread has so many bytes of stack left, as far as the system says.
pub(crate) fn has_room(bytes: usize) -> bool {
    stacker::remaining_stack().is_none_or(|left| left >= bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cedar_text::{MAX_DEPTH, MAX_MEMBERS, MAX_TERMS};
    use crate::model::{EntityBody, Item, ItemBody, PolicyBody, SchemaBody, Uid};
    use crate::service::ServiceSettings;
    use crate::{validate, world};

    fn policy(condition: &str) -> ItemBody {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        ItemBody::Policy(PolicyBody { text, file: String::new() })
    }

    /// The largest that the scans let through, also where it is refused after parsing.
    fn largest() -> Vec<ItemBody> {
        let around = |open: &str, inner: &str, close: &str, n: usize| {
            policy(&format!("{}{inner}{}", open.repeat(n), close.repeat(n)))
        };
        let n = MAX_DEPTH;
        let type_around = |open: &str, close: &str| {
            let text =
                format!("entity e = {{ a: {}Long{} }};", open.repeat(n - 2), close.repeat(n - 2));
            ItemBody::Schema(SchemaBody { text })
        };
        vec![
            policy(&vec!["true"; MAX_TERMS - 2].join("||")),
            policy(&vec!["principal==u::\"a\""; MAX_TERMS - 2].join("&&")),
            policy(&vec!["false"; MAX_TERMS - 3].join(" } unless { ")),
            around("(", "true", ")", n),
            around("[", "1", "]", n),
            around("{a: ", "1", "}", n),
            around("!!!!(", "true", ")", n),
            around("if true then ", "true", " else false", n),
            around("(true && (false || ", "true", "))", n / 2),
            around("[true].contains(", "true", ")", n / 2),
            around("(", "1", " == 1 + 1 + 1 + 1 + 1 + 1)", n),
            policy(&format!("1{} == 1", " + 1".repeat(8 * n - 4))),
            policy(&format!("context{} == 1", ".a".repeat(8 * n - 4))),
            policy(&format!("context has a{}", ".a".repeat(8 * n - 4))),
            type_around("Set<", ">"),
            type_around("{a: ", "}"),
            ItemBody::Schema(SchemaBody {
                text: format!(
                    "entity e = {{ {} }};",
                    (0..MAX_MEMBERS - 1).map(|at| format!("a{at}: Long, ")).collect::<String>()
                ),
            }),
            ItemBody::Entity(EntityBody {
                uid: Uid::new("e", "a"),
                attrs: BTreeMap::from([(
                    "a".to_owned(),
                    (0..125).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner])),
                )]),
                parents: Vec::new(),
                tags: BTreeMap::new(),
            }),
        ]
    }

    #[test]
    fn the_large_stack_has_room() {
        for body in largest() {
            let settings = ItemBody::Service(Box::new(ServiceSettings::named("s")));
            let items = [Item::new("s", "", settings), Item::new("s", "p", body)];
            // An overflow would end the test's process.
            on(LARGE_STACK / 2, || {
                drop(validate::world(&items));
                drop(world::World::from_items(Default::default(), Default::default(), &items));
            })
            .unwrap();
        }
    }

    #[test]
    fn small_work_has_room() {
        let schema = "entity user; action read appliesTo { principal: user, resource: user };";
        for body in [
            policy(&vec!["principal == user::\"a\""; 40].join(" || ")),
            policy(&format!("{}true{}", "(true && (false || ".repeat(3), "))".repeat(3))),
            policy(&format!("{}1{} has a", "{a: ".repeat(7), "}".repeat(7))),
            policy(&format!("{}1{} == 1", "-(".repeat(7), ")".repeat(7))),
            policy(&format!("{}true{}", "if true then ".repeat(7), " else false".repeat(7))),
            policy(&format!("1{} == 1", " + 1".repeat(40))),
        ] {
            let ItemBody::Policy(PolicyBody { text, .. }) = &body else { continue };
            assert_eq!(crate::cedar_text::need(text), Need::Small, "{text}");
            let settings = ItemBody::Service(Box::new(ServiceSettings::named("s")));
            let schema = ItemBody::Schema(SchemaBody { text: schema.to_owned() });
            let items = [
                Item::new("s", "", settings),
                Item::new("s", "", schema),
                Item::new("s", "p", body),
            ];
            on(SMALL_STACK / 2, || {
                assert_eq!(validate::world(&items), []);
                let world = world::World::from_items(
                    Default::default(),
                    crate::Digest::of_all(&items),
                    &items,
                );
                assert!(world.is_ok(), "{world:?}");
            })
            .unwrap();
        }
    }
}
