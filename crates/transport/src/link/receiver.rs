//! The receiving end of a link: bytes in, frames out, and the acknowledgement that is due.
//!
//! Message bytes of a frame are slices of the read buffer, and a slice that is kept pins its chunk:
//! who keeps a few bytes for longer than a transaction lives copies them. The container takes
//! messages in any order; the acknowledgement is cumulative, so it stands still at the lowest
//! message that was not taken.

use bytes::BytesMut;
use thiserror::Error;

use super::frame::{FrameError, LinkFrame};
use super::sender::UNTAKEN_FRAMES_MAX;
use crate::arena::Arena;

/// Room that is made before every read.
const READ_BYTES: usize = 64 * 1024;

/// Why a link cannot go on. It must be closed; the edge offers what was not taken elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The bytes are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message is missing or came twice on a stream that cannot lose any.
    #[error("link message {found} came where {expected} was due")]
    Sequence {
        /// The sequence that was due.
        expected: u64,
        /// The sequence that came.
        found: u64,
    },
    /// The edge offered more messages than it may leave untaken.
    #[error("link has {UNTAKEN_FRAMES_MAX} untaken messages and got another")]
    Window,
}

/// Cuts frames out of the bytes of a stream and keeps account of the messages taken.
#[derive(Debug, Default)]
pub struct LinkReceiver {
    read: Arena,
    window: TakenWindow,
}

impl LinkReceiver {
    /// A receiver for a fresh stream.
    pub fn new() -> LinkReceiver {
        LinkReceiver::default()
    }

    /// The buffer to read into, with room for a read (`AsyncReadExt::read_buf`). Only append to it.
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        self.read.room(READ_BYTES)
    }

    /// Adds bytes that were read elsewhere.
    pub fn push(&mut self, bytes: &[u8]) {
        self.read.room(bytes.len()).extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes come. An `Incoming` frame is untaken until
    /// [`taken`](Self::taken) names it.
    ///
    /// # Errors
    /// [`LinkError`]: close the link.
    pub fn next_frame(&mut self) -> Result<Option<LinkFrame>, LinkError> {
        let frame = LinkFrame::decode(self.read.unsplit())?;
        if let Some(LinkFrame::Incoming(incoming)) = &frame {
            self.window.came(incoming.sequence)?;
        }
        Ok(frame)
    }

    /// The message of this sequence is ours: the edge need not keep it. Repeating it, or naming one
    /// that never came, changes nothing.
    pub fn taken(&mut self, sequence: u64) {
        self.window.taken(sequence);
    }

    /// The sequence up to which everything is taken, if that is news since the last call: send it
    /// as [`LinkFrame::Taken`], once per loop turn.
    pub fn acknowledgement(&mut self) -> Option<u64> {
        self.window.acknowledgement()
    }
}

const WINDOW_WORDS: usize = UNTAKEN_FRAMES_MAX / 64;

/// Which of the last [`UNTAKEN_FRAMES_MAX`] messages were taken: a ring of bits, one per sequence.
#[derive(Debug)]
struct TakenWindow {
    /// All up to here are taken.
    taken_up_to: u64,
    /// The highest that came.
    came_up_to: u64,
    /// What the edge was told last.
    acknowledged: u64,
    bits: Box<[u64; WINDOW_WORDS]>,
}

impl Default for TakenWindow {
    fn default() -> TakenWindow {
        TakenWindow {
            taken_up_to: 0,
            came_up_to: 0,
            acknowledged: 0,
            bits: Box::new([0; WINDOW_WORDS]),
        }
    }
}

impl TakenWindow {
    fn came(&mut self, sequence: u64) -> Result<(), LinkError> {
        let expected = self.came_up_to + 1;
        if sequence != expected {
            return Err(LinkError::Sequence { expected, found: sequence });
        }
        if sequence - self.taken_up_to > UNTAKEN_FRAMES_MAX as u64 {
            return Err(LinkError::Window);
        }
        self.came_up_to = sequence;
        Ok(())
    }

    fn taken(&mut self, sequence: u64) {
        if sequence <= self.taken_up_to || sequence > self.came_up_to {
            return;
        }
        let (word, bit) = place(sequence);
        self.bits[word] |= bit;
        loop {
            let (word, bit) = place(self.taken_up_to + 1);
            if self.bits[word] & bit == 0 {
                break;
            }
            self.bits[word] &= !bit; // its place serves the sequence one window later
            self.taken_up_to += 1;
        }
    }

    fn acknowledgement(&mut self) -> Option<u64> {
        if self.taken_up_to == self.acknowledged {
            return None;
        }
        self.acknowledged = self.taken_up_to;
        Some(self.taken_up_to)
    }
}

