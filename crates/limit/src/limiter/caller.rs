//! Who makes a request, as far as limits are concerned.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::hash::{Fingerprint, Seed, Sort};

/// The address a request is counted by.
///
/// IPv4-mapped IPv6 addresses are the IPv4 address they carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressKey {
    /// IPv4, whole.
    V4(Ipv4Addr),
    /// IPv6, counted by the prefix each rule names.
    V6(Ipv6Addr),
    /// A Unix socket: its callers have no address, and are not one; no rule counts them by it.
    Local,
}

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => AddressKey::V4(address),
            IpAddr::V6(address) => AddressKey::V6(address),
        }
    }
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressKey::V4(address) => address.fmt(f),
            AddressKey::V6(address) => address.fmt(f),
            AddressKey::Local => f.write_str("local"),
        }
    }
}

impl AddressKey {
    /// The address with the bits after an IPv6 prefix of `prefix` bits cleared.
    #[must_use]
    pub fn network(&self, prefix: u8) -> AddressKey {
        match self {
            AddressKey::V6(address) => {
                let beyond = 128_u32.saturating_sub(u32::from(prefix));
                let mask = u128::MAX.checked_shl(beyond).unwrap_or(0);
                AddressKey::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
            other => *other,
        }
    }

    #[inline]
    pub(crate) fn fingerprint(&self, seed: &Seed, prefix: u8) -> Fingerprint {
        match self.network(prefix) {
            AddressKey::V4(address) => seed.wide(Sort::Address, address.to_ipv6_mapped().to_bits()),
            AddressKey::V6(address) => seed.wide(Sort::Address, address.to_bits()),
            AddressKey::Local => seed.bytes(Sort::Address, b"local"),
        }
    }
}

/// Who makes a request.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Where from.
    pub address: AddressKey,
    /// The principal's type and id.
    pub principal: Option<(&'a str, &'a str)>,
    /// The API key's public identity (not the secret).
    pub api_key: Option<&'a str>,
    /// The plan the API key belongs to.
    pub plan: Option<&'a str>,
    /// A request header's value, by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
}

impl<'a> Caller<'a> {
    /// A caller of whom only the address is known.
    pub fn anonymous(address: AddressKey) -> Caller<'a> {
        Caller { address, principal: None, api_key: None, plan: None, header: &|_| None }
    }
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("address", &self.address)
            .field("principal", &self.principal)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}
