//! Which datagrams of members are new: of each sender's life every time is taken once, and none that is too far from now.
//!
//! What was sent before this node began is not taken at all, since nobody remembers what of it was heard. Clocks may
//! differ by [`WINDOW`]; a member that is further off is not heard, and its clock is told as the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::sealing::SenderId;

/// How far the time of a datagram may be from ours.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Times that are remembered of one sender: more than it sends while datagrams overtake each other.
const TIMES_MAX: usize = 256;

/// Lives of members that are remembered. Only members get this far; the one longest silent makes room.
const SENDERS_MAX: usize = 1024;

/// Why a member's datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// It was taken before, or is older than all that is remembered.
    Repeated,
    /// It is from before this node began.
    Former,
    /// Its sender's clock, if it is not a repetition, is ahead of ours by so many microseconds.
    OutOfTime {
        /// Negative: behind.
        ahead_us: i64,
    },
    /// We sent it.
    Own,
}

/// What of each sender was taken.
#[derive(Debug)]
pub(super) struct Replays {
    began_at: u64,
    senders: BTreeMap<SenderId, Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// All up to here is forgotten, and so refused.
    floor: u64,
    times: BTreeSet<u64>,
}

impl Replays {
    /// For a life that began at `now`, Unix microseconds.
    pub(super) fn new(now: u64) -> Replays {
        Replays { began_at: now, senders: BTreeMap::new() }
    }

    /// Takes what a sender sent at that time, both in Unix microseconds.
    ///
    /// # Errors
    /// [`Stale`]; nothing is remembered of it then.
    pub(super) fn accept(&mut self, sender: SenderId, sent_at: u64, now: u64) -> Result<(), Stale> {
        let ahead_us = sent_at.cast_signed().saturating_sub(now.cast_signed());
        if u128::from(ahead_us.unsigned_abs()) > WINDOW.as_micros() {
            return Err(Stale::OutOfTime { ahead_us });
        }
        if sent_at < self.began_at {
            return Err(Stale::Former);
        }
        if !self.senders.contains_key(&sender) && self.senders.len() >= SENDERS_MAX {
            let latest = |taken: &Taken| taken.times.last().copied();
            let silent = self.senders.iter().min_by_key(|(_, taken)| latest(taken));
            if let Some(silent) = silent.map(|(sender, _)| *sender) {
                self.senders.remove(&silent);
            }
        }
        let taken = self.senders.entry(sender).or_default();
        if sent_at <= taken.floor || !taken.times.insert(sent_at) {
            return Err(Stale::Repeated);
        }
        if taken.times.len() > TIMES_MAX
            && let Some(oldest) = taken.times.pop_first()
        {
            taken.floor = oldest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000_000_000;
    const ONE: SenderId = SenderId([1; 8]);

    #[test]
    fn a_time_is_taken_once_however_many_lie_between() {
        let mut replays = Replays::new(NOW);
        for step in 0..3 * TIMES_MAX as u64 {
            assert_eq!(replays.accept(ONE, NOW + step, NOW), Ok(()));
        }
        for step in 0..3 * TIMES_MAX as u64 {
            assert_eq!(replays.accept(ONE, NOW + step, NOW), Err(Stale::Repeated), "{step}");
        }
        assert_eq!(replays.accept(SenderId([2; 8]), NOW, NOW), Ok(()), "another sender's");
    }

    #[test]
    fn what_is_from_before_or_out_of_time_is_refused() {
        let mut replays = Replays::new(NOW);
        let window = WINDOW.as_micros() as u64;
        assert_eq!(replays.accept(ONE, NOW - 1, NOW), Err(Stale::Former));
        let ahead = Err(Stale::OutOfTime { ahead_us: window as i64 + 1 });
        assert_eq!(replays.accept(ONE, NOW + window + 1, NOW), ahead);
        assert_eq!(replays.accept(ONE, NOW + window, NOW), Ok(()));
        let behind = Err(Stale::OutOfTime { ahead_us: -(window as i64) - 1 });
        assert_eq!(replays.accept(ONE, NOW + 1, NOW + window + 2), behind);
    }

    #[test]
    fn the_senders_that_are_remembered_are_bounded() {
        let mut replays = Replays::new(NOW);
        for number in 0..2 * SENDERS_MAX as u64 {
            let sender = SenderId(number.to_be_bytes());
            assert_eq!(replays.accept(sender, NOW + number, NOW), Ok(()));
        }
        assert_eq!(replays.senders.len(), SENDERS_MAX);
    }
}
