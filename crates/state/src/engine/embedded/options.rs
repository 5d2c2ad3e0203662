//! How an environment is opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::lock::LockPhase;
use crate::clock::{Clock, SystemClock};

/// When an acknowledged commit is on the disk. Either way it survives the death of any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A sync every second and at orderly close. After power loss the last second, and in the worst case all
    /// since the last snapshot, may be lost. For bindings, sessions, set-up records.
    Relaxed,
    /// Before the commit is acknowledged. For accounts and settings.
    EveryCommit,
}

/// Somebody has held the write lock for long; passed to [`Options::on_lock_wait`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// The process that holds it, `None` if it did not get to write its name.
    pub holder_pid: Option<u32>,
    /// That process's name.
    pub holder_name: String,
    /// How long this process has waited.
    pub waited: Duration,
}

/// The callback for [`LockWait`] reports.
pub type OnLockWait = Arc<dyn Fn(&LockWait) + Send + Sync>;

/// The callback for [`Options::lock_probe`].
pub type LockProbe = Arc<dyn Fn(LockPhase) + Send + Sync>;

/// How an environment is opened. Every process of a node opens it with the same durability and map size.
#[derive(Clone)]
pub struct Options {
    /// When commits reach the disk. Default: [`Durability::Relaxed`].
    pub durability: Durability,
    /// The most the data file may grow to, in bytes; rounded up to whole pages. Default: 16 GiB. It is address
    /// space, not memory or disk: the file grows as it is used.
    pub map_size: usize,
    /// Written into the lock file while this process holds the lock. Default: the executable's name.
    pub process_name: String,
    /// Called from a thread of the store for every 100 ms for which one holding of the write lock by another process
    /// makes this one wait. Whoever gets it may end the holder; under [`Durability::EveryCommit`] it may also be the
    /// disk that is slow. A warning is logged as well. Must not own the store it reports on.
    pub on_lock_wait: Option<OnLockWait>,
    /// For tests that stop or kill a process at a certain moment: called by the writing thread. Default: none.
    pub lock_probe: Option<LockProbe>,
    /// By which lifetimes end. Default: the machine's clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Relaxed,
            map_size: 16 << 30,
            process_name: executable_name(),
            on_lock_wait: None,
            lock_probe: None,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

impl Options {
    /// Whether both may use one environment.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.durability == other.durability && self.map_size == other.map_size
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("durability", &self.durability)
            .field("map_size", &self.map_size)
            .field("process_name", &self.process_name)
            .finish_non_exhaustive()
    }
}

fn executable_name() -> String {
    let executable = std::env::current_exe().ok();
    let name = executable.as_deref().and_then(|path| path.file_name());
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
