//! Cached values in the store, each application's under a tag of its own.
//!
//! | space | tag | id | value |
//! |---|---|---|---|
//! | `cache` | application | the key | the value, and until when it counts |
//! | `cache-usage` | application | nothing | what counts until when ([`Usage`]) |
//!
//! No container keeps copies: a read of the store, which all processes of the node share, takes a microsecond or two, and
//! sees what another container wrote as soon as that is acknowledged; a copy would be good until the next commit of anybody.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use state::clock::Clock;
use state::codec::{Reader, RecordError, Writer};
use state::{Batch, Key, Record, Space, Store, UnixMillis};
use tokio::sync::Mutex;

use super::super::ServiceError;
use super::super::limits::{CACHE_BYTES_MAX, ENTRY_BYTES};
use super::usage::{Usage, counted_until};
use super::{ATTEMPTS_MAX, Committed, commit, contended, damaged, expected, unavailable};

const CACHE: Space = Space::named("cache");
const USAGE: Space = Space::named("cache-usage");

const FORMAT_LEVEL: u8 = 1;

/// The caches of all applications.
pub(super) struct Cache {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// One change of an application's cache at a time in this process: they would only meet in the store.
    turns: std::sync::Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
}

/// An entry as it is stored.
struct Entry {
    counts_until: UnixMillis,
    value: Bytes,
}

impl Cache {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Cache {
        Cache { store, clock, turns: Default::default() }
    }

    /// What is there.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn get(
        &self,
        application: &str,
        key: &str,
    ) -> Result<Option<Bytes>, ServiceError> {
        let key = entry_key(application, key);
        let record = self.store.read(&key).await.map_err(unavailable)?;
        let entry = record.as_ref().map(Entry::read).transpose();
        let entry = entry.map_err(|error| damaged(&key, error))?;
        Ok(entry.map(|entry| entry.value))
    }

    /// Puts a value there for so long; without one, takes away what is there.
    ///
    /// # Errors
    /// [`ServiceError`]: there is no room, or the store's.
    pub(super) async fn change(
        &self,
        application: &str,
        key: &str,
        put: Option<(Bytes, Duration)>,
    ) -> Result<(), ServiceError> {
        let turn = self.turn(application);
        let _turn = turn.lock().await;
        let (entry_key, usage_key) = (entry_key(application, key), usage_key(application));
        for _ in 0..ATTEMPTS_MAX {
            let record = self.store.read(&entry_key).await.map_err(unavailable)?;
            let before = record.as_ref().map(Entry::read).transpose();
            let before = before.map_err(|error| damaged(&entry_key, error))?;
            if before.is_none() && put.is_none() {
                return Ok(());
            }
            let used = self.store.read(&usage_key).await.map_err(unavailable)?;
            let usage =
                used.as_ref().map_or(Ok(Usage::default()), |used| Usage::decode(&used.value));
            let mut usage = usage.map_err(|error| damaged(&usage_key, error))?;
            if let Some(before) = before {
                usage.remove(before.counts_until, octets(key, &before.value));
            }
            let mut batch = Batch::new();
            match &put {
                Some((value, lifetime)) => {
                    let expires = self.clock.wall().saturating_add(*lifetime);
                    let counts_until = counted_until(expires, *lifetime);
                    usage.add(counts_until, octets(key, value));
                    let entry = Entry { counts_until, value: value.clone() };
                    let expect = expected(record.as_ref());
                    batch = batch.put(entry_key.clone(), expect, entry.written(), Some(expires));
                }
                None => batch = batch.delete(entry_key.clone(), expected(record.as_ref())),
            }
            if usage.octets(self.clock.now()) > CACHE_BYTES_MAX && put.is_some() {
                let why = format!(
                    "the cache of an application has at most {CACHE_BYTES_MAX} octets; invalidate what is not needed, or give it shorter lifetimes"
                );
                return Err(ServiceError::Full(why));
            }
            let expect = expected(used.as_ref());
            batch = match usage.until() {
                None => batch.delete(usage_key.clone(), expect),
                until => batch.put(usage_key.clone(), expect, usage.encode(), until),
            };
            match commit(&*self.store, batch).await? {
                Committed::Yes => return Ok(()),
                Committed::Conflict => {}
            }
        }
        Err(contended("the cache is"))
    }

    fn turn(&self, application: &str) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        match turns.get(application) {
            Some(turn) => Arc::clone(turn),
            None => Arc::clone(turns.entry(application.to_owned()).or_default()),
        }
    }
}

impl Entry {
    fn written(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, self.value.len() + 16);
        writer.number(self.counts_until.0);
        writer.octets(&self.value);
        writer.finish()
    }

    fn read(record: &Record) -> Result<Entry, RecordError> {
        let mut reader = Reader::new(&record.value, FORMAT_LEVEL)?;
        let entry = Entry { counts_until: UnixMillis(reader.number()?), value: reader.octets()? };
        reader.finish().map(|()| entry)
    }
}

fn entry_key(application: &str, key: &str) -> Key {
    let [application, key] = [application, key].map(|text| Bytes::copy_from_slice(text.as_bytes()));
    Key::new(CACHE, application, key)
}

fn usage_key(application: &str) -> Key {
    Key::new(USAGE, Bytes::copy_from_slice(application.as_bytes()), "")
}

/// What an entry counts.
fn octets(key: &str, value: &Bytes) -> u64 {
    (ENTRY_BYTES + key.len() + value.len()) as u64
}
