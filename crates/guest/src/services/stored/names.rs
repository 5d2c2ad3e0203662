//! Names in the store, as all applications of the node share them.
//!
//! | space | tag | id | value |
//! |---|---|---|---|
//! | `name` | `names` | the name | the application that bound it, and to what |
//! | `name-usage` | `names` | nothing | the octets of each application's ([`Shares`]) |
//!
//! All under one tag, so that a name changes together with what is counted, and so that they are listed in order. Each
//! change is a compare-and-set of both: two containers that bind one name at once meet there, and one of them wins.
//!
//! Each change syncs the disk, and makes the registrar read its accounts anew. So an application changes names at a rate
//! ([`Rates`]), and what is left alone or refused costs none of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use state::codec::{Reader, RecordError, Writer};
use state::{Batch, Key, Prefix, Record, Space, Store};
use tokio::sync::Mutex;

use super::super::ServiceError;
use super::super::limits::{
    ENTRY_BYTES, NAME_CHANGES_AT_ONCE, NAME_CHANGES_PER_SECOND, NAMES_BYTES_MAX, NAMES_SHARE_BYTES,
};
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
    turn: Mutex<Rates>,
}

/// A name as it is stored.
struct Bound {
    /// The application whose share it counts to.
    by: String,
    value: Bytes,
}

/// What the names of each application count.
#[derive(Default)]
struct Shares(BTreeMap<String, u64>);

/// When each application will have changes at once to its full measure again, if it makes none until then.
#[derive(Default)]
struct Rates(BTreeMap<String, Instant>);

impl Names {
    pub(super) fn new(store: Arc<dyn Store>) -> Names {
        Names { store, turn: Mutex::default() }
    }

    /// Changes a name for an application.
    ///
    /// # Errors
    /// [`ServiceError`]: it is bound to another value, there is no room, the application changes names too often, or the
    /// store's.
    pub(super) async fn change(
        &self,
        application: &str,
        name: &str,
        change: &Change,
    ) -> Result<(), ServiceError> {
        let mut rates = self.turn.lock().await;
        for attempt in 0..ATTEMPTS_MAX {
            let key = key(name);
            let record = self.store.read(&key).await.map_err(unavailable)?;
            let bound = record.as_ref().map(Bound::read).transpose();
            let bound = bound.map_err(|error| damaged(&key, error))?;
            let value = match (change, &bound) {
                (Change::Bind(value) | Change::Rebind(value), Some(bound))
                    if bound.value == *value =>
                {
                    return Ok(());
                }
                (Change::Unbind, None) => return Ok(()),
                (Change::Bind(_), Some(_)) => return Err(ServiceError::Taken(name.to_owned())),
                (Change::Bind(value) | Change::Rebind(value), _) => Some(value),
                (Change::Unbind, Some(_)) => None,
            };
            let usage_key = usage_key();
            let usage = self.store.read(&usage_key).await.map_err(unavailable)?;
            let shares = usage.as_ref().map_or(Ok(Shares::default()), Shares::read);
            let mut shares = shares.map_err(|error| damaged(&usage_key, error))?;
            if let Some(bound) = bound {
                shares.remove(&bound.by, octets(name, &bound.value));
            }
            if let Some(value) = value {
                shares.add(application, octets(name, value))?;
            }
            if attempt == 0 {
                rates.take(application, Instant::now())?;
            }
            let expect = expected(record.as_ref());
            let batch = match value {
                Some(value) => {
                    let bound = Bound { by: application.to_owned(), value: value.clone() };
                    Batch::new().put(key, expect, bound.written(), None)
                }
                None => Batch::new().delete(key, expect),
            };
            let batch = batch.put(usage_key, expected(usage.as_ref()), shares.written(), None);
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
        let bound = record.as_ref().map(Bound::read).transpose();
        Ok(bound.map_err(|error| damaged(&key, error))?.map(|bound| bound.value))
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

impl Bound {
    fn written(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, self.by.len() + self.value.len() + 8);
        writer.octets(self.by.as_bytes());
        writer.octets(&self.value);
        writer.finish()
    }

    fn read(record: &Record) -> Result<Bound, RecordError> {
        let mut reader = Reader::new(&record.value, FORMAT_LEVEL)?;
        let bound = Bound { by: reader.text()?, value: reader.octets()? };
        reader.finish().map(|()| bound)
    }
}

impl Shares {
    /// # Errors
    /// [`ServiceError::Full`]: the application has its share, or there is no room for anybody.
    fn add(&mut self, application: &str, octets: u64) -> Result<(), ServiceError> {
        let share = self.0.entry(application.to_owned()).or_default();
        *share += octets;
        let (whose, most) = if *share > NAMES_SHARE_BYTES {
            ("an application", NAMES_SHARE_BYTES)
        } else if self.0.values().sum::<u64>() > NAMES_BYTES_MAX {
            ("all applications", NAMES_BYTES_MAX)
        } else {
            return Ok(());
        };
        let why = format!(
            "names and values of {whose} have at most {most} octets; unbind what is not needed"
        );
        Err(ServiceError::Full(why))
    }

    fn remove(&mut self, application: &str, octets: u64) {
        if let Some(share) = self.0.get_mut(application) {
            *share = share.saturating_sub(octets);
            if *share == 0 {
                self.0.remove(application);
            }
        }
    }

    fn written(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, 4 + self.0.len() * 32);
        writer.number(self.0.len() as u64);
        for (application, octets) in &self.0 {
            writer.octets(application.as_bytes());
            writer.number(*octets);
        }
        writer.finish()
    }

    fn read(record: &Record) -> Result<Shares, RecordError> {
        let mut reader = Reader::new(&record.value, FORMAT_LEVEL)?;
        let count: usize = reader.small()?;
        let mut share = || Ok((reader.text()?, reader.number()?));
        let shares = (0..count).map(|_| share()).collect::<Result<_, RecordError>>()?;
        reader.finish().map(|()| Shares(shares))
    }
}

impl Rates {
    /// Counts a change at `now`.
    ///
    /// # Errors
    /// [`ServiceError::Full`]: the application has made too many lately.
    fn take(&mut self, application: &str, now: Instant) -> Result<(), ServiceError> {
        let pause = Duration::from_secs(1) / NAME_CHANGES_PER_SECOND;
        let full = self.0.get(application).map_or(now, |full| now.max(*full)) + pause;
        if full > now + pause * NAME_CHANGES_AT_ONCE {
            let why = format!(
                "an application changes {NAME_CHANGES_PER_SECOND} names a second in a container, {NAME_CHANGES_AT_ONCE} at once; change them less often"
            );
            return Err(ServiceError::Full(why));
        }
        self.0.insert(application.to_owned(), full);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_for_each_application_and_come_back_with_time() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut taken = |application: &str, now| {
            (0..1_000).take_while(|_| rates.take(application, now).is_ok()).count()
        };
        let at_once = NAME_CHANGES_AT_ONCE as usize;
        assert_eq!(taken("a", start), at_once);
        assert_eq!(taken("a", start), 0);
        assert_eq!(taken("b", start), at_once, "another one is not held up");
        let second = Duration::from_secs(1);
        assert_eq!(taken("a", start + second), NAME_CHANGES_PER_SECOND as usize);
        assert_eq!(taken("a", start + 100 * second), at_once, "no more than at once");
    }
}
