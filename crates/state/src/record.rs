//! What is stored under a key: a value, its version and its lifetime.

use std::fmt;

use bytes::Bytes;

use crate::time::UnixMillis;

/// The longest value, in bytes; a batch with a longer one is refused with
/// [`crate::CommitError::ValueTooLong`].
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// The number of the commit that wrote a record. It grows with every commit of the store and is never given
/// twice, so a record that was deleted and created again has another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.0)
    }
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The commit that wrote it.
    pub version: Version,
    /// The bytes, as they were put.
    pub value: Bytes,
    /// From this instant on the record is gone; `None`: it stays until deleted.
    pub expires_at: Option<UnixMillis>,
}

impl Record {
    /// Whether its lifetime is over at `now`.
    #[must_use]
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
