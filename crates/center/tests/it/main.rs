//! The center from outside: real processes, sockets, files.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod access_requests;
mod admin;
mod apis;
mod apply;
mod audit_chain;
mod authzen;
mod browser;
mod bulk;
mod cedar;
mod console;
mod console_browser;
mod console_oidc;
mod console_past;
mod crash;
mod database;
mod depth;
mod fixture;
mod follow;
mod gate_reports;
mod history;
mod hour;
mod keeping;
mod limits;
mod log_anchors;
mod matrix;
mod moving;
mod openapi;
mod past;
mod places;
mod postgres;
mod products;
mod removal;
mod sources;
mod start;
mod store_conformance;
mod store_past;
mod store_sessions;
mod top;
mod who;
mod writes;
