//! The places of one upstream: how many sockets there are, how many there may be, and whether one
//! more may be opened now.
//!
//! Pure: it opens nothing, and knows neither connections nor who waits for them.

use std::time::Duration;

use super::budget::MAX_CONNECTIONS;
use crate::dial::DialError;

/// Dials of one upstream that may run at the same time.
const MAX_DIALING: usize = 32;
/// After a failure for want of ports: how long nothing is opened, doubling between these.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Places {
    /// Sockets, with those being opened. INVARIANT: as many as there are permits.
    open: usize,
    limit: usize,
    dialing: usize,
    dialing_max: usize,
    paused: bool,
    pause: Duration,
    shortage: Option<DialError>,
}

impl Places {
    pub(super) fn new(limit: usize) -> Places {
        Places {
            open: 0,
            limit,
            dialing: 0,
            dialing_max: MAX_DIALING,
            paused: false,
            pause: Duration::ZERO,
            shortage: None,
        }
    }

    /// Sockets, with those being opened.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// How many sockets there may be.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Sockets that are open already stay, also above the limit.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.clamp(1, MAX_CONNECTIONS);
    }

    /// Whether one more may be opened now.
    pub(super) fn has_room(&self) -> bool {
        !self.paused && self.open < self.limit && self.dialing < self.dialing_max
    }

    /// Whether one is being opened.
    pub(super) fn is_dialing(&self) -> bool {
        self.dialing > 0
    }

    /// One is being opened; to be followed by [`Places::dialed`] and, once it is closed or failed, by
    /// [`Places::free`].
    pub(super) fn take(&mut self) {
        self.open += 1;
        self.dialing += 1;
    }

    /// It is opened, or failed.
    pub(super) fn dialed(&mut self) {
        self.dialing -= 1;
    }

    /// Its socket is gone.
    pub(super) fn free(&mut self) {
        self.open -= 1;
    }

    /// A dial succeeded: there are ports.
    pub(super) fn opened(&mut self) {
        self.dialing_max = (self.dialing_max * 2).min(MAX_DIALING);
        self.pause = Duration::ZERO;
        self.shortage = None;
    }

    /// There was no port or descriptor.
    pub(super) fn ran_short(&mut self, error: &DialError) {
        self.shortage = error.shortage();
    }

    /// The shortage that holds now.
    pub(super) fn shortage(&self) -> Option<DialError> {
        self.shortage.as_ref().and_then(DialError::shortage)
    }

    /// From now until [`Places::resume`] nothing is opened, afterwards one at a time. Returns how
    /// long that is to last; none: it is so already.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        if self.paused {
            return None;
        }
        self.paused = true;
        self.dialing_max = 1;
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, MAX_PAUSE);
        Some(self.pause)
    }

    /// The pause is over.
    pub(super) fn resume(&mut self) {
        self.paused = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as the limit, and of these at most [`MAX_DIALING`] at once.
    #[test]
    fn there_is_room_up_to_both_bounds() {
        let mut places = Places::new(MAX_DIALING + 1);
        for _ in 0..MAX_DIALING {
            assert!(places.has_room());
            places.take();
        }
        assert!(!places.has_room(), "so many are being opened");
        places.dialed();
        assert!(places.has_room());
        places.take();
        places.dialed();
        assert!(!places.has_room(), "all that there may be are open");
        places.free();
        assert!(places.has_room());
        places.set_limit(0);
        assert_eq!(places.limit(), 1);
        assert!(!places.has_room());
    }

    #[test]
    fn a_pause_doubles_until_a_dial_succeeds_and_then_dials_come_one_by_one() {
        let mut places = Places::new(MAX_CONNECTIONS);
        assert_eq!(places.pause(), Some(PAUSE_MIN));
        assert_eq!(places.pause(), None, "one at a time");
        assert!(!places.has_room());
        places.resume();
        assert_eq!(places.pause(), Some(2 * PAUSE_MIN));
        places.resume();
        for _ in 0..10 {
            places.pause();
            places.resume();
        }
        assert_eq!(places.pause(), Some(MAX_PAUSE));
        places.resume();
        places.take();
        assert!(!places.has_room(), "one at a time");
        places.dialed();
        places.opened();
        places.take();
        assert!(places.has_room(), "two at a time");
        assert_eq!(places.pause(), Some(PAUSE_MIN));
    }
}
