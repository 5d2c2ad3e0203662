//! What each side of a call keeps of it, and what it tolerates from the other side (RFC 3261 §12).
//!
//! Pure. Stricter than a phone has to be: every departure is told, because after a takeover it is the CSeq that
//! goes back and the tags that change sides. A request that comes again by another hop is none: whoever loses the hop
//! that he sent it by has to send it by another (RFC 3263 §4.3), and does not know how far it came.

use sip::{HeaderName, Message, Method, NameAddr, Via};

use crate::{Draft, Phone};

/// INVITEs of the other side whose ACKs are still known.
const INVITES_MAX: usize = 16;

/// Why a request does not fit its dialog, and the status it is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// 481 or 500.
    pub(crate) status: u16,
    /// What does not fit.
    pub(crate) why: String,
    /// Nobody's mistake: it is the last request again, by another hop.
    pub(crate) is_failover: bool,
}

/// The last request of the other side, and who passed it on.
#[derive(Debug, Clone)]
struct Last {
    method: Vec<u8>,
    path: Vec<Vec<u8>>,
}

impl Last {
    fn of(request: &Message) -> Last {
        Last {
            method: request.method().map_or(Vec::new(), |method| method.as_bytes().to_vec()),
            path: request
                .values(HeaderName::Via)
                .filter_map(|via| Via::parse(via).ok())
                .map(|via| via.sent_by().to_vec())
                .collect(),
        }
    }

    fn came_by_another_path_than(&self, other: &Last) -> bool {
        self.method == other.method && self.path != other.path
    }
}

/// A dialog, early or confirmed.
#[derive(Debug, Clone)]
pub(crate) struct Dialog {
    pub(crate) call_id: String,
    /// From of own requests, with tag.
    local: String,
    /// To of own requests, with tag once it is known.
    remote: String,
    pub(crate) target: String,
    routes: Vec<String>,
    /// CSeq number of the last own request.
    local_cseq: u32,
    /// CSeq number of the last request of the other side.
    remote_cseq: Option<u32>,
    /// That request.
    last: Option<Last>,
    /// CSeq numbers of the other side's INVITEs, the last one at the end: their ACKs have the same.
    remote_invites: Vec<u32>,
}

impl Dialog {
    /// RFC 3261 §12.1.2: the route set is the Record-Route of the response in reverse order.
    pub(crate) fn of_caller(invite: &Message, response: &Message) -> Dialog {
        let mut routes: Vec<String> = response.values(HeaderName::RecordRoute).map(text).collect();
        routes.reverse();
        Dialog {
            call_id: text(invite.call_id().unwrap_or_default()),
            local: text(invite.field(HeaderName::From).unwrap_or_default()),
            remote: text(response.field(HeaderName::To).unwrap_or_default()),
            target: contact_uri(response).unwrap_or_default(),
            routes,
            local_cseq: cseq(invite),
            remote_cseq: None,
            last: None,
            remote_invites: Vec::new(),
        }
    }

    /// RFC 3261 §12.1.1: the route set is the Record-Route of the request in its order.
    pub(crate) fn of_callee(invite: &Message, tag: &str) -> Dialog {
        Dialog {
            call_id: text(invite.call_id().unwrap_or_default()),
            local: format!("{};tag={tag}", text(invite.field(HeaderName::To).unwrap_or_default())),
            remote: text(invite.field(HeaderName::From).unwrap_or_default()),
            target: contact_uri(invite).unwrap_or_default(),
            routes: invite.values(HeaderName::RecordRoute).map(text).collect(),
            local_cseq: 0,
            remote_cseq: Some(cseq(invite)),
            last: Some(Last::of(invite)),
            remote_invites: vec![cseq(invite)],
        }
    }

    /// The next request of this side, begun.
    pub(crate) fn request(&mut self, phone: &Phone, line: usize, method: Method<'_>) -> Draft {
        self.local_cseq += 1;
        self.draft(phone, line, method)
    }

