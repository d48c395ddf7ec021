//! `keepgate audit export`: the audit log as it is, line by line.

use std::io::{self, Read, Write as _};

use anyhow::Context as _;
use hyper::body::Bytes;
use keepgate_record::{AuditMark, Sealed};
use tokio::runtime::Runtime;

use crate::admin::{Admin, CenterArgs};
use crate::exit::Exit;

/// Parts of one log at most: each has 10,000 lines, or 4 MiB of them.
const MAX_PARTS: usize = 1_000_000;

/// Print the audit log as it is: one JSON object a line, chained and signed
///
/// Append later parts with --after, and keep the file where the center's owner cannot change it:
/// `keepgate audit verify FILE` finds whether anything in it was changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate audit export > audit.jsonl
  keepgate audit export --after 4211 >> audit.jsonl     what came after line 4211")]
pub(crate) struct Args {
    /// Only what comes after this line
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    center: CenterArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut parts = Parts::new(&args.center, args.after)?;
    let mut out = io::stdout().lock();
    while let Some(part) = parts.next()? {
        match out.write_all(&part) {
            // Who reads has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            done => done.context("writing the log")?,
        }
    }
    out.flush().context("writing the log")?;
    Ok(Exit::Ok)
}

/// The log as the center sends it, part by part.
pub(super) struct Parts {
    admin: Admin,
    runtime: Runtime,
    after: u64,
    count: usize,
    is_at_end: bool,
    /// What is left to read of the last part.
    left: Bytes,
}

impl Parts {
    pub(super) fn new(center: &CenterArgs, after: u64) -> anyhow::Result<Parts> {
        let (admin, runtime) = (center.connect()?, super::super::runtime()?);
        Ok(Parts { admin, runtime, after, count: 0, is_at_end: false, left: Bytes::new() })
    }

    /// Without the line that says where it begins, where that is where the part before ended.
    fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        if self.is_at_end {
            return Ok(None);
        }
        let path = format!("/v1/audit/log?after={}", self.after);
        let part = self.runtime.block_on(self.admin.load_bytes(&path))?;
        let other = || format!("`{path}` was answered with something else than an audit log");
        let end = part.iter().position(|byte| *byte == b'\n').with_context(other)?;
        let (begin, lines) = (part.slice(..end), part.slice(end + 1..));
        let start = match serde_json::from_slice(&begin).with_context(other)? {
            AuditMark::AuditLog(start) => start,
            AuditMark::AuditAnchor(_) => anyhow::bail!(other()),
        };
        let last = lines.strip_suffix(b"\n").unwrap_or(&lines);
        let last = last.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        self.count += 1;
        match Sealed::of(last) {
            Some(sealed) if sealed.seq > self.after && self.count < MAX_PARTS => {
                let goes_on = self.count > 1 && start.after_seq == self.after;
                self.after = sealed.seq;
                Ok(Some(if goes_on { lines } else { part }))
            }
            Some(_) => anyhow::bail!(other()),
            // The signature, which stands at the end; or nothing is signed yet.
            None => {
                self.is_at_end = true;
                let goes_on = self.count > 1 && start.after_seq == self.after;
                Ok(Some(if goes_on { lines } else { part }))
            }
        }
    }
}

impl Read for Parts {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.next().map_err(io::Error::other)? {
                Some(part) => self.left = part,
                None => return Ok(0),
            }
        }
        let n = self.left.len().min(buf.len());
        let taken = self.left.split_to(n);
        if let Some(to) = buf.get_mut(..n) {
            to.copy_from_slice(&taken);
        }
        Ok(n)
    }
}
