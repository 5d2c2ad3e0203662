//! What a child says to its manager, from any thread.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::SendFlags;

use crate::protocol::{Command, ToManager, encode_line};
use crate::view::ProcessState;

/// The talking half of a [`Subscription`](super::Subscription); clones talk to the same manager, and to the
/// next one when that is found. Never blocks: what a manager that is gone, or does not read, has no room for is
/// not said.
#[derive(Debug, Clone)]
pub struct Reporter {
    present: Arc<Mutex<Present>>,
}

#[derive(Debug)]
struct Present {
    /// `None` while there is no manager.
    stream: Option<UnixStream>,
    /// Starting, ready or draining.
    state: ProcessState,
}

impl Reporter {
    pub(super) fn new(stream: UnixStream) -> Reporter {
        let present = Present { stream: Some(stream), state: ProcessState::Starting };
        Reporter { present: Arc::new(Mutex::new(present)) }
    }

    /// Tells the manager that this child serves; if there is none, the next one.
    pub fn ready(&self) {
        let mut present = self.lock();
        if present.state == ProcessState::Starting {
            present.state = ProcessState::Ready;
        }
        present.say_ready();
    }

    /// Tells the manager something that is worth nothing later.
    pub fn report(&self, message: &ToManager) {
        if let Err(error) = self.lock().send(message) {
            tracing::debug!(%error, "the manager was not told");
        }
    }

    pub(super) fn told(&self, command: Command) {
        match command {
            Command::Drain { .. } => self.lock().state = ProcessState::Draining,
            Command::Stop => {}
            #[cfg(feature = "faults")]
            Command::Fault(_) => {}
        }
    }

    pub(super) fn state(&self) -> ProcessState {
        self.lock().state
    }

    pub(super) fn disconnect(&self) {
        self.lock().stream = None;
    }

    /// `told` is the state that the new manager knows.
    pub(super) fn reconnect(&self, stream: UnixStream, told: ProcessState) {
        let mut present = self.lock();
        present.stream = Some(stream);
        if told == ProcessState::Starting && present.state == ProcessState::Ready {
            present.say_ready();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        // Nobody can panic in between and leave it half changed.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn say_ready(&self) {
        if let Err(error) = self.send(&ToManager::Ready)
            && let Some(stream) = &self.stream
        {
            tracing::warn!(%error, "the manager cannot be told: once more on a new connection");
            // The reading half sees the end, connects again and says hello with this state.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn send(&self, message: &ToManager) -> rustix::io::Result<()> {
        let Some(stream) = &self.stream else {
            return Err(rustix::io::Errno::NOTCONN);
        };
        // A Unix stream takes a line as short as ours whole or not at all.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(stream, &encode_line(message), flags).map(drop)
    }
}
