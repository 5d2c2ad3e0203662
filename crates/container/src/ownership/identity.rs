//! From a message to the set-up it belongs to: a keyed hash of the server transaction of its INVITE.
//!
//! The edges give an INVITE, its CANCEL and the ACK to its failure one branch, whichever of them they come
//! through; a response of the callee carries it in the Via below the container's. So any container finds the record
//! from any of them. The key is of the lasting root: it must come out the same in every successor.

use sip::{HeaderName, Message, Via};
use topology::{Key, KeyRing};

use super::ID_BYTES;
use crate::transactions::key::ServerKey;

/// Names the set-up of one INVITE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetUpId(pub [u8; ID_BYTES]);

impl std::fmt::Debug for SetUpId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for SetUpId {
    /// In hexadecimal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Computes the ids of set-ups.
#[derive(Clone)]
pub struct Identifier(Key);

impl Identifier {
    /// Of this cluster.
    pub fn new(keys: &KeyRing) -> Identifier {
        Identifier(keys.derive("setup"))
    }

    /// The set-up that an INVITE begins, that a CANCEL cancels, or whose failure an ACK acknowledges.
    pub fn of_request(&self, request: &Message) -> Option<SetUpId> {
        ServerKey::cancelled_by(request).map(|key| self.of_key(&key))
    }

    /// The set-up that a response to a forwarded INVITE is for, its top Via being the container's. None when the
    /// Via below is no edge's.
    pub fn of_response(&self, response: &Message) -> Option<SetUpId> {
        let below = response.values(HeaderName::Via).nth(1)?;
        let below = Via::parse(below).ok()?;
        Some(self.of_key(&ServerKey::of_invite_branch(below.rfc3261_branch()?)))
    }

    fn of_key(&self, key: &ServerKey) -> SetUpId {
        SetUpId(self.0.tag(key.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(start: &str, vias: &str, cseq: &str) -> Message {
        let text = format!(
            "{start}\r\n{vias}From: <sip:a@x>;tag=f\r\nTo: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 7 {cseq}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        Message::parse(text.into_bytes().into()).unwrap()
    }

    const EDGE: &str = "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKedge\r\n";
    const OTHER_EDGE: &str = "Via: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKedge\r\n";
    const OURS: &str = "Via: SIP/2.0/TCP c1.n1.outlast.invalid;branch=z9hG4bKours\r\n";

    #[test]
    fn invite_cancel_ack_and_response_name_one_set_up() {
        let identifier = Identifier::new(&KeyRing::new([1; 32]));
        let request =
            |method: &str, via| message(&format!("{method} sip:b@x SIP/2.0"), via, method);
        let invite = identifier.of_request(&request("INVITE", EDGE)).unwrap();
        for (method, via) in [("CANCEL", OTHER_EDGE), ("ACK", EDGE), ("INVITE", OTHER_EDGE)] {
            assert_eq!(identifier.of_request(&request(method, via)), Some(invite), "{method}");
        }
        let response = message("SIP/2.0 200 OK", &[OURS, EDGE].concat(), "INVITE");
        assert_eq!(identifier.of_response(&response), Some(invite));
        let other = message("SIP/2.0 200 OK", &[EDGE, OURS].concat(), "INVITE");
        assert_ne!(identifier.of_response(&other), Some(invite));
        let for_nobody = message("SIP/2.0 200 OK", OURS, "INVITE");
        assert_eq!(identifier.of_response(&for_nobody), None);
    }

    #[test]
    fn rotation_changes_no_id() {
        let ring = KeyRing::made([9; 32], [1; 32], 0);
        let invite = message("INVITE sip:b@x SIP/2.0", EDGE, "INVITE");
        let id = |ring: &KeyRing| Identifier::new(ring).of_request(&invite);
        assert_eq!(id(&ring), id(&ring.rotated([2; 32], 1)));
    }
}
