//! When an edge begins to serve: when each of its workers can reach the containers, or patience is over.
//!
//! Until then its sockets are left unread. What arrives waits in the kernel, where it waited while
//! the edge was not there at all; read too early, it would be answered 503 although a container
//! serves, or go to another container than the one that has its transaction.

use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long containers that are named may take to show up; after that phones are told 503.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the others may take once one serves: their links are opened at the same time, so what
/// takes longer hangs.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_millis(200);

/// Whether a worker reads its sockets already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Not yet; at this moment whatever comes.
    Closed {
        /// When patience is over.
        until: Instant,
    },
    /// Yes.
    Open,
}

impl Opening {
    /// A worker that has just started.
    pub fn new(now: Instant) -> Opening {
        Opening::Closed { until: now + PATIENCE }
    }

    /// Opens when everybody serves, nobody is expected to, or patience is over; true in that moment
    /// only.
    pub fn look(&mut self, serves: Serves, now: Instant) -> bool {
        let Opening::Closed { until } = self else { return false };
        match serves {
            Serves::Everybody | Serves::Nobody => {}
            Serves::Somebody => {
                *until = (*until).min(now + PATIENCE_WITH_OTHERS);
                if now < *until {
                    return false;
                }
            }
            Serves::Expected if now < *until => return false,
            Serves::Expected => {
                tracing::warn!("no container serves yet; phones are told 503 until one does")
            }
        }
        *self = Opening::Open;
        true
    }

    /// When to look again whatever happens.
    pub fn deadline(self) -> Option<Instant> {
        match self {
            Opening::Closed { until } => Some(until),
            Opening::Open => None,
        }
    }
}

/// What a worker knows of containers and peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// One of them accepts new work, and all that the manager calls ready are open.
    Everybody,
    /// One of them accepts new work, another that is ready is not open yet.
    Somebody,
    /// Some are named, none accepts yet.
    Expected,
    /// None is named.
    Nobody,
}

/// Announces, once, that all workers of an edge are open.
pub(super) struct Announcement {
    closed: AtomicU16,
    announce: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Announcement {
    pub(super) fn new(workers: u16, announce: Box<dyn FnOnce() + Send>) -> Announcement {
        Announcement { closed: AtomicU16::new(workers), announce: Mutex::new(Some(announce)) }
    }

    /// One more worker is open.
    pub(super) fn opened(&self) {
        if self.closed.fetch_sub(1, Ordering::AcqRel) == 1 {
            let announce = self.announce.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(announce) = announce {
                announce();
            }
        }
    }
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcement").field("closed", &self.closed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn opens_when_everybody_serves_or_nobody_is_expected() {
        let now = Instant::now();
        for serves in [Serves::Everybody, Serves::Nobody] {
            let mut opening = Opening::new(now);
            assert!(opening.look(serves, now));
            assert_eq!(opening, Opening::Open);
            assert!(!opening.look(serves, now), "only once");
        }
    }

    #[test]
    fn waits_for_expected_containers_as_long_as_patience_lasts() {
        let now = Instant::now();
        let mut opening = Opening::new(now);
        assert!(!opening.look(Serves::Expected, now + PATIENCE - Duration::from_millis(1)));
        assert_eq!(opening.deadline(), Some(now + PATIENCE));
        assert!(opening.look(Serves::Expected, now + PATIENCE));
        assert_eq!(opening.deadline(), None);
    }

    #[test]
    fn waits_a_moment_for_the_others_once_one_serves() {
        let now = Instant::now();
        let mut opening = Opening::new(now);
        assert!(!opening.look(Serves::Somebody, now + Duration::from_secs(1)));
        let until = now + Duration::from_secs(1) + PATIENCE_WITH_OTHERS;
        assert!(!opening.look(Serves::Somebody, until - Duration::from_millis(1)));
        assert_eq!(opening.deadline(), Some(until), "looking again buys no time");
        assert!(opening.look(Serves::Somebody, until));
        let mut opening = Opening::new(now);
        assert!(!opening.look(Serves::Somebody, now));
        assert!(opening.look(Serves::Everybody, now), "the other one is there, too");
    }

    #[test]
    fn announces_the_last_worker_only() {
        let announced = Arc::new(AtomicU16::new(0));
        let counter = Arc::clone(&announced);
        let announcement = Announcement::new(
            2,
            Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            }),
        );
        announcement.opened();
        assert_eq!(announced.load(Ordering::Relaxed), 0);
        announcement.opened();
        assert_eq!(announced.load(Ordering::Relaxed), 1);
    }
}
