//! What gates last said about who makes the requests: kept in memory, one report a follower
//! and service.
//!
//! A report is kept as the bytes that came, after they were read once, so that memory is what is
//! counted here; whoever asks has them read and merged again. It is forgotten with its
//! follower's stream, and is not told any more when it is old.
//!
//! INVARIANT: whatever a follower sends, its stream goes on: what does not fit is dropped and counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keepgate_limit::top::{Heard, Malformed, TopReport};

/// A report older than this says nothing about now.
pub(crate) const FORGOTTEN: Duration = Duration::from_secs(30);
/// Bytes of one report.
pub(crate) const REPORT_BYTES: usize = 64 << 10;
/// Reports kept at once.
const REPORTS: usize = 16_384;
/// Bytes of one follower's, about all its services: with this many there is room for sixteen of the
/// greediest.
const FOLLOWER_BYTES: usize = 4 << 20;
/// Bytes of all that are kept.
const ALL_BYTES: usize = 64 << 20;

/// Why a report is dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Dropped {
    #[error("expected at most {REPORT_BYTES} bytes, got {0}")]
    Size(usize),
    #[error("the report is about a service that this connection does not follow")]
    Service,
    #[error("the report does not decode")]
    Json(#[from] serde_json::Error),
    #[error("the report is malformed")]
    Malformed(#[from] Malformed),
    #[error("too many reports are kept already")]
    Full,
}

/// Reports by the follower's connection number and the service.
#[derive(Debug, Default)]
pub(crate) struct Activities(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    by_follower: BTreeMap<(u64, String), Told>,
}

#[derive(Clone, Debug)]
struct Told {
    report: Bytes,
    at: Instant,
}

impl Kept {
    fn remove(&mut self, key: &(u64, String)) {
        if let Some(told) = self.by_follower.remove(key) {
            self.bytes -= told.report.len();
        }
    }

    fn forget(&mut self, follower: u64) {
        let keys: Vec<_> = self.of(follower).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// What one follower has said.
    fn of(&self, follower: u64) -> impl Iterator<Item = (&(u64, String), &Told)> {
        let from = (follower, String::new());
        self.by_follower.range(from..).take_while(move |((of, _), _)| *of == follower)
    }

    fn forget_old(&mut self, now: Instant) {
        self.by_follower.retain(|_, told| now.saturating_duration_since(told.at) <= FORGOTTEN);
        self.bytes = self.by_follower.values().map(|told| told.report.len()).sum();
    }
}

/// Reads a report.
pub(crate) fn read(bytes: &[u8]) -> Result<TopReport, Dropped> {
    if bytes.len() > REPORT_BYTES {
        return Err(Dropped::Size(bytes.len()));
    }
    let report: TopReport = serde_json::from_slice(bytes)?;
    report.check()?;
    Ok(report)
}

impl Activities {
    /// Keeps a report in place of the follower's last about that service.
    pub(crate) fn keep(
        &self,
        follower: u64,
        service: &str,
        bytes: Vec<u8>,
        now: Instant,
    ) -> Result<(), Dropped> {
        read(&bytes)?;
        let (key, told) =
            ((follower, service.to_owned()), Told { report: Bytes::from(bytes), at: now });
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(&key);
        let own: usize = kept.of(follower).map(|(_, told)| told.report.len()).sum();
        if own + told.report.len() > FOLLOWER_BYTES {
            return Err(Dropped::Full);
        }
        let fits = |kept: &Kept| {
            kept.by_follower.len() < REPORTS && kept.bytes + told.report.len() <= ALL_BYTES
        };
        if !fits(&kept) {
            kept.forget_old(now);
        }
        if !fits(&kept) {
            return Err(Dropped::Full);
        }
        kept.bytes += told.report.len();
        kept.by_follower.insert(key, told);
        Ok(())
    }

    /// Forgets a follower's reports.
    pub(crate) fn forget(&self, follower: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).forget(follower);
    }

    /// All reports that are not old, of followers and services that are `wanted`, as they came.
    pub(crate) fn each(
        &self,
        now: Instant,
        wanted: impl Fn(u64, &str) -> bool,
    ) -> Vec<(String, Bytes)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = kept.by_follower.iter().filter(|((follower, service), told)| {
            now.saturating_duration_since(told.at) <= FORGOTTEN && wanted(*follower, service)
        });
        fresh.map(|((_, service), told)| (service.clone(), told.report.clone())).collect()
    }

    /// All reports that are not old: of which service, their ages, and as they came.
    pub(crate) fn all(&self, now: Instant) -> Vec<(String, Duration, Bytes)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = kept.by_follower.iter().map(|((_, service), told)| {
            (service.clone(), now.saturating_duration_since(told.at), told.report.clone())
        });
        each.filter(|(_, age, _)| *age <= FORGOTTEN).collect()
    }

    /// The reports about a service that are not old, with their ages. Reading them takes a while.
    pub(crate) fn of(&self, service: &str, now: Instant) -> Vec<Heard> {
        let told: Vec<Told> = {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let of = kept.by_follower.iter().filter(|((_, name), _)| name == service);
            of.map(|(_, told)| told)
                .filter(|told| now.saturating_duration_since(told.at) <= FORGOTTEN)
                .cloned()
                .collect()
        };
        let heard = |told: Told| {
            let age = now.saturating_duration_since(told.at).as_millis();
            let age_ms = u64::try_from(age).unwrap_or(u64::MAX);
            Some(Heard { report: read(&told.report).ok()?, age_ms })
        };
        told.into_iter().filter_map(heard).collect()
    }
}

