//! What an edge finds out about containers and tells the manager: who answers nothing, and who does again.
//!
//! Each worker has a link of its own to a container and judges by that; to the manager they are one edge.
//! A container is found unresponsive as long as one worker says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use topology::{Incarnation, ProcessName};

/// Something that the manager shall know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The container answers neither probes nor messages. Said again at every heartbeat interval while it
    /// lasts: a manager that was replaced meanwhile has not heard it.
    Unresponsive {
        /// The container.
        name: ProcessName,
        /// Its life.
        incarnation: Incarnation,
    },
    /// It answers all workers again.
    Responsive {
        /// The container.
        name: ProcessName,
        /// Its life.
        incarnation: Incarnation,
    },
}

/// Whom to tell; called by the workers, so it must not block.
#[derive(Clone)]
pub struct OnFinding(Arc<dyn Fn(Finding) + Send + Sync>);

impl OnFinding {
    /// Tells by this function.
    pub fn new(tell: impl Fn(Finding) + Send + Sync + 'static) -> OnFinding {
        OnFinding(Arc::new(tell))
    }
}

impl fmt::Debug for OnFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnFinding").finish_non_exhaustive()
    }
}

/// The findings of all workers. Not on a message's way: the lock is taken when something is found.
#[derive(Debug)]
pub(super) struct Findings {
    tell: OnFinding,
    complaints: Mutex<Complaints>,
}

impl Findings {
    pub(super) fn new(tell: OnFinding) -> Findings {
        Findings { tell, complaints: Mutex::default() }
    }

    pub(super) fn unresponsive(&self, worker: u16, name: &ProcessName, incarnation: Incarnation) {
        self.complaints().complain(worker, name, incarnation);
        (self.tell.0)(Finding::Unresponsive { name: name.clone(), incarnation });
    }

    pub(super) fn responsive(&self, worker: u16, name: &ProcessName, incarnation: Incarnation) {
        if self.complaints().withdraw(worker, name, incarnation) {
            (self.tell.0)(Finding::Responsive { name: name.clone(), incarnation });
        }
    }

    fn complaints(&self) -> std::sync::MutexGuard<'_, Complaints> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which workers complain of which life. One life of a name at a time, so bounded by containers and workers.
#[derive(Debug, Default)]
struct Complaints(BTreeMap<ProcessName, (Incarnation, BTreeSet<u16>)>);

impl Complaints {
    fn complain(&mut self, worker: u16, name: &ProcessName, incarnation: Incarnation) {
        let (life, workers) = self.0.entry(name.clone()).or_default();
        if *life < incarnation {
            (*life, *workers) = (incarnation, BTreeSet::new());
        }
        if *life == incarnation {
            workers.insert(worker);
        }
    }

    /// Whether that was the last complaint of that life.
    fn withdraw(&mut self, worker: u16, name: &ProcessName, incarnation: Incarnation) -> bool {
        let Some((life, workers)) = self.0.get_mut(name) else { return false };
        *life == incarnation && workers.remove(&worker) && workers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_responsive_when_the_last_worker_says_so() {
        let (name, life) = (ProcessName::new("container1"), Incarnation(7));
        let mut complaints = Complaints::default();
        assert!(!complaints.withdraw(0, &name, life), "nobody complained");
        complaints.complain(0, &name, life);
        complaints.complain(0, &name, life);
        complaints.complain(1, &name, life);
        assert!(!complaints.withdraw(0, &name, life), "worker 1 still complains");
        assert!(!complaints.withdraw(0, &name, life), "it did so already");
        assert!(complaints.withdraw(1, &name, life));
    }

    #[test]
    fn complaints_of_a_former_life_end_with_it() {
        let name = ProcessName::new("container1");
        let mut complaints = Complaints::default();
        complaints.complain(0, &name, Incarnation(7));
        complaints.complain(1, &name, Incarnation(8));
        complaints.complain(0, &name, Incarnation(7)); // a worker that has not heard of it yet
        assert!(!complaints.withdraw(0, &name, Incarnation(7)));
        assert!(complaints.withdraw(1, &name, Incarnation(8)), "nobody else complains of that one");
    }
}
