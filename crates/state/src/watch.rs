//! News of changed records.

use tokio::sync::mpsc;

use crate::error::StoreError;
use crate::key::Key;
use crate::record::Record;

/// What happened to a record. Several changes in short succession may arrive as the last one only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was created or replaced.
    Put {
        /// Which.
        key: Key,
        /// What it is now.
        record: Record,
    },
    /// It was deleted, or its lifetime ended.
    Deleted {
        /// Which.
        key: Key,
    },
}

/// A stream of events about the records of one prefix. Dropping it ends the watch.
///
/// Bounded: an engine keeps at most a fixed number of events for a slow reader; what does not fit is not
/// lost but merged (the reader later sees the last state only).
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Result<Event, StoreError>>,
}

impl Watch {
    /// For engines: of what they send, the bound of the channel is theirs. An error ends it.
    #[must_use]
    pub fn new(events: mpsc::Receiver<Result<Event, StoreError>>) -> Self {
        Self { events }
    }

    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    /// After an error the watch is over: scan and watch again. [`StoreError::Closed`]: the store was closed.
    /// [`StoreError::WatchTooWide`]: more records match than a watch can hold.
    pub async fn next(&mut self) -> Result<Event, StoreError> {
        self.events.recv().await.unwrap_or(Err(StoreError::Closed))
    }
}
