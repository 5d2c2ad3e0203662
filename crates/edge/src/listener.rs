//! The addresses of an edge: where it listens (*own*) and what phones are told (*public*).
//!
//! Every message asks here whether a URI or a Via names this edge, and which address to show to
//! whom. Via, Path and inner Record-Route name the own address, which only this edge holds; phones
//! see the public one, which may be a virtual or load-balanced address that several edges share.

use std::net::{IpAddr, SocketAddr};

use sip::{Host, SipUri, Uri, Via};
use transport::{Flow, Transport};

/// The port of a SIP URI or Via that names none. Source: RFC 3261 §19.1.2, §18.2.2.
pub(crate) const PORT_DEFAULT: u16 = 5060;

/// One address that an edge listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// What is spoken there.
    pub transport: Transport,
    /// The concrete local address, never a wildcard.
    pub own: SocketAddr,
    own_text: String,
    public: PublicAddress,
    via_start: String,
}

/// A public address is not `host` or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "edge.public: {text:?} needs host or host:port, for example \"sip.example.com\" or \"198.51.100.7:5060\""
)]
pub struct PublicAddressError {
    /// What was given.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PublicAddress {
    text: String,
    host: String,
    /// The host when it is numeric.
    ip: Option<IpAddr>,
    port: u16,
}

impl PublicAddress {
    fn parse(text: &str) -> Option<PublicAddress> {
        let uri = format!("sip:{text}");
        let Ok(Uri::Sip(parsed)) = Uri::parse(uri.as_bytes()) else { return None };
        // Containers are told of it in a link frame, and no name in the DNS is longer.
        let fits = text.len() <= transport::link::TEXT_BYTES_MAX;
        if !fits || parsed.user.is_some() || parsed.host_port() != text.as_bytes() {
            return None;
        }
        let port = parsed.port.unwrap_or(PORT_DEFAULT);
        let (host, ip) = (parsed.host.to_string(), parsed.host.ip());
        Some(PublicAddress { text: text.to_owned(), host, ip, port })
    }
}

impl Listener {
    /// A listener whose public address is `public`: `host` or `host:port`, IPv6 in brackets.
    ///
    /// # Errors
    /// [`PublicAddressError`] when `public` is neither; the operator's to correct.
    pub fn new(
        transport: Transport,
        own: SocketAddr,
        public: &str,
    ) -> Result<Listener, PublicAddressError> {
        let own_text = own.to_string();
        let public = PublicAddress::parse(public)
            .ok_or_else(|| PublicAddressError { text: public.to_owned() })?;
        let via_start = format!("SIP/2.0/{} {own};branch=", transport.via_name());
        Ok(Listener { transport, own, own_text, public, via_start })
    }

    /// A listener that phones reach by its own address.
    pub fn direct(transport: Transport, own: SocketAddr) -> Listener {
        Listener::new(transport, own, &own.to_string()).expect("a socket address is host:port")
    }

    /// `address:port`, IPv6 in brackets.
    pub fn own_text(&self) -> &str {
        &self.own_text
    }

    /// `host` or `host:port`, as the operator wrote it.
    pub fn public_text(&self) -> &str {
        &self.public.text
    }

    /// Whether phones are told another address than the containers (RFC 5658 then asks for two
    /// Record-Routes).
    pub fn public_differs(&self) -> bool {
        (self.public.ip, self.public.port) != (Some(self.own.ip()), self.own.port())
    }

    /// A Via value up to and with `branch=`.
    pub fn via_start(&self) -> &str {
        &self.via_start
    }

    /// Whether the URI names this address, own or public.
    pub(crate) fn is_named_by(&self, uri: &SipUri<'_>) -> bool {
        let port = uri.port.unwrap_or(PORT_DEFAULT);
        self.is_own(&uri.host, port) || self.is_public(&uri.host, port)
    }

    pub(crate) fn is_own(&self, host: &Host<'_>, port: u16) -> bool {
        host.ip() == Some(self.own.ip()) && port == self.own.port()
    }

    fn is_public(&self, host: &Host<'_>, port: u16) -> bool {
        if port != self.public.port {
            return false;
        }
        match host {
            Host::Name(name) => self.public.host.as_bytes().eq_ignore_ascii_case(name),
            Host::Ipv4(_) | Host::Ipv6(_) => self.public.ip == host.ip(),
        }
    }
}