#[cfg(test)]
mod tests {
    use keepgate_limit::top::Top;
    use keepgate_limit::{Nanos, Seed};

    use super::*;

    fn report() -> Vec<u8> {
        let top = Top::new(Seed::new([0; 16]), 1, 8, Duration::from_secs(60));
        serde_json::to_vec(&top.report(Nanos::new(0), 20, None)).unwrap()
    }

    fn ages(kept: &Activities, now: Instant) -> Vec<u64> {
        kept.of("a", now).iter().map(|heard| heard.age_ms).collect()
    }

    #[test]
    fn the_last_report_counts_until_it_is_old_or_its_follower_goes() {
        let kept = Activities::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        kept.keep(1, "a", report(), at(0)).unwrap();
        kept.keep(1, "a", report(), at(10_000)).unwrap();
        kept.keep(2, "a", report(), at(11_000)).unwrap();
        kept.keep(3, "b", report(), at(11_000)).unwrap();
        assert_eq!(ages(&kept, at(12_000)), [2_000, 1_000]);
        kept.forget(2);
        assert_eq!(ages(&kept, at(40_000)), [30_000]);
        assert!(ages(&kept, at(40_001)).is_empty());
        kept.forget(1);
        kept.forget(3);
        assert_eq!(kept.0.lock().unwrap().bytes, 0);
    }

    #[test]
    fn a_follower_of_several_services_has_a_report_about_each() {
        let kept = Activities::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (service, ms) in [("a", 0), ("b", 1_000), ("c", 2_000)] {
            kept.keep(1, service, report(), at(ms)).unwrap();
        }
        kept.keep(2, "b", report(), at(2_000)).unwrap();
        kept.keep(1, "a", report(), at(2_500)).unwrap();
        let ages = |service| -> Vec<u64> {
            kept.of(service, at(3_000)).iter().map(|heard| heard.age_ms).collect()
        };
        assert_eq!((ages("a"), ages("b"), ages("c")), (vec![500], vec![2_000, 1_000], vec![1_000]));
        kept.forget(1);
        assert_eq!((ages("a"), ages("b"), ages("c")), (vec![], vec![1_000], vec![]));
        kept.forget(2);
        assert_eq!(kept.0.lock().unwrap().bytes, 0);
    }

    /// However much one follower says, others find a place.
    #[test]
    fn a_follower_has_a_part_of_the_room() {
        let kept = Activities::default();
        let now = Instant::now();
        let mut padded = report();
        padded.resize(REPORT_BYTES, b' ');
        let most = FOLLOWER_BYTES / REPORT_BYTES;
        for n in 0..most {
            kept.keep(1, &format!("s{n}"), padded.clone(), now).unwrap();
        }
        assert!(matches!(kept.keep(1, "more", padded.clone(), now), Err(Dropped::Full)));
        // In place of its own, and by another.
        kept.keep(1, "s0", padded.clone(), now).unwrap();
        kept.keep(2, "more", padded, now).unwrap();
        const { assert!(ALL_BYTES >= 16 * FOLLOWER_BYTES) };
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_old_makes_room() {
        let kept = Activities::default();
        let start = Instant::now();
        for follower in 0..REPORTS as u64 {
            kept.keep(follower, "a", report(), start).unwrap();
        }
        assert!(matches!(kept.keep(u64::MAX, "a", report(), start), Err(Dropped::Full)));
        // Its own place is its own.
        kept.keep(7, "a", report(), start).unwrap();
        let later = start + FORGOTTEN + Duration::from_millis(1);
        kept.keep(u64::MAX, "a", report(), later).unwrap();
        assert_eq!(ages(&kept, later), [0]);
        let large = vec![b' '; REPORT_BYTES + 1];
        assert!(matches!(kept.keep(1, "a", large, later), Err(Dropped::Size(_))));
        assert!(matches!(kept.keep(1, "a", b"{}".to_vec(), later), Err(Dropped::Json(_))));
    }
}
