//! The cluster engine: records on several hosts, in Redis 7 or Valkey Cluster.
//!
//! A client of our own over plain connections: one for writes and one for reads to each primary, one for questions to each
//! node; a thread of its own serves them. The `redis` crate gives connections, commands and their parsing; its cluster
//! client is not used, for it waits on a stopped node and blocks all on `WAIT`.
//!
//! **What lies where**: `layout` (partitions, names), `stored` (records), `library.lua` (what Redis does at once).
//!
//! **A commit** (`commit`, `job`, `writer`) is one call of a function, which checks all expectations and then applies
//! all changes; Redis runs it as one. Groups of them share a `WAIT`. It is answered when its copies are there (`quota`).
//! Other clients may read it before: a read shows what the primary has.
//!
//! **A read or a list** (`reader`, `scan`) goes to primaries only. `watches` lists again and again; `keeper` removes what
//! is over.
//!
//! **Who serves what** (`nodes`, `routes`, `refresher`): nodes are asked from time to time, and all of them at once as soon
//! as anything is amiss: MOVED, a refused or broken connection, silence of 100 ms. Silence of 300 ms, or another node in
//! its place, ends the waiting for a node; the call goes on elsewhere as long as [`Options::patience`] lasts.
//!
//! **In doubt.** When an answer is lost, the commit is sent again under its id, to whoever serves the partition then; the
//! function looks into the partition's ledger first, which keeps the ids and versions of the last ten seconds' commits,
//! deletes among them, and moves and is replicated with the records. So it is done once, and its caller learns the version
//! it got. An old copy of the call cannot come later: on the same process the old connection is killed first, and what a
//! replaced primary still does is discarded when it becomes a replica. [`CommitError::Unknown`] is left for when no node
//! tells in time.
//!
//! **Why `Refuse` loses no acknowledged write.** An acknowledgement means that `WAIT` on the primary, behind the write and
//! on the same connection, counted `copies` replicas on other hosts that have received the stream up to it. Streams have
//! no gaps, so each of these has every write acknowledged before. `WAIT` counts for fewer only when the standing is
//! `Below`, and under `Refuse` nothing is acknowledged then. So at any time some replica that lives has all that was
//! acknowledged, as long as no more than `copies` hosts of a shard are lost at a time, and the one with the highest offset
//! is such a replica: it must be the one that is promoted (`failover`). A primary that was cut off cannot acknowledge: its
//! replica does not answer its `WAIT`, and it alone cannot flag the replica as failed. A write whose `WAIT` falls short is
//! not undone: its caller is told [`CommitError::Unknown`], and until a later write of that primary has its copies (and
//! with it all before it), this client refuses to read the partition, so that nobody takes for true what may be lost.
//! Under `Continue` that write is acknowledged, with an alarm; it is lost if the primary dies before a replica is back.
//!
//! **What the servers must be told**: `cluster-require-full-coverage no` (else one dead shard stops all), `maxmemory-policy
//! noeviction` (the default), `repl-diskless-sync-delay 0` (a primary that dies soon after its start is failed over, too),
//! `cluster-replica-no-failover yes` where somebody else orders failovers by the highest offset. The user of this client
//! needs FCALL, FUNCTION, GET, WAIT, INFO, CLUSTER, ASKING, CLIENT ID and CLIENT KILL.
//!
//! Deliberately absent: starting and stopping servers, which is the managers' work; reads from replicas, which lag.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{Value, cmd};
use tokio::sync::oneshot;

use crate::batch::Batch;
use crate::carry::Whole;
use crate::error::{CommitError, StoreError};
use crate::key::{Key, Prefix, Space};
use crate::record::Record;
use crate::store::{BoxFuture, CommitOutcome, Store};
use crate::watch::Watch;

