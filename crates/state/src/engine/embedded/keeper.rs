//! The housekeeping thread of an open environment: syncs, frees dead readers' slots, looks for watchers, and reports
//! who holds the write lock for too long.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::lock::Holder;
use super::lock_wait::LockWaitWatch;
use super::open_store::{Notices, OpenStore};
use super::options::{Durability, LockWait};

const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// A dead reader keeps every page freed since from being used again: 10,000 puts took 200 MB (measured).
const STALE_READERS_INTERVAL: Duration = Duration::from_secs(2);
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// Watching takes at most a tenth of this thread.
const WATCH_PAUSE_FACTOR: u32 = 10;
pub(super) struct Keeper {
    shared: Arc<OpenStore>,
    sync_at: Instant,
    /// LMDB's last transaction at the last sync.
    synced: Option<usize>,
    stale_readers_at: Instant,
    watch_at: Instant,
    lock_wait: LockWaitWatch,
}

impl Keeper {
    pub(super) fn new(shared: Arc<OpenStore>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            sync_at: now + SYNC_INTERVAL,
            synced: None,
            // At once: whoever opens after a crash should not wait for the room the crash has pinned.
            stale_readers_at: now,
            watch_at: now,
            lock_wait: LockWaitWatch::default(),
        }
    }

    /// Works until told to stop, then syncs a last time.
    pub(super) fn run(mut self) {
        loop {
            let now = Instant::now();
            let notices = *self.shared.notices();
            if notices.stopping {
                break;
            }
            self.keep(now, notices);
            self.shared.wait_for_notice(notices, self.wake_at(notices));
        }
        self.sync();
    }

    fn keep(&mut self, now: Instant, notices: Notices) {
        self.report_lock_wait(now, notices.waiting_since);
        if now >= self.sync_at {
            self.sync();
            self.sync_at = Instant::now() + SYNC_INTERVAL;
        }
        if now >= self.stale_readers_at || notices.has_grown {
            self.shared.notices().has_grown = false;
            match self.shared.environment.sweep_stale_readers() {
                Ok(0) => {}
                Ok(slots) => info!(slots, "freed the reader slots of dead processes"),
                Err(error) => warn!(%error, "stale readers could not be swept"),
            }
            self.stale_readers_at = now + STALE_READERS_INTERVAL;
        }
        if notices.watching && now >= self.watch_at {
            self.look_for_watchers();
            let pause = WATCH_INTERVAL.max(now.elapsed() * WATCH_PAUSE_FACTOR);
            self.watch_at = Instant::now() + pause;
        }
    }

    fn wake_at(&self, notices: Notices) -> Instant {
        let mut at = self.sync_at.min(self.stale_readers_at);
        if notices.watching {
            at = at.min(self.watch_at);
        }
        self.lock_wait.due_at().map_or(at, |due| at.min(due))
    }

    fn sync(&mut self) {
        if self.shared.options.durability == Durability::EveryCommit {
            return;
        }
        let transaction = self.shared.environment.last_transaction();
        if self.synced == Some(transaction) {
            return;
        }
        match self.shared.environment.sync() {
            Ok(()) => self.synced = Some(transaction),
            Err(error) => {
                warn!(%error, "the store could not be synced; power loss would lose more than a second")
            }
        }
    }

    fn look_for_watchers(&self) {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.shared.options.clock.now();
        watched.retain_mut(|watch| watch.look(&self.shared.environment, now));
        if watched.is_empty() {
            // Still under the lock of the list: whoever adds to it says so afterwards.
            self.shared.notify(|notices| notices.watching = false);
        }
    }

    fn report_lock_wait(&mut self, now: Instant, waiting_since: Option<Instant>) {
        let lock = &self.shared.write_lock;
        if let Some((holder, waited)) =
            self.lock_wait.observe(now, waiting_since, || lock.read_holder())
        {
            report(&self.shared, holder.as_ref(), waited);
        }
    }
}

fn report(shared: &OpenStore, holder: Option<&Holder>, waited: Duration) {
    let wait = LockWait {
        holder_pid: holder.map(|holder| holder.pid),
        holder_name: holder.map(|holder| holder.name.clone()).unwrap_or_default(),
        waited,
    };
    warn!(
        holder_pid = wait.holder_pid,
        holder_name = wait.holder_name,
        waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        path = %shared.environment.path.display(),
        "the store's write lock is held for long"
    );
    if let Some(on_lock_wait) = &shared.options.on_lock_wait {
        on_lock_wait(&wait);
    }
}
