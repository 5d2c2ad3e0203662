//! Group commit: one thread per open environment writes for everybody in the process.
//!
//! Callers queue their batches; the thread takes all that wait, up to a bound, into one LMDB transaction. Each
//! batch is checked by itself against what the ones before it left, so a conflict fails that batch only. After the
//! commit every caller is answered. Between groups the thread sweeps ended lifetimes.
//!
//! Bounds: [`QUEUE_BATCHES_MAX`] batches wait; one more is answered [`StoreError::Busy`] at once.
//! [`GROUP_BATCHES_MAX`] and [`GROUP_BYTES_MAX`] keep a transaction, and with it the lock, short.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::warn;

use super::apply::{Refused, Work, apply};
use super::expiry::{self, SWEEP_RECORDS_MAX};
use super::lock::LockPhase;
use super::open_store::OpenStore;
use crate::batch::Batch;
use crate::error::{CommitError, StoreError};
use crate::record::Version;
use crate::store::CommitOutcome;

/// How many batches may wait for the writer: about half a second of work for it. With fewer, everybody who comes back
/// at once after a failure would be sent away, and come back again.
pub(super) const QUEUE_BATCHES_MAX: usize = 16_384;
const GROUP_BATCHES_MAX: usize = 512;
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Of batches that come together; one with more bytes is a job by itself.
const JOB_BATCHES_MAX: usize = 128;
const JOB_BYTES_MAX: usize = 1 << 20;

/// Growth of the file, in pages, after which the keeper is asked to look for dead readers: they may be the cause.
const GROWTH_SUSPICIOUS: usize = 1_024;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between two sweeps while more is due: callers go first.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// Batches that came together, at least one.
struct Job {
    batches: Vec<Batch>,
    answer: oneshot::Sender<Vec<CommitOutcome>>,
}

/// The callers' end. Dropping it lets the writer finish what is queued and end.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
}

/// The writer's end.
pub(super) struct Writer {
    shared: Arc<OpenStore>,
    jobs: Receiver<Job>,
    waiting: Arc<AtomicUsize>,
    sweep_at: Instant,
    /// How many pages the file had when the keeper was last asked to look for dead readers.
    pages: usize,
    work: Work,
}

impl Queue {
    /// Queues checked batches, all or none; the receiver gets the outcome of each.
    pub(super) fn send(
        &self,
        batches: Vec<Batch>,
    ) -> Result<oneshot::Receiver<Vec<CommitOutcome>>, StoreError> {
        let count = batches.len();
        let waiting = self.waiting.fetch_add(count, Ordering::Relaxed);
        if waiting + count > QUEUE_BATCHES_MAX {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            return Err(StoreError::Busy { waiting });
        }
        let (answer, outcome) = oneshot::channel();
        match self.jobs.try_send(Job { batches, answer }) {
            Ok(()) => Ok(outcome),
            Err(refused) => {
                let waiting = self.waiting.fetch_sub(count, Ordering::Relaxed) - count;
                match refused {
                    TrySendError::Full(_) => Err(StoreError::Busy { waiting }),
                    TrySendError::Disconnected(_) => Err(StoreError::Closed),
                }
            }
        }
    }
}

pub(super) fn writer(shared: Arc<OpenStore>) -> (Queue, Writer) {
    let (send, receive) = sync_channel(QUEUE_BATCHES_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    let queue = Queue { jobs: send, waiting: Arc::clone(&waiting) };
    let writer = Writer {
        shared,
        jobs: receive,
        waiting,
        sweep_at: Instant::now(),
        pages: 0,
        work: Work::default(),
    };
    (queue, writer)
}

/// Cuts batches that came together so that each job is a small part of a group.
pub(super) fn jobs(batches: Vec<Batch>) -> impl Iterator<Item = Vec<Batch>> {
    let mut left = batches.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut job = vec![left.next()?];
        let mut bytes = job[0].weight();
        while job.len() < JOB_BATCHES_MAX
            && let Some(batch) = left.next_if(|batch| bytes + batch.weight() <= JOB_BYTES_MAX)
        {
            bytes += batch.weight();
            job.push(batch);
        }
        Some(job)
    })
}

impl Job {
    fn weight(&self) -> usize {
        self.batches.iter().map(Batch::weight).sum()
    }
}

