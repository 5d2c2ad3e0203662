//! The embedded engine: one LMDB environment in a directory, shared by all processes of a node.
//!
//! Reads go straight to the memory map on the caller's thread (about a microsecond; the returned futures are ready
//! at once). Commits go to the environment's one writing thread in this process (`writer`), which groups
//! them and takes turns with the writing threads of other processes by `flock` (`lock`). What was
//! acknowledged survives the death of any process; what survives power loss depends on [`Durability`].
//!
//! One path through the modules: `registry` opens an `environment` and starts the `writer` and the
//! `keeper` around an `open_store`; `apply` checks a batch and writes it, under a `stored_key` and as a `stored_record`, lifetimes
//! end through `expiry`, and the file grows by `growth`; `reads` and `watches` look at it; `boot` tells when damage
//! is possible, `snapshot` is the way back from it.
//!
//! Deliberately absent: copies on other hosts. The cluster engine is for that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use crate::batch::{BATCH_WRITES_MAX, Batch};
use crate::carry::Whole;
use crate::error::{CommitError, StoreError};
use crate::key::{Key, Prefix, Space};
use crate::record::{Record, VALUE_BYTES_MAX};
use crate::store::{BoxFuture, CommitOutcome, Store};
use crate::watch::Watch;

mod apply;
mod boot;
mod environment;
mod expiry;
mod growth;
mod keeper;
mod lock;
mod lock_wait;
mod open_store;
mod options;
mod queue;
mod reads;
mod registry;
mod rewrite;
mod snapshot;
mod stored_key;
mod stored_record;
mod tally;
#[cfg(test)]
mod tests;
mod watches;
mod writer;

pub use boot::{mark_in_use, mark_stopped, went_down_in_use, written_last};
pub use lock::LockPhase;
pub use options::{Durability, LockProbe, LockWait, OnLockWait, Options};
pub use rewrite::{RewriteError, verify_and_rewrite};
pub use snapshot::{
    TallyVerdict, VerifyReport, list as list_snapshots, restore, taken_at as snapshot_taken_at,
    verify,
};

use environment::Environment;
use registry::Open;
use watches::Watched;

/// An open environment. Cheap to clone. Dropping the last clone writes what is queued, syncs and closes: it
/// blocks for that long.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    open: Arc<Open>,
}

/// What a copy of a record may say in its value beside the original's.
pub const COPY_BYTES: usize = 32;

/// What a store holds, by the engine's own accounting: the pages of its trees. Free pages do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSize {
    /// Records, those whose lifetime is over and that wait to be swept among them.
    pub records: u64,
    /// Octets of the pages that hold records.
    pub record_bytes: u64,
    /// Octets of the pages of the index of due times.
    pub index_bytes: u64,
}

/// How much the store in a directory holds, as seen from a process that does not use it: nothing is written.
///
/// # Errors
/// [`StoreError::NotAStore`] when there is none; [`StoreError::Engine`] when this process has it open
/// ([`EmbeddedStore::size`] says it then).
pub fn size_of(directory: &Path) -> Result<StoreSize, StoreError> {
    Environment::open_read_only(directory)?.size()
}

impl EmbeddedStore {
    /// Opens the environment in a directory, which is created (mode 0700) if need be. The same directory opened
    /// again in this process gives the same environment.
    ///
    /// # Errors
    /// [`StoreError::File`] when the directory cannot be used, [`StoreError::NotAStore`] when `data.mdb` is something
    /// else, [`StoreError::FormatUnreadable`] when a newer release wrote it, [`StoreError::OptionsDiffer`] when it is open
    /// in this process with another durability or map size, [`StoreError::InUse`] when it is being restored or a process
    /// holds the write lock for more than 10 s.
    pub fn open(directory: &Path, options: Options) -> Result<Self, StoreError> {
        Ok(Self { open: registry::open(directory, options)? })
    }

    /// Copies the store to `directory/snapshot-<unix milliseconds>.mdb`, complete or not at all, and removes the oldest
    /// snapshots over `keep` (at least one stays). Blocks; writers go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another snapshot is taken into the same directory; otherwise the file system's.
    pub fn snapshot(&self, directory: &Path, keep: usize) -> Result<PathBuf, StoreError> {
        let now = std::time::SystemTime::now().into();
        snapshot::take(&self.open.shared.environment, directory, keep, now)
    }

