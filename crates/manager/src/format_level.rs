//! The cluster's format level in its repository: one record, `level` of the space `formats`.
//!
//! No record: nobody has raised it ([`FormatLevel::FIRST`]). It is raised on the condition that it is still what it was, so of two
//! that raise it at once one does.

use serde::{Deserialize, Serialize};
use state::{Batch, CommitError, Expect, Key, Space, Store, StoreError};
use topology::FormatLevel;

const SPACE: Space = Space::named("formats");
const TAG: &str = "formats";
const ID: &str = "level";

#[derive(Serialize, Deserialize)]
struct Held {
    level: FormatLevel,
}

/// Why the level cannot be had, or was not raised.
#[derive(Debug, thiserror::Error)]
pub enum FormatLevelError {
    /// What lies there is none.
    #[error("the record of the cluster's format level cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// The repository cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The repository takes no change; or whether it has taken it is not known.
    #[error(transparent)]
    Commit(CommitError),
}

/// What holds.
///
/// # Errors
/// [`FormatLevelError`].
pub async fn current(store: &dyn Store) -> Result<FormatLevel, FormatLevelError> {
    let Some(record) = store.read(&key()).await? else { return Ok(FormatLevel::FIRST) };
    let held: Held = serde_json::from_slice(&record.value)?;
    Ok(held.level)
}

/// Raises it, unless it is not `from` any more; whether it was.
///
/// # Errors
/// [`FormatLevelError`]; nothing has changed then, except after [`CommitError::Unknown`].
pub async fn raise(
    store: &dyn Store,
    from: FormatLevel,
    to: FormatLevel,
) -> Result<bool, FormatLevelError> {
    let expect = match store.read(&key()).await? {
        Some(record) => {
            let held: Held = serde_json::from_slice(&record.value)?;
            if held.level != from {
                return Ok(false);
            }
            Expect::Version(record.version)
        }
        None if from == FormatLevel::FIRST => Expect::Absent,
        None => return Ok(false),
    };
    let value = serde_json::to_vec(&Held { level: to })?;
    match store.commit(Batch::new().put(key(), expect, value, None)).await {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict { .. }) => Ok(false),
        Err(error) => Err(FormatLevelError::Commit(error)),
    }
}

fn key() -> Key {
    Key::new(SPACE, TAG, ID)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use state::clock::SystemClock;
    use state::engine::fake::FakeStore;

    use super::*;

    fn level(level: u8) -> FormatLevel {
        FormatLevel::new(level).unwrap()
    }

    #[tokio::test]
    async fn it_is_the_first_until_somebody_raises_it_and_only_one_does() {
        let store = FakeStore::new(Arc::new(SystemClock::default()));
        assert_eq!(current(&store).await.unwrap(), FormatLevel::FIRST);
        assert!(!raise(&store, level(2), level(3)).await.unwrap(), "it is not at 2");
        assert!(raise(&store, level(1), level(2)).await.unwrap());
        assert!(!raise(&store, level(1), level(2)).await.unwrap(), "somebody else has");
        assert_eq!(current(&store).await.unwrap(), level(2));
        assert!(raise(&store, level(2), level(3)).await.unwrap());
        assert_eq!(current(&store).await.unwrap(), level(3));
    }

    #[tokio::test]
    async fn what_is_none_is_told_and_not_overwritten() {
        let store = FakeStore::new(Arc::new(SystemClock::default()));
        let batch = Batch::new().put(key(), Expect::Absent, &b"{}"[..], None);
        store.commit(batch).await.unwrap();
        let told = current(&store).await.unwrap_err().to_string();
        assert!(told.contains("level"), "{told}");
        assert!(raise(&store, level(1), level(2)).await.is_err());
    }
}
