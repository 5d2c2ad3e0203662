//! The addresses of this machine's interfaces: what a listener on `0.0.0.0` or `::` stands for.
//!
//! A flow names a concrete local address, so the manager expands a wildcard into one socket per
//! address. IPv6 addresses that need a scope (link-local) and multicast are left out: a SIP URI
//! cannot name them.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

/// Addresses of all interfaces that are up: IPv4 and non-link-local IPv6, loopback included,
/// sorted, each once.
///
/// # Errors
/// What the system answers when the interfaces cannot be listed; a retry may help.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = getifaddrs()?
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| interface.address.as_ref().and_then(ip_address))
        .filter(|address| is_usable(*address))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn ip_address(address: &SockaddrStorage) -> Option<IpAddr> {
    let narrow = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    narrow.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_unspecified() && !address.is_multicast(),
        IpAddr::V6(address) => {
            !address.is_unspecified() && !address.is_multicast() && !is_link_local(address)
        }
    }
}

/// fe80::/10. Source: RFC 4291 §2.5.6.
fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed_once_and_nothing_scoped() {
        let addresses = local_addresses().expect("interfaces");
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(
            addresses.iter().filter(|address| **address == loopback).count(),
            1,
            "{addresses:?}"
        );
        assert!(addresses.iter().all(|address| is_usable(*address)), "{addresses:?}");
    }

    #[test]
    fn link_local_and_multicast_are_left_out() {
        for refused in ["fe80::1", "febf::1", "ff02::1", "224.0.0.1", "::", "0.0.0.0"] {
            assert!(!is_usable(refused.parse().expect(refused)), "{refused}");
        }
        for taken in ["127.0.0.1", "::1", "2001:db8::1", "fd00::1", "10.0.0.1"] {
            assert!(is_usable(taken.parse().expect(taken)), "{taken}");
        }
    }
}
