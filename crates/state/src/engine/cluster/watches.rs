//! Watches: changes found by comparing versions, as in the embedded engine.
//!
//! Redis tells of changed keys, but forgets what it has told nobody of while a connection was lost. So each watch lists
//! the headers of its records again and again and compares them with what its watcher was last told; records that changed
//! are read. The pause until the next look is at least twenty times what the last one took. Meant for narrow prefixes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::debug;

use super::routes::Shared;
use super::scan::{Want, scan};
use crate::error::StoreError;
use crate::key::{Key, Prefix, Space};
use crate::record::Version;
use crate::watch::{Event, Watch};

/// The most records a watch may cover; more end it with [`StoreError::WatchTooWide`].
const WATCH_RECORDS_MAX: usize = 10_000;
/// How many events wait for a slow watcher; further changes are merged until there is room.
const EVENTS_MAX: usize = 1_024;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_FACTOR: u32 = 20;

struct Watched {
    space: Space,
    prefix: Prefix,
    told: BTreeMap<Key, Version>,
    events: mpsc::Sender<Result<Event, StoreError>>,
}

/// Starts from the records as they are.
pub(super) async fn start(
    shared: Arc<Shared>,
    space: Space,
    prefix: Prefix,
) -> Result<Watch, StoreError> {
    let (events, receive) = mpsc::channel(EVENTS_MAX);
    let mut watched = Watched { space, prefix, told: BTreeMap::new(), events };
    watched.told = watched.list(&shared).await?;
    let runtime = shared.runtime.clone();
    runtime.spawn(watched.run(shared));
    Ok(Watch::new(receive))
}

impl Watched {
    async fn run(mut self, shared: Arc<Shared>) {
        let mut pause = PAUSE_MIN;
        loop {
            tokio::select! {
                () = self.events.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let began = Instant::now();
            match self.look(&shared).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => {
                    debug!(space = %self.space, %error, "a watch could not look; it tries again");
                }
                Err(error) => {
                    // If even this does not fit, the watcher gets `Closed` after the events that wait.
                    let _ = self.events.try_send(Err(error));
                    return;
                }
            }
            pause = PAUSE_MIN.max(began.elapsed() * PAUSE_FACTOR);
        }
    }

    async fn list(&self, shared: &Arc<Shared>) -> Result<BTreeMap<Key, Version>, StoreError> {
        let mut all = BTreeMap::new();
        loop {
            let after = all.last_key_value().map(|(key, _)| key);
            let room = WATCH_RECORDS_MAX + 1 - all.len();
            let page = scan(shared, &self.space, &self.prefix, after, room, Want::Header).await?;
            let is_last = page.len() < room;
            all.extend(page.into_iter().map(|(key, record)| (key, record.version)));
            if all.len() > WATCH_RECORDS_MAX {
                let space = self.space.to_string();
                return Err(StoreError::WatchTooWide { space, limit: WATCH_RECORDS_MAX });
            }
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Tells what has changed; what does not fit is found by the next look.
    async fn look(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        let now = self.list(shared).await?;
        for (key, version) in &now {
            if self.told.get(key) == Some(version) {
                continue;
            }
            // Gone again: then it is told as deleted, if it was told of before.
            let Some(record) = super::read(shared, key).await? else { continue };
            let version = record.version;
            if !self.tell(Event::Put { key: key.clone(), record }) {
                return Ok(());
            }
            self.told.insert(key.clone(), version);
        }
        let gone: Vec<Key> =
            self.told.keys().filter(|key| !now.contains_key(key)).cloned().collect();
        for key in gone {
            if !self.tell(Event::Deleted { key: key.clone() }) {
                return Ok(());
            }
            self.told.remove(&key);
        }
        Ok(())
    }

    /// Whether there was room.
    fn tell(&self, event: Event) -> bool {
        match self.events.try_send(Ok(event)) {
            // Nobody listens any more: the next turn ends the watch.
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(_)) => false,
        }
    }
}
