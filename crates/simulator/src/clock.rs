//! Wall clocks of the node: virtual time plus an offset that faults step, and the production guard that keeps a step
//! from ending lifetimes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use state::UnixMillis;
use state::clock::{Clock, StepGuard};

use crate::schedule::Moment;

/// The wall clock at the beginning of every world: 2026-01-01.
const BEGINNING: UnixMillis = UnixMillis(1_767_225_600_000);

/// The node's wall clock, as every process of it reads it, and as its store ends lifetimes by it.
#[derive(Debug, Clone, Default)]
pub struct NodeClock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    running: Moment,
    ahead: Duration,
    behind: Duration,
    guard: StepGuard,
}

impl NodeClock {
    /// Virtual time has come to `now`.
    pub fn pass(&self, now: Moment) {
        self.with(|state| state.running = now);
    }

    /// Somebody sets the clock forward.
    pub fn step_forward(&self, by: Duration) {
        self.with(|state| state.ahead += by);
    }

    /// Somebody sets the clock back.
    pub fn step_back(&self, by: Duration) {
        self.with(|state| state.behind += by);
    }

    /// What the wall clock shows.
    pub fn wall(&self) -> UnixMillis {
        self.with(|state| wall(state))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn wall(state: &State) -> UnixMillis {
    BEGINNING.saturating_add(state.running + state.ahead).saturating_sub(state.behind)
}

impl Clock for NodeClock {
    fn now(&self) -> UnixMillis {
        self.with(|state| {
            let wall = wall(state);
            state.guard.observe(wall, state.running).0
        })
    }

    fn wall(&self) -> UnixMillis {
        NodeClock::wall(self)
    }
}
