//! Makes transactions of batches, one at a time, and finds out what became of each.
//!
//! Each transaction is conditional on what the writer's own note (`c/WRITER`) was before, and writes its id there. So it is
//! applied once at most, however often it is sent, and whoever is in doubt sends it again: either it is done now, or the
//! note says that it was done before. When a condition fails, the transaction makes a mark (`b/WRITER`) and says what it
//! found instead; the copy is up with what it found once the mark has come by. The notes hang on a lease, which ends an
//! hour after the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use state::{Batch, Change, CommitError, CommitOutcome, Key, StoreError, UnixMillis, Version};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::Place;
use super::follower::Following;
use super::layout;
use super::plan::{Found, Plan, plan};
use crate::client::ClientError;
use crate::client::messages::{
    CODE_NOT_FOUND, Compare, Delete, Operation, Put, Range, Txn, TxnResponse,
};
use crate::lock::Fence;

/// How long a batch is tried; a leader that died is followed by another one sooner.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);
/// How long it is tried while nobody has answered for as long as that already.
const AWAY_PATIENCE: Duration = Duration::from_millis(500);
/// How long the copy has to come up with a commit.
const COPY_PATIENCE: Duration = Duration::from_secs(5);
/// How long a round rests.
const PAUSE: Duration = Duration::from_millis(30);
/// How often a batch is decided anew on what was found.
const ATTEMPTS_MAX: usize = 8;
/// A writer follows for so long after its last commit.
const LINGER: Duration = Duration::from_secs(10);
/// The lease of a writer's notes, and how far behind its lifetime a record is swept.
const SWEEP_SECONDS: u64 = 3_600;
/// etcd takes no longer ones.
const LEASE_SECONDS_MAX: u64 = 9_000_000_000;

/// A batch, and who waits for it.
pub(super) struct Job {
    batch: Batch,
    /// Only as long as that lock is held.
    fence: Option<Fence>,
    answer: oneshot::Sender<Reached>,
}

/// What became of a batch, and up to where the copy must be before it is told.
pub(super) struct Reached {
    outcome: CommitOutcome,
    revision: i64,
    following: Arc<Following>,
}

impl Job {
    pub(super) fn of(batch: Batch, fence: Option<Fence>) -> (Job, oneshot::Receiver<Reached>) {
        let (answer, outcome) = oneshot::channel();
        (Job { batch, fence, answer }, outcome)
    }
}

impl Reached {
    pub(super) async fn outcome(self) -> CommitOutcome {
        if self.revision > 0
            && timeout(COPY_PATIENCE, self.following.until(self.revision)).await.is_err()
            && self.outcome.is_ok()
        {
            return Err(CommitError::Unknown {
                reason: "it was applied, but this node's copy is not up with it",
            });
        }
        self.outcome
    }
}

/// Works off what comes until nobody is left who could send any.
pub(super) async fn commit_jobs(place: Place, mut jobs: mpsc::Receiver<Job>) {
    let mut writer = Writer::new(place);
    let mut following: Option<Arc<Following>> = None;
    loop {
        let job = match timeout(LINGER, jobs.recv()).await {
            Ok(Some(job)) => job,
            Ok(None) => return,
            Err(_) => {
                following = None;
                match jobs.recv().await {
                    Some(job) => job,
                    None => return,
                }
            }
        };
        let following = following.get_or_insert_with(|| writer.place.following());
        let (outcome, revision) = writer.commit(&job).await;
        let following = Arc::clone(following);
        if let Err(CommitError::Store(error @ StoreError::ChangesRefused { .. })) = &outcome {
            refuse_waiting(&mut jobs, error, &following);
        }
        // Who does not wait any more has asked all the same.
        let _ = job.answer.send(Reached { outcome, revision, following });
    }
}

