//! Via: filled in on receipt, added on the way out, followed on the way back.
//!
//! RFC 3261 §16.6(8), §18.2.1, §18.2.2; RFC 3581 §4. A Via that this edge adds to a request from
//! outside carries a `flow` parameter: the MACed flow the request came by. The response finds its
//! way by that alone, so a forged response cannot be aimed at anybody. Deliberately absent: `maddr`
//! (§18.2.2 would let a sender aim responses at a third party).

use std::net::SocketAddr;

use sip::Via;
use transport::{Flow, Transport};

use crate::branch::Branch;
use crate::flow_token::{FlowKeys, FlowToken, TokenKind};
use crate::header_value::HeaderValue;
use crate::listener::{Listener, PORT_DEFAULT};

/// The Via parameter with the token of the flow that the response goes back to.
const FLOW_PARAM: &[u8] = b"flow";

/// The top Via as it must be seen by the next hop: with `received` if the sender's address is not
/// its sent-by, and with `received` and `rport` if it asked for `rport`. `None` if nothing is to be
/// changed.
///
/// A `received` or filled-in `rport` that the sender wrote itself is replaced: it would steer the
/// response. Source: RFC 3261 §18.2.1, RFC 3581 §4.
pub(crate) fn filled_in(via: &Via<'_>, source: SocketAddr) -> Option<HeaderValue> {
    let asks_rport = via.rport().is_some();
    let differs = via.host.ip() != Some(source.ip());
    if !asks_rport && !differs && via.param(b"received").is_none() {
        return None;
    }
    let before_params = via.value.len() - via.params.as_bytes().len();
    let mut value = HeaderValue::new().with(via.value[..before_params].trim_ascii_end());
    for (name, parameter) in via.params.iter() {
        if name.eq_ignore_ascii_case(b"received") || name.eq_ignore_ascii_case(b"rport") {
            continue;
        }
        value.push(b";");
        value.push(name);
        if let Some(parameter) = parameter {
            value.push(b"=");
            value.push(parameter);
        }
    }
    if differs || asks_rport {
        value.push(b";received=");
        value.push_ip(source.ip());
    }
    if asks_rport {
        value.push(b";rport=");
        value.push_number(source.port());
    }
    Some(value)
}

/// The Via that this edge adds. `back` is the flow the request came by, for requests from outside;
/// requests of containers have none, their responses find the container by its own Via below.
pub(crate) fn added(
    call_id: &[u8],
    branch: Branch,
    listener: &Listener,
    back: Option<Flow>,
    flow_keys: &FlowKeys,
) -> HeaderValue {
    let mut value = HeaderValue::new().with(listener.via_start().as_bytes());
    value.push(branch.as_bytes());
    if let Some(flow) = back {
        value.push(b";");
        value.push(FLOW_PARAM);
        value.push(b"=");
        value.push(&FlowToken { kind: TokenKind::Response, flow }.encode(flow_keys, call_id));
    }
    value
}

/// What a Via of ours says about the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayBack {
    /// By this flow.
    Flow(Flow),
    /// Whatever the Via below says: it was a container's request.
    NextVia,
    /// The token does not verify: somebody else wrote it.
    Forged,
}

/// Reads the way back from a Via of ours.
pub(crate) fn way_back(via: &Via<'_>, flow_keys: &FlowKeys) -> WayBack {
    let Some(token) = via.param(FLOW_PARAM) else { return WayBack::NextVia };
    match FlowToken::decode(token.unwrap_or_default(), flow_keys, None) {
        Ok(FlowToken { kind: TokenKind::Response, flow }) => WayBack::Flow(flow),
        Ok(_) | Err(_) => WayBack::Forged,
    }
}

/// Where a response to the sender of a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyAddress {
    /// A datagram from the address that received the request.
    Datagram {
        /// Sent from here: NATs let nothing else pass.
        local: SocketAddr,
        /// Sent to here.
        remote: SocketAddr,
    },
    /// The connection the request came by; if it is gone, a new one to `reopen`.
    Connection {
        /// The connection.
        flow: Flow,
        /// received:sent-by port.
        reopen: SocketAddr,
    },
}

