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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

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

mod frame_type {
    pub(super) const HELLO: u8 = 1;
    pub(super) const HELLO_ANSWER: u8 = 2;
    pub(super) const INCOMING: u8 = 3;
    pub(super) const TAKEN: u8 = 4;
    pub(super) const OUTGOING: u8 = 5;
    pub(super) const SEND_FAILED: u8 = 6;
    pub(super) const KEEP_ALIVE: u8 = 7;
    pub(super) const HEARTBEAT: u8 = 8;
    pub(super) const HAND_ON: u8 = 9;
    pub(super) const PROBE: u8 = 10;
    pub(super) const PROBE_ANSWER: u8 = 11;
}

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

    fn frame_type(&self) -> u8 {
        match self {
            LinkFrame::Hello { .. } => frame_type::HELLO,
            LinkFrame::HelloAnswer { .. } => frame_type::HELLO_ANSWER,
            LinkFrame::Incoming(_) => frame_type::INCOMING,
            LinkFrame::Taken { .. } => frame_type::TAKEN,
            LinkFrame::Outgoing { .. } => frame_type::OUTGOING,
            LinkFrame::SendFailed { .. } => frame_type::SEND_FAILED,
            LinkFrame::KeepAlive { .. } => frame_type::KEEP_ALIVE,
            LinkFrame::Heartbeat { .. } => frame_type::HEARTBEAT,
            LinkFrame::HandOn { .. } => frame_type::HAND_ON,
            LinkFrame::Probe { .. } => frame_type::PROBE,
            LinkFrame::ProbeAnswer { .. } => frame_type::PROBE_ANSWER,
        }
    }

    fn check_limits(&self) -> Result<(), FrameError> {
        match self {
            LinkFrame::Hello { peer_name, addresses, .. } => {
                limit("peer name", peer_name.len(), TEXT_BYTES_MAX)?;
                limit("address list", addresses.len(), ADDRESSES_MAX)?;
                addresses
                    .iter()
                    .try_for_each(|a| limit("public address", a.public.len(), TEXT_BYTES_MAX))
            }
            LinkFrame::HelloAnswer { name, .. } => limit("name", name.len(), TEXT_BYTES_MAX),
            LinkFrame::Incoming(Incoming { hops, bytes, .. })
            | LinkFrame::HandOn { hops, bytes, .. } => {
                limit("hops", usize::from(*hops), usize::from(HOPS_MAX))?;
                limit("message", bytes.len(), MESSAGE_BYTES_MAX)
            }
            LinkFrame::Outgoing { bytes, .. } => limit("message", bytes.len(), MESSAGE_BYTES_MAX),
            LinkFrame::KeepAlive { flow_token } => {
                limit("flow token", flow_token.len(), MESSAGE_BYTES_MAX)
            }
            LinkFrame::Taken { .. }
            | LinkFrame::SendFailed { .. }
            | LinkFrame::Heartbeat { .. }
            | LinkFrame::Probe { .. }
            | LinkFrame::ProbeAnswer { .. } => Ok(()),
        }
    }

    fn encode_payload(&self, out: &mut BytesMut) {
        match self {
            LinkFrame::Hello { peer_name, incarnation, worker, addresses } => {
                put_text(out, peer_name);
                out.put_u64(*incarnation);
                out.put_u16(*worker);
                out.put_u16(u16::try_from(addresses.len()).expect("check_limits bounds the list"));
                for address in addresses {
                    out.put_u8(address.transport.code());
                    put_address(out, address.own);
                    put_text(out, &address.public);
                }
            }
            LinkFrame::HelloAnswer { name, incarnation } => {
                put_text(out, name);
                out.put_u64(*incarnation);
            }
            LinkFrame::Incoming(Incoming { sequence, hops, flow, bytes }) => {
                out.put_u64(*sequence);
                out.put_u8(*hops);
                flow.encode(out);
                out.put_slice(bytes);
            }
            LinkFrame::Taken { up_to } => out.put_u64(*up_to),
            LinkFrame::Outgoing { id, destination, bytes } => {
                out.put_u64(*id);
                put_destination(out, destination);
                out.put_slice(bytes);
            }
            LinkFrame::SendFailed { id, error } => {
                out.put_u64(*id);
                out.put_u8(error.code());
            }
            LinkFrame::KeepAlive { flow_token } => out.put_slice(flow_token),
            LinkFrame::Heartbeat { incarnation, accepting, load } => {
                out.put_u64(*incarnation);
                out.put_u8(accepting.code());
                out.put_u16(*load);
            }
            LinkFrame::HandOn { to, hops, flow, bytes } => {
                out.put_u64(*to);
                out.put_u8(*hops);
                flow.encode(out);
                out.put_slice(bytes);
            }
            LinkFrame::Probe { id } | LinkFrame::ProbeAnswer { id } => out.put_u64(*id),
        }
    }
}

impl SendError {
    const fn code(self) -> u8 {
        match self {
            SendError::FlowGone => 1,
            SendError::Unreachable => 2,
            SendError::Full => 3,
            SendError::Refused => 4,
        }
    }

    const fn from_code(code: u8) -> Option<SendError> {
        match code {
            1 => Some(SendError::FlowGone),
            2 => Some(SendError::Unreachable),
            3 => Some(SendError::Full),
            4 => Some(SendError::Refused),
            _ => None,
        }
    }
}