    /// The ACK to the 2xx that answered this side's last request, an INVITE.
    pub(crate) fn ack(&self, phone: &Phone, line: usize) -> Draft {
        self.draft(phone, line, Method::Ack)
    }

    fn draft(&self, phone: &Phone, line: usize, method: Method<'_>) -> Draft {
        let draft = phone
            .request(line, method, &self.target)
            .from(&self.local)
            .to(&self.remote)
            .call_id(&self.call_id)
            .cseq(self.local_cseq);
        self.routes.iter().fold(draft, |draft, route| draft.header("Route", route))
    }

    /// The other side's Contact may have moved (RFC 3261 §12.2.1.2, §12.2.2).
    pub(crate) fn refresh_target(&mut self, message: &Message) {
        if let Some(target) = contact_uri(message) {
            self.target = target;
        }
    }

    /// Whether a request of the other side fits (RFC 3261 §12.2.2), and that it came.
    pub(crate) fn take(&mut self, request: &Message) -> Result<(), Misfit> {
        let from = tag(request.field(HeaderName::From));
        let to = tag(request.field(HeaderName::To));
        let (local, remote) = (tag_of(&self.local), tag_of(&self.remote));
        if from == local && to == remote {
            return Err(misfit(481, request, "has its tags turned round"));
        }
        if from != remote || to != local {
            let why = format!("has tags {from}/{to} where {remote}/{local} belong");
            return Err(misfit(481, request, &why));
        }
        let number = cseq(request);
        match request.method() {
            // Also of an earlier one: a 2xx that comes again is acknowledged again.
            Some(Method::Ack) if self.remote_invites.contains(&number) => return Ok(()),
            Some(Method::Ack) => {
                let why = format!("has CSeq {number}, the INVITEs had {:?}", self.remote_invites);
                return Err(misfit(500, request, &why));
            }
            Some(_) | None => {}
        }
        let request_now = Last::of(request);
        if let Some(last) = self.remote_cseq
            && number <= last
        {
            let is_again = |last: &Last| request_now.came_by_another_path_than(last);
            let is_failover = number == last && self.last.as_ref().is_some_and(is_again);
            let misfit = misfit(500, request, &format!("has CSeq {number} after {last}"));
            return Err(Misfit { is_failover, ..misfit });
        }
        self.remote_cseq = Some(number);
        self.last = Some(request_now);
        if request.method() == Some(Method::Invite) {
            self.remote_invites.push(number);
            let excess = self.remote_invites.len().saturating_sub(INVITES_MAX);
            self.remote_invites.drain(..excess);
        }
        Ok(())
    }

    /// Whether an ACK is that to the other side's last INVITE.
    pub(crate) fn is_ack_to_last(&self, ack: &Message) -> bool {
        self.remote_invites.last() == Some(&cseq(ack))
    }
}