mod commit;
mod connection;
pub mod failover;
mod job;
mod keeper;
mod layout;
mod library;
mod node;
mod nodes;
mod options;
mod quota;
mod reader;
mod refresher;
mod reply;
mod routes;
mod scan;
pub mod servers;
mod status;
mod stored;
mod succession;
mod watches;
mod writer;

pub use options::{BelowQuota, OnQuota, Options, QuotaChange, WriteQuota};
pub use status::{
    ClusterStatus, QuotaStatus, ReplicaLink, ReplicaStatus, ShardAnswer, ShardStatus,
};

use layout::Partition;
use routes::Shared;
use scan::Want;

/// A client of a cluster. Cheap to clone. When the last clone is dropped, what is under way still ends, in the background.
#[derive(Clone)]
pub struct ClusterStore {
    open: Arc<Open>,
}

struct Open {
    shared: Arc<Shared>,
    /// The thread ends when this is gone.
    _stop: oneshot::Sender<()>,
}

impl fmt::Debug for ClusterStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterStore")
            .field("options", &self.open.shared.options)
            .finish_non_exhaustive()
    }
}

impl ClusterStore {
    /// Starts a client: a thread of its own that connects to the seeds and learns the rest from them. It waits for none of
    /// them; calls do, each for [`Options::patience`].
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the options cannot be used, or the system gives no thread.
    pub fn connect(options: Options) -> Result<Self, StoreError> {
        if options.seeds.is_empty() {
            return Err(StoreError::engine("connect", "there are no seeds; name some nodes"));
        }
        if options.namespace.contains(['{', '}']) {
            return Err(StoreError::engine("connect", "the namespace has braces in it"));
        }
        let failed = |error: std::io::Error| StoreError::engine("start", error.to_string());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let shared = Arc::new(Shared::new(options, runtime.handle().clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        runtime.spawn(refresher::keep_map(Arc::clone(&shared)));
        runtime.spawn(refresher::find_room(Arc::clone(&shared)));
        runtime.spawn(refresher::look_after_copies(Arc::clone(&shared)));
        runtime.spawn(keeper::run(Arc::clone(&shared)));
        let under_way = Arc::clone(&shared.under_way);
        let patience = shared.options.patience;
        let work = move || {
            runtime.block_on(async {
                let _ = stopped.await;
                let deadline = Instant::now() + patience;
                while !under_way.is_none() && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        };
        std::thread::Builder::new().name("store".to_owned()).spawn(work).map_err(failed)?;
        Ok(Self { open: Arc::new(Open { shared, _stop: stop }) })
    }

    /// Waits until every record has a node that serves it, at most so long; whether it came to that.
    pub async fn is_ready_within(&self, time: Duration) -> bool {
        let shared = Arc::clone(&self.open.shared);
        let wait = async move {
            let mut changes = shared.map_changes.subscribe();
            let complete = async {
                while !shared.is_complete() {
                    if changes.changed().await.is_err() {
                        break;
                    }
                }
            };
            tokio::time::timeout(time, complete).await.is_ok()
        };
        self.open.shared.runtime.spawn(wait).await.unwrap_or(false)
    }

    /// Has every write reach so many copies: fewer than before at once, more as soon as every shard has them. As long as it
    /// lacks them, those before hold: a node that joins its first copies would have everything refused for a while.
    pub fn want_copies(&self, copies: usize) {
        self.open.shared.want_copies(copies);
    }

    /// How many copies a write must have at present.
    pub fn copies(&self) -> usize {
        self.open.shared.quota().copies
    }

    /// Records are written at this format level from now on, or at the nearest one that this release knows. Before: the lowest
    /// that it reads.
    pub fn write_level(&self, level: u8) {
        self.open.shared.set_level(level);
    }

    /// Asks every primary how its shard is.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the client's thread has ended.
    pub async fn status(&self) -> Result<ClusterStatus, StoreError> {
        let shared = Arc::clone(&self.open.shared);
        let asking = self.open.shared.runtime.spawn(async move { status::status(&shared).await });
        asking.await.map_err(|_| StoreError::Closed)
    }

    /// Begins the commit of a batch; its outcome, or where that will be.
    fn begin(&self, batch: Batch) -> Result<oneshot::Receiver<CommitOutcome>, CommitOutcome> {
        batch.check().map_err(Err)?;
        let Some(first) = batch.writes.first() else { return Err(Ok(Vec::new())) };
        let shared = &self.open.shared;
        let partition = Partition::of(&first.key.tag);
        let (job, outcome) = shared.job(partition, batch).map_err(|error| Err(error.into()))?;
        shared.dispatch(job);
        Ok(outcome)
    }
}

/// The outcome of a commit that was begun.
async fn end(begun: Result<oneshot::Receiver<CommitOutcome>, CommitOutcome>) -> CommitOutcome {
    match begun {
        Ok(outcome) => {
            let gone = CommitError::Unknown { reason: "the store was closed" };
            outcome.await.unwrap_or(Err(gone))
        }
        Err(known) => known,
    }
}

/// The record under a key.
async fn read(shared: &Arc<Shared>, key: &Key) -> Result<Option<Record>, StoreError> {
    key.check()?;
    let mut get = cmd("GET");
    get.arg(shared.layout.record(key));
    let record = match reader::ask(shared, Partition::of(&key.tag), get).await? {
        Value::Nil => return Ok(None),
        Value::BulkString(record) => stored::decode(record),
        _ => return Err(StoreError::engine("read", "an answer of an unexpected form")),
    };
    let record = record.map_err(|damage| scan::damaged(key.to_string(), damage))?;
    Ok((!record.is_expired(shared.options.clock.now())).then_some(record))
}

impl Whole for ClusterStore {
    fn page<'a>(
        &'a self,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>> {
        let (shared, after) = (Arc::clone(&self.open.shared), after.cloned());
        let runtime = self.open.shared.runtime.clone();
        let listing =
            runtime.spawn(async move { scan::page(&shared, after.as_ref(), limit).await });
        Box::pin(async move { listing.await.unwrap_or(Err(StoreError::Closed)) })
    }
}

impl Store for ClusterStore {
    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        let (shared, key) = (Arc::clone(&self.open.shared), key.clone());
        let runtime = self.open.shared.runtime.clone();
        let reading = runtime.spawn(async move { read(&shared, &key).await });
        Box::pin(async move { reading.await.unwrap_or(Err(StoreError::Closed)) })
    }

    fn scan<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>> {
        let shared = Arc::clone(&self.open.shared);
        let (space, prefix, after) = (space.clone(), prefix.clone(), after.cloned());
        let runtime = self.open.shared.runtime.clone();
        let listing = runtime.spawn(async move {
            scan::scan(&shared, &space, &prefix, after.as_ref(), limit, Want::Whole).await
        });
        Box::pin(async move { listing.await.unwrap_or(Err(StoreError::Closed)) })
    }

    /// Blocks until the records are listed from which it starts.
    fn watch(&self, space: &Space, prefix: &Prefix) -> Result<Watch, StoreError> {
        let shared = Arc::clone(&self.open.shared);
        let (space, prefix) = (space.clone(), prefix.clone());
        let (send, receive) = sync_channel(1);
        self.open.shared.runtime.spawn(async move {
            let _ = send.send(watches::start(shared, space, prefix).await);
        });
        receive.recv().unwrap_or(Err(StoreError::Closed))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, CommitOutcome> {
        Box::pin(end(self.begin(batch)))
    }

    fn commit_all(&self, batches: Vec<Batch>) -> BoxFuture<'_, Vec<CommitOutcome>> {
        // Queued now, not when the future is first polled: commits made together are grouped.
        let begun: Vec<_> = batches.into_iter().map(|batch| self.begin(batch)).collect();
        Box::pin(join_all(begun.into_iter().map(end)))
    }
}
