//! What waits for one peer to read it: bounded, written with as few system calls as possible.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

/// Most messages of one system call.
const BATCH_MESSAGES: usize = 32;

/// Bytes that each waiting message counts beside its own, so that empty or tiny ones are bounded
/// too.
const OVERHEAD_BYTES: usize = 64;

/// The queue was at its bound; the message was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overfull;

#[derive(Debug)]
struct Waiting {
    bytes: Bytes,
    tag: u64,
}

/// Messages in the order in which they leave; the first may be partly written.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
}

/// What a write came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// The queue is empty.
    All,
    /// The peer's window is full; so many bytes went before.
    Blocked {
        /// Bytes that went.
        progress: usize,
    },
}

/// Memory of emptied queues, for the connections that have something to write next: an idle connection keeps none, and a
/// message costs no allocation.
#[derive(Debug, Default)]
pub(super) struct SpareQueues(Vec<VecDeque<Waiting>>);

/// Most queues that are spared: about as many connections as have something to write in one turn.
const SPARE_QUEUES_MAX: usize = 256;
/// A queue with room for more messages was a burst's, and is freed.
const SPARE_MESSAGES_MAX: usize = 64;

impl SpareQueues {
    fn take(&mut self) -> VecDeque<Waiting> {
        self.0.pop().unwrap_or_default()
    }

    fn give_back(&mut self, queue: VecDeque<Waiting>) {
        if self.0.len() < SPARE_QUEUES_MAX && queue.capacity() <= SPARE_MESSAGES_MAX {
            self.0.push(queue);
        }
    }
}

impl WriteQueue {
    pub(super) fn push(
        &mut self,
        bytes: Bytes,
        tag: u64,
        bytes_max: usize,
        spares: &mut SpareQueues,
    ) -> Result<(), Overfull> {
        let cost = bytes.len() + OVERHEAD_BYTES;
        // A single message always fits an empty queue, however small the limit was configured.
        if !self.waiting.is_empty() && self.waiting_bytes + cost > bytes_max {
            return Err(Overfull);
        }
        if self.waiting.capacity() == 0 {
            self.waiting = spares.take();
        }
        self.waiting_bytes += cost;
        self.waiting.push_back(Waiting { bytes, tag });
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes until nothing is left or the peer's window is full.
    pub(super) fn write_to(
        &mut self,
        stream: &mut impl Write,
        spares: &mut SpareQueues,
    ) -> io::Result<Wrote> {
        let mut progress = 0;
        while !self.waiting.is_empty() {
            let slices: SmallVec<[IoSlice<'_>; BATCH_MESSAGES]> = self
                .waiting
                .iter()
                .take(BATCH_MESSAGES)
                .map(|waiting| IoSlice::new(&waiting.bytes))
                .collect();
            match stream.write_vectored(&slices) {
                Ok(0) if slices.iter().any(|slice| !slice.is_empty()) => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Ok(count) => {
                    drop(slices);
                    progress += count;
                    self.advance(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Wrote::Blocked { progress });
                }
                Err(error) => return Err(error),
            }
        }
        spares.give_back(std::mem::take(&mut self.waiting));
        Ok(Wrote::All)
    }

    /// The tags of messages of which the peer cannot have got all bytes.
    pub(super) fn unwritten_tags(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.iter().map(|waiting| waiting.tag)
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.waiting.front_mut() {
            if first.bytes.len() > count {
                first.bytes.advance(count);
                self.waiting_bytes -= count;
                return;
            }
            count -= first.bytes.len();
            self.waiting_bytes -= first.bytes.len() + OVERHEAD_BYTES;
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Takes the next number of bytes at a time; 0 stands for a full window.
    struct Window {
        steps: VecDeque<usize>,
        got: Vec<u8>,
    }

    impl Write for Window {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut room = self.steps.pop_front().unwrap_or(usize::MAX);
            if room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let before = self.got.len();
            for slice in slices {
                let count = slice.len().min(room);
                self.got.extend_from_slice(&slice[..count]);
                room -= count;
            }
            Ok(self.got.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order_whatever_the_window_takes(
            messages in vec(vec(any::<u8>(), 1..80), 0..60),
            steps in vec(0_usize..200, 0..40),
        ) {
            let (mut queue, mut spares) = (WriteQueue::default(), SpareQueues::default());
            for (tag, message) in messages.iter().enumerate() {
                let bytes = Bytes::copy_from_slice(message);
                queue.push(bytes, tag as u64, usize::MAX, &mut spares).expect("no bound");
            }
            let mut window = Window { steps: steps.into(), got: Vec::new() };
            while queue.write_to(&mut window, &mut spares).expect("window never breaks") != Wrote::All {}
            prop_assert_eq!(window.got, messages.concat());
            prop_assert_eq!(queue.waiting_bytes, 0);
        }
    }

    #[test]
    fn a_message_over_the_bound_is_refused_and_tells_nothing_of_those_before() {
        let (mut queue, mut spares) = (WriteQueue::default(), SpareQueues::default());
        let message = Bytes::from_static(&[1; 100]);
        assert_eq!(queue.push(message.clone(), 1, 400, &mut spares), Ok(()));
        assert_eq!(queue.push(message.clone(), 2, 400, &mut spares), Ok(()));
        assert_eq!(queue.push(message, 3, 400, &mut spares), Err(Overfull));
        assert_eq!(queue.unwritten_tags().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_partly_written_message_is_still_unwritten() {
        let (mut queue, mut spares) = (WriteQueue::default(), SpareQueues::default());
        queue.push(Bytes::from_static(b"first"), 1, 1000, &mut spares).expect("fits");
        queue.push(Bytes::from_static(b"second"), 2, 1000, &mut spares).expect("fits");
        let mut window = Window { steps: [7, 0].into(), got: Vec::new() };
        assert_eq!(
            queue.write_to(&mut window, &mut spares).expect("write"),
            Wrote::Blocked { progress: 7 }
        );
        assert_eq!(queue.unwritten_tags().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn an_emptied_queues_memory_goes_to_the_next_connection() {
        let (mut one, mut other, mut spares) =
            (WriteQueue::default(), WriteQueue::default(), SpareQueues::default());
        one.push(Bytes::from_static(b"message"), 1, 1000, &mut spares).expect("fits");
        let mut window = Window { steps: VecDeque::new(), got: Vec::new() };
        assert_eq!(one.write_to(&mut window, &mut spares).expect("write"), Wrote::All);
        assert_eq!((one.waiting.capacity(), spares.0.len()), (0, 1));
        other.push(Bytes::from_static(b"message"), 2, 1000, &mut spares).expect("fits");
        assert_eq!(spares.0.len(), 0);
    }

    #[test]
    fn a_bursts_memory_is_not_spared() {
        let (mut queue, mut spares) = (WriteQueue::default(), SpareQueues::default());
        for tag in 0..2 * SPARE_MESSAGES_MAX as u64 {
            queue.push(Bytes::from_static(b"message"), tag, usize::MAX, &mut spares).expect("fits");
        }
        let mut window = Window { steps: VecDeque::new(), got: Vec::new() };
        assert_eq!(queue.write_to(&mut window, &mut spares).expect("write"), Wrote::All);
        assert!(spares.0.is_empty());
    }
}
