//! Randomness as a parameter: the operating system's, or a seed's that a failing test can replay.
//!
//! Not here: key generation (the crates that make keys use their cryptographic library's source).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::RngCore;

/// A source of randomness that several components share.
pub type SharedRandomness = Arc<dyn Randomness>;

/// The letters that generated names end in: no vowels, so that no words appear, and nothing that reads
/// like another letter. Upstream: apimachinery `pkg/util/rand`.
const NAME_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Where a component gets its random numbers from.
pub trait Randomness: Send + Sync {
    /// 64 random bits.
    fn u64(&self) -> u64;

    /// Fills `buffer` with random bytes.
    fn fill(&self, buffer: &mut [u8]);

    /// A number in `0..bound`; 0 when `bound` is 0.
    fn below(&self, bound: u64) -> u64 {
        // The high half of the product; its bias is below bound / 2^64.
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `0.0..1.0`.
    fn unit(&self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The five letters that end a generated name, as in `web-x7k2p`.
    fn name_suffix(&self) -> String {
        (0..5).map(|_| char::from(NAME_LETTERS[self.below(NAME_LETTERS.len() as u64) as usize])).collect()
    }
}

/// A generator seeded by the operating system, one per thread.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandomness;

impl SystemRandomness {
    /// The system's randomness, ready to be shared.
    pub fn shared() -> SharedRandomness {
        Arc::new(Self)
    }
}

impl Randomness for SystemRandomness {
    fn u64(&self) -> u64 {
        rand::rng().next_u64()
    }

    fn fill(&self, buffer: &mut [u8]) {
        rand::rng().fill_bytes(buffer);
    }
}

/// The same sequence for the same seed, on every machine and in every version (SplitMix64). Not for
/// secrets.
#[derive(Debug)]
pub struct SeededRandomness(AtomicU64);

impl SeededRandomness {
    /// The sequence that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Randomness for SeededRandomness {
    fn u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays() {
        let (a, b) = (SeededRandomness::new(7), SeededRandomness::new(7));
        assert_eq!((a.u64(), a.u64()), (b.u64(), b.u64()));
        assert_ne!(SeededRandomness::new(8).u64(), SeededRandomness::new(7).u64());
        // The published first output of SplitMix64 for seed 0.
        assert_eq!(SeededRandomness::new(0).u64(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn names_use_only_the_safe_letters() {
        for source in [&SeededRandomness::new(1) as &dyn Randomness, &SystemRandomness] {
            let name = source.name_suffix();
            assert_eq!(name.len(), 5);
            assert!(name.bytes().all(|letter| NAME_LETTERS.contains(&letter)), "{name}");
            assert!(source.below(3) < 3);
            assert_eq!(source.below(0), 0);
        }
    }
}
