//! A fault for tests: what comes by links and the ends of jobs are worked off no more, while heartbeats and
//! commands go on. What a deadlock on the way of messages would look like from outside.
//!
//! Nothing is lost by it: frames stay in their sockets, in order, and jobs stay where they were. In a build
//! without the feature `faults` nothing can set it.

/// Whether SIP stands still.
#[derive(Debug, Default)]
pub(super) struct Wedge {
    #[cfg(feature = "faults")]
    is_set: bool,
}

impl Wedge {
    #[cfg(feature = "faults")]
    pub(super) fn set(&mut self) {
        self.is_set = true;
    }

    #[cfg(feature = "faults")]
    pub(super) fn is_set(&self) -> bool {
        self.is_set
    }

    #[cfg(not(feature = "faults"))]
    pub(super) fn is_set(&self) -> bool {
        false
    }
}
