//! What will happen, in the order of (time, sequence): two things of one moment happen in the order in which they
//! were scheduled, so that a seed has one history.

use std::collections::BTreeMap;
use std::time::Duration;

/// Virtual time: how long the world has existed.
pub type Moment = Duration;

/// A queue of things to come.
#[derive(Debug)]
pub struct Schedule<Happening> {
    queue: BTreeMap<(Moment, u64), Happening>,
    sequence: u64,
}

impl<Happening> Default for Schedule<Happening> {
    fn default() -> Self {
        Schedule { queue: BTreeMap::new(), sequence: 0 }
    }
}

impl<Happening> Schedule<Happening> {
    /// It will happen at that moment.
    pub fn at(&mut self, moment: Moment, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((moment, self.sequence), happening);
    }

    /// The next thing and its moment.
    pub fn pop(&mut self) -> Option<(Moment, Happening)> {
        let ((moment, _), happening) = self.queue.pop_first()?;
        Some((moment, happening))
    }

    /// How much is to come.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is to come.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_of_one_moment_happen_in_the_order_of_their_scheduling() {
        let mut schedule = Schedule::default();
        let (early, late) = (Duration::from_millis(1), Duration::from_millis(2));
        for (moment, name) in [(late, "c"), (early, "a"), (early, "b")] {
            schedule.at(moment, name);
        }
        let order: Vec<_> = std::iter::from_fn(|| schedule.pop()).collect();
        assert_eq!(order, [(early, "a"), (early, "b"), (late, "c")]);
    }
}
