//! Route: what of it is this edge's own, and what stands next.
//!
//! RFC 3261 §16.4, §16.6(6), §16.12; RFC 5626 §5.3; RFC 5658 (both values of a double Record-Route
//! come back). All leading values that name this edge are consumed at once; the tokens in them say
//! where the request may go. A dialog outlives the edges that it was set up through: what one that has departed
//! wrote is consumed as if it were this one's, for nobody else will.

use std::net::SocketAddr;

use sip::{NameAddr, SipUri, Uri};
use topology::Key;
use transport::{Flow, Transport};

use crate::fellow_edges::FellowEdges;
use crate::flow_token::{FlowKeys, FlowToken, FlowTokenError, TokenKind};
use crate::listener::{Listeners, PORT_DEFAULT};
use crate::owner::Owner;
use crate::peer::Peer;

/// A container's sent-by and the host of its URIs end like this; nobody can resolve it (RFC 6761
/// §6.4).
pub(crate) const CONTAINER_HOST_END: &[u8] = b".outlast.invalid";

/// For whom an edge consumes Route values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spoken<'a> {
    /// For itself.
    ForItself(&'a Listeners),
    /// For those that have departed, too.
    ForDeparted {
        /// Itself.
        listeners: &'a Listeners,
        /// What names one of these that is there is left to it.
        fellows: &'a FellowEdges,
    },
}

impl Spoken<'_> {
    /// Whether a value with that URI, and with what its user part was read as, is one that this edge consumes.
    fn consumes(&self, uri: &SipUri<'_>, token: Option<&Read>) -> bool {
        match self {
            Spoken::ForItself(listeners) => listeners.are_named_by(uri),
            Spoken::ForDeparted { listeners, fellows } => {
                listeners.are_named_by(uri) || is_of_departed(uri, token, listeners, fellows)
            }
        }
    }
}

/// Whether a departed edge of ours wrote a value.
///
/// A token proves by its tag that one of ours at that address did, also one that nobody remembers: it is of this dialog, and
/// no edge that is there has that address. The value without one that an edge with two addresses writes beside it, and a
/// public address, are believed of an edge that the topology knows. Whatever else a host names is a stranger's.
fn is_of_departed(
    uri: &SipUri<'_>,
    token: Option<&Read>,
    listeners: &Listeners,
    fellows: &FellowEdges,
) -> bool {
    let is_known = || fellows.were_named_by(uri);
    match token {
        Some(Ok(token)) => {
            let own = listeners.iter().map(|listener| listener.own);
            let mut living = own.chain(fellows.there().iter().copied());
            let port = uri.port.unwrap_or(PORT_DEFAULT);
            let host = uri.host.ip().map(|ip| SocketAddr::new(ip, port));
            let is_there = || host.is_some_and(|host| token.flow.may_be_of(host));
            token.kind.is_of_dialog()
                && !living.any(|edge| token.flow.may_be_of(edge))
                && (is_there() || is_known())
        }
        Some(Err(FlowTokenError::NoToken | FlowTokenError::Forged)) => false,
        None => is_known(),
    }
}

/// What a user part was read as.
type Read = Result<FlowToken, FlowTokenError>;

/// What the leading Route values that name this edge, or a departed one, say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnRoutes {
    /// How many leading values are consumed.
    pub count: usize,
    /// How many of them have a token.
    pub token_count: usize,
    /// The token of the last that has one: the target's, unless the only one is the sender's own.
    pub last: Option<FlowToken>,
    /// One has a token that proves: this dialog passed us toward an address of its Request-URI.
    pub relay: bool,
}

/// A Route value of ours has a token with a wrong tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flow token in Route was tampered with")]
pub(crate) struct Tampered;

