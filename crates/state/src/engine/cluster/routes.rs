//! What all tasks of one client share: the map of partitions to nodes, and commits that have no node to go to.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use super::job::{Job, UnderWay};
use super::layout::{Layout, PARTITIONS, Partition};
use super::library::Library;
use super::node::{Node, lock};
use super::nodes::{NodeId, Picture};
use super::options::{Options, WriteQuota};
use super::stored;
use crate::batch::Batch;
use crate::error::StoreError;
use crate::store::CommitOutcome;

/// How long a commit that was turned away waits until it tries again.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(20);

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) layout: Layout,
    pub(super) functions: Library,
    pub(super) runtime: Handle,
    map: Mutex<Map>,
    /// Of the write quota, at present.
    copies: AtomicUsize,
    /// What the copies shall be.
    copies_wanted: AtomicUsize,
    level: AtomicU8,
    /// Grows with every change of the map.
    pub(super) map_changes: watch::Sender<u64>,
    /// Somebody needs a newer map.
    pub(super) refresh: Notify,
    parked: Mutex<Vec<Job>>,
    pub(super) parking: Notify,
    /// Partitions in which a list met what is over.
    sweepable: Mutex<BTreeSet<Partition>>,
    pub(super) sweeping: Notify,
    /// Commit ids count up from a random one.
    ids: AtomicU64,
    /// Commits that were not answered yet.
    pub(super) under_way: Arc<UnderWay>,
}

#[derive(Default)]
struct Map {
    nodes: HashMap<NodeId, Arc<Node>>,
    owners: Vec<Option<Arc<Node>>>,
    picture: Picture,
}

impl Shared {
    pub(super) fn new(options: Options, runtime: Handle) -> Self {
        let map = Map { owners: vec![None; PARTITIONS], ..Map::default() };
        Self {
            layout: Layout::new(&options.namespace),
            functions: Library::new(),
            copies: AtomicUsize::new(options.quota.copies),
            copies_wanted: AtomicUsize::new(options.quota.copies),
            level: AtomicU8::new(stored::LEVEL),
            options,
            runtime,
            map: Mutex::new(map),
            map_changes: watch::Sender::new(0),
            refresh: Notify::new(),
            parked: Mutex::default(),
            parking: Notify::new(),
            sweepable: Mutex::default(),
            sweeping: Notify::new(),
            ids: AtomicU64::new(RandomState::new().hash_one(0)),
            under_way: Arc::default(),
        }
    }

    /// The write quota, at present.
    pub(super) fn quota(&self) -> WriteQuota {
        WriteQuota { copies: self.copies.load(Ordering::Relaxed), ..self.options.quota }
    }

    /// So many copies from now on.
    pub(super) fn set_copies(&self, copies: usize) {
        self.copies.store(copies, Ordering::Relaxed);
    }

    pub(super) fn copies_wanted(&self) -> usize {
        self.copies_wanted.load(Ordering::Relaxed)
    }

    pub(super) fn want_copies(&self, copies: usize) {
        self.copies_wanted.store(copies, Ordering::Relaxed);
    }

    /// The format level of what is written.
    pub(super) fn level(&self) -> u8 {
        self.level.load(Ordering::Relaxed)
    }

    pub(super) fn set_level(&self, level: u8) {
        self.level.store(level.clamp(stored::LEVEL, stored::LEVEL_NEWEST), Ordering::Relaxed);
    }

    /// The node that serves a partition. `None`: nobody known does.
    pub(super) fn owner(&self, partition: Partition) -> Option<Arc<Node>> {
        lock(&self.map).owners[partition.index()].clone()
    }

