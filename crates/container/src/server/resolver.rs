//! Turns host names into addresses, off the shard's thread: A and AAAA records by way of the system.
//!
//! Bounded in time, in look-ups under way and in answers remembered. Deliberately absent: SRV and NAPTR
//! (RFC 3263), and the records' own lifetimes, which the system's resolver does not tell.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

/// A look-up that takes longer has failed.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(4);
/// More look-ups at a time fail at once: each holds a thread, for as long as the system takes.
const LOOKUPS_MAX: usize = 32;
/// More names are not remembered until the old ones are over.
const CACHED_NAMES_MAX: usize = 4_096;
/// More addresses of one name are not tried.
const ADDRESSES_MAX: usize = 16;
/// How long an answer is good.
const FOUND_LIFETIME: Duration = Duration::from_secs(30);
/// How long a failure is remembered, so that a dead name is not asked for by every call.
const FAILED_LIFETIME: Duration = Duration::from_secs(3);

/// The names looked up lately.
pub(super) struct Resolver {
    cache: AHashMap<String, Answer>,
    permits: Arc<Semaphore>,
}

struct Answer {
    addresses: Vec<IpAddr>,
    good_until: Instant,
}

impl Resolver {
    pub(super) fn new() -> Resolver {
        Resolver { cache: AHashMap::new(), permits: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// What is remembered of `host`; no addresses when it is known to have none.
    pub(super) fn cached(&self, host: &str, port: u16, now: Instant) -> Option<Vec<SocketAddr>> {
        let answer = self.cache.get(host).filter(|answer| answer.good_until > now)?;
        Some(answer.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
    }

    /// Asks the system; no addresses when it fails, takes too long, or too many ask.
    pub(super) fn look_up(&self, host: String) -> BoxFuture<'static, Vec<IpAddr>> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        Box::pin(async move {
            let Ok(permit) = permit else { return Vec::new() };
            let asking = tokio::task::spawn_blocking(move || {
                // A look-up given up goes on in its thread, so the permit stays with it.
                let _permit = permit;
                let found = (host.as_str(), 0).to_socket_addrs();
                found.map(|found| found.take(ADDRESSES_MAX).map(|address| address.ip()).collect())
            });
            match tokio::time::timeout(LOOKUP_TIME_MAX, asking).await {
                Ok(Ok(Ok(addresses))) => addresses,
                Ok(Ok(Err(_)) | Err(_)) | Err(_) => Vec::new(),
            }
        })
    }

    /// Remembers what a look-up came to.
    pub(super) fn remember(&mut self, host: String, addresses: &[IpAddr], now: Instant) {
        if self.cache.len() >= CACHED_NAMES_MAX {
            self.cache.retain(|_, answer| answer.good_until > now);
        }
        if self.cache.len() >= CACHED_NAMES_MAX {
            return;
        }
        let lifetime = if addresses.is_empty() { FAILED_LIFETIME } else { FOUND_LIFETIME };
        let answer = Answer { addresses: addresses.to_vec(), good_until: now + lifetime };
        self.cache.insert(host, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_remembered_for_a_while_and_failures_shorter() {
        let now = Instant::now();
        let mut resolver = Resolver::new();
        resolver.remember("a.example".to_owned(), &[[192, 0, 2, 1].into()], now);
        resolver.remember("b.example".to_owned(), &[], now);
        let found = resolver.cached("a.example", 5070, now);
        assert_eq!(found, Some(vec![SocketAddr::from(([192, 0, 2, 1], 5070))]));
        assert_eq!(resolver.cached("b.example", 5060, now), Some(Vec::new()));
        assert_eq!(resolver.cached("b.example", 5060, now + FAILED_LIFETIME), None);
        assert_eq!(resolver.cached("a.example", 5060, now + FOUND_LIFETIME), None);
    }

    #[test]
    fn cache_is_bounded() {
        let now = Instant::now();
        let mut resolver = Resolver::new();
        for index in 0..=CACHED_NAMES_MAX {
            resolver.remember(format!("{index}.example"), &[], now);
        }
        assert_eq!(resolver.cache.len(), CACHED_NAMES_MAX);
    }
}
