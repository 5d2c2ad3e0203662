//! The locks among the processes of a node: `flock` on files beside LMDB's own.
//!
//! LMDB has two robust mutexes in shared memory. A process killed while it *waits* for one of them can
//! strand all others (measured; `flock` cured it in 250 of 250 targeted kills). So nobody ever waits on them:
//! - `write.lock` is held around every write transaction, so LMDB's writer mutex is always free when taken;
//! - `readers.lock` is held while a thread claims its slot in LMDB's reader table (once per thread) and while
//!   stale slots are swept, so the reader mutex is always free too;
//! - `open.lock` is held shared while an environment is open, so that a restore can tell.
//!
//! The kernel gives a dead process's locks back. Descriptors are close-on-exec: a child must not keep one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::StoreError;

/// A moment in the life of the write lock; tests that kill a process at one of them ask to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockPhase {
    /// Somebody else holds the lock, this process is about to wait.
    Waiting,
    /// This process has the lock, nothing is written yet.
    Held,
    /// Everything is written, the commit is next.
    Committing,
    /// The commit is done, the lock is still held.
    Committed,
    /// The lock is given back, callers are not answered yet.
    Released,
}

/// A lock file.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
}

impl LockFile {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        // std opens close-on-exec.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::file("open the lock file", path, source))?;
        Ok(Self { file })
    }

    /// Waits for the lock as long as it takes; the kernel serves waiters in turn.
    pub(super) fn lock(&self) -> io::Result<LockGuard<'_>> {
        self.flock(FlockOperation::LockExclusive)?;
        Ok(LockGuard { lock: self })
    }

    /// The lock, or `None` if somebody else holds it.
    pub(super) fn try_lock(&self) -> io::Result<Option<LockGuard<'_>>> {
        match self.flock(FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(LockGuard { lock: self })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Holds the lock together with other sharers until the file is closed; `false` if somebody has it alone.
    pub(super) fn try_share(&self) -> io::Result<bool> {
        match self.flock(FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn flock(&self, operation: FlockOperation) -> io::Result<()> {
        loop {
            match flock(&self.file, operation) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says who holds the lock; only the holder calls it.
    pub(super) fn write_holder(&self, holder: &Holder) {
        // Best effort: the record only serves the report about a holder that hangs.
        let _ = self.file.write_all_at(&holder.encode(), 0);
    }

    /// Takes the holder's record back; only the holder calls it.
    pub(super) fn clear_holder(&self) {
        let _ = self.file.write_all_at(b"-", 0);
    }

    /// Who holds the lock, as far as is written down.
    pub(super) fn read_holder(&self) -> Option<Holder> {
        let mut record = [0; HOLDER_BYTES];
        self.file.read_exact_at(&mut record, 0).ok()?;
        Holder::decode(&record)
    }
}

/// Gives the lock back when dropped.
#[derive(Debug)]
pub(super) struct LockGuard<'a> {
    lock: &'a LockFile,
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        // Cannot fail on an open descriptor; if it did, closing the file would free the lock.
        let _ = self.lock.flock(FlockOperation::Unlock);
    }
}

const HOLDER_BYTES: usize = 64;

/// Who holds the write lock, and for the how-manieth time: two equal readings mean one long holding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) turn: u64,
    pub(super) name: String,
}

impl Holder {
    /// One line of text, so that `cat write.lock` tells a person as well.
    fn encode(&self) -> [u8; HOLDER_BYTES] {
        let mut record = [b' '; HOLDER_BYTES];
        let text = format!("{} {} {}", self.pid, self.turn, self.name);
        let length = text.len().min(HOLDER_BYTES - 1);
        record[..length].copy_from_slice(&text.as_bytes()[..length]);
        record[HOLDER_BYTES - 1] = b'\n';
        record
    }

    fn decode(record: &[u8; HOLDER_BYTES]) -> Option<Self> {
        let text = String::from_utf8_lossy(record);
        let mut words = text.trim_end().splitn(3, ' ');
        let pid = words.next()?.parse().ok()?;
        let turn = words.next()?.parse().ok()?;
        Some(Self { pid, turn, name: words.next().unwrap_or_default().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_lock_excludes_other_descriptors_until_it_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("write.lock");
        let (one, other) = (LockFile::open(&path).unwrap(), LockFile::open(&path).unwrap());
        let guard = one.lock().unwrap();
        assert!(other.try_lock().unwrap().is_none());
        drop(guard);
        assert!(other.try_lock().unwrap().is_some());
    }

    #[test]
    fn the_holder_is_readable_until_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let lock = LockFile::open(&directory.path().join("write.lock")).unwrap();
        assert_eq!(lock.read_holder(), None);
        let holder = Holder { pid: 4711, turn: 12, name: "outlast container c1".into() };
        lock.write_holder(&holder);
        assert_eq!(lock.read_holder(), Some(holder));
        lock.clear_holder();
        assert_eq!(lock.read_holder(), None);
    }
}
