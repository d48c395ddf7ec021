//! The variables of the environment, as values. What the official SDK reads by itself (headers and
//! timeouts of spans and log lines, the resource) is left to it.
//!
//! Source: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/> and
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use keepgate_observe::span::Sampler;

use crate::exit::usage;

/// Spans, log lines or points that may wait, at most.
const MAX_QUEUE: u64 = 1_000_000;
const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;

/// The value of a variable; none: it is not set, or empty.
pub(super) type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// One kind of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    const ALL: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    fn name(self) -> &'static str {
        match self {
            Signal::Traces => "TRACES",
            Signal::Metrics => "METRICS",
            Signal::Logs => "LOGS",
        }
    }
}

/// What is sent, where, and how.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(super) traces: Option<Receiver>,
    pub(super) metrics: Option<Receiver>,
    pub(super) logs: Option<Receiver>,
    pub(super) sampler: Sampler,
    /// The time from one sending of metrics to the next.
    pub(super) metrics_every: Duration,
    pub(super) spans: Batches,
    pub(super) lines: Batches,
}

/// Where one signal goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Receiver {
    /// The variable that names it.
    pub(super) variable: String,
    pub(super) url: String,
    /// Trusted in place of the host's store.
    pub(super) ca: Option<PathBuf>,
    /// A certificate to show, and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    pub(super) timeout: Duration,
    /// Names in lower case. Secrets may be among the values.
    pub(super) headers: BTreeMap<String, String>,
}

impl std::fmt::Debug for Receiver {
    /// Never shows headers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A queue, and how it is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batches {
    /// How many may wait.
    pub(super) queue: usize,
    /// How many are sent at once.
    pub(super) most: usize,
    /// How long the first of a batch waits for others.
    pub(super) delay: Duration,
}

impl Settings {
    /// None: no receiver is named, or nothing is to be sent to it.
    pub(crate) fn read(lookup: Lookup<'_>) -> anyhow::Result<Option<Settings>> {
        if lookup("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let mut receivers = Signal::ALL.map(|signal| receiver(lookup, signal)).into_iter();
        let mut next = || receivers.next().transpose().map(Option::flatten);
        let (traces, metrics, logs) = (next()?, next()?, next()?);
        if traces.is_none() && metrics.is_none() && logs.is_none() {
            return Ok(None);
        }
        Ok(Some(Settings {
            traces,
            metrics,
            logs,
            sampler: sampler(lookup)?,
            metrics_every: ms(lookup, "OTEL_METRIC_EXPORT_INTERVAL", MINUTE_MS)?,
            spans: batches(lookup, "OTEL_BSP", 5_000)?,
            lines: batches(lookup, "OTEL_BLRP", 1_000)?,
        }))
    }
}

/// Where a signal goes; none: nowhere.
fn receiver(lookup: Lookup<'_>, signal: Signal) -> anyhow::Result<Option<Receiver>> {
    let exporter = format!("OTEL_{}_EXPORTER", signal.name());
    match lookup(&exporter).as_deref().map(str::trim) {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => {
            return Err(usage(format!("{exporter}: expected `otlp` or `none`, got `{other}`")));
        }
    }
    // The signal's own value, and else that of all signals.
    let either = |what: &str| {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name());
        let all = format!("OTEL_EXPORTER_OTLP_{what}");
        let found = lookup(&own).map(|value| (own, value));
        found.or_else(|| lookup(&all).map(|value| (all, value)))
    };
    let value = |what: &str| either(what).map(|(_, value)| value);
    let Some((variable, url)) = either("ENDPOINT") else { return Ok(None) };
    if let Some((variable, protocol)) = either("PROTOCOL").filter(|(_, it)| it.trim() != "grpc") {
        return Err(usage(format!(
            "{variable}: expected `grpc`, got `{protocol}`; let the receiver take OTLP over gRPC (mostly \
             at port 4317)"
        )));
    }
    if let Some((variable, how)) = either("COMPRESSION").filter(|(_, it)| it.trim() != "none") {
        return Err(usage(format!("{variable}: expected `none`, got `{how}`")));
    }
    let timeout = match either("TIMEOUT") {
        None => Duration::from_secs(10),
        Some((variable, text)) => Duration::from_millis(number(&variable, &text, 1, DAY_MS)?),
    };
    let client = match (either("CLIENT_CERTIFICATE"), either("CLIENT_KEY")) {
        (None, None) => None,
        (Some((_, certificate)), Some((_, key))) => Some((certificate.into(), key.into())),
        (Some((variable, _)), None) | (None, Some((variable, _))) => {
            return Err(usage(format!(
                "{variable}: a client's certificate and its key go together; set both \
                 OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY"
            )));
        }
    };
    // Both lists count; the signal's own goes first.
    let all = lookup("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
    let own = value("HEADERS").unwrap_or_default();
    let headers = headers(&all).chain(headers(&own)).collect();
    let (url, ca) = (url.trim().to_owned(), value("CERTIFICATE").map(PathBuf::from));
    Ok(Some(Receiver { variable, url, ca, client, timeout, headers }))
}

/// `NAME=VALUE,..`, with values percent-encoded, as the SDK reads it for spans and log lines.
fn headers(list: &str) -> impl Iterator<Item = (String, String)> {
    list.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_ascii_lowercase(), decoded(value.trim())))
    })
}

