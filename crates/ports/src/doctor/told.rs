//! `--explain`: the text, and what becomes of the verdict when the text does not say toward where.

use std::io::{self, Read as _};

use crate::explain::{Explanation, MAX_TEXT};
use crate::read::ReadOptions;
use crate::report::{Report, Verdict};
use crate::snapshot::Unknown;

use super::DoctorError;
use super::args::Args;

/// The text that was given; `-` is standard input.
pub(super) fn text(args: &Args) -> Result<Option<String>, DoctorError> {
    match args.explain.as_deref() {
        Some("-") => {
            let mut bytes = Vec::new();
            let bound = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX);
            io::stdin()
                .lock()
                .take(bound)
                .read_to_end(&mut bytes)
                .map_err(DoctorError::ReadText)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

/// An error that may be a want of ports, of which nobody knows the destination, was not looked
/// into: that is neither HEALTHY nor NOT PORTS.
pub(super) fn undecided(report: &mut Report, told: &Explanation, options: &ReadOptions) {
    let looked = if told.is_bind() { options.from.is_some() } else { !options.to.is_empty() };
    let decided = !matches!(report.verdict, Verdict::Healthy | Verdict::NotPorts);
    if !told.is_about_ports() || looked || decided {
        return;
    }
    let errno = told.errno.as_deref().unwrap_or("the error");
    let (what, why) = match (&told.address, told.is_bind()) {
        (Some(address), true) => (
            format!("whether `{address}` is an address of this host"),
            "it cannot be resolved here; give the address with --from ADDR".to_owned(),
        ),
        (Some(address), false) => (
            format!("whether a port is left toward `{address}`"),
            "it cannot be resolved here; give the address with --to HOST:PORT".to_owned(),
        ),
        (None, true) => (
            "which address could not be bound".to_owned(),
            format!("the text names {errno} at bind() and no address; use --from ADDR"),
        ),
        (None, false) => (
            format!("toward where {errno} came"),
            "the text does not say; which destination was it? use --to HOST:PORT".to_owned(),
        ),
    };
    report.verdict = Verdict::Unknown;
    report.headline = format!("{what}: {why}");
    report.unknown.insert(0, Unknown { what, why });
}
