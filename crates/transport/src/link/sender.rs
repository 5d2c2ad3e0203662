//! The sending end of a link: frames in, one buffer of bytes out.
//!
//! Frames of one loop turn are rendered behind each other into one buffer, which the owner writes
//! with one system call. The edge's sender also keeps every message it offered until the container
//! has taken it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::frame::{FrameError, Incoming, LinkFrame};
use crate::flow::Flow;

/// Most `Incoming` frames that a container may leave untaken; the next one is answered
/// [`Refused::Full`]. As many as a storm of registrations brings at once; of messages longer than 512 octets
/// [`UNTAKEN_BYTES_MAX`] is met first.
pub const UNTAKEN_FRAMES_MAX: usize = 16_384;

/// Most message bytes that a container may leave untaken; beyond, the answer is [`Refused::Full`].
pub const UNTAKEN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most rendered bytes that wait to be written; beyond, the answer is [`Refused::Full`] until the
/// owner has written some.
pub const UNWRITTEN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Room beyond [`UNWRITTEN_BYTES_MAX`] for frames that carry no message: messages that wait must
/// not hold up the heartbeat that says the process lives, nor the acknowledgements that make room.
const CONTROL_BYTES_RESERVED: usize = 256 * 1024;

/// Unwritten buffers above this are given back once they are empty, so that a burst does not pin
/// its memory.
const KEPT_BUFFER_BYTES: usize = 256 * 1024;

/// The frame was not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The container has taken too little, or the owner could write too little. Another candidate
    /// may have room.
    #[error("the link is full")]
    Full,
    /// The frame can never be sent, on no link.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A message that was offered and not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untaken {
    /// Its sequence on the link that died.
    pub sequence: u64,
    /// How often containers have handed it on.
    pub hops: u8,
    /// The flow it came by.
    pub flow: Flow,
    /// The message.
    pub bytes: Bytes,
}

/// Renders frames into one buffer and keeps the untaken ones. Performs no I/O: the owner writes
/// [`unwritten`](Self::unwritten) and says how much with [`written`](Self::written).
#[derive(Debug)]
pub struct LinkSender {
    unwritten: BytesMut,
    untaken: VecDeque<Untaken>,
    untaken_bytes: usize,
    next_sequence: u64,
}

impl Default for LinkSender {
    fn default() -> LinkSender {
        LinkSender::new()
    }
}

impl LinkSender {
    /// A sender for a fresh stream: its first message has sequence 1.
    pub fn new() -> LinkSender {
        LinkSender {
            unwritten: BytesMut::new(),
            untaken: VecDeque::new(),
            untaken_bytes: 0,
            next_sequence: 1,
        }
    }

    /// Offers a message from outside, or one that containers have handed on `hops` times, and keeps it until it is
    /// taken; returns its sequence.
    ///
    /// # Errors
    /// [`Refused::Full`] at a bound: the caller offers it to another candidate. [`Refused::Frame`]
    /// when it is over the size that a link carries.
    pub fn try_send_incoming(
        &mut self,
        flow: Flow,
        hops: u8,
        bytes: Bytes,
    ) -> Result<u64, Refused> {
        let sequence = self.next_sequence;
        if self.untaken.len() >= UNTAKEN_FRAMES_MAX
            || self.untaken_bytes + bytes.len() > UNTAKEN_BYTES_MAX
        {
            return Err(Refused::Full);
        }
        let frame = LinkFrame::Incoming(Incoming { sequence, hops, flow, bytes });
        self.render(&frame)?;
        let LinkFrame::Incoming(Incoming { bytes, .. }) = frame else {
            unreachable!("built three lines above")
        };
        self.untaken_bytes += bytes.len();
        self.untaken.push_back(Untaken { sequence, hops, flow, bytes });
        self.next_sequence += 1;
        Ok(sequence)
    }

