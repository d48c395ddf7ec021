//! The real executable, from outside: arguments, output, exit codes, and the whole system on
//! ephemeral ports with real curl, nginx and network namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod access_log;
mod acme;
mod apply;
mod assertions;
mod authzen;
#[path = "../../../center/tests/it/browser.rs"]
mod browser;
mod cedar_files;
mod centers;
mod clients;
mod config;
mod connections;
mod demo;
mod door;
mod faults;
mod first_steps;
mod flood;
mod frozen;
mod harness;
mod help;
mod history;
mod import;
mod integrations;
mod keeping;
mod lab;
mod mutual_tls;
mod nginx;
mod outage;
mod past;
mod plans;
mod postgres;
mod reload;
mod requests;
mod separate;
mod several_centers;
mod sites;
mod sources;
mod story;
mod telemetry;
mod trust;
mod tune;
mod tune_safety;
