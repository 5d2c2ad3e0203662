//! What guests ask for beyond their session: names, cached values, other sessions. The container's wiring gives it.
//!
//! Everything is checked by the host before it comes here, and bounded; an implementation answers in its own time, and a
//! guest that waits for it uses up the wall time of its event.

mod in_memory;
mod stored;

use std::time::Duration;

use bytes::Bytes;
use container::session::SessionId;
use futures_util::future::BoxFuture;

pub use self::in_memory::InMemory;
use self::limits::{LIFETIME_MAX, LIFETIME_MIN};
pub use self::stored::Stored;
use crate::limits::KEY_BYTES_MAX;
use crate::overlay::Refusal;

/// The bounds that `wit/` promises.
pub mod limits {
    use std::time::Duration;

    /// The longest value of a name, in octets.
    pub const NAMED_BYTES_MAX: usize = 8 * 1024;
    /// The longest value in the cache, in octets.
    pub const CACHED_BYTES_MAX: usize = 64 * 1024;
    /// The most names that one call lists.
    pub const NAMES_LISTED_MAX: usize = 1_000;
    /// What all names of a node and their values have at most, in octets, each with [`ENTRY_BYTES`] more.
    pub const NAMES_BYTES_MAX: u64 = 64 * 1024 * 1024;
    /// What the names that an application bound have of that at most.
    pub const NAMES_SHARE_BYTES: u64 = 16 * 1024 * 1024;
    /// How many names an application changes in a second in a container, on average.
    pub const NAME_CHANGES_PER_SECOND: u32 = 50;
    /// And at once.
    pub const NAME_CHANGES_AT_ONCE: u32 = 100;
    /// What all cached values of an application have at most, with their keys, in octets, each with [`ENTRY_BYTES`] more.
    pub const CACHE_BYTES_MAX: u64 = 64 * 1024 * 1024;
    /// What an entry counts beyond what is in it: it bounds how many there are.
    pub const ENTRY_BYTES: usize = 256;
    /// How long a guest waits for one answer.
    pub const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
    /// How long a value is cached at least.
    pub const LIFETIME_MIN: Duration = Duration::from_millis(10);
    /// And at most.
    pub const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
}

/// Why a service did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The application's to deal with.
    #[error("the name {0:?} is bound to another value")]
    Taken(String),
    /// There is no room; which limit, and how to stay below it.
    #[error("{0}")]
    Full(String),
    /// The store does not answer; trying again later helps.
    #[error("{0}; try again later")]
    Unavailable(String),
}

/// Names, cached values and other sessions.
///
/// `application` is the name of the application without its version: versions share what they keep. Names are
/// everybody's, and count to whoever bound them.
pub trait Services: Send + Sync {
    /// Binds a free name; to bind it to the value that it has is nothing.
    ///
    /// # Errors
    /// [`ServiceError::Taken`], or the store's.
    fn bind(
        &self,
        application: String,
        name: String,
        value: Bytes,
    ) -> BoxFuture<'_, Result<(), ServiceError>>;

    /// Binds a name, free or not.
    ///
    /// # Errors
    /// The store's.
    fn rebind(
        &self,
        application: String,
        name: String,
        value: Bytes,
    ) -> BoxFuture<'_, Result<(), ServiceError>>;

    /// Frees a name; nothing if it is free.
    ///
    /// # Errors
    /// The store's.
    fn unbind(&self, application: String, name: String) -> BoxFuture<'_, Result<(), ServiceError>>;

    /// What a name is bound to.
    ///
    /// # Errors
    /// The store's.
    fn lookup(&self, name: String) -> BoxFuture<'_, Result<Option<Bytes>, ServiceError>>;

    /// At most `most` names that begin so, in alphabetical order, behind `after`.
    ///
    /// # Errors
    /// The store's.
    fn list(
        &self,
        prefix: String,
        after: Option<String>,
        most: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, ServiceError>>;

    /// A cached value.
    ///
    /// # Errors
    /// The store's.
    fn cached(
        &self,
        application: String,
        key: String,
    ) -> BoxFuture<'_, Result<Option<Bytes>, ServiceError>>;

    /// Puts a value into the cache.
    ///
    /// # Errors
    /// The store's.
    fn cache(
        &self,
        application: String,
        key: String,
        value: Bytes,
        lifetime: Duration,
    ) -> BoxFuture<'_, Result<(), ServiceError>>;

    /// Takes a value out of all containers' caches.
    ///
    /// # Errors
    /// The store's.
    fn invalidate(
        &self,
        application: String,
        key: String,
    ) -> BoxFuture<'_, Result<(), ServiceError>>;

    /// The living session that a key leads to.
    ///
    /// # Errors
    /// The store's.
    fn session_of_key(
        &self,
        application: String,
        key: String,
    ) -> BoxFuture<'_, Result<Option<SessionId>, ServiceError>>;

    /// Whether a session of that application lives.
    ///
    /// # Errors
    /// The store's.
    fn session_exists(
        &self,
        application: String,
        id: SessionId,
    ) -> BoxFuture<'_, Result<bool, ServiceError>>;

    /// What a session of that application remembered at its last commit; None: nothing, or there is no such session.
    ///
    /// # Errors
    /// The store's.
    fn session_attribute(
        &self,
        application: String,
        id: SessionId,
        name: String,
    ) -> BoxFuture<'_, Result<Option<Bytes>, ServiceError>>;
}

/// A name, or the key of a cached value or of a session.
pub(crate) fn checked_key(key: &str) -> Result<(), Refusal> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    let why = format!("a name or key has 1 to {KEY_BYTES_MAX} octets, not {}", key.len());
    Err(Refusal::Invalid(why))
}

pub(crate) fn checked_value(value: &[u8], max: usize) -> Result<(), Refusal> {
    if value.len() <= max {
        return Ok(());
    }
    Err(Refusal::Limit(format!("a value has at most {max} octets, not {}", value.len())))
}

pub(crate) fn checked_lifetime(lifetime: Duration) -> Result<Duration, Refusal> {
    if (LIFETIME_MIN..=LIFETIME_MAX).contains(&lifetime) {
        return Ok(lifetime);
    }
    Err(Refusal::Invalid(format!("{lifetime:?} is no lifetime: 10 ms to 24 hours")))
}
