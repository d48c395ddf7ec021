//! Metrics: what the pages of `/metrics` show, as OTLP's messages.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keepgate_observe::{Counter, Dialect};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource as ResourceMessage;
use opentelemetry_sdk::Resource;
use tokio::sync::watch;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::Channel;

use super::said::Said;
use super::settings::Receiver;
use crate::exit::usage;

/// A page of metrics; none: its part has ended.
pub(super) type Page = Box<dyn Fn(Dialect) -> Option<String> + Send + Sync>;

/// Sends metrics now and then.
pub(super) struct Points {
    client: MetricsServiceClient<Channel>,
    headers: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
    timeout: Duration,
    resource: ResourceMessage,
    since_ns: u64,
}

impl Points {
    pub(super) fn new(
        channel: Channel,
        receiver: &Receiver,
        resource: &Resource,
    ) -> anyhow::Result<Points> {
        let mut headers = Vec::new();
        for (name, value) in &receiver.headers {
            // The value may be a secret.
            let wrong = || {
                usage(format!("OTEL_EXPORTER_OTLP_HEADERS: `{name}` or its value cannot be sent"))
            };
            let key = name.parse().map_err(|_| wrong())?;
            headers.push((key, value.parse().map_err(|_| wrong())?));
        }
        let attributes = resource.iter().map(|(key, value)| text(key.as_str(), &value.as_str()));
        let attributes = attributes.collect();
        Ok(Points {
            client: MetricsServiceClient::new(channel),
            headers,
            timeout: receiver.timeout,
            resource: ResourceMessage { attributes, ..ResourceMessage::default() },
            since_ns: now_ns(),
        })
    }

    /// Sends what the pages show, in each interval and at the end.
    pub(super) async fn run(
        mut self,
        pages: &Mutex<Vec<Page>>,
        every: Duration,
        mut stop: watch::Receiver<bool>,
        lost: &Counter,
    ) {
        let mut said = Said::of("metrics");
        loop {
            let stops = tokio::select! {
                () = tokio::time::sleep(every) => false,
                _ = stop.wait_for(|stops| *stops) => true,
            };
            let shown: Vec<String> = {
                let mut pages = pages.lock().unwrap_or_else(PoisonError::into_inner);
                let mut shown = Vec::new();
                pages.retain(|page| {
                    page(Dialect::OpenMetrics).map(|text| shown.push(text)).is_some()
                });
                shown
            };
            let now_ns = now_ns();
            let read = |text: &String| metrics(text, self.since_ns, now_ns);
            let metrics: Vec<Metric> = shown.iter().flat_map(read).collect();
            let points = metrics.iter().map(count).sum::<usize>();
            if points > 0 {
                let sent = self.send(metrics).await;
                if sent.is_err() {
                    lost.add(points as u64);
                }
                said.note(sent);
            }
            if stops {
                return;
            }
        }
    }

