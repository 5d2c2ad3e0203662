//! How far the clock of each member is from ours, from questions for the time and their answers. Pure.
//!
//! The answer was given somewhere between question and answer: taken for the middle of them, its time is wrong by half
//! the round trip at most. Of the last readings the one with the shortest round trip counts.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::node::NodeNumber;

/// Readings of which the best one counts: those of the last four seconds at the usual interval, so that a clock that is set is
/// soon known to be right.
const READINGS_MAX: usize = 16;

/// A question that was longer under way says nothing.
const ROUND_TRIP_MAX_US: u64 = 2_000_000;

/// How far two clocks may go apart by themselves, or by who slews them, between readings that are kept.
const DRIFT_MAX_US: u64 = 10_000;

/// What is known of a member's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// Microseconds by which it is ahead of ours; negative: behind.
    pub ahead_us: i64,
    /// Microseconds by which that may be wrong, at most.
    pub error_us: u64,
}

impl ClockOffset {
    /// Whether it is off by more than `limit_us` for certain.
    pub fn is_off_by(&self, limit_us: u64) -> bool {
        self.ahead_us.unsigned_abs() > limit_us.saturating_add(self.error_us)
    }

    /// Whether both may be readings of one clock that nobody set in between.
    fn agrees_with(&self, other: &ClockOffset) -> bool {
        let error_us = self.error_us.saturating_add(other.error_us).saturating_add(DRIFT_MAX_US);
        self.ahead_us.abs_diff(other.ahead_us) <= error_us
    }
}

/// The last readings of all members.
#[derive(Debug, Default)]
pub struct ClockOffsets(BTreeMap<NodeNumber, VecDeque<ClockOffset>>);

impl ClockOffsets {
    /// A member answered at `now` a question of `asked_at`, both by our clock, at `answered_at` by its own; all in Unix
    /// microseconds. A reading that cannot be of the same clock as those before makes them worthless: it was set.
    pub fn answered(&mut self, node: NodeNumber, asked_at: u64, answered_at: u64, now: u64) {
        let Some(round_trip) = now.checked_sub(asked_at) else { return };
        if round_trip > ROUND_TRIP_MAX_US {
            return;
        }
        let middle = (asked_at + round_trip / 2).cast_signed();
        let ahead_us = answered_at.cast_signed().saturating_sub(middle);
        let read = ClockOffset { ahead_us, error_us: round_trip.div_ceil(2) };
        let readings = self.0.entry(node).or_default();
        if readings.iter().any(|before| !before.agrees_with(&read)) {
            readings.clear();
        }
        if readings.len() >= READINGS_MAX {
            readings.pop_front();
        }
        readings.push_back(read);
    }

    /// The best reading of each member.
    pub fn best(&self) -> BTreeMap<NodeNumber, ClockOffset> {
        let best = |readings: &VecDeque<ClockOffset>| {
            readings.iter().rev().min_by_key(|reading| reading.error_us).copied()
        };
        self.0.iter().filter_map(|(node, readings)| Some((*node, best(readings)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000_000_000;
    const ONE: NodeNumber = NodeNumber::FIRST;

    fn offset_of(readings: &[(u64, u64, i64)]) -> ClockOffset {
        let mut offsets = ClockOffsets::default();
        for (there, back, ahead) in readings {
            let answered_at = (NOW + there).saturating_add_signed(*ahead);
            offsets.answered(ONE, NOW, answered_at, NOW + there + back);
        }
        offsets.best()[&ONE]
    }

    #[test]
    fn an_offset_is_read_within_half_the_round_trip() {
        for ahead in [0, 700_000, -700_000, 3_600_000_000] {
            for (there, back) in [(100, 100), (5_000, 100), (100, 80_000), (1, 0)] {
                let read = offset_of(&[(there, back, ahead)]);
                assert!(read.ahead_us.abs_diff(ahead) <= read.error_us, "{ahead} {there} {read:?}");
                assert!(!read.is_off_by(ahead.unsigned_abs()), "{read:?}");
                assert_eq!(read.is_off_by(500_000), ahead.unsigned_abs() > 500_000 + read.error_us);
            }
        }
    }

    #[test]
    fn the_shortest_round_trip_counts_until_it_is_old() {
        assert_eq!(offset_of(&[(90_000, 0, 0), (100, 100, 0), (0, 90_000, 0)]).error_us, 100);
        let mut offsets = ClockOffsets::default();
        offsets.answered(ONE, NOW, NOW + 1_000_000, NOW + 10);
        for step in 1..=READINGS_MAX as u64 {
            offsets.answered(ONE, NOW + step, NOW + step + 500, NOW + step + 1_000);
        }
        assert_eq!(offsets.best()[&ONE].ahead_us, 0, "the clock was set meanwhile");
    }

    #[test]
    fn a_clock_that_was_set_is_known_by_the_next_reading() {
        let mut offsets = ClockOffsets::default();
        for step in 0..8 {
            offsets.answered(ONE, NOW + step, NOW + step + 3_600_000_100, NOW + step + 200);
        }
        offsets.answered(ONE, NOW + 9, NOW + 9 + 40_000, NOW + 9 + 80_000);
        assert_eq!(offsets.best()[&ONE], ClockOffset { ahead_us: 0, error_us: 40_000 });
    }

    #[test]
    fn what_was_long_under_way_or_answered_before_it_was_asked_says_nothing() {
        let mut offsets = ClockOffsets::default();
        offsets.answered(ONE, NOW, NOW, NOW + ROUND_TRIP_MAX_US + 1);
        offsets.answered(ONE, NOW, NOW, NOW - 1);
        assert!(offsets.best().is_empty());
    }
}
