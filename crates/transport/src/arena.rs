//! Recycled chunks that received, read and rendered bytes lie in.
//!
//! What is received, read from a link or rendered stands in a chunk and is handed on as `Bytes` slices of it. When a
//! chunk is full it waits in a ring, and is written again once every slice of it was dropped: in steady state no
//! message costs an allocation. A slice that is kept pins its chunk, so whoever keeps a few bytes for longer than a
//! transaction lives copies them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes of one chunk: a few hundred messages.
const CHUNK_BYTES: usize = 256 * 1024;

/// Most full chunks that are waited for; at the bound the oldest is let go, and is freed with its
/// last slice.
const WAITING_CHUNKS_MAX: usize = 16;

/// Hands out room in recycled chunks.
#[derive(Debug, Default)]
pub struct Arena {
    chunk: BytesMut,
    waiting: VecDeque<BytesMut>,
}

impl Arena {
    /// An arena that allocates its first chunk when first used.
    pub fn new() -> Arena {
        Arena { chunk: BytesMut::new(), waiting: VecDeque::with_capacity(WAITING_CHUNKS_MAX) }
    }

    /// The chunk in use with room for so many bytes more: append to it, and split off what is complete. What was not
    /// split off stays in front. More room than a chunk has gets an allocation of its own.
    pub fn room(&mut self, length: usize) -> &mut BytesMut {
        if self.chunk.capacity() - self.chunk.len() < length && !self.chunk.try_reclaim(length) {
            self.replace_chunk(length);
        }
        &mut self.chunk
    }

    /// What was appended and not split off yet.
    pub fn unsplit(&mut self) -> &mut BytesMut {
        &mut self.chunk
    }

    /// A copy of `bytes`.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        self.copy_mut(bytes).freeze()
    }

    /// Like [`copy`](Self::copy), for a caller that goes on cutting or rendering.
    pub(crate) fn copy_mut(&mut self, bytes: &[u8]) -> BytesMut {
        let chunk = self.room(bytes.len());
        chunk.extend_from_slice(bytes);
        chunk.split()
    }

    fn replace_chunk(&mut self, length: usize) {
        let wanted = (self.chunk.len() + length).max(CHUNK_BYTES);
        // Oldest first: its slices have had the longest time to go.
        let reusable = self.waiting.iter_mut().position(|chunk| chunk.try_reclaim(wanted));
        let mut next = match reusable.and_then(|position| self.waiting.remove(position)) {
            Some(chunk) => chunk,
            None => BytesMut::with_capacity(wanted),
        };
        next.extend_from_slice(&self.chunk);
        let mut full = std::mem::replace(&mut self.chunk, next);
        full.clear();
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
    fn what_is_not_split_off_moves_along_in_front() {
        let mut arena = Arena::new();
        let mut kept = Vec::new();
        for round in 0..3 * CHUNK_BYTES / 1000 {
            let chunk = arena.room(1000);
            assert!(chunk.capacity() - chunk.len() >= 1000);
            chunk.extend_from_slice(&[round as u8; 1000]);
            // The last ten bytes are not complete yet.
            let complete = chunk.len() - 10;
            kept.push(chunk.split_to(complete).freeze());
            assert_eq!(arena.unsplit(), &[round as u8; 10][..]);
        }
        let whole = kept.concat();
        for (round, bytes) in whole.chunks_exact(1000).enumerate() {
            assert_eq!(bytes, [round as u8; 1000], "round {round}");
        }
    }

    #[test]
    fn something_longer_than_a_chunk_is_copied_too() {
        let long = vec![7; CHUNK_BYTES * 2];
        assert_eq!(Arena::new().copy(&long), long);
    }
}