impl OwnRoutes {
    /// Reads the leading values among `routes`, those of a request that are left, of the edges that are `spoken` for;
    /// `dialog` as [`dialog_of`](crate::flow_token::dialog_of) says it of the request.
    ///
    /// # Errors
    /// [`Tampered`]: to be answered with 403 (RFC 5626 §5.3).
    pub(crate) fn read<'a>(
        routes: impl Iterator<Item = &'a [u8]>,
        spoken: Spoken<'_>,
        dialog: Option<&[u8]>,
        keys: &FlowKeys,
    ) -> Result<OwnRoutes, Tampered> {
        let mut own = OwnRoutes::default();
        for value in routes {
            let Some(uri) = sip_uri(value) else { break };
            let token = uri.user.map(|user| FlowToken::decode(user, keys, dialog));
            if !spoken.consumes(&uri, token.as_ref()) {
                break;
            }
            own.count += 1;
            match token {
                Some(
                    Ok(FlowToken { kind: TokenKind::Response, .. }) | Err(FlowTokenError::Forged),
                ) => {
                    return Err(Tampered);
                }
                Some(Ok(token)) => {
                    own.token_count += 1;
                    own.last = Some(token);
                    own.relay |= token.kind == TokenKind::Relay;
                }
                // An outbound proxy that was configured with a user part, or none.
                Some(Err(FlowTokenError::NoToken)) | None => {}
            }
        }
        Ok(own)
    }

    /// The flow that the last token leads to; a relayed target has none.
    pub(crate) fn last_flow(&self) -> Option<Flow> {
        let leads_there = |kind| matches!(kind, TokenKind::Flow | TokenKind::Dialog);
        self.last.filter(|token| leads_there(token.kind)).map(|token| token.flow)
    }
}

/// The SIP URI of a Route or Contact value; `None` for other schemes and for what is malformed.
pub(crate) fn sip_uri(value: &[u8]) -> Option<SipUri<'_>> {
    match Uri::parse(NameAddr::parse(value).ok()?.uri()) {
        Ok(Uri::Sip(uri)) => Some(uri),
        Ok(Uri::Tel(_) | Uri::Other { .. }) | Err(_) => None,
    }
}

/// Whether the Request-URI of a request with Route values is a value that this edge put into Record-Route, as a strict
/// router before us leaves it.
///
/// Our values have a token as user part, or none at all; a request with Route values to an address
/// of ours without a user part inside a dialog can be nothing else, for no phone has it as its
/// Contact. Source: RFC 3261 §16.4.
pub(crate) fn is_strictly_routed(
    request_uri: &Uri<'_>,
    listeners: &Listeners,
    dialog: Option<&[u8]>,
    keys: &FlowKeys,
) -> bool {
    let Some(uri) = request_uri.as_sip().filter(|uri| listeners.are_named_by(uri)) else {
        return false;
    };
    match uri.user {
        Some(user) => FlowToken::decode(user, keys, dialog).is_ok(),
        None => uri.lr() && dialog.is_some(),
    }
}

/// Who a URI names, as far as this edge can tell without looking anything up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// What a token of ours names.
    Owner(Owner),
    /// Some container: the host is a container's, but it names no life that we believe.
    SomeContainer,
    /// The peer at that place of the list.
    Peer(usize),
    /// This edge itself.
    Myself,
    /// Another edge of the node.
    OtherEdge {
        /// By what it is spoken to.
        transport: Transport,
        /// Its own address.
        address: SocketAddr,
    },
    /// A numeric unicast address.
    Address {
        /// By what it is spoken to.
        transport: Transport,
        /// Where.
        address: SocketAddr,
    },
    /// A name to be looked up, another scheme, an address that nothing is sent to: not this edge's
    /// business.
    Unresolved,
}

/// What decides whom a URI names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    /// This edge's addresses.
    pub listeners: &'a Listeners,
    /// The plain SIP peers.
    pub peers: &'a [Peer],
    /// The other edges.
    pub fellows: &'a FellowEdges,
    /// The key of purpose `"owner"`.
    pub owner_key: &'a Key,
}

impl Names<'_> {
    /// Whom `uri` names.
    pub(crate) fn resolve(&self, uri: &SipUri<'_>) -> Named {
        if let Some(owner) = uri.user.and_then(|user| Owner::of_user(user, self.owner_key)) {
            return Named::Owner(owner);
        }
        if is_container_host(&uri.host) {
            return Named::SomeContainer;
        }
        let transport = match uri.transport() {
            None => Some(Transport::Udp), // RFC 3263 §4.1: numeric host, no transport parameter
            Some(name) => Transport::parse(name),
        };
        let (Some(ip), Some(transport)) = (uri.host.ip(), transport) else {
            return if self.listeners.are_named_by(uri) {
                Named::Myself
            } else {
                Named::Unresolved
            };
        };
        let address = SocketAddr::new(ip.to_canonical(), uri.port.unwrap_or(PORT_DEFAULT));
        if let Some(peer) = self.peers.iter().position(|peer| peer.address == address) {
            return Named::Peer(peer);
        }
        if self.listeners.are_named_by(uri) {
            return Named::Myself;
        }
        if self.fellows.has(&address) {
            return Named::OtherEdge { transport, address };
        }
        // There is no TLS here, and sips is never downgraded (RFC 5630 §3).
        if uri.secure || !is_sendable(address) {
            return Named::Unresolved;
        }
        Named::Address { transport, address }
    }
}

