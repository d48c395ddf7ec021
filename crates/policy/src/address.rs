//! Ranges of addresses, as settings name peers by them, and whether ranges are everybody.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An address range such as `10.0.0.0/8`; a single address is the range of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct AddressRange {
    /// The first address, host bits zero.
    pub network: IpAddr,
    /// How many leading bits are fixed.
    pub prefix: u8,
}

impl AddressRange {
    /// Whether the range holds the address; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let host = 32u32.saturating_sub(u32::from(self.prefix));
                network.to_bits().checked_shr(host) == address.to_bits().checked_shr(host)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let host = 128u32.saturating_sub(u32::from(self.prefix));
                network.to_bits().checked_shr(host) == address.to_bits().checked_shr(host)
            }
            _ => false,
        }
    }
}

/// A text that is not an address range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address range: {reason}; write it as `10.0.0.0/8` or `::1`")]
pub struct AddressRangeError {
    text: String,
    reason: &'static str,
}

impl std::str::FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<AddressRange, AddressRangeError> {
        let error = |reason| AddressRangeError { text: text.to_owned(), reason };
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| error("no address"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|p| *p <= bits)
                .ok_or_else(|| error("no prefix length"))?,
        };
        let range = AddressRange { network: address, prefix };
        let zero_host = match address {
            IpAddr::V4(a) => a.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
            IpAddr::V6(a) => a.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
        };
        if zero_host { Ok(range) } else { Err(error("bits below the prefix are set")) }
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = if self.network.is_ipv4() { 32 } else { 128 };
        if self.prefix == bits {
            self.network.fmt(f)
        } else {
            write!(f, "{}/{}", self.network, self.prefix)
        }
    }
}

impl TryFrom<String> for AddressRange {
    type Error = AddressRangeError;

    fn try_from(text: String) -> Result<AddressRange, AddressRangeError> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> String {
        range.to_string()
    }
}

/// Whether ranges cover every address that a caller over the Internet may have, of either family:
/// then to trust them is to trust everybody.
pub fn is_everybody(ranges: &[AddressRange]) -> bool {
    let v4 = ranges.iter().filter_map(|range| match range.network {
        IpAddr::V4(network) => {
            let host = u128::from(u32::MAX.checked_shr(range.prefix.into()).unwrap_or(0));
            Some((u128::from(network.to_bits()), u128::from(network.to_bits()) + host))
        }
        IpAddr::V6(_) => None,
    });
    let v6 = ranges.iter().filter_map(|range| match range.network {
        IpAddr::V6(network) => {
            let host = u128::MAX.checked_shr(range.prefix.into()).unwrap_or(0);
            Some((network.to_bits(), network.to_bits() | host))
        }
        IpAddr::V4(_) => None,
    });
    // Unicast: 1.0.0.0 to 223.255.255.255, but for what is never on the wire; 2000::/3.
    covers(
        v4.chain([(0x0a00_0000, 0x0aff_ffff), (0x7f00_0000, 0x7fff_ffff)]).collect(),
        0x0100_0000,
        0xdfff_ffff,
    ) || covers(v6.collect(), 0x2000 << 112, (0x4000 << 112) - 1)
}

/// Whether ranges, each with its last address, leave nothing out from `first` to `last`.
fn covers(mut ranges: Vec<(u128, u128)>, first: u128, last: u128) -> bool {
    ranges.sort_unstable();
    let mut next = first;
    for (from, to) in ranges {
        if from > next {
            return false;
        }
        if to >= last {
            return true;
        }
        next = next.max(to + 1);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_known_in_any_disguise() {
        let everybody = |ranges: &[&str]| {
            let ranges: Vec<AddressRange> = ranges.iter().map(|r| r.parse().unwrap()).collect();
            is_everybody(&ranges)
        };
        for ranges in [
            &["0.0.0.0/0"][..],
            &["::/0"],
            &["10.0.0.0/8", "::/0"],
            &["0.0.0.0/1", "128.0.0.0/1"],
            &["128.0.0.0/1", "64.0.0.0/2", "0.0.0.0/2"],
            &["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"],
            &["::/1", "8000::/1"],
            &["2000::/3"],
            &[
                "1.0.0.0/8",
                "2.0.0.0/7",
                "4.0.0.0/6",
                "8.0.0.0/7",
                "11.0.0.0/8",
                "12.0.0.0/6",
                "16.0.0.0/4",
                "32.0.0.0/3",
                "64.0.0.0/2",
                "128.0.0.0/1",
            ],
        ] {
            assert!(everybody(ranges), "{ranges:?}");
        }
        for ranges in [
            &[][..],
            &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
            &["0.0.0.0/1"],
            &["0.0.0.0/1", "128.0.0.0/2"],
            &["::1", "fd00::/8"],
            &["2000::/4"],
            &["::ffff:0:0/96"],
        ] {
            assert!(!everybody(ranges), "{ranges:?}");
        }
    }
}
