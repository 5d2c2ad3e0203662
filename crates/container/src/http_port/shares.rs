//! What one application may take of a container, so that a flood of its requests leaves room for the others' and for calls.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::limits;

/// Of one application; clones share it.
#[derive(Clone)]
pub(super) struct Shares {
    admitted: Arc<Semaphore>,
    streamed: Arc<Semaphore>,
    handled: Arc<Semaphore>,
}

impl Default for Shares {
    fn default() -> Shares {
        Shares {
            admitted: Arc::new(Semaphore::new(limits::ADMITTED_OF_ONE_MAX)),
            streamed: Arc::new(Semaphore::new(limits::STREAMED_OF_ONE_MAX)),
            handled: Arc::new(Semaphore::new(limits::HANDLED_OF_ONE_MAX)),
        }
    }
}

impl Shares {
    /// A place among the requests that are answered, if there is one.
    pub(super) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.admitted).try_acquire_owned().ok()
    }

    /// A place among those without sessions.
    pub(super) fn stream(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streamed).try_acquire_owned().ok()
    }

    /// The turn of a request to be handled; none if it does not come in time.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.handled).acquire_owned();
        timeout(limits::TURN_WAIT_MAX, turn).await.ok()?.ok()
    }
}
