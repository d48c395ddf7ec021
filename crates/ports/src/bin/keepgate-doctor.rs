//! The doctor alone, as a small static binary: to be copied into a container that has no tools.

use std::process::ExitCode;

use keepgate_ports::doctor::{self, Program};

fn main() -> ExitCode {
    let program =
        Program { name: "keepgate-doctor", version: env!("CARGO_PKG_VERSION"), resolve: None };
    ExitCode::from(doctor::run(&program, std::env::args_os().skip(1)).code())
}
