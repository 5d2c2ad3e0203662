//! Requests for the tests of this crate, written as they come from an edge.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use sip::Message;
use state::UnixMillis;
use transport::{Flow, Transport};

pub(crate) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// Where the test phone's packets come from.
pub(crate) const PHONE: &str = "198.51.100.7:49152";

pub(crate) fn flow(transport: Transport) -> Flow {
    Flow::new(transport, "192.0.2.1:5060".parse().unwrap(), PHONE.parse().unwrap())
}

/// A request of Bob's to `uri`; `fields` is further header lines, each ended by a line feed.
pub(crate) fn request(method: &str, uri: &str, call_id: &str, cseq: u32, fields: &str) -> Message {
    let to = if method == "REGISTER" { "sip:bob@example.com" } else { uri };
    with_addresses(method, uri, "sip:bob@example.com", to, call_id, cseq, fields)
}

pub(crate) fn with_addresses(
    method: &str,
    uri: &str,
    from: &str,
    to: &str,
    call_id: &str,
    cseq: u32,
    fields: &str,
) -> Message {
    let text = format!(
        "{method} {uri} SIP/2.0\n\
         Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKedge{call_id}{cseq}\n\
         Via: SIP/2.0/UDP 10.0.0.7:5060;branch=z9hG4bKphone{call_id}{cseq};received=198.51.100.7\n\
         Max-Forwards: 69\nFrom: <{from}>;tag=f\nTo: <{to}>\nCall-ID: {call_id}\nCSeq: {cseq} {method}\n\
         {fields}Content-Length: 0\n\n"
    );
    Message::parse(Bytes::from(text.replace('\n', "\r\n"))).unwrap()
}

pub(crate) fn register(call_id: &str, cseq: u32, fields: &str) -> Message {
    request("REGISTER", "sip:example.com", call_id, cseq, fields)
}
