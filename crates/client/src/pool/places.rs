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
    /// How many more sockets may be opened until the next look at the bucket; none: nobody looks.
    room: Option<i64>,
    /// Sockets taken since the look under way began; none: there is none.
    meanwhile: Option<i64>,
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
            room: None,
            meanwhile: None,
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
        !self.paused
            && self.open < self.limit
            && self.dialing < self.dialing_max
            && !self.is_at_reserve()
    }

    /// Whether the last look left only ports that are kept back.
    pub(super) fn is_at_reserve(&self) -> bool {
        self.room.is_some_and(|room| room <= 0)
    }

    /// Whether nothing can be opened for want of ports.
    pub(super) fn is_short(&self) -> bool {
        self.paused || self.is_at_reserve()
    }

    /// A look at the bucket begins: what is opened from now on may or may not be seen by it.
    pub(super) fn begin_look(&mut self) {
        self.meanwhile = Some(0);
    }

    /// So many more sockets may be opened, as the look saw it; none: it saw nothing.
    pub(super) fn looked(&mut self, room: Option<u32>) {
        let meanwhile = self.meanwhile.take().unwrap_or(0);
        self.room = room.map(|room| i64::from(room) - meanwhile);
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
        self.room = self.room.map(|room| room - 1);
        self.meanwhile = self.meanwhile.map(|taken| taken + 1);
    }

    /// It is opened, or failed.
    pub(super) fn dialed(&mut self) {
        self.dialing -= 1;
    }

    /// Its socket is gone, and its port free again, or held by a TIME_WAIT.
    pub(super) fn free(&mut self, port_is_free: bool) {
        self.open -= 1;
        if port_is_free {
            self.room = self.room.map(|room| room + 1);
        }
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
        places.free(true);
        assert!(places.has_room());
        places.set_limit(0);
        assert_eq!(places.limit(), 1);
        assert!(!places.has_room());
    }

    /// Between two looks, what is opened and closed is counted; during one, what is opened.
    #[test]
    fn a_look_leaves_room_until_the_next() {
        let mut places = Places::new(MAX_CONNECTIONS);
        let open = |places: &mut Places| {
            assert!(places.has_room());
            places.take();
            places.dialed();
        };
        places.begin_look();
        places.looked(Some(2));
        open(&mut places);
        open(&mut places);
        assert!(places.is_at_reserve() && !places.has_room());
        // One that leaves a TIME_WAIT brings no port back.
        places.free(false);
        assert!(!places.has_room());
        places.free(true);
        places.begin_look();
        open(&mut places);
        assert!(!places.has_room());
        places.looked(Some(2));
        open(&mut places);
        assert!(!places.has_room(), "one was opened while it looked");
        places.begin_look();
        places.looked(None);
        assert!(places.has_room(), "nobody looks");
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
