//! What can go wrong with a store, for whom, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::BATCH_WRITES_MAX;
use crate::key::{ID_BYTES_MAX, Key, TAG_BYTES_MAX};
use crate::record::{VALUE_BYTES_MAX, Version};

/// An engine could not do its work. Cloneable: one failed group commit answers many callers.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Too much is waiting to be written; a retry after a moment helps.
    #[error("the store is busy: {waiting} batches wait to be written; try again in a moment")]
    Busy {
        /// How many batches waited.
        waiting: usize,
    },
    /// A stored record fails its checksum or its form.
    #[error(
        "the stored record {key} is damaged ({reason}); restore the last snapshot, or delete the record"
    )]
    Corrupt {
        /// Which record.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The change was to be made under a lock, and that has ended, or is another's by now.
    #[error(
        "whoever makes this change has lost the lock for it; see what has become of it, and try again"
    )]
    LockLost,
    /// The data was written by a release that this one cannot read.
    #[error(
        "{item} has format level {found}, this release reads levels {oldest} to {newest}: \
         run the release that wrote it, or restore a snapshot of this one"
    )]
    FormatUnreadable {
        /// Which file or record.
        item: String,
        /// Its level.
        found: u8,
        /// The oldest level that is read.
        oldest: u8,
        /// The newest level that is read.
        newest: u8,
    },
    /// A part of a key is over its limit.
    #[error(
        "the key {key} is too long: a tag has at most {TAG_BYTES_MAX} bytes, an id {ID_BYTES_MAX}"
    )]
    KeyTooLong {
        /// Which key.
        key: Box<Key>,
    },
    /// A watch would cover more records than it can hold.
    #[error("a watch on {space} covers more than {limit} records; watch a narrower prefix")]
    WatchTooWide {
        /// Which space.
        space: String,
        /// The most records of a watch.
        limit: usize,
    },
    /// The store's file reached the configured size.
    #[error(
        "{} is full: its map size of {map_size} bytes is used up; set a larger map size for every process of the \
         node and restart them, or delete records", path.display()
    )]
    MapFull {
        /// The environment's directory.
        path: PathBuf,
        /// Its size limit, in bytes.
        map_size: usize,
    },
    /// The file system has no room left.
    #[error("no space left on the disk of {}: free some; what was acknowledged is safe, new writes are refused", path.display())]
    DiskFull {
        /// The environment's directory.
        path: PathBuf,
    },
    /// A file or directory cannot be used.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried, for example `write to`.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// A file is there but it is not a store.
    #[error("{} is not an Outlast store (or it is damaged): move it away, or restore a snapshot over it", path.display())]
    NotAStore {
        /// Which file.
        path: PathBuf,
    },
    /// The environment is in use where it must not be.
    #[error("{} is in use by another process: stop the node first", path.display())]
    InUse {
        /// Which environment.
        path: PathBuf,
    },
    /// The environment is open in this process with other options.
    #[error("{} is already open in this process with other options", path.display())]
    OptionsDiffer {
        /// Which environment.
        path: PathBuf,
    },
    /// No node of the cluster serves the shard in question, and none took its place in time.
    #[error(
        "{shard} of the store answers nobody ({reason}); it goes on as soon as a replica has taken over or the node is \
         back: look at `outlast state status`"
    )]
    Unreachable {
        /// Which part of the store.
        shard: String,
        /// What was seen last.
        reason: String,
    },
    /// Writes are refused, as configured, while replicas have failed.
    #[error(
        "the store at {primary} has {found} of the {copies} copies on other hosts that a write must have: writes are \
         refused until a failed replica is back; start its node, or give the shard another replica"
    )]
    BelowQuota {
        /// The shard's primary.
        primary: SocketAddr,
        /// How many copies there should be.
        copies: usize,
        /// How many there can be.
        found: usize,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Changes go to another place than reads, and that one answers nobody.
    #[error(
        "{place} cannot be reached since {since} ({reason}): changes are refused until it answers, and what is known \
         of it is served on"
    )]
    ChangesRefused {
        /// What, and where.
        place: String,
        /// A date and time.
        since: String,
        /// What was seen last.
        reason: String,
    },
    /// The engine failed in a way that has no name of its own.
    #[error("the store failed to {doing}: {source}")]
    Engine {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Whether the same call may succeed a moment later without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Unreachable { .. }
                | Self::BelowQuota { .. }
                | Self::ChangesRefused { .. }
        )
    }

    pub(crate) fn engine(doing: &'static str, why: impl Into<String>) -> Self {
        Self::Engine { doing, source: Arc::from(Box::from(why.into())) }
    }

    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull { path };
        }
        Self::File { doing, path, source: Arc::new(source) }
    }
}

/// A batch was not committed. Nothing was changed, except perhaps after [`CommitError::Unknown`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// An expectation did not hold: read again and decide again.
    #[error("{key} is not as expected: found {}", found.map_or_else(|| "no record".to_owned(), |v| v.to_string()))]
    Conflict {
        /// The first write whose expectation failed.
        key: Box<Key>,
        /// The version that is there, `None` if there is no record.
        found: Option<Version>,
    },
    /// The caller's mistake: a batch must lie within one hash tag.
    #[error("a batch lies within one hash tag, but this one changes {first} and {other}")]
    TagsDiffer {
        /// The first write's key.
        first: Box<Key>,
        /// The first key with another tag.
        other: Box<Key>,
    },
    /// The caller's mistake: the batch is too large.
    #[error("a batch has at most {BATCH_WRITES_MAX} writes, this one has {count}")]
    TooManyWrites {
        /// How many it has.
        count: usize,
    },
    /// The caller's mistake: a value is too large.
    #[error("the value of {key} has {bytes} bytes, at most {VALUE_BYTES_MAX} are stored")]
    ValueTooLong {
        /// Whose value.
        key: Box<Key>,
        /// Its size.
        bytes: usize,
    },
    /// Whether the batch was applied is not known: read before deciding anything.
    #[error("whether the batch was applied is unknown ({reason}); read again")]
    Unknown {
        /// What happened to the answer.
        reason: &'static str,
    },
    /// The engine failed; the batch was not applied.
    #[error(transparent)]
    Store(#[from] StoreError),
}
