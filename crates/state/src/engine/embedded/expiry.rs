//! Ends lifetimes: the index of due times and the sweep over it.
//!
//! Reads hide a record whose lifetime is over, so nothing hurries; the sweep gives its room back, a bounded
//! number of records per transaction and for a bounded time, between other commits.
//!
//! A record with a lifetime has exactly one entry in the index, at a time that is *never later* than its end. A
//! refresh that lengthens the lifetime (a phone that registers again) leaves the entry where it is, which saves
//! two tree changes on the hottest write of all; the sweep that finds the entry due moves it to where it belongs.

use std::time::Duration;

use super::environment::Environment;
use super::stored_record::{Lifetime, StoredRecord};
use super::tally::{Tally, fingerprint};
use crate::error::StoreError;
use crate::time::UnixMillis;

/// How many due entries one step, a transaction, works off.
pub(super) const SWEEP_RECORDS_MAX: usize = 256;
/// For how long a step takes further entries. To commit it takes up to as long again.
pub(super) const SWEEP_TIME_MAX: Duration = Duration::from_millis(1);

/// What a step of a sweep has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Swept {
    /// When the last entry was due that it looked at.
    pub(super) last_due: UnixMillis,
    /// Nothing more is due.
    pub(super) is_all: bool,
}

const DUE_BYTES: usize = 8;

/// The entry of a record in the index.
pub(super) fn entry(due: UnixMillis, filed_key: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(DUE_BYTES + filed_key.len());
    entry.extend_from_slice(&due.0.to_be_bytes());
    entry.extend_from_slice(filed_key);
    entry
}

fn split(entry: &[u8]) -> Option<(UnixMillis, &[u8])> {
    let (due, filed_key) = entry.split_first_chunk::<DUE_BYTES>()?;
    Some((UnixMillis(u64::from_be_bytes(*due)), filed_key))
}

/// Where a record that ends at `expires_at` is to be indexed, given where it is indexed now.
pub(super) fn lifetime(expires_at: UnixMillis, indexed_now: Option<UnixMillis>) -> Lifetime {
    let indexed_at = indexed_now.map_or(expires_at, |indexed| indexed.min(expires_at));
    Lifetime { expires_at, indexed_at }
}

/// Whether the index has an entry that is due.
pub(super) fn is_due(environment: &Environment, now: UnixMillis) -> Result<bool, StoreError> {
    let txn = environment.read()?;
    let first = environment
        .expiry
        .first(&txn)
        .map_err(|source| environment.error("read the expiry index", source))?;
    Ok(first.and_then(|(entry, _)| split(entry)).is_some_and(|(due, _)| due <= now))
}

/// Works off due entries, at most [`SWEEP_RECORDS_MAX`] and at least one if there is one, while `goes_on` says so.
pub(super) fn sweep(
    environment: &Environment,
    txn: &mut heed::RwTxn<'_>,
    now: UnixMillis,
    tally: &mut Tally,
    goes_on: &mut dyn FnMut() -> bool,
) -> heed::Result<Swept> {
    let mut due = Vec::new();
    let mut last_due = now;
    for item in environment.expiry.iter(txn)?.take(SWEEP_RECORDS_MAX) {
        let (entry, ()) = item.map(|(entry, _)| (entry, ()))?;
        match split(entry) {
            Some((at, _)) if at > now => break,
            Some(_) | None => due.push(entry.to_vec()),
        }
    }
    let mut encoded = Vec::new();
    let mut count = 0;
    for entry in &due {
        if count > 0 && !goes_on() {
            break;
        }
        count += 1;
        environment.expiry.delete(txn, entry)?;
        // An entry too short for a due time is damage; the index is derived, so it is just dropped.
        let Some((at, filed_key)) = split(entry) else { continue };
        last_due = at;
        let Some(bytes) = environment.records.get(txn, filed_key)? else { continue };
        // A damaged record stays where it is, for reads to report.
        let Ok(record) = StoredRecord::decode(filed_key, bytes) else { continue };
        let Some(Lifetime { expires_at, indexed_at }) = record.lifetime else { continue };
        let before = fingerprint(bytes);
        if expires_at <= now {
            tally.remove(before);
            environment.records.delete(txn, filed_key)?;
        } else if indexed_at == at {
            // Same version: nothing changed for those who use the record.
            let lifetime = Some(Lifetime { expires_at, indexed_at: expires_at });
            StoredRecord { lifetime, ..record }.encode_into(filed_key, &mut encoded);
            tally.remove(before);
            tally.add(&encoded);
            environment.records.put(txn, filed_key, &encoded)?;
            environment.expiry.put(txn, &self::entry(expires_at, filed_key), &[])?;
        }
    }
    Ok(Swept { last_due, is_all: count < SWEEP_RECORDS_MAX && count == due.len() })
}
