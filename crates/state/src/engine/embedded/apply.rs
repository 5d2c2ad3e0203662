//! One batch against one open transaction: all expectations first, then all changes.

use std::collections::HashSet;

use super::environment::Environment;
use super::expiry;
use super::reads::damage_error;
use super::stored_key::StoredKey;
use super::stored_record::{Lifetime, StoredRecord};
use super::tally::{Tally, fingerprint};
use crate::batch::{Batch, Change, Expect, Write};
use crate::error::CommitError;
use crate::record::Version;
use crate::time::UnixMillis;

/// Why a batch was not applied.
pub(super) enum Refused {
    /// Its own fault; the transaction is as it was and can go on with the next batch.
    Batch(CommitError),
    /// LMDB failed; the transaction must be given up.
    Transaction(heed::Error),
}

impl From<heed::Error> for Refused {
    fn from(error: heed::Error) -> Self {
        Self::Transaction(error)
    }
}

/// What goes from batch to batch of one transaction.
#[derive(Default)]
pub(super) struct Work {
    /// Of all records, with the batches so far.
    pub(super) tally: Tally,
    /// Kept to save an allocation per record.
    pub(super) encoded: Vec<u8>,
}

/// What there is under a key before the batch.
#[derive(Clone, Copy, Default)]
struct Found {
    /// `None`: no record, or one whose lifetime is over.
    version: Option<Version>,
    indexed_at: Option<UnixMillis>,
    /// Of the octets that lie there, whatever they are.
    fingerprint: Option<u64>,
}

/// Applies a checked batch under a version of its own.
pub(super) fn apply(
    environment: &Environment,
    txn: &mut heed::RwTxn<'_>,
    batch: &Batch,
    version: Version,
    now: UnixMillis,
    work: &mut Work,
) -> Result<(), Refused> {
    let mut found = Vec::with_capacity(batch.writes.len());
    for write in &batch.writes {
        let stored = StoredKey::of(&write.key);
        let before = look_up(environment, txn, write, &stored, now)?;
        check(write, before.version)?;
        found.push((stored, before));
    }
    let mut changed: HashSet<&[u8]> = HashSet::new();
    for (write, (stored, before)) in batch.writes.iter().zip(&found) {
        // A second write to a record finds what the first one left, no longer what was before the batch.
        let first = batch.writes.len() == 1 || changed.insert(&stored.filed);
        let before = if first { *before } else { look_up(environment, txn, write, stored, now)? };
        change(environment, txn, write, stored, before, version, work)?;
    }
    Ok(())
}

fn check(write: &Write, found: Option<Version>) -> Result<(), Refused> {
    let holds = match write.expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Version(version) => found == Some(version),
    };
    if holds {
        return Ok(());
    }
    Err(Refused::Batch(CommitError::Conflict { key: Box::new(write.key.clone()), found }))
}

fn look_up(
    environment: &Environment,
    txn: &heed::RwTxn<'_>,
    write: &Write,
    stored: &StoredKey,
    now: UnixMillis,
) -> Result<Found, Refused> {
    let Some(bytes) = environment.records.get(txn, &stored.filed)? else {
        return Ok(Found::default());
    };
    let fingerprint = Some(fingerprint(bytes));
    match StoredRecord::decode(&stored.filed, bytes) {
        Ok(record) => {
            let version = (!record.is_expired(now)).then_some(record.version);
            let indexed_at = record.lifetime.map(|lifetime| lifetime.indexed_at);
            Ok(Found { version, indexed_at, fingerprint })
        }
        // Whoever expects nothing may write over a damaged record: that is how one is healed. Its entry in the
        // expiry index, if any, is dropped by the sweep.
        Err(_) if write.expect == Expect::Any => Ok(Found { fingerprint, ..Found::default() }),
        Err(damage) => Err(Refused::Batch(damage_error(&write.key.to_string(), damage).into())),
    }
}

fn change(
    environment: &Environment,
    txn: &mut heed::RwTxn<'_>,
    write: &Write,
    stored: &StoredKey,
    before: Found,
    version: Version,
    work: &mut Work,
) -> heed::Result<()> {
    let lifetime = match &write.change {
        Change::Put { expires_at, .. } => {
            expires_at.map(|at| expiry::lifetime(at, before.indexed_at))
        }
        Change::Delete => None,
    };
    let indexed_at = lifetime.map(|Lifetime { indexed_at, .. }| indexed_at);
    if indexed_at != before.indexed_at {
        if let Some(due) = before.indexed_at {
            environment.expiry.delete(txn, &expiry::entry(due, &stored.filed))?;
        }
        if let Some(due) = indexed_at {
            environment.expiry.put(txn, &expiry::entry(due, &stored.filed), &[])?;
        }
    }
    if let Some(fingerprint) = before.fingerprint {
        work.tally.remove(fingerprint);
    }
    match &write.change {
        Change::Put { value, .. } => {
            StoredRecord { version, lifetime, whole_key: stored.whole.as_deref(), value }
                .encode_into(&stored.filed, &mut work.encoded);
            work.tally.add(&work.encoded);
            environment.records.put(txn, &stored.filed, &work.encoded)
        }
        Change::Delete => environment.records.delete(txn, &stored.filed).map(|_existed| ()),
    }
}
