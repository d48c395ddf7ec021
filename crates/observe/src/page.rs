//! The Prometheus text format, version 0.0.4, and OpenMetrics 1.0: heads, labels, values. Only
//! OpenMetrics has exemplars; whoever asks for it gets it.
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/> and
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::fmt::{Display, Write as _};

use crate::{Exemplar, Histogram, Timing};

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Goes up, and starts at zero with the program.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
        }
    }
}

/// How a page is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The Prometheus text format, version 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0, which has exemplars.
    OpenMetrics,
}

impl Dialect {
    /// What the `Accept` of a request asks for, of which each element counts: OpenMetrics where it is
    /// named and not excluded (`q=0`).
    pub fn asked<'a>(accept: impl IntoIterator<Item = &'a str>) -> Dialect {
        let is_open = |element: &str| {
            let mut parts = element.split(';').map(str::trim);
            let is_named = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
            let is_excluded = parts
                .filter_map(|part| part.strip_prefix("q="))
                .any(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0));
            is_named && !is_excluded
        };
        match accept.into_iter().flat_map(|line| line.split(',')).any(is_open) {
            true => Dialect::OpenMetrics,
            false => Dialect::Prometheus,
        }
    }

    /// The content type of a page.
    pub fn content_type(self) -> &'static str {
        match self {
            Dialect::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Dialect::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A page of metrics whose names begin alike.
#[derive(Debug)]
pub struct Page {
    dialect: Dialect,
    prefix: &'static str,
    text: String,
}

/// One series of histograms: its labels, and its parts, which are added up.
pub type TimingSeries<'t, const N: usize> = (&'t [(&'t str, &'t str)], &'t [&'t Timing<N>]);

/// A metric of a page, to which lines are added.
#[derive(Debug)]
pub struct Series<'p> {
    page: &'p mut Page,
    name: &'p str,
}

impl Page {
    /// An empty page in the Prometheus text format; `prefix` stands before each name, with its `_`.
    pub fn new(prefix: &'static str) -> Page {
        Page::written(prefix, Dialect::Prometheus)
    }

    /// As [`Page::new`], in this dialect.
    pub fn written(prefix: &'static str, dialect: Dialect) -> Page {
        Page { dialect, prefix, text: String::with_capacity(8 * 1024) }
    }

    /// Begins a metric; its lines follow. `help` is one line.
    pub fn metric<'p>(&'p mut self, sort: Sort, name: &'p str, help: &str) -> Series<'p> {
        self.head(sort.name(), name, help);
        Series { page: self, name }
    }

    /// A metric of one line without labels.
    pub fn value(&mut self, sort: Sort, name: &str, help: &str, value: impl Display) {
        self.metric(sort, name, help).line(&[], value);
    }