impl Writer {
    /// Works until the [`Queue`] is dropped and empty.
    pub(super) fn run(mut self) {
        loop {
            let until_sweep = self.sweep_at.saturating_duration_since(Instant::now());
            match self.jobs.recv_timeout(until_sweep) {
                Ok(first) => {
                    let group = self.group(first);
                    self.write(group);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= self.sweep_at {
                let pause = self.sweep();
                self.sweep_at = Instant::now() + pause;
            }
        }
    }

    fn group(&self, first: Job) -> Vec<Job> {
        let (mut count, mut bytes) = (first.batches.len(), first.weight());
        let mut group = vec![first];
        // The last job may reach over the bounds, so they are off by one job at most.
        while count < GROUP_BATCHES_MAX && bytes < GROUP_BYTES_MAX {
            match self.jobs.try_recv() {
                Ok(job) => {
                    count += job.batches.len();
                    bytes += job.weight();
                    group.push(job);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        group
    }

    fn write(&mut self, group: Vec<Job>) {
        let batches: Vec<&Batch> = group.iter().flat_map(|job| &job.batches).collect();
        let outcomes = match self.commit(&batches) {
            Ok(outcomes) => outcomes,
            // Nothing was applied. One batch may have been too much for the rest: each gets its own try.
            Err(CommitError::Store(StoreError::MapFull { .. })) if batches.len() > 1 => {
                batches.iter().map(|batch| self.commit(&[batch])?.remove(0)).collect()
            }
            Err(error) => vec![Err(error); batches.len()],
        };
        let mut outcomes = outcomes.into_iter();
        for job in group {
            // A caller that no longer waits is fine: dropping the future does not take the commit back.
            let _ = job.answer.send(outcomes.by_ref().take(job.batches.len()).collect());
        }
    }

    /// One transaction; the outcome of each batch.
    ///
    /// # Errors
    /// What every batch of the group is answered: the transaction failed as a whole.
    fn commit(&mut self, batches: &[&Batch]) -> Result<Vec<CommitOutcome>, CommitError> {
        let shared = Arc::clone(&self.shared);
        let environment = &shared.environment;
        let turn = shared.take_turn()?;
        let mut txn = environment.write()?;
        let before = environment.last_version(&txn)?;
        let now = shared.options.clock.now();
        let mut last = before;
        self.work.tally = environment.tally(&txn)?;
        let mut outcomes = Vec::with_capacity(batches.len());
        for batch in batches {
            let version = Version(last + 1);
            match apply(environment, &mut txn, batch, version, now, &mut self.work) {
                Ok(()) => {
                    last = version.0;
                    outcomes.push(Ok(vec![version; batch.writes.len()]));
                }
                Err(Refused::Batch(error)) => outcomes.push(Err(error)),
                Err(Refused::Transaction(source)) => {
                    return Err(environment.error("write", source).into());
                }
            }
        }
        if last == before {
            return Ok(outcomes); // only conflicts: nothing to commit
        }
        environment.set_last_version(&mut txn, last)?;
        environment.set_tally(&mut txn, &self.work.tally)?;
        shared.probe(LockPhase::Committing);
        txn.commit().map_err(|source| match environment.error("commit", source) {
            // LMDB gives these up before it touches the page that makes a commit visible.
            error @ (StoreError::MapFull { .. } | StoreError::DiskFull { .. }) => {
                CommitError::Store(error)
            }
            error => {
                warn!(%error, "a commit failed half-way");
                CommitError::Unknown { reason: "the store failed while it committed" }
            }
        })?;
        shared.probe(LockPhase::Committed);
        drop(turn);
        shared.probe(LockPhase::Released);
        self.suspect_growth();
        Ok(outcomes)
    }

    fn suspect_growth(&mut self) {
        let pages = self.shared.environment.pages();
        if pages >= self.pages + GROWTH_SUSPICIOUS {
            self.pages = pages;
            self.shared.notify(|notices| notices.has_grown = true);
        }
    }

    /// Returns how long to wait until the next sweep.
    fn sweep(&self) -> Duration {
        match self.sweep_due() {
            Ok(swept) if swept < SWEEP_RECORDS_MAX => SWEEP_INTERVAL,
            Ok(_) => SWEEP_PAUSE,
            Err(error) => {
                warn!(%error, "ended lifetimes could not be swept");
                SWEEP_INTERVAL
            }
        }
    }

    fn sweep_due(&self) -> Result<usize, StoreError> {
        let shared = &self.shared;
        let environment = &shared.environment;
        let now = shared.options.clock.now();
        // Looked at without the lock first: usually nothing is due, or another process has swept.
        if !expiry::is_due(environment, now)? {
            return Ok(0);
        }
        let _turn = shared.take_turn()?;
        let mut txn = environment.write()?;
        let failed = |source| environment.error("sweep ended lifetimes", source);
        let mut tally = environment.tally(&txn)?;
        let swept = expiry::sweep(environment, &mut txn, now, &mut tally).map_err(failed)?;
        environment.set_tally(&mut txn, &tally)?;
        txn.commit().map_err(failed)?;
        Ok(swept)
    }
}
