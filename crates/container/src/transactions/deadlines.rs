//! One queue for the deadlines of many owners: which of them wants to be called next, and when.
//!
//! An owner that moves its deadline later leaves the old entry in the queue and is asked again when that one
//! comes; so a transaction that is re-armed at each retransmission costs one entry, not one for each. Entries
//! of owners that are gone are dropped when they come, or all at once when they are the majority.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Below this length the queue is never swept.
const SWEEP_LENGTH_MIN: usize = 4_096;

/// Deadlines of owners named by `Id`.
#[derive(Debug)]
pub(crate) struct Deadlines<Id> {
    heap: BinaryHeap<Reverse<(Instant, Id)>>,
}

/// The entry by which an owner stands in the queue; the owner keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Armed(Option<Instant>);

impl Armed {
    /// The entry that came at `at` is used up; false if the owner has an earlier or later one in its place.
    pub(crate) fn take(&mut self, at: Instant) -> bool {
        let is_current = self.0 == Some(at);
        if is_current {
            self.0 = None;
        }
        is_current
    }
}

impl<Id: Copy + Ord> Deadlines<Id> {
    pub(crate) fn new() -> Deadlines<Id> {
        Deadlines { heap: BinaryHeap::new() }
    }

    /// Makes sure that `id` comes no later than `deadline`.
    pub(crate) fn arm(&mut self, id: Id, armed: &mut Armed, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if armed.0.is_none_or(|at| deadline < at) {
            armed.0 = Some(deadline);
            self.heap.push(Reverse((deadline, id)));
        }
    }

    /// When the next owner may want to be called.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next owner whose entry has come, and that entry's time for [`Armed::take`].
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Id)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Drops entries that no owner stands by, once they outnumber the `live` owners four to one: the queue
    /// is bounded by the number of owners however short-lived they are.
    pub(crate) fn sweep(&mut self, live: usize, mut stands: impl FnMut(Id, Instant) -> bool) {
        if self.heap.len() > SWEEP_LENGTH_MIN.max(live.saturating_mul(4)) {
            self.heap.retain(|Reverse((at, id))| stands(*id, *at));
        }
    }
}

impl Armed {
    /// Whether this is the owner's entry at `at`.
    pub(crate) fn is_at(self, at: Instant) -> bool {
        self.0 == Some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn owners_come_in_the_order_of_their_deadlines() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Deadlines::new();
        let mut armed = [Armed::default(); 3];
        for (id, seconds) in [(0, 3), (1, 1), (2, 2)] {
            queue.arm(id, &mut armed[id], Some(at(seconds)));
        }
        assert_eq!(queue.pop_due(start), None);
        assert_eq!(queue.pop_due(at(9)), Some((at(1), 1)));
        assert_eq!(queue.pop_due(at(9)), Some((at(2), 2)));
        assert_eq!(queue.next(), Some(at(3)));
    }

    #[test]
    fn later_deadline_costs_no_entry_and_earlier_one_replaces() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Deadlines::new();
        let mut armed = Armed::default();
        queue.arm(7, &mut armed, Some(at(5)));
        queue.arm(7, &mut armed, Some(at(9)));
        queue.arm(7, &mut armed, None);
        assert_eq!(queue.heap.len(), 1);
        queue.arm(7, &mut armed, Some(at(2)));
        assert_eq!(queue.pop_due(at(9)), Some((at(2), 7)));
        assert!(armed.take(at(2)));
        assert_eq!(queue.pop_due(at(9)), Some((at(5), 7)));
        assert!(!armed.take(at(5)), "the replaced entry is nobody's");
    }

    #[test]
    fn entries_of_the_dead_are_swept_when_they_are_the_majority() {
        let start = Instant::now();
        let mut queue = Deadlines::new();
        for id in 0..=SWEEP_LENGTH_MIN {
            queue.arm(id, &mut Armed::default(), Some(start));
        }
        queue.sweep(1, |id, _| id == 3);
        assert_eq!(queue.heap.len(), 1);
    }
}
