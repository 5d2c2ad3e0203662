//! The frames of a link, and their bytes.
//!
//! Every frame is `u32 length | u8 type | u8 format level | payload`, big-endian; the length counts
//! what follows it. Texts and short byte strings are `u16 length | bytes`, addresses `u8 4 or 16 |
//! address | u16 port`; SIP messages and flow tokens come last and take the rest of the frame, so
//! that decoding cuts them out of the read buffer without a copy.
//!
//! A frame of a type that the level does not have, of an unknown level, or with bytes left over is
//! an error and ends the link: both ends are ours, so it is version skew or a bug, and guessing
//! would misroute calls.
//!
//! Here are the frames; [`encoding`] writes their fields, [`decoding`] reads them.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use decoding::Fields;

use crate::flow::{Flow, FlowDecodeError, Transport};

/// Format level that this release writes and reads. Level 1 knew neither hops nor probes; it was
/// never released, so nobody is left who speaks it.
const FORMAT_LEVEL: u8 = 2;

/// Most bytes of a frame after its length field: a 65,535-byte message with room for its metadata.
pub const FRAME_BYTES_MAX: usize = 66 * 1024;

/// Most bytes that a message or flow token in a frame has: what fits beside the longest metadata.
const MESSAGE_BYTES_MAX: usize = 65_535;

/// Most addresses that an edge announces; one that listens on more is refused by the container.
pub const ADDRESSES_MAX: usize = 256;

/// Most times that a message is handed on from container to container: views differ for moments, and a message that
/// needs a third hop would go in circles. DESIGN, "choosing a container", rule 3.
pub const HOPS_MAX: u8 = 2;

/// Most bytes of a name or of a public address.
pub const TEXT_BYTES_MAX: usize = 255;

const LENGTH_BYTES: usize = 4;

mod decoding;
mod encoding;

/// One frame. Which end sends which stands in [the module's text](super).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFrame {
    /// Edge to container, first frame: who speaks, and by which addresses the outside reaches it.
    Hello {
        /// The edge's process name.
        peer_name: String,
        /// Which life of that process.
        incarnation: u64,
        /// Which of its workers, from 0.
        worker: u16,
        /// The addresses of that edge.
        addresses: Vec<EdgeAddress>,
    },
    /// Container to edge, first frame.
    HelloAnswer {
        /// The container's process name.
        name: String,
        /// Which life of that process.
        incarnation: u64,
    },
    /// Edge to container: a message from outside.
    Incoming(Incoming),
    /// Container to edge: all `Incoming` frames up to this sequence are the container's now.
    Taken {
        /// Cumulative; sequences begin at 1.
        up_to: u64,
    },
    /// Container to edge: a message for the outside.
    Outgoing {
        /// Comes back in [`SendFailed`](LinkFrame::SendFailed); the container's choice.
        id: u64,
        /// Where to.
        destination: Destination,
        /// The rendered message.
        bytes: Bytes,
    },
    /// Edge to container: an `Outgoing` message could not be sent.
    SendFailed {
        /// The id of that message.
        id: u64,
        /// Why.
        error: SendError,
    },
    /// Container to edge: send a NAT keep-alive on the UDP flow of this token.
    KeepAlive {
        /// The flow token of the binding's Path.
        flow_token: Bytes,
    },
    /// Container to edge, every heartbeat interval: the container serves.
    Heartbeat {
        /// Which life of the container.
        incarnation: u64,
        /// Whether new sessions are wanted.
        accepting: Accepting,
        /// 0 idle to 65,535 saturated.
        load: u16,
    },
    /// Container to edge: this message belongs to that life of another container. It is the edge's
    /// again, which offers it there once, when that life has a link.
    HandOn {
        /// The life that owns it.
        to: u64,
        /// The [`hops`](Incoming::hops) under which it came. From [`HOPS_MAX`] on the edge drops it.
        hops: u8,
        /// The flow it came by.
        flow: Flow,
        /// The message as it came.
        bytes: Bytes,
    },
    /// Edge to container: do you still work off what comes by links? A container answers where it
    /// works off `Incoming` frames, in their order.
    Probe {
        /// Comes back in [`ProbeAnswer`](LinkFrame::ProbeAnswer).
        id: u64,
    },
    /// Container to edge: it does.
    ProbeAnswer {
        /// The id of the probe.
        id: u64,
    },
}

/// A message from outside, on its way to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Position among the `Incoming` frames of this link, from 1.
    pub sequence: u64,
    /// How often it was handed on already: 0 from outside, at most [`HOPS_MAX`].
    pub hops: u8,
    /// The flow it came by.
    pub flow: Flow,
    /// The message as the edge forwards it.
    pub bytes: Bytes,
}

