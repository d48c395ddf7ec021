//! The times of lines: milliseconds since the Unix epoch, written in UTC.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_S: u64 = 86_400;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Now, by the host's clock; zero if it says earlier than 1970.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Appends a number with so many digits at least.
fn padded(out: &mut Vec<u8>, n: u64, width: u32) {
    let mut unit = 10_u64.saturating_pow(width.saturating_sub(1));
    while n / unit >= 10 {
        unit = unit.saturating_mul(10);
    }
    while unit > 0 {
        out.push(b'0' + u8::try_from(n / unit % 10).unwrap_or(0));
        unit /= 10;
    }
}

/// Appends a number.
pub(crate) fn number(out: &mut Vec<u8>, mut n: u64) {
    // From the last digit on; 2^64 has 20.
    let mut digits = [b'0'; 20];
    let mut begin = digits.len();
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        (*digit, begin) = (digit_of(n), place);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(begin..).unwrap_or_default());
}

/// The last digit of a number.
fn digit_of(n: u64) -> u8 {
    b'0' + u8::try_from(n % 10).unwrap_or(0)
}

thread_local! {
    /// The second that was written last, and how. Records come by the thousand in one.
    static SECOND: RefCell<(u64, Vec<u8>)> = const { RefCell::new((u64::MAX, Vec::new())) };
}

/// Appends `2026-11-27T05:30:00.123Z` (RFC 3339).
pub(crate) fn rfc3339(out: &mut Vec<u8>, unix_ms: u64) {
    let (s, ms) = (unix_ms / 1_000, unix_ms % 1_000);
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != s {
            *second = s;
            text.clear();
            seconds(text, s);
        }
        out.extend_from_slice(text);
    });
    out.extend_from_slice(&[digit_of(ms / 100), digit_of(ms / 10), digit_of(ms), b'Z']);
}

/// Appends `2026-11-27T05:30:00.`.
fn seconds(out: &mut Vec<u8>, s: u64) {
    let (year, month, day) = civil(s / DAY_S);
    let of_day = s % DAY_S;
    for (n, width, then) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (of_day / 3_600, 2, b':'),
        (of_day / 60 % 60, 2, b':'),
        (of_day % 60, 2, b'.'),
    ] {
        padded(out, n, width);
        out.push(then);
    }
}

/// The same as a text.
pub fn text(unix_ms: u64) -> String {
    let mut out = Vec::new();
    rfc3339(&mut out, unix_ms);
    String::from_utf8(out).unwrap_or_default()
}

/// Milliseconds since the Unix epoch of what [`text`] writes; none: it is something else.
pub fn read(text: &str) -> Option<u64> {
    let digits = |range: std::ops::Range<usize>| {
        let part = text.get(range)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok())?
    };
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second, ms) =
        (digits(11..13)?, digits(14..16)?, digits(17..19)?, digits(20..23)?);
    if text.len() != 24 || !(1..=12).contains(&month) || !(1970..=9999).contains(&year) {
        return None;
    }
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let year = if month > 2 { year } else { year - 1 };
    let of_year = (153 * shifted + 2) / 5 + day.checked_sub(1)?;
    let of_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + of_year;
    let days = (year / 400 * 146_097 + of_era).checked_sub(719_468)?;
    let s = days * DAY_S + hour * 3_600 + minute * 60 + second;
    let unix_ms = s * 1_000 + ms;
    // Written again it is the same, or it was no such time.
    (self::text(unix_ms) == text).then_some(unix_ms)
}

/// Appends `27/Nov/2026:05:30:00 +0000`, as the Common Log Format has it.
pub(crate) fn common(out: &mut Vec<u8>, unix_ms: u64) {
    let s = unix_ms / 1_000;
    let (year, month, day) = civil(s / DAY_S);
    let month = usize::try_from(month).ok().and_then(|month| MONTHS.get(month.checked_sub(1)?));
    padded(out, day, 2);
    out.push(b'/');
    out.extend_from_slice(month.unwrap_or(&"Jan").as_bytes());
    out.push(b'/');
    padded(out, year, 4);
    for n in [s % DAY_S / 3_600, s / 60 % 60, s % 60] {
        out.push(b':');
        padded(out, n, 2);
    }
    out.extend_from_slice(b" +0000");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_826_600_007), "2000-02-29T12:16:40.007Z");
        assert_eq!(text(1_795_757_400_123), "2026-11-27T05:30:00.123Z");
        let mut out = Vec::new();
        common(&mut out, 1_795_757_400_123);
        assert_eq!(String::from_utf8(out).unwrap(), "27/Nov/2026:05:30:00 +0000");
        for wrong in ["", "2026-02-30T00:00:00.000Z", "2026-11-27 05:30:00.123Z", "x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_read_as_it_was_written(unix_ms in 0_u64..253_402_300_800_000) {
            prop_assert_eq!(read(&text(unix_ms)), Some(unix_ms));
        }

        #[test]
        fn numbers_are_as_format_writes_them(n: u64) {
            let mut out = Vec::new();
            number(&mut out, n);
            prop_assert_eq!(String::from_utf8(out).unwrap(), n.to_string());
        }
    }
}
