//! The Prometheus text format, version 0.0.4: heads, labels, values.
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write as _};

use crate::Histogram;

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

/// A page of metrics whose names begin alike.
#[derive(Debug)]
pub struct Page {
    prefix: &'static str,
    text: String,
}

/// A metric of a page, to which lines are added.
#[derive(Debug)]
pub struct Series<'p> {
    page: &'p mut Page,
    name: &'p str,
}

impl Page {
    /// The content type of the text.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// An empty page; `prefix` stands before each name, with its `_`.
    pub fn new(prefix: &'static str) -> Page {
        Page { prefix, text: String::with_capacity(8 * 1024) }
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
        let mut counts = vec![0; N + 1];
        let mut sum_ns = 0_u64;
        for part in parts {
            sum_ns = sum_ns.wrapping_add(part.sum_ns());
            for (total, count) in counts.iter_mut().zip(part.counts()) {
                *total += count;
            }
        }
        let mut so_far = 0;
        for (bound, count) in bounds.iter().chain([&"+Inf"]).zip(counts) {
            so_far += count;
            self.line(&format!("{name}_bucket"), &[("le", bound)], so_far);
        }
        self.line(&format!("{name}_sum"), &[], Seconds(sum_ns));
        self.line(&format!("{name}_count"), &[], so_far);
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }

    // Writing to a String cannot fail, here and below.
    fn head(&mut self, sort: &str, name: &str, help: &str) {
        let prefix = self.prefix;
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
}
