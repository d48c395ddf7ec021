//! The gate's bounds and switches, each defined once.
//!
//! From one [`Setting`] come its flag, its environment variable, its key in a file, its help, its
//! row in the documents, and the check of its values. Every value is a number: milliseconds, bytes,
//! a count, or 0 and 1 for a switch.

use std::time::Duration;

use keepgate_client::pool::{MAX_CONNECTIONS, PoolConfig};
use keepgate_policy::{duration, size};

use super::GateConfig;

/// A day, the longest time that can be set.
const DAY: u64 = 86_400_000;
/// The largest number of bytes that can be set: 1 TiB.
/// The largest count that can be set.
const MILLION: u64 = 1_000_000;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `500ms`, `5s`, `90m`; in milliseconds.
    Time,
    /// `1024`, `64KiB`, `200MB`.
    Bytes,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Switch,
}

/// One setting of a `T`.
pub struct Setting<T: 'static> {
    /// Its key in a file. The flag has `-` for `_`, and the variable capitals after `KEEPGATE_`.
    pub name: &'static str,
    /// What it is, without its default.
    pub help: &'static str,
    /// How its values are written.
    pub unit: Unit,
    /// The least value.
    pub least: u64,
    /// The largest value.
    pub most: u64,
    /// What the default is, where no number says it.
    pub default: Option<&'static str>,
    /// A `[[site]]` can set it for itself.
    pub is_per_site: bool,
    /// Its value in a `T`; none: it is not set.
    pub read: fn(&T) -> Option<u64>,
    /// Puts it into a `T`.
    pub write: fn(&mut T, u64),
}

impl<T> Setting<T> {
    /// The value of a text, in range; else what was expected.
    pub fn parse(&self, text: &str) -> Result<u64, String> {
        let value = match self.unit {
            Unit::Time => duration::parse_ms(text).ok(),
            Unit::Bytes => size::parse(text),
            Unit::Count => whole(text),
            Unit::Switch => match text {
                "true" => Some(1),
                "false" => Some(0),
                _ => None,
            },
        };
        match value {
            Some(value) if (self.least..=self.most).contains(&value) => Ok(value),
            _ => Err(format!("expected {}, got `{text}`", self.expected())),
        }
    }

    /// What a value can be, in words.
    pub fn expected(&self) -> String {
        let (least, most) = (self.shown(self.least), self.shown(self.most));
        match self.unit {
            Unit::Time => format!("a duration from {least} to {most} (such as `5s`)"),
            Unit::Bytes => format!("a size from {least} to {most} (such as `64KiB` or `200MB`)"),
            Unit::Count => format!("a whole number from {least} to {most}"),
            Unit::Switch => "`true` or `false`".to_owned(),
        }
    }

    /// A value as [`Setting::parse`] reads it.
    pub fn shown(&self, value: u64) -> String {
        match self.unit {
            Unit::Time => duration::to_text(value),
            Unit::Bytes => size::to_text(value),
            Unit::Count => value.to_string(),
            Unit::Switch => (value != 0).to_string(),
        }
    }

    /// The flag, without `--`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("KEEPGATE_{}", self.name.to_ascii_uppercase())
    }
}

impl<T: Default> Setting<T> {
    /// The default, in words.
    pub fn default_shown(&self) -> String {
        match (self.default, (self.read)(&T::default())) {
            (Some(words), _) => words.to_owned(),
            (None, Some(value)) => self.shown(value),
            (None, None) => "none".to_owned(),
        }
    }
}

fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn narrow(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A time from 1 ms to a day.
macro_rules! time {
    ($name:literal, $site:literal, $($field:ident).+, $help:literal) => {
        Setting {
            name: $name,
            help: $help,
            unit: Unit::Time,
            least: 1,
            most: DAY,
            default: None,
            is_per_site: $site,
            read: |c| Some(ms(c.$($field).+)),
            write: |c, value| c.$($field).+ = Duration::from_millis(value),
        }
    };
}

/// A number in a range.
macro_rules! number {
    ($name:literal, $site:literal, $unit:ident $least:tt..=$most:tt, $($field:ident).+, $help:literal) => {
        Setting {
            name: $name,
            help: $help,
            unit: Unit::$unit,
            least: $least,
            most: $most,
            default: None,
            is_per_site: $site,
            read: |c| Some(wide(c.$($field).+)),
            write: |c, value| c.$($field).+ = narrow(value),
        }
    };
}

/// A time of an upstream, from 100 ms to a day.
macro_rules! rest {
    ($name:literal, $($field:ident).+, $help:literal) => {
        Setting {
            name: $name,
            help: $help,
            unit: Unit::Time,
            least: 100,
            most: DAY,
            default: None,
            is_per_site: false,
            read: |c| Some(ms(c.$($field).+)),
            write: |c, value| c.$($field).+ = Duration::from_millis(value),
        }
    };
}

/// A small number of an upstream.
macro_rules! few {
    ($name:literal, $least:literal, $($field:ident).+, $help:literal) => {
        Setting {
            name: $name,
            help: $help,
            unit: Unit::Count,
            least: $least,
            most: 1_000,
            default: None,
            is_per_site: false,
            read: |c| Some(u64::from(c.$($field).+)),
            write: |c, value| c.$($field).+ = u32::try_from(value).unwrap_or(u32::MAX),
        }
    };
}

/// The most that a head is parsed for (`wire::head`).
const HEADER_COUNT: u64 = 100;
const CONNECTIONS: u64 = MAX_CONNECTIONS as u64;

/// The settings of a gate; those that a site can set for itself are marked.
pub const GATE: &[Setting<GateConfig>] = &[
    number!(
        "max_connections",
        false,
        Count 1..=MILLION,
        bounds.max_connections,
        "Connections that callers may have; at the limit, an idle one is closed for the next"
    ),
    Setting {
        name: "max_connections_per_address",
        help: "Connections that one address may have (IPv6: one /64)",
        unit: Unit::Count,
        least: 1,
        most: MILLION,
        default: Some("a quarter of --max-connections"),
        is_per_site: false,
        read: |c| c.bounds.max_connections_per_address.map(wide),
        write: |c, value| c.bounds.max_connections_per_address = Some(narrow(value)),
    },
    number!(
        "check_connections",
        false,
        Count 1..=MILLION,
        bounds.check_connections,
        "Connections to the check listener; at the limit, an idle one is closed for the next"
    ),
    Setting {
        name: "max_streams",
        help: "Exchanges at once on one HTTP/2 connection of a caller",
        unit: Unit::Count,
        least: 1,
        most: 10_000,
        default: None,
        is_per_site: false,
        read: |c| Some(u64::from(c.bounds.max_streams)),
        write: |c, value| c.bounds.max_streams = u32::try_from(value).unwrap_or(u32::MAX),
    },
    number!(
        "header_count",
        false,
        Count 1..=HEADER_COUNT,
        bounds.header_count,
        "Header fields of a request; more get 431"
    ),
    number!(
        "header_bytes",
        false,
        Bytes 1_024..=1_048_576,
        bounds.header_bytes,
        "Bytes of a request's header section; more get 431"
    ),
    number!(
        "uri_bytes",
        false,
        Bytes 64..=65_536,
        bounds.uri_bytes,
        "Bytes of a request's target; more get 414"
    ),
    Setting {
        name: "body_bytes",
        help: "Bytes of a request body; more get 413. A service or a route can set it for itself",
        unit: Unit::Bytes,
        least: 0,
        most: size::MAX_BODY_BYTES,
        default: None,
        is_per_site: true,
        read: |c| Some(c.bounds.body_bytes),
        write: |c, value| c.bounds.body_bytes = value,
    },
    time!(
        "first_byte_timeout",
        false,
        bounds.first_byte,
        "From accept (or TLS) to the first byte; then the connection is closed"
    ),
    time!(
        "handshake_timeout",
        false,
        bounds.handshake,
        "A TLS handshake; then the connection is closed"
    ),
    time!(
        "header_timeout",
        false,
        bounds.header,
        "From the first byte of a request's head to its last; then 408"
    ),
    time!(
        "idle_timeout",
        false,
        bounds.idle,
        "A caller's connection without an exchange; then it is closed"
    ),
    time!("body_idle", true, bounds.body_idle, "A request body of which nothing arrives; then 408"),
    time!(
        "body_window",
        true,
        bounds.body_window,
        "A request body that brings fewer than --body-least bytes in each such time gets 408"
    ),
    Setting {
        name: "body_least",
        help: "See --body-window",
        unit: Unit::Bytes,
        least: 0,
        most: size::MAX_BODY_BYTES,
        default: None,
        is_per_site: true,
        read: |c| Some(c.bounds.body_least),
        write: |c, value| c.bounds.body_least = value,
    },
    Setting {
        name: "pressure_rate",
        help: "While requests wait for a connection, a request body with fewer bytes a second may be \
               ended with 408",
        unit: Unit::Bytes,
        least: 0,
        most: size::MAX_BODY_BYTES,
        default: None,
        is_per_site: true,
        read: |c| Some(c.bounds.pressure_rate),
        write: |c, value| c.bounds.pressure_rate = value,
    },
    time!(
        "answer_timeout",
        true,
        bounds.answer_timeout,
        "From the last request byte forwarded until the answer begins; then 504. A service or a \
         route can set it for itself"
    ),
    time!(
        "answer_idle",
        true,
        bounds.answer_idle,
        "An answer or a WebSocket without traffic; then it is closed. A service or a route can set \
         it for itself"
    ),
    time!(
        "write_stall",
        false,
        bounds.write_stall,
        "A caller that reads nothing of its answer; then its connection is closed"
    ),
    Setting {
        name: "drain_delay",
        help: "How long the gate still takes connections when it is told to stop, and /readyz is 503",
        unit: Unit::Time,
        least: 0,
        most: DAY,
        default: None,
        is_per_site: false,
        read: |c| Some(ms(c.bounds.drain_delay)),
        write: |c, value| c.bounds.drain_delay = Duration::from_millis(value),
    },
    Setting {
        name: "drain",
        help: "How long exchanges may continue after that; then they are ended",
        unit: Unit::Time,
        least: 0,
        most: DAY,
        default: None,
        is_per_site: false,
        read: |c| Some(ms(c.bounds.drain)),
        write: |c, value| c.bounds.drain = Duration::from_millis(value),
    },
    time!(
        "revision_wait",
        false,
        bounds.revision_wait,
        "How long a request waits for the revision in Keepgate-Min-Revision; then 503"
    ),
    number!(
        "revision_waiters",
        false,
        Count 0..=MILLION,
        bounds.revision_waiters,
        "Requests that wait for a revision at once; more get 503"
    ),
    Setting {
        name: "revoke_after",
        help: "A younger exchange is not decided again when permissions change",
        unit: Unit::Time,
        least: 0,
        most: DAY,
        default: None,
        is_per_site: false,
        read: |c| Some(ms(c.bounds.revoke_after)),
        write: |c, value| c.bounds.revoke_after = Duration::from_millis(value),
    },
    time!("jwks_interval", false, keys.interval, "Between two reads of a key set from a URL"),
    time!(
        "jwks_file_interval",
        false,
        keys.file_interval,
        "Between two looks at a key set or secret in a file"
    ),
    time!(
        "jwks_unknown_interval",
        false,
        keys.unknown_interval,
        "Between two reads of a key set because of unknown key ids, after five at once"
    ),
    time!(
        "jwks_retry",
        false,
        keys.retry,
        "Before the first retry while there is no key set; doubles up to --jwks-interval"
    ),
    time!(
        "jwks_timeout",
        false,
        keys.timeout,
        "One read of a key set, from connecting to the last byte"
    ),
    time!("jwks_wait", false, keys.wait, "How long a request waits for keys that it needs"),
    Setting {
        name: "access_log_file_bytes",
        help: "Bytes of a file of the access log, after which the next one begins",
        unit: Unit::Bytes,
        least: 65_536,
        most: 1 << 40,
        default: None,
        is_per_site: false,
        read: |c| Some(c.record_bounds.file_bytes),
        write: |c, value| c.record_bounds.file_bytes = value,
    },
    Setting {
        name: "access_log_file_age",
        help: "The time after which the next file of the access log begins",
        unit: Unit::Time,
        least: 60_000,
        most: 31 * DAY,
        default: None,
        is_per_site: false,
        read: |c| Some(ms(c.record_bounds.file_age)),
        write: |c, value| c.record_bounds.file_age = Duration::from_millis(value),
    },
    Setting {
        name: "access_log_total_bytes",
        help: "Bytes of all files of the access log together; the oldest are removed",
        unit: Unit::Bytes,
        least: 65_536,
        most: 1 << 50,
        default: None,
        is_per_site: false,
        read: |c| Some(c.record_bounds.total_bytes),
        write: |c, value| c.record_bounds.total_bytes = value,
    },
    Setting {
        name: "access_log_queue_bytes",
        help: "Bytes of records that wait to be written; what does not fit is counted as lost",
        unit: Unit::Bytes,
        least: 65_536,
        most: 1 << 32,
        default: None,
        is_per_site: false,
        read: |c| Some(wide(c.record_bounds.queue_bytes)),
        write: |c, value| c.record_bounds.queue_bytes = narrow(value),
    },
    Setting {
        name: "keep_encoded_slash",
        help: "Paths may contain %2F even if the service refuses it, as in release 0.1",
        unit: Unit::Switch,
        least: 0,
        most: 1,
        default: None,
        is_per_site: false,
        read: |c| Some(u64::from(c.keep_encoded_slash)),
        write: |c, value| c.keep_encoded_slash = value != 0,
    },
    Setting {
        name: "honor_sampled",
        help: "Requests that their callers record in a trace are recorded here too, beyond the \
               ratio of the sampler, up to 100 a second at each worker",
        unit: Unit::Switch,
        least: 0,
        most: 1,
        default: None,
        is_per_site: false,
        read: |c| Some(u64::from(c.honors_sampled)),
        write: |c, value| c.honors_sampled = value != 0,
    },
];

/// The settings of an upstream's connections. In an `[upstream.NAME]` table these are the keys; the
/// flags begin with `upstream-`, and the keys in `[gate]` with `upstream_`.
pub const UPSTREAM: &[Setting<PoolConfig>] = &[
    Setting {
        name: "connections",
        help: "Connections to the upstream at most; each of its addresses gets an equal part",
        unit: Unit::Count,
        least: 1,
        most: MILLION,
        default: Some("half of the usable ports, at most 1024, for each address"),
        is_per_site: false,
        read: |c| c.max_connections.map(wide),
        write: |c, value| c.max_connections = Some(narrow(value)),
    },
    number!(
        "queue",
        false,
        Count 0..=MILLION,
        max_queue,
        "Requests that may wait for a connection to one address of the upstream; more get 503"
    ),
    time!(
        "queue_timeout",
        false,
        queue_timeout,
        "How long a request waits for a connection to the upstream; then 503"
    ),
    time!(
        "idle_timeout",
        false,
        idle_timeout,
        "How long a connection to the upstream is kept idle; keep it below the upstream's own"
    ),
    number!(
        "h2_connections",
        false,
        Count 1..=CONNECTIONS,
        h2_max_connections,
        "HTTP/2 connections to the upstream at most"
    ),
    number!(
        "h2_streams",
        false,
        Count 1..=10_000,
        h2_max_streams,
        "Requests at once on one HTTP/2 connection to the upstream"
    ),
    time!(
        "h2_ping",
        false,
        h2_ping,
        "How often a busy HTTP/2 connection to the upstream is asked whether it is alive"
    ),
    Setting {
        name: "max_age",
        help: "How old a connection to the upstream may become before it takes no more requests",
        unit: Unit::Time,
        least: 100,
        most: DAY,
        default: Some("no bound"),
        is_per_site: false,
        read: |c| c.max_age.map(ms),
        write: |c, value| c.max_age = Some(Duration::from_millis(value)),
    },
    rest!("dns_refresh", dns_refresh, "How often the names of the upstream are looked up again"),
    few!(
        "eject_after_connects",
        0,
        balance.connect_failures,
        "Connects in a row that fail before an address gets no requests for a while; 0: never"
    ),
    few!(
        "eject_after_errors",
        0,
        balance.server_errors,
        "Requests in a row that an address fails (5xx, no answer) before it gets none for a while; \
         0: never"
    ),
    rest!("eject_min", balance.eject_min, "How long the first of these times is; then it doubles"),
    rest!("eject_max", balance.eject_max, "How long it becomes at most"),
    Setting {
        name: "slow_start",
        help: "How long the share of an address grows that is new or comes back",
        unit: Unit::Time,
        least: 0,
        most: DAY,
        default: None,
        is_per_site: false,
        read: |c| Some(ms(c.balance.slow_start)),
        write: |c, value| c.balance.slow_start = Duration::from_millis(value),
    },
    rest!("check_every", check_every, "From one check of an address to the next; see check_path"),
    rest!("check_timeout", check_timeout, "How long the answer to a check may take"),
    few!(
        "check_fall",
        1,
        balance.check_fall,
        "Checks in a row that fail before an address gets no requests"
    ),
    few!(
        "check_rise",
        1,
        balance.check_rise,
        "Checks in a row that succeed before it gets requests again"
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_setting_takes_its_bounds_and_nothing_beyond() {
        fn check<T: Default>(settings: &[Setting<T>]) {
            for setting in settings {
                for value in [setting.least, setting.most] {
                    let text = setting.shown(value);
                    assert_eq!(setting.parse(&text), Ok(value), "{}: {text}", setting.name);
                    let mut target = T::default();
                    (setting.write)(&mut target, value);
                    assert_eq!((setting.read)(&target), Some(value), "{}", setting.name);
                }
                let beyond = [setting.least.checked_sub(1), setting.most.checked_add(1)];
                for value in beyond.into_iter().flatten() {
                    if setting.unit == Unit::Switch {
                        continue;
                    }
                    let said = setting.parse(&setting.shown(value)).unwrap_err();
                    assert!(said.starts_with("expected "), "{}: {said}", setting.name);
                }
                // The default is a value that may be set.
                if let Some(value) = (setting.read)(&T::default()) {
                    assert_eq!(setting.parse(&setting.shown(value)), Ok(value), "{}", setting.name);
                }
                assert!(setting.default_shown() != "none", "{}", setting.name);
                for text in ["", " ", "-1", "x", "1x", "99999999999999999999", "1 s", "+1"] {
                    assert!(setting.parse(text).is_err(), "{}: {text}", setting.name);
                }
            }
            let names: BTreeSet<_> = settings.iter().map(|setting| setting.name).collect();
            assert_eq!(names.len(), settings.len());
        }
        check(GATE);
        check(UPSTREAM);
    }

    /// The tables of `docs/gate.md`; `UPDATE_EXPECT=1 cargo test` writes them anew.
    #[test]
    fn the_document_has_every_setting() {
        let gate = GATE.iter().map(|s| row(s, if s.is_per_site { "site" } else { "" }));
        let upstream = UPSTREAM.iter().map(|s| row(s, ""));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/gate.md");
        let held = std::fs::read_to_string(path).unwrap();
        let head = "| setting | default | range | | |\n|---|---|---|---|---|\n";
        let made =
            replaced(&held, "settings of the gate", &format!("{head}{}", gate.collect::<String>()));
        let table = format!("{head}{}", upstream.collect::<String>());
        let made = replaced(&made, "settings of an upstream", &table);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, &made).unwrap();
        } else {
            assert!(held == made, "docs/gate.md is behind: UPDATE_EXPECT=1 writes its tables anew");
        }
    }

    fn row<T: Default>(setting: &Setting<T>, of: &str) -> String {
        let range = match setting.unit {
            Unit::Switch => String::new(),
            _ => format!("{} to {}", setting.shown(setting.least), setting.shown(setting.most)),
        };
        // A flag is named by its key.
        let keys = |text: &str| -> String {
            let key = |word: &str| match word.strip_prefix("--") {
                Some(flag) => flag.replace('-', "_"),
                None => word.to_owned(),
            };
            text.split(' ').map(key).collect::<Vec<_>>().join(" ")
        };
        let (default, help) = (keys(&setting.default_shown()), keys(setting.help));
        format!("| `{}` | {default} | {range} | {of} | {help} |\n", setting.name)
    }

    /// The text with another table between a comment that begins like this, and the next.
    fn replaced(text: &str, comment: &str, table: &str) -> String {
        let start = text.find(&format!("<!-- {comment}")).unwrap();
        let start = start + text[start..].find("-->\n").unwrap() + 4;
        let end = start + text[start..].find("<!-- end -->").unwrap();
        format!("{}{table}{}", &text[..start], &text[end..])
    }

    /// `GateConfig::bounds`, `keys` and the pool have no field that no setting reaches: a new field
    /// does not compile here until it has a row above, or a reason to have none.
    #[test]
    fn every_bound_is_within_reach() {
        let crate::Bounds {
            max_connections: _,
            max_connections_per_address: _,
            check_connections: _,
            max_streams: _,
            header_count: _,
            header_bytes: _,
            uri_bytes: _,
            body_bytes: _,
            first_byte: _,
            handshake: _,
            header: _,
            idle: _,
            body_idle: _,
            body_window: _,
            body_least: _,
            pressure_rate: _,
            answer_timeout: _,
            answer_idle: _,
            write_stall: _,
            drain_delay: _,
            drain: _,
            revision_wait: _,
            revision_waiters: _,
            revoke_after: _,
        } = crate::Bounds::default();
        let others = ["jwks_", "access_log_"];
        let bounds = GATE.iter().filter(|s| {
            !others.iter().any(|other| s.name.starts_with(other)) && s.unit != Unit::Switch
        });
        assert_eq!(bounds.count(), 24);
        let crate::RecordBounds { file_bytes: _, file_age: _, total_bytes: _, queue_bytes: _ } =
            crate::RecordBounds::default();
    }
}
