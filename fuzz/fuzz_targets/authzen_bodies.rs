//! Bodies of both endpoints: no panic, and a batch without items is the single evaluation.
#![no_main]

use std::convert::Infallible;

use keepgate_policy::authzen::{Batch, Evaluation, MAX_EVALUATIONS, Response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let single = Evaluation::parse(body);
    match Batch::parse(body) {
        Ok(Batch::One(one)) => assert_eq!(single, Ok(*one)),
        Ok(batch @ Batch::Many { .. }) => {
            let Ok(answer) = batch.answer(|_| Ok::<_, Infallible>(Response::error(500, "")));
            let Batch::Many { items, .. } = batch else { return };
            assert!(!items.is_empty() && items.len() <= MAX_EVALUATIONS);
            drop(answer);
        }
        Err(_) => {}
    }
});