/// Whether a host is a container's.
pub(crate) fn is_container_host(host: &sip::Host<'_>) -> bool {
    match host {
        sip::Host::Name(name) => {
            name.len().checked_sub(CONTAINER_HOST_END.len()).is_some_and(|start| {
                start > 0 && name[start..].eq_ignore_ascii_case(CONTAINER_HOST_END)
            })
        }
        sip::Host::Ipv4(_) | sip::Host::Ipv6(_) => false,
    }
}

/// Whether a message may be sent there at all: one host, one port.
pub(crate) fn is_sendable(address: SocketAddr) -> bool {
    let unicast = match address.ip() {
        std::net::IpAddr::V4(ip) => {
            !ip.is_broadcast() && !ip.is_multicast() && !ip.is_unspecified()
        }
        std::net::IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    };
    unicast && address.port() != 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use topology::{Incarnation, KeyRing, OwnerToken};

    use super::*;
    use crate::listener::Listener;

    fn resolve(uri: &str) -> Named {
        let ring = KeyRing::new([7; 32]);
        let peers = [Peer {
            name: topology::ProcessName::new("peer1"),
            transport: Transport::Udp,
            address: "192.0.2.80:5080".parse().unwrap(),
            weight: 100,
        }];
        let names = Names {
            listeners: &Listeners::new(vec![Listener::direct(
                Transport::Udp,
                "192.0.2.1:5060".parse().unwrap(),
            )]),
            peers: &peers,
            fellows: &FellowEdges::new(vec!["192.0.2.2:5060".parse().unwrap()], Vec::new()),
            owner_key: &ring.derive("owner"),
        };
        let Ok(Uri::Sip(parsed)) = Uri::parse(uri.as_bytes()) else { panic!("no SIP URI: {uri}") };
        names.resolve(&parsed)
    }

    #[test]
    fn a_uri_names_who_it_says() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (uri, named) in [
            ("sip:x@container1.node.outlast.invalid", Named::SomeContainer),
            ("sip:x@192.0.2.80:5080", Named::Peer(0)),
            ("sip:192.0.2.1", Named::Myself),
            (
                "sip:192.0.2.2;transport=tcp",
                Named::OtherEdge { transport: Transport::Tcp, address: address("192.0.2.2:5060") },
            ),
            (
                "sip:x@198.51.100.1:9",
                Named::Address { transport: Transport::Udp, address: address("198.51.100.1:9") },
            ),
            (
                "sip:x@[2001:db8::1]",
                Named::Address {
                    transport: Transport::Udp,
                    address: address("[2001:db8::1]:5060"),
                },
            ),
            ("sip:x@example.com", Named::Unresolved),
            ("sip:x@198.51.100.1;transport=sctp", Named::Unresolved),
            ("sips:x@198.51.100.1", Named::Unresolved),
            ("sip:x@255.255.255.255", Named::Unresolved),
            ("sip:x@224.0.1.75", Named::Unresolved),
            ("sip:x@0.0.0.0", Named::Unresolved),
            ("sip:x@[ff02::1]", Named::Unresolved),
            ("sip:x@198.51.100.1:0", Named::Unresolved),
        ] {
            assert_eq!(resolve(uri), named, "{uri}");
        }
    }

    #[test]
    fn an_owner_token_names_a_life_and_a_forged_one_none() {
        let owner = OwnerToken { incarnation: Incarnation(9), shard: 0 };
        let mut text = owner.encode(&KeyRing::new([7; 32]).derive("owner")).to_vec();
        let uri = |text: &[u8]| {
            format!("sip:{}@c.node.outlast.invalid", std::str::from_utf8(text).unwrap())
        };
        assert_eq!(resolve(&uri(&text)), Named::Owner(owner.into()));
        text[5] = if text[5] == b'A' { b'B' } else { b'A' };
        assert_eq!(resolve(&uri(&text)), Named::SomeContainer);
    }
}
