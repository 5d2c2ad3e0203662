//! Keep-alives: CRLF and STUN, answered without a look at anything else.
//!
//! RFC 5626 §3.5, §4.4, §8. A phone sends them to hold its NAT's mapping open and to learn that its
//! flow still works.

use std::net::SocketAddr;

use bytes::Bytes;
use sip::framer::Frame;

/// What a container's order to keep a UDP flow alive puts on the wire: empty lines, which every SIP
/// phone ignores (RFC 3261 §7.5) and every NAT counts.
pub const NAT_KEEP_ALIVE: Bytes = Bytes::from_static(b"\r\n\r\n");

const PONG: Bytes = Bytes::from_static(b"\r\n");

/// The answer to a keep-alive from `remote`; `None` for what needs none.
pub fn answer(frame: &Frame, remote: SocketAddr) -> Option<Bytes> {
    match frame {
        Frame::Ping => Some(PONG),
        Frame::Stun(datagram) => sip::stun::answer(datagram, remote),
        Frame::Pong | Frame::Message(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // RFC 5626 §4.4.1
    #[test]
    fn crlfcrlf_is_answered_by_crlf_and_crlf_by_nothing() {
        let remote = "192.0.2.9:4321".parse().unwrap();
        assert_eq!(answer(&Frame::Ping, remote).as_deref(), Some(&b"\r\n"[..]));
        assert_eq!(answer(&Frame::Pong, remote), None);
    }

    // RFC 5626 §8, RFC 5389 §7.3
    #[test]
    fn a_stun_binding_request_is_answered_with_the_mapped_address() {
        let remote = "192.0.2.9:4321".parse().unwrap();
        let request = sip::stun::binding_request([5; 12]);
        let answer = answer(&Frame::Stun(request), remote).unwrap();
        assert_eq!(sip::stun::mapped_address(&answer), Some(([5; 12], remote)));
    }
}
