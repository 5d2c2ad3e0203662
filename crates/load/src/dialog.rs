//! One side of a call's dialog: what its requests need (RFC 3261 §12).
//!
//! Made from the message that established it: the caller's from the 2xx, the callee's from the INVITE.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use sip::{HeaderName, Message, NameAddr, Uri};

use crate::phones::{User, Values};

/// Port of a SIP URI that names none.
const PORT_DEFAULT: u16 = 5060;

/// Which way the Record-Route of the message is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// By the called side (RFC 3261 §12.1.1).
    AsItStands,
    /// By the caller (RFC 3261 §12.1.2).
    Reversed,
}

/// The dialog as one of its sides sees it.
#[derive(Clone, Debug)]
pub(crate) struct DialogSide {
    /// Who this side is.
    pub(crate) user: User,
    /// Where its requests go: to the first of the route set, else to the peer itself.
    pub(crate) next_hop: SocketAddr,
    target: Bytes,
    route: Bytes,
    local: Bytes,
    remote: Bytes,
    /// Of its last request.
    pub(crate) cseq: u32,
}

impl DialogSide {
    /// The caller's side, from the 2xx to its INVITE; `None` if that lacks what a dialog needs. Next hops that are
    /// names, not addresses, are taken to be `target`.
    pub(crate) fn of_caller(
        user: User,
        answer: &Message,
        cseq: u32,
        target: SocketAddr,
    ) -> Option<DialogSide> {
        let local = answer.field(HeaderName::From)?;
        let remote = answer.field(HeaderName::To)?;
        DialogSide::new(user, answer, Order::Reversed, (local, remote), cseq, target)
    }

    /// The callee's side, from the INVITE and the tag that was put onto its To; as for the caller otherwise.
    pub(crate) fn of_callee(
        user: User,
        invite: &Message,
        tag: &[u8],
        target: SocketAddr,
    ) -> Option<DialogSide> {
        let mut local = invite.field(HeaderName::To)?.to_vec();
        local.extend_from_slice(b";tag=");
        local.extend_from_slice(tag);
        let remote = invite.field(HeaderName::From)?;
        DialogSide::new(user, invite, Order::AsItStands, (&local, remote), 0, target)
    }

    fn new(
        user: User,
        message: &Message,
        order: Order,
        (local, remote): (&[u8], &[u8]),
        cseq: u32,
        target: SocketAddr,
    ) -> Option<DialogSide> {
        let contact = NameAddr::parse(message.values(HeaderName::Contact).next()?).ok()?.uri();
        let mut routes: Vec<&[u8]> = message.values(HeaderName::RecordRoute).collect();
        if order == Order::Reversed {
            routes.reverse();
        }
        let first = routes.first().and_then(|route| NameAddr::parse(route).ok());
        let next_hop = address(first.map_or(contact, |route| route.uri())).unwrap_or(target);

        // One allocation for all four: they live and die together.
        let routes_bytes: usize = routes.iter().map(|route| route.len() + 9).sum();
        let bytes = contact.len() + local.len() + remote.len() + routes_bytes;
        let mut all = BytesMut::with_capacity(bytes);
        all.put_slice(contact);
        all.put_slice(local);
        all.put_slice(remote);
        for route in routes {
            all.put_slice(b"Route: ");
            all.put_slice(route);
            all.put_slice(b"\r\n");
        }
        let mut all = all.freeze();
        Some(DialogSide {
            user,
            next_hop,
            target: all.split_to(contact.len()),
            local: all.split_to(local.len()),
            remote: all.split_to(remote.len()),
            route: all,
            cseq,
        })
    }

    /// What a request of this side is filled with.
    pub(crate) fn values(&self) -> Values<'_> {
        Values {
            user: self.user,
            cseq: self.cseq,
            target: &self.target,
            route: &self.route,
            local: &self.local,
            remote: &self.remote,
            ..Values::default()
        }
    }
}

/// The address of a URI whose host is one.
fn address(uri: &[u8]) -> Option<SocketAddr> {
    let uri = Uri::parse(uri).ok()?;
    let uri = uri.as_sip()?;
    Some(SocketAddr::new(uri.host.ip()?, uri.port.unwrap_or(PORT_DEFAULT)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sip::ResponseBuilder;

    use super::*;

    const INVITE: &str = "INVITE sip:b@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\n\
        Record-Route: <sip:192.0.2.8:5070;lr>, <sip:proxy.example.org;lr>\r\n\
        Record-Route: <sip:192.0.2.9;lr>\r\n\
        From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: x\r\nCSeq: 7 INVITE\r\n\
        Contact: <sip:a@192.0.2.1>\r\n\r\n";

    fn target() -> SocketAddr {
        "192.0.2.200:5060".parse().unwrap()
    }

    fn invite() -> Message {
        Message::parse(INVITE.as_bytes().into()).unwrap()
    }

    fn answer(contact: &[u8]) -> Message {
        let invite = invite();
        let answer = ResponseBuilder::new(&invite, 200).to_tag(b"2").record_route();
        Message::parse(answer.header(HeaderName::Contact, contact).build()).unwrap()
    }

    fn text(octets: &[u8]) -> &str {
        std::str::from_utf8(octets).unwrap()
    }

    #[test]
    fn the_caller_reads_the_record_route_backwards_and_the_callee_as_it_stands() {
        let caller =
            DialogSide::of_caller(3, &answer(b"<sip:b@192.0.2.2:99>"), 7, target()).unwrap();
        assert_eq!(
            text(caller.values().route),
            "Route: <sip:192.0.2.9;lr>\r\nRoute: <sip:proxy.example.org;lr>\r\n\
             Route: <sip:192.0.2.8:5070;lr>\r\n"
        );
        assert_eq!(caller.next_hop, "192.0.2.9:5060".parse().unwrap());
        assert_eq!(text(caller.values().target), "sip:b@192.0.2.2:99");
        assert_eq!(text(caller.values().remote), "<sip:b@example.org>;tag=2");
        assert_eq!((caller.values().user, caller.cseq), (3, 7));

        let callee = DialogSide::of_callee(4, &invite(), b"2", target()).unwrap();
        assert!(text(callee.values().route).starts_with("Route: <sip:192.0.2.8:5070;lr>\r\n"));
        assert_eq!(callee.next_hop, "192.0.2.8:5070".parse().unwrap());
        assert_eq!(text(callee.values().local), "<sip:b@example.org>;tag=2");
        assert_eq!(text(callee.values().remote), "<sip:a@example.org>;tag=1");
        assert_eq!(text(callee.values().target), "sip:a@192.0.2.1");
    }

    #[test]
    fn a_next_hop_that_is_a_name_is_the_target_and_one_without_contact_is_none() {
        let bare = INVITE.replace("<sip:192.0.2.8:5070;lr>, ", "");
        let callee =
            DialogSide::of_callee(4, &Message::parse(bare.into()).unwrap(), b"2", target());
        assert_eq!(callee.unwrap().next_hop, target());
        let contactless = INVITE.replace("Contact", "X-Contact");
        let contactless = Message::parse(contactless.into()).unwrap();
        assert!(DialogSide::of_callee(4, &contactless, b"2", target()).is_none());
    }
}
