//! The gate over real sockets: real bytes in, real upstreams behind.

mod bodies;
mod decide;
mod identify;
mod limits_of_time;
mod metrics;
mod raw;
mod scale;
mod support;
mod upstreams;