/// Where the response goes whose sender's Via is `via` and whose request came by `flow`. The
/// address is the flow's, which we know; of the Via only the port is believed, when `rport` does
/// not say otherwise.
///
/// Source: RFC 3261 §18.2.2, RFC 3581 §4.
pub(crate) fn reply_address(via: Option<&Via<'_>>, flow: Flow) -> ReplyAddress {
    let sent_by_port = via.and_then(|via| via.port).unwrap_or(PORT_DEFAULT);
    let sent_by = SocketAddr::new(flow.remote.ip(), sent_by_port);
    match flow.transport {
        Transport::Tcp => ReplyAddress::Connection { flow, reopen: sent_by },
        Transport::Udp => {
            // Without a readable Via (the request was refused for it) the source port is the only
            // one we know.
            let symmetric = via.is_none_or(|via| via.rport().is_some());
            ReplyAddress::Datagram {
                local: flow.local,
                remote: if symmetric { flow.remote } else { sent_by },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use topology::KeyRing;

    use super::*;

    fn fill(via: &str, source: &str) -> Option<String> {
        let via = Via::parse(via.as_bytes()).unwrap();
        filled_in(&via, source.parse().unwrap())
            .map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    // RFC 3261 §18.2.1, RFC 3581 §4
    #[test]
    fn received_and_rport_are_filled_in_as_the_source_and_the_sender_ask() {
        for (via, source, filled) in [
            ("SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKa", "192.0.2.9:5060", None),
            (
                "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa",
                "192.0.2.9:7",
                Some("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa;received=192.0.2.9"),
            ),
            (
                "SIP/2.0/UDP pc.example.com;branch=z9hG4bKa",
                "192.0.2.9:7",
                Some("SIP/2.0/UDP pc.example.com;branch=z9hG4bKa;received=192.0.2.9"),
            ),
            // rport asks for received even if it is the same
            (
                "SIP/2.0/UDP 192.0.2.9;rport;branch=z9hG4bKa",
                "192.0.2.9:7",
                Some("SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKa;received=192.0.2.9;rport=7"),
            ),
            // what the sender filled in itself is not believed
            (
                "SIP/2.0/UDP 192.0.2.9;rport=5;received=203.0.113.1;x=\"a;b\"",
                "192.0.2.9:7",
                Some("SIP/2.0/UDP 192.0.2.9;x=\"a;b\";received=192.0.2.9;rport=7"),
            ),
            (
                "SIP/2.0/UDP 192.0.2.9;received=203.0.113.1",
                "192.0.2.9:7",
                Some("SIP/2.0/UDP 192.0.2.9"),
            ),
            (
                "SIP/2.0/UDP [2001:db8::1];rport",
                "[2001:db8::2]:7",
                Some("SIP/2.0/UDP [2001:db8::1];received=2001:db8::2;rport=7"),
            ),
        ] {
            assert_eq!(fill(via, source).as_deref(), filled, "{via}");
        }
    }

    // RFC 3261 §18.2.2, RFC 3581 §4
    #[test]
    fn replies_go_to_the_source_port_only_when_rport_was_asked() {
        let flow = Flow::new(
            Transport::Udp,
            "192.0.2.1:5060".parse().unwrap(),
            "192.0.2.9:4321".parse().unwrap(),
        );
        for (via, remote) in [
            ("SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bKa", "192.0.2.9:4321"),
            ("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKa", "192.0.2.9:5070"),
            ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa;maddr=203.0.113.1", "192.0.2.9:5060"),
        ] {
            let via = Via::parse(via.as_bytes()).unwrap();
            let remote = remote.parse().unwrap();
            assert_eq!(
                reply_address(Some(&via), flow),
                ReplyAddress::Datagram { local: flow.local, remote }
            );
        }
    }

    #[test]
    fn a_replies_connection_is_reopened_at_the_sent_by_port() {
        let flow = Flow::new(
            Transport::Tcp,
            "192.0.2.1:5060".parse().unwrap(),
            "192.0.2.9:4321".parse().unwrap(),
        );
        let via = Via::parse(b"SIP/2.0/TCP 10.0.0.1:5070;rport").unwrap();
        let reopen = "192.0.2.9:5070".parse().unwrap();
        assert_eq!(reply_address(Some(&via), flow), ReplyAddress::Connection { flow, reopen });
    }

    #[test]
    fn a_token_of_another_kind_is_no_way_back() {
        let keys = FlowKeys::derive(&KeyRing::new([7; 32]));
        let flow = Flow::new(
            Transport::Udp,
            "192.0.2.1:5060".parse().unwrap(),
            "192.0.2.9:4321".parse().unwrap(),
        );
        for (kind, way) in [
            (TokenKind::Response, WayBack::Flow(flow)),
            (TokenKind::Flow, WayBack::Forged),
            (TokenKind::Relay, WayBack::Forged),
        ] {
            let token = FlowToken { kind, flow }.encode(&keys, b"c1");
            let value = HeaderValue::new()
                .with(b"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa;flow=")
                .with(&token);
            assert_eq!(way_back(&Via::parse(&value).unwrap(), &keys), way);
        }
        assert_eq!(
            way_back(&Via::parse(b"SIP/2.0/UDP 192.0.2.1;flow").unwrap(), &keys),
            WayBack::Forged
        );
        assert_eq!(
            way_back(&Via::parse(b"SIP/2.0/UDP 192.0.2.1").unwrap(), &keys),
            WayBack::NextVia
        );
    }
}
