//! Group commit: one thread per open environment writes for everybody in the process.
//!
//! Callers queue their batches; the thread takes all that wait, up to a bound, into one LMDB transaction. Each
//! batch is checked by itself against what the ones before it left, so a conflict fails that batch only. After the
//! commit every caller is answered. Between groups the thread sweeps ended lifetimes.
//!
//! Bounds: those of the [queue](super::queue).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::apply::{Refused, Work, apply};
use super::expiry::{self, SWEEP_TIME_MAX, Swept};
use super::growth::Growth;
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
/// While more is due, the next step follows after so many times what the last one took: callers go first, and all
/// else that runs on the machine.
const SWEEP_PAUSE_FACTOR: u32 = 4;
const SWEEP_PAUSE_MIN: Duration = Duration::from_millis(2);
/// A step may have waited for the lock, or for the processor: more is due then, not less.
const SWEEP_PAUSE_MAX: Duration = Duration::from_millis(10);
/// What has been due for longer is swept with the shortest pauses, so that the store does not fill up.
const SWEEP_LATE: Duration = Duration::from_secs(60);

/// The writing thread.
pub(super) struct Writer {
    shared: Arc<OpenStore>,
    jobs: Jobs,
    sweep_at: Instant,
    /// How many pages the file had when the keeper was last asked to look for dead readers.
    pages: usize,
    /// `None`: LMDB makes the file longer.
    growth: Option<Growth>,
    work: Work,
}

pub(super) fn writer(shared: Arc<OpenStore>) -> (Queue, Writer) {
    let (queue, jobs) = queue();
    let work = Work::default();
    let growth = Growth::of(&shared.environment);
    let growth = growth.inspect_err(|error| debug!(%error, "the file grows by itself")).ok();
    (queue, Writer { shared, jobs, sweep_at: Instant::now(), pages: 0, growth, work })
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
        if let Some(growth) = &mut self.growth {
            growth.keep_ahead(environment.pages() as u64);
        }
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

    /// Returns how long to wait until the next step of a sweep.
    fn sweep(&self) -> Duration {
        let began = Instant::now();
        match self.sweep_due() {
            Ok(None) => SWEEP_INTERVAL,
            Ok(Some(due_for)) if due_for > SWEEP_LATE => SWEEP_PAUSE_MIN,
            Ok(Some(_)) => {
                (began.elapsed() * SWEEP_PAUSE_FACTOR).clamp(SWEEP_PAUSE_MIN, SWEEP_PAUSE_MAX)
            }
            Err(error) => {
                warn!(%error, "ended lifetimes could not be swept");
                SWEEP_INTERVAL
            }
        }
    }

    /// One step; for how long that has been due which is left, if any is.
    fn sweep_due(&self) -> Result<Option<Duration>, StoreError> {
        let shared = &self.shared;
        let environment = &shared.environment;
        let now = shared.options.clock.now();
        // Looked at without the lock first: usually nothing is due, or another process has swept.
        if !expiry::is_due(environment, now)? {
            return Ok(None);
        }
        let _turn = shared.take_turn()?;
        let began = Instant::now();
        let mut txn = environment.write()?;
        let failed = |source| environment.error("sweep ended lifetimes", source);
        let mut tally = environment.tally(&txn)?;
        let mut goes_on = || began.elapsed() < SWEEP_TIME_MAX;
        let swept = expiry::sweep(environment, &mut txn, now, &mut tally, &mut goes_on);
        let Swept { last_due, is_all } = swept.map_err(failed)?;
        environment.set_tally(&mut txn, &tally)?;
        txn.commit().map_err(failed)?;
        Ok((!is_all).then(|| now.saturating_since(last_due)))
    }
}