/// What waits while nobody answers is not tried one by one.
fn refuse_waiting(jobs: &mut mpsc::Receiver<Job>, error: &StoreError, following: &Arc<Following>) {
    while let Ok(job) = jobs.try_recv() {
        let (outcome, following) = (Err(error.clone().into()), Arc::clone(following));
        let _ = job.answer.send(Reached { outcome, revision: 0, following });
    }
}

/// What came of a transaction.
enum Attempt {
    /// By this revision.
    Applied(i64),
    /// Not: this is what was found then.
    Found { revision: i64, known: BTreeMap<Key, Found> },
    /// Not: the lock is another's.
    LockLost,
}

/// Why there is nothing to tell.
enum Failed {
    /// It was not applied.
    Refused(StoreError),
    /// Nobody knows.
    InDoubt,
}

impl From<Failed> for CommitError {
    fn from(failed: Failed) -> CommitError {
        match failed {
            Failed::Refused(error) => error.into(),
            Failed::InDoubt => CommitError::Unknown { reason: "the repository stopped answering" },
        }
    }
}

struct Writer {
    place: Place,
    note: Bytes,
    mark: Bytes,
    /// The change that wrote the note last; zero: there is none.
    noted: i64,
    /// On which the notes hang, and when it began.
    lease: Option<(i64, Instant)>,
}

impl Writer {
    fn new(place: Place) -> Writer {
        let name = format!("{:016x}", u64::from_be_bytes(random()));
        let (note, mark) = (place.layout.commit(&name), place.layout.mark(&name));
        Writer { place, note, mark, noted: 0, lease: None }
    }

    /// The outcome, and the revision that it is of.
    async fn commit(&mut self, job: &Job) -> (CommitOutcome, i64) {
        let patience = match self.place.client.away() {
            Some((since, _)) if since.elapsed().is_ok_and(|away| away > COMMIT_PATIENCE) => {
                AWAY_PATIENCE
            }
            _ => COMMIT_PATIENCE,
        };
        let deadline = Instant::now() + patience;
        let ends = ends(&job.batch);
        let mut leases = BTreeMap::new();
        for end in ends {
            match self.lease_until(end, deadline).await {
                Ok(lease) => leases.insert(end, lease),
                Err(failed) => return (Err(failed.into()), 0),
            };
        }
        let outcome = self.decide(job, &leases, deadline).await;
        // Records that may be there must not go with their leases.
        let may_be_done = matches!(outcome.0, Ok(_) | Err(CommitError::Unknown { .. }));
        if !may_be_done {
            for lease in leases.into_values() {
                // One that stays ends by itself.
                let _ = self.place.client.lease_revoke(lease).await;
            }
        }
        outcome
    }

    async fn decide(
        &mut self,
        job: &Job,
        leases: &BTreeMap<UnixMillis, i64>,
        deadline: Instant,
    ) -> (CommitOutcome, i64) {
        let batch = &job.batch;
        let keys: BTreeSet<&Key> = batch.writes.iter().map(|write| &write.key).collect();
        let mut known = self.copied(&keys).await;
        // The copy may be behind: only what etcd finds is a conflict.
        let mut found_at = None;
        for _ in 0..ATTEMPTS_MAX {
            let conditions = match (plan(batch, &known, self.place.clock.now()), found_at) {
                (Plan::If(conditions), _) => Some(conditions),
                (Plan::Conflict { .. }, None) => None,
                (Plan::Conflict { key, found }, Some(revision)) => {
                    return (Err(CommitError::Conflict { key: Box::new(key), found }), revision);
                }
            };
            match self.attempt(job, conditions, &keys, leases, deadline).await {
                Ok(Attempt::Applied(revision)) => {
                    let version = Version(revision.unsigned_abs());
                    return (Ok(vec![version; batch.writes.len()]), revision);
                }
                Ok(Attempt::Found { revision, known: found }) => {
                    known = found;
                    found_at = Some(revision);
                }
                Ok(Attempt::LockLost) => return (Err(StoreError::LockLost.into()), 0),
                Err(failed) => return (Err(failed.into()), 0),
            }
        }
        (Err(StoreError::Busy { waiting: 0 }.into()), 0)
    }

