//! An engine in memory that fails on demand, for the tests of whoever uses a store.
//!
//! It keeps the whole contract of [`Store`] otherwise. Faults are queued and used up one by one: each commit (or
//! read) takes the next fault of its kind. Deliberately absent: threads, files, and bounds on what it holds.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::batch::{Batch, Change, Expect};
use crate::carry::Whole;
use crate::clock::{Clock, SystemClock};
use crate::error::{CommitError, StoreError};
use crate::key::{Key, Prefix, Space};
use crate::record::{Record, Version};
use crate::store::{BoxFuture, SCAN_RECORDS_MAX, Store};
use crate::time::UnixMillis;
use crate::watch::{Event, Watch};

/// How many events wait for a watcher; a slower one is ended (its next event is [`StoreError::Closed`]).
const EVENTS_MAX: usize = 16_384;

/// What goes wrong with a commit.
#[derive(Debug)]
pub enum CommitFault {
    /// It fails and changes nothing.
    Fails(StoreError),
    /// It is applied, but the caller is told [`CommitError::Unknown`].
    AppliedButUnknown,
    /// It is not applied, and the caller is told [`CommitError::Unknown`].
    LostAndUnknown,
    /// Its first write meets a conflict that is no longer there on the next read.
    Conflicts,
    /// It waits until the [`Hold`] is dropped, then goes on.
    Waits(oneshot::Receiver<()>),
}

/// Holds a commit back until it is dropped.
#[derive(Debug)]
pub struct Hold {
    _release: oneshot::Sender<()>,
}

/// The engine. Cheap to clone; clones share what they hold.
#[derive(Clone, Debug)]
pub struct FakeStore {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<Key, Record>,
    last_version: u64,
    commits: usize,
    watchers: Vec<Watcher>,
    commit_faults: VecDeque<CommitFault>,
    read_faults: VecDeque<StoreError>,
}

#[derive(Debug)]
struct Watcher {
    space: Space,
    prefix: Prefix,
    events: mpsc::Sender<Result<Event, StoreError>>,
}

impl Default for FakeStore {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock::default()))
    }
}

impl FakeStore {
    /// An empty store whose lifetimes end by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Arc::default() }
    }

    /// Queues a fault for the next commit that has none yet.
    pub fn inject_commit_fault(&self, fault: CommitFault) {
        self.state().commit_faults.push_back(fault);
    }

    /// Queues a [`CommitFault::Waits`]; the commit goes on when the returned value is dropped.
    #[must_use]
    pub fn hold_next_commit(&self) -> Hold {
        let (release, released) = oneshot::channel();
        self.inject_commit_fault(CommitFault::Waits(released));
        Hold { _release: release }
    }

    /// Queues a failure for the next read or scan that has none yet.
    pub fn inject_read_fault(&self, error: StoreError) {
        self.state().read_faults.push_back(error);
    }

    /// How many batches were applied.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.state().commits
    }

    /// How many records there are, expired ones that were not looked at since included.
    #[must_use]
    pub fn records(&self) -> usize {
        self.state().records.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with all lifetimes ended that are over, and the next read fault used up.
    fn state_for_read(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state();
        state.sweep(self.clock.now());
        state.read_faults.pop_front().map_or(Ok(state), Err)
    }

    fn apply(&self, batch: Batch) -> Result<Vec<Version>, CommitError> {
        let mut state = self.state();
        state.sweep(self.clock.now());
        state.apply(batch, self.clock.now())
    }

    async fn commit_with(
        &self,
        batch: Batch,
        fault: Option<CommitFault>,
    ) -> Result<Vec<Version>, CommitError> {
        batch.check()?;
        match fault {
            None => self.apply(batch),
            Some(CommitFault::Fails(error)) => Err(error.into()),
            Some(CommitFault::AppliedButUnknown) => {
                self.apply(batch)?;
                Err(CommitError::Unknown { reason: "injected after it was applied" })
            }
            Some(CommitFault::LostAndUnknown) => {
                Err(CommitError::Unknown { reason: "injected before it was applied" })
            }
            Some(CommitFault::Conflicts) => match batch.writes.into_iter().next() {
                Some(write) => Err(CommitError::Conflict { key: Box::new(write.key), found: None }),
                None => Ok(Vec::new()),
            },
            Some(CommitFault::Waits(released)) => {
                // The hold never sends: it is over when its sender is gone.
                let _ = released.await;
                self.apply(batch)
            }
        }
    }
}

impl State {
    fn apply(&mut self, batch: Batch, now: UnixMillis) -> Result<Vec<Version>, CommitError> {
        for write in &batch.writes {
            let found = self.records.get(&write.key).map(|record| record.version);
            let holds = match write.expect {
                Expect::Any => true,
                Expect::Absent => found.is_none(),
                Expect::Version(version) => found == Some(version),
            };
            if !holds {
                return Err(CommitError::Conflict { key: Box::new(write.key.clone()), found });
            }
        }
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        self.last_version += 1;
        self.commits += 1;
        let version = Version(self.last_version);
        let versions = vec![version; batch.writes.len()];
        for write in batch.writes {
            match write.change {
                Change::Put { value, expires_at } => {
                    let record = Record { version, value, expires_at };
                    let expired = record.is_expired(now);
                    self.records.insert(write.key.clone(), record.clone());
                    if !expired {
                        self.tell(&Event::Put { key: write.key, record });
                    }
                }
                Change::Delete => self.remove(write.key),
            }
        }
        Ok(versions)
    }

