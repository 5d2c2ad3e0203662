//! Watches: changes found by comparing versions.
//!
//! LMDB tells nobody of changes, so the keeper looks at the number of the last transaction (a few nanoseconds, every
//! 20 ms, only while somebody watches). When it has moved, each watched prefix is listed and compared with what the
//! watcher was last told. That costs the more the more is watched: a watch holds at most [`WATCH_RECORDS_MAX`] records,
//! and the pause until the next look is at least ten times what the last one took. Meant for narrow prefixes; work
//! per call does not go through here.

use std::collections::BTreeMap;

use tokio::sync::mpsc::{self, error::TrySendError};

use super::environment::Environment;
use super::reads::{to_record, visit};
use crate::error::StoreError;
use crate::key::{Key, Prefix, Space};
use crate::record::Version;
use crate::time::UnixMillis;
use crate::watch::{Event, Watch};

/// The most records a watch may cover; more end it with [`StoreError::WatchTooWide`].
pub(super) const WATCH_RECORDS_MAX: usize = 10_000;
/// How many events wait for a slow watcher; further changes are merged until there is room.
const EVENTS_MAX: usize = 1_024;

/// What one watcher was told.
#[derive(Debug)]
pub(super) struct Watched {
    space: Space,
    prefix: Prefix,
    told: BTreeMap<Vec<u8>, Told>,
    events: mpsc::Sender<Result<Event, StoreError>>,
    look: u64,
    /// The last transaction whose state was compared in full.
    compared: Option<usize>,
}

#[derive(Debug)]
struct Told {
    key: Key,
    version: Version,
    /// The last look that found the record.
    look: u64,
}

impl Watched {
    /// Starts from the records as they are: only later changes are told.
    pub(super) fn start(
        environment: &Environment,
        space: &Space,
        prefix: &Prefix,
        now: UnixMillis,
    ) -> Result<(Self, Watch), StoreError> {
        let (send, receive) = mpsc::channel(EVENTS_MAX);
        let mut told = BTreeMap::new();
        let compared = visit(environment, space, prefix, None, &mut |filed, key, record| {
            if !record.is_expired(now) {
                told.insert(filed.to_vec(), Told { key, version: record.version, look: 0 });
            }
            told.len() <= WATCH_RECORDS_MAX
        })?;
        let (space, prefix) = (space.clone(), prefix.clone());
        let watched = Self { space, prefix, told, events: send, look: 0, compared: Some(compared) };
        if watched.told.len() > WATCH_RECORDS_MAX {
            return Err(watched.too_wide());
        }
        Ok((watched, Watch::new(receive)))
    }

    /// Tells what has changed. `false`: the watch is over.
    pub(super) fn look(&mut self, environment: &Environment, now: UnixMillis) -> bool {
        if self.events.is_closed() {
            return false;
        }
        if self.compared == Some(environment.last_transaction()) {
            return true;
        }
        match self.compare(environment, now) {
            Ok(compared) => {
                self.compared = compared;
                true
            }
            Err(error) => {
                // If even this does not fit, the watcher gets `Closed` after the events that wait.
                let _ = self.events.try_send(Err(error));
                false
            }
        }
    }

    /// The transaction whose state was compared, by the reader's own number: while a commit reaches the disk, it is
    /// the last one already, but no reader sees it yet. `None`: not all fitted into the channel, the next look finds
    /// the rest.
    fn compare(
        &mut self,
        environment: &Environment,
        now: UnixMillis,
    ) -> Result<Option<usize>, StoreError> {
        self.look += 1;
        let Self { space, prefix, told, events, look, .. } = self;
        let mut all_told = true;
        let seen = visit(environment, space, prefix, None, &mut |filed, key, record| {
            if record.is_expired(now) {
                return true;
            }
            if let Some(known) = told.get_mut(filed) {
                known.look = *look;
                if known.version == record.version {
                    return true;
                }
            }
            if tell(events, Event::Put { key: key.clone(), record: to_record(record) }) {
                told.insert(filed.to_vec(), Told { key, version: record.version, look: *look });
            } else {
                all_told = false;
            }
            told.len() <= WATCH_RECORDS_MAX
        })?;
        if told.len() > WATCH_RECORDS_MAX {
            return Err(self.too_wide());
        }
        told.retain(|_, known| {
            let keep =
                known.look == *look || !tell(events, Event::Deleted { key: known.key.clone() });
            all_told &= known.look == *look || !keep;
            keep
        });
        Ok(all_told.then_some(seen))
    }

    fn too_wide(&self) -> StoreError {
        StoreError::WatchTooWide { space: self.space.to_string(), limit: WATCH_RECORDS_MAX }
    }
}

/// Whether there was room.
fn tell(events: &mpsc::Sender<Result<Event, StoreError>>, event: Event) -> bool {
    match events.try_send(Ok(event)) {
        // Nobody listens any more: the next look ends the watch.
        Ok(()) | Err(TrySendError::Closed(_)) => true,
        Err(TrySendError::Full(_)) => false,
    }
}