    /// What the copy knows of these records; those whose lifetime is over, or that cannot be read, it does not show.
    async fn copied(&self, keys: &BTreeSet<&Key>) -> BTreeMap<Key, Found> {
        let mut known = BTreeMap::new();
        for key in keys {
            if let Ok(Some(record)) = self.place.copy.read(key).await {
                let revision = i64::try_from(record.version.0).unwrap_or(i64::MAX);
                known.insert((*key).clone(), Found { revision, expires_at: record.expires_at });
            }
        }
        known
    }

    /// One transaction, sent until it is known what became of it. Without conditions it only looks.
    async fn attempt(
        &mut self,
        job: &Job,
        conditions: Option<Vec<(Key, i64)>>,
        keys: &BTreeSet<&Key>,
        leases: &BTreeMap<UnixMillis, i64>,
        deadline: Instant,
    ) -> Result<Attempt, Failed> {
        let id = Bytes::copy_from_slice(&random::<16>());
        let mut in_doubt = false;
        loop {
            let lease = match self.own_lease(deadline).await {
                Ok(lease) => lease,
                Err(_) if in_doubt => return Err(Failed::InDoubt),
                Err(failed) => return Err(failed),
            };
            let txn = self.transaction(job, conditions.as_deref(), keys, leases, &id, lease);
            match self.place.client.txn(&txn).await {
                Ok(response) => return Ok(self.read(response, job, keys, &id)),
                // One of the leases has ended; whichever: it was ours, or the record's end is far behind.
                Err(ClientError::Refused { code: CODE_NOT_FOUND, .. }) => self.lease = None,
                Err(ClientError::Refused { .. }) if in_doubt => return Err(Failed::InDoubt),
                Err(error @ ClientError::Refused { .. }) => {
                    return Err(Failed::Refused(StoreError::Engine {
                        doing: "change the repository",
                        source: Arc::new(error),
                    }));
                }
                // A retry does not help before the operator does.
                Err(ClientError::NotAdmitted { .. }) if !in_doubt => return Err(self.refused()),
                Err(error) => in_doubt |= error.is_in_doubt(),
            }
            if Instant::now() >= deadline {
                return Err(if in_doubt { Failed::InDoubt } else { self.refused() });
            }
            sleep(PAUSE).await;
        }
    }

    fn refused(&self) -> Failed {
        Failed::Refused(self.place.refusal().unwrap_or(StoreError::Busy { waiting: 1 }))
    }

    fn transaction(
        &self,
        job: &Job,
        conditions: Option<&[(Key, i64)]>,
        keys: &BTreeSet<&Key>,
        leases: &BTreeMap<UnixMillis, i64>,
        id: &Bytes,
        lease: i64,
    ) -> Txn {
        let layout = &self.place.layout;
        // No change has this number.
        let noted = if conditions.is_some() { self.noted } else { -1 };
        let mut compare = vec![Compare::unchanged_since(self.note.clone(), noted)];
        compare.extend(
            conditions
                .unwrap_or_default()
                .iter()
                .map(|(key, revision)| Compare::unchanged_since(layout.record(key), *revision)),
        );
        compare.extend(job.fence.iter().map(Fence::condition));
        let put = |key: &Bytes| Put { key: key.clone(), value: id.clone(), lease };
        let mut success = vec![Operation::Put(put(&self.note))];
        // etcd takes one change of a key; the last write to a record stays.
        let last: BTreeMap<&Key, &Change> =
            job.batch.writes.iter().map(|write| (&write.key, &write.change)).collect();
        success.extend(last.into_iter().map(|(key, change)| {
            let key = layout.record(key);
            match change {
                Change::Put { value, expires_at } => {
                    let lease = expires_at.and_then(|end| leases.get(&end).copied());
                    let value = layout::encode(value, *expires_at);
                    Operation::Put(Put { key, value, lease: lease.unwrap_or_default() })
                }
                Change::Delete => Operation::Delete(Delete { key }),
            }
        }));
        let look = |key: Bytes| Operation::Range(Range { key, ..Range::default() });
        let mut failure = vec![Operation::Put(put(&self.mark)), look(self.note.clone())];
        failure.extend(job.fence.iter().map(Fence::look));
        failure.extend(keys.iter().map(|key| look(layout.record(key))));
        Txn { compare, success, failure }
    }

