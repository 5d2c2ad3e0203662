//! The messages that the steps are measured with: as large as those of real phones, always the same.

use std::net::SocketAddr;

use bytes::Bytes;
use sip::Message;
use transport::{Flow, Transport};

/// Where the edge listens.
pub const EDGE: &str = "192.0.2.1:5060";
/// A phone behind a NAT.
pub const PHONE: &str = "198.51.100.7:49152";

const REGISTER: &str = "\
REGISTER sip:example.org SIP/2.0
Via: SIP/2.0/UDP 10.0.0.17:5060;branch=z9hG4bK-524287-1---8c5b1f2a3d;rport
Max-Forwards: 70
Contact: <sip:user{user}@10.0.0.17:5060;rinstance=6d1f0c2ab>;expires=3600
To: <sip:user{user}@example.org>
From: <sip:user{user}@example.org>;tag=8a1b2c3d
Call-ID: 84Kc0aZk2N3{user}@10.0.0.17
CSeq: {cseq} REGISTER
Expires: 3600
Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, NOTIFY
User-Agent: Softphone 5.2.19
Content-Length: 0

";

const INVITE: &str = "\
INVITE sip:user2@example.org SIP/2.0
Via: SIP/2.0/UDP 10.0.0.17:5060;branch=z9hG4bK-524287-1---9d6c2e4b5a;rport
Max-Forwards: 70
Contact: <sip:user1@10.0.0.17:5060>
To: <sip:user2@example.org>
From: <sip:user1@example.org>;tag=4f5e6d7c
Call-ID: 95Ld1bAl3O4@10.0.0.17
CSeq: 1 INVITE
Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, NOTIFY
Content-Type: application/sdp
User-Agent: Softphone 5.2.19
Content-Length: 159

v=0
o=user1 2890844526 2890844526 IN IP4 10.0.0.17
s=-
c=IN IP4 10.0.0.17
t=0 0
m=audio 49172 RTP/AVP 0 8 101
a=rtpmap:0 PCMU/8000
a=rtpmap:101 telephone-event/8000
";

fn wire(text: &str) -> Bytes {
    Bytes::from(text.replace('\n', "\r\n"))
}

/// A REGISTER of a user with one contact, as it comes from the phone.
pub fn register(user: u32, cseq: u32) -> Bytes {
    wire(&REGISTER.replace("{user}", &user.to_string()).replace("{cseq}", &cseq.to_string()))
}

/// The same as a container gets it: with the edge's Via, the source in the phone's, and the Path to it.
pub fn register_behind_edge(user: u32, cseq: u32) -> Bytes {
    let text = String::from_utf8(register(user, cseq).to_vec()).expect("it is text");
    let path = format!("Path: <sip:{}@{EDGE};lr;ob>\r\n", "A".repeat(44));
    let via = format!(
        "Via: SIP/2.0/UDP {EDGE};branch=z9hG4bK{};{}\r\nVia: ",
        "b".repeat(22),
        "c".repeat(30)
    );
    Bytes::from(text.replacen("Via: ", &(path + &via), 1))
}

/// An INVITE with a session description, as it comes from the phone.
pub fn invite() -> Bytes {
    wire(INVITE)
}

/// # Panics
/// Never: the messages here are well formed.
pub fn parsed(bytes: Bytes) -> Message {
    Message::parse(bytes).expect("it is well formed")
}

/// The phone's flow over UDP.
pub fn phone_flow() -> Flow {
    let address = |text: &str| -> SocketAddr { text.parse().expect("it is an address") };
    Flow::new(Transport::Udp, address(EDGE), address(PHONE))
}

#[cfg(test)]
mod tests {
    use sip::HeaderName;

    use super::*;

    #[test]
    fn messages_are_what_they_say() {
        let message = parsed(register_behind_edge(7, 3));
        assert_eq!(message.values(HeaderName::Via).count(), 2);
        assert_eq!(message.values(HeaderName::Path).count(), 1);
        assert_eq!(message.field(HeaderName::CSeq).expect("it has one"), b"3 REGISTER");
        let message = parsed(invite());
        assert_eq!(message.body().len(), 159);
    }
}
