//! A flow: the transport and the two addresses a message came by, and goes back by (RFC 5626 §3.3).
//!
//! Turns a [`Flow`] into 13 bytes (IPv4) or 37 bytes (IPv6) and back. The edge puts those bytes,
//! MACed, into Via, Path and Record-Route; the link carries them beside every message from outside.
//!
//! Layout: one kind byte, then local address, local port, remote address, remote port, all
//! big-endian. The kind byte's high nibble is the format level, bits 1–3 are the transport, bit 0
//! is set for 16-byte addresses.
//!
//! Addresses are canonical: an IPv4-mapped IPv6 address is the IPv4 address, so that one phone is
//! one flow whether its datagram came by a dual-stack socket or not. Scope ids and flow labels are
//! not kept: link-local addresses carry no SIP here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BufMut;
use smallvec::SmallVec;
use thiserror::Error;

/// Most bytes that an encoded flow can have: kind byte and two IPv6 addresses with ports.
pub const FLOW_BYTES_MAX: usize = 1 + 2 * (16 + 2);

/// Format level written into the high nibble of the kind byte.
const FORMAT_LEVEL: u8 = 1;

/// An encoded flow, without heap.
pub type FlowBytes = SmallVec<[u8; FLOW_BYTES_MAX]>;

/// What carries SIP between an edge and the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Byte streams.
    Tcp,
}

impl Transport {
    /// The name in a Via header field, for example `UDP`. Source: RFC 3261 §25.1, `transport`.
    pub const fn via_name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        }
    }

    /// The value of a `transport` URI parameter, for example `udp`. Source: RFC 3261 §19.1.1.
    pub const fn uri_name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        }
    }

    /// The transport named by a Via header field or URI parameter, in any case; `None` for one that
    /// is not spoken here.
    pub fn parse(name: &[u8]) -> Option<Transport> {
        if name.eq_ignore_ascii_case(b"udp") {
            Some(Transport::Udp)
        } else if name.eq_ignore_ascii_case(b"tcp") {
            Some(Transport::Tcp)
        } else {
            None
        }
    }

    /// Whether messages are framed by Content-Length in a byte stream, and retransmissions are the
    /// transport's business.
    pub const fn is_stream(self) -> bool {
        match self {
            Transport::Udp => false,
            Transport::Tcp => true,
        }
    }

    /// The number that flow tokens and link frames carry.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Transport::Udp => 0,
            Transport::Tcp => 1,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Transport> {
        match code {
            0 => Some(Transport::Udp),
            1 => Some(Transport::Tcp),
            _ => None,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri_name())
    }
}

/// One way to and from a peer: a UDP address pair, or one stream connection. Build it with
/// [`Flow::new`], which makes the addresses canonical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// What carries the messages.
    pub transport: Transport,
    /// Our end: concrete, never a wildcard address.
    pub local: SocketAddr,
    /// The peer's end, as seen from here (behind a NAT: the NAT's).
    pub remote: SocketAddr,
}

/// Why bytes are not a flow. They come from a token that was authenticated, so this is version skew
/// or a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FlowDecodeError {
    /// Fewer bytes than the kind byte calls for.
    #[error("flow needs {needed} bytes and has {found}")]
    Truncated {
        /// Bytes that the kind byte calls for.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// More bytes than the kind byte calls for.
    #[error("flow is {expected} bytes long and followed by others")]
    TrailingBytes {
        /// Bytes that the kind byte calls for.
        expected: usize,
    },
    /// A format level or transport that this release does not know.
    #[error("flow kind {0:#04x} is not known to this release")]
    UnknownKind(u8),
}

impl Flow {
    /// A flow with canonical addresses.
    pub fn new(transport: Transport, local: SocketAddr, remote: SocketAddr) -> Flow {
        Flow { transport, local: canonical(local), remote: canonical(remote) }
    }

    /// Whether whoever listens at `own` may have this flow: a connection that it opened has a port of its own.
    pub fn may_be_of(&self, own: SocketAddr) -> bool {
        let own = canonical(own);
        own == self.local || (self.transport.is_stream() && own.ip() == self.local.ip())
    }

    /// The flow's compact form: 13 bytes between IPv4 addresses, else 37.
    pub fn to_bytes(&self) -> FlowBytes {
        let mut out = FlowBytes::new();
        let (local, remote) = (canonical(self.local), canonical(self.remote));
        let kind = (FORMAT_LEVEL << 4) | (self.transport.code() << 1);
        match (local.ip(), remote.ip()) {
            (IpAddr::V4(local_ip), IpAddr::V4(remote_ip)) => {
                out.push(kind);
                out.extend_from_slice(&local_ip.octets());
                out.extend_from_slice(&local.port().to_be_bytes());
                out.extend_from_slice(&remote_ip.octets());
                out.extend_from_slice(&remote.port().to_be_bytes());
            }
            (local_ip, remote_ip) => {
                out.push(kind | 1);
                out.extend_from_slice(&wide(local_ip));
                out.extend_from_slice(&local.port().to_be_bytes());
                out.extend_from_slice(&wide(remote_ip));
                out.extend_from_slice(&remote.port().to_be_bytes());
            }
        }
        out
    }

