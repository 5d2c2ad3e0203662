//! The two requests a client transaction derives from its INVITE: ACK for a final response other than 2xx, CANCEL.
//!
//! RFC 3261 §17.1.1.3 and §9.1. Both go hop by hop under the INVITE's own top Via, so that the next hop finds the
//! transaction. The ACK for a 2xx is a request of its own, with its own branch, and not built here.

use bytes::{Bytes, BytesMut};

use crate::header_name::HeaderName;
use crate::message::Message;
use crate::method::Method;
use crate::write::{put_decimal, put_field};

/// Builds the ACK for the final `response`, 300 to 699, to the `invite` we sent.
///
/// # Panics
/// `invite` is not a request that passed [`Message::check_request`]: we sent it, so that is a bug of ours.
pub fn ack(invite: &Message, response: &Message) -> Bytes {
    let to = response.field(HeaderName::To).or(invite.field(HeaderName::To));
    derive(invite, Method::Ack, to.expect("every INVITE we send has a To"))
}

/// Builds the CANCEL for the `invite` we sent.
///
/// # Panics
/// `invite` is not a request that passed [`Message::check_request`]: we sent it, so that is a bug of ours.
pub fn cancel(invite: &Message) -> Bytes {
    derive(
        invite,
        Method::Cancel,
        invite.field(HeaderName::To).expect("every INVITE we send has a To"),
    )
}

fn derive(invite: &Message, method: Method<'_>, to: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(invite.request_uri().expect("an INVITE is a request"));
    out.extend_from_slice(b" SIP/2.0\r\n");
    let via = invite.values(HeaderName::Via).next().expect("every INVITE we send has a Via");
    put_field(&mut out, b"Via", via);
    put_field(&mut out, b"Max-Forwards", b"70");
    for route in invite.fields(HeaderName::Route) {
        put_field(&mut out, b"Route", route);
    }
    put_field(
        &mut out,
        b"From",
        invite.field(HeaderName::From).expect("every INVITE we send has a From"),
    );
    put_field(&mut out, b"To", to);
    put_field(
        &mut out,
        b"Call-ID",
        invite.field(HeaderName::CallId).expect("every INVITE we send has a Call-ID"),
    );
    out.extend_from_slice(b"CSeq: ");
    put_decimal(
        &mut out,
        u64::from(invite.cseq().expect("every INVITE we send has a CSeq").number),
    );
    out.extend_from_slice(b" ");
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: 0\r\n\r\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framer::Framing;

    fn message(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).expect("message")
    }

    fn invite() -> Message {
        message(concat!(
            "INVITE sip:bob@192.0.2.4 SIP/2.0\r\n",
            "Via: SIP/2.0/UDP pc33;branch=z9hG4bKkjshdyff, SIP/2.0/UDP below;branch=z9hG4bKx\r\n",
            "To: Bob <sip:bob@biloxi.com>\r\nFrom: <sip:alice@atlanta.com>;tag=88sja8x\r\n",
            "Route: <sip:p1;lr>,\r\n <sip:p2;lr>\r\nCall-ID: 987asjd97y7atg\r\nCSeq: 986759 INVITE\r\n",
            "Require: 100rel\r\nContent-Length: 0\r\n\r\n"
        ))
    }

    #[test]
    fn ack_has_the_to_of_the_response_and_the_rest_of_the_invite() {
        let response = message(concat!(
            "SIP/2.0 486 Busy Here\r\nVia: SIP/2.0/UDP pc33;branch=z9hG4bKkjshdyff;received=192.0.2.1\r\n",
            "To: Bob <sip:bob@biloxi.com>;tag=99sa0xk\r\nFrom: <sip:alice@atlanta.com>;tag=88sja8x\r\n",
            "Call-ID: 987asjd97y7atg\r\nCSeq: 986759 INVITE\r\nContent-Length: 0\r\n\r\n"
        ));
        let ack = Message::parse(ack(&invite(), &response)).expect("ACK");
        assert_eq!(ack.check_request(Framing::Stream), Ok(()));
        assert_eq!(ack.method(), Some(Method::Ack));
        assert_eq!(ack.to().expect("To").tag(), Some(&b"99sa0xk"[..]));
        assert_eq!(
            ack.values(HeaderName::Via).collect::<Vec<_>>(),
            [b"SIP/2.0/UDP pc33;branch=z9hG4bKkjshdyff"]
        );
        assert_eq!(ack.values(HeaderName::Route).count(), 2);
        assert_eq!(ack.cseq().expect("CSeq").number, 986_759);
    }

    #[test]
    fn cancel_is_the_invite_without_require_and_body() {
        let cancel = Message::parse(cancel(&invite())).expect("CANCEL");
        assert_eq!(cancel.check_request(Framing::Stream), Ok(()));
        assert_eq!(cancel.method(), Some(Method::Cancel));
        assert_eq!(cancel.to().expect("To").tag(), None);
        assert_eq!(cancel.field(HeaderName::Require), None);
        assert_eq!(cancel.request_uri(), invite().request_uri());
    }
}
