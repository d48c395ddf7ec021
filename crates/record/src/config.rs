//! How a log is written.

use std::path::PathBuf;
use std::time::Duration;

use crate::shape::Format;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Files: see [`crate::files`].
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// A program that listens on a Unix socket (a stream).
    Unix(PathBuf),
}

/// How a log is written.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Where to.
    pub destination: Destination,
    /// In which format; files of JSON are chained.
    pub format: Format,
    /// The gate's name.
    pub gate: String,
    /// Bytes of a file, after which the next one begins.
    pub file_bytes: u64,
    /// The time after which the next one begins.
    pub file_age: Duration,
    /// Bytes of all files together; the oldest are removed.
    pub total_bytes: u64,
    /// Bytes that wait to be written at most, of all workers together.
    pub queue_bytes: usize,
    /// How many rules of sampling there are.
    pub rules: usize,
}

impl LogConfig {
    /// With the defaults.
    pub fn new(destination: Destination, gate: &str) -> LogConfig {
        LogConfig {
            destination,
            format: Format::Json,
            gate: gate.to_owned(),
            file_bytes: 256 << 20,
            file_age: Duration::from_secs(86_400),
            total_bytes: 4 << 30,
            queue_bytes: 32 << 20,
            rules: 0,
        }
    }
}
