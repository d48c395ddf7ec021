//! Where a replica reads time, so that tests can freeze it and make it jump.

use std::fmt;

/// The clocks that an age is measured with. [`HostTime`] is the real one.
///
/// Called on every decision: an implementation must not block.
pub trait TimeSource: Send + Sync + fmt::Debug + 'static {
    /// Nanoseconds since boot, suspends counted (`CLOCK_BOOTTIME`). Never goes back.
    fn boottime_ns(&self) -> i64;

    /// Nanoseconds since the Unix epoch (`CLOCK_REALTIME`). May be set, forward and back.
    fn realtime_ns(&self) -> i64;

    /// Which boot, in which time namespace: [`TimeSource::boottime_ns`] of two processes can be
    /// compared if and only if this is the same.
    fn boot(&self) -> Boot;
}

/// One boot of one time namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// `/proc/sys/kernel/random/boot_id`; zeros: unknown.
    pub id: [u8; 16],
    /// The inode of `/proc/self/ns/time`; 0: unknown (before Linux 5.6 there is only one).
    pub namespace: u64,
}

impl Boot {
    /// Whether times of these two can be compared. Unknown boots never can.
    pub fn same(&self, other: &Boot) -> bool {
        self.id != [0; 16] && self == other
    }
}

/// The host's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostTime;

impl TimeSource for HostTime {
    fn boottime_ns(&self) -> i64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for one timespec for the whole call.
        #[expect(unsafe_code, reason = "std's Instant stops while the host is suspended")]
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        debug_assert_eq!(result, 0, "every kernel since 2.6.39 has CLOCK_BOOTTIME");
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    }

    fn realtime_ns(&self) -> i64 {
        i64::try_from(keepgate_observe::unix_now().as_nanos()).unwrap_or(i64::MAX)
    }

    fn boot(&self) -> Boot {
        use std::os::unix::fs::MetadataExt as _;
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = std::fs::metadata("/proc/self/ns/time").map_or(0, |found| found.ino());
        Boot { id: boot_id(&text), namespace }
    }
}

/// The 16 bytes of a UUID; zeros if it is not one.
fn boot_id(text: &str) -> [u8; 16] {
    let mut digits = text.trim().chars().filter(|c| *c != '-');
    let mut id = [0; 16];
    for byte in &mut id {
        let high = digits.next().and_then(|c| c.to_digit(16));
        let low = digits.next().and_then(|c| c.to_digit(16));
        let (Some(high), Some(low)) = (high, low) else { return [0; 16] };
        *byte = u8::try_from(high * 16 + low).unwrap_or_default();
    }
    if digits.next().is_some() { [0; 16] } else { id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots() {
        let id = boot_id("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n");
        assert_eq!((id[0], id[15]), (0x0f, 0xf0));
        for bad in ["", "0f1e", "zz1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", &"0".repeat(33)] {
            assert_eq!(boot_id(bad), [0; 16], "{bad:?}");
        }
        let unknown = Boot::default();
        assert!(!unknown.same(&unknown), "an unknown boot is never the same one");
        let here = HostTime.boot();
        assert!(here.same(&HostTime.boot()));
    }
}