    /// Appends the compact form to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.to_bytes());
    }

    /// Reads a flow that is exactly `bytes`.
    ///
    /// # Errors
    /// [`FlowDecodeError`] when the bytes are too few, too many, or of a kind that this release
    /// does not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Flow, FlowDecodeError> {
        let (flow, length) = Flow::decode(bytes)?;
        if length == bytes.len() {
            Ok(flow)
        } else {
            Err(FlowDecodeError::TrailingBytes { expected: length })
        }
    }

    /// Reads a flow from the front of `bytes`, and says how many bytes it took.
    ///
    /// # Errors
    /// [`FlowDecodeError`] when the bytes are too few or of a kind that this release does not know.
    pub fn decode(bytes: &[u8]) -> Result<(Flow, usize), FlowDecodeError> {
        let kind = *bytes.first().ok_or(FlowDecodeError::Truncated { needed: 1, found: 0 })?;
        if kind >> 4 != FORMAT_LEVEL {
            return Err(FlowDecodeError::UnknownKind(kind));
        }
        let transport =
            Transport::from_code((kind >> 1) & 0b111).ok_or(FlowDecodeError::UnknownKind(kind))?;
        let address_bytes = if kind & 1 == 0 { 4 } else { 16 };
        let needed = 1 + 2 * (address_bytes + 2);
        let fields = bytes
            .get(1..needed)
            .ok_or(FlowDecodeError::Truncated { needed, found: bytes.len() })?;
        let (local, remote) = fields.split_at(address_bytes + 2);
        Ok((Flow::new(transport, address(local), address(remote)), needed))
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}<->{}", self.transport, self.local, self.remote)
    }
}

/// The address without an IPv4-in-IPv6 mapping, scope id or flow label.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Reads 4 or 16 address bytes and two port bytes.
fn address(field: &[u8]) -> SocketAddr {
    let (ip, port) = field.split_at(field.len() - 2);
    let ip = match <[u8; 4]>::try_from(ip) {
        Ok(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(
            <[u8; 16]>::try_from(ip).expect("decode cuts 4 or 16 address bytes"),
        )),
    };
    SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn flow(transport: Transport, local: &str, remote: &str) -> Flow {
        Flow::new(transport, local.parse().expect("local"), remote.parse().expect("remote"))
    }

    #[test]
    fn ipv4_flow_takes_13_bytes_and_ipv6_flow_37() {
        let narrow = flow(Transport::Udp, "192.0.2.1:5060", "198.51.100.7:49152");
        assert_eq!(
            narrow.to_bytes().as_slice(),
            [0x10, 192, 0, 2, 1, 0x13, 0xc4, 198, 51, 100, 7, 0xc0, 0x00]
        );
        let wide = flow(Transport::Tcp, "[2001:db8::1]:5060", "[2001:db8::2]:49152");
        assert_eq!(wide.to_bytes().len(), FLOW_BYTES_MAX);
        assert_eq!(Flow::from_bytes(&wide.to_bytes()), Ok(wide));
    }

    #[test]
    fn ipv4_mapped_addresses_are_the_ipv4_flow() {
        let mapped = flow(Transport::Udp, "[::ffff:192.0.2.1]:5060", "[::ffff:198.51.100.7]:1024");
        assert_eq!(mapped, flow(Transport::Udp, "192.0.2.1:5060", "198.51.100.7:1024"));
        assert_eq!(mapped.to_bytes().len(), 13);
    }

    #[test]
    fn unknown_kinds_and_wrong_lengths_are_refused() {
        let bytes = flow(Transport::Udp, "192.0.2.1:5060", "198.51.100.7:1").to_bytes();
        assert_eq!(Flow::from_bytes(&[]), Err(FlowDecodeError::Truncated { needed: 1, found: 0 }));
        assert_eq!(
            Flow::from_bytes(&bytes[..12]),
            Err(FlowDecodeError::Truncated { needed: 13, found: 12 })
        );
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Flow::from_bytes(&longer), Err(FlowDecodeError::TrailingBytes { expected: 13 }));
        for kind in [0x00, 0x20, 0x1e, 0xff] {
            longer[0] = kind;
            assert_eq!(Flow::from_bytes(&longer), Err(FlowDecodeError::UnknownKind(kind)));
        }
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
            any::<([u8; 16], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        ]
    }

    proptest! {
        #[test]
        fn every_flow_comes_back_from_its_bytes(
            local in any_address(),
            remote in any_address(),
            tcp in any::<bool>(),
        ) {
            let flow = Flow::new(if tcp { Transport::Tcp } else { Transport::Udp }, local, remote);
            prop_assert_eq!(Flow::from_bytes(&flow.to_bytes()), Ok(flow));
        }

        #[test]
        fn decoding_arbitrary_bytes_never_panics(bytes in vec(any::<u8>(), 0..64)) {
            if let Ok((flow, length)) = Flow::decode(&bytes) {
                // Mapped addresses have two spellings; everything else has one.
                prop_assert!(flow.to_bytes().len() <= length);
            }
        }
    }
}
