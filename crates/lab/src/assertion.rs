//! Thresholds over a report, for CI: one a line, `[ARM.]METRIC OPERATOR NUMBER`.
//!
//! ```text
//! wrong_403 = 0            # of the arm `keepgate` when none is named
//! reuse_ratio >= 0.999
//! naive.wrong_403 > 0
//! ```
//! Metrics are the fields of [`crate::report::Summary`]; a metric that an arm does not have
//! (it never ran out of ports, say) fails the line, it does not pass it.

use crate::{Arm, LabReport};

/// One line of a file of thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Of which arm.
    pub arm: Arm,
    /// Which figure.
    pub metric: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub bound: f64,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `>`
    Above,
}

/// A line that is no threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for LineError {}

/// How one threshold came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The threshold.
    pub threshold: Threshold,
    /// The figure; none where the report has none.
    pub found: Option<f64>,
    /// Whether it holds.
    pub holds: bool,
}

impl Operator {
    fn parse(text: &str) -> Option<Operator> {
        Some(match text {
            "=" | "==" => Operator::Equal,
            "<=" => Operator::AtMost,
            ">=" => Operator::AtLeast,
            "<" => Operator::Below,
            ">" => Operator::Above,
            _ => return None,
        })
    }

    /// As it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Operator::Equal => "=",
            Operator::AtMost => "<=",
            Operator::AtLeast => ">=",
            Operator::Below => "<",
            Operator::Above => ">",
        }
    }

    fn holds(self, found: f64, bound: f64) -> bool {
        match self {
            Operator::Equal => (found - bound).abs() < f64::EPSILON,
            Operator::AtMost => found <= bound,
            Operator::AtLeast => found >= bound,
            Operator::Below => found < bound,
            Operator::Above => found > bound,
        }
    }
}

/// Reads thresholds; `#` begins a comment.
///
/// # Errors
/// The first line that is none.
pub fn parse(text: &str) -> Result<Vec<Threshold>, LineError> {
    let known = crate::report::ArmReport::new(Arm::Keepgate).metric_names();
    let mut thresholds = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line_error = |reason: String| LineError { line: index + 1, reason };
        let words: Vec<&str> =
            line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let (name, operator, bound) = match words.as_slice() {
            [] => continue,
            [name, operator, bound] => (*name, *operator, *bound),
            _ => {
                return Err(line_error(format!(
                    "expected METRIC OPERATOR NUMBER, got `{}`",
                    line.trim()
                )));
            }
        };
        let (arm, metric) = name.split_once('.').unwrap_or(("keepgate", name));
        if !known.iter().any(|known| known == metric) {
            return Err(line_error(format!(
                "unknown metric `{metric}`; the metrics are {}",
                known.join(", ")
            )));
        }
        thresholds.push(Threshold {
            arm: arm.parse().map_err(line_error)?,
            metric: metric.to_owned(),
            operator: Operator::parse(operator).ok_or_else(|| {
                line_error(format!("expected one of = <= >= < >, got `{operator}`"))
            })?,
            bound: bound
                .parse()
                .map_err(|_| line_error(format!("expected a number, got `{bound}`")))?,
        });
    }
    Ok(thresholds)
}

/// Holds the thresholds against a report.
pub fn check(thresholds: &[Threshold], report: &LabReport) -> Vec<Outcome> {
    thresholds
        .iter()
        .map(|threshold| {
            let found = report
                .arm(threshold.arm)
                .and_then(|arm| arm.metrics().get(&threshold.metric).copied());
            let holds = found.is_some_and(|found| threshold.operator.holds(found, threshold.bound));
            Outcome { threshold: threshold.clone(), found, holds }
        })
        .collect()
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Threshold { arm, metric, operator, bound } = &self.threshold;
        let found = self.found.map_or("no figure".to_owned(), |found| format!("{found}"));
        let word = if self.holds { "ok  " } else { "FAIL" };
        write!(f, "{word} {arm}.{metric} {} {bound}: {found}", operator.symbol())
    }
}
