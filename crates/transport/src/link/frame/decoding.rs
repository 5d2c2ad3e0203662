//! A frame's fields cut out of its bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes};

use super::encoding::frame_type;
use super::{
    ADDRESSES_MAX, Accepting, Destination, EdgeAddress, FrameError, HOPS_MAX, Incoming, LinkFrame,
    MESSAGE_BYTES_MAX, SendError, TEXT_BYTES_MAX,
};
use crate::flow::{Flow, Transport};

impl SendError {
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
    const fn from_code(code: u8) -> Option<Accepting> {
        match code {
            1 => Some(Accepting::Accepting),
            2 => Some(Accepting::Draining),
            _ => None,
        }
    }
}

/// The fields of a payload, cut off one by one.
pub(super) struct Fields {
    pub(super) frame_type: u8,
    pub(super) rest: Bytes,
}

impl Fields {
    pub(super) fn frame(&mut self) -> Result<LinkFrame, FrameError> {
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
