//! A worker's TCP listeners: which of them have somebody waiting, and which wait for descriptors.

use std::time::{Duration, Instant};

use mio::Registry;
use transport::tcp::{Accepted, Connections, Listener};

/// How long listeners that were short of descriptors leave those who wait in the kernel.
const SHORT_FOR: Duration = Duration::from_millis(500);

/// Whether connections wait to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Not that we know.
    Nobody,
    /// Some may.
    Now,
    /// Some do, but descriptors are short.
    ForRoom,
}

/// The TCP listeners of one worker.
#[derive(Debug)]
pub(super) struct Accepting {
    listeners: Vec<(Listener, Waiting)>,
    /// When listeners that were short of descriptors accept again.
    again: Instant,
}

impl Accepting {
    /// Listeners that are in the worker's poll already; their place is their place in `listeners`.
    pub(super) fn new(listeners: Vec<Listener>, now: Instant) -> Accepting {
        let fresh = |listener| (listener, Waiting::Now);
        Accepting { listeners: listeners.into_iter().map(fresh).collect(), again: now }
    }

    /// The poll says that somebody waits.
    pub(super) fn readable(&mut self, place: usize) {
        self.listeners[place].1 = Waiting::Now;
    }

    /// Accepts a turn's share of those who wait.
    pub(super) fn accept(
        &mut self,
        connections: &mut Connections,
        registry: &Registry,
        now: Instant,
    ) {
        for (listener, waiting) in &mut self.listeners {
            if *waiting != Waiting::Now {
                continue;
            }
            match connections.accept_from(listener, registry, now) {
                Ok(Accepted::More) => {}
                Ok(Accepted::Drained) => *waiting = Waiting::Nobody,
                Ok(Accepted::Short) => {
                    *waiting = Waiting::ForRoom;
                    self.again = now + SHORT_FOR;
                }
                Err(error) => {
                    *waiting = Waiting::Nobody;
                    tracing::error!(%error, local = %listener.local(), "TCP listener cannot accept");
                }
            }
        }
    }

    /// Lets listeners that were short of descriptors try again when it is time.
    pub(super) fn tick(&mut self, now: Instant) {
        if now < self.again {
            return;
        }
        for (_, waiting) in &mut self.listeners {
            if *waiting == Waiting::ForRoom {
                *waiting = Waiting::Now;
            }
        }
    }

    /// Whether somebody may wait who can be accepted now.
    pub(super) fn has_waiting(&self) -> bool {
        self.listeners.iter().any(|(_, waiting)| *waiting == Waiting::Now)
    }
}
