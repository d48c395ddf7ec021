//! Sockets, sysctls and the port budget of a Linux host.
//!
//! Three steps, each a value: [`read`] takes a [`HostSnapshot`](snapshot::HostSnapshot) from a
//! live network namespace (or from a recorded directory tree), [`budget`] says how many more
//! connections a bucket can open, and [`rules`] judge the snapshot into a
//! [`Report`](report::Report). Only `read` touches the machine; the other two are pure, so a
//! snapshot recorded at one place can be judged at another.
//!
//! What this crate deliberately does not do: it never sends a packet (but for the questions of
//! [`names`] to a container's name servers), never opens a connection, never consumes a TIME_WAIT, never writes a setting, and has no async runtime. All system calls
//! are in one private module.
//!
//! Units: ports are numbers, durations are milliseconds unless the name says otherwise, rates are
//! per second.

pub mod budget;
pub mod diag;
pub mod doctor;
pub mod explain;
pub mod names;
pub mod netns;
pub mod proc;
pub mod ranges;
pub mod read;
pub mod report;
pub mod rules;
pub mod snapshot;
pub mod table;
pub mod text;
pub mod tune;

mod sys;
