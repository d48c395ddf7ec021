//! How a run ends: the exit codes, and how an error is shown.

use std::fmt;

use crate::style;

/// The exit codes of every command. They are part of the interface: scripts depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; for a check: allowed; for a report: nothing found.
    Ok = 0,
    /// It failed, or a report has findings.
    Failure = 1,
    /// For a check: denied. For a report: could not look.
    Denied = 2,
    /// The command line, the environment or the configuration file is wrong; nothing was done.
    /// (`EX_USAGE` of BSD's sysexits.)
    Usage = 64,
}

/// An error of the person who typed: ends the run with [`Exit::Usage`].
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A [`Usage`] error from a text.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// Prints an error with its whole chain of causes, once, on stderr; says which code it means.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    let paint = style::Paint::stderr();
    style::say(&format!("{} {error:#}", paint.bad("error:")));
    if error.downcast_ref::<Usage>().is_some() { Exit::Usage } else { Exit::Failure }
}
