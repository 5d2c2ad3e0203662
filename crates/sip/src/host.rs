//! Hosts of URIs and Via sent-by values: IPv4 address, IPv6 reference or name.
//!
//! RFC 3261 §25.1 with the corrections of RFC 5954: `[:::]` is no address, and IPv6 addresses are compared by
//! value, not by spelling. Names are compared without regard to case (§19.1.4); nothing is resolved here.

use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::grammar::host_span;

/// A host, compared as RFC 3261 §19.1.4 and RFC 5954 §4.2 say.
#[derive(Clone, Copy, Debug)]
pub enum Host<'a> {
    /// Dotted decimal.
    Ipv4(Ipv4Addr),
    /// A bracketed reference.
    Ipv6(Ipv6Addr),
    /// Anything that is to be looked up.
    Name(&'a [u8]),
}

impl<'a> Host<'a> {
    /// Reads a host with nothing before or after it; IPv6 must be in brackets.
    pub fn parse(bytes: &'a [u8]) -> Option<Host<'a>> {
        if let [b'[', inner @ .., b']'] = bytes {
            return parse_ipv6(inner).map(Host::Ipv6);
        }
        if let Some(address) = parse_ip(bytes) {
            return Some(Host::Ipv4(address));
        }
        let is_name = !bytes.is_empty() && host_span(bytes) == bytes.len();
        is_name.then_some(Host::Name(bytes))
    }

    /// The address, if this is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match *self {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Name(_) => None,
        }
    }
}

impl From<IpAddr> for Host<'static> {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Host::Ipv4(address),
            IpAddr::V6(address) => Host::Ipv6(address),
        }
    }
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Host::Ipv4(a), Host::Ipv4(b)) => a == b,
            (Host::Ipv6(a), Host::Ipv6(b)) => a == b,
            (Host::Name(a), Host::Name(b)) => a.eq_ignore_ascii_case(b),
            (Host::Ipv4(_) | Host::Ipv6(_) | Host::Name(_), _) => false,
        }
    }
}

impl Eq for Host<'_> {}

impl Hash for Host<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Host::Ipv4(address) => address.hash(state),
            Host::Ipv6(address) => address.hash(state),
            Host::Name(name) => name.iter().for_each(|b| state.write_u8(b.to_ascii_lowercase())),
        }
    }
}

impl fmt::Display for Host<'_> {
    /// Canonical: lower case, IPv6 compressed and in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ipv4(address) => write!(f, "{address}"),
            Host::Ipv6(address) => write!(f, "[{address}]"),
            Host::Name(name) => match std::str::from_utf8(name) {
                // Nearly all of them: at once.
                Ok(text) if !name.iter().any(u8::is_ascii_uppercase) => f.write_str(text),
                Ok(_) | Err(_) => {
                    name.iter().try_for_each(|b| f.write_char(char::from(b.to_ascii_lowercase())))
                }
            },
        }
    }
}

/// Reads an address without brackets, as in `received=` (RFC 5118 §4.5 allows both spellings there).
pub fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    let bare = match bytes {
        [b'[', inner @ .., b']'] => inner,
        other => other,
    };
    parse_ip(bare).map(IpAddr::V4).or_else(|| parse_ipv6(bare).map(IpAddr::V6))
}

/// Four decimal octets without leading zeros: what `Ipv4Addr`'s own parser takes, in a fraction of its time, for it is
/// asked several times a message.
fn parse_ip(bytes: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let (mut place, mut digits, mut value) = (0, 0, 0_u16);
    for &byte in bytes {
        match byte {
            b'0'..=b'9' if digits == 0 || value != 0 => {
                value = value * 10 + u16::from(byte - b'0');
                digits += 1;
                if value > 255 {
                    return None;
                }
            }
            b'.' if digits > 0 && place < 3 => {
                octets[place] = u8::try_from(value).ok()?;
                (place, digits, value) = (place + 1, 0, 0);
            }
            _ => return None,
        }
    }
    octets[3] = u8::try_from(value).ok()?;
    (place == 3 && digits > 0).then(|| Ipv4Addr::from(octets))
}

fn parse_ipv6(bytes: &[u8]) -> Option<Ipv6Addr> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_compared_by_value() {
        // RFC 5954 §4.2
        assert_eq!(Host::parse(b"[2001:db8::9:1]"), Host::parse(b"[2001:DB8::9:01]"));
        assert_eq!(Host::parse(b"[::ffff:192.0.2.10]"), Host::parse(b"[::FFFF:c000:20a]"));
        assert_ne!(Host::parse(b"[2001:db8::1]"), Host::parse(b"[2001:db8::2]"));
    }

    #[test]
    fn three_colons_are_no_address() {
        // RFC 5954 §3.1
        assert_eq!(Host::parse(b"[2001:db8:::192.0.2.1]"), None);
        assert_eq!(Host::parse(b"[:::]"), None);
        assert_eq!(Host::parse(b"[]"), None);
        assert_eq!(Host::parse(b"2001:db8::1"), None);
    }

    #[test]
    fn names_are_compared_without_case_and_written_lower() {
        assert_eq!(Host::parse(b"AtLanTa.CoM"), Host::parse(b"atlanta.com"));
        assert_eq!(Host::parse(b"AtLanTa.CoM").expect("name").to_string(), "atlanta.com");
        assert_eq!(Host::parse(b"a b"), None);
        assert_eq!(Host::parse(b""), None);
    }

    #[test]
    fn ipv4_is_read_as_the_standard_library_reads_it() {
        let mut texts: Vec<String> = [
            "",
            ".",
            "1",
            "1.2.3",
            "1.2.3.4.",
            "1.2.3.4.5",
            ".1.2.3.4",
            "1..2.3",
            "01.2.3.4",
            "00.0.0.0",
            "0.0.0.0",
            "256.1.1.1",
            "1.2.3.1000",
            "1.2.3.0255",
            "1.2.3.4a",
            "a.b.c.d",
            "1.2.3.-4",
            "1.2.3.+4",
            "1. 2.3.4",
            "255.255.255.255",
            "249.199.99.9",
            "12345.1.1.1",
        ]
        .map(str::to_owned)
        .into();
        texts.extend((0..=300).map(|octet| format!("10.{octet}.0.{}", 300 - octet)));
        for text in texts {
            assert_eq!(parse_ip(text.as_bytes()), text.parse().ok(), "{text:?}");
        }
    }

    #[test]
    fn received_takes_both_spellings_of_ipv6() {
        assert_eq!(parse_address(b"::1"), parse_address(b"[::1]"));
        assert_eq!(parse_address(b"192.0.2.1"), Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))));
        assert_eq!(parse_address(b"host"), None);
    }
}
