//! Addresses as the configuration writes them: what an edge listens on and what phones are told.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which transports an address is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenTransports {
    /// UDP and TCP on the same port.
    Both,
    /// UDP only.
    Udp,
    /// TCP only.
    Tcp,
}

impl ListenTransports {
    /// Whether UDP is among them.
    pub fn udp(self) -> bool {
        matches!(self, ListenTransports::Both | ListenTransports::Udp)
    }

    /// Whether TCP is among them.
    pub fn tcp(self) -> bool {
        matches!(self, ListenTransports::Both | ListenTransports::Tcp)
    }
}

/// One address an edge listens on: `0.0.0.0:5060`, `udp:[::1]:5060`. Port 0 takes any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen {
    /// UDP, TCP or both.
    pub transports: ListenTransports,
    /// May be a wildcard: all addresses of the machine then.
    pub address: SocketAddr,
}

/// A text that is no address of the wanted form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a [`Listen`].
    #[error("needs address:port, for example \"0.0.0.0:5060\"")]
    Listen,
    /// Not a [`PublicAddress`].
    #[error(
        "needs a host and perhaps a port, for example \"sip.example.com\" or \"192.0.2.1:5060\""
    )]
    Public,
    /// Not a domain.
    #[error("needs a domain name or address, for example \"example.com\"")]
    Domain,
}

/// Reads a domain that is served, as `registrar.domains` and `--domain` name it: lower case from here on.
///
/// # Errors
/// [`AddressError::Domain`].
pub fn domain_name(text: &str) -> Result<String, AddressError> {
    if is_host_name(text) { Ok(text.to_ascii_lowercase()) } else { Err(AddressError::Domain) }
}

impl FromStr for Listen {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Listen, AddressError> {
        let (transports, address) = match text.split_once(':') {
            Some(("udp", address)) => (ListenTransports::Udp, address),
            Some(("tcp", address)) => (ListenTransports::Tcp, address),
            Some(_) | None => (ListenTransports::Both, text),
        };
        let address = address.parse().map_err(|_| AddressError::Listen)?;
        Ok(Listen { transports, address })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transports {
            ListenTransports::Both => write!(f, "{}", self.address),
            ListenTransports::Udp => write!(f, "udp:{}", self.address),
            ListenTransports::Tcp => write!(f, "tcp:{}", self.address),
        }
    }
}

/// What phones are told instead of an own address: `host` or `host:port`, fit for a SIP URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicAddress(String);

impl PublicAddress {
    /// As written into Via, Record-Route and Path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PublicAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<PublicAddress, AddressError> {
        // RFC 3261 §25.1 hostport: an IPv6 address stands in brackets.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            Some(_) | None => (text, None),
        };
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let host_fits = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => is_host_name(host),
        };
        if port_fits && host_fits {
            Ok(PublicAddress(text.to_owned()))
        } else {
            Err(AddressError::Public)
        }
    }
}

/// RFC 3261 §25.1 hostname, or an IPv4 address.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let all_digits = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if all_digits {
        return text.parse::<IpAddr>().is_ok();
    }
    name.len() <= 253 && name.split('.').all(label)
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Listen {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Listen, AddressError> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        listen.to_string()
    }
}

impl TryFrom<String> for PublicAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<PublicAddress, AddressError> {
        text.parse()
    }
}

impl From<PublicAddress> for String {
    fn from(address: PublicAddress) -> String {
        address.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn listen_addresses_are_read_as_written() {
        for (text, transports, address) in [
            ("0.0.0.0:5060", ListenTransports::Both, "0.0.0.0:5060"),
            ("udp:127.0.0.1:0", ListenTransports::Udp, "127.0.0.1:0"),
            ("tcp:[::1]:5060", ListenTransports::Tcp, "[::1]:5060"),
            ("[::]:5060", ListenTransports::Both, "[::]:5060"),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.transports, transports);
            assert_eq!(listen.address, address.parse().unwrap());
            assert_eq!(listen.to_string(), text);
        }
        for text in ["5060", "", "localhost:5060", "tls:1.2.3.4:5061", "0.0.0.0", "1.2.3.4:70000"] {
            assert_eq!(text.parse::<Listen>(), Err(AddressError::Listen), "{text}");
        }
    }

    #[test]
    fn public_addresses_fit_a_sip_uri() {
        for text in
            ["sip.example.com", "192.0.2.1:5060", "[2001:db8::1]:5060", "[2001:db8::1]", "a-b.c."]
        {
            assert_eq!(text.parse::<PublicAddress>().unwrap().as_str(), text);
        }
        for text in [
            "",
            ":5060",
            "a b",
            "2001:db8::1",
            "host:0",
            "host:x",
            "a..b",
            "-a",
            "300.1.1.1",
            "a;b",
        ] {
            assert_eq!(text.parse::<PublicAddress>(), Err(AddressError::Public), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = text.parse::<Listen>();
            let _ = text.parse::<PublicAddress>();
        }
    }
}