    /// Sends any frame but [`LinkFrame::Incoming`], which has its own way in.
    ///
    /// # Errors
    /// [`Refused::Full`] when too much is unwritten; [`Refused::Frame`] when the frame has a field
    /// over its limit.
    ///
    /// # Panics
    /// On an `Incoming` frame: it would be neither numbered nor kept.
    pub fn try_send(&mut self, frame: &LinkFrame) -> Result<(), Refused> {
        assert!(
            !matches!(frame, LinkFrame::Incoming(_)),
            "Incoming frames go through try_send_incoming"
        );
        self.render(frame)
    }

    /// The bytes to write next.
    pub fn unwritten(&self) -> &[u8] {
        &self.unwritten
    }

    /// The owner has written that many bytes of [`unwritten`](Self::unwritten).
    pub fn written(&mut self, count: usize) {
        self.unwritten.advance(count);
        if self.unwritten.is_empty() && self.unwritten.capacity() > KEPT_BUFFER_BYTES {
            self.unwritten = BytesMut::new();
        }
    }

    /// The container has taken all messages up to this sequence; a lower or repeated one changes
    /// nothing.
    pub fn taken(&mut self, up_to: u64) {
        while self.untaken.front().is_some_and(|untaken| untaken.sequence <= up_to) {
            let taken = self.untaken.pop_front().expect("front was just seen");
            self.untaken_bytes -= taken.bytes.len();
        }
    }

    /// The link died: gives up every untaken message, in the order in which it was offered.
    /// Unwritten bytes are dropped; the sender begins anew with sequence 1.
    pub fn drain_untaken(&mut self) -> impl Iterator<Item = Untaken> + use<> {
        std::mem::take(self).untaken.into_iter()
    }

    /// How many messages wait to be taken: the container's backlog as this worker sees it.
    pub fn untaken_count(&self) -> usize {
        self.untaken.len()
    }