    fn sweep(&mut self, now: UnixMillis) {
        let expired = self.records.iter().filter(|(_, record)| record.is_expired(now));
        let expired: Vec<Key> = expired.map(|(key, _)| key.clone()).collect();
        for key in expired {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        if self.records.remove(&key).is_some() {
            self.tell(&Event::Deleted { key });
        }
    }

    fn tell(&mut self, event: &Event) {
        let (Event::Put { key, .. } | Event::Deleted { key }) = event;
        self.watchers.retain(|watcher| {
            let concerned = watcher.space == key.space && watcher.prefix.matches(key);
            !concerned || watcher.events.try_send(Ok(event.clone())).is_ok()
        });
    }
}

impl Whole for FakeStore {
    fn page<'a>(
        &'a self,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>> {
        Box::pin(async move {
            let state = self.state_for_read()?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let all = state.records.range((from, Bound::Unbounded));
            Ok(all.take(limit).map(|(key, record)| (key.clone(), record.clone())).collect())
        })
    }
}

impl Store for FakeStore {
    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        Box::pin(async move {
            key.check()?;
            Ok(self.state_for_read()?.records.get(key).cloned())
        })
    }

    fn scan<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>> {
        Box::pin(async move {
            let state = self.state_for_read()?;
            let first = Key::new(space.clone(), "", "");
            let from = match after {
                Some(after) if *after >= first => Bound::Excluded(after),
                Some(_) | None => Bound::Included(&first),
            };
            let matching = state
                .records
                .range((from, Bound::Unbounded))
                .take_while(|(key, _)| key.space == *space)
                .filter(|(key, _)| prefix.matches(key));
            let page = matching.take(limit.min(SCAN_RECORDS_MAX));
            Ok(page.map(|(key, record)| (key.clone(), record.clone())).collect())
        })
    }

    fn watch(&self, space: &Space, prefix: &Prefix) -> Result<Watch, StoreError> {
        let (events, receive) = mpsc::channel(EVENTS_MAX);
        let watcher = Watcher { space: space.clone(), prefix: prefix.clone(), events };
        self.state_for_read()?.watchers.push(watcher);
        Ok(Watch::new(receive))
    }

    fn last_commit(&self) -> Option<u64> {
        Some(self.commits() as u64)
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Version>, CommitError>> {
        let fault = self.state().commit_faults.pop_front();
        Box::pin(self.commit_with(batch, fault))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;

    use super::*;

    fn key() -> Key {
        Key::new(Space::named("test"), "tag", "id")
    }

    fn put() -> Batch {
        Batch::new().put(key(), Expect::Any, "value", None)
    }

    fn read(store: &FakeStore) -> Result<Option<Record>, StoreError> {
        store.read(&key()).now_or_never().unwrap()
    }

    fn commit(store: &FakeStore) -> Result<Vec<Version>, CommitError> {
        store.commit(put()).now_or_never().unwrap()
    }

    #[test]
    fn a_failed_commit_changes_nothing_and_is_used_up() {
        let store = FakeStore::default();
        store.inject_commit_fault(CommitFault::Fails(StoreError::Busy { waiting: 7 }));
        assert!(matches!(commit(&store), Err(CommitError::Store(StoreError::Busy { waiting: 7 }))));
        assert_eq!(read(&store).unwrap(), None);
        commit(&store).unwrap();
        assert!(read(&store).unwrap().is_some());
    }

    #[test]
    fn an_unknown_outcome_is_applied_or_lost_as_asked() {
        let store = FakeStore::default();
        store.inject_commit_fault(CommitFault::LostAndUnknown);
        assert!(matches!(commit(&store), Err(CommitError::Unknown { .. })));
        assert_eq!(read(&store).unwrap(), None);
        store.inject_commit_fault(CommitFault::AppliedButUnknown);
        assert!(matches!(commit(&store), Err(CommitError::Unknown { .. })));
        assert!(read(&store).unwrap().is_some());
    }

    #[test]
    fn an_injected_conflict_is_gone_on_retry() {
        let store = FakeStore::default();
        store.inject_commit_fault(CommitFault::Conflicts);
        assert!(matches!(commit(&store), Err(CommitError::Conflict { .. })));
        commit(&store).unwrap();
    }

    #[test]
    fn a_held_commit_applies_when_released() {
        let store = FakeStore::default();
        let hold = store.hold_next_commit();
        let mut held = store.commit(put());
        assert!((&mut held).now_or_never().is_none());
        assert_eq!(read(&store).unwrap(), None);
        drop(hold);
        held.now_or_never().unwrap().unwrap();
        assert!(read(&store).unwrap().is_some());
    }

    #[test]
    fn a_read_fails_once_per_injected_fault() {
        let store = FakeStore::default();
        store.inject_read_fault(StoreError::Closed);
        assert!(matches!(read(&store), Err(StoreError::Closed)));
        assert_eq!(read(&store).unwrap(), None);
    }
}
