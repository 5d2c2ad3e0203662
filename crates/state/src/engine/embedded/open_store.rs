//! What the threads of one open environment share, and how they take turns with other processes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::environment::Environment;
use super::lock::{Holder, LockFile, LockGuard, LockPhase};
use super::options::Options;
use super::watches::Watched;
use crate::error::StoreError;

#[derive(Debug)]
pub(super) struct OpenStore {
    pub(super) environment: Environment,
    pub(super) options: Options,
    pub(super) write_lock: LockFile,
    /// Held shared as long as the environment is open.
    pub(super) _open_lock: LockFile,
    turns: AtomicU64,
    notices: Mutex<Notices>,
    noticed: Condvar,
    pub(super) watched: Mutex<Vec<Watched>>,
}

/// What the keeper thread is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notices {
    /// Grows with every notice, so that none is slept through.
    pub(super) count: u64,
    pub(super) stopping: bool,
    /// Since when the writer has waited for the lock.
    pub(super) waiting_since: Option<Instant>,
    pub(super) watching: bool,
    /// The file has grown so much that a dead reader may be the cause.
    pub(super) has_grown: bool,
}

impl OpenStore {
    pub(super) fn new(
        environment: Environment,
        options: Options,
        write_lock: LockFile,
        open_lock: LockFile,
    ) -> Self {
        Self {
            environment,
            options,
            write_lock,
            _open_lock: open_lock,
            turns: AtomicU64::new(0),
            notices: Mutex::default(),
            noticed: Condvar::new(),
            watched: Mutex::default(),
        }
    }

    /// Waits until this process may write. If that takes long, the keeper reports who holds the lock.
    pub(super) fn take_turn(&self) -> Result<Turn<'_>, StoreError> {
        let failed = |source| StoreError::file("lock", &self.environment.path, source);
        let guard = match self.write_lock.try_lock().map_err(failed)? {
            Some(guard) => guard,
            None => {
                self.notify(|notices| notices.waiting_since = Some(Instant::now()));
                self.probe(LockPhase::Waiting);
                let guard = self.write_lock.lock();
                self.notify(|notices| notices.waiting_since = None);
                guard.map_err(failed)?
            }
        };
        self.write_lock.write_holder(&Holder {
            pid: std::process::id(),
            turn: self.turns.fetch_add(1, Ordering::Relaxed),
            name: self.options.process_name.clone(),
        });
        self.probe(LockPhase::Held);
        Ok(Turn { lock: &self.write_lock, _guard: guard })
    }

    pub(super) fn probe(&self, phase: LockPhase) {
        if let Some(probe) = &self.options.lock_probe {
            probe(phase);
        }
    }

    /// Changes the notices and wakes the keeper.
    pub(super) fn notify(&self, change: impl FnOnce(&mut Notices)) {
        let mut notices = self.notices();
        change(&mut notices);
        notices.count += 1;
        drop(notices);
        self.noticed.notify_all();
    }

    /// Waits until there is news since `seen`, at most until `deadline`.
    pub(super) fn wait_for_notice(&self, seen: Notices, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let no_news = |notices: &mut Notices| notices.count == seen.count;
        drop(self.noticed.wait_timeout_while(self.notices(), timeout, no_news));
    }

    pub(super) fn notices(&self) -> MutexGuard<'_, Notices> {
        // The notices are plain values: a panic elsewhere cannot leave them half-changed.
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to write. Dropped after the transaction, it lets the next process write.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    lock: &'a LockFile,
    _guard: LockGuard<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lock.clear_holder();
    }
}