/// A percent-encoded text; as it is, where it is not one.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (Some(byte), Some(rest)) = (byte, part.get(2..)) else { return text.to_owned() };
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn sampler(lookup: Lookup<'_>) -> anyhow::Result<Sampler> {
    let name = lookup("OTEL_TRACES_SAMPLER");
    let (ratio, parent_based) = match name.as_deref().map(str::trim) {
        None | Some("parentbased_always_on") => (1.0, true),
        Some("parentbased_always_off") => (0.0, true),
        Some("parentbased_traceidratio") => (ratio(lookup)?, true),
        Some("always_on") => (1.0, false),
        Some("always_off") => (0.0, false),
        Some("traceidratio") => (ratio(lookup)?, false),
        Some(other) => {
            return Err(usage(format!(
                "OTEL_TRACES_SAMPLER: expected `always_on`, `always_off`, `traceidratio`, or one of these \
                 after `parentbased_`, got `{other}`"
            )));
        }
    };
    Ok(Sampler { ratio, parent_based, honors_callers: false })
}

fn ratio(lookup: Lookup<'_>) -> anyhow::Result<f64> {
    let Some(text) = lookup("OTEL_TRACES_SAMPLER_ARG") else { return Ok(1.0) };
    let ratio = text.trim().parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| {
        usage(format!("OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1, got `{text}`"))
    })
}

fn batches(lookup: Lookup<'_>, of: &str, delay_ms: u64) -> anyhow::Result<Batches> {
    let variable = |what: &str| format!("{of}_{what}");
    let count = |what: &str, default: u64| -> anyhow::Result<usize> {
        let variable = variable(what);
        let n = match lookup(&variable) {
            None => default,
            Some(text) => number(&variable, &text, 1, MAX_QUEUE)?,
        };
        Ok(usize::try_from(n).unwrap_or(usize::MAX))
    };
    let queue = count("MAX_QUEUE_SIZE", 2_048)?;
    let most = count("MAX_EXPORT_BATCH_SIZE", 512)?.min(queue);
    Ok(Batches { queue, most, delay: ms(lookup, &variable("SCHEDULE_DELAY"), delay_ms)? })
}

fn ms(lookup: Lookup<'_>, variable: &str, default: u64) -> anyhow::Result<Duration> {
    let ms = match lookup(variable) {
        None => default,
        Some(text) => number(variable, &text, 1, DAY_MS)?,
    };
    Ok(Duration::from_millis(ms))
}

fn number(variable: &str, text: &str, least: u64, most: u64) -> anyhow::Result<u64> {
    let number = text.trim().parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| {
        usage(format!("{variable}: expected a whole number from {least} to {most}, got `{text}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let lookup = |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&lookup).map_err(|error| format!("{error:#}"))
    }

    const AT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");

    #[test]
    fn nothing_is_sent_unless_a_receiver_is_named() {
        assert!(read(&[]).unwrap().is_none());
        assert!(
            read(&[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "wrong")])
                .unwrap()
                .is_none()
        );
        assert!(read(&[AT, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        let none = |signal| (signal, "none");
        let [traces, metrics, logs] =
            ["OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"].map(none);
        assert!(read(&[AT, traces, metrics, logs]).unwrap().is_none());
        let some = read(&[AT, traces, logs]).unwrap().unwrap();
        assert!(some.traces.is_none() && some.logs.is_none());
        assert_eq!(some.metrics.unwrap().url, AT.1);
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces");
        let apart = read(&[own]).unwrap().unwrap();
        assert_eq!(apart.traces.unwrap().url, "https://traces");
        assert!(apart.metrics.is_none() && apart.logs.is_none());
    }

    #[test]
    fn headers_are_decoded_and_never_shown() {
        let all = ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20s3cret, x-a = 1,b");
        let own = ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-a=2%zz");
        let settings = read(&[AT, all, own]).unwrap().unwrap();
        let headers = &settings.metrics.as_ref().unwrap().headers;
        let shown: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(shown, [("authorization", "Bearer s3cret"), ("x-a", "2%zz")]);
        assert!(!format!("{settings:?}").contains("s3cret"), "{settings:?}");
    }

    #[test]
    fn what_cannot_be_used_names_its_variable() {
        for (variable, wrong, says) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "expected `grpc`"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "expected `none`"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "from 1 to 86400000"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "from 1 to 86400000"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "f", "go together"),
            ("OTEL_LOGS_EXPORTER", "console", "`otlp` or `none`"),
            ("OTEL_TRACES_SAMPLER", "often", "always_on"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "from 1 to 1000000"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1000001", "from 1 to 1000000"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "a whole number"),
        ] {
            let said = read(&[AT, (variable, wrong)]).unwrap_err();
            assert!(said.starts_with(variable) && said.contains(says), "{said}");
        }
        let sampler = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
        for wrong in ["1.1", "-0.1", "NaN", "x"] {
            let said = read(&[AT, sampler, ("OTEL_TRACES_SAMPLER_ARG", wrong)]).unwrap_err();
            assert!(said.contains("from 0 to 1"), "{said}");
        }
        let tenth = read(&[AT, sampler, ("OTEL_TRACES_SAMPLER_ARG", "0.1")]).unwrap().unwrap();
        let sampler = Sampler { ratio: 0.1, parent_based: true, honors_callers: false };
        assert_eq!(tenth.sampler, sampler);
        let million = read(&[AT, ("OTEL_BSP_MAX_QUEUE_SIZE", "1000000")]).unwrap().unwrap();
        assert_eq!((million.spans.queue, million.spans.most), (1_000_000, 512));
    }
}
