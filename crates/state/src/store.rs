//! The interface of every engine.

use crate::batch::Batch;
use crate::error::{CommitError, StoreError};
use crate::key::{Key, Prefix, Space};
use crate::record::{Record, Version};
use crate::watch::Watch;

/// A boxed future that may be sent to another thread.
pub use futures_util::future::BoxFuture;
use futures_util::future::join_all;

/// How a commit ended: the new version of each write, in order.
pub type CommitOutcome = Result<Vec<Version>, CommitError>;

/// The most records one scan returns, whatever limit it is given.
pub const SCAN_RECORDS_MAX: usize = 10_000;

/// Versioned records in named spaces.
///
/// Reads see every commit that was acknowledged before, by any process. Records whose lifetime is over are
/// never returned. Dropping a commit's future does not take the commit back.
pub trait Store: Send + Sync {
    /// The record under a key, `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when what is stored fails its checksum; otherwise the engine's.
    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>>;

    /// At most `limit` records in key order, starting behind `after` (the last key of the page before, whether
    /// or not it still exists). Fewer than `limit` means that there are no more; each page is consistent in
    /// itself, pages among one another are not. `limit` is capped at [`SCAN_RECORDS_MAX`].
    ///
    /// # Errors
    /// As for [`Store::read`]; one corrupt record fails the page.
    fn scan<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>>;

    /// News of the matching records that change from now on, made by any process.
    ///
    /// # Errors
    /// [`StoreError::WatchTooWide`] when more records match than a watch can hold.
    fn watch(&self, space: &Space, prefix: &Prefix) -> Result<Watch, StoreError>;

    /// A number that is another one after each commit that a read can see, of whatever process; `None` when the engine
    /// cannot tell at once. What was read behind it and has no lifetime stands as long as it stays the same: it changes
    /// no sooner than reads do.
    fn last_commit(&self) -> Option<u64> {
        None
    }

    /// Applies a batch, whole or not at all, and returns the new version of each write in order (for a delete:
    /// the number of the commit that deleted).
    ///
    /// # Errors
    /// [`CommitError`]; nothing was changed, except after [`CommitError::Unknown`].
    fn commit(&self, batch: Batch) -> BoxFuture<'_, CommitOutcome>;

    /// Applies batches that have nothing to do with one another, each whole or not at all, and returns the outcome of
    /// each, in order, when all are known. Cheaper than one by one for whoever has many at a time.
    fn commit_all(&self, batches: Vec<Batch>) -> BoxFuture<'_, Vec<CommitOutcome>> {
        Box::pin(join_all(batches.into_iter().map(|batch| self.commit(batch))))
    }
}