    fn render(&mut self, frame: &LinkFrame) -> Result<(), Refused> {
        let bytes_max = match frame {
            LinkFrame::Incoming(_)
            | LinkFrame::Outgoing { .. }
            | LinkFrame::KeepAlive { .. }
            | LinkFrame::HandOn { .. } => UNWRITTEN_BYTES_MAX,
            LinkFrame::Hello { .. }
            | LinkFrame::HelloAnswer { .. }
            | LinkFrame::Taken { .. }
            | LinkFrame::SendFailed { .. }
            | LinkFrame::Heartbeat { .. }
            | LinkFrame::Probe { .. }
            | LinkFrame::ProbeAnswer { .. } => UNWRITTEN_BYTES_MAX + CONTROL_BYTES_RESERVED,
        };
        // One frame may reach over the bound, so the bound is off by one frame at most.
        if self.unwritten.len() >= bytes_max {
            return Err(Refused::Full);
        }
        Ok(frame.encode(&mut self.unwritten)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Transport;

    fn flow() -> Flow {
        Flow::new(
            Transport::Udp,
            "192.0.2.1:5060".parse().expect("local"),
            "192.0.2.2:5060".parse().expect("remote"),
        )
    }

    fn sequences(untaken: impl Iterator<Item = Untaken>) -> Vec<u64> {
        untaken.map(|untaken| untaken.sequence).collect()
    }

    #[test]
    fn taken_is_cumulative_and_repeats_change_nothing() {
        let mut sender = LinkSender::new();
        for expected in 1..=5 {
            assert_eq!(
                sender.try_send_incoming(flow(), 0, Bytes::from_static(b"message")),
                Ok(expected)
            );
        }
        sender.taken(3);
        sender.taken(2);
        sender.taken(3);
        assert_eq!(sender.untaken_count(), 2);
        assert_eq!(sequences(sender.drain_untaken()), [4, 5]);
    }

    #[test]
    fn a_dead_link_gives_up_its_untaken_messages_in_order_and_begins_anew() {
        let mut sender = LinkSender::new();
        for number in 0..10_u8 {
            sender.try_send_incoming(flow(), 0, Bytes::copy_from_slice(&[number])).expect("room");
        }
        sender.taken(4);
        let offered_again: Vec<u8> =
            sender.drain_untaken().map(|untaken| untaken.bytes[0]).collect();
        assert_eq!(offered_again, [4, 5, 6, 7, 8, 9]);
        assert!(sender.unwritten().is_empty());
        assert_eq!(sender.try_send_incoming(flow(), 0, Bytes::new()), Ok(1));
    }

    #[test]
    fn full_at_the_frame_bound_until_some_are_taken() {
        let mut sender = LinkSender::new();
        for _ in 0..UNTAKEN_FRAMES_MAX {
            sender.try_send_incoming(flow(), 0, Bytes::new()).expect("room");
        }
        let written = sender.unwritten().len();
        assert_eq!(sender.try_send_incoming(flow(), 0, Bytes::new()), Err(Refused::Full));
        assert_eq!(sender.unwritten().len(), written);
        sender.taken(1);
        assert_eq!(
            sender.try_send_incoming(flow(), 0, Bytes::new()),
            Ok(UNTAKEN_FRAMES_MAX as u64 + 1)
        );
    }

    #[test]
    fn full_at_the_byte_bound_until_some_are_taken() {
        let mut sender = LinkSender::new();
        let message = Bytes::from(vec![0; 60_000]);
        let mut sent = 0;
        while sender.try_send_incoming(flow(), 0, message.clone()).is_ok() {
            sent += 1;
            let count = sender.unwritten().len();
            sender.written(count);
        }
        assert_eq!(sent, UNTAKEN_BYTES_MAX / message.len());
        sender.taken(1);
        assert!(sender.try_send_incoming(flow(), 0, message).is_ok());
    }

    #[test]
    fn full_while_the_owner_cannot_write() {
        let mut sender = LinkSender::new();
        let bytes = Bytes::from(vec![0; 60_000]);
        let frame =
            LinkFrame::Outgoing { id: 1, destination: crate::link::Destination::Via, bytes };
        while sender.try_send(&frame).is_ok() {}
        assert!(sender.unwritten().len() < UNWRITTEN_BYTES_MAX + 61_000);
        assert_eq!(sender.try_send_incoming(flow(), 0, Bytes::new()), Err(Refused::Full));
        assert_eq!(sender.untaken_count(), 0);
        let heartbeat = LinkFrame::Heartbeat {
            incarnation: 1,
            accepting: crate::link::Accepting::Accepting,
            load: 0,
        };
        assert_eq!(sender.try_send(&heartbeat), Ok(()), "a full link still says that we live");
        while sender.try_send(&heartbeat).is_ok() {}
        assert!(sender.unwritten().len() < UNWRITTEN_BYTES_MAX + CONTROL_BYTES_RESERVED + 100);
        sender.written(CONTROL_BYTES_RESERVED + 100_000);
        assert_eq!(sender.try_send(&frame), Ok(()));
    }

    #[test]
    fn an_oversized_message_is_refused_for_good_and_takes_no_sequence() {
        let mut sender = LinkSender::new();
        let refused = sender.try_send_incoming(flow(), 0, Bytes::from(vec![0; 65_536]));
        assert_eq!(
            refused,
            Err(Refused::Frame(FrameError::TooLong { field: "message", length: 65_536 }))
        );
        assert_eq!(sender.try_send_incoming(flow(), 0, Bytes::from(vec![0; 65_535])), Ok(1));
    }

    #[test]
    fn a_burst_does_not_pin_its_buffer() {
        let mut sender = LinkSender::new();
        for _ in 0..100 {
            sender.try_send_incoming(flow(), 0, Bytes::from(vec![0; 10_000])).expect("room");
        }
        let count = sender.unwritten().len();
        sender.written(count);
        assert!(sender.unwritten.capacity() <= KEPT_BUFFER_BYTES);
    }
}
