//! Addresses of the loopback that no other test has, so that ports there are free which configuration names.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Hosts of one test: 127.X.Y.1, 127.X.Y.2 and so on.
#[derive(Debug, Clone, Copy)]
pub struct Loopback {
    network: [u8; 2],
}

impl Loopback {
    /// Another one at each call, in this process and, most likely, in all others.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "two are never the same")]
    pub fn new() -> Loopback {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 16 + COUNT.fetch_add(1, Ordering::Relaxed);
        let [.., high, low] = number.to_be_bytes();
        // Below 64 are those that people and other tests take.
        Loopback { network: [64 + high % 128, low] }
    }

    /// The address of a host, from 1.
    #[must_use]
    pub fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network[0], self.network[1], number)
    }
}
