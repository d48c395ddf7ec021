//! Times as people write them: RFC 3339, such as `2030-01-31T18:00:00Z` or `2030-01-31 19:00+01:00`.
//!
//! In Rust and in JSON a time is a number of whole seconds since the Unix epoch, in TOML and on the
//! command line it is this text. Years 1970 to 9999; a fraction of a second is refused, so that no
//! time is read as another one.

use std::fmt::Write as _;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a time; write a date, a time and an offset, such as `2030-01-31T18:00:00Z` or \
     `2030-01-31T19:00:00+01:00`"
)]
pub struct InstantError(pub String);

/// Reads a time; whole seconds since the Unix epoch.
///
/// # Errors
/// A text of another form, a day that does not exist, a time before 1970.
pub fn parse(text: &str) -> Result<u64, InstantError> {
    read(text).ok_or_else(|| InstantError(text.to_owned()))
}

/// Writes a time in UTC. What is beyond the year 9999 is written as the last second of it.
pub fn to_text(unix_s: u64) -> String {
    let unix_s = unix_s.min(LAST);
    let (year, month, day) = civil(unix_s / DAY);
    let of_day = unix_s % DAY;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    out
}

/// The last second of the year 9999.
pub const LAST: u64 = 253_402_300_799;

fn read(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (time, offset_s) = match rest.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => {
            let (time, offset) = rest.split_at_checked(rest.len().checked_sub(6)?)?;
            let (sign, offset) = offset.split_at_checked(1)?;
            let [hours, minutes] = numbers(offset, ':', [2, 2])?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = i64::try_from(hours * 3_600 + minutes * 60).ok()?;
            match sign {
                "+" => (time, offset),
                "-" => (time, -offset),
                _ => return None,
            }
        }
    };
    let [hour, minute, second] = match numbers(time, ':', [2, 2, 2]) {
        Some(all) => all,
        None => numbers(time, ':', [2, 2]).map(|[hour, minute]| [hour, minute, 0])?,
    };
    if hour > 23 || minute > 59 || second > 59 || year < 1970 {
        return None;
    }
    let days = days(year, month, day)?;
    let local = days * DAY + hour * 3_600 + minute * 60 + second;
    local.checked_add_signed(-offset_s).filter(|unix_s| *unix_s <= LAST)
}

/// Numbers of so many digits each, between separators.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut out = [0; N];
    for (to, digits) in out.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *to = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn months(year: u64) -> [u64; 12] {
    [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// Days from 1970-01-01 to a date that exists.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let lengths = months(year);
    let at = usize::try_from(month.checked_sub(1)?).ok()?;
    let length = *lengths.get(at)?;
    if day == 0 || day > length {
        return None;
    }
    let before = |year: u64| year * 365 + year / 4 - year / 100 + year / 400;
    let years = before(year - 1) - before(1969);
    Some(years + lengths.iter().take(at).sum::<u64>() + day - 1)
}

/// The date so many days after 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(is_leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    for length in months(year) {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_rfc_3339_has_them() {
        for (text, unix_s) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:30:45Z", 951_827_445),
            ("2030-01-31 18:00:00z", 1_895_767_200 + 345_600),
            ("2030-01-31T18:00Z", 1_895_767_200 + 345_600),
            ("2030-01-31T19:00:00+01:00", 1_895_767_200 + 345_600),
            ("2030-01-31T12:30:00-05:30", 1_895_767_200 + 345_600),
            ("9999-12-31T23:59:59Z", LAST),
        ] {
            assert_eq!(parse(text), Ok(unix_s), "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "2030-01-31",
            "2030-01-31T18:00:00",
            "2030-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2030-13-01T00:00:00Z",
            "2030-00-01T00:00:00Z",
            "2030-01-00T00:00:00Z",
            "2030-01-31T24:00:00Z",
            "2030-01-31T18:60:00Z",
            "2030-01-31T18:00:60Z",
            "2030-01-31T18:00:00.5Z",
            "2030-01-31T18:00:00+24:00",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "10000-01-01T00:00:00Z",
            "+2030-01-31T18:00:00Z",
            "2030-01-31T18:00:00\u{661}Z",
        ] {
            assert_eq!(parse(text), Err(InstantError(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn every_time_comes_back() {
        let mut unix_s = 0;
        while unix_s <= LAST {
            assert_eq!(parse(&to_text(unix_s)), Ok(unix_s));
            unix_s += 86_399 * 37 + 11;
        }
        assert_eq!(to_text(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(to_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(to_text(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(to_text(4_107_542_399), "2100-02-28T23:59:59Z");
    }
}
