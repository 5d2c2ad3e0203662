//! Services on the node's stores: what one container writes, all others read.
//!
//! Names lie in the synchronous store, beside the accounts, and survive a loss of power; cached values in the store of
//! sessions, where the last second may be lost with it. Sessions are read from their records, as their containers
//! committed them last; those of an application that is not distributable are in no store, and nobody sees them.

mod cache;
mod names;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use container::session::identity::KeyedNames;
use container::session::{Session, SessionId};
use container::shard;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use state::clock::Clock;
use state::codec::RecordError;
use state::{Batch, CommitError, Expect, Key, Record, Store};

use self::cache::Cache;
use self::names::{Change, Names};
use super::{ServiceError, Services};

/// Attempts at a change that meets those of other containers.
const ATTEMPTS_MAX: usize = 16;

type Outcome<T> = Result<T, ServiceError>;

/// Services of a container of a node.
pub struct Stored {
    state: Arc<dyn Store>,
    names: Names,
    cache: Cache,
    keyed: KeyedNames,
}

impl Stored {
    /// On the store of sessions, whose lifetimes end by `clock`, and on the synchronous one.
    pub fn new(
        state: Arc<dyn Store>,
        synchronous: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        keyed: KeyedNames,
    ) -> Stored {
        let cache = Cache::new(Arc::clone(&state), clock);
        Stored { state, names: Names::new(synchronous), cache, keyed }
    }

    async fn session(&self, application: &str, id: SessionId) -> Outcome<Option<Session>> {
        let session = shard::session(&*self.state, application, id).await;
        session.map_err(|error| unavailable(with_cause(&error)))
    }
}

impl Services for Stored {
    fn bind(&self, application: String, name: String, value: Bytes) -> BoxFuture<'_, Outcome<()>> {
        async move { self.names.change(&application, &name, &Change::Bind(value)).await }.boxed()
    }

    fn rebind(
        &self,
        application: String,
        name: String,
        value: Bytes,
    ) -> BoxFuture<'_, Outcome<()>> {
        async move { self.names.change(&application, &name, &Change::Rebind(value)).await }.boxed()
    }

    fn unbind(&self, application: String, name: String) -> BoxFuture<'_, Outcome<()>> {
        async move { self.names.change(&application, &name, &Change::Unbind).await }.boxed()
    }

    fn lookup(&self, name: String) -> BoxFuture<'_, Outcome<Option<Bytes>>> {
        async move { self.names.lookup(&name).await }.boxed()
    }

    fn list(
        &self,
        prefix: String,
        after: Option<String>,
        most: usize,
    ) -> BoxFuture<'_, Outcome<Vec<String>>> {
        self.names.list(prefix, after, most).boxed()
    }

    fn cached(&self, application: String, key: String) -> BoxFuture<'_, Outcome<Option<Bytes>>> {
        async move { self.cache.get(&application, &key).await }.boxed()
    }

    fn cache(
        &self,
        application: String,
        key: String,
        value: Bytes,
        lifetime: Duration,
    ) -> BoxFuture<'_, Outcome<()>> {
        async move { self.cache.change(&application, &key, Some((value, lifetime))).await }.boxed()
    }

    fn invalidate(&self, application: String, key: String) -> BoxFuture<'_, Outcome<()>> {
        async move { self.cache.change(&application, &key, None).await }.boxed()
    }

    fn session_of_key(
        &self,
        application: String,
        key: String,
    ) -> BoxFuture<'_, Outcome<Option<SessionId>>> {
        async move {
            let id = self.keyed.session(&application, key.as_bytes());
            Ok(self.session(&application, id).await?.map(|session| session.id))
        }
        .boxed()
    }

    fn session_exists(&self, application: String, id: SessionId) -> BoxFuture<'_, Outcome<bool>> {
        async move { Ok(self.session(&application, id).await?.is_some()) }.boxed()
    }

    fn session_attribute(
        &self,
        application: String,
        id: SessionId,
        name: String,
    ) -> BoxFuture<'_, Outcome<Option<Bytes>>> {
        async move {
            let session = self.session(&application, id).await?;
            Ok(session.and_then(|session| session.attribute(&name).cloned()))
        }
        .boxed()
    }
}

/// How a compare-and-set went.
enum Committed {
    Yes,
    /// Somebody was quicker: read again.
    Conflict,
}

async fn commit(store: &dyn Store, batch: Batch) -> Outcome<Committed> {
    match store.commit(batch).await {
        Ok(_) => Ok(Committed::Yes),
        Err(CommitError::Conflict { .. }) => Ok(Committed::Conflict),
        Err(error) => Err(unavailable(error)),
    }
}

fn expected(found: Option<&Record>) -> Expect {
    found.map_or(Expect::Absent, |record| Expect::Version(record.version))
}

fn unavailable(error: impl ToString) -> ServiceError {
    ServiceError::Unavailable(error.to_string())
}

fn damaged(key: &Key, error: RecordError) -> ServiceError {
    unavailable(format!("{key}: {error}"))
}

fn contended(what: &str) -> ServiceError {
    unavailable(format!("{what} being changed by others all the time"))
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
