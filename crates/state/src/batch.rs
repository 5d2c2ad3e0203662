//! A change asked of the store: writes with expectations, applied all or not at all.
//!
//! All expectations of a batch are checked against the state before it; then its changes apply in their
//! order. A batch lies within one hash tag (spaces may differ): that is what a cluster engine can do
//! atomically, and every engine holds callers to it.

use bytes::Bytes;

use crate::error::CommitError;
use crate::key::Key;
use crate::record::{VALUE_BYTES_MAX, Version};
use crate::time::UnixMillis;

/// The most writes in one batch; more are refused with [`CommitError::TooManyWrites`].
pub const BATCH_WRITES_MAX: usize = 1_024;

/// What must hold of a record for a write to be done. A record whose lifetime is over counts as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: the write is done either way.
    Any,
    /// There is no such record.
    Absent,
    /// The record is there and has this version.
    Version(Version),
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates or replaces the record.
    Put {
        /// At most [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
        /// When it disappears by itself. One in the past is allowed: the record is never seen.
        expires_at: Option<UnixMillis>,
    },
    /// Removes the record; no error if there is none.
    Delete,
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which record.
    pub key: Key,
    /// On what condition.
    pub expect: Expect,
    /// What happens to it.
    pub change: Change,
}

/// Writes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order in which they apply. No writes: the commit does nothing and succeeds.
    pub writes: Vec<Write>,
}

impl Batch {
    /// A batch without writes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put.
    #[must_use]
    pub fn put(
        mut self,
        key: Key,
        expect: Expect,
        value: impl Into<Bytes>,
        expires_at: Option<UnixMillis>,
    ) -> Self {
        let change = Change::Put { value: value.into(), expires_at };
        self.make_room();
        self.writes.push(Write { key, expect, change });
        self
    }

    /// Most batches have one write or two; a vector by itself would begin with room for four, which are 700 octets.
    fn make_room(&mut self) {
        if self.writes.capacity() == 0 {
            self.writes.reserve_exact(2);
        }
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: Key, expect: Expect) -> Self {
        self.writes.push(Write { key, expect, change: Change::Delete });
        self
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Checks what can be checked without the store; every engine does this first.
    ///
    /// # Errors
    /// [`CommitError::TagsDiffer`], [`CommitError::TooManyWrites`], [`CommitError::ValueTooLong`], or
    /// [`crate::StoreError::KeyTooLong`].
    pub fn check(&self) -> Result<(), CommitError> {
        let Some(first) = self.writes.first() else {
            return Ok(());
        };
        if self.writes.len() > BATCH_WRITES_MAX {
            return Err(CommitError::TooManyWrites { count: self.writes.len() });
        }
        self.check_each(VALUE_BYTES_MAX)?;
        for write in &self.writes {
            if write.key.tag != first.key.tag {
                return Err(CommitError::TagsDiffer {
                    first: Box::new(first.key.clone()),
                    other: Box::new(write.key.clone()),
                });
            }
        }
        Ok(())
    }

    /// Keys and values one by one.
    pub(crate) fn check_each(&self, value_bytes_max: usize) -> Result<(), CommitError> {
        for write in &self.writes {
            write.key.check()?;
            if let Change::Put { value, .. } = &write.change
                && value.len() > value_bytes_max
            {
                return Err(CommitError::ValueTooLong {
                    key: Box::new(write.key.clone()),
                    bytes: value.len(),
                });
            }
        }
        Ok(())
    }

    /// Rough size, in bytes, by which engines bound a group of batches.
    pub(crate) fn weight(&self) -> usize {
        let write = |w: &Write| {
            let value = match &w.change {
                Change::Put { value, .. } => value.len(),
                Change::Delete => 0,
            };
            64 + w.key.tag.len() + w.key.id.len() + value
        };
        self.writes.iter().map(write).sum()
    }
}
