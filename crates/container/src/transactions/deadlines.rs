//! One queue for the deadlines of many owners: which of them wants to be called next, and when.
//!
//! An owner that moves its deadline later leaves the old entry in the queue and is asked again when that one
//! comes; so a transaction that is re-armed at each retransmission costs one entry, not one for each. Entries
//! of owners that are gone are dropped when they come, or all at once when they are the majority.
//!
//! Most owners wait for one of a few durations (Timer J, the first 100 of a non-INVITE), so that the deadlines of one
//! duration come in order. Each such run is a lane to whose end entries are added and from whose front they are
//! taken, without looking at the others: of hundreds of thousands that wait 64·T1 each, a heap would touch twenty for
//! every one. What fits behind no lane goes into a heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::long_queue::LongQueue;

/// Below this length the queue is never swept.
const SWEEP_LENGTH_MIN: usize = 4_096;

/// More than there are durations that many owners wait for.
const LANES: usize = 8;

/// Deadlines of owners named by `Id`.
#[derive(Debug)]
pub(crate) struct Deadlines<Id> {
    /// Each in order.
    lanes: [LongQueue<(Instant, Id)>; LANES],
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
        Deadlines { lanes: std::array::from_fn(|_| LongQueue::default()), heap: BinaryHeap::new() }
    }

    /// Makes sure that `id` comes no later than `deadline`.
    pub(crate) fn arm(&mut self, id: Id, armed: &mut Armed, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if armed.0.is_none_or(|at| deadline < at) {
            armed.0 = Some(deadline);
            self.push((deadline, id));
        }
    }

    /// Behind the lane that ends latest before it, so that each duration keeps to a lane of its own.
    fn push(&mut self, entry: (Instant, Id)) {
        let fitting =
            self.lanes.iter_mut().filter(|lane| lane.back().is_none_or(|last| *last <= entry));
        match fitting.max_by_key(|lane| lane.back().copied()) {
            Some(lane) => lane.push_back(entry),
            None => self.heap.push(Reverse(entry)),
        }
    }

    /// When the next owner may want to be called.
    pub(crate) fn next(&self) -> Option<Instant> {
        let heap = self.heap.peek().map(|Reverse(entry)| entry);
        self.lanes.iter().filter_map(LongQueue::front).chain(heap).map(|(at, _)| *at).min()
    }

    /// The next owner whose entry has come, and that entry's time for [`Armed::take`].
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Id)> {
        let due = |entry: Option<&(Instant, Id)>| entry.copied().filter(|(at, _)| *at <= now);
        let lanes = self.lanes.iter().enumerate();
        let in_lane = lanes.filter_map(|(lane, entries)| Some((due(entries.front())?, lane))).min();
        let in_heap = due(self.heap.peek().map(|Reverse(entry)| entry));
        match (in_lane, in_heap) {
            (Some((entry, lane)), other) if other.is_none_or(|other| entry <= other) => {
                self.lanes[lane].pop_front()
            }
            (_, Some(_)) => self.heap.pop().map(|Reverse(entry)| entry),
            (_, None) => None,
        }
    }

    /// Drops entries that no owner stands by, once they outnumber the `live` owners four to one: the queue
    /// is bounded by the number of owners however short-lived they are.
    pub(crate) fn sweep(&mut self, live: usize, mut stands: impl FnMut(Id, Instant) -> bool) {
        if self.len() > SWEEP_LENGTH_MIN.max(live.saturating_mul(4)) {
            for lane in &mut self.lanes {
                lane.retain(|(at, id)| stands(*id, *at));
            }
            self.heap.retain(|Reverse((at, id))| stands(*id, *at));
        }
    }

    fn len(&self) -> usize {
        self.lanes.iter().map(LongQueue::len).sum::<usize>() + self.heap.len()
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
        assert_eq!(queue.len(), 1);
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
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn owners_of_a_few_durations_keep_to_lanes_and_come_as_out_of_a_heap() {
        let start = Instant::now();
        let durations = [500, 3_500, 32_000, 32_000, 181_000, 700, 1_400, 2_800, 4_000, 4_100];
        let mut queue = Deadlines::new();
        let mut expected = Vec::new();
        for id in 0..20_000_u64 {
            let now = start + Duration::from_millis(id / 3);
            let duration = durations[(id * 7_919 % 10) as usize];
            let at = now + Duration::from_millis(duration);
            queue.arm(id, &mut Armed::default(), Some(at));
            expected.push((at, id));
        }
        assert!(queue.heap.len() < 20_000 / 2, "{} in the heap", queue.heap.len());
        expected.sort_unstable();
        for (at, id) in expected {
            assert_eq!(queue.next(), Some(at));
            assert_eq!(queue.pop_due(at), Some((at, id)));
        }
        assert_eq!(queue.next(), None);
    }
}