/// An address by which the outside reaches an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeAddress {
    /// What is spoken there.
    pub transport: Transport,
    /// The address of the socket.
    pub own: SocketAddr,
    /// `host` or `host:port` that phones see.
    pub public: String,
}

/// How an edge finds the way of an `Outgoing` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A response: follow its top Via (RFC 3261 §18.2.2).
    Via,
    /// A request: follow its top Route, whose user part is a flow token.
    Route,
    /// A request: to this address.
    Address {
        /// By this transport.
        transport: Transport,
        /// Numeric; names were resolved by the container.
        address: SocketAddr,
    },
}

/// Why an edge could not send a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The flow is gone: 430 (RFC 5626 §5.3.1). No retry by this flow helps.
    #[error("the flow is gone")]
    FlowGone,
    /// The transport reported an error or a time-out; another address may help.
    #[error("the address cannot be reached")]
    Unreachable,
    /// The way there is full; a later retry may help.
    #[error("the send queue is full")]
    Full,
    /// The message names no way that this edge can go (bad token, no Via); a retry does not help.
    #[error("the message names no way to send it")]
    Refused,
}

/// Whether a container wants new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accepting {
    /// Yes.
    Accepting,
    /// No: only messages of sessions that it owns.
    Draining,
}

/// Why bytes are not a frame, or a frame cannot be bytes. The link must be closed after a decoding
/// error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length field is over the limit, or too small for type and level.
    #[error("link frame of {length} bytes is not between 2 and {FRAME_BYTES_MAX}")]
    Length {
        /// What the length field says.
        length: usize,
    },
    /// A format level that this release does not read: the two processes are of releases too far
    /// apart.
    #[error("link frame has format level {level}, this release reads {FORMAT_LEVEL}")]
    UnknownLevel {
        /// The frame's level.
        level: u8,
    },
    /// A type that the format level does not have.
    #[error("link frame type {frame_type} is not in format level {FORMAT_LEVEL}")]
    UnknownType {
        /// The frame's type.
        frame_type: u8,
    },
    /// The payload ends inside a field.
    #[error("link frame type {frame_type} ends inside its fields")]
    Truncated {
        /// The frame's type.
        frame_type: u8,
    },
    /// The payload goes on after its last field.
    #[error("link frame type {frame_type} has {count} bytes after its fields")]
    TrailingBytes {
        /// The frame's type.
        frame_type: u8,
        /// How many.
        count: usize,
    },
    /// A field holds a value that its type does not have.
    #[error("link frame has an impossible {field}")]
    Value {
        /// Which field.
        field: &'static str,
    },
    /// The flow of a message cannot be read.
    #[error("link frame has an unreadable flow")]
    Flow(#[from] FlowDecodeError),
    /// A frame to be written has a field over its limit.
    #[error("{field} of {length} bytes or items does not fit a link frame")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// How long it is.
        length: usize,
    },
}

impl LinkFrame {
    /// Appends the frame's bytes to `out`; on an error `out` is as before.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when a field is over its limit; sending it again does not help.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        self.check_limits()?;
        let start = out.len();
        out.put_u32(0); // the length, known at the end
        out.put_u8(self.frame_type());
        out.put_u8(FORMAT_LEVEL);
        self.encode_payload(out);
        let length = out.len() - start - LENGTH_BYTES;
        if length > FRAME_BYTES_MAX {
            out.truncate(start);
            return Err(FrameError::TooLong { field: "frame", length });
        }
        let length = u32::try_from(length).expect("FRAME_BYTES_MAX fits u32");
        out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Cuts the next frame off the front of `buffer`; `None` while it is incomplete. Message bytes
    /// are slices of `buffer`, not copies.
    ///
    /// # Errors
    /// [`FrameError`] when the bytes are no frame; the link must be closed, for its framing is
    /// lost.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<LinkFrame>, FrameError> {
        let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(2..=FRAME_BYTES_MAX).contains(&length) {
            return Err(FrameError::Length { length });
        }
        if buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        let mut frame = buffer.split_to(LENGTH_BYTES + length).freeze();
        frame.advance(LENGTH_BYTES);
        let (frame_type, level) = (frame.get_u8(), frame.get_u8());
        if level != FORMAT_LEVEL {
            return Err(FrameError::UnknownLevel { level });
        }
        let mut fields = Fields { frame_type, rest: frame };
        let frame = fields.frame()?;
        match fields.rest.len() {
            0 => Ok(Some(frame)),
            count => Err(FrameError::TrailingBytes { frame_type, count }),
        }
    }
}

#[cfg(test)]
mod tests;
