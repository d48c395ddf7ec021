//! The gate over real sockets: real bytes in, real upstreams behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

mod bodies;
mod browser;
mod certificates;
mod check;
mod claims;
mod clients;
mod cors;
mod crawl;
mod decide;
mod depth;
mod documents;
mod drain;
mod early;
mod fleet;
mod frameworks;
mod help_page;
mod help_page_browser;
mod http2;
mod identify;
mod introspection;
mod issuer;
mod issuers;
mod limits;
mod limits_of_time;
mod metrics;
mod paths;
mod peers;
mod places;
mod plain;
mod ports;
mod raw;
mod records;
mod redecide;
mod revoke;
mod scale;
mod sites;
mod streams;
mod support;
mod takeover;
mod traces;
mod trust;
mod upstreams;
