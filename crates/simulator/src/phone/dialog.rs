//! What both ends of a call remember of it (RFC 3261 §12): enough to send ACK and BYE.

use std::net::SocketAddr;

use bytes::Bytes;
use sip::{HeaderName, Message, NameAddr, Uri};

use super::requests::value;
use super::text;

/// One end of a call that stands.
#[derive(Debug, Clone)]
pub(super) struct Dialog {
    call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
    cseq: u32,
}

impl Dialog {
    /// The caller's end, from its INVITE and the 2xx.
    pub(super) fn of_caller(invite: &Message, response: &Message) -> Dialog {
        let mut routes = record_routes(response);
        routes.reverse();
        Dialog {
            call_id: value(invite, HeaderName::CallId),
            local: value(invite, HeaderName::From),
            remote: value(response, HeaderName::To),
            target: contact_uri(response),
            routes,
            cseq: invite.cseq().expect("our own INVITE").number,
        }
    }

    /// The callee's end, from the INVITE and the tag in its own responses.
    pub(super) fn of_callee(invite: &Message, tag: &str) -> Dialog {
        Dialog {
            call_id: value(invite, HeaderName::CallId),
            local: format!("{};tag={tag}", value(invite, HeaderName::To)),
            remote: value(invite, HeaderName::From),
            target: contact_uri(invite),
            routes: record_routes(invite),
            cseq: 0,
        }
    }

    /// The ACK to the 2xx that made the dialog.
    pub(super) fn ack(&self, via: (SocketAddr, &str)) -> Bytes {
        self.request("ACK", self.cseq, via)
    }

    /// The next BYE.
    pub(super) fn bye(&mut self, via: (SocketAddr, &str)) -> Bytes {
        self.cseq += 1;
        self.request("BYE", self.cseq, via)
    }

    /// Where requests go first.
    pub(super) fn next_hop(&self) -> SocketAddr {
        let first = self.routes.first().map(|route| uri_of(route));
        let uri = first.unwrap_or_else(|| self.target.clone());
        let Ok(Uri::Sip(parsed)) = Uri::parse(uri.as_bytes()) else { panic!("no SIP URI: {uri}") };
        let address = parsed.host.ip().expect("everybody has a numeric address");
        SocketAddr::new(address, parsed.port.unwrap_or(5060))
    }

    fn request(&self, method: &str, cseq: u32, (address, branch): (SocketAddr, &str)) -> Bytes {
        let Dialog { call_id, local, remote, target, .. } = self;
        let routes: String =
            self.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        format!(
            "{method} {target} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {address};branch={branch};rport\r\n\
             {routes}\
             Max-Forwards: 70\r\n\
             From: {local}\r\n\
             To: {remote}\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\n\
             Content-Length: 0\r\n\r\n"
        )
        .into()
    }
}

/// The tag of To.
pub(super) fn to_tag(message: &Message) -> String {
    message.to().ok().and_then(|to| to.tag()).map(text).unwrap_or_default()
}

fn record_routes(message: &Message) -> Vec<String> {
    message.values(HeaderName::RecordRoute).map(text).collect()
}

fn contact_uri(message: &Message) -> String {
    uri_of(&value(message, HeaderName::Contact))
}

fn uri_of(value: &str) -> String {
    NameAddr::parse(value.as_bytes()).map(|name| text(name.uri())).unwrap_or_default()
}
