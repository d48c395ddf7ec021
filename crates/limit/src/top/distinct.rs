//! How many different values a stream had, estimated in 256 bytes.
//!
//! HyperLogLog with 256 registers over 64-bit keyed hashes: a standard error of 6.5 %; below
//! some 640 values, linear counting over the same registers, which is more exact. Two
//! estimates over the same seed merge without loss.
//!
//! Source: Flajolet, Fusy, Gandouet and Meunier (2007); with 64-bit hashes no correction for
//! large counts is needed (Heule, Nunkesser and Hall, 2013).

use crate::hash::Fingerprint;

const REGISTERS: usize = 256;
/// 1.04 / sqrt(registers).
pub const STANDARD_ERROR: f64 = 0.065;

/// A count of different values.
#[derive(Debug, Clone)]
pub struct Distinct {
    registers: Box<[u8; REGISTERS]>,
}

impl Default for Distinct {
    fn default() -> Self {
        Distinct { registers: Box::new([0; REGISTERS]) }
    }
}

impl Distinct {
    /// Takes a value in.
    pub fn insert(&mut self, value: Fingerprint) {
        let bits = value.as_u64();
        let rank = ((bits << 8) | 0xff).leading_zeros() as u8 + 1;
        if let Some(register) = self.registers.get_mut((bits >> 56) as usize) {
            *register = (*register).max(rank);
        }
    }

    /// Takes all values of another count in.
    pub fn merge(&mut self, other: &Distinct) {
        for (own, theirs) in self.registers.iter_mut().zip(other.registers.iter()) {
            *own = (*own).max(*theirs);
        }
    }

    /// About how many different values there were.
    pub fn estimate(&self) -> u64 {
        let m = REGISTERS as f64;
        let sum: f64 = self.registers.iter().map(|rank| f64::from(-i32::from(*rank)).exp2()).sum();
        let alpha = 0.7213 / (1.0 + 1.079 / m);
        let raw = alpha * m * m / sum;
        let empty = self.registers.iter().filter(|rank| **rank == 0).count();
        let estimate = if raw <= 2.5 * m && empty > 0 { m * (m / empty as f64).ln() } else { raw };
        estimate.round() as u64
    }
}