    /// Commits a batch whose records need not share a tag: one machine's engine can. For whoever keeps a copy of another
    /// store here, whose values may be [`COPY_BYTES`] longer than others, and whose batches have one write more.
    pub fn commit_copy(&self, batch: Batch) -> BoxFuture<'_, CommitOutcome> {
        let count = batch.writes.len();
        let checked = match batch.check_each(VALUE_BYTES_MAX + COPY_BYTES) {
            Ok(()) if count > BATCH_WRITES_MAX + 1 => Err(CommitError::TooManyWrites { count }),
            checked => checked,
        };
        if checked.is_err() || batch.is_empty() {
            return ready(checked.map(|()| Vec::new()));
        }
        let queue = self.open.queue.as_ref();
        let sent = queue.map_or(Err(StoreError::Closed), |queue| queue.send(vec![batch]));
        Box::pin(async move {
            let unknown = CommitError::Unknown { reason: "the writing thread ended" };
            let mut outcomes = sent?.await.map_err(|_| unknown)?;
            outcomes.pop().expect("one outcome for one batch")
        })
    }

    /// Brings everything committed so far to the disk. Blocks.
    ///
    /// # Errors
    /// The file system's.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.open.shared.environment.sync()
    }

    /// The size of the data file, in bytes. It grows in use and never shrinks; freed room is used again.
    ///
    /// # Errors
    /// The file system's.
    pub fn file_bytes(&self) -> Result<u64, StoreError> {
        self.open.shared.environment.file_bytes()
    }

    /// How much it holds.
    ///
    /// # Errors
    /// The engine's.
    pub fn size(&self) -> Result<StoreSize, StoreError> {
        self.open.shared.environment.size()
    }

    /// The directory it lies in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.open.shared.environment.path
    }
}

impl Whole for EmbeddedStore {
    fn page<'a>(
        &'a self,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>> {
        let shared = &self.open.shared;
        ready(reads::page(&shared.environment, after, limit, shared.options.clock.now()))
    }
}

impl Store for EmbeddedStore {
    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        let shared = &self.open.shared;
        ready(reads::read(&shared.environment, key, shared.options.clock.now()))
    }

    fn scan<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>> {
        let shared = &self.open.shared;
        ready(reads::scan(
            &shared.environment,
            space,
            prefix,
            after,
            limit,
            shared.options.clock.now(),
        ))
    }

    fn watch(&self, space: &Space, prefix: &Prefix) -> Result<Watch, StoreError> {
        let shared = &self.open.shared;
        let (watched, watch) =
            Watched::start(&shared.environment, space, prefix, shared.options.clock.now())?;
        shared.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
        shared.notify(|notices| notices.watching = true);
        Ok(watch)
    }

    fn last_commit(&self) -> Option<u64> {
        // Not the last transaction of the file: while that reaches the disk, reads see the state before it. Whoever kept
        // what they found then would take it for what stands.
        let txn = self.open.shared.environment.read().ok()?;
        Some(txn.id() as u64)
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, CommitOutcome> {
        let outcomes = self.commit_all(vec![batch]);
        Box::pin(async move { outcomes.await.pop().expect("one outcome for one batch") })
    }

    fn commit_all(&self, batches: Vec<Batch>) -> BoxFuture<'_, Vec<CommitOutcome>> {
        // What is known without the store; `None`: it is in the group.
        let mut outcomes = Vec::with_capacity(batches.len());
        let mut group = Vec::with_capacity(batches.len());
        for batch in batches {
            outcomes.push(match batch.check() {
                Err(error) => Some(Err(error)),
                Ok(()) if batch.is_empty() => Some(Ok(Vec::new())),
                Ok(()) => {
                    group.push(batch);
                    None
                }
            });
        }
        // Queued now, not when the future is first polled: commits made together are grouped.
        let open = self.open.queue.as_ref();
        let send = |job| open.map_or(Err(StoreError::Closed), |queue| queue.send(job));
        let sent: Vec<_> = queue::jobs(group).map(|job| (job.len(), send(job))).collect();
        Box::pin(async move {
            let mut written = Vec::with_capacity(outcomes.len());
            for (count, sent) in sent {
                let unknown = CommitError::Unknown { reason: "the writing thread ended" };
                match sent {
                    Ok(outcome) => {
                        written.extend(outcome.await.unwrap_or_else(|_| vec![Err(unknown); count]));
                    }
                    Err(error) => written.extend(vec![Err(error.into()); count]),
                }
            }
            let mut written = written.into_iter();
            let known = |known: Option<CommitOutcome>| {
                known.unwrap_or_else(|| written.next().expect("one outcome for each batch"))
            };
            outcomes.into_iter().map(known).collect()
        })
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}