impl Accepting {
    const fn code(self) -> u8 {
        match self {
            Accepting::Accepting => 1,
            Accepting::Draining => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Accepting> {
        match code {
            1 => Some(Accepting::Accepting),
            2 => Some(Accepting::Draining),
            _ => None,
        }
    }
}

fn limit(field: &'static str, length: usize, max: usize) -> Result<(), FrameError> {
    if length <= max { Ok(()) } else { Err(FrameError::TooLong { field, length }) }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).expect("check_limits bounds texts"));
    out.put_slice(text.as_bytes());
}

fn put_address(out: &mut BytesMut, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(16);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(address.port());
}

fn put_destination(out: &mut BytesMut, destination: &Destination) {
    match destination {
        Destination::Via => out.put_u8(1),
        Destination::Route => out.put_u8(2),
        Destination::Address { transport, address } => {
            out.put_u8(3);
            out.put_u8(transport.code());
            put_address(out, *address);
        }
    }
}

/// The fields of a payload, cut off one by one.
struct Fields {
    frame_type: u8,
    rest: Bytes,
}

impl Fields {
    fn frame(&mut self) -> Result<LinkFrame, FrameError> {
        Ok(match self.frame_type {
            frame_type::HELLO => self.hello()?,
            frame_type::HELLO_ANSWER => {
                LinkFrame::HelloAnswer { name: self.text("name")?, incarnation: self.u64()? }
            }
            frame_type::INCOMING => LinkFrame::Incoming(Incoming {
                sequence: self.u64()?,
                hops: self.hops()?,
                flow: self.flow()?,
                bytes: self.message()?,
            }),
            frame_type::TAKEN => LinkFrame::Taken { up_to: self.u64()? },
            frame_type::OUTGOING => LinkFrame::Outgoing {
                id: self.u64()?,
                destination: self.destination()?,
                bytes: self.message()?,
            },
            frame_type::SEND_FAILED => {
                let id = self.u64()?;
                let error = SendError::from_code(self.u8()?)
                    .ok_or(FrameError::Value { field: "send error" })?;
                LinkFrame::SendFailed { id, error }
            }
            frame_type::KEEP_ALIVE => LinkFrame::KeepAlive { flow_token: self.message()? },
            frame_type::HEARTBEAT => {
                let incarnation = self.u64()?;
                let accepting = Accepting::from_code(self.u8()?)
                    .ok_or(FrameError::Value { field: "accepting" })?;
                LinkFrame::Heartbeat { incarnation, accepting, load: self.u16()? }
            }
            frame_type::HAND_ON => LinkFrame::HandOn {
                to: self.u64()?,
                hops: self.hops()?,
                flow: self.flow()?,
                bytes: self.message()?,
            },
            frame_type::PROBE => LinkFrame::Probe { id: self.u64()? },
            frame_type::PROBE_ANSWER => LinkFrame::ProbeAnswer { id: self.u64()? },
            frame_type => return Err(FrameError::UnknownType { frame_type }),
        })
    }

    fn hello(&mut self) -> Result<LinkFrame, FrameError> {
        let peer_name = self.text("peer name")?;
        let incarnation = self.u64()?;
        let worker = self.u16()?;
        let count = usize::from(self.u16()?);
        if count > ADDRESSES_MAX {
            return Err(FrameError::Value { field: "address count" });
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let (transport, own) = (self.transport()?, self.address()?);
            addresses.push(EdgeAddress { transport, own, public: self.text("public address")? });
        }
        Ok(LinkFrame::Hello { peer_name, incarnation, worker, addresses })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let field = *self
            .rest
            .first_chunk::<N>()
            .ok_or(FrameError::Truncated { frame_type: self.frame_type })?;
        self.rest.advance(N);
        Ok(field)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.take::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn hops(&mut self) -> Result<u8, FrameError> {
        match self.u8()? {
            hops @ 0..=HOPS_MAX => Ok(hops),
            _ => Err(FrameError::Value { field: "hops" }),
        }
    }

    fn flow(&mut self) -> Result<Flow, FrameError> {
        let (flow, length) = Flow::decode(&self.rest)?;
        self.rest.advance(length);
        Ok(flow)
    }

    fn text(&mut self, field: &'static str) -> Result<String, FrameError> {
        let length = usize::from(self.u16()?);
        if length > TEXT_BYTES_MAX {
            return Err(FrameError::Value { field });
        }
        if length > self.rest.len() {
            return Err(FrameError::Truncated { frame_type: self.frame_type });
        }
        let text = self.rest.split_to(length);
        let text = std::str::from_utf8(&text).map_err(|_| FrameError::Value { field })?;
        Ok(text.to_owned())
    }

    fn transport(&mut self) -> Result<Transport, FrameError> {
        Transport::from_code(self.u8()?).ok_or(FrameError::Value { field: "transport" })
    }

    fn address(&mut self) -> Result<SocketAddr, FrameError> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.take::<4>()?)),
            16 => IpAddr::V6(Ipv6Addr::from(self.take::<16>()?)),
            _ => return Err(FrameError::Value { field: "address" }),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    fn destination(&mut self) -> Result<Destination, FrameError> {
        match self.u8()? {
            1 => Ok(Destination::Via),
            2 => Ok(Destination::Route),
            3 => {
                Ok(Destination::Address { transport: self.transport()?, address: self.address()? })
            }
            _ => Err(FrameError::Value { field: "destination" }),
        }
    }

    /// The rest of the frame, as a slice of the read buffer.
    fn message(&mut self) -> Result<Bytes, FrameError> {
        if self.rest.len() > MESSAGE_BYTES_MAX {
            return Err(FrameError::Value { field: "message length" });
        }
        Ok(self.rest.split_to(self.rest.len()))
    }
}

#[cfg(test)]
mod tests;
