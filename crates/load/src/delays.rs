//! What is due later, when there are few different delays and very many entries: a queue per delay.
//!
//! Entries of one delay come due in the order in which they were added, so adding and taking cost the same however
//! many wait. Nothing is cancelled: who takes a due entry looks whether it still means something. An entry is as
//! long-lived as its delay, so there are at most rate × delay of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Entries by delay. Times given to it never go back.
#[derive(Debug)]
pub(crate) struct Delays<T> {
    queues: Vec<(Duration, VecDeque<(Instant, T)>)>,
}

impl<T> Default for Delays<T> {
    fn default() -> Delays<T> {
        Delays { queues: Vec::new() }
    }
}

impl<T> Delays<T> {
    /// Adds an entry that is due `delay` after `now`. A new delay adds a queue: delays are a handful of constants.
    pub(crate) fn add(&mut self, delay: Duration, now: Instant, entry: T) {
        let due = (now + delay, entry);
        match self.queues.iter_mut().find(|(known, _)| *known == delay) {
            Some((_, queue)) => queue.push_back(due),
            None => self.queues.push((delay, VecDeque::from([due]))),
        }
    }

    /// Takes an entry that is due at `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<T> {
        let queue = self.queues.iter_mut().find_map(|(_, queue)| {
            queue.front().is_some_and(|(due, _)| *due <= now).then_some(queue)
        })?;
        queue.pop_front().map(|(_, entry)| entry)
    }

    /// When the next entry is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|(_, queue)| queue.front()).map(|(due, _)| *due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_when_they_are_due_whatever_their_delay() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut delays = Delays::default();
        assert_eq!(delays.next_due(), None);
        delays.add(4 * second, start, "late");
        delays.add(second, start, "early");
        delays.add(second, start + second, "between");
        assert_eq!(delays.next_due(), Some(start + second));
        assert_eq!(delays.take_due(start), None);
        assert_eq!(delays.take_due(start + second), Some("early"));
        assert_eq!(delays.take_due(start + second), None);
        let mut rest = [delays.take_due(start + 4 * second), delays.take_due(start + 4 * second)];
        rest.sort_unstable();
        assert_eq!(rest, [Some("between"), Some("late")]);
        assert_eq!(delays.next_due(), None);
    }
}