    /// A metric of durations in seconds, added up over several histograms. The label of each bound
    /// is written by the caller: it is part of a series' name and may not change with formatting.
    pub fn histogram<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[&str; N],
        parts: &[&Histogram<N>],
    ) {
        self.head("histogram", name, help);
        self.buckets(name, &[], bounds, parts, &[]);
    }

    /// As [`Page::histogram`], for several series: the labels of each, which come before `le`, and
    /// its parts.
    pub fn timings<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[&str; N],
        series: &[TimingSeries<'_, N>],
    ) {
        self.head("histogram", name, help);
        for (labels, parts) in series {
            let histograms: Vec<_> = parts.iter().map(|part| &part.histogram).collect();
            let mut newest: Vec<Option<Exemplar>> = Vec::new();
            if self.dialect == Dialect::OpenMetrics {
                newest.resize(N + 1, None);
                for part in *parts {
                    for (place, other) in newest.iter_mut().zip(part.exemplars()) {
                        if other.map(|other| other.unix_ms) > place.map(|held| held.unix_ms) {
                            *place = other;
                        }
                    }
                }
            }
            self.buckets(name, labels, bounds, &histograms, &newest);
        }
    }

    fn buckets<const N: usize>(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[&str; N],
        parts: &[&Histogram<N>],
        exemplars: &[Option<Exemplar>],
    ) {
        let mut counts = vec![0; N + 1];
        let mut sum_ns = 0_u64;
        for part in parts {
            sum_ns = sum_ns.wrapping_add(part.sum_ns());
            for (total, count) in counts.iter_mut().zip(part.counts()) {
                *total += count;
            }
        }
        let mut so_far = 0;
        let mut exemplars = exemplars.iter();
        for (bound, count) in bounds.iter().chain([&"+Inf"]).zip(counts) {
            so_far += count;
            let labels = [labels, &[("le", *bound)]].concat();
            let line = format!("{name}_bucket");
            match exemplars.next() {
                Some(Some(Exemplar { trace_id, ns, unix_ms })) => {
                    let (ns, s, ms) = (Seconds(*ns), unix_ms / 1_000, unix_ms % 1_000);
                    let value = format!("{so_far} # {{trace_id=\"{trace_id}\"}} {ns} {s}.{ms:03}");
                    self.line(&line, &labels, value);
                }
                _ => self.line(&line, &labels, so_far),
            }
        }
        self.line(&format!("{name}_sum"), labels, Seconds(sum_ns));
        self.line(&format!("{name}_count"), labels, so_far);
    }

    /// The text.
    pub fn finish(mut self) -> String {
        if self.dialect == Dialect::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    // Writing to a String cannot fail, here and below.
    fn head(&mut self, sort: &str, name: &str, help: &str) {
        let prefix = self.prefix;
        // OpenMetrics names the family, which lacks the ending of its samples.
        let name = match (self.dialect, sort) {
            (Dialect::OpenMetrics, "counter") => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let _ = writeln!(self.text, "# HELP {prefix}{name} {help}\n# TYPE {prefix}{name} {sort}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{name}", self.prefix);
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", Escaped(value));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

impl Series<'_> {
    /// A line of this metric; labels in the order given.
    pub fn line(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.page.line(self.name, labels, value);
    }
}

/// A label's value: backslash, quote and line feed are escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Nanoseconds shown as seconds, exactly.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_text_format() {
        let mut page = Page::new("x_");
        page.value(Sort::Gauge, "open", "Open now.", 3);
        let mut requests = page.metric(Sort::Counter, "requests_total", "Requests, by name.");
        requests.line(&[("name", "a\"b\\c\nd"), ("status", "2xx")], 7);
        requests.line(&[("name", ""), ("status", "4xx")], 0);
        let (one, two) = (Histogram::default(), Histogram::default());
        for (histogram, ns) in [(&one, 5), (&one, 50), (&two, 5), (&two, 2_000_000_000)] {
            histogram.note(&[10, 100], Duration::from_nanos(ns));
        }
        page.histogram("took_seconds", "Time.", &["0.00000001", "0.0000001"], &[&one, &two]);
        expect_test::expect![[r#"
            # HELP x_open Open now.
            # TYPE x_open gauge
            x_open 3
            # HELP x_requests_total Requests, by name.
            # TYPE x_requests_total counter
            x_requests_total{name="a\"b\\c\nd",status="2xx"} 7
            x_requests_total{name="",status="4xx"} 0
            # HELP x_took_seconds Time.
            # TYPE x_took_seconds histogram
            x_took_seconds_bucket{le="0.00000001"} 2
            x_took_seconds_bucket{le="0.0000001"} 3
            x_took_seconds_bucket{le="+Inf"} 4
            x_took_seconds_sum 2.000000060
            x_took_seconds_count 4
        "#]]
        .assert_eq(&page.finish());
    }

    #[test]
    fn open_metrics_has_exemplars_and_an_end() {
        let (one, two) = (Timing::default(), Timing::default());
        let bounds = [10, 100];
        one.note(&bounds, Duration::from_nanos(5), None);
        two.note(&bounds, Duration::from_nanos(50), Some(crate::trace::TraceId([0xab; 16])));
        let page = |dialect| {
            let mut page = Page::written("x_", dialect);
            page.value(Sort::Counter, "requests_total", "Requests.", 2);
            let series: &[TimingSeries<'_, 2>] = &[(&[("site", "a")], &[&one, &two])];
            page.timings("took_seconds", "Time.", &["0.00000001", "0.0000001"], series);
            page.finish()
        };
        let when = two.exemplars()[1].unwrap().unix_ms;
        let when = format!("{}.{:03}", when / 1_000, when % 1_000);
        expect_test::expect![[r#"
            # HELP x_requests Requests.
            # TYPE x_requests counter
            x_requests_total 2
            # HELP x_took_seconds Time.
            # TYPE x_took_seconds histogram
            x_took_seconds_bucket{site="a",le="0.00000001"} 1
            x_took_seconds_bucket{site="a",le="0.0000001"} 2 # {trace_id="abababababababababababababababab"} 0.000000050 WHEN
            x_took_seconds_bucket{site="a",le="+Inf"} 2
            x_took_seconds_sum{site="a"} 0.000000055
            x_took_seconds_count{site="a"} 2
            # EOF
        "#]]
        .assert_eq(&page(Dialect::OpenMetrics).replace(&when, "WHEN"));
        let plain = page(Dialect::Prometheus);
        assert!(!plain.contains("abab") && !plain.contains("EOF"), "{plain}");
        assert!(plain.contains("# TYPE x_requests_total counter\n"), "{plain}");
    }

    #[test]
    fn open_metrics_is_for_those_who_ask() {
        let of_prometheus = "application/openmetrics-text;version=1.0.0,\
                             application/openmetrics-text;version=0.0.1;q=0.75,\
                             text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Dialect::asked([of_prometheus]), Dialect::OpenMetrics);
        assert_eq!(Dialect::asked(["*/*", "Application/OpenMetrics-Text"]), Dialect::OpenMetrics);
        for other in ["", "*/*", "text/plain", "application/openmetrics-text; q=0.0, text/plain"] {
            assert_eq!(Dialect::asked([other]), Dialect::Prometheus, "{other}");
        }
        assert_eq!(Dialect::asked([]), Dialect::Prometheus);
    }
}
