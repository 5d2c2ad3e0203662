//! The one source of chance: SplitMix64, a stream of its own for each purpose.
//!
//! Streams are split off by name, so that a change in how often the network draws a number does not change which
//! faults come: a seed stays comparable while the simulator grows.

use std::time::Duration;

/// A seeded sequence of numbers (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// An independent sequence for one purpose.
    pub fn split(&self, purpose: &str) -> Random {
        let start = purpose.bytes().fold(self.0 ^ 0xcbf2_9ce4_8422_2325, |state, octet| {
            (state ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut split = Random(start);
        split.number(); // two purposes of one seed begin far from each other
        split
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.number() % bound }
    }

    /// A place in a list of that length; 0 when it is empty.
    pub fn place(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True in so many of a thousand cases.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1_000) < u64::from(per_mille)
    }

    /// A time from `least` to `most`, to the microsecond.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let spread = most.saturating_sub(least).as_micros() as u64;
        least + Duration::from_micros(self.below(spread + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_purposes_differ() {
        let numbers = |mut random: Random| [random.number(), random.number(), random.number()];
        assert_eq!(numbers(Random::new(7)), numbers(Random::new(7)));
        let seed = Random::new(7);
        assert_eq!(numbers(seed.split("network")), numbers(seed.split("network")));
        assert_ne!(numbers(seed.split("network")), numbers(seed.split("faults")));
        assert_ne!(numbers(seed.split("network")), numbers(Random::new(8).split("network")));
    }

    #[test]
    fn times_and_places_stay_between_their_bounds() {
        let mut random = Random::new(1);
        let (least, most) = (Duration::from_micros(5), Duration::from_micros(7));
        for _ in 0..100 {
            assert!((least..=most).contains(&random.between(least, most)));
            assert!(random.place(3) < 3);
            assert!(!random.chance(0));
            assert!(random.chance(1_000));
        }
    }
}
