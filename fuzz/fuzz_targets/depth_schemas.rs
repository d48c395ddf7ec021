//! Schemas whose dimensions are depth and length: types around each other, declarations that name
//! each other. No overflow, no type written out without bound, and what is accepted can be decided.
#![no_main]

use std::fmt::Write as _;

use keepgate_policy::model::SchemaBody;
use keepgate_policy::{ItemBody, Uid};
use libfuzzer_sys::fuzz_target;

mod world;

/// A declaration of number `at` that names the one after it.
fn declaration(what: u8, at: usize, next: usize) -> String {
    match what % 10 {
        0 => format!("type t{at} = Set<t{next}>;\n"),
        1 => format!("type t{at} = {{ a: t{next} }};\n"),
        2 => format!("type t{at} = {{ a: t{next}, b?: t{next} }};\n"),
        3 => format!("action a{at} in [a{next}];\n"),
        4 => format!("entity e{at} in [e{next}];\n"),
        5 => format!("entity e{at} = {{ a: t{next} }};\n"),
        6 => format!("entity e{at};\n"),
        7 => format!("@a{at}(\"x\")\n"),
        8 => format!(
            "action c{at} appliesTo {{ principal: [e{at}, e{next}], resource: [e0, e{next}] }};\n"
        ),
        _ => format!("type t{at} = Long;\n"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut text = String::new();
    for chunk in bytes.chunks_exact(4).take(8) {
        let &[what, low, high, how] = chunk else { break };
        let count = usize::from(low) << (high % 8);
        let count = count.min((1 << 20) / 64);
        match how % 4 {
            // A type that nests in its text.
            0 => {
                let (open, close) = if what % 2 == 0 { ("Set<", ">") } else { ("{a: ", "}") };
                let _ = writeln!(
                    text,
                    "type n{what} = {}Long{};",
                    open.repeat(count),
                    close.repeat(count)
                );
            }
            // A chain, whose end is declared or not.
            1 => (0..count).for_each(|at| text.push_str(&declaration(what, at, at + 1))),
            // A circle.
            2 => (0..count).for_each(|at| text.push_str(&declaration(what, at, (at + 1) % count))),
            // Members of one record, types of one list.
            _ => {
                let members = (0..count).fold(String::new(), |mut all, at| {
                    let _ = write!(all, "m{at}: Long,");
                    all
                });
                let _ = writeln!(text, "entity r{what} = {{ {members} }};");
            }
        }
    }
    let entity = Uid::new("e0", "a");
    world::holds(vec![ItemBody::Schema(SchemaBody { text })], &entity, "c0", &entity);
});
