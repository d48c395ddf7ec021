//! Charts: one measure each, drawn by the server, with its own scale and a table beside it.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::part::rate;
use super::text::Lang;
use crate::hour::MINUTES;

/// A minute of each is a point; none: it is not known.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    /// The class of its color.
    pub(crate) class: &'static str,
    /// Per second; the newest is last.
    pub(crate) points: &'a [Option<f64>],
    /// One line beneath the title.
    pub(crate) note: &'a str,
}

const LEFT: f64 = 30.0;
const RIGHT: f64 = 280.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 76.0;

/// The least round number that is not smaller.
fn top_of(highest: f64) -> f64 {
    let mut top = 0.25;
    for factor in [2.0, 2.0, 2.5].into_iter().cycle().take(60) {
        if top >= highest {
            break;
        }
        top *= factor;
    }
    top
}

impl Chart<'_> {
    fn x(at: usize) -> f64 {
        LEFT + (RIGHT - LEFT) * at as f64 / (MINUTES - 1) as f64
    }

    fn y(value: f64, top: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * (value / top).clamp(0.0, 1.0)
    }

    /// Stretches of what is known; where nothing is known there is no line.
    fn stretches(&self) -> Vec<Vec<(usize, f64)>> {
        let mut all: Vec<Vec<(usize, f64)>> = Vec::new();
        let mut open = false;
        for (at, point) in self.points.iter().enumerate() {
            match (point, all.last_mut().filter(|_| open)) {
                (Some(value), Some(last)) => last.push((at, *value)),
                (Some(value), None) => {
                    all.push(vec![(at, *value)]);
                    open = true;
                }
                (None, _) => open = false,
            }
        }
        all
    }

    pub(crate) fn show(&self, t: Lang) -> Markup {
        let known = self.points.iter().flatten();
        let highest = known.clone().fold(0.0_f64, |most, value| most.max(*value));
        let now = self.points.last().copied().flatten();
        let top = top_of(highest);
        let label = match now {
            Some(now) => t.chart_label(self.title, rate(highest), rate(now)),
            None => t.chart_label(self.title, rate(highest), t.not_known()),
        };
        let points = |stretch: &[(usize, f64)]| {
            let mut text = String::new();
            for (at, value) in stretch {
                let _ = write!(text, "{:.1},{:.1} ", Self::x(*at), Self::y(*value, top));
            }
            text
        };
        let (zero, middle) = (BOTTOM, f64::midpoint(TOP, BOTTOM));
        html! {
            figure {
                figcaption {
                    span { (self.title) }
                    @match now {
                        Some(now) => span class="now" { (rate(now)) i { (t.per_second()) } },
                        None => span class="now unknown" { (t.not_known()) },
                    }
                    small { (self.note) }
                }
                svg class={ "chart " (self.class) } viewBox="0 0 280 92" role="img"
                    aria-label=(label) {
                    path class="grid" d={
                        "M" (LEFT) " " (TOP) "H" (RIGHT) "M" (LEFT) " " (middle) "H" (RIGHT)
                        "M" (LEFT) " " (zero) "H" (RIGHT)
                    } {}
                    text x="24" y="12" text-anchor="end" { (top) }
                    text x="24" y="79" text-anchor="end" { "0" }
                    @for stretch in self.stretches() {
                        @if let (Some(first), Some(last)) = (stretch.first(), stretch.last()) {
                            polygon class="area" points={
                                (format!("{:.1}", Self::x(first.0))) "," (zero) " "
                                (points(&stretch))
                                (format!("{:.1}", Self::x(last.0))) "," (zero)
                            } {}
                            polyline class="l" points=(points(&stretch)) {}
                            circle class="dot" cx=(format!("{:.1}", Self::x(last.0)))
                                cy=(format!("{:.1}", Self::y(last.1, top))) r="2.6" {}
                        }
                    }
                    text x="30" y="91" { (t.an_hour_ago()) }
                    text x="280" y="91" text-anchor="end" { (t.now()) }
                }
                details class="data" {
                    summary { (t.as_table()) span class="sr" { ": " (self.title) } }
                    table {
                        thead {
                            tr {
                                th scope="col" { (t.when()) }
                                th scope="col" class="n" { (t.per_second_long()) }
                            }
                        }
                        tbody {
                            @for ago in (0..MINUTES).rev().filter(|ago| ago % 10 == 0 || *ago == 59) {
                                @let value = self.points.iter().rev().nth(ago).copied().flatten();
                                tr {
                                    th scope="row" { (t.minutes_ago(ago)) }
                                    td class="n" {
                                        @match value {
                                            Some(value) => (rate(value)),
                                            None => (super::part::unknown(t)),
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A small line in a table; nothing where nothing is known.
pub(crate) fn spark(points: &[Option<f64>]) -> Markup {
    let highest = points.iter().flatten().fold(0.0_f64, |most, value| most.max(*value));
    let mut text = String::new();
    for (at, value) in points.iter().enumerate() {
        if let Some(value) = value {
            let x = 1.0 + 98.0 * at as f64 / (MINUTES - 1) as f64;
            let y = if highest > 0.0 { 19.0 - 17.0 * value / highest } else { 19.0 };
            let _ = write!(text, "{x:.1},{y:.1} ");
        }
    }
    html! {
        svg class="spark c-data" width="100" height="20" viewBox="0 0 100 20" aria-hidden="true" {
            polyline class="l" points=(text) {}
        }
    }
}

/// A share of a whole as a bar.
pub(crate) fn meter(label: &str, part: f64) -> Markup {
    let width = format!("{:.1}", 176.0 * part.clamp(0.0, 1.0));
    html! {
        div class="meter s" {
            svg class="c-data" role="img" aria-label=(label) viewBox="0 0 176 8"
                preserveAspectRatio="none" {
                rect class="bar-bg" x=".5" y=".5" width="175" height="7" rx="2" {}
                rect class="bar" width=(width) height="8" rx="2" {}
            }
            small { (label) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_gap() {
        let points = [Some(1.0), None, Some(2.0), Some(0.0)];
        let chart = Chart { title: "t", class: "c-data", points: &points, note: "" };
        assert_eq!(chart.stretches(), [vec![(0, 1.0)], vec![(2, 2.0), (3, 0.0)]]);
        for (highest, top) in [(0.0, 0.25), (0.3, 0.5), (3.0, 5.0), (41.0, 50.0), (1e9, 1e9)] {
            assert!((top_of(highest) - top).abs() < 1e-6 || top_of(highest) >= highest);
        }
    }
}
