//! Names in the store, as all applications of the node share them.
//!
//! | space | tag | id | value |
//! |---|---|---|---|
//! | `name` | `names` | the name | what it is bound to |
//! | `name-usage` | `names` | nothing | the octets of all of them |
//!
//! All under one tag, so that a name changes together with what is counted, and so that they are listed in order. Each
//! change is a compare-and-set of both: two containers that bind one name at once meet there, and one of them wins.

use std::sync::Arc;

use bytes::Bytes;
use state::codec::{Reader, RecordError, Writer};
use state::{Batch, Key, Prefix, Record, Space, Store};
use tokio::sync::Mutex;

use super::super::ServiceError;
use super::super::limits::{ENTRY_BYTES, NAMES_BYTES_MAX};
use super::{ATTEMPTS_MAX, Committed, commit, contended, damaged, expected, unavailable};

const NAMES: Space = Space::named("name");
const USAGE: Space = Space::named("name-usage");
const TAG: &[u8] = b"names";

const FORMAT_LEVEL: u8 = 1;

/// Names are listed so many at a time, other work in between: their values are read with them.
const PAGE: usize = 100;

/// What becomes of a name.
pub(super) enum Change {
    /// It is bound if it is free.
    Bind(Bytes),
    /// It is bound whatever it is bound to.
    Rebind(Bytes),
    /// It is freed.
    Unbind,
}

/// The names of a node.
pub(super) struct Names {
    store: Arc<dyn Store>,
    /// One change of this process at a time: they would only meet in the store.
    turn: Mutex<()>,
}

impl Names {
    pub(super) fn new(store: Arc<dyn Store>) -> Names {
        Names { store, turn: Mutex::default() }
    }

    /// Changes a name.
    ///
    /// # Errors
    /// [`ServiceError`]: it is bound to another value, there is no room, or the store's.
    pub(super) async fn change(&self, name: &str, change: &Change) -> Result<(), ServiceError> {
        let _turn = self.turn.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let key = key(name);
            let record = self.store.read(&key).await.map_err(unavailable)?;
            let bound =
                record.as_ref().map(read).transpose().map_err(|error| damaged(&key, error))?;
            let value = match (change, &bound) {
                (Change::Bind(value) | Change::Rebind(value), Some(bound)) if bound == value => {
                    return Ok(());
                }
                (Change::Unbind, None) => return Ok(()),
                (Change::Bind(_), Some(_)) => return Err(ServiceError::Taken(name.to_owned())),
                (Change::Bind(value) | Change::Rebind(value), _) => Some(value),
                (Change::Unbind, Some(_)) => None,
            };
            let usage_key = usage_key();
            let usage = self.store.read(&usage_key).await.map_err(unavailable)?;
            let used = usage.as_ref().map_or(Ok(0), read_usage);
            let used = used.map_err(|error| damaged(&usage_key, error))?;
            let freed = bound.map_or(0, |bound| octets(name, &bound));
            let after = used.saturating_sub(freed) + value.map_or(0, |value| octets(name, value));
            if value.is_some() && after > NAMES_BYTES_MAX {
                let why = format!(
                    "names and values of all applications have at most {NAMES_BYTES_MAX} octets; unbind what is not needed"
                );
                return Err(ServiceError::Full(why));
            }
            let expect = expected(record.as_ref());
            let batch = match value {
                Some(value) => Batch::new().put(key, expect, written(value), None),
                None => Batch::new().delete(key, expect),
            };
            let batch = batch.put(usage_key, expected(usage.as_ref()), written_usage(after), None);
            match commit(&*self.store, batch).await? {
                Committed::Yes => return Ok(()),
                Committed::Conflict => {}
            }
        }
        Err(contended("names are"))
    }

    /// What a name is bound to.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn lookup(&self, name: &str) -> Result<Option<Bytes>, ServiceError> {
        let key = key(name);
        let record = self.store.read(&key).await.map_err(unavailable)?;
        record.as_ref().map(read).transpose().map_err(|error| damaged(&key, error))
    }

    /// At most `most` names that begin so, behind `after`.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn list(
        &self,
        prefix: String,
        after: Option<String>,
        most: usize,
    ) -> Result<Vec<String>, ServiceError> {
        // What is before the first that begins so is passed over at once.
        let mut after = after.filter(|after| *after >= prefix).map(|after| key(&after));
        let prefix = Prefix::Tag { tag: TAG.into(), id_start: prefix.into() };
        let mut names = Vec::new();
        while names.len() < most {
            let limit = PAGE.min(most - names.len());
            let page = self.store.scan(&NAMES, &prefix, after.as_ref(), limit).await;
            let page = page.map_err(unavailable)?;
            let is_last = page.len() < limit;
            after = page.last().map(|(key, _)| key.clone());
            names.extend(page.iter().map(|(key, _)| String::from_utf8_lossy(&key.id).into_owned()));
            if is_last {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(names)
    }
}

fn key(name: &str) -> Key {
    Key::new(NAMES, TAG, Bytes::copy_from_slice(name.as_bytes()))
}

fn usage_key() -> Key {
    Key::new(USAGE, TAG, "")
}

/// What a name counts.
fn octets(name: &str, value: &Bytes) -> u64 {
    (ENTRY_BYTES + name.len() + value.len()) as u64
}

fn written(value: &Bytes) -> Bytes {
    let mut writer = Writer::new(FORMAT_LEVEL, value.len() + 4);
    writer.octets(value);
    writer.finish()
}

fn read(record: &Record) -> Result<Bytes, RecordError> {
    let mut reader = Reader::new(&record.value, FORMAT_LEVEL)?;
    let value = reader.octets()?;
    reader.finish().map(|()| value)
}

fn written_usage(octets: u64) -> Bytes {
    let mut writer = Writer::new(FORMAT_LEVEL, 10);
    writer.number(octets);
    writer.finish()
}

fn read_usage(record: &Record) -> Result<u64, RecordError> {
    let mut reader = Reader::new(&record.value, FORMAT_LEVEL)?;
    let octets = reader.number()?;
    reader.finish().map(|()| octets)
}
