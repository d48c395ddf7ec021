//! Sizes as people write them: `1024`, `64KiB`, `200MB`.
//!
//! One whole number and a unit: `B`, `KiB` to `TiB` (powers of 1024), `kB` to `TB` (powers of 1000).
//! In Rust a size is a number of bytes, in TOML and in JSON it is this text.

const UNITS: [(&str, u64); 11] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// The largest bound on a request body that may be set.
pub const MAX_BODY_BYTES: u64 = 1 << 40;

/// Reads a size; none: the text is no size, or one beyond 64 bits.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a size, with the largest unit of the powers of 1024 that fits.
pub fn to_text(bytes: u64) -> String {
    let whole = |(_, factor): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*factor);
    match UNITS.iter().rev().take(4).find(whole) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// Reads a bound on request bodies: at most [`MAX_BODY_BYTES`].
pub fn parse_body(text: &str) -> Result<u64, String> {
    let bytes = parse(text).filter(|bytes| *bytes <= MAX_BODY_BYTES);
    bytes.ok_or_else(|| {
        format!("expected a size from 0 to 1TiB (such as `64KiB` or `200MB`), got `{text}`")
    })
}

/// For `#[serde(with = "..")]` on an `Option<u64>` of bytes that a request body may have.
pub(crate) mod body {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_some(&super::to_text(*bytes)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| super::parse_body(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

/// For `#[serde(with = "..")]` on an `Option<u64>` of bytes that a token may have.
pub(crate) mod token {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::identify::Identify;

    pub(crate) fn serialize<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        super::body::serialize(bytes, to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let most = Identify::MAX_TOKEN_BYTES;
        match super::parse(&text).filter(|bytes| (1024..=most).contains(bytes)) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(serde::de::Error::custom(format!(
                "expected a size from 1KiB to {}, got `{text}`",
                super::to_text(most)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, value) in [
            ("0", Some(0)),
            ("200MB", Some(200_000_000)),
            ("64MiB", Some(64 << 20)),
            ("1kB", Some(1_000)),
            ("10B", Some(10)),
            ("1TiB", Some(1 << 40)),
            ("18446744073709551615TiB", None),
            ("MB", None),
            ("1.5MB", None),
            ("1 MB", None),
            ("1mb", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(parse(text), value, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for bytes in [0, 1, 1_000, 1 << 10, (1 << 20) + 1, 200_000_000, 3 << 30, 1 << 40, u64::MAX]
        {
            assert_eq!(parse(&to_text(bytes)), Some(bytes), "{bytes}");
        }
        assert_eq!([to_text(64 << 20), to_text(200_000_000)], ["64MiB", "200000000"]);
    }

    #[test]
    fn a_bound_on_bodies_has_a_bound() {
        assert_eq!(parse_body("1TiB"), Ok(MAX_BODY_BYTES));
        assert!(parse_body("1099511627777").is_err_and(|error| error.contains("1TiB")));
    }
}
