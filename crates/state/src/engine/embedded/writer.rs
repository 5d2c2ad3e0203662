//! Group commit: one thread per open environment writes for everybody in the process.
//!
//! Callers queue their batches; the thread takes all that wait, up to a bound, into one LMDB transaction. Each
//! batch is checked by itself against what the ones before it left, so a conflict fails that batch only. After the
//! commit every caller is answered. Between groups the thread sweeps ended lifetimes.
//!
//! Bounds: those of the [queue](super::queue).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::apply::{Refused, Work, apply};
use super::expiry::{self, SWEEP_RECORDS_MAX};
use super::lock::LockPhase;
use super::open_store::OpenStore;
use super::queue::{Found, Job, Jobs, Queue, queue};
use crate::batch::Batch;
use crate::error::{CommitError, StoreError};
use crate::record::Version;
use crate::store::CommitOutcome;

/// Growth of the file, in pages, after which the keeper is asked to look for dead readers: they may be the cause.
const GROWTH_SUSPICIOUS: usize = 1_024;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between two sweeps while more is due: callers go first.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// The writing thread.
pub(super) struct Writer {
    shared: Arc<OpenStore>,
    jobs: Jobs,
    sweep_at: Instant,
    /// How many pages the file had when the keeper was last asked to look for dead readers.
    pages: usize,
    work: Work,
}

pub(super) fn writer(shared: Arc<OpenStore>) -> (Queue, Writer) {
    let (queue, jobs) = queue();
    let work = Work::default();
    (queue, Writer { shared, jobs, sweep_at: Instant::now(), pages: 0, work })
}

impl Writer {
    /// Works until the [`Queue`] is dropped and empty.
    pub(super) fn run(mut self) {
        loop {
            match self.jobs.next_group(self.sweep_at) {
                Found::Group(group) => self.write(group),
                Found::Nothing => {}
                Found::End => return,
            }
            if Instant::now() >= self.sweep_at {
                let pause = self.sweep();
                self.sweep_at = Instant::now() + pause;
            }
        }
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
