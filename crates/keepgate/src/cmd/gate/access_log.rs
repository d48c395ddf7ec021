//! The flags of the decision and access log.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use keepgate_gate::config::records::{HashSecret, destination, hashed, omitted};
use keepgate_gate::{RecordConfig, Sample};
use keepgate_record::{Destination, Format, HashKey, Member};

use crate::exit::usage;

/// The longest key of hashes, in bytes.
const KEY_BYTES: u64 = 4_096;

/// One record a request: who asked for what, and how it ended.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Access log")]
pub(crate) struct AccessLog {
    /// Write one record a request to a file, to `stdout`, or to the program that listens at
    /// `unix:/path`; without it there is no access log
    #[arg(long, env = "KEEPGATE_ACCESS_LOG", value_name = "TO", value_parser = destination)]
    access_log: Option<Destination>,
    /// How records look; files of JSON are chained, so that `keepgate log verify` finds changes
    #[arg(
        long,
        env = "KEEPGATE_ACCESS_LOG_FORMAT",
        value_enum,
        value_name = "F",
        default_value = "json"
    )]
    access_log_format: AccessLogFormat,
    /// The gate's name in its records. Default: the host's name
    #[arg(long, env = "KEEPGATE_ACCESS_LOG_NAME", value_name = "NAME")]
    access_log_name: Option<String>,
    /// Of the requests of a route that are allowed, write one in N (0: none); `*` is every route. The
    /// first that fits counts; may be repeated. What is not allowed is always written
    #[arg(
        long,
        env = "KEEPGATE_ACCESS_LOG_SAMPLE",
        value_name = "[METHOD ]ROUTE=N",
        value_delimiter = ','
    )]
    access_log_sample: Vec<Sample>,
    /// A member of records that is not written; may be repeated
    #[arg(
        long,
        env = "KEEPGATE_ACCESS_LOG_OMIT",
        value_name = "MEMBER",
        value_delimiter = ',',
        value_parser = omitted
    )]
    access_log_omit: Vec<Member>,
    /// A member of records that is written as a keyed hash; may be repeated
    #[arg(
        long,
        env = "KEEPGATE_ACCESS_LOG_HASH",
        value_name = "MEMBER",
        value_delimiter = ',',
        value_parser = hashed,
        requires = "access_log_hash_key"
    )]
    access_log_hash: Vec<Member>,
    /// File with the key of hashes, at least 16 bytes
    #[arg(long, env = "KEEPGATE_ACCESS_LOG_HASH_KEY", value_name = "F")]
    access_log_hash_key: Option<PathBuf>,
    /// Write paths with their query
    #[arg(long, env = "KEEPGATE_ACCESS_LOG_QUERY")]
    access_log_query: bool,
}

/// As [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AccessLogFormat {
    /// One JSON object a line
    Json,
    /// The Common Log Format
    Common,
    /// The Combined Log Format
    Combined,
}

impl AccessLog {
    /// As the gate takes it.
    pub(super) fn config(self) -> anyhow::Result<Option<RecordConfig>> {
        let Some(destination) = self.access_log else { return Ok(None) };
        if self.access_log_sample.len() > keepgate_gate::config::records::MAX_SAMPLES {
            return Err(usage(format!(
                "expected at most {} of --access-log-sample, got {}",
                keepgate_gate::config::records::MAX_SAMPLES,
                self.access_log_sample.len()
            )));
        }
        let name = self.access_log_name.unwrap_or_else(host_name);
        let key = self.access_log_hash_key.as_deref().map(read_key).transpose()?;
        Ok(Some(RecordConfig {
            format: match self.access_log_format {
                AccessLogFormat::Json => Format::Json,
                AccessLogFormat::Common => Format::Common,
                AccessLogFormat::Combined => Format::Combined,
            },
            left_out: self.access_log_omit.into_iter().collect(),
            hashed: self.access_log_hash.into_iter().collect(),
            key,
            query: self.access_log_query,
            samples: self.access_log_sample,
            ..RecordConfig::new(destination, &name)
        }))
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "gate".to_owned(),
        name => name.to_owned(),
    }
}

fn read_key(path: &Path) -> anyhow::Result<HashSecret> {
    let shown = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("reading `{shown}`"))?.len();
    if size > KEY_BYTES {
        return Err(usage(format!(
            "`{shown}`: expected a key of at most {KEY_BYTES} bytes, got {size}"
        )));
    }
    let key = std::fs::read(path).with_context(|| format!("reading `{shown}`"))?;
    let key = key.trim_ascii().to_vec();
    if HashKey::new(&key).is_none() {
        return Err(usage(format!(
            "`{shown}`: expected a key of at least {} bytes, got {}; `openssl rand -hex 32` makes one",
            HashKey::LEAST,
            key.len()
        )));
    }
    Ok(HashSecret(key))
}