/// Word and bit of a sequence in the ring.
fn place(sequence: u64) -> (usize, u64) {
    let index = (sequence % UNTAKEN_FRAMES_MAX as u64) as usize;
    (index / 64, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flow, Transport};
    use crate::link::LinkSender;
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn flow() -> Flow {
        Flow::new(
            Transport::Tcp,
            "[2001:db8::1]:5060".parse().expect("ip"),
            "[2001:db8::2]:1".parse().expect("ip"),
        )
    }

    fn window(came: u64) -> TakenWindow {
        let mut window = TakenWindow::default();
        (1..=came).for_each(|sequence| window.came(sequence).expect("in order"));
        window
    }

    #[test]
    fn acknowledgement_stands_at_the_lowest_gap() {
        let mut window = window(5);
        window.taken(2);
        window.taken(5);
        assert_eq!(window.acknowledgement(), None);
        window.taken(1);
        assert_eq!(window.acknowledgement(), Some(2));
        assert_eq!(window.acknowledgement(), None);
        window.taken(4);
        window.taken(3);
        assert_eq!(window.acknowledgement(), Some(5));
    }

    #[test]
    fn taking_what_never_came_or_twice_changes_nothing() {
        let mut window = window(2);
        window.taken(3);
        window.taken(0);
        window.taken(1);
        window.taken(1);
        assert_eq!(window.acknowledgement(), Some(1));
        window.came(3).expect("in order");
        window.taken(2);
        assert_eq!(window.acknowledgement(), Some(2));
    }

    #[test]
    fn a_gap_or_repetition_on_the_stream_is_an_error() {
        let mut window = window(2);
        assert_eq!(window.came(2), Err(LinkError::Sequence { expected: 3, found: 2 }));
        assert_eq!(window.came(4), Err(LinkError::Sequence { expected: 3, found: 4 }));
    }

    #[test]
    fn more_than_a_window_of_untaken_messages_is_an_error() {
        let max = UNTAKEN_FRAMES_MAX as u64;
        let mut window = window(max);
        assert_eq!(window.came(max + 1), Err(LinkError::Window));
        window.taken(1);
        assert_eq!(window.came(max + 1), Ok(()));
    }

    #[test]
    fn message_bytes_are_slices_of_the_read_buffer() {
        let mut sender = LinkSender::new();
        sender.try_send_incoming(flow(), 0, Bytes::from_static(b"message")).expect("room");
        let mut receiver = LinkReceiver::new();
        receiver.read_buffer().extend_from_slice(sender.unwritten());
        let buffer = receiver.read.unsplit().as_ptr_range();
        let frame = receiver.next_frame().expect("frame").expect("whole");
        let LinkFrame::Incoming(incoming) = frame else { panic!("not an Incoming: {frame:?}") };
        assert_eq!(incoming.bytes, b"message"[..]);
        assert!(buffer.contains(&incoming.bytes.as_ptr()));
    }

    proptest! {
        #[test]
        fn frames_survive_arbitrary_cuts(
            messages in vec(vec(any::<u8>(), 0..300), 0..20),
            cuts in vec(1_usize..200, 1..50),
        ) {
            let mut sender = LinkSender::new();
            for message in &messages {
                sender.try_send_incoming(flow(), 0, Bytes::copy_from_slice(message)).expect("room");
            }
            let (mut receiver, mut got) = (LinkReceiver::new(), Vec::new());
            let mut cuts = cuts.iter().cycle();
            while !sender.unwritten().is_empty() {
                let unwritten = sender.unwritten();
                let count = unwritten.len().min(*cuts.next().expect("cycle"));
                receiver.push(&unwritten[..count]);
                sender.written(count);
                while let Some(frame) = receiver.next_frame().expect("our own frames") {
                    let LinkFrame::Incoming(incoming) = frame else {
                        panic!("not an Incoming: {frame:?}");
                    };
                    prop_assert_eq!(incoming.sequence, got.len() as u64 + 1);
                    got.push(incoming.bytes.to_vec());
                }
            }
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn acknowledgement_is_what_a_plain_set_would_say(
            order in Just((1..=200_u64).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut window = window(200);
            let mut taken = std::collections::BTreeSet::new();
            for sequence in order {
                window.taken(sequence);
                taken.insert(sequence);
                let lowest_gap = (1..).find(|sequence| !taken.contains(sequence)).expect("endless");
                prop_assert_eq!(window.taken_up_to, lowest_gap - 1);
            }
        }
    }

    #[test]
    fn the_ring_of_bits_serves_window_after_window() {
        let mut window = TakenWindow::default();
        for first in (1..=20_000_u64).step_by(2) {
            window.came(first).expect("in order");
            window.came(first + 1).expect("in order");
            window.taken(first + 1);
            assert_eq!(window.acknowledgement(), None);
            window.taken(first);
            assert_eq!(window.acknowledgement(), Some(first + 1));
        }
    }
}
