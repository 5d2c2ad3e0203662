//! What the manager is told of an edge's workers: that each of them goes round, and how many streams they have open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use topology::server::Pulse;

/// The signs of life of a running edge; clones show the same edge.
#[derive(Clone, Debug)]
pub struct Vitals(Arc<[WorkerVitals]>);

#[derive(Debug, Default)]
struct WorkerVitals {
    pulse: Pulse,
    streams: AtomicU64,
}

impl Vitals {
    pub(super) fn new(workers: u16) -> Vitals {
        Vitals((0..workers).map(|_| WorkerVitals::default()).collect())
    }

    /// One of each worker: the edge lives while all of them advance.
    pub fn pulses(&self) -> Vec<Pulse> {
        self.0.iter().map(|worker| worker.pulse.clone()).collect()
    }

    /// Open streams of all workers: what a drain waits for.
    pub fn streams(&self) -> u64 {
        self.0.iter().map(|worker| worker.streams.load(Ordering::Relaxed)).sum()
    }

    /// A worker went round once more.
    pub(super) fn went_round(&self, worker: u16, streams: usize) {
        let vitals = &self.0[usize::from(worker)];
        vitals.pulse.count();
        vitals.streams.store(streams as u64, Ordering::Relaxed);
    }
}