/// All listeners of one edge; at least one.
#[derive(Clone, Debug)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// The listeners of an edge.
    ///
    /// # Panics
    /// When there is none: such an edge can neither receive nor name itself.
    pub fn new(listeners: Vec<Listener>) -> Listeners {
        assert!(!listeners.is_empty(), "an edge has at least one listener");
        Listeners(listeners)
    }

    /// The listeners, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.0.iter()
    }

    /// Whether the URI names this edge, by an own or by a public address.
    pub fn are_named_by(&self, uri: &SipUri<'_>) -> bool {
        self.0.iter().any(|listener| listener.is_named_by(uri))
    }

    /// Whether this edge wrote that Via: its sent-by is an own address. Source: RFC 3261 §16.7(3),
    /// §18.1.2.
    pub fn wrote(&self, via: &Via<'_>) -> bool {
        let port = via.port.unwrap_or(PORT_DEFAULT);
        self.0.iter().any(|listener| listener.is_own(&via.host, port))
    }

    /// Whether a socket of this edge has that local address.
    pub fn hold(&self, transport: Transport, local: SocketAddr) -> bool {
        self.0.iter().any(|listener| listener.transport == transport && listener.own == local)
    }

    /// The listener that stands for this side of a flow: the one at its local address; for a
    /// connection that we opened (its port is any free one) the one at the same interface, else of
    /// the same transport and family.
    pub fn of_flow(&self, flow: &Flow) -> &Listener {
        self.0
            .iter()
            .find(|listener| listener.transport == flow.transport && listener.own == flow.local)
            .or_else(|| self.of_interface(flow.transport, flow.local))
            .unwrap_or_else(|| self.toward(flow.transport, flow.remote))
    }

    /// The listener from which to speak to `remote`. Without one of that transport and family, the
    /// nearest there is: the send will fail and be reported.
    pub fn toward(&self, transport: Transport, remote: SocketAddr) -> &Listener {
        let same_family = |listener: &&Listener| listener.own.is_ipv4() == remote.is_ipv4();
        let of_transport = |listener: &&Listener| listener.transport == transport;
        // A loopback listener cannot send to the network, nor an interface's to 127.0.0.1 without
        // being confused with it.
        let same_scope =
            |listener: &&Listener| listener.own.ip().is_loopback() == remote.ip().is_loopback();
        self.0
            .iter()
            .filter(of_transport)
            .filter(same_family)
            .find(same_scope)
            .or_else(|| self.0.iter().filter(of_transport).find(same_family))
            .or_else(|| self.0.iter().find(same_family))
            .unwrap_or(&self.0[0])
    }

    fn of_interface(&self, transport: Transport, local: SocketAddr) -> Option<&Listener> {
        self.0
            .iter()
            .find(|listener| listener.transport == transport && listener.own.ip() == local.ip())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn listeners() -> Listeners {
        let own = "192.0.2.1:5060".parse().unwrap();
        Listeners::new(vec![
            Listener::new(Transport::Udp, own, "sip.example.com").unwrap(),
            Listener::new(Transport::Tcp, own, "sip.example.com").unwrap(),
            Listener::direct(Transport::Udp, "[2001:db8::1]:5070".parse().unwrap()),
        ])
    }

    fn named(uri: &str) -> bool {
        let Ok(Uri::Sip(uri)) = Uri::parse(uri.as_bytes()) else { panic!("no SIP URI: {uri}") };
        listeners().are_named_by(&uri)
    }

    #[test]
    fn own_and_public_addresses_name_the_edge_in_any_spelling() {
        for uri in [
            "sip:192.0.2.1",
            "sip:x@192.0.2.1:5060;lr",
            "sip:SIP.Example.COM:5060",
            "sip:[2001:DB8:0::1]:5070",
        ] {
            assert!(named(uri), "{uri}");
        }
        for uri in
            ["sip:192.0.2.1:5061", "sip:192.0.2.2", "sip:example.com", "sip:sip.example.com:5070"]
        {
            assert!(!named(uri), "{uri}");
        }
    }

    #[test]
    fn a_via_is_ours_by_its_own_address_only() {
        let wrote = |via: &[u8]| listeners().wrote(&Via::parse(via).unwrap());
        assert!(wrote(b"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx"));
        assert!(!wrote(b"SIP/2.0/UDP sip.example.com;branch=z9hG4bKx"));
    }

    #[test]
    fn the_listener_toward_a_remote_has_its_transport_and_family() {
        let listeners = listeners();
        let toward = |transport, remote: &str| {
            listeners.toward(transport, remote.parse().unwrap()).own.to_string()
        };
        assert_eq!(toward(Transport::Udp, "198.51.100.1:9"), "192.0.2.1:5060");
        assert_eq!(toward(Transport::Udp, "[2001:db8::9]:9"), "[2001:db8::1]:5070");
    }

    #[test]
    fn a_public_address_needs_host_or_host_and_port() {
        let own = "192.0.2.1:5060".parse().unwrap();
        for public in ["", "a b", "user@host", "host:x", "host;lr", "2001:db8::1"] {
            assert!(Listener::new(Transport::Udp, own, public).is_err(), "{public}");
        }
        assert!(Listener::new(Transport::Udp, own, &"a".repeat(255)).is_ok());
        assert!(Listener::new(Transport::Udp, own, &"a".repeat(256)).is_err());
        assert!(!Listener::new(Transport::Udp, own, "192.0.2.1").unwrap().public_differs());
        assert!(Listener::new(Transport::Udp, own, "192.0.2.1:5070").unwrap().public_differs());
    }
}
