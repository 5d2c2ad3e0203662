//! Where a request goes that leaves this container (RFC 3261 §16.6(7), §18.1.1, numeric part of RFC 3263).
//!
//! The URI that decides, of the topmost Route or the Request-URI, becomes a [`Hop`]: host, port and transport.
//! Whether the host is an edge of ours, and which edge sends, is for [`crate::edges`]; a name is resolved by
//! the server, outside the shard's loop.
//!
//! Deliberately absent: NAPTR and SRV records, TLS; a URI that needs them is unroutable so far.

use std::net::SocketAddr;

use sip::{HeaderName, Host, Message, NameAddr, SipUri, Uri};
use transport::Transport;

use crate::edges::{PORT_DEFAULT, numeric};
use crate::proxy::NextHop;

/// Larger requests go over a congestion-controlled transport (RFC 3261 §18.1.1).
const DATAGRAM_REQUEST_BYTES_MAX: usize = 1_300;

/// No domain name is longer (RFC 1035 §2.3.4), so none such is looked up or remembered.
const NAME_BYTES_MAX: usize = 253;

/// What the edge adds to a request on its way out: its Via, with an IPv6 address and the longest branch.
const EDGE_VIA_BYTES_MAX: usize = 120;

/// The place that a URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Address or name.
    pub host: HopHost,
    /// With the default filled in.
    pub port: u16,
    /// As the URI says, else UDP.
    pub transport: Transport,
}

/// The host of a [`Hop`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HopHost {
    /// Ready to be sent to.
    Address(std::net::IpAddr),
    /// To be resolved.
    Name(String),
}

/// Why a request cannot be sent anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// Not a SIP URI, or not one we can read.
    #[error("the next hop's URI is not a SIP URI")]
    Scheme,
    /// `sips:` or a transport that is not spoken.
    #[error("the next hop asks for a transport that is not spoken here")]
    Transport,
    /// A host name that is none.
    #[error("the next hop's host name is malformed")]
    Host,
}

impl Hop {
    /// The address, if the host needs no look-up.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.host {
            HopHost::Address(ip) => Some(SocketAddr::new(*ip, self.port)),
            HopHost::Name(_) => None,
        }
    }
}

/// Calls `read` with the URI that decides on the next hop of `request`.
///
/// # Errors
/// [`Unroutable::Scheme`] when there is no such SIP URI.
pub(crate) fn with_uri<T>(
    request: &Message,
    decides: NextHop,
    read: impl FnOnce(&SipUri<'_>) -> T,
) -> Result<T, Unroutable> {
    let uri = match decides {
        NextHop::RequestUri => request.request_uri(),
        NextHop::Route => request
            .values(HeaderName::Route)
            .next()
            .and_then(|value| NameAddr::parse(value).ok())
            .map(|route| route.uri()),
    };
    match uri.map(Uri::parse) {
        Some(Ok(Uri::Sip(uri))) => Ok(read(&uri)),
        Some(Ok(Uri::Tel(_) | Uri::Other { .. }) | Err(_)) | None => Err(Unroutable::Scheme),
    }
}

/// The place that `uri` names.
///
/// # Errors
/// [`Unroutable`] when we cannot speak to it.
pub fn hop(uri: &SipUri<'_>) -> Result<Hop, Unroutable> {
    if uri.secure {
        return Err(Unroutable::Transport);
    }
    let transport = match uri.transport() {
        Some(name) => Transport::parse(name).ok_or(Unroutable::Transport)?,
        None => Transport::Udp,
    };
    // RFC 3263 §4: maddr takes the host's place.
    let host = match uri.maddr() {
        Some(maddr) => Host::parse(maddr).ok_or(Unroutable::Host)?,
        None => uri.host,
    };
    let host = match (numeric(&host), host) {
        (Some(ip), _) => HopHost::Address(ip),
        (None, Host::Name(name)) if name.len() > NAME_BYTES_MAX => return Err(Unroutable::Host),
        (None, Host::Name(name)) => {
            HopHost::Name(String::from_utf8(name.to_vec()).map_err(|_| Unroutable::Host)?)
        }
        (None, Host::Ipv4(_) | Host::Ipv6(_)) => return Err(Unroutable::Host),
    };
    let port = uri.port.unwrap_or(PORT_DEFAULT);
    Ok(Hop { host, port, transport })
}

/// Whether a request that leaves this container with so many bytes, to an address (never to a flow), is first
/// tried over TCP although its URI means UDP. When TCP is refused it goes over UDP all the same.
pub fn prefers_stream(hop: &Hop, request_bytes: usize) -> bool {
    hop.transport == Transport::Udp
        && request_bytes + EDGE_VIA_BYTES_MAX > DATAGRAM_REQUEST_BYTES_MAX
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `transport host:port` or the error's name.
    fn check(uri: &str, expected: &str) {
        let parsed = Uri::parse(uri.as_bytes()).unwrap();
        let found = match hop(parsed.as_sip().unwrap()) {
            Ok(Hop { host, port, transport }) => {
                let host = match host {
                    HopHost::Address(ip) => ip.to_string(),
                    HopHost::Name(name) => format!("name {name}"),
                };
                format!("{transport:?} {host} {port}")
            }
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(found, expected, "{uri}");
    }

    #[test]
    fn uri_names_host_port_and_transport() {
        check("sip:bob@192.0.2.4", "Udp 192.0.2.4 5060");
        check("sip:bob@192.0.2.4:5080;transport=TCP", "Tcp 192.0.2.4 5080");
        check("sip:[2001:db8::1]", "Udp 2001:db8::1 5060");
        check("sip:bob@Example.com;transport=udp", "Udp name Example.com 5060");
        check("sip:bob@example.com;maddr=192.0.2.9", "Udp 192.0.2.9 5060");
        check("sips:bob@192.0.2.4", "Transport");
        check(&format!("sip:bob@{}.com", "x".repeat(250)), "Host");
        check("sip:bob@192.0.2.4;transport=sctp", "Transport");
    }

    #[test]
    fn route_decides_before_the_request_uri() {
        let text = "OPTIONS sip:bob@192.0.2.4 SIP/2.0\r\nRoute: <sip:token@192.0.2.1:5062;lr>\r\n\
            Content-Length: 0\r\n\r\n";
        let request = Message::parse(text.as_bytes().to_vec().into()).unwrap();
        let port = |decides| with_uri(&request, decides, |uri| hop(uri).unwrap().port).unwrap();
        assert_eq!(port(NextHop::Route), 5062);
        assert_eq!(port(NextHop::RequestUri), 5060);
    }

    #[test]
    fn requests_too_large_for_a_datagram_with_the_edges_via_prefer_a_stream() {
        let hop = |transport| Hop {
            host: HopHost::Address([192, 0, 2, 4].into()),
            port: 5060,
            transport,
        };
        assert!(!prefers_stream(&hop(Transport::Udp), 1_180));
        assert!(prefers_stream(&hop(Transport::Udp), 1_181));
        assert!(!prefers_stream(&hop(Transport::Tcp), 1_400));
    }
}
