//! One node as its client sees it: what waits for it, its connections, how it stands by the quota.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::debug;

use super::connection::{Connection, Lost};
use super::job::Job;
use super::layout::Partition;
use super::nodes::NodeId;
use super::options::Options;
use super::quota::Standing;

/// A group of commits shares one `WAIT`.
const GROUP_BATCHES_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How long nobody tries again to connect to a node that could not be reached.
const RETRY_AFTER: Duration = Duration::from_millis(30);

/// A node, under one address.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
    queue: Mutex<VecDeque<Job>>,
    queued: Notify,
    /// It has left the cluster, or has another address now.
    is_retired: AtomicBool,
    /// For reads and lists.
    reader: Slot,
    /// For questions about the cluster.
    control: Slot,
    standing: Mutex<Option<Standing>>,
    /// Partitions in which a commit lacks copies and its caller knows no better: what is read there may be lost.
    unsettled: Mutex<HashSet<Partition>>,
}

/// A connection that many use.
#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    open: Option<Arc<Connection>>,
    not_before: Option<Instant>,
}

impl Slot {
    async fn connection(
        &self,
        address: SocketAddr,
        options: &Options,
    ) -> Result<Arc<Connection>, Lost> {
        let mut state = self.state.lock().await;
        if let Some(open) = &state.open {
            return Ok(Arc::clone(open));
        }
        if state.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(Lost::Odd("it could not be reached a moment ago".to_owned()));
        }
        match Connection::open(address, options).await {
            Ok(open) => {
                let open = Arc::new(open);
                state.open = Some(Arc::clone(&open));
                Ok(open)
            }
            Err(error) => {
                debug!(%address, %error, "no connection to a node of the store");
                state.not_before = Some(Instant::now() + RETRY_AFTER);
                Err(error)
            }
        }
    }

    /// Whoever uses it next gets another one.
    async fn give_up(&self, connection: &Arc<Connection>) {
        let mut state = self.state.lock().await;
        if state.open.as_ref().is_some_and(|open| Arc::ptr_eq(open, connection)) {
            state.open = None;
        }
    }
}

impl Node {
    pub(super) fn new(id: NodeId, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            id,
            address,
            queue: Mutex::default(),
            queued: Notify::new(),
            is_retired: AtomicBool::new(false),
            reader: Slot::default(),
            control: Slot::default(),
            standing: Mutex::default(),
            unsettled: Mutex::default(),
        })
    }

    /// Hands it a commit. `Err`: it is no more.
    pub(super) fn push(&self, job: Job) -> Result<(), Job> {
        {
            let mut queue = lock(&self.queue);
            if self.is_retired.load(Ordering::Acquire) {
                return Err(job);
            }
            queue.push_back(job);
        }
        self.queued.notify_one();
        Ok(())
    }

    /// Takes it out of service; what waited for it comes back.
    pub(super) fn retire(&self) -> VecDeque<Job> {
        let mut queue = lock(&self.queue);
        self.is_retired.store(true, Ordering::Release);
        self.queued.notify_one();
        std::mem::take(&mut *queue)
    }

    /// Waits for commits and takes as many as go together. `None`: it is retired.
    pub(super) async fn next_group(&self) -> Option<Vec<Job>> {
        loop {
            if self.is_retired.load(Ordering::Acquire) {
                return None;
            }
            let group = self.take_group();
            if !group.is_empty() {
                return Some(group);
            }
            self.queued.notified().await;
        }
    }

    fn take_group(&self) -> Vec<Job> {
        let mut queue = lock(&self.queue);
        let (mut count, mut bytes) = (0, 0);
        for job in queue.iter().take(GROUP_BATCHES_MAX) {
            bytes += job.bytes;
            if count > 0 && bytes > GROUP_BYTES_MAX {
                break;
            }
            count += 1;
        }
        queue.drain(..count).collect()
    }

    pub(super) async fn reader(&self, options: &Options) -> Result<Arc<Connection>, Lost> {
        self.reader.connection(self.address, options).await
    }

    pub(super) async fn control(&self, options: &Options) -> Result<Arc<Connection>, Lost> {
        self.control.connection(self.address, options).await
    }

    pub(super) async fn give_up(&self, connection: &Arc<Connection>) {
        self.reader.give_up(connection).await;
        self.control.give_up(connection).await;
    }

    pub(super) fn standing(&self) -> Option<Standing> {
        *lock(&self.standing)
    }

    /// Returns what it was.
    pub(super) fn set_standing(&self, standing: Standing) -> Option<Standing> {
        lock(&self.standing).replace(standing)
    }

    pub(super) fn unsettle(&self, partition: Partition) {
        lock(&self.unsettled).insert(partition);
    }

    /// A later write has its copies, and so have all before it.
    pub(super) fn settle(&self) {
        lock(&self.unsettled).clear();
    }

    pub(super) fn is_unsettled(&self, partition: Partition) -> bool {
        lock(&self.unsettled).contains(&partition)
    }

    pub(super) fn any_unsettled(&self) -> Option<Partition> {
        lock(&self.unsettled).iter().next().copied()
    }
}

/// What these locks guard is changed in one step each: a panic elsewhere cannot leave it half-changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
