//! Reads: one record, or a page of them in key order.

use std::ops::Bound;

use bytes::Bytes;

use super::environment::Environment;
use super::stored_key::{self, StoredKey};
use super::stored_record::{Damage, LEVEL_NEWEST, LEVEL_OLDEST, StoredRecord};
use crate::error::StoreError;
use crate::key::{Key, Prefix, Space};
use crate::record::Record;
use crate::store::SCAN_RECORDS_MAX;
use crate::time::UnixMillis;

pub(super) fn read(
    environment: &Environment,
    key: &Key,
    now: UnixMillis,
) -> Result<Option<Record>, StoreError> {
    key.check()?;
    let stored = StoredKey::of(key);
    let txn = environment.read()?;
    let found = environment
        .records
        .get(&txn, &stored.filed)
        .map_err(|source| environment.error("read", source))?;
    let Some(bytes) = found else { return Ok(None) };
    let record = StoredRecord::decode(&stored.filed, bytes)
        .map_err(|damage| damage_error(&key.to_string(), damage))?;
    if record.whole_key != stored.whole.as_deref() {
        // Two long keys with one BLAKE3 hash: not in this universe, but never the wrong record.
        return Err(StoreError::Corrupt {
            key: key.to_string(),
            reason: "it belongs to another key",
        });
    }
    Ok((!record.is_expired(now)).then(|| to_record(&record)))
}

pub(super) fn scan(
    environment: &Environment,
    space: &Space,
    prefix: &Prefix,
    after: Option<&Key>,
    limit: usize,
    now: UnixMillis,
) -> Result<Vec<(Key, Record)>, StoreError> {
    let limit = limit.min(SCAN_RECORDS_MAX);
    let mut page = Vec::new();
    if limit == 0 {
        return Ok(page);
    }
    let after = after.map(|key| StoredKey::of(key).filed);
    visit(environment, space, prefix, after.as_deref(), &mut |_filed, key, record| {
        if !record.is_expired(now) {
            page.push((key, to_record(record)));
        }
        page.len() < limit
    })?;
    Ok(page)
}

/// As [`scan`], of all spaces.
pub(super) fn page(
    environment: &Environment,
    after: Option<&Key>,
    limit: usize,
    now: UnixMillis,
) -> Result<Vec<(Key, Record)>, StoreError> {
    let mut page = Vec::new();
    let after = after.map(|key| StoredKey::of(key).filed);
    visit_from(environment, &[], after.as_deref(), &mut |_filed, key, record| {
        if !record.is_expired(now) {
            page.push((key, to_record(record)));
        }
        page.len() < limit
    })?;
    Ok(page)
}

/// Shows every record of a prefix, expired ones included, in the order in which they are filed, until `show` says
/// `false`. All of one consistent state: the one after the transaction whose number is returned.
pub(super) fn visit(
    environment: &Environment,
    space: &Space,
    prefix: &Prefix,
    after: Option<&[u8]>,
    show: &mut dyn FnMut(&[u8], Key, &StoredRecord<'_>) -> bool,
) -> Result<usize, StoreError> {
    let start = stored_key::filed_prefix(space, prefix);
    visit_from(environment, &start, after, &mut |filed, key, record| {
        !prefix.matches(&key) || show(filed, key, record)
    })
}

/// The same for all that is filed under names that begin with `start`.
fn visit_from(
    environment: &Environment,
    start: &[u8],
    after: Option<&[u8]>,
    show: &mut dyn FnMut(&[u8], Key, &StoredRecord<'_>) -> bool,
) -> Result<usize, StoreError> {
    let failed = |source| environment.error("scan", source);
    let from = match after {
        Some(after) if after >= start => Bound::Excluded(after),
        // LMDB knows no empty key.
        Some(_) | None if start.is_empty() => Bound::Unbounded,
        Some(_) | None => Bound::Included(start),
    };
    let txn = environment.read()?;
    let range = environment.records.range(&txn, &(from, Bound::Unbounded)).map_err(failed)?;
    for item in range {
        let (filed, bytes) = item.map_err(failed)?;
        if !filed.starts_with(start) {
            break;
        }
        let record = StoredRecord::decode(filed, bytes)
            .map_err(|damage| damage_error(&shown(filed), damage))?;
        let key = key_of(filed, &record)?;
        if !show(filed, key, &record) {
            break;
        }
    }
    Ok(txn.id())
}

/// The key of a record as it is filed.
pub(super) fn key_of(filed: &[u8], record: &StoredRecord<'_>) -> Result<Key, StoreError> {
    stored_key::decode(record.whole_key.unwrap_or(filed)).ok_or_else(|| StoreError::Corrupt {
        key: shown(filed),
        reason: "its key has no valid form",
    })
}

/// A filed key for people: as [`Key`] shows itself where it can be decoded, else its bytes.
pub(super) fn shown(filed: &[u8]) -> String {
    let key = if stored_key::is_hashed(filed) { None } else { stored_key::decode(filed) };
    key.map_or_else(|| filed.escape_ascii().to_string(), |key| key.to_string())
}

pub(super) fn to_record(record: &StoredRecord<'_>) -> Record {
    Record {
        version: record.version,
        value: Bytes::copy_from_slice(record.value),
        expires_at: record.lifetime.map(|lifetime| lifetime.expires_at),
    }
}

pub(super) fn damage_error(key: &str, damage: Damage) -> StoreError {
    match damage {
        Damage::Broken(reason) => StoreError::Corrupt { key: key.to_owned(), reason },
        Damage::Level(found) => StoreError::FormatUnreadable {
            item: format!("the stored record {key}"),
            found,
            oldest: LEVEL_OLDEST,
            newest: LEVEL_NEWEST,
        },
    }
}
