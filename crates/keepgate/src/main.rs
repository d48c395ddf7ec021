//! The one binary: arguments, configuration, wiring, exit codes.
fn main() {}
