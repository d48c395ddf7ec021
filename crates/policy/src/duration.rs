//! Durations as people write them: `500ms`, `5s`, `90m`, `1h`, `7d`.
//!
//! One whole number and one unit. In Rust a duration is a number of milliseconds, in TOML and in
//! JSON it is this text, so that an item reads the same wherever it is seen. The largest unit
//! that fits is written, which makes the text canonical.

const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a duration; write a whole number and a unit: `500ms`, `5s`, `90m`, `1h`, `7d`"
)]
pub struct DurationError(pub String);

/// Reads a duration; milliseconds.
pub fn parse_ms(text: &str) -> Result<u64, DurationError> {
    let error = || DurationError(text.to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(error)?;
    let number: u64 = number.parse().map_err(|_| error())?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
    number.checked_mul(*factor).ok_or_else(error)
}

/// Writes a duration of so many milliseconds.
pub fn to_text(ms: u64) -> String {
    let (unit, factor) = UNITS
        .iter()
        .find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor))
        .unwrap_or(&("s", 1_000));
    format!("{}{unit}", ms / factor)
}

/// For `#[serde(with = "..")]` on a `u64` of milliseconds.
pub(crate) mod ms {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(ms: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::to_text(*ms))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_ms(&text).map_err(serde::de::Error::custom)
    }
}

/// The longest time that may be set for a wait.
pub const MAX_WAIT_MS: u64 = 86_400_000;

/// Reads the time for a wait: at least a millisecond, at most [`MAX_WAIT_MS`].
pub fn parse_wait_ms(text: &str) -> Result<u64, String> {
    match parse_ms(text) {
        Ok(ms) if (1..=MAX_WAIT_MS).contains(&ms) => Ok(ms),
        Ok(_) => Err(format!("expected a duration from 1ms to 1d, got `{text}`")),
        Err(error) => Err(error.to_string()),
    }
}

/// For `#[serde(with = "..")]` on an `Option<u64>` of milliseconds that a wait may take.
pub(crate) mod wait_ms {
    use serde::{Deserialize, Deserializer};

    pub(crate) use super::optional_ms::serialize;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| super::parse_wait_ms(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

/// For `#[serde(with = "..")]` on an `Option<u64>` of milliseconds.
pub(crate) mod optional_ms {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(ms: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match ms {
            Some(ms) => to.serialize_some(&super::to_text(*ms)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| super::parse_ms(&text).map_err(serde::de::Error::custom)).transpose()
    }
}
