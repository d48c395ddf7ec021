//! The structure is part of the product: an untidy tree fails the test run.

#![allow(clippy::expect_used, reason = "a failed expectation is a failed test")]

mod model;
mod tidy;

use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

#[test]
fn workspace_is_tidy() {
    let problems = xtask::tidy::run(root()).expect("the workspace can be read");
    assert!(problems.is_empty(), "untidy:\n  {}", problems.join("\n  "));
}

#[test]
fn generated_code_is_fresh() {
    xtask::generate::run(root(), true).expect("generated code is what proto/ says");
}
