//! One TCP connection: its socket, the message that is being received, and what waits to be
//! written.

use std::io;
use std::time::Instant;

use bytes::BytesMut;
use mio::net::TcpStream;
use sip::framer::{Frame, FramingError, StreamFramer};

use super::slab::ConnectionId;
use super::timing::{Begun, Finished, Timing};
use super::write_queue::WriteQueue;
use crate::arena::Arena;
use crate::flow::Flow;

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// We.
    Outbound,
}

/// What happened on a connection.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// An outbound connection is established; what was sent to it meanwhile is on its way.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// Its addresses.
        flow: Flow,
    },
    /// A whole message, or a keep-alive: the edge answers `Ping` with CRLF (RFC 5626 §4.4.1).
    Frame {
        /// By which connection; an answer goes back by it.
        connection: ConnectionId,
        /// Its addresses.
        flow: Flow,
        /// What came.
        frame: Frame,
    },
    /// A message that was queued and of which the peer cannot have got every byte; the connection's
    /// `Closed` follows.
    Undelivered {
        /// The connection's addresses.
        flow: Flow,
        /// What the caller queued it with.
        tag: u64,
    },
    /// The connection is gone, and its id names nothing any more.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Its addresses.
        flow: Flow,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// The peer ended its side. A half-open connection carries no SIP, so ours ends too.
    #[error("closed by the peer")]
    PeerClosed,
    /// The caller asked for it.
    #[error("closed on request")]
    Requested,
    /// Nothing came or went for the idle time-out.
    #[error("idle for too long")]
    Idle,
    /// A message was begun and not finished in time.
    #[error("a message was not finished in time")]
    MessageTimeout,
    /// The peer read nothing of what waited for it in time.
    #[error("the peer stopped reading")]
    WriteTimeout,
    /// More waited for the peer than may.
    #[error("the peer reads too slowly")]
    SlowReader,
    /// The incomplete messages of all connections together passed their limit with this one.
    #[error("too many bytes of incomplete messages")]
    IncompleteBytes,
    /// The stream cannot be cut into messages any more. Source: RFC 3261 §18.3.
    #[error("the stream lost its framing")]
    Framing(#[source] FramingError),
    /// The connect got no answer in time.
    #[error("no answer to the connect")]
    ConnectTimeout,
    /// The connect was answered by an error.
    #[error("the connect failed")]
    ConnectFailed(#[source] io::Error),
    /// The system reported an error on an established connection.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The connect was sent; messages are queued.
    Connecting,
    /// Messages go both ways.
    Open,
    /// It is to be closed at the next flush: nobody finds it and nothing is sent any more.
    Doomed,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) flow: Flow,
    pub(super) direction: Direction,
    pub(super) state: State,
    pub(super) timing: Timing,
    /// The entry in `Deadlines`.
    pub(super) scheduled: Option<Instant>,
    pub(super) unwritten: WriteQueue,
    /// On the list of the next flush.
    pub(super) awaits_flush: bool,
    framer: StreamFramer,
    /// Bytes of a message that is not complete; empty and without memory in between.
    incomplete: BytesMut,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        flow: Flow,
        direction: Direction,
        framer: StreamFramer,
        now: Instant,
    ) -> Self {
        let (state, timing) = match direction {
            Direction::Inbound => (State::Open, Timing::accepted(now)),
            Direction::Outbound => (State::Connecting, Timing::connecting(now)),
        };
        Connection {
            stream,
            flow,
            direction,
            state,
            timing,
            scheduled: None,
            unwritten: WriteQueue::default(),
            awaits_flush: false,
            framer,
            incomplete: BytesMut::new(),
        }
    }

    /// Bytes held of an incomplete message.
    pub(super) fn incomplete_bytes(&self) -> usize {
        self.incomplete.len()
    }

    /// Takes in what was read and pushes the frames that it completes.
    pub(super) fn take_in(
        &mut self,
        read: &[u8],
        arena: &mut Arena,
        now: Instant,
        id: ConnectionId,
        events: &mut Vec<ConnectionEvent>,
    ) -> Result<(), FramingError> {
        // Most reads begin and end between messages: those bytes come from recycled chunks, and
        // only what is left of a message gets memory of its own.
        let continued = !self.incomplete.is_empty();
        let mut bytes = if continued {
            self.incomplete.extend_from_slice(read);
            std::mem::take(&mut self.incomplete)
        } else {
            arena.copy_mut(read)
        };
        let mut finished = Finished::None;
        while let Some(frame) = self.framer.next(&mut bytes)? {
            finished = Finished::Some;
            events.push(ConnectionEvent::Frame { connection: id, flow: self.flow, frame });
        }
        let begun =
            if self.framer.is_inside_message(&bytes) { Begun::Message } else { Begun::Nothing };
        self.timing.read(now, finished, begun);
        if !bytes.is_empty() {
            self.incomplete = if continued { bytes } else { BytesMut::from(&bytes[..]) };
        }
        Ok(())
    }
}
