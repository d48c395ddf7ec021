//! The project's own tasks. `tidy` is held by this package's tests, so that the ordinary test
//! run keeps the structure true.

pub mod bench;
pub mod generate;
pub mod tidy;
