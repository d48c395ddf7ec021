//! The last hour of each service, from what its gates report: in memory, a point a minute.
//!
//! A report covers about a minute and comes every few seconds, so a minute's point is the mean of what
//! was heard in it. Where no gate was heard there is no point: that is not "no requests".

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use keepgate_limit::top::Heard;

use super::chart::MINUTES;
use crate::api::App;

/// Services that are remembered; beyond, nothing is known of one.
const SERVICES: usize = 1_000;

/// How often a sample is taken.
pub(crate) const EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// What a service does in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    requests: f64,
    /// Limited, denied, not decided: never added up. None: a gate does not tell.
    outcomes: Option<[f64; 3]>,
}

/// The mean of some samples.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    minute: u64,
    samples: u32,
    requests: f64,
    /// Samples that have outcomes, and their sums.
    telling: u32,
    outcomes: [f64; 3],
}

type Ring = [Mean; MINUTES];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Trends(Mutex<HashMap<String, Box<Ring>>>);

/// What is known of the last hour, the newest last.
#[derive(Clone, Debug)]
pub(crate) struct Hour {
    pub(crate) requests: Vec<Option<f64>>,
    pub(crate) limited: Vec<Option<f64>>,
    pub(crate) denied: Vec<Option<f64>>,
    pub(crate) undecided: Vec<Option<f64>>,
}

impl Hour {
    /// About how many of a measure there were, as far as it is known; none: nothing is.
    pub(crate) fn sum(points: &[Option<f64>]) -> Option<u64> {
        let mut known = points.iter().flatten().peekable();
        known.peek()?;
        let sum = known.map(|rate| rate * 60.0).sum::<f64>().max(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 0")]
        let sum = sum.round() as u64;
        Some(sum)
    }
}

impl Trends {
    /// Takes a sample of each service.
    pub(crate) fn sample(&self, app: &App, now_unix_s: u64) {
        let head = app.desk.head();
        for service in head.services.keys().take(SERVICES) {
            let mut heard = app.followers.activities().of(service, std::time::Instant::now());
            heard.extend(app.neighbors.reports(service));
            if !heard.is_empty() {
                self.add(service, rates(&heard), now_unix_s);
            }
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|service, _| head.services.contains_key(service));
    }

    fn add(&self, service: &str, rates: Rates, now_unix_s: u64) {
        let minute = now_unix_s / 60;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.contains_key(service) {
            if held.len() >= SERVICES {
                return;
            }
            held.insert(service.to_owned(), Box::new([Mean::default(); MINUTES]));
        }
        let at = usize::try_from(minute % MINUTES as u64).unwrap_or_default();
        let Some(mean) = held.get_mut(service).and_then(|ring| ring.get_mut(at)) else { return };
        if mean.minute != minute {
            *mean = Mean { minute, ..Mean::default() };
        }
        mean.samples += 1;
        mean.requests += rates.requests;
        if let Some(outcomes) = rates.outcomes {
            mean.telling += 1;
            for (sum, rate) in mean.outcomes.iter_mut().zip(outcomes) {
                *sum += rate;
            }
        }
    }

    /// The last hour of a service.
    pub(crate) fn hour(&self, service: &str, now_unix_s: u64) -> Hour {
        let newest = now_unix_s / 60;
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = held.get(service);
        let point = |ago: u64| {
            let minute = newest.checked_sub(ago)?;
            let at = usize::try_from(minute % MINUTES as u64).ok()?;
            let mean = ring?.get(at).filter(|mean| mean.minute == minute && mean.samples > 0)?;
            let outcomes =
                (mean.telling > 0).then(|| mean.outcomes.map(|sum| sum / f64::from(mean.telling)));
            Some(Rates { requests: mean.requests / f64::from(mean.samples), outcomes })
        };
        let mut points: Vec<Option<Rates>> = (0..MINUTES as u64).rev().map(point).collect();
        // A minute that has just begun has no sample yet: the one before is as new.
        if let [.., before, last @ None] = points.as_mut_slice() {
            *last = *before;
        }
        let outcome = |of: usize| {
            let each = points.iter().map(|point| point.as_ref()?.outcomes?.get(of).copied());
            each.collect()
        };
        Hour {
            limited: outcome(0),
            denied: outcome(1),
            undecided: outcome(2),
            requests: points.iter().map(|point| point.map(|rates| rates.requests)).collect(),
        }
    }
}

/// What all gates together report.
fn rates(heard: &[Heard]) -> Rates {
    let mut sum = Rates { requests: 0.0, outcomes: Some([0.0; 3]) };
    for Heard { report, .. } in heard {
        let seconds = report.seconds.max(1.0);
        sum.requests += report.requests as f64 / seconds;
        sum.outcomes = sum.outcomes.zip(report.outcomes).map(|(sums, outcomes)| {
            let [limited, denied, undecided] = sums;
            [
                limited + outcomes.limited as f64 / seconds,
                denied + outcomes.denied as f64 / seconds,
                undecided + outcomes.undecided as f64 / seconds,
            ]
        });
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_the_mean_of_its_samples_and_an_hour_is_kept() {
        let trends = Trends::default();
        let now = 60 * 1_000_000;
        let rates = |requests: f64| Rates { requests, outcomes: Some([requests / 2.0, 0.0, 1.0]) };
        trends.add("a", rates(10.0), now);
        trends.add("a", rates(20.0), now + 10);
        trends.add("a", rates(4.0), now + 120);
        let hour = trends.hour("a", now + 125);
        assert_eq!(hour.requests.len(), MINUTES);
        assert_eq!(hour.requests[MINUTES - 3..], [Some(15.0), None, Some(4.0)]);
        assert_eq!(hour.limited[MINUTES - 3..], [Some(7.5), None, Some(2.0)]);
        assert_eq!(hour.undecided[MINUTES - 3..], [Some(1.0), None, Some(1.0)]);
        assert_eq!(Hour::sum(&hour.requests), Some(19 * 60));
        // A minute that has just begun, and one that nobody was heard in.
        assert_eq!(trends.hour("a", now + 181).requests[MINUTES - 1], Some(4.0));
        assert_eq!(trends.hour("a", now + 241).requests[MINUTES - 1], None);
        // A gate that does not tell what came of its requests.
        trends.add("c", Rates { requests: 3.0, outcomes: None }, now);
        let hour = trends.hour("c", now);
        assert_eq!((hour.requests[MINUTES - 1], hour.denied[MINUTES - 1]), (Some(3.0), None));
        // After an hour all of it is gone.
        assert_eq!(Hour::sum(&trends.hour("a", now + 2 * 3_600).requests), None);
        assert_eq!(Hour::sum(&trends.hour("b", now).requests), None);
    }

    #[test]
    fn services_are_bounded() {
        let trends = Trends::default();
        for n in 0..=SERVICES {
            trends.add(&format!("s{n}"), Rates::default(), 0);
        }
        assert_eq!(trends.0.lock().unwrap().len(), SERVICES);
    }
}
