//! What waits for the writing thread: jobs in, groups of them out, with few wake-ups.
//!
//! The writer is woken only while it sleeps, and by a caller that no longer holds the lock: a thread that is woken into a
//! held lock goes to sleep again at once (the standard library's channels do that to each other).
//!
//! Bounds: [`QUEUE_BATCHES_MAX`] batches wait; one more is answered [`StoreError::Busy`] at once.
//! [`GROUP_BATCHES_MAX`] and [`GROUP_BYTES_MAX`] keep a transaction, and with it the lock, short.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::batch::Batch;
use crate::error::StoreError;
use crate::store::CommitOutcome;

/// How many batches may wait for the writer: about half a second of work for it. With fewer, everybody who comes back
/// at once after a failure would be sent away, and come back again.
pub(super) const QUEUE_BATCHES_MAX: usize = 16_384;
const GROUP_BATCHES_MAX: usize = 512;
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Of batches that come together; one with more bytes is a job by itself.
const JOB_BATCHES_MAX: usize = 128;
const JOB_BYTES_MAX: usize = 1 << 20;

/// Batches that came together, at least one.
pub(super) struct Job {
    pub(super) batches: Vec<Batch>,
    bytes: usize,
    pub(super) answer: oneshot::Sender<Vec<CommitOutcome>>,
}

/// What the writer finds.
pub(super) enum Found {
    /// Jobs for one transaction.
    Group(Vec<Job>),
    /// None until the deadline.
    Nothing,
    /// None, and none will come.
    End,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Batches in all of them.
    batches: usize,
    writer_sleeps: bool,
    /// No callers are left.
    callers_gone: bool,
    /// Nobody will work the jobs off.
    writer_gone: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics in the middle of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The callers' end. Dropping it lets the writer finish what is queued and end.
pub(super) struct Queue {
    shared: Arc<Shared>,
}

/// The writer's end. Dropping it drops what is queued: callers hear that the writer has ended.
pub(super) struct Jobs {
    shared: Arc<Shared>,
}

/// An empty queue.
pub(super) fn queue() -> (Queue, Jobs) {
    let shared = Arc::<Shared>::default();
    (Queue { shared: Arc::clone(&shared) }, Jobs { shared })
}

impl Queue {
    /// Queues checked batches, all or none; the receiver gets the outcome of each.
    pub(super) fn send(
        &self,
        batches: Vec<Batch>,
    ) -> Result<oneshot::Receiver<Vec<CommitOutcome>>, StoreError> {
        let bytes = batches.iter().map(Batch::weight).sum();
        let (answer, outcome) = oneshot::channel();
        let mut state = self.shared.state();
        if state.writer_gone {
            return Err(StoreError::Closed);
        }
        if state.batches + batches.len() > QUEUE_BATCHES_MAX {
            return Err(StoreError::Busy { waiting: state.batches });
        }
        state.batches += batches.len();
        state.jobs.push_back(Job { batches, bytes, answer });
        let wakes = std::mem::take(&mut state.writer_sleeps);
        drop(state);
        if wakes {
            self.shared.news.notify_one();
        }
        Ok(outcome)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.state().callers_gone = true;
        self.shared.news.notify_one();
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("batches", &self.shared.state().batches).finish()
    }
}

impl Jobs {
    /// The next jobs, at once if there are any; waits for the first until the deadline.
    pub(super) fn next_group(&self, deadline: Instant) -> Found {
        let mut state = self.shared.state();
        loop {
            if !state.jobs.is_empty() {
                return Found::Group(state.take_group());
            }
            if state.callers_gone {
                return Found::End;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Found::Nothing;
            }
            state.writer_sleeps = true;
            let waited = self.shared.news.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.writer_sleeps = false;
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.writer_gone = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        drop(jobs); // whose callers are told by it, outside the lock
    }
}

impl State {
    fn take_group(&mut self) -> Vec<Job> {
        let (mut batches, mut bytes) = (0, 0);
        let mut group = Vec::new();
        // The last job may reach over the bounds, so they are off by one job at most.
        while batches < GROUP_BATCHES_MAX
            && bytes < GROUP_BYTES_MAX
            && let Some(job) = self.jobs.pop_front()
        {
            batches += job.batches.len();
            bytes += job.bytes;
            group.push(job);
        }
        self.batches -= batches;
        group
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::batch::Expect;
    use crate::key::{Key, Space};

    const DEADLINE: Duration = Duration::from_secs(10);

    fn batches(count: usize) -> Vec<Batch> {
        let key = |id: usize| Key::new(Space::named("test"), "tag", id.to_string());
        (0..count).map(|id| Batch::new().put(key(id), Expect::Any, "value", None)).collect()
    }

    fn group(jobs: &Jobs, deadline: Instant) -> Option<usize> {
        match jobs.next_group(deadline) {
            Found::Group(group) => Some(group.iter().map(|job| job.batches.len()).sum()),
            Found::Nothing | Found::End => None,
        }
    }

    #[test]
    fn jobs_that_wait_come_as_one_group_up_to_its_bound() {
        let (queue, jobs) = queue();
        for _ in 0..6 {
            drop(queue.send(batches(100)).unwrap());
        }
        let now = Instant::now();
        assert_eq!(group(&jobs, now), Some(600), "the last job reaches over the bound");
        for _ in 0..8 {
            drop(queue.send(batches(100)).unwrap());
        }
        assert_eq!(group(&jobs, now), Some(600));
        assert_eq!(group(&jobs, now), Some(200));
        assert_eq!(group(&jobs, now), None);
    }

    #[test]
    fn a_sleeping_writer_is_woken_by_a_job_and_by_the_end() {
        let (queue, jobs) = queue();
        let writer = std::thread::spawn(move || {
            let deadline = Instant::now() + DEADLINE;
            let mut batches = 0;
            loop {
                match jobs.next_group(deadline) {
                    Found::Group(group) => {
                        for job in group {
                            batches += job.batches.len();
                            job.answer.send(Vec::new()).unwrap();
                        }
                    }
                    Found::Nothing => return Err(batches),
                    Found::End => return Ok(batches),
                }
            }
        });
        for _ in 0..1_000 {
            // Answered before the next is sent: the writer sleeps, or is about to, each time.
            queue.send(batches(1)).unwrap().blocking_recv().unwrap();
        }
        drop(queue);
        assert_eq!(writer.join().unwrap(), Ok(1_000));
    }

    #[test]
    fn callers_hear_of_a_writer_that_ended() {
        let (queue, jobs) = queue();
        let waiting = queue.send(batches(1)).unwrap();
        drop(jobs);
        waiting.blocking_recv().unwrap_err();
        assert!(matches!(queue.send(batches(1)), Err(StoreError::Closed)));
    }
}