    /// What a transaction's answer says.
    fn read(
        &mut self,
        response: TxnResponse,
        job: &Job,
        keys: &BTreeSet<&Key>,
        id: &Bytes,
    ) -> Attempt {
        let revision = response.header.revision;
        if response.succeeded {
            self.noted = revision;
            return Attempt::Applied(revision);
        }
        let mut ranges = response.responses.into_iter().filter_map(|answer| answer.response_range);
        let note = ranges.next().and_then(|note| note.kvs.into_iter().next());
        self.noted = note.as_ref().map_or(0, |note| note.mod_revision);
        if note.is_some_and(|note| note.value == *id) {
            return Attempt::Applied(self.noted);
        }
        if let Some(fence) = &job.fence {
            let held = ranges.next().and_then(|held| held.kvs.into_iter().next());
            if !fence.is_held(held.as_ref()) {
                return Attempt::LockLost;
            }
        }
        let mut known = BTreeMap::new();
        for (key, range) in keys.iter().zip(ranges) {
            if let Some(kv) = range.kvs.into_iter().next() {
                let expires_at = layout::decode(&kv.value).ok().and_then(|(_, end)| end);
                known.insert((*key).clone(), Found { revision: kv.mod_revision, expires_at });
            }
        }
        Attempt::Found { revision, known }
    }

    /// The lease of the notes, with more than half of its time left: a note must not end while somebody is in doubt.
    async fn own_lease(&mut self, deadline: Instant) -> Result<i64, Failed> {
        let half = Duration::from_secs(SWEEP_SECONDS / 2);
        if let Some((lease, began)) = self.lease {
            if began.elapsed() < half {
                return Ok(lease);
            }
            let kept = self.place.client.lease_keep_alive(lease, deadline).await;
            if kept.map_err(|error| self.not_leased(error))?.is_some() {
                self.lease = Some((lease, Instant::now()));
                return Ok(lease);
            }
        }
        let granted = self.place.client.lease_grant(SWEEP_SECONDS, deadline).await;
        let granted = granted.map_err(|error| self.not_leased(error))?;
        self.lease = Some((granted.lease, Instant::now()));
        Ok(granted.lease)
    }

    /// A lease that ends an hour behind a record's lifetime.
    async fn lease_until(&self, end: UnixMillis, deadline: Instant) -> Result<i64, Failed> {
        let left = end.saturating_since(self.place.clock.wall()).as_secs();
        let seconds = left.saturating_add(SWEEP_SECONDS).min(LEASE_SECONDS_MAX);
        let granted = self.place.client.lease_grant(seconds, deadline).await;
        Ok(granted.map_err(|error| self.not_leased(error))?.lease)
    }

    fn not_leased(&self, error: ClientError) -> Failed {
        if error.is_transient() || matches!(error, ClientError::NotAdmitted { .. }) {
            return self.refused();
        }
        let source = Arc::new(error);
        Failed::Refused(StoreError::Engine { doing: "have a lease of the repository", source })
    }
}

/// When the records end that the batch writes.
fn ends(batch: &Batch) -> BTreeSet<UnixMillis> {
    let end = |change: &Change| match change {
        Change::Put { expires_at, .. } => *expires_at,
        Change::Delete => None,
    };
    batch.writes.iter().filter_map(|write| end(&write.change)).collect()
}

fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).expect("the system gives random octets");
    octets
}
