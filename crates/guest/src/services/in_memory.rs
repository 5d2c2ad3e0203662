//! Services of one process, lost with it: for tests, for trial runs, and for containers without a store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use container::session::SessionId;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::{ServiceError, Services};

/// Names and cached values of all applications together; more are refused. None has a share or a rate: no disk is behind
/// them.
const ENTRIES_MAX: usize = 10_000;

type Outcome<T> = Result<T, ServiceError>;

/// Names and cached values in tables; no sessions.
#[derive(Debug, Default)]
pub struct InMemory {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    names: BTreeMap<String, Bytes>,
    cached: BTreeMap<(String, String), (Bytes, Instant)>,
}

impl Tables {
    fn checked_room(&self) -> Outcome<()> {
        if self.names.len() + self.cached.len() < ENTRIES_MAX {
            return Ok(());
        }
        Err(ServiceError::Full(format!("{ENTRIES_MAX} names and cached values are kept at most")))
    }

    fn bind(&mut self, name: String, value: Bytes) -> Outcome<()> {
        match self.names.get(&name) {
            Some(bound) if *bound == value => Ok(()),
            Some(_) => Err(ServiceError::Taken(name)),
            None => self.rebind(name, value),
        }
    }

    fn rebind(&mut self, name: String, value: Bytes) -> Outcome<()> {
        if !self.names.contains_key(&name) {
            self.checked_room()?;
        }
        self.names.insert(name, value);
        Ok(())
    }

    fn list(&self, prefix: &str, after: Option<&str>, most: usize) -> Vec<String> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let names = self.names.range::<str, _>((start, Bound::Unbounded)).map(|(name, _)| name);
        names.take_while(|name| name.starts_with(prefix)).take(most).cloned().collect()
    }

    fn cache(&mut self, key: (String, String), value: Bytes, until: Instant) -> Outcome<()> {
        let now = Instant::now();
        if !self.cached.contains_key(&key) && self.checked_room().is_err() {
            self.cached.retain(|_, (_, until)| *until > now);
            self.checked_room()?;
        }
        self.cached.insert(key, (value, until));
        Ok(())
    }
}

impl InMemory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Services for InMemory {
    fn bind(&self, _application: String, name: String, value: Bytes) -> BoxFuture<'_, Outcome<()>> {
        ready(self.tables().bind(name, value)).boxed()
    }

    fn rebind(
        &self,
        _application: String,
        name: String,
        value: Bytes,
    ) -> BoxFuture<'_, Outcome<()>> {
        ready(self.tables().rebind(name, value)).boxed()
    }

    fn unbind(&self, _application: String, name: String) -> BoxFuture<'_, Outcome<()>> {
        self.tables().names.remove(&name);
        ready(Ok(())).boxed()
    }

    fn lookup(&self, name: String) -> BoxFuture<'_, Outcome<Option<Bytes>>> {
        ready(Ok(self.tables().names.get(&name).cloned())).boxed()
    }

    fn list(
        &self,
        prefix: String,
        after: Option<String>,
        most: usize,
    ) -> BoxFuture<'_, Outcome<Vec<String>>> {
        ready(Ok(self.tables().list(&prefix, after.as_deref(), most))).boxed()
    }

    fn cached(&self, application: String, key: String) -> BoxFuture<'_, Outcome<Option<Bytes>>> {
        let tables = self.tables();
        let entry = tables.cached.get(&(application, key));
        let value = entry.filter(|(_, until)| *until > Instant::now());
        ready(Ok(value.map(|(value, _)| value.clone()))).boxed()
    }

    fn cache(
        &self,
        application: String,
        key: String,
        value: Bytes,
        lifetime: Duration,
    ) -> BoxFuture<'_, Outcome<()>> {
        let until = Instant::now() + lifetime;
        ready(self.tables().cache((application, key), value, until)).boxed()
    }

    fn invalidate(&self, application: String, key: String) -> BoxFuture<'_, Outcome<()>> {
        self.tables().cached.remove(&(application, key));
        ready(Ok(())).boxed()
    }

    fn session_of_key(
        &self,
        _application: String,
        _key: String,
    ) -> BoxFuture<'_, Outcome<Option<SessionId>>> {
        ready(Ok(None)).boxed()
    }

    fn session_exists(&self, _application: String, _id: SessionId) -> BoxFuture<'_, Outcome<bool>> {
        ready(Ok(false)).boxed()
    }

    fn session_attribute(
        &self,
        _application: String,
        _id: SessionId,
        _name: String,
    ) -> BoxFuture<'_, Outcome<Option<Bytes>>> {
        ready(Ok(None)).boxed()
    }
}
