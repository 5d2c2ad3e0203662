//! [`RepositoryStore`]: records in etcd, a copy of them on this node.
//!
//! - Reads are answered by the copy (`copy`: an embedded store, shared by all processes of the node), so they cost what
//!   they cost on a single node, and go on while etcd is away. They see the commits of this node at once, those of other
//!   nodes as soon as the copy has followed.
//! - Commits are one transaction there (`committer`; `plan` decides on what conditions), and are acknowledged when it is
//!   done and the copy is up with it. A version is the revision of etcd that wrote the record.
//! - The copy follows (`follower`) by a watch, in the order of revisions, each batch together with how far the copy then
//!   is: so any process may follow, several at once do no harm, and one that was away goes on where the copy stands. One
//!   process of a node follows all the time ([`RepositoryStore::follow`]), the others for as long as they commit.
//! - Lifetimes are absolute times in the records and end by the node's clock; a lease of an hour more sweeps them away.
//!
//! | key in etcd, behind the prefix | what |
//! |---|---|
//! | `r/SPACE 00 TAG 00 01 ID` | a record (`layout`) |
//! | `c/WRITER` | the last commit of a writer, by which it knows whether it was done |
//! | `b/WRITER` | marks in the order of changes, for a writer that was refused and must see why |
//! | `b/look` | the same, for who wants to see what there is by now |
//!
//! Deliberately absent: a queue of changes for while etcd is away. Who changes an account wants to know that it is done.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use state::clock::Clock;
use state::{
    Batch, BoxFuture, CommitError, CommitOutcome, Event, Key, Prefix, Record, Space, Store,
    StoreError, Watch,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::client::messages::{Operation, Put, Txn, TxnResponse};
use crate::client::{Client, ClientError};
use crate::lock::Fence;
use committer::{Job, commit_jobs};
use copy::Copy;
use follower::Following;
use layout::Layout;

mod committer;
mod copy;
mod follower;
pub(crate) mod layout;
mod plan;
mod position;
mod whole;

/// Events for a slow watcher, beside those that the copy keeps.
const EVENTS_MAX: usize = 64;
/// Batches that wait for their turn; one more is answered [`StoreError::Busy`].
const JOBS_MAX: usize = 4_096;

/// What a store is made of.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// Speaks with etcd.
    pub client: Client,
    /// Where this node's copy lies; the same for all of its processes.
    pub directory: PathBuf,
    /// Before all keys, so that an operator's etcd may hold other things too ([`records`](crate::Namespace::records)).
    pub prefix: String,
    /// By which lifetimes end.
    pub clock: Arc<dyn Clock>,
}

/// Records in etcd, with a copy on this node. Cheap to clone.
#[derive(Clone)]
pub struct RepositoryStore {
    shared: Arc<Shared>,
    /// Under which lock changes are made.
    fence: Option<Fence>,
}

struct Shared {
    place: Place,
    jobs: mpsc::Sender<Job>,
}

/// What committer and follower work on.
#[derive(Clone)]
pub(crate) struct Place {
    client: Client,
    layout: Layout,
    copy: Copy,
    clock: Arc<dyn Clock>,
    following: Arc<Mutex<Weak<Following>>>,
}

/// Keeps the copy up with etcd until it is dropped.
pub struct Follower {
    _following: Arc<Following>,
}

impl RepositoryStore {
    /// Opens the copy; etcd may be away. To be called within a tokio runtime, which does its work from then on.
    ///
    /// # Errors
    /// Those of the copy.
    pub fn open(options: RepositoryOptions) -> Result<RepositoryStore, StoreError> {
        let RepositoryOptions { client, directory, prefix, clock } = options;
        let copy = Copy::open(&directory, Arc::clone(&clock))?;
        let layout = Layout::new(&prefix);
        let place = Place { client, layout, copy, clock, following: Arc::default() };
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        tokio::spawn(commit_jobs(place.clone(), waiting));
        Ok(RepositoryStore { shared: Arc::new(Shared { place, jobs }), fence: None })
    }

    /// The same records; changes are made as long as that lock is held, and refused ([`StoreError::LockLost`]) when it is
    /// another's.
    #[must_use]
    pub fn fenced(&self, fence: Fence) -> RepositoryStore {
        RepositoryStore { fence: Some(fence), ..self.clone() }
    }