    async fn send(&mut self, metrics: Vec<Metric>) -> Result<(), String> {
        let scope = InstrumentationScope {
            name: "keepgate".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_metrics =
            vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
        let resource = Some(self.resource.clone());
        let of = ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() };
        let message = ExportMetricsServiceRequest { resource_metrics: vec![of] };
        let mut request = tonic::Request::new(message);
        for (key, value) in &self.headers {
            request.metadata_mut().insert(key.clone(), value.clone());
        }
        match tokio::time::timeout(self.timeout, self.client.export(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

fn now_ns() -> u64 {
    ns(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How many points a metric has.
fn count(metric: &Metric) -> usize {
    match &metric.data {
        Some(metric::Data::Sum(sum)) => sum.data_points.len(),
        Some(metric::Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(metric::Data::Histogram(histogram)) => histogram.data_points.len(),
        _ => 0,
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// One line of a page.
struct Sample<'p> {
    name: &'p str,
    labels: Vec<(&'p str, String)>,
    value: f64,
    exemplar: Option<Exemplar>,
}

/// The metrics of a page that this program has written in OpenMetrics.
fn metrics(page: &str, since_ns: u64, now_ns: u64) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let (mut help, mut lines) = ("", page.lines().peekable());
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        }
        let Some((family, sort)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            samples.extend(sample(line));
        }
        let point = |sample: Sample<'_>| NumberDataPoint {
            attributes: sample.labels.iter().map(|(key, value)| text(key, value)).collect(),
            start_time_unix_nano: if sort == "counter" { since_ns } else { 0 },
            time_unix_nano: now_ns,
            value: Some(number_data_point::Value::AsDouble(sample.value)),
            ..NumberDataPoint::default()
        };
        let temporality = AggregationTemporality::Cumulative.into();
        let (name, data) = match sort {
            "counter" => {
                let data_points = samples.into_iter().map(point).collect();
                let sum =
                    Sum { data_points, aggregation_temporality: temporality, is_monotonic: true };
                (format!("{family}_total"), metric::Data::Sum(sum))
            }
            "histogram" => {
                let data_points = histograms(samples, since_ns, now_ns);
                let data = Histogram { data_points, aggregation_temporality: temporality };
                (family.to_owned(), metric::Data::Histogram(data))
            }
            _ => {
                let data_points = samples.into_iter().map(point).collect();
                (family.to_owned(), metric::Data::Gauge(Gauge { data_points }))
            }
        };
        let unit = if family.ends_with("_seconds") { "s" } else { "" };
        metrics.push(Metric {
            name,
            description: help.to_owned(),
            unit: unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        });
    }
    metrics
}

/// One point for each set of labels, in the order of these.
fn histograms(samples: Vec<Sample<'_>>, since_ns: u64, now_ns: u64) -> Vec<HistogramDataPoint> {
    let mut points: BTreeMap<Vec<(&str, String)>, HistogramDataPoint> = BTreeMap::new();
    for mut sample in samples {
        let at = sample.labels.iter().position(|(key, _)| *key == "le");
        let bound = at.map(|at| sample.labels.remove(at).1);
        let attributes = sample.labels.iter().map(|(key, value)| text(key, value)).collect();
        let point = points.entry(sample.labels).or_insert_with(|| HistogramDataPoint {
            attributes,
            start_time_unix_nano: since_ns,
            time_unix_nano: now_ns,
            ..HistogramDataPoint::default()
        });
        match bound {
            Some(bound) => {
                // A page adds up the buckets, a point does not.
                let before: u64 = point.bucket_counts.iter().sum();
                point.bucket_counts.push(whole(sample.value).saturating_sub(before));
                point.explicit_bounds.extend(bound.parse::<f64>().ok().filter(|b| b.is_finite()));
                point.exemplars.extend(sample.exemplar);
            }
            None if sample.name.ends_with("_sum") => point.sum = Some(sample.value),
            None => point.count = whole(sample.value),
        }
    }
    points.into_values().collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole and not negative"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

/// `name{label="value",..} value [# {trace_id=".."} value time]`
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((key, value));
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => break rest = after.strip_prefix('}')?,
            }
        }
    }
    let (value, exemplar) = match rest.trim_start().split_once(" # {trace_id=\"") {
        Some((value, exemplar)) => (value, self::exemplar(exemplar)),
        None => (rest.trim_start(), None),
    };
    Some(Sample { name, labels, value: value.parse().ok()?, exemplar })
}

/// What stands before the closing quote, without its escapes; and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, text.get(at + 1..)?)),
            (_, '\\') => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

/// `ID"} value time`
fn exemplar(text: &str) -> Option<Exemplar> {
    let (id, rest) = text.split_once("\"} ")?;
    let (value, time) = rest.split_once(' ')?;
    let id = u128::from_str_radix(id, 16).ok()?;
    Some(Exemplar {
        trace_id: id.to_be_bytes().to_vec(),
        time_unix_nano: ns(Duration::try_from_secs_f64(time.parse().ok()?).ok()?),
        value: Some(exemplar::Value::AsDouble(value.parse().ok()?)),
        ..Exemplar::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_messages() {
        let page = "\
# HELP x_requests Requests, by name.
# TYPE x_requests counter
x_requests_total{name=\"a\\\"b\\\\c\\nd\",status=\"2xx\"} 7
x_requests_total{name=\"\",status=\"4xx\"} 0
# HELP x_open Open now.
# TYPE x_open gauge
x_open 3.5
# HELP x_took_seconds Time.
# TYPE x_took_seconds histogram
x_took_seconds_bucket{site=\"a\",le=\"0.01\"} 2
x_took_seconds_bucket{site=\"a\",le=\"0.1\"} 5 # {trace_id=\"000000000000000000000000000000ff\"} 0.05 1000.250
x_took_seconds_bucket{site=\"a\",le=\"+Inf\"} 6
x_took_seconds_sum{site=\"a\"} 2.5
x_took_seconds_count{site=\"a\"} 6
# EOF
";
        let metrics = metrics(page, 1, 2);
        let names: Vec<&str> = metrics.iter().map(|metric| &*metric.name).collect();
        assert_eq!(names, ["x_requests_total", "x_open", "x_took_seconds"]);
        let [requests, open, took] = &metrics[..] else { panic!("{metrics:?}") };
        let Some(metric::Data::Sum(sum)) = &requests.data else { panic!("{requests:?}") };
        assert!(sum.is_monotonic && sum.data_points.len() == 2);
        let first = &sum.data_points[0];
        assert_eq!(first.attributes, [text("name", "a\"b\\c\nd"), text("status", "2xx")]);
        assert_eq!(first.value, Some(number_data_point::Value::AsDouble(7.0)));
        assert_eq!((first.start_time_unix_nano, first.time_unix_nano), (1, 2));
        let Some(metric::Data::Gauge(gauge)) = &open.data else { panic!("{open:?}") };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(3.5)));
        let Some(metric::Data::Histogram(histogram)) = &took.data else { panic!("{took:?}") };
        let [point] = &histogram.data_points[..] else { panic!("{histogram:?}") };
        assert_eq!((&point.bucket_counts[..], point.count), (&[2, 3, 1][..], 6));
        assert_eq!((&point.explicit_bounds[..], point.sum), (&[0.01, 0.1][..], Some(2.5)));
        assert_eq!((took.unit.as_str(), &point.attributes[..]), ("s", &[text("site", "a")][..]));
        let [exemplar] = &point.exemplars[..] else { panic!("{point:?}") };
        assert_eq!(exemplar.trace_id, 255_u128.to_be_bytes());
        assert_eq!(exemplar.time_unix_nano, 1_000_250_000_000);
    }
}
