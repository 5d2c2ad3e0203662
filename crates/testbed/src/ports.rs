//! Ports for servers that must be told theirs.
//!
//! They lie below those that the system gives to whoever opens a connection (32768 and up): one of those may be free when it is
//! asked for and taken a moment later, by anybody.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// First port of the first place.
const FIRST: u16 = 12_000;
/// Ports from one place to the next: as many as a member of a cluster has from its `[cluster] address` on.
const PLACE: u16 = 40;
/// Ends below what the system gives.
const PLACES: u16 = 500;

/// The first of `count` ports of 127.0.0.1, one after the other, that are free for UDP and TCP. Nobody else in this process gets
/// them before 500 further ones were asked for.
///
/// # Panics
/// When `count` is more than 40, or when there is no free place.
pub fn free(count: u16) -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    assert!(count <= PLACE, "{count} ports are more than a place has");
    // Another process begins elsewhere.
    let begin = u64::from(std::process::id()) * 37;
    for _ in 0..PLACES {
        let turn = u64::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let place = u16::try_from((begin + turn) % u64::from(PLACES)).expect("fewer than 500");
        let first = FIRST + place * PLACE;
        if (first..first + count).all(is_free) {
            return first;
        }
    }
    panic!("no {count} ports in a row are free from {FIRST} on: end what listens there");
}

fn is_free(port: u16) -> bool {
    let address = ("127.0.0.1", port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_what_another_one_has_or_what_the_system_gives() {
        let mut ports: Vec<u16> = (0..20).map(|_| free(PLACE)).collect();
        let held = TcpListener::bind(("127.0.0.1", ports[0])).expect("it is free");
        ports.extend((0..100).map(|_| free(1)));
        let given = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), given);
        assert!(ports.iter().all(|port| (FIRST..32_768 - PLACE).contains(port)), "{ports:?}");
        drop(held);
    }
}