    /// The nodes that serve any partition.
    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        let map = lock(&self.map);
        let owns = |node: &Arc<Node>| map.owners.iter().flatten().any(|it| Arc::ptr_eq(it, node));
        map.nodes.values().filter(|node| owns(node)).cloned().collect()
    }

    /// All nodes.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.map).nodes.values().cloned().collect()
    }

    pub(super) fn at(&self, address: SocketAddr) -> Option<Arc<Node>> {
        lock(&self.map).nodes.values().find(|node| node.address == address).cloned()
    }

    pub(super) fn picture(&self) -> Picture {
        lock(&self.map).picture.clone()
    }

    /// Whether every partition has a node that has not failed.
    pub(super) fn is_complete(&self) -> bool {
        lock(&self.map).owners.iter().all(Option::is_some)
    }

    /// A node said who has a partition now. The whole picture is asked for as well.
    pub(super) fn moved(&self, partition: Partition, to: Option<SocketAddr>) {
        if let Some(node) = to.and_then(|address| self.at(address)) {
            lock(&self.map).owners[partition.index()] = Some(node);
            self.map_changes.send_modify(|changes| *changes += 1);
        }
        self.refresh.notify_one();
    }

    /// Takes over a new picture. Nodes that are new to it are returned, and those that are no longer in it.
    pub(super) fn update(&self, picture: Picture) -> (Vec<Arc<Node>>, Vec<Arc<Node>>) {
        let mut map = lock(&self.map);
        if map.picture == picture {
            return (Vec::new(), Vec::new());
        }
        let is_current = |node: &Node| {
            picture.nodes.get(&node.id).is_some_and(|known| known.address == node.address)
        };
        let gone: Vec<_> = map.nodes.values().filter(|node| !is_current(node)).cloned().collect();
        for node in &gone {
            map.nodes.remove(&node.id);
        }
        let mut new = Vec::new();
        for (id, known) in &picture.nodes {
            map.nodes.entry(id.clone()).or_insert_with(|| {
                let node = Node::new(id.clone(), known.address);
                new.push(Arc::clone(&node));
                node
            });
        }
        for partition in Partition::all() {
            let owner = picture.owner(self.layout.slot(partition));
            let serves = |id: &&NodeId| picture.nodes.get(*id).is_some_and(|it| !it.is_failed);
            let owner = owner.filter(serves).and_then(|id| map.nodes.get(id));
            map.owners[partition.index()] = owner.cloned();
        }
        map.picture = picture;
        drop(map);
        self.map_changes.send_modify(|changes| *changes += 1);
        self.parking.notify_one();
        (new, gone)
    }

    /// Returns when a node serves nothing any more.
    pub(super) async fn is_replaced(&self, node: &Arc<Node>) {
        let mut changes = self.map_changes.subscribe();
        loop {
            let serves = |map: &Map| map.owners.iter().flatten().any(|it| Arc::ptr_eq(it, node));
            if !serves(&lock(&self.map)) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Sends a commit to the node that serves it, or keeps it until there is one. What is kept goes first: commits of
    /// one caller stay in order while nothing goes wrong.
    pub(super) fn dispatch(&self, job: Job) {
        let mut parked = lock(&self.parked);
        if parked.is_empty() {
            if let Err(job) = self.send(job) {
                parked.push(job);
            }
        } else {
            parked.push(job);
        }
        if !parked.is_empty() {
            self.parking.notify_one();
        }
    }

    /// `Err`: nobody serves it.
    fn send(&self, mut job: Job) -> Result<(), Job> {
        job.is_asking = false;
        match self.owner(job.partition) {
            Some(node) => node.push(job),
            None => Err(job),
        }
    }

    /// Keeps a commit for a moment.
    pub(super) fn park(&self, mut job: Job, pause: Duration) {
        job.not_before = Instant::now() + pause;
        lock(&self.parked).push(job);
        self.parking.notify_one();
    }

    /// Keeps those of a connection that was lost.
    pub(super) fn park_all(&self, jobs: impl IntoIterator<Item = Job>, in_doubt: bool) {
        for mut job in jobs {
            job.in_doubt |= in_doubt;
            self.park(job, RETRY_AFTER);
        }
        self.refresh.notify_one();
    }

    /// Sends out what is kept, as far as it has waited and somebody serves it. Returns whether some are left.
    pub(super) fn unpark(&self, now: Instant) -> bool {
        let mut parked = lock(&self.parked);
        for job in std::mem::take(&mut *parked) {
            if job.deadline <= now {
                job.give_up("no node served it in time");
            } else if job.not_before > now {
                parked.push(job);
            } else if let Err(job) = self.send(job) {
                parked.push(job);
            }
        }
        !parked.is_empty()
    }

    /// A job for a batch, to be dispatched.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when too much is under way.
    pub(super) fn job(
        &self,
        partition: Partition,
        batch: Batch,
    ) -> Result<(Job, oneshot::Receiver<CommitOutcome>), StoreError> {
        let bytes = batch.weight();
        let ticket = self.under_way.admit(bytes)?;
        let (answer, outcome) = oneshot::channel();
        let now = Instant::now();
        let job = Job {
            partition,
            batch,
            bytes,
            id: self.ids.fetch_add(1, Ordering::Relaxed).to_be_bytes(),
            in_doubt: false,
            is_asking: false,
            deadline: now + self.options.patience,
            not_before: now,
            answer,
            _ticket: ticket,
        };
        Ok((job, outcome))
    }

    /// A list met something in a partition that is over.
    pub(super) fn sweep_soon(&self, partition: Partition) {
        if lock(&self.sweepable).insert(partition) {
            self.sweeping.notify_one();
        }
    }

    /// These could not be swept; they are tried again behind the next one whose turn it is.
    pub(super) fn sweep_later(&self, partitions: Vec<Partition>) {
        lock(&self.sweepable).extend(partitions);
    }

    pub(super) fn next_to_sweep(&self) -> Option<Partition> {
        lock(&self.sweepable).pop_first()
    }

    /// Writes a commit that changes nothing: when it has its copies, all before it have them.
    pub(super) fn touch(&self, partition: Partition) {
        if let Ok((job, _)) = self.job(partition, Batch::new()) {
            self.dispatch(job);
        }
    }
}
