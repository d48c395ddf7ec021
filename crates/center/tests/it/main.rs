//! The center from outside: real processes, sockets, files.

mod admin;
mod crash;
mod fixture;
mod follow;
mod limits;
mod matrix;
mod start;
mod store_conformance;
