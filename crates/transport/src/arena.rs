//! Recycled chunks that received bytes are copied into.
//!
//! A socket reads into a fixed scratch; what it got is copied here and handed on as a `Bytes` slice
//! of a chunk. When a chunk is full it waits in a ring, and is written again once every slice of it
//! was dropped: in steady state no message costs an allocation. A slice that is kept pins its
//! chunk, so whoever keeps a few bytes for longer than a transaction lives copies them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes of one chunk: a few hundred messages.
const CHUNK_BYTES: usize = 256 * 1024;

/// Most full chunks that are waited for; at the bound the oldest is let go, and is freed with its
/// last slice.
const WAITING_CHUNKS_MAX: usize = 16;

/// Hands out `Bytes` copies from recycled chunks.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunk: BytesMut,
    waiting: VecDeque<BytesMut>,
}

impl Arena {
    /// An arena that allocates its first chunk when first used.
    pub(crate) fn new() -> Arena {
        Arena { chunk: BytesMut::new(), waiting: VecDeque::with_capacity(WAITING_CHUNKS_MAX) }
    }

    /// A copy of `bytes`. Longer ones than a chunk get an allocation of their own.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        self.copy_mut(bytes).freeze()
    }

    /// Like [`copy`](Self::copy), for a caller that goes on cutting or rendering.
    pub(crate) fn copy_mut(&mut self, bytes: &[u8]) -> BytesMut {
        self.make_room(bytes.len());
        self.chunk.extend_from_slice(bytes);
        self.chunk.split()
    }

    fn make_room(&mut self, length: usize) {
        if self.chunk.capacity() - self.chunk.len() >= length || self.chunk.try_reclaim(length) {
            return;
        }
        let wanted = length.max(CHUNK_BYTES);
        // Oldest first: its slices have had the longest time to go.
        let reusable = self.waiting.iter_mut().position(|chunk| chunk.try_reclaim(wanted));
        let next = match reusable.and_then(|position| self.waiting.remove(position)) {
            Some(chunk) => chunk,
            None => BytesMut::with_capacity(wanted),
        };
        let full = std::mem::replace(&mut self.chunk, next);
        if self.waiting.len() == WAITING_CHUNKS_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_what_they_were_while_chunks_are_recycled() {
        let mut arena = Arena::new();
        let mut kept = VecDeque::new();
        for round in 0..10_000_u32 {
            let message = vec![(round % 251) as u8; 600 + (round as usize % 900)];
            kept.push_back((arena.copy(&message), message));
            if kept.len() > 700 {
                let (copy, original) = kept.pop_front().expect("just filled");
                assert_eq!(copy, original);
            }
        }
    }

    #[test]
    fn a_chunk_whose_slices_are_gone_is_written_again() {
        let mut arena = Arena::new();
        let first = arena.copy(&[1; 1000]).as_ptr();
        for _ in 0..CHUNK_BYTES / 1000 - 1 {
            arena.copy(&[2; 1000]);
        }
        let again: Vec<*const u8> = (0..3).map(|_| arena.copy(&[3; 1000]).as_ptr()).collect();
        assert!(again.contains(&first));
    }

    #[test]
    fn a_chunk_that_had_to_wait_is_written_again_once_it_is_free() {
        let mut arena = Arena::new();
        let first: Vec<Bytes> = (0..CHUNK_BYTES / 1000).map(|_| arena.copy(&[1; 1000])).collect();
        let start = first[0].as_ptr();
        // The first chunk has no room left and waits; so will the second, whose slices are kept.
        let second: Vec<Bytes> = (0..CHUNK_BYTES / 1000).map(|_| arena.copy(&[2; 1000])).collect();
        drop(first);
        assert_eq!(arena.copy(&[3; 1000]).as_ptr(), start);
        drop(second);
    }

    #[test]
    fn a_kept_slice_lets_the_arena_go_on_elsewhere() {
        let mut arena = Arena::new();
        let kept = arena.copy(b"kept");
        for _ in 0..3 * CHUNK_BYTES / 1000 {
            arena.copy(&[0; 1000]);
        }
        assert_eq!(kept, b"kept"[..]);
        assert!(arena.waiting.len() <= 2, "{}", arena.waiting.len());
    }

    #[test]
    fn something_longer_than_a_chunk_is_copied_too() {
        let long = vec![7; CHUNK_BYTES * 2];
        assert_eq!(Arena::new().copy(&long), long);
    }
}