    /// Follows all the time, until what it returns is dropped. For one process of each node.
    #[must_use]
    pub fn follow(&self) -> Follower {
        Follower { _following: self.shared.place.following() }
    }

    /// Why changes are refused; `None` while somebody answers, as far as was tried.
    #[must_use]
    pub fn changes_refused(&self) -> Option<StoreError> {
        self.shared.place.refusal()
    }

    /// Waits until the copy has all that was committed, on whatever node, before this was asked.
    ///
    /// # Errors
    /// [`StoreError::ChangesRefused`] when that cannot be had in time.
    pub async fn catch_up(&self, patience: Duration) -> Result<(), StoreError> {
        let place = &self.shared.place;
        let deadline = Instant::now() + patience;
        let following = place.following();
        let reached = async {
            let revision = place.mark(deadline).await?;
            following.until(revision).await;
            Ok::<(), ClientError>(())
        };
        match timeout_at(deadline, reached).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(place.refusal().unwrap_or(StoreError::Busy { waiting: 1 })),
        }
    }

    /// The revision up to which the copy holds everything; `None` before it was first read whole.
    ///
    /// # Errors
    /// Those of the copy.
    pub async fn revision(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.shared.place.copy.position().await?.0.revision)
    }
}

impl Place {
    /// The one that follows in this process.
    fn following(&self) -> Arc<Following> {
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(following) = following.upgrade() {
            return following;
        }
        let started = Arc::new(Following::start(self.clone()));
        *following = Arc::downgrade(&started);
        started
    }

    /// Makes a mark in the order of changes; its revision. Whoever follows is told of changes only, so one is made: made
    /// twice it does no harm.
    async fn mark(&self, deadline: Instant) -> Result<i64, ClientError> {
        let put = Put { key: self.layout.mark("look"), value: Bytes::new(), lease: 0 };
        let txn = Txn { success: vec![Operation::Put(put)], ..Txn::default() };
        let marked: TxnResponse = self.client.ask("kv/txn", &txn, deadline).await?;
        Ok(marked.header.revision)
    }

    fn refusal(&self) -> Option<StoreError> {
        let (since, reason) = self.client.away()?;
        Some(StoreError::ChangesRefused {
            place: format!("the repository at {}", self.client.addresses()),
            since: humantime::format_rfc3339_seconds(since).to_string(),
            reason,
        })
    }
}

impl Store for RepositoryStore {
    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        Box::pin(self.shared.place.copy.read(key))
    }

    fn scan<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>> {
        Box::pin(self.shared.place.copy.scan(space, prefix, after, limit))
    }

    fn watch(&self, space: &Space, prefix: &Prefix) -> Result<Watch, StoreError> {
        let mut copied = self.shared.place.copy.watch(space, prefix)?;
        let (send, receive) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = copied.next() => event.and_then(original),
                    () = send.closed() => return,
                };
                let is_over = event.is_err();
                if send.send(event).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Watch::new(receive))
    }

    fn last_commit(&self) -> Option<u64> {
        self.shared.place.copy.last_commit()
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, CommitOutcome> {
        let known = match batch.check() {
            Err(error) => Some(Err(error)),
            Ok(()) if batch.is_empty() => Some(Ok(Vec::new())),
            Ok(()) => None,
        };
        if let Some(known) = known {
            return Box::pin(std::future::ready(known));
        }
        // Queued now: whoever drops the future has asked for it all the same.
        let (job, outcome) = Job::of(batch, self.fence.clone());
        let queued = self.shared.jobs.try_send(job);
        Box::pin(async move {
            match queued {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err(StoreError::Busy { waiting: JOBS_MAX }.into());
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(StoreError::Closed.into()),
            }
            match outcome.await {
                Ok(reached) => reached.outcome().await,
                Err(_) => Err(CommitError::Unknown { reason: "the writer ended" }),
            }
        })
    }
}

/// What happened to the record of which the copy tells.
fn original(event: Event) -> Result<Event, StoreError> {
    Ok(match event {
        Event::Put { key, record } => {
            let record = copy::original(&key, record)?;
            Event::Put { key, record }
        }
        Event::Deleted { key } => Event::Deleted { key },
    })
}
