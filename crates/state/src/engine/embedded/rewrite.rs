//! After the loss of power: a store that proves sound is written anew before anybody writes to it.
//!
//! That the records are whole says nothing of LMDB's list of free pages: if that one is old, the next commits
//! write over pages in use. So nothing is ever written to a file that went through a loss of power; its records
//! go one by one into a new file, which takes its place.

use std::fs;
use std::ops::Bound;
use std::path::Path;

use heed::PutFlags;

use super::environment::{self, DATA_FILE, Environment, OPEN_LOCK_FILE};
use super::expiry;
use super::lock::LockFile;
use super::snapshot::{RESTORING_FILE, VerifyReport, create, sync_directory, walk};
use super::stored_record::StoredRecord;
use super::tally::Tally;
use crate::error::StoreError;

/// How many records go over in one transaction.
const RECORDS_AT_ONCE: usize = 4_096;

/// Why a store was not written anew.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The store cannot be walked: it is damaged.
    #[error("the store cannot be walked: {0}")]
    Damaged(StoreError),
    /// The store may well be sound; the new file cannot be written, or somebody uses the old one.
    #[error("the store is sound and cannot be written anew: {0}")]
    NotWritten(StoreError),
}

/// Verifies the store in a directory as [`super::verify`] does and, if it is sound, writes it anew. A store that is not
/// sound stays as it is. In a child process, like the former.
///
/// # Errors
/// [`RewriteError`]; damaged records are in the report.
pub fn verify_and_rewrite(directory: &Path) -> Result<VerifyReport, RewriteError> {
    let not_written = RewriteError::NotWritten;
    let directory = environment::create_directory(directory).map_err(not_written)?;
    let open_lock = LockFile::open(&directory.join(OPEN_LOCK_FILE)).map_err(not_written)?;
    let alone = open_lock
        .try_lock()
        .map_err(|source| not_written(StoreError::file("lock", &directory, source)))?;
    if alone.is_none() {
        return Err(not_written(StoreError::InUse { path: directory }));
    }
    let old = Environment::open_read_only(&directory).map_err(RewriteError::Damaged)?;
    let report = walk(&old).map_err(RewriteError::Damaged)?;
    if report.is_sound() {
        rewrite(&old, &directory).map_err(not_written)?;
    }
    Ok(report)
}

fn rewrite(old: &Environment, directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(RESTORING_FILE);
    // What an interrupted try left; LMDB makes an empty file its own.
    drop(create(&path)?);
    let new = Environment::create_file(&path)?;
    let mut tally = Tally::default();
    let txn = old.read()?;
    let mut version = old.last_version(&txn)?;
    drop(txn);
    let mut after = None;
    while let Some(last) = copy_some(old, &new, after.as_deref(), &mut tally, &mut version)? {
        after = Some(last);
    }
    let mut txn = new.write()?;
    new.set_last_version(&mut txn, version)?;
    new.set_tally(&mut txn, &tally)?;
    txn.commit().map_err(|source| new.error("write anew", source))?;
    new.sync()?;
    drop(new);
    fs::rename(&path, directory.join(DATA_FILE))
        .map_err(|source| StoreError::file("finish a new store in", directory, source))?;
    sync_directory(directory)
}

/// Copies the records that follow `after`, and returns the last of them; `None` when there are no more.
fn copy_some(
    old: &Environment,
    new: &Environment,
    after: Option<&[u8]>,
    tally: &mut Tally,
    version: &mut u64,
) -> Result<Option<Vec<u8>>, StoreError> {
    let read_failed = |source| old.error("read", source);
    let write_failed = |source| new.error("write anew", source);
    let from = old.read()?;
    let mut to = new.write()?;
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let range = old.records.range(&from, &(start, Bound::Unbounded)).map_err(read_failed)?;
    let mut last = None;
    for item in range.take(RECORDS_AT_ONCE) {
        let (filed, bytes) = item.map_err(read_failed)?;
        // In their order, which fills the pages.
        new.records
            .put_with_flags(&mut to, PutFlags::APPEND, filed, bytes)
            .map_err(write_failed)?;
        tally.add(bytes);
        if let Ok(record) = StoredRecord::decode(filed, bytes) {
            *version = record.version.0.max(*version);
            if let Some(lifetime) = record.lifetime {
                let entry = expiry::entry(lifetime.indexed_at, filed);
                new.expiry.put(&mut to, &entry, &[]).map_err(write_failed)?;
            }
        }
        last = Some(filed.to_vec());
    }
    to.commit().map_err(write_failed)?;
    Ok(last)
}
