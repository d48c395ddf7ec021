//! Integration tests of `ports`, one binary.

mod parsers;
