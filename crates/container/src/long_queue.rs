//! A queue that grows a piece at a time.
//!
//! A `VecDeque` that is full moves all of its entries into one of twice the size, and keeps that. Of the hundreds of
//! thousands that wait 64·T1 it would be milliseconds, in which nobody is answered. Here entries stay where they are,
//! and the memory of those that left goes with them.

use std::collections::VecDeque;

/// Entries of a piece: moving them takes some ten microseconds.
const PIECE: usize = 4_096;

/// First in, first out.
#[derive(Debug)]
pub(crate) struct LongQueue<T> {
    /// None is empty but the last. Two neighbours are more than one would hold, but for the first and the last one.
    pieces: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Default for LongQueue<T> {
    fn default() -> LongQueue<T> {
        LongQueue { pieces: VecDeque::new(), len: 0 }
    }
}

impl<T> LongQueue<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.pieces.front()?.front()
    }

    pub(crate) fn back(&self) -> Option<&T> {
        self.pieces.back()?.back()
    }

    pub(crate) fn push_back(&mut self, entry: T) {
        self.len += 1;
        match self.pieces.back_mut() {
            Some(last) if last.len() < PIECE => last.push_back(entry),
            Some(_) => {
                let mut piece = VecDeque::with_capacity(PIECE);
                piece.push_back(entry);
                self.pieces.push_back(piece);
            }
            None => self.pieces.push_back(VecDeque::from([entry])),
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let first = self.pieces.front_mut()?;
        let entry = first.pop_front()?;
        self.len -= 1;
        // The last one stays, so that a queue of few does not allocate for each.
        if first.is_empty() && self.pieces.len() > 1 {
            self.pieces.pop_front();
        }
        Some(entry)
    }

    /// Keeps the entries for which `keep` says so. Pieces that are left with few become one, else a few entries that
    /// stay for long would keep the memory of all that were between them.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let mut pieces: VecDeque<VecDeque<T>> = VecDeque::new();
        for mut piece in std::mem::take(&mut self.pieces) {
            piece.retain(&mut keep);
            match pieces.back_mut() {
                Some(last) if last.len() + piece.len() <= PIECE => last.append(&mut piece),
                _ => pieces.push_back(piece),
            }
        }
        self.len = pieces.iter().map(VecDeque::len).sum();
        self.pieces = pieces;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are_while_it_grows() {
        let mut queue = LongQueue::default();
        (0..=PIECE).for_each(|entry| queue.push_back(entry));
        let place = queue.front().map(std::ptr::from_ref);
        (PIECE + 1..200_000).for_each(|entry| queue.push_back(entry));
        assert_eq!(queue.front().map(std::ptr::from_ref), place);
        assert_eq!((queue.len(), queue.back()), (200_000, Some(&199_999)));
        assert!((0..200_000).all(|entry| queue.pop_front() == Some(entry)));
        assert_eq!((queue.len(), queue.front()), (0, None));
        assert!(queue.pieces.len() <= 1, "the memory of a storm is kept");
    }

    #[test]
    fn what_is_not_kept_leaves_no_gap() {
        let mut queue = LongQueue::default();
        (0..20_000).for_each(|entry| queue.push_back(entry));
        queue.retain(|entry| entry % 5_000 == 0);
        assert_eq!(
            (queue.len(), queue.pieces.len()),
            (4, 1),
            "the memory of those between them is kept"
        );
        queue.push_back(20_000);
        let left: Vec<i32> = std::iter::from_fn(|| queue.pop_front()).collect();
        assert_eq!(left, [0, 5_000, 10_000, 15_000, 20_000]);
    }
}
