//! Whether this node's clock is the cluster's, which is that of most members. Pure.
//!
//! Lifetimes are absolute times, so a node with another clock would end what lives, or keep what is over. Of two clocks that
//! differ, with nobody else to ask, that of the lower number holds.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use topology::{ClockOffset, NodeNumber};

/// A node whose clock is further off does not become ready.
pub const CLOCK_OFFSET_MAX_US: u64 = 500_000;

/// What the clocks of the others say of this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too few of those that live have said what time it is.
    Unknown,
    /// It is the cluster's.
    Right,
    /// It is off, by so many microseconds ahead of the cluster's (negative: behind).
    Off {
        /// Of this node.
        ahead_us: i64,
    },
}

/// Judges the clock of `own`; `others` are the members that are not lost, each with its clock as far as it was read, and
/// `members` is how many there are in all.
pub fn judge(
    own: NodeNumber,
    others: &BTreeMap<NodeNumber, Option<ClockOffset>>,
    members: usize,
) -> Verdict {
    let read = others.iter().filter_map(|(number, clock)| Some((*number, (*clock)?)));
    let mut clocks: BTreeMap<NodeNumber, ClockOffset> = read.collect();
    let all_are_read = clocks.len() == others.len();
    clocks.insert(own, ClockOffset { ahead_us: 0, error_us: 0 });
    if !all_are_read && 2 * clocks.len() <= members {
        return Verdict::Unknown;
    }
    let agreeing =
        |clock: &ClockOffset| clocks.values().filter(|other| agree(clock, other)).count();
    let ranked = clocks.iter().map(|(number, clock)| (agreeing(clock), Reverse(*number), clock));
    let Some((most, _, reference)) = ranked.max_by_key(|(count, number, _)| (*count, *number))
    else {
        return Verdict::Right;
    };
    let its_own = clocks[&own];
    if agree(&its_own, reference) {
        // Others may think otherwise, and have not been heard yet.
        let is_clear = all_are_read || 2 * most > clocks.len();
        return if is_clear { Verdict::Right } else { Verdict::Unknown };
    }
    Verdict::Off { ahead_us: -reference.ahead_us }
}

fn agree(one: &ClockOffset, other: &ClockOffset) -> bool {
    let limit = CLOCK_OFFSET_MAX_US + one.error_us + other.error_us;
    one.ahead_us.abs_diff(other.ahead_us) <= limit
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    /// Of a node with these living others, each ahead by so much if it was read.
    fn judged(own: u16, members: usize, others: &[(u16, Option<i64>)]) -> Verdict {
        let number = |number| NodeNumber::new(number).unwrap();
        let clock = |ahead_us| ClockOffset { ahead_us, error_us: 1_000 };
        let others = others.iter().map(|(other, ahead)| (number(*other), ahead.map(clock)));
        judge(number(own), &others.collect(), members)
    }

    #[test]
    fn most_clocks_are_the_clusters_and_of_two_the_lower_number() {
        for (own, others, expected) in [
            (0, vec![(1, Some(HOUR))], Verdict::Right),
            (1, vec![(0, Some(HOUR))], Verdict::Off { ahead_us: -HOUR }),
            (1, vec![(0, Some(400_000))], Verdict::Right),
            (0, vec![(1, Some(HOUR)), (2, Some(HOUR + 9))], Verdict::Off { ahead_us: -HOUR }),
            (0, vec![(1, Some(-HOUR)), (2, Some(9))], Verdict::Right),
            (2, vec![(0, Some(-HOUR)), (1, Some(9))], Verdict::Right),
            (2, vec![(0, Some(700_000)), (1, Some(699_000))], Verdict::Off { ahead_us: -700_000 }),
        ] {
            assert_eq!(judged(own, others.len() + 1, &others), expected, "{own} {others:?}");
        }
    }

    #[test]
    fn nothing_is_said_before_most_are_read_or_lost() {
        assert_eq!(judged(1, 2, &[(0, None)]), Verdict::Unknown);
        assert_eq!(judged(1, 3, &[(0, None), (2, None)]), Verdict::Unknown);
        assert_eq!(judged(1, 3, &[(0, None), (2, Some(0))]), Verdict::Right);
        assert_eq!(
            judged(1, 3, &[(0, None), (2, Some(HOUR))]),
            Verdict::Unknown,
            "two that differ"
        );
        assert_eq!(judged(1, 3, &[(0, None)]), Verdict::Unknown, "the third is lost");
        assert_eq!(judged(1, 3, &[]), Verdict::Right, "both are lost");
        assert_eq!(judged(0, 1, &[]), Verdict::Right);
    }
}
