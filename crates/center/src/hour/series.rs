//! The minutes of one service or limit, and what is known of them.

use crate::store::hours::{Counts, SPAN_S, SPANS};

/// Minutes of an hour.
pub const MINUTES: usize = 60;

/// With this many spans of a minute all of it is covered: spans do not begin on the second.
const COVERED: u32 = 5;

/// With fewer spans the newest minute is told together with the one before.
const FEW: u32 = 3;

/// A minute.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    pub(super) minute: u64,
    /// In which of its spans something was heard, as bits; none: it is empty.
    pub(super) spans: u8,
    pub(super) is_told: bool,
    pub(super) counts: Counts,
}

impl Slot {
    fn plus(self, other: Slot) -> Slot {
        match (self.spans, other.spans) {
            (_, 0) => self,
            (0, _) => other,
            _ => Slot {
                minute: self.minute,
                spans: self.spans | other.spans,
                is_told: self.is_told && other.is_told,
                counts: self.counts.plus(other.counts),
            },
        }
    }

    fn seconds(self) -> f64 {
        match self.spans.count_ones() {
            some if some < COVERED => f64::from(some) * SPAN_S as f64,
            _ => (SPAN_S * SPANS) as f64,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Series {
    own: [Slot; MINUTES],
    others: [Slot; MINUTES],
}

impl Default for Series {
    fn default() -> Series {
        Series { own: [Slot::default(); MINUTES], others: [Slot::default(); MINUTES] }
    }
}

fn place(minute: u64) -> usize {
    usize::try_from(minute % MINUTES as u64).unwrap_or_default()
}

impl Series {
    pub(super) fn add(&mut self, slot: Slot) {
        if let Some(held) = self.own.get_mut(place(slot.minute)) {
            *held = if held.minute == slot.minute { held.plus(slot) } else { slot };
        }
    }

    pub(super) fn set_others(&mut self, slot: Slot) {
        if let Some(held) = self.others.get_mut(place(slot.minute))
            && (held.spans == 0 || held.minute < slot.minute)
        {
            *held = slot;
        }
    }

    pub(super) fn forget_others(&mut self, from: u64) {
        for slot in self.others.iter_mut().filter(|slot| slot.minute >= from) {
            *slot = Slot::default();
        }
    }

    pub(super) fn is_within(&self, minute: u64) -> bool {
        let oldest = (minute + 1).saturating_sub(MINUTES as u64);
        let mut all = self.own.iter().chain(&self.others);
        all.any(|slot| slot.spans != 0 && slot.minute >= oldest)
    }

    fn at(&self, minute: u64) -> Option<Slot> {
        let of = |slots: &[Slot; MINUTES]| {
            let slot = slots.get(place(minute)).copied().unwrap_or_default();
            if slot.minute == minute { slot } else { Slot::default() }
        };
        let both = of(&self.own).plus(of(&self.others));
        (both.spans != 0).then_some(both)
    }

    /// All that is known, but for minutes from `blind` on.
    pub(super) fn sum(&self, now: u64, blind: Option<u64>) -> Counts {
        let slots = minutes(now).filter(|minute| blind.is_none_or(|blind| *minute < blind));
        let slots = slots.filter_map(|minute| self.at(minute));
        slots.fold(Counts::default(), |sum, slot| sum.plus(slot.counts))
    }
}

/// The minutes of the hour that ends now, the oldest first.
fn minutes(now: u64) -> impl Iterator<Item = u64> {
    let newest = now / 60;
    (0..MINUTES as u64).rev().filter_map(move |ago| newest.checked_sub(ago))
}

/// One measure of an hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measure {
    /// Per second, by minute; the newest is last. None: not known.
    pub points: Vec<Option<f64>>,
    /// How many there were in the minutes that are known; none: no minute is.
    pub sum: Option<u64>,
}

/// What is known of the last hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// All requests.
    pub requests: Measure,
    /// Refused for any reason.
    pub refused: Measure,
    /// Over a limit.
    pub limited: Measure,
    /// Denied.
    pub denied: Measure,
    /// Not decided.
    pub undecided: Measure,
    /// How many minutes are known.
    pub minutes: u64,
}

impl Known {
    pub(super) fn of(
        series: Option<&Series>,
        now: u64,
        is_alone: bool,
        blind: Option<u64>,
    ) -> Known {
        let at = |minute: u64| {
            let is_seen = blind.is_none_or(|blind| minute < blind);
            series.filter(|_| is_seen).and_then(|series| series.at(minute))
        };
        let mut slots: Vec<Option<Slot>> =
            std::iter::repeat_n(None, MINUTES - minutes(now).count()).collect();
        slots.extend(minutes(now).map(at));
        let known = slots.iter().flatten().count() as u64;
        let measure = |is_told: bool, of: fn(Counts) -> u64| {
            let wanted = |slot: &Slot| slot.is_told || !is_told;
            let of_slot = |slot: &Option<Slot>| {
                let slot = slot.filter(wanted)?;
                Some(of(slot.counts) as f64 / slot.seconds())
            };
            let mut points: Vec<Option<f64>> = slots.iter().map(of_slot).collect();
            if let ([.., before, newest], [.., point_before, last]) =
                (slots.as_slice(), points.as_mut_slice())
            {
                // A minute that has just begun has little to tell: the one before is as new. Others are
                // heard a little later.
                match (before.filter(wanted), newest.filter(wanted)) {
                    (Some(_), None) if newest.is_none() => {
                        *last = if blind.is_none() { *point_before } else { None };
                    }
                    (Some(before), Some(newest))
                        if !is_alone || newest.spans.count_ones() < FEW =>
                    {
                        let both = of(before.counts).saturating_add(of(newest.counts));
                        *last = Some(both as f64 / (before.seconds() + newest.seconds()));
                    }
                    _ => {}
                }
            }
            let mut told = slots.iter().flatten().filter(|slot| wanted(slot)).peekable();
            let sum = told
                .peek()
                .is_some()
                .then(|| told.fold(0_u64, |sum, slot| sum.saturating_add(of(slot.counts))));
            Measure { points, sum }
        };
        Known {
            requests: measure(false, |counts| counts.requests),
            refused: measure(false, |counts| counts.refused),
            limited: measure(true, |counts| counts.limited),
            denied: measure(true, |counts| counts.denied),
            undecided: measure(true, |counts| counts.undecided),
            minutes: known,
        }
    }
}