fn misfit(status: u16, request: &Message, why: &str) -> Misfit {
    let method = text(request.method().map(|method| method.as_bytes()).unwrap_or_default());
    let call_id = text(request.call_id().unwrap_or_default());
    Misfit { status, why: format!("{method} in {call_id} {why}"), is_failover: false }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn cseq(message: &Message) -> u32 {
    message.cseq().map_or(0, |cseq| cseq.number)
}

fn tag(value: Option<&[u8]>) -> String {
    value
        .and_then(|value| NameAddr::parse(value).ok())
        .and_then(|address| address.tag().map(text))
        .unwrap_or_default()
}

fn tag_of(value: &str) -> String {
    tag(Some(value.as_bytes()))
}

/// URI of the Contact.
pub(crate) fn contact_uri(message: &Message) -> Option<String> {
    let value = message.field(HeaderName::Contact)?;
    NameAddr::parse(value).ok().map(|contact| text(contact.uri()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn request(method: &str, cseq: u32, from: &str, to: &str) -> Message {
        request_by("h", method, cseq, from, to)
    }

    fn request_by(hop: &str, method: &str, cseq: u32, from: &str, to: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "{method} sip:bob@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP {hop};branch=z9hG4bK1\r\n\
             From: <sip:alice@x>;tag={from}\r\nTo: <sip:bob@x>{to}\r\nCall-ID: c\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:alice@192.0.2.2>\r\n\r\n"
        )))
        .expect("a request")
    }

    /// A callee's dialog: the caller's tag is `a`, the own one `b`, the INVITE's CSeq 7.
    fn dialog() -> Dialog {
        Dialog::of_callee(&request("INVITE", 7, "a", ""), "b")
    }

    #[test]
    fn requests_in_order_fit() {
        let mut dialog = dialog();
        for (method, cseq) in [("ACK", 7), ("INFO", 8), ("INVITE", 10), ("ACK", 10), ("BYE", 11)] {
            assert_eq!(dialog.take(&request(method, cseq, "a", ";tag=b")), Ok(()), "{method}");
        }
    }

    #[test]
    fn the_ack_of_an_earlier_invite_fits_but_is_not_that_of_the_last() {
        let mut dialog = dialog();
        let ack = |cseq| request("ACK", cseq, "a", ";tag=b");
        assert_eq!(dialog.take(&request("INVITE", 9, "a", ";tag=b")), Ok(()));
        assert_eq!((dialog.take(&ack(7)), dialog.is_ack_to_last(&ack(7))), (Ok(()), false));
        assert_eq!((dialog.take(&ack(9)), dialog.is_ack_to_last(&ack(9))), (Ok(()), true));
    }

    #[test]
    fn a_cseq_that_does_not_grow_is_told() {
        for (method, cseq) in [("BYE", 7), ("BYE", 6), ("INVITE", 7), ("ACK", 8), ("ACK", 6)] {
            let misfit = dialog().take(&request(method, cseq, "a", ";tag=b"));
            assert_eq!(misfit.map_err(|misfit| misfit.status), Err(500), "{method} {cseq}");
        }
    }

    #[test]
    fn a_request_that_comes_again_by_another_hop_is_no_mistake_and_not_taken_twice() {
        let mut dialog = dialog();
        let mut take = |hop: &str, method: &str, cseq: u32| {
            dialog.take(&request_by(hop, method, cseq, "a", ";tag=b"))
        };
        assert_eq!(take("edge1", "INFO", 8), Ok(()));
        for (hop, method, cseq, expected) in [
            ("edge2", "INFO", 8, true),
            ("edge1", "INFO", 8, false),
            ("edge2", "MESSAGE", 8, false),
            ("edge2", "INFO", 7, false),
        ] {
            let misfit = take(hop, method, cseq).expect_err("it had that number");
            assert_eq!((misfit.status, misfit.is_failover), (500, expected), "{hop} {method}");
        }
        assert_eq!(take("edge2", "INFO", 9), Ok(()));
    }

    #[test]
    fn other_tags_are_told_and_turned_ones_by_name() {
        let why = |from: &str, to: &str| {
            let misfit = dialog().take(&request("BYE", 8, from, to)).expect_err("it misfits");
            assert_eq!(misfit.status, 481);
            misfit.why
        };
        assert!(why("b", ";tag=a").contains("turned round"));
        assert!(why("a", ";tag=x").contains("a/x where a/b belong"));
        assert!(why("x", ";tag=b").contains("x/b"));
        assert!(why("a", "").contains("a/ where"));
    }

    #[test]
    fn a_contact_moves_the_target() {
        let mut dialog = dialog();
        assert_eq!(dialog.target, "sip:alice@192.0.2.2");
        let moved = Message::parse(Bytes::from_static(
            b"SIP/2.0 200 OK\r\nContact: <sip:alice@192.0.2.3>\r\n\r\n",
        ));
        dialog.refresh_target(&moved.expect("a response"));
        assert_eq!(dialog.target, "sip:alice@192.0.2.3");
    }
}
