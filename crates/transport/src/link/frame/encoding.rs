//! A frame's fields as bytes, and whether they fit.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use super::{
    ADDRESSES_MAX, Accepting, Destination, FrameError, HOPS_MAX, Incoming, LinkFrame,
    MESSAGE_BYTES_MAX, SendError, TEXT_BYTES_MAX,
};

pub(super) mod frame_type {
    pub(in super::super) const HELLO: u8 = 1;
    pub(in super::super) const HELLO_ANSWER: u8 = 2;
    pub(in super::super) const INCOMING: u8 = 3;
    pub(in super::super) const TAKEN: u8 = 4;
    pub(in super::super) const OUTGOING: u8 = 5;
    pub(in super::super) const SEND_FAILED: u8 = 6;
    pub(in super::super) const KEEP_ALIVE: u8 = 7;
    pub(in super::super) const HEARTBEAT: u8 = 8;
    pub(in super::super) const HAND_ON: u8 = 9;
    pub(in super::super) const PROBE: u8 = 10;
    pub(in super::super) const PROBE_ANSWER: u8 = 11;
}

impl LinkFrame {
    pub(super) fn frame_type(&self) -> u8 {
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

    pub(super) fn check_limits(&self) -> Result<(), FrameError> {
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

    pub(super) fn encode_payload(&self, out: &mut BytesMut) {
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
}

impl Accepting {
    const fn code(self) -> u8 {
        match self {
            Accepting::Accepting => 1,
            Accepting::Draining => 2,
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
